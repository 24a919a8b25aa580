"""Rotations while AWS throttles, fails, and loses answers: they end good, or undone in words and are good then."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from aws_labs import (
    Account,
    AwsLab,
    AwsOneOpen,
    AwsSite,
    AwsWriters,
    assert_as_after_a_rotation,
    assert_nothing_is_left,
    aws_site,
)
from aws_storm import Storm, fair
from labs import Said
from witness import store_of

from reaper.adapters.aws.control_plane import Fate
from reaper.domain.errors import ExitCode
from reaper.domain.verdict import RunState

IN_A_ROW = 3
ATTEMPTS = 3


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsSite]:
    """A REAPER_HOME of the module."""
    with aws_site() as site:
        yield site


@pytest.fixture(scope="module")
def shop(aws: AwsSite) -> AwsLab:
    """One lab for all tests of the module."""
    return aws.make_aws_lab()


@pytest.fixture
def before(shop: AwsLab) -> Account:
    """Everything in EC2 before the test."""
    return Account.of(shop)


@pytest.fixture
def storm(shop: AwsLab) -> Iterator[Storm]:
    """Between reaper and the lab; fair until somebody says otherwise. The test itself looks past it."""
    with Storm(shop.site.exported["AWS_ENDPOINT_URL"]).blowing() as storm:
        yield storm


def in_the_storm(shop: AwsLab, storm: Storm) -> AwsSite:
    """Commands that go through it."""
    return replace(shop.site, exported=shop.site.exported | {"AWS_ENDPOINT_URL": storm.url})


def rotate(shop: AwsLab, storm: Storm) -> Said:
    """A rotation; one that could not be is undone, said in a sentence, and tried again."""
    for _ in range(ATTEMPTS):
        before, members = Account.of(shop), shop.instances
        said = in_the_storm(shop, storm).cli("rotate", shop.name, "--outage-budget", "1m", "--output", "json")
        if said.code == ExitCode.GOOD:
            break
        assert said.code in (ExitCode.TRY_AGAIN, ExitCode.REFUSED), said.all
        assert said.sentence.startswith("reaper: "), said.all
        assert "Traceback" not in said.all
        assert shop.instances == members, "it was undone"
        assert_nothing_is_left(shop, before)
    assert said.code == 0, said.all
    return said


def test_three_rotations_in_a_row_are_good_while_calls_fail_and_are_throttled(shop: AwsLab, storm: Storm) -> None:
    """5 % of the calls are throttled, and 5 % are carried out and answered by an error."""
    dice = random.Random(7)

    def rule(_action: str) -> Fate:
        drawn = dice.random()
        return Fate.THROTTLED if drawn < 0.05 else Fate.LOST if drawn < 0.1 else Fate.SERVED

    storm.rule = rule
    with AwsWriters(shop) as writers, AwsOneOpen(shop) as one:
        for _ in range(IN_A_ROW):
            victim, before = shop.master, Account.of(shop)
            said = rotate(shop, storm)
            assert said.json()["verdict"]["ledger"]["lost"] == []
            assert_as_after_a_rotation(shop, victim, before, writers)
        one.check()
    assert min(storm.failed(Fate.THROTTLED), storm.failed(Fate.LOST)) > 10, storm.calls


def test_a_rotation_is_good_whose_every_kind_of_call_loses_its_first_answer(
    shop: AwsLab, storm: Storm, before: Account
) -> None:
    """E26: what was carried out is found again, and not done twice."""
    heard: set[str] = set()

    def rule(action: str) -> Fate:
        first = action not in heard
        heard.add(action)
        return Fate.LOST if first else Fate.SERVED

    storm.rule = rule
    victim = shop.master
    with AwsWriters(shop) as writers, AwsOneOpen(shop) as one:
        said = in_the_storm(shop, storm).cli("rotate", shop.name, "--outage-budget", "1m", "--output", "json")
        assert said.code == 0, said.all
        one.check()
        assert_as_after_a_rotation(shop, victim, before, writers)
    assert {"CreateSnapshots", "RunInstances", "StopInstances", "AssociateAddress", "TerminateInstances"} <= heard


@pytest.mark.parametrize(
    "action",
    [
        pytest.param("CreateSnapshots", id="while the snapshot is taken"),
        pytest.param("RunInstances", id="while the heir boots"),
        pytest.param("StopInstances", id="from the kill on"),
        pytest.param("AssociateAddress", id="when the address has moved"),
        pytest.param("ModifyInstanceAttribute", id="while the victim is put away"),
        pytest.param("TerminateInstances", id="while the victim is terminated"),
    ],
)
def test_a_rotation_outlasts_a_time_in_which_every_call_is_throttled(
    shop: AwsLab, storm: Storm, before: Account, action: str
) -> None:
    """For some seconds after a call, longer than the library itself repeats."""
    until = 0.0

    def rule(now: str) -> Fate:
        nonlocal until
        if now == action and not until:
            until = time.monotonic() + 8
            return Fate.SERVED
        return Fate.THROTTLED if time.monotonic() < until else Fate.SERVED

    storm.rule = rule
    victim = shop.master
    with AwsWriters(shop) as writers, AwsOneOpen(shop) as one:
        said = in_the_storm(shop, storm).cli("rotate", shop.name, "--outage-budget", "1m", "--output", "json")
        assert storm.failed(Fate.THROTTLED) > 0
        if said.code in (ExitCode.TRY_AGAIN, ExitCode.REFUSED):
            assert store_of(shop.site.home).runs()[0].state in (RunState.UNDONE, RunState.REFUSED)
            assert_nothing_is_left(shop, before)
            storm.rule = fair
            said = rotate(shop, storm)
        assert said.code == 0, said.all
        one.check()
        assert_as_after_a_rotation(shop, victim, before, writers)
