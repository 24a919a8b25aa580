"""The page of one run: what is on it in every state, and that nobody's words become markup."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from builders import MS, NOON, iid
from rotations import RUN, Stage
from typer.testing import CliRunner

from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunRecord, RunStore
from reaper.adapters.store.work import OpenRun
from reaper.cli.main import app
from reaper.cli.run_drawing import WIDTH, Ending, charts_of, client_bars, slices_of, spans_of
from reaper.cli.run_html import run_html
from reaper.cli.show import details
from reaper.domain.comparison import Comparison, Difference, Skipped, What
from reaper.domain.errors import UsageError
from reaper.domain.ledger import LedgerVerdict
from reaper.domain.plan import Replacement
from reaper.domain.policy import Waivable, Waiver
from reaper.domain.rehearsal import Rehearsed, Trial
from reaper.domain.tail import Forensics, Judged, TailTransaction, Told
from reaper.domain.verdict import (
    ClientCost,
    Event,
    EventKind,
    GuardVerdict,
    Part,
    Proven,
    Ruling,
    RunState,
    RunVerdict,
)
from reaper.domain.warmth import Compared, Latency, Point, Recovery, Warmth

SECOND = timedelta(seconds=1)
PLAN = Stage().plan()
OLD_PLAN = replace(PLAN, steps=tuple(s for s in PLAN.steps if s.name.value not in ("normal", "dissect")))
LEDGER = LedgerVerdict(
    acknowledged=1200, lost=(), unknown_present=1, unknown_absent=2, refused=40, refused_present=0, duplicated=()
)
BARE = RunVerdict(
    faults=(), outage=42 * MS, clients=(), parts=(), ledger=None, copies_before=3, copies_after=3, heir=None
)
LATENCY = Latency(name="SELECT v FROM t WHERE k = ?", p50_ms=0.5, p95_ms=2.1, runs=9)
DATA = Comparison(
    position="0-1-7", reference=iid("n2"), subject=iid("n4"), tables=2, chunks=9, chunks_of=9, chunks_different=0,
    rows=7109, size_bytes=2**21, share=1.0, complete=True, left="", took=2 * SECOND, differences=(), skipped=(),
)  # fmt: skip
GO = GuardVerdict(guard="parity", ruling=Ruling.GO, reason="n4 can stand in for n1", evidence=("noted: a release",))
PROVEN = Proven(snapshot="run-1-snap", reused="", snapshot_age=SECOND, restore_took=SECOND, comparison=DATA, parity=GO)
WARMTH = Warmth(
    resident=0.93, pages_wanted=900, pages_resident=837, hit_ratio=0.99,
    canaries=(Compared(victim=LATENCY, heir=replace(LATENCY, p50_ms=0.7)),), passed=True, took=3 * SECOND,
)  # fmt: skip
RECOVERY = Recovery(
    curve=tuple(Point(after=n * SECOND, ratio=r) for n, r in enumerate((9.0, None, 4.0, 1.0), 1)),
    time_to_normal=4 * SECOND, baseline=(LATENCY,), factor=2.0,
)  # fmt: skip
EXTRA = TailTransaction(gtid="0-1-99", tables=("app.t",), kinds=("insert",), probe_rows=(), size_bytes=310)
TAIL = Forensics(judged=(Judged(transaction=EXTRA, told=Told.ACKNOWLEDGED, why="client 1 was told so"),))


def event(step: str, kind: EventKind, at: timedelta, took: timedelta | None = None, **changes: object) -> Event:
    ns = int(at / MS * 1e6)
    base = Event(
        step=step, kind=kind, detail=f"{step} went", at_ns=ns, wall=(NOON + at).isoformat(),
        took_ns=None if took is None else int(took / MS * 1e6),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def record(state: RunState = RunState.GOOD, verdict: RunVerdict | None = None, **changes: object) -> RunRecord:
    base = RunRecord(
        run=RUN, cluster="lab", began=NOON, ended=NOON + 97 * SECOND, state=state, message="", plan=PLAN,
        verdict=verdict, follower=None,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def follower(**changes: object) -> OpenRun:
    base = OpenRun(
        run=RUN, cluster="lab", group=None, executor="e", alive=True, version="1", waits_for="", broken=None,
        asked=NOON, admitted=NOON, began=NOON,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """A page that was read: its sections, its words, its elements. Fails if an element is not closed."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.tags: list[str] = []
        self.words = self.badge = self.headline = ""
        self._open: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.sections[self._section] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            return
        self.words += data
        if self._section:
            self.sections[self._section] += data
        if self._open[-2:] == ["h1", "span"]:
            self.badge += data
        elif self._open[-1:] == ["h1"]:
            self.headline += data


