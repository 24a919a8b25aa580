"""The servers of labs, through the adapters that speak their dialects."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from reaper.adapters.local import process
from reaper.adapters.local.pagefiles import LocalPageFiles
from reaper.adapters.local.registry import LabRecord, Registry
from reaper.adapters.mysql.canaries import SqlCanaries
from reaper.adapters.mysql.compare import SqlComparer
from reaper.adapters.mysql.connection import READ_TIMEOUT_S, Connection
from reaper.adapters.mysql.engines import dialect_of
from reaper.adapters.mysql.pages import SqlPool
from reaper.adapters.mysql.server import SqlServer
from reaper.adapters.mysql.tail import read_tail
from reaper.domain.errors import TryAgainError
from reaper.domain.facts import Instance
from reaper.domain.gtid import GtidSet
from reaper.domain.tail import Tail
from reaper.workflow.pools import Side


@dataclass(frozen=True)
class LabServers:
    """Connections with reaper's own account, and what is done over several of them. Also the `DeadLogs` of labs."""

    labs: Path

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """One warm connection."""
        record = self._record(cluster)
        session = self._session(record, instance, READ_TIMEOUT_S)
        return SqlServer(instance, session, dialect_of(record.flavour), record.logins.replication)

    @property
    def comparer(self) -> SqlComparer:
        """Compares the data of two of them."""
        return SqlComparer(lambda cluster, instance, within: self._session(self._record(cluster), instance, within))

    @contextmanager
    def side(self, cluster: str, instance: Instance) -> Iterator[Side]:
        """A server's buffer pool and its canaries, each over a session of its own."""
        record = self._record(cluster)
        with (
            closing(self._session(record, instance, READ_TIMEOUT_S)) as steer,
            closing(self._session(record, instance, READ_TIMEOUT_S)) as reads,
        ):
            pool = SqlPool(steer.ask, record.flavour, instance, LocalPageFiles(self.labs))
            yield Side(instance=instance, pool=pool, canaries=SqlCanaries(reads.ask, record.flavour))

    def read(self, victim: Instance, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
        """Every transaction in a dead server's binary logs that `held` lacks. TryAgainError: it lives."""
        registry = Registry(self.labs, victim.id.name.split("/")[0])
        record = registry.read().instance(victim.id.short)
        if record is None or process.state_of(record.process) is not None:
            raise TryAgainError(f"the logs of {victim.id} are not read: it lives, or it is gone")
        return read_tail(registry.seat(record).data, held, probe_tables=probe_tables, within=within)

    def _record(self, cluster: str) -> LabRecord:
        return Registry(self.labs, cluster).read()

    def _session(self, record: LabRecord, instance: Instance, read_timeout_s: float) -> Connection:
        tls = dialect_of(record.flavour).tls
        return Connection(instance.address, record.logins.admin, tls=tls, read_timeout_s=read_timeout_s)
