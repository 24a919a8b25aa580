"""Announce a run while it goes: to a person at a terminal, to a log otherwise."""

import contextlib
import os
import sys

from rich.console import Console
from rich.status import Status
from rich.text import Text

from reaper.cli.logging import logger
from reaper.cli.render import words
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, EventKind, GuardVerdict, Ruling, RunState, RunVerdict
from reaper.workflow.ports import Journal


class Fan:
    """The record of a run, and somebody who is told. The record precedes; who listens never stops a run."""

    def __init__(self, record: Journal, listener: Journal) -> None:
        self._record = record
        self._listener = listener

    def begin(self, plan: Plan) -> None:
        """A run is born."""
        self._record.begin(plan)
        with _deaf():
            self._listener.begin(plan)

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said."""
        self._record.guards(run, verdicts)
        with _deaf():
            self._listener.guards(run, verdicts)

    def event(self, run: str, event: Event) -> None:
        """One line of the timeline."""
        with _deaf():
            self._listener.event(run, event)
        self._record.event(run, event)

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over."""
        with _deaf():
            self._listener.end(run, state, verdict, message)
        self._record.end(run, state, verdict, message)


def _deaf() -> contextlib.suppress:
    """The terminal or the pipe may have gone; that is no reason to stop half-way."""
    return contextlib.suppress(OSError, ValueError)


class TerminalJournal:
    """One line per finished step, a spinner for the one that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def begin(self, plan: Plan) -> None:
        """A run is born."""
        self._console.print(Text(plan.run, style="bold").append(": ").append(words(plan.why)), highlight=False)

    def guards(self, _run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said: the refusals, or that there is none."""
        self._quiet()
        refused = [v for v in verdicts if v.ruling is Ruling.REFUSE]
        for verdict in refused:
            self._line(Text("refuse", style="red"), verdict.guard, None, verdict.reason)
        if not refused:
            self._line(Text("  go  ", style="green"), "guards", None, f"{len(verdicts)} guards passed")

    def event(self, _run: str, event: Event) -> None:
        """A step started, ended, failed, or has something to say."""
        self._quiet()
        took = None if event.took_ns is None else event.took_ns / 1e6
        match event.kind:
            case EventKind.STARTED:
                self._status = self._console.status(words(f"{event.step}: {event.detail}"))
                self._status.start()
            case EventKind.DONE:
                self._line(Text(" done ", style="green"), event.step, took, event.detail)
            case EventKind.FAILED:
                self._line(Text("failed", style="red"), event.step, took, event.detail)
            case EventKind.NOTE:
                self._line(Text(" note "), event.step, None, event.detail)

    def end(self, _run: str, _state: RunState, _verdict: RunVerdict | None, _message: str) -> None:
        """A run is over; the verdict is rendered by the command."""
        self._quiet()

    def _quiet(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _line(self, mark: Text, step: str, took_ms: float | None, detail: str) -> None:
        shown = "" if took_ms is None else f"{took_ms:.1f} ms" if took_ms < 1000 else f"{took_ms / 1000:.2f} s"
        line = Text.assemble(mark, words(f" {step:<10} {shown:>9}  {detail}"))
        self._console.print(line, highlight=False, soft_wrap=True)


class LogJournal:
    """One log event per step, one for the guards each time they are asked."""

    def begin(self, plan: Plan) -> None:
        """A run is born."""
        logger().info("run begins", run=plan.run, cluster=plan.cluster, victim=str(plan.victim), why=plan.why)

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said."""
        refused = {v.guard: v.reason for v in verdicts if v.ruling is Ruling.REFUSE}
        say = logger().warning if refused else logger().info
        say("guards", run=run, asked=len(verdicts), refused=refused)

    def event(self, run: str, event: Event) -> None:
        """A step ended, failed, or has something to say; that it started is in the store's timeline."""
        if event.kind is EventKind.STARTED:
            return
        took = None if event.took_ns is None else round(event.took_ns / 1e6, 3)
        say = logger().error if event.kind is EventKind.FAILED else logger().info
        say("step", run=run, step=event.step, kind=event.kind.value, took_ms=took, detail=event.detail)

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """A run is over."""
        good = verdict is not None and verdict.good
        say = logger().info if good else logger().error
        say(
            "run ends",
            run=run,
            state=state.value,
            message=message,
            faults=list(verdict.faults) if verdict else [],
        )


def announcer() -> Journal:
    """For a person if stderr is a terminal or REAPER_PROGRESS=human asks for it, a log otherwise."""
    if sys.stderr.isatty() or os.environ.get("REAPER_PROGRESS") == "human":
        return TerminalJournal(Console(stderr=True))
    return LogJournal()
