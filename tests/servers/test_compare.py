"""Real MariaDB servers: equal data is never called different, and whatever differs is found and located."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from labs import Lab, Row, ask, until

from reaper.adapters.mysql.checksum import Span
from reaper.adapters.mysql.compare import OpenSession, SqlComparer
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.tablelist import read_tables
from reaper.domain.comparison import Comparison, Sample, What
from reaper.domain.errors import AbortedError, RefusedError
from reaper.domain.facts import Address, Instance, InstanceId, InstanceState
from reaper.workflow.engine import Login

MEMBERS = ", ".join(f"'m{n}'" for n in range(64))

# name -> (columns and keys, rows as SQL). Every kind of column, key and value that could fool a checksum.
TABLES = {
    "plain": ("id INT PRIMARY KEY, v VARCHAR(40), n INT", "SELECT seq, CONCAT('v', seq), seq FROM app.numbers"),
    "sparse": ("id BIGINT UNSIGNED PRIMARY KEY, v INT", "VALUES (0,1), (1,1), (18446744073709551615,2)"),
    "below_zero": ("id INT PRIMARY KEY, v INT", "SELECT seq - 1500, seq FROM app.numbers"),
    "composite": (
        "a INT, b VARCHAR(20), c DATE, v INT, PRIMARY KEY (a, b, c)",
        "SELECT seq DIV 100, CONCAT('k', seq % 7), DATE '2020-01-01' + INTERVAL seq DAY, seq FROM app.numbers",
    ),
    "folded": (
        "k VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci PRIMARY KEY, v INT",
        "SELECT CONCAT(IF(seq % 2, 'Ä', 'b'), seq), seq FROM app.numbers",
    ),
    "latin": ("k CHAR(9) CHARACTER SET latin1 PRIMARY KEY, v INT", "SELECT CONCAT('é', seq), seq FROM app.numbers"),
    "octets": ("k VARBINARY(40) PRIMARY KEY, v INT", "SELECT UNHEX(MD5(seq)), seq FROM app.numbers"),
    "moments": ("k TIMESTAMP(6) PRIMARY KEY, v INT", "SELECT '2024-01-01' + INTERVAL seq HOUR, seq FROM app.numbers"),
    "amounts": ("k DECIMAL(20,7) PRIMARY KEY, v INT", "SELECT seq / 7 - 100, seq FROM app.numbers"),
    "singles": ("k FLOAT PRIMARY KEY, v INT", "SELECT seq / 7, seq FROM app.numbers"),
    "choices": (
        "e ENUM('z','y','x','') NOT NULL, s SET('q','p','o') NOT NULL, b BIT(12) NOT NULL, PRIMARY KEY (b, e, s)",
        "SELECT 1 + seq % 3, 1 + seq % 5, seq FROM app.numbers",
    ),
    "enum_first": ("e ENUM('b','a') NOT NULL, i INT, PRIMARY KEY (e, i)", "SELECT 1 + seq % 2, seq FROM app.numbers"),
    "uuids": (
        "k UUID PRIMARY KEY, i INET6",
        "SELECT CONCAT('00000000-0000-4000-8000-', LPAD(HEX(seq), 12, '0')), CONCAT('::', HEX(seq)) FROM app.numbers",
    ),
    "unique_only": ("a INT NOT NULL, v INT, UNIQUE KEY (a)", "SELECT seq, seq FROM app.numbers"),
    "prefix_only": ("a VARCHAR(90) NOT NULL, v INT, UNIQUE KEY (a(10))", "SELECT seq, seq FROM app.numbers"),
    "keyless": ("a INT, v VARCHAR(9)", "VALUES (1,'a'),(1,'a'),(2,'b'),(2,'b'),(NULL,'c')"),
    "twins": ("a INT", "VALUES (1)"),
    "virtual": (
        "id INT PRIMARY KEY, v INT, twice INT AS (v * 2) STORED, now_ VARCHAR(30) AS (RAND()) VIRTUAL",
        "(id, v) SELECT seq, seq FROM app.numbers",
    ),
    "parts": (
        "id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id)"
        " (PARTITION a VALUES LESS THAN (999), PARTITION b VALUES LESS THAN MAXVALUE",
        "SELECT seq, seq FROM app.numbers",
    ),
    "empty": ("id INT PRIMARY KEY, v INT", ""),
    "od`d %s 'na\"me": ("`i``d %s` INT PRIMARY KEY, `v\\` INT", "SELECT seq, seq FROM app.numbers"),
    "kinds": (
        "id INT PRIMARY KEY, t TEXT, b LONGBLOB, j JSON, g POINT, d DECIMAL(30,10), f FLOAT, r DOUBLE, bits BIT(64),"
        " e ENUM('','a','b'), s SET('a','b','c'), ts TIMESTAMP(3) NULL, dt DATETIME NULL, ti TIME(6), y YEAR,"
        f" s64 SET({MEMBERS}), c CHAR(5), vb VARBINARY(9), l VARCHAR(9) CHARACTER SET latin1,"
        " u VARCHAR(9) CHARACTER SET ucs2",
        "SELECT seq, CONCAT('täxt', seq), REPEAT(CHAR(seq % 256), seq % 90), JSON_OBJECT('a', seq), POINT(seq, -seq),"
        " seq / 7, seq / 7, seq / 7, ~seq, 1 + seq % 3, 1 + seq % 7, NOW(3), NOW(), '12:13:14.5', 2020, seq, ' a ',"
        " CHAR(0, 255, seq % 256), 'é', 'ü' FROM app.numbers",
    ),
}
ROWS = 2500
WITHIN = timedelta(seconds=60)


def quoted(name: str) -> str:
    return "app.`" + name.replace("`", "``") + "`"


@pytest.fixture(scope="module")
def filled(lab: Lab) -> Lab:
    """The lab with every table of TABLES, the replicas caught up."""
    statements = ["SET NAMES utf8mb4", "CREATE TABLE app.numbers (seq INT PRIMARY KEY)", "USE app"]
    statements.append(f"INSERT INTO app.numbers SELECT seq FROM seq_1_to_{ROWS}")
    for name, (columns, rows) in TABLES.items():
        statements.append(f"CREATE TABLE {quoted(name)} ({columns})")
        statements += [f"INSERT INTO {quoted(name)} {rows}"] if rows else []
    lab.root_sql(lab.master, "SET time_zone = '+05:00'", *statements)
    for replica in replicas(lab):
        caught_up(lab, replica)
    return lab


def replicas(lab: Lab) -> list[str]:
    return [name for name in lab.instances if name != lab.master]


def caught_up(lab: Lab, replica: str) -> None:
    position = lab.sql(lab.master, "SELECT @@gtid_binlog_pos AS p")[0]["p"]
    assert lab.sql(replica, f"SELECT MASTER_GTID_WAIT('{position}', 60) AS w")[0]["w"] == 0


def instance(lab: Lab, name: str) -> Instance:
    record = lab.record(name)
    return Instance(
        id=InstanceId("local", f"{lab.name}/{name}"),
        address=Address("127.0.0.1", record["port"]),
        server_id=record["server_id"],
        created=datetime(2026, 1, 1, tzinfo=UTC),
        state=InstanceState.RUNNING,
    )


def nothing(_said: str = "") -> None:
    return


def opener(lab: Lab) -> OpenSession:
    login = lab.book()["admin"]
    admin = Login(login["user"], login["password"])
    return lambda _, where, timeout_s: Connection(where.address, admin, tls=None, read_timeout_s=timeout_s)


def compare(
    lab: Lab,
    reference: str,
    subject: str,
    sample: Sample | None = None,
    check: Callable[[], None] = nothing,
    tell: Callable[[str], None] = nothing,
) -> Comparison:
    who = instance(lab, reference), instance(lab, subject)
    return SqlComparer(opener(lab)).compare(lab.name, *who, sample or Sample(within=WITHIN), check, tell)


def applier(lab: Lab, replica: str) -> Row:
    return lab.sql(replica, "SHOW SLAVE STATUS")[0]


def applying(lab: Lab, replica: str) -> bool:
    status = applier(lab, replica)
    return status["Slave_SQL_Running"] == status["Slave_IO_Running"] == "Yes" and status["Until_Condition"] == "None"


@contextlib.contextmanager
def writing(lab: Lab) -> Iterator[list[int]]:
    """An application that inserts, changes and deletes through the endpoint all the while; yields its counter."""
    over, done = threading.Event(), [0]

    def work() -> None:
        session = lab.endpoint_session()
        with session, session.cursor() as cursor:
            while not over.is_set():
                n = done[0]
                cursor.execute("REPLACE INTO app.plain VALUES (%s, %s, %s)", (10_000 + n % 500, f"w{n}", n))
                cursor.execute("UPDATE app.composite SET v = v + 1 WHERE a = %s", (n % 25,))
                cursor.execute("DELETE FROM app.keyless WHERE a = %s", (100 + n - 20,))
                cursor.execute("INSERT INTO app.keyless VALUES (%s, 'w')", (100 + n,))
                done[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("reference_is", ["the master", "another replica"])
@pytest.mark.parametrize("appliers", [0, 4])
def test_servers_that_are_equal_are_called_equal_while_clients_write(
    filled: Lab, reference_is: str, appliers: int
) -> None:
    reference = filled.master if reference_is == "the master" else replicas(filled)[1]
    subject = replicas(filled)[0]
    said: list[str] = []
    filled.root_sql(subject, "STOP SLAVE", f"SET GLOBAL slave_parallel_threads = {appliers}", "START SLAVE")
    with writing(filled) as written:
        until(lambda: written[0] > 5, "the writer writes")
        before = written[0]
        found = compare(filled, reference, subject, tell=said.append)
        assert written[0] > before, "nothing was written meanwhile, so nothing was proved"
    assert found.differences == ()
    assert found.skipped == ()
    assert found.sound
    assert found.tables == len(TABLES) + 1
    assert found.rows >= ROWS * (len(TABLES) - 4)
    assert found.position in said[0]
    assert applying(filled, subject)


# id -> (table, a change on the subject only, what it is, the key). Several may be in one table.
CHANGES = {
    "one byte": ("plain", "UPDATE {} SET v = 'v777!' WHERE id = 777", What.DIFFERENT, "777"),
    "the first row is missing": ("plain", "DELETE FROM {} WHERE id = 1", What.MISSING, "1"),
    "an extra row at the end": ("plain", "INSERT INTO {} VALUES (99999, '', 0)", What.EXTRA, "99999"),
    "an extra row at the start": ("below_zero", "INSERT INTO {} VALUES (-99999, 0)", What.EXTRA, "-99999"),
    "the highest key": ("sparse", "DELETE FROM {} WHERE id = ~0", What.MISSING, str(2**64 - 1)),
    "a composite key": (
        "composite",
        "UPDATE {} SET v = -1 WHERE a = 9 AND c = '2022-06-20'",
        What.DIFFERENT,
        "(9, 'k5', 2022-06-20)",
    ),
    "a key that its collation calls equal": (
        "folded",
        "UPDATE {} SET k = 'ä777' WHERE v = 777",
        What.MISSING,
        "'Ä777'",
    ),
    "a latin1 key": ("latin", "UPDATE {} SET v = 0 WHERE v = 12", What.DIFFERENT, "0xE93132"),
    "a binary key": (
        "octets",
        "UPDATE {} SET v = 0 WHERE v = 12",
        What.DIFFERENT,
        "0xC20AD4D76FE97759AA27A0C99BFF6710",
    ),
    "a key that is a moment, in UTC": (
        "moments",
        "UPDATE {} SET v = 0 WHERE v = 29",
        What.DIFFERENT,
        "2024-01-02 00:00:00.000000",
    ),
    "a decimal key": ("amounts", "UPDATE {} SET v = 0 WHERE v = 700", What.DIFFERENT, "0.0000000"),
    "a float key": ("singles", "UPDATE {} SET v = 0 WHERE v = 7", What.DIFFERENT, "1"),
    "enum, set and bit keys": ("choices", "DELETE FROM {} WHERE b = 2047", What.MISSING, "(2047, 2, 3)"),
    "a uuid key": (
        "uuids",
        "UPDATE {} SET i = '::' WHERE i = '::c'",
        What.DIFFERENT,
        "00000000-0000-4000-8000-00000000000c",
    ),
    "a unique key only": ("unique_only", "DELETE FROM {} WHERE a = 5", What.MISSING, "5"),
    "a partitioned table": ("parts", "DELETE FROM {} WHERE id = 5", What.MISSING, "5"),
    "a stored generated column's source": ("virtual", "UPDATE {} SET v = 0 WHERE id = 5", What.DIFFERENT, "5"),
    "a row in an empty table": ("empty", "INSERT INTO {} VALUES (1, 1)", What.EXTRA, "1"),
    "odd names": ("od`d %s 'na\"me", "DELETE FROM {} WHERE `i``d %s` = 5", What.MISSING, "5"),
    "an enum that leads the key": ("enum_first", "DELETE FROM {} WHERE i = 9", What.MISSING, None),
    "a prefix key only": ("prefix_only", "UPDATE {} SET v = 0 WHERE a = '9'", What.DIFFERENT, None),
    "pairs of equal rows, which XOR cancels": (
        "keyless",
        "UPDATE {} SET a = 3 - a WHERE v IN ('a', 'b')",
        What.DIFFERENT,
        None,
    ),
    "two equal extra rows, which XOR cancels": ("twins", "INSERT INTO {} VALUES (7), (7)", What.EXTRA, None),
}


@pytest.fixture(scope="module")
def damaged(filled: Lab) -> Comparison:
    """One comparison with everything of CHANGES at once, taken back afterwards."""
    subject = replicas(filled)[0]
    caught_up(filled, subject)
    tables = {table for table, *_ in CHANGES.values()}
    silent = ("SET NAMES utf8mb4", "SET sql_log_bin = 0", "SET sql_mode = ''")
    copies = {quoted(table): f"reaper.saved{n}" for n, table in enumerate(sorted(tables - {"virtual"}))}
    filled.root_sql(
        subject, *silent, *(f"CREATE TABLE {copy} AS SELECT * FROM {name}" for name, copy in copies.items())
    )
    try:
        filled.root_sql(subject, *silent, *(change.format(quoted(table)) for table, change, *_ in CHANGES.values()))
        found = compare(filled, filled.master, subject, Sample(within=WITHIN, keep=100))
    finally:
        back = [(f"DELETE FROM {name}", f"INSERT INTO {name} SELECT * FROM {copy}", f"DROP TABLE {copy}")
                for name, copy in copies.items()]  # fmt: skip
        back.append(("UPDATE app.virtual SET v = id",))
        filled.root_sql(subject, *silent, *(statement for some in back for statement in some))
    assert applying(filled, subject)
    return found


@pytest.mark.parametrize(("table", "_change", "what", "key"), CHANGES.values(), ids=CHANGES)
def test_a_difference_is_located(damaged: Comparison, table: str, _change: str, what: What, key: str | None) -> None:
    found = [d for d in damaged.differences if d.table == f"app.{table}"]
    assert (what, key, key) in [(d.what, d.first, d.last) for d in found]


def test_nothing_else_is_a_difference(damaged: Comparison) -> None:
    extra_half = 1  # a key that changed its case is missing and extra
    assert len(damaged.differences) == len(CHANGES) + extra_half
    assert damaged.complete
    assert not damaged.sound


VALUES = {  # what the reference has, and what the subject has instead, that some checksum does not see
    "NULL against an empty string": ("t = ''", "t = NULL"),
    "a byte of a blob that is no text": ("b = X'00FF00'", "b = X'00FE00'"),
    "a zero byte more": ("vb = X'4100'", "vb = X'41'"),
    "1 against 1.0 in a text": ("t = '1'", "t = '1.0'"),
    "a trailing space": ("t = 'a'", "t = 'a '"),
    "upper and lower case": ("t = 'a'", "t = 'A'"),
    "the order of a JSON object": ("""j = '{"a":1,"b":2}'""", """j = '{"b":2,"a":1}'"""),
    "the last digit of a decimal": ("d = 1.0000000001", "d = 1.0000000002"),
    "the seventh digit of a float": ("f = 16777215", "f = 16777214"),
    "the last bit of a double": ("r = 1.0000000000000002", "r = 1"),
    "the lowest bit of 64": ("bits = ~0", "bits = ~1"),
    "an invalid enum value against an empty member": ("e = 1", "e = 0"),
    "a set's member": ("s = 7", "s = 3"),
    "the highest member of a set of 64": ("s64 = (1 << 63) | 1", "s64 = 1 << 63"),
    "a point's sign": ("g = POINT(1, 2)", "g = POINT(1, -2)"),
    "a millisecond": ("ts = '2024-01-01 00:00:00.001'", "ts = '2024-01-01 00:00:00.002'"),
    "values that move to the next column": ("l = 'ab', vb = 'c'", "l = 'a', vb = 'bc'"),
    "a comma that moves": ("l = 'a,', vb = 'b'", "l = 'a', vb = ',b'"),
    "NULL that moves": ("c = NULL, l = 'x'", "c = 'x', l = NULL"),
    "a value of two rows swapped": ("l = IF(id % 2, 'a', 'b')", "l = IF(id % 2, 'b', 'a')"),
}


def rows_of(change: int) -> tuple[int, int]:
    """Two neighbouring rows for a change, with a gap before the next one's."""
    return 10 + 3 * change, 11 + 3 * change


