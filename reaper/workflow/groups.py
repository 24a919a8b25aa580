"""Replace the instances of a group one after the other: drain, terminate, wait for a healthy successor.

The group itself launches the successors. Between two instances a run may be stopped and nothing has to be undone;
from a kill until its successor serves it goes on. Every look is fresh, and a look that fails proves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType
from typing import Protocol, TypeVar

from reaper.domain.errors import CallAPersonError, ReaperError, RefusedError, TryAgainError
from reaper.domain.facts import InstanceId
from reaper.domain.groups import (
    Chosen,
    Draining,
    GroupMember,
    GroupPlan,
    GroupVerdict,
    GroupView,
    MemberState,
    Replaced,
    TargetState,
)
from reaper.domain.verdict import Event, EventKind, GuardVerdict, Ruling, RunState
from reaper.planner.groups import GroupCase, judge_group
from reaper.planner.words import in_words
from reaper.workflow.ports import Clock, Interrupt
from reaper.workflow.steps import Steps

T = TypeVar("T")
_LOOK_EVERY = timedelta(seconds=5)
_ASK_THE_LEVER_EVERY = timedelta(seconds=1)


class Groups(Protocol):
    """A provider's groups. Every effect may be repeated. Foreign exceptions stop at the adapter."""

    def names(self) -> tuple[str, ...]:
        """Every group that reaper may look at, sorted."""

    def view(self, group: str) -> GroupView:
        """The group now. UsageError: no such group. TryAgainError: it cannot be asked now."""

    def drain(self, group: str, instance: InstanceId) -> None:
        """Begin to take an instance out of the group's target groups; nothing if it is out or on its way."""

    def undrain(self, group: str, instance: InstanceId) -> None:
        """Put an instance that was being drained back into the group's target groups; nothing if it is leaving."""

    def terminate(self, group: str, instance: InstanceId) -> None:
        """Terminate an instance in its group, whose desired size stays: the group launches a successor."""


