"""Runs as numbers: a listener of the workflow that counts.

It remembers the runs that are under way and, so that what is said twice is counted once, the names of the last few
that ended. Everything else is a sum.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from reaper.adapters.telemetry.page import Page, label
from reaper.domain.errors import ReaperError
from reaper.domain.plan import Plan, StepName
from reaper.domain.verdict import Event, EventKind, GuardVerdict, Ruling, RunState, RunVerdict

Recall = Callable[[str], Plan | None]
"""The plan of a run that began in another process, by its name. May raise a ReaperError."""

UNKNOWN = "(unknown)"  # the policy and the cluster of a run whose plan cannot be had
OTHER = "(other)"  # the cluster of what is beyond MOST_PAIRS; the step of an event that belongs to none
MOST_PAIRS = 2000  # (policy, cluster) with series of their own; 24 series and some 10 kB each
MOST_OPEN = 1000  # runs under way that are remembered
MOST_ENDED = 256  # runs that have ended whose names are remembered

OUTAGE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STEP_SECONDS = (0.01, 0.1, 1, 10, 60, 300, 1800, 7200)
_ENDS = tuple(state for state in RunState if state is not RunState.RUNNING)
_STEPS = frozenset(StepName)


@dataclass(frozen=True, kw_only=True)
class Whose:
    """Whom a run is counted for."""

    policy: str  # "": a person asked for it
    cluster: str


class RunMeasures:
    """The metrics of runs. Shared by all listeners of a process."""

    def __init__(self, page: Page) -> None:
        whose, registry = ("policy", "cluster"), page.registry
        self.changed = page.changed
        self._begun = Counter(
            "reaper_runs_begun_total", "Runs that began, by the policy that asked (empty: a person).", whose,
            registry=registry,
        )  # fmt: skip
        self._ended = Counter(
            "reaper_runs_ended_total",
            "Runs that ended, by how: good, bad (its verdict has faults), refused by a guard, undone before the kill, "
            "stuck (past the kill and not finished: a person has to look).",
            (*whose, "state"),
            registry=registry,
        )
        self._outage = Histogram(
            "reaper_outage_seconds",
            "How long the worst client of a run was without an acknowledged write. A client that never came back has "
            "no length: see reaper_clients_not_returned_total.",
            whose,
            registry=registry,
            buckets=OUTAGE_SECONDS,
        )
        self._not_returned = Counter(
            "reaper_clients_not_returned_total",
            "Clients of the probe that had no write acknowledged any more after the kill.",
            whose,
            registry=registry,
        )
        self._lost = Counter(
            "reaper_acknowledged_writes_lost_total",
            "Writes that a client was told are committed and that the new master does not have.",
            whose,
            registry=registry,
        )
        self._refused = Counter(
            "reaper_guard_refusals_total", "How often a guard refused a run.", ("guard", "policy"), registry=registry
        )
        self._steps = Histogram(
            "reaper_step_duration_seconds",
            "How long the steps of runs took, by how they ended: done, failed.",
            ("step", "result"),
            registry=registry,
            buckets=STEP_SECONDS,
        )
        self._lock = threading.Lock()
        self._pairs: set[Whose] = set()
        self._open: OrderedDict[str, Whose] = OrderedDict()
        self._over: deque[tuple[str, RunState]] = deque(maxlen=MOST_ENDED)

    def begin(self, plan: Plan) -> None:
        """A run is born; nothing if it was born already. All its series exist from now on, at zero.

        A counter that appears as 1 has not increased for Prometheus: its first bad run would raise no alert.
        """
        with self._lock:
            if plan.run in self._open:
                return
            whose = self._admit(plan.run, plan)
        for state in _ENDS:
            self._ended.labels(whose.policy, whose.cluster, state)
        for series in (self._outage, self._not_returned, self._lost):
            series.labels(whose.policy, whose.cluster)
        self._begun.labels(whose.policy, whose.cluster).inc()

    def refused(self, whose: Whose, guard: str) -> None:
        """A guard said no."""
        self._refused.labels(label(guard), whose.policy).inc()

    def step(self, event: Event) -> None:
        """A step ended."""
        if event.took_ns is not None:
            name = event.step if event.step in _STEPS else OTHER
            self._steps.labels(name, event.kind.value).observe(event.took_ns / 1e9)

    def end(self, run: str, whose: Whose, state: RunState, verdict: RunVerdict | None) -> None:
        """A run is over; nothing if that was said already."""
        with self._lock:
            self._open.pop(run, None)
            if (run, state) in self._over:
                return
            self._over.append((run, state))
        pair = (whose.policy, whose.cluster)
        self._ended.labels(*pair, state.value).inc()
        if verdict is None:
            return
        if verdict.outage is not None:
            self._outage.labels(*pair).observe(verdict.outage.total_seconds())
        self._not_returned.labels(*pair).inc(sum(1 for client in verdict.clients if client.outage is None))
        self._lost.labels(*pair).inc(len(verdict.ledger.lost) if verdict.ledger else 0)

    def whose(self, run: str, recall: Recall) -> Whose:
        """Whom a run is counted for, also if it began in a process that has died."""
        with self._lock:
            known = self._open.get(run)
        if known is not None:
            return known
        try:
            plan = recall(run)
        except ReaperError:
            plan = None
        with self._lock:
            return self._admit(run, plan)

    def _admit(self, run: str, plan: Plan | None) -> Whose:
        policy, cluster = (plan.standing or "", plan.cluster) if plan else (UNKNOWN, UNKNOWN)
        whose = Whose(policy=label(policy), cluster=label(cluster))
        if whose not in self._pairs and len(self._pairs) >= MOST_PAIRS:
            whose = Whose(policy=whose.policy, cluster=OTHER)
        else:
            self._pairs.add(whose)
        self._open[run] = whose
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)
        return whose


class RunListener:
    """The workflow's `Journal`, for counting. Never raises."""

    def __init__(self, measures: RunMeasures, recall: Recall) -> None:
        self._measures = measures
        self._recall = recall

    def begin(self, plan: Plan) -> None:
        """A run is born."""
        self._measures.begin(plan)
        self._measures.changed()

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """What the guards said: who refused is counted."""
        refused = [v.guard for v in verdicts if v.ruling is Ruling.REFUSE]
        if not refused:
            return
        whose = self._measures.whose(run, self._recall)
        for guard in refused:
            self._measures.refused(whose, guard)
        self._measures.changed()

    def event(self, _run: str, event: Event) -> None:
        """A step ended, or failed; what else is said of it has no number."""
        if event.kind in (EventKind.DONE, EventKind.FAILED):
            self._measures.step(event)
            self._measures.changed()

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, _message: str) -> None:
        """A run is over."""
        self._measures.end(run, self._measures.whose(run, self._recall), state, verdict)
        self._measures.changed()
