"""Snapshots of real servers, and the locks that a frozen reaper holds: its successor is told in time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from labs import Lab, kill_9, until
from typer.testing import CliRunner

from reaper.adapters.local import locks
from reaper.adapters.local.fleet import ports_locked
from reaper.adapters.local.locks import locked
from reaper.cli.compose import Site
from reaper.cli.snapshots import snapshots_app
from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import Berth, Instance, InstanceId
from reaper.domain.snapshots import Keeping, Snapshot, SnapshotMethod

SECOND = timedelta(seconds=1)
NO_SNAPSHOT = Snapshot(
    name="no-snap",
    source=InstanceId("local", "shared/n2"),
    method=SnapshotMethod.HOT,
    position=None,
    size_bytes=0,
    note="",
    taken_at=datetime(2026, 3, 2, tzinfo=UTC),
)
HOLD_THE_PORTS = "from reaper.adapters.local.fleet import ports_locked as held; place = Path(sys.argv[1])"
HOLD_THE_BOOK = (
    "from reaper.adapters.local.registry import Registry\n"
    "held = lambda labs: Registry(labs, 'shared').change(); place = Path(sys.argv[1])"
)
HOLD_NAMELESS = (
    "import contextlib, fcntl\n"
    "place = open(Path(sys.argv[1]).parent / 'locks' / 'ports.lock', 'a')\n"
    "held = lambda file: contextlib.nullcontext(fcntl.flock(file, fcntl.LOCK_EX))"
)


def never() -> None:
    """A check that never aborts."""


@contextlib.contextmanager
def a_holder(labs: Path, hold: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds a lock until it is told to let go."""
    program = f"import sys\nfrom pathlib import Path\n{hold}\nwith held(place):\n print('held', flush=True)\n input()\n"
    command = [sys.executable, "-c", program, str(labs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", f"{pid} stops")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.3 * SECOND)


@pytest.fixture
def here(lab: Lab) -> Site:
    return Site(lab.site.home)


def replica(site: Site, lab: Lab) -> Instance:
    return next(m for m in site.fleet.members(lab.name) if m.id.short != lab.master)


# ---- locks


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("hold", "guards"),
    [
        pytest.param(HOLD_THE_PORTS, "the giving away of ports", id="the lock of the ports"),
        pytest.param(HOLD_THE_BOOK, "the book of the lab shared", id="the lock of the lab"),
    ],
)
def test_a_launch_names_the_frozen_process_whose_lock_it_waited_for(
    lab: Lab, here: Site, hold: str, guards: str
) -> None:
    members = len(here.fleet.members(lab.name))
    with a_holder(here.labs, hold) as holder:
        freeze(holder.pid)
        with pytest.raises(TryAgainError) as told:
            here.fleet.launch(lab.name, NO_SNAPSHOT, "frozen-heir", Keeping.COPY, Berth(), never)
        for word in (guards, f"process {holder.pid} (", "which is stopped", f"kill -KILL {holder.pid}"):
            assert word in str(told.value)
        assert len(here.fleet.members(lab.name)) == members
        kill_9(holder.pid)  # what it says is what helps
        with ports_locked(here.labs) as taken, here.registry(lab.name).change() as book:
            assert {i.port for i in book.instances} <= taken


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("hold", "words"),
    [
        pytest.param(HOLD_THE_PORTS, "which runs: see what it waits for", id="one that runs"),
        pytest.param(HOLD_NAMELESS, "fuser -v", id="one that was stopped before it wrote its name"),
    ],
)
def test_whoever_holds_a_lock_too_long_is_described(lab: Lab, here: Site, hold: str, words: str) -> None:
    assert lab.name in here.fleet.clusters()
    with ports_locked(here.labs):  # its own name is not left behind to be taken for the next one's
        pass
    with (
        a_holder(here.labs, hold) as holder,
        pytest.raises(TryAgainError) as told,
        ports_locked(here.labs),
    ):
        pytest.fail("two have the lock")
    assert words in str(told.value)
    assert (f"process {holder.pid}" in str(told.value)) is (hold is HOLD_THE_PORTS)


def test_a_lock_that_is_let_go_in_time_is_taken(tmp_path: Path) -> None:
    labs, got = tmp_path / "labs", threading.Event()
    (tmp_path / "locks").mkdir()

    def take() -> None:
        with ports_locked(labs):
            got.set()

    with a_holder(labs, HOLD_THE_PORTS) as holder:
        waiting = threading.Thread(target=take, daemon=True)
        waiting.start()
        assert not got.wait(0.2)
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert got.wait(60)
        waiting.join(60)


@pytest.mark.usefixtures("impatient")
def test_threads_of_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", "this"),
        pytest.raises(TryAgainError, match=f"this has been locked .* by process {os.getpid()} "),
        locked(tmp_path / "lock", "this"),
    ):
        pytest.fail("two have the lock")


# ---- snapshots


def files_below(directory: Path) -> dict[str, int]:
    return {str(p.relative_to(directory)): p.lstat().st_size for p in directory.rglob("*")}


@contextlib.contextmanager
def a_snapshot(site: Site, lab: Lab, name: str) -> Iterator[Snapshot]:
    """Of a replica; deleted with everything that was launched from it."""
    try:
        yield site.fleet.snapshot(replica(site, lab), name, never)
    finally:
        for member in site.fleet.members(lab.name):
            if member.made_by is not None:
                site.fleet.retire(member)
        site.fleet.forget(lab.name, name)


def test_a_kept_snapshot_is_untouched_by_the_replacement_that_is_copied_from_it(lab: Lab, here: Site) -> None:
    """What must not be inherited is removed from the copy of the copy only; what an aborted copy left is replaced."""
    with a_snapshot(here, lab, "kept-snap") as taken:
        place = lab.directory / "snapshots" / taken.name
        before = files_below(place)

        def stop() -> None:
            raise RefusedError("stop")

        with pytest.raises(RefusedError, match="stop"):
            here.fleet.launch(lab.name, taken, "kept-heir", Keeping.COPY, Berth(), stop)
        half = next(i for i in lab.book()["instances"] if i["token"] == "kept-heir")
        left = lab.directory / "instances" / half["name"] / "data.copy"
        assert not left.exists()
        left.mkdir(parents=True)
        (left / "half").write_text("of a process that was killed")
        heir = here.fleet.launch(lab.name, taken, "kept-heir", Keeping.COPY, Berth(), never)
        assert heir.id.short == half["name"]
        data = lab.data(heir.id.short)
        assert not left.exists()
        assert not (data / "half").exists()
        assert not list(data.glob("*backup_*info"))
        assert (data / "ibdata1").stat().st_ino != (place / "ibdata1").stat().st_ino
        assert files_below(place) == before
        assert here.fleet.snapshots(lab.name) == (taken,)


def test_a_snapshot_without_a_record_is_shown_as_an_orphan_and_can_be_deleted(
    lab: Lab, here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REAPER_HOME", str(here.home))
    run = CliRunner().invoke
    with a_snapshot(here, lab, "orphan-snap") as taken:
        (entry,) = json.loads(run(snapshots_app, ["--cluster", lab.name, "--output", "json"]).output)
        assert (entry["name"], entry["standing"], entry["tested"]) == (taken.name, "orphan", None)
        assert entry["position"] == taken.position
        assert entry["size_bytes"] > 2**20
        assert "orphan" in run(snapshots_app, []).output
        said = run(snapshots_app, ["delete", taken.name])
        assert said.exit_code == 0, said.output
        assert here.fleet.snapshots(lab.name) == ()
        assert list((lab.directory / "snapshots").iterdir()) == []
