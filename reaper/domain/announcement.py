"""What people are told of policies and runs. Facts only: channels are adapters."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Occurrence(StrEnum):
    """What happened."""

    AHEAD = "ahead"  # a firing comes up
    MISSED = "missed"  # a firing passed while nobody could act; it is not caught up
    FIRED = "fired"  # a policy decided
    BEGAN = "began"  # a run begins
    ENDED = "ended"  # a run is over
    LEASHED = "leashed"  # a policy exceeded a budget and acts no more
    RELEASED = "released"  # a person let it go again
    MISREAD = "misread"  # policy files have mistakes; the last good ones stay in force


class Severity(StrEnum):
    """How urgent it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"  # a person has to look now


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """One message. Never holds a secret: it is made of names, numbers and sentences of reaper's own."""

    what: Occurrence
    severity: Severity
    at: datetime  # aware, UTC
    title: str  # one line
    details: tuple[str, ...] = ()  # one line each
    policy: str | None = None
    cluster: str | None = None
    run: str | None = None
