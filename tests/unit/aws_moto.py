"""Clients of moto's server on loopback, made as strict as AWS where reaper depends on it, and a recorder of calls."""

import heapq
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import boto3
import requests
from botocore.config import Config
from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
from moto.route53.models import Route53Backend
from moto.server import ThreadedMotoServer

REGION = "eu-west-1"
FAKE = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
CONFIG = Config(
    connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 1}, max_pool_connections=1
)
ELBV2 = "elasticloadbalancing"


class Moto:
    """One moto server and the clients of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.recorder = Recorder()
        self._clients: dict[str, Any] = {}

    def client(self, service: str, **credentials: str) -> Any:
        """A client that can only reach this server; its calls are recorded."""
        made = self._clients.get(service)
        if made is None or credentials:
            made = boto3.session.Session().client(
                service, region_name=REGION, endpoint_url=self.url, config=CONFIG, **credentials
            )
            assert made.meta.endpoint_url == self.url
            self.recorder.listen(made)
            self._clients.setdefault(service, made)
        return made

    def close(self) -> None:
        for made in self._clients.values():
            made.close()


@contextmanager
def running() -> Iterator[Moto]:
    """A server in a thread of this process; every call of `boto3` finds fake credentials only."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with patch.dict(os.environ, FAKE):
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        moto = Moto(f"http://{host}:{port}")
        try:
            yield moto
        finally:
            moto.close()
            server.stop()


