"""Decide who is due. Total functions: the same fleet, history, moment and seed decide the same.

Every targeted cluster is either due, with its victim, or spared; either way with the reason in words.
What is unknown is protected (I10).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from math import exp
from random import Random

from reaper.domain.almanac import Closed
from reaper.domain.facts import ClusterView, Instance, InstanceId
from reaper.domain.plan import Role
from reaper.domain.standing import StandingPolicy, Target, What
from reaper.planner.calendar import judge_maintenance
from reaper.planner.dueness import by_kind, carries, instance_spared, reason_not_due, reasons_due
from reaper.planner.shape import OtherShape, classify, living
from reaper.planner.words import in_words


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cluster as selection sees it; made once per observation and shared by all policies."""

    cluster: str
    provider: str
    tags: frozenset[tuple[str, str]] | None  # shared by all living members; None: those of one are unreadable
    members: tuple[tuple[Role, Instance], ...]  # living ones; empty if `unfit` says why
    unfit: str | None  # the shape that is refused, by name


@dataclass(frozen=True, kw_only=True)
class ClusterHistory:
    """What is remembered of a cluster, over restarts. No record at all is a history without kills."""

    last_kill: datetime | None = None  # of this policy
    last_run_ended: datetime | None = None  # of any policy or person
    unfinished_run: str | None = None


_NO_HISTORY = ClusterHistory()


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """One firing of a policy."""

    now: datetime
    since_last: timedelta  # from the scheduled opportunity before; how long the dice stand for
    seed: int  # recorded with the selection


@dataclass(frozen=True, kw_only=True)
class DueInstance:
    """An instance that is due to die."""

    cluster: str
    role: Role
    instance: Instance
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Spared:
    """A targeted cluster, or an instance of it, that is left alone."""

    cluster: str
    instance: InstanceId | None  # None: the cluster as a whole
    why: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Everything decided at one firing."""

    policy: str
    seed: int
    due: tuple[DueInstance, ...]
    spared: tuple[Spared, ...]
    targeted: int  # clusters; due and spared ones together
    living: int  # instances of those clusters


def prepare(view: ClusterView) -> Candidate:
    """What selection needs of an observed cluster."""
    shape, members = classify(view), living(view)
    tags: frozenset[tuple[str, str]] | None = frozenset()
    known = [m.instance.tags for m in members]
    if any(t is None for t in known):
        tags = None
    elif known:
        tags = frozenset.intersection(*map(frozenset, {t or () for t in known}))  # mostly all carry the same
    provider = view.members[0].instance.id.provider if view.members else ""
    if isinstance(shape, OtherShape):
        unfit: str | None = f"{shape.name}: {shape.why}"
        return Candidate(cluster=view.name, provider=provider, tags=tags, members=(), unfit=unfit)
    roles = [(Role.MASTER, shape.master.instance), *((Role.REPLICA, r.instance) for r in shape.replicas)]
    return Candidate(cluster=view.name, provider=provider, tags=tags, members=tuple(roles), unfit=None)


def may_target(target: Target, cluster: str) -> bool:
    """False if a cluster's name alone keeps it out, so that it need not be looked at."""
    if target.names and _any_of(target.names).match(cluster) is None:
        return False
    return not target.excluded or _any_of(target.excluded).match(cluster) is None


def select(
    policy: StandingPolicy,
    fleet: Iterable[Candidate],
    history: Mapping[str, ClusterHistory] | None,
    occasion: Occasion,
) -> Selection:
    """Who is due at this firing of the policy. `history` None: it could not be read, and everybody is spared."""
    due: list[DueInstance] = []
    spared: list[Spared] = []
    targeted = living = 0
    targets = _targets(policy.target)
    for candidate in fleet:
        match = targets(candidate)
        if match is _Match.NO:
            continue
        targeted += 1
        living += len(candidate.members)
        why = "its tags are unreadable, so it is protected" if match is _Match.UNKNOWN else None
        why = why or _cluster_spared(policy, candidate, history, occasion)
        if why:
            spared.append(Spared(cluster=candidate.cluster, instance=None, why=why))
            continue
        chosen, others = _choose(policy, candidate, occasion)
        spared += others
        if chosen is not None:
            due.append(chosen)
    taken, left = _take(policy, due, occasion)
    spared += left
    return Selection(
        policy=policy.name,
        seed=occasion.seed,
        due=taken,
        spared=tuple(spared),
        targeted=targeted,
        living=living,
    )


