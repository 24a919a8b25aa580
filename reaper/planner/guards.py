"""Guards: what must be true before anything is built and, on fresh facts, right before the kill.

Each guard is a function of a Case. It rules `go` or `refuse`, with the reason, the evidence and the
culprit. What cannot be evaluated refuses (I10).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from reaper.domain.facts import (
    ClusterView,
    InstanceId,
    InstanceState,
    Member,
    Openness,
    Replication,
    Session,
    Soak,
    ThreadState,
)
from reaper.domain.plan import Replacement, Role
from reaper.domain.policy import FailoverBy, KillMode, Loss, Policy, Waivable, Waiver
from reaper.domain.verdict import GuardVerdict, Ruling
from reaper.planner.shape import MasterWithReplicas, OtherShape, Shape, classify, living
from reaper.planner.words import in_words


class Moment(StrEnum):
    """When the guards are asked."""

    PLAN = "plan"  # before anything is built; also the dry run
    KILL = "kill"  # everything is built, the trigger is next


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything a guard may look at."""

    view: ClusterView
    soak: Soak
    victim: InstanceId
    role: Role  # what the plan took the victim for
    policy: Policy
    replacement: Replacement
    moment: Moment
    snapshot_from: InstanceId | None
    copies_hot: bool  # a snapshot does not stop its source
    heir: InstanceId | None = None  # the prepared replacement, at the moment of the kill
    protection: str | None = None  # what at the provider keeps the victim from being killed, in words

    @property
    def shape(self) -> Shape:
        """The cluster's shape."""
        return classify(self.view)

    @property
    def kills_master(self) -> bool:
        """True if the victim is the master of the supported shape."""
        shape = self.shape
        return isinstance(shape, MasterWithReplicas) and shape.master.instance.id == self.victim


Guard = Callable[[Case], GuardVerdict]

# A semi-sync time-out below this falls back to asynchronous during an ordinary hiccup (E02). Ten
# seconds is the servers' default (rpl_semi_sync_*_timeout in both manuals).
SHORTEST_SEMI_SYNC_TIMEOUT = timedelta(seconds=10)
# A prepared copy needs the source's bytes once, plus what the source writes meanwhile.
SNAPSHOT_HEADROOM = 1.2
SNAPSHOT_MARGIN_BYTES = 256 * 1024 * 1024


def _go(guard: str, reason: str, *evidence: str) -> GuardVerdict:
    return GuardVerdict(guard=guard, ruling=Ruling.GO, reason=reason, evidence=evidence)


def _refuse(guard: str, reason: str, *evidence: str) -> GuardVerdict:
    return GuardVerdict(guard=guard, ruling=Ruling.REFUSE, reason=reason, evidence=evidence)


def _ms(span: timedelta) -> str:
    return f"{span / timedelta(milliseconds=1):.0f} ms"


def guard_shape(case: Case) -> GuardVerdict:
    """One writable master with replicas of depth one, and the victim is a living member (E17)."""
    shape = case.shape
    if isinstance(shape, OtherShape):
        return _refuse("shape", f"{shape.name}: {shape.why}")
    victim = case.view.member(case.victim)
    if victim is None or victim not in living(case.view):
        return _refuse("shape", f"{case.victim} is not a living member of {case.view.name}")
    role = Role.MASTER if case.kills_master else Role.REPLICA
    if role is not case.role:
        return _refuse("shape", f"the plan was made to kill a {case.role}, {case.victim.short} is the {role} now")
    replicas = ", ".join(m.instance.id.short for m in shape.replicas)
    return _go("shape", f"master {shape.master.instance.id.short}, replicas {replicas}")


def guard_replicas(case: Case) -> GuardVerdict:
    """Every surviving replica receives and applies, by GTID, without error, delay or filter (E06, E18)."""
    faults = [fault for m in _survivors(case) for fault in replication_faults(m)]
    if faults:
        return _refuse("replicas", faults[0], *faults[1:])
    return _go("replicas", "all receive and apply by GTID, without error, delay or filter")


