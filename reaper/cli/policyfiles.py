"""The policies in force: read again when their files change; a file with mistakes keeps its last good policy."""

from datetime import datetime
from pathlib import Path

from reaper.adapters.policies.reader import files_in
from reaper.cli.policies import load_policies, policies_directory
from reaper.domain.errors import UsageError
from reaper.domain.standing import StandingPolicy

Stamp = tuple[tuple[str, int, int, int], ...]


class PolicyFiles:
    """What the policies' directory holds, and what of it is in force."""

    def __init__(self) -> None:
        self._stamp: Stamp | None = None
        self._of_file: dict[str, StandingPolicy] = {}
        self.mistakes: tuple[str, ...] = ()

    @property
    def policies(self) -> dict[str, StandingPolicy]:
        """By name."""
        return {policy.name: policy for policy in self._of_file.values()}

    def changed(self) -> bool:
        """Whether a file came, went, or was written since they were read."""
        return self._stamp != _stamp()

    def read(self, now: datetime) -> None:
        """Read all of them. A file with mistakes keeps what it said before; one that is gone says nothing."""
        self._stamp = _stamp()
        try:
            files = list(files_in(policies_directory()))
        except UsageError as error:
            self.mistakes = (str(error),)
            if _is_listable(policies_directory()):  # one that cannot be read says nothing about the policies in it
                self._of_file = {}
            return
        loaded = load_policies(files, now)
        said, broken = dict(loaded.policies), {mistake.file for mistake in loaded.mistakes}
        self.mistakes = tuple(map(str, loaded.mistakes))
        kept = {file: policy for file, policy in self._of_file.items() if file in broken and file not in said}
        names = {policy.name for policy in kept.values()}
        self._of_file = kept | {file: policy for file, policy in said.items() if policy.name not in names}


def _is_listable(directory: Path) -> bool:
    try:
        next(directory.iterdir(), None)
    except OSError:
        return False
    return True


def _stamp() -> Stamp:
    """Changes when a file does."""
    found = []
    try:
        paths: list[Path] = list(files_in(policies_directory()))
    except UsageError:
        return ()
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(sorted(found))
