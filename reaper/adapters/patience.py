"""Wait no longer than asked, whatever one waits for: a name server that hangs, a peer that drips single bytes."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from reaper.domain.errors import TryAgainError

T = TypeVar("T")
_LONGEST_S = 7 * 86_400.0  # for one system call: poll(2) counts milliseconds in 32 bits


class LateError(TryAgainError):
    """The time is over and there is no answer."""


class Deadline:
    """The end of the time for one piece of work, in the thread that does it."""

    def __init__(self, within: timedelta) -> None:
        self._within = within
        self._end = time.monotonic() + within.total_seconds()
        self._lock = threading.Lock()
        self._given_up = False
        self._closers: list[Callable[[], object]] = []

    def left_s(self) -> float:
        """Seconds for the next system call, never 0. LateError: the time is over."""
        left = self._end - time.monotonic()
        if left <= 0 or self._given_up:
            raise self.late()
        return min(left, _LONGEST_S)

    def late(self) -> LateError:
        """The error that says so."""
        return LateError(f"there was no answer within {self._within.total_seconds():g} s")

    @contextmanager
    def closing(self, close: Callable[[], object]) -> Iterator[None]:
        """While inside, `close` is called from another thread when the time is over, so that a blocked call returns.

        LateError: it is over already, and nothing is begun any more.
        """
        with self._lock:
            if self._given_up:
                raise self.late()
            self._closers.append(close)
        try:
            yield
        finally:
            with self._lock:
                self._closers.remove(close)

    def give_up(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._given_up = True
            closers = tuple(self._closers)
        for close in closers:
            with contextlib.suppress(OSError, ValueError):  # it is closed already
                close()


class Patience:
    """Does work in threads of its own and leaves those that do not answer; how many may hang is bounded."""

    def __init__(self, most_hanging: int = 64) -> None:
        self._most = most_hanging
        self._lock = threading.Lock()
        self._hanging = 0

    def call(self, within: timedelta, work: Callable[[Deadline], T]) -> T:
        """What `work` returns or raises. LateError: it did neither in time. TryAgainError: too many hang already."""
        if self._hanging >= self._most:
            raise TryAgainError(f"{self._hanging} earlier calls still hang: see what does not answer, restart reaper")
        deadline = Deadline(within)
        answer: futures.Future[T] = futures.Future()

        def do() -> None:
            try:
                answer.set_result(work(deadline))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, in whose thread it is raised
                answer.set_exception(error)

        try:
            threading.Thread(target=do, name="patience", daemon=True).start()
        except RuntimeError as error:
            raise TryAgainError(f"this machine gives reaper no further thread: {error}") from error
        in_time = False
        try:
            in_time = bool(futures.wait([answer], timeout=within.total_seconds()).done)
        finally:
            if not in_time:
                deadline.give_up()
                self._leave(answer)
        if not in_time:  # what a call returns whose connection was just ended is no answer
            raise deadline.late()
        return answer.result()

    def _leave(self, answer: "futures.Future[T]") -> None:
        with self._lock:
            self._hanging += 1
        answer.add_done_callback(self._came_back)

    def _came_back(self, _answer: "futures.Future[T]") -> None:
        with self._lock:
            self._hanging -= 1
