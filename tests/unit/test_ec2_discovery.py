"""Clusters are found by tag over regions and accounts; unknown is never taken for fine."""

from dataclasses import replace
from datetime import timedelta

import pytest
from ec2_moto import KEY, OTHER_REGION, REGION, TAGS, Moto, never, site

from reaper.adapters.aws.session import Role
from reaper.domain.errors import ReaperError, TryAgainError, UsageError
from reaper.domain.facts import Address, InstanceId, InstanceState

__all__ = ["site"]


def test_members_carry_what_their_tags_and_ec2_say(site: Moto) -> None:
    members = site.add_cluster("shop", **{TAGS.group: "shard-7", TAGS.port: "3307", "team": "blue"})
    assert site.fleet().clusters() == ("shop",)
    assert [m.server_id for m in members] == [101, 102, 103]
    assert [m.zone for m in members] == [f"{REGION}{letter}" for letter in "abc"]
    for member in members:
        assert member.id.provider == "ec2"
        assert member.id.name.startswith(f"{REGION}/i-")
        assert member.address.port == 3307
        assert member.group == "shard-7"
        assert dict(member.tags or ())["team"] == "blue"
        assert member.made_by is None


def test_calls_grow_with_pages_and_not_with_instances(site: Moto) -> None:
    """One sweep serves one look at each cluster: a firing over all of them asks EC2 no more than that."""
    for number in range(6):
        site.add_cluster(f"c{number}", nodes=2, first_id=10 * number + 1)
    fleet = site.fleet()
    names = fleet.clusters()
    swept = fleet.calls.total()
    assert len([m for name in names for m in fleet.members(name)]) == 12
    assert swept == 1
    assert fleet.calls.by_name() == {
        "ec2.DescribeInstances": 1,
        "ec2.DescribeImages": 1,
        "ec2.DescribeLaunchTemplateVersions": 1,
    }


