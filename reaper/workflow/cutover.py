"""The cutover: kill, fence, elect, apply, promote, repoint, reroute, in the time a client notices.

Everything slow happens in `arm`, before the kill: connections, threads, the aimed trigger, the open
control channel of the endpoint. Events are held back while the clock of the outage runs.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from reaper.domain.errors import CallAPersonError, ReaperError, RefusedError, ServerError, TryAgainError
from reaper.domain.facts import Instance, InstanceId, Openness
from reaper.domain.plan import Plan, Role, StepName
from reaper.domain.policy import KillMode
from reaper.planner.election import Candidate, Elected, NoHeir, elect
from reaper.workflow.observe import connections
from reaper.workflow.ports import Endpoint, Trigger
from reaper.workflow.run import Timeline
from reaper.workflow.server import Halted, Server
from reaper.workflow.world import World

_REPOINT_TRIES_EVERY = timedelta(milliseconds=200)
_OWNED_WITHIN_S = 0.5


@dataclass(frozen=True)
class Moments:
    """Monotonic nanoseconds of what happened, in this order; a client's outage is cut into parts at these."""

    kill: int
    dead: int
    fenced: int
    elected: int
    applied: int
    promoted: int
    rerouted: int


@dataclass(frozen=True, kw_only=True)
class Succession:
    """How a cutover ended."""

    heir: Instance
    moments: Moments
    proof: str  # of the victim's death
    faults: tuple[str, ...]  # siblings that could not be repointed, replicas that did not answer


@dataclass(kw_only=True)
class Armed:
    """Everything that the cutover needs, open and warm."""

    plan: Plan
    victim: Instance
    replicas: dict[InstanceId, Instance]
    servers: dict[InstanceId, Server]
    lossless: bool
    victim_server: Server | None  # only for a drain
    trigger: Trigger
    endpoint: Endpoint
    pool: ThreadPoolExecutor
    preferred: InstanceId | None
    own: Callable[[], None]  # OwnershipLostError: another worker has taken the run over
    drained: bool = False


@contextmanager
def arm(
    world: World,
    plan: Plan,
    victim: Instance,
    replicas: list[Instance],
    preferred: Instance | None,
    *,
    lossless: bool,
    own: Callable[[], None],
    trigger: Trigger | None = None,
) -> Iterator[Armed]:
    """Open and warm everything before the kill; close it afterwards. `trigger`: one that is aimed already.

    `lossless`: the new master is armed with semi-sync, as the old one was. `own`: asked before what cannot be undone.
    """
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(connections(world, plan.cluster, replicas))
        drains = plan.policy.mode is KillMode.DRAIN and trigger is None
        victims = stack.enter_context(connections(world, plan.cluster, [victim] if drains else []))
        endpoint = stack.enter_context(contextlib.closing(world.endpoint(plan.cluster)))
        endpoint.warm()
        aimed = stack.enter_context(contextlib.closing(trigger or world.fleet.aim(victim)))
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=len(servers) + 1))
        for _ in range(len(servers) + 1):
            pool.submit(world.clock.sleep, timedelta(milliseconds=1))  # so that every thread exists
        yield Armed(
            plan=plan,
            victim=victim,
            replicas={r.id: r for r in replicas},
            servers=servers,
            victim_server=victims.get(victim.id),
            lossless=lossless,
            trigger=aimed,
            endpoint=endpoint,
            pool=pool,
            preferred=preferred.id if preferred else None,
            own=own,
        )


@contextmanager
def quiet(world: World, timeline: Timeline) -> Iterator[None]:
    """Nothing of ours may pause or print while clients wait."""
    collecting = gc.isenabled()
    gc.disable()
    timeline.hold()
    try:
        with world.quiet():
            yield
    finally:
        if collecting:
            gc.enable()
        timeline.release()


