"""The register of what reaper calls in AWS and on what: one table, from which the IAM document is made.

A call that is added to this package is added here, with the narrowest resource and condition that AWS knows for it
(Service Authorization Reference). Tests compare the table with the code and with what is really called.
"""

from dataclasses import dataclass
from enum import StrEnum


class Need(StrEnum):
    """What a site wants reaper to do. Only what is needed is granted."""

    DISCOVER = "discover"
    SNAPSHOT = "snapshot"
    LAUNCH = "launch"
    KILL = "kill"
    ROUTE53 = "endpoint-route53"
    ELASTIC_IP = "endpoint-elastic-ip"
    SECONDARY_ADDRESS = "endpoint-secondary-address"
    MASTER_TAG = "endpoint-tag"
    SECRETS = "secrets"
    PARAMETERS = "parameters"
    RDS_TOKENS = "rds-tokens"
    GROUPS = "groups"
    ASSUME_ROLES = "assume-roles"


class By(StrEnum):
    """Who uses a permission."""

    CALL = "call"  # reaper calls an operation of that name
    AWS = "aws"  # AWS asks for it while it does something else, or without any call


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of IAM. Its values are names of what a scope knows, such as `clusters`, or plain values."""

    operator: str
    key: str
    values: str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Actions for one need, on resources whose `{names}` a scope fills in; several values make several resources."""

    need: Need
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    by: By = By.CALL


_EC2 = "arn:{partition}:ec2:{regions}:{account}"
HERE = Condition(operator="StringEquals", key="aws:RequestedRegion", values="regions")
_MEMBER = Condition(operator="StringLike", key="aws:ResourceTag/{cluster_tag}", values="clusters")
_MADE_FOR = Condition(operator="StringLike", key="aws:RequestTag/{cluster_tag}", values="clusters")
_GROUP = Condition(operator="StringLike", key="aws:ResourceTag/{group_tag}", values="group_values")
_IN_VPC = Condition(operator="ArnLike", key="ec2:Vpc", values="vpc_arns")
_ANY = ("*",)  # the Describe actions of EC2, Auto Scaling and ELBv2 know no narrower resource

