"""`reaper snapshots`: which copies are kept, whether they were proved, and their end. Heavy imports happen inside."""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from reaper.cli.options import OutputChoice, output_of
from reaper.domain.errors import ReaperError, RefusedError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reaper.adapters.store.snapshots import SnapshotStore
    from reaper.cli.compose import Site
    from reaper.planner.retention import Entry

snapshots_app = typer.Typer(
    invoke_without_command=True, help="Snapshots: age, size, whether a restore has proved them; delete one."
)

_UUID = re.compile(r"([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LONGEST_POSITION = 28


@snapshots_app.callback()
def snapshots(
    context: typer.Context,
    cluster: Annotated[str | None, typer.Option(help="One cluster; all if left out.")] = None,
    output: OutputChoice = "table",
) -> None:
    """List the snapshots of each cluster, newest first: how old, how large, restored when and with what result."""
    if context.invoked_subcommand is not None:
        return
    from reaper.cli.compose import site
    from reaper.cli.runs import Output, console, print_json

    wanted, now = output_of(output), datetime.now(UTC)
    entries, faults = entries_of(site(), cluster)
    if wanted is Output.JSON:
        print_json([entry_as_json(entry, now) for entry in entries])
    elif entries:
        console().print(entries_table(entries, now))
    else:
        of = f" of {cluster}" if cluster else ""
        sys.stdout.write(f"no snapshot{of} is kept: a policy with `replace: {{snapshot: {{keep: 7}}}}` keeps some\n")
    if faults:
        raise UsageError("; ".join(faults))


@snapshots_app.command("delete")
def delete(
    name: Annotated[str, typer.Argument(help="A snapshot's name, as `reaper snapshots` lists it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even if a run uses it, or no other one is proved to be a backup.")
    ] = False,
) -> None:
    """Delete a snapshot: the copy and everything beside it. Its record stays in the store."""
    from reaper.cli.compose import site
    from reaper.cli.render import size
    from reaper.planner.retention import why_not_deleted

    here = site()
    entries, _ = entries_of(here, None)
    entry = next((e for e in entries if e.name == name), None)
    if entry is None:
        raise UsageError(f"there is no snapshot {name!r}: `reaper snapshots` lists them")
    why = why_not_deleted(entry, entries)
    if why is not None and not force:
        raise RefusedError(f"{why}: nothing was deleted; `reaper snapshots delete {name} --force` does it nevertheless")
    here.fleet.forget(entry.cluster, name)
    if entry.record is not None:
        store_of(here).deleted(name, datetime.now(UTC))
    sys.stdout.write(f"deleted {name} of {entry.cluster}, {size(entry.snapshot.size_bytes)}\n")


def store_of(site: "Site") -> "SnapshotStore":
    """The book of snapshots of a site."""
    from reaper.adapters.store.snapshots import SnapshotStore

    return SnapshotStore(site.place)


def entries_of(site: "Site", cluster: str | None) -> tuple[tuple["Entry", ...], tuple[str, ...]]:
    """The inventory of one cluster or of all, and what could not be read. UsageError: no such cluster."""
    from reaper.planner.retention import inventory
    from reaper.workflow.prepare import Names

    store = store_of(site)
    known = sorted({*site.fleet.clusters(), *store.clusters()})
    if cluster is not None and cluster not in known:
        raise UsageError(f"there is no cluster {cluster!r}; there are: {', '.join(known) or 'none'}")
    open_runs = site.work.open_runs() if site.place.exists() else ()
    entries: list[Entry] = []
    faults: list[str] = []
    for name in known if cluster is None else [cluster]:
        its_runs = {r.run: Names(r.run).snapshot for r in open_runs if r.cluster == name}
        try:
            entries += inventory(name, store.kept(name), site.fleet.snapshots(name), open_runs=its_runs)
        except ReaperError as error:
            faults.append(f"{name}: {error}")  # one note that cannot be read does not hide the other clusters
    return tuple(entries), tuple(faults)


# ---- as a machine and as a person read it


def entry_as_json(entry: "Entry", now: datetime) -> dict[str, object]:
    """One snapshot; durations in seconds, moments in ISO 8601, null for what is unknown."""
    record, snapshot = entry.record, entry.snapshot
    test = record.test if record else None
    return {
        "cluster": entry.cluster,
        "name": entry.name,
        "standing": entry.standing.value,
        "source": str(snapshot.source),
        "taken_at": snapshot.taken_at.isoformat(),
        "age_s": (now - snapshot.taken_at).total_seconds(),
        "taken_by": record.taken_by if record else None,
        "method": snapshot.method.value,
        "note": snapshot.note,
        "position": snapshot.position,
        "executed": record.executed if record else None,
        "size_bytes": snapshot.size_bytes,
        "took_s": _seconds(record.took if record else None),
        "restore_took_s": _seconds(record.restore_took if record else None),
        "tested": {"at": test.at.isoformat(), "outcome": test.outcome.value, "words": test.words} if test else None,
        "used_by": list(record.used_by) if record else [],
        "in_use_by": list(entry.in_use_by),
    }


def entries_table(entries: Sequence["Entry"], now: datetime) -> "RenderableType":
    """The inventory; what is wrong with an entry stands in its last column."""
    from rich.table import Table

    from reaper.cli.render import short, size, words

    table = Table(box=None, pad_edge=False)
    numbers = ("age", "size", "took", "restored in")
    for column in ("cluster", "snapshot", "age", "size", "position", "method", "took", "restored in", "tested", ""):
        wraps = column in ("tested", "")
        table.add_column(column, no_wrap=not wraps, justify="right" if column in numbers else "left")
    for entry in entries:
        record, snapshot = entry.record, entry.snapshot
        table.add_row(
            words(entry.cluster),
            words(entry.name),
            short(now - snapshot.taken_at),
            size(snapshot.size_bytes),
            words(short_position(snapshot.position or (record.executed if record else None))),
            snapshot.method.value,
            short(record.took) if record and record.took is not None else "",
            short(record.restore_took) if record and record.restore_took is not None else "",
            _tested(entry, now),
            _remarks(entry),
        )
    return table


def _tested(entry: "Entry", now: datetime) -> "RenderableType":
    from rich.text import Text

    from reaper.cli.render import short, words
    from reaper.domain.snapshots import TestOutcome

    test = entry.record.test if entry.record else None
    if test is None:
        return Text("never", style="yellow")
    style = "green" if test.outcome is TestOutcome.PASSED else "bold red"
    return Text(f"{test.outcome} {short(now - test.at)} ago: ", style=style) + words(test.words)


def _remarks(entry: "Entry") -> "RenderableType":
    from rich.text import Text

    from reaper.planner.retention import Standing

    match entry.standing:
        case Standing.ORPHAN:
            said = "orphan: no run of this store has recorded it"
        case Standing.MISSING:
            said = "missing: its copy is gone"
        case Standing.KEPT:
            said = ""
    used = [run for run in entry.record.used_by if run not in entry.in_use_by] if entry.record else []
    said = "; ".join(
        part
        for part in (
            said,
            f"in use by {', '.join(entry.in_use_by)}" if entry.in_use_by else "",
            f"used by {', '.join(used[-2:])}{f' and {len(used) - 2} others' if len(used) > 2 else ''}" if used else "",
        )
        if part
    )
    return Text(said, style="yellow" if entry.standing is not Standing.KEPT else "")


def short_position(position: str | None) -> str:
    """A GTID set for a column: server uuids by their first eight digits, the rest cut; "unknown" for None."""
    if position is None:
        return "unknown"
    text = _UUID.sub(r"\1", position.replace("\n", ""))
    return text if len(text) <= _LONGEST_POSITION else f"{text[: _LONGEST_POSITION - 1]}…"


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
