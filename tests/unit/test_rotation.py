"""The whole rotation over the in-memory fleet: what must always be true, one invariant after the other."""

from datetime import timedelta

import pytest
from builders import CLUSTER
from rotations import MS, RUN, SECOND, TABLE, Stage

from reaper.domain.errors import (
    AbortedError,
    CallAPersonError,
    ReaperError,
    RefusedError,
    ServerError,
    ServerGoneError,
    StatementTimeoutError,
    TryAgainError,
)
from reaper.domain.facts import InstanceState
from reaper.domain.plan import Replacement, StepName
from reaper.domain.policy import FailoverBy, KillMode, Loss
from reaper.domain.snapshots import SnapshotMethod
from reaper.domain.verdict import EventKind, RunState
from reaper.testing.faults import When
from reaper.testing.ha import FailoverTool
from reaper.testing.machine import Machine
from reaper.testing.parts import ITEMS, MARKER, Verb
from reaper.workflow.server import Server

bug = pytest.mark.xfail  # strict: a bug that is known, with its place; remove the mark with the bug


@pytest.fixture
def stage() -> Stage:
    return Stage()


# ---- the good run


@pytest.mark.parametrize("mode", list(KillMode))
def test_a_rotation_is_good_in_every_kill_mode(stage: Stage, mode: KillMode) -> None:
    verdict = stage.run(mode=mode)
    assert verdict.good, verdict.faults
    assert verdict.heir == "memory:lab/n4"
    assert stage.names == ["n2", "n3", "n4"]
    assert verdict.outage is not None
    assert timedelta(0) < verdict.outage < SECOND
    assert sum((p.took for p in verdict.parts), timedelta(0)) == verdict.outage
    assert stage.record.state is RunState.GOOD
    assert stage.sound()
    assert stage.nothing_left()


@pytest.mark.parametrize("mode", list(KillMode))
def test_the_run_shows_the_steps_that_the_plan_showed(stage: Stage, mode: KillMode) -> None:
    plan = stage.plan(mode=mode)
    stage.follow(plan)
    shown = {step.name for step in plan.steps}
    assert {e.step for e in stage.record.events} == shown


def test_an_earlier_master_that_was_replaced_can_be_followed_by_another_rotation(stage: Stage) -> None:
    stage.run()
    assert stage.again("n4").good
    assert stage.names == ["n2", "n3", "n5"]
    assert stage.sound()


def test_terminate_is_forced_when_the_shutdown_hangs(stage: Stage) -> None:
    stage.n("n1").knobs.shutdown_takes = None
    verdict = stage.run(mode=KillMode.TERMINATE, fence_within=2 * SECOND, outage_budget=5 * SECOND)
    assert verdict.good, verdict.faults
    assert "forced after 2 s" in verdict.notes[0]


# ---- I1


@pytest.mark.parametrize("replacement", [Replacement.BEFORE, Replacement.AFTER, Replacement.NONE])
@pytest.mark.parametrize("victim", ["n1", "n3"])
def test_I1_the_copies_never_fall_below_the_minimum(stage: Stage, victim: str, replacement: Replacement) -> None:
    stage.run(victim, replacement, min_copies=2)
    minimum = 3 if replacement is Replacement.BEFORE else 2
    assert min(stage.copies_at_events) >= minimum
    assert stage.fleet.fewest_copies[CLUSTER] >= minimum


def test_I1_a_kill_that_would_leave_too_few_copies_is_refused(stage: Stage) -> None:
    with pytest.raises(RefusedError, match="copies: 2 would be left"):
        stage.run(replacement=Replacement.NONE, min_copies=3)
    assert stage.as_found()


# ---- I2


@pytest.mark.parametrize("mode", list(KillMode))
@pytest.mark.parametrize("replacement", list(Replacement))
def test_I2_at_most_one_server_accepts_writes_at_every_moment(
    stage: Stage, mode: KillMode, replacement: Replacement
) -> None:
    seen = []
    stage.fleet.faults.before("promote", "*", lambda: seen.append(len(stage.fleet.writable(CLUSTER))))
    stage.run(replacement=replacement, mode=mode)
    assert seen == [0]  # right before the heir opens nobody accepts writes
    assert set(stage.open_at_events) <= {0, 1}
    assert stage.fleet.most_writable == 1


def _switched(stage: Stage) -> None:
    """Somebody else moves the master from n1 to n2 by a clean switch."""
    n1, n2 = stage.n("n1"), stage.n("n2")
    n1.openness = n2.openness
    n2.channel = None
    n2.semi_sync.source_enabled = n2.semi_sync.source_active = True
    n2.open()
    n1.follow(n2.address)
    stage.n("n3").follow(n2.address)
    stage.fleet.door(CLUSTER).lead(n2.address)


def test_I2_E12_a_plan_whose_victim_is_no_longer_master_is_refused(stage: Stage) -> None:
    plan = stage.plan("n1")
    _switched(stage)
    with pytest.raises(RefusedError):
        stage.follow(plan)
    assert stage.fleet.most_writable == 1
    assert stage.master.id.short == "n2"


