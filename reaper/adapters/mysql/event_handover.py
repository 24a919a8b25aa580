"""Scheduled events change hands after a promotion (E19): what ran on the victim runs on the heir, once.

A replica has every event disabled, whatever its master has. `ALTER DEFINER=... EVENT ... ENABLE` keeps the
definer, and replication disables the event on the siblings again. It replaces the event's character set and
collation by the session's, so that the session takes those of the event first. All this was tried on 10.11;
the statement and what replication makes of it are the same in the MySQL manual, which was not tried.

Needs EVENT and SUPER or SET USER on MariaDB (SUPER alone no longer includes it from 11.0 on, by its manual),
EVENT and SET_USER_ID on MySQL (from 8.2 on SET_ANY_DEFINER and ALLOW_NONEXISTENT_DEFINER), SYSTEM_USER for a
definer that has it, and SYSTEM_VARIABLES_ADMIN for the scheduler.
"""

import contextlib
from collections.abc import Iterator

from reaper.adapters.mysql.connection import Ask
from reaper.adapters.mysql.dialect import quoted
from reaper.adapters.mysql.inventory import read_events
from reaper.domain.errors import ReadOnlyError, ServerGoneError
from reaper.domain.parity import Amiss, EventFacts, EventStatus, HandOver, Scheduler
from reaper.planner.parity import not_handed_over

_LOCK_WAIT_S = 5
# In these every name can be written; with another one a statement is sent only if its names are ASCII.
_UNICODE = frozenset({"utf8mb4", "utf8mb3", "utf8"})


def hand_over(ask: Ask, wanted: HandOver) -> tuple[Amiss, ...]:
    """Run on a new master what its predecessor ran by schedule. Returns what it does not run; read back.

    Call it after the siblings follow the new master: each event is a statement in its binary log. Called
    again it changes only what is not yet as wanted. A one-time event whose moment has passed stays disabled
    and is named: whether it ran before the kill is not known, and it must not run twice. ReadOnlyError: the
    server is not a master; ServerError: a statement failed, what was done before stays.
    """
    if ask("SELECT @@global.read_only AS closed")[0]["closed"]:
        raise ReadOnlyError("events are handed over to a master only: this server is read-only")
    now = read_events(ask)
    ran = wanted.scheduler is Scheduler.ON
    if not ran and now.scheduler is Scheduler.ON:
        ask("SET GLOBAL event_scheduler = OFF")  # before an event is enabled that did not run either
    present = {event.full_name: event for event in now.events}
    passed = _passed(ask)
    left: list[Amiss] = []
    with _as_before(ask):
        for event in wanted.events:
            has = present.get(event.full_name)
            if has is None or (has.status is EventStatus.ENABLED and has.definer == event.definer):
                continue
            reason = _kept_back(event, passed)
            if reason is None:
                _enable(ask, event)
            else:
                left.append(Amiss(name=event.full_name, why=f"was left disabled: {reason}"))
    if ran and now.scheduler is Scheduler.OFF:
        ask("SET GLOBAL event_scheduler = ON")
    told = {one.name for one in left}
    return (*left, *(one for one in not_handed_over(wanted, read_events(ask)) if one.name not in told))


def _kept_back(event: EventFacts, passed: frozenset[str]) -> str | None:
    if event.full_name in passed:
        return "its one moment has passed, and whether it ran is unknown; ask its owner, then enable or drop it"
    if event.client_charset not in _UNICODE and not _statement(event).isascii():
        return f"its name cannot be written in its character set {event.client_charset}; enable it by hand"
    return None


def _passed(ask: Ask) -> frozenset[str]:
    """One-time events whose moment has passed, or in a time zone that the server cannot convert."""
    rows = ask(
        "SELECT event_schema AS s, event_name AS n FROM information_schema.events WHERE execute_at IS NOT NULL"
        " AND COALESCE(CONVERT_TZ(execute_at, time_zone, '+00:00') <= UTC_TIMESTAMP(), 1)"
    )
    return frozenset(f"{r['s']}.{r['n']}" for r in rows)


def _enable(ask: Ask, event: EventFacts) -> None:
    ask(
        "SET SESSION collation_connection = %s, SESSION character_set_client = %s",
        event.connection_collation,
        event.client_charset,
    )
    ask(_statement(event))


def _statement(event: EventFacts) -> str:
    name = f"{_identifier(event.schema)}.{_identifier(event.name)}"
    return f"ALTER DEFINER = {_account(event.definer)} EVENT {name} ENABLE"


def _account(definer: str) -> str:
    user, _, host = definer.rpartition("@")
    return f"{_identifier(user)}@{_identifier(host)}" if user and host else _identifier(definer.rstrip("@"))  # a role


def _identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@contextlib.contextmanager
def _as_before(ask: Ask) -> Iterator[None]:
    """Inside, a lock is waited for briefly; afterwards the session is as before."""
    names = ("lock_wait_timeout", "collation_connection", "character_set_client")
    before = ask("SELECT " + ", ".join(f"@@session.{name} AS {name}" for name in names))[0]
    try:
        ask("SET SESSION lock_wait_timeout = %s", _LOCK_WAIT_S)
        yield
    finally:
        with contextlib.suppress(ServerGoneError):  # a session that is gone needs no order
            ask("SET " + ", ".join(f"SESSION {name} = {_literal(before[name])}" for name in names))


def _literal(value: object) -> str:
    return str(value) if isinstance(value, int) else quoted(str(value))
