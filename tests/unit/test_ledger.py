"""What the ledger proves, and what it cannot."""

from dataclasses import dataclass
from datetime import timedelta

import pytest

from reaper.domain.ledger import ClientOutage, Fate, Ledger, LedgerVerdict, Write, outages, settle

MS = 1_000_000  # nanoseconds
KILL = 1000 * MS


def write(client: int, seq: int, fate: Fate, at_ms: float = 0, error: str = "") -> Write:
    done_ns = int(at_ms * MS)
    return Write(client, seq, done_ns - MS, done_ns, fate, error)


def acked(client: int, *at_ms: float) -> list[Write]:
    """Acknowledgements of one client at these milliseconds, seqs from 1."""
    return [write(client, seq, Fate.ACKNOWLEDGED, t) for seq, t in enumerate(at_ms, start=1)]


def ledger(*writes: Write) -> Ledger:
    return Ledger(tuple(writes))


ACK, REF, UNK = Fate.ACKNOWLEDGED, Fate.REFUSED, Fate.UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A case of `settle`; what is not named is zero or empty."""

    fates: dict[tuple[int, int], Fate]
    rows: list[tuple[int, int]]
    acknowledged: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    unknown_present: int = 0
    unknown_absent: int = 0
    refused: int = 0
    refused_present: int = 0
    duplicated: tuple[tuple[int, int], ...] = ()
    unrecorded: tuple[tuple[int, int], ...] = ()


SETTLED = {
    "an empty ledger and an empty table agree": Settled(fates={}, rows=[]),
    "every acknowledged write is there, in any order": Settled(
        fates={(0, 1): ACK, (0, 2): ACK, (1, 1): ACK}, rows=[(1, 1), (0, 2), (0, 1)], acknowledged=3
    ),
    "an acknowledged write that is missing is lost, and named": Settled(
        fates={(1, 2): ACK, (0, 1): ACK, (0, 7): ACK},
        rows=[(0, 1)],
        acknowledged=3,
        lost=((0, 7), (1, 2)),
    ),
    "the same seq of another client does not stand in for a lost one": Settled(
        fates={(0, 1): ACK, (1, 1): UNK}, rows=[(1, 1)], acknowledged=1, lost=((0, 1),), unknown_present=1
    ),
    "an unknown write may be there": Settled(fates={(0, 1): UNK}, rows=[(0, 1)], unknown_present=1),
    "an unknown write may be absent": Settled(fates={(0, 1): UNK}, rows=[], unknown_absent=1),
    "a row that is there twice is duplicated, and counts once": Settled(
        fates={(0, 1): ACK, (0, 2): UNK},
        rows=[(0, 1), (0, 2), (0, 1), (0, 2), (0, 2)],
        acknowledged=1,
        unknown_present=1,
        duplicated=((0, 1), (0, 2)),
    ),
    "a refused write that is absent is as it should be": Settled(fates={(0, 1): REF}, rows=[], refused=1),
    "a refused write that is present is a fault": Settled(
        fates={(0, 1): REF}, rows=[(0, 1)], refused=1, refused_present=1
    ),
    "attempts between the first and last of a refused run were refused too": Settled(
        fates={(0, 1): ACK, (0, 2): REF, (0, 9): REF, (0, 10): ACK},
        rows=[(0, 1), (0, 5), (0, 10)],
        acknowledged=2,
        refused=8,
        refused_present=1,
    ),
    "nothing is left out between runs, or of another client": Settled(
        fates={(0, 1): REF, (0, 2): ACK, (0, 3): REF, (1, 9): REF},
        rows=[(0, 2)],
        acknowledged=1,
        refused=3,
    ),
    "a row without a line is named, and is no fault of the master": Settled(
        fates={(0, 1): ACK}, rows=[(0, 1), (0, 2)], acknowledged=1, unrecorded=((0, 2),)
    ),
}


@pytest.mark.parametrize("case", SETTLED.values(), ids=SETTLED.keys())
def test_settle(case: Settled) -> None:
    writes = [write(client, seq, fate) for (client, seq), fate in case.fates.items()]
    assert settle(ledger(*writes), case.rows) == LedgerVerdict(
        acknowledged=case.acknowledged,
        lost=case.lost,
        unknown_present=case.unknown_present,
        unknown_absent=case.unknown_absent,
        refused=case.refused,
        refused_present=case.refused_present,
        duplicated=case.duplicated,
        unrecorded=case.unrecorded,
    )


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A case of `outages` for one client, in milliseconds; the kill is at 1000."""

    acks: list[float]
    until: float | None
    expected: tuple[float | None, float | None]


