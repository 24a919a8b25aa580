"""What moto leaves out of EC2, put into its classes in the lab's own process.

Gradual states, tokens that are honoured, a terminated instance that stays so, addresses that are free again, and the
moments at which a hypervisor has something to do. Written for moto 5.2; a test holds each of these against the lab.
"""

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from reaper.adapters.aws.control_plane import ControlPlane
from reaper.adapters.aws.likeness import around, put

_VIA = {"running": "pending", "stopped": "stopping", "terminated": "shutting-down"}
_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class Hypervisor(Protocol):
    """What runs instances. Every call returns at once."""

    def boot(self, instance: Any) -> None:
        """An instance was launched or started."""

    def end(self, instance: Any, *, abruptly: bool, gone: bool) -> threading.Event:
        """An instance is stopped or terminated; set as soon as nothing of it runs any more."""

    def reboot(self, instance: Any) -> None:
        """An instance shuts down and boots."""

    def cut_off(self, instance: Any, *, cut: bool) -> None:
        """An instance was put into the group that isolates, or out of it."""

    def copy(self, volumes: list[str], snapshots: list[str]) -> None:
        """The volumes' content at this one moment becomes the snapshots'. Returns when it has."""

    def drop_volume(self, volume: str) -> None:
        """A volume was deleted."""

    def drop_snapshot(self, snapshot: str) -> None:
        """A snapshot was deleted."""


class GradualState:
    """A state that shows where it leads to only after a while, and after what it waits for has happened."""

    delay_s = 0.2

    def __init__(self, name: str = "pending", code: int = 0) -> None:
        del code  # follows from the name
        self._final = ""
        self._at = 0.0
        self._waits_for: threading.Event | None = None
        self.name = name

    @property
    def name(self) -> str:
        """The state as it shows."""
        waiting = self._waits_for is not None and not self._waits_for.is_set()
        return _VIA.get(self._final, self._final) if waiting or time.monotonic() < self._at else self._final

    @name.setter
    def name(self, name: str) -> None:
        if name != self._final:
            self._final, self._at, self._waits_for = name, time.monotonic() + self.delay_s, None

    @property
    def final(self) -> str:
        """Where it leads to."""
        return self._final

    @property
    def code(self) -> int:
        """EC2's number of the state."""
        return _CODES[self.name]

    @code.setter
    def code(self, code: int) -> None:
        del code

    def wait_for(self, event: threading.Event) -> None:
        """Not before that."""
        self._waits_for = event

    def __copy__(self) -> "GradualState":
        """As it shows now, for good."""
        shown = GradualState(self.name)
        shown._at = 0.0
        return shown


@contextlib.contextmanager
def gradual(plane: ControlPlane, hypervisor: Hypervisor, isolation_tag: str, delay_s: float) -> Iterator[None]:
    """While inside, moto's classes are changed, for this whole process."""
    from moto.ec2.models import EC2Backend, instances
    from moto.ec2.models import elastic_block_store as ebs

    GradualState.delay_s = delay_s
    with contextlib.ExitStack() as changes:
        put(changes, instances, "InstanceState", GradualState)
        calls = _Calls()
        _remember_how(changes, calls)
        _launches(changes, EC2Backend, hypervisor)
        _ends(changes, plane, hypervisor, calls)
        _starts(changes, instances.Instance, hypervisor)
        _isolation(changes, EC2Backend, hypervisor, isolation_tag)
        _disks(changes, EC2Backend, hypervisor)
        put(changes, ebs, "Snapshot", _gradual_snapshot(ebs.Snapshot, delay_s))
        yield


class _Calls(threading.local):
    """What the present call says and moto does not pass on."""

    abruptly = False


def _remember_how(changes: contextlib.ExitStack, calls: _Calls) -> None:
    from moto.ec2.responses.instances import InstanceResponse

    def noting(original: Callable[..., Any], self: Any) -> Any:
        calls.abruptly = str(self._get_param("SkipOsShutdown")).lower() == "true"
        try:
            return original(self)
        finally:
            calls.abruptly = False

    around(changes, InstanceResponse, "stop_instances", noting)
    around(changes, InstanceResponse, "terminate_instances", noting)


def _launches(changes: contextlib.ExitStack, backend: Any, hypervisor: Hypervisor) -> None:
    """RunInstances boots, and honours its token as "Ensuring idempotency" in the EC2 API reference says."""
    from moto.ec2.exceptions import EC2ClientError

    answered: dict[tuple[str, str, str], tuple[str, Any]] = {}

    def run(original: Callable[..., Any], self: Any, *arguments: Any, **named: Any) -> Any:
        token = named.get("client_token")
        key = (self.account_id, self.region_name, str(token))
        asked = str((list(map(str, arguments)), sorted((k, str(v)) for k, v in named.items())))
        if token not in (None, "ABCDE") and key in answered:  # ABCDE: moto's own, for a call without a token
            before, made = answered[key]
            if before != asked:
                raise EC2ClientError("IdempotentParameterMismatch", "the token was used with other parameters")
            if all(i._state.final == "terminated" for i in made.instances):
                raise EC2ClientError("IdempotentInstanceTerminated", "what this token made is terminated")
            return made
        made = original(self, *arguments, **named)
        answered[key] = (asked, made)
        for instance in made.instances:
            hypervisor.boot(instance)
        return made

    around(changes, backend, "run_instances", run)


