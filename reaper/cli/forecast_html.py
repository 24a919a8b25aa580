"""A forecast as one HTML file that needs nothing else: no script, no other file, no network."""

from functools import cache

from jinja2 import Template

from reaper import __version__
from reaper.cli import groups_telling, telling
from reaper.cli.drawing import bars_of, line_of, topology
from reaper.cli.groups_render import how
from reaper.cli.pages import template_of
from reaper.domain.verdict import Ruling
from reaper.planner.report import State
from reaper.workflow.forecast import Forecast

MOST_DRAWN = 40  # runs with a drawing and their steps; the others are told in words


@cache
def _template() -> Template:
    return template_of("plan.html.j2")


def forecast_html(forecast: Forecast) -> str:
    """The whole report."""
    report = forecast.report
    runs = (*forecast.going, *forecast.refused)
    day_says = tuple(telling.deaths_of(d.most, d.expected) if d.policies else "none" for d in report.outlook.days)
    return _template().render(
        version=__version__,
        forecast=forecast,
        report=report,
        tell=telling,
        of_groups=groups_telling,
        how=how,
        stops=groups_telling.stops(forecast),
        runs=runs,
        drawn=frozenset(run.plan.run + run.policy for run in runs[:MOST_DRAWN]),
        topology=topology,
        line_of=line_of,
        bars=bars_of(report.outlook, day_says),
        spared=telling.spared(report.decisions),
        armed=State.ARMED,
        go=Ruling.GO,
    )
