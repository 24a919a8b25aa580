"""The AWS lab: what EC2 does, as far as a failover can tell, with real servers behind it."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reaper.adapters.aws import lab
from reaper.adapters.aws.ec2 import Ec2Fleet
from reaper.adapters.aws.fencing import answers
from reaper.adapters.aws.labbook import LabBook, Ready
from reaper.adapters.aws.session import Clients
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.engines import dialect_of, find_engine
from reaper.adapters.mysql.server import SqlServer
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address, Instance, InstanceState, Openness
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
    def client(self) -> Any:
        """For what a person does."""
        return Clients(lab.settings_of(self.home).places[0]).ec2

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """With reaper's own account."""
        del cluster
        book = LabBook.read(self.home)
        dialect = dialect_of(book.flavour)
        connection = Connection(instance.address, book.logins.admin, tls=dialect.tls)
        return SqlServer(instance, connection, dialect, book.logins.replication)

    def state(self, instance: str) -> str:
        """What EC2 says."""
        found = self.client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return str(found["State"]["Name"])

    def processes(self) -> list[str]:
        """The command lines of everything that belongs to it."""
        shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
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
    heir = fleet.launch("shop", taken, "run-heir", Keeping.COPY, never)
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
    fleet.forget("run-snap")
    assert fleet.belongings() == ()
    assert len(fleet.members("shop")) == 2
    wait_for(lambda: len(list((site.home / "volumes").iterdir())) == 2)
    assert list((site.home / "snapshots").iterdir()) == []


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


def _described(client: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0]
    return found


def _refusal(call: Any, **arguments: Any) -> str:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as refused:
        call(**arguments)
    return str(refused.value.response["Error"]["Code"])


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
        assert len(site.processes()) == 2, "the servers go on"
    finally:
        lab.down(home)
        left = site.processes()
        shutil.rmtree(home.parent, ignore_errors=True)
    assert left == []
    assert not home.exists()
