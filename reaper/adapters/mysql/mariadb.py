"""The dialect of MariaDB 10.6 and later."""

from datetime import timedelta

from reaper.adapters.mysql.connection import WAIT_SLICE_S, Ask, Row
from reaper.adapters.mysql.dialect import (
    CONNECT_RETRY_S,
    LONGEST_LOCK_WAIT_S,
    ONLINE_SCHEMA_CHANGE,
    counters,
    error_text,
    halted,
    is_schema_change,
    on,
    quoted,
    sessions,
    settings,
    thread_state,
)
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.tls import ServerTls
from reaper.domain.errors import AccessDeniedError, ServerError
from reaper.domain.facts import (
    Activity,
    Address,
    Flavour,
    Openness,
    Replication,
    SemiSync,
    ServerFacts,
    Session,
)
from reaper.domain.gtid import GtidSet, MariadbGtidSet
from reaper.workflow.server import Halted

_SETTINGS = (
    "server_id",
    "read_only",
    "gtid_strict_mode",
    "log_bin",
    "log_slave_updates",
    "binlog_format",
)
_SEMI_SYNC = (
    "rpl_semi_sync_master_enabled",
    "rpl_semi_sync_master_timeout",
    "rpl_semi_sync_master_wait_point",
    "rpl_semi_sync_slave_enabled",
)
_FILTERS = (
    "Replicate_Do_DB",
    "Replicate_Ignore_DB",
    "Replicate_Do_Table",
    "Replicate_Ignore_Table",
    "Replicate_Wild_Do_Table",
    "Replicate_Wild_Ignore_Table",
    "Replicate_Do_Domain_Ids",
    "Replicate_Ignore_Domain_Ids",
    "Replicate_Ignore_Server_Ids",
    "Replicate_Rewrite_DB",
)
# Lock modes of BACKUP STAGE and FLUSH TABLES WITH READ LOCK in information_schema.metadata_lock_info
# (plugin of the same name; sql/mdl.h and plugin/metadata_lock_info of MariaDB 10.11).
_GLOBAL_LOCKS = (
    "MDL_BACKUP_START",
    "MDL_BACKUP_FLUSH",
    "MDL_BACKUP_WAIT_FLUSH",
    "MDL_BACKUP_WAIT_DDL",
    "MDL_BACKUP_WAIT_COMMIT",
    "MDL_BACKUP_FTWRL1",
    "MDL_BACKUP_FTWRL2",
)


