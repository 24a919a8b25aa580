"""What it costs to start the command: CPU seconds of `reaper --help` and of `reaper status` on a lab.

User and system time of the process and its threads (`wait4`), the median of a few runs after one that
fills the byte-code cache, and the slowest imports. `python -m benchmarks.start --runs 10`.
"""

import argparse
import os
import re
import subprocess
import sys
from statistics import median

from benchmarks.table import Exit, Result, Row, layout, show
from benchmarks.workshop import COMMAND, LAB, Workshop, guarded, workshop
from reaper.domain.errors import TryAgainError

HELP_TARGET_S = 0.35
SLOWEST = 8

_IMPORT = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|( +)(\S+)")


def cpu_seconds(shop: Workshop, *arguments: str) -> float:
    """User and system time of one `reaper` process."""
    command = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=shop.environment,
    )
    _, status, usage = os.wait4(command.pid, 0)
    command.returncode = os.waitstatus_to_exitcode(status)
    if command.returncode != 0:
        raise TryAgainError(f"reaper {' '.join(arguments)} ended with exit code {command.returncode}")
    return usage.ru_utime + usage.ru_stime


def imports(shop: Workshop) -> list[tuple[str, float, float]]:
    """Each import of `reaper --help`: name, its own milliseconds, and those with everything below it."""
    code = "from reaper.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "--help"],
        capture_output=True,
        text=True,
        env=shop.environment,
        check=True,
    )
    found = (_IMPORT.match(line) for line in done.stderr.splitlines())
    return [(m[4], int(m[1]) / 1000, int(m[2]) / 1000) for m in found if m]


def measure(*, runs: int) -> Result:
    """`runs` starts of each command."""
    with workshop(3) as shop:
        medians = {}
        for arguments in (("--help",), ("status", LAB)):
            cpu_seconds(shop, *arguments)
            medians[arguments[0]] = median(cpu_seconds(shop, *arguments) for _ in range(runs))
        imports(shop)
        found = imports(shop)
    slowest = sorted(found, key=lambda i: -i[2])[:SLOWEST]
    alone = sorted(found, key=lambda i: -i[1])[:SLOWEST]
    rows = (
        Row(name="CPU time of reaper --help", value=medians["--help"], unit="s", target=HELP_TARGET_S),
        Row(name="CPU time of reaper status on three servers", value=medians["status"], unit="s"),
    )
    return Result(rows=rows, details=(_listed("slowest imports with all below", slowest), _listed("alone", alone)))


def _listed(title: str, found: list[tuple[str, float, float]]) -> str:
    return layout((title, "ms alone", "ms in all"), [(n, f"{a:.1f}", f"{b:.1f}") for n, a, b in found])


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each command (10)")
    return show(measure(runs=max(1, parser.parse_args().runs)))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
