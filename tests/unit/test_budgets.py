"""When a policy has spent too much."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import MS
from hypothesis import given
from hypothesis import strategies as st
from past import past

from reaper.domain.standing import Budgets
from reaper.domain.verdict import RunState
from reaper.planner.budgets import MOST_REASONS, PastRun, overspent

BUDGETS = Budgets(outage=timedelta(seconds=2), lost_writes=1, time_to_normal=timedelta(minutes=5), failures_in_a_row=2)
GOOD, BAD, STUCK = RunState.GOOD, RunState.BAD, RunState.STUCK
REFUSED, UNDONE, UNJUDGED = RunState.REFUSED, RunState.UNDONE, RunState.RUNNING


def series(*states: RunState) -> tuple[PastRun, ...]:
    """Newest first, as `overspent` wants them."""
    return tuple(past(state, f"run-{len(states) - n}") for n, state in enumerate(states))


ALONE = [
    pytest.param(past(outage=timedelta(seconds=2)), None, id="an outage of the budget is within it"),
    pytest.param(
        past(outage=2001 * MS), "the outage of the run run-1 of lab was 2 seconds 1 m", id="an outage over it"
    ),
    pytest.param(past(lost=1), None, id="as many lost writes as the budget"),
    pytest.param(past(lost=2), "lost 2 acknowledged writes, the budget is 1", id="more lost writes"),
    pytest.param(past(time_to_normal=timedelta(minutes=5)), None, id="normal in time"),
    pytest.param(past(time_to_normal=timedelta(minutes=6)), "took 6 minutes to become normal", id="normal too late"),
    pytest.param(past(BAD), None, id="one bad run of two"),
    pytest.param(past(BAD, outage=None), "is unknown or never ended", id="an outage of a bad run that nobody knows"),
    pytest.param(past(BAD, lost=None), "lost writes is unknown", id="a bad run whose writes nobody compared"),
    pytest.param(past(STUCK, message="no heir"), "is stuck: no heir; a person has to look", id="a run that is stuck"),
    pytest.param(past(UNJUDGED), "ended without a verdict", id="a run without a verdict (I12)"),
    pytest.param(past(REFUSED), None, id="a refused run costs nothing"),
    pytest.param(past(UNDONE), None, id="an undone run costs nothing"),
]


@pytest.mark.parametrize(("run", "said"), ALONE)
def test_one_run_is_judged_by_what_it_cost(run: PastRun, said: str | None) -> None:
    reasons = overspent(BUDGETS, (run,))
    if said is None:
        assert reasons == ()
    else:
        assert len(reasons) == 1
        assert said in reasons[0]


def test_a_time_to_normal_without_a_budget_is_reported_and_not_judged() -> None:
    unjudged = replace(BUDGETS, time_to_normal=None)
    assert overspent(unjudged, (past(time_to_normal=timedelta(days=1)),)) == ()


ROWS = [
    pytest.param((BAD, BAD), True, id="two in a row"),
    pytest.param((BAD, GOOD, BAD), False, id="a good run ends the row"),
    pytest.param((GOOD, BAD, BAD), False, id="a good run after the row ends it"),
    pytest.param((BAD, REFUSED, BAD), True, id="a refused run between them proves nothing"),
    pytest.param((UNDONE, BAD, UNDONE, BAD, GOOD), True, id="nor does an undone one, before or between"),
    pytest.param((REFUSED, UNDONE, REFUSED, UNDONE), False, id="guards that refuse each night are no failures"),
    pytest.param((), False, id="no run at all"),
]


@pytest.mark.parametrize(("states", "leashed"), ROWS)
def test_failures_in_a_row_leash(states: Sequence[RunState], leashed: bool) -> None:
    reasons = overspent(BUDGETS, series(*states))
    assert bool(reasons) is leashed
    assert all("2 runs in a row failed" in reason for reason in reasons)


def test_the_row_names_its_runs_and_why_the_last_one_failed() -> None:
    runs = (past(BAD, "run-4", message="slow"), *(past(BAD, f"run-{n}") for n in (3, 2, 1)))
    (reason,) = overspent(BUDGETS, runs)
    assert reason == (
        "4 runs in a row failed (run-4, run-3 and run-2 and others), the last one: slow; the policy is leashed at 2"
    )


def test_by_default_the_first_failure_leashes() -> None:
    (reason,) = overspent(Budgets(), (past(BAD, message="the heir is gone"),))
    assert reason == "the run run-1 of lab failed: the heir is gone; the policy is leashed at the first failure"


def test_a_row_counts_every_failure_after_the_kill() -> None:
    reasons = overspent(BUDGETS, series(UNJUDGED, STUCK))
    assert len(reasons) == 3, "each by itself, and both together"
    assert "2 runs in a row failed (run-2 and run-1)" in reasons[-1]


def test_reasons_are_many_and_not_endless() -> None:
    reasons = overspent(BUDGETS, tuple(past(run=f"run-{n}", lost=9) for n in range(500)))
    assert len(reasons) == MOST_REASONS + 1
    assert reasons[-1] == "and 490 more reasons"


SPANS = st.none() | st.timedeltas(timedelta(0), timedelta(days=999))
RUNS = st.builds(
    past, st.sampled_from(RunState), outage=SPANS, lost=st.none() | st.integers(0, 10**9), time_to_normal=SPANS
)


@given(st.lists(RUNS, max_size=30).map(tuple), st.integers(1, 5))
def test_every_history_has_an_answer_and_the_cheap_good_one_is_free(runs: tuple[PastRun, ...], row: int) -> None:
    reasons = overspent(replace(BUDGETS, failures_in_a_row=row), runs)
    if any(run.state in (STUCK, UNJUDGED) for run in runs):
        assert reasons, "a person has to look"
    if not any(run.failed or run.outage or run.lost or run.time_to_normal for run in runs):
        assert reasons == ()
