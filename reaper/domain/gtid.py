"""GTID sets of both flavours as a small algebra: cover, union, difference, distance.

`a >= b` asks whether whoever holds `a` holds everything in `b`. It is a partial order: of two sets
that have diverged, neither covers the other. `a | b` is its least upper bound. A MySQL set is an
exact set of transactions; a MariaDB set is a vector of high-water marks (see `MariadbGtidSet`).
Values of different flavours never mix: every operation raises TypeError, and `==` is False.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Self, TypeVar

# "19.1.3.1 GTID Format and Storage" of the MySQL manual: 1 to 2^63 - 1; a tag has up to 32 characters.
_MYSQL_LAST = 2**63 - 1
_MYSQL_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MYSQL_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_MYSQL_SOURCE = re.compile(f"{_MYSQL_UUID.pattern}(?::{_MYSQL_TAG.pattern})?")
_MYSQL_INTERVAL = re.compile(r"([0-9]{1,20})(?:\s*-\s*([0-9]{1,20}))?")
_MYSQL_FORM = "'uuid:1-5:7:tag:1-3,uuid:1' as in @@gtid_executed"
# "Global Transaction ID" of the MariaDB manual: 32-bit domain and server, 64-bit sequence, all unsigned.
_MARIADB_LAST_ID = 2**32 - 1
_MARIADB_LAST_SEQUENCE = 2**64 - 1
_MARIADB_GTID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})-([0-9]{1,20})")
_MARIADB_FORM = "'domain-server-sequence,...' such as '0-1-100,0-2-105', as in @@gtid_binlog_state"
_MOST_SHOWN = 200  # characters of a malformed text that its error repeats


class GtidParseError(ValueError):
    """Cannot read the GTID set {text}: {why}; expected {form}."""

    def __init__(self, text: str, why: str, form: str) -> None:
        super().__init__(text, why, form)
        self.text, self.why, self.form = text, why, form

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= _MOST_SHOWN else self.text[:_MOST_SHOWN] + "..."
        return f"cannot read the GTID set {shown!r}: {self.why}; expected {self.form}"


@dataclass(frozen=True, order=True)
class GtidRange:
    """Contiguous transactions of one source, `first` to `last` inclusive.

    `source` is "uuid" or "uuid:tag" in lower case (MySQL), or "domain-server" (MariaDB).

    Raises:
        ValueError: not 1 <= first <= last.
    """

    source: str
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"the interval {self.first}-{self.last} must ascend and start at 1 or more")

    def __str__(self) -> str:
        if self.source.count("-") == 1:  # MariaDB; a uuid has four
            return f"{self.source}-{self.first}" + (f"..{self.last}" if self.last > self.first else "")
        return f"{self.source}:{self.interval}"

    @property
    def interval(self) -> str:
        """The numbers as MySQL writes them: `5-7`, or `5` for one."""
        return f"{self.first}-{self.last}" if self.last > self.first else str(self.first)

    @property
    def count(self) -> int:
        """The number of sequence numbers in the range, at least 1."""
        return self.last - self.first + 1


class GtidSet(ABC):
    """The transactions that a server holds; the interface of both flavours.

    Values are frozen and hashable, and equal when they mean the same. Every method that takes another
    set raises TypeError if that is of the other flavour.
    """

    @abstractmethod
    def covers(self, other: "GtidSet") -> bool:
        """True if self holds everything that other holds; also `>=`. Reflexive, antisymmetric, transitive."""

    @abstractmethod
    def __or__(self, other: "GtidSet") -> "GtidSet":
        """The union: the least set that covers both."""

    @abstractmethod
    def beyond(self, other: "GtidSet") -> tuple[GtidRange, ...]:
        """What self holds and other lacks, sorted; also `-`. Empty if and only if other covers self."""

    @abstractmethod
    def distance(self, other: "GtidSet") -> int:
        """The number of transactions that self holds and other lacks; 0 if and only if other covers self."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """True if the set holds no transaction; `bool(s)` is the opposite."""

    @abstractmethod
    def __str__(self) -> str:
        """The canonical text, on one line: it parses back to an equal set and the server accepts it."""

    def __ge__(self, other: "GtidSet") -> bool:
        return self.covers(other)

    def __le__(self, other: "GtidSet") -> bool:
        return _alike(self, other).covers(self)

    def __gt__(self, other: "GtidSet") -> bool:
        return self.covers(other) and self != other

    def __lt__(self, other: "GtidSet") -> bool:
        return self <= other and self != other

    def __sub__(self, other: "GtidSet") -> tuple[GtidRange, ...]:
        return self.beyond(other)

    def __bool__(self) -> bool:
        return not self.is_empty


_Set = TypeVar("_Set", bound=GtidSet)


def _alike(mine: _Set, other: object) -> _Set:
    """`other`, proved to be of the flavour of `mine`."""
    if not isinstance(other, type(mine)):
        raise TypeError(
            f"a {type(mine).__name__} cannot be combined or compared with a {type(other).__name__}: "
            "GTID sets of different flavours have nothing in common"
        )
    return other


@dataclass(frozen=True)
class MysqlGtidSet(GtidSet):
    """An exact set of transactions, as MySQL 8.0.23 and later write it, with the tags of 8.3 and later.

    `ranges` may come in any order and overlap; they are kept sorted, disjoint and as few as possible.
    Every operation is one sweep over the ranges of both sets (after one sort for a union).

    Raises:
        ValueError: a source is not "uuid" or "uuid:tag" in lower case, or a number exceeds 2^63 - 1.
    """

    ranges: tuple[GtidRange, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranges", _normalised(self.ranges))
        for source, ranges in groupby(self.ranges, attrgetter("source")):
            if not _MYSQL_SOURCE.fullmatch(source):
                raise ValueError(f"{source!r} is not a MySQL source: a lower-case uuid, or uuid:tag")
            last = max(r.last for r in ranges)
            if last > _MYSQL_LAST:
                raise ValueError(f"the number {last} of {source} exceeds {_MYSQL_LAST}")

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""Read `uuid:1-5:7-10,\nuuid:tag_a:1`; white space around any part is ignored, '' is the empty set.

        A tag applies to the intervals after it, up to the next tag or comma. Upper case is folded.

        Raises:
            GtidParseError: the text is malformed; an interval that is 0, descends or exceeds 2^63 - 1
                and an empty part (a sign of truncated text) are malformed too.
        """
        if not text.strip():
            return cls()
        try:
            return cls(tuple(r for part in text.split(",") for r in _mysql_part(part)))
        except ValueError as error:
            raise GtidParseError(text, str(error), _MYSQL_FORM) from error

    def covers(self, other: GtidSet) -> bool:
        """True if every transaction of other is in self."""
        return next(_subtract(_alike(self, other).ranges, self.ranges), None) is None

    def __or__(self, other: GtidSet) -> "MysqlGtidSet":
        return MysqlGtidSet(self.ranges + _alike(self, other).ranges)

    def beyond(self, other: GtidSet) -> tuple[GtidRange, ...]:
        """The exact difference: as few ranges as possible, by source and number."""
        return tuple(_subtract(self.ranges, _alike(self, other).ranges))

    def distance(self, other: GtidSet) -> int:
        """The exact number of transactions that self holds and other lacks."""
        return sum(r.count for r in self.beyond(other))

    @property
    def is_empty(self) -> bool:
        """True if there is no transaction."""
        return not self.ranges

    def __str__(self) -> str:
        parts: dict[str, list[str]] = {}
        for source, ranges in groupby(self.ranges, attrgetter("source")):
            uuid, _, tag = source.partition(":")
            part = parts.setdefault(uuid, [uuid])
            part.extend([tag] if tag else [])
            part.extend(r.interval for r in ranges)
        return ",".join(":".join(part) for part in parts.values())


