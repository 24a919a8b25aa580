"""A seeded fault plan over one run: calls that fail, answers that are lost, power cuts, a replica that dies.

`python tests/unit/simulation.py --seeds 1000 [--first 0]` prints every seed that breaks an invariant; the same seed
gives the same run again.
"""

import argparse
import random
import sys
from dataclasses import dataclass
from datetime import timedelta

from rotations import MS, SECOND, Stage

from reaper.domain.errors import ReaperError
from reaper.domain.plan import Replacement
from reaper.domain.policy import KillMode
from reaper.domain.verdict import RunState, RunVerdict
from reaper.testing.faults import When

CALLS = [
    "connect",
    "snapshot",
    "launch",
    "join",
    "write_marker",
    "marker_visible",
    "promote",
    "follow",
    "route",
    "retire",
    "quarantine",
    "forget",
    "members",
    "wait_applied",
    "facts",
    "executed",
    "halt",
    "dump_pages",
    "tables",
    "create_probe_table",
    "drop_probe_table",
    "clear_marker",
    "start_probe",
    "aim",
    "event",
    "guards",
    "end",
    "semi_sync",
    "forget_source",
]
_MOST_PROCESSES = 8


class PowerCutError(BaseException):
    """The process is gone."""


@dataclass
class Power:
    """Is cut once, so many points from now."""

    left: int

    def __call__(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise PowerCutError


def simulate(seed: int) -> list[str]:
    """One run with its faults; the invariants that it broke, in words."""
    dice = random.Random(seed)
    stage = Stage(nodes=dice.choice([3, 3, 4]))
    replacement = dice.choice([Replacement.BEFORE, Replacement.AFTER])
    victim = "n1" if replacement is Replacement.BEFORE else dice.choice(["n1", "n1", "n2"])
    plan = stage.plan(victim, replacement, mode=dice.choice(list(KillMode)), outage_budget=600 * SECOND)
    for _ in range(dice.choice([0, 1, 1, 2, 3])):
        stage.fleet.fail(dice.choice(CALLS), times=dice.randint(1, 2), when=dice.choice(list(When)))
    cuts = [dice.randint(1, 450) for _ in range(dice.choice([0, 0, 1, 2, 3]))]
    dies = dice.random() < 0.15
    if dies:
        stage.fleet.clock.after(timedelta(milliseconds=dice.randint(1, 9000)), lambda: stage.fleet.kill("n3"))
    verdict: RunVerdict | None = None
    for _ in range(_MOST_PROCESSES):
        stage.fleet.faults.power = Power(cuts.pop()) if cuts else None
        stage.fleet.interrupt.is_crossed = False
        try:
            verdict = stage.follow(plan)
        except PowerCutError:
            stage.fleet.faults.power = None
            stage.fleet.clock.sleep(SECOND)
            continue
        except ReaperError:
            pass
        break
    stage.fleet.faults.power = None
    stage.fleet.clock.sleep(100 * MS)
    return broken(stage, verdict, victim, dies)


def broken(stage: Stage, verdict: RunVerdict | None, victim: str, dies: bool) -> list[str]:
    """Which invariants do not hold at the end."""
    state = stage.record.state if stage.fleet.journal.runs else RunState.UNDONE
    found = []
    if stage.fleet.most_writable > 1:
        found.append("I2: two accepted writes at once")
    if verdict is not None and verdict.ledger is not None and verdict.ledger.lost:
        found.append(f"I3: {len(verdict.ledger.lost)} acknowledged writes are lost")
    if verdict is not None and victim in [m.id.short for m in stage.fleet.machines("lab") if m.runs]:
        found.append("I6: the victim runs")
    if verdict is not None and state not in (RunState.GOOD, RunState.BAD):
        found.append(f"I12: it has a verdict and is {state}")
    if state in (RunState.UNDONE, RunState.REFUSED) and not dies:
        found += _unless("I9", stage.as_found)
    if state is RunState.GOOD:
        found += [*_unless("shape", stage.sound), *_unless("I11", stage.nothing_left)]
    return found


def _unless(what: str, holds: object) -> list[str]:
    try:
        assert callable(holds)
        holds()
    except AssertionError as error:
        return [f"{what}: {str(error).splitlines()[0] if str(error) else 'does not hold'}"]
    return []


def main() -> int:
    """Simulate many seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    bad = 0
    for seed in range(asked.first, asked.first + asked.seeds):
        for fault in simulate(seed):
            bad += 1
            sys.stdout.write(f"seed {seed}: {fault}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{asked.seeds} seeds, {bad} broken invariants\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
