"""One run, what befalls it, and how it ends: everything from one seed, so that a seed is the same run again.

`python simulation.py --seeds 1000 [--first 0]` prints each seed that breaks an invariant and how to see it again;
`python simulation.py --seed 4711` shows one run: what befell it, what it did, how it ended.
"""

import argparse
import contextlib
import os
import random
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

import rotations
from invariants import Ending, Witness, broken
from misfortunes import BUILD_WITHIN, Misfortune, PowerCut, draw, draw_power_cuts
from rotations import MS, SECOND, Stage

from reaper.domain.errors import ReaperError
from reaper.domain.plan import Plan, Replacement
from reaper.domain.policy import KillMode
from reaper.domain.snapshots import SnapshotMethod
from reaper.domain.verdict import RunState, RunVerdict
from reaper.testing.fleet import MemoryFleet
from reaper.testing.turns import TurnClock
from reaper.workflow import cutover, examine, observe
from reaper.workflow.resume import Resumption

_AT_ONCE = 50  # seeds that a process is given


class PowerCutError(BaseException):
    """The process is gone."""


@dataclass
class Power:
    """Is asked on both sides of every call: cut after so many, and every answer takes its time."""

    clock: TurnClock
    dice: random.Random | None  # None: everybody answers at once
    left: int | None = None  # None: it is not cut

    def __call__(self) -> None:
        if self.dice is not None and (ms := self.dice.choice([0, 0, 0, 0, 1, 7])):
            self.clock.sleep(ms * MS)
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise PowerCutError


@dataclass
class Simulation:
    """One seed's run."""

    seed: int
    clock: TurnClock
    stage: Stage
    plan: Plan
    misfortunes: list[Misfortune]
    cuts: list[PowerCut]
    pace: random.Random | None
    resumes: bool  # a person resumes it if it is stuck
    promoted_unasked: bool = False
    found: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Let it happen; the invariants that it broke, in words."""
        witness = Witness(self.stage, self.plan)
        for misfortune in self.misfortunes:
            misfortune.befall(self.stage)
        self.stage.fleet.faults.before("promote", "*", self._look_at_promotion, times=1000)
        try:
            verdict, said = self._processes()
            if self.resumes and self.state is RunState.STUCK:
                verdict, said = self._by_a_person()
        except Exception as error:  # noqa: BLE001 - what no process catches is looked for
            at = traceback.extract_tb(error.__traceback__)[-1]
            return [f"I12: {type(error).__name__}: {error} at {at.filename.rpartition('/')[2]}:{at.lineno}"]
        finally:
            self.stage.fleet.faults.power = None
        ending = Ending(witness=witness, verdict=verdict, said=said, promoted_unasked=self.promoted_unasked)
        return broken(ending)

    @property
    def state(self) -> RunState | None:
        """What is recorded; None: it was not born."""
        record = self.stage.fleet.journal.runs.get(self.plan.run)
        return record.state if record else None

    def _processes(self) -> tuple[RunVerdict | None, str]:
        """One process after the other, until one of them lives to the run's end."""
        for cut in [*self.cuts, None]:
            self.stage.fleet.faults.power = Power(self.clock, self.pace, cut.points if cut else None)
            self.stage.fleet.interrupt.is_crossed = False
            try:
                return self.stage.follow(self.plan), ""
            except ReaperError as error:
                return None, f"{type(error).__name__}: {error}"
            except PowerCutError:
                self.stage.fleet.faults.power = None
                self.clock.sleep(cut.dark if cut else SECOND)
        raise AssertionError("the last process was cut too")

    def _by_a_person(self) -> tuple[RunVerdict | None, str]:
        """`reaper resume`, a while after it got stuck."""
        self.stage.fleet.faults.power = Power(self.clock, self.pace)
        self.clock.sleep(SECOND)
        self.stage.fleet.interrupt.wished = self.stage.fleet.interrupt.is_crossed = False
        try:
            return Resumption(self.stage.world, self.plan).execute(), ""
        except ReaperError as error:
            return None, f"{type(error).__name__}: {error}"

    def _look_at_promotion(self) -> None:
        """Nobody is promoted before the kill, or before all was ready for it. A person may order it, of a stuck run."""
        diary = self.stage.diaries[self.plan.run]
        crossed = any(method == "cross" for method, _ in self.stage.fleet.faults.calls)
        ready = any(e.name == "get ready" and e.error is None for e in diary.entries)
        if not (crossed or ready or self.state is RunState.STUCK):
            self.promoted_unasked = True


