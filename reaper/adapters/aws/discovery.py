"""Find instances by tag, over accounts and regions: calls grow with pages, not with instances."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from reaper.adapters.aws.errors import NotThereError, ask
from reaper.adapters.aws.session import CallCount, Clients
from reaper.adapters.aws.settings import PROVIDER, Ec2Settings, TagNames
from reaper.adapters.aws.waiting import looked
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address, Image, Instance, InstanceId, InstanceState

_PAGE = 1000  # the most that DescribeInstances takes
# A sweep serves one look at each cluster, and only for as long as a firing of the policies takes.
_SWEEP_SERVES_S = 60.0
_OVER = ("stopped", "terminated")


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A volume of an instance."""

    device: str
    volume: str
    ends_with_instance: bool


@dataclass(frozen=True, kw_only=True)
class Machine:
    """An instance as EC2 describes it."""

    id: str
    clients: Clients  # of the place where it is
    state: str
    why: str  # the reason of the state, "" if EC2 gives none
    address: str | None  # None: a terminated one has none
    zone: str | None
    subnet: str | None
    network: str | None
    born: datetime
    image: str
    tags: Mapping[str, str]
    groups: tuple[str, ...]
    disks: tuple[Disk, ...]  # without the root volume
    stops: bool  # False: it can only be terminated (spot, instance store)

    @property
    def over(self) -> bool:
        """True if EC2 says that it has ended."""
        return self.state in _OVER

    @property
    def instance_id(self) -> InstanceId:
        """As the rest of reaper names it."""
        return InstanceId(PROVIDER, f"{self.clients.place.region}/{self.id}")


def tags_of(described: Mapping[str, Any]) -> dict[str, str]:
    """The tags of anything that EC2 describes."""
    return {t["Key"]: t["Value"] for t in described.get("Tags", [])}


def tag_filter(name: str, *values: str) -> dict[str, object]:
    """A filter for a tag with one of the values, or with any."""
    return {"Name": f"tag:{name}", "Values": list(values)} if values else {"Name": "tag-key", "Values": [name]}


def pages(client: Any, operation: str, key: str, what: str, **arguments: object) -> Iterator[Any]:
    """The items of every page."""
    found = iter(client.get_paginator(operation).paginate(**arguments))
    while (page := ask(what, lambda: next(found, None))) is not None:
        yield from page[key]


def machine_of(described: Mapping[str, Any], clients: Clients) -> Machine:
    """From the answer of DescribeInstances.

    It was born when its network interface was attached: `LaunchTime` moves on whenever it is started again.
    """
    disks = [
        Disk(
            device=d["DeviceName"],
            volume=d["Ebs"]["VolumeId"],
            ends_with_instance=bool(d["Ebs"].get("DeleteOnTermination")),
        )
        for d in described.get("BlockDeviceMappings", [])
        if "Ebs" in d and d["DeviceName"] != described.get("RootDeviceName")
    ]
    attached = [n["Attachment"]["AttachTime"] for n in described.get("NetworkInterfaces", []) if n.get("Attachment")]
    spot = described.get("InstanceLifecycle") == "spot"
    return Machine(
        id=described["InstanceId"],
        clients=clients,
        state=described["State"]["Name"],
        why=str(described.get("StateReason", {}).get("Message") or ""),
        address=described.get("PrivateIpAddress") if described["State"]["Name"] != "terminated" else None,
        zone=described.get("Placement", {}).get("AvailabilityZone"),
        subnet=described.get("SubnetId"),
        network=described.get("VpcId"),
        born=min([described["LaunchTime"], *attached]).astimezone(UTC),
        image=described.get("ImageId", ""),
        tags=tags_of(described),
        groups=tuple(sorted(g["GroupId"] for g in described.get("SecurityGroups", []))),
        disks=tuple(disks),
        stops=not spot and described.get("RootDeviceType") != "instance-store",
    )


def describe(clients: Clients, client: Any, filters: Iterable[Mapping[str, object]], what: str) -> list[Machine]:
    """Every instance of a place that the filters let through."""
    size = {"PaginationConfig": {"PageSize": _PAGE}}
    reservations = pages(client, "describe_instances", "Reservations", what, Filters=list(filters), **size)
    return [machine_of(i, clients) for r in reservations for i in r["Instances"]]


def look_at(clients: Clients, client: Any, instance: str) -> Machine | None:
    """One instance at this moment; None: EC2 knows none of this name there."""
    try:
        answer = ask(f"look at {instance}", lambda: client.describe_instances(InstanceIds=[instance]))
    except NotThereError:
        return None
    found = [machine_of(i, clients) for r in answer["Reservations"] for i in r["Instances"]]
    return found[0] if found else None


def state_of(machine: Machine, names: TagNames) -> InstanceState:
    """What EC2 and reaper's own tags say. On its way to an end is not ended: it may still accept writes (I10)."""
    if names.quarantined_until in machine.tags:
        return InstanceState.QUARANTINED if machine.over else InstanceState.STRANGER
    if machine.over:
        return InstanceState.DEAD
    return InstanceState.FROZEN if names.groups in machine.tags else InstanceState.RUNNING


