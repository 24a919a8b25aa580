"""What was observed: instances, servers, replication, at one moment.

"Unknown" is always spelled `None` or `Unreachable`, never zero and never "fine" (I10).
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from reaper.domain.gtid import GtidSet


class Flavour(StrEnum):
    """Which family of server speaks."""

    MARIADB = "mariadb"
    MYSQL = "mysql"


@dataclass(frozen=True, order=True)
class InstanceId:
    """One disposable server, named by its provider: `local:lab/n2`."""

    provider: str
    name: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.name}"

    @property
    def short(self) -> str:
        """The last part of the name, for a line that already says which cluster."""
        return self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True, order=True)
class Address:
    """Where a server or an endpoint listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class InstanceState(StrEnum):
    """What the provider knows of an instance, without asking its server."""

    RUNNING = "running"
    FROZEN = "frozen"  # alive but stopped (SIGSTOP): it may wake up and write
    DEAD = "dead"  # proved dead
    QUARANTINED = "quarantined"  # dead, kept for a comparison, never started again (I6)
    STRANGER = "stranger"  # something runs in its place that reaper did not start


@dataclass(frozen=True, kw_only=True)
class Image:
    """What an instance was made from."""

    name: str
    newest: str | None  # what a new instance would be made from; None: unknown
    built: datetime | None = None  # aware, UTC; None: unknown

    @property
    def stale(self) -> bool | None:
        """True if the image has moved on since; None: unknown."""
        return None if self.newest is None else self.newest != self.name


@dataclass(frozen=True, kw_only=True)
class Berth:
    """Where a replacement is launched, and from what. Decided with the plan, so that nothing moves on meanwhile."""

    zone: str | None = None  # None: the provider has none, or chooses
    template: str | None = None  # the provider's name for it, its version pinned; None: the provider needs none


@dataclass(frozen=True, kw_only=True)
class Instance:
    """The provider's record of one server."""

    id: InstanceId
    address: Address
    server_id: int
    created: datetime  # aware, UTC
    state: InstanceState
    made_by: str | None = None  # the run that launched it; None: the lab or a person
    quarantined_until: datetime | None = None
    data_bytes: int | None = None  # size of the data directory or volume
    free_bytes: int | None = None  # free on the file system that holds it
    own_volume: bool = False  # its data lies on a volume of its own; a copy gets another one, as large
    tags: tuple[tuple[str, str], ...] | None = ()  # (name, value), sorted; None: unreadable, so it is protected
    zone: str | None = None  # None: the provider has none, or it is unknown
    group: str | None = None  # the shard group; None: it belongs to none that is known
    image: Image | None = None  # None: unknown
    template: str | None = None  # what an instance in its place would be launched from now, with its version


class ThreadState(StrEnum):
    """State of a replication thread."""

    RUNNING = "running"
    CONNECTING = "connecting"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Replication:
    """One replication channel of a replica."""

    channel: str  # "" is the default channel
    source: Address
    source_server_id: int | None  # None: never connected
    receiver: ThreadState
    applier: ThreadState
    receiver_error: str | None
    applier_error: str | None
    delay: timedelta  # configured delay, zero normally
    received: GtidSet  # everything written to the relay log (complete transactions only)
    by_gtid: bool  # positions itself by GTID, not by file and offset
    filters: tuple[str, ...]  # replication filters in force, as "name=value"
    clock_lag: timedelta | None  # the server's own estimate; None: unknown. Never decides (E06)


@dataclass(frozen=True, kw_only=True)
class SemiSync:
    """Semi-synchronous replication, both roles."""

    source_enabled: bool
    source_active: bool  # acknowledging now; False after a fall-back to asynchronous (E02)
    source_clients: int
    unacknowledged: int  # commits that no replica acknowledged, since the server started
    acknowledged: int  # commits that a replica acknowledged, since the server started
    after_sync: bool  # waits before the engine commit (AFTER_SYNC), so that nobody reads what may be lost
    timeout: timedelta  # falls back to asynchronous after this long without an acknowledgement
    replica_enabled: bool
    replica_active: bool


@dataclass(frozen=True, kw_only=True)
class Session:
    """One client connection that a guard may name as the culprit."""

    id: int
    user: str
    host: str
    age: timedelta  # of the transaction or statement
    what: str  # "transaction", or the statement's beginning

    def __str__(self) -> str:
        return f"session {self.id} ({self.user}@{self.host}, {self.age.total_seconds():.0f} s): {self.what}"


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What is under way on a server that a kill would interrupt."""

    transactions: tuple[Session, ...]  # open, oldest first
    schema_changes: tuple[Session, ...]  # DDL, online schema change tables are named in `what`
    backups: tuple[Session, ...]  # BACKUP STAGE, FTWRL, LOCK INSTANCE, CLONE
    commit_waiters: int  # sessions in a commit that waits for an acknowledgement


class Openness(StrEnum):
    """Who may write."""

    OPEN = "open"
    READ_ONLY = "read-only"  # privileged sessions still may (MariaDB's only kind)
    SUPER_READ_ONLY = "super-read-only"


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What a server said of itself."""

    flavour: Flavour
    version: str
    server_id: int
    server_uuid: str | None  # None: the flavour has none
    openness: Openness
    executed: GtidSet
    purged: GtidSet | None  # no longer in the binary log; None: the flavour does not say
    gtid_strict: bool  # refuses what would make GTID order inconsistent
    binlog: bool
    binlog_of_replicated: bool  # log_replica_updates: an heir needs it
    binlog_row_format: bool
    channels: tuple[Replication, ...]
    semi_sync: SemiSync
    activity: Activity | None  # None: could not be read
    uptime: timedelta


@dataclass(frozen=True, kw_only=True)
class Unreachable:
    """No facts, and why. Unreachable is not dead (I10)."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Member:
    """An instance and what its server said."""

    instance: Instance
    server: ServerFacts | Unreachable

    @property
    def facts(self) -> ServerFacts | None:
        """The facts, or None where there are none."""
        return self.server if isinstance(self.server, ServerFacts) else None


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """One cluster at one moment."""

    name: str
    taken_at: datetime  # aware, UTC
    members: tuple[Member, ...]
    endpoint: Address | None  # where applications connect; None: not known to reaper
    endpoint_target: Address | None  # where the endpoint leads now; None: unknown
    endpoint_stale_for: timedelta = timedelta(0)  # how long clients go on to a former target: a DNS record's TTL

    def member(self, instance: InstanceId) -> Member | None:
        """The member with this id, or None."""
        return next((m for m in self.members if m.instance.id == instance), None)

    def at(self, address: Address) -> Member | None:
        """The living member that listens there, or None; the quarantined and dead listen nowhere."""
        gone = (InstanceState.DEAD, InstanceState.QUARANTINED)
        return next((m for m in self.members if m.instance.address == address and m.instance.state not in gone), None)


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A row that reaper wrote on the master and looked for on the replicas."""

    committed_in: timedelta | None  # None: the master did not acknowledge it in time
    arrived: dict[InstanceId, timedelta | None] = field(default_factory=dict)  # None: not seen in time


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What a short watch of the master and its replicas showed."""

    window: timedelta
    before: SemiSync | None  # of the master, at the start of the window; None: unknown
    after: SemiSync | None
    caught_up: dict[InstanceId, timedelta | None]  # until the replica had applied the master's position
    distance: dict[InstanceId, int | None]  # transactions behind at the first look; None: unknown
    marker: Marker | None  # None: not written, as in a dry run
