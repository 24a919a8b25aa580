"""`reaper history`: what the ended runs of each cluster cost over time, and the firings of policies."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from reaper.cli.parse import span
from reaper.domain.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reaper.adapters.store.standing import PolicyStore

MOST = 10_000  # runs, or firings: the newest

T = TypeVar("T")


class Form(StrEnum):
    """How a history is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is asked for."""

    cluster: str | None
    policy: str | None
    since: datetime | None
    output: Form

    def __str__(self) -> str:
        parts = [
            f" of {self.cluster}" if self.cluster else "",
            f" of the policy {self.policy}" if self.policy else "",
            f" since {self.since:%Y-%m-%d %H:%M} UTC" if self.since else "",
        ]
        return "".join(parts)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(history)


def history(
    cluster: Annotated[str | None, typer.Option(help="One cluster; all if left out.")] = None,
    policy: Annotated[str | None, typer.Option(help="Only what this policy asked for.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="30d|DATE", help="What ended after that: a time ago, or a date in UTC.")
    ] = None,
    firings: Annotated[
        bool, typer.Option("--firings", help="When policies fired and what they decided, instead of runs.")
    ] = False,
    output: Annotated[str, typer.Option(help="table, json or csv (a row for each run)")] = Form.TABLE.value,
) -> None:
    """Show what the runs of each cluster cost: how they ended, the outage's percentiles and trend, lost writes."""
    from reaper.cli.compose import site

    after = None if since is None else moment(since, datetime.now(UTC))
    wanted = _Wanted(cluster=cluster, policy=policy, since=after, output=_form(output))
    store = site().policies
    if not firings:
        _show_runs(store, wanted)
    elif cluster is None:
        _show_firings(store, wanted)
    else:
        raise UsageError("a firing is of no cluster: leave out --cluster, or --firings")


def _form(text: str) -> Form:
    try:
        return Form(text)
    except ValueError:
        raise UsageError(f"--output is table, json or csv, not {text!r}") from None


def moment(text: str, now: datetime) -> datetime:
    """`30d` before now, or an ISO date or moment, in UTC unless it says otherwise. UsageError: neither."""
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return now - span(text)
    except (typer.BadParameter, OverflowError):
        raise UsageError(
            f"--since {text!r} is neither a time ago, such as 30d or 12h, nor a date, such as 2026-11-01"
        ) from None


def _show_runs(store: "PolicyStore", wanted: _Wanted) -> None:
    from reaper.cli.charts import runs_as_csv, trend_as_json, trends_chart
    from reaper.planner.trend import trends

    runs = _newest(
        store.past_runs(wanted.policy, wanted.since, cluster=wanted.cluster, most=MOST + 1),
        wanted.output,
        f"no run{wanted} has ended: `reaper rotate CLUSTER` or `reaper kill --random` makes one, `reaper runs` shows"
        " what is under way",
    )
    _print(
        wanted.output,
        json_of=lambda: [trend_as_json(trend) for trend in trends(runs)],
        csv_of=lambda: runs_as_csv(runs),
        table_of=lambda width: trends_chart(trends(runs), width) if runs else None,
    )


def _show_firings(store: "PolicyStore", wanted: _Wanted) -> None:
    from reaper.cli.charts import firing_as_json, firings_as_csv, firings_table

    firings = _newest(
        store.firings(wanted.policy, since=wanted.since, most=MOST + 1),
        wanted.output,
        f"no firing{wanted} was recorded: `reaper daemon` fires policies, `reaper policies explain NAME` says when",
    )
    _print(
        wanted.output,
        json_of=lambda: [firing_as_json(firing) for firing in firings],
        csv_of=lambda: firings_as_csv(firings),
        table_of=lambda _width: firings_table(firings) if firings else None,
    )


def _newest(found: Sequence[T], output: Form, nothing: str) -> tuple[T, ...]:
    """As many as are shown. That there is nothing, or more, is not mixed into what a machine reads."""
    if not found:
        (sys.stdout if output is Form.TABLE else sys.stderr).write(f"{nothing}\n")
    if len(found) > MOST:
        sys.stderr.write(f"reaper: only the newest {MOST} are counted: --since, --cluster and --policy narrow it\n")
    return tuple(found[:MOST])


def _print(
    output: Form,
    *,
    json_of: Callable[[], list[dict[str, object]]],
    csv_of: Callable[[], str],
    table_of: "Callable[[int], RenderableType | None]",
) -> None:
    from reaper.cli.runs import console, print_json

    match output:
        case Form.JSON:
            print_json(json_of())
        case Form.CSV:
            sys.stdout.write(csv_of())
        case Form.TABLE:
            terminal = console()
            table = table_of(terminal.width)
            if table is not None:
                terminal.print(table)
