"""`lab load`: a load in the foreground, until it is stopped."""

import signal
import sys
import threading
from datetime import timedelta
from types import FrameType

import pymysql

from reaper.adapters.probe.load import Load, LoadConfig
from reaper.cli.compose import Site
from reaper.domain.errors import TryAgainError


def run_load(site: Site, name: str, *, rate: float, clients: int, stop_after: timedelta | None) -> None:
    """Write and read, and say every second how much. Ends on Ctrl-C, SIGTERM, or after `stop_after`."""
    entrance = site.fleet.of(name).entrance(name)
    load = Load(
        LoadConfig(
            host=entrance.address.host,
            port=entrance.address.port,
            user=entrance.login.user,
            password=entrance.login.password,
            database="app",
            clients=clients,
            rate=rate,
            tls=entrance.tls,
        )
    )
    done = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        done.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        load.start()
    except (pymysql.MySQLError, OSError) as error:
        raise TryAgainError(
            f"the lab {name} takes no writes through its endpoint {entrance.address}: {error}. "
            f"Look at `reaper status {name}`."
        ) from error
    seconds = 0
    limit = stop_after.total_seconds() if stop_after else float("inf")
    writes = reads = errors = 0
    try:
        while seconds < limit and not done.wait(1):
            seconds += 1
            tally = load.take()
            writes, reads, errors = writes + tally.writes, reads + tally.reads, errors + tally.errors
            said = f"  last error: {tally.last_error}" if tally.errors else ""
            sys.stdout.write(
                f"{seconds:>5} s  {tally.writes} writes, {tally.reads} reads, {tally.errors} errors{said}\n"
            )
            sys.stdout.flush()
    finally:
        load.stop()
    sys.stdout.write(f"stopped: {writes} writes, {reads} reads, {errors} errors\n")
