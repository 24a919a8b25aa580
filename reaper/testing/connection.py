"""A connection to a simulated server: the workflow's `Server`, with MariaDB's manners."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from reaper.domain.errors import ReadOnlyError, RefusedError, ServerError, ServerGoneError, StatementTimeoutError
from reaper.domain.facts import (
    Address,
    Flavour,
    InstanceId,
    InstanceState,
    Openness,
    Replication,
    SemiSync,
    ServerFacts,
    ThreadState,
)
from reaper.domain.gtid import GtidSet, MariadbGtidSet
from reaper.domain.parity import Amiss, Events, HandOver, Inventory
from reaper.testing.faults import Faults
from reaper.testing.inventories import handed_over, simulated
from reaper.testing.machine import Machine
from reaper.testing.parts import MARKER, Channel, Outcome, Row, Verb
from reaper.workflow.server import SCHEMA, Halted

IO_TIMEOUT = timedelta(seconds=3)  # how long a server that is frozen, or ends, is waited for
COMMIT_TIMEOUT = timedelta(seconds=30)  # how long the answer to a commit is waited for
_PROMOTE_TAKES = timedelta(milliseconds=6)
_ONE_DAY = timedelta(days=1)


class FakeServer:
    """One connection. It breaks when its server's process ends, and does not come back with the next one."""

    def __init__(self, machine: Machine, faults: Faults) -> None:
        self._machine = machine
        self._faults = faults
        self._clock = machine.clock
        self._closed = False
        self._generation = machine.generation
        with self._call("connect"):
            pass

    @contextmanager
    def _call(self, method: str) -> Iterator[Machine]:
        """One statement: the world's lock, the ordered faults, and whether anybody answers."""
        with self._clock.lock, self._faults.around(method, self._machine.id.short):
            self._reach()
            yield self._machine

    def _reach(self) -> None:
        m = self._machine
        if self._closed:
            raise ServerGoneError(f"the connection to {m.id} was closed")
        if m.state is InstanceState.FROZEN or m.doomed:
            self._clock.wait(lambda: not (m.state is InstanceState.FROZEN or m.doomed), IO_TIMEOUT)
        if m.state is not InstanceState.RUNNING or m.generation != self._generation:
            raise ServerGoneError(f"{m.id} at {m.address} does not answer")

    @property
    def instance(self) -> InstanceId:
        """Whom this connection leads to."""
        return self._machine.id

    # ---- reading

    def facts(self) -> ServerFacts:
        """Everything the guards want to know."""
        with self._call("facts") as m:
            return ServerFacts(
                flavour=Flavour.MARIADB,
                version="10.11.8-MariaDB",
                server_id=m.server_id,
                server_uuid=None,
                openness=m.openness,
                executed=m.executed,
                purged=None,
                gtid_strict=True,
                binlog=True,
                binlog_of_replicated=True,
                binlog_row_format=True,
                channels=(_replication(m, m.channel),) if m.channel else (),
                semi_sync=_semi_sync(m),
                activity=m.knobs.activity,
                uptime=timedelta(microseconds=(self._clock.monotonic_ns() - m.booted_ns) // 1000),
            )

    def executed(self) -> GtidSet:
        """The transactions that this server has executed."""
        with self._call("executed") as m:
            return m.executed

    def semi_sync(self) -> SemiSync:
        """The semi-sync state and counters."""
        with self._call("semi_sync") as m:
            return _semi_sync(m)

    def wait_applied(self, target: GtidSet, within: timedelta) -> bool:
        """Wait until `target` has been applied, or the server ends."""
        with self._call("wait_applied") as m:
            self._clock.wait(lambda: m.executed.covers(target) or m.state is not InstanceState.RUNNING, within)
            self._reach()
            return m.executed.covers(target)

    # ---- replicating

    def halt(self) -> Halted:
        """Stop the receiver and read the positions."""
        with self._call("halt") as m:
            executed, opened = m.executed, m.openness is Openness.OPEN
            if m.channel is None:
                return Halted(
                    received=executed,
                    executed=executed,
                    unfit="it is no replica",
                    broken_applier=True,
                    accepts_writes=opened,
                )
            m.stop_receiver(m.channel.receiver_error)
            broken, unfit = not m.channel.applying, None
            if broken:
                unfit = f"its applier is stopped: {m.channel.applier_error or 'by hand'}"
            elif m.knobs.delay:
                unfit = f"it has a configured delay of {m.knobs.delay.total_seconds():.0f} s"
            return Halted(
                received=m.received, executed=executed, unfit=unfit, broken_applier=broken, accepts_writes=opened
            )

    def join(self, source: Address, *, position: str | None, history: GtidSet | None) -> None:
        """Make a fresh copy a replica of `source`. A simulated copy always knows its own position."""
        del position, history
        with self._call("join") as m:
            m.follow(source)
            m.verified = True

    def follow(self, source: Address) -> None:
        """Replicate from `source` by GTID. A source that lacks something stops the receiver."""
        with self._call("follow") as m:
            if m.channel is not None:
                m.stop_receiver(m.channel.receiver_error)
                m.stop_applier(m.channel.applier_error)
            self._faults.cut()  # of several statements: whoever sent them may die between two
            m.follow(source)

    def resume_replication(self) -> None:
        """Start the replication threads that are configured."""
        with self._call("resume_replication") as m:
            if m.channel is None:
                raise ServerError(f"{m.id}: the server is not configured as slave (1200)")
            if not (m.channel.receiving and m.channel.applying):
                m.start_replication()

    def promote(self, *, arm_semi_sync: bool) -> None:
        """Stop applying, arm semi-sync as a source if asked, open for writes."""
        with self._call("promote") as m:
            m.stop_receiver()
            m.stop_applier()
            self._clock.sleep(_PROMOTE_TAKES)
            self._faults.cut()
            self._reach()
            if arm_semi_sync:
                m.semi_sync.source_enabled = m.semi_sync.source_active = True
            m.open()

    def forget_source(self) -> None:
        """The housekeeping after a promotion."""
        with self._call("forget_source") as m:
            m.relay, m.channel = [], None

    def close_for_writes(self, within: timedelta) -> GtidSet:
        """Read-only for everybody, once commits under way are answered; undone if that takes long (E09)."""
        with self._call("close_for_writes") as m:
            before, m.openness = m.openness, Openness.READ_ONLY
            if not self._clock.wait(lambda: not (m.pending or m.knobs.commit_hangs), within):
                m.openness = before
                raise StatementTimeoutError(f"{m.id}: a commit holds the lock for more than {within}")
            self._reach()
            return m.executed

    def open_for_writes(self) -> None:
        """Undo `close_for_writes`."""
        with self._call("open_for_writes") as m:
            m.open()

    # ---- tables

    def _commit(self, m: Machine, verb: Verb, table: str, row: Row = ()) -> None:
        if m.openness is not Openness.OPEN:
            raise ReadOnlyError(f"{m.id} runs with read_only")
        commit = m.commit(verb, table, row)
        answered = self._clock.wait(lambda: commit.outcome is not Outcome.PENDING, COMMIT_TIMEOUT)
        if not answered or commit.outcome is Outcome.LOST:
            raise ServerGoneError(f"{m.id} did not answer a commit; its fate is unknown")

    def claim(self, run: str) -> str | None:
        """Hold reaper's lock of this server for a run while this connection lives."""
        with self._call("claim") as m:
            holder, of = m.claim or (self, run)
            if isinstance(holder, FakeServer) and holder is not self and holder._lives:
                if of != run:
                    return f"the session of {of}"
                holder.close()
            m.claim = (self, run)
            return None

    @property
    def _lives(self) -> bool:
        return not self._closed and self._generation == self._machine.generation

    def write_marker(self, run: str) -> None:
        """Commit the run's marker row."""
        with self._call("write_marker") as m:
            self._commit(m, Verb.INSERT, MARKER, (run,))

    def marker_visible(self, run: str) -> bool:
        """True if the run's marker row can be read here."""
        with self._call("marker_visible") as m:
            return (run,) in m.tables.get(MARKER, {})

    def clear_marker(self, run: str) -> None:
        """Delete the run's marker row; without one nothing is written."""
        with self._call("clear_marker") as m:
            if (run,) in m.tables.get(MARKER, {}):
                self._commit(m, Verb.DELETE, MARKER, (run,))

    def create_probe_table(self, name: str) -> None:
        """Create the probe's table if it is not there."""
        with self._call("create_probe_table") as m:
            self._commit(m, Verb.CREATE, f"{SCHEMA}.{name}")

    def probe_rows(self, name: str) -> Iterable[tuple[int, int]]:
        """Every (client, seq) in the probe's table, repeats kept."""
        with self._call("probe_rows") as m:
            table = m.tables.get(f"{SCHEMA}.{name}")
            if table is None:
                raise ServerError(f"{m.id}: table {SCHEMA}.{name} doesn't exist (1146)")
            return [(int(str(c)), int(str(s))) for c, s in table.elements()]

    def drop_probe_table(self, name: str) -> None:
        """Drop the probe's table if it is there; a read-only server refuses either way."""
        with self._call("drop_probe_table") as m:
            self._commit(m, Verb.DROP, f"{SCHEMA}.{name}")

    def tables(self) -> frozenset[str]:
        """Every table outside reaper's own schema."""
        with self._call("tables") as m:
            return frozenset(name for name in m.tables if not name.startswith(f"{SCHEMA}."))

    def dump_pages(self) -> None:
        """Write the page list. Nothing to do here."""
        with self._call("dump_pages"):
            pass

    def flush_logs(self) -> None:
        """Nothing to do here."""
        with self._call("flush_logs"):
            pass

    def pages_loaded(self) -> bool:
        """True a while after the boot."""
        with self._call("pages_loaded") as m:
            return self._clock.monotonic_ns() - m.booted_ns >= m.knobs.pages_load_for / timedelta(microseconds=1) * 1000

    # ---- before the kill

    def inventory(self, key: bytes) -> Inventory:
        """What a successor must have too."""
        del key
        with self._call("inventory") as m:
            return simulated(parity=m.knobs.parity, events=m.knobs.events)

    def events(self) -> Events:
        """What it runs by schedule."""
        with self._call("events") as m:
            return m.knobs.events

    def hand_over(self, wanted: HandOver) -> tuple[Amiss, ...]:
        """Enable what the old master ran."""
        with self._call("hand_over") as m:
            m.knobs.events, amiss = handed_over(wanted, m.knobs.events)
            return amiss

    # ---- binary logs, which simulated servers never delete

    def binlog_expiry(self) -> str:
        """Whether they are held."""
        with self._call("binlog_expiry") as m:
            if m.binlogs_held:
                raise RefusedError(f"the binary logs of {m.id} are held by a run that nobody knows")
            return "kept"

    def hold_binlogs(self, former: str) -> None:
        """Hold them."""
        del former
        with self._call("hold_binlogs") as m:
            m.binlogs_held = True

    def release_binlogs(self, former: str) -> None:
        """Let go of them."""
        del former
        with self._call("release_binlogs") as m:
            m.binlogs_held = False

    def purged(self) -> GtidSet | None:
        """Nothing."""
        with self._call("purged"):
            return MariadbGtidSet(())

    def close(self) -> None:
        """Give the connection back."""
        self._closed = True


def _replication(m: Machine, channel: Channel) -> Replication:
    source = m.peers.at(channel.source)
    if not channel.receiving:
        receiver = ThreadState.STOPPED
    else:
        receiver = ThreadState.RUNNING if source else ThreadState.CONNECTING
    behind = m.relay[-1][1].gtid.sequence - m.relay[0][1].gtid.sequence + 1 if m.relay else 0
    return Replication(
        channel="",
        source=channel.source,
        source_server_id=source.server_id if source else None,
        receiver=receiver,
        applier=ThreadState.RUNNING if channel.applying else ThreadState.STOPPED,
        receiver_error=channel.receiver_error,
        applier_error=channel.applier_error,
        delay=m.knobs.delay,
        received=MariadbGtidSet(tuple(t.gtid for _, t in m.relay)) | m.executed,
        by_gtid=m.knobs.by_gtid,
        filters=m.knobs.filters,
        clock_lag=timedelta(seconds=min(behind, _ONE_DAY.total_seconds())) if channel.applying else None,
    )


def _semi_sync(m: Machine) -> SemiSync:
    state = m.semi_sync
    clients = [f for f in m.peers.followers(m) if f.semi_sync.replica_enabled]
    return SemiSync(
        source_enabled=state.source_enabled,
        source_active=state.source_enabled and state.source_active,
        source_clients=len(clients),
        unacknowledged=state.unacknowledged,
        acknowledged=state.acknowledged,
        after_sync=state.after_sync,
        timeout=state.timeout,
        replica_enabled=state.replica_enabled,
        replica_active=state.replica_enabled and m.connected_to is not None,
    )