def _ends(changes: contextlib.ExitStack, plane: ControlPlane, hypervisor: Hypervisor, calls: _Calls) -> None:
    from moto.ec2.models.instances import Instance

    def stop(original: Callable[..., Any], self: Any) -> Any:
        _refuse_terminated(self)
        before = copy.copy(self._state)
        if self._state.final == "stopped":
            return before
        ended = hypervisor.end(self, abruptly=calls.abruptly, gone=False)
        original(self)
        self._state.wait_for(ended)
        return before

    def terminate(original: Callable[..., Any], self: Any) -> Any:
        before = copy.copy(self._state)
        if self._state.final == "terminated":
            return before
        ended = hypervisor.end(self, abruptly=calls.abruptly, gone=True)
        addresses = set(self._private_ips)
        original(self)
        self._state.wait_for(ended)
        threading.Thread(target=free, args=(self, addresses, ended), daemon=True).start()
        return before

    def free(self: Any, addresses: set[str], ended: threading.Event) -> None:
        """Its primary interface ends with it; moto keeps it, so that an address would be found at two of them."""
        ended.wait()
        with plane.lock:
            self.ec2_backend.enis.pop(self.nics[0].id, None)
            for address in addresses:
                self.ec2_backend.get_subnet(self._subnet_id).del_subnet_ip(address)

    around(changes, Instance, "stop", stop)
    around(changes, Instance, "terminate", terminate)


def _refuse_terminated(instance: Any) -> None:
    from moto.ec2.exceptions import EC2ClientError

    if instance._state.final == "terminated":
        raise EC2ClientError("IncorrectInstanceState", f"The instance '{instance.id}' is terminated.")


def _starts(changes: contextlib.ExitStack, instance_class: Any, hypervisor: Hypervisor) -> None:
    from moto.ec2.exceptions import EC2ClientError

    def start(original: Callable[..., Any], self: Any) -> Any:
        _refuse_terminated(self)
        if self._state.name == "stopping":
            raise EC2ClientError("IncorrectInstanceState", f"The instance '{self.id}' is not in a state to be started.")
        before = copy.copy(self._state)
        if before.name == "stopped":
            original(self)
            hypervisor.boot(self)
        return before

    def reboot(original: Callable[..., Any], self: Any) -> Any:
        _refuse_terminated(self)
        hypervisor.reboot(self)
        return original(self)

    around(changes, instance_class, "start", start)
    around(changes, instance_class, "reboot", reboot)


def _isolation(changes: contextlib.ExitStack, backend: Any, hypervisor: Hypervisor, isolation_tag: str) -> None:
    def modify(original: Callable[..., Any], self: Any, instance_id: str, groups: list[str]) -> Any:
        instance = original(self, instance_id, groups)
        tagged = [any(t["key"] == isolation_tag for t in self.describe_tags({"resource-id": [g]})) for g in groups]
        hypervisor.cut_off(instance, cut=bool(tagged) and all(tagged))
        return instance

    around(changes, backend, "modify_instance_security_groups", modify)


def _disks(changes: contextlib.ExitStack, backend: Any, hypervisor: Hypervisor) -> None:
    within: list[list[Any]] = []  # what a CreateSnapshots that is under way has made

    def one(original: Callable[..., Any], self: Any, *arguments: Any, **named: Any) -> Any:
        snapshot = original(self, *arguments, **named)
        if within:
            within[-1].append(snapshot)
        elif snapshot.from_ami is None:
            hypervisor.copy([snapshot.volume.id], [snapshot.id])
        return snapshot

    def several(original: Callable[..., Any], self: Any, *arguments: Any, **named: Any) -> Any:
        within.append([])
        try:
            made = original(self, *arguments, **named)
            hypervisor.copy([s.volume.id for s in made], [s.id for s in made])
        finally:
            within.pop()
        return made

    def delete_volume(original: Callable[..., Any], self: Any, volume_id: str) -> Any:
        deleted = original(self, volume_id)
        hypervisor.drop_volume(volume_id)
        return deleted

    def delete_snapshot(original: Callable[..., Any], self: Any, snapshot_id: str) -> Any:
        deleted = original(self, snapshot_id)
        hypervisor.drop_snapshot(snapshot_id)
        return deleted

    around(changes, backend, "create_snapshot", one)
    around(changes, backend, "create_snapshots", several)
    around(changes, backend, "delete_volume", delete_volume)
    around(changes, backend, "delete_snapshot", delete_snapshot)


def _gradual_snapshot(original: Any, delay_s: float) -> type:
    """A snapshot that is pending for a while. What was copied is of the moment of the call all the same."""

    class GradualSnapshot(original):  # type: ignore[misc]  # moto's class, whatever it is
        @property
        def status(self) -> str:
            """As it shows."""
            return "completed" if time.monotonic() - self.__dict__["_begun"] >= delay_s else "pending"

        @status.setter
        def status(self, status: str) -> None:
            del status
            self.__dict__["_begun"] = time.monotonic()

    return GradualSnapshot
