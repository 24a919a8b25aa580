"""Durable execution as the workflow sees it. The engine behind it is an adapter; a test's is in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol, TypeVar

T = TypeVar("T")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What is recorded. A replay returns exactly this, so nothing else may be returned."""


class Op(StrEnum):
    """What a person, or another process, may tell a run."""

    APPROVE = "approve"
    ABORT = "abort"
    WAKE = "wake"  # try again now


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message to a run."""

    op: Op
    who: str
    when: str  # ISO 8601, UTC
    text: str = ""

    @property
    def by(self) -> str:
        """Who said it, when and why, to follow what was done."""
        return f"by {self.who} at {self.when}{f': {self.text}' if self.text else ''}"


class Steps(Protocol):
    """The steps of one run, in order. A run that dies is started again and replays what was recorded."""

    def run(self, name: str, of: type[T], effect: Callable[[], T]) -> T:
        """Do `effect` once and record its result; a replay returns the recorded result without doing it.

        `of`: the result's type, a dataclass, tuple or primitive, recorded as JSON; what is returned is
        always the decoded record, so that a first run and a replay cannot differ. An effect that was cut
        down half-way is done again, so it has to find its own earlier work. A ReaperError is recorded and
        raised again, of the same class and with the same message, on every replay. Ownership is checked
        before the effect; OwnershipLostError and BaseExceptions leave no record.
        """

    def own(self) -> None:
        """OwnershipLostError if another worker has taken this run over; asked again before what cannot be undone."""

    def waits_for(self, what: str) -> None:
        """Say in words what the run waits for; "" for nothing. Shown in `reaper runs`."""

    def receive(self, within: timedelta) -> Message | None:
        """The next message to this run, or None when the time is over. Recorded like a step."""


class Unrecorded:
    """`Steps` without a record: for what is done once, by what is the case, and never replayed."""

    def run(self, name: str, of: type[T], effect: Callable[[], T]) -> T:  # noqa: ARG002 - nothing is recorded
        """Do it."""
        return effect()

    def own(self) -> None:
        """Nobody else can have it."""

    def waits_for(self, what: str) -> None:
        """Nobody asks."""

    def receive(self, within: timedelta) -> Message | None:  # noqa: ARG002 - nobody can write to it
        """There is no mailbox."""
        return None
