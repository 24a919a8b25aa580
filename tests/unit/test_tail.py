"""What a dead master takes with it (E03, I6): reading its binary logs, and judging what is extra."""

import struct
import uuid
import zlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from builders import gtids

from reaper.adapters.mysql.tail import read_tail
from reaper.adapters.store.codec import decode, encode
from reaper.domain.errors import OwnershipLostError, TryAgainError
from reaper.domain.gtid import GtidSet, MysqlGtidSet
from reaper.domain.ledger import Fate, Ledger, Write
from reaper.domain.tail import MOST_LISTED, Forensics, Tail, TailTransaction, Told, classify
from reaper.testing.fleet import MemoryFleet
from reaper.testing.forensics import FakeDeadLogs
from reaper.testing.parts import Verb
from reaper.workflow.forensics import dissect

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
PROBE = frozenset({"reaper.probe_run"})
SOON = timedelta(seconds=30)

# ---- judging


def transaction(gtid: str = "0-1-101", *rows: tuple[int, int]) -> TailTransaction:
    tables = ("reaper.probe_run",) if rows else ("app.orders",)
    return TailTransaction(gtid=gtid, tables=tables, kinds=("insert",), probe_rows=rows, size_bytes=200)


def tail_of(*transactions: TailTransaction, count: int | None = None) -> Tail:
    return Tail(transactions=transactions, count=len(transactions) if count is None else count, size_bytes=200)


def ledger(**fates: Fate) -> Ledger:
    """`c1s7=Fate.UNKNOWN`: write 7 of client 1."""
    keys = {name: tuple(map(int, name[1:].split("s"))) for name in fates}
    return Ledger(tuple(Write(*keys[name], sent_ns=1, done_ns=2, fate=fate) for name, fate in fates.items()))


