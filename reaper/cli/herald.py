"""Listeners of runs: several at once, and one who announces them. And what is said outside a run."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reaper.adapters.announce.dispatcher import Dispatcher
from reaper.cli.logging import logger
from reaper.cli.settings import read_settings
from reaper.domain.announcement import Announcement
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict
from reaper.planner.announcing import run_began, run_ended
from reaper.workflow.ports import Journal

_TELL_WITHIN = timedelta(seconds=10)


def tell_now(home: Path, to: tuple[str, ...], announcement: Announcement) -> None:
    """Tell the channels of a site, from a command that ends afterwards; what could not be told is in the log."""
    dispatcher = Dispatcher(read_settings(home).channels, logger())
    dispatcher.tell(to, announcement)
    dispatcher.close(_TELL_WITHIN)


class Several:
    """Tells all of them, in order."""

    def __init__(self, *listeners: Journal) -> None:
        self._listeners = listeners

    def begin(self, plan: Plan) -> None:
        """A run is born."""
        for listener in self._listeners:
            listener.begin(plan)

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said."""
        for listener in self._listeners:
            listener.guards(run, verdicts)

    def event(self, run: str, event: Event) -> None:
        """One line of the timeline."""
        for listener in self._listeners:
            listener.event(run, event)

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over."""
        for listener in self._listeners:
            listener.end(run, state, verdict, message)


class Herald:
    """Announces that runs begin and how they end, and remembers whether one of them was not good."""

    def __init__(self, announce: Callable[[Plan, Announcement], None], recall: Callable[[str], Plan | None]) -> None:
        self._announce = announce
        self._recall = recall
        self._lock = threading.Lock()
        self._plans: dict[str, Plan] = {}
        self._ended: set[str] = set()  # names of policies whose runs have ended since they were asked for
        self.bad = False

    def begin(self, plan: Plan) -> None:
        """A run is born; said once, also when another process goes on with it."""
        self._plans[plan.run] = plan
        self._announce(plan, run_began(plan, datetime.now(UTC)))

    def guards(self, _run: str, _verdicts: tuple[GuardVerdict, ...]) -> None:
        """Not announced: a refusal is how a run ends."""

    def event(self, _run: str, _event: Event) -> None:
        """Not announced."""

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over."""
        self.bad |= state is not RunState.GOOD
        plan = self._plans.pop(run, None) or self._recall(run)
        if plan is None:
            return
        if plan.standing:
            with self._lock:
                self._ended.add(plan.standing)
        self._announce(plan, run_ended(plan, state, verdict, message, datetime.now(UTC)))

    def take_ended(self) -> set[str]:
        """The policies whose runs have ended since the last time somebody asked."""
        with self._lock:
            taken, self._ended = self._ended, set()
        return taken
