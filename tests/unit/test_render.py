"""What others said is shown as they said it: no markup, nothing that a terminal would obey."""

from dataclasses import replace
from io import StringIO

import pytest
from builders import CLUSTER, iid, plan_for
from rich.console import Console, RenderableType

from reaper.cli.journal import TerminalJournal
from reaper.cli.render import guards_table, plan_table, timeline_table
from reaper.domain.plan import Plan
from reaper.domain.verdict import Event, EventKind, GuardVerdict, Ruling
from reaper.testing.fleet import MemoryFleet
from reaper.testing.world import world

NASTY = "the table a[/]b \x1b[2J\x07 of [bold]ann"
SHOWN = "the table a[/]b �[2J� of [bold]ann"


@pytest.fixture
def plan() -> Plan:
    fleet = MemoryFleet()
    fleet.add_cluster(CLUSTER, 3)
    plan = plan_for(world(fleet), iid("n1"))
    return replace(plan, why=NASTY, steps=tuple(replace(step, what=NASTY) for step in plan.steps))


def printed(shown: RenderableType) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO from above


def event() -> Event:
    return Event(step="join", kind=EventKind.DONE, detail=NASTY, at_ns=2, wall="2026-03-02T12:00:00", took_ns=1)


def test_tables_show_what_was_said(plan: Plan) -> None:
    verdict = GuardVerdict(guard="shape", ruling=Ruling.REFUSE, reason=NASTY, evidence=(NASTY,))
    for shown in (plan_table(plan), guards_table((verdict,)), timeline_table((event(),))):
        said = printed(shown)
        assert SHOWN in said
        assert "\x1b" not in said


def test_the_progress_of_a_run_shows_what_was_said(plan: Plan) -> None:
    console = Console(file=StringIO(), width=200)
    journal = TerminalJournal(console)
    journal.begin(plan)
    journal.event(plan.run, event())
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # it is the StringIO from above
    assert len(lines) == 2
    assert all(line.endswith(SHOWN) for line in lines)