def replication_faults(member: Member) -> list[str]:
    """What is wrong with a member's replication, in words; a master has none, a silent member is unknown."""
    name = member.instance.id.short
    if member.facts is None:
        return [f"{name}: its replication is unknown"]
    return [f"{name}: {fault}" for channel in member.facts.channels for fault in _channel_faults(channel)]


def _channel_faults(channel: Replication) -> list[str]:
    faults = []
    if channel.receiver is not ThreadState.RUNNING:
        faults.append(
            f"receiver is {channel.receiver}" + (f": {channel.receiver_error}" if channel.receiver_error else "")
        )
    if channel.applier is not ThreadState.RUNNING:
        faults.append(f"applier is {channel.applier}" + (f": {channel.applier_error}" if channel.applier_error else ""))
    if channel.delay:
        faults.append(f"configured delay of {channel.delay.total_seconds():.0f} s")
    if not channel.by_gtid:
        faults.append("replicates by file and offset, not by GTID")
    if channel.filters:
        faults.append("replication filter " + ", ".join(channel.filters))
    return faults


def guard_lag(case: Case) -> GuardVerdict:
    """Every surviving replica applied the master's position within the policy's lag, measured, not by clocks (E31)."""
    evidence, limit = [], case.policy.max_lag
    marker = case.soak.marker
    for m in _survivors(case):
        name = m.instance.id.short
        if m.facts is None:
            return _refuse("lag", f"the lag of {name} is unknown")
        if not m.facts.channels:
            continue
        took, behind = case.soak.caught_up.get(m.instance.id), case.soak.distance.get(m.instance.id)
        if took is None:
            shown = "an unknown number of" if behind is None else str(behind)
            return _refuse("lag", f"{name} is {shown} transactions behind and did not catch up within {_ms(limit)}")
        if took > limit:
            return _refuse("lag", f"{name} took {_ms(took)} to catch up, more than {_ms(limit)}")
        evidence.append(f"{name}: {behind} transactions behind, applied after {_ms(took)}")
        if marker is None:
            continue
        arrived = marker.arrived.get(m.instance.id)
        if arrived is None or arrived > limit:
            return _refuse("lag", f"the marker row did not arrive on {name} within {_ms(limit)}")
        evidence.append(f"{name}: marker row visible after {_ms(arrived)}")
    if marker is None:
        return _go("lag", "every replica applied the master's position", *evidence, "marker row: not written (dry run)")
    return _go("lag", "every replica applied the master's position and shows the marker row", *evidence)


def guard_semi_sync(case: Case) -> GuardVerdict:
    """Semi-sync is really on: armed, acknowledged during the watch, not falling back (I3, E02)."""
    if case.policy.loss is Loss.ACCEPTED:
        return _go("semi-sync", "the policy accepts the loss of acknowledged writes; the report counts them")
    before, after = case.soak.before, case.soak.after
    if before is None or after is None:
        return _refuse("semi-sync", "the master's semi-sync state could not be read")
    why = "acknowledged writes could be lost; repair it, or say that loss is accepted"
    if not after.source_enabled:
        return _refuse("semi-sync", f"not enabled on the master: {why}")
    if not after.source_active:
        return _refuse("semi-sync", f"fallen back to asynchronous: {why}", f"{after.source_clients} replicas attached")
    if after.source_clients < 1:
        return _refuse("semi-sync", f"no replica acknowledges: {why}")
    if not after.after_sync:
        return _refuse("semi-sync", f"waits after the engine commit (AFTER_COMMIT): {why}")
    if after.timeout < SHORTEST_SEMI_SYNC_TIMEOUT:
        return _refuse("semi-sync", f"its time-out of {_ms(after.timeout)} is short enough to fall back: {why}")
    grown = after.unacknowledged - before.unacknowledged
    if grown != 0:
        return _refuse("semi-sync", f"{grown} commits went unacknowledged during {_ms(case.soak.window)}: {why}")
    evidence = [
        f"{after.source_clients} replicas acknowledge, {after.acknowledged - before.acknowledged} commits "
        f"acknowledged and 0 not, in {_ms(case.soak.window)}"
    ]
    if case.soak.marker is not None:
        if case.soak.marker.committed_in is None:
            return _refuse("semi-sync", f"the marker write was not acknowledged within {_ms(case.policy.max_lag)}")
        evidence.append(f"marker write acknowledged in {_ms(case.soak.marker.committed_in)}")
    return _go("semi-sync", "on and acknowledging", *evidence)


