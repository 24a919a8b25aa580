"""GTID sets: real texts as tables, the laws of the algebra as properties."""

import operator
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reaper.domain.gtid import (
    GtidParseError,
    GtidRange,
    GtidSet,
    MariadbGtid,
    MariadbGtidSet,
    MysqlGtidSet,
)

U1 = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
U2 = "4d22fb58-82db-11e2-8f44-d91bb0530673"
BOTH = pytest.mark.parametrize("flavour", [MysqlGtidSet, MariadbGtidSet], ids=["MySQL", "MariaDB"])

my = MysqlGtidSet.parse
maria = MariadbGtidSet.parse


def shown(ranges: tuple[GtidRange, ...]) -> str:
    return " ".join(map(str, ranges))


# --- MySQL: text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param("", "", id="nothing executed is the empty set"),
        pytest.param(" \n", "", id="white space alone is the empty set"),
        pytest.param(f"{U1}:23", f"{U1}:23", id="one transaction"),
        pytest.param(f"{U1}:5-5", f"{U1}:5", id="an interval of one is written as one number"),
        pytest.param(f"{U1}:1-5:7-10,\n{U2}:1", f"{U1}:1-5:7-10,{U2}:1", id="a newline follows the server's commas"),
        pytest.param(f" {U1} : 1 - 5 : 7 ,\r\n {U2}:1\n", f"{U1}:1-5:7,{U2}:1", id="spaces are allowed anywhere"),
        pytest.param(f"{U1.upper()}:1-5,{U1}:6", f"{U1}:1-6", id="an upper-case uuid is the same source"),
        pytest.param(f"{U2}:1,{U1}:1", f"{U1}:1,{U2}:1", id="sources are sorted"),
        pytest.param(f"{U1}:7-10:1-3", f"{U1}:1-3:7-10", id="unordered intervals are sorted"),
        pytest.param(f"{U1}:1-5:3-8", f"{U1}:1-8", id="overlapping intervals are merged"),
        pytest.param(f"{U1}:1-5:6-8", f"{U1}:1-8", id="adjacent intervals are merged"),
        pytest.param(f"{U1}:1-9:2-3:5", f"{U1}:1-9", id="contained intervals disappear"),
        pytest.param(f"{U1}:1-54,\n{U1}:60", f"{U1}:1-54:60", id="a source named twice is joined"),
        pytest.param(f"{U1}:1-3:tag_a:1-5:7", f"{U1}:1-3:tag_a:1-5:7", id="a tag applies to the intervals after it"),
        pytest.param(f"{U1}:zeta:4:alpha:1-2:3:zeta:5", f"{U1}:alpha:1-3:zeta:4-5", id="each tag counts for itself"),
        pytest.param(f"{U1}:TAG_A:1,{U1}:tag_a:2", f"{U1}:tag_a:1-2", id="tags are case-insensitive"),
        pytest.param(f"{U1}:_{'9' * 31}:1", f"{U1}:_{'9' * 31}:1", id="a tag has up to 32 characters"),
        pytest.param(f"{U1}:tag_a:1,{U1}:1", f"{U1}:1:tag_a:1", id="a comma ends the tag"),
        pytest.param(f"{U1}:{2**63 - 1}", f"{U1}:{2**63 - 1}", id="the highest number"),
    ],
)
def test_mysql_text_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(my(text)) == canonical
    assert my(text) == my(canonical)
    assert hash(my(text)) == hash(my(canonical))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("nonsense", "'nonsense' is not a source's uuid", id="not a uuid"),
        pytest.param("0-1-100", "not a source's uuid", id="MariaDB's form"),
        pytest.param(U1, "no interval follows", id="a uuid alone"),
        pytest.param(f"{U1}:", "'' after .* is not an interval", id="a colon and nothing after it"),
        pytest.param(f"{U1}:1::2", "is not an interval", id="two colons"),
        pytest.param(f"{U1[:-1]}:1", "not a source's uuid", id="a uuid that lost a digit"),
        pytest.param(f"{U1.replace('-', '')}:1", "not a source's uuid", id="a uuid without dashes"),
        pytest.param(f"{U1}:0", "start at 1", id="transaction 0"),
        pytest.param(f"{U1}:0-5", "start at 1", id="an interval from 0"),
        pytest.param(f"{U1}:5-3", "must ascend", id="a descending interval"),
        pytest.param(f"{U1}:1-", "'1-' after", id="an interval without an end"),
        pytest.param(f"{U1}:-3", "'-3' after", id="a negative number"),
        pytest.param(f"{U1}:1-2-3", "is not an interval", id="an interval with three ends"),
        pytest.param(f"{U1}:1.5", "is not an interval", id="a fraction"),
        pytest.param(f"{U1}:\u0661", "is not an interval", id="digits that are not ASCII"),
        pytest.param(f"{U1}:{2**63}", "exceeds", id="a number beyond 63 bits"),
        pytest.param(f"{U1}:{'9' * 5000}", "is not an interval", id="a number beyond all reason"),
        pytest.param(f"{U1}:1,", "is empty", id="text cut off after a comma"),
        pytest.param(f"{U1}:1,,{U2}:1", "is empty", id="two commas"),
        pytest.param(f"{U1}:tag_a", "no interval follows", id="a tag without intervals"),
        pytest.param(f"{U1}:tag_a:tag_b:1", "'tag_b' after .* is not an interval", id="a tag after a tag"),
        pytest.param(f"{U1}:{'a' * 33}:1", "is not an interval", id="a tag of 33 characters"),
        pytest.param(f"{U1}:1tag:1", "is not an interval", id="a tag that begins with a digit"),
        pytest.param(f"{U1}:tag-a:1", "is not an interval", id="a tag with a dash"),
    ],
)
def test_malformed_mysql_text_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(GtidParseError, match=why) as caught:
        my(text)
    assert text[:60] in str(caught.value)
    assert "expected 'uuid:1-5:7:tag:1-3" in str(caught.value)


