"""Whether a policy has spent more than its budgets allow. The same runs and budgets give the same answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from reaper.domain.standing import Budgets
from reaper.domain.verdict import RunState
from reaper.planner.words import in_words, listed

MOST_REASONS = 10  # said one by one; a policy is judged after each run, so that more are rare

PAST_THE_KILL = (RunState.GOOD, RunState.BAD, RunState.STUCK)


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A run that has ended. Its state is RUNNING if it ended without saying how (I12)."""

    run: str
    cluster: str
    state: RunState
    outage: timedelta | None  # None: not measured, a client never came back, or nobody was killed
    lost: int | None  # acknowledged writes; None: not compared
    time_to_normal: timedelta | None  # None: not measured
    ended: datetime
    message: str  # why it ended so, or the faults of its verdict
    began: datetime | None = None
    policy: str | None = None  # None: a person asked for it

    @property
    def unjudged(self) -> bool:
        """It ended and nobody wrote down how: a failed run (I12)."""
        return self.state is RunState.RUNNING

    @property
    def failed(self) -> bool:
        """It may have killed, and is not known to be good."""
        return self.unjudged or self.state in (RunState.BAD, RunState.STUCK)


def overspent(budgets: Budgets, runs: tuple[PastRun, ...]) -> tuple[str, ...]:
    """Why a policy has to be leashed, in words; none: it need not be.

    `runs` are those that ended since it was last released, the newest first.

    One run is enough if it is stuck, if it ended without a verdict, or if it cost more than one of the budgets
    allows. What a bad run cost and nobody could measure is not known to be within the budget, and is over it (I10);
    only a time to normal that was not measured is not judged, because not every run measures it.

    Failures in a row are runs that failed after the kill. Runs that were refused or undone before it neither count
    nor end the row: the cluster is as it was found, so that they cost nobody anything, and guards that refuse each
    night are what guards are for; but they prove nothing about the next kill either. Only a good run ends the row.
    """
    reasons = [*_stuck(runs), *_costs(budgets, runs), *_row(budgets, runs)]
    if len(reasons) > MOST_REASONS:
        reasons = [*reasons[:MOST_REASONS], f"and {len(reasons) - MOST_REASONS} more reasons"]
    return tuple(reasons)


def _stuck(runs: tuple[PastRun, ...]) -> Iterator[str]:
    for run in runs:
        if run.state is RunState.STUCK:
            yield f"{_named(run)} is stuck{_because(run)}; a person has to look"
        elif run.unjudged:
            yield f"{_named(run)} ended without a verdict, so what it did and what it cost is unknown"


def _costs(budgets: Budgets, runs: tuple[PastRun, ...]) -> Iterator[str]:
    for run in runs:
        bad = run.state is RunState.BAD
        if run.outage is None and bad:
            yield f"the outage of {_named(run)} is unknown or never ended, the budget is {in_words(budgets.outage)}"
        elif run.outage is not None and run.outage > budgets.outage:
            yield f"the outage of {_named(run)} was {in_words(run.outage)}, the budget is {in_words(budgets.outage)}"
        if run.lost is None and bad:
            yield f"whether {_named(run)} lost writes is unknown; the budget is {budgets.lost_writes}"
        elif run.lost is not None and run.lost > budgets.lost_writes:
            yield f"{_named(run)} lost {run.lost} acknowledged writes, the budget is {budgets.lost_writes}"
        normal, allowed = run.time_to_normal, budgets.time_to_normal
        if normal is not None and allowed is not None and normal > allowed:
            yield f"{_named(run)} took {in_words(normal)} to become normal, the budget is {in_words(allowed)}"


def _row(budgets: Budgets, runs: tuple[PastRun, ...]) -> Iterator[str]:
    telling = (run for run in runs if run.failed or run.state is RunState.GOOD)
    row = tuple(takewhile(lambda run: run.failed, telling))
    if not row or len(row) < budgets.failures_in_a_row:
        return
    if len(row) == 1:
        yield f"{_named(row[0])} failed{_because(row[0])}; the policy is leashed at the first failure"
    else:
        last = f"the last one{_because(row[0])}" if row[0].message else "the last one"
        names = listed(tuple(run.run for run in row[:3])) + (" and others" if len(row) > 3 else "")
        yield (
            f"{len(row)} runs in a row failed ({names}), {last}; the policy is leashed at {budgets.failures_in_a_row}"
        )


def _named(run: PastRun) -> str:
    return f"the run {run.run} of {run.cluster}"


def _because(run: PastRun) -> str:
    return f": {run.message}" if run.message else ""
