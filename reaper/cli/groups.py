"""Groups of stateless instances at this site: how they are reached, looked at, and told what is done to them."""

import contextlib
from collections.abc import Callable

from reaper.adapters.clock import SystemClock
from reaper.cli.compose import Site
from reaper.cli.journal import announcer
from reaper.domain.errors import ReaperError, UsageError
from reaper.domain.groups import GroupPlan, GroupVerdict
from reaper.domain.verdict import Event, EventKind, GuardVerdict, RunState
from reaper.workflow.groups import GroupJournal, Groups, GroupWorld
from reaper.workflow.ports import Interrupt, Journal

NOT_SET_UP = "no provider of groups is set up here: reaper.yaml of the data directory says under `ec2:` where they are"


class NoGroupsHereError(Exception):
    """A run over a group came to a process that reaches no groups. No `ReaperError`: the run goes on elsewhere."""


def reached(site: Site) -> Groups | None:
    """The groups of the site; None: no provider of any is set up."""
    return site.groups


def must_reach(site: Site) -> Groups:
    """The groups of the site. UsageError: no provider of any is set up."""
    groups = reached(site)
    if groups is None:
        raise UsageError(NOT_SET_UP)
    return groups


def group_world(site: Site, groups: Groups, listener: GroupJournal, interrupt: Interrupt) -> GroupWorld:
    """What a run over a group acts on."""
    return GroupWorld(
        groups=groups,
        clock=SystemClock(),
        interrupt=interrupt,
        journal=GroupFan(site.runs, listener),
        paused=site.paused,
    )


def recalled(site: Site, run: str) -> GroupPlan | None:
    """The plan of a run over a group that began in another process; None: it cannot be had."""
    try:
        record = site.runs.record(run)
    except ReaperError:
        return None
    return record.plan if isinstance(record.plan, GroupPlan) else None


class GroupFan:
    """Tells all of them, in order: the record first. Who listens besides never stops a run."""

    def __init__(self, record: GroupJournal, *listeners: GroupJournal) -> None:
        self._record = record
        self._listeners = listeners

    def begin(self, plan: GroupPlan) -> None:
        """A run is born."""
        self._record.begin(plan)
        self._tell(lambda listener: listener.begin(plan))

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said before one of the kills."""
        self._record.guards(run, verdicts)
        self._tell(lambda listener: listener.guards(run, verdicts))

    def event(self, run: str, event: Event) -> None:
        """One line of the timeline."""
        self._record.event(run, event)
        self._tell(lambda listener: listener.event(run, event))

    def end(self, run: str, state: RunState, verdict: GroupVerdict, message: str) -> None:
        """A run is over."""
        self._record.end(run, state, verdict, message)
        self._tell(lambda listener: listener.end(run, state, verdict, message))

    def _tell(self, what: Callable[[GroupJournal], None]) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError, ValueError):  # the terminal or the pipe may have gone
                what(listener)


class GroupAnnouncer:
    """Tells a listener of runs over clusters, in the words that it has, of a run over a group."""

    def __init__(self, listener: Journal, now: Callable[[], tuple[int, str]]) -> None:
        self._listener = listener
        self._now = now  # the monotonic and the wall clock, as an event has them

    def begin(self, plan: GroupPlan) -> None:
        """A run is born."""
        victims = ", ".join(v.id.short for v in plan.victims)
        self._say(plan.run, "begin", EventKind.NOTE, f"{plan.group}: {plan.why}: {victims}")

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said before one of the kills."""
        self._listener.guards(run, verdicts)

    def event(self, run: str, event: Event) -> None:
        """One line of the timeline."""
        self._listener.event(run, event)

    def end(self, run: str, state: RunState, _verdict: GroupVerdict, message: str) -> None:
        """A run is over."""
        kind = EventKind.DONE if state is RunState.GOOD else EventKind.FAILED
        self._say(run, "end", kind, f"{state}: {message}")

    def _say(self, run: str, step: str, kind: EventKind, detail: str) -> None:
        at_ns, wall = self._now()
        self._listener.event(run, Event(step=step, kind=kind, detail=detail, at_ns=at_ns, wall=wall))


def group_announcer(listener: Journal | None = None) -> GroupJournal:
    """For a person if stderr is a terminal, a log otherwise."""
    clock = SystemClock()
    return GroupAnnouncer(
        listener or announcer(), lambda: (clock.monotonic_ns(), clock.now().isoformat(timespec="milliseconds"))
    )
