"""The AWS lab: what EC2 does, as far as a failover can tell, with real servers behind it."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reaper.adapters.aws import lab
from reaper.adapters.aws.calls import Calls
from reaper.adapters.aws.ec2 import Ec2Fleet
from reaper.adapters.aws.endpoints import ElasticIp
from reaper.adapters.aws.fencing import answers
from reaper.adapters.aws.labbook import LabBook, LabDoor, Ready
from reaper.adapters.aws.session import Clients
from reaper.adapters.clock import SystemClock
from reaper.adapters.doors import DoorEndpoint
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.engines import dialect_of, find_engine
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.mysql.server import SqlServer
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address, Berth, Instance, InstanceState, Openness
from reaper.domain.snapshots import Keeping

FINDER = "reaper.adapters.mysql.engines:find_engine"
SOON = timedelta(seconds=60)
WITHIN_S = 60.0


def never() -> None:
    """A check that never aborts."""


class Site:
    """A lab and what one does with it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def fleet(self) -> Ec2Fleet:
        """Of a process that knows nothing yet."""
        return Ec2Fleet(lab.settings_of(self.home))

    @property
    def clients(self) -> Clients:
        """For what a person does."""
        return Clients(lab.settings_of(self.home).places[0])

    @property
    def client(self) -> Any:
        """The same in EC2."""
        return self.clients.ec2

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """With reaper's own account."""
        del cluster
        book = LabBook.read(self.home)
        dialect = dialect_of(book.flavour)
        connection = Connection(instance.address, book.logins.admin, tls=dialect.tls)
        return SqlServer(instance, connection, dialect, ReplicationAccount(book.logins.replication))

    def state(self, instance: str) -> str:
        """What EC2 says."""
        found = self.client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return str(found["State"]["Name"])

    def processes(self) -> list[str]:
        """The command lines of everything that belongs to it."""
        shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return [line for line in shown.splitlines() if str(self.home) in line]


