"""AWS labs as a stranger makes them: through the command line, with the environment that it prints.

And what one sees of them from outside: everything in their EC2, a load with its own ledger, who accepts writes.
"""

import itertools
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
from labs import Lab, Said, Session, Site, until
from pymysql.cursors import DictCursor
from witness import OneOpen, Writers, hang_up, markers, own_tables

from reaper.adapters.aws import lab
from reaper.adapters.aws.ec2 import Ec2Fleet
from reaper.adapters.aws.labbook import LabBook
from reaper.adapters.aws.session import Clients
from reaper.domain.facts import Address, Instance, InstanceState

_BOUND_TO = re.compile(r"^bind-address = (\S+)$", re.MULTILINE)
_OWN_WORDS = ("made-by", "snapshot", "quarantined-until", "groups", "retired")  # tags that reaper writes for itself


def connect(address: Address, login: Mapping[str, str], *, patience_s: float = 2) -> Session:
    """A session that gives up soon: its server may be frozen or dead."""
    return pymysql.connect(
        host=address.host,
        port=address.port,
        user=login["user"],
        password=login["password"],
        autocommit=True,
        charset="utf8mb4",
        cursorclass=DictCursor,
        connect_timeout=2,
        read_timeout=patience_s,
        write_timeout=patience_s,
        ssl_disabled=True,
    )


@dataclass
class AwsSite(Site):
    """One REAPER_HOME, and what a shell has exported that works with an AWS lab in it."""

    exported: dict[str, str] = field(default_factory=dict)
    heard: list[Said] = field(default_factory=list)  # everything that commands have said

    def cli(self, *args: str | Path, **how: Any) -> Said:
        said = super().cli(*args, **how)
        self.heard.append(said)
        return said

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        return super().environment(self.exported | dict(env or {}))

    def make_aws_lab(self, name: str = "shop", nodes: int = 3) -> "AwsLab":
        """`eval "$(reaper lab up --provider ec2)"`; removed with the site."""
        said = self.cli("lab", "up", "--provider", "ec2", "--name", name, "--nodes", str(nodes), timeout=240)
        assert said.code == 0, said.all
        self.exported = dict(word.split("=", 1) for word in shlex.split(said.out) if word != "export")
        return AwsLab(self, name)

    def remove_all(self) -> dict[int, str]:
        """`reaper lab down` for every AWS lab, then as for local ones."""
        homes = self.home / "aws"
        for name in sorted(p.name for p in homes.iterdir()) if homes.is_dir() else ():
            self.cli("lab", "down", "--name", name)
        return super().remove_all()


@contextmanager
def aws_site() -> Iterator[AwsSite]:
    """An empty one; its labs, processes and files go with it."""
    above = Path(tempfile.mkdtemp(prefix="reaper-test-"))
    above.chmod(0o755)
    site = AwsSite(above / "home")
    try:
        yield site
    finally:
        left = site.remove_all()
        shutil.rmtree(above, ignore_errors=True)
        assert not left, f"processes were left behind: {left}"


@dataclass(frozen=True)
class AwsLab(Lab):
    """One AWS lab of a site. Instances are named by their id in EC2, as `i-0abc`."""

    site: AwsSite

    @property
    def directory(self) -> Path:
        return self.site.home / "aws" / self.name

    def book(self) -> dict[str, Any]:
        """lab.json, and the port of the door."""
        return super().book() | {"endpoint_port": self.door.port}

    @property
    def fleet(self) -> Ec2Fleet:
        """Of a process that knows nothing yet."""
        return Ec2Fleet(lab.settings_of(self.directory))

    @property
    def clients(self) -> Clients:
        """For what a person does, and for looking."""
        return Clients(lab.settings_of(self.directory).places[0])

    @property
    def ec2(self) -> Any:
        return self.clients.ec2

    @property
    def door(self) -> Address:
        """Where applications connect."""
        return lab.door_of(self.directory, self.name).listen

    def members(self) -> dict[str, Instance]:
        """Those that run and are not quarantined, by id."""
        found = self.fleet.members(self.name)
        return {m.id.short: m for m in found if m.state is InstanceState.RUNNING}

    @property
    def instances(self) -> list[str]:
        return sorted(self.members())

    def full_name(self, instance: str) -> str:
        """As reaper names it."""
        return f"ec2:{LabBook.read(self.directory).region}/{instance}"

    @property
    def master(self) -> str:
        """The instance that an application reaches."""
        server_id = int(self.endpoint_sql("SELECT @@server_id AS id")[0]["id"])
        return next(name for name, member in self.members().items() if member.server_id == server_id)

    @property
    def replicas(self) -> list[str]:
        master = self.master
        return [name for name in self.instances if name != master]

    def state(self, instance: str) -> str:
        """What EC2 says."""
        return str(self.described(instance)["State"]["Name"])

    def described(self, instance: str) -> dict[str, Any]:
        """All that EC2 says."""
        (reservation,) = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
        found: dict[str, Any] = reservation["Instances"][0]
        return found

    def tags(self, instance: str) -> dict[str, str]:
        return _tags(self.described(instance))

    def addresses(self) -> dict[str, Address]:
        """Where the servers on disk listen, without asking EC2."""
        found, port = {}, self.door.port
        for home in (self.directory / "instances").iterdir():
            try:
                bound = _BOUND_TO.findall((home / "my.cnf").read_text())
            except OSError:
                continue  # it is being made, or removed
            if bound:
                found[home.name] = Address(bound[-1], port)  # the image's own, and then the instance's
        return found

    # ---- sessions

    def session(self, instance: str, *, account: str = "admin") -> Session:
        return connect(self.addresses()[instance], self.book()[account], patience_s=60)

    def endpoint_session(self) -> Session:
        return connect(self.door, self.book()["application"], patience_s=60)


