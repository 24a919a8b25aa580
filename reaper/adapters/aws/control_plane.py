"""The lab's control plane: moto behind a lock, a key and, if asked for, bad weather. For loopback only."""

import io
import json
import logging
import random
import re
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qs

LOOPBACK = "127.0.0.1"
_KEY = re.compile(r"Credential=([^/,]+)/")
_BY_JSON = "HTTP_X_AMZ_TARGET"
StartResponse = Callable[..., Any]
Environ = dict[str, Any]


class Fate(StrEnum):
    """What becomes of a call."""

    SERVED = "served"
    THROTTLED = "throttled"  # nothing is done
    NO_ROOM = "no-room"  # nothing is done, there is no capacity
    LOST = "lost"  # it is done, and the answer says nothing


Weather = Callable[[str, bytes], Fate]  # the call's name, as `RunInstances`, and what it asks for


def fine(_action: str, _body: bytes) -> Fate:
    """Every call is served."""
    return Fate.SERVED


def changeable(failing: float, seed: int) -> Weather:
    """A share of the calls fails, half of these after they were carried out. The seed replays it for the same calls."""
    dice = random.Random(seed)

    def fate(_action: str, _body: bytes) -> Fate:
        drawn = dice.random()
        if drawn >= failing:
            return Fate.SERVED
        return Fate.THROTTLED if drawn < failing / 2 else Fate.LOST

    return fate


class ControlPlane:
    """A server of moto's services. Only who knows the key is served: a lab runs what is in user data.

    `served` is called whenever moto's state may have changed; it returns at once.
    """

    def __init__(self, key: str, weather: Weather, served: Callable[[], None] = lambda: None) -> None:
        # Imported here: only a lab needs them.
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        self.lock = threading.RLock()  # moto is not made for several threads
        self._key = key
        self._weather = weather
        self._served = served
        self._app = DomainDispatcherApplication(create_backend_app)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server(LOOPBACK, 0, self, threaded=True, request_handler=MotoRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="control plane", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def start(self) -> None:
        """Serve, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one call."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        key = _KEY.search(environ.get("HTTP_AUTHORIZATION", ""))
        with self.lock:
            if key is None or not self._knows(key.group(1)):
                return _refuse(environ, start_response, 403, "AuthFailure", "this lab has another access key")
            try:
                return self._serve(environ, start_response, body)
            finally:
                self._served()

    def _serve(self, environ: Environ, start_response: StartResponse, body: bytes) -> Iterable[bytes]:
        match self._weather(action_of(environ, body), body):
            case Fate.SERVED:
                return list(self._app(environ, start_response))
            case Fate.THROTTLED:
                return _refuse(environ, start_response, 503, "RequestLimitExceeded", "the lab's weather")
            case Fate.NO_ROOM:
                return _refuse(environ, start_response, 400, "InsufficientInstanceCapacity", "the lab is full")
            case Fate.LOST:
                list(self._app(environ, lambda *_a, **_k: lambda _b: None))
                return _refuse(environ, start_response, 500, "InternalError", "the lab's weather: answer lost")

    def later(self, span: timedelta, action: Callable[[], object]) -> None:
        """Let something happen to moto's state after a while, as if somebody had called."""

        def act() -> None:
            with self.lock:
                action()
            self._served()

        timer = threading.Timer(span.total_seconds(), act)
        timer.daemon = True
        timer.start()

    def _knows(self, key: str) -> bool:
        """The lab's own key, or one that its STS has given out for a role."""
        if key == self._key:
            return True
        from moto.sts.models import sts_backends

        backends = [b for account in sts_backends.values() for b in account.values()]
        return any(backend.get_assumed_role_from_access_key(key) is not None for backend in backends)


def action_of(environ: Environ, body: bytes) -> str:
    """The name of the call, as `RunInstances`."""
    if _BY_JSON in environ:
        return str(environ[_BY_JSON]).rsplit(".", 1)[-1]
    return (parse_qs(body.decode(errors="replace")).get("Action") or [""])[0]


def _refuse(environ: Environ, start: StartResponse, status: int, code: str, why: str) -> list[bytes]:
    """An error in the form of the service that was called."""
    if _BY_JSON in environ:
        body, kind = json.dumps({"__type": code, "message": why}), "application/x-amz-json-1.1"
    elif "/ec2/" in environ.get("HTTP_AUTHORIZATION", ""):
        error = f"<Error><Code>{code}</Code><Message>{why}</Message></Error>"
        body, kind = f"<Response><Errors>{error}</Errors><RequestID>lab</RequestID></Response>", "text/xml"
    else:
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{why}</Message></Error>"
        body, kind = f"<ErrorResponse>{error}<RequestId>lab</RequestId></ErrorResponse>", "text/xml"
    start(f"{status} {code}", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body.encode()]
