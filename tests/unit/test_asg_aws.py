"""Auto Scaling groups on moto, made as slow as AWS: what is read of them, and a rotation of twenty instances."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aws_moto
import pytest
from aws_moto import ELBV2, InstantClock, Moto
from typer.testing import CliRunner

from reaper.adapters.aws.asg import AutoScalingGroups
from reaper.adapters.aws.calls import Calls
from reaper.cli.logging import logger
from reaper.cli.main import app
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import InstanceId
from reaper.domain.groups import (
    Floor,
    GroupMember,
    GroupPolicy,
    GroupVerdict,
    GroupView,
    MemberState,
    Order,
    TargetState,
    Transition,
)
from reaper.planner.groups import GroupCase, judge_group, plan_group
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Faults
from reaper.testing.groups import MemoryGroupJournal
from reaper.testing.people import FakeInterrupt
from reaper.testing.steps import Diary
from reaper.workflow.groups import GroupRotation, GroupWorld

GROUP = "web"
READS = {
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeLifecycleHooks",
    "autoscaling:DescribeInstanceRefreshes",
    "elasticloadbalancing:DescribeTargetHealth",
    "elasticloadbalancing:DescribeTargetGroupAttributes",
    "ec2:DescribeInstances",
    "ec2:DescribeLaunchTemplateVersions",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Moto]:
    with aws_moto.running() as moto:
        yield moto


@dataclass
class Site:
    """One group of a launch template behind a target group."""

    moto: Moto
    clock: InstantClock
    refreshes: list[dict[str, Any]]
    size: int = 4
    target_group: str = ""
    template: str = ""
    serving: list[int] = field(default_factory=list)

    def build(self) -> None:
        ec2, elb, asg = (self.moto.client(s) for s in ("ec2", "elbv2", "autoscaling"))
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = [s["SubnetId"] for s in ec2.describe_subnets()["Subnets"]]
        made = elb.create_target_group(Name="web-http", Protocol="HTTP", Port=80, VpcId=vpc)["TargetGroups"][0]
        self.target_group = made["TargetGroupArn"]
        template = ec2.create_launch_template(LaunchTemplateName="web", LaunchTemplateData={"ImageId": "ami-12c6146b"})
        self.template = template["LaunchTemplate"]["LaunchTemplateId"]
        asg.create_auto_scaling_group(
            AutoScalingGroupName=GROUP,
            LaunchTemplate={"LaunchTemplateId": self.template, "Version": "$Default"},
            MinSize=1,
            MaxSize=2 * self.size,
            DesiredCapacity=self.size,
            VPCZoneIdentifier=",".join(subnets),
            TargetGroupARNs=[self.target_group],
            Tags=[{"Key": "reaper:group", "Value": "yes", "PropagateAtLaunch": False}],
        )
        self.clock.sleep(timedelta(minutes=2))
        self.moto.recorder.forget()

    @property
    def groups(self) -> AutoScalingGroups:
        return AutoScalingGroups(
            autoscaling=Calls(self.moto.client("autoscaling"), self.clock),
            elbv2=Calls(self.moto.client("elbv2"), self.clock),
            ec2=Calls(self.moto.client("ec2"), self.clock),
            clock=self.clock,
            tag=("reaper:group", None),
        )

    @property
    def view(self) -> GroupView:
        return self.groups.view(GROUP)

    def member(self, number: int = 0) -> GroupMember:
        return self.view.members[number]

    def rotate(self, policy: GroupPolicy, seed: int = 1) -> GroupVerdict:
        faults = Faults()
        journal = MemoryGroupJournal(faults)
        plan = plan_group(self.view, policy, run="run-1", seed=seed)
        world = GroupWorld(groups=self.groups, clock=self.clock, interrupt=FakeInterrupt(faults), journal=journal)
        return GroupRotation(world, plan, Diary(faults, FakeClock()).follow()).execute()


@pytest.fixture
def site(server: Moto, request: pytest.FixtureRequest) -> Iterator[Site]:
    aws_moto.reset(server)
    clock, refreshes = InstantClock(), []
    with aws_moto.slow_groups(clock, refreshes):
        site = Site(server, clock, refreshes, getattr(request, "param", 4))
        site.build()
        yield site


def test_a_group_is_found_by_its_tag_and_read_as_it_is(site: Site) -> None:
    assert site.groups.names() == (GROUP,)
    view = site.view
    assert (view.minimum, view.desired, view.maximum) == (1, 4, 8)
    assert view.tags == (("reaper:group", "yes"),)
    assert len(view.members) == len(view.serving) == 4
    assert (view.hooks, view.suspended, view.refresh, view.unfit) == ((), (), None, None)
    assert [(t.name, t.draining) for t in view.target_groups] == [("web-http", timedelta(minutes=5))]
    for member in view.members:
        assert member.created is not None
        assert member.image is not None
        assert member.image.stale is False
        assert {r.state for r in member.registrations} == {TargetState.HEALTHY}
        assert member.zone is not None


def test_a_look_costs_the_same_number_of_calls_however_many_members_there_are(site: Site) -> None:
    groups = site.groups
    groups.view(GROUP)
    assert site.moto.recorder.actions == READS
    first = len(site.moto.recorder.calls)
    assert first == len(READS)
    groups.view(GROUP)
    assert len(site.moto.recorder.calls) - first == len(READS) - 2  # what only people change is kept for a minute


def test_a_template_that_moved_on_makes_members_stale(site: Site) -> None:
    ec2 = site.moto.client("ec2")
    ec2.create_launch_template_version(LaunchTemplateId=site.template, LaunchTemplateData={"ImageId": "ami-03cf127a"})
    ec2.modify_launch_template(LaunchTemplateId=site.template, DefaultVersion="2")
    image = site.member().image
    assert image is not None
    assert image.stale
    assert image.newest == f"ami-03cf127a ({site.template}:2)"


def test_nobody_knows_a_group_of_that_name(site: Site) -> None:
    with pytest.raises(UsageError, match="no Auto Scaling group gone"):
        site.groups.view("gone")


def _suspend(site: Site) -> None:
    site.moto.client("autoscaling").suspend_processes(AutoScalingGroupName=GROUP, ScalingProcesses=["Launch"])


def _hook(site: Site) -> None:
    site.moto.client("autoscaling").put_lifecycle_hook(
        AutoScalingGroupName=GROUP,
        LifecycleHookName="drain-it",
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        HeartbeatTimeout=7200,
    )


def _protect(site: Site) -> None:
    site.moto.client("autoscaling").set_instance_protection(
        AutoScalingGroupName=GROUP, InstanceIds=[site.member().id.short], ProtectedFromScaleIn=True
    )


def _opt_out(site: Site) -> None:
    site.moto.client("ec2").create_tags(
        Resources=[site.member().id.short], Tags=[{"Key": "reaper:opt-out", "Value": "bob"}]
    )


def _standby(site: Site) -> None:
    site.moto.client("autoscaling").enter_standby(
        AutoScalingGroupName=GROUP, InstanceIds=[site.member(1).id.short], ShouldDecrementDesiredCapacity=False
    )


def _deregister(site: Site) -> None:
    site.moto.client("elbv2").deregister_targets(
        TargetGroupArn=site.target_group, Targets=[{"Id": site.member(1).id.short}]
    )


def _ill(site: Site) -> None:
    site.moto.client("autoscaling").set_instance_health(
        InstanceId=site.member(2).id.short, HealthStatus="Unhealthy", ShouldRespectGracePeriod=False
    )


def _slow(site: Site) -> None:
    site.moto.client("elbv2").modify_target_group_attributes(
        TargetGroupArn=site.target_group,
        Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "1800"}],
    )


REFUSALS: dict[str, tuple[Callable[[Site], object], str, str]] = {
    "a suspended process": (_suspend, "processes", "suspended: Launch"),
    "a long lifecycle hook": (_hook, "hooks", "drain-it (holds up a termination for 2 hours)"),
    "scale-in protection": (_protect, "victim", "protected from scale-in"),
    "an opt-out tag": (_opt_out, "victim", "opted out"),
    "a member on standby": (_standby, "floor", "(standby)"),
    "a member out of the target group": (_deregister, "targets", "not i-"),
    "an unhealthy member": (_ill, "floor", "2 would serve"),
    "a slow deregistration": (_slow, "targets", "drains for 30 minutes"),
    "an instance refresh": (
        lambda s: s.refreshes.append(
            {
                "InstanceRefreshId": "r-1",
                "AutoScalingGroupName": GROUP,
                "Status": "InProgress",
                "PercentageComplete": 40,
            }
        ),
        "group",
        "r-1 is InProgress, 40 % done",
    ),
}


@pytest.mark.parametrize("what", list(REFUSALS))
def test_what_people_set_in_aws_makes_a_guard_refuse(site: Site, what: str) -> None:
    act, guard, reason = REFUSALS[what]
    victim = site.member().id
    act(site)
    verdicts = judge_group(GroupCase(view=site.view, victim=victim, policy=GroupPolicy(floor=Floor(count=3))))
    refused = {v.guard: v.reason for v in verdicts if v.ruling == "refuse"}
    assert reason in refused[guard]


def test_a_hook_is_read_with_its_transition_and_time(site: Site) -> None:
    _hook(site)
    (hook,) = site.view.hooks
    assert (hook.transition, hook.timeout) == (Transition.TERMINATING, timedelta(hours=2))


def test_a_refresh_that_ended_is_no_reason(site: Site) -> None:
    site.refreshes.append({"InstanceRefreshId": "r-1", "AutoScalingGroupName": GROUP, "Status": "Successful"})
    assert site.view.refresh is None


# ---- the effects, each idempotent


def test_draining_and_undoing_it_may_be_repeated(site: Site) -> None:
    victim = site.member().id
    for _ in range(3):
        site.groups.drain(GROUP, victim)
        assert {r.state for r in site.member().registrations} == {TargetState.DRAINING}
    site.clock.sleep(timedelta(seconds=31))
    assert site.member().registrations == ()
    site.groups.drain(GROUP, victim)
    for _ in range(3):
        site.groups.undrain(GROUP, victim)
        assert {r.state for r in site.member().registrations} == {TargetState.HEALTHY}
    registered = [a for a, _ in site.moto.recorder.calls if a == f"{ELBV2}:RegisterTargets"]
    assert len(registered) == 1


def test_a_termination_may_be_repeated_while_it_goes_on_and_afterwards(site: Site) -> None:
    victim = site.member().id
    for _ in range(2):
        site.groups.terminate(GROUP, victim)
        assert site.view.member(victim).state is MemberState.LEAVING  # type: ignore[union-attr]  # it is there
    site.clock.sleep(timedelta(minutes=2))
    assert site.view.member(victim) is None
    site.groups.terminate(GROUP, victim)
    assert len(site.view.serving) == site.view.desired == 4


def test_the_desired_size_is_never_decremented(site: Site) -> None:
    site.groups.terminate(GROUP, site.member().id)
    ((_, said),) = [c for c in site.moto.recorder.calls if c[0].endswith("TerminateInstanceInAutoScalingGroup")]
    assert said["ShouldDecrementDesiredCapacity"] is False


def test_an_instance_that_is_no_member_is_not_terminated(site: Site) -> None:
    stranger = site.moto.client("ec2").run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"][0]
    site.groups.terminate(GROUP, InstanceId("asg", f"{GROUP}/{stranger['InstanceId']}"))
    said = site.moto.client("ec2").describe_instances(InstanceIds=[stranger["InstanceId"]])
    assert said["Reservations"][0]["Instances"][0]["State"]["Name"] == "running"


# ---- the rotation


def _watch(site: Site) -> None:
    """Count who serves at every call of AWS, from moto's own state: reaper's looks are not the measure."""
    from moto.autoscaling.models import autoscaling_backends
    from moto.elbv2.models import elbv2_backends

    group = autoscaling_backends["123456789012"][aws_moto.REGION].autoscaling_groups[GROUP]
    targets = elbv2_backends["123456789012"][aws_moto.REGION].target_groups[site.target_group]

    def count(**_: object) -> None:
        healthy = {i for i in targets.targets if targets.health_for({"Id": i}, targets.ec2_backend).status == "healthy"}
        serving = [s for s in group.instance_states if s.lifecycle_state == "InService" and s.instance.id in healthy]
        site.serving.append(len(serving))

    for service in ("autoscaling", "elbv2", "ec2"):
        site.moto.client(service).meta.events.register("before-call", count, unique_id="count")
        site.moto.client(service).meta.events.register("after-call", count, unique_id="count-after")


def _unwatch(site: Site) -> None:
    for service in ("autoscaling", "elbv2", "ec2"):
        site.moto.client(service).meta.events.unregister("before-call", unique_id="count")
        site.moto.client(service).meta.events.unregister("after-call", unique_id="count-after")


@pytest.mark.timeout(900)  # some thousand calls of moto
@pytest.mark.parametrize("site", [20], indirect=True)
def test_I1_twenty_instances_are_replaced_and_never_fewer_than_nineteen_serve(site: Site) -> None:
    _watch(site)
    try:
        before = {m.id for m in site.view.members}
        policy = GroupPolicy(floor=Floor(count=19))
        verdict = site.rotate(policy)
    finally:
        _unwatch(site)
    assert verdict.good
    after = site.view
    assert len(verdict.replaced) == len(after.serving) == 20
    assert not before & {m.id for m in after.members}
    assert min(site.serving) == verdict.fewest == 19
    states = {
        i["State"]["Name"]
        for r in site.moto.client("ec2").describe_instances(InstanceIds=[b.short for b in before])["Reservations"]
        for i in r["Instances"]
    }
    assert states == {"terminated"}


def test_lost_answers_of_every_effect_kill_nobody_twice(site: Site) -> None:
    for action in (
        f"{ELBV2}:DeregisterTargets",
        "autoscaling:TerminateInstanceInAutoScalingGroup",
        "autoscaling:DescribeAutoScalingGroups",
        "ec2:DescribeInstances",
    ):
        site.moto.recorder.lost.extend([action] * 2)
    _watch(site)
    try:
        verdict = site.rotate(GroupPolicy(floor=Floor(count=3), order=Order.RANDOM, at_most=2), seed=5)
    finally:
        _unwatch(site)
    assert verdict.good
    assert min(site.serving) == 3
    assert len(site.view.serving) == 4


def test_a_rotation_that_may_not_terminate_puts_the_victim_back_to_work(site: Site) -> None:
    def deny(**_: object) -> object:
        raise RefusedError("the policy of the account forbids it")

    events = site.moto.client("autoscaling").meta.events
    events.register("before-call.auto-scaling.TerminateInstanceInAutoScalingGroup", deny, unique_id="deny")
    try:
        with pytest.raises((RefusedError, TryAgainError), match="forbids it"):
            site.rotate(GroupPolicy(floor=Floor(count=3), at_most=1))
    finally:
        events.unregister("before-call.auto-scaling.TerminateInstanceInAutoScalingGroup", unique_id="deny")
    assert len(site.view.serving) == 4


# ---- from the command line


SETTINGS = """\
ec2:
  places: [{region: eu-west-1}]
  accounts:
    admin: {user: a, environment: A}
    replication: {user: b, environment: B}
    application: {user: c, environment: C}
