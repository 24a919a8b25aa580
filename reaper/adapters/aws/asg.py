"""Auto Scaling groups and the target groups of their load balancers. Implements `workflow.groups.Groups`."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from reaper.adapters.aws.calls import Answer, Calls, Refused
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Image, InstanceId
from reaper.domain.groups import (
    GroupMember,
    GroupView,
    Hook,
    MemberState,
    Registration,
    Suspension,
    TargetGroup,
    TargetState,
    Transition,
)
from reaper.workflow.ports import Clock

T = TypeVar("T")
PROVIDER = "asg"
# The states are those of botocore's models: LifecycleState, TargetHealthStateEnum, InstanceRefreshStatus.
_LEAVING = ("Terminating", "Terminated", "Detaching", "Detached")
_STANDBY = ("Standby", "EnteringStandby")
_HEALTH = {
    "healthy": TargetState.HEALTHY,
    "initial": TargetState.INITIAL,
    "unhealthy": TargetState.UNHEALTHY,
    "draining": TargetState.DRAINING,
    "unused": TargetState.UNUSED,
}
_REFRESHING = ("Pending", "InProgress", "Cancelling", "RollbackInProgress", "Baking")
_HOOKS = {
    "autoscaling:EC2_INSTANCE_LAUNCHING": Transition.LAUNCHING,
    "autoscaling:EC2_INSTANCE_TERMINATING": Transition.TERMINATING,
}
_INSTANCES_PER_CALL = 200  # values of one filter, from the EC2 API reference on filters
_SETTINGS_KEPT = timedelta(minutes=1)  # what people change, and nothing by itself
_DELAY = "deregistration_delay.timeout_seconds"


class AutoScalingGroups:
    """The groups of one account and region that carry a tag. Several runs may use it at once."""

    def __init__(
        self, *, autoscaling: Calls, elbv2: Calls, ec2: Calls, clock: Clock, tag: tuple[str, str | None]
    ) -> None:
        self._autoscaling = autoscaling
        self._elbv2 = elbv2
        self._ec2 = ec2
        self._clock = clock
        self._tag = tag  # its name, and its value or None for any
        self._kept: dict[str, tuple[int, object]] = {}

    def names(self) -> tuple[str, ...]:
        """The groups that carry the tag, sorted."""
        name, value = self._tag
        wanted = {"Name": "tag-key", "Values": [name]} if value is None else {"Name": f"tag:{name}", "Values": [value]}
        found = self._autoscaling.pages("describe_auto_scaling_groups", "AutoScalingGroups", Filters=[wanted])
        return tuple(sorted(group["AutoScalingGroupName"] for group in found))

    def view(self, group: str) -> GroupView:
        """The group, its members as EC2 and its target groups know them, and what is under way."""
        taken_at = self._clock.now()
        said = self._group(group)
        targets = tuple(said.get("TargetGroupARNs", ()))
        health = {arn: self._health(arn) for arn in targets}
        newest = self._newest(said)
        instances = said.get("Instances", [])
        known = self._instances(i["InstanceId"] for i in instances)
        hooks = self._autoscaling.ask("describe_lifecycle_hooks", AutoScalingGroupName=group)["LifecycleHooks"]
        return GroupView(
            name=group,
            taken_at=taken_at,
            minimum=said["MinSize"],
            desired=said["DesiredCapacity"],
            maximum=said["MaxSize"],
            members=tuple(_member(group, i, known.get(i["InstanceId"]), newest, health) for i in instances),
            target_groups=tuple(TargetGroup(name=_short(arn), draining=self._draining(arn)) for arn in targets),
            hooks=tuple(
                Hook(
                    name=hook["LifecycleHookName"],
                    transition=_HOOKS[hook["LifecycleTransition"]],
                    timeout=timedelta(seconds=hook["HeartbeatTimeout"]),
                )
                for hook in hooks
            ),
            suspended=tuple(
                Suspension(process=s["ProcessName"], why=s.get("SuspensionReason", ""))
                for s in said.get("SuspendedProcesses", [])
            ),
            refresh=self._refresh(group),
            unfit=_unfit(said),
            tags=tuple(sorted((tag["Key"], tag.get("Value", "")) for tag in said.get("Tags", []))),
        )

    def drain(self, group: str, instance: InstanceId) -> None:
        """Deregister it wherever it is registered and not on its way out."""
        for arn in self._group(group).get("TargetGroupARNs", ()):
            targets = [
                {"Id": instance.short, "Port": t.port} for t in self._health(arn).get(instance.short, ()) if _in(t)
            ]
            if targets:
                self._elbv2.ask("deregister_targets", TargetGroupArn=arn, Targets=targets)

    def undrain(self, group: str, instance: InstanceId) -> None:
        """Register it with every target group where it is not, at the target group's port, as the group does."""
        said = self._group(group)
        states = {i["InstanceId"]: i["LifecycleState"] for i in said.get("Instances", [])}
        if states.get(instance.short, _LEAVING[0]).startswith(_LEAVING):
            return
        for arn in said.get("TargetGroupARNs", ()):
            if not any(_in(t) for t in self._health(arn).get(instance.short, ())):
                self._elbv2.ask("register_targets", TargetGroupArn=arn, Targets=[{"Id": instance.short}])

    def terminate(self, group: str, instance: InstanceId) -> None:
        """Terminate it in its group. RefusedError: AWS says that it is no member, and it is not leaving."""
        said = self._autoscaling.attempt(
            "terminate_instance_in_auto_scaling_group",
            frozenset({"ValidationError"}),
            InstanceId=instance.short,
            ShouldDecrementDesiredCapacity=False,
        )
        if isinstance(said, Refused) and any(
            i["InstanceId"] == instance.short and not i["LifecycleState"].startswith(_LEAVING)
            for i in self._group(group).get("Instances", [])
        ):
            raise RefusedError(f"{instance.short} was not terminated: {said.why}. Look at it in {group}")

    # ---- parts of a look

    def _group(self, name: str) -> Answer:
        found = self._autoscaling.ask("describe_auto_scaling_groups", AutoScalingGroupNames=[name])["AutoScalingGroups"]
        if not found:
            raise UsageError(
                f"there is no Auto Scaling group {name} in this account and region: see how it is spelled, and where"
            )
        return dict(found[0])

    def _health(self, arn: str) -> dict[str, list[Registration]]:
        """What a target group says of each instance; one may be registered with several ports."""
        found: dict[str, list[Registration]] = {}
        for one in self._elbv2.ask("describe_target_health", TargetGroupArn=arn)["TargetHealthDescriptions"]:
            state = _HEALTH.get(one["TargetHealth"]["State"], TargetState.UNKNOWN)
            registration = Registration(target_group=_short(arn), state=state, port=one["Target"].get("Port"))
            found.setdefault(one["Target"]["Id"], []).append(registration)
        return found

    def _draining(self, arn: str) -> timedelta | None:
        said = self._settings(
            arn, lambda: self._elbv2.ask("describe_target_group_attributes", TargetGroupArn=arn)["Attributes"]
        )
        return next((timedelta(seconds=int(a["Value"])) for a in said if a["Key"] == _DELAY), None)

    def _refresh(self, group: str) -> str | None:
        said = self._autoscaling.ask("describe_instance_refreshes", AutoScalingGroupName=group, MaxRecords=1)
        for refresh in said["InstanceRefreshes"]:  # the newest comes first
            if refresh["Status"] in _REFRESHING:
                done = f", {refresh['PercentageComplete']} % done" if "PercentageComplete" in refresh else ""
                return f"{refresh['InstanceRefreshId']} is {refresh['Status']}{done}"
        return None

    def _instances(self, ids: Iterable[str]) -> dict[str, Answer]:
        """What EC2 knows of them. By filter: a name that EC2 does not know yet must not fail the others."""
        wanted = list(ids)
        found: dict[str, Answer] = {}
        for first in range(0, len(wanted), _INSTANCES_PER_CALL):
            filters = [{"Name": "instance-id", "Values": wanted[first : first + _INSTANCES_PER_CALL]}]
            for reservation in self._ec2.pages("describe_instances", "Reservations", Filters=filters):
                found |= {i["InstanceId"]: i for i in reservation["Instances"]}
        return found

    def _newest(self, said: Answer) -> str | None:
        """What the group launches now; None: it depends, or cannot be told."""
        mixed = said.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
        if any("LaunchTemplateSpecification" in o for o in mixed.get("Overrides", [])):
            return None
        template = said.get("LaunchTemplate") or mixed.get("LaunchTemplateSpecification")
        if template:
            return self._settings(f"{template}", lambda: self._newest_of_template(template))
        name = said.get("LaunchConfigurationName")
        if not name:
            return None
        return self._settings(name, lambda: self._newest_of_configuration(name))

    def _newest_of_template(self, template: Answer) -> str | None:
        found = self._ec2.ask(
            "describe_launch_template_versions",
            LaunchTemplateId=template["LaunchTemplateId"],
            Versions=[template.get("Version", "$Default")],
            ResolveAlias=True,
        )["LaunchTemplateVersions"]
        if len(found) != 1:
            raise TryAgainError(f"{template['LaunchTemplateId']} has {len(found)} versions of that name, wanted one")
        image = found[0]["LaunchTemplateData"].get("ImageId")
        return image and _image(image, template["LaunchTemplateId"], str(found[0]["VersionNumber"]))

    def _newest_of_configuration(self, name: str) -> str | None:
        found = self._autoscaling.ask("describe_launch_configurations", LaunchConfigurationNames=[name])
        (configuration,) = found["LaunchConfigurations"] or [{}]
        return _image(configuration["ImageId"], name, "") if configuration else None

    def _settings(self, key: str, ask: Callable[[], T]) -> T:
        """What is asked once a minute, since a rotation looks every few seconds."""
        now = self._clock.monotonic_ns()
        kept = self._kept.get(key)  # taken once: two threads that find it too old both ask, which does no harm
        if kept is None or now - kept[0] > _SETTINGS_KEPT // timedelta(microseconds=1) * 1000:
            kept = self._kept[key] = (now, ask())
        return kept[1]  # type: ignore[return-value]  # what was kept under a key is what was asked for it


