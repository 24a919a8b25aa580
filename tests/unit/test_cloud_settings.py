"""`ec2:` of reaper.yaml, and the IAM document that is printed from it: mistakes are sentences, nothing is a secret."""

import json
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reaper.adapters.aws.settings import Template
from reaper.adapters.mysql.replication import ReplicationTls
from reaper.adapters.tls import ServerTls, Verify
from reaper.cli.cloud_settings import Ec2Config, ElasticIpSection, HookSection, Route53Section, listen_of
from reaper.cli.main import app
from reaper.cli.settings import read_settings
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address

SECRET = "s3cret"
LEAST: dict[str, Any] = {
    "places": [{"region": "eu-central-1"}],
    "accounts": {
        "admin": {"secret": "shop/reaper"},
        "replication": {"parameter": "shop/replication", "user": "repl"},
        "application": {"file": "/etc/reaper/application.json"},
    },
}
RECORD = {"route53": {"zone": "Z1", "name": "{cluster}.db.example.com"}}
FULL: dict[str, Any] = LEAST | {
    "places": [
        {"region": "eu-central-1"},
        {"region": "us-east-1", "role": "arn:aws:iam::210987654321:role/reaper", "external_id": "x"},
    ],
    "tags": {"cluster": "team:db"},
    "pace": {"boot_within": "20m"},
    "template": "lt-0abc:7",
    "tls": {"verify": "chain", "ca_file": "/etc/ssl/rds.pem"},
    "replication_tls": {"ca_file": "/etc/mysql/ca.pem"},
    "endpoints": {
        "orders-*": {"elastic_ip": {"allocation": "eipalloc-1", "vpc": "vpc-1", "host": "orders.example.com"}},
        "hooked": {"hook": {"move": ["/bin/move", "{cluster}"], "show": ["/bin/show"], "host": "h", "port": 3307}},
        "*": RECORD,
    },
}


def config_of(directory: Path, said: dict[str, Any]) -> Ec2Config:
    """What `reaper.yaml` with this section means."""
    (directory / "reaper.yaml").write_text(yaml.safe_dump({"ec2": said}, sort_keys=False))
    found = read_settings(directory).ec2
    assert found is not None
    return found


def test_the_least_that_has_to_be_said(tmp_path: Path) -> None:
    config = config_of(tmp_path, LEAST)
    assert [place.region for place in config.settings.places] == ["eu-central-1"]
    assert config.tls == ServerTls(verify=Verify.FULL), "a password is sent to nobody unproved"
    assert "@SERVER_ID@" in (config.settings.user_data or "")
    with pytest.raises(UsageError, match="no endpoint of the ec2 settings fits the cluster orders"):
        config.endpoint_of("orders")


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    config = config_of(tmp_path, FULL)
    assert config.settings.tags.cluster == "team:db"
    assert config.settings.pace.boot_within == timedelta(minutes=20)
    assert config.settings.template == Template(id="lt-0abc", version="7")
    assert config.settings.places[1].role is not None
    assert isinstance(config.endpoint_of("orders-1").of("orders-1"), ElasticIpSection)
    record = config.endpoint_of("users").of("users")
    assert isinstance(record, Route53Section)
    assert listen_of(record) == Address("users.db.example.com", 3306)
    assert config.replication_tls == ReplicationTls(verify=Verify.FULL, ca_file=PurePosixPath("/etc/mysql/ca.pem"))
    hook = config.endpoint_of("hooked").of("hooked")
    assert isinstance(hook, HookSection)
    assert (hook.programs().move, listen_of(hook)) == (("/bin/move", "hooked"), Address("h", 3307))


def changed(**sections: Any) -> dict[str, Any]:
    return LEAST | sections


def account(**said: Any) -> dict[str, Any]:
    return changed(accounts=LEAST["accounts"] | {"admin": said})


WRONG = [
    pytest.param({}, "ec2.places: Field required", id="nothing"),
    pytest.param(changed(places=[]), "ec2.places", id="no place"),
    pytest.param(changed(places=[{"region": "x", "rol": "y"}]), "ec2.places.0.rol: Extra inputs", id="a misspelt key"),
    pytest.param(changed(template="mysql"), "ec2.template", id="a template's name in place of its id"),
    pytest.param(changed(tls=True), "ec2.tls", id="tls: true says nothing of what is verified"),
    pytest.param(changed(initialization_rate=50), "ec2.initialization_rate", id="slower than AWS offers"),
    pytest.param(changed(replication_tls={"verify": "full"}), "ca", id="replicas that verify by no authority"),
    pytest.param(changed(pace={"look_every": "fast"}), "is no duration", id="a pace that is no duration"),
    pytest.param(changed(user_data="/not/there"), "/not/there cannot be read", id="a file that is not there"),
    pytest.param(account(secret="a", file="/b"), "name one place of the password", id="two places of a password"),
    pytest.param(account(user="x"), "here is none", id="no place of a password"),
    pytest.param(account(password=SECRET), "password: Extra inputs", id="the password itself"),
    pytest.param(account(file="b"), "has to be an absolute path", id="a file relative to nobody knows what"),
    pytest.param(account(rds_token=True), "an RDS token is made for a user: name it", id="a token for nobody"),
    pytest.param(changed(endpoints={"*": {}}), "name one kind of endpoint", id="an endpoint of no kind"),
    pytest.param(
        changed(endpoints={"*": RECORD | {"tag": {"name": "a", "value": "b", "host": "c"}}}),
        "here are 2",
        id="an endpoint of two kinds",
    ),
    pytest.param(changed(endpoints={"*": {"route53": {"zone": "Z"}}}), "route53.name: Field required", id="no name"),
]


