"""The form of `ec2:` in the settings: where the servers are, how reaper gets in, how applications find the master."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reaper.adapters.aws.session import Place, Role
from reaper.adapters.aws.settings import Ec2Settings, TagNames, Template
from reaper.adapters.aws.userdata import shipped
from reaper.adapters.aws.waiting import Pace
from reaper.adapters.mysql.replication import ReplicationTls
from reaper.adapters.policies.values import Span
from reaper.adapters.routing.hook import HookPrograms
from reaper.adapters.tls import ServerTls, Verify
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address

_DEFAULT_PORT = 3306
_SHIPPED, _TEMPLATES_OWN = "shipped", "launch-template"


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("has to be an absolute path")
    return value


_File = Annotated[Path, AfterValidator(_absolute)]
_Port = Annotated[int, Field(ge=1, le=65535)]
_Word = Annotated[str, Field(min_length=1, max_length=500)]
_Command = Annotated[tuple[_Word, ...], Field(min_length=1, max_length=50)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


# ---- where


class _PlaceSection(_Section):
    """One region, of this account or of one whose role is assumed."""

    region: _Word
    role: _Word | None = None
    external_id: _Word | None = None

    def place(self) -> Place:
        role = Role(arn=self.role, external_id=self.external_id) if self.role else None
        return Place(region=self.region, role=role)


class _TagsSection(_Section):
    """Tags of a site that has names of its own; the others stay."""

    cluster: _Word | None = None
    group: _Word | None = None
    port: _Word | None = None
    server_id: _Word | None = None
    image_parameter: _Word | None = None
    isolation: _Word | None = None

    def names(self) -> TagNames:
        return TagNames(**self.model_dump(exclude_none=True))


class _PaceSection(_Section):
    """How often AWS is asked and how long it may take; the others stay."""

    look_every: Span | None = None
    look_hard_every: Span | None = None
    seen_within: Span | None = None
    repeat_within: Span | None = None
    snapshot_within: Span | None = None
    boot_within: Span | None = None
    end_within: Span | None = None

    def pace(self) -> Pace:
        return Pace(**self.model_dump(exclude_none=True))


# ---- how reaper gets in


class AccountSection(_Section):
    """Where one account's password is kept: exactly one place."""

    user: _Word | None = None  # None: the place says it, in JSON
    environment: _Word | None = None
    file: _File | None = None
    secret: _Word | None = None
    parameter: _Word | None = None
    rds_token: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        places = ("environment", "file", "secret", "parameter", "rds_token")
        said = [name for name in places if getattr(self, name) is not None]
        if len(said) != 1:
            raise ValueError(
                f"name one place of the password: {', '.join(places)}; here is {' and '.join(said) or 'none'}"
            )
        if self.rds_token and self.user is None:
            raise ValueError("an RDS token is made for a user: name it")
        return self


class AccountsSection(_Section):
    """The accounts of the servers."""

    admin: AccountSection  # reaper's own
    replication: AccountSection  # with which replicas follow their master
    application: AccountSection  # with which the probe writes


class _TlsSection(_Section):
    """What has to be proved of a server before a password is sent."""

    verify: Verify = Verify.FULL
    ca_file: _File | None = None
    name: _Word | None = None

    def tls(self) -> ServerTls:
        return ServerTls(verify=self.verify, ca_file=self.ca_file, name=self.name)


class _ReplicationTlsSection(_Section):
    """What a replica has to be proved of its master; the file is one of the database machines."""

    verify: Verify = Verify.FULL
    ca_file: PurePosixPath | None = None

    def tls(self) -> ReplicationTls:
        return ReplicationTls(verify=self.verify, ca_file=self.ca_file)


# ---- how applications find the master


class Route53Section(_Section):
    """A simple record in a hosted zone."""

    zone: _Word
    name: _Word
    port: _Port = _DEFAULT_PORT
    ttl: Span = timedelta(seconds=5)


class ElasticIpSection(_Section):
    """An Elastic IP that is associated with the master."""

    allocation: _Word
    vpc: _Word
    host: _Word  # that applications connect to: the address, or a name for it
    port: _Port = _DEFAULT_PORT


class SecondaryAddressSection(_Section):
    """A second private address of the master's network interface, in the subnet of all members."""

    address: _Word
    vpc: _Word
    port: _Port = _DEFAULT_PORT


class MasterTagSection(_Section):
    """A tag that the master carries, by which the site's own tools lead `host` to it."""

    name: _Word
    value: _Word
    host: _Word
    port: _Port = _DEFAULT_PORT


class HookSection(_Section):
    """Two programs of the site."""

    move: _Command
    show: _Command
    host: _Word
    port: _Port = _DEFAULT_PORT
    within: Span = timedelta(seconds=30)
    stale_for: Span = timedelta(0)

    def programs(self) -> HookPrograms:
        """As the door runs them."""
        return HookPrograms(move=self.move, show=self.show, within=self.within, stale_for=self.stale_for)


