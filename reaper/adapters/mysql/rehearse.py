"""The statements of a rehearsal (E21): a second channel of which only the receiver runs, then nothing again.

Order matters, twice. The channel is made before the main receiver is stopped, and forgotten after that one
was started: whoever finds the channel knows that its maker died and that the receiver was not stopped by a
person. And the channel's receiver is stopped before the main one starts: its end switches semi-sync's state of
the whole replica off (measured, MariaDB 10.11.19; the one `rpl_semi_sync_replica_status` of MySQL's plugin).
MariaDB's part is measured on 10.11.19, MySQL's is from its manual and the error numbers of 8.0.43.
"""

import re
import time
from dataclasses import dataclass
from datetime import timedelta

from reaper.adapters.mysql.connection import Ask, Row
from reaper.adapters.mysql.mysql8 import HEARTBEAT_S
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.domain.errors import AccessDeniedError
from reaper.domain.facts import Address, Flavour
from reaper.domain.rehearsal import Account, Attempt, Obstacle, Transport

CHANNEL = "reaper_rehearsal"

_LOOK_EVERY_S = 0.005
_RETRY_S = 1  # between two attempts of the channel; the first one's answer decides
_LONGEST_LOCK_WAIT_S = 5
# A heir may apply a moment after its sibling what both are sent; that is no lack.
_CATCH_UP_S = 1.0

_SSL = 2026  # of the client library in both: no TLS is offered although it is required, or what went wrong with it
# Numbers that a receiver stores, from the error references of both flavours; those of MySQL as 8.0.43 stored them.
_OBSTACLES = {
    Obstacle.DENIED: {1044, 1045, 1130, 1698, 1862, 3118, 4151},
    Obstacle.NO_GRANT: {1227, 1597, 13120},
    Obstacle.UNREACHABLE: {2002, 2003, 2005},
    Obstacle.NO_TLS: {_SSL, 2061},
    Obstacle.SAME_ID: {13117},
    Obstacle.BEHIND: {1236, 13114},
}
_EQUAL_IDS = re.compile(r"equal My?SQL server|equal MariaDB server|same server_uuid/server_id", re.I)


@dataclass(frozen=True, kw_only=True)
class Words:
    """One flavour's statements and the names of its columns."""

    status: str
    name: str
    receiver: str
    source_log: str  # "" until the source has sent its first event
    tls: dict[str, str]  # the column that shows an option -> the option of CHANGE
    source: str  # what the options of CHANGE call it
    create: str
    by_account: tuple[str, str, str, str]  # host, port, user, password
    options: tuple[str, ...]
    channel: str  # what CHANGE has at its end
    start: str
    stop: str
    forget: str
    stop_main: str
    start_main: str
    falls_back: bool  # a channel with TLS connects without it if the source has none


_MARIADB = Words(
    status="SHOW ALL SLAVES STATUS",
    name="Connection_name",
    receiver="Slave_IO_Running",
    source_log="Master_Log_File",
    tls={
        f"Master_{column}": f"MASTER_{option}"
        for column, option in {
            "SSL_Allowed": "SSL",
            "SSL_CA_File": "SSL_CA",
            "SSL_CA_Path": "SSL_CAPATH",
            "SSL_Cert": "SSL_CERT",
            "SSL_Cipher": "SSL_CIPHER",
            "SSL_Key": "SSL_KEY",
            "SSL_Verify_Server_Cert": "SSL_VERIFY_SERVER_CERT",
            "SSL_Crl": "SSL_CRL",
            "SSL_Crlpath": "SSL_CRLPATH",
        }.items()
    },
    source="MASTER",
    create=f"CHANGE MASTER '{CHANNEL}' TO",
    by_account=("MASTER_HOST", "MASTER_PORT", "MASTER_USER", "MASTER_PASSWORD"),
    options=("MASTER_USE_GTID=slave_pos", f"MASTER_CONNECT_RETRY={_RETRY_S}"),
    channel="",
    start=f"START SLAVE '{CHANNEL}' IO_THREAD",
    stop=f"STOP SLAVE '{CHANNEL}'",
    forget=f"RESET SLAVE '{CHANNEL}' ALL",
    stop_main="STOP SLAVE '' IO_THREAD",
    start_main="START SLAVE '' IO_THREAD",
    falls_back=True,  # measured: MASTER_SSL=1 without MASTER_SSL_VERIFY_SERVER_CERT=1 connects in clear
)
_MYSQL = Words(
    status="SHOW REPLICA STATUS",
    name="Channel_Name",
    receiver="Replica_IO_Running",
    source_log="Source_Log_File",
    tls={
        f"Source_{column}": f"SOURCE_{option}"
        for column, option in {
            "SSL_Allowed": "SSL",
            "SSL_CA_File": "SSL_CA",
            "SSL_CA_Path": "SSL_CAPATH",
            "SSL_Cert": "SSL_CERT",
            "SSL_Cipher": "SSL_CIPHER",
            "SSL_Key": "SSL_KEY",
            "SSL_Verify_Server_Cert": "SSL_VERIFY_SERVER_CERT",
            "SSL_Crl": "SSL_CRL",
            "SSL_Crlpath": "SSL_CRLPATH",
            "TLS_Version": "TLS_VERSION",
        }.items()
    },
    source="SOURCE",
    create="CHANGE REPLICATION SOURCE TO",
    by_account=("SOURCE_HOST", "SOURCE_PORT", "SOURCE_USER", "SOURCE_PASSWORD"),
    options=(
        "SOURCE_AUTO_POSITION=1",
        "GET_SOURCE_PUBLIC_KEY=1",
        f"SOURCE_CONNECT_RETRY={_RETRY_S}",
        "SOURCE_RETRY_COUNT=60",
        f"SOURCE_HEARTBEAT_PERIOD={HEARTBEAT_S}",
    ),
    channel=f" FOR CHANNEL '{CHANNEL}'",
    start=f"START REPLICA IO_THREAD FOR CHANNEL '{CHANNEL}'",
    stop=f"STOP REPLICA FOR CHANNEL '{CHANNEL}'",
    forget=f"RESET REPLICA ALL FOR CHANNEL '{CHANNEL}'",
    stop_main="STOP REPLICA IO_THREAD FOR CHANNEL ''",
    start_main="START REPLICA IO_THREAD FOR CHANNEL ''",
    falls_back=False,  # SOURCE_SSL=1 requires it
)