def wait_for(what: Any) -> None:
    """Until it is true."""
    deadline = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One lab for the module: whoever breaks a cluster has made it."""
    home = Path(tempfile.mkdtemp(prefix="reaper-aws-")) / "lab"
    made = Site(home)
    try:
        lab.start(home, find_engine(None), FINDER, lab.Weather(delay=timedelta(seconds=1.5)))
        yield made
    finally:
        lab.down(home)
        left = made.processes()
        shutil.rmtree(home.parent, ignore_errors=True)
        assert left == []


def test_a_cluster_replicates_over_three_zones_and_a_whole_rotation_leaves_nothing(site: Site) -> None:
    """Snapshot, launch, join, crash, fence, promote, quarantine, retire: by hand, with the parts that reaper uses."""
    lab.add_cluster(site.home, "shop", site.connect)
    fleet = site.fleet
    members = fleet.members("shop")
    assert len({m.zone for m in members}) == 3
    assert len({m.server_id for m in members}) == 3
    by_openness: dict[bool, list[Instance]] = {True: [], False: []}
    for member in members:
        with contextlib.closing(site.connect("shop", member)) as server:
            by_openness[server.facts().openness is Openness.OPEN].append(member)
    (master,), (source, sibling) = by_openness[True], by_openness[False]
    with contextlib.closing(site.connect("shop", master)) as writer:
        writer.write_marker("before")
    taken = fleet.snapshot(source, "run-snap", never)
    heir = fleet.launch("shop", taken, "run-heir", Keeping.COPY, Berth(), never)
    with (
        contextlib.closing(site.connect("shop", heir)) as new,
        contextlib.closing(site.connect("shop", sibling)) as other,
    ):
        facts = new.facts()
        assert (facts.server_id, facts.openness) == (heir.server_id, Openness.READ_ONLY)
        assert facts.channels == ()
        with contextlib.closing(site.connect("shop", source)) as copied:
            history = copied.executed()
        new.join(master.address, position=taken.position, history=history)
        with contextlib.closing(site.connect("shop", master)) as writer:
            writer.write_marker("after")
            written = writer.executed()
        assert new.wait_applied(written, SOON)
        assert new.marker_visible("before")
        assert new.marker_visible("after")
        with contextlib.closing(fleet.aim(master)) as trigger:
            trigger.crash()
            assert trigger.fence(SOON)
        new.halt()
        other.halt()
        other.follow(heir.address)
        new.promote(arm_semi_sync=True)
        new.write_marker("promoted")
        assert other.wait_applied(new.executed(), SOON)
    fleet.quarantine(master, datetime.now(UTC))
    assert {m.id: m.state for m in fleet.members("shop")}[master.id] is InstanceState.QUARANTINED
    for member in (master, heir):
        fleet.retire(member)
    fleet.forget("shop", "run-snap")
    assert fleet.belongings() == ()
    left = fleet.members("shop")
    assert len(left) == 2
    wait_for(lambda: len(list((site.home / "volumes").iterdir())) == 2)
    assert list((site.home / "snapshots").iterdir()) == []
    # Their source's address is given to the next instance: they would replicate from another cluster's master.
    site.client.terminate_instances(InstanceIds=[m.id.short for m in left])
    wait_for(lambda: all(site.state(m.id.short) == "terminated" for m in left))


def test_states_are_gradual_tokens_count_and_the_terminated_stay_dead(site: Site) -> None:
    """What moto leaves out, and what a product that was only tried on moto gets wrong."""
    client, book = site.client, LabBook.read(site.home)
    wish = {
        "LaunchTemplate": {"LaunchTemplateId": book.template},
        "SubnetId": book.subnets[0],
        "MinCount": 1,
        "MaxCount": 1,
    }
    first = client.run_instances(ClientToken="t-1", **wish)["Instances"][0]
    assert first["State"]["Name"] == "pending"
    again = client.run_instances(ClientToken="t-1", **wish)["Instances"][0]
    assert again["InstanceId"] == first["InstanceId"]
    code = _refusal(client.run_instances, ClientToken="t-1", **wish | {"SubnetId": book.subnets[1]})
    assert code == "IdempotentParameterMismatch"
    name, address = first["InstanceId"], Address(first["PrivateIpAddress"], book.port)
    wait_for(lambda: answers(address))
    volumes = [d["Ebs"]["VolumeId"] for d in _described(client, name)["BlockDeviceMappings"]]
    client.stop_instances(InstanceIds=[name])
    assert site.state(name) == "stopping"
    wait_for(lambda: site.state(name) == "stopped")
    assert not answers(address)
    client.start_instances(InstanceIds=[name])
    wait_for(lambda: answers(address))
    client.terminate_instances(InstanceIds=[name], SkipOsShutdown=True)
    wait_for(lambda: site.state(name) == "terminated")
    assert not answers(address)
    assert _refusal(client.start_instances, InstanceIds=[name]) == "IncorrectInstanceState"
    assert _refusal(client.run_instances, ClientToken="t-1", **wish) == "IdempotentInstanceTerminated"
    left = {v["VolumeId"] for v in client.describe_volumes()["Volumes"]}
    assert not left & set(volumes), "DeleteOnTermination"
    wanted = [{"Name": "addresses.private-ip-address", "Values": [address.host]}]
    wait_for(lambda: not client.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"])


def _described(client: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0]
    return found


def _refusal(call: Any, **arguments: Any) -> str:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as refused:
        call(**arguments)
    return str(refused.value.response["Error"]["Code"])


@pytest.fixture(scope="module")
def two_clusters(site: Site) -> dict[str, tuple[Instance, ...]]:
    """Their masters first; made at the same time."""
    names = ("till", "stock")
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda name: lab.add_cluster(site.home, name, site.connect, nodes=2), names)
        return dict(zip(names, made, strict=True))


def test_every_cluster_has_a_door_of_its_own_through_which_one_writes_on_the_master(
    site: Site, two_clusters: dict[str, tuple[Instance, ...]]
) -> None:
    doors = {cluster: lab.door_of(site.home, cluster) for cluster in two_clusters}
    assert len({door.listen for door in doors.values()}) == 2
    for cluster, (master, replica) in two_clusters.items():
        door = doors[cluster]
        (elastic,) = site.client.describe_addresses(AllocationIds=[door.allocation])["Addresses"]
        assert elastic["PublicIp"] == door.listen.host
        assert {"Key": "reaper:cluster", "Value": cluster} in elastic["Tags"]
        with (
            contextlib.closing(site.connect(cluster, replace(master, address=door.listen))) as outside,
            contextlib.closing(site.connect(cluster, replica)) as behind,
        ):
            assert outside.facts().server_id == master.server_id
            outside.write_marker(cluster)
            assert outside.marker_visible(cluster)
            assert behind.wait_applied(outside.executed(), SOON)
            assert behind.marker_visible(cluster)
    with pytest.raises(UsageError, match="no cluster nobody"):
        lab.door_of(site.home, "nobody")


def _endpoint(site: Site, door: LabDoor) -> DoorEndpoint:
    """As reaper moves it."""
    elastic = ElasticIp(
        Calls(site.client, SystemClock()), allocation=door.allocation, port=door.listen.port, vpc=door.vpc
    )
    return DoorEndpoint(elastic, door.listen, SystemClock())


def _led_to(door: LabDoor, site: Site, cluster: str, member: Instance) -> bool:
    """Whether a new connection through the door reaches this one."""
    if not answers(door.listen):
        return False
    with contextlib.closing(site.connect(cluster, replace(member, address=door.listen))) as outside:
        return outside.facts().server_id == member.server_id


@contextlib.contextmanager
def _inside(door: LabDoor) -> Iterator[socket.socket]:
    """A client that was led to a server: it was greeted."""
    with socket.create_connection((door.listen.host, door.listen.port), timeout=WITHIN_S) as client:
        assert client.recv(4096)
        yield client


def _ended(client: socket.socket) -> bool:
    """Whether the other side ended it, within the client's time-out."""
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return True


