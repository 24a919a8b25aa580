"""What the workflow needs of one server, whatever its flavour. Adapters implement it.

Every method may raise a `ReaperError`; foreign exceptions stop at the adapter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from reaper.domain.facts import Address, InstanceId, SemiSync, ServerFacts
from reaper.domain.gtid import GtidSet
from reaper.domain.parity import Amiss, Events, HandOver, Inventory
from reaper.domain.rehearsal import Account, Attempt, Transport

SCHEMA = "reaper"  # everything of reaper's in a cluster lies in this schema


@dataclass(frozen=True, kw_only=True)
class Halted:
    """A replica after its receiver was stopped: these sets do not grow by themselves any more."""

    received: GtidSet
    executed: GtidSet
    unfit: str | None  # why it can never be an heir (applier error, configured delay)
    broken_applier: bool
    accepts_writes: bool  # somebody has opened it


class Server(Protocol):
    """One warm connection to one server, in its own dialect. Not shared between threads."""

    @property
    def instance(self) -> InstanceId:
        """Whom this connection leads to."""

    def facts(self) -> ServerFacts:
        """Everything the guards want to know."""

    def executed(self) -> GtidSet:
        """The transactions that this server has executed."""

    def semi_sync(self) -> SemiSync:
        """The semi-sync state and counters."""

    def wait_applied(self, target: GtidSet, within: timedelta) -> bool:
        """Wait until `target` has been applied. False: not within the time, never a guess."""

    def halt(self) -> Halted:
        """Stop the receiver (so that a half-dead master gets no further acknowledgement) and read the positions."""

    def join(self, source: Address, *, position: str | None, history: GtidSet | None) -> None:
        """Make a fresh copy a replica of `source`: forget what was copied of replication, then follow by GTID.

        `position`: where the copy stands, None if the copy knows it itself; `history`: what the copied
        server had executed shortly before, for dialects whose copies forget it.
        """

    def follow(self, source: Address) -> None:
        """Replicate from `source` by GTID from now on; unapplied relay logs are fetched again from there."""

    def resume_replication(self) -> None:
        """Start the replication threads that are configured."""

    def promote(self, *, arm_semi_sync: bool) -> None:
        """Stop applying, arm semi-sync as a source if asked, open for writes. Fast: no housekeeping."""

    def forget_source(self) -> None:
        """The housekeeping after a promotion."""

    def close_for_writes(self, within: timedelta) -> GtidSet:
        """Make a master read-only, privileged sessions included; return its final position. Undone if it fails."""

    def open_for_writes(self) -> None:
        """Undo `close_for_writes`."""

    def claim(self, run: str) -> str | None:
        """Hold reaper's lock of this server for a run while this connection lives. None: held; otherwise who has it.

        An older connection that holds it for the same run is ended: its process was taken over.
        """

    def write_marker(self, run: str) -> None:
        """Commit the run's marker row (on the master)."""

    def marker_visible(self, run: str) -> bool:
        """True if the run's marker row can be read here."""

    def clear_marker(self, run: str) -> None:
        """Delete the run's marker row."""

    def create_probe_table(self, name: str) -> None:
        """Create the probe's table if it is not there."""

    def probe_rows(self, name: str) -> Iterable[tuple[int, int]]:
        """Every (client, seq) in the probe's table."""

    def drop_probe_table(self, name: str) -> None:
        """Drop the probe's table if it is there."""

    def tables(self) -> frozenset[str]:
        """Every table outside the system schemas, as `schema.table`."""

    def dump_pages(self) -> None:
        """Write the list of pages in the buffer pool to disk, for the copy to load."""

    def flush_logs(self) -> None:
        """Write the engines' logs to disk, so that a copy of the disk alone has as little to recover as possible."""

    def pages_loaded(self) -> bool:
        """True if the page list has been loaded, or there was none to load."""

    # ---- before the kill: is the heir like the victim, and can the others follow it?

    def inventory(self, key: bytes) -> Inventory:
        """What a successor must have too. `key`: of the digests of passwords, drawn for one comparison."""

    def events(self) -> Events:
        """What it runs by schedule."""

    def hand_over(self, wanted: HandOver) -> tuple[Amiss, ...]:
        """Run on a new master what its predecessor ran by schedule; returns what it does not run (E19)."""

    def rehearse(self, heir: Address, within: timedelta) -> Attempt:
        """Replicate from `heir` over a channel of its own, with the account and TLS that `follow` would use.

        The default channel's receiver is stopped meanwhile and runs again when this returns or raises. Nothing
        is applied, no position changes, and the channel is gone afterwards with its relay logs. If the server
        cannot be reached in the middle, or this process dies, `unrehearse` finds and ends what was begun.
        """

    def unrehearse(self) -> None:
        """End a rehearsal that was cut down: forget its channel, start the receiver. Nothing if there is none.

        A receiver that somebody else has stopped stays stopped.
        """

    def accounts(self, user: str) -> tuple[Account, ...] | None:
        """The accounts of this user here; None: they may not be read."""

    def transport_offered(self) -> Transport:
        """TLS if this server offers it: a MariaDB channel that asks for TLS goes on in clear text where it does not."""

    # ---- binary logs

    def binlog_expiry(self) -> str:
        """The settings by which the server deletes its binary logs, as they were before reaper held them."""

    def hold_binlogs(self, former: str) -> None:
        """Let the server delete no binary log by itself until `release_binlogs`."""

    def release_binlogs(self, former: str) -> None:
        """Set what `hold_binlogs` changed back to what it was."""

    def purged(self) -> GtidSet | None:
        """Executed, and no longer in the binary logs; None: unknown."""

    def close(self) -> None:
        """Give the connection back."""
