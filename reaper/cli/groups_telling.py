"""What a forecast says where policies are about groups: `telling` says what it says of clusters, this the whole."""

from collections.abc import Iterable
from dataclasses import replace

from reaper.cli import telling
from reaper.cli.telling import Stop
from reaper.domain.facts import InstanceId
from reaper.planner.report import Decision, State
from reaper.planner.words import listed
from reaper.workflow.forecast import Forecast, GroupForeseen

MOST_NAMED = 12  # victims of one run, before "and N more"


def _of_groups(forecast: Forecast) -> tuple[Decision, ...]:
    return tuple(d for d in forecast.report.decisions if d.policy.group is not None)


def going(forecast: Forecast) -> tuple[GroupForeseen, ...]:
    """Runs over groups that nobody refuses."""
    return tuple(run for run in forecast.groups if not run.refused_by)


def refused(forecast: Forecast) -> tuple[GroupForeseen, ...]:
    """Runs over groups that at least one guard refuses."""
    return tuple(run for run in forecast.groups if run.refused_by)


def headline(forecast: Forecast) -> str:
    """The answer in a few sentences: of clusters if a policy is about them, and of groups if one is about these."""
    report, about_groups = forecast.report, _of_groups(forecast)
    about_clusters = tuple(d for d in report.decisions if d.policy.group is None)
    said = []
    if about_clusters or not about_groups:
        said.append(telling.headline(replace(forecast, report=replace(report, decisions=about_clusters))))
    if about_groups:
        said.append(_of_the_groups(forecast, about_groups))
    return " ".join(said)


def _of_the_groups(forecast: Forecast, decisions: tuple[Decision, ...]) -> str:
    free, held = going(forecast), refused(forecast)
    tail = f"; of {listed(tuple(r.plan.group for r in held))} a guard refuses" if held else ""
    if all(d.state is not State.ARMED for d in decisions):
        each = "The policy of groups is" if len(decisions) == 1 else "Every policy of groups is"
        return f"{each} leashed, so that nothing is touched. Armed, {_bodies(free)} would be replaced{tail}."
    acting = _bodies(run for run in free if run.state is State.ARMED)
    paused = f"Everything is {forecast.paused}. Otherwise " if forecast.paused else ""
    said = f"{acting} would be replaced{tail}."
    return f"{paused}{said}" if paused else f"{said[0].upper()}{said[1:]}"


def _bodies(runs: Iterable[GroupForeseen]) -> str:
    """`3 instances of web-a and web-b`; one that two policies take dies once."""
    victims: dict[InstanceId, str] = {v.id: run.plan.group for run in runs for v in run.plan.victims}
    if not victims:
        return "no instance of a group"
    number = f"{len(victims)} instance{'' if len(victims) == 1 else 's'}"
    return f"{number} of {listed(tuple(dict.fromkeys(victims.values())))}"


def basis(forecast: Forecast) -> str:
    """What the report stands on."""
    report = forecast.report
    if not report.groups:
        return telling.basis(forecast)
    groups = f"{report.groups} group{'' if report.groups == 1 else 's'} with {report.members} instances"
    return f"{telling.basis(forecast).removesuffix(' Nothing was touched.')} Also {groups}. Nothing was touched."


def stops(forecast: Forecast) -> tuple[Stop, ...]:
    """Every refusal, the gravest first."""
    return telling.stops(forecast) + tuple(
        Stop(
            title=f"{run.plan.victims[0].id.short}, the first of {run.plan.group}, would not be replaced",
            culprit=verdict.guard,
            reason=verdict.reason,
            evidence=verdict.evidence,
        )
        for run in refused(forecast)
        for verdict in run.refused_by
    )


def replacement(run: GroupForeseen) -> str:
    """Who would be replaced, in order."""
    names = [v.id.short for v in run.plan.victims]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{run.plan.group}: {', '.join(names[:MOST_NAMED])}{more} would be replaced, one after the other"


def facts(decision: Decision) -> tuple[tuple[str, str], ...]:
    """A policy's circumstances: a topic and what is said of it."""
    said = telling.facts(decision)
    if decision.policy.group is None:
        return said
    selection = decision.selection
    due = f"{len(selection.due)} due, of {selection.targeted} targeted group{'' if selection.targeted == 1 else 's'}"
    whole = f"{due} with {selection.living} instances (seed {selection.seed})"
    return tuple(
        (topic, whole if topic == "selection" else text) for topic, text in said if not topic.startswith("waivers")
    )
