"""Snapshots and replacements: whatever answer is lost, one is made, and what is made can run nowhere twice."""

import base64
from datetime import timedelta
from typing import Any

import pytest
from ec2_moto import REGION, TAGS, Moto, never, site

from reaper.adapters.aws.control_plane import Fate
from reaper.adapters.aws.settings import Template
from reaper.adapters.aws.userdata import Birth, render, shipped
from reaper.domain.errors import ReaperError, RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Berth, Instance
from reaper.domain.snapshots import Keeping, Snapshot

__all__ = ["site"]

SNAP, HEIR = "run-1-snap", "run-1-heir"
GIB = 2**30


def described(site: Moto, kind: str) -> list[dict[str, Any]]:
    """What is there of a kind, with reaper's tags."""
    if kind == "snapshots":
        return [s for s in site.client.describe_snapshots(OwnerIds=["self"])["Snapshots"] if TAGS.snapshot in tags(s)]
    if kind == "volumes":
        return [v for v in site.client.describe_volumes()["Volumes"] if TAGS.made_by in tags(v)]
    reservations = site.client.describe_instances()["Reservations"]
    living = [
        i for r in reservations for i in r["Instances"] if i["State"]["Name"] not in ("terminated", "shutting-down")
    ]
    return [i for i in living if TAGS.made_by in tags(i)]


def tags(thing: dict[str, Any]) -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in thing.get("Tags", [])}


def built(site: Moto, **changes: Any) -> tuple[Snapshot, Instance]:
    """A snapshot of the second member and a replacement from it."""
    _, source, _ = site.add_cluster()
    fleet = site.fleet(**changes)
    snapshot = fleet.snapshot(source, SNAP, never)
    return snapshot, fleet.launch("c", snapshot, HEIR, Keeping.COPY, Berth(), never)


# ---- snapshots


def test_a_snapshot_has_all_data_volumes_and_not_the_root(site: Moto) -> None:
    _, source, _ = site.add_cluster("c", team="blue")
    taken = site.fleet().snapshot(source, SNAP, never)
    parts = described(site, "snapshots")
    assert sorted(tags(p)[TAGS.device] for p in parts) == ["/dev/sdf", "/dev/sdg"]
    assert taken.size_bytes == 7 * GIB
    assert taken.source == source.id
    for part in parts:
        assert tags(part)[TAGS.snapshot] == SNAP
        assert tags(part)["team"] == "blue"
        assert TAGS.server_id not in tags(part)
    assert len(site.plan.calls("CreateSnapshots")) == 1, "one call: the volumes are of one moment"


FATES = [
    pytest.param([Fate.LOST], 1, id="the answer is lost"),
    pytest.param([Fate.THROTTLED, Fate.THROTTLED, Fate.LOST], 3, id="throttled twice, then the answer is lost"),
    pytest.param([Fate.THROTTLED], 2, id="throttled once"),
]


@pytest.mark.parametrize(("fates", "calls"), FATES)
def test_E26_a_snapshot_whose_answer_is_lost_is_taken_once(site: Moto, fates: list[Fate], calls: int) -> None:
    """CreateSnapshots knows no token: whoever repeats it blindly has two."""
    _, source, _ = site.add_cluster()
    site.plan.fates["CreateSnapshots"] = list(fates)
    taken = site.fleet().snapshot(source, SNAP, never)
    assert len(described(site, "snapshots")) == 2
    assert len(site.plan.calls("CreateSnapshots")) == calls
    assert site.fleet().snapshot(source, SNAP, never) == taken


def test_a_process_that_dies_before_it_describes_the_parts_is_repeated(site: Moto) -> None:
    _, source, _ = site.add_cluster()

    class Died(Exception):
        pass

    def die() -> None:
        if site.plan.calls("CreateSnapshots"):
            raise Died

    with pytest.raises(Died):
        site.fleet().snapshot(source, SNAP, die)
    fleet = site.fleet()
    heir = fleet.launch("c", fleet.snapshot(source, SNAP, never), HEIR, Keeping.COPY, Berth(), never)
    assert len(described(site, "snapshots")) == 2
    assert heir.made_by == HEIR


def test_a_snapshot_that_fails_is_deleted_and_said(site: Moto) -> None:
    _, source, _ = site.add_cluster()
    fleet = site.fleet()

    def fail() -> None:
        with site.plane.lock:
            for snapshot in _backend().snapshots.values():
                type(snapshot).status = property(lambda _s: "error", lambda _s, _v: None)

    with pytest.raises(TryAgainError, match=r"failed.*is error"):
        fleet.snapshot(source, SNAP, fail)
    assert described(site, "snapshots") == []


