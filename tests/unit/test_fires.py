"""When policies fire: the announced time is the fired time, once, whatever is done to the clocks (E27)."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from reaper.adapters.schedule.almanacs import almanacs_of, faults_of_files, freezes_in
from reaper.adapters.schedule.fires import PolicyTrigger
from reaper.adapters.schedule.slots import Slots
from reaper.domain.almanac import Calendar, Closed, Freeze, HolidayRegion, Open, parse_windows
from reaper.domain.cron import Cron, CronError
from reaper.domain.errors import UsageError
from reaper.domain.standing import Schedule, StandingPolicy, Target
from reaper.planner.walltime import moment_of, reading

BERLIN, NEW_YORK, TOKYO, LORD_HOWE = "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def trigger(
    cron: str, zone: str = "UTC", *, jitter: timedelta = timedelta(0), name: str = "p", calendar: Calendar | None = None
) -> PolicyTrigger:
    schedule = Schedule(cron=Cron.parse(cron), zone=zone, jitter=jitter)
    policy = StandingPolicy(name=name, target=Target(), schedule=schedule, calendar=calendar or Calendar(zone=zone))
    made = PolicyTrigger.of(policy)
    assert made is not None
    return made


def in_utc(fires: tuple[datetime, ...]) -> list[str]:
    return [f"{fire.astimezone(UTC):%m-%d %H:%M}" for fire in fires]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        pytest.param(
            "30 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"], id="Berlin: 02:30 never comes"
        ),
        pytest.param(
            "30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"], id="Berlin: 02:30 comes twice"
        ),
        pytest.param(
            "30 * * * *",
            BERLIN,
            "2026-03-28T23:40",
            ["03-29 00:30", "03-29 01:30", "03-29 02:30"],
            id="Berlin: hourly stays hourly in spring",
        ),
        pytest.param(
            "30 * * * *",
            BERLIN,
            "2026-10-24T23:40",
            ["10-25 00:30", "10-25 01:30", "10-25 02:30"],
            id="Berlin: hourly stays hourly in autumn",
        ),
        pytest.param(
            "15,45 2 * * *",
            BERLIN,
            "2026-03-28T12:00",
            ["03-29 01:00", "03-30 00:15"],
            id="Berlin: two readings that never come are one fire",
        ),
        pytest.param("0 2 * * sun", NEW_YORK, "2026-03-07T12:00", ["03-08 07:00", "03-15 06:00"], id="New York: never"),
        pytest.param("0 1 * * sun", NEW_YORK, "2026-10-31T12:00", ["11-01 05:00", "11-08 06:00"], id="New York: twice"),
        pytest.param(
            "30 2 * * *", TOKYO, "2026-03-28T00:00", ["03-28 17:30", "03-29 17:30"], id="Tokyo: never changed"
        ),
        pytest.param(
            "*/15 2 * * *",
            LORD_HOWE,
            "2026-10-03T12:00",
            ["10-03 15:30", "10-03 15:45", "10-04 15:00"],
            id="Lord Howe: half an hour never comes",
        ),
        pytest.param(
            "*/15 * * * *",
            LORD_HOWE,
            "2026-04-04T14:30",
            ["04-04 14:45", "04-04 15:00", "04-04 15:15", "04-04 15:30"],
            id="Lord Howe: a quarter stays a quarter",
        ),
        pytest.param(
            "0 3 29 2 *", "UTC", "2026-03-01T00:00", ["02-29 03:00", "02-29 03:00"], id="a leap day, every four years"
        ),
        pytest.param("0 0 * * 0", "UTC", "2026-03-02T00:00", ["03-08 00:00"], id="0 is Sunday, as crontab counts"),
        pytest.param("0 0 * * 5-7", "UTC", "2026-03-02T00:00", ["03-06 00:00", "03-07 00:00", "03-08 00:00"], id="5-7"),
        pytest.param("0 0 31 * *", "UTC", "2026-03-31T00:00", ["05-31 00:00", "07-31 00:00"], id="months with a 31st"),
    ],
)
def test_fire_times(cron: str, zone: str, after: str, expected: list[str]) -> None:
    assert in_utc(trigger(cron, zone).upcoming(utc(after), len(expected))) == expected


def expected_slots(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The meaning of a cron expression, written down minute by minute and not as the product computes it."""

    def matches(wall: datetime) -> bool:
        return (
            wall.minute in cron.minutes
            and wall.hour in cron.hours
            and wall.day in cron.days
            and wall.month in cron.months
            and wall.weekday() in cron.weekdays
        )

    minutes = [start + i * MINUTE for i in range(int((end - start) / MINUTE))]
    if cron.every_hour:
        return [m for m in minutes if matches(reading(m, zone))]
    walls = [reading(start, zone) + i * MINUTE for i in range(-180, len(minutes) + 180)]
    return sorted({m for w in walls if matches(w) and start <= (m := moment_of(w, zone)) < end})


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        (BERLIN, "2026-03-29"),
        (BERLIN, "2026-10-25"),
        (NEW_YORK, "2026-03-08"),
        (NEW_YORK, "2026-11-01"),
        (LORD_HOWE, "2026-04-05"),
        (LORD_HOWE, "2026-10-04"),
        (TOKYO, "2026-03-29"),
        ("UTC", "2028-02-29"),
    ],
)
@pytest.mark.parametrize("cron", ["*/7 * * * *", "*/20 1-3 * * *", "0 */2 * * *", "5,35 2 * * sat-mon", "0 0 * * *"])
def test_slots_in_the_days_around_a_change_of_the_clock(zone: str, day: str, cron: str) -> None:
    start = utc(f"{day}T00:00") - 36 * HOUR
    end = start + 72 * HOUR
    parsed, clock = Cron.parse(cron), ZoneInfo(zone)
    slots, found, last = Slots(parsed, clock), [], start - MINUTE / 2
    while (slot := slots.after(last)) is not None and slot < end:
        found.append(slot)
        last = slot
    assert found == expected_slots(parsed, clock, start, end)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 3 * *", "has 4 fields"),
        ("0 24 * * *", "hour is 0 to 23"),
        ("60 3 * * *", "minute is 0 to 59"),
        ("0 3 30 2 *", "never fires: no month of 2 has a day 30"),
        ("0 3 1 * mon", "both narrowed"),
        ("0 17-9 * * *", "runs backwards"),
        ("*/0 3 * * *", "step"),
        ("0 3 * foo *", "out of range"),
        ("@daily", "has 1 fields"),
        ("0 3 * * mon-fri-sat", "cannot be read"),
        ("*-5 3 * * *", "star has no end"),
    ],
)
def test_a_cron_expression_that_means_nothing_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(CronError, match=why):
        Cron.parse(text)


