"""The policies that a daemon has in force, while people edit their files."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from reaper.cli.policyfiles import PolicyFiles

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
GOOD = "name: {name}\ntarget: {{clusters: {clusters}}}\n"
BROKEN = "name: [\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REAPER_POLICIES", str(tmp_path / "policies"))
    (tmp_path / "policies").mkdir()
    write(tmp_path / "policies", "a", "b")
    return tmp_path / "policies"


def write(directory: Path, *names: str, clusters: str = "db-*") -> None:
    for name in names:
        (directory / f"{name}.yaml").write_text(GOOD.format(name=name, clusters=clusters))


def read() -> PolicyFiles:
    files = PolicyFiles()
    files.read(NOW)
    return files


def test_a_file_that_is_edited_wrongly_keeps_its_last_good_policy_and_says_so(directory: Path) -> None:
    files = read()
    (directory / "a.yaml").write_text(BROKEN)
    write(directory, "b", clusters="other")
    assert files.changed()
    files.read(NOW)
    assert files.policies["a"].target.names == ("db-*",)
    assert files.policies["b"].target.names == ("other",), "the others change"
    assert any("a.yaml" in mistake for mistake in files.mistakes)
    assert not files.changed()


def test_a_file_that_never_was_good_is_not_in_force(directory: Path) -> None:
    (directory / "c.yaml").write_text(BROKEN)
    files = read()
    assert sorted(files.policies) == ["a", "b"]
    assert files.mistakes


def test_a_file_that_is_deleted_is_not_in_force_any_more_the_last_one_neither(directory: Path) -> None:
    files = read()
    (directory / "a.yaml").unlink()
    files.read(NOW)
    assert sorted(files.policies) == ["b"]
    assert files.mistakes == ()
    (directory / "b.yaml").unlink()
    files.read(NOW)
    assert files.policies == {}


def test_a_directory_that_cannot_be_read_changes_nothing(directory: Path) -> None:
    files = read()
    directory.rename(directory.with_name("gone"))
    files.read(NOW)
    assert sorted(files.policies) == ["a", "b"]
    assert "cannot be listed" in files.mistakes[0]


def test_a_new_file_does_not_take_the_name_of_a_broken_ones_last_good_policy(directory: Path) -> None:
    files = read()
    (directory / "a.yaml").write_text(BROKEN)
    (directory / "z.yaml").write_text(GOOD.format(name="a", clusters="thief"))
    files.read(NOW)
    assert files.policies["a"].target.names == ("db-*",)
