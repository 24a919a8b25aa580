"""The load of the coming days: how often policies fire, and how many deaths that can bring. Total functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from reaper.domain.standing import Limit, Scope, StandingPolicy, What
from reaper.planner.selection import Selection, chance_of


@dataclass(frozen=True, kw_only=True)
class Coming:
    """A policy's fires over the days that are looked at."""

    fires: tuple[datetime, ...]  # in order, UTC
    more: bool  # there are more than are listed


@dataclass(frozen=True, kw_only=True)
class DayOfPolicy:
    """One policy on one day."""

    policy: str
    fires: tuple[datetime, ...]  # on the policy's own clocks
    most: int  # deaths at the most
    expected: float  # deaths if every targeted cluster is due whenever its dice allow it
    at_once: int  # instances that may be down at one moment by its limits


@dataclass(frozen=True, kw_only=True)
class Day:
    """One day on the report's clocks, policies that do not fire left out."""

    day: date
    policies: tuple[DayOfPolicy, ...]

    @property
    def most(self) -> int:
        """Deaths at the most."""
        return sum(p.most for p in self.policies)

    @property
    def expected(self) -> float:
        """Deaths to reckon with."""
        return sum(p.expected for p in self.policies)

    @property
    def at_once(self) -> int:
        """Instances down at one moment if all policies of the day are at work together."""
        return sum(p.at_once for p in self.policies)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The coming days."""

    zone: str
    days: tuple[Day, ...]
    cut: tuple[str, ...]  # policies that fire too often to count every day: those that are not counted are left out

    @property
    def peak(self) -> Day | None:
        """The day on which most may be down at one moment; None: nobody fires."""
        return max((d for d in self.days if d.at_once), key=lambda d: (d.at_once, d.most), default=None)


def outlook(coming: Sequence[tuple[Coming, StandingPolicy, Selection]], at: datetime, days: int, zone: str) -> Outlook:
    """Sort the fires of all policies into days. The targeted clusters are taken to stay as they are now."""
    clocks = ZoneInfo(zone)
    today = at.astimezone(clocks).date()
    ends = [fires.fires[-1].astimezone(clocks).date() for fires, _, _ in coming if fires.more]
    last = min(ends, default=today + timedelta(days=days))  # a day that is not counted whole is not shown as quiet
    wanted = [today + timedelta(days=i) for i in range(days) if today + timedelta(days=i) < last]
    found: dict[date, list[DayOfPolicy]] = {day: [] for day in wanted}
    for fires, policy, selection in coming:
        of_day: dict[date, list[datetime]] = {}
        for fire in fires.fires:
            of_day.setdefault(fire.astimezone(clocks).date(), []).append(fire)
        for day, times in of_day.items():
            if day in found:
                found[day].append(_day_of(policy, selection, times))
    return Outlook(
        zone=zone,
        days=tuple(Day(day=day, policies=tuple(found[day])) for day in wanted),
        cut=tuple(policy.name for fires, policy, _ in coming if fires.more),
    )


def _day_of(policy: StandingPolicy, selection: Selection, times: list[datetime]) -> DayOfPolicy:
    local = ZoneInfo(policy.schedule.zone) if policy.schedule else ZoneInfo("UTC")
    per_fire = selection.targeted if policy.due.at_most is None else min(selection.targeted, policy.due.at_most)
    most = min(per_fire * len(times), selection.targeted * _most_per_cluster(policy, times))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    since_last = min(gaps, default=timedelta(days=1))
    expected = min(chance_of(policy, None, since_last) * selection.targeted, per_fire) * len(times)
    return DayOfPolicy(
        policy=policy.name,
        fires=tuple(t.astimezone(local) for t in times),
        most=most,
        expected=min(expected, most),
        at_once=min(_at_once(policy.limits.in_flight, selection), per_fire),
    )


def _most_per_cluster(policy: StandingPolicy, times: list[datetime]) -> int:
    """How often one cluster can be hit: not again before it has rested or its new master has aged."""
    due = policy.due
    rests = [due.min_gap, policy.cool_down]
    if due.max_age is not None and not due.stale_image and policy.replace.what is What.MASTER:
        rests.append(due.max_age)
    rest = max(rests)
    if rest <= timedelta(0):
        return len(times)
    return min(len(times), (times[-1] - times[0]) // rest + 1)


def _at_once(limits: Iterable[Limit], selection: Selection) -> int:
    """The smallest maximum in flight that can be told without knowing who dies; groups and zones only narrow it."""
    most = selection.targeted  # one of a cluster at a time
    for limit in limits:
        if limit.scope is not Scope.POLICY:
            continue
        if limit.count is not None:
            most = min(most, limit.count)
        if limit.percent is not None:
            most = min(most, max(1, int(selection.living * limit.percent / 100)))
    return most
