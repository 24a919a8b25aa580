"""I8 on real servers: reaper is killed -9 at every step of a rotation, and its run ends as an uninterrupted one."""

import time

import pytest
from labs import Lab, kill_9, until
from test_interrupts import await_death, running
from witness import OneOpen, Writers, markers, own_tables, servers_of, store_of, topology

from reaper.domain.verdict import RunState

STEPS = ["snapshot", "launch", "join", "warm", "verify", "probe"]


def assert_as_after_a_rotation(lab: Lab, victim: str, writers: Writers) -> None:
    """I3, I6, I11, and the topology of a rotation that nobody disturbed."""
    assert victim not in lab.instances
    assert len(lab.instances) == len(servers_of(lab)) == 3
    assert topology(lab)["shape"] == "master with replicas"
    writers.more()
    for instance in lab.instances:
        until(lambda i=instance: writers.missing(i) == set(), f"every acknowledged write is on {instance}")  # type: ignore[misc]
        until(lambda i=instance: own_tables(lab, i) == [], f"no table of reaper's is left on {instance}")  # type: ignore[misc]
        assert markers(lab, instance) == []
    assert not list((lab.directory / "snapshots").iterdir())


@pytest.mark.parametrize("step", STEPS)
def test_I8_reaper_killed_at_a_step_before_the_kill_goes_on_from_there(lab: Lab, step: str) -> None:
    """The same command again: it finds the run and ends it."""
    victim = lab.master
    with Writers(lab) as writers, OneOpen(lab) as one:
        with running(lab, "rotate", lab.name) as run:
            run.await_step(step)
            kill_9(run.process.pid)
        said = lab.site.cli("rotate", lab.name)
        assert said.code == 0, said.all
        one.check()
        assert_as_after_a_rotation(lab, victim, writers)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.1, 1.2, 1.6])
def test_I8_reaper_killed_after_the_kill_finishes_forward(lab: Lab, after_s: float) -> None:
    """Between the kill and the promotion, during the measuring, the retirement; the outage counts as it was."""
    victim, pid = lab.master, lab.pid(lab.master)
    with Writers(lab) as writers, OneOpen(lab) as one:
        with running(lab, "rotate", lab.name, "--outage-budget", "1m") as run:
            await_death(pid)
            time.sleep(after_s)
            kill_9(run.process.pid)
        record = store_of(lab.site.home).runs()[0]
        if record.state is RunState.RUNNING:  # otherwise it had ended before
            said = lab.site.cli("resume", record.run)
            assert said.code == 0, said.all
        one.check()
        assert_as_after_a_rotation(lab, victim, writers)
