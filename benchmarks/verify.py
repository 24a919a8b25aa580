"""A full comparison of master and replica against reading the same data, in alternation.

Reading is what any check at least does: one unbuffered client per server (the C client, written to
nowhere) gets every column of every row, of both servers at once. Beside it stands a scan inside both
servers at once, which sends nothing and looks at no column: no check can be faster than that.
`python -m benchmarks.verify --mib 1024 --rounds 3` takes about five times the size on the disk.
"""

import argparse
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

from benchmarks.prepare import fill
from benchmarks.table import Exit, Result, Row, layout, show
from benchmarks.workshop import LAB, Workshop, guarded, workshop
from reaper.adapters.mysql.checksum import identifier
from reaper.adapters.mysql.compare import SqlComparer
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.programs import option_lines, secret_file, which
from reaper.domain.comparison import Comparison, Sample
from reaper.domain.errors import TryAgainError, UsageError
from reaper.domain.facts import Flavour, Instance
from reaper.workflow.engine import Login

SIZE = 2
TARGET_RATIO = 2.0
TABLES = ("filler", "orders", "events", "notes")

_WITHIN = timedelta(minutes=30)
_SCAN_WITHIN_S = 1800.0
_SMALL = (
    "CREATE TABLE app.orders (customer INT, number VARCHAR(40), placed DATETIME, total DECIMAL(12,2), state"
    " ENUM('new','paid','sent'), PRIMARY KEY (customer, number))",
    "INSERT INTO app.orders SELECT seq DIV 10, MD5(seq), NOW() - INTERVAL seq SECOND, seq / 7, 1 + seq % 3"
    " FROM seq_1_to_200000",
    "CREATE TABLE app.events (id BIGINT PRIMARY KEY, kind VARCHAR(20), at TIMESTAMP(6), detail JSON)",
    "INSERT INTO app.events SELECT seq * 3, 'login', NOW(6), JSON_OBJECT('n', seq) FROM seq_1_to_100000",
    "CREATE TABLE app.notes (text TEXT)",
    "INSERT INTO app.notes SELECT REPEAT(MD5(seq), 1 + seq % 30) FROM seq_1_to_10000",
)


@dataclass(frozen=True)
class Bench:
    """Two servers with the same data."""

    shop: Workshop
    master: Instance
    replica: Instance
    admin: Login

    def verify(self) -> Comparison:
        """What reaper does before a replacement counts."""

        def opened(_cluster: str, instance: Instance, read_timeout_s: float) -> Connection:
            return Connection(instance.address, self.admin, tls=None, read_timeout_s=read_timeout_s)

        comparer = SqlComparer(opened)
        return comparer.compare(LAB, self.master, self.replica, Sample(within=_WITHIN), _never, _silent)

    def read(self) -> None:
        """Every row to a client of each server at once."""
        self._both(self._stream)

    def scan(self) -> None:
        """Every row inside each server at once."""
        self._both(self._count)

    def _both(self, one: Callable[[Instance], None]) -> None:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(one, (self.master, self.replica)))

    def _stream(self, instance: Instance) -> None:
        login: dict[str, str | int | Path | None] = {
            "user": self.admin.user,
            "password": f'"{self.admin.password}"',
            "host": instance.address.host,
            "port": instance.address.port,
        }
        statements = "; ".join(f"SELECT * FROM app.{identifier(table)}" for table in TABLES)
        with secret_file(self.shop.home / f"client-{instance.id.short}.cnf", option_lines("client", login)) as secrets:
            done = subprocess.run(
                [
                    which("mariadb") or "mariadb",
                    f"--defaults-file={secrets}",
                    "--quick",
                    "--skip-column-names",
                    "--execute",
                    statements,
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            raise TryAgainError(f"the client that reads {instance.id} failed: {done.stderr.strip()}")

    def _count(self, instance: Instance) -> None:
        with closing(Connection(instance.address, self.admin, tls=None, read_timeout_s=_SCAN_WITHIN_S)) as session:
            for table in TABLES:
                session.ask(f"SELECT COUNT(*) FROM app.{identifier(table)}")


def _never() -> None:
    return


def _silent(_said: str) -> None:
    return


def measure(*, mib: int, rounds: int) -> Result:
    """`rounds` of each in alternation; every round begins with another one."""
    took: dict[str, list[float]] = {"verify": [], "read": [], "scan": []}
    faults: list[str] = []
    found: Comparison | None = None
    with workshop(SIZE) as shop:
        book = shop.site.registry(LAB).read()
        if book.flavour is not Flavour.MARIADB or which("mariadb") is None:
            raise UsageError("this benchmark is of MariaDB: apt-get install mariadb-server mariadb-client")
        master, _ = shop.settle(SIZE)
        with closing(Connection(master.address, book.application.login(), tls=None, read_timeout_s=120)) as session:
            session.ask("USE app")
            for statement in _SMALL:
                session.ask(statement)
        fill(shop, master, mib)
        replica = next(m for m in shop.site.fleet.members(LAB) if m.id != master.id)
        bench = Bench(shop, master, replica, book.logins.admin)
        kinds: dict[str, Callable[[], object]] = {"verify": bench.verify, "read": bench.read, "scan": bench.scan}
        print(f"{mib} MiB and {len(TABLES) - 1} small tables on {SIZE} servers", flush=True)
        for turn in range(rounds):
            names = list(kinds)[turn % 3 :] + list(kinds)[: turn % 3]
            for name in names:
                began = time.monotonic()
                said = kinds[name]()
                took[name].append(time.monotonic() - began)
                print(f"{turn + 1:>3}  {name:<8} {took[name][-1]:7.2f} s", flush=True)
                if isinstance(said, Comparison):
                    found = said
                    faults += [] if said.sound else [f"equal servers are called different: {said}"]
    spans = [(name, *(f"{s:.2f}" for s in (min(some), median(some), max(some)))) for name, some in took.items()]
    what = f"verify of {mib} MiB on both servers"
    verify = median(took["verify"])
    read, scan = median(took["read"]), median(took["scan"])
    rows = (
        Row(name=f"{what} / a client reads both", value=verify, unit="s", reference=read, target=TARGET_RATIO),
        Row(name=f"{what} / both scan inside", value=verify, unit="s", reference=scan),
    )
    details = (layout(("s", "least", "median", "most"), spans), str(found))
    return Result(rows=rows, details=details, faults=tuple(faults))


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large table (1024)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (3)")
    options = parser.parse_args()
    return show(measure(mib=max(1, options.mib), rounds=max(1, options.rounds)))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
