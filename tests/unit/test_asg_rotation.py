"""A rotation over a simulated group: never below the floor, whatever happens and wherever the process dies."""

import random
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from reaper.domain.errors import (
    AbortedError,
    CallAPersonError,
    OwnershipLostError,
    RefusedError,
    TryAgainError,
)
from reaper.domain.groups import Draining, Floor, GroupPlan, GroupPolicy, GroupVerdict, MemberState, Order, Transition
from reaper.domain.verdict import RunState
from reaper.planner.groups import plan_group
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Faults, When
from reaper.testing.groups import GroupKnobs, GroupRecord, MemoryGroup, MemoryGroupJournal
from reaper.testing.people import FakeInterrupt
from reaper.testing.steps import Diary
from reaper.workflow.groups import GroupRotation, GroupWorld
from reaper.workflow.groups_unreplayed import give_back

MINUTE = timedelta(minutes=1)
RUN = "run-1"


class PowerCutError(BaseException):
    """The process is gone."""


@dataclass
class Stage:
    """A simulated group and a run over it."""

    size: int = 6
    floor: Floor = field(default_factory=lambda: Floor(count=5))
    clock: FakeClock = field(default_factory=FakeClock)
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.group = MemoryGroup(self.clock, self.faults, size=self.size)
        self.interrupt = FakeInterrupt(self.faults)
        self.journal = MemoryGroupJournal(self.faults)
        self.lever: str | None = None
        self.world = GroupWorld(
            groups=self.group,
            clock=self.clock,
            interrupt=self.interrupt,
            journal=self.journal,
            paused=lambda: self.lever,
        )
        self.diary = Diary(self.faults, self.clock)

    def plan(self, seed: int = 7, **policy: object) -> GroupPlan:
        limits = GroupPolicy(floor=self.floor, **policy)  # type: ignore[arg-type]  # a test's words
        return plan_group(self.group.view("web"), limits, run=RUN, seed=seed)

    def follow(self, plan: GroupPlan) -> GroupVerdict:
        return GroupRotation(self.world, plan, self.diary.follow()).execute()

    def run(self, **policy: object) -> GroupVerdict:
        return self.follow(self.plan(**policy))

    @property
    def record(self) -> GroupRecord:
        return self.journal.runs[RUN]

    @property
    def names(self) -> list[str]:
        return sorted((m.short for m in self.group.members), key=lambda name: int(name[2:]))

    def sound(self) -> bool:
        """As many as are wanted, all of them serve, nobody is left half-way."""
        assert len(self.group.members) == self.group.serving == self.group.desired
        return True


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("draining", list(Draining))
def test_every_member_is_replaced_one_after_the_other(stage: Stage, draining: Draining) -> None:
    verdict = stage.run(draining=draining)
    assert verdict.good
    assert stage.names == [f"i-{n}" for n in range(7, 13)]
    assert [r.victim.short for r in verdict.replaced] == [f"i-{n}" for n in range(1, 7)]
    assert [r.successor.short for r in verdict.replaced if r.successor] == stage.names
    assert all((r.drained is not None) == (draining is Draining.REAPER) for r in verdict.replaced)
    assert stage.group.fewest == verdict.fewest == 5
    assert stage.group.most_missing_per_zone == 1
    assert stage.record.state is RunState.GOOD
    assert stage.sound()


def test_a_victim_has_no_connection_left_when_it_is_terminated(stage: Stage) -> None:
    states = []
    stage.faults.before("terminate", "*", lambda: states.append(stage.group._state(_next(stage))), times=100)
    stage.run()
    assert set(states) == {"unused"}


def _next(stage: Stage) -> object:
    return stage.group.n(len(stage.group.terminated) + 1)


def test_one_is_drawn_and_killed_with_the_same_guards(stage: Stage) -> None:
    verdict = stage.run(order=Order.RANDOM, at_most=1)
    assert verdict.good
    assert len(verdict.replaced) == 1
    (verdicts,) = stage.record.guards
    assert {v.guard for v in verdicts} == {"group", "victim", "processes", "hooks", "floor", "targets", "zone"}


