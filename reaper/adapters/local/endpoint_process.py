"""The process behind a lab's endpoint: one TCP address that is moved from master to master.

`python -m reaper.adapters.local.endpoint_process` reads one line of JSON (see `Config`) from standard
input, answers with one line, `{"ready": true, "pid": N}` or `{"error": "..."}`, closes its standard
streams and serves until SIGTERM. Standard library only, so that it starts fast and stands alone.

A control connection (Unix socket, mode 0600) takes one JSON request a line and gets one answer a line:

    {"op": "show"}                                     where it leads
    {"op": "route", "target": [h, p], "expect": [h, p] | null}
                                                       compare and set; null expects nothing; leading to
                                                       the target already is success whatever is expected
    {"op": "drop"}                                     lead nowhere
    -> {"ok": true, "target": [h, p] | null, "epoch": n, "clients": n, "held": n}
    -> {"ok": false, "error": "...", "kind": "refused" | "malformed" | "failed"}   nothing was changed

A client that comes while there is nobody to lead it to is held for a moment, as a pooler in PAUSE does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import resource
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

Target = tuple[str, int]
Answer = dict[str, object]

_CHUNK_BYTES = 256 * 1024  # most that is read at once, and that waits in a leg before its source is paused
_EARLY_BYTES = 64 * 1024  # most that is read of a client before it is connected
_LINE_BYTES = 64 * 1024  # longest control request
_MOST_CONTROLS = 64
_ACCEPTS_PER_TURN = 64  # so that a burst of clients does not fill the hold queue of a healthy target
_KERNEL_BACKLOG = 1024
_MOST_FILES = 65536

_log = logging.getLogger("endpoint")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The line on standard input. Paths are absolute; the target of an existing state file wins."""

    listen: Target
    control: Path
    target: Target | None
    state: Path
    log: Path
    hold_seconds: float = 2.0
    most_held: int = 1000

    @staticmethod
    def parse(line: bytes) -> Config:
        """Read the line. ValueError: it is not a configuration."""
        match json.loads(line):
            case {"listen": listen, "control": str(control), "state": str(state), "log": str(log), **rest}:
                pass
            case _:
                raise ValueError("the configuration needs listen, control, target, state and log")
        match rest.get("hold_seconds", Config.hold_seconds), rest.get("most_held", Config.most_held):
            case (int() | float()) as hold, int(most) if hold > 0 and most >= 0:
                pass
            case _:
                raise ValueError("hold_seconds must be a positive number and most_held a whole one, not negative")
        return Config(
            listen=_target(listen),
            control=Path(control),
            target=_target_or_none(rest.get("target")),
            state=Path(state),
            log=Path(log),
            hold_seconds=float(hold),
            most_held=most,
        )


def _target(value: object) -> Target:
    match value:
        case [str(host), int(port)] if not isinstance(port, bool) and 0 < port < 65536:
            with contextlib.suppress(OSError, ValueError):  # names are not looked up: that could take seconds
                socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
                return host, port
    raise ValueError(f"an address is [numeric host, port], not {json.dumps(value)[:200]}")


def _target_or_none(value: object) -> Target | None:
    return None if value is None else _target(value)


def _named(target: Target | None) -> str:
    return "nobody" if target is None else f"{target[0]}:{target[1]}"


class Leg(asyncio.BufferedProtocol):
    """One socket of a pair. What arrives here is written to the other leg, as fast as that one takes it."""

    transport: asyncio.Transport

    def __init__(self, client: Client) -> None:
        self.client = client
        self.other: Leg | None = None  # None: nobody to write to yet
        self.early = bytearray()  # arrived while there was nobody
        self.ended = False  # no more bytes will arrive
        self.gone = False
        self._scratch = client.door.scratch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.BufferedProtocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # asyncio leaves Nagle on for sockets that were accepted from a socket made without a protocol number
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=_CHUNK_BYTES)
        if self is self.client.near:
            self.client.door.admit(self.client)

    def get_buffer(self, sizehint: int) -> memoryview:
        """One buffer serves every leg: it is emptied before anybody else is read."""
        del sizehint
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio.BufferedProtocol."""
        data = bytes(self._scratch[:nbytes])  # a copy, because a transport may keep what it cannot send
        if self.other is not None:
            self.client.touched = True
            self.other.transport.write(data)
            return
        self.early += data
        if len(self.early) >= _EARLY_BYTES:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Pass a half-close on; the return value says whether this leg stays open."""
        self.ended = True
        if self.other is None:
            return bool(self.early) and not self.client.held  # else it left, and asyncio closes the leg
        self.client.touched = True
        if self.other.ended:
            self.other.transport.close()
            return False
        self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.BufferedProtocol."""
        self.gone = True
        self.client.lost(self, exc)

    def pause_writing(self) -> None:
        """Part of asyncio.BufferedProtocol."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Part of asyncio.BufferedProtocol."""
        if self.other is not None and not self.other.ended:
            self.other.transport.resume_reading()


