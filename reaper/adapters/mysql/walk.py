"""The walk over all tables: chunks of about half a second, differing ones narrowed down to a few rows."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby

from reaper.adapters.mysql.checksum import Key, Span, Table
from reaper.adapters.mysql.connection import Row
from reaper.adapters.mysql.cutter import Cutter
from reaper.adapters.mysql.pair import Pair, TableChangedError, TooLongError, Which
from reaper.domain.comparison import Comparison, Difference, Sample, Skipped, What
from reaper.domain.facts import InstanceId

WHOLE_TABLE_S = 120.0  # the longest read of a table without a usable key

CHUNK_S = 10.0
_LIST_AT_ONCE = 500
_SMALL_RANGE = 10
_TELL_EVERY_S = 5.0


class _TimeOverError(Exception):
    """The sample's time is over."""


@dataclass(frozen=True)
class _Sums:
    rows: int
    sum: int

    @classmethod
    def of(cls, rows: list[Row]) -> "_Sums":
        return cls(int(rows[0]["n"]), int(rows[0]["sum"] or 0))


@dataclass(frozen=True)
class _Both:
    reference: _Sums
    subject: _Sums

    @property
    def differ(self) -> bool:
        return self.reference != self.subject

    @property
    def most(self) -> int:
        return max(self.reference.rows, self.subject.rows)

    @property
    def larger(self) -> Which:
        return Which.REFERENCE if self.reference.rows >= self.subject.rows else Which.SUBJECT


