"""The workflow's `Server` over a connection and a dialect."""

import time
from collections.abc import Iterable
from datetime import timedelta

from reaper.adapters.mysql.claim import claim
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.dialect import Dialect, counters
from reaper.domain.errors import ReadOnlyError, TryAgainError
from reaper.domain.facts import Address, InstanceId, SemiSync, ServerFacts
from reaper.domain.gtid import GtidSet
from reaper.workflow.engine import Login
from reaper.workflow.ports import Halted

_DUMP_WITHIN_S = 120.0  # eight bytes or so a page: seconds even for hundreds of GiB
_LOOK_EVERY_S = 0.01
_MARKER_LOCK_WAIT_S = 3

SCHEMA = "reaper"  # everything of reaper's in a cluster lies in this schema


class SqlServer:
    """One warm connection to one server."""

    def __init__(self, instance: InstanceId, connection: Connection, dialect: Dialect, replication: Login) -> None:
        self._instance = instance
        self._connection = connection
        self._ask = connection.ask
        self._dialect = dialect
        self._replication = replication

    @property
    def instance(self) -> InstanceId:
        """Whom this connection leads to."""
        return self._instance

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
            raise ReadOnlyError(f"{self._instance} is read-only: it is not, or no longer, the master")

    def tables(self) -> frozenset[str]:
        """Every table outside the system schemas and reaper's own."""
        rows = self._ask(
            "SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables"
            " WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', %s)",
            SCHEMA,
        )
        return frozenset(str(r["name"]) for r in rows)

    def dump_pages(self) -> None:
        """Write the whole page list (innodb_buffer_pool_dump_pct = 100, both flavours' manuals)."""
        share = self._ask("SELECT @@global.innodb_buffer_pool_dump_pct AS share")[0]["share"]
        self._ask("SET GLOBAL innodb_buffer_pool_dump_pct = 100")
        try:
            self._dump_now()
        finally:
            self._ask("SET GLOBAL innodb_buffer_pool_dump_pct = %s", share)

    def _dump_now(self) -> None:
        self._ask("SET GLOBAL innodb_buffer_pool_dump_now = ON")
        deadline = time.monotonic() + _DUMP_WITHIN_S
        while "ump completed" not in (said := self._pages("dump")):
            if time.monotonic() > deadline:
                raise TryAgainError(f"{self._instance} did not write its page list in {_DUMP_WITHIN_S:g} s: {said}")
            time.sleep(_LOOK_EVERY_S)

    def pages_loaded(self) -> bool:
        """True if the load at startup has ended, or there was nothing to load."""
        said = self._pages("load")
        return "Loading" not in said and "Loaded" not in said

    def _pages(self, which: str) -> str:
        name = f"innodb_buffer_pool_{which}_status"
        return counters(self._ask, name).get(name, "")

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()
