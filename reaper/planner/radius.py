"""The blast radius: how much of a scope dies, in count and in percent, against the policy's limits.

Counted in instances. Where an instance's shard group or zone is unknown, all such instances count as one
group or zone, so that not knowing never widens the radius.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from reaper.domain.groups import GroupMember
from reaper.domain.standing import Limit, Scope, StandingPolicy
from reaper.planner.selection import Selection
from reaper.planner.targeting import Candidate, Mortal

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Part:
    """How much of one scope dies: of the fleet, of a policy's target, of one shard group or zone."""

    scope: Scope
    name: str  # of the group or zone; the policy's; "" for the fleet
    dying: int
    living: int

    @property
    def percent(self) -> float:
        """Of the living; of nothing it is everything."""
        return 100 * self.dying / self.living if self.living else 100.0

    def __str__(self) -> str:
        whole = {
            Scope.FLEET: "the fleet",
            Scope.POLICY: "what the policy targets",
            Scope.SHARD_GROUP: f"the shard group {self.name}",
            Scope.ZONE: f"the zone {self.name}",
        }[self.scope]
        return f"{self.dying} of {self.living} instances of {whole} ({self.percent:.1f} %)"


@dataclass(frozen=True, kw_only=True)
class Within:
    """No limit is exceeded."""

    parts: tuple[Part, ...]  # the largest of every scope that has a limit


@dataclass(frozen=True, kw_only=True)
class Exceeded:
    """At least one limit is exceeded; `why` has a sentence for each."""

    parts: tuple[Part, ...]
    why: tuple[str, ...]


Radius = Within | Exceeded


@dataclass(frozen=True, kw_only=True)
class Living:
    """The living instances by scope; made once per observation and shared by all policies."""

    fleet: int
    groups: Counter[str]
    zones: Counter[str]


def count_living(fleet: Iterable[Candidate]) -> Living:
    """Count what the limits compare with. Members of clusters that are unfit are not counted: they cannot help."""
    total = 0
    groups: Counter[str] = Counter()
    zones: Counter[str] = Counter()
    for candidate in fleet:
        total += len(candidate.members)
        groups.update(_shard_group(instance) for _, instance in candidate.members)
        zones.update(instance.zone or UNKNOWN for _, instance in candidate.members)
    return Living(fleet=total, groups=groups, zones=zones)


def of_selection(policy: StandingPolicy, selection: Selection, living: Living) -> Radius:
    """Whether a firing's selection exceeds its maximum. Exceeded: the firing is aborted before any action."""
    return _measure(policy.limits.selection, tuple(d.instance for d in selection.due), living, selection)


def of_next(
    policy: StandingPolicy, in_flight: tuple[Mortal, ...], wanted: Mortal, living: Living, selection: Selection
) -> Radius:
    """Whether one more may begin beside those in flight. Exceeded: it waits."""
    return _measure(policy.limits.in_flight, (*in_flight, wanted), living, selection)


def _measure(limits: tuple[Limit, ...], dying: tuple[Mortal, ...], living: Living, selection: Selection) -> Radius:
    parts: list[Part] = []
    why: list[str] = []
    for limit in limits:
        of_scope = _parts(limit.scope, dying, living, selection)
        parts += sorted(of_scope, key=lambda p: (-p.percent, -p.dying, p.name))[:1]
        why += [reason for part in of_scope for reason in _excess(limit, part)]
    if why:
        return Exceeded(parts=tuple(parts), why=tuple(why))
    return Within(parts=tuple(parts))


def _parts(scope: Scope, dying: tuple[Mortal, ...], living: Living, selection: Selection) -> list[Part]:
    match scope:
        case Scope.FLEET:
            return [Part(scope=scope, name="", dying=len(dying), living=living.fleet)]
        case Scope.POLICY:
            return [Part(scope=scope, name=selection.policy, dying=len(dying), living=selection.living)]
        case Scope.SHARD_GROUP:
            return _by(scope, Counter(map(_shard_group, dying)), living.groups)
        case Scope.ZONE:
            return _by(scope, Counter(i.zone or UNKNOWN for i in dying), living.zones)
        case _:
            assert_never(scope)


def _shard_group(instance: Mortal) -> str:
    """Members of a group of stateless instances belong to none."""
    return UNKNOWN if isinstance(instance, GroupMember) else instance.group or UNKNOWN


def _by(scope: Scope, dying: Counter[str], living: Counter[str]) -> list[Part]:
    return [Part(scope=scope, name=n, dying=number, living=living[n]) for n, number in sorted(dying.items())]


def _excess(limit: Limit, part: Part) -> Iterable[str]:
    """A sentence for each maximum that the part exceeds. One instance is never too many percent, or nothing could die
    in a small scope; a count of zero forbids it."""
    if limit.count is not None and part.dying > limit.count:
        yield f"{part} would die, the policy allows {limit.count}"
    if limit.percent is not None and part.dying > 1 and part.percent > limit.percent:
        yield f"{part} would die, the policy allows {limit.percent:g} %"