def _backend() -> Any:
    from moto.ec2.models import ec2_backends

    return ec2_backends["123456789012"][REGION]


def test_an_instance_with_nothing_but_a_root_volume_is_refused(site: Moto) -> None:
    _, source, _ = site.add_cluster()
    for device in ("/dev/sdf", "/dev/sdg"):
        instance = site.client.describe_instances(InstanceIds=[source.id.short])["Reservations"][0]["Instances"][0]
        disk = next(d for d in instance["BlockDeviceMappings"] if d["DeviceName"] == device)
        site.client.detach_volume(VolumeId=disk["Ebs"]["VolumeId"], InstanceId=source.id.short, Device=device)
    with pytest.raises(RefusedError, match="no volume but its root"):
        site.fleet().snapshot(source, SNAP, never)


def test_encryption_and_the_kind_of_volume_are_kept(site: Moto) -> None:
    """A launch that is not told the type takes EC2's default: a slow volume behind a fast one's name."""
    site.template = site.client.create_launch_template(
        LaunchTemplateName="fast",
        LaunchTemplateData=site.template_data(site.image)
        | {
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/sdf",
                    "Ebs": {"VolumeSize": 5, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True},
                }
            ]
        },
    )["LaunchTemplate"]["LaunchTemplateId"]
    taken, _ = built(site)
    assert "encrypted" in taken.note
    assert "not encrypted" not in taken.note
    (call,) = site.plan.calls("RunInstances")[-1:]
    assert call["BlockDeviceMapping.1.Ebs.VolumeType"] == ["gp3"]
    assert call["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == ["true"]
    assert "BlockDeviceMapping.1.Ebs.Encrypted" not in call, "the snapshot decides it"


# ---- launch


def test_a_replacement_has_its_own_identity_and_its_clusters_tags(site: Moto) -> None:
    _, heir = built(site)
    assert heir.made_by == HEIR
    assert heir.server_id > 1_000_000_000
    (instance,) = described(site, "instances")
    assert tags(instance)[TAGS.cluster] == "c"
    assert all(tags(v)[TAGS.made_by] == HEIR for v in described(site, "volumes"))
    call = site.plan.calls("RunInstances")[-1]
    script = base64.b64decode(call["UserData"][0]).decode()
    assert f"server-id = {heir.server_id}\n" in script
    assert call["LaunchTemplate.Version"] == ["1"], "pinned"


LOST = [
    pytest.param([Fate.LOST], id="the answer is lost and boto repeats the call"),
    pytest.param([Fate.LOST] * 3, id="every answer that boto waits for is lost"),
    pytest.param([Fate.THROTTLED] * 3 + [Fate.LOST], id="throttled, then lost"),
]


@pytest.mark.parametrize("fates", LOST)
def test_E26_a_launch_whose_answer_is_lost_makes_one_instance(site: Moto, fates: list[Fate]) -> None:
    site.add_cluster()
    fleet = site.fleet()
    taken = fleet.snapshot(fleet.members("c")[0], SNAP, never)
    site.plan.fates["RunInstances"] = list(fates)
    heir = fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), never)
    assert [i["InstanceId"] for i in described(site, "instances")] == [heir.id.short]


def test_a_process_that_dies_after_the_launch_finds_its_instance(site: Moto) -> None:
    _, source, _ = site.add_cluster()
    fleet = site.fleet()
    taken = fleet.snapshot(source, SNAP, never)

    class Died(Exception):
        pass

    def die() -> None:
        if described(site, "instances"):
            raise Died

    with pytest.raises(Died):
        fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), die)
    heir = site.fleet().launch("c", taken, HEIR, Keeping.MOVE, Berth(), never)
    assert [i["InstanceId"] for i in described(site, "instances")] == [heir.id.short]
    assert described(site, "snapshots") == [], "moved: it is gone"


def test_one_that_was_retired_is_launched_anew(site: Moto) -> None:
    """EC2 answers a spent token with an error; the next number is a token of its own."""
    taken, first = built(site)
    fleet = site.fleet()
    fleet.retire(first)
    second = fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), never)
    assert second.id != first.id
    assert second.server_id != first.server_id