def guard_errant(case: Case) -> GuardVerdict:
    """No replica holds a transaction that the master lacks (E01)."""
    shape = case.shape
    if isinstance(shape, OtherShape) or shape.master.facts is None:
        return _refuse("errant", "the master's executed set is unknown")
    for m in shape.replicas:
        if m.instance.id == case.victim:
            continue  # it dies, and its errant transactions with it
        beyond = m.facts.executed.beyond(shape.master.facts.executed) if m.facts else ()
        if beyond:
            return _refuse(
                "errant",
                f"{m.instance.id.short} executed {', '.join(map(str, beyond))}, which the master never had; "
                "rebuild that replica",
            )
    return _go("errant", "no replica executed anything that the master did not")


def guard_copies(case: Case) -> GuardVerdict:
    """Enough copies, and somebody to acknowledge, are left after the kill and during a cold copy (I1, E24)."""
    copies = [m.instance.id.short for m in living(case.view) if m.facts]
    built = 1 if case.moment is Moment.PLAN and case.replacement is Replacement.BEFORE else 0
    wanted, lossless = case.policy.min_copies, case.policy.loss is Loss.FORBIDDEN
    counted = f"{len(copies)} now ({', '.join(copies)})" + (", 1 is built before the kill" if built else "")
    armed = [m for m in _survivors(case) if m.facts and m.facts.channels and m.facts.semi_sync.replica_active]
    acknowledgers = len(armed) + built - (1 if case.kills_master else 0)  # the heir acknowledges nobody
    left = len(copies) - 1 + built
    if left < wanted:
        return _refuse("copies", f"{left} would be left after the kill, the policy wants {wanted}", counted)
    if lossless and acknowledgers < 1:
        return _refuse("copies", "no replica with semi-sync would be left to acknowledge writes", counted)
    if case.replacement is not Replacement.NONE and case.moment is Moment.PLAN and not case.copies_hot:
        # The copy stops a replica: before the kill one of the present ones, after it one of those left.
        before = case.replacement is Replacement.BEFORE
        meanwhile = (len(copies) if before else left) - 1
        deaf = (len(armed) + (0 if case.kills_master else 1) if before else acknowledgers) - 1 < 1
        if meanwhile < wanted or (lossless and deaf):
            return _refuse(
                "copies",
                f"only a cold copy is possible here; it stops a replica, and {meanwhile} copies are too few "
                "meanwhile: install mariadb-backup",
                counted,
            )
    return _go("copies", f"{left} left after the kill, {acknowledgers} to acknowledge", counted)


def guard_activity(case: Case) -> GuardVerdict:
    """Nothing long or unrepeatable runs on the victim or the heir (E09, E10)."""
    for instance in [i for i in (case.victim, case.heir, case.snapshot_from) if i]:
        member = case.view.member(instance)
        activity = member.facts.activity if member and member.facts else None
        if activity is None:
            return _refuse(
                "activity",
                f"what runs on {instance.short} could not be read (the PROCESS privilege is needed)",
            )
        if activity.schema_changes:
            return _refuse("activity", f"schema change on {instance.short}: {activity.schema_changes[0]}")
        if activity.backups:
            return _refuse("activity", f"backup or global lock on {instance.short}: {activity.backups[0]}")
        old = _older(activity.transactions, case.policy.max_transaction_age)
        if old and instance == case.victim:
            return _refuse("activity", f"old transaction on {instance.short}: {old}")
    member = case.view.member(case.victim)
    waiting = member.facts.activity.commit_waiters if member and member.facts and member.facts.activity else 0
    evidence = f"{waiting} commits of {case.victim.short} wait for an acknowledgement"
    return _go("activity", "no old transaction, schema change, backup or global lock", evidence)


