"""What may be done to a cluster and what makes the run a failure."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class KillMode(StrEnum):
    """How the victim dies."""

    CRASH = "crash"  # SIGKILL, forced stop: the real rehearsal
    TERMINATE = "terminate"  # the provider's polite call; the server may shut down cleanly
    FREEZE = "freeze"  # SIGSTOP: alive but silent, then fenced
    DRAIN = "drain"  # read-only, let the replicas catch up, then kill


class FailoverBy(StrEnum):
    """Who promotes the heir."""

    REAPER = "reaper"
    OBSERVE = "observe"  # the site's own tool; reaper kills, watches and grades


class Loss(StrEnum):
    """Whether acknowledged writes may be lost (I3)."""

    FORBIDDEN = "forbidden"  # semi-sync must be on and proved
    ACCEPTED = "accepted"  # said in words by the policy; the report counts what was lost


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The limits of one run. Every duration is a budget on the monotonic clock."""

    mode: KillMode = KillMode.CRASH
    failover: FailoverBy = FailoverBy.REAPER
    loss: Loss = Loss.FORBIDDEN
    outage_budget: timedelta = timedelta(seconds=2)
    max_lag: timedelta = timedelta(seconds=5)
    min_copies: int = 2
    max_transaction_age: timedelta = timedelta(seconds=30)
    soak: timedelta = timedelta(seconds=1)  # how long guards watch the counters
    build_within: timedelta = timedelta(hours=6)
    join_within: timedelta = timedelta(minutes=30)
    drain_within: timedelta = timedelta(seconds=5)
    fence_within: timedelta = timedelta(seconds=10)
    apply_within: timedelta = timedelta(seconds=30)
    repoint_within: timedelta = timedelta(seconds=15)
    failover_within: timedelta = timedelta(seconds=30)  # failover=observe: the deadline it is graded against
    undo_within: timedelta = timedelta(minutes=2)  # each undo is tried again for so long
    approval_within: timedelta | None = None  # wait so long for a person's yes before the kill; None: do not ask
    quarantine: timedelta = timedelta(0)
    probe_clients: int = 3
    probe_rate: float = 150.0  # writes per second, all clients together
