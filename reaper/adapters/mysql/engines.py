"""Find a server program on this machine and ask it which flavour it is."""

import re
from pathlib import Path

from reaper.adapters.mysql.dialect import Dialect
from reaper.adapters.mysql.engine_mariadb import MariadbEngine
from reaper.adapters.mysql.engine_mysql import MysqlEngine
from reaper.adapters.mysql.mariadb import MariadbDialect
from reaper.adapters.mysql.mysql8 import MysqlDialect
from reaper.adapters.mysql.programs import version_text, which
from reaper.domain.errors import UsageError
from reaper.domain.facts import Flavour
from reaper.workflow.engine import Engine

_VERSION = re.compile(r"\bVer\s+(\d+\.\d+\.\d+)([^\s]*)")
_OLDEST = {Flavour.MARIADB: (10, 6, 0), Flavour.MYSQL: (8, 0, 23)}
_PROGRAMS = ("mariadbd", "mysqld")


def dialect_of(flavour: Flavour) -> Dialect:
    """The dialect of a flavour."""
    match flavour:
        case Flavour.MARIADB:
            return MariadbDialect()
        case Flavour.MYSQL:
            return MysqlDialect()


def engine_of(flavour: Flavour, program: Path, version: str) -> Engine:
    """The engine of a server program that has been asked already."""
    match flavour:
        case Flavour.MARIADB:
            return MariadbEngine(program, version)
        case Flavour.MYSQL:
            return MysqlEngine(program, version)


def find_engine(program: Path | None) -> Engine:
    """The named server program, or the first one found. UsageError: none, or one that reaper cannot use."""
    found = program or next((path for name in _PROGRAMS if (path := which(name))), None)
    if found is None:
        raise UsageError(
            "no MariaDB or MySQL server is installed: apt-get install mariadb-server mariadb-backup, "
            "or name a server program with --server"
        )
    if not found.is_file():
        raise UsageError(f"there is no server program {found}")
    said = version_text(found)
    match = _VERSION.search(said)
    if match is None:
        raise UsageError(f"{found} is no mysqld or mariadbd: it says {said[:100]!r}")
    flavour = Flavour.MARIADB if "mariadb" in said.lower() else Flavour.MYSQL
    version = tuple(int(n) for n in match.group(1).split("."))
    if version < _OLDEST[flavour]:
        oldest = ".".join(map(str, _OLDEST[flavour]))
        raise UsageError(f"{found} is {flavour} {match.group(1)}: reaper needs {oldest} or later")
    return engine_of(flavour, found.absolute(), match.group(1))
