"""Groups in a process of their own, so that they outlive a reaper that is killed.

`python group_stage.py PLACE ARGUMENT...` is that reaper: its command line, over the groups at PLACE, a socket.
"""

import heapq
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reaper.domain.errors import ReaperError, TryAgainError
from reaper.domain.facts import Image, InstanceId
from reaper.domain.groups import GroupView
from reaper.testing.faults import Faults
from reaper.testing.groups import MemoryGroup

KEY = b"of a test"


class QuickClock:
    """A clock on which waiting costs nothing, and which begins now."""

    def __init__(self) -> None:
        self._began = datetime.now(UTC)
        self._ns = 0
        self._lock = threading.RLock()
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = count()

    def now(self) -> datetime:
        return self._began + timedelta(microseconds=self._ns // 1000)

    def monotonic_ns(self) -> int:
        return self._ns + 10**9

    def sleep(self, span: timedelta) -> None:
        with self._lock:
            until = self._ns + span // timedelta(microseconds=1) * 1000
            while self._due and self._due[0][0] <= until:
                at, _, action = heapq.heappop(self._due)
                self._ns = max(self._ns, at)
                action()
            self._ns = max(self._ns, until)

    def after(self, span: timedelta, action: Callable[[], object]) -> None:
        with self._lock:
            due = self._ns + span // timedelta(microseconds=1) * 1000
            heapq.heappush(self._due, (due, next(self._numbers), action))


class GroupStage:
    """Groups by name, each simulated, on one clock. Implements `Groups`, and is the clock of who acts on them."""

    def __init__(self, *names: str) -> None:
        self.clock = QuickClock()
        self.faults = Faults()
        self.groups = {
            name: MemoryGroup(self.clock, self.faults, name=name)  # type: ignore[arg-type]  # a clock that does as well
            for name in names or ("web",)
        }
        self._calls = 0

    # ---- the port

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.groups))

    def view(self, group: str) -> GroupView:
        return self.groups[group].view(group)

    def drain(self, group: str, instance: InstanceId) -> None:
        self.groups[group].drain(group, instance)

    def undrain(self, group: str, instance: InstanceId) -> None:
        self.groups[group].undrain(group, instance)

    def terminate(self, group: str, instance: InstanceId) -> None:
        self.groups[group].terminate(group, instance)

    # ---- the clock

    def now(self) -> datetime:
        return self.clock.now()

    def monotonic_ns(self) -> int:
        return self.clock.monotonic_ns()

    def sleep(self, span: timedelta) -> None:
        self.clock.sleep(span)

    # ---- what a test does and sees

    def kill_at(self, call: int, pid: int) -> None:
        """Kill a process on one side of the nth call from now on: odd numbers before it is done, even ones after."""
        self._calls = 0

        def power() -> None:
            self._calls += 1
            if self._calls == call:
                self.faults.power = None
                os.kill(pid, signal.SIGKILL)
                raise TryAgainError("the caller is gone")

        self.faults.power = power

    def calls(self) -> int:
        """How many sides of calls there were, with nobody killed."""
        self._calls = 0

        def power() -> None:
            self._calls += 1

        self.faults.power = power
        return self._calls

    def counted(self) -> int:
        return self._calls

    def terminated(self, group: str = "web") -> list[str]:
        return [i.short for i in self.groups[group].terminated]

    def fewest(self, group: str = "web") -> int:
        return self.groups[group].fewest

    def sound(self, group: str = "web") -> bool:
        """As many as are wanted, all of them serve, nobody is left half-way."""
        of = self.groups[group]
        return len(of.members) == of.serving == of.desired

    def renew(self, group: str, number: int) -> None:
        """A member becomes one of the newest image."""
        of = self.groups[group]
        of.change(of.n(number), image=Image(name=of.newest, newest=of.newest))


_stage: list[GroupStage] = []


def _the_stage() -> GroupStage:
    if not _stage:
        _stage.append(GroupStage())
    return _stage[0]


class Place(BaseManager):
    """Where a stage is reached from other processes."""


Place.register("stage", _the_stage)


@contextmanager
def elsewhere(directory: Path) -> Iterator[tuple[Any, str]]:
    """A stage in another process, and its place."""
    place = str(directory / "stage.sock")
    manager = Place(address=place, authkey=KEY, ctx=multiprocessing.get_context("spawn"))
    manager.start()
    try:
        yield manager.stage(), place  # type: ignore[attr-defined]  # it was registered
    finally:
        manager.shutdown()


@contextmanager
def reached(stage: Any) -> Iterator[None]:
    """Reaper in this process acts on these groups, on their clock."""
    with patch("reaper.cli.groups.reached", lambda _site: stage), patch("reaper.cli.groups.SystemClock", lambda: stage):
        yield


def _main(place: str, *arguments: str) -> None:
    from reaper.cli.main import app

    manager = Place(address=place, authkey=KEY)
    manager.connect()
    with reached(manager.stage()):  # type: ignore[attr-defined]  # it was registered
        try:
            app(list(arguments))
        except ReaperError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(int(error.exit_code))


if __name__ == "__main__":
    _main(*sys.argv[1:])
