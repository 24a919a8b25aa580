"""Policies that act by themselves: decided once, recorded, begun as their limits allow, stopped by their budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders import NOON

from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunStore
from reaper.adapters.store.standing import PolicyStore
from reaper.domain.almanac import Closed, Hours, Open
from reaper.domain.announcement import Announcement, Occurrence
from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import ClusterView, InstanceId
from reaper.domain.groups import Floor, GroupPlan, GroupPolicy, GroupVerdict, GroupView, group_of
from reaper.domain.plan import Plan
from reaper.domain.standing import (
    Due,
    Leash,
    Limit,
    Limits,
    Replace,
    Scope,
    StandingPolicy,
    Target,
    What,
)
from reaper.domain.verdict import RunState, RunVerdict
from reaper.planner.selection import Occasion
from reaper.testing.faults import Faults
from reaper.testing.fleet import MemoryFleet
from reaper.testing.groups import MemoryGroup
from reaper.testing.world import world
from reaper.workflow.observe import observe
from reaper.workflow.steward import Outcome, Steward

HOUR = timedelta(hours=1)
OPEN = Open(until=None, why="at any hour")
FIRE = NOON
VERDICT = RunVerdict(
    faults=(),
    outage=timedelta(milliseconds=40),
    clients=(),
    parts=(),
    ledger=None,
    copies_before=3,
    copies_after=3,
    heir="memory:a/n4",
)


@dataclass
class Queue:
    """The steward's `Queue`; runs stay in flight until a test ends them."""

    plans: dict[str, Plan | GroupPlan] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    lever: str | None = None
    refuse: str | None = None

    def submit(self, plan: Plan | GroupPlan, _group: str | None) -> None:
        if self.refuse:
            raise RefusedError(self.refuse)
        self.plans[plan.run] = plan
        self.asked.append(plan.run)

    def in_flight(self) -> tuple[InstanceId, ...]:
        return tuple(plan.victim for plan in self.plans.values() if isinstance(plan, Plan))

    def groups_in_flight(self) -> tuple[InstanceId, ...]:
        return tuple(plan.victims[0].id for plan in self.plans.values() if isinstance(plan, GroupPlan))

    def paused(self) -> str | None:
        return self.lever