def _member(
    group: str, said: Answer, known: Answer | None, newest: str | None, health: dict[str, dict[str, list[Registration]]]
) -> GroupMember:
    launched: datetime | None = known.get("LaunchTime") if known else None
    state = said["LifecycleState"]
    return GroupMember(
        id=InstanceId(PROVIDER, f"{group}/{said['InstanceId']}"),
        zone=said.get("AvailabilityZone"),
        state=_state(state),
        healthy=said.get("HealthStatus") == "Healthy",
        protected=bool(said.get("ProtectedFromScaleIn")),
        created=launched,
        image=_made_from(said, known, newest),
        tags=None if known is None else tuple(sorted((t["Key"], t["Value"]) for t in known.get("Tags", []))),
        registrations=tuple(t for of_group in health.values() for t in of_group.get(said["InstanceId"], ())),
        hook=state.endswith(":Wait"),
    )


def _state(state: str) -> MemberState:
    if state == "InService":
        return MemberState.IN_SERVICE
    if state.startswith("Pending"):
        return MemberState.PENDING
    if state.startswith(_LEAVING):
        return MemberState.LEAVING
    return MemberState.STANDBY if state in _STANDBY else MemberState.OTHER


def _made_from(said: Answer, known: Answer | None, newest: str | None) -> Image | None:
    image = known.get("ImageId") if known else None
    template = said.get("LaunchTemplate")
    if image is None:
        return None
    if template:
        name = _image(image, template["LaunchTemplateId"], template.get("Version", ""))
    else:  # a configuration that was deleted is no longer named: then it is no newest one either
        name = _image(image, said.get("LaunchConfigurationName", "none"), "")
    return Image(name=name, newest=newest)


def _image(image: str, template: str, version: str) -> str:
    """An image is stale when the template has moved on as well: its user data is a part of what runs."""
    return f"{image} ({template}{':' if version else ''}{version})"


def _unfit(said: Answer) -> str | None:
    """What reaper does not understand well enough to touch."""
    if said.get("Status"):
        return f"being deleted ({said['Status']})"
    if said.get("LoadBalancerNames"):
        return f"behind the classic balancer {', '.join(said['LoadBalancerNames'])}, whose health reaper does not read"
    others = [s["Identifier"] for s in said.get("TrafficSources", []) if s.get("Type") not in (None, "elbv2")]
    if others:
        return f"behind {', '.join(others)}, whose health reaper does not read"
    weighted = said.get("DesiredCapacityType", "units") != "units" or any(
        i.get("WeightedCapacity") for i in said.get("Instances", [])
    )
    return "counted in capacity and not in instances, so that a floor means something else" if weighted else None


def _in(registration: Registration) -> bool:
    return registration.state not in (TargetState.DRAINING, TargetState.UNUSED)


def _short(arn: str) -> str:
    """`web` of `arn:...:targetgroup/web/73e2d6bc24d8a067`."""
    return arn.split("/")[1] if "/" in arn else arn