def test_jitter_is_the_same_in_every_process_differs_by_policy_and_stays_below_its_limit() -> None:
    first = trigger("0 3 * * *", jitter=20 * MINUTE).upcoming(utc("2026-03-02T00:00"), 50)
    again = trigger("0 3 * * *", jitter=20 * MINUTE).upcoming(utc("2026-03-02T00:00"), 50)
    other = trigger("0 3 * * *", jitter=20 * MINUTE, name="q").upcoming(utc("2026-03-02T00:00"), 50)
    late = [fire - fire.replace(hour=3, minute=0, second=0) for fire in first]
    assert first == again
    assert first != other
    assert all(timedelta(0) <= d < 20 * MINUTE for d in late)
    assert len(set(late)) > 40
    assert f"{first[0]:%H:%M:%S}" == "03:04:09"  # announced by an older reaper, fired by a newer one


def test_jitter_larger_than_the_interval_keeps_every_slot_and_the_order() -> None:
    drawn = trigger("*/5 * * * *", jitter=20 * MINUTE)
    fires = drawn.upcoming(utc("2026-03-02T00:00"), 60)
    slots = [utc("2026-03-01T23:30") + i * 5 * MINUTE for i in range(90)]
    moved = sorted({s + drawn.jitter_of(s) for s in slots if s + drawn.jitter_of(s) > utc("2026-03-02T00:00")})
    assert list(fires) == moved[:60]


def test_a_closed_calendar_leaves_fires_out_and_moves_none() -> None:
    calendar = Calendar(
        zone=TOKYO,
        windows=parse_windows("mon-fri 09:00-10:00"),
        holidays=(HolidayRegion(country="JP"),),
        freezes=(Freeze(begins=utc("2026-11-25T00:00"), ends=utc("2026-11-26T00:00"), reason="release"),),
    )
    fires = trigger("*/30 * * * *", TOKYO, calendar=calendar).upcoming(utc("2026-11-20T02:00"), 4)
    shown = [f"{fire.astimezone(ZoneInfo(TOKYO)):%a %d %H:%M}" for fire in fires]
    # Monday the 23rd is Labour Thanksgiving, Wednesday is frozen.
    assert shown == ["Tue 24 09:00", "Tue 24 09:30", "Thu 26 09:00", "Thu 26 09:30"]


