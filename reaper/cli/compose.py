"""The one place where adapters are chosen and put together."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from reaper.adapters.checks.asker import Asker
from reaper.adapters.clock import SystemClock
from reaper.adapters.local import lab
from reaper.adapters.local.registry import LabRecord, Registry
from reaper.adapters.mysql.engines import find_engine
from reaper.adapters.mysql.server import SqlServer
from reaper.cli.grounds import Ground, Grounds
from reaper.cli.servers import LabGround
from reaper.cli.settings import Settings, read_settings, store_address
from reaper.domain.errors import TryAgainError
from reaper.domain.facts import Instance
from reaper.domain.ledger import Ledger
from reaper.domain.plan import Plan
from reaper.domain.verdict import RunState
from reaper.workflow.groups import Groups
from reaper.workflow.ports import Endpoint, Interrupt, Journal, Probe
from reaper.workflow.prepare import Names
from reaper.workflow.server import SCHEMA
from reaper.workflow.world import World

if TYPE_CHECKING:
    from reaper.adapters.store.database import Place
    from reaper.adapters.store.journal import RunStore
    from reaper.adapters.store.snapshots import SnapshotStore
    from reaper.adapters.store.standing import PolicyStore
    from reaper.adapters.store.work import Work

Quiet = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Site:
    """Everything below one data directory."""

    home: Path
    store_address: str | None = None  # of a Postgres; None: a file in the data directory

    @cached_property
    def place(self) -> "Place":
        """Where the state lives."""
        from reaper.adapters.store.database import Place

        return Place(self.store_address or self.home)

    @cached_property
    def runs(self) -> "RunStore":
        """What happened."""
        from reaper.adapters.store.journal import RunStore

        return RunStore(self.place)

    @cached_property
    def policies(self) -> "PolicyStore":
        """What standing policies remember: firings, the runs they asked for, the leash."""
        from reaper.adapters.store.standing import PolicyStore

        return PolicyStore(self.place)

    @cached_property
    def work(self) -> "Work":
        """What is going on: open runs, messages, the locks of clusters, the lever."""
        from reaper.adapters.store.work import Work

        return Work(self.place.database)

    @cached_property
    def snapshots(self) -> "SnapshotStore":
        """What is known of snapshots."""
        from reaper.adapters.store.snapshots import SnapshotStore

        return SnapshotStore(self.place)

    def paused(self) -> str | None:
        """Why the lever is pulled, in words."""
        pause = self.work.paused() if self.place.exists() else None
        return None if pause is None else f"paused by {pause.who} since {pause.since}: {pause.reason}"

    @property
    def labs(self) -> Path:
        """Where labs live."""
        return self.home / "labs"

    @property
    def aws_labs(self) -> Path:
        """Where AWS labs live."""
        return self.home / "aws"

    @cached_property
    def settings(self) -> Settings:
        """What the site has decided."""
        return read_settings(self.home)

    @cached_property
    def fleet(self) -> Grounds:
        """All providers that are set up here, and which one has what."""
        others: dict[str, Ground] = {}
        if self.settings.ec2 is not None:
            from reaper.adapters.aws.settings import PROVIDER
            from reaper.cli.cloud import Ec2Ground

            others[PROVIDER] = Ec2Ground(self.settings.ec2)
        return Grounds(LabGround(self.labs), others)

    @cached_property
    def groups(self) -> Groups | None:
        """The Auto Scaling groups of the first place; None: the site has nothing at AWS."""
        if self.settings.ec2 is None:
            return None
        from reaper.cli.cloud import auto_scaling_groups

        return auto_scaling_groups(self.settings.ec2)

    def registry(self, name: str) -> Registry:
        """The book of one lab."""
        return Registry(self.labs, name)

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """A connection with reaper's own account."""
        return self.fleet.connect(cluster, instance)

    def endpoint(self, cluster: str) -> Endpoint:
        """The endpoint of a cluster."""
        return self.fleet.of(cluster).endpoint(cluster)

    def start_probe(self, plan: Plan, table: str) -> Probe:
        """A probe process that writes through the endpoint as an application does."""
        from reaper.adapters.probe.client import ProbeConfig
        from reaper.adapters.probe.control import ProcessProbe

        entrance = self.fleet.of(plan.cluster).entrance(plan.cluster)
        self._ledgers.mkdir(parents=True, exist_ok=True)
        return ProcessProbe.start(
            ProbeConfig(
                host=entrance.address.host,
                port=entrance.address.port,
                user=entrance.login.user,
                password=entrance.login.password,
                database=SCHEMA,
                table=table,
                clients=plan.policy.probe_clients,
                rate=plan.policy.probe_rate,
                ledger=str(self._ledgers / f"{table}-{time.time_ns()}.ledger"),
                tls=entrance.tls,
            )
        )

    @property
    def _ledgers(self) -> Path:
        return self.home / "ledgers"

    def past_ledger(self, plan: Plan) -> Ledger | None:
        """What the first probe of a run recorded, if it ever started on this machine."""
        found = sorted(self._ledgers.glob(f"{Names(plan.run).probe_table}-*.ledger"))
        if not found:
            return None
        try:
            return Ledger.decode(found[-1].read_text())
        except (OSError, ValueError) as error:
            raise TryAgainError(f"the ledger {found[-1]} cannot be read: {error}") from error

    def world(self, journal: Journal, interrupt: Interrupt, quiet: Quiet = nullcontext) -> World:
        """What the workflow runs against. `quiet`: holds back what else this process does during a cutover."""
        return World(
            fleet=self.fleet,
            connect=self.connect,
            endpoint=self.endpoint,
            start_probe=self.start_probe,
            past_ledger=self.past_ledger,
            checker=Asker(),
            comparer=self.fleet.comparer,
            side=self.fleet.side,
            book=self.snapshots,
            dead_logs=self.fleet,
            open_runs=lambda: frozenset(run.run for run in self.work.open_runs()),
            quiet=quiet,
            paused=self.paused,
            clock=SystemClock(),
            interrupt=interrupt,
            journal=journal,
        )

    def lab_up(self, name: str, program: Path | None, nodes: int, check: Callable[[], None]) -> LabRecord:
        """Make a lab."""
        registry = self.registry(name)
        with self.work.exclusive(name, f"`reaper lab up` in process {os.getpid()}"):
            engine = find_engine(program)
            return lab.up(registry, engine, self.connect, SystemClock(), nodes=nodes, check=check)

    def lab_down(self, name: str) -> tuple[str, ...]:
        """Remove a lab."""
        registry = self.registry(name)
        registry.read()
        why = f"the lab {name} was removed before the run had ended"
        abandoned = self.work.abandon(name, why)
        if abandoned:
            self.runs.end(abandoned, RunState.UNDONE, None, why)
        with self.work.exclusive(name, f"`reaper lab down` in process {os.getpid()}"):
            gone = lab.down(registry)
        self.snapshots.cluster_removed(name, datetime.now(UTC))
        return gone


def site() -> Site:
    """The data directory is REAPER_HOME, or the platform's place for an application's data; the store is in it.

    UsageError: the settings cannot be understood.
    """
    named = os.environ.get("REAPER_HOME")
    home = Path(named).absolute() if named else platformdirs.user_data_path("reaper")
    return Site(home, store_address(home))
