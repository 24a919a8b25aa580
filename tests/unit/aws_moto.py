"""Clients of moto's server on loopback, made as strict as AWS where reaper depends on it, and a recorder of calls."""

import heapq
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
from moto.server import ThreadedMotoServer

from reaper.adapters.aws.likeness import gradual_groups
from reaper.adapters.aws.likeness import strict_addresses as strict_addresses
from reaper.adapters.aws.likeness import strict_route53 as strict_route53

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
def slow_groups(clock: InstantClock, refreshes: list[dict[str, Any]]) -> Iterator[None]:
    """Auto Scaling groups that are as slow as AWS on a clock on which waiting costs nothing."""
    with gradual_groups(clock.after, timedelta(seconds=1), refreshes):
        yield