OUTAGES = {
    "from the last before the kill to the first after it": Gap(
        acks=[960, 980, 1042, 1062], until=1040, expected=(980, 1042)
    ),
    "a straggler after the kill does not cut the outage short": Gap(
        acks=[980, 999, 1003, 1045, 1065], until=1040, expected=(1003, 1045)
    ),
    "several stragglers neither": Gap(acks=[980, 1003, 1023, 1180, 1200], until=1175, expected=(1023, 1180)),
    "a frozen master is one long gap": Gap(acks=[960, 980, 3100, 3120], until=3090, expected=(980, 3100)),
    "a frozen master that answers once when it wakes is a straggler": Gap(
        acks=[980, 1700, 3100, 3120], until=3090, expected=(1700, 3100)
    ),
    "a stall that starts after the new master opened is another story": Gap(
        acks=[980, 1042, 5000, 5020], until=1040, expected=(980, 1042)
    ),
    "a stall that starts at that very moment is too": Gap(
        acks=[980, 1040, 5000, 5020], until=1040, expected=(980, 1040)
    ),
    "without the moment of opening every later gap counts": Gap(
        acks=[980, 1042, 5000, 5020], until=None, expected=(1042, 5000)
    ),
    "a longer gap that ends at the kill does not count": Gap(acks=[100, 1000, 1042], until=1040, expected=(1000, 1042)),
    "of two equal gaps the first is taken": Gap(acks=[990, 1010, 1030, 1050], until=1050, expected=(990, 1010)),
    "a client that noticed nothing has its pace": Gap(acks=[970, 990, 1010, 1030], until=1011, expected=(990, 1010)),
    "a planned switch that opened the heir before the kill": Gap(
        acks=[900, 990, 1001], until=950, expected=(990, 1001)
    ),
    "a client that never returns": Gap(acks=[960, 980], until=1040, expected=(980, None)),
    "a client that never returns, the opening is unknown": Gap(acks=[980], until=None, expected=(980, None)),
    "a straggler is not a return": Gap(acks=[980, 1003], until=1040, expected=(1003, None)),
    "a client that did not write before the kill": Gap(acks=[1042, 1062], until=1040, expected=(None, 1042)),
    "a client that had nothing acknowledged": Gap(acks=[], until=1040, expected=(None, None)),
}


@pytest.mark.parametrize("case", OUTAGES.values(), ids=OUTAGES.keys())
def test_outage(case: Gap) -> None:
    # An attempt that failed is never an end of the gap, and makes the client known.
    failed = [write(0, 100 + n, fate, t) for n, (fate, t) in enumerate([(REF, 985), (UNK, 1001), (REF, 9000)])]
    until_ns = None if case.until is None else int(case.until * MS)
    (found,) = outages(ledger(*failed, *acked(0, *case.acks)), KILL, until_ns=until_ns)
    last, first = (None if t is None else int(t * MS) for t in case.expected)
    assert found == ClientOutage(client=0, last_before_ns=last, first_after_ns=first)
    if last is None or first is None:
        assert found.outage is None
    else:
        assert found.outage == timedelta(microseconds=(first - last) // 1000)


def test_each_client_has_its_own_outage_in_the_order_of_the_clients() -> None:
    mixed = sorted([*acked(2, 990), *acked(0, 980, 1042), *acked(1, 985, 1100)], key=lambda w: w.done_ns)
    found = outages(ledger(*mixed), KILL, until_ns=1040 * MS)
    assert [(o.client, o.outage) for o in found] == [
        (0, timedelta(milliseconds=62)),
        (1, timedelta(milliseconds=115)),
        (2, None),
    ]


LINES = {
    "an acknowledgement has an empty error": write(0, 1, ACK, 5),
    "an error keeps its blanks": write(3, 2**40, REF, 5, "1290 The server is read-only"),
    "an error in any script": write(1, 2, UNK, 5, "2013 接続が失われました"),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_line_is_read_back_as_it_was(line: Write) -> None:
    assert line.encode().count("\n") == 1
    assert Write.decode(line.encode()) == line


def test_an_error_of_several_lines_becomes_one() -> None:
    assert Write.decode(write(0, 1, UNK, 5, "lost\r\n connection\u2028again\n").encode()).error == (
        "lost connection again"
    )


def test_a_torn_last_line_is_left_out_wherever_it_tore() -> None:
    whole, last = write(0, 1, ACK, 5), write(0, 2, UNK, 6, "2013 Lost connection")
    text = ledger(whole, last).encode()
    assert Ledger.decode(text) == ledger(whole, last)
    for end in range(len(whole.encode()), len(text)):
        assert Ledger.decode(text[:end]) == ledger(whole)
    assert Ledger.decode("") == ledger()


BROKEN = {
    "a line torn in the middle of the file": "0 1 5 6 ackn\n0 2 7 8 acknowledged \n",
    "an empty line": "\n0 2 7 8 acknowledged \n",
    "a number that is none": "0 x 5 6 acknowledged \n",
    "a write that occurs twice": "0 1 5 6 acknowledged \n0 1 7 8 refused \n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_ledger_proves_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Ledger.decode(text)
