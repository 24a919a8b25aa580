"""The ledger: what each client was told about each write, and what became of it.

Every time is nanoseconds on CLOCK_MONOTONIC, which all processes of one machine share.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Self

MAX_ERROR = 240  # characters of an error that a line keeps

WriteKey = tuple[int, int]
"""(client, seq): a client never uses a seq twice."""


class Fate(StrEnum):
    """What a client knows of its write."""

    ACKNOWLEDGED = "acknowledged"  # the client was told that it is committed
    REFUSED = "refused"  # certainly not committed: the server said so, or it was never sent
    UNKNOWN = "unknown"  # sent, and the connection was lost before an answer


@dataclass(frozen=True, slots=True)
class Write:
    """One write by one client. `sent_ns` of a write that was never sent is when the attempt began."""

    client: int
    seq: int
    sent_ns: int
    done_ns: int  # when the answer, or the loss of the connection, was seen
    fate: Fate
    error: str = ""

    @property
    def key(self) -> WriteKey:
        """The row's identity in the table."""
        return self.client, self.seq

    def encode(self) -> str:
        """One line with its newline: `client seq sent_ns done_ns fate error`."""
        error = " ".join(self.error.split())[:MAX_ERROR]
        return f"{self.client} {self.seq} {self.sent_ns} {self.done_ns} {self.fate.value} {error}\n"

    @classmethod
    def decode(cls, line: str) -> Self:
        """Read one line; its newline may be missing.

        Raises:
            ValueError: the line is not one that `encode` makes.
        """
        fields = line.rstrip("\n").split(" ", 5)
        if len(fields) != 6:
            raise ValueError(f"a ledger line has 6 fields, this one {len(fields)}: {line!r}")
        client, seq, sent_ns, done_ns, fate, error = fields
        return cls(int(client), int(seq), int(sent_ns), int(done_ns), Fate(fate), error)


@dataclass(frozen=True)
class Ledger:
    """The writes of all clients, in the order in which they were recorded.

    Of a run of consecutive refused attempts of one client only the first and the last are recorded;
    the seqs between the two belong to attempts that were refused as well.

    Raises:
        ValueError: a (client, seq) occurs twice; such a ledger proves nothing.
    """

    writes: tuple[Write, ...]

    def __post_init__(self) -> None:
        repeated = [key for key, times in Counter(w.key for w in self.writes).items() if times > 1]
        if repeated:
            raise ValueError(f"{len(repeated)} writes occur twice, the first is (client, seq) {min(repeated)}")

    def encode(self) -> str:
        """The whole ledger as text."""
        return "".join(w.encode() for w in self.writes)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read a ledger. A last line without its newline is torn and left out, even if it looks whole.

        Raises:
            ValueError: any other line is malformed, or a write occurs twice.
        """
        *whole, _torn = text.split("\n")
        return cls(tuple(Write.decode(line) for line in whole))


@dataclass(frozen=True, kw_only=True)
class LedgerVerdict:
    """The ledger against the rows of the new master. Keys are sorted (client, seq)."""

    acknowledged: int
    lost: tuple[WriteKey, ...]  # acknowledged and missing
    unknown_present: int
    unknown_absent: int
    refused: int  # attempts, with those that the ledger left out
    refused_present: int  # refused and present all the same: must be 0
    duplicated: tuple[WriteKey, ...]  # more than one row
    unrecorded: tuple[WriteKey, ...] = ()  # rows without a line: the probe died before it could write one


def settle(ledger: Ledger, rows: Iterable[WriteKey]) -> LedgerVerdict:
    """Compare the ledger with the (client, seq) rows found on the new master, in any order, repeats kept."""
    found = Counter(rows)
    by_fate: dict[Fate, set[WriteKey]] = {fate: set() for fate in Fate}
    for write in ledger.writes:
        by_fate[write.fate].add(write.key)
    refused = by_fate[Fate.REFUSED] | _left_out(ledger)
    unknown = by_fate[Fate.UNKNOWN]
    acknowledged = by_fate[Fate.ACKNOWLEDGED]
    present = found.keys()
    return LedgerVerdict(
        acknowledged=len(acknowledged),
        lost=tuple(sorted(acknowledged - present)),
        unknown_present=len(unknown & present),
        unknown_absent=len(unknown - present),
        refused=len(refused),
        refused_present=len(refused & present),
        duplicated=tuple(sorted(key for key, times in found.items() if times > 1)),
        unrecorded=tuple(sorted(present - acknowledged - unknown - refused)),
    )


def _left_out(ledger: Ledger) -> set[WriteKey]:
    """The attempts between two neighbouring refused ones of a client, which were refused too."""
    keys: set[WriteKey] = set()
    for client, writes in _by_client(ledger).items():
        in_order = sorted(writes, key=lambda w: w.seq)
        for first, last in pairwise(in_order):
            if first.fate is Fate.REFUSED and last.fate is Fate.REFUSED:
                keys.update((client, seq) for seq in range(first.seq + 1, last.seq))
    return keys


@dataclass(frozen=True, kw_only=True)
class ClientOutage:
    """The ends of one client's longest time without an acknowledgement around a kill."""

    client: int
    last_before_ns: int | None  # None: nothing was acknowledged before the kill
    first_after_ns: int | None  # None: it never came back

    @property
    def outage(self) -> timedelta | None:
        """How long, rounded to a microsecond; None: it never came back, or never wrote before."""
        if self.last_before_ns is None or self.first_after_ns is None:
            return None
        return timedelta(microseconds=(self.first_after_ns - self.last_before_ns) / 1000)