def drain(world: World, armed: Armed, timeline: Timeline) -> None:
    """Close the victim for writes and wait until every replica applied all of it. Undone when it fails (E09, E11)."""
    policy, victim = armed.plan.policy, armed.victim_server
    if victim is None:
        return
    with timeline.step(StepName.DRAIN, f"{armed.victim.id.short} closes for writes") as outcome:
        armed.drained = True
        try:
            final = victim.close_for_writes(policy.drain_within)
            waits = {
                i: armed.pool.submit(server.wait_applied, final, policy.drain_within)
                for i, server in armed.servers.items()
            }
            behind = [i.short for i, wait in waits.items() if not wait.result()]
            if behind:
                raise RefusedError(
                    f"{', '.join(behind)} did not apply the drained master's last writes within "
                    f"{policy.drain_within.total_seconds():g} s: the master is open again, nothing was killed"
                )
        except Exception:
            undrain(world, armed)
            raise
        outcome.detail = f"{armed.victim.id.short} is read-only, every replica applied its last write"


def undrain(world: World, armed: Armed) -> None:
    """Open a drained victim again, over a new connection if the warm one broke (E26)."""
    if not armed.drained or armed.victim_server is None:
        return
    try:
        armed.victim_server.open_for_writes()
    except ReaperError:
        with contextlib.closing(world.connect(armed.plan.cluster, armed.victim)) as server:
            server.open_for_writes()
    armed.drained = False


def open_again(world: World, plan: Plan, victim: Instance) -> None:
    """Open a master that a process which has died drained; nobody else can have been opened before its death."""
    if plan.policy.mode is not KillMode.DRAIN or plan.role is not Role.MASTER:
        return
    with contextlib.closing(world.connect(plan.cluster, victim)) as server:
        facts = server.facts()
        if facts.openness is not Openness.OPEN and not facts.channels:
            server.open_for_writes()


def check_still_master(armed: Armed) -> None:
    """The last look before the kill, on warm connections: nobody else was made the master since the guards (E13).

    RefusedError: somebody was, and nothing is killed.
    """
    looks = {i: armed.pool.submit(server.facts) for i, server in armed.servers.items()}
    for instance, look in looks.items():
        try:
            facts = look.result()
        except ServerError:
            continue  # a replica that dies at this moment is no switch; the cutover goes without it
        if facts.openness is Openness.OPEN:
            raise RefusedError(f"{instance.short} accepts writes now: somebody else has switched, nothing was killed")
        if [c.source for c in facts.channels] != [armed.victim.address]:
            raise RefusedError(f"{instance.short} no longer follows {armed.victim.id.short}: nothing was killed")


def cut_over(world: World, armed: Armed, timeline: Timeline) -> Succession:
    """Kill the master and put the heir in its place. The first statement is the point of no return."""
    policy, name = armed.plan.policy, armed.victim.id.short
    laps = _Laps(world, timeline)
    proof, halts = _kill(world, armed, timeline)
    laps.done(StepName.KILL, f"{name}: {policy.mode}")
    _ask_again(world, armed, halts)
    candidates, faults = _answers(halts)
    _nobody_open(armed, halts)
    laps.done(StepName.FENCE, f"{proof}; receivers stopped on {', '.join(c.instance.short for c in candidates)}")
    election = elect(candidates, preferred=armed.preferred)
    if isinstance(election, NoHeir):
        raise CallAPersonError(
            f"{name} is dead and nobody was promoted: {election.why} ({'; '.join(election.evidence)}). "
            "Decide which replica's history to keep, then promote it by hand."
        )
    heir = armed.replicas[election.heir]
    laps.done(StepName.ELECT, f"{heir.id.short}: {election.why}")
    _apply(armed, election, {c.instance: c for c in candidates})
    laps.done(StepName.APPLY, f"{heir.id.short} applied everything received")
    applied_ns = laps.at
    _still_ours(armed)
    siblings = [c.instance for c in candidates if c.instance != election.heir]
    repoints = {i: armed.pool.submit(_repoint, world, armed, i, heir) for i in siblings}
    armed.servers[heir.id].promote(arm_semi_sync=armed.lossless and bool(siblings))
    laps.done(StepName.PROMOTE, f"{heir.id.short} is open for writes")
    _still_ours(armed)
    armed.endpoint.route(heir.address, armed.victim.address)
    laps.done(StepName.REROUTE, f"{armed.endpoint.listen} leads to {heir.address}")
    faults += [fault for fault in (wait.result() for wait in repoints.values()) if fault]
    moved = ", ".join(i.short for i in siblings) or "nobody is left"
    timeline.span(StepName.REPOINT, f"to {heir.id.short}: {moved}", applied_ns, world.clock.monotonic_ns())
    target = armed.endpoint.show().target
    if target != heir.address:
        faults.append(f"the endpoint leads to {target}, not to the heir {heir.address}")
    return Succession(heir=heir, moments=Moments(*laps.moments), proof=proof, faults=tuple(faults))


