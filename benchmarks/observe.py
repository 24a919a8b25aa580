"""What it takes to look at 100 real clusters at once: the slowest should set the time, not the sum.

The clusters are the books of 100 labs whose members are the servers of a few real ones, reached through proxies that
delay every answer: a little, as if they were in another city; much, for the one that sets the time. In a second round
a further cluster has a member that takes connections and never says a word: what it holds up is measured.
`python -m benchmarks.observe --clusters 100 --labs 4`.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.table import Exit, Result, Row, Spread, show
from benchmarks.workshop import LAB, Silent, guarded, workshop
from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.local.registry import Registry
from reaper.cli.compose import Site
from reaper.domain.errors import TryAgainError
from reaper.domain.facts import Unreachable
from reaper.workflow.forecast import Survey, survey
from reaper.workflow.observe import LOOK_WITHIN, REREAD_WITHIN, observe
from reaper.workflow.world import World

LABS = 4
MOST_RATIO = 1.5  # of all together to the slowest alone
SLOW, HUNG = "slow", "hung"
_FAR_S = 0.01  # of every answer, of which a look takes some twenty
_SLOW_S = 0.4
_SILENT = -1.0
_MOST_S = (LOOK_WITHIN + REREAD_WITHIN).total_seconds()
_CHUNK = 65536
_LOOK_EVERY_S = 0.005


# ---- slow and silent doors, in a process of their own


async def _proxy(doors: Sequence[tuple[int, float]]) -> None:
    """A port for each (server's port, delay of its answers); they are printed, then served for ever."""
    servers = [await asyncio.start_server(_door(port, delay), "127.0.0.1", 0) for port, delay in doors]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


def _door(port: int, delay: float):  # type: ignore[no-untyped-def]  # a coroutine function of asyncio's own form
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if delay == _SILENT:
            await reader.read()  # until the client gives up
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pass_on(reader, far_writer, 0), _pass_on(far_reader, writer, delay))

    return serve


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await asyncio.sleep(delay)
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def proxies(doors: Sequence[tuple[int, float]]) -> Iterator[list[int]]:
    """Their ports, in order."""
    command = [sys.executable, "-m", "benchmarks.observe", "--proxy", json.dumps(doors)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None, "it was asked for"
            line = process.stdout.readline()
            if not line:
                raise TryAgainError("the proxy ended before it listened")
            yield json.loads(line)
        finally:
            process.kill()


# ---- a hundred books over a few labs


def _book(home: Path, name: str, of: Registry, ports: Sequence[int] = ()) -> None:
    """A lab whose servers are another one's, reached by these ports."""
    record = of.read()
    for instance, port in zip(record.instances, ports, strict=False):
        instance.port = port
    record.name = name
    registry = Registry(home / "labs", name)
    registry.create(record)
    for part in ("instances", "endpoint"):
        (registry.home / part).symlink_to(of.home / part)


@contextmanager
def fleet(clusters: int, labs: int) -> Iterator[Site]:
    """So many clusters, `slow` and `hung` among them."""
    home = Path(tempfile.mkdtemp(prefix="reaper-bench-observe-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        real = [stack.enter_context(workshop(3)).site.registry(LAB) for _ in range(labs)]
        ports = [[instance.port for instance in registry.read().instances] for registry in real]
        doors = [(port, _FAR_S) for of_lab in ports for port in of_lab]
        special = [*((port, _SLOW_S) for port in ports[0]), (ports[0][-1], _SILENT)]
        through = stack.enter_context(proxies([*doors, *special]))
        for number in range(clusters - 1):
            lab, size = number % labs, len(ports[0])
            _book(home, f"cluster-{number:03}", real[lab], through[lab * size : (lab + 1) * size])
        *slow, silent = through[len(doors) :]
        _book(home, SLOW, real[0], slow)
        _book(home, HUNG, real[0], [*ports[0][:-1], silent])
        yield Site(home)


# ---- what is measured


@dataclass(frozen=True, kw_only=True)
class Together:
    """One survey of many clusters."""

    took: float  # seconds
    each: dict[str, float]  # seconds from the beginning until a cluster was seen
    threads: int  # at the most
    seen: Survey


def together(world: World, names: Sequence[str]) -> Together:
    """Look at all of them at once."""
    done, most = threading.Event(), [0]

    def count() -> None:
        while not done.wait(_LOOK_EVERY_S):
            most[0] = max(most[0], threading.active_count())

    counter = threading.Thread(target=count, daemon=True)
    counter.start()
    wall, began = datetime.now(UTC), time.monotonic()
    seen = survey(world, names)
    took = time.monotonic() - began
    done.set()
    counter.join()
    each = {view.name: (view.taken_at - wall).total_seconds() for view in seen.views}
    return Together(took=took, each=each, threads=most[0], seen=seen)


def alone(world: World, names: Sequence[str]) -> dict[str, float]:
    """Seconds for each of them, one after the other."""
    took = {}
    for name in names:
        began = time.monotonic()
        observe(world, name)
        took[name] = time.monotonic() - began
    return took


def _unreachable(seen: Survey) -> list[str]:
    """Members without facts, and why."""
    members = [member for view in seen.views for member in view.members]
    return [f"{m.instance.id}: {m.server.why}" for m in members if isinstance(m.server, Unreachable)]


def _faults(what: str, seen: Survey, names: Sequence[str], unreachable: int) -> Iterator[str]:
    for lost in seen.unobserved:
        yield f"{what}: {lost.cluster} was not observed: {lost.why}"
    if {view.name for view in seen.views} != set(names):
        yield f"{what}: {len(seen.views)} of {len(names)} clusters were seen"
    found = _unreachable(seen)
    if len(found) != unreachable:
        yield f"{what}: {len(found)} members were unreachable and {unreachable} are: {'; '.join(found)[:500]}"


def measure(*, clusters: int, labs: int) -> Result:
    """`clusters` over the servers of `labs` real labs."""
    with fleet(clusters, labs) as site:
        world = site.world(Silent(), SignalInterrupt())
        names = [name for name in site.fleet.clusters() if name != HUNG]
        observe(world, names[0])  # what is imported and compiled once is nobody's time
        each = alone(world, names)
        slowest, total = max(each.values()), sum(each.values())
        quick = Spread.of([took for name, took in each.items() if name != SLOW])
        all_at_once = together(world, names)
        with_hung = together(world, [*names, HUNG])
    others = max(took for name, took in with_hung.each.items() if name != HUNG)
    what = f"look at {clusters} clusters"
    return Result(
        rows=(
            Row(name=f"{what} together", value=all_at_once.took, unit="s", reference=slowest, target=MOST_RATIO),
            Row(name=f"{what} together, against the sum", value=all_at_once.took, unit="s", reference=total),
            Row(name="the same beside one that hangs", value=others, unit="s", reference=slowest, target=MOST_RATIO),
            Row(name="the one that hangs", value=with_hung.took, unit="s", target=_MOST_S),
        ),
        details=(
            f"alone, one after the other: {total:.2f} s in all; the slow one {slowest:.2f} s, the others"
            f" {quick.median * 1000:.0f} ms at the median, {quick.most * 1000:.0f} ms at the most",
            f"together: without the slow one seen after {max(v for k, v in all_at_once.each.items() if k != SLOW):.2f}"
            f" s; {all_at_once.threads} threads at the most",
            f"what hangs: {'; '.join(_unreachable(with_hung.seen))[:500] or 'nothing'}",
        ),
        faults=(
            *_faults("together", all_at_once.seen, names, 0),
            *_faults("beside one that hangs", with_hung.seen, [*names, HUNG], 1),
        ),
    )


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observe", description=__doc__)
    parser.add_argument("--clusters", type=int, default=100, help="that are looked at (100)")
    parser.add_argument("--labs", type=int, default=LABS, help="real labs of three servers that they are made of (4)")
    parser.add_argument("--proxy", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.proxy is not None:
        asyncio.run(_proxy([(int(port), float(delay)) for port, delay in json.loads(options.proxy)]))
        return Exit.DONE
    return show(measure(clusters=max(2, options.clusters), labs=max(1, options.labs)))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
