"""Build a replacement: snapshot, launch, join. Every effect pushes its undo first. What proves it is in proving.py.

Each is a recorded step that may be begun twice: a copy, an instance and a replica that joined are found again.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import NoneType

from reaper.domain.binlogs import can_feed
from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import Flavour, Instance, InstanceId, ThreadState
from reaper.domain.plan import Plan, Replacement, StepName
from reaper.domain.snapshots import Keeping, SnapshotMethod, SnapshotRecord
from reaper.planner.identity import Identity, clashes
from reaper.planner.retention import Binlogs, Reuse, reusable
from reaper.workflow.backups import delete_surplus
from reaper.workflow.run import Timeline, persist
from reaper.workflow.server import Server
from reaper.workflow.steps import Steps
from reaper.workflow.world import World


@dataclass(frozen=True)
class Names:
    """Every name a run creates, derived from the run (so that a repeated call finds its own work)."""

    run: str

    @property
    def snapshot(self) -> str:
        """The snapshot."""
        return f"{self.run}-snap"

    @property
    def heir(self) -> str:
        """The token under which the replacement is launched."""
        return f"{self.run}-heir"

    @property
    def probe_table(self) -> str:
        """The probe's table; run names hold only what an identifier may, plus dashes."""
        return "probe_" + self.run.replace("-", "_").lower()

    @property
    def second_probe_table(self) -> str:
        """That of the probe which a resumed run starts; the first one's rows are evidence."""
        return self.probe_table + "_2"


class Undo:
    """What has to be undone if the run fails before the kill, newest first. Each entry may run twice."""

    def __init__(self, world: World, plan: Plan, steps: Steps) -> None:
        self._world = world
        self._within = plan.policy.undo_within
        self._steps = steps
        self._entries: list[tuple[str, Callable[[], None]]] = []

    def push(self, what: str, action: Callable[[], None]) -> None:
        """Register an undo before the effect that it undoes."""
        self._entries.append((what, action))

    def run(self) -> tuple[str, ...]:
        """Undo everything, go on past failures; returns what could not be undone, in words."""
        failed = []
        while self._entries:
            what, action = self._entries.pop()
            undone = partial(persist, self._world, self._within, what, action)
            failed.append(self._steps.run(f"undo: {what}", str, undone))
        return tuple(words for words in failed if words)


