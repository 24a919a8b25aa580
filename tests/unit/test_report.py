"""The dry-run report: what policies would do, what that costs over days, and that nothing is touched by asking."""

import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from forecasts import DAY, Night, at_three, policy, subject

from reaper.domain.almanac import Closed
from reaper.domain.checks import HttpCheck
from reaper.domain.errors import ServerError
from reaper.domain.plan import Replacement
from reaper.domain.policy import Waivable, Waiver
from reaper.domain.standing import Approval, Due, Leash, Limit, Limits, Scope, StandingPolicy, Target
from reaper.planner.orders import limits_of, request_of, run_of, seed_of
from reaper.planner.outlook import Coming, outlook
from reaper.planner.radius import Exceeded
from reaper.planner.report import State
from reaper.planner.selection import ClusterHistory, Selection
from reaper.testing.parts import ITEMS, Verb
from reaper.workflow.forecast import Forecast

MONDAY = datetime(2026, 3, 2, 3, tzinfo=UTC)
HOUR = timedelta(hours=1)
READS = {
    "inventory",
    "members",
    "connect",
    "facts",
    "executed",
    "semi_sync",
    "wait_applied",
    "copies_hot",
    "show",
    "close",
    "endpoint",
    "protection",
}


def who(forecast: Forecast) -> list[str]:
    return [run.plan.victim.name for run in forecast.runs]


# ---- orders


def test_a_run_has_the_limits_of_its_standing_policy() -> None:
    check = HttpCheck(name="green", url="http://127.0.0.1:1/")
    waiver = Waiver(guard=Waivable.DISK, difference=None, owner="kim", expires=date(2026, 4, 1), reason="moved")
    standing = policy(approval=Approval(by=("kim",), within=HOUR), checks=(check,), waivers=(waiver,))
    limits = limits_of(standing)
    assert (limits.approval_within, limits.approvers) == (HOUR, ("kim",))
    assert (limits.checks, limits.waivers) == ((check,), (waiver,))
    assert limits.soak == standing.limits_of_run.soak
    assert limits_of(policy()).approval_within is None


def test_a_request_says_who_asks_and_why() -> None:
    forecast = Night().of(policy(replace=replace(policy().replace, when=Replacement.AFTER)))
    run = forecast.runs[0]
    request = request_of(policy("weekly"), run.due, "run-1", 9)
    assert (request.standing, request.seed, request.run) == ("weekly", 9, "run-1")
    assert request.why == "the policy weekly takes n1, which is what the policy names, at any age"
    assert run.plan.standing == "nightly"
    assert run.plan.replacement is Replacement.AFTER
    assert run.plan.seed == 7


def test_a_firing_derives_its_seed_and_its_runs_the_same_in_every_zone() -> None:
    tokyo = MONDAY.astimezone(ZoneInfo("Asia/Tokyo"))
    assert seed_of("p", MONDAY) == seed_of("p", tokyo)
    assert run_of("p", "db", MONDAY) == run_of("p", "db", tokyo) == "db-20260302t030000-148d"
    assert run_of("q", "db", MONDAY) != run_of("p", "db", MONDAY)
    assert len({seed_of("p", MONDAY), seed_of("q", MONDAY), seed_of("p", MONDAY + DAY)}) == 3


# ---- decisions


def test_who_would_die_is_what_the_guards_let_pass() -> None:
    night = Night()
    night.fleet.machine("n2", "db-2").knobs.deaf = True
    night.fleet.machine("n1", "db-2").commit(Verb.INSERT, ITEMS, ("another",))
    forecast = night.of(policy())
    assert who(forecast) == ["db-1/n1", "db-2/n1", "db-3/n1"]
    assert [r.plan.cluster for r in forecast.going] == ["db-1", "db-3"]
    (refused,) = forecast.refused
    assert any("n2" in " ".join((v.reason, *v.evidence)) for v in refused.refused_by)
    assert len(refused.verdicts) > len(refused.refused_by)


STATES = [
    pytest.param(Leash.OFF, (), State.ARMED, id="armed"),
    pytest.param(Leash.ON, (), State.LEASHED_BY_FILE, id="leashed by its file"),
    pytest.param(Leash.OFF, ("the outage was 9 s",), State.LEASHED_BY_BUDGET, id="leashed by a budget"),
    pytest.param(Leash.ON, ("the outage was 9 s",), State.LEASHED_BY_BUDGET, id="leashed by both, the budget is told"),
]


@pytest.mark.parametrize(("leash", "why", "state"), STATES)
def test_a_leashed_policy_is_decided_all_the_same(leash: Leash, why: tuple[str, ...], state: State) -> None:
    night = Night()
    forecast = night.of(subject(policy(leash=leash), night.now, leashed=why))
    (decision,) = forecast.report.decisions
    assert (decision.state, decision.why_leashed) == (state, why)
    assert [run.state for run in forecast.going] == [state] * 3


