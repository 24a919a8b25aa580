"""`Steps` on the journal of dbos: what a run does once, what it waits for, and whose it is."""

import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar, cast

from pydantic import ValidationError

from reaper.adapters.store.admission import owns, revived
from reaper.adapters.store.codec import decode, encode
from reaper.adapters.store.database import Database, Transaction
from reaper.adapters.store.library import ConflictError, DivergedError, Library
from reaper.domain.errors import OwnershipLostError, ReaperError, TryAgainError
from reaper.workflow.steps import Json, Message

T = TypeVar("T")

_log = logging.getLogger("reaper.store")

POST = timedelta(seconds=0.5)  # how often the store is asked for messages, once for all runs of a process


class Halted(BaseException):
    """This execution stops and the run stays open. A BaseException: no body may go on from here."""


class Closed(Halted):
    """The process is going away; the run goes on elsewhere or later."""


class Lost(Halted):
    """Another worker has the run."""


class Broken(Halted):
    """Something that is nobody's outcome: a bug, a store that does not answer, a journal that cannot be followed."""


class _NoRecord(BaseException):
    """Carries the loss of a run out of a step without a record."""

    def __init__(self, error: OwnershipLostError) -> None:
        super().__init__(error)
        self.error = error


class Post:
    """Wakes the runs of this process that have a message, and all of them when the process is to stop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, threading.Event] = {}
        self.draining = threading.Event()  # who waits for a message stops
        self.closing = threading.Event()  # everybody stops before the next effect
        threading.Thread(target=self._carry, daemon=True, name="reaper-post").start()

    def drain(self) -> None:
        """From now on nobody waits for a message."""
        self.draining.set()
        self._wake(list(self._waiting))

    def close(self) -> None:
        """From now on nobody does anything new."""
        self.closing.set()
        self.drain()

    def wait(self, run: str, within: timedelta) -> None:
        """Until the run has a message, the time is over, or the process is to stop."""
        event = self._waiting.setdefault(run, threading.Event())
        if not self.draining.is_set():
            event.wait(within.total_seconds())
        self._waiting.pop(run, None)

    def _carry(self) -> None:
        while not self.closing.wait(POST.total_seconds()):
            if not self._waiting:
                continue
            try:
                with self._database.read() as tx:
                    rows = tx.rows("select distinct run from reaper_messages where delivered is null")
            except TryAgainError as error:
                _log.warning("messages wait: %s", error)
                continue
            self._wake([row.run for row in rows])

    def _wake(self, runs: list[str]) -> None:
        for run in runs:
            event = self._waiting.get(run)
            if event is not None:
                event.set()


class RunSteps:
    """The `Steps` of one execution of one run. `run` and `receive` belong to the body's own thread."""

    def __init__(self, run: str, library: Library, database: Database, post: Post) -> None:
        self._run = run
        self._library = library
        self._database = database
        self._post = post
        self.token = library.token()
        self._number = 0
        self._inside = False
        self._lost = False
        self._words = ""

    def run(self, name: str, of: type[T], effect: Callable[[], T]) -> T:
        """Do `effect` once and record its result; a replay returns the recorded result."""
        recorded = self._step(name, lambda: cast(Json, json.loads(encode(of, effect()))))
        try:
            return decode(of, json.dumps(recorded))
        except ValidationError as error:
            raise Broken(f"the record of step {name} cannot be read as {of}: {error}") from error

    def own(self) -> None:
        """OwnershipLostError if another worker has taken this run over; TryAgainError if the store does not answer."""
        if not self._lost:
            with self._database.read() as tx:
                self._lost = not owns(tx, self._run, self.token)
        if self._lost:
            raise OwnershipLostError(
                f"another worker has taken {self._run} over: nothing more is done here. `reaper runs` shows who has it"
            )

    def waits_for(self, what: str) -> None:
        """Say in words what the run waits for. A store that fails here does not stop the run."""
        if what == self._words:
            return
        self._words = what
        try:
            with self._database.write() as tx:
                if owns(tx, self._run, self.token):
                    tx.do("update reaper_runs set words = :what where run = :run", what=what, run=self._run)
        except TryAgainError as error:
            _log.warning("what %s waits for (%s) is not shown: %s", self._run, what, error)

    def receive(self, within: timedelta) -> Message | None:
        """The next message to this run or None when the time is over. Recorded like a step."""
        number = self._number + 1
        recorded = self._step("receive", lambda: self._next_message(number, within))
        return None if recorded is None else decode(Message, json.dumps(recorded))

    # ---- the inside of a step

    def _step(self, name: str, effect: Callable[[], Json]) -> Json:
        if self._inside:
            raise Broken(f"step {name} was begun inside another step: only the outer one would be recorded")
        if self._lost:
            self.own()
        self._number += 1
        self._inside = True
        try:
            recorded = self._library.step(name, lambda: self._outcome(name, effect))
        except _NoRecord as passing:
            raise passing.error from passing.error.__cause__
        except ConflictError as error:
            self._lost = True
            raise OwnershipLostError(
                f"another worker took {self._run} over during step {name}: nothing more is done here"
            ) from error
        except DivergedError as error:
            raise Broken(
                f"the journal cannot be followed at step {name}: {error}. If the program was changed, let the version"
                " that began the run end it"
            ) from error
        finally:
            self._inside = False
        match recorded:
            case {"ok": value}:
                return value
            case {"error": str(error_class), "message": str(message)}:
                raise revived(error_class, message)
            case _:
                raise Broken(f"the record of step {name} is none of reaper's: {recorded!r}")

    def _outcome(self, name: str, effect: Callable[[], Json]) -> Json:
        """Do it. Nothing but a BaseException leaves: dbos would record every Exception."""
        if self._post.closing.is_set():
            raise Closed(f"{self._run} stops before {name}")
        try:
            self.own()
        except OwnershipLostError as error:
            raise _NoRecord(error) from error
        except TryAgainError as error:
            raise Broken(f"whose the run is cannot be asked before {name}: {error}") from error
        try:
            return {"ok": effect()}
        except OwnershipLostError as error:
            self._lost = True
            raise _NoRecord(error) from error
        except ReaperError as error:
            _log.debug("step %s of %s failed", name, self._run, exc_info=True)
            return {"error": type(error).__name__, "message": str(error)}
        except Exception as error:
            raise Broken(f"{type(error).__name__} in step {name}: {error}") from error

    def _next_message(self, number: int, within: timedelta) -> Json:
        with self._database.read() as tx:
            pending = _pending(tx, self._run, number)
            row = tx.row("select until from reaper_waits where run = :run and step = :step", run=self._run, step=number)
        began = datetime.now(UTC)
        until = began + within if row is None else datetime.fromisoformat(row.until)
        if row is None and not pending and within > timedelta(0):
            with self._database.write() as tx:
                tx.do(
                    "insert into reaper_waits (run, step, until) values (:run, :step, :until)",
                    run=self._run,
                    step=number,
                    until=until.isoformat(),
                )
        left = min(within, until - began)  # a clock that is set back must not make it longer
        if not pending and left > timedelta(0):
            self._post.wait(self._run, left)
        with self._database.write() as tx:
            message = _take(tx, self._run, number)
        if message is None and self._post.draining.is_set() and datetime.now(UTC) < until:
            raise Closed(f"{self._run} stops where it waits for a message")
        return message


def _pending(tx: Transaction, run: str, number: int) -> bool:
    row = tx.row(
        "select 1 from reaper_messages where run = :run and (delivered is null or delivered = :number)",
        run=run,
        number=number,
    )
    return row is not None


def _take(tx: Transaction, run: str, number: int) -> Json:
    """The oldest message that no earlier step got. One that this step got before it was cut down is its own."""
    row = tx.row(
        "select id, body from reaper_messages where run = :run and (delivered is null or delivered = :number)"
        " order by delivered is null, id",
        run=run,
        number=number,
    )
    if row is None:
        return None
    tx.do("update reaper_messages set delivered = :number where id = :id", number=number, id=row.id)
    return cast(Json, json.loads(row.body))
