"""What the workflow needs of the world, as small Protocols. Adapters implement them.

Every effect is idempotent through its derived name: called again it finds its own earlier work and
returns the same result. Every method may raise a `ReaperError`; foreign exceptions stop at the adapter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from reaper.domain.checks import ExternalCheck
from reaper.domain.facts import Address, Berth, Instance
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
        self, cluster: str, snapshot: Snapshot, name: str, keeping: Keeping, berth: Berth, check: Callable[[], None]
    ) -> Instance:
        """Boot a replacement on the snapshot: read-only, replication not started, a server id never used before.

        RefusedError: the snapshot is to be copied and there is no room (E28), or the berth cannot be had.
        """

    def restart(self, instance: Instance, check: Callable[[], None]) -> Instance:
        """Shut a server down cleanly and boot it as it will run: read-only, replication not started (E16).

        One that has ended is only booted. TryAgainError: it does not end when asked, and is left running; or it
        does not come back.
        """

    def resume_source(self, source: Instance) -> None:
        """Boot the source of a cold snapshot again if it does not run."""

    def protection(self, instance: Instance) -> str | None:
        """What at the provider keeps it from being killed, in words; None: nothing. Reads only."""

    def aim(self, instance: Instance) -> Trigger:
        """Check the identity of a running instance and hold it. RefusedError: it is not what reaper started."""

    def proof_of_death(self, instance: Instance) -> str | None:
        """What proves that an instance is dead, without touching it; None: it may live."""

    def quarantine(self, instance: Instance, until: datetime) -> None:
        """Mark a dead instance as never to be started again, its files kept until then; the last word counts."""

    def retire(self, instance: Instance) -> None:
        """Delete an instance that is dead or was built by this run; its process is ended first if it runs."""

    def forget(self, cluster: str, snapshot: str) -> None:
        """Delete a snapshot of a cluster by name, if it is there."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where an endpoint leads."""

    target: Address | None
    epoch: int | None = None  # how often it was moved; None: not counted
    clients: int | None = None  # that are led there now; None: not known


class Endpoint(Protocol):
    """Where applications connect."""

    @property
    def listen(self) -> Address:
        """The address that applications use."""

    @property
    def stale_for(self) -> timedelta:
        """How long clients may go on to the former target after a move: a DNS record's TTL, otherwise zero."""

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
