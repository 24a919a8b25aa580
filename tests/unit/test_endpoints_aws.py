"""Endpoints of EC2 clusters and the command hook: one contract over every door, then what only one of them has."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aws_moto
import pytest
from aws_moto import InstantClock, Moto
from botocore.exceptions import ConnectTimeoutError

from reaper.adapters.aws.calls import Calls
from reaper.adapters.aws.endpoints import ElasticIp, MasterTag, Route53Record, SecondaryAddress
from reaper.adapters.doors import Door, DoorEndpoint
from reaper.adapters.routing.hook import HookDoor, HookPrograms
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Address

PORT = 3306
TTL = timedelta(seconds=20)
CLUSTER = ("reaper:cluster", "shop")
TAG = ("role", "writer")
NAME = "db.shop.example"
FLOATING = "172.31.0.200"


@pytest.fixture(scope="module")
def server() -> Iterator[Moto]:
    with aws_moto.running() as moto:
        yield moto


@dataclass
class Site:
    """Three members of a cluster, a stranger outside it, and an endpoint."""

    moto: Moto
    members: list[Address]
    instances: list[str]
    clock: InstantClock
    make: Callable[[], Door]
    moves: tuple[str, ...]  # the actions that change something, in order
    race: Callable[["Site", int], None]  # somebody else leads it to the member of that number
    listen: Address

    @property
    def endpoint(self) -> DoorEndpoint:
        """A new process's."""
        return DoorEndpoint(self.make(), self.listen, self.clock, timedelta(seconds=30))

    @property
    def target(self) -> Address | None:
        return self.endpoint.show().target


def _cluster(moto: Moto) -> tuple[list[Address], list[str], str]:
    ec2 = moto.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]
    made = ec2.run_instances(
        ImageId="ami-12c6146b",
        MinCount=4,
        MaxCount=4,
        SubnetId=subnet["SubnetId"],
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": CLUSTER[0], "Value": CLUSTER[1]}]}],
    )["Instances"]
    ids = [i["InstanceId"] for i in made]
    ec2.delete_tags(Resources=[ids[3]], Tags=[{"Key": CLUSTER[0]}])
    return [Address(i["PrivateIpAddress"], PORT) for i in made], ids, subnet["VpcId"]


def _others_record(site: Site, zone: str, number: int) -> None:
    record = {
        "Name": NAME,
        "Type": "A",
        "TTL": 20,
        "ResourceRecords": [{"Value": site.members[number].host}],
    }
    site.moto.client("route53").change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
    )


def _route53(moto: Moto, _vpc: str, clock: InstantClock) -> tuple[Callable[[], Door], Callable[[Site, int], None]]:
    zone = moto.client("route53").create_hosted_zone(Name="shop.example", CallerReference="1")["HostedZone"]["Id"]
    zone = zone.rsplit("/", 1)[-1]
    calls = Calls(moto.client("route53"), clock)
    return (
        lambda: Route53Record(calls, clock, zone=zone, listen=Address(NAME, PORT), ttl=TTL),
        lambda site, number: _others_record(site, zone, number),
    )


def _elastic(moto: Moto, vpc: str, clock: InstantClock) -> tuple[Callable[[], Door], Callable[[Site, int], None]]:
    ec2 = moto.client("ec2")
    allocation = ec2.allocate_address(Domain="vpc")["AllocationId"]

    def race(site: Site, number: int) -> None:
        ec2.associate_address(
            AllocationId=allocation, NetworkInterfaceId=_interface(site, number), AllowReassociation=True
        )

    return lambda: ElasticIp(Calls(ec2, clock), allocation=allocation, port=PORT, vpc=vpc), race


def _interface(site: Site, number: int) -> str:
    (reservation,) = site.moto.client("ec2").describe_instances(InstanceIds=[site.instances[number]])["Reservations"]
    return str(reservation["Instances"][0]["NetworkInterfaces"][0]["NetworkInterfaceId"])


