"""Where reaper works in AWS, and its clients there: every account and region with the right credentials."""

import functools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from reaper.adapters.aws.errors import ask

_SESSION_NAME = "reaper"  # what CloudTrail shows of an assumed role
# "adaptive" slows down by itself when AWS throttles; it is for what nobody waits for.
_PATIENT_ATTEMPTS, _URGENT_ATTEMPTS = 3, 3  # of the library; on top of it reaper repeats what does no harm


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role that is assumed, normally in another account."""

    arn: str
    external_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Credentials that are known, as those of a lab."""

    access: str
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One region of one account."""

    region: str
    keys: Keys | None = None  # None: the credentials of the environment
    role: Role | None = None  # None: none is assumed
    endpoint: str | None = None  # of all services; None: what the environment says, otherwise AWS itself

    def __str__(self) -> str:
        return self.region if self.role is None else f"{self.region} as {self.role.arn}"


class CallCount:
    """How often AWS was asked what, every repetition counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counter[str] = Counter()

    def note(self, name: str) -> None:
        """One more."""
        with self._lock:
            self._counted[name] += 1

    def total(self) -> int:
        """All of them."""
        with self._lock:
            return self._counted.total()

    def by_name(self) -> dict[str, int]:
        """Per call, as `ec2.DescribeInstances`."""
        with self._lock:
            return dict(self._counted)


class Clients:
    """The clients of one place, made when they are first needed; they may be shared between threads."""

    def __init__(self, place: Place, calls: CallCount | None = None) -> None:
        self.place = place
        self.calls = calls or CallCount()
        self._lock = threading.Lock()
        self._session: Any = None
        self._made: dict[tuple[str, str], Any] = {}

    @property
    def ec2(self) -> Any:
        """For what may take its time."""
        return self.of("ec2", "adaptive", _PATIENT_ATTEMPTS)

    @property
    def urgent(self) -> Any:
        """For the kill and its proof: clients wait, so nothing slows down by itself."""
        return self.of("ec2", "standard", _URGENT_ATTEMPTS)

    @property
    def once(self) -> Any:
        """For what must not be repeated blindly, since it would be done twice."""
        return self.of("ec2", "standard", 1)

    @property
    def ssm(self) -> Any:
        """Parameters."""
        return self.of("ssm", "adaptive", _PATIENT_ATTEMPTS)

    def of(self, service: str, mode: str = "adaptive", attempts: int = _PATIENT_ATTEMPTS) -> Any:
        """A client of any service in this place."""
        from botocore.config import Config  # type: ignore[import-untyped]  # ships no types

        key = (service, f"{mode}{attempts}")
        with self._lock:
            if key not in self._made:
                config = Config(
                    connect_timeout=5,
                    read_timeout=60 if mode == "adaptive" else 15,
                    retries={"mode": mode, "total_max_attempts": attempts},
                    max_pool_connections=32,
                )
                client = ask(f"make a client of {service} in {self.place}", lambda: self._client(service, config))
                client.meta.events.register("before-send", self._count)
                self._made[key] = client
            return self._made[key]

    def _client(self, service: str, config: Any) -> Any:
        if self._session is None:
            self._session = _session(self.place)
        return self._session.client(
            service, region_name=self.place.region, endpoint_url=self.place.endpoint, config=config
        )

    def _count(self, event_name: str, **_request: object) -> None:
        self.calls.note(event_name.removeprefix("before-send."))


def _session(place: Place) -> Any:
    """A session with the credentials of a place; those of a role are renewed before they end."""
    from boto3.session import Session  # type: ignore[import-untyped]  # ships no types
    from botocore.credentials import (  # type: ignore[import-untyped]  # ships no types
        AssumeRoleCredentialFetcher,
        DeferredRefreshableCredentials,
    )

    own = Session(
        botocore_session=_library_session(),
        aws_access_key_id=place.keys.access if place.keys else None,
        aws_secret_access_key=place.keys.secret if place.keys else None,
        region_name=place.region,
    )
    if place.role is None:
        return own
    extra = {"RoleSessionName": _SESSION_NAME}
    if place.role.external_id:
        extra["ExternalId"] = place.role.external_id

    def make(service: str, **options: Any) -> Any:
        return own.client(service, **options | {"region_name": place.region, "endpoint_url": place.endpoint})

    fetcher = AssumeRoleCredentialFetcher(make, own.get_credentials(), place.role.arn, extra_args=extra)
    assumed = _library_session()
    # The library has no public way to give a session credentials that renew themselves.
    assumed._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    return Session(botocore_session=assumed, region_name=place.region)


def _library_session() -> Any:
    """A session of the library below. What it reads of its own files, some MB of JSON, is read once for all."""
    from botocore.session import get_session  # type: ignore[import-untyped]  # ships no types

    session = get_session()
    session.register_component("data_loader", _loader())
    return session


@functools.cache
def _loader() -> Any:
    from botocore.loaders import create_loader  # type: ignore[import-untyped]  # ships no types

    return create_loader()
