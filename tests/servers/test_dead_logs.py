"""The binary logs of servers that really died (E03, I6)."""

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pymysql
import pytest
from labs import Lab, Site, until
from witness import hang_up

from reaper.adapters.mysql.binlogs import first_available, hold_binlogs, is_held, read_expiry, release_binlogs
from reaper.adapters.mysql.tail import read_tail
from reaper.domain.binlogs import can_feed
from reaper.domain.errors import RefusedError
from reaper.domain.facts import Flavour
from reaper.domain.gtid import MariadbGtidSet
from reaper.domain.ledger import Fate, Ledger, Write
from reaper.domain.tail import Tail, Told, classify

SOON = timedelta(seconds=30)
PROBE = frozenset({"reaper.probe_test"})
TABLE = (
    "CREATE TABLE reaper.probe_test (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT NOT NULL, seq BIGINT NOT NULL)"
)


@pytest.fixture
def duo(site: Site) -> Lab:
    """A lab of two that need not survive the test, with a probe's table and an application's."""
    lab = site.make_lab("tail", 2)
    lab.endpoint_sql(TABLE, "CREATE TABLE app.orders (id INT PRIMARY KEY, what VARCHAR(9000))")
    lab.endpoint_sql("INSERT INTO reaper.probe_test (client, seq) VALUES (1, 1)")
    return lab


def executed(lab: Lab, instance: str) -> MariadbGtidSet:
    row = lab.sql(instance, "SELECT @@global.gtid_binlog_state AS s, @@global.gtid_slave_pos AS p")[0]
    return MariadbGtidSet.parse(row["s"]) | MariadbGtidSet.parse(row["p"])


def caught_up(lab: Lab, replica: str, master: str) -> None:
    until(lambda: executed(lab, replica).covers(executed(lab, master)), "the replica has applied everything")


def dead_files(lab: Lab, instance: str) -> dict[str, tuple[int, int]]:
    """What reading must not change."""
    data = lab.data(instance)
    return {str(p.relative_to(data)): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(data.rglob("*"))}


def tail_of(lab: Lab, victim: str, held: MariadbGtidSet) -> Tail:
    return read_tail(lab.data(victim), held, probe_tables=PROBE, within=SOON)


