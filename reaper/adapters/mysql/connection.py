"""A connection over PyMySQL: one way in, errors classed by the reader's next move."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import pymysql
import pymysql.cursors

from reaper.adapters.credentials import Kept, open_with
from reaper.adapters.tls import ServerTls, refused
from reaper.domain.errors import (
    AccessDeniedError,
    ReadOnlyError,
    ServerError,
    ServerGoneError,
    StatementTimeoutError,
    TooManyConnectionsError,
)
from reaper.domain.facts import Address, Flavour
from reaper.workflow.engine import Login

Row = dict[str, Any]
Ask = Callable[..., list[Row]]  # ask(sql, *arguments) -> rows

CONNECT_TIMEOUT_S = 2
# Longer than the longest slice that a statement of ours may wait inside the server (WAIT_SLICE_S).
READ_TIMEOUT_S = 15
WAIT_SLICE_S = 5.0

# Error numbers of the servers, from the MySQL 8.0 and MariaDB 10.11 error references, and as a real
# MySQL 8.0.43 answered them: 1045 wrong password, 1044/1142/1143/1227/1370/1698/3630 a privilege is missing,
# 2061 the account may not log in without encryption.
_DENIED = {1044, 1045, 1142, 1143, 1227, 1370, 1698, 2061, 3118, 3630, 4151}
_FULL = {1040, 1203, 1226}
_READ_ONLY = {1290, 1836, 3032}
_TOOK_TOO_LONG = {1205, 1213, 1317, 1907, 1969, 3024}
_GONE = {0, 1053, 1077, 1079, 1158, 1159, 1160, 1161, 2002, 2003, 2005, 2006, 2012, 2013, 2055}


class Connection:
    """One session, autocommit. Raises only errors of `reaper.domain.errors`."""

    def __init__(
        self, address: Address, account: Login, *, tls: ServerTls | None, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        """Connect with a login that holds. `tls` None: in clear. UsageError: the file of authorities is of no use."""
        self._address = address
        self._account = account
        context = tls.context() if tls else None
        try:
            self._session = pymysql.connect(
                host=address.host,
                port=address.port,
                user=account.user,
                password=account.password,
                autocommit=True,
                charset="utf8mb4",
                cursorclass=pymysql.cursors.DictCursor,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout_s,
                write_timeout=READ_TIMEOUT_S,
                program_name="reaper",
                # PyMySQL builds a TLS context per connection otherwise, which costs 25 ms. With one, it refuses a
                # server that offers no TLS.
                ssl=context,
                ssl_disabled=context is None,
            )
        except (pymysql.MySQLError, OSError, RuntimeError) as error:
            raise self._classed(error, "connect") from error

    @classmethod
    def open(
        cls, address: Address, logins: Kept, *, tls: ServerTls | None, read_timeout_s: float = READ_TIMEOUT_S
    ) -> Self:
        """Connect with what is valid now: a kept password that the server rejects is read again where it lies."""
        return open_with(logins, lambda login: cls(address, login, tls=tls, read_timeout_s=read_timeout_s))

    @property
    def flavour(self) -> Flavour:
        """What the server called itself when it greeted."""
        greeting: str = self._session.get_server_info()  # type: ignore[no-untyped-call]  # the stubs leave it bare
        return Flavour.MARIADB if "mariadb" in greeting.lower() else Flavour.MYSQL

    def ask(self, sql: str, *arguments: object) -> list[Row]:
        """Run one statement and return its rows, an empty list for a statement without any."""
        try:
            with self._session.cursor() as cursor:
                cursor.execute(sql, arguments or None)
                rows: Sequence[Row] = cursor.fetchall()
                return list(rows)
        except (pymysql.MySQLError, OSError) as error:
            raise self._classed(error, sql.split(None, 1)[0] if sql else sql) from error

    def close(self) -> None:
        """End the session; a session that is gone already is fine."""
        with contextlib.suppress(pymysql.MySQLError, OSError):
            self._session.close()

    def _classed(self, error: Exception, doing: str) -> ServerError:
        return classed(error, self._address, self._account.user, doing)


def classed(error: Exception, address: Address, user: str, doing: str) -> ServerError:
    """One of reaper's errors for one of the driver's, in words."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    where = f"{address} ({doing})"
    if isinstance(error, RuntimeError) and "cryptography" in text:
        return ServerError(f"{where}: the account needs RSA authentication: pip install 'reaper[mysql]'")
    if untrusted := refused(error):
        return ServerError(f"{where}: {untrusted}")
    if number in _DENIED:
        return AccessDeniedError(f"{where}: the account {user!r} is rejected: {text}. Check its password and grants.")
    if number in _FULL:
        return TooManyConnectionsError(f"{where}: alive but full: {text}")
    if number in _READ_ONLY:
        return ReadOnlyError(f"{where}: refuses writes: {text}")
    if number in _TOOK_TOO_LONG:
        return StatementTimeoutError(f"{where}: took too long: {text}")
    if number in _GONE or isinstance(error, OSError | pymysql.InterfaceError):
        return ServerGoneError(f"{where}: no answer: {text or 'the connection is closed'}")
    return ServerError(f"{where}: error {number}: {text}")