@pytest.fixture(scope="module")
def altered_values(filled: Lab) -> Comparison:
    """One comparison with everything of VALUES at once, each in rows of its own, taken back afterwards."""
    subject = replicas(filled)[0]
    right = [f"UPDATE app.kinds SET {have} WHERE id IN {rows_of(n)}" for n, (have, _) in enumerate(VALUES.values())]
    wrong = [f"UPDATE app.kinds SET {have} WHERE id IN {rows_of(n)}" for n, (_, have) in enumerate(VALUES.values())]
    filled.root_sql(filled.master, "SET sql_mode = ''", *right)
    caught_up(filled, subject)
    filled.root_sql(subject, "SET sql_log_bin = 0", "SET sql_mode = ''", *wrong)
    try:
        return compare(filled, filled.master, subject, Sample(within=WITHIN, keep=100))
    finally:
        filled.root_sql(subject, "SET sql_log_bin = 0", "SET sql_mode = ''", *right)


@pytest.mark.parametrize("change", range(len(VALUES)), ids=VALUES)
def test_a_value_that_is_hard_to_tell_apart_is_told_apart(altered_values: Comparison, change: int) -> None:
    first, last = map(str, rows_of(change))
    found = [d for d in altered_values.differences if d.first == first]
    assert [(d.table, d.what, d.last, d.rows_reference, d.rows_subject) for d in found] == [
        ("app.kinds", What.DIFFERENT, last, 2, 2)
    ]


