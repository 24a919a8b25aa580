"""A few hundred seeded runs and what befalls them; `make simulate SEEDS=10000` makes more."""

import random
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta

import pytest
from invariants import Ending, Witness, broken
from misfortunes import ClockJump, Death, LagSpike, Misfortune, Moment, SlowSnapshot, Throttled, draw
from rotations import MS, SECOND, Stage
from simulation import simulate, simulated

from reaper.domain.errors import ReaperError, TryAgainError
from reaper.domain.verdict import RunState
from reaper.testing.turns import TurnClock

SEEDS = 400
PER_BATCH = 50


@pytest.mark.parametrize("first", range(0, SEEDS, PER_BATCH))
def test_no_seed_breaks_an_invariant(first: int) -> None:
    faults = {seed: simulate(seed) for seed in range(first, first + PER_BATCH)}
    assert {seed: found for seed, found in faults.items() if found} == {}


def test_the_same_seed_is_the_same_run_again_call_by_call() -> None:
    """Also in the order in which threads came to their calls, so that a power cut hits the same one."""

    def trace(seed: int) -> list[str]:
        simulation, found = simulated(seed)
        faults, journal = simulation.stage.fleet.faults, simulation.stage.fleet.journal
        return [*map(str, faults.calls), *map(str, journal.runs.values()), *found]

    for seed in range(1000, 1025):
        assert trace(seed) == trace(seed), f"seed {seed}"


def test_dice_draw_everything_that_can_befall_a_run() -> None:
    kinds = {type(m) for seed in range(300) for m in draw(random.Random(seed), 3)}
    assert {k.__name__ for k in kinds} == {
        "CallFails",
        "ClockJump",
        "Death",
        "LagSpike",
        "SlowSnapshot",
        "Throttled",
        "Wish",
    }


def ended(stage: Stage, *misfortunes: Misfortune) -> tuple[RunState, str, list[str]]:
    """The state of a run that these befell, what was said, and what the invariants find."""
    plan = stage.plan(build_within=60 * SECOND)
    witness = Witness(stage, plan)
    for misfortune in misfortunes:
        misfortune.befall(stage)
    verdict, said = None, ""
    try:
        verdict = stage.follow(plan)
    except ReaperError as error:
        said = str(error)
    ending = Ending(witness=witness, verdict=verdict, said=said, promoted_unasked=False)
    return stage.record.state, said, broken(ending)


LAUNCH = Moment(call="launch")
COMMON = [
    ("nothing befalls it", (), RunState.GOOD),
    ("the copy is slow", (SlowSnapshot(takes=50 * SECOND),), RunState.GOOD),
    ("the copy takes longer than it may", (SlowSnapshot(takes=70 * SECOND),), RunState.UNDONE),
    ("the clock is set back", (ClockJump(by=timedelta(hours=-3), at=LAUNCH),), RunState.GOOD),
    ("the clock is set forward", (ClockJump(by=timedelta(hours=26), at=LAUNCH),), RunState.GOOD),
    (
        "the provider throttles the launch",
        (Throttled(methods=("launch",), since=Moment(), lasts=30 * SECOND, most=9),),
        RunState.UNDONE,
    ),
    (
        "a replica lags while it is prepared and when it is to be killed",
        (LagSpike(who="n2", since=LAUNCH, lasts=20 * SECOND, receive=timedelta(0), apply=8 * SECOND),),
        RunState.REFUSED,
    ),
    (
        "a replica lags for a moment",
        (LagSpike(who="n2", since=LAUNCH, lasts=500 * MS, receive=50 * MS, apply=100 * MS),),
        RunState.GOOD,
    ),
    ("its replacement dies", (Death(who="heir", at=Moment(call="pages_loaded")),), RunState.UNDONE),
    ("a replica dies while it is prepared", (Death(who="n3", at=LAUNCH),), RunState.REFUSED),
]


@pytest.mark.parametrize(("misfortunes", "state"), [case[1:] for case in COMMON], ids=[case[0] for case in COMMON])
def test_a_run_ends_as_its_misfortunes_demand(misfortunes: tuple[Misfortune, ...], state: RunState) -> None:
    assert ended(Stage(), *misfortunes)[::2] == (state, [])


def test_I4_a_master_that_dies_by_itself_while_it_is_prepared_is_left_to_a_person() -> None:
    """Nobody is promoted behind anybody's back, and what could not be undone without a master is said."""
    stage = Stage()
    state, said, found = ended(stage, Death(who="n1", at=LAUNCH))
    assert stage.never_promoted()
    assert state is RunState.STUCK
    assert "lab/n1" in said
    assert found == []


def test_the_invariants_notice_what_a_run_broke() -> None:
    """A judge who finds nothing proves nothing."""
    stage = Stage()
    plan = stage.plan()
    witness = Witness(stage, plan)
    verdict = stage.follow(plan)
    ending = Ending(witness=witness, verdict=verdict, said="", promoted_unasked=False)
    assert broken(ending) == []
    n4 = stage.n("n4")
    n4.log = [t for t in n4.log if t.row != (0, 5)]
    n4.tables["reaper.marker"][("run-1",)] += 1
    stage.fleet.most_writable = 2
    stage.fleet.fewest_copies["lab"] = 2
    stage.record.state = RunState.RUNNING
    found = broken(replace(ending, promoted_unasked=True))
    assert {f.partition(":")[0] for f in found} == {"I1", "I2", "I3", "I4", "I12"}
    stage.record.state = RunState.GOOD
    stage.n("n2").end("by a test")
    stage.n("n2").boot()
    assert {"I11", "I8"} <= {f.partition(":")[0] for f in broken(ending)}


def test_threads_take_turns_as_the_dice_say_and_time_passes_only_when_all_wait() -> None:
    def orders(seed: int) -> tuple[list[int], int]:
        clock, seen = TurnClock(random.Random(seed)), []
        began = clock.monotonic_ns()

        def work(n: int) -> int:
            seen.append(n)
            clock.sleep(SECOND)
            seen.append(n)
            return n

        with clock.pool(3) as pool:
            answers: list[Future[int]] = [pool.submit(work, n) for n in range(4)]
            assert [a.result() for a in answers] == [0, 1, 2, 3]
        return seen, clock.monotonic_ns() - began

    assert orders(7) == orders(7)
    assert len({tuple(orders(seed)[0]) for seed in range(20)}) > 5
    assert {orders(seed)[1] for seed in range(20)} == {2 * 10**9}, "three at a time, then the fourth"


def test_an_answer_that_takes_longer_than_its_time_out_is_late_in_simulated_time() -> None:
    clock = TurnClock(random.Random(1))
    with clock.pool(1) as pool:
        answer = pool.submit(clock.sleep, 3 * SECOND)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.5)
        assert answer.result() is None


def test_what_a_task_raises_is_raised_to_whoever_asks() -> None:
    clock = TurnClock(random.Random(1))

    def fail() -> None:
        raise TryAgainError("later")

    with clock.pool(2) as pool:
        answer = pool.submit(fail)
        assert isinstance(answer.exception(), TryAgainError)
        with pytest.raises(TryAgainError, match="later"):
            list(pool.map(lambda _: fail(), range(2)))
