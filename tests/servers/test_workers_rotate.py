"""I8, I2 with real rotations: two `reaper worker` processes on a real Postgres, a lab of real servers between them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from labs import Lab, Site, alive, kill_9, processes_below, until
from postgres import postgres
from test_interrupts import await_death
from test_power_cuts import assert_as_after_a_rotation
from witness import OneOpen, Writers, counters, servers_of, topology

from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunRecord, RunStore
from reaper.adapters.store.lease import EXIT_LEASE_LOST
from reaper.domain.verdict import Event, EventKind, RunState

PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def store() -> Iterator[RunStore]:
    """The store of every command in this module."""
    with postgres() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REAPER_STORE", address)
        place = Place(address)
        yield RunStore(place)
        place.database.close()


@pytest.fixture(scope="module")
def lab(store: RunStore, module_site: Site) -> Lab:  # noqa: ARG001 - the lab's commands use that store
    return module_site.make_lab("shared")


@dataclass(frozen=True)
class Worker:
    """A `reaper worker`, and what it says."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()


class Workers:
    """Workers on the lab's store, none of which outlives the test."""

    def __init__(self, lab: Lab, stack: ExitStack, logs: Path) -> None:
        self._lab = lab
        self._stack = stack
        self._logs = logs

    def start(self) -> Worker:
        """A worker that is ready."""
        log = self._logs / f"worker-{len(list(self._logs.iterdir()))}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                self._lab.site.command("worker"),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self._lab.site.environment(),
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        worker = Worker(process, log)
        until(lambda: "follows runs" in worker.said, "the worker to be ready")
        return worker


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # a stopped process dies of it too
    process.wait()


@pytest.fixture
def workers(lab: Lab, tmp_path: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(lab, stack, tmp_path)


def queue(lab: Lab, *args: str) -> str:
    """`reaper rotate --queue`; the run's name."""
    said = lab.site.cli("rotate", lab.name, "--queue", "--output", "json", *args)
    assert said.code == 0, said.all
    return str(said.json()["run"])


def await_step(store: RunStore, run: str, step: str, worker: Worker) -> None:
    """Return when a step has begun."""

    def begun() -> bool:
        assert worker.process.poll() is None, worker.said
        return any(e.step == step for e in store.timeline(run))

    until(begun, f"the step {step} to begin", PATIENCE_S)


def ended(store: RunStore, run: str, *workers: Worker) -> RunRecord:
    """The record of a run that ends."""
    until(
        lambda: store.run(run).state is not RunState.RUNNING,
        "the run to end:\n" + "\n".join(w.said for w in workers),
        PATIENCE_S,
    )
    return store.run(run)


def assert_good(record: RunRecord, *workers: Worker) -> None:
    """Finished, nothing is wrong with it, nothing was lost."""
    assert record.state is RunState.GOOD, (record.message, record.verdict, [w.said for w in workers])
    assert record.verdict is not None
    assert record.verdict.ledger is not None
    assert record.verdict.ledger.acknowledged > 0
    assert record.verdict.ledger.lost == ()


def open_members(lab: Lab) -> list[str]:
    """Who accepts writes."""
    return [i for i in servers_of(lab) if not int(lab.sql(i, "SELECT @@global.read_only AS r")[0]["r"])]


def test_I8_a_worker_killed_between_the_kill_and_the_promotion_is_taken_over(
    lab: Lab, store: RunStore, workers: Workers
) -> None:
    victim, pid = lab.master, lab.pid(lab.master)
    first = workers.start()
    with Writers(lab) as writers, OneOpen(lab) as one:
        run = queue(lab, "--outage-budget", "1m")
        await_step(store, run, "snapshot", first)
        second = workers.start()
        await_death(pid)
        kill_9(first.process.pid)
        assert open_members(lab) == [], "it was killed too late: somebody is promoted already"
        record = ended(store, run, second)
        one.check()
        assert_good(record, second)
        assert_as_after_a_rotation(lab, victim, writers)
    print([f"{e.step} {e.kind} {e.detail}" for e in store.timeline(run)], record.verdict.notes)