def test_I2_E12_a_plan_whose_victim_has_become_master_is_refused(stage: Stage) -> None:
    plan = stage.plan("n2")
    _switched(stage)
    with pytest.raises(RefusedError):
        stage.follow(plan)
    assert stage.master.id.short == "n2"


# ---- I3


@pytest.mark.parametrize("mode", list(KillMode))
def test_I3_no_acknowledged_write_is_lost(stage: Stage, mode: KillMode) -> None:
    for name in ("n2", "n3"):
        stage.n(name).knobs.receive_lag = 3 * MS
        stage.n(name).knobs.apply_lag = 40 * MS
    verdict = stage.run(mode=mode)
    assert verdict.ledger is not None
    assert verdict.ledger.acknowledged > 100
    assert verdict.ledger.lost == ()
    assert verdict.good, verdict.faults


def test_I3_E03_the_killed_master_has_a_tail_that_nobody_acknowledged_and_it_dies_with_it(
    stage: Stage,
) -> None:
    tail = []
    n1 = stage.n("n1")
    stage.fleet.deaths.append(
        lambda m: (
            tail.extend(t for t in n1.log if not any(n.holds(t.gtid) for n in _others(stage))) if m is n1 else None
        )
    )
    verdict = stage.run()
    assert tail
    assert verdict.ledger is not None
    assert verdict.ledger.unknown_absent == len(tail)
    assert verdict.good, verdict.faults


def _others(stage: Stage) -> list[Machine]:
    return [m for m in stage.fleet.machines(CLUSTER) if m.id.short != "n1"]


def test_I3_E02_without_semi_sync_the_kill_is_refused(stage: Stage) -> None:
    stage.n("n1").semi_sync.source_enabled = False
    with pytest.raises(RefusedError, match="semi-sync: not enabled"):
        stage.run()
    assert stage.as_found()


def test_I3_E02_after_a_fall_back_the_kill_is_refused(stage: Stage) -> None:
    stage.n("n1").semi_sync.source_active = False
    for name in ("n2", "n3"):
        stage.n(name).semi_sync.replica_enabled = False
    with pytest.raises(RefusedError, match="semi-sync: fallen back"):
        stage.run()
    assert stage.as_found()


def _lose_writes(stage: Stage) -> None:
    """Without semi-sync, the last writes before the kill reach nobody."""
    stage.n("n1").semi_sync.source_enabled = False

    def slow() -> None:
        for m in _others(stage):
            m.knobs.receive_lag = 100 * MS

    stage.at_the_kill(slow)
    stage.fleet.faults.before("crash", "*", lambda: stage.fleet.clock.sleep(90 * MS))


def test_I3_with_loss_accepted_the_report_counts_what_was_lost(stage: Stage) -> None:
    _lose_writes(stage)
    verdict = stage.run(loss=Loss.ACCEPTED)
    assert verdict.ledger is not None
    assert len(verdict.ledger.lost) > 5
    assert any("acknowledged writes are missing" in fault for fault in verdict.faults)
    assert stage.record.state is RunState.BAD


def test_I3_a_terminated_master_that_hangs_does_not_acknowledge_without_replicas(stage: Stage) -> None:
    stage.n("n1").knobs.shutdown_takes = None
    verdict = stage.run(mode=KillMode.TERMINATE, outage_budget=60 * SECOND)
    assert verdict.ledger is not None
    assert verdict.ledger.lost == ()


def test_the_new_master_has_semi_sync_armed_when_loss_is_forbidden(stage: Stage) -> None:
    stage.run()
    assert stage.master.semi_sync.source_enabled
    assert stage.master.semi_sync.acknowledged > 50
    assert stage.master.semi_sync.unacknowledged == 0


# ---- I4


@pytest.mark.parametrize("mode", [KillMode.CRASH, KillMode.TERMINATE, KillMode.FREEZE, KillMode.DRAIN])
def test_I4_without_a_proof_of_death_nobody_is_promoted(stage: Stage, mode: KillMode) -> None:
    stage.n("n1").knobs.immortal = True
    stage.n("n1").knobs.shutdown_takes = None
    with pytest.raises(CallAPersonError, match="no proof that n1 is dead"):
        stage.run(mode=mode)
    assert stage.never_promoted()
    assert stage.record.state is RunState.STUCK
    assert stage.fleet.door(CLUSTER).target == stage.n("n1").address


# ---- I5


