"""`reaper iam-policy`: what reaper's role has to be allowed, no more."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from reaper.domain.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from reaper.adapters.aws.iam import Scope
    from reaper.adapters.aws.registers import Need
    from reaper.cli.cloud_settings import AccountSection, Ec2Config
    from reaper.domain.standing import StandingPolicy

_ACCOUNT = re.compile(r"[0-9]{12}")
_ROLE = re.compile(r"arn:([a-z-]+):iam::([0-9]{12}):role/.+")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("iam-policy")(iam_policy_command)


def iam_policy_command(
    policy: Annotated[str | None, typer.Option(help="For this policy only; all of them if left out.")] = None,
    account: Annotated[
        str | None, typer.Option(help="The account's number; otherwise STS is asked who reaper is here.")
    ] = None,
    pass_role: Annotated[
        list[str] | None,
        typer.Option(help="ARN of the role in the launch template's instance profile, if it has one; may be repeated."),
    ] = None,
    image_parameter: Annotated[
        list[str] | None,
        typer.Option(help="Path of an SSM parameter that holds the newest image, if there are such; may be repeated."),
    ] = None,
    target_group: Annotated[
        list[str] | None,
        typer.Option(help="Name of a target group that groups register with, or a glob; all of them if left out."),
    ] = None,
    kms_key: Annotated[
        list[str] | None, typer.Option(help="ARN of a key of your own that encrypts secrets; may be repeated.")
    ] = None,
) -> None:
    """Print the IAM document that the policies and the settings need, scoped by tags and names."""
    from reaper.adapters.aws.iam import iam_policy
    from reaper.cli.compose import site

    config = site().settings.ec2
    if config is None:
        raise UsageError("there is no `ec2:` in reaper.yaml: without it reaper calls nothing in AWS")
    policies = _policies(policy)
    if not policies:
        sys.stderr.write("there is no policy yet: this is what `rotate` and `kill` by hand need, on every cluster\n")
    needs = frozenset(_needs(config, policies))
    scope = replace(
        _scope(config, policies, _account_of(config, account)),
        passed_roles=tuple(pass_role or ()),
        image_parameters=tuple(image_parameter or ()),
        target_groups=tuple(target_group or ("*",)),
        kms_keys=tuple(kms_key or ()),
    )
    sys.stdout.write(json.dumps(iam_policy(needs, scope), indent=2) + "\n")


def _policies(name: str | None) -> list["StandingPolicy"]:
    from reaper.cli.policies import load_policies, policies_directory

    if name is None and not any(policies_directory().glob("*.y*ml")):
        return []
    loaded = load_policies(None, datetime.now(UTC))
    if loaded.mistakes:
        raise UsageError("\n        ".join(("policies have mistakes:", *map(str, loaded.mistakes))))
    there = [policy for _, policy in loaded.policies]
    found = [p for p in there if name in (None, p.name)]
    if name is not None and not found:
        known = ", ".join(sorted(p.name for p in there)) or "none"
        raise UsageError(f"there is no policy {name!r}; there are: {known}")
    return [p for p in found if p.target.provider in (None, "ec2", "asg")]


def _needs(config: "Ec2Config", policies: list["StandingPolicy"]) -> Iterator["Need"]:
    from reaper.adapters.aws.registers import Need
    from reaper.cli.cloud_settings import (
        ElasticIpSection,
        HookSection,
        MasterTagSection,
        Route53Section,
        SecondaryAddressSection,
    )
    from reaper.domain.plan import Replacement
    from reaper.domain.standing import What

    if any(place.role for place in config.settings.places):
        yield Need.ASSUME_ROLES
    if any(p.replace.what is What.INSTANCE for p in policies):
        yield Need.GROUPS
    of_clusters = [p for p in policies if p.replace.what is not What.INSTANCE]
    if policies and not of_clusters:
        return
    yield from (Need.DISCOVER, Need.KILL)
    if not policies or any(p.replace.when is not Replacement.NONE for p in of_clusters):
        yield from (Need.SNAPSHOT, Need.LAUNCH)
    for endpoint in config.endpoints:
        match endpoint.door:
            case Route53Section():
                yield Need.ROUTE53
            case ElasticIpSection():
                yield Need.ELASTIC_IP
            case SecondaryAddressSection():
                yield Need.SECONDARY_ADDRESS
            case MasterTagSection():
                yield Need.MASTER_TAG
            case HookSection():
                pass
    for said in _accounts(config):
        if said.secret is not None:
            yield Need.SECRETS
        if said.parameter is not None:
            yield Need.PARAMETERS
        if said.rds_token:
            yield Need.RDS_TOKENS


def _accounts(config: "Ec2Config") -> tuple["AccountSection", ...]:
    return (config.accounts.admin, config.accounts.replication, config.accounts.application)


def _scope(config: "Ec2Config", policies: list["StandingPolicy"], account: str) -> "Scope":
    from reaper.adapters.aws.iam import Scope
    from reaper.cli.cloud_settings import ElasticIpSection, MasterTagSection, Route53Section, SecondaryAddressSection
    from reaper.domain.standing import What

    settings, accounts, doors = config.settings, _accounts(config), [e.of("*") for e in config.endpoints]
    records = [d for d in doors if isinstance(d, Route53Section)]
    addresses = [d for d in doors if isinstance(d, ElasticIpSection)]
    seconds = [d for d in doors if isinstance(d, SecondaryAddressSection)]
    globs = [glob for p in policies if p.replace.what is not What.INSTANCE for glob in p.target.names or ("*",)]
    regions = _sorted(place.region for place in settings.places)
    return Scope(
        account=account,
        regions=regions,
        partition=_partition(regions),
        cluster_tag=settings.tags.cluster,
        clusters=_sorted(map(_for_iam, globs)) or ("*",),
        group_tag=settings.tags.group,
        zones=_sorted(d.zone for d in records),
        record_names=_sorted(d.name.rstrip(".").lower() for d in records),
        allocations=_sorted(d.allocation for d in addresses),
        vpcs=_sorted([*(d.vpc for d in addresses), *(d.vpc for d in seconds)]),
        master_tags=_sorted(d.name for d in doors if isinstance(d, MasterTagSection)),
        secrets=_sorted(a.secret for a in accounts if a.secret),
        parameters=_sorted("/" + a.parameter.lstrip("/") for a in accounts if a.parameter),
        db_users=_sorted(a.user for a in accounts if a.rds_token and a.user),
        assumed_roles=_sorted(p.role.arn for p in settings.places if p.role),
        counters=settings.counters,
    )


def _sorted(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(found)))


def _for_iam(glob: str) -> str:
    """IAM knows * and ? only; a choice of characters becomes any one character."""
    return re.sub(r"\[[^\]]+\]", "?", glob)


def _partition(regions: tuple[str, ...]) -> str:
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for prefix, name in prefixes.items() if regions and regions[0].startswith(prefix)), "aws")


def _account_of(config: "Ec2Config", named: str | None) -> str:
    """UsageError: it is no number. RefusedError: the places are in several accounts, and none is named."""
    if named is not None:
        if not _ACCOUNT.fullmatch(named):
            raise UsageError(f"--account {named!r} is no account: it has twelve digits")
        return named
    roles = [_ROLE.fullmatch(place.role.arn) for place in config.settings.places if place.role]
    accounts = sorted({match[2] for match in roles if match})
    if len(accounts) > 1:
        raise RefusedError(
            f"the places are in the accounts {', '.join(accounts)}: print a document for each (`--account`)"
        )
    if accounts:
        return accounts[0]
    from reaper.adapters.aws.calls import Calls
    from reaper.adapters.aws.session import Clients
    from reaper.adapters.clock import SystemClock

    sts = Clients(config.settings.places[0]).of("sts", "standard")
    return str(Calls(sts, SystemClock()).ask("get_caller_identity")["Account"])
