"""Runs as recorded steps: the body that the engine follows, and a person who may interrupt it."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from getpass import getuser

from pydantic import ValidationError

from reaper.adapters.interrupt import SignalInterrupt, StoreInterrupt
from reaper.adapters.store.codec import decode, encode
from reaper.adapters.store.engine import Engine
from reaper.adapters.store.journal import RunRecord
from reaper.cli.compose import Quiet, Site
from reaper.cli.journal import Fan, announcer
from reaper.cli.logging import bring_in
from reaper.domain.errors import CallAPersonError, ReaperError, TryAgainError, UsageError
from reaper.domain.plan import Plan
from reaper.domain.verdict import RunVerdict
from reaper.workflow.ports import Journal
from reaper.workflow.resume import Resumption
from reaper.workflow.rotation import Rotation
from reaper.workflow.steps import Json, Message, Op, Steps
from reaper.workflow.world import World

VERSION = "rotation.2"  # of the recorded steps: changed when a step is added, removed, renamed or moved
_SIGNALS = SignalInterrupt()


def person() -> str:
    """Who is at the keyboard, for the record."""
    return f"{getuser()}@{socket.gethostname()}"


def message(op: Op, who: str, text: str) -> Message:
    """A message of now."""
    return Message(op=op, who=who, when=datetime.now(UTC).isoformat(timespec="seconds"), text=text)


@contextmanager
def following(
    site: Site, listener: Callable[[], Journal] = announcer, quiet: Quiet = contextlib.nullcontext
) -> Iterator[Engine]:
    """An engine in this process that follows rotations. Each run gets a listener of its own."""

    def body(steps: Steps, run: str, argument: Json) -> Json:
        try:
            plan = decode(Plan, json.dumps(argument))
        except ValidationError as error:
            raise CallAPersonError(f"the plan of {run} cannot be read by this version of reaper: {error}") from error
        return encode(RunVerdict, Rotation(_world(site, run, listener(), quiet), plan, steps).execute())

    bring_in("dbos", "reaper.store")
    with Engine(site.place.database, body, version=VERSION, name=f"{socket.gethostname()}-{os.getpid()}") as engine:
        yield engine


def verdict_of(outcome: Json) -> RunVerdict:
    """What a body returned."""
    if not isinstance(outcome, str):
        raise UsageError(f"the outcome of a run is no verdict: {outcome!r}")
    return decode(RunVerdict, outcome)


def resume(site: Site, engine: Engine, record: RunRecord) -> RunVerdict:
    """Replay what was recorded and go on; a run of another version is ended by what is the case."""
    if record.follower is None or record.follower.version in (None, VERSION):
        return verdict_of(engine.resume(record.run))
    taken = engine.take(record.run)
    taken.own()
    try:
        verdict = Resumption(_world(site, record.run, announcer()), record.plan).execute()
    except ReaperError as error:
        engine.finish(record.run, error)
        raise
    engine.finish(record.run, encode(RunVerdict, verdict))
    return verdict


def _world(site: Site, run: str, listener: Journal, quiet: Quiet = contextlib.nullcontext) -> World:
    interrupt = StoreInterrupt(_SIGNALS, lambda: site.work.told_to_stop(run), time.monotonic)
    return site.world(Fan(site.runs, listener), interrupt, quiet)


@contextmanager
def heeding_signals(site: Site, run: str) -> Iterator[None]:
    """A Ctrl-C aborts the run, also where it waits for a message."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(0.1):
            if not _SIGNALS.wished.is_set():
                continue
            # It may not have begun yet, or have ended by now, or the store may be busy: then it is said again.
            with contextlib.suppress(UsageError, TryAgainError):
                site.work.send(run, message(Op.ABORT, person(), "stopped by a signal"))
                return

    with _SIGNALS.installed():
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join(5)
