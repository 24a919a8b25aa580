"""Simulated clusters and policies over them: what the tests of the dry-run report share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from reaper.domain.almanac import Hours, Open
from reaper.domain.cron import Cron
from reaper.domain.policy import Policy
from reaper.domain.standing import Schedule, StandingPolicy, Target
from reaper.planner.outlook import Coming
from reaper.planner.report import Subject
from reaper.planner.selection import ClusterHistory, Occasion
from reaper.testing.fleet import MemoryFleet
from reaper.testing.world import world
from reaper.workflow.forecast import Forecast, Span, forecast

OPEN = Open(until=None, why="no rule closes this moment")
DAY = timedelta(days=1)


def policy(name: str = "nightly", **changes: object) -> StandingPolicy:
    quick = Policy(soak=timedelta(milliseconds=10))
    base = StandingPolicy(name=name, target=Target(), limits_of_run=quick)
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def subject(
    of: StandingPolicy,
    at: datetime,
    *,
    hours: Hours = OPEN,
    history: Mapping[str, ClusterHistory] | None = None,
    leashed: tuple[str, ...] = (),
    fires: tuple[datetime, ...] = (),
) -> Subject:
    return Subject(
        policy=of,
        occasion=Occasion(now=at, since_last=DAY, seed=7),
        hours=hours,
        history={} if history is None else history,
        leashed=leashed,
        coming=Coming(fires=fires, more=False),
        next_fire=fires[0] if fires else None,
    )


def at_three(zone: str = "UTC") -> Schedule:
    return Schedule(cron=Cron.parse("0 3 * * *"), zone=zone)


@dataclass
class Night:
    """Clusters in memory, and a report about them."""

    clusters: tuple[str, ...] = ("db-1", "db-2", "db-3")
    fleet: MemoryFleet = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = MemoryFleet()
        for name in self.clusters:
            self.fleet.add_cluster(name)

    @property
    def now(self) -> datetime:
        return self.fleet.clock.now()

    def of(self, *policies: StandingPolicy | Subject, days: int = 3, zone: str = "UTC") -> Forecast:
        subjects = [p if isinstance(p, Subject) else subject(p, self.now) for p in policies]
        return forecast(world(self.fleet), subjects, Span(at=self.now, days=days, zone=zone))
