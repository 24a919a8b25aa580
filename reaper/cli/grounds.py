"""Providers side by side: which one a cluster, an instance or a snapshot belongs to."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from reaper.adapters.mysql.canaries import SqlCanaries
from reaper.adapters.mysql.compare import SqlComparer
from reaper.adapters.mysql.connection import READ_TIMEOUT_S, Connection
from reaper.adapters.mysql.pages import SqlPool
from reaper.adapters.mysql.server import SqlServer
from reaper.adapters.tls import ServerTls
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address, Berth, Instance, InstanceId
from reaper.domain.gtid import GtidSet
from reaper.domain.snapshots import Keeping, Snapshot
from reaper.domain.tail import Tail
from reaper.workflow.engine import Login
from reaper.workflow.pools import PageFiles, Side
from reaper.workflow.ports import Endpoint, Fleet, Trigger


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """How an application gets to its master: what the probe and a load are given."""

    address: Address
    login: Login
    tls: ServerTls | None


class Ground(Protocol):
    """One provider, with everything that reaper does there."""

    @property
    def fleet(self) -> Fleet:
        """Instances."""

    def has(self, cluster: str) -> bool:
        """Whether it has a cluster of this name. Cheap: nobody is asked over a network."""

    def cluster_of(self, instance: InstanceId) -> str:
        """The cluster that an instance belongs to. UsageError: none."""

    def session(self, cluster: str, instance: Instance, read_timeout_s: float) -> Connection:
        """One warm connection with reaper's own account."""

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """A server over one."""

    def side(self, cluster: str, instance: Instance) -> AbstractContextManager[Side]:
        """A server's buffer pool and its canaries, each over a session of its own."""

    def read_logs(self, victim: Instance, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
        """The binary logs of a dead server. See `DeadLogs`."""

    def endpoint(self, cluster: str) -> Endpoint:
        """Where applications connect."""

    def entrance(self, cluster: str) -> Entrance:
        """The same, with an account of theirs."""


@contextmanager
def open_side(ground: Ground, cluster: str, instance: Instance, files: PageFiles) -> Iterator[Side]:
    """A server's buffer pool and its canaries, each over a session of its own."""
    with (
        closing(ground.session(cluster, instance, READ_TIMEOUT_S)) as steer,
        closing(ground.session(cluster, instance, READ_TIMEOUT_S)) as reads,
    ):
        pool = SqlPool(steer.ask, steer.flavour, instance, files)
        yield Side(instance=instance, pool=pool, canaries=SqlCanaries(reads.ask, reads.flavour))


class Grounds:
    """All of them, the first one that has a cluster counts. Also the site's `Fleet` and `DeadLogs`."""

    def __init__(self, local: Ground, others: Mapping[str, Ground]) -> None:
        self._local = local
        self._others = others  # by provider

    def of(self, cluster: str) -> Ground:
        """The one that has a cluster; a lab comes first, so that a mistaken name hits what is disposable anyway."""
        if not self._others or self._local.has(cluster):
            return self._local
        (other,) = self._others.values()
        return other

    def at(self, instance: InstanceId) -> Ground:
        """The one that has an instance. UsageError: its provider is not set up here."""
        if instance.provider in self._others:
            return self._others[instance.provider]
        if instance.provider == "local":
            return self._local
        known = ", ".join(("local", *self._others))
        raise UsageError(
            f"{instance} belongs to the provider {instance.provider!r}; set up here: {known}. See `ec2:` in reaper.yaml"
        )

    def cluster_of(self, instance: InstanceId) -> str:
        """The cluster that an instance belongs to. UsageError: none."""
        return self.at(instance).cluster_of(instance)

    @property
    def comparer(self) -> SqlComparer:
        """Compares the data of two servers of one cluster."""
        return SqlComparer(lambda cluster, instance, within: self.at(instance.id).session(cluster, instance, within))

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """A connection with reaper's own account."""
        return self.at(instance.id).connect(cluster, instance)

    @contextmanager
    def side(self, cluster: str, instance: Instance) -> Iterator[Side]:
        """A server's buffer pool and its canaries."""
        with self.at(instance.id).side(cluster, instance) as side:
            yield side

    def read(self, victim: Instance, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
        """See `DeadLogs`."""
        return self.at(victim.id).read_logs(victim, held, probe_tables=probe_tables, within=within)

    # ---- Fleet

    def clusters(self) -> tuple[str, ...]:
        """Those of all providers, sorted. UsageError: one name is used twice."""
        names = [name for ground in (self._local, *self._others.values()) for name in ground.fleet.clusters()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(
                f"a lab has the same name as a cluster of another provider: {', '.join(twice)}. Remove the lab "
                "(`reaper lab down --name`), and make it again under another name"
            )
        return tuple(sorted(names))

    def members(self, cluster: str) -> tuple[Instance, ...]:
        """See `Fleet`, also below."""
        return self.of(cluster).fleet.members(cluster)

    def copies_hot(self, cluster: str) -> bool:
        """By cluster."""
        return self.of(cluster).fleet.copies_hot(cluster)

    def snapshots(self, cluster: str) -> tuple[Snapshot, ...]:
        """By cluster."""
        return self.of(cluster).fleet.snapshots(cluster)

    def launch(
        self, cluster: str, snapshot: Snapshot, name: str, keeping: Keeping, berth: Berth, check: Callable[[], None]
    ) -> Instance:
        """Where the snapshot was taken."""
        return self.at(snapshot.source).fleet.launch(cluster, snapshot, name, keeping, berth, check)

    def snapshot(self, source: Instance, name: str, check: Callable[[], None]) -> Snapshot:
        """By instance, as all that follow."""
        return self.at(source.id).fleet.snapshot(source, name, check)

    def restart(self, instance: Instance, check: Callable[[], None]) -> Instance:
        """By instance."""
        return self.at(instance.id).fleet.restart(instance, check)

    def resume_source(self, source: Instance) -> None:
        """By instance."""
        self.at(source.id).fleet.resume_source(source)

    def protection(self, instance: Instance) -> str | None:
        """By instance."""
        return self.at(instance.id).fleet.protection(instance)

    def aim(self, instance: Instance) -> Trigger:
        """By instance."""
        return self.at(instance.id).fleet.aim(instance)

    def proof_of_death(self, instance: Instance) -> str | None:
        """By instance."""
        return self.at(instance.id).fleet.proof_of_death(instance)

    def quarantine(self, instance: Instance, until: datetime) -> None:
        """By instance."""
        self.at(instance.id).fleet.quarantine(instance, until)

    def retire(self, instance: Instance) -> None:
        """By instance."""
        self.at(instance.id).fleet.retire(instance)

    def forget(self, cluster: str, snapshot: str) -> None:
        """By cluster."""
        self.of(cluster).fleet.forget(cluster, snapshot)
