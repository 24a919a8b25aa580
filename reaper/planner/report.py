"""What policies would do: the decisions that a dry run shows before anything is armed. Total functions.

A policy that may not act now (leashed, closed, too large a radius) is decided all the same: what it would
do is what its reader wants to know before it is armed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from reaper.domain.almanac import Closed, Hours
from reaper.domain.policy import Waiver
from reaper.domain.standing import Leash, Limit, Scope, StandingPolicy, What
from reaper.planner.outlook import Coming, Outlook, outlook
from reaper.planner.radius import Exceeded, Living, Part, Radius, count_living, of_selection
from reaper.planner.selection import ClusterHistory, DueInstance, Occasion, Selection, select
from reaper.planner.targeting import Candidate


class State(StrEnum):
    """Whether a policy acts when it fires."""

    ARMED = "armed"
    LEASHED_BY_FILE = "leashed by its file"
    LEASHED_BY_BUDGET = "leashed by a budget"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A policy and everything that has to be known to decide about it."""

    policy: StandingPolicy
    occasion: Occasion  # the firing that is looked at
    hours: Hours  # the calendar at that moment
    history: Mapping[str, ClusterHistory] | None  # None: it could not be read, and everybody is spared
    leashed: tuple[str, ...]  # why budgets leash it; empty: they do not
    coming: Coming  # its fires over the days that are looked at
    next_fire: datetime | None  # the first after the report's moment; None: a person fires it


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one policy would do, and why."""

    policy: StandingPolicy
    at: datetime
    state: State
    why_leashed: tuple[str, ...]
    next_fire: datetime | None
    hours: Hours
    selection: Selection
    radius: Radius  # against its limits
    parts: tuple[Part, ...]  # the largest of every scope, whether or not it has a limit
    waivers: tuple[Waiver, ...]  # in force
    expired: tuple[Waiver, ...]

    @property
    def stopped(self) -> tuple[str, ...]:
        """Why the firing would come to nothing, whoever is due; empty: it would not."""
        closed = (self.hours.why,) if isinstance(self.hours, Closed) else ()
        return closed + (self.radius.why if isinstance(self.radius, Exceeded) else ())

    @property
    def victims(self) -> tuple[DueInstance, ...]:
        """Who would die if the policy were armed and every guard let it."""
        return () if self.stopped else self.selection.due


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A cluster that more than one policy picks; one run of it goes at a time (I7)."""

    cluster: str
    policies: tuple[str, ...]  # who goes first, first
    why: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything decided."""

    at: datetime  # the moment that was asked about; now if none was
    clusters: int
    living: int  # instances of clusters
    decisions: tuple[Decision, ...]
    conflicts: tuple[Conflict, ...]
    outlook: Outlook
    groups: int = 0
    members: int = 0  # of groups


def decide(subjects: Sequence[Subject], fleet: Sequence[Candidate], at: datetime, days: int, zone: str) -> Report:
    """What every policy would do with a fleet; the coming days are those of the clocks of `zone`."""
    clusters, groups = [c for c in fleet if c.group is None], [c for c in fleet if c.group is not None]
    living, members = count_living(clusters), count_living(groups)
    decisions = tuple(
        _decide(subject, clusters, living) if subject.policy.group is None else _decide(subject, groups, members)
        for subject in subjects
    )
    coming = tuple((s.coming, *_load(d)) for s, d in zip(subjects, decisions, strict=True))
    return Report(
        at=at,
        clusters=len(clusters),
        living=living.fleet,
        decisions=decisions,
        conflicts=tuple(_conflicts(decisions)),
        outlook=outlook(coming, at, days, zone),
        groups=len(groups),
        members=members.fleet,
    )


def _load(decision: Decision) -> tuple[StandingPolicy, Selection]:
    """What the outlook counts with: clusters, of which one dies at a time.

    Of a group each instance is one by itself, as a master is: a successor is not due before it has aged, and a firing
    takes as many as its runs do.
    """
    policy, selection = decision.policy, decision.selection
    if policy.group is None:
        return policy, selection
    most = policy.group.at_most
    runs = selection.targeted if policy.due.at_most is None else min(selection.targeted, policy.due.at_most)
    deaths = selection.living if most is None else min(selection.living, runs * most)
    counted = replace(
        policy,
        due=replace(policy.due, at_most=deaths),
        replace=replace(policy.replace, what=What.MASTER),
    )
    return counted, replace(selection, targeted=selection.living)


def _decide(subject: Subject, fleet: Sequence[Candidate], living: Living) -> Decision:
    policy, occasion = subject.policy, subject.occasion
    selection = select(policy, fleet, subject.history, occasion)
    scopes = tuple(s for s in Scope if policy.group is None or s is not Scope.SHARD_GROUP)
    unlimited = replace(policy.limits, selection=tuple(Limit(scope=scope) for scope in scopes))
    state, why = State.ARMED, subject.leashed
    if subject.leashed:
        state = State.LEASHED_BY_BUDGET
    elif policy.leash is Leash.ON:
        state = State.LEASHED_BY_FILE
    return Decision(
        policy=policy,
        at=occasion.now,
        state=state,
        why_leashed=why,
        next_fire=subject.next_fire,
        hours=subject.hours,
        selection=selection,
        radius=of_selection(policy, selection, living),
        parts=of_selection(replace(policy, limits=unlimited), selection, living).parts,
        waivers=tuple(w for w in policy.waivers if w.holds(occasion.now)),
        expired=tuple(w for w in policy.waivers if not w.holds(occasion.now)),
    )


def _conflicts(decisions: Iterable[Decision]) -> Iterable[Conflict]:
    """Clusters that several policies pick. The one that acts goes first, then the one that fires first."""
    pickers: dict[str, list[Decision]] = {}
    for decision in decisions:
        for cluster in dict.fromkeys(due.cluster for due in decision.victims):
            pickers.setdefault(cluster, []).append(decision)
    for cluster, rivals in sorted(pickers.items()):
        if len(rivals) < 2:
            continue
        first, second, *_ = order = sorted(rivals, key=lambda d: (d.state is not State.ARMED, d.at, d.policy.name))
        if first.state is State.ARMED and second.state is not State.ARMED:
            why = f"{second.policy.name} is {second.state}"
        elif first.at != second.at:
            why = f"{first.policy.name} fires earlier"
        else:
            why = "both fire at the same moment, so that the first by name is taken here; in fact either may come first"
        yield Conflict(cluster=cluster, policies=tuple(d.policy.name for d in order), why=why)
