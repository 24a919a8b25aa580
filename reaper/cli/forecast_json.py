"""A forecast for a machine. Times in ISO 8601, durations as in ISO 8601, unknown is null."""

from datetime import datetime
from typing import Any

from reaper.cli.groups_telling import headline, stops
from reaper.cli.runs import as_json
from reaper.cli.telling import asked_about, conflict, spared
from reaper.domain.almanac import Closed
from reaper.domain.groups import GroupPlan
from reaper.domain.plan import Plan
from reaper.domain.policy import Waiver
from reaper.domain.verdict import GuardVerdict
from reaper.planner.outlook import Outlook
from reaper.planner.radius import Exceeded
from reaper.planner.report import Decision
from reaper.workflow.forecast import Forecast, Foreseen, GroupForeseen


def forecast_as_json(forecast: Forecast) -> dict[str, Any]:
    """Everything; `stops` are the refusals of all kinds."""
    report = forecast.report
    return {
        "headline": headline(forecast),
        "about": asked_about(forecast),
        "at": report.at.isoformat(),
        "taken_at": forecast.taken_at.isoformat(),
        "paused": forecast.paused,
        "clusters": report.clusters,
        "living": report.living,
        "groups": report.groups,
        "members": report.members,
        "stops": [
            {"title": s.title, "culprit": s.culprit, "reason": s.reason, "evidence": list(s.evidence)}
            for s in stops(forecast)
        ],
        "runs": [_run(run) for run in forecast.runs],
        "group_runs": [_group_run(run) for run in forecast.groups],
        "policies": [_policy(decision) for decision in report.decisions],
        "conflicts": [
            {"cluster": c.cluster, "policies": list(c.policies), "says": conflict(c)} for c in report.conflicts
        ],
        "unobserved": [{"cluster": u.cluster, "why": u.why} for u in forecast.unobserved],
        "days": _days(report.outlook),
        "timezone": report.outlook.zone,
        "not_all_fires_counted": list(report.outlook.cut),
    }


def _run(run: Foreseen) -> dict[str, Any]:
    return {
        "policy": run.policy,
        "state": run.state.value,
        "fire": run.fire.isoformat(),
        "cluster": run.plan.cluster,
        "victim": str(run.plan.victim),
        "role": run.plan.role.value,
        "due": list(run.due.why),
        "go": not run.refused_by,
        "plan": as_json(Plan, run.plan),
        "guards": as_json(tuple[GuardVerdict, ...], run.verdicts),
    }


def _group_run(run: GroupForeseen) -> dict[str, Any]:
    return {
        "policy": run.policy,
        "state": run.state.value,
        "fire": run.fire.isoformat(),
        "group": run.plan.group,
        "victims": [{"instance": str(v.id), "why": v.why} for v in run.plan.victims],
        "spared": [{"instance": str(s.id), "why": s.why} for s in run.plan.spared],
        "go": not run.refused_by,
        "plan": as_json(GroupPlan, run.plan),
        "guards": as_json(tuple[GuardVerdict, ...], run.verdicts),
    }


def _policy(decision: Decision) -> dict[str, Any]:
    hours, selection = decision.hours, decision.selection
    return {
        "name": decision.policy.name,
        "state": decision.state.value,
        "why_leashed": list(decision.why_leashed),
        "at": decision.at.isoformat(),
        "next_fire": _iso(decision.next_fire),
        "calendar": {"open": not isinstance(hours, Closed), "why": hours.why, "until": _iso(hours.until)},
        "stopped": list(decision.stopped),
        "seed": selection.seed,
        "targeted": selection.targeted,
        "living": selection.living,
        "due": [{"cluster": d.cluster, "instance": str(d.instance.id), "why": list(d.why)} for d in selection.due],
        "spared": [
            {"cluster": s.cluster, "instance": str(s.instance) if s.instance else None, "why": s.why}
            for s in selection.spared
        ],
        "spared_alike": [{"why": a.why, "count": len(a.names)} for a in spared((decision,))],
        "radius": {
            "exceeded": list(decision.radius.why) if isinstance(decision.radius, Exceeded) else [],
            "parts": [
                {"scope": p.scope.value, "name": p.name, "dying": p.dying, "living": p.living, "percent": p.percent}
                for p in decision.parts
            ],
        },
        "waivers": as_json(tuple[Waiver, ...], decision.waivers),
        "waivers_expired": as_json(tuple[Waiver, ...], decision.expired),
    }


def _days(outlook: Outlook) -> list[dict[str, Any]]:
    return [
        {
            "day": day.day.isoformat(),
            "deaths_at_most": day.most,
            "deaths_expected": day.expected,
            "down_at_once_at_most": day.at_once,
            "policies": [
                {
                    "policy": p.policy,
                    "fires": [f.isoformat() for f in p.fires],
                    "deaths_at_most": p.most,
                    "deaths_expected": p.expected,
                    "down_at_once_at_most": p.at_once,
                }
                for p in day.policies
            ],
        }
        for day in outlook.days
    ]


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