def page(of: RunRecord, events: tuple[Event, ...] = (), *asked: tuple[GuardVerdict, ...]) -> Page:
    return Page(run_html(of, events, asked))


# ---- every state

REFUSAL = GuardVerdict(guard="copies", ruling=Ruling.REFUSE, reason="one would be left", evidence=("n1 (master)",))
LOST = replace(LEDGER, lost=((1, 4), (2, 9)))
STATES = [
    ("a good run", record(verdict=replace(BARE, ledger=LEDGER)), "good", "for 42.0 ms, and no write was lost", ""),
    ("one without a ledger", record(verdict=BARE), "good", "and whether writes were lost is unknown", ""),
    (
        "a bad one",
        record(RunState.BAD, replace(BARE, outage=None, ledger=LOST, faults=("client 1 never came back",))),
        "bad", "how long nothing could be written is unknown, and 2 writes were lost", "client 1 never came back",
    ),
    ("a refused one", record(RunState.REFUSED, message="copies"), "refused", "kill was refused", "one would be left"),
    ("an undone one", record(RunState.UNDONE, message="disk full"), "undone", "was not killed", "disk full"),
    ("a stuck one", record(RunState.STUCK, message="no order"), "stuck", "a person has to look", "no order"),
    ("a stuck one without words", record(RunState.STUCK), "stuck", "a person", "why it is stuck was not recorded"),
    ("a queued one", record(RunState.RUNNING, follower=follower(admitted=None)), "queued", "is not dead as far", ""),
    (
        "a running one",
        record(RunState.RUNNING, follower=follower(waits_for="a yes"), ended=None), "running", "waits for a yes", "",
    ),
    (
        "an interrupted one",
        record(RunState.RUNNING, follower=follower(alive=False)),
        "interrupted", "nobody follows", "its process is gone",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("of", "badge", "says", "wrong"), [s[1:] for s in STATES], ids=[s[0] for s in STATES])
def test_every_state_has_a_page(of: RunRecord, badge: str, says: str, wrong: str) -> None:
    found = page(of, (), (REFUSAL,))
    assert found.badge == badge
    assert says in found.headline
    assert ("faults" in found.sections) is bool(wrong)
    assert wrong in found.sections.get("faults", "")
    assert not wrong or next(iter(found.sections)) == "faults", "what is wrong comes first"


KILLED = (event("kill", EventKind.DONE, SECOND, 90 * MS),)
UNDER_WAY = [
    ("stuck", record(RunState.STUCK)),
    ("running", record(RunState.RUNNING, follower=follower())),
    ("interrupted", record(RunState.RUNNING, follower=follower(alive=False))),
]


@pytest.mark.parametrize("of", [u[1] for u in UNDER_WAY], ids=[u[0] for u in UNDER_WAY])
def test_a_run_without_an_end_says_whether_its_victim_is_dead(of: RunRecord) -> None:
    started = (event("kill", EventKind.STARTED, SECOND),)
    assert "n1, the master of lab, was killed" in page(of, KILLED).headline
    assert "n1, the master of lab, is not dead as far as is recorded" in page(of, started).headline


def test_a_refused_run_names_the_guard_and_what_it_saw() -> None:
    wrong = page(record(RunState.REFUSED, message="copies: one would be left"), (), (GO,), (REFUSAL, GO))
    assert re.findall(r"copies|n1 \(master\)|n4 can", wrong.sections["faults"]) == ["copies", "n1 (master)"]


def test_a_simulated_run_from_its_first_step_to_its_verdict() -> None:
    """Nothing of a page is made up: this is the run that the workflow's tests make."""
    stage = Stage()
    verdict = stage.run()
    found = page(
        record(RunState.GOOD, verdict, plan=stage.record.plan), tuple(stage.record.events), *stage.record.guards
    )
    assert found.badge == "good"
    assert {"outage", "writes", "proven", "tail", "guards", "timeline", "notes", "who"} <= found.sections.keys()
    for part in verdict.parts:
        assert part.name in found.sections["outage"]
    for step in ("snapshot", "launch", "kill", "promote", "reroute", "forget"):
        assert step in found.sections["timeline"]
    for guard in stage.record.guards[-1]:
        assert guard.reason in found.sections["guards"]


# ---- a section for each fact

CLIENTS = (ClientCost(client=0, outage=42 * MS), ClientCost(client=1, outage=None))
GONE = Difference(table="app.t", what=What.MISSING, first="7", last="9", rows_reference=3, rows_subject=0)
SHARED = replace(
    DATA, chunks=3, complete=False, left="app.u from key 5", skipped=(Skipped(table="app.v", why="a view"),)
)
FACTS = [
    ("the parts of the outage", "outage", {"parts": (Part(name="fence", took=9 * MS),)}, ("fence", "9.0 ms", "100 %")),
    ("each client's outage", "outage", {"clients": CLIENTS}, ("client 0", "42.0 ms", "client 1", "never came back")),
    ("the ledger", "writes", {"ledger": LOST}, ("1,200", "2: client 1, write 4; client 2, write 9", "1 turned out")),
    ("a recovery", "recovery", {"recovery": RECOVERY}, ("Back to normal 4.00 s", "normal after", "SELECT v FROM t")),
    (
        "a recovery that nobody could measure", "recovery",
        {"recovery": replace(RECOVERY, baseline=(), curve=(), notes=("no SELECT is known",))},
        ("Time to normal was not measured; no SELECT is known.",),
    ),
    ("a replacement", "proven", {"proven": PROVEN}, ("run-1-snap", "equal", "Every row was compared.", "noted: a rel")),
    ("a snapshot used again", "proven", {"proven": replace(PROVEN, reused="it is 2 h old")}, ("it is 2 h old",)),
    (
        "data that differ", "proven",
        {"proven": replace(PROVEN, comparison=replace(DATA, chunks_different=1, differences=(GONE,)))},
        ("not equal", "1 of 9 chunks", "rows of n2", "rows of n4", "app.t", "missing", "7 to 9"),
    ),
    (
        "a sample that was cut short", "proven", {"proven": replace(PROVEN, comparison=SHARED)},
        ("not complete", "3 of 9 chunks were compared: if 1 differed", "app.u from key 5", "app.v: a view"),
    ),
    ("warmth", "proven", {"proven": replace(PROVEN, warmth=WARMTH)}, ("93.0 %", "SELECT v FROM t", "0.5", "0.7")),
    (
        "rehearsals", "proven",
        {"proven": replace(PROVEN, rehearsed=(Rehearsed(instance=iid("n3"), trial=Trial.FAILED, why="denied"),))},
        ("n3", "✕ failed", "denied"),
    ),
    ("the tail", "tail", {"forensics": TAIL}, ("0-1-99", "acknowledged", "client 1 was told so", "app.t", "310 B")),
    ("an unknown tail", "tail", {"forensics": Forensics(unreadable="no file")}, ("tail is unknown: no file",)),
    ("notes", "notes", {"notes": ("proof of death: waitpid",)}, ("proof of death: waitpid",)),
]  # fmt: skip


@pytest.mark.parametrize(("section", "fact", "said"), [f[1:] for f in FACTS], ids=[f[0] for f in FACTS])
def test_a_fact_has_its_section(section: str, fact: dict[str, object], said: tuple[str, ...]) -> None:
    without = page(record(verdict=BARE, plan=OLD_PLAN))
    assert section not in without.sections
    found = page(record(verdict=replace(BARE, **fact), plan=OLD_PLAN))  # type: ignore[arg-type]
    assert found.sections.keys() - without.sections.keys() == {section}
    for words in said:
        assert words in found.sections[section]


def test_what_was_planned_and_never_looked_at_is_said() -> None:
    found = page(record(verdict=BARE))
    assert "nobody looked" in found.sections["recovery"]
    assert "Nobody looked" in found.sections["tail"]


def test_guards_and_steps_have_a_section_once_there_are_some() -> None:
    steps = (event("kill", EventKind.DONE, 2 * SECOND, 90 * MS),)
    none, some = page(record(verdict=BARE)), page(record(verdict=BARE), steps, (REFUSAL,), (GO,))
    assert some.sections.keys() - none.sections.keys() == {"guards", "timeline"}
    assert some.sections["guards"].index("n4 can stand in") < some.sections["guards"].index("one would be left")
    assert "90.0 ms" in some.sections["timeline"]


YES = event("kill", EventKind.NOTE, SECOND, detail="approved by ann at noon")
ASKS = replace(PLAN, policy=replace(PLAN.policy, approval_within=timedelta(hours=1), approvers=("ann", "bob")))
APPROVALS = [
    ("nobody was asked", PLAN, (), "nobody was to be asked"),
    ("nobody answered", ASKS, (), "ann or bob has to say yes within 1 hour; nobody has said it"),
    ("ann said yes, and the run that went on elsewhere says it again", ASKS, (YES, YES), "approved by ann at noon"),
]


@pytest.mark.parametrize(("plan", "events", "said"), [a[1:] for a in APPROVALS], ids=[a[0] for a in APPROVALS])
def test_who_approved(plan: object, events: tuple[Event, ...], said: str) -> None:
    who = page(record(verdict=BARE, plan=plan), events).sections["who"]
    assert re.search(rf"approval{re.escape(said)}\s*death", who)


# ---- nobody's words are markup


def test_nothing_that_anybody_said_becomes_markup() -> None:
    said: list[str] = []

    def nasty() -> str:
        said.append(f"<script>{len(said)}&lt;\"'\x1b[2J\u202e")
        return said[-1]

    difference = Difference(table=nasty(), what=What.DIFFERENT, first=nasty(), last=nasty(), detail=nasty())
    data = replace(
        DATA, position=nasty(), complete=False, left=nasty(), chunks_different=1, differences=(difference,),
        skipped=(Skipped(table=nasty(), why=nasty()),),
    )  # fmt: skip
    latency = replace(LATENCY, name=nasty())
    verdict = replace(
        BARE, faults=(nasty(),), notes=(nasty(),), heir=nasty(), parts=(Part(name=nasty(), took=MS),),
        proven=Proven(
            snapshot=nasty(), reused=nasty(), snapshot_age=SECOND, restore_took=SECOND, comparison=data,
            parity=replace(GO, reason=nasty(), evidence=(nasty(),)),
            warmth=replace(WARMTH, canaries=(Compared(victim=latency, heir=latency),), notes=(nasty(),)),
            rehearsed=(Rehearsed(instance=iid(nasty()), trial=Trial.SKIPPED, why=nasty()),),
        ),
        recovery=replace(RECOVERY, baseline=(replace(LATENCY, name=nasty()),), notes=(nasty(),)),
        forensics=Forensics(
            judged=(
                Judged(
                    transaction=replace(EXTRA, gtid=nasty(), tables=(nasty(),), kinds=(nasty(),)),
                    told=Told.CANNOT_TELL, why=nasty(),
                ),
            ),
            torn=nasty(),
        ),
    )  # fmt: skip
    waiver = Waiver(
        guard=Waivable.PARITY, difference=nasty(), owner=nasty(), expires=NOON.date(), reason=nasty()
    )  # fmt: skip
    policy = replace(PLAN.policy, waivers=(waiver,))
    plan = replace(
        PLAN, run=nasty(), cluster=nasty(), victim=iid(nasty()), why=nasty(), standing=nasty(), policy=policy,
        steps=tuple(replace(s, what=nasty()) for s in PLAN.steps),
    )  # fmt: skip
    events = (
        event(nasty(), EventKind.FAILED, SECOND, MS, detail=nasty()),
        replace(YES, detail=f"approved by {nasty()}"),
    )
    text = run_html(
        record(RunState.BAD, verdict, message=nasty(), plan=plan),
        events,
        ((GuardVerdict(guard=nasty(), ruling=Ruling.REFUSE, reason=nasty(), evidence=(nasty(),)),),) * 2,
    )
    found = Page(text)
    assert "script" not in found.tags
    assert "\x1b" not in text
    assert "\u202e" not in text
    for words in said:
        assert words.replace("\x1b", "�").replace("\u202e", "�") in found.words


def test_a_page_needs_no_other_file_and_no_network() -> None:
    text = run_html(record(verdict=replace(BARE, recovery=RECOVERY)), (), ())
    assert not re.search(r"<(script|link|img|iframe|object)|\b(src|href)=|@import|url\(|https?:", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


# ---- the drawings


def test_the_parts_of_the_outage_fill_its_width_and_keep_their_order() -> None:
    parts = slices_of(tuple(Part(name=n, took=t * MS) for n, t in (("kill", 30), ("elect", 0), ("promote", 10))))
    assert [(p.name, p.x, p.width, p.share) for p in parts] == [
        ("kill", 0.0, 750.0, "75 %"), ("elect", 750.0, 0.0, "0 %"), ("promote", 750.0, 250.0, "25 %"),
    ]  # fmt: skip
    assert [p.label for p in parts] == ["30.0 ms", "", "10.0 ms"]
    assert slices_of((Part(name="kill", took=0 * MS),))[0].width == 0.0


def test_a_client_that_never_came_back_is_drawn_as_long_as_the_longest() -> None:
    bars = client_bars((*CLIENTS, ClientCost(client=2, outage=21 * MS)), 600)
    assert [(b.width, b.lost) for b in bars] == [(600, False), (600, True), (300, False)]
    assert client_bars((ClientCost(client=0, outage=0 * MS),))[0].width == 0


STARTED, DONE, NOTE = EventKind.STARTED, EventKind.DONE, EventKind.NOTE


def test_steps_are_paired_and_what_has_no_end_is_open() -> None:
    spans = spans_of(
        (
            event("launch", STARTED, 0 * SECOND),
            event("launch", EventKind.FAILED, 2 * SECOND, 2 * SECOND),
            event("kill", NOTE, 3 * SECOND),
            event("join", STARTED, 4 * SECOND),
            event("fence", DONE, 9 * SECOND, 1 * SECOND),
        )
    )
    assert [(s.step, s.ending, (s.ended - s.began) / 1e6) for s in spans] == [
        ("launch", Ending.FAILED, 2.0), ("join", Ending.OPEN, 5.0), ("fence", Ending.DONE, 1.0),
    ]  # fmt: skip
    assert spans_of(()) == ()


def test_a_run_that_went_on_on_another_machine_is_drawn_by_the_wall_clock() -> None:
    """Its monotonic clock is another one, and began a day ago."""
    first = event("launch", DONE, 10 * SECOND, 10 * SECOND)
    later = event("join", DONE, 30 * SECOND, 5 * SECOND, at_ns=int(86_400e9))
    launch, join = spans_of((first, later))
    assert (join.began - launch.ended) / 1e6 == pytest.approx(15.0)


def test_a_short_cutover_is_drawn_once_more_on_its_own_scale() -> None:
    build = event("snapshot", DONE, 60 * SECOND, 60 * SECOND)
    probe = event("probe", DONE, 62 * SECOND, 1 * SECOND)
    kill = event("kill", DONE, 65 * SECOND, 90 * MS)
    fence = event("fence", DONE, 65 * SECOND + 10 * MS, 10 * MS)
    whole, close = charts_of(PLAN, (build, probe, kill, fence))
    assert [r.step for r in whole.rows] == ["snapshot", "probe", "kill", "fence"]
    assert [(r.step, r.style) for r in close.rows] == [("kill", "kills"), ("fence", "done")]
    assert close.rows[0].width == pytest.approx(9 * close.rows[1].width, rel=0.01)
    assert all(r.x + r.width <= WIDTH for chart in (whole, close) for r in chart.rows)
    assert len(charts_of(PLAN, (kill, fence))) == 1, "nothing else is longer"
    assert len(charts_of(PLAN, (build, probe))) == 1, "nobody was killed"


# ---- the command


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    """With one run that ended badly."""
    monkeypatch.setenv("REAPER_HOME", str(tmp_path))
    monkeypatch.delenv("REAPER_STORE", raising=False)
    place = Place(tmp_path)
    journal = RunStore(place)
    journal.begin(PLAN)
    journal.guards(RUN, (GO,))
    journal.event(RUN, event("kill", DONE, SECOND, 90 * MS))
    proven = replace(PROVEN, comparison=replace(DATA, chunks_different=1, differences=(GONE,)), warmth=WARMTH)
    journal.end(RUN, RunState.BAD, replace(BARE, faults=("[b]no",), proven=proven, forensics=TAIL), "")
    yield journal
    place.database.close()


@pytest.mark.parametrize("form", ["table", "json", "html"])
@pytest.mark.usefixtures("store")
def test_a_run_is_written_into_a_file_as_it_is_to_the_terminal(form: str, tmp_path: Path) -> None:
    file = tmp_path / "run.out"
    run = CliRunner().invoke(app, ["show", RUN, "--output", form, "--out", str(file)])
    assert run.stdout == f"the run is in {file}\n"
    shown = CliRunner().invoke(app, ["show", RUN, "--output", form]).stdout
    assert file.read_text() == shown
    assert "[b]no" in shown


@pytest.mark.usefixtures("store")
def test_the_table_names_one_by_one_what_the_verdict_counts() -> None:
    lines = CliRunner().invoke(app, ["show", RUN]).stdout.splitlines()
    evidence = "\n".join(lines[lines.index("evidence") :])
    for words in (
        "difference     app.t, keys 7 to 9: missing (rows 3 on the reference, 0 on the subject)",
        "1 of 9 chunks differ, 1 places are named",
        "parity         noted: a release",
        "canary         1.4 times the victim's: SELECT v FROM t WHERE k = ? (0.7 ms, 95 % within 2.1; victim 0.5, 2.1)",
        "victim's tail  0-1-99 acknowledged: client 1 was told so (insert in app.t, 310 B)",
    ):
        assert words in evidence


def test_a_verdict_without_evidence_has_nothing_to_name() -> None:
    assert tuple(details(replace(BARE, ledger=LEDGER))) == ()
    assert tuple(details(replace(BARE, ledger=LOST))) == (("lost", "client 1, write 4; client 2, write 9"),)


def test_the_record_of_an_older_version_has_a_page(store: RunStore) -> None:
    """It knew nothing of proofs, recoveries and tails."""
    place = store._place
    with place.database.write() as tx:
        (row,) = tx.rows("select verdict from reaper_journal where run = :run", run=RUN)
        old = {k: v for k, v in json.loads(row.verdict).items() if k not in ("proven", "recovery", "forensics")}
        tx.do("update reaper_journal set verdict = :verdict where run = :run", verdict=json.dumps(old), run=RUN)
    shown = CliRunner().invoke(app, ["show", RUN, "--output", "html"])
    assert shown.exit_code == 0
    assert "proven" not in Page(shown.stdout).sections


MISTAKES = [
    pytest.param(["--output", "xml"], "--output is table, json or html, not 'xml'", id="another form"),
    pytest.param(
        ["--out", "/nowhere/run.html"], "the run cannot be written to /nowhere", id="a place that is not there"
    ),
]


@pytest.mark.parametrize(("arguments", "why"), MISTAKES)
@pytest.mark.usefixtures("store")
def test_a_request_that_cannot_be_served_is_a_sentence(arguments: list[str], why: str) -> None:
    found = CliRunner().invoke(app, ["show", RUN, *arguments])
    assert isinstance(found.exception, UsageError)
    assert why in str(found.exception)


def test_a_replica_s_death_says_that_nobody_inherits() -> None:
    plan = Stage().plan("n2", Replacement.AFTER)
    found = page(record(verdict=BARE, plan=plan))
    assert "n2, the replica of lab, was killed" in found.headline
    assert "nobody inherits, a replica dies" in found.sections["who"]
