"""I8: reaper may die at any instant, and another process ends what it began.

With its record a run goes on as if nothing had happened; without it `Resumption` ends it by what is the case.
"""

import contextlib
from dataclasses import dataclass

import pytest
from rotations import MS, RUN, SECOND, Stage

from reaper.domain.checks import HttpCheck
from reaper.domain.errors import AbortedError, CallAPersonError, OwnershipLostError, RefusedError, TryAgainError
from reaper.domain.plan import Plan, Replacement, Role
from reaper.domain.policy import KillMode
from reaper.domain.verdict import RunState, RunVerdict
from reaper.testing.steps import Diary
from reaper.workflow.resume import Resumption
from reaper.workflow.steps import Message, Op


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
        stage.follow(plan)
    except PowerCutError:
        pass
    finally:
        stage.fleet.faults.power = None
    return power.asked


def another_process(stage: Stage) -> None:
    """A second later: no wish of a person is left, and nothing is remembered but what was recorded."""
    stage.fleet.clock.sleep(SECOND)
    stage.fleet.interrupt.wished = stage.fleet.interrupt.is_crossed = False


def resume_by_reality(stage: Stage, plan: Plan) -> RunVerdict | None:
    another_process(stage)
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
EVERY_CASE = pytest.mark.parametrize(
    ("policy", "replacement", "victim", "stride"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)


@EVERY_CASE
def test_I8_a_run_whose_power_is_cut_anywhere_goes_on_and_ends_as_an_uninterrupted_one(
    policy: dict[str, KillMode], replacement: Replacement, victim: str, stride: int
) -> None:
    """Both sides of every call to the world, of every effect and of its record."""
    rare = {"outage_budget": 60 * SECOND, "probe_rate": 30.0}  # a simulated write takes half a millisecond
    whole = Stage()
    points = run_until_cut(whole, whole.plan(victim, replacement, **rare, **policy), None)
    assert points > 50
    for cut_at in range(1, points + 1, stride):
        stage = Stage()
        plan = stage.plan(victim, replacement, **rare, **policy)
        run_until_cut(stage, plan, cut_at)
        another_process(stage)
        verdict = stage.follow(plan)
        where = f"cut at {cut_at} of {points}"
        assert verdict.good, f"{where}: {verdict.faults}"
        assert stage.record.state is RunState.GOOD, where
        stage.fleet.clock.sleep(100 * MS)  # what was written last reaches every replica
        assert stage.names == whole.names, f"{where}: the same topology as an uninterrupted run"
        assert stage.fleet.most_writable == 1, f"{where}: I2"
        assert verdict.ledger is not None, where
        assert not verdict.ledger.lost, f"{where}: I3"
        if replacement is Replacement.BEFORE:
            assert stage.fleet.fewest_copies["lab"] >= 3, f"{where}: I1"
        assert stage.sound(), where
        assert stage.nothing_left(), f"{where}: I11"
        assert victim not in [m.id.short for m in stage.fleet.machines("lab") if m.runs], f"{where}: I6"


def test_I8_a_run_whose_process_died_with_every_applier_stopped_for_the_promotion_still_finds_an_heir() -> None:
    """The heir is stopped to be opened, the siblings to follow it: by reaper, not by hand."""
    stage = Stage()
    plan = stage.plan(outage_budget=60 * SECOND)

    def cut() -> None:
        replicas = [m for m in stage.fleet.machines("lab") if m.runs and m.channel]
        heir = next((m for m in replicas if m.channel and not m.channel.applying), None)
        if heir is not None and heir.made_by and not stage.n("n1").runs:
            for sibling in replicas:
                sibling.stop_applier()
            stage.fleet.faults.power = None
            raise PowerCutError

    stage.fleet.faults.power = cut
    with pytest.raises(PowerCutError):
        stage.follow(plan)
    another_process(stage)
    verdict = stage.follow(plan)
    assert verdict.good, verdict.faults
    assert stage.sound()
    assert stage.nothing_left()


@pytest.mark.parametrize("stride", [9])
def test_I9_an_undo_whose_power_is_cut_anywhere_is_finished_by_another_process(stride: int) -> None:
    def refused() -> tuple[Stage, Plan]:
        stage = Stage()
        plan = stage.plan()
        stage.fleet.interrupt.abort_at_check = 15
        return stage, plan

    stage, plan = refused()
    points = _points_until_aborted(stage, plan, None)
    assert stage.record.state is RunState.UNDONE
    for cut_at in range(1, points + 1, stride):
        stage, plan = refused()
        _points_until_aborted(stage, plan, cut_at)
        stage.fleet.interrupt.is_crossed = False
        stage.fleet.interrupt.wished = True
        with pytest.raises(AbortedError):
            stage.follow(plan)
        assert stage.record.state is RunState.UNDONE, f"cut at {cut_at} of {points}"
        assert stage.as_found(), f"cut at {cut_at} of {points}"


def _points_until_aborted(stage: Stage, plan: Plan, cut_at: int | None) -> int:
    power = stage.fleet.faults.power = Power(cut_at)
    with contextlib.suppress(PowerCutError, AbortedError):
        stage.follow(plan)
    stage.fleet.faults.power = None
    return power.asked


@EVERY_CASE
def test_I8_without_its_record_a_run_is_undone_before_the_kill_and_finished_after_it(
    policy: dict[str, KillMode], replacement: Replacement, victim: str, stride: int
) -> None:
    """By what is the case, as a run that another version began."""
    whole = Stage()
    points = run_until_cut(whole, whole.plan(victim, replacement, outage_budget=60 * SECOND, **policy), None)
    for cut_at in range(1, points + 1, 2 * stride + 1):
        stage = Stage()
        plan = stage.plan(victim, replacement, outage_budget=60 * SECOND, **policy)
        run_until_cut(stage, plan, cut_at)
        if RUN not in stage.fleet.journal.runs or stage.record.state is not RunState.RUNNING:
            continue  # it died before it was born, or after its end
        verdict = resume_by_reality(stage, plan)
        where = f"cut at {cut_at} of {points}"
        assert stage.fleet.most_writable == 1, f"{where}: I2"
        if verdict is None:
            assert stage.record.state is RunState.UNDONE, where
            assert stage.as_found(), f"{where}: I9"
            continue
        if verdict.ledger is not None:
            assert not verdict.ledger.lost, f"{where}: I3"
        stage.fleet.clock.sleep(100 * MS)
        assert len([m for m in stage.fleet.machines("lab") if m.runs]) == 3, f"{where}: {verdict.faults}"
        assert stage.sound(), where
        assert stage.nothing_left(), f"{where}: I11"
        assert victim not in [m.id.short for m in stage.fleet.machines("lab") if m.runs], f"{where}: I6"


def test_I8_a_run_that_another_worker_took_over_does_not_one_more_effect() -> None:
    """The worker wakes up at any of its effects: the world sees nothing more of it."""
    for record in range(1, 12):
        stage = Stage()
        plan = stage.plan(outage_budget=60 * SECOND)
        diary = stage.diaries.setdefault(plan.run, Diary(stage.fleet.faults, stage.fleet.clock))
        left = Countdown(record, diary)
        stage.fleet.faults.before("record", "*", left, times=100)
        with pytest.raises(OwnershipLostError):
            stage.follow(plan)
        calls = len(stage.fleet.faults.calls)
        done = [call for call in stage.fleet.faults.calls[left.calls : calls] if call[0] not in ("record", "begin")]
        assert not [c for c in done if c[0] in EFFECTS], f"after the take-over before record {record}: {done}"
        another_process(stage)
        assert stage.follow(plan).good


EFFECTS = {"crash", "promote", "route", "follow", "snapshot", "launch", "join", "retire", "forget", "quarantine"}


@dataclass
class Countdown:
    """Another worker takes the run over right before the n-th record."""

    left: int
    diary: Diary
    calls: int = 0

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.calls = len(self.diary.faults.calls)
            self.diary.owner += 1


def test_a_person_is_asked_before_the_kill_and_says_yes() -> None:
    stage = Stage()
    plan = stage.plan(approval_within=60 * SECOND)
    diary = stage.diaries.setdefault(plan.run, Diary(stage.fleet.faults, stage.fleet.clock))
    diary.messages.append(Message(op=Op.APPROVE, who="anna", when="2026-11-24T10:00:00+00:00"))
    assert stage.follow(plan).good
    assert any("reaper approve" in words for words in diary.words)
    assert any("approved by anna" in event.detail for event in stage.record.events)


@pytest.mark.parametrize(
    ("who", "heard"),
    [
        pytest.param("ada", True, id="by name"),
        pytest.param("ada@db1", True, id="by name, from a machine"),
        pytest.param("eve", False, id="not named"),
    ],
)
def test_only_the_yes_of_those_whom_the_policy_names_counts(who: str, heard: bool) -> None:
    stage = Stage()
    plan = stage.plan(approval_within=60 * SECOND, approvers=("ada", "bob"))
    diary = stage.diaries.setdefault(plan.run, Diary(stage.fleet.faults, stage.fleet.clock))
    diary.messages.append(Message(op=Op.APPROVE, who=who, when="2026-11-24T10:00:00+00:00"))
    if heard:
        assert stage.follow(plan).good
    else:
        with pytest.raises(AbortedError, match="nobody approved"):
            stage.follow(plan)
        assert stage.as_found()


def test_an_external_check_is_asked_before_anything_is_built_and_before_the_kill() -> None:
    stage = Stage()
    check = HttpCheck(name="door", url="http://127.0.0.1/health")
    assert stage.follow(stage.plan(checks=(check,))).good
    assert len(stage.fleet.checker.asked) == 2


def test_an_external_check_that_says_no_refuses_and_nothing_is_touched() -> None:
    stage = Stage()
    stage.fleet.checker.refusals["door"] = "it answers 503"
    with pytest.raises(RefusedError, match="check door: it answers 503"):
        stage.follow(stage.plan(checks=(HttpCheck(name="door", url="http://127.0.0.1/health"),)))
    assert stage.as_found()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        pytest.param(None, "nobody approved", id="nobody answers in time"),
        pytest.param(Message(op=Op.ABORT, who="bob", when="now", text="not today"), "aborted by bob", id="no"),
    ],
)
def test_without_a_persons_yes_everything_is_undone(message: Message | None, said: str) -> None:
    stage = Stage()
    plan = stage.plan(approval_within=60 * SECOND)
    diary = stage.diaries.setdefault(plan.run, Diary(stage.fleet.faults, stage.fleet.clock))
    diary.messages += [message] if message else []
    with pytest.raises(AbortedError, match=said):
        stage.follow(plan)
    assert stage.record.state is RunState.UNDONE
    assert stage.as_found()