def _secondary(moto: Moto, vpc: str, clock: InstantClock) -> tuple[Callable[[], Door], Callable[[Site, int], None]]:
    ec2 = moto.client("ec2")

    def race(site: Site, number: int) -> None:
        filters = [{"Name": "addresses.private-ip-address", "Values": [FLOATING]}]
        for interface in ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]:
            ec2.unassign_private_ip_addresses(
                NetworkInterfaceId=interface["NetworkInterfaceId"], PrivateIpAddresses=[FLOATING]
            )
        ec2.assign_private_ip_addresses(NetworkInterfaceId=_interface(site, number), PrivateIpAddresses=[FLOATING])

    return lambda: SecondaryAddress(Calls(ec2, clock), address=FLOATING, port=PORT, vpc=vpc), race


def _tag(moto: Moto, _vpc: str, clock: InstantClock) -> tuple[Callable[[], Door], Callable[[Site, int], None]]:
    ec2 = moto.client("ec2")
    tags = [{"Key": TAG[0], "Value": TAG[1]}]

    def race(site: Site, number: int) -> None:
        ec2.delete_tags(Resources=site.instances, Tags=tags)
        ec2.create_tags(Resources=[site.instances[number]], Tags=tags)

    return lambda: MasterTag(Calls(ec2, clock), cluster=CLUSTER, tag=TAG, port=PORT), race


KINDS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "a Route 53 record": (_route53, ("route53:ChangeResourceRecordSets",), NAME),
    "an Elastic IP": (_elastic, ("ec2:DisassociateAddress", "ec2:AssociateAddress"), "203.0.113.9"),
    "a secondary address": (_secondary, ("ec2:UnassignPrivateIpAddresses", "ec2:AssignPrivateIpAddresses"), FLOATING),
    "a tag": (_tag, ("ec2:DeleteTags", "ec2:CreateTags"), "tag"),
}
COMPARING = [kind for kind in KINDS if kind != "a tag"]  # EC2 has no compare-and-set for tags


def _site(server: Moto, kind: str) -> Site:
    aws_moto.reset(server)
    build, moves, host = KINDS[kind]
    members, instances, vpc = _cluster(server)
    clock = InstantClock()
    make, race = build(server, vpc, clock)
    site = Site(server, members, instances, clock, make, moves, race, Address(host, PORT))
    server.recorder.forget()
    return site


@pytest.fixture(params=list(KINDS))
def site(request: pytest.FixtureRequest, server: Moto) -> Iterator[Site]:
    with ExitStack() as stack:
        stack.enter_context(aws_moto.strict_route53())
        stack.enter_context(aws_moto.strict_addresses())
        yield _site(server, request.param)


@pytest.fixture
def route53(server: Moto) -> Iterator[Site]:
    with aws_moto.strict_route53(pending=3):
        yield _site(server, "a Route 53 record")


# ---- the contract


def test_an_endpoint_that_was_never_moved_leads_nowhere_and_can_be_led(site: Site) -> None:
    assert site.target is None
    assert site.endpoint.route(site.members[0], None).target == site.members[0]
    assert site.target == site.members[0]


def test_it_is_led_from_the_victim_to_the_heir_and_back_again(site: Site) -> None:
    one, two, _, _ = site.members
    site.endpoint.route(one, None)
    for to, expected in ((two, one), (one, two), (two, one)):
        assert site.endpoint.route(to, expected).target == to
        assert site.target == to


def test_it_is_not_moved_if_it_leads_to_somebody_else_than_expected(site: Site) -> None:
    one, two, three, _ = site.members
    site.endpoint.route(three, None)
    site.moto.recorder.forget()
    with pytest.raises(RefusedError, match=rf"leads to {three}, not to {one}"):
        site.endpoint.route(two, one)
    assert site.target == three
    assert not site.moto.recorder.actions & set(site.moves)


def test_a_move_that_is_repeated_changes_nothing(site: Site) -> None:
    one, two, _, _ = site.members
    site.endpoint.route(one, None)
    again = site.endpoint
    again.route(two, one)
    site.moto.recorder.forget()
    assert again.route(two, one).target == two
    assert not site.moto.recorder.actions & set(site.moves)


