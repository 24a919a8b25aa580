"""The console script: the commands by their groups, and every mistake as a sentence and an exit code."""

import sys
from typing import Annotated

import typer

from reaper import __version__
from reaper.cli import adopt, daemon, history, iam, orders, plan, rotations, trends
from reaper.cli.lab import lab_app
from reaper.cli.policies import policies_app
from reaper.cli.snapshots import snapshots_app
from reaper.domain.errors import ExitCode, OwnershipLostError, ReaperError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Database servers as disposable components: rotate, kill and replace masters, with proof.",
)
app.add_typer(lab_app, name="lab")
history.add_to(app)
rotations.add_to(app)
orders.add_to(app)
daemon.add_to(app)
plan.add_to(app)
trends.add_to(app)
iam.add_to(app)
adopt.add_to(app)
app.add_typer(policies_app, name="policies")
app.add_typer(snapshots_app, name="snapshots")


def run() -> None:
    """The console script: a person's mistake is a sentence and an exit code, never a traceback."""
    try:
        app()
    except (ReaperError, OwnershipLostError) as error:
        sys.stderr.write(f"reaper: {error}\n")
        sys.exit(int(error.exit_code))
    except BrokenPipeError:
        sys.exit(int(ExitCode.USAGE))
    except KeyboardInterrupt:
        sys.stderr.write("reaper: interrupted\n")
        sys.exit(int(ExitCode.INTERRUPTED))
    except OSError as error:
        sys.stderr.write(f"reaper: {error.strerror or error}{f': {error.filename}' if error.filename else ''}\n")
        sys.exit(int(ExitCode.TRY_AGAIN))


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"reaper {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    return
