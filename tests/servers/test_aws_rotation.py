"""Whole rotations and kills on the AWS lab, under load: nothing is lost, nothing that nobody needs is left in EC2."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aws_labs import (
    Account,
    AwsLab,
    AwsOneOpen,
    AwsSite,
    AwsWriters,
    assert_as_after_a_rotation,
    assert_nothing_is_left,
    assert_sound,
    aws_site,
    tagged,
)
from labs import Said
from test_bad_input import one_sentence
from test_interrupts import running
from witness import events, store_of

from reaper.adapters.local.process import free_port
from reaper.domain.errors import ExitCode
from reaper.domain.verdict import RunState


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


# ---- what processes show to everybody on their machine


class Glimpses:
    """Looks at the command line and the environment of every process of a site, for as long as the block lasts."""

    def __init__(self, home: Path) -> None:
        self._mark = f"REAPER_HOME={home}\0".encode()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.shown: set[bytes] = set()

    def __enter__(self) -> "Glimpses":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            for proc in Path("/proc").iterdir():
                if proc.name.isdigit() and int(proc.name) != os.getpid():
                    with contextlib.suppress(OSError):
                        environment = (proc / "environ").read_bytes() + b"\0"
                        if self._mark in environment:
                            self.shown |= {(proc / "cmdline").read_bytes(), environment}


# ---- a rotation under load


@dataclass(frozen=True)
class Rotated:
    """A rotation, and what was the case before it."""

    victim: str
    zone: str
    server_ids: set[int]
    before: Account
    wanted: str  # the version of the launch template that was the default one when it was planned
    shown: dict[str, Any]  # `reaper show`
    writers: AwsWriters
    glimpses: Glimpses


def _new_default(shop: AwsLab, kind: str) -> str:
    """A new version of the launch template, with another type of instance, is the default one from now on."""
    ec2, template = shop.ec2, shop.book()["template"]
    (first,) = ec2.describe_launch_template_versions(LaunchTemplateId=template, Versions=["1"])[
        "LaunchTemplateVersions"
    ]
    data = first["LaunchTemplateData"] | {"InstanceType": kind}
    made = ec2.create_launch_template_version(LaunchTemplateId=template, LaunchTemplateData=data)
    version = str(made["LaunchTemplateVersion"]["VersionNumber"])
    ec2.modify_launch_template(LaunchTemplateId=template, DefaultVersion=version)
    return version


@pytest.fixture(scope="module")
def rotated(shop: AwsLab) -> Rotated:
    """The first rotation of the lab, under load. The template moves on once more while it is under way."""
    wanted, victim = _new_default(shop, "t3.small"), shop.master
    with AwsWriters(shop) as writers, AwsOneOpen(shop) as one, Glimpses(shop.site.home) as glimpses:
        writers.more()
        members = shop.members()
        with running(shop, "rotate", shop.name) as run:
            run.await_step("snapshot")
            _new_default(shop, "t3.medium")
            before = Account.of(shop)
            assert run.end() == 0, run.said
            shop.site.heard.append(Said(0, "", run.said))
        writers.more()
        one.check()
    record = store_of(shop.site.home).runs()[0]
    shown = shop.site.cli("show", record.run, "--output", "json").json()
    return Rotated(
        victim=victim,
        zone=str(members[victim].zone),
        server_ids={m.server_id for m in members.values()},
        before=replace(before, snapshots=before.snapshots - _taken_by(shop, record.run)),
        wanted=wanted,
        shown=shown,
        writers=writers,
        glimpses=glimpses,
    )


def _taken_by(shop: AwsLab, run: str) -> frozenset[str]:
    """moto keeps the tags of what is deleted."""
    filters = [{"Name": "value", "Values": [f"{run}-snap"]}, {"Name": "key", "Values": ["reaper:snapshot"]}]
    return frozenset(t["ResourceId"] for t in shop.ec2.describe_tags(Filters=filters)["Tags"])


def test_the_verdict_is_good_and_nothing_is_lost(rotated: Rotated) -> None:
    assert rotated.shown["state"] == "good", rotated.shown
    verdict = rotated.shown["verdict"]
    assert verdict["faults"] == []
    assert verdict["ledger"]["lost"] == []
    assert verdict["ledger"]["acknowledged"] > 100
    assert len(rotated.writers.acknowledged) > 100
    assert (verdict["copies_before"], verdict["copies_after"]) == (3, 3)
    assert "stopped without a shutdown of its system" in " ".join(verdict["notes"]), "E32"


def test_the_heir_is_in_the_victims_zone_and_of_the_version_that_the_plan_says(shop: AwsLab, rotated: Rotated) -> None:
    """Not of the one that became the default in between."""
    template = shop.book()["template"]
    assert rotated.shown["plan"]["berth"] == {"zone": rotated.zone, "template": f"{template}:{rotated.wanted}"}
    heir = rotated.shown["verdict"]["heir"].rpartition("/")[2]
    described = shop.described(heir)
    assert described["Placement"]["AvailabilityZone"] == rotated.zone
    assert described["InstanceType"] == "t3.small"
    assert shop.tags(heir)["aws:ec2launchtemplate:version"] == rotated.wanted
    assert shop.members()[heir].server_id not in rotated.server_ids, "E29"


def test_the_elastic_ip_leads_to_the_heir(shop: AwsLab, rotated: Rotated) -> None:
    heir = rotated.shown["verdict"]["heir"].rpartition("/")[2]
    assert shop.master == heir
    (elastic,) = shop.ec2.describe_addresses()["Addresses"]
    assert elastic["InstanceId"] == heir
    assert elastic["PrivateIpAddress"] == shop.members()[heir].address.host


def test_nothing_of_it_is_left_in_ec2_and_nothing_is_lost_on_any_member(shop: AwsLab, rotated: Rotated) -> None:
    """I11: the counter of server ids is the only thing that stays."""
    with AwsWriters(shop) as writers:
        assert_as_after_a_rotation(shop, rotated.victim, rotated.before, writers)
    for instance in shop.instances:
        assert rotated.writers.missing(instance) == set(), instance
    assert shop.state(rotated.victim) == "terminated"
    assert list((shop.directory / "snapshots").iterdir()) == []
    assert rotated.before.fixed["parameters"] == [f"/reaper/server-ids/{shop.name}"]


def test_a_rotation_right_after_it_is_good_too_also_of_one_that_policies_may_not_kill(
    shop: AwsLab, rotated: Rotated
) -> None:
    """The tag reaper:opt-out holds policies off; whoever types the command has decided."""
    assert rotated.shown["state"] == "good"
    victim = shop.master
    with AwsWriters(shop) as writers, AwsOneOpen(shop) as one, tagged(shop, victim, "reaper:opt-out", "yes"):
        before = Account.of(shop)
        said = shop.site.cli("rotate", shop.name, "--output", "json")
        assert said.code == 0, said.all
        assert said.json()["verdict"]["ledger"]["lost"] == []
        one.check()
        assert_as_after_a_rotation(shop, victim, before, writers)


# ---- how it dies


@pytest.mark.parametrize(
    ("mode", "role", "proof"),
    [
        pytest.param("terminate", "master", "is terminated", id="a master that EC2 terminates"),
        pytest.param("freeze", "master", "is stopped", id="a master that is cut off and then stopped"),
        pytest.param("terminate", "replica", "is terminated", id="a replica that EC2 terminates"),
        pytest.param("freeze", "replica", "is stopped", id="a replica that is cut off and then stopped"),
    ],
)
def test_a_victim_is_killed_failed_over_and_replaced(
    shop: AwsLab, before: Account, mode: str, role: str, proof: str
) -> None:
    """The size is restored, and nothing of the victim is left, whatever became of its security groups."""
    victim = shop.master if role == "master" else shop.replicas[0]
    with AwsWriters(shop) as writers, AwsOneOpen(shop) as one:
        said = shop.site.cli("kill", shop.full_name(victim), "--mode", mode, "--yes", "--output", "json")
        assert said.code == 0, said.all
        verdict = said.json()["verdict"]
        assert verdict["ledger"]["lost"] == []
        assert f"EC2 says that {victim} {proof}" in " ".join(verdict["notes"])
        one.check()
        assert_as_after_a_rotation(shop, victim, before, writers)


# ---- quarantine


@pytest.fixture(scope="module")
def quarantined(shop: AwsLab) -> tuple[str, Account]:
    """A victim that is kept for an hour, and what there was before."""
    victim, before = shop.master, Account.of(shop)
    with AwsWriters(shop) as writers:
        said = shop.site.cli("rotate", shop.name, "--quarantine", "1h", "--output", "json")
        assert said.code == 0, said.all
        assert_as_after_a_rotation(shop, victim, before, writers, quarantined=frozenset({victim}))
    return victim, before


def test_a_quarantined_victim_is_stopped_and_cut_off(shop: AwsLab, quarantined: tuple[str, Account]) -> None:
    victim, before = quarantined
    _, isolation = shop.book()["groups"]
    described, tags = shop.described(victim), shop.tags(victim)
    assert described["State"]["Name"] == "stopped"
    assert [g["GroupId"] for g in described["SecurityGroups"]] == [isolation]
    assert tags["reaper:groups"].split() == list(before.groups_of[victim]), "a person may want to look into it"
    kept_for = datetime.fromisoformat(tags["reaper:quarantined-until"]) - datetime.now(UTC)
    assert timedelta(minutes=30) < kept_for < timedelta(hours=1)
    shown = next(m for m in shop.status()["members"] if m["instance"] == shop.full_name(victim))
    assert shown["state"] == "quarantined"


def test_a_quarantined_victim_that_somebody_starts_is_a_stranger_and_reaches_nobody(
    shop: AwsLab, quarantined: tuple[str, Account]
) -> None:
    """I6: it never comes back into the cluster, and a rotation beside it is refused."""
    victim, _ = quarantined
    shop.ec2.start_instances(InstanceIds=[victim])
    shop.ec2.get_waiter("instance_running").wait(InstanceIds=[victim], WaiterConfig={"Delay": 1})
    try:
        said = shop.site.cli("rotate", shop.name, "--dry-run")
        assert said.code == ExitCode.REFUSED, said.all
        assert victim in said.all
    finally:
        shop.ec2.stop_instances(InstanceIds=[victim])
        shop.ec2.get_waiter("instance_stopped").wait(InstanceIds=[victim], WaiterConfig={"Delay": 1})


def test_a_quarantined_victim_is_kept_until_its_time_and_deleted_when_a_person_says_now(
    shop: AwsLab, quarantined: tuple[str, Account]
) -> None:
    victim, before = quarantined
    kept = shop.site.cli("retire", shop.name)
    assert kept.code == 0, kept.all
    assert f"kept {victim} until" in kept.out
    assert shop.state(victim) == "stopped"
    gone = shop.site.cli("retire", shop.name, "--now")
    assert gone.code == 0, gone.all
    assert f"deleted {victim}" in gone.out
    assert shop.state(victim) == "terminated"
    assert_nothing_is_left(shop, before)
    assert_sound(shop)


# ---- protection


@contextlib.contextmanager
def _protected(shop: AwsLab, instance: str, attribute: str) -> Iterator[None]:
    shop.ec2.modify_instance_attribute(InstanceId=instance, **{attribute: {"Value": True}})
    try:
        yield
    finally:
        shop.ec2.modify_instance_attribute(InstanceId=instance, **{attribute: {"Value": False}})


@pytest.mark.parametrize("attribute", ["DisableApiTermination", "DisableApiStop"])
def test_a_protected_victim_is_refused_before_anything_is_built(shop: AwsLab, before: Account, attribute: str) -> None:
    victim = shop.master
    with _protected(shop, victim, attribute):
        refused = [
            shop.site.cli("rotate", shop.name),
            shop.site.cli("kill", shop.full_name(victim), "--yes"),
        ]
    for said in refused:
        one_sentence(said, ExitCode.REFUSED, "protection", victim, attribute[0].lower() + attribute[1:])
    for record in store_of(shop.site.home).runs()[:2]:
        assert record.state is RunState.REFUSED
        assert events(shop.site.home, record.run) == []
    assert Account.of(shop) == before


# ---- secrets

_TALKATIVE = """
import logging
logging.basicConfig(level=logging.DEBUG)
import sqlalchemy  # sets its own level when it is imported
logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
from reaper.cli.main import run
run()
"""
_SERVERS_OWN = ("volumes", "seed", "snapshots", "instances")  # what a server keeps: replicas have to know a password
_CREDENTIALS = ("lab.json", "admin.json", "replication.json", "application.json")  # the lab's own, mode 0600


def _written(home: Path) -> list[Path]:
    """Every file below REAPER_HOME that reaper wrote, and the logs and settings of its servers."""
    found = []
    for path in home.rglob("*"):
        servers = any(part in _SERVERS_OWN for part in path.relative_to(home).parts)
        if path.is_file() and path.name not in _CREDENTIALS and (not servers or path.suffix in (".log", ".cnf")):
            found.append(path)
    return found


def _holding(files: list[Path], secret: str) -> list[str]:
    """Those that hold it. By another process: one that closes SQLite's files lets go of its own locks on them."""
    command = ["xargs", "--null", "grep", "--files-with-matches", "--text", "--fixed-strings", "--file=-", "--"]
    with tempfile.NamedTemporaryFile() as names:
        names.write(b"\0".join(map(os.fsencode, files)))
        names.flush()
        command[1:1] = [f"--arg-file={names.name}"]
        said = subprocess.run(command, input=secret.encode(), capture_output=True, check=False)
    assert said.returncode in (0, 123), said.stderr  # 123: grep found nothing
    assert said.stderr == b""
    return said.stdout.decode().splitlines()


