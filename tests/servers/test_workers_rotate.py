"""I8, I2 with real rotations: two `reaper worker` processes on a real Postgres, a lab of real servers between them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from labs import Lab, Site, alive, kill_9, processes_below, until
from postgres import postgres
from test_power_cuts import assert_as_after_a_rotation
from witness import OneOpen, Writers, counters, topology

from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunRecord, RunStore
from reaper.adapters.store.lease import EXIT_LEASE_LOST
from reaper.domain.verdict import Event, EventKind, RunState

PATIENCE_S = 90.0

HELD_AT_THE_PROMOTION = """
import sys, time
from reaper.adapters.mysql.server import SqlServer
def held(*arguments, **choices):
    print("held at the promotion", file=sys.stderr, flush=True)
    time.sleep(600)
SqlServer.promote = held
from reaper.cli.main import run
run()
"""


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

    def start(self, program: str | None = None) -> Worker:
        """A worker that is ready; `program` instead of the console script."""
        log = self._logs / f"worker-{len(list(self._logs.iterdir()))}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-c", program, "worker"] if program else self._lab.site.command("worker"),
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


def assert_taken_over(store: RunStore, record: RunRecord, first: Worker, second: Worker) -> None:
    """The record says that the process died, and the promotion is the second's."""
    assert record.verdict is not None
    assert "finished after the process that began it had died" in record.verdict.notes
    assert f"takes {record.run} over from" in second.said
    assert "promote" not in first.said
    promoted = [e.detail for e in store.timeline(record.run) if (e.step, e.kind) == ("promote", EventKind.DONE)]
    assert len(promoted) == 1, promoted
    assert "is open for writes" in promoted[0]


def test_I8_a_worker_killed_between_the_kill_and_the_promotion_is_taken_over(
    lab: Lab, store: RunStore, workers: Workers
) -> None:
    """Fails if nobody takes the run over, or if who does kills again, promotes another one, or forgets a part."""
    victim, pid = lab.master, lab.pid(lab.master)
    first = workers.start(HELD_AT_THE_PROMOTION)
    with Writers(lab) as writers, OneOpen(lab) as one:
        run = queue(lab, "--outage-budget", "1m")
        await_step(store, run, "snapshot", first)
        second = workers.start()
        until(lambda: "held at the promotion" in first.said, "the kill, and no promotion", PATIENCE_S)
        assert not alive(pid)
        kill_9(first.process.pid)
        record = ended(store, run, second)
        one.check()
        assert_good(record, second)
        assert_taken_over(store, record, first, second)
        assert_as_after_a_rotation(lab, victim, writers)


@dataclass(frozen=True)
class Picture:
    """What one more effect would change: the record, the lab's book, its processes, what its servers were told."""

    timeline: tuple[Event, ...]
    instances: Any
    topology: Any
    counters: Any
    processes: frozenset[int]

    @classmethod
    def of(cls, lab: Lab, store: RunStore, run: str, but: Worker) -> "Picture":
        return cls(
            timeline=store.timeline(run),
            instances=lab.book()["instances"],
            topology=topology(lab),
            counters={i: counters(lab, i) for i in lab.instances},
            processes=frozenset(p for p, what in processes_below(lab.site.home).items() if "probe.client" not in what)
            - {but.process.pid},
        )


def test_I8_a_worker_frozen_before_the_kill_and_taken_over_does_not_one_more_effect(
    lab: Lab, store: RunStore, workers: Workers
) -> None:
    """Fails if the woken worker writes one statement to a server, starts or ends a process, or says one more event."""
    victim = lab.master
    first = workers.start()
    with Writers(lab) as writers, OneOpen(lab) as one:
        run = queue(lab, "--outage-budget", "1m")
        await_step(store, run, "snapshot", first)
        second = workers.start()
        await_step(store, run, "probe", first)
        os.kill(first.process.pid, signal.SIGSTOP)
        record = ended(store, run, second)
        one.check()
        assert_good(record, second)
        assert record.verdict is not None
        assert record.verdict.ledger is not None
        assert record.verdict.ledger.unrecorded == (), "the frozen one's probe wrote into the second's table"
        assert_as_after_a_rotation(lab, victim, writers)
    before = Picture.of(lab, store, run, first)
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.process.wait(PATIENCE_S) == EXIT_LEASE_LOST
    assert Picture.of(lab, store, run, first) == before