def test_what_cannot_be_seen_in_rows_is_no_difference(filled: Lab) -> None:
    """Time zone, sql_mode, default collation and a row's place in the file differ between equal servers."""
    subject = replicas(filled)[0]
    settings = {"time_zone": "'-11:00'", "sql_mode": "'PAD_CHAR_TO_FULL_LENGTH,ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
                "collation_server": "latin1_german2_ci", "div_precision_increment": "9"}  # fmt: skip
    before = filled.root_sql(subject, "SELECT " + ", ".join(f"@@global.{name} AS {name}" for name in settings))[0]
    filled.root_sql(subject, *(f"SET GLOBAL {name} = {value}" for name, value in settings.items()))
    try:
        found = compare(filled, filled.master, subject)
    finally:
        filled.root_sql(subject, *(f"SET GLOBAL {name} = {value!r}" if isinstance(value, str) else
                                   f"SET GLOBAL {name} = {value}" for name, value in before.items()))  # fmt: skip
    assert found.sound, str(found)


def test_tables_and_definitions_that_differ_are_differences_and_other_engines_are_skipped(filled: Lab) -> None:
    subject = replicas(filled)[0]
    silent = "SET sql_log_bin = 0"
    filled.root_sql(filled.master, "CREATE TABLE app.other (id INT PRIMARY KEY) ENGINE = MyISAM",
                    "CREATE SEQUENCE app.counter", "CREATE VIEW app.seen AS SELECT * FROM app.plain")  # fmt: skip
    caught_up(filled, subject)
    filled.root_sql(subject, silent, "CREATE TABLE app.more (id INT)", "RENAME TABLE app.latin TO app.fewer",
                    "ALTER TABLE app.unique_only MODIFY v BIGINT")  # fmt: skip
    try:
        found = compare(filled, filled.master, subject)
    finally:
        filled.root_sql(subject, silent, "DROP TABLE app.more", "RENAME TABLE app.fewer TO app.latin",
                        "ALTER TABLE app.unique_only MODIFY v INT")  # fmt: skip
        filled.root_sql(filled.master, "DROP TABLE app.other", "DROP SEQUENCE app.counter", "DROP VIEW app.seen")
    assert {(d.table, d.what) for d in found.differences} == {
        ("app.fewer", What.TABLE_EXTRA),
        ("app.latin", What.TABLE_MISSING),
        ("app.more", What.TABLE_EXTRA),
        ("app.unique_only", What.DEFINITION),
    }
    assert {s.table for s in found.skipped} == {"app.other", "app.counter"}


