"""I7, I8 with several workers on a real Postgres: the dead are taken over, the frozen stay silent, limits hold."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from postgres import postgres

from reaper.adapters.store.admission import Ticket
from reaper.adapters.store.database import Database
from reaper.adapters.store.lease import EXIT_LEASE_LOST, take_lease
from reaper.adapters.store.work import OpenRun, Work
from reaper.domain.errors import RefusedError
from reaper.workflow.steps import Json, Message, Op

UNIT = Path(__file__).parents[1] / "unit"
sys.path.append(str(UNIT))  # the toy is shared with the tests on SQLite
import durable_toy as toy  # noqa: E402 - found by the line above

numbers = itertools.count(1)


class Workers:
    """A store on Postgres and the worker processes on it, none of which outlives the test."""

    def __init__(self, address: str, stack: ExitStack, home: Path) -> None:
        self._address = address
        self._stack = stack
        self.home = home
        self.database = Database(address)
        stack.callback(self.database.close)
        self.work = Work(self.database)

    def start(self, **plan: Any) -> "subprocess.Popen[str]":
        """A worker; what it says lies in the test's directory."""
        said = (self.home / f"worker-{next(numbers)}.log").open("w+")
        child = subprocess.Popen(
            [sys.executable, str(UNIT / "durable_toy.py"), json.dumps({"do": "work", "where": self._address, **plan})],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        self._stack.callback(said.close)
        self._stack.callback(_end, child)
        assert child.stdout is not None
        assert child.stdout.readline(), "it did not come up"
        return child

    def submit(self, **argument: Json) -> tuple[Ticket, Path]:
        """A run of its own and the book of its effects."""
        number = next(numbers)
        book = self.home / f"book-{number}"
        ticket = Ticket(
            run=f"run-{number}", cluster=f"cluster-{number}", group=None, argument={"book": str(book), **argument}
        )
        self.work.submit(ticket)
        return ticket, book

    def seen(self, ticket: Ticket) -> OpenRun:
        return next(r for r in self.work.open_runs() if r.run == ticket.run)

    def until_said(self, what: str) -> None:
        """Wait until one of the workers has said it."""
        logs = list(self.home.glob("worker-*.log"))
        toy.until(lambda: any(what in log.read_text() for log in logs), f"a worker to say: {what}")

    def outcome(self, ticket: Ticket) -> Json:
        """Of a run that ends within the toy's patience."""
        toy.until(lambda: self.work.ended(ticket.run), f"{ticket.run} to end")
        ended = self.work.ended(ticket.run)
        assert ended is not None
        return ended.value()


def _end(child: "subprocess.Popen[str]") -> None:
    child.kill()  # a stopped process dies of it too
    child.communicate()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with postgres() as found:
        yield found


@pytest.fixture
def workers(address: str, tmp_path: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(address, stack, tmp_path)


def test_I8_a_worker_that_is_killed_between_kill_and_promotion_is_taken_over(workers: Workers) -> None:
    both = [workers.start(), workers.start()]
    ticket, book = workers.submit(cut=["kill", "between the steps"])
    toy.until(lambda: any(worker.poll() is not None for worker in both), "one of them to die")
    died = time.monotonic()
    toy.until(lambda: any(step == "promote" for step, _ in toy.lines(book)), "the other to promote")
    sys.stdout.write(f"promoted {time.monotonic() - died:.2f} s after the death of the worker\n")
    assert workers.outcome(ticket) == toy.OUTCOME
    done = toy.lines(book)
    assert [step for step, _ in done] == list(toy.STEPS), "each effect once, in its order"
    assert len({pid for _, pid in done}) == 2, "two workers have done it"
    assert workers.work.holder(ticket.cluster) is None


def freeze(worker: "subprocess.Popen[str]") -> None:
    """Stop it; return when it has stopped."""
    os.kill(worker.pid, signal.SIGSTOP)
    toy.until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, "it to be frozen")


@pytest.mark.parametrize("lost", ["exit", "stay"], ids=["and finds its lease gone", "and has only its token to go by"])
def test_a_worker_that_is_frozen_inside_an_effect_and_wakes_up_does_not_one_more(workers: Workers, lost: str) -> None:
    ticket, book = workers.submit(gate="kill")
    frozen = workers.start(lost=lost)
    toy.until(lambda: ("kill", frozen.pid) in toy.lines(book), "the run to be inside the effect")
    freeze(frozen)
    assert workers.seen(ticket).alive, "nobody has said yet that it is mute"
    other = workers.start()
    toy.until(lambda: ("kill", other.pid) in toy.lines(book), "the other to be inside the effect")
    book.with_suffix(".open").touch()
    assert workers.outcome(ticket) == toy.OUTCOME
    done = toy.lines(book)
    os.kill(frozen.pid, signal.SIGCONT)
    if lost == "exit":
        assert frozen.wait(timeout=toy.PATIENCE) == EXIT_LEASE_LOST
    else:
        workers.until_said(f"{ticket.run} is another worker's now")
    assert toy.lines(book) == done
    assert [step for step, pid in done if pid == frozen.pid] == list(toy.STEPS[: toy.STEPS.index("kill") + 1])
    assert [step for step, pid in done if pid == other.pid] == list(toy.STEPS[toy.STEPS.index("kill") :])


def test_a_worker_that_is_frozen_between_steps_catches_up_and_does_not_do_the_next(workers: Workers) -> None:
    ticket, book = workers.submit(lull="kill", gate="retire")
    frozen = workers.start(lost="stay")
    toy.until(book.with_suffix(".lulled").exists, "the run to be between the steps")
    first = workers.seen(ticket).executor
    freeze(frozen)
    other = workers.start()
    toy.until(lambda: workers.seen(ticket).executor != first, "the take-over")
    book.with_suffix(".go").touch()
    toy.until(lambda: ("retire", other.pid) in toy.lines(book), "the other to be inside its last effect")
    os.kill(frozen.pid, signal.SIGCONT)  # it finds promote done, and retire not yet
    workers.until_said(f"{ticket.run} is another worker's now")
    book.with_suffix(".open").touch()
    assert workers.outcome(ticket) == toy.OUTCOME
    done = toy.lines(book)
    assert [step for step, _ in done] == list(toy.STEPS), "each effect once"
    assert [step for step, pid in done if pid == other.pid] == ["promote", "retire"]


def test_a_question_moves_to_another_worker_and_is_answered_there(workers: Workers) -> None:
    ticket, book = workers.submit(asks="kill")
    first = workers.start()
    toy.until(lambda: workers.seen(ticket).waits_for == "a yes", "the question")
    first.kill()
    first.wait()
    second = workers.start()
    toy.until(lambda: (workers.seen(ticket).executor or "") and workers.seen(ticket).alive, "the take-over")
    workers.work.send(ticket.run, Message(op=Op.APPROVE, who="ann", when="2026-11-24T10:00:00+00:00"))
    assert workers.outcome(ticket) == toy.OUTCOME
    assert [pid for _, pid in toy.lines(book)] == [first.pid] * 4 + [second.pid] * 3


def test_a_short_job_gives_its_cluster_back_when_its_session_ends(workers: Workers) -> None:
    lost: list[int] = []
    with workers.work.exclusive("lab", "lab down"):
        assert workers.work.holder("lab") == "lab down"
        with pytest.raises(RefusedError, match="lab down works on lab"), workers.work.exclusive("lab", "retire"):
            pass
    assert workers.work.holder("lab") is None
    lease = take_lease(workers.database, "job", "", lambda: lost.append(1))
    with workers.database.write() as tx:
        tx.do(
            "insert into reaper_clusters (cluster, run, executor, who, since) values ('lab', null, :e, 'a job', 'now')",
            e=lease.executor,
        )
        tx.rows(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and objsubid = 2"
            " and pid <> pg_backend_pid()"
        )  # what a cut network or a failover does
    toy.until(lambda: lost, "the job to be told")
    with workers.work.exclusive("lab", "retire"):
        assert workers.work.holder("lab") == "retire"


RUNS, CLUSTERS, LIMIT = 50, 10, 3


def test_I7_fifty_runs_on_ten_clusters_with_a_limit_of_three(workers: Workers) -> None:
    book = workers.home / "book"
    for _ in range(2):
        workers.start(limit=LIMIT)
    tickets = [
        Ticket(
            run=f"contended-{number}",
            cluster=f"c{number % CLUSTERS}",
            group=None,
            argument={"book": str(book), "shared": True, "takes": 0.01},
        )
        for number in range(RUNS)
    ]
    waiting, refused = list(tickets), 0

    def everything_is_queued() -> bool:
        nonlocal refused
        for ticket in list(waiting):
            try:
                workers.work.submit(ticket)
            except RefusedError:
                refused += 1
            else:
                waiting.remove(ticket)
        return not waiting

    toy.until(everything_is_queued, "all fifty to be queued")
    for ticket in tickets:
        workers.outcome(ticket)
    assert refused, "clusters were contended for"
    lines = toy.lines(book)
    clusters = {ticket.run: ticket.cluster for ticket in tickets}
    assert Counter(step for step, _ in lines) == Counter(f"{run}/{step}" for run in clusters for step in toy.STEPS)
    flying: set[str] = set()
    most = 0
    for line, _ in lines:
        run, _, step = line.partition("/")
        if step == toy.STEPS[0]:
            assert clusters[run] not in {clusters[other] for other in flying}, f"two runs on {clusters[run]}"
            flying.add(run)
        most = max(most, len(flying))
        if step == toy.STEPS[-1]:
            flying.discard(run)
    assert most <= LIMIT
    assert most > 1, "the limit was reached for"
