"""The write outage of a crash cutover: reaper against a minimal hand-written script, in alternation.

Every round kills the master of one lab with SIGKILL while one probe client writes through the
endpoint, and restores the lab's size in the same way. Outages are cut from the probe's ledger by the
same function. `python -m benchmarks.cutover --kills 20`; 8 seconds per kill, three kinds of kill.
"""

import argparse
import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from statistics import median

import pymysql

from benchmarks.by_hand import Promise, ready
from benchmarks.table import Exit, Result, Row, Spread, layout, show
from benchmarks.workshop import LAB, Workshop, guarded, workshop
from reaper.adapters.local.lab import LOOPBACK
from reaper.adapters.probe.client import ProbeConfig
from reaper.adapters.probe.control import ProcessProbe
from reaper.domain.errors import ExitCode, ReaperError, TryAgainError
from reaper.domain.facts import Instance
from reaper.domain.ledger import Ledger, outages, settle
from reaper.domain.plan import Replacement, StepName
from reaper.workflow.evidence import client_costs, parts_of, worst
from reaper.workflow.server import SCHEMA

SIZE = 3
WRITES_PER_SECOND = 150.0
TARGET_RATIO = 1.3
SEED = 20  # of the moment of each kill by hand, so that it does not keep step with the probe

_MS = timedelta(milliseconds=1)
_BEFORE_S, _AFTER_S = 2.0, 1.0  # of writes around a kill
_BACK_WITHIN = timedelta(seconds=30)
_TRIES = 3  # a refusal touches nothing; it is told and the run repeated


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What one kill cost."""

    outage_ms: float
    parts_ms: dict[str, float]
    lost: int
    refusals: tuple[str, ...] = ()  # of earlier tries, which touched nothing


# ---- reaper


def kill_by_reaper(shop: Workshop, replacement: Replacement, master: Instance) -> Kill:
    """One run of the command; its verdict, checked against the ledger that it kept."""
    before = replacement is Replacement.BEFORE
    whom = ["rotate", LAB] if before else ["kill", str(master.id), "--yes"]
    rate = f"{WRITES_PER_SECOND:g}"
    refusals: list[str] = []
    while (done := shop.reaper(*whom, "--probe-clients", "1", "--probe-rate", rate, "--output", "json")).code:
        refusals.append(f"reaper {' '.join(whom)}: {done.last_words}")
        if done.code != ExitCode.REFUSED or len(refusals) == _TRIES:
            raise TryAgainError("; ".join(refusals))
    run = str(json.loads(done.out)["run"])
    store = shop.site.runs
    verdict = store.run(run).verdict
    if verdict is None or verdict.outage is None or verdict.ledger is None:
        raise TryAgainError(f"run {run} has no outage in its verdict")
    ends = {e.step: e for e in store.timeline(run) if e.took_ns is not None}
    kill = ends[StepName.KILL].at_ns - (ends[StepName.KILL].took_ns or 0)
    newest = max((shop.home / "ledgers").glob("*.ledger"), key=lambda path: path.stat().st_mtime_ns)
    ledger = Ledger.decode(newest.read_text())
    (again,) = outages(ledger, kill, until_ns=ends[StepName.REROUTE].at_ns)
    if again.outage != verdict.outage:
        raise TryAgainError(f"run {run} says {verdict.outage}, its ledger {again.outage}")
    return Kill(
        outage_ms=verdict.outage / _MS,
        parts_ms={p.name: p.took / _MS for p in verdict.parts},
        lost=len(verdict.ledger.lost),
        refusals=tuple(refusals),
    )


# ---- the script


def kill_by_hand(
    shop: Workshop, replacement: Replacement, promise: Promise, number: int, dice: random.Random, master: Instance
) -> Kill:
    """The script under the same probe, between the same preparation and housekeeping as reaper's."""
    name, table = f"by-hand-{number}", f"probe_by_hand_{number}"
    source = next(m for m in shop.site.fleet.members(LAB) if m.id != master.id)
    favourite = None
    if replacement is Replacement.BEFORE:
        favourite = shop.add_replica(source, master, name).id.short
    with shop.server(master) as server:
        server.create_probe_table(table)
    with contextlib.closing(_probe(shop, name, table)) as probe:
        with ready(shop, master) as script:
            time.sleep(_BEFORE_S + dice.uniform(0, 1 / WRITES_PER_SECOND))
            heir, moments = script.kill_and_promote(promise, favourite)
            probe.wait_acknowledged(moments.rerouted, _BACK_WITHIN)
        time.sleep(_AFTER_S)
        ledger = probe.stop()
    with shop.server(heir) as server:
        server.forget_source()
        lost = len(settle(ledger, server.probe_rows(table)).lost)
        server.drop_probe_table(table)
        if promise is Promise.ALONE:  # the lab needs its semi-sync back
            server.promote(arm_semi_sync=True)
    shop.remove(master)
    siblings = [m for m in shop.site.fleet.members(LAB) if m.id != heir.id]
    if promise is Promise.ALONE:
        for sibling in siblings:
            shop.restart_receiver(sibling)
    if replacement is Replacement.AFTER:
        shop.add_replica(siblings[0], heir, name)
    outage = worst(client_costs(ledger, kill_ns=moments.kill, until_ns=moments.rerouted))
    if outage is None:
        raise TryAgainError("no write was acknowledged after a kill by hand")
    return Kill(
        outage_ms=outage / _MS,
        parts_ms={p.name: p.took / _MS for p in parts_of(ledger, moments)},
        lost=lost,
    )


