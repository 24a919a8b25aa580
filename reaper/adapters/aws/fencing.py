"""The end of an instance, and its proof: what EC2 says of it, and that nothing answers where its server was (I4)."""

import socket
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from reaper.adapters.aws.discovery import Machine, describe, look_at, port_of
from reaper.adapters.aws.errors import BusyError, NotThereError, ThrottledError, UnsureError, ask
from reaper.adapters.aws.settings import Ec2Settings
from reaper.adapters.aws.volumes import tag
from reaper.adapters.aws.waiting import repeat, until
from reaper.domain.errors import ReaperError, RefusedError, ServerError
from reaper.domain.facts import Address

_KILL_AGAIN_WITHIN = timedelta(seconds=30)
_SILENT_WITHIN = timedelta(seconds=60)
_GREETING_S = 1.0
Answers = Callable[[Address], bool]


def answers(address: Address) -> bool:
    """True if a server greets there. MySQL and MariaDB speak first; what accepts and stays silent is frozen."""
    try:
        with socket.create_connection((address.host, address.port), timeout=_GREETING_S) as connection:
            connection.settimeout(_GREETING_S)
            return bool(connection.recv(1))
    except OSError:
        return False


class Fences:
    """Proofs, cutting off, and the aim at an instance."""

    def __init__(self, settings: Ec2Settings, answers: Answers = answers) -> None:
        self._settings = settings
        self._answers = answers

    def proof(self, machine: Machine, address: Address) -> str | None:
        """Look twice, and at the port in between: one answer of EC2 may be old. None: no proof."""
        client = machine.clients.urgent
        first = look_at(machine.clients, client, machine.id)
        if first is None or not first.over:
            return None
        if self._answers(address) and not self._belongs_to_another(machine, address):
            return None
        second = look_at(machine.clients, client, machine.id)
        if second is None or second.state not in ("terminated", first.state):
            return None
        return f"EC2 says that {machine.id} is {second.state}, and no server of it answers at {address}"

    def _belongs_to_another(self, machine: Machine, address: Address) -> bool:
        """Addresses are given away again: what answers may be the server of another instance."""
        filters = [
            {"Name": "private-ip-address", "Values": [address.host]},
            {"Name": "instance-state-name", "Values": ["pending", "running", "shutting-down", "stopping"]},
        ]
        found = describe(machine.clients, machine.clients.urgent, filters, f"find who has {address.host} now")
        return any(m.id != machine.id and m.network == machine.network for m in found)

    def isolation(self, machine: Machine) -> str | None:
        """The security group without rules of its network; None: the site has made none."""
        filters = [
            {"Name": "tag-key", "Values": [self._settings.tags.isolation]},
            {"Name": "vpc-id", "Values": [machine.network or ""]},
        ]
        found = repeat(
            lambda: ask(
                "look for the group that isolates",
                lambda: machine.clients.urgent.describe_security_groups(Filters=filters),
            ),
            within=_KILL_AGAIN_WITHIN,
        )["SecurityGroups"]
        return min((str(g["GroupId"]) for g in found), default=None)

    def isolate(self, machine: Machine) -> bool:
        """Cut it off from the network, its groups noted before. False: there is no group for that."""
        group = self.isolation(machine)
        if group is None:
            return False
        if machine.groups != (group,):
            note = {self._settings.tags.groups: " ".join(machine.groups)}
            tag(machine.clients, [machine.id], note, self._settings)
            self._put_into(machine, [group])
        return True

    def connect_again(self, machine: Machine) -> None:
        """Undo the isolation."""
        noted = repeat(lambda: look_at(machine.clients, machine.clients.urgent, machine.id), within=_KILL_AGAIN_WITHIN)
        groups = noted.tags.get(self._settings.tags.groups, "").split() if noted else []
        if not groups:
            return
        self._put_into(machine, groups)
        name = [{"Key": self._settings.tags.groups}]
        repeat(
            lambda: ask(
                f"untag {machine.id}", lambda: machine.clients.urgent.delete_tags(Resources=[machine.id], Tags=name)
            ),
            within=_KILL_AGAIN_WITHIN,
        )

    def _put_into(self, machine: Machine, groups: list[str]) -> None:
        repeat(
            lambda: ask(
                f"change the security groups of {machine.id}",
                lambda: machine.clients.urgent.modify_instance_attribute(InstanceId=machine.id, Groups=groups),
            ),
            within=_KILL_AGAIN_WITHIN,
        )

    def protection(self, machine: Machine) -> str | None:
        """What in EC2 keeps it from being stopped or terminated; None: nothing. One call for each of both."""
        client = machine.clients.urgent
        for attribute, key in (
            ("disableApiTermination", "DisableApiTermination"),
            ("disableApiStop", "DisableApiStop"),
        ):
            look = partial(client.describe_instance_attribute, InstanceId=machine.id, Attribute=attribute)
            said = repeat(partial(ask, f"ask whether {machine.id} is protected", look), within=_KILL_AGAIN_WITHIN)
            if said.get(key, {}).get("Value"):
                return f"{machine.instance_id} is protected by its attribute {attribute}"
        return None

    def aim(self, machine: Machine) -> "Aimed":
        """Check that it may be killed now. RefusedError: not this one."""
        names = self._settings.tags
        if names.quarantined_until in machine.tags:
            raise RefusedError(f"{machine.instance_id} is quarantined")
        if machine.state != "running":
            raise RefusedError(f"{machine.instance_id} is {machine.state}: nothing is killed")
        protected = self.protection(machine)
        if protected is not None:
            raise RefusedError(f"{protected}: nothing is killed. Take the protection off if it may die")
        return Aimed(self, self._settings, machine)


