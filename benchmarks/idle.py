"""What `reaper daemon` costs while nothing is due: memory and CPU with 1,000 policies, each for a cluster of its own.

The CPU time of the process over a minute, once it has read its policies and become quiet, and the memory at the end:
what is resident, its fair share of what it shares with others (PSS), and what would be free without it (USS).
`python -m benchmarks.idle --policies 1000 --seconds 60`.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.table import Exit, Result, Row, layout, show
from benchmarks.workshop import COMMAND, guarded
from reaper.domain.errors import TryAgainError

POLICIES = 1000
TARGET_MB, TARGET_PERCENT = 100.0, 1.0
_READY_WITHIN_S = 120.0
_QUIET_AFTER_S = 15.0  # the state of all policies is shown and the first files are looked at
_STOP_WITHIN_S = 30.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FIRES_IN = timedelta(hours=6)  # and later: never while it is measured
_COUNTRIES = ("JP", "DE", "US", "GB")


def policy(number: int, now: datetime) -> str:
    """A policy like the shipped `regenerate-masters`, for one cluster."""
    fire = now + _FIRES_IN + timedelta(minutes=number % 600)
    return f"""\
name: shard-{number:04}
description: Shard {number} gets a new master each night, copied from one of its replicas, and proves its failover.
leash: off
target: {{provider: local, clusters: "shard-{number:04}"}}
schedule: {{cron: "{fire.minute} {fire.hour} * * *", timezone: UTC, jitter: 20m}}
calendar:
  holidays: {_COUNTRIES[number % len(_COUNTRIES)]}
  freeze:
    - {{from: 2026-12-24, to: 2027-01-03, reason: year end}}
due: {{max_age: 20h, stale_image: true}}
replace: {{what: master, replicas: 1, snapshot: {{from: replica, reuse_within: 20h, keep: 7}}}}
kill: {{mode: crash}}
failover: {{by: reaper, outage_budget: 2s, lost_writes: 0}}
guards: {{min_copies: 3, max_in_flight: 2, max_in_flight_percent: 5, per: [shard_group, zone], cool_down: 12h}}
retire: {{quarantine: 2h}}
"""


@contextmanager
def daemon(policies: int) -> Iterator[int]:
    """`reaper daemon` over so many policies in a directory of its own, ready; its process id."""
    home = Path(tempfile.mkdtemp(prefix="reaper-bench-idle-"))
    process: subprocess.Popen[str] | None = None
    try:
        (home / "policies").mkdir()
        (home / "reaper.yaml").write_text("listen: 127.0.0.1:0\nlimits: {percent: 5}\n")
        now = datetime.now(UTC)
        for number in range(policies):
            (home / "policies" / f"shard-{number:04}.yaml").write_text(policy(number, now))
        process = subprocess.Popen(
            [COMMAND, "daemon"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=home,
            env=os.environ | {"REAPER_HOME": str(home), "REAPER_POLICIES": str(home / "policies")},
        )
        _wait_until_ready(process)
        yield process.pid
    finally:
        if process is not None:
            _stop(process)
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_ready(process: "subprocess.Popen[str]") -> None:
    """The daemon says so in its log, which is read to its end so that it never waits for its reader."""
    ready, said = threading.Event(), []

    def read() -> None:
        assert process.stderr is not None, "it was asked for"
        for line in process.stderr:
            said.append(line)
            with contextlib.suppress(ValueError):
                if json.loads(line).get("event") == "daemon":
                    ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    if not ready.wait(_READY_WITHIN_S) or process.poll() is not None:
        last = said[-1].strip() if said else "no message"
        raise TryAgainError(f"the daemon was not ready within {_READY_WITHIN_S:g} s: {last}")


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_of_threads(pid: int) -> dict[str, float]:
    """CPU seconds, user and system, of each thread so far, by a name that is its own."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            found[f"{name} {task.name}"] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found


def cpu_of(pid: int) -> float:
    """CPU seconds of the process, also of threads that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def wake_ups_of(pid: int) -> int:
    """How often its threads were scheduled to run so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for line in (task / "status").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("voluntary_ctxt_switches") else 0
    return total


def megabytes_of(pid: int) -> dict[str, float]:
    """Rss, Pss and Uss, in MB of a million bytes."""
    of = {
        name.rstrip(":"): int(rest[0]) * 1024 / 1e6
        for name, *rest in map(str.split, Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    }
    return {"Rss": of["Rss"], "Pss": of["Pss"], "Uss": of["Private_Clean"] + of["Private_Dirty"]}


def measure(*, policies: int, seconds: float) -> Result:
    """A daemon with so many policies, watched for so long."""
    with daemon(policies) as pid:
        started = cpu_of(pid)
        time.sleep(_QUIET_AFTER_S)
        threads, before, woken, began = cpu_of_threads(pid), cpu_of(pid), wake_ups_of(pid), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        cpu, wakings = cpu_of(pid) - before, wake_ups_of(pid) - woken
        spent = {name: used - threads.get(name, 0) for name, used in cpu_of_threads(pid).items()}
        memory = megabytes_of(pid)
    name = f"idle daemon, {policies:,} policies"
    busiest = sorted(spent.items(), key=lambda item: -item[1])
    return Result(
        rows=(
            Row(name=f"{name}: CPU", value=100 * cpu / took, unit="%", target=TARGET_PERCENT),
            Row(name=f"{name}: resident (RSS)", value=memory["Rss"], unit="MB", target=TARGET_MB),
            Row(name=f"{name}: its share (PSS)", value=memory["Pss"], unit="MB", target=TARGET_MB),
            Row(name=f"{name}: its own (USS)", value=memory["Uss"], unit="MB", target=TARGET_MB),
        ),
        details=(
            layout(("thread", "% of a core"), [(n, f"{100 * used / took:.2f}") for n, used in busiest]),
            f"{started:.1f} s CPU until ready; {wakings / took:.1f} wake-ups a second",
        ),
    )


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--policies", type=int, default=POLICIES, help="each for a cluster of its own (1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="watched for so long (60)")
    options = parser.parse_args()
    return show(measure(policies=max(1, options.policies), seconds=max(1.0, options.seconds)))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
