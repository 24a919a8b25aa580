"""I7, I8 on SQLite: a run is done once, whatever dies; one run per cluster; the store is obeyed only as JSON."""

import base64
import importlib
import inspect
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import durable_toy as toy
import psutil
import pytest

from reaper.adapters.store import library
from reaper.adapters.store.admission import Limits, Pause, Standing, Ticket, admit, ask, in_the_way
from reaper.adapters.store.database import Database
from reaper.adapters.store.engine import AGAIN, Engine
from reaper.adapters.store.work import OpenRun, Work
from reaper.domain.errors import (
    CallAPersonError,
    OwnershipLostError,
    ReaperError,
    RefusedError,
    TryAgainError,
    UsageError,
)
from reaper.workflow.steps import Json, Message, Op, Steps

pytestmark = pytest.mark.timeout(120)  # what hangs here hangs for LONG

TOY = Path(toy.__file__)
ZERO = timedelta(0)
LONG = timedelta(minutes=5)
NO_LIMITS = Limits()
numbers = itertools.count(1)

Body = Callable[[Steps, str], Json]
SAID = Message(op=Op.APPROVE, who="ann", when="2026-11-24T10:00:00+00:00", text="go")


class Bench:
    """One engine of this process, whose body is chosen per run, and what the tests do around it."""

    def __init__(self, where: Path, database: Database, engine: Engine, bodies: dict[str, Body]) -> None:
        self.where = where
        self.database = database
        self.engine = engine
        self.work = Work(database)
        self._bodies = bodies

    def ticket(self, body: Body | None = None, cluster: str | None = None, **argument: Json) -> Ticket:
        """A ticket of its own name; without `body` it runs the toy."""
        number = next(numbers)
        run = f"run-{number}"
        if body is not None:
            self._bodies[run] = body
        return Ticket(run=run, cluster=cluster or f"cluster-{number}", group=None, argument=argument)

    def run(self, ticket: Ticket) -> Json:
        return self.engine.run(ticket, NO_LIMITS)

    def seen(self, run: str) -> OpenRun:
        return next(r for r in self.work.open_runs() if r.run == run)

    @contextmanager
    def worker(self, limits: Limits = NO_LIMITS) -> Iterator[None]:
        """The engine works as a worker while the block is done."""
        stop = threading.Event()
        # Its own end would close the engine for the tests that follow, so only the loop is used.
        thread = threading.Thread(target=self._loop, args=(limits, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _loop(self, limits: Limits, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            self.engine._look_after(lambda: limits)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    where = tmp_path_factory.mktemp("store")
    database = Database(where)
    bodies: dict[str, Body] = {}

    def body(steps: Steps, run: str, argument: Json) -> Json:
        chosen = bodies.get(run)
        return toy.body(steps, run, argument) if chosen is None else chosen(steps, run)

    with Engine(database, body, version="v1", name="bench") as engine:
        yield Bench(where, database, engine, bodies)
    database.close()


@contextmanager
def process(**plan: Any) -> Iterator["subprocess.Popen[str]"]:
    """A toy process; killed at the end of the block if it still lives."""
    child = subprocess.Popen(
        [sys.executable, str(TOY), json.dumps(plan)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def value(bench: Bench, ticket: Ticket) -> Json:
    """The outcome of a run that has ended."""
    ended = bench.work.ended(ticket.run)
    assert ended is not None
    return ended.value()


class Interruption(Exception):
    """What nobody foresaw: it stands for a bug."""


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A value that plain JSON would not give back as it was."""

    lag: timedelta | None
    at: datetime
    colours: tuple[Colour, ...]


FACT = Fact(lag=timedelta(milliseconds=1), at=datetime(2026, 11, 24, tzinfo=UTC), colours=(Colour.RED,))


class Twice:
    """A body that is broken the first time, after its steps, and is followed to its end the second time."""

    def __init__(self, part: Callable[[Steps], Json]) -> None:
        self._part = part
        self.results: list[Json] = []

    def __call__(self, steps: Steps, _run: str) -> Json:
        self.results.append(self._part(steps))
        if len(self.results) == 1:
            raise Interruption("the first time")
        return self.results[-1]


def twice(bench: Bench, part: Callable[[Steps], Json]) -> list[Json]:
    """What the part said when it was done, and when it was replayed."""
    body = Twice(part)
    ticket = bench.ticket(body)
    with pytest.raises(CallAPersonError, match="Interruption: the first time"):
        bench.run(ticket)
    assert bench.engine.resume(ticket.run) == body.results[1]
    return body.results


# ---- steps


def test_a_replayed_step_gives_the_same_value_of_the_same_type_and_does_nothing(bench: Bench) -> None:
    done: list[int] = []
    given: list[Fact] = []

    def part(steps: Steps) -> Json:
        def effect() -> Fact:
            done.append(1)
            return FACT

        given.append(steps.run("observe", Fact, effect))
        return repr(given[-1])

    first, replayed = twice(bench, part)
    assert first == replayed
    assert given == [FACT, FACT]
    assert given[0] is not FACT, "the first run must see what a replay sees: the decoded value"
    assert len(done) == 1


@pytest.mark.parametrize("kind", [TryAgainError, RefusedError, CallAPersonError], ids=lambda k: k.__name__)
def test_an_error_of_a_step_is_raised_again_of_the_same_class_with_the_same_message(
    bench: Bench, kind: type[ReaperError]
) -> None:
    done: list[int] = []

    def part(steps: Steps) -> Json:
        def effect() -> int:
            done.append(1)
            raise kind("no room on the disk. Make some")

        try:
            steps.run("snapshot", int, effect)
        except ReaperError as error:
            return f"{type(error).__name__}: {error}"
        return "it did not raise"

    assert twice(bench, part) == [f"{kind.__name__}: no room on the disk. Make some"] * 2
    assert len(done) == 1


def test_what_nobody_foresaw_in_an_effect_is_not_recorded_and_no_body_can_go_on_from_it(bench: Bench) -> None:
    tried: list[str] = []

    def body(steps: Steps, _run: str) -> Json:
        def effect() -> int:
            tried.append("effect")
            if len(tried) == 1:
                raise Interruption("a bug")
            return 5

        try:
            return steps.run("snapshot", int, effect)
        except Exception:
            tried.append("undo")
            raise

    ticket = bench.ticket(body)
    with pytest.raises(CallAPersonError, match="broken: Interruption in step snapshot: a bug"):
        bench.run(ticket)
    seen = bench.seen(ticket.run)
    assert (seen.broken, seen.executor) == ("Interruption in step snapshot: a bug", None)
    assert bench.work.holder(ticket.cluster) == f"run {ticket.run}"
    assert bench.engine.resume(ticket.run) == 5
    assert tried == ["effect", "effect"]
    assert bench.work.holder(ticket.cluster) is None


def test_a_changed_program_does_not_follow_the_journal_of_another(bench: Bench) -> None:
    names = iter(("snapshot", "promote"))
    done: list[str] = []

    def part(steps: Steps) -> Json:
        name = next(names)
        return steps.run(name, int, lambda: done.append(name) or 1)

    ticket = bench.ticket(Twice(part))
    with pytest.raises(CallAPersonError):
        bench.run(ticket)
    with pytest.raises(CallAPersonError, match="the journal cannot be followed at step promote"):
        bench.engine.resume(ticket.run)
    assert done == ["snapshot"]
    bench.engine.take(ticket.run)
    bench.engine.finish(ticket.run, "ended by a person")


def test_a_step_inside_a_step_is_a_mistake_and_is_said(bench: Bench) -> None:
    ticket = bench.ticket(lambda steps, _: steps.run("outer", int, lambda: steps.run("inner", int, lambda: 1)))
    with pytest.raises(CallAPersonError, match="step inner was begun inside another step"):
        bench.run(ticket)
    bench.engine.take(ticket.run)
    bench.engine.finish(ticket.run, None)


def test_the_error_of_a_body_is_the_end_of_its_run(bench: Bench) -> None:
    def body(_steps: Steps, _run: str) -> Json:
        raise RefusedError("lag is unknown. Look at n2")

    ticket = bench.ticket(body)
    for _ in range(2):  # it ends once: the second time it is only told again
        with pytest.raises(RefusedError, match=r"^lag is unknown\. Look at n2$"):
            bench.run(ticket)
    assert ticket.run not in [r.run for r in bench.work.open_runs()]
    assert bench.work.holder(ticket.cluster) is None


def test_a_run_that_has_ended_is_not_done_again(bench: Bench) -> None:
    done: list[int] = []
    ticket = bench.ticket(lambda _steps, _run: len(done.append(1) or done))
    assert [bench.run(ticket), bench.run(ticket)] == [1, 1]
    with pytest.raises(UsageError, match="ended at"):
        bench.engine.resume(ticket.run)


# ---- ownership


def hand_over(bench: Bench, run: str) -> None:
    """What another worker's claim does to the owner token."""
    with bench.database.write() as tx:
        tx.do("update workflow_status set owner_xid = 'another' where workflow_uuid = :run", run=run)


@pytest.mark.parametrize("where", ["between the steps", "inside an effect", "right before the irreversible"])
def test_who_lost_the_run_does_not_one_more_effect(bench: Bench, where: str) -> None:
    done: list[str] = []

    def body(steps: Steps, run: str) -> Json:
        steps.run("join", int, lambda: done.append("join") or 1)
        if where == "between the steps":
            hand_over(bench, run)

        def kill() -> int:
            if where != "between the steps":
                hand_over(bench, run)
            if where == "right before the irreversible":
                steps.own()
            done.append("kill")
            return 1

        try:
            steps.run("kill", int, kill)
        except OwnershipLostError:
            with pytest.raises(OwnershipLostError):
                steps.own()
            steps.run("undo", int, lambda: done.append("undo") or 1)
        done.append("went on")
        return None

    ticket = bench.ticket(body)
    with pytest.raises(OwnershipLostError):
        bench.run(ticket)
    assert done == (["join", "kill"] if where == "inside an effect" else ["join"])
    assert bench.seen(ticket.run).broken is None, "it is another worker's: nothing is said of it any more"
    bench.engine.take(ticket.run)
    bench.engine.finish(ticket.run, None)


def test_who_lost_the_run_after_its_last_step_does_not_end_it(bench: Bench) -> None:
    ticket = bench.ticket(lambda _steps, run: hand_over(bench, run))
    with pytest.raises(OwnershipLostError):
        bench.run(ticket)
    assert bench.work.ended(ticket.run) is None
    assert bench.work.holder(ticket.cluster) == f"run {ticket.run}"
    bench.engine.take(ticket.run)
    bench.engine.finish(ticket.run, None)


# ---- the power cut


def test_I8_the_power_is_cut_at_every_step_on_both_sides_of_its_effect_and_between(
    bench: Bench, tmp_path: Path
) -> None:
    points = list(itertools.product(toy.STEPS, toy.SIDES))

    def until_cut(point: tuple[str, str]) -> tuple[Ticket, Path, int, str]:
        book = tmp_path / f"{point[0]}-{toy.SIDES.index(point[1])}"
        ticket = bench.ticket(book=str(book), cut=list(point))
        plan = {"run": ticket.run, "cluster": ticket.cluster, "argument": ticket.argument}
        with process(do="run", where=str(bench.where), **plan) as child:
            errors = child.communicate(timeout=toy.PATIENCE)[1]
            return ticket, book, child.returncode, errors

    with ThreadPoolExecutor(3) as pool:
        cut = list(pool.map(until_cut, points))
    for (step, side), (ticket, book, code, errors) in zip(points, cut, strict=True):
        assert code == -9, errors
        before = Counter(step for step, _ in toy.lines(book))
        assert bench.seen(ticket.run).alive is False
        assert bench.engine.resume(ticket.run) == toy.OUTCOME
        after = Counter(step for step, _ in toy.lines(book))
        again = 2 if side == "after the effect" else 1  # it was done and not recorded
        assert after == Counter({name: again if name == step else 1 for name in toy.STEPS}), f"{side} of {step}"
        assert before[step] == (0 if side == "before the effect" else 1)
    bench.work.holder("any")  # whoever looks at clusters sweeps up
    assert [path.stem for path in (bench.where / "workers").iterdir()] == [bench.engine.executor]
    with bench.database.read() as tx:
        assert [row.executor for row in tx.rows("select executor from reaper_workers")] == [bench.engine.executor]


def test_a_worker_goes_on_with_the_run_of_a_dead_process_by_itself(bench: Bench, tmp_path: Path) -> None:
    book = tmp_path / "book"
    ticket = bench.ticket(book=str(book), cut=["promote", "before the effect"])
    with process(
        do="run", where=str(bench.where), run=ticket.run, cluster=ticket.cluster, argument=ticket.argument
    ) as child:
        child.wait(timeout=toy.PATIENCE)
    with bench.worker():
        toy.until(lambda: bench.work.ended(ticket.run), "the worker to end it")
    assert value(bench, ticket) == toy.OUTCOME
    assert len(toy.lines(book)) == len(toy.STEPS)


def test_a_run_whose_process_died_between_its_admission_and_its_first_step_is_begun(bench: Bench) -> None:
    ticket = bench.ticket(lambda steps, _: steps.run("observe", int, lambda: 3))
    with bench.database.write() as tx:
        ask(tx, ticket)
        admit(tx, ticket.run, "gone-1", "v1")
    assert bench.seen(ticket.run).alive is False
    bench.engine._look_after(lambda: NO_LIMITS)
    toy.until(lambda: bench.work.ended(ticket.run), "it to be begun")
    assert value(bench, ticket) == 3


def test_a_broken_run_is_tried_again_by_a_worker_after_a_while_and_not_at_once(bench: Bench) -> None:
    ticket = bench.ticket(Twice(lambda steps: steps.run("observe", int, lambda: 3)))
    with pytest.raises(CallAPersonError):
        bench.run(ticket)
    bench.engine._look_after(lambda: NO_LIMITS)
    assert bench.seen(ticket.run).executor is None
    with bench.database.write() as tx:
        before = (datetime.now(UTC) - AGAIN).isoformat()
        tx.do("update reaper_runs set broken_at = :before where run = :run", before=before, run=ticket.run)
    bench.engine._look_after(lambda: NO_LIMITS)
    toy.until(lambda: bench.work.ended(ticket.run), "it to be tried again")
    assert value(bench, ticket) == 3


def test_a_run_that_somebody_cancelled_in_dbos_is_shown_in_words_and_not_lost(bench: Bench) -> None:
    ticket = bench.ticket(Twice(lambda _steps: None))
    with pytest.raises(CallAPersonError):
        bench.run(ticket)
    with bench.database.write() as tx:
        tx.do("update workflow_status set status = 'CANCELLED' where workflow_uuid = :run", run=ticket.run)
    with pytest.raises(CallAPersonError, match="dbos says that it is CANCELLED"):
        bench.engine.resume(ticket.run)
    assert "CANCELLED" in (bench.seen(ticket.run).broken or "")
    bench.engine.take(ticket.run)
    bench.engine.finish(ticket.run, None)


def test_I7_two_processes_on_one_cluster_one_of_them_is_refused_while_the_other_lives(
    bench: Bench, tmp_path: Path
) -> None:
    book = tmp_path / "book"
    ticket = bench.ticket(book=str(book), gate="kill")
    second = bench.ticket(lambda _steps, _run: "second", cluster=ticket.cluster)
    with process(
        do="run", where=str(bench.where), run=ticket.run, cluster=ticket.cluster, argument=ticket.argument
    ) as child:
        toy.until(lambda: ("kill", child.pid) in toy.lines(book), "the run to reach the gate")
        assert bench.seen(ticket.run).alive
        with pytest.raises(RefusedError, match=f"run {ticket.run} works on {ticket.cluster}"):
            bench.run(second)
        with pytest.raises(RefusedError, match=f"unfinished run {ticket.run}"):
            bench.work.submit(second)
        with (
            pytest.raises(RefusedError, match=f"run {ticket.run} works on"),
            bench.work.exclusive(ticket.cluster, "lab down"),
        ):
            pass
        with pytest.raises(RefusedError, match=f"goes on with {ticket.run}"):
            bench.engine.resume(ticket.run)
        with pytest.raises(RefusedError, match="has begun already"):
            bench.run(ticket)
    with pytest.raises(RefusedError, match=f"run {ticket.run} works on"):
        bench.run(second)  # a dead process's run still has its cluster
    book.with_suffix(".open").touch()
    assert bench.engine.resume(ticket.run) == toy.OUTCOME
    assert bench.run(second) == "second"


def test_a_short_job_has_its_cluster_until_its_process_dies(bench: Bench) -> None:
    ticket = bench.ticket(lambda _steps, _run: "mine now")
    with process(do="job", where=str(bench.where), cluster=ticket.cluster) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert bench.work.holder(ticket.cluster) == "lab down"
        with pytest.raises(RefusedError, match="lab down works on"):
            bench.run(ticket)
        assert ticket.run not in [r.run for r in bench.work.open_runs()], "a refused run is not queued"
    assert bench.run(ticket) == "mine now"
    with bench.work.exclusive(ticket.cluster, "lab down"):
        assert bench.work.holder(ticket.cluster) == "lab down"
    assert bench.work.holder(ticket.cluster) is None


def test_a_process_ends_although_one_of_its_effects_hangs(bench: Bench, tmp_path: Path) -> None:
    book = tmp_path / "book"
    ticket = bench.ticket(book=str(book), gate="snapshot")
    plan = {"run": ticket.run, "cluster": ticket.cluster, "argument": ticket.argument}
    with process(do="leave", where=str(bench.where), **plan) as child:
        assert child.wait(timeout=toy.PATIENCE / 2) == 0, "the gate is open only after PATIENCE"
    book.with_suffix(".open").touch()
    assert bench.engine.resume(ticket.run) == toy.OUTCOME


def test_a_worker_that_is_told_to_stop_lets_a_run_reach_its_end(tmp_path: Path, bench: Bench) -> None:
    book = tmp_path / "book"
    ticket = bench.ticket(book=str(book), gate="snapshot")
    bench.work.submit(ticket)
    with process(do="work", where=str(bench.where)) as child:
        toy.until(lambda: toy.lines(book), "the worker to begin")
        child.terminate()
        book.with_suffix(".open").touch()
        assert child.wait(timeout=toy.PATIENCE) == 0
    assert value(bench, ticket) == toy.OUTCOME


def test_a_worker_that_is_told_to_stop_leaves_a_run_that_waits_for_a_person_to_others(
    tmp_path: Path, bench: Bench
) -> None:
    ticket = bench.ticket(book=str(tmp_path / "book"), asks="kill")
    bench.work.submit(ticket)
    with process(do="work", where=str(bench.where), grace=LONG.total_seconds()) as child:
        toy.until(lambda: bench.seen(ticket.run).waits_for == "a yes", "the worker to reach the question")
        child.terminate()
        assert child.wait(timeout=toy.PATIENCE) == 0, "it waits neither for the answer nor for its grace"
    seen = bench.seen(ticket.run)
    assert (seen.alive, seen.broken) == (False, None)
    bench.work.send(ticket.run, SAID)
    with bench.worker():
        toy.until(lambda: bench.work.ended(ticket.run), "another to go on with it")
    assert value(bench, ticket) == toy.OUTCOME
    assert len(toy.lines(tmp_path / "book")) == len(toy.STEPS)


# ---- messages


def test_a_message_reaches_the_run_that_waits_for_it_and_is_recorded(bench: Bench) -> None:
    got: list[Message | None] = []

    def part(steps: Steps) -> Json:
        steps.waits_for("a person's yes")
        got.append(steps.receive(LONG))
        steps.waits_for("")
        return steps.run("after", int, lambda: 1)

    ticket = bench.ticket(Twice(part))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(bench.run, ticket)
        toy.until(lambda: [r for r in bench.work.open_runs() if r.waits_for == "a person's yes"], "the words")
        bench.work.send(ticket.run, SAID)
        with pytest.raises(CallAPersonError, match="the first time"):
            future.result(timeout=toy.PATIENCE)
    assert bench.engine.resume(ticket.run) == 1
    assert got == [SAID, SAID]


def test_messages_come_in_their_order_and_none_twice(bench: Bench) -> None:
    got: list[Message | None] = []
    texts = ("one", "two")
    ticket = bench.ticket(lambda steps, _: got.extend(steps.receive(ZERO) for _ in range(3)))
    bench.work.submit(ticket)
    for text in texts:
        bench.work.send(ticket.run, Message(op=Op.WAKE, who="bob", when=SAID.when, text=text))
    bench.run(ticket)
    assert [m.text if m else None for m in got] == ["one", "two", None]


def test_a_message_that_was_taken_by_a_step_which_died_before_its_record_is_not_lost(bench: Bench) -> None:
    got: list[Message | None] = []
    ticket = bench.ticket(lambda steps, _: got.extend(steps.receive(ZERO) for _ in range(2)))
    bench.work.submit(ticket)
    bench.work.send(ticket.run, SAID)
    with bench.database.write() as tx:
        assert tx.do("update reaper_messages set delivered = 1 where run = :run", run=ticket.run)
    bench.run(ticket)
    assert got == [SAID, None]


@pytest.mark.timeout(60)  # less than LONG, which is waited for if it goes wrong
def test_the_time_for_a_message_goes_on_while_nobody_follows_the_run(bench: Bench) -> None:
    hour = timedelta(hours=1)
    got: list[Message | None] = []

    def body(steps: Steps, run: str) -> Json:
        with bench.database.write() as tx:  # a process that died in its wait an hour ago
            tx.do(
                "insert into reaper_waits (run, step, until) values (:run, 1, :until)",
                run=run,
                until=(datetime.now(UTC) - hour).isoformat(),
            )
        got.append(steps.receive(LONG))
        return None

    bench.run(bench.ticket(body))
    assert got == [None]


@pytest.mark.parametrize("ended", [True, False], ids=["that has ended", "that never was"])
def test_no_message_is_left_for_a_run(bench: Bench, ended: bool) -> None:
    ticket = bench.ticket(lambda _steps, _run: None)
    if ended:
        bench.run(ticket)
    with pytest.raises(UsageError):
        bench.work.send(ticket.run, SAID)


# ---- admission


def test_the_queue_is_asked_once_per_name_and_worked_oldest_first(bench: Bench) -> None:
    order: list[str] = []
    tickets = [bench.ticket(lambda _steps, run: order.append(run)) for _ in range(5)]
    for ticket in tickets + tickets:
        bench.work.submit(ticket)
    assert bench.seen(tickets[0].run).waits_for == "a worker, in the queue"
    with bench.worker(Limits(in_flight=1)):
        toy.until(lambda: len(order) == 5, "all five")
    assert order == [t.run for t in tickets]


def test_the_lever_stops_what_is_new_in_every_process_that_shares_the_store(bench: Bench) -> None:
    direct, queued = (bench.ticket(lambda _steps, run: run) for _ in range(2))
    Work(bench.database).pause("the network is being changed", "ann")
    try:
        pause = bench.work.paused()
        assert pause is not None
        assert (pause.reason, pause.who) == ("the network is being changed", "ann")
        with pytest.raises(RefusedError, match=r"ann paused new runs .* the network is being changed"):
            bench.run(direct)
        bench.work.submit(queued)
        bench.engine._look_after(lambda: NO_LIMITS)
        assert bench.seen(queued.run).admitted is None
    finally:
        bench.work.unpause("ann")
    assert bench.work.paused() is None
    with bench.worker():
        toy.until(lambda: bench.work.ended(queued.run), "the queued one")
    assert bench.run(direct) == direct.run


@pytest.mark.parametrize(
    ("limits", "in_flight", "of_group", "refused"),
    [
        pytest.param(Limits(), 1000, 1000, None, id="no limit"),
        pytest.param(Limits(in_flight=3), 2, 0, None, id="one below the limit"),
        pytest.param(Limits(in_flight=3), 3, 0, "3 runs are in flight and 3 may be", id="at the limit"),
        pytest.param(Limits(per_group=1), 9, 0, None, id="another group is full"),
        pytest.param(Limits(per_group=1), 9, 1, "1 runs of g are in flight", id="its group is full"),
        pytest.param(Limits(percent=5, of_clusters=100), 4, 0, None, id="below the percentage"),
        pytest.param(Limits(percent=5, of_clusters=100), 5, 0, "5 may be", id="at the percentage"),
        pytest.param(Limits(percent=5, of_clusters=119), 5, 0, "5 may be", id="a percentage is rounded down"),
        pytest.param(Limits(percent=5, of_clusters=3), 0, 0, None, id="a small percentage still lets one run"),
        pytest.param(Limits(in_flight=2, percent=50, of_clusters=10), 2, 0, "2 may be", id="the smaller limit counts"),
    ],
)
def test_limits(limits: Limits, in_flight: int, of_group: int, refused: str | None) -> None:
    seen = Standing(pause=None, busy={}, in_flight=in_flight, per_group=Counter(g=of_group))
    reason = in_the_way(seen, "c", "g", limits)
    assert (reason is None) == (refused is None)
    assert refused is None or refused in str(reason)


def test_a_pause_and_a_busy_cluster_are_named_in_the_refusal() -> None:
    pause = Pause(reason="maintenance", who="ann", since=SAID.when)
    paused = Standing(pause=pause, busy={}, in_flight=0, per_group=Counter())
    busy = Standing(pause=None, busy={"c": "run r1"}, in_flight=1, per_group=Counter())
    assert "ann paused new runs" in str(in_the_way(paused, "c", None, NO_LIMITS))
    assert str(in_the_way(busy, "c", None, NO_LIMITS)).startswith("run r1 works on c")
    assert in_the_way(busy, "d", None, NO_LIMITS) is None


# ---- versions


def test_a_run_of_another_version_is_listed_not_claimed_and_ended_without_replay(bench: Bench, tmp_path: Path) -> None:
    book = tmp_path / "book"
    ticket = bench.ticket(book=str(book), cut=["kill", "after the effect"])
    plan = {"run": ticket.run, "cluster": ticket.cluster, "argument": ticket.argument}
    with process(do="run", where=str(bench.where), version="v0", **plan) as child:
        child.wait(timeout=toy.PATIENCE)
    done = toy.lines(book)
    bench.engine._look_after(lambda: NO_LIMITS)
    seen = bench.seen(ticket.run)
    assert (seen.version, seen.alive) == ("v0", False)
    with pytest.raises(RefusedError, match="begun by reaper v0 and this is v1"):
        bench.engine.resume(ticket.run)
    with pytest.raises(UsageError, match="take it first"):
        bench.engine.finish(ticket.run, None)
    taken = bench.engine.take(ticket.run)
    assert (taken.argument, taken.version) == (ticket.argument, "v0")
    taken.own()
    with pytest.raises(RefusedError):
        bench.engine.take(ticket.run)
    bench.engine.finish(ticket.run, CallAPersonError("ended by hand"))
    with pytest.raises(CallAPersonError, match="ended by hand"):
        bench.run(ticket)
    assert bench.work.holder(ticket.cluster) is None
    with pytest.raises(OwnershipLostError):
        taken.own()
    assert toy.lines(book) == done, "nothing of it was replayed"


# ---- the store itself


@pytest.mark.parametrize(
    "kind", ["a directory below a file", "a file that is no database", "a server that is not there"]
)
def test_a_store_that_cannot_be_opened_is_the_request_s_mistake_and_is_named(tmp_path: Path, kind: str) -> None:
    where: Path | str = tmp_path
    match kind:
        case "a directory below a file":
            (tmp_path / "file").touch()
            where = tmp_path / "file" / "store"
        case "a file that is no database":
            (tmp_path / "durable.db").write_text("no database" * 1000)
        case _:
            where = "postgresql://reaper:secret@127.0.0.1:1/reaper"
    with pytest.raises(UsageError, match=r"the store .* cannot be") as raised:
        Database(where)
    assert "secret" not in str(raised.value)


# ---- what is taken from dbos


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._mark),)


@pytest.mark.parametrize(
    ("table", "column", "also"),
    [
        pytest.param("operation_outputs", "output", "operation_outputs", id="the result of a step"),
        pytest.param("workflow_input", "inputs", "workflow_status", id="the arguments of a run"),
    ],
)
def test_a_row_that_was_edited_to_pickle_runs_no_code(
    bench: Bench, tmp_path: Path, table: str, column: str, also: str
) -> None:
    mark = tmp_path / "ran"
    evil = base64.b64encode(pickle.dumps(Payload(mark))).decode()
    ticket = bench.ticket(Twice(lambda steps: steps.run("observe", int, lambda: 1)))
    with pytest.raises(CallAPersonError):
        bench.run(ticket)
    with bench.database.write() as tx:
        assert tx.do(f"update {table} set {column} = :evil where workflow_uuid = :run", evil=evil, run=ticket.run)
        assert tx.do(f"update {also} set serialization = 'py_pickle' where workflow_uuid = :run", run=ticket.run)
    with pytest.raises(CallAPersonError, match="a pickled row is refused"):
        bench.engine.resume(ticket.run)
    assert not mark.exists()
    pickle.loads(base64.b64decode(evil))
    assert mark.exists(), "the payload works where it is let in"
    bench.engine.take(ticket.run)
    bench.engine.finish(ticket.run, None)


def test_nothing_in_the_store_is_pickled(bench: Bench) -> None:
    bench.run(bench.ticket(lambda steps, _: steps.run("observe", int, lambda: 1)))
    with bench.database.read() as tx:
        kinds = {row.serialization for row in tx.rows("select serialization from workflow_status")}
        kinds |= {
            row.serialization
            for row in tx.rows(
                "select serialization from operation_outputs where workflow_uuid in"
                " (select workflow_uuid from workflow_status where serialization <> 'py_pickle')"
                " and serialization <> 'py_pickle'"
            )
        }
        edited = tx.rows("select run from reaper_runs where ended is null")
    assert "portable_json" in kinds
    assert not edited


def test_dbos_listens_nowhere_and_logs_where_everybody_does(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("dbos")
    monkeypatch.setattr(log, "handlers", [])  # a command that ran in this process before may have given it some
    monkeypatch.setattr(log, "propagate", True)
    bench.run(bench.ticket(lambda steps, _: steps.run("observe", int, lambda: 1)))
    assert [c for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
    assert (log.handlers, log.propagate, log.level) == ([], True, logging.WARNING)


@pytest.mark.parametrize(("module", "name", "parameters"), library.PRIVATE, ids=lambda v: v if type(v) is str else "")
def test_what_dbos_does_not_promise_is_as_it_was_read(
    module: str, name: str, parameters: tuple[str, ...] | None
) -> None:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
    if parameters is None:
        return
    if inspect.isclass(found):
        found = found.__init__
    names = [n for n in inspect.signature(inspect.unwrap(found)).parameters if n != "self" or "self" in parameters]
    assert tuple(names) == parameters


def test_the_table_and_the_fields_of_dbos_that_are_used_exist(bench: Bench) -> None:
    with bench.database.read() as tx:
        tx.rows(f"select {', '.join(library.COLUMNS)} from {library.TABLE} limit 1")
    from dbos._dbos import _get_dbos_instance

    for field in library.INSTANCE_FIELDS:
        assert getattr(_get_dbos_instance(), field) is not None


def test_only_one_module_imports_dbos() -> None:
    package = Path(library.__file__).parents[2]
    importers = [
        p.name for p in package.rglob("*.py") if "import dbos" in p.read_text() or "from dbos" in p.read_text()
    ]
    assert importers == ["library.py"]
