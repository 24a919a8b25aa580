"""Oracle MySQL without a server: what a real 8.0.43 answered, read through the dialect; what the dialect says.

The answers lie in tests/data/mysql80. What only a real server can answer is not here.
"""

import ast
import json
import os
import re
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pymysql
import pytest

import reaper
from reaper.adapters.mysql import engine_mysql
from reaper.adapters.mysql.connection import classed
from reaper.adapters.mysql.dialect import Dialect
from reaper.adapters.mysql.engine_mysql import MysqlEngine
from reaper.adapters.mysql.mariadb import MariadbDialect
from reaper.adapters.mysql.mysql8 import MysqlDialect
from reaper.adapters.mysql.replication import ReplicationAccount, ReplicationTls
from reaper.adapters.tls import ServerTls, Verify
from reaper.domain.errors import (
    AbortedError,
    AccessDeniedError,
    ReadOnlyError,
    ServerError,
    ServerGoneError,
    StatementTimeoutError,
    TooManyConnectionsError,
    TryAgainError,
    UsageError,
)
from reaper.domain.facts import Address, Openness, ThreadState
from reaper.domain.gtid import MariadbGtidSet, MysqlGtidSet
from reaper.workflow.engine import Login, Logins, Seat

DATA = Path(__file__).parents[1] / "data" / "mysql80"
RECORDED: dict[str, Any] = {
    path.stem: json.loads(path.read_text()) for path in [DATA / "transcript.json", *DATA.glob("states/*.json")]
}
SNAPSHOTS = {name: said for name, said in RECORDED.items() if isinstance(said, dict) and "SHOW REPLICA STATUS" in said}
SOURCE = Address("10.0.0.7", 3306)
REPLICATION = ReplicationAccount(Login("repl", "secret"))
UUID = "3586190a-e734-11f1-af77-02fc00000001"
R, C, S = ThreadState.RUNNING, ThreadState.CONNECTING, ThreadState.STOPPED


