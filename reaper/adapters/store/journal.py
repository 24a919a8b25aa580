"""Runs, their guards and their timeline: what happened. The workflow's `Journal`, and the reader of what it wrote."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import ValidationError

from reaper.adapters.store.codec import decode, encode
from reaper.adapters.store.database import Place, now
from reaper.adapters.store.records import AnyPlan, AnyVerdict, plan_of, plan_text, verdict_of, verdict_text
from reaper.adapters.store.work import OpenRun, Work
from reaper.domain.errors import UsageError
from reaper.domain.facts import InstanceId
from reaper.domain.groups import GroupPlan, GroupVerdict
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict

# A run that is queued, or whose process died before it was born, is a run: it is known, shown and may be aborted.
_KNOWN = """(
    select run, cluster, began, ended, state, message, plan, verdict from reaper_journal
    union all
    select run, cluster, asked, null, 'running', '', argument, null from reaper_runs
    where ended is null and not exists (select 1 from reaper_journal where reaper_journal.run = reaper_runs.run)
) as known"""


P = TypeVar("P", Plan, GroupPlan)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is stored of a run, whatever it is about."""

    run: str
    cluster: str  # or a group, by its name among those of clusters
    began: datetime
    ended: datetime | None
    state: RunState
    message: str
    follower: OpenRun | None  # who follows it and what it waits for; None: it has ended

    @property
    def queued(self) -> bool:
        """Asked for, and not begun."""
        return self.follower is not None and self.follower.admitted is None

    @property
    def interrupted(self) -> bool:
        """Recorded as running, but no living process follows it."""
        return self.state is RunState.RUNNING and not self.queued and not (self.follower and self.follower.alive)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Recorded):
    """One run over a cluster as stored."""

    plan: Plan
    verdict: RunVerdict | None


@dataclass(frozen=True, kw_only=True)
class GroupRunRecord(Recorded):
    """One run over a group as stored."""

    plan: GroupPlan
    verdict: GroupVerdict | None


AnyRecord = RunRecord | GroupRunRecord


class RunStore:
    """The journal in the store. What is said twice does no harm: a run that goes on elsewhere may repeat itself."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def begin(self, plan: AnyPlan) -> None:
        """A run is born; nothing if it was born already."""
        with self._place.database.write() as tx:
            tx.do(
                "insert into reaper_journal (run, cluster, began, state, plan)"
                " values (:run, :cluster, :began, :state, :plan) on conflict (run) do nothing",
                run=plan.run,
                cluster=plan.cluster,
                began=now(),
                state=RunState.RUNNING.value,
                plan=plan_text(plan),
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

    def end(self, run: str, state: RunState, verdict: AnyVerdict | None, message: str) -> None:
        """A run is over; the last word counts."""
        with self._place.database.write() as tx:
            tx.do(
                "update reaper_journal set state = :state, ended = :ended, verdict = :verdict, message = :message"
                " where run = :run",
                state=state.value,
                ended=now(),
                verdict=None if verdict is None else verdict_text(verdict),
                message=message,
                run=run,
            )

    def runs(self, cluster: str | None = None, *, most: int = 100) -> tuple[AnyRecord, ...]:
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
        """Of all runs over clusters that have not ended; one that this version cannot read is left out."""
        return tuple(plan.victim for plan in self._open(Plan))

    def group_victims(self) -> tuple[InstanceId, ...]:
        """Of every run over a group that has not ended its first victim: it replaces one after the other."""
        return tuple(plan.victims[0].id for plan in self._open(GroupPlan) if plan.victims)

    def _open(self, kind: type[P]) -> tuple[P, ...]:
        """The plans of a kind whose runs have not ended, queued ones included."""
        if not self._place.exists():
            return ()
        with self._place.database.read() as tx:
            rows = tx.rows("select argument from reaper_runs where ended is null order by place")
        found: list[P] = []
        for row in rows:
            try:
                plan = plan_of(row.argument)
            except ValidationError:
                continue
            if isinstance(plan, kind):
                found.append(plan)
        return tuple(found)

    def run(self, name: str) -> RunRecord:
        """One run over a cluster. UsageError: as of `record`, or it is over a group."""
        found = self.record(name)
        if isinstance(found, GroupRunRecord):
            raise UsageError(f"{found.run} is a run over the group {found.plan.group}: this is for runs over clusters")
        return found

    def record(self, name: str) -> AnyRecord:
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

    def _records(self, rows: Any) -> tuple[AnyRecord, ...]:
        followers = {r.run: r for r in Work(self._place.database).open_runs()} if rows else {}
        return tuple(_record(row, followers.get(row.run)) for row in rows)


def _next(table: str) -> str:
    return f"(select coalesce(max(place), 0) + 1 from {table} where run = :run)"


def _record(row: sa.Row[Any], follower: OpenRun | None) -> AnyRecord:
    try:
        plan = plan_of(row.plan)
        verdict = verdict_of(row.verdict) if row.verdict else None
    except ValidationError as error:
        raise UsageError(
            f"the record of {row.run} was written by another version of reaper and cannot be read by this one:"
            f" {error.error_count()} fields differ. Look at it, and end it if it is open, with that version"
        ) from error
    facts: dict[str, Any] = {  # Any: the fields that both kinds share
        "run": row.run,
        "cluster": row.cluster,
        "began": datetime.fromisoformat(row.began),
        "ended": datetime.fromisoformat(row.ended) if row.ended else None,
        "state": RunState(row.state),
        "message": row.message,
        "follower": follower,
    }
    if isinstance(plan, GroupPlan):
        return GroupRunRecord(**facts, plan=plan, verdict=verdict if isinstance(verdict, GroupVerdict) else None)
    return RunRecord(**facts, plan=plan, verdict=verdict if isinstance(verdict, RunVerdict) else None)
