"""Finish a run without its record, by what is the case: one that is stuck, or that another version began.

If the victim lives nothing has been killed, and everything that the run made is removed by its derived
name. If it is dead the only way is forward: fence, elect, promote, reroute, whatever of it is left to do.
"""

import contextlib

from reaper.domain.errors import CallAPersonError, ReaperError, TryAgainError
from reaper.domain.facts import Instance, InstanceState
from reaper.domain.plan import Plan, Replacement, Role
from reaper.domain.verdict import RunState, RunVerdict
from reaper.workflow.aftermath import GONE, Aftermath, present_master
from reaper.workflow.cutover import open_again
from reaper.workflow.forward import Forward
from reaper.workflow.prepare import Names, forget_snapshot, retire_by_token, victim_of
from reaper.workflow.proving import theatre_of
from reaper.workflow.rehearsing import take_back
from reaper.workflow.run import Timeline
from reaper.workflow.steps import Unrecorded
from reaper.workflow.world import World


class Resumption:
    """Finishes one run. May be tried again as often as it takes."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._names = Names(plan.run)
        self._timeline = Timeline(world, plan)
        self._steps = Unrecorded()
        self._after = Aftermath(world, plan, self._timeline, self._steps)

    def execute(self) -> RunVerdict:
        """The verdict of a run that was past its kill. TryAgainError: it was not, and everything is undone.

        CallAPersonError: it cannot be finished, neither way.
        """
        world, plan = self._world, self._plan
        victim = victim_of(world, plan)
        if victim and victim.state not in (*GONE, InstanceState.FROZEN):
            self._undo(victim)
            message = "it had not come to the kill: everything that it made is undone, run it again"
            world.journal.end(plan.run, RunState.UNDONE, None, message)
            raise TryAgainError(f"{plan.run}: {message}")
        try:
            world.interrupt.crossed()
            self._timeline.forgive()
            verdict = self._go_on(victim)
        except ReaperError as error:
            world.journal.end(plan.run, RunState.STUCK, None, str(error))
            raise
        return self._after.end(verdict)

    # ---- before the kill

    def _undo(self, victim: Instance) -> None:
        world, plan, after = self._world, self._plan, self._after
        if victim.state is not InstanceState.RUNNING:
            raise CallAPersonError(f"{victim.id} is {victim.state}: whether it was killed cannot be told; look at it")
        after.attempt("open the drained master", lambda: open_again(world, plan, victim))
        after.attempt("take the rehearsal back", self._take_back)
        after.attempt("let the copied replica go on", self._resume_source)
        self._remove_replacement()
        after.attempt("forget the snapshot", lambda: forget_snapshot(world, plan.cluster, self._names.snapshot))
        after.master = after.attempt("find the master", lambda: present_master(world, plan))
        if after.master is None:
            after.faults.append(
                f"{plan.cluster} has no master to remove the marker row and the probe's table from: promote a replica, "
                f"then `reaper resume {plan.run}`"
            )
        else:
            after.forget_rows()
        if after.faults:
            message = "; ".join(after.faults)
            world.journal.end(plan.run, RunState.STUCK, None, message)
            raise CallAPersonError(f"{plan.run} died before the kill and could not be undone: {message}")

    def _take_back(self) -> None:
        """A rehearsal, or a comparison, that was cut down half-way left a replica standing."""
        world, plan = self._world, self._plan
        running = [m for m in world.fleet.members(plan.cluster) if m.state is InstanceState.RUNNING]
        take_back(theatre_of(world, plan), tuple(running))
        for member in running:
            if member.id != plan.victim or plan.role is Role.REPLICA:
                world.comparer.release(plan.cluster, member)

    def _resume_source(self) -> None:
        """A cold copy that was cut down half-way left its source stopped, or not replicating."""
        world, plan = self._world, self._plan
        source = next((m for m in world.fleet.members(plan.cluster) if m.id == plan.snapshot_from), None)
        if source is None or world.fleet.copies_hot(plan.cluster):
            return
        world.fleet.resume_source(source)
        with contextlib.closing(world.connect(plan.cluster, source)) as server:
            server.resume_replication()

    def _remove_replacement(self) -> None:
        world, plan = self._world, self._plan
        self._after.attempt("retire the replacement", lambda: retire_by_token(world, plan, self._names.heir))

    # ---- after the kill

    def _go_on(self, victim: Instance | None) -> RunVerdict:
        plan, after = self._plan, self._after
        if plan.replacement is Replacement.AFTER:
            self._remove_replacement()  # half-built, perhaps: it is built again from the beginning
            forget_snapshot(self._world, self._plan.cluster, self._names.snapshot)
        outcome = Forward(self._world, plan, self._timeline, after, self._steps.own).go_on(victim)
        return after.retire(outcome, plan.size)