class FakeAsk:
    """Answers by the longest matching beginning of a statement, with rows or an error; remembers everything."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.said: list[tuple[object, ...]] = []

    def __call__(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        self.said.append((sql, *arguments))
        for start in sorted(self.answers, key=len, reverse=True):
            if sql.startswith(start):
                answer = self.answers[start]
                if isinstance(answer, Exception):
                    raise answer
                return list(answer)
        return []

    @property
    def statements(self) -> list[str]:
        return [str(sql) for sql, *_ in self.said]


def as_rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"Variable_name": name, "Value": str(value)} for name, value in values.items()]


def ask_of(snapshot: dict[str, Any], **changed: Any) -> FakeAsk:
    """A server in the recorded state."""
    variables = {name.removeprefix("@@"): value for name, value in snapshot["vars"][0].items()} | changed
    workers = snapshot["performance_schema.replication_applier_status_by_worker"]
    sets = {"executed": variables["gtid_executed"], "purged": variables["gtid_purged"]}
    return FakeAsk(
        {
            "SHOW GLOBAL VARIABLES WHERE": as_rows(variables),
            "SHOW GLOBAL VARIABLES LIKE": snapshot["semisync vars"],
            "SHOW GLOBAL STATUS LIKE 'Rpl": snapshot["semisync status"],
            "SHOW GLOBAL STATUS LIKE 'Uptime'": as_rows({"Uptime": 61}),
            "SHOW REPLICA STATUS": snapshot["SHOW REPLICA STATUS"],
            "SELECT @@global.gtid_executed": [{**sets, "version": variables["version"]}],
            "SELECT LAST_ERROR_NUMBER": [
                {"number": w["LAST_ERROR_NUMBER"], "message": w["LAST_ERROR_MESSAGE"]}
                for w in workers
                if w["LAST_ERROR_NUMBER"]
            ],
            "SELECT ENABLED": [{"enabled": "YES"}],
        }
    )


def walk(said: Any) -> Iterator[Any]:
    """Every value inside a recorded one, itself included."""
    yield said
    for inner in said.values() if isinstance(said, dict) else said if isinstance(said, list) else ():
        yield from walk(inner)


# --- Replica status: what reaper concludes -------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Concluded:
    """What must be read from a recorded state; errors by a part of their text, None: no error."""

    receiver: ThreadState = R
    applier: ThreadState = R
    receiver_error: str | None = None
    applier_error: str | None = None
    lag_s: int | None = None
    openness: Openness = Openness.OPEN


SUPER = Openness.SUPER_READ_ONLY
REPLICAS = {
    "replica-healthy": Concluded(lag_s=0),
    "replica-after-clone": Concluded(lag_s=0),
    "replica-repointed": Concluded(lag_s=0, openness=SUPER),
    "replica-lagging": Concluded(lag_s=3),
    "old-source-rejoined": Concluded(lag_s=1, openness=SUPER),
    "semisync-replica-healthy": Concluded(lag_s=0),
    "replica-stopped": Concluded(receiver=S, applier=S),
    "replica-cloned-from-replica": Concluded(receiver=S, applier=S, openness=SUPER),
    "replica-sql-thread-stopped": Concluded(applier=S),
    "replica-sql-error-1032": Concluded(applier=S, applier_error="Can't find record in 't'"),
    "replica-sql-error-1062": Concluded(applier=S, applier_error="Duplicate entry"),
    "old-source-with-errant-rejoined": Concluded(applier=S, applier_error="Duplicate entry", openness=SUPER),
    "replica-source-dead-0s": Concluded(receiver=C, receiver_error="(error 2003)"),
    "replica-source-dead": Concluded(receiver=C, receiver_error="(error 2003)"),
    "replica-source-hung": Concluded(receiver=C, openness=SUPER),
    # Seconds_Behind_Source is 0 in the next five, while nothing can arrive.
    "replica-bad-password": Concluded(receiver=C, receiver_error="(error 1045)", openness=SUPER),
    "replica-no-privilege": Concluded(receiver=C, receiver_error="(error 13120)", openness=SUPER),
    "replica-auth-failure-2061": Concluded(receiver=C, receiver_error="(error 2061)"),
    "replica-source-purged-13114": Concluded(
        receiver=S, receiver_error="purged required binary logs", openness=Openness.READ_ONLY
    ),
    "replica-ahead-of-source-13114": Concluded(
        receiver=S, receiver_error="more GTIDs than the source", openness=Openness.READ_ONLY
    ),
    "replica-same-uuid-13117": Concluded(receiver=S, receiver_error="equal MySQL server UUIDs", openness=SUPER),
    "replica-same-server-id-13117": Concluded(receiver=S, receiver_error="equal MySQL server ids", openness=SUPER),
}
NO_REPLICAS = {
    "new-source-after-promotion": Openness.OPEN,
    "no-replication-configured": SUPER,
    "semisync-source-healthy": Openness.OPEN,
    "semisync-source-degraded": Openness.OPEN,
}


def test_every_recorded_state_has_an_expectation() -> None:
    assert set(SNAPSHOTS) == set(REPLICAS) | set(NO_REPLICAS)


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_is_read_as_it_was(name: str) -> None:
    facts = MysqlDialect().facts(ask_of(SNAPSHOTS[name]))
    row, wanted = SNAPSHOTS[name]["SHOW REPLICA STATUS"][0], REPLICAS[name]
    (channel,) = facts.channels
    assert (channel.receiver, channel.applier) == (wanted.receiver, wanted.applier)
    for error, part in (
        (channel.receiver_error, wanted.receiver_error),
        (channel.applier_error, wanted.applier_error),
    ):
        assert error is None if part is None else error is not None and part in error
    assert channel.clock_lag == (None if wanted.lag_s is None else timedelta(seconds=wanted.lag_s))
    assert facts.openness is wanted.openness
    assert channel.source == Address("127.0.0.1", row["Source_Port"])
    assert channel.received == MysqlGtidSet.parse(row["Retrieved_Gtid_Set"])
    assert channel.by_gtid
    assert not channel.delay
    assert not channel.filters
    assert channel.channel == ""


@pytest.mark.parametrize("name", NO_REPLICAS)
def test_a_server_that_is_no_replica_has_no_channel(name: str) -> None:
    facts = MysqlDialect().facts(ask_of(SNAPSHOTS[name]))
    assert facts.channels == ()
    assert facts.openness is NO_REPLICAS[name]


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_variables_and_sets_are_read(name: str) -> None:
    said = SNAPSHOTS[name]["vars"][0]
    facts = MysqlDialect().facts(ask_of(SNAPSHOTS[name]))
    assert (facts.server_id, facts.server_uuid) == (said["@@server_id"], said["@@server_uuid"])
    assert facts.version == "8.0.43"
    assert facts.executed == MysqlGtidSet.parse(said["@@gtid_executed"])
    assert facts.purged == MysqlGtidSet.parse(said["@@gtid_purged"])
    assert facts.gtid_strict
    assert facts.binlog
    assert facts.binlog_of_replicated
    assert facts.binlog_row_format
    assert facts.uptime == timedelta(seconds=61)
    assert facts.activity is not None
    assert "\n" not in str(facts.executed)


def replica_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, said in sorted(RECORDED.items()):
        rows = [v for v in walk(said) if isinstance(v, dict) and "Replica_IO_Running" in v]
        yield from ((f"{name}-{n}", row) for n, row in enumerate(rows) if "Source_Host" in row)


@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in replica_rows()])
def test_every_recorded_replica_row_parses(row: dict[str, Any]) -> None:
    halted = MysqlDialect().halt(
        FakeAsk(
            {
                "SHOW REPLICA STATUS": [row],
                "SELECT @@global.gtid_executed": [{"executed": row["Executed_Gtid_Set"]}],
            }
        )
    )
    assert halted.executed == MysqlGtidSet.parse(row["Executed_Gtid_Set"])
    assert halted.received.covers(halted.executed)
    assert halted.broken_applier == (row["Replica_SQL_Running"] == "No")
    assert (halted.unfit is not None) == halted.broken_applier


def test_a_halted_replica_that_has_not_applied_everything_says_so() -> None:
    halted = MysqlDialect().halt(ask_of(SNAPSHOTS["replica-lagging"]))
    assert halted.received.distance(halted.executed) == 1
    assert halted.unfit is None


def test_a_delayed_replica_is_never_an_heir() -> None:
    ask = ask_of(SNAPSHOTS["replica-healthy"])
    row = {**SNAPSHOTS["replica-healthy"]["SHOW REPLICA STATUS"][0], "SQL_Delay": 3600}
    ask.answers["SHOW REPLICA STATUS"] = [row]
    assert MysqlDialect().halt(ask).unfit == "it has a configured delay of 3600 s"


def test_an_applier_error_tells_the_workers_reason_or_at_least_the_coordinators() -> None:
    ask = ask_of(SNAPSHOTS["replica-sql-error-1062"])
    assert "Duplicate entry" in str(MysqlDialect().halt(ask).unfit)
    ask.answers["SELECT LAST_ERROR_NUMBER"] = AccessDeniedError("SELECT command denied")
    assert "Coordinator stopped" in str(MysqlDialect().halt(ask).unfit)


def test_a_server_without_any_variable_or_plugin_does_not_crash_facts() -> None:
    said = {**SNAPSHOTS["replica-healthy"], "semisync vars": [], "semisync status": []}
    ask = ask_of(said)
    ask.answers |= {"SHOW GLOBAL VARIABLES WHERE": [], "SHOW GLOBAL STATUS": []}
    facts = MysqlDialect().facts(ask)
    assert (facts.server_id, facts.server_uuid, facts.openness) == (0, None, Openness.OPEN)
    assert not any((facts.binlog, facts.binlog_of_replicated, facts.binlog_row_format, facts.gtid_strict))
    assert not facts.semi_sync.source_enabled


def test_log_slave_updates_is_read_from_a_server_before_8_0_26() -> None:
    ask = ask_of(SNAPSHOTS["replica-healthy"])
    ask.answers["SHOW GLOBAL VARIABLES WHERE"] = as_rows({"log_slave_updates": "ON"})
    assert MysqlDialect().facts(ask).binlog_of_replicated


def test_permissive_gtid_mode_is_not_strict() -> None:
    ask = ask_of(SNAPSHOTS["replica-healthy"], gtid_mode="ON_PERMISSIVE")
    assert not MysqlDialect().facts(ask).gtid_strict


# --- Semi-sync -----------------------------------------------------------------------------------

OLD_NAMES = (("_source_", "_master_"), ("_replica_", "_slave_"))


def renamed(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same rows as the plugins before 8.0.26 name them."""
    out = [dict(row) for row in rows]
    for row in out:
        for new, old in OLD_NAMES:
            row["Variable_name"] = row["Variable_name"].replace(new, old)
    return out


