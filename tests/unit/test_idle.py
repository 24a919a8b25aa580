"""What waits costs little: no dbos before the first run and none of its threads after it, equal facts kept once."""

import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import durable_toy as toy
import pytest

from reaper.adapters.policies.reader import load
from reaper.adapters.policies.sharing import Sharing
from reaper.adapters.store.admission import Limits, Ticket
from reaper.adapters.store.database import Database
from reaper.adapters.store.engine import Engine
from reaper.adapters.store.work import Work
from reaper.domain.errors import UsageError
from reaper.domain.facts import Instance, InstanceId, Unreachable
from reaper.testing.fleet import MemoryFleet
from reaper.testing.world import world
from reaper.workflow import observe as observing
from reaper.workflow.forecast import survey
from reaper.workflow.server import Server

pytestmark = pytest.mark.timeout(120)

# A worker with an empty store, then with a run in it: what it has imported, and which threads it has, by their targets.
_WORKER = """
import sys, threading
from pathlib import Path
from reaper.adapters.store.admission import Limits, Ticket
from reaper.adapters.store.database import Database
from reaper.adapters.store.engine import Engine
from reaper.adapters.store.work import Work

heavy = ("dbos", "icalendar", "recurring_ical_events", "boto3", "jinja2")
database, looked, ended, stop = Database(Path(sys.argv[1])), threading.Event(), threading.Event(), threading.Event()

def limits():
    return Limits()

def body(steps, run, argument):
    return steps.run("observe", int, lambda: 1)

with Engine(database, body, version="v1", name="idle") as engine:
    threads = {t.ident for t in threading.enumerate()}
    for _ in range(3):
        engine._look_after(limits)
    assert not [name for name in heavy if name in sys.modules], sorted(sys.modules)
    assert {t.ident for t in threading.enumerate()} == threads
    work = Work(database)
    work.submit(Ticket(run="r1", cluster="a", group=None, argument=None))
    worker = threading.Thread(target=engine.work, args=(limits, stop))
    worker.start()
    while work.ended("r1") is None:
        stop.wait(0.05)
    stop.set()
    worker.join()
    assert work.ended("r1").value() == 1
    for thread in threading.enumerate():
        if thread.ident not in threads and thread.name != "reaper-run":
            thread.join(20)
            assert not thread.is_alive() or "_event_loop" in repr(thread._target), thread._target
print("done")
"""


def test_a_worker_imports_dbos_with_its_first_run_and_keeps_none_of_its_polling_threads(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _WORKER, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_limits_are_asked_for_only_while_a_run_waits(tmp_path: Path) -> None:
    asked: list[str] = []

    def limits() -> Limits:
        asked.append("limits")
        return Limits(in_flight=0)

    database = Database(tmp_path)
    with Engine(database, toy.body, version="v1", name="idle") as engine:
        engine._look_after(limits)
        assert asked == []
        Work(database).submit(Ticket(run="r1", cluster="a", group=None, argument=None))
        engine._look_after(limits)
        assert asked == ["limits"]


def test_an_environment_of_dbos_cloud_is_refused_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBOS__CLOUD", "true")
    with pytest.raises(UsageError, match="DBOS__CLOUD"), Engine(Database(tmp_path), toy.body, version="v", name="n"):
        raise AssertionError("it was let in")


def test_policies_share_their_equal_parts_and_stay_what_they_were(tmp_path: Path) -> None:
    said = 'target: {clusters: "*"}\nschedule: {cron: "0 3 * * *", timezone: Asia/Tokyo}\nguards: {max_lag: 5s}\n'
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n{said}")
    (_, one), (_, two) = load(sorted(tmp_path.iterdir())).policies
    assert two == replace(one, name="two")
    for part in ("target", "schedule", "calendar", "due", "limits", "budgets", "limits_of_run"):
        assert getattr(one, part) is getattr(two, part), part


def test_facts_that_are_equal_but_of_two_kinds_are_not_exchanged() -> None:
    sharing = Sharing()
    assert type(sharing.shared((1, "a"))[0]) is int
    assert sharing.shared(timedelta(1)) == timedelta(1)
    assert sharing.shared((timedelta(1),)) is sharing.shared((timedelta(days=1),))


# ---- who hangs holds up nobody


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryFleet, InstanceId, threading.Event]:
    """Three clusters; a member of one of them answers nothing until the event is set."""
    monkeypatch.setattr(observing, "LOOK_WITHIN", timedelta(seconds=1))
    fleet = MemoryFleet()
    for name in "abc":
        fleet.add_cluster(name)
    return fleet, fleet.members("b")[1].id, threading.Event()


def test_a_member_that_hangs_is_unreachable_and_all_others_are_seen(
    hung: tuple[MemoryFleet, InstanceId, threading.Event],
) -> None:
    fleet, silent, speak = hung
    of = world(fleet)

    def connect(cluster: str, instance: Instance) -> Server:
        if instance.id == silent:
            speak.wait(60)
        return of.connect(cluster, instance)

    try:
        seen = survey(replace(of, connect=connect), ["a", "b", "c"])
    finally:
        speak.set()
    assert [view.name for view in seen.views] == ["a", "b", "c"]
    lost = [m for view in seen.views for m in view.members if m.facts is None]
    assert [m.instance.id for m in lost] == [silent]
    assert isinstance(lost[0].server, Unreachable)
    assert "within 1 s" in lost[0].server.why


def test_all_of_many_clusters_are_looked_at_at_one_moment() -> None:
    fleet = MemoryFleet()
    names = [f"c{number}" for number in range(20)]
    for name in names:
        fleet.add_cluster(name)
    of, everybody = world(fleet), threading.Barrier(len(names), timeout=60)

    def connect(cluster: str, instance: Instance) -> Server:
        if instance.id == fleet.members(cluster)[0].id and cluster not in met:
            met.add(cluster)
            everybody.wait()  # who is asked one after the other never gets past this
        return of.connect(cluster, instance)

    met: set[str] = set()
    seen = survey(replace(of, connect=connect), names)
    assert [view.name for view in seen.views] == names
    assert not seen.unobserved


# ---- one country's holidays at a time

_ONE_COUNTRY = """
import sys
from reaper.adapters.nations import holidays_of, subdivisions_of

assert holidays_of("JP", None, [2026]) and "BY" in subdivisions_of("DE")
loaded = [name for name in sys.modules if name.startswith("holidays.countries.")]
assert len(loaded) < 10, loaded
from holidays.countries import France
import holidays.countries
assert issubclass(holidays.countries.JP, holidays.countries.Japan) and France().country == "FR"
assert dict(holidays_of("JP", None, [2026])) == dict(holidays.countries.Japan(years=2026))
for country, parts in holidays.list_supported_countries().items():
    assert subdivisions_of(country) == tuple(parts), country
assert subdivisions_of("XX") is None and subdivisions_of("Japan") is None
print("done")
"""


def test_a_country_is_imported_alone_and_means_what_the_library_means() -> None:
    done = subprocess.run([sys.executable, "-c", _ONE_COUNTRY], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