TABLE: tuple[Grant, ...] = (
    Grant(need=Need.DISCOVER, actions=("ec2:DescribeInstances",), resources=_ANY, conditions=(HERE,)),
    # ---- snapshots
    Grant(
        need=Need.SNAPSHOT,
        actions=("ec2:DescribeSnapshots", "ec2:DescribeVolumes"),
        resources=_ANY,
        conditions=(HERE,),
    ),
    Grant(
        need=Need.SNAPSHOT, actions=("ec2:CreateSnapshots",), resources=(f"{_EC2}:instance/*",), conditions=(_MEMBER,)
    ),
    Grant(need=Need.SNAPSHOT, actions=("ec2:CreateSnapshots",), resources=(f"{_EC2}:volume/*",)),
    Grant(
        need=Need.SNAPSHOT,
        actions=("ec2:CreateSnapshots",),
        resources=("arn:{partition}:ec2:{regions}::snapshot/*",),
        conditions=(_MADE_FOR,),
    ),
    Grant(
        need=Need.SNAPSHOT,
        actions=("ec2:CreateTags",),
        resources=("arn:{partition}:ec2:{regions}::snapshot/*",),
        conditions=(Condition(operator="StringEquals", key="ec2:CreateAction", values=("CreateSnapshots",)),),
    ),
    Grant(
        need=Need.SNAPSHOT,
        actions=("ec2:DeleteSnapshot",),
        resources=("arn:{partition}:ec2:{regions}::snapshot/*",),
        conditions=(_MEMBER,),
    ),
    # ---- launches
    Grant(
        need=Need.LAUNCH,
        actions=("ec2:DescribeImages", "ec2:DescribeLaunchTemplateVersions"),
        resources=_ANY,
        conditions=(HERE,),
    ),
    Grant(
        need=Need.LAUNCH,
        actions=("ec2:RunInstances",),
        resources=(f"{_EC2}:instance/*", f"{_EC2}:volume/*"),
        conditions=(_MADE_FOR,),
    ),
    Grant(
        need=Need.LAUNCH,
        actions=("ec2:RunInstances",),
        resources=(
            "arn:{partition}:ec2:{regions}::image/*",
            "arn:{partition}:ec2:{regions}::snapshot/*",
            f"{_EC2}:key-pair/*",
            f"{_EC2}:launch-template/*",
            f"{_EC2}:network-interface/*",
            f"{_EC2}:security-group/*",
            f"{_EC2}:subnet/*",
        ),
    ),
    Grant(
        need=Need.LAUNCH,
        actions=("ec2:CreateTags",),
        resources=(f"{_EC2}:instance/*", f"{_EC2}:volume/*", f"{_EC2}:network-interface/*"),
        conditions=(Condition(operator="StringEquals", key="ec2:CreateAction", values=("RunInstances",)),),
    ),
    Grant(
        need=Need.LAUNCH,
        actions=("iam:PassRole",),
        resources=("{passed_roles}",),
        conditions=(Condition(operator="StringEquals", key="iam:PassedToService", values=("ec2.amazonaws.com",)),),
        by=By.AWS,
    ),
    Grant(
        need=Need.LAUNCH,
        actions=("ec2:StartInstances", "ec2:StopInstances"),
        resources=(f"{_EC2}:instance/*",),
        conditions=(_MEMBER,),
    ),
    Grant(
        need=Need.LAUNCH,
        actions=("ssm:GetParameter", "ssm:PutParameter", "ssm:DeleteParameter"),
        resources=("arn:{partition}:ssm:{regions}:{account}:parameter{counters}/*",),
    ),
    Grant(
        need=Need.LAUNCH,
        actions=("ssm:GetParameter",),
        resources=("arn:{partition}:ssm:{regions}:*:parameter{image_parameters}",),
    ),
    # ---- kills, their proof, quarantine and what is left to delete
    Grant(
        need=Need.KILL,
        actions=("ec2:DescribeInstanceAttribute", "ec2:DescribeSecurityGroups"),
        resources=_ANY,
        conditions=(HERE,),
    ),
    Grant(
        need=Need.KILL,
        actions=("ec2:StopInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:DeleteTags"),
        resources=(f"{_EC2}:instance/*",),
        conditions=(_MEMBER,),
    ),
    Grant(
        need=Need.KILL,
        actions=("ec2:ModifyInstanceAttribute",),
        resources=(f"{_EC2}:instance/*",),
        conditions=(_MEMBER,),
    ),
    Grant(need=Need.KILL, actions=("ec2:ModifyInstanceAttribute",), resources=(f"{_EC2}:security-group/*",)),
    Grant(
        need=Need.KILL,
        actions=("ec2:DeleteVolume", "ec2:CreateTags"),
        resources=(f"{_EC2}:volume/*",),
        conditions=(_MEMBER,),
    ),
    # ---- endpoints
    Grant(
        need=Need.ROUTE53,
        actions=("route53:ListResourceRecordSets",),
        resources=("arn:{partition}:route53:::hostedzone/{zones}",),
    ),
    Grant(
        need=Need.ROUTE53,
        actions=("route53:ChangeResourceRecordSets",),
        resources=("arn:{partition}:route53:::hostedzone/{zones}",),
        conditions=(
            Condition(
                operator="ForAllValues:StringLike",
                key="route53:ChangeResourceRecordSetsNormalizedRecordNames",
                values="record_names",
            ),
        ),
    ),
    Grant(need=Need.ROUTE53, actions=("route53:GetChange",), resources=("arn:{partition}:route53:::change/*",)),
    Grant(
        need=Need.ELASTIC_IP,
        actions=("ec2:DescribeAddresses", "ec2:DescribeNetworkInterfaces"),
        resources=_ANY,
        conditions=(HERE,),
    ),
    Grant(
        need=Need.ELASTIC_IP,
        actions=("ec2:AssociateAddress", "ec2:DisassociateAddress"),
        resources=(f"{_EC2}:elastic-ip/{{allocations}}",),
    ),
    Grant(
        need=Need.ELASTIC_IP,
        actions=("ec2:AssociateAddress", "ec2:DisassociateAddress"),
        resources=(f"{_EC2}:network-interface/*",),
        conditions=(_IN_VPC,),
    ),
    Grant(
        need=Need.SECONDARY_ADDRESS,
        actions=("ec2:DescribeNetworkInterfaces",),
        resources=_ANY,
        conditions=(HERE,),
    ),
    Grant(
        need=Need.SECONDARY_ADDRESS,
        actions=("ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"),
        resources=(f"{_EC2}:network-interface/*",),
        conditions=(_IN_VPC,),
    ),
    Grant(need=Need.MASTER_TAG, actions=("ec2:DescribeInstances",), resources=_ANY, conditions=(HERE,)),
    Grant(
        need=Need.MASTER_TAG,
        actions=("ec2:CreateTags", "ec2:DeleteTags"),
        resources=(f"{_EC2}:instance/*",),
        conditions=(
            _MEMBER,
            Condition(operator="ForAllValues:StringEquals", key="aws:TagKeys", values="master_tags"),
        ),
    ),
    # ---- credentials of the databases
    Grant(
        need=Need.SECRETS,
        actions=("secretsmanager:GetSecretValue",),
        # AWS appends a dash and six characters to a secret's name.
        resources=("arn:{partition}:secretsmanager:{regions}:{account}:secret:{secrets}-??????",),
    ),
    Grant(
        need=Need.PARAMETERS,
        actions=("ssm:GetParameter",),
        resources=("arn:{partition}:ssm:{regions}:{account}:parameter{parameters}",),
    ),
    Grant(need=Need.SECRETS, actions=("kms:Decrypt",), resources=("{kms_keys}",), by=By.AWS),
    Grant(need=Need.PARAMETERS, actions=("kms:Decrypt",), resources=("{kms_keys}",), by=By.AWS),
    Grant(
        need=Need.RDS_TOKENS,
        actions=("rds-db:connect",),
        resources=("arn:{partition}:rds-db:{regions}:{account}:dbuser:*/{db_users}",),
        by=By.AWS,
    ),
    # ---- Auto Scaling groups
    Grant(
        need=Need.GROUPS,
        actions=(
            "autoscaling:DescribeAutoScalingGroups",
            "autoscaling:DescribeInstanceRefreshes",
            "autoscaling:DescribeLaunchConfigurations",
            "autoscaling:DescribeLifecycleHooks",
            "ec2:DescribeInstances",
            "ec2:DescribeLaunchTemplateVersions",
            "elasticloadbalancing:DescribeTargetGroupAttributes",
            "elasticloadbalancing:DescribeTargetHealth",
        ),
        resources=_ANY,
        conditions=(HERE,),
    ),
    Grant(
        need=Need.GROUPS,
        actions=("autoscaling:TerminateInstanceInAutoScalingGroup",),
        resources=("arn:{partition}:autoscaling:{regions}:{account}:autoScalingGroup:*:autoScalingGroupName/*",),
        conditions=(_GROUP,),
    ),
    Grant(
        need=Need.GROUPS,
        actions=("elasticloadbalancing:DeregisterTargets", "elasticloadbalancing:RegisterTargets"),
        resources=("arn:{partition}:elasticloadbalancing:{regions}:{account}:targetgroup/{target_groups}/*",),
    ),
    Grant(need=Need.ASSUME_ROLES, actions=("sts:AssumeRole",), resources=("{assumed_roles}",), by=By.AWS),
)
