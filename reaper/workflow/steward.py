"""What happens when a policy fires: decide, record the decision, then queue its runs as its limits let them begin.

Nothing is caught up: what could not begin before its policy's calendar closed, or before the policy fires
again, is given up and said.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from reaper.domain.almanac import Closed, Hours
from reaper.domain.announcement import Announcement
from reaper.domain.errors import ReaperError, RefusedError
from reaper.domain.facts import ClusterView, Instance, InstanceId
from reaper.domain.groups import GroupMember, GroupPlan, GroupView
from reaper.domain.plan import Plan
from reaper.domain.standing import Leash, StandingPolicy
from reaper.planner.announcing import policy_fired, policy_leashed, selection_given_up
from reaper.planner.budgets import PastRun, overspent
from reaper.planner.orders import group_plan_of, request_of, run_of
from reaper.planner.radius import Exceeded, Living, Radius, count_living, of_next, of_selection
from reaper.planner.selection import ClusterHistory, DueInstance, Occasion, Selection, select
from reaper.planner.steps import make_plan
from reaper.planner.targeting import Mortal, prepare


class Outcome(StrEnum):
    """What came of a firing."""

    ACTED = "acted"  # runs were asked for
    NOBODY = "nobody"  # nobody was due
    REPORTED = "reported"  # the policy is leashed: it only said what it would have done
    CLOSED = "closed"  # its calendar had closed since its fire times were computed
    PAUSED = "paused"  # the lever is pulled
    ABORTED = "aborted"  # more was selected than the policy allows: nothing was touched
    DUPLICATE = "duplicate"  # another process has this firing


@dataclass(frozen=True, kw_only=True)
class Fired:
    """One firing of a policy, as it is recorded and told."""

    policy: str
    fire: datetime  # the scheduled moment
    outcome: Outcome
    why: str  # in words; "" where the outcome says it all
    selection: Selection | None  # None: it did not come to that

    def summary(self) -> str:
        """As it is kept: a flat JSON object."""
        facts: dict[str, object] = {"outcome": self.outcome.value, "why": self.why}
        if self.selection is not None:
            facts |= {
                "due": [f"{d.role} {d.instance.id}" for d in self.selection.due],
                "spared": len(self.selection.spared),
                "targeted": self.selection.targeted,
            }
        return json.dumps(facts)


class Register(Protocol):
    """What policies remember, shared by all processes."""

    def decided(self, policy: str, fire: datetime, seed: int, now: datetime, summary: str) -> bool:
        """Record a firing, once: False if some process has recorded it already."""

    def histories(self, policy: str) -> Mapping[str, ClusterHistory]:
        """What is remembered of every cluster, as this policy sees it."""

    def asked(self, run: str, policy: str, cluster: str) -> None:
        """A policy asks for a run."""

    def past_runs(self, policy: str, since: datetime | None) -> tuple[PastRun, ...]:
        """Its runs that have ended since, newest first."""

    def released_at(self, policy: str) -> datetime | None:
        """When a person let it go the last time."""

    def leash(self, policy: str, why: tuple[str, ...], run: str | None, at: datetime) -> bool:
        """A budget stops it; the first reason stays. False: it was leashed already."""

    def is_leashed(self, policy: str) -> bool:
        """Whether a budget has stopped it."""


class Queue(Protocol):
    """Where runs are asked for, and what goes on."""

    def submit(self, plan: Plan | GroupPlan, group: str | None) -> None:
        """Ask for a run, once per name. RefusedError: its cluster or group has an unfinished run."""

    def in_flight(self) -> tuple[InstanceId, ...]:
        """The victims of all runs over clusters that have not ended."""

    def groups_in_flight(self) -> tuple[InstanceId, ...]:
        """Of every run over a group that has not ended its first victim: it replaces one at a time."""

    def paused(self) -> str | None:
        """Why the lever is pulled."""


View = ClusterView | GroupView
Observe = Callable[[StandingPolicy], tuple[View, ...]]  # what a policy may be about, concurrently
Look = Callable[[str], View]  # one cluster or group, by its name among those of clusters
Tell = Callable[[StandingPolicy, Announcement], None]


@dataclass(kw_only=True)
class _Pending:
    """What a firing has selected and not yet asked for."""

    policy: StandingPolicy
    fire: datetime
    occasion: Occasion
    selection: Selection
    living: Living
    instances: Mapping[InstanceId, Mortal]
    waiting: list[DueInstance]  # of a group the first that its run replaces


class Steward:
    """Carries out policies. Its methods may be called from several threads; one firing at a time is decided."""

    def __init__(self, register: Register, queue: Queue, observe: Observe, look: Look, tell: Tell) -> None:
        self._register = register
        self._queue = queue
        self._observe = observe
        self._look = look
        self._tell = tell
        self._lock = threading.Lock()
        self._pending: dict[str, _Pending] = {}

    @property
    def pending(self) -> int:
        """How many runs are still to be asked for."""
        with self._lock:
            return sum(len(p.waiting) for p in self._pending.values())

    # ---- a firing

    def fire(self, policy: StandingPolicy, fire: datetime, occasion: Occasion, hours: Hours) -> Fired:
        """Decide and record; what is due begins with the next `advance`. `hours`: the calendar at this moment."""
        if isinstance(hours, Closed):
            return self._record(policy, occasion, _fired(policy, fire, Outcome.CLOSED, hours.why), None)
        fleet = [prepare(view) for view in self._observe(policy)]
        selection = select(policy, fleet, self._register.histories(policy.name), occasion)
        living = count_living(fleet)
        radius = of_selection(policy, selection, living)
        outcome, why = self._judge(policy, selection, radius)
        pending = _Pending(
            policy=policy,
            fire=fire,
            occasion=occasion,
            selection=selection,
            living=living,
            instances={instance.id: instance for candidate in fleet for _, instance in candidate.members},
            waiting=list(selection.first),
        )
        fired = self._record(policy, occasion, _fired(policy, fire, outcome, why, selection), pending)
        if fired.outcome is not Outcome.DUPLICATE:
            told = policy_fired(policy, selection, radius, occasion.now)
            self._tell(policy, replace(told, details=(why, *told.details)) if why else told)
        return fired

    def _record(self, policy: StandingPolicy, occasion: Occasion, fired: Fired, pending: _Pending | None) -> Fired:
        """Whoever records a firing first acts; what an earlier one has left gives way."""
        with self._lock:
            if not self._register.decided(policy.name, fired.fire, occasion.seed, occasion.now, fired.summary()):
                return replace(fired, outcome=Outcome.DUPLICATE, why="another process has this firing")
            left = self._pending.pop(policy.name, None)
            if pending is not None and fired.outcome is Outcome.ACTED:
                self._pending[policy.name] = pending
        if left is not None:
            self._give_up(left, "the policy fires again", occasion.now)
        return fired

    def _give_up(self, left: _Pending, why: str, now: datetime) -> None:
        clusters = tuple(due.cluster for due in left.waiting)
        self._tell(left.policy, selection_given_up(left.policy.name, clusters, why, now))

    def _judge(self, policy: StandingPolicy, selection: Selection, radius: Radius) -> tuple[Outcome, str]:
        if isinstance(radius, Exceeded):
            return Outcome.ABORTED, "; ".join(radius.why)
        if not selection.due:
            return Outcome.NOBODY, ""
        if policy.leash is Leash.ON:
            return Outcome.REPORTED, "leashed by its file"
        if self.is_leashed(policy):
            return Outcome.REPORTED, "leashed by a budget: `reaper policies release` lets it go"
        paused = self._queue.paused()
        if paused is not None:
            return Outcome.PAUSED, paused
        return Outcome.ACTED, ""

    # ---- budgets

    def is_leashed(self, policy: StandingPolicy) -> bool:
        """Whether a budget has stopped a policy; it is leashed now if its runs since its last release exceed one."""
        if self._register.is_leashed(policy.name):
            return True
        runs = self._register.past_runs(policy.name, self._register.released_at(policy.name))
        why = overspent(policy.budgets, runs if policy.group is None else tuple(map(_without_costs, runs)))
        if not why:
            return False
        if self._register.leash(policy.name, why, runs[0].run, runs[0].ended):
            self._tell(policy, policy_leashed(policy.name, why, runs[0].ended))
        return True

    # ---- what is due begins

    def advance(
        self, policies: Mapping[str, StandingPolicy], hours: Callable[[StandingPolicy], Hours], now: datetime
    ) -> list[str]:
        """Ask for the runs that may begin now; their names. Decided again for each, on a fresh look (I10)."""
        begun: list[str] = []
        with self._lock:
            for name, pending in list(self._pending.items()):
                policy = policies.get(name)
                why = self._why_give_up(policy, hours)
                if policy is None or why is not None:
                    self._give_up(self._pending.pop(name), why or "", now)
                elif self._queue.paused() is None:
                    begun += self._advance(policy, pending)
                    if not pending.waiting:
                        del self._pending[name]
        return begun

    def _why_give_up(self, policy: StandingPolicy | None, hours: Callable[[StandingPolicy], Hours]) -> str | None:
        """Why a policy may not go on with what it has selected, or None."""
        if policy is None:
            return "the policy is gone"
        if policy.leash is Leash.ON:
            return "the policy is leashed by its file now"
        if self.is_leashed(policy):
            return "a budget has leashed the policy"
        open_now = hours(policy)
        return f"the calendar has closed: {open_now.why}" if isinstance(open_now, Closed) else None

    def _advance(self, policy: StandingPolicy, pending: _Pending) -> list[str]:
        begun: list[str] = []
        for due in list(pending.waiting):
            flying = self._queue.in_flight() if policy.group is None else self._queue.groups_in_flight()
            dying = tuple(pending.instances.get(i) or _stranger(due.instance, i) for i in flying)
            if isinstance(of_next(policy, dying, due.instance, pending.living, pending.selection), Exceeded):
                continue
            pending.waiting.remove(due)
            run = self._begin(policy, pending, due)
            if run is not None:
                begun.append(run)
        return begun

    def _begin(self, policy: StandingPolicy, pending: _Pending, due: DueInstance) -> str | None:
        """Ask for one run, if it is still due; None: it is not, or its cluster is busy by now."""
        run = run_of(policy.name, due.cluster, pending.fire)
        try:
            view = self._look(due.cluster)
            histories = self._register.histories(policy.name)
            again = select(policy, [prepare(view)], histories, pending.occasion)
            still = again.due if policy.group else [d for d in again.due if d.instance.id == due.instance.id]
            if not still:
                why = "; ".join(dict.fromkeys(spared.why for spared in again.spared)) or "it is not due any more"
                raise RefusedError(why)
            plan: Plan | GroupPlan
            if isinstance(view, GroupView):
                plan = group_plan_of(policy, view, run, pending.occasion)
            else:
                plan = make_plan(view, request_of(policy, due, run, pending.occasion.seed))
            self._register.asked(run, policy.name, due.cluster)
            self._queue.submit(plan, due.instance.group if isinstance(due.instance, Instance) else None)
        except RefusedError as error:
            self._tell(policy, selection_given_up(policy.name, (due.cluster,), str(error), pending.occasion.now))
            return None
        except ReaperError:
            pending.waiting.append(due)  # the cluster or the store did not answer: tried again
            return None
        return run


def _stranger(like: Mortal, name: InstanceId) -> Mortal:
    """One that was not there at the firing belongs to no group or zone that is known."""
    if isinstance(like, GroupMember):
        return replace(like, id=name, zone=None)
    return replace(like, id=name, group=None, zone=None)


def _without_costs(run: PastRun) -> PastRun:
    """A run over a group is judged by how it ended: it has no outage and no writes that anybody could measure."""
    return replace(run, outage=timedelta(0), lost=0)


def _fired(
    policy: StandingPolicy, fire: datetime, outcome: Outcome, why: str, selection: Selection | None = None
) -> Fired:
    return Fired(policy=policy.name, fire=fire, outcome=outcome, why=why, selection=selection)
