"""The settings of a site: `reaper.yaml` in the data directory, or the file that the environment names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reaper.domain.errors import UsageError
from reaper.domain.facts import Address

if TYPE_CHECKING:
    from reaper.adapters.announce.channels import Channel
    from reaper.cli.cloud_settings import Ec2Config

VARIABLE = "REAPER_STORE"
FILE_VARIABLE = "REAPER_SETTINGS"
FILE = "reaper.yaml"
LISTEN = Address("127.0.0.1", 9627)  # the daemon's health and metrics name clusters: they are not for everybody
_FORM = "postgresql://USER@HOST:PORT/DATABASE; leave it out to use a file in the data directory"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a site has decided."""

    store: str | None = None  # the address of a Postgres; None: a file in the data directory
    listen: Address | None = LISTEN  # of the daemon's health and metrics; None: nowhere
    in_flight: int | None = None  # runs at one moment, over all policies; None: any number
    per_group: int | None = None
    percent: float | None = None  # of the clusters
    channels: tuple["Channel", ...] = ()  # whom policies can tell, besides the log
    ec2: "Ec2Config | None" = None  # None: the site has nothing there


def store_address(home: Path) -> str | None:
    """The address of the Postgres that holds the state; None: a file in the data directory.

    REAPER_STORE, or `store:` in reaper.yaml. UsageError: it cannot be understood; the address, which may
    hold a password, is not repeated.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _postgres(named, VARIABLE)
    return read_settings(home).store


def read_settings(home: Path) -> Settings:
    """What reaper.yaml says, or the defaults. UsageError: it cannot be understood, or is named and not there."""
    named = os.environ.get(FILE_VARIABLE)
    path = Path(named).absolute() if named else home / FILE
    if not path.exists():
        if named:
            raise UsageError(f"{FILE_VARIABLE} names {path}, which is not there: correct it, or unset it")
        return Settings()
    import yaml

    try:
        said = yaml.safe_load(path.read_text()) or {}
    except yaml.MarkedYAMLError as error:  # its own words would repeat the line, which may hold a password
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line} is no YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return _meaning(said, path)


def _meaning(said: Any, path: Path) -> Settings:
    from typing import Annotated

    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    from reaper.adapters.announce.settings import ChannelsSection

    class Limits(BaseModel):
        model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
        in_flight: Annotated[int, Field(ge=1)] | None = None
        per_group: Annotated[int, Field(ge=1)] | None = None
        percent: Annotated[float, Field(gt=0, le=100)] | None = None

    class Form(BaseModel):
        model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
        store: str | None = None
        listen: str | bool | None = None
        limits: Limits = Limits()
        channels: ChannelsSection = ChannelsSection({})
        ec2: Any = None

    try:
        form = Form.model_validate(said)
        ec2 = None if form.ec2 is None else _ec2(form.ec2)
    except ValidationError as error:
        within = "ec2." if error.title == "Ec2Section" else ""
        faults = "; ".join(f"{within}{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{path}: {faults}. The settings are store, listen, limits, channels and ec2") from error
    return Settings(
        store=_postgres(form.store, f"{path}: store") if form.store else None,
        listen=_listen(form.listen, path),
        in_flight=form.limits.in_flight,
        per_group=form.limits.per_group,
        percent=form.limits.percent,
        channels=form.channels.channels(),
        ec2=ec2,
    )


def _ec2(said: Any) -> "Ec2Config":
    """A ValidationError, or a UsageError for a file that it names."""
    from reaper.cli.cloud_settings import Ec2Section  # costs time to import, and few sites need it

    return Ec2Section.model_validate(said).config()


def _postgres(address: str, where: str) -> str:
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("postgresql", "postgres") and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, half a bracket
        good = False
    if not good:
        raise UsageError(f"{where} has to be {_FORM}")
    return address


def _listen(said: str | bool | None, path: Path) -> Address | None:
    if said is False:
        return None
    if said is None or said is True:
        return LISTEN
    host, _, port = said.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{path}: listen has to be HOST:PORT such as {LISTEN}, or false to serve nothing")
    return Address(host, int(port))
