"""Page lists of buffer pools: dumped, read, written, loaded.

InnoDB's own dump and load do the work; reaper reads and writes the file between them. Written after buf0dump.cc of
MariaDB 10.11 and MySQL 8.0; met are MariaDB servers only.
"""

import contextlib
import re
import time
from array import array
from datetime import timedelta

from reaper.adapters.mysql.connection import Ask
from reaper.adapters.mysql.dialect import counters
from reaper.domain.errors import ReaperError, StatementTimeoutError, TryAgainError
from reaper.domain.facts import Flavour, Instance
from reaper.domain.pagelist import Room, Tablespace, parse_pages, written_pages
from reaper.workflow.pools import Loading, Pace, PageFiles, Unlisted

_DUMP_WITHIN_S = 120.0  # eight bytes or so a page: seconds even for hundreds of GiB
_ABORT_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.01
_LIST_WITHIN = timedelta(seconds=10)  # of a statement; both servers end it by themselves
_OPEN_WITHIN = timedelta(seconds=12)  # a connection waits 15 s for an answer
# information_schema.innodb_buffer_page has a row for each page: that of a larger pool is not asked for (8 GiB).
_MOST_LISTED_BY_STATEMENT = 524_288

_SECOND = re.compile(r"completed at .*:(\d\d)\b")


class SqlPool:
    """One server's buffer pool. Implements `workflow.pools.Pool`."""

    def __init__(self, ask: Ask, flavour: Flavour, instance: Instance, files: PageFiles) -> None:
        self._ask = ask
        self._flavour = flavour
        self._instance = instance
        self._files = files
        self._load_said = ""  # the status before the load that was begun here
        self._read_before = 0

    def resident(self) -> "array[int] | Unlisted":
        """Let the server dump its list and read it; without its file, ask for the pages in one bounded statement.

        A dump holds the mutex of the pool, or of one of its instances, while it walks the LRU list.
        """
        dump_pages(self._ask, self._instance)
        text = self._files.read(self._instance)
        if text is None:
            return self._by_statement()
        try:
            return parse_pages(text)
        except ValueError as error:
            raise TryAgainError(f"the page list of {self._instance.id} cannot be read: {error}") from error

    def _by_statement(self) -> "array[int] | Unlisted":
        where = f"the page list of {self._instance.id} cannot be reached as a file"
        total = self.room().pages
        if total > _MOST_LISTED_BY_STATEMENT:
            return Unlisted(why=f"{where}, and a pool of {total:,} pages is too large to list by a statement")
        listing = (
            "SPACE AS space, PAGE_NUMBER AS page FROM information_schema.INNODB_BUFFER_PAGE"
            " WHERE PAGE_STATE = 'FILE_PAGE' ORDER BY IS_OLD = 'YES', ACCESS_TIME DESC"
        )
        try:
            rows = self._ask(bounded(self._flavour, listing, _LIST_WITHIN))
        except StatementTimeoutError:
            return Unlisted(why=f"{where}, and listing it by a statement took longer than {_LIST_WITHIN.seconds} s")
        return array("Q", (int(row["space"]) << 32 | int(row["page"]) for row in rows))

    def tablespaces(self) -> tuple[Tablespace, ...]:
        """Its data files."""
        table = "INNODB_SYS_TABLESPACES" if self._flavour is Flavour.MARIADB else "INNODB_TABLESPACES"
        listing = f"SPACE AS id, NAME AS name, FILE_SIZE AS bytes FROM information_schema.{table}"
        # A compressed table's pages are smaller: as many pages as its file has bytes of the smallest size are allowed.
        size = int(self._ask("SELECT @@global.innodb_page_size AS size")[0]["size"])
        zip_size = (
            "PAGE_SIZE" if self._flavour is Flavour.MARIADB else "IF(ZIP_PAGE_SIZE > 0, ZIP_PAGE_SIZE, PAGE_SIZE)"
        )
        rows = self._ask(bounded(self._flavour, f"{zip_size} AS page, {listing}", _LIST_WITHIN))
        return tuple(
            Tablespace(
                id=int(row["id"]),
                name=str(row["name"]),
                pages=int(row["bytes"] or 0) // (int(row["page"] or 0) or size),
            )
            for row in rows
        )

    def open_files(self) -> None:
        """Let the server open every table, which asking for their sizes does.

        MariaDB 10.11 lists a tablespace only once its table has been opened (measured): a copy that nobody has read
        from yet seems to have none of them. MySQL opens all of them when it starts.
        """
        if self._flavour is Flavour.MYSQL:
            return
        opening = (
            "COUNT(data_length) AS opened FROM information_schema.TABLES WHERE table_schema NOT IN ('mysql', 'sys')"
        )
        with contextlib.suppress(StatementTimeoutError):  # those that it opened until then are open
            self._ask(bounded(self._flavour, opening, _OPEN_WITHIN))

    def room(self) -> Room:
        """How much it holds; MariaDB has one pool since 10.5, MySQL several instances of it."""
        pages = int(counters(self._ask, "Innodb_buffer_pool_pages_total")["innodb_buffer_pool_pages_total"])
        if self._flavour is Flavour.MARIADB:
            return Room(pages=pages)
        parts = self._ask("SELECT @@global.innodb_buffer_pool_instances AS parts")[0]["parts"]
        return Room(pages=pages, parts=int(parts))

    def begin_load(self, pages: "array[int]") -> Unlisted | None:
        """Write the list and let the server read it. What it was loading until now is given up."""
        self._give_up_loading()
        try:
            self._files.write(self._instance, written_pages(pages))
        except ReaperError as error:
            return Unlisted(why=f"the page list cannot be brought to {self._instance.id}: {error}")
        self._load_said = _distinct(self._ask, "load")
        self._read_before = self._pages_read()
        self._ask("SET GLOBAL innodb_buffer_pool_load_now = ON")
        return None

    def _give_up_loading(self) -> None:
        deadline = time.monotonic() + _ABORT_WITHIN_S
        while _said(self._ask, "load").startswith(("Loading", "Loaded")):
            if time.monotonic() > deadline:
                raise TryAgainError(f"{self._instance.id} goes on loading its page list after it was told to stop")
            self._ask("SET GLOBAL innodb_buffer_pool_load_abort = ON")
            time.sleep(_LOOK_EVERY_S)

    def loading(self) -> Loading:
        """By the server's words; both count what they read, of which a replica's own reads are a part."""
        done = _ended(self._ask, "load", self._load_said, self._instance)
        return Loading(read=self._pages_read() - self._read_before, done=done)

    def _pages_read(self) -> int:
        return int(counters(self._ask, "Innodb_pages_read")["innodb_pages_read"])

    def pace(self) -> Pace:
        """innodb_io_capacity and its maximum."""
        row = self._ask("SELECT @@global.innodb_io_capacity AS normal, @@global.innodb_io_capacity_max AS most")[0]
        return Pace(normal=int(row["normal"]), most=int(row["most"]))

    def set_pace(self, pace: Pace) -> None:
        """In the order in which neither exceeds the other: MariaDB raises the maximum by itself, MySQL cuts."""
        names = [("innodb_io_capacity_max", pace.most), ("innodb_io_capacity", pace.normal)]
        for name, value in names if pace.most >= self.pace().most else reversed(names):
            self._ask(f"SET GLOBAL {name} = {int(value)}")


