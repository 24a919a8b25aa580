"""Booting, initialising and copying Oracle MySQL on this machine."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

from reaper.adapters.logtail import log_tail
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.dialect import quoted
from reaper.adapters.mysql.programs import option_lines, run_tool, secret_file, service_user
from reaper.adapters.tls import ENCRYPTED
from reaper.domain.errors import ServerError, TryAgainError, UsageError
from reaper.domain.facts import Address, Flavour
from reaper.workflow.engine import HotCopy, Login, Logins, Seat

SEMI_SYNC_TIMEOUT_MS = 3_600_000  # an hour: long enough that it does not fall back to asynchronous (E02)

# Loaded at start, since INSTALL PLUGIN is refused on a super-read-only server (1290, 8.0.43).
_PLUGINS = (
    "rpl_semi_sync_source=semisync_source.so",
    "rpl_semi_sync_replica=semisync_replica.so",
    "clone=mysql_clone.so",
)
# semisync_source.so came with 8.0.26 ("Semisynchronous Replication Interface" in the manual), and with it the
# option names with "replica" (WL#14194).
_OLDEST = (8, 0, 26)

# What reaper's own account needs, from an account that was tried statement by statement on 8.0.43.
# CONNECTION_ADMIN lets it into a server that is full (E23). It would also let it write on one that is
# read-only: the lab's replicas are super-read-only, on which nobody writes (E08).
_ADMIN_GRANTS = (
    "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD, PROCESS, SHUTDOWN, REPLICATION CLIENT, REPLICATION SLAVE"
    " ON *.* TO {account}",
    "GRANT REPLICATION_SLAVE_ADMIN, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, BACKUP_ADMIN ON *.* TO {account}",
    "GRANT ALL ON reaper.* TO {account}",
)

# Measured on 8.0.43: ready after 1 s, ended after 2.4 s, on a slow machine; a clone of 130 MB took 0.5 s.
_READY_WITHIN_S = 120
_ENDED_WITHIN_S = 60
_COPY_WITHIN_S = 6 * 3600
_GIVEN_UP_WITHIN_S = 30
_LOOK_EVERY_S = 0.05


class MysqlEngine:
    """mysqld of 8.0.26 and later, 8.4 included; nothing beside it is needed."""

    flavour = Flavour.MYSQL

    def __init__(self, program: Path, version: str) -> None:
        self.program = program
        self.version = version

    def initialise(self, data: Path, logins: Logins, schemas: tuple[str, ...], log: Path) -> None:
        """Make a data directory with the accounts and empty schemas, nothing of it in a binary log.

        Two runs: with --initialize an --init-file may not manage accounts ("init_file" in the manual), so
        it goes to a second one, without network and binary log. That one also makes the certificates.
        """
        if tuple(int(n) for n in re.findall(r"\d+", self.version)[:3]) < _OLDEST:
            raise UsageError(
                f"{self.program} is MySQL {self.version}: a lab needs {'.'.join(map(str, _OLDEST))} or later"
            )
        common = [
            str(self.program),
            "--no-defaults",
            f"--datadir={data}",
            "--disable-log-bin",
            "--loose-mysqlx=OFF",
            "--secure-file-priv=NULL",
            *service_user(),
        ]
        accounts = self._accounts(logins, schemas)
        try:
            run_tool([*common, "--initialize-insecure"], log)
            with secret_file(data.with_suffix(".sql"), accounts) as init_file:
                boot = [*common, "--skip-networking", "--socket=s.sock", f"--init-file={init_file}"]
                _run_until_ready(boot, log)
        except TryAgainError as error:
            raise UsageError(f"cannot initialise a data directory in {data}: {error}") from error

    def _accounts(self, logins: Logins, schemas: tuple[str, ...]) -> str:
        """One statement a line, as --init-file wants it."""
        lines = [f"CREATE DATABASE `{schema}`;" for schema in schemas]
        for login in (logins.admin, logins.replication, logins.application):
            lines.append(f"CREATE USER {_account(login)} IDENTIFIED BY {quoted(login.password)};")
        lines += [grant.format(account=_account(logins.admin)) + ";" for grant in _ADMIN_GRANTS]
        lines.append(f"GRANT REPLICATION SLAVE ON *.* TO {_account(logins.replication)};")
        lines += [f"GRANT ALL ON `{schema}`.* TO {_account(logins.application)};" for schema in schemas]
        return "\n".join(lines) + "\n"

    def options(self, seat: Seat) -> str:
        """The text of my.cnf."""
        return "# Written by reaper.\n" + option_lines(
            "mysqld",
            {
                "datadir": seat.data,
                "tmpdir": seat.tmp,
                "bind-address": "127.0.0.1",
                "port": seat.port,
                "socket": "s.sock",  # relative to the data directory: no limit on the path's length
                "pid-file": seat.home / "server.pid",
                "log-error": seat.log,
                "loose-mysqlx": "OFF",  # its port and socket would collide; some builds have none
                "secure-file-priv": "NULL",  # a package's default directory may not exist or not be ours
                "skip-name-resolve": None,
                "server-id": seat.server_id,
                "log-bin": "binlog",
                "relay-log": "relay",
                "binlog-format": "ROW",  # the default; deprecated since 8.0.34, still accepted by 8.4
                "log-replica-updates": "ON",
                "gtid-mode": "ON",
                "enforce-gtid-consistency": "ON",
                "sync-binlog": 1,
                "innodb-flush-log-at-trx-commit": 1,
                "innodb-buffer-pool-size": "64M",
                "loose-innodb-redo-log-capacity": "64M",  # 8.0.30 and later
                "max-connections": 300,
                "super-read-only": "ON",  # turns read-only on as well
                "skip-replica-start": None,
                "replica-net-timeout": 10,
                "plugin-load-add": f'"{";".join(_PLUGINS)}"',
                "rpl-semi-sync-source-wait-point": "AFTER_SYNC",
                "rpl-semi-sync-source-timeout": SEMI_SYNC_TIMEOUT_MS,
                "rpl-semi-sync-replica-enabled": "ON",
            },
        )

    def command(self, seat: Seat) -> list[str]:
        """The command line that boots the server in the foreground."""
        return [str(self.program), f"--defaults-file={seat.config}", *service_user()]

    def can_copy_hot(self) -> bool:
        """True: the clone plugin comes with the server."""
        return True

    def hot_copy(self, source: Seat, admin: Login, into: Path, check: Callable[[], None]) -> HotCopy:
        """CLONE LOCAL, run by the source itself, which may be super-read-only.

        It needs BACKUP_ADMIN and writes `into` as the server's own user ("Cloning Data Locally" in the
        manual). The copy carries its GTID set, and a replica's channel; no binary or relay logs.
        """
        if into.exists():
            raise UsageError(f"{into} exists: a clone makes its directory itself")
        address = Address("127.0.0.1", source.port)
        try:
            connection = Connection(address, admin, tls=ENCRYPTED, read_timeout_s=_COPY_WITHIN_S)
            session = int(connection.ask("SELECT CONNECTION_ID() AS id")[0]["id"])
            cloning = _in_background(lambda: _clone(connection, into))
            try:
                while not cloning.done():  # the read timeout of the connection bounds it
                    check()
                    wait([cloning], timeout=_LOOK_EVERY_S)
            except BaseException:
                _give_up(address, admin, session, cloning)
                raise
            cloning.result()
        except ServerError as error:
            shutil.rmtree(into, ignore_errors=True)
            raise TryAgainError(f"the clone failed: {error} ({log_tail(source.log)})") from error
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise
        return HotCopy(position=None, note="CLONE LOCAL")

    def strip(self, data: Path) -> None:
        """Remove what must not be inherited: identity, sockets, relay logs, persisted variables.

        mysqld-auto.cnf is in a cold copy only. What it says beats my.cnf: with it a copy could boot with
        the source's server_id (E14), or open for writes (E08).
        """
        for pattern in ("auto.cnf", "mysqld-auto.cnf*", "s.sock*", "mysqlx.sock*", "*.pid", "relay*"):
            for path in data.glob(pattern):
                if path.is_file() or path.is_socket():
                    path.unlink()


def _account(login: Login) -> str:
    return f"{quoted(login.user)}@'127.0.0.1'"


def _run_until_ready(command: list[str], log: Path) -> None:
    """Boot a server, wait until it has run its init file and is ready, and end it in good order."""
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        try:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(log.parent)},  # not shared with other servers, see Seat.tmp
                start_new_session=True,  # a person's Ctrl-C is for reaper to answer
            )
        except OSError as error:
            raise UsageError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + _READY_WITHIN_S
        while not _said_ready(log, before):
            if server.poll() is not None:
                raise TryAgainError(f"the server ended ({server.returncode}): {log_tail(log)}")
            if time.monotonic() > deadline:
                raise TryAgainError(f"the server was not ready within {_READY_WITHIN_S} s: {log_tail(log)}")
            time.sleep(_LOOK_EVERY_S)
        server.send_signal(signal.SIGTERM)
        if server.wait(_ENDED_WITHIN_S) != 0:
            raise TryAgainError(f"the server did not end well ({server.returncode}): {log_tail(log)}")
    except subprocess.TimeoutExpired as error:
        raise TryAgainError(f"the server did not end within {_ENDED_WITHIN_S} s: {log_tail(log)}") from error
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def _said_ready(log: Path, after: int) -> bool:
    """True if the log says so (MY-010931) after that many bytes; the init file has been run by then."""
    with log.open("rb") as file:
        file.seek(after)
        return b": ready for connections. Version" in file.read()


def _clone(connection: Connection, into: Path) -> None:
    with closing(connection):
        connection.ask("CLONE LOCAL DATA DIRECTORY = %s", str(into.absolute()))


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Run `work` in a thread that does not hold up the end of this process."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed on to whoever asks for the result
            future.set_exception(error)
        else:
            future.set_result(None)

    Thread(target=run, name="clone", daemon=True).start()
    return future


def _give_up(address: Address, admin: Login, session: int, cloning: Future[None]) -> None:
    """End a clone that is under way ("Stopping a Cloning Operation" in the manual), and wait for its end."""
    with suppress(ServerError), closing(Connection(address, admin, tls=ENCRYPTED)) as other:
        other.ask(f"KILL QUERY {session}")
    wait([cloning], timeout=_GIVEN_UP_WITHIN_S)
