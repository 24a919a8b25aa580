"""I8: reaper may die at any instant; `Resumption` ends what it left, by what is the case."""

from dataclasses import dataclass

import pytest
from rotations import MS, RUN, SECOND, Stage

from reaper.domain.errors import TryAgainError
from reaper.domain.plan import Plan, Replacement, Role
from reaper.domain.policy import KillMode
from reaper.domain.verdict import RunState, RunVerdict
from reaper.workflow.resume import Resumption
from reaper.workflow.rotation import Rotation


class PowerCutError(BaseException):
    """The process is gone: nothing of it runs any more, no clean-up either."""


@dataclass
class Power:
    """Counts both sides of every call to the world; from the chosen one on, every call of the dead process fails."""

    cut_at: int | None = None
    asked: int = 0

    def __call__(self) -> None:
        self.asked += 1
        if self.cut_at is not None and self.asked >= self.cut_at:
            raise PowerCutError


def run_until_cut(stage: Stage, plan: Plan, cut_at: int | None) -> int:
    """Run a plan with the power cut at one point; how many points it passed."""
    power = Power(cut_at)
    stage.fleet.faults.power = power
    try:
        Rotation(stage.world, plan).execute()
    except PowerCutError:
        pass
    finally:
        stage.fleet.faults.power = None
    return power.asked


def resume(stage: Stage, plan: Plan) -> RunVerdict | None:
    """A new process: no wish of a person is left, and nothing is remembered but the plan."""
    stage.fleet.interrupt.wished = stage.fleet.interrupt.crossed = False
    try:
        return Resumption(stage.world, plan).execute()
    except TryAgainError:
        return None


CASES = [
    ("a rotation by crash", {"mode": KillMode.CRASH}, Replacement.BEFORE, "n1", 5),
    ("a rotation by freeze", {"mode": KillMode.FREEZE}, Replacement.BEFORE, "n1", 7),
    ("a rotation by drain", {"mode": KillMode.DRAIN}, Replacement.BEFORE, "n1", 7),
    ("a kill of the master, replaced afterwards", {"mode": KillMode.CRASH}, Replacement.AFTER, "n1", 7),
    ("a kill of a replica, replaced afterwards", {"mode": KillMode.CRASH}, Replacement.AFTER, "n2", 7),
]


@pytest.mark.parametrize(
    ("policy", "replacement", "victim", "stride"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_I8_the_power_is_cut_on_both_sides_of_every_call(
    policy: dict[str, KillMode], replacement: Replacement, victim: str, stride: int
) -> None:
    whole = Stage()
    points = run_until_cut(whole, whole.plan(victim, replacement, outage_budget=60 * SECOND, **policy), None)
    assert points > 50
    for cut_at in range(1, points + 1, stride):
        stage = Stage()
        plan = stage.plan(victim, replacement, outage_budget=60 * SECOND, **policy)
        run_until_cut(stage, plan, cut_at)
        if RUN not in stage.fleet.journal.runs or stage.record.state is not RunState.RUNNING:
            continue  # it died before it was born, or after its end
        verdict = resume(stage, plan)
        where = f"cut at {cut_at} of {points}"
        assert stage.fleet.most_writable == 1, f"{where}: I2"
        if verdict is None:
            assert stage.record.state is RunState.UNDONE, where
            assert stage.as_found(), f"{where}: I9"
            continue
        if verdict.ledger is not None:
            assert not verdict.ledger.lost, f"{where}: I3"
        stage.fleet.clock.sleep(100 * MS)  # what was written last reaches every replica
        assert len([m for m in stage.fleet.machines("lab") if m.runs]) == 3, f"{where}: {verdict.faults}"
        assert stage.sound(), where
        assert stage.nothing_left(), f"{where}: I11"
        assert victim not in [m.id.short for m in stage.fleet.machines("lab") if m.runs], f"{where}: I6"


def test_a_run_that_died_before_the_kill_is_undone_and_may_be_run_again() -> None:
    stage = Stage()
    plan = stage.plan()
    run_until_cut(stage, plan, 40)
    assert resume(stage, plan) is None
    assert stage.record.state is RunState.UNDONE
    assert stage.as_found()
    assert stage.again("n1").good


def test_a_resumed_run_counts_the_time_in_which_reaper_was_dead() -> None:
    stage = Stage()
    plan = stage.plan(outage_budget=1 * SECOND)
    dead_at = _first_point_after_the_death(plan)
    run_until_cut(stage, plan, dead_at)
    stage.fleet.clock.sleep(5 * SECOND)
    verdict = resume(stage, plan)
    assert verdict is not None
    assert verdict.outage is not None
    assert verdict.outage > 5 * SECOND
    assert any("exceeds the budget" in fault for fault in verdict.faults)
    assert verdict.ledger is not None
    assert not verdict.ledger.lost
    assert plan.role is Role.MASTER


def _first_point_after_the_death(plan: Plan) -> int:
    """The point at which the victim is known to be dead, in a run of its own."""
    stage = Stage()
    power = Power()
    seen: list[int] = []
    stage.fleet.deaths.append(lambda m: seen.append(power.asked) if m.id == plan.victim else None)
    stage.fleet.faults.power = power
    Rotation(stage.world, plan).execute()
    return seen[0] + 2