def _mysql_part(part: str) -> Iterator[GtidRange]:
    """The ranges of one `uuid:...` between commas. Raises ValueError with the reason."""
    uuid, *tokens = (token.strip().lower() for token in part.split(":"))
    if not _MYSQL_UUID.fullmatch(uuid):
        raise ValueError(f"{uuid!r} is not a source's uuid" if uuid else "a part between commas is empty")
    source, awaited = uuid, True  # awaited: an interval must follow
    for token in tokens:
        if found := _MYSQL_INTERVAL.fullmatch(token):
            yield GtidRange(source, int(found[1]), int(found[2] or found[1]))
            awaited = False
        elif _MYSQL_TAG.fullmatch(token) and not (awaited and source != uuid):
            source, awaited = f"{uuid}:{token}", True
        else:
            raise ValueError(f"{token!r} after {source} is not an interval")
    if awaited:
        raise ValueError(f"no interval follows {source}")


def _normalised(ranges: Iterable[GtidRange]) -> tuple[GtidRange, ...]:
    """Sorted by source and number, overlapping and adjacent ones merged."""
    merged: list[GtidRange] = []
    for r in sorted(ranges, key=attrgetter("source", "first", "last")):
        before = merged[-1] if merged else None
        if before is None or before.source != r.source or r.first > before.last + 1:
            merged.append(r)
        elif r.last > before.last:
            merged[-1] = GtidRange(r.source, before.first, r.last)
    return tuple(merged)