@pytest.mark.parametrize("names", ["new names", "old names"])
def test_semi_sync_of_a_degraded_source(names: str) -> None:
    said = SNAPSHOTS["semisync-source-degraded"]
    rename = renamed if names == "old names" else list
    ask = ask_of(
        {
            **said,
            "semisync vars": rename(said["semisync vars"]),
            "semisync status": rename(said["semisync status"]),
        }
    )
    state = MysqlDialect().semi_sync(ask)
    assert state.source_enabled
    assert not state.source_active  # although a client is still counted
    assert state.source_clients == 1
    assert (state.unacknowledged, state.acknowledged) == (2, 5)
    assert state.after_sync
    assert state.timeout == timedelta(milliseconds=1500)
    assert not state.replica_enabled


def test_semi_sync_of_a_healthy_source_and_replica() -> None:
    assert MysqlDialect().semi_sync(ask_of(SNAPSHOTS["semisync-source-healthy"])).source_active
    replica = MysqlDialect().semi_sync(ask_of(SNAPSHOTS["semisync-replica-healthy"]))
    assert replica.replica_enabled
    assert replica.replica_active
    assert not replica.source_active


def semi_sync_rows() -> Iterator[tuple[str, list[dict[str, str]]]]:
    for name, said in sorted(RECORDED.items()):
        for n, value in enumerate(walk(said)):
            if isinstance(value, list) and value and isinstance(value[0], dict):
                first = str(value[0].get("Variable_name", "")).lower()
                if first.startswith("rpl_semi_sync"):
                    yield f"{name}-{n}", value


@pytest.mark.parametrize("rows", [pytest.param(rows, id=name) for name, rows in semi_sync_rows()])
def test_every_recorded_semi_sync_answer_parses(rows: list[dict[str, str]]) -> None:
    values = {row["Variable_name"].lower(): row["Value"] for row in rows}
    state = MysqlDialect().semi_sync(FakeAsk({"SHOW GLOBAL VARIABLES": rows, "SHOW GLOBAL STATUS": rows}))
    assert state.source_enabled == (values.get("rpl_semi_sync_source_enabled") == "ON")
    assert state.source_clients == int(values.get("rpl_semi_sync_source_clients", 0))


# --- Activity ------------------------------------------------------------------------------------


def session(**changed: Any) -> dict[str, Any]:
    row = {"id": 7, "user": "app", "host": "h", "age_s": 4, "info": None, "state": "", "command": "Query"}
    return row | changed


PROCESSES = "SELECT ID AS id, USER AS user"


@pytest.mark.parametrize(
    ("answers", "backups"),
    [
        pytest.param({PROCESSES: [session(info="CLONE LOCAL DATA DIRECTORY = '/x'")]}, ["CLONE LOCAL"], id="clone"),
        pytest.param({PROCESSES: [session(command="clone")]}, ["clone donor"], id="donor of a clone"),
        pytest.param({PROCESSES: [session(info="flush tables with read lock")]}, ["flush tables"], id="waiting FTWRL"),
        pytest.param(
            {"SELECT t.PROCESSLIST_ID": [session(info="holds BACKUP LOCK SHARED")]},
            ["holds BACKUP LOCK"],
            id="LOCK INSTANCE FOR BACKUP held by an idle session",
        ),
        pytest.param(
            {"SELECT c.PID AS id": [session(info="clone from 127.0.0.1:33801")]},
            ["clone from 127.0.0.1"],
            id="clone of the server itself",
        ),
        pytest.param(
            {
                PROCESSES: [session(info="CLONE INSTANCE FROM u@h:1 IDENTIFIED BY <secret>")],
                "SELECT c.PID AS id": [session(info="clone from h:1")],
            },
            ["CLONE INSTANCE"],
            id="one clone seen twice is named once",
        ),
        pytest.param({"SELECT c.PID AS id": ServerError("error 1146")}, [], id="no clone plugin"),
        pytest.param({PROCESSES: [session(info="SELECT 1")]}, [], id="nothing"),
    ],
)
def test_backups_are_named(answers: dict[str, Any], backups: list[str]) -> None:
    ask = ask_of(SNAPSHOTS["replica-healthy"])
    ask.answers |= answers
    activity = MysqlDialect().facts(ask).activity
    assert activity is not None
    assert len(activity.backups) == len(backups)
    assert all(part in str(found) for part, found in zip(backups, activity.backups, strict=True))


def test_transactions_schema_changes_and_commit_waiters_are_seen() -> None:
    ask = ask_of(SNAPSHOTS["replica-healthy"])
    ask.answers |= {
        "SELECT p.ID AS id": [session(id=1, age_s=5, info="3 rows modified"), session(id=2, age_s=90, info="x")],
        PROCESSES: [
            session(id=3, info="ALTER TABLE t ADD COLUMN c INT"),
            # As recorded in phaseE while no replica acknowledged.
            session(id=173, info="INSERT INTO d.t", state="Waiting for semi-sync ACK from replica"),
        ],
        "SELECT CONCAT(table_schema": [{"name": "app._t_gho"}],
    }
    activity = MysqlDialect().facts(ask).activity
    assert activity is not None
    assert [s.id for s in activity.transactions] == [2, 1]
    assert [s.what for s in activity.schema_changes] == [
        "ALTER TABLE t ADD COLUMN c INT",
        "online schema change: app._t_gho",
    ]
    assert activity.commit_waiters == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(AccessDeniedError("SELECT command denied"), id="a privilege is missing"),
        pytest.param([], id="the performance schema is off"),
        pytest.param([{"enabled": "NO"}], id="metadata locks are not instrumented"),
    ],
)
def test_activity_that_cannot_be_read_is_unknown(answer: Any) -> None:
    ask = ask_of(SNAPSHOTS["replica-healthy"])
    ask.answers["SELECT ENABLED"] = answer
    assert MysqlDialect().facts(ask).activity is None


# --- Errors --------------------------------------------------------------------------------------

