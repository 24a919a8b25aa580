"""Snapshots: the copies from which replacements boot, and what was learned of each by its use."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from reaper.domain.facts import Flavour, InstanceId
from reaper.domain.gtid import GtidParseError, GtidSet, MariadbGtidSet, MysqlGtidSet


class SnapshotMethod(StrEnum):
    """How a snapshot was taken."""

    HOT = "hot"  # the source served on (mariadb-backup, CLONE, a volume snapshot)
    COLD = "cold"  # the source was stopped and started again; its replication has to be resumed


class Keeping(StrEnum):
    """What a launch does with the snapshot that it boots from."""

    COPY = "copy"  # it is copied and stays: for other runs, as a backup
    MOVE = "move"  # it becomes the replacement's data and is gone: quicker, and needs no room


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of a replica's data from which a server can boot."""

    name: str
    source: InstanceId
    method: SnapshotMethod
    position: str | None  # GTID position of the copy as the tool reported it; None: the copy itself knows
    size_bytes: int
    note: str  # what a reader must know; "" for nothing
    taken_at: datetime  # aware, UTC: when the copy was begun, so that its data are not older than it says


class TestOutcome(StrEnum):
    """What became of a replacement that was restored from a snapshot."""

    __test__ = False  # its name is no invitation to pytest

    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class RestoreTest:
    """The checks that a replacement passed or failed: the only proof that a snapshot is a backup."""

    at: datetime  # aware, UTC
    outcome: TestOutcome
    words: str  # what was compared, or what differs


@dataclass(frozen=True, kw_only=True)
class SnapshotUse:
    """A run that launches, or launched, from a snapshot."""

    run: str
    since: datetime  # aware, UTC
    restore_took: timedelta | None = None  # from the launch to a server that answers; None: not (yet) launched
    test: RestoreTest | None = None  # None: not (yet) tested


@dataclass(frozen=True, kw_only=True)
class SnapshotRecord:
    """Everything that is known of one snapshot."""

    cluster: str
    snapshot: Snapshot
    taken_by: str  # the run
    took: timedelta | None  # to take; None: unknown, its run was interrupted meanwhile
    flavour: Flavour
    executed: (
        str  # GTID set that the source had executed shortly before: the copy holds it, and may forget that it does
    )
    uses: tuple[SnapshotUse, ...] = ()  # oldest first
    deleted_at: datetime | None = None  # None: it is there, as far as is known

    @property
    def name(self) -> str:
        """The snapshot's name."""
        return self.snapshot.name

    @property
    def used_by(self) -> tuple[str, ...]:
        """The runs that launch from it."""
        return tuple(use.run for use in self.uses)

    @property
    def test(self) -> RestoreTest | None:
        """The last one that it passed or failed; None: it was never tested."""
        return max((use.test for use in self.uses if use.test), key=lambda test: test.at, default=None)

    @property
    def restore_took(self) -> timedelta | None:
        """The last time it was restored; None: it never was."""
        return next((use.restore_took for use in reversed(self.uses) if use.restore_took is not None), None)

    @property
    def held(self) -> GtidSet | None:
        """The least that the copy holds; None: what was recorded cannot be read."""
        kind = MariadbGtidSet if self.flavour is Flavour.MARIADB else MysqlGtidSet
        try:
            return kind.parse(self.executed) | kind.parse(self.snapshot.position or "")
        except GtidParseError:
            return None

    def in_use_by(self, open_runs: frozenset[str]) -> tuple[str, ...]:
        """Which of the open runs took it or launch from it, sorted."""
        return tuple(sorted({self.taken_by, *self.used_by} & open_runs))