def _still_ours(armed: Armed) -> None:
    """OwnershipLostError if another worker goes on with the run: this one woke up too late.

    A store that does not answer at once is not waited for while clients are: nobody can take a run over without it,
    and the worker's own lease ends it if the store has gone for good.
    """
    answer = armed.pool.submit(armed.own)
    try:
        answer.result(timeout=_OWNED_WITHIN_S)
    except (TimeoutError, TryAgainError):
        return


class _Laps:
    """The moments at which the steps of a cutover ended, each told to the timeline at once."""

    def __init__(self, world: World, timeline: Timeline) -> None:
        self._now, self._timeline = world.clock.monotonic_ns, timeline
        self.moments = [self._now()]

    @property
    def at(self) -> int:
        """When the last step ended."""
        return self.moments[-1]

    def done(self, step: StepName, detail: str) -> None:
        """A step ended now; it began when the one before it ended."""
        began = self.at
        self.moments.append(self._now())
        self._timeline.span(step, detail, began, self.at)


def kill_only(world: World, armed: Armed, timeline: Timeline) -> tuple[Moments, str]:
    """Kill without a failover of ours: a replica, or a master that somebody else fails over."""
    laps = _Laps(world, timeline)
    proof, _ = _kill(world, armed, timeline, halting=False)
    laps.done(StepName.KILL, f"{armed.victim.id.short}: {armed.plan.policy.mode}; {proof}")
    return Moments(laps.moments[0], *[laps.at] * 6), proof


def _kill(
    world: World, armed: Armed, timeline: Timeline, *, halting: bool = True
) -> tuple[str, dict[InstanceId, Future[Halted]]]:
    """Kill as the mode says, and prove it. The receivers are stopped as early as the mode allows.

    A master that shuts down politely goes on acknowledging with its replicas until it has ended; without
    them it could fall back to asynchronous replication and acknowledge alone (I3).
    """
    mode, trigger = armed.plan.policy.mode, armed.trigger
    halts: dict[InstanceId, Future[Halted]] = {}

    def halt() -> None:
        if halting:
            halts.update({i: armed.pool.submit(server.halt) for i, server in armed.servers.items()})

    try:
        match mode:
            case KillMode.CRASH | KillMode.DRAIN:
                trigger.crash()
                halt()
            case KillMode.FREEZE:
                trigger.freeze()
                halt()
                # A frozen master can wake up and write: the fence is its death. It is not waited for the
                # receivers, which take two seconds to let go of a silent master (MariaDB 10.11, MySQL 8.0.43).
                trigger.crash()
            case KillMode.TERMINATE:
                trigger.terminate()
        timeline.note(StepName.KILL, f"{armed.victim.id.short}: {mode} sent")
        proof = _fence(armed)
    except ReaperError:
        _stand_down(world, armed, halts)
        raise
    if mode is KillMode.TERMINATE:
        halt()
    return proof, halts


def _fence(armed: Armed) -> str:
    """The proof that the victim can accept no write (I4). CallAPersonError: there is none."""
    within = armed.plan.policy.fence_within
    proof = armed.trigger.fence(within)
    if proof is None and armed.plan.policy.mode is KillMode.TERMINATE:
        armed.trigger.crash()
        forced = armed.trigger.fence(within)
        proof = f"{forced}, forced after {within.total_seconds():g} s of shutting down" if forced else None
    if proof is None:
        raise CallAPersonError(
            f"no proof that {armed.victim.id.short} is dead within {within.total_seconds():g} s: nobody is promoted, "
            "its replicas follow it again. End it by hand and promote a replica, or leave it be."
        )
    return proof