CLASSES: dict[int, type[ServerError]] = {
    0: ServerGoneError,
    1040: TooManyConnectionsError,
    1045: AccessDeniedError,
    1142: AccessDeniedError,
    1205: StatementTimeoutError,
    1227: AccessDeniedError,
    1290: ReadOnlyError,
    1317: StatementTimeoutError,
    2003: ServerGoneError,
    2006: ServerGoneError,
    2013: ServerGoneError,
    2061: AccessDeniedError,
    3024: StatementTimeoutError,
    3032: ReadOnlyError,  # offline mode: the server lives
    3630: AccessDeniedError,
}
_TUPLE = re.compile(r"\((\d{4,5}), ['\"](.*)['\"]\)")
_NAMES = (
    ("errno", "msg"),
    ("ERROR_NO", "ERROR_MESSAGE"),
    ("LAST_ERROR_NUMBER", "LAST_ERROR_MESSAGE"),
    ("Last_IO_Errno", "Last_IO_Error"),
    ("Last_SQL_Errno", "Last_SQL_Error"),
)


def errors_in(said: Any) -> Iterator[tuple[int, str]]:
    """Every number and message, in each of the forms in which they were recorded."""
    for value in walk(said):
        if isinstance(value, dict):
            yield from ((int(value[n]), value[m]) for n, m in _NAMES if value.get(n))
        elif isinstance(value, list) and len(value) in (2, 3):
            *_, number, text = value
            if isinstance(number, int | str) and isinstance(text, str) and re.fullmatch(r"\d+", str(number)):
                yield int(number), text
        elif isinstance(value, str) and (found := _TUPLE.search(value)):
            yield int(found[1]), found[2]


ERRORS = sorted({error for said in RECORDED.values() for error in errors_in(said)})


def test_the_recorded_errors_are_all_found() -> None:
    # FACTS of the recording list them; 1236 and the notes (1287, 1760, 3083, 3084, 4016) are no errors.
    wanted = {1046, 1049, 1064, 1094, 1125, 1193, 1200, 1524, 1772, 1776, 1883, 3021, 3081, 3085, 3546, 3615}
    wanted |= {3707, 3862, 3869, 4045, 13114, 13117, 13120, 1032, 1062} | set(CLASSES)
    assert {number for number, _ in ERRORS} == wanted


@pytest.mark.parametrize(("number", "text"), [pytest.param(n, t, id=f"{n} {t[:40]}") for n, t in ERRORS])
def test_every_recorded_error_becomes_one_of_reapers(number: int, text: str) -> None:
    kind = pymysql.err.InterfaceError if number == 0 else pymysql.err.OperationalError
    error = classed(kind(number, text), SOURCE, "reaper", "SHOW")
    assert type(error) is CLASSES.get(number, ServerError)
    assert str(error).startswith("10.0.0.7:3306 (SHOW): ")
    assert (text or "the connection is closed") in str(error)
    assert "Traceback" not in str(error)


def test_a_missing_cryptography_package_says_what_to_install() -> None:
    (said,) = [v for v in walk(RECORDED["phaseH"]) if isinstance(v, str) and "'cryptography' package" in v]
    error = classed(RuntimeError(ast.literal_eval(said)[1][0]), SOURCE, "reaper", "connect")
    assert "pip install 'reaper[mysql]'" in str(error)


HANDSHAKES = {
    "no version of TLS that both speak": (
        ssl.SSLError(1, "[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol"),
        ServerError,
    ),
    "the server went away": (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), ServerGoneError),
    "the connection was reset": (ConnectionResetError(104, "Connection reset by peer"), ServerGoneError),
}


@pytest.mark.parametrize(("cause", "kind"), list(HANDSHAKES.values()), ids=list(HANDSHAKES))
def test_a_handshake_that_fails_is_no_death_unless_the_server_went_away(
    cause: OSError, kind: type[ServerError]
) -> None:
    """As PyMySQL wraps them, all under the number for a host that cannot be reached."""
    wrapped = pymysql.err.OperationalError(2003, f"Can't connect to MySQL server on '10.0.0.7' ({cause})")
    wrapped.original_exception = cause  # type: ignore[attr-defined]  # PyMySQL sets it so
    error = classed(wrapped, SOURCE, "reaper", "connect")
    assert type(error) is kind
    assert ("no password was sent" in str(error)) is (kind is ServerError)


# --- GTID text -----------------------------------------------------------------------------------

GTID_TEXTS = sorted(
    {
        value
        for said in RECORDED.values()
        for value in walk(said)
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}:[0-9a-f:,\n-]+", value)
    }
)


@pytest.mark.parametrize("text", GTID_TEXTS)
def test_every_recorded_gtid_text_parses_and_is_written_on_one_line(text: str) -> None:
    parsed = MysqlGtidSet.parse(text)
    assert str(parsed) == text.replace("\n", "")
    assert MysqlGtidSet.parse(str(parsed)) == parsed


def test_gtid_texts_with_line_breaks_were_recorded() -> None:
    assert any("\n" in text for text in GTID_TEXTS)


# --- Statements ----------------------------------------------------------------------------------

TARGET = MysqlGtidSet.parse(f"{UUID}:1-5,\n36ff724a-e734-11f1-bc47-02fc00000001:1")
TARGET_TEXT = f"{UUID}:1-5,36ff724a-e734-11f1-bc47-02fc00000001:1"
CHANGE = (
    "CHANGE REPLICATION SOURCE TO SOURCE_HOST=%s, SOURCE_PORT=%s, SOURCE_USER=%s, SOURCE_PASSWORD=%s,"
    " SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=%s,"
    " SOURCE_RETRY_COUNT=%s, SOURCE_HEARTBEAT_PERIOD=%s",
    "10.0.0.7",
    3306,
    "repl",
    "secret",
    1,
    86400,
    2,
)
FOLLOW = [("STOP REPLICA",), CHANGE, ("START REPLICA",)]
OPEN = [("SET GLOBAL super_read_only = OFF",), ("SET GLOBAL read_only = OFF",)]
EXECUTED = ("SELECT @@global.gtid_executed AS executed",)
WAIT = "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s) AS waited"
MARIADB_EXECUTED = ("SELECT @@global.gtid_binlog_state AS state, @@global.gtid_slave_pos AS pos",)
MARIADB_FOLLOW = [
    ("STOP SLAVE",),
    (
        "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
        " MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=%s",
        "10.0.0.7",
        3306,
        "repl",
        "secret",
        1,
    ),
    ("START SLAVE",),
]

