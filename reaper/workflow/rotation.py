"""One run from its plan to its verdict: prepare, cut over, retire.

Before the kill a failure is undone and the cluster is as it was found. After it the only way is
forward: what goes wrong is collected as a fault, and a run that cannot finish calls a person (I9, I12).
"""

import contextlib
from dataclasses import replace
from datetime import timedelta

from reaper.domain.errors import CallAPersonError, RefusedError
from reaper.domain.facts import ClusterView, Instance
from reaper.domain.plan import Plan, Replacement, Role, StepName
from reaper.domain.policy import FailoverBy, KillMode, Loss
from reaper.domain.verdict import GuardVerdict, RunState, RunVerdict
from reaper.planner.guards import Case, Moment, judge, refusals
from reaper.planner.shape import MasterWithReplicas, OtherShape, classify, living
from reaper.workflow.aftermath import KEPT_FOR_A_PERSON, Aftermath, Outcome
from reaper.workflow.cutover import Armed, Moments, arm, check_still_master, cut_over, drain, kill_only, quiet, undrain
from reaper.workflow.evidence import client_costs
from reaper.workflow.observe import mark, observe, watch
from reaper.workflow.ports import Probe, World
from reaper.workflow.prepare import Names, Undo, build_replacement, instance_of
from reaper.workflow.run import Timeline

_PROBE_BEFORE = timedelta(seconds=1)  # writes on record before the kill


def examine(world: World, plan: Plan, moment: Moment, heir: Instance | None) -> tuple[Case, tuple[GuardVerdict, ...]]:
    """Fresh facts and what every guard says of them. Reads only: it is all that a dry run does."""
    view = observe(world, plan.cluster)
    case = Case(
        view=view,
        soak=watch(world, view, plan.policy),
        victim=plan.victim,
        role=plan.role,
        policy=plan.policy,
        replacement=plan.replacement,
        moment=moment,
        snapshot_from=plan.snapshot_from,
        copies_hot=world.fleet.copies_hot(plan.cluster),
        heir=heir.id if heir else None,
    )
    return case, judge(case)