@dataclass(frozen=True, kw_only=True)
class Hands:
    """What building and proving a replacement need of their run."""

    world: World
    plan: Plan
    timeline: Timeline
    steps: Steps
    undo: Undo


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What the copied server was before it was copied."""

    flavour: Flavour
    executed: str
    tables: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """When a server deletes its binary logs by itself."""

    instance: InstanceId
    former: str  # as its dialect wrote it


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The snapshot that a replacement is launched from."""

    record: SnapshotRecord
    reused: str  # why an earlier one serves; "": this run took it


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A replacement that replicates, with its past. What it holds is still to be proved."""

    heir: Instance
    source: Instance  # the server that it is compared with
    tables: frozenset[str]  # that the source had
    basis: Basis
    took: timedelta  # from the launch to a server that answers
    age: timedelta  # of the snapshot, at the launch


def build_replacement(hands: Hands, copied: InstanceId | None, master: Instance) -> Launched:
    """A replacement that replicates from `master`. Raises before it is in doubt."""
    return _Build(hands, master).build(copied)


class _Build:
    def __init__(self, hands: Hands, master: Instance) -> None:
        self._world = hands.world
        self._plan = hands.plan
        self._timeline = hands.timeline
        self._steps = hands.steps
        self._undo = hands.undo
        self._master = master
        self._names = Names(hands.plan.run)
        self._check = within_the_time_to_build(hands.world, hands.plan)

    def build(self, copied: InstanceId | None) -> Launched:
        world, plan, steps, undo = self._world, self._plan, self._steps, self._undo
        source = steps.run("find the source", Instance, lambda: self._source(copied))
        before = steps.run("look at the source", Copied, lambda: self._look(source))
        keepers = {i.id: i for i in (source, self._master)}
        expiry = steps.run(
            "read when binary logs expire",
            tuple[Expiry, ...],
            lambda: tuple(found for i in keepers.values() if (found := self._expiry(i))),
        )

        def release() -> None:
            for kept in expiry:
                with self._connect(keepers[kept.instance]) as server:
                    server.release_binlogs(kept.former)

        undo.push("let binary logs expire again", release)
        steps.run("hold the binary logs", NoneType, lambda: self._hold(expiry, keepers))
        basis = self._basis(source, before)
        undo.push("retire the replacement", lambda: retire_by_token(world, plan, self._names.heir))
        launched = steps.run("launch", Launched, lambda: self._launch(basis, source, before.tables))
        steps.run("join", NoneType, lambda: self._join(launched))
        left = steps.run(
            "let binary logs expire again",
            str,
            lambda: persist(world, plan.policy.undo_within, "let binary logs expire again", release),
        )
        if left:
            raise TryAgainError(left)
        return launched

    def _source(self, copied: InstanceId | None) -> Instance:
        members = {m.id: m for m in self._world.fleet.members(self._plan.cluster)}
        if copied is None or copied not in members:
            raise TryAgainError(f"{self._plan.cluster} has no healthy replica to copy: repair one, then plan again")
        return members[copied]

    def _connect(self, instance: Instance) -> contextlib.closing[Server]:
        return contextlib.closing(self._world.connect(self._plan.cluster, instance))

    def _look(self, source: Instance) -> Copied:
        with self._connect(source) as server:
            facts = server.facts()
            server.dump_pages()
            server.flush_logs()
            return Copied(flavour=facts.flavour, executed=str(facts.executed), tables=server.tables())

    # ---- binary logs are kept until the replacement has caught up (E15)

    def _expiry(self, instance: Instance) -> Expiry | None:
        """None: they are held already, by a run that died without a record, and stay so.

        That refuses, unless the victim is dead: then the cluster's size is restored all the same.
        """
        with self._connect(instance) as server:
            try:
                return Expiry(instance=instance.id, former=server.binlog_expiry())
            except RefusedError as error:
                if self._plan.replacement is not Replacement.AFTER:
                    raise
                self._timeline.note(StepName.SNAPSHOT, f"{instance.id.short}: {error}")
                return None

    def _hold(self, expiry: tuple[Expiry, ...], keepers: dict[InstanceId, Instance]) -> None:
        for kept in expiry:
            with self._connect(keepers[kept.instance]) as server:
                server.hold_binlogs(kept.former)

    # ---- the snapshot

    def _basis(self, source: Instance, before: Copied) -> Basis:
        world, plan, steps, name = self._world, self._plan, self._steps, self._names.snapshot
        found = steps.run("choose a snapshot", tuple[Basis, ...], self._earlier)
        if found:
            return found[0]
        self._undo.push("forget the snapshot", lambda: forget_snapshot(world, plan.cluster, name))
        self._undo.push(f"resume replication on {source.id.short}", lambda: _resume(world, plan, source))
        return steps.run("snapshot", Basis, lambda: self._snapshot(source, before))

    def _earlier(self) -> tuple[Basis, ...]:
        """An earlier snapshot that serves once more; nothing: there is none."""
        world, plan = self._world, self._plan
        if plan.policy.snapshot_reuse_within is None:
            return ()
        there = {snapshot.name for snapshot in world.fleet.snapshots(plan.cluster)}
        records = [record for record in world.book.kept(plan.cluster) if record.name in there]
        with self._connect(self._master) as server:
            needed = Binlogs(executed=server.executed(), purged=server.purged())
        choice = reusable(records, now=world.clock.now(), within=plan.policy.snapshot_reuse_within, needed=needed)
        if isinstance(choice, Reuse):
            world.book.used(choice.record.name, plan.run, world.clock.now())
            self._timeline.note(StepName.SNAPSHOT, f"none is taken: {choice.why}")
            return (Basis(record=choice.record, reused=choice.why),)
        self._timeline.note(StepName.SNAPSHOT, f"a new one is taken: {'; '.join(choice.why)}")
        return ()

    def _snapshot(self, source: Instance, before: Copied) -> Basis:
        world, plan = self._world, self._plan
        self._check()
        began = world.clock.monotonic_ns()
        with self._timeline.step(StepName.SNAPSHOT, f"of {source.id.short}") as outcome:
            snapshot = world.fleet.snapshot(source, self._names.snapshot, self._check)
            if snapshot.method is SnapshotMethod.COLD:
                _resume(world, plan, source)
            outcome.detail = f"{snapshot.size_bytes / 2**20:.0f} MiB of {source.id.short}, {snapshot.method}" + (
                f" ({snapshot.note})" if snapshot.note else ""
            )
        record = SnapshotRecord(
            cluster=plan.cluster,
            snapshot=snapshot,
            taken_by=plan.run,
            took=elapsed(world, began),
            flavour=before.flavour,
            executed=before.executed,
        )
        world.book.taken(record)
        world.book.used(record.name, plan.run, world.clock.now())
        return Basis(record=record, reused="")

    # ---- launch and join

    def _launch(self, basis: Basis, source: Instance, tables: frozenset[str]) -> Launched:
        world, plan, record = self._world, self._plan, basis.record
        self._check()
        began, now = world.clock.monotonic_ns(), world.clock.now()
        keeping = Keeping.COPY if basis.reused or plan.policy.snapshot_keep else Keeping.MOVE
        with self._timeline.step(StepName.LAUNCH, "a replacement on the snapshot") as outcome:
            heir = world.fleet.launch(plan.cluster, record.snapshot, self._names.heir, keeping, plan.berth, self._check)
            outcome.detail = f"{heir.id.short} at {heir.address}, server id {heir.server_id}, read-only"
        took = elapsed(world, began)
        world.book.restored(record.name, plan.run, took)
        if keeping is Keeping.MOVE:
            world.book.deleted(record.name, now)
        age = now - record.snapshot.taken_at
        return Launched(heir=heir, source=source, tables=tables, basis=basis, took=took, age=age)

    def _join(self, launched: Launched) -> None:
        world, plan, master, heir = self._world, self._plan, self._master, launched.heir
        name, record = heir.id.short, launched.basis.record
        self._check()
        with (
            self._timeline.step(StepName.JOIN, f"{name} follows {master.id.short}") as outcome,
            self._connect(heir) as server,
        ):
            # A copy boots with replication stopped: one whose receiver runs was joined by a process that has died.
            if all(c.receiver is ThreadState.STOPPED for c in server.facts().channels):
                self._must_be_new(heir, server)
                self._must_be_fed(record)
                server.join(master.address, position=record.snapshot.position, history=record.held)
            took = _catch_up(world, plan, master, server)
            outcome.detail = f"{name} follows {master.id.short}, caught up after {took.total_seconds():.2f} s"

    def _must_be_new(self, heir: Instance, server: Server) -> None:
        """RefusedError: somebody has, or had, its identity (E14, E29)."""
        world, plan = self._world, self._plan
        with self._connect(self._master) as source:
            history = source.executed()
        facts = server.facts()
        mine = Identity(instance=heir.id, server_id=facts.server_id, server_uuid=facts.server_uuid)
        others = tuple(
            Identity(instance=m.id, server_id=m.server_id, server_uuid=None) for m in world.fleet.members(plan.cluster)
        )
        if words := clashes(mine, others, history):
            raise RefusedError(words)

    def _must_be_fed(self, record: SnapshotRecord) -> None:
        """RefusedError: the master's binary logs do not go on where the snapshot stands (E15)."""
        with self._connect(self._master) as source:
            purged = source.purged()
        starved = "which transactions are still there is unknown" if purged is None else None
        if record.held is None:
            starved = "the snapshot's position cannot be read"
        elif purged is not None:
            starved = can_feed(record.held, purged)
        if starved is not None:
            raise RefusedError(f"{record.name} cannot follow {self._master.id.short}: {starved}")