def _set_up(seed: int, clock: TurnClock) -> Simulation:
    """Draw a run and what befalls it."""
    dice = random.Random(seed)
    with patch.object(rotations, "MemoryFleet", partial(MemoryFleet, clock)):
        stage = Stage(nodes=dice.choice([3, 3, 4]))
    replacement = dice.choice([Replacement.BEFORE, Replacement.AFTER])
    victim = "n1" if replacement is Replacement.BEFORE else dice.choice(["n1", "n1", "n2"])
    stage.fleet.snapshot_method = dice.choice([SnapshotMethod.HOT] * 4 + [SnapshotMethod.COLD])
    mode = dice.choice(list(KillMode))
    plan = stage.plan(
        victim, replacement, mode=mode, outage_budget=600 * SECOND, build_within=BUILD_WITHIN, probe_rate=45.0
    )
    return Simulation(
        seed=seed,
        clock=clock,
        stage=stage,
        plan=plan,
        misfortunes=draw(dice, plan.size),
        cuts=draw_power_cuts(dice),
        pace=random.Random(dice.random()) if dice.random() < 0.25 else None,
        resumes=dice.random() < 0.5,
    )


@contextmanager
def _taking_turns(clock: TurnClock) -> Iterator[None]:
    """Every pool of the workflow is the clock's."""
    with contextlib.ExitStack() as stack:
        for module in (observe, cutover, examine):
            stack.enter_context(patch.object(module, "ThreadPoolExecutor", clock.pool))
        yield


def simulate(seed: int) -> list[str]:
    """One run with what befalls it; the invariants that it broke, in words."""
    return simulated(seed)[1]


def simulated(seed: int) -> tuple[Simulation, list[str]]:
    """The same, with everything that can be looked at afterwards."""
    clock = TurnClock(random.Random(f"{seed}: turns"))
    with _taking_turns(clock):
        simulation = _set_up(seed, clock)
        return simulation, simulation.run()


@dataclass(frozen=True)
class Seen:
    """One seed, as a process reports it to the one that counts."""

    seed: int
    state: str
    broken: list[str]


def _see(seeds: range) -> list[Seen]:
    seen = []
    for seed in seeds:
        simulation, found = simulated(seed)
        seen.append(Seen(seed, str(simulation.state or "not born"), found))
    return seen


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _show(seed: int) -> int:
    """Everything about one seed."""
    simulation, found = simulated(seed)
    plan, stage = simulation.plan, simulation.stage
    _say(
        f"{plan.policy.mode} of {plan.victim.short} among {plan.size}, replaced {plan.replacement}, "
        f"{stage.fleet.snapshot_method} copies"
    )
    for befell in (*simulation.misfortunes, *simulation.cuts):
        _say(f"  {befell}")
    record = stage.fleet.journal.runs.get(plan.run)
    for event in record.events if record else ():
        _say(f"{(event.at_ns - 3600 * 10**9) / 1e9:10.3f} s  {event.step:10} {event.kind:8} {event.detail}")
    _say(f"{simulation.state}: {record.message if record else ''}")
    if record and record.verdict:
        _say("\n".join(f"  fault: {fault}" for fault in record.verdict.faults))
    _say("\n".join(found) or "no invariant is broken")
    return 1 if found else 0


def _show_all(first: int, seeds: int, workers: int) -> int:
    """Many seeds, in several processes."""
    states: Counter[str] = Counter()
    bad = 0
    batches = [range(at, min(at + _AT_ONCE, first + seeds)) for at in range(first, first + seeds, _AT_ONCE)]
    with ProcessPoolExecutor(max_workers=workers) as pool:
        for batch in pool.map(_see, batches):
            for seen in batch:
                states[seen.state] += 1
                bad += bool(seen.broken)
                for fault in seen.broken:
                    _say(f"seed {seen.seed}: {fault}")
                if seen.broken:
                    _say(f"    again: .venv/bin/python tests/unit/simulation.py --seed {seen.seed}")
    counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
    _say(f"{seeds} seeds ({counts}), {bad} of them broke an invariant")
    return 1 if bad else 0


def main() -> int:
    """Simulate many seeds, or show one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="show this one")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    return _show_all(asked.first, asked.seeds, asked.workers) if asked.seed is None else _show(asked.seed)


if __name__ == "__main__":
    sys.exit(main())