def _subtract(mine: tuple[GtidRange, ...], theirs: tuple[GtidRange, ...]) -> Iterator[GtidRange]:
    """What is in `mine` and not in `theirs`, both normalised: one pass over each."""
    at = 0
    for r in mine:
        first = r.first  # nothing of r before it is still undecided
        while at < len(theirs) and (theirs[at].source, theirs[at].last) < (r.source, first):
            at += 1
        while at < len(theirs) and theirs[at].source == r.source and theirs[at].first <= r.last:
            if theirs[at].first > first:
                yield GtidRange(r.source, first, theirs[at].first - 1)
            first = theirs[at].last + 1
            if first > r.last:
                break  # this one may reach into the next r
            at += 1
        if first <= r.last:
            yield GtidRange(r.source, first, r.last)


@dataclass(frozen=True)
class MariadbGtid:
    """One MariaDB GTID, `domain-server-sequence`.

    Raises:
        ValueError: domain or server does not fit 32 bits, or sequence 64, unsigned.
    """

    domain: int
    server: int
    sequence: int

    def __post_init__(self) -> None:
        for name, value, most in (
            ("domain", self.domain, _MARIADB_LAST_ID),
            ("server", self.server, _MARIADB_LAST_ID),
            ("sequence", self.sequence, _MARIADB_LAST_SEQUENCE),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"the {name} {value} of {self} is not between 0 and {most}")

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"


