"""A person's Ctrl-C, answered at safe places."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from reaper.domain.errors import AbortedError
from reaper.workflow.steps import Message

_ASK_EVERY_S = 1.0


class SignalInterrupt:
    """SIGINT, SIGTERM and SIGHUP (a closed terminal) as a wish: honoured before the kill, answered after it."""

    def __init__(self) -> None:
        self.wished = threading.Event()
        self._crossed = threading.Event()

    @contextmanager
    def installed(self) -> Iterator["SignalInterrupt"]:
        """Listen to the signals inside the block. Only the main thread may."""
        before = {s: signal.signal(s, self._heard) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self.wished.set()
        if self._crossed.is_set():
            said = "the victim is dead: the run goes on to its end, so that the cluster is whole again"
        else:
            said = "stopping before the kill: what was built is being undone"
        with contextlib.suppress(OSError, ValueError):  # the terminal may be what has gone
            sys.stderr.write(f"\nreaper: {said}\n")

    def check(self) -> None:
        """AbortedError if a person asked to stop and the kill has not happened."""
        if self.wished.is_set() and not self._crossed.is_set():
            raise AbortedError("stopped by a person before the kill; nothing is left of this run")

    def cross(self) -> None:
        """The point of no return."""
        self.check()
        self._crossed.set()

    def crossed(self) -> None:
        """The kill lies behind already."""
        self._crossed.set()


class StoreInterrupt:
    """What a person says to one run, here by a signal or anywhere by a message in the store."""

    def __init__(
        self, signals: SignalInterrupt, told_to_stop: Callable[[], Message | None], clock: Callable[[], float]
    ) -> None:
        self._signals = signals
        self._told_to_stop = told_to_stop
        self._clock = clock
        self._crossed = False
        self._ask_at = 0.0

    def check(self) -> None:
        """AbortedError if a person asked to stop and the kill has not happened. The store is asked once a second."""
        self._signals.check()
        if self._crossed or self._clock() < self._ask_at:
            return
        self._ask_at = self._clock() + _ASK_EVERY_S
        message = self._told_to_stop()
        if message is not None:
            raise AbortedError(f"aborted {message.by}; nothing is left of this run")

    def cross(self) -> None:
        """The point of no return."""
        self._ask_at = 0.0
        self.check()
        self._signals.cross()
        self._crossed = True

    def crossed(self) -> None:
        """The kill lies behind already."""
        self._signals.crossed()
        self._crossed = True