ENCRYPTED = ReplicationAccount(REPLICATION.login, ReplicationTls(ca_file=PurePosixPath("/etc/ca.pem")))
ENCRYPTED_ONLY = ReplicationAccount(REPLICATION.login, ReplicationTls(verify=Verify.NOTHING))


def with_tls(said: Sequence[tuple[object, ...]], word: str, ca: str, verify: int) -> list[tuple[object, ...]]:
    """The same statements, the one that changes the source with the options of TLS at its end."""
    stop, (change, *given), start = said
    options = f", {word}_SSL=%s, {word}_SSL_CA=%s, {word}_SSL_VERIFY_SERVER_CERT=%s"
    return [stop, (f"{change}{options}", *given, 1, ca, verify), start]


CLOSED = ("SELECT @@global.read_only AS closed",)
ANSWERS_80 = {
    CLOSED[0]: [{"closed": 1}],
    "SELECT VERSION()": [{"version": "8.0.43"}],
    "SELECT @@global.gtid_executed": [{"executed": "", "purged": "", "version": "8.0.43"}],
    "SELECT WAIT_FOR": [{"waited": 0}],
}
ANSWERS_84 = ANSWERS_80 | {
    "SELECT VERSION()": [{"version": "8.4.6-log"}],
    "SELECT @@global.gtid_executed": [{"executed": "", "purged": "", "version": "8.4.6-log"}],
}
ANSWERS_MARIADB = {
    CLOSED[0]: [{"closed": 1}],
    "SELECT MASTER_GTID_WAIT": [{"waited": 0}],
    "SELECT @@global.gtid_binlog_state": [{"state": "0-1-9", "pos": "0-1-9"}],
}

Do = Callable[[Dialect, FakeAsk], object]
FLAVOURS: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "MySQL 8.0": (MysqlDialect(), ANSWERS_80),
    "MySQL 8.4": (MysqlDialect(), ANSWERS_84),
    "MariaDB": (MariadbDialect(), ANSWERS_MARIADB),
}


def second(n: float) -> timedelta:
    return timedelta(seconds=n)


def statements(name: str, flavour: str, do: Do, said: Sequence[tuple[object, ...]]) -> Any:
    return pytest.param(flavour, do, said, id=f"{flavour}: {name}")


SAID = [
    statements("follow", "MySQL 8.0", lambda d, a: d.follow(a, SOURCE, REPLICATION), FOLLOW),
    *(
        statements(f"follow, {what}", flavour, do, with_tls(plain, word, ca, verify))
        for flavour, plain, word in (("MySQL 8.0", FOLLOW, "SOURCE"), ("MariaDB", MARIADB_FOLLOW, "MASTER"))
        for what, do, ca, verify in (
            ("the source is verified", lambda d, a: d.follow(a, SOURCE, ENCRYPTED), "/etc/ca.pem", 1),
            ("nothing is verified", lambda d, a: d.follow(a, SOURCE, ENCRYPTED_ONLY), "", 0),
        )
    ),
    statements("resume", "MySQL 8.0", lambda d, a: d.resume_replication(a), [("START REPLICA",)]),
    statements("executed", "MySQL 8.0", lambda d, a: d.executed(a), [EXECUTED]),
    statements(
        "halt",
        "MySQL 8.0",
        lambda d, a: d.halt(a),
        [("STOP REPLICA IO_THREAD",), ("SHOW REPLICA STATUS",), EXECUTED, CLOSED],
    ),
    statements(
        "promote and arm",
        "MySQL 8.0",
        lambda d, a: d.promote(a, arm_semi_sync=True),
        [("STOP REPLICA",), ("SET GLOBAL rpl_semi_sync_source_enabled = ON",), *OPEN],
    ),
    statements(
        "promote without semi-sync",
        "MySQL 8.0",
        lambda d, a: d.promote(a, arm_semi_sync=False),
        [("STOP REPLICA",), *OPEN],
    ),
    statements(
        "forget the source",
        "MySQL 8.0",
        lambda d, a: d.forget_source(a),
        [
            ("STOP REPLICA",),
            ("RESET REPLICA ALL",),
            ("RESET PERSIST IF EXISTS super_read_only",),
            ("RESET PERSIST IF EXISTS read_only",),
        ],
    ),
    statements(
        "join with a copy that knows its position",
        "MySQL 8.0",
        lambda d, a: d.join(a, SOURCE, REPLICATION, None, TARGET),
        [("STOP REPLICA",), ("RESET REPLICA ALL",), *FOLLOW],
    ),
    *(
        statements(
            "join with a copy whose tool told the position",
            flavour,
            lambda d, a: d.join(a, SOURCE, REPLICATION, f"{UUID}:1-5,\n{UUID}:7", None),
            [
                ("STOP REPLICA",),
                ("RESET REPLICA ALL",),
                ("SELECT VERSION() AS version",),
                (wipe,),
                ("SET GLOBAL gtid_purged = %s", f"{UUID}:1-5:7"),
                *FOLLOW,
            ],
        )
        for flavour, wipe in (("MySQL 8.0", "RESET MASTER"), ("MySQL 8.4", "RESET BINARY LOGS AND GTIDS"))
    ),
    statements(
        "close for writes",
        "MySQL 8.0",
        lambda d, a: d.close_for_writes(a, second(5)),
        [("SET SESSION lock_wait_timeout = %s", 5), ("SET GLOBAL super_read_only = ON",), EXECUTED],
    ),
    statements(
        "close for writes, never longer than the client listens",
        "MySQL 8.0",
        lambda d, a: d.close_for_writes(a, second(3600)),
        [("SET SESSION lock_wait_timeout = %s", 10), ("SET GLOBAL super_read_only = ON",), EXECUTED],
    ),
    statements(
        "close for writes, never without waiting",
        "MySQL 8.0",
        lambda d, a: d.close_for_writes(a, second(0.2)),
        [("SET SESSION lock_wait_timeout = %s", 1), ("SET GLOBAL super_read_only = ON",), EXECUTED],
    ),
    statements("open for writes", "MySQL 8.0", lambda d, a: d.open_for_writes(a), OPEN),
    statements(
        "wait",
        "MySQL 8.0",
        lambda d, a: d.wait_applied(a, TARGET, second(0.25)),
        [(WAIT, TARGET_TEXT, 0.25)],
    ),
    statements("follow", "MariaDB", lambda d, a: d.follow(a, SOURCE, REPLICATION), MARIADB_FOLLOW),
    statements("resume", "MariaDB", lambda d, a: d.resume_replication(a), [("START SLAVE",)]),
    statements("executed", "MariaDB", lambda d, a: d.executed(a), [MARIADB_EXECUTED]),
    statements(
        "halt",
        "MariaDB",
        lambda d, a: d.halt(a),
        [("STOP SLAVE IO_THREAD",), ("SHOW ALL SLAVES STATUS",), MARIADB_EXECUTED, CLOSED],
    ),
    statements(
        "promote and arm",
        "MariaDB",
        lambda d, a: d.promote(a, arm_semi_sync=True),
        [
            ("STOP SLAVE",),
            ("SET GLOBAL rpl_semi_sync_master_enabled = ON",),
            ("SET GLOBAL read_only = OFF",),
        ],
    ),
    statements(
        "forget the source",
        "MariaDB",
        lambda d, a: d.forget_source(a),
        [("STOP SLAVE",), ("RESET SLAVE ALL",)],
    ),
    statements(
        "join with a cold copy",
        "MariaDB",
        lambda d, a: d.join(a, SOURCE, REPLICATION, None, None),
        [
            ("STOP ALL SLAVES",),
            ("RESET SLAVE ALL",),
            MARIADB_EXECUTED,
            ("SET GLOBAL gtid_slave_pos = %s", "0-1-9"),
            *MARIADB_FOLLOW,
        ],
    ),
    statements(
        "join with a copy whose tool told the position",
        "MariaDB",
        lambda d, a: d.join(a, SOURCE, REPLICATION, "0-1-8", MariadbGtidSet.parse("0-1-9,0-2-7")),
        [
            ("STOP ALL SLAVES",),
            ("RESET SLAVE ALL",),
            ("SELECT @@global.gtid_binlog_state AS state",),
            ("RESET MASTER",),
            ("SET GLOBAL gtid_slave_pos = %s", "0-1-8"),
            ("SET GLOBAL gtid_binlog_state = %s", "0-2-7,0-1-8"),
            *MARIADB_FOLLOW,
        ],
    ),
    statements(
        "close for writes",
        "MariaDB",
        lambda d, a: d.close_for_writes(a, second(5)),
        [
            ("SET SESSION lock_wait_timeout = %s", 5),
            ("SET GLOBAL read_only = ON",),
            ("FLUSH TABLES WITH READ LOCK",),
            MARIADB_EXECUTED,
        ],
    ),
    statements(
        "open for writes",
        "MariaDB",
        lambda d, a: d.open_for_writes(a),
        [("UNLOCK TABLES",), ("SET GLOBAL read_only = OFF",)],
    ),
    statements(
        "promote without semi-sync",
        "MariaDB",
        lambda d, a: d.promote(a, arm_semi_sync=False),
        [("STOP SLAVE",), ("SET GLOBAL read_only = OFF",)],
    ),
    statements(
        "wait",
        "MariaDB",
        lambda d, a: d.wait_applied(a, MariadbGtidSet.parse("0-1-9"), second(1)),
        [("SELECT MASTER_GTID_WAIT(%s, %s) AS waited", "0-1-9", 1.0), MARIADB_EXECUTED],
    ),
]