def port_of(machine: Machine, settings: Ec2Settings) -> int:
    """Where its server listens. UsageError: its tag is no port."""
    said = machine.tags.get(settings.tags.port)
    if said is None:
        return settings.port
    if not said.isdecimal() or not 0 < int(said) < 65536:
        raise UsageError(f"the tag {settings.tags.port} of {machine.instance_id} is {said!r}, which is no port")
    return int(said)


def instance_of(
    machine: Machine, settings: Ec2Settings, image: Image | None = None, template: str | None = None
) -> Instance:
    """As the rest of reaper knows it. UsageError: a tag that is needed is missing or cannot be read."""
    names, tags = settings.tags, machine.tags
    server_id = tags.get(names.server_id, "")
    if not server_id.isdecimal():
        raise UsageError(
            f"{machine.instance_id} has no tag {names.server_id} with its server's id ({server_id!r}): without it "
            "reaper cannot tell which ids are used. `reaper adopt CLUSTER` asks the servers and tags them"
        )
    until = tags.get(names.quarantined_until)
    try:
        quarantined = datetime.fromisoformat(until).astimezone(UTC) if until else None
    except ValueError:
        raise UsageError(f"the tag {names.quarantined_until} of {machine.instance_id} is {until!r}: no date") from None
    return Instance(
        id=machine.instance_id,
        address=Address(machine.address or machine.id, port_of(machine, settings)),
        server_id=int(server_id),
        created=machine.born,
        state=state_of(machine, names),
        own_volume=True,
        made_by=tags.get(names.made_by),
        quarantined_until=quarantined,
        tags=tuple(sorted(tags.items())),
        zone=machine.zone,
        group=tags.get(names.group),
        image=image,
        template=template,
    )


class Discovery:
    """Every member of every cluster. A sweep over all places serves each cluster once, later looks are fresh."""

    def __init__(
        self, settings: Ec2Settings, calls: CallCount, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._swept: dict[str, list[Machine]] = {}
        self._swept_at = -_SWEEP_SERVES_S
        self.places = tuple(Clients(place, calls) for place in settings.places)
        if not self.places:
            raise UsageError("EC2 is used without a region: name at least one")

    @property
    def home(self) -> Clients:
        """The first place, which keeps what belongs to no region."""
        return self.places[0]

    def clusters(self) -> tuple[str, ...]:
        """Sweep all places; the names that were found, sorted."""
        tag = self._settings.tags.cluster
        found: dict[str, list[Machine]] = {}
        for machine in self._everywhere([tag_filter(tag)], "find the clusters"):
            found.setdefault(machine.tags[tag], []).append(machine)
        with self._lock:
            self._swept, self._swept_at = found, self._monotonic()
        return tuple(sorted(found))

    def members(self, cluster: str) -> list[Machine]:
        """The instances of a cluster, oldest first."""
        with self._lock:
            fresh = self._monotonic() - self._swept_at < _SWEEP_SERVES_S
            swept = self._swept.pop(cluster, None)
        if swept is None or not fresh:
            swept = self._everywhere(
                [tag_filter(self._settings.tags.cluster, cluster)], f"find the members of {cluster}"
            )
        return sorted(swept, key=lambda m: (m.born, m.id))

    def changed(self, cluster: str | None) -> None:
        """Reaper has changed something: what the sweep saw of it counts no longer."""
        with self._lock:
            if cluster is None:
                self._swept.clear()
            else:
                self._swept.pop(cluster, None)

    def made_by(self, cluster: str, name: str) -> list[Machine]:
        """Whatever was launched under a derived name and has not ended for good."""
        return [
            m
            for m in self._everywhere(
                [tag_filter(self._settings.tags.cluster, cluster), tag_filter(self._settings.tags.made_by, name)],
                f"find what {name} made",
            )
            if m.state not in ("shutting-down", "terminated")
        ]

    def find(self, instance: InstanceId) -> Machine | None:
        """One instance at this moment; None: no place knows it. UsageError: it is no EC2 instance."""
        region, _, name = instance.name.partition("/")
        if instance.provider != PROVIDER or not name:
            raise UsageError(f"{instance} is no EC2 instance (expected {PROVIDER}:REGION/i-...)")
        for clients in self.places:
            if clients.place.region == region:
                found = looked(partial(look_at, clients, clients.ec2, name), pace=self._settings.pace)
                if found is not None:
                    return found
        return None

    def _everywhere(self, filters: list[dict[str, object]], what: str) -> list[Machine]:
        """Over all places at the same time. One that cannot be asked fails the whole: unknown is not empty (I10)."""

        def there(clients: Clients) -> list[Machine]:
            where = what if len(self.places) == 1 else f"{what} in {clients.place}"
            return looked(lambda: describe(clients, clients.ec2, filters, where), pace=self._settings.pace)

        if len(self.places) == 1:
            return there(self.home)
        with ThreadPoolExecutor(max_workers=min(16, len(self.places))) as pool:
            answers = pool.map(there, self.places)
            return [machine for answer in answers for machine in answer]
