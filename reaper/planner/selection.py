"""Decide who is due. Total functions: the same fleet, history, moment and seed decide the same.

Every targeted cluster is either due, with its victim, or spared; either way with the reason in words.
What is unknown is protected (I10).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import exp
from random import Random

from reaper.domain.almanac import Closed
from reaper.domain.facts import Instance, InstanceId
from reaper.domain.groups import GroupPolicy, GroupRole, GroupView
from reaper.domain.plan import Role
from reaper.domain.standing import StandingPolicy, What
from reaper.planner.calendar import judge_maintenance
from reaper.planner.dueness import instance_spared, reason_not_due, reasons_due
from reaper.planner.groups import plan_group
from reaper.planner.targeting import Candidate as Candidate  # for those who select
from reaper.planner.targeting import Match, Mortal, targets_of
from reaper.planner.targeting import prepare as prepare  # the same
from reaper.planner.words import in_words


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
    role: Role | GroupRole
    instance: Mortal
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
    due: tuple[DueInstance, ...]  # one of each cluster; of a group all that one run replaces, in its order
    spared: tuple[Spared, ...]
    targeted: int  # clusters; due and spared ones together
    living: int  # instances of those clusters

    @property
    def first(self) -> tuple[DueInstance, ...]:
        """Of each cluster or group the one that begins."""
        return tuple({due.cluster: due for due in reversed(self.due)}.values())[::-1]


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
    targets = targets_of(policy.target)
    for candidate in fleet:
        if (candidate.group is None) != (policy.group is None):
            continue
        match = targets(candidate)
        if match is Match.NO:
            continue
        targeted += 1
        living += len(candidate.members)
        why = "its tags are unreadable, so it is protected" if match is Match.UNKNOWN else None
        why = why or _cluster_spared(policy, candidate, history, occasion)
        if why:
            spared.append(Spared(cluster=candidate.cluster, instance=None, why=why))
            continue
        chosen, others = _choose(policy, candidate, occasion)
        spared += others
        due += chosen
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
    if most is None:
        return tuple(due), []
    oldest: dict[str, DueInstance] = {}  # of each cluster or group
    for one in due:
        known = oldest.get(one.cluster)
        if known is None or _age_key(one, occasion) < _age_key(known, occasion):
            oldest[one.cluster] = one
    if len(oldest) <= most:
        return tuple(due), []
    if policy.due.max_age is not None:
        first = sorted(oldest.values(), key=lambda d: _age_key(d, occasion))[:most]
    else:
        first = _random(policy, "", occasion, "take").sample(sorted(oldest.values(), key=lambda d: d.instance.id), most)
    chosen = {d.cluster for d in first}
    what = "clusters" if policy.group is None else "groups"
    why = f"{len(oldest)} {what} are due, a firing takes {most} (seed {occasion.seed})"
    left = [Spared(cluster=d.cluster, instance=d.instance.id, why=why) for d in due if d.cluster not in chosen]
    return tuple(d for d in due if d.cluster in chosen), left


def _age_key(due: DueInstance, occasion: Occasion) -> tuple[datetime, InstanceId]:
    return due.instance.created or occasion.now, due.instance.id


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


_ROLES: dict[What, tuple[Role, ...]] = {
    What.MASTER: (Role.MASTER,),
    What.REPLICA: (Role.REPLICA,),
    What.ANY: (Role.MASTER, Role.REPLICA),
    What.INSTANCE: (),  # of a group, and of no cluster
}


def _choose(policy: StandingPolicy, candidate: Candidate, occasion: Occasion) -> tuple[list[DueInstance], list[Spared]]:
    """Whom one run would take of a cluster or group, in its order, and who is spared."""
    if candidate.group is not None and policy.group is not None:
        return _choose_members(policy.group, candidate.group, occasion)
    due, spared = _choose_one(policy, candidate, occasion)
    return [due] if due else [], spared


def _choose_members(
    limits: GroupPolicy, group: GroupView, occasion: Occasion
) -> tuple[list[DueInstance], list[Spared]]:
    """As the run's plan will say it."""
    plan = plan_group(group, limits, run="", seed=occasion.seed, now=occasion.now)
    spared = [Spared(cluster=group.key, instance=one.id, why=one.why) for one in plan.spared]
    if not group.members:
        spared.append(Spared(cluster=group.key, instance=None, why="it has no member to replace"))
    members = {m.id: m for m in group.members}
    due = [
        DueInstance(cluster=group.key, role=GroupRole.INSTANCE, instance=members[one.id], why=(one.why,))
        for one in plan.victims
    ]
    return due, spared


def _choose_one(
    policy: StandingPolicy, candidate: Candidate, occasion: Occasion
) -> tuple[DueInstance | None, list[Spared]]:
    """One victim of a cluster at the most, and who is spared: rotations of a cluster come one after the other (I7)."""
    spared: list[Spared] = []
    due: list[DueInstance] = []
    cluster, wanted = candidate.cluster, _ROLES[policy.replace.what]
    for role, instance in candidate.members:
        if role not in wanted or not isinstance(instance, Instance):
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
        return min(due, key=lambda d: _age_key(d, occasion))
    return _random(policy, due[0].cluster, occasion, "draw").choice(sorted(due, key=lambda d: d.instance.id))