# --- MySQL: algebra ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "beyond", "distance"),
    [
        pytest.param("", "", "", 0, id="nothing beyond nothing"),
        pytest.param("", f"{U1}:1-5", "", 0, id="the empty set is covered by all"),
        pytest.param(f"{U1}:1-5", "", f"{U1}:1-5", 5, id="all is beyond the empty set"),
        pytest.param(f"{U1}:1-100", f"{U1}:1-97", f"{U1}:98-100", 3, id="a replica three behind"),
        pytest.param(f"{U1}:1-97", f"{U1}:1-100", "", 0, id="a replica is not beyond its source"),
        pytest.param(f"{U1}:1-5:7-10", f"{U1}:3", f"{U1}:1-2 {U1}:4-5 {U1}:7-10", 8, id="GTID_SUBTRACT, one within"),
        pytest.param(f"{U1}:1-10", f"{U1}:1-4:6-8", f"{U1}:5 {U1}:9-10", 3, id="a replica with gaps"),
        pytest.param(f"{U1}:2-3:5-6:8-9", f"{U1}:3-8", f"{U1}:2 {U1}:9", 2, id="one interval over several"),
        pytest.param(
            f"{U1}:1-100,{U2}:1",
            f"{U1}:1-104",
            f"{U2}:1",
            1,
            id="an errant transaction of the replica's uuid",
        ),
        pytest.param(f"{U1}:1-5:tag_a:1-5", f"{U1}:1-9", f"{U1}:tag_a:1-5", 5, id="tagged and untagged are distinct"),
        pytest.param(f"{U1.upper()}:1-5", f"{U1}:1-5", "", 0, id="upper case makes no difference"),
    ],
)
def test_mysql_difference(mine: str, theirs: str, beyond: str, distance: int) -> None:
    assert shown(my(mine).beyond(my(theirs))) == beyond
    assert my(mine) - my(theirs) == my(mine).beyond(my(theirs))
    assert my(mine).distance(my(theirs)) == distance
    assert my(theirs).covers(my(mine)) is (distance == 0)


def test_sets_that_have_diverged_cover_neither_each_other() -> None:
    a, b = my(f"{U1}:1-5,{U2}:1"), my(f"{U1}:1-6")
    assert not a >= b
    assert not a <= b
    assert not a > b
    assert not a < b
    assert str(a | b) == f"{U1}:1-6,{U2}:1"


