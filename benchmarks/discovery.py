"""How many calls, and how long, the discovery of many instances takes.

    python -m benchmarks.discovery --instances 2000

moto plays EC2 in this process. It needs some 3 ms for each instance that it describes, which AWS does not: the count
of calls is the figure. Twice the instances are to cost twice the pages and no other call more.
"""

import argparse
import os
import time

_KEY, _REGION, _A_CALL = "BENCH", "eu-central-1", 100
_MEMBERS = 3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=2000)
    wanted = parser.parse_args().instances
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    from reaper.adapters.aws.control_plane import ControlPlane, fine
    from reaper.adapters.aws.ec2 import Ec2Fleet
    from reaper.adapters.aws.session import Clients, Keys, Place
    from reaper.adapters.aws.settings import Ec2Settings

    plane = ControlPlane(_KEY, fine)
    plane.start()
    place = Place(region=_REGION, keys=Keys(access=_KEY, secret=_KEY), endpoint=plane.url)
    began = time.monotonic()
    _launch(Clients(place).ec2, wanted)
    print(f"{wanted} instances made in {time.monotonic() - began:.1f} s")
    fleet = Ec2Fleet(Ec2Settings(places=(place,)))
    began = time.monotonic()
    clusters = fleet.clusters()
    swept = time.monotonic() - began
    members = sum(len(fleet.members(cluster)) for cluster in clusters)
    took = time.monotonic() - began
    print(f"{members} members of {len(clusters)} clusters in {took:.1f} s, {swept:.1f} s of it the sweep")
    for name, count in sorted(fleet.calls.by_name().items()):
        print(f"{count:6} {name}")
    print(f"{fleet.calls.total():6} calls, {fleet.calls.total() / members:.4f} for each instance")
    plane.close()


def _launch(client: object, wanted: int) -> None:
    """Clusters of three, many instances to a call, then a tag for each cluster."""
    made: list[str] = []
    while len(made) < wanted:
        count = min(_A_CALL, wanted - len(made))
        answer = client.run_instances(  # type: ignore[attr-defined]  # boto3 ships no types
            ImageId="ami-1", MinCount=count, MaxCount=count
        )
        made += [i["InstanceId"] for i in answer["Instances"]]
    for start in range(0, len(made), _MEMBERS):
        for number, instance in enumerate(made[start : start + _MEMBERS], 1):
            tags = {"reaper:cluster": f"shard-{start // _MEMBERS}", "reaper:server-id": str(number)}
            client.create_tags(  # type: ignore[attr-defined]  # boto3 ships no types
                Resources=[instance], Tags=[{"Key": k, "Value": v} for k, v in tags.items()]
            )


if __name__ == "__main__":
    main()
