"""`reaper plan`: its arguments, its forms, and names from clusters that mean to be markup."""

import json
import re
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from forecasts import DAY, Night, at_three, policy, subject
from typer.testing import CliRunner

from reaper.cli.forecast_markdown import escaped
from reaper.cli.main import app
from reaper.cli.plan import Form, moment_of_text, rendered
from reaper.cli.telling import headline
from reaper.domain.errors import ServerError, UsageError
from reaper.domain.policy import Waivable, Waiver
from reaper.domain.standing import Due, Leash, Limit, Limits, Scope, Target
from reaper.workflow.forecast import Forecast

EVIL = "<script>alert(1)<!--"  # the simulated provider splits names at slashes
EVIL_MARKDOWN = "[x](javascript:alert(1)) | <img src=x onerror=alert(1)>\n\n# title ![y](z) `c` @all"
MINIMAL = 'name: {name}\ntarget: {{clusters: "*"}}\nschedule: {{cron: "0 3 * * *", timezone: Asia/Tokyo}}\n'


# ---- arguments


MOMENTS = [
    pytest.param("2026-12-01 03:00 Asia/Tokyo", "2026-11-30T18:00:00+00:00", "Asia/Tokyo", id="with a zone"),
    pytest.param("2026-12-01 03:00", "2026-12-01T03:00:00+00:00", "UTC", id="without a zone it is UTC"),
    pytest.param("2026-12-01T03:00:30Z", "2026-12-01T03:00:30+00:00", "UTC", id="as machines write it"),
    pytest.param(" 2026-12-01  3:05  UTC ", "2026-12-01T03:05:00+00:00", "UTC", id="with more blanks, less zeros"),
    pytest.param("2026-10-25 02:30 Europe/Berlin", "2026-10-25T00:30:00+00:00", "Europe/Berlin", id="the first of two"),
    pytest.param("2026-03-29 02:30 Europe/Berlin", "2026-03-29T01:00:00+00:00", "Europe/Berlin", id="one left out"),
]


@pytest.mark.parametrize(("text", "moment", "zone"), MOMENTS)
def test_a_moment_is_read_on_the_clocks_of_its_zone(text: str, moment: str, zone: str) -> None:
    assert moment_of_text(text) == (datetime.fromisoformat(moment), zone)


NO_MOMENTS = [
    pytest.param("tomorrow", "write for example", id="words"),
    pytest.param("", "write for example", id="nothing"),
    pytest.param("2026-12-01", "write for example", id="a day"),
    pytest.param("2026-13-01 03:00", "month must be in 1..12", id="a month too many"),
    pytest.param("2026-02-29 03:00", "day", id="no leap year"),
    pytest.param("2026-12-01 25:00", "hour must be in 0..23", id="an hour too many"),
    pytest.param("2026-12-01 03:00 Asia/Tokio", "Asia/Tokyo", id="a misspelt zone"),
    pytest.param("2026-12-01 03:00 ../etc/passwd", "no time zone", id="a zone out of the tree"),
    pytest.param("2026-12-01 03:00 Asia", "no time zone", id="a directory of zones"),
    pytest.param("2026-12-01 03:00Z Asia/Tokyo", "write for example", id="two zones"),
    pytest.param("0001-01-01 00:00 Asia/Tokyo", "is no moment", id="before all clocks"),
    pytest.param("٢٠٢٦-12-01 03:00", "write for example", id="digits of another script"),
]


