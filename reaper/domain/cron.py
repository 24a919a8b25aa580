"""When a schedule fires, as a crontab's five fields. Wall-clock only: zones and clock changes are elsewhere."""

import re
from dataclasses import dataclass

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART = re.compile(r"(?P<first>\*|[0-9]{1,2}|[a-z]{3})(-(?P<last>[0-9]{1,2}|[a-z]{3}))?(/(?P<step>[0-9]{1,2}))?")


class CronError(ValueError):
    """The expression means nothing; the message says which field, why, and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Cron:
    """The readings of a clock at which a schedule fires."""

    text: str  # as it was written
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]  # of the month
    months: tuple[int, ...]
    weekdays: tuple[int, ...]  # 0 is Monday, as Python counts
    every_hour: bool  # the hour was written with a star: it follows elapsed time, not the clock's readings

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """Read `minute hour day month weekday`. CronError: it means nothing or names a day that never comes.

        Numbers of weekdays count as crontab(5) does: 0 and 7 are Sunday.
        """
        fields = text.lower().split()
        if len(fields) != 5:
            raise CronError(
                f"has {len(fields)} fields; write five, minute hour day month weekday, for example '0 3 * * mon-fri'"
            )
        minute, hour, day, month, weekday = fields
        cron = cls(
            text=text,
            minutes=_values(minute, _Field("minute", 0, 59, ())),
            hours=_values(hour, _Field("hour", 0, 23, ())),
            days=_values(day, _Field("day of the month", 1, 31, ())),
            months=_values(month, _Field("month", 1, 12, MONTHS)),
            weekdays=_weekdays(weekday),
            every_hour=hour.startswith("*"),
        )
        if not day.startswith("*") and not weekday.startswith("*"):
            raise CronError(
                f"day {day} and weekday {weekday} are both narrowed; some crons read that as 'either', others as "
                "'both': leave one of them a star"
            )
        if all(min(cron.days) > _LONGEST_MONTH[m - 1] for m in cron.months):
            raise CronError(f"never fires: no month of {month} has a day {day}")
        return cron


@dataclass(frozen=True)
class _Field:
    name: str
    lowest: int
    highest: int
    names: tuple[str, ...]  # of the lowest value and those after it

    def __str__(self) -> str:
        named = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"{self.name} is {self.lowest} to {self.highest}{named}"


# Sunday is 0 and 7; a range may end with it, and one that begins late in the week may run past it.
_WEEKDAY = _Field("weekday", 0, 7, ("sun", *WEEKDAYS[:-1]))


def _weekdays(text: str) -> tuple[int, ...]:
    return tuple(sorted({(value - 1) % 7 for value in _values(text, _WEEKDAY, wraps_at=7)}))


def _values(text: str, field: _Field, wraps_at: int | None = None) -> tuple[int, ...]:
    values: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise CronError(f"{part!r} cannot be read: {field}, a range such as {field.lowest}-{field.highest}, or */N")
        step = int(match["step"] or 1)
        if step < 1 or step > field.highest:
            raise CronError(f"the step of {part!r} has to be 1 to {field.highest}")
        if match["first"] == "*":
            if match["last"]:
                raise CronError(f"{part!r} cannot be read: a star has no end")
            first, last = field.lowest, field.highest
        else:
            first = _number(match["first"], field)
            open_end = field.highest if match["step"] else first
            last = _number(match["last"], field) if match["last"] else open_end
        if last < first:
            if wraps_at is None:
                raise CronError(f"{part!r} runs backwards: {field}")
            last += wraps_at
        values.update(range(first, last + 1, step))
    return tuple(sorted(values))


def _number(text: str, field: _Field) -> int:
    if text in field.names:
        return field.lowest + field.names.index(text)
    if not text.isdigit() or not field.lowest <= int(text) <= field.highest:
        raise CronError(f"{text!r} is out of range: {field}")
    return int(text)