def _assert_nowhere(shop: AwsLab, told: list[Said], glimpses: Glimpses, *, planted: Path) -> None:
    home = shop.site.home
    files = _written(home)
    assert {home / "durable.db", planted} <= set(files)
    assert [f for f in files if f.parent == home / "ledgers"]
    assert [f for f in files if f.name == "error.log"]
    assert len(glimpses.shown) > 4, "no process was seen"
    for account in ("admin", "replication", "application"):
        secret = shop.book()[account]["password"]
        planted.write_text(f"... {secret} ...")
        assert _holding(files, secret) == [str(planted)], f"the password of {account}"
        assert [said for said in told if secret in said.all] == [], f"the password of {account}"
        assert [shown for shown in glimpses.shown if secret.encode() in shown] == [], f"the password of {account}"


@pytest.fixture
def planted(shop: AwsLab) -> Iterator[Path]:
    """A file among reaper's own into which a password is written, so that it is seen that it would be found."""
    path = shop.site.home / "planted"
    path.write_text("")
    yield path
    path.unlink()


def test_no_password_is_shown_or_kept_by_whatever_the_tests_above_have_done(
    shop: AwsLab, rotated: Rotated, planted: Path
) -> None:
    """Plans, verdicts, guards, reports in every form; the store, the ledgers, the logs; what processes show."""
    run = store_of(shop.site.home).runs()[0].run
    for command in (["runs"], ["show", run], ["show", run, "--output", "html"], ["rotate", shop.name, "--dry-run"]):
        assert shop.site.cli(*command).code == 0
    _assert_nowhere(shop, shop.site.heard, rotated.glimpses, planted=planted)


