"""`reaper history` over a store that holds some runs."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders import MS, NOON
from click.testing import Result
from past import past
from rich.cells import cell_len
from rich.console import Console
from rotations import Stage
from typer.testing import CliRunner

from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunStore
from reaper.adapters.store.standing import PolicyStore
from reaper.cli.charts import runs_as_csv, sparkline, trends_chart
from reaper.cli.main import app
from reaper.cli.trends import moment
from reaper.domain.errors import UsageError
from reaper.domain.verdict import RunState, RunVerdict
from reaper.planner.trend import trends

TEMPLATE = Stage().plan()
VERDICT = RunVerdict(
    faults=(), outage=40 * MS, clients=(), parts=(), ledger=None, copies_before=3, copies_after=3, heir=None
)


@dataclass(frozen=True)
class Desk:
    """A store, and who writes to it."""

    place: Place

    @property
    def policies(self) -> PolicyStore:
        return PolicyStore(self.place)

    def ran(self, run: str, state: RunState, *, outage: timedelta | None = None, policy: str | None = None) -> None:
        journal, cluster = RunStore(self.place), run.partition("-")[0]
        if policy is not None:
            self.policies.asked(run, policy, cluster)
        journal.begin(replace(TEMPLATE, run=run, cluster=cluster, standing=policy))
        verdict = None if outage is None else replace(VERDICT, outage=outage)
        journal.end(run, state, verdict, "" if verdict else "=1+1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REAPER_HOME", str(tmp_path))
    monkeypatch.delenv("REAPER_STORE", raising=False)
    return tmp_path


@pytest.fixture
def desk(home: Path) -> Iterator[Desk]:
    place = Place(home)
    yield Desk(place)
    place.database.close()


@pytest.fixture
def filled(desk: Desk) -> Desk:
    """Two clusters, one of them with a policy."""
    for n, outage in enumerate((40 * MS, 80 * MS, 20 * MS)):
        desk.ran(f"lab-{n}", RunState.GOOD, outage=outage, policy="nightly" if n else None)
    desk.ran("lab-3", RunState.REFUSED, policy="nightly")
    desk.ran("shop-1", RunState.STUCK)
    return desk


def said(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["history", *arguments])


# ---- runs


def test_a_table_has_a_line_for_each_cluster_with_percentiles_and_a_trend(filled: Desk) -> None:  # noqa: ARG001 - fills
    lines = said().stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["cluster", "lab", "shop"]
    assert "3 good, 1 refused" in lines[1]
    assert lines[1].split()[6:12] == ["40.0", "ms", "80.0", "ms", "80.0", "ms"]
    assert "▅█▃" in lines[1]
    assert "1 stuck" in lines[2]
    assert "0 + 1 unknown" in lines[2]
    assert "normal after" not in lines[0], "no run has measured it"


def test_json_says_what_is_unknown_with_null(filled: Desk) -> None:  # noqa: ARG001
    lab, shop = json.loads(said("--output", "json").stdout)
    assert lab["states"] == {
        "without_verdict": 0, "good": 3, "bad": 0, "refused": 1, "undone": 0, "stuck": 0,
    }  # fmt: skip
    assert lab["outage_ms"] == {"measured": 3, "p50": 40.0, "p95": 80.0, "max": 80.0}
    assert lab["outages_ms"] == [40.0, 80.0, 20.0]
    assert (lab["time_to_normal_ms"], shop["outage_ms"], shop["outages_ms"]) == (None, None, [None])


def test_csv_has_a_row_for_each_run_newest_first(filled: Desk) -> None:  # noqa: ARG001
    rows = list(csv.DictReader(io.StringIO(said("--output", "csv").stdout)))
    by_run = {row["run"]: row for row in rows}
    assert [row["ended"] for row in rows] == sorted((row["ended"] for row in rows), reverse=True)
    assert by_run.keys() == {"lab-0", "lab-1", "lab-2", "lab-3", "shop-1"}
    assert (by_run["lab-1"]["outage_ms"], by_run["lab-1"]["policy"]) == ("80.0", "nightly")
    assert (by_run["lab-3"]["outage_ms"], by_run["lab-3"]["lost"], by_run["lab-3"]["state"]) == ("", "", "refused")
    assert by_run["lab-3"]["message"] == "'=1+1"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_nothing_of_what_a_run_said(text: str) -> None:
    awkward = 'two\nlines, and "quotes"'
    runs = (past(message=text, policy=text), past(message=awkward))
    expected = "'" + text.replace("\r", "\n")
    first, second = csv.DictReader(io.StringIO(runs_as_csv(runs), newline=""))
    assert (first["message"], first["policy"]) == (expected, expected)
    assert second["message"] == awkward


NARROWED = [
    pytest.param(["--cluster", "shop"], {"shop-1"}, id="a cluster"),
    pytest.param(["--policy", "nightly"], {"lab-1", "lab-2", "lab-3"}, id="a policy"),
    pytest.param(["--policy", "nightly", "--cluster", "shop"], set(), id="both"),
    pytest.param(["--since", "1h"], {"lab-0", "lab-1", "lab-2", "lab-3", "shop-1"}, id="a time ago"),
    pytest.param(["--since", "2999-01-01"], set(), id="a date"),
]


@pytest.mark.parametrize(("arguments", "runs"), NARROWED)
@pytest.mark.usefixtures("filled")
def test_a_history_is_narrowed(arguments: list[str], runs: set[str]) -> None:
    rows = csv.DictReader(io.StringIO(said(*arguments, "--output", "csv").stdout))
    assert {row["run"] for row in rows} == runs


def test_an_empty_history_says_so_and_what_to_do_and_makes_no_file(home: Path) -> None:
    result = said("--cluster", "lab", "--policy", "nightly", "--since", "2026-11-01")
    assert (result.exit_code, list(home.iterdir())) == (0, [])
    assert result.stdout.startswith(
        "no run of lab of the policy nightly since 2026-11-01 00:00 UTC has ended: `reaper rotate CLUSTER`"
    )
    as_json = said("--output", "json")
    assert (json.loads(as_json.stdout), "no run has ended" in as_json.stderr) == ([], True)
    assert len(said("--output", "csv").stdout.splitlines()) == 1


MISTAKES = [
    pytest.param(["--since", "yesterday"], "neither a time ago", id="a word"),
    pytest.param(["--since", "999999999999d"], "neither a time ago", id="longer ago than there are years"),
    pytest.param(["--output", "xml"], "--output is table, json or csv", id="another form"),
    pytest.param(["--firings", "--cluster", "lab"], "a firing is of no cluster", id="firings of a cluster"),
]


@pytest.mark.parametrize(("arguments", "why"), MISTAKES)
@pytest.mark.usefixtures("home")
def test_a_request_that_cannot_be_served_is_a_sentence(arguments: list[str], why: str) -> None:
    result = said(*arguments)
    assert isinstance(result.exception, UsageError)
    assert why in str(result.exception)


MOMENTS = [
    pytest.param("30d", NOON - timedelta(days=30), id="days ago"),
    pytest.param("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC), id="a date is its midnight in UTC"),
    pytest.param("2026-03-01T09:00+09:00", datetime(2026, 3, 1, tzinfo=UTC), id="a moment with its zone"),
]


@pytest.mark.parametrize(("text", "expected"), MOMENTS)
def test_since_is_understood(text: str, expected: datetime) -> None:
    assert moment(text, NOON) == expected


# ---- how it looks


@pytest.mark.parametrize("width", [200, 120, 119, 80, 40, 12])
def test_a_chart_fits_every_terminal_and_leaves_nothing_out(width: int) -> None:
    states = (RunState.GOOD, RunState.BAD, RunState.STUCK, RunState.REFUSED, RunState.RUNNING)
    runs = [
        past(states[n % 5], f"r-{n}", cluster=name, ended=NOON + n * timedelta(hours=1), outage=(40 + n) * MS)
        for name in ("lab", "a-cluster-with-a-very-long-name-in-the-east")
        for n in range(200)
    ]
    out = io.StringIO()
    Console(file=out, width=width, legacy_windows=False).print(trends_chart(trends(runs), width))
    lines = out.getvalue().splitlines()
    assert max(cell_len(line) for line in lines) <= width
    text = "".join("".join(lines).split())
    if width >= 40:
        assert "137.0ms" in text, "the median"
        assert "237.0ms" in text, "the longest"
        assert "?" not in text
        assert "█" in text


SERIES = [
    pytest.param((), 9, "", id="nothing"),
    pytest.param((7,), 9, "█", id="one is the longest"),
    pytest.param((0, 1, 4, 8), 9, "▁▂▅█", id="from zero to the longest"),
    pytest.param((0, 0), 9, "▁▁", id="nobody noticed anything"),
    pytest.param((1, None, 8), 9, "▂?█", id="unknown has its place"),
    pytest.param((None,), 9, "?", id="nothing but unknown"),
    pytest.param((80, 1, 8), 2, "▂█", id="the last ones, measured among themselves"),
]


@pytest.mark.parametrize(("series", "width", "expected"), SERIES)
def test_a_sparkline_is_read_from_left_to_right(series: tuple[int | None, ...], width: int, expected: str) -> None:
    assert sparkline(tuple(None if n is None else n * MS for n in series), width) == expected


def test_a_terminal_without_blocks_gets_letters() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=out, width=120).print(trends_chart(trends([past()]), 120))
    out.seek(0)
    assert "#" in out.read()


# ---- firings


def test_firings_are_listed_newest_first_with_what_they_decided(desk: Desk) -> None:
    summary = json.dumps({"outcome": "acted", "why": "", "due": ["lab/n1"], "spared": [{}, {}], "targeted": 3})
    desk.policies.decided("nightly", NOON, 7, NOON, summary)
    desk.policies.decided("nightly", NOON + timedelta(days=1), 8, NOON, "no [json]")
    table = said("--firings").stdout.splitlines()
    assert table[1].split() == ["2026-03-03", "12:00:00", "nightly", "8", "no", "[json]"]
    assert "outcome: acted; due: lab/n1; spared: 2; targeted: 3" in table[2]
    second, first = json.loads(said("--firings", "--output", "json").stdout)
    assert (second["summary"], first["summary"]["targeted"]) == ("no [json]", 3)
    rows = list(csv.DictReader(io.StringIO(said("--firings", "--since", "2026-03-03", "--output", "csv").stdout)))
    assert [row["seed"] for row in rows] == ["8"]
    assert said("--firings", "--policy", "other").stdout.startswith("no firing of the policy other was recorded")
