"""`reaper lab`: a replicating cluster of real servers on this machine. Heavy imports happen inside."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from reaper.cli.history import status
from reaper.cli.options import LabName, OutputChoice
from reaper.cli.parse import span

lab_app = typer.Typer(no_args_is_help=True, help="A replicating cluster of real servers on this machine.")


@lab_app.command("up")
def lab_up(
    name: LabName = "lab",
    nodes: Annotated[int, typer.Option(help="Servers: one master, the others replicas.")] = 3,
    server: Annotated[Path | None, typer.Option(help="A mysqld or mariadbd; otherwise the installed one.")] = None,
) -> None:
    """Make a lab: real servers on loopback, replicating, with an endpoint in front."""
    from reaper.adapters.interrupt import SignalInterrupt
    from reaper.cli.compose import site
    from reaper.domain.facts import InstanceState

    with SignalInterrupt().installed() as interrupt:
        here = site()
        lab = here.lab_up(name, server, nodes, interrupt.check)
        living = sum(m.state is InstanceState.RUNNING for m in here.fleet.members(name))
    sys.stdout.write(
        f"lab {lab.name}: {living} of {len(lab.instances)} servers ({lab.flavour} {lab.version}), "
        f"endpoint 127.0.0.1:{lab.endpoint_port}\n"
        f"  reaper status {lab.name}        look at it\n"
        f"  reaper lab load --name {lab.name}   write and read through the endpoint\n"
        f"  reaper rotate {lab.name}        replace its master\n"
    )


@lab_app.command("status")
def lab_status(name: Annotated[str | None, typer.Option("--name")] = None, output: OutputChoice = "table") -> None:
    """The same as `reaper status`, for labs."""
    status(name, output)


@lab_app.command("down")
def lab_down(name: LabName = "lab") -> None:
    """End every process of a lab and delete its files."""
    from reaper.cli.compose import site

    ended = site().lab_down(name)
    sys.stdout.write(f"lab {name} is gone: ended {', '.join(ended) or 'nothing, all had ended'}\n")


@lab_app.command("load")
def lab_load(
    name: LabName = "lab",
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Writes and as many reads per second.")] = 100,
    clients: Annotated[int, typer.Option(min=1, max=64)] = 4,
    stop_after: Annotated[
        timedelta | None, typer.Option("--for", parser=span, metavar="DURATION", help="Stop by itself.")
    ] = None,
) -> None:
    """Write and read through the endpoint as an application does, until stopped."""
    from reaper.cli.compose import site
    from reaper.cli.load import run_load

    run_load(site(), name, rate=rate, clients=clients, stop_after=stop_after)