def test_the_zone_that_lacks_a_member_gets_it(site: Moto) -> None:
    members = site.add_cluster()
    fleet = site.fleet()
    taken = fleet.snapshot(members[1], SNAP, never)
    fleet.aim(members[2]).crash()
    launched = fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), never)
    assert launched.zone in {f"{REGION}{letter}" for letter in "abc"}
    while len([m for m in fleet.members("c") if m.state.value == "dead"]) == 0:
        pass
    wanted = fleet.launch("c", taken, "run-2-heir", Keeping.COPY, Berth(zone=f"{REGION}c"), never)
    assert wanted.zone == f"{REGION}c"
    with pytest.raises(RefusedError, match="no subnet in mars"):
        fleet.launch("c", taken, "run-3-heir", Keeping.COPY, Berth(zone="mars"), never)


def test_no_capacity_is_said_and_leaves_nothing(site: Moto) -> None:
    _, source, _ = site.add_cluster()
    fleet = site.fleet()
    taken = fleet.snapshot(source, SNAP, never)
    site.plan.fates["RunInstances"] = [Fate.NO_ROOM]
    with pytest.raises(TryAgainError, match="no room"):
        fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), never)
    assert described(site, "instances") == []
    assert described(site, "volumes") == []


def test_a_spot_template_is_refused(site: Moto) -> None:
    _, source, _ = site.add_cluster()
    data = site.template_data(site.image, InstanceMarketOptions={"MarketType": "spot"})
    site.client.create_launch_template_version(LaunchTemplateId=site.template, LaunchTemplateData=data)
    site.client.modify_launch_template(LaunchTemplateId=site.template, DefaultVersion="2")
    fleet = site.fleet()
    taken = fleet.snapshot(source, SNAP, never)
    with pytest.raises(RefusedError, match="spot"):
        fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), never)


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(Template(id="lt-0123456789abcdef0"), id="there is no such template"),
        pytest.param(Template(id="mine", version="99"), id="there is no such version"),
    ],
)
def test_a_template_that_is_not_there_is_the_settings_mistake(site: Moto, template: Template) -> None:
    if template.id == "mine":
        template = Template(id=site.template, version=template.version)
    with pytest.raises(UsageError, match="no launch template"):
        built(site, template=template)
    assert described(site, "instances") == []


def test_a_pinned_version_is_used_although_the_default_moved_on(site: Moto) -> None:
    newer = site.client.register_image(Name="two", RootDeviceName="/dev/sda1")["ImageId"]
    site.client.create_launch_template_version(
        LaunchTemplateId=site.template, LaunchTemplateData=site.template_data(newer)
    )
    _, heir = built(site, template=Template(id=site.template, version="2"))
    assert heir.image is not None
    assert heir.image.stale is False
    assert newer in heir.image.name


def test_an_instance_that_ends_while_it_boots_is_said_with_ec2s_reason(site: Moto) -> None:
    _, source, _ = site.add_cluster()
    fleet = site.fleet()
    taken = fleet.snapshot(source, SNAP, never)

    def kill() -> None:
        for instance in described(site, "instances"):
            site.machines.running.clear()
            site.client.terminate_instances(InstanceIds=[instance["InstanceId"]])

    with pytest.raises(TryAgainError, match=r"(shutting-down|terminated) instead of running"):
        fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), kill)


# ---- server ids


def test_E29_ids_are_never_given_twice_also_when_instances_are_forgotten(site: Moto) -> None:
    from reaper.adapters.aws.serverids import ServerIds
    from reaper.adapters.aws.session import Clients

    ids = ServerIds(Clients(site.settings.places[0]), "/reaper/server-ids", site.settings.pace)
    given = [ids.give("c", f"run-{n}", ()) for n in range(5)]
    assert len(set(given)) == 5
    assert ids.give("c", "run-4", ()) == given[-1], "asked again at once, the same"
    assert ids.give("other", "run-4", ()) == given[0], "each cluster counts for itself"


def test_E29_an_id_that_somebody_has_is_passed_over(site: Moto) -> None:
    """The parameter was deleted and begins again."""
    from reaper.adapters.aws.serverids import ServerIds
    from reaper.adapters.aws.session import Clients

    ids = ServerIds(Clients(site.settings.places[0]), "/reaper/server-ids", site.settings.pace)
    first = [ids.give("c", f"run-{n}", ()) for n in range(3)]
    ids.forget("c")
    assert ids.give("c", "run-9", first) not in first


@pytest.mark.parametrize("fates", [[Fate.LOST], [Fate.LOST] * 3, [Fate.THROTTLED, Fate.LOST]])
def test_E26_an_id_whose_answer_is_lost_is_skipped_or_found(site: Moto, fates: list[Fate]) -> None:
    from reaper.adapters.aws.serverids import ServerIds
    from reaper.adapters.aws.session import Clients

    ids = ServerIds(Clients(site.settings.places[0]), "/reaper/server-ids", site.settings.pace)
    before = ids.give("c", "run-1", ())
    site.plan.fates["PutParameter"] = list(fates)
    assert ids.give("c", "run-2", ()) > before


