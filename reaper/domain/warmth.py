"""How warm an heir is against its victim, and how long clients felt the change. Facts and their arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from math import ceil

NOISE_MS = 2.0  # an answer this much later than the victim's is no sign of cold: a busy machine does that
MOST_POINTS = 120  # of a stored curve


class Otherwise(StrEnum):
    """What becomes of a run whose heir is not warm in time."""

    REFUSE = "refuse"
    GO = "go"  # it is killed all the same, and the report says so


@dataclass(frozen=True, kw_only=True)
class WarmthGate:
    """What an heir has to show before its victim may die."""

    gate: float = 0.9  # the share of the victim's hot pages that has to be resident on the heir
    within: timedelta = timedelta(minutes=30)
    otherwise: Otherwise = Otherwise.REFUSE
    factor: float = 2.0  # the heir's canary latency, at most so many times the victim's
    canaries: tuple[str, ...] = ()  # single SELECTs; none: the top read digests of the victim, where it keeps them


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one canary takes on one server."""

    name: str
    p50_ms: float
    p95_ms: float
    runs: int

    @classmethod
    def of(cls, name: str, took_ms: Sequence[float]) -> "Latency":
        """Of at least one measurement."""
        return cls(name=name, p50_ms=rank(took_ms, 0.5), p95_ms=rank(took_ms, 0.95), runs=len(took_ms))

    def is_like(self, other: "Latency", factor: float) -> bool:
        """True if neither the median nor the 95th percentile is felt to be slower than the other's."""
        pairs = ((self.p50_ms, other.p50_ms), (self.p95_ms, other.p95_ms))
        return all(mine <= max(its * factor, its + NOISE_MS) for mine, its in pairs)

    def bears(self, took_ms: float, factor: float) -> bool:
        """True if a single answer is nothing that this latency would not have shown now and then."""
        return took_ms <= max(self.p50_ms * factor, self.p95_ms, self.p50_ms + NOISE_MS)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One canary on both."""

    victim: Latency
    heir: Latency

    @property
    def ratio(self) -> float:
        """The heir's median as a multiple of the victim's."""
        return times(self.heir.p50_ms, self.victim.p50_ms)


@dataclass(frozen=True, kw_only=True)
class Warmth:
    """What the gate found."""

    resident: float | None  # share of the victim's hot pages that are resident on the heir; None: unknown (I10)
    pages_wanted: int
    pages_resident: int
    hit_ratio: float | None  # of the heir while its canaries ran, its applier's reads included; None: unknown
    canaries: tuple[Compared, ...]
    passed: bool
    took: timedelta
    notes: tuple[str, ...] = ()  # what a reader must know

    @property
    def words(self) -> str:
        """One line for a person."""
        if self.resident is None:
            parts = ["how many of the victim's hot pages are resident is not known"]
        else:
            share = f"{self.resident:.1%}".replace("%", " %")
            parts = [f"{share} of the victim's {self.pages_wanted:,} hot pages are resident"]
        if self.canaries:
            worst = max(self.canaries, key=lambda c: c.ratio)
            number = f"{len(self.canaries)} {'canary' if len(self.canaries) == 1 else 'canaries'}"
            parts.append(
                f"{number}, the slowest at {worst.ratio:.1f} times the victim's median "
                f"({worst.heir.p50_ms:.1f} against {worst.victim.p50_ms:.1f} ms)"
            )
        else:
            parts.append("no canary")
        if self.hit_ratio is not None:
            parts.append(f"hit ratio {self.hit_ratio:.1%}".replace("%", " %"))
        verdict = "warm" if self.passed else "not warm"
        return "; ".join((f"{verdict} after {self.took.total_seconds():.1f} s: {parts[0]}", *parts[1:], *self.notes))


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How fast the canaries were on the victim, right before its death."""

    canaries: tuple[Latency, ...]
    note: str = ""  # why there are none, or fewer


@dataclass(frozen=True, kw_only=True)
class Point:
    """One round of canaries after the kill."""

    after: timedelta  # since the kill
    ratio: float | None  # the slowest canary as a multiple of its baseline's median; None: no answer


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How canaries came back to what they were."""

    curve: tuple[Point, ...]
    time_to_normal: timedelta | None  # since the kill, until the first of the rounds that stayed normal; None: not seen
    baseline: tuple[Latency, ...]
    factor: float
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """One line for a person."""
        if not self.baseline:
            said = "time to normal was not measured"
        elif self.time_to_normal is None:
            last = f"{self.curve[-1].after.total_seconds():.0f} s after the kill" if self.curve else "the time allowed"
            said = f"canaries were not back within {self.factor:g} times their latency by {last}"
        else:
            said = f"back to normal {self.time_to_normal.total_seconds():.2f} s after the kill"
        return "; ".join((said, *self.notes))


def rank(values: Sequence[float], share: float) -> float:
    """The value at a share of the sorted ones, by the nearest rank: of few values, 95 % is the largest."""
    ranked = sorted(values)
    return ranked[max(0, ceil(share * len(ranked)) - 1)]


def times(now_ms: float, then_ms: float) -> float:
    """One latency as a multiple of another, which is at least a tenth of the noise."""
    return now_ms / max(then_ms, NOISE_MS / 10)


def thinned(curve: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most so many points: of neighbours the worst is kept, and no answer is worst."""
    if len(curve) <= most:
        return tuple(curve)
    size = -(-len(curve) // most)
    return tuple(max(curve[i : i + size], key=_badness) for i in range(0, len(curve), size))


def _badness(point: Point) -> float:
    return float("inf") if point.ratio is None else point.ratio
