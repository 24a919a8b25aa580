"""What a forecast says, in sentences: the same words in every form of the report."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from reaper.domain.almanac import Closed
from reaper.domain.facts import InstanceId
from reaper.domain.plan import Plan, Replacement, Role
from reaper.domain.policy import FailoverBy, Waiver
from reaper.domain.standing import Scope, StandingPolicy
from reaper.planner.outlook import Day, DayOfPolicy
from reaper.planner.radius import UNKNOWN, Exceeded
from reaper.planner.report import Conflict, Decision, Report, State
from reaper.planner.words import listed
from reaper.workflow.forecast import Forecast, Foreseen

MOST_NAMED = 12  # of many alike, before "and N more"


def zone_of(policy: StandingPolicy) -> tzinfo:
    """The clocks that a policy's times are told on."""
    return ZoneInfo(policy.schedule.zone if policy.schedule else policy.calendar.zone)


def moment(at: datetime, zone: tzinfo) -> str:
    """`Tue 2026-12-01 03:00 Asia/Tokyo`; seconds where there are any."""
    local = at.astimezone(zone)
    return f"{local:%a %Y-%m-%d %H:%M}{f':{local:%S}' if local.second else ''} {zone}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _bodies(runs: Iterable[Foreseen]) -> str:
    """`2 masters and 1 replica`; an instance that two policies take dies once."""
    victims: dict[InstanceId, Role] = {run.plan.victim: run.plan.role for run in runs}
    roles = Counter(victims.values())
    return listed(tuple(_number(roles[role], role.value) for role in Role if roles[role])) or "nobody"


def headline(forecast: Forecast) -> str:
    """The answer in one sentence or two."""
    going, refused, decisions = forecast.going, forecast.refused, forecast.report.decisions
    aborted = [d for d in decisions if isinstance(d.radius, Exceeded)]
    tail = f", {len(refused)} {'is' if len(refused) == 1 else 'are'} refused" if refused else ""
    if aborted:
        one = len(aborted) == 1
        tail += f", {_number(len(aborted), 'firing')} {'is' if one else 'are'} aborted because too many are due"
    acting = tuple(run for run in going if run.state is State.ARMED)
    if decisions and all(d.state is not State.ARMED for d in decisions):
        each = "The policy is leashed" if len(decisions) == 1 else "Every policy is leashed"
        said = f"{each}, so that nothing is touched. Armed, {_bodies(going)} would die{tail}."
    elif forecast.paused:
        said = f"Everything is {forecast.paused}. Otherwise {_bodies(acting)} would die{tail}."
    else:
        said = f"{_bodies(acting)} would die{tail}."
        leashed = tuple(run for run in going if run.state is not State.ARMED)
        if leashed:
            said += f" Policies that are leashed would take {_bodies(leashed)} besides."
    return f"{said[0].upper()}{said[1:]}"


def asked_about(forecast: Forecast) -> str:
    """Which moment the report is about."""
    report = forecast.report
    zone = ZoneInfo(report.outlook.zone)
    if all(d.at == report.at for d in report.decisions):
        return f"If the policies fired on {moment(report.at, zone)}."
    return "At the next firing of each policy."


