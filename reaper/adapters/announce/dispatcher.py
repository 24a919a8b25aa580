"""Hand announcements to the channels of a site."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from reaper.adapters.announce.channels import LOG, Channel, LogChannel, secret_of
from reaper.adapters.announce.lane import Counts, Gate, Lane, Pace
from reaper.adapters.announce.senders import send
from reaper.adapters.patience import Patience
from reaper.domain.announcement import Announcement, Severity
from reaper.domain.errors import ReaperError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_LEVELS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "critical"}


class Dispatcher:
    """Delivers at least once, in order per channel, later if need be.

    `channels`: of the site; the log is added if it is not among them.
    """

    def __init__(self, channels: tuple[Channel, ...], log: "FilteringBoundLogger", pace: Pace | None = None) -> None:
        self._log, self._pace = log, pace or Pace()
        self._channels = {channel.name: channel for channel in (LogChannel(), *channels)}
        self._patience = Patience(most_hanging=4 * len(self._channels))
        self._gate = Gate()
        self._lanes = {
            name: Lane(name, self._sender(channel), self._say, self._gate, self._pace)
            for name, channel in self._channels.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The channels that policies may name."""
        return tuple(self._channels)

    def faults(self) -> tuple[str, ...]:
        """Channels whose secret is not there now, in words; read once at the start so that it is not found at night."""
        found = []
        for name, channel in self._channels.items():
            secret = secret_of(channel)
            try:
                if secret is not None:
                    secret.read()
            except ReaperError as error:
                found.append(f"the channel {name}: {error}")
        return tuple(found)

    def tell(self, to: tuple[str, ...], announcement: Announcement) -> None:
        """Hand it over to the channels of these names. Returns at once and never raises.

        What is meant for a channel that does not exist goes to the log and says so.
        """
        unknown = tuple(name for name in dict.fromkeys(to) if name not in self._lanes)
        for name in dict.fromkeys(to):
            if name in self._lanes and not (unknown and name == LOG):
                self._lanes[name].put(announcement)
        if unknown:
            note = f"not told: reaper.yaml has no channel named {', '.join(unknown)}"
            self._lanes[LOG].put(replace(announcement, details=(*announcement.details, note)))

    def hold(self) -> None:
        """Begin no delivery until `release`: clients wait. Returns at once; may be held several times."""
        self._gate.hold()

    def release(self) -> None:
        """Undo one `hold`."""
        self._gate.release()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hold while inside."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def counts(self) -> Mapping[str, Counts]:
        """What became of the announcements, by channel."""
        return {name: lane.counts() for name, lane in self._lanes.items()}

    def close(self, within: timedelta) -> None:
        """Take no more and deliver what waits, as far as the time allows; the log says what was left."""
        until = time.monotonic() + within.total_seconds()
        for lane in self._lanes.values():
            lane.end()
        self._gate.open_for_good()
        for lane in self._lanes.values():
            lane.join(until - time.monotonic())
        for name, counts in self.counts().items():
            if counts.waiting:
                self._say("error", "announcements not delivered at the end", {"channel": name, "left": counts.waiting})

    def _sender(self, channel: Channel) -> Callable[[Announcement], None]:
        if isinstance(channel, LogChannel):
            return self._write

        def deliver(announcement: Announcement) -> None:
            self._patience.call(self._pace.attempt_within, partial(send, channel, announcement))

        return deliver

    def _write(self, announcement: Announcement) -> None:
        facts: dict[str, object] = {
            "what": announcement.what.value,
            "title": announcement.title,
            "details": list(announcement.details),
            "policy": announcement.policy,
            "cluster": announcement.cluster,
            "run": announcement.run,
        }
        told = {key: value for key, value in facts.items() if value not in (None, [])}
        self._say(_LEVELS[announcement.severity], "announcement", told)

    def _say(self, level: str, event: str, facts: dict[str, object]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal or the pipe may have gone
            getattr(self._log, level)(event, **facts)
