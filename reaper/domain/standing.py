"""A standing policy: the meaning of a policy file. `Policy` (domain/policy.py) is the limits of one of its runs."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from reaper.domain.almanac import Calendar
from reaper.domain.checks import ExternalCheck
from reaper.domain.cron import Cron
from reaper.domain.groups import GroupPolicy
from reaper.domain.plan import Replacement
from reaper.domain.policy import Policy, Waiver
from reaper.domain.warmth import WarmthGate

OPT_OUT_TAG = "reaper:opt-out"  # its presence protects, whatever its value
PROTECT_UNTIL_TAG = "reaper:protect-until"  # an ISO date (that day is the last) or moment; what else it says protects


class Leash(StrEnum):
    """Whether a policy only decides and reports, or acts."""

    ON = "on"
    OFF = "off"


class What(StrEnum):
    """Which instance of a due cluster is replaced, or that instances of a group are."""

    MASTER = "master"
    REPLICA = "replica"
    ANY = "any"
    INSTANCE = "instance"  # of a group of stateless instances, which launches the successors itself


class Scope(StrEnum):
    """Over what a limit counts."""

    FLEET = "fleet"  # everything that was observed
    POLICY = "policy"  # what the policy's target names
    SHARD_GROUP = "shard_group"  # each shard group by itself
    ZONE = "zone"  # each zone by itself


Tags = tuple[tuple[str, str], ...]  # (name, value or glob over values)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Whom the policy is about: clusters, or groups if it replaces instances. All that is said has to hold."""

    provider: str | None = None  # None: any
    names: tuple[str, ...] = ()  # globs over names of clusters or groups, one has to match; none: any
    excluded: tuple[str, ...] = ()  # globs over names of clusters or groups, none may match
    tags: Tags = ()  # a group's own; a cluster's are those that all its living members share
    instances: tuple[str, ...] = ()  # globs over instance names, one has to match; none: any
    instance_tags: Tags = ()
    opt_in: Tags = ()  # tags that an instance has to carry before it may die; none: not asked for


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When the policy has an opportunity to act."""

    cron: Cron
    zone: str  # an IANA name
    jitter: timedelta = timedelta(0)  # a moment drawn per policy and slot, always the same for the same slot
    grace: timedelta = timedelta(minutes=5)  # later than this an opportunity is missed, reported, not caught up


@dataclass(frozen=True, kw_only=True)
class Due:
    """When a targeted instance is due: too old or of a stale image (if either is asked for), and the dice say so."""

    max_age: timedelta | None = None
    stale_image: bool = False
    probability: float = 1.0  # per opportunity and cluster
    mean_time_between: timedelta | None = None  # per cluster, in place of a probability
    min_gap: timedelta = timedelta(0)  # at least this long between two kills of a cluster
    at_most: int | None = None  # clusters of one firing, the oldest or drawn; the others wait for the next


class SnapshotFrom(StrEnum):
    """What a replacement is copied from."""

    REPLICA = "replica"


@dataclass(frozen=True, kw_only=True)
class Replace:
    """How the victim's replacement is built."""

    what: What = What.MASTER
    when: Replacement = Replacement.BEFORE
    replicas: int = 1  # fresh copies that are built before the kill; the first is the heir
    snapshot_from: SnapshotFrom = SnapshotFrom.REPLICA
    snapshot_reuse_within: timedelta | None = None  # None: a new one for each run
    snapshot_keep: int = 0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A maximum of a scope; both parts hold where both are said. Percent never forbids the first one."""

    scope: Scope
    count: int | None = None
    percent: float | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The blast radius. Counted in instances that die, against the living instances of the scope."""

    in_flight: tuple[Limit, ...] = (Limit(scope=Scope.POLICY, count=1),)  # at one moment: the rest waits
    selection: tuple[Limit, ...] = ()  # of one firing: more aborts it before any action


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What a run may cost. Exceeding one leashes the policy until a person releases it."""

    outage: timedelta = timedelta(seconds=2)
    lost_writes: int = 0
    time_to_normal: timedelta | None = None  # None: reported, not judged
    failures_in_a_row: int = 1  # this many bad verdicts in a row


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A person has to say yes before the kill."""

    by: tuple[str, ...] = ()  # names that are accepted; none: anybody who may send it
    within: timedelta = timedelta(hours=1)  # no answer in time means no


@dataclass(frozen=True, kw_only=True)
class Announce:
    """Whom the policy tells. The channels, and their secrets, are the site's configuration."""

    to: tuple[str, ...] = ("log",)
    before: timedelta | None = None  # this long before a firing; None: only when it begins


@dataclass(frozen=True, kw_only=True)
class StandingPolicy:
    """What may die, when, how much, how its replacement is built, and what makes a run a failure."""

    name: str
    description: str = ""
    leash: Leash = Leash.ON
    target: Target
    schedule: Schedule | None = None  # None: only when a person asks
    calendar: Calendar = field(default_factory=Calendar)
    due: Due = field(default_factory=Due)
    replace: Replace = field(default_factory=Replace)
    warm: WarmthGate | None = None  # None: no gate
    limits: Limits = field(default_factory=Limits)
    budgets: Budgets = field(default_factory=Budgets)
    cool_down: timedelta = timedelta(0)  # a cluster is left alone for this long after a run of any policy
    checks: tuple[ExternalCheck, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    approval: Approval | None = None
    announce: Announce = field(default_factory=Announce)
    limits_of_run: Policy = field(default_factory=Policy)  # over a cluster
    group: GroupPolicy | None = None  # the limits of a run over a group; None: the policy is about clusters
