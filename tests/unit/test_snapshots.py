"""The book of snapshots: in the store and in memory alike; surplus ones go; `reaper snapshots` tells."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from builders import NOON, iid
from typer.testing import CliRunner

from reaper.adapters.local.copies import copy_tree
from reaper.adapters.store.admission import Ticket
from reaper.adapters.store.database import Place
from reaper.adapters.store.snapshots import SnapshotStore
from reaper.cli.compose import Site
from reaper.cli.snapshots import short_position, snapshots_app
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Berth, Flavour
from reaper.domain.snapshots import Keeping, RestoreTest, Snapshot, SnapshotMethod, SnapshotRecord, TestOutcome
from reaper.testing.backups import MemorySnapshotBook
from reaper.testing.fleet import MemoryFleet
from reaper.workflow.backups import delete_surplus

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
Book = SnapshotStore | MemorySnapshotBook


def a_record(name: str = "r1-snap", hours_old: float = 1, run: str = "r1", cluster: str = "lab") -> SnapshotRecord:
    return SnapshotRecord(
        cluster=cluster,
        snapshot=Snapshot(
            name=name,
            source=iid("n2"),
            method=SnapshotMethod.HOT,
            position="0-1-100",
            size_bytes=2**20,
            note="mariadb-backup, prepared",
            taken_at=NOON - hours_old * HOUR,
        ),
        taken_by=run,
        took=3 * SECOND,
        flavour=Flavour.MARIADB,
        executed="0-1-100",
    )


def a_test(outcome: TestOutcome = TestOutcome.PASSED, hours_ago: float = 0) -> RestoreTest:
    return RestoreTest(at=NOON - hours_ago * HOUR, outcome=outcome, words="8 tables, 1,000 rows compared")


@pytest.fixture(params=["store", "memory"])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Book]:
    if request.param == "memory":
        yield MemorySnapshotBook()
        return
    place = Place(tmp_path)
    yield SnapshotStore(place)
    if place.exists():
        place.database.close()


# ---- the book


def test_a_snapshot_is_remembered_with_all_that_its_use_showed(book: Book) -> None:
    record = a_record()
    book.taken(record)
    assert book.kept("lab") == (record,)
    book.used("r1-snap", "r1", NOON)
    book.restored("r1-snap", "r1", 2 * SECOND)
    book.tested("r1-snap", "r1", a_test())
    known = book.record("r1-snap")
    assert known is not None
    assert replace(known, uses=()) == record
    assert (known.used_by, known.restore_took, known.test) == (("r1",), 2 * SECOND, a_test())


def test_E12_what_is_said_again_by_a_step_that_is_run_again_changes_nothing(book: Book) -> None:
    """A repeated launch finds its own work in no time, and a repeated copy too: the first figures are the true ones."""
    book.taken(a_record())
    book.used("r1-snap", "r1", NOON)
    book.restored("r1-snap", "r1", 2 * SECOND)
    book.tested("r1-snap", "r1", a_test())
    before = book.record("r1-snap")
    book.taken(replace(a_record(), took=timedelta(0)))
    book.used("r1-snap", "r1", NOON + HOUR)
    book.restored("r1-snap", "r1", timedelta(0))
    book.tested("r1-snap", "r1", a_test())
    assert book.record("r1-snap") == before
    book.deleted("r1-snap", NOON)
    book.deleted("r1-snap", NOON + HOUR)
    gone = book.record("r1-snap")
    assert gone is not None
    assert gone.deleted_at == NOON
    assert book.kept("lab") == ()
    book.taken(a_record())  # a late echo does not bring it back
    assert book.kept("lab") == ()


def test_the_last_use_and_the_last_test_are_shown(book: Book) -> None:
    book.taken(a_record())
    for hour, (run, took, outcome) in enumerate(
        [("r1", 2 * SECOND, TestOutcome.PASSED), ("r2", 5 * SECOND, TestOutcome.FAILED)]
    ):
        book.used("r1-snap", run, NOON + hour * HOUR)
        book.restored("r1-snap", run, took)
        book.tested("r1-snap", run, a_test(outcome, hours_ago=-hour))
    book.used("r1-snap", "r3", NOON + 3 * HOUR)  # has not launched yet
    record = book.record("r1-snap")
    assert record is not None
    assert record.used_by == ("r1", "r2", "r3")
    assert record.restore_took == 5 * SECOND
    assert record.test == a_test(TestOutcome.FAILED, hours_ago=-1)
    assert record.in_use_by(frozenset({"r3", "r9"})) == ("r3",)


def test_the_snapshots_of_a_cluster_are_listed_newest_first(book: Book) -> None:
    for name, age, cluster in (("a", 3, "lab"), ("b", 1, "lab"), ("c", 2, "lab"), ("d", 1, "other")):
        book.taken(a_record(name, age, cluster=cluster))
    book.deleted("c", NOON)
    assert [r.name for r in book.kept("lab")] == ["b", "a"]
    assert [r.name for r in book.kept("other")] == ["d"]
    assert book.kept("no-such-cluster") == ()


def test_what_is_said_of_an_unknown_snapshot_is_not_remembered(book: Book) -> None:
    book.used("nobody", "r1", NOON)
    book.restored("nobody", "r1", SECOND)
    book.tested("nobody", "r1", a_test())
    book.deleted("nobody", NOON)
    book.taken(a_record("nobody"))
    assert book.kept("lab") == (a_record("nobody"),)


def test_who_only_looks_makes_no_file(tmp_path: Path) -> None:
    store = SnapshotStore(Place(tmp_path))
    assert (store.kept("lab"), store.record("x"), store.clusters()) == ((), None, ())
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_is_removed_takes_its_snapshots_along(tmp_path: Path) -> None:
    store = SnapshotStore(Place(tmp_path))
    store.taken(a_record("a"))
    store.taken(a_record("b", cluster="other"))
    assert store.clusters() == ("lab", "other")
    store.cluster_removed("lab", NOON)
    assert store.clusters() == ("other",)
    store.place.database.close()


def test_a_record_of_another_version_is_no_traceback(tmp_path: Path) -> None:
    store = SnapshotStore(Place(tmp_path))
    store.taken(a_record())
    with store.place.database.write() as tx:
        tx.do("update reaper_snapshots set birth = '{}'")
    with pytest.raises(UsageError, match="r1-snap was written by another version"):
        store.kept("lab")
    store.place.database.close()


# ---- surplus


def taken_from(fleet: MemoryFleet, book: MemorySnapshotBook, run: str, test: TestOutcome | None) -> None:
    """What a run that keeps its snapshot leaves behind."""
    source = next(m for m in fleet.members("lab") if m.id.short == "n2")
    snapshot = fleet.snapshot(source, f"{run}-snap", lambda: None)
    book.taken(replace(a_record(run=run), snapshot=snapshot))
    book.used(snapshot.name, run, fleet.clock.now())
    heir = fleet.launch("lab", snapshot, f"{run}-heir", Keeping.COPY, Berth(), lambda: None)
    if test is not None:
        book.tested(snapshot.name, run, RestoreTest(at=fleet.clock.now(), outcome=test, words="x"))
    fleet.retire(heir)


def test_E12_surplus_snapshots_go_also_when_reaper_dies_between_deleting_and_writing_it_down() -> None:
    fleet, book = MemoryFleet(), MemorySnapshotBook()
    fleet.add_cluster("lab")
    for number in range(4):
        taken_from(fleet, book, f"r{number}", TestOutcome.PASSED)
    fleet.forget("lab", "r0-snap")  # by a process that died before it could say so
    for _ in range(2):
        delete_surplus(fleet, book, "lab", keep=2, open_runs=frozenset(), now=fleet.clock.now())
        assert fleet.snapshot_names == ("r2-snap", "r3-snap")
        assert [r.name for r in book.kept("lab")] == ["r3-snap", "r2-snap"]


def test_the_runs_own_snapshot_is_kept_or_goes_as_the_policy_says() -> None:
    fleet, book = MemoryFleet(), MemorySnapshotBook()
    fleet.add_cluster("lab")
    taken_from(fleet, book, "r1", None)
    assert delete_surplus(fleet, book, "lab", keep=0, open_runs=frozenset({"r1"}), now=NOON) == ()
    assert delete_surplus(fleet, book, "lab", keep=1, open_runs=frozenset(), now=NOON) == ()
    assert delete_surplus(fleet, book, "lab", keep=0, open_runs=frozenset(), now=NOON) == ("r1-snap",)
    assert fleet.snapshot_names == ()


def test_E28_the_fleet_in_memory_refuses_a_copy_that_does_not_fit() -> None:
    fleet = MemoryFleet()
    fleet.add_cluster("lab")
    source = fleet.machine("n2")
    source.free_bytes = (source.data_bytes or 0) - 1
    snapshot = fleet.snapshot(fleet.members("lab")[1], "s", lambda: None)
    with pytest.raises(RefusedError, match="Free some"):
        fleet.launch("lab", snapshot, "h", Keeping.COPY, Berth(), lambda: None)
    assert len(fleet.members("lab")) == 3
    fleet.launch("lab", snapshot, "h", Keeping.MOVE, Berth(), lambda: None)


# ---- copies of directories


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "app").mkdir(parents=True)
    (source / "app" / "t.ibd").write_bytes(b"x" * 100_000)
    (source / "link").symlink_to("app")
    return source


def shape_of(directory: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p.relative_to(directory)), p.lstat().st_mode, p.lstat().st_size) for p in directory.rglob("*"))


def test_a_copy_is_whole_and_replaces_what_a_dead_process_left(source: Path) -> None:
    into = source.with_name("into")
    (into / "half").mkdir(parents=True)
    copy_tree(source, into, lambda: None)
    assert [s for s in shape_of(into) if s[0] != "app"] == [s for s in shape_of(source) if s[0] != "app"]
    assert (into / "app" / "t.ibd").read_bytes() == (source / "app" / "t.ibd").read_bytes()


def test_E28_a_copy_that_does_not_fit_is_refused_in_words_before_it_begins(source: Path) -> None:
    into = source.with_name("into")
    with pytest.raises(RefusedError, match=r"needs 64 MiB, 1 MiB are free\. Free some"):
        copy_tree(source, into, lambda: None, free=lambda _: 2**20)
    with pytest.raises(RefusedError, match="how much is free is unknown"):
        copy_tree(source, into, lambda: None, free=lambda _: None)
    assert not into.exists()


def test_a_copy_that_is_aborted_leaves_nothing(source: Path) -> None:
    def stop() -> None:
        raise RefusedError("stop")

    into = source.with_name("into")
    with pytest.raises(RefusedError, match="stop"):
        copy_tree(source, into, stop)
    assert not into.exists()


def test_a_copy_that_fails_says_what_the_tool_said_and_leaves_nothing(source: Path) -> None:
    """The directory into which it should go has become a file."""
    blocked = source.with_name("blocked")
    blocked.write_text("")
    with pytest.raises(TryAgainError, match="Not a directory"):
        copy_tree(source, blocked / "into", lambda: None, free=lambda _: 2**40)


def test_no_snapshot_is_no_empty_copy(tmp_path: Path) -> None:
    with pytest.raises(TryAgainError, match="take another one"):
        copy_tree(tmp_path / "nothing", tmp_path / "into", lambda: None)


# ---- the command


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A data directory whose store knows two clusters that no provider has."""
    monkeypatch.setenv("REAPER_HOME", str(tmp_path))
    site = Site(tmp_path)
    store = SnapshotStore(site.place)
    store.taken(a_record("r1-snap", run="r1"))
    store.taken(a_record("x-snap", run="x", cluster="other"))
    store.used("r1-snap", "r1", NOON)
    store.restored("r1-snap", "r1", 2 * SECOND)
    store.tested("r1-snap", "r1", a_test())
    yield site
    site.place.database.close()