def test_I5_E05_an_heir_that_lacks_what_a_sibling_received_is_given_it_first(stage: Stage) -> None:
    def deafen() -> None:
        for m in _others(stage):
            m.knobs.deaf = m.id.short != "n2"

    stage.at_the_kill(deafen)
    stage.fleet.faults.before("crash", "*", lambda: stage.fleet.clock.sleep(200 * MS))
    stage.fleet.faults.before("follow", "n4", lambda: setattr(stage.n("n4").knobs, "deaf", False))
    stage.fleet.faults.before("follow", "n3", lambda: setattr(stage.n("n3").knobs, "deaf", False))
    verdict = stage.run()
    assert ("follow", "n4") in stage.fleet.faults.calls
    assert any("which n2 holds and hands over" in e.detail for e in stage.record.events)
    assert verdict.good, verdict.faults
    assert verdict.heir == "memory:lab/n4"
    assert stage.sound()


def test_I5_replicas_that_have_diverged_call_a_person_and_nobody_is_promoted(stage: Stage) -> None:
    def diverge() -> None:
        stage.fleet.errant("n2")
        stage.fleet.errant("n3")

    stage.at_the_kill(diverge)
    with pytest.raises(CallAPersonError, match="diverged"):
        stage.run()
    assert stage.never_promoted()
    assert stage.record.state is RunState.STUCK


def test_I5_E04_E31_an_heir_that_does_not_apply_in_time_is_not_promoted(stage: Stage) -> None:
    def slow() -> None:
        for m in _others(stage):
            m.knobs.apply_lag = 60 * SECOND

    stage.at_the_kill(slow)
    stage.fleet.faults.before("crash", "*", lambda: stage.fleet.clock.sleep(100 * MS))
    with pytest.raises(CallAPersonError, match="did not apply what was received within 30 s"):
        stage.run()
    assert stage.never_promoted()
    assert stage.record.state is RunState.STUCK
    assert stage.n("n4").relay  # and nothing was thrown away


def test_I5_everything_received_is_applied_before_the_heir_opens(stage: Stage) -> None:
    def slow() -> None:
        for m in _others(stage):
            m.knobs.apply_lag = 700 * MS

    stage.at_the_kill(slow)
    stage.fleet.faults.before("crash", "*", lambda: stage.fleet.clock.sleep(100 * MS))
    backlog = []
    stage.fleet.faults.before("promote", "*", lambda: backlog.append(len(stage.n("n4").relay)))
    verdict = stage.run()
    assert backlog == [0]
    assert verdict.good, verdict.faults
    assert next(p.took for p in verdict.parts if p.name == "apply") > 500 * MS


@pytest.mark.parametrize("trouble", ["stopped applier", "configured delay"])
def test_E06_a_replica_that_breaks_at_the_last_moment_does_not_inherit(stage: Stage, trouble: str) -> None:
    def break_n4() -> None:
        if trouble == "stopped applier":
            stage.n("n4").stop_applier("Duplicate entry (1062)")
        else:
            stage.n("n4").knobs.delay = 5 * SECOND

    stage.at_the_kill(break_n4)
    verdict = stage.run()
    assert verdict.heir == "memory:lab/n2"


# ---- I6


def test_I6_the_victim_is_quarantined_then_deleted_and_never_started_again(stage: Stage) -> None:
    n1 = stage.n("n1")
    states = []
    stage.at(StepName.QUARANTINE, EventKind.DONE, lambda: states.append(n1.state))
    stage.run()
    assert states == [InstanceState.QUARANTINED]
    assert not n1.runs
    assert "n1" not in stage.names
    assert ("resume_source", "n1") not in stage.fleet.faults.calls


def test_I6_with_a_quarantine_the_victim_is_kept_for_so_long(stage: Stage) -> None:
    verdict = stage.run(quarantine=timedelta(hours=2))
    n1 = stage.n("n1")
    assert verdict.good, verdict.faults
    assert n1.state is InstanceState.QUARANTINED
    assert n1.quarantined_until is not None
    assert n1.quarantined_until - stage.fleet.clock.now() <= timedelta(hours=2)
    assert ("retire", "n1") not in stage.fleet.faults.calls


@pytest.mark.parametrize(
    ("method", "what"), [("quarantine", "could not quarantine n1"), ("retire", "could not retire n1")]
)
def test_I6_a_victim_that_cannot_be_put_away_makes_the_run_bad(stage: Stage, method: str, what: str) -> None:
    stage.fleet.fail(method, "n1", times=9)
    verdict = stage.run()
    assert any(fault.startswith(what) for fault in verdict.faults)
    assert stage.record.state is RunState.BAD
    assert stage.master.id.short == "n4"


def test_I6_E03_a_victim_that_alone_holds_lost_writes_is_kept_for_a_person(stage: Stage) -> None:
    _lose_writes(stage)
    verdict = stage.run(loss=Loss.ACCEPTED)
    assert verdict.ledger is not None
    assert verdict.ledger.lost
    assert stage.n("n1").state is InstanceState.QUARANTINED
    until = stage.n("n1").quarantined_until
    assert until is not None
    assert until > stage.fleet.clock.now()