@pytest.mark.parametrize("jitter", [timedelta(0), 20 * MINUTE])
def test_fires_are_those_slots_whose_own_moment_is_open(jitter: timedelta) -> None:
    """Against every slot of ten days, one by one: skipping over closed times loses none and adds none."""
    calendar = Calendar(zone=BERLIN, windows=parse_windows("mon-thu 09:10-11:50, sat 23:00 - sun 04:00"))
    made = trigger("*/4 * * * *", BERLIN, jitter=jitter, calendar=calendar)
    start, end = utc("2026-10-18T00:00"), utc("2026-10-28T00:00")
    moved = {s + made.jitter_of(s) for i in range(-6, 10 * 360) if (s := start + i * 4 * MINUTE)}
    expected = sorted(m for m in moved if start < m < end and isinstance(made.judge(m), Open))
    found, last = [], start
    while (fire := made.after(last)) is not None and fire < end:
        found.append(fire)
        last = fire
    assert found == expected


def test_a_schedule_that_its_calendar_closes_for_good_never_fires_and_says_why() -> None:
    calendar = Calendar(windows=parse_windows("mon-fri 09:00-17:00"))
    made = trigger("0 3 * * *", calendar=calendar)
    assert made.after(utc("2026-03-02T00:00")) is None
    assert "outside the policy's hours" in made.why_never(utc("2026-03-02T00:00"))


@pytest.fixture
def scheduler() -> Iterator[BackgroundScheduler]:
    made = BackgroundScheduler(timezone=UTC)
    made.start(paused=True)
    yield made
    made.shutdown(wait=True)


def test_the_scheduler_takes_the_announced_times(scheduler: BackgroundScheduler) -> None:
    """APScheduler's own chain of next run times is the list that `explain` prints."""
    made = trigger("*/20 * * * *", BERLIN, jitter=5 * MINUTE)
    before = datetime.now(UTC)
    job = scheduler.add_job(print, trigger=made)
    announced = made.upcoming(before, 5)
    assert job.next_run_time == announced[0]
    chain = [job.next_run_time]
    for _ in range(4):
        chain.append(made.get_next_fire_time(chain[-1], chain[-1]))
    assert tuple(chain) == announced


def test_fires_can_be_compared_in_the_hour_that_comes_twice() -> None:
    """Python compares moments of one zone by the readings of its clock, so that in this hour later can be less."""
    made = trigger("*/20 * * * *", BERLIN)
    fires = made.upcoming(utc("2026-10-24T23:50"), 9)
    assert list(fires) == sorted(fires)
    assert [made.since_last(fire) for fire in fires] == [20 * MINUTE] * 9
    assert made.missed(fires[0], fires[-1] + HOUR).fires[: len(fires) - 1] == fires[1:]


def test_a_policy_without_a_schedule_has_no_trigger() -> None:
    assert PolicyTrigger.of(StandingPolicy(name="p", target=Target())) is None


@pytest.mark.parametrize(
    ("after", "now", "missed"),
    [
        pytest.param("2026-03-02T03:00", "2026-03-02T12:00", [], id="nothing since the last fire"),
        pytest.param("2026-03-02T03:00", "2026-03-03T03:04", [], id="within the grace it can still fire"),
        pytest.param("2026-03-02T03:00", "2026-03-03T03:06", ["03-03 03:00"], id="beyond the grace it is missed"),
        pytest.param("2026-03-02T03:00", "2026-03-04T12:00", ["03-03 03:00", "03-04 03:00"], id="every one is named"),
    ],
)
def test_a_missed_window_is_named(after: str, now: str, missed: list[str]) -> None:
    found = trigger("0 3 * * *").missed(utc(after), utc(now))
    assert in_utc(found.fires) == missed
    assert found.more is False


def test_a_long_absence_is_named_up_to_a_bound() -> None:
    found = trigger("*/5 * * * *").missed(utc("2026-03-02T00:00"), utc("2026-04-02T00:00"))
    assert len(found.fires) == 1000
    assert found.more is True


@pytest.mark.parametrize(
    ("cron", "expected"),
    [("*/30 * * * *", 30 * MINUTE), ("0 3 * * *", DAY), ("0 3 * * mon", 7 * DAY), ("0 3 1 * *", 28 * DAY)],
)
def test_the_time_since_the_opportunity_before(cron: str, expected: timedelta) -> None:
    made = trigger(cron)
    fire = made.after(utc("2026-02-28T12:00"))
    assert fire is not None
    assert made.since_last(fire) == expected