def test_a_sweep_answers_once_and_then_one_looks_again(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    fleet = site.fleet()
    fleet.clusters()
    assert {m.state for m in fleet.members("c")} == {InstanceState.RUNNING}
    site.client.stop_instances(InstanceIds=[victim.id.short])
    states = [InstanceState.RUNNING]
    while InstanceState.DEAD not in states:
        states = [m.state for m in fleet.members("c")]


def test_reapers_own_change_is_seen_although_a_sweep_is_fresh(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    fleet = site.fleet()
    fleet.clusters()
    fleet.retire(victim)
    assert len(fleet.members("c")) == 2


def test_clusters_are_found_in_every_region_and_account(site: Moto) -> None:
    """What a role sees belongs to another account; a cluster there is a cluster like any other."""
    site.add_cluster("home")
    here = site.settings.places[0]
    there = replace(here, region=OTHER_REGION)
    foreign = replace(here, role=Role(arn="arn:aws:iam::111122223333:role/reaper", external_id="site-7"))
    for place, name in ((there, "overseas"), (foreign, "foreign")):
        other = replace(site, settings=replace(site.settings, places=(place,)))
        subnet = other.client.describe_subnets()["Subnets"][0]["SubnetId"]
        tags = [{"Key": TAGS.cluster, "Value": name}, {"Key": TAGS.server_id, "Value": "7"}]
        other.client.run_instances(
            ImageId="ami-1",
            SubnetId=subnet,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
    fleet = site.fleet(places=(here, there, foreign))
    assert fleet.clusters() == ("foreign", "home", "overseas")
    assert fleet.members("overseas")[0].id.name.startswith(OTHER_REGION)
    (member,) = fleet.members("foreign")
    assert fleet.proof_of_death(member) is None  # found again, and alive
    assert site.fleet().clusters() == ("home",)


def test_a_place_that_cannot_be_asked_is_no_empty_place(site: Moto) -> None:
    """I10: with one region unreadable nothing is known of the whole."""
    site.add_cluster("home")
    here = site.settings.places[0]
    dark = replace(here, region=OTHER_REGION, endpoint="http://127.0.0.1:9")
    assert here.keys is not None
    with pytest.raises(ReaperError):
        site.fleet(places=(here, dark)).clusters()


def test_an_instance_without_a_server_id_is_named_with_what_to_do(site: Moto) -> None:
    (first, *_) = site.add_cluster()
    site.client.delete_tags(Resources=[first.id.short], Tags=[{"Key": TAGS.server_id}])
    with pytest.raises(UsageError, match=rf"{first.id.short}.*{TAGS.server_id}.*reaper adopt"):
        site.fleet().members("c")


def test_no_such_cluster_is_the_callers_mistake(site: Moto) -> None:
    with pytest.raises(UsageError, match="no cluster 'nowhere'"):
        site.fleet().members("nowhere")


def test_a_restart_makes_nobody_young(site: Moto) -> None:
    """LaunchTime moves on with every start; age is counted from the birth."""
    (first, *_) = site.add_cluster()
    fleet = site.fleet()
    again = fleet.restart(first, never)
    assert again.created == first.created


# ---- images


def test_an_instance_is_stale_when_the_templates_default_version_moves_on(site: Moto) -> None:
    (first, *_) = site.add_cluster()
    assert first.image is not None
    assert first.image.stale is False
    assert first.image.built is not None
    newer = site.client.register_image(Name="two", RootDeviceName="/dev/sda1")["ImageId"]
    site.client.create_launch_template_version(
        LaunchTemplateId=site.template, LaunchTemplateData=site.template_data(newer)
    )
    assert {m.image for m in site.fleet().members("c")} == {first.image}, (
        "a version that is not the default makes nobody stale"
    )
    site.client.modify_launch_template(LaunchTemplateId=site.template, DefaultVersion="2")
    image = site.fleet().members("c")[0].image
    assert image is not None
    assert image.stale is True
    assert newer in (image.newest or "")


def test_an_instance_is_stale_when_the_parameter_names_another_image(site: Moto) -> None:
    site.ssm.put_parameter(Name="/images/mysql", Value=site.image, Type="String")
    site.add_cluster(**{TAGS.image_parameter: "/images/mysql"})
    assert [m.image and m.image.stale for m in site.fleet().members("c")] == [False] * 3
    site.ssm.put_parameter(Name="/images/mysql", Value="ami-newer", Type="String", Overwrite=True)
    assert [m.image and m.image.stale for m in site.fleet().members("c")] == [True] * 3


def test_a_parameter_that_is_not_there_makes_staleness_unknown(site: Moto) -> None:
    site.add_cluster(**{TAGS.image_parameter: "/images/none"})
    assert [m.image and m.image.stale for m in site.fleet().members("c")] == [None] * 3


# ---- states


def test_what_is_on_its_way_to_an_end_is_not_dead(site: Moto) -> None:
    (first, *_) = site.add_cluster()
    release = site.machines.end
    import threading

    held = threading.Event()
    site.machines.end = lambda instance, **how: release(instance, **how) and held  # type: ignore[assignment,method-assign,func-returns-value]
    site.client.stop_instances(InstanceIds=[first.id.short])
    fleet = site.fleet()
    assert next(m for m in fleet.members("c") if m.id == first.id).state is InstanceState.RUNNING
    assert fleet.proof_of_death(first) is None
    held.set()
    while fleet.proof_of_death(first) is None:
        pass


def test_one_that_was_quarantined_and_runs_is_a_stranger(site: Moto) -> None:
    """I6: somebody has started it by hand."""
    (first, *_) = site.add_cluster()
    mark = [{"Key": TAGS.quarantined_until, "Value": "2026-01-01T00:00:00+00:00"}]
    site.client.create_tags(Resources=[first.id.short], Tags=mark)
    assert next(m for m in site.fleet().members("c") if m.id == first.id).state is InstanceState.STRANGER


def test_an_id_of_another_provider_is_no_ec2_instance(site: Moto) -> None:
    (first, *_) = site.add_cluster()
    with pytest.raises(UsageError):
        site.fleet().retire(replace(first, id=InstanceId("local", "lab/n1")))


def test_what_ec2_does_not_know_is_not_proved_dead(site: Moto) -> None:
    (first, *_) = site.add_cluster()
    gone = replace(first, id=InstanceId("ec2", f"{REGION}/i-0123456789abcdef0"), address=Address("10.9.9.9", 3306))
    assert site.fleet().proof_of_death(gone) is None
    with pytest.raises(TryAgainError):
        site.fleet().snapshot(gone, "s", never)


def test_without_a_region_nothing_begins(site: Moto) -> None:
    with pytest.raises(UsageError):
        site.fleet(places=())


def test_who_does_not_know_the_labs_key_is_not_served(site: Moto) -> None:
    """The lab runs what is in user data: nobody else on the machine may launch."""
    from reaper.adapters.aws.session import Keys

    place = replace(site.settings.places[0], keys=Keys(access=KEY + "X", secret=KEY))
    with pytest.raises(UsageError, match="credentials"):
        site.fleet(places=(place,)).clusters()


def test_waits_are_bounded() -> None:
    from reaper.adapters.aws.waiting import until

    with pytest.raises(TryAgainError, match="nothing came"):
        until(lambda: None, what="nothing came", within=timedelta(0), every=timedelta(0))
