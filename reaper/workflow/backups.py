"""Snapshots as tested backups: the book of what their use has shown, and which of them go."""

from datetime import datetime, timedelta
from typing import Protocol

from reaper.domain.snapshots import RestoreTest, SnapshotRecord
from reaper.planner.retention import to_delete
from reaper.workflow.ports import Fleet


class SnapshotBook(Protocol):
    """What is known of every snapshot. A step that is run again may say everything again: it changes nothing.

    What is said of a snapshot that is not in the book is not remembered.
    """

    def taken(self, record: SnapshotRecord) -> None:
        """A snapshot was taken, or is to be remembered: the first word counts. Its uses are not taken over."""

    def used(self, name: str, run: str, at: datetime) -> None:
        """A run is going to launch from it. Say it before the launch: from now on it is not deleted under it."""

    def restored(self, name: str, run: str, took: timedelta) -> None:
        """A run has launched from it; the first word counts, since a repeated launch finds its own work."""

    def tested(self, name: str, run: str, test: RestoreTest) -> None:
        """What became of the replacement that a run launched from it; the last word counts."""

    def deleted(self, name: str, at: datetime) -> None:
        """It was deleted, or has become a replacement's data; the first word counts."""

    def kept(self, cluster: str) -> tuple[SnapshotRecord, ...]:
        """The snapshots of a cluster that were not deleted, newest first."""


def delete_surplus(
    fleet: Fleet, book: SnapshotBook, cluster: str, *, keep: int, open_runs: frozenset[str], now: datetime
) -> tuple[str, ...]:
    """Delete the snapshots of a cluster beyond those that are kept (planner/retention.py); their names.

    `open_runs`: the others than the one that asks. May be run again: what was deleted meanwhile is not there.
    """
    surplus = to_delete(book.kept(cluster), keep=keep, open_runs=open_runs).delete
    for record in surplus:
        fleet.forget(cluster, record.name)
        book.deleted(record.name, now)
    return tuple(record.name for record in surplus)
