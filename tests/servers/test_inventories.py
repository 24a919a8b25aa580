"""Parity and the hand-over of events on real servers (E18, E19)."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pymysql
import pytest
from labs import Lab, Row, until

import reaper.adapters.mysql.inventory
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.event_handover import hand_over
from reaper.adapters.mysql.inventory import inventory, read_events
from reaper.domain.errors import AccessDeniedError, ReadOnlyError
from reaper.domain.facts import Address, Flavour
from reaper.domain.parity import EventStatus, HandOver, Inventory, Scheduler, Severity, Unread
from reaper.planner.parity import differences, to_hand_over
from reaper.workflow.engine import Login

KEY = b"drawn for this comparison"
EVERYTHING = (
    "CREATE TABLE app.parent (id INT PRIMARY KEY) ENGINE=InnoDB",
    "CREATE TABLE app.child (id INT AUTO_INCREMENT PRIMARY KEY, p INT, n VARCHAR(20) DEFAULT 'it''s', KEY p (p),"
    " CONSTRAINT f FOREIGN KEY (p) REFERENCES app.parent (id), CHECK (p > 0)) ENGINE=InnoDB",
    "CREATE TABLE app.parted (d INT) ENGINE=InnoDB PARTITION BY RANGE (d) (PARTITION a VALUES LESS THAN (10))",
    "CREATE TABLE app.Parent (another_case INT, t TIMESTAMP DEFAULT '2020-02-02 02:02:02')",
    "CREATE VIEW app.v AS SELECT id FROM app.parent",
    "CREATE PROCEDURE app.p (a INT) SELECT a",
    "CREATE FUNCTION app.p (a INT) RETURNS INT DETERMINISTIC RETURN a",
    "CREATE TRIGGER app.g BEFORE INSERT ON app.child FOR EACH ROW SET NEW.n = 'x'",
    "CREATE EVENT app.e ON SCHEDULE EVERY 1 DAY DO DELETE FROM app.parent",
    "CREATE EVENT app.d ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM app.parent",
    "CREATE SCHEMA other",
    "CREATE USER shop@'%' IDENTIFIED BY 'one'",
    "GRANT SELECT ON app.* TO shop@'%'",
    "CREATE USER till@'%' IDENTIFIED BY 'one'",
    "CREATE ROLE clerk",
    "GRANT clerk TO till@'%'",
    "INSERT INTO app.child (p) SELECT id FROM app.parent",
)
ZONE = "INSERT INTO mysql.time_zone_name VALUES ('Here/There', 1)"
NO_ZONE = "DELETE FROM mysql.time_zone_name"
# What is done to one replica, how it is undone, and the difference that it makes.
CHANGES = [
    ("SET GLOBAL sql_mode = 'ANSI'", "SET GLOBAL sql_mode = DEFAULT", "variable sql_mode"),
    ("SET GLOBAL time_zone = '+09:00'", "SET GLOBAL time_zone = DEFAULT", "variable time_zone"),
    ("SET GLOBAL event_scheduler = ON", "SET GLOBAL event_scheduler = OFF", "variable event_scheduler"),
    ("INSTALL SONAME 'query_response_time'", "UNINSTALL SONAME 'query_response_time'", "plugin QUERY_RESPONSE_TIME"),
    ("REVOKE SELECT ON app.* FROM shop@'%'", "GRANT SELECT ON app.* TO shop@'%'", "account 'shop'@'%'"),
    (
        "SET PASSWORD FOR till@'%' = PASSWORD('two')",
        "SET PASSWORD FOR till@'%' = PASSWORD('one')",
        "account 'till'@'%'",
    ),
    ("REVOKE clerk FROM till@'%'", "GRANT clerk TO till@'%'", "account 'till'@'%'"),
    ("ALTER SCHEMA other CHARACTER SET utf8mb4", "ALTER SCHEMA other CHARACTER SET latin1", "schema other"),
    ("CREATE SCHEMA errant", "DROP SCHEMA errant", "schema errant"),
    ("ALTER TABLE app.child ADD KEY n (n)", "ALTER TABLE app.child DROP KEY n", "table app.child"),
    (
        "ALTER TABLE app.child DROP FOREIGN KEY f",
        "ALTER TABLE app.child ADD CONSTRAINT f FOREIGN KEY (p) REFERENCES app.parent (id)",
        "table app.child",
    ),
    (
        "ALTER TABLE app.child ALTER n SET DEFAULT 'its'",
        "ALTER TABLE app.child ALTER n SET DEFAULT 'it''s'",
        "table app.child",
    ),
    ("ALTER TABLE app.Parent ADD x INT", "ALTER TABLE app.Parent DROP x", "table app.Parent"),
    (
        "ALTER TABLE app.parted ADD PARTITION (PARTITION b VALUES LESS THAN (20))",
        "ALTER TABLE app.parted DROP PARTITION b",
        "table app.parted",
    ),
    (
        "CREATE OR REPLACE VIEW app.v AS SELECT id + 1 AS id FROM app.parent",
        "CREATE OR REPLACE VIEW app.v AS SELECT id FROM app.parent",
        "view app.v",
    ),
    (
        "CREATE OR REPLACE PROCEDURE app.p (a INT) SELECT a + 1",
        "CREATE OR REPLACE PROCEDURE app.p (a INT) SELECT a",
        "routine app.p (procedure)",
    ),
    (
        "CREATE OR REPLACE TRIGGER app.g BEFORE INSERT ON app.child FOR EACH ROW SET NEW.n = 'y'",
        "CREATE OR REPLACE TRIGGER app.g BEFORE INSERT ON app.child FOR EACH ROW SET NEW.n = 'x'",
        "trigger app.g",
    ),
    ("ALTER EVENT app.e DO DELETE FROM app.child", "ALTER EVENT app.e DO DELETE FROM app.parent", "event app.e"),
    (
        "ALTER DEFINER = shop@'%' EVENT app.e COMMENT ''",
        "ALTER DEFINER = root@localhost EVENT app.e COMMENT ''",
        "event app.e",
    ),
    ("ALTER EVENT app.e ENABLE", "ALTER EVENT app.e DISABLE ON SLAVE", "event app.e"),
    (ZONE, NO_ZONE, "timezone tables"),
    (
        "STOP SLAVE; SET GLOBAL replicate_ignore_db = 'nobody'; START SLAVE",
        "STOP SLAVE; SET GLOBAL replicate_ignore_db = ''; START SLAVE",
        "filter replicate_ignore_db",
    ),
]


@contextlib.contextmanager
def connected(lab: Lab, instance: str) -> Iterator[Connection]:
    """The adapter's own connection, with reaper's account."""
    book = lab.book()["admin"]
    address = Address("127.0.0.1", lab.record(instance)["port"])
    connection = Connection(address, Login(user=book["user"], password=book["password"]), tls=None)
    try:
        yield connection
    finally:
        connection.close()


def read(lab: Lab, instance: str) -> Inventory:
    with connected(lab, instance) as connection:
        return inventory(connection.ask, Flavour.MARIADB, KEY)


def alone(lab: Lab, instance: str, statement: str) -> None:
    """Statements of root that no other server hears of."""
    lab.root_sql(instance, "SET sql_log_bin = 0", "SET character_set_client = utf8mb4", *statement.split("; "))


def caught_up(lab: Lab, master: str, replica: str) -> None:
    at = lab.sql(master, "SELECT @@gtid_binlog_pos AS pos")[0]["pos"]
    (row,) = lab.sql(replica, f"SELECT MASTER_GTID_WAIT('{at}', 30) AS waited")
    assert row["waited"] == 0


@pytest.fixture(scope="module")
def stocked(lab: Lab) -> Lab:
    """The shared lab with one of everything, made on its master."""
    for statement in EVERYTHING:
        lab.root_sql("n1", statement)
    for replica in ("n2", "n3"):
        caught_up(lab, "n1", replica)
    return lab


def labels(lab: Lab) -> list[str]:
    return [d.label for d in differences(read(lab, "n1"), read(lab, "n3"))]


def test_a_master_and_its_replicas_do_not_differ_and_everything_is_read(stocked: Lab) -> None:
    master, replica = read(stocked, "n1"), read(stocked, "n2")
    assert differences(master, replica) == ()
    assert not [f for f, part in vars(master).items() if isinstance(part, Unread)]
    assert not isinstance(master.schemas, Unread)
    app = next(s for s in master.schemas.schemas if s.name == "app")
    assert {(o.kind.value, o.name) for o in app.objects} >= {
        ("table", "parent"),
        ("table", "Parent"),
        ("view", "v"),
        ("routine", "p (procedure)"),
        ("routine", "p (function)"),
        ("trigger", "g"),
    }


def test_work_that_is_shared_out_finds_the_same(stocked: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tables are read in shares, so that no statement takes long: nothing is lost or read twice."""
    whole = read(stocked, "n1")
    monkeypatch.setattr(reaper.adapters.mysql.inventory, "_TABLES_AT_ONCE", 1)
    assert read(stocked, "n1") == whole


