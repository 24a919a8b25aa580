"""Draw a victim. The dice are passed in as a seed, so that a draw can be replayed."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from reaper.domain.facts import InstanceId
from reaper.domain.plan import Role


class RoleChoice(StrEnum):
    """Whom a draw may hit."""

    MASTER = "master"
    REPLICA = "replica"
    ANY = "any"


@dataclass(frozen=True, order=True, kw_only=True)
class Eligible:
    """An instance that may be drawn."""

    cluster: str
    instance: InstanceId
    role: Role


def eligible_for(pool: tuple[Eligible, ...], choice: RoleChoice) -> tuple[Eligible, ...]:
    """The part of the pool that the choice of role allows, in a fixed order."""
    if choice is RoleChoice.ANY:
        return tuple(sorted(pool))
    return tuple(sorted(e for e in pool if e.role.value == choice.value))


def draw(pool: tuple[Eligible, ...], *, seed: int) -> Eligible:
    """Draw one; the same pool and seed give the same victim. `pool` must not be empty."""
    return Random(seed).choice(sorted(pool))