class Aimed:
    """A trigger on one instance: everything was looked up, firing is one call."""

    def __init__(self, fences: Fences, settings: Ec2Settings, machine: Machine) -> None:
        self._fences = fences
        self._settings = settings
        self._machine = machine
        self._address = Address(machine.address or machine.id, port_of(machine, settings))
        self._proof: str | None = None
        self._how = ""

    def crash(self) -> None:
        """Power off, without asking the system to shut down (E32). One that cannot be stopped is terminated so."""
        machine, client = self._machine, self._machine.clients.urgent
        if machine.stops:
            self._how = "stopped without a shutdown of its system"
            self._fire(lambda: client.stop_instances(InstanceIds=[machine.id], SkipOsShutdown=True, Force=True))
        else:
            self._how = "terminated without a shutdown of its system"
            self._fire(lambda: client.terminate_instances(InstanceIds=[machine.id], SkipOsShutdown=True))

    def terminate(self) -> None:
        """EC2's own terminate: its system shuts down, and the volumes that end with it are gone."""
        self._how = "terminated, its system shut down"
        self._fire(lambda: self._machine.clients.urgent.terminate_instances(InstanceIds=[self._machine.id]))

    def _fire(self, call: Callable[[], object]) -> None:
        """Fire until EC2 has taken it: firing twice does no harm, and whoever has ended already does not mind."""
        try:
            repeat(lambda: ask(f"kill {self._machine.id}", call), within=_KILL_AGAIN_WITHIN)
        except (NotThereError, BusyError):
            return  # the fence will tell
        except (UnsureError, ThrottledError) as error:
            raise ServerError(f"{error}: whether {self._machine.id} dies is unknown") from error

    def freeze(self) -> None:
        """Cut it off from the network. Returns when it is silent. RefusedError: there is no group for that."""
        machine = self._machine
        if not self._fences.isolate(machine):
            raise RefusedError(
                f"{machine.instance_id} cannot be cut off: {machine.network} has no security group with the tag "
                f"{self._settings.tags.isolation}. Make one without rules, or choose another way to kill"
            )
        try:
            until(
                lambda: None if self._fences._answers(self._address) else True,
                what=f"{machine.id} was cut off but did not fall silent",
                within=_SILENT_WITHIN,
                every=self._settings.pace.look_hard_every,
            )
        except ReaperError as error:
            raise ServerError(str(error)) from error

    def thaw(self) -> None:
        """Put it back into its security groups."""
        self._fences.connect_again(self._machine)

    def fence(self, within: timedelta) -> str | None:
        """Ask EC2 until it says that the instance has ended, and nothing answers any more."""
        deadline = time.monotonic() + within.total_seconds()
        while self._proof is None:
            try:
                proof = self._fences.proof(self._machine, self._address)
            except (UnsureError, ThrottledError):
                proof = None
            if proof is not None:
                self._proof = f"{proof} ({self._how})" if self._how else proof
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(self._settings.pace.look_hard_every.total_seconds())
        return self._proof

    def close(self) -> None:
        """Nothing is held."""
