"""The durable engine: begins runs, follows them to their end, and takes over those whose process has died.

One per process. A run is followed by one execution at a time, each with its own owner token; it ends once,
with what its body returned or the ReaperError that it raised. Whatever else stops an execution leaves
the run open, with the reason in words, and it is tried again.
"""

import concurrent.futures
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from reaper.adapters.store import admission
from reaper.adapters.store.admission import Claim, Limits, Ticket
from reaper.adapters.store.database import Database
from reaper.adapters.store.follower import Body, Follower
from reaper.adapters.store.lease import Lease, exit_at_once, living, sweep, take_lease
from reaper.adapters.store.library import Library
from reaper.adapters.store.steps import Closed, Lost, Post
from reaper.adapters.store.work import Work, require_open
from reaper.domain.errors import (
    CallAPersonError,
    OwnershipLostError,
    ReaperError,
    RefusedError,
    TryAgainError,
    UsageError,
)
from reaper.workflow.steps import Json

_log = logging.getLogger("reaper.store")

POLL = timedelta(seconds=0.5)  # how often a worker looks for the dead and for the queue
SWEEP = timedelta(seconds=10)  # and, while no run is open, for what the dead have left
AGAIN = timedelta(seconds=60)  # a broken run is tried again by a worker after this
GRACE = timedelta(seconds=30)  # what a worker that is told to stop leaves its runs: a cutover takes seconds
CLOSING = timedelta(seconds=2)  # and after that, to leave the effect they are in

