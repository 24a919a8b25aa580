"""A site's own failover tool, simulated: it notices a dead master and promotes a replica."""

from datetime import timedelta

from reaper.testing.fleet import MemoryFleet
from reaper.testing.machine import Machine


class FailoverTool:
    """Promotes the most advanced replica of a cluster a while after its open server has died.

    `after`: from the death to the promotion. `apart`: from one sibling's repointing to the next one's.
    """

    def __init__(
        self,
        fleet: MemoryFleet,
        cluster: str,
        after: timedelta = timedelta(milliseconds=800),
        apart: timedelta = timedelta(0),
    ) -> None:
        self._fleet, self._cluster, self._after, self._apart = fleet, cluster, after, apart
        fleet.deaths.append(self._died)

    def _died(self, machine: Machine) -> None:
        door = self._fleet.door(self._cluster)
        if machine in self._fleet.machines(self._cluster) and door.target == machine.address:
            self._fleet.clock.after(self._after, self._promote)

    def _promote(self) -> None:
        replicas = [m for m in self._fleet.machines(self._cluster) if m.runs and m.channel]
        if not replicas or self._fleet.writable(self._cluster):
            return
        heir = max(replicas, key=lambda m: (len(m.log) + len(m.relay), -m.server_id))
        heir.relay = [(0, t) for _, t in heir.relay]  # whatever its lag is, it applies everything now
        heir.apply_due()
        heir.channel = None
        heir.semi_sync.source_enabled = heir.semi_sync.source_active = True
        heir.open()
        self._fleet.door(self._cluster).lead(heir.address)
        for n, sibling in enumerate(m for m in replicas if m is not heir):
            self._repoint_later(sibling, heir, self._apart * n)

    def _repoint_later(self, sibling: Machine, heir: Machine, later: timedelta) -> None:
        self._fleet.clock.after(later, lambda: sibling.follow(heir.address))
