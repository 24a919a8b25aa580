"""Make and remove an AWS lab: EC2 on loopback, whose instances are real servers.

Its process survives the command that made it; what is known of it lies in one directory. Whoever has the environment
that `environment` tells works with it as with AWS: reaper, the AWS CLI, anything made with boto3.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from reaper.adapters.accounts import AccountRecord
from reaper.adapters.aws.discovery import instance_of, look_at
from reaper.adapters.aws.errors import ask
from reaper.adapters.aws.fencing import answers
from reaper.adapters.aws.labbook import LAB_PROCESS, DoorRecord, LabBook, LabDoor, Ready, is_of, processes_of
from reaper.adapters.aws.serverids import ServerIds
from reaper.adapters.aws.session import Clients, Keys, Place
from reaper.adapters.aws.settings import Ec2Settings, TagNames
from reaper.adapters.aws.userdata import Birth, render, shipped
from reaper.adapters.aws.volumes import tag_list
from reaper.adapters.aws.waiting import Pace, nothing, repeat, until
from reaper.adapters.logtail import log_tail
from reaper.domain.errors import ReaperError, TryAgainError, UsageError
from reaper.domain.facts import Address, Instance, ThreadState
from reaper.workflow.engine import Engine
from reaper.workflow.server import Server

SCHEMAS = ("reaper", "app")
REGION = "eu-central-1"
DEVICE = "/dev/sdf"
_ZONES = "abc"
_TAGS = TagNames()
_SERVES_WITHIN = timedelta(seconds=90)  # moto imports for a while on a busy machine
_ENDS_WITHIN = timedelta(seconds=60)
_OPENS_WITHIN = timedelta(seconds=60)
_REPLICATES_WITHIN = timedelta(seconds=60)
_LOOK_EVERY = timedelta(milliseconds=50)

# How fast the lab is, in place of what AWS needs.
PACE = Pace(
    look_every=timedelta(milliseconds=50),
    look_hard_every=timedelta(milliseconds=20),
    seen_within=timedelta(seconds=5),
    repeat_within=timedelta(minutes=1),
    snapshot_within=timedelta(minutes=5),
    boot_within=timedelta(minutes=3),
    end_within=timedelta(minutes=2),
)
Connect = Callable[[str, Instance], Server]


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What the lab is to be like."""

    delay: timedelta = timedelta(milliseconds=200)  # of every state on the way to another one
    failing: float = 0.0  # share of calls that fail, half of them after they were carried out
    seed: int = 1


def settings_of(home: Path) -> Ec2Settings:
    """How reaper works with a lab. UsageError: it does not run."""
    book, ready = LabBook.read(home), _serving(home)
    keys = Keys(access=book.access_key, secret=book.access_key)
    place = Place(region=book.region, keys=keys, endpoint=ready.url)
    return Ec2Settings(places=(place,), pace=PACE, port=book.port, user_data=shipped())


def environment(home: Path) -> dict[str, str]:
    """What to export so that programs work with the lab and never with AWS. UsageError: it does not run."""
    book, ready = LabBook.read(home), _serving(home)
    return {
        "AWS_ENDPOINT_URL": ready.url,
        "AWS_ACCESS_KEY_ID": book.access_key,
        "AWS_SECRET_ACCESS_KEY": book.access_key,
        "AWS_DEFAULT_REGION": book.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
    }


def door_of(home: Path, cluster: str) -> LabDoor:
    """Where applications reach a cluster. UsageError: there is no such cluster, or not yet."""
    return LabBook.read(home).door(cluster)


def _serving(home: Path) -> Ready:
    ready = Ready.read(home)
    if ready is None or not is_of(ready.pid, home):
        raise UsageError(f"the AWS lab in {home} does not run (any more): remove it and make another one")
    return ready


# ---- up


