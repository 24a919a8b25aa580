"""Holding a server's binary logs while a replacement is built from it, and what they still hold (E15).

Read first, record what was read, then hold: a process that dies between two of these leaves a record that says
what to put back. The held value is one that nobody sets, so a hold is recognised on the server as well. What
this cannot hold off is PURGE BINARY LOGS by hand, and a restart, which sets what the option file says: whoever
joins later asks `first_available`. MySQL's part is from the manual of 8.0 and 8.4.
"""

import json

from reaper.adapters.mysql.connection import Ask
from reaper.adapters.mysql.dialect import settings
from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import Flavour
from reaper.domain.gtid import GtidSet, MariadbGtidSet, MysqlGtidSet

_SECONDS = "binlog_expire_logs_seconds"  # MariaDB 10.6.1, MySQL 8.0.1; 0: never
_TOTAL = "max_binlog_total_size"  # MariaDB 11.4, bytes; 0: any size
# A second less than MariaDB's largest value, 99 days ("binlog_expire_logs_seconds" in its manual); MySQL takes more.
_HELD_S = 99 * 86_400 - 1
_LOCK_WAIT_S = 5


def read_expiry(ask: Ask) -> str:
    """What decides when binary logs expire, as JSON for a step's record, to be given to `release_binlogs`.

    RefusedError: a hold is on whose record is not here.
    """
    found = settings(ask, (_SECONDS, _TOTAL))
    if _SECONDS not in found:
        raise RefusedError(f"the server has no {_SECONDS}: it is older than reaper supports. Upgrade it first.")
    if is_held(ask):
        raise RefusedError(
            f"binary logs are held ({_SECONDS} is {_HELD_S}) by a run that this store does not know, or that could "
            f"not release them: when no reaper builds from this server, SET GLOBAL {_SECONDS} to what its option "
            "file says, then try again"
        )
    return json.dumps({name: int(value) for name, value in found.items()}, sort_keys=True)


def is_held(ask: Ask) -> bool:
    """True if `hold_binlogs` has set this server and nobody has released it."""
    return int(settings(ask, (_SECONDS,)).get(_SECONDS, 0)) == _HELD_S


def hold_binlogs(ask: Ask, former: str) -> None:
    """Let no binary log expire for 99 days, unless they never do or do so later. May be called again."""
    before = _read(former)
    ask(f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_S}")
    if 0 < before[_SECONDS] < _HELD_S:
        ask(f"SET GLOBAL {_SECONDS} = {_HELD_S}")
    if before.get(_TOTAL):
        ask(f"SET GLOBAL {_TOTAL} = 0")


def release_binlogs(ask: Ask, former: str) -> None:
    """Put back what `read_expiry` found. Nothing if somebody else has set it since. May be called again."""
    before = _read(former)
    ask(f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_S}")
    total = settings(ask, (_TOTAL,)).get(_TOTAL)
    if before.get(_TOTAL) and total == "0":
        ask(f"SET GLOBAL {_TOTAL} = {before[_TOTAL]}")
    if is_held(ask):  # last: while it shows, there is something to release
        ask(f"SET GLOBAL {_SECONDS} = {before[_SECONDS]}")


def first_available(ask: Ask, flavour: Flavour) -> GtidSet:
    """What the binary logs no longer hold: everything beyond this set is still there.

    MariaDB: the GTID list at the start of the oldest log; MySQL: gtid_purged. TryAgainError: the oldest log
    vanished while it was read, or does not begin with its list.
    """
    match flavour:
        case Flavour.MYSQL:
            return MysqlGtidSet.parse(str(ask("SELECT @@global.gtid_purged AS purged")[0]["purged"]))
        case Flavour.MARIADB:
            return _oldest_list(ask)


def _oldest_list(ask: Ask) -> MariadbGtidSet:
    logs = ask("SHOW BINARY LOGS")
    if not logs:
        raise TryAgainError("the server lists no binary log: log_bin is off? Replication needs it.")
    oldest = str(logs[0]["Log_name"])
    # The list follows the format description, and after that an encryption event if there is one.
    for event in ask("SHOW BINLOG EVENTS IN %s LIMIT 3", oldest):
        if event["Event_type"] == "Gtid_list":
            return MariadbGtidSet.parse(str(event["Info"]).strip("[]"))
    raise TryAgainError(f"the binary log {oldest} does not begin with a GTID list: it was removed just now? Try again.")


def _read(former: str) -> dict[str, int]:
    values = json.loads(former)
    return {name: int(values[name]) for name in (_SECONDS, _TOTAL) if name in values}