def test_a_moved_door_leads_to_the_other_server_and_ends_who_was_led_to_the_first(
    site: Site, two_clusters: dict[str, tuple[Instance, ...]]
) -> None:
    """By reaper's own endpoint, there and back; the other cluster's door is none of its business."""
    master, replica = two_clusters["till"]
    door, other = (lab.door_of(site.home, cluster) for cluster in two_clusters)
    endpoint = _endpoint(site, door)
    with _inside(other) as bystander:
        for before, after in ((master, replica), (replica, master)):
            with _inside(door) as client:
                assert endpoint.route(after.address, expected=before.address).target == after.address
                assert _ended(client)
            wait_for(lambda after=after: _led_to(door, site, "till", after))
        bystander.settimeout(0.2)
        with pytest.raises(TimeoutError):
            bystander.recv(1)


def test_nobody_is_let_in_while_the_address_is_nobodys(
    site: Site, two_clusters: dict[str, tuple[Instance, ...]]
) -> None:
    """Disassociated by hand, by the end of its instance, and released: then there is not even a door."""
    door, endpoint = (d := lab.door_of(site.home, "stock")), _endpoint(site, d)
    master, replica = two_clusters["stock"]
    client = site.client
    (elastic,) = client.describe_addresses(AllocationIds=[door.allocation])["Addresses"]
    with _inside(door) as led:
        client.disassociate_address(AssociationId=elastic["AssociationId"])
        assert _ended(led)
    assert not answers(door.listen)
    assert endpoint.show().target is None
    endpoint.route(replica.address, expected=None)
    wait_for(lambda: _led_to(door, site, "stock", replica))
    taken = {"AllocationId": door.allocation, "InstanceId": master.id.short, "AllowReassociation": False}
    assert _refusal(client.associate_address, **taken) == "Resource.AlreadyAssociated"
    with _inside(door) as led:
        client.terminate_instances(InstanceIds=[replica.id.short])
        assert _ended(led)
    assert not answers(door.listen)
    assert endpoint.show().target is None
    client.release_address(AllocationId=door.allocation)
    wait_for(lambda: _closed(door.listen))
    assert client.allocate_address(Domain="vpc")["PublicIp"] == door.listen.host
    wait_for(lambda: not _closed(door.listen))


def _closed(address: Address) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection((address.host, address.port), timeout=WITHIN_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_record_is_created_once_and_deleted_only_as_it_is(site: Site) -> None:
    """The lab has what the unit tests' moto has; more of it is tried there."""
    route53 = site.clients.of("route53")
    zone = route53.create_hosted_zone(Name="lab.example", CallerReference="one")["HostedZone"]["Id"]
    record: dict[str, object] = {
        "Name": "db.lab.example",
        "Type": "A",
        "TTL": 5,
        "ResourceRecords": [{"Value": "127.0.0.2"}],
    }

    def change(action: str, **other: object) -> Any:
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": record | other}]}
        return route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=batch)

    made = change("CREATE")["ChangeInfo"]["Id"]
    states = [route53.get_change(Id=made)["ChangeInfo"]["Status"] for _ in range(2)]
    assert states == ["PENDING", "INSYNC"]
    for action, other in (("CREATE", {}), ("DELETE", {"TTL": 6})):
        with pytest.raises(route53.exceptions.InvalidChangeBatch):
            change(action, **other)
    change("DELETE")
    shown = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    assert "db.lab.example." not in {r["Name"] for r in shown}
    refreshes = site.clients.of("autoscaling").describe_instance_refreshes(AutoScalingGroupName="any")
    assert refreshes["InstanceRefreshes"] == []


def test_a_lab_whose_process_was_killed_is_removed_with_its_servers() -> None:
    home = Path(tempfile.mkdtemp(prefix="reaper-aws-")) / "lab"
    site = Site(home)
    try:
        lab.up(home, find_engine(None), FINDER, site.connect, nodes=2)
        environment = lab.environment(home)
        assert environment["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
        assert home.stat().st_mode & 0o777 == 0o700
        secret = LabBook.read(home).admin.password.get_secret_value()
        assert not any(secret in line for line in site.processes())
        ready = Ready.read(home)
        assert ready is not None
        subprocess.run(["kill", "-9", str(ready.pid)], check=True)
        wait_for(lambda: not any("lab_process" in line for line in site.processes()))
        with pytest.raises(UsageError, match="does not run"):
            lab.settings_of(home)
        assert len(site.processes()) == 3, "the servers go on, and the door"
        assert answers(lab.door_of(home, "lab").listen)
    finally:
        lab.down(home)
        left = site.processes()
        shutil.rmtree(home.parent, ignore_errors=True)
    assert left == []
    assert not home.exists()
