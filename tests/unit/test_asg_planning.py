"""Which instances of a group are replaced, in which order, and what every guard refuses, by name."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from reaper.domain.facts import Image
from reaper.domain.groups import (
    Draining,
    Floor,
    GroupPolicy,
    MemberState,
    Order,
    Registration,
    Suspension,
    TargetState,
    Transition,
)
from reaper.domain.verdict import Ruling
from reaper.planner.groups import GroupCase, judge_group, plan_group
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Faults
from reaper.testing.groups import MemoryGroup

DAY = timedelta(days=1)
FLOOR = Floor(count=5)


@pytest.fixture
def group() -> MemoryGroup:
    """Six members, 30, 29, ... 25 days old, of a stale image, in three zones."""
    return MemoryGroup(FakeClock(), Faults())


def _plan(group: MemoryGroup, seed: int = 1, **policy: object) -> tuple[list[str], dict[str, str]]:
    limits = GroupPolicy(floor=FLOOR, **policy)  # type: ignore[arg-type]  # a table's row
    plan = plan_group(group.view("web"), limits, run="run-1", seed=seed)
    return [v.id.short for v in plan.victims], {s.id.short: s.why for s in plan.spared}


def test_the_oldest_go_first(group: MemoryGroup) -> None:
    victims, spared = _plan(group)
    assert victims == ["i-1", "i-2", "i-3", "i-4", "i-5", "i-6"]
    assert spared == {}


def test_only_those_of_a_stale_image_go_if_the_policy_says_so(group: MemoryGroup) -> None:
    group.change(group.n(1), image=Image(name="image-2", newest="image-2"))
    group.change(group.n(2), image=Image(name="image-1", newest=None))
    group.change(group.n(3), image=None)
    victims, spared = _plan(group, stale_image=True)
    assert victims == ["i-4", "i-5", "i-6"]
    assert spared == {
        "i-1": "its image is the newest",
        "i-2": "whether its image is stale is unknown",
        "i-3": "whether its image is stale is unknown",
    }


def test_those_of_a_stale_image_go_first_if_the_order_says_so(group: MemoryGroup) -> None:
    group.change(group.n(1), image=Image(name="image-2", newest="image-2"))
    group.change(group.n(3), image=None)
    assert _plan(group, order=Order.STALE)[0] == ["i-2", "i-4", "i-5", "i-6", "i-1", "i-3"]


def test_too_old_or_of_a_stale_image_is_enough(group: MemoryGroup) -> None:
    for number in (1, 2, 3, 4, 5):
        group.change(group.n(number), image=Image(name="image-2", newest="image-2"))
    victims, spared = _plan(group, max_age=28 * DAY, stale_image=True)
    assert victims == ["i-1", "i-2", "i-6"]
    assert spared["i-3"] == "it is 28 days old, not more than 28 days and its image is the newest"


def test_only_those_go_that_have_opted_in_if_that_is_asked_for(group: MemoryGroup) -> None:
    group.change(group.n(2), tags=(("chaos", "yes"),))
    group.change(group.n(3), tags=(("chaos", "no"),))
    victims, spared = _plan(group, opt_in=(("chaos", "y*"),))
    assert victims == ["i-2"]
    assert spared["i-3"] == "it has not opted in with chaos=y*"


def test_only_those_that_are_too_old_go_and_an_unknown_age_is_not_old(group: MemoryGroup) -> None:
    group.change(group.n(2), created=None)
    victims, spared = _plan(group, max_age=28 * DAY)
    assert victims == ["i-1"]
    assert spared["i-2"] == "its age is unknown"
    assert spared["i-3"] == "it is 28 days old, not more than 28 days"


def test_a_draw_can_be_replayed_from_its_seed(group: MemoryGroup) -> None:
    draws = {seed: _plan(group, seed, order=Order.RANDOM, at_most=1)[0] for seed in range(40)}
    assert draws == {seed: _plan(group, seed, order=Order.RANDOM, at_most=1)[0] for seed in range(40)}
    assert {name for (name,) in draws.values()} == {f"i-{n}" for n in range(1, 7)}


def test_a_run_takes_no_more_than_the_policy_says(group: MemoryGroup) -> None:
    victims, spared = _plan(group, at_most=2)
    assert victims == ["i-1", "i-2"]
    assert spared["i-3"] == "the run replaces at most 2"


SPARED: dict[str, tuple[dict[str, object], str]] = {
    "one that is protected from scale-in": ({"protected": True}, "protected from scale-in"),
    "one that is opted out": ({"tags": (("reaper:opt-out", ""),)}, "opted out"),
    "one that is protected for a while": ({"tags": (("reaper:protect-until", "2099-01-01"),)}, "until 2099-01-01"),
    "one whose protection is no date": ({"tags": (("reaper:protect-until", "soon"),)}, "which is no date"),
    "one whose tags are unreadable": ({"tags": None}, "unreadable"),
    "one that is on standby": ({"state": MemberState.STANDBY}, "it is standby"),
    "one that is pending": ({"state": MemberState.PENDING}, "it is pending"),
    "one in a state that nobody knows": ({"state": MemberState.OTHER}, "it is other"),
}


@pytest.mark.parametrize("who", list(SPARED))
def test_the_plan_leaves_alone(group: MemoryGroup, who: str) -> None:
    changes, why = SPARED[who]
    group.change(group.n(1), **changes)
    victims, spared = _plan(group)
    assert victims == ["i-2", "i-3", "i-4", "i-5", "i-6"]
    assert why in spared["i-1"]


@pytest.mark.parametrize("who", list(SPARED))
def test_the_guard_refuses_who_has_become_untouchable_since_the_plan(group: MemoryGroup, who: str) -> None:
    changes, why = SPARED[who]
    group.change(group.n(1), **changes)
    refused = _refused(group)
    assert "victim" in refused
    assert why in refused["victim"]


def test_a_protection_whose_time_is_over_protects_no_more(group: MemoryGroup) -> None:
    group.change(group.n(1), tags=(("reaper:protect-until", "2020-01-01"),))
    assert "i-1" in _plan(group)[0]


# ---- guards


def _refused(group: MemoryGroup, policy: GroupPolicy | None = None) -> dict[str, str]:
    case = GroupCase(view=group.view("web"), victim=group.n(1), policy=policy or GroupPolicy(floor=FLOOR))
    return {v.guard: v.reason for v in judge_group(case) if v.ruling is Ruling.REFUSE}


def test_a_group_that_is_well_passes(group: MemoryGroup) -> None:
    assert _refused(group) == {}


def _unhealthy(group: MemoryGroup) -> None:
    group.change(group.n(2), registrations=(Registration(target_group="web-http", state=TargetState.UNHEALTHY),))


def _hook(group: MemoryGroup) -> None:
    group.knobs.hooks[Transition.LAUNCHING] = timedelta(hours=1)


REFUSALS: dict[str, tuple[Callable[[MemoryGroup], object], dict[str, str]]] = {
    "a group that is being deleted": (
        lambda g: setattr(g, "unfit", "being deleted"),
        {"group": "web is being deleted"},
    ),
    "an instance refresh": (
        lambda g: setattr(g, "refresh", "40 % done"),
        {"group": r"refresh is under way (40 % done)"},
    ),
    "a victim that has gone": (lambda g: g.lose(g.n(1)), {"victim": "i-1 is no member of web"}),
    "a suspended Launch": (
        lambda g: g.suspended.append(Suspension(process="Launch", why="bob, at 03:00")),
        {"processes": "suspended: Launch (bob, at 03:00)"},
    ),
    "a suspended Terminate": (
        lambda g: g.suspended.append(Suspension(process="Terminate", why="")),
        {"processes": "suspended: Terminate."},
    ),
    "a suspended AddToLoadBalancer": (
        lambda g: g.suspended.append(Suspension(process="AddToLoadBalancer", why="")),
        {"processes": "AddToLoadBalancer"},
    ),
    "somebody who hangs in a lifecycle hook": (lambda g: g.change(g.n(4), hook=True), {"hooks": "i-4 (in service)"}),
    "a hook that is longer than a successor has": (_hook, {"hooks": "on-launching (holds up a launch for 2 hours)"}),
    "a target that is not healthy": (
        _unhealthy,
        {
            "floor": "i-2 (in service) do not",
            "targets": "4 healthy targets would be left, 5 have to, not i-2 (unhealthy)",
        },
    ),
    "a member that the group itself finds unhealthy": (
        lambda g: g.change(g.n(3), healthy=False),
        {"floor": "4 would serve without i-1, 5 have to: i-3 (in service) do not"},
    ),
    "a group that is short already": (
        lambda g: g.lose(g.n(3)),
        {"floor": "4 would serve without i-1, 5 have to: the group has 5 members in all", "targets": "4 healthy"},
    ),
    "somebody of the zone who comes": (
        lambda g: g.change(g.n(4), state=MemberState.PENDING),
        {"zone": "i-4 (pending) in zone-a", "floor": "i-4 (pending)"},
    ),
    "somebody in an unknown zone who goes": (
        lambda g: g.change(g.n(3), state=MemberState.LEAVING, zone=None),
        {"zone": "i-3 (leaving) in zone-a", "floor": "i-3 (leaving)"},
    ),
    "a target group that drains for long": (
        lambda g: setattr(g.knobs, "draining", timedelta(minutes=11)),
        {"targets": "web-http drains for 11 minutes, longer than the 10 minutes"},
    ),
}


@pytest.mark.parametrize("what", list(REFUSALS))
def test_a_guard_refuses_and_names(group: MemoryGroup, what: str) -> None:
    happen, expected = REFUSALS[what]
    happen(group)
    refused = _refused(group)
    assert set(refused) == set(expected)
    for guard, reason in expected.items():
        assert reason in refused[guard]


def test_what_goes_on_in_another_zone_is_no_reason_while_enough_serve(group: MemoryGroup) -> None:
    group.change(group.n(2), state=MemberState.PENDING)
    assert set(_refused(group, GroupPolicy(floor=Floor(count=4)))) == set()


def test_other_suspended_processes_are_no_reason(group: MemoryGroup) -> None:
    group.suspended += [Suspension(process=p, why="") for p in ("AZRebalance", "AlarmNotification", "ScheduledActions")]
    assert _refused(group) == {}
    group.target_groups.clear()
    group.suspended.append(Suspension(process="AddToLoadBalancer", why=""))
    assert _refused(group) == {}


def test_a_slow_target_group_is_no_reason_if_the_group_drains_itself(group: MemoryGroup) -> None:
    group.knobs.draining = timedelta(hours=1)
    assert _refused(group, GroupPolicy(floor=FLOOR, draining=Draining.GROUP)) == {}


def test_an_unhealthy_victim_does_not_count(group: MemoryGroup) -> None:
    group.change(group.n(1), healthy=False)
    assert _refused(group) == {}


@pytest.mark.parametrize(
    ("floor", "desired", "least"),
    [
        (Floor(count=3), 20, 3),
        (Floor(percent=90), 20, 18),
        (Floor(percent=90), 19, 18),
        (Floor(percent=90), 3, 3),
        (Floor(percent=100), 7, 7),
        (Floor(percent=33.3), 3, 1),
        (Floor(count=5, percent=50), 20, 10),
        (Floor(count=15, percent=50), 20, 15),
        (Floor(), 20, 0),
    ],
)
def test_the_floor_is_the_higher_of_count_and_percent_rounded_up(floor: Floor, desired: int, least: int) -> None:
    assert floor.of(desired) == least
