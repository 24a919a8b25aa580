"""What a dead master takes with it: transactions in its binary log that the new master does not hold (E03, I6)."""

from dataclasses import dataclass
from enum import StrEnum

from reaper.domain.gtid import GtidSet, MariadbGtidSet, MysqlGtidSet
from reaper.domain.ledger import Fate, Ledger, WriteKey

MOST_LISTED = 1000  # transactions; what comes after them is counted


@dataclass(frozen=True, kw_only=True)
class TailTransaction:
    """One whole transaction of a binary log."""

    gtid: str
    tables: tuple[str, ...]  # `schema.table` of row changes, sorted; the schema alone of a statement
    kinds: tuple[str, ...]  # "insert", "update", "delete", or a statement's first words, sorted
    probe_rows: tuple[WriteKey, ...]  # inserted into the probe's tables, (client, seq)
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Everything beyond a GTID set in the binary logs of a dead server, in their order."""

    transactions: tuple[TailTransaction, ...] = ()  # at most MOST_LISTED
    count: int = 0  # all of them
    size_bytes: int = 0  # of all of them
    torn: str | None = None  # where the newest log ends inside a transaction; normal after SIGKILL
    unreadable: str | None = None  # why there may be more than is listed, in words; None: all was read
    out_of_reach: str | None = None  # why this provider never reads a dead server's logs; None: it does


class Told(StrEnum):
    """What a client was told of a transaction that only the dead master holds."""

    ACKNOWLEDGED = "acknowledged"  # "committed": it is lost, which must never be
    NEVER_ACKNOWLEDGED = "never acknowledged"
    CANNOT_TELL = "cannot be told"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One extra transaction, and why it is judged so."""

    transaction: TailTransaction
    told: Told
    why: str


@dataclass(frozen=True, kw_only=True)
class Forensics:
    """What the dead master's tail came to. Kept in the report when the files are gone."""

    judged: tuple[Judged, ...] = ()
    unlisted: int = 0  # extra transactions beyond those judged one by one
    unlisted_told: Told = Told.CANNOT_TELL
    torn: str | None = None
    unreadable: str | None = None  # the tail is unknown, wholly or from some point on (I10)
    out_of_reach: str | None = None  # it is never read at this provider, and what that leaves open

    def count(self, told: Told) -> int:
        """How many extra transactions are judged so."""
        listed = sum(j.told is told for j in self.judged)
        return listed + (self.unlisted if self.unlisted_told is told else 0)

    @property
    def clean(self) -> bool:
        """True if everything was read and nothing is extra; unknown is not clean."""
        return not self.judged and not self.unlisted and self.unreadable is None and self.out_of_reach is None

    @property
    def faults(self) -> tuple[str, ...]:
        """What makes the run a failure: a client was told that a transaction is committed, and it is lost (I3)."""
        lost = [j for j in self.judged if j.told is Told.ACKNOWLEDGED]
        return tuple(
            f"{j.transaction.gtid} is only on the dead master and was acknowledged: {j.why}. "
            "Keep its files and write the rows again by hand."
            for j in lost
        )

    @property
    def summary(self) -> str:
        """One line."""
        if self.unreadable is not None:
            known = f"; {self._counts} so far" if self.judged or self.unlisted else ""
            return f"the dead master's tail is unknown: {self.unreadable}{known}"
        if self.out_of_reach is not None:
            return f"the dead master's tail was not read: {self.out_of_reach}"
        if self.clean:
            return "the dead master holds nothing that the new one lacks"
        return f"only on the dead master: {self._counts}"

    @property
    def _counts(self) -> str:
        return ", ".join(f"{n} {told}" for told in Told if (n := self.count(told)))


def classify(tail: Tail, executed: GtidSet, ledger: Ledger | None, *, lossless: bool) -> Forensics:
    """Judge what the dead master holds and the new one, which has executed `executed`, does not.

    `lossless`: up to its death the master answered a commit only after a replica had received it (semi-sync, not
    fallen back), and the new master was given all that any replica had received (I5). Then what is missing there
    was received by nobody, and acknowledged to nobody. `ledger` None: the probe's record could not be read.
    Reading is in the caller's hands: `executed` may be newer than the set that the tail was read with.
    """
    if tail.out_of_reach is not None:
        left = "what it holds alone was acknowledged to nobody, since semi-sync held"
        open_ = "what it holds alone is counted for the probe's writes only"
        return Forensics(out_of_reach=f"{tail.out_of_reach}; {left if lossless else open_}")
    fates = {w.key: w.fate for w in ledger.writes} if ledger else {}
    extra = [t for t in tail.transactions if not holds(executed, t.gtid)]
    unlisted = tail.count - len(tail.transactions)
    return Forensics(
        judged=tuple(_judge(t, fates, lossless=lossless) for t in extra),
        unlisted=unlisted,
        unlisted_told=Told.NEVER_ACKNOWLEDGED if lossless else Told.CANNOT_TELL,
        torn=tail.torn,
        unreadable=tail.unreadable,
    )


def holds(executed: GtidSet, gtid: str) -> bool:
    """True if a set holds one transaction. GtidParseError: the GTID is of the other flavour."""
    kind = MariadbGtidSet if isinstance(executed, MariadbGtidSet) else MysqlGtidSet
    return executed.covers(kind.parse(gtid))


def _judge(transaction: TailTransaction, fates: dict[WriteKey, Fate], *, lossless: bool) -> Judged:
    told, why = _told(transaction, fates, lossless=lossless)
    return Judged(transaction=transaction, told=told, why=why)


def _told(transaction: TailTransaction, fates: dict[WriteKey, Fate], *, lossless: bool) -> tuple[Told, str]:
    rows = transaction.probe_rows
    known = [fates.get(key) for key in rows]
    if Fate.ACKNOWLEDGED in known:
        client, seq = rows[known.index(Fate.ACKNOWLEDGED)]
        return Told.ACKNOWLEDGED, f"the probe's client {client} was told that its write {seq} is committed"
    if rows and None not in known:
        return Told.NEVER_ACKNOWLEDGED, "the probe's ledger says that its client got no such answer"
    if lossless:
        return Told.NEVER_ACKNOWLEDGED, "no replica had received it, and the master answers only after one has"
    whose = "is not in the probe's ledger" if rows else "is not the probe's"
    return (
        Told.CANNOT_TELL,
        f"it {whose}, and without lossless semi-sync a client may have been told that it is committed",
    )
