"""Reading what a server's successor must have too (E18, E19): a few bounded statements that lock nothing.

MariaDB's statements were run on 10.11; MySQL's follow the 8.0 and 8.4 manuals and never met a server here.
"""

import contextlib
import hashlib
import hmac
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import TypeVar, assert_never

from reaper.adapters.mysql.connection import READ_TIMEOUT_S, Ask, Row
from reaper.adapters.mysql.dialect import settings
from reaper.adapters.mysql.inventory_sql import MARIADB, MYSQL, SKIPPED, TABLES, VIEWS, Words
from reaper.domain.errors import AccessDeniedError, ServerError, ServerGoneError, StatementTimeoutError
from reaper.domain.facts import Flavour
from reaper.domain.parity import (
    Account,
    Accounts,
    EventFacts,
    Events,
    EventStatus,
    Inventory,
    Item,
    Items,
    Kind,
    Scheduler,
    SchemaFacts,
    SchemaObject,
    Schemas,
    Unread,
)
from reaper.domain.variables import DIGESTED, WATCHED

T = TypeVar("T")

STATEMENT_WITHIN_S = READ_TIMEOUT_S - 5  # the server ends a statement before the client gives up
INVENTORY_WITHIN_S = 120.0  # what is not read by then is unread
_TABLES_AT_ONCE = 2000  # half a second a statement, three on a machine that is busy (10.11)
_LOCK_WAIT_S = 2  # for a table that somebody alters: then its row is missing, with a warning
_LONGEST_VALUE = 64 * 2**20  # of GROUP_CONCAT: a cut one warns
_WARNINGS = 1000
# A view whose table or definer is gone; the definition is read all the same (both error references).
_HARMLESS = frozenset({1356, 1449})
# Not read into an account's digest: when, by whom, and by which version it was written.
_UNNOTICED = frozenset({"password_last_changed", "version_id", "timestamp", "grantor"})
_SECRETS = frozenset({"authentication_string", "additional_password"})
_STATUSES = {
    "ENABLED": EventStatus.ENABLED,
    "DISABLED": EventStatus.DISABLED,
    "SLAVESIDE_DISABLED": EventStatus.DISABLED_ON_REPLICA,
    "REPLICA_SIDE_DISABLED": EventStatus.DISABLED_ON_REPLICA,  # its name from 8.2 on, by the manual
}


def inventory(ask: Ask, flavour: Flavour, key: bytes) -> Inventory:
    """Everything of a server that its successor must have too.

    `key` is drawn for one comparison, is the same for all servers of it, and is kept nowhere: without it the
    digests of passwords tell nothing. Raises ServerGoneError; what else fails leaves its part unread, with
    the reason. The session's settings are as before afterwards.
    """
    words = words_of(flavour)
    with bounded(ask, words):
        reader = _Reader(ask, words, key)
        return Inventory(
            flavour=flavour,
            version=str(ask("SELECT VERSION() AS version")[0]["version"]),
            variables=reader.part(reader.variables),
            plugins=reader.part(reader.plugins),
            accounts=reader.part(reader.accounts),
            events=reader.part(reader.events),
            timezones=reader.part(reader.timezones),
            filters=reader.part(reader.filters),
            schemas=reader.part(reader.schemas),
        )


def words_of(flavour: Flavour) -> Words:
    """The statements of a flavour."""
    match flavour:
        case Flavour.MARIADB:
            return MARIADB
        case Flavour.MYSQL:
            return MYSQL
        case _:
            assert_never(flavour)


@contextlib.contextmanager
def bounded(ask: Ask, words: Words) -> Iterator[None]:
    """Inside, statements end by themselves, wait for no lock for long, and answer alike on every server.

    Afterwards the session is as before.
    """
    limits: dict[str, object] = {
        words.time_limit: STATEMENT_WITHIN_S * words.time_units_per_s,
        "lock_wait_timeout": _LOCK_WAIT_S,
        "group_concat_max_len": _LONGEST_VALUE,
        "max_error_count": _WARNINGS,
        # Definitions are shown in the session's quotes and times (10.11), and its defaults are what may differ.
        "sql_mode": "",
        "time_zone": "+00:00",
        "sql_quote_show_create": 1,
    }
    names = ", ".join(f"@@session.{name} AS {name}" for name in limits)
    before = ask(f"SELECT {names}")[0]
    try:
        _set(ask, limits)
        yield
    finally:
        with contextlib.suppress(ServerGoneError):  # a session that is gone needs no order
            _set(ask, before)


def _set(ask: Ask, values: dict[str, object]) -> None:
    ask("SET " + ", ".join(f"SESSION {name} = %s" for name in values), *values.values())


