"""What it costs to plan: 50 policies over 1,000, 10,000 and 100,000 clusters of 4 instances in memory.

Each size in a process of its own: seconds of prepare, select and the blast radius of every policy, without
making the inventory, and the most memory that the process ever had, with the inventory. The ratio of a step is that
of its seconds to those of the step before, over ten: 1 is linear. `python -m benchmarks.planning --clusters 1000`.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from benchmarks.table import Exit, Result, Row, show
from benchmarks.workshop import guarded
from reaper.domain.errors import TryAgainError
from reaper.domain.facts import (
    Activity,
    Address,
    ClusterView,
    Flavour,
    Image,
    Instance,
    InstanceId,
    InstanceState,
    Member,
    Openness,
    Replication,
    SemiSync,
    ServerFacts,
    ThreadState,
)
from reaper.domain.gtid import MariadbGtidSet
from reaper.domain.standing import Due, Limit, Limits, Replace, Scope, StandingPolicy, Target, What
from reaper.planner.radius import count_living, of_selection
from reaper.planner.selection import ClusterHistory, Occasion, prepare, select

SIZES = (1_000, 10_000, 100_000)
POLICIES = 50
TARGET_S, TARGET_MB = 2.0, 500.0  # of 10,000 clusters
TARGET_OF = 10_000
NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
_DAY = timedelta(days=1)
_PER_CLUSTER = 4


def inventory(clusters: int) -> Iterator[ClusterView]:
    """Clusters with a master and three replicas, in shard groups, zones and tiers, of ages up to forty days."""
    facts = _facts()
    for number in range(clusters):
        name = f"shard-{number:06}"
        addresses = [Address(f"10.{number >> 8 & 255}.{number & 255}.{i}", 3306) for i in range(_PER_CLUSTER)]
        follower = replace(facts, openness=Openness.READ_ONLY, channels=(_channel(addresses[0]),))
        members = tuple(
            Member(instance=_instance(name, number, i, address), server=follower if i else facts)
            for i, address in enumerate(addresses)
        )
        door = Address(f"10.255.{number & 255}.1", 3306)
        yield ClusterView(name=name, taken_at=NOW, members=members, endpoint=door, endpoint_target=addresses[0])


def _instance(cluster: str, number: int, i: int, address: Address) -> Instance:
    return Instance(
        id=InstanceId("memory", f"{cluster}/n{i}"),
        address=address,
        server_id=number * 10 + i + 1,
        created=NOW - timedelta(hours=(number * 7 + i * 13) % 960),
        state=InstanceState.RUNNING,
        data_bytes=2**34,
        free_bytes=2**36,
        tags=(("env", "prod" if number % 3 else "test"), ("tier", f"t{number % 10}")),
        zone=f"zone-{(number + i) % 6}",
        group=f"group-{number % 40}",
        image=Image(name=f"ami-{number % 4}", newest="ami-3"),
    )


def _channel(source: Address) -> Replication:
    return Replication(
        channel="",
        source=source,
        source_server_id=1,
        receiver=ThreadState.RUNNING,
        applier=ThreadState.RUNNING,
        receiver_error=None,
        applier_error=None,
        delay=timedelta(0),
        received=MariadbGtidSet.parse("0-1-100"),
        by_gtid=True,
        filters=(),
        clock_lag=timedelta(0),
    )


def _facts() -> ServerFacts:
    semi_sync = SemiSync(
        source_enabled=True,
        source_active=True,
        source_clients=3,
        unacknowledged=0,
        acknowledged=100,
        after_sync=True,
        timeout=timedelta(seconds=10),
        replica_enabled=True,
        replica_active=True,
    )
    return ServerFacts(
        flavour=Flavour.MARIADB,
        version="10.11.8",
        server_id=1,
        server_uuid=None,
        openness=Openness.OPEN,
        executed=MariadbGtidSet.parse("0-1-100"),
        purged=None,
        gtid_strict=True,
        binlog=True,
        binlog_of_replicated=True,
        binlog_row_format=True,
        channels=(),
        semi_sync=semi_sync,
        activity=Activity(transactions=(), schema_changes=(), backups=(), commit_waiters=0),
        uptime=_DAY,
    )


def policies() -> list[StandingPolicy]:
    """Ten tiers by five kinds: by age, by image, by dice, replicas, and everything of an environment."""
    limits = Limits(selection=tuple(Limit(scope=scope, percent=10) for scope in Scope))
    made = []
    for number in range(POLICIES):
        tier = Target(tags=(("tier", f"t{number % 10}"),))
        kinds = (
            {"target": tier, "due": Due(max_age=7 * _DAY, at_most=20)},
            {"target": tier, "due": Due(stale_image=True, at_most=20)},
            {"target": Target(names=(f"shard-*{number % 10}",)), "due": Due(mean_time_between=30 * _DAY, at_most=5)},
            {"target": tier, "due": Due(max_age=30 * _DAY), "replace": Replace(what=What.REPLICA)},
            {"target": Target(tags=(("env", "prod"),), excluded=("*00",)), "due": Due(max_age=39 * _DAY, at_most=50)},
        )
        base = StandingPolicy(name=f"policy-{number:02}", target=Target(), limits=limits)
        made.append(replace(base, **kinds[number // 10]))  # type: ignore[arg-type]  # the keys are fields
    return made


def plan(clusters: int) -> dict[str, float]:
    """Plan once, in this process."""
    views, asked = list(inventory(clusters)), policies()
    history = {view.name: ClusterHistory(last_run_ended=NOW - 3 * _DAY) for view in views[::2]}
    gc.collect()
    began, cpu_began = time.perf_counter(), time.process_time()
    fleet = [prepare(view) for view in views]
    prepared = time.perf_counter()
    living = count_living(fleet)
    due = 0
    for number, policy in enumerate(asked):
        selection = select(policy, fleet, history, Occasion(now=NOW, since_last=_DAY, seed=number))
        of_selection(policy, selection, living)
        due += len(selection.due)
    ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "cpu": time.process_time() - cpu_began,
        "prepare": prepared - began,
        "due": due,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(sizes: tuple[int, ...]) -> Result:
    """Every size in a process of its own, so that its memory is its own."""
    rows: list[Row] = []
    before: float | None = None
    last = 0
    details = []
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.planning", "--here", str(size)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if ended.returncode != 0:
            raise TryAgainError(f"planning {size} clusters ended with exit code {ended.returncode}")
        took = json.loads(ended.stdout)
        name = f"plan {size:,} clusters, {POLICIES} policies"
        rows.append(Row(name=name, value=took["seconds"], unit="s", target=TARGET_S if size == TARGET_OF else None))
        rows.append(
            Row(name=f"{name}: memory", value=took["mb"], unit="MB", target=TARGET_MB if size == TARGET_OF else None)
        )
        if before:
            linear = before * size / last
            rows.append(Row(name=f"{name}: against linear", value=took["seconds"], unit="s", reference=linear))
        details.append(f"{name}: {took['cpu']:.2f} s CPU, {took['prepare']:.2f} s of it prepare; {took['due']:.0f} due")
        before, last = took["seconds"], size
    return Result(rows=tuple(rows), details=tuple(details))


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--clusters", type=int, action="append", help="a size; may be repeated (1000, 10000, 100000)")
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        print(json.dumps(plan(options.here)))
        return Exit.DONE
    return show(measure(tuple(options.clusters or SIZES)))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