@pytest.mark.parametrize(("said", "words"), WRONG)
def test_a_mistake_is_a_sentence_that_names_its_place_and_no_secret(
    tmp_path: Path, said: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(tmp_path, said)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_settings_that_are_named_and_not_there_are_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAPER_SETTINGS", str(tmp_path / "other.yaml"))
    with pytest.raises(UsageError, match=r"REAPER_SETTINGS names .*other.yaml, which is not there"):
        read_settings(tmp_path)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"ec2": LEAST}))
    assert read_settings(tmp_path).ec2 is not None


# ---- the IAM document

POLICY = """
name: {name}
target: {{provider: {provider}, clusters: ["{clusters}"]}}
replace: {{when: {when}}}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A REAPER_HOME with everything said, and an empty directory of policies."""
    (tmp_path / "reaper.yaml").write_text(yaml.safe_dump({"ec2": FULL}, sort_keys=False))
    (tmp_path / "policies").mkdir()
    monkeypatch.setenv("REAPER_HOME", str(tmp_path))
    monkeypatch.setenv("REAPER_POLICIES", str(tmp_path / "policies"))
    return tmp_path


def document(*options: str) -> dict[str, Any]:
    """What the command prints."""
    answer = CliRunner().invoke(app, ["iam-policy", "--account", "123456789012", *options], catch_exceptions=False)
    assert answer.exit_code == 0
    printed: dict[str, Any] = json.loads(answer.stdout)
    return printed


def allowed(printed: dict[str, Any]) -> set[str]:
    return {action for statement in printed["Statement"] for action in statement["Action"]}


def write_policy(site: Path, name: str, **said: str) -> None:
    values = {"name": name, "provider": "ec2", "clusters": "shop-*", "when": "before"} | said
    (site / "policies" / f"{name}.yaml").write_text(POLICY.format(**values))


@pytest.mark.usefixtures("site")
def test_without_a_policy_it_is_what_rotations_by_hand_need() -> None:
    printed = document()
    assert {"ec2:RunInstances", "ec2:CreateSnapshots", "route53:ChangeResourceRecordSets"} <= allowed(printed)
    assert "sts:AssumeRole" in allowed(printed)
    assert "rds-db:connect" not in allowed(printed)
    everything = json.dumps(printed)
    assert '"Resource": "*"' not in everything
    assert "aws:ResourceTag/team:db" in everything


def test_a_policy_narrows_it_to_its_clusters_and_to_what_it_does(site: Path) -> None:
    write_policy(site, "rotate", clusters="shop-[ab]*")
    write_policy(site, "game-day", clusters="play-*", when="none")
    write_policy(site, "labs", provider="local", clusters="lab-*")
    assert "shop-?*" in json.dumps(document())
    assert "lab-" not in json.dumps(document())
    game = document("--policy", "game-day")
    assert "ec2:TerminateInstances" in allowed(game)
    assert not {"ec2:RunInstances", "ec2:CreateSnapshots"} & allowed(game)
    assert "shop-" not in json.dumps([s for s in game["Statement"] if "ec2:TerminateInstances" in s["Action"]])


def test_a_policy_of_groups_needs_nothing_of_clusters(site: Path) -> None:
    shipped = Path(__file__).parents[2] / "policies" / "refresh-stateless-groups.yaml"
    (site / "policies" / "web.yaml").write_text(shipped.read_text())
    printed = document("--policy", "refresh-stateless-groups", "--target-group", "web-*")
    assert "autoscaling:TerminateInstanceInAutoScalingGroup" in allowed(printed)
    assert not {"ec2:TerminateInstances", "ec2:RunInstances", "ec2:CreateSnapshots"} & allowed(printed)
    assert "targetgroup/web-*/*" in json.dumps(printed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policy", "nobody", "--account", "123456789012"), "there is no policy 'nobody'; there are: rotate"),
        (("--account", "12"), "it has twelve digits"),
    ],
    ids=["a policy that is not there", "no account number"],
)
def test_a_mistake_of_iam_policy_is_a_sentence(site: Path, options: tuple[str, ...], words: str) -> None:
    write_policy(site, "rotate")
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(app, ["iam-policy", *options], catch_exceptions=False, standalone_mode=False)
