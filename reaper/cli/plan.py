"""`reaper plan`: what policies would do, before they are armed. Reads only."""

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import typer

from reaper.domain.errors import ReaperError, UsageError

if TYPE_CHECKING:
    from reaper.adapters.schedule.fires import PolicyTrigger
    from reaper.cli.compose import Site
    from reaper.domain.standing import StandingPolicy
    from reaper.planner.outlook import Coming
    from reaper.planner.report import Subject
    from reaper.planner.selection import ClusterHistory
    from reaper.workflow.forecast import Forecast, Span

MOST_DAYS = 366
_FILE_WIDTH = 160
MOST_FIRES = 12_000  # of one policy that are counted; a minute's cron has 10,080 a week
_MOMENT = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})[ T]+(?P<time>\d{1,2}:\d{2}(:\d{2})?)(?P<utc>Z)?(\s+(?P<zone>\S+))?", re.ASCII
)


class Form(StrEnum):
    """How the report is written."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(plan)


def plan(
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="Only these; all of the directory if left out.")
    ] = None,
    files: Annotated[list[Path] | None, typer.Option("--file", help="Read the policies in these files only.")] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT",
            help="As if every policy fired then: '2026-12-01 03:00 Asia/Tokyo' (UTC without a zone). "
            "Each at its own next firing if left out.",
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="Show the load of so many days.")] = 7,
    output: Annotated[str, typer.Option(help="table, json, markdown or html")] = "table",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the report there.")] = None,
) -> None:
    """Show what policies would do: who dies and why, every guard's verdict, who is spared. Nothing is touched."""
    from reaper.cli.compose import site
    from reaper.cli.policies import load_policies

    now = datetime.now(UTC)
    mistakes: list[str] = []
    form, moment = Form.TABLE, None
    try:
        form = form_of(output)
    except UsageError as error:
        mistakes.append(str(error))
    try:
        moment = None if at is None else moment_of_text(at)
    except UsageError as error:
        mistakes.append(str(error))
    loaded = load_policies(files, now)
    policies = [p for _, p in loaded.policies]
    for mistake in loaded.mistakes:
        sys.stderr.write(f"{mistake}\n")
    if policy:
        for name in dict.fromkeys(policy):
            try:
                loaded.named(name)
            except UsageError as error:
                mistakes.append(str(error))
        policies = [p for p in policies if p.name in policy]
    elif loaded.mistakes:
        mistakes.append("policies have mistakes: mend them, or name those that are meant with --policy")
    if mistakes:
        raise UsageError("\n        ".join(mistakes))
    here = site()
    span = _span(policies, moment, now, days)
    found = _forecast(here, policies, asked=moment, span=span)
    _write(found, form, out)


def form_of(text: str) -> Form:
    """How to write. UsageError: no such way."""
    try:
        return Form(text)
    except ValueError:
        raise UsageError(f"--output is table, json, markdown or html, not {text!r}") from None


def moment_of_text(text: str) -> tuple[datetime, str]:
    """A moment (in UTC) and the name of its zone, from `2026-12-01 03:00 Asia/Tokyo`; UTC if no zone is named.

    A time that a clock change repeats means the first, one that it leaves out the moment of the change.
    UsageError: it is none.
    """
    from reaper.adapters.policies.values import nearest
    from reaper.planner.walltime import moment_of

    match = _MOMENT.fullmatch(text.strip())
    if match is None or (match["utc"] and match["zone"]):
        raise UsageError(f"--at {text!r} is no moment: write for example '2026-12-01 03:00 Asia/Tokyo', UTC if no zone")
    name = match["zone"] or "UTC"
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # names of no file, of a directory, or out of the tree
        known = sorted(available_timezones())
        raise UsageError(f"--at: there is no time zone {name!r}{nearest(name, known)}") from None
    try:
        wall = datetime.fromisoformat(f"{match['date']}T{match['time'].zfill(5)}")
        return moment_of(wall, zone), name
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--at {text!r} is no moment: {error}") from None


