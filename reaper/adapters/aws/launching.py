"""Launch replacements on copied volumes, find those that were launched before, and leave nothing behind."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from reaper.adapters.aws.discovery import Discovery, Machine, look_at, port_of
from reaper.adapters.aws.errors import NotThereError, SameTokenError, SpentTokenError, ask
from reaper.adapters.aws.fencing import Answers
from reaper.adapters.aws.images import Images, template_of
from reaper.adapters.aws.serverids import ServerIds
from reaper.adapters.aws.session import Clients
from reaper.adapters.aws.settings import Ec2Settings, Template
from reaper.adapters.aws.userdata import Birth, render
from reaper.adapters.aws.volumes import Taken, Volumes, copied, tag_list
from reaper.adapters.aws.waiting import repeat, until
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Address, Berth

_MOST_TOKENS = 5  # one for each time that what was launched has been ended since
_TOKEN_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be launched."""

    cluster: str
    name: str  # the derived name
    berth: Berth  # without a zone: where the fewest of the cluster are; without a template: the members' own
    taken: Taken


class Launching:
    """RunInstances, once for each derived name."""

    def __init__(
        self, settings: Ec2Settings, discovery: Discovery, images: Images, volumes: Volumes, answers: Answers
    ) -> None:
        self._settings = settings
        self._discovery = discovery
        self._images = images
        self._volumes = volumes
        self._answers = answers
        self.server_ids = ServerIds(discovery.home, settings.counters, settings.pace)

    def find(self, cluster: str, name: str) -> Machine | None:
        """What was launched under a name and has not ended for good."""
        found = repeat(lambda: self._discovery.made_by(cluster, name), within=self._settings.pace.repeat_within)
        if len(found) > 1:
            shown = ", ".join(str(m.instance_id) for m in found)
            raise RefusedError(f"{shown} were all made by {name}: reaper made one of them at the most. Look who did")
        return found[0] if found else None

    def launch(self, wish: Wish, check: Callable[[], None]) -> Machine:
        """The instance, running and answering. UsageError, RefusedError, TryAgainError: it cannot be, in words."""
        machine = self.find(wish.cluster, wish.name)
        if machine is None:
            machine = self._run(wish, check)
        return self.wait_up(machine, check)

    def _run(self, wish: Wish, check: Callable[[], None]) -> Machine:
        members = self._discovery.members(wish.cluster)
        clients = wish.taken.parts[0].clients
        there = [m for m in members if m.clients is clients]
        if not there:
            raise UsageError(
                f"{wish.cluster} has no member in {clients.place}: nothing to launch the replacement beside"
            )
        near = next((m for m in reversed(there) if not m.over), there[-1])
        template = self._template(clients, near, wish.berth)
        taken = {int(v) for m in members if (v := m.tags.get(self._settings.tags.server_id, "")).isdecimal()}
        server_id = self.server_ids.give(wish.cluster, wish.name, taken)
        request = self._request(wish, near, template, server_id)
        request["SubnetId"] = self._subnet(wish, there)
        for number in range(1, _MOST_TOKENS + 1):
            check()
            launch = partial(clients.ec2.run_instances, ClientToken=_token(wish, number), **request)
            try:
                made = repeat(
                    partial(ask, f"launch {wish.name}", launch), within=self._settings.pace.repeat_within, check=check
                )
            except SpentTokenError:
                continue  # what it made was ended since
            except SameTokenError:
                found = self._seen(wish)  # an earlier answer was lost, and what it asked for differed a little
                if found is not None:
                    return found
                continue
            machine = self._appears(clients, made["Instances"][0]["InstanceId"], check)
            if machine.state not in ("shutting-down", "terminated"):
                self._discovery.changed(wish.cluster)
                return machine
            if self._settings.tags.retired not in machine.tags:
                raise _ended(machine)
        raise TryAgainError(f"{wish.name} was launched and retired {_MOST_TOKENS} times: begin another run")

    def _template(self, clients: Clients, member: Machine, berth: Berth) -> Template:
        """The launch template, its version pinned. UsageError: there is none, or not as it is named."""
        named = Template.of(berth.template) if berth.template else template_of(member, self._settings)
        if named is None:
            raise UsageError(
                f"{member.instance_id} was not launched from a launch template, and the settings name none: reaper "
                "launches from templates only"
            )
        current = self._images.current(clients, named)
        if current is None:
            raise UsageError(
                f"there is no launch template {named.id} {named.version or ''} in {clients.place}".rstrip()
            )
        if current.spot:
            raise RefusedError(
                f"the launch template {current.name} {current.version} asks for a spot instance, which EC2 takes away "
                "when it likes: a database that is disposed of by plan is no spot instance"
            )
        return Template(id=named.id, version=current.version)

    def _request(self, wish: Wish, member: Machine, template: Template, server_id: int) -> dict[str, Any]:
        names = self._settings.tags
        own = {names.cluster: wish.cluster, names.made_by: wish.name, "Name": wish.name}
        mappings = self._volumes.mappings(wish.taken)
        request: dict[str, Any] = {
            "LaunchTemplate": {"LaunchTemplateId": template.id, "Version": template.version},
            "MinCount": 1,
            "MaxCount": 1,
            "BlockDeviceMappings": mappings,
            "TagSpecifications": [
                {
                    "ResourceType": "instance",
                    "Tags": tag_list(copied(member.tags, names) | own | {names.server_id: str(server_id)}),
                },
                {"ResourceType": "volume", "Tags": tag_list(copied(member.tags, names) | own)},
            ],
        }
        if self._settings.user_data is not None:
            device = str(mappings[0]["DeviceName"])
            birth = Birth(server_id=server_id, device=device, cluster=wish.cluster, name=wish.name)
            request["UserData"] = render(self._settings.user_data, birth)
        return request

    def _subnet(self, wish: Wish, there: list[Machine]) -> str:
        """A subnet that the cluster has used, in the zone that is wished, or where the fewest of it live."""
        places: dict[str, str] = {}
        for machine in there:
            if machine.subnet and machine.zone:
                places.setdefault(machine.zone, machine.subnet)
        if wish.berth.zone is not None and wish.berth.zone in places:
            return places[wish.berth.zone]
        if not places or wish.berth.zone is not None:
            raise RefusedError(
                f"{wish.cluster} has no subnet in {wish.berth.zone or 'any zone'}: it has members in "
                f"{', '.join(sorted(places)) or 'none'}"
            )
        living = Counter(m.zone for m in there if not m.over)
        return places[min(places, key=lambda zone: (living[zone], zone))]

    def _seen(self, wish: Wish) -> Machine | None:
        """None: what EC2 says was launched has ended since."""
        with contextlib.suppress(TryAgainError):
            return until(
                lambda: self.find(wish.cluster, wish.name),
                what=f"EC2 says that {wish.name} was launched, and it was not seen",
                within=self._settings.pace.seen_within,
                every=self._settings.pace.look_hard_every,
            )
        return None

    def _appears(self, clients: Clients, instance: str, check: Callable[[], None]) -> Machine:
        """What was just made is not seen by every reader at once."""
        return until(
            lambda: look_at(clients, clients.ec2, instance),
            what=f"{instance} was launched and not seen",
            within=self._settings.pace.seen_within,
            every=self._settings.pace.look_hard_every,
            check=check,
        )

    # ---- states

    def wait_up(self, machine: Machine, check: Callable[[], None]) -> Machine:
        """Wait until it runs and its server answers. TryAgainError with EC2's reason: it ended instead."""

        def look() -> Machine | None:
            now = look_at(machine.clients, machine.clients.ec2, machine.id)
            if now is None:
                return None
            if now.state not in ("pending", "running"):
                raise _ended(now)
            up = now.state == "running" and now.address is not None
            return now if up and self._answers(Address(now.address or "", port_of(now, self._settings))) else None

        return until(
            look,
            what=f"{machine.instance_id} did not answer",
            within=self._settings.pace.boot_within,
            every=self._settings.pace.look_every,
            check=check,
        )

    def stop(self, machine: Machine, check: Callable[[], None]) -> None:
        """Shut its system down and wait until it has stopped."""
        client = machine.clients.ec2
        repeat(
            lambda: ask(f"stop {machine.id}", lambda: client.stop_instances(InstanceIds=[machine.id])),
            within=self._settings.pace.repeat_within,
        )
        self.wait_over(machine, check, ("stopped", "terminated"))

    def start(self, machine: Machine, check: Callable[[], None]) -> Machine:
        """Boot it again if it has stopped, and wait until it answers."""
        client = machine.clients.ec2
        if machine.state == "stopping":
            self.wait_over(machine, check, ("stopped",))
        if machine.state in ("stopping", "stopped"):
            repeat(
                lambda: ask(f"start {machine.id}", lambda: client.start_instances(InstanceIds=[machine.id])),
                within=self._settings.pace.repeat_within,
            )
            self._leaves(machine, "stopped")
        return self.wait_up(machine, check)

    def terminate(self, machine: Machine, check: Callable[[], None]) -> None:
        """End it for good and wait for that; one that has ended is fine."""
        client = machine.clients.ec2
        try:
            repeat(
                lambda: ask(
                    f"terminate {machine.id}",
                    lambda: client.terminate_instances(InstanceIds=[machine.id], SkipOsShutdown=True),
                ),
                within=self._settings.pace.repeat_within,
            )
        except NotThereError:
            return
        self.wait_over(machine, check, ("terminated",))

    def wait_over(self, machine: Machine, check: Callable[[], None], states: tuple[str, ...]) -> None:
        """Wait for one of the states; what EC2 does not know any more has ended."""

        def look() -> bool | None:
            now = look_at(machine.clients, machine.clients.ec2, machine.id)
            return True if now is None or now.state in states else None

        until(
            look,
            what=f"{machine.instance_id} was not {' or '.join(states)}",
            within=self._settings.pace.end_within,
            every=self._settings.pace.look_every,
            check=check,
        )

    def _leaves(self, machine: Machine, state: str) -> None:
        """A reader that lags may still show the old state, which must not be taken for a new end."""

        def look() -> bool | None:
            now = look_at(machine.clients, machine.clients.ec2, machine.id)
            return True if now is not None and now.state != state else None

        until(
            look,
            what=f"{machine.instance_id} was started and stayed {state}",
            within=self._settings.pace.seen_within,
            every=self._settings.pace.look_hard_every,
        )


def _token(wish: Wish, number: int) -> str:
    """A client token that follows from the name; EC2 takes 64 characters."""
    token = f"{wish.cluster}/{wish.name}/{number}"
    return token if len(token) <= _TOKEN_LENGTH else hashlib.sha256(token.encode()).hexdigest()


def _ended(machine: Machine) -> TryAgainError:
    return TryAgainError(
        f"{machine.instance_id} is {machine.state} instead of running: {machine.why or 'EC2 gives no reason'}"
    )
