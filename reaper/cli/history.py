"""The commands that look: clusters, runs, one run. Heavy imports happen inside."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from reaper.cli.options import OutputChoice, Run, output_of
from reaper.domain.errors import ReaperError, UsageError


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (status, runs, show):
        app.command()(command)


def status(
    cluster: Annotated[str | None, typer.Argument(help="One cluster; all if left out.")] = None,
    output: OutputChoice = "table",
) -> None:
    """Show each cluster: roles, positions, lag, flags, semi-sync, age, disk, version."""
    from reaper.adapters.interrupt import SignalInterrupt
    from reaper.cli.compose import site
    from reaper.cli.journal import announcer
    from reaper.cli.render import cluster_tree, view_as_json
    from reaper.cli.runs import Output, console, print_json
    from reaper.workflow.observe import observe

    wanted, here = output_of(output), site()
    names = (cluster,) if cluster else here.fleet.clusters()
    if not names:
        raise UsageError("there is no cluster: `reaper lab up` makes one on this machine")
    world = here.world(announcer(), SignalInterrupt())
    views, faults = [], []
    for name in names:
        try:
            views.append(observe(world, name))
        except UsageError as error:
            if cluster:
                raise
            faults.append(str(error))  # one broken book does not hide the other clusters
    try:
        paused = here.paused()
    except ReaperError as error:  # whoever looks at a cluster in trouble has no use for a second trouble
        paused = f"perhaps paused, which cannot be told: {error}"
    if paused:
        sys.stderr.write(f"reaper: {paused}\n")
    if wanted is Output.JSON:
        print_json([view_as_json(v) | {"paused": paused} for v in views])
    else:
        for view in views:
            console().print(cluster_tree(view))
    if faults:
        raise UsageError("; ".join(faults))


def runs(
    cluster: Annotated[str | None, typer.Argument(help="One cluster, or group:NAME; all if left out.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 20,
    output: OutputChoice = "table",
) -> None:
    """List the runs, newest first."""
    from reaper.cli.compose import site
    from reaper.cli.groups_render import runs_list
    from reaper.cli.runs import Output, console, print_json
    from reaper.cli.show import run_as_json

    wanted, store = output_of(output), site().runs
    records = store.runs(cluster, most=most)
    if wanted is Output.JSON:
        print_json([run_as_json(r) for r in records])
    elif records:
        console().print(runs_list(records))
    else:
        of = f" of {cluster}" if cluster else ""
        sys.stdout.write(f"no run{of} yet: `reaper rotate CLUSTER` or `reaper kill --random` makes one\n")


def show(
    run: Run,
    output: Annotated[str, typer.Option(help="table, json or html")] = "table",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there.")] = None,
) -> None:
    """Show one run: its plan, what the guards said, the timeline with durations, the verdict with its evidence."""
    from reaper.cli.compose import site
    from reaper.cli.show import form_of, show_run

    form = form_of(output)
    show_run(site().runs, run, form, out)
