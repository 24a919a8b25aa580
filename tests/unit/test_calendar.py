"""When a policy may act: windows of any shape, freezes, holidays, maintenance, and clocks that are changed (E27)."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaper.domain.almanac import (
    Almanac,
    Calendar,
    Closed,
    Freeze,
    HolidayRegion,
    Maintenance,
    Open,
    WeekWindow,
    WindowError,
    parse_windows,
)
from reaper.planner.calendar import judge, judge_maintenance
from reaper.planner.walltime import last_moment_of, moment_of, moments

BERLIN, NEW_YORK, TOKYO, LORD_HOWE = "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def at(text: str, zone: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("mon 09:00-17:00", ["mon 09:00-17:00"], id="one day"),
        pytest.param("sat", ["sat 00:00-24:00"], id="a whole day"),
        pytest.param("sat-mon", ["mon 00:00-24:00", "sat 00:00-24:00", "sun 00:00-24:00"], id="past Sunday"),
        pytest.param("sun 22:00-04:00", ["sun 22:00 - mon 04:00"], id="a night past the week's end"),
        pytest.param("fri 22:00 - mon 06:00", ["fri 22:00 - mon 06:00"], id="a weekend in one piece"),
        pytest.param("Tue 9:00-12:00, tue 13:00-24:00", ["tue 09:00-12:00", "tue 13:00-24:00"], id="with a break"),
        pytest.param("wed 10:00 - wed 10:00", ["wed 10:00 - wed 10:00"], id="the whole week"),
    ],
)
def test_a_window_of_the_week_is_read(text: str, shown: list[str]) -> None:
    assert [str(w) for w in parse_windows(text)] == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mon-",
        "monday 09:00-17:00",
        "mon 9-17",
        "mon 09:00-25:00",
        "mon 09:60-10:00",
        "mon 09:00-09:00",
        "xyz",
        "mon 24:30-25:00",
    ],
)
def test_what_is_no_window_is_refused_with_an_example_or_the_range(text: str) -> None:
    with pytest.raises(WindowError, match=r"write|leave the hours out|is no day of the week"):
        parse_windows(text)


WEEK = parse_windows("mon-fri 09:00-17:00")
NIGHTS = parse_windows("mon-thu 22:00-04:00")


@pytest.mark.parametrize(
    ("windows", "moment", "opens", "until"),
    [
        pytest.param(WEEK, at("2026-03-02T09:00", TOKYO), True, at("2026-03-02T17:00", TOKYO), id="the first minute"),
        pytest.param(WEEK, at("2026-03-02T17:00", TOKYO), False, at("2026-03-03T09:00", TOKYO), id="the end"),
        pytest.param(WEEK, at("2026-03-06T18:00", TOKYO), False, at("2026-03-09T09:00", TOKYO), id="over the weekend"),
        pytest.param(NIGHTS, at("2026-03-03T03:59", TOKYO), True, at("2026-03-03T04:00", TOKYO), id="after midnight"),
        pytest.param(NIGHTS, at("2026-03-07T03:00", TOKYO), False, at("2026-03-09T22:00", TOKYO), id="no Friday night"),
        pytest.param(
            parse_windows("mon 00:00-12:00, mon 12:00-18:00"),
            at("2026-03-02T11:00", TOKYO),
            True,
            at("2026-03-02T18:00", TOKYO),
            id="windows that touch are one",
        ),
        pytest.param(
            parse_windows("sun 20:00 - sat 20:00"),
            at("2028-02-29T12:00", TOKYO),
            True,
            at("2028-03-04T20:00", TOKYO),
            id="a leap day inside a long window",
        ),
    ],
)
def test_a_window_is_open_from_its_beginning_up_to_its_end(
    windows: tuple[WeekWindow, ...], moment: datetime, opens: bool, until: datetime
) -> None:
    hours = judge(Calendar(zone=TOKYO, windows=windows), Almanac(), moment)
    assert isinstance(hours, Open if opens else Closed)
    assert hours.until == until


@pytest.mark.parametrize(
    ("zone", "window", "day", "spans"),
    [
        pytest.param(BERLIN, "sun 02:30-04:00", "2026-03-29", [("01:00", "02:00")], id="Berlin: it begins in the gap"),
        pytest.param(BERLIN, "sun 01:00-02:30", "2026-03-29", [("00:00", "01:00")], id="Berlin: it ends in the gap"),
        pytest.param(BERLIN, "sun 02:10-02:50", "2026-03-29", [], id="Berlin: the gap swallows it"),
        pytest.param(BERLIN, "sun 01:30-03:30", "2026-03-29", [("00:30", "01:30")], id="Berlin: over the gap"),
        pytest.param(BERLIN, "sun 02:15-02:45", "2026-10-25", [("00:15", "00:45")], id="Berlin: the first of the two"),
        pytest.param(BERLIN, "sun 01:00-03:30", "2026-10-25", [("23:00", "02:30")], id="Berlin: over the second hour"),
        pytest.param(NEW_YORK, "sun 02:30-03:30", "2026-03-08", [("07:00", "07:30")], id="New York: in the gap"),
        pytest.param(NEW_YORK, "sun 01:30-03:00", "2026-11-01", [("05:30", "08:00")], id="New York: twice"),
        pytest.param(TOKYO, "sun 02:30-03:30", "2026-03-29", [("17:30", "18:30")], id="Tokyo: never changed"),
        pytest.param(LORD_HOWE, "sun 02:15-03:00", "2026-10-04", [("15:30", "16:00")], id="Lord Howe: the gap"),
        pytest.param(LORD_HOWE, "sun 01:45-02:00", "2026-04-05", [("14:45", "15:30")], id="Lord Howe: twice"),
    ],
)
def test_a_window_in_the_night_of_a_change(zone: str, window: str, day: str, spans: list[tuple[str, str]]) -> None:
    """Minute by minute around the change, against the moments in UTC that are expected to be open."""
    calendar = Calendar(zone=zone, windows=parse_windows(window))
    start = at(f"{day}T00:00", zone).astimezone(UTC)
    opened = [
        m for i in range(8 * 60) if isinstance(judge(calendar, Almanac(), m := start + timedelta(minutes=i)), Open)
    ]
    joined: list[tuple[datetime, datetime]] = []
    for moment in opened:
        begins = joined.pop()[0] if joined and joined[-1][1] == moment else moment
        joined.append((begins, moment + timedelta(minutes=1)))
    assert [(f"{b:%H:%M}", f"{e:%H:%M}") for b, e in joined] == spans


@pytest.mark.parametrize(
    ("zone", "wall", "first", "last"),
    [
        pytest.param(BERLIN, "2026-03-29T02:30", "2026-03-29T01:00", "2026-03-29T01:00", id="Berlin: never"),
        pytest.param(BERLIN, "2026-10-25T02:30", "2026-10-25T00:30", "2026-10-25T01:30", id="Berlin: twice"),
        pytest.param(NEW_YORK, "2026-03-08T02:00", "2026-03-08T07:00", "2026-03-08T07:00", id="New York: never"),
        pytest.param(NEW_YORK, "2026-11-01T01:00", "2026-11-01T05:00", "2026-11-01T06:00", id="New York: twice"),
        pytest.param(TOKYO, "2026-03-29T02:30", "2026-03-28T17:30", "2026-03-28T17:30", id="Tokyo: once"),
        pytest.param(LORD_HOWE, "2026-10-04T02:20", "2026-10-03T15:30", "2026-10-03T15:30", id="Lord Howe: never"),
        pytest.param(LORD_HOWE, "2026-04-05T01:40", "2026-04-04T14:40", "2026-04-04T15:10", id="Lord Howe: twice"),
        pytest.param("Pacific/Apia", "2011-12-30T12:00", "2011-12-30T10:00", "2011-12-30T10:00", id="Samoa: never"),
    ],
)
def test_what_a_reading_of_the_clock_means(zone: str, wall: str, first: str, last: str) -> None:
    reading, clock = datetime.fromisoformat(wall), ZoneInfo(zone)
    assert (moment_of(reading, clock), last_moment_of(reading, clock)) == (utc(first), utc(last))
    assert len(moments(reading, clock)) == (0 if first == last and zone != TOKYO else 1 if first == last else 2)


FREEZE = Freeze(begins=utc("2026-12-24T00:00"), ends=utc("2027-01-04T00:00"), reason="year end")


@pytest.mark.parametrize(
    ("moment", "opens"),
    [
        pytest.param("2026-12-23T23:59", True, id="the last minute before"),
        pytest.param("2026-12-24T00:00", False, id="the first moment"),
        pytest.param("2027-01-03T23:59", False, id="the last minute"),
        pytest.param("2027-01-04T00:00", True, id="the first moment after"),
    ],
)
@pytest.mark.parametrize("source", ["policy", "file"])
def test_a_freeze_closes_and_says_why(moment: str, opens: bool, source: str) -> None:
    calendar = Calendar(freezes=(FREEZE,) if source == "policy" else ())
    hours = judge(calendar, Almanac(freezes=(FREEZE,) if source == "file" else ()), utc(moment))
    assert isinstance(hours, Open) is opens
    if not opens:
        assert (hours.why, hours.until) == ("frozen: year end", FREEZE.ends)


def test_a_holiday_closes_the_whole_day_on_the_calendars_clocks() -> None:
    """Three days in a row are one closed time, and they begin and end at midnight in Tokyo, not in UTC."""
    days = tuple((date(2026, 5, day), f"day {day}") for day in (3, 4, 5))
    calendar = Calendar(zone=TOKYO, holidays=(HolidayRegion(country="JP"),))
    almanac = Almanac(holidays=days)
    before = judge(calendar, almanac, at("2026-05-02T23:59", TOKYO))
    inside = judge(calendar, almanac, at("2026-05-03T00:00", TOKYO))
    assert isinstance(before, Open)
    assert before.until == at("2026-05-03T00:00", TOKYO)
    assert isinstance(inside, Closed)
    assert inside.why == "holiday in JP: day 3"
    assert inside.until == at("2026-05-06T00:00", TOKYO)
    assert isinstance(judge(calendar, almanac, at("2026-05-06T00:00", TOKYO)), Open)


def test_what_could_not_be_looked_up_closes() -> None:
    hours = judge(Calendar(), Almanac(unknown="the file is gone"), utc("2026-03-02T12:00"))
    assert hours == Closed(until=None, why="the file is gone")


def test_every_reason_that_closes_is_named_and_the_latest_end_counts() -> None:
    calendar = Calendar(windows=WEEK, freezes=(FREEZE,))
    hours = judge(calendar, Almanac(), utc("2026-12-26T12:00"))
    assert isinstance(hours, Closed)
    assert "frozen: year end" in hours.why
    assert "outside the policy's hours" in hours.why
    assert hours.until == FREEZE.ends


MAINTENANCE = Calendar(maintenance=(Maintenance(clusters="shard-7*", windows=parse_windows("sun 02:00-05:00")),))


@pytest.mark.parametrize(
    ("cluster", "tagged", "moment", "opens"),
    [
        pytest.param("shard-71", (), "2026-03-01T03:00", True, id="inside its window"),
        pytest.param("shard-71", (), "2026-03-02T03:00", False, id="outside its window"),
        pytest.param("shard-8", (), "2026-03-02T03:00", True, id="no window of its own"),
        pytest.param("shard-8", ("mon 02:00-05:00",), "2026-03-02T03:00", True, id="inside the tag's window"),
        pytest.param("shard-8", ("tue 02:00-05:00",), "2026-03-02T03:00", False, id="outside the tag's window"),
        pytest.param("shard-8", ("mon 02:00-05:00", "tue"), "2026-03-02T03:00", False, id="members that disagree"),
        pytest.param("shard-8", ("whenever",), "2026-03-02T03:00", False, id="I10 a tag that cannot be read"),
    ],
)
def test_a_clusters_own_maintenance_window(cluster: str, tagged: tuple[str, ...], moment: str, opens: bool) -> None:
    hours = judge_maintenance(MAINTENANCE, utc(moment), cluster=cluster, tagged=tagged)
    assert isinstance(hours, Open) is opens


@given(
    begin=st.integers(0, 7 * 1440 - 1),
    length=st.integers(1, 7 * 1440),
    minute=st.integers(0, 366 * 1440),
    zone=st.sampled_from([BERLIN, NEW_YORK, TOKYO, LORD_HOWE]),
    part=st.floats(0, 0.99),
)
def test_a_verdict_holds_until_the_moment_that_it_names(
    begin: int, length: int, minute: int, zone: str, part: float
) -> None:
    """Any window, any moment of 2026, any zone: between the moment and `until` nothing changes; at `until` it does."""
    calendar = Calendar(zone=zone, windows=(WeekWindow(begin, length),))
    moment = utc("2026-01-01T00:00") + timedelta(minutes=minute)
    hours = judge(calendar, Almanac(), moment)
    assert hours.until is not None
    between = moment + (hours.until - moment) * part
    assert type(judge(calendar, Almanac(), between)) is type(hours)
    if length < 7 * 1440 - 120:  # a window of nearly the whole week may close for less than a change of the clock
        assert type(judge(calendar, Almanac(), hours.until)) is not type(hours)
