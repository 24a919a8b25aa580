"""Who announces runs over groups."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from reaper.domain.announcement import Announcement
from reaper.domain.groups import GroupPlan, GroupVerdict
from reaper.domain.verdict import Event, GuardVerdict, RunState
from reaper.planner.groups_announcing import group_run_began, group_run_ended


class GroupHerald:
    """Announces that runs begin and how they end, and remembers whether one of them was not good."""

    def __init__(
        self, announce: Callable[[str | None, Announcement], None], recall: Callable[[str], GroupPlan | None]
    ) -> None:
        self._announce = announce  # to the name of the policy that asked; None: a person did
        self._recall = recall
        self._lock = threading.Lock()
        self._plans: dict[str, GroupPlan] = {}
        self._ended: set[str] = set()  # names of policies whose runs have ended since they were asked for
        self.bad = False

    def begin(self, plan: GroupPlan) -> None:
        """A run is born; said once, also when another process goes on with it."""
        self._plans[plan.run] = plan
        self._announce(plan.standing, group_run_began(plan, datetime.now(UTC)))

    def guards(self, _run: str, _verdicts: tuple[GuardVerdict, ...]) -> None:
        """Not announced: a refusal is how a run ends."""

    def event(self, _run: str, _event: Event) -> None:
        """Not announced."""

    def end(self, run: str, state: RunState, verdict: GroupVerdict, message: str) -> None:
        """A run is over."""
        self.bad |= state is not RunState.GOOD
        plan = self._plans.pop(run, None) or self._recall(run)
        if plan is None:
            return
        if plan.standing:
            with self._lock:
                self._ended.add(plan.standing)
        self._announce(plan.standing, group_run_ended(plan, state, verdict, message, datetime.now(UTC)))

    def take_ended(self) -> set[str]:
        """The policies whose runs have ended since the last time somebody asked."""
        with self._lock:
            taken, self._ended = self._ended, set()
        return taken
