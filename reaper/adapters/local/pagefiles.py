"""The page lists of a lab's servers: files in their data directories. Implements `workflow.pools.PageFiles`."""

import os
import tempfile
from pathlib import Path

from reaper.adapters.local.registry import Registry
from reaper.domain.errors import TryAgainError, UsageError
from reaper.domain.facts import Instance

_NAME = "ib_buffer_pool"  # innodb_buffer_pool_filename, its default
_MODE = 0o640


class LocalPageFiles:
    """Of every lab below one directory."""

    def __init__(self, labs: Path) -> None:
        self._labs = labs

    def read(self, instance: Instance) -> bytes | None:
        """The list that the server wrote last; None: none."""
        try:
            return (self._data(instance) / _NAME).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TryAgainError(f"cannot read the page list of {instance.id}: {error}") from error

    def write(self, instance: Instance, pages: bytes) -> None:
        """Put a list there in one piece, as the server's own user."""
        data = self._data(instance)
        try:
            owner = data.stat()
            descriptor, path = tempfile.mkstemp(dir=data, prefix=f"{_NAME}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(pages)
                    os.fchmod(file.fileno(), _MODE)
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                Path(path).replace(data / _NAME)
            except OSError:
                Path(path).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UsageError(f"cannot write the page list of {instance.id}: {error}") from error

    def _data(self, instance: Instance) -> Path:
        cluster, _, name = instance.id.name.partition("/")
        registry = Registry(self._labs, cluster)
        record = registry.read().instance(name)
        if record is None:
            raise TryAgainError(f"there is no instance {instance.id}")
        return registry.seat(record).data
