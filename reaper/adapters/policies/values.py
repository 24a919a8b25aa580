"""The single values of a policy file: durations, zones, days, windows, choices. What is wrong is said in words."""

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, PlainValidator, StringConstraints, WithJsonSchema

from reaper.adapters.nations import subdivisions_of
from reaper.domain.almanac import HolidayRegion, WeekWindow, parse_windows
from reaper.domain.cron import Cron

LONGEST = timedelta(days=3660)
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_UNIT = {"ms": timedelta(milliseconds=1), "s": timedelta(seconds=1), "m": timedelta(minutes=1)}
_UNITS = {**_UNIT, "h": timedelta(hours=1), "d": timedelta(days=1)}


def shown(value: object) -> str:
    """A value in a message, cut to a length that a line holds."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(word: str, known: list[str]) -> str:
    """A hint at the word that was probably meant, or nothing."""
    close = get_close_matches(word[:100].lower(), known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no {what}")
    return value.strip()


def parse_span(value: Any) -> timedelta:
    """A duration such as 250ms, 20m or 7d, up to ten years. ValueError: it is none."""
    if isinstance(value, timedelta):
        return value
    match = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        hint = f"; with a unit it is {value}s or {value}m" if type(value) in (int, float) else ""
        raise ValueError(f"{shown(value)} is no duration: write for example 250ms, 30s, 20m, 24h or 7d{hint}")
    span = float(match[1]) * _UNITS[match[2]]
    if span > LONGEST:
        raise ValueError(f"{shown(value)} is longer than ten years")
    return span


def parse_cron(value: Any) -> Cron:
    """The five fields of a crontab line."""
    return value if isinstance(value, Cron) else Cron.parse(_text(value, "cron expression: quote it"))


@lru_cache(maxsize=1)
def _zones() -> list[str]:
    return sorted(available_timezones())


def parse_zone(value: Any) -> str:
    """The name of a zone that this machine knows."""
    name = _text(value, "time zone")
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # a path, a directory, an unknown key
        lower = {z.lower(): z for z in _zones()}
        close = get_close_matches(name[:100].lower(), list(lower), n=1, cutoff=0.6)
        hint = f"; did you mean {lower[close[0]]}?" if close else ""
        raise ValueError(
            f"{shown(name)} is no time zone: write a name such as Asia/Tokyo, Europe/Berlin or UTC{hint}"
        ) from None
    return name


def parse_day(value: Any) -> date:
    """A day such as 2026-12-31."""
    if type(value) is date:
        return value
    try:
        return date.fromisoformat(_text(value, "day"))
    except ValueError:
        raise ValueError(f"{shown(value)} is no day: write for example 2026-12-31") from None


def parse_reading(value: Any) -> date:
    """A day, or a day and a time on the calendar's clocks, such as 2026-12-24 18:00. No zone: the calendar has one."""
    if isinstance(value, date):
        return value
    text = _text(value, "day")
    try:
        reading = datetime.fromisoformat(text) if len(text) > len("2026-12-24") else date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{shown(value)} is no day or time: write 2026-12-24 or 2026-12-24 18:00") from None
    if isinstance(reading, datetime) and reading.tzinfo is not None:
        raise ValueError(f"{shown(value)} names an offset: leave it out, the calendar's time zone is meant")
    if not 2000 <= reading.year <= 2999:
        raise ValueError(f"{shown(value)} is in no year from 2000 to 2999")
    return reading


def parse_week(value: Any) -> tuple[WeekWindow, ...]:
    """One or several windows of the week."""
    parts = value if isinstance(value, list) else [value]
    if not parts or len(parts) > 50:
        raise ValueError("name 1 to 50 windows of the week, for example 'mon-fri 09:00-17:00'")
    windows = {w for part in parts for w in parse_windows(_text(part, "window of the week"))}
    return tuple(sorted(windows))


def parse_regions(value: Any) -> tuple[HolidayRegion, ...]:
    """Whose holidays: JP, US-CA, {country: US, subdivision: CA}, or a list of those."""
    return tuple(_region(part) for part in (value if isinstance(value, list) else [value]))


def _region(value: Any) -> HolidayRegion:
    if isinstance(value, HolidayRegion):
        return value
    if isinstance(value, dict):
        if not set(value) <= {"country", "subdivision"} or "country" not in value:
            raise ValueError(f"{shown(value)} is no region: write JP, US-CA or {{country: US, subdivision: CA}}")
        country, subdivision = _text(value["country"], "country"), value.get("subdivision")
    else:
        country, _, subdivision = _text(value, "country").partition("-")
    parts = subdivisions_of(country)
    if parts is None:
        raise ValueError(f"the holidays of {shown(country)} are not known: write an ISO country such as JP, DE or US")
    if subdivision and subdivision not in parts:
        among = ", ".join(parts[:60]) or "none"
        raise ValueError(f"{country} has no subdivision {shown(subdivision)} with holidays of its own: it has {among}")
    return HolidayRegion(country=country, subdivision=subdivision or None)


def one_of(kind: type[StrEnum]) -> BeforeValidator:
    """One of the words of an enumeration."""
    words = [str(member) for member in kind]

    def read(value: Any) -> StrEnum:
        if isinstance(value, str) and value in words:
            return kind(value)
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise ValueError(f"{shown(value)} is not one of {', '.join(words)}{hint}")

    return BeforeValidator(read)


def one_or_many(value: Any) -> Any:
    """A single value where a list is allowed too."""
    return value if isinstance(value, list) else [value]


def _schema(read: Callable[[Any], Any], **schema: Any) -> tuple[BeforeValidator, WithJsonSchema]:
    return BeforeValidator(read), WithJsonSchema(schema)


_MANY = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 50}
_REGION = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"country": {"type": "string"}, "subdivision": {"type": "string"}}},
    ]
}

Span = Annotated[
    timedelta, *_schema(parse_span, type="string", pattern=r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$", examples=["20m", "7d"])
]
CronText = Annotated[Cron, *_schema(parse_cron, type="string", examples=["0 3 * * mon-fri"])]
Zone = Annotated[str, *_schema(parse_zone, type="string", examples=["Asia/Tokyo", "UTC"])]
Day = Annotated[date, *_schema(parse_day, type="string", format="date")]
Reading = Annotated[
    date,  # also a datetime, without a zone
    PlainValidator(parse_reading),
    WithJsonSchema({"type": "string", "examples": ["2026-12-24", "2026-12-24 18:00"]}),
]
Week = Annotated[tuple[WeekWindow, ...], *_schema(parse_week, anyOf=[{"type": "string"}, _MANY])]
Regions = Annotated[
    tuple[HolidayRegion, ...], *_schema(parse_regions, anyOf=[_REGION, {"type": "array", "items": _REGION}])
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Texts = Annotated[list[Text], BeforeValidator(one_or_many), WithJsonSchema({"anyOf": [{"type": "string"}, _MANY]})]