@pytest.mark.parametrize(("flavour", "do", "said"), SAID)
def test_the_statements_of_a_method(flavour: str, do: Do, said: Sequence[tuple[object, ...]]) -> None:
    dialect, answers = FLAVOURS[flavour]
    ask = FakeAsk(dict(answers))
    do(dialect, ask)
    assert ask.said == list(said)


@pytest.mark.parametrize("verify", [Verify.FULL, Verify.CHAIN])
def test_replication_is_not_verified_against_nothing(verify: Verify) -> None:
    with pytest.raises(UsageError, match=rf"verify: {verify}.*no `ca_file`"):
        ReplicationTls(verify=verify)


EVERYTHING: list[Do] = [
    lambda d, a: d.facts(a),
    lambda d, a: d.semi_sync(a),
    lambda d, a: d.executed(a),
    lambda d, a: d.wait_applied(a, TARGET, second(1)),
    lambda d, a: d.halt(a),
    lambda d, a: d.join(a, SOURCE, REPLICATION, f"{UUID}:1", None),
    lambda d, a: d.follow(a, SOURCE, REPLICATION),
    lambda d, a: d.follow(a, SOURCE, ENCRYPTED),
    lambda d, a: d.resume_replication(a),
    lambda d, a: d.promote(a, arm_semi_sync=True),
    lambda d, a: d.forget_source(a),
    lambda d, a: d.close_for_writes(a, second(1)),
    lambda d, a: d.open_for_writes(a),
]


def test_nothing_said_to_8_4_uses_a_word_that_it_dropped() -> None:
    ask = FakeAsk(dict(ANSWERS_84))
    row = SNAPSHOTS["replica-sql-error-1062"]["SHOW REPLICA STATUS"][0]
    ask.answers |= {"SHOW REPLICA STATUS": [row], "SELECT ENABLED": [{"enabled": "YES"}]}
    for do in EVERYTHING:
        do(MysqlDialect(), ask)
    assert len(ask.said) > len(EVERYTHING)
    assert not [s for s in ask.statements if re.search(r"\b(MASTER|SLAVES?)\b", s, re.I)]


def test_an_old_semi_sync_plugin_is_armed_under_its_own_name() -> None:
    ask = FakeAsk({"SET GLOBAL rpl_semi_sync_source": ServerError("error 1193: Unknown system variable")})
    MysqlDialect().promote(ask, arm_semi_sync=True)
    assert ask.statements[2:] == ["SET GLOBAL rpl_semi_sync_master_enabled = ON", *(s for (s,) in OPEN)]