def test_many_differences_are_counted_and_the_first_are_kept(filled: Lab) -> None:
    subject = replicas(filled)[0]
    caught_up(filled, subject)
    filled.root_sql(subject, "SET sql_log_bin = 0", "UPDATE app.parts SET v = v + 1 WHERE id % 10 < 2")
    try:
        found = compare(filled, filled.master, subject, Sample(within=WITHIN, keep=7))
    finally:
        filled.root_sql(subject, "SET sql_log_bin = 0", "UPDATE app.parts SET v = id")
    assert [(d.table, d.rows_reference, d.rows_subject) for d in found.differences[1:]] == [("app.parts", 2, 2)] * 6
    assert found.complete


def test_a_table_that_is_altered_meanwhile_is_skipped_and_its_alter_does_not_wait(filled: Lab) -> None:
    """The views hold no metadata locks between two reads: an ALTER on the master would wait, and everybody after it."""
    subject = replicas(filled)[0]

    def alter_once() -> None:
        if not altered and aligned:
            session = filled.session(filled.master, account="application")
            alter = "ALTER TABLE app.uuids ADD COLUMN more INT, ALGORITHM = COPY"
            altered.append(ask(session, "SET lock_wait_timeout = 20", alter))

    altered: list[list[Row]] = []
    aligned: list[str] = []
    try:
        found = compare(filled, filled.master, subject, check=alter_once, tell=aligned.append)
        assert altered, "the table was never altered"
        assert [s.table for s in found.skipped] == ["app.uuids"]
        assert found.differences == ()
    finally:
        filled.root_sql(filled.master, "ALTER TABLE app.uuids DROP COLUMN IF EXISTS more")
        caught_up(filled, subject)


