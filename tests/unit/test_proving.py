"""A replacement proves itself before anybody dies: over a simulated cluster, from the plan to the verdict."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from builders import CLUSTER, iid, plan_for
from rotations import RUN, SECOND, Stage

from reaper.domain.canary import Canary
from reaper.domain.errors import RefusedError
from reaper.domain.facts import Instance
from reaper.domain.parity import EventFacts, Events, EventStatus, Scheduler
from reaper.domain.plan import Plan, Replacement, StepName
from reaper.domain.policy import Loss, Policy, Reference, Waivable, Waiver
from reaper.domain.rehearsal import Obstacle
from reaper.domain.snapshots import TestOutcome
from reaper.domain.tail import Told
from reaper.domain.verdict import EventKind, Ruling, RunState
from reaper.domain.warmth import Otherwise, WarmthGate
from reaper.testing.backups import MemorySnapshotBook
from reaper.testing.comparing import FakeComparer
from reaper.testing.forensics import FakeDeadLogs
from reaper.testing.parts import ITEMS
from reaper.testing.rehearsing import Backstage, FakeUnderstudy
from reaper.testing.warming import FakeCanaries, FakePool
from reaper.workflow.pools import Sampled, Side

HOUR = timedelta(hours=1)
DAILY = EventFacts(
    schema="app",
    name="daily",
    digest="d",
    status=EventStatus.ENABLED,
    definer="app@%",
    client_charset="utf8mb4",
    connection_collation="utf8mb4_general_ci",
)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def comparer(stage: Stage) -> FakeComparer:
    found = stage.world.comparer
    assert isinstance(found, FakeComparer)
    return found


def book(stage: Stage) -> MemorySnapshotBook:
    found = stage.world.book
    assert isinstance(found, MemorySnapshotBook)
    return found


def nobody_was_killed(stage: Stage) -> bool:
    assert ("crash", "n1") not in stage.fleet.faults.calls
    assert stage.master.id.short == "n1"
    return stage.as_found()


def test_a_good_verdict_says_what_the_replacement_proved(stage: Stage) -> None:
    verdict = stage.run()
    proven = verdict.proven
    assert proven is not None
    assert proven.snapshot == f"{RUN}-snap"
    assert proven.comparison.sound
    assert proven.comparison.rows >= 1
    assert proven.parity.ruling is Ruling.GO
    assert [(r.instance.short, r.ok) for r in proven.rehearsed] == [("n2", True), ("n3", True)]
    assert verdict.forensics is not None
    assert verdict.forensics.faults == ()


def test_E16_the_replacement_is_restarted_cleanly_before_it_is_compared(stage: Stage) -> None:
    stage.run()
    calls = [call for call in stage.fleet.faults.calls if call[1] == "n4"]
    assert (
        calls.index(("restart", "n4")) < calls.index(("compare", "n4")) < calls.index(("write_marker", "n1"))
        if (("write_marker", "n1") in calls)
        else calls.index(("restart", "n4")) < calls.index(("compare", "n4"))
    )


# ---- its data (E16, E29)


def test_E29_a_row_that_differs_refuses_names_table_and_key_and_kills_nobody(stage: Stage) -> None:
    stage.at(StepName.JOIN, EventKind.DONE, lambda: comparer(stage).damage("n4", ITEMS))
    with pytest.raises(RefusedError, match="are not those of n2") as refused:
        stage.run()
    assert ITEMS in str(refused.value)
    assert "damaged" in str(refused.value)
    assert stage.record.state is RunState.REFUSED
    assert nobody_was_killed(stage)


def test_E29_the_evidence_of_a_difference_is_kept_with_the_run(stage: Stage) -> None:
    stage.at(StepName.JOIN, EventKind.DONE, lambda: comparer(stage).damage("n4", ITEMS))
    with pytest.raises(RefusedError):
        stage.run()
    refused = [v for verdicts in stage.record.guards for v in verdicts if v.guard == "data"]
    assert len(refused) == 1
    assert ITEMS in refused[0].evidence[0]


@pytest.mark.parametrize(
    ("against", "refused"),
    [(Reference.SOURCE, False), (Reference.MASTER, True)],
    ids=["its source has it too", "the master has not"],
)
def test_what_the_copied_replica_had_wrong_shows_against_the_master(
    stage: Stage, against: Reference, refused: bool
) -> None:
    comparer(stage).damage("n2", ITEMS)
    with pytest.raises(RefusedError, match="are not those of n1") if refused else contextlib.nullcontext():
        stage.run(compare_with=against)
    assert stage.master.id.short == ("n1" if refused else "n4")


def test_a_comparison_that_ran_out_of_time_refuses(stage: Stage) -> None:
    comparer(stage).runs_out = 1
    with pytest.raises(RefusedError, match="allow more time"):
        stage.run()
    assert nobody_was_killed(stage)


# ---- parity (E18), events (E19)


def test_E18_a_heir_that_differs_refuses_unless_it_is_waived(stage: Stage) -> None:
    def turn() -> None:
        stage.n("n4").knobs.parity = (("version", "10.11"), ("sql_mode", "ANSI"))

    stage.at(StepName.JOIN, EventKind.DONE, turn)
    with pytest.raises(RefusedError, match="sql_mode"):
        stage.run()
    assert nobody_was_killed(stage)


def test_E18_a_member_that_differs_is_found_before_anything_is_built(stage: Stage) -> None:
    stage.n("n3").knobs.parity = (("version", "10.11"), ("sql_mode", "ANSI"))
    with pytest.raises(RefusedError, match=r"parity: .*sql_mode"):
        stage.run()
    assert not [call for call in stage.fleet.faults.calls if call[0] == "snapshot"]


def test_E18_a_waived_difference_lets_the_run_go_and_is_in_its_verdict(stage: Stage) -> None:
    stage.n("n3").knobs.parity = (("version", "10.11"), ("sql_mode", "ANSI"))
    waiver = Waiver(
        guard=Waivable.PARITY,
        difference="sql_mode",
        owner="ada",
        expires=stage.fleet.clock.now().date(),
        reason="migration",
    )
    assert stage.run(waivers=(waiver,)).good
    said = [v for verdicts in stage.record.guards for v in verdicts if v.guard == "parity"]
    assert any("ada" in line for verdict in said for line in verdict.evidence)


def test_E19_what_the_master_ran_by_schedule_runs_on_the_heir(stage: Stage) -> None:
    asleep = replace(DAILY, status=EventStatus.DISABLED_ON_REPLICA)
    stage.n("n1").knobs.events = Events(scheduler=Scheduler.ON, events=(DAILY,))
    for name in ("n2", "n3"):
        stage.n(name).knobs.events = Events(scheduler=Scheduler.OFF, events=(asleep,))
    stage.at(
        StepName.JOIN,
        EventKind.DONE,
        lambda: setattr(stage.n("n4").knobs, "events", Events(scheduler=Scheduler.OFF, events=(asleep,))),
    )
    verdict = stage.run()
    assert verdict.good, verdict.faults
    events = stage.master.knobs.events
    assert (events.scheduler, [e.status for e in events.events]) == (Scheduler.ON, [EventStatus.ENABLED])
    assert StepName.HAND_OVER in {e.step for e in stage.record.events}


class PowerCutError(BaseException):
    """The process is gone."""


def test_E19_I8_a_process_that_dies_between_the_cutover_and_the_hand_over_is_followed_by_one_that_hands_over(
    stage: Stage,
) -> None:
    """What it replays knows the dead master; the events go to the one who took its place."""
    stage.n("n1").knobs.events = Events(scheduler=Scheduler.ON, events=(DAILY,))
    asleep = Events(scheduler=Scheduler.OFF, events=(replace(DAILY, status=EventStatus.DISABLED_ON_REPLICA),))
    for name in ("n2", "n3"):
        stage.n(name).knobs.events = asleep
    stage.at(StepName.JOIN, EventKind.DONE, lambda: setattr(stage.n("n4").knobs, "events", asleep))

    def cut() -> None:
        raise PowerCutError

    stage.fleet.faults.before("record", "hand over the events", cut)
    plan = stage.plan(outage_budget=60 * SECOND)
    with pytest.raises(PowerCutError):
        stage.follow(plan)
    stage.fleet.interrupt.is_crossed = False
    verdict = stage.follow(plan)
    assert verdict.good, verdict.faults
    assert [e.status for e in stage.master.knobs.events.events] == [EventStatus.ENABLED]


def test_E19_an_event_that_is_gone_on_the_heir_is_a_fault(stage: Stage) -> None:
    stage.n("n1").knobs.events = Events(scheduler=Scheduler.ON, events=(DAILY,))
    waiver = Waiver(
        guard=Waivable.PARITY, difference=None, owner="ada", expires=stage.fleet.clock.now().date(), reason="x"
    )
    verdict = stage.run(waivers=(waiver,))
    assert any("app.daily is gone" in fault for fault in verdict.faults)


# ---- warmth and time to normal (E25)


@dataclass
class Climate:
    """Pools and canaries of every server, as a test says."""

    stage: Stage
    sides: dict[str, Side]

    @contextlib.contextmanager
    def side(self, _cluster: str, instance: Instance) -> Iterator[Side]:
        name = instance.id.short
        clock = self.stage.fleet.clock
        if name not in self.sides:
            pool = FakePool(clock=clock)
            self.sides[name] = Side(instance=instance, pool=pool, canaries=FakeCanaries(clock=clock))
        yield self.sides[name]


GATE = WarmthGate(within=10 * SECOND)


def climate(stage: Stage) -> Climate:
    made = Climate(stage, {})
    stage.world = replace(stage.world, side=made.side)
    return made


def with_pages(stage: Stage, found: Climate, name: str, *, unlisted: str = "") -> None:
    clock = stage.fleet.clock
    pool = FakePool(clock=clock, unlisted=unlisted)
    side = Side(instance=stage.world.fleet.members(CLUSTER)[0], pool=pool, canaries=FakeCanaries(clock=clock))
    found.sides[name] = side


def test_E25_a_heir_that_is_not_known_to_be_warm_refuses_and_kills_nobody(stage: Stage) -> None:
    with_pages(stage, climate(stage), "n4", unlisted="its list cannot be had")
    with pytest.raises(RefusedError, match=r"warmth: .*its list cannot be had"):
        stage.run(warm=GATE)
    assert nobody_was_killed(stage)


def test_E25_a_policy_may_let_a_cold_heir_go_and_the_report_says_so(stage: Stage) -> None:
    with_pages(stage, climate(stage), "n4", unlisted="its list cannot be had")
    verdict = stage.run(warm=replace(GATE, otherwise=Otherwise.GO))
    assert verdict.good, verdict.faults
    assert verdict.proven is not None
    assert verdict.proven.warmth is not None
    assert not verdict.proven.warmth.passed


def canaries(stage: Stage, found: Climate, *, slow_for: timedelta) -> None:
    """A canary that takes 1 ms everywhere, and 50 ms on the heir for some time after its promotion."""
    clock, canary = stage.fleet.clock, Canary(name="c", statements=("SELECT 1",))

    def takes(_canary: Canary, _turn: int) -> float:
        promoted = [c for c in stage.fleet.faults.calls if c == ("promote", "n4")]
        if not promoted:
            return 1.0
        began.append(clock.monotonic_ns())
        return 50.0 if clock.monotonic_ns() - began[0] < slow_for.total_seconds() * 1e9 else 1.0

    began: list[int] = []
    for name in ("n1", "n4"):
        session = FakeCanaries(clock=clock, takes=takes, suggests=Sampled(canaries=(canary,)))
        instance = stage.world.fleet.members(CLUSTER)[0]
        found.sides[name] = Side(instance=instance, pool=FakePool(clock=clock), canaries=session)


def test_E25_the_time_until_canaries_are_as_fast_as_before_is_in_the_verdict(stage: Stage) -> None:
    canaries(stage, climate(stage), slow_for=3 * SECOND)
    verdict = stage.run()
    assert verdict.good, verdict.faults
    assert verdict.recovery is not None
    assert verdict.recovery.time_to_normal is not None
    assert 3 * SECOND <= verdict.recovery.time_to_normal < 5 * SECOND
    assert max(p.ratio or 0 for p in verdict.recovery.curve) > 10


def test_E25_a_time_to_normal_over_its_budget_is_a_fault(stage: Stage) -> None:
    canaries(stage, climate(stage), slow_for=3 * SECOND)
    verdict = stage.run(normal_budget=SECOND)
    assert any("exceeds the budget of 1 s" in fault for fault in verdict.faults)


def test_I10_a_budget_for_the_time_to_normal_that_nobody_could_measure_is_a_fault(stage: Stage) -> None:
    verdict = stage.run(normal_budget=SECOND)
    assert any("was not measured" in fault for fault in verdict.faults)


# ---- the others can follow it (E21)


def test_E21_a_sibling_that_cannot_replicate_from_the_heir_refuses_before_the_kill(stage: Stage) -> None:
    backstage = Backstage()
    backstage.obstacles[iid("n3")] = Obstacle.NO_GRANT
    stage.world = replace(
        stage.world,
        connect=lambda _c, i: FakeUnderstudy(stage.fleet.known(i.id), stage.fleet.faults, backstage),
    )
    with pytest.raises(RefusedError, match="rehearsal: n3 cannot replicate from n4"):
        stage.run()
    assert not backstage.channels
    assert nobody_was_killed(stage)


# ---- snapshots as tested backups


def again(stage: Stage, run: str, victim: str, **policy: object) -> Plan:
    stage.fleet.interrupt.is_crossed = False
    return plan_for(stage.world, iid(victim), policy=Policy(**policy), run=run)  # type: ignore[arg-type]  # as in Stage


def test_a_snapshot_that_is_kept_is_a_tested_backup_and_serves_the_next_run(stage: Stage) -> None:
    stage.run(snapshot_keep=2)
    (first,) = book(stage).kept(CLUSTER)
    assert first.test is not None
    assert first.test.outcome is TestOutcome.PASSED
    assert first.restore_took is not None
    taken = len([c for c in stage.fleet.faults.calls if c[0] == "snapshot"])
    verdict = stage.follow(again(stage, "run-2", "n4", snapshot_keep=2, snapshot_reuse_within=HOUR))
    assert verdict.good, verdict.faults
    assert verdict.proven is not None
    assert verdict.proven.snapshot == first.name
    assert verdict.proven.reused
    assert len([c for c in stage.fleet.faults.calls if c[0] == "snapshot"]) == taken
    assert book(stage).kept(CLUSTER)[0].used_by == (RUN, "run-2")


def test_snapshots_beyond_those_that_are_kept_are_deleted(stage: Stage) -> None:
    stage.run(snapshot_keep=1)
    assert stage.follow(again(stage, "run-2", "n4", snapshot_keep=1)).good
    assert [record.name for record in book(stage).kept(CLUSTER)] == ["run-2-snap"]
    assert [snapshot.name for snapshot in stage.fleet.snapshots(CLUSTER)] == ["run-2-snap"]


def test_a_run_that_keeps_none_leaves_the_snapshots_of_others(stage: Stage) -> None:
    stage.run(snapshot_keep=1)
    assert stage.follow(again(stage, "run-2", "n4")).good
    assert [snapshot.name for snapshot in stage.fleet.snapshots(CLUSTER)] == [f"{RUN}-snap"]


def test_E15_binary_logs_are_held_while_a_replacement_is_built_and_released(stage: Stage) -> None:
    held = []
    stage.at(StepName.JOIN, EventKind.DONE, lambda: held.extend(stage.n(n).binlogs_held for n in ("n1", "n2")))
    stage.run()
    assert held == [True, True]
    assert not any(m.binlogs_held for m in stage.fleet.machines(CLUSTER))


def test_E15_binary_logs_are_released_when_the_run_is_undone(stage: Stage) -> None:
    comparer(stage).runs_out = 1
    with pytest.raises(RefusedError):
        stage.run()
    assert not any(m.binlogs_held for m in stage.fleet.machines(CLUSTER))


# ---- the dead master's tail (E03, I6)


def test_E03_a_tail_that_cannot_be_read_is_a_fault_and_the_files_are_kept(stage: Stage) -> None:
    logs = stage.world.dead_logs
    assert isinstance(logs, FakeDeadLogs)
    logs.unreadable = "they are encrypted"
    verdict = stage.run()
    assert any("they are encrypted" in fault for fault in verdict.faults)
    assert ("retire", "n1") not in stage.fleet.faults.calls


def test_E03_a_write_that_nobody_acknowledged_is_found_on_the_dead_master_alone(stage: Stage) -> None:
    def mute() -> None:
        for name in ("n2", "n3", "n4"):
            stage.n(name).knobs.receive_lag = 10 * SECOND

    stage.at_the_kill(mute)
    verdict = stage.run()
    assert verdict.forensics is not None
    assert verdict.forensics.count(Told.ACKNOWLEDGED) == 0


def test_the_replacement_of_a_dead_victim_proves_itself_too(stage: Stage) -> None:
    verdict = stage.run(replacement=Replacement.AFTER, loss=Loss.FORBIDDEN)
    assert verdict.good, verdict.faults
    assert verdict.proven is not None
    assert verdict.proven.comparison.sound
    assert verdict.proven.rehearsed == ()
