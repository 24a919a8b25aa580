"""Who watches a run: a person who may interrupt it, its journal, the lock that keeps it alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

from reaper.domain.checks import ExternalCheck
from reaper.domain.errors import AbortedError
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, GuardVerdict, Ruling, RunState, RunVerdict
from reaper.testing.faults import Faults


class FakeInterrupt:
    """A person's wish to stop, uttered by a test."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.wished = False
        self.is_crossed = False
        self.checks = 0
        self.abort_at_check: int | None = None  # the check, counted from 1, at which the wish comes up

    def check(self) -> None:
        """Raise AbortedError if a person asked to stop and the kill has not happened."""
        self.checks += 1
        if self.checks == self.abort_at_check:
            self.wished = True
        if self.wished and not self.is_crossed:
            raise AbortedError("stopped by a person before the kill")

    def cross(self) -> None:
        """The point of no return."""
        with self._faults.around("cross", "*"):
            self.check()
            self.is_crossed = True

    def crossed(self) -> None:
        """The kill lies behind already."""
        self.is_crossed = True


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
            self.runs.setdefault(plan.run, Record(plan=plan))

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
        """A run is over. Said again only by a process that replays the end, or that finishes what was stuck."""
        with self._faults.around("end", run):
            record = self.runs.get(run)
            if record is None:
                return  # it could not be born: there is no record to end, as in the store
            if record.state not in (RunState.RUNNING, RunState.STUCK, state):
                raise AssertionError(f"{run} has ended twice: {record.state}, then {state}")
            record.state, record.verdict, record.message = state, verdict, message


class Lever:
    """What a person pulls to stop everything, in words; None: it is not pulled."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __call__(self) -> str | None:
        """Why it is pulled."""
        return self.reason


class FakeChecker:
    """The workflow's `Checker`: everybody says yes, but those whose refusal is set."""

    def __init__(self) -> None:
        self.refusals: dict[str, str] = {}  # name of a check, its reason
        self.asked: list[str] = []

    def ask(self, check: ExternalCheck, _plan: Plan) -> GuardVerdict:
        """Answer."""
        self.asked.append(check.name)
        reason = self.refusals.get(check.name)
        ruling = Ruling.REFUSE if reason else Ruling.GO
        return GuardVerdict(guard=f"check {check.name}", ruling=ruling, reason=reason or "it says yes")