def read_events(ask: Ask) -> Events:
    """Every event and the scheduler's state. AccessDeniedError: the account may not see all events."""
    _need(_privileges(ask), "EVENT")  # without it the list is empty, not refused
    rows = ask(
        "SELECT event_schema AS s, event_name AS n, definer, status, character_set_client AS client,"
        " collation_connection AS collation_, SHA2(CONCAT_WS(',', QUOTE(time_zone), QUOTE(event_definition),"
        " QUOTE(event_type), QUOTE(execute_at), QUOTE(interval_value), QUOTE(interval_field), QUOTE(sql_mode),"
        " QUOTE(starts), QUOTE(ends), QUOTE(on_completion), QUOTE(event_comment), QUOTE(character_set_client),"
        " QUOTE(collation_connection), QUOTE(database_collation)), 256) AS d"
        f" FROM information_schema.events WHERE event_schema NOT IN ({SKIPPED})"
    )
    found = [
        EventFacts(
            schema=str(r["s"]),
            name=str(r["n"]),
            digest=str(r["d"]),
            status=_STATUSES[str(r["status"]).upper()],
            definer=str(r["definer"]),
            client_charset=str(r["client"]),
            connection_collation=str(r["collation_"]),
        )
        for r in rows
    ]
    state = str(ask("SELECT @@global.event_scheduler AS state")[0]["state"]).upper()
    return Events(scheduler=Scheduler(state), events=tuple(sorted(found, key=lambda e: e.full_name)))


def _privileges(ask: Ask) -> frozenset[str]:
    """Held everywhere and by the account itself: with less, some tables show a part and do not say so."""
    user, _, host = str(ask("SELECT CURRENT_USER() AS me")[0]["me"]).rpartition("@")
    rows = ask(
        "SELECT privilege_type AS p FROM information_schema.user_privileges WHERE grantee = %s", f"'{user}'@'{host}'"
    )
    return frozenset(str(r["p"]).upper() for r in rows)


def _need(held: frozenset[str], *privileges: str) -> None:
    missing = [p for p in privileges if p not in held]
    if missing:
        raise AccessDeniedError(
            f"what this account sees may not be all: GRANT {', '.join(missing)} ON *.* to it, not by a role"
        )