def words_of(flavour: Flavour) -> Words:
    """The statements of a flavour."""
    match flavour:
        case Flavour.MARIADB:
            return _MARIADB
        case Flavour.MYSQL:
            return _MYSQL


def rehearse(ask: Ask, words: Words, heir: Address, account: ReplicationAccount, within: timedelta) -> Attempt:
    """`Understudy.rehearse` on a sibling whose default channel receives."""
    main = _row(ask, words, "")
    transport = _transport(words, main, account)
    ask(f"SET SESSION lock_wait_timeout = {_LONGEST_LOCK_WAIT_S}")
    _make_channel(ask, words, main, heir, account)
    try:
        ask(words.stop_main)
        ask(words.start)
        obstacle, said = _watch(ask, words, within.total_seconds())
    finally:
        unrehearse(ask, words)
    return Attempt(obstacle=obstacle, said=said, user=account.login.user, transport=transport)


def unrehearse(ask: Ask, words: Words) -> None:
    """`Understudy.unrehearse`."""
    if _row(ask, words, CHANNEL) is None:
        return
    ask(words.stop)
    if _row(ask, words, "") is not None:
        ask(words.start_main)
    ask(words.forget)


def accounts(ask: Ask, user: str) -> tuple[Account, ...] | None:
    """`Understudy.accounts`; mysql.user is a table of MySQL and a view of MariaDB, with these columns in both."""
    try:
        rows = ask("SELECT Host AS host, ssl_type AS tls FROM mysql.user WHERE User = %s ORDER BY Host", user)
    except AccessDeniedError:
        return None
    return tuple(
        Account(host=str(r["host"]), transport=Transport.TLS if _text(r["tls"]) else Transport.PLAIN) for r in rows
    )


def transport_offered(ask: Ask, words: Words) -> Transport:
    """`Understudy.transport_offered`; a flavour whose channels insist on TLS proves it by connecting."""
    if not words.falls_back or _text(ask("SELECT @@global.have_ssl AS tls")[0]["tls"]) == "YES":
        return Transport.TLS
    return Transport.PLAIN


def _make_channel(ask: Ask, words: Words, main: Row | None, heir: Address, account: ReplicationAccount) -> None:
    login = account.login
    given = dict(zip(words.by_account, (heir.host, heir.port, login.user, login.password), strict=True))
    given |= _tls_options(words, main) | account.tls_options(words.source)
    settings = [*(f"{name}=%s" for name in given), *words.options]
    ask(f"{words.create} {', '.join(settings)}{words.channel}", *given.values())


def _tls_options(words: Words, main: Row | None) -> dict[str, object]:
    """TLS as the default channel has it: `follow` leaves as it is what the account does not say."""
    options: dict[str, object] = {}
    for column, option in words.tls.items():
        value = _text((main or {}).get(column))
        if value and value != "No":
            options[option] = 1 if value == "Yes" else value
    return options


def _transport(words: Words, main: Row | None, account: ReplicationAccount) -> Transport:
    if account.tls is not None:
        return Transport.TLS
    allowed = next(iter(words.tls))
    return Transport.TLS if _text((main or {}).get(allowed)) == "Yes" else Transport.PLAIN


def _watch(ask: Ask, words: Words, within_s: float) -> tuple[Obstacle | None, str]:
    """Until the source has sent something or an error is stored. A heir that is a moment behind is asked again."""
    began = time.monotonic()
    while True:
        row = _row(ask, words, CHANNEL) or {}
        number, said = int(row.get("Last_IO_Errno") or 0), " ".join(_text(row.get("Last_IO_Error")).split())
        if number:
            obstacle = _obstacle(number, said)
            if obstacle is not Obstacle.BEHIND or time.monotonic() > began + min(_CATCH_UP_S, within_s):
                return obstacle, f"{said} (error {number})"
            ask(words.stop)
            ask(words.start)
        # The receiver says that it runs before the source has found the position; its first event proves that it did.
        elif row.get(words.receiver) == "Yes" and row.get(words.source_log):
            return None, ""
        if time.monotonic() > began + within_s:
            return Obstacle.SILENT, f"its receiver was {row.get(words.receiver, 'gone')} after {within_s:g} s"
        time.sleep(_LOOK_EVERY_S)


def _obstacle(number: int, said: str) -> Obstacle:
    if number == _SSL and "SSL is required" not in said:
        return Obstacle.OTHER  # it offers TLS, but its certificate was not accepted: `said` tells why
    if _EQUAL_IDS.search(said):
        return Obstacle.SAME_ID
    return next((kind for kind, numbers in _OBSTACLES.items() if number in numbers), Obstacle.OTHER)


def _row(ask: Ask, words: Words, channel: str) -> Row | None:
    return next((row for row in ask(words.status) if row[words.name] == channel), None)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
