"""What a benchmark returns, and how it is printed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil
from statistics import median


class Exit(IntEnum):
    """What a benchmark tells its caller. A value over its target is no failure: machines are noisy."""

    DONE = 0
    FAILED = 1  # an acknowledged write was lost, or a run failed
    INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured thing. The target bounds the ratio if there is a reference, the value otherwise."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    target: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the reference."""
        return self.value / self.reference if self.reference else None

    @property
    def verdict(self) -> str:
        """`ok`, `over`, or nothing where there is no target."""
        if self.target is None:
            return ""
        measured = self.value if self.ratio is None else self.ratio
        return "ok" if measured <= self.target else "over"

    def cells(self) -> tuple[str, ...]:
        """As text."""
        return (
            self.name,
            f"{self.value:.2f} {self.unit}",
            "" if self.reference is None else f"{self.reference:.2f} {self.unit}",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.target is None else f"{self.target:.2f}" + ("" if self.ratio else f" {self.unit}"),
            self.verdict,
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one benchmark found."""

    rows: tuple[Row, ...]
    details: tuple[str, ...] = ()  # tables and remarks, in the order in which a person wants them
    faults: tuple[str, ...] = ()  # lost writes and failed runs

    @property
    def exit(self) -> Exit:
        """Whether the benchmark itself worked."""
        return Exit.FAILED if self.faults else Exit.DONE


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A sample in four numbers. With fewer than 100 values p99 is the largest one (nearest rank)."""

    least: float
    median: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        ranked = sorted(values)
        return cls(least=ranked[0], median=median(ranked), p99=ranked[ceil(0.99 * len(ranked)) - 1], most=ranked[-1])


def layout(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Plain columns: the first to the left, the others to the right."""
    rows = [tuple(head), *(tuple(line) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]

    def aligned(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join((first, *others)).rstrip()

    return "\n".join((aligned(rows[0]), "  ".join("-" * w for w in widths), *map(aligned, rows[1:])))


def show(result: Result) -> Exit:
    """Print everything, the table of targets last."""
    for detail in result.details:
        print(f"\n{detail}")
    print()
    print(layout(("what", "value", "reference", "ratio", "target", ""), (row.cells() for row in result.rows)))
    for fault in result.faults:
        print(f"FAILED: {fault}")
    return result.exit