def test_the_lever_holds_a_run_before_its_kill_until_it_is_released() -> None:
    stage = Stage()
    plan = stage.plan()
    stage.fleet.lever.reason = "anna looks at something"
    alive: list[bool] = []

    def release() -> None:
        alive.append(stage.n("n1").runs)
        stage.fleet.lever.reason = None

    stage.fleet.clock.after(600 * SECOND, release)
    assert stage.follow(plan).good
    assert alive == [True], "it was killed while the lever was pulled"
    words = stage.diaries[plan.run].words
    assert any("anna looks at something" in w for w in words)


def test_I9_a_wish_to_stop_in_the_process_that_resumes_after_the_kill_is_only_answered() -> None:
    """The kill was recorded by the process that died; the one that replays it did not kill and only goes forward."""
    whole = Stage()
    plan = whole.plan("n1", Replacement.AFTER, outage_budget=60 * SECOND)
    points = run_until_cut(whole, plan, None)
    resumed = 0
    for cut_at in range(_first_point_after_the_death(plan), points + 1, 9):
        stage = Stage()
        plan = stage.plan("n1", Replacement.AFTER, outage_budget=60 * SECOND)
        run_until_cut(stage, plan, cut_at)
        if not any(entry.name == "cutover" for entry in stage.diaries[plan.run].entries):
            continue  # the dead process had recorded no kill
        another_process(stage)
        stage.fleet.interrupt.wished = True
        verdict = stage.follow(plan)
        resumed += 1
        assert verdict.good, f"cut at {cut_at} of {points}: {verdict.faults}"
        assert verdict.copies_after == 3, f"cut at {cut_at} of {points}"
    assert resumed > 5