def test_auto_increment_and_rows_are_no_difference(stocked: Lab) -> None:
    alone(stocked, "n3", "ALTER TABLE app.child AUTO_INCREMENT = 1000")
    assert labels(stocked) == []


@pytest.mark.parametrize(("change", "undo", "label"), CHANGES, ids=[f"{c[2]}: {c[0]}" for c in CHANGES])
def test_one_change_on_a_replica_is_one_difference(stocked: Lab, change: str, undo: str, label: str) -> None:
    try:
        alone(stocked, "n3", change)
        assert set(labels(stocked)) == {label, *(("plugin QUERY_RESPONSE_TIME_AUDIT",) if "SONAME" in change else ())}
    finally:
        with contextlib.suppress(pymysql.MySQLError):
            alone(stocked, "n3", undo)
    assert labels(stocked) == []


def test_an_account_that_does_not_see_everything_reads_nothing_by_halves(stocked: Lab) -> None:
    """I10: without TRIGGER the list of triggers is empty, not refused."""
    stocked.root_sql(
        "n1", "CREATE OR REPLACE USER peep@'127.0.0.1' IDENTIFIED BY 'x'", "GRANT SELECT ON *.* TO peep@'127.0.0.1'"
    )
    address = Address("127.0.0.1", stocked.record("n1")["port"])
    peeping = Connection(address, Login(user="peep", password="x"), tls=None)
    try:
        seen = inventory(peeping.ask, Flavour.MARIADB, KEY)
        with pytest.raises(AccessDeniedError, match="GRANT EVENT"):
            read_events(peeping.ask)
    finally:
        peeping.close()
        stocked.root_sql("n1", "DROP USER peep@'127.0.0.1'")
    assert isinstance(seen.schemas, Unread)
    assert "GRANT SHOW VIEW, TRIGGER" in seen.schemas.why
    assert isinstance(seen.events, Unread)
    assert isinstance(seen.filters, Unread)  # SHOW ALL SLAVES STATUS is denied
    assert not isinstance(seen.accounts, Unread)
    caught_up(stocked, "n1", "n3")


