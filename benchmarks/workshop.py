"""A temporary data directory with a lab in it; processes and files are gone at the end, however it ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import pymysql

from benchmarks.table import Exit
from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.local import lab, process
from reaper.cli.compose import Site
from reaper.domain.errors import ReaperError, TryAgainError, UsageError
from reaper.domain.facts import Berth, Instance, ThreadState
from reaper.domain.plan import Plan
from reaper.domain.snapshots import Keeping
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict
from reaper.planner.shape import MasterWithReplicas, classify
from reaper.workflow.observe import observe
from reaper.workflow.server import Server

LAB = "bench"
COMMAND = Path(sys.executable).with_name("reaper")

_INTERRUPT_WITHIN_S = 60.0  # for a rotation that has to finish its failover
_SETTLE_WITHIN_S = 20.0
_LOOK_EVERY_S = 0.05
_CATCH_UP_WITHIN = timedelta(seconds=60)
_LAB_TRIES = 3  # another lab on this machine may take a port between the choice and the use


class Silent:
    """A journal that keeps nothing: observing is no run."""

    def begin(self, plan: Plan) -> None:
        """Part of `workflow.ports.Journal`."""

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """Part of `workflow.ports.Journal`."""

    def event(self, run: str, event: Event) -> None:
        """Part of `workflow.ports.Journal`."""

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        """Part of `workflow.ports.Journal`."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a `reaper` process ended."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The end of what it said, for a message."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return f"exit code {self.code}: {lines[-1] if lines else 'no message'}"


@dataclass(frozen=True)
class Workshop:
    """A lab of real servers below a data directory of its own."""

    home: Path

    @property
    def site(self) -> Site:
        """The composition root on this directory."""
        return Site(self.home)

    @property
    def environment(self) -> dict[str, str]:
        """For `reaper` processes. Byte code is cached as in any installation, but not in the source tree."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return kept | {"REAPER_HOME": str(self.home), "PYTHONPYCACHEPREFIX": str(self.home / "pycache")}

    def reaper(self, *arguments: str) -> Done:
        """Run the command to its end; an interrupt is passed on and the end waited for."""
        command = subprocess.Popen(
            [COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd="/",
            start_new_session=True,
        )
        try:
            out, err = command.communicate()
        except BaseException:
            command.send_signal(signal.SIGINT)
            try:
                command.communicate(timeout=_INTERRUPT_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(command.pid, signal.SIGKILL)
                command.communicate()
            raise
        process.reap()  # servers that this process started and the command killed
        return Done(code=command.returncode, out=out, err=err)

    def settle(self, size: int) -> tuple[Instance, str | None]:
        """Wait until the lab has `size` members, all replicating with semi-sync.

        Returns the master, and None or what was not in order by itself and had to be repaired: replicas
        that follow a master without acknowledging are restarted. UsageError: the lab is beyond that.
        """
        deadline, repaired = time.monotonic() + _SETTLE_WITHIN_S, None
        while True:
            shape = classify(observe(self.site.world(Silent(), SignalInterrupt()), LAB))
            if isinstance(shape, MasterWithReplicas) and shape.master.facts:
                state = shape.master.facts.semi_sync
                running = all(
                    c.receiver is c.applier is ThreadState.RUNNING
                    for r in shape.replicas
                    for c in (r.facts.channels if r.facts else ())
                )
                if running and len(shape.replicas) == size - 1 == state.source_clients and state.source_active:
                    return shape.master.instance, repaired
                why = f"{len(shape.replicas)} replicas, {state.source_clients} of them acknowledge"
            else:
                why = f"the shape is {shape}"
            if time.monotonic() > deadline:
                if repaired is not None or not isinstance(shape, MasterWithReplicas):
                    raise UsageError(f"the lab is not in order {_SETTLE_WITHIN_S:g} s after a round: {why}")
                repaired, deadline = why, time.monotonic() + _SETTLE_WITHIN_S
                for replica in shape.replicas:
                    self.restart_receiver(replica.instance)
            time.sleep(_LOOK_EVERY_S)

    def restart_receiver(self, replica: Instance) -> None:
        """A replica asks for semi-sync only when it connects."""
        with self.server(replica) as server:
            server.halt()
            server.resume_replication()

    @contextmanager
    def server(self, instance: Instance) -> Iterator[Server]:
        """A connection with reaper's own account."""
        with contextlib.closing(self.site.connect(LAB, instance)) as server:
            yield server

    def add_replica(self, source: Instance, master: Instance, name: str) -> Instance:
        """What `rotate` does to prepare an heir, through the same provider and dialect."""
        fleet = self.site.fleet
        with self.server(source) as server:
            history = server.executed()
        snapshot = fleet.snapshot(source, f"{name}-snap", _never)
        replica = fleet.launch(LAB, snapshot, f"{name}-heir", Keeping.MOVE, Berth(), _never)
        with self.server(master) as server:
            target = server.executed()
        with self.server(replica) as server:
            server.join(master.address, position=snapshot.position, history=history)
            if not server.wait_applied(target, _CATCH_UP_WITHIN):
                raise TryAgainError(f"{replica.id} did not catch up within {_CATCH_UP_WITHIN}")
        fleet.forget(LAB, snapshot.name)
        return replica

    def remove(self, dead: Instance) -> None:
        """What `rotate` does to its victim."""
        self.site.fleet.quarantine(dead, datetime.now(UTC))
        self.site.fleet.retire(dead)


@contextmanager
def workshop(nodes: int = 3) -> Iterator[Workshop]:
    """A lab in a new directory. A SIGTERM is an interrupt, and none of them stops the cleaning up."""
    before = {n: signal.signal(n, _interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    shop = Workshop(Path(tempfile.mkdtemp(prefix="reaper-bench-")))
    try:
        _lab_up(shop, nodes)
        yield shop
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(ReaperError):
            lab.down(shop.site.registry(LAB))
        process.reap()
        shutil.rmtree(shop.home, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _lab_up(shop: Workshop, nodes: int) -> None:
    for last in (n == _LAB_TRIES for n in range(1, _LAB_TRIES + 1)):
        try:
            shop.site.lab_up(LAB, None, nodes, _never)
        except ReaperError:
            if last:
                raise
        else:
            return


def _never() -> None:
    return


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def guarded(main: Callable[[], Exit]) -> int:
    """Run a benchmark's main; an interrupt ends it without a traceback, a failure of reaper's with a sentence."""
    try:
        return int(main())
    except KeyboardInterrupt:
        print("\ninterrupted; the lab is gone", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except (ReaperError, pymysql.MySQLError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return int(Exit.FAILED)
