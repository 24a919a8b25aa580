"""Runs over groups as a person reads them, and the list in which they stand among those over clusters."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reaper.adapters.policies.explain_groups import floor_in_words
from reaper.adapters.store.journal import AnyRecord, GroupRunRecord, Recorded, RunRecord
from reaper.cli.render import short, words
from reaper.domain.groups import Draining, GroupPlan, GroupPolicy, GroupVerdict
from reaper.domain.verdict import RunState
from reaper.planner.words import in_words

_STYLE_OF_STATE = {
    RunState.GOOD: "green",
    RunState.RUNNING: "cyan",
    RunState.REFUSED: "yellow",
    RunState.UNDONE: "yellow",
    RunState.BAD: "red",
    RunState.STUCK: "bold red",
}


def how(policy: GroupPolicy) -> tuple[tuple[str, str], ...]:
    """The steps that every instance of a run goes through, and what each does."""
    steps = [
        ("guards", f"{floor_in_words(policy.floor)} have to serve without it; waits {in_words(policy.settle_within)}")
    ]
    if policy.draining is Draining.REAPER:
        steps.append(("drain", f"out of every target group, its requests end within {in_words(policy.drain_within)}"))
    steps.append(("terminate", "judged once more, then terminated in its group, whose size stays"))
    steps.append(("successor", f"one that the group launches is healthy within {in_words(policy.successor_within)}"))
    return tuple(steps)


def group_plan_table(plan: GroupPlan) -> RenderableType:
    """Who dies one after the other, and how."""
    table = Table(title=words(f"{plan.run}: {plan.why}"), title_justify="left", box=None, pad_edge=False)
    for column in ("place", "instance", "what"):
        table.add_column(column, no_wrap=column != "what")
    for place, victim in enumerate(plan.victims, 1):
        table.add_row(str(place), words(victim.id.short), words(victim.why))
    for step, what in how(plan.policy):
        table.add_row("", step, words(what), style="dim")
    if plan.seed is not None:
        table.add_row("", "seed", str(plan.seed), style="dim")
    return table


def group_spared_table(plan: GroupPlan) -> RenderableType | None:
    """Who is left alone, and why; None: nobody is."""
    if not plan.spared:
        return None
    table = Table(box=None, pad_edge=False)
    table.add_column("spared", no_wrap=True)
    table.add_column("why")
    for one in plan.spared:
        table.add_row(words(one.id.short), words(one.why))
    return table


def group_verdict_panel(plan: GroupPlan, verdict: GroupVerdict) -> RenderableType:
    """What a run did."""
    head = Text("verdict: ", style="bold")
    head.append("good" if verdict.good else "bad", style="bold green" if verdict.good else "bold red")
    head.append(f"  ({len(verdict.replaced)} of {len(plan.victims)} instances of ").append(words(plan.group))
    head.append(" were replaced)")
    lines: list[RenderableType] = [head]
    lines += [Text("  fault: ", style="red").append(words(fault)) for fault in verdict.faults]
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("victim", "successor", "drained", "took", "served at least"):
        table.add_column(column, no_wrap=True)
    for one in verdict.replaced:
        successor = one.successor.short if one.successor else "nobody"
        drained = "by its group" if one.drained is None else short(one.drained)
        table.add_row(words(one.victim.short), words(successor), drained, short(one.took), str(one.fewest))
    if verdict.replaced:
        lines.append(table)
    if verdict.left:
        lines.append(Text("  left: ").append(words(", ".join(i.short for i in verdict.left))))
    return Group(*lines)


# ---- the list


def runs_list(records: tuple[AnyRecord, ...]) -> RenderableType:
    """The runs, newest first."""
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "victim", "outage", "lost", "began (UTC)", "why"):
        table.add_column(column, no_wrap=column != "why")
    for r in records:
        victim, outage, lost = _group_cells(r) if isinstance(r, GroupRunRecord) else _cells(r)
        began = f"{r.began:%Y-%m-%d %H:%M:%S}"
        table.add_row(words(r.run), _state(r), words(victim), outage, lost, began, words(_why(r)))
    return table


def _cells(record: RunRecord) -> tuple[str, str, str]:
    v = record.verdict
    lost = str(len(v.ledger.lost)) if v and v.ledger else "-"
    return record.plan.victim.short, short(v.outage) if v else "-", lost


def _group_cells(record: GroupRunRecord) -> tuple[str, str, str]:
    """Instances have no outage of their own and hold nothing that could be lost."""
    planned, v = len(record.plan.victims), record.verdict
    return f"{len(v.replaced)} of {planned}" if v else f"{planned} instance{'' if planned == 1 else 's'}", "-", "-"


def _state(record: Recorded) -> Text:
    if record.interrupted:
        return Text("interrupted", style="bold red")
    if record.queued:
        return Text("queued", style="cyan")
    return Text(record.state.value, style=_STYLE_OF_STATE[record.state])


def _why(record: AnyRecord) -> str:
    if record.interrupted:
        return interruption_of(record)
    if record.follower and record.follower.waits_for:
        return f"waits for {record.follower.waits_for}"
    v = record.verdict
    return "; ".join(v.faults) if v and v.faults else record.message or record.plan.why


def interruption_of(record: AnyRecord) -> str:
    """Why nobody follows a run that has not ended, what it waited for, and what to do."""
    follower = record.follower
    why = f"broken: {follower.broken}" if follower and follower.broken else "its process is gone"
    waited = f", waits for {follower.waits_for}" if follower and follower.waits_for else ""
    return f"{why}{waited}; `reaper resume {record.run}` goes on with it"