def test_running_out_of_time_is_never_a_pass(filled: Lab) -> None:
    subject = replicas(filled)[0]
    slow = threading.Event()

    def dawdle() -> None:
        if aligned:
            slow.wait(0.6)

    aligned: list[str] = []
    found = compare(filled, filled.master, subject, Sample(within=timedelta(seconds=3)), dawdle, aligned.append)
    assert not found.complete
    assert not found.sound
    assert "more tables were not reached" in found.left
    assert 0 < found.tables < len(TABLES)
    assert applying(filled, subject)


def test_a_sample_looks_at_every_table_and_is_the_same_for_the_same_seed(filled: Lab) -> None:
    subject = replicas(filled)[0]
    caught_up(filled, subject)
    found = [compare(filled, filled.master, subject, Sample(within=WITHIN, share=0.01, seed=3)) for _ in range(2)]
    assert found[0].sound
    assert found[0].tables == len(TABLES) + 1
    assert [(f.chunks, f.rows) for f in found[:1]] == [(f.chunks, f.rows) for f in found[1:]]


@pytest.mark.parametrize("reference_is", ["the master", "another replica"])
def test_an_abort_while_the_applier_is_stopped_starts_it_again(filled: Lab, reference_is: str) -> None:
    reference = filled.master if reference_is == "the master" else replicas(filled)[1]
    subject = replicas(filled)[0]

    def abort() -> None:
        raise AbortedError("a person asked to stop")

    # The reference is ahead, so that the subject's applier has to go on to a place first.
    with writing(filled) as written:
        until(lambda: written[0] > 5, "the writer writes")
        for _ in range(20):
            with contextlib.suppress(AbortedError):
                compare(filled, reference, subject, check=abort)
                continue
            break
        else:
            pytest.fail("nothing was waited for in 20 tries")
    until(lambda: applying(filled, subject), "the applier runs")


