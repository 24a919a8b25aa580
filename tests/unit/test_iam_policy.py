"""The IAM document: nothing else is called, nothing in it is unused, and everything in it is scoped."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aws_moto
import boto3
import pytest
import requests
from aws_moto import InstantClock, Moto

import reaper.adapters.aws as package
from reaper.adapters.aws.asg import AutoScalingGroups
from reaper.adapters.aws.calls import Calls
from reaper.adapters.aws.credentials import ParameterSource, RdsTokenSource, SecretSource
from reaper.adapters.aws.endpoints import ElasticIp, MasterTag, Route53Record, SecondaryAddress
from reaper.adapters.aws.iam import Scope, actions, iam_policy
from reaper.adapters.aws.registers import TABLE, By, Need
from reaper.adapters.doors import Door, DoorEndpoint
from reaper.adapters.tls import ServerTls
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address, InstanceId

SCOPE = Scope(
    account="123456789012",
    regions=("eu-west-1", "eu-central-1"),
    clusters=("shop-*",),
    target_groups=("web-*",),
    zones=("Z1",),
    record_names=("db.shop.example",),
    allocations=("eipalloc-1",),
    vpcs=("vpc-1",),
    master_tags=("role",),
    secrets=("shop/db",),
    parameters=("/shop/db",),
    kms_keys=("arn:aws:kms:eu-west-1:123456789012:key/k-1",),
    db_users=("reaper",),
    passed_roles=("arn:aws:iam::123456789012:role/mysql",),
    assumed_roles=("arn:aws:iam::210987654321:role/reaper",),
    image_parameters=("/images/mysql",),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Moto]:
    with aws_moto.running() as moto:
        yield moto


@pytest.fixture
def moto(server: Moto) -> Iterator[Moto]:
    aws_moto.reset(server)
    with aws_moto.strict_route53(), aws_moto.strict_addresses():
        yield server


# ---- the code paths of each need

Clients = Callable[[str], Any]  # a service's client, with the credentials that the test is about
Path_ = Callable[[Clients], None]


def _instances(moto: Moto, count: int) -> list[dict[str, Any]]:
    tags = [{"Key": "reaper:cluster", "Value": "shop-1"}]
    made = moto.client("ec2").run_instances(
        ImageId="ami-12c6146b",
        MinCount=count,
        MaxCount=count,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    return list(made["Instances"])


def _there_and_back(door: Door, moto: Moto, members: list[dict[str, Any]]) -> None:
    one, two = (Address(m["PrivateIpAddress"], 3306) for m in members)
    for to, expected in ((one, None), (two, one), (one, two)):
        DoorEndpoint(door, Address("db.shop.example", 3306), InstantClock()).route(to, expected)
    assert moto.recorder.actions


def _route53(moto: Moto) -> Path_:
    zone = moto.client("route53").create_hosted_zone(Name="shop.example", CallerReference="1")["HostedZone"]["Id"]
    members, clock = _instances(moto, 2), InstantClock()
    return lambda client: _there_and_back(
        Route53Record(
            Calls(client("route53"), clock),
            clock,
            zone=zone.rsplit("/", 1)[-1],
            listen=Address("db.shop.example", 3306),
            ttl=timedelta(seconds=5),
        ),
        moto,
        members,
    )


def _elastic(moto: Moto) -> Path_:
    allocation, members = moto.client("ec2").allocate_address(Domain="vpc")["AllocationId"], _instances(moto, 2)
    return lambda client: _there_and_back(
        ElasticIp(Calls(client("ec2"), InstantClock()), allocation=allocation, port=3306, vpc=members[0]["VpcId"]),
        moto,
        members,
    )


def _secondary(moto: Moto) -> Path_:
    members = _instances(moto, 2)
    return lambda client: _there_and_back(
        SecondaryAddress(
            Calls(client("ec2"), InstantClock()), address="172.31.0.200", port=3306, vpc=members[0]["VpcId"]
        ),
        moto,
        members,
    )


def _tag(moto: Moto) -> Path_:
    members = _instances(moto, 2)
    return lambda client: _there_and_back(
        MasterTag(
            Calls(client("ec2"), InstantClock()), cluster=("reaper:cluster", "shop-1"), tag=("role", "w"), port=3306
        ),
        moto,
        members,
    )


def _secret(moto: Moto) -> Path_:
    moto.client("secretsmanager").create_secret(Name="shop/db", SecretString="x")
    return lambda client: _reads(
        SecretSource(calls=Calls(client("secretsmanager"), InstantClock()), secret="shop/db", user="r")
    )


def _parameter(moto: Moto) -> Path_:
    moto.client("ssm").put_parameter(Name="/shop/db", Value="x", Type="SecureString")
    return lambda client: _reads(
        ParameterSource(calls=Calls(client("ssm"), InstantClock()), parameter="/shop/db", user="r")
    )


def _reads(source: SecretSource | ParameterSource) -> None:
    assert source.login().password == "x"


def _token(_moto: Moto) -> Path_:
    def sign(client: Clients) -> None:
        assert RdsTokenSource(client=client("rds"), address=Address("db", 3306), user="r", tls=ServerTls()).login()

    return sign


def _groups(moto: Moto) -> Path_:
    ec2, asg = moto.client("ec2"), moto.client("autoscaling")
    vpc, subnet = ec2.describe_vpcs()["Vpcs"][0]["VpcId"], ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    target = moto.client("elbv2").create_target_group(Name="web-1", Protocol="HTTP", Port=80, VpcId=vpc)
    template = ec2.create_launch_template(LaunchTemplateName="web", LaunchTemplateData={"ImageId": "ami-12c6146b"})
    asg.create_launch_configuration(LaunchConfigurationName="old", ImageId="ami-12c6146b", InstanceType="t3.micro")
    common = {"MinSize": 0, "MaxSize": 4, "DesiredCapacity": 2, "VPCZoneIdentifier": subnet}
    tags = [{"Key": "reaper:group", "Value": "yes", "PropagateAtLaunch": False}]
    asg.create_auto_scaling_group(
        AutoScalingGroupName="web",
        LaunchTemplate={"LaunchTemplateId": template["LaunchTemplate"]["LaunchTemplateId"], "Version": "$Default"},
        TargetGroupARNs=[target["TargetGroups"][0]["TargetGroupArn"]],
        Tags=tags,
        **common,
    )
    asg.create_auto_scaling_group(AutoScalingGroupName="old", LaunchConfigurationName="old", Tags=tags, **common)

    def use(client: Clients) -> None:
        clock = InstantClock()
        calls = {name: Calls(client(name), clock) for name in ("autoscaling", "elbv2", "ec2")}
        groups = AutoScalingGroups(**calls, clock=clock, tag=("reaper:group", "yes"))  # type: ignore[arg-type]  # by name
        assert groups.names() == ("old", "web")
        groups.view("old")
        victim: InstanceId = groups.view("web").members[0].id
        groups.drain("web", victim)
        groups.undrain("web", victim)
        groups.terminate("web", victim)

    return use


PATHS: dict[Need, Callable[[Moto], Path_]] = {
    Need.ROUTE53: _route53,
    Need.ELASTIC_IP: _elastic,
    Need.SECONDARY_ADDRESS: _secondary,
    Need.MASTER_TAG: _tag,
    Need.SECRETS: _secret,
    Need.PARAMETERS: _parameter,
    Need.RDS_TOKENS: _token,
    Need.GROUPS: _groups,
}


@pytest.mark.parametrize("need", list(PATHS))
def test_what_is_called_is_what_the_register_says_no_more_and_no_less(moto: Moto, need: Need) -> None:
    with aws_moto.slow_groups(InstantClock(), []):
        use = PATHS[need](moto)
        moto.recorder.forget()
        use(moto.client)
    assert moto.recorder.actions == actions([need], By.CALL)


def _operations() -> dict[str, set[str]]:
    """The IAM actions that a method of a client may stand for, for every service that the register knows."""
    found: dict[str, set[str]] = {}
    for service in ("ec2", "ssm", "autoscaling", "elbv2", "route53", "secretsmanager"):
        client = boto3.client(service, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
        prefix = client.meta.service_model.signing_name
        for method, operation in client.meta.method_to_api_mapping.items():
            found.setdefault(method, set()).add(f"{prefix}:{operation}")
    return found


LAB = {
    "control_plane.py",
    "gateway.py",
    "gradual.py",
    "hypervisor.py",
    "lab.py",
    "lab_process.py",
    "labbook.py",
    "likeness.py",
}  # talk to moto only


def test_every_operation_that_the_code_names_is_in_the_register_and_the_reverse() -> None:
    """Read from the source, so that a call on a path that no test runs is found as well."""
    operations = _operations()
    named: set[str] = set()
    for path in Path(package.__file__).parent.glob("*.py"):
        if path.name not in LAB:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute):
                    named.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    named.add(node.value)
    registered = actions(Need, By.CALL)
    for method in sorted(named & set(operations)):
        assert operations[method] & registered, f"{method} is called and in no row of the register"
    methods = {action: method for method, found in operations.items() for action in found}
    unused = sorted(action for action in registered if methods[action] not in named)
    assert unused == []


# ---- the document


def _document(*needs: Need, scope: Scope = SCOPE) -> list[dict[str, Any]]:
    said: Any = json.loads(json.dumps(iam_policy(needs, scope)))
    assert said["Version"] == "2012-10-17"
    return list(said["Statement"])


NOT_SCOPED_BY_AWS = re.compile(r"^[a-z0-9]+:Describe")


@pytest.mark.parametrize("need", list(Need))
def test_only_what_aws_cannot_scope_is_granted_on_everything_and_only_in_the_regions(need: Need) -> None:
    for statement in _document(need):
        if "*" in statement["Resource"]:
            assert all(NOT_SCOPED_BY_AWS.match(action) for action in statement["Action"])
            assert statement["Condition"] == {"StringEquals": {"aws:RequestedRegion": list(SCOPE.regions)}}
        assert not any("*" in action for action in statement["Action"])


DESTRUCTIVE = {
    "ec2:TerminateInstances": "aws:ResourceTag/reaper:cluster",
    "ec2:StopInstances": "aws:ResourceTag/reaper:cluster",
    "ec2:DeleteSnapshot": "aws:ResourceTag/reaper:cluster",
    "ec2:DeleteVolume": "aws:ResourceTag/reaper:cluster",
    "ec2:DeleteTags": "aws:ResourceTag/reaper:cluster",
    "autoscaling:TerminateInstanceInAutoScalingGroup": "aws:ResourceTag/reaper:group",
    "iam:PassRole": "iam:PassedToService",
    "route53:ChangeResourceRecordSets": "route53:ChangeResourceRecordSetsNormalizedRecordNames",
}


@pytest.mark.parametrize("action", list(DESTRUCTIVE))
def test_what_destroys_is_allowed_under_its_condition_only(action: str) -> None:
    found = [s for s in _whole() if action in s["Action"]]
    assert found
    for statement in found:
        assert DESTRUCTIVE[action] in {key for block in statement["Condition"].values() for key in block}


def _whole() -> list[dict[str, Any]]:
    return [s for need in Need for s in _document(need)]


def test_tags_are_written_only_at_birth_or_on_members() -> None:
    for statement in (s for s in _whole() if "ec2:CreateTags" in s["Action"]):
        keys = {key for block in statement["Condition"].values() for key in block}
        assert keys & {"ec2:CreateAction", "aws:ResourceTag/reaper:cluster"}


def test_the_resources_are_those_of_the_site() -> None:
    said = json.dumps(_whole())
    for part in (
        "hostedzone/Z1",
        "elastic-ip/eipalloc-1",
        "secret:shop/db-??????",
        "parameter/shop/db",
        "targetgroup/web-*/*",
        "arn:aws:iam::123456789012:role/mysql",
        "arn:aws:ec2:eu-central-1:123456789012:vpc/vpc-1",
        "dbuser:*/reaper",
        '"aws:ResourceTag/reaper:cluster": ["shop-*"]',
    ):
        assert part in said
    assert "{" not in re.sub(r'[{}](?=[\s"\[\]{},:]|$)', "", said)


def test_what_is_not_needed_is_not_granted() -> None:
    assert {a for s in _document(Need.DISCOVER) for a in s["Action"]} == {"ec2:DescribeInstances"}


@pytest.mark.parametrize(
    ("need", "lacks"),
    [
        (n, x)
        for n, xs in (
            (Need.ROUTE53, ("zones", "record_names")),
            (Need.ELASTIC_IP, ("allocations", "vpcs")),
            (Need.SECRETS, ("secrets",)),
            (Need.KILL, ("clusters", "account", "regions")),
        )
        for x in xs
    ],
)
def test_a_need_without_what_scopes_it_is_refused(need: Need, lacks: str) -> None:
    empty: object = "" if lacks == "account" else ()
    with pytest.raises(UsageError, match=f"needs {lacks}"):
        iam_policy([need], replace(SCOPE, **{lacks: empty}))


def test_a_document_that_iam_would_not_take_says_so() -> None:
    long = replace(SCOPE, record_names=tuple(f"db-{n}.shop.example" for n in range(500)))
    with pytest.raises(UsageError, match="a managed policy at most 6144"):
        iam_policy([Need.ROUTE53], long)


def test_every_need_is_in_the_register() -> None:
    assert {grant.need for grant in TABLE} == set(Need)


# ---- enforced by moto, which looks at actions only: resources and conditions are taken out for it


@contextmanager
def _enforced(moto: Moto, without: str | None, *needs: Need) -> Iterator[Clients]:
    """Clients of a user who may do what the document says, except `without`."""
    iam = moto.client("iam")
    iam.create_user(UserName="reaper")
    allowed = sorted({a for s in _document(*needs) for a in s["Action"]} - {without})
    statement = {"Effect": "Allow", "Action": allowed or ["sts:GetCallerIdentity"], "Resource": "*"}
    iam.put_user_policy(
        UserName="reaper",
        PolicyName="reaper",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    key = iam.create_access_key(UserName="reaper")["AccessKey"]

    def client(service: str) -> Any:
        return moto.client(
            service,
            aws_access_key_id=key["AccessKeyId"],
            aws_secret_access_key=key["SecretAccessKey"],
        )

    requests.post(f"{moto.url}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
    try:
        yield client
    finally:
        requests.post(f"{moto.url}/moto-api/reset-auth", data=b"inf", timeout=10).raise_for_status()


# RDS tokens are signed here, nobody is asked. moto's refusals of Route 53 are no answers of Route 53.
ENFORCED = [need for need in PATHS if need not in (Need.RDS_TOKENS, Need.ROUTE53)]


@pytest.mark.parametrize("need", ENFORCED)
def test_a_user_with_the_document_can_do_it_and_without_any_of_its_actions_cannot(moto: Moto, need: Need) -> None:
    with aws_moto.slow_groups(InstantClock(), []):
        use = PATHS[need](moto)
        with _enforced(moto, None, need) as client:
            use(client)
    first = moto.recorder.calls[-1][0]
    aws_moto.reset(moto)
    with aws_moto.slow_groups(InstantClock(), []):
        use = PATHS[need](moto)
        with (
            _enforced(moto, first, need) as client,
            pytest.raises(UsageError, match=r"reaper iam-policy|not authorized to perform"),
        ):
            use(client)