class Site:
    """A fleet of clusters, a store, and stewards over both."""

    def __init__(self, home: Path, clusters: str = "abc") -> None:
        self.fleet = MemoryFleet()
        for name in clusters:
            self.fleet.add_cluster(name)
        self.world = world(self.fleet)
        self.groups = {name: MemoryGroup(self.fleet.clock, Faults(), name=name) for name in ("web", "api")}
        self.place = Place(home)
        self.store = PolicyStore(self.place)
        self.journal = RunStore(self.place)
        self.queue = Queue()
        self.told: list[Announcement] = []
        self.blind: set[str] = set()
        self.now = self.fleet.clock.now()

    def steward(self) -> Steward:
        """One process."""
        return Steward(
            self.store,
            self.queue,
            self.look_at_all,
            self.look,
            lambda _policy, announcement: self.told.append(announcement),
        )

    def look_at_all(self, policy: StandingPolicy) -> tuple[ClusterView | GroupView, ...]:
        if policy.group is not None:
            return tuple(group.view(name) for name, group in self.groups.items())
        return tuple(observe(self.world, name) for name in self.fleet.clusters())

    def look(self, cluster: str) -> ClusterView | GroupView:
        if cluster in self.blind:
            raise TryAgainError(f"{cluster} does not answer")
        group = group_of(cluster)
        return observe(self.world, cluster) if group is None else self.groups[group].view(group)

    def occasion(self) -> Occasion:
        return Occasion(now=self.now, since_last=HOUR, seed=7)

    def end(self, run: str, state: RunState, verdict: RunVerdict | GroupVerdict | None) -> None:
        """A run ends, as its process records it."""
        self.journal.begin(self.queue.plans.pop(run))
        self.journal.end(run, state, verdict, "")

    @property
    def occurrences(self) -> list[Occurrence]:
        return [a.what for a in self.told]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def policy(**changes: object) -> StandingPolicy:
    base = StandingPolicy(
        name="nightly",
        leash=Leash.OFF,
        target=Target(),
        due=Due(),
        limits=Limits(in_flight=(Limit(scope=Scope.POLICY, count=10),)),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def advance(steward: Steward, of: StandingPolicy, site: Site, hours: Hours = OPEN) -> list[str]:
    table: Mapping[str, StandingPolicy] = {of.name: of}
    return steward.advance(table, lambda _: hours, site.now)


def test_whoever_is_due_is_asked_for_once_and_the_runs_know_their_policy(site: Site) -> None:
    steward = site.steward()
    fired = steward.fire(policy(), FIRE, site.occasion(), OPEN)
    assert fired.outcome is Outcome.ACTED
    assert fired.selection is not None
    assert len(fired.selection.due) == 3
    assert [run[:17] for run in advance(steward, policy(), site)] == [f"{c}-20260302t120000" for c in "abc"]
    assert advance(steward, policy(), site) == []
    assert {p.standing for p in site.queue.plans.values()} == {"nightly"}
    assert all(p.victim.short == "n1" for p in site.queue.plans.values())
    assert "nightly" in next(iter(site.queue.plans.values())).why


def test_I7_a_firing_that_two_processes_see_is_acted_on_by_one(site: Site) -> None:
    first, second = site.steward(), site.steward()
    outcomes = [s.fire(policy(), FIRE, site.occasion(), OPEN).outcome for s in (first, second, first)]
    assert outcomes == [Outcome.ACTED, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert advance(second, policy(), site) == []
    assert len(advance(first, policy(), site)) == 3
    assert site.occurrences.count(Occurrence.FIRED) == 1


@pytest.mark.parametrize(
    ("changes", "hours", "lever", "outcome"),
    [
        pytest.param({"leash": Leash.ON}, OPEN, None, Outcome.REPORTED, id="leashed by its file"),
        pytest.param({}, Closed(until=None, why="frozen"), None, Outcome.CLOSED, id="its calendar has closed"),
        pytest.param({}, OPEN, "paused by ada", Outcome.PAUSED, id="the lever is pulled"),
        pytest.param({"due": Due(max_age=timedelta(days=900))}, OPEN, None, Outcome.NOBODY, id="nobody is due"),
        pytest.param(
            {"limits": Limits(selection=(Limit(scope=Scope.FLEET, count=2),))},
            OPEN,
            None,
            Outcome.ABORTED,
            id="more is selected than it allows",
        ),
    ],
)
def test_a_firing_that_may_not_act_is_recorded_and_asks_for_nothing(
    site: Site, changes: dict[str, object], hours: Hours, lever: str | None, outcome: Outcome
) -> None:
    steward, of = site.steward(), policy(**changes)
    site.queue.lever = lever
    assert steward.fire(of, FIRE, site.occasion(), hours).outcome is outcome
    assert steward.pending == 0
    assert advance(steward, of, site) == []
    assert site.queue.asked == []
    assert [f.policy for f in site.store.firings()] == ["nightly"]


def test_the_rest_waits_until_fewer_are_in_flight(site: Site) -> None:
    steward, of = site.steward(), policy(limits=Limits(in_flight=(Limit(scope=Scope.POLICY, count=1),)))
    steward.fire(of, FIRE, site.occasion(), OPEN)
    for cluster in "abc":
        (run,) = advance(steward, of, site)
        assert run.startswith(cluster)
        assert advance(steward, of, site) == [], "one at a time"
        site.end(run, RunState.GOOD, VERDICT)
    assert steward.pending == 0


GIVEN_UP = [
    pytest.param({}, Closed(until=None, why="frozen"), "the calendar has closed: frozen", id="its calendar closes"),
    pytest.param({"leash": Leash.ON}, OPEN, "leashed by its file now", id="a person leashes it in its file"),
]


@pytest.mark.parametrize(("changes", "hours", "said"), GIVEN_UP)
def test_what_could_not_begin_in_time_is_given_up_and_said(
    site: Site, changes: dict[str, object], hours: Hours, said: str
) -> None:
    steward, of = site.steward(), policy(limits=Limits(in_flight=(Limit(scope=Scope.POLICY, count=1),)))
    steward.fire(of, FIRE, site.occasion(), OPEN)
    (run,) = advance(steward, of, site)
    site.end(run, RunState.GOOD, VERDICT)
    assert advance(steward, replace(of, **changes), site, hours) == []  # type: ignore[arg-type]
    assert steward.pending == 0
    assert said in site.told[-1].title
    assert site.told[-1].details == ("b", "c")


def test_what_an_earlier_firing_has_left_is_given_up_when_the_policy_fires_again(site: Site) -> None:
    steward, of = site.steward(), policy(limits=Limits(in_flight=(Limit(scope=Scope.POLICY, count=1),)))
    steward.fire(of, FIRE, site.occasion(), OPEN)
    advance(steward, of, site)
    steward.fire(of, FIRE + HOUR, site.occasion(), OPEN)
    assert any("the policy fires again" in a.title for a in site.told)


def test_a_held_lever_keeps_what_was_selected_until_it_is_released(site: Site) -> None:
    steward = site.steward()
    steward.fire(policy(), FIRE, site.occasion(), OPEN)
    site.queue.lever = "paused by ada"
    assert advance(steward, policy(), site) == []
    site.queue.lever = None
    assert len(advance(steward, policy(), site)) == 3


def test_a_cluster_that_does_not_answer_is_tried_again_and_one_that_is_busy_is_given_up(site: Site) -> None:
    steward = site.steward()
    steward.fire(policy(), FIRE, site.occasion(), OPEN)
    site.blind = {"a"}
    assert [r[0] for r in advance(steward, policy(), site)] == ["b", "c"]
    assert steward.pending == 1
    site.blind, site.queue.refuse = set(), "a has the unfinished run x"
    assert advance(steward, policy(), site) == []
    assert steward.pending == 0
    assert "unfinished run x" in site.told[-1].title


def test_who_is_protected_since_the_firing_does_not_die(site: Site) -> None:
    """Decided again, on a fresh look."""
    steward = site.steward()
    steward.fire(policy(), FIRE, site.occasion(), OPEN)
    site.fleet.machine("n1", "a").end("by itself")
    assert [r[0] for r in advance(steward, policy(), site)] == ["b", "c"]
    assert any(a.details == ("a",) for a in site.told)


BAD = replace(VERDICT, faults=("too long",), outage=timedelta(seconds=9))


@pytest.mark.parametrize(
    ("state", "verdict", "leashes"),
    [
        pytest.param(RunState.GOOD, VERDICT, False, id="a good run does not"),
        pytest.param(RunState.BAD, BAD, True, id="an outage over the budget"),
        pytest.param(RunState.STUCK, None, True, id="a run that got stuck"),
        pytest.param(RunState.REFUSED, None, False, id="a refusal does not"),
    ],
)
def test_I12_a_run_over_its_budget_leashes_its_policy_until_a_person_releases_it(
    site: Site, state: RunState, verdict: RunVerdict | None, leashes: bool
) -> None:
    steward, of = site.steward(), policy(limits=Limits(in_flight=(Limit(scope=Scope.POLICY, count=1),)))
    steward.fire(of, FIRE, site.occasion(), OPEN)
    (run,) = advance(steward, of, site)
    site.end(run, state, verdict)
    begun = advance(steward, of, site)
    assert bool(begun) is not leashes
    assert (Occurrence.LEASHED in site.occurrences) is leashes
    if not leashes:
        return
    again = site.steward()
    assert again.fire(of, FIRE + HOUR, site.occasion(), OPEN).outcome is Outcome.REPORTED, "also in another process"
    assert site.occurrences.count(Occurrence.LEASHED) == 1
    site.store.release("nightly", "ada", "looked at it", datetime.now(NOON.tzinfo))
    assert again.fire(of, FIRE + 2 * HOUR, site.occasion(), OPEN).outcome is Outcome.ACTED


# ---- groups of stateless instances


def of_groups(most: int = 1, **changes: object) -> StandingPolicy:
    """It takes the two oldest of each group, `most` groups at a time."""
    base = policy(
        replace=Replace(what=What.INSTANCE),
        group=GroupPolicy(floor=Floor(count=5), at_most=2),
        limits=Limits(in_flight=(Limit(scope=Scope.POLICY, count=most),)),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def good_of(plan: Plan | GroupPlan) -> GroupVerdict:
    assert isinstance(plan, GroupPlan)
    return GroupVerdict(replaced=(), left=(), faults=())


def test_a_policy_about_groups_asks_for_one_run_of_each_whatever_their_size(site: Site) -> None:
    steward, nightly = site.steward(), of_groups(most=9)
    fired = steward.fire(nightly, FIRE, site.occasion(), OPEN)
    assert fired.outcome is Outcome.ACTED
    assert fired.selection is not None
    assert [str(d.instance.id) for d in fired.selection.due] == [
        f"asg:{g}/i-{n}" for g in ("web", "api") for n in (1, 2)
    ]
    assert advance(steward, nightly, site) == site.queue.asked
    plans = [plan for plan in site.queue.plans.values() if isinstance(plan, GroupPlan)]
    assert [(p.group, [v.id.short for v in p.victims], p.standing) for p in plans] == [
        ("web", ["i-1", "i-2"], "nightly"),
        ("api", ["i-1", "i-2"], "nightly"),
    ]
    assert steward.pending == 0


def test_the_next_group_waits_for_the_first_and_neither_for_clusters(site: Site) -> None:
    steward, nightly, masters = site.steward(), of_groups(), policy(name="masters")
    steward.fire(masters, FIRE, site.occasion(), OPEN)
    advance(steward, masters, site)
    assert len(site.queue.asked) == 3
    steward.fire(nightly, FIRE, site.occasion(), OPEN)
    table = {nightly.name: nightly, masters.name: masters}
    (first,) = steward.advance(table, lambda _: OPEN, site.now)
    assert steward.advance(table, lambda _: OPEN, site.now) == []
    site.end(first, RunState.GOOD, good_of(site.queue.plans[first]))
    (second,) = steward.advance(table, lambda _: OPEN, site.now)
    assert [site.queue.plans.get(run) is None for run in (first, second)] == [True, False]
    assert first.startswith("group:web-")
    assert second.startswith("group:api-")


def test_a_run_takes_who_is_due_when_it_begins(site: Site) -> None:
    steward, nightly = site.steward(), of_groups()
    steward.fire(nightly, FIRE, site.occasion(), OPEN)
    web, api = site.groups["web"], site.groups["api"]
    web.change(web.n(1), protected=True)
    for number in range(1, 7):
        api.change(api.n(number), protected=True)
    (run,) = advance(steward, nightly, site)
    plan = site.queue.plans[run]
    assert isinstance(plan, GroupPlan)
    assert [v.id.short for v in plan.victims] == ["i-2", "i-3"]
    site.end(run, RunState.GOOD, good_of(plan))
    assert advance(steward, nightly, site) == []
    assert "protected from scale-in" in site.told[-1].title


def test_a_group_cools_down_and_its_runs_are_remembered_by_its_own_name(site: Site) -> None:
    steward, nightly = site.steward(), of_groups(most=9, cool_down=HOUR, target=Target(names=("web",)))
    steward.fire(nightly, FIRE, site.occasion(), OPEN)
    (run,) = advance(steward, nightly, site)
    site.end(run, RunState.GOOD, good_of(site.queue.plans[run]))
    assert set(site.store.histories("nightly")) == {"group:web"}
    site.now = datetime.now(UTC)
    again = steward.fire(nightly, FIRE + HOUR, site.occasion(), OPEN)
    assert again.outcome is Outcome.NOBODY
    assert again.selection is not None
    assert "it cools down" in again.selection.spared[0].why


BAD = GroupVerdict(replaced=(), left=(), faults=("i-1 got no healthy successor",))


@pytest.mark.parametrize(
    ("state", "verdict", "why"),
    [
        (RunState.GOOD, good_of, None),
        (RunState.REFUSED, BAD, None),
        (RunState.UNDONE, BAD, None),
        (RunState.BAD, BAD, "failed: i-1 got no healthy successor"),
        (RunState.STUCK, BAD, "is stuck"),
    ],
)
def test_a_policy_about_groups_is_leashed_by_what_went_wrong_and_by_no_cost_that_nobody_measured(
    site: Site, state: RunState, verdict: object, why: str | None
) -> None:
    steward, nightly = site.steward(), of_groups(target=Target(names=("web",)))
    steward.fire(nightly, FIRE, site.occasion(), OPEN)
    (run,) = advance(steward, nightly, site)
    site.end(run, state, verdict if isinstance(verdict, GroupVerdict) else good_of(site.queue.plans[run]))
    assert steward.is_leashed(nightly) == (why is not None)
    reasons = [reason for record in site.store.leashed() for reason in record.why]
    assert all("outage" not in reason and "writes" not in reason for reason in reasons)
    if why is not None:
        assert why in " ".join(reasons)
