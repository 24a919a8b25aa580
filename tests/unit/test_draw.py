"""The draw: fair, replayable, and only among those that the choice of role allows."""

import pytest
from builders import iid

from reaper.domain.plan import Role
from reaper.planner.draw import Eligible, RoleChoice, draw, eligible_for

POOL = tuple(
    Eligible(cluster=cluster, instance=iid(name), role=role)
    for cluster in ("a", "b")
    for name, role in (("n1", Role.MASTER), ("n2", Role.REPLICA), ("n3", Role.REPLICA))
)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        pytest.param(RoleChoice.MASTER, {"n1"}, id="a master"),
        pytest.param(RoleChoice.REPLICA, {"n2", "n3"}, id="a replica"),
        pytest.param(RoleChoice.ANY, {"n1", "n2", "n3"}, id="anybody"),
    ],
)
def test_only_the_chosen_role_is_in_the_pool(choice: RoleChoice, names: set[str]) -> None:
    assert {e.instance.short for e in eligible_for(POOL, choice)} == names


def test_nobody_is_eligible_in_an_empty_pool() -> None:
    assert eligible_for((), RoleChoice.ANY) == ()


@pytest.mark.parametrize("seed", [0, 1, 7, 2**63])
def test_the_same_seed_draws_the_same_victim_whatever_the_order(seed: int) -> None:
    assert draw(POOL, seed=seed) == draw(POOL, seed=seed) == draw(POOL[::-1], seed=seed)


def test_every_instance_is_drawn_about_as_often() -> None:
    drawn = [draw(POOL, seed=seed) for seed in range(600)]
    counts = [drawn.count(e) for e in POOL]
    assert min(counts) > 60
    assert max(counts) < 150


def test_one_candidate_is_drawn_for_certain() -> None:
    assert draw(POOL[:1], seed=3) == POOL[0]