def test_a_secret_of_secrets_manager_is_shown_and_kept_nowhere_however_much_is_logged(
    shop: AwsLab, before: Account, planted: Path, tmp_path: Path
) -> None:
    """With the logs of all libraries at their most talkative: at DEBUG boto's own would show answers."""
    book = shop.book()["admin"]
    text = f'{{"username": "{book["user"]}", "password": "{book["password"]}"}}'
    shop.clients.of("secretsmanager").create_secret(Name="shop/admin", SecretString=text)
    settings = yaml.safe_load(Path(shop.site.exported["REAPER_SETTINGS"]).read_text())
    settings["ec2"]["accounts"]["admin"] = {"secret": "shop/admin"}
    (tmp_path / "reaper.yaml").write_text(yaml.safe_dump(settings))
    exported = shop.site.exported | {"REAPER_SETTINGS": str(tmp_path / "reaper.yaml")}
    talkative = replace(shop.site, program=(sys.executable, "-c", _TALKATIVE), exported=exported, heard=[])
    victim = shop.master
    with AwsWriters(shop) as writers, Glimpses(shop.site.home) as glimpses:
        for command in (["status", shop.name], ["rotate", shop.name, "--dry-run"], ["rotate", shop.name]):
            said = talkative.cli(*command)
            assert said.code == 0, said.all
        run = store_of(shop.site.home).runs()[0].run
        for command in (["show", run], ["show", run, "--output", "json"], ["runs"]):
            assert talkative.cli(*command).code == 0
        assert_as_after_a_rotation(shop, victim, before, writers)
    assert "botocore" in talkative.heard[0].err, "the library logged nothing"
    assert "sqlalchemy.engine" in talkative.heard[2].err
    _assert_nowhere(shop, talkative.heard, glimpses, planted=planted)


