"""A clock that only moves while everybody waits, so that a simulated world is deterministic.

The workflow waits in several threads at once (its thread pools). Simulated time must not run on while
one of them still works, or a thread that was merely slow to start would find the deadline passed. So
time advances only when every thread is parked: waiting in this clock, for a lock, for a future, or
idle in a pool. Then it jumps from event to event; each event runs under the clock's lock.
"""

import gc
import heapq
import sys
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from types import FrameType

_SETTLE_S = 0.001  # real time between two looks: an idle pool thread may have taken its work just now
_HUNG_S = 30.0  # real time after which a wait of this clock is a mistake in a test


def nanoseconds(span: timedelta) -> int:
    """A span as whole nanoseconds."""
    return span // timedelta(microseconds=1) * 1000


class Waiter:
    """A thread that waits for something, or for a moment."""

    def __init__(self, ready: Callable[[], bool], deadline_ns: int) -> None:
        self.thread = threading.get_ident()
        self.ready = ready
        self.deadline_ns = deadline_ns
        self.woken = False


class FakeClock:
    """Wall and monotonic time of a simulated world. Safe to use from several threads.

    `lock` guards the whole world: who reads or changes simulated state holds it. Waiting releases it.
    """

    def __init__(self, start: datetime = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)) -> None:
        self.lock = threading.Condition(threading.RLock())
        self._wall_at_zero = start
        self._now_ns = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._waiters: list[Waiter] = []
        self._strangers = set(_frames()) - {threading.get_ident()}  # of no concern: they were there before

    def now(self) -> datetime:
        """The wall time, aware, UTC."""
        return self._wall_at_zero + timedelta(microseconds=self._now_ns // 1000)

    def jump(self, span: timedelta) -> None:
        """Somebody sets the wall clock, forward or back. Monotonic time does not notice (E27)."""
        with self.lock:
            self._wall_at_zero += span

    def monotonic_ns(self) -> int:
        """Nanoseconds since the clock was made, plus an hour, so that 0 is never a real moment."""
        return self._now_ns + 3600 * 10**9

    def sleep(self, span: timedelta) -> None:
        """Wait, and let the world go on meanwhile."""
        self.wait(lambda: False, span)

    def after(self, span: timedelta, action: Callable[[], None]) -> None:
        """Run an action that long from now, in whichever thread then advances the clock."""
        with self.lock:
            self._scheduled += 1
            heapq.heappush(self._events, (self._now_ns + nanoseconds(span), self._scheduled, action))

    def wait(self, ready: Callable[[], bool], within: timedelta) -> bool:
        """Wait until `ready()`; False: not within the time. `ready` is called under the lock."""
        with self.lock:
            me = Waiter(ready, self._now_ns + max(0, nanoseconds(within)))
            self._waiters.append(me)
            try:
                return self._wait(me)
            finally:
                self._waiters.remove(me)
                self.lock.notify_all()

    def _wait(self, me: Waiter) -> bool:
        idle = 0
        while True:
            if me.ready():
                return True
            if self._now_ns >= me.deadline_ns:
                return False
            me.woken = False
            before = self._now_ns
            if self._settled() and self._now_ns == before:
                idle = 0
                self._advance()
                continue
            idle += 1
            if idle * _SETTLE_S > _HUNG_S:
                raise AssertionError("a thread that never waits keeps the simulated time from advancing")

    def _advance(self) -> None:
        """Jump to the next event or deadline; stop at each moment that wakes somebody."""
        limit = min(w.deadline_ns for w in self._waiters)
        while True:
            if self._events and self._events[0][0] <= limit:
                at, _, action = heapq.heappop(self._events)
                self._now_ns = max(self._now_ns, at)
                action()
            else:
                self._now_ns = limit
            for waiter in self._waiters:
                waiter.woken = self._now_ns >= waiter.deadline_ns or waiter.ready()
            if any(w.woken for w in self._waiters):
                self.lock.notify_all()
                return

    def _settled(self) -> bool:
        """True if every other thread is parked, looked at twice. Releases the lock between the looks."""
        for look in range(2):
            frames = _frames()
            mine = threading.get_ident()
            self._strangers &= frames.keys()  # an identifier is given away again after a thread's end
            others = {i: f for i, f in frames.items() if i != mine and i not in self._strangers}
            waiting = {w.thread for w in self._waiters if not w.woken}
            if not all(i in waiting or _is_parked(f, frames) for i, f in others.items()) or any(
                w.woken and w.thread != mine for w in self._waiters
            ):
                self.lock.wait(_SETTLE_S)
                return False
            if not others:
                return True
            if look == 0:
                self.lock.wait(_SETTLE_S)
        return True


def _frames() -> dict[int, FrameType]:
    """Where every thread is. CPython 3.11 holds its lock on the threads meanwhile: a garbage collection that wants it
    from inside never ends (https://github.com/python/cpython/issues/106883), so none may begin.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if collects:
            gc.enable()


def _is_parked(frame: FrameType, alive: Collection[int]) -> bool:
    """True if a thread waits for another one that has not answered yet. Exact, however slow the machine is."""
    match frame.f_code.co_name, _file(frame):
        case "wait", "threading.py":
            # Somebody who was notified is no longer in the list, even if it has not run since.
            waiting = frame.f_locals.get("waiter") in getattr(frame.f_locals.get("self"), "_waiters", ())
            return waiting and not _starts_a_thread(frame)
        case "_wait_for_tstate_lock", "threading.py":
            return getattr(frame.f_locals.get("self"), "ident", None) in alive
        case "_worker", "thread.py":
            queue = frame.f_locals.get("work_queue")
            return queue is not None and queue.qsize() == 0 and frame.f_locals.get("work_item") is None
    return False


def _starts_a_thread(frame: FrameType) -> bool:
    """True if the thread waits for one that it has just started, which may have no frame yet."""
    caller = frame.f_back
    while caller is not None and _file(caller) == "threading.py":
        if caller.f_code.co_name == "start":
            return True
        caller = caller.f_back
    return False


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename.rsplit("/", 1)[-1]