def start(home: Path, engine: Engine, finder: str, weather: Weather | None = None) -> None:
    """Start a lab without any cluster: a network with three zones, security groups, a launch template.

    `finder`: `package.module:function` that makes the engine from its program again, in the lab's process. Nothing is
    left behind when it fails. UsageError: there is one.
    """
    if LabBook.path(home).exists():
        raise UsageError(f"there is an AWS lab in {home}: remove it first")
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    weather = weather or Weather()
    try:
        book = _new_book(home, engine, finder, weather)
        book.write(home)
        engine.initialise(home / "seed", book.logins, SCHEMAS, home / "initialise.log")
        _spawn(home)
        _furnish(home, book)
    except BaseException:
        with contextlib.suppress(ReaperError):
            down(home)
        raise


def up(
    home: Path,
    engine: Engine,
    finder: str,
    connect: Connect,
    *,
    cluster: str = "lab",
    nodes: int = 3,
    weather: Weather | None = None,
    check: Callable[[], None] = nothing,
) -> dict[str, str]:
    """A lab with one replicating cluster. Returns the environment to export; nothing is left behind on failure."""
    start(home, engine, finder, weather)
    try:
        add_cluster(home, cluster, connect, nodes=nodes, check=check)
    except BaseException:
        with contextlib.suppress(ReaperError):
            down(home)
        raise
    return environment(home)


def _new_book(home: Path, engine: Engine, finder: str, weather: Weather) -> LabBook:
    port = Ec2Settings(places=()).port
    network, zones, public_range = _free_network(home, port)
    return LabBook(
        flavour=engine.flavour,
        finder=finder,
        program=engine.program,
        network=network,
        zones=zones,
        public_range=public_range,
        port=port,
        region=REGION,
        access_key=f"LAB{secrets.token_hex(8).upper()}",
        delay_s=weather.delay.total_seconds(),
        failing=weather.failing,
        seed=weather.seed,
        admin=_account("reaper"),
        replication=_account("replication"),
        application=_account("application"),
    )


def _account(user: str) -> AccountRecord:
    return AccountRecord.model_validate({"user": user, "password": secrets.token_urlsafe(24)})


def _free_network(home: Path, port: int) -> tuple[str, dict[str, str], str]:
    """A range of loopback addresses where nobody listens, at a place derived from the directory.

    With the zones' subnets in it, and what is left, for public addresses.
    """
    begin = int.from_bytes(hashlib.sha256(str(home).encode()).digest()[:2])
    for step in range(64):
        place = (begin + step) % (200 * 63)
        second, third = 16 + place // 63, 4 + 4 * (place % 63)
        network = f"127.{second}.{third}.0/22"
        *subnets, public_range = (f"127.{second}.{third + n}.0/24" for n in range(4))
        # The first address that a subnet gives away is its fifth ("Subnet CIDR blocks" in the VPC User Guide).
        first = [r.replace(".0/24", ".4") for r in subnets] + [public_range.replace(".0/24", ".1")]
        if all(_free(host, port) for host in first):
            return network, dict(zip(_ZONES, subnets, strict=True)), public_range
    raise UsageError("no free range of loopback addresses was found for the lab: something listens on all of them")


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            return True
    return False


def _spawn(home: Path) -> None:
    """Start the lab's process and wait until it serves."""
    log = home / "lab.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", LAB_PROCESS, str(home)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    _children.append(process)

    def look() -> Ready | None:
        if process.poll() is not None:
            raise UsageError(
                f"the AWS lab ended at once ({process.returncode}): {log_tail(log)}. It needs moto with its server: "
                "pip install 'reaper[lab]'"
            )
        return Ready.read(home)

    until(look, what="the AWS lab did not serve", within=_SERVES_WITHIN, every=_LOOK_EVERY)


_children: list["subprocess.Popen[bytes]"] = []  # so that who ended is reaped, and nobody is warned of who lives on


