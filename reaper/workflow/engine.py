"""What a provider that boots servers itself needs to know of a server program. Each flavour implements it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reaper.domain.facts import Flavour


@dataclass(frozen=True)
class Login:
    """A user and its password, which is never shown."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Logins:
    """The accounts of a lab, made once at its birth, valid from 127.0.0.1."""

    admin: Login  # reaper's own
    replication: Login
    application: Login  # the probe and `lab load`


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where one server lives."""

    home: Path  # my.cnf, the error log and the data directory lie here
    port: int
    server_id: int

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def config(self) -> Path:
        """The configuration file; its path on the command line is part of the process's identity."""
        return self.home / "my.cnf"

    @property
    def tmp(self) -> Path:
        """For temporary files: a server that boots deletes those of its neighbours in a shared directory."""
        return self.home / "tmp"

    @property
    def log(self) -> Path:
        """The server's error log."""
        return self.home / "error.log"


@dataclass(frozen=True, kw_only=True)
class HotCopy:
    """What a hot snapshot left in its directory: a data directory from which a server boots."""

    position: str | None  # the GTID position of the copy; None: the copy itself knows
    note: str


class Engine(Protocol):
    """A server program of one flavour, found on this machine."""

    flavour: Flavour
    program: Path
    version: str

    def initialise(self, data: Path, logins: Logins, schemas: tuple[str, ...], log: Path) -> None:
        """Make a data directory with the accounts and empty schemas, nothing of it in a binary log.

        The application account may read and write every table outside the system schemas and nothing
        else; the admin account may do what reaper does but must not write on a read-only server.
        UsageError with the tail of the log if it fails.
        """

    def options(self, seat: Seat) -> str:
        """The text of my.cnf: loopback, GTID strict, crash-safe, semi-sync, boots read-only without replication."""

    def command(self, seat: Seat) -> list[str]:
        """The command line that boots the server in the foreground. No secret in it."""

    def can_copy_hot(self) -> bool:
        """True if a snapshot needs no stop of its source."""

    def hot_copy(self, source: Seat, admin: Login, into: Path, check: Callable[[], None]) -> HotCopy:
        """Copy a running server into `into` (must not exist), ready to boot; `check` raises to abort.

        TryAgainError with the tail of the tool's log if it fails; nothing is left behind then.
        """

    def strip(self, data: Path) -> None:
        """Remove from a copied data directory what must not be inherited: identity, sockets, relay logs (E14, E30)."""
