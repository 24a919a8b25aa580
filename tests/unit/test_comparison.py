"""What a comparison is worth, the SQL of a row's checksum, the alignment on MySQL by script, and the double."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

from reaper.adapters.mysql.checksum import Column, Span, Table, identifier
from reaper.adapters.mysql.connection import Row
from reaper.adapters.mysql.views import MariadbViews, MysqlViews, Patience, Side, views_of
from reaper.adapters.store.codec import decode, encode
from reaper.domain.comparison import Comparison, Difference, Sample, Skipped, What, chance_to_find
from reaper.domain.errors import AbortedError, RefusedError, ServerGoneError, StatementTimeoutError
from reaper.domain.facts import Address, Instance, InstanceId
from reaper.testing.comparing import FakeComparer
from reaper.testing.fleet import MemoryFleet
from reaper.testing.parts import ITEMS, Verb
from reaper.workflow.comparing import Comparer

CLEAN = Comparison(
    position="0-1-100",
    reference=InstanceId("local", "lab/n2"),
    subject=InstanceId("local", "lab/r1-heir"),
    tables=3,
    chunks=40,
    chunks_of=40,
    chunks_different=0,
    rows=1_000,
    size_bytes=5 * 2**20,
    share=1.0,
    complete=True,
    left="",
    took=timedelta(seconds=4),
    differences=(),
    skipped=(),
)
ROW = Difference(table="app.t", what=What.DIFFERENT, first="7", last="7", rows_reference=1, rows_subject=1)


@pytest.mark.parametrize(
    ("comparison", "sound"),
    [
        pytest.param(CLEAN, True, id="everything compared and equal"),
        pytest.param(replace(CLEAN, complete=False, left="the time was over"), False, id="the time ran out"),
        pytest.param(replace(CLEAN, differences=(ROW,), chunks_different=1), False, id="a row differs"),
        pytest.param(replace(CLEAN, chunks_different=1), False, id="a chunk differs and nothing was kept"),
        pytest.param(replace(CLEAN, differences=(ROW,)), False, id="a table is missing, in which no chunk was read"),
        pytest.param(replace(CLEAN, chunks=4, share=0.1), True, id="a sample is equal"),
        pytest.param(replace(CLEAN, skipped=(Skipped(table="a.b", why="x"),)), True, id="a table was skipped"),
    ],
)
def test_only_what_was_compared_to_the_end_and_is_equal_is_sound(comparison: Comparison, sound: bool) -> None:
    assert comparison.sound is sound


@pytest.mark.parametrize("of", [1, 2, 5, 7])
def test_the_chance_is_that_of_drawing_at_least_one_bad_chunk(of: int) -> None:
    for drawn in range(1, of + 1):
        for bad in range(of + 1):
            draws = list(combinations(range(of), drawn))
            hits = sum(any(chunk < bad for chunk in draw) for draw in draws)
            assert chance_to_find(of, drawn, bad) == pytest.approx(hits / len(draws))


PERSON_READS = {  # id -> (what of a clean comparison is changed, words that are said, words that are not)
    "clean": ({}, ["lab/r1-heir against local:lab/n2 at 0-1-100", "1000 rows in 3 tables", "no difference"], ["NOT"]),
    "a sample says its chance": (
        {"chunks": 10, "share": 0.25},
        ["10 of 40 chunks", "if 1 differed", "25%", "if 2 differed", "44%"],
        ["NOT"],
    ),
    "incomplete": (
        {"complete": False, "left": "the time was over in app.t"},
        ["NOT complete", "over in app.t", "so far"],
        ["chance"],
    ),
    "different": (
        {"differences": (ROW,), "chunks_different": 3},
        ["1 difference in 3 chunks", "app.t, key 7: different"],
        ["no difference"],
    ),
    "skipped": ({"skipped": (Skipped(table="a.b", why="MyISAM"),)}, ["1 tables not compared", "a.b: MyISAM"], ["NOT"]),
}


@pytest.mark.parametrize(("changed", "says", "is_silent_about"), PERSON_READS.values(), ids=PERSON_READS)
def test_a_person_reads_one_line(changed: dict[str, Any], says: list[str], is_silent_about: list[str]) -> None:
    said = str(replace(CLEAN, **changed))
    assert "\n" not in said
    assert [word for word in says if word not in said] == []
    assert [word for word in is_silent_about if word in said] == []


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (ROW, "app.t, key 7: different (rows 1 on the reference, 1 on the subject)"),
        (replace(ROW, last="9"), "app.t, keys 7 to 9: different (rows 1 on the reference, 1 on the subject)"),
        (replace(ROW, first=None), "app.t, keys the first to 7: different (rows 1 on the reference, 1 on the subject)"),
        (replace(ROW, first=None, last=None, detail="no key"),
         "app.t, the whole table: different (rows 1 on the reference, 1 on the subject), no key"),
        (Difference(table="app.t", what=What.TABLE_MISSING), "app.t: table missing"),
        (Difference(table="app.t", what=What.DEFINITION, detail="column v"), "app.t: defined differently (column v)"),
    ],
)  # fmt: skip
def test_a_difference_says_where_and_what(difference: Difference, said: str) -> None:
    assert str(difference) == said


def test_a_comparison_survives_the_store() -> None:
    kept = replace(CLEAN, differences=(ROW,), skipped=(Skipped(table="a.b", why="x"),))
    assert decode(Comparison, encode(Comparison, kept)) == kept


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01])
def test_an_impossible_share_is_a_mistake(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Sample(within=timedelta(1), share=share)


# ---- SQL


def column(name: str, type_: str, *, nullable: str = "NO", charset: str = "", extra: str = "") -> Column:
    collation = f"{charset}_bin" if charset else ""
    return Column(
        name=name, type=type_, declared=type_, charset=charset, collation=collation, nullable=nullable, extra=extra,
        generated_as="",
    )  # fmt: skip


ID, NAME = column("i`d", "int"), column("name", "varchar", charset="utf8mb4")
TABLE = Table(
    schema="a`p", name="t", engine="InnoDB", kind="BASE TABLE", columns=(ID, NAME), index="PRIMARY", key=(ID, NAME),
    rows=10, size_bytes=1000,
)  # fmt: skip


def test_a_range_of_a_composite_key_is_spelled_out_with_literals_that_the_index_understands() -> None:
    said = Span(after=("1", "C3A4"), upto=("2", "")).where(TABLE.key)
    low, high = "_utf8mb4 X'C3A4' COLLATE utf8mb4_bin", "_utf8mb4 X'' COLLATE utf8mb4_bin"
    assert said == (
        f" WHERE (`i``d` >= 1 AND (`i``d` > 1 OR (`i``d` = 1 AND (`name` > {low}))))"
        f" AND (`i``d` <= 2 AND (`i``d` < 2 OR (`i``d` = 2 AND (`name` <= {high}))))"
    )


def test_names_are_quoted_and_nothing_is_left_open_to_a_name() -> None:
    assert identifier("a`b") == "`a``b`"
    assert TABLE.sums(Span()).endswith("FROM `a``p`.`t` FORCE INDEX (`PRIMARY`)")


@pytest.mark.parametrize(
    ("made_of", "parts"),
    [
        pytest.param(
            column("c", "varchar", charset="latin1"), "LENGTH(`c`), CONVERT(`c` USING binary)", id="text is bytes"
        ),
        pytest.param(column("c", "float"), "`c` * 1e0", id="a float is written as a double"),
        pytest.param(column("c", "json"), "SHA1(`c`)", id="what is large is a digest"),
        pytest.param(column("c", "vector"), "SHA1(`c`)", id="what is unknown is a digest"),
        pytest.param(column("c", "set"), "CAST(`c` AS UNSIGNED)", id="a set is a number"),
        pytest.param(column("c", "int", nullable="YES"), "CONCAT(ISNULL(`c`)), `c`", id="NULL is told from the rest"),
    ],
)  # fmt: skip
def test_a_value_is_written_so_that_no_other_value_is_written_alike(made_of: Column, parts: str) -> None:
    table = replace(TABLE, columns=(made_of, column("v", "int", extra="VIRTUAL GENERATED")))
    assert f"SHA1(CONCAT_WS(',', {parts}))" in table.sums(Span())


# ---- the alignment on MySQL, which was never met: the statements by the manual, in their order

S1, S2 = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"


class Scripted:
    """A MySQL server that answers from a state and remembers what it was told."""

    def __init__(self, executed: str, source: str | None, log: list[str], name: str) -> None:
        self.executed, self.source, self.log, self.name = executed, source, log, name
        self.applying, self.until = source is not None, "None"
        self.busy: Callable[[], None] = lambda: None
        self.deaf = False

    def ask(self, sql: str, *_: object) -> list[Row]:
        word = " ".join(sql.split()[:3])
        if not word.startswith(("SELECT", "SHOW")):
            self.log.append(f"{self.name}: {sql.split(' = ')[0]}")
        if "gtid_executed" in sql:
            return [{"executed": self.executed}]
        if sql == "SHOW REPLICA STATUS":
            return [] if self.source is None else [self._status()]
        if sql == "SHOW BINARY LOG STATUS":
            return [{"File": "b.1", "Position": len(self.executed)}]
        if sql.startswith("START TRANSACTION"):
            self.busy()
        if "UNTIL" in sql and not self.deaf:
            self.executed = sql.split("'")[1]
            self.until = "SQL_AFTER_GTIDS"
        if sql == "START REPLICA":
            self.applying, self.until = True, "None"
        return []

    def _status(self) -> Row:
        return {"Source_Host": self.source, "Source_Port": 1, "Last_SQL_Error": "",
                "Replica_SQL_Running": "Yes" if self.applying else "No", "Until_Condition": self.until}  # fmt: skip


def side(server: Scripted, host: str) -> Side:
    return Side(name=server.name, address=Address(host, 1), view=server.ask, steer=server.ask)


def patience() -> Patience:
    return Patience(timedelta(seconds=20), lambda: None)


def test_mysql_replicas_both_stand_still_at_the_union_of_what_they_have() -> None:
    log: list[str] = []
    one, two = Scripted(f"{S1}:1-5", "m", log, "r"), Scripted(f"{S1}:1-7", "m", log, "s")
    found = MysqlViews().align(side(one, "r"), side(two, "s"), patience())
    assert found.position == f"{S1}:1-7"
    assert log == [
        "s: STOP REPLICA SQL_THREAD",
        "r: STOP REPLICA SQL_THREAD",
        "r: START REPLICA SQL_THREAD UNTIL SQL_AFTER_GTIDS",
        "r: STOP REPLICA SQL_THREAD",
        "r: START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        "s: START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        "r: STOP REPLICA SQL_THREAD",  # told where to stop before, it would stop there again
        "r: START REPLICA",
        "s: START REPLICA",
    ]


def test_a_mysql_master_is_viewed_in_a_quiet_moment_and_never_stopped() -> None:
    log: list[str] = []
    master, replica = Scripted(f"{S1}:1-5", None, log, "m"), Scripted(f"{S1}:1-5", "m", log, "s")
    writes = iter([f"{S1}:1-66"])

    def write_once() -> None:
        master.executed = next(writes, master.executed)

    master.busy = write_once
    found = MysqlViews().align(side(master, "m"), side(replica, "s"), patience())
    assert found.position == f"{S1}:1-66"
    assert [line for line in log if line.startswith("m: ")] == [
        "m: START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        "m: ROLLBACK",
        "m: START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ]
    assert replica.executed == master.executed
    assert log[-1] == "s: START REPLICA"


def test_a_mysql_master_that_is_never_quiet_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reaper.adapters.mysql.views._QUIET_FOR_S", 0)
    log: list[str] = []
    master, replica = Scripted(f"{S1}:1", None, log, "m"), Scripted(f"{S1}:1", "m", log, "s")

    def write() -> None:
        master.executed = f"{S1}:1-{len(log) * 10}"

    master.busy = write
    with pytest.raises(RefusedError, match="compare with a replica instead"):
        MysqlViews().align(side(master, "m"), side(replica, "s"), patience())
    assert log[-1] == "s: START REPLICA"


def test_a_mysql_subject_with_transactions_of_its_own_is_not_waited_for_for_ever() -> None:
    log: list[str] = []
    one, two = Scripted(f"{S1}:1-5", "m", log, "r"), Scripted(f"{S1}:1-5,{S2}:1", "m", log, "s")
    one.deaf = True
    with pytest.raises(StatementTimeoutError, match="waiting for r"):
        MysqlViews().align(side(one, "r"), side(two, "s"), Patience(timedelta(milliseconds=50), lambda: None))
    assert log[-2:] == ["r: START REPLICA", "s: START REPLICA"]


def test_the_flavour_is_asked_of_the_server() -> None:
    assert isinstance(views_of(lambda *_: [{"version": "10.11.8-MariaDB-log"}]), MariadbViews)
    assert isinstance(views_of(lambda *_: [{"version": "8.4.2"}]), MysqlViews)


# ---- the double


def nothing(_said: str = "") -> None:
    return


def fleet_and_pair() -> tuple[MemoryFleet, Instance, Instance]:
    fleet = MemoryFleet()
    fleet.add_cluster("lab")
    members = {m.id.short: m for m in fleet.members("lab")}
    return fleet, members["n1"], members["n2"]


def compared(reference: Instance, subject: Instance, comparer: FakeComparer) -> Comparison:
    contract: Comparer = comparer
    return contract.compare("lab", reference, subject, Sample(within=timedelta(minutes=1)), nothing, nothing)


def test_the_double_finds_equal_data_equal_and_a_damaged_row() -> None:
    fleet, master, replica = fleet_and_pair()
    comparer = FakeComparer(fleet)
    assert compared(master, replica, comparer).sound
    comparer.damage(replica.id, ITEMS)
    found = compared(master, replica, comparer)
    assert [(d.table, d.what) for d in found.differences] == [(ITEMS, What.EXTRA)]
    assert not found.sound


def test_the_double_compares_at_the_subjects_position_however_far_the_reference_is() -> None:
    fleet, master, replica = fleet_and_pair()
    lagging = fleet.machine("n2")
    lagging.knobs.apply_lag = timedelta(seconds=2)
    for n in range(3):
        fleet.machine("n1").commit(Verb.INSERT, ITEMS, (f"row {n}",))
    found = compared(master, replica, FakeComparer(fleet))
    assert found.sound
    assert found.rows == 4


def test_the_double_never_passes_when_time_runs_out() -> None:
    fleet, master, replica = fleet_and_pair()
    comparer = FakeComparer(fleet)
    comparer.runs_out = 1
    assert not compared(master, replica, comparer).sound
    assert compared(master, replica, comparer).sound


def test_the_double_fails_as_a_server_does() -> None:
    fleet, master, replica = fleet_and_pair()
    comparer = FakeComparer(fleet)

    def abort() -> None:
        raise AbortedError("stop")

    with pytest.raises(AbortedError):
        comparer.compare("lab", master, replica, Sample(within=timedelta(1)), abort, nothing)
    fleet.fail("compare", "n2")
    with pytest.raises(Exception, match="compare fails"):
        compared(master, replica, comparer)
    fleet.kill("n2")
    with pytest.raises(ServerGoneError):
        compared(master, replica, comparer)


def test_the_double_refuses_a_subject_that_never_gets_there() -> None:
    fleet, master, replica = fleet_and_pair()
    fleet.machine("n2").stop_applier()
    fleet.machine("n1").commit(Verb.INSERT, ITEMS, ("later",))
    comparer = FakeComparer(fleet)
    with pytest.raises(RefusedError, match="did not reach"):
        compared(master, replica, comparer)
    comparer.release("lab", replica)
    assert compared(master, replica, comparer).sound
