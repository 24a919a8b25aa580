"""What happened, as it is stored and read again; and what a person's order in the store does to a run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from rotations import Stage

from reaper.adapters.interrupt import SignalInterrupt, StoreInterrupt
from reaper.adapters.store.admission import Ticket, admit
from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunRecord, RunStore, encode
from reaper.adapters.store.lease import Lease, take_lease
from reaper.adapters.store.work import Work
from reaper.domain.errors import AbortedError, UsageError
from reaper.domain.plan import Plan
from reaper.domain.policy import FailoverBy, KillMode, Loss
from reaper.domain.verdict import (
    ClientCost,
    Event,
    EventKind,
    GuardVerdict,
    Part,
    Ruling,
    RunState,
    RunVerdict,
)
from reaper.workflow.steps import Message, Op

ABORT = Message(op=Op.ABORT, who="ann", when="2026-11-24T10:00:00+00:00", text="not today")
MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Desk:
    """A store in a directory, and who acts on it besides the journal."""

    place: Place
    journal: RunStore
    work: Work

    def plan(self, run: str = "lab-1", cluster: str = "lab", **policy: object) -> Plan:
        return replace(Stage().plan(**policy), run=run, cluster=cluster)  # type: ignore[arg-type]  # a builder trusts its tests

    def born(self, run: str = "lab-1", cluster: str = "lab") -> Plan:
        plan = self.plan(run, cluster)
        self.journal.begin(plan)
        return plan

    def submit(self, plan: Plan) -> None:
        self.work.submit(
            Ticket(run=plan.run, cluster=plan.cluster, group=None, argument=json.loads(encode(Plan, plan)))
        )

    @contextmanager
    def followed(self, plan: Plan) -> Iterator[Lease]:
        """A process that lives inside the block begins a run."""
        self.submit(plan)
        lease = take_lease(self.place.database, "test", "v1")
        with self.place.database.write() as tx:
            admit(tx, plan.run, lease.executor, "v1")
        try:
            yield lease
        finally:
            lease.release()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    place = Place(tmp_path)
    yield Desk(place, RunStore(place), Work(place.database))
    place.database.close()


def only(records: tuple[RunRecord, ...]) -> RunRecord:
    assert len(records) == 1
    return records[0]


# ---- what is written is read


def test_a_plan_with_every_choice_taken_is_read_as_it_was_written(desk: Desk) -> None:
    plan = desk.plan(
        mode=KillMode.DRAIN,
        failover=FailoverBy.OBSERVE,
        loss=Loss.ACCEPTED,
        outage_budget=1.5 * MS,
        approval_within=timedelta(days=2),
        quarantine=timedelta(hours=2),
        probe_rate=12.5,
    )
    desk.journal.begin(plan)
    assert only(desk.journal.runs()).plan == plan


def test_a_run_that_has_ended_has_its_verdict_its_guards_and_its_timeline(desk: Desk) -> None:
    plan = desk.born()
    asked = (
        (GuardVerdict(guard="lag", ruling=Ruling.GO, reason="0 s", evidence=("n2: 0 s", "n3: 0 s")),),
        (GuardVerdict(guard="lag", ruling=Ruling.REFUSE, reason="9 s"),),
    )
    events = tuple(
        Event(step=f"step {n}", kind=EventKind.DONE, detail="ü", at_ns=100 - n, wall="2026-11-24", took_ns=n)
        for n in range(12)
    )
    verdict = RunVerdict(
        faults=("slow",),
        outage=42 * MS,
        clients=(ClientCost(client=0, outage=42 * MS), ClientCost(client=1, outage=None)),
        parts=(Part(name="kill", took=3 * MS),),
        ledger=None,
        copies_before=3,
        copies_after=3,
        heir="local:lab/n4",
    )
    for verdicts in asked:
        desk.journal.guards(plan.run, verdicts)
    for event in events:
        desk.journal.event(plan.run, event)
    desk.journal.end(plan.run, RunState.BAD, verdict, "")
    record = desk.journal.run(plan.run)
    assert (record.state, record.verdict, record.interrupted) == (RunState.BAD, verdict, False)
    assert record.ended is not None
    assert record.ended >= record.began
    assert desk.journal.verdicts(plan.run) == asked
    assert desk.journal.timeline(plan.run) == events, "in the order in which they were said, not of their clocks"


def test_a_run_that_is_begun_again_is_the_one_that_was_born(desk: Desk) -> None:
    """A process that replays a run says so again."""
    plan = desk.born()
    before = desk.journal.run(plan.run)
    desk.journal.begin(replace(plan, why="another reason"))
    assert desk.journal.run(plan.run) == before


def test_the_last_word_on_a_run_counts(desk: Desk) -> None:
    plan = desk.born()
    desk.journal.end(plan.run, RunState.STUCK, None, "no heir")
    desk.journal.end(plan.run, RunState.UNDONE, None, "removed by hand")
    record = desk.journal.run(plan.run)
    assert (record.state, record.message) == (RunState.UNDONE, "removed by hand")


# ---- finding runs


def test_runs_are_listed_newest_first_of_one_cluster_and_no_more_than_asked(desk: Desk) -> None:
    for run, cluster in (("a-1", "a"), ("b-1", "b"), ("a-2", "a"), ("a-3", "a")):
        desk.born(run, cluster)
    listed = [r.run for r in desk.journal.runs("a", most=2)]
    assert listed == ["a-3", "a-2"]
    assert len(desk.journal.runs()) == 4
    assert desk.journal.runs("c") == ()


NAMES = [
    pytest.param("lab-2026", "lab-2026", id="a name that is also the beginning of others"),
    pytest.param("lab-2026-2", "lab-2026-2", id="a whole name"),
    pytest.param("o", "other-1", id="the beginning of one"),
]


@pytest.mark.parametrize(("asked", "found"), NAMES)
def test_a_run_is_found_by_its_name_or_an_unambiguous_beginning(desk: Desk, asked: str, found: str) -> None:
    for run in ("lab-2026-2", "lab-2026", *(f"lab-2026-{n}" for n in range(3, 12)), "other-1"):
        desk.born(run)
    assert desk.journal.run(asked).run == found


AMBIGUOUS = [
    pytest.param("lab-", "begins 2 runs: lab-1, lab-2", id="the beginning of several names them"),
    pytest.param("lab_1", "there is no run 'lab_1'", id="an underscore stands for itself"),
    pytest.param("%", "there is no run '%'", id="a percent sign stands for itself"),
]


@pytest.mark.parametrize(("asked", "said"), AMBIGUOUS)
def test_a_run_that_cannot_be_told_is_a_sentence(desk: Desk, asked: str, said: str) -> None:
    for run in ("lab-1", "lab-2"):
        desk.born(run)
    with pytest.raises(UsageError, match=said):
        desk.journal.run(asked)


def test_who_only_looks_makes_no_file(tmp_path: Path) -> None:
    journal = RunStore(Place(tmp_path / "none"))
    assert journal.runs() == ()
    with pytest.raises(UsageError, match="there is no run"):
        journal.run("lab-1")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_another_version_is_a_sentence_that_names_the_run(desk: Desk) -> None:
    desk.born()
    with desk.place.database.write() as tx:
        tx.do("update reaper_journal set plan = :plan", plan='{"run": "lab-1"}')
    with pytest.raises(UsageError, match="lab-1 was written by another version"):
        desk.journal.runs()


# ---- who follows it


def test_a_queued_run_is_known_and_not_interrupted(desk: Desk) -> None:
    plan = desk.plan()
    desk.submit(plan)
    record = only(desk.journal.runs())
    assert record == desk.journal.run("lab")
    assert (record.queued, record.interrupted, record.plan) == (True, False, plan)
    assert record.follower is not None
    assert record.follower.waits_for == "a worker, in the queue"


def test_a_queued_run_is_withdrawn_and_one_that_has_begun_is_not(desk: Desk) -> None:
    queued, begun = desk.plan("a-1", "a"), desk.plan("b-1", "b")
    desk.submit(queued)
    with desk.followed(begun):
        assert desk.work.withdraw(queued.run, "not today")
        assert not desk.work.withdraw(begun.run, "not today")
        assert [r.run for r in desk.work.open_runs()] == [begun.run]
    ended = desk.work.ended(queued.run)
    assert ended is not None
    assert isinstance(ended.error, AbortedError)
    assert desk.journal.runs("a") == (), "it is no run any more, and never was one that the journal knew"


@pytest.mark.parametrize("born", [pytest.param(True, id="born"), pytest.param(False, id="not yet born")])
def test_a_run_is_interrupted_from_the_death_of_its_process_on(desk: Desk, born: bool) -> None:
    """Also if it died between its admission and the first word in the journal: it has its cluster."""
    plan = desk.plan()
    with desk.followed(plan) as lease:
        if born:
            desk.journal.begin(plan)
        living = only(desk.journal.runs())
        assert living.follower is not None
        assert (living.interrupted, living.queued, living.follower.executor) == (False, False, lease.executor)
    dead = desk.journal.run(plan.run)
    assert (dead.interrupted, dead.queued, dead.plan) == (True, False, plan)


# ---- an order that lies in the store


class Ear:
    """What a run hears: the signals of its process, and the store, at a time that the test tells."""

    def __init__(self, desk: Desk, run: str) -> None:
        self.seconds = 0.0
        self.asked = 0
        self.signals = SignalInterrupt()
        self.interrupt = StoreInterrupt(self.signals, lambda: self._ask(desk, run), lambda: self.seconds)

    def _ask(self, desk: Desk, run: str) -> Message | None:
        self.asked += 1
        return desk.work.told_to_stop(run)


def test_an_abort_in_the_store_stops_the_run_and_says_who_when_and_why(desk: Desk) -> None:
    plan = desk.plan()
    with desk.followed(plan):
        ear = Ear(desk, plan.run)
        ear.interrupt.check()
        desk.work.send(plan.run, Message(op=Op.WAKE, who="bob", when=ABORT.when, text=""))
        desk.work.send(plan.run, ABORT)
        ear.interrupt.check()
        assert ear.asked == 1, "not twice within a second"
        ear.seconds = 1
        with pytest.raises(AbortedError, match=r"aborted by ann at 2026-11-24T10:00:00\+00:00: not today"):
            ear.interrupt.check()


def test_an_abort_in_the_last_second_before_the_kill_is_heard(desk: Desk) -> None:
    plan = desk.plan()
    with desk.followed(plan):
        ear = Ear(desk, plan.run)
        ear.interrupt.check()
        desk.work.send(plan.run, ABORT)
        with pytest.raises(AbortedError):
            ear.interrupt.cross()


@pytest.mark.parametrize("how", ["cross", "crossed"])
def test_after_the_kill_nothing_stops_the_run(desk: Desk, how: str) -> None:
    plan = desk.plan()
    with desk.followed(plan):
        ear = Ear(desk, plan.run)
        getattr(ear.interrupt, how)()
        desk.work.send(plan.run, ABORT)
        ear.signals.wished.set()
        ear.seconds = 10
        ear.interrupt.check()