def basis(forecast: Forecast) -> str:
    """What the report stands on."""
    report = forecast.report
    said = (
        f"{_number(report.clusters, 'cluster')} with {_number(report.living, 'instance')} observed, and the guards "
        f"asked, at {forecast.taken_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
    if forecast.unobserved:
        said += f"; {_number(len(forecast.unobserved), 'cluster')} could not be observed"
    return f"{said}. Nothing was touched."


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Something that is not done, and why: of a run, of a firing, or of a cluster nobody can see."""

    title: str
    culprit: str  # the guard, the limit, the observation
    reason: str
    evidence: tuple[str, ...] = ()


def stops(forecast: Forecast) -> tuple[Stop, ...]:
    """Every refusal, the gravest first."""
    found = []
    if forecast.paused:
        found.append(Stop(title="Nothing begins", culprit="the lever", reason=forecast.paused))
    for decision in forecast.report.decisions:
        if isinstance(decision.radius, Exceeded):
            title = f"The firing of {decision.policy.name} would be aborted before any action"
            first, *others = decision.radius.why
            found.append(Stop(title=title, culprit="blast radius", reason=first, evidence=tuple(others)))
    for run in forecast.refused:
        for verdict in run.refused_by:
            title = f"{run.plan.victim.short}, the {run.plan.role} of {run.plan.cluster}, would not die"
            found.append(Stop(title=title, culprit=verdict.guard, reason=verdict.reason, evidence=verdict.evidence))
    for blind in forecast.unobserved:
        title = f"{blind.cluster} is left alone"
        found.append(Stop(title=title, culprit="observation", reason=f"it could not be observed: {blind.why}"))
    return tuple(found)


def death(run: Foreseen) -> str:
    """Who would die, how, and who inherits."""
    plan = run.plan
    return f"{plan.policy.mode} kill of {plan.victim}, the {plan.role} of {plan.cluster}; {inheritance(plan)}"


def inheritance(plan: Plan) -> str:
    """Who takes over, in words."""
    if plan.role is Role.REPLICA:
        return "nobody inherits, a replica dies"
    if plan.policy.failover is FailoverBy.OBSERVE:
        return "the site's own failover tool chooses the heir"
    if plan.replacement is Replacement.BEFORE:
        return f"the new copy {plan.run}-heir inherits"
    return "the replica that holds most inherits"


def fire(run: Foreseen, report: Report) -> str:
    """When a run's policy fires, on its own clocks."""
    policy = next(d.policy for d in report.decisions if d.policy.name == run.policy)
    return moment(run.fire, zone_of(policy))


def standing(decision: Decision) -> str:
    """Armed or leashed, and why."""
    return f"{decision.state}{': ' if decision.why_leashed else ''}{'; '.join(decision.why_leashed)}"


def fires_next(decision: Decision) -> str:
    """When a policy fires next, on its own clocks."""
    if decision.policy.schedule is None:
        return "only when a person asks"
    if decision.next_fire is None:
        return "never"
    return moment(decision.next_fire, zone_of(decision.policy))


def calendar(decision: Decision) -> str:
    """The calendar's verdict, its reason, and how long it holds."""
    hours, zone = decision.hours, zone_of(decision.policy)
    closed = isinstance(hours, Closed)
    until = ""
    if hours.until is not None:
        until = f"; {'not before' if closed else 'until'} {moment(hours.until, zone)}"
    return f"{'closed' if closed else 'open'} on {moment(decision.at, zone)}: {hours.why}{until}"


def radius(decision: Decision) -> tuple[str, ...]:
    """How much would die of every scope, the worst of its groups and zones; what a limit says first."""
    # Where nobody's group or zone is known, its part says what the fleet's says already.
    fleet = {part.living for part in decision.parts if part.scope is Scope.FLEET}
    measured = tuple(str(p) for p in decision.parts if p.name != UNKNOWN or p.living not in fleet)
    if isinstance(decision.radius, Exceeded):
        return tuple(f"EXCEEDED: {why}" for why in decision.radius.why) + measured
    return measured


def would_stop(decision: Decision) -> str:
    """Why the whole firing comes to nothing; "" if it does not."""
    return "; ".join(decision.stopped)


def conflict(found: Conflict) -> str:
    """Who goes first and what becomes of the others."""
    first, *others = found.policies
    return (
        f"{found.cluster} is taken by {listed(found.policies)}: {first} goes first, {found.why}; "
        f"{listed(tuple(others))} {'waits' if len(others) == 1 else 'wait'} for a later firing"
    )


@dataclass(frozen=True, kw_only=True)
class SparedAlike:
    """Instances or clusters that one policy spares for one reason."""

    policy: str
    names: tuple[str, ...]
    why: str

    @property
    def count(self) -> int:
        """How many."""
        return len(self.names)

    @property
    def named(self) -> str:
        """Some of them by name, the rest by number."""
        more = len(self.names) - MOST_NAMED
        return ", ".join(self.names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def spared(decisions: Iterable[Decision]) -> tuple[SparedAlike, ...]:
    """Everybody who is spared, those alike together; in the order of the policies."""
    alike: dict[tuple[str, str], list[str]] = {}
    for decision in decisions:
        for one in decision.selection.spared:
            name = one.instance.name if one.instance else one.cluster
            alike.setdefault((decision.policy.name, one.why), []).append(name)
    return tuple(SparedAlike(policy=p, names=tuple(names), why=why) for (p, why), names in alike.items())


def waived(waiver: Waiver) -> str:
    """What a waiver covers and whose word it is."""
    return f"{waiver.guard}{f' ({waiver.difference})' if waiver.difference else ''}: {waiver}"


def fires_of(day: DayOfPolicy) -> str:
    """The fires of a day on the policy's clocks: all of them if they are few, else how many and between when."""
    if not day.fires:
        return ""
    zone = day.fires[0].tzinfo
    if len(day.fires) <= 4:
        return f"{', '.join(f'{f:%H:%M}' for f in day.fires)} {zone}"
    return f"{len(day.fires)} times, {day.fires[0]:%H:%M} to {day.fires[-1]:%H:%M} {zone}"


def deaths_of(most: int, expected: float) -> str:
    """`at most 8, about 0.5 to be expected`."""
    if abs(expected - most) < 0.05:
        return f"at most {most}"
    return f"at most {most}, about {expected:.1f} to be expected"


def peak(day: Day) -> str:
    """The day on which most may be down at one moment."""
    return (
        f"At the peak, on {day.day:%a %Y-%m-%d}, at most {_number(day.at_once, 'instance')} may be down at one moment."
    )


def facts(decision: Decision) -> tuple[tuple[str, str], ...]:
    """A policy's circumstances: a topic and what is said of it."""
    selection = decision.selection
    due = f"{len(selection.due)} due, of {_number(selection.targeted, 'targeted cluster')} with "
    said = [
        ("about", " ".join(decision.policy.description.split())),
        ("fires next", fires_next(decision)),
        ("calendar", calendar(decision)),
        ("selection", f"{due}{_number(selection.living, 'instance')} (seed {selection.seed})"),
        ("comes to nothing", would_stop(decision)),
        ("blast radius", "; ".join(radius(decision))),
        ("waivers in force", "; ".join(map(waived, decision.waivers)) or "none"),
        ("waivers expired", "; ".join(map(waived, decision.expired))),
    ]
    return tuple((topic, text) for topic, text in said if text)


def cut_short(policy: str) -> str:
    """Why days are missing."""
    return f"{policy} fires so often that the days after these were not counted, nor shown"