def _take(
    policy: StandingPolicy, due: list[DueInstance], occasion: Occasion
) -> tuple[tuple[DueInstance, ...], list[Spared]]:
    """As many as one firing takes, the oldest where age decides and otherwise by lot; in the order of the fleet."""
    most = policy.due.at_most
    if most is None or len(due) <= most:
        return tuple(due), []
    if policy.due.max_age is not None:
        first = sorted(due, key=lambda d: (d.instance.created, d.instance.id))[:most]
    else:
        first = _random(policy, "", occasion, "take").sample(sorted(due, key=lambda d: d.instance.id), most)
    chosen = {d.instance.id for d in first}
    why = f"{len(due)} clusters are due, a firing takes {most} (seed {occasion.seed})"
    left = [Spared(cluster=d.cluster, instance=d.instance.id, why=why) for d in due if d.instance.id not in chosen]
    return tuple(d for d in due if d.instance.id in chosen), left


class _Match(StrEnum):
    """Whether a cluster is targeted; a cluster whose tags decide and are unreadable is not known to be."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@lru_cache(maxsize=1024)  # one expression for all globs: every policy asks it of every cluster
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs))


def _targets(target: Target) -> Callable[[Candidate], _Match]:
    """Whether a cluster is targeted. Put together once for a whole fleet, of which it is asked cluster by cluster."""
    provider = target.provider
    exact, globs = by_kind(target.tags)
    named = _any_of(target.names).match if target.names else None
    excluded = _any_of(target.excluded).match if target.excluded else None

    def matches(candidate: Candidate) -> _Match:
        if provider is not None and candidate.provider != provider:
            return _Match.NO
        if named is not None and named(candidate.cluster) is None:
            return _Match.NO
        if excluded is not None and excluded(candidate.cluster) is not None:
            return _Match.NO
        if candidate.tags is None:
            return _Match.UNKNOWN if exact or globs else _Match.YES
        if exact and not exact <= candidate.tags:  # nearly always decides
            return _Match.NO
        return _Match.YES if carries(candidate.tags, globs) else _Match.NO

    return matches


def _cluster_spared(
    policy: StandingPolicy,
    candidate: Candidate,
    history: Mapping[str, ClusterHistory] | None,
    occasion: Occasion,
) -> str | None:
    """Why the whole cluster is left alone, or None. The dice come last: they say nothing of a cluster that is unfit."""
    if candidate.unfit is not None:
        return candidate.unfit
    if history is None:
        return "its history could not be read, so it is protected"
    past = history.get(candidate.cluster, _NO_HISTORY)
    if past.unfinished_run is not None:
        return f"the run {past.unfinished_run} is not finished"
    rested = None if past.last_run_ended is None else occasion.now - past.last_run_ended
    if rested is not None and rested < policy.cool_down:
        return (
            f"it cools down: the last run ended {in_words(rested)} ago, the policy wants {in_words(policy.cool_down)}"
        )
    return _maintenance(policy, candidate, occasion.now) or _dice(policy, candidate.cluster, past, occasion)


def _maintenance(policy: StandingPolicy, candidate: Candidate, now: datetime) -> str | None:
    calendar = policy.calendar
    if not calendar.maintenance and calendar.maintenance_tag is None:
        return None
    tagged = {value for _, i in candidate.members for name, value in i.tags or () if name == calendar.maintenance_tag}
    hours = judge_maintenance(calendar, now, cluster=candidate.cluster, tagged=tuple(sorted(tagged)))
    return hours.why if isinstance(hours, Closed) else None


def _dice(policy: StandingPolicy, cluster: str, past: ClusterHistory, occasion: Occasion) -> str | None:
    """Whether the dice spare the cluster. A cluster's dice do not depend on which other clusters there are."""
    due = policy.due
    since_kill = None if past.last_kill is None else occasion.now - past.last_kill
    if since_kill is not None and since_kill < due.min_gap:
        return f"the last kill was {in_words(since_kill)} ago, the policy wants a gap of {in_words(due.min_gap)}"
    chance = chance_of(policy, since_kill, occasion.since_last)
    if chance >= 1:
        return None
    rolled = _random(policy, cluster, occasion, "dice").random()
    if rolled < chance:
        return None
    return f"the dice spared it: {rolled:.4f} was not below its chance of {chance:.4f} (seed {occasion.seed})"