@pytest.mark.parametrize(("method", "who"), [("probe_rows", "n4"), ("stop", TABLE)])
def test_I6_E03_a_victim_whose_tail_was_not_compared_is_kept_for_a_person(stage: Stage, method: str, who: str) -> None:
    stage.fleet.fail(method, who, times=9)
    verdict = stage.run()
    assert verdict.ledger is None
    assert stage.n("n1").state is InstanceState.QUARANTINED


# ---- I9

BEFORE_THE_KILL = [
    ("members", CLUSTER),
    ("write_marker", "n1"),
    ("dump_pages", "n2"),
    ("snapshot", "n2"),
    ("launch", CLUSTER),
    ("connect", "n4"),
    ("join", "n4"),
    ("wait_applied", "n4"),
    ("pages_loaded", "n4"),
    ("marker_visible", "n4"),
    ("tables", "n4"),
    ("create_probe_table", "n1"),
    ("start_probe", TABLE),
    ("ready", TABLE),
    ("endpoint", CLUSTER),
    ("warm", CLUSTER),
    ("aim", "n1"),
    ("guards", RUN),
    ("cross", "*"),
]


@pytest.mark.parametrize(("method", "who"), BEFORE_THE_KILL, ids=[m for m, _ in BEFORE_THE_KILL])
@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("mode", [KillMode.CRASH, KillMode.DRAIN])
def test_I9_a_failure_before_the_kill_leaves_the_cluster_as_it_was_found(
    stage: Stage, method: str, who: str, when: When, mode: KillMode
) -> None:
    plan = stage.plan(mode=mode)
    stage.fleet.fail(method, who, times=1, error=TryAgainError("the test broke it"), when=when)
    with pytest.raises(ReaperError):
        stage.follow(plan)
    assert stage.record.state in (RunState.UNDONE, RunState.REFUSED)
    assert stage.never_promoted()
    assert stage.as_found()


@pytest.mark.parametrize("check", range(1, 45))
def test_I9_an_abort_at_any_check_leaves_the_cluster_as_it_was_found(stage: Stage, check: int) -> None:
    stage.fleet.interrupt.abort_at_check = check
    try:
        stage.run(mode=KillMode.DRAIN)
    except AbortedError:
        assert stage.record.state is RunState.UNDONE
        assert stage.as_found()
    else:
        assert check > 36  # there were fewer checks than that before the kill
        assert stage.sound()


def test_I9_a_drained_master_is_open_again_when_a_replica_does_not_catch_up(stage: Stage) -> None:
    def lag() -> None:
        stage.n("n3").knobs.apply_lag = 60 * SECOND
        stage.fleet.clock.sleep(100 * MS)

    stage.fleet.faults.before("close_for_writes", "n1", lag)
    with pytest.raises(RefusedError, match="n3 did not apply the drained master's last writes"):
        stage.run(mode=KillMode.DRAIN)
    assert stage.master.id.short == "n1"
    assert stage.record.state is RunState.REFUSED
    stage.fleet.clock.sleep(61 * SECOND)
    assert stage.as_found()


def test_E09_a_drain_that_hangs_behind_a_long_commit_is_undone(stage: Stage) -> None:
    stage.n("n1").knobs.commit_hangs = True
    with pytest.raises(StatementTimeoutError):
        stage.run(mode=KillMode.DRAIN)
    assert stage.as_found()


def test_I9_E11_an_undo_that_fails_at_first_is_tried_again(stage: Stage) -> None:
    stage.fleet.fail("join", "n4")
    stage.fleet.fail("retire", "n4", times=9)
    with pytest.raises(ServerError):
        stage.run()
    assert stage.record.state is RunState.UNDONE
    assert stage.as_found()


def test_I9_what_cannot_be_undone_is_named_and_calls_a_person(stage: Stage) -> None:
    stage.fleet.fail("join", "n4")
    stage.fleet.fail("retire", "n4", times=1000)
    with pytest.raises(CallAPersonError, match="could not retire the replacement"):
        stage.run()
    assert stage.record.state is RunState.STUCK
    assert stage.fleet.snapshot_names == ()


def test_a_cold_snapshot_resumes_its_source_even_when_the_copy_fails(stage: Stage) -> None:
    stage.fleet.snapshot_method = SnapshotMethod.COLD
    stage.fleet.fail("snapshot", "n2", when=When.AFTER)
    with pytest.raises(ReaperError):
        stage.run()
    assert stage.as_found()


def test_a_rotation_on_a_cold_snapshot_is_good(stage: Stage) -> None:
    stage.fleet.snapshot_method = SnapshotMethod.COLD
    verdict = stage.run()
    assert verdict.good, verdict.faults
    assert stage.fleet.fewest_copies[CLUSTER] == 2
    assert stage.sound()


def test_I1_a_cold_snapshot_does_not_take_the_only_replica_away() -> None:
    stage = Stage(nodes=2)
    stage.fleet.snapshot_method = SnapshotMethod.COLD
    try:
        stage.run(min_copies=2)
    except RefusedError:
        assert stage.as_found()
    assert stage.fleet.fewest_copies[CLUSTER] >= 2


