"""The dry run of policies: observe everything, decide, and ask every guard. Reads only; nothing is recorded."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from reaper.domain.errors import ReaperError
from reaper.domain.facts import ClusterView
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict, Ruling
from reaper.planner.guards import Moment, refusals
from reaper.planner.orders import request_of, run_of
from reaper.planner.report import Decision, Report, State, Subject, decide
from reaper.planner.selection import DueInstance, prepare
from reaper.planner.steps import make_plan
from reaper.workflow.examine import examine
from reaper.workflow.observe import observe
from reaper.workflow.world import World

# Clusters that are looked at at one moment; each takes a thread for every member besides.
MOST_AT_ONCE = 128

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True)
class Unobserved:
    """A cluster of which nothing is known. No policy takes it (I10)."""

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
class Forecast:
    """A report and what was seen for it."""

    taken_at: datetime  # when the clusters were observed and the guards asked
    report: Report
    runs: tuple[Foreseen, ...]  # in the order of the policies and of their selections
    unobserved: tuple[Unobserved, ...]
    paused: str | None  # why the lever is pulled; nothing begins meanwhile

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


def survey(world: World, clusters: Sequence[str]) -> Survey:
    """Observe them concurrently: the slowest sets the time. One that cannot be observed is a line of the result."""
    seen = _all_at_once(lambda name: _look(world, name), clusters)
    return Survey(
        views=tuple(s for s in seen if isinstance(s, ClusterView)),
        unobserved=tuple(s for s in seen if isinstance(s, Unobserved)),
    )


def forecast(world: World, subjects: Sequence[Subject], span: Span) -> Forecast:
    """What policies would do. A cluster that cannot be observed is a line of the result, not a failure."""
    taken_at = world.clock.now()
    seen = survey(world, world.fleet.clusters())
    views = {view.name: view for view in seen.views}
    fleet = [prepare(view) for view in views.values()]
    report = decide(subjects, fleet, span.at, span.days, span.zone)
    wanted = [(decision, due) for decision in report.decisions for due in decision.victims]
    runs = _all_at_once(lambda w: _foresee(world, w[0], w[1], views[w[1].cluster]), wanted)
    paused = world.paused()
    return Forecast(taken_at=taken_at, report=report, runs=runs, unobserved=seen.unobserved, paused=paused)


def _all_at_once(ask: Callable[[_In], _Out], of: Iterable[_In]) -> tuple[_Out, ...]:
    """Ask of all concurrently, within bounds, so that the slowest sets the time; answers in the order asked."""
    pool = ThreadPoolExecutor(max_workers=MOST_AT_ONCE)
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
