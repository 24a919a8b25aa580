"""The workflow's `Comparer`: every table in chunks of keys, on both servers at once, in views of one position."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from reaper.adapters.mysql.checksum import Table
from reaper.adapters.mysql.connection import READ_TIMEOUT_S, Connection
from reaper.adapters.mysql.pair import Pair
from reaper.adapters.mysql.tablelist import read_tables
from reaper.adapters.mysql.views import Patience, Side, Views, views_of
from reaper.adapters.mysql.walk import CHUNK_S, WHOLE_TABLE_S, Walk
from reaper.domain.comparison import Comparison, Difference, Sample, Skipped, What
from reaper.domain.errors import RefusedError, ServerError, ServerGoneError
from reaper.domain.facts import Instance

OpenSession = Callable[[str, Instance, float], Connection]  # cluster, instance, read time-out in seconds

_ALIGN_WITHIN = timedelta(seconds=60)
_SMALLEST_PACKET = 2**20  # a row's string may have 65,535 bytes and digests of 1,000 columns
_SESSION = (
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",  # others take no snapshot
    "SET SESSION time_zone = '+00:00'",  # TIMESTAMP is written in it
    "SET SESSION sql_mode = ''",  # PAD_CHAR_TO_FULL_LENGTH changes CHAR, NO_BACKSLASH_ESCAPES literals
    "SET SESSION sql_select_limit = 18446744073709551615",
    "SET SESSION sql_big_selects = 1",
    "SET SESSION lock_wait_timeout = 5",
    "SET SESSION wait_timeout = 28800",  # one side waits while the other narrows down
)


class SqlComparer:
    """Needs on both servers SELECT on everything, and on the subject the right to stop and start its applier.

    A table's history (MariaDB's system versioning) is not compared, only its rows of now. Virtual columns
    are not, since nobody stores them. On the reference each chunk is one read of at most ten seconds, aimed
    at half a second, that holds no metadata lock afterwards; a table without a usable key is one read of up
    to two minutes. The views keep old row versions alive for as long as the comparison takes.
    """

    def __init__(self, open_session: OpenSession) -> None:
        self._open_session = open_session

    def compare(
        self,
        cluster: str,
        reference: Instance,
        subject: Instance,
        sample: Sample,
        check: Callable[[], None],
        tell: Callable[[str], None],
    ) -> Comparison:
        """See `workflow.comparing.Comparer`."""
        began = time.monotonic()
        with (
            self._side(cluster, reference) as model,
            self._side(cluster, subject) as copy,
            ThreadPoolExecutor(max_workers=2) as pool,
        ):
            views = views_of(copy.steer)
            _prepare(model, views)
            _prepare(copy, views)
            before = read_tables(model.steer)
            try:
                aligned = views.align(model, copy, Patience(min(_ALIGN_WITHIN, sample.within), check))
            except ServerGoneError:
                for instance in (reference, subject):
                    with contextlib.suppress(ServerError):  # the one that went away is the caller's news
                        self.release(cluster, instance)
                raise
            after = read_tables(model.steer)
            tell(f"both views stand at {aligned.position or 'the beginning'}")
            chosen, differences, skipped = _sorted_out(before, aligned.tables, after)
            walk = Walk(Pair(model.view, copy.view, pool, views.bound, check), sample, began, tell)
            walk.differences.extend(differences)
            walk.skipped.extend(skipped)
            walk.over(chosen)
        return walk.result(aligned.position, reference.id, subject.id)

    def release(self, cluster: str, instance: Instance) -> None:
        """See `workflow.comparing.Comparer`."""
        with contextlib.closing(self._open_session(cluster, instance, READ_TIMEOUT_S)) as session:
            views_of(session.ask).release(session.ask)

    @contextlib.contextmanager
    def _side(self, cluster: str, instance: Instance) -> Iterator[Side]:
        with contextlib.ExitStack() as stack:
            sessions = []
            for _ in range(2):
                session = self._open_session(cluster, instance, WHOLE_TABLE_S + 15.0)
                stack.callback(session.close)
                sessions.append(session)
            view, steer = sessions
            yield Side(name=str(instance.id), address=instance.address, view=view.ask, steer=steer.ask)


def _prepare(side: Side, views: Views) -> None:
    packet = int(side.view("SELECT @@max_allowed_packet AS packet")[0]["packet"])
    if packet < _SMALLEST_PACKET:
        raise RefusedError(
            f"max_allowed_packet of {side.name} is {packet}: rows could be cut before they are compared; set it to"
            f" {_SMALLEST_PACKET} or more"
        )
    for ask in (side.view, side.steer):
        for statement in (*_SESSION, *views.session, views.bound.format(ms=int(CHUNK_S * 1000))):
            ask(statement)


def _sorted_out(
    before: dict[str, Table], subject: dict[str, Table], after: dict[str, Table]
) -> tuple[list[Table], list[Difference], list[Skipped]]:
    """Which tables can be compared, given the reference's before and after the views were opened."""
    chosen, differences, skipped = [], [], []
    for title in sorted(before.keys() | subject.keys() | after.keys()):
        model, copy, later = before.get(title), subject.get(title), after.get(title)
        if (model and model.definition) != (later and later.definition):
            skipped.append(Skipped(table=title, why="its definition changed while the views were opened"))
        elif model is None:
            differences.append(Difference(table=title, what=What.TABLE_EXTRA))
        elif copy is None:
            differences.append(Difference(table=title, what=What.TABLE_MISSING))
        elif model.definition != copy.definition:
            detail = _unlike(model, copy)
            differences.append(Difference(table=title, what=What.DEFINITION, detail=detail))
        elif model.kind == "SEQUENCE":
            skipped.append(Skipped(table=title, why="a sequence is not part of a consistent view"))
        elif model.engine != "InnoDB":
            skipped.append(Skipped(table=title, why=f"{model.engine} tables cannot be read as of a moment"))
        else:
            chosen.append(model)
    return chosen, differences, skipped


def _unlike(model: Table, copy: Table) -> str:
    """The first thing in which two definitions differ."""
    if (model.engine, model.kind) != (copy.engine, copy.kind):
        return f"{model.kind} {model.engine} on the reference, {copy.kind} {copy.engine} on the subject"
    theirs = {column.name: column for column in copy.columns}
    for column in model.columns:
        if column != theirs.get(column.name):
            return f"column {column.name}: {column.declared} {column.collation}".rstrip() + " on the reference"
    return "other columns, another order of columns, or another unique key"
