"""From what happened to what people are told. Total functions; every sentence is made of names, numbers and reasons."""

from datetime import UTC, datetime
from typing import assert_never
from zoneinfo import ZoneInfo

from reaper.domain.announcement import Announcement, Occurrence, Severity
from reaper.domain.plan import Plan, Replacement
from reaper.domain.standing import Leash, StandingPolicy
from reaper.domain.verdict import RunState, RunVerdict
from reaper.planner.radius import Exceeded, Radius
from reaper.planner.selection import Selection
from reaper.planner.words import in_words

_MOST_LINES = 20  # of one kind


def run_began(plan: Plan, at: datetime) -> Announcement:
    """A run begins."""
    building = {
        Replacement.BEFORE: "its replacement is built first",
        Replacement.AFTER: "its replacement is built afterwards",
        Replacement.NONE: "it is not replaced",
    }[plan.replacement]
    return Announcement(
        what=Occurrence.BEGAN,
        severity=Severity.INFO,
        at=at,
        title=f"{plan.cluster}: the {plan.role} {plan.victim.short} is going to die ({plan.policy.mode}), {building}",
        details=(f"why: {plan.why}", *(() if plan.seed is None else (f"seed: {plan.seed}",))),
        policy=plan.standing,
        cluster=plan.cluster,
        run=plan.run,
    )


def run_ended(plan: Plan, state: RunState, verdict: RunVerdict | None, message: str, at: datetime) -> Announcement:
    """A run is over, with what it cost. `message`: why it ended so, if it is not good."""
    details = [message] if message else []
    if verdict is not None:
        details += [f"fault: {fault}" for fault in verdict.faults if fault != message]
        details += _cost(verdict)
        details += [f"note: {note}" for note in verdict.notes]
    return Announcement(
        what=Occurrence.ENDED,
        severity=_severity(state, verdict),
        at=at,
        title=_ending(plan, state, verdict),
        details=tuple(details),
        policy=plan.standing,
        cluster=plan.cluster,
        run=plan.run,
    )


def _ending(plan: Plan, state: RunState, verdict: RunVerdict | None) -> str:
    victim = f"{plan.cluster}: the {plan.role} {plan.victim.short}"
    match state:
        case RunState.GOOD if verdict is not None and verdict.good:
            outage = "" if verdict.outage is None else f" with an outage of {in_words(verdict.outage)}"
            heir = f", {verdict.heir} is the master" if verdict.heir else ""
            return f"{victim} is dead{outage}{heir}"
        case RunState.GOOD | RunState.BAD if verdict is not None:
            faults = "a fault" if len(verdict.faults) == 1 else f"{len(verdict.faults)} faults"
            return f"{victim} is dead, with {faults}"
        case RunState.GOOD | RunState.BAD | RunState.RUNNING:
            return f"{victim}: the run ended without a verdict, so it has failed: look at the cluster"
        case RunState.REFUSED:
            return f"{victim} stays: a guard refused, nothing was touched or everything was undone"
        case RunState.UNDONE:
            return f"{victim} stays: the run failed before the kill, the cluster is as it was found"
        case RunState.STUCK:
            return f"{victim} was killed and the failover is NOT finished: a person has to look now"
        case _:
            assert_never(state)


def _severity(state: RunState, verdict: RunVerdict | None) -> Severity:
    match state:
        case RunState.STUCK:
            return Severity.CRITICAL
        case RunState.GOOD if verdict is not None and verdict.good:
            return Severity.INFO
        case RunState.GOOD | RunState.BAD | RunState.RUNNING:  # without a verdict it is a failed run (I12)
            proved = verdict is not None and verdict.ledger is not None and not verdict.ledger.lost
            return Severity.WARNING if proved else Severity.CRITICAL
        case RunState.REFUSED | RunState.UNDONE:
            return Severity.WARNING
        case _:
            assert_never(state)


def _cost(verdict: RunVerdict) -> list[str]:
    outage = "not measured, or a client never came back" if verdict.outage is None else in_words(verdict.outage)
    lines = [f"outage: {outage}"]
    if verdict.parts:
        lines.append("its parts: " + ", ".join(f"{part.name} {in_words(part.took)}" for part in verdict.parts))
    ledger = verdict.ledger
    if ledger is None:
        lines.append("acknowledged writes: not compared")
    else:
        lines.append(f"acknowledged writes: {ledger.acknowledged}, lost: {len(ledger.lost)}")
    lines.append(f"copies: {verdict.copies_before} before, {verdict.copies_after} after")
    return lines


