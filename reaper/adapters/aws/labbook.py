"""What is known of an AWS lab: how it was made, where its process serves, what runs of it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from reaper.adapters.accounts import AccountRecord
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address, Flavour
from reaper.workflow.engine import Logins

# The modules that are run as processes of a lab, with its directory as an argument.
LAB_PROCESS = "reaper.adapters.aws.lab_process"
FORWARDER = "reaper.adapters.local.endpoint_process"


@dataclass(frozen=True, kw_only=True)
class LabDoor:
    """How applications reach a cluster's master, whoever it is."""

    allocation: str  # of the Elastic IP
    listen: Address  # the public address, at the lab's port
    vpc: str


class DoorRecord(BaseModel):
    """What the book says of a cluster's door."""

    model_config = ConfigDict(extra="forbid")

    allocation: str
    public_ip: str


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    def _write(self, path: Path) -> None:
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.model_dump_json(indent=1))
        part.replace(path)


class LabBook(_File):
    """How a lab was made. Readable by its owner only: it holds passwords and the key."""

    format: Literal[1] = 1
    flavour: Flavour
    finder: str  # `package.module:function` that makes an engine from the program
    program: Path
    network: str  # the VPC's range, inside of 127.0.0.0/8
    zones: dict[str, str]  # a zone's letter and its subnet's range
    public_range: str  # of the network: no subnet has it, its addresses stand for public ones
    port: int
    region: str
    access_key: str  # what the lab serves; with another key it refuses
    delay_s: float  # how long a state on the way to another one shows
    failing: float = 0.0
    seed: int = 1
    admin: AccountRecord
    replication: AccountRecord
    application: AccountRecord
    # What was made in EC2, once it is.
    vpc: str | None = None
    template: str | None = None
    groups: list[str] = []
    subnets: list[str] = []
    doors: dict[str, DoorRecord] = {}  # by cluster

    @property
    def logins(self) -> Logins:
        """The accounts."""
        return Logins(
            admin=self.admin.login(), replication=self.replication.login(), application=self.application.login()
        )

    def door(self, cluster: str) -> LabDoor:
        """UsageError: it has none."""
        found = self.doors.get(cluster)
        if found is None or self.vpc is None:
            raise UsageError(
                f"the AWS lab has no cluster {cluster} with a door; it has {', '.join(sorted(self.doors)) or 'none'}: "
                "name one of these, or add it"
            )
        return LabDoor(allocation=found.allocation, listen=Address(found.public_ip, self.port), vpc=self.vpc)

    @staticmethod
    def path(home: Path) -> Path:
        """The file."""
        return home / "lab.json"

    @classmethod
    @contextlib.contextmanager
    def changing(cls, home: Path) -> Iterator[Self]:
        """The book as it is, written back at the end. Meanwhile no other thread or process changes it."""
        descriptor = os.open(home / "lab.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            book = cls.read(home)
            yield book
            book.write(home)
        finally:
            os.close(descriptor)

    @classmethod
    def read(cls, home: Path) -> Self:
        """UsageError: there is no lab, or it was written by something else."""
        try:
            return cls.model_validate_json(cls.path(home).read_bytes())
        except FileNotFoundError:
            raise UsageError(f"there is no AWS lab in {home}: make one") from None
        except (ValidationError, OSError, ValueError) as error:
            raise UsageError(f"{cls.path(home)} cannot be read ({error}): remove the lab, make another one") from error

    def write(self, home: Path) -> None:
        """Put it there."""
        self._write(self.path(home))


class Ready(_File):
    """Where the lab's process serves."""

    url: str
    pid: int

    @staticmethod
    def path(home: Path) -> Path:
        """The file."""
        return home / "ready.json"

    @classmethod
    def read(cls, home: Path) -> Self | None:
        """None: it does not serve yet, or no more."""
        try:
            return cls.model_validate_json(cls.path(home).read_bytes())
        except (OSError, ValidationError, ValueError):
            return None

    def write(self, home: Path) -> None:
        """Put it there."""
        self._write(self.path(home))


def processes_of(home: Path) -> list[int]:
    """Everything that runs with this directory on its command line: the lab's process, its servers, its doors."""
    return [pid for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_of(pid := int(entry.name), home)]


def is_of(pid: int, home: Path) -> bool:
    """True if that process belongs to the lab in this directory."""
    if pid == os.getpid():
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    servers = f"--defaults-file={home / 'instances'}/"
    return any(word.startswith(servers) for word in words) or (
        str(home) in words and not {LAB_PROCESS, FORWARDER}.isdisjoint(words)
    )
