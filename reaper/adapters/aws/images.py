"""What an instance was made from, and whether a new one would be made from something newer."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from reaper.adapters.aws.discovery import Machine, pages
from reaper.adapters.aws.errors import NotThereError, ask
from reaper.adapters.aws.session import Clients
from reaper.adapters.aws.settings import Ec2Settings, Template
from reaper.adapters.aws.waiting import looked
from reaper.domain.facts import Image

TEMPLATE_ID, TEMPLATE_VERSION = "aws:ec2launchtemplate:id", "aws:ec2launchtemplate:version"  # EC2 sets them itself
_BY_PARAMETER = "resolve:ssm:"
_REMEMBERED_S = 60.0  # images move on a few times a month
_AMIS_A_CALL = 100


@dataclass(frozen=True, kw_only=True)
class Current:
    """What a launch template makes now."""

    name: str
    version: str
    image: str | None  # None: the template names none, or its parameter is not there
    spot: bool


class Images:
    """Looks templates, parameters and images up, each one once for a while."""

    def __init__(self, settings: Ec2Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[tuple[int, str, str], tuple[float, Any]] = {}

    def of(self, machines: Iterable[Machine]) -> dict[str, Image | None]:
        """The image of each machine, by instance id. None: nothing is known of what it was made from."""
        known = list(machines)
        for clients in {m.clients for m in known}:
            self._learn_built(clients, {m.image for m in known if m.clients is clients and m.image})
        return {m.id: self._image(m) for m in known}

    def _image(self, machine: Machine) -> Image | None:
        if not machine.image:
            return None
        clients, tags = machine.clients, machine.tags
        built = self._recall(clients, "built", machine.image)
        parameter = tags.get(self._settings.tags.image_parameter)
        if parameter is not None:
            return Image(name=machine.image, newest=self._parameter(clients, parameter), built=built)
        template = template_of(machine, self._settings)
        if template is None:
            return Image(name=machine.image, newest=None, built=built)
        current = self.current(clients, template)
        if current is None or TEMPLATE_VERSION not in tags:
            return Image(name=machine.image, newest=None if current is None else current.image, built=built)
        made_from = current.name if tags[TEMPLATE_ID] == template.id else tags[TEMPLATE_ID]
        name = f"{machine.image} by {made_from} {tags[TEMPLATE_VERSION]}"
        newest = f"{current.image or machine.image} by {current.name} {current.version}"
        return Image(name=name, newest=newest, built=built)

    def launches(self, machine: Machine) -> str | None:
        """What an instance in its place would be launched from now, as `lt-…:7`; None: by no template that is known."""
        named = template_of(machine, self._settings)
        current = None if named is None else self.current(machine.clients, named)
        return None if named is None or current is None else Template(id=named.id, version=current.version).pinned

    def current(self, clients: Clients, template: Template) -> Current | None:
        """What a template makes now; None: there is no such template, or not in this version."""
        key = f"{template.id} {template.version}"
        found: Current | None = self._remember(clients, "template", key, lambda: self._look_up(clients, template))
        return found

    def _look_up(self, clients: Clients, template: Template) -> Current | None:
        try:
            answer = ask(
                f"look at the launch template {template.id}",
                lambda: clients.ec2.describe_launch_template_versions(
                    LaunchTemplateId=template.id, Versions=[template.version or "$Default"]
                ),
            )
        except NotThereError:
            return None
        version = answer["LaunchTemplateVersions"][0]
        image: str | None = version["LaunchTemplateData"].get("ImageId") or None
        if image is not None and image.startswith(_BY_PARAMETER):
            image = self._parameter(clients, image.removeprefix(_BY_PARAMETER))
        return Current(
            name=version["LaunchTemplateName"],
            version=str(version["VersionNumber"]),
            image=image,
            spot=version["LaunchTemplateData"].get("InstanceMarketOptions", {}).get("MarketType") == "spot",
        )

    def _parameter(self, clients: Clients, name: str) -> str | None:
        """The image that an SSM parameter names; None: there is no such parameter."""

        def read() -> str | None:
            try:
                answer = ask(f"read the parameter {name}", lambda: clients.ssm.get_parameter(Name=name))
            except NotThereError:
                return None
            return str(answer["Parameter"]["Value"])

        found: str | None = self._remember(clients, "parameter", name, read)
        return found

    def _learn_built(self, clients: Clients, images: set[str]) -> None:
        """When images were built, many with one call; those that are gone are unknown."""
        unknown = sorted(i for i in images if self._recall_entry(clients, "built", i) is None)
        for start in range(0, len(unknown), _AMIS_A_CALL):
            part = unknown[start : start + _AMIS_A_CALL]
            filters = [{"Name": "image-id", "Values": part}]  # unlike ImageIds, one that is gone is no error
            look = partial(pages, clients.ec2, "describe_images", "Images", "look at the images", Filters=filters)
            found = looked(lambda look=look: list(look()), pace=self._settings.pace)  # type: ignore[misc]
            built = {i["ImageId"]: _moment(i) for i in found}
            for image in part:
                self._keep(clients, "built", image, built.get(image))

    def _remember(self, clients: Clients, kind: str, name: str, look: Callable[[], Any]) -> Any:
        entry = self._recall_entry(clients, kind, name)
        if entry is not None:
            return entry[1]
        found = looked(look, pace=self._settings.pace)
        self._keep(clients, kind, name, found)
        return found

    def _recall(self, clients: Clients, kind: str, name: str) -> Any:
        entry = self._recall_entry(clients, kind, name)
        return None if entry is None else entry[1]

    def _recall_entry(self, clients: Clients, kind: str, name: str) -> tuple[float, Any] | None:
        with self._lock:
            entry = self._known.get((id(clients), kind, name))
        return entry if entry is not None and self._monotonic() - entry[0] < _REMEMBERED_S else None

    def _keep(self, clients: Clients, kind: str, name: str, value: Any) -> None:
        with self._lock:
            self._known[(id(clients), kind, name)] = (self._monotonic(), value)


def template_of(machine: Machine, settings: Ec2Settings) -> Template | None:
    """The template of the site, or the one that the machine was launched from; None: neither."""
    launched_from = machine.tags.get(TEMPLATE_ID)
    return settings.template or (Template(id=launched_from) if launched_from else None)


def _moment(image: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(image.get("CreationDate"))).astimezone(UTC)
    except ValueError:
        return None
