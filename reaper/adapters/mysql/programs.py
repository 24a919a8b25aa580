"""Finding and running the programs that come with a server, without a secret on any command line."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from reaper.adapters.logtail import log_tail
from reaper.domain.errors import TryAgainError, UsageError

# Debian puts server programs where an ordinary user's PATH does not look.
SERVER_DIRECTORIES = (
    "/usr/sbin",
    "/usr/libexec",
    "/usr/local/sbin",
    "/usr/local/mysql/bin",
    "/opt/mysql/bin",
)
_LOOK_EVERY_S = 0.05


def which(name: str) -> Path | None:
    """A program on PATH or in the usual directories of servers, or None."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SERVER_DIRECTORIES])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def service_user() -> list[str]:
    """The option that lets a server run as root; servers refuse root unless it is named."""
    return ["--user=root"] if os.geteuid() == 0 else []


def option_lines(section: str, options: Mapping[str, str | int | Path | None]) -> str:
    """An option file's section; None: an option without a value."""
    lines = [
        f"[{section}]",
        *(name if value is None else f"{name} = {value}" for name, value in options.items()),
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def secret_file(path: Path, text: str) -> Iterator[Path]:
    """A file that only its owner can read, gone afterwards."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        yield path
    finally:
        path.unlink(missing_ok=True)


def run_tool(
    command: list[str],
    log: Path,
    *,
    stdin: str | None = None,
    check: Callable[[], None] | None = None,
) -> None:
    """Run a program to its end, its output appended to `log`, in a session of its own.

    `check` is called every so often and may raise; the program is then ended first. TryAgainError with
    the tail of the log if it fails; UsageError if there is no such program.
    """
    # A directory of its own for temporary files: servers delete each other's in a shared one (see Seat.tmp).
    with log.open("ab") as out, _directory(log.with_suffix(".tmp")) as tmp:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(tmp)},
                start_new_session=True,  # a person's Ctrl-C is for reaper to answer
            )
        except OSError as error:
            raise UsageError(f"cannot run {command[0]}: {error.strerror}") from error
        try:
            if stdin is not None and process.stdin is not None:
                process.stdin.write(stdin.encode())
                process.stdin.close()
            while process.poll() is None:
                if check is not None:
                    check()
                time.sleep(_LOOK_EVERY_S)
        except BrokenPipeError:
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    if process.returncode != 0:
        if process.returncode < 0 and check is not None:
            time.sleep(_LOOK_EVERY_S)  # a Ctrl-C hits it too before its session is its own: then that is the reason
            check()
        raise TryAgainError(f"{Path(command[0]).name} failed ({process.returncode}): {log_tail(log)}")


@contextmanager
def _directory(path: Path) -> Iterator[Path]:
    """A new directory, gone afterwards. Its name is known, so that what a killed process left is found again."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def version_text(program: Path) -> str:
    """What the program says of its version. UsageError: it is not a server program that runs here."""
    try:
        answer = subprocess.run(
            [program, "--no-defaults", "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or "it does not answer"
        raise UsageError(f"cannot run {program}: {why}. Name a mysqld or mariadbd with --server.") from error
    return (answer.stdout + answer.stderr).strip()
