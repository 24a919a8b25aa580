"""The whole world of a simulated fleet, as the composition root would put it together."""

from reaper.testing.clients import FakeEndpoint, FakeProbe
from reaper.testing.connection import FakeServer
from reaper.testing.fleet import MemoryFleet
from reaper.testing.parts import SCHEMA
from reaper.workflow.ports import World


def world(fleet: MemoryFleet) -> World:
    """The whole world of a simulated fleet."""

    def endpoint(cluster: str) -> FakeEndpoint:
        return FakeEndpoint(fleet.door(cluster), cluster, fleet.clock, fleet.faults)

    return World(
        fleet=fleet,
        connect=lambda _cluster, instance: FakeServer(fleet.known(instance.id), fleet.faults),
        endpoint=endpoint,
        start_probe=lambda plan, table: FakeProbe(
            fleet.door(plan.cluster),
            f"{SCHEMA}.{table}",
            clients=plan.policy.probe_clients,
            rate=plan.policy.probe_rate,
            clock=fleet.clock,
            at=fleet.at,
            others=fleet.probes,
            faults=fleet.faults,
        ),
        lock=fleet.locks.hold,
        clock=fleet.clock,
        interrupt=fleet.interrupt,
        journal=fleet.journal,
    )
