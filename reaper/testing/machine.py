"""One simulated server: its log, its replication, its process.

Everything here is called under the clock's lock and never waits; who waits is `connection` and `clients`.
"""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from reaper.domain.facts import Address, InstanceId, InstanceState, Openness
from reaper.domain.gtid import MariadbGtid, MariadbGtidSet
from reaper.testing.clock import FakeClock, nanoseconds
from reaper.testing.parts import Channel, Commit, Knobs, Outcome, Row, SemiSyncState, Transaction, Verb


class Peers(Protocol):
    """What a machine knows of the others. The fleet implements it."""

    def at(self, address: Address) -> "Machine | None":
        """The living server at an address."""

    def followers(self, machine: "Machine") -> "list[Machine]":
        """Who is connected to it."""

    def ended(self, machine: "Machine") -> None:
        """A process has ended."""

    def opened(self, machine: "Machine") -> None:
        """A server accepts writes."""


class Machine:
    """A server and the process that it is. `peers` finds the living server at an address."""

    def __init__(
        self,
        clock: FakeClock,
        peers: Peers,
        *,
        id: InstanceId,
        address: Address,
        server_id: int,
        made_by: str | None,
    ) -> None:
        self.clock, self.peers = clock, peers
        self.id, self.address, self.server_id, self.made_by = id, address, server_id, made_by
        self.created: datetime = clock.now()
        self.state = InstanceState.RUNNING
        self.quarantined_until: datetime | None = None
        self.data_bytes: int | None = 64 * 2**20
        self.free_bytes: int | None = 100 * 2**30
        self.doomed = False  # killed, and its process has not ended yet: it answers nobody
        self.generation = 0  # of the process; a connection to an earlier one is broken
        self.claim: tuple[object, str] | None = None  # the connection that holds reaper's lock, and for which run
        self.binlogs_held = False  # by reaper, for a build
        self.booted_ns = clock.monotonic_ns()
        self.death: str | None = None  # the proof
        self.openness = Openness.READ_ONLY
        self.log: list[Transaction] = []
        self.relay: list[tuple[int, Transaction]] = []  # (due_ns, transaction), received and not applied
        self.marks: dict[tuple[int, int], int] = {}  # (domain, server) -> sequence, executed
        self.tables: dict[str, Counter[Row]] = {}
        self.channel: Channel | None = None
        self.semi_sync = SemiSyncState()
        self.pending: list[Commit] = []
        self.knobs = Knobs()
        self.verified = made_by is None  # counts as a copy: of the lab, or joined once

    # ---- state

    @property
    def runs(self) -> bool:
        """True if the process is there, frozen or not."""
        return self.state in (InstanceState.RUNNING, InstanceState.FROZEN)

    @property
    def writable(self) -> bool:
        """True if a client could commit here, now or when it wakes up."""
        return self.runs and self.openness is Openness.OPEN

    @property
    def executed(self) -> MariadbGtidSet:
        """What it has executed."""
        return MariadbGtidSet(tuple(MariadbGtid(d, s, n) for (d, s), n in self.marks.items()))

    @property
    def received(self) -> MariadbGtidSet:
        """What it has in its relay log or executed."""
        return MariadbGtidSet((*self.executed.entries, *(t.gtid for _, t in self.relay)))

    def holds(self, gtid: MariadbGtid) -> bool:
        """True if a transaction was received or executed."""
        if self.marks.get((gtid.domain, gtid.server), 0) >= gtid.sequence:
            return True
        return any(t.gtid == gtid for _, t in self.relay)

    # ---- writing

    def commit(self, verb: Verb, table: str, row: Row = (), told: Callable[[Commit], None] | None = None) -> Commit:
        """Commit here, whoever asks and however open the server is; the caller has checked that."""
        sequence = max((n for (d, _), n in self.marks.items() if d == 0), default=0) + 1
        transaction = Transaction(MariadbGtid(0, self.server_id, sequence), verb, table, row)
        commit = Commit(transaction.gtid, told)
        semi_sync = self.semi_sync
        if semi_sync.source_enabled and semi_sync.source_active and self.openness is Openness.OPEN:
            self.pending.append(commit)
            self.clock.after(semi_sync.timeout, lambda: self._fall_back(commit))
        self._execute(transaction)
        for follower in self.peers.followers(self):
            follower.schedule_pull()
        if commit not in self.pending and commit.outcome is Outcome.PENDING:
            semi_sync.unacknowledged += semi_sync.source_enabled
            commit.settle(Outcome.ACKNOWLEDGED)
        return commit

    def _execute(self, transaction: Transaction) -> None:
        gtid = transaction.gtid
        self.log.append(transaction)
        self.marks[gtid.domain, gtid.server] = max(gtid.sequence, self.marks.get((gtid.domain, gtid.server), 0))
        match transaction.verb:
            case Verb.CREATE:
                self.tables.setdefault(transaction.table, Counter())
            case Verb.DROP:
                self.tables.pop(transaction.table, None)
            case Verb.INSERT:
                self.tables.setdefault(transaction.table, Counter())[transaction.row] += 1
            case Verb.DELETE:
                self.tables.setdefault(transaction.table, Counter()).pop(transaction.row, None)

    def _fall_back(self, commit: Commit) -> None:
        """Semi-sync's time-out: everybody who waits is told "committed", and nobody waits any more (E02)."""
        if commit not in self.pending or self.state is not InstanceState.RUNNING:
            return
        self.semi_sync.source_active = False
        waiting, self.pending = self.pending, []
        self.semi_sync.unacknowledged += len(waiting)
        for one in waiting:
            one.settle(Outcome.ACKNOWLEDGED)

    def acknowledge(self, replica: "Machine") -> None:
        """A replica says what it has; whoever waited for that is told "committed"."""
        if self.state is not InstanceState.RUNNING:
            return
        done = [c for c in self.pending if replica.holds(c.gtid)]
        self.pending = [c for c in self.pending if c not in done]
        self.semi_sync.acknowledged += len(done)
        for one in done:
            one.settle(Outcome.ACKNOWLEDGED)

    # ---- replicating

    @property
    def connected_to(self) -> "Machine | None":
        """The living source that the receiver is connected to, or None."""
        if self.channel is None or not self.channel.receiving or self.channel.receiver_error:
            return None
        source = self.peers.at(self.channel.source)
        return source if source and source.state is InstanceState.RUNNING else None

    def follow(self, source: Address) -> None:
        """Point the channel at a source, throw unapplied relay logs away, start both threads."""
        self.relay = []
        self.channel = Channel(source=source)
        self.start_replication()

    def start_replication(self) -> None:
        """Start both threads; a source that lacks what is held here stops the receiver with an error."""
        channel = self.channel
        if channel is None:
            return
        channel.applying, channel.applier_error = True, None
        channel.receiving, channel.receiver_error, channel.cursor = True, None, 0
        self.reconnect()
        self.apply_due()

    def reconnect(self) -> None:
        """Log in at the source, if it is there."""
        source, channel = self.connected_to, self.channel
        if source is None or channel is None:
            return
        ahead = self.received.beyond(source.executed)
        if ahead:
            channel.receiving = False
            channel.receiver_error = f"Got fatal error 1236 from master: GTID {ahead[0]} is not in the master's binlog"
            return
        self.schedule_pull()

    def stop_receiver(self, error: str | None = None) -> None:
        """Stop the receiver, as STOP SLAVE IO_THREAD or an error does."""
        if self.channel:
            self.channel.receiving, self.channel.receiver_error = False, error

    def stop_applier(self, error: str | None = None) -> None:
        """Stop the applier, as STOP SLAVE SQL_THREAD or an error does."""
        if self.channel:
            self.channel.applying, self.channel.applier_error = False, error

    def schedule_pull(self) -> None:
        """Receive what the source has, after the network's lag."""
        if self.knobs.receive_lag:
            self.clock.after(self.knobs.receive_lag, self.pull)
        else:
            self.pull()

    def pull(self) -> None:
        """Receive everything that the source has and this server lacks."""
        source, channel = self.connected_to, self.channel
        if source is None or channel is None or self.knobs.deaf or self.state is not InstanceState.RUNNING:
            return
        wait = self.knobs.apply_lag + self.knobs.delay
        due = self.clock.monotonic_ns() + nanoseconds(wait)
        for transaction in source.log[channel.cursor :]:
            if not self.holds(transaction.gtid):
                self.relay.append((due, transaction))
        channel.cursor = len(source.log)
        if wait:
            self.clock.after(wait, self.apply_due)
        self.apply_due()
        if self.semi_sync.replica_enabled:
            source.semi_sync.source_active = True
            source.acknowledge(self)

    def apply_due(self) -> None:
        """Apply what is due, in order, and hand it on to this server's own replicas."""
        if self.channel is None or not self.channel.applying or self.state is not InstanceState.RUNNING:
            return
        applied = False
        while self.relay and self.relay[0][0] <= self.clock.monotonic_ns():
            _, transaction = self.relay.pop(0)
            if self.marks.get((transaction.gtid.domain, transaction.gtid.server), 0) < transaction.gtid.sequence:
                self._execute(transaction)
                applied = True
        if applied:
            for follower in self.peers.followers(self):
                follower.schedule_pull()

    # ---- living and dying

    def end(self, proof: str) -> None:
        """The process is gone: connections break, whoever waited for an answer gets none."""
        if not self.runs:
            return
        self.state, self.death, self.doomed = InstanceState.DEAD, proof, False
        self.generation += 1
        lost, self.pending = self.pending, []
        for one in lost:
            one.settle(Outcome.LOST)
        self.peers.ended(self)

    def boot(self) -> None:
        """Start the process: read-only, replication not started."""
        self.state, self.death = InstanceState.RUNNING, None
        self.openness = Openness.READ_ONLY
        self.semi_sync.source_enabled = self.semi_sync.source_active = False
        self.booted_ns = self.clock.monotonic_ns()
        if self.channel:
            self.channel.receiving = self.channel.applying = False
        for follower in self.peers.followers(self):
            follower.reconnect()

    def open(self) -> None:
        """Accept writes."""
        self.openness = Openness.OPEN
        self.peers.opened(self)
