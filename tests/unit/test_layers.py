"""The direction of imports is a rule of the design, section 7."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "reaper"
MAY_IMPORT = {
    "domain": set(),
    "planner": {"domain"},
    "workflow": {"domain", "planner"},
    "adapters": {"domain", "planner", "workflow"},
    "cli": {"domain", "planner", "workflow", "adapters"},
    "testing": {"domain", "planner", "workflow"},
}
MODULES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_layer_imports_only_the_layers_below_it(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "reaper" and len(parts) > 1 and parts[1] != layer:
            assert parts[1] in MAY_IMPORT[layer], f"{layer} imports {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if "domain" in p.parts or "planner" in p.parts], ids=str)
def test_the_domain_and_the_planner_know_no_library_no_clock_and_no_io(path: Path) -> None:
    for name in imported(path):
        top = name.split(".")[0]
        assert top == "reaper" or top in sys.stdlib_module_names, f"{path} imports {name}"
        assert top not in {"time", "os", "socket", "subprocess", "logging", "threading", "pathlib"}, f"{path}: {name}"


ADAPTERS = [p for p in MODULES if p.relative_to(ROOT).parts[0] == "adapters" and len(p.relative_to(ROOT).parts) > 2]


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_sibling_adapters_do_not_import_each_other(path: Path) -> None:
    own = path.relative_to(ROOT).parts[1]
    packages = {p.name for p in (ROOT / "adapters").iterdir() if p.is_dir()}
    for name in imported(path):
        parts = name.split(".")
        if parts[:2] == ["reaper", "adapters"] and len(parts) > 2 and parts[2] in packages:
            assert parts[2] == own, f"{path} imports {name}"
