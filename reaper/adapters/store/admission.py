"""Who may begin, who may go on, and the end: the statements that keep a run, its cluster and its owner together.

Each function is used inside one `Database.write()`, which has one holder at a time over all processes.
"""

import json
import math
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from reaper.adapters.store.database import Transaction, now
from reaper.domain.errors import CallAPersonError, ReaperError, RefusedError
from reaper.workflow.steps import Json


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A run that is asked for."""

    run: str
    cluster: str
    group: str | None  # the shard group, for `Limits.per_group`
    argument: Json  # what the body gets: the plan


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many runs may be in flight at once; None: any number."""

    in_flight: int | None = None
    per_group: int | None = None
    percent: float | None = None  # of `of_clusters`; at least one may run, or nothing ever could
    of_clusters: int | None = None

    def allowed(self) -> int | None:
        """How many over all."""
        if self.percent is None or self.of_clusters is None:
            return self.in_flight
        share = max(1, math.floor(self.of_clusters * self.percent / 100))
        return share if self.in_flight is None else min(share, self.in_flight)


@dataclass(frozen=True, kw_only=True)
class Pause:
    """The lever is pulled: nothing new begins."""

    reason: str
    who: str
    since: str  # ISO 8601, UTC


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is going on, as far as it may stand in the way of a ticket."""

    pause: Pause | None
    busy: dict[str, str]  # cluster -> who works on it
    in_flight: int
    per_group: Counter[str]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A run that has become this executor's."""

    run: str
    token: str
    status: str | None  # what dbos says of it; None: it was admitted and never begun


def standing(tx: Transaction) -> Standing:
    """Read it."""
    flying = tx.rows("select in_group from reaper_runs where admitted is not null and ended is null")
    return Standing(
        pause=read_pause(tx),
        busy={row.cluster: row.who for row in tx.rows("select cluster, who from reaper_clusters")},
        in_flight=len(flying),
        per_group=Counter(row.in_group for row in flying if row.in_group is not None),
    )


def in_the_way(seen: Standing, cluster: str, group: str | None, limits: Limits) -> str | None:
    """Why a run may not begin now, and what to do; None: it may."""
    allowed = limits.allowed()
    if seen.pause is not None:
        reason = f": {seen.pause.reason}" if seen.pause.reason else ""
        return f"{seen.pause.who} paused new runs at {seen.pause.since}{reason}. `reaper unpause` lets them begin"
    if cluster in seen.busy:
        return f"{seen.busy[cluster]} works on {cluster}. Wait for it: `reaper runs` shows what it waits for"
    if allowed is not None and seen.in_flight >= allowed:
        return f"{seen.in_flight} runs are in flight and {allowed} may be. Wait for one to end, or raise the limit"
    if group is not None and limits.per_group is not None and seen.per_group[group] >= limits.per_group:
        return (
            f"{seen.per_group[group]} runs of {group} are in flight and {limits.per_group} may be."
            " Wait for one to end, or raise the limit"
        )
    return None


def admissible(tx: Transaction, limits: Limits) -> list[str]:
    """The queued runs that may begin now, oldest first, taken together."""
    seen = standing(tx)
    chosen: list[str] = []
    queued = "select run, cluster, in_group from reaper_runs where admitted is null and ended is null order by place"
    for row in tx.rows(queued):
        if in_the_way(seen, row.cluster, row.in_group, limits) is not None:
            continue
        chosen.append(row.run)
        seen = Standing(
            pause=seen.pause,
            busy={**seen.busy, row.cluster: row.run},
            in_flight=seen.in_flight + 1,
            per_group=seen.per_group + Counter([row.in_group] if row.in_group is not None else []),
        )
    return chosen


