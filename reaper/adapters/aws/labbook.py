"""What is written down of an AWS lab: how it was made, and where its process serves."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from reaper.adapters.accounts import AccountRecord
from reaper.domain.errors import UsageError
from reaper.domain.facts import Flavour
from reaper.workflow.engine import Logins


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
    template: str | None = None
    groups: list[str] = []
    subnets: list[str] = []

    @property
    def logins(self) -> Logins:
        """The accounts."""
        return Logins(
            admin=self.admin.login(), replication=self.replication.login(), application=self.application.login()
        )

    @staticmethod
    def path(home: Path) -> Path:
        """The file."""
        return home / "lab.json"

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
