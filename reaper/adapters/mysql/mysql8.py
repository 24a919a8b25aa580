"""The dialect of Oracle MySQL 8.0.23 and later, 8.4 included.

The statements and columns are those that a real 8.0.43 accepted and answered (tests/data/mysql80), and
the names of the 8.4 manual, which dropped the words of earlier versions. The file is long because a
quarter of it is SQL.
"""

import re
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
    sessions,
    settings,
    thread_state,
)
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.tls import ENCRYPTED, ServerTls
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
    ThreadState,
)
from reaper.domain.gtid import GtidSet, MysqlGtidSet
from reaper.workflow.server import Halted

# A replica keeps trying its source for a day, and hears from an idle one every two seconds; a source that
# says nothing for replica_net_timeout is tried again. Both were accepted by 8.0.43.
RETRY_COUNT = 86_400
HEARTBEAT_S = 2
# WAIT_FOR_EXECUTED_GTID_SET takes fractions of a second, and 0 means "without limit" (8.0.43, manual).
_SHORTEST_WAIT_S = 0.001

_SETTINGS = (
    "server_id",
    "server_uuid",
    "read_only",
    "super_read_only",
    "gtid_mode",
    "enforce_gtid_consistency",
    "log_bin",
    "log_replica_updates",
    "log_slave_updates",  # its name before 8.0.26
    "binlog_format",
)
_ENABLED = "rpl_semi_sync_source_enabled"
_FILTERS = (
    "Replicate_Do_DB",
    "Replicate_Ignore_DB",
    "Replicate_Do_Table",
    "Replicate_Ignore_Table",
    "Replicate_Wild_Do_Table",
    "Replicate_Wild_Ignore_Table",
    "Replicate_Ignore_Server_Ids",
    "Replicate_Rewrite_DB",
)

_TRANSACTIONS = (
    # innodb_trx tells local time of the operating system (field_store_time_t in i_s.cc), NOW() that of the
    # session's time zone (E27).
    "SELECT p.ID AS id, p.USER AS user, p.HOST AS host, TIMESTAMPDIFF(SECOND, t.trx_started,"
    " CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM')) AS age_s,"
    " CONCAT(t.trx_rows_modified, ' rows modified ', COALESCE(LEFT(p.INFO, 60), '')) AS info"
    " FROM information_schema.innodb_trx t"
    " JOIN performance_schema.processlist p ON p.ID = t.trx_mysql_thread_id"
    " WHERE p.ID <> CONNECTION_ID() AND p.USER <> 'system user'"
)
_RUNNING = (
    "SELECT ID AS id, USER AS user, HOST AS host, TIME AS age_s, INFO AS info, STATE AS state,"
    " COMMAND AS command FROM performance_schema.processlist"
    " WHERE ID <> CONNECTION_ID() AND USER <> 'system user'"
)
# FLUSH TABLES WITH READ LOCK holds GLOBAL, LOCK INSTANCE FOR BACKUP holds BACKUP LOCK, both SHARED; what
# they hold off asks for INTENTION_EXCLUSIVE (acquire_mdl_for_backup in the source of 8.0).
_LOCKS = (
    "SELECT t.PROCESSLIST_ID AS id, t.PROCESSLIST_USER AS user, t.PROCESSLIST_HOST AS host,"
    " t.PROCESSLIST_TIME AS age_s, CONCAT('holds ', m.OBJECT_TYPE, ' ', m.LOCK_TYPE) AS info"
    " FROM performance_schema.metadata_locks m"
    " JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID"
    " WHERE m.OBJECT_TYPE IN ('GLOBAL', 'BACKUP LOCK') AND m.LOCK_TYPE = 'SHARED'"
    " AND m.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_ID <> CONNECTION_ID()"
)
_LOCKS_SEEN = (
    "SELECT ENABLED AS enabled FROM performance_schema.setup_instruments WHERE NAME = 'wait/lock/metadata/sql/mdl'"
)
_CLONES = (
    "SELECT c.PID AS id, COALESCE(p.USER, '?') AS user, COALESCE(p.HOST, '?') AS host, p.TIME AS age_s,"
    " CONCAT('clone from ', c.SOURCE) AS info FROM performance_schema.clone_status c"
    " LEFT JOIN performance_schema.processlist p ON p.ID = c.PID WHERE c.STATE = 'In Progress'"
)
_WORKERS_ERROR = (
    "SELECT LAST_ERROR_NUMBER AS number, LAST_ERROR_MESSAGE AS message"
    " FROM performance_schema.replication_applier_status_by_worker"
    " WHERE CHANNEL_NAME = %s AND LAST_ERROR_NUMBER <> 0 ORDER BY LAST_ERROR_TIMESTAMP DESC LIMIT 1"
)


