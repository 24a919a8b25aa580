"""One thread at a time: which one goes on is drawn, so that a seed repeats a run to its last interleaving.

`FakeClock` lets the machine decide in which order threads run between two waits. Here a thread runs until
it waits, for time or for another thread, and the dice say who is next. Pools have to be made by `pool`.
"""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import timedelta
from types import TracebackType
from typing import ParamSpec, TypeVar, cast

from reaper.testing.clock import FakeClock, Waiter, nanoseconds

T = TypeVar("T")
P = ParamSpec("P")

_FOREVER = timedelta(days=30)  # nobody waits that long for another thread


class _NoLock:
    """Only one thread runs, so that nothing has to be guarded."""

    def __enter__(self) -> bool:
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def notify_all(self) -> None:
        """Nobody waits for a lock."""


class _Turn(Waiter):
    """Something that waits for its turn: a thread in the middle of its work, or work that has not begun."""

    def __init__(self, ready: Callable[[], bool], deadline_ns: int, work: Callable[[], "_Turn"] | None = None) -> None:
        super().__init__(ready, deadline_ns)
        self.work = work  # to be done; it returns whose turn comes after it
        self._baton = threading.Lock()
        self._baton.acquire()

    def give(self) -> None:
        """It may go on."""
        if self.work is None:
            self._baton.release()
        else:
            (_IDLE.pop() if _IDLE else _Worker()).begin(self)

    def take(self) -> None:
        """Stand still until it may."""
        self._baton.acquire()


class _Worker:
    """A thread that does one piece of work after the other. It is kept: to start one costs more than most work."""

    def __init__(self) -> None:
        self._turn: _Turn | None = None
        self._wake = threading.Lock()
        self._wake.acquire()
        threading.Thread(target=self._run, daemon=True).start()

    def begin(self, turn: _Turn) -> None:
        """Do its work now."""
        self._turn = turn
        self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            turn = self._turn
            while turn is not None and turn.work is not None:
                turn = turn.work()
            self._turn = None
            _IDLE.append(self)
            if turn is not None:
                turn.give()


_IDLE: list[_Worker] = []


class TurnClock(FakeClock):
    """A simulated clock whose threads take turns."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self._line: list[_Turn] = []
        self.lock = cast(threading.Condition, _NoLock())

    def wait(self, ready: Callable[[], bool], within: timedelta) -> bool:
        """Wait until `ready()`; False: not within the time. Others go on meanwhile."""
        me = self._enlist(ready, self._now_ns + max(0, nanoseconds(within)))
        self._stand_in_line(me)
        return ready()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait for another thread, however long it takes."""
        if not self.wait(ready, _FOREVER):
            raise AssertionError("every thread waits for another one")

    def begin(self, body: Callable[[], None], allowed: Callable[[], bool]) -> None:
        """A new thread, which has its first turn when it is `allowed` and drawn."""

        def work() -> _Turn:
            self._leave(me)
            body()
            return self._draw()

        me = self._enlist(allowed, self._now_ns + nanoseconds(_FOREVER), work)

    def pool(self, max_workers: int) -> "TurnPool":
        """What takes the place of a `ThreadPoolExecutor`."""
        return TurnPool(self, max_workers)

    def _enlist(self, ready: Callable[[], bool], deadline_ns: int, work: Callable[[], _Turn] | None = None) -> _Turn:
        turn = _Turn(ready, deadline_ns, work)
        self._waiters.append(turn)
        self._line.append(turn)
        return turn

    def _leave(self, turn: _Turn) -> None:
        self._waiters.remove(turn)
        self._line.remove(turn)

    def _stand_in_line(self, me: _Turn) -> None:
        following = self._draw()
        if following is not me:
            following.give()
            me.take()
        self._leave(me)

    def _draw(self) -> _Turn:
        """Who goes on. Time passes only when nobody can."""
        while True:
            able = [w for w in self._line if self._now_ns >= w.deadline_ns or w.ready()]
            if able:
                return able[0] if len(able) == 1 else self._dice.choice(able)
            self._advance()


class _Answer(Future[T]):
    """What a task will answer; who waits for it lets others take their turns."""

    def __init__(self, clock: TurnClock) -> None:
        super().__init__()
        self._clock = clock

    def result(self, timeout: float | None = None) -> T:
        self._await(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._await(timeout)
        return super().exception(0)

    def _await(self, timeout: float | None) -> None:
        if timeout is None:
            self._clock.wait_for(self.done)
        else:
            self._clock.wait(self.done, timedelta(seconds=timeout))


class TurnPool(Executor):
    """Threads that take turns, so many at a time. A time-out of its futures is simulated time."""

    def __init__(self, clock: TurnClock, max_workers: int) -> None:
        self._clock, self._free, self._left = clock, max_workers, 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do it when a worker is free and its turn has come."""
        answer: _Answer[T] = _Answer(self._clock)
        self._left += 1

        def work() -> None:
            self._free -= 1
            try:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - as a real pool: it is for whoever asks for the result
                answer.set_exception(error)
            self._free, self._left = self._free + 1, self._left - 1

        self._clock.begin(work, lambda: self._free > 0)
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for everything that was submitted."""
        del cancel_futures
        if wait:
            self._clock.wait_for(lambda: not self._left)
