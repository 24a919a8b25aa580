"""`reaper lab`: a replicating cluster of real servers on this machine. Heavy imports happen inside."""

import sys
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reaper.cli.history import status
from reaper.cli.options import LabName, OutputChoice
from reaper.cli.parse import span
from reaper.domain.errors import UsageError

if TYPE_CHECKING:
    from reaper.cli.compose import Site

lab_app = typer.Typer(no_args_is_help=True, help="A replicating cluster of real servers on this machine.")


class Provider(StrEnum):
    """What a lab is made of."""

    LOCAL = "local"  # processes of this machine
    EC2 = "ec2"  # instances of a simulated AWS, each one a process of this machine


ProviderChoice = Annotated[
    Provider, typer.Option(help="local: processes. ec2: instances of a simulated AWS, to rehearse without an account.")
]


@lab_app.command("up")
def lab_up(
    name: LabName = "lab",
    nodes: Annotated[int, typer.Option(help="Servers: one master, the others replicas.")] = 3,
    server: Annotated[Path | None, typer.Option(help="A mysqld or mariadbd; otherwise the installed one.")] = None,
    provider: ProviderChoice = Provider.LOCAL,
) -> None:
    """Make a lab: real servers on loopback, replicating, with an endpoint in front."""
    from reaper.adapters.interrupt import SignalInterrupt
    from reaper.cli.compose import site
    from reaper.domain.facts import InstanceState

    with SignalInterrupt().installed() as interrupt:
        here = site()
        if provider is Provider.EC2:
            _aws_up(here, name, server, nodes, interrupt.check)
            return
        if (here.aws_labs / name).exists():
            raise UsageError(
                f"there is an AWS lab {name}: `reaper lab down --name {name}` removes it, or choose another name"
            )
        lab = here.lab_up(name, server, nodes, interrupt.check)
        living = sum(m.state is InstanceState.RUNNING for m in here.fleet.members(name))
    sys.stdout.write(
        f"lab {lab.name}: {living} of {len(lab.instances)} servers ({lab.flavour} {lab.version}), "
        f"endpoint 127.0.0.1:{lab.endpoint_port}\n{_next_steps(name)}"
    )


def _aws_up(here: "Site", name: str, server: Path | None, nodes: int, check: Callable[[], None]) -> None:
    """The environment on standard output, so that a shell can evaluate it; the words for a person beside it."""
    from reaper.cli.aws_lab import exports, up

    environment = up(here, name, server, nodes, check)
    sys.stderr.write(
        f"AWS lab {name}: EC2 at {environment['AWS_ENDPOINT_URL']}, {nodes} instances in three zones, an Elastic IP "
        "that leads to the master.\nIn every shell that is to work with it:\n"
        f'  eval "$(reaper lab env --name {name})"\nThen, as with AWS itself:\n{_next_steps(name)}'
        f"  reaper lab down --name {name}   remove it\n"
    )
    sys.stdout.write(exports(environment))


def _next_steps(name: str) -> str:
    return (
        f"  reaper status {name}        look at it\n"
        f"  reaper lab load --name {name}   write and read through the endpoint\n"
        f"  reaper rotate {name}        replace its master\n"
    )


@lab_app.command("env")
def lab_env(name: LabName = "lab") -> None:
    """Print what to export so that reaper, and anything made for AWS, works with an AWS lab and never with AWS."""
    from reaper.cli.aws_lab import environment, exports
    from reaper.cli.compose import site

    sys.stdout.write(exports(environment(site(), name)))


@lab_app.command("status")
def lab_status(name: Annotated[str | None, typer.Option("--name")] = None, output: OutputChoice = "table") -> None:
    """The same as `reaper status`, for labs."""
    status(name, output)


@lab_app.command("down")
def lab_down(name: LabName = "lab") -> None:
    """End every process of a lab, whatever it is made of, and delete its files."""
    from reaper.cli.compose import site

    here = site()
    if (here.aws_labs / name).exists():
        from reaper.cli.aws_lab import down

        ended = tuple(f"process {pid}" for pid in down(here, name))
    else:
        ended = here.lab_down(name)
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