@pytest.mark.timeout(20)
def test_tens_of_thousands_of_intervals_are_no_trouble() -> None:
    """Quadratic work would be 10^9 steps."""
    odd = my(f"{U1}:" + ":".join(str(n) for n in range(1, 60_000, 2)))
    even = my(f"{U1}:" + ":".join(str(n) for n in range(2, 60_001, 2)))
    assert len(odd.ranges) == 30_000
    assert str(odd | even) == f"{U1}:1-60000"
    assert odd.distance(even) == 30_000
    assert (odd | even).beyond(odd) == even.ranges
    assert (odd | even) > odd
    assert my(str(odd)) == odd


@pytest.mark.parametrize(
    "source",
    [U1.upper(), "0-1", "", f"{U1}:", f"{U1}:TAG"],
    ids=["upper case", "MariaDB", "empty", "no tag", "Tag"],
)
def test_a_mysql_set_refuses_ranges_of_a_strange_source(source: str) -> None:
    with pytest.raises(ValueError, match="is not a MySQL source"):
        MysqlGtidSet((GtidRange(source, 1, 1),))


# --- MariaDB: text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param("", "", id="nothing executed is the empty set"),
        pytest.param("0-1-100", "0-1-100", id="one server"),
        pytest.param("0-1-100,0-2-105", "0-1-100,0-2-105", id="a failover from 1 to 2"),
        pytest.param(
            "0-1-300,0-2-200",
            "0-2-200,0-1-300",
            id="the newest comes last: the server takes the last as newest",
        ),
        pytest.param("1-7-5,0-2-105, 0-1-100\n", "0-1-100,0-2-105,1-7-5", id="domains are sorted, white space ignored"),
        pytest.param("0-1-200,0-1-300,0-1-100", "0-1-300", id="of a repeated server the highest counts"),
        pytest.param("0-1-0", "", id="up to 0 is nothing"),
        pytest.param("0-10-5,0-9-5", "0-9-5,0-10-5", id="numbers are ordered as numbers"),
        pytest.param(
            f"{2**32 - 1}-{2**32 - 1}-{2**64 - 1}",
            f"{2**32 - 1}-{2**32 - 1}-{2**64 - 1}",
            id="the highest numbers",
        ),
    ],
)
def test_mariadb_text_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(maria(text)) == canonical
    assert maria(text) == maria(canonical)
    assert hash(maria(text)) == hash(maria(canonical))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("nonsense", "'nonsense' is not domain-server-sequence", id="nonsense"),
        pytest.param(f"{U1}:1-5", "is not domain-server-sequence", id="MySQL's form"),
        pytest.param("0-1", "is not domain-server-sequence", id="two numbers"),
        pytest.param("0-1-2-3", "is not domain-server-sequence", id="four numbers"),
        pytest.param("0--1-5", "is not domain-server-sequence", id="a negative server"),
        pytest.param("0-1-x", "is not domain-server-sequence", id="a letter"),
        pytest.param("0 - 1 - 5", "is not domain-server-sequence", id="spaces within, which the server refuses"),
        pytest.param("0-1-\u0663", "is not domain-server-sequence", id="digits that are not ASCII"),
        pytest.param(f"0-1-{'9' * 5000}", "is not domain-server-sequence", id="a number beyond all reason"),
        pytest.param("0-1-100,", "is empty", id="text cut off after a comma"),
        pytest.param(",0-1-100", "is empty", id="a comma first"),
        pytest.param(f"{2**32}-1-1", "the domain 4294967296", id="a domain beyond 32 bits"),
        pytest.param(f"0-{2**32}-1", "the server 4294967296", id="a server beyond 32 bits"),
        pytest.param(f"0-1-{2**64}", "the sequence 18446744073709551616", id="a sequence beyond 64 bits"),
    ],
)
def test_malformed_mariadb_text_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(GtidParseError, match=why) as caught:
        maria(text)
    assert text[:60] in str(caught.value)
    assert "expected 'domain-server-sequence" in str(caught.value)


