"""Runs, their guards and their timeline: what happened. The workflow's `Journal`, and the reader of what it wrote."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from reaper.adapters.store.codec import decode, encode
from reaper.adapters.store.database import Place, now
from reaper.adapters.store.work import OpenRun, Work
from reaper.domain.errors import UsageError
from reaper.domain.facts import InstanceId
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict

# A run that is queued, or whose process died before it was born, is a run: it is known, shown and may be aborted.
_KNOWN = """(
    select run, cluster, began, ended, state, message, plan, verdict from reaper_journal
    union all
    select run, cluster, asked, null, 'running', '', argument, null from reaper_runs
    where ended is null and not exists (select 1 from reaper_journal where reaper_journal.run = reaper_runs.run)
) as known"""


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
    follower: OpenRun | None  # who follows it and what it waits for; None: it has ended

    @property
    def queued(self) -> bool:
        """Asked for, and not begun."""
        return self.follower is not None and self.follower.admitted is None

    @property
    def interrupted(self) -> bool:
        """Recorded as running, but no living process follows it."""
        return self.state is RunState.RUNNING and not self.queued and not (self.follower and self.follower.alive)


class RunStore:
    """The journal in the store. What is said twice does no harm: a run that goes on elsewhere may repeat itself."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def begin(self, plan: Plan) -> None:
        """A run is born; nothing if it was born already."""
        with self._place.database.write() as tx:
            tx.do(
                "insert into reaper_journal (run, cluster, began, state, plan)"
                " values (:run, :cluster, :began, :state, :plan) on conflict (run) do nothing",
                run=plan.run,
                cluster=plan.cluster,
                began=now(),
                state=RunState.RUNNING.value,
                plan=encode(Plan, plan),
            )

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said."""
        with self._place.database.write() as tx:
            tx.do(
                f"insert into reaper_verdicts (run, place, verdicts) values (:run, {_next('reaper_verdicts')}, :text)",
                run=run,
                text=encode(tuple[GuardVerdict, ...], verdicts),
            )

    def event(self, run: str, event: Event) -> None:
        """One line of the timeline."""
        with self._place.database.write() as tx:
            tx.do(
                f"insert into reaper_events (run, place, event) values (:run, {_next('reaper_events')}, :text)",
                run=run,
                text=encode(Event, event),
            )

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over; the last word counts."""
        with self._place.database.write() as tx:
            tx.do(
                "update reaper_journal set state = :state, ended = :ended, verdict = :verdict, message = :message"
                " where run = :run",
                state=state.value,
                ended=now(),
                verdict=None if verdict is None else encode(RunVerdict, verdict),
                message=message,
                run=run,
            )

    def runs(self, cluster: str | None = None, *, most: int = 100) -> tuple[RunRecord, ...]:
        """The newest runs first."""
        if not self._place.exists():
            return ()
        with self._place.database.read() as tx:
            rows = tx.rows(
                f"select * from {_KNOWN} where cast(:cluster as text) is null or cluster = :cluster"
                " order by began desc, run desc limit :most",
                cluster=cluster,
                most=most,
            )
        return self._records(rows)

    def victims(self) -> tuple[InstanceId, ...]:
        """Of all runs that have not ended, queued ones included; one that this version cannot read is left out."""
        if not self._place.exists():
            return ()
        with self._place.database.read() as tx:
            rows = tx.rows("select argument from reaper_runs where ended is null order by place")
        found = []
        for row in rows:
            try:
                found.append(decode(Plan, row.argument).victim)
            except ValidationError:
                continue
        return tuple(found)

    def run(self, name: str) -> RunRecord:
        """One run by its name, or by an unambiguous beginning of it. UsageError: none, or several."""
        rows = []
        if self._place.exists():
            with self._place.database.read() as tx:
                rows = list(
                    tx.rows(
                        f"select * from {_KNOWN} where run = :name or substr(run, 1, :length) = :name"
                        " order by run = :name desc, run limit 6",
                        name=name,
                        length=len(name),
                    )
                )
        exact = [row for row in rows if row.run == name]
        if not rows:
            raise UsageError(f"there is no run {name!r}: `reaper runs` lists them")
        if len(rows) > 1 and not exact:
            raise UsageError(f"{name!r} begins {len(rows)} runs: {', '.join(row.run for row in rows[:5])}")
        return self._records((exact or rows)[:1])[0]

    def timeline(self, run: str) -> tuple[Event, ...]:
        """A run's events, in the order in which they happened."""
        with self._place.database.read() as tx:
            rows = tx.rows("select event from reaper_events where run = :run order by place", run=run)
        return tuple(decode(Event, row.event) for row in rows)

    def verdicts(self, run: str) -> tuple[tuple[GuardVerdict, ...], ...]:
        """What the guards said, each time they were asked."""
        with self._place.database.read() as tx:
            rows = tx.rows("select verdicts from reaper_verdicts where run = :run order by place", run=run)
        return tuple(decode(tuple[GuardVerdict, ...], row.verdicts) for row in rows)

    def _records(self, rows: Any) -> tuple[RunRecord, ...]:
        followers = {r.run: r for r in Work(self._place.database).open_runs()} if rows else {}
        return tuple(_record(row, followers.get(row.run)) for row in rows)


def _next(table: str) -> str:
    return f"(select coalesce(max(place), 0) + 1 from {table} where run = :run)"


def _record(row: sa.Row[Any], follower: OpenRun | None) -> RunRecord:
    try:
        plan = decode(Plan, row.plan)
        verdict = decode(RunVerdict, row.verdict) if row.verdict else None
    except ValidationError as error:
        raise UsageError(
            f"the record of {row.run} was written by another version of reaper and cannot be read by this one:"
            f" {error.error_count()} fields differ. Look at it, and end it if it is open, with that version"
        ) from error
    return RunRecord(
        run=row.run,
        cluster=row.cluster,
        began=datetime.fromisoformat(row.began),
        ended=datetime.fromisoformat(row.ended) if row.ended else None,
        state=RunState(row.state),
        message=row.message,
        plan=plan,
        verdict=verdict,
        follower=follower,
    )
