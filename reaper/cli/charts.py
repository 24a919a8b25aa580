"""Trends and firings as a person and a machine read them."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reaper.adapters.store.standing import Firing
from reaper.cli.render import short
from reaper.domain.verdict import RunState
from reaper.planner.budgets import PastRun
from reaper.planner.trend import Spread, Trend

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.,-~=+#"
_UNKNOWN = "?"
_SHORTEST, _LONGEST = 8, 60  # characters of a sparkline
_WIDE = 120  # columns; a table needs them
_INDENT = (0, 0, 0, 2)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that begins so for a formula
_STATES = {state: state.value for state in RunState} | {RunState.RUNNING: "without verdict"}
_FAILED = (RunState.BAD, RunState.STUCK, RunState.RUNNING)
_MS = timedelta(milliseconds=1)


def sparkline(series: tuple[timedelta | None, ...], width: int, blocks: str = _BLOCKS) -> str:
    """The last `width` spans, each as a block whose height is its share of the longest one shown; `?` is unknown."""
    shown = series[-width:]
    longest = max((span for span in shown if span is not None), default=timedelta(0))

    def block(span: timedelta | None) -> str:
        if span is None:
            return _UNKNOWN
        share = span / longest if longest else 0.0
        return blocks[min(int(share * len(blocks)), len(blocks) - 1)]

    return "".join(map(block, shown))


class _Sparkline:
    """A sparkline as long as there is room for, of blocks where the terminal knows them."""

    def __init__(self, series: tuple[timedelta | None, ...]) -> None:
        self._series = series

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        blocks = _ASCII if options.ascii_only else _BLOCKS
        yield Text(sparkline(self._series, max(options.max_width, 1), blocks), no_wrap=True, style="cyan")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        length = min(len(self._series), _LONGEST)
        return Measurement(min(length, _SHORTEST), length).clamp(max_width=options.max_width)


def trends_chart(trends: tuple[Trend, ...], width: int) -> RenderableType:
    """A line for each cluster, or a few where the terminal is narrow; time to normal only if a run measured it."""
    return _table(trends) if width >= _WIDE else Group(*(part for trend in trends for part in _block(trend)))


def _table(trends: tuple[Trend, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    timed = any(trend.time_to_normal for trend in trends)
    table.add_column("cluster", overflow="fold")
    table.add_column("runs", justify="right", no_wrap=True)
    table.add_column("ended")
    for column in ("outage p50", "p95", "max", *(("normal after p50", "p95", "max") if timed else ())):
        table.add_column(column, justify="right", min_width=8)
    table.add_column("lost", justify="right")
    table.add_column("outages, oldest first")
    for trend in trends:
        times = _times(trend.time_to_normal) if timed else ()
        table.add_row(
            Text(trend.cluster, style="bold"),
            str(trend.runs),
            _ended(trend),
            *_times(trend.outage),
            *times,
            _lost(trend),
            _Sparkline(trend.outages),
        )
    return table


def _block(trend: Trend) -> Iterator[RenderableType]:
    yield Text.assemble(
        (trend.cluster, "bold"), f"  {trend.runs} {'run' if trend.runs == 1 else 'runs'}: ", _ended(trend)
    )
    for name, spread in (("outage", trend.outage), ("normal after", trend.time_to_normal)):
        if spread is not None:
            p50, p95, longest = _times(spread)
            yield Padding(f"{name} p50 {p50}, p95 {p95}, max {longest}", _INDENT)
    if trend.outages:
        yield Padding(Text.assemble("lost writes ", _lost(trend)), _INDENT)
        yield Padding(_Sparkline(trend.outages), _INDENT)


def _ended(trend: Trend) -> Text:
    parts = [
        Text(f"{number} {_STATES[state]}", style="red" if state in _FAILED else "")
        for state, number in trend.states
        if number
    ]
    return Text(", ").join(parts)


def _times(spread: Spread | None) -> tuple[str, ...]:
    return ("-",) * 3 if spread is None else (short(spread.p50), short(spread.p95), short(spread.longest))


def _lost(trend: Trend) -> Text:
    """How many, and of how many runs nobody knows."""
    if not trend.outages:
        return Text("-")
    unknown = f" + {trend.uncompared} unknown" if trend.uncompared else ""
    return Text(f"{trend.lost}{unknown}", style="red" if trend.lost or trend.uncompared else "")


def trend_as_json(trend: Trend) -> dict[str, object]:
    """A cluster's trend for a machine. Spans in milliseconds, unknown is null."""
    return {
        "cluster": trend.cluster,
        "runs": trend.runs,
        "states": {_STATES[state].replace(" ", "_"): number for state, number in trend.states},
        "outage_ms": _spread_as_json(trend.outage),
        "time_to_normal_ms": _spread_as_json(trend.time_to_normal),
        "outages_ms": [_ms(span) for span in trend.outages],
        "lost": trend.lost,
        "runs_not_compared": trend.uncompared,
    }


