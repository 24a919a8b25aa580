"""A program that has to end with status 0."""

import signal

from reaper.adapters.checks.finding import go, refuse
from reaper.adapters.patience import Deadline
from reaper.adapters.plain import last_lines
from reaper.adapters.program import run
from reaper.domain.checks import ScriptCheck
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict
from reaper.planner.words import in_words

_LINES, _CHARACTERS = 10, 200


def ask(check: ScriptCheck, plan: Plan, deadline: Deadline) -> GuardVerdict:
    """Its status; it is told whom it is about, and nothing else of reaper's environment than PATH, HOME and LANG."""
    told = {
        "REAPER_CLUSTER": plan.cluster,
        "REAPER_VICTIM": str(plan.victim),
        "REAPER_RUN": plan.run,
        "REAPER_POLICY": plan.standing or "",
    }
    ended = run(check.command, told=told, stdin=b"", deadline=deadline)
    printed = last_lines(ended.tail, _LINES, _CHARACTERS)
    name = check.command[0]
    if ended.status is None:
        limit = in_words(check.within)
        reason = f"{name} did not end within {limit} and was killed: see why it is slow, or give it more `within`"
        return refuse(check, reason, "still running", *printed)
    seen = f"status {ended.status}" if ended.status >= 0 else f"ended by {_signal(-ended.status)}"
    if ended.status == 0:
        return go(check, f"{name} ended with status 0", seen, *printed)
    return refuse(check, f"{name}: {seen}, wanted status 0: see what it says", seen, *printed)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