class AwsWriters(Writers):
    """Clients that write through the Elastic IP and remember each write that they were told is committed."""

    def __init__(self, lab: AwsLab, clients: int = 3, pause_s: float = 0.03) -> None:
        super().__init__(lab, clients, pause_s)
        self._door = lab.door

    def _write(self, client: int) -> None:
        session = None
        for seq in itertools.count(1):
            if self._done.wait(self._pause_s):
                break
            try:
                session = session or connect(self._door, self._login)
                with session.cursor() as cursor:
                    cursor.execute("INSERT INTO app.receipts VALUES (%s, %s, %s)", (self._load, client, seq))
                self.acknowledged.append((self._load, client, seq))
            except (pymysql.MySQLError, OSError):
                hang_up(session)
                session = None
        hang_up(session)


class AwsOneOpen(OneOpen):
    """Looks every few milliseconds at who accepts writes (I2)."""

    def __init__(self, lab: AwsLab) -> None:
        super().__init__(lab)
        self._aws = lab

    def _watch(self) -> None:
        addresses: dict[str, Address] = {}
        while not self._done.wait(0.01):
            if self.looks % 10 == 0:
                addresses = self._aws.addresses()
            for name, address in addresses.items():
                if self._accepts(name, address) and (not self.owners or self.owners[-1] != name):
                    self.owners.append(name)
            self.looks += 1

    def _accepts(self, name: str, address: Address) -> bool:
        key = hash(name)
        try:
            if key not in self._sessions:
                self._sessions[key] = connect(address, self._login)
            with self._sessions[key].cursor() as cursor:
                cursor.execute("SELECT @@global.read_only AS closed")
                (row,) = cursor.fetchall()
                return not int(row["closed"])
        except (pymysql.MySQLError, OSError):
            hang_up(self._sessions.pop(key, None))
            return False


# ---- everything in its EC2


def _tags(described: Mapping[str, Any]) -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in described.get("Tags", described.get("TagSet", []))}


@dataclass(frozen=True, kw_only=True)
class Account:
    """What there is in the account, and who needs it."""

    instances: dict[str, dict[str, str]]  # those that have not ended: their tags
    groups_of: dict[str, tuple[str, ...]]  # their security groups
    volumes: dict[str, str | None]  # to what each is attached
    interfaces: dict[str, str | None]
    snapshots: frozenset[str]
    fixed: dict[str, Any]  # what no rotation may change

    @classmethod
    def of(cls, lab: AwsLab) -> "Account":
        clients = lab.clients
        ec2, route53, ssm = clients.ec2, clients.of("route53"), clients.ssm
        described = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        living = {i["InstanceId"]: i for i in described if i["State"]["Name"] != "terminated"}
        return cls(
            instances={name: _tags(i) for name, i in living.items()},
            groups_of={name: tuple(g["GroupId"] for g in i["SecurityGroups"]) for name, i in living.items()},
            volumes={v["VolumeId"]: _holder(v["Attachments"]) for v in ec2.describe_volumes()["Volumes"]},
            interfaces={
                n["NetworkInterfaceId"]: n.get("Attachment", {}).get("InstanceId")
                for n in ec2.describe_network_interfaces()["NetworkInterfaces"]
            },
            snapshots=frozenset(s["SnapshotId"] for s in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]),
            fixed={
                "addresses": [(a["AllocationId"], _tags(a)) for a in ec2.describe_addresses()["Addresses"]],
                "security groups": [
                    (g["GroupId"], g["IpPermissions"], g["IpPermissionsEgress"], _tags(g))
                    for g in ec2.describe_security_groups()["SecurityGroups"]
                ],
                "templates": [
                    (t["LaunchTemplateId"], t["LatestVersionNumber"], t["DefaultVersionNumber"])
                    for t in ec2.describe_launch_templates()["LaunchTemplates"]
                ],
                "images": [(i["ImageId"], _tags(i)) for i in ec2.describe_images(Owners=["self"])["Images"]],
                "parameters": [p["Name"] for p in ssm.describe_parameters()["Parameters"]],
                "zones": [z["Id"] for z in route53.list_hosted_zones()["HostedZones"]],
            },
        )