class Client:
    """One application's connection: its near leg and, once it has been led to a target, its far leg."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.near = Leg(self)
        self.far: Leg | None = None
        self.touched = False  # a byte or an end passed, so that it cannot be moved unnoticed
        self.held = False  # waits for a change of the route
        self.deadline = 0.0  # on the loop's clock; meaningful while it is being led
        self.leading: asyncio.Task[None] | None = None

    def join(self, far: Leg) -> None:
        """Let bytes pass between the legs."""
        near, self.far, self.held = self.near, far, False
        near.other, far.other = far, near
        for leg in (near, far):
            if not leg.ended:
                leg.transport.resume_reading()
        for source, sink in ((near, far), (far, near)):
            if source.early:
                self.touched = True
                sink.transport.write(bytes(source.early))
                source.early.clear()
        if near.ended:
            self.touched = True
            far.transport.write_eof()

    def part(self) -> None:
        """Give up the far leg at once; the client stays."""
        far, self.far = self.far, None
        if far is not None:
            self.near.other = far.other = None
            far.transport.abort()

    def lost(self, leg: Leg, why: Exception | None) -> None:
        """A leg is closed: flush and close the other one."""
        if leg is self.far and why is not None and not (self.touched or self.near.gone):
            # A dying server resets what waits in its backlog: a refusal that comes late.
            self.part()
            self.door.lead(self, None, self.door.hold_until())
            return
        if leg.other is not None and not leg.other.gone:
            leg.other.transport.close()
        if leg is self.near and self.leading is not None:
            self.leading.cancel()
        if self.near.gone and (self.far is None or self.far.gone):
            self.door.forget(self)

    def drop(self) -> None:
        """Close both sides at once; what is buffered is lost."""
        if self.leading is not None:
            self.leading.cancel()
        self.part()
        self.near.transport.abort()
        self.door.forget(self)


class Door:
    """Where every client comes in, and where they are led."""

    def __init__(self, config: Config, target: Target | None, epoch: int) -> None:
        self.scratch = memoryview(bytearray(_CHUNK_BYTES))
        self._config = config
        self._target = target
        self._epoch = epoch
        self._clients: set[Client] = set()
        self._led: set[Client] = set()  # those without a far leg
        self._told: set[str] = set()  # troubles that were logged since the route changed

    def accept(self) -> Leg:
        """The protocol for a new client."""
        return Client(self).near

    def admit(self, client: Client) -> None:
        """A client is here: lead it to the target, or hold it."""
        if len(self._led) >= self._config.most_held:
            self._tell(f"{len(self._led)} clients are held already; further ones are closed")
            client.near.transport.abort()
            return
        self._clients.add(client)
        self.lead(client, self._target, self.hold_until())

    def hold_until(self) -> float:
        """When a client that has to wait from now on is sent away."""
        return asyncio.get_running_loop().time() + self._config.hold_seconds

    def lead(self, client: Client, target: Target | None, deadline: float) -> None:
        """Start, or start again, to connect a client."""
        if client.leading is not None:
            client.leading.cancel()
        self._led.add(client)
        client.held, client.deadline = target is None, deadline
        client.leading = asyncio.get_running_loop().create_task(self._lead(client, target))

    async def _lead(self, client: Client, target: Target | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(client.deadline):
                if target is not None:
                    try:
                        _, far = await loop.create_connection(lambda: Leg(client), *target)
                    except OSError as error:
                        self._tell(f"{_named(target)} cannot be reached ({error}); clients are held")
                    else:
                        client.leading = None
                        self._led.discard(client)
                        client.join(far)
                        return
                client.held = True
                await loop.create_future()  # until the route changes, which starts another `_lead`
        except TimeoutError:
            client.leading = None
            client.drop()

    def forget(self, client: Client) -> None:
        """Nothing is left of this client."""
        self._clients.discard(client)
        self._led.discard(client)

    def close(self) -> None:
        """Drop everybody."""
        for client in tuple(self._clients):
            client.drop()

    def answer(self, line: bytes) -> Answer:
        """Do what a control request asks; never raises."""
        try:
            match json.loads(line):
                case {"op": "show"}:
                    pass
                case {"op": "drop"}:
                    if self._target is not None:
                        self._move(None)
                case {"op": "route", "target": target, **rest}:
                    self._route(_target(target), _target_or_none(rest.get("expect")))
                case _:
                    raise ValueError("a request is show, route with a target, or drop")
        except _RefusedError as error:
            return {"ok": False, "error": str(error), "kind": "refused"}
        except OSError as error:
            why = f"the state file cannot be written: {error}"
            return {"ok": False, "error": why, "kind": "failed"}
        except (ValueError, RecursionError) as error:
            return {"ok": False, "error": f"malformed request: {error}", "kind": "malformed"}
        counts = {"clients": len(self._clients), "held": len(self._led)}
        return {"ok": True, "target": self._target, "epoch": self._epoch, **counts}

    def _route(self, target: Target, expected: Target | None) -> None:
        if target == self._target:
            return
        if expected is not None and expected != self._target:
            raise _RefusedError(f"it leads to {_named(self._target)}, not to {_named(expected)}")
        if target == self._config.listen:
            raise _RefusedError("an endpoint cannot lead to itself")
        self._move(target)

    def _move(self, target: Target | None) -> None:
        unsynced = _write_state(self._config.state, target, self._epoch + 1)
        before, self._target = self._target, target
        self._epoch += 1
        self._told.clear()
        dropped = 0
        for client in tuple(self._clients):
            if client in self._led:
                self.lead(client, target, client.deadline)
            elif target is not None and not client.touched and not client.near.gone:
                # It may hang in the backlog of a frozen server; nothing passed, so it is moved unnoticed.
                client.part()
                self.lead(client, target, self.hold_until())
            else:
                client.drop()
                dropped += 1
        moved = f"epoch {self._epoch}: from {_named(before)} to {_named(target)}, {dropped} clients dropped"
        asyncio.get_running_loop().call_soon(self._settle, unsynced, moved)  # after the answer

    def _settle(self, unsynced: tuple[int, ...], moved: str) -> None:
        _log.info(moved)
        asyncio.get_running_loop().run_in_executor(None, _sync, unsynced, self._config.state.parent)

    def _tell(self, trouble: str) -> None:
        """Log a trouble once per route, so that a storm of clients does not fill the disk."""
        if trouble not in self._told and len(self._told) < 16:
            self._told.add(trouble)
            _log.warning(trouble)


class _RefusedError(Exception):
    """The request is understood and must not be done."""


class Control(asyncio.Protocol):
    """One control connection."""

    transport: asyncio.Transport

    def __init__(self, door: Door, peers: set[Control]) -> None:
        self._door = door
        self._peers = peers
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._peers.add(self)
        if len(self._peers) > _MOST_CONTROLS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        del exc
        self._peers.discard(self)

    def data_received(self, data: bytes) -> None:
        """Answer every complete line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(self._door.answer(line))
        if len(self._rest) > _LINE_BYTES:
            self._say({"ok": False, "error": f"a line is longer than {_LINE_BYTES} bytes", "kind": "malformed"})
            self.transport.close()

    def _say(self, answer: Answer) -> None:
        self.transport.write(json.dumps(answer).encode() + b"\n")

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol: who does not read answers gets no further ones."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self.transport.resume_reading()


