"""Go on after a kill whose process has died, by what is the case: nothing that it remembered is needed.

The only way is forward: fence, elect, promote, reroute, whatever of it is left to do.
"""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

from reaper.domain.errors import CallAPersonError
from reaper.domain.facts import Instance, InstanceState, Member, Openness, ThreadState
from reaper.domain.ledger import Fate, Ledger
from reaper.domain.plan import Plan, Role, StepName
from reaper.domain.policy import FailoverBy
from reaper.domain.verdict import ClientCost
from reaper.planner.shape import living
from reaper.workflow.aftermath import Aftermath, Outcome, present_master
from reaper.workflow.cutover import arm, cut_over
from reaper.workflow.evidence import ledger_faults, worst
from reaper.workflow.observe import connections, observe
from reaper.workflow.prepare import Names
from reaper.workflow.run import Timeline
from reaper.workflow.world import World


class Forward:
    """Finishes the cutover of one run. May be tried again as often as it takes."""

    def __init__(self, world: World, plan: Plan, timeline: Timeline, after: Aftermath, own: Callable[[], None]) -> None:
        self._world = world
        self._plan = plan
        self._names = Names(plan.run)
        self._timeline = timeline
        self._after = after
        self._own = own

    def go_on(self, victim: Instance | None) -> Outcome:
        """The outcome of a kill that has happened. `victim`: its record, None: it was deleted already.

        CallAPersonError: it cannot be finished.
        """
        plan, after = self._plan, self._after
        if victim is not None and plan.role is Role.MASTER and plan.policy.failover is FailoverBy.REAPER:
            after.master = self._fail_over(victim)
        else:
            if victim is not None:
                self._prove_dead(victim)
            after.master = present_master(self._world, plan)
        heir = after.master if plan.role is Role.MASTER else None
        if after.master is None:
            after.faults.append(f"{plan.cluster} has no master: promote a replica by hand")
        return self._measure(heir)

    def _prove_dead(self, victim: Instance) -> str:
        within = self._plan.policy.fence_within
        if victim.state is InstanceState.FROZEN:
            with contextlib.closing(self._world.fleet.aim(victim)) as trigger:
                trigger.crash()
                proof = trigger.fence(within)
        else:
            proof = self._world.fleet.proof_of_death(victim)
        if proof is None:
            raise CallAPersonError(f"no proof that {victim.id.short} is dead: nobody is promoted. End it by hand.")
        return proof

    def _fail_over(self, victim: Instance) -> Instance:
        """Whoever was opened already is the heir and is finished; otherwise the cutover is made from the fence on."""
        world, plan = self._world, self._plan
        proof = self._prove_dead(victim)
        alive = [m for m in living(observe(world, plan.cluster)) if m.instance.id != victim.id]
        opened = [m.instance for m in alive if m.facts and m.facts.openness is Openness.OPEN]
        if len(opened) > 1:
            raise CallAPersonError(f"{', '.join(i.id.short for i in opened)} accept writes at the same time")
        members = [m.instance for m in alive]
        lossless = any(m.facts and m.facts.semi_sync.replica_enabled for m in alive)
        if opened:
            self._finish(victim, opened[0], members, lossless=lossless)
            return opened[0]
        self._start_appliers(alive)
        preferred = next((m for m in members if m.made_by == self._names.heir), None)
        with arm(
            world, plan, victim, members, preferred, lossless=lossless, own=self._own, trigger=_Spent(proof)
        ) as armed:
            succession = cut_over(world, armed, self._timeline)
        self._after.faults += succession.faults
        with contextlib.closing(world.connect(plan.cluster, succession.heir)) as server:
            server.forget_source()
        return succession.heir

    def _start_appliers(self, replicas: list[Member]) -> None:
        """Every applier ran before the kill: one that stands still without an error was stopped for its promotion, or
        to follow the heir, by the process that died."""
        for replica in replicas:
            channels = replica.facts.channels if replica.facts else ()
            if any(c.applier is ThreadState.STOPPED and c.applier_error is None for c in channels):
                with contextlib.closing(self._world.connect(self._plan.cluster, replica.instance)) as server:
                    self._after.attempt(f"start {replica.instance.id.short}'s applier", server.resume_replication)

    def _finish(self, victim: Instance, heir: Instance, members: list[Instance], *, lossless: bool) -> None:
        """The heir is open: whatever came after that may have been done or not, and is done again."""
        world, plan, after = self._world, self._plan, self._after
        siblings = [m for m in members if m.id != heir.id]
        with self._timeline.step(StepName.PROMOTE, f"{heir.id.short} was opened before the process died"):
            with connections(world, plan.cluster, members) as servers:
                for sibling in siblings:
                    # Also one that points at the heir already: it may have been stopped for that and not started again.
                    after.attempt(
                        f"make {sibling.id.short} follow {heir.id.short}",
                        lambda s=servers[sibling.id]: s.follow(heir.address),  # type: ignore[misc]
                    )
                servers[heir.id].promote(arm_semi_sync=lossless and bool(siblings))
                servers[heir.id].forget_source()
            with contextlib.closing(world.endpoint(plan.cluster)) as endpoint:
                endpoint.route(heir.address, victim.address)

    def _measure(self, heir: Instance | None) -> Outcome:
        """The outage ends with the first write that is acknowledged now; it began in the dead process's ledger."""
        world, plan, after = self._world, self._plan, self._after
        notes = ("finished after the process that began it had died",)
        past = after.attempt("read the ledger of the process that died", lambda: world.past_ledger(plan))
        first_ns = None
        if after.master is not None:
            first_ns = after.attempt("write through the endpoint again", self._first_write)
        if past is None:
            after.faults += ledger_faults(None, None, plan.policy)
            return Outcome(heir=heir, notes=notes, leaderless=after.master is None)
        costs = _costs(past, first_ns)
        verdict = after.settle(past)
        after.faults += ledger_faults(verdict, worst(costs), plan.policy)
        return Outcome(heir=heir, costs=costs, ledger=verdict, notes=notes, leaderless=after.master is None)

    def _first_write(self) -> int:
        """When a new probe's writes are acknowledged, on the monotonic clock."""
        table = self._names.second_probe_table
        self._after.drop_probe_table(table)
        self._after.on_master(lambda s: s.create_probe_table(table))
        with contextlib.closing(self._world.start_probe(self._plan, table)) as probe:
            ledger = probe.stop()
        return min(w.done_ns for w in ledger.writes if w.fate is Fate.ACKNOWLEDGED)


