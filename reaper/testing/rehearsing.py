"""Rehearsals on simulated servers: what a process that dies in the middle leaves behind is there for the next one."""

from datetime import timedelta

from reaper.domain.errors import ReaperError
from reaper.domain.facts import Address, InstanceId
from reaper.domain.rehearsal import Account, Attempt, Obstacle, Transport
from reaper.testing.connection import FakeServer
from reaper.testing.faults import Faults
from reaper.testing.machine import Machine

_CONNECTING_TAKES = timedelta(milliseconds=10)
_USER = "replication"


class Backstage:
    """What tests turn, and what is left on the servers of one world."""

    def __init__(self) -> None:
        self.obstacles: dict[InstanceId, Obstacle] = {}  # by sibling: what will keep it from connecting
        self.transport = Transport.PLAIN  # of every channel
        self.offered = Transport.TLS  # by every server
        self.accounts: tuple[Account, ...] | None = (Account(host="%", transport=Transport.PLAIN),)
        self.channels: set[InstanceId] = set()  # where a rehearsal was begun and not taken back


class FakeUnderstudy(FakeServer):
    """A connection to a simulated server that can rehearse."""

    def __init__(self, machine: Machine, faults: Faults, backstage: Backstage) -> None:
        super().__init__(machine, faults)
        self._backstage = backstage

    def rehearse(self, heir: Address, within: timedelta) -> Attempt:
        """Stop the receiver, connect to the heir, start the receiver. A power cut leaves it stopped."""
        with self._call("rehearse") as m:
            self._backstage.channels.add(m.id)
            self._faults.cut()
            m.stop_receiver()
            self._faults.cut()
            try:
                self._clock.sleep(min(_CONNECTING_TAKES, within))
                self._reach()
                obstacle = self._backstage.obstacles.get(m.id) or _obstacle(m, heir)
            except ReaperError:
                self._take_back()
                raise
            self._faults.cut()
            self._take_back()
            said = f"error of a test: {obstacle}" if obstacle else ""
            return Attempt(obstacle=obstacle, said=said, user=_USER, transport=self._backstage.transport)

    def unrehearse(self) -> None:
        """Start the receiver if a rehearsal has stopped it."""
        with self._call("unrehearse"):
            self._take_back()

    def _take_back(self) -> None:
        self._reach()
        m = self._machine
        if m.id not in self._backstage.channels:
            return
        if m.channel is not None:
            m.channel.receiving, m.channel.receiver_error, m.channel.cursor = True, None, 0
            m.reconnect()
        self._faults.cut()
        self._backstage.channels.discard(m.id)

    def accounts(self, user: str) -> tuple[Account, ...] | None:  # noqa: ARG002 - there is one user
        """As the test says."""
        with self._call("accounts"):
            return self._backstage.accounts

    def transport_offered(self) -> Transport:
        """As the test says."""
        with self._call("transport_offered"):
            return self._backstage.offered


def _obstacle(machine: Machine, heir: Address) -> Obstacle | None:
    source = machine.peers.at(heir)
    if source is None:
        return Obstacle.UNREACHABLE
    if source.server_id == machine.server_id:
        return Obstacle.SAME_ID
    return None if source.executed.covers(machine.executed) else Obstacle.BEHIND
