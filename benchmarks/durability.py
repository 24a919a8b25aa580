"""What durability costs: time in the cutover, memory for runs that wait, time until a dead worker is replaced.

* Rotations of one lab under the probe, in alternation: recorded on SQLite as `reaper rotate` records them,
  and the same code with no store at all. Each in a process of its own.
* 1,000 rotations that wait for a person's yes, in one process. Their steps are recorded in earnest; the effects
  are those of one simulated rotation.
* 20 kills -9 of a worker inside a step, and when the other one has begun that step.

`python -m benchmarks.durability --only cutover waiting take-over`; 10 seconds per rotation. `--postgres`
repeats the kills with the store on a Postgres of its own.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from pathlib import Path
from statistics import median
from types import NoneType
from typing import TypeVar

from benchmarks.table import Exit, Result, Row, layout, show
from benchmarks.workshop import LAB, Done, Silent, Workshop, guarded, workshop
from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.store.admission import Limits, Ticket
from reaper.adapters.store.codec import decode, encode
from reaper.adapters.store.database import Database, Place
from reaper.adapters.store.engine import POLL, Engine
from reaper.adapters.store.journal import RunStore
from reaper.adapters.store.work import Work
from reaper.cli import runs
from reaper.cli.compose import Site
from reaper.cli.journal import Fan, announcer
from reaper.domain.errors import TryAgainError
from reaper.domain.plan import Plan, Replacement
from reaper.domain.policy import Policy
from reaper.domain.verdict import RunVerdict
from reaper.planner.shape import MasterWithReplicas, classify
from reaper.planner.steps import Request, make_plan
from reaper.testing.fleet import MemoryFleet
from reaper.testing.world import world as simulated
from reaper.workflow.observe import observe
from reaper.workflow.rotation import Rotation
from reaper.workflow.steps import Json, Message, Steps, Unrecorded
from reaper.workflow.world import World

T = TypeVar("T")

SIZE = 3
CUTOVER_TARGET_RATIO = 1.1
MEMORY_TARGET_MB = 300.0
TAKE_OVER_TARGET_S = 5.0
SEED = 20  # of the order of the rotations, and of the moment of each kill

SQLITE, NONE = "store on SQLite", "no store"
CUTOVER, WAITING, TAKE_OVER = "cutover", "waiting", "take-over"

_MS = timedelta(milliseconds=1)
_PROBE = {"probe_clients": 1, "probe_rate": 150.0}
_WAITS = timedelta(hours=1)  # for a yes that never comes
_PATIENCE_S = 300.0  # for everything that only takes so long by a fault
_INTERRUPT_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.01
_HERE = Path(__file__).resolve().parents[1]


# ---- processes: `python -m benchmarks.durability --child ROLE ARGUMENT...`


def _start(role: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.durability", "--child", role, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_HERE,
        start_new_session=True,
    )


def _to_its_end(role: str, *arguments: str) -> Done:
    """An interrupt is passed on, and the end waited for."""
    child = _start(role, *arguments)
    try:
        out, err = child.communicate()
    except BaseException:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=_INTERRUPT_WITHIN_S)
        child.kill()
        child.communicate()
        raise
    return Done(code=child.returncode, out=out, err=err)


def _say(what: str) -> None:
    print(what, flush=True)


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise TryAgainError(f"waited {_PATIENCE_S:g} s for {what}")
        time.sleep(_LOOK_EVERY_S)


# ---- 1. the outage, with and without a store


def measure_cutover(rotations: int) -> Result:
    """`rotations` of each kind, in alternation on one lab, every round in another order."""
    dice = random.Random(SEED)
    found: dict[str, list[float]] = {SQLITE: [], NONE: []}
    with workshop(SIZE) as shop:
        shop.settle(SIZE)
        for number in range(rotations):
            for kind in dice.sample(list(found), len(found)):
                found[kind].append(_rotate(shop, kind, number))
                shop.settle(SIZE)
                print(f"{number + 1:>3}  {kind:<16} {found[kind][-1]:7.1f} ms", file=sys.stderr, flush=True)
    row = Row(
        name="outage of a recorded rotation against one without a store",
        value=median(found[SQLITE]),
        unit="ms",
        reference=median(found[NONE]),
        target=CUTOVER_TARGET_RATIO,
    )
    return Result(rows=(row,), details=(_spreads("outage, ms", found, "{:.1f}"),))


def _rotate(shop: Workshop, kind: str, number: int) -> float:
    done = _to_its_end("rotate", str(shop.home), kind, f"bench-{'bare' if kind == NONE else 'kept'}-{number}")
    if done.code != 0:
        raise TryAgainError(f"rotation {number} ({kind}): {done.last_words}")
    return float(done.out.splitlines()[-1])


def _child_rotate(home: str, kind: str, name: str) -> None:
    """One rotation of the lab; the last line is the outage in milliseconds."""
    site = Site(Path(home))
    plan = _plan_of(site.world(Silent(), SignalInterrupt()), LAB, name, Policy(**_PROBE))  # type: ignore[arg-type]  # two names with their values
    if kind == SQLITE:
        runs.run(site, plan, runs.Output.JSON)
        verdict = site.runs.run(name).verdict
    else:
        with SignalInterrupt().installed() as interrupt:
            bare = replace(site.world(Fan(Silent(), announcer()), interrupt), paused=lambda: None)
            verdict = Rotation(bare, plan, Unrecorded()).execute()
    if verdict is None or not verdict.good or verdict.outage is None:
        raise TryAgainError(f"the run is not good: {'; '.join(verdict.faults) if verdict else 'it has no verdict'}")
    _say(str(verdict.outage / _MS))


def _plan_of(world: World, cluster: str, run: str, policy: Policy) -> Plan:
    view = observe(world, cluster)
    shape = classify(view)
    if not isinstance(shape, MasterWithReplicas):
        raise TryAgainError(f"{cluster} cannot be rotated: {shape}")
    return make_plan(
        view,
        Request(
            run=run,
            victim=shape.master.instance.id,
            policy=policy,
            replacement=Replacement.BEFORE,
            why="what does its record cost?",
        ),
    )


# ---- 2. the memory of runs that wait


def measure_waiting(number: int) -> Result:
    """`number` rotations that have built their heir and wait for a yes."""
    with _directory() as home:
        done = _to_its_end("wait", str(home), str(number))
    if done.code != 0:
        raise TryAgainError(f"{number} waiting rotations: {done.last_words}")
    before, after = (float(line) for line in done.out.split())
    row = Row(name=f"memory of {number} rotations that wait for a yes", value=after, unit="MB", target=MEMORY_TARGET_MB)
    alone = (
        f"The process alone has {before:.0f} MB, each waiting rotation {(after - before) / number * 1000:.0f} kB more."
    )
    return Result(rows=(row,), details=(alone,))


class _Enough(BaseException):
    """The rotation waits for a yes."""


class _Rehearsed(Unrecorded):
    """Keeps what each step returned, up to the question."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}

    def run(self, name: str, of: type[T], effect: Callable[[], T]) -> T:
        self.results[name] = encode(of, effect())
        return decode(of, self.results[name])

    def receive(self, within: timedelta) -> Message | None:  # noqa: ARG002 - nobody answers
        raise _Enough


