"""Everything that is taken from dbos, public and private, in one place.

dbos is imported when a run is about to begin, never before: who only asks or tells needs no dbos, and a daemon
that waits for its first run has neither its memory (22 MB, measured) nor its threads. It is pinned to one minor
version, because of PRIVATE; a test checks that list against what is installed.
Of dbos there is used: the journal of steps, and the owner token that each execution of a run has.
"""

import concurrent.futures
import functools
import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import sqlalchemy as sa

from reaper.domain.errors import TryAgainError, UsageError
from reaper.workflow.steps import Json

PINNED = "3.4"  # the minor version whose private functions were read and tested
WORKFLOW = "reaper.run"  # recorded with every run: never rename it

# Module, name, parameters: what is used although dbos does not promise it.
PRIVATE: tuple[tuple[str, str, tuple[str, ...] | None], ...] = (
    ("dbos._core", "execute_dequeued_workflow", ("dbos", "status", "owner_xid")),
    ("dbos._dbos", "_get_dbos_instance", ()),
    ("dbos._context", "get_local_dbos_context", ()),
    ("dbos._error", "DBOSWorkflowConflictIDError", ("workflow_id",)),
    ("dbos._serialization", "DefaultSerializer.serialize", ("self", "data")),
    ("dbos._serialization", "DefaultSerializer.deserialize", ("cls", "serialized_data")),
    ("dbos._sys_db", "SystemDatabase.get_workflow_status", ("self", "workflow_uuid")),
    ("dbos._utils", "GlobalParams.dbos_version", None),
    ("dbos._utils", "GlobalParams.dbos_cloud", None),
)
# Of the object that _get_dbos_instance returns, once launched, and of its _sys_db.
INSTANCE_FIELDS = ("_executor_field", "_sys_db", "background_thread_stop_events", "_background_jobs_stop_event")
STORE_FIELDS = ("_run_background_processes",)
# The table and the columns of dbos that our own statements read or write.
TABLE = "workflow_status"
COLUMNS = (
    "workflow_uuid",
    "status",
    "executor_id",
    "owner_xid",
    "application_version",
    "recovery_attempts",
    "updated_at",
)


class DivergedError(Exception):
    """The journal cannot be followed: it says something else than the program, or cannot be read."""


class ConflictError(Exception):
    """The journal refuses a record: another execution owns the run."""


