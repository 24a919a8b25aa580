"""What standing policies remember over restarts and share between daemons: firings, the runs they asked for, the leash.

Who only reads makes no file. Moments are kept in UTC to the millisecond.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from reaper.adapters.store.database import Place
from reaper.adapters.store.database import now as wall
from reaper.adapters.store.past import histories, moment_of, past_runs, text_of
from reaper.domain.errors import UsageError
from reaper.planner.budgets import PastRun
from reaper.planner.selection import ClusterHistory


@dataclass(frozen=True, kw_only=True)
class Firing:
    """An opportunity of a policy that some process acted on."""

    policy: str
    fire: datetime
    decided: datetime
    seed: int
    summary: str  # JSON: what was selected and what came of it, as the one who decided said it


@dataclass(frozen=True, kw_only=True)
class LeashRecord:
    """A leash that budgets put on a policy. Its file's own leash is another one."""

    policy: str
    at: datetime
    why: tuple[str, ...]
    run: str | None  # whose end it was put on at
    released: datetime | None  # None: it is on
    who: str | None  # released it
    reason: str | None


class PolicyStore:
    """The memory of standing policies, beside the journal of their runs."""

    def __init__(self, place: Place) -> None:
        self._place = place

    # ---- firings

    def decided(self, policy: str, fire: datetime, seed: int, now: datetime, summary: str) -> bool:
        """Take a firing: True for the first process that asks, False for all others, which then do nothing."""
        with self._place.database.write() as tx:
            return bool(
                tx.do(
                    "insert into reaper_firings (policy, fire, decided, seed, summary)"
                    " values (:policy, :fire, :decided, :seed, :summary) on conflict (policy, fire) do nothing",
                    policy=policy,
                    fire=text_of(fire),
                    decided=text_of(now),
                    seed=str(seed),  # has no largest value
                    summary=summary,
                )
            )

    def last_fire(self, policy: str) -> datetime | None:
        """The last firing that was taken; None: none ever was."""
        rows = self._read("select max(fire) as at from reaper_firings where policy = :policy", policy=policy)
        return moment_of(rows[0].at) if rows else None

    def last_fires(self) -> dict[str, datetime]:
        """The last firing of every policy that ever had one."""
        rows = self._read("select policy, max(fire) as at from reaper_firings group by policy")
        return {row.policy: datetime.fromisoformat(row.at) for row in rows}

    def firings(
        self, policy: str | None = None, *, since: datetime | None = None, most: int = 1000
    ) -> tuple[Firing, ...]:
        """The newest first."""
        condition = "" if policy is None else " and policy = :policy"
        rows = self._read(
            f"select * from reaper_firings where fire > :since{condition} order by fire desc, policy limit :most",
            since=text_of(since) if since else "",
            most=most,
            **({} if policy is None else {"policy": policy}),
        )
        return tuple(
            Firing(
                policy=row.policy,
                fire=datetime.fromisoformat(row.fire),
                decided=datetime.fromisoformat(row.decided),
                seed=int(row.seed),
                summary=row.summary,
            )
            for row in rows
        )

    def looked(self, policies: Iterable[str], at: datetime) -> None:
        """Somebody keeps an eye on the fires of these policies: what is older than this was fired or reported."""
        with self._place.database.write() as tx:
            for policy in policies:
                tx.do(
                    "insert into reaper_looks (policy, looked) values (:policy, :at) on conflict (policy)"
                    " do update set looked = excluded.looked where reaper_looks.looked < excluded.looked",
                    policy=policy,
                    at=text_of(at),
                )

    def last_look(self, policy: str) -> datetime | None:
        """When anybody last looked after a policy; None: it is new, so that it has missed nothing."""
        rows = self._read("select looked from reaper_looks where policy = :policy", policy=policy)
        return moment_of(rows[0].looked) if rows else None

    # ---- runs

    def asked(self, run: str, policy: str, cluster: str) -> None:
        """A policy asks for a run; nothing if that is known. Say it before the run is queued or begun."""
        with self._place.database.write() as tx:
            tx.do(
                "insert into reaper_asked (run, policy, cluster, asked) values (:run, :policy, :cluster, :now)"
                " on conflict (run) do nothing",
                run=run,
                policy=policy,
                cluster=cluster,
                now=wall(),
            )

    def histories(self, policy: str) -> dict[str, ClusterHistory]:
        """What selection has to know of every cluster that ever had a run; a cluster without one is left out.

        A kill is dated by the end of its run, which is a little later. A run that is stuck counts as a kill
        although it may have got stuck before it, while it was being undone.
        """
        if not self._place.exists():
            return {}
        with self._place.database.read() as tx:
            return histories(tx, policy)

    def past_runs(
        self,
        policy: str | None = None,
        since: datetime | None = None,
        *,
        cluster: str | None = None,
        most: int = 1000,
    ) -> tuple[PastRun, ...]:
        """The runs that ended after a moment, the newest first: of a policy, or of everybody.

        A run that the journal still has as running although its execution is over is one without a verdict. What
        a run of another version of reaper cost is unknown if this one cannot read its verdict.
        """
        if not self._place.exists():
            return ()
        with self._place.database.read() as tx:
            return past_runs(tx, policy=policy, since=since, cluster=cluster, most=most)

    # ---- the leash

    def leash(self, policy: str, why: tuple[str, ...], run: str | None, at: datetime) -> bool:
        """From now on the policy only decides and reports. False: it was leashed already, and that reason stays."""
        with self._place.database.write() as tx:
            return bool(
                tx.do(
                    "insert into reaper_leashes (policy, leashed, why, run) values (:policy, :at, :why, :run)"
                    " on conflict (policy) where released is null do nothing",
                    policy=policy,
                    at=text_of(at),
                    why=json.dumps(why),
                    run=run,
                )
            )

    def release(self, policy: str, who: str, reason: str, at: datetime) -> LeashRecord:
        """A person takes the leash off again; what it was is returned. UsageError: no leash, no reason, nobody."""
        if not reason.strip():
            raise UsageError(f"say why {policy} may act again: the reason is kept with the leash")
        if not who.strip():
            raise UsageError(f"say who lets {policy} act again: the name is kept with the leash")
        was = self.leashed(policy)
        if was:
            with self._place.database.write() as tx:
                released = tx.do(
                    "update reaper_leashes set released = :at, who = :who, reason = :reason"
                    " where policy = :policy and released is null",
                    policy=policy,
                    at=text_of(at),
                    who=who,
                    reason=reason,
                )
            if released:
                return was[0]
        raise UsageError(f"{policy} is not leashed by its budgets: there is nothing to release")

    def is_leashed(self, policy: str) -> bool:
        """Whether a budget has stopped it and nobody has let it go."""
        return bool(self.leashed(policy))

    def leashed(self, policy: str | None = None) -> tuple[LeashRecord, ...]:
        """The leashes that are on, by policy: of all, or of one."""
        return self._leashes("released is null", policy)

    def leashes(self, policy: str | None = None) -> tuple[LeashRecord, ...]:
        """Every leash that there was, by policy and the oldest first: who, when, why, until when."""
        return self._leashes("1 = 1", policy)

    def _leashes(self, condition: str, policy: str | None) -> tuple[LeashRecord, ...]:
        of, values = ("", {}) if policy is None else (" and policy = :policy", {"policy": policy})
        rows = self._read(f"select * from reaper_leashes where {condition}{of} order by policy, leashed", **values)
        return tuple(_leash_record(row) for row in rows)

    def released_at(self, policy: str) -> datetime | None:
        """When a person last let a policy go; None: never. Its budgets count from then on."""
        rows = self._read("select max(released) as at from reaper_leashes where policy = :policy", policy=policy)
        return moment_of(rows[0].at) if rows else None

    def _read(self, statement: str, **values: object) -> list[sa.Row[Any]]:
        """No rows if there is no store."""
        if not self._place.exists():
            return []
        with self._place.database.read() as tx:
            return list(tx.rows(statement, **values))


def _leash_record(row: sa.Row[Any]) -> LeashRecord:
    return LeashRecord(
        policy=row.policy,
        at=datetime.fromisoformat(row.leashed),
        why=tuple(json.loads(row.why)),
        run=row.run,
        released=moment_of(row.released),
        who=row.who,
        reason=row.reason,
    )
