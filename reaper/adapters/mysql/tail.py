"""Reading the binary logs of a dead server from its files, without starting it (E03, I6).

The events are read here and not by mysqlbinlog: of a transaction only a few bytes matter, whatever it weighs;
no text of a statement can be taken for an event; no tool of the server's version has to be at hand; and what
cannot be read is told apart from what is not there. The files are opened for reading and nothing else.
"""

import struct
import sys
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from reaper.adapters.mysql.binlog_events import (
    ROW_CHANGES,
    Event,
    Kind,
    Source,
    TornError,
    UnreadableError,
    encrypted,
    events,
    first_words,
    gtid_text,
    is_relay_log,
    list_of,
    numbers_of,
    probe_rows,
    query_of,
    source_of,
    stands_alone,
    table_of,
)
from reaper.domain.gtid import GtidSet
from reaper.domain.ledger import WriteKey
from reaper.domain.tail import MOST_LISTED, Tail, TailTransaction

_LOOK_AT_THE_CLOCK_EVERY = 256  # events
_NEVER_SKIPPED = frozenset(
    {
        Kind.FORMAT,
        Kind.MYSQL_GTID,
        Kind.MYSQL_ANONYMOUS,
        Kind.MYSQL_TAGGED,
        Kind.MARIADB_GTID,
        Kind.START_ENCRYPTION,
    }
)
_MOST_PROBE_ROWS = 100_000  # of all transactions; the probe writes one a transaction


@dataclass
class _Group:
    """A transaction that is being read."""

    gtid: str
    standalone: bool  # MariaDB: ends with its one statement; MySQL: unless BEGIN comes first
    size_bytes: int = 0
    tables: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    probe_rows: list[WriteKey] = field(default_factory=list)
    maps: dict[bytes, str] = field(default_factory=dict)  # table id -> name, of the present statement


