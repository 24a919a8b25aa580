"""Domain values as a person reads them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from reaper.adapters.store.journal import RunRecord
from reaper.cli.curve import recovery_line
from reaper.domain.facts import (
    ClusterView,
    Instance,
    InstanceState,
    Member,
    Openness,
    Replication,
    ServerFacts,
    ThreadState,
)
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, EventKind, GuardVerdict, Ruling, RunState, RunVerdict
from reaper.planner.shape import MasterWithReplicas, classify

_BAR, _BAR_WIDTH = "█", 40
_STYLE_OF_STATE = {
    RunState.GOOD: "green",
    RunState.RUNNING: "cyan",
    RunState.REFUSED: "yellow",
    RunState.UNDONE: "yellow",
    RunState.BAD: "red",
    RunState.STUCK: "bold red",
}


def short(span: timedelta | None) -> str:
    """A duration for a person: 12.3 ms, 4.56 s, 3 min, 2 h, 5 d; "unknown" for None."""
    if span is None:
        return "unknown"
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.2f} s" if divisor == 1 else f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def words(text: str) -> Text:
    """What servers, providers and people said: never markup, and nothing that a terminal would obey."""
    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in text))


def size(count: int | None) -> str:
    """Bytes for a person."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


# ---- status


def cluster_tree(view: ClusterView) -> RenderableType:
    """A cluster as a tree: the master, below it its replicas, beside it what is broken."""
    shape = classify(view)
    head = Text(view.name, style="bold")
    if view.endpoint:
        head.append(f"  endpoint {view.endpoint} -> {view.endpoint_target or 'nowhere'}", style="dim")
    tree = Tree(head)
    if isinstance(shape, MasterWithReplicas):
        branch = tree.add(_member(shape.master, shape.master))
        for replica in shape.replicas:
            branch.add(_member(replica, shape.master))
        rest = [m for m in view.members if m not in (shape.master, *shape.replicas)]
    else:
        tree.add(Text(f"{shape.name}: {shape.why}", style="bold red"))
        rest = list(view.members)
    for member in rest:
        tree.add(_member(member, None))
    return tree


def _member(member: Member, master: Member | None) -> RenderableType:
    instance, facts = member.instance, member.facts
    line = Text()
    line.append(f"{instance.id.short:<4}", style="bold")
    line.append(f" {instance.address}  ")
    if facts is None:
        style = "dim" if instance.state is InstanceState.QUARANTINED else "red"
        until = instance.quarantined_until
        text = f"quarantined until {until:%Y-%m-%d %H:%M:%S} UTC, never started again" if until else ""
        line.append(text or f"{instance.state}: {getattr(member.server, 'why', '')}", style=style)
        return line
    role = "master" if master is member else "replica" if facts.channels else "no replication"
    line.append(role, style="bold green" if role == "master" else "cyan")
    line.append(f"  {facts.openness}", style="bold" if facts.openness is Openness.OPEN else "")
    line.append(f"  {facts.version.split('-')[0]} {facts.flavour}  server id {facts.server_id}")
    age = datetime.now(UTC) - instance.created
    line.append(f"  age {short(age)}  {_place(instance)}", style="dim")
    second = Text(f"     {_gtids(facts)}", style="dim")
    third = Text("     ")
    for channel in facts.channels:
        third.append(_replication(channel, facts, master))
    third.append(_semi_sync(facts, role))
    return Group(line, second, third)


def _place(instance: Instance) -> str:
    """Where its data lies: how much of how much, or in which zone."""
    if instance.own_volume:
        return instance.zone or "on a volume of its own"
    return f"{size(instance.data_bytes)}, {size(instance.free_bytes)} free"


def _gtids(facts: ServerFacts) -> str:
    text = str(facts.executed).replace("\n", "")
    return f"executed {text if len(text) <= 90 else '... ' + text[-86:]}"  # the newest come last


def _replication(channel: Replication, facts: ServerFacts, master: Member | None) -> str:
    good = channel.receiver is ThreadState.RUNNING and channel.applier is ThreadState.RUNNING
    said = "replicating" if good else f"receiver {channel.receiver}, applier {channel.applier}"
    behind = ""
    if master and master.facts and type(master.facts.executed) is type(facts.executed):
        behind = f", {master.facts.executed.distance(facts.executed)} transactions behind"
    faults = [e for e in (channel.receiver_error, channel.applier_error) if e]
    delay = f", delayed by {short(channel.delay)}" if channel.delay else ""
    return f"{said} from {channel.source}{behind}{delay}" + "".join(f", {f}" for f in faults) + "; "