def test_I8_a_sibling_that_was_being_repointed_at_the_death_replicates_again() -> None:
    """It points at the heir already, and its threads were not started any more."""
    stage = Stage()
    plan = stage.plan(outage_budget=60 * SECOND)

    def cut() -> None:
        raise PowerCutError

    stage.fleet.faults.before("route", "*", cut)
    with pytest.raises(PowerCutError):
        stage.follow(plan)
    sibling = stage.n("n2")
    assert sibling.channel is not None
    assert sibling.channel.source == stage.n("n4").address
    sibling.stop_receiver()
    sibling.stop_applier()
    another_process(stage)
    verdict = stage.follow(plan)
    assert verdict.good, verdict.faults
    assert stage.sound()


def test_a_resumed_run_counts_the_time_in_which_reaper_was_dead() -> None:
    stage = Stage()
    plan = stage.plan(outage_budget=1 * SECOND)
    dead_at = _first_point_after_the_death(plan)
    run_until_cut(stage, plan, dead_at)
    stage.fleet.clock.sleep(5 * SECOND)
    another_process(stage)
    verdict = stage.follow(plan)
    assert verdict.outage is not None
    assert verdict.outage > 5 * SECOND
    assert any("exceeds the budget" in fault for fault in verdict.faults)
    assert verdict.ledger is not None
    assert not verdict.ledger.lost
    assert plan.role is Role.MASTER