def test_arming_that_fails_for_another_reason_is_not_tried_again_and_nothing_is_opened() -> None:
    ask = FakeAsk({"SET GLOBAL rpl_semi_sync_source": ServerGoneError("no answer")})
    with pytest.raises(ServerGoneError):
        MysqlDialect().promote(ask, arm_semi_sync=True)
    assert len(ask.said) == 2


@pytest.mark.parametrize("failing", ["SET GLOBAL super_read_only = ON", "SELECT @@global.gtid_executed"])
def test_a_close_that_fails_is_undone(failing: str) -> None:
    ask = FakeAsk({failing: StatementTimeoutError("error 1205: Lock wait timeout exceeded")})
    with pytest.raises(StatementTimeoutError):
        MysqlDialect().close_for_writes(ask, second(2))
    assert ask.said[-2:] == OPEN


@pytest.mark.parametrize(
    ("within_s", "slices"),
    [
        pytest.param(12, [5, 5, 2], id="in slices that the client's time-out outlives"),
        pytest.param(0.0001, [0.001], id="never 0, which would wait without limit"),
        pytest.param(0, [], id="no time at all is a look"),
    ],
)
def test_a_wait_that_runs_out(within_s: float, slices: list[float]) -> None:
    ask = FakeAsk({"SELECT WAIT_FOR": [{"waited": 1}], "SELECT @@global": [{"executed": f"{UUID}:1-4"}]})
    assert not MysqlDialect().wait_applied(ask, TARGET, second(within_s))
    assert [said[2] for said in ask.said if said[0] == WAIT] == slices


def test_a_wait_without_time_sees_what_has_been_applied() -> None:
    ask = FakeAsk({"SELECT @@global": [{"executed": TARGET_TEXT}]})
    assert MysqlDialect().wait_applied(ask, TARGET, second(0))


def test_a_set_of_the_other_flavour_is_refused() -> None:
    with pytest.raises(TypeError, match="another flavour"):
        MysqlDialect().wait_applied(FakeAsk(), MariadbGtidSet.parse("0-1-9"), second(1))


WORDS = re.compile(
    r"CHANGE MASTER|CHANGE REPLICATION|START SLAVE|START REPLICA|gtid_slave_pos|super_read_only|rpl_semi_sync"
)


