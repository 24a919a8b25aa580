"""A site on moto, in this process: no server runs, who is booted is said to answer. Calls can be made to fail."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest

from reaper.adapters.aws.control_plane import ControlPlane, Fate
from reaper.adapters.aws.ec2 import Ec2Fleet
from reaper.adapters.aws.gradual import gradual
from reaper.adapters.aws.session import Clients, Keys, Place
from reaper.adapters.aws.settings import Ec2Settings, TagNames
from reaper.adapters.aws.userdata import shipped
from reaper.adapters.aws.waiting import Pace
from reaper.domain.facts import Address, Instance

REGION, OTHER_REGION = "eu-central-1", "us-east-1"
KEY = "UNITTESTS"
SECOND = timedelta(seconds=1)
PACE = Pace(
    look_every=timedelta(milliseconds=5),
    look_hard_every=timedelta(milliseconds=5),
    seen_within=SECOND,
    repeat_within=20 * SECOND,
    snapshot_within=20 * SECOND,
    boot_within=20 * SECOND,
    end_within=20 * SECOND,
)
TAGS = TagNames()


def never() -> None:
    """A check that never aborts."""


@dataclass
class Plan:
    """What is to happen to calls: by name, the fates of the next ones. What was asked is kept."""

    fates: dict[str, list[Fate]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    def __call__(self, action: str, body: bytes) -> Fate:
        self.asked.append((action, parse_qs(body.decode(errors="replace"))))
        waiting = self.fates.get(action)
        return waiting.pop(0) if waiting else Fate.SERVED

    def calls(self, action: str) -> list[dict[str, list[str]]]:
        """What was asked under one name."""
        return [body for name, body in self.asked if name == action]


@dataclass
class Machines:
    """The hypervisor: remembers who runs and who was cut off."""

    running: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    abrupt: dict[str, bool] = field(default_factory=dict)  # how an instance was ended
    immortal: set[str] = field(default_factory=set)  # addresses that answer whatever EC2 says

    def boot(self, instance: Any) -> None:
        """It answers from now on."""
        self.running.add(instance.private_ip)

    def end(self, instance: Any, *, abruptly: bool, gone: bool) -> threading.Event:
        """It does not any more."""
        del gone
        self.abrupt[instance.id] = abruptly
        self.running.discard(instance.private_ip)
        ended = threading.Event()
        ended.set()
        return ended

    def reboot(self, instance: Any) -> None:
        """Nothing changes."""

    def cut_off(self, instance: Any, *, cut: bool) -> None:
        """It is silent."""
        (self.cut.add if cut else self.cut.discard)(instance.private_ip)

    def copy(self, volumes: list[str], snapshots: list[str]) -> None:
        """There is nothing in them."""

    def drop_volume(self, volume: str) -> None:
        """There is nothing in it."""

    def drop_snapshot(self, snapshot: str) -> None:
        """There is nothing in it."""

    def answers(self, address: Address) -> bool:
        """True if a server greets there."""
        return address.host in self.immortal or (address.host in self.running and address.host not in self.cut)


@dataclass
class Moto:
    """A site: what AWS is told and asked, and the fleet over it."""

    plane: ControlPlane
    plan: Plan
    machines: Machines
    settings: Ec2Settings
    vpc: str = ""
    subnets: list[str] = field(default_factory=list)
    template: str = ""
    image: str = ""
    group: str = ""  # of the servers
    isolated: str = ""

    @functools.cached_property
    def client(self) -> Any:
        """For what a person would do in the console."""
        return Clients(self.settings.places[0]).ec2

    @functools.cached_property
    def ssm(self) -> Any:
        """The same for parameters."""
        return Clients(self.settings.places[0]).ssm

    def fleet(self, **changes: Any) -> Ec2Fleet:
        """A fleet that knows nothing from before: as a new process of reaper."""
        return Ec2Fleet(replace(self.settings, **changes), self.machines.answers)

    def furnish(self) -> None:
        """Network, groups, image, template."""
        client = self.client
        self.vpc = client.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        self.subnets = [
            client.create_subnet(VpcId=self.vpc, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone=REGION + letter)[
                "Subnet"
            ]["SubnetId"]
            for n, letter in enumerate("abc", 1)
        ]
        made = client.create_security_group(GroupName="isolated", Description="no rules", VpcId=self.vpc)
        self.isolated = made["GroupId"]
        client.create_tags(Resources=[self.isolated], Tags=[{"Key": TAGS.isolation, "Value": "yes"}])
        servers = client.create_security_group(GroupName="mysql", Description="servers", VpcId=self.vpc)
        self.group = servers["GroupId"]
        self.image = client.register_image(Name="one", RootDeviceName="/dev/sda1")["ImageId"]
        self.template = client.create_launch_template(
            LaunchTemplateName="mysql", LaunchTemplateData=self.template_data(self.image)
        )["LaunchTemplate"]["LaunchTemplateId"]

    def template_data(self, image: str, **more: Any) -> dict[str, Any]:
        """What the template says."""
        disk = {"VolumeSize": 5, "VolumeType": "gp3", "DeleteOnTermination": True}
        return {
            "ImageId": image,
            "InstanceType": "t3.micro",
            "SecurityGroupIds": [self.group],
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/sdf", "Ebs": disk},
                {"DeviceName": "/dev/sdg", "Ebs": disk | {"VolumeSize": 2}},
            ],
            **more,
        }

    def add_cluster(self, name: str = "c", nodes: int = 3, first_id: int = 101, **tags: str) -> tuple[Instance, ...]:
        """Instances as a person would have made them. Their order is that of the zones."""
        for n in range(nodes):
            own = {"Name": f"{name}-{n}", TAGS.cluster: name, TAGS.server_id: str(first_id + n), **tags}
            self.client.run_instances(
                LaunchTemplate={"LaunchTemplateId": self.template, "Version": "$Default"},
                MinCount=1,
                MaxCount=1,
                SubnetId=self.subnets[n % 3],
                TagSpecifications=[
                    {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in own.items()]}
                ],
            )
        return tuple(sorted(self.fleet().members(name), key=lambda m: m.server_id))


@contextlib.contextmanager
def moto_site(delay: timedelta = timedelta(milliseconds=10)) -> Iterator[Moto]:
    """A furnished site, gone afterwards."""
    from moto.backends import get_backend

    for service in ("ec2", "ssm", "sts"):
        get_backend(service).reset()
    plan, machines = Plan(), Machines()
    plane = ControlPlane(KEY, plan)
    place = Place(region=REGION, keys=Keys(access=KEY, secret=KEY), endpoint=plane.url)
    settings = Ec2Settings(places=(place,), pace=PACE, user_data=shipped())
    with gradual(plane, machines, TAGS.isolation, delay.total_seconds()):
        plane.start()
        try:
            site = Moto(plane=plane, plan=plan, machines=machines, settings=settings)
            site.furnish()
            plan.asked.clear()
            yield site
        finally:
            plane.close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moto]:
    """A site of one test. No call can leave: there are no credentials for anything else."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with moto_site() as made:
        yield made