def cut_before(stage: Stage, plan: Plan, call: str) -> None:
    """The power is cut right before a call; the next process begins at this very instant."""

    def cut() -> None:
        raise PowerCutError

    stage.fleet.faults.before(call, "*", cut)
    with pytest.raises(PowerCutError):
        stage.follow(plan)
    stage.fleet.interrupt.is_crossed = False


@pytest.mark.parametrize("mode", list(KillMode))
def test_I8_a_run_that_is_gone_on_with_at_the_instant_of_the_kill_ends_as_any_other(mode: KillMode) -> None:
    """The signal is sent, and the process has not ended yet."""
    stage = Stage()
    plan = stage.plan(mode=mode, outage_budget=60 * SECOND)
    cut_before(stage, plan, "fence")
    assert stage.n("n1").runs, "it has ended already, and the test shows nothing"
    verdict = stage.follow(plan)
    assert verdict.good, verdict.faults
    assert stage.sound()


def test_I9_a_provider_that_is_silent_at_the_resume_leads_to_no_undo_after_the_kill() -> None:
    """To undo would delete the heir, although the master is dead and the heir may have been promoted."""
    for last in ("fence", "route"):
        stage = Stage()
        plan = stage.plan(outage_budget=60 * SECOND)
        cut_before(stage, plan, last)
        stage.fleet.fail("members", times=30, error=TryAgainError("the provider throttles us"))
        verdict = stage.follow(plan)
        assert verdict.good, verdict.faults
        assert stage.sound()


def test_I9_a_kill_of_which_nothing_can_be_learned_is_left_to_a_person_and_nothing_is_deleted() -> None:
    stage = Stage()
    plan = stage.plan(outage_budget=60 * SECOND)
    cut_before(stage, plan, "route")
    stage.fleet.fail("members", times=5000, error=TryAgainError("the provider throttles us"))
    with pytest.raises(CallAPersonError, match="cannot be told"):
        stage.follow(plan)
    assert stage.record.state is RunState.STUCK
    assert stage.master.id.short == "n4"


def test_I9_a_stuck_run_without_a_master_is_not_called_undone_while_its_rows_are_there() -> None:
    stage = Stage()
    plan = stage.plan("n2", Replacement.AFTER)
    stage.fleet.faults.before("aim", "*", lambda: stage.fleet.kill("n1"))
    with pytest.raises(CallAPersonError):
        stage.follow(plan)
    with pytest.raises(CallAPersonError, match="has no master"):
        Resumption(stage.world, plan).execute()
    assert stage.record.state is RunState.STUCK


def _first_point_after_the_death(plan: Plan) -> int:
    """The point at which the victim is known to be dead, in a run of its own."""
    stage = Stage()
    power = Power()
    seen: list[int] = []
    stage.fleet.deaths.append(lambda m: seen.append(power.asked) if m.id == plan.victim else None)
    stage.fleet.faults.power = power
    stage.follow(plan)
    return seen[0] + 2
