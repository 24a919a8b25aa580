"""`Steps` in memory: a run's record, and processes that follow it one after the other."""

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from reaper.domain import errors
from reaper.domain.errors import OwnershipLostError, ReaperError
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Faults
from reaper.workflow.steps import Message

T = TypeVar("T")


@cache
def _codec(of: Hashable) -> TypeAdapter[Any]:
    """Made once for each type: that costs more than a simulated run's step."""
    return TypeAdapter(cast(Any, of))


@dataclass(frozen=True)
class Recorded:
    """One step: its result as JSON, or its error's class and message."""

    name: str
    result: str | None
    error: tuple[str, str] | None = None


@dataclass
class Diary:
    """What a run has recorded, whichever process did it. The newest follower owns the run."""

    faults: Faults
    clock: FakeClock
    entries: list[Recorded] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)  # not delivered yet
    words: list[str] = field(default_factory=list)  # everything that it ever waited for
    owner: int = 0

    def follow(self) -> "MemorySteps":
        """The steps of a new process, which is the owner from now on."""
        self.owner += 1
        return MemorySteps(self, self.owner)


class MemorySteps:
    """One process's execution of a run."""

    def __init__(self, diary: Diary, token: int) -> None:
        self._diary = diary
        self._token = token
        self._at = 0

    def run(self, name: str, of: type[T], effect: Callable[[], T]) -> T:
        """Do `effect` once and record its result; a replay returns the recorded result without doing it."""
        codec = cast(TypeAdapter[T], _codec(cast(Hashable, of)))
        entry = self._entry(name, lambda: codec.dump_json(effect()).decode())
        if entry.error is not None:
            kind, message = entry.error
            raise getattr(errors, kind)(message)
        return codec.validate_json(entry.result or "null")

    def _entry(self, name: str, effect: Callable[[], str]) -> Recorded:
        diary, at = self._diary, self._at
        self._at += 1
        if at < len(diary.entries):
            entry = diary.entries[at]
            if entry.name != name:
                raise AssertionError(f"step {at} was {entry.name}, the replay does {name}")
            return entry
        with diary.faults.around("record", name):  # the power may be cut on both sides of an effect and of its record
            self.own()
            try:
                entry = Recorded(name, effect())
            except ReaperError as error:
                entry = Recorded(name, None, (type(error).__name__, str(error)))
            self.own()
            if diary.faults.power is not None:
                diary.faults.power()
            diary.entries.append(entry)
        return entry

    def own(self) -> None:
        """OwnershipLostError if another process follows the run."""
        if self._diary.owner != self._token:
            raise OwnershipLostError("another worker has taken this run over")

    def waits_for(self, what: str) -> None:
        """Say in words what the run waits for."""
        self._diary.words.append(what)

    def receive(self, within: timedelta) -> Message | None:
        """The next message to this run, or None when the time is over."""
        text = self._entry("receive", lambda: self._next(within)).result or "null"
        return cast(Message | None, _codec(Message | None).validate_json(text))

    def _next(self, within: timedelta) -> str:
        diary = self._diary
        if not diary.messages:
            diary.clock.sleep(within)
        if not diary.messages:
            return json.dumps(None)
        return _codec(Message).dump_json(diary.messages.pop(0)).decode()