def forget_snapshot(world: World, cluster: str, name: str) -> None:
    """Delete a snapshot, if it is there."""
    world.fleet.forget(cluster, name)
    world.book.deleted(name, world.clock.now())


def forget_snapshots(world: World, plan: Plan) -> None:
    """Delete the snapshots that nobody needs any more: the run's own, or those beyond what the policy keeps."""
    if plan.policy.snapshot_keep:
        others = world.open_runs() - {plan.run}
        keep, now = plan.policy.snapshot_keep, world.clock.now()
        delete_surplus(world.fleet, world.book, plan.cluster, keep=keep, open_runs=others, now=now)
    else:
        forget_snapshot(world, plan.cluster, Names(plan.run).snapshot)


def within_the_time_to_build(world: World, plan: Plan) -> Callable[[], None]:
    """What the provider calls while it copies and boots: a person's wish to stop, and the policy's limit."""
    began = world.clock.monotonic_ns()

    def check() -> None:
        world.interrupt.check()
        if elapsed(world, began) > plan.policy.build_within:
            raise TryAgainError(
                f"the replacement was not built within {plan.policy.build_within}: what was built has been removed. "
                "See what the copy waits for (a lock, a slow disk), or allow more time."
            )

    return check


def _resume(world: World, plan: Plan, source: Instance) -> None:
    """Boot the source of a cold snapshot if it does not run, and let it replicate again."""
    world.fleet.resume_source(source)
    with contextlib.closing(world.connect(plan.cluster, source)) as server:
        server.resume_replication()


