"""What the workflow needs of the world, as small Protocols. Adapters implement them.

Every effect is idempotent through its derived name: called again it finds its own earlier work and
returns the same result. Every method may raise a `ReaperError`; foreign exceptions stop at the adapter.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from reaper.domain.checks import ExternalCheck
from reaper.domain.facts import Address, Instance, InstanceId, SemiSync, ServerFacts
from reaper.domain.gtid import GtidSet
from reaper.domain.ledger import Ledger
from reaper.domain.plan import Plan
from reaper.domain.snapshots import Keeping, Snapshot
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict


class Clock(Protocol):
    """Wall time for calendars, monotonic time for budgets."""

    def now(self) -> datetime:
        """The wall time, aware, UTC."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds: comparable between processes of one machine."""

    def sleep(self, span: timedelta) -> None:
        """Wait."""


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

    def pages_loaded(self) -> bool:
        """True if the page list has been loaded, or there was none to load."""

    def close(self) -> None:
        """Give the connection back."""


class Trigger(Protocol):
    """A weapon that is aimed: the victim's identity is checked and held, firing costs one system call."""

    def crash(self) -> None:
        """Kill without warning."""

    def terminate(self) -> None:
        """Ask politely, as the provider's terminate call does."""

    def freeze(self) -> None:
        """Stop it without ending it; returns when it is silent."""

    def thaw(self) -> None:
        """Let a frozen one go on."""

    def fence(self, within: timedelta) -> str | None:
        """Wait for the proof of death and say what it is; None: no proof within the time (I4)."""

    def close(self) -> None:
        """Lower the weapon."""


class Fleet(Protocol):
    """A provider: where instances come from and go to."""

    def clusters(self) -> tuple[str, ...]:
        """The names of the clusters, sorted."""

    def members(self, cluster: str) -> tuple[Instance, ...]:
        """The instances of a cluster, quarantined ones included. UsageError: no such cluster."""

    def copies_hot(self, cluster: str) -> bool:
        """True if a snapshot does not stop its source."""

    def snapshot(self, source: Instance, name: str, check: Callable[[], None]) -> Snapshot:
        """Copy a replica's data. `check` is called every so often and raises to abort."""

    def snapshots(self, cluster: str) -> tuple[Snapshot, ...]:
        """The complete snapshots of a cluster that lie there, whoever took them, oldest first."""

    def launch(
        self, cluster: str, snapshot: Snapshot, name: str, keeping: Keeping, check: Callable[[], None]
    ) -> Instance:
        """Boot a replacement on the snapshot: read-only, replication not started, a server id never used before.

        RefusedError: the snapshot is to be copied and there is no room (E28).
        """

    def restart(self, instance: Instance, check: Callable[[], None]) -> Instance:
        """Shut a server down cleanly and boot it as it will run: read-only, replication not started (E16).

        One that has ended is only booted. TryAgainError: it does not end when asked, and is left running; or it
        does not come back.
        """

    def resume_source(self, source: Instance) -> None:
        """Boot the source of a cold snapshot again if it does not run."""

    def aim(self, instance: Instance) -> Trigger:
        """Check the identity of a running instance and hold it. RefusedError: it is not what reaper started."""

    def proof_of_death(self, instance: Instance) -> str | None:
        """What proves that an instance is dead, without touching it; None: it may live."""

    def quarantine(self, instance: Instance, until: datetime) -> None:
        """Mark a dead instance as never to be started again, its files kept until then; the last word counts."""

    def retire(self, instance: Instance) -> None:
        """Delete an instance that is dead or was built by this run; its process is ended first if it runs."""

    def forget(self, snapshot: str) -> None:
        """Delete a snapshot by name, if it is there."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where an endpoint leads."""

    target: Address | None
    epoch: int
    clients: int


class Endpoint(Protocol):
    """Where applications connect."""

    @property
    def listen(self) -> Address:
        """The address that applications use."""

    def warm(self) -> None:
        """Do everything now that a later `route` would have to wait for."""

    def show(self) -> Route:
        """Read back."""

    def route(self, to: Address, expected: Address | None) -> Route:
        """Lead to `to`, if it leads to `expected` now (or already to `to`)."""

    def close(self) -> None:
        """Give the connection back."""


class Probe(Protocol):
    """A client in its own process that writes through the endpoint and remembers what it was told."""

    def wait_acknowledged(self, after_ns: int, within: timedelta) -> bool:
        """Wait until every client had a write acknowledged after that moment."""

    def stop(self) -> Ledger:
        """End it and read everything it recorded."""

    def close(self) -> None:
        """Never leave the process behind."""


class Interrupt(Protocol):
    """A person's wish to stop."""

    def check(self) -> None:
        """Raise AbortedError if a person asked to stop and the kill has not happened."""

    def cross(self) -> None:
        """The point of no return: check a last time; from now on a wish to stop is only answered."""

    def crossed(self) -> None:
        """The kill lies behind already, in a process that has died: a wish to stop is only answered. Never raises."""


class Journal(Protocol):
    """Where a run is recorded and announced. The record precedes the effect. What is said twice does no harm."""

    def begin(self, plan: Plan) -> None:
        """A run is born; nothing if it was born already."""

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said."""

    def event(self, run: str, event: Event) -> None:
        """A step started, ended, failed, or has something to say."""

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over."""


class Checker(Protocol):
    """Asks what a policy wants to know of others before it acts."""

    def ask(self, check: ExternalCheck, plan: Plan) -> GuardVerdict:
        """Never raises and never takes longer than the check's own time: whatever is no clear yes refuses (I10)."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything outside, chosen once in the composition root."""

    fleet: Fleet
    connect: Callable[[str, Instance], Server]  # cluster, instance
    endpoint: Callable[[str], Endpoint]  # cluster
    start_probe: Callable[[Plan, str], Probe]  # the plan, the probe's table
    past_ledger: Callable[[Plan], Ledger | None]  # what the probe of an interrupted run recorded; None: nothing
    checker: Checker
    quiet: Callable[[], AbstractContextManager[None]]  # while inside, nothing else of this process runs: clients wait
    paused: Callable[[], str | None]  # why the lever is pulled, in words; None: it is not
    clock: Clock
    interrupt: Interrupt
    journal: Journal
