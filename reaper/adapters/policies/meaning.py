"""What a checked document means, as domain facts."""

from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import assert_never
from zoneinfo import ZoneInfo

from reaper.adapters.policies import document as form
from reaper.adapters.policies.section import (
    CheckSection,
    CloudwatchSection,
    HttpSection,
    PrometheusSection,
    ScriptSection,
)
from reaper.domain.almanac import Calendar, Freeze, Maintenance
from reaper.domain.checks import CloudwatchCheck, Comparison, ExternalCheck, HttpCheck, PrometheusCheck, ScriptCheck
from reaper.domain.groups import Floor, GroupPolicy
from reaper.domain.policy import FailoverBy, Loss, Policy, Waiver
from reaper.domain.standing import (
    Announce,
    Approval,
    Budgets,
    Due,
    Limit,
    Limits,
    Replace,
    Schedule,
    Scope,
    StandingPolicy,
    Tags,
    Target,
)
from reaper.domain.warmth import WarmthGate
from reaper.planner.walltime import last_moment_of, moment_of

SHORTEST_BUDGET = timedelta(seconds=2)
_DRAIN_A_MASTER, _DRAIN_AN_INSTANCE = timedelta(seconds=5), timedelta(minutes=10)


def meaning_of(doc: form.Document, beside: Path) -> StandingPolicy:
    """The policy; `beside` is the directory that relative files are looked for in."""
    return StandingPolicy(
        name=doc.name,
        description=doc.description.strip(),
        leash=doc.leash,
        target=_target(doc.target),
        schedule=_schedule(doc.schedule),
        calendar=_calendar(doc, beside),
        due=_due(doc.due),
        replace=_replace(doc.replace),
        warm=None if doc.warm is None else WarmthGate(**dict(doc.warm) | {"canaries": tuple(doc.warm.canaries)}),
        limits=_limits(doc.guards, doc.radius),
        budgets=Budgets(
            outage=_outage_budget(doc.failover),
            lost_writes=doc.failover.lost_writes,
            time_to_normal=doc.budgets.time_to_normal,
            failures_in_a_row=doc.budgets.failures_in_a_row,
        ),
        cool_down=doc.guards.cool_down,
        checks=tuple(_check(c) for c in doc.guards.external),
        waivers=tuple(Waiver(**dict(w)) for w in doc.waivers),
        approval=None
        if doc.approval is None
        else Approval(by=tuple(doc.approval.by or ()), within=doc.approval.within),
        announce=Announce(to=tuple(doc.announce.to), before=doc.announce.before),
        limits_of_run=_limits_of_run(doc),
        group=_group(doc),
    )


def _tags(tags: dict[str, str] | None) -> Tags:
    return tuple(sorted((tags or {}).items()))


def _target(section: form.TargetSection) -> Target:
    named = section.groups if is_about_groups(section) else section.clusters
    return Target(
        provider=section.provider,
        names=tuple(named.name or ()),
        excluded=tuple(named.exclude or ()),
        tags=_tags(named.tag),
        instances=tuple(section.instances.name or ()),
        instance_tags=_tags(section.instances.tag),
        opt_in=_tags(section.opt_in),
    )


def _schedule(section: form.ScheduleSection | None) -> Schedule | None:
    if section is None:
        return None
    return Schedule(cron=section.cron, zone=section.timezone, jitter=section.jitter, grace=section.grace)


def _calendar(doc: form.Document, beside: Path) -> Calendar:
    section = doc.calendar
    name = section.timezone or (doc.schedule.timezone if doc.schedule else "UTC")
    zone = ZoneInfo(name)
    return Calendar(
        zone=name,
        windows=section.windows,
        freezes=tuple(_freeze(f, zone) for f in section.freeze),
        freeze_files=tuple(str(beside / file) for file in section.freeze_files or ()),
        holidays=section.holidays,
        maintenance=tuple(Maintenance(clusters=m.clusters, windows=m.windows) for m in section.maintenance),
        maintenance_tag=section.maintenance_tag,
    )


def _freeze(section: form.FreezeSection, zone: ZoneInfo) -> Freeze:
    """The first day from its first moment, the last day to its end; a time that comes twice is frozen both times."""
    begins, ends = _wall(section.begins), _wall(section.ends)
    if not isinstance(section.ends, datetime):
        ends += timedelta(days=1)
    return Freeze(begins=moment_of(begins, zone), ends=last_moment_of(ends, zone), reason=section.reason)


