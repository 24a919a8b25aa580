"""Building a replacement of a large data set: reaper against the same thing by hand, in alternation.

From the start of the copy to "caught up with the master", under a light write load: mariadb-backup,
prepare, move, boot, set the position, follow the master, wait. By hand with the tool's default
options and with those that reaper uses. `python -m benchmarks.prepare --mib 1024 --rounds 3` takes
about seven times the size on the disk, binary logs and one copy included.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor

from benchmarks.by_hand import connect
from benchmarks.table import Exit, Result, Row, layout, show
from benchmarks.workshop import LAB, Workshop, guarded, workshop
from reaper.adapters.local import lab
from reaper.adapters.logtail import log_tail
from reaper.adapters.mysql.engines import engine_of
from reaper.adapters.mysql.programs import option_lines, secret_file, which
from reaper.adapters.probe.load import Load, LoadConfig
from reaper.domain.errors import ReaperError, TryAgainError, UsageError
from reaper.domain.facts import Address, Flavour, Instance, InstanceId, InstanceState
from reaper.domain.plan import StepName
from reaper.workflow.engine import Login, Seat

SIZE = 3
TARGET_RATIO = 1.15
WRITES_PER_SECOND = 50.0

REAPER = "reaper"
BY_HAND: dict[str, tuple[str, ...]] = {  # the options of mariadb-backup, beside where to and whereof
    "by hand, as reaper": (f"--parallel={os.cpu_count() or 1}", "--log-copy-interval=100"),
    "by hand, defaults": (),
}

_SERVER_ID = 900  # of replicas by hand; reaper's begin at 1
_ROWS_AT_ONCE = 16_384  # of 1 KiB: a transaction is half of the lab's redo log
_CATCH_UP_WITHIN_S = 1800
_BOOT_WITHIN_S = 300.0
_CHUNK_BYTES = 4 * 2**20
_LOOK_EVERY_S = 0.02  # as often as reaper looks


@dataclass
class Watch:
    """Seconds by part of a build."""

    parts_s: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def lap(self, part: str) -> None:
        """This part ends now."""
        now = time.monotonic()
        self.parts_s[part] = now - self._since
        self._since = now

    @property
    def total_s(self) -> float:
        """From the start of the copy to caught up."""
        return sum(self.parts_s.values())


# ---- the data set


def fill(shop: Workshop, master: Instance, mib: int) -> None:
    """Random rows through the binary log until the master's table has the size and every replica has the rows."""
    registry = shop.site.registry(LAB)
    book = registry.read()
    record = book.instance(master.id.short)
    if record is None:
        raise LookupError(f"{master.id} is not in the book")
    file = registry.seat(record).data / "app" / "filler.ibd"
    payload = ", ".join(["SHA2(RAND(), 512)"] * 8)
    with _session(master, book.application.login()) as cursor:
        cursor.execute("USE app")  # the tables seq_1_to_N belong to whatever schema is in use
        cursor.execute(
            "CREATE TABLE app.filler (id BIGINT AUTO_INCREMENT PRIMARY KEY,"
            " payload VARCHAR(1024) CHARACTER SET ascii NOT NULL)"
        )
        while file.stat().st_size < mib * 2**20:
            cursor.execute(f"INSERT INTO app.filler (payload) SELECT CONCAT({payload}) FROM seq_1_to_{_ROWS_AT_ONCE}")
    admin = book.logins.admin
    position = _position(master, admin)
    for member in shop.site.fleet.members(LAB):
        with _session(member, admin) as cursor:
            if member.id != master.id:
                _catch_up(cursor, position)
            cursor.execute("PURGE BINARY LOGS BEFORE NOW()")


@contextmanager
def _session(instance: Instance, login: Login) -> Iterator[Cursor]:
    session: Connection[Cursor] = connect(instance, login)
    with contextlib.closing(session), session.cursor() as cursor:
        yield cursor


def _position(master: Instance, admin: Login) -> str:
    with _session(master, admin) as cursor:
        cursor.execute("SELECT @@global.gtid_binlog_pos")
        ((position,),) = cursor.fetchall()
    return str(position)