def _read_state(config: Config) -> tuple[Target | None, int]:
    """Where to lead from the start. ValueError: the file is damaged; a guess could lead to an old master."""
    try:
        text = config.state.read_bytes()
    except FileNotFoundError:
        # From now on the route is remembered, also if it never moves before a restart.
        _sync(_write_state(config.state, config.target, 0), config.state.parent)
        return config.target, 0
    try:
        match json.loads(text):
            case {"target": target, "epoch": int(epoch)}:
                return _target_or_none(target), epoch
        raise ValueError("it needs a target and an epoch")
    except ValueError as error:
        raise ValueError(
            f"the state file {config.state} is damaged ({error}); find out who is the master, delete the "
            "file and start again with that target"
        ) from error


def _write_state(path: Path, target: Target | None, epoch: int) -> tuple[int, ...]:
    """Replace the state file atomically; returns the descriptors of the new and the old file for `_sync`.

    The old one is held open because to delete it is most of the cost (ext4: 0.3 ms), and can wait.
    """
    draft = f"{path}.tmp"
    with contextlib.ExitStack() as undo:
        new = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, new)
        os.write(new, json.dumps({"target": target, "epoch": epoch}).encode() + b"\n")
        try:
            old: tuple[int, ...] = (os.open(path, os.O_RDONLY | os.O_CLOEXEC),)
            undo.callback(os.close, *old)
        except FileNotFoundError:
            old = ()
        Path(draft).replace(path)
        undo.pop_all()
    return new, *old