def test_a_table_that_is_locked_is_unread_and_the_session_is_as_before(stocked: Lab) -> None:
    """information_schema shows what it can and only warns; the account's session must not keep the limits."""
    names = (
        "max_statement_time",
        "lock_wait_timeout",
        "group_concat_max_len",
        "max_error_count",
        "sql_mode",
        "time_zone",
    )
    limits = "SELECT " + ", ".join(f"@@session.{name} AS {name}" for name in names)

    def hold() -> None:
        with contextlib.suppress(pymysql.MySQLError):
            alone(stocked, "n1", "CREATE TABLE app.held AS SELECT SLEEP(60) AS a")

    holder = threading.Thread(target=hold)
    holding = "SELECT id FROM information_schema.processlist WHERE info LIKE 'CREATE TABLE app.held%'"
    with connected(stocked, "n1") as connection:
        before = connection.ask(limits)
        holder.start()
        try:
            until(lambda: bool(stocked.sql("n1", holding)), "the table is being made")
            seen = inventory(connection.ask, Flavour.MARIADB, KEY)
        finally:
            for row in stocked.sql("n1", holding):
                stocked.sql("n1", f"KILL {row['id']}")
            holder.join()
        assert connection.ask(limits) == before
    assert isinstance(seen.schemas, Unread)
    assert "Lock wait timeout" in seen.schemas.why
    assert not isinstance(seen.variables, Unread)


