"""One run, whole: for a person, for a machine, as a page."""

import json
from collections.abc import Iterator
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import Any, assert_never

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from reaper.adapters.store.journal import AnyRecord, GroupRunRecord, RunRecord, RunStore
from reaper.cli.groups_render import group_plan_table, group_spared_table, group_verdict_panel, interruption_of
from reaper.cli.pages import deliver
from reaper.cli.render import (
    guards_table,
    plan_table,
    size,
    timeline_table,
    verdict_panel,
    words,
)
from reaper.cli.run_html import named, run_html
from reaper.cli.runs import as_json, console
from reaper.domain.errors import UsageError
from reaper.domain.tail import Forensics
from reaper.domain.verdict import Event, GuardVerdict, Proven, RunVerdict

Asked = tuple[tuple[GuardVerdict, ...], ...]  # what the guards said, each time they were asked

_FILE_WIDTH = 160


class Form(StrEnum):
    """How a run is written."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


def form_of(text: str) -> Form:
    """How to write. UsageError: no such way."""
    try:
        return Form(text)
    except ValueError:
        raise UsageError(f"--output is table, json or html, not {text!r}") from None


def run_as_json(record: AnyRecord) -> dict[str, Any]:
    """A run for a machine."""
    follower = record.follower
    return {
        "run": record.run,
        "cluster": record.cluster,
        "state": "interrupted" if record.interrupted else "queued" if record.queued else record.state.value,
        "began": record.began.isoformat(),
        "ended": record.ended.isoformat() if record.ended else None,
        "message": record.message,
        "waits_for": follower.waits_for if follower else "",
        "executor": follower.executor if follower else None,
        "version": follower.version if follower else None,
        "broken": follower.broken if follower else None,
        "good": bool(record.verdict and record.verdict.good),
        "verdict": as_json(type(record.verdict), record.verdict) if record.verdict else None,
        "plan": as_json(type(record.plan), record.plan),
    }


def show_run(store: RunStore, name: str, form: Form, out: Path | None) -> None:
    """Write a run's plan, guards, timeline and verdict: to the terminal, or into a file. UsageError: it cannot be."""
    record = store.record(name)
    events, asked = store.timeline(record.run), store.verdicts(record.run)
    match form:
        case Form.TABLE:
            if out is None:
                _print(console(), record, events, asked)
                return
            file = StringIO()
            _print(Console(file=file, width=_FILE_WIDTH, highlight=False), record, events, asked)
            text = file.getvalue()
        case Form.JSON:
            guards = [as_json(tuple[GuardVerdict, ...], v) for v in asked]
            whole = run_as_json(record) | {"guards": guards, "timeline": [as_json(Event, e) for e in events]}
            text = json.dumps(whole, indent=2) + "\n"
        case Form.HTML:
            if isinstance(record, GroupRunRecord):
                text = _group_page(record, events, asked)
            else:
                text = run_html(record, events, asked)
        case _:
            assert_never(form)
    deliver(text, out, "run")


def _group_page(record: GroupRunRecord, events: tuple[Event, ...], asked: Asked) -> str:
    """The same as in a terminal, as a file that needs nothing else."""
    page = Console(file=StringIO(), width=_FILE_WIDTH, highlight=False, record=True)
    _print(page, record, events, asked)
    return page.export_html()


def _print(out: Console, record: AnyRecord, events: tuple[Event, ...], asked: Asked) -> None:
    if isinstance(record, GroupRunRecord):
        out.print(group_plan_table(record.plan))
        if record.plan.spared:
            out.print()
            out.print(group_spared_table(record.plan))
    else:
        out.print(plan_table(record.plan))
    for verdicts in asked:
        out.print("\n[bold]guards[/]")
        out.print(guards_table(verdicts))
    out.print("\n[bold]timeline[/]")
    out.print(timeline_table(events))
    out.print()
    if isinstance(record, GroupRunRecord) and record.verdict:
        out.print(group_verdict_panel(record.plan, record.verdict))
        if record.message and not record.verdict.good:
            out.print(words(f"{record.state}: {record.message}"))
    elif isinstance(record, RunRecord) and record.verdict:
        out.print(verdict_panel(record.plan, record.verdict))
        found = tuple(details(record.verdict))
        if found:
            out.print("\n[bold]evidence[/]")
            out.print(_details_table(found))
    elif record.interrupted:
        out.print("[bold red]interrupted[/]:", words(interruption_of(record)))
    elif record.follower and record.follower.waits_for:
        out.print(
            f"[bold]{'queued' if record.queued else record.state.value}[/]: waits for", words(record.follower.waits_for)
        )
    else:
        out.print(f"[bold]{record.state.value}[/]:", words(record.message or "no verdict yet"))


def _details_table(found: tuple[tuple[str, str], ...]) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    last = ""
    for name, text in found:
        table.add_row(Text(name if name != last else ""), words(text))
        last = name
    return table


def details(verdict: RunVerdict) -> Iterator[tuple[str, str]]:
    """What the verdict only counts, one by one: lost writes, differences, canaries, rehearsals, the victim's tail."""
    if verdict.ledger and verdict.ledger.lost:
        yield "lost", named(verdict.ledger.lost)
    if verdict.ledger and verdict.ledger.duplicated:
        yield "there twice", named(verdict.ledger.duplicated)
    if verdict.proven is not None:
        yield from _shown_by(verdict.proven)
    if verdict.forensics is not None:
        yield from _tail(verdict.forensics)


def _shown_by(proven: Proven) -> Iterator[tuple[str, str]]:
    data = proven.comparison
    if proven.reused:
        yield "used again", proven.reused
    if not data.complete:
        yield "not reached", data.left
    yield from (("difference", str(one)) for one in data.differences)
    if data.chunks_different:
        yield "", f"{data.chunks_different} of {data.chunks} chunks differ, {len(data.differences)} places are named"
    yield from (("not compared", str(one)) for one in data.skipped)
    yield from (("parity", line) for line in proven.parity.evidence)
    for pair in proven.warmth.canaries if proven.warmth else ():
        heir, victim = pair.heir, pair.victim
        said = f"{heir.p50_ms:.1f} ms, 95 % within {heir.p95_ms:.1f}; victim {victim.p50_ms:.1f}, {victim.p95_ms:.1f}"
        yield "canary", f"{pair.ratio:.1f} times the victim's: {victim.name} ({said})"
    yield from (("rehearsal", f"{r.instance.short} {r.trial}: {r.why}") for r in proven.rehearsed)


def _tail(forensics: Forensics) -> Iterator[tuple[str, str]]:
    for judged in forensics.judged:
        one = judged.transaction
        does = f"{', '.join(one.kinds)} in {', '.join(one.tables)}, {size(one.size_bytes)}"
        yield "victim's tail", f"{one.gtid} {judged.told}: {judged.why} ({does})"
    if forensics.unlisted:
        yield "victim's tail", f"{forensics.unlisted} more, {forensics.unlisted_told}"
    if forensics.torn:
        yield "torn", forensics.torn
