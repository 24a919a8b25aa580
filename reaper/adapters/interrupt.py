"""A person's Ctrl-C, answered at safe places."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from reaper.domain.errors import AbortedError


class SignalInterrupt:
    """SIGINT, SIGTERM and SIGHUP (a closed terminal) as a wish: honoured before the kill, answered after it."""

    def __init__(self) -> None:
        self._wished = threading.Event()
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
        self._wished.set()
        if self._crossed.is_set():
            said = "the master is dead: the failover has to finish, and it does; it takes seconds"
        else:
            said = "stopping before the kill: what was built is being undone"
        with contextlib.suppress(OSError, ValueError):  # the terminal may be what has gone
            sys.stderr.write(f"\nreaper: {said}\n")

    def check(self) -> None:
        """AbortedError if a person asked to stop and the kill has not happened."""
        if self._wished.is_set() and not self._crossed.is_set():
            raise AbortedError("stopped by a person before the kill; nothing is left of this run")

    def cross(self) -> None:
        """The point of no return."""
        self.check()
        self._crossed.set()
