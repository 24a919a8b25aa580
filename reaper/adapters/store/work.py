"""What anybody may ask or tell, from any process that shares the store. Needs no dbos."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from reaper.adapters.store.admission import Limits, Pause, Ticket, ask, end, find, read_pause, revived
from reaper.adapters.store.database import Database, Transaction, now
from reaper.adapters.store.lease import exit_at_once, living, sweep, take_lease
from reaper.domain.errors import AbortedError, ReaperError, RefusedError, UsageError
from reaper.workflow.steps import Json, Message, Op

__all__ = ["Ended", "Limits", "OpenRun", "Pause", "Ticket", "Work"]

_log = logging.getLogger("reaper.store")


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that has not ended."""

    run: str
    cluster: str
    group: str | None
    executor: str | None  # None: queued, or given up by its executor (`broken`)
    alive: bool  # that executor lives
    version: str | None  # the version of reaper that began it; None: queued
    waits_for: str  # in words; "" for nothing
    broken: str | None  # why its execution stopped without an end
    asked: datetime
    admitted: datetime | None
    began: datetime | None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended: with what its body returned, or with the error that it raised."""

    outcome: Json
    error: ReaperError | None

    def value(self) -> Json:
        """The outcome; the error is raised."""
        if self.error is not None:
            raise self.error
        return self.outcome


class Work:
    """The queue, the open runs, the locks of clusters and the lever."""

    def __init__(self, database: Database, lost: Callable[[], None] = exit_at_once) -> None:
        self._database = database
        self._on_lost_lease = lost

    # ---- runs

    def submit(self, ticket: Ticket) -> None:
        """Queue a run, once per name. RefusedError: its cluster has an unfinished run."""
        with self._database.write() as tx:
            ask(tx, ticket)

    def open_runs(self) -> tuple[OpenRun, ...]:
        """All that have not ended, oldest first."""
        with self._database.read() as tx:
            rows = tx.rows("select * from reaper_runs where ended is null order by place")
        alive = living(self._database, (row.executor for row in rows if row.executor))
        return tuple(_open_run(row, alive) for row in rows)

    def ended(self, run: str) -> Ended | None:
        """How a run ended; None: it has not. UsageError: no such run."""
        with self._database.read() as tx:
            row = find(tx, run)
        if row is None:
            raise UsageError(f"the store {self._database} knows no run {run}: `reaper runs` lists them")
        if row.ended is None:
            return None
        if row.error_class is not None:
            return Ended(outcome=None, error=revived(row.error_class, row.error))
        return Ended(outcome=json.loads(row.outcome), error=None)

    def send(self, run: str, message: Message) -> None:
        """Leave a message for a run that has not ended. UsageError: no such run."""
        with self._database.write() as tx:
            require_open(tx, run)
            tx.do(
                "insert into reaper_messages (id, run, body)"
                " values ((select coalesce(max(id), 0) + 1 from reaper_messages), :run, :body)",
                run=run,
                body=json.dumps(asdict(message)),
            )

    def abandon(self, cluster: str, why: str) -> str | None:
        """End the run that has a cluster and that nobody follows any more, unfinished; its name, None: there is none.

        For a cluster that is about to be removed. A run that a living process follows is left alone.
        """
        for left in self.open_runs():
            if left.cluster == cluster and not left.alive:
                with self._database.write() as tx:
                    row = find(tx, left.run)
                    if row is not None and row.ended is None and row.executor == left.executor:
                        end(tx, left.run, AbortedError(why))
                        return left.run
        return None

    def withdraw(self, run: str, why: str) -> bool:
        """End a run that waits in the queue; False: it has begun, and is told by a message. UsageError: not open."""
        with self._database.write() as tx:
            if require_open(tx, run).admitted is not None:
                return False
            end(tx, run, AbortedError(why))
        return True

    def told_to_stop(self, run: str) -> Message | None:
        """An abort that was sent to a run and not read yet."""
        with self._database.read() as tx:
            rows = tx.rows("select body from reaper_messages where run = :run and delivered is null", run=run)
        messages = [Message(**json.loads(row.body)) for row in rows]
        return next((m for m in messages if m.op == Op.ABORT), None)

    # ---- clusters

    @contextmanager
    def exclusive(self, cluster: str, who: str) -> Iterator[None]:
        """For a short job that is no run: nobody else works on the cluster meanwhile. RefusedError: somebody does.

        `who` in words, shown to those who are refused. A job that dies gives the cluster back with its process.
        """
        sweep(self._database)
        lease = take_lease(self._database, "job", "", self._on_lost_lease)
        try:
            with self._database.write() as tx:
                refuse_taken(tx, cluster)
                tx.do(
                    "insert into reaper_clusters (cluster, run, executor, who, since)"
                    " values (:cluster, null, :executor, :who, :now)",
                    cluster=cluster,
                    executor=lease.executor,
                    who=who,
                    now=now(),
                )
            try:
                yield
            finally:
                with self._database.write() as tx:
                    tx.do("delete from reaper_clusters where executor = :executor", executor=lease.executor)
        finally:
            lease.release()

    def holder(self, cluster: str) -> str | None:
        """Who works on the cluster now, in words; None: nobody."""
        sweep(self._database)
        with self._database.read() as tx:
            row = tx.row("select who from reaper_clusters where cluster = :cluster", cluster=cluster)
        return None if row is None else str(row.who)

    # ---- the lever

    def pause(self, reason: str, who: str) -> None:
        """From now on nothing new begins, and what runs holds before what cannot be undone."""
        pause = Pause(reason=reason, who=who, since=now())
        with self._database.write() as tx:
            tx.do("delete from reaper_settings where name = 'pause'")
            tx.do("insert into reaper_settings (name, value) values ('pause', :value)", value=json.dumps(asdict(pause)))
        _log.warning("%s paused new runs: %s", who, reason)

    def unpause(self, who: str) -> None:
        """Let go of the lever; nothing if it is not pulled."""
        with self._database.write() as tx:
            lifted = tx.do("delete from reaper_settings where name = 'pause'")
        if lifted:
            _log.warning("%s lifted the pause", who)

    def paused(self) -> Pause | None:
        """The lever, as every process sees it."""
        with self._database.read() as tx:
            return read_pause(tx)


def require_open(tx: Transaction, run: str) -> sa.Row[Any]:
    """The row of a run that has not ended. UsageError: there is none."""
    row = find(tx, run)
    if row is None:
        raise UsageError(f"there is no run {run}: `reaper runs` lists them")
    if row.ended is not None:
        raise UsageError(f"the run {run} ended at {row.ended}: `reaper show {run}` shows how. Nothing is left to tell")
    return row


def refuse_taken(tx: Transaction, cluster: str) -> None:
    """RefusedError if a run or a job has the cluster."""
    row = tx.row("select who, since from reaper_clusters where cluster = :cluster", cluster=cluster)
    if row is not None:
        raise RefusedError(
            f"{row.who} works on {cluster} since {row.since}. Wait for it: `reaper runs` shows what it waits for"
        )


def _open_run(row: sa.Row[Any], alive: frozenset[str]) -> OpenRun:
    return OpenRun(
        run=row.run,
        cluster=row.cluster,
        group=row.in_group,
        executor=row.executor,
        alive=row.executor in alive,
        version=row.version,
        waits_for="a worker, in the queue" if row.admitted is None else row.words,
        broken=row.broken,
        asked=datetime.fromisoformat(row.asked),
        admitted=_moment(row.admitted),
        began=_moment(row.began),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