def said(*args: str) -> str:
    result = CliRunner().invoke(snapshots_app, args)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return str(result.output)


@pytest.mark.usefixtures("site")
def test_snapshots_are_listed_with_all_that_is_known_of_them() -> None:
    first, second = json.loads(said("--output", "json"))
    assert (first["name"], first["standing"], first["used_by"], first["restore_took_s"]) == (
        "r1-snap",
        "missing",
        ["r1"],
        2.0,
    )
    assert first["tested"]["outcome"] == "passed"
    assert first["position"] == "0-1-100"
    assert second["tested"] is None
    assert [e["name"] for e in json.loads(said("--cluster", "other", "--output", "json"))] == ["x-snap"]
    table = said()
    for word in ("r1-snap", "1 MiB", "0-1-100", "8 tables, 1,000 rows compared", "never", "its copy is gone"):
        assert word in table


@pytest.mark.usefixtures("site")
def test_what_does_not_exist_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="there are: lab, other"):
        said("--cluster", "nobody")
    with pytest.raises(UsageError, match="no snapshot 'nobody'"):
        said("delete", "nobody")


def test_nothing_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAPER_HOME", str(tmp_path / "new"))
    assert "no snapshot is kept" in said()
    assert json.loads(said("--output", "json")) == []
    assert not (tmp_path / "new").exists()


def test_one_that_an_open_run_uses_is_deleted_by_force_only(site: Site) -> None:
    site.work.submit(Ticket(run="r1", cluster="lab", group=None, argument={}))
    with pytest.raises(RefusedError, match="in use by r1: nothing was deleted"):
        said("delete", "r1-snap")
    assert [r.name for r in SnapshotStore(site.place).kept("lab")] == ["r1-snap"]
    assert "deleted r1-snap of lab" in said("delete", "r1-snap", "--force")
    assert SnapshotStore(site.place).kept("lab") == ()


@pytest.mark.parametrize(
    ("position", "shown"),
    [
        (None, "unknown"),
        ("0-1-100", "0-1-100"),
        ("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77", "3e11fa47:1-77"),
        (",\n".join(f"3e11fa4{n}-71ca-11e1-9e33-c80aa9429562:1-77" for n in range(3)), "3e11fa40:1-77,3e11fa41:1-77…"),
    ],
)
def test_a_position_fits_its_column(position: str | None, shown: str) -> None:
    assert short_position(position) == shown
