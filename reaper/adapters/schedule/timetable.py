"""APScheduler as the clock of policies: it only says when one fires. Nothing is caught up."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_MISSED, JobExecutionEvent  # type: ignore[import-untyped]  # ships no types
from apscheduler.executors.pool import ThreadPoolExecutor  # type: ignore[import-untyped]
from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]

from reaper.adapters.schedule.fires import PolicyTrigger
from reaper.domain.standing import StandingPolicy

Fire = Callable[[str, datetime], None]  # the policy's name, the scheduled moment

AT_ONCE = 20  # policies that decide at the same moment; the others wait, within their grace
_A_MOMENT = timedelta(seconds=1)


class Timetable:
    """Calls `fire` at each policy's fire times, and `missed` for one that could not be kept within its grace."""

    def __init__(self, fire: Fire, missed: Fire) -> None:
        self._fire = fire
        self._missed = missed
        self._triggers: dict[str, PolicyTrigger] = {}
        self._policies: dict[str, StandingPolicy] = {}
        self._scheduler = BackgroundScheduler(
            timezone=UTC, executors={"default": ThreadPoolExecutor(AT_ONCE)}, daemon=True
        )
        self._scheduler.add_listener(self._on_missed, EVENT_JOB_MISSED)
        logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it logs every job at INFO

    def replace(self, policies: Mapping[str, StandingPolicy]) -> None:
        """These policies from now on; one that has not changed keeps its place."""
        for name in [n for n in self._policies if policies.get(n) != self._policies[n]]:
            del self._policies[name]
            if self._triggers.pop(name, None) is not None:
                self._scheduler.remove_job(name)
        for name, policy in policies.items():
            if name in self._policies:
                continue
            self._policies[name] = policy
            trigger = PolicyTrigger.of(policy)
            if trigger is None or policy.schedule is None:
                continue
            self._triggers[name] = trigger
            self._scheduler.add_job(
                self._on_time,
                trigger,
                (name,),
                id=name,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=max(1, int(policy.schedule.grace / _A_MOMENT)),
            )

    def trigger(self, name: str) -> PolicyTrigger | None:
        """The trigger of a policy; None: it has no schedule."""
        return self._triggers.get(name)

    def next_fire(self, name: str) -> datetime | None:
        """When a policy fires next; None: it has no schedule, or never does."""
        job = self._scheduler.get_job(name) if name in self._triggers else None
        moment: datetime | None = getattr(job, "next_run_time", None)
        return moment

    def start(self) -> None:
        """Begin to fire."""
        self._scheduler.start()

    def stop(self) -> None:
        """Fire no more; who decides already is waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def _on_time(self, name: str) -> None:
        trigger, policy = self._triggers.get(name), self._policies.get(name)
        if trigger is None or policy is None or policy.schedule is None:
            return  # it was taken off the table meanwhile
        now = datetime.now(UTC)
        fire = trigger.last_within(now - policy.schedule.grace - _A_MOMENT, now)
        if fire is not None:
            self._fire(name, fire)

    def _on_missed(self, event: JobExecutionEvent) -> None:
        self._missed(event.job_id, event.scheduled_run_time.astimezone(UTC))
