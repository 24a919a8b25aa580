"""The whole world of a simulated fleet, as the composition root would put it together."""

from contextlib import nullcontext

from reaper.domain.ledger import Ledger
from reaper.domain.plan import Plan
from reaper.testing.clients import FakeEndpoint, FakeProbe
from reaper.testing.connection import FakeServer
from reaper.testing.fleet import MemoryFleet
from reaper.testing.parts import SCHEMA
from reaper.workflow.ports import World
from reaper.workflow.prepare import Names


def world(fleet: MemoryFleet) -> World:
    """The whole world of a simulated fleet."""

    def endpoint(cluster: str) -> FakeEndpoint:
        return FakeEndpoint(fleet.door(cluster), cluster, fleet.clock, fleet.faults)

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
        connect=lambda _cluster, instance: FakeServer(fleet.known(instance.id), fleet.faults),
        endpoint=endpoint,
        start_probe=start_probe,
        past_ledger=past_ledger,
        checker=fleet.checker,
        quiet=nullcontext,
        paused=fleet.lever,
        clock=fleet.clock,
        interrupt=fleet.interrupt,
        journal=fleet.journal,
    )
