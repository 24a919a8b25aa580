"""An `Endpoint` over something that can be looked at and moved: compared before it is set, read back afterwards.

What differs between a DNS record, an address and a command is a `Door`; that a move compares, finds its own earlier
work and is believed only when it was read back is written once, here.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import Address
from reaper.planner.words import in_words
from reaper.workflow.ports import Clock, Route

_LOOK_EVERY = timedelta(milliseconds=200)


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """Where a door leads, and what a move from there has to find unchanged."""

    target: Address | None  # None: nowhere, as when the provider took it from an instance that has gone
    seen: str = ""  # the door's own: an association, a network interface, a record


class Door(Protocol):
    """One way for applications to find the master. Called by one thread."""

    @property
    def stale_for(self) -> timedelta:
        """How long clients may go on to the former target after a move was read back: a DNS record's TTL."""

    def look(self) -> Sighting:
        """Where it leads now. RefusedError: in a way that reaper does not understand, such as to two at once."""

    def move(self, to: Address, now: Sighting) -> None:
        """Lead to `to` unless it has changed since `now`; then nothing is done. What became of it is looked at."""

    def settle(self, until_ns: int) -> None:
        """Wait until everybody is answered as `look` was. TryAgainError: not in time."""


class DoorEndpoint:
    """Implements `workflow.ports.Endpoint` over a door. Not shared between threads.

    A door that leads nowhere may be moved whatever was expected: providers take addresses from an instance that
    they terminate, and nobody else is led away from.
    """

    def __init__(self, door: Door, listen: Address, clock: Clock, within: timedelta = timedelta(minutes=2)) -> None:
        self._door = door
        self._listen = listen
        self._clock = clock
        self._within = within  # of a move with all that it waits for

    @property
    def listen(self) -> Address:
        """The address that applications use."""
        return self._listen

    @property
    def stale_for(self) -> timedelta:
        """How long clients may still go to the former target after `route`: it belongs into the verdict."""
        return self._door.stale_for

    def warm(self) -> None:
        """Look once: the connection to whoever answers is open from then on."""
        self._door.look()

    def show(self) -> Route:
        """Where it leads. Neither moves nor clients are counted here."""
        return Route(target=self._door.look().target)

    def route(self, to: Address, expected: Address | None) -> Route:
        """Lead to `to` if it leads to `expected` now, nowhere, or already to `to`; None expects nothing.

        RefusedError: it leads to somebody else, and nothing was changed. TryAgainError: it could not be read back in
        time; call again, it finds its own work.
        """
        until_ns = self._clock.monotonic_ns() + self._within // timedelta(microseconds=1) * 1000
        while (now := self._door.look()).target != to:
            self._compare(now.target, to, expected)
            if self._clock.monotonic_ns() > until_ns:
                raise TryAgainError(
                    f"the endpoint {self._listen} still leads to {now.target or 'nowhere'} after "
                    f"{in_words(self._within)} of trying to lead it to {to}: see why, then repeat"
                )
            self._door.move(to, now)
            if self._door.look().target != to:  # the answer of a reader that lags, or somebody was faster
                self._clock.sleep(_LOOK_EVERY)
        self._door.settle(until_ns)
        return Route(target=to)

    def _compare(self, now: Address | None, to: Address, expected: Address | None) -> None:
        if now is None or expected is None or now == expected:
            return
        raise RefusedError(
            f"the endpoint {self._listen} leads to {now}, not to {expected}: it was not moved to {to}. "
            "Find out who moved it, then observe and plan again"
        )

    def close(self) -> None:
        """There is nothing to give back: the client belongs to whoever made it."""