def _sync(files: tuple[int, ...], directory: Path) -> None:
    """Bring a new state file to the disk, in a thread: a move never waits for the disk."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(files[0])
            os.fsync(folder)
        finally:
            for fd in (*files, folder):
                os.close(fd)
    except OSError as error:
        _log.error("the state file is written but perhaps not on the disk: %s", error)


def _listen(config: Config) -> socket.socket:
    host, _ = config.listen
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(config.listen)
        listener.listen(_KERNEL_BACKLOG)
    except OSError as error:
        what = f"cannot listen on {_named(config.listen)}: {error.strerror or error}"
        raise ValueError(f"{what}; stop whoever has the port, or choose another one") from error
    return listener


def _listen_control(path: Path) -> socket.socket:
    """Bind from inside the directory, because the path may be longer than the 107 bytes that bind takes."""
    os.chdir(path.parent)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path.name).st_mode):
            raise ValueError(f"{path} exists and is not a socket; move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path.name) != errno.ECONNREFUSED:
                raise ValueError(f"another process answers on {path}; stop it first")
        Path(path.name).unlink()
    mask = os.umask(0o177)
    control.bind(path.name)
    os.umask(mask)
    os.chdir("/")
    return control


async def _serve(config: Config, door: Door, listener: socket.socket, control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    peers: set[Control] = set()
    private = await loop.create_unix_server(lambda: Control(door, peers), sock=control)
    public = await loop.create_server(door.accept, sock=listener, backlog=_ACCEPTS_PER_TURN)
    listener.listen(_KERNEL_BACKLOG)  # asyncio uses one number for both; this restores the kernel's
    _say_once({"ready": True, "pid": os.getpid()})
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    _log.info("process %d listens on %s", os.getpid(), _named(config.listen))
    await stop.wait()
    # The port is given back last: it keeps a successor from making a control socket that this would delete.
    config.control.unlink(missing_ok=True)
    private.close()
    for peer in peers:
        peer.transport.abort()
    public.close()
    door.close()
    _log.info("process %d ends, as it was asked to", os.getpid())


def _say_once(answer: Answer) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft not in (resource.RLIM_INFINITY, wanted) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    """Run the process; returns its exit code."""
    for ignored in (signal.SIGHUP, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        config = Config.parse(sys.stdin.buffer.readline(_LINE_BYTES))
        log = os.open(config.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        _raise_file_limit()
        door = Door(config, *_read_state(config))
        listener = _listen(config)
        control = _listen_control(config.control)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            _say_once({"error": str(error)})
        return 1
    asyncio.run(_serve(config, door, listener, control))
    return 0


if __name__ == "__main__":
    sys.exit(main())