# ---- user data


def test_the_shipped_user_data_is_filled_in() -> None:
    text = render(shipped(), Birth(server_id=1_000_000_007, device="/dev/sdf", cluster="shop", name="run-1-heir"))
    assert "server-id = 1000000007" in text
    assert "read-only = ON" in text
    assert "auto.cnf" in text
    assert "@" not in text.split("cat >")[1].split("EOF")[1]


BAD_TEMPLATES = [
    pytest.param("#!/bin/sh\necho", "no @SERVER_ID@", id="without the server id it would run with its source's"),
    pytest.param("@SERVER_ID@ @PASSWORD@", "PASSWORD", id="it asks for what reaper does not fill in"),
    pytest.param("@SERVER_ID@" + " " * 17_000, "bytes", id="EC2 takes no more than 16 KiB"),
]


@pytest.mark.parametrize(("template", "why"), BAD_TEMPLATES)
def test_user_data_that_cannot_work_is_refused(template: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        render(template, Birth(server_id=1, device="/dev/sdf", cluster="c", name="n"))


def test_a_name_cannot_leave_its_place_in_the_script() -> None:
    with pytest.raises(UsageError):
        render("@SERVER_ID@ @CLUSTER@", Birth(server_id=1, device="/dev/sdf", cluster="c'; reboot #", name="n"))


# ---- nothing is left


def test_I11_retire_and_forget_leave_nothing_of_reapers(site: Moto) -> None:
    taken, heir = built(site)
    fleet = site.fleet()
    assert {b.kind for b in fleet.belongings()} == {"instance", "volume", "snapshot"}
    fleet.retire(heir)
    fleet.retire(heir)
    fleet.forget("c", taken.name)
    fleet.forget("c", taken.name)
    assert fleet.belongings() == ()
    assert {m.server_id for m in fleet.members("c")} == {101, 102, 103}


def test_I11_volumes_that_did_not_end_with_their_instance_are_deleted(site: Moto) -> None:
    _, heir = built(site)
    instance = site.client.describe_instances(InstanceIds=[heir.id.short])["Reservations"][0]["Instances"][0]
    for disk in instance["BlockDeviceMappings"]:
        keep = [{"DeviceName": disk["DeviceName"], "Ebs": {"DeleteOnTermination": False}}]
        site.client.modify_instance_attribute(InstanceId=heir.id.short, BlockDeviceMappings=keep)
    site.fleet().retire(heir)
    assert described(site, "volumes") == []


def test_a_snapshot_from_which_an_image_was_made_is_refused(site: Moto) -> None:
    taken, _ = built(site)
    with site.plane.lock:
        for snapshot in _backend().snapshots.values():
            if snapshot.get_tags() and snapshot.from_ami is None:
                snapshot.from_ami = site.image
    with pytest.raises(RefusedError, match="deregistered"):
        site.fleet().forget("c", taken.name)


@pytest.mark.parametrize("seed", range(3))
def test_with_every_twentieth_call_failing_everything_is_done_once(site: Moto, seed: int) -> None:
    """The whole life of a replacement in bad weather: half of the failures come after the call was carried out."""
    from reaper.adapters.aws.control_plane import changeable

    _, source, _ = site.add_cluster()
    site.plane._weather = changeable(0.05, seed)
    fleet = site.fleet()
    taken = fleet.snapshot(source, SNAP, never)
    heir = fleet.launch("c", taken, HEIR, Keeping.COPY, Berth(), never)
    trigger = fleet.aim(heir)
    trigger.crash()
    assert trigger.fence(timedelta(seconds=30))
    fleet.retire(heir)
    fleet.forget("c", taken.name)
    site.plane._weather = changeable(0, seed)
    assert fleet.belongings() == ()
    assert len(fleet.members("c")) == 3


def test_whatever_goes_wrong_is_one_of_our_errors(site: Moto) -> None:
    _, source, _ = site.add_cluster()
    site.plan.fates["DescribeSnapshots"] = [Fate.LOST] * 10_000
    with pytest.raises(ReaperError):
        site.fleet(pace=_hasty(site)).snapshot(source, SNAP, never)


def _hasty(site: Moto) -> Any:
    from dataclasses import replace

    return replace(site.settings.pace, repeat_within=timedelta(milliseconds=10))