def ics(*events: str) -> str:
    body = "".join(
        f"BEGIN:VEVENT\nUID:{n}@x\nDTSTAMP:20260101T000000Z\n{e}\nEND:VEVENT\n" for n, e in enumerate(events)
    )
    return f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//x//x//EN\n{body}END:VCALENDAR\n".replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(
            "SUMMARY:launch\nDTSTART:20260310T080000Z\nDTEND:20260310T200000Z",
            [("03-10 08:00", "03-10 20:00")],
            id="once, in UTC",
        ),
        pytest.param(
            "SUMMARY:launch\nDTSTART;VALUE=DATE:20260310\nDTEND;VALUE=DATE:20260312",
            [("03-09 23:00", "03-11 23:00")],
            id="whole days, on the calendar's clocks",
        ),
        pytest.param(
            "SUMMARY:launch\nDTSTART;VALUE=DATE:20260310", [("03-09 23:00", "03-10 23:00")], id="one day, no end given"
        ),
        pytest.param(
            "SUMMARY:launch\nDTSTART:20260310T080000\nDURATION:PT2H",
            [("03-10 07:00", "03-10 09:00")],
            id="without a zone, with a duration",
        ),
        pytest.param(
            "SUMMARY:launch\nDTSTART;TZID=Europe/Berlin:20260324T100000\nDTEND;TZID=Europe/Berlin:20260324T120000\n"
            "RRULE:FREQ=WEEKLY;COUNT=3\nEXDATE;TZID=Europe/Berlin:20260407T100000",
            [("03-24 09:00", "03-24 11:00"), ("03-31 08:00", "03-31 10:00")],
            id="repeated over a change of the clock, one taken out",
        ),
        pytest.param(
            "SUMMARY:launch\nSTATUS:CANCELLED\nDTSTART:20260310T080000Z\nDTEND:20260310T200000Z", [], id="cancelled"
        ),
    ],
)
def test_freezes_from_a_calendar_file(tmp_path: Path, event: str, expected: list[tuple[str, str]]) -> None:
    file = tmp_path / "freeze.ics"
    file.write_text(ics(event))
    freezes = freezes_in(file, BERLIN, utc("2026-03-05T00:00"))
    assert [(f"{f.begins:%m-%d %H:%M}", f"{f.ends:%m-%d %H:%M}") for f in freezes] == expected
    assert {f.reason for f in freezes} <= {"launch"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"", "is no iCalendar file", id="empty"),
        pytest.param(b"hello", "is no iCalendar file", id="some text"),
        pytest.param(bytes(range(256)) * 10, "is no iCalendar file", id="binary"),
        pytest.param(ics("SUMMARY:x").encode(), "has no beginning", id="no beginning"),
        pytest.param(ics("SUMMARY:x\nDTSTART:20260310T080000Z").encode(), "has no end", id="no end"),
        pytest.param(
            ics("SUMMARY:x\nDTSTART:20260310T080000Z\nDURATION:PT1S\nRRULE:FREQ=SECONDLY").encode(),
            "repeated within the day",
            id="a bomb: every second",
        ),
        pytest.param(
            ics("SUMMARY:x\nDTSTART:20260310T080000Z\nDURATION:PT1S\nRRULE:FREQ=DAILY;BYMINUTE=1,2").encode(),
            "repeated within the day",
            id="a bomb: several a day",
        ),
        pytest.param(b"x" * (1024 * 1024 + 1), "more than 1024 KiB", id="too large"),
    ],
)
def test_a_broken_calendar_file_closes_and_is_a_mistake_in_words(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "freeze.ics"
    file.write_bytes(content)
    calendar = Calendar(freeze_files=(str(file),))
    with pytest.raises(UsageError, match=why):
        freezes_in(file, "UTC", utc("2026-03-05T00:00"))
    assert [number for number, _ in faults_of_files(calendar, utc("2026-03-05T00:00"))] == [0]
    assert isinstance(trigger("0 3 * * *", calendar=calendar).judge(utc("2026-03-05T00:00")), Closed)


def test_a_calendar_file_that_is_gone_closes_and_one_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "freeze.ics"
    look_up = almanacs_of(Calendar(freeze_files=(str(file),)))
    moment = utc("2026-03-05T00:00")
    assert "cannot be read" in (look_up(moment).unknown or "")
    file.write_text(ics("SUMMARY:a\nDTSTART:20260310T080000Z\nDTEND:20260310T200000Z"))
    assert [f.reason for f in look_up(moment).freezes] == ["a"]
    file.write_text(ics("SUMMARY:another\nDTSTART:20260310T080000Z\nDTEND:20260310T200000Z"))
    assert [f.reason for f in look_up(moment).freezes] == ["another"]


def test_holidays_of_a_subdivision_and_of_the_next_year_are_seen() -> None:
    look_up = almanacs_of(Calendar(zone=BERLIN, holidays=(HolidayRegion(country="DE", subdivision="BY"),)))
    days = {day.isoformat() for day, _ in look_up(utc("2026-12-30T12:00")).holidays}
    assert {"2026-01-06", "2027-01-01"} <= days  # Epiphany is Bavaria's, not all of Germany's