def test_lifecycle_hooks_are_waited_for(stage: Stage) -> None:
    stage.group.knobs.hooks = {Transition.LAUNCHING: 4 * MINUTE, Transition.TERMINATING: 6 * MINUTE}
    verdict = stage.run()
    assert verdict.good
    assert min(r.took for r in verdict.replaced) > 6 * MINUTE
    assert stage.group.fewest == 5
    assert any("in a lifecycle hook" in words for words in stage.diary.words)
    assert stage.sound()


def test_a_group_at_its_floor_is_not_touched(stage: Stage) -> None:
    stage.floor = Floor(percent=100)
    with pytest.raises(RefusedError, match="floor: 5 would serve without i-1, 6 have to"):
        stage.run()
    assert stage.group.terminated == []
    assert stage.record.state is RunState.REFUSED
    assert stage.record.message.startswith("0 of 6 were replaced")
    assert stage.sound()


def test_what_passes_by_itself_is_waited_for(stage: Stage) -> None:
    """Somebody else's instance is being replaced when the run begins."""
    stage.group.lose(stage.group.n(6))
    verdict = stage.run(at_most=1)
    assert verdict.good
    assert stage.group.fewest == 5
    assert any("floor: " in w or "would serve" in w for w in stage.diary.words)


def test_a_member_that_dies_during_the_run_makes_the_run_wait(stage: Stage) -> None:
    plan = stage.plan()
    lost = []

    def die() -> None:
        lost.append(stage.group.serving - 1)
        stage.group.lose(stage.group.n(6))

    stage.faults.before("terminate", "i-2", die)
    verdict = stage.follow(plan)
    assert verdict.good
    assert stage.names == [f"i-{n}" for n in range(7, 13)]
    assert stage.group.fewest == min(lost[0], 4)  # what died by itself; reaper took nobody more
    assert stage.sound()


def test_a_victim_that_left_by_itself_is_passed_over(stage: Stage) -> None:
    plan = stage.plan()
    stage.faults.before("terminate", "i-1", lambda: stage.group.lose(stage.group.n(3)))
    verdict = stage.follow(plan)
    assert verdict.good
    assert [v.short for v in verdict.left] == ["i-3"]
    assert stage.group.n(3) not in stage.group.terminated


def test_a_successor_that_never_becomes_healthy_ends_the_run_with_a_fault(stage: Stage) -> None:
    stage.group.knobs.becomes_healthy = False
    verdict = stage.run()
    assert not verdict.good
    assert "i-1 got no healthy successor within 30 minutes (i-7 is in service)" in verdict.faults[0]
    assert [i.short for i in stage.group.terminated] == ["i-1"]
    assert stage.group.fewest == 5
    assert stage.record.state is RunState.BAD


def test_a_group_that_launches_nobody_ends_the_run_with_a_fault(stage: Stage) -> None:
    stage.group.knobs.launches = False
    verdict = stage.run()
    assert "nobody was launched" in verdict.faults[0]
    assert len(stage.group.terminated) == 1


def test_a_group_that_becomes_smaller_needs_no_successor(stage: Stage) -> None:
    stage.faults.before("terminate", "i-1", lambda: setattr(stage.group, "desired", 5))
    stage.floor = Floor(percent=80)
    verdict = stage.run(at_most=2)
    assert verdict.good
    assert verdict.replaced[0].successor is None
    assert verdict.replaced[1].successor is not None


# ---- stopped by a person, or by what is found


def test_a_run_is_stopped_between_two_instances_and_the_group_is_whole(stage: Stage) -> None:
    stage.faults.before("terminate", "i-2", lambda: setattr(stage.interrupt, "wished", True))
    with pytest.raises(AbortedError):
        stage.run()
    assert [i.short for i in stage.group.terminated] == ["i-1", "i-2"]
    assert stage.sound()
    assert stage.record.state is RunState.UNDONE
    assert stage.record.message.startswith("2 of 6 were replaced")


def test_a_run_that_is_stopped_while_it_drains_puts_the_victim_back(stage: Stage) -> None:
    stage.faults.before("drain", "i-2", lambda: setattr(stage.interrupt, "wished", True))
    with pytest.raises(AbortedError):
        stage.run()
    stage.clock.sleep(5 * MINUTE)
    assert [i.short for i in stage.group.terminated] == ["i-1"]
    assert "i-2" in stage.names
    assert stage.sound()


