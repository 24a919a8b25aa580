"""When a policy fires. The same code announces the times and fires at them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger  # type: ignore[import-untyped]  # version 3 ships no types

from reaper.adapters.schedule.almanacs import Almanacs, almanacs_of
from reaper.adapters.schedule.slots import Slots
from reaper.domain.almanac import Calendar, Closed, Hours
from reaper.domain.standing import Schedule, StandingPolicy
from reaper.planner.calendar import judge

HORIZON = timedelta(days=5 * 366)  # beyond a leap day's next; a policy that does not fire before it never does
MOST_SLOTS = 20_000  # looked at for one fire; a day with jitter has 1440 by the minute
MOST_MISSED = 1000
_TICK = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Missed:
    """Opportunities that passed while nobody fired. They are reported and never caught up."""

    fires: tuple[datetime, ...]  # the first of them
    more: bool  # there were more than are listed


class PolicyTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 ships no types
    """The fires of one policy: its cron slots, each moved by its own jitter, without those on a closed calendar.

    The jitter of a slot is derived from the policy's name and the slot, so that the announced time is the fired
    time, in every process. A fire whose moment is closed is left out, not moved.

    Fires are in UTC: Python compares and subtracts two moments of one zone by the readings of its clock, which is
    wrong in the nights in which the clock is changed.
    """

    def __init__(self, name: str, schedule: Schedule, calendar: Calendar, almanacs: Almanacs) -> None:
        self._name, self._schedule, self._calendar, self._almanacs = name, schedule, calendar, almanacs
        self._zone = ZoneInfo(schedule.zone)
        self._slots = Slots(schedule.cron, self._zone)

    @classmethod
    def of(cls, policy: StandingPolicy) -> "PolicyTrigger | None":
        """The trigger of a policy; None: it has no schedule, a person fires it."""
        if policy.schedule is None:
            return None
        return cls(policy.name, policy.schedule, policy.calendar, almanacs_of(policy.calendar))

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """What APScheduler asks."""
        return self.after(now - _TICK if previous_fire_time is None else previous_fire_time)

    def after(self, moment: datetime) -> datetime | None:
        """The first fire after a moment. None: none within five years."""
        moment = moment.astimezone(UTC)
        jitter, last = self._schedule.jitter, moment + HORIZON
        cursor, best = moment - jitter - _TICK, None
        shut: tuple[datetime, datetime] | None = None  # closed from here until there
        for _ in range(MOST_SLOTS):
            if best is None and shut is not None and cursor > shut[0]:  # earlier slots may still fall before it
                cursor, shut = max(cursor, shut[1] - jitter - _TICK), None
            slot = self._slots.after(cursor)
            if slot is None or slot > last or (best is not None and slot > best):
                break
            cursor, fire = slot, slot + self.jitter_of(slot)
            if fire <= moment or (best is not None and fire >= best):
                continue
            hours = self.judge(fire)
            if not isinstance(hours, Closed):
                best = fire
            elif shut is None and hours.until is not None:
                shut = (fire, hours.until)
        return best

    def upcoming(self, after: datetime, count: int) -> tuple[datetime, ...]:
        """The next fires after a moment; fewer than `count` if there are no more."""
        fires: list[datetime] = []
        for fire in self._from(after):
            if len(fires) == count:
                break
            fires.append(fire)
        return tuple(fires)

    def missed(self, after: datetime, now: datetime) -> Missed:
        """The fires after a moment (the last time anybody looked) that are older than the grace allows."""
        fires: list[datetime] = []
        for fire in self._from(after):
            if fire >= now - self._schedule.grace:
                break
            if len(fires) == MOST_MISSED:
                return Missed(fires=tuple(fires), more=True)
            fires.append(fire)
        return Missed(fires=tuple(fires), more=False)

    def last_within(self, after: datetime, until: datetime) -> datetime | None:
        """The last fire after a moment and not after another one; None: there is none."""
        last = None
        for fire in self._from(after):
            if fire > until:
                break
            last = fire
        return last

    def since_last(self, fire: datetime) -> timedelta:
        """From the fire before to this one, whether or not it was kept: how long the dice of this one stand for."""
        for back in (timedelta(hours=2), timedelta(days=1), timedelta(days=8), timedelta(days=63), HORIZON):
            previous = None
            for earlier in self._from(fire - back):
                if earlier >= fire:
                    break
                previous = earlier
            if previous is not None:
                return fire - previous
        return timedelta(0)

    def judge(self, at: datetime) -> Hours:
        """Whether the calendar is open, with the reason. Ask again right before acting: files change."""
        return judge(self._calendar, self._almanacs(at), at)

    def why_never(self, after: datetime) -> str:
        """Why the first slot after a moment is no fire; for a schedule whose every slot is closed."""
        slot = self._slots.after(after)
        if slot is None:
            return "its cron names no moment"
        return f"the slot at {slot.astimezone(self._zone):%a %Y-%m-%d %H:%M} is closed, {self.judge(slot).why}"

    def jitter_of(self, slot: datetime) -> timedelta:
        """How long after its slot the policy fires: whole seconds, below the jitter, the same in every process."""
        steps = self._schedule.jitter // _SECOND
        if steps < 1:
            return timedelta(0)
        digest = hashlib.sha256(f"{self._name}|{slot.astimezone(UTC).isoformat()}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % steps * _SECOND

    def _from(self, moment: datetime) -> Iterator[datetime]:
        fire = self.after(moment)
        while fire is not None:
            yield fire
            fire = self.after(fire)
