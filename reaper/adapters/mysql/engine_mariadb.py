"""Booting, initialising and copying MariaDB on this machine."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from reaper.adapters.mysql.dialect import quoted
from reaper.adapters.mysql.programs import (
    option_lines,
    run_tool,
    secret_file,
    service_user,
    which,
)
from reaper.domain.errors import ReaperError, TryAgainError, UsageError
from reaper.domain.facts import Flavour
from reaper.workflow.engine import HotCopy, Login, Logins, Seat

SEMI_SYNC_TIMEOUT_MS = 3_600_000  # an hour: long enough that it does not fall back to asynchronous (E02)

_PAGE_LIST = "ib_buffer_pool"  # innodb_buffer_pool_filename, its default

# How often mariadb-backup looks for new redo log. Its default of 1000 ms (mariadb-backup --help) makes every
# backup of a server that is written to wait for two seconds: 2.1 s against 0.3 s for an empty one.
_LOG_COPY_INTERVAL_MS = 100

# What reaper's own account needs on MariaDB 10.5 and later: what the dialect and mariadb-backup run.
# READ ONLY ADMIN is for SET GLOBAL gtid_slave_pos, which writes a table, on a replacement that is read-only.
_ADMIN_GRANTS = (
    "GRANT SUPER, RELOAD, PROCESS, SHUTDOWN, REPLICATION CLIENT, REPLICATION SLAVE, REPLICATION SLAVE ADMIN,"
    " REPLICATION MASTER ADMIN, SLAVE MONITOR, BINLOG MONITOR, BINLOG ADMIN, CONNECTION ADMIN, READ ONLY ADMIN,"
    " SET USER, LOCK TABLES, SELECT, TRIGGER, SHOW VIEW, EVENT ON *.* TO {account}",
    "GRANT ALL ON reaper.* TO {account}",
)

# performance_schema remembers what clients read, with their literals: canary queries come from it. Sized for a lab,
# since it takes its memory at the start: 47 MiB instead of 107 (SHOW ENGINE PERFORMANCE_SCHEMA STATUS, 10.11).
_STATEMENT_SAMPLES: dict[str, str | int | Path | None] = {
    "performance-schema": "ON",
    "performance-schema-consumer-events-statements-current": "ON",
    "performance-schema-consumer-events-statements-history-long": "ON",
    "performance-schema-events-statements-history-long-size": 1000,
    "performance-schema-events-statements-history-size": 0,
    "performance-schema-digests-size": 500,
    "performance-schema-max-thread-instances": 330,
    "performance-schema-max-table-instances": 500,
    "performance-schema-max-table-handles": 1000,
    "performance-schema-max-file-instances": 1000,
    "performance-schema-accounts-size": 0,
    "performance-schema-hosts-size": 0,
    "performance-schema-users-size": 0,
}


class MariadbEngine:
    """mariadbd and the tools beside it."""

    flavour = Flavour.MARIADB

    def __init__(self, program: Path, version: str) -> None:
        self.program = program
        self.version = version

    def initialise(self, data: Path, logins: Logins, schemas: tuple[str, ...], log: Path) -> None:
        """Make a data directory with the accounts and empty schemas, nothing of it in a binary log."""
        names = ("mariadb-install-db", "mysql_install_db")
        beside = [self.program.parent.parent / place / name for place in ("bin", "scripts") for name in names]
        install = next((p for p in beside if p.is_file()), None) or which(names[0]) or which(names[1])
        if install is None:
            raise UsageError("mariadb-install-db is missing: apt-get install mariadb-server")
        command = [
            str(install),
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=socket",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=32M",
            *service_user(),
        ]
        bootstrap = [str(self.program), "--no-defaults", f"--datadir={data}", *service_user()]
        try:
            run_tool(command, log)
            run_tool(
                [*bootstrap, "--innodb-log-file-size=32M", "--bootstrap"],
                log,
                stdin=self._accounts(logins, schemas),
            )
        except TryAgainError as error:
            raise UsageError(f"cannot initialise a data directory in {data}: {error}") from error

    def _accounts(self, logins: Logins, schemas: tuple[str, ...]) -> str:
        lines = ["FLUSH PRIVILEGES;"]  # --bootstrap starts without the grant tables
        lines += [f"CREATE DATABASE `{schema}`;" for schema in schemas]
        for login in (logins.admin, logins.replication, logins.application):
            lines.append(f"CREATE USER {_account(login)} IDENTIFIED BY {quoted(login.password)};")
        lines += [grant.format(account=_account(logins.admin)) + ";" for grant in _ADMIN_GRANTS]
        lines.append(f"GRANT REPLICATION SLAVE ON *.* TO {_account(logins.replication)};")
        lines += [f"GRANT ALL ON `{schema}`.* TO {_account(logins.application)};" for schema in schemas]
        return "\n".join(lines) + "\n"

    def options(self, seat: Seat) -> str:
        """The text of my.cnf."""
        return "# Written by reaper.\n" + option_lines(
            "mariadbd",
            {
                "datadir": seat.data,
                "tmpdir": seat.tmp,
                "bind-address": "127.0.0.1",
                "port": seat.port,
                "socket": "s.sock",  # relative to the data directory: no limit on the path's length
                "pid-file": seat.home / "server.pid",
                "log-error": seat.log,
                "skip-name-resolve": None,
                "server-id": seat.server_id,
                "log-bin": "binlog",
                "relay-log": "relay",
                "binlog-format": "ROW",
                "log-slave-updates": "ON",
                "gtid-strict-mode": "ON",
                "sync-binlog": 1,
                "innodb-flush-log-at-trx-commit": 1,
                "innodb-buffer-pool-size": "64M",
                "innodb-log-file-size": "32M",
                "max-connections": 300,
                "read-only": "ON",
                "skip-slave-start": None,
                "slave-net-timeout": 10,
                "plugin-load-add": "metadata_lock_info",
                "rpl-semi-sync-master-wait-point": "AFTER_SYNC",
                "rpl-semi-sync-master-timeout": SEMI_SYNC_TIMEOUT_MS,
                "rpl-semi-sync-slave-enabled": "ON",
                **_STATEMENT_SAMPLES,
            },
        )

    def command(self, seat: Seat) -> list[str]:
        """The command line that boots the server in the foreground."""
        return [str(self.program), f"--defaults-file={seat.config}", *service_user()]

    def can_copy_hot(self) -> bool:
        """True if mariadb-backup is installed."""
        return which("mariadb-backup") is not None

    def hot_copy(self, source: Seat, admin: Login, into: Path, check: Callable[[], None]) -> HotCopy:
        """mariadb-backup, prepared."""
        tool = which("mariadb-backup")
        if tool is None:
            raise UsageError("mariadb-backup is missing: apt-get install mariadb-backup")
        log = into.with_suffix(".log")
        login: dict[str, str | int | Path | None] = {
            "user": admin.user,
            "password": admin.password,
            "host": "127.0.0.1",
            "port": source.port,
        }
        try:
            with secret_file(into.with_suffix(".cnf"), option_lines("client", login)) as secrets:
                backup = [f"--defaults-extra-file={secrets}", "--backup", f"--target-dir={into}"]
                pace = [f"--parallel={os.cpu_count() or 1}", f"--log-copy-interval={_LOG_COPY_INTERVAL_MS}"]
                run_tool([str(tool), *backup, f"--datadir={source.data}", *pace], log, check=check)
            run_tool([str(tool), "--prepare", f"--target-dir={into}"], log, check=check)
            position = _position(into)
            pages = source.data / _PAGE_LIST  # not among the files that mariadb-backup copies
            if pages.exists():
                shutil.copyfile(pages, into / _PAGE_LIST)
        except OSError as error:
            shutil.rmtree(into, ignore_errors=True)
            raise TryAgainError(f"cannot copy the page list of {source.data}: {error}") from error
        except ReaperError:
            shutil.rmtree(into, ignore_errors=True)
            raise
        finally:
            log.unlink(missing_ok=True)
        return HotCopy(position=position, note="mariadb-backup, prepared")

    def strip(self, data: Path) -> None:
        """Remove what must not be inherited: replication state, relay logs, sockets, the tool's own files."""
        for pattern in (
            "master*.info",
            "relay*",
            "multi-master.info",
            "s.sock*",
            "*.pid",
            "xtrabackup_*",
            "backup-my.cnf",
        ):
            for path in data.glob(pattern):
                if path.is_file() or path.is_socket():
                    path.unlink()


def _account(login: Login) -> str:
    return f"{quoted(login.user)}@'127.0.0.1'"


def _position(copy: Path) -> str:
    """The GTID position in mariadb-backup's own file (named after the tool from 11.1 on)."""
    for name in ("mariadb_backup_binlog_info", "xtrabackup_binlog_info"):
        path = copy / name
        if path.exists():
            fields = path.read_text().split()
            return fields[2] if len(fields) > 2 else ""
    raise TryAgainError(f"the backup in {copy} does not say its GTID position: log_bin is off on its source?")
