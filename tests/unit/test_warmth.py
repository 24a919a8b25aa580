"""E25: a cold heir is seen before the kill, and how long clients felt the change afterwards is known."""

import re
from array import array
from collections.abc import Callable
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from builders import instance

from reaper.adapters.mysql.canaries import SqlCanaries
from reaper.adapters.mysql.pages import SqlPool
from reaper.adapters.store.codec import decode, encode
from reaper.cli.curve import ASCII_BLOCKS, recovery_line, recovery_svg
from reaper.domain.canary import Canary, refusal
from reaper.domain.errors import (
    AbortedError,
    AccessDeniedError,
    RefusedError,
    ServerError,
    ServerGoneError,
    StatementTimeoutError,
    TryAgainError,
)
from reaper.domain.facts import Flavour
from reaper.domain.pagelist import Resident, Room, Tablespace, hottest, parse_pages, ship, written_pages
from reaper.domain.warmth import (
    Baseline,
    Compared,
    Latency,
    Otherwise,
    Point,
    Recovery,
    Warmth,
    WarmthGate,
    rank,
    thinned,
)
from reaper.testing.clock import FakeClock
from reaper.testing.warming import FakeCanaries, FakePool, warm_side
from reaper.workflow.pools import Pace, Sampled, Side
from reaper.workflow.recovery import EVERY, ROUNDS_IN_A_ROW, follow
from reaper.workflow.warming import Surroundings, baseline, must_pass, warm_up

SECOND = timedelta(seconds=1)


def page(space: int, number: int) -> int:
    return space << 32 | number


def pages(*numbers: int, space: int = 5) -> "array[int]":
    return array("Q", (page(space, n) for n in numbers))


def table(number: int, name: str, length: int = 10_000) -> Tablespace:
    return Tablespace(id=number, name=name, pages=length)


# ---- canaries


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "select a, b from t where id = 7 limit 10;",
        "SELECT COUNT(*), MAX(`created`) FROM `app`.`orders` WHERE state IN ('open', 'it''s paid') AND total >= 1.5e3",
        "SELECT o.id FROM orders o LEFT JOIN (SELECT id FROM users WHERE id < 0xFF) u ON (u.id = o.user) ORDER BY 1",
        "SELECT CASE WHEN a THEN (b) ELSE COALESCE(c, 0) END FROM t USE INDEX (by_a) WHERE EXISTS (SELECT 1 FROM s)",
        "SELECT t.update, t.into, t.`for` FROM t",
        "SELECT name FROM t WHERE name LIKE '%sleep(9)%' AND note = \"-- /* ; @x FOR UPDATE\"",
        "SELECT ((1))",
    ],
)
def test_a_plain_select_is_a_canary(statement: str) -> None:
    assert refusal(statement) is None


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        pytest.param(sql, why, id=sql.replace("\\", "")[:60] or "nothing")
        for sql, why in (
            ("", "begin with SELECT"),
            ("UPDATE t SET a = 1", "begin with SELECT"),
            ("(SELECT 1)", "begin with SELECT"),
            ("WITH x AS (SELECT 1) SELECT * FROM x", "begin with SELECT"),
            ("SELECT 1; DROP TABLE t", "more than one statement"),
            ("SELECT 1;;", "more than one statement"),
            ("SELECT * FROM t FOR UPDATE", "word FOR"),
            ("SELECT * FROM t for share", "word FOR"),
            ("SELECT * FROM t LOCK IN SHARE MODE", "word LOCK"),
            ("SELECT * FROM t INTO OUTFILE '/tmp/x'", "word INTO"),
            ("SELECT a INTO @x FROM t", "word INTO|variables"),
            ("SELECT @a := 1", "variables"),
            ("SELECT @@global.read_only", "variables"),
            ("SELECT SLEEP(5)", "calls SLEEP"),
            ("SELECT sleep /**/ (5)", "comment"),
            ("SELECT BENCHMARK(1000000, SHA2('x', 512))", "calls BENCHMARK"),
            ("SELECT GET_LOCK('x', 1)", "calls GET_LOCK"),
            ("SELECT RELEASE_ALL_LOCKS()", "calls RELEASE_ALL_LOCKS"),
            ("SELECT MASTER_POS_WAIT('a', 4)", "calls MASTER_POS_WAIT"),
            ("SELECT LOAD_FILE('/etc/passwd')", "calls LOAD_FILE"),
            ("SELECT LAST_INSERT_ID(7)", "calls LAST_INSERT_ID"),
            ("SELECT NEXTVAL(s)", "word NEXTVAL"),
            ("SELECT NEXT VALUE FOR s", "word NEXT"),
            ("SELECT charge_customer(1)", "calls CHARGE_CUSTOMER"),
            ("SELECT app.f(1)", "of a schema"),
            ("SELECT app.max(1)", "of a schema"),
            ("SELECT app . max(1)", "of a schema"),
            ("SELECT `sleep`(1)", "stored function"),
            ("SELECT `app`.`f`(1)", "stored function"),
            ('SELECT "f"(1)', "stored function"),
            ("SELECT MAX (1)", "space before the parenthesis"),
            ("SELECT 1max(a) FROM t", "begins with a digit"),
            ("SELECT 1 /*! INTO OUTFILE '/tmp/x' */", "comment"),
            ("SELECT 1 -- x", "comment"),
            ("SELECT 1 # x", "comment"),
            ("SELECT 1 --\tx", "comment"),
            ("SELECT 'a\\' FOR UPDATE -- ' FROM t", "backslash"),
            ("SELECT 'open", "does not end"),
            ("SELECT * FROM t WHERE id = ?", "placeholders"),
            ("SELECT * FROM t PROCEDURE ANALYSE()", "word PROCEDURE"),
            ("SELECT (1", "parentheses"),
            ("SELECT 1)", "parentheses"),
            ("SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a INT PATH '$')) t", "calls JSON_TABLE"),
            ("SELECT \x00 1", "not understood"),
            ("SELECT " + "1," * 20_000 + "1", "longer than"),
        )
    ],
)
def test_what_could_write_lock_sleep_or_run_code_is_no_canary(statement: str, why: str) -> None:
    said = refusal(statement)
    assert said is not None
    assert re.search(why, said), said


