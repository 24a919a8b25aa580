"""I8 on the AWS lab: reaper is killed -9 at every step, and its run ends as an uninterrupted one or is undone.

Between two effects, and between what AWS was asked for and the record of it: what was made is found again, not made
twice, and nothing of it is left.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from aws_labs import (
    Account,
    AwsLab,
    AwsOneOpen,
    AwsSite,
    AwsWriters,
    Moment,
    assert_as_after_a_rotation,
    assert_nothing_is_left,
    assert_sound,
    aws_site,
)
from labs import Said
from witness import store_of

from reaper.domain.errors import ExitCode
from reaper.domain.verdict import RunState

_AWS = "reaper.adapters.aws"
_FLEET = f"{_AWS}.ec2:Ec2Fleet"
_SERVER = "reaper.adapters.mysql.server:SqlServer"


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsSite]:
    """A REAPER_HOME of the module."""
    with aws_site() as site:
        yield site


@pytest.fixture(scope="module")
def shop(aws: AwsSite) -> AwsLab:
    """One lab for all tests of the module: each leaves a sound cluster of three."""
    return aws.make_aws_lab()


@pytest.fixture
def before(shop: AwsLab) -> Account:
    """Everything in EC2 before the test."""
    return Account.of(shop)


def cut(shop: AwsLab, moment: Moment, *command: str) -> None:
    """A command whose process is killed at a moment."""
    said = replace(shop.site, program=moment.program(sys.executable)).cli(*command)
    assert said.code == -9, f"{moment} was not reached: {said.all}"


def newest(shop: AwsLab) -> str:
    """The run that was begun last."""
    return store_of(shop.site.home).runs()[0].run


@contextmanager
def under_load(shop: AwsLab) -> Iterator[AwsWriters]:
    """An application writes, and never do two servers accept writes at once."""
    with AwsWriters(shop) as writers, AwsOneOpen(shop) as one:
        yield writers
        one.check()


def finished(shop: AwsLab, said: Said) -> None:
    """Good, but for the outage: it counts the time in which there was no reaper."""
    assert said.code in (ExitCode.GOOD, ExitCode.BAD_VERDICT), said.all
    verdict = said.json()["verdict"]
    assert [fault for fault in verdict["faults"] if "exceeds the budget" not in fault] == []
    assert verdict["ledger"]["lost"] == []
    assert shop.master == verdict["heir"].rpartition("/")[2]


# ---- before the kill

PREPARING = {
    "before the snapshot is asked for": Moment("before", f"{_AWS}.volumes:Volumes._ask"),
    "before its answer is read": Moment("after", f"{_AWS}.volumes:Volumes._ask"),
    "before the snapshot is recorded": Moment("after", f"{_FLEET}.snapshot"),
    "before the answer of RunInstances is used": Moment("before", f"{_AWS}.launching:Launching._appears"),
    "before the snapshot is forgotten": Moment("before", f"{_FLEET}.forget"),
    "before the launch is recorded": Moment("after", f"{_FLEET}.launch"),
    "before the joining is recorded": Moment("after", f"{_SERVER}.join"),
    "while the heir is stopped for its restart": Moment("after", f"{_AWS}.launching:Launching.stop"),
    "before the restart is recorded": Moment("after", f"{_FLEET}.restart"),
    "in the middle of the comparison": Moment("after", "reaper.adapters.mysql.compare:SqlComparer.compare"),
    "in the middle of the rehearsal": Moment("after", f"{_SERVER}.rehearse"),
    "while the probe writes": Moment("after", "reaper.cli.compose:Site.start_probe"),
    "when the trigger is aimed": Moment("after", f"{_FLEET}.aim"),
}


def test_I8_a_reaper_that_is_killed_at_every_step_of_the_preparation_goes_on_each_time(
    shop: AwsLab, before: Account
) -> None:
    """One run, followed by one process after the other."""
    victim = shop.master
    first, *others = PREPARING.values()
    with under_load(shop) as writers:
        cut(shop, first, "rotate", shop.name)
        run = newest(shop)
        for moment in others:
            cut(shop, moment, "resume", run)
        said = shop.site.cli("resume", run, "--output", "json")
        assert said.code == 0, said.all
        finished(shop, said)
        assert newest(shop) == run
        assert_as_after_a_rotation(shop, victim, before, writers)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment("before", f"{_AWS}.launching:Launching._appears"), id="when the heir was launched"),
        pytest.param(Moment("after", f"{_FLEET}.aim"), id="when the trigger is aimed"),
    ],
)
def test_I8_I9_a_killed_reaper_whose_run_is_aborted_leaves_the_account_as_it_was(
    shop: AwsLab, before: Account, moment: Moment
) -> None:
    master, members = shop.master, set(shop.instances)
    with under_load(shop):
        cut(shop, moment, "rotate", shop.name)
        run = newest(shop)
        assert shop.site.cli("abort", run).code == 0
        said = shop.site.cli("resume", run)
    assert said.code == ExitCode.INTERRUPTED, said.all
    assert store_of(shop.site.home).run(run).state is RunState.UNDONE
    assert (shop.master, set(shop.instances)) == (master, members)
    assert_nothing_is_left(shop, before)
    assert_sound(shop)


# ---- the cutover


@pytest.mark.parametrize(
    ("mode", "moment"),
    [
        pytest.param("crash", Moment("before", f"{_AWS}.fencing:Aimed.crash"), id="right before the kill"),
        pytest.param("crash", Moment("after", f"{_AWS}.fencing:Aimed.crash"), id="killed"),
        pytest.param("crash", Moment("after", f"{_SERVER}.promote"), id="promoted, before the endpoint moves"),
        pytest.param("crash", Moment("after", f"{_AWS}.endpoints:ElasticIp.move"), id="when the address has moved"),
        pytest.param("freeze", Moment("before", f"{_AWS}.fencing:Fences._put_into"), id="frozen on paper only"),
        pytest.param("freeze", Moment("after", f"{_AWS}.fencing:Aimed.freeze"), id="frozen and not dead"),
    ],
)
def test_I8_a_reaper_that_is_killed_during_the_cutover_finishes_forward(
    shop: AwsLab, before: Account, mode: str, moment: Moment
) -> None:
    victim = shop.master
    with under_load(shop) as writers:
        cut(shop, moment, "rotate", shop.name, "--mode", mode)
        finished(shop, shop.site.cli("resume", newest(shop), "--output", "json"))
        assert_as_after_a_rotation(shop, victim, before, writers)


# ---- the retirement

RETIRING = {
    "before the victim is put away": Moment("before", f"{_FLEET}.quarantine"),
    "when it is marked and not cut off": Moment("before", f"{_AWS}.fencing:Fences.isolate"),
    "when it is put away": Moment("after", f"{_FLEET}.quarantine"),
    "before it is terminated": Moment("before", f"{_AWS}.launching:Launching.terminate"),
    "when it is terminated": Moment("after", f"{_AWS}.launching:Launching.terminate"),
    "before the rows are deleted": Moment("before", f"{_SERVER}.drop_probe_table"),
}


def test_I8_a_reaper_that_is_killed_at_every_step_of_the_retirement_goes_on_each_time(
    shop: AwsLab, before: Account
) -> None:
    victim = shop.master
    with under_load(shop) as writers:
        cut(shop, Moment("after", "reaper.workflow.aftermath:Aftermath.settle"), "rotate", shop.name)
        run = newest(shop)
        for moment in RETIRING.values():
            cut(shop, moment, "resume", run)
        finished(shop, shop.site.cli("resume", run, "--output", "json"))
        assert_as_after_a_rotation(shop, victim, before, writers)