def test_a_closed_calendar_and_too_large_a_radius_ask_no_guard() -> None:
    night = Night()
    limits = Limits(selection=(Limit(scope=Scope.FLEET, count=2),))
    closed = subject(policy("closed"), night.now, hours=Closed(until=None, why="frozen: year end"))
    forecast = night.of(closed, policy("greedy", limits=limits))
    first, second = forecast.report.decisions
    assert forecast.runs == ()
    assert first.stopped == ("frozen: year end",)
    assert len(first.selection.due) == len(second.selection.due) == 3
    assert isinstance(second.radius, Exceeded)
    assert second.stopped == ("3 of 9 instances of the fleet (33.3 %) would die, the policy allows 2",)
    assert {p.scope for p in second.parts} == set(Scope)


def test_waivers_are_sorted_by_whether_they_hold_at_the_firing() -> None:
    night = Night()
    old, new = (
        Waiver(guard=Waivable.DISK, difference=None, owner="kim", expires=day, reason="moved")
        for day in (date(2026, 3, 1), date(2026, 3, 2))
    )
    (decision,) = night.of(policy(waivers=(old, new))).report.decisions
    assert (decision.waivers, decision.expired) == ((new,), (old,))


def test_a_history_that_cannot_be_read_spares_everybody() -> None:
    night = Night()
    unread = replace(subject(policy(), night.now), history=None)
    forecast = night.of(unread)
    assert forecast.runs == ()
    assert {s.why for s in forecast.report.decisions[0].selection.spared} == {
        "its history could not be read, so it is protected"
    }


CONFLICTS = [
    pytest.param(Leash.OFF, Leash.OFF, HOUR, 2 * HOUR, ("a", "b"), "a fires earlier", id="who fires earlier"),
    pytest.param(Leash.OFF, Leash.OFF, 2 * HOUR, HOUR, ("b", "a"), "b fires earlier", id="also against the names"),
    pytest.param(Leash.ON, Leash.OFF, HOUR, 2 * HOUR, ("b", "a"), "a is leashed by its file", id="who acts at all"),
    pytest.param(Leash.OFF, Leash.OFF, HOUR, HOUR, ("a", "b"), "the same moment", id="nobody can tell"),
]


@pytest.mark.parametrize(("first", "second", "at", "later", "order", "why"), CONFLICTS)
def test_policies_that_take_the_same_cluster_are_named_in_their_order(
    first: Leash, second: Leash, at: timedelta, later: timedelta, order: tuple[str, ...], why: str
) -> None:
    night = Night()
    only = Target(names=("db-2",))
    forecast = night.of(
        subject(policy("a", leash=first), night.now + at),
        subject(policy("b", leash=second, target=only), night.now + later),
    )
    (conflict,) = forecast.report.conflicts
    assert (conflict.cluster, conflict.policies) == ("db-2", order)
    assert why in conflict.why


# ---- the coming days


def selection(targeted: int = 4, living: int = 12) -> Selection:
    return Selection(policy="p", seed=1, due=(), spared=(), targeted=targeted, living=living)


def hourly(count: int) -> tuple[datetime, ...]:
    return tuple(MONDAY + i * HOUR for i in range(count))


LOADS = [
    pytest.param({}, 1, 4, 4.0, 1, id="everybody who is targeted, one at a time"),
    pytest.param({"due": Due(at_most=3)}, 2, 6, 6.0, 1, id="as many as a firing takes"),
    pytest.param({"due": Due(probability=0.25)}, 2, 8, 2.0, 1, id="the dice are reckoned with"),
    pytest.param({"due": Due(max_age=DAY)}, 6, 4, 4.0, 1, id="a fresh master is not due again"),
    pytest.param({"due": Due(max_age=2 * HOUR)}, 6, 12, 12.0, 1, id="until it has aged"),
    pytest.param({"cool_down": 3 * HOUR}, 6, 8, 8.0, 1, id="a cluster rests"),
    pytest.param({"limits": Limits(in_flight=(Limit(scope=Scope.POLICY, count=3),))}, 1, 4, 4.0, 3, id="in flight"),
    pytest.param({"limits": Limits(in_flight=(Limit(scope=Scope.POLICY, percent=20),))}, 1, 4, 4.0, 2, id="in percent"),
    pytest.param(
        {"limits": Limits(in_flight=(Limit(scope=Scope.ZONE, count=1),))}, 1, 4, 4.0, 4, id="zones may be many"
    ),
]


@pytest.mark.parametrize(("changes", "fires", "most", "expected", "at_once"), LOADS)
def test_the_load_of_a_day(changes: dict[str, object], fires: int, most: int, expected: float, at_once: int) -> None:
    found = outlook([(Coming(fires=hourly(fires), more=False), policy(**changes), selection())], MONDAY, 1, "UTC")
    (day,) = found.days
    assert (day.most, day.at_once) == (most, at_once)
    assert day.expected == pytest.approx(expected)


