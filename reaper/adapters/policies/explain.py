"""A policy in plain sentences: what dies, when, how, and what stops it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never
from zoneinfo import ZoneInfo

from reaper.adapters.policies import explain_groups
from reaper.adapters.policies.explain_groups import tags_in_words
from reaper.domain.almanac import MINUTES_A_DAY, WeekWindow
from reaper.domain.checks import CloudwatchCheck, ExternalCheck, HttpCheck, PrometheusCheck, ScriptCheck
from reaper.domain.cron import WEEKDAYS
from reaper.domain.plan import Replacement
from reaper.domain.policy import FailoverBy, KillMode, Loss, Reference
from reaper.domain.standing import (
    OPT_OUT_TAG,
    PROTECT_UNTIL_TAG,
    Leash,
    Limit,
    Scope,
    StandingPolicy,
    What,
)
from reaper.domain.warmth import Otherwise
from reaper.planner.words import in_words, listed


@dataclass(frozen=True, kw_only=True)
class Saying:
    """One sentence, and what it is about."""

    topic: str
    says: str


def explain(policy: StandingPolicy, now: datetime) -> tuple[Saying, ...]:
    """The policy in sentences. `now` decides which waivers hold and which freezes are over."""
    of_group = policy.group
    parts = (
        ("leash", _leash(policy)),
        ("who", explain_groups.who(policy) if of_group else _who(policy)),
        ("when", _when(policy)),
        ("calendar", _calendar(policy, now)),
        ("due", _due(policy)),
        ("how", explain_groups.how(of_group) if of_group else _how(policy)),
        ("guards", explain_groups.guards(policy, of_group) if of_group else _guards(policy)),
        ("radius", _radius(policy)),
        ("budgets", explain_groups.budgets(policy) if of_group else _budgets(policy)),
        ("waivers", _waivers(policy, now)),
        ("people", _people(policy)),
    )
    return tuple(Saying(topic=topic, says=says) for topic, sentences in parts for says in sentences)


def _leash(policy: StandingPolicy) -> Iterator[str]:
    match policy.leash:
        case Leash.ON:
            yield "Leashed: it decides and reports, and touches nothing. `leash: off` in its file arms it."
        case Leash.OFF:
            yield "Armed: it kills. `leash: on` in its file stops it."
        case _:
            assert_never(policy.leash)


def _who(policy: StandingPolicy) -> Iterator[str]:
    target = policy.target
    what = {What.MASTER: "The master", What.REPLICA: "A replica", What.ANY: "Any one member"}[policy.replace.what]
    of = [f"of the provider {target.provider}"] if target.provider else []
    of += [f"with a name like {listed(target.names, 'or')}"] if target.names and "*" not in target.names else []
    of += [f"with {tags_in_words(target.tags)} on all members"] if target.tags else []
    yield " ".join((what, "of each cluster", *of)) + "."
    if target.excluded:
        yield f"Not of clusters with a name like {listed(target.excluded, 'or')}."
    if target.instances:
        yield f"Only instances with a name like {listed(target.instances, 'or')}."
    if target.instance_tags:
        yield f"Only instances with the tags {tags_in_words(target.instance_tags)}."
    if target.opt_in:
        yield f"Only instances that have opted in with {tags_in_words(target.opt_in)}."
    yield f"Never one with the tag {OPT_OUT_TAG}, with {PROTECT_UNTIL_TAG} in the future, or whose tags are unreadable."


def _when(policy: StandingPolicy) -> Iterator[str]:
    schedule = policy.schedule
    if schedule is None:
        yield "Only when a person asks: it has no schedule."
        return
    later = f", up to {in_words(schedule.jitter)} after it" if schedule.jitter else ""
    yield f"Fires at '{schedule.cron.text}' (minute hour day month weekday) on the clocks of {schedule.zone}{later}."
    yield f"A firing that is {in_words(schedule.grace)} late is missed: reported, never caught up."


def _calendar(policy: StandingPolicy, now: datetime) -> Iterator[str]:
    calendar = policy.calendar
    if calendar.windows:
        windows = _hours(calendar.windows)
        yield f"Only in the hours {windows}, on the clocks of {calendar.zone}."
    if calendar.holidays:
        yield f"Not on public holidays of {listed(tuple(map(str, calendar.holidays)))}."
    for freeze in calendar.freezes:
        if freeze.ends > now:
            begins, ends = (m.astimezone(ZoneInfo(calendar.zone)) for m in (freeze.begins, freeze.ends))
            yield f"Frozen from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} {calendar.zone}: {freeze.reason}."
    if calendar.freeze_files:
        yield f"Frozen during the events in {listed(calendar.freeze_files)}."
    for own in calendar.maintenance:
        yield f"Clusters like {own.clusters} only in {_hours(own.windows)}."
    if calendar.maintenance_tag:
        yield f"A cluster with the tag {calendar.maintenance_tag} only in the window that it states."


def _hours(windows: tuple[WeekWindow, ...]) -> str:
    """Windows of the week, days that follow each other and have the same hours as one."""
    runs: list[tuple[int, WeekWindow]] = []  # how many days, the first of them
    for window in sorted(windows, key=lambda w: (w.begin % MINUTES_A_DAY, w.length, w.begin)):
        days, first = runs[-1] if runs else (0, window)
        if days and window == WeekWindow(first.begin + days * MINUTES_A_DAY, first.length):
            runs[-1] = (days + 1, first)
        else:
            runs.append((1, window))
    return listed(tuple(_run_of_days(days, first) for days, first in sorted(runs, key=lambda r: r[1])))


def _run_of_days(days: int, first: WeekWindow) -> str:
    if days == 1 or first.length > MINUTES_A_DAY:
        return str(first)
    day, begins = divmod(first.begin, MINUTES_A_DAY)
    ends = (begins + first.length) % MINUTES_A_DAY or MINUTES_A_DAY
    hours = f"{begins // 60:02}:{begins % 60:02}-{ends // 60:02}:{ends % 60:02}"
    return f"{WEEKDAYS[day]}-{WEEKDAYS[day + days - 1]} {hours}"


def _due(policy: StandingPolicy) -> Iterator[str]:
    due, what = policy.due, "cluster" if policy.group is None else "group"
    asked = [f"older than {in_words(due.max_age)}"] if due.max_age is not None else []
    asked += ["of an image that is not the newest"] if due.stale_image else []
    yield f"Due when {listed(tuple(asked), 'or')}." if asked else "Due at any age."
    if due.mean_time_between is not None:
        gap = f", never within {in_words(due.min_gap)}" if due.min_gap else ""
        yield f"The dice decide, so that a {what} is hit every {in_words(due.mean_time_between)} on average{gap}."
    elif due.probability < 1:
        yield f"The dice decide: a {what} is hit with a chance of {due.probability:.0%} at each firing."
    if due.at_most is not None:
        whose = "" if policy.group is None else f" group{'' if due.at_most == 1 else 's'}"
        yield f"A firing takes {due.at_most}{whose} at the most; the others that are due wait for the next."
    if due.min_gap and due.mean_time_between is None:
        yield f"At least {in_words(due.min_gap)} pass between two kills of a {what}."


def _proved(policy: StandingPolicy) -> Iterator[str]:
    replace, run, warm = policy.replace, policy.limits_of_run, policy.warm
    if replace.snapshot_reuse_within is not None:
        yield f"A tested snapshot that is not older than {in_words(replace.snapshot_reuse_within)} is used again."
    if replace.snapshot_keep:
        yield f"{replace.snapshot_keep} snapshots stay behind."
    share = "All" if run.compare_share == 1 else f"{run.compare_share:.0%}, drawn by lot,"
    within = in_words(run.compare_within)
    whose = "the server that it was copied from" if run.compare_with is Reference.SOURCE else "the master"
    yield f"{share} of its data are compared with those of {whose}, within {within}."
    if warm is not None and replace.when is Replacement.BEFORE:
        late = "the run is refused" if warm.otherwise is Otherwise.REFUSE else "the kill happens all the same"
        yield (
            f"{warm.gate:.0%} of the victim's hot pages have to be in the heir's memory, and its canary queries answer "
            f"within {warm.factor:g} times the victim's time; if not within {in_words(warm.within)}, {late}."
        )


def _how(policy: StandingPolicy) -> Iterator[str]:
    replace, run = policy.replace, policy.limits_of_run
    match replace.when:
        case Replacement.BEFORE:
            yield f"A fresh copy of a {replace.snapshot_from} is built before the kill; it is to be the heir."
        case Replacement.AFTER:
            yield "The death comes first; the replacement is built afterwards."
        case Replacement.NONE:
            yield "Nothing is built: the cluster ends one smaller."
        case _:
            assert_never(replace.when)
    if replace.when is not Replacement.NONE:
        yield from _proved(policy)
    yield {
        KillMode.CRASH: "The victim is crashed: no warning, no shut-down.",
        KillMode.TERMINATE: "The victim is terminated by its provider; its server may shut down cleanly.",
        KillMode.FREEZE: "The victim is frozen, alive but silent, and then fenced.",
        KillMode.DRAIN: "The victim is made read-only, the replicas catch up, then it is killed.",
    }[run.mode]
    match run.failover:
        case FailoverBy.REAPER:
            yield "Reaper fences the victim, elects the heir and promotes it."
        case FailoverBy.OBSERVE:
            within = in_words(run.failover_within)
            yield f"Reaper only kills and measures: the site's own tool has {within} to fail over, and is graded."
        case _:
            assert_never(run.failover)
    kept = f"kept for {in_words(run.quarantine)}, then deleted" if run.quarantine else "deleted when the run is over"
    yield f"The dead instance is never started again; its data are {kept}."


def _guards(policy: StandingPolicy) -> Iterator[str]:
    run = policy.limits_of_run
    yield (
        f"Refused when a surviving replica lags more than {in_words(run.max_lag)}, fewer than {run.min_copies} copies "
        f"would be left, or a transaction on the victim is older than {in_words(run.max_transaction_age)}."
    )
    match run.loss:
        case Loss.FORBIDDEN:
            yield "Refused unless semi-synchronous replication is on and acknowledging."
        case Loss.ACCEPTED:
            yield "LOSS IS ACCEPTED: it goes without semi-sync; acknowledged writes may be lost, and are counted."
        case _:
            assert_never(run.loss)
    if policy.cool_down:
        yield f"A cluster is left alone for {in_words(policy.cool_down)} after any run."
    for check in policy.checks:
        yield f"Refused unless {check_in_words(check)}; no answer within {in_words(check.within)} refuses too."


def check_in_words(check: ExternalCheck) -> str:
    """What has to hold: for explanations and for verdicts."""
    match check:
        case PrometheusCheck():
            threshold = f"{check.comparison} {check.threshold:g}"
            return f"{check.name}: every sample of `{check.query}` at {check.url} is {threshold}"
        case CloudwatchCheck():
            return f"{check.name}: the CloudWatch alarm {check.alarm} is OK"
        case HttpCheck():
            return f"{check.name}: {check.url} answers {check.status}"
        case ScriptCheck():
            return f"{check.name}: `{' '.join(check.command)}` ends with status 0"
        case _:
            assert_never(check)


def _limit(limit: Limit) -> str:
    parts = ["1 instance" if limit.count == 1 else f"{limit.count} instances"] if limit.count is not None else []
    parts += [f"{limit.percent:g} %"] if limit.percent is not None else []
    scope = {
        Scope.FLEET: "of the fleet",
        Scope.POLICY: "of what it targets",
        Scope.SHARD_GROUP: "of each shard group",
        Scope.ZONE: "of each zone",
    }[limit.scope]
    return f"{' and '.join(parts)} {scope}"


def _radius(policy: StandingPolicy) -> Iterator[str]:
    limits = policy.limits
    yield f"At the same time at most {listed(tuple(map(_limit, limits.in_flight)))}; the rest waits."
    if limits.selection:
        yield f"A firing that selects more than {listed(tuple(map(_limit, limits.selection)), 'or')} is aborted."


def _budgets(policy: StandingPolicy) -> Iterator[str]:
    budgets = policy.budgets
    normal = f", more than {in_words(budgets.time_to_normal)} until normal" if budgets.time_to_normal else ""
    number = budgets.failures_in_a_row
    row = "one bad run leashes" if number == 1 else f"{number} bad runs in a row leash"
    lost = "any lost write" if budgets.lost_writes == 0 else f"more than {budgets.lost_writes} lost writes"
    yield f"A run is bad with an outage of more than {in_words(budgets.outage)}, {lost}{normal}; {row} it."


def _waivers(policy: StandingPolicy, now: datetime) -> Iterator[str]:
    for waiver in policy.waivers:
        of = f"{waiver.guard} ({waiver.difference})" if waiver.difference else waiver.guard
        state = f"until {waiver.expires}" if waiver.holds(now) else f"EXPIRED on {waiver.expires}, it counts no more"
        yield f"Waived: {of}, by {waiver.owner}, {state}: {waiver.reason}."


def _people(policy: StandingPolicy) -> Iterator[str]:
    if policy.approval is not None:
        by = listed(policy.approval.by, "or") or "somebody"
        yield f"Before the kill {by} has to say yes within {in_words(policy.approval.within)}."
    before = f" {in_words(policy.announce.before)} before it fires," if policy.announce.before else ""
    yield f"Tells {listed(policy.announce.to)}{before} when it begins and when it ends."
