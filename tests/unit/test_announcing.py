"""What people are told: the title alone has to be enough to know whether to get up."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from builders import iid, instance

from reaper.domain.announcement import Occurrence, Severity
from reaper.domain.cron import Cron
from reaper.domain.ledger import LedgerVerdict
from reaper.domain.plan import Plan, Replacement, Role
from reaper.domain.policy import Policy
from reaper.domain.standing import Leash, Schedule, Scope, StandingPolicy, Target
from reaper.domain.verdict import Part, RunState, RunVerdict
from reaper.planner import announcing
from reaper.planner.radius import Exceeded, Within
from reaper.planner.radius import Part as Share
from reaper.planner.selection import DueInstance, Selection, Spared

AT = datetime(2026, 12, 1, 18, 0, tzinfo=UTC)
FIRE = datetime(2026, 12, 1, 18, 20, 30, tzinfo=UTC)
POLICY = StandingPolicy(
    name="nightly",
    description="regenerates every master",
    target=Target(),
    schedule=Schedule(cron=Cron.parse("20 3 * * *"), zone="Asia/Tokyo"),
)
PLAN = Plan(
    run="run-1",
    cluster="lab",
    victim=iid("n1"),
    role=Role.MASTER,
    replacement=Replacement.BEFORE,
    snapshot_from=iid("n2"),
    size=3,
    policy=Policy(),
    why="n1 is 31 days old",
    seed=7,
    steps=(),
    standing="nightly",
)
LEDGER = LedgerVerdict(
    acknowledged=900, lost=(), unknown_present=0, unknown_absent=1, refused=3, refused_present=0, duplicated=()
)
GOOD = RunVerdict(
    faults=(),
    outage=timedelta(milliseconds=42),
    clients=(),
    parts=(Part(name="kill", took=timedelta(milliseconds=2)), Part(name="promote", took=timedelta(milliseconds=40))),
    ledger=LEDGER,
    copies_before=3,
    copies_after=3,
    heir="n4",
    notes=("the snapshot was cold",),
)
SLOW = replace(GOOD, faults=("the outage exceeds the budget",))
LOST = replace(
    GOOD, faults=("2 writes are missing", "a sibling is gone"), ledger=replace(LEDGER, lost=((1, 5), (1, 6)))
)
BLIND = replace(GOOD, faults=("not compared",), ledger=None, outage=None)


def test_a_run_that_begins_says_who_dies_why_and_by_which_dice() -> None:
    told = announcing.run_began(PLAN, AT)
    assert told.title == "lab: the master n1 is going to die (crash), its replacement is built first"
    assert told.details == ("why: n1 is 31 days old", "seed: 7")
    assert (told.what, told.severity, told.at) == (Occurrence.BEGAN, Severity.INFO, AT)
    assert (told.policy, told.cluster, told.run) == ("nightly", "lab", "run-1")
    by_hand = replace(PLAN, seed=None, standing=None, replacement=Replacement.NONE)
    assert announcing.run_began(by_hand, AT).details == ("why: n1 is 31 days old",)
    assert announcing.run_began(by_hand, AT).policy is None


ENDS = [
    pytest.param(
        RunState.GOOD, GOOD, Severity.INFO, "is dead with an outage of 42 milliseconds, n4 is the master", id="good"
    ),
    pytest.param(
        RunState.GOOD,
        replace(GOOD, outage=None, heir=None),
        Severity.INFO,
        "the master n1 is dead",
        id="a replica's good end has no outage",
    ),
    pytest.param(RunState.BAD, SLOW, Severity.WARNING, "is dead, with a fault", id="too slow, and nothing was lost"),
    pytest.param(
        RunState.GOOD, SLOW, Severity.WARNING, "is dead, with a fault", id="a state that says more than its verdict"
    ),
    pytest.param(RunState.BAD, LOST, Severity.CRITICAL, "is dead, with 2 faults", id="writes were lost"),
    pytest.param(
        RunState.BAD, BLIND, Severity.CRITICAL, "is dead, with a fault", id="nobody knows whether writes were lost"
    ),
    pytest.param(RunState.BAD, None, Severity.CRITICAL, "ended without a verdict", id="bad without a verdict"),
    pytest.param(
        RunState.GOOD, None, Severity.CRITICAL, "ended without a verdict", id="good without a verdict is a failed run"
    ),
    pytest.param(RunState.RUNNING, None, Severity.CRITICAL, "ended without a verdict", id="nobody said how"),
    pytest.param(RunState.REFUSED, None, Severity.WARNING, "stays: a guard refused", id="refused"),
    pytest.param(RunState.UNDONE, None, Severity.WARNING, "stays: the run failed before the kill", id="undone"),
    pytest.param(RunState.STUCK, None, Severity.CRITICAL, "a person has to look now", id="stuck"),
    pytest.param(RunState.STUCK, SLOW, Severity.CRITICAL, "a person has to look now", id="stuck with half a verdict"),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("state", "verdict", "severity", "said"), ENDS)
def test_an_end_is_as_urgent_as_its_state_and_its_writes(
    state: RunState, verdict: RunVerdict | None, severity: Severity, said: str
) -> None:
    told = announcing.run_ended(PLAN, state, verdict, "", AT)
    assert told.title.startswith("lab: the master n1")
    assert (told.severity, said in told.title) == (severity, True), told
    assert (told.what, told.run) == (Occurrence.ENDED, "run-1")


def test_an_end_says_what_it_cost() -> None:
    assert announcing.run_ended(PLAN, RunState.BAD, LOST, "2 writes are missing", AT).details == (
        "2 writes are missing",
        "fault: a sibling is gone",
        "outage: 42 milliseconds",
        "its parts: kill 2 milliseconds, promote 40 milliseconds",
        "acknowledged writes: 900, lost: 2",
        "copies: 3 before, 3 after",
        "note: the snapshot was cold",
    )
    blind = announcing.run_ended(PLAN, RunState.BAD, BLIND, "", AT).details
    assert "outage: not measured, or a client never came back" in blind
    assert "acknowledged writes: not compared" in blind
    assert announcing.run_ended(PLAN, RunState.REFUSED, None, "too few copies", AT).details == ("too few copies",)


def test_a_firing_ahead_is_told_in_the_policys_own_zone() -> None:
    told = announcing.firing_ahead(POLICY, FIRE, AT)
    when = "Wed 2026-12-02 03:20:30 Asia/Tokyo"
    assert told.title.startswith(f"nightly fires in 20 minutes 30 seconds, {when}: it is leashed")
    assert (told.what, told.severity, told.policy) == (Occurrence.AHEAD, Severity.INFO, "nightly")
    armed = announcing.firing_ahead(replace(POLICY, leash=Leash.OFF, schedule=None), FIRE, AT)
    assert armed.title.endswith("Tue 2026-12-01 18:20:30 UTC: it is armed")


def selection(due: int) -> Selection:
    chosen = [
        DueInstance(cluster=f"c{n}", role=Role.MASTER, instance=instance("n1"), why=("31 days old", "stale"))
        for n in range(due)
    ]
    spared = tuple(Spared(cluster=f"s{n}", instance=None, why="it cools down") for n in range(3))
    return Selection(policy="nightly", seed=7, due=tuple(chosen), spared=spared, targeted=due + 3, living=9)


def test_a_firing_counts_the_due_and_the_spared() -> None:
    told = announcing.policy_fired(replace(POLICY, leash=Leash.OFF), selection(2), Within(parts=()), AT)
    assert told.title == "nightly fired: 2 due, 3 spared, of 5 clusters"
    assert told.details == (
        "due: c0: master n1: 31 days old; stale",
        "due: c1: master n1: 31 days old; stale",
        "seed: 7",
    )
    assert (told.what, told.severity) == (Occurrence.FIRED, Severity.INFO)
    leashed = announcing.policy_fired(POLICY, selection(0), Within(parts=()), AT)
    assert leashed.title.endswith("0 due, 3 spared, of 3 clusters; it is leashed and touches nothing")


def test_a_firing_that_selects_too_many_says_first_why_it_is_aborted() -> None:
    share = Share(scope=Scope.FLEET, name="", dying=200, living=300)
    told = announcing.policy_fired(POLICY, selection(200), Exceeded(parts=(share,), why=("200 of 300 would die",)), AT)
    assert told.severity is Severity.WARNING
    assert told.title.startswith("nightly is aborted before any action, it selects too many: 200 due")
    assert told.details[0] == "200 of 300 would die"
    assert told.details[-2:] == ("... and 180 more", "seed: 7")


def test_missed_firings_are_listed_and_not_caught_up() -> None:
    fires = tuple(FIRE + timedelta(days=n) for n in range(30))
    told = announcing.firings_missed(POLICY, fires, more=True, at=AT)
    assert told.title == "nightly missed more than 30 firings: nothing is caught up, the next regular one counts"
    assert told.details[0] == "Wed 2026-12-02 03:20:30 Asia/Tokyo"
    assert told.details[-1] == "... and 10 more"
    assert "missed 1 firing:" in announcing.firings_missed(POLICY, fires[:1], more=False, at=AT).title
    assert (told.what, told.severity) == (Occurrence.MISSED, Severity.WARNING)


def test_a_leash_is_urgent_says_why_and_how_it_is_taken_off() -> None:
    told = announcing.policy_leashed("nightly", ("the outage of 3 seconds exceeds 2 seconds",), AT)
    assert (told.what, told.severity) == (Occurrence.LEASHED, Severity.CRITICAL)
    assert told.details[0] == "the outage of 3 seconds exceeds 2 seconds"
    assert "reaper policies release nightly --reason" in told.details[1]


def test_a_release_names_the_person_and_the_reason() -> None:
    told = announcing.policy_released("nightly", "anna@host", "the disk was replaced", AT)
    assert "released by anna@host" in told.title
    assert told.details == ("reason: the disk was replaced",)
    assert (told.what, told.severity) == (Occurrence.RELEASED, Severity.INFO)


def test_mistakes_in_policy_files_are_counted_and_the_first_are_listed() -> None:
    told = announcing.files_misread(tuple(f"a.yaml:{n}:1 wrong" for n in range(25)), AT)
    assert told.title == "policy files have 25 mistakes: the last good ones stay in force"
    assert told.details[0] == "a.yaml:0:1 wrong"
    assert told.details[-1] == "... and 5 more"
    assert (told.what, told.severity, told.policy) == (Occurrence.MISREAD, Severity.WARNING, None)