class Rotation:
    """Runs one plan. Use once."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._timeline = Timeline(world, plan)
        self._undo = Undo()
        self._names = Names(plan.run)
        self._after = Aftermath(world, plan, self._timeline)
        self._killed = False
        self._lossless = plan.policy.loss is Loss.FORBIDDEN

    def execute(self) -> RunVerdict:
        """Run the plan. RefusedError, TryAgainError, AbortedError: all undone. CallAPersonError: look at it."""
        world, plan = self._world, self._plan
        with world.lock(plan.cluster):
            world.journal.begin(plan)
            try:
                verdict = self._run()
            except Exception as error:
                self._fail(error)
                raise
            return self._after.end(verdict)

    def _fail(self, error: Exception) -> None:
        """Record a run that did not reach its verdict; undo it if the kill has not happened."""
        world, plan = self._world, self._plan
        message = str(error) or type(error).__name__
        if self._killed:
            self._after.attempt(f"quarantine {plan.victim.short}", lambda: self._after.put_away(KEPT_FOR_A_PERSON))
            left = tuple(self._after.faults)
        else:
            left = self._undo.run()
        if self._killed or left:
            message = "; ".join((message, *left))
            self._after.attempt("record it", lambda: world.journal.end(plan.run, RunState.STUCK, None, message))
            if not isinstance(error, CallAPersonError):
                raise CallAPersonError(message) from error
            return
        state = RunState.REFUSED if isinstance(error, RefusedError) else RunState.UNDONE
        self._after.attempt("record it", lambda: world.journal.end(plan.run, state, None, message))

    def _run(self) -> RunVerdict:
        world, plan = self._world, self._plan
        view = self._pass_guards(Moment.PLAN, None)
        before = len(living(view))
        heir = None
        if plan.replacement is Replacement.BEFORE:
            heir = build_replacement(world, plan, plan.snapshot_from, self._master, self._timeline, self._undo)
        outcome = self._kill(heir)
        return self._after.retire(outcome, before)

    def _pass_guards(self, moment: Moment, heir: Instance | None) -> ClusterView:
        world, plan = self._world, self._plan
        case, verdicts = examine(world, plan, moment, heir)
        shape = classify(case.view)
        if isinstance(shape, MasterWithReplicas):
            self._after.master = shape.master.instance
            # Whoever accepts a loss once has not asked for a cluster that can lose writes from then on.
            self._lossless = bool(shape.master.facts and shape.master.facts.semi_sync.source_enabled)
        if not refusals(verdicts):
            # Nothing is written before every guard has let it pass.
            if moment is Moment.PLAN:
                self._undo.push(
                    "clear the marker row", lambda: self._after.on_master(lambda s: s.clear_marker(plan.run))
                )
            marker = mark(world, case.view, plan.policy, plan.run)
            verdicts = judge(replace(case, soak=replace(case.soak, marker=marker)))
        world.journal.guards(plan.run, verdicts)
        refused = refusals(verdicts)
        if refused:
            raise RefusedError("; ".join(f"{v.guard}: {v.reason}" for v in refused))
        world.interrupt.check()
        return case.view

    @property
    def _master(self) -> Instance:
        """Who takes writes now, as far as this run knows."""
        if self._after.master is None:
            raise CallAPersonError(f"{self._plan.cluster} has no master that this run knows of")
        return self._after.master

    # ---- the kill, under the probe

    def _kill(self, heir: Instance | None) -> Outcome:
        world, plan = self._world, self._plan
        victim = instance_of(world, plan.cluster, plan.victim)
        others = [m.instance for m in living(observe(world, plan.cluster)) if m.instance.id != plan.victim]
        table = self._names.probe_table
        self._undo.push("drop the probe's table", lambda: self._after.on_master(lambda s: s.drop_probe_table(table)))
        self._after.on_master(lambda s: s.create_probe_table(table))
        with contextlib.closing(world.start_probe(plan, table)) as probe:
            with self._timeline.step(StepName.PROBE, "clients write through the endpoint"):
                world.clock.sleep(_PROBE_BEFORE)
            with arm(world, plan, victim, others, heir, lossless=self._lossless) as armed:
                self._pass_guards(Moment.KILL, heir)
                if plan.policy.mode is KillMode.DRAIN:
                    drain(world, armed, self._timeline)
                try:
                    world.interrupt.cross()
                    if plan.role is Role.MASTER:
                        check_still_master(armed)
                except Exception:
                    undrain(world, armed)
                    raise
                self._killed = True
                self._timeline.forgive()
                return self._under_the_probe(armed, probe)

    def _under_the_probe(self, armed: Armed, probe: Probe) -> Outcome:
        """The point of no return is behind us."""
        plan = self._plan
        if plan.role is Role.MASTER and plan.policy.failover is FailoverBy.REAPER:
            with quiet(self._timeline):
                succession = cut_over(self._world, armed, self._timeline)
                self._after.master = succession.heir
                self._after.faults += succession.faults
                back = self._wait_for_writes(probe, succession.moments.rerouted)
            if not back:
                self._after.faults.append("writes were not acknowledged again after the failover")
            notes = (f"proof of death: {succession.proof}",)
            outcome = self._after.measure(probe, succession.heir, succession.moments, notes)
            self._after.attempt("forget the dead master", lambda: self._after.on_master(lambda s: s.forget_source()))
            return outcome
        with quiet(self._timeline):
            moments, proof = kill_only(self._world, armed, self._timeline)
        notes = (f"proof of death: {proof}",)
        if plan.role is Role.MASTER:
            return self._watch_failover(probe, moments, notes)
        if not self._wait_for_writes(probe, moments.dead):
            self._after.faults.append("writes were not acknowledged again after the kill")
        return self._after.measure(probe, None, moments, notes)

    def _wait_for_writes(self, probe: Probe, after_ns: int) -> bool:
        within = self._plan.policy.failover_within
        return bool(self._after.attempt("follow the probe", lambda: probe.wait_acknowledged(after_ns, within)))

    def _watch_failover(self, probe: Probe, moments: Moments, notes: tuple[str, ...]) -> Outcome:
        """Somebody else fails over; grade them against the deadline."""
        plan = self._plan
        seconds = f"{plan.policy.failover_within.total_seconds():g} s"
        self._after.master = None
        with self._timeline.step(StepName.WATCH, f"the site's own tool has {seconds}") as step:
            back = self._wait_for_writes(probe, moments.dead)
            step.detail = "writes are acknowledged again" if back else f"no write was acknowledged within {seconds}"
        if not back:
            self._after.faults.append(
                f"nobody failed over within {seconds}: {plan.cluster} has no master. Promote a replica with the "
                f"site's own tool or by hand; the victim's files are kept for {KEPT_FOR_A_PERSON.days} days"
            )
            ledger = self._after.attempt("read the probe's ledger", probe.stop)
            costs = client_costs(ledger, kill_ns=moments.kill, until_ns=moments.dead) if ledger else ()
            return Outcome(heir=None, costs=costs, notes=notes, leaderless=True)
        view = self._after.observe_until(lambda v: ["unsound"] if isinstance(classify(v), OtherShape) else [])
        shape = classify(view)
        if isinstance(shape, OtherShape):
            self._after.faults.append(f"after the failover the shape is not sound: {shape.name}: {shape.why}")
        else:
            self._after.master = shape.master.instance
        return self._after.measure(probe, self._after.master, moments, notes)