def _span(policies: list["StandingPolicy"], asked: tuple[datetime, str] | None, now: datetime, days: int) -> "Span":
    """From the moment that is asked about, or now; on its zone's clocks, or on those that all schedules share."""
    from reaper.workflow.forecast import Span

    if asked is not None:
        return Span(at=asked[0], days=days, zone=asked[1])
    zones = {p.schedule.zone for p in policies if p.schedule}
    return Span(at=now, days=days, zone=zones.pop() if len(zones) == 1 else "UTC")


def _forecast(
    here: "Site", policies: list["StandingPolicy"], *, asked: tuple[datetime, str] | None, span: "Span"
) -> "Forecast":
    from reaper.adapters.interrupt import SignalInterrupt
    from reaper.cli.groups import reached
    from reaper.cli.journal import announcer
    from reaper.workflow.forecast import forecast

    subjects = [_subject(here, policy, span, asked[0] if asked else None) for policy in policies]
    return forecast(here.world(announcer(), SignalInterrupt()), subjects, span, reached(here))


def _subject(here: "Site", policy: "StandingPolicy", span: "Span", asked: datetime | None) -> "Subject":
    from reaper.adapters.schedule.almanacs import almanacs_of
    from reaper.adapters.schedule.fires import PolicyTrigger
    from reaper.planner.calendar import judge
    from reaper.planner.orders import seed_of
    from reaper.planner.report import Subject
    from reaper.planner.selection import Occasion

    trigger = PolicyTrigger.of(policy)
    next_fire = trigger.after(span.at) if trigger else None
    moment = asked or next_fire or span.at
    hours = trigger.judge(moment) if trigger else judge(policy.calendar, almanacs_of(policy.calendar)(moment), moment)
    history, leashed = _remembered(here, policy.name)
    return Subject(
        policy=policy,
        occasion=Occasion(
            now=moment,
            since_last=trigger.since_last(moment) if trigger else timedelta(0),
            seed=seed_of(policy.name, moment),
        ),
        hours=hours,
        history=history,
        leashed=leashed,
        coming=_coming(trigger, span),
        next_fire=next_fire,
    )


def _coming(trigger: "PolicyTrigger | None", span: "Span") -> "Coming":
    """The fires of the days that are shown, one by one: looking for the next costs more than showing it."""
    from reaper.planner.outlook import Coming

    ends, fires = span.at + timedelta(days=span.days), list[datetime]()
    fire = trigger.after(span.at) if trigger else None
    while trigger is not None and fire is not None and fire <= ends:
        if len(fires) == MOST_FIRES:
            return Coming(fires=tuple(fires), more=True)
        fires.append(fire)
        fire = trigger.after(fire)
    return Coming(fires=tuple(fires), more=False)


def _remembered(here: "Site", policy: str) -> tuple[Mapping[str, "ClusterHistory"] | None, tuple[str, ...]]:
    """What the store knows of a policy. One that cannot be read protects everybody and leashes (I10)."""

    store = here.policies
    try:
        leashes = store.leashed(policy)
        return store.histories(policy), tuple(why for leash in leashes for why in leash.why)
    except ReaperError as error:
        return None, (f"whether a budget leashes it is unknown: {error}",)


def _write(found: "Forecast", form: Form, out: Path | None) -> None:
    if out is None and form is Form.TABLE:
        _print_table(found, sys.stdout, None if sys.stdout.isatty() else _FILE_WIDTH)
        return
    from reaper.cli.pages import deliver

    deliver(rendered(found, form), out, "report")


def rendered(found: "Forecast", form: Form) -> str:
    """The report as the text of a file."""
    import json
    from io import StringIO

    from reaper.cli.forecast_html import forecast_html
    from reaper.cli.forecast_json import forecast_as_json
    from reaper.cli.forecast_markdown import forecast_markdown

    match form:
        case Form.TABLE:
            file = StringIO()
            _print_table(found, file, _FILE_WIDTH)
            return file.getvalue()
        case Form.JSON:
            return json.dumps(forecast_as_json(found), indent=2) + "\n"
        case Form.MARKDOWN:
            return forecast_markdown(found)
        case Form.HTML:
            return forecast_html(found)
        case _:
            assert_never(form)


def _print_table(found: "Forecast", file: TextIO, width: int | None) -> None:
    from rich.console import Console

    from reaper.cli.forecast_table import forecast_table

    Console(file=file, width=width, highlight=False, markup=False).print(forecast_table(found))
