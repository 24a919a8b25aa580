"""Turn a decision into the ordered steps of a plan."""

from dataclasses import dataclass

from reaper.domain.facts import Berth, ClusterView, InstanceId, InstanceState, Member, ThreadState
from reaper.domain.plan import Phase, Plan, PlannedStep, Replacement, Role, StepName
from reaper.domain.policy import FailoverBy, KillMode, Policy, Reference
from reaper.domain.warmth import Otherwise
from reaper.planner.shape import MasterWithReplicas, classify, living
from reaper.planner.words import in_words


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asked for, and the names that the run derives everything from."""

    run: str
    victim: InstanceId
    policy: Policy
    replacement: Replacement
    why: str
    seed: int | None = None
    standing: str | None = None  # the standing policy that asks; None: a person does


def snapshot_source(view: ClusterView, *, spare: InstanceId) -> InstanceId | None:
    """The replica to copy: applying, without error, with room if there is one; never `spare`. None: nobody."""
    fit = [
        m
        for m in living(view)
        if m.facts
        and m.instance.id != spare
        and m.instance.state is InstanceState.RUNNING
        and m.facts.channels
        and all(c.applier is ThreadState.RUNNING and not c.applier_error for c in m.facts.channels)
    ]
    # Not by how much is free: that moves while it is measured, and a plan must not depend on noise.
    fit.sort(key=lambda m: (not _has_room(m), m.instance.server_id))
    return fit[0].instance.id if fit else None


def _has_room(member: Member) -> bool:
    data, free = member.instance.data_bytes, member.instance.free_bytes
    return data is not None and free is not None and free > 2 * data


def role_of(view: ClusterView, instance: InstanceId) -> Role:
    """Master or replica; in a shape that is refused anyway, whoever replicates from nobody is a master."""
    shape = classify(view)
    if isinstance(shape, MasterWithReplicas):
        return Role.MASTER if shape.master.instance.id == instance else Role.REPLICA
    member = view.member(instance)
    return Role.REPLICA if member and member.facts and member.facts.channels else Role.MASTER


def make_plan(view: ClusterView, request: Request) -> Plan:
    """The plan of a rotation (replacement before the kill) or of a kill (replacement after it, or none)."""
    role = role_of(view, request.victim)
    source = None if request.replacement is Replacement.NONE else snapshot_source(view, spare=request.victim)
    berth = _berth(view, request.victim, source)
    build = _build(request, source, role, berth)
    steps: list[PlannedStep] = []
    if request.replacement is Replacement.BEFORE:
        steps += [PlannedStep(name=n, phase=Phase.PREPARE, what=w) for n, w in build]
    steps += _cutover(request, role)
    if _fails_over(request, role):
        steps.append(_retiring(StepName.NORMAL, "canary queries until they are as fast as they were on the victim"))
    steps.append(_retiring(StepName.SETTLE, "check the topology and the ledger"))
    if role is Role.MASTER:
        steps.append(_retiring(StepName.DISSECT, f"what {request.victim.short} holds alone, in its binary logs"))
    if request.replacement is Replacement.AFTER:
        steps += [_retiring(name, what) for name, what in build]
    steps += _retire(request)
    return Plan(
        run=request.run,
        cluster=view.name,
        victim=request.victim,
        role=role,
        replacement=request.replacement,
        snapshot_from=source,
        size=len(living(view)),
        policy=request.policy,
        why=request.why,
        seed=request.seed,
        steps=tuple(steps),
        standing=request.standing,
        berth=berth,
    )


def _berth(view: ClusterView, victim: InstanceId, source: InstanceId | None) -> Berth:
    """Where the victim is, so that the spread over zones stays; from what its provider launches now."""
    place, copied = view.member(victim), view.member(source) if source else None
    template = next((m.instance.template for m in (copied, place) if m and m.instance.template), None)
    return Berth(zone=place.instance.zone if place else None, template=template)


def _place(berth: Berth) -> str:
    """Where and from what, as far as its provider tells such things apart."""
    zone = f" in {berth.zone}" if berth.zone else ""
    return f"{zone} by {berth.template}" if berth.template else zone


def _retiring(name: StepName, what: str) -> PlannedStep:
    return PlannedStep(name=name, phase=Phase.RETIRE, what=what)


def _build(request: Request, source: InstanceId | None, role: Role, berth: Berth) -> list[tuple[StepName, str]]:
    if request.replacement is Replacement.NONE:
        return []
    heir, policy = f"{request.run}-heir", request.policy
    name = source.short if source else "a replica"
    reuse = policy.snapshot_reuse_within
    first = f"a tested snapshot that is not older than {in_words(reuse)}, or else " if reuse else ""
    whose = name if policy.compare_with is Reference.SOURCE else "the master"
    share = "all" if policy.compare_share == 1 else f"{policy.compare_share:.0%}"
    steps = [
        (StepName.SNAPSHOT, f"{first}snapshot {name} as {request.run}-snap"),
        (StepName.LAUNCH, f"launch {heir} from it{_place(berth)}: read-only, replication not started"),
        (StepName.JOIN, f"{heir} joins replication by GTID and catches up"),
        (StepName.RESTART, f"{heir} is shut down and booted as it will run"),
        (StepName.COMPARE, f"checksums of {share} of its data against those of {whose}, at one position"),
        (StepName.PARITY, f"{heir} has the accounts, schemas, settings and plugins of the master"),
        (StepName.WARM, _warming(request, heir)),
        (StepName.VERIFY, f"{heir} has the schema, the marker row and its own identity, and replicates"),
    ]
    if request.replacement is Replacement.BEFORE and _fails_over(request, role):
        steps.append((StepName.REHEARSE, f"every other replica replicates from {heir} for a moment"))
    return steps


def _warming(request: Request, heir: str) -> str:
    gate = request.policy.warm
    if gate is None or request.replacement is not Replacement.BEFORE:
        return f"{heir} loads the page list of the source, if the snapshot carries one"
    late = "" if gate.otherwise is Otherwise.REFUSE else ", or else it is killed all the same"
    return f"{gate.gate:.0%} of the victim's hot pages are in the memory of {heir} within {in_words(gate.within)}{late}"


def _fails_over(request: Request, role: Role) -> bool:
    return role is Role.MASTER and request.policy.failover is FailoverBy.REAPER


def _cutover(request: Request, role: Role) -> list[PlannedStep]:
    victim, policy = request.victim.short, request.policy
    how = {
        KillMode.CRASH: "SIGKILL or forced stop",
        KillMode.TERMINATE: "the provider's terminate call",
        KillMode.FREEZE: "SIGSTOP, then fenced",
        KillMode.DRAIN: "after draining",
    }[policy.mode]
    writers = f"{policy.probe_clients} clients write {policy.probe_rate:g} rows/s through the endpoint"
    parts = [(StepName.PROBE, writers)]
    if policy.mode is KillMode.DRAIN:
        parts.append((StepName.DRAIN, f"{victim} becomes read-only, the replicas apply all of it"))
    parts.append((StepName.KILL, f"kill {victim} ({role}): {how}"))
    if role is Role.REPLICA:
        parts.append((StepName.FENCE, f"prove that {victim} is dead"))
    elif policy.failover is FailoverBy.OBSERVE:
        within = policy.failover_within.total_seconds()
        parts.append((StepName.WATCH, f"the site's own tool has {within:g} s to bring writes back"))
    else:
        parts += [
            (StepName.FENCE, f"prove that {victim} is dead, stop every receiver"),
            (StepName.ELECT, "the heir holds everything that any replica received"),
            (StepName.APPLY, f"the heir applies all of it, within {policy.apply_within.total_seconds():g} s"),
            (StepName.PROMOTE, "arm semi-sync, open the heir for writes"),
            (StepName.REPOINT, "the other replicas follow the heir by GTID"),
            (StepName.REROUTE, "the endpoint leads to the heir; read back"),
        ]
    return [PlannedStep(name=n, phase=Phase.CUTOVER, what=w) for n, w in parts]


def _retire(request: Request) -> list[PlannedStep]:
    victim, hours = request.victim.short, request.policy.quarantine
    kept = f"for {hours}" if hours else "until the end of this run"
    keep = request.policy.snapshot_keep
    snapshots = f"snapshots beyond the newest {keep}" if keep else "the snapshot"
    parts = [
        (StepName.QUARANTINE, f"{victim} is never started again; its files are kept {kept}"),
        (
            StepName.RETIRE,
            f"delete {victim}" + (" when the quarantine is over (reaper retire)" if hours else ""),
        ),
        (StepName.FORGET, f"remove {snapshots}, the probe's table and the marker row"),
    ]
    return [_retiring(name, what) for name, what in parts]