def test_every_chunk_of_a_keyed_table_is_read_by_a_range_of_its_index(filled: Lab) -> None:
    """A condition that the optimizer does not understand would read the whole table for each chunk."""
    login = filled.book()["admin"]
    session = Connection(instance(filled, filled.master).address, Login(login["user"], login["password"]), tls=None)
    with contextlib.closing(session):
        session.ask("SET time_zone = '+00:00'")
        tables = [t for t in read_tables(session.ask).values() if t.key and t.name not in ("empty", "sparse")]
        for table in tables:
            low = table.key_of(session.ask(table.nth(Span(), 50))[0])
            high = table.key_of(session.ask(table.nth(Span(after=low), 100))[0])
            session.ask("FLUSH STATUS")
            assert session.ask(table.sums(Span(after=low, upto=high)))[0]["n"] == 100, table.title
            read = session.ask("SHOW STATUS LIKE 'Handler_read%'")
            assert sum(int(row["Value"]) for row in read) < 120, table.title
    assert len(tables) > 12


def test_what_a_killed_comparison_left_stopped_is_released(filled: Lab) -> None:
    subject = replicas(filled)[0]
    comparer = SqlComparer(opener(filled))
    filled.sql(subject, "STOP SLAVE")
    filled.sql(subject, "START SLAVE UNTIL master_gtid_pos = '0-1-18446744073709551614'")
    assert applier(filled, subject)["Until_Condition"] == "Gtid"
    for name in (subject, subject, filled.master):
        comparer.release(filled.name, instance(filled, name))
    until(lambda: applying(filled, subject), "the applier runs for good")


def test_servers_that_cannot_be_compared_are_refused_in_words(filled: Lab) -> None:
    subject = replicas(filled)[0]
    with pytest.raises(RefusedError, match="0 replication channels"):
        compare(filled, subject, filled.master)
    filled.root_sql(subject, "SET GLOBAL max_allowed_packet = 65536")
    try:
        with pytest.raises(RefusedError, match="max_allowed_packet"):
            compare(filled, filled.master, subject)
    finally:
        filled.root_sql(subject, "SET GLOBAL max_allowed_packet = 16777216")
