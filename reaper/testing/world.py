"""The whole world of a simulated fleet, as the composition root would put it together."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from reaper.domain.facts import Instance
from reaper.domain.ledger import Ledger
from reaper.domain.plan import Plan
from reaper.testing.backups import MemorySnapshotBook
from reaper.testing.clients import FakeEndpoint, FakeProbe
from reaper.testing.comparing import FakeComparer
from reaper.testing.fleet import MemoryFleet
from reaper.testing.forensics import FakeDeadLogs
from reaper.testing.rehearsing import Backstage, FakeUnderstudy
from reaper.testing.warming import warm_side
from reaper.workflow.pools import Side
from reaper.workflow.prepare import Names
from reaper.workflow.server import SCHEMA
from reaper.workflow.world import World


def world(fleet: MemoryFleet) -> World:
    """The whole world of a simulated fleet."""

    def endpoint(cluster: str) -> FakeEndpoint:
        return FakeEndpoint(fleet.door(cluster), cluster, fleet.clock, fleet.faults)

    backstage = Backstage()

    @contextmanager
    def side(_cluster: str, instance: Instance) -> Iterator[Side]:
        yield warm_side(fleet.clock, instance)

    made: dict[str, FakeProbe] = {}

    def start_probe(plan: Plan, table: str) -> FakeProbe:
        made[table] = FakeProbe(
            fleet.door(plan.cluster),
            f"{SCHEMA}.{table}",
            clients=plan.policy.probe_clients,
            rate=plan.policy.probe_rate,
            clock=fleet.clock,
            at=fleet.at,
            others=fleet.probes,
            faults=fleet.faults,
        )
        return made[table]

    def past_ledger(plan: Plan) -> Ledger | None:
        probe = made.get(Names(plan.run).probe_table)
        return probe.recorded if probe else None

    return World(
        fleet=fleet,
        connect=lambda _cluster, instance: FakeUnderstudy(fleet.known(instance.id), fleet.faults, backstage),
        endpoint=endpoint,
        start_probe=start_probe,
        past_ledger=past_ledger,
        checker=fleet.checker,
        comparer=FakeComparer(fleet),
        side=side,
        book=MemorySnapshotBook(fleet.faults),
        dead_logs=FakeDeadLogs(fleet.known, fleet.faults),
        open_runs=frozenset,
        quiet=nullcontext,
        paused=fleet.lever,
        clock=fleet.clock,
        interrupt=fleet.interrupt,
        journal=fleet.journal,
    )
