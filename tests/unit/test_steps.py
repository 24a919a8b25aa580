"""The ordered steps of a plan."""

import pytest
from builders import channel, gtids, iid, master, replica, silent, trio, view, with_instance

from reaper.domain.facts import ClusterView, InstanceState, ThreadState
from reaper.domain.plan import Phase, Plan, Replacement, Role, StepName
from reaper.domain.policy import FailoverBy, KillMode, Policy
from reaper.planner.steps import Request, make_plan, role_of, snapshot_source

BUILD = [
    StepName.SNAPSHOT,
    StepName.LAUNCH,
    StepName.JOIN,
    StepName.RESTART,
    StepName.COMPARE,
    StepName.PARITY,
    StepName.WARM,
    StepName.VERIFY,
]
SUCCESSION = [
    StepName.FENCE,
    StepName.ELECT,
    StepName.APPLY,
    StepName.PROMOTE,
    StepName.REPOINT,
    StepName.REROUTE,
]
SETTLED = [StepName.NORMAL, StepName.SETTLE, StepName.DISSECT]
PUT_AWAY = [StepName.QUARANTINE, StepName.RETIRE, StepName.FORGET]


def planned(
    victim: str = "n1",
    replacement: Replacement = Replacement.BEFORE,
    observed: ClusterView | None = None,
    **policy: object,
) -> Plan:
    request = Request(
        run="run-1",
        victim=iid(victim),
        policy=Policy(**policy),  # type: ignore[arg-type]  # a builder trusts its tests
        replacement=replacement,
        why="a test asks",
        seed=7,
    )
    return make_plan(observed or view(*trio()), request)


ORDERS = [
    pytest.param(
        planned(),
        [*BUILD, StepName.REHEARSE, StepName.PROBE, StepName.KILL, *SUCCESSION, *SETTLED, *PUT_AWAY],
        id="I1 a rotation of a master adds before it removes",
    ),
    pytest.param(
        planned(replacement=Replacement.AFTER),
        [StepName.PROBE, StepName.KILL, *SUCCESSION, *SETTLED, *BUILD, *PUT_AWAY],
        id="a kill of a master restores the size afterwards",
    ),
    pytest.param(
        planned(replacement=Replacement.NONE),
        [StepName.PROBE, StepName.KILL, *SUCCESSION, *SETTLED, *PUT_AWAY],
        id="a kill of a master without replacement builds nothing",
    ),
    pytest.param(
        planned(mode=KillMode.DRAIN),
        [*BUILD, StepName.REHEARSE, StepName.PROBE, StepName.DRAIN, StepName.KILL, *SUCCESSION, *SETTLED, *PUT_AWAY],
        id="a drain comes right before the kill",
    ),
    pytest.param(
        planned("n3", Replacement.NONE),
        [StepName.PROBE, StepName.KILL, StepName.FENCE, StepName.SETTLE, *PUT_AWAY],
        id="a kill of a replica has no succession",
    ),
    pytest.param(
        planned("n3"),
        [*BUILD, StepName.PROBE, StepName.KILL, StepName.FENCE, StepName.SETTLE, *PUT_AWAY],
        id="a rotation of a replica",
    ),
    pytest.param(
        planned(failover=FailoverBy.OBSERVE),
        [*BUILD, StepName.PROBE, StepName.KILL, StepName.WATCH, StepName.SETTLE, StepName.DISSECT, *PUT_AWAY],
        id="where somebody else fails over reaper only watches",
    ),
]


@pytest.mark.parametrize(("plan", "steps"), ORDERS)
def test_the_steps_in_their_order(plan: Plan, steps: list[StepName]) -> None:
    assert [s.name for s in plan.steps] == steps


@pytest.mark.parametrize(("plan", "steps"), ORDERS)
def test_I9_the_phases_never_go_back(plan: Plan, steps: list[StepName]) -> None:
    del steps
    phases = [list(Phase).index(s.phase) for s in plan.steps]
    assert phases == sorted(phases)


def test_I4_the_fence_comes_before_every_promotion() -> None:
    names = [s.name for s in planned().steps]
    assert names.index(StepName.KILL) < names.index(StepName.FENCE) < names.index(StepName.PROMOTE)


def test_a_plan_keeps_what_was_decided() -> None:
    plan = planned()
    assert (plan.run, plan.cluster, plan.seed, plan.size) == ("run-1", "lab", 7, 3)
    assert (plan.victim, plan.role, plan.snapshot_from) == (iid("n1"), Role.MASTER, iid("n2"))


def test_the_size_does_not_count_the_quarantined() -> None:
    assert planned(observed=view(*trio(), silent("n9", InstanceState.QUARANTINED))).size == 3


def test_without_a_replacement_nothing_is_copied() -> None:
    assert planned(replacement=Replacement.NONE).snapshot_from is None


def _stopped(name: str) -> object:
    return replica(name, channels=(channel("n1", applier=ThreadState.STOPPED),))


SOURCES = [
    pytest.param(trio(), "n1", "n2", id="all equal: the lowest server id"),
    pytest.param(trio(), "n2", "n3", id="never the victim"),
    pytest.param(
        (master("n1"), with_instance(replica("n2"), free_bytes=1), replica("n3")),
        "n1",
        "n3",
        id="one with room for the copy",
    ),
    pytest.param(
        (master("n1"), with_instance(replica("n2"), free_bytes=None), replica("n3")),
        "n1",
        "n3",
        id="E28 unknown free space counts as none",
    ),
    pytest.param((master("n1"), _stopped("n2"), replica("n3")), "n1", "n3", id="not a stopped applier"),
    pytest.param(
        (master("n1"), replica("n2", channels=(channel("n1", applier_error="1062"),)), replica("n3")),
        "n1",
        "n3",
        id="not one with an error",
    ),
    pytest.param((master("n1"), silent("n2"), replica("n3")), "n1", "n3", id="not an unreachable one"),
    pytest.param((master("n1"), silent("n2", InstanceState.DEAD)), "n1", None, id="nobody is left"),
    pytest.param((master("n1"), replica("n2")), "n2", None, id="never the master"),
]


@pytest.mark.parametrize(("members", "victim", "expected"), SOURCES)
def test_which_replica_is_copied(members: tuple, victim: str, expected: str | None) -> None:  # type: ignore[type-arg]
    source = snapshot_source(view(*members), spare=iid(victim))
    assert source == (iid(expected) if expected else None)


@pytest.mark.parametrize(
    ("members", "name", "role"),
    [
        pytest.param(trio(), "n1", Role.MASTER, id="the master"),
        pytest.param(trio(), "n2", Role.REPLICA, id="a replica"),
        pytest.param((master("n1"), master("n2")), "n2", Role.MASTER, id="two masters: both are"),
        pytest.param((replica("n1", of="n2"), replica("n2", of="n1")), "n2", Role.REPLICA, id="in a ring"),
        pytest.param((silent("n1"), replica("n2")), "n1", Role.MASTER, id="unreachable: the worse case"),
        pytest.param(trio(), "n9", Role.REPLICA, id="unknown to a sound cluster: not its master"),
        pytest.param((master("n1", executed=gtids("")), replica("n2")), "n1", Role.MASTER, id="an empty master"),
    ],
)
def test_the_role_of_an_instance(members: tuple, name: str, role: Role) -> None:  # type: ignore[type-arg]
    assert role_of(view(*members), iid(name)) is role
