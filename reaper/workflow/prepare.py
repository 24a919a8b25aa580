"""Build a replacement: snapshot, launch, join, warm, verify. Every effect pushes its undo first.

Each is a recorded step that may be begun twice: a copy, an instance and a replica that joined are found again.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import NoneType

from reaper.domain.errors import TryAgainError
from reaper.domain.facts import Flavour, Instance, InstanceId, Openness, ThreadState
from reaper.domain.gtid import GtidSet, MariadbGtidSet, MysqlGtidSet
from reaper.domain.plan import Plan, StepName
from reaper.domain.snapshots import Keeping, Snapshot, SnapshotMethod
from reaper.workflow.ports import Server, World
from reaper.workflow.run import Timeline, persist
from reaper.workflow.steps import Steps

_LOOK_EVERY = timedelta(milliseconds=50)


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
class Copied:
    """What the copied server was before it was copied."""

    flavour: Flavour
    executed: str
    tables: frozenset[str]

    @property
    def history(self) -> GtidSet:
        """What it had executed."""
        kind = MariadbGtidSet if self.flavour is Flavour.MARIADB else MysqlGtidSet
        return kind.parse(self.executed)


def build_replacement(
    world: World, plan: Plan, copied: InstanceId | None, master: Instance, timeline: Timeline, undo: Undo, steps: Steps
) -> Instance:
    """A replacement that replicates from `master`, warm and verified. Raises before it is in doubt."""
    return _Build(world, plan, master, timeline, steps).build(copied, undo)


class _Build:
    def __init__(self, world: World, plan: Plan, master: Instance, timeline: Timeline, steps: Steps) -> None:
        self._world = world
        self._plan = plan
        self._master = master
        self._timeline = timeline
        self._steps = steps
        self._names = Names(plan.run)
        self._check = _within_the_time_to_build(world, plan)

    def build(self, copied: InstanceId | None, undo: Undo) -> Instance:
        world, plan, steps, names = self._world, self._plan, self._steps, self._names
        source = steps.run("find the source", Instance, lambda: self._source(copied))
        before = steps.run("look at the source", Copied, lambda: self._look(source))
        undo.push("forget the snapshot", lambda: world.fleet.forget(names.snapshot))
        undo.push(f"resume replication on {source.id.short}", lambda: _resume(world, plan, source))
        snapshot = steps.run("snapshot", Snapshot, lambda: self._snapshot(source))
        undo.push("retire the replacement", lambda: retire_by_token(world, plan, names.heir))
        heir = steps.run("launch", Instance, lambda: self._launch(snapshot))
        steps.run("join", NoneType, lambda: self._join(heir, snapshot, before.history))
        steps.run("warm", NoneType, lambda: self._warm(heir))
        steps.run("verify", NoneType, lambda: self._verify(heir, before.tables))
        return heir

    def _source(self, copied: InstanceId | None) -> Instance:
        members = {m.id: m for m in self._world.fleet.members(self._plan.cluster)}
        if copied is None or copied not in members:
            raise TryAgainError(f"{self._plan.cluster} has no healthy replica to copy: repair one, then plan again")
        return members[copied]

    def _look(self, source: Instance) -> Copied:
        with contextlib.closing(self._world.connect(self._plan.cluster, source)) as server:
            facts = server.facts()
            server.dump_pages()
            return Copied(flavour=facts.flavour, executed=str(facts.executed), tables=server.tables())

    def _snapshot(self, source: Instance) -> Snapshot:
        self._check()
        with self._timeline.step(StepName.SNAPSHOT, f"of {source.id.short}") as outcome:
            snapshot = self._world.fleet.snapshot(source, self._names.snapshot, self._check)
            if snapshot.method is SnapshotMethod.COLD:
                _resume(self._world, self._plan, source)
            outcome.detail = f"{snapshot.size_bytes / 2**20:.0f} MiB of {source.id.short}, {snapshot.method}" + (
                f" ({snapshot.note})" if snapshot.note else ""
            )
        return snapshot

    def _launch(self, snapshot: Snapshot) -> Instance:
        self._check()
        with self._timeline.step(StepName.LAUNCH, "a replacement on the snapshot") as outcome:
            heir = self._world.fleet.launch(self._plan.cluster, snapshot, self._names.heir, Keeping.MOVE, self._check)
            outcome.detail = f"{heir.id.short} at {heir.address}, server id {heir.server_id}, read-only"
        return heir

    def _join(self, heir: Instance, snapshot: Snapshot, history: GtidSet) -> None:
        world, master, name = self._world, self._master, heir.id.short
        self._check()
        with (
            self._timeline.step(StepName.JOIN, f"{name} follows {master.id.short}") as outcome,
            contextlib.closing(world.connect(self._plan.cluster, heir)) as server,
        ):
            # A copy boots with replication stopped: one whose receiver runs was joined by a process that has died.
            if all(c.receiver is ThreadState.STOPPED for c in server.facts().channels):
                server.join(master.address, position=snapshot.position, history=history)
            took = _catch_up(world, self._plan, master, server)
            outcome.detail = f"{name} follows {master.id.short}, caught up after {took.total_seconds():.2f} s"

    def _warm(self, heir: Instance) -> None:
        self._check()
        with (
            self._timeline.step(StepName.WARM, f"{heir.id.short} loads its page list"),
            contextlib.closing(self._world.connect(self._plan.cluster, heir)) as server,
        ):
            fault = f"{heir.id.short} did not load its page list"
            _until(self._world, server.pages_loaded, self._plan.policy.join_within, fault)

    def _verify(self, heir: Instance, wanted: frozenset[str]) -> None:
        self._check()
        with (
            self._timeline.step(StepName.VERIFY, heir.id.short) as outcome,
            contextlib.closing(self._world.connect(self._plan.cluster, heir)) as server,
        ):
            outcome.detail = _verify(self._world, self._plan, heir, self._master, server, wanted)


def _within_the_time_to_build(world: World, plan: Plan) -> Callable[[], None]:
    """What the provider calls while it copies and boots: a person's wish to stop, and the policy's limit."""
    began = world.clock.monotonic_ns()

    def check() -> None:
        world.interrupt.check()
        if _elapsed(world, began) > plan.policy.build_within:
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
        if _elapsed(world, began) > plan.policy.join_within:
            raise TryAgainError(
                f"{server.instance.short} did not catch up within {plan.policy.join_within}: the replacement was "
                "removed. Rotate when the write load is lower, or allow more time."
            )
    return _elapsed(world, began)


def _verify(world: World, plan: Plan, heir: Instance, master: Instance, server: Server, wanted: frozenset[str]) -> str:
    """The replacement counts as a copy only after this: data, not positions, are looked at (E16, E29)."""
    with contextlib.closing(world.connect(plan.cluster, master)) as source:
        source.write_marker(plan.run)
        target = source.executed()
        wanted &= source.tables()  # what was dropped meanwhile is not missing
    if not server.wait_applied(target, plan.policy.max_lag) or not server.marker_visible(plan.run):
        raise TryAgainError(f"a row written on {master.id.short} does not appear on {heir.id.short}")
    missing = wanted - server.tables()
    if missing:
        raise TryAgainError(f"{heir.id.short} lacks tables of the source: {', '.join(sorted(missing)[:5])}")
    facts = server.facts()
    if facts.server_id != heir.server_id:
        raise TryAgainError(f"{heir.id.short} runs with server id {facts.server_id}, not {heir.server_id} (E14)")
    if facts.openness is Openness.OPEN:
        raise TryAgainError(f"{heir.id.short} accepts writes before it is master (E08)")
    channel = facts.channels[0]
    if channel.receiver is not ThreadState.RUNNING or channel.applier is not ThreadState.RUNNING:
        raise TryAgainError(f"{heir.id.short} stopped replicating: {channel.receiver_error or channel.applier_error}")
    return f"{heir.id.short}: marker row, {len(wanted)} tables, read-only, server id {facts.server_id}, replicating"


def _until(world: World, ready: Callable[[], bool], within: timedelta, fault: str) -> None:
    began = world.clock.monotonic_ns()
    while not ready():
        world.interrupt.check()
        if _elapsed(world, began) > within:
            raise TryAgainError(f"{fault} within {within}")
        world.clock.sleep(_LOOK_EVERY)


def _elapsed(world: World, began_ns: int) -> timedelta:
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
