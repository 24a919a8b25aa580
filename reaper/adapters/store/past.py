"""What the journal tells of clusters and policies, as fast after years and with 10,000 clusters as on the first day."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from reaper.adapters.store.database import Transaction
from reaper.adapters.store.records import verdict_of
from reaper.domain.groups import GroupVerdict
from reaper.domain.verdict import RunState, RunVerdict
from reaper.planner.budgets import PastRun
from reaper.planner.selection import ClusterHistory

# Past runs of a policy are looked for among so many that it asked for last and so many that ended last, of anybody:
# it is exact for a policy that acts seldom and for one that acts often, and takes the same time after years.
WINDOW = 5_000

# An index is skipped through from name to name, because reading all of it takes a second per few million runs.
_CLUSTERS_OF_JOURNAL = """with recursive named(cluster) as (
    select min(cluster) from reaper_journal
    union all
    select (select min(cluster) from reaper_journal where cluster > named.cluster)
    from named where named.cluster is not null
)"""
_CLUSTERS_OF_POLICY = """with recursive named(cluster) as (
    select min(cluster) from reaper_asked where policy = :policy
    union all
    select (select min(cluster) from reaper_asked where policy = :policy and cluster > named.cluster)
    from named where named.cluster is not null
)"""
_LAST_ENDS = f"""{_CLUSTERS_OF_JOURNAL}
select cluster, (select max(ended) from reaper_journal where reaper_journal.cluster = named.cluster) as ended
from named where cluster is not null"""
# A policy that asked for few runs of a cluster is looked up by those, one that asked for many by the cluster's kills:
# the other way is slow after a year, for a policy that never kills, and for one that is refused each night.
# The condition on the state is that of the index reaper_journal_kills, word for word.
_LAST_KILLS = f"""{_CLUSTERS_OF_POLICY}
select cluster, case when 20 > (
    select count(*) from (
        select 1 as one from reaper_asked where policy = :policy and reaper_asked.cluster = named.cluster limit 20
    ) as few
) then (
    select max(ended) from reaper_asked cross join reaper_journal where reaper_journal.run = reaper_asked.run
    and policy = :policy and reaper_asked.cluster = named.cluster and state in ('good', 'bad', 'stuck')
) else (
    select ended from reaper_journal where reaper_journal.cluster = named.cluster
    and state in ('good', 'bad', 'stuck')
    and exists (select 1 from reaper_asked where reaper_asked.run = reaper_journal.run and policy = :policy)
    order by ended desc limit 1
) end as ended
from named where cluster is not null"""
# A run that is in the journal only, where it has not ended, is not known to have: it counts as unfinished.
_UNFINISHED = """select cluster, run, asked as since from reaper_runs where ended is null
union all
select cluster, run, began from reaper_journal where state = 'running'
and not exists (select 1 from reaper_runs where reaper_runs.run = reaper_journal.run)
order by since, run"""
# A run that ended without a word in the journal may have killed.
_WORDLESS = """select j.cluster, r.ended, (select policy from reaper_asked where reaper_asked.run = j.run) as policy
from reaper_journal j cross join reaper_runs r where j.state = 'running' and r.run = j.run and r.ended is not null"""

_PAST = """select j.run, j.cluster, j.began, j.state, j.message, j.verdict, {ended} as ended,
(select policy from reaper_asked where reaper_asked.run = j.run) as policy
from {source} where {conditions} order by {ended} desc, j.run desc limit :most"""
_OVER = "reaper_journal j cross join reaper_runs r"  # cross join: SQLite takes the first one first
_RECENT = """(
    select run from (select run from reaper_asked where policy = :policy order by asked desc limit :window) as those
    union
    select run from (select run from reaper_journal where ended > '' order by ended desc limit :window) as those
) as recent cross join reaper_journal j"""


def histories(tx: Transaction, policy: str) -> dict[str, ClusterHistory]:
    """What selection has to know of every cluster that ever had a run; four statements."""
    ends = {row.cluster: row.ended for row in tx.rows(_LAST_ENDS)}
    kills = {row.cluster: row.ended for row in tx.rows(_LAST_KILLS, policy=policy)}
    for row in tx.rows(_WORDLESS):
        ends[row.cluster] = max(ends.get(row.cluster) or "", row.ended)
        if row.policy == policy:
            kills[row.cluster] = max(kills.get(row.cluster) or "", row.ended)
    unfinished: dict[str, str] = {}
    for row in tx.rows(_UNFINISHED):
        unfinished.setdefault(row.cluster, row.run)
    return {
        cluster: ClusterHistory(
            last_kill=moment_of(kills.get(cluster)),
            last_run_ended=moment_of(ends.get(cluster)),
            unfinished_run=unfinished.get(cluster),
        )
        for cluster in ends.keys() | unfinished.keys()
    }


def past_runs(
    tx: Transaction, *, policy: str | None, since: datetime | None, cluster: str | None, most: int
) -> tuple[PastRun, ...]:
    """The runs that ended after a moment, the newest first; two statements."""
    conditions: list[str] = []
    values: dict[str, object] = {"since": text_of(since) if since else "", "most": most}
    if cluster is not None:
        conditions.append("j.cluster = :cluster")
        values["cluster"] = cluster
    if policy is not None:
        conditions.append(
            "exists (select 1 from reaper_asked where reaper_asked.run = j.run and reaper_asked.policy = :policy)"
        )
        values["policy"] = policy
    unjudged = _past(tx, _OVER, "r.ended", [*conditions, "j.state = 'running'", "r.run = j.run"], values)
    source = "reaper_journal j"
    if policy is not None and cluster is None:
        source = _RECENT
        conditions.append("j.run = recent.run")
        values["window"] = max(WINDOW, most)
    ended = _past(tx, source, "j.ended", conditions, values)
    runs = [_past_run(row) for row in (*ended, *unjudged)]
    return tuple(sorted(runs, key=lambda run: (run.ended, run.run), reverse=True)[:most])


def _past(
    tx: Transaction, source: str, ended: str, conditions: list[str], values: dict[str, object]
) -> list[sa.Row[Any]]:
    where = " and ".join((f"{ended} > :since", *conditions))
    return list(tx.rows(_PAST.format(source=source, ended=ended, conditions=where), **values))


def _past_run(row: sa.Row[Any]) -> PastRun:
    found, message = None, row.message
    if row.verdict:
        try:
            found = verdict_of(row.verdict)
        except ValidationError:
            message = "its verdict was written by another version of reaper, which this one cannot read"
    verdict = found if isinstance(found, RunVerdict) else None
    lost = 0 if isinstance(found, GroupVerdict) else None  # members of a group hold no writes
    return PastRun(
        run=row.run,
        cluster=row.cluster,
        state=RunState(row.state),
        outage=verdict.outage if verdict else None,
        lost=len(verdict.ledger.lost) if verdict and verdict.ledger else lost,
        time_to_normal=verdict.recovery.time_to_normal if verdict and verdict.recovery else None,
        ended=datetime.fromisoformat(row.ended),
        message=message or ("; ".join(found.faults) if found else ""),
        began=datetime.fromisoformat(row.began),
        policy=row.policy,
    )


def text_of(moment: datetime) -> str:
    """As `database.now` says it, so that texts compare as moments do."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def moment_of(text: str | None) -> datetime | None:
    """What `text_of` made."""
    return None if text is None else datetime.fromisoformat(text)
