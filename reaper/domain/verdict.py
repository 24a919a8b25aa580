"""Judgements: a guard's, and a run's. Never a bare bool."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from reaper.domain.comparison import Comparison
from reaper.domain.ledger import LedgerVerdict
from reaper.domain.rehearsal import Rehearsed
from reaper.domain.tail import Forensics
from reaper.domain.warmth import Recovery, Warmth


class Ruling(StrEnum):
    """What a guard says."""

    GO = "go"
    REFUSE = "refuse"


@dataclass(frozen=True, kw_only=True)
class GuardVerdict:
    """A guard's ruling, always with its reason and the evidence."""

    guard: str
    ruling: Ruling
    reason: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of the outage, in the order in which it passed."""

    name: str
    took: timedelta


@dataclass(frozen=True, kw_only=True)
class ClientCost:
    """The outage as one client saw it. None: it never came back."""

    client: int
    outage: timedelta | None


@dataclass(frozen=True, kw_only=True)
class Proven:
    """What a replacement showed before it counted as a copy."""

    snapshot: str  # its name
    reused: str  # why an earlier snapshot served once more; "": it was taken by this run
    snapshot_age: timedelta  # when the replacement was launched from it
    restore_took: timedelta  # from the launch to a server that answers
    comparison: Comparison
    parity: GuardVerdict
    warmth: Warmth | None = None  # None: the policy has no gate, or the victim was dead already
    rehearsed: tuple[Rehearsed, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """What a run cost and whether that is acceptable. No faults means good (I12: no verdict is a failed run)."""

    faults: tuple[str, ...]
    outage: timedelta | None  # the worst client's; None: not measured, or a client never came back
    clients: tuple[ClientCost, ...]
    parts: tuple[Part, ...]
    ledger: LedgerVerdict | None
    copies_before: int
    copies_after: int
    heir: str | None
    notes: tuple[str, ...] = ()  # what a reader must know that is not a fault
    proven: Proven | None = None  # of the replacement; None: none was built, or by an older version
    recovery: Recovery | None = None  # how canaries came back to normal; None: nobody looked
    forensics: Forensics | None = None  # what the dead master held alone; None: nobody looked

    @property
    def good(self) -> bool:
        """True if nothing is wrong with the run."""
        return not self.faults


class RunState(StrEnum):
    """How far a run has come."""

    RUNNING = "running"
    GOOD = "good"
    BAD = "bad"  # finished, the verdict has faults
    REFUSED = "refused"
    UNDONE = "undone"  # failed or aborted before the kill; the cluster is as it was found
    STUCK = "stuck"  # past the kill and not finished: a person has to look


class EventKind(StrEnum):
    """What an event says of a step."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a run's timeline."""

    step: str
    kind: EventKind
    detail: str
    at_ns: int  # CLOCK_MONOTONIC
    wall: str  # ISO 8601, UTC
    took_ns: int | None = None  # for DONE and FAILED
