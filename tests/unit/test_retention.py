"""Which snapshot serves again, which ones go: tables of what a person would decide."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import product

import pytest
from builders import NOON, gtids, iid

from reaper.domain.facts import Flavour
from reaper.domain.gtid import MysqlGtidSet
from reaper.domain.snapshots import (
    RestoreTest,
    Snapshot,
    SnapshotMethod,
    SnapshotRecord,
    SnapshotUse,
    TestOutcome,
)
from reaper.planner.retention import (
    Binlogs,
    Entry,
    Reuse,
    Standing,
    TakeNew,
    inventory,
    reusable,
    to_delete,
    why_not_deleted,
)

HOUR = timedelta(hours=1)
PASSED, FAILED, NEVER = TestOutcome.PASSED, TestOutcome.FAILED, None
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
MASTER = Binlogs(executed=gtids("0-1-100,0-2-180"), purged=gtids("0-1-50"))


def snapshot(name: str, hours_old: float, position: str | None = "0-2-150") -> Snapshot:
    return Snapshot(
        name=name,
        source=iid("n2"),
        method=SnapshotMethod.HOT,
        position=position,
        size_bytes=2**30,
        note="",
        taken_at=NOON - hours_old * HOUR,
    )


def record(
    name: str,
    hours_old: float,
    test: TestOutcome | None = PASSED,
    *,
    position: str | None = "0-2-150",
    executed: str = "0-1-100,0-2-140",
    flavour: Flavour = Flavour.MARIADB,
    used_by: str = "an-old-run",
    deleted: bool = False,
) -> SnapshotRecord:
    tested = RestoreTest(at=NOON - hours_old * HOUR, outcome=test, words="app.t differs") if test else None
    return SnapshotRecord(
        cluster="lab",
        snapshot=snapshot(name, hours_old, position),
        taken_by=f"run-of-{name}",
        took=timedelta(seconds=3),
        flavour=flavour,
        executed=executed,
        uses=(SnapshotUse(run=used_by, since=NOON - hours_old * HOUR, test=tested),),
        deleted_at=NOON if deleted else None,
    )


# ---- reuse


@pytest.mark.parametrize(
    ("records", "chosen"),
    [
        pytest.param([record("old", 5), record("new", 2)], "new", id="the newest one serves"),
        pytest.param([record("old", 5), record("new", 2, NEVER)], "new", id="one that was not tested yet serves"),
        pytest.param([record("old", 5), record("new", 2, FAILED)], "old", id="one that failed its test does not"),
        pytest.param([record("old", 5), record("new", 2, deleted=True)], "old", id="a deleted one does not"),
        pytest.param([record("edge", 20)], "edge", id="one that is just young enough serves"),
        pytest.param(
            [record("cold", 1, position=None, executed="0-1-100,0-2-140")],
            "cold",
            id="a copy that knows its position itself is judged by what its source had executed",
        ),
        pytest.param(
            [record("behind", 1, position="0-1-49", executed="0-1-40"), record("old", 2)],
            "old",
            id="E15: what the binary logs have no more is not made up for",
        ),
        pytest.param(
            [record("elsewhere", 1, executed="0-1-100,0-9-3"), record("old", 2)],
            "old",
            id="a copy that holds what the master has not is none of it",
        ),
    ],
)
def test_a_snapshot_serves_again(records: list[SnapshotRecord], chosen: str) -> None:
    choice = reusable(records, now=NOON, within=20 * HOUR, needed=MASTER)
    assert isinstance(choice, Reuse)
    assert choice.record.name == chosen
    assert chosen in choice.why


@pytest.mark.parametrize(
    ("one", "needed", "word"),
    [
        pytest.param(record("s", 21), MASTER, "more than 20.0 h", id="too old"),
        pytest.param(record("s", -1), MASTER, "future", id="a clock that was set back makes an age unknown"),
        pytest.param(record("s", 1, FAILED), MASTER, "app.t differs", id="failed its test"),
        pytest.param(record("s", 1, position="0-1-49", executed=""), MASTER, "purged", id="E15: starved"),
        pytest.param(
            record("s", 1),
            Binlogs(executed=MASTER.executed, purged=None),
            "unknown",
            id="I10: unknown binary logs are not complete ones",
        ),
        pytest.param(record("s", 1, executed="0-9-3"), MASTER, "0-9-3", id="E01: errant transactions are named"),
        pytest.param(record("s", 1, executed="nonsense"), MASTER, "cannot be read", id="a position that is none"),
        pytest.param(
            record("s", 1),
            Binlogs(executed=MysqlGtidSet.parse(f"{UUID}:1-9"), purged=MysqlGtidSet()),
            "flavour",
            id="the cluster was moved to another flavour",
        ),
        pytest.param(
            record("s", 1),
            Binlogs(executed=MASTER.executed, purged=MysqlGtidSet.parse(f"{UUID}:1")),
            "flavour",
            id="binary logs of another flavour",
        ),
    ],
)
def test_a_snapshot_does_not_serve_again_and_the_reason_is_said(
    one: SnapshotRecord, needed: Binlogs, word: str
) -> None:
    choice = reusable([one], now=NOON, within=20 * HOUR, needed=needed)
    assert isinstance(choice, TakeNew)
    assert choice.why[0].startswith("s ")
    assert word in choice.why[0]


def test_E15_mysql_sets_are_compared_exactly() -> None:
    """A gap below the highest number is a gap."""
    of_mysql = record("s", 1, flavour=Flavour.MYSQL, position=None, executed=f"{UUID}:1-5:7-9")
    for purged, serves in ((f"{UUID}:1-5", True), (f"{UUID}:1-6", False)):
        needed = Binlogs(executed=MysqlGtidSet.parse(f"{UUID}:1-20"), purged=MysqlGtidSet.parse(purged))
        choice = reusable([of_mysql], now=NOON, within=20 * HOUR, needed=needed)
        assert isinstance(choice, Reuse) is serves


def test_a_policy_without_a_window_takes_a_new_snapshot_each_time() -> None:
    assert isinstance(reusable([record("s", 0)], now=NOON, within=None, needed=MASTER), TakeNew)


def test_no_snapshot_is_no_reason_to_fail() -> None:
    assert reusable([], now=NOON, within=HOUR, needed=MASTER) == TakeNew(why=("there is none",))


def test_the_last_test_counts_whoever_made_it() -> None:
    """One that failed and passed later was wronged the first time."""
    twice = SnapshotUse(run="later", since=NOON, test=RestoreTest(at=NOON, outcome=PASSED, words="8 tables"))
    first = record("s", 1, FAILED)
    both = SnapshotRecord(**{**vars(first), "uses": (*first.uses, twice)})
    assert isinstance(reusable([both], now=NOON, within=HOUR, needed=MASTER), Reuse)


# ---- retention; `a` is the newest


@pytest.mark.parametrize(
    ("keep", "tests", "deleted"),
    [
        pytest.param(2, [PASSED, PASSED], "", id="no more than are kept"),
        pytest.param(2, [PASSED, PASSED, PASSED, PASSED], "dc", id="the oldest ones go first"),
        pytest.param(2, [NEVER, NEVER, PASSED, PASSED], "d", id="the last proved one stays behind unproved ones"),
        pytest.param(2, [NEVER, NEVER, NEVER, NEVER], "", id="without any proof nothing is given up"),
        pytest.param(2, [PASSED, NEVER, NEVER, NEVER], "dc", id="unproved ones go when a newer one is proved"),
        pytest.param(2, [FAILED, PASSED, PASSED, PASSED], "d", id="a failed one is none of those that are kept"),
        pytest.param(2, [FAILED, FAILED, PASSED], "b", id="only the newest failed one is evidence"),
        pytest.param(2, [PASSED, FAILED, PASSED], "b", id="a failed one goes when a newer one has passed"),
        pytest.param(1, [FAILED, PASSED], "", id="a failed one does not push a proved one out"),
        pytest.param(0, [PASSED, NEVER, FAILED], "cba", id="none is kept after its run"),
        pytest.param(-1, [PASSED], "a", id="less than none is none"),
    ],
)
def test_retention(keep: int, tests: Sequence[TestOutcome | None], deleted: str) -> None:
    records = [record(name, age + 1, test) for age, (name, test) in enumerate(zip("abcd", tests, strict=False))]
    for order in (records, records[::-1]):
        decided = to_delete(order, keep=keep, open_runs=frozenset())
        assert "".join(r.name for r in decided.delete) == deleted
        assert {r.name for r, _ in decided.stay} | set(deleted) == {r.name for r in records}
        assert all(why for _, why in decided.stay)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("run", ["run-of-b", "an-old-run"])
def test_one_that_an_open_run_took_or_uses_never_goes(keep: int, run: str) -> None:
    records = [record("a", 1, used_by="x"), record("b", 2), record("c", 3, used_by="y")]
    decided = to_delete(records, keep=keep, open_runs=frozenset({run}))
    assert [r.name for r in decided.delete] == (["c", "a"] if keep == 0 else ["c"])
    assert (records[1], f"in use by {run}") in decided.stay


def test_what_was_deleted_is_not_deleted_again() -> None:
    assert to_delete([record("a", 1, deleted=True)], keep=0, open_runs=frozenset()).delete == ()


def test_whatever_is_deleted_a_newer_proved_one_is_left() -> None:
    """All states of four snapshots: the only exception is what failed, of which a newer failed one is left."""
    for keep, tests in product(range(1, 5), product([PASSED, FAILED, NEVER], repeat=4)):
        records = [record(name, age, test) for age, (name, test) in enumerate(zip("abcd", tests, strict=True))]
        decided = to_delete(records, keep=keep, open_runs=frozenset())
        stays = [r for r, _ in decided.stay]
        for gone in decided.delete:
            newer = [r for r in stays if r.snapshot.taken_at > gone.snapshot.taken_at]
            proved = any(r.test and r.test.outcome is PASSED for r in newer)
            failed = gone.test is not None and gone.test.outcome is FAILED
            assert proved or (failed and any(r.test and r.test.outcome is FAILED for r in newer)), (keep, tests)
        assert sum(1 for t in tests if t is not FAILED) <= keep or len(stays) >= keep


# ---- inventory


def test_the_inventory_tells_what_is_recorded_from_what_lies_there() -> None:
    records = [record("kept", 3), record("missing", 2), record("gone", 9, deleted=True)]
    found = [snapshot("kept", 3), snapshot("orphan", 1), snapshot("new-run-snap", 0)]
    open_runs = {"new-run": "new-run-snap", "an-old-run": "an-old-run-snap"}
    entries = inventory("lab", records, found, open_runs=open_runs)
    assert [(e.name, e.standing, e.in_use_by) for e in entries] == [
        ("new-run-snap", Standing.ORPHAN, ("new-run",)),  # taken, and not recorded yet
        ("orphan", Standing.ORPHAN, ()),
        ("missing", Standing.MISSING, ("an-old-run",)),
        ("kept", Standing.KEPT, ("an-old-run",)),
    ]


def entries_of(*records: SnapshotRecord, open_runs: dict[str, str] | None = None) -> tuple[Entry, ...]:
    return inventory("lab", records, [r.snapshot for r in records], open_runs=open_runs or {})


def test_a_person_is_held_back_from_the_last_proved_backup_and_from_one_in_use() -> None:
    records = [record("a", 1, NEVER, used_by="x"), record("b", 2), record("c", 3, used_by="y"), record("d", 4, FAILED)]
    open_run = {"y": "y-snap"}
    entries = entries_of(*records, open_runs=open_run)
    said = {e.name: why_not_deleted(e, entries) for e in entries}
    assert {name for name, why in said.items() if why is None} == {"a", "d"}
    assert "passed its test" in (said["b"] or "")
    assert "in use by y" in (said["c"] or "")


def test_a_copy_that_is_gone_is_no_proved_backup() -> None:
    """What is left is the newest proved one, although a newer record says that it passed."""
    gone, there = record("gone", 1), record("there", 2)
    entries = inventory("lab", [gone, there], [there.snapshot], open_runs={})
    said = {e.name: why_not_deleted(e, entries) for e in entries}
    assert said["gone"] is None
    assert said["there"] is not None