# --- MariaDB: algebra --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "beyond", "distance"),
    [
        pytest.param("", "", "", 0, id="nothing beyond nothing"),
        pytest.param("", "0-1-5", "", 0, id="the empty set is covered by all"),
        pytest.param("0-1-110", "0-1-100", "0-1-101..110", 10, id="a replica ten behind"),
        pytest.param("0-1-101", "0-1-100", "0-1-101", 1, id="a replica one behind"),
        pytest.param("0-1-100", "0-1-110", "", 0, id="a replica is not beyond its master"),
        pytest.param("0-1-100", "", "0-1-100", 100, id="an empty replica lacks all, though one alone is proved"),
        pytest.param(
            "0-1-100,0-2-150",
            "0-1-100",
            "0-2-150",
            50,
            id="a replica that has seen nothing of the new master",
        ),
        pytest.param("0-1-100,0-2-150", "0-1-100,0-2-120", "0-2-121..150", 30, id="a replica behind the new master"),
        pytest.param(
            "0-2-150,0-1-180",
            "0-1-100,0-2-120",
            "0-1-101..180 0-2-121..150",
            60,
            id="there and back again: shared numbers are counted once",
        ),
        pytest.param(
            "0-1-100,0-3-101",
            "0-1-100,0-2-105",
            "0-3-101",
            1,
            id="errant though its number is below the newest",
        ),
        pytest.param(
            "0-1-103",
            "0-1-100,0-2-105",
            "0-1-101..103",
            1,
            id="an old master with a lost tail lies behind by number, yet is at least one ahead",
        ),
        pytest.param("0-1-100,0-2-105", "0-2-105", "0-1-100", 1, id="a position knows less than a state"),
        pytest.param("0-1-100,7-1-9", "0-1-100", "7-1-9", 9, id="a domain that the other never saw"),
        pytest.param("0-1-110,7-1-9", "0-1-100,7-1-4", "0-1-101..110 7-1-5..9", 15, id="domains add up"),
        pytest.param("0-1-5,7-1-9", "0-1-4,7-2-3", "0-1-5 7-1-9", 7, id="the lead is counted in its own domain"),
    ],
)
def test_mariadb_difference(mine: str, theirs: str, beyond: str, distance: int) -> None:
    assert shown(maria(mine).beyond(maria(theirs))) == beyond
    assert maria(mine) - maria(theirs) == maria(mine).beyond(maria(theirs))
    assert maria(mine).distance(maria(theirs)) == distance
    assert maria(theirs).covers(maria(mine)) is (distance == 0)


@pytest.mark.parametrize(
    ("state", "position"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("0-1-100,0-2-105", "0-2-105", id="the new master's"),
        pytest.param("0-1-300,0-2-200", "0-1-300", id="the old master's, which is master again"),
        pytest.param("0-1-100,0-2-105,7-3-9,7-1-4", "0-2-105,7-3-9", id="one per domain"),
        pytest.param("0-1-101,0-2-101", "0-2-101", id="of diverged equals the higher server id"),
    ],
)
def test_mariadb_position_names_the_newest_of_each_domain(state: str, position: str) -> None:
    assert maria(state).position() == position


@pytest.mark.parametrize(
    ("state", "pos", "then"),
    [
        pytest.param("0-1-100", "0-1-90", "0-1-90", id="a later state is clamped"),
        pytest.param("0-1-90", "0-1-100", "0-1-100", id="an earlier state is advanced"),
        pytest.param("0-1-100,0-2-150", "0-2-140", "0-1-100,0-2-140", id="the old master's history stays"),
        pytest.param(
            "0-1-100",
            "0-2-101",
            "0-1-100,0-2-101",
            id="a server that the earlier state had not seen is added",
        ),
        pytest.param("0-2-150,0-1-180", "0-2-140", "0-2-140", id="who wrote after the position is dropped"),
        pytest.param("0-1-140,0-2-150", "0-2-140", "0-2-140", id="an equal number of another server came after too"),
        pytest.param("0-1-100,7-1-9", "0-1-90", "0-1-90", id="a domain that the position lacks is dropped"),
        pytest.param("0-1-100", "", "", id="at the empty position there was nothing"),
        pytest.param("", "0-1-100", "0-1-100", id="an empty state is the position"),
        pytest.param("0-1-100,0-2-150,7-1-9,7-2-5", "0-2-140,7-2-7", "0-1-100,0-2-140,7-2-7", id="domain by domain"),
    ],
)
def test_mariadb_state_as_it_was_at_a_position(state: str, pos: str, then: str) -> None:
    assert str(maria(state).with_position(maria(pos))) == then


