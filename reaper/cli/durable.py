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
from reaper.adapters.store.engine import Engine
from reaper.adapters.store.journal import AnyRecord, GroupRunRecord
from reaper.adapters.store.records import AnyPlan, AnyVerdict, plan_of, verdict_text
from reaper.adapters.store.records import verdict_of as verdict_of_text
from reaper.cli import groups as group_site
from reaper.cli.compose import Quiet, Site
from reaper.cli.journal import Fan, announcer
from reaper.cli.logging import bring_in
from reaper.domain.errors import CallAPersonError, ReaperError, TryAgainError, UsageError
from reaper.domain.groups import GroupPlan
from reaper.workflow.groups import GroupJournal, GroupRotation, GroupWorld
from reaper.workflow.groups_unreplayed import end_unreplayed
from reaper.workflow.ports import Interrupt, Journal
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
    site: Site,
    listener: Callable[[], Journal] = announcer,
    quiet: Quiet = contextlib.nullcontext,
    group_listener: Callable[[], GroupJournal] = group_site.group_announcer,
) -> Iterator[Engine]:
    """An engine in this process that follows runs. Each run gets a listener of its own."""

    def body(steps: Steps, run: str, argument: Json) -> Json:
        try:
            plan: AnyPlan = plan_of(json.dumps(argument))
        except ValidationError as error:
            raise CallAPersonError(f"the plan of {run} cannot be read by this version of reaper: {error}") from error
        if isinstance(plan, GroupPlan):
            return verdict_text(GroupRotation(_group_world(site, run, group_listener()), plan, steps).execute())
        return verdict_text(Rotation(_world(site, run, listener(), quiet), plan, steps).execute())

    bring_in("dbos", "reaper.store")
    with Engine(site.place.database, body, version=VERSION, name=f"{socket.gethostname()}-{os.getpid()}") as engine:
        yield engine


def verdict_of(outcome: Json) -> AnyVerdict:
    """What a body returned."""
    if not isinstance(outcome, str):
        raise UsageError(f"the outcome of a run is no verdict: {outcome!r}")
    return verdict_of_text(outcome)


def resume(site: Site, engine: Engine, record: AnyRecord) -> AnyVerdict:
    """Replay what was recorded and go on; a run of another version is ended by what is the case."""
    if record.follower is None or record.follower.version in (None, VERSION):
        return verdict_of(engine.resume(record.run))
    taken = engine.take(record.run)
    taken.own()
    try:
        verdict = _without_replay(site, record)
    except ReaperError as error:
        engine.finish(record.run, error)
        raise
    engine.finish(record.run, verdict_text(verdict))
    return verdict


def _without_replay(site: Site, record: AnyRecord) -> AnyVerdict:
    if isinstance(record, GroupRunRecord):
        raise end_unreplayed(_group_world(site, record.run, group_site.group_announcer()), record.plan)
    return Resumption(_world(site, record.run, announcer()), record.plan).execute()


def finish_stuck(site: Site, record: AnyRecord, interrupt: Interrupt) -> AnyVerdict:
    """End a stuck run by what is the case. The caller has its cluster or group for itself."""
    if isinstance(record, GroupRunRecord):
        listener = group_site.group_announcer()
        raise end_unreplayed(
            group_site.group_world(site, group_site.must_reach(site), listener, interrupt), record.plan
        )
    return Resumption(site.world(Fan(site.runs, announcer()), interrupt), record.plan).execute()


def _world(site: Site, run: str, listener: Journal, quiet: Quiet = contextlib.nullcontext) -> World:
    return site.world(Fan(site.runs, listener), _interrupt(site, run), quiet)


def _group_world(site: Site, run: str, listener: GroupJournal) -> GroupWorld:
    """NoGroupsHereError: this process reaches no groups."""
    groups = group_site.reached(site)
    if groups is None:
        raise group_site.NoGroupsHereError(f"{group_site.NOT_SET_UP}, so that {run} cannot go on in this process")
    return group_site.group_world(site, groups, listener, _interrupt(site, run))


def _interrupt(site: Site, run: str) -> StoreInterrupt:
    return StoreInterrupt(_SIGNALS, lambda: site.work.told_to_stop(run), time.monotonic)


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
