"""One run from its plan to its verdict: prepare, cut over, retire.

Before the kill a failure is undone and the cluster is as it was found. After it the only way is
forward, and a run that cannot finish calls a person (I9, I12).
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from reaper.domain.errors import AbortedError, CallAPersonError, ReaperError, RefusedError
from reaper.domain.facts import ClusterView, Instance, InstanceId
from reaper.domain.ledger import Ledger, LedgerVerdict, settle
from reaper.domain.plan import Plan, Replacement, Role, StepName
from reaper.domain.policy import FailoverBy, KillMode
from reaper.domain.verdict import ClientCost, GuardVerdict, Part, RunState, RunVerdict
from reaper.planner.guards import Case, Moment, judge, refusals
from reaper.planner.shape import MasterWithReplicas, OtherShape, classify, living
from reaper.workflow.cutover import Armed, Succession, arm, cut_over, drain, fence, fire, quiet, undrain
from reaper.workflow.evidence import client_costs, ledger_faults, parts_of, worst
from reaper.workflow.observe import observe, watch
from reaper.workflow.ports import Probe, Server, World
from reaper.workflow.prepare import Names, Undo, build_replacement, instance_of
from reaper.workflow.run import Timeline

_PROBE_BEFORE = timedelta(seconds=1)  # writes on record before the kill
_PROBE_AFTER = timedelta(seconds=1)  # and after the first acknowledged one


def examine(
    world: World, plan: Plan, moment: Moment, *, heir: InstanceId | None, mark: bool
) -> tuple[ClusterView, tuple[GuardVerdict, ...]]:
    """Fresh facts and what every guard says of them. `mark` writes the marker row; a dry run must not."""
    view = observe(world, plan.cluster)
    soak = watch(world, view, plan.policy, marker_of=plan.run if mark else None)
    case = Case(
        view=view,
        soak=soak,
        victim=plan.victim,
        policy=plan.policy,
        replacement=plan.replacement,
        moment=moment,
        snapshot_from=plan.snapshot_from,
        heir=heir,
    )
    return view, judge(case)


@dataclass(frozen=True, kw_only=True)
class _Killed:
    """What is known right after the kill and its measurement."""

    heir: Instance | None
    costs: tuple[ClientCost, ...]
    parts: tuple[Part, ...]
    ledger: LedgerVerdict | None
    faults: tuple[str, ...]
    notes: tuple[str, ...]


class Rotation:
    """Runs one plan. Use once."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._timeline = Timeline(world, plan)
        self._undo = Undo()
        self._names = Names(plan.run)
        self._killed = False
        self._known_master: Instance | None = None

    def execute(self) -> RunVerdict:
        """Run the plan. Raises RefusedError, TryAgainError or AbortedError (all undone), or CallAPersonError."""
        world, plan = self._world, self._plan
        with world.lock(plan.cluster):
            world.journal.begin(plan)
            try:
                verdict = self._run()
            except BaseException as error:
                self._fail(error)
                raise
            world.journal.end(plan.run, RunState.GOOD if verdict.good else RunState.BAD, verdict, "")
            return verdict

    def _fail(self, error: BaseException) -> None:
        """Record a run that did not reach its verdict; undo it if the kill has not happened."""
        world, plan = self._world, self._plan
        message = str(error) or type(error).__name__
        left = () if self._killed else self._undo.run()
        if self._killed or left:
            message = "; ".join((message, *left))
            world.journal.end(plan.run, RunState.STUCK, None, message)
            if not isinstance(error, CallAPersonError):
                raise CallAPersonError(message) from error
            return
        state = RunState.REFUSED if isinstance(error, RefusedError) else RunState.UNDONE
        world.journal.end(plan.run, state, None, message)

    def _run(self) -> RunVerdict:
        world, plan = self._world, self._plan
        view = self._pass_guards(Moment.PLAN, None)
        before = len(living(view))
        heir = None
        if plan.replacement is Replacement.BEFORE:
            heir = build_replacement(world, plan, self._master, self._timeline, self._undo)
        killed = self._kill(heir)
        return self._retire(killed, before)

    def _pass_guards(self, moment: Moment, heir: Instance | None) -> ClusterView:
        world, plan = self._world, self._plan
        if moment is Moment.PLAN:
            self._undo.push("clear the marker row", lambda: self._on_master(lambda s: s.clear_marker(plan.run)))
        view, verdicts = examine(world, plan, moment, heir=heir.id if heir else None, mark=True)
        world.journal.guards(plan.run, verdicts)
        shape = classify(view)
        if isinstance(shape, MasterWithReplicas):
            self._known_master = shape.master.instance
        refused = refusals(verdicts)
        if refused:
            raise RefusedError("; ".join(f"{v.guard}: {v.reason}" for v in refused))
        world.interrupt.check()
        return view

    @property
    def _master(self) -> Instance:
        """Who takes writes now, as far as this run knows."""
        if self._known_master is None:
            raise CallAPersonError(f"{self._plan.cluster} has no master that this run knows of")
        return self._known_master

    def _on_master(self, action: Callable[[Server], None]) -> None:
        if self._known_master is None:
            return  # no guard let a master pass, so nothing was written
        with contextlib.closing(self._world.connect(self._plan.cluster, self._known_master)) as server:
            action(server)

    # ---- the kill, under the probe

    def _kill(self, heir: Instance | None) -> _Killed:
        world, plan = self._world, self._plan
        victim = instance_of(world, plan.cluster, plan.victim)
        others = [m.instance for m in living(observe(world, plan.cluster)) if m.instance.id != plan.victim]
        table = self._names.probe_table
        self._undo.push("drop the probe's table", lambda: self._on_master(lambda s: s.drop_probe_table(table)))
        self._on_master(lambda s: s.create_probe_table(table))
        with contextlib.closing(world.start_probe(plan, table)) as probe:
            with self._timeline.step(StepName.PROBE, "clients write through the endpoint"):
                world.clock.sleep(_PROBE_BEFORE)
            with arm(world, plan, victim, others, heir.id if heir else None) as armed:
                self._pass_guards(Moment.KILL, heir)
                if plan.policy.mode is KillMode.DRAIN:
                    drain(armed, self._timeline)
                try:
                    world.interrupt.cross()
                except AbortedError:
                    undrain(armed)
                    raise
                self._killed = True
                if plan.role is Role.REPLICA or plan.policy.failover is FailoverBy.OBSERVE:
                    kill_ns = world.clock.monotonic_ns()
                    with quiet(self._timeline):
                        fire(armed.trigger, plan.policy.mode)
                        self._prove(armed, kill_ns)
                    if plan.role is Role.REPLICA:
                        return self._after_replica(probe, table, kill_ns)
                    return self._after_watch(probe, table, kill_ns)
                with quiet(self._timeline):
                    succession = cut_over(world, armed, self._timeline)
                    back = probe.wait_acknowledged(succession.moments.rerouted, plan.policy.failover_within)
                return self._after_succession(probe, table, succession, back)

    def _prove(self, armed: Armed, kill_ns: int) -> None:
        policy = self._plan.policy
        if policy.mode is KillMode.FREEZE:
            armed.trigger.crash()
        dead = fence(armed, policy.fence_within)
        now = self._world.clock.monotonic_ns()
        self._timeline.span(StepName.KILL, f"{armed.victim.id.short}: {policy.mode}; {dead}", kill_ns, now)

    def _after_replica(self, probe: Probe, table: str, kill_ns: int) -> _Killed:
        world, policy = self._world, self._plan.policy
        dead_ns = world.clock.monotonic_ns()
        probe.wait_acknowledged(dead_ns, policy.failover_within)
        ledger = self._stop_probe(probe)
        costs = client_costs(ledger, kill_ns=kill_ns, until_ns=dead_ns)
        return self._judge_ledger(None, ledger, table, costs, (), (), ())

    def _after_watch(self, probe: Probe, table: str, kill_ns: int) -> _Killed:
        """Somebody else fails over; grade them against the deadline."""
        world, plan = self._world, self._plan
        within = plan.policy.failover_within
        dead_ns = world.clock.monotonic_ns()
        with self._timeline.step(StepName.WATCH, f"the site's own tool has {within.total_seconds():g} s") as outcome:
            back = probe.wait_acknowledged(dead_ns, within)
            outcome.detail = "writes are acknowledged again" if back else f"no write acknowledged within {within}"
        ledger = self._stop_probe(probe)
        costs = client_costs(ledger, kill_ns=kill_ns, until_ns=dead_ns)
        if not back:
            return _Killed(
                heir=None,
                costs=costs,
                parts=(),
                ledger=None,
                faults=(
                    f"nobody failed over within {within.total_seconds():g} s: {plan.cluster} has no master. "
                    "Promote a replica with the site's own tool or by hand; the victim's files are kept",
                ),
                notes=(),
            )
        view = observe(world, plan.cluster)
        shape = classify(replace(view, members=tuple(m for m in view.members if m.instance.id != plan.victim)))
        heir = shape.master.instance if isinstance(shape, MasterWithReplicas) else None
        self._known_master = heir
        faults = () if heir else (f"after the failover the topology is not sound: {getattr(shape, 'why', shape)}",)
        return self._judge_ledger(heir, ledger, table, costs, (), faults, ())

    def _after_succession(self, probe: Probe, table: str, succession: Succession, back: bool) -> _Killed:
        self._known_master = succession.heir
        faults = succession.faults
        if not back:
            faults += ("writes were not acknowledged again after the failover",)
        ledger = self._stop_probe(probe)
        moments = succession.moments
        costs = client_costs(ledger, kill_ns=moments.kill, until_ns=moments.rerouted)
        with contextlib.closing(self._world.connect(self._plan.cluster, succession.heir)) as server:
            server.forget_source()
        notes = (f"proof of death: {succession.proof}",)
        return self._judge_ledger(succession.heir, ledger, table, costs, parts_of(ledger, moments), faults, notes)

    def _stop_probe(self, probe: Probe) -> Ledger:
        self._world.clock.sleep(_PROBE_AFTER)
        return probe.stop()

    def _judge_ledger(
        self,
        heir: Instance | None,
        ledger: Ledger,
        table: str,
        costs: tuple[ClientCost, ...],
        parts: tuple[Part, ...],
        faults: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> _Killed:
        with self._timeline.step(StepName.SETTLE, "compare the ledger with the master") as outcome:
            rows: list[tuple[int, int]] = []
            self._on_master(lambda s: rows.extend(s.probe_rows(table)))
            verdict = settle(ledger, rows)
            outcome.detail = f"{verdict.acknowledged} acknowledged, {len(verdict.lost)} lost"
        faults += ledger_faults(verdict, worst(costs), self._plan.policy)
        return _Killed(heir=heir, costs=costs, parts=parts, ledger=verdict, faults=faults, notes=notes)

    # ---- retire

    def _retire(self, killed: _Killed, before: int) -> RunVerdict:
        """Restore the size, put the victim away, forget what was made. Faults are collected, not raised."""
        world, plan = self._world, self._plan
        faults = list(killed.faults)
        leaderless = plan.policy.failover is FailoverBy.OBSERVE and killed.ledger is None
        if not leaderless:
            if plan.replacement is Replacement.AFTER:
                self._attempt(faults, "restore the cluster's size", self._replace_afterwards)
            self._attempt(faults, "forget what the run made", self._forget)
        self._attempt(faults, f"quarantine {plan.victim.short}", lambda: self._put_away(delete=not leaderless))
        view = observe(world, plan.cluster)
        after = sum(1 for m in living(view) if m.facts)
        expected = before - 1 if plan.replacement is Replacement.NONE else before
        shape = classify(view)
        if isinstance(shape, OtherShape):
            faults.append(f"the cluster is left with a shape that is not sound: {shape.name}: {shape.why}")
        elif after != expected:
            faults.append(f"the cluster has {after} members, it should have {expected}")
        return RunVerdict(
            faults=tuple(faults),
            outage=worst(killed.costs),
            clients=killed.costs,
            parts=killed.parts,
            ledger=killed.ledger,
            copies_before=before,
            copies_after=after,
            heir=str(killed.heir.id) if killed.heir else None,
            notes=killed.notes,
        )

    def _attempt(self, faults: list[str], what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except ReaperError as error:
            faults.append(f"could not {what}: {error}")

    def _replace_afterwards(self) -> None:
        undo = Undo()
        try:
            build_replacement(self._world, self._plan, self._master, self._timeline, undo)
        except ReaperError:
            undo.run()
            raise

    def _put_away(self, *, delete: bool) -> None:
        world, plan = self._world, self._plan
        victim = instance_of(world, plan.cluster, plan.victim)
        until = world.clock.now() + plan.policy.quarantine
        with self._timeline.step(StepName.QUARANTINE, f"{victim.id.short} is never started again"):
            world.fleet.quarantine(victim, until)
        if delete and not plan.policy.quarantine:
            with self._timeline.step(StepName.RETIRE, f"delete {victim.id.short}"):
                world.fleet.retire(victim)

    def _forget(self) -> None:
        world, plan = self._world, self._plan
        with self._timeline.step(StepName.FORGET, "the snapshot, the probe's table, the marker row"):
            world.fleet.forget(self._names.snapshot)
            self._on_master(lambda s: s.drop_probe_table(self._names.probe_table))
            self._on_master(lambda s: s.clear_marker(plan.run))
