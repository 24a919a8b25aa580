"""Servers on EC2 as the workflow's Fleet. Nothing is kept here: instances, volumes and snapshots carry it as tags."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from reaper.adapters.aws.discovery import Discovery, Machine, instance_of, pages, port_of, state_of, tag_filter, tags_of
from reaper.adapters.aws.errors import BusyError, NotThereError
from reaper.adapters.aws.fencing import Answers, Fences, answers
from reaper.adapters.aws.images import Images
from reaper.adapters.aws.launching import Launching, Wish
from reaper.adapters.aws.session import CallCount, Clients
from reaper.adapters.aws.settings import Ec2Settings
from reaper.adapters.aws.volumes import Taken, Volumes, tag
from reaper.adapters.aws.waiting import nothing
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Address, Berth, Instance, InstanceId, InstanceState
from reaper.domain.snapshots import Keeping, Snapshot
from reaper.workflow.ports import Trigger


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """Something that reaper made in AWS and that is still there."""

    kind: str  # "instance", "volume", "snapshot"
    id: str
    name: str  # the derived name under which it was made
    region: str


class Ec2Fleet:
    """Every cluster whose instances carry the tag, in all places of the site."""

    def __init__(self, settings: Ec2Settings, answers: Answers = answers) -> None:
        self._settings = settings
        self.calls = CallCount()
        self._discovery = Discovery(settings, self.calls)
        self._images = Images(settings)
        self._volumes = Volumes(settings)
        self._fences = Fences(settings, answers)
        self._launching = Launching(settings, self._discovery, self._images, self._volumes, answers)

    def clusters(self) -> tuple[str, ...]:
        """The clusters that tags name, sorted. One sweep over all places, which `members` draws on once."""
        return self._discovery.clusters()

    def members(self, cluster: str) -> tuple[Instance, ...]:
        """The instances of a cluster, quarantined ones included; those that were retired are not."""
        names = self._settings.tags
        machines = self._discovery.members(cluster)
        shown = [m for m in machines if not (m.state in ("terminated", "shutting-down") and names.retired in m.tags)]
        if not machines:
            raise self._nobody(cluster)
        images = self._images.of(shown)
        return tuple(instance_of(m, self._settings, images[m.id], self._images.launches(m)) for m in shown)

    def cluster_of(self, instance: InstanceId) -> str:
        """The cluster that its tag names. UsageError: there is no such instance, or it is in none."""
        machine = self._discovery.find(instance)
        cluster = None if machine is None else machine.tags.get(self._settings.tags.cluster)
        if cluster is None:
            raise UsageError(
                f"EC2 knows no {instance} with the tag {self._settings.tags.cluster}: `reaper status` lists the members"
            )
        return cluster

    def _nobody(self, cluster: str) -> UsageError:
        places = ", ".join(str(clients.place) for clients in self._discovery.places)
        tag = self._settings.tags.cluster
        return UsageError(
            f"there is no cluster {cluster!r} on EC2: no instance in {places} has the tag {tag} with that value"
        )

    def adopt(self, cluster: str, ask: Callable[[Instance], int]) -> tuple[Instance, ...]:
        """Tag the running members that have no server id with what their servers say; those that were tagged.

        `ask`: the id that a server runs with. UsageError: there is no such cluster.
        """
        name, adopted = self._settings.tags.server_id, []
        machines = self._discovery.members(cluster)
        if not machines:
            raise self._nobody(cluster)
        for machine in machines:
            if machine.state != "running" or name in machine.tags:
                continue
            unknown = instance_of(replace(machine, tags={**machine.tags, name: "0"}), self._settings)
            found = replace(unknown, server_id=ask(unknown))
            tag(machine.clients, [machine.id], {name: str(found.server_id)}, self._settings)
            adopted.append(found)
        self._discovery.changed(cluster)
        return tuple(adopted)

    def copies_hot(self, cluster: str) -> bool:
        """True: EBS copies a volume that is written to."""
        del cluster
        return True

    def snapshot(self, source: Instance, name: str, check: Callable[[], None]) -> Snapshot:
        """All data volumes of a replica at one moment."""
        machine = self._known(source)
        return self._volumes.take(machine, machine.tags.get(self._settings.tags.cluster, ""), name, check)

    def snapshots(self, cluster: str) -> tuple[Snapshot, ...]:
        """The complete snapshots of a cluster in all places, oldest first."""
        names = self._settings.tags
        found = [
            taken.snapshot(names)
            for clients in self._discovery.places
            for taken in self._volumes.of_cluster(clients, cluster)
        ]
        return tuple(sorted(found, key=lambda s: s.taken_at))

    def launch(
        self,
        cluster: str,
        snapshot: Snapshot,
        name: str,
        keeping: Keeping,
        berth: Berth,
        check: Callable[[], None],
    ) -> Instance:
        """A replacement with volumes from the snapshot. A volume is a copy always: to move is to delete it then."""
        machine = self._launching.find(cluster, name)
        if machine is None:
            taken = self._taken(snapshot)
            machine = self._launching.launch(Wish(cluster=cluster, name=name, berth=berth, taken=taken), check)
        else:
            machine = self._launching.wait_up(machine, check)
        self._discovery.changed(cluster)
        if keeping is Keeping.MOVE:
            self.forget(cluster, snapshot.name)
        return self._described(machine)

    def _taken(self, snapshot: Snapshot) -> Taken:
        for clients in self._discovery.places:
            found = self._volumes.look(clients, snapshot.name)
            if found is not None and found.whole:
                return found
        raise TryAgainError(f"there is no complete snapshot {snapshot.name} (any more): take one")

    def restart(self, instance: Instance, check: Callable[[], None]) -> Instance:
        """Stop and start: a reboot leaves no trace by which one could tell that it has happened."""
        machine = self._startable(instance)
        if state_of(machine, self._settings.tags) is InstanceState.FROZEN:
            raise TryAgainError(f"{instance.id} is cut off from the network: let it go on first")
        if not machine.over:
            self._launching.stop(machine, check)
            machine = self._startable(instance)
        machine = self._launching.start(machine, check)
        self._discovery.changed(None)
        return self._described(machine)

    def resume_source(self, source: Instance) -> None:
        """Start it if it has stopped; a snapshot here stops nobody."""
        machine = self._startable(source)
        if machine.state in ("stopped", "stopping"):
            self._launching.start(machine, nothing)
            self._discovery.changed(None)

    def _startable(self, instance: Instance) -> Machine:
        machine = self._known(instance)
        if self._settings.tags.quarantined_until in machine.tags:
            raise TryAgainError(f"{instance.id} is quarantined and never started again")
        return machine

    def protection(self, instance: Instance) -> str | None:
        """What in EC2 keeps it from being killed; None: nothing. `aim` refuses for the same reason."""
        return self._fences.protection(self._known(instance))

    def aim(self, instance: Instance) -> Trigger:
        """Look at it a last time and hold the result. RefusedError: it is not what it was, or is protected."""
        machine = self._known(instance)
        present = Address(machine.address or machine.id, port_of(machine, self._settings))
        if machine.state == "running" and present != instance.address:
            raise RefusedError(f"{instance.id} is at {present} now, not at {instance.address}: nothing is killed")
        self._discovery.changed(None)
        return self._fences.aim(machine)

    def proof_of_death(self, instance: Instance) -> str | None:
        """EC2 says that it has ended, twice, and nothing of it answers. One that EC2 has forgotten proves nothing."""
        machine = self._discovery.find(instance.id)
        return None if machine is None else self._fences.proof(machine, instance.address)

    def quarantine(self, instance: Instance, until: datetime) -> None:
        """Mark a dead one, and cut it off so that even somebody who starts it cannot let it in."""
        machine = self._known(instance)
        if not machine.over:
            raise RefusedError(f"{instance.id} is {machine.state}: only what is dead is quarantined")
        mark = {self._settings.tags.quarantined_until: until.isoformat()}
        tag(machine.clients, [machine.id], mark, self._settings)
        if machine.state == "stopped":
            self._fences.isolate(machine)
        self._discovery.changed(None)

    def retire(self, instance: Instance) -> None:
        """Terminate it, and delete what reaper made for it. Volumes that others made stay if they are to outlive it."""
        machine = self._discovery.find(instance.id)
        if machine is not None:
            # While it lives: EC2 may take no tags for what is terminated, and it is listed for an hour.
            with contextlib.suppress(NotThereError, BusyError):
                tag(machine.clients, [machine.id], {self._settings.tags.retired: "yes"}, self._settings)
            self._launching.terminate(machine, nothing)
        if instance.made_by is not None:
            for clients in self._discovery.places:
                cluster = dict(instance.tags or ()).get(self._settings.tags.cluster, "")
                self._volumes.delete_left_by(clients, cluster, instance.made_by)
        self._discovery.changed(None)

    def forget(self, cluster: str, snapshot: str) -> None:
        """Delete a snapshot by name, wherever it is."""
        del cluster
        for clients in self._discovery.places:
            self._volumes.forget(clients, snapshot)

    def belongings(self) -> tuple[Belonging, ...]:
        """Everything that reaper made and that is still there: what no run and no cluster needs is an orphan."""
        return tuple(
            sorted((b for c in self._discovery.places for b in self._belongings(c)), key=lambda b: (b.kind, b.id))
        )

    def _belongings(self, clients: Clients) -> list[Belonging]:
        names, client, found = self._settings.tags, clients.ec2, []
        region, made = clients.place.region, [tag_filter(self._settings.tags.made_by)]
        for reservation in pages(client, "describe_instances", "Reservations", "look at instances", Filters=made):
            for i in reservation["Instances"]:
                if i["State"]["Name"] != "terminated":
                    name = tags_of(i)[names.made_by]
                    found.append(Belonging(kind="instance", id=i["InstanceId"], name=name, region=region))
        for volume in pages(client, "describe_volumes", "Volumes", "look at volumes", Filters=made):
            name = tags_of(volume)[names.made_by]
            found.append(Belonging(kind="volume", id=volume["VolumeId"], name=name, region=region))
        mine = {"Filters": [tag_filter(names.snapshot)], "OwnerIds": ["self"]}
        for part in pages(client, "describe_snapshots", "Snapshots", "look at snapshots", **mine):
            name = tags_of(part)[names.snapshot]
            found.append(Belonging(kind="snapshot", id=part["SnapshotId"], name=name, region=region))
        return found

    def _known(self, instance: Instance) -> Machine:
        machine = self._discovery.find(instance.id)
        if machine is None:
            raise TryAgainError(f"EC2 knows no {instance.id} (any more)")
        return machine

    def _described(self, machine: Machine) -> Instance:
        image = self._images.of([machine])[machine.id]
        return instance_of(machine, self._settings, image, self._images.launches(machine))