def _semi_sync(facts: ServerFacts, role: str) -> str:
    state = facts.semi_sync
    if role == "master":
        if not state.source_enabled:
            return "semi-sync off"
        if not state.source_active:
            return f"semi-sync fallen back to asynchronous ({state.source_clients} replicas attached)"
        return (
            f"semi-sync on, {state.source_clients} replicas acknowledge, {state.unacknowledged} commits unacknowledged"
        )
    return f"semi-sync {'on' if state.replica_active else 'off'}"


def view_as_json(view: ClusterView) -> dict[str, object]:
    """A cluster for a machine. Durations in seconds, times in ISO 8601, unknown is null."""
    shape = classify(view)
    sound = isinstance(shape, MasterWithReplicas)
    return {
        "cluster": view.name,
        "taken_at": view.taken_at.isoformat(),
        "shape": "master with replicas" if sound else getattr(shape, "name", ""),
        "fault": None if sound else getattr(shape, "why", ""),
        "endpoint": str(view.endpoint) if view.endpoint else None,
        "endpoint_target": str(view.endpoint_target) if view.endpoint_target else None,
        "members": [
            _member_as_json(m, shape.master if isinstance(shape, MasterWithReplicas) else None) for m in view.members
        ],
    }


def _member_as_json(member: Member, master: Member | None) -> dict[str, object]:
    i, f = member.instance, member.facts
    record: dict[str, object] = {
        "instance": str(i.id),
        "address": str(i.address),
        "state": i.state.value,
        "created": i.created.isoformat(),
        "data_bytes": i.data_bytes,
        "free_bytes": i.free_bytes,
        "quarantined_until": i.quarantined_until.isoformat() if i.quarantined_until else None,
        "unreachable": None if f else getattr(member.server, "why", ""),
    }
    if f is None:
        return record
    behind = master.facts.executed.distance(f.executed) if master and master.facts else None
    semi = f.semi_sync
    return record | {
        "role": "master" if member is master else "replica" if f.channels else "none",
        "flavour": f.flavour.value,
        "version": f.version,
        "server_id": f.server_id,
        "openness": f.openness.value,
        "executed": str(f.executed),
        "transactions_behind": behind,
        "channels": [
            {
                "source": str(c.source),
                "receiver": c.receiver.value,
                "applier": c.applier.value,
                "errors": [e for e in (c.receiver_error, c.applier_error) if e],
                "delay_s": c.delay.total_seconds(),
                "received": str(c.received),
            }
            for c in f.channels
        ],
        "semi_sync": {
            "source_enabled": semi.source_enabled,
            "source_active": semi.source_active,
            "clients": semi.source_clients,
            "unacknowledged": semi.unacknowledged,
            "replica_active": semi.replica_active,
        },
        "uptime_s": f.uptime.total_seconds(),
    }


# ---- plans and guards


def plan_table(plan: Plan) -> RenderableType:
    """The steps of a plan."""
    table = Table(title=words(f"{plan.run}: {plan.why}"), title_justify="left", box=None, pad_edge=False)
    for column in ("phase", "step", "what"):
        table.add_column(column, no_wrap=column != "what")
    last = ""
    for step in plan.steps:
        table.add_row(step.phase.value if step.phase.value != last else "", step.name.value, words(step.what))
        last = step.phase.value
    return table


def guards_table(verdicts: tuple[GuardVerdict, ...]) -> RenderableType:
    """Each guard's verdict, refusals first, with the evidence."""
    table = Table(box=None, pad_edge=False)
    for column in ("verdict", "guard", "reason and evidence"):
        table.add_column(column, no_wrap=column != "reason and evidence")
    for v in sorted(verdicts, key=lambda v: v.ruling is Ruling.GO):
        style = "red" if v.ruling is Ruling.REFUSE else "green"
        text = words(v.reason)
        for line in v.evidence:
            text.append("\n  ").append(words(line).plain, style="dim")
        table.add_row(Text(v.ruling.value, style=style), words(v.guard), text)
    return table


# ---- runs


