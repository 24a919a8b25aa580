"""Who is due: everybody else is spared with a reason, and what is unknown is protected (I10)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from builders import NOON, master, replica, silent, trio, with_instance

from reaper.domain.almanac import Calendar, Maintenance, parse_windows
from reaper.domain.facts import ClusterView, Image, InstanceId, InstanceState, Member
from reaper.domain.plan import Role
from reaper.domain.standing import Due, Replace, StandingPolicy, Target, What
from reaper.planner.selection import (
    Candidate,
    ClusterHistory,
    DueInstance,
    Occasion,
    Selection,
    chance_of,
    prepare,
    select,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = NOON + 30 * HOUR  # every builder's instance was created at NOON
FIRING = Occasion(now=NOW, since_last=DAY, seed=7)
OLD, NEW = Image(name="ami-1", newest="ami-2"), Image(name="ami-2", newest="ami-2")


def cluster(name: str, *members: Member, **changes: object) -> Candidate:
    """A candidate with a name of its own; `changes` go to every instance."""
    renamed = tuple(
        with_instance(m, id=InstanceId("memory", f"{name}/{m.instance.id.short}"), **changes) for m in members or trio()
    )
    return prepare(ClusterView(name=name, taken_at=NOW, members=renamed, endpoint=None, endpoint_target=None))


def policy(**changes: object) -> StandingPolicy:
    return replace(StandingPolicy(name="p", target=Target()), **changes)  # type: ignore[arg-type]


def chosen(found: Selection) -> list[str]:
    return [d.instance.id.name for d in found.due]


def why_spared(found: Selection) -> str:
    return "; ".join(s.why for s in found.spared)


def tags(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("__", ":").replace("_", "-"), value) for name, value in values.items())


@pytest.mark.parametrize(
    ("target", "named"),
    [
        pytest.param(Target(), ["db-1", "db-2", "web"], id="everything"),
        pytest.param(Target(provider="memory"), ["db-1", "db-2", "web"], id="its provider"),
        pytest.param(Target(provider="ec2"), [], id="another provider"),
        pytest.param(Target(names=("db-*",)), ["db-1", "db-2"], id="a glob over names"),
        pytest.param(Target(names=("db-1", "w*")), ["db-1", "web"], id="one of several globs"),
        pytest.param(Target(names=("db-*",), excluded=("*-2",)), ["db-1"], id="a glob that excludes"),
        pytest.param(Target(tags=(("tier", "mysql"),)), ["db-1", "db-2"], id="a tag"),
        pytest.param(Target(tags=(("tier", "*"),)), ["db-1", "db-2", "web"], id="a glob over a tag's values"),
        pytest.param(Target(tags=(("tier", "mysql"), ("env", "prod"))), ["db-1"], id="all tags have to be there"),
        pytest.param(Target(names=("db",)), [], id="a name is matched as a whole"),
    ],
)
def test_a_target_names_clusters(target: Target, named: list[str]) -> None:
    fleet = (
        cluster("db-1", tags=tags(tier="mysql", env="prod")),
        cluster("db-2", tags=tags(tier="mysql", env="test")),
        cluster("web", tags=tags(tier="cache")),
    )
    found = select(policy(target=target), fleet, {}, FIRING)
    assert [d.cluster for d in found.due] == named
    assert found.targeted == len(named)
    assert found.living == 3 * len(named)
    assert found.spared == ()


def test_a_tag_that_only_some_members_carry_is_not_the_clusters() -> None:
    first, *others = trio()
    mixed = cluster("db", with_instance(first, tags=tags(tier="mysql")), *others)
    assert select(policy(target=Target(tags=(("tier", "mysql"),))), (mixed,), {}, FIRING).targeted == 0


PROTECTED = [
    pytest.param({"tags": None}, Target(), "unreadable", id="I10 unreadable tags"),
    pytest.param(
        {"tags": None}, Target(tags=(("tier", "x"),)), "unreadable", id="I10 unreadable tags that would decide"
    ),
    pytest.param({"tags": tags(reaper__opt_out="")}, Target(), "opted out", id="opted out"),
    pytest.param({"tags": tags(reaper__opt_out="false")}, Target(), "opted out", id="opted out, whatever the value"),
    pytest.param(
        {"tags": tags(reaper__protect_until="2026-03-03")}, Target(), "protected until", id="protected to a day's end"
    ),
    pytest.param(
        {"tags": tags(reaper__protect_until="2026-03-03T18:01:00+00:00")}, Target(), "protected until", id="to a moment"
    ),
    pytest.param(
        {"tags": tags(reaper__protect_until="soon")}, Target(), "is no date", id="I10 until nobody knows when"
    ),
    pytest.param({"tags": tags(reaper__protect_until="")}, Target(), "is no date", id="I10 until nothing"),
    pytest.param({"tags": tags(a="b")}, Target(opt_in=(("chaos", "yes"),)), "not opted in", id="not opted in"),
    pytest.param(
        {"tags": tags(chaos="no")}, Target(opt_in=(("chaos", "yes"),)), "not opted in", id="opted in otherwise"
    ),
    pytest.param({}, Target(instances=("x*",)), "matches none of x*", id="another instance is meant"),
    pytest.param({}, Target(instance_tags=(("a", "b"),)), "does not carry a=b", id="a tag of the instance is missing"),
]


@pytest.mark.parametrize(("changes", "target", "why"), PROTECTED)
@pytest.mark.parametrize("what", [What.MASTER, What.REPLICA, What.ANY])
def test_a_protected_instance_is_spared_whatever_else_holds(
    changes: dict[str, object], target: Target, why: str, what: What
) -> None:
    """NOW is 2026-03-03 18:00 UTC."""
    assert datetime(2026, 3, 3, 18, tzinfo=UTC) == NOW
    asked = policy(target=target, replace=Replace(what=what), due=Due(max_age=HOUR))
    found = select(asked, (cluster("db", **changes),), {}, FIRING)
    assert found.due == ()
    assert why in why_spared(found)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tags": tags(reaper__protect_until="2026-03-02")}, id="a day that is over"),
        pytest.param({"tags": tags(reaper__protect_until="2026-03-03T18:00:00Z")}, id="a moment that has come"),
        pytest.param({"tags": tags(reaper__protect_until="2026-03-04T02:59:00+09:00")}, id="a moment in another zone"),
        pytest.param({"tags": tags(chaos="yes")}, id="opted in"),
    ],
)
def test_a_protection_that_is_over_protects_no_more(changes: dict[str, object]) -> None:
    opt_in = (("chaos", "yes"),) if ("chaos", "yes") in changes["tags"] else ()  # type: ignore[operator]
    found = select(policy(target=Target(opt_in=opt_in)), (cluster("db", **changes),), {}, FIRING)
    assert chosen(found) == ["db/n1"]


@pytest.mark.parametrize(
    ("due", "image", "is_due", "says"),
    [
        pytest.param(Due(max_age=29 * HOUR), None, True, "is 1 day 6 hours old, more than 1 day 5 hours", id="too old"),
        pytest.param(Due(max_age=30 * HOUR), None, False, "not more than 1 day 6 hours", id="exactly as old is not"),
        pytest.param(Due(stale_image=True), OLD, True, "was made from ami-1, ami-2 is the newest", id="a stale image"),
        pytest.param(Due(stale_image=True), NEW, False, "its image is the newest", id="the newest image"),
        pytest.param(Due(stale_image=True), None, False, "is unknown", id="an unknown image is not stale"),
        pytest.param(
            Due(stale_image=True), Image(name="a", newest=None), False, "is unknown", id="what is newest is unknown"
        ),
        pytest.param(Due(max_age=DAY, stale_image=True), NEW, True, "more than 1 day", id="either is enough"),
        pytest.param(Due(), None, True, "at any age", id="nothing is asked"),
    ],
)
def test_age_and_image(due: Due, image: Image | None, is_due: bool, says: str) -> None:
    found = select(policy(due=due), (cluster("db", image=image),), {}, FIRING)
    assert bool(found.due) is is_due
    assert says in ("; ".join(found.due[0].why) if found.due else why_spared(found))


@pytest.mark.parametrize(
    ("what", "victim", "role"),
    [
        pytest.param(What.MASTER, "db/n1", Role.MASTER, id="the master"),
        pytest.param(What.REPLICA, "db/n3", Role.REPLICA, id="the oldest replica"),
        pytest.param(What.ANY, "db/n3", Role.REPLICA, id="the oldest of all"),
    ],
)
def test_one_of_a_cluster_goes_at_a_time_the_oldest_first(what: What, victim: str, role: Role) -> None:
    members = (master("n1"), replica("n2"), with_instance(replica("n3"), created=NOON - DAY))
    found = select(policy(replace=Replace(what=what), due=Due(max_age=HOUR)), (cluster("db", *members),), {}, FIRING)
    assert [(d.instance.id.name, d.role) for d in found.due] == [(victim, role)]
    if what is not What.MASTER:
        assert "n3 goes first, a cluster loses one at a time" in why_spared(found)


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        pytest.param(cluster("db", master("n1")), "lone server", id="E17 another shape"),
        pytest.param(cluster("db", *trio()[:2], silent("n3")), "unreachable member", id="I10 a silent member"),
    ],
)
def test_a_cluster_that_is_unfit_is_spared_by_the_name_of_its_shape(candidate: Candidate, why: str) -> None:
    found = select(policy(), (candidate,), {}, FIRING)
    assert found.due == ()
    assert why in why_spared(found)


def test_the_quarantined_do_not_count() -> None:
    """Their unreadable tags protect nobody, and nobody draws them."""
    dead = with_instance(silent("n4", InstanceState.QUARANTINED), tags=None)
    found = select(policy(replace=Replace(what=What.ANY)), (cluster("db", *trio(), dead),), {}, FIRING)
    assert len(found.due) == 1
    assert chosen(found) != ["db/n4"]


@pytest.mark.parametrize(
    ("history", "changes", "why"),
    [
        pytest.param(None, {}, "history could not be read", id="I10 no history to be had"),
        pytest.param({"db": ClusterHistory(unfinished_run="db-1")}, {}, "the run db-1 is not finished", id="I7 a run"),
        pytest.param(
            {"db": ClusterHistory(last_run_ended=NOW - HOUR)}, {"cool_down": 2 * HOUR}, "cools down", id="E23 cool-down"
        ),
        pytest.param(
            {"db": ClusterHistory(last_kill=NOW - HOUR)},
            {"due": Due(min_gap=DAY)},
            "last kill was 1 hour ago, the policy wants a gap of 1 day",
            id="the gap between kills",
        ),
        pytest.param(
            {},
            {"calendar": Calendar(maintenance=(Maintenance(clusters="d*", windows=parse_windows("sun")),))},
            "outside the maintenance window of db",
            id="its maintenance window is closed",
        ),
        pytest.param(
            {},
            {"calendar": Calendar(maintenance_tag="window")},
            "outside the maintenance window of db",
            id="the window in its tag is closed",
        ),
    ],
)
def test_a_cluster_is_spared_for_what_is_remembered_or_for_the_hour(
    history: dict[str, ClusterHistory] | None, changes: dict[str, object], why: str
) -> None:
    found = select(policy(**changes), (cluster("db", tags=tags(window="sun 02:00-04:00")),), history, FIRING)
    assert found.due == ()
    assert why in why_spared(found)


@pytest.mark.parametrize(
    ("history", "changes"),
    [
        pytest.param({"db": ClusterHistory(last_run_ended=NOW - 2 * HOUR)}, {"cool_down": 2 * HOUR}, id="cooled down"),
        pytest.param({"db": ClusterHistory(last_kill=NOW - DAY)}, {"due": Due(min_gap=DAY)}, id="the gap is over"),
        pytest.param({"other": ClusterHistory(unfinished_run="x")}, {}, id="another cluster's run"),
        pytest.param({}, {"calendar": Calendar(maintenance_tag="window")}, id="the window in its tag is open"),
    ],
)
def test_what_is_over_or_not_about_the_cluster_spares_it_no_more(
    history: dict[str, ClusterHistory], changes: dict[str, object]
) -> None:
    found = select(policy(**changes), (cluster("db", tags=tags(window="tue 02:00-20:00")),), history, FIRING)
    assert chosen(found) == ["db/n1"]


FLEET = tuple(cluster(f"db-{i}") for i in range(200))


def test_the_same_seed_decides_the_same_and_another_seed_otherwise() -> None:
    asked = policy(due=Due(probability=0.5))
    first, again = (select(asked, FLEET, {}, FIRING) for _ in range(2))
    assert first == again
    assert first.seed == 7
    assert chosen(first) != chosen(select(asked, FLEET, {}, replace(FIRING, seed=8)))


def test_a_clusters_dice_do_not_depend_on_the_other_clusters() -> None:
    asked = policy(due=Due(probability=0.5))
    alone = [name for c in FLEET for name in chosen(select(asked, (c,), {}, FIRING))]
    assert alone == chosen(select(asked, FLEET, {}, FIRING))


def test_a_chance_is_about_as_often_as_it_says_and_the_dice_are_shown() -> None:
    found = select(policy(due=Due(probability=0.3)), FLEET, {}, FIRING)
    assert 35 < len(found.due) < 85
    assert all("was not below its chance of 0.3000 (seed 7)" in s.why for s in found.spared)
    assert all("the dice fell, at a chance of 0.3" in d.why for d in found.due)


@pytest.mark.parametrize(
    ("gap", "every"),
    [
        pytest.param(timedelta(0), HOUR, id="without a gap"),
        pytest.param(3 * DAY, HOUR, id="with a gap"),
        pytest.param(3 * DAY, 6 * HOUR, id="with few opportunities"),
    ],
)
def test_the_mean_time_between_kills_is_the_one_in_the_policy(gap: timedelta, every: timedelta) -> None:
    """Twelve clusters over four months, each with its own history: the mean of the times between two kills."""
    asked = policy(due=Due(mean_time_between=7 * DAY, min_gap=gap))
    between: list[timedelta] = []
    for one in FLEET[:12]:
        last, now = None, NOW
        for step in range(int(120 * DAY / every)):
            now += every
            history = {one.cluster: ClusterHistory(last_kill=last)}
            if select(asked, (one,), history, Occasion(now=now, since_last=every, seed=step)).due:
                between += [] if last is None else [now - last]
                last = now
    assert min(between) >= gap
    mean = sum(between, timedelta(0)) / len(between)
    assert 6 * DAY < mean < 8 * DAY + every


@pytest.mark.parametrize(
    ("since_kill", "since_last", "chance"),
    [
        pytest.param(None, timedelta(0), 0.0, id="no time, no chance"),
        pytest.param(None, 4 * DAY, 0.6321, id="the mean less the gap"),
        pytest.param(3 * DAY, DAY, 0.0, id="the gap has just ended"),
        pytest.param(3 * DAY + HOUR, DAY, 0.0104, id="only the time after the gap counts"),
        pytest.param(30 * DAY, DAY, 0.2212, id="only the time since the opportunity before counts"),
    ],
)
def test_the_chance_at_one_opportunity(since_kill: timedelta | None, since_last: timedelta, chance: float) -> None:
    asked = policy(due=Due(mean_time_between=7 * DAY, min_gap=3 * DAY))
    assert chance_of(asked, since_kill, since_last) == pytest.approx(chance, abs=1e-4)


def test_a_firing_takes_at_most_so_many_the_oldest_or_by_lot() -> None:
    fleet = tuple(cluster(f"db-{i}", created=NOON - i * HOUR) for i in range(9))
    by_age = select(policy(due=Due(max_age=HOUR, at_most=2)), fleet, {}, FIRING)
    by_lot = [chosen(select(policy(due=Due(at_most=2)), fleet, {}, replace(FIRING, seed=s))) for s in range(40)]
    assert chosen(by_age) == ["db-7/n1", "db-8/n1"]
    assert "9 clusters are due, a firing takes 2 (seed 7)" in why_spared(by_age)
    assert all(len(names) == 2 for names in by_lot)
    assert {name for names in by_lot for name in names} == {f"db-{i}/n1" for i in range(9)}


def test_every_member_is_drawn_where_age_does_not_decide() -> None:
    asked = policy(replace=Replace(what=What.ANY))
    drawn = {chosen(select(asked, (FLEET[0],), {}, replace(FIRING, seed=s)))[0] for s in range(60)}
    assert drawn == {"db-0/n1", "db-0/n2", "db-0/n3"}


def test_everybody_targeted_is_either_due_or_spared() -> None:
    fleet = (*FLEET[:20], cluster("odd", master("n1")), cluster("out", tags=tags(reaper__opt_out="")))
    found = select(policy(due=Due(probability=0.4)), fleet, {}, FIRING)
    named = {d.cluster for d in found.due} | {s.cluster for s in found.spared}
    assert named == {c.cluster for c in fleet}
    assert all(isinstance(d, DueInstance) and d.why for d in found.due)
    assert all(s.why for s in found.spared)