class Walk:
    """One comparison under way: what was found so far."""

    def __init__(self, pair: Pair, sample: Sample, began: float, tell: Callable[[str], None]) -> None:
        self._pair, self._sample, self._began, self._tell = pair, sample, began, tell
        self._deadline = began + sample.within.total_seconds()
        self._told = began
        self._tables, self._chunks, self._passed, self._different = 0, 0, 0, 0
        self._rows, self._bytes = 0, 0
        self._left: list[str] = []
        self.differences: list[Difference] = []
        self.skipped: list[Skipped] = []

    def over(self, tables: Sequence[Table]) -> None:
        """Compare them all, as far as the time reaches."""
        for number, table in enumerate(tables):
            chunks, rows = self._chunks, self._rows
            try:
                self._tell_now_and_then(f"{number} of {len(tables)} tables")
                if table.key:
                    self._by_key(table)
                else:
                    self._whole(table)
            except TableChangedError:
                self.skipped.append(Skipped(table=table.title, why="its definition changed while it was compared"))
                continue
            except _TimeOverError:
                self._left.append(f"the time was over in {table.title} after {self._rows - rows} rows")
                if rest := len(tables) - number - 1:
                    self._left.append(f"{rest} more tables were not reached")
                break
            finally:
                self._tables += self._chunks > chunks

    def result(self, position: str, reference: InstanceId, subject: InstanceId) -> Comparison:
        """Everything that was found."""
        return Comparison(
            position=position,
            reference=reference,
            subject=subject,
            tables=self._tables,
            chunks=self._chunks,
            chunks_of=self._passed,
            chunks_different=self._different,
            rows=self._rows,
            size_bytes=self._bytes,
            share=self._sample.share,
            complete=not self._left,
            left="; ".join(self._left),
            took=timedelta(seconds=time.monotonic() - self._began),
            differences=tuple(self.differences[: self._sample.keep]),
            skipped=tuple(self.skipped),
        )

    def _time_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _TimeOverError
        return left

    def _tell_now_and_then(self, where: str) -> None:
        if time.monotonic() - self._told >= _TELL_EVERY_S:
            self._told = time.monotonic()
            self._tell(f"{where}: about {self._bytes / 2**20:.0f} MiB compared, {self._different} chunks differ")

    # ---- tables without a usable key

    def _whole(self, table: Table) -> None:
        self._pair.allow(min(self._time_left(), WHOLE_TABLE_S))
        try:
            sums = self._counted(table, Span())
        except TooLongError:
            self._time_left()
            self._left.append(f"{table.title} has no usable key and cannot be read in {WHOLE_TABLE_S:.0f} s")
        else:
            self._passed += 1
            if sums.differ and len(self.differences) < self._sample.keep:
                self.differences.append(_coarse(table, Span(), sums))
        finally:
            self._pair.allow(CHUNK_S)

    # ---- tables with a key

    def _by_key(self, table: Table) -> None:
        dice = random.Random(f"{self._sample.seed}/{table.title}")
        cutter = Cutter(self._pair, table)
        looked = False
        while not cutter.done:
            self._time_left()
            try:
                span = cutter.next()
                # Something of every table is looked at.
                if dice.random() < self._sample.share or (span.upto is None and not looked):
                    began = time.monotonic()
                    sums = self._counted(table, span)
                    cutter.adapt(sums.most, time.monotonic() - began)
                    looked = True
                    if sums.differ:
                        self._narrow(table, span, sums)
            except TooLongError as error:
                cutter.shrink(error)
                continue
            self._passed += 1
            cutter.step(span)
            self._tell_now_and_then(f"in {table.title}")

    def _counted(self, table: Table, span: Span) -> "_Both":
        sums = self._sums(table, span)
        self._chunks += 1
        self._rows += sums.reference.rows
        self._bytes += sums.reference.rows * table.row_bytes
        self._different += sums.differ
        return sums

    def _sums(self, table: Table, span: Span) -> "_Both":
        return _Both(*(_Sums.of(rows) for rows in self._pair.both(table.sums(span))))

    # ---- where exactly

    def _narrow(self, table: Table, span: Span, sums: "_Both") -> None:
        """Halve a differing range until its rows can be listed; what is left when time is over is kept as a range."""
        todo = [(span, sums)]
        while todo and len(self.differences) < self._sample.keep:
            span, sums = todo.pop()
            if time.monotonic() > self._deadline:
                self.differences.append(_coarse(table, span, sums))
                continue
            try:
                if sums.most <= _LIST_AT_ONCE:
                    listed = self._pair.both(table.listing(span, _LIST_AT_ONCE + 1))
                    self.differences.extend(_exact(table, *listed))
                    continue
                middle = table.key_of(self._pair.one(sums.larger, table.nth(span, sums.most // 2))[0])
                halves = (Span(after=middle, upto=span.upto), Span(after=span.after, upto=middle))
                todo += [(half, both) for half in halves if (both := self._sums(table, half)).differ]
            except TooLongError:
                self.differences.append(_coarse(table, span, sums))


def _coarse(table: Table, span: Span, sums: _Both) -> Difference:
    reference, subject = sums.reference.rows, sums.subject.rows
    return Difference(
        table=table.title,
        what=What.MISSING if reference > subject else What.EXTRA if subject > reference else What.DIFFERENT,
        first=table.shown(span.after) if span.after else None,
        last=table.shown(span.upto) if span.upto else None,
        rows_reference=reference,
        rows_subject=subject,
        detail="not narrowed down for want of time" if table.key else "no usable key tells which rows",
    )


def _exact(table: Table, reference: list[Row], subject: list[Row]) -> Iterable[Difference]:
    """Runs of neighbouring rows that are missing, extra or different, each of ten rows at most."""
    ours = {table.key_of(row): row["h"] for row in reference}
    theirs = {table.key_of(row): row["h"] for row in subject}
    found: list[tuple[What | None, Key]] = []
    for key, value in ours.items():
        what = None if theirs.get(key) == value else What.DIFFERENT if key in theirs else What.MISSING
        found.append((what, key))
    found.append((None, ()))
    found += [(None if key in ours else What.EXTRA, key) for key in theirs]
    for what, run in groupby(found, key=lambda pair: pair[0]):
        keys = [key for _, key in run]
        for at in range(0, len(keys), _SMALL_RANGE) if what else ():
            some = keys[at : at + _SMALL_RANGE]
            yield Difference(
                table=table.title,
                what=what or What.DIFFERENT,
                first=table.shown(some[0]),
                last=table.shown(some[-1]),
                rows_reference=0 if what is What.EXTRA else len(some),
                rows_subject=0 if what is What.MISSING else len(some),
            )
