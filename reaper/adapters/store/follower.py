"""One execution of a run: the body, from where its journal ends to the run's end or to what stops it."""

import json
import logging
from collections.abc import Callable

from reaper.adapters.store import admission
from reaper.adapters.store.database import Database, now
from reaper.adapters.store.library import Library
from reaper.adapters.store.steps import Broken, Closed, Halted, Lost, Post, RunSteps
from reaper.domain.errors import OwnershipLostError, ReaperError, TryAgainError
from reaper.workflow.steps import Json, Steps

_log = logging.getLogger("reaper.store")

Body = Callable[[Steps, str, Json], Json]  # steps, the run's name, its argument -> its outcome


class Follower:
    """Follows the runs of one executor."""

    def __init__(self, database: Database, library: Library, post: Post, body: Body, executor: str) -> None:
        self._database = database
        self._library = library
        self._post = post
        self._body = body
        self._executor = executor

    def follow(self, run: str) -> None:
        """One execution, in its own thread: to the run's end, or out by a Halted."""
        steps = RunSteps(run, self._library, self._database, self._post)
        try:
            self._do(run, steps)
        except (Lost, OwnershipLostError) as error:
            _log.warning("%s is another worker's now: %s", run, error)
            raise Lost(str(error)) from error
        except Closed:
            _log.warning("%s stops here and goes on elsewhere or later", run)
            raise
        except BaseException as error:
            cause = error.__cause__ if isinstance(error, Broken) and error.__cause__ else error
            words = str(error) if isinstance(error, Halted) else f"{type(error).__name__}: {error}"
            _log.error("%s is broken: %s", run, words, exc_info=cause)
            self.give_up(run, words, steps.token)
            raise Broken(words) from error

    def _do(self, run: str, steps: RunSteps) -> None:
        with self._database.write() as tx:
            row = admission.find(tx, run)
            assert row is not None, "it was admitted"
            if row.ended is not None:
                return  # it died between its end and the last word of dbos
            if row.began is None:
                tx.do("update reaper_runs set began = :now where run = :run", now=now(), run=run)
        outcome: Json | ReaperError
        try:
            outcome = self._body(steps, run, json.loads(row.argument))
        except OwnershipLostError:
            raise
        except ReaperError as error:
            _log.debug("%s ends with %s", run, type(error).__name__, exc_info=True)
            outcome = error
        with self._database.write() as tx:
            if not admission.owns(tx, run, steps.token):
                raise Lost(f"{run} was taken over before its end")
            admission.end(tx, run, outcome)

    def give_up(self, run: str, words: str, token: str | None = None) -> None:
        """The run is nobody's, and why. If the store does not answer it stays ours, and is found as an orphan."""
        try:
            with self._database.write() as tx:
                if token is None or admission.owns(tx, run, token):
                    tx.do(
                        "update reaper_runs set executor = null, broken = :words, broken_at = :now"
                        " where run = :run and executor = :executor and ended is null",
                        run=run,
                        words=words,
                        now=now(),
                        executor=self._executor,
                    )
        except TryAgainError as error:
            _log.error("that %s is broken (%s) cannot be recorded: %s", run, words, error)
