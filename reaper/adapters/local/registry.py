"""The lab's own book: which instances exist, where, what became of them. A JSON file, locked while changed."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from reaper.adapters.accounts import AccountRecord
from reaper.adapters.local.locks import locked
from reaper.adapters.local.process import ProcessRecord
from reaper.domain.errors import UsageError
from reaper.domain.facts import Flavour
from reaper.workflow.engine import Logins, Seat

_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InstanceRecord(_Record):
    """One instance."""

    name: str
    port: int
    server_id: int
    created: datetime
    token: str | None = None  # the derived name under which a run launched it
    process: ProcessRecord | None = None
    quarantined_until: datetime | None = None


class LabRecord(_Record):
    """One lab, which is one cluster."""

    format: Literal[1] = 1  # a book that another reaper wrote in another form is not guessed at
    name: str
    flavour: Flavour
    server: Path
    version: str
    created: datetime
    endpoint_port: int
    endpoint: ProcessRecord | None = None
    next_server_id: int = 1  # never reused within the cluster's life (E14, E29)
    admin: AccountRecord
    replication: AccountRecord
    application: AccountRecord
    instances: list[InstanceRecord] = []

    @property
    def logins(self) -> Logins:
        """The accounts."""
        return Logins(
            admin=self.admin.login(),
            replication=self.replication.login(),
            application=self.application.login(),
        )

    def instance(self, name: str) -> InstanceRecord | None:
        """The record with this name, or None."""
        return next((i for i in self.instances if i.name == name), None)


class Registry:
    """The directory of one lab and the book in it."""

    def __init__(self, labs: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no lab name: lower-case letters, digits and dashes, at most 30")
        self.home = labs / name

    @property
    def book(self) -> Path:
        """The file."""
        return self.home / "lab.json"

    @property
    def control(self) -> Path:
        """The endpoint's control socket."""
        return self.home / "endpoint" / "control.sock"

    def exists(self) -> bool:
        """True if there is a lab here."""
        return self.book.exists()

    def read(self) -> LabRecord:
        """The lab as last written. UsageError: none, or a book that reaper did not write."""
        try:
            return LabRecord.model_validate_json(self.book.read_bytes())
        except FileNotFoundError:
            raise UsageError(f"there is no lab {self.home.name!r}: `reaper lab up` makes one") from None
        except (ValidationError, OSError, ValueError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            where = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"the lab's book {self.book} cannot be read ({where} {first['msg']}): restore it "
                "from a copy, or end the lab's processes by hand and delete the directory"
            ) from error

    @contextmanager
    def change(self) -> Iterator[LabRecord]:
        """Read, let the caller change, write back at once; nobody else changes it meanwhile.

        TryAgainError: somebody else holds the book for too long. Hold it yourself for moments only.
        """
        with self._locked():
            record = self.read()
            yield record
            self._write(record)

    def create(self, record: LabRecord) -> None:
        """Write the first version."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        with self._locked():
            self._write(record)

    def seat(self, instance: InstanceRecord) -> Seat:
        """Where an instance lives."""
        return Seat(home=self.home / "instances" / instance.name, port=instance.port, server_id=instance.server_id)

    @property
    def snapshots(self) -> Path:
        """Where snapshots lie."""
        return self.home / "snapshots"

    def snapshot(self, name: str) -> Path:
        """Where one snapshot lies."""
        return self.snapshots / name

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.home / ".lock", f"the book of the lab {self.home.name}")

    def _write(self, record: LabRecord) -> None:
        text = json.dumps(json.loads(record.model_dump_json()), indent=1)
        descriptor, path = tempfile.mkstemp(dir=self.home, prefix=".lab-")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(path).replace(self.book)