HELD = gtids("0-1-100")
JUDGED = [
    pytest.param(
        transaction("0-1-101", (1, 7)), ledger(c1s7=Fate.ACKNOWLEDGED), True, Told.ACKNOWLEDGED, "client 1",
        id="the probe was told that it is committed, whatever replication promised",
    ),
    pytest.param(
        transaction("0-1-101", (1, 7)), ledger(c1s7=Fate.UNKNOWN), False, Told.NEVER_ACKNOWLEDGED, "ledger",
        id="the probe's client got no answer",
    ),
    pytest.param(
        transaction("0-1-101", (1, 7)), ledger(c1s7=Fate.REFUSED), False, Told.NEVER_ACKNOWLEDGED, "ledger",
        id="the probe's client was refused",
    ),
    pytest.param(
        transaction("0-1-101", (1, 7), (1, 8)), ledger(c1s7=Fate.UNKNOWN, c1s8=Fate.ACKNOWLEDGED), True,
        Told.ACKNOWLEDGED, "write 8", id="one acknowledged row of several decides",
    ),
    pytest.param(
        transaction("0-1-101", (1, 7)), ledger(), False, Told.CANNOT_TELL, "not in the probe's ledger",
        id="the probe died before it wrote the line, and replication was asynchronous",
    ),
    pytest.param(
        transaction("0-1-101", (1, 7)), None, False, Told.CANNOT_TELL, "not in the probe's ledger",
        id="without a ledger nothing of the probe's can be told either",
    ),
    pytest.param(
        transaction("0-1-101", (1, 7)), None, True, Told.NEVER_ACKNOWLEDGED, "no replica had received it",
        id="without a ledger lossless semi-sync still promises",
    ),
    pytest.param(
        transaction("0-1-101"), ledger(), True, Told.NEVER_ACKNOWLEDGED, "no replica had received it",
        id="somebody's write under lossless semi-sync",
    ),
    pytest.param(
        transaction("0-1-101"), ledger(), False, Told.CANNOT_TELL, "may have been told",
        id="somebody's write under asynchronous replication",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("extra", "known", "lossless", "told", "why"), JUDGED)
def test_E03_each_extra_transaction_is_judged_with_a_reason(
    extra: TailTransaction, known: Ledger | None, lossless: bool, told: Told, why: str
) -> None:
    forensics = classify(tail_of(extra), HELD, known, lossless=lossless)
    assert [j.told for j in forensics.judged] == [told]
    assert why in forensics.judged[0].why
    assert bool(forensics.faults) is (told is Told.ACKNOWLEDGED)
    assert not forensics.clean


def test_what_the_new_master_holds_is_not_extra() -> None:
    """The set that the tail was read with may be older."""
    tail = tail_of(transaction("0-1-100", (1, 1)), transaction("0-1-101"))
    forensics = classify(tail, HELD, ledger(c1s1=Fate.ACKNOWLEDGED), lossless=True)
    assert [j.transaction.gtid for j in forensics.judged] == ["0-1-101"]
    assert forensics.faults == ()


def test_a_tail_that_was_read_and_is_empty_is_clean() -> None:
    assert classify(Tail(), HELD, ledger(), lossless=True).clean


def test_I10_an_unreadable_tail_is_never_clean() -> None:
    forensics = classify(Tail(unreadable="it is encrypted"), HELD, ledger(), lossless=True)
    assert not forensics.clean
    assert "unknown: it is encrypted" in forensics.summary


@pytest.mark.parametrize(
    ("lossless", "left"),
    [(True, "was acknowledged to nobody"), (False, "is counted for the probe's writes only")],
    ids=["semi-sync held", "without semi-sync"],
)
def test_a_tail_that_its_provider_never_reads_is_no_fault_and_not_clean(lossless: bool, left: str) -> None:
    forensics = classify(Tail(out_of_reach="it lies on a volume"), HELD, ledger(), lossless=lossless)
    assert not forensics.clean
    assert forensics.faults == ()
    assert forensics.unreadable is None
    assert forensics.summary.startswith("the dead master's tail was not read: it lies on a volume")
    assert left in forensics.summary


@pytest.mark.parametrize(
    ("lossless", "told"), [(True, Told.NEVER_ACKNOWLEDGED), (False, Told.CANNOT_TELL)], ids=["lossless", "asynchronous"]
)
def test_transactions_beyond_the_list_are_counted(lossless: bool, told: Told) -> None:
    forensics = classify(tail_of(transaction(), count=5000), HELD, ledger(), lossless=lossless)
    assert (forensics.unlisted, forensics.count(told)) == (4999, 5000)


def test_the_findings_survive_the_store() -> None:
    forensics = classify(
        replace(tail_of(transaction("0-1-101", (1, 7)), transaction("0-1-102")), torn="x", unreadable="y"),
        HELD,
        ledger(c1s7=Fate.ACKNOWLEDGED),
        lossless=False,
    )
    assert decode(Forensics, encode(Forensics, forensics)) == forensics
    assert decode(Tail, encode(Tail, tail_of(transaction()))) == tail_of(transaction())


# ---- after a kill, in a simulated world


def dissected(fleet: MemoryFleet, logs: FakeDeadLogs, ledger: Ledger | None = None) -> Forensics:
    (victim,) = (m for m in fleet.members("lab") if m.id.short == "n1")
    executed = fleet.machine("n2").executed
    return dissect(logs, victim, executed, ledger, probe_tables=PROBE, lossless=True, within=SOON)


@pytest.fixture
def fleet() -> MemoryFleet:
    made = MemoryFleet()
    made.add_cluster("lab", nodes=3)
    return made


def test_E03_a_commit_that_no_replica_received_is_the_tail(fleet: MemoryFleet) -> None:
    logs = FakeDeadLogs(fleet.known, fleet.faults)
    master = fleet.machine("n1")
    master.commit(Verb.INSERT, "reaper.probe_run", (1, 1))
    for name in ("n2", "n3"):
        fleet.machine(name).stop_receiver()
    commit = master.commit(Verb.INSERT, "reaper.probe_run", (1, 2))
    fleet.kill("n1")
    forensics = dissected(fleet, logs, ledger(c1s1=Fate.ACKNOWLEDGED, c1s2=Fate.UNKNOWN))
    assert [(j.transaction.gtid, j.transaction.probe_rows) for j in forensics.judged] == [(str(commit.gtid), ((1, 2),))]
    assert forensics.count(Told.NEVER_ACKNOWLEDGED) == 1


def test_a_dead_master_whose_commits_were_received_is_clean(fleet: MemoryFleet) -> None:
    fleet.machine("n1").commit(Verb.INSERT, "reaper.probe_run", (1, 1))
    fleet.kill("n1")
    assert dissected(fleet, FakeDeadLogs(fleet.known, fleet.faults)).clean


def test_I10_a_provider_that_fails_makes_the_tail_unknown(fleet: MemoryFleet) -> None:
    logs = FakeDeadLogs(fleet.known, fleet.faults)
    assert "n1 is not dead" in (dissected(fleet, logs).unreadable or "")
    fleet.kill("n1")
    fleet.fail("read_tail", "n1", error=TryAgainError("the volume is detached"))
    assert dissected(fleet, logs).unreadable == "the volume is detached"


def test_a_worker_that_lost_its_run_does_not_judge(fleet: MemoryFleet) -> None:
    fleet.fail("read_tail", "n1", error=OwnershipLostError("taken over"))
    with pytest.raises(OwnershipLostError):
        dissected(fleet, FakeDeadLogs(fleet.known, fleet.faults))


# ---- reading: binary logs made by hand, as MySQL and MariaDB lay them out


def event(kind: int, body: bytes, server_id: int = 1, flags: int = 0) -> bytes:
    length = 19 + len(body) + 4
    whole = struct.pack("<IBIIIH", 0, kind, server_id, length, 0, flags) + body
    return whole + struct.pack("<I", zlib.crc32(whole))


def format_event(flags: int = 0) -> bytes:
    return event(15, struct.pack("<H50sIB", 4, b"8.0.43", 0, 19) + bytes(40) + b"\x01", flags=flags)


def mysql_gtid(number: int) -> bytes:
    return event(33, b"\x01" + uuid.UUID(UUID).bytes + struct.pack("<q", number) + bytes(17))


def query(text: str, schema: str = "app") -> bytes:
    head = struct.pack("<IIBHH", 1, 0, len(schema), 0, 3) + b"\x00\x01\x02"  # three bytes of status variables
    return event(2, head + schema.encode() + b"\0" + text.encode())


def table_map(schema: str, table: str, number: int = 7) -> bytes:
    names = bytes([len(schema)]) + schema.encode() + b"\0" + bytes([len(table)]) + table.encode() + b"\0"
    return event(19, number.to_bytes(6, "little") + b"\1\0" + names + b"\x03\x08\x03\x08\x00\x00")


def rows(*keys: tuple[int, int], number: int = 7, kind: int = 30) -> bytes:
    extra = b"\x02\x00" if kind == 30 else b""
    values = b"".join(b"\xf8" + struct.pack("<qiq", n, *key) for n, key in enumerate(keys))
    return event(kind, number.to_bytes(6, "little") + b"\1\0" + extra + b"\x03\xff" + values)


def mysql_write(number: int, *keys: tuple[int, int]) -> bytes:
    return mysql_gtid(number) + query("BEGIN") + table_map("reaper", "probe_run") + rows(*keys) + event(16, bytes(8))


def previous(first: int, last: int) -> bytes:
    one = uuid.UUID(UUID).bytes + struct.pack("<QQQ", 1, first, last + 1)
    return event(35, struct.pack("<Q", 1) + one)


def mariadb_gtid(sequence: int, flags: int = 0, server_id: int = 1) -> bytes:
    return event(162, struct.pack("<QIB", sequence, 0, flags) + bytes(6), server_id=server_id)


def logs(at: Path, *files: bytes) -> Path:
    """A dead server's data directory with these binary logs."""
    names = [f"binlog.{n:06}" for n in range(1, len(files) + 1)]
    for name, content in zip(names, files, strict=True):
        (at / name).write_bytes(b"\xfebin" + content)
    (at / "binlog.index").write_text("".join(f"./{name}\n" for name in names))
    return at


def read(at: Path, held: GtidSet | None = None) -> Tail:
    return read_tail(at, MysqlGtidSet() if held is None else held, probe_tables=PROBE, within=SOON)


def test_a_mysql_log_is_read_transaction_by_transaction(tmp_path: Path) -> None:
    logs(
        tmp_path,
        format_event()
        + event(35, bytes(8))
        + mysql_write(1, (1, 10), (2, 20))
        + mysql_gtid(2)
        + query("CREATE TABLE secrets_of_a_customer (id INT)")
        + mysql_gtid(3)
        + query("BEGIN")
        + table_map("app", "orders")
        + event(31, (7).to_bytes(6, "little") + bytes(20))
        + event(32, (7).to_bytes(6, "little") + bytes(20))
        + query("COMMIT"),
    )
    tail = read(tmp_path)
    assert (tail.unreadable, tail.torn, tail.count) == (None, None, 3)
    assert [(t.gtid, t.tables, t.kinds, t.probe_rows) for t in tail.transactions] == [
        (f"{UUID}:1", ("reaper.probe_run",), ("insert",), ((1, 10), (2, 20))),
        (f"{UUID}:2", ("app",), ("create table",), ()),
        (f"{UUID}:3", ("app.orders",), ("delete", "update"), ()),
    ]


def test_only_what_is_not_held_is_told(tmp_path: Path) -> None:
    logs(tmp_path, format_event() + event(35, bytes(8)) + b"".join(mysql_write(n, (1, n)) for n in range(1, 8)))
    tail = read(tmp_path, MysqlGtidSet.parse(f"{UUID}:1-5:7"))
    assert [t.gtid for t in tail.transactions] == [f"{UUID}:6"]
    assert tail.size_bytes == len(mysql_write(6, (1, 6)))


def test_files_before_which_everything_is_held_are_not_opened(tmp_path: Path) -> None:
    """They may be gone, or be hundreds of gigabytes."""
    old = format_event() + event(35, bytes(8)) + mysql_write(1)
    logs(tmp_path, old, format_event() + previous(1, 1), format_event() + previous(1, 5) + mysql_write(6, (1, 6)))
    (tmp_path / "binlog.000001").unlink()
    tail = read(tmp_path, MysqlGtidSet.parse(f"{UUID}:1-5"))
    assert (tail.unreadable, [t.gtid for t in tail.transactions]) == (None, [f"{UUID}:6"])
    assert "binlog.000001" in (read(tmp_path).unreadable or "")


def test_I10_what_older_logs_held_that_are_gone_is_unknown(tmp_path: Path) -> None:
    logs(tmp_path, format_event() + previous(1, 5) + mysql_write(6, (1, 6)))
    tail = read(tmp_path, MysqlGtidSet.parse(f"{UUID}:1-3"))
    assert f"{UUID}:4-5" in (tail.unreadable or "")
    assert [t.gtid for t in tail.transactions] == [f"{UUID}:6"]


def test_the_list_is_bounded_and_the_count_is_not(tmp_path: Path) -> None:
    logs(
        tmp_path,
        format_event() + event(35, bytes(8)) + b"".join(mysql_write(n, (1, n)) for n in range(1, MOST_LISTED + 12)),
    )
    tail = read(tmp_path)
    assert (len(tail.transactions), tail.count) == (MOST_LISTED, MOST_LISTED + 11)


def test_mariadbs_statements_without_a_commit_end_by_themselves(tmp_path: Path) -> None:
    insert = table_map("reaper", "probe_run") + rows((3, 30), kind=23) + event(16, bytes(8))
    logs(
        tmp_path,
        format_event()
        + event(163, struct.pack("<I", 0))
        + mariadb_gtid(1, flags=1)
        + query("ALTER TABLE t ADD c INT")
        + query("not a part of it")
        + mariadb_gtid(2, server_id=9)
        + insert,
    )
    tail = read(tmp_path, gtids(""))
    assert [(t.gtid, t.kinds, t.probe_rows) for t in tail.transactions] == [
        ("0-1-1", ("alter table",), ()),
        ("0-9-2", ("insert",), ((3, 30),)),
    ]


WHOLE = format_event() + event(35, bytes(8)) + mysql_write(1, (1, 1))
TORN = [
    pytest.param(mysql_write(2, (1, 2))[:-9], "inside", id="in the middle of an event"),
    pytest.param(mysql_write(2, (1, 2))[:-32], "inside", id="in the middle of a transaction"),
    pytest.param(mysql_gtid(2) + query("BEGIN"), f"inside the transaction {UUID}:2", id="between two events"),
    pytest.param(bytes(4096), "inside an event", id="with zeros after it"),
    pytest.param(mysql_write(2)[:-1] + b"?", "inside", id="with a last checksum that is wrong"),
]


@pytest.mark.parametrize(("end", "where"), TORN)
def test_a_log_that_was_cut_short_by_the_death_is_normal(tmp_path: Path, end: bytes, where: str) -> None:
    tail = read(logs(tmp_path, WHOLE + end))
    assert tail.unreadable is None
    assert [t.gtid for t in tail.transactions] == [f"{UUID}:1"]
    assert where in (tail.torn or "")


def damaged() -> bytes:
    bad = bytearray(mysql_write(2, (1, 2)))
    bad[40] ^= 0xFF
    return WHOLE + bytes(bad) + mysql_write(3, (1, 3))


UNREADABLE = [
    pytest.param([damaged()], "checksum is wrong", id="damaged before its end"),
    pytest.param([WHOLE[:-5], format_event() + previous(1, 9)], "is not the newest", id="an older log is cut short"),
    pytest.param([WHOLE + event(164, bytes(17)) + bytes(99)], "is encrypted", id="MariaDB's encryption"),
    pytest.param([WHOLE + event(42, bytes(30))], "tags", id="GTIDs with tags"),
    pytest.param([WHOLE + event(34, bytes(42))], "without a GTID", id="transactions without a GTID"),
    pytest.param([WHOLE + event(33, b"\x01")], "unknown form", id="an event that is too short for what it is"),
    pytest.param(
        [WHOLE + mysql_gtid(2) + query("BEGIN") + table_map("reaper", "probe_run")
         + event(30, (7).to_bytes(6, "little") + b"\1\0\x02\x00\x05\xff" + bytes(9)) + event(16, bytes(8))],
        "probe's rows", id="rows of a probe's table that has another form",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("files", "why"), UNREADABLE)
def test_I10_what_cannot_be_read_is_unknown_and_what_was_read_is_kept(
    tmp_path: Path, files: list[bytes], why: str
) -> None:
    tail = read(logs(tmp_path, *files))
    assert why in (tail.unreadable or "")
    if len(files) == 1:
        assert tail.transactions[0].gtid == f"{UUID}:1"


def test_I10_a_whole_file_that_is_encrypted_is_unknown(tmp_path: Path) -> None:
    logs(tmp_path, WHOLE)
    (tmp_path / "binlog.000001").write_bytes(b"\xfdbin" + bytes(600))
    assert "encrypted" in (read(tmp_path).unreadable or "")


def test_I10_a_directory_without_binary_logs_is_unknown(tmp_path: Path) -> None:
    assert "no index of binary logs" in (read(tmp_path).unreadable or "")


def test_I10_logs_that_could_not_be_read_in_time_are_unknown(tmp_path: Path) -> None:
    logs(tmp_path, WHOLE + b"".join(mysql_write(n, (1, n)) for n in range(2, 200)))
    tail = read_tail(tmp_path, MysqlGtidSet(), probe_tables=PROBE, within=timedelta(seconds=-1))
    assert "no time" in (tail.unreadable or "")
    assert 0 < tail.count < 199


def test_relay_logs_are_not_taken_for_binary_logs(tmp_path: Path) -> None:
    logs(tmp_path, WHOLE)
    (tmp_path / "relay.000001").write_bytes(b"\xfebin" + format_event(flags=0x40) + mysql_write(99))
    (tmp_path / "relay.index").write_text("./relay.000001\n")
    assert [t.gtid for t in read(tmp_path).transactions] == [f"{UUID}:1"]


def test_rows_of_other_tables_are_not_looked_at(tmp_path: Path) -> None:
    other = mysql_gtid(2) + query("BEGIN") + table_map("app", "probe_run") + rows((5, 5)) + event(16, bytes(8))
    tail = read(logs(tmp_path, format_event() + event(35, bytes(8)) + other))
    assert (tail.transactions[0].probe_rows, tail.unreadable) == ((), None)
