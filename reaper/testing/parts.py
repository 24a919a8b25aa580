"""What a simulated server is made of: transactions, a channel, semi-sync's state, the knobs of a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, StrEnum

from reaper.domain.facts import Activity, Address
from reaper.domain.gtid import MariadbGtid
from reaper.domain.parity import Events
from reaper.testing.inventories import NO_EVENTS
from reaper.workflow.server import SCHEMA

Row = tuple[object, ...]
MARKER = f"{SCHEMA}.marker"
ITEMS = "shop.items"  # what every simulated cluster is born with


class Verb(StrEnum):
    """What a transaction does to a table."""

    CREATE = "create"
    DROP = "drop"
    INSERT = "insert"
    DELETE = "delete"


@dataclass(frozen=True)
class Transaction:
    """One committed change."""

    gtid: MariadbGtid
    verb: Verb
    table: str
    row: Row = ()


class Outcome(Enum):
    """What the writer is told of a commit."""

    PENDING = "waits for an acknowledgement"
    ACKNOWLEDGED = "committed"
    LOST = "the server ended before it answered"


@dataclass(eq=False)
class Commit:
    """A commit under way, as its writer sees it."""

    gtid: MariadbGtid
    told: Callable[["Commit"], None] | None = None  # called once when the outcome is known
    outcome: Outcome = Outcome.PENDING

    def settle(self, outcome: Outcome) -> None:
        """Tell the writer."""
        self.outcome = outcome
        if self.told:
            self.told(self)


@dataclass
class Channel:
    """A replica's default channel."""

    source: Address
    receiving: bool = False  # the receiver thread was started and has not stopped
    applying: bool = False
    receiver_error: str | None = None
    applier_error: str | None = None
    cursor: int = 0  # how much of the source's log has been looked at


@dataclass
class SemiSyncState:
    """Variables and counters of both roles."""

    source_enabled: bool = False  # boots unarmed; `promote` arms it
    source_active: bool = False
    unacknowledged: int = 0
    acknowledged: int = 0
    after_sync: bool = True
    timeout: timedelta = timedelta(seconds=10)
    replica_enabled: bool = True


@dataclass
class Knobs:
    """What a test may turn on a server."""

    apply_lag: timedelta = timedelta(0)  # from received to applied, per transaction
    receive_lag: timedelta = timedelta(0)  # from committed to received; lost if the source dies meanwhile
    deaf: bool = False  # the receiver says that it runs, and gets nothing
    delay: timedelta = timedelta(0)  # the configured delay (MASTER_DELAY)
    filters: tuple[str, ...] = ()
    by_gtid: bool = True
    immortal: bool = False  # no signal ends the process
    shutdown_takes: timedelta | None = timedelta(milliseconds=300)  # after `terminate`; None: it hangs
    dies_after: timedelta = timedelta(milliseconds=8)  # from SIGKILL to the end of the process
    commit_hangs: bool = False  # `close_for_writes` meets a long commit
    activity: Activity | None = field(
        default_factory=lambda: Activity(transactions=(), schema_changes=(), backups=(), commit_waiters=0)
    )
    parity: tuple[tuple[str, str], ...] = (("version", "10.11"), ("sql_mode", "STRICT_TRANS_TABLES"))
    events: Events = NO_EVENTS
    pages_load_for: timedelta = timedelta(milliseconds=200)
