"""What a comparison of two servers' data found, and how much it is worth."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from reaper.domain.facts import InstanceId


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How much to compare, and for how long.

    A share below 1 draws chunks of every table at random, the same ones for the same seed and data.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """

    within: timedelta
    share: float = 1.0
    seed: int = 0
    keep: int = 20  # at most this many differences are narrowed down and kept

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a share of {self.share:g} of the chunks is not above 0 and at most 1")


class What(StrEnum):
    """How the subject differs from the reference."""

    MISSING = "missing"  # rows that only the reference has
    EXTRA = "extra"  # rows that only the subject has
    DIFFERENT = "different"  # rows of both with other values
    TABLE_MISSING = "table missing"
    TABLE_EXTRA = "table extra"
    DEFINITION = "defined differently"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One place where the subject differs: a small range of keys, or a whole table."""

    table: str  # `schema.table`
    what: What
    first: str | None = None  # key, for a person; None: the whole table, or from its beginning
    last: str | None = None  # key; None: the whole table, or to its end
    rows_reference: int | None = None  # in that range; None: not counted
    rows_subject: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        if self.what in (What.TABLE_MISSING, What.TABLE_EXTRA, What.DEFINITION):
            return f"{self.table}: {self.what}" + (f" ({self.detail})" if self.detail else "")
        if self.first == self.last:
            where = "the whole table" if self.first is None else f"key {self.first}"
        else:
            where = f"keys {self.first or 'the first'} to {self.last or 'the last'}"
        counts = f"rows {self.rows_reference} on the reference, {self.rows_subject} on the subject"
        return f"{self.table}, {where}: {self.what} ({counts})" + (f", {self.detail}" if self.detail else "")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A table that was not compared, and why."""

    table: str
    why: str

    def __str__(self) -> str:
        return f"{self.table}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two servers' data at one GTID position, as far as the comparison came."""

    position: str
    reference: InstanceId
    subject: InstanceId
    tables: int  # compared, to the end or in part
    chunks: int  # compared
    chunks_of: int  # of so many that were passed
    chunks_different: int
    rows: int  # of the reference, compared
    size_bytes: int  # of those rows, estimated from the server's statistics
    share: float  # of the chunks that was asked for
    complete: bool  # False: the time ran out
    left: str  # what was not reached; "" when complete
    took: timedelta
    differences: tuple[Difference, ...]  # the first ones; `chunks_different` counts them all
    skipped: tuple[Skipped, ...]

    @property
    def sound(self) -> bool:
        """True if everything that was to be compared was, and is equal. Skipped tables are not known to be."""
        return self.complete and not self.differences and not self.chunks_different

    def chance_to_find(self, chunks_different: int = 1) -> float:
        """The chance that at least one was looked at, if so many of all chunks differed."""
        return chance_to_find(self.chunks_of, self.chunks, chunks_different)

    @property
    def confidence(self) -> str:
        """What a clean result is worth, in words and numbers."""
        if self.chunks >= self.chunks_of:
            return "every row was compared"
        few, many = 1, max(2, self.chunks_of // 100)
        return (
            f"{self.chunks} of {self.chunks_of} chunks were compared: if {few} differed the chance to find it is"
            f" {self.chance_to_find(few):.0%}, if {many} differed {self.chance_to_find(many):.0%}"
        )

    def __str__(self) -> str:
        """One line for a person."""
        size = f"{self.size_bytes / 2**20:.0f} MiB"
        rows = f"{_of(self.rows, 'row')} in {_of(self.tables, 'table')}"
        looked = f"{rows} (about {size}) in {self.took.total_seconds():.0f} s"
        parts = [f"{self.subject} against {self.reference} at {self.position or 'the beginning'}: {looked}"]
        if self.differences:
            count = f"{_of(len(self.differences), 'difference')} in {_of(self.chunks_different, 'chunk')}"
            parts.append(f"{count}, the first: {self.differences[0]}")
        elif self.complete:
            parts.append("no difference")
        else:
            parts.append("no difference so far")
        if not self.complete:
            parts.append(f"NOT complete: {self.left}")
        elif self.share < 1:
            parts.append(self.confidence)
        if self.skipped:
            parts.append(f"{len(self.skipped)} tables not compared, the first: {self.skipped[0]}")
        return "; ".join(parts)


def _of(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def chance_to_find(chunks_of: int, chunks: int, different: int) -> float:
    """The chance that of `chunks_of` chunks with `different` bad ones, `chunks` drawn at random hold a bad one.

    One minus the hypergeometric probability of drawing none. 0 for nothing to find.
    """
    if different <= 0 or chunks <= 0:
        return 0.0
    miss = 1.0
    for bad in range(min(different, chunks_of)):
        miss *= max(0, chunks_of - chunks - bad) / (chunks_of - bad)
    return 1.0 - miss
