"""The events of a binary log's file, and the few of their fields that reaper looks at.

Layouts: "Replication Protocol" in MariaDB's manual and sql/log_event.h of both servers. MariaDB's are tested
on 10.11; MySQL's are tested on bytes made by hand: never met here.
"""

import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from mmap import ACCESS_READ, mmap
from pathlib import Path

from reaper.domain.gtid import GtidRange, GtidSet, MariadbGtid, MariadbGtidSet, MysqlGtidSet
from reaper.domain.ledger import WriteKey

_MAGIC = b"\xfebin"
_ENCRYPTED_MAGIC = b"\xfdbin"  # MySQL's binlog_encryption
_HEADER = struct.Struct("<IBIIIH")  # timestamp, type, server id, length, end position, flags
_CHECKSUM_BYTES = 4
_KEPT_BYTES = 64 * 1024  # of an event's body: more than any of what is looked at
_RELAY_LOG_FLAG = 0x40  # LOG_EVENT_RELAY_LOG_F


class Kind(IntEnum):
    """The types of events that matter here."""

    QUERY = 2
    FORMAT = 15
    XID = 16
    TABLE_MAP = 19
    MYSQL_GTID = 33
    MYSQL_ANONYMOUS = 34
    PREVIOUS_GTIDS = 35
    XA_PREPARE = 38
    PAYLOAD = 40  # MySQL's binlog_transaction_compression: a whole transaction but for its GTID
    MYSQL_TAGGED = 42  # 8.3 and later
    MARIADB_GTID = 162
    MARIADB_GTID_LIST = 163
    START_ENCRYPTION = 164
    QUERY_COMPRESSED = 165


ROW_CHANGES = {
    **dict.fromkeys((23, 30, 166, 169), "insert"),
    **dict.fromkeys((24, 31, 167, 170), "update"),
    **dict.fromkeys((25, 32, 168, 171), "delete"),
}
_WITH_EXTRA = {30, 31, 32, 169, 170, 171}  # version 2: an extra block before the columns
_COMPRESSED_ROWS = {166, 167, 168, 169, 170, 171}
_STANDALONE = 0x01  # flags of MariaDB's GTID event: one statement, no COMMIT follows
_PROBE_COLUMNS = 3  # id BIGINT, client INT, seq BIGINT
_PROBE_ROW = struct.Struct("<qiq")


class UnreadableError(Exception):
    """What cannot be read, in words."""


class TornError(Exception):
    """The file ends inside an event."""


@dataclass(frozen=True)
class Event:
    """One event."""

    type: int
    server_id: int
    start: int
    length: int
    body: bytes  # without header and checksum, at most 64 KiB


def _all(kind: int) -> bool:  # noqa: ARG001 - every one
    return True


def events(path: Path, wanted: Callable[[int], bool] = _all) -> Iterator[Event]:
    """The events of one file whose type is `wanted` at that moment; of the others only the length is looked at.

    TornError: it ends inside one. UnreadableError: it is damaged before its end.
    """
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
        if magic == _ENCRYPTED_MAGIC:
            raise UnreadableError(encrypted(path))
        if magic != _MAGIC:
            if _MAGIC.startswith(magic):
                raise TornError
            raise UnreadableError(f"{path.name} does not begin as a binary log does")
        # Mapped, because what is skipped is most of it: 4 million small transactions in a file of 1 GiB.
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content, memoryview(content) as view:
            yield from _walk(view, wanted, path)


def _walk(view: memoryview, wanted: Callable[[int], bool], path: Path) -> Iterator[Event]:
    size, checksum, start = len(view), 0, len(_MAGIC)
    while start < size:
        if start + _HEADER.size > size:
            raise TornError
        _, kind, server_id, length, _, _ = _HEADER.unpack_from(view, start)
        if start + length > size or (kind == 0 and length == 0):  # zeros: the file had grown before it was filled
            raise TornError
        if length < _HEADER.size + checksum:
            raise UnreadableError(f"{path.name} is damaged at {start}: an event of {length} bytes")
        if wanted(kind):
            # The format event says itself whether there are checksums, and is changed while the log is in use.
            if checksum and kind != Kind.FORMAT and not _is_whole(view, start, length):
                if start + length == size:
                    raise TornError
                raise UnreadableError(f"{path.name} is damaged at {start}: an event's checksum is wrong")
            at = start + _HEADER.size
            body = bytes(view[at : min(at + _KEPT_BYTES, start + length - checksum)])
            if kind == Kind.FORMAT:
                checksum = _CHECKSUM_BYTES if _has_checksums(body) else 0
            yield Event(kind, server_id, start, length, body)
        start += length


def _is_whole(view: memoryview, start: int, length: int) -> bool:
    end = start + length - _CHECKSUM_BYTES
    return zlib.crc32(view[start:end]) == int(struct.unpack_from("<I", view, end)[0])


def _has_checksums(body: bytes) -> bool:
    """The format event ends with the algorithm (0 none, 1 CRC32) and a checksum, in all supported versions."""
    return len(body) > _CHECKSUM_BYTES and body[-_CHECKSUM_BYTES - 1] == 1


def encrypted(path: Path) -> str:
    """Why such a file is not read."""
    return f"{path.name} is encrypted, and reaper has no keys: look with mysqlbinlog on a server that has them"