@pytest.mark.parametrize("mode", [KillMode.CRASH, KillMode.DRAIN])
def test_E11_a_master_that_cannot_be_killed_goes_on_as_master(stage: Stage, mode: KillMode) -> None:
    stage.n("n1").knobs.immortal = True
    with pytest.raises(CallAPersonError, match="its replicas follow it again"):
        stage.run(mode=mode)
    assert stage.sound()
    assert stage.master.id.short == "n1"


def test_E11_a_drained_master_that_cannot_be_shot_at_is_not_left_read_only(stage: Stage) -> None:
    stage.fleet.fail("crash", "n1", times=9)
    with pytest.raises(CallAPersonError):
        stage.run(mode=KillMode.DRAIN)
    assert stage.master.id.short == "n1"


# ---- I10


def test_I10_E17_an_unreachable_member_refuses(stage: Stage) -> None:
    stage.n("n3").state = InstanceState.FROZEN
    with pytest.raises(RefusedError, match="unreachable member"):
        stage.run()
    stage.n("n3").state = InstanceState.RUNNING
    assert stage.as_found()


def test_I10_what_cannot_be_read_refuses(stage: Stage) -> None:
    stage.n("n1").knobs.activity = None
    with pytest.raises(RefusedError, match="activity: what runs on n1 could not be read"):
        stage.run()
    assert stage.as_found()


def test_I10_unknown_lag_refuses(stage: Stage) -> None:
    stage.n("n3").knobs.apply_lag = timedelta(minutes=10)
    stage.fleet.machine("n1").commit(Verb.INSERT, ITEMS, ("late",))
    with pytest.raises(RefusedError, match="lag: n3 is"):
        stage.run()


# ---- I11


@pytest.mark.parametrize("replacement", list(Replacement))
@pytest.mark.parametrize("victim", ["n1", "n3"])
def test_I11_nothing_is_left(stage: Stage, victim: str, replacement: Replacement) -> None:
    stage.run(victim, replacement)
    assert stage.nothing_left()
    assert len(stage.names) == (2 if replacement is Replacement.NONE else 3)


def test_I11_what_cannot_be_forgotten_is_a_fault(stage: Stage) -> None:
    stage.fleet.fail("forget", "*", times=9)
    verdict = stage.run()
    assert any(fault.startswith("could not forget the snapshot") for fault in verdict.faults)


def test_I11_one_thing_that_cannot_be_forgotten_does_not_leave_the_others(stage: Stage) -> None:
    stage.fleet.fail("forget", "*", times=9)
    stage.run()
    picture = stage.fleet.picture(CLUSTER)
    assert picture.markers == ()
    assert all(tables == {ITEMS} for _, tables in picture.tables)


# ---- I12


@pytest.mark.parametrize(
    ("method", "who"),
    [("probe_rows", "n4"), ("stop", TABLE), ("wait_acknowledged", TABLE), ("forget_source", "n4")],
)
def test_I12_a_run_whose_verdict_cannot_be_formed_is_never_good(stage: Stage, method: str, who: str) -> None:
    if method == "wait_acknowledged":
        stage.at_the_kill(lambda: stage.fleet.fail(method, who, times=9))
    else:
        stage.fleet.fail(method, who, times=9)
    try:
        verdict = stage.run()
    except CallAPersonError:
        assert stage.record.state is RunState.STUCK
    else:
        assert not verdict.good
        assert stage.record.state is RunState.BAD


@pytest.mark.parametrize(("method", "who"), [("probe_rows", "n4"), ("forget_source", "n4"), ("stop", TABLE)])
def test_I6_I12_a_failure_after_the_promotion_still_puts_the_victim_away(stage: Stage, method: str, who: str) -> None:
    stage.fleet.fail(method, who, times=9)
    assert not stage.run().good
    assert ("quarantine", "n1") in stage.fleet.faults.calls
    assert stage.master.id.short == "n4"
    assert stage.record.state is RunState.BAD


def test_I12_a_client_that_never_comes_back_makes_the_run_bad(stage: Stage) -> None:
    stage.fleet.faults.before("promote", "*", lambda: stage.fleet.probes[0].hang(1))
    verdict = stage.run(failover_within=3 * SECOND)
    assert verdict.outage is None
    assert any("never had a write acknowledged again" in fault for fault in verdict.faults)


def test_I12_nothing_is_killed_when_the_probe_has_ended(stage: Stage) -> None:
    stage.at(StepName.PROBE, EventKind.DONE, lambda: stage.fleet.faults.before("aim", "*", silence))

    def silence() -> None:
        for client in range(3):
            stage.fleet.probes[0].hang(client)

    with pytest.raises(RefusedError, match="nobody would see the outage"):
        stage.run()
    assert ("crash", "n1") not in stage.fleet.faults.calls
    stage.as_found()


