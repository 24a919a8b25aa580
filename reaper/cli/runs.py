"""Plan, examine, run, and report one run: what `rotate` and `kill` share."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.console import Console

from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.store.codec import encode
from reaper.adapters.store.journal import RunRecord, RunStore
from reaper.adapters.store.records import AnyPlan, AnyVerdict
from reaper.adapters.store.work import Limits, Ticket
from reaper.cli import durable
from reaper.cli.compose import Site
from reaper.cli.groups_render import group_verdict_panel
from reaper.cli.journal import announcer
from reaper.cli.render import guards_table, plan_table, verdict_panel
from reaper.domain.errors import ExitCode, RefusedError, UsageError
from reaper.domain.groups import GroupPlan, GroupVerdict
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict, RunState, RunVerdict
from reaper.planner.guards import Moment, refusals
from reaper.workflow.examine import examine


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


def run_name(cluster: str, store: RunStore) -> str:
    """The name from which a run derives all others: the cluster, and when it was born."""
    base = f"{cluster}-{datetime.now(UTC):%Y%m%dt%H%M%S}"
    taken = {r.run for r in store.runs(cluster)}
    return next(n for n in (base, *(f"{base}-{i}" for i in range(2, 1000))) if n not in taken)


def dry_run(site: Site, plan: Plan, output: Output) -> ExitCode:
    """Print the plan and every guard's verdict. Nothing is written, on no server and in no store."""
    world = site.world(announcer(), SignalInterrupt())
    verdicts = examine(world, plan, Moment.PLAN, None).verdicts
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


def unfinished(site: Site, cluster: str) -> RunRecord | None:
    """A run of the cluster whose process has died: it goes on before another one begins.

    RefusedError: somebody is at work there, so that what is seen of it meanwhile is not its own state.
    """
    left = interrupted(site, cluster)
    return None if left is None else site.runs.run(left)


def interrupted(site: Site, cluster: str) -> str | None:
    """The name of the run of a cluster, or of a group by its name among clusters', whose process has died.

    RefusedError: somebody is at work there.
    """
    if not site.place.exists():
        return None
    left = next((r for r in site.work.open_runs() if r.cluster == cluster), None)
    if left is not None and left.admitted is None:
        raise RefusedError(
            f"{left.run} waits in the queue for {cluster}: `reaper worker` begins it,"
            f" `reaper abort {left.run}` withdraws it"
        )
    if left is not None and not left.alive:
        return left.run
    holder = site.work.holder(cluster)
    if holder is not None:
        raise RefusedError(f"{cluster} is being worked on by {holder}: wait until it has ended")
    return None


def refuse_unfinished(site: Site, cluster: str) -> None:
    """RefusedError if a run is at work or was interrupted; it explains whatever else is odd there."""
    left = unfinished(site, cluster)
    if left is not None:
        raise RefusedError(f"the run {left.run} was interrupted: `reaper resume {left.run}` goes on with it")


def run(site: Site, plan: AnyPlan, output: Output) -> ExitCode:
    """Run a plan and print its verdict."""
    with durable.following(site) as engine, durable.heeding_signals(site, plan.run):
        verdict = durable.verdict_of(engine.run(ticket_of(plan), Limits()))
    return report(plan, verdict, output)


def queue(site: Site, plan: Plan, output: Output) -> ExitCode:
    """Leave a plan for a worker."""
    site.work.submit(ticket_of(plan))
    if output is Output.JSON:
        print_json({"run": plan.run, "state": "queued", "plan": as_json(Plan, plan)})
    else:
        sys.stdout.write(
            f"{plan.run} is queued: {plan.why}\n"
            "  reaper worker            begins it, here or elsewhere, if none is at work\n"
            f"  reaper runs {plan.cluster}   what it waits for\n"
            f"  reaper show {plan.run}\n"
            f"  reaper abort {plan.run}   withdraws it\n"
        )
    return ExitCode.GOOD


def go_on(site: Site, left: RunRecord, output: Output) -> ExitCode:
    """The interrupted run of a cluster instead of another one."""
    sys.stderr.write(f"reaper: goes on with {left.run}, whose process died\n")
    return resume(site, left.run, output)


def ticket_of(plan: AnyPlan, group: str | None = None) -> Ticket:
    """What asks for the run of a plan. `group`: the shard group that it counts in."""
    return Ticket(run=plan.run, cluster=plan.cluster, group=group, argument=as_json(type(plan), plan))


def resume(site: Site, name: str, output: Output) -> ExitCode:
    """Go on with a run whose process has died, or that got stuck. UsageError: there is nothing to go on with."""
    record = site.runs.record(name)
    if record.state is RunState.STUCK:
        with (
            SignalInterrupt().installed() as interrupt,
            site.work.exclusive(record.cluster, f"the resumed {record.run}"),
        ):
            return report(record.plan, durable.finish_stuck(site, record, interrupt), output)
    if record.state is not RunState.RUNNING:
        raise UsageError(
            f"the run {record.run} has ended ({record.state}): only an interrupted or a stuck one is resumed"
        )
    with durable.following(site) as engine, durable.heeding_signals(site, record.run):
        verdict = durable.resume(site, engine, record)
    return report(record.plan, verdict, output)


def report(plan: AnyPlan, verdict: AnyVerdict, output: Output) -> ExitCode:
    """Print a verdict."""
    if output is Output.JSON:
        said = {"run": plan.run, "good": verdict.good, "verdict": as_json(type(verdict), verdict)}
        print_json(said | {"plan": as_json(type(plan), plan)})
    elif isinstance(plan, GroupPlan) and isinstance(verdict, GroupVerdict):
        console().print(group_verdict_panel(plan, verdict))
    elif isinstance(plan, Plan) and isinstance(verdict, RunVerdict):
        console().print(verdict_panel(plan, verdict))
    return ExitCode.GOOD if verdict.good else ExitCode.BAD_VERDICT