class GroupJournal(Protocol):
    """Where a run is recorded. The record precedes the effect. What is said twice does no harm."""

    def begin(self, plan: GroupPlan) -> None:
        """A run is born; nothing if it was born already."""

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said before one of the kills."""

    def event(self, run: str, event: Event) -> None:
        """A step ended, or has something to say."""

    def end(self, run: str, state: RunState, verdict: GroupVerdict, message: str) -> None:
        """A run is over."""


def _not_paused() -> None:
    """There is no lever."""


@dataclass(frozen=True, kw_only=True)
class GroupWorld:
    """Everything outside, chosen once in the composition root."""

    groups: Groups
    clock: Clock
    interrupt: Interrupt  # only asked: between two instances a run can always be stopped
    journal: GroupJournal
    paused: Callable[[], str | None] = _not_paused  # why the lever is pulled, in words; None: it is not


@dataclass(frozen=True, kw_only=True)
class Start:
    """The group right before one of its instances is replaced."""

    gone: str  # why there is nothing to do any more; "" otherwise
    known: tuple[InstanceId, ...] = ()
    serving: int = 0
    desired: int = 0


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """How the group came back. `fault` is "" if it did."""

    successor: InstanceId | None
    took: timedelta
    fewest: int
    fault: str


class GroupRotation:
    """Runs one plan over recorded steps. A process that dies is followed by one that replays what it recorded."""

    def __init__(self, world: GroupWorld, plan: GroupPlan, steps: Steps) -> None:
        self._world = world
        self._plan = plan
        self._policy = plan.policy
        self._steps = steps
        self._replaced: list[Replaced] = []
        self._waits_for = ""

    def execute(self) -> GroupVerdict:
        """Run the plan. RefusedError, TryAgainError, AbortedError: stopped between two instances, the group is whole.

        CallAPersonError: an instance was taken out of its target groups and could not be put back. A verdict with
        faults: a victim got no healthy successor, nobody else was touched.
        """
        steps, plan, journal = self._steps, self._plan, self._world.journal
        steps.run("begin", NoneType, lambda: journal.begin(plan))
        faults: tuple[str, ...] = ()
        try:
            for number, victim in enumerate(plan.victims, 1):
                faults = self._replace(f"{number}/{len(plan.victims)}", victim)
                if faults:
                    break
        except ReaperError as error:
            state = RunState.REFUSED if isinstance(error, RefusedError) else RunState.UNDONE
            if isinstance(error, CallAPersonError):
                state = RunState.STUCK
            message = f"{len(self._replaced)} of {len(plan.victims)} were replaced, then it stopped: {error}"
            self._end(state, self._verdict((str(error),)), message)
            raise
        verdict = self._verdict(faults)
        message = "; ".join(faults) or f"{len(self._replaced)} were replaced"
        self._end(RunState.GOOD if verdict.good else RunState.BAD, verdict, message)
        return verdict

    def _verdict(self, faults: tuple[str, ...]) -> GroupVerdict:
        done = {r.victim for r in self._replaced}
        left = tuple(v.id for v in self._plan.victims if v.id not in done)
        return GroupVerdict(replaced=tuple(self._replaced), left=left, faults=faults)

    def _end(self, state: RunState, verdict: GroupVerdict, message: str) -> None:
        self._steps.run("end", NoneType, lambda: self._world.journal.end(self._plan.run, state, verdict, message))

    # ---- one instance

    def _replace(self, number: str, victim: Chosen) -> tuple[str, ...]:
        """Replace one; the faults, none if all is well."""
        steps, name = self._steps, victim.id
        start = steps.run(f"guards {number}", Start, lambda: self._pass_guards(number, name))
        if start.gone:
            self._say("terminate", f"{number} {name.short}: {start.gone}")
            return ()
        drained = None
        if self._policy.draining is Draining.REAPER:
            drained = steps.run(f"drain {number}", timedelta, lambda: self._or_undrain(name, self._drain, name))
        steps.run(f"terminate {number}", NoneType, lambda: self._terminate(number, name))
        arrival = steps.run(f"successor {number}", Arrival, lambda: self._await_successor(number, name, start))
        self._replaced.append(
            Replaced(
                victim=name,
                successor=arrival.successor,
                drained=drained,
                took=arrival.took,
                fewest=arrival.fewest,
            )
        )
        return (arrival.fault,) if arrival.fault else ()

    def _pass_guards(self, number: str, victim: InstanceId) -> Start:
        """Wait until every guard says go; what comes and goes by itself has a while for that."""
        refused: list[GuardVerdict] = []

        def ready(view: GroupView) -> Start | None:
            self._world.interrupt.check()
            left = gone(view, victim)
            if left:
                return Start(gone=left)
            verdicts = judge_group(GroupCase(view=view, victim=victim, policy=self._policy))
            refused[:] = [v for v in verdicts if not _goes(v)]
            if refused and self._final(refused):
                raise self._refusal(victim, refused)
            if refused:
                self._wait_for(f"{number} {victim.short}: {refused[0].reason}")
                return None
            self._world.journal.guards(self._plan.run, verdicts)
            known = tuple(m.id for m in view.members)
            return Start(gone="", known=known, serving=len(view.serving), desired=view.desired)

        self._wait_while_paused()
        start = self._look_until(ready, self._policy.settle_within)
        self._wait_for("")
        if start is None:
            if refused:
                raise self._refusal(victim, refused)
            raise self._unseen()
        return start

    @staticmethod
    def _final(refused: list[GuardVerdict]) -> bool:
        """True if what refuses does not pass by itself: somebody has decided it."""
        return any(v.guard in ("group", "victim", "processes") for v in refused)

    def _refusal(self, victim: InstanceId, refused: list[GuardVerdict]) -> RefusedError:
        reasons = "; ".join(f"{v.guard}: {v.reason}" for v in refused)
        return RefusedError(f"{victim.short} was not touched: {reasons}")

    def _drain(self, victim: InstanceId) -> timedelta:
        """Out of every target group, requests finished. What is undone when it fails: put it back."""
        group, clock = self._plan.group, self._world.clock
        began = clock.monotonic_ns()
        self._world.groups.drain(group, victim)

        def out(view: GroupView) -> bool | None:
            self._world.interrupt.check()
            member = view.member(victim)
            return None if member is not None and _held(member) else True

        if self._look_until(out, self._policy.drain_within) is None:
            raise TryAgainError(
                f"{victim.short} was not drained within {in_words(self._policy.drain_within)}: see who holds its "
                "connections open, or give it more `drain_within`"
            )
        took = self._since(began)
        if took:  # at once: a repetition
            self._say("drain", f"{victim.short} is out of its target groups after {in_words(took)}")
        return took

    def _terminate(self, number: str, victim: InstanceId) -> None:
        """Look for this run's own earlier kill, judge on fresh facts, kill."""
        if self._or_undrain(victim, self._judge_again, victim):
            return
        self._say("terminate", f"{number} {victim.short}")
        try:
            self._world.groups.terminate(self._plan.group, victim)
        except ReaperError:
            # Whether it was done is not known: the group is asked, and undone is only what was not.
            if not self._look_until(lambda view: gone(view, victim) and True, self._policy.undo_within):
                self._put_back(victim)
                raise

    def _judge_again(self, victim: InstanceId) -> str:
        """The last look before the kill. Not "": why there is nothing to kill. RefusedError: a guard says no."""
        while True:
            left = self._judge_once_more(victim)
            if left:
                return left
            if self._world.paused() is None:
                break
            self._wait_while_paused()  # and then look again: what was seen before may not hold any more
        self._world.interrupt.check()
        self._steps.own()
        return ""

    def _judge_once_more(self, victim: InstanceId) -> str:
        view = self._must_look()
        left = gone(view, victim)
        if left:
            return left
        member = view.member(victim)
        if self._policy.draining is Draining.REAPER and member is not None and _held(member):
            self._drain(victim)  # again: the process that had drained it put it back and died
            view = self._must_look()
        refused = [v for v in judge_group(GroupCase(view=view, victim=victim, policy=self._policy)) if not _goes(v)]
        if refused:
            raise self._refusal(victim, refused)
        return ""

    def _must_look(self) -> GroupView:
        view = self._look_until(lambda seen: seen, self._policy.settle_within)
        if view is None:
            raise self._unseen()
        return view

    def _unseen(self) -> TryAgainError:
        within = in_words(self._policy.settle_within)
        return TryAgainError(
            f"{self._plan.group} could not be looked at within {within}: see what its provider says, try again"
        )

    def _await_successor(self, number: str, victim: InstanceId, start: Start) -> Arrival:
        """Wait until the victim is gone and as many serve as before, or as many as are wanted by now."""
        began = self._world.clock.monotonic_ns()
        fewest = start.serving
        seen: list[str] = []

        def whole(view: GroupView) -> Arrival | None:
            nonlocal fewest
            fewest = min(fewest, len(view.serving))
            fresh = [m for m in view.members if m.id not in start.known]
            arrived = [m for m in view.serving if m.id not in start.known]
            shrunk = view.desired < start.desired
            seen[:] = [f"{m.id.short} is {m.state}{' in a lifecycle hook' if m.hook else ''}" for m in fresh]
            left = view.member(victim)
            if left is not None:
                seen.append(f"{victim.short} is {left.state}")
            enough = len(view.serving) >= min(view.desired, start.serving)
            self._wait_for(f"{number} a successor of {victim.short}: {', '.join(seen) or 'nobody is launched yet'}")
            if left is None and enough and (arrived or shrunk):
                successor = arrived[0].id if arrived else None
                return Arrival(successor=successor, took=self._since(began), fewest=fewest, fault="")
            return None

        within = self._policy.successor_within
        arrival = self._look_until(whole, within)
        self._wait_for("")
        if arrival is not None:
            came = arrival.successor.short if arrival.successor else "nobody: the group became smaller"
            self._say("successor", f"{number} {victim.short} is followed by {came} after {in_words(arrival.took)}")
            return arrival
        fault = (
            f"{victim.short} got no healthy successor within {in_words(within)} "
            f"({', '.join(seen) or 'nobody was launched'}): see the group's activities; nobody else was touched"
        )
        return Arrival(successor=None, took=self._since(began), fewest=fewest, fault=fault)

    # ---- undo

    def _or_undrain(self, victim: InstanceId, effect: Callable[..., T], *arguments: InstanceId) -> T:
        """Do something before the kill; when it fails the victim goes back to work."""
        try:
            return effect(*arguments)
        except ReaperError:
            self._put_back(victim)
            raise

    def _put_back(self, victim: InstanceId) -> None:
        if self._policy.draining is not Draining.REAPER:
            return
        deadline = self._deadline(self._policy.undo_within)
        while True:
            try:
                self._steps.own()
                self._world.groups.undrain(self._plan.group, victim)
            except ReaperError as error:
                if self._world.clock.monotonic_ns() > deadline:
                    raise CallAPersonError(
                        f"{victim.short} was taken out of its target groups and could not be put back: {error}. "
                        "Register it by hand, or terminate it"
                    ) from error
                self._world.clock.sleep(_LOOK_EVERY)
            else:
                self._say("drain", f"{victim.short} is put back into its target groups")
                return

    # ---- looking

    def _look_until(self, found: Callable[[GroupView], T | None], within: timedelta) -> T | None:
        """What `found` makes of fresh looks; None: nothing in that time. False is an answer."""
        deadline = self._deadline(within)
        while True:
            try:
                view = self._world.groups.view(self._plan.group)
            except TryAgainError:
                view = None  # throttled, or no answer: nothing is concluded from it
            if view is not None and (answer := found(view)) is not None:
                return answer
            if self._world.clock.monotonic_ns() > deadline:
                return None
            self._world.clock.sleep(_LOOK_EVERY)

    def _wait_while_paused(self) -> None:
        """Do nothing while the lever is pulled; a person may abort meanwhile."""
        while (why := self._world.paused()) is not None:
            self._wait_for(f"the lever: {why}")
            self._world.interrupt.check()
            self._world.clock.sleep(_ASK_THE_LEVER_EVERY)
        self._wait_for("")

    def _wait_for(self, what: str) -> None:
        """Said when it changes, not at every look."""
        if what != self._waits_for:
            self._waits_for = what
            self._steps.waits_for(what)

    def _deadline(self, within: timedelta) -> int:
        return self._world.clock.monotonic_ns() + within // timedelta(microseconds=1) * 1000

    def _since(self, began_ns: int) -> timedelta:
        return timedelta(microseconds=(self._world.clock.monotonic_ns() - began_ns) // 1000)

    def _say(self, step: str, detail: str) -> None:
        clock = self._world.clock
        wall = clock.now().isoformat(timespec="milliseconds")
        event = Event(step=step, kind=EventKind.DONE, detail=detail, at_ns=clock.monotonic_ns(), wall=wall)
        self._world.journal.event(self._plan.run, event)


def _goes(verdict: GuardVerdict) -> bool:
    return verdict.ruling is Ruling.GO


def _held(member: GroupMember) -> bool:
    """True if a target group still has it, be it on its way out."""
    return any(r.state is not TargetState.UNUSED for r in member.registrations)


def gone(view: GroupView, victim: InstanceId) -> str | None:
    """Why an instance is no longer to be killed: it left, or it is on its way."""
    member = view.member(victim)
    if member is None:
        return "it is no longer in the group"
    return "it is leaving already" if member.state is MemberState.LEAVING else None
