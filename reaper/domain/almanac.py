"""When a policy may act: facts about weeks, holidays and freezes. The judging is the planner's."""

import re
from dataclasses import dataclass
from datetime import date, datetime

from reaper.domain.cron import WEEKDAYS

MINUTES_A_DAY = 24 * 60
MINUTES_A_WEEK = 7 * MINUTES_A_DAY
_WINDOW = re.compile(r"(?P<first>[a-z]{3})(-(?P<last>[a-z]{3}))?(\s+(?P<hours>[0-9:]+\s*-\s*[0-9:]+))?")
_ACROSS = re.compile(r"(?P<day>[a-z]{3})\s+(?P<from>[0-9:]+)\s*-\s*(?P<last>[a-z]{3})\s+(?P<to>[0-9:]+)")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")


class WindowError(ValueError):
    """The window means nothing; the message says why and what to write."""


@dataclass(frozen=True, order=True)
class WeekWindow:
    """A stretch of every week by the clock on the wall, from `begin` up to `begin + length` minutes.

    `begin` counts from Monday 00:00. The stretch may pass midnight and the end of the week.
    """

    begin: int
    length: int

    def __str__(self) -> str:
        end = self.begin + self.length
        day, begins = divmod(self.begin, MINUTES_A_DAY)
        last, ends = divmod(end, MINUTES_A_DAY)
        if ends == 0:
            last, ends = last - 1, MINUTES_A_DAY
        if last == day:
            return f"{WEEKDAYS[day]} {_clock(begins)}-{_clock(ends)}"
        return f"{WEEKDAYS[day]} {_clock(begins)} - {WEEKDAYS[last % 7]} {_clock(ends)}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def parse_windows(text: str) -> tuple[WeekWindow, ...]:
    """Read `mon-fri 09:00-17:00`, `sat`, `mon-thu 22:00-04:00` or `fri 22:00 - mon 06:00`; commas join several.

    WindowError: it means nothing.
    """
    windows = [w for part in text.lower().split(",") for w in _parse_part(part.strip())]
    return tuple(sorted(set(windows)))


def _parse_part(text: str) -> list[WeekWindow]:
    across = _ACROSS.fullmatch(text)
    if across is not None:
        begin = _day(across["day"]) * MINUTES_A_DAY + _minutes(across["from"])
        end = _day(across["last"]) * MINUTES_A_DAY + _minutes(across["to"])
        return [WeekWindow(begin % MINUTES_A_WEEK, (end - begin) % MINUTES_A_WEEK or MINUTES_A_WEEK)]
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise WindowError(
            f"{text!r} is no window of the week: write for example 'mon-fri 09:00-17:00', 'sat' or "
            "'fri 22:00 - mon 06:00'"
        )
    first = _day(match["first"])
    last = _day(match["last"]) if match["last"] else first
    days = [(first + i) % 7 for i in range((last - first) % 7 + 1)]
    begin, length = _hours(match["hours"])
    return [WeekWindow((day * MINUTES_A_DAY + begin) % MINUTES_A_WEEK, length) for day in days]


def _hours(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, MINUTES_A_DAY
    begins, _, ends = text.partition("-")
    begin, end = _minutes(begins.strip()), _minutes(ends.strip())
    if begin == end:
        raise WindowError(f"{text!r} begins when it ends: for the whole day leave the hours out")
    return begin, (end - begin) % MINUTES_A_DAY or MINUTES_A_DAY


def _day(text: str) -> int:
    if text not in WEEKDAYS:
        raise WindowError(f"{text!r} is no day of the week: {', '.join(WEEKDAYS)}")
    return WEEKDAYS.index(text)


def _minutes(text: str) -> int:
    match = _CLOCK.fullmatch(text)
    hours, minutes = (int(match[1]), int(match[2])) if match else (99, 99)
    if minutes > 59 or hours > 24 or (hours == 24 and minutes):
        raise WindowError(f"{text!r} is no time of day: write 00:00 to 24:00")
    return hours * 60 + minutes


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """A time in which nothing is touched."""

    begins: datetime  # aware
    ends: datetime  # aware; the first moment after it
    reason: str


@dataclass(frozen=True, kw_only=True)
class HolidayRegion:
    """Whose public holidays are kept."""

    country: str  # ISO 3166-1 alpha-2
    subdivision: str | None = None

    def __str__(self) -> str:
        return f"{self.country}-{self.subdivision}" if self.subdivision else self.country


@dataclass(frozen=True, kw_only=True)
class Maintenance:
    """The only hours in which some clusters may be touched."""

    clusters: str  # a glob over names
    windows: tuple[WeekWindow, ...]


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """When a policy may act, as its file says it."""

    zone: str = "UTC"  # an IANA name; windows, holidays and dates are read on its clocks
    windows: tuple[WeekWindow, ...] = ()  # none: at any hour
    freezes: tuple[Freeze, ...] = ()
    freeze_files: tuple[str, ...] = ()  # iCalendar files whose events are freezes
    holidays: tuple[HolidayRegion, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    maintenance_tag: str | None = None  # an instance's tag whose value is its cluster's window


@dataclass(frozen=True, kw_only=True)
class Almanac:
    """What was looked up for a calendar: it covers the moments that are asked about, or `unknown` says why not."""

    holidays: tuple[tuple[date, str], ...] = ()
    freezes: tuple[Freeze, ...] = ()
    unknown: str | None = None  # a source that could not be read: everything is closed (I10)


@dataclass(frozen=True, kw_only=True)
class Open:
    """The policy may act."""

    until: datetime | None  # None: nothing that is known closes it
    why: str


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The policy may not act."""

    until: datetime | None  # not open before; it may be closed then for another reason. None: unknown
    why: str


Hours = Open | Closed