# ---- mistakes


def _broken_settings(shop: AwsLab, directory: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    settings = yaml.safe_load(Path(shop.site.exported["REAPER_SETTINGS"]).read_text())
    change(settings["ec2"])
    (directory / "reaper.yaml").write_text(yaml.safe_dump(settings))
    return {"REAPER_SETTINGS": str(directory / "reaper.yaml")}


def test_an_environment_of_a_lab_that_has_gone_is_told_in_a_sentence(shop: AwsLab, tmp_path: Path) -> None:
    stale = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port(set(), near=tmp_path)}"}
    for command in (["status", shop.name], ["rotate", shop.name]):
        one_sentence(shop.site.cli(*command, env=stale), ExitCode.TRY_AGAIN, "AWS gave no answer")
    missing = {"REAPER_SETTINGS": str(tmp_path / "gone.yaml")}
    one_sentence(shop.site.cli("status", shop.name, env=missing), ExitCode.USAGE, "gone.yaml", "not there")
    one_sentence(shop.site.cli("lab", "env", "--name", "gone"), ExitCode.USAGE, "no AWS lab")


def test_a_wrong_key_is_told_in_a_sentence(shop: AwsLab) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "planted-secret-key"}
    for command in (["status", shop.name], ["rotate", shop.name, "--dry-run"], ["adopt", shop.name]):
        said = shop.site.cli(*command, env=wrong)
        one_sentence(said, ExitCode.USAGE, "AuthFailure", "credentials")
        assert "planted-secret-key" not in said.all


