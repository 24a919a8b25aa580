"""The script that a replacement runs at its first boot, from the template in config/cloud-init."""

import base64
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from reaper.domain.errors import UsageError

_PLACE = Path("cloud-init") / "replacement.sh"
_HOLE = re.compile(r"@([A-Z][A-Z_]+)@")
_PLAIN = re.compile(r"[A-Za-z0-9./:_ -]*")  # what is put into a shell script must not be able to leave its place
_MOST_BYTES = 16 * 1024  # before it is encoded ("Instance user data" in the EC2 User Guide)


@dataclass(frozen=True, kw_only=True)
class Birth:
    """What is true of one replacement only."""

    server_id: int
    device: str
    cluster: str
    name: str


def shipped() -> str:
    """The template that comes with reaper: beside the package in its source tree, inside of it when installed."""
    package = Path(str(files("reaper")))
    for place in (package / "config" / _PLACE, package.parent / "config" / _PLACE):
        if place.is_file():
            return place.read_text()
    raise UsageError(f"reaper's own {_PLACE} is missing: install it again, or name a template of your own")


def render(template: str, birth: Birth) -> str:
    """The script of one instance. UsageError: the template does not say the server id, or asks for what is unknown."""
    values = {
        "SERVER_ID": str(birth.server_id),
        "DEVICE": birth.device,
        "CLUSTER": birth.cluster,
        "NAME": birth.name,
    }
    holes = set(_HOLE.findall(template))
    unknown = sorted(holes - values.keys())
    if unknown:
        raise UsageError(f"the user data asks for {', '.join(unknown)}, reaper fills in {', '.join(values)} only")
    if "SERVER_ID" not in holes:
        raise UsageError("the user data has no @SERVER_ID@: the replacement would run with its source's id (E14)")
    for name, value in values.items():
        if not _PLAIN.fullmatch(value):
            raise UsageError(f"{name.lower()} {value!r} does not fit into a script: letters, digits and ./:_- only")
    text = _HOLE.sub(lambda hole: values[hole.group(1)], template)
    if len(text.encode()) > _MOST_BYTES:
        raise UsageError(f"the user data has {len(text.encode())} bytes, EC2 takes {_MOST_BYTES}")
    return text


def encoded(text: str) -> str:
    """As a launch template wants it; RunInstances encodes by itself."""
    return base64.b64encode(text.encode()).decode()
