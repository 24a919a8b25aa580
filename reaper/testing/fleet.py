"""An in-memory provider: clusters of simulated servers, a clock that moves them, faults on order.

fleet = MemoryFleet()
fleet.add_cluster("lab", nodes=3)            # n1 is the master, the endpoint leads to it
fleet.fail("snapshot", "n2", times=1)
Rotation(world(fleet), plan, Diary(fleet.faults, fleet.clock).follow()).execute()
assert fleet.most_writable == 1
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reaper.domain.errors import ReaperError, RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Address, Berth, Instance, InstanceId, InstanceState
from reaper.domain.snapshots import Keeping, Snapshot, SnapshotMethod
from reaper.testing.clients import Door, FakeProbe
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Fault, Faults, When
from reaper.testing.machine import Machine
from reaper.testing.parts import ITEMS, Verb
from reaper.testing.people import FakeChecker, FakeInterrupt, Lever, RecordingJournal
from reaper.testing.picture import Picture, picture_of
from reaper.testing.weapon import FakeTrigger
from reaper.workflow.ports import Trigger

PROVIDER = "memory"
HOST = "127.0.0.1"
_FIRST_PORT = 21001
_SLICE = timedelta(milliseconds=100)
_BOOT_SLICES = 10


@dataclass(frozen=True)
class _Stored:
    snapshot: Snapshot
    cluster: str
    copy: Machine
    moved: bool = False  # it has become a replacement's data; only its name is left


class MemoryFleet:
    """The workflow's `Fleet`, and what tests turn and look at."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.faults = Faults()
        self.journal = RecordingJournal(self.faults)
        self.interrupt = FakeInterrupt(self.faults)
        self.lever = Lever()
        self.checker = FakeChecker()
        self.snapshot_method = SnapshotMethod.HOT
        self.snapshot_takes = timedelta(seconds=2)
        self.deaths: list[Callable[[Machine], None]] = []  # called when a process has ended
        self.probes: list[FakeProbe] = []
        self.protected: dict[InstanceId, str] = {}  # by the provider, and how
        self.berths: list[Berth] = []  # that launches were told
        self.most_writable = 0  # in one cluster, ever (I2)
        self.fewest_copies: dict[str, int] = {}  # verified and running, ever (I1)
        self._clusters: dict[str, list[Machine]] = {}
        self._next_id: dict[str, int] = {}
        self._doors: dict[str, Door] = {}
        self._snapshots: dict[str, _Stored] = {}
        self._machines: dict[Address, Machine] = {}  # each address is given away once
        self._next_port = _FIRST_PORT

    # ---- for tests

    def add_cluster(self, name: str, nodes: int = 3) -> None:
        """A cluster of `nodes` servers, `n1` the master with semi-sync armed, an endpoint in front."""
        self._clusters[name], self._next_id[name] = [], 1
        self._doors[name] = Door(listen=Address(HOST, self._port()))
        master, *replicas = [self._new(name, made_by=None) for _ in range(nodes)]
        for replica in replicas:
            replica.follow(master.address)
        master.semi_sync.source_enabled = master.semi_sync.source_active = True
        master.open()
        self._doors[name].target = master.address
        master.commit(Verb.CREATE, ITEMS)
        master.commit(Verb.INSERT, ITEMS, ("first",))
        self.fewest_copies[name] = nodes

    def machine(self, who: str | InstanceId, cluster: str | None = None) -> Machine:
        """The simulated server with this short name or id; the cluster may be left out if there is one."""
        for name, machines in self._clusters.items():
            for m in machines:
                if m.id == who or (m.id.short == who and cluster in (None, name)):
                    return m
        raise UsageError(f"there is no instance {who}")

    def machines(self, cluster: str) -> tuple[Machine, ...]:
        """All of a cluster's servers, dead ones included."""
        return tuple(self._clusters[cluster])

    def door(self, cluster: str) -> Door:
        """The cluster's endpoint."""
        return self._doors[cluster]

    def fail(
        self,
        method: str,
        who: str = "*",
        times: int = 1,
        error: ReaperError | None = None,
        when: When = When.BEFORE,
    ) -> Fault:
        """Let the next `times` calls of a double's method fail, for an instance's short name or `*`."""
        return self.faults.fail(method, who, times, error, when)

    def kill(self, who: str | InstanceId) -> None:
        """A process ends by itself, now."""
        with self.clock.lock:
            self.machine(who).end("ended by itself")

    def errant(self, who: str | InstanceId) -> None:
        """A transaction that only this server has (E01)."""
        with self.clock.lock:
            self.machine(who).commit(Verb.INSERT, ITEMS, (f"errant on {who}",))

    def copies(self, cluster: str) -> int:
        """How many verified copies run now."""
        return sum(m.verified and m.runs for m in self._clusters[cluster])

    def writable(self, cluster: str) -> tuple[Machine, ...]:
        """Who accepts writes, or would when it wakes up."""
        return tuple(m for m in self._clusters[cluster] if m.writable)

    @property
    def snapshot_names(self) -> tuple[str, ...]:
        """The names of the snapshots that exist, or of which something is left."""
        return tuple(sorted(self._snapshots))

    def picture(self, cluster: str) -> Picture:
        """What the cluster looks like now."""
        return picture_of(self.machines(cluster), self.snapshot_names, self._doors[cluster].target)

    # ---- Fleet

    def clusters(self) -> tuple[str, ...]:
        """The names of the clusters, sorted."""
        return tuple(sorted(self._clusters))

    def members(self, cluster: str) -> tuple[Instance, ...]:
        """The instances of a cluster, quarantined ones included. UsageError: no such cluster."""
        with self.clock.lock, self.faults.around("members", cluster):
            if cluster not in self._clusters:
                raise UsageError(f"there is no cluster {cluster}")
            return tuple(_describe(m) for m in self._clusters[cluster])

    def copies_hot(self, cluster: str) -> bool:
        """True if a snapshot does not stop its source."""
        with self.clock.lock, self.faults.around("copies_hot", cluster):
            return self.snapshot_method is SnapshotMethod.HOT

    def snapshot(self, source: Instance, name: str, check: Callable[[], None]) -> Snapshot:
        """Copy a replica's data; a cold copy stops it and leaves it stopped."""
        with self.clock.lock, self.faults.around("snapshot", source.id.short):
            if name in self._snapshots:
                return self._snapshots[name].snapshot
            machine = self.known(source.id)
            if machine.state is not InstanceState.RUNNING:
                raise TryAgainError(f"{source.id} is {machine.state} and cannot be copied")
            if self.snapshot_method is SnapshotMethod.COLD:
                machine.end("stopped for the copy")
            began = self.clock.now()
            self._take(self.snapshot_takes // _SLICE, check)
            cluster = _cluster_of(source.id)
            taken = Snapshot(
                name=name,
                source=source.id,
                method=self.snapshot_method,
                position=None,
                size_bytes=machine.data_bytes or 0,
                note="",
                taken_at=began,
            )
            self._snapshots[name] = _Stored(taken, cluster, _copy(machine))
            return taken

    def snapshots(self, cluster: str) -> tuple[Snapshot, ...]:
        """The snapshots of a cluster that lie there, oldest first."""
        with self.clock.lock, self.faults.around("snapshots", cluster):
            lying = [s.snapshot for s in self._snapshots.values() if s.cluster == cluster and not s.moved]
            return tuple(sorted(lying, key=lambda s: (s.taken_at, s.name)))

    def launch(
        self, cluster: str, snapshot: Snapshot, name: str, keeping: Keeping, berth: Berth, check: Callable[[], None]
    ) -> Instance:
        """Boot a replacement: read-only, replication not started, a server id never used before."""
        self.berths.append(berth)
        with self.clock.lock, self.faults.around("launch", cluster):
            found = next((m for m in self._clusters[cluster] if m.made_by == name), None)
            if found is None:
                stored = self._snapshots.get(snapshot.name)
                if stored is None or stored.moved:
                    raise TryAgainError(f"there is no snapshot {snapshot.name} (any more): take another one")
                if keeping is Keeping.COPY:
                    _must_fit(stored)
                found = self._new(cluster, made_by=name)
                _restore(stored.copy, found)
                self._snapshots[snapshot.name] = replace(stored, moved=keeping is Keeping.MOVE)
            self._take(_BOOT_SLICES, check)
            if not found.runs:
                self._boot(found)
            return _describe(found)

    def restart(self, instance: Instance, check: Callable[[], None]) -> Instance:
        """Shut a server down cleanly and boot it again: read-only, replication not started."""
        with self.clock.lock, self.faults.around("restart", instance.id.short):
            machine = self.known(instance.id)
            if machine.state is InstanceState.FROZEN:
                raise TryAgainError(f"{instance.id} is {machine.state} and does not end when asked")
            if machine.state is InstanceState.RUNNING:
                machine.end("restarted")
            self._take(_BOOT_SLICES, check)
            self._boot(machine)
            return _describe(machine)

    def resume_source(self, source: Instance) -> None:
        """Boot the source of a cold snapshot again if it does not run."""
        with self.clock.lock, self.faults.around("resume_source", source.id.short):
            machine = self.known(source.id)
            if not machine.runs:
                self._boot(machine)

    def protection(self, instance: Instance) -> str | None:
        """What a test says that protects it."""
        with self.clock.lock, self.faults.around("protection", instance.id.short):
            return self.protected.get(instance.id)

    def aim(self, instance: Instance) -> Trigger:
        """Hold the process of a running instance."""
        with self.clock.lock, self.faults.around("aim", instance.id.short):
            machine = self.known(instance.id)
            if not machine.runs:
                raise RefusedError(f"{instance.id} is {machine.state}: there is nothing to kill")
            return FakeTrigger(machine, self.faults)

    def proof_of_death(self, instance: Instance) -> str | None:
        """What proves that an instance is dead; None: it may live."""
        with self.clock.lock, self.faults.around("proof_of_death", instance.id.short):
            machine = self.known(instance.id)
            return None if machine.runs else f"process of {machine.id}: {machine.death}"

    def quarantine(self, instance: Instance, until: datetime) -> None:
        """Mark a dead instance as never to be started again."""
        with self.clock.lock, self.faults.around("quarantine", instance.id.short):
            machine = self.known(instance.id)
            if machine.state not in (InstanceState.DEAD, InstanceState.QUARANTINED):
                raise RefusedError(f"{instance.id} is {machine.state}: only what is dead is quarantined")
            machine.state = InstanceState.QUARANTINED
            machine.quarantined_until = until

    def retire(self, instance: Instance) -> None:
        """End its process if it runs, delete it. Its name and server id are never used again."""
        with self.clock.lock, self.faults.around("retire", instance.id.short):
            for machines in self._clusters.values():
                for m in [m for m in machines if m.id == instance.id]:
                    m.end("retired")
                    machines.remove(m)

    def forget(self, cluster: str, snapshot: str) -> None:
        """Delete a snapshot by name, if it is there."""
        del cluster
        with self.clock.lock, self.faults.around("forget", snapshot):
            self._snapshots.pop(snapshot, None)

    # ---- Peers of a machine

    def at(self, address: Address) -> Machine | None:
        """The running server at an address."""
        found = self._machines.get(address)
        return found if found and found.runs else None

    def followers(self, machine: Machine) -> list[Machine]:
        """Who is connected to it."""
        return [m for m in self._clusters[_cluster_of(machine.id)] if m.runs and m.connected_to is machine]

    def ended(self, machine: Machine) -> None:
        """A process has ended: take the census, tell who listens."""
        cluster = _cluster_of(machine.id)
        self.fewest_copies[cluster] = min(self.fewest_copies.get(cluster, 0), self.copies(cluster))
        for listener in (*self.deaths, *(p.server_ended for p in self.probes)):
            listener(machine)

    def opened(self, machine: Machine) -> None:
        """A server accepts writes."""
        self.most_writable = max(self.most_writable, len(self.writable(_cluster_of(machine.id))))

    # ---- inside

    def _port(self) -> int:
        self._next_port += 1
        return self._next_port

    def _new(self, cluster: str, *, made_by: str | None) -> Machine:
        server_id = self._next_id[cluster]
        self._next_id[cluster] += 1
        machine = Machine(
            self.clock,
            self,
            id=InstanceId(PROVIDER, f"{cluster}/n{server_id}"),
            address=Address(HOST, self._port()),
            server_id=server_id,
            made_by=made_by,
        )
        self._clusters[cluster].append(machine)
        self._machines[machine.address] = machine
        return machine

    def known(self, instance: InstanceId) -> Machine:
        """The server with this id. TryAgainError: it is gone."""
        for m in self._clusters.get(_cluster_of(instance), ()):
            if m.id == instance:
                return m
        raise TryAgainError(f"there is no instance {instance} (any more)")

    def _boot(self, machine: Machine) -> None:
        if machine.state is InstanceState.QUARANTINED:
            raise TryAgainError(f"{machine.id} is quarantined and never started again")
        machine.boot()

    def _take(self, slices: int, check: Callable[[], None]) -> None:
        for _ in range(slices):
            check()
            self.clock.sleep(_SLICE)


def _cluster_of(instance: InstanceId) -> str:
    return instance.name.partition("/")[0]


def _must_fit(stored: _Stored) -> None:
    free = stored.copy.free_bytes
    if free is not None and free < stored.snapshot.size_bytes:
        raise RefusedError(
            f"a copy of the snapshot {stored.snapshot.name} does not fit: it needs {stored.snapshot.size_bytes} bytes,"
            f" {free} are free. Free some, then repeat"
        )


def _describe(m: Machine) -> Instance:
    return Instance(
        id=m.id,
        address=m.address,
        server_id=m.server_id,
        created=m.created,
        state=m.state,
        made_by=m.made_by,
        quarantined_until=m.quarantined_until,
        data_bytes=m.data_bytes,
        free_bytes=m.free_bytes,
    )


def _copy(machine: Machine) -> Machine:
    """The machine's data as a copy holds them: what was applied, not what lies in the relay log."""
    copy = Machine(
        machine.clock,
        machine.peers,
        id=machine.id,
        address=machine.address,
        server_id=machine.server_id,
        made_by=None,
    )
    _restore(machine, copy)
    return copy


def _restore(copy: Machine, into: Machine) -> None:
    into.log = list(copy.log)
    into.marks = dict(copy.marks)
    into.tables = {name: rows.copy() for name, rows in copy.tables.items()}
    into.data_bytes, into.free_bytes = copy.data_bytes, copy.free_bytes