@pytest.mark.parametrize(("text", "says"), NO_MOMENTS)
def test_what_is_no_moment_is_explained(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        moment_of_text(text)


def run_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *args: str, **files: str) -> tuple[object, str, str]:
    """The command in an empty data directory with these policies; its error, stdout, stderr."""
    policies = tmp_path / "policies"
    policies.mkdir()
    for name, text in files.items():
        (policies / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("REAPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REAPER_POLICIES", str(policies))
    result = CliRunner().invoke(app, ["plan", *args])
    return result.exception, result.stdout, result.stderr


def test_an_empty_site_is_a_report_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, out, _ = run_in(tmp_path, monkeypatch, "--output", "json", a=MINIMAL.format(name="a"))
    assert error is None
    found = json.loads(out)
    assert found["headline"] == "The policy is leashed, so that nothing is touched. Armed, nobody would die."
    assert [p["name"] for p in found["policies"]] == ["a"]
    assert len(found["days"]) == 7
    assert found["timezone"] == "Asia/Tokyo"
    assert not (tmp_path / "home").exists()


def test_a_moment_is_judged_for_every_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = MINIMAL + "calendar: {{freeze: [{{from: 2026-12-24, to: 2027-01-03, reason: year end}}]}}\n"
    asked = ("--at", "2026-12-30 03:00 Asia/Tokyo", "--output", "json")
    _, out, _ = run_in(tmp_path, monkeypatch, *asked, a=MINIMAL.format(name="a"), b=frozen.format(name="b"))
    found = json.loads(out)
    assert [p["at"] for p in found["policies"]] == ["2026-12-29T18:00:00+00:00"] * 2
    assert [p["calendar"]["open"] for p in found["policies"]] == [True, False]
    assert "year end" in found["policies"][1]["stopped"][0]
    assert found["policies"][1]["next_fire"].startswith("2027-01-03T18:00:00")


def test_every_mistake_is_shown_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, _, err = run_in(
        tmp_path,
        monkeypatch,
        "--at",
        "soon",
        "--output",
        "pdf",
        "--policy",
        "c",
        "--policy",
        "d",
        a="name: [",
        b="x: 1",
    )
    assert isinstance(error, UsageError)
    for part in ("'soon' is no moment", "not 'pdf'", "'c'", "'d'"):
        assert part in str(error)
    assert "a.yaml:" in err
    assert "b.yaml:" in err


def test_a_policy_with_mistakes_stops_the_report_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, _, err = run_in(tmp_path, monkeypatch, a=MINIMAL.format(name="a"), b="name: b")
    assert isinstance(error, UsageError)
    assert "b.yaml:1:1: target: is missing" in err


def test_a_named_policy_is_not_stopped_by_the_mistakes_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, out, err = run_in(tmp_path, monkeypatch, "--policy", "a", a=MINIMAL.format(name="a"), b="name: b")
    assert error is None
    assert "The policy is leashed" in out
    assert "b.yaml:1:1" in err


@pytest.mark.parametrize("form", list(Form))
def test_a_report_is_written_to_a_file(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report"
    error, out, _ = run_in(
        tmp_path, monkeypatch, "--output", form.value, "--out", str(file), a=MINIMAL.format(name="a")
    )
    assert error is None
    assert out == f"the report is in {file}\n"
    assert "The policy is leashed" in file.read_text()


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, _, _ = run_in(tmp_path, monkeypatch, "--out", str(tmp_path / "no" / "x"), a=MINIMAL.format(name="a"))
    assert isinstance(error, UsageError)
    assert "cannot be written" in str(error)


# ---- the answer in a sentence


def night_of(leashes: tuple[Leash, ...], refuse: bool = False, paused: str | None = None) -> Forecast:
    night = Night(("db-1", "db-2", "db-3"))
    night.fleet.lever.reason = paused
    if refuse:
        night.fleet.fail("copies_hot", "db-3", times=99)
    policies = [policy(f"p{i}", leash=leash, target=Target(names=(f"db-{i + 1}",))) for i, leash in enumerate(leashes)]
    return night.of(*policies)


ON, OFF = Leash.ON, Leash.OFF
HEADLINES = [
    pytest.param(night_of((OFF, OFF, OFF)), "3 masters would die.", id="all go"),
    pytest.param(night_of((OFF, OFF, OFF), True), "2 masters would die, 1 is refused.", id="one is refused"),
    pytest.param(
        night_of((ON, OFF)),
        "1 master would die. Policies that are leashed would take 1 master besides.",
        id="one is leashed",
    ),
    pytest.param(
        night_of((ON, ON)),
        "Every policy is leashed, so that nothing is touched. Armed, 2 masters would die.",
        id="all are leashed",
    ),
    pytest.param(
        night_of((OFF,), paused="paused by kim"),
        "Everything is paused by kim. Otherwise 1 master would die.",
        id="the lever is pulled",
    ),
    pytest.param(
        Night().of(policy(leash=OFF, limits=Limits(selection=(Limit(scope=Scope.FLEET, count=1),)))),
        "Nobody would die, 1 firing is aborted because too many are due.",
        id="too many are due",
    ),
    pytest.param(
        Night(("db-1",)).of(policy("a", leash=OFF), policy("b", leash=OFF)), "1 master would die.", id="one dies once"
    ),
]


@pytest.mark.parametrize(("forecast", "says"), HEADLINES)
def test_the_headline(forecast: Forecast, says: str) -> None:
    assert headline(forecast) == says


# ---- the forms


@pytest.fixture(scope="module")
def evil() -> Forecast:
    """Every text that comes from a cluster or a policy's author means to be markup; every part of a report is there."""
    night = Night((f"a{EVIL}", f"b{EVIL_MARKDOWN}", "c", f"d{EVIL}", "[bold red]e"))
    night.fleet.fail("copies_hot", "c", times=99, error=ServerError(EVIL + EVIL_MARKDOWN))
    night.fleet.fail("members", f"d{EVIL}", times=99, error=ServerError(EVIL))
    waiver = Waiver(guard=Waivable.DISK, difference=EVIL, owner=EVIL, expires=date(2030, 1, 1), reason=EVIL_MARKDOWN)
    first = policy(
        leash=Leash.OFF,
        description=EVIL_MARKDOWN,
        waivers=(waiver,),
        schedule=at_three("Asia/Tokyo"),
        due=Due(at_most=4),
    )
    second = policy("second", due=Due(probability=0.9), leash=Leash.ON)
    fires = tuple(night.now + i * DAY + timedelta(hours=1) for i in range(3))
    return night.of(
        subject(first, fires[0], fires=fires, leashed=(EVIL,)),
        subject(second, fires[0], fires=fires),
        zone="Asia/Tokyo",
    )


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_needs_nothing_and_runs_nothing(evil: Forecast) -> None:
    text = rendered(evil, Form.HTML)
    page = Page(text)
    assert not {"script", "img", "iframe", "link", "object", "base", "form"} & set(page.tags)
    handlers = [name for name, _ in page.attributes if name.startswith("on")]
    leads_out = [value for name, value in page.attributes if name in ("href", "src", "action", "srcset")]
    assert handlers + leads_out == []
    assert not re.search(r"https?:|url\((?!#)|@import", text.replace("'none'", ""))
    assert f"a{EVIL}" in " ".join(page.texts)


def test_the_page_says_refusals_first_and_draws(evil: Forecast) -> None:
    page = Page(rendered(evil, Form.HTML))
    text = " ".join(page.texts)
    order = ["would die", "Refused", "Who would die", "The coming days", "Who is spared", "Waivers", "Policies"]
    at = [text.index(part) for part in order]
    assert at == sorted(at)
    assert page.tags.count("svg") == 1 + 2 * len(evil.runs) + 1
    for part in ("DIES", "INHERITS", "caught up", "127.0.0.1", "observation", "in force"):
        assert part in text


def test_the_drawings_are_well_formed(evil: Forecast) -> None:
    drawings = re.findall(r"<svg.*?</svg>", rendered(evil, Form.HTML), re.DOTALL)
    assert len(drawings) > 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)  # raises if it is not


def test_markdown_is_shown_and_not_interpreted(evil: Forecast) -> None:
    text = rendered(evil, Form.MARKDOWN)
    assert "<" not in text
    assert "](" not in text
    assert "\n# title" not in text
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {4}


ESCAPES = [
    pytest.param("db-1: 3 of 4, 2.5 %", "db-1: 3 of 4, 2.5 %", id="plain words stay readable"),
    pytest.param("a|b\nc", "a\\|b c", id="no cell, no line of its own"),
    pytest.param("<b>&amp;", "&lt;b&gt;&amp;amp;", id="no tag, no entity"),
    pytest.param("[x](y) ![z](w)", "\\[x\\]\\(y\\) \\!\\[z\\]\\(w\\)", id="no link, no picture"),
    pytest.param("- a", "\\- a", id="no list"),
    pytest.param("--- ===", "\\-\\-- ===", id="no rule"),
    pytest.param("see http://x", "see http\\://x", id="no link by itself"),
    pytest.param(
        "@all #1 `x` *y* _z_ ~w~", "\\@all \\#1 \\`x\\` \\*y\\* \\_z\\_ \\~w\\~", id="no mention, no emphasis"
    ),
]


@pytest.mark.parametrize(("text", "shown"), ESCAPES)
def test_what_means_something_in_markdown_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_terminal_shows_brackets_as_brackets(evil: Forecast) -> None:
    """Also in the tables that other commands share."""
    shown = rendered(evil, Form.TABLE)
    assert "the master of [bold red]e;" in shown
    assert re.search(r"launch +launch \[bold red\]e-\d", shown)


def test_json_has_every_run_with_its_plan_and_guards(evil: Forecast) -> None:
    found = json.loads(rendered(evil, Form.JSON))
    assert len(found["runs"]) == len(evil.runs)
    for run in found["runs"]:
        assert run["plan"]["standing"] == run["policy"]
        assert run["go"] == all(g["ruling"] == "go" for g in run["guards"])
        assert len(run["plan"]["steps"]) > 10
    assert found["policies"][0]["waivers"][0]["owner"] == EVIL
    assert found["stops"]
    assert [len(d["policies"]) for d in found["days"]] == [2, 2, 2]
