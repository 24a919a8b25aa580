"""Reads after a promotion: an heir that passed the warmth gate against a cold one, on one lab, in alternation.

The data set is larger than the buffer pool and the reads are skewed: most of them want the hot rows, which fit. Each
round copies an heir, kills the master by hand under load and goes on reading for two minutes. MariaDB opens its data
files with O_DIRECT by default (10.6 and later), so that a miss is a read from the disk and not from the system's page
cache; how fast this machine's disk is decides how long a cold heir hurts.
`python -m benchmarks.warmth --pool-mib 64 --data-mib 192 --seconds 20` is a quick one.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median

import pymysql

from benchmarks.by_hand import Promise, connect, ready
from benchmarks.prepare import fill
from benchmarks.table import Exit, Result, Row, layout, show
from benchmarks.workshop import LAB, Workshop, guarded, workshop
from reaper.adapters.clock import SystemClock
from reaper.adapters.local.lab import LOOPBACK
from reaper.adapters.local.pagefiles import LocalPageFiles
from reaper.adapters.mysql.canaries import SqlCanaries
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.pages import SqlPool
from reaper.cli.curve import recovery_line, recovery_svg
from reaper.domain.errors import TryAgainError
from reaper.domain.facts import Flavour, Instance
from reaper.domain.warmth import Baseline, Recovery, Warmth, WarmthGate, rank
from reaper.workflow.engine import Login
from reaper.workflow.pools import Side
from reaper.workflow.recovery import follow
from reaper.workflow.warming import Surroundings, baseline, choose_canaries, warm_up

SIZE = 2  # a master and the replica that is copied
WITH, WITHOUT = "with the gate", "cold"
TARGET_LOST = 10.0  # percent of the throughput, in the first seconds after the promotion
FIRST = timedelta(seconds=10)

_READERS = 4
_THINK_S = 0.004  # between two reads of one reader: with two cores for everything, readers without pause measure those
_HOT_READS = 0.95
_HOT_SHARE = 0.6  # of the pool, that the hot rows fill
_ROW_BYTES = 1120  # with its share of page headers: 16 KiB hold 14 or 15 rows
_WRITES_PER_SECOND = 20  # while the heir warms: a replica that applies loads at another pace than an idle one
_BEFORE_S = 15.0  # of reading, against which the time after the promotion is held
_CANARIES = 5
_SEED = 11


# ---- the load


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where and as whom the readers connect."""

    port: int
    login: Login

    def open(self) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
        """As an application does."""
        login = self.login
        return pymysql.connect(
            host=LOOPBACK, port=self.port, user=login.user, password=login.password, autocommit=True, ssl_disabled=True,
            connect_timeout=2, read_timeout=10,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What readers want."""

    ids: "array[int]"  # of every row, the hot ones first
    hot: int
    rows: int  # of one read

    def read(self, dice: random.Random) -> str:
        """Some rows, nearly all of them hot."""
        most = (self.hot if dice.random() < _HOT_READS else len(self.ids) for _ in range(self.rows))
        rows = ", ".join(str(self.ids[dice.randrange(n)]) for n in most)
        return f"SELECT SUM(LENGTH(payload)) FROM app.filler WHERE id IN ({rows})"


def read_on(door: Door, wishes: Wishes, seed: int, stop: Event, pipe: Pipe) -> None:
    """A process that reads until it is told to stop, then hands over when each read ended and what it took (ns)."""
    dice, found = random.Random(seed), array("Q")
    session = None
    while not stop.is_set():
        began = time.monotonic_ns()
        try:
            session = session or door.open()
            with session.cursor() as cursor:
                cursor.execute(wishes.read(dice))
                cursor.fetchall()
        except (pymysql.MySQLError, OSError):
            session = None
            time.sleep(0.005)
            continue
        now = time.monotonic_ns()
        found.extend((now, now - began))
        time.sleep(_THINK_S)
    pipe.send_bytes(found.tobytes())


@dataclass
class Load:
    """Readers at work."""

    stop: Event
    pipes: list[Pipe]

    def end(self) -> list[tuple[int, int]]:
        """(ended, took) in nanoseconds of every read."""
        self.stop.set()
        reads: list[tuple[int, int]] = []
        for pipe in self.pipes:
            flat = array("Q", pipe.recv_bytes())
            reads += zip(flat[::2], flat[1::2], strict=True)
        return sorted(reads)


@contextmanager
def reading(door: Door, wishes: Wishes) -> Iterator[Load]:
    """Processes of their own, ended with the block."""
    context = multiprocessing.get_context("spawn")
    stop, pipes, processes = context.Event(), [], []
    try:
        for number in range(_READERS):
            ours, theirs = context.Pipe(duplex=False)
            reader = context.Process(target=read_on, args=(door, wishes, number, stop, theirs), daemon=True)
            reader.start()
            processes.append(reader)
            pipes.append(ours)
        yield Load(stop, pipes)
    finally:
        stop.set()
        for reader in processes:
            reader.join(timeout=15)
            if reader.is_alive():
                reader.kill()


@contextmanager
def writing(door: Door) -> Iterator[None]:
    """A few writes a second, so that the replicas have something to apply."""
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(door.open()) as session, session.cursor() as cursor:
            while not stop.wait(1 / _WRITES_PER_SECOND):
                cursor.execute("INSERT INTO app.ticks () VALUES ()")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=15)


# ---- a round


@dataclass(frozen=True, kw_only=True)
class Round:
    """What readers saw of one promotion."""

    kind: str
    reads: tuple[tuple[int, int], ...]
    killed_ns: int
    rerouted_ns: int
    warmth: Warmth | None
    recovery: Recovery

    def rate(self, begin_ns: int, end_ns: int) -> float:
        """Reads a second between two moments."""
        return sum(begin_ns <= ended < end_ns for ended, _ in self.reads) / ((end_ns - begin_ns) / 1e9)

    @property
    def before(self) -> float:
        """Reads a second before the kill."""
        return self.rate(self.killed_ns - int(_BEFORE_S * 1e9), self.killed_ns)

    @property
    def first(self) -> float:
        """Reads a second right after the promotion."""
        return self.rate(self.rerouted_ns, self.rerouted_ns + int(FIRST.total_seconds() * 1e9))

    @property
    def lost(self) -> float:
        """Percent of the throughput before the kill that was missing in the first seconds after the promotion."""
        return 100 * (1 - self.first / self.before)

    def seconds(self) -> list[tuple[int, float, float | None]]:
        """(second since the kill, reads, p95 in ms) from before the kill to the end."""
        bins: dict[int, list[float]] = {}
        for ended, took in self.reads:
            bins.setdefault((ended - self.killed_ns) // 10**9, []).append(took / 1e6)
        last = max(bins)
        return [
            (s, float(len(bins.get(s, ()))), rank(bins[s], 0.95) if s in bins else None)
            for s in range(-int(_BEFORE_S), last)  # the last second is not whole
        ]


@dataclass(frozen=True)
class Bench:
    """The lab and what is read in it."""

    shop: Workshop
    pool_mib: int
    wishes: Wishes

    def door(self) -> Door:
        """Of the endpoint."""
        book = self.shop.site.registry(LAB).read()
        return Door(port=book.endpoint_port, login=book.application.login())

    @contextmanager
    def side(self, instance: Instance) -> Iterator[Side]:
        """An instance as the gate sees it."""
        login = self.shop.site.registry(LAB).read().admin.login()
        with contextlib.ExitStack() as stack:
            pages, reads = (
                stack.enter_context(contextlib.closing(Connection(instance.address, login, tls=None))) for _ in range(2)
            )
            files = LocalPageFiles(self.shop.site.registry(LAB).home.parent)
            yield Side(
                instance=instance,
                pool=SqlPool(pages.ask, Flavour.MARIADB, instance, files),
                canaries=SqlCanaries(reads.ask, Flavour.MARIADB),
            )

    def give_room(self, instance: Instance) -> None:
        """The lab's servers boot with a small pool; it can be resized while they run."""
        login = self.shop.site.registry(LAB).read().admin.login()
        with contextlib.closing(connect(instance, login)) as session, session.cursor() as cursor:
            cursor.execute(f"SET GLOBAL innodb_buffer_pool_size = {self.pool_mib * 2**20}")
            deadline = time.monotonic() + 60
            while True:
                cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_total'")
                ((_, pages),) = cursor.fetchall()
                if int(pages) * 16 // 1024 >= self.pool_mib * 0.9:
                    return
                if time.monotonic() > deadline:
                    raise TryAgainError(f"the pool of {instance.id} was not resized within 60 s: {pages} pages")
                time.sleep(0.1)

    def run(self, kind: str, number: int, *, warm_s: float, seconds: float) -> Round:
        """Copy, warm or not, kill, read on."""
        shop = self.shop
        master, _ = shop.settle(SIZE)
        (replica,) = (m for m in shop.site.fleet.members(LAB) if m.id != master.id)
        for instance in (master, replica):
            self.give_room(instance)
        heir = shop.add_replica(replica, master, f"warmth-{number}")
        self.give_room(heir)
        clock = SystemClock()
        dice = random.Random(_SEED)
        gate = WarmthGate(canaries=tuple(self.wishes.read(dice) for _ in range(_CANARIES)))
        with contextlib.ExitStack() as stack:
            load = stack.enter_context(reading(self.door(), self.wishes))
            victim, inherits = (stack.enter_context(self.side(i)) for i in (master, heir))
            chosen = choose_canaries(gate, victim.canaries)
            warmth = None
            with writing(self.door()):
                time.sleep(warm_s)
                if kind == WITH:
                    around = Surroundings(clock=clock, check=lambda: None, tell=_tell)
                    warmth = warm_up(gate, victim, inherits, around, inherits.pool.pace())
                    print(f"     {warmth.words}", flush=True)
                time.sleep(_BEFORE_S)
            before: Baseline = baseline(chosen, victim.canaries, clock)
            script = stack.enter_context(ready(shop, master))
            elected, moments = script.kill_and_promote(Promise.SEMI_SYNC, heir.id.short)
            if elected.id != heir.id:
                raise TryAgainError(f"{elected.id} had received more than the heir {heir.id}")
            recovery = follow(
                inherits.canaries, chosen.canaries, before, clock, killed_ns=moments.kill, factor=gate.factor
            )
            time.sleep(max(0.0, seconds - (time.monotonic_ns() - moments.kill) / 1e9))
            reads = load.end()
        with shop.server(heir) as server:
            server.forget_source()
        shop.remove(master)
        return Round(
            kind=kind,
            reads=tuple(reads),
            killed_ns=moments.kill,
            rerouted_ns=moments.rerouted,
            warmth=warmth,
            recovery=recovery,
        )


def _tell(words: str) -> None:
    print(f"     {words}", flush=True)


# ---- the whole


ROWS = 128  # with 32 a disk that is fast fills the pool before anybody notices


def measure(
    *, pool_mib: int, data_mib: int, rows: int, seconds: float, rounds: int, warm_s: float, charts: Path | None = None
) -> Result:
    """`rounds` promotions of each kind on one lab, in turns."""
    with workshop(SIZE) as shop:
        master, _ = shop.settle(SIZE)
        print(f"filling {data_mib} MiB", flush=True)
        fill(shop, master, data_mib)
        book = shop.site.registry(LAB).read()
        with contextlib.closing(connect(master, book.application.login())) as session, session.cursor() as cursor:
            cursor.execute("CREATE TABLE app.ticks (id BIGINT AUTO_INCREMENT PRIMARY KEY)")
            cursor.execute("SELECT id FROM app.filler ORDER BY id DESC")
            ids = array("Q", (int(i) for (i,) in cursor.fetchall()))
        hot = min(len(ids), int(pool_mib * 2**20 * _HOT_SHARE / _ROW_BYTES))
        bench = Bench(shop, pool_mib, Wishes(ids=ids, hot=hot, rows=rows))
        found = []
        for number in range(rounds * 2):
            kind = (WITHOUT, WITH)[(number + number // 2) % 2]  # cold, warm, warm, cold
            found.append(bench.run(kind, number, warm_s=warm_s, seconds=seconds))
            one = found[-1]
            print(
                f"{number + 1:>3}  {kind:<14} {one.before:7.0f} reads/s before, {one.first:7.0f} in the first "
                f"{FIRST.seconds} s ({one.first / one.before:.0%}); {one.recovery.words}",
                flush=True,
            )
    remarks = [_table(found), *_curves(found)]
    if charts is not None:
        remarks.append(_draw(found, charts, f"{pool_mib} MiB pool, {data_mib} MiB data"))
    return Result(rows=_rows(found), details=tuple(remarks))


def _of(found: list[Round], kind: str) -> list[Round]:
    return [one for one in found if one.kind == kind]


def _rows(found: list[Round]) -> tuple[Row, ...]:
    lost = {kind: median(one.lost for one in _of(found, kind)) for kind in (WITH, WITHOUT)}
    name = f"throughput missing in the first {FIRST.seconds} s after the promotion"
    return (
        Row(name=f"{name}, {WITH}", value=max(0.0, lost[WITH]), unit="%", target=TARGET_LOST),
        Row(name=f"{name}, {WITHOUT}", value=max(0.0, lost[WITHOUT]), unit="%"),
    )


def _table(found: list[Round]) -> str:
    lines = []
    for one in found:
        at = {second: (reads, p95) for second, reads, p95 in one.seconds()}
        p95s = [p95 for second, (_, p95) in at.items() if second < 0 and p95 is not None]
        after = [p95 for second, (_, p95) in at.items() if 0 <= second < FIRST.seconds and p95 is not None]
        normal = one.recovery.time_to_normal
        lines.append(
            (
                one.kind,
                f"{one.before:.0f}",
                f"{one.first:.0f}",
                f"{100 - one.lost:.0f} %",
                f"{min(at[s][0] for s in range(1, FIRST.seconds)):.0f}",
                f"{median(p95s):.2f}",
                f"{max(after):.2f}",
                "-" if normal is None else f"{normal.total_seconds():.2f} s",
                "-" if one.warmth is None else f"{one.warmth.took.total_seconds():.1f} s",
            )
        )
    head = (
        "heir",
        "reads/s before",
        f"first {FIRST.seconds} s",
        "share",
        "worst second",
        "p95 ms before",
        "worst p95",
        "normal after",
        "gate took",
    )
    return layout(head, lines)


def _curves(found: list[Round]) -> list[str]:
    return [f"{one.kind:<14} canaries {recovery_line(one.recovery)}" for one in found]


_COLOURS = {WITH: "#1a6b3c", WITHOUT: "#b3261e"}


def _draw(found: list[Round], into: Path, title: str) -> str:
    """warmth.png and warmth.svg of all rounds, and the recovery of the last round of each kind as reaper draws it."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "no chart: pip install matplotlib"
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    into.mkdir(parents=True, exist_ok=True)
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(10, 6.5), constrained_layout=True)
    for kind, colour in _COLOURS.items():
        for number, one in enumerate(_of(found, kind)):
            points = one.seconds()
            label = kind if number == 0 else None
            x = [second for second, _, _ in points]
            upper.plot(x, [100 * reads / one.before for _, reads, _ in points], color=colour, label=label, lw=1.5)
            lower.plot(x, [p95 for _, _, p95 in points], color=colour, label=label, lw=1.5)
    upper.set_ylabel("reads, % of before the kill")
    upper.axhline(100 - TARGET_LOST, color="#57606a", ls="--", lw=0.8)
    upper.set_ylim(bottom=0)
    lower.set_ylabel("p95 latency, ms")
    lower.set_yscale("log")
    lower.set_xlabel("seconds since the kill")
    for axes in (upper, lower):
        axes.axvline(0, color="#57606a", lw=0.8)
        axes.grid(alpha=0.3)
        axes.legend()
    upper.set_title(f"Reads after a promotion: {title}")
    figure.savefig(into / "warmth.png", dpi=120)
    figure.savefig(into / "warmth.svg")
    plt.close(figure)
    for kind, name in ((WITH, "gate"), (WITHOUT, "cold")):
        (into / f"recovery-{name}.svg").write_text(recovery_svg(_of(found, kind)[-1].recovery))
    return f"drawn: {', '.join(sorted(p.name for p in into.iterdir() if p.suffix in ('.png', '.svg')))}"


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warmth", description=__doc__)
    parser.add_argument("--pool-mib", type=int, default=512, help="buffer pool of each server (512)")
    parser.add_argument("--data-mib", type=int, default=1536, help="size of the data set (1536)")
    parser.add_argument(
        "--rows", type=int, default=ROWS, help=f"that one read wants, each on a page of its own ({ROWS})"
    )
    parser.add_argument("--seconds", type=float, default=120, help="of reading after each promotion (120)")
    parser.add_argument("--warm-up", type=float, default=30, help="seconds of reading before a round (30)")
    parser.add_argument("--rounds", type=int, default=1, help="promotions of each kind (1)")
    parser.add_argument("--charts", type=Path, help="a directory for warmth.png, warmth.svg and reaper's own drawings")
    options = parser.parse_args()
    return show(
        measure(
            pool_mib=max(16, options.pool_mib),
            data_mib=max(32, options.data_mib),
            rows=max(1, options.rows),
            seconds=max(12.0, options.seconds),
            rounds=max(1, options.rounds),
            warm_s=max(1.0, options.warm_up),
            charts=options.charts,
        )
    )


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    raise SystemExit(guarded(_main))
