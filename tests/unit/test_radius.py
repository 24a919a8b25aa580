"""The blast radius: what exceeds it is aborted before any action, with the numbers in words."""

from dataclasses import replace

import pytest
from builders import instance

from reaper.domain.facts import Instance, InstanceId
from reaper.domain.plan import Role
from reaper.domain.standing import Limit, Limits, Scope, StandingPolicy, Target
from reaper.planner.radius import Exceeded, Within, count_living, of_next, of_selection
from reaper.planner.selection import Candidate, DueInstance, Selection


def placed(cluster: int, number: int, *, group: str | None, zone: str | None) -> Instance:
    return replace(instance(f"n{number}"), id=InstanceId("memory", f"c{cluster}/n{number}"), group=group, zone=zone)


def candidate(number: int, group: str | None = "g", zones: tuple[str | None, ...] = ("a", "b", "c")) -> Candidate:
    members = tuple(
        (Role.REPLICA if i else Role.MASTER, placed(number, i + 1, group=group, zone=zone))
        for i, zone in enumerate(zones)
    )
    return Candidate(cluster=f"c{number}", provider="memory", tags=frozenset(), members=members, unfit=None)


# Ten clusters of three: groups g0 and g1 have five each; every master is in zone a.
FLEET = tuple(candidate(i, f"g{i % 2}") for i in range(10))
LIVING = count_living(FLEET)


def masters(*numbers: int) -> Selection:
    """The masters of these clusters are due; the policy targets the first five clusters."""
    due = tuple(
        DueInstance(cluster=f"c{i}", role=Role.MASTER, instance=FLEET[i].members[0][1], why=("old",)) for i in numbers
    )
    return Selection(policy="p", seed=1, due=due, spared=(), targeted=5, living=15)


def policy(*limits: Limit) -> StandingPolicy:
    return StandingPolicy(name="p", target=Target(), limits=Limits(in_flight=limits, selection=limits))


@pytest.mark.parametrize(
    ("limit", "chosen", "why"),
    [
        pytest.param(Limit(scope=Scope.FLEET, count=2), (0, 1), None, id="fleet: as many as are allowed"),
        pytest.param(
            Limit(scope=Scope.FLEET, count=2),
            (0, 1, 2),
            "3 of 30 instances of the fleet (10.0 %) would die, the policy allows 2",
            id="fleet: one more",
        ),
        pytest.param(Limit(scope=Scope.FLEET, percent=10), (0, 1, 2), None, id="fleet: exactly the percentage"),
        pytest.param(
            Limit(scope=Scope.FLEET, percent=9),
            (0, 1, 2),
            "3 of 30 instances of the fleet (10.0 %) would die, the policy allows 9 %",
            id="fleet: above the percentage",
        ),
        pytest.param(
            Limit(scope=Scope.POLICY, percent=10),
            (0, 1),
            "2 of 15 instances of what the policy targets (13.3 %)",
            id="policy: of its own target",
        ),
        pytest.param(Limit(scope=Scope.SHARD_GROUP, count=1), (0, 1), None, id="shard group: one in each"),
        pytest.param(
            Limit(scope=Scope.SHARD_GROUP, count=1), (0, 2), "2 of 15 instances of the shard group g0", id="both in one"
        ),
        pytest.param(
            Limit(scope=Scope.ZONE, percent=10), (0, 1), "2 of 10 instances of the zone a (20.0 %)", id="zone: percent"
        ),
        pytest.param(Limit(scope=Scope.ZONE, percent=1), (4,), None, id="one is never too many percent"),
        pytest.param(Limit(scope=Scope.ZONE, count=5, percent=20), (0, 1, 2), "the policy allows 20 %", id="both hold"),
    ],
)
def test_a_selection_is_held_against_its_limit(limit: Limit, chosen: tuple[int, ...], why: str | None) -> None:
    radius = of_selection(policy(limit), masters(*chosen), LIVING)
    if why is None:
        assert isinstance(radius, Within)
    else:
        assert isinstance(radius, Exceeded)
        assert why in "; ".join(radius.why)


def test_every_limit_that_is_exceeded_is_named_and_the_worst_part_of_every_scope_is_shown() -> None:
    limits = (
        Limit(scope=Scope.FLEET, count=1),
        Limit(scope=Scope.SHARD_GROUP, count=1),
        Limit(scope=Scope.ZONE, count=9),
    )
    radius = of_selection(policy(*limits), masters(0, 2, 1), LIVING)
    assert isinstance(radius, Exceeded)
    assert [w.split(" would")[0] for w in radius.why] == [
        "3 of 30 instances of the fleet (10.0 %)",
        "2 of 15 instances of the shard group g0 (13.3 %)",
    ]
    assert [(p.scope, p.name, p.dying) for p in radius.parts] == [
        (Scope.FLEET, "", 3),
        (Scope.SHARD_GROUP, "g0", 2),
        (Scope.ZONE, "a", 3),
    ]


def test_no_limit_and_nobody_due_are_within() -> None:
    assert of_selection(policy(), masters(0, 1, 2), LIVING) == Within(parts=())
    assert isinstance(of_selection(policy(Limit(scope=Scope.ZONE, count=1)), masters(), LIVING), Within)


def test_unknown_zones_and_groups_count_as_one() -> None:
    """Not knowing where two instances are never lets both die (I10)."""
    fleet = tuple(candidate(i, None, (None, None)) for i in range(10))
    due = tuple(DueInstance(cluster=c.cluster, role=Role.MASTER, instance=c.members[0][1], why=()) for c in fleet[:2])
    selection = Selection(policy="p", seed=1, due=due, spared=(), targeted=10, living=20)
    limits = (Limit(scope=Scope.ZONE, count=1), Limit(scope=Scope.SHARD_GROUP, count=1))
    radius = of_selection(policy(*limits), selection, count_living(fleet))
    assert isinstance(radius, Exceeded)
    assert [w.split(" would")[0] for w in radius.why] == [
        "2 of 20 instances of the zone unknown (10.0 %)",
        "2 of 20 instances of the shard group unknown (10.0 %)",
    ]


@pytest.mark.parametrize(
    ("in_flight", "wanted", "within"),
    [
        pytest.param((), 0, True, id="the first"),
        pytest.param((0,), 1, True, id="one in another group"),
        pytest.param((0,), 2, False, id="a second in the same group waits"),
        pytest.param((0, 1), 3, False, id="a second in the other group waits"),
    ],
)
def test_one_more_begins_only_beside_as_many_as_the_limit_allows(
    in_flight: tuple[int, ...], wanted: int, within: bool
) -> None:
    flying = tuple(FLEET[i].members[0][1] for i in in_flight)
    asked = policy(Limit(scope=Scope.SHARD_GROUP, count=1))
    radius = of_next(asked, flying, FLEET[wanted].members[0][1], LIVING, masters())
    assert isinstance(radius, Within) is within