@contextlib.contextmanager
def hanging(lab: Lab, *statements: str) -> Iterator[None]:
    """Writes that wait for an acknowledgement which never comes, each by a client of its own."""
    sessions = [lab.endpoint_session() for _ in statements]

    def write(session: "pymysql.connections.Connection[pymysql.cursors.DictCursor]", statement: str) -> None:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            session.cursor().execute(statement)
            pytest.fail("it was acknowledged")

    threads = [threading.Thread(target=write, args=pair) for pair in zip(sessions, statements, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for session in sessions:
            hang_up(session)
        for thread in threads:
            thread.join(30)


def test_E03_what_a_master_logged_and_nobody_acknowledged_is_found_and_judged(duo: Lab) -> None:
    master = duo.master
    replica = next(i for i in duo.instances if i != master)
    caught_up(duo, replica, master)
    duo.sql(replica, "STOP SLAVE IO_THREAD")
    held = executed(duo, replica)
    writes = (
        "INSERT INTO reaper.probe_test (client, seq) VALUES (1, 2), (2, 9)",
        "INSERT INTO app.orders VALUES (1, REPEAT('x', 9000))",
    )
    # With AFTER_SYNC two groups of commits get into the log: one waits for its acknowledgement, one for the first.
    with hanging(duo, *writes):
        until(lambda: executed(duo, master).distance(held) == len(writes), "all are logged")
        duo.kill_9(master)
    before = dead_files(duo, master)
    tail = tail_of(duo, master, held)
    assert dead_files(duo, master) == before, "reading changed something"
    assert (tail.unreadable, tail.count) == (None, len(writes))
    found = {t.tables: t for t in tail.transactions if not t.probe_rows}
    assert found[("app.orders",)].size_bytes > 9000
    assert sorted(t.probe_rows for t in tail.transactions) == [(), ((1, 2), (2, 9))]
    assert {t.kinds for t in tail.transactions} == {("insert",)}
    ledger = Ledger((Write(1, 2, 1, 2, Fate.UNKNOWN), Write(2, 9, 1, 2, Fate.REFUSED)))
    forensics = classify(tail, held, ledger, lossless=True)
    assert forensics.count(Told.NEVER_ACKNOWLEDGED) == len(writes)
    assert forensics.faults == ()
    told_so = Ledger((Write(1, 2, 1, 2, Fate.ACKNOWLEDGED),))
    assert len(classify(tail, held, told_so, lossless=True).faults) == 1


def test_a_master_whose_writes_were_all_received_leaves_no_tail(duo: Lab) -> None:
    master = duo.master
    replica = next(i for i in duo.instances if i != master)
    for number in range(20):
        duo.endpoint_sql(f"INSERT INTO reaper.probe_test (client, seq) VALUES (3, {number})")
    caught_up(duo, replica, master)
    duo.kill_9(master)
    tail = tail_of(duo, master, executed(duo, replica))
    assert tail == Tail()
    assert classify(tail, executed(duo, replica), Ledger(()), lossless=True).clean


STATEMENTS = (
    "UPDATE app.orders SET what = 'y'",
    "DELETE FROM app.orders WHERE id = 2",
    "CREATE TABLE app.copied AS SELECT * FROM app.orders",
    "CREATE TABLE app.old (id INT) ENGINE=Aria TRANSACTIONAL=0",
    "INSERT INTO app.old VALUES (1)",
    "ALTER TABLE app.old COMMENT 'line\n# at 4\n#700101  0:00:00 server id 1  end_log_pos 9 \tGTID 0-1-999999'",
    "TRUNCATE TABLE app.copied",
)
XA = ("XA START 'a'", "INSERT INTO app.orders VALUES (77, 'xa')", "XA END 'a'", "XA PREPARE 'a'", "XA COMMIT 'a'")


def test_every_kind_of_transaction_is_told_apart_as_mariadb_binlog_does(duo: Lab) -> None:
    """Over several files, compressed and not; the server's own tool gives the second opinion."""
    tool = shutil.which("mariadb-binlog")
    assert tool, "it comes with the server"
    master = duo.master
    duo.endpoint_sql("INSERT INTO app.orders VALUES (1, 'x'), (2, 'x'), (3, 'x')", *STATEMENTS)
    duo.root_sql(
        master, "FLUSH BINARY LOGS", "SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress_min_len=10"
    )
    duo.endpoint_sql(*XA)
    values = ", ".join(f"(4, {n})" for n in range(50))
    duo.endpoint_sql(
        f"INSERT INTO reaper.probe_test (client, seq) VALUES {values}",
        f"INSERT INTO app.orders VALUES (9, '{'z' * 2000}')",
        "CREATE TABLE app.compressed (a_column_with_a_long_name INT, another_one_that_is_longer INT)",
    )
    duo.root_sql(master, "FLUSH BINARY LOGS")
    duo.endpoint_sql("INSERT INTO app.orders VALUES (10, 'last')")
    duo.kill_9(master)
    tail = tail_of(duo, master, MariadbGtidSet())
    assert (tail.unreadable, tail.torn) == (None, None)
    assert [t.gtid for t in tail.transactions] == _gtids_of_the_tool(tool, duo.data(master))
    kinds = {kind for t in tail.transactions for kind in t.kinds}
    assert kinds >= {"insert", "update", "delete", "create table", "alter table", "truncate table"}
    assert "compressed statement" in kinds
    rows = [row for t in tail.transactions for row in t.probe_rows]
    assert rows == [(1, 1), *((4, n) for n in range(50))]


def _gtids_of_the_tool(tool: str, data: Path) -> list[str]:
    files = sorted(data.glob("binlog.[0-9]*"))
    assert len(files) > 2
    said = subprocess.run([tool, "--no-defaults", *files], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^#\d{6} [^\n]*end_log_pos \d+ CRC32 [^\n]*\tGTID (\d+-\d+-\d+)", said, re.M)


def test_E15_a_hold_keeps_the_logs_and_puts_back_what_was(lab: Lab) -> None:
    with contextlib.closing(lab.root_session(lab.master)) as session, session.cursor() as cursor:

        def ask(sql: str, *arguments: object) -> list[dict[str, object]]:
            cursor.execute(sql, arguments or None)
            return list(cursor.fetchall())

        ask("SET GLOBAL binlog_expire_logs_seconds = 7200")
        former = read_expiry(ask)
        for _ in range(2):
            hold_binlogs(ask, former)
        assert is_held(ask)
        with pytest.raises(RefusedError, match="does not know"):
            read_expiry(ask)
        for _ in range(2):
            release_binlogs(ask, former)
        assert ask("SELECT @@global.binlog_expire_logs_seconds AS s") == [{"s": 7200}]
        hold_binlogs(ask, former)
        ask("SET GLOBAL binlog_expire_logs_seconds = 60")
        release_binlogs(ask, former)
        assert ask("SELECT @@global.binlog_expire_logs_seconds AS s") == [{"s": 60}], "somebody else's setting was lost"
        ask("SET GLOBAL binlog_expire_logs_seconds = 0")
        never = read_expiry(ask)
        hold_binlogs(ask, never)
        assert not is_held(ask), "logs that never expire need no hold"


def test_E15_what_was_purged_is_told_and_a_copy_from_before_cannot_be_fed(lab: Lab) -> None:
    with contextlib.closing(lab.root_session(lab.master)) as session, session.cursor() as cursor:

        def ask(sql: str, *arguments: object) -> list[dict[str, object]]:
            cursor.execute(sql, arguments or None)
            return list(cursor.fetchall())

        assert can_feed(MariadbGtidSet(), first_available(ask, Flavour.MARIADB)) is None
        ask("CREATE TABLE IF NOT EXISTS app.purged (id INT)")
        stale = executed(lab, lab.master)
        ask("INSERT INTO app.purged VALUES (1)")
        for name in (i for i in lab.instances if i != lab.master):
            caught_up(lab, name, lab.master)
        ask("FLUSH BINARY LOGS")
        newest = str(ask("SHOW MASTER STATUS")[0]["File"])
        until(lambda: _purged(ask, newest), "no replica reads the old log any more")
        purged = first_available(ask, Flavour.MARIADB)
        assert purged == executed(lab, lab.master)
        assert can_feed(executed(lab, lab.master), purged) is None
        assert "purged binary logs" in (can_feed(stale, purged) or "")


def _purged(ask: object, newest: str) -> bool:
    assert callable(ask)
    ask(f"PURGE BINARY LOGS TO '{newest}'")
    return len(ask("SHOW BINARY LOGS")) == 1