def verdict_panel(plan: Plan, verdict: RunVerdict) -> RenderableType:
    """What a run cost."""
    lines: list[RenderableType] = []
    head = Text("verdict: ", style="bold")
    head.append("good" if verdict.good else "bad", style="bold green" if verdict.good else "bold red")
    head.append(f"  ({plan.policy.mode} kill of {plan.victim}, {plan.role})")
    lines.append(head)
    lines += [Text("  fault: ", style="red").append(words(fault)) for fault in verdict.faults]
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    budget = short(plan.policy.outage_budget)
    if len(verdict.clients) > 1:
        table.add_row("outage per client", ", ".join(short(c.outage) for c in verdict.clients))
    table.add_row("outage", f"{short(verdict.outage):>9}  (worst client; budget {budget})")
    for part in verdict.parts:
        share = part.took / verdict.outage if verdict.outage else 0.0
        table.add_row(f"  {part.name}", f"{short(part.took):>9}  {_BAR * round(share * _BAR_WIDTH)}")
    if verdict.ledger:
        ledger = verdict.ledger
        lost = Text(f"{len(ledger.lost)} lost of {ledger.acknowledged} acknowledged")
        lost.stylize("bold green" if not ledger.lost else "bold red")
        table.add_row("writes", lost)
        unknown = ledger.unknown_present + ledger.unknown_absent
        fate = f"{unknown} ({ledger.unknown_present} committed, {ledger.unknown_absent} not)"
        table.add_row("unknown fate", fate)
        table.add_row("duplicated", str(len(ledger.duplicated)))
        table.add_row("refused", str(ledger.refused))
    table.add_row("copies", f"{verdict.copies_before} before, {verdict.copies_after} after")
    if verdict.heir:
        table.add_row("heir", words(verdict.heir))
    for name, text in _evidence(verdict):
        table.add_row(name, words(text))
    for note in verdict.notes:
        table.add_row("note", words(note))
    lines.append(table)
    return Group(*lines)


def _evidence(verdict: RunVerdict) -> Iterator[tuple[str, str]]:
    """What the replacement showed, and what its victim left."""
    proven, recovery, forensics = verdict.proven, verdict.recovery, verdict.forensics
    if proven is not None:
        origin = f"{proven.snapshot}, {short(proven.snapshot_age)} old, restored in {short(proven.restore_took)}"
        yield "replacement", f"from {origin}{', used again' if proven.reused else ''}"
        yield "data", str(proven.comparison)
        yield "parity", proven.parity.reason
        if proven.warmth is not None:
            yield "warmth", proven.warmth.words
        if proven.rehearsed:
            passed = sum(one.ok for one in proven.rehearsed)
            yield "rehearsal", f"{passed} of {len(proven.rehearsed)} replicas replicated from the heir before the kill"
    if recovery is not None:
        yield "normal", recovery.words
        if line := recovery_line(recovery, _BAR_WIDTH):
            yield "", f"{line}  latency since the kill, on a scale of doublings"
    if forensics is not None:
        yield "victim's tail", forensics.summary


def interruption(record: RunRecord) -> str:
    """Why nobody follows a run that has not ended, what it waited for, and what to do."""
    follower = record.follower
    why = f"broken: {follower.broken}" if follower and follower.broken else "its process is gone"
    waited = f", waits for {follower.waits_for}" if follower and follower.waits_for else ""
    return f"{why}{waited}; `reaper resume {record.run}` goes on with it"


def timeline_table(events: tuple[Event, ...]) -> RenderableType:
    """What happened when, relative to the first event."""
    table = Table(box=None, pad_edge=False)
    for column in ("at", "step", "", "took", "detail"):
        table.add_column(column, no_wrap=column != "detail", justify="right" if column in ("at", "took") else "left")
    begin = events[0].at_ns if events else 0
    for e in sorted(events, key=lambda e: e.at_ns - (e.took_ns or 0)):
        if e.kind is EventKind.STARTED:
            continue
        took = None if e.took_ns is None else timedelta(microseconds=e.took_ns / 1000)
        began = timedelta(microseconds=(e.at_ns - (e.took_ns or 0) - begin) / 1000)
        style = "red" if e.kind is EventKind.FAILED else ""
        table.add_row(
            f"{began.total_seconds():.3f} s",
            Text(e.step, style=style),
            e.kind.value,
            short(took) if took is not None else "",
            words(e.detail),
        )
    return table
