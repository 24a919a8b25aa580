"""Real servers, made through the command line. Whatever a test does, its processes and files go with it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import Lab, Row, Said, Site

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.servers)


def _opened() -> Site:
    # Not below pytest's own directory: that one is closed to other users, and its paths are long.
    home = Path(tempfile.mkdtemp(prefix="reaper-test-"))
    home.chmod(0o755)
    return Site(home / "home")


def _closed(site: Site) -> None:
    left = site.remove_all()
    shutil.rmtree(site.home.parent, ignore_errors=True)
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def site() -> Iterator[Site]:
    """An empty REAPER_HOME of one test."""
    opened = _opened()
    try:
        yield opened
    finally:
        _closed(opened)


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    """A REAPER_HOME that the tests of a module share."""
    opened = _opened()
    try:
        yield opened
    finally:
        _closed(opened)


@pytest.fixture(scope="module")
def lab(module_site: Site) -> Lab:
    """A lab of three that the tests of a module share: whoever breaks it repairs it."""
    return module_site.make_lab("shared")


@pytest.fixture
def home(site: Site) -> Path:
    """The test's REAPER_HOME."""
    return site.home


@pytest.fixture
def cli(site: Site) -> Callable[..., Said]:
    """`cli(*args, input=None, env=None, timeout=120)` in the test's REAPER_HOME."""
    return site.cli


@pytest.fixture
def make_lab(site: Site) -> Callable[..., Lab]:
    """`make_lab(name="lab", nodes=3)` in the test's REAPER_HOME."""
    return site.make_lab


@pytest.fixture
def sql() -> Callable[[Lab, str, str], list[Row]]:
    """`sql(lab, instance, statement)` with reaper's own account."""
    return Lab.sql


@pytest.fixture
def endpoint_sql() -> Callable[..., list[Row]]:
    """`endpoint_sql(lab, *statements)` with the application's account, through the endpoint."""
    return Lab.endpoint_sql


@pytest.fixture
def lab_book(site: Site) -> Callable[[str], dict[str, Any]]:
    """`lab_book(name)`: lab.json of a lab in the test's REAPER_HOME."""
    return lambda name: Lab(site, name).book()
