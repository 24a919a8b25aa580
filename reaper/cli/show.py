"""One run, whole."""

from typing import Any

from reaper.adapters.store.journal import RunRecord, RunStore
from reaper.cli.render import guards_table, interruption, plan_table, timeline_table, verdict_panel, words
from reaper.cli.runs import Output, as_json, console, print_json
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, GuardVerdict, RunVerdict


def run_as_json(record: RunRecord) -> dict[str, Any]:
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
        "verdict": as_json(RunVerdict, record.verdict) if record.verdict else None,
        "plan": as_json(Plan, record.plan),
    }


def show_run(store: RunStore, name: str, output: Output) -> None:
    """Print a run's plan, guards, timeline and verdict."""
    record = store.run(name)
    events, verdicts = store.timeline(record.run), store.verdicts(record.run)
    if output is Output.JSON:
        print_json(
            run_as_json(record)
            | {
                "guards": [as_json(tuple[GuardVerdict, ...], v) for v in verdicts],
                "timeline": [as_json(Event, e) for e in events],
            }
        )
        return
    out = console()
    out.print(plan_table(record.plan))
    for asked in verdicts:
        out.print("\n[bold]guards[/]")
        out.print(guards_table(asked))
    out.print("\n[bold]timeline[/]")
    out.print(timeline_table(events))
    out.print()
    if record.verdict:
        out.print(verdict_panel(record.plan, record.verdict))
    elif record.interrupted:
        out.print("[bold red]interrupted[/]:", words(interruption(record)))
    elif record.follower and record.follower.waits_for:
        out.print(
            f"[bold]{'queued' if record.queued else record.state.value}[/]: waits for", words(record.follower.waits_for)
        )
    else:
        out.print(f"[bold]{record.state.value}[/]:", words(record.message or "no verdict yet"))