def _catch_up(cursor: Cursor, position: str) -> None:
    for _ in range(_CATCH_UP_WITHIN_S // 60):
        cursor.execute("SELECT MASTER_GTID_WAIT(%s, 60)", (position,))
        if cursor.fetchall() == ((0,),):
            return
    raise TryAgainError(f"a replica did not reach {position} within {_CATCH_UP_WITHIN_S} s")


# ---- building


def build_by_reaper(shop: Workshop) -> Watch:
    """The steps snapshot, launch and join of a rotation, as its timeline has them. The master is another one then."""
    done = shop.reaper("rotate", LAB, "--output", "json")
    if done.code != 0:
        raise TryAgainError(f"reaper rotate: {done.last_words}")
    timeline = shop.site.runs.timeline(str(json.loads(done.out)["run"]))
    took = {e.step: e.took_ns / 1e9 for e in timeline if e.took_ns is not None}
    shop.settle(SIZE)
    return Watch({step.value: took[step] for step in (StepName.SNAPSHOT, StepName.LAUNCH, StepName.JOIN)})


def build_by_hand(shop: Workshop, options: tuple[str, ...], number: int) -> Watch:
    """The same with the tools and a few statements; the replica is removed afterwards."""
    master, _ = shop.settle(SIZE)
    registry = shop.site.registry(LAB)
    book = registry.read()
    source = next(i for i in book.instances if i.name != master.id.short)
    port = _free_port()
    seat = Seat(home=shop.home / f"by-hand-{number}", port=port, server_id=_SERVER_ID + number)
    replica = Instance(
        id=InstanceId("hand", str(number)),
        address=Address(lab.LOOPBACK, port),
        server_id=seat.server_id,
        created=datetime.now(UTC),
        state=InstanceState.RUNNING,
    )
    engine = engine_of(book.flavour, book.server, book.version)
    server: subprocess.Popen[bytes] | None = None
    watch = Watch()
    try:
        seat.tmp.mkdir(parents=True)
        copy = seat.home / "copy"
        _back_up(copy, registry.seat(source), book.logins.admin, options)
        watch.lap("backup")
        _tool("--prepare", f"--target-dir={copy}")
        watch.lap("prepare")
        copy.rename(seat.data)
        seat.config.write_text(engine.options(seat))
        with seat.log.open("ab") as log:
            server = subprocess.Popen(
                engine.command(seat), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        with _booted(server, seat.log, replica, book.logins.admin) as cursor:
            watch.lap("boot")
            _follow(cursor, seat, master, book.logins.replication)
            _catch_up(cursor, _position(master, book.logins.admin))
            watch.lap("join")
    finally:
        if server is not None:
            server.kill()
            server.wait()
        shutil.rmtree(seat.home, ignore_errors=True)
    return watch


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind((lab.LOOPBACK, 0))
        return int(taken.getsockname()[1])


def _back_up(copy: Path, source: Seat, admin: Login, options: tuple[str, ...]) -> None:
    login: dict[str, str | int | Path | None] = {
        "user": admin.user,
        "password": f'"{admin.password}"',
        "host": lab.LOOPBACK,
        "port": source.port,
    }
    with secret_file(copy.with_suffix(".cnf"), option_lines("client", login)) as secrets:
        where = (f"--target-dir={copy}", f"--datadir={source.data}")
        _tool(f"--defaults-extra-file={secrets}", "--backup", *where, *options)


def _tool(*arguments: str) -> None:
    done = subprocess.run(
        [which("mariadb-backup") or "mariadb-backup", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise TryAgainError(f"mariadb-backup: {done.stderr.strip().splitlines()[-1:]}")


@contextmanager
def _booted(server: subprocess.Popen[bytes], log: Path, replica: Instance, admin: Login) -> Iterator[Cursor]:
    deadline = time.monotonic() + _BOOT_WITHIN_S
    while True:
        try:
            session: Connection[Cursor] = connect(replica, admin)
        except pymysql.MySQLError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise TryAgainError(f"the replica by hand does not answer: {error}: {log_tail(log)}") from error
            time.sleep(_LOOK_EVERY_S)
        else:
            break
    with contextlib.closing(session), session.cursor() as cursor:
        yield cursor


def _follow(cursor: Cursor, seat: Seat, master: Instance, account: Login) -> None:
    _file, _offset, position = (seat.data / "xtrabackup_binlog_info").read_text().split()
    cursor.execute("STOP ALL SLAVES")
    cursor.execute("RESET SLAVE ALL")
    cursor.execute("SET GLOBAL gtid_slave_pos = %s", (position,))
    cursor.execute(
        "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
        " MASTER_USE_GTID=slave_pos",
        (master.address.host, master.address.port, account.user, account.password),
    )
    cursor.execute("START SLAVE")


# ---- the whole


def measure(*, mib: int, rounds: int) -> Result:
    """`rounds` builds of each kind in alternation, the disk at rest before each."""
    found: dict[str, list[Watch]] = {name: [] for name in (REAPER, *BY_HAND)}
    remarks: list[str] = []
    faults: list[str] = []
    number = 0
    with workshop(SIZE) as shop:
        book = shop.site.registry(LAB).read()
        if book.flavour is not Flavour.MARIADB or which("mariadb-backup") is None:
            raise UsageError("this benchmark is of MariaDB: apt-get install mariadb-server mariadb-backup")
        master, _ = shop.settle(SIZE)
        began = time.monotonic()
        fill(shop, master, mib)
        print(f"{mib} MiB on {SIZE} servers after {time.monotonic() - began:.0f} s", flush=True)
        try:
            with _load(shop):
                for turn in range(rounds):
                    for kind in _turned(list(found), turn):
                        number += 1
                        _rest(shop)
                        found[kind].append(_contender(kind, shop, number)())
                        _progress(number, kind, found[kind][-1])
        except (ReaperError, pymysql.MySQLError) as error:
            faults.append(f"build {number}: {error}")
            remarks.append(f"the lab after the failure:\n{shop.reaper('status', LAB).out}")
    if not all(found.values()):
        return Result(rows=(), details=tuple(remarks), faults=tuple(faults))
    took = {kind: median(w.total_s for w in some) for kind, some in found.items()}
    rows = tuple(
        Row(
            name=f"replacement of {mib} MiB, {kind}",
            value=took[REAPER],
            unit="s",
            reference=took[kind],
            target=TARGET_RATIO,
        )
        for kind in BY_HAND
    )
    return Result(rows=rows, details=(_parts(found), *remarks), faults=tuple(faults))


def _turned(kinds: list[str], turn: int) -> list[str]:
    """Every round begins with another one."""
    first = turn % len(kinds)
    return kinds[first:] + kinds[:first]


def _rest(shop: Workshop) -> None:
    """The same start for everybody: nothing waits to be written, every table is in the file system's cache."""
    os.sync()
    registry = shop.site.registry(LAB)
    for instance in registry.read().instances:
        for table in registry.seat(instance).data.glob("app/*.ibd"):
            with table.open("rb", buffering=0) as file:
                while file.read(_CHUNK_BYTES):
                    pass


def _contender(kind: str, shop: Workshop, number: int) -> Callable[[], Watch]:
    if kind == REAPER:
        return partial(build_by_reaper, shop)
    return partial(build_by_hand, shop, BY_HAND[kind], number)


@contextmanager
def _load(shop: Workshop) -> Iterator[None]:
    """An application that writes a little, through the endpoint."""
    book = shop.site.registry(LAB).read()
    login = book.application.login()
    load = Load(
        LoadConfig(
            host=lab.LOOPBACK,
            port=book.endpoint_port,
            user=login.user,
            password=login.password,
            database="app",
            clients=2,
            rate=WRITES_PER_SECOND,
            tls=None,
        )
    )
    load.start()
    try:
        yield
    finally:
        load.stop()


def _progress(number: int, kind: str, watch: Watch) -> None:
    parts = ", ".join(f"{name} {took:.2f}" for name, took in watch.parts_s.items())
    print(f"{number:>3}  {kind:<20} {watch.total_s:7.2f} s  ({parts})", flush=True)


def _parts(found: dict[str, list[Watch]]) -> str:
    names = dict.fromkeys(name for some in found.values() for w in some for name in w.parts_s)
    lines = []
    for name in names:
        cells = []
        for some in found.values():
            known = [w.parts_s[name] for w in some if name in w.parts_s]
            cells.append(f"{median(known):.2f}" if known else "")
        lines.append((name, *cells))
    return layout(("median of each part, s (reaper's snapshot is backup and prepare)", *found), lines)


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the data set (1024)")
    parser.add_argument("--rounds", type=int, default=3, help="builds of each kind (3)")
    options = parser.parse_args()
    return show(measure(mib=max(1, options.mib), rounds=max(1, options.rounds)))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
