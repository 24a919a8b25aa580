"""Who watches a run: a person who may interrupt it, its journal, the lock that keeps it alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from reaper.domain.errors import AbortedError, RefusedError
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict
from reaper.testing.faults import Faults


class FakeInterrupt:
    """A person's wish to stop, uttered by a test."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.wished = False
        self.crossed = False
        self.checks = 0
        self.abort_at_check: int | None = None  # the check, counted from 1, at which the wish comes up

    def check(self) -> None:
        """Raise AbortedError if a person asked to stop and the kill has not happened."""
        self.checks += 1
        if self.checks == self.abort_at_check:
            self.wished = True
        if self.wished and not self.crossed:
            raise AbortedError("stopped by a person before the kill")

    def cross(self) -> None:
        """The point of no return."""
        with self._faults.around("cross", "*"):
            self.check()
            self.crossed = True


@dataclass(kw_only=True)
class Record:
    """Everything that was recorded of one run."""

    plan: Plan
    guards: list[tuple[GuardVerdict, ...]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    state: RunState = RunState.RUNNING
    verdict: RunVerdict | None = None
    message: str = ""


class RecordingJournal:
    """Keeps everything. `listeners` are called on every event, in the run's own thread."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.runs: dict[str, Record] = {}
        self.listeners: list[Callable[[Event], None]] = []

    def begin(self, plan: Plan) -> None:
        """A run is born."""
        with self._faults.around("begin", plan.cluster):
            self.runs[plan.run] = Record(plan=plan)

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said."""
        with self._faults.around("guards", run):
            self.runs[run].guards.append(verdicts)

    def event(self, run: str, event: Event) -> None:
        """One line of the timeline."""
        with self._faults.around("event", event.step):
            self.runs[run].events.append(event)
            for listener in self.listeners:
                listener(event)

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over. Said once."""
        record = self.runs[run]
        if record.state is not RunState.RUNNING:
            raise AssertionError(f"{run} has ended twice: {record.state}, then {state}")
        record.state, record.verdict, record.message = state, verdict, message


class Locks:
    """One holder per cluster; a second one is refused."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._guard = Lock()

    @contextmanager
    def hold(self, cluster: str) -> Iterator[None]:
        """Hold a cluster's lock. RefusedError: somebody has it."""
        with self._guard:
            if cluster in self._held:
                raise RefusedError(f"another run works on {cluster}")
            self._held.add(cluster)
        try:
            yield
        finally:
            with self._guard:
                self._held.discard(cluster)