def test_a_wrong_password_is_told_in_a_sentence_that_does_not_repeat_it(shop: AwsLab, tmp_path: Path) -> None:
    (tmp_path / "admin.json").write_text('{"username": "reaper", "password": "planted-and-wrong"}')
    (tmp_path / "admin.json").chmod(0o600)
    account = {"file": str(tmp_path / "admin.json")}
    env = _broken_settings(shop, tmp_path, lambda ec2: ec2["accounts"].update(admin=account))
    said = shop.site.cli("rotate", shop.name, env=env)
    one_sentence(said, ExitCode.REFUSED, "Access denied")
    assert "planted-and-wrong" not in said.all


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(["kill", "ec2:eu-central-1/i-0abc", "--yes"], ["i-0abc", "reaper status"], id="no such instance"),
        pytest.param(["kill", "ec2:mars-1/i-0abc", "--yes"], ["i-0abc", "reaper status"], id="in no region of ours"),
        pytest.param(["kill", "ec2:i-0abc", "--yes"], ["'ec2:i-0abc' is no instance", "ec2:"], id="without a region"),
        pytest.param(["kill", "i-0abc", "--yes"], ["'i-0abc' is no instance", "ec2:"], id="without a provider"),
        pytest.param(["rotate", "nobody"], ["no cluster 'nobody' on EC2"], id="no such cluster"),
        pytest.param(["status", "nobody"], ["no cluster 'nobody' on EC2"], id="status of no cluster"),
        pytest.param(["retire", "nobody"], ["no cluster 'nobody' on EC2"], id="retire in no cluster"),
        pytest.param(["adopt", "nobody"], ["nobody"], id="adopt no cluster"),
    ],
)
def test_what_does_not_exist_is_told_in_a_sentence(
    shop: AwsLab, before: Account, command: list[str], words: list[str]
) -> None:
    one_sentence(shop.site.cli(*command), ExitCode.USAGE, *words)
    assert Account.of(shop) == before


def test_a_member_without_the_tag_of_its_server_id_is_told_and_adopted(shop: AwsLab, before: Account) -> None:
    member = shop.replicas[0]
    server_id = shop.tags(member)["reaper:server-id"]
    shop.ec2.delete_tags(Resources=[member], Tags=[{"Key": "reaper:server-id"}])
    for command in (["status", shop.name], ["rotate", shop.name], ["kill", shop.full_name(member), "--yes"]):
        one_sentence(shop.site.cli(*command), ExitCode.USAGE, member, "reaper:server-id", "reaper adopt")
    adopted = shop.site.cli("adopt", shop.name)
    assert adopted.code == 0, adopted.all
    assert f"{shop.full_name(member)}: server id {server_id}" in adopted.out
    assert Account.of(shop) == before
    assert "nothing to do" in shop.site.cli("adopt", shop.name).out
    assert_sound(shop)
