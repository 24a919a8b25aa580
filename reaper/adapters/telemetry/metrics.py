"""Everything that reaper tells Prometheus, in one registry of its own per `Telemetry`; nothing is process-wide.

How many series there are, at the most, until the process ends (P policies, C clusters, A pairs of both that had runs,
never more than 2000 and then one per policy; G guards, H channels):

    runs begun, ended (5 states), outage (15), clients not returned, writes lost     23 A
    guards refused                                                                   G P
    steps (19 + 1, done or failed, 11 each)                                          440
    firings (8 outcomes), missed; armed, leashed (2), next and last fire             14 P
    ages, last look; forgotten after a day without a look                            3 C
    announcements                                                                    3 H
    reloads, the process's own CPU, memory and files                                 10

Counters of a policy or a cluster that is gone stay until the process ends; its gauges go.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from reaper.adapters.telemetry.firings import Firings
from reaper.adapters.telemetry.page import Page, label
from reaper.adapters.telemetry.runs import Recall, RunListener, RunMeasures
from reaper.adapters.telemetry.states import Ages, PolicyState, States, Tally
from reaper.workflow.ports import Journal


class Firing(StrEnum):
    """What came of a firing."""

    ACTED = "acted"
    REPORTED = "reported"  # leashed: it said what it would have done
    NOBODY = "nobody"  # nobody was due
    CLOSED = "closed"  # its calendar
    PAUSED = "paused"  # the lever is pulled
    ABORTED = "aborted"  # more was selected than the policy allows
    DUPLICATE = "duplicate"  # another process has it
    FAILED = "failed"  # it could not be decided


class Reload(StrEnum):
    """What came of reading the policies again."""

    GOOD = "good"
    BAD = "bad"  # a file has mistakes; the last good ones stay in force


def _forgotten(_run: str) -> None:
    """A recall for which every run of another process is unknown."""


class Telemetry:
    """Takes facts in from any thread and shows them as text. `now`: the wall time, aware."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._sums, self._present, self._own = Page(), Page(), CollectorRegistry()
        self._runs = RunMeasures(self._sums)
        self._states = States()
        self._present.registry.register(self._states)
        ProcessCollector(registry=self._own)
        registry = self._sums.registry
        self._firings = Firings([outcome.value for outcome in Firing])
        registry.register(self._firings)
        self._reloads = Counter(
            "reaper_policies_reloads_total",
            "How often the policies were read, by result.",
            ("result",),
            registry=registry,
        )
        self._bad = Gauge(
            "reaper_policies_reload_bad",
            "1: the policies were read last with mistakes in them, and the last good ones are in force.",
            registry=registry,
        )
        self._read = Gauge(
            "reaper_policies_last_good_reload_timestamp_seconds",
            "When the policies in force were read, unix time.",
            registry=registry,
        )
        for result in Reload:
            self._reloads.labels(result.value)

    def listener(self, recall: Recall = _forgotten) -> Journal:
        """Who counts runs; one for all, or one for each. `recall`: the plan of a run that another process began."""
        return RunListener(self._runs, recall)

    def policies(self, states: Iterable[PolicyState]) -> None:
        """Replace the gauges of all policies at once."""
        present = tuple(states)
        self._states.policies(present)
        for state in present:
            self._firings.know(state.name)
        self._present.changed()
        self._sums.changed()

    def fired(self, policy: str, outcome: Firing) -> None:
        """A policy fired."""
        self._firings.fired(policy, outcome.value)
        self._sums.changed()

    def missed(self, policy: str, count: int) -> None:
        """So many firings of a policy passed while nobody could act."""
        self._firings.missed(policy, count)
        self._sums.changed()

    def reloaded(self, result: Reload) -> None:
        """The policies were read again."""
        self._reloads.labels(result.value).inc()
        self._bad.set(result is Reload.BAD)
        if result is Reload.GOOD:
            self._read.set(self._now().timestamp())
        self._sums.changed()

    def observed(self, cluster: str, oldest: timedelta, master: timedelta | None) -> None:
        """Somebody has looked at a cluster. The ages are those of this moment and do not grow until the next look."""
        self._states.observed(label(cluster), Ages(oldest=oldest, master=master, at=self._now()))
        self._present.changed()

    def announcements(self, channel: str, *, sent: int, failed: int, dropped: int) -> None:
        """What became of a channel's announcements, in all since the process began."""
        self._states.announced(label(channel), Tally(sent=sent, failed=failed, dropped=dropped))
        self._present.changed()

    def text(self) -> bytes:
        """Everything in Prometheus' text format, version 0.0.4."""
        return self._sums.text() + self._present.text() + generate_latest(self._own)
