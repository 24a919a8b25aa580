"""`reaper adopt`: make instances that a site launched itself known to reaper."""

import sys
from typing import Annotated

import typer

from reaper.domain.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(adopt)


def adopt(cluster: Annotated[str, typer.Argument(help="The cluster, as its instances' tag names it.")]) -> None:
    """Tag the instances of an EC2 cluster with the server ids that their servers run with."""
    from reaper.cli.cloud import Ec2Ground
    from reaper.cli.compose import site

    ground = site().fleet.of(cluster)
    if not isinstance(ground, Ec2Ground):
        raise UsageError(f"{cluster} is a lab, or `ec2:` is missing in reaper.yaml: only instances of EC2 are adopted")
    adopted = ground.adopt(cluster)
    for instance in adopted:
        sys.stdout.write(f"{instance.id}: server id {instance.server_id}\n")
    if not adopted:
        sys.stdout.write(f"{cluster}: nothing to do, every running instance has its tag, or there is none\n")
