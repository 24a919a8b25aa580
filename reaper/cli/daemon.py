"""`reaper daemon` and `reaper run --once`: policies that act by themselves. Heavy imports happen inside."""

import os
import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from reaper.domain.errors import ExitCode, UsageError


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(daemon)
    app.command("run")(run_once)


def daemon() -> None:
    """Carry out policies on their schedules until SIGTERM; SIGHUP, or a change of a file, reads them again."""
    from reaper.adapters.telemetry.notify import Notifier
    from reaper.cli.compose import site
    from reaper.cli.stewardship import Stewardship

    stop, again = threading.Event(), threading.Event()

    def heed(number: int, _frame: FrameType | None) -> None:
        (again if number == signal.SIGHUP else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, heed)
    notifier = Notifier.take(os.environ)
    with Stewardship(site()) as stewardship:
        stewardship.serve(stop, again, notifier)


def run_once(
    once: Annotated[bool, typer.Option("--once", help="Fire what is due now, follow it to its end, and end.")] = False,
) -> None:
    """What the daemon does, once: for plain cron. Ends when the runs that began have ended."""
    from reaper.cli.compose import site
    from reaper.cli.stewardship import Stewardship

    if not once:
        raise UsageError("say --once; what goes on by itself is `reaper daemon`")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Stewardship(site()) as stewardship:
        good = stewardship.once(stop)
    raise typer.Exit(int(ExitCode.GOOD if good else ExitCode.BAD_VERDICT))