def test_I12_an_exceeded_budget_is_a_fault(stage: Stage) -> None:
    verdict = stage.run(outage_budget=MS)
    assert any("exceeds the budget of 1 ms" in fault for fault in verdict.faults)
    assert stage.record.state is RunState.BAD


def test_I12_a_sibling_that_does_not_replicate_after_the_repoint_is_a_fault(stage: Stage) -> None:
    stage.at(StepName.SETTLE, EventKind.STARTED, lambda: stage.n("n3").stop_receiver("error 1236"))
    verdict = stage.run()
    assert any("n3" in fault for fault in verdict.faults)


def test_a_run_that_is_stuck_after_the_kill_has_the_kill_in_its_timeline(stage: Stage) -> None:
    stage.n("n1").knobs.immortal = True
    with pytest.raises(CallAPersonError):
        stage.run()
    assert StepName.KILL in {e.step for e in stage.record.events}


# ---- what happens between the guards and the kill, and during the cutover


def test_a_replica_that_dies_between_the_guards_and_the_kill_is_a_fault_and_the_heir_is_promoted(
    stage: Stage,
) -> None:
    stage.at_the_kill(lambda: stage.fleet.kill("n3"))
    verdict = stage.run()
    assert verdict.heir == "memory:lab/n4"
    assert any("n3 did not answer during the cutover" in fault for fault in verdict.faults)
    assert stage.record.state is RunState.BAD
    assert verdict.ledger is not None
    assert verdict.ledger.lost == ()


def test_a_prepared_heir_that_dies_at_the_last_moment_is_not_missed(stage: Stage) -> None:
    stage.at_the_kill(lambda: stage.fleet.kill("n4"))
    verdict = stage.run()
    assert verdict.heir == "memory:lab/n2"
    assert not verdict.good


def test_a_master_that_dies_by_itself_before_the_kill_is_failed_over_all_the_same(stage: Stage) -> None:
    stage.at_the_kill(lambda: stage.fleet.kill("n1"))
    verdict = stage.run()
    assert verdict.good, verdict.faults
    assert stage.sound()


def test_a_replica_that_dies_while_the_replacement_is_built_undoes_the_run(stage: Stage) -> None:
    stage.at(StepName.JOIN, EventKind.DONE, lambda: stage.fleet.kill("n3"))
    with pytest.raises(RefusedError, match="dead member"):
        stage.run()
    assert stage.names == ["n1", "n2", "n3"]
    assert stage.master.id.short == "n1"
    assert stage.nothing_left()


def test_a_sibling_that_cannot_follow_at_once_is_tried_again(stage: Stage) -> None:
    stage.fleet.fail("follow", "n3", times=5)
    verdict = stage.run()
    assert verdict.good, verdict.faults
    assert stage.sound()


def test_a_sibling_that_can_never_follow_is_a_fault_and_delays_nobody(stage: Stage) -> None:
    stage.fleet.fail("follow", "n3", times=1000)
    verdict = stage.run()
    assert any("n3 could not be made to follow n4" in fault for fault in verdict.faults)
    assert verdict.outage is not None
    assert verdict.outage < SECOND


def test_an_endpoint_that_somebody_else_moved_calls_a_person(stage: Stage) -> None:
    elsewhere = stage.n("n3").address
    stage.fleet.faults.before("route", CLUSTER, lambda: stage.fleet.door(CLUSTER).lead(elsewhere))
    with pytest.raises(CallAPersonError, match="leads to"):
        stage.run()
    assert stage.record.state is RunState.STUCK


def test_a_read_only_server_does_not_accept_the_probe(stage: Stage) -> None:
    stage.fleet.faults.before("start_probe", "*", lambda: setattr(stage.n("n1"), "openness", stage.n("n2").openness))
    with pytest.raises(ReaperError):
        stage.run()
    assert stage.record.state is RunState.STUCK  # the probe's table cannot be dropped on a read-only master


# ---- kill: the unplanned death is rehearsed


def test_the_kill_of_a_replica_shows_the_steps_that_its_plan_showed(stage: Stage) -> None:
    plan = stage.plan("n3", Replacement.NONE)
    stage.follow(plan)
    assert {e.step for e in stage.record.events} <= {s.name for s in plan.steps}


@pytest.mark.parametrize("mode", [KillMode.CRASH, KillMode.TERMINATE, KillMode.FREEZE])
@pytest.mark.parametrize(
    ("replacement", "left"),
    [
        (Replacement.NONE, ["n1", "n2"]),
        (Replacement.AFTER, ["n1", "n2", "n4"]),
        (Replacement.BEFORE, ["n1", "n2", "n4"]),
    ],
)
def test_the_kill_of_a_replica_costs_no_client_anything(
    stage: Stage, mode: KillMode, replacement: Replacement, left: list[str]
) -> None:
    verdict = stage.run("n3", replacement, mode=mode)
    assert verdict.good, verdict.faults
    assert stage.names == left
    assert verdict.heir is None
    assert verdict.outage is not None
    assert verdict.outage <= 30 * MS
    assert stage.master.id.short == "n1"
    assert stage.sound()
    assert stage.nothing_left()


