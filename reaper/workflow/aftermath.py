"""What follows a kill, in any case: measure, put the victim away, restore the size, forget, judge.

From here the only way is forward: what goes wrong is collected as a fault of the run, not raised (I9).
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from types import NoneType
from typing import TypeVar

from reaper.domain.errors import ReadOnlyError, ReaperError, TryAgainError
from reaper.domain.facts import ClusterView, Instance, InstanceId, InstanceState, Openness
from reaper.domain.gtid import GtidSet
from reaper.domain.ledger import Ledger, LedgerVerdict, settle
from reaper.domain.plan import Plan, Replacement, Role, StepName
from reaper.domain.policy import Loss
from reaper.domain.tail import Forensics
from reaper.domain.verdict import ClientCost, Part, Proven, RunState, RunVerdict
from reaper.domain.warmth import Recovery
from reaper.planner.guards import replication_faults
from reaper.planner.shape import MasterWithReplicas, OtherShape, classify, living
from reaper.planner.steps import snapshot_source
from reaper.workflow.cutover import Moments
from reaper.workflow.evidence import client_costs, ledger_faults, parts_of, worst
from reaper.workflow.forensics import dissect
from reaper.workflow.observe import observe
from reaper.workflow.ports import Probe
from reaper.workflow.prepare import Hands, Names, Undo, build_replacement, forget_snapshots, victim_of
from reaper.workflow.proving import prove
from reaper.workflow.run import Timeline, persist
from reaper.workflow.server import SCHEMA, Server
from reaper.workflow.steps import Steps
from reaper.workflow.world import World

T = TypeVar("T")

_LOOK_EVERY = timedelta(milliseconds=50)
_DISSECT_WITHIN = timedelta(minutes=2)
_ASK_THE_LEVER_EVERY = timedelta(seconds=1)
GONE = (InstanceState.DEAD, InstanceState.QUARANTINED)
_PROBE_AFTER = timedelta(seconds=1)  # writes on record after the first acknowledged one
# The victim's files are kept this long if a person has to look, whatever the policy's quarantine is.
KEPT_FOR_A_PERSON = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known once the victim is dead and the probe has been read."""

    heir: Instance | None
    costs: tuple[ClientCost, ...] = ()
    parts: tuple[Part, ...] = ()
    ledger: LedgerVerdict | None = None
    notes: tuple[str, ...] = ()
    leaderless: bool = False  # nobody took over: nothing may be deleted
    recovery: Recovery | None = None  # how canaries came back to normal; None: nobody looked


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the cluster is at the end."""

    copies: int
    faults: tuple[str, ...]


def wait_while_paused(world: World, steps: Steps) -> None:
    """Do nothing while the lever is pulled; a person may abort meanwhile. Inside a step."""
    while (why := world.paused()) is not None:
        steps.waits_for(f"the lever: {why}")
        world.interrupt.check()
        world.clock.sleep(_ASK_THE_LEVER_EVERY)
    steps.waits_for("")


def present_master(world: World, plan: Plan) -> Instance | None:
    """Who takes writes now, whatever was known of it; None: nobody, or it cannot be told."""
    view = observe(world, plan.cluster)
    shape = classify(replace(view, members=tuple(m for m in view.members if m.instance.state not in GONE)))
    return shape.master.instance if isinstance(shape, MasterWithReplicas) else None


class Aftermath:
    """Everything that a run does once its victim is dead."""

    def __init__(self, world: World, plan: Plan, timeline: Timeline, steps: Steps) -> None:
        self._world = world
        self._plan = plan
        self._timeline = timeline
        self._steps = steps
        self._names = Names(plan.run)
        self.faults: list[str] = []
        self.master: Instance | None = None  # who takes writes now, as far as this run knows
        self.proven: Proven | None = None  # what the replacement has shown; None: there is none

    def on_master(self, action: Callable[[Server], None]) -> None:
        """Do something on whoever takes writes; nothing if nobody does."""
        if self.master is None:
            self.master = present_master(self._world, self._plan)
        if self.master is None:
            return
        try:
            self._on(self.master, action)
        except ReadOnlyError:
            # Somebody else has made another one the master meanwhile; what was written went along.
            shape = classify(observe(self._world, self._plan.cluster))
            if isinstance(shape, OtherShape) or shape.master.instance.id == self.master.id:
                raise
            self.master = shape.master.instance
            self._on(self.master, action)

    def _on(self, instance: Instance, action: Callable[[Server], None]) -> None:
        with contextlib.closing(self._world.connect(self._plan.cluster, instance)) as server:
            action(server)

    def attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """Do something that must not stop a run which only goes forward; a failure is a fault of the run."""
        try:
            return action()
        except ReaperError as error:
            self.faults.append(f"could not {what}: {error}")
            return None

    def collect(self, action: Callable[[], None]) -> tuple[str, ...]:
        """Do something inside a step; the faults that it found are what the step records."""
        begun = len(self.faults)
        action()
        found = (*self.faults[begun:], *self._timeline.drain_troubles())
        del self.faults[begun:]
        return found

    def step(self, what: str, action: Callable[[], None]) -> bool:
        """A recorded step that must not stop the run. False: something was wrong with it, which is a fault now."""
        found = self._steps.run(what, tuple[str, ...], lambda: self.collect(lambda: self.attempt(what, action)))
        self.faults += found
        return not found

    def end(self, verdict: RunVerdict) -> RunVerdict:
        """Record the verdict; a journal that cannot is one more fault of the run."""
        state = RunState.GOOD if verdict.good else RunState.BAD
        self.record_the_end(state, verdict, "")
        return replace(verdict, faults=tuple(self.faults))

    def record_the_end(self, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """Say how the run ended; a journal that takes nothing for a while is one more fault of the run."""
        world, plan = self._world, self._plan
        say = partial(world.journal.end, plan.run, state, verdict, message)
        fault = self._steps.run(
            "record the end", str, lambda: persist(world, plan.policy.undo_within, "record the end", say)
        )
        self.faults += [fault] if fault else []

    def measure(self, probe: Probe, heir: Instance | None, moments: Moments, notes: tuple[str, ...]) -> Outcome:
        """End the probe, read what it recorded and compare it with the master."""
        self._world.clock.sleep(_PROBE_AFTER)
        ledger = self.attempt("read the probe's ledger", probe.stop)
        if ledger is None:
            return Outcome(heir=heir, notes=notes)
        costs = client_costs(ledger, kill_ns=moments.kill, until_ns=moments.rerouted)
        verdict = self.settle(ledger)
        self.faults += ledger_faults(verdict, worst(costs), self._plan.policy)
        parts = parts_of(ledger, moments) if self._plan.role is Role.MASTER else ()
        return Outcome(heir=heir, costs=costs, parts=parts, ledger=verdict, notes=notes)

    def settle(self, ledger: Ledger) -> LedgerVerdict | None:
        """Compare a ledger with the master; None: there is no master, or it could not be read."""
        master = self.master
        if master is None:
            return None
        with self._timeline.step(StepName.SETTLE, "compare the ledger with the master") as step:
            rows = self.attempt("compare the ledger with the master", lambda: self._probe_rows(master))
            if rows is None:
                return None
            verdict = settle(ledger, rows)
            step.detail = f"{verdict.acknowledged} acknowledged, {len(verdict.lost)} lost"
        return verdict

    def _probe_rows(self, master: Instance) -> list[tuple[int, int]]:
        with contextlib.closing(self._world.connect(self._plan.cluster, master)) as server:
            return list(server.probe_rows(self._names.probe_table))

    def retire(self, outcome: Outcome, before: int) -> RunVerdict:
        """Restore the size, put the victim away, forget what was made. Faults are collected, not raised."""
        plan, name = self._plan, self._plan.victim.short
        self.step(f"quarantine {name}", lambda: self.put_away(KEPT_FOR_A_PERSON))
        forensics = None
        if not outcome.leaderless:
            forensics = self._dissect_victim()
            restored = plan.replacement is not Replacement.AFTER or self._replace_afterwards()
            # Only what is proved to be of no use is given up: replaced (E16), and nothing lost that it may hold (E03).
            harmless = forensics is None or (not forensics.faults and forensics.unreadable is None)
            if restored and harmless and outcome.ledger is not None and not outcome.ledger.lost:
                self._steps.run("ask the lever", NoneType, lambda: wait_while_paused(self._world, self._steps))
                self.step(f"retire {name}", self._give_up_victim)
            self.step("forget what was made", self._forget)
        expected = before - 1 if plan.replacement is Replacement.NONE else before
        checked = self._steps.run("check the topology", Checked, lambda: self._check_topology(expected))
        self.faults += checked.faults
        return RunVerdict(
            faults=tuple(self.faults),
            outage=worst(outcome.costs),
            clients=outcome.costs,
            parts=outcome.parts,
            ledger=outcome.ledger,
            copies_before=before,
            copies_after=checked.copies,
            heir=str(outcome.heir.id) if outcome.heir else None,
            notes=outcome.notes,
            proven=self.proven,
            recovery=outcome.recovery,
            forensics=forensics,
        )

    def _dissect_victim(self) -> Forensics | None:
        """What the dead master holds alone (E03, I6); None: it was no master, or its files are gone."""
        if self._plan.role is not Role.MASTER:
            return None
        found = self._steps.run("dissect", tuple[Forensics, ...], self._dissect)
        for forensics in found:
            self.faults += forensics.faults
            if forensics.unreadable is not None:
                self.faults.append(f"{forensics.summary}; its files are kept for {KEPT_FOR_A_PERSON.days} days")
        return found[0] if found else None

    def _dissect(self) -> tuple[Forensics, ...]:
        world, plan, names = self._world, self._plan, self._names
        victim = self.attempt("look for the victim", lambda: victim_of(world, plan))
        executed = self.attempt("ask the master what it holds", self._executed)
        if victim is None:
            return ()
        with self._timeline.step(StepName.DISSECT, f"the binary logs of {victim.id.short}") as step:
            if executed is None:
                return (Forensics(unreadable="the new master did not say what it holds"),)
            ledger = self.attempt("read the probe's ledger again", lambda: world.past_ledger(plan))
            tables = frozenset(f"{SCHEMA}.{name}" for name in (names.probe_table, names.second_probe_table))
            lossless = plan.policy.loss is Loss.FORBIDDEN
            found = dissect(
                world.dead_logs,
                victim,
                executed,
                ledger,
                probe_tables=tables,
                lossless=lossless,
                within=_DISSECT_WITHIN,
            )
            step.detail = found.summary
        return (found,)

    def _executed(self) -> GtidSet:
        found: list[GtidSet] = []
        self.on_master(lambda server: found.append(server.executed()))
        if not found:
            raise TryAgainError(f"{self._plan.cluster} has no master")
        return found[0]

    def _replace_afterwards(self) -> bool:
        """Build the replacement of a victim that had none; False: it could not be, which is a fault."""
        world, plan, master = self._world, self._plan, self.master
        undo = Undo(world, plan, self._steps)
        try:
            if master is None:
                raise TryAgainError("there is no master to replicate from")
            source = self._steps.run("choose the source", InstanceId, lambda: self._source_beside(master))
            hands = Hands(world=world, plan=plan, timeline=self._timeline, steps=self._steps, undo=undo)
            self.proven = prove(hands, build_replacement(hands, source, master), master)
        except ReaperError as error:
            self.faults += [*undo.run(), f"could not restore the cluster's size: {error}"]
            return False
        return True

    def _source_beside(self, master: Instance) -> InstanceId:
        """Whom to copy. A hot copy may be the master's own if nobody else is left: it does not stop it."""
        cluster, fleet = self._plan.cluster, self._world.fleet
        source = snapshot_source(observe(self._world, cluster), spare=master.id)
        if source is None and not fleet.copies_hot(cluster):
            raise TryAgainError(f"{cluster} has no healthy replica to copy")
        return source or master.id

    def put_away(self, keep: timedelta) -> None:
        """Quarantine the victim for so long."""
        victim = victim_of(self._world, self._plan)
        if victim is None:
            return  # deleted by the process that this run is resumed from
        with self._timeline.step(StepName.QUARANTINE, f"{victim.id.short} is never started again"):
            self._world.fleet.quarantine(victim, self._world.clock.now() + keep)

    def _give_up_victim(self) -> None:
        """Delete the victim, or let its quarantine end when the policy says."""
        if self._plan.policy.quarantine:
            self.put_away(self._plan.policy.quarantine)
            return
        victim = victim_of(self._world, self._plan)
        if victim is not None:
            with self._timeline.step(StepName.RETIRE, f"delete {victim.id.short}"):
                self._world.fleet.retire(victim)

    def _forget(self) -> None:
        with self._timeline.step(StepName.FORGET, "the snapshot, the probe's table, the marker row"):
            self.attempt("forget the snapshot", lambda: forget_snapshots(self._world, self._plan))
            self.forget_rows()

    def forget_rows(self) -> None:
        """Delete what the run wrote into the cluster's tables."""
        for table in (self._names.probe_table, self._names.second_probe_table):
            self.attempt("drop the probe's table", partial(self.drop_probe_table, table))
        self.attempt("clear the marker row", self.clear_marker)

    def drop_probe_table(self, table: str) -> None:
        """Drop a probe's table on whoever takes writes."""
        self.on_master(lambda s: s.drop_probe_table(table))

    def clear_marker(self) -> None:
        """Delete the run's marker row on whoever takes writes."""
        self.on_master(lambda s: s.clear_marker(self._plan.run))

    def _check_topology(self, expected: int) -> Checked:
        """How many copies there are; an unsound shape, a replica that does not replicate, is a fault."""
        try:
            view = self.observe_until(lambda v: self._topology_faults(v, expected))
        except ReaperError as error:
            return Checked(copies=0, faults=(f"could not check the topology: {error}",))
        faults = self._topology_faults(view, expected)
        return Checked(copies=sum(1 for m in living(view) if m.facts), faults=tuple(faults))

    def observe_until(self, faults: Callable[[ClusterView], list[str]]) -> ClusterView:
        """The cluster without the victim, as soon as nothing is wrong with it, or when the time to repoint is up."""
        clock = self._world.clock
        deadline = clock.monotonic_ns() + int(self._plan.policy.repoint_within.total_seconds() * 1e9)
        while True:
            late = clock.monotonic_ns() > deadline
            try:
                view = observe(self._world, self._plan.cluster)
            except ReaperError:  # a provider that throttles or does not answer: asked again as long as there is time
                if late:
                    raise
            else:
                view = replace(view, members=tuple(m for m in view.members if m.instance.id != self._plan.victim))
                if not faults(view) or late:
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
