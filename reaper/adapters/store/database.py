"""Where the durable engine keeps its rows: one SQLite file, or one Postgres database; the same SQL on both.

Our tables lie beside those of dbos, so that one transaction sees both: a run, its cluster's lock and
its owner token cannot disagree.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from reaper.domain.errors import TryAgainError, UsageError

# A dead link must be noticed sooner than another worker takes over (lease.py).
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 3000,
    "connect_timeout": 3,
}
SPACE = 0x5245  # advisory locks: (SPACE, an executor's number) is its life, (SPACE + 1, 0) orders our writes
FROZEN_SECONDS = 3  # a worker that is stopped inside a transaction must not keep its rows locked

FILE = "durable.db"  # in the data directory

_SCHEMA = (
    "create table if not exists reaper_journal (run text primary key, cluster text not null, began text not null,"
    " ended text, state text not null, message text not null default '', plan text not null, verdict text)",
    "create table if not exists reaper_events (run text not null, place bigint not null, event text not null,"
    " primary key (run, place))",
    "create table if not exists reaper_verdicts (run text not null, place bigint not null, verdicts text not null,"
    " primary key (run, place))",
    "create table if not exists reaper_runs (run text primary key, place bigint not null, cluster text not null,"
    " in_group text, argument text not null, asked text not null, admitted text, began text, executor text,"
    " version text, words text not null default '', broken text, broken_at text, ended text, outcome text,"
    " error_class text, error text)",
    "create index if not exists reaper_runs_open on reaper_runs (place) where ended is null",
    "create table if not exists reaper_clusters (cluster text primary key, run text, executor text,"
    " who text not null, since text not null)",
    "create table if not exists reaper_messages (id bigint primary key, run text not null, body text not null,"
    " delivered bigint)",
    "create index if not exists reaper_messages_of_run on reaper_messages (run, id)",
    "create table if not exists reaper_waits (run text not null, step bigint not null, until text not null,"
    " primary key (run, step))",
    "create table if not exists reaper_settings (name text primary key, value text not null)",
    "create table if not exists reaper_workers (executor text primary key, version text not null, began text not null)",
    # What policies remember (standing.py), and how the journal is asked for it.
    "create table if not exists reaper_firings (policy text not null, fire text not null, decided text not null,"
    " seed text not null, summary text not null, primary key (policy, fire))",
    "create index if not exists reaper_firings_by_time on reaper_firings (fire)",
    "create table if not exists reaper_looks (policy text primary key, looked text not null)",
    "create table if not exists reaper_asked (run text primary key, policy text not null, cluster text not null,"
    " asked text not null)",
    "create index if not exists reaper_asked_by_cluster on reaper_asked (policy, cluster)",
    "create index if not exists reaper_asked_by_time on reaper_asked (policy, asked)",
    "create table if not exists reaper_leashes (policy text not null, leashed text not null, why text not null,"
    " run text, released text, who text, reason text)",
    "create unique index if not exists reaper_leashes_on on reaper_leashes (policy) where released is null",
    "create index if not exists reaper_leashes_off on reaper_leashes (policy, released)",
    "create index if not exists reaper_journal_ended on reaper_journal (ended)",
    "create index if not exists reaper_journal_of_cluster on reaper_journal (cluster, ended)",
    "create index if not exists reaper_journal_kills on reaper_journal (cluster, ended, run)"
    " where state in ('good', 'bad', 'stuck')",
    "create index if not exists reaper_journal_open on reaper_journal (run) where state = 'running'",
    # What is known of snapshots (snapshots.py).
    "create table if not exists reaper_snapshots (name text primary key, cluster text not null, taken text not null,"
    " birth text not null, deleted text)",
    "create index if not exists reaper_snapshots_kept on reaper_snapshots (cluster, taken) where deleted is null",
    "create table if not exists reaper_snapshot_uses (name text not null, run text not null, since text not null,"
    " restore_us bigint, test text, primary key (name, run))",
)


def now() -> str:
    """The wall time, as it is stored."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Transaction:
    """Statements that are seen by others together or not at all."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def do(self, statement: str, **values: object) -> int:
        """The number of rows that were changed."""
        return self._connection.execute(sa.text(statement), values).rowcount

    def rows(self, statement: str, **values: object) -> Sequence[sa.Row[Any]]:
        """All rows."""
        return self._connection.execute(sa.text(statement), values).fetchall()

    def row(self, statement: str, **values: object) -> sa.Row[Any] | None:
        """The first row, if there is one."""
        return self._connection.execute(sa.text(statement), values).fetchone()


class Database:
    """`where`: a directory, for SQLite; or `postgresql://...`. Opening makes what is missing."""

    def __init__(self, where: Path | str) -> None:
        self.postgres: str | None = None  # the address, if it is one
        self.workers: Path | None = None  # where the lock files of SQLite's workers lie
        self._one_writer: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if isinstance(where, str) and where.startswith(("postgresql://", "postgres://")):
            self.postgres = "postgresql://" + where.split("://", 1)[1]
            self._name = sa.make_url(self.postgres).render_as_string(hide_password=True)
            self.library_url = self.postgres
            self._engine = _open_postgres(self.postgres)
        else:
            home = Path(where)
            path = home / FILE
            self._name = str(path)
            self.workers = home / "workers"
            self.library_url = f"sqlite:///{path}"
            self._one_writer = threading.Lock()  # threads queue here: SQLite's own waiting is by luck
            self._engine = _open_sqlite(path)
        try:
            with self.write() as tx:
                if self.postgres:
                    tx.do("create schema if not exists reaper")
                for statement in _SCHEMA:
                    tx.do(statement)
        except TryAgainError as error:
            raise UsageError(
                f"the store {self._name} cannot be opened: {_reason(error.__cause__)}. Mend it, or name another one"
            ) from error

    def __str__(self) -> str:
        return self._name

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One writer at a time, over all processes. TryAgainError if the store does not answer."""
        with self._guarded(), self._one_writer, self._engine.begin() as connection:
            if self.postgres:
                connection.execute(sa.text("select pg_advisory_xact_lock(:space, 0)"), {"space": SPACE + 1})
            yield Transaction(connection)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Look without waiting for writers. TryAgainError if the store does not answer."""
        with self._guarded(), self._engine.connect() as connection:
            yield Transaction(connection.execution_options(reaper_reads=True))

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise TryAgainError(
                f"the store {self._name} did not answer: {_reason(error)}. See to it (space, access, network),"
                " then try again"
            ) from error


def _open_postgres(address: str) -> sa.Engine:
    url = sa.make_url(address).set(drivername="postgresql+psycopg")
    options = (
        "-c search_path=reaper,dbos -c statement_timeout=10000"
        f" -c idle_in_transaction_session_timeout={FROZEN_SECONDS * 1000}"
    )
    return sa.create_engine(
        url, pool_pre_ping=True, pool_size=5, max_overflow=15, connect_args={**KEEPALIVES, "options": options}
    )


def _open_sqlite(path: Path) -> sa.Engine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # what it holds is obeyed: nobody else may write it
    except OSError as error:
        raise UsageError(
            f"the store {path} cannot be made: {error}. Make the directory writable, or name another"
        ) from error
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, pool_timeout=60)

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:  # a DBAPI connection has no type of its own
        connection.isolation_level = None  # transactions begin below, not by the driver's guess
        connection.execute("pragma journal_mode=wal")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get("reaper_reads")
        connection.exec_driver_sql("begin" if reads else "begin immediate")

    return engine


def _reason(error: BaseException | None) -> object:
    """What the driver said, without the library's advice around it."""
    return getattr(error, "orig", None) or error


class Place:
    """Where a store is. It is opened when it is first needed: who only looks makes no file."""

    def __init__(self, where: Path | str) -> None:
        self._where = where

    def exists(self) -> bool:
        """False: nothing was ever stored here."""
        return isinstance(self._where, str) or (self._where / FILE).exists()

    @cached_property
    def database(self) -> Database:
        """The store itself."""
        return Database(self._where)
