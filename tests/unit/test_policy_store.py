"""What policies remember: each firing once, the history of clusters, the leash."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from builders import MS, NOON
from rotations import Stage

from reaper.adapters.store import past
from reaper.adapters.store.admission import Ticket
from reaper.adapters.store.codec import encode
from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunStore
from reaper.adapters.store.standing import PolicyStore
from reaper.adapters.store.work import Work
from reaper.domain.errors import UsageError
from reaper.domain.ledger import LedgerVerdict
from reaper.domain.plan import Plan
from reaper.domain.verdict import RunState, RunVerdict
from reaper.planner.selection import ClusterHistory

HOUR = timedelta(hours=1)
TEMPLATE = Stage().plan()
VERDICT = RunVerdict(
    faults=(), outage=42 * MS, clients=(), parts=(), ledger=None, copies_before=3, copies_after=3, heir=None
)


@dataclass(frozen=True)
class Desk:
    """A store, and who writes its runs."""

    place: Place
    policies: PolicyStore
    journal: RunStore
    work: Work

    def asked(self, run: str, policy: str | None, cluster: str = "lab") -> Plan:
        if policy is not None:
            self.policies.asked(run, policy, cluster)
        return replace(TEMPLATE, run=run, cluster=cluster, standing=policy)

    def ran(
        self,
        run: str,
        policy: str | None,
        state: RunState = RunState.GOOD,
        *,
        cluster: str = "lab",
        verdict: RunVerdict | None = VERDICT,
        message: str = "",
    ) -> datetime:
        """A run from its birth to its end; when that was."""
        self.journal.begin(self.asked(run, policy, cluster))
        self.journal.end(run, state, verdict, message)
        ended = self.journal.run(run).ended
        assert ended is not None
        return ended

    def queued(self, plan: Plan) -> None:
        argument = json.loads(encode(Plan, plan))
        self.work.submit(Ticket(run=plan.run, cluster=plan.cluster, group=None, argument=argument))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def desk(place: Place) -> Desk:
    return Desk(place, PolicyStore(place), RunStore(place), Work(place.database))


def test_who_only_reads_makes_no_file(tmp_path: Path) -> None:
    store = PolicyStore(Place(tmp_path / "none"))
    assert store.last_fire("p") is store.last_look("p") is store.released_at("p") is None
    assert store.firings() == store.past_runs() == store.leashed() == store.leashes() == ()
    assert store.histories("p") == {}
    assert not store.is_leashed("p")
    with pytest.raises(UsageError, match="nothing to release"):
        store.release("p", "ann", "why not", NOON)
    assert list(tmp_path.iterdir()) == []


# ---- firings


def test_a_firing_is_taken_by_the_first_who_asks_whatever_zone_it_is_said_in(desk: Desk) -> None:
    elsewhere = PolicyStore(desk.place)
    tokyo = NOON.astimezone(datetime.fromisoformat("2026-01-01T00:00+09:00").tzinfo)
    assert desk.policies.decided("p", NOON, 7, NOON + HOUR, '{"due": 3}')
    assert not elsewhere.decided("p", tokyo, 8, NOON + HOUR, "{}")
    assert elsewhere.decided("q", NOON, 9, NOON, "{}"), "another policy's firing is another one"
    assert elsewhere.decided("p", NOON + HOUR, 2**80, NOON, "{}")
    (first,) = desk.policies.firings("p", since=NOON - HOUR, most=2)[1:]
    assert (first.fire, first.decided, first.seed, first.summary) == (NOON, NOON + HOUR, 7, '{"due": 3}')
    assert [(f.policy, f.seed) for f in desk.policies.firings()] == [("p", 2**80), ("p", 7), ("q", 9)]
    assert [f.seed for f in desk.policies.firings(since=NOON)] == [2**80]
    assert (desk.policies.last_fire("p"), desk.policies.last_fire("r")) == (NOON + HOUR, None)


def test_of_many_who_ask_at_once_exactly_one_gets_the_firing(desk: Desk) -> None:
    gate, won = threading.Barrier(8), []

    def ask(seed: int) -> None:
        gate.wait()
        if desk.policies.decided("p", NOON, seed, NOON, "{}"):
            won.append(seed)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [firing.seed for firing in desk.policies.firings()]
    assert len(won) == 1


def test_a_look_never_goes_back_and_a_new_policy_has_none(desk: Desk) -> None:
    desk.policies.looked(["p", "q"], NOON)
    desk.policies.looked(["p"], NOON + HOUR)
    desk.policies.looked(["p"], NOON)  # of a daemon whose clock is behind
    looks = [desk.policies.last_look(policy) for policy in ("p", "q", "new")]
    assert looks == [NOON + HOUR, NOON, None]


# ---- the history of clusters

KILLS = [
    pytest.param(RunState.GOOD, True, id="a good run killed"),
    pytest.param(RunState.BAD, True, id="a bad run killed"),
    pytest.param(RunState.STUCK, True, id="a run that is stuck is taken to have killed"),
    pytest.param(RunState.REFUSED, False, id="a refused run did not"),
    pytest.param(RunState.UNDONE, False, id="an undone run did not"),
]


@pytest.mark.parametrize(("state", "killed"), KILLS)
@pytest.mark.parametrize("asked_before", [0, 30], ids=["asked for few", "asked for many"])
def test_a_policy_remembers_its_own_last_kill_and_anybodys_last_run(
    desk: Desk, state: RunState, killed: bool, asked_before: int
) -> None:
    for n in range(asked_before):
        desk.policies.asked(f"given-up-{n}", "p", "lab")
    earlier = desk.ran("run-1", "p")
    ended = desk.ran("run-2", "p", state)
    desk.ran("run-3", "q")
    last = desk.ran("run-4", None, RunState.REFUSED)
    of_p = ClusterHistory(last_kill=ended if killed else earlier, last_run_ended=last)
    assert desk.policies.histories("p") == {"lab": of_p}
    assert desk.policies.histories("r") == {"lab": ClusterHistory(last_run_ended=last)}


def test_a_run_that_waits_or_is_under_way_is_unfinished_for_everybody(desk: Desk) -> None:
    desk.queued(desk.asked("a-1", "p", "a"))
    desk.journal.begin(desk.asked("b-1", None, "b"))
    ended = desk.ran("c-1", "p", cluster="c")
    for policy in ("p", "q"):
        found = desk.policies.histories(policy)
        assert {c: h.unfinished_run for c, h in found.items()} == {"a": "a-1", "b": "b-1", "c": None}
    assert desk.policies.histories("p")["c"].last_kill == ended


def test_a_run_that_is_over_without_a_word_in_the_journal_is_taken_to_have_killed(desk: Desk) -> None:
    """I12: it is not unfinished, nobody goes on with it; it is a failed run."""
    earlier = desk.ran("a-0", "p", cluster="a")
    plan = desk.asked("a-1", "p", "a")
    desk.queued(plan)
    desk.journal.begin(plan)
    assert desk.work.withdraw("a-1", "the journal did not hear of it")
    run, other = desk.policies.past_runs("p")
    assert (other.run, other.ended) == ("a-0", earlier)
    assert desk.policies.histories("p") == {"a": ClusterHistory(last_kill=run.ended, last_run_ended=run.ended)}
    assert desk.policies.histories("q") == {"a": ClusterHistory(last_run_ended=run.ended)}
    assert (run.run, run.state, run.unjudged, run.failed) == ("a-1", RunState.RUNNING, True, True)


def test_every_cluster_has_the_history_that_a_slow_look_finds(desk: Desk) -> None:
    """Names that are beginnings of each other, several policies, random ends: against a plain loop."""
    dice = Random(4)
    clusters = ["a", "a-1", "a.", "A", "b", "zz", "z"]
    ends: dict[str, datetime] = {}
    kills: dict[tuple[str, str], datetime] = {}
    for n in range(60):
        cluster, policy = dice.choice(clusters), dice.choice(["p", "q"])
        state = dice.choice([RunState.GOOD, RunState.REFUSED, RunState.UNDONE])
        ends[cluster] = desk.ran(f"run-{n}", policy, state, cluster=cluster)
        if state is RunState.GOOD:
            kills[policy, cluster] = ends[cluster]
    for policy in ("p", "q"):
        assert desk.policies.histories(policy) == {
            cluster: ClusterHistory(last_kill=kills.get((policy, cluster)), last_run_ended=ended)
            for cluster, ended in ends.items()
        }


# ---- past runs


def test_past_runs_are_a_policys_newest_first_with_what_they_cost(desk: Desk) -> None:
    ledger = LedgerVerdict(
        acknowledged=9, lost=((0, 1), (0, 2)), unknown_present=0, unknown_absent=0, refused=0, refused_present=0,
        duplicated=(),
    )  # fmt: skip
    bad = replace(VERDICT, faults=("slow", "lossy"), ledger=ledger)
    desk.ran("run-1", "p", RunState.BAD, verdict=bad)
    desk.ran("run-2", "q")
    desk.ran("run-3", "p", RunState.UNDONE, verdict=None, message="no room")
    desk.journal.begin(desk.asked("run-4", "p"))
    newest, oldest = sorted(desk.policies.past_runs("p"), key=lambda run: run.run, reverse=True)
    assert (newest.run, newest.state, newest.outage, newest.lost, newest.message) == (
        "run-3", RunState.UNDONE, None, None, "no room",
    )  # fmt: skip
    assert (oldest.run, oldest.outage, oldest.lost, oldest.message) == ("run-1", 42 * MS, 2, "slow; lossy")
    assert oldest.policy == "p"
    assert oldest.began is not None
    assert oldest.began <= oldest.ended
    everybodys = desk.policies.past_runs()
    assert [run.ended for run in everybodys] == sorted((run.ended for run in everybodys), reverse=True)
    assert {run.run for run in everybodys} == {"run-1", "run-2", "run-3"}


def test_past_runs_begin_after_a_moment_and_may_be_of_one_cluster(desk: Desk) -> None:
    before = desk.ran("run-1", "p")
    assert [r.run for r in desk.policies.past_runs("p", before - MS)] == ["run-1"]
    assert desk.policies.past_runs("p", before) == (), "what ended up to the release is forgiven"
    desk.ran("run-2", "p", cluster="other")
    assert [r.run for r in desk.policies.past_runs("p", cluster="other")] == ["run-2"]
    assert [r.run for r in desk.policies.past_runs(cluster="lab")] == ["run-1"]
    assert len(desk.policies.past_runs(most=1)) == 1


def test_past_runs_are_found_for_a_policy_that_acts_seldom_and_for_one_that_queues_many(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked among is bounded: what it asked for last, and what ended last."""
    monkeypatch.setattr(past, "WINDOW", 3)
    desk.ran("seldom-1", "seldom")
    for n in range(5):
        desk.asked(f"often-{n}", "often")
    for n in range(2):
        desk.journal.begin(desk.asked(f"often-{n}", "often"))
        desk.journal.end(f"often-{n}", RunState.GOOD, VERDICT, "")
    for n in range(2):
        desk.ran(f"other-{n}", None)
    assert [r.run for r in desk.policies.past_runs("seldom", most=3)] == ["seldom-1"]
    assert [r.run for r in desk.policies.past_runs("often", most=3)][:1] == ["often-1"]


