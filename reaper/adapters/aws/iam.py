"""The IAM document that a site's policies need: what the register says, filled in with what the site uses."""

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from reaper.adapters.aws.registers import HERE, TABLE, By, Condition, Grant, Need
from reaper.domain.errors import UsageError
from reaper.workflow.steps import Json

_VERSION = "2012-10-17"  # of the policy language, not of the document
_LONGEST_CHARACTERS = 6144  # of a managed policy without white space (IAM quotas)
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What of AWS the loaded policies and the configuration name. Empty: nothing of the kind is used."""

    account: str
    regions: tuple[str, ...]
    partition: str = "aws"
    cluster_tag: str = "reaper:cluster"
    clusters: tuple[str, ...] = ("*",)  # values of the tag, globs as IAM knows them
    group_tag: str = "reaper:group"
    group_values: tuple[str, ...] = ("*",)
    target_groups: tuple[str, ...] = ()  # names, or globs
    zones: tuple[str, ...] = ()  # ids of hosted zones
    record_names: tuple[str, ...] = ()  # in lower case, without the last dot
    allocations: tuple[str, ...] = ()  # of Elastic IPs
    vpcs: tuple[str, ...] = ()
    master_tags: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()  # names
    parameters: tuple[str, ...] = ()  # paths that begin with a slash
    kms_keys: tuple[str, ...] = ()  # ARNs of the site's own keys; AWS's own need no permission
    db_users: tuple[str, ...] = ()
    passed_roles: tuple[str, ...] = ()  # ARNs of the roles in the launch templates' instance profiles
    assumed_roles: tuple[str, ...] = ()
    counters: str = "/reaper/server-ids"
    image_parameters: tuple[str, ...] = ()

    @property
    def vpc_arns(self) -> tuple[str, ...]:
        """As a condition of EC2 wants them."""
        return tuple(
            f"arn:{self.partition}:ec2:{region}:{self.account}:vpc/{vpc}"
            for region in self.regions
            for vpc in self.vpcs
        )

    def values(self, name: str) -> tuple[str, ...]:
        """What the scope says under a name of the register."""
        said: str | tuple[str, ...] = getattr(self, name)
        return (said,) if isinstance(said, str) else said


# Without these a need's document would be a blank cheque, or of no use.
_WANTED: dict[Need, tuple[str, ...]] = {
    Need.ROUTE53: ("zones", "record_names"),
    Need.ELASTIC_IP: ("allocations", "vpcs"),
    Need.SECONDARY_ADDRESS: ("vpcs",),
    Need.MASTER_TAG: ("master_tags",),
    Need.SECRETS: ("secrets",),
    Need.PARAMETERS: ("parameters",),
    Need.RDS_TOKENS: ("db_users",),
    Need.ASSUME_ROLES: ("assumed_roles",),
}


def iam_policy(needs: Iterable[Need], scope: Scope) -> dict[str, Json]:
    """The document, as JSON values. UsageError: a need lacks what would scope it, or the document is too long."""
    wanted = set(needs)
    for need in sorted(wanted):
        for name in ("account", "regions", "clusters", *_WANTED.get(need, ())):
            if not all(scope.values(name)) or not scope.values(name):
                raise UsageError(
                    f"the IAM document for {need} needs {name}: say which, nothing is granted on everything"
                )
    statements: list[Json] = []
    for number, statement in enumerate(_merged(_statement(g, scope) for g in TABLE if g.need in wanted), 1):
        statements.append({"Sid": f"Reaper{number}", **statement})
    document: dict[str, Json] = {"Version": _VERSION, "Statement": statements}
    length = len(re.sub(r"\s", "", str(document)))
    if length > _LONGEST_CHARACTERS:
        raise UsageError(
            f"the IAM document has about {length} characters, a managed policy at most {_LONGEST_CHARACTERS}: print "
            "one for each policy (`--policy`), or use globs that cover several names"
        )
    return document


def actions(needs: Iterable[Need], by: By | None = None) -> frozenset[str]:
    """Every action of the needs; with `by` only those that are used so."""
    wanted = set(needs)
    return frozenset(a for g in TABLE if g.need in wanted and by in (None, g.by) for a in g.actions)


def _merged(made: Iterable[dict[str, Json] | None]) -> list[dict[str, Json]]:
    """Statements about the same resources on the same conditions are one."""
    found: dict[str, dict[str, Json]] = {}
    for statement in made:
        if statement is None:
            continue
        same = json.dumps([statement["Resource"], statement.get("Condition")])
        actions = {a for s in (statement, found.get(same, {})) for a in _texts(s.get("Action", []))}
        found[same] = statement | {"Action": [*sorted(actions)]}
    return list(found.values())


def _texts(value: Json) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _statement(grant: Grant, scope: Scope) -> dict[str, Json] | None:
    """None: the scope names nothing that it would be about.

    Several regions are one condition, not as many resources each: a managed policy is short.
    """
    of_regions = any("{regions}" in pattern for pattern in grant.resources)
    gathers = len(scope.regions) > 1 and grant.by is By.CALL and of_regions
    place = replace(scope, regions=("*",)) if gathers else scope
    resources: list[Json] = [filled for pattern in grant.resources for filled in _fill(pattern, place)]
    if not resources:
        return None
    conditions = (*grant.conditions, HERE) if gathers and HERE not in grant.conditions else grant.conditions
    allowed: list[Json] = [*sorted(grant.actions)]
    statement: dict[str, Json] = {"Effect": "Allow", "Action": allowed, "Resource": resources}
    if conditions:
        statement["Condition"] = _conditions(conditions, scope)
    return statement


def _conditions(conditions: tuple[Condition, ...], scope: Scope) -> dict[str, Json]:
    said: dict[str, Json] = {}
    for condition in conditions:
        values = scope.values(condition.values) if isinstance(condition.values, str) else condition.values
        (key,) = _fill(condition.key, scope)
        block = said.setdefault(condition.operator, {})
        assert isinstance(block, dict), "it was made here"
        block[key] = list(values)
    return said


def _fill(pattern: str, scope: Scope) -> list[str]:
    """A pattern with every combination of what its names stand for."""
    names = list(dict.fromkeys(_SLOT.findall(pattern)))
    combinations = itertools.product(*(scope.values(name) for name in names))
    return [_put(pattern, dict(zip(names, found, strict=True))) for found in combinations]


def _put(pattern: str, values: dict[str, str]) -> str:
    return _SLOT.sub(lambda slot: values[slot[1]], pattern)


NAMES = frozenset(field.name for field in fields(Scope))
"""What a scope can say, for whoever builds one from configuration."""