def chance_of(policy: StandingPolicy, since_kill: timedelta | None, since_last: timedelta) -> float:
    """A cluster's chance at one opportunity.

    With a mean time between kills it is 1 - exp(-time / rest): `time` is what passed since the opportunity before,
    as far as it lies after the gap; `rest` is the mean less the gap, so that the mean of the whole is what the
    policy says.
    """
    due = policy.due
    if due.mean_time_between is None:
        return due.probability
    rest = due.mean_time_between - due.min_gap
    if rest <= timedelta(0):
        return 1.0
    time = since_last if since_kill is None else min(since_last, since_kill - due.min_gap)
    return 1 - exp(-(max(time, timedelta(0)) / rest))


def _random(policy: StandingPolicy, cluster: str, occasion: Occasion, purpose: str) -> Random:
    return Random(f"{occasion.seed}/{policy.name}/{cluster}/{purpose}")


_ROLES = {What.MASTER: (Role.MASTER,), What.REPLICA: (Role.REPLICA,), What.ANY: (Role.MASTER, Role.REPLICA)}


def _choose(
    policy: StandingPolicy, candidate: Candidate, occasion: Occasion
) -> tuple[DueInstance | None, list[Spared]]:
    """One victim of a cluster at the most, and who is spared: rotations of a cluster come one after the other (I7)."""
    spared: list[Spared] = []
    due: list[DueInstance] = []
    cluster, wanted = candidate.cluster, _ROLES[policy.replace.what]
    for role, instance in candidate.members:
        if role not in wanted:
            continue
        why_not = instance_spared(policy, instance, occasion.now)
        if why_not is not None:
            spared.append(Spared(cluster=cluster, instance=instance.id, why=why_not))
            continue
        reasons = reasons_due(policy, instance, occasion.now)
        if reasons:
            due.append(DueInstance(cluster=cluster, role=role, instance=instance, why=reasons))
        else:
            why_not = reason_not_due(policy, instance, occasion.now)
            spared.append(Spared(cluster=cluster, instance=instance.id, why=why_not))
    if not due:
        if not spared:
            spared.append(Spared(cluster=cluster, instance=None, why=f"it has no {policy.replace.what} to replace"))
        return None, spared
    first = _first_of(policy, due, occasion)
    for other in due:
        if other is not first:
            why = f"{first.instance.id.short} goes first, a cluster loses one at a time"
            spared.append(Spared(cluster=cluster, instance=other.instance.id, why=why))
    return first, spared


def _first_of(policy: StandingPolicy, due: list[DueInstance], occasion: Occasion) -> DueInstance:
    """The oldest where age decides, otherwise one that is drawn."""
    if policy.due.max_age is not None or len(due) == 1:
        return min(due, key=lambda d: (d.instance.created, d.instance.id))
    return _random(policy, due[0].cluster, occasion, "draw").choice(sorted(due, key=lambda d: d.instance.id))
