"""Groups of stateless instances that replace their members themselves, and what may be done to them."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from reaper.domain.facts import Image, InstanceId

_KEY = "group:"  # before a group's name where clusters have theirs: a cluster and a group may be called the same


def key_of(group: str) -> str:
    """The name under which a group stands where clusters stand by theirs: in the store, in lists, in locks."""
    return f"{_KEY}{group}"


def group_of(key: str) -> str | None:
    """The group of such a name; None: it is a cluster's."""
    return key.removeprefix(_KEY) if key.startswith(_KEY) else None


class GroupRole(StrEnum):
    """What a member of a group is, where members of a cluster have their role."""

    INSTANCE = "instance"


class MemberState(StrEnum):
    """Where a member is in its life, as its group says."""

    PENDING = "pending"
    IN_SERVICE = "in service"
    LEAVING = "leaving"
    STANDBY = "standby"  # a person has taken it out for a while
    OTHER = "other"  # a state that reaper does not know: nothing is concluded from it


class TargetState(StrEnum):
    """What a target group's health check says of a member."""

    HEALTHY = "healthy"
    INITIAL = "initial"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    UNUSED = "unused"  # not registered, or nothing routes to the target group
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A member in one target group."""

    target_group: str
    state: TargetState
    port: int | None = None  # None: the target group's own


@dataclass(frozen=True, kw_only=True)
class GroupMember:
    """One instance of a group."""

    id: InstanceId
    zone: str | None  # None: unknown
    state: MemberState
    healthy: bool  # to the group itself
    protected: bool  # from scale-in
    created: datetime | None  # aware, UTC; None: unknown
    image: Image | None
    tags: tuple[tuple[str, str], ...] | None  # None: unreadable, so it is protected
    registrations: tuple[Registration, ...]
    hook: bool = False  # it waits for somebody to complete a lifecycle action

    def serves(self, target_groups: tuple["TargetGroup", ...]) -> bool:
        """True if it does its work: in service, healthy to the group and to every one of its target groups."""
        healthy = {r.target_group for r in self.registrations if r.state is TargetState.HEALTHY}
        return self.state is MemberState.IN_SERVICE and self.healthy and {t.name for t in target_groups} <= healthy


@dataclass(frozen=True, kw_only=True)
class TargetGroup:
    """One that the group registers its members with."""

    name: str
    draining: timedelta | None  # how long a deregistered member may finish its work; None: unknown


class Transition(StrEnum):
    """What a lifecycle hook holds up."""

    LAUNCHING = "launching"
    TERMINATING = "terminating"


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A lifecycle hook: somebody else has to complete it, or its time has to pass."""

    name: str
    transition: Transition
    timeout: timedelta


@dataclass(frozen=True, kw_only=True)
class Suspension:
    """A process of the group that somebody has suspended."""

    process: str
    why: str


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """One group at one moment."""

    name: str
    taken_at: datetime  # aware, UTC
    minimum: int
    desired: int
    maximum: int
    members: tuple[GroupMember, ...]
    target_groups: tuple[TargetGroup, ...]
    hooks: tuple[Hook, ...]
    suspended: tuple[Suspension, ...]
    refresh: str | None  # an instance refresh that is under way, in words
    unfit: str | None = None  # why nothing may be done to the group, to follow "it is": being deleted
    tags: tuple[tuple[str, str], ...] = ()  # of the group itself

    @property
    def key(self) -> str:
        """Its name among those of clusters."""
        return key_of(self.name)

    @property
    def serving(self) -> tuple[GroupMember, ...]:
        """The members that do their work."""
        return tuple(m for m in self.members if m.serves(self.target_groups))

    def member(self, instance: InstanceId) -> GroupMember | None:
        """The member with this id, or None."""
        return next((m for m in self.members if m.id == instance), None)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """How many have to serve at every moment. Both parts hold where both are said."""

    count: int | None = None
    percent: float | None = None  # of the desired size, rounded up

    def of(self, desired: int) -> int:
        """The number for a group of that size."""
        share = 0 if self.percent is None else math.ceil(desired * self.percent / 100 - 1e-9)
        return max(self.count or 0, share)


class Order(StrEnum):
    """Who goes first."""

    OLDEST = "oldest"
    STALE = "stale"  # those of another image than the group launches now, then the others; of each the oldest first
    RANDOM = "random"


class Draining(StrEnum):
    """Who takes a victim out of its target groups."""

    REAPER = "reaper"  # before the kill, while it can still be undone
    GROUP = "group"  # the group, as a part of the termination


@dataclass(frozen=True, kw_only=True)
class GroupPolicy:
    """The limits of one run over a group. Every duration is a budget on the monotonic clock."""

    floor: Floor  # no default: how much may be missing is for the owner to say
    order: Order = Order.OLDEST
    max_age: timedelta | None = None  # those that are older
    stale_image: bool = False  # those of another image than the group launches now; with neither of both: everybody
    opt_in: tuple[tuple[str, str], ...] = ()  # tags that a member has to carry, with globs over their values
    at_most: int | None = None  # instances of one run
    draining: Draining = Draining.REAPER
    settle_within: timedelta = timedelta(minutes=10)  # for what comes and goes by itself before each kill
    drain_within: timedelta = timedelta(minutes=10)
    successor_within: timedelta = timedelta(minutes=30)
    undo_within: timedelta = timedelta(minutes=2)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One that a run is about to replace, and why."""

    id: InstanceId
    why: str


@dataclass(frozen=True, kw_only=True)
class Spared:
    """One that a run leaves alone, and why."""

    id: InstanceId
    why: str


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """Everything decided about a run before it starts. Stored at birth, never recomputed."""

    run: str
    group: str
    victims: tuple[Chosen, ...]  # in this order, one after the other
    spared: tuple[Spared, ...]
    policy: GroupPolicy
    seed: int | None  # of the draw; None: nothing was drawn
    standing: str | None = None  # the name of the standing policy that asked for it; None: a person did
    why: str = ""  # why this run, in words

    @property
    def cluster(self) -> str:
        """The group's name among those of clusters."""
        return key_of(self.group)


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """One victim's end and its successor."""

    victim: InstanceId
    successor: InstanceId | None  # None: the group has become smaller meanwhile, or it had left by itself
    drained: timedelta | None  # None: not by reaper
    took: timedelta  # from the kill until as many serve again
    fewest: int  # that were seen to serve meanwhile


@dataclass(frozen=True, kw_only=True)
class GroupVerdict:
    """What a run over a group did. No faults means good."""

    replaced: tuple[Replaced, ...]
    left: tuple[InstanceId, ...]  # planned and not replaced
    faults: tuple[str, ...]

    @property
    def good(self) -> bool:
        """True if nothing is wrong with the run."""
        return not self.faults

    @property
    def fewest(self) -> int | None:
        """The fewest that were seen to serve; None: nothing was replaced."""
        return min((r.fewest for r in self.replaced), default=None)
