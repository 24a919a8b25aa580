"""The plan: the value that the dry run prints is the value that runs."""

from dataclasses import dataclass, field
from enum import StrEnum

from reaper.domain.facts import Berth, InstanceId
from reaper.domain.policy import Policy


class Phase(StrEnum):
    """The three parts of a rotation. The kill, which opens the cutover, is the point of no return."""

    PREPARE = "prepare"
    CUTOVER = "cutover"
    RETIRE = "retire"


class StepName(StrEnum):
    """One effect of a rotation (the word list of the design)."""

    SNAPSHOT = "snapshot"
    LAUNCH = "launch"
    JOIN = "join"
    RESTART = "restart"
    COMPARE = "compare"
    PARITY = "parity"
    WARM = "warm"
    REHEARSE = "rehearse"
    VERIFY = "verify"
    PROBE = "probe"
    DRAIN = "drain"
    KILL = "kill"
    FENCE = "fence"
    ELECT = "elect"
    APPLY = "apply"
    PROMOTE = "promote"
    REPOINT = "repoint"
    REROUTE = "reroute"
    WATCH = "watch"
    SETTLE = "settle"
    HAND_OVER = "hand over"
    NORMAL = "normal"
    DISSECT = "dissect"
    QUARANTINE = "quarantine"
    RETIRE = "retire"
    FORGET = "forget"


class Role(StrEnum):
    """What an instance is in its cluster."""

    MASTER = "master"
    REPLICA = "replica"


class Replacement(StrEnum):
    """When the victim's replacement is built."""

    BEFORE = "before"  # rotate: add before remove (I1), and the replacement is the preferred heir
    AFTER = "after"  # kill: the unplanned death is rehearsed, the size is restored afterwards
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step as it is shown and as it runs."""

    name: StepName
    phase: Phase
    what: str  # one line for a person


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything decided about a run before it starts. Stored at birth, never recomputed."""

    run: str  # also the root of every derived name
    cluster: str
    victim: InstanceId
    role: Role
    replacement: Replacement
    snapshot_from: InstanceId | None  # None: nothing is built
    size: int  # members of the cluster when the plan was made; the run has to end with as many
    policy: Policy
    why: str  # why this victim, in words
    seed: int | None  # of the draw; None: the victim was named
    steps: tuple[PlannedStep, ...]
    standing: str | None = None  # the name of the standing policy that asked for it; None: a person did
    berth: Berth = field(default_factory=Berth)  # of the replacement