# ---- page lists


def test_a_dump_is_read_and_written_as_the_servers_do() -> None:
    text = b"5,3\n0,7\n4294967294,4294967295\n"
    assert list(parse_pages(text)) == [page(5, 3), 7, page(4294967294, 4294967295)]
    assert written_pages(parse_pages(text)) == text


@pytest.mark.parametrize("text", [b"5,3\n5", b"5;3", b"-1,3", b"5,4294967296", b"<html>"])
def test_what_is_no_dump_or_was_cut_off_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no page"):
        parse_pages(text)


@pytest.mark.parametrize(
    ("hot", "heir", "room", "wanted", "counts"),
    [
        pytest.param(
            pages(3, 1), [table(5, "app/t")], 99, pages(3, 1), (2, 0, 0), id="the same file keeps its number and order"
        ),
        pytest.param(
            pages(3, 1), [table(9, "app/t")], 99, pages(3, 1, space=9), (2, 0, 0), id="a rebuilt table has another one"
        ),
        pytest.param(
            pages(3, 1), [table(5, "app/other")], 99, pages(), (2, 2, 0), id="a table that is not there is absent"
        ),
        pytest.param(
            pages(3, 1), [table(5, "app/t", 3)], 99, pages(1), (2, 1, 0), id="so is a page beyond the end of the file"
        ),
        pytest.param(
            pages(3, 1, 4), [table(5, "app/t")], 2, pages(3, 1), (3, 0, 1), id="a smaller pool gets the hottest"
        ),
        pytest.param(
            array("Q", [page(0, 1), page(5, 1), page(7, 2), page(8, 2)]),
            [table(5, "app/t"), table(0, "innodb_system"), table(7, "mysql/gtid_slave_pos"), table(8, "reaper/marker")],
            99,
            pages(1),
            (1, 0, 0),
            id="what each server keeps for itself is not hot",
        ),
    ],
)
def test_hot_pages_are_shipped(
    hot: "array[int]", heir: list[Tablespace], room: int, wanted: "array[int]", counts: tuple[int, int, int]
) -> None:
    victim = [table(5, "app/t"), table(0, "innodb_system"), table(7, "mysql/gtid_slave_pos"), table(8, "reaper/marker")]
    found = ship(hot, victim, heir, Room(pages=room), 1)
    assert list(found.pages) == list(wanted)
    assert (found.hot, found.absent, found.beyond) == counts


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("app/t", True),
        ("app/t#p#p0", True),
        ("innodb_app/t", True),
        ("mysql_app/t", True),
        ("fast_disk", True),
        ("mysql/gtid_slave_pos", False),
        ("mysql", False),
        ("sys/sys_config", False),
        ("reaper/marker", False),
        ("innodb_system", False),
        ("innodb_undo_001", False),
        ("innodb_temporary", False),
    ],
)
def test_which_files_mean_the_same_on_a_replica(name: str, shared: bool) -> None:
    assert table(1, name).shared is shared


