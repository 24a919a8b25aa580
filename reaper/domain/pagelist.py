"""Lists of buffer-pool pages: whose they are, which of them another server can load, how many it has.

A page is one integer, `space id << 32 | page number`, as InnoDB's own dump holds it (buf0dump.cc): a pool of 100 GiB
has 6.5 million of them, which as tuples would not fit where reaper runs.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

_LARGEST = 2**32 - 1
# Each server fills these for itself, at places of its own: undo, dictionary, statistics, positions, reaper's tables.
_OWN_SCHEMAS = ("mysql", "sys", "reaper")
_OWN_FILES = "innodb_"  # innodb_system, innodb_undo_001, innodb_temporary: no server lets others have such a name


@dataclass(frozen=True, kw_only=True)
class Tablespace:
    """One data file of a server."""

    id: int  # differs between servers where a table was made or rebuilt after the copy
    name: str  # `schema/table`, the same on every server
    pages: int  # how long the file is

    @property
    def shared(self) -> bool:
        """True if its pages mean the same on a replica; False for what each server keeps for itself."""
        schema, of_a_table, _ = self.name.partition("/")
        return schema not in _OWN_SCHEMAS and (bool(of_a_table) or not schema.startswith(_OWN_FILES))


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much a buffer pool holds."""

    pages: int
    parts: int = 1  # innodb_buffer_pool_instances: a dump lists one after the other


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """A victim's hot pages as its heir can load them."""

    pages: "array[int]"  # with the heir's space ids, hottest first
    hot: int  # all that are hot on the victim, of tables
    absent: int  # of them, those of tables or places that the heir does not have
    beyond: int  # of them, those for which the heir's pool has no room

    @property
    def within_reach(self) -> float:
        """The share of the hot pages that can be resident on the heir at all; 1 if none is hot."""
        return len(self.pages) / self.hot if self.hot else 1.0


def parse_pages(text: bytes) -> "array[int]":
    """The lines `space,page` of a dump. ValueError: it is no dump, or was cut off."""
    pages = array("Q")
    for line in text.split():
        space, separator, page = line.partition(b",")
        if not separator or not space.isdigit() or not page.isdigit():
            raise ValueError(f"{line[:40]!r} is no page of a buffer-pool dump")
        numbers = int(space), int(page)
        if max(numbers) > _LARGEST:
            raise ValueError(f"{line[:40]!r} is no page of a buffer-pool dump")
        pages.append(numbers[0] << 32 | numbers[1])
    return pages


def written_pages(pages: Iterable[int]) -> bytes:
    """The dump that a server loads these pages from."""
    return "".join(f"{page >> 32},{page & _LARGEST}\n" for page in pages).encode()


def ship(
    hot: "array[int]", victim: Iterable[Tablespace], heir: Iterable[Tablespace], room: Room, parts: int
) -> Shipment:
    """The victim's hot pages, renumbered for the heir and cut to its pool. `parts`: of the victim's pool."""
    there = {space.name: space for space in heir}
    known = {space.id: there.get(space.name) for space in victim if space.shared}
    pages, absent = array("Q"), 0
    for page in hot:
        space = page >> 32
        if space not in known:
            continue
        target, number = known[space], page & _LARGEST
        if target is None or number >= target.pages:
            absent += 1
        else:
            pages.append(target.id << 32 | number)
    fitting = hottest(pages, room.pages, parts)
    return Shipment(pages=fitting, hot=len(pages) + absent, absent=absent, beyond=len(pages) - len(fitting))


def hottest(pages: "array[int]", most: int, parts: int) -> "array[int]":
    """At most so many, the most recently used first.

    A dump follows the LRU list from its head, the page that was used last (buf_dump in buf0dump.cc of both flavours).
    MySQL lists the pool's instances one after the other and does not say where one ends; they are filled evenly,
    so the head of each equal part is taken.
    """
    if len(pages) <= most:
        return pages
    if parts <= 1:
        return pages[:most]
    chosen, size = array("Q"), -(-len(pages) // parts)
    for part in range(parts):
        chosen.extend(pages[part * size : part * size + most // parts])
    return chosen


class Resident:
    """Which pages a pool holds: a bit for each page of each file."""

    def __init__(self, pages: Iterable[int]) -> None:
        self._bits: dict[int, bytearray] = {}
        for page in pages:
            bits = self._bits.setdefault(page >> 32, bytearray())
            byte, bit = divmod(page & _LARGEST, 8)
            if byte >= len(bits):
                bits.extend(bytes(byte + 1 - len(bits)))
            bits[byte] |= 1 << bit

    def has(self, page: int) -> bool:
        """True if the page is in the pool."""
        bits = self._bits.get(page >> 32, b"")
        byte, bit = divmod(page & _LARGEST, 8)
        return byte < len(bits) and bool(bits[byte] >> bit & 1)

    def count(self, wanted: Iterable[int]) -> int:
        """How many of these pages are in the pool."""
        return sum(map(self.has, wanted))
