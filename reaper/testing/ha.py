"""A site's own failover tool, simulated: it notices a dead master and promotes a replica."""

from datetime import timedelta

from reaper.testing.fleet import MemoryFleet
from reaper.testing.machine import Machine


class FailoverTool:
    """Promotes the most advanced replica of a cluster a while after its open server has died."""

    def __init__(self, fleet: MemoryFleet, cluster: str, after: timedelta = timedelta(milliseconds=800)) -> None:
        self._fleet, self._cluster, self._after = fleet, cluster, after
        fleet.deaths.append(self._died)

    def _died(self, machine: Machine) -> None:
        if machine in self._fleet.machines(self._cluster) and self._fleet.door(self._cluster).target == machine.address:
            self._fleet.clock.after(self._after, self._promote)

    def _promote(self) -> None:
        replicas = [m for m in self._fleet.machines(self._cluster) if m.runs and m.channel]
        if not replicas or self._fleet.writable(self._cluster):
            return
        heir = max(replicas, key=lambda m: (len(m.log) + len(m.relay), -m.server_id))
        heir.knobs.apply_lag = timedelta(0)
        heir.relay = [(0, t) for _, t in heir.relay]
        heir.apply_due()
        heir.channel = None
        heir.semi_sync.source_enabled = heir.semi_sync.source_active = True
        heir.open()
        for sibling in replicas:
            if sibling is not heir:
                sibling.follow(heir.address)
        self._fleet.door(self._cluster).lead(heir.address)
