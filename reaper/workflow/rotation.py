"""One run from its plan to its verdict: prepare, cut over, retire.

Before the kill a failure is undone and the cluster is as it was found. After it the only way is
forward: what goes wrong is collected as a fault, and a run that cannot finish calls a person (I9, I12).
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from reaper.domain.errors import CallAPersonError, ReaperError, RefusedError
from reaper.domain.facts import ClusterView, Instance, Openness
from reaper.domain.ledger import LedgerVerdict, settle
from reaper.domain.plan import Plan, Replacement, Role, StepName
from reaper.domain.policy import FailoverBy, KillMode, Loss
from reaper.domain.verdict import ClientCost, GuardVerdict, Part, RunState, RunVerdict
from reaper.planner.guards import Case, Moment, judge, refusals, replication_faults
from reaper.planner.shape import MasterWithReplicas, OtherShape, classify, living
from reaper.planner.steps import snapshot_source
from reaper.workflow.cutover import Armed, Moments, arm, cut_over, drain, kill_only, quiet, undrain
from reaper.workflow.evidence import client_costs, ledger_faults, parts_of, worst
from reaper.workflow.observe import observe, watch
from reaper.workflow.ports import Probe, Server, World
from reaper.workflow.prepare import Names, Undo, build_replacement, instance_of
from reaper.workflow.run import Timeline

T = TypeVar("T")

_LOOK_EVERY = timedelta(milliseconds=50)
_PROBE_BEFORE = timedelta(seconds=1)  # writes on record before the kill
_PROBE_AFTER = timedelta(seconds=1)  # and after the first acknowledged one
# The victim's files are kept this long if a person has to look, whatever the policy's quarantine is.
KEPT_FOR_A_PERSON = timedelta(days=30)


def examine(
    world: World, plan: Plan, moment: Moment, *, heir: Instance | None, mark: bool
) -> tuple[ClusterView, tuple[GuardVerdict, ...]]:
    """Fresh facts and what every guard says of them. `mark` writes the marker row; a dry run must not."""
    view = observe(world, plan.cluster)
    soak = watch(world, view, plan.policy, marker_of=plan.run if mark else None)
    case = Case(
        view=view,
        soak=soak,
        victim=plan.victim,
        role=plan.role,
        policy=plan.policy,
        replacement=plan.replacement,
        moment=moment,
        snapshot_from=plan.snapshot_from,
        copies_hot=world.fleet.copies_hot(plan.cluster),
        heir=heir.id if heir else None,
    )
    return view, judge(case)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What is known once the victim is dead and the probe has been read."""

    heir: Instance | None
    costs: tuple[ClientCost, ...] = ()
    parts: tuple[Part, ...] = ()
    ledger: LedgerVerdict | None = None
    notes: tuple[str, ...] = ()
    leaderless: bool = False  # nobody took over: nothing may be deleted


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
        self._faults: list[str] = []

    def execute(self) -> RunVerdict:
        """Run the plan. RefusedError, TryAgainError, AbortedError: all undone. CallAPersonError: look at it."""
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
        if self._killed:
            self._attempt(f"quarantine {plan.victim.short}", lambda: self._put_away(KEPT_FOR_A_PERSON))
            left = tuple(self._faults)
        else:
            left = self._undo.run()
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
            heir = build_replacement(world, plan, plan.snapshot_from, self._master, self._timeline, self._undo)
        outcome = self._kill(heir)
        return self._retire(outcome, before)

    def _pass_guards(self, moment: Moment, heir: Instance | None) -> ClusterView:
        world, plan = self._world, self._plan
        if moment is Moment.PLAN:
            self._undo.push("clear the marker row", lambda: self._on_master(lambda s: s.clear_marker(plan.run)))
        view, verdicts = examine(world, plan, moment, heir=heir, mark=True)
        shape = classify(view)
        if isinstance(shape, MasterWithReplicas):
            self._known_master = shape.master.instance
        world.journal.guards(plan.run, verdicts)
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

    def _attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """Do something that must not stop a run which only goes forward; a failure is a fault of the run."""
        try:
            return action()
        except ReaperError as error:
            self._faults.append(f"could not {what}: {error}")
            return None

    # ---- the kill, under the probe

    def _kill(self, heir: Instance | None) -> _Outcome:
        world, plan = self._world, self._plan
        victim = instance_of(world, plan.cluster, plan.victim)
        others = [m.instance for m in living(observe(world, plan.cluster)) if m.instance.id != plan.victim]
        table = self._names.probe_table
        self._undo.push("drop the probe's table", lambda: self._on_master(lambda s: s.drop_probe_table(table)))
        self._on_master(lambda s: s.create_probe_table(table))
        with contextlib.closing(world.start_probe(plan, table)) as probe:
            with self._timeline.step(StepName.PROBE, "clients write through the endpoint"):
                world.clock.sleep(_PROBE_BEFORE)
            with arm(world, plan, victim, others, heir) as armed:
                self._pass_guards(Moment.KILL, heir)
                if plan.policy.mode is KillMode.DRAIN:
                    drain(world, armed, self._timeline)
                try:
                    world.interrupt.cross()
                except BaseException:
                    undrain(world, armed)
                    raise
                self._killed = True
                return self._under_the_probe(armed, probe)

    def _under_the_probe(self, armed: Armed, probe: Probe) -> _Outcome:
        """The point of no return is behind us."""
        plan = self._plan
        if plan.role is Role.MASTER and plan.policy.failover is FailoverBy.REAPER:
            with quiet(self._timeline):
                succession = cut_over(self._world, armed, self._timeline)
                self._known_master = succession.heir
                self._faults += succession.faults
                back = self._wait_for_writes(probe, succession.moments.rerouted)
            if not back:
                self._faults.append("writes were not acknowledged again after the failover")
            notes = (f"proof of death: {succession.proof}",)
            outcome = self._measure(probe, succession.heir, succession.moments, notes)
            self._attempt("forget the dead master", lambda: self._on_master(lambda s: s.forget_source()))
            return outcome
        with quiet(self._timeline):
            moments, proof = kill_only(self._world, armed, self._timeline)
        notes = (f"proof of death: {proof}",)
        if plan.role is Role.MASTER:
            return self._watch_failover(probe, moments, notes)
        if not self._wait_for_writes(probe, moments.dead):
            self._faults.append("writes were not acknowledged again after the kill")
        return self._measure(probe, None, moments, notes)

    def _wait_for_writes(self, probe: Probe, after_ns: int) -> bool:
        within = self._plan.policy.failover_within
        return bool(self._attempt("follow the probe", lambda: probe.wait_acknowledged(after_ns, within)))

    def _watch_failover(self, probe: Probe, moments: Moments, notes: tuple[str, ...]) -> _Outcome:
        """Somebody else fails over; grade them against the deadline."""
        plan = self._plan
        seconds = f"{plan.policy.failover_within.total_seconds():g} s"
        self._known_master = None
        with self._timeline.step(StepName.WATCH, f"the site's own tool has {seconds}") as step:
            back = self._wait_for_writes(probe, moments.dead)
            step.detail = "writes are acknowledged again" if back else f"no write was acknowledged within {seconds}"
        if not back:
            self._faults.append(
                f"nobody failed over within {seconds}: {plan.cluster} has no master. Promote a replica with the "
                f"site's own tool or by hand; the victim's files are kept for {KEPT_FOR_A_PERSON.days} days"
            )
            ledger = self._attempt("read the probe's ledger", probe.stop)
            costs = client_costs(ledger, kill_ns=moments.kill, until_ns=moments.dead) if ledger else ()
            return _Outcome(heir=None, costs=costs, notes=notes, leaderless=True)
        view = self._observe_until(lambda v: [] if isinstance(classify(v), MasterWithReplicas) else ["not sound yet"])
        shape = classify(view)
        if isinstance(shape, OtherShape):
            self._faults.append(f"after the failover the shape is not sound: {shape.name}: {shape.why}")
        else:
            self._known_master = shape.master.instance
        return self._measure(probe, self._known_master, moments, notes)

    def _measure(self, probe: Probe, heir: Instance | None, moments: Moments, notes: tuple[str, ...]) -> _Outcome:
        """Read what the probe recorded and compare it with the master."""
        self._world.clock.sleep(_PROBE_AFTER)
        ledger = self._attempt("read the probe's ledger", probe.stop)
        if ledger is None:
            return _Outcome(heir=heir, notes=notes)
        costs = client_costs(ledger, kill_ns=moments.kill, until_ns=moments.rerouted)
        verdict = None
        if self._known_master is not None:
            with self._timeline.step(StepName.SETTLE, "compare the ledger with the master") as step:
                rows = self._attempt("compare the ledger with the master", self._probe_rows)
                if rows is not None:
                    verdict = settle(ledger, rows)
                    step.detail = f"{verdict.acknowledged} acknowledged, {len(verdict.lost)} lost"
        self._faults += ledger_faults(verdict, worst(costs), self._plan.policy)
        parts = parts_of(ledger, moments) if self._plan.role is Role.MASTER else ()
        return _Outcome(heir=heir, costs=costs, parts=parts, ledger=verdict, notes=notes)

    def _probe_rows(self) -> list[tuple[int, int]]:
        rows: list[tuple[int, int]] = []
        self._on_master(lambda s: rows.extend(s.probe_rows(self._names.probe_table)))
        return rows

    # ---- retire

    def _retire(self, outcome: _Outcome, before: int) -> RunVerdict:
        """Restore the size, put the victim away, forget what was made. Faults are collected, not raised."""
        plan = self._plan
        self._attempt(f"quarantine {plan.victim.short}", lambda: self._put_away(KEPT_FOR_A_PERSON))
        if not outcome.leaderless:
            restored = True
            if plan.replacement is Replacement.AFTER:
                restored = self._attempt("restore the cluster's size", self._replace_afterwards) is not None
            # Only what is proved to be of no use is given up: replaced (E16), and nothing lost that it may hold (E03).
            if restored and outcome.ledger is not None and not outcome.ledger.lost:
                self._attempt(f"retire {plan.victim.short}", self._give_up_victim)
            self._forget()
        after = self._check_topology(before - 1 if plan.replacement is Replacement.NONE else before)
        return RunVerdict(
            faults=tuple(self._faults),
            outage=worst(outcome.costs),
            clients=outcome.costs,
            parts=outcome.parts,
            ledger=outcome.ledger,
            copies_before=before,
            copies_after=after,
            heir=str(outcome.heir.id) if outcome.heir else None,
            notes=outcome.notes,
        )

    def _replace_afterwards(self) -> Instance:
        world, plan, undo = self._world, self._plan, Undo()
        source = snapshot_source(observe(world, plan.cluster), spare=self._master.id)
        if source is None and world.fleet.copies_hot(plan.cluster):
            source = self._master.id  # nobody else is left, and a hot copy does not stop it
        try:
            return build_replacement(world, plan, source, self._master, self._timeline, undo)
        except ReaperError:
            self._faults += undo.run()
            raise

    def _put_away(self, keep: timedelta) -> None:
        world, plan = self._world, self._plan
        victim = instance_of(world, plan.cluster, plan.victim)
        with self._timeline.step(StepName.QUARANTINE, f"{victim.id.short} is never started again"):
            world.fleet.quarantine(victim, world.clock.now() + keep)

    def _give_up_victim(self) -> None:
        """Delete the victim, or let its quarantine end when the policy says."""
        if self._plan.policy.quarantine:
            self._put_away(self._plan.policy.quarantine)
            return
        with self._timeline.step(StepName.RETIRE, f"delete {self._plan.victim.short}"):
            self._world.fleet.retire(instance_of(self._world, self._plan.cluster, self._plan.victim))

    def _forget(self) -> None:
        fleet, names = self._world.fleet, self._names
        with self._timeline.step(StepName.FORGET, "the snapshot, the probe's table, the marker row"):
            self._attempt("forget the snapshot", lambda: fleet.forget(names.snapshot))
            drop = names.probe_table
            self._attempt("drop the probe's table", lambda: self._on_master(lambda s: s.drop_probe_table(drop)))
            run = self._plan.run
            self._attempt("clear the marker row", lambda: self._on_master(lambda s: s.clear_marker(run)))

    def _check_topology(self, expected: int) -> int:
        """How many copies there are; an unsound shape, a replica that does not replicate, is a fault."""
        view = self._observe_until(lambda v: self._topology_faults(v, expected))
        self._faults += self._topology_faults(view, expected)
        return sum(1 for m in living(view) if m.facts)

    def _observe_until(self, faults: Callable[[ClusterView], list[str]]) -> ClusterView:
        """The cluster without the victim, as soon as nothing is wrong with it, or when the time to repoint is up."""
        clock = self._world.clock
        deadline = clock.monotonic_ns() + int(self._plan.policy.repoint_within.total_seconds() * 1e9)
        while True:
            view = observe(self._world, self._plan.cluster)
            view = replace(view, members=tuple(m for m in view.members if m.instance.id != self._plan.victim))
            if not faults(view) or clock.monotonic_ns() > deadline:
                return view
            clock.sleep(_LOOK_EVERY)

    def _topology_faults(self, view: ClusterView, expected: int) -> list[str]:
        if len(living(view)) != expected:
            return [f"the cluster has {len(living(view))} members, it should have {expected}"]
        shape = classify(view)
        if isinstance(shape, OtherShape):
            alone = expected == 1 and all(m.facts and m.facts.openness is Openness.OPEN for m in living(view))
            return [] if alone else [f"the cluster's shape is not sound: {shape.name}: {shape.why}"]
        faults = [f for replica in shape.replicas for f in replication_faults(replica)]
        state = shape.master.facts.semi_sync if shape.master.facts else None
        if self._plan.policy.loss is Loss.FORBIDDEN and not (state and state.source_active and state.source_clients):
            faults.append(f"semi-sync is not on at {shape.master.instance.id.short}: its writes can be lost (E02)")
        return faults
