"""The dry run of policies: observe everything, decide, and ask every guard. Reads only; nothing is recorded."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from reaper.domain.errors import ReaperError
from reaper.domain.facts import ClusterView
from reaper.domain.groups import GroupPlan, GroupView, key_of
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict, Ruling
from reaper.planner.groups import GroupCase, judge_group
from reaper.planner.guards import Moment, refusals
from reaper.planner.orders import group_plan_of, request_of, run_of
from reaper.planner.report import Decision, Report, State, Subject, decide
from reaper.planner.selection import DueInstance, Occasion
from reaper.planner.steps import make_plan
from reaper.planner.targeting import prepare
from reaper.workflow.examine import examine
from reaper.workflow.groups import Groups
from reaper.workflow.observe import observe
from reaper.workflow.world import World

# Clusters that are looked at at one moment; each takes a thread for every member besides.
MOST_AT_ONCE = 128
# Groups that are looked at at one moment: each look is several calls, and AWS counts them over all of an account.
MOST_GROUPS_AT_ONCE = 8

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True)
class Unobserved:
    """A cluster or group of which nothing is known. No policy takes it (I10)."""

    cluster: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """A run that a policy would ask for, and what every guard says of it now."""

    policy: str
    state: State  # of the policy: whether it acts or only says so
    fire: datetime
    due: DueInstance
    plan: Plan
    view: ClusterView
    verdicts: tuple[GuardVerdict, ...]

    @property
    def refused_by(self) -> tuple[GuardVerdict, ...]:
        """The verdicts that refuse; empty: it would go."""
        return refusals(self.verdicts)


@dataclass(frozen=True, kw_only=True)
class GroupForeseen:
    """A run over a group that a policy would ask for, and what every guard says of its first victim now."""

    policy: str
    state: State
    fire: datetime
    plan: GroupPlan
    view: GroupView
    verdicts: tuple[GuardVerdict, ...]

    @property
    def refused_by(self) -> tuple[GuardVerdict, ...]:
        """The verdicts that refuse; empty: it would go."""
        return refusals(self.verdicts)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A report and what was seen for it."""

    taken_at: datetime  # when the clusters were observed and the guards asked
    report: Report
    runs: tuple[Foreseen, ...]  # in the order of the policies and of their selections
    unobserved: tuple[Unobserved, ...]
    paused: str | None  # why the lever is pulled; nothing begins meanwhile
    groups: tuple[GroupForeseen, ...] = ()  # runs over groups, in the same order

    @property
    def refused(self) -> tuple[Foreseen, ...]:
        """Runs that at least one guard refuses."""
        return tuple(run for run in self.runs if run.refused_by)

    @property
    def going(self) -> tuple[Foreseen, ...]:
        """Runs that nobody refuses."""
        return tuple(run for run in self.runs if not run.refused_by)