def ask(tx: Transaction, ticket: Ticket) -> None:
    """Put a run at the end of the queue; nothing if it is known. RefusedError: its cluster has an unfinished run."""
    if find(tx, ticket.run) is not None:
        return
    other = tx.row("select run from reaper_runs where cluster = :cluster and ended is null", cluster=ticket.cluster)
    if other is not None:
        raise RefusedError(
            f"{ticket.cluster} has the unfinished run {other.run}: let it end, `reaper abort {other.run}` before its"
            f" kill, or `reaper resume {other.run}` if nobody runs it"
        )
    tx.do(
        "insert into reaper_runs (run, place, cluster, in_group, argument, asked) values"
        " (:run, (select coalesce(max(place), 0) + 1 from reaper_runs), :cluster, :group, :argument, :now)",
        run=ticket.run,
        cluster=ticket.cluster,
        group=ticket.group,
        argument=json.dumps(ticket.argument),
        now=now(),
    )


def admit(tx: Transaction, run: str, executor: str, version: str) -> None:
    """A run begins: it gets its cluster's one row (I7) and its executor."""
    tx.do(
        "update reaper_runs set admitted = :now, executor = :executor, version = :version where run = :run",
        run=run,
        executor=executor,
        version=version,
        now=now(),
    )
    tx.do(
        "insert into reaper_clusters (cluster, run, executor, who, since)"
        " select cluster, run, null, 'run ' || run, :now from reaper_runs where run = :run",
        run=run,
        now=now(),
    )


def claim(tx: Transaction, run: str, seen: str | None, executor: str) -> Claim | None:
    """Take a run from the executor that was seen to be dead; None: another was quicker, or it has ended."""
    won = tx.do(
        "update reaper_runs set executor = :executor, broken = null, broken_at = null, words = ''"
        " where run = :run and ended is null and admitted is not null and coalesce(executor, '') = :seen",
        run=run,
        seen=seen or "",
        executor=executor,
    )
    if not won:
        return None
    token = str(uuid.uuid4())  # what the old execution still holds is worth nothing from now on
    tx.do(
        "update workflow_status set executor_id = :executor, owner_xid = :token,"
        " recovery_attempts = recovery_attempts + 1 where workflow_uuid = :run and status = 'PENDING'",
        run=run,
        executor=executor,
        token=token,
    )
    row = tx.row("select status from workflow_status where workflow_uuid = :run", run=run)
    return Claim(run=run, token=token, status=row.status if row else None)


def owns(tx: Transaction, run: str, token: str) -> bool:
    """True if that token is the run's."""
    row = tx.row("select owner_xid from workflow_status where workflow_uuid = :run and status = 'PENDING'", run=run)
    return row is not None and row.owner_xid == token


def end(tx: Transaction, run: str, outcome: Json | ReaperError) -> None:
    """The one end of a run: its outcome, and its cluster given back. The caller has checked whose it is."""
    failed = isinstance(outcome, ReaperError)
    tx.do(
        "update reaper_runs set ended = :now, outcome = :outcome, error_class = :error_class, error = :error,"
        " words = '', broken = null, broken_at = null where run = :run and ended is null",
        run=run,
        now=now(),
        outcome=None if failed else json.dumps(outcome),
        error_class=type(outcome).__name__ if failed else None,
        error=str(outcome) if failed else None,
    )
    tx.do("delete from reaper_clusters where run = :run", run=run)
    tx.do("delete from reaper_messages where run = :run", run=run)
    tx.do("delete from reaper_waits where run = :run", run=run)


def find(tx: Transaction, run: str) -> sa.Row[Any] | None:
    """A run's row."""
    return tx.row("select * from reaper_runs where run = :run", run=run)


def read_pause(tx: Transaction) -> Pause | None:
    """The lever."""
    row = tx.row("select value from reaper_settings where name = 'pause'")
    return None if row is None else Pause(**json.loads(row.value))


def revived(error_class: str, message: str) -> ReaperError:
    """A recorded error, of its class; CallAPersonError if this version does not know that class."""
    known = {ReaperError.__name__: ReaperError}
    waiting = [ReaperError]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            known[kind.__name__] = kind
            waiting.append(kind)
    return known.get(error_class, CallAPersonError)(message)
