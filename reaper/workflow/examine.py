"""Fresh facts, and what everybody says of them before anything is done."""

import contextlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reaper.domain.facts import ClusterView, Instance
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict
from reaper.planner.guards import Case, Moment, judge
from reaper.planner.parity import compare, judge_parity
from reaper.planner.shape import OtherShape, classify
from reaper.workflow.observe import observe, watch
from reaper.workflow.world import World


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Facts of one moment, and what was said of them."""

    case: Case
    own: tuple[GuardVerdict, ...]  # judged of the case alone
    others: tuple[GuardVerdict, ...]  # the members' parity, and what was asked elsewhere

    @property
    def verdicts(self) -> tuple[GuardVerdict, ...]:
        """All of it."""
        return self.own + self.others


def examine(world: World, plan: Plan, moment: Moment, heir: Instance | None) -> Examined:
    """Fresh facts and what every guard says of them. Reads only: it is all that a dry run does."""
    view = observe(world, plan.cluster)
    case = Case(
        view=view,
        soak=watch(world, view, plan.policy),
        victim=plan.victim,
        role=plan.role,
        policy=plan.policy,
        replacement=plan.replacement,
        moment=moment,
        snapshot_from=plan.snapshot_from,
        copies_hot=world.fleet.copies_hot(plan.cluster),
        heir=heir.id if heir else None,
        protection=_protection(world, plan, view),
    )
    return Examined(case=case, own=judge(case), others=_ask_others(world, plan, view, moment))


def _protection(world: World, plan: Plan, view: ClusterView) -> str | None:
    """What keeps the victim from being killed. Of one that is not there the other guards have something to say."""
    victim = view.member(plan.victim)
    return None if victim is None else world.fleet.protection(victim.instance)


def _judge_parity(world: World, plan: Plan, view: ClusterView) -> GuardVerdict:
    """Who may follow the master has what it has (E18, E19): read one after the other, in few statements each."""
    shape = classify(view)
    if isinstance(shape, OtherShape):
        return judge_parity((), plan.policy.waivers, world.clock.now())
    key, found = secrets.token_bytes(32), {}
    for member in (shape.master, *(r for r in shape.replicas if r.instance.id != plan.victim)):
        with contextlib.closing(world.connect(plan.cluster, member.instance)) as server:
            found[member.instance.id.short] = server.inventory(key)
    master = shape.master.instance.id.short
    compared = compare(master, found.pop(master), found)
    return judge_parity(compared, plan.policy.waivers, world.clock.now())


def _ask_others(world: World, plan: Plan, view: ClusterView, moment: Moment) -> tuple[GuardVerdict, ...]:
    """What is not judged of the case alone: the members' parity; the external checks, all at the same time."""
    checks = plan.policy.checks
    parity = (_judge_parity(world, plan, view),) if moment is Moment.PLAN else ()  # the heir's was judged when built
    if not checks:
        return parity
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        return (*parity, *pool.map(lambda check: world.checker.ask(check, plan), checks))