@dataclass(frozen=True, kw_only=True)
class Span:
    """The moment that is asked about and the days after it, on the clocks of a zone."""

    at: datetime
    days: int
    zone: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was seen of a number of clusters."""

    views: tuple[ClusterView, ...]
    unobserved: tuple[Unobserved, ...]


@dataclass(frozen=True, kw_only=True)
class GroupSurvey:
    """What was seen of a number of groups."""

    views: tuple[GroupView, ...]
    unobserved: tuple[Unobserved, ...]


def survey_groups(groups: Groups, names: Sequence[str]) -> GroupSurvey:
    """Look at them concurrently. One that cannot be seen is a line of the result."""

    def look(name: str) -> GroupView | Unobserved:
        try:
            return groups.view(name)
        except ReaperError as error:
            return Unobserved(cluster=key_of(name), why=str(error))

    seen = _all_at_once(look, names, MOST_GROUPS_AT_ONCE)
    return GroupSurvey(
        views=tuple(s for s in seen if isinstance(s, GroupView)),
        unobserved=tuple(s for s in seen if isinstance(s, Unobserved)),
    )


def survey(world: World, clusters: Sequence[str]) -> Survey:
    """Observe them concurrently: the slowest sets the time. One that cannot be observed is a line of the result."""
    seen = _all_at_once(lambda name: _look(world, name), clusters)
    return Survey(
        views=tuple(s for s in seen if isinstance(s, ClusterView)),
        unobserved=tuple(s for s in seen if isinstance(s, Unobserved)),
    )


def forecast(world: World, subjects: Sequence[Subject], span: Span, groups: Groups | None = None) -> Forecast:
    """What policies would do. What cannot be observed is a line of the result, not a failure.

    `groups` are looked at if a policy is about groups; None: there is no provider of any.
    """
    taken_at = world.clock.now()
    seen = survey(world, world.fleet.clusters())
    seen_groups = _look_at_groups(groups, subjects)
    views = {view.name: view for view in seen.views}
    group_views = {view.key: view for view in seen_groups.views}
    fleet = [*map(prepare, views.values()), *map(prepare, group_views.values())]
    report = decide(subjects, fleet, span.at, span.days, span.zone)
    wanted = [(d, due) for d in report.decisions if d.policy.group is None for due in d.victims]
    runs = _all_at_once(lambda w: _foresee(world, w[0], w[1], views[w[1].cluster]), wanted)
    occasions = {s.policy.name: s.occasion for s in subjects}
    return Forecast(
        taken_at=taken_at,
        report=report,
        runs=runs,
        unobserved=(*seen.unobserved, *seen_groups.unobserved),
        paused=world.paused(),
        groups=tuple(
            _foresee_group(decision, group_views[cluster], occasions[decision.policy.name])
            for decision in report.decisions
            if decision.policy.group is not None
            for cluster in dict.fromkeys(due.cluster for due in decision.victims)
        ),
    )


def _look_at_groups(groups: Groups | None, subjects: Sequence[Subject]) -> GroupSurvey:
    wanted = [s.policy.name for s in subjects if s.policy.group is not None]
    if not wanted:
        return GroupSurvey(views=(), unobserved=())
    if groups is None:
        why = f"no provider of groups is set up here, and {wanted[0]} is about groups"
        return GroupSurvey(views=(), unobserved=(Unobserved(cluster="every group", why=why),))
    try:
        return survey_groups(groups, groups.names())
    except ReaperError as error:
        return GroupSurvey(views=(), unobserved=(Unobserved(cluster="every group", why=str(error)),))


def _foresee_group(decision: Decision, view: GroupView, occasion: Occasion) -> GroupForeseen:
    """The plan as the firing would make it, and what the guards say of the first that would die."""
    policy = decision.policy
    plan = group_plan_of(policy, view, run_of(policy.name, view.key, decision.at), occasion)
    case = GroupCase(view=view, victim=plan.victims[0].id, policy=plan.policy)
    return GroupForeseen(
        policy=policy.name,
        state=decision.state,
        fire=decision.at,
        plan=plan,
        view=view,
        verdicts=judge_group(case),
    )


def _all_at_once(ask: Callable[[_In], _Out], of: Iterable[_In], most: int = MOST_AT_ONCE) -> tuple[_Out, ...]:
    """Ask of all concurrently, within bounds, so that the slowest sets the time; answers in the order asked."""
    pool = ThreadPoolExecutor(max_workers=most)
    # Nobody begins before all have a thread: starting one takes its turn with all that work already, and the last of a
    # hundred clusters, which may be the slowest, would begin when the others are done (measured).
    all_there = threading.Event()

    def ask_one(one: _In) -> _Out:
        all_there.wait()
        return ask(one)

    try:
        answers = pool.map(ask_one, of)
        all_there.set()
        return tuple(answers)
    finally:
        all_there.set()
        pool.shutdown(cancel_futures=True)  # after Ctrl-C the queue is dropped


def _look(world: World, cluster: str) -> ClusterView | Unobserved:
    try:
        return observe(world, cluster)
    except ReaperError as error:
        return Unobserved(cluster=cluster, why=str(error))


def _foresee(world: World, decision: Decision, due: DueInstance, seen: ClusterView) -> Foreseen:
    """The plan as the firing would make it, and the guards on fresh facts; what cannot be asked refuses (I10)."""
    request = request_of(
        decision.policy, due, run_of(decision.policy.name, due.cluster, decision.at), decision.selection.seed
    )
    plan = make_plan(seen, request)
    try:
        found = examine(world, plan, Moment.PLAN, None)
        view, verdicts = found.case.view, found.verdicts
    except ReaperError as error:
        refusal = GuardVerdict(
            guard="observation",
            ruling=Ruling.REFUSE,
            reason=f"{due.cluster} could not be looked at again to ask the guards: {error}",
        )
        view, verdicts = seen, (refusal,)
    return Foreseen(
        policy=decision.policy.name,
        state=decision.state,
        fire=decision.at,
        due=due,
        plan=plan,
        view=view,
        verdicts=verdicts,
    )
