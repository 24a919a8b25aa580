"""Everything that is taken from dbos, public and private, in one place.

dbos is imported when a `Library` is made, never before: who only asks or tells needs no dbos. It is
pinned to one minor version, because of PRIVATE; a test checks that list against what is installed.
Of dbos there is used: the journal of steps, and the owner token that each execution of a run has.
"""

import concurrent.futures
import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from reaper.domain.errors import UsageError
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
INSTANCE_FIELDS = ("_executor_field", "_sys_db")  # of the object that _get_dbos_instance returns, once launched
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
    """dbos, set up once per process. `workflow` gets a run's name; it leaves by a BaseException to stay unfinished."""

    def __init__(self, url: str, executor: str, version: str, workflow: Callable[[str], None]) -> None:
        # Before the import, so that dbos finds a handler and adds none: its lines go the way of everybody's.
        log = logging.getLogger("dbos")
        log.addHandler(logging.NullHandler())
        import dbos
        from dbos._context import get_local_dbos_context
        from dbos._core import execute_dequeued_workflow
        from dbos._dbos import _get_dbos_instance
        from dbos._error import DBOSWorkflowConflictIDError
        from dbos._serialization import DBOSPortableJSONSerializer, DefaultSerializer
        from dbos._utils import GlobalParams

        if not GlobalParams.dbos_version.startswith(f"{PINNED}."):
            raise UsageError(
                f"dbos {GlobalParams.dbos_version} is installed and reaper uses what only {PINNED}.* has:"
                f" `pip install 'dbos=={PINNED}.*'`"
            )
        if GlobalParams.dbos_cloud or os.environ.get("DBOS__CLOUD"):
            raise UsageError("DBOS__CLOUD is set, which would have the runs known to a service: unset it")
        for name in ("serialize", "deserialize"):  # a row names its own format: without this, a row can run code
            setattr(DefaultSerializer, name, _refusal(getattr(DefaultSerializer, name)))
        self._dbos, self._instance = dbos.DBOS, _get_dbos_instance
        self._named, self._execute = dbos.SetWorkflowID, execute_dequeued_workflow
        self._threads = _Threads()
        self._context, self._conflict = get_local_dbos_context, DBOSWorkflowConflictIDError
        config: dbos.DBOSConfig = {
            "name": "reaper",
            "system_database_url": url,
            "executor_id": executor,
            "application_version": version,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "enable_otlp": False,
            "sys_db_idle_transaction_timeout_sec": 3.0,  # a stopped worker must not keep its rows locked
            "notification_listener_polling_interval_sec": 0.1,  # its notifications are not used; closing waits for it
        }
        self._dbos(config=config)
        log.handlers.clear()
        log.propagate = True
        log.setLevel(logging.WARNING)

        def reaper_run(run: str) -> None:
            workflow(run)

        self._workflow = self._dbos.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)(reaper_run)

    def launch(self) -> None:
        """Open the database and make dbos's tables."""
        self._dbos.launch()
        instance: Any = self._instance()
        pool, instance._executor_field = instance._executor_field, self._threads
        pool.shutdown(wait=False)

    def destroy(self) -> None:
        """Let go of the database. Runs that are in an effect keep their thread until it returns."""
        self._dbos.destroy(destroy_registry=True)

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
        assert context.owner_xid is not None, "dbos gives every execution a token"
        return context.owner_xid

    def step(self, name: str, effect: Callable[[], Json]) -> Json:
        """The recorded result of the next step, doing it if there is none; a BaseException leaves no record.

        ConflictError: another execution owns the run. DivergedError: the journal says something else.
        """
        try:
            return self._dbos.run_step({"name": name}, effect)
        except self._conflict as error:
            raise ConflictError from error
        except Exception as error:
            raise DivergedError(str(error)) from error


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
