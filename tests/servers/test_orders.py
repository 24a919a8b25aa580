"""What people say to runs from other processes, and workers that follow them; the state is in a Postgres."""

import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from labs import Lab, Said, Site, kill_9, until
from postgres import postgres
from witness import Found, servers_of, topology

from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunStore
from reaper.cli.settings import store_address
from reaper.cli.show import run_as_json


@pytest.fixture(scope="module")
def module_site(module_site: Site) -> Iterator[Site]:
    """The module's REAPER_HOME, whose settings name a Postgres."""
    with postgres() as address:
        module_site.home.mkdir()
        (module_site.home / "reaper.yaml").write_text(f"store: {address}\n")
        try:
            yield module_site
        finally:
            module_site.remove_all()  # while the store is there


@cache
def store_of(home: Path) -> RunStore:
    """What `reaper runs` reads, without the second of a new interpreter."""
    return RunStore(Place(store_address(home) or home))


def newest(lab: Lab) -> dict[str, Any]:
    """The newest run as a machine reads it."""
    runs = store_of(lab.site.home).runs(lab.name, most=1)
    return run_as_json(runs[0]) if runs else {"run": "", "state": "", "waits_for": ""}


def await_newest(lab: Lab, **fields: str) -> None:
    """Wait until the newest run is so."""

    def so() -> bool:
        run = newest(lab)
        return all(str(run[name]).startswith(value) for name, value in fields.items())

    until(so, f"the newest run has {fields}", 90)


def assert_rotated(lab: Lab, victim: str) -> None:
    assert victim not in lab.instances
    assert len(lab.instances) == len(servers_of(lab)) == 3
    assert topology(lab)["shape"] == "master with replicas"


def assert_as_found(lab: Lab, before: Found) -> None:
    until(lambda: Found.of(lab).tables == before.tables, "the probe's table is dropped everywhere")
    assert Found.of(lab) == before


def refused(said: Said, *words: str) -> None:
    assert said.code == 3, said.all
    for word in words:
        assert word in said.sentence


def test_the_state_is_in_postgres_and_in_no_file(lab: Lab) -> None:
    assert lab.site.cli("runs").code == 0
    assert not list(lab.site.home.glob("durable.db*"))


def test_a_queued_run_is_listed_refuses_others_and_is_withdrawn(lab: Lab) -> None:
    before = Found.of(lab)
    assert lab.site.cli("rotate", lab.name, "--queue").code == 0
    run = lab.site.cli("runs", lab.name, "--output", "json").json()[0]
    assert (run["state"], run["waits_for"]) == ("queued", "a worker, in the queue")
    for command in (["rotate", lab.name], ["rotate", lab.name, "--queue"], ["kill", f"local:{lab.name}/n2", "--yes"]):
        refused(lab.site.cli(*command), run["run"], "queue")
    refused(lab.site.cli("resume", run["run"]), "reaper worker")
    assert "had not begun" in lab.site.cli("abort", run["run"], "--reason", "not today", "--who", "ann").out
    assert newest(lab)["state"] == "undone"
    assert "by ann: not today" in newest(lab)["message"]
    assert_as_found(lab, before)


def test_the_lever_is_seen_refuses_what_is_new_and_is_lifted(lab: Lab) -> None:
    last = newest(lab)
    assert lab.site.cli("pause", "--reason", "year end", "--who", "ann").code == 0
    try:
        for command in (["rotate", lab.name], ["rotate", lab.name, "--queue"], ["kill", "--random", "--yes"]):
            refused(lab.site.cli(*command), "ann", "year end", "reaper unpause")
        assert "ann" in lab.status()["paused"]
        assert lab.site.cli("rotate", lab.name, "--dry-run").code == 0, "who only looks is not held"
    finally:
        assert lab.site.cli("unpause").code == 0
    assert lab.status()["paused"] is None
    assert newest(lab) == last


ENDS = [
    pytest.param("abort", id="an abort from another process"),
    pytest.param("signal", id="a SIGTERM to its own process"),
]


@pytest.mark.parametrize("how", ENDS)
def test_a_run_that_waits_for_a_yes_is_undone_by(lab: Lab, how: str) -> None:
    before = Found.of(lab)
    with lab.site.background("rotate", lab.name, "--approval", "10m") as process:
        await_newest(lab, waits_for="a person's yes")
        if how == "abort":
            assert lab.site.cli("abort", newest(lab)["run"], "--reason", "too hot").code == 0
        else:
            process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=120)[1]
    assert process.returncode == 130, err
    assert newest(lab)["state"] == "undone"
    assert ("too hot" if how == "abort" else "stopped by a signal") in newest(lab)["message"]
    assert_as_found(lab, before)


def test_an_approval_outlives_the_process_that_waited_for_it(lab: Lab) -> None:
    """Said to a dead process, heard by the next one; and nobody approves what does not wait."""
    victim = lab.master
    with lab.site.background("rotate", lab.name, "--approval", "10m") as process:
        await_newest(lab, waits_for="a person's yes")
        kill_9(process.pid)
        process.communicate()
    run = newest(lab)
    assert run["state"] == "interrupted"
    approval = lab.site.cli("approve", run["run"], "--who", "ann")
    assert approval.code == 0, approval.all
    assert f"kill {victim} (master)" in approval.out, "it shows what is approved"
    assert f"reaper resume {run['run']}" in approval.out
    said = lab.site.cli("rotate", lab.name)
    assert said.code == 0, said.all
    assert f"goes on with {run['run']}" in said.err
    assert any("approved by ann" in e.detail for e in store_of(lab.site.home).timeline(run["run"]))
    assert_rotated(lab, victim)
    assert lab.site.cli("approve", run["run"]).code == 2, "it has ended"


def test_the_same_kill_again_goes_on_with_the_one_whose_process_died(lab: Lab) -> None:
    victim = lab.master
    kill = ["kill", f"local:{lab.name}/{victim}", "--yes", "--approval", "10m"]
    with lab.site.background(*kill) as process:
        await_newest(lab, waits_for="a person's yes")
        kill_9(process.pid)
        process.communicate()
    run = newest(lab)["run"]
    other = next(name for name in lab.instances if name != victim)
    refused(lab.site.cli("kill", f"local:{lab.name}/{other}", "--yes"), f"reaper resume {run}")
    assert lab.site.cli("approve", run).code == 0
    said = lab.site.cli(*kill)
    assert said.code == 0, said.all
    assert f"goes on with {run}" in said.err
    assert newest(lab)["run"] == run
    assert_rotated(lab, victim)


def test_a_worker_takes_a_queued_run_over_from_a_dead_one_and_stops_when_told(lab: Lab) -> None:
    victim = lab.master
    assert lab.site.cli("rotate", lab.name, "--queue").code == 0
    with lab.site.background("worker", "--limit", "1") as first:
        await_newest(lab, state="running")
        dead = newest(lab)["executor"]
        kill_9(first.pid)
        first.communicate()
    with lab.site.background("worker") as second:
        await_newest(lab, state="good")
        second.send_signal(signal.SIGTERM)
        err = second.communicate(timeout=120)[1]
    assert second.returncode == 0, err
    assert f"from {dead}" in err
    assert_rotated(lab, victim)