def _furnish(home: Path, book: LabBook) -> None:
    """What a site has before reaper comes: network, security groups, an image, a launch template."""
    client = _clients(home).ec2
    made = ask("make the lab's network", lambda: client.create_vpc(CidrBlock=book.network))
    book.vpc = vpc = str(made["Vpc"]["VpcId"])
    book.subnets = [
        client.create_subnet(VpcId=vpc, CidrBlock=r, AvailabilityZone=f"{book.region}{letter}")["Subnet"]["SubnetId"]
        for letter, r in book.zones.items()
    ]
    servers = _group(client, vpc, "mysql", {"Name": "mysql"})
    rule = {"IpProtocol": "tcp", "FromPort": book.port, "ToPort": book.port, "IpRanges": [{"CidrIp": "127.0.0.0/8"}]}
    client.authorize_security_group_ingress(GroupId=servers, IpPermissions=[rule])
    isolation = _group(client, vpc, "isolated", {"Name": "isolated", _TAGS.isolation: "yes"})
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    client.revoke_security_group_egress(GroupId=isolation, IpPermissions=everything)
    book.groups = [servers, isolation]
    image = client.register_image(Name="mysql-1", RootDeviceName="/dev/sda1", Architecture="x86_64")["ImageId"]
    template = client.create_launch_template(
        LaunchTemplateName="mysql",
        LaunchTemplateData={
            "ImageId": image,
            "InstanceType": "t3.micro",
            "SecurityGroupIds": [servers],
            "BlockDeviceMappings": [
                {"DeviceName": DEVICE, "Ebs": {"VolumeSize": 1, "VolumeType": "gp3", "DeleteOnTermination": True}}
            ],
        },
    )
    book.template = template["LaunchTemplate"]["LaunchTemplateId"]
    book.write(home)


def _group(client: Any, vpc: str, name: str, tags: dict[str, str]) -> str:
    spec = [{"ResourceType": "security-group", "Tags": tag_list(tags)}]
    made = client.create_security_group(GroupName=name, Description=name, VpcId=vpc, TagSpecifications=spec)
    return str(made["GroupId"])


def _clients(home: Path) -> Clients:
    return Clients(settings_of(home).places[0])


