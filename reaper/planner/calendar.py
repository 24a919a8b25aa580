"""Judge whether a policy may act at a moment: windows of the week, holidays, freezes, maintenance.

Everything is a function of its arguments. What could not be looked up closes (I10).
"""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from zoneinfo import ZoneInfo

from reaper.domain.almanac import (
    MINUTES_A_DAY,
    Almanac,
    Calendar,
    Closed,
    Hours,
    Open,
    WeekWindow,
    WindowError,
    parse_windows,
)
from reaper.planner.walltime import moment_of, reading

# Windows begin at the latest a week before the moment and a clock change moves them by less than a day.
_LOOK_BACK, _LOOK_AHEAD = timedelta(days=9), 17
# A run of holidays longer than this is taken up again when the moment comes.
_LONGEST_HOLIDAY = 60


def judge(calendar: Calendar, almanac: Almanac, at: datetime) -> Hours:
    """Whether a policy may act at a moment, and until when that holds.

    A closed calendar does not open before `until`; it may then be closed for another reason.
    """
    zone, at = ZoneInfo(calendar.zone), at.astimezone(UTC)  # two moments of one zone compare by its clock's readings
    verdicts: list[Hours] = []
    if almanac.unknown is not None:
        verdicts.append(Closed(until=None, why=almanac.unknown))
    verdicts += _freezes(calendar, almanac, at)
    verdicts += _holidays(calendar, almanac, at, zone)
    if calendar.windows:
        verdicts.append(_week(calendar.windows, at, zone, "the policy's hours"))
    return _all_of(verdicts)


def judge_maintenance(calendar: Calendar, at: datetime, *, cluster: str, tagged: tuple[str, ...] = ()) -> Hours:
    """Whether a cluster's own maintenance windows are open: those of the policy, and those its tags state.

    `tagged`: the values of the maintenance tag on its members; where they disagree all have to be open. One that
    cannot be read closes.
    """
    zone, at = ZoneInfo(calendar.zone), at.astimezone(UTC)
    whose = f"the maintenance window of {cluster}"
    verdicts: list[Hours] = []
    own = tuple(w for m in calendar.maintenance if fnmatchcase(cluster, m.clusters) for w in m.windows)
    if own:
        verdicts.append(_week(own, at, zone, whose))
    for text in tagged:
        try:
            verdicts.append(_week(parse_windows(text), at, zone, whose))
        except WindowError as error:
            why = f"the maintenance window in the tag {calendar.maintenance_tag} cannot be read: {error}"
            verdicts.append(Closed(until=None, why=why))
    return _all_of(verdicts)


def _all_of(verdicts: list[Hours]) -> Hours:
    closed = [v for v in verdicts if isinstance(v, Closed)]
    if closed:
        known = [c.until for c in closed if c.until is not None]
        until = max(known) if len(known) == len(closed) else None
        return Closed(until=until, why="; ".join(c.why for c in closed))
    ends = [v.until for v in verdicts if v.until is not None]
    reasons = [v.why for v in verdicts if v.why]
    return Open(until=min(ends, default=None), why="; ".join(reasons) or "no rule closes this moment")


def _freezes(calendar: Calendar, almanac: Almanac, at: datetime) -> Iterable[Hours]:
    freezes = (*calendar.freezes, *almanac.freezes)
    for freeze in freezes:
        if freeze.begins <= at < freeze.ends:
            yield Closed(until=freeze.ends, why=f"frozen: {freeze.reason}")
    coming = min((f.begins for f in freezes if f.begins > at), default=None)
    if coming is not None:
        yield Open(until=coming, why="")


def _holidays(calendar: Calendar, almanac: Almanac, at: datetime, zone: ZoneInfo) -> Iterable[Hours]:
    if not almanac.holidays:
        return
    names = dict(almanac.holidays)
    today = reading(at, zone).date()
    regions = ", ".join(map(str, calendar.holidays))
    if today in names:
        day = today
        for _ in range(_LONGEST_HOLIDAY):
            if day not in names:
                break
            day += timedelta(days=1)
        until = moment_of(datetime.combine(day, time()), zone)
        yield Closed(until=until, why=f"holiday in {regions}: {names[today]}")
        return
    coming = min((day for day in names if day > today), default=None)
    if coming is not None:
        yield Open(until=moment_of(datetime.combine(coming, time()), zone), why="")


@lru_cache(maxsize=1024)  # a fleet has few different windows and asks about all of its clusters at one moment
def _week(windows: tuple[WeekWindow, ...], at: datetime, zone: ZoneInfo, whose: str) -> Hours:
    """Inside or outside windows of the week. Windows that touch or overlap are one."""
    spans = _merge(sorted(_occurrences(windows, at, zone)))
    for begins, ends in spans:
        if begins <= at < ends:
            return Open(until=ends, why=f"inside {whose}")
        if begins > at:
            opens = begins.astimezone(zone)
            return Closed(until=begins, why=f"outside {whose}, which open at {opens:%a %Y-%m-%d %H:%M} {zone.key}")
    return Closed(until=None, why=f"outside {whose}, which do not open within a week")


def _occurrences(windows: tuple[WeekWindow, ...], at: datetime, zone: ZoneInfo) -> Iterable[tuple[datetime, datetime]]:
    """Every occurrence around a moment, as moments in UTC; one that a clock change swallows is left out."""
    first = (reading(at, zone) - _LOOK_BACK).date()
    for day in (first + timedelta(days=i) for i in range(_LOOK_BACK.days + _LOOK_AHEAD)):
        for window in windows:
            weekday, minute = divmod(window.begin, MINUTES_A_DAY)
            if day.weekday() != weekday:
                continue
            wall = datetime.combine(day, time()) + timedelta(minutes=minute)
            begins = moment_of(wall, zone)
            ends = moment_of(wall + timedelta(minutes=window.length), zone)
            if begins < ends:
                yield begins, ends


def _merge(spans: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    if not spans:
        return []
    merged = [spans[0]]
    for span in spans[1:]:
        last = merged[-1]
        if span[0] <= last[1]:
            merged[-1] = (last[0], max(last[1], span[1]))
        else:
            merged.append(span)
    return merged