# ---- events


def runs(lab: Lab, instance: str) -> list[Row]:
    return lab.sql(instance, "SELECT id, who, at FROM app.runs ORDER BY id")


def servers(lab: Lab, instance: str, who: str = "tick") -> set[int]:
    return {int(row["at"]) for row in runs(lab, instance) if row["who"] == who}


def scheduled(name: str, schedule: str) -> str:
    insert = f"INSERT INTO app.runs (who, at) VALUES ('{name}', @@server_id)"
    quoted = name.replace("`", "``")
    return f"CREATE DEFINER = clock@'%' EVENT app.`{quoted}` ON SCHEDULE {schedule} ON COMPLETION PRESERVE DO {insert}"


@contextlib.contextmanager
def failed_over(lab: Lab) -> Iterator[tuple[HandOver, int]]:
    """n1 with events that run every second, its scheduler's wish, its death, and n2 open for writes in its place."""
    for statement in (
        "CREATE TABLE app.runs (id INT AUTO_INCREMENT PRIMARY KEY, who VARCHAR(20), at INT)",
        "CREATE USER clock@'%'",
        "GRANT EVENT, INSERT ON app.* TO clock@'%'",
        scheduled("tick", "EVERY 1 SECOND"),
        scheduled("stopped", "EVERY 1 SECOND").replace(" DO ", " DISABLE DO "),
    ):
        lab.root_sql("n1", statement)
    lab.root_sql("n1", "SET NAMES latin1 COLLATE latin1_german2_ci", scheduled("old`name", "EVERY 1 DAY"))
    lab.root_sql("n1", scheduled("once", "AT CURRENT_TIMESTAMP + INTERVAL 3 SECOND"))
    for replica in ("n2", "n3"):
        caught_up(lab, "n1", replica)
    found = read(lab, "n1").events
    assert not isinstance(found, Unread)
    wanted = HandOver(scheduler=Scheduler.ON, events=to_hand_over(found).events)
    for instance in ("n2", "n3", "n1"):  # the replicas first: had they run anything, it would show
        lab.root_sql(instance, "SET GLOBAL event_scheduler = ON")
    until(lambda: {row["who"] for row in runs(lab, "n1")} >= {"tick", "once"}, "both events ran on the master")
    lab.root_sql("n1", "SET GLOBAL event_scheduler = OFF")  # so that both replicas hold the same when it dies
    until(lambda: runs(lab, "n1") == runs(lab, "n2") == runs(lab, "n3"), "the replicas have applied everything")
    lab.kill_9("n1")
    lab.root_sql("n2", "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF")
    port = lab.record("n2")["port"]
    lab.root_sql(
        "n3", "STOP SLAVE", f"CHANGE MASTER TO MASTER_PORT = {port}, MASTER_USE_GTID = slave_pos", "START SLAVE"
    )
    yield wanted, len(runs(lab, "n2"))


