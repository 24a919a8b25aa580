"""End a run over a group that nobody can replay: one that is stuck, or that another version began."""

from reaper.domain.errors import CallAPersonError, ReaperError, TryAgainError
from reaper.domain.groups import Draining, GroupPlan, GroupVerdict
from reaper.domain.verdict import RunState
from reaper.workflow.groups import GroupWorld, gone


def give_back(world: GroupWorld, plan: GroupPlan) -> None:
    """Put those back to work that a run has drained and not killed."""
    view = world.groups.view(plan.group)
    for victim in plan.victims:
        if plan.policy.draining is Draining.REAPER and not gone(view, victim.id):
            world.groups.undrain(plan.group, victim.id)


def end_unreplayed(world: GroupWorld, plan: GroupPlan) -> TryAgainError:
    """The end of the run, as an error: what is left of its plan has to be asked for again.

    CallAPersonError: a victim may be out of its target groups, and cannot be put back.
    """
    try:
        left = {m.id for m in world.groups.view(plan.group).members}
        give_back(world, plan)
    except ReaperError as error:
        why = (
            f"those of {plan.group} that {plan.run} was draining could not be put back into their target groups: "
            f"{error}. Look at them, then `reaper resume {plan.run}`"
        )
        world.journal.end(plan.run, RunState.STUCK, _verdict(plan, why), why)
        raise CallAPersonError(why) from error
    done = sum(v.id not in left for v in plan.victims)
    message = (
        f"ended without being replayed: {done} of {len(plan.victims)} are gone from {plan.group}, and whoever was "
        "being drained is back in its target groups"
    )
    world.journal.end(plan.run, RunState.UNDONE, _verdict(plan, message), message)
    return TryAgainError(f"{plan.run} {message}. Ask for the others again")


def _verdict(plan: GroupPlan, fault: str) -> GroupVerdict:
    return GroupVerdict(replaced=(), left=tuple(v.id for v in plan.victims), faults=(fault,))
