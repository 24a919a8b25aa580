"""What applications are: an endpoint that leads to a server, and clients that write through it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import Address, InstanceState, Openness
from reaper.domain.ledger import Fate, Ledger, Write
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Faults
from reaper.testing.machine import Machine
from reaper.testing.parts import Commit, Outcome, Verb
from reaper.workflow.ports import Route

READY_WITHIN = timedelta(seconds=5)


class Caller(Protocol):
    """Who wants to know that an endpoint has moved."""

    def rerouted(self) -> None:
        """The connections through the endpoint were cut."""


@dataclass(kw_only=True)
class Door:
    """An endpoint's state, shared by everybody who talks to it."""

    listen: Address
    target: Address | None = None
    epoch: int = 1
    stale_for: timedelta = timedelta(0)
    callers: list[Caller] = field(default_factory=list)

    def lead(self, to: Address) -> None:
        """Lead elsewhere; whoever is connected is cut off."""
        if to != self.target:
            self.target, self.epoch = to, self.epoch + 1
            for caller in list(self.callers):
                caller.rerouted()


class FakeEndpoint:
    """A control connection to a door."""

    def __init__(self, door: Door, cluster: str, clock: FakeClock, faults: Faults) -> None:
        self._door, self._cluster, self._clock, self._faults = door, cluster, clock, faults
        with faults.around("endpoint", cluster):
            pass

    @property
    def listen(self) -> Address:
        """The address that applications use."""
        return self._door.listen

    @property
    def stale_for(self) -> timedelta:
        """How long a test says that clients go on to a former target."""
        return self._door.stale_for

    def warm(self) -> None:
        """Nothing to open here."""
        with self._clock.lock, self._faults.around("warm", self._cluster):
            pass

    def show(self) -> Route:
        """Read back."""
        with self._clock.lock, self._faults.around("show", self._cluster):
            return Route(target=self._door.target, epoch=self._door.epoch, clients=len(self._door.callers))

    def route(self, to: Address, expected: Address | None) -> Route:
        """Compare and set. RefusedError: it leads to somebody else."""
        with self._clock.lock, self._faults.around("route", self._cluster):
            if self._door.target != to and expected not in (None, self._door.target):
                raise RefusedError(f"{self.listen} leads to {self._door.target}, not to {expected}")
            self._door.lead(to)
            return Route(target=self._door.target, epoch=self._door.epoch, clients=len(self._door.callers))

    def close(self) -> None:
        """Give the connection back."""


@dataclass(eq=False)
class _Client:
    number: int
    seq: int = 0
    sent_ns: int | None = None  # a write without an answer is under way
    server: Machine | None = None  # where it went


class FakeProbe:
    """Clients that each write a row at a fixed pace, as the fake clock advances."""

    def __init__(
        self,
        door: Door,
        table: str,
        *,
        clients: int,
        rate: float,
        clock: FakeClock,
        at: Callable[[Address], Machine | None],
        others: "list[FakeProbe]",
        faults: Faults,
    ) -> None:
        self._door, self._table, self._clock, self._at, self._faults = door, table, clock, at, faults
        self._others = others
        self._pace = timedelta(microseconds=round(1e6 * clients / rate))
        self._clients = [_Client(n) for n in range(clients)]
        self._writes: list[Write] = []
        self._hung: set[int] = set()
        self._ended = False
        with clock.lock:
            try:
                self._start()
            except BaseException:
                self.close()
                raise

    def _start(self) -> None:
        with self._faults.around("start_probe", self._table):
            self._door.callers.append(self)
            self._others.append(self)
            for i, client in enumerate(self._clients):
                self._clock.after(self._pace * i / len(self._clients), self._ticking(client))
            self._wait_ready()

    def _wait_ready(self) -> None:
        with self._faults.around("ready", self._table):
            if not self._clock.wait(lambda: self._all_acknowledged(0), READY_WITHIN):
                said = "; ".join(sorted({w.error for w in self._writes})) or "no answer"
                raise TryAgainError(f"the probe's first writes were not acknowledged: {said}")

    def hang(self, number: int) -> None:
        """From now on this client gets no answer to its next write."""
        self._hung.add(number)

    def wait_acknowledged(self, after_ns: int, within: timedelta) -> bool:
        """Wait until every client had a write acknowledged after that moment."""
        with self._clock.lock, self._faults.around("wait_acknowledged", self._table):
            return self._clock.wait(lambda: self._all_acknowledged(after_ns), within)

    def _all_acknowledged(self, after_ns: int) -> bool:
        back = set()
        for write in reversed(self._writes):
            if write.done_ns <= after_ns:
                break
            if write.fate is Fate.ACKNOWLEDGED:
                back.add(write.client)
        return len(back) == len(self._clients)

    def stop(self) -> Ledger:
        """End it; writes without an answer are of unknown fate."""
        with self._clock.lock, self._faults.around("stop", self._table):
            self._end()
            return Ledger(tuple(self._writes))

    def close(self) -> None:
        """End it."""
        with self._clock.lock:
            self._end()

    @property
    def recorded(self) -> Ledger:
        """What it has written down so far, as it would be found in its file."""
        return Ledger(tuple(self._writes))

    @property
    def running(self) -> bool:
        """True until it is stopped or closed."""
        return not self._ended

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        for client in self._clients:
            if client.sent_ns is not None:
                self._record(client, Fate.UNKNOWN, "the probe ended")
        if self in self._others:
            self._door.callers.remove(self)
            self._others.remove(self)

    def _ticking(self, client: _Client) -> Callable[[], None]:
        def tick() -> None:
            if self._ended:
                return
            self._clock.after(self._pace, tick)
            if client.sent_ns is None:
                self._write(client)

        return tick

    def _write(self, client: _Client) -> None:
        server = self._at(self._door.target) if self._door.target else None
        client.seq += 1
        client.sent_ns, client.server = self._clock.monotonic_ns(), server
        if client.number in self._hung:
            return
        if server is None:
            self._record(client, Fate.REFUSED, "connection refused")
        elif server.state is InstanceState.FROZEN:
            return  # silence, until the server dies or the endpoint moves
        elif server.openness is not Openness.OPEN:
            self._record(client, Fate.REFUSED, "the server is read-only")
        elif self._table not in server.tables:
            self._record(client, Fate.REFUSED, f"table {self._table} doesn't exist")
        else:
            seq = client.seq

            def told(commit: Commit) -> None:
                if client.sent_ns is not None and client.seq == seq:
                    lost = commit.outcome is Outcome.LOST
                    self._record(client, Fate.UNKNOWN if lost else Fate.ACKNOWLEDGED, "lost" if lost else "")

            server.commit(Verb.INSERT, self._table, (client.number, seq), told)

    def server_ended(self, machine: Machine) -> None:
        """A server's connections break."""
        for client in self._clients:
            if client.sent_ns is not None and client.server is machine:
                self._record(client, Fate.UNKNOWN, "lost connection")

    def rerouted(self) -> None:
        """The endpoint cut the connections."""
        for client in self._clients:
            if client.sent_ns is not None and client.number not in self._hung:
                self._record(client, Fate.UNKNOWN, "cut by the endpoint")

    def _record(self, client: _Client, fate: Fate, error: str) -> None:
        if client.sent_ns is None:
            return
        now = self._clock.monotonic_ns()
        self._writes.append(Write(client.number, client.seq, client.sent_ns, now, fate, error))
        client.sent_ns = client.server = None
