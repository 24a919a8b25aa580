"""The book of snapshots in memory."""

from dataclasses import replace
from datetime import datetime, timedelta

from reaper.domain.snapshots import RestoreTest, SnapshotRecord, SnapshotUse
from reaper.testing.faults import Faults


class MemorySnapshotBook:
    """The workflow's `SnapshotBook`."""

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults or Faults()
        self._records: dict[str, SnapshotRecord] = {}
        self._uses: dict[tuple[str, str], SnapshotUse] = {}

    def taken(self, record: SnapshotRecord) -> None:
        """A snapshot was taken; the first word counts."""
        with self._faults.around("snapshot taken", record.name):
            self._records.setdefault(record.name, replace(record, uses=(), deleted_at=None))

    def used(self, name: str, run: str, at: datetime) -> None:
        """A run is going to launch from it."""
        with self._faults.around("snapshot used", name):
            if name in self._records:
                self._uses.setdefault((name, run), SnapshotUse(run=run, since=at))

    def restored(self, name: str, run: str, took: timedelta) -> None:
        """A run has launched from it; the first word counts."""
        with self._faults.around("snapshot restored", name):
            use = self._uses.get((name, run))
            if use is not None and use.restore_took is None:
                self._uses[name, run] = replace(use, restore_took=took)

    def tested(self, name: str, run: str, test: RestoreTest) -> None:
        """What became of the replacement that a run launched from it; the last word counts."""
        with self._faults.around("snapshot tested", name):
            use = self._uses.get((name, run))
            if use is not None:
                self._uses[name, run] = replace(use, test=test)

    def deleted(self, name: str, at: datetime) -> None:
        """It was deleted; the first word counts."""
        with self._faults.around("snapshot deleted", name):
            record = self._records.get(name)
            if record is not None and record.deleted_at is None:
                self._records[name] = replace(record, deleted_at=at)

    def kept(self, cluster: str) -> tuple[SnapshotRecord, ...]:
        """The snapshots of a cluster that were not deleted, newest first."""
        with self._faults.around("snapshots kept", cluster):
            found = [self._whole(r) for r in self._records.values() if r.cluster == cluster and r.deleted_at is None]
            return tuple(sorted(found, key=lambda r: (r.snapshot.taken_at, r.name), reverse=True))

    def record(self, name: str) -> SnapshotRecord | None:
        """One snapshot, deleted or not; None: none of this name was ever recorded."""
        record = self._records.get(name)
        return None if record is None else self._whole(record)

    def _whole(self, record: SnapshotRecord) -> SnapshotRecord:
        uses = sorted((u for (name, _), u in self._uses.items() if name == record.name), key=lambda u: (u.since, u.run))
        return replace(record, uses=tuple(uses))
