"""GET /metrics, /healthz and /readyz: a small HTTP server for Prometheus and for whoever restarts what is ill.

No client can keep another one out: there are a few threads, and when all of them are taken the connection that has
been open longest is hung up on. A check that hangs keeps one thread; whoever asks meanwhile is told so.
"""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Self

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from reaper.adapters.telemetry.metrics import Telemetry
from reaper.domain.errors import ReaperError, UsageError
from reaper.domain.facts import Address

MOST_CLIENTS = 8  # at a time
CLIENT_SECONDS = 5.0  # for each wait for a client: to send a line, to take the answer
ROOM_SECONDS = 1.0  # for a client that was hung up on to go
CHECK_SECONDS = 2.0  # for a check that somebody else has asked for
_PLAIN = "text/plain; charset=utf-8"
_log = logging.getLogger("reaper.status")


@dataclass(frozen=True, kw_only=True)
class Health:
    """What is wrong, a sentence each. Nothing: it is well."""

    faults: tuple[str, ...]


class StatusServer:
    """Serves while it is entered.

    Raises:
        UsageError: it cannot listen there.
    """

    def __init__(
        self, address: Address, telemetry: Telemetry, health: Callable[[], Health], ready: Callable[[], Health]
    ) -> None:
        self._wanted = address
        self._pages = _Pages(telemetry, _Question(health), _Question(ready))
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the kernel chose if 0 was asked for."""
        if self._server is None:
            return self._wanted
        return Address(self._wanted.host, self._server.server_address[1])

    def __enter__(self) -> Self:
        host, port = self._wanted.host, self._wanted.port
        try:
            self._server = _Server(host, port, self._pages)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(
                f"the daemon's health and metrics cannot be served on {self._wanted}: {why}. "
                "Choose another address, or end what listens there"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="reaper-status", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server.hang_up()
            self._server = None


class _Question:
    """A check that is asked by one client at a time."""

    def __init__(self, ask: Callable[[], Health]) -> None:
        self._ask = ask
        self._asking = threading.Lock()

    def answer(self) -> Health:
        """What it says. One that somebody else is still waiting for is ill (I10)."""
        if not self._asking.acquire(timeout=CHECK_SECONDS):
            return Health(faults=(f"this check was asked before and has not answered for {CHECK_SECONDS:g} s",))
        try:
            return self._ask()
        except ReaperError as error:
            return Health(faults=(str(error),))
        finally:
            self._asking.release()


@dataclass(frozen=True)
class _Answer:
    status: HTTPStatus
    kind: str
    body: bytes


class _Pages:
    """What is served under which path."""

    def __init__(self, telemetry: Telemetry, health: _Question, ready: _Question) -> None:
        self._telemetry, self._health, self._ready = telemetry, health, ready

    def get(self, path: str) -> _Answer:
        """The page of a path."""
        match path.partition("?")[0]:
            case "/metrics":
                return _Answer(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, self._telemetry.text())
            case "/healthz":
                return _said(self._health.answer())
            case "/readyz":
                return _said(self._ready.answer())
            case _:
                return _text(HTTPStatus.NOT_FOUND, "not here: /metrics, /healthz and /readyz are")


def _said(health: Health) -> _Answer:
    if not health.faults:
        return _text(HTTPStatus.OK, "ok")
    return _text(HTTPStatus.SERVICE_UNAVAILABLE, *health.faults)


def _text(status: HTTPStatus, *lines: str) -> _Answer:
    body = "".join(" ".join(line.split()) + "\n" for line in lines)
    return _Answer(status, _PLAIN, body.encode(errors="replace"))


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection ends with its answer."""

    server: "_Server"
    timeout = CLIENT_SECONDS
    error_content_type = _PLAIN
    error_message_format = "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        """Answer."""
        try:
            answer = self.server.pages.get(self.path)
        except Exception as error:  # noqa: BLE001 - a mistake of ours: told to the client, one line in the log
            _log.error("%s cannot be answered: %s: %s", self.path, type(error).__name__, error)
            answer = _text(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def version_string(self) -> str:
        """Who answers; which Python it runs on is nobody's business."""
        return "reaper"

    def log_message(self, format: str, *args: object) -> None:
        """Being asked is not worth a line."""


class _Server(socketserver.TCPServer):
    """A thread for each client, up to a few. Not http.server's: that one asks DNS for its own name first."""

    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, pages: _Pages) -> None:
        self.pages = pages
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._room = threading.BoundedSemaphore(MOST_CLIENTS)
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}  # who came first comes first
        super().__init__((host, port), _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Hand a client to a thread of its own."""
        if not isinstance(request, socket.socket):
            raise TypeError("a datagram at a TCP server")
        if not self._room.acquire(blocking=False):
            self._hang_up_on(1)
            if not self._room.acquire(timeout=ROOM_SECONDS):
                self.shutdown_request(request)  # all are busy with us, not waiting for their clients
                return
        thread = threading.Thread(target=self._serve, args=(request, client_address), name="reaper-status-client")
        thread.daemon = True
        with self._lock:
            self._clients[request] = thread
        try:
            thread.start()
        except RuntimeError:  # the machine has no thread left for us
            self._let_go(request)

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            with suppress(OSError):  # the client has gone, or was too slow: nobody is there to be told
                self.finish_request(request, client_address)
        finally:
            self._let_go(request)

    def _let_go(self, request: socket.socket) -> None:
        with self._lock:
            self._clients.pop(request, None)
        self.shutdown_request(request)
        self._room.release()

    def _hang_up_on(self, most: int) -> list[threading.Thread]:
        """Wake the threads of those that came first, as if their clients had gone."""
        with self._lock:  # whose descriptor cannot be another one's by now
            first = list(self._clients.items())[:most]
            for request, _ in first:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
        return [thread for _, thread in first]

    def hang_up(self) -> None:
        """Let nobody wait any longer."""
        for thread in self._hang_up_on(MOST_CLIENTS):
            thread.join(ROOM_SECONDS)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that could not be handed over; it is closed already."""