def test_of_a_pool_with_several_instances_the_head_of_each_is_hot() -> None:
    listed = pages(1, 2, 3, 11, 12, 13)
    assert list(hottest(listed, 2, 2)) == list(pages(1, 11))
    assert list(hottest(listed, 6, 2)) == list(listed)
    assert list(hottest(listed, 3, 1)) == list(pages(1, 2, 3))


def test_resident_pages_are_counted_by_file_and_place() -> None:
    there = Resident([page(5, 0), page(5, 8), page(6, 4_000_000)])
    asked = [page(5, 0), page(5, 8), page(5, 9), page(6, 8), page(6, 4_000_000), page(7, 0)]
    assert [there.has(p) for p in asked] == [True, True, False, False, True, False]
    assert there.count(asked) == 3


# ---- the gate


class Stage:
    """A victim with a thousand hot pages and an heir with none, before one gate."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[str] = []
        self.normal = Pace(normal=200, most=2000)
        self.victim = self._pool(list(pages(*range(1000))))
        self.heir = self._pool([])
        self.on_victim, self.on_heir = FakeCanaries(clock=self.clock), FakeCanaries(clock=self.clock)
        self.check: Callable[[], None] = lambda: None

    def _pool(self, resident: list[int]) -> FakePool:
        return FakePool(clock=self.clock, spaces=(table(5, "app/t"),), pages=resident, size=2000, rate=self.normal)

    def warm(self, **gate: object) -> Warmth:
        victim = Side(instance=instance("n1"), pool=self.victim, canaries=self.on_victim)
        heir = Side(instance=instance("n4"), pool=self.heir, canaries=self.on_heir)
        around = Surroundings(clock=self.clock, check=lambda: self.check(), tell=self.told.append)
        return warm_up(WarmthGate(**gate), victim, heir, around, self.normal)  # type: ignore[arg-type]  # its own names


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_the_victims_hot_pages_are_loaded_and_then_the_gate_is_passed(stage: Stage) -> None:
    found = stage.warm()
    assert found.passed
    assert (found.resident, found.pages_wanted, found.pages_resident) == (1.0, 1000, 1000)
    assert stage.heir.loads == 1
    must_pass(WarmthGate(), found)


def test_the_files_of_a_copy_that_nobody_has_read_from_are_opened_first(stage: Stage) -> None:
    stage.heir.opened = False
    assert stage.warm().passed


def test_a_warm_heir_is_not_made_to_load(stage: Stage) -> None:
    stage.heir.pages = list(stage.victim.pages)[:950]
    assert stage.warm(gate=0.95).passed
    assert stage.heir.loads == 0


def test_a_replica_loads_faster_than_its_own_pace_and_gets_that_back(stage: Stage) -> None:
    paces: list[Pace] = []
    stage.check = lambda: paces.append(stage.heir.rate)
    stage.victim.pages = list(pages(*range(2000)))
    found = stage.warm()
    assert found.took < 2 * SECOND  # ten seconds at the pace of 200 pages a second
    assert {p.normal for p in paces} == {20_000}
    assert all(p.most >= p.normal for p in paces)
    assert stage.heir.rate == stage.normal


def test_a_server_whose_pace_may_not_be_changed_loads_at_its_own(stage: Stage) -> None:
    def denied(_pace: Pace) -> None:
        raise AccessDeniedError("SYSTEM_VARIABLES_ADMIN is missing")

    stage.heir.set_pace = denied  # type: ignore[method-assign]  # of a hosted server
    found = stage.warm()
    assert found.passed
    assert found.took >= 5 * SECOND


def test_the_pace_is_given_back_when_somebody_stops_the_run(stage: Stage) -> None:
    def stop() -> None:
        raise AbortedError("stop")

    stage.check = stop
    with pytest.raises(AbortedError):
        stage.warm()
    assert stage.heir.rate == stage.normal


def test_progress_is_told_with_an_estimate_of_the_rest(stage: Stage) -> None:
    stage.victim.pages = list(pages(*range(10_000)))
    stage.heir.size = stage.victim.size = 20_000
    stage.normal = stage.heir.rate = Pace(normal=2_000, most=2_000)
    stage.heir.set_pace = lambda _pace: None  # type: ignore[method-assign]  # a server that keeps its pace
    stage.warm()
    assert "n4 has read 4,000 of 10,000 pages, about 3 s to go" in stage.told


def test_pages_that_were_evicted_are_loaded_again(stage: Stage) -> None:
    stage.heir.forgets = lambda load: 300 if load == 1 else 0
    found = stage.warm()
    assert found.passed
    assert stage.heir.loads == 2
    assert any("another try in 5 s" in words for words in stage.told)


def test_a_gate_that_is_not_reached_in_time_refuses_in_words(stage: Stage) -> None:
    stage.heir.forgets = lambda _load: 900
    gate = WarmthGate(within=timedelta(minutes=1))
    found = stage.warm(within=gate.within)
    assert not found.passed
    assert found.resident is not None
    assert found.resident < 0.9
    assert found.took >= gate.within
    with pytest.raises(RefusedError, match=r"(?s)not warm after .*Asked for: 90% resident.*otherwise: go"):
        must_pass(gate, found)
    must_pass(WarmthGate(otherwise=Otherwise.GO), found)


def test_a_load_that_outlasts_the_time_is_left_and_told(stage: Stage) -> None:
    stage.heir.set_pace = lambda _pace: None  # type: ignore[method-assign]  # a server that keeps its pace
    found = stage.warm(within=2 * SECOND)
    assert not found.passed
    assert "n4 still loads: 400 of 1,000 pages are read" in found.notes


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        pytest.param(
            lambda s: setattr(s.victim, "unlisted", "its list is out of reach"),
            "out of reach",
            id="the victim's pages are not known (I10)",
        ),
        pytest.param(
            lambda s: setattr(s.heir, "unlisted", "its list is out of reach"),
            "out of reach",
            id="the heir's pages are not known (I10)",
        ),
        pytest.param(
            lambda s: setattr(s.heir, "size", 500),
            "no room for 500 of the hot pages",
            id="the heir's pool is too small",
        ),
        pytest.param(
            lambda s: setattr(s.heir, "spaces", (table(5, "app/t", 500),)),
            "500 of the hot pages do not exist",
            id="the heir's files are laid out otherwise",
        ),
    ],
)
def test_what_no_time_mends_is_told_at_once(stage: Stage, prepare: Callable[[Stage], None], why: str) -> None:
    prepare(stage)
    found = stage.warm()
    assert not found.passed
    assert found.took < timedelta(minutes=1)
    assert any(why in note for note in found.notes), found.notes


def test_a_list_that_cannot_be_brought_leaves_the_heir_as_warm_as_it_is(stage: Stage) -> None:
    stage.heir.unwritable = "its directory is out of reach"
    found = stage.warm(within=10 * SECOND)
    assert not found.passed
    assert found.resident == 0.0
    assert "its directory is out of reach" in found.notes


# ---- canaries at the gate


def test_a_heir_whose_pages_are_there_and_whose_canaries_are_slow_is_not_warm(stage: Stage) -> None:
    stage.on_heir.takes = lambda _canary, _turn: 30.0
    stage.on_victim.takes = lambda _canary, _turn: 10.0
    found = stage.warm(canaries=("SELECT 1",), within=20 * SECOND)
    assert not found.passed
    assert found.resident == 1.0
    (compared,) = found.canaries
    assert compared.ratio == 3.0
    assert "the slowest at 3.0 times the victim's median (30.0 against 10.0 ms)" in found.words


def test_a_heir_warms_up_while_the_gate_waits(stage: Stage) -> None:
    began = stage.clock.monotonic_ns()
    stage.on_victim.takes = lambda _canary, _turn: 10.0
    stage.on_heir.takes = lambda _canary, _turn: 100.0 if stage.clock.monotonic_ns() - began < 10 * 10**9 else 11.0
    found = stage.warm(canaries=("SELECT 1",))
    assert found.passed
    assert found.took > 10 * SECOND


def test_canaries_are_few_and_leave_the_victim_most_of_its_time(stage: Stage) -> None:
    many = tuple(Canary(name=f"c{i}", statements=(f"SELECT {i}",)) for i in range(9))
    stage.on_victim.suggests = Sampled(canaries=many)
    stage.on_victim.takes = stage.on_heir.takes = lambda _canary, _turn: 50.0
    stage.heir.pages = list(stage.victim.pages)
    found = stage.warm()
    assert len(found.canaries) == 5
    spent = len(stage.on_victim.runs) * timedelta(milliseconds=50)
    assert spent <= found.took * 0.1
    assert stage.on_victim.runs == stage.on_heir.runs


def test_literals_take_turns(stage: Stage) -> None:
    several = Canary(name="c", statements=("SELECT 1", "SELECT 2", "SELECT 3"))
    stage.on_victim.suggests = Sampled(canaries=(several,))
    stage.warm()
    assert stage.on_heir.runs[:4] == ["SELECT 1", "SELECT 2", "SELECT 3", "SELECT 1"]


def test_without_canaries_the_gate_says_why_and_judges_the_pages(stage: Stage) -> None:
    stage.on_victim.suggests = Sampled(canaries=(), why="performance_schema is off")
    found = stage.warm()
    assert found.passed
    assert found.hit_ratio is None
    assert "no canary; performance_schema is off" in found.words


def test_a_policys_canary_that_is_not_harmless_is_never_run(stage: Stage) -> None:
    with pytest.raises(RefusedError, match="canary 2: it calls SLEEP"):
        stage.warm(canaries=("SELECT 1", "SELECT SLEEP(1)"))
    assert stage.on_victim.runs == stage.on_heir.runs == []


@pytest.mark.parametrize(
    ("asked_for", "rejects", "passed"),
    [
        pytest.param(("SELECT 1",), "victim", False, id="one of the policy that the victim rejects was not passed"),
        pytest.param(("SELECT 1",), "heir", False, id="one of the policy that the heir rejects was not passed"),
        pytest.param((), "heir", False, id="a sampled one that only the heir rejects was not passed"),
        pytest.param((), "victim", True, id="a sampled one that the victim rejects by now is left out"),
    ],
)
def test_a_canary_that_a_server_rejects(stage: Stage, asked_for: tuple[str, ...], rejects: str, passed: bool) -> None:
    stage.on_victim.suggests = Sampled(canaries=(Canary(name="sampled", statements=("SELECT 2",)),))
    side = stage.on_victim if rejects == "victim" else stage.on_heir
    side.takes = lambda _canary, _turn: ServerError("no such table")
    found = stage.warm(canaries=asked_for)
    assert found.passed is passed
    assert any("cannot be compared: no such table" in note for note in found.notes)


def test_a_server_that_is_gone_is_no_cold_one(stage: Stage) -> None:
    stage.on_heir.takes = lambda _canary, _turn: ServerGoneError("no answer")
    with pytest.raises(ServerGoneError):
        stage.warm(canaries=("SELECT 1",))


def test_the_hit_ratio_is_that_of_the_heir_while_canaries_ran(stage: Stage) -> None:
    stage.on_heir.misses = 1
    found = stage.warm(canaries=("SELECT 1",))
    assert found.hit_ratio == pytest.approx(0.9)


def test_a_simulated_pair_is_warm_by_default() -> None:
    clock = FakeClock()
    around = Surroundings(clock=clock, check=lambda: None, tell=lambda _words: None)
    sides = [warm_side(clock, instance(name)) for name in ("n1", "n4")]
    assert warm_up(WarmthGate(), *sides, around, Pace(normal=200, most=2000)).passed


@pytest.mark.parametrize(
    ("heir", "victim", "like"),
    [
        pytest.param((1.0, 3.0), (1.0, 3.0), True, id="equal"),
        pytest.param((2.0, 3.0), (0.2, 1.0), True, id="ten times as slow, and nobody feels two milliseconds"),
        pytest.param((20.0, 21.0), (10.0, 11.0), True, id="exactly twice as slow"),
        pytest.param((20.1, 21.0), (10.0, 11.0), False, id="the median is more than twice as slow"),
        pytest.param((10.0, 23.0), (10.0, 11.0), False, id="the 95th percentile is more than twice as slow"),
    ],
)
def test_when_an_heir_is_like_its_victim(heir: tuple[float, float], victim: tuple[float, float], like: bool) -> None:
    mine, its = (Latency(name="c", p50_ms=a, p95_ms=b, runs=20) for a, b in (heir, victim))
    assert mine.is_like(its, 2.0) is like


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(n) for n in range(1, 21)]
    assert (rank(values, 0.5), rank(values, 0.95), rank([7.0], 0.95)) == (10.0, 19.0, 7.0)


def test_what_was_found_survives_the_runs_record() -> None:
    one = Latency(name="c", p50_ms=1.0, p95_ms=2.0, runs=3)
    found = Warmth(
        resident=None,
        pages_wanted=0,
        pages_resident=0,
        hit_ratio=None,
        canaries=(Compared(victim=one, heir=one),),
        passed=False,
        took=SECOND,
        notes=("n",),
    )
    assert decode(Warmth, encode(Warmth, found)) == found
    recovered = Recovery(
        curve=(Point(after=SECOND, ratio=None),), time_to_normal=None, baseline=(one,), factor=2.0, notes=()
    )
    assert decode(Recovery, encode(Recovery, recovered)) == recovered
    assert decode(WarmthGate, encode(WarmthGate, WarmthGate())) == WarmthGate()


# ---- time to normal

CANARY = Canary(name="c", statements=("SELECT 1", "SELECT 2"))
BEFORE = Baseline(canaries=(Latency(name="c", p50_ms=10.0, p95_ms=14.0, runs=5),))


def watched(takes: Callable[[float], "float | ServerError"], **more: object) -> Recovery:
    """Canaries that take, so many seconds after the kill, what they are told; the reroute took half a second."""
    clock = FakeClock()
    killed = clock.monotonic_ns()
    clock.sleep(SECOND / 2)
    master = FakeCanaries(clock=clock, takes=lambda _c, _t: takes((clock.monotonic_ns() - killed) / 1e9))
    options = {"killed_ns": killed, "factor": 2.0} | more
    return follow(master, (CANARY,), BEFORE, clock, **options)  # type: ignore[arg-type]  # its own names


def test_a_warm_heir_is_normal_at_once() -> None:
    found = watched(lambda _after: 11.0)
    assert found.time_to_normal == SECOND / 2
    assert len(found.curve) == ROUNDS_IN_A_ROW
    assert {p.after - q.after for q, p in zip(found.curve, found.curve[1:], strict=False)} == {EVERY}
    assert {p.ratio for p in found.curve} == {1.1}


def test_a_cold_heir_is_normal_from_the_first_of_the_rounds_that_stay_normal() -> None:
    found = watched(lambda after: 200.0 if after < 8 else 12.0)
    assert found.time_to_normal is not None
    assert 8 * SECOND <= found.time_to_normal < 8.5 * SECOND
    assert "back to normal 8." in found.words


def test_one_slow_answer_among_good_ones_is_no_relapse() -> None:
    found = watched(lambda after: 90.0 if 1.2 < after < 1.45 else 11.0)
    assert found.time_to_normal == SECOND / 2


def test_one_good_answer_among_bad_ones_is_no_recovery() -> None:
    found = watched(lambda after: 11.0 if int(after) % 2 else 200.0, limit=10 * SECOND)
    assert found.time_to_normal is None
    assert "not back within 2 times their latency by 10 s after the kill" in found.words


def test_answers_no_slower_than_they_sometimes_were_are_normal() -> None:
    assert watched(lambda _after: 14.0, factor=1.0).time_to_normal == SECOND / 2
    assert watched(lambda _after: 14.1, factor=1.0, limit=5 * SECOND).time_to_normal is None


def test_a_master_that_does_not_answer_is_not_normal_and_says_why() -> None:
    found = watched(lambda after: ServerGoneError("no answer") if after < 3 else 11.0)
    assert found.time_to_normal is not None
    assert found.time_to_normal >= 3 * SECOND
    assert found.curve[0].ratio is None
    assert found.notes == ("c: no answer",)


def test_without_a_baseline_nothing_is_followed() -> None:
    found = follow(
        FakeCanaries(clock=FakeClock()),
        (CANARY,),
        Baseline(canaries=(), note="performance_schema is off"),
        FakeClock(),
        killed_ns=0,
        factor=2.0,
    )
    assert (found.curve, found.time_to_normal) == ((), None)
    assert found.words == "time to normal was not measured; performance_schema is off"


def test_the_baseline_leaves_out_what_the_victim_rejects() -> None:
    clock = FakeClock()
    victim = FakeCanaries(
        clock=clock, takes=lambda c, turn: ServerError("no such table") if c.name == "gone" else 10.0 + turn
    )
    chosen = Sampled(canaries=(Canary(name="gone", statements=("SELECT 3",)), CANARY))
    found = baseline(chosen, victim, clock)
    assert [(c.name, c.p50_ms, c.p95_ms, c.runs) for c in found.canaries] == [("c", 14.0, 19.0, 10)]
    assert found.note == "gone is not followed: no such table"


def test_a_long_curve_is_thinned_and_keeps_its_worst() -> None:
    ratios: list[float | None] = [1.0] * 1000
    ratios[501], ratios[777] = 40.0, None
    curve = [Point(after=n * EVERY, ratio=ratio) for n, ratio in enumerate(ratios)]
    kept = thinned(curve)
    assert len(kept) <= 120
    assert Point(after=501 * EVERY, ratio=40.0) in kept
    assert Point(after=777 * EVERY, ratio=None) in kept
    assert thinned(curve[:120]) == tuple(curve[:120])


# ---- drawn


def drawn(*ratios: float | None, normal: timedelta | None = None) -> Recovery:
    curve = tuple(Point(after=n * SECOND, ratio=ratio) for n, ratio in enumerate(ratios, 1))
    return Recovery(curve=curve, time_to_normal=normal, baseline=BEFORE.canaries, factor=2.0, notes=('<"&>',))


def test_a_recovery_as_a_line() -> None:
    assert recovery_line(drawn(1.0, 1.0)) == "▁▁"
    assert recovery_line(drawn(64.0, 8.0, 1.0, None), blocks=ASCII_BLOCKS) == "#-_?"
    assert recovery_line(drawn(1.0, 64.0, 1.0, 1.0), width=2, blocks=ASCII_BLOCKS) == "#_"
    assert recovery_line(drawn()) == ""


def test_a_recovery_as_a_drawing() -> None:
    svg = recovery_svg(drawn(64.0, None, 8.0, 1.0, normal=4 * SECOND))
    root = ElementTree.fromstring(svg)
    names = [element.tag for element in root]
    assert names.count("polyline") == 2  # nothing is drawn through the round without an answer
    assert names.count("circle") == 1
    assert "normal after 4.00 s" in [element.text for element in root.iter("text")]
    heights = [float(p.split(",")[1]) for line in root.iter("polyline") for p in (line.get("points") or "").split()]
    assert heights == sorted(heights)  # from high latency, at the top, down to normal
    assert recovery_svg(drawn()) == ""


# ---- statements, for both flavours


class Script:
    """Answers statements by the first pattern that is found in them, and remembers them."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def ask(self, sql: str, *_arguments: object) -> list[dict[str, object]]:
        self.asked.append(sql)
        for pattern, answer in self.answers.items():
            if pattern in sql:
                if isinstance(answer, ServerError):
                    raise answer
                return answer  # type: ignore[return-value]  # rows
        return []