@pytest.mark.parametrize("numbers", [(-1, 1, 1), (0, 2**32, 1), (0, 1, -1), (0, 1, 2**64)])
def test_a_mariadb_gtid_refuses_numbers_that_do_not_fit(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="is not between 0 and"):
        MariadbGtid(*numbers)


# --- Values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(GtidRange(U1, 5, 7), f"{U1}:5-7", id="MySQL, several"),
        pytest.param(GtidRange(U1, 5, 5), f"{U1}:5", id="MySQL, one"),
        pytest.param(GtidRange(f"{U1}:tag_a", 5, 7), f"{U1}:tag_a:5-7", id="MySQL, tagged"),
        pytest.param(GtidRange("0-2", 101, 110), "0-2-101..110", id="MariaDB, several"),
        pytest.param(GtidRange("0-2", 101, 101), "0-2-101", id="MariaDB, one"),
    ],
)
def test_a_range_is_written_in_its_flavour(value: GtidRange, text: str) -> None:
    assert str(value) == text


@pytest.mark.parametrize(("first", "last"), [(0, 1), (-1, -1), (5, 4)])
def test_a_range_ascends_from_1_or_more(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="must ascend and start at 1"):
        GtidRange(U1, first, last)


@BOTH
def test_the_empty_set_is_false_and_covered_by_itself(flavour: type[MysqlGtidSet | MariadbGtidSet]) -> None:
    empty = flavour.parse("")
    assert empty == flavour()
    assert empty.is_empty
    assert not empty
    assert empty >= empty
    assert not empty > empty
    assert str(empty) == ""


def test_a_set_cannot_be_changed_and_can_be_a_key() -> None:
    a = my(f"{U1}:1")
    with pytest.raises(FrozenInstanceError):
        a.ranges = ()  # type: ignore[misc]
    assert {a: 1, maria("0-1-1"): 2}[my(f"{U1.upper()}:1-1")] == 1


def test_a_long_malformed_text_is_cut_in_the_message() -> None:
    with pytest.raises(GtidParseError) as caught:
        maria("0-1-1," * 1000)
    assert len(str(caught.value)) < 500
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


_MIXED: dict[str, Callable[[GtidSet, GtidSet], object]] = {
    "covers": lambda a, b: a.covers(b),
    "union": operator.or_,
    "beyond": lambda a, b: a.beyond(b),
    "minus": operator.sub,
    "distance": lambda a, b: a.distance(b),
    "greater or equal": operator.ge,
    "less or equal": operator.le,
    "greater": operator.gt,
    "less": operator.lt,
}


@pytest.mark.parametrize("operation", _MIXED.values(), ids=_MIXED)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(my(f"{U1}:1"), maria("0-1-1"), id="MySQL with MariaDB"),
        pytest.param(maria("0-1-1"), my(f"{U1}:1"), id="MariaDB with MySQL"),
        pytest.param(my(""), maria(""), id="even if both are empty"),
        pytest.param(my(""), f"{U1}:1", id="nor with text"),
    ],
)
def test_flavours_never_mix(operation: Callable[[GtidSet, GtidSet], object], a: GtidSet, b: GtidSet) -> None:
    with pytest.raises(TypeError, match=f"a {type(a).__name__} cannot be .* with a {type(b).__name__}: "):
        operation(a, b)
    assert a != b


def test_a_mariadb_state_has_no_mysql_position() -> None:
    with pytest.raises(TypeError, match="different flavours"):
        maria("0-1-1").with_position(my(""))  # type: ignore[arg-type]


# --- Laws --------------------------------------------------------------------------------------------

# Few sources and small numbers, so that sets meet, touch and contain each other often.
_sources = st.sampled_from([U1, U2, f"{U1}:tag_a"])
_bounds = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted)
mysql_texts = st.lists(st.tuples(_sources, _bounds), max_size=5).map(
    lambda parts: ",\n".join(f"{source}:{low}-{high}" for source, (low, high) in parts)
)
mariadb_texts = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.integers(0, 8)), max_size=5).map(
    lambda parts: ",".join(f"{domain}-{server}-{n}" for domain, server, n in parts)
)