def test_a_verdict_of_another_version_costs_something_unknown(desk: Desk) -> None:
    desk.ran("run-1", "p", RunState.BAD)
    with desk.place.database.write() as tx:
        tx.do("update reaper_journal set verdict = '{}'")
    (run,) = desk.policies.past_runs("p")
    assert (run.state, run.outage, run.lost) == (RunState.BAD, None, None)
    assert "another version" in run.message


# ---- the leash


def test_the_first_reason_of_a_leash_stays_until_a_person_lets_go(desk: Desk) -> None:
    store = desk.policies
    assert store.leash("p", ("slow", "lossy"), "run-1", NOON)
    assert not store.leash("p", ("another",), "run-2", NOON + HOUR)
    assert store.is_leashed("p")
    assert not store.is_leashed("q")
    (record,) = store.leashed()
    assert (record.policy, record.at, record.why, record.run) == ("p", NOON, ("slow", "lossy"), "run-1")
    assert store.release("p", "ann", "mended", NOON + 2 * HOUR) == record
    assert (store.leashed("p"), store.released_at("p")) == ((), NOON + 2 * HOUR)


def test_every_leash_is_kept_with_who_released_it_and_why(desk: Desk) -> None:
    store = desk.policies
    for n in range(2):
        assert store.leash("p", (f"reason {n}",), None, NOON + 2 * n * HOUR)
        store.release("p", "ann", f"mended {n}", NOON + (2 * n + 1) * HOUR)
    store.leash("p", ("again",), None, NOON + 9 * HOUR)
    store.leash("q", ("other",), None, NOON)
    kept = [(r.why, r.who, r.reason, r.released) for r in store.leashes("p")]
    assert kept == [
        (("reason 0",), "ann", "mended 0", NOON + HOUR),
        (("reason 1",), "ann", "mended 1", NOON + 3 * HOUR),
        (("again",), None, None, None),
    ]
    assert [r.policy for r in store.leashed()] == ["p", "q"]
    assert store.released_at("p") == NOON + 3 * HOUR