class NoFiles:
    """A provider whose servers' files are out of reach."""

    def read(self, _instance: object) -> bytes | None:
        return None

    def write(self, _instance: object, _pages: bytes) -> None:
        raise TryAgainError("out of reach")


@pytest.mark.parametrize(
    ("flavour", "now", "orders"),
    [
        pytest.param(Flavour.MYSQL, (200, 2000), ["max = 30000", "capacity = 20000"], id="raised: the maximum first"),
        pytest.param(Flavour.MYSQL, (20000, 40000), ["capacity = 20000", "max = 30000"], id="lowered: it comes last"),
    ],
)
def test_the_pace_never_exceeds_its_maximum(flavour: Flavour, now: tuple[int, int], orders: list[str]) -> None:
    script = Script(SELECT=[{"normal": now[0], "most": now[1]}])
    SqlPool(script.ask, flavour, instance("n1"), NoFiles()).set_pace(Pace(normal=20_000, most=30_000))
    said = [sql for sql in script.asked if sql.startswith("SET")]
    assert [order in sql for order, sql in zip(orders, said, strict=True)] == [True, True]


PERFORMANCE_SCHEMA = {
    "performance_schema AS state": [{"state": 1}],
    "max_sql_text_length": [{"n": 60}],
}
DIGESTS = [
    {
        "digest": "d1",
        "space": "app",
        "pattern": "SELECT * FROM `t` WHERE `id` = ?",
        "text": "SELECT * FROM t WHERE id = 1",
    },
    {"digest": "d2", "space": "app", "pattern": "SELECT `charge` ( ? )", "text": "SELECT charge(7)"},
    {"digest": "d3", "space": "app", "pattern": "SELECT ?", "text": "SELECT " + "1," * 40 + "1"},
]
HISTORY = [
    {"digest": "d1", "text": "SELECT * FROM t WHERE id = 2"},
    {"digest": "d1", "text": "SELECT * FROM t WHERE id = 2"},
    {"digest": "d1", "text": "SELECT * FROM t WHERE id = 3 FOR UPDATE"},
]


