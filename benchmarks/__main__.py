"""Every benchmark, and one table. `python -m benchmarks`; smaller numbers make it quicker."""

import argparse
import sys
from collections.abc import Callable

import pymysql

from benchmarks import cutover, discovery, durability, idle, observe, planning, prepare, start, verify, warmth
from benchmarks.table import Exit, Result, show
from benchmarks.workshop import guarded
from reaper.domain.errors import ReaperError


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="cutover: of each kind (20)")
    parser.add_argument(
        "--mib", type=int, default=1024, help="prepare, verify: size of the data set; warmth: twice the pool (1024)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="prepare, verify: of each kind (3)")
    parser.add_argument("--runs", type=int, default=10, help="start: of each command (10)")
    parser.add_argument("--rotations", type=int, default=8, help="durability: with a store, and without one (8)")
    parser.add_argument("--seconds", type=float, default=60.0, help="idle: how long the daemon is watched (60)")
    parser.add_argument("--reading", type=float, default=120.0, help="warmth: seconds after each promotion (120)")
    parser.add_argument("--clusters", type=int, default=100, help="observe: looked at at once (100)")
    parser.add_argument("--instances", type=int, default=discovery.INSTANCES, help="discovery: of EC2 (2000)")
    options = parser.parse_args()
    benchmarks: dict[str, Callable[[], Result]] = {
        "start": lambda: start.measure(runs=max(1, options.runs)),
        "cutover": lambda: cutover.measure(kills=max(1, options.kills)),
        "durability": lambda: durability.measure(rotations=max(1, options.rotations)),
        "planning": lambda: planning.measure(planning.SIZES),
        "idle": lambda: idle.measure(policies=idle.POLICIES, seconds=max(1.0, options.seconds)),
        "observe": lambda: observe.measure(clusters=max(2, options.clusters), labs=observe.LABS),
        "discovery": lambda: discovery.measure(max(1, options.instances)),
        "verify": lambda: verify.measure(mib=max(1, options.mib), rounds=max(1, options.rounds)),
        "warmth": lambda: warmth.measure(
            pool_mib=max(16, options.mib // 2),
            data_mib=max(32, options.mib * 3 // 2),
            rows=warmth.ROWS,
            seconds=max(12.0, options.reading),
            rounds=1,
            warm_s=30.0,
        ),
        "prepare": lambda: prepare.measure(mib=max(1, options.mib), rounds=max(1, options.rounds)),
    }
    results = []
    for name, benchmark in benchmarks.items():
        print(f"== {name}", file=sys.stderr, flush=True)
        try:
            results.append(benchmark())
        except (ReaperError, pymysql.MySQLError) as error:
            results.append(Result(rows=(), faults=(f"{name}: {error}",)))
    return show(
        Result(
            rows=tuple(row for r in results for row in r.rows),
            details=tuple(detail for r in results for detail in r.details),
            faults=tuple(fault for r in results for fault in r.faults),
        )
    )


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
