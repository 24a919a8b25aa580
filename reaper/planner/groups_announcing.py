"""What people are told of runs over groups. Total functions."""

from datetime import datetime
from typing import assert_never

from reaper.domain.announcement import Announcement, Occurrence, Severity
from reaper.domain.groups import GroupPlan, GroupVerdict
from reaper.domain.verdict import RunState
from reaper.planner.words import in_words

_MOST_LINES = 20  # instances that are told one by one


def group_run_began(plan: GroupPlan, at: datetime) -> Announcement:
    """A run begins."""
    victims = [f"{victim.id.short}: {victim.why}" for victim in plan.victims]
    return Announcement(
        what=Occurrence.BEGAN,
        severity=Severity.INFO,
        at=at,
        title=f"{plan.group}: {_counted(plan)} going to be replaced, one after the other",
        details=(
            *((f"why: {plan.why}",) if plan.why else ()),
            *((f"seed: {plan.seed}",) if plan.seed is not None else ()),
            *_first(victims),
        ),
        policy=plan.standing,
        cluster=plan.cluster,
        run=plan.run,
    )


def group_run_ended(
    plan: GroupPlan, state: RunState, verdict: GroupVerdict, message: str, at: datetime
) -> Announcement:
    """A run is over. `message`: why it ended so."""
    replaced = [
        f"{one.victim.short} by {one.successor.short if one.successor else 'nobody'} in {in_words(one.took)}, "
        f"{one.fewest} served at least"
        for one in verdict.replaced
    ]
    return Announcement(
        what=Occurrence.ENDED,
        severity=_severity(state),
        at=at,
        title=f"{plan.group}: {len(verdict.replaced)} of {len(plan.victims)} were replaced{_ending(state)}",
        details=(*((message,) if message and state is not RunState.GOOD else ()), *_first(replaced)),
        policy=plan.standing,
        cluster=plan.cluster,
        run=plan.run,
    )


def _ending(state: RunState) -> str:
    match state:
        case RunState.GOOD:
            return ""
        case RunState.BAD:
            return ", the last one got no healthy successor: look at the group"
        case RunState.REFUSED:
            return ", then a guard refused"
        case RunState.UNDONE:
            return ", then the run was given up; nobody is half-way"
        case RunState.STUCK:
            return ", and one is out of its target groups and could NOT be put back: a person has to look now"
        case RunState.RUNNING:
            return ", and the run ended without saying how: look at the group"
        case _:
            assert_never(state)


def _severity(state: RunState) -> Severity:
    match state:
        case RunState.GOOD:
            return Severity.INFO
        case RunState.STUCK:
            return Severity.CRITICAL
        case RunState.BAD | RunState.REFUSED | RunState.UNDONE | RunState.RUNNING:
            return Severity.WARNING
        case _:
            assert_never(state)


def _counted(plan: GroupPlan) -> str:
    number = len(plan.victims)
    return "1 instance is" if number == 1 else f"{number} instances are"


def _first(lines: list[str]) -> tuple[str, ...]:
    left = len(lines) - _MOST_LINES
    return (*lines[:_MOST_LINES], f"... and {left} more") if left > 0 else tuple(lines)
