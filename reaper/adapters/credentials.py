"""Where the databases' passwords come from. What is read here is never shown: not in a log, an error or a repr.

An error names the place of a secret, never its text, and is raised `from None` where the cause would carry it.
"""

import json
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from reaper.domain.errors import AccessDeniedError, UsageError
from reaper.workflow.engine import Login
from reaper.workflow.ports import Clock

T = TypeVar("T")
_LONGEST_BYTES = 65_536
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_USER_KEYS = ("username", "user")  # Secrets Manager's own secrets of databases say `username`


class Source(Protocol):
    """A place where a login is kept. Asked again, it says what is valid by then."""

    def login(self) -> Login:
        """User and password. UsageError: it is not there or not fit. TryAgainError: it cannot be asked now."""


def understand(text: str, user: str | None, where: str) -> Login:
    """A login from `{"username": ..., "password": ...}`, or from a bare password of the user that is configured."""
    if text.lstrip().startswith("{"):
        try:
            said = json.loads(text)
        except ValueError:
            raise UsageError(f"{where} begins like JSON and is none: correct it, it is not shown here") from None
        found = next((said[key] for key in _USER_KEYS if key in said), user)
        match found, said.get("password"):
            case str(name), str(password) if name and password:
                return Login(name, password)
        raise UsageError(f"{where} is JSON without a user name or without a password: it needs both, as texts")
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or "\n" in password:
        raise UsageError(f"{where} is empty or has more than one line: it has to hold one password, or JSON")
    if not user:
        raise UsageError(f"{where} is a bare password: configure the `user` that it belongs to")
    return Login(user, password)


@dataclass(frozen=True, kw_only=True)
class EnvironmentSource:
    """A variable of the environment. Whoever may read the process's environment may read it too."""

    variable: str
    user: str | None = None  # None: the variable holds JSON with both
    environment: Mapping[str, str] = field(repr=False)

    def login(self) -> Login:
        """What the variable says."""
        text = self.environment.get(self.variable)
        if text is None:
            raise UsageError(f"the environment variable {self.variable} is not set: set it, or name another source")
        return understand(text, self.user, f"the environment variable {self.variable}")


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A file that nobody else may read."""

    path: Path
    user: str | None = None

    def login(self) -> Login:
        """What the file says now."""
        try:
            with self.path.open("rb") as file:
                self._check(os.fstat(file.fileno()))
                raw = file.read(_LONGEST_BYTES + 1)
        except OSError as error:
            raise UsageError(f"the password file {self.path} cannot be read: {error.strerror}") from error
        try:
            text = raw[: _LONGEST_BYTES + 1].decode()
        except UnicodeDecodeError:
            raise UsageError(f"the password file {self.path} is no UTF-8 text") from None
        if len(raw) > _LONGEST_BYTES:
            raise UsageError(f"the password file {self.path} is longer than {_LONGEST_BYTES} bytes")
        return understand(text, self.user, f"the password file {self.path}")

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{self.path} is no regular file: name the file that holds the password")
        if found.st_uid not in (os.geteuid(), 0):
            raise UsageError(
                f"the password file {self.path} belongs to uid {found.st_uid}, who could change it: chown it"
            )
        if found.st_mode & _OTHERS:
            raise UsageError(
                f"the password file {self.path} has mode {stat.S_IMODE(found.st_mode):04o}, so that others may use it: "
                f"`chmod 600 {self.path}`, and change the password if they may have read it"
            )


class Kept:
    """A source whose answer is kept for a while. Shared between threads; holds the password only in memory."""

    def __init__(
        self, source: Source, clock: Clock, *, keep: timedelta, renew_every: timedelta = timedelta(seconds=5)
    ) -> None:
        self._source = source
        self._clock = clock
        self._keep_ns = _nanoseconds(keep)
        self._renew_ns = _nanoseconds(renew_every)
        self._lock = threading.Lock()
        self._login: Login | None = None
        self._read_ns = 0

    def login(self) -> Login:
        """The kept one, or what the source says when its time is over."""
        with self._lock:
            if self._login is None or self._age_ns() >= self._keep_ns:
                self._read()
            assert self._login is not None, "it was read"
            return self._login

    def renewed(self, denied: Login) -> Login | None:
        """What is valid in place of one that a server rejected; None: nothing else is known.

        A source is not asked more often than every few seconds, however many connections are rejected.
        """
        with self._lock:
            if self._login == denied and self._age_ns() >= self._renew_ns:
                self._read()
            return None if self._login == denied else self._login

    def _age_ns(self) -> int:
        return self._clock.monotonic_ns() - self._read_ns

    def _read(self) -> None:
        self._login = self._source.login()
        self._read_ns = self._clock.monotonic_ns()


def open_with(logins: Kept, connect: Callable[[Login], T]) -> T:
    """Connect; when the login is rejected and the source knows a newer one, once more with that."""
    login = logins.login()
    try:
        return connect(login)
    except AccessDeniedError:
        newer = logins.renewed(login)
        if newer is None:
            raise
        return connect(newer)


def _nanoseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1) * 1000
