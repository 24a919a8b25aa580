"""What may be done to a cluster and what makes the run a failure."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from reaper.domain.checks import ExternalCheck
from reaper.domain.warmth import WarmthGate


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


class Reference(StrEnum):
    """With whom a replacement's data are compared."""

    SOURCE = "source"  # the server that it was copied from: a copy, or replication, that went wrong shows
    MASTER = "master"  # also what its source had wrong already; the master reads all that is compared


class Waivable(StrEnum):
    """The guards whose findings a person may accept. What the other guards find can lose data or split a cluster."""

    PARITY = "parity"  # what the members differ in; what replication needs is not waived
    ACTIVITY = "activity"
    DISK = "disk"


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A person's word that a guard's finding is accepted for a while. Shown in every report."""

    guard: Waivable
    difference: str | None  # the finding it covers, such as the name of a setting; None: the guard as a whole
    owner: str
    expires: date  # the last day it holds, in UTC
    reason: str

    def holds(self, now: datetime) -> bool:
        """False once it has expired."""
        return now.date() <= self.expires

    def __str__(self) -> str:
        return f"waived by {self.owner} until {self.expires}: {self.reason}"


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
    approvers: tuple[str, ...] = ()  # whose yes counts; none: anybody's
    checks: tuple[ExternalCheck, ...] = ()  # asked with the guards; no answer refuses
    waivers: tuple[Waiver, ...] = ()
    quarantine: timedelta = timedelta(0)
    snapshot_reuse_within: timedelta | None = None  # use an earlier snapshot that is not older; None: a new one
    snapshot_keep: int = 0  # snapshots that stay behind; 0: none
    compare_with: Reference = Reference.SOURCE
    compare_share: float = 1.0  # of the data, drawn at random in chunks; what is compared is compared whole
    compare_within: timedelta = timedelta(hours=1)
    warm: WarmthGate | None = None  # None: the heir loads its page list, and nobody asks how warm it is
    normal_budget: timedelta | None = None  # time to normal; None: reported, not judged
    probe_clients: int = 3
    probe_rate: float = 150.0  # writes per second, all clients together

    def accepts_yes_of(self, who: str) -> bool:
        """Whether somebody's yes counts; `who` is a name, or a name at a machine."""
        return not self.approvers or who in self.approvers or who.partition("@")[0] in self.approvers