RELEASES = [
    pytest.param("q", "ann", "mended", "q is not leashed", id="of a policy that is not leashed"),
    pytest.param("p", "ann", "  ", "say why p may act again", id="without a reason"),
    pytest.param("p", "", "mended", "say who lets p act again", id="by nobody"),
]


@pytest.mark.parametrize(("policy", "who", "reason", "said"), RELEASES)
def test_a_release_that_means_nothing_is_refused(desk: Desk, policy: str, who: str, reason: str, said: str) -> None:
    desk.policies.leash("p", ("slow",), None, NOON)
    with pytest.raises(UsageError, match=said):
        desk.policies.release(policy, who, reason, NOON)
    assert desk.policies.is_leashed("p")


def test_what_is_remembered_survives_a_restart(desk: Desk, tmp_path: Path) -> None:
    desk.policies.decided("p", NOON, 7, NOON, "{}")
    ended = desk.ran("run-1", "p")
    desk.policies.leash("p", ("slow",), "run-1", datetime.now(UTC))
    again = Place(tmp_path)
    try:
        store = PolicyStore(again)
        assert not store.decided("p", NOON, 8, NOON, "{}")
        assert store.histories("p")["lab"].last_kill == ended
        assert store.is_leashed("p")
    finally:
        again.database.close()
