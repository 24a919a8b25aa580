"""What the runs of each cluster cost over time."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from reaper.domain.verdict import RunState
from reaper.planner.budgets import PAST_THE_KILL, PastRun


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How measured spans are spread; of none there is no spread."""

    measured: int
    p50: timedelta
    p95: timedelta
    longest: timedelta


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The ended runs of one cluster, together."""

    cluster: str
    runs: int
    states: tuple[tuple[RunState, int], ...]  # every state; RUNNING: ended without a verdict
    outage: Spread | None
    time_to_normal: Spread | None
    outages: tuple[timedelta | None, ...]  # of the runs that killed, oldest first; None: unknown, or it never ended
    lost: int  # acknowledged writes, as far as they were compared
    uncompared: int  # runs that killed and did not compare

    def count(self, state: RunState) -> int:
        """How many runs ended in a state."""
        return dict(self.states)[state]


def trends(runs: Iterable[PastRun]) -> tuple[Trend, ...]:
    """One for each cluster that has a run, by name; the runs may come in any order."""
    of_cluster: dict[str, list[PastRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda r: (r.ended, r.run)):
        of_cluster[run.cluster].append(run)
    return tuple(_trend(cluster, found) for cluster, found in sorted(of_cluster.items()))


def _trend(cluster: str, runs: list[PastRun]) -> Trend:
    counted = Counter(run.state for run in runs)
    killed = [run for run in runs if run.state in PAST_THE_KILL]
    return Trend(
        cluster=cluster,
        runs=len(runs),
        states=tuple((state, counted[state]) for state in RunState),
        outage=spread(run.outage for run in killed),
        time_to_normal=spread(run.time_to_normal for run in killed),
        outages=tuple(run.outage for run in killed),
        lost=sum(run.lost or 0 for run in killed),
        uncompared=sum(run.lost is None for run in killed),
    )


def spread(spans: Iterable[timedelta | None]) -> Spread | None:
    """Of the spans that were measured; None: none was."""
    measured = sorted(span for span in spans if span is not None)
    if not measured:
        return None
    return Spread(
        measured=len(measured),
        p50=percentile(measured, 50),
        p95=percentile(measured, 95),
        longest=measured[-1],
    )


def percentile(ascending: list[timedelta], percent: int) -> timedelta:
    """By nearest rank: the smallest measured span that at least `percent` of all spans do not exceed.

    Of n spans in ascending order it is the one at rank ceil(n * percent / 100), counted from 1. So it is always a
    span that was measured, never one between two; and of fewer than 20 spans the 95th percentile is the longest.
    `ascending` is not empty, `percent` is from 1 to 100.
    """
    return ascending[-(-len(ascending) * percent // 100) - 1]