class _Repeated:
    """Steps that are recorded in earnest, while their effects are those of the rehearsal."""

    def __init__(self, steps: Steps, results: dict[str, str]) -> None:
        self._results = results
        self.own, self.waits_for, self.receive = steps.own, steps.waits_for, steps.receive
        self._run = steps.run

    def run(self, name: str, of: type[T], effect: Callable[[], T]) -> T:
        known = self._results.get(name)
        return self._run(name, of, effect if known is None else lambda: decode(of, known))


def _rehearse() -> tuple[World, Plan, dict[str, str]]:
    """One rotation of a simulated cluster, up to the question. A simulation of a thousand would measure its clocks."""
    fleet = MemoryFleet()
    fleet.add_cluster(LAB, SIZE)
    world, rehearsed = simulated(fleet), _Rehearsed()
    plan = _plan_of(world, LAB, "rehearsal", Policy(approval_within=_WAITS))
    with contextlib.suppress(_Enough):
        Rotation(world, plan, rehearsed).execute()
    del rehearsed.results["begin"]  # whose effect is a row in the store
    return world, plan, rehearsed.results


def _child_wait(home: str, number: str) -> None:
    """Begin them as a worker does; the lines are the resident megabytes before, and when the last one waits."""
    place, wanted = Place(Path(home)), int(number)
    world, plan, results = _rehearse()
    world = replace(world, journal=RunStore(place))

    def body(steps: Steps, run: str, argument: Json) -> Json:
        own_plan = replace(decode(Plan, str(argument)), run=run)
        return encode(RunVerdict, Rotation(world, own_plan, _Repeated(steps, results)).execute())

    def waiting() -> int:
        with place.database.read() as tx:
            return len(tx.rows("select run from reaper_waits"))

    stop = threading.Event()
    with Engine(place.database, body, version="bench", name="bench") as engine:
        _say(str(_resident_mb()))
        work = Work(place.database)
        for n in range(wanted):
            run = f"waits-{n}"
            work.submit(Ticket(run=run, cluster=run, group=None, argument=encode(Plan, plan)))
        worker = threading.Thread(target=engine.work, args=(Limits, stop, timedelta(0)))
        worker.start()
        try:
            _until(lambda: waiting() == wanted, "every rotation to wait")
            _say(str(_resident_mb()))
        finally:
            stop.set()
            worker.join()


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


