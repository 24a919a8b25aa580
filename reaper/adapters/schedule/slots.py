"""The moments that a cron expression means in a zone, clock changes included.

APScheduler's `CronTrigger` walks the readings of the clock; which moment a reading means is decided here. The
trigger's own arithmetic in a zone with clock changes (3.11.3, tried on 2026's changes) fires a nightly job twice in
the night when the clock is set back, and twice at one moment where it is set forward by half an hour.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]  # version 3 ships no types

from reaper.domain.cron import WEEKDAYS, Cron
from reaper.planner.walltime import moment_of, moments, reading

# No clock is changed by more at once, but for a country that moves across the date line (a gap, which is harmless).
_LARGEST_CHANGE = timedelta(hours=3)
_HOUR = timedelta(hours=1)
_HOURS_AROUND_A_CHANGE = 7
_TICK = timedelta(microseconds=1)
_EVERY = {"minute": 60, "hour": 24, "day": 31, "month": 12, "day_of_week": 7}


class Slots:
    """The slots of a cron expression, in order.

    An expression with a star for the hour follows elapsed time: every quarter of an hour stays that, also when a
    clock is changed. One that names hours fires once for each reading: in the night that has an hour twice at the
    first, in the night that lacks it at the moment of the change.
    """

    def __init__(self, cron: Cron, zone: tzinfo) -> None:
        self._cron, self._zone = cron, zone
        self._near: tuple[datetime, tuple[datetime, ...]] | None = None

    def after(self, moment: datetime) -> datetime | None:
        """The first slot after a moment, in UTC. None: there is none before the end of time."""
        moment = moment.astimezone(UTC)
        while True:  # ends: each round passes a change of the clock or leaves
            if self._calm(moment):
                wall = self._next_reading(reading(moment, self._zone))
                if wall is None:
                    return None
                slot = moment_of(wall, self._zone)
                if self._calm(slot):
                    return slot
                moment = max(moment, slot - _LARGEST_CHANGE)
            base = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            for hour in (base + i * _HOUR for i in range(_HOURS_AROUND_A_CHANGE)):
                later = [s for s in self._in_hour(hour) if s > moment]
                if later:
                    return later[0]
            moment = max(moment, base + _HOURS_AROUND_A_CHANGE * _HOUR - _TICK)

    def _in_hour(self, hour: datetime) -> tuple[datetime, ...]:
        """The slots of an hour near a change of the clock, where readings are out of order; the last one is kept."""
        if self._near is None or self._near[0] != hour:
            first = reading(hour, self._zone)
            wall, last = self._next_reading(first - _LARGEST_CHANGE - _TICK), first + _LARGEST_CHANGE + _HOUR
            found: set[datetime] = set()
            while wall is not None and wall <= last:
                found.update(s for s in self._meant_by(wall) if hour <= s < hour + _HOUR)
                wall = self._next_reading(wall)
            self._near = (hour, tuple(sorted(found)))
        return self._near[1]

    def _next_reading(self, wall: datetime) -> datetime | None:
        at = wall.replace(tzinfo=UTC)
        found: datetime | None = _clock(self._cron).get_next_fire_time(None, at + _TICK)
        return None if found is None else found.replace(tzinfo=None)

    def _meant_by(self, wall: datetime) -> tuple[datetime, ...]:
        return moments(wall, self._zone) if self._cron.every_hour else (moment_of(wall, self._zone),)

    def _calm(self, moment: datetime) -> bool:
        """True if no clock is changed near the moment."""
        around = [(moment + d).astimezone(self._zone).utcoffset() for d in (-_LARGEST_CHANGE, _LARGEST_CHANGE)]
        return around[0] == around[1]


@lru_cache(maxsize=64)  # 2 kB and 50 us each: not one for each of a thousand policies that wait for their day
def _clock(cron: Cron) -> CronTrigger:
    """What walks the readings. It keeps nothing from one call to the next."""
    fields = {
        "minute": _field("minute", cron.minutes),
        "hour": _field("hour", cron.hours),
        "day": _field("day", cron.days),
        "month": _field("month", cron.months),
        "day_of_week": _field("day_of_week", cron.weekdays),
    }
    return CronTrigger(**fields, timezone=UTC)  # UTC stands for a clock that is never changed


def _field(name: str, values: tuple[int, ...]) -> str:
    if len(values) == _EVERY[name]:
        return "*"
    return ",".join(WEEKDAYS[v] if name == "day_of_week" else str(v) for v in values)
