"""A toy body for the durable engine, and a process to run it in: `python durable_toy.py '{"do": "run", ...}'`.

What each effect did is a line in a book, written at its start: `step pid`. The plan says where the power is
cut (once), which step waits for a file inside its effect (`gate`) or after it (`lull`), and which one asks.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from reaper.adapters.store.admission import Limits, Ticket
from reaper.adapters.store.database import Database
from reaper.adapters.store.engine import Engine
from reaper.adapters.store.lease import exit_at_once
from reaper.adapters.store.work import Work
from reaper.domain.errors import ReaperError, TryAgainError
from reaper.workflow.steps import Json, Steps

STEPS = ("snapshot", "launch", "join", "verify", "kill", "promote", "retire")
FAILS = "verify"
SIDES = ("before the effect", "after the effect", "between the steps")
PATIENCE = 60.0  # seconds, for everything that only ends by a fault


def lines(book: Path) -> list[tuple[str, int]]:
    """The effects in their order, as (step, pid)."""
    if not book.exists():
        return []
    return [(step, int(pid)) for step, pid in (line.rsplit(" ", 1) for line in book.read_text().splitlines())]


def note(book: Path, what: str) -> None:
    """One line, whole, whoever else writes."""
    with book.open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


def say(what: str) -> None:
    """One line to the test."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for it; AssertionError when it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"
        time.sleep(0.02)


def body(steps: Steps, run: str, argument: Json) -> Json:
    """Seven steps, one of which fails and is told so; the outcome is what they returned."""
    assert isinstance(argument, dict)
    book, cut, gate = Path(str(argument["book"])), argument.get("cut"), argument.get("gate")

    def power(step: str, side: str) -> None:
        if cut == [step, side]:
            mark = book.with_suffix(".cut")
            with contextlib.suppress(FileExistsError):
                mark.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

    def effect(step: str) -> int:
        power(step, "before the effect")
        note(book, f"{run}/{step}" if argument.get("shared") else step)
        if gate == step:
            until(book.with_suffix(".open").exists, "the gate to be opened")
        time.sleep(float(str(argument.get("takes", 0))))
        power(step, "after the effect")
        if step == FAILS and not argument.get("shared"):
            raise TryAgainError("the copy differs. Try again")
        return len(step)

    results: list[Json] = []
    for step in STEPS:
        if argument.get("asks") == step:
            steps.waits_for("a yes")
            steps.receive(timedelta(seconds=2 * PATIENCE))
            steps.waits_for("")
        try:
            results.append(steps.run(step, int, lambda step=step: effect(step)))  # type: ignore[misc]
        except TryAgainError as error:
            results.append(str(error))
        power(step, "between the steps")
        if argument.get("lull") == step:
            book.with_suffix(".lulled").touch()
            until(book.with_suffix(".go").exists, "the lull to end")
    return results


OUTCOME: list[Json] = [8, 6, 4, "the copy differs. Try again", 4, 7, 6]


@contextlib.contextmanager
def _engine(plan: dict[str, Any]) -> Iterator[Engine]:
    lost = exit_at_once if plan.get("lost", "exit") == "exit" else lambda: None
    database = Database(plan["where"] if "://" in plan["where"] else Path(plan["where"]))
    with Engine(database, body, version=plan.get("version", "v1"), name=plan.get("name", "toy"), lost=lost) as engine:
        say(engine.executor)
        yield engine


def main(plan: dict[str, Any]) -> int:
    """Do what the plan says; the outcome of a run goes to standard output."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    match plan["do"]:
        case "run":
            ticket = Ticket(run=plan["run"], cluster=plan["cluster"], group=None, argument=plan["argument"])
            with _engine(plan) as engine:
                say(json.dumps(engine.run(ticket, Limits())))
        case "leave":  # the main thread goes away while an effect hangs
            ticket = Ticket(run=plan["run"], cluster=plan["cluster"], group=None, argument=plan["argument"])
            with _engine(plan) as engine:
                threading.Thread(target=engine.run, args=(ticket, Limits()), daemon=True).start()
                until(lambda: lines(Path(plan["argument"]["book"])), "the first effect")
        case "resume":
            with _engine(plan) as engine:
                say(json.dumps(engine.resume(plan["run"])))
        case "work":
            stop = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            with _engine(plan) as engine:
                grace = timedelta(seconds=plan.get("grace", 30))
                engine.work(lambda: Limits(in_flight=plan.get("limit")), stop, grace)
        case "job":
            database = Database(Path(plan["where"]))
            with Work(database).exclusive(plan["cluster"], "lab down"):
                say("held")
                time.sleep(PATIENCE)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(json.loads(sys.argv[1])))
    except ReaperError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