mysql_sets = mysql_texts.map(my)
mariadb_sets = mariadb_texts.map(maria)
pairs = st.one_of(st.tuples(mysql_sets, mysql_sets), st.tuples(mariadb_sets, mariadb_sets))
triples = st.one_of(st.tuples(mysql_sets, mysql_sets, mysql_sets), st.tuples(mariadb_sets, mariadb_sets, mariadb_sets))
Pair = tuple[GtidSet, GtidSet]
Triple = tuple[GtidSet, GtidSet, GtidSet]

few = settings(max_examples=150, deadline=None)


def members(a: MysqlGtidSet) -> set[tuple[str, int]]:
    return {(r.source, n) for r in a.ranges for n in range(r.first, r.last + 1)}


@few
@given(st.one_of(mysql_sets, mariadb_sets))
def test_text_parses_back_and_is_canonical(a: MysqlGtidSet | MariadbGtidSet) -> None:
    again = type(a).parse(str(a))
    assert again == a
    assert str(again) == str(a)
    assert "\n" not in str(a)
    assert bool(a) is bool(str(a))


@few
@given(triples)
def test_union_is_commutative_associative_idempotent_and_has_the_empty_set(abc: Triple) -> None:
    a, b, c = abc
    assert a | b == b | a
    assert (a | b) | c == a | (b | c)
    assert a | a == a
    assert a | type(a)() == a
    assert hash(a | b) == hash(b | a)


@few
@given(triples)
def test_union_is_the_least_upper_bound(abc: Triple) -> None:
    a, b, c = abc
    assert a | b >= a
    assert a | b >= b
    assert (c >= a | b) is (c >= a and c >= b)
    assert (a >= b) is (a | b == a)


@few
@given(triples)
def test_covers_is_a_partial_order(abc: Triple) -> None:
    a, b, c = abc
    assert a >= a
    assert (a >= b and b >= a) is (a == b)
    for x, y, z in ((a, b, c), (a | b | c, a | b, b), (a | b, b, c)):
        assert not (x >= y and y >= z) or x >= z
    assert (a > b) is (a >= b and not b >= a)
    assert (a < b) is (b > a)
    assert (a <= b) is (b >= a)


@few
@given(pairs)
def test_nothing_beyond_and_no_distance_if_and_only_if_covered(ab: Pair) -> None:
    a, b = ab
    assert (not a.beyond(b)) is b.covers(a)
    assert (a.distance(b) == 0) is b.covers(a)
    assert a.distance(b) >= len({r.source for r in a.beyond(b)})
    assert list(a.beyond(b)) == sorted(a.beyond(b))
    assert a.distance(b) == (a | b).distance(b)


@few
@given(mysql_sets, mysql_sets)
def test_mysql_is_exactly_the_algebra_of_sets(a: MysqlGtidSet, b: MysqlGtidSet) -> None:
    difference = MysqlGtidSet(a.beyond(b))
    assert members(a | b) == members(a) | members(b)
    assert members(difference) == members(a) - members(b)
    assert difference.ranges == a.beyond(b)  # as few ranges as possible
    assert a.distance(b) == len(members(a) - members(b))
    assert a.covers(b) is (members(a) >= members(b))
    assert b | difference >= a
    assert (a == b) is (members(a) == members(b))


@few
@given(mariadb_sets, mariadb_sets)
def test_mariadb_with_its_missing_ranges_covers(a: MariadbGtidSet, b: MariadbGtidSet) -> None:
    missing = MariadbGtidSet.parse(",".join(f"{r.source}-{r.last}" for r in a.beyond(b)))
    assert b | missing == a | b


@few
@given(mariadb_sets, mariadb_sets)
def test_mariadb_state_at_a_position_is_at_that_position(state: MariadbGtidSet, other: MariadbGtidSet) -> None:
    pos = maria(other.position())
    then = state.with_position(pos)
    assert then.position() == str(pos)
    assert then >= pos
    assert state | pos >= then
    assert then.with_position(pos) == then
    assert state.with_position(state) == state


@few
@given(st.text(alphabet=f"0123456789abcdef-:,\n {U1}", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (my, maria):
        try:
            a = parse(text)
        except GtidParseError:
            continue
        assert parse(str(a)) == a