def outages(ledger: Ledger, kill_ns: int, *, until_ns: int | None = None) -> tuple[ClientOutage, ...]:
    """What each client went through, in the order of the clients.

    A dying, or frozen, master may still acknowledge a write a few milliseconds after the kill was
    sent. So the outage is not "the last acknowledgement before `kill_ns` to the first one after it",
    which such a straggler would cut down to the client's pace. It is the longest gap between two
    neighbouring acknowledgements a < b of the client with

        b > kill_ns    the gap contains the kill, or follows it
        a < until_ns   it began before the new master was open and routed; what comes later is
                       another story. None: every gap after the kill counts. The gap that contains
                       the kill always does (a planned switch may open the heir before the kill)

    so it is never shorter than the truth, and of a client that noticed nothing it is its pace. Of two
    equal gaps the first is taken. Two gaps have an open end, whose length nobody knows, and go first:

    * No acknowledgement up to the kill: `last_before_ns` is None.
    * The last acknowledgement is not later than the kill, or is earlier than `until_ns`:
      `first_after_ns` is None. An acknowledgement by the dying master is not a return. Therefore the
      probe has to go on until each client has one after `until_ns`.
    """
    return tuple(
        _outage(client, sorted(w.done_ns for w in writes if w.fate is Fate.ACKNOWLEDGED), kill_ns, until_ns)
        for client, writes in sorted(_by_client(ledger).items())
    )


def _outage(client: int, acknowledged: list[int], kill_ns: int, until_ns: int | None) -> ClientOutage:
    before = [t for t in acknowledged if t <= kill_ns]
    after = [t for t in acknowledged if t > kill_ns]
    returned = bool(after) and (until_ns is None or after[-1] >= until_ns)
    if not returned:
        # A straggler of a client without any earlier acknowledgement is still its last sign of life.
        last = acknowledged[-1] if acknowledged else None
        return ClientOutage(client=client, last_before_ns=last, first_after_ns=None)
    if not before:
        return ClientOutage(client=client, last_before_ns=None, first_after_ns=after[0])
    gaps = [(a, b) for a, b in pairwise([before[-1], *after]) if a <= kill_ns or until_ns is None or a < until_ns]
    last, first = max(gaps, key=lambda gap: gap[1] - gap[0])
    return ClientOutage(client=client, last_before_ns=last, first_after_ns=first)


def _by_client(ledger: Ledger) -> dict[int, list[Write]]:
    clients: dict[int, list[Write]] = defaultdict(list)
    for write in ledger.writes:
        clients[write.client].append(write)
    return clients
