"""A word to systemd (sd_notify(3)): one datagram each. Says nothing where nobody wants to hear it."""

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import timedelta


class Notifier:
    """Tells the service manager that started this process how it is. Never raises."""

    def __init__(self, to: str | None, watchdog: timedelta | None) -> None:
        self._to = to
        self.watchdog = watchdog
        """How long `alive` may be silent before this process is killed; None: nobody watches."""

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> "Notifier":
        """What the service manager left in the environment, taken out of it.

        Database servers speak this protocol too: one that reaper starts would report its own life as reaper's.
        """
        to = environment.pop("NOTIFY_SOCKET", None)
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        watched = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(to, timedelta(microseconds=int(usec)) if watched else None)

    def ready(self, status: str) -> None:
        """It works: the policies are read and the store is open. `status`: one line, shown by systemctl."""
        self._say("READY=1", _status(status))

    def status(self, status: str) -> None:
        """What it does now, in one line."""
        self._say(_status(status))

    def alive(self) -> None:
        """Its loop goes round."""
        self._say("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """It ends, as soon as what is past the kill is finished."""
        self._say("STOPPING=1", _status(status))

    def _say(self, *lines: str) -> None:
        if not self._to:
            return
        address = "\0" + self._to[1:] if self._to.startswith("@") else self._to
        # A manager that does not listen is no reason to stop, and a full queue none to wait.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(errors="replace"), address)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"
