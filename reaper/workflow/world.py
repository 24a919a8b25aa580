"""Everything outside that a run acts on and asks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from reaper.domain.facts import Instance
from reaper.domain.ledger import Ledger
from reaper.domain.plan import Plan
from reaper.workflow.backups import SnapshotBook
from reaper.workflow.comparing import Comparer
from reaper.workflow.forensics import DeadLogs
from reaper.workflow.pools import Side
from reaper.workflow.ports import Checker, Clock, Endpoint, Fleet, Interrupt, Journal, Probe
from reaper.workflow.server import Server


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything outside, chosen once in the composition root."""

    fleet: Fleet
    connect: Callable[[str, Instance], Server]  # cluster, instance
    endpoint: Callable[[str], Endpoint]  # cluster
    start_probe: Callable[[Plan, str], Probe]  # the plan, the probe's table
    past_ledger: Callable[[Plan], Ledger | None]  # what the probe of an interrupted run recorded; None: nothing
    checker: Checker
    comparer: Comparer
    side: Callable[[str, Instance], AbstractContextManager[Side]]  # cluster, instance: its buffer pool, its canaries
    book: SnapshotBook
    dead_logs: DeadLogs
    open_runs: Callable[[], frozenset[str]]  # the runs that have not ended, queued ones included
    quiet: Callable[[], AbstractContextManager[None]]  # while inside, nothing else of this process runs: clients wait
    paused: Callable[[], str | None]  # why the lever is pulled, in words; None: it is not
    clock: Clock
    interrupt: Interrupt
    journal: Journal
