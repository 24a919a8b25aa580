"""The client side of a lab's endpoint: read and move the route, and start the process behind it."""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Address
from reaper.workflow.ports import Route

_MODULE = "reaper.adapters.local.endpoint_process"
_TIMEOUT_SECONDS = 2.0  # of every socket operation
_ANSWER_BYTES = 64 * 1024


class LocalEndpoint:
    """The control connection of one endpoint process. Implements `workflow.ports.Endpoint`.

    Not shared between threads. Every method raises TryAgainError if the process does not answer.
    """

    def __init__(self, listen: Address, control: Path) -> None:
        self._listen = listen
        self._control = control
        self._kept: socket.socket | None = None

    @property
    def listen(self) -> Address:
        """The address that applications use."""
        return self._listen

    stale_for = timedelta(0)  # who was led elsewhere is dropped when it moves

    def warm(self) -> None:
        """Open the control connection and keep it, so that a later `route` costs one round trip."""
        self.show()

    def show(self) -> Route:
        """Where it leads now."""
        return self._ask({"op": "show"})

    def route(self, to: Address, expected: Address | None) -> Route:
        """Lead to `to` if it leads to `expected` now, or already to `to`; None expects nothing.

        Clients that were led elsewhere are dropped when this returns. RefusedError: it leads to
        somebody else, and nothing was changed.
        """
        expect = None if expected is None else [expected.host, expected.port]
        return self._ask({"op": "route", "target": [to.host, to.port], "expect": expect})

    def close(self) -> None:
        """Give the connection back; a later call opens another one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _ask(self, request: dict[str, object]) -> Route:
        line = json.dumps(request).encode() + b"\n"
        try:
            if self._kept is not None:
                try:
                    return self._read(self._exchange(self._kept, line))
                except ConnectionError:  # the process was restarted; every request may be repeated
                    self.close()
            self._kept = self._connect()
            return self._read(self._exchange(self._kept, line))
        except (OSError, ValueError) as error:
            self.close()  # a late answer must not be taken for the next one
            raise TryAgainError(
                f"the endpoint {self._listen} does not answer on {self._control} "
                f"({str(error) or type(error).__name__}): its process is dead or stopped; "
                "start it again (`reaper lab up`, it remembers its route), then repeat"
            ) from error

    def _connect(self) -> socket.socket:
        # A Unix address has room for 107 bytes; through the directory's descriptor any path is short.
        directory = os.open(self._control.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(_TIMEOUT_SECONDS)
                connection.connect(f"/proc/self/fd/{directory}/{self._control.name}")
            except OSError:
                connection.close()
                raise
        finally:
            os.close(directory)
        return connection

    def _exchange(self, connection: socket.socket, line: bytes) -> bytes:
        connection.sendall(line)
        answer = b""
        while not answer.endswith(b"\n"):
            part = connection.recv(_ANSWER_BYTES)
            if not part:
                raise ConnectionResetError("it closed the connection without an answer")
            answer += part
            if len(answer) > _ANSWER_BYTES:
                raise ValueError("its answer is too long")
        return answer

    def _read(self, line: bytes) -> Route:
        match json.loads(line):
            case {"ok": True, "target": target, "epoch": int(epoch), "clients": int(clients)}:
                return Route(target=_address(target), epoch=epoch, clients=clients)
            case {"ok": False, "kind": "failed", "error": str(why)}:
                raise TryAgainError(
                    f"the endpoint {self._listen} did not move: {why}; make room or repair the directory, then repeat"
                )
            case {"ok": False, "error": str(why)}:
                raise RefusedError(
                    f"the endpoint {self._listen} refused: {why}; find out who moved it, then observe and plan again"
                )
        raise ValueError("its answer cannot be understood")


def _address(target: object) -> Address | None:
    match target:
        case None:
            return None
        case [str(host), int(port)]:
            return Address(host, port)
    raise ValueError("its answer has no target")


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """What an endpoint process is started with. The directories of the three files exist."""

    listen: Address
    control: Path  # its control socket
    target: Address | None  # where it leads if it has no state file yet; None: nowhere
    state: Path  # its route survives here
    log: Path
    hold: timedelta = timedelta(seconds=2)  # how long a client waits for a target
    most_held: int = 1000  # how many clients wait; further ones are closed

    def _line(self) -> bytes:
        fields = {
            "listen": [self.listen.host, self.listen.port],
            "control": str(self.control.absolute()),
            "target": None if self.target is None else [self.target.host, self.target.port],
            "state": str(self.state.absolute()),
            "log": str(self.log.absolute()),
            "hold_seconds": self.hold.total_seconds(),
            "most_held": self.most_held,
        }
        return json.dumps(fields).encode() + b"\n"


def spawn(config: EndpointConfig, within: timedelta = timedelta(seconds=10)) -> int:
    """Start an endpoint process in its own session and return its pid once it serves.

    It outlives the caller. As long as the caller lives it is the caller's child: who ends it waits for
    it. UsageError: it did not start (the port is taken, a directory is missing, ...), and nothing is left.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        close_fds=True,
        start_new_session=True,
    )
    try:
        said = _converse(process, config._line(), time.monotonic() + within.total_seconds())
        _check_ready(said, process.pid, config.listen)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = 0  # given away: Popen must neither warn about it nor wait for it
    return process.pid


def _converse(process: "subprocess.Popen[bytes]", line: bytes, deadline: float) -> bytes:
    """Say one line and hear until a JSON line, the end of the process, or the deadline."""
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""
    with process.stdout as stdout, selectors.DefaultSelector() as selector:
        # A broken pipe is no news: what the process said before it died is read below.
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(line)
        selector.register(stdout, selectors.EVENT_READ)
        while not _json_line(said) and selector.select(max(0.0, deadline - time.monotonic())):
            part = os.read(stdout.fileno(), _ANSWER_BYTES)
            if not part or len(said) > _ANSWER_BYTES:
                break
            said += part
    return said


def _json_line(said: bytes) -> bytes:
    """The first complete line that begins as an object; the interpreter may have complained before it."""
    return next((line for line in said.split(b"\n")[:-1] if line.startswith(b"{")), b"")


def _check_ready(said: bytes, pid: int, listen: Address) -> None:
    try:
        answer = json.loads(_json_line(said))
    except ValueError:
        answer = None
    match answer:
        case {"ready": True, "pid": int(ready)} if ready == pid:
            return
        case {"error": str(why)}:
            pass
        case _:
            why = said.decode(errors="replace").strip()[-2000:] or "it ended, or was too slow, without a word"
    raise UsageError(f"the endpoint {listen} did not start: {why}")