def test_after_a_lost_answer_of_any_call_the_repeated_call_finds_its_own_work(site: Site) -> None:
    """E26. The client asks again by itself, as botocore does, and gets the loser's answer of a compare-and-set."""
    one, two, _, _ = site.members
    site.endpoint.route(one, None)
    for number, action in enumerate(site.moves * 2):
        to, expected = (two, one) if number % 2 == 0 else (one, two)
        site.moto.recorder.lost.append(action)
        assert site.endpoint.route(to, expected).target == to
        assert not site.moto.recorder.lost
        assert site.target == to


def test_a_process_that_dies_between_two_calls_is_followed_by_one_that_ends_the_move(site: Site) -> None:
    one, two, _, _ = site.members
    for action in site.moves:
        site.endpoint.route(one, None)

        def die() -> None:
            raise KeyboardInterrupt

        site.moto.recorder.before(action, die)
        with pytest.raises(KeyboardInterrupt):
            site.endpoint.route(two, one)
        assert site.endpoint.route(two, one).target == two


def test_it_is_moved_away_from_a_victim_that_was_terminated(site: Site) -> None:
    """The provider may have taken the address from it: nowhere is nobody else."""
    one, two, _, _ = site.members
    site.endpoint.route(one, None)
    site.moto.client("ec2").terminate_instances(InstanceIds=[site.instances[0]])
    assert site.endpoint.route(two, one).target == two


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("kind", COMPARING)
def test_somebody_who_is_faster_wins_and_is_not_overwritten(server: Moto, kind: str, call: int) -> None:
    """E12, E13: between the look and the move another tool leads it elsewhere. AWS itself compares."""
    with aws_moto.strict_route53(), aws_moto.strict_addresses():
        site = _site(server, kind)
        one, two, three, _ = site.members
        site.endpoint.route(one, None)
        action = site.moves[min(call, len(site.moves) - 1)]
        server.recorder.before(action, lambda: site.race(site, 2))
        with pytest.raises(RefusedError, match=f"leads to {three}"):
            site.endpoint.route(two, one)
        assert site.target == three


def test_what_is_throttled_is_asked_again_with_pauses(site: Site) -> None:
    one, two, _, _ = site.members
    site.endpoint.route(one, None)
    site.moto.recorder.lost.extend([site.moves[-1]] * 3)
    site.clock.slept.clear()
    assert site.endpoint.route(two, one).target == two
    assert len(site.clock.slept) >= 3


def test_a_call_that_never_gets_an_answer_ends_in_words(site: Site) -> None:
    site.endpoint.route(site.members[0], None)

    def unreachable() -> None:
        raise ConnectTimeoutError(endpoint_url=site.moto.url)

    for _ in range(6):
        site.moto.recorder.before(site.moves[-1], unreachable)
    with pytest.raises(TryAgainError, match=r"in 6 attempts: .*It may have been done"):
        site.endpoint.route(site.members[1], site.members[0])


# ---- Route 53


def test_a_change_is_waited_for_until_all_name_servers_answer_it(route53: Site) -> None:
    route53.endpoint.route(route53.members[0], None)
    polls = [a for a, _ in route53.moto.recorder.calls if a == "route53:GetChange"]
    assert len(polls) == 4
    assert route53.clock.slept.count(timedelta(seconds=1)) == 3


def test_a_process_whose_predecessor_died_while_waiting_waits_for_the_same_record(route53: Site) -> None:
    one = route53.members[0]

    def die() -> None:
        raise KeyboardInterrupt

    route53.moto.recorder.before("route53:GetChange", die)
    with pytest.raises(KeyboardInterrupt):
        route53.endpoint.route(one, None)
    route53.moto.recorder.forget()
    assert route53.endpoint.route(one, None).target == one
    assert [a for a, _ in route53.moto.recorder.calls if a == "route53:GetChange"]
    assert route53.target == one