def _older(transactions: tuple[Session, ...], limit: timedelta) -> Session | None:
    return next((s for s in transactions if s.age > limit), None)


def guard_disk(case: Case) -> GuardVerdict:
    """The snapshot and the replacement fit on the disk (E28)."""
    if case.replacement is Replacement.NONE:
        return _go("disk", "nothing is built")
    if case.moment is Moment.KILL and case.replacement is Replacement.BEFORE:
        return _go("disk", "the replacement is built")
    if case.snapshot_from is None:
        return _refuse("disk", "there is no healthy replica to copy for the replacement: repair one, or go without")
    source = case.view.member(case.snapshot_from)
    if source is not None and source.instance.own_volume:
        return _go("disk", f"the replacement gets a volume of its own, as large as that of {case.snapshot_from.short}")
    if source is None or source.instance.data_bytes is None or source.instance.free_bytes is None:
        return _refuse("disk", f"the size of {case.snapshot_from.short} or the free space is unknown")
    need = int(source.instance.data_bytes * SNAPSHOT_HEADROOM) + SNAPSHOT_MARGIN_BYTES
    free = source.instance.free_bytes
    sizes = f"{source.instance.data_bytes / 2**20:.0f} MiB of data, {free / 2**20:.0f} MiB free"
    if need > free:
        return _refuse(
            "disk",
            f"the replacement needs {need / 2**20:.0f} MiB: free some, or move the data directory",
            sizes,
        )
    return _go("disk", "the replacement fits", sizes)


def guard_identity(case: Case) -> GuardVerdict:
    """Server ids and UUIDs are unique, quarantined members included (E14, E29)."""
    ids = Counter(m.instance.server_id for m in case.view.members)
    twice = [i for i, n in ids.items() if n > 1]
    if twice:
        return _refuse("identity", f"server id {twice[0]} is used twice")
    uuids = Counter(m.facts.server_uuid for m in living(case.view) if m.facts and m.facts.server_uuid)
    same = [u for u, n in uuids.items() if n > 1]
    if same:
        return _refuse("identity", f"server_uuid {same[0]} is used twice (a copied auto.cnf)")
    for m in living(case.view):
        if m.facts is None:
            return _refuse("identity", f"the server id of {m.instance.id.short} is unknown")
        if m.facts.server_id != m.instance.server_id:
            return _refuse(
                "identity",
                f"{m.instance.id.short} runs with server id {m.facts.server_id}, registered as {m.instance.server_id}",
            )
    return _go("identity", "every server id and UUID is unique")


def guard_settings(case: Case) -> GuardVerdict:
    """Every member can be a master (E08, E20). In what they may differ is for parity to say."""
    members = living(case.view)
    for m in members:
        facts, name = m.facts, m.instance.id.short
        if facts is None:
            return _refuse("settings", f"the settings of {name} are unknown")
        wanted = (
            (facts.binlog, "has no binary log"),
            (facts.binlog_of_replicated, "does not log what it replicates"),
            (facts.binlog_row_format, "does not log in row format"),
            (facts.gtid_strict, "does not enforce GTID order"),
        )
        for good, fault in wanted:
            if not good:
                return _refuse("settings", f"{name} {fault}")
        if facts.channels and facts.openness is Openness.OPEN:
            return _refuse("settings", f"{name} is a replica and accepts writes")
    return _go("settings", "binary log, row format and GTID order are as replication needs them on every member")


