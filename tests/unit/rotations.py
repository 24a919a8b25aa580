"""One cluster in memory, a policy, and a run over it: what the rotation tests share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from builders import CLUSTER, iid, plan_for

from reaper.domain.plan import Plan, Replacement, StepName
from reaper.domain.policy import Policy
from reaper.domain.verdict import Event, EventKind, RunVerdict
from reaper.testing.fleet import MemoryFleet
from reaper.testing.machine import Machine
from reaper.testing.people import Record
from reaper.testing.picture import Picture
from reaper.testing.steps import Diary
from reaper.testing.world import world
from reaper.workflow.rotation import Rotation
from reaper.workflow.world import World

SECOND = timedelta(seconds=1)
MS = timedelta(milliseconds=1)
RUN = "run-1"
TABLE = "reaper.probe_run_1"


@dataclass
class Stage:
    """A simulated cluster and the run that a test makes over it."""

    nodes: int = 3
    fleet: MemoryFleet = field(init=False)
    world: World = field(init=False)
    open_at_events: list[int] = field(default_factory=list)
    copies_at_events: list[int] = field(default_factory=list)
    before: Picture = field(init=False)
    diaries: dict[str, Diary] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fleet = MemoryFleet()
        self.fleet.add_cluster(CLUSTER, self.nodes)
        self.world = world(self.fleet)
        self.fleet.journal.listeners.append(self._count)
        self.before = self.fleet.picture(CLUSTER)

    def _count(self, _event: Event) -> None:
        self.open_at_events.append(len(self.fleet.writable(CLUSTER)))
        self.copies_at_events.append(self.fleet.copies(CLUSTER))

    def plan(self, victim: str = "n1", replacement: Replacement = Replacement.BEFORE, **policy: object) -> Plan:
        return plan_for(
            self.world,
            iid(victim),
            policy=Policy(**policy),  # type: ignore[arg-type]  # a builder trusts its tests
            replacement=replacement,
            run=RUN,
        )

    def run(self, victim: str = "n1", replacement: Replacement = Replacement.BEFORE, **policy: object) -> RunVerdict:
        return self.follow(self.plan(victim, replacement, **policy))

    def follow(self, plan: Plan) -> RunVerdict:
        """A process follows the run of a plan, from what was recorded of it to its end."""
        diary = self.diaries.setdefault(plan.run, Diary(self.fleet.faults, self.fleet.clock))
        return Rotation(self.world, plan, diary.follow()).execute()

    def again(self, victim: str) -> RunVerdict:
        """A later run."""
        self.fleet.interrupt.is_crossed = False
        return self.follow(plan_for(self.world, iid(victim), run="run-2"))

    def n(self, name: str) -> Machine:
        return self.fleet.machine(name)

    @property
    def record(self) -> Record:
        return self.fleet.journal.runs[RUN]

    @property
    def names(self) -> list[str]:
        return [m.id.short for m in self.fleet.machines(CLUSTER)]

    @property
    def master(self) -> Machine:
        (only,) = self.fleet.writable(CLUSTER)
        return only

    def at(self, step: StepName, kind: EventKind, action: Callable[[], None]) -> None:
        """Let something happen when the journal hears of a step."""

        def listener(event: Event) -> None:
            if event.step == step and event.kind is kind:
                action()

        self.fleet.journal.listeners.append(listener)

    def at_the_kill(self, action: Callable[[], None]) -> None:
        """Let something happen after the last guard and before the kill."""
        self.fleet.faults.before("cross", "*", action)

    def never_promoted(self) -> bool:
        return not any(method == "promote" for method, _ in self.fleet.faults.calls)

    def as_found(self) -> bool:
        """I9: same members, same topology, no snapshot, no probe table, no marker, nobody writes any more."""
        assert self.fleet.picture(CLUSTER) == self.before
        assert not self.fleet.probes
        return True

    def nothing_left(self) -> bool:
        """I11: nothing that the run made is there any more, except its replacement."""
        picture = self.fleet.picture(CLUSTER)
        assert picture.snapshots == ()
        assert picture.markers == ()
        assert all(tables == {"shop.items"} for _, tables in picture.tables)
        assert not self.fleet.probes
        return True

    def sound(self) -> bool:
        """One open master, everybody else follows it and is healthy, the endpoint leads there."""
        assert self.fleet.door(CLUSTER).target == self.master.address
        for m in self.fleet.machines(CLUSTER):
            if m is not self.master and m.runs:
                assert m.channel is not None
                assert m.channel.source == self.master.address
                assert m.channel.receiving
                assert m.channel.applying
                assert m.executed == self.master.executed
        return True