@pytest.mark.parametrize(("replacement", "size"), [(Replacement.NONE, 2), (Replacement.AFTER, 3)])
def test_the_kill_of_a_master_promotes_a_replica(stage: Stage, replacement: Replacement, size: int) -> None:
    verdict = stage.run(replacement=replacement)
    assert verdict.good, verdict.faults
    assert verdict.heir == "memory:lab/n2"
    assert verdict.copies_after == size
    assert stage.sound()
    assert stage.nothing_left()


def test_a_replacement_that_cannot_be_built_afterwards_is_a_fault_and_leaves_nothing(stage: Stage) -> None:
    stage.fleet.fail("join", "n4", times=9)
    verdict = stage.run(replacement=Replacement.AFTER)
    assert any(fault.startswith("could not restore the cluster's size") for fault in verdict.faults)
    assert stage.names == ["n1", "n2", "n3"]  # E16: what was not replaced is not deleted
    assert stage.n("n1").state is InstanceState.QUARANTINED
    assert stage.nothing_left()


def test_E16_a_victim_that_was_not_replaced_outlives_the_next_sweep(stage: Stage) -> None:
    stage.fleet.fail("join", "n4", times=9)
    stage.run(replacement=Replacement.AFTER)
    until = stage.n("n1").quarantined_until
    assert until is not None
    assert until > stage.fleet.clock.now()


def test_I1_a_cold_copy_afterwards_does_not_take_the_last_replica_away(stage: Stage) -> None:
    stage.fleet.snapshot_method = SnapshotMethod.COLD
    try:
        stage.run(replacement=Replacement.AFTER, min_copies=2)
    except RefusedError:
        assert stage.as_found()
    assert stage.fleet.fewest_copies[CLUSTER] >= 2


def test_the_replacement_built_afterwards_is_not_copied_from_the_new_master(stage: Stage) -> None:
    stage.run(replacement=Replacement.AFTER)
    (copied,) = [who for method, who in stage.fleet.faults.calls if method == "snapshot"]
    assert copied != stage.master.id.short


def test_a_cold_copy_afterwards_does_not_stop_the_new_master() -> None:
    stage = Stage(nodes=4)
    stage.fleet.snapshot_method = SnapshotMethod.COLD
    died = []
    stage.fleet.deaths.append(lambda m: died.append(m.id.short))
    stage.run(replacement=Replacement.AFTER)
    assert died == ["n1", "n3", "n5"]  # the victim, the source of the cold copy, the copy for its clean restart


# ---- failover by somebody else


def test_a_failover_tool_is_watched_and_graded(stage: Stage) -> None:
    FailoverTool(stage.fleet, CLUSTER, after=800 * MS)
    verdict = stage.run(failover=FailoverBy.OBSERVE)
    assert verdict.good, verdict.faults
    assert verdict.outage is not None
    assert 800 * MS < verdict.outage < 900 * MS
    assert verdict.heir == f"memory:lab/{stage.master.id.short}"
    assert stage.never_promoted()
    assert stage.fleet.most_writable == 1
    assert stage.nothing_left()


def test_a_failover_tool_that_is_slower_than_the_budget_is_bad(stage: Stage) -> None:
    FailoverTool(stage.fleet, CLUSTER, after=4 * SECOND)
    verdict = stage.run(failover=FailoverBy.OBSERVE)
    assert any("exceeds the budget" in fault for fault in verdict.faults)


def test_where_nobody_fails_over_the_victims_files_are_kept_and_the_fault_says_so(stage: Stage) -> None:
    verdict = stage.run(failover=FailoverBy.OBSERVE, failover_within=5 * SECOND)
    assert any("the victim's files are kept" in fault for fault in verdict.faults)
    assert stage.n("n1").state is InstanceState.QUARANTINED
    assert ("retire", "n1") not in stage.fleet.faults.calls
    assert stage.never_promoted()
    assert stage.record.state is RunState.BAD


def test_where_nobody_fails_over_the_kept_files_outlive_the_next_sweep(stage: Stage) -> None:
    stage.run(failover=FailoverBy.OBSERVE, failover_within=5 * SECOND)
    until = stage.n("n1").quarantined_until
    assert until is not None
    assert until > stage.fleet.clock.now()


def test_I12_a_ledger_that_could_not_be_compared_is_not_reported_as_lost(stage: Stage) -> None:
    FailoverTool(stage.fleet, CLUSTER, after=500 * MS)
    # The tool leaves a sibling behind: the topology is not sound, but the new master has every row.
    stage.fleet.deaths.append(
        lambda m: (
            stage.fleet.clock.after(600 * MS, lambda: stage.n("n3").follow(m.address)) if m.id.short == "n1" else None
        )
    )
    verdict = stage.run(failover=FailoverBy.OBSERVE)
    assert not verdict.good
    assert not any("acknowledged writes are missing" in fault for fault in verdict.faults)