def test_canaries_are_sampled_with_several_literals_and_only_harmless_ones() -> None:
    script = Script(**PERFORMANCE_SCHEMA, summary_by_digest=DIGESTS, history_long=HISTORY, events_statements_history=[])
    found = SqlCanaries(script.ask, Flavour.MYSQL).sample(5)
    assert found.canaries == (
        Canary(
            name="app: SELECT * FROM t WHERE id = ?",
            statements=("SELECT * FROM t WHERE id = 2", "SELECT * FROM t WHERE id = 1"),
            schema="app",
        ),
    )
    assert all("MAX_EXECUTION_TIME" in sql for sql in script.asked if "events_statements" in sql)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        pytest.param({"performance_schema AS state": [{"state": 0}]}, "performance_schema is off", id="it is off"),
        pytest.param(PERFORMANCE_SCHEMA, "counts no SELECT", id="nothing was read"),
        pytest.param(
            PERFORMANCE_SCHEMA | {"summary_by_digest": DIGESTS[:1], "history": []},
            "keeps no literals",
            id="MariaDB keeps no sample, and its histories are off",
        ),
        pytest.param(
            PERFORMANCE_SCHEMA
            | {"summary_by_digest": DIGESTS[1:2], "history": [{"digest": "d2", "text": "SELECT f(1)"}]},
            "harmless for certain (it calls F",
            id="only what is not known to be harmless",
        ),
        pytest.param(
            {"performance_schema AS state": AccessDeniedError("no grant")}, "cannot be read: no grant", id="no grant"
        ),
        pytest.param(
            PERFORMANCE_SCHEMA | {"summary_by_digest": StatementTimeoutError("slow")}, "in time: slow", id="too slow"
        ),
    ],
)
def test_why_there_are_no_canaries_is_told(answers: dict[str, object], why: str) -> None:
    rows = answers.get("summary_by_digest")
    known = answers | ({"summary_by_digest": [r | {"text": None} for r in rows]} if isinstance(rows, list) else {})
    found = SqlCanaries(Script(**known).ask, Flavour.MARIADB).sample(5)
    assert found.canaries == ()
    assert why in found.why