def dump_pages(ask: Ask, instance: Instance) -> None:
    """Let a server write its whole page list (innodb_buffer_pool_dump_pct = 100, both flavours' manuals)."""
    share = ask("SELECT @@global.innodb_buffer_pool_dump_pct AS share")[0]["share"]
    ask("SET GLOBAL innodb_buffer_pool_dump_pct = 100")
    try:
        before = _distinct(ask, "dump")
        ask("SET GLOBAL innodb_buffer_pool_dump_now = ON")
        deadline = time.monotonic() + _DUMP_WITHIN_S
        while not _ended(ask, "dump", before, instance):
            if time.monotonic() > deadline:
                raise TryAgainError(
                    f"{instance.id} did not write its page list in {_DUMP_WITHIN_S:g} s: {_said(ask, 'dump')}. "
                    "See its error log, then try again"
                )
            time.sleep(_LOOK_EVERY_S)
    finally:
        ask("SET GLOBAL innodb_buffer_pool_dump_pct = %s", share)


def bounded(flavour: Flavour, select: str, within: timedelta) -> str:
    """A SELECT that the server ends by itself; `select` without its first word."""
    if flavour is Flavour.MARIADB:
        return f"SET STATEMENT max_statement_time={within.total_seconds():g} FOR SELECT {select}"
    return f"SELECT /*+ MAX_EXECUTION_TIME({int(within.total_seconds() * 1000)}) */ {select}"


def _said(ask: Ask, which: str) -> str:
    name = f"innodb_buffer_pool_{which}_status"
    return counters(ask, name).get(name, "")


def _distinct(ask: Ask, which: str) -> str:
    """What the server says of the last one, once nothing that ends from now on can be told in the same words.

    The words have a time in whole seconds, of a clock that may be a few milliseconds behind the one that is asked here
    (time(2) against clock_gettime). Seconds are the same in every time zone.
    """
    while True:
        said = _said(ask, which)
        last = _SECOND.search(said)
        now = ask("SELECT SECOND(SYSDATE(6)) AS now, SECOND(SYSDATE(6) - INTERVAL 100000 MICROSECOND) AS lately")[0]
        if last is None or int(last.group(1)) not in (int(now["now"]), int(now["lately"])):
            return said
        time.sleep(_LOOK_EVERY_S * 5)


def _ended(ask: Ask, which: str, before: str, instance: Instance) -> bool:
    """True if a dump or load that was begun after `before` has ended. TryAgainError: it failed."""
    said = _said(ask, which)
    if said == before or said.startswith(("Dumping", "Loading", "Loaded")):
        return False
    if f"{which} completed" not in said:
        raise TryAgainError(f"the {which} of the page list of {instance.id} failed: {said}. See its error log")
    return True