class _Reader:
    """One server being read."""

    def __init__(self, ask: Ask, words: Words, key: bytes) -> None:
        self._ask = ask
        self._words = words
        self._key = key
        self._deadline = time.monotonic() + INVENTORY_WITHIN_S
        self._privileges = _privileges(ask)

    def part(self, read: Callable[[], T]) -> T | Unread:
        """A part of the inventory, or why there is none."""
        try:
            return read()
        except ServerGoneError:
            raise
        except ServerError as error:
            return Unread(why=str(error))

    def _rows(self, sql: str) -> list[Row]:
        """The answer to a statement that either saw everything or raises."""
        if time.monotonic() > self._deadline:
            raise StatementTimeoutError(f"the inventory took more than {INVENTORY_WITHIN_S:g} s; ask a quieter server")
        rows = self._ask(sql)
        told = int(self._ask("SELECT @@warning_count AS n")[0]["n"])
        if told:
            warned = self._ask("SHOW WARNINGS")
            serious = [w for w in warned if int(w["Code"]) not in _HARMLESS]
            if serious or len(warned) < told:
                said = serious[0]["Message"] if serious else f"{told} warnings"
                raise ServerError(f"information_schema did not show everything: {said}; try again")
        return rows

    def variables(self) -> Items:
        """The watched variables that the server has."""
        values = settings(self._ask, WATCHED)
        return _items((n, _sha(v) if n in DIGESTED and v else v) for n, v in values.items())

    def plugins(self) -> Items:
        """Active plugins with their version, and components."""
        rows = self._ask(
            "SELECT plugin_name AS n, plugin_version AS v FROM information_schema.plugins"
            " WHERE plugin_status = 'ACTIVE'"
        )
        components = self._ask(self._words.components) if self._words.components else []
        return _items([*((str(r["n"]), str(r["v"])) for r in rows), *((str(r["n"]), "installed") for r in components)])

    def accounts(self) -> Accounts:
        """Users and roles with all that is granted to them."""
        _need(self._privileges, "SELECT")
        granted: dict[str, list[object]] = defaultdict(list)
        secret: dict[str, list[object]] = defaultdict(list)
        for table in self._words.grant_tables:
            for row in self._ask(f"SELECT * FROM mysql.{table}"):
                cells = {name.lower(): value for name, value in row.items()}
                owner = f"'{cells.get('to_user', cells.get('user'))}'@'{cells.get('to_host', cells.get('host'))}'"
                open_, hidden = _parted(cells)
                granted[owner].append([table, open_])
                secret[owner].extend(hidden)
        return Accounts(
            accounts=tuple(
                Account(name=name, grants=_sha(_canonical(rows)), password=self._keyed(secret[name]))
                for name, rows in sorted(granted.items())
            )
        )

    def _keyed(self, secrets: list[object]) -> str:
        return hmac.new(self._key, _canonical(secrets).encode(), hashlib.sha256).hexdigest()

    def events(self) -> Events:
        """Every event and the scheduler's state."""
        return read_events(self._ask)

    def timezones(self) -> Items:
        """What the time zone tables hold, as one line."""
        row = self._rows(self._words.timezones)[0]
        said = f"{row['zones']} zones, digest {int(row['digest'] or 0):08x}" if row["zones"] else "empty"
        return _items([("tables", said)])

    def filters(self) -> Items:
        """Filters of replication, of each channel, and of the binary log."""
        found: dict[str, str] = {}
        if self._words.filter_variables:
            found |= {n: v for n, v in settings(self._ask, self._words.filter_variables).items() if v}
        if self._words.filters and not self._ask("SELECT @@global.performance_schema AS up")[0]["up"]:
            raise ServerError("replication filters cannot be seen: the performance schema is off; switch it on")
        for sql in self._words.filters:
            found |= {str(r["n"]).lower(): str(r["v"]) for r in self._rows(sql)}
        for row in self._ask(self._words.replica_status):
            found |= {n.lower(): str(v) for n, v in row.items() if n.lower().startswith("replicate_") and v}
        version = str(self._ask("SELECT VERSION() AS version")[0]["version"])
        for row in self._ask(self._words.binlog_status(version)):
            found |= {n.lower(): str(v) for n, v in row.items() if n.lower().startswith("binlog_") and v}
        return _items(found.items())

    def schemas(self) -> Schemas:
        """A digest of each object's definition and one of each schema's, from a handful of statements."""
        _need(self._privileges, "SELECT", "SHOW VIEW", "TRIGGER")
        options = {str(r["n"]): str(r["d"]) for r in self._rows(self._words.schemata)}
        parts: dict[tuple[str, Kind, str], list[str]] = defaultdict(list)
        views = set()
        shares = 1 + int(self._rows(TABLES)[0]["tables"]) // _TABLES_AT_ONCE
        # One share after the other: what a statement has opened is still open for the next one.
        for share, statement in product(range(shares), self._words.objects):
            kind = statement.kind
            for row in self._rows(statement.share(share, shares)):
                schema, name = str(row["s"]), str(row["n"])
                if kind is Kind.VIEW:  # asked first; the statements about tables tell of views too
                    views.add((schema, name))
                shown = Kind.VIEW if kind is Kind.TABLE and (schema, name) in views else kind
                parts[schema, shown, name].append(str(row["d"]))
        if views != {(str(r["s"]), str(r["n"])) for r in self._rows(VIEWS)}:
            raise ServerError("some views were locked, or changed, while they were read; try again")
        objects: dict[str, list[SchemaObject]] = defaultdict(list)
        for (schema, kind, name), digests in sorted(parts.items()):
            objects[schema].append(SchemaObject(kind=kind, name=name, digest=_sha("".join(digests))))
        return Schemas(
            schemas=tuple(_schema(name, options.get(name, ""), objects[name]) for name in sorted({*options, *objects}))
        )


def _schema(name: str, options: str, objects: list[SchemaObject]) -> SchemaFacts:
    whole = _canonical([options, *([o.kind, o.name, o.digest] for o in objects)])
    return SchemaFacts(name=name, digest=_sha(whole), options=options, objects=tuple(objects))


def _items(pairs: Iterable[tuple[str, str]]) -> Items:
    return Items(items=tuple(Item(name=name, value=value) for name, value in sorted(pairs)))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(rows: Iterable[object]) -> str:
    """One text for one set of rows, in whichever order they came."""
    return json.dumps(sorted(json.dumps(row, sort_keys=True, default=str) for row in rows))


def _parted(value: object) -> tuple[object, list[object]]:
    """A grant without what nobody notices and without its secrets, and the secrets."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
    hidden: list[object] = []
    if isinstance(value, dict):
        shown = {}
        for name, inner in value.items():
            if name in _SECRETS:
                hidden.append(inner)
            elif name not in _UNNOTICED:
                shown[name], more = _parted(inner)
                hidden += more
        return shown, hidden
    if isinstance(value, list):
        pairs = [_parted(inner) for inner in value]
        return [pair[0] for pair in pairs], [secret for pair in pairs for secret in pair[1]]
    return value, hidden