def literals(tree: ast.AST) -> Iterator[str]:
    """String constants that are not documentation."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_sql_of_one_flavour_stays_in_its_adapter() -> None:
    root = Path(reaper.__file__).parent
    variables = root / "domain" / "variables.py"  # which differences matter: names of both flavours, and no statement
    files = [p for p in root.rglob("*.py") if root / "adapters" / "mysql" not in p.parents and p != variables]
    assert len(files) > 10
    found = [
        f"{path.relative_to(root)}: {text!r}"
        for path in files
        for text in literals(ast.parse(path.read_text()))
        if WORDS.search(text)
    ]
    assert not found


# --- The engine ----------------------------------------------------------------------------------

LOGINS = Logins(
    admin=Login("reaper", "adm'in\\pw"), replication=Login("repl", "repl-pw"), application=Login("app", "app-pw")
)
MYSQLD = Path("/usr/sbin/mysqld")


def seat(home: Path) -> Seat:
    return Seat(home=home, port=33801, server_id=7)


def engine(program: Path = MYSQLD, version: str = "8.0.43") -> MysqlEngine:
    return MysqlEngine(program, version)


def test_my_cnf_boots_a_crash_safe_read_only_server_on_loopback(tmp_path: Path) -> None:
    lines = engine().options(seat(tmp_path)).splitlines()
    assert lines[:2] == ["# Written by reaper.", "[mysqld]"]
    for line in (
        f"datadir = {tmp_path}/data",
        "bind-address = 127.0.0.1",
        "port = 33801",
        "socket = s.sock",
        "server-id = 7",
        "gtid-mode = ON",
        "enforce-gtid-consistency = ON",
        "log-replica-updates = ON",
        "sync-binlog = 1",
        "innodb-flush-log-at-trx-commit = 1",
        "super-read-only = ON",
        "skip-replica-start",
        "skip-name-resolve",
        "loose-mysqlx = OFF",
        'plugin-load-add = "rpl_semi_sync_source=semisync_source.so;'
        'rpl_semi_sync_replica=semisync_replica.so;clone=mysql_clone.so"',
        "rpl-semi-sync-source-wait-point = AFTER_SYNC",
        "rpl-semi-sync-source-timeout = 3600000",
        "rpl-semi-sync-replica-enabled = ON",
    ):
        assert line in lines
    assert not re.search(r"master|slave", "\n".join(lines), re.I)
    assert not any("source-enabled" in line for line in lines)  # armed by a promotion only


def test_the_command_line_names_the_option_file_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert engine().command(seat(tmp_path)) == [
        "/usr/sbin/mysqld",
        f"--defaults-file={tmp_path}/my.cnf",
        "--user=root",
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert len(engine().command(seat(tmp_path))) == 2


# A mysqld that notes how it was called, and serves until it is asked to end.
FAKE_MYSQLD = """#!/bin/sh
echo "$@" >> {home}/calls
case "$*" in
*--initialize-insecure*) mkdir {home}/data; exit {initialise} ;;
esac
for word in "$@"; do case "$word" in --init-file=*) f="${{word#--init-file=}}" ;; esac; done
cat "$f" > {home}/init-sql; stat -c %a "$f" > {home}/init-mode
{boot}
echo "mysqld: ready for connections. Version: '8.0.43'"
trap 'exit 0' TERM
while :; do sleep 0.02; done
"""


def fake_mysqld(home: Path, *, initialise: int = 0, boot: str = ":") -> Path:
    program = home / "mysqld"
    program.write_text(FAKE_MYSQLD.format(home=home, initialise=initialise, boot=boot))
    program.chmod(0o700)
    return program


def test_a_data_directory_is_made_in_two_runs_without_a_password_in_sight(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("yesterday: ready for connections. Version: old\n")
    engine(fake_mysqld(tmp_path)).initialise(tmp_path / "data", LOGINS, ("reaper", "app"), log)
    first, second_run = (tmp_path / "calls").read_text().splitlines()
    assert "--initialize-insecure" in first
    assert "--init-file" not in first  # accounts cannot be managed in that run
    for call in (first, second_run):
        assert call.startswith("--no-defaults ")
        assert "--disable-log-bin" in call
        assert "pw" not in call
    assert "--skip-networking" in second_run
    assert (tmp_path / "init-mode").read_text().strip() == "600"
    assert not list(tmp_path.glob("*.sql"))
    assert (tmp_path / "init-sql").read_text().splitlines() == [
        "CREATE DATABASE `reaper`;",
        "CREATE DATABASE `app`;",
        "CREATE USER 'reaper'@'127.0.0.1' IDENTIFIED BY 'adm''in\\\\pw';",
        "CREATE USER 'repl'@'127.0.0.1' IDENTIFIED BY 'repl-pw';",
        "CREATE USER 'app'@'127.0.0.1' IDENTIFIED BY 'app-pw';",
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD, PROCESS, SHUTDOWN, REPLICATION CLIENT, REPLICATION SLAVE"
        " ON *.* TO 'reaper'@'127.0.0.1';",
        "GRANT REPLICATION_SLAVE_ADMIN, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, BACKUP_ADMIN"
        " ON *.* TO 'reaper'@'127.0.0.1';",
        "GRANT ALL ON reaper.* TO 'reaper'@'127.0.0.1';",
        "GRANT REPLICATION SLAVE ON *.* TO 'repl'@'127.0.0.1';",
        "GRANT ALL ON `reaper`.* TO 'app'@'127.0.0.1';",
        "GRANT ALL ON `app`.* TO 'app'@'127.0.0.1';",
    ]


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        pytest.param({"initialise": 1}, r"mysqld failed \(1\)", id="it cannot initialise"),
        pytest.param(
            {"boot": "echo 'ERROR 1064 in the init file'; exit 1"},
            r"ended \(1\).*ERROR 1064",
            id="the init file is refused",
        ),
    ],
)
def test_a_failed_initialisation_says_why_and_leaves_no_secret(tmp_path: Path, fault: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        engine(fake_mysqld(tmp_path, **fault)).initialise(tmp_path / "data", LOGINS, ("app",), tmp_path / "log")
    assert not list(tmp_path.glob("*.sql"))


def test_a_server_too_old_for_a_lab_is_named() -> None:
    with pytest.raises(UsageError, match=r"is MySQL 8\.0\.25: a lab needs 8\.0\.26 or later"):
        engine(version="8.0.25").initialise(Path("/nowhere"), LOGINS, (), Path("/nowhere.log"))


def test_strip_removes_identity_and_keeps_the_data(tmp_path: Path) -> None:
    gone = ["auto.cnf", "mysqld-auto.cnf", "mysqld-auto.cnf.backup", "s.sock.lock", "vm.pid", "relay.000003"]
    kept = ["ibdata1", "binlog.000001", "binlog.index", "ib_buffer_pool", "mysql.ibd", "server-cert.pem"]
    for name in [*gone, "relay.index", *kept]:
        (tmp_path / name).touch()
    (tmp_path / "relay_app").mkdir()  # a schema
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.sock"))
        assert stat.S_ISSOCK((tmp_path / "s.sock").stat().st_mode)
        engine().strip(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "relay_app"])


# --- The clone -----------------------------------------------------------------------------------


class FakeConnection:
    """Clones until it is told to stop; the second one kills the first."""

    opened: list["FakeConnection"]
    clones_for_s: float
    fault: ServerError | None

    def __init__(self, address: Address, account: Login, *, tls: ServerTls, read_timeout_s: float = 15) -> None:
        assert address == Address("127.0.0.1", 33801)
        assert account == LOGINS.admin
        assert tls.verify is Verify.NOTHING
        self.read_timeout_s = read_timeout_s
        self.said: list[tuple[object, ...]] = []
        self.closed = self.killed = False
        self.opened.append(self)

    def ask(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        self.said.append((sql, *arguments))
        if sql.startswith("CLONE"):
            Path(str(arguments[0])).mkdir()
            deadline = time.monotonic() + self.clones_for_s
            while time.monotonic() < deadline and not self.killed:
                time.sleep(0.005)
            if self.fault:
                raise self.fault
            if self.killed:
                raise StatementTimeoutError("took too long: Query execution was interrupted")
        if sql.startswith("KILL"):
            self.opened[0].killed = True
        return [{"id": 42}]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> type[FakeConnection]:
    FakeConnection.opened, FakeConnection.clones_for_s, FakeConnection.fault = [], 0.15, None
    monkeypatch.setattr(engine_mysql, "Connection", FakeConnection)
    return FakeConnection


def test_a_clone_is_run_by_the_source_while_check_is_called(clones: type[FakeConnection], tmp_path: Path) -> None:
    calls: list[int] = []
    into = tmp_path / "copy"
    copy = engine().hot_copy(seat(tmp_path), LOGINS.admin, into, lambda: calls.append(1))
    assert copy.position is None
    assert into.is_dir()
    assert len(calls) > 1
    (connection,) = clones.opened
    assert connection.said[-1] == ("CLONE LOCAL DATA DIRECTORY = %s", str(into))
    assert connection.read_timeout_s >= 3600
    assert connection.closed


def test_an_aborted_clone_is_killed_and_leaves_nothing(clones: type[FakeConnection], tmp_path: Path) -> None:
    clones.clones_for_s = 30
    into = tmp_path / "copy"

    def check() -> None:
        if into.exists():
            raise AbortedError("a person said stop")

    with pytest.raises(AbortedError):
        engine().hot_copy(seat(tmp_path), LOGINS.admin, into, check)
    cloning, killing = clones.opened
    assert killing.said == [("KILL QUERY 42",)]
    assert cloning.closed
    assert killing.closed
    assert not into.exists()


def test_a_failed_clone_can_be_tried_again_and_leaves_nothing(clones: type[FakeConnection], tmp_path: Path) -> None:
    clones.fault = ServerError("error 1524: Plugin 'clone' is not loaded")
    with pytest.raises(TryAgainError, match="Plugin 'clone' is not loaded"):
        engine().hot_copy(seat(tmp_path), LOGINS.admin, tmp_path / "copy", lambda: None)
    assert not (tmp_path / "copy").exists()


def test_a_directory_that_exists_is_left_alone(clones: type[FakeConnection], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        engine().hot_copy(seat(tmp_path), LOGINS.admin, tmp_path, lambda: None)
    assert tmp_path.exists()
    assert not clones.opened
