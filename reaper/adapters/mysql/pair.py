"""The two views as one thing that is asked twice at the same time."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from enum import Enum

from reaper.adapters.mysql.connection import Ask, Row
from reaper.adapters.mysql.views import fleeting
from reaper.domain.errors import ServerError, StatementTimeoutError

_CHECK_EVERY_S = 0.5

# The view is older than the table's definition, or the table, column or index is gone (both flavours' error
# references): 1412 table definition has changed, 1146 no such table, 1054 unknown column, 1176 no such key.
_CHANGED = {1412, 1146, 1054, 1176}


class Which(Enum):
    """One of the two."""

    REFERENCE = "reference"
    SUBJECT = "subject"


class TableChangedError(ServerError):
    """The table's definition changed while it was compared."""


class TooLongError(StatementTimeoutError):
    """A statement took longer than it was allowed to, on one of the two."""

    def __init__(self, which: Which, why: str) -> None:
        super().__init__(why)
        self.which = which


@dataclass(frozen=True)
class Pair:
    """Each view is used by one thread at a time; every statement gives its metadata locks back."""

    reference: Ask
    subject: Ask
    pool: Executor
    bound: str  # the statement that bounds later ones, with a place for milliseconds
    check: Callable[[], None]

    def both(self, sql: str) -> tuple[list[Row], list[Row]]:
        """Ask both the same thing at the same time."""
        asked = {which: self.pool.submit(self.one, which, sql) for which in Which}
        pending: set[Future[list[Row]]] = set(asked.values())
        while pending:
            self.check()
            _, pending = wait(pending, timeout=_CHECK_EVERY_S)
        return asked[Which.REFERENCE].result(), asked[Which.SUBJECT].result()

    def one(self, which: Which, sql: str) -> list[Row]:
        """Ask one. TableChangedError, TooLongError."""
        try:
            with fleeting(self.reference if which is Which.REFERENCE else self.subject) as ask:
                return ask(sql)
        except StatementTimeoutError as error:
            raise TooLongError(which, str(error)) from error
        except ServerError as error:
            cause = error.__cause__
            if cause is not None and cause.args and cause.args[0] in _CHANGED:
                raise TableChangedError(str(error)) from error
            raise

    def allow(self, seconds: float) -> None:
        """Bound later statements, on both."""
        for ask in (self.reference, self.subject):
            ask(self.bound.format(ms=int(seconds * 1000)))
