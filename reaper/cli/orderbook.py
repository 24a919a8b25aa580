"""What the steward needs of this site: the queue of runs, and a look at clusters."""

import threading
import time
from datetime import timedelta
from typing import Any

from reaper.adapters.store.records import AnyPlan
from reaper.adapters.telemetry.metrics import Telemetry
from reaper.cli.compose import Site
from reaper.cli.groups import NOT_SET_UP
from reaper.cli.runs import ticket_of
from reaper.domain.errors import UsageError
from reaper.domain.facts import ClusterView, InstanceId
from reaper.domain.groups import GroupView, group_of
from reaper.domain.standing import Scope, StandingPolicy
from reaper.planner.shape import MasterWithReplicas, classify, living
from reaper.planner.targeting import may_target
from reaper.workflow.forecast import survey, survey_groups
from reaper.workflow.groups import Groups
from reaper.workflow.observe import observe
from reaper.workflow.world import World

FRESH = timedelta(seconds=5)


class OrderBook:
    """The steward's `Queue`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def submit(self, plan: AnyPlan, group: str | None) -> None:
        """Ask for a run, once per name."""
        self._site.work.submit(ticket_of(plan, group))

    def in_flight(self) -> tuple[InstanceId, ...]:
        """The victims of all runs over clusters that have not ended."""
        return self._site.runs.victims()

    def groups_in_flight(self) -> tuple[InstanceId, ...]:
        """The first victims of all runs over groups that have not ended."""
        return self._site.runs.group_victims()

    def paused(self) -> str | None:
        """Why the lever is pulled."""
        return self._site.paused()


class Lookout:
    """Looks at clusters and groups. What cannot be seen is said, and left alone; what was seen a moment ago is not
    asked again.
    """

    def __init__(self, world: World, groups: Groups | None, telemetry: Telemetry, log: Any) -> None:
        self._world = world
        self._groups = groups
        self._telemetry = telemetry
        self._log = log
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, ClusterView]] = {}

    def at(self, cluster: str) -> ClusterView | GroupView:
        """One cluster or group, by its name among those of clusters, now."""
        group = group_of(cluster)
        return observe(self._world, cluster) if group is None else self._must_reach().view(group)

    def at_all(self, policy: StandingPolicy) -> tuple[ClusterView | GroupView, ...]:
        """All that count for a policy: where a limit counts over more than its own target, every one."""
        limits = (*policy.limits.in_flight, *policy.limits.selection)
        alone = all(limit.scope is Scope.POLICY for limit in limits)
        if policy.group is not None:
            return self._groups_at_all(policy, alone=alone)
        names = [c for c in self._world.fleet.clusters() if not alone or may_target(policy.target, c)]
        with self._lock:  # policies that fire at the same moment look once
            now = time.monotonic()
            seen = {name: (at, view) for name, (at, view) in self._seen.items() if now - at < FRESH.total_seconds()}
            found = survey(self._world, [name for name in names if name not in seen])
            seen |= {view.name: (now, view) for view in found.views}
            self._seen = seen
        for lost in found.unobserved:
            self._log.warning("not observed", cluster=lost.cluster, why=lost.why)
        for view in found.views:
            self._show_ages(view)
        return tuple(seen[name][1] for name in names if name in seen)

    def _groups_at_all(self, policy: StandingPolicy, *, alone: bool) -> tuple[GroupView, ...]:
        groups = self._must_reach()
        names = [g for g in groups.names() if not alone or may_target(policy.target, g)]
        found = survey_groups(groups, names)
        for lost in found.unobserved:
            self._log.warning("not observed", cluster=lost.cluster, why=lost.why)
        return found.views

    def _must_reach(self) -> Groups:
        if self._groups is None:
            raise UsageError(NOT_SET_UP)
        return self._groups

    def _show_ages(self, view: ClusterView) -> None:
        alive = {m.instance.id: view.taken_at - m.instance.created for m in living(view)}
        shape = classify(view)
        master = alive.get(shape.master.instance.id) if isinstance(shape, MasterWithReplicas) else None
        if alive:
            self._telemetry.observed(view.name, max(alive.values()), master)
