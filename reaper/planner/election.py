"""Elect the heir at the moment of the kill (I5, E05): whoever holds everything, or can be given it."""

from dataclasses import dataclass
from functools import cached_property, reduce

from reaper.domain.facts import InstanceId
from reaper.domain.gtid import GtidSet


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A replica that answered after its receiver was stopped."""

    instance: InstanceId
    received: GtidSet  # in its relay log, complete transactions
    executed: GtidSet
    unfit: str | None = None  # why it can never be an heir (E06): an error, a configured delay
    broken_applier: bool = False  # it cannot apply what it received

    @cached_property
    def holding(self) -> GtidSet:
        """Everything that it received or executed."""
        return self.received | self.executed


@dataclass(frozen=True, kw_only=True)
class Elected:
    """The heir, what it must have applied before it opens, and who fills its gap."""

    heir: InstanceId
    must_apply: GtidSet
    gap_from: InstanceId | None  # None: the heir holds everything already
    why: str


@dataclass(frozen=True, kw_only=True)
class NoHeir:
    """Nobody may be promoted; a person decides."""

    why: str
    evidence: tuple[str, ...]


def elect(candidates: tuple[Candidate, ...], *, preferred: InstanceId | None) -> Elected | NoHeir:
    """Choose the heir among the replicas that answered.

    The preferred one (normally the fresh replacement) wins if it holds everything that anybody
    received, or if one sibling does and can hand it over. Otherwise the fit replica that holds most.
    """
    fit = [c for c in candidates if c.unfit is None]
    if not fit:
        return NoHeir(
            why="no replica is fit to inherit",
            evidence=tuple(f"{c.instance.short}: {c.unfit}" for c in candidates) or ("no replica answered",),
        )
    everything = reduce(lambda a, b: a | b, (c.holding for c in candidates))
    complete = [c for c in candidates if c.holding.covers(everything)]
    if not complete:
        return NoHeir(why="the replicas have diverged: none holds what all received", evidence=_gaps(candidates))
    heirs = sorted((c for c in fit if c.holding.covers(everything)), key=_readiness)
    donors = sorted((c for c in complete if not c.broken_applier), key=_readiness)
    favourite = next((c for c in fit if c.instance == preferred), None)
    heir = favourite or (heirs[0] if heirs else min(fit, key=lambda c: everything.distance(c.holding)))
    if heir.holding.covers(everything):
        return Elected(heir=heir.instance, must_apply=everything, gap_from=None, why="it holds everything received")
    lacking = ", ".join(map(str, everything.beyond(heir.holding)))
    if donors:
        return Elected(
            heir=heir.instance,
            must_apply=everything,
            gap_from=donors[0].instance,
            why=f"it lacks {lacking}, which {donors[0].instance.short} holds and hands over",
        )
    return NoHeir(
        why=f"{heir.instance.short} lacks {lacking} and nobody who holds it can apply it",
        evidence=_gaps(candidates),
    )


def _readiness(candidate: Candidate) -> tuple[int, InstanceId]:
    return _backlog(candidate), candidate.instance


def _backlog(candidate: Candidate) -> int:
    return candidate.holding.distance(candidate.executed)


def _gaps(candidates: tuple[Candidate, ...]) -> tuple[str, ...]:
    lines = []
    for a in candidates:
        for b in candidates:
            beyond = a.holding.beyond(b.holding)
            if a is not b and beyond:
                lines.append(f"{a.instance.short} holds {', '.join(map(str, beyond))} and {b.instance.short} does not")
    return tuple(lines)