def is_relay_log(path: Path) -> bool:
    """True for a file of a replica's receiver; False also for what is encrypted or broken."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + _HEADER.size)
    if len(head) < len(_MAGIC) + _HEADER.size or not head.startswith(_MAGIC):
        return False
    return bool(_HEADER.unpack_from(head, len(_MAGIC))[5] & _RELAY_LOG_FLAG)


def list_of(path: Path, kind: type[GtidSet]) -> GtidSet | None:
    """What had been logged before this file; None: it does not say."""
    try:
        for event in events(path):
            if event.type == Kind.MARIADB_GTID_LIST and kind is MariadbGtidSet:
                return _gtid_list(event.body)
            if event.type == Kind.PREVIOUS_GTIDS and kind is MysqlGtidSet:
                return _previous_gtids(event.body)
            if event.type not in (Kind.FORMAT, Kind.START_ENCRYPTION):
                return None
    except (TornError, UnreadableError, struct.error, IndexError, ValueError):
        pass  # told when the file itself is read
    return None


def _gtid_list(body: bytes) -> MariadbGtidSet | None:
    (count,) = struct.unpack_from("<I", body)
    count &= 0x0FFFFFFF  # the rest are flags
    if 4 + 16 * count > len(body):
        return None
    entries = (struct.unpack_from("<IIQ", body, 4 + 16 * n) for n in range(count))
    return MariadbGtidSet(tuple(MariadbGtid(*entry) for entry in entries))


def _previous_gtids(body: bytes) -> MysqlGtidSet | None:
    (count,) = struct.unpack_from("<Q", body)
    if body[7]:
        return None  # the format with tags, 8.3 and later: every file is read then
    at, ranges = 8, []
    for _ in range(count):
        source = str(uuid.UUID(bytes=body[at : at + 16]))
        (intervals,) = struct.unpack_from("<Q", body, at + 16)
        at += 24
        if at + 16 * intervals > len(body):
            return None
        for n in range(intervals):
            first, after = struct.unpack_from("<QQ", body, at + 16 * n)
            ranges.append(GtidRange(source, first, after - 1))
        at += 16 * intervals
    return MysqlGtidSet(tuple(ranges))


Source = tuple[int, int] | bytes
"""Who numbers transactions: MariaDB's (domain, server), or the 16 bytes of a MySQL UUID."""


def source_of(event: Event) -> tuple[Source, int]:
    """The source and number in a GTID event."""
    if event.type == Kind.MARIADB_GTID:
        sequence, domain = struct.unpack_from("<QI", event.body)
        return (domain, event.server_id), sequence
    return event.body[1:17], struct.unpack_from("<q", event.body, 17)[0]


def gtid_text(source: Source, number: int) -> str:
    """The GTID as its flavour writes it."""
    if isinstance(source, tuple):
        return f"{source[0]}-{source[1]}-{number}"
    return f"{uuid.UUID(bytes=source)}:{number}"


def stands_alone(event: Event) -> bool:
    """True for a GTID event that one statement follows, without a COMMIT (MySQL: unless BEGIN comes)."""
    return event.type == Kind.MYSQL_GTID or bool(event.body[12] & _STANDALONE)


def numbers_of(held: GtidSet) -> dict[Source, list[tuple[int, int]]]:
    """A GTID set as intervals by source, ascending. Sources with a tag are left out."""
    numbers: dict[Source, list[tuple[int, int]]] = {}
    if isinstance(held, MariadbGtidSet):
        return {(e.domain, e.server): [(1, e.sequence)] for e in held.entries}
    for r in held.ranges if isinstance(held, MysqlGtidSet) else ():
        if ":" not in r.source:
            numbers.setdefault(uuid.UUID(r.source).bytes, []).append((r.first, r.last))
    return numbers


def table_of(body: bytes) -> tuple[bytes, str]:
    """A table map's id and `schema.table`."""
    schema = body[9 : 9 + body[8]]
    at = 9 + body[8] + 1
    table = body[at + 1 : at + 1 + body[at]]
    return body[:6], f"{schema.decode(errors='replace')}.{table.decode(errors='replace')}"


def query_of(body: bytes) -> tuple[str, str]:
    """The schema and the beginning of the text. After 13 fixed bytes: status variables, schema, zero, text."""
    schema_length = body[8]
    (status_length,) = struct.unpack_from("<H", body, 11)
    at = 13 + status_length
    schema = body[at : at + schema_length].decode(errors="replace")
    return schema, body[at + schema_length + 1 :][:200].decode(errors="replace")


def first_words(text: str) -> str:
    """What kind of statement it is, and nothing of its data."""
    words = [word.lower() for word in text.split(None, 2)[:2] if word.isalpha()]
    if words[:1] in (["begin"], ["commit"], ["rollback"], ["savepoint"]):
        return words[0]
    return " ".join(words) or "statement"


def probe_rows(event: Event) -> list[WriteKey] | None:
    """(client, seq) of the rows in a write event of the probe's table; None: it has another form."""
    body, at = event.body, 8  # table id, flags
    if event.type in _WITH_EXTRA:
        at += struct.unpack_from("<H", body, at)[0]
    if event.length > _KEPT_BYTES or len(body) < at + 2 or body[at] != _PROBE_COLUMNS or body[at + 1] & 0b111 != 0b111:
        return None
    rows = body[at + 2 :]
    if event.type in _COMPRESSED_ROWS:
        # One byte: the algorithm (0: zlib) and how many bytes the size before compression has.
        try:
            rows = zlib.decompress(rows[1 + (rows[0] & 0b111) :])
        except (zlib.error, IndexError):
            return None
    width = 1 + _PROBE_ROW.size  # the null bits, then the columns
    if len(rows) % width or any(rows[n] & 0b111 for n in range(0, len(rows), width)):
        return None
    found = (_PROBE_ROW.unpack_from(rows, n + 1) for n in range(0, len(rows), width))
    return [(int(client), int(seq)) for _, client, seq in found]
