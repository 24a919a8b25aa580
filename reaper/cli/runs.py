"""Plan, examine, run, and report one run: what `rotate` and `kill` share."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.console import Console

from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.store.sqlite import SqliteStore, encode
from reaper.cli.compose import Site
from reaper.cli.journal import Fan, announcer
from reaper.cli.render import guards_table, plan_table, verdict_panel
from reaper.domain.errors import ExitCode, RefusedError, UsageError
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict, RunState, RunVerdict
from reaper.planner.guards import Moment, refusals
from reaper.workflow.resume import Resumption
from reaper.workflow.rotation import Rotation, examine


class Output(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


def console() -> Console:
    """Results go to stdout; a pipe gets lines as wide as they are."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def as_json(of: Any, value: object) -> Any:
    """A domain value as plain JSON values."""
    return json.loads(encode(of, value))


def run_name(cluster: str, store: SqliteStore) -> str:
    """The name from which a run derives all others: the cluster, and when it was born."""
    base = f"{cluster}-{datetime.now(UTC):%Y%m%dt%H%M%S}"
    taken = {r.run for r in store.runs(cluster)}
    return next(n for n in (base, *(f"{base}-{i}" for i in range(2, 1000))) if n not in taken)


def dry_run(site: Site, plan: Plan, output: Output) -> ExitCode:
    """Print the plan and every guard's verdict. Nothing is written, on no server and in no store."""
    world = site.world(announcer(), SignalInterrupt())
    _, verdicts = examine(world, plan, Moment.PLAN, None)
    refused = refusals(verdicts)
    if output is Output.JSON:
        print_json(
            {
                "plan": as_json(Plan, plan),
                "guards": as_json(tuple[GuardVerdict, ...], verdicts),
                "go": not refused,
            }
        )
    else:
        out = console()
        out.print(plan_table(plan))
        out.print()
        out.print(guards_table(verdicts))
        out.print()
        out.print(
            "[bold]dry run: nothing was touched.[/] "
            + (f"It would be refused by {len(refused)} guards." if refused else "It would go.")
        )
    return ExitCode.REFUSED if refused else ExitCode.GOOD


def refuse_unfinished(store: SqliteStore, cluster: str) -> None:
    """RefusedError if a run is at work or was interrupted; it explains whatever else is odd there."""
    store.refuse_taken(cluster)
    left = next((r for r in store.runs(cluster) if r.interrupted), None)
    if left is not None:
        raise RefusedError(f"the run {left.run} was interrupted: `reaper resume {left.run}` finishes or undoes it")


def run(site: Site, plan: Plan, output: Output) -> ExitCode:
    """Run a plan and print its verdict."""
    with SignalInterrupt().installed() as interrupt:
        verdict = Rotation(site.world(Fan(site.store, announcer()), interrupt), plan).execute()
    return _report(plan, verdict, output)


def resume(site: Site, name: str, output: Output) -> ExitCode:
    """Finish or undo a run whose process has died, or that got stuck. UsageError: there is nothing to finish."""
    record = site.store.run(name)
    if not record.interrupted and record.state is not RunState.STUCK:
        said = "is running" if record.state is RunState.RUNNING else f"has ended ({record.state})"
        raise UsageError(f"the run {record.run} {said}: only an interrupted or a stuck one is resumed")
    site.store.adopt(record.run)
    with SignalInterrupt().installed() as interrupt:
        verdict = Resumption(site.world(Fan(site.store, announcer()), interrupt), record.plan).execute()
    return _report(record.plan, verdict, output)


def _report(plan: Plan, verdict: RunVerdict, output: Output) -> ExitCode:
    if output is Output.JSON:
        report = {"run": plan.run, "good": verdict.good, "verdict": as_json(RunVerdict, verdict)}
        print_json(report | {"plan": as_json(Plan, plan)})
    else:
        console().print(verdict_panel(plan, verdict))
    return ExitCode.GOOD if verdict.good else ExitCode.BAD_VERDICT
