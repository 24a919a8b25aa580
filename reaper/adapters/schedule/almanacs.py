"""Look up what a calendar needs: public holidays by country, and the freezes in iCalendar files.

The libraries for both are imported when a calendar needs them: together they are 8 MB.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from reaper.domain.almanac import Almanac, Calendar, Freeze, HolidayRegion
from reaper.domain.errors import UsageError
from reaper.planner.walltime import last_moment_of, moment_of

if TYPE_CHECKING:
    import icalendar

Almanacs = Callable[[datetime], Almanac]

LARGEST_FILE_BYTES = 1024 * 1024
MOST_EVENTS = 2000
# Freezes that begin this long after the moment are seen; a freeze that is repeated is expanded no further.
_AHEAD, _BEHIND = timedelta(days=400), timedelta(days=40)
# A rule that fires within the day is no freeze and would be expanded into millions of events.
_TOO_FINE = ("BYHOUR", "BYMINUTE", "BYSECOND")
# What the libraries raise for text that is no calendar, or that contradicts itself.
_UNREADABLE = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)
_TOO_OFTEN = ("SECONDLY", "MINUTELY", "HOURLY")


def almanacs_of(calendar: Calendar) -> Almanacs:
    """A look-up for one calendar. Files are read again when they change; one that cannot be read closes (I10)."""

    def look_up(at: datetime) -> Almanac:
        zone = ZoneInfo(calendar.zone)
        year = at.astimezone(zone).year
        days = [d for region in calendar.holidays for d in _holidays(region, year)]
        try:
            freezes = [f for file in calendar.freeze_files for f in freezes_in(Path(file), calendar.zone, at)]
        except UsageError as error:
            return Almanac(holidays=tuple(days), unknown=str(error))
        return Almanac(holidays=tuple(days), freezes=tuple(freezes))

    return look_up


@lru_cache(maxsize=256)
def _holidays(region: HolidayRegion, year: int) -> tuple[tuple[date, str], ...]:
    """The public holidays of a year and of the next one, so that a moment late in December sees January's."""
    from reaper.adapters.nations import holidays_of

    try:
        return holidays_of(region.country, region.subdivision, [year, year + 1])
    except NotImplementedError:
        raise UsageError(f"the holidays of {region} are not known: name an ISO country and its subdivision") from None


def freezes_in(file: Path, zone: str, at: datetime) -> tuple[Freeze, ...]:
    """The freezes in an iCalendar file around a moment: its events, the repeated ones expanded, in order.

    Times without a zone are read on the calendar's clocks. A cancelled event is none. UsageError: the file cannot
    be read, is too large, or repeats an event within the day.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UsageError(f"the freezes in {file} cannot be read: {error.strerror}") from error
    if status.st_size > LARGEST_FILE_BYTES:
        raise UsageError(f"the freezes in {file} are not read: it has more than {LARGEST_FILE_BYTES // 1024} KiB")
    day = at.astimezone(UTC).date()
    return _expand(file, zone, day, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=64)
def _expand(file: Path, zone: str, day: date, version: tuple[int, int]) -> tuple[Freeze, ...]:  # noqa: ARG001 - a key
    import recurring_ical_events  # type: ignore[import-untyped]  # ships no types

    events = _parse(file)
    start = datetime.combine(day, time(), UTC)
    try:
        found = recurring_ical_events.of(events).between(start - _BEHIND, start + _AHEAD)
    except _UNREADABLE as error:
        raise UsageError(f"the repeated events of {file} cannot be expanded: {error}") from error
    clocks = ZoneInfo(zone)
    return tuple(sorted(filter(None, (_freeze(e, clocks) for e in found)), key=lambda f: (f.begins, f.ends, f.reason)))


def _parse(file: Path) -> "icalendar.Component":
    import icalendar

    try:
        found = icalendar.Calendar.from_ical(file.read_bytes())
    except OSError as error:
        raise UsageError(f"the freezes in {file} cannot be read: {error.strerror}") from error
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:  # what its parser raises for text that is no calendar
        raise UsageError(f"{file} is no iCalendar file: {error}. It begins with BEGIN:VCALENDAR") from error
    if isinstance(found, list):
        raise UsageError(f"{file} holds {len(found)} calendars, one is expected")
    events = found.walk("VEVENT")
    if len(events) > MOST_EVENTS:
        raise UsageError(f"{file} has {len(events)} events, more than {MOST_EVENTS}: keep only freezes in it")
    for event in events:
        _refuse_what_is_no_freeze(event, file)
    return found


def _refuse_what_is_no_freeze(event: "icalendar.Component", file: Path) -> None:
    name = str(event.get("SUMMARY", "an event without a summary"))
    if "DTSTART" not in event:
        raise UsageError(f"{file}: {name} has no beginning (DTSTART)")
    if isinstance(event.decoded("DTSTART"), datetime) and "DTEND" not in event and "DURATION" not in event:
        raise UsageError(f"{file}: {name} has no end (DTEND or DURATION)")
    rules: Any = event.get("RRULE", [])
    for rule in rules if isinstance(rules, list) else [rules]:
        often = [str(f).upper() for f in rule.get("FREQ", [])]
        if any(f in _TOO_OFTEN for f in often) or any(key in rule for key in _TOO_FINE):
            raise UsageError(f"{file}: {name} is repeated within the day, which no freeze is")


def _freeze(event: "icalendar.Component", zone: ZoneInfo) -> Freeze | None:
    if str(event.get("STATUS", "")).upper() == "CANCELLED":
        return None
    begins, ends = event.decoded("DTSTART"), event.decoded("DTEND")
    reason = str(event.get("SUMMARY", "")) or "no reason given"
    return Freeze(begins=_moment(begins, zone, moment_of), ends=_moment(ends, zone, last_moment_of), reason=reason)


def _moment(value: date | datetime, zone: ZoneInfo, of: Callable[[datetime, ZoneInfo], datetime]) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else of(value, zone)
    return of(datetime.combine(value, time()), zone)


def faults_of_files(calendar: Calendar, at: datetime) -> tuple[tuple[int, str], ...]:
    """What is wrong with the files of a calendar: which one, counted from 0, and what."""
    faults: list[tuple[int, str]] = []
    for number, file in enumerate(calendar.freeze_files):
        try:
            freezes_in(Path(file), calendar.zone, at)
        except UsageError as error:
            faults.append((number, str(error)))
    return tuple(faults)