def _stand_down(world: World, armed: Armed, halts: dict[InstanceId, Future[Halted]]) -> None:
    """The victim may live: let it go on as master, with its replicas, open for writes (E11)."""
    if armed.plan.policy.mode is KillMode.FREEZE:
        with contextlib.suppress(ReaperError):
            armed.trigger.thaw()
    for instance, answer in halts.items():
        answer.exception()
        with contextlib.suppress(ReaperError):
            armed.servers[instance].resume_replication()
    with contextlib.suppress(ReaperError):
        undrain(world, armed)


def _nobody_open(armed: Armed, halts: dict[InstanceId, Future[Halted]]) -> None:
    """Promote only if nobody accepts writes (I2). CallAPersonError: somebody does."""
    opened = [i for i, halt in halts.items() if halt.exception() is None and halt.result().accepts_writes]
    if opened:
        for instance in halts:
            if instance not in opened:
                with contextlib.suppress(ReaperError):
                    armed.servers[instance].resume_replication()
        raise CallAPersonError(
            f"{armed.victim.id.short} is dead and {', '.join(i.short for i in opened)} accepts writes already: "
            "somebody else has promoted it, so nobody else is. Look at the cluster, then finish the failover by hand."
        )


def _answers(halts: dict[InstanceId, Future[Halted]]) -> tuple[tuple[Candidate, ...], list[str]]:
    candidates, faults = [], []
    for instance, halt in halts.items():
        try:
            halted = halt.result()
        except ReaperError as error:
            faults.append(f"{instance.short} did not answer during the cutover: {error}")
            continue
        candidates.append(
            Candidate(
                instance=instance,
                received=halted.received,
                executed=halted.executed,
                unfit=halted.unfit,
                broken_applier=halted.broken_applier,
            )
        )
    return tuple(candidates), faults


def _ask_again(world: World, armed: Armed, halts: dict[InstanceId, Future[Halted]]) -> None:
    """A replica that did not answer may be the only one that has the last acknowledged write (I3)."""
    for instance, halt in halts.items():
        if isinstance(halt.exception(), ReaperError):
            halts[instance] = armed.pool.submit(_halt_again, world, armed, instance)


def _halt_again(world: World, armed: Armed, instance: InstanceId) -> Halted:
    """Over a new connection, which stays."""
    server = world.connect(armed.plan.cluster, armed.replicas[instance])
    armed.servers[instance].close()
    armed.servers[instance] = server
    return server.halt()


def _apply(armed: Armed, election: Elected, candidates: dict[InstanceId, Candidate]) -> None:
    """The heir applies everything received, a gap being fetched from the sibling that holds it (I5, E04, E05)."""
    within, heir = armed.plan.policy.apply_within, armed.servers[election.heir]
    if candidates[election.heir].executed.covers(election.must_apply):
        return
    if election.gap_from is not None:
        donor = armed.servers[election.gap_from]
        if not donor.wait_applied(election.must_apply, within):
            raise _not_applied(armed, election.gap_from, within)
        try:
            heir.follow(armed.replicas[election.gap_from].address)
        except ServerError as error:  # an applier that is stuck cannot be stopped either
            raise _not_applied(armed, election.heir, within) from error
    if not heir.wait_applied(election.must_apply, within):
        raise _not_applied(armed, election.heir, within)
    if election.gap_from is not None:
        heir.halt()


def _not_applied(armed: Armed, instance: InstanceId, within: timedelta) -> CallAPersonError:
    return CallAPersonError(
        f"{armed.victim.id.short} is dead and {instance.short} did not apply what was received within "
        f"{within.total_seconds():g} s: nobody was promoted, nothing was thrown away. Wait for its applier, "
        "then promote it by hand."
    )


def _repoint(world: World, armed: Armed, sibling: InstanceId, heir: Instance) -> str | None:
    """Make a sibling follow the heir; tried again until the policy's time is up. Returns a fault or None."""
    deadline = world.clock.monotonic_ns() + int(armed.plan.policy.repoint_within / timedelta(microseconds=1)) * 1000
    while True:
        try:
            armed.servers[sibling].follow(heir.address)
        except ReaperError as error:
            if world.clock.monotonic_ns() > deadline:
                return f"{sibling.short} could not be made to follow {heir.id.short}: {error}"
            world.clock.sleep(_REPOINT_TRIES_EVERY)
        else:
            return None
