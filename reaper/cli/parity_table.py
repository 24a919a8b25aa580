"""How the members differ from the master, as a table (E18). For a console that reads no markup: names are others'."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reaper.adapters.plain import one_line
from reaper.domain.parity import Compared, Difference, Severity
from reaper.domain.policy import Waiver
from reaper.planner.parity import waiver_of

PARITY_HEAD = ("member", "differs in", "the master has", "the member has", "what comes of it", "standing")
_LONGEST = 60  # characters of a value: an sql_mode is longer than a line
_STYLES = {"blocks": "bold red", "noted": "dim"}


def parity_rows(
    compared: tuple[Compared, ...], waivers: tuple[Waiver, ...], now: datetime
) -> Iterator[tuple[str, ...]]:
    """One row of plain text for each difference, under `PARITY_HEAD`: for Markdown and HTML, which escape it."""
    for pair in compared:
        for one in pair.differences:
            values = _values(one)
            yield (pair.subject, one_line(one.label, _LONGEST), *values, one.why, _standing(one, waivers, now))


def parity_table(compared: tuple[Compared, ...], waivers: tuple[Waiver, ...], now: datetime) -> RenderableType:
    """The differences of every member; who has none is said to have none."""
    table = Table(box=None, pad_edge=False)
    for column in PARITY_HEAD:
        table.add_column(column, overflow="fold")
    for row in parity_rows(compared, waivers, now):
        *cells, standing = (Text(cell) for cell in row)
        standing.style = _STYLES.get(standing.plain, "yellow")
        table.add_row(*cells, standing)
    same = [Text(f"{p.subject} is as {p.reference} in all that matters") for p in compared if not p.differences]
    if not compared:
        return Text("no member was compared with the master", style="red")
    return Group(*([table] if table.row_count else []), *same)


def _values(one: Difference) -> tuple[str, str]:
    """Both values; of two long lists what the other lacks, which is where a person would have to look."""
    if max(len(one.reference), len(one.subject)) <= _LONGEST or "," not in one.reference + one.subject:
        return one_line(one.reference, _LONGEST), one_line(one.subject, _LONGEST)
    mine, other = (text.split(",") for text in (one.reference, one.subject))
    only = ([part for part in a if part not in b] for a, b in ((mine, other), (other, mine)))
    left, right = (one_line(f"...,{','.join(parts)}" if parts else "no more", _LONGEST) for parts in only)
    return left, right


def _standing(one: Difference, waivers: tuple[Waiver, ...], now: datetime) -> str:
    if one.severity is Severity.NOTES:
        return "noted"
    waiver = waiver_of(one, waivers, now)
    return "blocks" if waiver is None else one_line(str(waiver), 2 * _LONGEST)
