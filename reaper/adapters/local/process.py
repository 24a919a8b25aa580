"""Processes of ours: started, recognised, killed, proved dead. Never a stranger's."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reaper.domain.errors import RefusedError, ServerError, UsageError

_PORTS = range(21000, 30000)
_STAT_STATE, _STAT_STARTED = 0, 19  # fields 3 and 22 of proc(5), counted behind the command's name


class ProcessRecord(BaseModel):
    """A process's identity: the pid alone is not one, pids are used again."""

    model_config = ConfigDict(extra="forbid")

    pid: int
    started_ticks: int  # field 22 of /proc/PID/stat, clock ticks since boot


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rsplit(")", 1)[1].split()


def identify(pid: int) -> ProcessRecord | None:
    """The identity of a running process, or None."""
    fields = _stat(pid)
    return None if fields is None else ProcessRecord(pid=pid, started_ticks=int(fields[_STAT_STARTED]))


def state_of(process: ProcessRecord | None) -> str | None:
    """The process's state letter of proc(5) if it is still the same process and no zombie, else None."""
    fields = _stat(process.pid) if process else None
    if process is None or fields is None or int(fields[_STAT_STARTED]) != process.started_ticks:
        return None
    letter = fields[_STAT_STATE]
    return None if letter in "ZX" else letter


def is_frozen(letter: str) -> bool:
    """True for a stopped process."""
    return letter in "Tt"


def spawn(command: list[str], log: Path) -> ProcessRecord:
    """Start a process that survives us, its output appended to `log`. UsageError: it cannot be started."""
    with log.open("ab") as out:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
            )
        except OSError as error:
            raise UsageError(f"cannot start {command[0]}: {error.strerror}") from error
    started = identify(process.pid)
    _forget_child(process)
    if started is None:
        raise UsageError(f"{command[0]} ended at once; see {log}")
    return started


def find(argument: str) -> ProcessRecord | None:
    """The running process that has this argument on its command line, whether it was written down or not (E12)."""
    return next(_running(lambda words: argument.encode() in words), None)


def end_users_of(path: Path, within: timedelta) -> None:
    """End the tools that a reaper which was killed has left at work below a path (E12). RefusedError: one goes on."""
    named = str(path).encode()
    for tool in list(_running(lambda words: any(named in word for word in words))):
        end(tool, f"the tool that works on {path}", polite_for=timedelta(0), within=within)


def _running(is_wanted: Callable[[list[bytes]], bool]) -> Iterator[ProcessRecord]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found = identify(int(entry.name)) if is_wanted(words) else None
            if found is not None and state_of(found) is not None:
                yield found


_children: list["subprocess.Popen[bytes]"] = []


def _forget_child(process: "subprocess.Popen[bytes]") -> None:
    # Kept so that its exit is reaped by `reap`; a Popen that is collected warns and leaves a zombie.
    _children.append(process)


def reap() -> None:
    """Reap children that have ended; those of earlier reaper processes belong to init."""
    _children[:] = [child for child in _children if child.poll() is None]


class Weapon:
    """A pidfd on a verified process: cannot hit another one, and tells its death without a race."""

    def __init__(self, process: ProcessRecord, name: str) -> None:
        self._pid = process.pid
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError as error:
            raise RefusedError(f"{name} does not run: {error.strerror}") from error
        if state_of(process) is None:
            os.close(self._pidfd)
            raise RefusedError(f"process {process.pid} is not the {name} that reaper started: nothing is killed")
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)

    def crash(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: a clean shutdown."""
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP; returns when no thread of it runs any more."""
        self._signal(signal.SIGSTOP)
        while (fields := _stat(self._pid)) is not None and not is_frozen(fields[_STAT_STATE]):
            if fields[_STAT_STATE] in "ZX":
                return
            time.sleep(0.0005)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def fence(self, within: timedelta) -> str | None:
        """Wait until the kernel says that the process has ended."""
        if not self._poll.poll(max(0, int(within.total_seconds() * 1000))):
            return None
        reap()
        return f"process {self._pid} has ended (pidfd)"

    def close(self) -> None:
        """Give the descriptor back."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return  # it has ended already, which the fence will prove
        except OSError as error:
            raise ServerError(f"cannot signal process {self._pid}: {error.strerror}") from error


def end(process: ProcessRecord | None, name: str, *, polite_for: timedelta, within: timedelta) -> None:
    """End a process of ours, politely at first. RefusedError: it does not end."""
    if process is None or state_of(process) is None:
        return
    with contextlib.closing(Weapon(process, name)) as weapon:
        if polite_for:
            weapon.terminate()
            if weapon.fence(polite_for):
                return
        weapon.crash()
        if weapon.fence(within) is None:
            raise RefusedError(f"{name} (process {process.pid}) does not end")


def listening(port: int) -> bool:
    """True if somebody accepts connections on this loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(taken: set[int], *, near: Path) -> int:
    """A loopback port that nobody uses, below those that the kernel gives to clients (32768 and up, ip(7)).

    The search begins at a place derived from a path, so that two data directories do not race for one port.
    """
    begin = zlib.crc32(str(near).encode()) % len(_PORTS) // 100 * 100
    for port in (*_PORTS[begin:], *_PORTS[:begin]):
        if port in taken:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(port)
    raise UsageError(f"no free port between {_PORTS[0]} and {_PORTS[-1]} on 127.0.0.1")