def test_a_change_that_is_not_in_sync_in_time_is_no_success(server: Moto) -> None:
    with aws_moto.strict_route53(pending=10_000):
        site = _site(server, "a Route 53 record")
        with pytest.raises(TryAgainError, match=r"is pending\): repeat, it goes on waiting"):
            site.endpoint.route(site.members[0], None)


def test_the_ttl_of_the_former_record_is_told(route53: Site) -> None:
    one, two, _, _ = route53.members
    zone = route53.moto.client("route53").list_hosted_zones()["HostedZones"][0]["Id"]
    record = {"Name": NAME, "Type": "A", "TTL": 300, "ResourceRecords": [{"Value": one.host}]}
    route53.moto.client("route53").change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    )
    endpoint = route53.endpoint
    assert endpoint.stale_for == TTL
    endpoint.route(two, one)
    assert endpoint.stale_for == timedelta(minutes=5)


STRANGE = {
    "two values": ([{"TTL": 9, "ResourceRecords": [{"Value": "10.0.0.1"}, {"Value": "10.0.0.2"}]}], "no simple record"),
    "a weight": (
        [{"TTL": 9, "ResourceRecords": [{"Value": "10.0.0.1"}], "SetIdentifier": "a", "Weight": 1}],
        "no simple record",
    ),
    "two families": (
        [
            {"TTL": 9, "ResourceRecords": [{"Value": "10.0.0.1"}]},
            {"Type": "AAAA", "TTL": 9, "ResourceRecords": [{"Value": "2001:db8::1"}]},
        ],
        "has 2 records, of types A, AAAA",
    ),
    "another type than the servers' addresses": (
        [{"Type": "CNAME", "TTL": 9, "ResourceRecords": [{"Value": "old.example."}]}],
        "of type CNAME, which cannot hold",
    ),
}


@pytest.mark.parametrize("strange", list(STRANGE))
def test_a_record_that_means_something_else_is_left_alone(route53: Site, strange: str) -> None:
    records, match = STRANGE[strange]
    client = route53.moto.client("route53")
    zone = client.list_hosted_zones()["HostedZones"][0]["Id"]
    changes = [{"Action": "CREATE", "ResourceRecordSet": {"Name": NAME, "Type": "A"} | r} for r in records]
    client.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})
    route53.moto.recorder.forget()
    with pytest.raises(RefusedError, match=match):
        route53.endpoint.route(route53.members[0], None)
    assert "route53:ChangeResourceRecordSets" not in route53.moto.recorder.actions


def test_a_server_on_another_port_cannot_be_led_to_by_dns(route53: Site) -> None:
    with pytest.raises(RefusedError, match="DNS carries no port"):
        route53.endpoint.route(Address(route53.members[0].host, 3307), None)


def test_a_name_of_another_zone_says_what_is_wrong(route53: Site) -> None:
    calls = Calls(route53.moto.client("route53"), route53.clock)
    door = Route53Record(calls, route53.clock, zone="Z404", listen=route53.listen, ttl=TTL)
    with pytest.raises(UsageError, match=r"list_resource_record_sets .*NoSuchHostedZone"):
        door.look()


# ---- the others


def test_a_tag_that_two_carry_is_not_moved(server: Moto) -> None:
    site = _site(server, "a tag")
    server.client("ec2").create_tags(Resources=site.instances[:2], Tags=[{"Key": TAG[0], "Value": TAG[1]}])
    with pytest.raises(RefusedError, match="all carry the tag role=writer"):
        site.endpoint.route(site.members[2], site.members[0])


@pytest.mark.parametrize("kind", ["an Elastic IP", "a secondary address"])
def test_nothing_is_taken_from_the_victim_for_an_heir_that_has_no_interface(server: Moto, kind: str) -> None:
    with aws_moto.strict_addresses():
        site = _site(server, kind)
        site.endpoint.route(site.members[0], None)
        with pytest.raises(TryAgainError, match="no network interface"):
            site.endpoint.route(Address("172.31.99.99", PORT), site.members[0])
        assert site.target == site.members[0]