_Execution = concurrent.futures.Future[None]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A run that is ended here without replay."""

    run: str
    argument: Json
    version: str  # the version of reaper that began it
    own: Callable[[], None]  # OwnershipLostError if somebody has taken it since


class Engine(AbstractContextManager["Engine"]):
    """Use as a context. `lost` is called when the lease is lost, by default the process exits with 75."""

    def __init__(
        self, database: Database, body: Body, *, version: str, name: str, lost: Callable[[], None] = exit_at_once
    ) -> None:
        self._database = database
        self._work = Work(database)
        self._body = body
        self._version = version
        self._name = name
        self._on_lost_lease = lost
        self._lock = threading.RLock()  # a run is the store's and in `_running` at one moment, for our own threads
        self._running: dict[str, _Execution] = {}
        self._taken: set[str] = set()
        self._sweeps_at = 0.0  # on the monotonic clock
        self._library: Library
        self._lease: Lease
        self._post: Post
        self._follower: Follower

    @property
    def executor(self) -> str:
        """The id of this process, never used before or after."""
        return self._lease.executor

    def __enter__(self) -> Self:
        self._lease = take_lease(self._database, self._name, self._version, self._on_lost_lease)
        try:
            self._library = Library(
                self._database.library_url, self.executor, self._version, lambda run: self._follower.follow(run)
            )
        except BaseException:
            self._lease.release()
            raise
        self._post = Post(self._database)
        self._follower = Follower(self._database, self._library, self._post, self._body, self.executor)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._post.close()
        busy = self._wait_for_all(CLOSING)
        if busy:
            _log.warning("left in an effect, goes on elsewhere once this process is gone: %s", ", ".join(busy))
            return  # the lease ends with the process: before that, nobody may do what is being done here
        self._library.destroy()
        self._lease.release()

    # ---- one run, here and now

    def run(self, ticket: Ticket, limits: Limits) -> Json:
        """Begin it at once, follow it to its end and return its outcome, or raise its ReaperError.

        RefusedError: what is in the way. A run that has ended is not done again.
        """
        sweep(self._database)
        self._library.launch()
        with self._lock:
            with self._database.write() as tx:
                known = admission.find(tx, ticket.run)
                if known is not None and known.ended is None and known.admitted is not None:
                    raise RefusedError(
                        f"{ticket.run} has begun already, in {known.executor or 'no process now'}:"
                        f" `reaper runs` shows it, `reaper resume {ticket.run}` goes on with one that died"
                    )
                if known is None or known.ended is None:
                    reason = admission.in_the_way(admission.standing(tx), ticket.cluster, ticket.group, limits)
                    if reason is not None:
                        raise RefusedError(reason)
                    admission.ask(tx, ticket)
                    admission.admit(tx, ticket.run, self.executor, self._version)
            done = known is not None and known.ended is not None
            execution = None if done else self._begin(ticket.run, None)
        return self._outcome(ticket.run, execution)

    def resume(self, run: str) -> Json:
        """Go on with a run whose process has died or gave it up, and return its outcome or raise its ReaperError.

        UsageError: it is not open. RefusedError: its worker lives, or another version of reaper began it.
        """
        with self._lock:
            row = self._unowned(run)
            if row.version != self._version:
                raise RefusedError(
                    f"{run} was begun by reaper {row.version} and this is {self._version}, which would not do the same"
                    f" steps: run `reaper resume {run}` with {row.version}, or let this version end it without replay"
                )
            self._library.launch()
            with self._database.write() as tx:
                claim = admission.claim(tx, run, row.executor, self.executor)
            if claim is None:
                raise RefusedError(f"another worker was quicker and goes on with {run}: `reaper runs` shows it")
            execution = self._begin(run, claim)
        return self._outcome(run, execution)

    def take(self, run: str) -> Taken:
        """Make a run this process's own without going on with it, to end it by `finish`. Errors as of `resume`."""
        with self._lock:
            row = self._unowned(run)
            self._library.launch()
            with self._database.write() as tx:
                claim = admission.claim(tx, run, row.executor, self.executor)
            if claim is None:
                raise RefusedError(f"another worker was quicker and has {run}: `reaper runs` shows it")
            self._taken.add(run)
        return Taken(
            run=run, argument=json.loads(row.argument), version=row.version, own=lambda: self._own_taken(claim)
        )

    def finish(self, run: str, outcome: Json | ReaperError) -> None:
        """The end of a run that was taken. OwnershipLostError: somebody has taken it since."""
        with self._lock:
            if run not in self._taken:
                raise UsageError(f"{run} was not taken here: take it first")
            with self._database.write() as tx:
                row = require_open(tx, run)
                if row.executor != self.executor:
                    raise OwnershipLostError(f"{run} has become {row.executor}'s: nothing more is done here")
                admission.end(tx, run, outcome)
                tx.do(
                    "update workflow_status set status = 'SUCCESS', owner_xid = null"
                    " where workflow_uuid = :run and status = 'PENDING'",
                    run=run,
                )
            self._taken.discard(run)

    # ---- a worker

    def work(self, limits: Callable[[], Limits], until: threading.Event, grace: timedelta = GRACE) -> None:
        """Take over the dead workers' runs and begin queued ones, oldest first, until told to stop.

        Then runs that wait stop where they are, and the others have `grace` to reach their end.
        """
        while not until.is_set():
            try:
                self._look_after(limits)
            except TryAgainError as error:
                _log.warning("%s looks again in a moment: %s", self.executor, error)
            until.wait(POLL.total_seconds())
        self._post.drain()
        self._wait_for_all(grace)

    def _look_after(self, limits: Callable[[], Limits]) -> None:
        """One look at the store. It costs one statement as long as no run is open."""
        with self._lock:
            with self._database.read() as tx:
                rows = tx.rows(
                    "select run, executor, version, admitted, broken_at from reaper_runs where ended is null"
                    " order by place"
                )
            if rows or self._sweeps_at < time.monotonic():
                sweep(self._database)
                self._sweeps_at = time.monotonic() + SWEEP.total_seconds()
            orphans = self._orphans(row for row in rows if row.admitted is not None and row.version == self._version)
            if orphans:
                self._library.launch()
            for row in orphans:
                with self._database.write() as tx:
                    claim = admission.claim(tx, row.run, row.executor, self.executor)
                if claim is not None:
                    _log.warning("%s takes %s over from %s", self.executor, row.run, row.executor or "nobody")
                    self._begin(row.run, claim)
            if any(row.admitted is None for row in rows):
                self._begin_queued(limits())

    def _begin_queued(self, limits: Limits) -> None:
        with self._database.read() as tx:
            if not admission.admissible(tx, limits):
                return
        self._library.launch()
        with self._database.write() as tx:
            chosen = admission.admissible(tx, limits)
            for run in chosen:
                admission.admit(tx, run, self.executor, self._version)
        for run in chosen:
            self._begin(run, None)

    def _orphans(self, rows: Iterable[sa.Row[Any]]) -> list[sa.Row[Any]]:
        """Those of the admitted runs that nobody follows."""
        rows = list(rows)
        alive = living(self._database, (row.executor for row in rows if row.executor))
        before = datetime.now(UTC) - AGAIN
        orphans = []
        for row in rows:
            if row.executor is None:
                dead = row.broken_at is None or datetime.fromisoformat(row.broken_at) < before
            elif row.executor == self.executor:
                dead = row.run not in self._running and row.run not in self._taken
            else:
                dead = row.executor not in alive
            if dead:
                orphans.append(row)
        return orphans

    def _unowned(self, run: str) -> sa.Row[Any]:
        with self._database.read() as tx:
            row = require_open(tx, run)
        if row.admitted is None:
            raise RefusedError(f"{run} waits in the queue: a worker begins it, `reaper worker` is one")
        here = row.executor == self.executor and (run in self._running or run in self._taken)
        elsewhere = row.executor not in (None, self.executor) and living(self._database, [row.executor])
        if here or elsewhere:
            raise RefusedError(
                f"{row.executor} lives and goes on with {run}: there is nothing to resume. `reaper runs` shows what it"
                " waits for"
            )
        return row

    # ---- one execution

    def _begin(self, run: str, claim: Claim | None) -> _Execution | None:
        """Go on with a run that is ours in the store. None: it cannot be begun; it is broken then, not lost."""
        try:
            if claim is None or claim.status is None:
                execution = self._library.start(run)
            elif claim.status == "PENDING":
                execution = self._library.go_on(run, claim.token)
            else:
                raise ValueError(f"dbos says that it is {claim.status}, which reaper never sets")
        except Exception as error:  # noqa: BLE001 - whatever dbos raises, e.g. at a row that was edited, is shown in words
            self._follower.give_up(run, f"it cannot be begun: {type(error).__name__}: {error}")
            return None
        if execution is None:
            self._follower.give_up(run, "it cannot be begun: dbos says that it runs elsewhere")
            return None
        self._running[run] = execution
        execution.add_done_callback(lambda _: self._is_over(run, execution))
        return execution

    def _is_over(self, run: str, execution: _Execution) -> None:
        with self._lock:
            if self._running.get(run) is execution:  # by now it may be followed again
                del self._running[run]

    def _outcome(self, run: str, execution: _Execution | None) -> Json:
        """Wait for the execution and say how the run ended."""
        if execution is not None:
            concurrent.futures.wait([execution])
        ended = self._work.ended(run)
        if ended is not None:
            return ended.value()
        halt = execution.exception() if execution is not None else None
        if isinstance(halt, Lost):
            raise OwnershipLostError(f"{halt} `reaper runs` shows who has it") from halt
        if isinstance(halt, Closed):
            raise CallAPersonError(f"{run} was interrupted: `reaper resume {run}` goes on with it") from halt
        broken = next((r.broken for r in self._work.open_runs() if r.run == run), None) or str(halt)
        raise CallAPersonError(
            f"{run} is broken: {broken}. Once that is mended `reaper resume {run}` goes on with it; a worker tries it"
            " again by itself"
        ) from halt

    def _own_taken(self, claim: Claim) -> None:
        with self._database.read() as tx:
            row = admission.find(tx, claim.run)
        if row is None or row.ended is not None or row.executor != self.executor:
            raise OwnershipLostError(f"{claim.run} is another worker's now: nothing more is done here")

    def _wait_for_all(self, within: timedelta) -> list[str]:
        """The runs that are still being followed after that time."""
        running = dict(self._running)
        done = concurrent.futures.wait(running.values(), within.total_seconds()).done
        return [run for run, execution in running.items() if execution not in done]