def _spread_as_json(spread: Spread | None) -> dict[str, object] | None:
    if spread is None:
        return None
    return {
        "measured": spread.measured,
        "p50": _ms(spread.p50),
        "p95": _ms(spread.p95),
        "max": _ms(spread.longest),
    }


def _ms(span: timedelta | None) -> float | None:
    return None if span is None else span / _MS


def runs_as_csv(runs: Iterable[PastRun]) -> str:
    """A header, and a row for each run; unknown is empty."""
    head = ("run", "cluster", "policy", "state", "began", "ended", "outage_ms", "time_to_normal_ms", "lost", "message")
    return _csv(
        head,
        (
            (
                run.run,
                run.cluster,
                run.policy,
                _STATES[run.state],
                _iso(run.began),
                _iso(run.ended),
                _ms(run.outage),
                _ms(run.time_to_normal),
                run.lost,
                run.message,
            )
            for run in runs
        ),
    )


def firings_as_csv(firings: Iterable[Firing]) -> str:
    """A header, and a row for each firing."""
    head = ("policy", "fire", "decided", "seed", "summary")
    return _csv(head, ((f.policy, _iso(f.fire), _iso(f.decided), f.seed, f.summary) for f in firings))


def _csv(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    """A text that a spreadsheet would compute gets an apostrophe before it; a lone CR would end the row."""
    if not isinstance(cell, str):
        return cell
    text = f"'{cell}" if cell.startswith(_FORMULA) else cell
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def firings_table(firings: tuple[Firing, ...]) -> Table:
    """The firings, newest first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("fire (UTC)", no_wrap=True)
    table.add_column("policy", overflow="fold")
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("what it decided", overflow="fold")
    for firing in firings:
        table.add_row(
            f"{firing.fire:%Y-%m-%d %H:%M:%S}", Text(firing.policy), str(firing.seed), Text(in_words_of(firing.summary))
        )
    return table


def firing_as_json(firing: Firing) -> dict[str, object]:
    """A firing for a machine; its summary as it was stored."""
    return {
        "policy": firing.policy,
        "fire": firing.fire.isoformat(),
        "decided": firing.decided.isoformat(),
        "seed": firing.seed,
        "summary": _parsed(firing.summary),
    }


def in_words_of(summary: str) -> str:
    """`name value` for each thing that a summary says; long lists by their number, what is empty left out."""
    found = _parsed(summary)
    if not isinstance(found, dict):
        return summary
    said = []
    for name, value in found.items():
        if isinstance(value, list):
            plain = all(isinstance(item, str) for item in value) and len(value) <= 5
            value = ", ".join(value) if plain else len(value)
        if value not in (None, "", {}):
            said.append(f"{name}: {value}")
    return "; ".join(said)


def _parsed(summary: str) -> object:
    """The text itself if it is no JSON."""
    try:
        found: object = json.loads(summary)
    except ValueError:
        return summary
    return found