class MariadbDialect:
    """Statements and answers of MariaDB."""

    flavour = Flavour.MARIADB
    tls: ServerTls | None = None

    def facts(self, ask: Ask) -> ServerFacts:
        """Everything the guards want to know."""
        values = settings(ask, _SETTINGS)
        channels = tuple(self._channel(row) for row in ask("SHOW ALL SLAVES STATUS"))
        version = str(ask("SELECT VERSION() AS v")[0]["v"])
        return ServerFacts(
            flavour=self.flavour,
            version=version,
            server_id=int(values["server_id"]),
            server_uuid=None,
            openness=Openness.READ_ONLY if on(values["read_only"]) else Openness.OPEN,
            executed=self.executed(ask),
            purged=None,
            gtid_strict=on(values["gtid_strict_mode"]),
            binlog=on(values["log_bin"]),
            binlog_of_replicated=on(values["log_slave_updates"]),
            binlog_row_format=values["binlog_format"].upper() == "ROW",
            channels=channels,
            semi_sync=self.semi_sync(ask),
            activity=self._activity(ask),
            uptime=timedelta(seconds=int(counters(ask, "Uptime")["uptime"])),
        )

    def _channel(self, row: Row) -> Replication:
        lag = row["Seconds_Behind_Master"]
        return Replication(
            channel=str(row.get("Connection_name", "")),
            source=Address(str(row["Master_Host"]), int(row["Master_Port"])),
            source_server_id=int(row["Master_Server_Id"]) or None,
            receiver=thread_state(str(row["Slave_IO_Running"])),
            applier=thread_state(str(row["Slave_SQL_Running"])),
            receiver_error=error_text(row["Last_IO_Errno"], row["Last_IO_Error"]),
            applier_error=error_text(row["Last_SQL_Errno"], row["Last_SQL_Error"]),
            delay=timedelta(seconds=int(row["SQL_Delay"] or 0)),
            received=MariadbGtidSet.parse(str(row["Gtid_IO_Pos"] or "")),
            by_gtid=str(row["Using_Gtid"]) != "No",
            filters=tuple(f"{name}={row[name]}" for name in _FILTERS if row.get(name)),
            clock_lag=None if lag is None else timedelta(seconds=int(lag)),
        )

    def _activity(self, ask: Ask) -> Activity | None:
        try:
            transactions = ask(
                "SELECT p.id, p.user, p.host, TIMESTAMPDIFF(SECOND, t.trx_started, SYSDATE()) AS age_s,"
                " CONCAT(t.trx_rows_modified, ' rows modified ', COALESCE(LEFT(p.info, 60), '')) AS info"
                " FROM information_schema.innodb_trx t"
                " JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id"
                " WHERE p.id <> CONNECTION_ID() AND p.user <> 'system user'"
            )
            running = ask(
                "SELECT id, user, host, time_ms / 1000 AS age_s, info, state, command"
                " FROM information_schema.processlist"
                " WHERE id <> CONNECTION_ID() AND user <> 'system user'"
            )
            changes = ask(ONLINE_SCHEMA_CHANGE)
        except AccessDeniedError:
            return None
        online = [
            {"id": 0, "user": "?", "host": "?", "age_s": 0, "info": f"online schema change: {row['name']}"}
            for row in changes
        ]
        ddl = [r for r in running if is_schema_change(r["info"])]
        return Activity(
            transactions=sessions(transactions, "transaction,"),
            schema_changes=sessions([*ddl, *online]),
            backups=self._backups(ask, running),
            commit_waiters=sum("semi-sync ACK" in str(r["state"]) for r in running),
        )

    def _backups(self, ask: Ask, running: list[Row]) -> tuple[Session, ...]:
        words = ("BACKUP STAGE", "BACKUP LOCK", "FLUSH TABLES WITH READ LOCK")
        by_word = [r for r in running if str(r["info"] or "").upper().lstrip().startswith(words)]
        modes = ", ".join(quoted(mode) for mode in _GLOBAL_LOCKS)
        try:
            held = ask(
                "SELECT p.id, p.user, p.host, p.time AS age_s, m.lock_mode AS info"
                " FROM information_schema.metadata_lock_info m"
                " JOIN information_schema.processlist p ON p.id = m.thread_id"
                f" WHERE m.lock_mode IN ({modes}) AND p.id <> CONNECTION_ID()"
            )
        except ServerError:
            held = []  # the plugin metadata_lock_info is not loaded: only running statements are seen
        return sessions([*by_word, *held])

    def executed(self, ask: Ask) -> GtidSet:
        """The binary log's state joined with the replicated position."""
        row = ask("SELECT @@global.gtid_binlog_state AS state, @@global.gtid_slave_pos AS pos")[0]
        return MariadbGtidSet.parse(str(row["state"])) | MariadbGtidSet.parse(str(row["pos"]))

    def semi_sync(self, ask: Ask) -> SemiSync:
        """The semi-sync state and counters."""
        values = settings(ask, _SEMI_SYNC)
        status = counters(ask, "Rpl_semi_sync%")
        return SemiSync(
            source_enabled=on(values.get("rpl_semi_sync_master_enabled")),
            source_active=on(status.get("rpl_semi_sync_master_status")),
            source_clients=int(status.get("rpl_semi_sync_master_clients", 0)),
            unacknowledged=int(status.get("rpl_semi_sync_master_no_tx", 0)),
            acknowledged=int(status.get("rpl_semi_sync_master_yes_tx", 0)),
            after_sync=values.get("rpl_semi_sync_master_wait_point", "").upper() == "AFTER_SYNC",
            timeout=timedelta(milliseconds=int(values.get("rpl_semi_sync_master_timeout", 0))),
            replica_enabled=on(values.get("rpl_semi_sync_slave_enabled")),
            replica_active=on(status.get("rpl_semi_sync_slave_status")),
        )

    def wait_applied(self, ask: Ask, target: GtidSet, within: timedelta) -> bool:
        """MASTER_GTID_WAIT in slices: when it says so the rows are visible.

        The binary log's state is not asked first, because it is ahead of the engine's commit by up to 25 ms;
        it only decides at the end, about what this server wrote itself, which no replicated position shows.
        """
        wanted = _mariadb(target)
        left = within.total_seconds()
        while wanted and left > 0:
            slice_s = min(left, WAIT_SLICE_S)
            if ask("SELECT MASTER_GTID_WAIT(%s, %s) AS waited", wanted.position(), slice_s)[0]["waited"] == 0:
                break
            left -= slice_s
        return self.executed(ask).covers(wanted)

    def halt(self, ask: Ask) -> Halted:
        """Stop the receiver and read the positions."""
        ask("STOP SLAVE IO_THREAD")
        channels = tuple(self._channel(row) for row in ask("SHOW ALL SLAVES STATUS"))
        return halted(ask, channels, self.executed(ask))

    def join(
        self, ask: Ask, source: Address, account: ReplicationAccount, position: str | None, history: GtidSet | None
    ) -> None:
        """Forget what was copied of replication, tell the copy its own history, follow `source` (E30).

        A hot copy carries no binary log, so its gtid_binlog_state is empty: it is set to the source's
        state as it was at the copy's position, or errant transactions could not be told later.
        """
        ask("STOP ALL SLAVES")
        ask("RESET SLAVE ALL")
        if position is not None:
            at = MariadbGtidSet.parse(position)
            state = _mariadb(history).with_position(at) if history is not None else at
            if ask("SELECT @@global.gtid_binlog_state AS state")[0]["state"]:
                ask("RESET MASTER")  # the state can only be set while nothing was logged
            # In this order: the other way round the second one waits up to a second for the redo log's flush.
            ask("SET GLOBAL gtid_slave_pos = %s", at.position())
            ask("SET GLOBAL gtid_binlog_state = %s", str(state))
        else:
            ask("SET GLOBAL gtid_slave_pos = %s", _mariadb(self.executed(ask)).position())
        self.follow(ask, source, account)

    def follow(self, ask: Ask, source: Address, account: ReplicationAccount) -> None:
        """Replicate from `source` by GTID from the replicated position."""
        tls = account.tls_options("MASTER")
        ask("STOP SLAVE")
        ask(
            "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
            " MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=%s" + "".join(f", {name}=%s" for name in tls),
            source.host,
            source.port,
            account.login.user,
            account.login.password,
            CONNECT_RETRY_S,
            *tls.values(),
        )
        ask("START SLAVE")

    def resume_replication(self, ask: Ask) -> None:
        """Start the configured replication threads; already running is fine."""
        ask("START SLAVE")

    def promote(self, ask: Ask, *, arm_semi_sync: bool) -> None:
        """Stop applying, arm semi-sync, open. RESET SLAVE ALL costs 10-20 ms and waits for `forget_source`."""
        ask("STOP SLAVE")
        if arm_semi_sync:
            ask("SET GLOBAL rpl_semi_sync_master_enabled = ON")
        ask("SET GLOBAL read_only = OFF")

    def forget_source(self, ask: Ask) -> None:
        """Forget the dead master."""
        ask("STOP SLAVE")
        ask("RESET SLAVE ALL")

    def close_for_writes(self, ask: Ask, within: timedelta) -> GtidSet:
        """`read_only` for everybody, a global read lock against privileged sessions (E08), bounded (E09)."""
        ask("SET SESSION lock_wait_timeout = %s", int(max(1, min(within.total_seconds(), LONGEST_LOCK_WAIT_S))))
        try:
            ask("SET GLOBAL read_only = ON")
            ask("FLUSH TABLES WITH READ LOCK")
            return self.executed(ask)
        except ServerError:
            self.open_for_writes(ask)
            raise

    def open_for_writes(self, ask: Ask) -> None:
        """Give the lock back and open."""
        ask("UNLOCK TABLES")
        ask("SET GLOBAL read_only = OFF")


def _mariadb(gtids: GtidSet | None) -> MariadbGtidSet:
    if not isinstance(gtids, MariadbGtidSet):
        raise TypeError(f"a MariaDB server cannot use the GTID set {gtids!s} of another flavour")
    return gtids
