"""Where the state is: the environment, `reaper.yaml`, or a file; a password is never repeated."""

from pathlib import Path

import pytest

from reaper.cli.settings import store_address
from reaper.domain.errors import UsageError

SECRET = "s3cret"
GOOD = f"postgresql://reaper:{SECRET}@127.0.0.1:5432/reaper"
SHIPPED = Path(__file__).parents[2] / "config" / "reaper.yaml"

FOUND = [
    pytest.param(None, None, None, id="nothing is said: a file"),
    pytest.param("", None, None, id="an empty file says nothing"),
    pytest.param(f"store: {GOOD}\n", None, GOOD, id="the file"),
    pytest.param("store: postgres://elsewhere/x\n", GOOD, GOOD, id="the environment comes first"),
    pytest.param(SHIPPED.read_text(), None, None, id="the shipped file says nothing"),
    pytest.param(SHIPPED.read_text().replace("# store: ", "store: "), None, "postgresql://", id="the shipped example"),
]


@pytest.mark.parametrize(("text", "variable", "address"), FOUND)
def test_the_store_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, variable: str | None, address: str | None
) -> None:
    monkeypatch.delenv("REAPER_STORE", raising=False)
    if variable is not None:
        monkeypatch.setenv("REAPER_STORE", variable)
    if text is not None:
        (tmp_path / "reaper.yaml").write_text(text)
    found = store_address(tmp_path)
    assert found == address or (found or "").startswith(address or "nothing")


WRONG = [
    pytest.param(f"store: mysql://root:{SECRET}@h/x", "reaper.yaml: store has to be", id="another scheme"),
    pytest.param(f"store: postgresql://u:{SECRET}@h:port/x", "has to be postgresql://", id="a port that is no number"),
    pytest.param(f"store: 'postgresql://u:{SECRET}@[::1/x'", "has to be postgresql://", id="half a bracket"),
    pytest.param(f"store: postgresql://u:{SECRET}@h/x\n  port: 3", "reaper.yaml, line 2 is no YAML", id="no YAML"),
    pytest.param(f"store: ['{SECRET}']", "reaper.yaml: store: Input should be a valid string", id="a list"),
    pytest.param(f"stor: {SECRET}", "reaper.yaml: stor: Extra inputs", id="a name that nobody knows"),
    pytest.param(f"- {SECRET}", "reaper.yaml: file: ", id="no mapping"),
    pytest.param(f"store: a\x07{SECRET}", "reaper.yaml cannot be read", id="a control character"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_mistake_is_a_sentence_that_names_the_file_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.delenv("REAPER_STORE", raising=False)
    (tmp_path / "reaper.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        store_address(tmp_path)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_mistake_in_the_environment_names_the_variable_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REAPER_STORE", f"sqlite:///{SECRET}")
    with pytest.raises(UsageError) as caught:
        store_address(tmp_path)
    assert str(caught.value).startswith("REAPER_STORE has to be postgresql://")
    assert SECRET not in str(caught.value)
