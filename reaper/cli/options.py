"""The options that several commands share."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from reaper.cli.parse import span
from reaper.domain.errors import UsageError
from reaper.domain.policy import KillMode, Reference

if TYPE_CHECKING:
    from reaper.cli.runs import Output

LabName = Annotated[str, typer.Option("--name", help="The lab's name, which is also its cluster's.")]
Mode = Annotated[KillMode, typer.Option("--mode", "--kill", help="How the victim dies.")]
OutputChoice = Annotated[str, typer.Option("--output", help="table or json")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and ask the guards; touch nothing.")]
AcceptLoss = Annotated[
    bool,
    typer.Option("--accept-loss", help="Go without semi-sync: acknowledged writes may be lost, and are counted."),
]
Budget = Annotated[
    timedelta,
    typer.Option("--outage-budget", parser=span, metavar="DURATION", help="A longer outage is a bad verdict."),
]
Quarantine = Annotated[
    timedelta, typer.Option(parser=span, metavar="DURATION", help="Keep the victim's files for this long.")
]
Approval = Annotated[
    timedelta | None,
    typer.Option(parser=span, metavar="DURATION", help="Ask for a person's yes before the kill, for so long."),
]
MinCopies = Annotated[int, typer.Option(min=1, help="Copies that must be left after the kill.")]
MaxLag = Annotated[timedelta, typer.Option(parser=span, metavar="DURATION", help="Largest lag of a surviving replica.")]
ProbeClients = Annotated[int, typer.Option(min=1, max=64, help="Clients of the probe.")]
ProbeRate = Annotated[
    float, typer.Option(min=1, max=5000, help="Writes per second of the probe, all clients together.")
]

VerifyAgainst = Annotated[
    Reference,
    typer.Option(help="Whose data the replacement's are compared with: of what it was copied from, or the master's."),
]
VerifyShare = Annotated[
    float,
    typer.Option(min=0.001, max=1, help="Of the replacement's data, how much is compared; drawn at random below 1."),
]
Warm = Annotated[
    float | None,
    typer.Option(min=0.01, max=1, help="The heir has to hold this share of the victim's hot pages in memory."),
]
WarmWithin = Annotated[
    timedelta, typer.Option(parser=span, metavar="DURATION", help="With --warm: refuse if it is not warm by then.")
]
ReuseSnapshot = Annotated[
    timedelta | None,
    typer.Option(parser=span, metavar="DURATION", help="Use an earlier snapshot that is not older than this."),
]
KeepSnapshots = Annotated[int, typer.Option(min=0, max=1000, help="Snapshots that stay behind, as tested backups.")]

Run = Annotated[str, typer.Argument(help="A run's name, or its beginning.")]
Who = Annotated[str | None, typer.Option(help="In whose name; you@this-machine if left out.")]


def output_of(text: str) -> "Output":
    """How to print. UsageError: no such way."""
    from reaper.cli.runs import Output

    try:
        return Output(text)
    except ValueError:
        raise UsageError(f"--output is table or json, not {text!r}") from None
