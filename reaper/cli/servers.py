"""Labs as a site's ground: real servers on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from reaper.adapters.local import lab, process
from reaper.adapters.local.endpoint import LocalEndpoint
from reaper.adapters.local.fleet import LocalFleet
from reaper.adapters.local.pagefiles import LocalPageFiles
from reaper.adapters.local.registry import LabRecord, Registry
from reaper.adapters.mysql.connection import READ_TIMEOUT_S, Connection
from reaper.adapters.mysql.engines import dialect_of, engine_of
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.mysql.server import SqlServer
from reaper.adapters.mysql.tail import read_tail
from reaper.cli.grounds import Entrance, open_side
from reaper.domain.errors import TryAgainError
from reaper.domain.facts import Address, Instance, InstanceId
from reaper.domain.gtid import GtidSet
from reaper.domain.tail import Tail
from reaper.workflow.engine import Engine
from reaper.workflow.pools import Side


class LabGround:
    """Implements `Ground` over the labs of a data directory."""

    def __init__(self, labs: Path) -> None:
        self._labs = labs

    @cached_property
    def fleet(self) -> LocalFleet:
        """Their processes."""

        def engine(record: LabRecord) -> Engine:
            return engine_of(record.flavour, record.server, record.version)

        return LocalFleet(self._labs, engine, self.connect)

    def has(self, cluster: str) -> bool:
        """Whether there is a lab of this name."""
        return cluster in self.fleet.clusters()

    def cluster_of(self, instance: InstanceId) -> str:
        """A lab's instances are named after it."""
        return instance.name.split("/")[0]

    def session(self, cluster: str, instance: Instance, read_timeout_s: float) -> Connection:
        """One warm connection with reaper's own account."""
        record = self._record(cluster)
        tls = dialect_of(record.flavour).tls
        return Connection(instance.address, record.logins.admin, tls=tls, read_timeout_s=read_timeout_s)

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """A server over one."""
        session, account = self.session(cluster, instance, READ_TIMEOUT_S), self._record(cluster).logins.replication
        return SqlServer(instance, session, dialect_of(session.flavour), ReplicationAccount(account))

    @contextmanager
    def side(self, cluster: str, instance: Instance) -> Iterator[Side]:
        """A server's buffer pool, its page list reached through the file system, and its canaries."""
        with open_side(self, cluster, instance, LocalPageFiles(self._labs)) as side:
            yield side

    def read_logs(self, victim: Instance, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
        """Every transaction in a dead server's binary logs that `held` lacks. TryAgainError: it lives."""
        registry = Registry(self._labs, self.cluster_of(victim.id))
        record = registry.read().instance(victim.id.short)
        if record is None or process.state_of(record.process) is not None:
            raise TryAgainError(f"the logs of {victim.id} are not read: it lives, or it is gone")
        return read_tail(registry.seat(record).data, held, probe_tables=probe_tables, within=within)

    def endpoint(self, cluster: str) -> LocalEndpoint:
        """The lab's own process."""
        return lab.endpoint_of(Registry(self._labs, cluster))

    def entrance(self, cluster: str) -> Entrance:
        """Where it listens, with the application's account."""
        record = self._record(cluster)
        return Entrance(
            address=Address(lab.LOOPBACK, record.endpoint_port),
            login=record.application.login(),
            tls=dialect_of(record.flavour).tls,
        )

    def _record(self, cluster: str) -> LabRecord:
        return Registry(self._labs, cluster).read()