@pytest.mark.parametrize("method", ["view", "drain"])
def test_while_the_lever_is_pulled_nobody_dies_and_then_the_run_goes_on(stage: Stage, method: str) -> None:
    """Pulled before the first look, or while the victim drains: it stays drained, and is judged again."""
    killed = []

    def pull() -> None:
        stage.lever = "paused by kim"
        stage.clock.after(20 * MINUTE, let_go)

    def let_go() -> None:
        killed.append(len(stage.group.terminated))
        stage.lever = None

    plan = stage.plan(at_most=2)
    stage.faults.before(method, "*", pull)
    assert stage.follow(plan).good
    assert killed == [0]
    assert "the lever: paused by kim" in stage.diary.words
    assert stage.group.fewest == 5
    assert stage.sound()


def test_a_run_that_the_lever_holds_can_be_stopped(stage: Stage) -> None:
    stage.lever = "paused by kim"
    stage.clock.after(MINUTE, lambda: setattr(stage.interrupt, "wished", True))
    with pytest.raises(AbortedError):
        stage.run()
    assert stage.group.terminated == []
    assert stage.record.state is RunState.UNDONE


def test_a_wish_to_stop_that_comes_after_the_kill_of_a_dead_process_puts_nobody_back(stage: Stage) -> None:
    """The kill was done and its record lost; who goes on finds the victim leaving, and waits for its successor."""
    plan = stage.plan(at_most=1)

    def cut() -> None:
        if stage.group.terminated:
            raise PowerCutError

    stage.faults.power = cut
    with pytest.raises(PowerCutError):
        stage.follow(plan)
    stage.faults.power = None
    stage.interrupt.wished = True
    stage.lever = "paused by kim"
    assert stage.follow(plan).good
    assert "undrain" not in {method for method, _ in stage.faults.calls}
    assert stage.sound()


CHANGED_MINDS = {
    "it is protected": lambda g: g.change(g.n(1), protected=True),
    "it opts out": lambda g: g.change(g.n(1), tags=(("reaper:opt-out", ""),)),
    "a refresh begins": lambda g: setattr(g, "refresh", "1 % done"),
    "another dies": lambda g: g.lose(g.n(4)),
}


@pytest.mark.parametrize("what", list(CHANGED_MINDS))
def test_what_changes_while_a_victim_drains_saves_it(stage: Stage, what: str) -> None:
    """The guards are asked again right before the kill, and the victim goes back to work."""
    stage.faults.before("drain", "i-1", lambda: stage.clock.after(MINUTE / 4, lambda: CHANGED_MINDS[what](stage.group)))
    with pytest.raises(RefusedError, match="i-1 was not touched"):
        stage.run()
    stage.clock.sleep(5 * MINUTE)
    assert stage.group.terminated == []
    assert stage.sound()


def test_a_victim_that_does_not_drain_is_put_back(stage: Stage) -> None:
    plan = stage.plan()
    stage.faults.before("drain", "i-1", lambda: setattr(stage.group.knobs, "draining", timedelta(hours=1)))
    with pytest.raises(TryAgainError, match="was not drained within 10 minutes"):
        stage.follow(plan)
    stage.clock.sleep(5 * MINUTE)
    assert stage.sound()


def test_a_victim_that_cannot_be_put_back_calls_a_person(stage: Stage) -> None:
    stage.faults.before("drain", "i-1", lambda: setattr(stage.interrupt, "wished", True))
    stage.faults.fail("undrain", "i-1", times=1000)
    with pytest.raises(CallAPersonError, match=r"could not be put back.*Register it by hand"):
        stage.run()
    assert stage.record.state is RunState.STUCK


# ---- faults and power cuts


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("method", ["terminate", "drain", "view"])
def test_a_call_that_fails_or_whose_answer_is_lost_kills_nobody_twice(stage: Stage, method: str, when: When) -> None:
    plan = stage.plan(at_most=2)
    stage.faults.fail(method, times=1, when=when, error=TryAgainError("throttled"))
    try:
        assert stage.follow(plan).good
    except TryAgainError:
        stage.clock.sleep(5 * MINUTE)
    assert stage.group.fewest >= 5
    assert len(stage.group.terminated) == len(set(stage.group.terminated))
    assert stage.sound()