# ---- 3. the time until another worker has taken over


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An effect was begun."""

    pid: int
    at_ns: int  # CLOCK_MONOTONIC, the same for all processes


def measure_take_over(kills: int, *, postgres: bool) -> Result:
    """`kills` of each kind of store; two workers, of which the one that is inside a step dies."""
    found = {}
    with _directory() as home:
        found["SQLite"] = _take_overs(str(home), kills)
    if postgres:
        with _postgres() as address:
            found["Postgres"] = _take_overs(address, kills)
    rows = tuple(
        Row(
            name=f"from a worker's death to its successor's first effect, {store}, the longest",
            value=max(took),
            unit="s",
            target=TAKE_OVER_TARGET_S,
        )
        for store, took in found.items()
    )
    return Result(rows=rows, details=(_spreads("take-over, s", found, "{:.2f}"),))


def _take_overs(where: str, kills: int) -> list[float]:
    dice, took = random.Random(SEED), []
    database = _database(where)
    work = Work(database)
    with _directory() as books, ExitStack() as stack:
        stack.callback(database.close)
        workers = [_worker(where, stack), _worker(where, stack)]
        for number in range(kills):
            book = books / f"book-{number}"
            run = f"take-over-{number}"
            work.submit(Ticket(run=run, cluster=run, group=None, argument=str(book)))
            _until(lambda b=book: bool(_begun(b)), "the step to begin")  # type: ignore[misc]
            time.sleep(dice.uniform(0, POLL.total_seconds()))  # so that it does not keep step with the workers
            victim = next(w for w in workers if w.pid == _begun(book)[0].pid)
            died_ns = time.monotonic_ns()
            victim.kill()
            victim.wait()
            _until(lambda b=book: len(_begun(b)) > 1, "the take-over")  # type: ignore[misc]
            took.append((_begun(book)[1].at_ns - died_ns) / 1e9)
            book.with_suffix(".over").touch()
            _until(lambda r=run: work.ended(r) is not None, f"{run} to end")  # type: ignore[misc]
            workers = [w for w in workers if w is not victim] + [_worker(where, stack)]
    return took


def _worker(where: str, stack: ExitStack) -> "subprocess.Popen[str]":
    child = _start("work", where)
    stack.callback(_end, child)
    if child.stdout is None or not child.stdout.readline():
        raise TryAgainError(f"a worker did not start: {child.communicate()[1]}")
    return child


def _end(child: "subprocess.Popen[str]") -> None:
    child.kill()
    child.communicate()


def _begun(book: Path) -> list[Begun]:
    if not book.exists():
        return []
    return [Begun(pid=int(p), at_ns=int(ns)) for p, ns in (line.split() for line in book.read_text().splitlines())]


def _child_work(where: str) -> None:
    """A worker whose runs are one step each, which lasts until the benchmark says that it is over."""

    def body(steps: Steps, _run: str, argument: Json) -> Json:
        book = Path(str(argument))

        def effect() -> None:
            with book.open("a") as file:
                file.write(f"{os.getpid()} {time.monotonic_ns()}\n")
            _until(book.with_suffix(".over").exists, "the end of the step")

        steps.run("step", NoneType, effect)
        return None

    with Engine(_database(where), body, version="bench", name="bench") as engine:
        _say(engine.executor)
        engine.work(Limits, threading.Event())


def _database(where: str) -> Database:
    return Database(where if "://" in where else Path(where))


@contextmanager
def _directory() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="reaper-bench-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _postgres() -> Iterator[str]:
    """A server of its own, started as the tests start theirs."""
    sys.path.append(str(_HERE / "tests" / "servers"))
    from postgres import postgres  # type: ignore[import-not-found]  # found by the line above

    with postgres() as address:
        yield address


# ---- the whole


def _spreads(title: str, found: dict[str, list[float]], form: str) -> str:
    lines = []
    for kind, values in found.items():
        ranked = sorted(values)
        p90 = ranked[ceil(0.9 * len(ranked)) - 1]
        numbers = (form.format(v) for v in (ranked[0], median(ranked), p90, ranked[-1]))
        lines.append((kind, str(len(ranked)), *numbers))
    return layout((title, "number", "min", "median", "p90", "max"), lines)


def measure(
    *,
    rotations: int,
    waiting: int = 1000,
    kills: int = 20,
    postgres: bool = False,
    only: Sequence[str] = (CUTOVER, WAITING, TAKE_OVER),
) -> Result:
    """Those of the parts that are named in `only`; `postgres`: kills also with the store there."""
    parts: dict[str, Callable[[], Result]] = {
        CUTOVER: lambda: measure_cutover(rotations),
        WAITING: lambda: measure_waiting(waiting),
        TAKE_OVER: lambda: measure_take_over(kills, postgres=postgres),
    }
    results = [part() for name, part in parts.items() if name in only]
    return Result(
        rows=tuple(row for r in results for row in r.rows),
        details=tuple(detail for r in results for detail in r.details),
    )


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability", description=__doc__)
    every = [CUTOVER, WAITING, TAKE_OVER]
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="these parts (all)")
    parser.add_argument("--rotations", type=int, default=8, help="cutover: of each kind (8)")
    parser.add_argument("--waiting", type=int, default=1000, help="waiting: rotations (1000)")
    parser.add_argument("--kills", type=int, default=20, help="take-over: of each store (20)")
    parser.add_argument("--postgres", action="store_true", help="take-over: also with the store on Postgres")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        role, *arguments = options.child
        roles: dict[str, Callable[..., None]] = {"rotate": _child_rotate, "wait": _child_wait, "work": _child_work}
        roles[role](*arguments)
        return Exit.DONE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return show(
        measure(
            rotations=max(1, options.rotations),
            waiting=max(1, options.waiting),
            kills=max(1, options.kills),
            postgres=options.postgres,
            only=options.only,
        )
    )


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
