"""A program of somebody else: told what it has to know and nothing more, ended in time with all that it started."""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

from reaper.adapters.patience import Deadline
from reaper.adapters.plain import one_line
from reaper.domain.errors import UsageError

_PASSED_ON = ("PATH", "HOME", "LANG")  # of reaper's own environment, which may hold secrets
_TAIL_BYTES = 8192
_CHUNK = 65_536
_CHUNKS_LEFT = 4  # what a pipe may hold when the program has ended, and not what a child adds for ever
_LONGEST_POLL_MS = 60_000
_REAPED_WITHIN_S = 1.0
_TO_KILL_S = 1.0  # of its time, at the most a quarter, so that its end is in time as well


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How it ended, and the end of what it printed."""

    status: int | None  # negative: the signal that ended it; None: the time was over, it was killed
    tail: bytes


def run(command: tuple[str, ...], *, told: Mapping[str, str], stdin: bytes, deadline: Deadline) -> Ended:
    """Run it without a shell, in `/`. When it ends, or when the time is over, its whole process group is killed.

    Output that a child of it could still write is not waited for. UsageError: it cannot be started.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | dict(told)
    left_s = deadline.left_s()
    until = time.monotonic() + left_s - min(_TO_KILL_S, left_s / 4)
    with tempfile.TemporaryFile() as given:  # a file, so that a program that reads nothing blocks nobody
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a zero byte in an argument
            why = error.strerror if isinstance(error, OSError) else "a zero byte in an argument"
            raise UsageError(f"{one_line(command[0], 200)} cannot be started: {why}") from error
    return _follow(process, until)


def _follow(process: "subprocess.Popen[bytes]", until: float) -> Ended:
    out = process.stdout
    assert out is not None, "it was asked for"
    tail = b""
    in_time = False
    try:
        os.set_blocking(out.fileno(), False)
        pidfd = os.pidfd_open(process.pid)
        try:
            in_time, tail = _listen(pidfd, out.fileno(), until)
        finally:
            os.close(pidfd)
    finally:
        # Before it is reaped: its number cannot have become another group's.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it runs as another user, or hangs in the kernel
            process.wait(_REAPED_WITHIN_S)
        out.close()
    return Ended(status=process.returncode if in_time else None, tail=tail)


def _listen(pidfd: int, out: int, until: float) -> tuple[bool, bytes]:
    """Whether it ended in time, and the end of what it printed until then."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(out, select.POLLIN)
    tail = b""
    while (left := until - time.monotonic()) > 0:
        ready = {fd for fd, _ in poll.poll(min(left * 1000 + 1, _LONGEST_POLL_MS))}
        ended = pidfd in ready
        for _ in range(_CHUNKS_LEFT if ended else 1):
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(out, _CHUNK) if out in ready else b""
                tail = (tail + chunk)[-_TAIL_BYTES:]
                if out in ready and not chunk:
                    poll.unregister(out)
                    ready.discard(out)
        if ended:
            return True, tail
    return False, tail
