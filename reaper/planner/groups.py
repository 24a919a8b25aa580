"""Which instances of a group are replaced and in which order, and what has to be true before each of them dies."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import assert_never

from reaper.domain.facts import InstanceId
from reaper.domain.groups import (
    Chosen,
    Draining,
    GroupMember,
    GroupPlan,
    GroupPolicy,
    GroupView,
    Hook,
    MemberState,
    Order,
    Spared,
    TargetState,
    Transition,
)
from reaper.domain.standing import OPT_OUT_TAG, PROTECT_UNTIL_TAG
from reaper.domain.verdict import GuardVerdict, Ruling
from reaper.planner.dueness import carries, protected_until
from reaper.planner.words import in_words, listed

# Without these a victim gets no successor, or one that no request reaches (Amazon EC2 Auto Scaling User Guide,
# "Suspend and resume processes"). `Terminate` stands for a person who wants nothing to end.
_NEEDED = ("Launch", "Terminate")
_NEEDED_BEHIND_A_BALANCER = ("AddToLoadBalancer",)
_SHOWN = 5  # culprits that a sentence names


@dataclass(frozen=True, kw_only=True)
class GroupCase:
    """Everything a guard may look at."""

    view: GroupView
    victim: InstanceId
    policy: GroupPolicy

    @property
    def member(self) -> GroupMember | None:
        """The victim, if it is in the group."""
        return self.view.member(self.victim)

    @property
    def others(self) -> tuple[GroupMember, ...]:
        """Everybody else."""
        return tuple(m for m in self.view.members if m.id != self.victim)


GroupGuard = Callable[[GroupCase], GuardVerdict]


def plan_group(
    view: GroupView,
    policy: GroupPolicy,
    *,
    run: str,
    seed: int,
    why: str = "",
    standing: str | None = None,
    now: datetime | None = None,
) -> GroupPlan:
    """Everybody who is due, in order; the same view and seed give the same plan. `now`: whose age counts, not yet."""
    moment = now or view.taken_at
    spared, due = [], []
    for member in view.members:
        because = spared_because(member, policy, moment) or _not_due(member, policy, moment)
        if because:
            spared.append(Spared(id=member.id, why=because))
        else:
            due.append(member)
    ordered = sorted(due, key=lambda m: (m.created or moment, m.id))
    match policy.order:
        case Order.OLDEST:
            pass
        case Order.STALE:
            ordered.sort(key=lambda m: not _is_stale(m))
        case Order.RANDOM:
            Random(f"{seed}/{view.name}").shuffle(ordered)
        case _:
            assert_never(policy.order)
    most = len(ordered) if policy.at_most is None else policy.at_most
    spared += [Spared(id=m.id, why=f"the run replaces at most {most}") for m in ordered[most:]]
    return GroupPlan(
        run=run,
        group=view.name,
        victims=tuple(Chosen(id=m.id, why=_why(m, policy, moment)) for m in ordered[:most]),
        spared=tuple(spared),
        policy=policy,
        seed=seed if policy.order is Order.RANDOM else None,
        standing=standing,
        why=why,
    )


def spared_because(member: GroupMember, policy: GroupPolicy, now: datetime) -> str | None:
    """Why a member may not die whatever its age, or None."""
    if member.state is not MemberState.IN_SERVICE:
        return f"it is {member.state}"
    if member.protected:
        return "it is protected from scale-in: remove the protection when its work is done"
    if member.tags is None:
        return "its tags are unreadable, so it is protected"
    tags = dict(member.tags)
    if OPT_OUT_TAG in tags:
        return f"it is opted out by the tag {OPT_OUT_TAG}"
    protected = protected_until(tags[PROTECT_UNTIL_TAG], now) if PROTECT_UNTIL_TAG in tags else None
    if protected is None and not carries(member.tags, policy.opt_in):
        return f"it has not opted in with {', '.join(f'{name}={value}' for name, value in policy.opt_in)}"
    return protected


def _is_stale(member: GroupMember) -> bool:
    """True if that is known."""
    return member.image is not None and member.image.stale is True


def _not_due(member: GroupMember, policy: GroupPolicy, now: datetime) -> str | None:
    """Why a member is neither too old nor of a stale image, where either is asked for."""
    reasons = []
    if policy.max_age is not None:
        age = None if member.created is None else now - member.created
        if age is not None and age > policy.max_age:
            return None
        known = "its age is unknown" if age is None else f"it is {in_words(age)} old"
        reasons.append(known if age is None else f"{known}, not more than {in_words(policy.max_age)}")
    if policy.stale_image:
        if _is_stale(member):
            return None
        unknown = member.image is None or member.image.stale is None
        reasons.append("whether its image is stale is unknown" if unknown else "its image is the newest")
    return " and ".join(reasons) or None


def _why(member: GroupMember, policy: GroupPolicy, now: datetime) -> str:
    """Of one who is due: the age, and the image where that is asked for."""
    said = ["drawn"] if policy.order is Order.RANDOM else []
    if member.image is not None and _is_stale(member) and (policy.stale_image or policy.order is Order.STALE):
        said.append(f"made from {member.image.name}, {member.image.newest} is the newest")
    said.append("of unknown age" if member.created is None else f"{in_words(now - member.created)} old")
    return "; ".join(said)


# ---- guards


def judge_group(case: GroupCase) -> tuple[GuardVerdict, ...]:
    """What every guard says, in the order in which they are shown."""
    return tuple(guard(case) for guard in _GUARDS)


def _go(guard: str, reason: str) -> GuardVerdict:
    return GuardVerdict(guard=guard, ruling=Ruling.GO, reason=reason)


def _refuse(guard: str, reason: str, *evidence: str) -> GuardVerdict:
    return GuardVerdict(guard=guard, ruling=Ruling.REFUSE, reason=reason, evidence=evidence)


def _named(members: tuple[GroupMember, ...]) -> str:
    shown = tuple(f"{m.id.short} ({m.state})" for m in members[:_SHOWN])
    more = len(members) - len(shown)
    return listed(shown) if not more else f"{', '.join(shown)} and {more} more"


def guard_group(case: GroupCase) -> GuardVerdict:
    """Nobody else is taking the group apart (E13)."""
    if case.view.unfit:
        return _refuse("group", f"{case.view.name} is {case.view.unfit}")
    if case.view.refresh:
        return _refuse("group", f"an instance refresh is under way ({case.view.refresh}): wait for it, or cancel it")
    return _go("group", f"{len(case.view.members)} members, {case.view.desired} wanted")


def guard_victim(case: GroupCase) -> GuardVerdict:
    """It is in service, and nobody has protected it since the plan was made."""
    if case.member is None:
        return _refuse("victim", f"{case.victim.short} is no member of {case.view.name}")
    spared = spared_because(case.member, case.policy, case.view.taken_at)
    if spared:
        return _refuse("victim", f"{case.victim.short} is left alone: {spared}")
    return _go("victim", f"{case.victim.short} may be replaced")


def guard_processes(case: GroupCase) -> GuardVerdict:
    """Nothing that a successor needs is suspended."""
    needed = _NEEDED + (_NEEDED_BEHIND_A_BALANCER if case.view.target_groups else ())
    culprits = [s for s in case.view.suspended if s.process in needed]
    if culprits:
        said = ", ".join(f"{s.process} ({s.why})" if s.why else s.process for s in culprits)
        return _refuse("processes", f"suspended: {said}. Resume it when its reason is gone")
    return _go("processes", "what a successor needs is not suspended")


def guard_hooks(case: GroupCase) -> GuardVerdict:
    """Nobody hangs in a lifecycle hook, and every hook ends within the time that a successor has."""
    hanging = tuple(m for m in case.others if m.hook)
    if hanging:
        return _refuse("hooks", f"{_named(hanging)} wait for a lifecycle action: complete it, see who should have")
    long = [h for h in case.view.hooks if h.timeout > case.policy.successor_within]
    if long:
        return _refuse(
            "hooks",
            f"{_told(long[0])} is longer than the {in_words(case.policy.successor_within)} that a "
            "successor has: give it more, or shorten the hook",
        )
    hooks = tuple(_told(h) for h in case.view.hooks)
    return _go("hooks", listed(hooks) if hooks else "no lifecycle hook")


def _told(hook: Hook) -> str:
    when = "a launch" if hook.transition is Transition.LAUNCHING else "a termination"
    return f"{hook.name} (holds up {when} for {in_words(hook.timeout)})"


def guard_floor(case: GroupCase) -> GuardVerdict:
    """As many as the policy demands serve without the victim (I1)."""
    floor = case.policy.floor.of(case.view.desired)
    serving = [m for m in case.others if m.serves(case.view.target_groups)]
    if len(serving) < floor:
        idle = tuple(m for m in case.others if not m.serves(case.view.target_groups))
        because = f": {_named(idle)} do not" if idle else f": the group has {len(case.view.members)} members in all"
        return _refuse("floor", f"{len(serving)} would serve without {case.victim.short}, {floor} have to{because}")
    return _go("floor", f"{len(serving)} serve without {case.victim.short}, at least {floor} have to")


def guard_targets(case: GroupCase) -> GuardVerdict:
    """Each target group keeps as many healthy targets, and can be drained within its time."""
    floor = case.policy.floor.of(case.view.desired)
    for target in case.view.target_groups:
        states = {m.id: r.state for m in case.others for r in m.registrations if r.target_group == target.name}
        healthy = sum(state is TargetState.HEALTHY for state in states.values())
        if healthy < floor:
            ill = [f"{i.short} ({s})" for i, s in sorted(states.items()) if s is not TargetState.HEALTHY][:_SHOWN]
            named = f", not {', '.join(ill)}" if ill else ""
            reason = f"{target.name}: {healthy} healthy targets would be left, {floor} have to{named}"
            return _refuse("targets", reason)
        slow = case.policy.draining is Draining.REAPER and (
            target.draining is None or target.draining > case.policy.drain_within
        )
        if slow:
            takes = "an unknown time" if target.draining is None else in_words(target.draining)
            return _refuse(
                "targets",
                f"{target.name} drains for {takes}, longer than the {in_words(case.policy.drain_within)} that the "
                "policy gives it: give it more, or shorten the deregistration delay",
            )
    names = tuple(t.name for t in case.view.target_groups)
    return _go("targets", f"{listed(names)} keep enough healthy targets" if names else "behind no target group")


def guard_zone(case: GroupCase) -> GuardVerdict:
    """Nobody else of the zone is coming or going: one at a time."""
    zone = case.member.zone if case.member else None
    moving = tuple(
        m
        for m in case.others
        if m.state in (MemberState.PENDING, MemberState.LEAVING, MemberState.OTHER) and (m.zone or zone) == zone
    )
    if moving:
        return _refuse("zone", f"{_named(moving)} in {zone or 'an unknown zone'}: one at a time in each zone")
    return _go("zone", f"nobody else in {zone or 'its zone'} comes or goes")


_GUARDS: tuple[GroupGuard, ...] = (
    guard_group,
    guard_victim,
    guard_processes,
    guard_hooks,
    guard_floor,
    guard_targets,
    guard_zone,
)