def _probe(shop: Workshop, name: str, table: str) -> ProcessProbe:
    book = shop.site.registry(LAB).read()
    login = book.application.login()
    ledgers = shop.home / "ledgers"
    ledgers.mkdir(exist_ok=True)
    return ProcessProbe.start(
        ProbeConfig(
            host=LOOPBACK,
            port=book.endpoint_port,
            user=login.user,
            password=login.password,
            database=SCHEMA,
            table=table,
            clients=1,
            rate=WRITES_PER_SECOND,
            ledger=str(ledgers / f"{name}.ledger"),
        )
    )


# ---- the whole


REAPER, SCRIPT, WEAKER = "reaper", "script", "script, no semi-sync"


def measure(*, kills: int, replacement: Replacement = Replacement.BEFORE) -> Result:
    """`kills` kills of each kind, in alternation on one lab, every round in another order."""
    dice = random.Random(SEED)
    found: dict[str, list[Kill]] = {REAPER: [], SCRIPT: [], WEAKER: []}
    remarks: list[str] = []
    faults: list[str] = []
    number = 0
    with workshop(SIZE) as shop:
        master, _ = shop.settle(SIZE)
        try:
            for _ in range(kills):
                for kind in dice.sample(list(found), len(found)):
                    number += 1
                    how = _contender(kind, shop, replacement, number, dice)
                    found[kind].append(how(master))
                    master, repaired = shop.settle(SIZE)
                    remarks += [f"before kill {number}: {said}" for said in found[kind][-1].refusals]
                    _progress(number, kind, found[kind][-1])
                    if repaired is not None:
                        remarks.append(f"after kill {number} ({kind}) the lab had to be repaired: {repaired}")
        except (ReaperError, pymysql.MySQLError) as error:
            faults.append(f"kill {number}: {error}")
            remarks.append(f"the lab after the failure:\n{shop.reaper('status', LAB).out}")
    faults += [
        f"{kind}: {sum(k.lost for k in some)} acknowledged writes lost"
        for kind, some in found.items()
        if any(k.lost for k in some)
    ]
    if not all(found.values()):
        return Result(rows=(), details=tuple(remarks), faults=tuple(faults))
    outage = {kind: median(k.outage_ms for k in some) for kind, some in found.items()}
    rows = (
        Row(
            name="outage of a crash cutover against the script",
            value=outage[REAPER],
            unit="ms",
            reference=outage[SCRIPT],
            target=TARGET_RATIO,
        ),
        Row(
            name="the same against the script without semi-sync",
            value=outage[REAPER],
            unit="ms",
            reference=outage[WEAKER],
        ),
    )
    return Result(rows=rows, details=(_spreads(found), _parts(found), *remarks), faults=tuple(faults))


def _contender(
    kind: str, shop: Workshop, replacement: Replacement, number: int, dice: random.Random
) -> Callable[[Instance], Kill]:
    if kind == REAPER:
        return partial(kill_by_reaper, shop, replacement)
    promise = Promise.SEMI_SYNC if kind == SCRIPT else Promise.ALONE
    return partial(kill_by_hand, shop, replacement, promise, number, dice)


def _progress(number: int, kind: str, kill: Kill) -> None:
    parts = ", ".join(f"{name} {took:.1f}" for name, took in kill.parts_ms.items())
    print(f"{number:>3}  {kind:<20} {kill.outage_ms:7.1f} ms  ({parts})", flush=True)


def _spreads(found: dict[str, list[Kill]]) -> str:
    lines = []
    for kind, some in found.items():
        s = Spread.of([k.outage_ms for k in some])
        numbers = (f"{v:.1f}" for v in (s.least, s.median, s.p99, s.most))
        lines.append((kind, str(len(some)), *numbers, str(sum(k.lost for k in some))))
    return layout(("outage, ms", "kills", "min", "median", "p99", "max", "lost writes"), lines)


def _parts(found: dict[str, list[Kill]]) -> str:
    names = dict.fromkeys(name for some in found.values() for k in some for name in k.parts_ms)
    lines = [
        (name, *(f"{median(k.parts_ms.get(name, 0.0) for k in some):.2f}" for some in found.values())) for name in names
    ]
    return layout(("median of each part, ms", *found), lines)


def _main() -> Exit:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cutover", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each kind (20)")
    parser.add_argument(
        "--command",
        choices=("rotate", "kill"),
        default="rotate",
        help="rotate: the heir is prepared before the kill (default); kill: the replacement comes after it",
    )
    options = parser.parse_args()
    replacement = Replacement.BEFORE if options.command == "rotate" else Replacement.AFTER
    return show(measure(kills=max(1, options.kills), replacement=replacement))


if __name__ == "__main__":
    raise SystemExit(guarded(_main))
