"""What the two flavours must each be able to say, and the words that they share."""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol

from reaper.adapters.mysql.connection import READ_TIMEOUT_S, Ask, Row
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.tls import ServerTls
from reaper.domain.facts import Address, Flavour, Replication, SemiSync, ServerFacts, Session, ThreadState
from reaper.domain.gtid import GtidSet
from reaper.workflow.server import Halted

# How long a replica waits before it tries its source again, seconds.
CONNECT_RETRY_S = 1

# A lock wait must end in the server before the client gives up, or the server closes itself for writes
# later, when nobody is there to undo it (E09).
LONGEST_LOCK_WAIT_S = READ_TIMEOUT_S - 5

_SCHEMA_CHANGE = re.compile(r"^\s*(/\*.*?\*/\s*)*(ALTER|CREATE|DROP|TRUNCATE|RENAME|OPTIMIZE|REPAIR)\b", re.I | re.S)


class Dialect(Protocol):
    """Statements and their answers in one flavour. Stateless: each method speaks through `ask`."""

    flavour: Flavour
    tls: ServerTls | None  # of connections to a lab's servers; what a site's have to prove, its settings say

    def facts(self, ask: Ask) -> ServerFacts:
        """Everything the guards want to know."""

    def executed(self, ask: Ask) -> GtidSet:
        """The transactions that the server has executed."""

    def semi_sync(self, ask: Ask) -> SemiSync:
        """The semi-sync state and counters."""

    def wait_applied(self, ask: Ask, target: GtidSet, within: timedelta) -> bool:
        """Wait until `target` has been applied; False: not within the time."""

    def halt(self, ask: Ask) -> Halted:
        """Stop the receiver and read the positions."""

    def join(
        self, ask: Ask, source: Address, account: ReplicationAccount, position: str | None, history: GtidSet | None
    ) -> None:
        """Make a fresh copy a replica of `source`."""

    def follow(self, ask: Ask, source: Address, account: ReplicationAccount) -> None:
        """Replicate from `source` by GTID."""

    def resume_replication(self, ask: Ask) -> None:
        """Start the configured replication threads."""

    def promote(self, ask: Ask, *, arm_semi_sync: bool) -> None:
        """Stop applying, arm semi-sync as a source if asked, open for writes."""

    def forget_source(self, ask: Ask) -> None:
        """The housekeeping after a promotion."""

    def close_for_writes(self, ask: Ask, within: timedelta) -> GtidSet:
        """Close a master for every session; undone if it fails."""

    def open_for_writes(self, ask: Ask) -> None:
        """Undo `close_for_writes`."""


def halted(ask: Ask, channels: tuple[Replication, ...], executed: GtidSet) -> Halted:
    """What a replica whose receiver was stopped is worth in an election (E06)."""
    rows = ask("SELECT @@global.read_only AS closed")
    opened = bool(rows) and not rows[0]["closed"]
    received, unfit, broken = executed, None, True
    if not channels:
        unfit = "it is no replica"
    else:
        channel = channels[0]
        received = channel.received | executed
        broken = channel.applier is ThreadState.STOPPED
        if broken:
            unfit = f"its applier is stopped: {channel.applier_error or 'by hand'}"
        elif channel.delay:
            unfit = f"it has a configured delay of {channel.delay.total_seconds():.0f} s"
    return Halted(received=received, executed=executed, unfit=unfit, broken_applier=broken, accepts_writes=opened)


def settings(ask: Ask, names: Iterable[str]) -> dict[str, str]:
    """Global variables by name; those that the server does not have are absent."""
    wanted = ", ".join(f"'{name}'" for name in names)
    rows = ask(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({wanted})")
    return {str(r["Variable_name"]).lower(): str(r["Value"]) for r in rows}


def counters(ask: Ask, like: str) -> dict[str, str]:
    """Global status values by lower-case name."""
    rows = ask(f"SHOW GLOBAL STATUS LIKE '{like}'")
    return {str(r["Variable_name"]).lower(): str(r["Value"]) for r in rows}


def on(value: str | None) -> bool:
    """True for the servers' words for yes."""
    return (value or "").upper() in {"ON", "1", "YES"}


def thread_state(value: str) -> ThreadState:
    """The servers' word for a replication thread's state: Yes, No, Connecting, Preparing."""
    return {"Yes": ThreadState.RUNNING, "No": ThreadState.STOPPED}.get(value, ThreadState.CONNECTING)


def error_text(number: Any, text: Any) -> str | None:
    """A replication error as one line, or None."""
    return f"{text} (error {number})" if number else None


def sessions(rows: Iterable[Row], what: str | None = None) -> tuple[Session, ...]:
    """Rows of (id, user, host, age_s, info) as sessions, oldest first."""
    found = [
        Session(
            id=int(r["id"]),
            user=str(r["user"]),
            host=str(r["host"]),
            age=timedelta(seconds=float(r["age_s"] or 0)),
            what=" ".join((what or "", str(r["info"] or "")[:80])).strip(),
        )
        for r in rows
    ]
    return tuple(sorted(found, key=lambda s: -s.age))


def is_schema_change(statement: str | None) -> bool:
    """True if a running statement changes a schema."""
    return bool(statement and _SCHEMA_CHANGE.match(statement))


def quoted(text: str) -> str:
    """A string literal, for statements that take no placeholders on every server version."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


# Ghost tables of gh-ost (_x_gho, _x_ghc, _x_del) and triggers of pt-online-schema-change, from their manuals.
ONLINE_SCHEMA_CHANGE = (
    "SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables"
    " WHERE table_name LIKE '\\_%\\_gho' OR table_name LIKE '\\_%\\_ghc'"
    " UNION SELECT CONCAT(trigger_schema, '.', trigger_name) FROM information_schema.triggers"
    " WHERE trigger_name LIKE 'pt\\_osc\\_%'"
)
