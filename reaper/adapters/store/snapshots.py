"""The workflow's `SnapshotBook` in the store: what the use of each snapshot has shown."""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from reaper.adapters.store.codec import decode, encode
from reaper.adapters.store.database import Place
from reaper.adapters.store.past import moment_of, text_of
from reaper.domain.errors import UsageError
from reaper.domain.snapshots import RestoreTest, SnapshotRecord, SnapshotUse

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class SnapshotStore:
    """Every snapshot that a run took, until long after it was deleted. Who only reads makes no file."""

    place: Place

    def taken(self, record: SnapshotRecord) -> None:
        """A snapshot was taken; the first word counts."""
        with self.place.database.write() as tx:
            tx.do(
                "insert into reaper_snapshots (name, cluster, taken, birth) values (:name, :cluster, :taken, :birth)"
                " on conflict (name) do nothing",
                name=record.name,
                cluster=record.cluster,
                taken=text_of(record.snapshot.taken_at),
                birth=encode(SnapshotRecord, replace(record, uses=(), deleted_at=None)),
            )

    def used(self, name: str, run: str, at: datetime) -> None:
        """A run is going to launch from it."""
        with self.place.database.write() as tx:
            tx.do(
                "insert into reaper_snapshot_uses (name, run, since) select name, :run, :since from reaper_snapshots"
                " where name = :name on conflict (name, run) do nothing",
                name=name,
                run=run,
                since=text_of(at),
            )

    def restored(self, name: str, run: str, took: timedelta) -> None:
        """A run has launched from it; the first word counts."""
        with self.place.database.write() as tx:
            tx.do(
                "update reaper_snapshot_uses set restore_us = :took"
                " where name = :name and run = :run and restore_us is null",
                took=took // _MICROSECOND,
                name=name,
                run=run,
            )

    def tested(self, name: str, run: str, test: RestoreTest) -> None:
        """What became of the replacement that a run launched from it; the last word counts."""
        with self.place.database.write() as tx:
            tx.do(
                "update reaper_snapshot_uses set test = :test where name = :name and run = :run",
                test=encode(RestoreTest, test),
                name=name,
                run=run,
            )

    def deleted(self, name: str, at: datetime) -> None:
        """It was deleted; the first word counts."""
        with self.place.database.write() as tx:
            tx.do(
                "update reaper_snapshots set deleted = :at where name = :name and deleted is null",
                at=text_of(at),
                name=name,
            )

    def cluster_removed(self, cluster: str, at: datetime) -> None:
        """All snapshots of a cluster were deleted with it."""
        with self.place.database.write() as tx:
            tx.do(
                "update reaper_snapshots set deleted = :at where cluster = :cluster and deleted is null",
                at=text_of(at),
                cluster=cluster,
            )

    def kept(self, cluster: str) -> tuple[SnapshotRecord, ...]:
        """The snapshots of a cluster that were not deleted, newest first. UsageError: a record cannot be read."""
        return self._records("cluster = :which and deleted is null", cluster)

    def record(self, name: str) -> SnapshotRecord | None:
        """One snapshot, deleted or not; None: none of this name was ever recorded."""
        return next(iter(self._records("name = :which", name)), None)

    def clusters(self) -> tuple[str, ...]:
        """The clusters of which snapshots are kept, sorted; also those that no provider knows any more."""
        if not self.place.exists():
            return ()
        with self.place.database.read() as tx:
            rows = tx.rows("select distinct cluster from reaper_snapshots where deleted is null order by cluster")
        return tuple(row.cluster for row in rows)

    def _records(self, condition: str, which: str) -> tuple[SnapshotRecord, ...]:
        if not self.place.exists():
            return ()
        with self.place.database.read() as tx:
            rows = tx.rows(
                f"select * from reaper_snapshots where {condition} order by taken desc, name desc", which=which
            )
            uses = tx.rows(
                "select * from reaper_snapshot_uses where name in"
                f" (select name from reaper_snapshots where {condition}) order by since, run",
                which=which,
            )
        of: dict[str, list[sa.Row[Any]]] = defaultdict(list)
        for use in uses:
            of[use.name].append(use)
        return tuple(_record(row, of[row.name]) for row in rows)


def _record(row: sa.Row[Any], uses: list[sa.Row[Any]]) -> SnapshotRecord:
    try:
        return replace(
            decode(SnapshotRecord, row.birth),
            uses=tuple(_use(use) for use in uses),
            deleted_at=moment_of(row.deleted),
        )
    except ValidationError as error:
        raise UsageError(
            f"the record of the snapshot {row.name} was written by another version of reaper and cannot be read by"
            f" this one: {error.error_count()} fields differ. Look at it, and delete the snapshot, with that version"
        ) from error


def _use(row: sa.Row[Any]) -> SnapshotUse:
    return SnapshotUse(
        run=row.run,
        since=datetime.fromisoformat(row.since),
        restore_took=None if row.restore_us is None else row.restore_us * _MICROSECOND,
        test=None if row.test is None else decode(RestoreTest, row.test),
    )
