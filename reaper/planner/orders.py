"""From a standing policy and what it selected to the request for one run, and the names that a firing derives."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

from reaper.domain.groups import GroupPlan, GroupView
from reaper.domain.policy import Policy
from reaper.domain.standing import StandingPolicy
from reaper.planner.groups import plan_group
from reaper.planner.selection import DueInstance, Occasion
from reaper.planner.steps import Request


def limits_of(standing: StandingPolicy) -> Policy:
    """The limits of one run of a standing policy: its own, whom it asks first, and what it accepts."""
    approval = standing.approval
    return replace(
        standing.limits_of_run,
        approval_within=approval.within if approval else None,
        approvers=approval.by if approval else (),
        checks=standing.checks,
        waivers=standing.waivers,
        warm=standing.warm,
        snapshot_reuse_within=standing.replace.snapshot_reuse_within,
        snapshot_keep=standing.replace.snapshot_keep,
        normal_budget=standing.budgets.time_to_normal,
    )


def request_of(standing: StandingPolicy, due: DueInstance, run: str, seed: int) -> Request:
    """The request for the run that replaces one due instance. `seed`: of the selection that chose it."""
    return Request(
        run=run,
        victim=due.instance.id,
        policy=limits_of(standing),
        replacement=standing.replace.when,
        why=f"the policy {standing.name} takes {due.instance.id.short}, which {'; '.join(due.why)}",
        seed=seed,
        standing=standing.name,
    )


def group_plan_of(standing: StandingPolicy, view: GroupView, run: str, occasion: Occasion) -> GroupPlan:
    """The plan of the run that replaces the due members of one group. `standing` is a policy about groups."""
    assert standing.group is not None, "who selects a group has the limits of its run"
    plan = plan_group(view, standing.group, run=run, seed=occasion.seed, standing=standing.name, now=occasion.now)
    number = f"{len(plan.victims)} instance{'' if len(plan.victims) == 1 else 's'}"
    return replace(plan, why=f"the policy {standing.name} replaces {number} of {view.name}")


def seed_of(policy: str, fire: datetime) -> int:
    """The seed of a firing's dice, the same in every process: a dry run shows the draw that will be made."""
    digest = hashlib.sha256(f"{policy}|{fire.astimezone(UTC).isoformat()}|dice".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def run_of(policy: str, cluster: str, fire: datetime) -> str:
    """The name of the run that a firing asks for; every other name of the run is derived from it.

    The policy is in it: two of them may fire at one moment, and a cluster may be due for both, one after the other.
    """
    whose = hashlib.sha256(policy.encode()).hexdigest()[:4]
    return f"{cluster}-{fire.astimezone(UTC):%Y%m%dt%H%M%S}-{whose}"