class MysqlDialect:
    """Statements and answers of MySQL.

    Its accounts use caching_sha2_password, which needs an encrypted connection or the server's public
    key: reaper connects with TLS, replication with GET_SOURCE_PUBLIC_KEY=1 (without: error 2061), which a
    channel with TLS makes no use of ("Setting the Source Configuration on the Replica" in the manual).
    """

    flavour = Flavour.MYSQL
    tls: ServerTls | None = ENCRYPTED

    def facts(self, ask: Ask) -> ServerFacts:
        """Everything the guards want to know; a variable that the server does not have counts against it."""
        values = settings(ask, _SETTINGS)
        # SHOW VARIABLES cuts long values (its page in the manual; VARCHAR(1024) in global_variables).
        own = ask("SELECT @@global.gtid_executed AS executed, @@global.gtid_purged AS purged, VERSION() AS version")[0]
        semi_sync = _semi_sync_names(ask("SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync%'"))
        logs_replicated = values.get("log_replica_updates", values.get("log_slave_updates"))
        return ServerFacts(
            flavour=self.flavour,
            version=own["version"],
            server_id=int(values.get("server_id", 0)),
            server_uuid=values.get("server_uuid"),
            openness=_openness(values),
            executed=MysqlGtidSet.parse(own["executed"]),
            purged=MysqlGtidSet.parse(own["purged"]),
            gtid_strict=on(values.get("gtid_mode")) and on(values.get("enforce_gtid_consistency")),
            binlog=on(values.get("log_bin")),
            binlog_of_replicated=on(logs_replicated),
            binlog_row_format=values.get("binlog_format", "").upper() == "ROW",
            channels=self._channels(ask),
            semi_sync=_semi_sync(semi_sync, counters(ask, "Rpl_semi_sync%")),
            activity=self._activity(ask),
            uptime=timedelta(seconds=int(counters(ask, "Uptime").get("uptime", 0))),
        )

    def _channels(self, ask: Ask) -> tuple[Replication, ...]:
        return tuple(self._channel(ask, row) for row in ask("SHOW REPLICA STATUS"))

    def _channel(self, ask: Ask, row: Row) -> Replication:
        receiver = thread_state(str(row["Replica_IO_Running"]))
        lag = row["Seconds_Behind_Source"]
        # It reads 0 with a rejected account or a source that purged what is needed: nothing arrives then.
        if receiver is not ThreadState.RUNNING:
            lag = None
        applier_error = error_text(row["Last_SQL_Errno"], row["Last_SQL_Error"])
        return Replication(
            channel=str(row["Channel_Name"]),
            source=Address(str(row["Source_Host"]), int(row["Source_Port"])),
            source_server_id=int(row["Source_Server_Id"]) or None,
            receiver=receiver,
            applier=thread_state(str(row["Replica_SQL_Running"])),
            receiver_error=error_text(row["Last_IO_Errno"], row["Last_IO_Error"]),
            applier_error=applier_error and (_workers_error(ask, row["Channel_Name"]) or applier_error),
            delay=timedelta(seconds=int(row["SQL_Delay"] or 0)),
            received=MysqlGtidSet.parse(str(row["Retrieved_Gtid_Set"] or "")),
            by_gtid=on(str(row["Auto_Position"])),
            filters=tuple(f"{name}={row[name]}" for name in _FILTERS if row.get(name)),
            clock_lag=None if lag is None else timedelta(seconds=int(lag)),
        )

    def _activity(self, ask: Ask) -> Activity | None:
        try:
            seen = ask(_LOCKS_SEEN)
            if not seen or not on(str(seen[0]["enabled"])):
                return None  # the performance schema or its metadata locks are off: nothing can be ruled out
            transactions = ask(_TRANSACTIONS)
            running = ask(_RUNNING)
            locks = ask(_LOCKS)
            changes = ask(ONLINE_SCHEMA_CHANGE)
        except AccessDeniedError:
            return None
        online = [
            {"id": 0, "user": "?", "host": "?", "age_s": 0, "info": f"online schema change: {row['name']}"}
            for row in changes
        ]
        ddl = [row for row in running if is_schema_change(row["info"])]
        return Activity(
            transactions=sessions(transactions, "transaction,"),
            schema_changes=sessions([*ddl, *online]),
            backups=self._backups(ask, running, locks),
            commit_waiters=sum("semi-sync ACK" in str(row["state"]) for row in running),
        )

    def _backups(self, ask: Ask, running: list[Row], locks: list[Row]) -> tuple[Session, ...]:
        words = ("CLONE", "LOCK INSTANCE FOR BACKUP", "FLUSH TABLES WITH READ LOCK")
        by_word = [row for row in running if str(row["info"] or "").upper().lstrip().startswith(words)]
        # A donor's session shows the command "clone" and no statement (sql/sql_parse.cc, Command_names).
        donors = [{**row, "info": "clone donor"} for row in running if str(row["command"]).lower() == "clone"]
        try:
            clones = ask(_CLONES)
        except ServerError:
            clones = []  # the table comes with the clone plugin: without it nothing can be cloned
        told = {row["id"] for row in (*by_word, *donors)}
        return sessions([*by_word, *donors, *(c for c in clones if c["id"] not in told), *locks])

    def executed(self, ask: Ask) -> GtidSet:
        """Replicated or its own, MySQL keeps one set."""
        return MysqlGtidSet.parse(str(ask("SELECT @@global.gtid_executed AS executed")[0]["executed"]))

    def semi_sync(self, ask: Ask) -> SemiSync:
        """The semi-sync state and counters; all off if no plugin is loaded."""
        values = _semi_sync_names(ask("SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync%'"))
        return _semi_sync(values, counters(ask, "Rpl_semi_sync%"))

    def wait_applied(self, ask: Ask, target: GtidSet, within: timedelta) -> bool:
        """WAIT_FOR_EXECUTED_GTID_SET in slices: 0 reached, 1 not yet; a stopped applier does not end it."""
        left = within.total_seconds()
        if left <= 0:
            return self.executed(ask).covers(target)
        wanted = str(_mysql(target))
        while left > 0:
            slice_s = max(_SHORTEST_WAIT_S, min(left, WAIT_SLICE_S))
            rows = ask("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s) AS waited", wanted, slice_s)
            if rows[0]["waited"] == 0:
                return True
            left -= slice_s
        return False

    def halt(self, ask: Ask) -> Halted:
        """Stop the receiver and read the positions. 4 ms, or 2 s if it is trying to connect (8.0.43)."""
        ask("STOP REPLICA IO_THREAD")
        return halted(ask, self._channels(ask), self.executed(ask))

    def join(
        self,
        ask: Ask,
        source: Address,
        account: ReplicationAccount,
        position: str | None,
        history: GtidSet | None,  # noqa: ARG002 - gtid_executed is in the data, no copy forgets it
    ) -> None:
        """Forget what was copied of replication, follow `source` (E30).

        A clone of a replica carries its channel with host and password. A clone or a cold copy knows its
        own position; only a copy whose tool reports one is told, after a wipe of what it believes.
        """
        ask("STOP REPLICA")
        ask("RESET REPLICA ALL")
        if position is not None:
            version = str(ask("SELECT VERSION() AS version")[0]["version"])
            ask(_wipe(version))
            ask("SET GLOBAL gtid_purged = %s", str(MysqlGtidSet.parse(position)))
        self.follow(ask, source, account)

    def follow(self, ask: Ask, source: Address, account: ReplicationAccount) -> None:
        """Replicate from `source` by GTID; the change of source drops the relay logs."""
        tls = account.tls_options("SOURCE")
        ask("STOP REPLICA")
        ask(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST=%s, SOURCE_PORT=%s, SOURCE_USER=%s, SOURCE_PASSWORD=%s,"
            " SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=%s,"
            " SOURCE_RETRY_COUNT=%s, SOURCE_HEARTBEAT_PERIOD=%s" + "".join(f", {name}=%s" for name in tls),
            source.host,
            source.port,
            account.login.user,
            account.login.password,
            CONNECT_RETRY_S,
            RETRY_COUNT,
            HEARTBEAT_S,
            *tls.values(),
        )
        ask("START REPLICA")

    def resume_replication(self, ask: Ask) -> None:
        """Start the configured replication threads; already running is a note (3083)."""
        ask("START REPLICA")

    def promote(self, ask: Ask, *, arm_semi_sync: bool) -> None:
        """Stop applying, arm semi-sync, open. RESET REPLICA ALL costs 14 ms and waits for `forget_source`."""
        ask("STOP REPLICA")
        if arm_semi_sync:
            _arm(ask)
        self.open_for_writes(ask)

    def forget_source(self, ask: Ask) -> None:
        """Forget the dead master, and a persisted read_only, which would beat my.cnf at the next restart.

        What my.cnf says then decides. Persisting OFF instead would open a server that comes back after
        somebody else was promoted, and half-opens one whose my.cnf says super_read_only (E08).
        """
        ask("STOP REPLICA")
        ask("RESET REPLICA ALL")
        ask("RESET PERSIST IF EXISTS super_read_only")
        ask("RESET PERSIST IF EXISTS read_only")

    def close_for_writes(self, ask: Ask, within: timedelta) -> GtidSet:
        """`super_read_only` stops privileged sessions too (E08); bounded, since commits hold it up (E09).

        The bound is a whole number of seconds, from 1 to 10. Open transactions do not hold it up: their
        COMMIT fails with 1290.
        """
        seconds = int(max(1, min(within.total_seconds(), LONGEST_LOCK_WAIT_S)))
        ask("SET SESSION lock_wait_timeout = %s", seconds)
        try:
            ask("SET GLOBAL super_read_only = ON")
            return self.executed(ask)
        except ServerError:
            self.open_for_writes(ask)
            raise

    def open_for_writes(self, ask: Ask) -> None:
        """Both: super_read_only = ON turned read_only on, and turning it off leaves that."""
        ask("SET GLOBAL super_read_only = OFF")
        ask("SET GLOBAL read_only = OFF")


