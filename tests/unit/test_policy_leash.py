"""A leash that a budget put on, as `reaper policies` shows it and takes it off."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import NOON
from typer.testing import CliRunner

from reaper.adapters.store.database import FILE, Place
from reaper.adapters.store.standing import PolicyStore
from reaper.cli.policies import policies_app
from reaper.domain.errors import UsageError

POLICY = """\
name: {name}
leash: {leash}
target: {{provider: local, clusters: "*"}}
kill: {{mode: crash}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two policies, one of them armed, and no store."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "armed.yaml").write_text(POLICY.format(name="armed", leash="off"))
    (policies / "shy.yaml").write_text(POLICY.format(name="shy", leash="on"))
    monkeypatch.setenv("REAPER_POLICIES", str(policies))
    monkeypatch.setenv("REAPER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REAPER_STORE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[PolicyStore]:
    """The armed policy and one without a file are leashed."""
    place = Place(home)
    memory = PolicyStore(place)
    memory.leash("armed", ("too slow", "too lossy"), "lab-1", NOON)
    memory.leash("gone", ("stuck",), "lab-2", NOON)
    yield memory
    place.database.close()


@pytest.mark.usefixtures("store")
def test_validate_shows_which_policies_a_budget_has_leashed() -> None:
    result = CliRunner().invoke(policies_app, ["validate"])
    assert result.exit_code == 0
    assert result.stdout == (
        "2 without mistakes: armed (off, leashed by a budget), shy (on)\n"
        "armed is leashed since 2026-03-02 12:00:00 UTC, whatever its file says:\n"
        "  too slow\n"
        "  too lossy\n"
        "  `reaper policies release armed --reason ...` lets it act again\n"
    )
    armed, shy = json.loads(CliRunner().invoke(policies_app, ["validate", "--output", "json"]).stdout)["policies"]
    assert armed["leash"] == "off"
    assert armed["leashed_by_budget"] == {
        "since": "2026-03-02T12:00:00+00:00", "why": ["too slow", "too lossy"], "run": "lab-1",
    }  # fmt: skip
    assert (shy["leash"], shy["leashed_by_budget"]) == ("on", None)


def test_validate_without_a_store_makes_none(home: Path) -> None:
    assert CliRunner().invoke(policies_app, ["validate"]).stdout == "2 without mistakes: armed (off), shy (on)\n"
    assert not home.exists()


def test_validate_checks_files_although_the_store_is_damaged(home: Path) -> None:
    home.mkdir()
    (home / FILE).write_text("this is no database" * 100)
    result = CliRunner().invoke(policies_app, ["validate"])
    assert (result.exit_code, result.stdout) == (0, "2 without mistakes: armed (off), shy (on)\n")
    assert "whether a budget has leashed one cannot be told: the store" in result.stderr
    as_json = json.loads(CliRunner().invoke(policies_app, ["validate", "--output", "json"]).stdout)
    assert "cannot be opened" in as_json["leashes_unknown"]


@pytest.mark.parametrize("name", ["armed", "gone"], ids=["a policy", "a policy whose file is gone"])
def test_a_person_releases_a_policy_and_is_remembered(store: PolicyStore, name: str) -> None:
    arguments = ["release", name, "--reason", "new disks", "--who", "ann"]
    result = CliRunner().invoke(policies_app, arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name}: released by ann; it was leashed since 2026-03-02 12:00:00 UTC: ")
    (record,) = store.leashes(name)
    assert (record.who, record.reason, store.is_leashed(name)) == ("ann", "new disks", False)


@pytest.mark.usefixtures("store")
def test_a_release_is_told_to_the_channels_of_the_policy(home: Path) -> None:
    heard = home / "heard"
    program = f"import sys, pathlib; pathlib.Path({str(heard)!r}).write_text(sys.stdin.read())"
    settings = {"channels": {"pager": {"kind": "command", "command": [sys.executable, "-c", program]}}}
    (home / "reaper.yaml").write_text(json.dumps(settings))
    armed = home.parent / "policies" / "armed.yaml"
    armed.write_text(armed.read_text() + "announce: {to: [pager]}\n")
    assert (
        CliRunner().invoke(policies_app, ["release", "armed", "--reason", "new disks", "--who", "ann"]).exit_code == 0
    )
    assert "armed is released by ann" in heard.read_text()
    assert "new disks" in heard.read_text()


def test_validate_names_a_channel_that_this_site_does_not_have(home: Path) -> None:
    shy = home.parent / "policies" / "shy.yaml"
    shy.write_text(shy.read_text() + "announce: {to: [log, pager]}\n")
    result = CliRunner().invoke(policies_app, ["validate"])
    assert result.exit_code == 0
    assert "shy announces to pager, which reaper.yaml of this data directory does not have" in result.stderr


MISTAKES = [
    pytest.param(["armd", "--reason", "x"], "did you mean armed?", id="a policy that nobody knows"),
    pytest.param(["shy", "--reason", "x"], "only reports because its file says `leash: on`", id="leashed by its file"),
    pytest.param(["armed", "--reason", " "], "say why armed may act again", id="an empty reason"),
]


@pytest.mark.parametrize(("arguments", "why"), MISTAKES)
@pytest.mark.usefixtures("store")
def test_a_release_that_means_nothing_is_a_sentence(arguments: list[str], why: str) -> None:
    result = CliRunner().invoke(policies_app, ["release", *arguments])
    assert isinstance(result.exception, UsageError)
    assert why in str(result.exception)


def test_a_release_without_a_store_makes_none(home: Path) -> None:
    result = CliRunner().invoke(policies_app, ["release", "armed", "--reason", "x"])
    assert str(result.exception) == "no budget has leashed armed, so there is nothing to release"
    assert not home.exists()


@pytest.mark.usefixtures("store")
def test_a_release_needs_a_reason() -> None:
    result = CliRunner().invoke(policies_app, ["release", "armed"])
    assert result.exit_code == 2
    assert "--reason" in result.stderr