def retire_by_token(world: World, plan: Plan, token: str) -> None:
    """Delete what was launched under a token."""
    for member in world.fleet.members(plan.cluster):
        if member.made_by == token:
            world.fleet.retire(member)


def _catch_up(world: World, plan: Plan, master: Instance, server: Server) -> timedelta:
    began = world.clock.monotonic_ns()
    slice_of = timedelta(seconds=1)
    with contextlib.closing(world.connect(plan.cluster, master)) as source:
        target = source.executed()
    while not server.wait_applied(target, slice_of):
        world.interrupt.check()
        for channel in server.facts().channels:
            if channel.receiver_error or channel.applier_error:
                raise TryAgainError(
                    f"{server.instance.short} cannot join: {channel.receiver_error or channel.applier_error}. "
                    "The replacement was removed."
                )
        if elapsed(world, began) > plan.policy.join_within:
            raise TryAgainError(
                f"{server.instance.short} did not catch up within {plan.policy.join_within}: the replacement was "
                "removed. Rotate when the write load is lower, or allow more time."
            )
    return elapsed(world, began)


def elapsed(world: World, began_ns: int) -> timedelta:
    """Since a moment on the monotonic clock."""
    return timedelta(microseconds=(world.clock.monotonic_ns() - began_ns) / 1000)


def instance_of(world: World, cluster: str, instance: InstanceId) -> Instance:
    """The provider's present record of an instance. TryAgainError: it is gone."""
    for member in world.fleet.members(cluster):
        if member.id == instance:
            return member
    raise TryAgainError(f"{instance} is no longer a member of {cluster}")


def victim_of(world: World, plan: Plan) -> Instance | None:
    """The provider's present record of the victim; None: it was deleted, by whoever this run is gone on from."""
    return next((m for m in world.fleet.members(plan.cluster) if m.id == plan.victim), None)
