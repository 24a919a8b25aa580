"""What runs cost over time."""

from datetime import timedelta

import pytest
from builders import MS, NOON
from hypothesis import given
from hypothesis import strategies as st
from past import past

from reaper.domain.verdict import RunState
from reaper.planner.budgets import PastRun
from reaper.planner.trend import percentile, spread, trends

HOUR = timedelta(hours=1)
RANKS = [
    pytest.param([7], 50, 7, id="one span is every percentile"),
    pytest.param([7], 95, 7, id="one span is every high percentile"),
    pytest.param([1, 2], 50, 1, id="of two the first is the median"),
    pytest.param([1, 2, 3, 4], 50, 2, id="of an even number the lower middle"),
    pytest.param([1, 2, 3], 50, 2, id="of an odd number the middle"),
    pytest.param([*range(1, 20)], 95, 19, id="of 19 the 95th is the longest"),
    pytest.param([*range(1, 21)], 95, 19, id="of 20 it is the 19th"),
    pytest.param([*range(1, 101)], 95, 95, id="of 100 it is the 95th"),
    pytest.param([1, 2, 3], 100, 3, id="the 100th is the longest"),
]


@pytest.mark.parametrize(("spans", "percent", "expected"), RANKS)
def test_a_percentile_is_by_nearest_rank(spans: list[int], percent: int, expected: int) -> None:
    assert percentile([n * MS for n in spans], percent) == expected * MS


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_measured_span_that_so_many_do_not_exceed(spans: list[int], percent: int) -> None:
    found = percentile([n * MS for n in sorted(spans)], percent) // MS
    enough = [s for s in spans if sum(other <= s for other in spans) * 100 >= percent * len(spans)]
    assert found == min(enough)


def test_what_was_not_measured_is_in_no_percentile() -> None:
    found = spread((None, 3 * MS, None, 1 * MS))
    assert found is not None
    assert (found.measured, found.p50, found.p95, found.longest) == (2, 1 * MS, 3 * MS, 3 * MS)
    assert spread((None,)) is None


def ended(hour: int, cluster: str, state: RunState, **changes: object) -> PastRun:
    return past(state, f"{cluster}-{hour}", cluster=cluster, ended=NOON + hour * HOUR, **changes)


def test_a_cluster_has_its_own_trend_in_the_order_in_which_its_runs_ended() -> None:
    runs = (
        ended(4, "b", RunState.GOOD, outage=30 * MS),
        ended(1, "a", RunState.GOOD, outage=10 * MS),
        ended(3, "b", RunState.STUCK),
        ended(2, "b", RunState.BAD, outage=90 * MS, lost=2),
        ended(0, "b", RunState.REFUSED),
        ended(1, "b", RunState.UNDONE),
        ended(5, "b", RunState.RUNNING),
    )
    a, b = trends(runs)
    assert (a.cluster, a.runs, a.outages) == ("a", 1, (10 * MS,))
    assert (b.cluster, b.runs) == ("b", 6)
    assert b.outages == (90 * MS, None, 30 * MS), "of those that killed; what is unknown has its place"
    assert b.outage is not None
    assert (b.outage.measured, b.outage.longest) == (2, 90 * MS)
    assert [b.count(state) for state in RunState] == [1, 1, 1, 1, 1, 1]
    assert (b.lost, b.uncompared) == (2, 1)


def test_a_cluster_whose_runs_were_all_refused_has_a_trend_without_costs() -> None:
    (trend,) = trends([ended(0, "a", RunState.REFUSED)])
    assert (trend.runs, trend.outage, trend.time_to_normal, trend.outages, trend.uncompared) == (1, None, None, (), 0)


def test_no_run_makes_no_trend() -> None:
    assert trends(()) == ()
