"""Every named shape of a cluster (E17)."""

import pytest
from builders import channel, gtids, iid, instance, master, replica, silent, trio, view, with_instance

from reaper.domain.facts import InstanceState, Member, Openness
from reaper.planner.shape import MasterWithReplicas, OtherShape, classify, living

SUPPORTED = [
    pytest.param(trio(), "n1", ["n2", "n3"], id="one writable master with two replicas"),
    pytest.param((replica("n2"), master("n1")), "n1", ["n2"], id="whatever the order of the members"),
    pytest.param(
        (*trio(), silent("n9", InstanceState.QUARANTINED)), "n1", ["n2", "n3"], id="a quarantined member is gone"
    ),
    pytest.param(
        (
            master("n4"),
            replica("n2", of="n4"),
            with_instance(silent("n1", InstanceState.QUARANTINED), address=instance("n4").address),
        ),
        "n4",
        ["n2"],
        id="the address of a quarantined member was given to the new master",
    ),
    pytest.param(
        (master("n1"), replica("n2", executed=gtids("0-1-100,0-2-101"))),
        "n1",
        ["n2"],
        id="E01 an errant transaction is not a matter of shape",
    ),
]

REFUSED = [
    pytest.param((), "empty", "no member", id="empty: no members"),
    pytest.param(
        (silent("n1", InstanceState.QUARANTINED),), "empty", "no member", id="empty: only a quarantined member"
    ),
    pytest.param(
        (*trio(), silent("n4", InstanceState.DEAD)),
        "dead member",
        "the process of n4 is gone",
        id="a dead member that nobody quarantined",
    ),
    pytest.param(
        (*trio(), silent("n4", InstanceState.STRANGER)),
        "stranger",
        "did not start runs in the place of n4",
        id="a stranger in a member's place",
    ),
    pytest.param(
        (master("n1"), replica("n2"), silent("n3")),
        "unreachable member",
        "n3 cannot be observed: timed out (unreachable is not dead)",
        id="I10 an unreachable replica",
    ),
    pytest.param(
        (silent("n1"), replica("n2"), replica("n3")),
        "unreachable member",
        "n1 cannot be observed",
        id="I10 an unreachable master is not a dead one",
    ),
    pytest.param(
        (silent("n1", InstanceState.FROZEN, why="its process is frozen"), replica("n2")),
        "unreachable member",
        "its process is frozen",
        id="a frozen master",
    ),
    pytest.param(
        (replica("n1", of="n2", openness=Openness.OPEN), replica("n2", of="n1")),
        "ring",
        "n1 -> n2 -> n1 replicate in a circle",
        id="a ring of two",
    ),
    pytest.param(
        (replica("n1", of="n3"), replica("n2", of="n1"), replica("n3", of="n2")),
        "ring",
        "replicate in a circle",
        id="a ring of three",
    ),
    pytest.param((replica("n1", of="n1"),), "ring", "n1 -> n1", id="a server that replicates from itself"),
    pytest.param(
        (replica("n1", of="n2"), replica("n2", of="n3"), replica("n3", of="n2"), master("n4")),
        "ring",
        "replicate in a circle",
        id="a replica of a ring",
    ),
    pytest.param(
        (master("n1"), replica("n2"), replica("n3", of="n2")),
        "intermediate master",
        "n3 replicates from n2, which is itself a replica",
        id="an intermediate master",
    ),
    pytest.param(
        (master("n1"), master("n2"), replica("n3", channels=(channel("n1"), channel("n2", channel="b")))),
        "several sources",
        "n3 replicates from 127.0.0.1:1, 127.0.0.1:2",
        id="several sources",
    ),
    pytest.param(
        (replica("n1", of="n99", openness=Openness.OPEN), replica("n2")),
        "external upstream",
        "n1 replicates from 127.0.0.1:99, which is not a living member",
        id="the master has an external upstream",
    ),
    pytest.param(
        (silent("n1", InstanceState.QUARANTINED), replica("n2"), replica("n3")),
        "external upstream",
        "n2 replicates from 127.0.0.1:1",
        id="replicas of a quarantined master",
    ),
    pytest.param(
        (master("n1"), replica("n2"), master("n3"), replica("n4", of="n3")),
        "two masters",
        "n1, n3 each have replicas",
        id="two masters, each with replicas",
    ),
    pytest.param(
        (master("n1"), replica("n2"), master("n3")),
        "two masters",
        "n1 and n3 accept writes at the same time",
        id="I2 two open servers",
    ),
    pytest.param(
        (master("n1"), replica("n2", openness=Openness.OPEN)),
        "two masters",
        "n1 and n2 accept writes at the same time",
        id="I2 an open master and an open replica",
    ),
    pytest.param(
        (master("n1"), replica("n2"), master("n3", openness=Openness.READ_ONLY)),
        "detached members",
        "n1, n3 replicate from nobody",
        id="a detached read-only member",
    ),
    pytest.param((master("n1"),), "lone server", "n1 has no replica", id="a lone server"),
    pytest.param(
        (master("n1", openness=Openness.READ_ONLY), replica("n2")),
        "no writable master",
        "n1 is read-only and so is everybody else",
        id="no writable master",
    ),
    pytest.param(
        (master("n1", openness=Openness.SUPER_READ_ONLY), replica("n2", openness=Openness.SUPER_READ_ONLY)),
        "no writable master",
        "n1 is read-only",
        id="super-read-only is not writable",
    ),
    pytest.param(
        (master("n1", openness=Openness.READ_ONLY), replica("n2", openness=Openness.OPEN)),
        "writable replica",
        "n2 is a replica and accepts writes",
        id="a writable replica of a read-only master",
    ),
]


@pytest.mark.parametrize(("members", "head", "followers"), SUPPORTED)
def test_the_supported_shape(members: tuple[Member, ...], head: str, followers: list[str]) -> None:
    shape = classify(view(*members))
    assert isinstance(shape, MasterWithReplicas)
    assert shape.master.instance.id == iid(head)
    assert [m.instance.id.short for m in shape.replicas] == followers


@pytest.mark.parametrize(("members", "name", "why"), REFUSED)
def test_every_other_shape_is_refused_by_name(members: tuple[Member, ...], name: str, why: str) -> None:
    shape = classify(view(*members))
    assert isinstance(shape, OtherShape)
    assert shape.name == name
    assert why in shape.why


def test_the_dead_and_the_quarantined_do_not_live() -> None:
    members = (*trio(), silent("n4", InstanceState.DEAD), silent("n5", InstanceState.QUARANTINED), silent("n6"))
    assert [m.instance.id.short for m in living(view(*members))] == ["n1", "n2", "n3", "n6"]