def test_an_instance_outside_the_cluster_is_not_given_the_tag(server: Moto) -> None:
    site = _site(server, "a tag")
    with pytest.raises(TryAgainError, match="0 instances with reaper:cluster=shop"):
        site.endpoint.route(site.members[3], None)


# ---- the command hook

MOVE = """
import json, sys, pathlib
file = pathlib.Path(sys.argv[1])
asked = json.load(sys.stdin)
now = json.loads(file.read_text()) if file.exists() else None
if now not in (None, asked["expected"], asked["to"]):
    sys.exit(3)
file.write_text(json.dumps(asked["to"]))
(file.parent / "asked").write_text(json.dumps(asked))
"""
SHOW = """
import pathlib, sys
file = pathlib.Path(sys.argv[1])
print("a line that programs like to print")
print(file.read_text() if file.exists() else "null")
"""


def _hook(tmp_path: Path, move: str = MOVE, show: str = SHOW) -> DoorEndpoint:
    file = str(tmp_path / "route with spaces; $(touch pwned)")
    programs = HookPrograms(
        move=(sys.executable, "-I", "-c", move, file),
        show=(sys.executable, "-I", "-c", show, file),
        within=timedelta(seconds=30),
        stale_for=timedelta(seconds=5),
    )
    listen = Address("db.example", PORT)
    return DoorEndpoint(HookDoor(programs, cluster="shop", listen=listen), listen, InstantClock(), timedelta(seconds=5))


A, B, C = (Address(f"10.0.0.{n}", PORT) for n in (1, 2, 3))


def test_a_hook_moves_is_read_back_and_told_everything_in_json(tmp_path: Path) -> None:
    endpoint = _hook(tmp_path)
    assert endpoint.show().target is None
    endpoint.route(A, None)
    assert endpoint.route(B, A).target == B
    assert endpoint.show().target == B
    assert endpoint.stale_for == timedelta(seconds=5)
    assert json.loads((tmp_path / "asked").read_text()) == {
        "cluster": "shop",
        "endpoint": {"host": "db.example", "port": PORT},
        "op": "route",
        "to": {"host": "10.0.0.2", "port": PORT},
        "expected": {"host": "10.0.0.1", "port": PORT},
    }


def test_a_hook_is_not_run_if_the_endpoint_leads_to_somebody_else(tmp_path: Path) -> None:
    endpoint = _hook(tmp_path)
    endpoint.route(C, None)
    with pytest.raises(RefusedError, match=f"leads to {C}, not to {A}"):
        endpoint.route(B, A)
    assert endpoint.show().target == C


FAILING = {
    "a mover that refuses": ("import sys; print('held by bob'); sys.exit(3)", SHOW, RefusedError, "held by bob"),
    "a mover that fails": ("import sys; sys.exit('no route to host')", SHOW, TryAgainError, "no route to host"),
    "a mover that says yes and does nothing": ("", SHOW, TryAgainError, "still leads to nowhere"),
    "a shower that fails": (MOVE, "import sys; sys.exit(1)", TryAgainError, "is unknown"),
    "a shower that prints a bare word": (MOVE, "print('10.0.0.1')", UsageError, "its last line has to be"),
    "a shower that prints nothing": (MOVE, "", UsageError, "printed nothing"),
}


@pytest.mark.parametrize("failing", list(FAILING))
def test_a_hook_that_does_not_do_its_part_is_never_believed(tmp_path: Path, failing: str) -> None:
    move, show, error, match = FAILING[failing]
    with pytest.raises(error, match=match):
        _hook(tmp_path, move, show).route(A, None)


def test_a_hook_never_sees_a_secret_of_reapers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAPER_DB_PASSWORD", "planted-5ecret")
    spy = f"{MOVE}\nimport os; (file.parent / 'environment').write_text(repr(dict(os.environ)))"
    _hook(tmp_path, spy).route(A, None)
    assert "REAPER_CLUSTER" in (tmp_path / "environment").read_text()
    assert "planted-5ecret" not in (tmp_path / "environment").read_text()
