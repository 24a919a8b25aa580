"""One channel's way out: a bounded queue, and a thread that sends and tries again."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from reaper.domain.announcement import Announcement
from reaper.domain.errors import ReaperError, TryAgainError

_LONGEST_HOLD_S = 600.0  # longer than any cutover: whoever held it has died


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How hard a channel tries."""

    attempt_within: timedelta = timedelta(seconds=15)
    first_pause: timedelta = timedelta(seconds=1)
    longest_pause: timedelta = timedelta(minutes=1)
    give_up_after: timedelta = timedelta(minutes=15)  # since it was told; each is tried once at the least
    most_waiting: int = 100


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the announcements of one channel."""

    sent: int = 0
    failed: int = 0  # given up
    dropped: int = 0  # the oldest of a full queue
    waiting: int = 0  # with the one that is being sent


class Gate:
    """Shut while clients wait for a cutover. Shut by several at once it opens when the last of them is done."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = 0
        self._closing = False

    def hold(self) -> None:
        """Nothing is begun from now on; returns at once."""
        with self._changed:
            self._held += 1

    def release(self) -> None:
        """Go on."""
        with self._changed:
            self._held = max(0, self._held - 1)
            self._changed.notify_all()

    def open_for_good(self) -> None:
        """The process ends: what is left is sent now."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Pass when it is open."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not self._held, _LONGEST_HOLD_S)


@dataclass(frozen=True)
class _Item:
    announcement: Announcement
    until: float  # on the monotonic clock: tried again as long as this


class Lane:
    """Of one channel. `send` delivers one announcement once; `say(level, event, facts)` writes to the log."""

    def __init__(
        self,
        name: str,
        send: Callable[[Announcement], None],
        say: Callable[[str, str, dict[str, object]], None],
        gate: Gate,
        pace: Pace,
    ) -> None:
        self._name, self._send, self._say, self._gate, self._pace = name, send, say, gate, pace
        self._changed = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._counts = Counts()
        self._busy = 0
        self._unsaid = 0  # dropped, and not yet in the log
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"announce-{name}", daemon=True)
        self._thread.start()

    def put(self, announcement: Announcement) -> None:
        """Queue it, in place of the oldest if the queue is full. Returns at once."""
        item = _Item(announcement, time.monotonic() + self._pace.give_up_after.total_seconds())
        with self._changed:
            if self._ending.is_set():
                self._drop()
                return
            if len(self._queue) >= self._pace.most_waiting:
                self._queue.popleft()
                self._drop()
            self._queue.append(item)
            self._changed.notify_all()

    def counts(self) -> Counts:
        """So far."""
        with self._changed:
            return replace(self._counts, waiting=len(self._queue) + self._busy)

    def end(self) -> None:
        """Take no more; what waits is tried once more, without pauses."""
        with self._changed:
            self._ending.set()
            self._changed.notify_all()

    def join(self, within_s: float) -> None:
        """Wait for the end, not longer than this."""
        self._thread.join(max(0.0, within_s))

    def _drop(self) -> None:
        self._counts = replace(self._counts, dropped=self._counts.dropped + 1)
        self._unsaid += 1

    def _run(self) -> None:
        while (item := self._next()) is not None:
            self._tell_of_dropped()
            self._deliver(item)
        self._tell_of_dropped()

    def _next(self) -> _Item | None:
        with self._changed:
            self._busy = 0
            self._changed.wait_for(lambda: self._queue or self._ending.is_set())
            if not self._queue:
                return None
            self._busy = 1
            return self._queue.popleft()

    def _tell_of_dropped(self) -> None:
        with self._changed:
            dropped, self._unsaid = self._unsaid, 0
        if dropped:
            self._say("error", "announcements dropped", {"channel": self._name, "dropped": dropped})

    def _deliver(self, item: _Item) -> None:
        pace = self._pace
        first_s, longest_s = pace.first_pause.total_seconds(), pace.longest_pause.total_seconds()
        retrying = Retrying(
            retry=retry_if_exception_type(TryAgainError),
            wait=wait_random_exponential(multiplier=first_s, max=longest_s),
            stop=lambda _: self._ending.is_set() or time.monotonic() >= item.until,
            sleep=self._pause,
            before=self._pass_gate,
            reraise=True,
        )
        try:
            retrying(self._send, item.announcement)
        except ReaperError as error:
            self._failed(item, str(error))
        except Exception as error:  # noqa: BLE001 - the thread has to live for the next one; its words may hold a secret
            self._failed(item, f"an unexpected {type(error).__name__}; this is a fault of reaper, report it")
        else:
            with self._changed:
                self._counts = replace(self._counts, sent=self._counts.sent + 1)

    def _pause(self, seconds: float) -> None:
        self._ending.wait(seconds)

    def _pass_gate(self, _state: RetryCallState) -> None:
        self._gate.wait()

    def _failed(self, item: _Item, why: str) -> None:
        with self._changed:
            self._counts = replace(self._counts, failed=self._counts.failed + 1)
        told = item.announcement
        facts: dict[str, object] = {"channel": self._name, "what": told.what.value, "title": told.title, "why": why}
        self._say("error", "announcement not delivered", facts)
