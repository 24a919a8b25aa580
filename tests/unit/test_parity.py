"""Parity: each kind of difference, what it does to a run, and which events change hands (E18, E19)."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest
from builders import NOON

from reaper.adapters.mysql.inventory import bounded, inventory, words_of
from reaper.adapters.store.codec import decode, encode
from reaper.domain.errors import AccessDeniedError, ServerGoneError
from reaper.domain.facts import Flavour
from reaper.domain.parity import (
    Account,
    Accounts,
    Amiss,
    Compared,
    Difference,
    EventFacts,
    Events,
    EventStatus,
    HandOver,
    Inventory,
    Item,
    Items,
    Kind,
    Scheduler,
    SchemaFacts,
    SchemaObject,
    Schemas,
    Severity,
    Unread,
)
from reaper.domain.policy import Waivable, Waiver
from reaper.domain.variables import WATCHED
from reaper.domain.verdict import Ruling
from reaper.planner.parity import compare, differences, judge_parity, not_handed_over, to_hand_over
from reaper.testing.inventories import disabled_by_replication, handed_over, simulated

BLOCKS, NOTES = Severity.BLOCKS, Severity.NOTES
ENABLED, DISABLED, ASLEEP = EventStatus.ENABLED, EventStatus.DISABLED, EventStatus.DISABLED_ON_REPLICA
PARITY = Waivable.PARITY
TODAY, YESTERDAY = NOON.date(), date(2026, 3, 1)


def items(**values: str) -> Items:
    return Items(items=tuple(Item(name=n, value=v) for n, v in sorted(values.items())))


def event(name: str = "tick", **changes: object) -> EventFacts:
    base = EventFacts(
        schema="shop",
        name=name,
        digest="e1" * 32,
        status=ENABLED,
        definer="clock@%",
        client_charset="utf8mb4",
        connection_collation="utf8mb4_general_ci",
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def events(*found: EventFacts, scheduler: Scheduler = Scheduler.ON) -> Events:
    return Events(scheduler=scheduler, events=found)


def account(name: str = "'app'@'%'", grants: str = "a1" * 32, password: str = "b1" * 32) -> Account:
    return Account(name=name, grants=grants, password=password)


def schema(name: str = "shop", options: str = "0" * 64, **tables: str) -> SchemaFacts:
    objects = tuple(SchemaObject(kind=Kind.TABLE, name=n, digest=d * 32) for n, d in sorted(tables.items()))
    return SchemaFacts(name=name, digest=f"{options}{objects}", options=options, objects=objects)


def server(**changes: object) -> Inventory:
    """A server with one item of everything."""
    base = Inventory(
        flavour=Flavour.MARIADB,
        version="10.11.8-MariaDB-log",
        variables=items(sql_mode="ANSI", max_connections="100", long_query_time="10", max_user_connections="0"),
        plugins=items(ed25519="1.1"),
        accounts=Accounts(accounts=(account(),)),
        schemas=Schemas(schemas=(schema(orders="d1", items="d2"),)),
        events=events(event()),
        timezones=items(tables="597 zones, digest 0a0b0c0d"),
        filters=items(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def replica(**changes: object) -> Inventory:
    """A healthy replica of `server()`: replication has disabled its event."""
    return server(**{"events": events(event(status=ASLEEP)), **changes})


def variables(**changes: str) -> Items:
    base = {"sql_mode": "ANSI", "max_connections": "100", "long_query_time": "10", "max_user_connections": "0"}
    return items(**(base | changes))


ROWS = [
    ("the series", {"version": "11.4.2-MariaDB"}, BLOCKS, "version series", "10.11", "11.4"),
    ("a release of one series", {"version": "10.11.9-MariaDB"}, NOTES, "version release", "10.11.8-MariaDB-log", None),
    ("a variable that clients notice", {"variables": variables(sql_mode="")}, BLOCKS, "variable sql_mode", "ANSI", ""),
    (
        "a capacity that is smaller",
        {"variables": variables(max_connections="99")},
        BLOCKS,
        "variable max_connections",
        "100",
        "99",
    ),
    (
        "a capacity that is larger",
        {"variables": variables(max_connections="1000")},
        NOTES,
        "variable max_connections",
        "100",
        "1000",
    ),
    (
        "a limit where there was none",
        {"variables": variables(max_user_connections="5")},
        BLOCKS,
        "variable max_user_connections",
        "0",
        "5",
    ),
    (
        "a variable that matters little",
        {"variables": variables(long_query_time="1")},
        NOTES,
        "variable long_query_time",
        "10",
        "1",
    ),
    (
        "a variable nobody has judged",
        {"variables": variables(brand_new="1")},
        BLOCKS,
        "variable brand_new",
        "absent",
        "1",
    ),
    ("a plugin that is missing", {"plugins": items()}, BLOCKS, "plugin ed25519", "1.1", "absent"),
    ("a plugin of another release", {"plugins": items(ed25519="1.2")}, NOTES, "plugin ed25519", "1.1", "1.2"),
    (
        "a plugin that the master does without",
        {"plugins": items(ed25519="1.1", audit="2")},
        NOTES,
        "plugin audit",
        "absent",
        "2",
    ),
    (
        "grants",
        {"accounts": Accounts(accounts=(account(grants="ff" * 32),))},
        BLOCKS,
        "account 'app'@'%'",
        "a1a1a1a1",
        "ffffffff",
    ),
    (
        "a password, whose digest is not shown",
        {"accounts": Accounts(accounts=(account(password="ff" * 32),))},
        BLOCKS,
        "account 'app'@'%'",
        "a password",
        "another password",
    ),
    (
        "an account that is missing",
        {"accounts": Accounts(accounts=())},
        BLOCKS,
        "account 'app'@'%'",
        "a1a1a1a1",
        "absent",
    ),
    (
        "a table's definition",
        {"schemas": Schemas(schemas=(schema(orders="d1", items="ff"),))},
        BLOCKS,
        "table shop.items",
        "d2d2d2d2",
        "ffffffff",
    ),
    (
        "a table that is missing",
        {"schemas": Schemas(schemas=(schema(orders="d1"),))},
        BLOCKS,
        "table shop.items",
        "d2d2d2d2",
        "absent",
    ),
    (
        "a table that only the member has",
        {"schemas": Schemas(schemas=(schema(orders="d1", items="d2", mine="d3"),))},
        BLOCKS,
        "table shop.mine",
        "absent",
        "d3d3d3d3",
    ),
    (
        "the defaults of a schema",
        {"schemas": Schemas(schemas=(schema(options="1" * 64, orders="d1", items="d2"),))},
        BLOCKS,
        "schema shop",
        "00000000",
        "11111111",
    ),
    ("a schema that is missing", {"schemas": Schemas(schemas=())}, BLOCKS, "schema shop", "00000000", "absent"),
    ("an event that is missing", {"events": events()}, BLOCKS, "event shop.tick", "enabled", "absent"),
    (
        "E19 an event that would run twice",
        {"events": events(event())},
        BLOCKS,
        "event shop.tick",
        "enabled",
        "enabled",
    ),
    (
        "an event that a person disabled",
        {"events": events(event(status=DISABLED))},
        NOTES,
        "event shop.tick",
        "enabled",
        "disabled",
    ),
    (
        "an event's definition",
        {"events": events(event(status=ASLEEP, digest="ff" * 32))},
        BLOCKS,
        "event shop.tick",
        "e1e1e1e1",
        "ffffffff",
    ),
    (
        "an event's definer",
        {"events": events(event(status=ASLEEP, definer="root@%"))},
        BLOCKS,
        "event shop.tick",
        "clock@%",
        "root@%",
    ),
    (
        "a scheduler that is off until the promotion",
        {"events": events(event(status=ASLEEP), scheduler=Scheduler.OFF)},
        NOTES,
        "variable event_scheduler",
        "ON",
        "OFF",
    ),
    (
        "a scheduler that cannot be switched on",
        {"events": events(event(status=ASLEEP), scheduler=Scheduler.DISABLED)},
        BLOCKS,
        "variable event_scheduler",
        "ON",
        "DISABLED",
    ),
    ("time zones", {"timezones": items(tables="empty")}, BLOCKS, "timezone tables", None, "empty"),
    ("a filter", {"filters": items(replicate_do_db="shop")}, BLOCKS, "filter replicate_do_db", "absent", "shop"),
    ("I10 unread grants", {"accounts": Unread(why="no SELECT")}, BLOCKS, "account unreadable", "readable", "no SELECT"),
    ("I10 unread events", {"events": Unread(why="no EVENT")}, BLOCKS, "event unreadable", "readable", "no EVENT"),
    ("I10 unread schemas", {"schemas": Unread(why="locked")}, BLOCKS, "schema unreadable", "readable", "locked"),
    ("I10 unread variables", {"variables": Unread(why="?")}, BLOCKS, "variable unreadable", "readable", "?"),
    ("another flavour", {"flavour": Flavour.MYSQL}, BLOCKS, "version flavour", "mariadb", "mysql"),
]


@pytest.mark.parametrize(
    ("changes", "severity", "label", "ours", "theirs"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_one_item_that_differs_is_one_difference_with_both_values(
    changes: dict[str, object], severity: Severity, label: str, ours: str | None, theirs: str | None
) -> None:
    (found,) = differences(server(), replica(**changes))
    assert (found.severity, found.label) == (severity, label)
    assert ours is None or found.reference == ours
    assert theirs is None or found.subject == theirs
    assert found.why


def test_a_healthy_replica_does_not_differ() -> None:
    assert differences(server(), replica()) == ()


@pytest.mark.parametrize("asleep", [ENABLED, DISABLED], ids=["enabled", "disabled"])
def test_whatever_the_master_has_replication_disables_it_and_that_is_parity(asleep: EventStatus) -> None:
    assert differences(server(events=events(event(status=asleep))), replica()) == ()


def test_an_event_that_an_earlier_promotion_forgot_is_noted_though_all_agree() -> None:
    """E19: on the master itself it is still disabled as on a replica, so it never runs."""
    (found,) = differences(replica(), replica())
    assert found.severity is NOTES
    assert "no server runs it" in found.why


def test_what_neither_server_shows_is_no_agreement() -> None:
    """I10: both unread is not both equal."""
    blind = {"plugins": Unread(why="denied")}
    (found,) = differences(server(**blind), replica(**blind))
    assert (found.severity, found.reference, found.subject) == (BLOCKS, "denied", "denied")


def test_a_variable_that_another_release_does_not_know_is_only_noted() -> None:
    found = differences(server(), replica(version="10.11.9-MariaDB", variables=variables(old_mode="")))
    assert {d.label: d.severity for d in found}["variable old_mode"] is NOTES


def test_what_blocks_comes_before_what_is_noted() -> None:
    found = differences(
        server(), replica(version="10.11.9-MariaDB", variables=variables(sql_mode="x", long_query_time="1"))
    )
    assert [d.severity for d in found] == [BLOCKS, NOTES, NOTES]


def test_two_digests_that_begin_alike_still_differ() -> None:
    tail = Accounts(accounts=(account(grants="a1" * 31 + "00"),))
    assert [d.label for d in differences(server(), replica(accounts=tail))] == ["account 'app'@'%'"]


def test_every_member_is_compared_with_the_master_by_name() -> None:
    pairs = compare("n1", server(), {"n2": replica(), "n3": replica(timezones=items(tables="empty"))})
    found = [(p.reference, p.subject, [d.label for d in p.differences]) for p in pairs]
    assert found == [("n1", "n2", []), ("n1", "n3", ["timezone tables"])]


# ---- the simulated server


def test_a_simulated_replica_agrees_with_its_master_until_a_knob_is_turned() -> None:
    sleeping = disabled_by_replication(events(event()))
    one, two = simulated(events=events(event())), simulated(events=sleeping)
    assert differences(one, two) == ()
    turned = simulated(parity=(("version", "10.11"), ("sql_mode", "ANSI")), events=sleeping)
    assert [d.label for d in differences(one, turned)] == ["variable sql_mode"]


def test_a_simulated_heir_takes_events_over_as_a_real_one() -> None:
    wanted = HandOver(scheduler=Scheduler.ON, events=(event(), event("gone")))
    heir = disabled_by_replication(events(event(definer="root@%"), event("other"), scheduler=Scheduler.OFF))
    after, amiss = handed_over(wanted, heir)
    assert after == events(event(), event("other", status=ASLEEP))
    assert [one.name for one in amiss] == ["shop.gone"]
    assert handed_over(wanted, after) == (after, amiss), "a second time changes nothing"


# ---- the guard


def compared(*found: Difference, subject: str = "n2") -> Compared:
    return Compared(reference="n1", subject=subject, differences=found)


def differing(name: str = "sql_mode", severity: Severity = BLOCKS, kind: Kind = Kind.VARIABLE) -> Difference:
    return Difference(kind=kind, name=name, reference="a", subject="b", severity=severity, why="it matters")


def waiver(difference: str | None, guard: Waivable = PARITY, expires: date = TODAY) -> Waiver:
    return Waiver(guard=guard, difference=difference, owner="ada", expires=expires, reason="known")


GUARD_ROWS = [
    ("equal members go", (compared(),), (), Ruling.GO, "n2 can stand in for n1"),
    ("I10 nothing compared refuses", (), (), Ruling.REFUSE, "no member was compared"),
    (
        "a difference refuses with both values",
        (compared(differing()),),
        (),
        Ruling.REFUSE,
        "variable sql_mode: a on n1, b on n2: it matters",
    ),
    (
        "the second member's difference refuses",
        (compared(), compared(differing(), subject="n3")),
        (),
        Ruling.REFUSE,
        "b on n3",
    ),
    (
        "all are told, the first as the reason",
        (compared(differing(), differing("time_zone")),),
        (),
        Ruling.REFUSE,
        "1 more",
    ),
    ("a note goes and is shown", (compared(differing(severity=NOTES)),), (), Ruling.GO, "noted: variable sql_mode"),
    (
        "a waiver by name goes and is shown",
        (compared(differing()),),
        (waiver("sql_mode"),),
        Ruling.GO,
        "waived by ada until 2026-03-02: known",
    ),
    (
        "a waiver with the kind goes",
        (compared(differing()),),
        (waiver("variable sql_mode"),),
        Ruling.GO,
        "1 difference waived",
    ),
    ("a waiver of everything goes", (compared(differing()),), (waiver(None),), Ruling.GO, "waived by ada"),
    ("a waiver of another item refuses", (compared(differing()),), (waiver("time_zone"),), Ruling.REFUSE, "sql_mode"),
    (
        "a waiver of another kind refuses",
        (compared(differing()),),
        (waiver("plugin sql_mode"),),
        Ruling.REFUSE,
        "sql_mode",
    ),
    (
        "a waiver of another guard refuses",
        (compared(differing()),),
        (waiver("sql_mode", Waivable.DISK),),
        Ruling.REFUSE,
        "sql_mode",
    ),
    (
        "an expired waiver refuses",
        (compared(differing()),),
        (waiver("sql_mode", expires=YESTERDAY),),
        Ruling.REFUSE,
        "sql_mode",
    ),
    (
        "one waived of two refuses",
        (compared(differing(), differing("time_zone")),),
        (waiver("sql_mode"),),
        Ruling.REFUSE,
        "time_zone",
    ),
]


@pytest.mark.parametrize(
    ("pairs", "waivers", "ruling", "said"), [r[1:] for r in GUARD_ROWS], ids=[r[0] for r in GUARD_ROWS]
)
def test_the_guard(pairs: tuple[Compared, ...], waivers: tuple[Waiver, ...], ruling: Ruling, said: str) -> None:
    verdict = judge_parity(pairs, waivers, NOON)
    assert (verdict.guard, verdict.ruling) == ("parity", ruling)
    assert said in " | ".join((verdict.reason, *verdict.evidence))


# ---- events change hands


def test_what_was_enabled_on_the_victim_is_handed_over_with_the_scheduler() -> None:
    victim = events(event("a"), event("b", status=DISABLED), event("c", status=ASLEEP))
    assert to_hand_over(victim) == HandOver(scheduler=Scheduler.ON, events=(event("a"),))


HANDED = [
    ("as it was", events(event()), ()),
    ("gone", events(), (("shop.tick", "is gone"),)),
    ("still disabled", events(event(status=ASLEEP)), (("shop.tick", "is disabled on replica"),)),
    ("another definer", events(event(definer="root@%")), (("shop.tick", "runs as root@%"),)),
    ("another character set", events(event(digest="00" * 32)), (("shop.tick", "is not what it was"),)),
    ("the scheduler is off", events(event(), scheduler=Scheduler.OFF), (("event_scheduler", "is OFF"),)),
]


@pytest.mark.parametrize(("heir", "amiss"), [r[1:] for r in HANDED], ids=[r[0] for r in HANDED])
def test_what_did_not_change_hands_is_named(heir: Events, amiss: tuple[tuple[str, str], ...]) -> None:
    found = not_handed_over(HandOver(scheduler=Scheduler.ON, events=(event(),)), heir)
    assert [one.name for one in found] == [name for name, _ in amiss]
    for one, (_, why) in zip(found, amiss, strict=True):
        assert one.why.startswith(why)


def test_a_scheduler_that_was_off_must_not_run_on_the_heir() -> None:
    found = not_handed_over(HandOver(scheduler=Scheduler.OFF, events=()), events())
    assert found == (Amiss(name="event_scheduler", why="is ON: it was OFF"),)


# ---- stored and shown


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Inventory, server(plugins=Unread(why="denied"))),
        (HandOver, HandOver(scheduler=Scheduler.ON, events=(event(),))),
        (Compared, compared(differing())),
    ],
    ids=["an inventory", "a hand-over", "a comparison"],
)
def test_facts_survive_the_run_s_record(kind: type, value: object) -> None:
    assert decode(kind, encode(kind, value)) == value


def test_every_watched_variable_says_why_it_matters() -> None:
    assert all(name == watched.name and watched.why for name, watched in WATCHED.items())
    assert not {"server_id", "port", "read_only", "hostname", "report_host", "datadir", "pid_file"} & WATCHED.keys()


# ---- reading, over an `ask` that answers from a table


Answer = Callable[[str], list[dict[str, object]]]


def asker(answer: Answer, log: list[str]) -> Callable[..., list[dict[str, object]]]:
    def ask(sql: str, *_arguments: object) -> list[dict[str, object]]:
        log.append(sql)
        return answer(sql)

    return ask


def test_a_session_that_breaks_inside_is_not_asked_for_its_limits_back_in_vain() -> None:
    """The error that broke it is the one that is heard of."""

    def answer(sql: str) -> list[dict[str, object]]:
        if sql.startswith("SET"):
            raise ServerGoneError("gone")
        return [{}]

    with pytest.raises(ServerGoneError, match="gone"), bounded(asker(answer, []), words_of(Flavour.MARIADB)):
        pytest.fail("nothing may run without its limits")


@pytest.mark.parametrize(
    ("version", "spelling"),
    [("8.0.43", "SHOW MASTER STATUS"), ("8.1.0", "SHOW MASTER STATUS"), ("8.4.3-lts", "SHOW BINARY LOG STATUS")],
)
def test_mysql_is_asked_for_its_binary_log_in_the_words_of_its_version(version: str, spelling: str) -> None:
    assert words_of(Flavour.MYSQL).binlog_status(version) == spelling


def test_what_is_denied_is_unread_and_the_rest_is_read() -> None:
    """I10, and MySQL's way through all parts: only the limits, the version and the variables answer."""
    log: list[str] = []

    def answer(sql: str) -> list[dict[str, object]]:
        if sql.startswith("SELECT @@session"):
            return [{"max_execution_time": 0, "lock_wait_timeout": 31536000}]
        if "VERSION()" in sql:
            return [{"version": "8.0.43"}]
        if "CURRENT_USER" in sql:
            return [{"me": "reaper@%"}]
        if "user_privileges" in sql:
            return [{"p": "SELECT"}]
        if sql.startswith("SHOW GLOBAL VARIABLES"):
            return [{"Variable_name": "sql_mode", "Value": "ANSI"}, {"Variable_name": "init_connect", "Value": "SET x"}]
        if sql.startswith("SET"):
            return []
        raise AccessDeniedError(f"denied: {sql.split()[0]}")

    found = inventory(asker(answer, log), Flavour.MYSQL, b"key")
    assert isinstance(found.variables, Items)
    assert [i.name for i in found.variables.items] == ["init_connect", "sql_mode"]
    assert "SET x" not in str(found)
    unread = {p: getattr(found, p) for p in ("plugins", "accounts", "schemas", "events", "timezones", "filters")}
    assert all(isinstance(part, Unread) for part in unread.values())
    assert "GRANT EVENT ON *.* to it" in unread["events"].why
    assert "GRANT SHOW VIEW, TRIGGER ON *.* to it" in unread["schemas"].why
    assert log[-1].startswith("SET SESSION max_execution_time")
