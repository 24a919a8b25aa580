"""How many calls, and how long, the discovery of many instances takes.

    python -m benchmarks.discovery --instances 2000

moto plays EC2 in this process. It needs some 3 ms for each instance that it describes, which AWS does not: the count
of calls is the figure. Twice the instances are to cost twice the pages and no other call more.
"""

import argparse
import os
import time
from typing import Any

from benchmarks.table import Exit, Result, Row, show
from benchmarks.workshop import guarded

INSTANCES = 2000
_KEY, _REGION, _A_CALL = "BENCH", "eu-central-1", 100
_MEMBERS = 3
_PAGE = 1000  # the most that DescribeInstances gives at once


def measure(instances: int) -> Result:
    """One sweep over all clusters, and the members of each."""
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    from reaper.adapters.aws.control_plane import ControlPlane, fine
    from reaper.adapters.aws.ec2 import Ec2Fleet
    from reaper.adapters.aws.session import Clients, Keys, Place
    from reaper.adapters.aws.settings import Ec2Settings

    plane = ControlPlane(_KEY, fine)
    plane.start()
    try:
        place = Place(region=_REGION, keys=Keys(access=_KEY, secret=_KEY), endpoint=plane.url)
        _launch(Clients(place).ec2, instances)
        fleet = Ec2Fleet(Ec2Settings(places=(place,)))
        began = time.monotonic()
        clusters = fleet.clusters()
        members = sum(len(fleet.members(cluster)) for cluster in clusters)
        took = time.monotonic() - began
        calls = fleet.calls.by_name()
    finally:
        plane.close()
    name = f"discover {members:,} instances of {len(clusters):,} clusters"
    pages = -(-instances // _PAGE)
    return Result(
        rows=(
            Row(name=f"{name}: calls", value=sum(calls.values()), unit="calls", reference=pages, target=2),
            Row(name=f"{name}: in moto", value=took, unit="s"),
        ),
        details=tuple(f"{count:6} {call}" for call, count in sorted(calls.items())),
        faults=() if members == instances else (f"{members} of {instances} instances were found",),
    )


def _launch(client: Any, wanted: int) -> None:
    """Clusters of three, many instances to a call, then a tag for each cluster."""
    made: list[str] = []
    while len(made) < wanted:
        count = min(_A_CALL, wanted - len(made))
        answer = client.run_instances(ImageId="ami-1", MinCount=count, MaxCount=count)
        made += [i["InstanceId"] for i in answer["Instances"]]
    for start in range(0, len(made), _MEMBERS):
        for number, instance in enumerate(made[start : start + _MEMBERS], 1):
            tags = {"reaper:cluster": f"shard-{start // _MEMBERS}", "reaper:server-id": str(number)}
            client.create_tags(Resources=[instance], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discovery", description=__doc__)
    parser.add_argument("--instances", type=int, default=INSTANCES, help="made, and found again (2000)")
    return show(measure(max(1, parser.parse_args().instances)))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