class Library:
    """dbos, launched at most once. `workflow` gets a run's name; it leaves by a BaseException to stay unfinished.

    UsageError: what is installed, or the environment, is not what reaper was tested with.
    """

    def __init__(self, url: str, executor: str, version: str, workflow: Callable[[str], None]) -> None:
        installed = importlib.metadata.version("dbos")
        if not installed.startswith(f"{PINNED}."):
            raise UsageError(
                f"dbos {installed} is installed and reaper uses what only {PINNED}.* has:"
                f" `pip install 'dbos=={PINNED}.*'`"
            )
        if os.environ.get("DBOS__CLOUD"):
            raise UsageError("DBOS__CLOUD is set, which would have the runs known to a service: unset it")
        self._url, self._executor, self._version = url, executor, version
        self._follow = workflow
        self._threads = _Threads()
        self._launching = threading.Lock()
        self._launched = False
        # What is taken from dbos, once it is imported.
        self._dbos: Any
        self._instance: Callable[[], Any]
        self._named: Any
        self._execute: Callable[..., object]
        self._context: Callable[[], Any]
        self._conflict: type[BaseException]
        self._workflow: Any

    def launch(self) -> None:
        """Make dbos's tables and be ready for runs; nothing if that was done. TryAgainError: the store does not answer.

        Call it before a statement that names a table of dbos.
        """
        with self._launching:
            if self._launched:
                return
            self._take_in()
            try:
                self._dbos.launch()
            except sa.exc.SQLAlchemyError as error:
                self._dbos.destroy(destroy_registry=True)
                raise TryAgainError(
                    f"the journal of runs cannot be opened: {error}. See to the store, then try again"
                ) from error
            instance = self._instance()
            pool, instance._executor_field = instance._executor_field, self._threads
            pool.shutdown(wait=False)
            _hush(instance)
            self._launched = True

    def _take_in(self) -> None:
        """Import dbos and set it up."""
        # A handler before the import, so that dbos finds one and adds none: its lines go the way of everybody's.
        log = logging.getLogger("dbos")
        handlers, propagate = list(log.handlers), log.propagate
        log.addHandler(logging.NullHandler())
        import dbos
        from dbos._context import get_local_dbos_context
        from dbos._core import execute_dequeued_workflow
        from dbos._dbos import _get_dbos_instance
        from dbos._error import DBOSWorkflowConflictIDError
        from dbos._serialization import DBOSPortableJSONSerializer, DefaultSerializer
        from dbos._utils import GlobalParams

        if GlobalParams.dbos_cloud:
            raise UsageError(
                "dbos takes this for its own cloud, which would have the runs known to it: do not set it up"
            )
        for name in ("serialize", "deserialize"):  # a row names its own format: without this, a row can run code
            setattr(DefaultSerializer, name, _refusal(getattr(DefaultSerializer, name)))
        self._dbos, self._instance = dbos.DBOS, _get_dbos_instance
        self._named, self._execute = dbos.SetWorkflowID, execute_dequeued_workflow
        self._context, self._conflict = get_local_dbos_context, DBOSWorkflowConflictIDError
        config: dbos.DBOSConfig = {
            "name": "reaper",
            "system_database_url": self._url,
            "executor_id": self._executor,
            "application_version": self._version,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "enable_otlp": False,
            "sys_db_idle_transaction_timeout_sec": 3.0,  # a stopped worker must not keep its rows locked
            "notification_listener_polling_interval_sec": 0.1,  # its notifications are not used; closing waits for it
        }
        self._dbos(config=config)
        log.handlers[:] = handlers
        log.propagate = propagate
        log.setLevel(logging.WARNING)

        def reaper_run(run: str) -> None:
            self._follow(run)

        self._workflow = self._dbos.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)(reaper_run)

    def destroy(self) -> None:
        """Let go of the database. Runs that are in an effect keep their thread until it returns."""
        with self._launching:
            if self._launched:
                self._dbos.destroy(destroy_registry=True)
                self._launched = False

    # ---- from outside of a run

    def start(self, run: str) -> concurrent.futures.Future[None] | None:
        """Begin a run in this process; its execution, or None if it has begun elsewhere."""
        with self._named(run):
            return self._threads.started_by(lambda: self._dbos.start_workflow(self._workflow, run))

    def go_on(self, run: str, token: str) -> concurrent.futures.Future[None] | None:
        """Run here what has just been claimed with this owner token; None if it ended meanwhile."""
        status = self._instance()._sys_db.get_workflow_status(run)
        assert status is not None, "it was claimed a moment ago"
        return self._threads.started_by(lambda: self._execute(self._instance(), status, token))

    # ---- from inside of a run, in its own thread

    def token(self) -> str:
        """The owner token of this execution of the run."""
        context = self._context()
        assert context is not None, "there is no run around this call"
        token: str | None = context.owner_xid
        assert token is not None, "dbos gives every execution a token"
        return token

    def step(self, name: str, effect: Callable[[], Json]) -> Json:
        """The recorded result of the next step, doing it if there is none; a BaseException leaves no record.

        ConflictError: another execution owns the run. DivergedError: the journal says something else.
        """
        try:
            recorded: Json = self._dbos.run_step({"name": name}, effect)
        except self._conflict as error:
            raise ConflictError from error
        except Exception as error:
            raise DivergedError(str(error)) from error
        return recorded


def _hush(instance: Any) -> None:
    """End dbos's own threads, which would ask the store some ten times a second for what reaper does not use.

    They look for its queues, its time-outs and delays, its notifications and its schedules. Any: a private object.
    """
    for event in instance.background_thread_stop_events:
        event.set()
    instance._background_jobs_stop_event.set()
    instance._sys_db._run_background_processes = False


def _refusal(pickling: Callable[..., object]) -> Callable[..., NoReturn]:
    @functools.wraps(pickling)
    def refuse(*_: object) -> NoReturn:
        raise TypeError("a pickled row is refused: reaper writes JSON only, so somebody else wrote it")

    return refuse


class _Threads(concurrent.futures.Executor):
    """A thread per run, which does not keep the process from ending as those of dbos's own pool do."""

    def __init__(self) -> None:
        self._caller = threading.local()

    def started_by(self, start: Callable[[], object]) -> concurrent.futures.Future[None] | None:
        """The execution that `start` made dbos submit; None if it saw no reason to."""
        self._caller.submitted = None
        start()
        submitted: concurrent.futures.Future[None] | None = self._caller.submitted
        return submitted

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run it at once in a new thread. Any: the signature of the base class, which dbos calls."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._caller.submitted = future

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - as every executor does, it hands the error over
                future.set_exception(error)

        threading.Thread(target=work, daemon=True, name="reaper-run").start()
        return future