class _Spent:
    """The trigger on a victim that is dead already."""

    def __init__(self, proof: str) -> None:
        self._proof = proof

    def crash(self) -> None:
        """Nothing is left to do."""

    def terminate(self) -> None:
        """Nothing is left to do."""

    def freeze(self) -> None:
        """Nothing is left to do."""

    def thaw(self) -> None:
        """Nothing is left to do."""

    def fence(self, within: timedelta) -> str | None:  # noqa: ARG002 - it is proved already
        """The proof that was found."""
        return self._proof

    def close(self) -> None:
        """Nothing is held."""


def _costs(past: Ledger, first_ns: int | None) -> tuple[ClientCost, ...]:
    """Each client's longest time without an acknowledgement, up to the first one now.

    Pessimistic: the time in which nobody measured, because reaper was dead, counts as outage.
    """
    acknowledged: dict[int, list[int]] = {}
    for write in past.writes:
        if write.fate is Fate.ACKNOWLEDGED:
            acknowledged.setdefault(write.client, []).append(write.done_ns)
    costs = []
    for client, moments in sorted(acknowledged.items()):
        outage = None
        if first_ns is not None:
            moments = sorted([*moments, first_ns])
            longest = max(b - a for a, b in pairwise(moments))
            outage = timedelta(microseconds=longest / 1000)
        costs.append(ClientCost(client=client, outage=outage))
    return tuple(costs)