def guard_endpoint(case: Case) -> GuardVerdict:
    """Applications reach the master through the endpoint, so the probe measures what they see (E22)."""
    if not case.kills_master:
        return _go("endpoint", "the victim is not where applications write")
    if case.view.endpoint is None or case.view.endpoint_target is None:
        return _refuse("endpoint", "the endpoint does not say where it leads; start it again (of a lab: reaper lab up)")
    member = case.view.at(case.view.endpoint_target)
    if member is None or member.instance.id != case.victim:
        return _refuse("endpoint", f"{case.view.endpoint} leads to {case.view.endpoint_target}, not to the master")
    stale_for, budget = case.view.endpoint_stale_for, case.policy.outage_budget
    if stale_for > budget:
        return _refuse(
            "endpoint",
            f"clients go on to a former master for {in_words(stale_for)} (the record's TTL), longer than the outage "
            f"budget of {in_words(budget)}: shorten the TTL, or allow for it in the budget",
        )
    return _go("endpoint", f"{case.view.endpoint} leads to the master")


def guard_protection(case: Case) -> GuardVerdict:
    """Nothing at the provider keeps the victim from being killed: whoever set that meant it."""
    if case.protection is not None:
        return _refuse("protection", f"{case.protection}: take the protection off if it may die")
    return _go("protection", f"nothing at its provider protects {case.victim.short}")


def guard_mode(case: Case) -> GuardVerdict:
    """The kill mode fits who is killed and who promotes."""
    mode, policy = case.policy.mode, case.policy
    victim = case.view.member(case.victim)
    if victim and victim.instance.state is InstanceState.FROZEN:
        return _refuse("mode", f"{case.victim.short} is already frozen")
    if mode is KillMode.DRAIN and not case.kills_master:
        return _refuse("mode", "drain is for a master; kill a replica by crash, terminate or freeze")
    if mode in (KillMode.DRAIN, KillMode.FREEZE) and policy.failover is FailoverBy.OBSERVE:
        return _refuse("mode", f"{mode} is no rehearsal of a failover tool: reaper itself closes or fences the master")
    return _go("mode", f"{mode}, failover by {policy.failover}")


GUARDS: tuple[Guard, ...] = (
    guard_shape,
    guard_replicas,
    guard_lag,
    guard_semi_sync,
    guard_errant,
    guard_copies,
    guard_activity,
    guard_disk,
    guard_identity,
    guard_settings,
    guard_endpoint,
    guard_protection,
    guard_mode,
)


def judge(case: Case) -> tuple[GuardVerdict, ...]:
    """Ask every guard, so that a person sees all refusals at once."""
    return tuple(_waive(case, guard(case)) for guard in GUARDS)


def _waivers(case: Case, guard: Waivable) -> tuple[Waiver, ...]:
    """The waivers of a guard that hold at the moment at which the cluster was seen."""
    return tuple(w for w in case.policy.waivers if w.guard is guard and w.holds(case.view.taken_at))


def _waive(case: Case, verdict: GuardVerdict) -> GuardVerdict:
    """A refusal that a person has accepted: the guard as a whole, or the one finding that it names."""
    if verdict.ruling is Ruling.GO or verdict.guard not in (Waivable.ACTIVITY, Waivable.DISK):
        return verdict
    for waiver in _waivers(case, Waivable(verdict.guard)):
        if waiver.difference is None or (len(verdict.evidence) == 0 and waiver.difference in verdict.reason):
            return _go(verdict.guard, f"{waiver}", verdict.reason, *verdict.evidence)
    return verdict


def refusals(verdicts: tuple[GuardVerdict, ...]) -> tuple[GuardVerdict, ...]:
    """The verdicts that refuse."""
    return tuple(v for v in verdicts if v.ruling is Ruling.REFUSE)


def _survivors(case: Case) -> tuple[Member, ...]:
    return tuple(m for m in living(case.view) if m.instance.id != case.victim)
