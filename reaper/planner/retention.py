"""Which snapshot is used again, which ones go, and what lies there. Total functions of what is known."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from reaper.domain.binlogs import can_feed
from reaper.domain.gtid import GtidSet
from reaper.domain.snapshots import Snapshot, SnapshotRecord, TestOutcome

# ---- reuse


@dataclass(frozen=True, kw_only=True)
class Binlogs:
    """What the server that a replacement will follow has, and can still hand out."""

    executed: GtidSet
    purged: GtidSet | None  # executed, and no longer in its binary logs; None: unknown, and nothing is used again


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """A snapshot that serves once more."""

    record: SnapshotRecord
    why: str


@dataclass(frozen=True, kw_only=True)
class TakeNew:
    """No snapshot serves once more; why not, the newest first."""

    why: tuple[str, ...]


Choice = Reuse | TakeNew


def reusable(records: Iterable[SnapshotRecord], *, now: datetime, within: timedelta | None, needed: Binlogs) -> Choice:
    """The newest snapshot that is not older than `within`, did not fail its test and can still catch up (E15).

    `records`: those of one cluster whose copies are there. `within`: None takes a new one for each run.
    """
    if within is None:
        return TakeNew(why=("the policy takes a new snapshot for each run",))
    refused = []
    for record in _newest_first(r for r in records if r.deleted_at is None):
        fault = _unfit(record, now, within, needed)
        if fault is None:
            tested = "passed its last test" if record.test else "was not tested yet"
            return Reuse(
                record=record, why=f"{record.name} is {_hours(now - record.snapshot.taken_at)} old and {tested}"
            )
        refused.append(f"{record.name} {fault}")
    return TakeNew(why=tuple(refused) or ("there is none",))


def _unfit(record: SnapshotRecord, now: datetime, within: timedelta, needed: Binlogs) -> str | None:
    """Why a snapshot is not used again, in words; None: it is."""
    age, held = now - record.snapshot.taken_at, record.held
    if age < timedelta(0):
        return f"is from the future ({record.snapshot.taken_at:%Y-%m-%d %H:%M} UTC): its age is unknown"
    if age > within:
        return f"is {_hours(age)} old, more than {_hours(within)}"
    if record.test is not None and record.test.outcome is TestOutcome.FAILED:
        return f"failed its test: {record.test.words}"
    if held is None:
        return "has a position that cannot be read"
    if {type(held)} != {type(s) for s in (needed.executed, needed.purged) if s is not None}:
        return "was taken from a server of another flavour"
    if not needed.executed.covers(held):
        extra = ", ".join(str(r) for r in held.beyond(needed.executed)[:3])
        return f"holds what the master has not: {extra}"
    if needed.purged is None:
        return "may lack what the binary logs have no more: what they hold is unknown"
    starved = can_feed(held, needed.purged)
    return None if starved is None else f"cannot catch up: {starved}"


# ---- retention


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What becomes of a cluster's snapshots, with reasons."""

    delete: tuple[SnapshotRecord, ...]  # oldest first
    stay: tuple[tuple[SnapshotRecord, str], ...]  # newest first


def to_delete(records: Iterable[SnapshotRecord], *, keep: int, open_runs: frozenset[str]) -> Retention:
    """Which of one cluster's snapshots go. `open_runs`: the others than the one that asks.

    The newest `keep` stay. An older one goes only while a newer one exists that passed its test, so that the last
    proved backup is never given up for an unproved one. Those that failed their test are no backups and do not
    count; the newest of them stays as evidence until a newer one passes. With `keep` 0 all go. One that an
    open run uses never goes.
    """
    delete: list[SnapshotRecord] = []
    stay: list[tuple[SnapshotRecord, str]] = []
    counted, proved, evidence = 0, False, False
    for record in _newest_first(r for r in records if r.deleted_at is None):
        failed = record.test is not None and record.test.outcome is TestOutcome.FAILED
        users = record.in_use_by(open_runs)
        if users:
            stay.append((record, f"in use by {', '.join(users)}"))
        elif keep <= 0:
            delete.append(record)
        elif failed and not (proved or evidence):
            stay.append((record, "failed its test: evidence, until a newer one passes"))
        elif not failed and counted < keep:
            stay.append((record, f"one of the newest {keep}"))
        elif not failed and not proved:
            stay.append((record, "no newer one has passed its test"))
        else:
            delete.append(record)
        if failed:
            evidence = True
        else:
            counted += 1
            proved = proved or record.test is not None
    return Retention(delete=tuple(reversed(delete)), stay=tuple(stay))


# ---- what lies there


class Standing(StrEnum):
    """Whether a snapshot and its record belong together."""

    KEPT = "kept"
    ORPHAN = "orphan"  # a copy that no record tells of: of another store, or its run died before it was recorded
    MISSING = "missing"  # a record whose copy is gone, which nobody deleted through reaper


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the inventory."""

    cluster: str
    name: str
    standing: Standing
    snapshot: Snapshot
    record: SnapshotRecord | None
    in_use_by: tuple[str, ...]  # open runs


def inventory(
    cluster: str,
    records: Iterable[SnapshotRecord],
    found: Iterable[Snapshot],
    *,
    open_runs: dict[str, str],
) -> tuple[Entry, ...]:
    """The snapshots of a cluster, newest first: what is recorded, what lies there. `open_runs`: run, its snapshot."""
    lying = {snapshot.name: snapshot for snapshot in found}
    known = {record.name: record for record in records if record.deleted_at is None}
    entries = []
    for name in lying.keys() | known.keys():
        record = known.get(name)
        users = set(record.in_use_by(frozenset(open_runs))) if record else set()
        users |= {run for run, its_own in open_runs.items() if its_own == name}
        found_as = Standing.KEPT if name in lying else Standing.MISSING
        entries.append(
            Entry(
                cluster=cluster,
                name=name,
                standing=found_as if record else Standing.ORPHAN,
                snapshot=record.snapshot if record else lying[name],
                record=record,
                in_use_by=tuple(sorted(users)),
            )
        )
    return tuple(sorted(entries, key=lambda e: (e.snapshot.taken_at, e.name), reverse=True))


def why_not_deleted(entry: Entry, entries: Iterable[Entry]) -> str | None:
    """Why a person should think twice before deleting a snapshot; None: nothing speaks against it."""
    if entry.in_use_by:
        return f"{entry.name} is in use by {', '.join(entry.in_use_by)}"
    tested = [e for e in entries if e.cluster == entry.cluster and e.standing is Standing.KEPT and _passed(e.record)]
    newest = max(tested, key=lambda e: (e.snapshot.taken_at, e.name), default=None)
    if newest is not None and newest.name == entry.name:
        return f"{entry.name} is the newest snapshot of {entry.cluster} that was restored and passed its test"
    return None


def _passed(record: SnapshotRecord | None) -> bool:
    return record is not None and record.test is not None and record.test.outcome is TestOutcome.PASSED


def _newest_first(records: Iterable[SnapshotRecord]) -> list[SnapshotRecord]:
    return sorted(records, key=lambda r: (r.snapshot.taken_at, r.name), reverse=True)


def _hours(span: timedelta) -> str:
    return f"{span / timedelta(hours=1):.1f} h"