def read_tail(data: Path, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
    """Every transaction in the binary logs of a dead server that `held` lacks; nothing is written.

    `data`: its data directory; `probe_tables`: `schema.table` of the probe's, whose rows are read. Never raises
    for what is in the files: what could not be read is said in `Tail.unreadable`.
    """
    reader = _Reader(held, probe_tables, time.monotonic() + within.total_seconds())
    try:
        files = _logs(data)
        first, reader.doubt = _first_needed(files, held)
        for file in files[first:]:
            reader.read(file, newest=file == files[-1])
    except UnreadableError as error:
        return reader.tail(str(error))
    except OSError as error:
        said = f"{error.filename or data}: {error.strerror}"
        return reader.tail(f"{said}. Let reaper read the files, then look with mariadb-binlog or mysqlbinlog")
    return reader.tail(reader.doubt)


def _logs(data: Path) -> list[Path]:
    """The binary logs named by the index, oldest first."""
    found: list[list[Path]] = []
    for index in sorted(data.glob("*.index")):
        lines = [line.strip() for line in index.read_text(errors="replace").splitlines()]
        files = [data / line for line in lines if line]  # relative to the data directory, or absolute
        if files and not is_relay_log(files[-1]):
            found.append(files)
    if not found:
        raise UnreadableError(
            f"there is no index of binary logs in {data}: they lie elsewhere (log_bin), or are switched off"
        )
    if len(found) > 1:
        raise UnreadableError(
            f"there are {len(found)} indexes of binary logs in {data}, and which is in use is not known"
        )
    return found[0]


def _first_needed(files: list[Path], held: GtidSet) -> tuple[int, str | None]:
    """The newest file before which everything is held, from the lists at the files' beginnings; and a doubt.

    If there is none, the oldest file: what the logs before it held is unknown then.
    """
    before = None
    for number in range(len(files) - 1, -1, -1):
        before = list_of(files[number], type(held))
        if before is not None and held.covers(before):
            return number, None
    if before is None:
        return 0, f"{files[0].name} does not say what was logged before it"
    missing = ", ".join(map(str, before.beyond(held)))
    return 0, f"{missing} was logged before {files[0].name} and is gone with older logs: it may be extra too"


class _Reader:
    """Collects transactions over the files, one after the other."""

    def __init__(self, held: GtidSet, probe_tables: frozenset[str], deadline: float) -> None:
        self._held = numbers_of(held)
        self._skips = False  # the present transaction is held: only its end matters, which is the next one's GTID
        self._probe_tables = probe_tables
        self._deadline = deadline
        self._group: _Group | None = None
        self._found: list[TailTransaction] = []
        self._count = self._bytes = self._rows = self._events = 0
        self._torn: str | None = None
        self.doubt: str | None = None  # something that was read and not understood

    def tail(self, unreadable: str | None) -> Tail:
        """What was found so far."""
        return Tail(
            transactions=tuple(self._found),
            count=self._count,
            size_bytes=self._bytes,
            torn=self._torn,
            unreadable=unreadable,
        )

    def read(self, path: Path, *, newest: bool) -> None:
        """Read one file. Only the newest may end inside an event or a transaction."""
        end = 0
        try:
            for event in events(path, self._wants):
                self._look_at_the_clock(path)
                self._take(event, path)
                end = event.start + event.length
        except TornError:
            if not newest:
                raise UnreadableError(f"{path.name} ends inside an event at {end}, and is not the newest log") from None
            self._torn = f"{path.name} ends inside an event at {end}"
        except (struct.error, IndexError, ValueError) as error:
            raise UnreadableError(f"{path.name} has an event after {end} of an unknown form ({error})") from error
        if self._group is not None:
            self._torn = (
                f"{path.name} ends at {end} inside the transaction {self._group.gtid}, which was never complete"
            )
            self._group = None

    def _wants(self, kind: int) -> bool:
        return not self._skips or kind in _NEVER_SKIPPED

    def _look_at_the_clock(self, path: Path) -> None:
        self._events += 1
        if self._events % _LOOK_AT_THE_CLOCK_EVERY == 0 and time.monotonic() > self._deadline:
            raise UnreadableError(
                f"there was no time to read more than a part of {path.name}: allow more, or look by hand"
            )

    def _take(self, event: Event, path: Path) -> None:
        match event.type:
            case Kind.START_ENCRYPTION:
                raise UnreadableError(encrypted(path))
            case Kind.MYSQL_TAGGED:
                raise UnreadableError(f"{path.name} has GTIDs with tags, which reaper does not read: use mysqlbinlog")
            case Kind.MYSQL_ANONYMOUS:
                raise UnreadableError(f"{path.name} has transactions without a GTID: gtid_mode was off")
            case Kind.MARIADB_GTID | Kind.MYSQL_GTID:
                self._end()
                source, number = source_of(event)
                self._skips = self._is_held(source, number)
                if not self._skips:
                    alone = stands_alone(event)
                    self._group = _Group(gtid=gtid_text(source, number), standalone=alone, size_bytes=event.length)
            case _ if self._group is not None:
                self._add(self._group, event)

    def _is_held(self, source: Source, number: int) -> bool:
        intervals = self._held.get(source, [])
        at = bisect_right(intervals, (number, sys.maxsize)) - 1
        return at >= 0 and number <= intervals[at][1]

    def _add(self, group: _Group, event: Event) -> None:
        group.size_bytes += event.length
        match event.type:
            case Kind.TABLE_MAP:
                number, name = table_of(event.body)
                group.maps[number] = name
                group.tables.add(name)
            case Kind.QUERY | Kind.QUERY_COMPRESSED:
                self._statement(group, event)
            case Kind.PAYLOAD:
                group.kinds.add("compressed")
                self._end()
            case Kind.XID | Kind.XA_PREPARE:
                self._end()
            case changed if kind := ROW_CHANGES.get(changed):
                group.kinds.add(kind)
                if kind == "insert" and group.maps.get(event.body[:6]) in self._probe_tables:
                    self._probe_rows(group, event)

    def _statement(self, group: _Group, event: Event) -> None:
        schema, text = query_of(event.body)
        words = "compressed statement" if event.type == Kind.QUERY_COMPRESSED else first_words(text)
        if words in ("begin", "xa start"):
            group.standalone = False
        elif words in ("commit", "rollback"):
            self._end()
        elif words != "savepoint":
            group.kinds.add(words)
            group.tables |= {schema} if schema else set()
            if group.standalone:
                self._end()

    def _probe_rows(self, group: _Group, event: Event) -> None:
        rows = probe_rows(event)
        self._rows += len(rows or ())
        if rows is None or self._rows > _MOST_PROBE_ROWS:
            self.doubt = f"the probe's rows in {group.gtid} could not be read: look with mariadb-binlog or mysqlbinlog"
            return
        group.probe_rows += rows

    def _end(self) -> None:
        group, self._group = self._group, None
        if group is None:
            return
        self._count += 1
        self._bytes += group.size_bytes
        if len(self._found) < MOST_LISTED:
            self._found.append(
                TailTransaction(
                    gtid=group.gtid,
                    tables=tuple(sorted(group.tables)),
                    kinds=tuple(sorted(group.kinds)),
                    probe_rows=tuple(group.probe_rows),
                    size_bytes=group.size_bytes,
                )
            )