def test_events_run_once_on_the_heir_and_nowhere_else(make_lab: Callable[..., Lab]) -> None:
    """E19: every second on the old master, then every second on the new one, never on a replica."""
    lab = make_lab("lab")
    old, heir = (int(lab.record(n)["server_id"]) for n in ("n1", "n2"))
    with failed_over(lab) as (wanted, before), connected(lab, "n2") as connection:
        assert servers(lab, "n2") == {old}, "a replica ran its master's events"
        with connected(lab, "n3") as replica, pytest.raises(ReadOnlyError):
            hand_over(replica.ask, wanted)
        session = "SELECT @@character_set_client AS a, @@collation_connection AS b, @@lock_wait_timeout AS c"
        was = connection.ask(session)
        (left,) = hand_over(connection.ask, wanted)
        assert connection.ask(session) == was
        assert left.name == "app.once"
        assert "its one moment has passed" in left.why

        until(lambda: len(runs(lab, "n2")) > before + 2, "the event runs on the heir")
        assert {int(r["at"]) for r in runs(lab, "n2")[before:]} == {heir}
        assert servers(lab, "n2", "once") == {old}
        assert len([r for r in runs(lab, "n2") if r["who"] == "once"]) == 1, "a one-time event ran twice"
        assert servers(lab, "n2", "stopped") == set()

        now = read(lab, "n2").events
        assert not isinstance(now, Unread)
        by_name = {e.name: e for e in now.events}
        for event in wanted.events:
            if event.name != "once":
                assert by_name[event.name] == event, "definer, character set, schedule and body are as they were"
        assert by_name["old`name"].client_charset == "latin1"
        assert by_name["stopped"].status is EventStatus.DISABLED_ON_REPLICA

        altered = "SELECT event_name, last_altered FROM information_schema.events"
        once_more = lab.sql("n2", altered)
        assert hand_over(connection.ask, wanted) == (left,)
        assert lab.sql("n2", altered) == once_more, "a second hand-over changed something"

        caught_up(lab, "n2", "n3")
        sibling = read(lab, "n3").events
        assert not isinstance(sibling, Unread)
        assert {e.status for e in sibling.events} == {EventStatus.DISABLED_ON_REPLICA}
        assert servers(lab, "n3") == {old, heir}, "the sibling ran an event"
        blocking = [d for d in differences(read(lab, "n2"), read(lab, "n3")) if d.severity is Severity.BLOCKS]
        assert blocking == []


def test_a_scheduler_that_was_off_stays_off_and_a_missing_privilege_is_named(stocked: Lab) -> None:
    """The victim ran nothing: neither may its heir, whose option file starts the scheduler."""
    stocked.root_sql("n1", "SET GLOBAL event_scheduler = ON", "ALTER EVENT app.e DISABLE ON SLAVE")
    found = read(stocked, "n3").events
    assert not isinstance(found, Unread)
    was = tuple(e for e in found.events if e.name == "e")
    wanted = HandOver(scheduler=Scheduler.OFF, events=was)
    stocked.root_sql(
        "n1",
        "CREATE OR REPLACE USER weak@'127.0.0.1' IDENTIFIED BY 'x'",
        "GRANT SELECT, EVENT ON *.* TO weak@'127.0.0.1'",
    )
    weak = Connection(Address("127.0.0.1", stocked.record("n1")["port"]), Login(user="weak", password="x"), tls=None)
    try:
        with pytest.raises(AccessDeniedError):
            hand_over(weak.ask, wanted)
        with connected(stocked, "n1") as connection:
            assert hand_over(connection.ask, wanted) == ()
            assert connection.ask("SELECT @@global.event_scheduler AS state") == [{"state": "OFF"}]
        stocked.root_sql("n1", "ALTER EVENT app.e DISABLE ON SLAVE")
        with pytest.raises(AccessDeniedError, match="SET USER"):
            hand_over(weak.ask, wanted)
    finally:
        weak.close()
        stocked.root_sql(
            "n1", "SET GLOBAL event_scheduler = OFF", "ALTER EVENT app.e ENABLE", "DROP USER weak@'127.0.0.1'"
        )
        caught_up(stocked, "n1", "n3")