def test_a_mean_time_between_kills_is_kept_over_a_day() -> None:
    """24 opportunities a day at a mean of two days: half a death per cluster."""
    dice = policy(due=Due(mean_time_between=2 * DAY))
    found = outlook([(Coming(fires=hourly(21), more=False), dice, selection())], MONDAY, 1, "UTC")
    assert found.days[0].expected == pytest.approx(4 * 21 / 48, rel=0.02)


def test_days_are_those_of_the_report_and_times_those_of_the_policy() -> None:
    late = datetime(2026, 3, 2, 16, tzinfo=UTC)  # Tuesday, 01:00, in Tokyo
    nightly = policy(schedule=at_three("Europe/Berlin"))
    found = outlook([(Coming(fires=(late,), more=False), nightly, selection())], MONDAY, 3, "Asia/Tokyo")
    assert [(d.day.day, len(d.policies)) for d in found.days] == [(2, 0), (3, 1), (4, 0)]
    assert found.days[1].policies[0].fires[0].isoformat() == "2026-03-02T17:00:00+01:00"
    assert found.peak is found.days[1]
    assert found.cut == ()


def test_a_day_whose_fires_were_not_all_counted_is_not_shown_as_a_quiet_one() -> None:
    often = Coming(fires=hourly(30), more=True)  # the rest of the second day and the third are unknown
    found = outlook([(often, policy(), selection())], MONDAY, 3, "UTC")
    assert [d.day.day for d in found.days] == [2]
    assert found.cut == ("nightly",)


def test_policies_of_a_day_add_up() -> None:
    load = (Coming(fires=hourly(1), more=False), policy(), selection())
    found = outlook([load, load], MONDAY, 1, "UTC")
    assert (found.days[0].most, found.days[0].at_once) == (8, 2)


# ---- asking


def test_nothing_is_touched_by_a_report() -> None:
    """Every call on the doubles is a read, nothing is journalled, and the clusters look as before."""
    night = Night()
    before = [night.fleet.picture(c) for c in night.clusters]
    afterwards = replace(policy().replace, when=Replacement.AFTER)
    forecast = night.of(policy(leash=Leash.OFF), policy("other", replace=afterwards))
    assert len(forecast.runs) == 6
    assert {method for method, _ in night.fleet.faults.calls} <= READS
    assert night.fleet.journal.runs == {}
    assert [night.fleet.picture(c) for c in night.clusters] == before


def test_a_cluster_that_cannot_be_observed_is_a_line_of_the_report() -> None:
    night = Night()
    night.fleet.fail("members", "db-2", times=99, error=ServerError("the provider said 503"))
    forecast = night.of(policy())
    assert [(u.cluster, u.why) for u in forecast.unobserved] == [("db-2", "the provider said 503")]
    assert who(forecast) == ["db-1/n1", "db-3/n1"]
    assert forecast.report.clusters == 2


def test_a_cluster_that_stops_answering_before_its_guards_are_asked_is_refused() -> None:
    """I10."""
    night = Night(("db-1",))
    night.fleet.fail("copies_hot", "db-1")
    (run,) = night.of(policy()).runs
    assert [v.guard for v in run.refused_by] == ["observation"]


def test_external_checks_are_asked_too() -> None:
    night = Night(("db-1",))
    night.fleet.checker.refusals["green"] = "it is red"
    (run,) = night.of(policy(checks=(HttpCheck(name="green", url="http://127.0.0.1:1/"),))).runs
    assert [(v.guard, v.reason) for v in run.refused_by] == [("check green", "it is red")]


def test_the_lever_is_told() -> None:
    night = Night(("db-1",))
    night.fleet.lever.reason = "paused by kim since noon: audit"
    assert night.of(policy()).paused == "paused by kim since noon: audit"


def test_a_hundred_clusters_are_observed_at_the_same_time() -> None:
    """All wait for each other while they are observed: were they taken one after the other, nobody would come on."""
    night = Night(tuple(f"c{i}" for i in range(100)))
    meeting = threading.Barrier(100, timeout=60)
    fleet, members, met = night.fleet, night.fleet.members, set[str]()

    def meet(cluster: str) -> object:
        if cluster not in met:
            met.add(cluster)
            meeting.wait()
        return members(cluster)

    fleet.members = meet  # type: ignore[method-assign, assignment]  # a provider that takes its time
    nobody: StandingPolicy = policy(target=Target(names=("none",)))
    assert night.of(nobody).report.clusters == 100


def test_guards_of_many_clusters_are_asked_at_the_same_time() -> None:
    """By the simulated clock: every run watches its cluster for a minute, and all of them together take one."""
    night = Night(tuple(f"c{i}" for i in range(8)))
    began = night.now
    forecast = night.of(policy(limits_of_run=replace(policy().limits_of_run, soak=timedelta(minutes=1))))
    assert len(forecast.runs) == 8
    assert night.now - began < timedelta(minutes=2)


def test_what_is_remembered_of_a_cluster_counts() -> None:
    night = Night()
    forecast = night.of(subject(policy(), night.now, history={"db-2": ClusterHistory(unfinished_run="db-2-x")}))
    assert who(forecast) == ["db-1/n1", "db-3/n1"]
