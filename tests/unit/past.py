"""A run that has ended, for tests of what is remembered."""

from dataclasses import replace

from builders import CLUSTER, MS, NOON

from reaper.domain.verdict import RunState
from reaper.planner.budgets import PastRun


def past(state: RunState = RunState.GOOD, run: str = "run-1", **changes: object) -> PastRun:
    """Good and cheap, unless it says otherwise."""
    killed = state in (RunState.GOOD, RunState.BAD)
    base = PastRun(
        run=run,
        cluster=CLUSTER,
        state=state,
        outage=42 * MS if killed else None,
        lost=0 if killed else None,
        time_to_normal=None,
        ended=NOON,
        message="",
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests
