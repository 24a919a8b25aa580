"""The local provider as the workflow's Fleet."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reaper.adapters.local import process
from reaper.adapters.local.copies import (
    brief,
    bytes_used,
    complete_copies,
    copy_tree,
    delete_copy,
    note_of,
    read_note,
    remove_tree,
    write_note,
)
from reaper.adapters.local.locks import locked
from reaper.adapters.local.registry import InstanceRecord, LabRecord, Registry
from reaper.adapters.local.servers import PROVIDER, Connect, boot, describe, restart, running
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Berth, Instance, InstanceId
from reaper.domain.snapshots import Keeping, Snapshot, SnapshotMethod
from reaper.workflow.engine import Engine, Seat
from reaper.workflow.ports import Trigger

_STOP_POLITELY = timedelta(minutes=2)
_KILL_WITHIN = timedelta(seconds=30)


class LocalFleet:
    """Every lab below one directory."""

    def __init__(self, labs: Path, engine: Callable[[LabRecord], Engine], connect: Connect) -> None:
        self._labs = labs
        self._engine = engine
        self._connect = connect

    def registry(self, cluster: str) -> Registry:
        """The book of one lab."""
        return Registry(self._labs, cluster)

    def clusters(self) -> tuple[str, ...]:
        """The names of the labs, sorted."""
        if not self._labs.is_dir():
            return ()
        return tuple(sorted(p.parent.name for p in self._labs.glob("*/lab.json")))

    def members(self, cluster: str) -> tuple[Instance, ...]:
        """The instances of a lab, quarantined ones included."""
        registry = self.registry(cluster)
        return tuple(describe(registry, cluster, i) for i in registry.read().instances)

    def copies_hot(self, cluster: str) -> bool:
        """True if a snapshot does not stop its source."""
        return self._engine(self.registry(cluster).read()).can_copy_hot()

    def snapshot(self, source: Instance, name: str, check: Callable[[], None]) -> Snapshot:
        """Copy a replica's data directory: hot if the engine can, otherwise with the server stopped."""
        cluster, instance = _parts(source.id)
        registry = self.registry(cluster)
        into = registry.snapshot(name)
        if note_of(into).exists():
            return read_note(into, PROVIDER)
        began, lab = datetime.now(UTC), registry.read()
        engine, record = self._engine(lab), _known(lab, instance)
        into.parent.mkdir(exist_ok=True)
        process.end_users_of(into, _KILL_WITHIN)
        shutil.rmtree(into, ignore_errors=True)
        if engine.can_copy_hot():
            copy = engine.hot_copy(registry.seat(record), lab.logins.admin, into, check)
            method, position, note = SnapshotMethod.HOT, copy.position, copy.note
        else:
            self._copy_cold(registry, record, into)
            method, position = SnapshotMethod.COLD, None
            note = f"{record.name} was stopped for the copy, since no tool for a hot one is installed"
        snapshot = Snapshot(
            name=name,
            source=source.id,
            method=method,
            position=position,
            size_bytes=bytes_used(into) or 0,
            note=note,
            taken_at=began,
        )
        write_note(into, snapshot)
        return snapshot

    def snapshots(self, cluster: str) -> tuple[Snapshot, ...]:
        """The complete snapshots that lie in a lab, oldest first."""
        return complete_copies(self.registry(cluster).snapshots, PROVIDER)

    def _copy_cold(self, registry: Registry, record: InstanceRecord, into: Path) -> None:
        process.end(record.process, record.name, polite_for=_STOP_POLITELY, within=_KILL_WITHIN)
        try:
            shutil.copytree(registry.seat(record).data, into, ignore=_sockets)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(into, ignore_errors=True)
            raise TryAgainError(f"cannot copy the data of {record.name} to {into}: {brief(error)}") from error

    def resume_source(self, source: Instance) -> None:
        """Boot the source of a cold snapshot again if it does not run."""
        cluster, instance = _parts(source.id)
        registry = self.registry(cluster)
        boot(registry, self._engine(registry.read()), instance, self._connect, _never)

    def launch(
        self, cluster: str, snapshot: Snapshot, name: str, keeping: Keeping, berth: Berth, check: Callable[[], None]
    ) -> Instance:
        """Boot a replacement on the snapshot's own directory, or on a copy of it, with the lab's own program."""
        del berth  # a lab has one place and one program
        registry = self.registry(cluster)
        lab = registry.read()
        engine, record = self._engine(lab), _launched_as(lab, name)
        if record is None:
            with ports_locked(self._labs) as taken, registry.change() as lab:
                record = _launched_as(lab, name) or allocate(lab, taken, self._labs, token=name)
        seat = registry.seat(record)
        if not seat.data.exists():
            seat.home.mkdir(parents=True, exist_ok=True)
            _furnish(seat, registry.snapshot(snapshot.name), keeping, engine, check)
        boot(registry, engine, record.name, self._connect, check)
        return describe(registry, cluster, _known(registry.read(), record.name))

    def restart(self, instance: Instance, check: Callable[[], None]) -> Instance:
        """Shut a server down cleanly and boot it with its own my.cnf."""
        cluster, name = _parts(instance.id)
        registry = self.registry(cluster)
        restart(registry, self._engine(registry.read()), name, self._connect, check)
        return describe(registry, cluster, _known(registry.read(), name))

    def protection(self, instance: Instance) -> str | None:
        """Nothing protects a process of ours."""
        del instance
        return None

    def aim(self, instance: Instance) -> Trigger:
        """Hold the process of a running instance."""
        cluster, name = _parts(instance.id)
        record = _known(self.registry(cluster).read(), name)
        if record.process is None:
            raise RefusedError(f"{instance.id} has never been started")
        return process.Weapon(record.process, str(instance.id))

    def proof_of_death(self, instance: Instance) -> str | None:
        """The process that was started has ended, or another one has its pid."""
        cluster, name = _parts(instance.id)
        record = _known(self.registry(cluster).read(), name).process
        if record is None or process.state_of(record) is not None:
            return None
        return f"process {record.pid} (started at tick {record.started_ticks}) is gone"

    def quarantine(self, instance: Instance, until: datetime) -> None:
        """Mark a dead instance as never to be started again."""
        cluster, name = _parts(instance.id)
        with self.registry(cluster).change() as lab:
            record = _known(lab, name)
            if process.state_of(record.process) is not None:
                raise RefusedError(f"{instance.id} is alive: only what is dead is quarantined")
            record.quarantined_until = until

    def retire(self, instance: Instance) -> None:
        """End its process if it runs, delete its files and its record."""
        cluster, name = _parts(instance.id)
        registry = self.registry(cluster)
        record = registry.read().instance(name)
        if record is None:
            return
        seat = registry.seat(record)
        process.end(running(seat, record), str(instance.id), polite_for=timedelta(0), within=_KILL_WITHIN)
        remove_tree(seat.home)
        with registry.change() as lab:
            lab.instances = [i for i in lab.instances if i.name != name]

    def forget(self, cluster: str, snapshot: str) -> None:
        """Delete a snapshot by name."""
        delete_copy(self.registry(cluster).snapshot(snapshot))


def _furnish(seat: Seat, copy: Path, keeping: Keeping, engine: Engine, check: Callable[[], None]) -> None:
    """Make a snapshot the data of a seat: nobody sees them before they are complete and stripped."""
    ready = copy
    if keeping is Keeping.COPY:
        ready = seat.data.with_suffix(".copy")
        copy_tree(copy, ready, check)
    try:
        engine.strip(ready)
        ready.replace(seat.data)
    except OSError as error:
        raise TryAgainError(f"the snapshot {copy.name} cannot be moved to {seat.data}: {error}") from error


@contextmanager
def ports_locked(labs: Path) -> Iterator[set[int]]:
    """The ports that are given away already; nobody gives one away meanwhile."""
    path = labs.parent / "locks" / "ports.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, "the giving away of ports"):
        yield _ports_taken(labs)


def _ports_taken(labs: Path) -> set[int]:
    """Every port that a lab below this directory has in its book, whether in use now or not."""
    taken: set[int] = set()
    for book in labs.glob("*/lab.json"):
        try:
            lab = Registry(labs, book.parent.name).read()
        except UsageError:
            continue  # a broken book is reported by whoever works on that lab
        taken |= {lab.endpoint_port, *(i.port for i in lab.instances)}
    return taken


def allocate(lab: LabRecord, taken: set[int], labs: Path, *, token: str | None) -> InstanceRecord:
    """A new instance's record, with a server id and a port that nobody has."""
    server_id = lab.next_server_id
    lab.next_server_id += 1
    taken = taken | {i.port for i in lab.instances} | {lab.endpoint_port}
    record = InstanceRecord(
        name=f"n{server_id}",
        port=process.free_port(taken, near=labs),
        server_id=server_id,
        created=datetime.now(UTC),
        token=token,
    )
    lab.instances.append(record)
    return record


def _parts(instance: InstanceId) -> tuple[str, str]:
    cluster, _, name = instance.name.partition("/")
    if instance.provider != PROVIDER or not name:
        raise UsageError(f"{instance} is no local instance (expected {PROVIDER}:CLUSTER/NAME)")
    return cluster, name


def _known(lab: LabRecord, name: str) -> InstanceRecord:
    record = lab.instance(name)
    if record is None:
        raise TryAgainError(f"{lab.name} has no instance {name} (any more)")
    return record


def _launched_as(lab: LabRecord, token: str) -> InstanceRecord | None:
    return next((i for i in lab.instances if i.token == token), None)


def _sockets(directory: str, names: list[str]) -> list[str]:
    return [n for n in names if (Path(directory) / n).is_socket()]


def _never() -> None:
    return
