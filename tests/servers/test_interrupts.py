"""A person, or the machine, stops a run in the middle: before the kill nothing is left, after it the run ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from labs import Lab, Site, alive, kill_9, processes_below, until
from witness import Found, Writers, events, has_step, markers, own_tables, servers_of, store_of, topology

from reaper.domain.verdict import RunState

DIES_AFTER_A_START = """
import os, signal
from reaper.adapters.local import process
start = process.spawn
def spawn(*arguments):
    start(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
process.spawn = spawn
from reaper.cli.main import run
run()
"""


COPIES_ON = """#!/bin/bash
for word in "$@"; do case $word in --target-dir=*) into=${word#*=};; esac; done
mkdir "$into"
for ((i = 0; i < 200000; i++)); do mkdir "$into/$i" && : > "$into/$i/rows" || exit 1; done
"""


@dataclass(frozen=True)
class Running:
    """A command line in a session of its own, as in a terminal of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path
    runs_before: int
    home: Path

    @property
    def said(self) -> str:
        """What it has said on stderr so far."""
        return self.log.read_text()

    def await_step(self, step: str) -> None:
        def begun() -> bool:
            assert self.process.poll() is None, self.said
            return len(store_of(self.home).runs()) > self.runs_before and has_step(self.home, step)

        until(begun, f"the step {step} begins", 60)

    def press(self, number: signal.Signals) -> None:
        """To the whole group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        return self.process.wait(120)


@contextlib.contextmanager
def running(lab: Lab, *args: str) -> Iterator[Running]:
    """Start the command line and leave it running; its group is ended with the block, whatever happened."""
    home = lab.site.home
    before = len(store_of(home).runs())
    log = home.parent / f"stderr-{time.time_ns()}"  # goes with the site
    with log.open("wb") as err:
        process = subprocess.Popen(
            lab.site.command(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            env=lab.site.environment(),
            start_new_session=True,
        )
    try:
        yield Running(process, log, before, home)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def await_death(pid: int) -> None:
    """Return within a millisecond of a process's end."""
    descriptor = os.pidfd_open(pid)
    try:
        deadline = time.monotonic() + 60
        while alive(pid):
            assert time.monotonic() < deadline, "nobody was killed"
            time.sleep(0.0005)
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def as_found(lab: Lab) -> Found:
    """The module's lab before anybody touched it."""
    return Found.of(lab)


# ---- before the kill


@pytest.mark.parametrize(
    ("step", "sent"),
    [
        pytest.param("snapshot", signal.SIGINT, id="a Ctrl-C during the snapshot"),
        pytest.param("launch", signal.SIGINT, id="a Ctrl-C during the launch"),
        pytest.param("join", signal.SIGTERM, id="a SIGTERM while the heir joins"),
    ],
)
def test_a_run_that_is_stopped_before_the_kill_leaves_the_cluster_as_it_was(
    lab: Lab, as_found: Found, step: str, sent: signal.Signals
) -> None:
    with running(lab, "rotate", lab.name) as run:
        run.await_step(step)
        run.press(sent)
        assert run.end() == 130, run.said
    _assert_undone(lab, run, as_found)


def test_a_run_that_is_stopped_in_its_last_guards_leaves_the_cluster_as_it_was(lab: Lab, as_found: Found) -> None:
    """The heir is built, the probe writes, the next effect would be the kill."""
    with running(lab, "rotate", lab.name) as run:
        run.await_step("probe")  # no wish is heard in it: the last guards are the first to be asked
        run.press(signal.SIGINT)
        assert run.end() == 130, run.said
    _assert_undone(lab, run, as_found)


def _assert_undone(lab: Lab, run: Running, as_found: Found) -> None:
    assert "stopping before the kill" in run.said
    assert "stopped by a person before the kill; nothing is left" in run.said.splitlines()[-1]
    record = store_of(run.home).runs()[0]
    assert record.state is RunState.UNDONE
    assert not any(e["step"] == "kill" for e in events(run.home))
    until(lambda: Found.of(lab).tables == as_found.tables, "the probe's table is dropped everywhere")
    found = Found.of(lab)
    assert found.topology == as_found.topology
    assert found.instances == as_found.instances
    assert found.processes == as_found.processes
    assert found.markers == {i: [] for i in lab.instances}
    assert found.files == as_found.files
    snapshots = lab.directory / "snapshots"
    assert not snapshots.exists() or not list(snapshots.iterdir())


def test_a_run_that_was_undone_leaves_no_setting_changed(lab: Lab, as_found: Found) -> None:
    """I9: found as it was means the servers' global variables too. After the tests above."""
    differing = {
        (instance, name): (value, now)
        for instance, values in Found.of(lab).variables.items()
        for name, now in values.items()
        if (value := as_found.variables[instance].get(name)) != now
    }
    assert differing == {}


# ---- two at once


def test_a_second_rotation_is_refused_and_told_who_is_at_work_and_the_first_ends_good(lab: Lab) -> None:
    """I7: whatever the first one is at, also while it has a half-built heir in the cluster."""
    refused = []
    with running(lab, "rotate", lab.name) as first:
        for step, others in (
            ("snapshot", [("rotate", lab.name)]),
            ("launch", [("rotate", lab.name)]),
            ("verify", [("rotate", lab.name), ("lab", "down", "--name", lab.name)]),
        ):
            first.await_step(step)
            # So that the others find it at that step. Never under the probe, which does not outlive a frozen owner.
            first.process.send_signal(signal.SIGSTOP)
            refused += [lab.site.cli(*command) for command in others]
            first.process.send_signal(signal.SIGCONT)
        assert first.end() == 0, first.said
    assert [said.code for said in refused] == [3] * 4
    assert len(store_of(first.home).runs()) == first.runs_before + 1, "a refused one left a record"
    assert topology(lab)["shape"] == "master with replicas"
    assert len(lab.instances) == 3
    for said in refused:
        assert store_of(first.home).runs()[0].run in said.sentence


# ---- after the kill


def test_signals_right_after_the_kill_are_answered_and_the_failover_ends_good(lab: Lab) -> None:
    victim = lab.pid(lab.master)
    with Writers(lab) as writers, running(lab, "rotate", lab.name) as run:
        await_death(victim)
        for number in (signal.SIGINT, signal.SIGTERM) * 3:
            run.press(number)
            time.sleep(0.01)
        assert run.end() == 0, run.said
        writers.more()
    assert "the run goes on to its end" in run.said
    assert "stopping before the kill" not in run.said
    assert store_of(run.home).runs()[0].state is RunState.GOOD
    for instance in lab.instances:
        assert writers.missing(instance) == set(), instance
    assert len(lab.instances) == 3
    assert topology(lab)["shape"] == "master with replicas"


def test_a_terminal_that_is_closed_right_after_the_kill_does_not_end_the_failover(lab: Lab) -> None:
    """A hang-up is a signal like the others: only forward."""
    victim = lab.pid(lab.master)
    with running(lab, "rotate", lab.name) as run:
        await_death(victim)
        run.press(signal.SIGHUP)
        assert run.end() == 0, run.said
    assert store_of(run.home).runs()[0].state is RunState.GOOD
    assert topology(lab)["shape"] == "master with replicas"


def test_a_reader_of_the_log_that_goes_away_right_after_the_kill_does_not_end_the_run(lab: Lab) -> None:
    """`reaper rotate lab 2>&1 | head`: nobody listens any more, and the run goes on to its end."""
    victim = lab.pid(lab.master)
    with lab.site.background("rotate", lab.name, "--output", "json") as process:
        assert process.stderr is not None
        await_death(victim)
        process.stderr.close()
        assert process.stdout is not None
        out = process.stdout.read()
        code = process.wait(120)
    assert store_of(lab.site.home).runs()[0].state is RunState.GOOD
    assert code == 0, out
    assert topology(lab)["shape"] == "master with replicas"
    assert len(lab.instances) == 3


# ---- reaper itself is killed


@pytest.fixture(scope="module")
def halfway(lab: Lab) -> Lab:
    """The module's lab, whose rotation ended while the heir was joining: with the process that ran it."""
    before = _links(lab)
    with running(lab, "rotate", lab.name) as run:
        run.await_step("join")
        kill_9(run.process.pid)
    assert {k: v for k, v in _links(lab).items() if k in before} == before
    assert len(servers_of(lab)) == 4
    return lab


def _links(lab: Lab) -> dict[str, object]:
    """Who is open and who follows whom."""
    return {name: (m["openness"], m["channels"]) for name, m in topology(lab)["members"].items()}


def test_a_reaper_that_is_killed_before_the_kill_is_shown_as_interrupted(halfway: Lab) -> None:
    _assert_interrupted(halfway)


def test_an_interrupted_run_has_its_cluster_until_it_has_ended(halfway: Lab) -> None:
    """I7: nobody else may change what it has half built."""
    run = store_of(halfway.site.home).runs(halfway.name)[0].run
    for command in (["kill", f"local:{halfway.name}/n2", "--yes"], ["rotate", halfway.name, "--dry-run"]):
        another = halfway.site.cli(*command)
        assert another.code == 3, another.all
        assert f"reaper resume {run}" in another.sentence


def test_an_interrupted_run_that_is_aborted_is_undone_by_its_resumption(halfway: Lab) -> None:
    """I8, I9: the state that it reaches is the one that was found."""
    lab, run = halfway, store_of(halfway.site.home).runs(halfway.name)[0].run
    assert f"reaper resume {run}" in lab.site.cli("abort", run, "--reason", "not today").out
    said = lab.site.cli("resume", run)
    assert said.code == 130, said.all
    assert "not today" in said.sentence
    assert store_of(lab.site.home).run(run).state is RunState.UNDONE
    until(lambda: all(own_tables(lab, i) == [] for i in lab.instances), "nothing of it is in the tables")
    assert all(markers(lab, i) == [] for i in lab.instances)
    assert len(lab.instances) == len(servers_of(lab)) == 3
    assert topology(lab)["shape"] == "master with replicas"
    assert not list((lab.directory / "snapshots").iterdir())


def test_a_run_whose_reaper_is_killed_after_the_kill_is_resumed_to_its_end(lab: Lab) -> None:
    """I8: only forward. The verdict counts the time in which nobody failed over."""
    victim, pid = lab.master, lab.pid(lab.master)
    with Writers(lab) as writers:
        with running(lab, "rotate", lab.name) as run:
            await_death(pid)
            kill_9(run.process.pid)
        said = lab.site.cli("resume", store_of(lab.site.home).runs()[0].run, "--output", "json")
        writers.more()
    assert said.code in (0, 1), said.all
    verdict = said.json()["verdict"]
    assert [f for f in verdict["faults"] if "exceeds the budget" not in f] == []
    assert verdict["ledger"]["lost"] == []
    assert victim not in lab.instances
    assert len(lab.instances) == 3
    assert topology(lab)["shape"] == "master with replicas"
    for instance in lab.instances:
        assert writers.missing(instance) == set(), instance
    until(lambda: all(own_tables(lab, i) == [] for i in lab.instances), "nothing of it is in the tables")


def test_a_reaper_that_is_killed_after_the_kill_is_shown_as_interrupted_and_the_lab_goes_down(site: Site) -> None:
    lab = site.make_lab()
    master, victim = lab.master, lab.pid(lab.master)
    with running(lab, "rotate", lab.name) as run:
        await_death(victim)
        kill_9(run.process.pid)
    _assert_interrupted(lab)
    assert master not in servers_of(lab)
    status = lab.site.cli("status", lab.name)
    assert status.code == 0, "a broken cluster can be looked at"
    _assert_goes_down(lab)


def test_a_server_whose_start_was_the_last_thing_that_reaper_did_goes_down_with_the_lab(module_site: Site) -> None:
    """E12: killed between the start of a server and its entry in the book."""
    lab = module_site.make_lab("unrecorded")
    mortal = Lab(replace(module_site, program=(sys.executable, "-c", DIES_AFTER_A_START)), lab.name)
    try:
        with running(mortal, "rotate", lab.name) as run:
            assert run.end() == -signal.SIGKILL, run.said
        until(lambda: len(servers_of(lab)) == 4, "the heir runs")
        _assert_goes_down(lab)
    finally:
        for pid in servers_of(lab).values():
            kill_9(pid)


def test_a_lab_goes_down_while_the_tool_of_a_killed_reaper_still_copies(lab: Lab, tmp_path: Path) -> None:
    """A tool that writes without a pause, as the real one does with much data. Last of the module's lab."""
    tool = tmp_path / "mariadb-backup"
    tool.write_text(COPIES_ON)
    tool.chmod(0o755)
    slow = Lab(replace(lab.site, program=("env", f"PATH={tmp_path}:{os.environ['PATH']}", *lab.site.program)), lab.name)

    def copying() -> list[int]:
        return [pid for pid, command in processes_below(lab.site.home).items() if str(tool) in command]

    try:
        with running(slow, "rotate", lab.name) as run:
            run.await_step("snapshot")
            until(lambda: bool(copying()), "it copies")
            kill_9(run.process.pid)
            assert copying(), "it ended with reaper"
        _assert_goes_down(lab)
    finally:
        for pid in copying():
            kill_9(pid)


def _assert_interrupted(lab: Lab) -> None:
    run = store_of(lab.site.home).runs(lab.name)[0].run
    listed = lab.site.cli("runs", lab.name)
    line = next(line for line in listed.out.splitlines() if line.startswith(f"{run} "))
    assert "interrupted" in line
    machine = lab.site.cli("runs", lab.name, "--output", "json").json()
    assert machine[0]["state"] == "interrupted"
    shown = lab.site.cli("show", run)
    assert shown.code == 0
    assert "interrupted: its process is gone" in shown.out
    assert f"reaper resume {run}" in shown.out


def _assert_goes_down(lab: Lab) -> None:
    """Whatever was half-built is gone too: heirs, copies, the probe, the tool that copied."""
    said = lab.site.cli("lab", "down", "--name", lab.name)
    assert said.code == 0, said.all
    until(lambda: not _processes_of(lab), "no process of it is left", 10)
    assert not lab.directory.exists()
    assert lab.site.cli("status", lab.name).code == 2, "there is no such cluster any more"


def _processes_of(lab: Lab) -> list[str]:
    """Those with the lab's directory on their command line, and the probe, whose environment names the site."""
    found = processes_below(lab.site.home).values()
    return [c for c in found if f"{lab.directory}/" in c or "probe.client" in c]
