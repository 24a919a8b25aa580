"""What a policy file may say of clusters and what of groups: the other kind's words are mistakes, with a reason."""

from collections.abc import Iterator

from pydantic import BaseModel

from reaper.adapters.policies.document import Document
from reaper.adapters.policies.findings import Finding
from reaper.adapters.policies.meaning import is_about_groups
from reaper.domain.standing import Scope, What

_DATA = "an instance of a group holds no data"
_ITSELF = "a group launches its successors itself"
_NO_MASTER = "a group has no master"
_OWN_GUARDS = "a group has guards of its own, see guards.min_healthy"
_NOT_YET = "is not supported for groups yet"

# What only clusters have: where, and why a group has it not.
_OF_CLUSTERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("verify",), _DATA),
    (("warm",), _DATA),
    (("kill",), "an instance of a group is terminated in its group"),
    (("failover",), _NO_MASTER),
    (("retire",), "the group ends its instances itself"),
    (("probe",), _NO_MASTER),
    (("waivers",), "the guards of a group cannot be waived"),
    (("approval",), _NOT_YET),
    (("target", "instances"), "use target.opt_in, which names instances of groups by their tags"),
    (("calendar", "maintenance"), "use calendar.windows"),
    (("calendar", "maintenance_tag"), "use calendar.windows"),
    (("replace", "when"), _ITSELF),
    (("replace", "replicas"), _ITSELF),
    (("replace", "snapshot"), _DATA),
    (("guards", "max_lag"), _OWN_GUARDS),
    (("guards", "min_copies"), _OWN_GUARDS),
    (("guards", "semi_sync"), _OWN_GUARDS),
    (("guards", "max_transaction_age"), _OWN_GUARDS),
    (("guards", "soak"), _OWN_GUARDS),
    (("guards", "external"), _NOT_YET),
    (("radius", "shard_group"), "groups belong to no shard group"),
    (("budgets", "time_to_normal"), _NO_MASTER),
    (("deadlines", "build"), _ITSELF),
    (("deadlines", "join"), _NO_MASTER),
    (("deadlines", "fence"), _NO_MASTER),
    (("deadlines", "apply"), _NO_MASTER),
    (("deadlines", "repoint"), _NO_MASTER),
)
_OF_GROUPS = (
    ("guards", "min_healthy"),
    ("replace", "order"),
    ("replace", "at_most"),
    ("replace", "draining"),
    ("deadlines", "settle"),
    ("deadlines", "successor"),
    ("deadlines", "undo"),
)


def of_another_kind(doc: Document, broken: frozenset[str]) -> Iterator[Finding]:
    """What is said of the other kind than the target's; sections that are broken are passed over."""
    if is_about_groups(doc.target):
        yield from _in_a_policy_about_groups(doc, broken)
    else:
        yield from _in_a_policy_about_clusters(doc, broken)


def _in_a_policy_about_groups(doc: Document, broken: frozenset[str]) -> Iterator[Finding]:
    for path, why in _OF_CLUSTERS:
        if path[0] not in broken and _said(doc, path):
            what = f"is for clusters: {why}" if why is not _NOT_YET else why
            yield path, True, what
    if "replace" not in broken and doc.replace.what is not What.INSTANCE:
        said = _said(doc, ("replace", "what"))
        what = "has to be instance where the target is groups"
        yield (("replace", "what"), False, what) if said else (("replace",), True, f"what {what}: say so")
    if "guards" not in broken:
        if doc.guards.min_healthy is None:
            what = "min_healthy is missing: say how many have to serve at every moment, as 3, 90%, or {count, percent}"
            yield ("guards",), True, what
        if Scope.SHARD_GROUP in doc.guards.per:
            yield ("guards", "per"), False, "groups belong to no shard group: fleet, policy or zone"


def _in_a_policy_about_clusters(doc: Document, broken: frozenset[str]) -> Iterator[Finding]:
    for path in _OF_GROUPS:
        if path[0] not in broken and _said(doc, path):
            yield path, True, "is for groups, and the target is clusters"
    if "replace" not in broken and doc.replace.what is What.INSTANCE:
        what = "cannot be instance where the target is clusters: instances are those of groups, master, replica or any"
        yield ("replace", "what"), False, what


def _said(doc: Document, path: tuple[str, ...]) -> bool:
    """Whether the file says it, be it the default."""
    here: object = doc
    for key in path:
        if not isinstance(here, BaseModel) or key not in here.model_fields_set:
            return False
        here = getattr(here, key)
    return True