def _wall(day: date) -> datetime:
    return day if isinstance(day, datetime) else datetime.combine(day, time())


def _due(section: form.DueSection) -> Due:
    return Due(
        max_age=section.max_age,
        stale_image=section.stale_image,
        probability=1.0 if section.probability is None else section.probability,
        mean_time_between=section.mean_time_between,
        min_gap=section.min_gap,
        at_most=section.at_most,
    )


def _replace(section: form.ReplaceSection) -> Replace:
    return Replace(
        what=section.what,
        when=section.when,
        replicas=section.replicas,
        snapshot_from=section.snapshot.source,
        snapshot_reuse_within=section.snapshot.reuse_within,
        snapshot_keep=section.snapshot.keep,
    )


def _limits(guards: form.GuardsSection, radius: form.RadiusSection) -> Limits:
    count, percent = guards.max_in_flight, guards.max_in_flight_percent
    if count is None and percent is None:
        count = 1
    said = (
        (Scope.FLEET, radius.fleet),
        (Scope.POLICY, radius.policy),
        (Scope.SHARD_GROUP, radius.shard_group),
        (Scope.ZONE, radius.zone),
    )
    return Limits(
        in_flight=tuple(Limit(scope=scope, count=count, percent=percent) for scope in dict.fromkeys(guards.per)),
        selection=tuple(Limit(scope=scope, count=s.count, percent=s.percent) for scope, s in said if s is not None),
    )


def _check(section: CheckSection) -> ExternalCheck:
    match section:
        case PrometheusSection():
            below = section.below is not None
            return PrometheusCheck(
                name=section.name,
                url=section.url,
                query=section.query,
                comparison=Comparison.BELOW if below else Comparison.ABOVE,
                threshold=section.below if section.below is not None else section.above or 0.0,
                within=section.within,
            )
        case CloudwatchSection():
            return CloudwatchCheck(name=section.name, alarm=section.alarm, region=section.region, within=section.within)
        case HttpSection():
            return HttpCheck(name=section.name, url=section.url, status=section.status, within=section.within)
        case ScriptSection():
            return ScriptCheck(name=section.name, command=tuple(section.command), within=section.within)
        case _:
            assert_never(section)


def _outage_budget(section: form.FailoverSection) -> timedelta:
    if section.outage_budget is not None:
        return section.outage_budget
    return section.within if section.by is FailoverBy.OBSERVE else SHORTEST_BUDGET


def is_about_groups(section: form.TargetSection) -> bool:
    """Whether the target is groups of stateless instances."""
    return "groups" in section.model_fields_set


def _group(doc: form.Document) -> GroupPolicy | None:
    """The limits of a run over a group; None: the policy is about clusters."""
    floor, within = doc.guards.min_healthy, doc.deadlines
    if floor is None or not is_about_groups(doc.target):
        return None
    return GroupPolicy(
        floor=Floor(count=floor.count, percent=floor.percent),
        order=doc.replace.order,
        max_age=doc.due.max_age,
        stale_image=doc.due.stale_image,
        opt_in=_tags(doc.target.opt_in),
        at_most=doc.replace.at_most,
        draining=doc.replace.draining,
        settle_within=within.settle,
        drain_within=_DRAIN_AN_INSTANCE if within.drain is None else within.drain,
        successor_within=within.successor,
        undo_within=within.undo,
    )


def _limits_of_run(doc: form.Document) -> Policy:
    guards, within = doc.guards, doc.deadlines
    return Policy(
        mode=doc.kill.mode,
        failover=doc.failover.by,
        loss=Loss.FORBIDDEN if guards.semi_sync == "required" else Loss.ACCEPTED,
        outage_budget=_outage_budget(doc.failover),
        max_lag=guards.max_lag,
        min_copies=guards.min_copies,
        max_transaction_age=guards.max_transaction_age,
        soak=guards.soak,
        build_within=within.build,
        join_within=within.join,
        drain_within=_DRAIN_A_MASTER if within.drain is None else within.drain,
        fence_within=within.fence,
        apply_within=within.apply,
        repoint_within=within.repoint,
        failover_within=doc.failover.within,
        quarantine=doc.retire.quarantine,
        compare_with=doc.verify.against,
        compare_share=doc.verify.share,
        compare_within=doc.verify.within,
        probe_clients=doc.probe.clients,
        probe_rate=doc.probe.rate,
    )