@dataclass(frozen=True)
class MariadbGtidSet(GtidSet):
    """For each (domain, server) the highest sequence number seen, as in gtid_binlog_state.

    An entry n means "every transaction that this server wrote in this domain, up to n". An absent
    entry is 0, so the sets are vectors of natural numbers under the order and the maximum of each
    entry: a join semilattice (a lattice, with the minimum, which nothing here needs) in which the
    empty set is least and `|` is the least upper bound.

    The vector is sound under gtid_strict_mode. There, the sequence numbers in the binary log of a
    server only grow within a domain, so a server that logged n of a server in order has logged what
    came before. The numbers of a domain are shared by all its masters: each continues after the
    last one it knows, so one server's numbers have gaps, which belong to whoever was master then.
    An errant transaction was written under another server's id, and shows as an entry that the other
    set lacks or has lower, even if the number itself is below the other's highest. Two limits: a server
    id that is used again hides errant transactions (E29), and a text with one GTID per domain
    (gtid_slave_pos, Gtid_IO_Pos) holds the newest entry only, so join it with gtid_binlog_state.

    `entries` may come in any order and repeat a (domain, server), of which the highest counts; a
    sequence of 0 holds nothing and is dropped. They are kept by domain and then by sequence, because
    the server takes the last entry of a domain in gtid_binlog_state as its newest (measured, 10.11).
    """

    entries: tuple[MariadbGtid, ...] = ()

    def __post_init__(self) -> None:
        highest: dict[tuple[int, int], MariadbGtid] = {}
        for e in self.entries:
            if e.sequence > 0 and e.sequence >= highest.get((e.domain, e.server), e).sequence:
                highest[e.domain, e.server] = e
        kept = sorted(highest.values(), key=attrgetter("domain", "sequence", "server"))
        object.__setattr__(self, "entries", tuple(kept))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `0-1-100,0-2-105`; white space around an entry is ignored, '' is the empty set.

        Raises:
            GtidParseError: the text is malformed, or a number does not fit its 32 or 64 bits.
        """
        if not text.strip():
            return cls()
        try:
            return cls(tuple(_mariadb_gtid(part.strip()) for part in text.split(",")))
        except ValueError as error:
            raise GtidParseError(text, str(error), _MARIADB_FORM) from error

    def covers(self, other: GtidSet) -> bool:
        """True if no entry of other is higher than the same entry of self."""
        if self is other or self == other:
            return True  # the usual case, and inside the outage
        mine = self._vector
        return all(n <= mine.get(key, 0) for key, n in _alike(self, other)._vector.items())

    def __or__(self, other: GtidSet) -> "MariadbGtidSet":
        if self.covers(other):
            return self
        return MariadbGtidSet(self.entries + _alike(self, other).entries)

    def beyond(self, other: GtidSet) -> tuple[GtidRange, ...]:
        """Per entry that other has lower or lacks, what is missing; sorted by the text of the source.

        The range starts after other's entry. Where other has none it is the last transaction alone:
        earlier numbers of the domain may belong to other masters, so no more can be claimed. Because
        of the gaps, a range bounds the missing transactions and is not a list of them.
        """
        theirs = _alike(self, other)._vector
        return tuple(
            sorted(
                GtidRange(f"{e.domain}-{e.server}", theirs.get((e.domain, e.server), e.sequence - 1) + 1, e.sequence)
                for e in self.entries
                if e.sequence > theirs.get((e.domain, e.server), 0)
            )
        )

    def distance(self, other: GtidSet) -> int:
        """An estimate of how many transactions other lacks; exact only in that 0 means that it lacks none.

        Per domain, the sum of how far each entry is above other's (an absent entry is 0), but never more
        than the domain's highest number in self less that in other, since masters share the numbers,
        nor less than one for each entry that other lacks or has lower.
        """
        theirs = _alike(self, other)._vector
        total = 0
        for domain, entries in groupby(self.entries, attrgetter("domain")):
            ahead = [(e.sequence, e.sequence - theirs.get((domain, e.server), 0)) for e in entries]
            gaps = [gap for _, gap in ahead if gap > 0]
            lead = max(n for n, _ in ahead) - max((n for (d, _), n in theirs.items() if d == domain), default=0)
            total += min(sum(gaps), max(lead, len(gaps)))
        return total

    @property
    def is_empty(self) -> bool:
        """True if there is no entry."""
        return not self.entries

    def __str__(self) -> str:
        return ",".join(map(str, self.entries))

    def position(self) -> str:
        """Per domain the GTID with the highest sequence, as text for MASTER_GTID_WAIT and gtid_slave_pos.

        Those take one GTID per domain (a second one in gtid_slave_pos is error 1943). Of two servers
        with the same sequence, which only a union of diverged servers has, the higher server id is named.
        """
        return ",".join(str(e) for e in self._newest().values())

    def with_position(self, pos: "MariadbGtidSet") -> "MariadbGtidSet":
        """The state as it was at `pos`, given this state of the same server a moment earlier or later.

        Entries that `pos` names take its sequence. Others in a domain of `pos` stay if they are below
        its highest there, and are dropped if not: they came after `pos`, and what that server had
        written before is not known. Domains that `pos` does not name are dropped.

        Raises:
            TypeError: `pos` is not a MariaDB set.
        """
        newest = _alike(self, pos)._newest()
        named = pos._vector
        kept = (
            e
            for e in self.entries
            if (e.domain, e.server) not in named and e.domain in newest and e.sequence < newest[e.domain].sequence
        )
        return MariadbGtidSet((*kept, *pos.entries))

    @cached_property
    def _vector(self) -> Mapping[tuple[int, int], int]:
        return {(e.domain, e.server): e.sequence for e in self.entries}

    def _newest(self) -> Mapping[int, MariadbGtid]:
        return {e.domain: e for e in self.entries}  # the last of a domain is its highest


def _mariadb_gtid(part: str) -> MariadbGtid:
    """One entry. Raises ValueError with the reason."""
    found = _MARIADB_GTID.fullmatch(part)
    if not found:
        raise ValueError(f"{part!r} is not domain-server-sequence" if part else "a part between commas is empty")
    return MariadbGtid(int(found[1]), int(found[2]), int(found[3]))
