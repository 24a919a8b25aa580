"""Locks between the reaper processes of one machine: files that are held for moments.

Whoever holds one may be stopped meanwhile (SIGSTOP, a debugger). Who waits for it is told so in time.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from reaper.adapters.local import process
from reaper.adapters.local.process import ProcessRecord
from reaper.adapters.plain import one_line
from reaper.domain.errors import TryAgainError

PATIENCE = timedelta(seconds=20)  # a thousand times as long as a lock is held on a machine that is not broken
_LOOK_EVERY_S = 0.01
_LONGEST_NAME = 512  # bytes: the holder's identity as JSON is a tenth of it


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at `path`, which guards `what`. TryAgainError names who has held it for too long."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(descriptor, path, what)
        _sign(descriptor)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, what: str) -> None:
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                waited = f"{what} has been locked for more than {PATIENCE.total_seconds():g} s"
                raise TryAgainError(f"{waited} by {_holder(descriptor, path)}") from None
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def _sign(descriptor: int) -> None:
    me = process.identify(os.getpid())
    os.ftruncate(descriptor, 0)  # the name of one that was killed
    if me is not None:
        os.pwrite(descriptor, me.model_dump_json().encode(), 0)


def _holder(descriptor: int, path: Path) -> str:
    """Who holds a lock, and what to do about it."""
    try:
        found = ProcessRecord.model_validate_json(os.pread(descriptor, _LONGEST_NAME, 0))
    except ValidationError:
        found = None  # it was stopped before it wrote its name, or writes it now
    letter = process.state_of(found)
    if found is None or letter is None:
        return f"a process that did not say its name: `fuser -v {path}` does. End it, then try again"
    who = f"process {found.pid} ({_command(found.pid)})"
    if process.is_frozen(letter):
        return (
            f"{who}, which is stopped: end it with `kill -KILL {found.pid}` (another reaper goes on with its work),"
            f" or let it go on with `kill -CONT {found.pid}`, then try again"
        )
    return f"{who}, which runs: see what it waits for (a full or slow disk), or end it, then try again"


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "unknown"
    return one_line(words.strip(), 120)
