"""How fast canaries are on the victim, and when its heir is as fast (E25)."""

from dataclasses import dataclass

from reaper.domain.canary import Canary
from reaper.domain.facts import Instance
from reaper.domain.plan import Plan, StepName
from reaper.domain.warmth import Baseline, Recovery, WarmthGate
from reaper.workflow.recovery import follow
from reaper.workflow.run import Timeline
from reaper.workflow.warming import baseline, choose_canaries
from reaper.workflow.world import World


@dataclass(frozen=True, kw_only=True)
class Normal:
    """What canaries are followed after the kill, and how fast they were before it."""

    canaries: tuple[Canary, ...]
    before: Baseline
    factor: float  # up to so many times that is normal


def measure_normal(world: World, plan: Plan, victim: Instance) -> Normal:
    """Run the canaries on the victim. ServerGoneError: it does not answer."""
    gate = plan.policy.warm or WarmthGate()
    with world.side(plan.cluster, victim) as side:
        chosen = choose_canaries(gate, side.canaries)
        before = baseline(chosen, side.canaries, world.clock)
    return Normal(canaries=chosen.canaries, before=before, factor=gate.factor)


def follow_to_normal(
    world: World, plan: Plan, normal: Normal, heir: Instance, killed_ns: int, timeline: Timeline
) -> Recovery:
    """Run the canaries on the new master until they are as fast as they were on the old one."""
    with (
        timeline.step(StepName.NORMAL, f"canaries on {heir.id.short}") as step,
        world.side(plan.cluster, heir) as side,
    ):
        found = follow(
            side.canaries, normal.canaries, normal.before, world.clock, killed_ns=killed_ns, factor=normal.factor
        )
        step.detail = found.words
    return found