def test_a_failover_tool_may_repoint_the_siblings_after_it_opened_the_heir(stage: Stage) -> None:
    FailoverTool(stage.fleet, CLUSTER, after=500 * MS, apart=300 * MS)
    verdict = stage.run(failover=FailoverBy.OBSERVE)
    assert verdict.good, verdict.faults
    assert stage.sound()


# ---- before anything is built


def test_the_guards_run_before_anything_is_built_and_again_right_before_the_kill(stage: Stage) -> None:
    stage.run()
    assert len(stage.record.guards) == 2


def test_E01_an_errant_transaction_refuses_and_names_the_interval(stage: Stage) -> None:
    stage.fleet.errant("n3")
    with pytest.raises(RefusedError, match=r"errant: n3 executed 0-3-\d+"):
        stage.run()


def test_E28_a_full_disk_refuses(stage: Stage) -> None:
    stage.n("n2").free_bytes = stage.n("n3").free_bytes = 2**20
    with pytest.raises(RefusedError, match="disk: the replacement needs"):
        stage.run()
    assert stage.as_found()


def test_E29_the_replacement_has_a_server_id_that_nobody_ever_had(stage: Stage) -> None:
    stage.run()
    stage.again("n4")
    assert sorted(m.server_id for m in stage.fleet.machines(CLUSTER)) == [2, 3, 5]


def test_E26_a_launch_whose_answer_was_lost_leaves_no_orphan(stage: Stage) -> None:
    stage.fleet.fail("launch", CLUSTER, error=ServerGoneError("the answer was lost"), when=When.AFTER)
    with pytest.raises(ServerGoneError):
        stage.run()
    assert stage.as_found()


def test_the_marker_row_is_gone_after_a_refusal(stage: Stage) -> None:
    with pytest.raises(RefusedError):
        stage.run(min_copies=7)
    assert all(not m.tables.get(MARKER) for m in stage.fleet.machines(CLUSTER))
    assert stage.as_found()


def test_a_victim_that_does_not_exist_is_refused(stage: Stage) -> None:
    with pytest.raises(RefusedError, match="is not a living member"):
        stage.run("n9")
    assert stage.as_found()


def another_reaper(stage: Stage, who: str) -> Server:
    """The session of a reaper with another store."""
    instance = next(i for i in stage.fleet.members(CLUSTER) if i.id.short == who)
    return stage.world.connect(CLUSTER, instance)


def test_E13_a_reaper_with_another_store_is_refused_and_named() -> None:
    stage = Stage()
    other = another_reaper(stage, "n1")
    assert other.claim("their-run") is None
    with pytest.raises(RefusedError, match=r"another reaper.*session of their-run holds its lock on n1"):
        stage.run()
    assert stage.as_found()
    other.close()
    assert stage.again("n1").good, "the lock dies with its session"


def test_E13_another_reaper_that_comes_during_the_preparation_is_seen_before_the_kill() -> None:
    """Our own session breaks, and somebody else is quicker."""
    stage = Stage()
    thieves: list[str | None] = []

    def steal() -> None:
        stage.n("n1").claim = None
        thieves.append(another_reaper(stage, "n1").claim("their-run"))

    stage.at(StepName.LAUNCH, EventKind.DONE, steal)
    with pytest.raises(RefusedError, match="another reaper"):
        stage.run()
    assert thieves == [None]
    assert stage.as_found()


def test_E13_after_the_failover_the_lock_is_held_on_the_new_master_and_given_back_at_the_end() -> None:
    stage = Stage()
    answers: list[str | None] = []
    stage.at(
        StepName.LAUNCH,
        EventKind.DONE,
        lambda: answers.append(another_reaper(stage, stage.master.id.short).claim("their-run")),
    )
    assert stage.run(replacement=Replacement.AFTER).good
    assert answers == [f"the session of {RUN}"]
    assert another_reaper(stage, stage.master.id.short).claim("their-run") is None


def test_I5_a_replica_whose_answer_is_lost_is_asked_again_for_what_it_alone_acknowledged(stage: Stage) -> None:
    stage.n("n2").knobs.receive_lag = 100 * MS
    stage.fleet.fail("halt", "n3")
    verdict = stage.run(replacement=Replacement.AFTER)
    assert verdict.ledger is not None
    assert verdict.ledger.lost == ()
    assert verdict.good, verdict.faults


@pytest.mark.parametrize(
    "error", [TryAgainError("throttled"), ServerError("no answer")], ids=["throttles", "is silent"]
)
def test_I12_a_provider_that_cannot_be_asked_at_the_last_look_does_not_silence_the_run(
    stage: Stage, error: ReaperError
) -> None:
    def trouble() -> None:
        stage.fleet.fail("members", times=3, error=error)

    stage.fleet.faults.before("record", "check the topology", trouble)
    assert stage.run().good
    assert stage.record.state is RunState.GOOD