DoorSection = Route53Section | ElasticIpSection | SecondaryAddressSection | MasterTagSection | HookSection


class _EndpointSection(_Section):
    """One way for the applications of some clusters: exactly one kind."""

    region: _Word | None = None  # None: the first place's
    route53: Route53Section | None = None
    elastic_ip: ElasticIpSection | None = None
    secondary_address: SecondaryAddressSection | None = None
    tag: MasterTagSection | None = None
    hook: HookSection | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self._said()) != 1:
            kinds = "route53, elastic_ip, secondary_address, tag, hook"
            raise ValueError(f"name one kind of endpoint: {kinds}; here are {len(self._said())}")
        return self

    def _said(self) -> list[DoorSection]:
        kinds = (self.route53, self.elastic_ip, self.secondary_address, self.tag, self.hook)
        return [kind for kind in kinds if kind is not None]

    def door(self) -> DoorSection:
        (said,) = self._said()
        return said


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """How the applications of some clusters find their master."""

    clusters: str  # a glob
    region: str | None
    door: DoorSection  # its texts may say {cluster}

    def of(self, cluster: str) -> DoorSection:
        """The door of one cluster."""
        fields = {name: _filled(value, cluster) for name, value in self.door.model_dump().items()}
        return type(self.door).model_validate(fields)


def _filled(value: object, cluster: str) -> object:
    if isinstance(value, str):
        return value.replace("{cluster}", cluster)
    if isinstance(value, tuple):
        return tuple(_filled(part, cluster) for part in value)
    return value


def listen_of(door: DoorSection) -> Address:
    """Where applications connect."""
    match door:
        case Route53Section():
            return Address(door.name, door.port)
        case SecondaryAddressSection():
            return Address(door.address, door.port)
        case ElasticIpSection() | MasterTagSection() | HookSection():
            return Address(door.host, door.port)


@dataclass(frozen=True, kw_only=True)
class Ec2Config:
    """All of it."""

    settings: Ec2Settings
    accounts: AccountsSection
    tls: ServerTls | None  # None: connections are not encrypted
    replication_tls: ReplicationTls | None  # None: replicas follow in the clear
    endpoints: tuple[EndpointConfig, ...]

    def endpoint_of(self, cluster: str) -> EndpointConfig:
        """The first whose pattern fits. UsageError: none does."""
        found = next((e for e in self.endpoints if fnmatchcase(cluster, e.clusters)), None)
        if found is None:
            raise UsageError(
                f"no endpoint of the ec2 settings fits the cluster {cluster}: say under `endpoints:` how its "
                "applications find the master"
            )
        return found


class Ec2Section(_Section):
    """The whole section."""

    places: Annotated[tuple[_PlaceSection, ...], Field(min_length=1, max_length=200)]
    accounts: AccountsSection
    tags: _TagsSection = _TagsSection()
    pace: _PaceSection = _PaceSection()
    port: _Port = _DEFAULT_PORT
    template: Annotated[str, Field(pattern=r"^lt-[0-9a-z]+(:[0-9]+)?$")] | None = None
    user_data: _Word = _SHIPPED
    initialization_rate: Annotated[int, Field(ge=100, le=300)] | None = None
    counters: Annotated[str, Field(pattern=r"^/[A-Za-z0-9/_.-]+$")] = "/reaper/server-ids"
    tls: _TlsSection | Literal[False] = _TlsSection()
    replication_tls: _ReplicationTlsSection | None = None
    endpoints: Mapping[_Word, _EndpointSection] = {}

    def config(self) -> Ec2Config:
        """As the adapters want it. UsageError: the file of the user data cannot be read."""
        return Ec2Config(
            settings=Ec2Settings(
                places=tuple(p.place() for p in self.places),
                tags=self.tags.names(),
                pace=self.pace.pace(),
                port=self.port,
                template=Template.of(self.template) if self.template else None,
                user_data=_user_data(self.user_data),
                initialization_rate=self.initialization_rate,
                counters=self.counters,
            ),
            accounts=self.accounts,
            tls=self.tls.tls() if self.tls else None,
            replication_tls=self.replication_tls.tls() if self.replication_tls else None,
            endpoints=tuple(
                EndpointConfig(clusters=glob, region=said.region, door=said.door())
                for glob, said in self.endpoints.items()
            ),
        )


def _user_data(said: str) -> str | None:
    if said == _TEMPLATES_OWN:
        return None
    if said == _SHIPPED:
        return shipped()
    try:
        return Path(said).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the user data {said} cannot be read ({error}): name a file, `{_SHIPPED}`, or `{_TEMPLATES_OWN}`"
        ) from error