class InstantClock:
    """A clock on which waiting costs nothing. For one thread."""

    def __init__(self) -> None:
        self._ns = 3600 * 10**9
        self.slept: list[timedelta] = []
        self._due: list[tuple[int, int, Callable[[], object]]] = []

    def now(self) -> datetime:
        return datetime(2026, 3, 2, 2, tzinfo=UTC) + timedelta(microseconds=self._ns // 1000)

    def monotonic_ns(self) -> int:
        return self._ns

    def sleep(self, span: timedelta) -> None:
        self.slept.append(span)
        until = self._ns + span // timedelta(microseconds=1) * 1000
        while self._due and self._due[0][0] <= until:
            at, _, action = heapq.heappop(self._due)
            self._ns = max(self._ns, at)
            action()
        self._ns = until

    def after(self, span: timedelta, action: Callable[[], object]) -> None:
        """Let something happen while somebody waits."""
        heapq.heappush(self._due, (self._ns + span // timedelta(microseconds=1) * 1000, len(self._due), action))


def reset(moto: Moto) -> None:
    """As if the server were new."""
    requests.post(f"{moto.url}/moto-api/reset", timeout=10).raise_for_status()
    moto.recorder.forget()


class Recorder:
    """What was called, as IAM names it. Reusable: `listen` to any client, then run the code."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []  # (action, the call's parameters)
        self.lost: list[str] = []  # actions whose next answer is lost after it was done
        self._before: list[tuple[str, Any]] = []  # (action, what happens right before its next call)

    def listen(self, client: Any) -> None:
        """Record every call of a client, retries not counted."""
        client.meta.events.register("provide-client-params", self._heard)
        client.meta.events.register("before-call", self._right_before)
        client.meta.events.register("after-call", self._after)

    @property
    def actions(self) -> set[str]:
        """Every action so far, as `service:Operation`."""
        return {action for action, _ in self.calls}

    def forget(self) -> None:
        self.calls.clear()
        self.lost.clear()
        self._before.clear()

    def before(self, action: str, what: Any) -> None:
        """Let something happen right before the next call of an action, such as somebody else being faster."""
        self._before.append((action, what))

    def _heard(self, params: dict[str, Any], model: Any, **_: object) -> None:
        self.calls.append((action_of(model), dict(params)))

    def _right_before(self, model: Any, **_: object) -> None:
        for waiting in [w for w in self._before if w[0] == action_of(model)][:1]:
            self._before.remove(waiting)
            waiting[1]()

    def _after(self, model: Any, http_response: Any, parsed: dict[str, Any], **_: object) -> None:
        if action_of(model) in self.lost:
            self.lost.remove(action_of(model))
            http_response.status_code = 503
            parsed.clear()
            parsed.update(
                Error={"Code": "ServiceUnavailable", "Message": "the answer was lost, as the test ordered"},
                ResponseMetadata={"HTTPStatusCode": 503, "RetryAttempts": 0},
            )


def action_of(model: Any) -> str:
    """The IAM action of an operation: IAM's prefix of the service is the signing name, but for two of ours."""
    return f"{model.service_model.signing_name}:{model.name}"


@contextmanager
def strict_route53(pending: int = 1) -> Iterator[None]:
    """A batch is validated against what is there, as AWS does; a change is pending for so many looks."""
    polls: dict[str, int] = {}
    numbers = itertools.count(1)

    def change(self: Route53Backend, zoneid: str, change_list: list[dict[str, Any]]) -> None:
        from moto.route53.exceptions import Route53ClientError

        zone = self.get_hosted_zone(zoneid)
        there = {_key(r.name, r.type): r for r in zone.rrsets}
        for one in change_list:
            wanted = one["ResourceRecordSet"]
            key = _key(wanted["Name"], wanted["Type"])
            seen = there.get(key)
            if one["Action"] == "DELETE":
                values = [v["Value"] if isinstance(v, dict) else v for v in wanted.get("ResourceRecords", [])]
                if seen is None or values != list(seen.records) or str(wanted.get("TTL")) != str(seen.ttl):
                    raise Route53ClientError(
                        "InvalidChangeBatch", "the values provided do not match the current values"
                    )
                del there[key]
            elif one["Action"] == "CREATE" and seen is not None:
                raise Route53ClientError("InvalidChangeBatch", "Tried to create resource record set but it exists")
        for one in change_list:
            wanted = one["ResourceRecordSet"] | {"Name": one["ResourceRecordSet"]["Name"].rstrip(".") + "."}
            if one["Action"] == "DELETE":
                zone.delete_rrset(wanted)
            else:
                values = [v["Value"] for v in wanted["ResourceRecords"]]
                zone.upsert_rrset(wanted | {"ResourceRecords": values})

    def get_change(self: Any) -> Any:
        from moto.core.responses import ActionResult

        name = self._get_param("Id") or next(numbers)
        polls[name] = polls.get(name, 0) + 1
        status = "INSYNC" if polls[name] > pending else "PENDING"
        return ActionResult({"ChangeInfo": {"Id": name, "Status": status, "SubmittedAt": "2026-03-02T03:00:00Z"}})

    from moto.route53.responses import Route53

    with (
        patch.object(Route53Backend, "change_resource_record_sets", change),
        patch.object(Route53, "get_change", get_change),
    ):
        yield


def _key(name: str, kind: str | None) -> tuple[str, str]:
    return name.rstrip(".").lower(), kind or ""


@contextmanager
def strict_addresses() -> Iterator[None]:
    """An address belongs to one interface; it is found by any of them."""
    assign, unassign = (
        NetworkInterfaceBackend.assign_private_ip_addresses,
        NetworkInterfaceBackend.unassign_private_ip_addresses,
    )
    value = NetworkInterface.get_filter_value

    def get_filter_value(self: NetworkInterface, name: str, method: str | None = None) -> Any:
        if name == "addresses.private-ip-address":
            return [a["PrivateIpAddress"] for a in self.private_ip_addresses]
        return value(self, name, method)

    def strictly_assign(self: Any, eni: str, addresses: list[str] | None = None, count: int | None = None) -> Any:
        from moto.ec2.exceptions import InvalidParameterValueError

        for other in self.enis.values():
            taken = {a["PrivateIpAddress"] for a in other.private_ip_addresses} & set(addresses or ())
            if taken and other.id != eni:
                raise InvalidParameterValueError(", ".join(taken))
        return assign(self, eni, addresses, count)

    def strictly_unassign(self: Any, eni: str, addresses: list[str] | None = None) -> Any:
        from moto.ec2.exceptions import InvalidParameterValueError

        has = {a["PrivateIpAddress"] for a in self.enis[eni].private_ip_addresses}
        if not set(addresses or ()) <= has:
            raise InvalidParameterValueError(", ".join(addresses or ()))
        return unassign(self, eni, addresses)

    with (
        patch.object(NetworkInterface, "get_filter_value", get_filter_value),
        patch.object(NetworkInterfaceBackend, "assign_private_ip_addresses", strictly_assign),
        patch.object(NetworkInterfaceBackend, "unassign_private_ip_addresses", strictly_unassign),
    ):
        yield


SECOND = timedelta(seconds=1)


@contextmanager
def slow_groups(clock: InstantClock, refreshes: list[dict[str, Any]]) -> Iterator[None]:
    """Members come, drain and go gradually, as on AWS; a refresh can be described; a stranger is not terminated."""
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup
    from moto.autoscaling.responses import AutoScalingResponse
    from moto.core.responses import ActionResult
    from moto.elbv2.models import FakeHealthStatus, FakeTargetGroup

    launch, terminate = FakeAutoScalingGroup.replace_autoscaling_group_instances, AutoScalingBackend.terminate_instance
    deregister, health = FakeTargetGroup.deregister, FakeTargetGroup.health_for
    initial: set[str] = set()
    draining: dict[str, dict[str, Any]] = {}

    def slowly_launch(self: Any, count: int, tags: dict[str, str]) -> None:
        before = {id(s) for s in self.instance_states}
        launch(self, count, tags)
        for state in [s for s in self.instance_states if id(s) not in before]:
            state.lifecycle_state = "Pending"
            initial.add(state.instance.id)
            clock.after(3 * SECOND, lambda s=state: setattr(s, "lifecycle_state", "InService"))
            clock.after(4 * SECOND, lambda i=state.instance.id: initial.discard(i))

    def slowly_terminate(self: Any, instance_id: str, decrement: bool) -> Any:
        states = [
            s for g in self.autoscaling_groups.values() for s in g.instance_states if s.instance.id == instance_id
        ]
        if not states:
            raise ValidationError(f"Instance Id not found - No managed instance found for {instance_id}")
        (state,) = states
        if state.lifecycle_state == "InService":
            state.lifecycle_state = "Terminating"
            clock.after(4 * SECOND, lambda: terminate(self, instance_id, decrement))
        from moto.autoscaling.models import TerminateInstanceActivity

        return TerminateInstanceActivity(state.instance, state.instance.autoscaling_group.desired_capacity)

    def slowly_deregister(self: Any, targets: list[dict[str, Any]]) -> None:
        there = {t["Id"]: self.targets[t["Id"]] for t in targets if t["Id"] in self.targets}
        deregister(self, targets)
        for name, target in there.items():
            draining[name] = target
            self.targets[name] = target  # it is listed until it has drained
            clock.after(4 * SECOND, lambda n=name: (draining.pop(n, None), self.targets.pop(n, None)))

    def gradual_health(self: Any, target: dict[str, Any], ec2: Any) -> Any:
        if target["Id"] in draining:
            return FakeHealthStatus(target["Id"], self.port, self.health_check_port, "draining")
        if target["Id"] in initial:
            return FakeHealthStatus(target["Id"], self.port, self.health_check_port, "initial")
        return health(self, target, ec2)

    with (
        patch.object(FakeAutoScalingGroup, "replace_autoscaling_group_instances", slowly_launch),
        patch.object(AutoScalingBackend, "terminate_instance", slowly_terminate),
        patch.object(FakeTargetGroup, "deregister", slowly_deregister),
        patch.object(FakeTargetGroup, "health_for", gradual_health),
        patch.object(
            AutoScalingResponse,
            "describe_instance_refreshes",
            lambda _self: ActionResult({"InstanceRefreshes": refreshes}),
            create=True,
        ),
    ):
        yield
