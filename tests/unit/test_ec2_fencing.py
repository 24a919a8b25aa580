"""The kill and its proof: EC2's word and a closed port, both, or nothing is proved."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from ec2_moto import TAGS, Moto, never, site

from reaper.adapters.aws.control_plane import Fate
from reaper.adapters.aws.fencing import answers
from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import Address, InstanceState

__all__ = ["site"]

SOON, AT_ONCE = timedelta(seconds=20), timedelta(0)


def group_of(site: Moto, instance: str) -> list[str]:
    described = site.client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    return [g["GroupId"] for g in described["SecurityGroups"]]


def test_E32_a_crash_is_a_power_cut_and_says_so(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    with contextlib.closing(site.fleet().aim(victim)) as trigger:
        trigger.crash()
        proof = trigger.fence(SOON)
    assert proof is not None
    assert "without a shutdown" in proof
    assert site.machines.abrupt[victim.id.short] is True
    (call,) = site.plan.calls("StopInstances")
    assert call["SkipOsShutdown"] == ["true"]


def test_a_terminate_lets_the_system_shut_down(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    trigger = site.fleet().aim(victim)
    trigger.terminate()
    assert "shut down" in (trigger.fence(SOON) or "")
    assert site.machines.abrupt[victim.id.short] is False


def test_a_spot_instance_cannot_be_stopped_and_is_terminated_abruptly(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    from moto.ec2.models import ec2_backends

    region = victim.id.name.partition("/")[0]
    ec2_backends["123456789012"][region].get_instance(victim.id.short).lifecycle = "spot"
    trigger = site.fleet().aim(victim)
    trigger.crash()
    assert "terminated without a shutdown" in (trigger.fence(SOON) or "")
    assert site.machines.abrupt[victim.id.short] is True


@pytest.mark.parametrize("fates", [[Fate.LOST], [Fate.THROTTLED] * 2, [Fate.LOST] * 3])
def test_E26_a_kill_whose_answer_is_lost_kills(site: Moto, fates: list[Fate]) -> None:
    (victim, *_) = site.add_cluster()
    trigger = site.fleet().aim(victim)
    site.plan.fates["StopInstances"] = list(fates)
    trigger.crash()
    assert trigger.fence(SOON)


def test_I4_a_port_that_answers_is_no_proof_whatever_ec2_says(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    fleet = site.fleet()
    trigger = fleet.aim(victim)
    site.machines.immortal.add(victim.address.host)
    trigger.crash()
    assert trigger.fence(timedelta(milliseconds=200)) is None
    assert fleet.proof_of_death(victim) is None
    site.machines.immortal.clear()
    assert trigger.fence(SOON)
    assert fleet.proof_of_death(victim)


def test_I4_a_closed_port_is_no_proof_while_ec2_says_that_it_runs(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    trigger = site.fleet().aim(victim)
    site.machines.running.clear()
    assert trigger.fence(AT_ONCE) is None


def test_an_address_that_was_given_to_another_is_not_the_victims(site: Moto) -> None:
    (victim, *_) = site.add_cluster(nodes=3)
    fleet = site.fleet()
    trigger = fleet.aim(victim)
    trigger.terminate()
    assert trigger.fence(SOON)
    site.machines.immortal.add(victim.address.host)
    assert fleet.proof_of_death(victim) is None
    while victim.address.host not in {
        i.get("PrivateIpAddress")
        for r in site.client.describe_instances()["Reservations"]
        for i in r["Instances"]
        if i["State"]["Name"] == "running"
    }:
        site.client.run_instances(ImageId=site.image, SubnetId=site.subnets[0], MinCount=1, MaxCount=1)
    assert fleet.proof_of_death(victim)


PROTECTIONS = ["DisableApiTermination", "DisableApiStop"]


@pytest.mark.parametrize("attribute", PROTECTIONS)
def test_what_is_protected_is_not_killed(site: Moto, attribute: str) -> None:
    (victim, *_) = site.add_cluster()
    fleet = site.fleet()
    assert fleet.protection(victim) is None
    site.client.modify_instance_attribute(InstanceId=victim.id.short, **{attribute: {"Value": True}})
    assert attribute.lower() in (fleet.protection(victim) or "").lower()
    with pytest.raises(RefusedError, match="protected"):
        fleet.aim(victim)
    assert site.plan.calls("StopInstances") == []


def test_who_has_another_address_is_not_who_was_observed(site: Moto) -> None:
    from dataclasses import replace

    (victim, *_) = site.add_cluster()
    with pytest.raises(RefusedError, match="nothing is killed"):
        site.fleet().aim(replace(victim, address=Address("10.9.9.9", 3306)))


def test_the_frozen_are_silent_alive_and_come_back(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    before = group_of(site, victim.id.short)
    fleet = site.fleet()
    trigger = fleet.aim(victim)
    trigger.freeze()
    assert group_of(site, victim.id.short) == [site.isolated]
    assert trigger.fence(AT_ONCE) is None
    assert next(m for m in fleet.members("c") if m.id == victim.id).state is InstanceState.FROZEN
    with pytest.raises(TryAgainError):
        fleet.restart(victim, never)
    trigger.thaw()
    trigger.thaw()
    assert group_of(site, victim.id.short) == before
    assert next(m for m in fleet.members("c") if m.id == victim.id).state is InstanceState.RUNNING


def test_without_a_group_that_isolates_a_freeze_is_refused(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    site.client.delete_tags(Resources=[site.isolated], Tags=[{"Key": TAGS.isolation}])
    trigger = site.fleet().aim(victim)
    with pytest.raises(RefusedError, match=TAGS.isolation):
        trigger.freeze()


def test_the_quarantined_are_cut_off_so_that_even_who_starts_them_cannot_let_them_in(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    fleet, until = site.fleet(), datetime(2027, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    trigger = fleet.aim(victim)
    trigger.crash()
    assert trigger.fence(SOON)
    fleet.quarantine(victim, until)
    assert group_of(site, victim.id.short) == [site.isolated]
    now = next(m for m in fleet.members("c") if m.id == victim.id)
    assert (now.state, now.quarantined_until) == (InstanceState.QUARANTINED, until)


def test_one_that_was_terminated_is_quarantined_until_it_is_retired(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    fleet = site.fleet()
    trigger = fleet.aim(victim)
    trigger.terminate()
    assert trigger.fence(SOON)
    fleet.quarantine(victim, datetime.now(UTC))
    assert next(m for m in fleet.members("c") if m.id == victim.id).state is InstanceState.QUARANTINED
    fleet.retire(victim)
    assert victim.id not in {m.id for m in fleet.members("c")}


def test_a_protected_instance_is_not_retired(site: Moto) -> None:
    (victim, *_) = site.add_cluster()
    site.client.modify_instance_attribute(InstanceId=victim.id.short, DisableApiTermination={"Value": True})
    with pytest.raises(RefusedError, match="protected"):
        site.fleet().retire(victim)


def test_a_port_that_accepts_and_says_nothing_does_not_answer() -> None:
    """What SIGSTOP leaves of a server: the kernel goes on accepting for it."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not answers(Address("127.0.0.1", listener.getsockname()[1]))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not answers(Address("127.0.0.1", unused.getsockname()[1]))