def _openness(values: dict[str, str]) -> Openness:
    if on(values.get("super_read_only")):
        return Openness.SUPER_READ_ONLY
    return Openness.READ_ONLY if on(values.get("read_only")) else Openness.OPEN


def _semi_sync_names(rows: list[Row]) -> dict[str, str]:
    return _renamed({str(row["Variable_name"]).lower(): str(row["Value"]) for row in rows})


def _renamed(values: dict[str, str]) -> dict[str, str]:
    # The plugins' names before 8.0.26, still loadable after; the two kinds exclude each other (4045).
    return {k.replace("_master_", "_source_").replace("_slave_", "_replica_"): v for k, v in values.items()}


def _semi_sync(values: dict[str, str], status: dict[str, str]) -> SemiSync:
    status = _renamed(status)
    return SemiSync(
        source_enabled=on(values.get(_ENABLED)),
        source_active=on(status.get("rpl_semi_sync_source_status")),
        source_clients=int(status.get("rpl_semi_sync_source_clients", 0)),
        unacknowledged=int(status.get("rpl_semi_sync_source_no_tx", 0)),
        acknowledged=int(status.get("rpl_semi_sync_source_yes_tx", 0)),
        after_sync=values.get("rpl_semi_sync_source_wait_point", "").upper() == "AFTER_SYNC",
        timeout=timedelta(milliseconds=int(values.get("rpl_semi_sync_source_timeout", 0))),
        replica_enabled=on(values.get("rpl_semi_sync_replica_enabled")),
        replica_active=on(status.get("rpl_semi_sync_replica_status")),
    )


def _arm(ask: Ask) -> None:
    """Arm semi-sync under the plugin's new name, or its old one: asking first would cost clients 3 ms."""
    try:
        ask(f"SET GLOBAL {_ENABLED} = ON")
    except ServerError as error:
        if type(error) is not ServerError:  # gone, denied: another name does not help
            raise
        ask("SET GLOBAL rpl_semi_sync_master_enabled = ON")


def _workers_error(ask: Ask, channel: str) -> str | None:
    """What stopped a worker; SHOW REPLICA STATUS only says that the coordinator stopped because of it."""
    try:
        rows = ask(_WORKERS_ERROR, channel)
    except AccessDeniedError:
        return None
    return error_text(rows[0]["number"], rows[0]["message"]) if rows else None


def _wipe(version: str) -> str:
    """Delete the binary logs and the GTID set; renamed in 8.2, the old name went away in 8.4."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    return "RESET BINARY LOGS AND GTIDS" if numbers >= (8, 2) else "RESET MASTER"


def _mysql(gtids: GtidSet) -> MysqlGtidSet:
    if not isinstance(gtids, MysqlGtidSet):
        raise TypeError(f"a MySQL server cannot use the GTID set {gtids!s} of another flavour")
    return gtids
