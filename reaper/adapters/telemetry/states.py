"""What is the case now, as gauges: policies, ages of clusters, announcements so far. Each replaced as a whole."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from reaper.adapters.telemetry.page import label

FORGET_AFTER = timedelta(days=1)  # a cluster that nobody has looked at for so long is not shown any more


@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """A policy as it stands."""

    name: str
    armed: bool  # its file lets it act
    leashed_by_file: bool
    leashed_by_budget: bool
    next_fire: datetime | None  # None: it has no schedule, or never fires again
    last_fire: datetime | None  # None: it has not fired yet


@dataclass(frozen=True, kw_only=True)
class Ages:
    """How old the instances of a cluster were when somebody looked."""

    oldest: timedelta
    master: timedelta | None  # None: there is no master, or nobody can tell who it is
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of a channel's announcements since the process began."""

    sent: int
    failed: int
    dropped: int


class States:
    """A collector of the facts that were handed in last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._policies: tuple[PolicyState, ...] = ()
        self._ages: dict[str, Ages] = {}  # who was looked at longest ago comes first
        self._tallies: dict[str, Tally] = {}

    def policies(self, states: tuple[PolicyState, ...]) -> None:
        """All of them, at once."""
        with self._lock:
            self._policies = states

    def observed(self, cluster: str, ages: Ages) -> None:
        """Somebody has looked at a cluster; those at which nobody has looked for a day are forgotten."""
        with self._lock:
            self._ages.pop(cluster, None)
            self._ages[cluster] = ages
            while next(iter(self._ages.values())).at < ages.at - FORGET_AFTER:
                del self._ages[next(iter(self._ages))]

    def announced(self, channel: str, tally: Tally) -> None:
        """A channel has counted on."""
        with self._lock:
            self._tallies[channel] = tally

    def describe(self) -> Iterable[Metric]:
        """The names, without values: what the library asks before it collects."""
        return States().collect()

    def collect(self) -> Iterable[Metric]:
        """What the library shows."""
        with self._lock:
            policies, ages, tallies = self._policies, dict(self._ages), dict(self._tallies)
        yield from _of_policies(policies)
        yield from _of_clusters(ages)
        announcements = CounterMetricFamily(
            "reaper_announcements_total",
            "Announcements by channel and what became of them: sent, failed (given up after the last attempt), "
            "dropped (never tried: too many were waiting).",
            labels=("channel", "result"),
        )
        for channel, tally in tallies.items():
            for result, count in (("sent", tally.sent), ("failed", tally.failed), ("dropped", tally.dropped)):
                announcements.add_metric((channel, result), count)
        yield announcements


def _of_policies(policies: tuple[PolicyState, ...]) -> Iterable[Metric]:
    armed = _gauge("reaper_policy_armed", "1: the policy's file lets it act, 0: it only reports.", "policy")
    leashed = _gauge("reaper_policy_leashed", "1: the policy is leashed by its file, by a budget.", "policy", "by")
    upcoming = _gauge("reaper_policy_next_fire_timestamp_seconds", "When the policy fires next, unix time.", "policy")
    last = _gauge("reaper_policy_last_fire_timestamp_seconds", "When the policy fired last, unix time.", "policy")
    for policy in policies:
        name = label(policy.name)
        armed.add_metric((name,), policy.armed)
        leashed.add_metric((name, "file"), policy.leashed_by_file)
        leashed.add_metric((name, "budget"), policy.leashed_by_budget)
        for gauge, moment in ((upcoming, policy.next_fire), (last, policy.last_fire)):
            if moment is not None:
                gauge.add_metric((name,), moment.timestamp())
    return armed, leashed, upcoming, last


def _of_clusters(ages: dict[str, Ages]) -> Iterable[Metric]:
    oldest = _gauge("reaper_cluster_oldest_instance_age_seconds", "Age of its oldest instance, when seen.", "cluster")
    master = _gauge("reaper_cluster_master_age_seconds", "Age of its master when it was seen.", "cluster")
    seen = _gauge("reaper_cluster_observed_timestamp_seconds", "When it was seen last, unix time.", "cluster")
    for cluster, known in ages.items():
        oldest.add_metric((cluster,), known.oldest.total_seconds())
        seen.add_metric((cluster,), known.at.timestamp())
        if known.master is not None:
            master.add_metric((cluster,), known.master.total_seconds())
    return oldest, master, seen


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, labels=labels)
