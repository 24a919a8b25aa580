"""What moto accepts and AWS refuses, or shows at once and AWS gradually: put into moto's classes while it is wanted.

Route 53, Elastic IPs, private addresses of interfaces, Auto Scaling groups. How instances and disks behave is in
`gradual`. Written for moto 5.2.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

Call = Callable[..., Any]
Later = Callable[[timedelta, Callable[[], object]], None]  # lets something happen after a while


def put(changes: contextlib.ExitStack, owner: Any, name: str, value: object) -> None:
    """Replace an attribute until `changes` is closed."""
    own = owner.__dict__.get(name)
    changes.callback(partial(setattr, owner, name, own) if own is not None else partial(delattr, owner, name))
    setattr(owner, name, value)


def around(changes: contextlib.ExitStack, owner: Any, name: str, wrapper: Call) -> None:
    """Let `wrapper(original, self, ...)` be called in place of a method until `changes` is closed."""
    original = getattr(owner, name)

    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        return wrapper(original, self, *arguments, **named)

    put(changes, owner, name, wrapped)


# ---- Route 53


@contextlib.contextmanager
def strict_route53(pending: int = 1) -> Iterator[None]:
    """A batch is validated against what is there, as AWS does; a change is pending for so many looks."""
    from moto.core.responses import ActionResult
    from moto.route53.models import Route53Backend
    from moto.route53.responses import Route53

    polls: dict[str, int] = {}
    numbers = itertools.count(1)

    def change(original: Call, self: Any, zoneid: str, change_list: list[dict[str, Any]]) -> None:
        zone = self.zones.get(zoneid.removeprefix("/hostedzone/"))
        if zone is None:
            original(self, zoneid, change_list)  # refuses
            return
        _validate(zone, change_list)
        for one in change_list:
            wanted = one["ResourceRecordSet"] | {"Name": one["ResourceRecordSet"]["Name"].rstrip(".") + "."}
            if one["Action"] == "DELETE":
                zone.rrsets.remove(_find(zone, wanted))
                continue
            if "ResourceRecords" in wanted:
                wanted["ResourceRecords"] = [v["Value"] for v in wanted["ResourceRecords"]]
            zone.upsert_rrset(wanted)

    def get_change(self: Any) -> Any:
        name = self._get_param("Id") or str(next(numbers))
        polls[name] = polls.get(name, 0) + 1
        status = "INSYNC" if polls[name] > pending else "PENDING"
        return ActionResult({"ChangeInfo": {"Id": name, "Status": status, "SubmittedAt": "2026-03-02T03:00:00Z"}})

    with contextlib.ExitStack() as changes:
        around(changes, Route53Backend, "change_resource_record_sets", change)
        put(changes, Route53, "get_change", get_change)
        yield


def _validate(zone: Any, change_list: list[dict[str, Any]]) -> None:
    """Refuse the whole batch if one of its changes does not fit what is there after those before it."""
    from moto.route53.exceptions import Route53ClientError

    gone: list[Any] = []
    for one in change_list:
        wanted = one["ResourceRecordSet"]
        seen = _find(zone, wanted)
        if one["Action"] == "DELETE":
            values = [v["Value"] for v in wanted.get("ResourceRecords", [])]
            if seen is None or seen in gone or (values, str(wanted.get("TTL"))) != (list(seen.records), str(seen.ttl)):
                raise Route53ClientError("InvalidChangeBatch", "the values provided do not match the current values")
            gone.append(seen)
        elif one["Action"] == "CREATE" and seen is not None and seen not in gone:
            raise Route53ClientError("InvalidChangeBatch", "Tried to create resource record set but it exists")


def _find(zone: Any, wanted: dict[str, Any]) -> Any:
    """The record set of that name, type and identifier; None: there is none."""
    name, rest = wanted["Name"].rstrip(".").lower(), (wanted["Type"], wanted.get("SetIdentifier"))
    same = (r for r in zone.rrsets if r.name.rstrip(".").lower() == name and (r.type, r.set_identifier) == rest)
    return next(same, None)


# ---- addresses


@contextlib.contextmanager
def strict_addresses() -> Iterator[None]:
    """A private address belongs to one interface; it is found by any of them."""
    from moto.ec2.exceptions import InvalidParameterValueError
    from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend

    def value(original: Call, self: Any, name: str, method: str | None = None) -> Any:
        if name == "addresses.private-ip-address":
            return [a["PrivateIpAddress"] for a in self.private_ip_addresses]
        return original(self, name, method)

    def assign(original: Call, self: Any, eni: str, addresses: list[str] | None = None, *rest: Any) -> Any:
        for other in self.enis.values():
            taken = {a["PrivateIpAddress"] for a in other.private_ip_addresses} & set(addresses or ())
            if taken and other.id != eni:
                raise InvalidParameterValueError(", ".join(taken))
        return original(self, eni, addresses, *rest)

    def unassign(original: Call, self: Any, eni: str, addresses: list[str] | None = None) -> Any:
        has = {a["PrivateIpAddress"] for a in self.enis[eni].private_ip_addresses}
        if not set(addresses or ()) <= has:
            raise InvalidParameterValueError(", ".join(addresses or ()))
        return original(self, eni, addresses)

    with contextlib.ExitStack() as changes:
        around(changes, NetworkInterface, "get_filter_value", value)
        around(changes, NetworkInterfaceBackend, "assign_private_ip_addresses", assign)
        around(changes, NetworkInterfaceBackend, "unassign_private_ip_addresses", unassign)
        yield


@contextlib.contextmanager
def strict_elastic_ips() -> Iterator[None]:
    """An Elastic IP is taken from an instance that is terminated, and from its holder only by who asks for that.

    "Elastic IP addresses" in the EC2 User Guide, AssociateAddress and ReleaseAddress in the API reference.
    """
    from moto.ec2.exceptions import ResourceAlreadyAssociatedError
    from moto.ec2.models import EC2Backend
    from moto.ec2.models.instances import Instance

    def associate(
        original: Call,
        self: Any,
        instance: Any = None,
        eni: Any = None,
        address: str | None = None,
        allocation_id: str | None = None,
        reassociate: bool = False,
    ) -> Any:
        (elastic,) = self.address_by_ip([address]) if address else self.address_by_allocation([allocation_id])
        interface = eni or instance.nics[0]
        if elastic.eni is interface:
            return elastic
        if elastic.association_id is not None:
            if not reassociate:
                raise ResourceAlreadyAssociatedError(elastic.public_ip)
            self.disassociate_address(address=elastic.public_ip)
        return original(self, instance or interface.instance, interface, address, allocation_id, reassociate)

    def terminate(original: Call, self: Any) -> Any:
        own = list(self.nics.values())
        for elastic in self.ec2_backend.addresses:
            if elastic.instance is self or elastic.eni in own:
                self.ec2_backend.disassociate_address(address=elastic.public_ip)
        return original(self)

    with contextlib.ExitStack() as changes:
        around(changes, EC2Backend, "associate_address", associate)
        around(changes, Instance, "terminate", terminate)
        yield


# ---- Auto Scaling groups


@contextlib.contextmanager
def gradual_groups(later: Later, second: timedelta, refreshes: list[dict[str, Any]]) -> Iterator[None]:
    """Members come, drain and go gradually, as on AWS; a refresh can be described; a stranger is not terminated.

    A member is in service after three seconds, and healthy, drained or gone after four. `refreshes` are those that
    are described.
    """
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup, TerminateInstanceActivity
    from moto.autoscaling.responses import AutoScalingResponse
    from moto.core.responses import ActionResult

    initial: set[str] = set()

    def launch(original: Call, self: Any, count: int, tags: dict[str, str]) -> None:
        before = {id(s) for s in self.instance_states}
        original(self, count, tags)
        for state in [s for s in self.instance_states if id(s) not in before]:
            state.lifecycle_state = "Pending"
            initial.add(state.instance.id)
            later(3 * second, partial(setattr, state, "lifecycle_state", "InService"))
            later(4 * second, partial(initial.discard, state.instance.id))

    def terminate(original: Call, self: Any, instance_id: str, decrement: bool) -> Any:
        groups = self.autoscaling_groups.values()
        states = [s for g in groups for s in g.instance_states if s.instance.id == instance_id]
        if not states:
            raise ValidationError(f"Instance Id not found - No managed instance found for {instance_id}")
        (state,) = states
        if state.lifecycle_state == "InService":
            state.lifecycle_state = "Terminating"
            later(4 * second, lambda: original(self, instance_id, decrement))
        return TerminateInstanceActivity(state.instance, state.instance.autoscaling_group.desired_capacity)

    with contextlib.ExitStack() as changes:
        around(changes, FakeAutoScalingGroup, "replace_autoscaling_group_instances", launch)
        around(changes, AutoScalingBackend, "terminate_instance", terminate)
        _gradual_targets(changes, later, 4 * second, initial)
        described = ActionResult({"InstanceRefreshes": refreshes})
        put(changes, AutoScalingResponse, "describe_instance_refreshes", lambda _self: described)
        yield


def _gradual_targets(changes: contextlib.ExitStack, later: Later, drained_after: timedelta, initial: set[str]) -> None:
    """A target that is deregistered is listed, as draining, until it has drained; who is `initial` is not healthy."""
    from moto.elbv2.models import FakeHealthStatus, FakeTargetGroup

    draining: set[str] = set()

    def deregister(original: Call, self: Any, targets: list[dict[str, Any]]) -> None:
        there = {t["Id"]: self.targets[t["Id"]] for t in targets if t["Id"] in self.targets}
        original(self, targets)
        draining.update(there)
        self.targets.update(there)
        for name in there:
            later(drained_after, partial(drained, self, name))

    def drained(group: Any, name: str) -> None:
        draining.discard(name)
        group.targets.pop(name, None)

    def health(original: Call, self: Any, target: dict[str, Any], ec2: Any) -> Any:
        for state, members in (("draining", draining), ("initial", initial)):
            if target["Id"] in members:
                return FakeHealthStatus(target["Id"], self.port, self.health_check_port, state)
        return original(self, target, ec2)

    around(changes, FakeTargetGroup, "deregister", deregister)
    around(changes, FakeTargetGroup, "health_for", health)
