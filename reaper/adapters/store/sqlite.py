"""Runs, their guards and their timeline, in one SQLite file; and the lock that makes runs exclusive."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
  run TEXT PRIMARY KEY, cluster TEXT NOT NULL, began TEXT NOT NULL, ended TEXT, state TEXT NOT NULL,
  message TEXT NOT NULL DEFAULT '', plan TEXT NOT NULL, verdict TEXT, pid INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, run TEXT NOT NULL, event TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_run ON events (run, id);
CREATE TABLE IF NOT EXISTS guards (
  id INTEGER PRIMARY KEY, run TEXT NOT NULL, verdicts TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as stored."""

    run: str
    cluster: str
    began: datetime
    ended: datetime | None
    state: RunState
    message: str
    plan: Plan
    verdict: RunVerdict | None
    interrupted: bool  # recorded as running, but the process that ran it is gone


@cache
def _codec(of: Any) -> TypeAdapter[Any]:
    return TypeAdapter(of)


def encode(of: Any, value: object) -> str:
    """A domain value as JSON: durations in ISO 8601, enumerations as their values."""
    return _codec(of).dump_json(value).decode()


class SqliteStore:
    """The default store. A `Journal` of the workflow, and the reader of what it wrote."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "reaper.db"

    def _open(self) -> sqlite3.Connection:
        self._home.mkdir(parents=True, exist_ok=True)
        try:
            db = sqlite3.connect(self._path, timeout=10, isolation_level=None)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise UsageError(f"the store {self._path} cannot be opened: {error}. Repair it or move it away") from error
        return db

    def _broken(self, error: sqlite3.Error) -> TryAgainError:
        return TryAgainError(f"the store {self._path} cannot be used: {error}. Make room or wait, then try again")

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with closing(self._open()) as db:
            try:
                db.execute(statement, values)
            except sqlite3.Error as error:
                raise self._broken(error) from error

    def _read(self, query: str, values: tuple[object, ...]) -> list[sqlite3.Row]:
        with closing(self._open()) as db:
            db.row_factory = sqlite3.Row
            try:
                return db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._broken(error) from error

    def begin(self, plan: Plan) -> None:
        """A run is born."""
        self._write(
            "INSERT INTO runs (run, cluster, began, state, plan, pid) VALUES (?, ?, ?, ?, ?, ?)",
            (plan.run, plan.cluster, _now(), RunState.RUNNING.value, encode(Plan, plan), os.getpid()),
        )

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said."""
        text = encode(tuple[GuardVerdict, ...], verdicts)
        self._write("INSERT INTO guards (run, verdicts) VALUES (?, ?)", (run, text))

    def event(self, run: str, event: Event) -> None:
        """One line of the timeline."""
        self._write("INSERT INTO events (run, event) VALUES (?, ?)", (run, encode(Event, event)))

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over."""
        text = None if verdict is None else encode(RunVerdict, verdict)
        self._write(
            "UPDATE runs SET state = ?, ended = ?, verdict = ?, message = ? WHERE run = ?",
            (state.value, _now(), text, message, run),
        )

    def runs(self, cluster: str | None = None, *, most: int = 100) -> tuple[RunRecord, ...]:
        """The newest runs first."""
        if not self._path.exists():
            return ()
        where, values = ("WHERE cluster = ?", (cluster, most)) if cluster else ("", (most,))
        rows = self._read(f"SELECT * FROM runs {where} ORDER BY began DESC, run DESC LIMIT ?", values)
        return tuple(self._record(row) for row in rows)

    def run(self, name: str) -> RunRecord:
        """One run by its name, or by an unambiguous beginning of it. UsageError: none, or several."""
        found = [r for r in self.runs(most=10_000) if r.run.startswith(name)]
        exact = [r for r in found if r.run == name]
        if not found:
            raise UsageError(f"there is no run {name!r}: `reaper runs` lists them")
        if len(found) > 1 and not exact:
            raise UsageError(f"{name!r} begins {len(found)} runs: {', '.join(r.run for r in found[:5])}")
        return (exact or found)[0]

    def timeline(self, run: str) -> tuple[Event, ...]:
        """A run's events, in the order in which they happened."""
        rows = self._read("SELECT event FROM events WHERE run = ? ORDER BY id", (run,))
        events: list[Event] = [_codec(Event).validate_json(text) for (text,) in rows]
        return tuple(events)

    def verdicts(self, run: str) -> tuple[tuple[GuardVerdict, ...], ...]:
        """What the guards said, each time they were asked."""
        rows = self._read("SELECT verdicts FROM guards WHERE run = ? ORDER BY id", (run,))
        return tuple(_codec(tuple[GuardVerdict, ...]).validate_json(text) for (text,) in rows)

    def _record(self, row: sqlite3.Row) -> RunRecord:
        state = RunState(row["state"])
        return RunRecord(
            run=row["run"],
            cluster=row["cluster"],
            began=datetime.fromisoformat(row["began"]),
            ended=datetime.fromisoformat(row["ended"]) if row["ended"] else None,
            state=state,
            message=row["message"],
            plan=_codec(Plan).validate_json(row["plan"]),
            verdict=_codec(RunVerdict).validate_json(row["verdict"]) if row["verdict"] else None,
            interrupted=state is RunState.RUNNING and self.holder(row["cluster"]) != _process(row["pid"]),
        )

    # ---- exclusion

    @contextmanager
    def exclusive(self, cluster: str) -> Iterator[None]:
        """One run at a time per cluster (I7); given back by the kernel if the process dies."""
        path = self._lock_path(cluster)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _taken(cluster, _named_in(lock)) from None
            lock.truncate(0)
            lock.write(_process(os.getpid()))
            lock.flush()
            yield

    def refuse_taken(self, cluster: str) -> None:
        """RefusedError if somebody works on the cluster now: what is seen of it meanwhile is not its own state."""
        holder = self.holder(cluster)
        if holder is not None:
            raise _taken(cluster, holder)

    def holder(self, cluster: str) -> str | None:
        """Who works on the cluster now, in words; None: nobody."""
        path = self._lock_path(cluster)
        if not path.exists():
            return None
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _named_in(lock)
            return None

    def adopt(self, run: str) -> None:
        """This process goes on with a run whose own has died."""
        self._write("UPDATE runs SET pid = ? WHERE run = ?", (os.getpid(), run))

    def _lock_path(self, cluster: str) -> Path:
        return self._home / "locks" / f"{cluster}.lock"


def _process(pid: int) -> str:
    return f"process {pid}"


def _named_in(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read().strip() or "another process"


def _taken(cluster: str, holder: str) -> RefusedError:
    return RefusedError(f"{cluster} is being worked on by {holder}: wait until it has ended")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
