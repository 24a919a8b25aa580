"""Snapshots on this machine: their notes, their sizes, and copies of them."""

import contextlib
import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from reaper.adapters.local import process
from reaper.adapters.plain import one_line
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import InstanceId
from reaper.domain.snapshots import Snapshot, SnapshotMethod

# FICLONE of linux/fs.h, _IOW(0x94, 9, int): two files share their blocks (Btrfs, XFS and others).
_SHARE_BLOCKS = 0x40049409
_MARGIN_BYTES = 64 * 2**20  # for what the new server writes while it boots
_LOOK_EVERY_S = 0.02
_END_WITHIN = timedelta(seconds=30)


class _Note(BaseModel):
    """What lies beside a finished copy, as JSON."""

    model_config = ConfigDict(extra="forbid")

    name: str
    source: str
    method: SnapshotMethod
    position: str | None
    size_bytes: int
    note: str
    taken_at: datetime | None = None  # None: an earlier reaper wrote it


def note_of(copy: Path) -> Path:
    """The note that says that a copy is complete, and what it is."""
    return copy.with_suffix(".json")


def write_note(copy: Path, snapshot: Snapshot) -> None:
    """The last thing that is done to a copy: all of the note appears, or nothing."""
    note = _Note(
        name=snapshot.name,
        source=snapshot.source.name,
        method=snapshot.method,
        position=snapshot.position,
        size_bytes=snapshot.size_bytes,
        note=snapshot.note,
        taken_at=snapshot.taken_at,
    )
    unfinished = _unfinished_note(copy)
    unfinished.write_text(note.model_dump_json())
    unfinished.replace(note_of(copy))


def read_note(copy: Path, provider: str) -> Snapshot:
    """The snapshot of a complete copy. UsageError: its note cannot be read."""
    path = note_of(copy)
    try:
        note = _Note.model_validate_json(path.read_bytes())
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"the note {path} of a snapshot cannot be read: restore it, or delete it together with {copy}"
        ) from error
    return Snapshot(
        name=note.name,
        source=InstanceId(provider, note.source),
        method=note.method,
        position=note.position,
        size_bytes=note.size_bytes,
        note=note.note,
        taken_at=note.taken_at or written,
    )


def complete_copies(directory: Path, provider: str) -> tuple[Snapshot, ...]:
    """The complete copies in a directory, oldest first. A moved one has left its note, which is not enough."""
    found = (
        [read_note(path, provider) for path in directory.iterdir() if _is_complete(path)] if directory.is_dir() else []
    )
    return tuple(sorted(found, key=lambda s: (s.taken_at, s.name)))


def _is_complete(path: Path) -> bool:
    return path.is_dir() and note_of(path).exists()


def delete_copy(copy: Path) -> None:
    """Delete a copy and everything beside it, if it is there; a tool that works on it is ended first."""
    if copy.exists():
        process.end_users_of(copy, _END_WITHIN)
    note_of(copy).unlink(missing_ok=True)  # first: what is half deleted is not complete
    remove_tree(copy)
    remove_tree(copy.with_suffix(".tmp"))
    for left in (copy.with_suffix(".log"), copy.with_suffix(".cnf"), _unfinished_note(copy)):
        left.unlink(missing_ok=True)


def _unfinished_note(copy: Path) -> Path:
    return copy.with_suffix(".note")


def copy_tree(
    source: Path, into: Path, check: Callable[[], None], *, free: Callable[[Path], int | None] | None = None
) -> None:
    """Copy a directory, sharing blocks where the file system can; `into` is not there before, or complete after.

    `check` is called every so often and raises to abort. RefusedError: there is no room (E28). TryAgainError:
    it failed. Nothing is left then.
    """
    process.end_users_of(into, _END_WITHIN)  # those of a reaper that was killed
    remove_tree(into)
    _must_fit(source, into.parent, free or bytes_free)
    try:
        _copy(source, into, check)
    except BaseException:
        remove_tree(into)
        raise


def _copy(source: Path, into: Path, check: Callable[[], None]) -> None:
    command = ["cp", "--archive", "--reflink=auto", "--no-target-directory", "--", str(source), str(into)]
    with tempfile.TemporaryFile() as said:
        try:
            tool = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/")
        except OSError as error:
            raise UsageError(f"cp cannot be started: {error.strerror}. Install the coreutils") from error
        try:
            while True:
                check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = tool.wait(_LOOK_EVERY_S)
                    break
        finally:
            if tool.poll() is None:
                tool.kill()
                tool.wait()
        if status:
            said.seek(0)
            why = one_line(said.read(4096).decode(errors="replace").strip(), 300)
            raise TryAgainError(f"{source} cannot be copied to {into}: {why}. What was copied was removed")


def _must_fit(source: Path, directory: Path, free: Callable[[Path], int | None]) -> None:
    used, room = bytes_used(source), free(directory)
    if used is None:
        raise TryAgainError(f"there is no snapshot in {source} (any more): take another one")
    need = used + _MARGIN_BYTES
    if room is not None and room >= need:
        return
    if room is not None and room >= _MARGIN_BYTES and _shares_blocks(directory):
        return
    has = "how much is free is unknown" if room is None else f"{room / 2**20:.0f} MiB are free"
    raise RefusedError(
        f"a copy of the snapshot {source.name} does not fit on the disk of {directory}: it needs"
        f" {need / 2**20:.0f} MiB, {has}. Free some (`reaper snapshots` lists what is kept), or keep no snapshots"
    )


def _shares_blocks(directory: Path) -> bool:
    """True if a copy on this file system needs no room of its own: it is tried."""
    try:
        with tempfile.TemporaryFile(dir=directory) as one, tempfile.TemporaryFile(dir=directory) as other:
            one.write(b"x")
            one.flush()
            fcntl.ioctl(other.fileno(), _SHARE_BLOCKS, one.fileno())
    except OSError:
        return False
    return True


def bytes_used(path: Path) -> int | None:
    """What a directory takes on the disk; None: it is not there, or cannot be read."""
    total = 0
    try:
        if not path.is_dir():
            return None
        for below in path.rglob("*"):
            try:
                status = below.lstat()
            except FileNotFoundError:
                continue  # a server removed it meanwhile
            total += status.st_blocks * 512
    except OSError:
        return None
    return total


def bytes_free(directory: Path) -> int | None:
    """What is free on the disk of a directory; None: unknown."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def remove_tree(path: Path) -> None:
    """Delete a directory if it is there. TryAgainError: it cannot be deleted."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise TryAgainError(f"cannot delete {path}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """What the operating system said, without the list that shutil makes of it."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return str(error)
