"""The workflow's `Server` over a connection and a dialect."""

from collections.abc import Iterable
from datetime import timedelta

from reaper.adapters.mysql import binlogs
from reaper.adapters.mysql import rehearse as rehearsal
from reaper.adapters.mysql.claim import claim
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.dialect import Dialect, counters
from reaper.adapters.mysql.event_handover import hand_over
from reaper.adapters.mysql.inventory import inventory, read_events
from reaper.adapters.mysql.pages import dump_pages
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.domain.errors import ReadOnlyError
from reaper.domain.facts import Address, Instance, InstanceId, SemiSync, ServerFacts
from reaper.domain.gtid import GtidSet
from reaper.domain.parity import Amiss, Events, HandOver, Inventory
from reaper.domain.rehearsal import Account, Attempt, Transport
from reaper.workflow.server import SCHEMA, Halted

_MARKER_LOCK_WAIT_S = 3


class SqlServer:
    """One warm connection to one server."""

    def __init__(
        self, instance: Instance, connection: Connection, dialect: Dialect, replication: ReplicationAccount
    ) -> None:
        self._instance = instance
        self._connection = connection
        self._ask = connection.ask
        self._dialect = dialect
        self._replication = replication

    @property
    def instance(self) -> InstanceId:
        """Whom this connection leads to."""
        return self._instance.id

    def facts(self) -> ServerFacts:
        """Everything the guards want to know."""
        return self._dialect.facts(self._ask)

    def executed(self) -> GtidSet:
        """The transactions that this server has executed."""
        return self._dialect.executed(self._ask)

    def semi_sync(self) -> SemiSync:
        """The semi-sync state and counters."""
        return self._dialect.semi_sync(self._ask)

    def wait_applied(self, target: GtidSet, within: timedelta) -> bool:
        """Wait until `target` has been applied."""
        return self._dialect.wait_applied(self._ask, target, within)

    def halt(self) -> Halted:
        """Stop the receiver and read the positions."""
        return self._dialect.halt(self._ask)

    def join(self, source: Address, *, position: str | None, history: GtidSet | None) -> None:
        """Make a fresh copy a replica of `source`."""
        self._dialect.join(self._ask, source, self._replication, position, history)

    def follow(self, source: Address) -> None:
        """Replicate from `source` by GTID."""
        self._dialect.follow(self._ask, source, self._replication)

    def resume_replication(self) -> None:
        """Start the configured replication threads."""
        self._dialect.resume_replication(self._ask)

    def promote(self, *, arm_semi_sync: bool) -> None:
        """Stop applying, arm semi-sync, open for writes."""
        self._dialect.promote(self._ask, arm_semi_sync=arm_semi_sync)

    def forget_source(self) -> None:
        """The housekeeping after a promotion."""
        self._dialect.forget_source(self._ask)

    def close_for_writes(self, within: timedelta) -> GtidSet:
        """Close a master for every session."""
        return self._dialect.close_for_writes(self._ask, within)

    def open_for_writes(self) -> None:
        """Undo `close_for_writes`."""
        self._dialect.open_for_writes(self._ask)

    def claim(self, run: str) -> str | None:
        """Hold reaper's lock of this server for a run while this connection lives."""
        return claim(self._ask, run)

    def write_marker(self, run: str) -> None:
        """Commit the run's marker row; behind a global lock it gives up instead of queueing."""
        self._must_be_open()
        self._ask(f"SET SESSION lock_wait_timeout = {_MARKER_LOCK_WAIT_S}")
        self._ask(f"CREATE TABLE IF NOT EXISTS {SCHEMA}.marker (run VARCHAR(120) PRIMARY KEY, seen INT NOT NULL)")
        self._ask(
            f"INSERT INTO {SCHEMA}.marker (run, seen) VALUES (%s, 1) ON DUPLICATE KEY UPDATE seen = seen + 1",
            run,
        )

    def marker_visible(self, run: str) -> bool:
        """True if the run's marker row can be read here."""
        return bool(self._ask(f"SELECT seen FROM {SCHEMA}.marker WHERE run = %s", run))

    def clear_marker(self, run: str) -> None:
        """Delete the run's marker row, if there ever was a marker table."""
        found = "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = 'marker'"
        if self._ask(found, SCHEMA):
            self._must_be_open()
            self._ask(f"SET SESSION lock_wait_timeout = {_MARKER_LOCK_WAIT_S}")
            self._ask(f"DELETE FROM {SCHEMA}.marker WHERE run = %s", run)

    def create_probe_table(self, name: str) -> None:
        """Create the probe's table. No unique key on (client, seq): a write applied twice has to show."""
        self._must_be_open()
        self._ask(
            f"CREATE TABLE IF NOT EXISTS {SCHEMA}.`{name}` (id BIGINT AUTO_INCREMENT PRIMARY KEY,"
            " client INT NOT NULL, seq BIGINT NOT NULL, KEY client_seq (client, seq)) ENGINE=InnoDB"
        )

    def probe_rows(self, name: str) -> Iterable[tuple[int, int]]:
        """Every (client, seq) in the probe's table."""
        rows = self._ask(f"SELECT client, seq FROM {SCHEMA}.`{name}`")
        return [(int(r["client"]), int(r["seq"])) for r in rows]

    def drop_probe_table(self, name: str) -> None:
        """Drop the probe's table."""
        found = "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
        if self._ask(found, SCHEMA, name):
            self._must_be_open()
            self._ask(f"DROP TABLE IF EXISTS {SCHEMA}.`{name}`")

    def _must_be_open(self) -> None:
        """Reaper's own account may write on a read-only server, and must not (E08)."""
        if self._ask("SELECT @@global.read_only AS closed")[0]["closed"]:
            raise ReadOnlyError(f"{self._instance.id} is read-only: it is not, or no longer, the master")

    def tables(self) -> frozenset[str]:
        """Every table outside the system schemas and reaper's own."""
        rows = self._ask(
            "SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables"
            " WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', %s)",
            SCHEMA,
        )
        return frozenset(str(r["name"]) for r in rows)

    def dump_pages(self) -> None:
        """Write the whole page list."""
        dump_pages(self._ask, self._instance)

    def flush_logs(self) -> None:
        """Of every engine, here only."""
        self._ask("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")

    def pages_loaded(self) -> bool:
        """True if the load at startup has ended, or there was nothing to load."""
        said = self._pages("load")
        return "Loading" not in said and "Loaded" not in said

    def _pages(self, which: str) -> str:
        name = f"innodb_buffer_pool_{which}_status"
        return counters(self._ask, name).get(name, "")

    # ---- before the kill

    def inventory(self, key: bytes) -> Inventory:
        """What a successor must have too."""
        return inventory(self._ask, self._dialect.flavour, key)

    def events(self) -> Events:
        """What it runs by schedule."""
        return read_events(self._ask)

    def hand_over(self, wanted: HandOver) -> tuple[Amiss, ...]:
        """Run on a new master what its predecessor ran by schedule."""
        return hand_over(self._ask, wanted)

    def rehearse(self, heir: Address, within: timedelta) -> Attempt:
        """Replicate from `heir` for a moment."""
        return rehearsal.rehearse(self._ask, self._rehearsal, heir, self._replication, within)

    def unrehearse(self) -> None:
        """End a rehearsal that was cut down."""
        rehearsal.unrehearse(self._ask, self._rehearsal)

    def accounts(self, user: str) -> tuple[Account, ...] | None:
        """The accounts of this user here."""
        return rehearsal.accounts(self._ask, user)

    def transport_offered(self) -> Transport:
        """TLS if this server offers it."""
        return rehearsal.transport_offered(self._ask, self._rehearsal)

    @property
    def _rehearsal(self) -> rehearsal.Words:
        return rehearsal.words_of(self._dialect.flavour)

    # ---- binary logs

    def binlog_expiry(self) -> str:
        """The settings by which the server deletes its binary logs."""
        return binlogs.read_expiry(self._ask)

    def hold_binlogs(self, former: str) -> None:
        """Let the server delete no binary log by itself."""
        binlogs.hold_binlogs(self._ask, former)

    def release_binlogs(self, former: str) -> None:
        """Put back what `hold_binlogs` changed."""
        binlogs.release_binlogs(self._ask, former)

    def purged(self) -> GtidSet | None:
        """Executed, and no longer in the binary logs."""
        return binlogs.first_available(self._ask, self._dialect.flavour)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()
