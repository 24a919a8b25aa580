"""A group of stateless instances in memory: it launches successors, drains, health-checks, all on a fake clock."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count

from reaper.domain.errors import UsageError
from reaper.domain.facts import Image, InstanceId
from reaper.domain.groups import (
    GroupMember,
    GroupPlan,
    GroupVerdict,
    GroupView,
    Hook,
    MemberState,
    Registration,
    Suspension,
    TargetGroup,
    TargetState,
    Transition,
)
from reaper.domain.verdict import Event, GuardVerdict, RunState
from reaper.testing.clock import FakeClock
from reaper.testing.faults import Faults

SECOND = timedelta(seconds=1)


@dataclass(kw_only=True)
class GroupKnobs:
    """How long things take, and what goes wrong."""

    launch: timedelta = 20 * SECOND  # until the group reacts to a missing member
    boot: timedelta = 40 * SECOND
    health: timedelta = 15 * SECOND  # until a new target is healthy
    draining: timedelta = 30 * SECOND
    shutdown: timedelta = 25 * SECOND
    launches: bool = True
    becomes_healthy: bool = True
    hooks: dict[Transition, timedelta] = field(default_factory=dict)  # how long somebody takes to complete them


class MemoryGroup:
    """Implements `workflow.groups.Groups` for one group. `fewest` is over every moment, not only those looked at."""

    def __init__(self, clock: FakeClock, faults: Faults, *, name: str = "web", size: int = 6, zones: int = 3) -> None:
        self.clock, self.faults, self.name = clock, faults, name
        self.knobs = GroupKnobs()
        self.desired = self.minimum = size
        self.zones = [f"zone-{chr(ord('a') + n)}" for n in range(zones)]
        self.target_groups = ["web-http"]
        self.suspended: list[Suspension] = []
        self.refresh: str | None = None
        self.unfit: str | None = None
        self.tags: tuple[tuple[str, str], ...] = ()
        self.newest = "image-2"
        self.members: dict[InstanceId, GroupMember] = {}
        self.terminated: list[InstanceId] = []
        self.most_missing_per_zone = 0
        self._numbers = count(1)
        self._moving: dict[InstanceId, str] = {}  # the zone in which reaper's victims are being replaced
        for number in range(size):
            born = self._born("image-1", clock.now() - timedelta(days=30) + timedelta(days=number))
            self.members[born.id] = self._serving(born)
        self.fewest = self.serving

    # ---- what a test does

    def n(self, number: int) -> InstanceId:
        """The name of the member that was launched as that number."""
        return InstanceId("asg", f"{self.name}/i-{number}")

    def change(self, instance: InstanceId, **changes: object) -> None:
        """Something happens to a member."""
        self.members[instance] = replace(self.members[instance], **changes)  # type: ignore[arg-type]  # a test's words
        self._note()

    def lose(self, instance: InstanceId) -> None:
        """A member dies by itself, or somebody else terminates it."""
        del self.members[instance]
        self._note()
        self._reconcile()

    @property
    def serving(self) -> int:
        """How many do their work at this moment."""
        return sum(m.serves(self._targets()) for m in self.members.values())

    # ---- the port

    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self.name,)

    def view(self, group: str) -> GroupView:
        """What the provider would say."""
        with self.faults.around("view", group):
            if group != self.name:
                raise UsageError(f"there is no group {group}")
            return GroupView(
                name=self.name,
                taken_at=self.clock.now(),
                minimum=self.minimum,
                desired=self.desired,
                maximum=2 * self.desired,
                members=tuple(self.members.values()),
                target_groups=self._targets(),
                hooks=tuple(
                    Hook(name=f"on-{when}", transition=when, timeout=2 * took)
                    for when, took in self.knobs.hooks.items()
                ),
                suspended=tuple(self.suspended),
                refresh=self.refresh,
                unfit=self.unfit,
                tags=self.tags,
            )

    def drain(self, group: str, instance: InstanceId) -> None:
        """Healthy becomes draining at once, and unused after a while."""
        with self.faults.around("drain", instance.short):
            self._check(group, instance)
            if self._state(instance) in (TargetState.DRAINING, TargetState.UNUSED):
                return
            self._register(instance, TargetState.DRAINING)
            self.clock.after(self.knobs.draining, lambda: self._drained(instance))

    def undrain(self, group: str, instance: InstanceId) -> None:
        """Registered again: health checks begin anew."""
        with self.faults.around("undrain", instance.short):
            if group != self.name or instance not in self.members:
                return
            if self.members[instance].state is not MemberState.LEAVING and not self._is_healthy(instance):
                self._register(instance, TargetState.INITIAL)
                self.clock.after(self.knobs.health, lambda: self._checked(instance))

    def terminate(self, group: str, instance: InstanceId) -> None:
        """It leaves, and the group notices after a while that one is missing."""
        with self.faults.around("terminate", instance.short):
            self._check(group, instance)
            if self.members[instance].state is MemberState.LEAVING:
                return
            self.terminated.append(instance)
            zone = self.members[instance].zone or ""
            self._moving[instance] = zone
            missing = sum(z == zone for z in self._moving.values())
            self.most_missing_per_zone = max(self.most_missing_per_zone, missing)
            hook = self.knobs.hooks.get(Transition.TERMINATING, timedelta(0))
            self.change(instance, state=MemberState.LEAVING, hook=hook > timedelta(0))
            self.clock.after(hook + self.knobs.shutdown, lambda: self._ended(instance))
            self._reconcile()

    # ---- what happens by itself

    def _reconcile(self) -> None:
        self.clock.after(self.knobs.launch, self._launch_missing)

    def _launch_missing(self) -> None:
        there = [m for m in self.members.values() if m.state is not MemberState.LEAVING]
        for _ in range(self.desired - len(there) if self.knobs.launches else 0):
            born = self._born(self.newest, self.clock.now())
            self.members[born.id] = born
            hook = self.knobs.hooks.get(Transition.LAUNCHING, timedelta(0))
            if hook:
                self.clock.after(self.knobs.boot, lambda i=born.id: self.change(i, hook=True))  # type: ignore[misc]  # bound early
            self.clock.after(self.knobs.boot + hook, lambda i=born.id: self._booted(i))  # type: ignore[misc]  # bound early

    def _booted(self, instance: InstanceId) -> None:
        if instance in self.members:
            self.change(instance, state=MemberState.IN_SERVICE, hook=False)
            self._register(instance, TargetState.INITIAL)
            self.clock.after(self.knobs.health, lambda: self._checked(instance))

    def _checked(self, instance: InstanceId) -> None:
        if instance in self.members and self._state(instance) is TargetState.INITIAL and self.knobs.becomes_healthy:
            self._register(instance, TargetState.HEALTHY)
            arrived = self.members[instance].zone
            for victim, zone in list(self._moving.items()):
                if zone == arrived and victim not in self.members:
                    del self._moving[victim]
                    break

    def _drained(self, instance: InstanceId) -> None:
        if instance in self.members and self._state(instance) is TargetState.DRAINING:
            self._register(instance, TargetState.UNUSED)

    def _ended(self, instance: InstanceId) -> None:
        self.members.pop(instance, None)
        self._note()

    # ---- parts

    def _note(self) -> None:
        self.fewest = min(self.fewest, self.serving)

    def _targets(self) -> tuple[TargetGroup, ...]:
        return tuple(TargetGroup(name=name, draining=self.knobs.draining) for name in self.target_groups)

    def _state(self, instance: InstanceId) -> TargetState:
        registrations = self.members[instance].registrations
        return registrations[0].state if registrations else TargetState.UNUSED

    def _is_healthy(self, instance: InstanceId) -> bool:
        return self._state(instance) is TargetState.HEALTHY

    def _register(self, instance: InstanceId, state: TargetState) -> None:
        self.change(
            instance, registrations=tuple(Registration(target_group=t, state=state) for t in self.target_groups)
        )

    def _check(self, group: str, instance: InstanceId) -> None:
        if group != self.name or instance not in self.members:
            raise UsageError(f"{instance.short} is no member of {group}")

    def _born(self, image: str, created: object) -> GroupMember:
        zones = [m.zone for m in self.members.values() if m.state is not MemberState.LEAVING]
        return GroupMember(
            id=self.n(next(self._numbers)),
            zone=min(self.zones, key=zones.count),
            state=MemberState.PENDING,
            healthy=True,
            protected=False,
            created=created,  # type: ignore[arg-type]  # a moment
            image=Image(name=image, newest=self.newest),
            tags=(),
            registrations=(),
        )

    def _serving(self, member: GroupMember) -> GroupMember:
        healthy = tuple(Registration(target_group=t, state=TargetState.HEALTHY) for t in self.target_groups)
        return replace(member, state=MemberState.IN_SERVICE, registrations=healthy)


@dataclass
class GroupRecord:
    """What a journal heard of one run."""

    plan: GroupPlan
    events: list[Event] = field(default_factory=list)
    guards: list[tuple[GuardVerdict, ...]] = field(default_factory=list)
    state: RunState = RunState.RUNNING
    verdict: GroupVerdict | None = None
    message: str = ""


class MemoryGroupJournal:
    """Implements `workflow.groups.GroupJournal`."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.runs: dict[str, GroupRecord] = {}

    def begin(self, plan: GroupPlan) -> None:
        """Born once."""
        with self.faults.around("begin", plan.group):
            self.runs.setdefault(plan.run, GroupRecord(plan))

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        """Before each kill."""
        self.runs[run].guards.append(verdicts)

    def event(self, run: str, event: Event) -> None:
        """Remembered."""
        self.runs[run].events.append(event)

    def end(self, run: str, state: RunState, verdict: GroupVerdict, message: str) -> None:
        """The last word counts."""
        record = self.runs[run]
        record.state, record.verdict, record.message = state, verdict, message
