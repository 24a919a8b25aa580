"""Which process lives: on SQLite it holds a lock on a file of its own, on Postgres a session's advisory lock.

An executor id is never used twice, so who is not alive is dead for ever: its runs may be claimed. The
operating system or the database takes the lock away with the process, the link or the session. On Postgres
a process that is stopped (SIGSTOP, a hung virtual machine) keeps its session, so it also has to be heard:
the others end its session after MUTE. Who finds its session gone exits at once, without another word to
the store: somebody may already be doing its work. On SQLite a stopped process keeps its runs.
"""

import fcntl
import logging
import os
import re
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from reaper.adapters.store.database import KEEPALIVES, SPACE, Database, Transaction, now
from reaper.domain.errors import TryAgainError

if TYPE_CHECKING:
    import psycopg

_log = logging.getLogger("reaper.store")

HEARTBEAT = timedelta(seconds=0.5)
MUTE = timedelta(seconds=4)  # eight heartbeats; a stopped worker's runs go on elsewhere within 5 s (measured)
EXIT_LEASE_LOST = 75  # EX_TEMPFAIL: a supervisor starts the worker again

_HELD = (
    " from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory' and granted"
    " and database = (select oid from pg_database where datname = current_database())"
)
_END_THE_MUTE = (
    f"select pg_terminate_backend(pid) {_HELD} and classid = %s and pid <> pg_backend_pid()"
    " and state_change < now() - make_interval(secs => %s)"
)


def exit_at_once() -> None:
    """What a process does whose lease is lost. No clean-up: it would touch what is another's."""
    os._exit(EXIT_LEASE_LOST)


class _Hold(Protocol):
    """The lock itself."""

    def release(self) -> None:
        """Give the lock back."""


class Lease:
    """The life of one executor, from `take_lease` to `release`."""

    def __init__(self, database: Database, executor: str, hold: _Hold) -> None:
        self.executor = executor
        self._database = database
        self._hold = hold

    def release(self) -> None:
        """Last of all: others may take over from here."""
        try:
            with self._database.write() as tx:
                _forget(tx, self.executor)
        except TryAgainError as error:
            _log.warning("the worker's row stays until somebody sweeps it: %s", error)
        self._hold.release()


def take_lease(database: Database, name: str, version: str, lost: Callable[[], None] = exit_at_once) -> Lease:
    """A new executor id that begins with `name`, alive from now on; `lost` is called as soon as it is not.

    TryAgainError if Postgres does not answer.
    """
    while True:
        executor = f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{uuid.uuid4().hex[:8]}"
        hold = _hold_session(database.postgres, executor, lost) if database.postgres else _hold_file(database, executor)
        if hold is not None:  # None: the id's number is another's by chance
            break
    with database.write() as tx:
        tx.do(
            "insert into reaper_workers (executor, version, began) values (:executor, :version, :now)",
            executor=executor,
            version=version,
            now=now(),
        )
    return Lease(database, executor, hold)


def living(database: Database, executors: Iterable[str]) -> frozenset[str]:
    """Those of the executors that are alive at this moment."""
    asked = frozenset(executors)
    if not asked:
        return asked
    if not database.postgres:
        return frozenset(executor for executor in asked if _is_locked(_lock_file(database, executor)))
    with database.read() as tx:
        held = {row.number for row in tx.rows(f"select objid::bigint as number {_HELD} and classid = {SPACE}")}
    return frozenset(executor for executor in asked if _number(executor) in held)


def sweep(database: Database) -> None:
    """Remove what the dead have left: locks of short jobs at once, their rows and files once no run is theirs."""
    with database.read() as tx:
        known = frozenset(row.executor for row in tx.rows("select executor from reaper_workers"))
    for executor in sorted(known - living(database, known)):
        with database.write() as tx:
            tx.do("delete from reaper_clusters where executor = :executor", executor=executor)
            if _forget(tx, executor):
                known -= {executor}
    if database.workers is not None:
        for path in database.workers.glob("*.lock"):
            if path.stem not in known and not _is_locked(path):
                path.unlink(missing_ok=True)


def _forget(tx: Transaction, executor: str) -> bool:
    gone = tx.do(
        "delete from reaper_workers where executor = :executor"
        " and not exists (select 1 from reaper_runs where executor = :executor and ended is null)",
        executor=executor,
    )
    return bool(gone)


# ---- SQLite: a file per process


class _FileHold:
    """A living process cannot lose it."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path = path
        self._file = file

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()


def _lock_file(database: Database, executor: str) -> Path:
    assert database.workers is not None, "asked on SQLite only"
    return database.workers / f"{executor}.lock"


def _hold_file(database: Database, executor: str) -> _Hold:
    path = _lock_file(database, executor)
    path.parent.mkdir(parents=True, exist_ok=True)
    unborn = path.with_suffix(".new")
    file = unborn.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    unborn.rename(path)  # under its name it is never seen without its lock
    return _FileHold(path, file)


def _is_locked(path: Path) -> bool:
    try:
        file = path.open("r")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


# ---- Postgres: a session per process


class _SessionHold:
    def __init__(self, session: "psycopg.Connection", executor: str, lost: Callable[[], None]) -> None:
        self._session = session
        self._executor = executor
        self._closing = threading.Event()
        # A thread of its own, with nothing else to do: a slow store elsewhere must not stop the heart.
        threading.Thread(target=self._beat, args=(lost,), daemon=True, name="reaper-heartbeat").start()

    def _beat(self, lost: Callable[[], None]) -> None:
        import psycopg

        while not self._closing.wait(HEARTBEAT.total_seconds()):
            try:
                self._session.execute(_END_THE_MUTE, (SPACE, MUTE.total_seconds()))
            except psycopg.errors.QueryCanceled:
                continue  # Postgres is slow; the session, and the lock with it, lives
            except psycopg.Error as error:
                if not self._closing.is_set():
                    lost()  # before anything is said: a log may fail
                    _log.error("the session of worker %s is lost (%s): its runs go on elsewhere", self._executor, error)
                return

    def release(self) -> None:
        self._closing.set()
        self._session.close()


def _hold_session(address: str, executor: str, lost: Callable[[], None]) -> _Hold | None:
    import psycopg  # not needed, and not loaded, where the store is a file

    options = (
        "-c tcp_keepalives_idle=1 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3"
        " -c tcp_user_timeout=3000 -c statement_timeout=3000"
    )
    number = _number(executor)
    signed = number - (1 << 32) if number >= 1 << 31 else number
    try:
        session = psycopg.connect(address, autocommit=True, options=options, **KEEPALIVES)  # type: ignore[arg-type]  # the keywords of libpq are not in psycopg's signature
        row = session.execute("select pg_try_advisory_lock(%s, %s)", (SPACE, signed)).fetchone()
    except psycopg.Error as error:
        raise TryAgainError(
            f"Postgres cannot be reached for the worker's lease: {error}. See to it, then try again"
        ) from error
    if row is None or not row[0]:
        session.close()
        return None
    return _SessionHold(session, executor, lost)


def _number(executor: str) -> int:
    """The executor as pg_locks shows it: 32 bits, without a sign."""
    return zlib.crc32(executor.encode())