def _points(plan_of: dict[str, object]) -> int:
    """How many moments a whole run has at which the power may be cut."""
    stage = Stage()
    seen = 0

    def tick() -> None:
        nonlocal seen
        seen += 1

    plan = stage.plan(**plan_of)
    stage.faults.power = tick
    stage.follow(plan)
    return seen


@pytest.mark.parametrize("draining", list(Draining))
def test_I8_a_process_that_dies_anywhere_is_followed_by_one_that_ends_the_run(draining: Draining) -> None:
    """Cut at every moment of the first two replacements; the run ends as one that was never cut."""
    limits: dict[str, object] = {"at_most": 2, "draining": draining}
    for point in range(1, _points(limits) + 1):
        stage = Stage()
        plan = stage.plan(**limits)
        left = point

        def tick() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCutError

        stage.faults.power = tick
        try:
            verdict = stage.follow(plan)
        except PowerCutError:
            stage.faults.power = None
            stage.clock.sleep(MINUTE)
            verdict = stage.follow(plan)
        assert verdict.good, f"cut at {point}: {verdict.faults}"
        assert [i.short for i in stage.group.terminated] == ["i-1", "i-2"], f"cut at {point}"
        assert stage.group.fewest == 5, f"cut at {point}"
        assert stage.names == ["i-3", "i-4", "i-5", "i-6", "i-7", "i-8"], f"cut at {point}"
        assert stage.sound()


def test_a_worker_that_lost_the_run_does_nothing_more(stage: Stage) -> None:
    plan = stage.plan()
    stage.faults.before("drain", "i-1", lambda: stage.diary.follow())
    with pytest.raises(OwnershipLostError):
        stage.follow(plan)
    assert stage.group.terminated == []


def test_what_a_run_that_nobody_can_replay_drained_is_given_back(stage: Stage) -> None:
    plan = stage.plan()
    stage.group.drain("web", stage.group.n(1))
    stage.clock.sleep(5 * MINUTE)
    give_back(stage.world, plan)
    stage.clock.sleep(5 * MINUTE)
    assert stage.sound()


@pytest.mark.parametrize("seed", range(60))
def test_never_below_the_floor_by_reapers_doing_whatever_happens(seed: int) -> None:
    """Random groups, floors, durations, throttling and power cuts: reaper never takes one too many."""
    dice = random.Random(seed)
    size = dice.randint(3, 12)
    stage = Stage(
        size=size, floor=Floor(count=size - 1) if dice.random() < 0.5 else Floor(percent=dice.choice([50, 70]))
    )
    seconds = lambda low, high: timedelta(seconds=dice.randint(low, high))  # noqa: E731 - a word for a draw
    stage.group.knobs = GroupKnobs(
        launch=seconds(1, 90),
        boot=seconds(1, 200),
        health=seconds(1, 60),
        draining=seconds(0, 120),
        shutdown=seconds(1, 300),
        hooks={when: seconds(1, 300) for when in Transition if dice.random() < 0.3},
    )
    plan = stage.plan(seed=seed, order=dice.choice(list(Order)), draining=dice.choice(list(Draining)), at_most=4)
    floor = stage.floor.of(size)

    def look() -> None:
        if dice.random() < 0.1:
            raise PowerCutError

    for method in ("view", "drain", "terminate", "undrain"):
        for when in When:
            if dice.random() < 0.3:
                stage.faults.fail(method, times=dice.randint(1, 2), when=when, error=TryAgainError("throttled"))
    for process in range(7):
        stage.faults.power = look if process < 6 else None
        try:
            stage.follow(plan)
        except PowerCutError:
            stage.faults.power = None
            stage.clock.sleep(seconds(1, 600))
        except (TryAgainError, RefusedError):
            break  # its record says how it ended
        else:
            break
    stage.faults.power = None
    stage.clock.sleep(timedelta(hours=1))
    assert stage.group.fewest >= floor
    assert len(stage.group.terminated) == len(set(stage.group.terminated))
    assert all(m.state is MemberState.IN_SERVICE for m in stage.group.members.values())
    assert stage.sound()
