"""Where a table is cut into chunks that each take about half a second."""

from reaper.adapters.mysql.checksum import Key, Span, Table
from reaper.adapters.mysql.pair import Pair, TooLongError, Which

_AIM_S = 0.5
_FIRST_BYTES = 8 * 2**20
_MOST_GROWTH, _MOST_SHRINKAGE = 4.0, 0.25


class Cutter:
    """Where the next chunk of a table ends, and how large it is to be."""

    def __init__(self, pair: Pair, table: Table) -> None:
        self._pair, self._table = pair, table
        self._after: Key | None = None
        self._asked = Which.REFERENCE
        self._low: int | None = None
        self._high = 0
        self._size = max(1.0, _FIRST_BYTES / table.row_bytes)  # rows, or numbers of a key that counts up
        self.done = False
        if table.counts_up:
            found = [rows[0] for rows in pair.both(table.ends()) if rows[0]["low"] is not None]
            if found:
                self._low, self._high = min(int(r["low"]) for r in found), max(int(r["high"]) for r in found)
                self._size *= max(1.0, (self._high - self._low + 1) / max(1, table.rows))

    def next(self) -> Span:
        """The next range; the last one is open, so that no row is beyond it."""
        size = int(self._size)
        if not self._table.counts_up:
            rows = self._pair.one(self._asked, self._table.nth(Span(after=self._after), size))
            return Span(after=self._after, upto=self._table.key_of(rows[0]) if rows else None)
        if self._low is None:
            return Span()
        upto = (self._low - 1 if self._after is None else int(self._after[0])) + size
        return Span(after=self._after, upto=None if upto >= self._high else (str(upto),))

    def adapt(self, rows: int, took_s: float) -> None:
        """Aim at the time that a chunk is to take. Nearly empty ones say nothing but that they can be larger."""
        wanted = _AIM_S / max(took_s, 0.001) if rows else _MOST_GROWTH
        self._size = max(1.0, self._size * min(_MOST_GROWTH, max(_MOST_SHRINKAGE, wanted)))

    def shrink(self, error: TooLongError) -> None:
        """A chunk took too long: cut smaller, by the keys of the server that has so many. Raises it if one row does."""
        if self._size <= 1:
            raise error
        self._size = max(1.0, self._size / 8)
        self._asked = error.which

    def step(self, span: Span) -> None:
        """This range is done."""
        self._after, self.done, self._asked = span.upto, span.upto is None, Which.REFERENCE