def _holder(attachments: list[dict[str, Any]]) -> str | None:
    return next((str(a["InstanceId"]) for a in attachments), None)


def assert_nothing_is_left(lab: AwsLab, before: Account, *, quarantined: frozenset[str] = frozenset()) -> None:
    """I11: no instance, volume, interface, snapshot or tag that no member needs; survivors as they were."""
    now, members = Account.of(lab), set(lab.instances)
    kept = members | quarantined
    assert set(now.instances) == kept, "an instance is left"
    assert {v: i for v, i in now.volumes.items() if i not in kept} == {}, "a volume is left"
    assert {n: i for n, i in now.interfaces.items() if i not in kept} == {}, "an interface is left"
    assert sorted(now.interfaces.values(), key=str) == sorted(kept), "one interface each"
    assert now.snapshots == before.snapshots, "a snapshot is left"
    assert now.fixed == before.fixed
    for name in members:
        if name in before.instances:
            assert now.instances[name] == before.instances[name]
            assert now.groups_of[name] == before.groups_of[name]
        else:
            own = {tag for tag in now.instances[name] if tag.removeprefix("reaper:") in _OWN_WORDS}
            assert own == {"reaper:made-by"}
            assert now.groups_of[name] in before.groups_of.values()
    needed = {b.id for b in lab.fleet.belongings() if b.kind != "volume"}
    assert needed <= kept, "reaper itself knows of something that is left"


def assert_sound(lab: AwsLab, *, size: int = 3) -> dict[str, Any]:
    """A master with replicas that replicate, and a door that leads to it. Returns what `reaper status` says."""

    def look() -> bool:
        nonlocal view
        view = lab.status()
        channels = [c for m in view["members"] for c in m.get("channels", ())]
        return all((c["receiver"], c["applier"]) == ("running", "running") for c in channels)

    view: dict[str, Any] = {}
    until(look, "every replica replicates")
    living = [m for m in view["members"] if m["state"] == "running"]
    assert view["shape"] == "master with replicas", view
    assert len(living) == size
    (master,) = [m for m in living if m["role"] == "master"]
    assert view["endpoint_target"] == master["address"]
    assert master["semi_sync"]["clients"] == size - 1
    return view


def assert_as_after_a_rotation(
    lab: AwsLab, victim: str, before: Account, writers: Writers, *, quarantined: frozenset[str] = frozenset()
) -> None:
    """I3, I6, I11, and the topology of a rotation that nobody disturbed."""
    assert victim not in lab.instances
    writers.more()
    assert_sound(lab)
    for instance in lab.instances:
        assert writers.missing(instance) == set(), f"acknowledged writes are not on {instance}"
        until(lambda i=instance: own_tables(lab, i) == [], f"no table of reaper's is left on {instance}")  # type: ignore[misc]
        assert markers(lab, instance) == []
    assert_nothing_is_left(lab, before, quarantined=quarantined)


# ---- processes that end at a moment

# Argument one: `module:Owner.method`, and whether it ends before or after it.
_DIES = """
import importlib, os, signal, sys
when, place = sys.argv.pop(1), sys.argv.pop(1)
module, _, names = place.partition(":")
owner = importlib.import_module(module)
*owners, name = names.split(".")
for one in owners:
    owner = getattr(owner, one)
original = getattr(owner, name)
def dies(*arguments, **named):
    if when == "after":
        original(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, dies)
from reaper.cli.main import run
run()
"""


@dataclass(frozen=True)
class Moment:
    """Before or after a call that reaper makes."""

    when: str  # "before", "after"
    place: str  # `module:Owner.method`

    def program(self, python: str) -> tuple[str, ...]:
        """The command line, ended by SIGKILL at this moment."""
        return (python, "-c", _DIES, self.when, self.place)


@contextmanager
def tagged(lab: AwsLab, instance: str, key: str, value: str) -> Iterator[None]:
    """A tag of a person's, taken away at the end."""
    lab.ec2.create_tags(Resources=[instance], Tags=[{"Key": key, "Value": value}])
    try:
        yield
    finally:
        lab.ec2.delete_tags(Resources=[instance], Tags=[{"Key": key}])