def firing_ahead(policy: StandingPolicy, fire: datetime, at: datetime) -> Announcement:
    """A firing comes up."""
    leashed = policy.leash is Leash.ON
    effect = "it is leashed: it decides and reports, and touches nothing" if leashed else "it is armed"
    return Announcement(
        what=Occurrence.AHEAD,
        severity=Severity.INFO,
        at=at,
        title=f"{policy.name} fires in {in_words(fire - at)}, {_moment(fire, policy)}: {effect}",
        details=(policy.description,) if policy.description else (),
        policy=policy.name,
    )


def policy_fired(policy: StandingPolicy, selection: Selection, radius: Radius, at: datetime) -> Announcement:
    """A policy decided: who is due, how many are spared, or that it selected too many and does nothing."""
    due, spared = len(selection.due), len(selection.spared)
    counts = f"{due} due, {spared} spared, of {_counted(selection.targeted, 'cluster')}"
    lines = [f"due: {d.cluster}: {d.role} {d.instance.id.short}: {'; '.join(d.why)}" for d in selection.due]
    shown = (*_first(lines), f"seed: {selection.seed}")
    if isinstance(radius, Exceeded):
        severity, title = Severity.WARNING, f"{policy.name} is aborted before any action, it selects too many: {counts}"
        shown = (*radius.why, *shown)
    else:
        severity, title = Severity.INFO, f"{policy.name} fired: {counts}"
        if policy.leash is Leash.ON:
            title += "; it is leashed and touches nothing"
    return Announcement(what=Occurrence.FIRED, severity=severity, at=at, title=title, details=shown, policy=policy.name)


def firings_missed(policy: StandingPolicy, fires: tuple[datetime, ...], *, more: bool, at: datetime) -> Announcement:
    """Firings passed while nobody could act. `more`: than are listed."""
    number = f"{'more than ' if more else ''}{_counted(len(fires), 'firing')}"
    return Announcement(
        what=Occurrence.MISSED,
        severity=Severity.WARNING,
        at=at,
        title=f"{policy.name} missed {number}: nothing is caught up, the next regular one counts",
        details=_first([_moment(fire, policy) for fire in fires]),
        policy=policy.name,
    )


def selection_given_up(policy: str, clusters: tuple[str, ...], why: str, at: datetime) -> Announcement:
    """What a firing had selected and could not begin in time. It is not caught up."""
    return Announcement(
        what=Occurrence.MISSED,
        severity=Severity.WARNING,
        at=at,
        title=f"{policy} gives up {_counted(len(clusters), 'cluster')} that it had selected: {why}",
        details=_first(list(clusters)),
        policy=policy,
    )


def policy_leashed(policy: str, why: tuple[str, ...], at: datetime) -> Announcement:
    """A policy exceeded a budget and acts no more."""
    return Announcement(
        what=Occurrence.LEASHED,
        severity=Severity.CRITICAL,
        at=at,
        title=f"{policy} is leashed: it exceeded a budget and touches nothing until a person releases it",
        details=(*_first(list(why)), f"look at its last run, then: reaper policies release {policy} --reason ..."),
        policy=policy,
    )


def policy_released(policy: str, who: str, reason: str, at: datetime) -> Announcement:
    """A person let it go again."""
    return Announcement(
        what=Occurrence.RELEASED,
        severity=Severity.INFO,
        at=at,
        title=f"{policy} is released by {who}: it acts again as its file says",
        details=(f"reason: {reason}",),
        policy=policy,
    )


def files_misread(mistakes: tuple[str, ...], at: datetime) -> Announcement:
    """Policy files have mistakes."""
    return Announcement(
        what=Occurrence.MISREAD,
        severity=Severity.WARNING,
        at=at,
        title=f"policy files have {_counted(len(mistakes), 'mistake')}: the last good ones stay in force",
        details=_first(list(mistakes)),
    )


def _moment(moment: datetime, policy: StandingPolicy) -> str:
    """In the policy's own zone, with its name."""
    zone = policy.schedule.zone if policy.schedule else "UTC"
    local = moment.astimezone(ZoneInfo(zone) if zone != "UTC" else UTC)
    return f"{local:%a %Y-%m-%d %H:%M:%S} {zone}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _first(lines: list[str]) -> tuple[str, ...]:
    left = len(lines) - _MOST_LINES
    return (*lines[:_MOST_LINES], f"... and {left} more") if left > 0 else tuple(lines)
