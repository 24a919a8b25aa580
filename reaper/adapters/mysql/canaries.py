"""Canary queries on a server: sampled from what it remembers, and run so that they can do no harm.

MySQL keeps a sample of each digest (QUERY_SAMPLE_TEXT, since 8.0.3, its manual) and both flavours the last statements
of each thread and of all (events_statements_history, _long), if those consumers are on. Nothing is turned on for it.
"""

import time
from collections.abc import Iterable
from datetime import timedelta

from reaper.adapters.mysql.connection import Ask, Row
from reaper.adapters.mysql.dialect import counters, on
from reaper.adapters.mysql.pages import bounded
from reaper.domain.canary import Canary, refusal
from reaper.domain.errors import AccessDeniedError, StatementTimeoutError
from reaper.domain.facts import Flavour
from reaper.workflow.pools import Reads, Sampled
from reaper.workflow.server import SCHEMA

LIMIT = timedelta(seconds=1)  # for one run
_ROWS = 1000  # that a canary without a LIMIT of its own brings back at most
_LOCK_WAIT_S = 1
_SAMPLE_WITHIN = timedelta(seconds=5)
_VARIANTS = 16  # sets of literals for each digest
_DIGESTS = 40  # looked through for canaries
_NOT_THEIRS = f"('mysql', 'sys', 'information_schema', 'performance_schema', '{SCHEMA}')"
_HISTORIES = ("events_statements_history_long", "events_statements_history")


class SqlCanaries:
    """A session of its own: its settings are changed. Implements `workflow.pools.Canaries`."""

    def __init__(self, ask: Ask, flavour: Flavour) -> None:
        self._ask = ask
        self._flavour = flavour
        self._schema: str | None = None
        self._ready = False

    def sample(self, most: int) -> Sampled:
        """The digests that the server spends most time reading with, those that are single harmless SELECTs."""
        try:
            if not on(str(self._ask("SELECT @@global.performance_schema AS state")[0]["state"])):
                return Sampled(canaries=(), why="no canaries: performance_schema is off on the victim")
            return self._sample(most)
        except AccessDeniedError as error:
            return Sampled(canaries=(), why=f"no canaries: performance_schema cannot be read: {error}")
        except StatementTimeoutError as error:
            return Sampled(canaries=(), why=f"no canaries: performance_schema did not answer in time: {error}")

    def _sample(self, most: int) -> Sampled:
        longest = int(self._ask("SELECT @@global.performance_schema_max_sql_text_length AS n")[0]["n"])
        digests = self._digests()
        texts = self._texts(digests)
        canaries: list[Canary] = []
        refused: set[str] = set()
        for row in digests:
            found = [
                t for t in texts.get(str(row["digest"]), ()) if len(t.encode()) < longest and not t.endswith("...")
            ]
            if found and (why := refusal(found[0])):
                refused.add(why)
            usable = tuple(dict.fromkeys(t for t in found if refusal(t) is None))[:_VARIANTS]
            if usable:
                name = f"{row['space']}: {_shortened(str(row['pattern']))}"
                canaries.append(Canary(name=name, statements=usable, schema=str(row["space"])))
            if len(canaries) == most:
                return Sampled(canaries=tuple(canaries))
        if canaries:
            return Sampled(canaries=tuple(canaries))
        return Sampled(canaries=(), why=self._why_none(bool(digests), refused))

    def _why_none(self, seen: bool, refused: Iterable[str]) -> str:
        if not seen:
            return "no canaries: performance_schema counts no SELECT of an application on the victim"
        for why in sorted(refused):
            return f"no canaries: no sampled SELECT is harmless for certain ({why})"
        return (
            "no canaries: performance_schema keeps no literals on the victim (its consumers "
            f"events_statements_current, {' and '.join(_HISTORIES)} are off, or empty); name some in the policy"
        )

    def _digests(self) -> list[Row]:
        sample = "QUERY_SAMPLE_TEXT" if self._flavour is Flavour.MYSQL else "NULL"
        listing = (
            f"DIGEST AS digest, SCHEMA_NAME AS space, DIGEST_TEXT AS pattern, {sample} AS text"
            " FROM performance_schema.events_statements_summary_by_digest"
            f" WHERE DIGEST_TEXT LIKE 'SELECT%' AND SCHEMA_NAME NOT IN {_NOT_THEIRS} AND SUM_ERRORS = 0"
            f" ORDER BY SUM_TIMER_WAIT DESC LIMIT {_DIGESTS}"
        )
        return self._ask(bounded(self._flavour, listing, _SAMPLE_WITHIN))

    def _texts(self, digests: list[Row]) -> dict[str, list[str]]:
        """Statements with their literals, by digest, newest first."""
        found: dict[str, list[str]] = {str(row["digest"]): [] for row in digests}
        if not digests:
            return found
        wanted = ", ".join(["%s"] * len(found))
        for table in _HISTORIES:
            listing = (
                f"DIGEST AS digest, SQL_TEXT AS text FROM performance_schema.{table}"
                f" WHERE DIGEST IN ({wanted}) AND SQL_TEXT IS NOT NULL AND ERRORS = 0"
                f" ORDER BY TIMER_START DESC LIMIT {_DIGESTS * _VARIANTS}"
            )
            for row in self._ask(bounded(self._flavour, listing, _SAMPLE_WITHIN), *found):
                # Its rows are overwritten while they are read: one may pass the filter and be another one by then.
                if str(row["digest"]) in found:
                    found[str(row["digest"])].append(str(row["text"]))
        for row in digests:
            if row["text"]:
                found[str(row["digest"])].append(str(row["text"]))
        return found

    def run(self, canary: Canary, turn: int) -> float:
        """One statement of it, timed here; one that is ended by the server took the limit."""
        self._prepare(canary.schema)
        statement = canary.statements[turn % len(canary.statements)]
        self._ask("START TRANSACTION READ ONLY")
        try:
            began = time.perf_counter()
            self._ask(statement)
            return (time.perf_counter() - began) * 1000
        except StatementTimeoutError:
            return LIMIT.total_seconds() * 1000
        finally:
            self._ask("ROLLBACK")

    def _prepare(self, schema: str | None) -> None:
        """MySQL's limit is for SELECT alone, MariaDB's for every statement; both manuals."""
        if not self._ready:
            mariadb = self._flavour is Flavour.MARIADB
            limit = LIMIT.total_seconds() if mariadb else int(LIMIT.total_seconds() * 1000)
            self._ask(f"SET SESSION {'max_statement_time' if mariadb else 'max_execution_time'} = {limit:g}")
            self._ask(f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_S}, sql_select_limit = {_ROWS}")
            if mariadb:
                self._ask("SET SESSION query_cache_type = OFF")
            self._ready = True
        if schema is not None and schema != self._schema:
            self._ask(f"USE `{schema.replace('`', '``')}`")
            self._schema = schema

    def reads(self) -> Reads:
        """The counters of the buffer pool; neither flavour keeps them for a session."""
        found = counters(self._ask, "Innodb_buffer_pool_read%")
        return Reads(
            asked=int(found["innodb_buffer_pool_read_requests"]), missed=int(found["innodb_buffer_pool_reads"])
        )


def _shortened(pattern: str, most: int = 60) -> str:
    text = " ".join(pattern.replace("`", "").split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
