"""Who inherits (I5): the heir holds everything that anybody received, or is given it first."""

import pytest
from builders import gtids, iid

from reaper.planner.election import Candidate, Elected, NoHeir, elect


def candidate(
    name: str, received: str, executed: str | None = None, unfit: str | None = None, broken_applier: bool = False
) -> Candidate:
    return Candidate(
        instance=iid(name),
        received=gtids(received),
        executed=gtids(received if executed is None else executed),
        unfit=unfit,
        broken_applier=broken_applier,
    )


ELECTED = [
    pytest.param(
        [candidate("n2", "0-1-100"), candidate("n3", "0-1-100"), candidate("n4", "0-1-100")],
        "n4",
        ("n4", None),
        id="the prepared replacement, if it holds everything",
    ),
    pytest.param(
        [candidate("n2", "0-1-100"), candidate("n3", "0-1-100")],
        None,
        ("n2", None),
        id="nobody prepared and all equal: the first by name",
    ),
    pytest.param(
        [candidate("n2", "0-1-100", "0-1-40"), candidate("n3", "0-1-100", "0-1-99")],
        None,
        ("n3", None),
        id="E31 nobody prepared: the one with the shortest backlog",
    ),
    pytest.param(
        [candidate("n2", "0-1-100"), candidate("n4", "0-1-90")],
        "n4",
        ("n4", "n2"),
        id="I5 E05 the replacement lacks what a sibling received: the sibling hands it over",
    ),
    pytest.param(
        [candidate("n2", "0-1-100", "0-1-50"), candidate("n4", "0-1-90", "0-1-90")],
        "n4",
        ("n4", "n2"),
        id="E05 received counts, not executed: the sibling is ahead although it applied less",
    ),
    pytest.param(
        [candidate("n2", "0-1-90"), candidate("n3", "0-1-100")],
        None,
        ("n3", None),
        id="nobody prepared: the one that holds everything",
    ),
    pytest.param(
        [candidate("n2", "0-1-100"), candidate("n4", "0-1-100", unfit="configured delay of 3600 s")],
        "n4",
        ("n2", None),
        id="E06 a delayed replacement is passed over",
    ),
    pytest.param(
        [candidate("n2", "0-1-90"), candidate("n3", "0-1-100", unfit="configured delay of 60 s")],
        None,
        ("n2", "n3"),
        id="E06 a delayed replica never inherits, but hands over",
    ),
    pytest.param(
        [candidate("n2", "0-1-100,0-2-101", "0-1-100,0-2-101"), candidate("n4", "0-1-100")],
        "n4",
        ("n4", "n2"),
        id="E01 what only one replica has is not lost either",
    ),
    pytest.param(
        [candidate("n2", "", "0-1-100"), candidate("n3", "0-1-100", "0-1-90")],
        None,
        ("n2", None),
        id="an empty relay log after a restart: executed counts too",
    ),
    pytest.param([candidate("n2", "0-1-5")], "n9", ("n2", None), id="the prepared one did not answer"),
]

NOBODY = [
    pytest.param([], "n4", "no replica is fit", "no replica answered", id="nobody answered"),
    pytest.param(
        [candidate("n2", "0-1-100", unfit="its applier is stopped: 1062", broken_applier=True)],
        None,
        "no replica is fit",
        "n2: its applier is stopped: 1062",
        id="E06 the only replica is broken",
    ),
    pytest.param(
        [candidate("n2", "0-1-100,0-2-101"), candidate("n3", "0-1-100,0-3-101")],
        None,
        "diverged",
        "n2 holds 0-2-101 and n3 does not",
        id="I5 diverged: each has what the other lacks",
    ),
    pytest.param(
        [candidate("n2", "0-1-90"), candidate("n3", "0-1-100", unfit="stopped", broken_applier=True)],
        None,
        "nobody who holds it can apply it",
        "n3 holds 0-1-91..100 and n2 does not",
        id="E04 who holds everything cannot apply it",
    ),
]


@pytest.mark.parametrize(("candidates", "preferred", "expected"), ELECTED)
def test_the_heir_and_who_fills_its_gap(
    candidates: list[Candidate], preferred: str | None, expected: tuple[str, str | None]
) -> None:
    election = elect(tuple(candidates), preferred=iid(preferred) if preferred else None)
    assert isinstance(election, Elected)
    donor = election.gap_from.short if election.gap_from else None
    assert (election.heir.short, donor) == expected


@pytest.mark.parametrize(("candidates", "preferred", "expected"), ELECTED)
def test_I5_the_heir_must_apply_everything_that_anybody_holds(
    candidates: list[Candidate], preferred: str | None, expected: tuple[str, str | None]
) -> None:
    del expected
    election = elect(tuple(candidates), preferred=iid(preferred) if preferred else None)
    assert isinstance(election, Elected)
    assert all(election.must_apply.covers(c.holding) for c in candidates)
    holder = election.gap_from or election.heir
    assert next(c for c in candidates if c.instance == holder).holding.covers(election.must_apply)


@pytest.mark.parametrize(("candidates", "preferred", "why", "evidence"), NOBODY)
def test_I5_nobody_is_promoted_and_a_person_is_told_why(
    candidates: list[Candidate], preferred: str | None, why: str, evidence: str
) -> None:
    election = elect(tuple(candidates), preferred=iid(preferred) if preferred else None)
    assert isinstance(election, NoHeir)
    assert why in election.why
    assert evidence in election.evidence


@pytest.mark.parametrize(("candidates", "preferred", "expected"), ELECTED)
def test_the_order_of_the_candidates_does_not_matter(
    candidates: list[Candidate], preferred: str | None, expected: tuple[str, str | None]
) -> None:
    del expected
    chosen = iid(preferred) if preferred else None
    assert elect(tuple(candidates), preferred=chosen) == elect(tuple(reversed(candidates)), preferred=chosen)
