"""A forecast in a terminal. For a console that reads no markup: names in it come from clusters."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reaper.cli import groups_telling, telling
from reaper.cli.groups_render import group_plan_table
from reaper.cli.render import guards_table, plan_table
from reaper.planner.outlook import Outlook
from reaper.planner.report import Decision
from reaper.workflow.forecast import Forecast, Foreseen, GroupForeseen

_BAR, _MAYBE, _BAR_WIDTH = "█", "░", 24
_NESTED = (0, 0, 0, 2)


def forecast_table(forecast: Forecast) -> RenderableType:
    """The answer first, then what is refused, who would die, the days, who is spared, the policies."""
    return Group(*_parts(forecast))


def _parts(forecast: Forecast) -> Iterator[RenderableType]:
    report = forecast.report
    yield Text(groups_telling.headline(forecast), style="bold")
    yield Text(f"{telling.asked_about(forecast)} {groups_telling.basis(forecast)}", style="dim")
    stops = groups_telling.stops(forecast)
    if stops:
        yield _title(f"refused ({len(stops)})", "bold red")
        yield from (_stop(stop) for stop in stops)
    groups, held = groups_telling.going(forecast), groups_telling.refused(forecast)
    deaths = len(forecast.going) + sum(len(run.plan.victims) for run in groups)
    yield _title(f"who would die ({deaths})")
    if not deaths:
        yield Text("nobody")
    for run in forecast.going:
        yield from _run(run)
    for of_group in groups:
        yield from _group_run(of_group)
    if forecast.refused or held:
        yield _title("what was refused, in full")
    for run in forecast.refused:
        yield from _run(run)
    for of_group in held:
        yield from _group_run(of_group)
    if report.conflicts:
        yield _title("more than one policy takes the same cluster")
        yield from (Text(telling.conflict(found)) for found in report.conflicts)
    yield _title(f"the coming days, on the clocks of {report.outlook.zone}")
    yield _days(report.outlook)
    yield _title("who is spared")
    yield _spared(forecast)
    yield _title("policies")
    for decision in report.decisions:
        yield from _policy(decision)


def _title(text: str, style: str = "bold") -> RenderableType:
    return Padding(Text(text, style=style), (1, 0, 0, 0))


def _stop(stop: telling.Stop) -> RenderableType:
    text = Text(f"{stop.title}\n", style="red")
    text.append(f"  {stop.culprit}: {stop.reason}", style="default")
    for line in stop.evidence:
        text.append(f"\n    {line}", style="dim")
    return text


def _run(run: Foreseen) -> Iterator[RenderableType]:
    head = Text(telling.death(run), style="bold")
    head.append(f"\n  the policy {run.policy} ({run.state}): it {'; '.join(run.due.why)}", style="default")
    yield head
    yield Padding(plan_table(run.plan), _NESTED)
    yield Padding(guards_table(run.verdicts), _NESTED)
    yield Text("")


def _group_run(run: GroupForeseen) -> Iterator[RenderableType]:
    head = Text(groups_telling.replacement(run), style="bold")
    head.append(f"\n  the policy {run.policy} ({run.state})", style="default")
    yield head
    yield Padding(group_plan_table(run.plan), _NESTED)
    yield Padding(guards_table(run.verdicts), _NESTED)
    yield Text("")


def _grid(*columns: str, wraps: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != wraps, overflow="fold")
    return table


def _days(outlook: Outlook) -> RenderableType:
    table = _grid("day", "deaths", "fires", wraps="fires")
    largest = max((day.most for day in outlook.days), default=0)
    for day in outlook.days:
        fires = "\n".join(f"{p.policy}: {telling.fires_of(p)}" for p in day.policies)
        sure = round(day.expected / largest * _BAR_WIDTH) if largest else 0
        bar = Text(_BAR * sure) + Text(_MAYBE * (round(day.most / largest * _BAR_WIDTH) - sure if largest else 0))
        deaths = Text(f"{telling.deaths_of(day.most, day.expected)}\n") + bar if day.policies else Text("none")
        table.add_row(f"{day.day:%a %Y-%m-%d}", deaths, Text(fires or "nothing fires", style="" if fires else "dim"))
    notes: list[RenderableType] = [
        table,
        *(Text(telling.cut_short(name)) for name in outlook.cut),
    ]
    peak = outlook.peak
    if peak is not None:
        notes.append(Text(telling.peak(peak)))
    return Group(*notes)


def _spared(forecast: Forecast) -> RenderableType:
    table = _grid("policy", "who", "why", wraps="why")
    alike = telling.spared(forecast.report.decisions)
    for one in alike:
        table.add_row(Text(one.policy), Text(one.named), Text(one.why))
    table.columns[1].no_wrap = False
    return table if alike else Text("nobody who is targeted")


def _policy(decision: Decision) -> Iterator[RenderableType]:
    yield Text(f"{decision.policy.name}: {telling.standing(decision)}", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    for topic, said in groups_telling.facts(decision):
        table.add_row(topic, Text(said))
    yield Padding(table, _NESTED)
