"""Counters of what policies did: a row of numbers for each, where the library would keep an object for each number.

With a thousand policies those objects were 7 MB of an idle daemon.
"""

import threading
from collections.abc import Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from reaper.adapters.telemetry.page import label


class Firings:
    """A collector of firings by what came of them, and of those that were missed. All begin at zero.

    A counter that appears as 1 has not increased for Prometheus: a policy's first bad firing would raise no alert.
    """

    def __init__(self, outcomes: Sequence[str]) -> None:
        self._places = {outcome: place for place, outcome in enumerate(outcomes)}
        self._lock = threading.Lock()
        self._fired: dict[str, list[int]] = {}
        self._missed: dict[str, int] = {}

    def know(self, policy: str) -> None:
        """Show a policy from now on; nothing if it is shown already."""
        with self._lock:
            self._row(label(policy))

    def fired(self, policy: str, outcome: str) -> None:
        """Once more."""
        with self._lock:
            self._row(label(policy))[self._places[outcome]] += 1

    def missed(self, policy: str, count: int) -> None:
        """So many more."""
        with self._lock:
            self._row(label(policy))
            self._missed[label(policy)] += count

    def _row(self, name: str) -> list[int]:
        if name not in self._fired:
            self._fired[name] = [0] * len(self._places)
            self._missed[name] = 0
        return self._fired[name]

    def describe(self) -> Iterable[Metric]:
        """The names, without values: what the library asks before it collects."""
        return Firings(()).collect()

    def collect(self) -> Iterable[Metric]:
        """What the library shows."""
        fired = CounterMetricFamily(
            "reaper_policy_firings_total",
            "Firings of a policy by what came of them.",
            labels=("policy", "outcome"),
        )
        missed = CounterMetricFamily(
            "reaper_policy_missed_firings_total",
            "Firings that passed while nobody could act. They are not caught up.",
            labels=("policy",),
        )
        with self._lock:
            for name, row in self._fired.items():
                for outcome, place in self._places.items():
                    fired.add_metric((name, outcome), row[place])
                missed.add_metric((name,), self._missed[name])
        return fired, missed