def add_cluster(
    home: Path, cluster: str, connect: Connect, *, nodes: int = 3, check: Callable[[], None] = nothing
) -> tuple[Instance, ...]:
    """Launch a cluster over the zones, let it replicate, and open a door to its master, which is the first one."""
    if not 2 <= nodes <= 20:
        raise UsageError(f"a lab has 2 to 20 nodes, not {nodes}: a master without a replica cannot fail over")
    book, settings = LabBook.read(home), settings_of(home)
    clients = _clients(home)
    ids = ServerIds(clients, settings.counters, settings.pace)
    given: list[int] = []
    for number in range(nodes):
        given.append(ids.give(cluster, f"{cluster}-{number + 1}", given))
    launched = [_launch(clients, book, cluster, number, server_id) for number, server_id in enumerate(given)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        members = tuple(pool.map(lambda i: _wait_up(clients, settings, i, check), launched))
    _replicate(cluster, members, connect)
    door = _open_door(clients, settings, cluster, members[0], check)
    with LabBook.changing(home) as now:
        now.doors[cluster] = door
    return members


def _open_door(
    clients: Clients, settings: Ec2Settings, cluster: str, master: Instance, check: Callable[[], None]
) -> DoorRecord:
    """An Elastic IP of the cluster, associated with the master; it answers when this returns."""
    pace = settings.pace
    door = repeat(lambda: _elastic_ip(clients, cluster), within=pace.repeat_within, check=check)
    wish = {"AllocationId": door.allocation, "InstanceId": master.id.short, "PrivateIpAddress": master.address.host}
    repeat(
        lambda: ask(
            f"open the door of {cluster}", lambda: clients.ec2.associate_address(AllowReassociation=True, **wish)
        ),
        within=pace.repeat_within,
        check=check,
    )
    address = Address(door.public_ip, settings.port)
    until(
        lambda: answers(address) or None,
        what=f"nobody answered at the door {address} of {cluster} (gateway.log may say why)",
        within=_OPENS_WITHIN,
        every=_LOOK_EVERY,
        check=check,
    )
    return door


def _elastic_ip(clients: Clients, cluster: str) -> DoorRecord:
    """The one that is there, if an answer was lost, or a new one."""
    what, tags = f"allocate the door of {cluster}", {"Name": cluster, _TAGS.cluster: cluster}
    wanted = [{"Name": f"tag:{_TAGS.cluster}", "Values": [cluster]}]
    found = ask(what, lambda: clients.ec2.describe_addresses(Filters=wanted))["Addresses"]
    spec = [{"ResourceType": "elastic-ip", "Tags": tag_list(tags)}]
    made = found[0] if found else ask(what, lambda: clients.once.allocate_address(Domain="vpc", TagSpecifications=spec))
    return DoorRecord(allocation=made["AllocationId"], public_ip=made["PublicIp"])


def _launch(clients: Clients, book: LabBook, cluster: str, number: int, server_id: int) -> str:
    name = f"{cluster}-{number + 1}"
    script = render(shipped(), Birth(server_id=server_id, device=DEVICE, cluster=cluster, name=name))
    tags = {"Name": name, _TAGS.cluster: cluster, _TAGS.server_id: str(server_id)}
    made = ask(
        f"launch {name}",
        lambda: clients.ec2.run_instances(
            LaunchTemplate={"LaunchTemplateId": book.template, "Version": "$Default"},
            MinCount=1,
            MaxCount=1,
            SubnetId=book.subnets[number % len(book.subnets)],
            UserData=script,
            ClientToken=f"lab-{name}",
            TagSpecifications=[{"ResourceType": "instance", "Tags": tag_list(tags)}],
        ),
    )
    return str(made["Instances"][0]["InstanceId"])


def _wait_up(clients: Clients, settings: Ec2Settings, instance: str, check: Callable[[], None]) -> Instance:
    def look() -> Instance | None:
        machine = look_at(clients, clients.ec2, instance)
        if machine is None or machine.state != "running":
            return None
        found = instance_of(machine, settings, None)
        return found if answers(found.address) else None

    pace = settings.pace
    what = f"{instance} did not come up"
    return until(look, what=what, within=pace.boot_within, every=pace.look_every, check=check)


def _replicate(cluster: str, members: tuple[Instance, ...], connect: Connect) -> None:
    master, *replicas = members
    for replica in replicas:
        with contextlib.closing(connect(cluster, replica)) as server:
            server.join(master.address, position=None, history=None)
            _wait_replicating(server)
    with contextlib.closing(connect(cluster, master)) as server:
        server.promote(arm_semi_sync=True)


def _wait_replicating(server: Server) -> None:
    def look() -> bool | None:
        facts = server.facts()
        states = {(c.receiver, c.applier) for c in facts.channels}
        running = states == {(ThreadState.RUNNING, ThreadState.RUNNING)}
        return True if running and facts.semi_sync.replica_active else None

    until(look, what=f"{server.instance} did not replicate", within=_REPLICATES_WITHIN, every=_LOOK_EVERY)


# ---- down


def down(home: Path) -> tuple[int, ...]:
    """End every process of a lab and delete its directory. Returns the processes that were ended."""
    ready = Ready.read(home)
    ended = []
    if ready is not None and is_of(ready.pid, home):
        os.kill(ready.pid, signal.SIGTERM)
        ended.append(ready.pid)
        with contextlib.suppress(TryAgainError):
            _wait_gone(home)
    for pid in processes_of(home):  # of a lab whose process was killed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            ended.append(pid)
    _wait_gone(home)
    _children[:] = [c for c in _children if c.poll() is None]
    shutil.rmtree(home, ignore_errors=True)
    return tuple(ended)


def _wait_gone(home: Path) -> None:
    def look() -> bool | None:
        for child in _children:
            child.poll()
        return None if processes_of(home) else True

    until(look, what=f"the processes of {home} did not end", within=_ENDS_WITHIN, every=_LOOK_EVERY)
