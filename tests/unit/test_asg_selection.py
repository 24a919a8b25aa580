"""Which groups a policy takes, in which of them it waits, how much dies of what; and what people are told of a run."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from builders import NOON

from reaper.domain.announcement import Occurrence, Severity
from reaper.domain.facts import InstanceId
from reaper.domain.groups import Floor, GroupPolicy, GroupVerdict, GroupView, MemberState, Order, Replaced
from reaper.domain.standing import Due, Limit, Limits, Replace, Scope, StandingPolicy, Target, What
from reaper.domain.verdict import RunState
from reaper.planner.groups import plan_group
from reaper.planner.groups_announcing import group_run_began, group_run_ended
from reaper.planner.radius import Exceeded, count_living, of_selection
from reaper.planner.selection import ClusterHistory, Occasion, Selection, select
from reaper.planner.targeting import prepare
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Faults
from reaper.testing.fleet import MemoryFleet
from reaper.testing.groups import MemoryGroup
from reaper.testing.world import world
from reaper.workflow.observe import observe

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SECOND = timedelta(seconds=1)
FOUR = ("api", "batch", "web-a", "web-b")


def view(name: str, **changes: object) -> GroupView:
    """Six members, 30 to 25 days old, in three zones."""
    group = MemoryGroup(FakeClock(), Faults(), name=name)
    return replace(group.view(name), **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def policy(**changes: object) -> StandingPolicy:
    base = StandingPolicy(
        name="refresh",
        target=Target(),
        replace=Replace(what=What.INSTANCE),
        group=GroupPolicy(floor=Floor(count=5), at_most=2),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def chosen(
    of: StandingPolicy, *views: GroupView, history: dict[str, ClusterHistory] | None = None, seed: int = 7
) -> Selection:
    occasion = Occasion(now=views[0].taken_at, since_last=HOUR, seed=seed)
    return select(of, [prepare(v) for v in views], history or {}, occasion)


def groups_of(selection: Selection) -> list[str]:
    return [due.cluster.removeprefix("group:") for due in selection.first]


TARGETS = [
    pytest.param(Target(), list(FOUR), id="all"),
    pytest.param(Target(names=("web-*",)), ["web-a", "web-b"], id="by name"),
    pytest.param(Target(names=("web-*", "api"), excluded=("*-b",)), ["api", "web-a"], id="by name, but for one"),
    pytest.param(Target(tags=(("tier", "web"),)), ["web-a"], id="by a tag of the group"),
    pytest.param(Target(tags=(("tier", "b*"),)), ["batch"], id="by a glob over a tag"),
    pytest.param(Target(provider="asg"), list(FOUR), id="by their provider"),
    pytest.param(Target(provider="local"), [], id="of another provider"),
    pytest.param(Target(names=("group:web-*",)), [], id="a name is the group's own"),
]


@pytest.mark.parametrize(("target", "names"), TARGETS)
def test_a_target_means_groups(target: Target, names: list[str]) -> None:
    tags = {"web-a": (("tier", "web"),), "batch": (("tier", "batch"),)}
    found = chosen(policy(target=target), *(view(name, tags=tags.get(name, ())) for name in FOUR))
    assert groups_of(found) == names
    assert found.targeted == len(names)
    assert found.living == 6 * len(names)


def test_a_policy_about_groups_takes_no_cluster_and_one_about_clusters_no_group() -> None:
    fleet = MemoryFleet()
    fleet.add_cluster("db")
    mixed = [prepare(observe(world(fleet), "db")), prepare(view("web"))]
    occasion = Occasion(now=NOON, since_last=HOUR, seed=7)
    about_clusters = StandingPolicy(name="nightly", target=Target())
    assert [d.cluster for d in select(policy(), mixed, {}, occasion).first] == ["group:web"]
    assert [d.cluster for d in select(about_clusters, mixed, {}, occasion).first] == ["db"]


def test_everybody_whom_the_run_would_replace_is_due_in_its_order() -> None:
    found = chosen(policy(), view("web-a"), view("web-b"))
    assert [d.instance.id.name for d in found.due] == ["web-a/i-1", "web-a/i-2", "web-b/i-1", "web-b/i-2"]
    assert [d.instance.id.name for d in found.first] == ["web-a/i-1", "web-b/i-1"]
    assert found.due[0].why == ("30 days old",)
    assert {s.why for s in found.spared} == {"the run replaces at most 2"}


LEFT_ALONE = [
    pytest.param({"unfit": "being deleted"}, {}, {}, "it is being deleted", id="it is unfit"),
    pytest.param({"members": ()}, {}, {}, "it has no member to replace", id="it is empty"),
    pytest.param({}, {"unfinished_run": "run-9"}, {}, "the run run-9 is not finished", id="somebody is at work"),
    pytest.param(
        {}, {"last_run_ended": HOUR}, {"cool_down": DAY}, "it cools down: the last run ended 1 hour ago", id="it cools"
    ),
    pytest.param({}, {"last_kill": HOUR}, {"due": Due(min_gap=DAY)}, "the last kill was 1 hour ago", id="a gap"),
    pytest.param({}, {}, {"due": Due(probability=1e-9)}, "the dice spared it", id="the dice"),
]


@pytest.mark.parametrize(("of_group", "past", "of_policy", "why"), LEFT_ALONE)
def test_a_group_is_left_alone(
    of_group: dict[str, object], past: dict[str, object], of_policy: dict[str, object], why: str
) -> None:
    web = view("web", **of_group)
    moments = {k: web.taken_at - v if isinstance(v, timedelta) else v for k, v in past.items()}
    history = {"group:web": ClusterHistory(**moments)}  # type: ignore[arg-type]  # a table's row
    found = chosen(policy(**of_policy), web, history=history)
    assert found.due == ()
    assert [s.why for s in found.spared if why in s.why], found.spared


def test_a_history_of_a_cluster_of_that_name_says_nothing_of_the_group() -> None:
    assert chosen(policy(), view("web"), history={"web": ClusterHistory(unfinished_run="run-9")}).due != ()


def test_a_firing_takes_as_many_groups_as_it_may_those_with_the_oldest_member_first() -> None:
    views = [view(name) for name in FOUR]
    old = views[2].members[5]
    aged = replace(old, created=views[2].taken_at - 99 * DAY)
    views[2] = replace(views[2], members=(*views[2].members[:5], aged))
    limits = GroupPolicy(floor=Floor(count=5), max_age=DAY, at_most=1)
    found = chosen(policy(due=Due(max_age=DAY, at_most=1), group=limits), *views)
    assert [d.instance.id.name for d in found.due] == ["web-a/i-6"]
    assert any("4 groups are due, a firing takes 1 (seed 7)" in s.why for s in found.spared)


def test_different_groups_draw_differently_and_each_the_same_again() -> None:
    drawn = policy(group=GroupPolicy(floor=Floor(count=5), order=Order.RANDOM, at_most=1))
    draws = [
        tuple(d.instance.id.short for d in chosen(drawn, *(view(n) for n in FOUR), seed=seed).due) for seed in range(30)
    ]
    assert draws[0] == tuple(d.instance.id.short for d in chosen(drawn, *(view(n) for n in FOUR), seed=0).due)
    assert any(len(set(draw)) > 1 for draw in draws)


def test_the_radius_of_a_firing_counts_all_that_its_runs_replace() -> None:
    views = [view(name) for name in FOUR]
    living = count_living([prepare(v) for v in views])
    limits = Limits(selection=(Limit(scope=Scope.FLEET, count=7), Limit(scope=Scope.ZONE, percent=40)))
    of = policy(limits=limits)
    found = of_selection(of, chosen(of, *views), living)
    assert isinstance(found, Exceeded)
    assert found.why == (
        "8 of 24 instances of the fleet (33.3 %) would die, the policy allows 7",
        "4 of 8 instances of the zone zone-a (50.0 %) would die, the policy allows 40 %",
        "4 of 8 instances of the zone zone-b (50.0 %) would die, the policy allows 40 %",
    )


def test_those_on_their_way_out_are_not_among_the_living() -> None:
    web = view("web")
    leaving = replace(web.members[0], state=MemberState.LEAVING)
    found = chosen(policy(), replace(web, members=(leaving, *web.members[1:])))
    assert found.living == 5
    assert [d.instance.id.short for d in found.due] == ["i-2", "i-3"]


# ---- what people are told


AT = datetime(2026, 3, 2, 12, tzinfo=NOON.tzinfo)


def replaced(number: int) -> Replaced:
    return Replaced(
        victim=InstanceId("asg", f"web/i-{number}"),
        successor=InstanceId("asg", f"web/i-{number + 6}"),
        drained=30 * SECOND,
        took=75 * SECOND,
        fewest=5,
    )


def test_that_a_run_begins_is_told_with_everybody_whom_it_takes() -> None:
    plan = plan_group(
        view("web"), GroupPolicy(floor=Floor(count=5), at_most=2), run="r", seed=1, why="because", standing="refresh"
    )
    told = group_run_began(plan, AT)
    assert (told.what, told.severity, told.cluster) == (Occurrence.BEGAN, Severity.INFO, "group:web")
    assert told.title == "web: 2 instances are going to be replaced, one after the other"
    assert told.details == ("why: because", "i-1: 30 days old", "i-2: 29 days old")


ENDINGS = [
    pytest.param(RunState.GOOD, 2, Severity.INFO, "web: 2 of 2 were replaced", id="good"),
    pytest.param(RunState.BAD, 1, Severity.WARNING, "the last one got no healthy successor", id="bad"),
    pytest.param(RunState.REFUSED, 1, Severity.WARNING, "1 of 2 were replaced, then a guard refused", id="refused"),
    pytest.param(RunState.UNDONE, 0, Severity.WARNING, "nobody is half-way", id="undone"),
    pytest.param(RunState.STUCK, 0, Severity.CRITICAL, "could NOT be put back: a person has to look now", id="stuck"),
]


@pytest.mark.parametrize(("state", "done", "severity", "title"), ENDINGS)
def test_how_a_run_ended_is_told(state: RunState, done: int, severity: Severity, title: str) -> None:
    plan = plan_group(view("web"), GroupPolicy(floor=Floor(count=5), at_most=2), run="r", seed=1)
    verdict = GroupVerdict(replaced=tuple(replaced(n) for n in range(1, done + 1)), left=(), faults=())
    told = group_run_ended(plan, state, verdict, "why it ended", AT)
    assert told.severity is severity
    assert title in told.title
    assert ("why it ended" in told.details) == (state is not RunState.GOOD)
    assert sum("served at least" in line for line in told.details) == done
