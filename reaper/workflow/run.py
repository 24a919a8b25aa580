"""One run's timeline: steps in, events out, with the clock injected."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from reaper.domain.errors import ReaperError
from reaper.domain.plan import Plan, StepName
from reaper.domain.verdict import Event, EventKind
from reaper.workflow.world import World

_AGAIN_AFTER = timedelta(seconds=1)


def persist(world: World, within: timedelta, what: str, action: Callable[[], None]) -> str:
    """Try something until it is done or its time is over; "" or why it could not be done."""
    deadline = world.clock.monotonic_ns() + int(within.total_seconds() * 1e9)
    while True:
        try:
            action()
        except ReaperError as error:
            if world.clock.monotonic_ns() > deadline:
                return f"could not {what}: {error}"
            world.clock.sleep(_AGAIN_AFTER)
        else:
            return ""


class Timeline:
    """Records the steps of one run. `hold` keeps events back while nothing may delay the cutover."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._run = plan.run
        self._held: list[Event] | None = None
        self._forgiving = False
        self._troubles: list[str] = []  # what could not be recorded after the kill

    def forgive(self) -> None:
        """From the kill on a journal that fails must not stop the run: it is a trouble of the run instead."""
        self._forgiving = True

    def hold(self) -> None:
        """Keep events in memory from now on."""
        self._held = []

    def release(self) -> None:
        """Pass on what was kept, and everything after it at once."""
        held, self._held = self._held, None
        for event in held or ():
            self._pass_on(event)

    def drain_troubles(self) -> tuple[str, ...]:
        """What could not be recorded since the last time, each once."""
        troubles, self._troubles = self._troubles, []
        return tuple(f"could not record the timeline: {trouble}" for trouble in dict.fromkeys(troubles))

    def _pass_on(self, event: Event) -> None:
        try:
            self._world.journal.event(self._run, event)
        except ReaperError as error:
            if not self._forgiving:
                raise
            self._troubles.append(str(error))

    def note(self, step: StepName, detail: str) -> None:
        """Something a reader must know."""
        self._emit(step, EventKind.NOTE, detail, self._world.clock.monotonic_ns())

    def span(self, step: StepName, detail: str, began_ns: int, ended_ns: int) -> None:
        """A step that ran between two moments, told afterwards."""
        self._emit(step, EventKind.DONE, detail, ended_ns, took_ns=ended_ns - began_ns)

    @contextmanager
    def step(self, step: StepName, detail: str) -> Iterator["Outcome"]:
        """A step: started, then done or failed. The body may say more through the outcome's `detail`."""
        began = self._world.clock.monotonic_ns()
        self._emit(step, EventKind.STARTED, detail, began)
        outcome = Outcome(detail)
        try:
            yield outcome
        except BaseException as error:
            ended = self._world.clock.monotonic_ns()
            self._emit(step, EventKind.FAILED, str(error) or type(error).__name__, ended, took_ns=ended - began)
            raise
        ended = self._world.clock.monotonic_ns()
        self._emit(step, EventKind.DONE, outcome.detail, ended, took_ns=ended - began)

    def _emit(self, step: StepName, kind: EventKind, detail: str, at_ns: int, *, took_ns: int | None = None) -> None:
        wall = self._world.clock.now().isoformat(timespec="milliseconds")
        event = Event(step=step, kind=kind, detail=detail, at_ns=at_ns, wall=wall, took_ns=took_ns)
        if self._held is not None:
            self._held.append(event)
        else:
            self._pass_on(event)


class Outcome:
    """What a step says when it is done."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