"""
POLICY = """\
name: refresh
target: {groups: {tag: {"reaper:group": "yes"}}}
replace: {what: instance, at_most: 2}
guards: {min_healthy: 3}
"""


@pytest.fixture
def home(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "reaper.yaml").write_text(SETTINGS)
    monkeypatch.setenv("REAPER_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.moto.url)
    monkeypatch.setattr("reaper.cli.groups.SystemClock", lambda: site.clock)
    yield tmp_path
    logger.cache_clear()  # it writes where a command's stderr was


def test_a_site_with_settings_of_ec2_foresees_what_becomes_of_its_groups(site: Site, home: Path) -> None:
    (home / "refresh.yaml").write_text(POLICY)
    result = CliRunner().invoke(app, ["plan", "--file", str(home / "refresh.yaml"), "--output", "json"])
    assert result.exception is None
    (run,) = json.loads(result.stdout)["group_runs"]
    assert len(run["victims"]) == 2
    assert run["go"]
    assert len(site.view.members) == 4


def test_a_person_kills_one_and_it_is_replaced(site: Site, home: Path) -> None:
    before = {m.id.short for m in site.view.members}
    result = CliRunner().invoke(app, ["kill", "--group", GROUP, "--random", "--yes", "--output", "json"])
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.stdout)["verdict"]["replaced"]
    victim, successor = (one[who]["name"].split("/")[1] for who in ("victim", "successor"))
    assert victim in before
    assert {m.id.short for m in site.view.serving} == before - {victim} | {successor}
    assert (home / "durable.db").exists()
