"""What holds at the end of every simulated run, whatever befell it; and which of it a server's own death changes.

A server that ended by itself takes away what nothing could have kept, and no more than that:
* it is one copy less (I1), and the cluster is "as found" without it (I9);
* an acknowledged write is lost without anybody's fault if that server held it and the killed master was the
  only other one (I3): then the verdict has to say so;
* a master that dies before the kill is not reaper's: nobody is promoted for it, unless everything was ready
  for the kill, when the process that replays this cannot know whether the one before it had struck.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from misfortunes import end_of_lag
from rotations import MS, SECOND, Stage

from reaper.domain.facts import InstanceId, Openness
from reaper.domain.ledger import Fate
from reaper.domain.plan import Plan, Replacement
from reaper.domain.snapshots import SnapshotMethod
from reaper.domain.verdict import RunState, RunVerdict
from reaper.testing.clients import FakeProbe
from reaper.testing.machine import Machine
from reaper.testing.parts import Row, Transaction
from reaper.testing.picture import Picture
from reaper.workflow.ports import Probe

Told = Counter[tuple[str, Row]]  # (table, (client, number)) -> how often
_PASSES = 15 * SECOND  # more than any lag


@dataclass
class Witness:
    """Sees what happens beside the run's own words."""

    stage: Stage
    plan: Plan
    probes: list[tuple[str, FakeProbe]] = field(default_factory=list)
    dead_masters: list[Machine] = field(default_factory=list)
    by_themselves: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        start = self.stage.world.start_probe
        self.stage.fleet.deaths.append(self._died)

        def started(plan: Plan, table: str) -> Probe:
            probe = start(plan, table)
            assert isinstance(probe, FakeProbe)
            self.probes.append((f"reaper.{table}", probe))
            return probe

        self.stage.world = replace(self.stage.world, start_probe=started)

    def _died(self, machine: Machine) -> None:
        if machine.openness is Openness.OPEN:
            self.dead_masters.append(machine)
        if machine.death == "ended by itself":
            self.by_themselves.append(machine)

    @property
    def acknowledged(self) -> Told:
        """Every write that a client was told is committed."""
        return Counter(
            (table, (w.client, w.seq))
            for table, probe in self.probes
            for w in probe.recorded.writes
            if w.fate is Fate.ACKNOWLEDGED
        )


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended."""

    witness: Witness
    verdict: RunVerdict | None
    said: str  # the error of the process that ended it; "" if it returned a verdict
    promoted_unasked: bool  # before anything was ready for the kill
    resumed: bool = False  # a person typed `reaper resume`


def broken(ending: Ending) -> list[str]:
    """What does not hold, in words. Moves the clock on until every lag is over."""
    stage = ending.witness.stage
    for machine in stage.fleet.machines("lab"):
        end_of_lag(machine)
    open_probes = len(stage.fleet.probes)
    stage.fleet.clock.sleep(100 * MS if open_probes else _PASSES)
    checks = (_recorded, _add_before_remove, _one_writes, _nothing_lost, _dead_stays_dead, _as_found, _cleaned_up)
    found = [fault for check in checks for fault in check(ending)]
    return found + ([f"I11: {open_probes} probes write on"] if open_probes else [])


def _state(ending: Ending) -> RunState | None:
    run = ending.witness.stage.fleet.journal.runs.get(ending.witness.plan.run)
    return run.state if run else None


def _recorded(ending: Ending) -> list[str]:
    """I12: never silent. A run that was not born left an error; every other one has a state, and words for it."""
    state, verdict = _state(ending), ending.verdict
    if state is None:
        return [] if ending.said else ["I12: it was not born and nobody was told"]
    if state is RunState.RUNNING:
        return [f"I12: it ended without a recorded state: {ending.said or verdict}"]
    if (verdict is not None) != (state in (RunState.GOOD, RunState.BAD)):
        return [f"I12: it is {state} and its verdict is {verdict}"]
    if verdict is None and not ending.witness.stage.record.message:
        return [f"I12: it is {state} and does not say why"]
    return []


def _add_before_remove(ending: Ending) -> list[str]:
    """I1: at most the victim is missing, and that only where its replacement comes afterwards."""
    witness, fleet = ending.witness, ending.witness.stage.fleet
    least = witness.plan.size - (witness.plan.replacement is not Replacement.BEFORE)
    least -= fleet.snapshot_method is SnapshotMethod.COLD  # stopped for the copy
    least -= len(witness.by_themselves)
    fewest = fleet.fewest_copies["lab"]
    return [f"I1: {fewest} copies, at least {least} were to be kept"] if fewest < least else []


def _one_writes(ending: Ending) -> list[str]:
    """I2, I4: one writable server at every moment, and nobody promoted before everything was ready for the kill."""
    most = ending.witness.stage.fleet.most_writable
    found = [f"I2: {most} accepted writes at once"] if most > 1 else []
    return found + (["I4: somebody was promoted before the kill"] if ending.promoted_unasked else [])


def _nothing_lost(ending: Ending) -> list[str]:
    """I3, by what the servers hold and not by what the verdict says; then whether the verdict agrees."""
    witness, stage = ending.witness, ending.witness.stage
    lost = _missing(ending)
    gone = sum((_rows(m) for m in witness.by_themselves), Counter()) if lost else Counter()
    found = []
    if unexplained := lost - gone:
        found.append(f"I3: {unexplained.total()} acknowledged writes are lost, such as {min(unexplained)}")
    if lost and _state(ending) is RunState.GOOD:
        found.append(f"I3: {lost.total()} acknowledged writes are lost and the verdict is good")
    verdict = ending.verdict
    if verdict and verdict.ledger and verdict.ledger.lost and not lost and stage.fleet.writable("lab"):
        found.append(f"I3: the verdict tells of {len(verdict.ledger.lost)} lost writes that are there")
    return found


def _missing(ending: Ending) -> Told:
    """What was acknowledged and is not on the master; without a master, what no server has in its files."""
    witness, stage = ending.witness, ending.witness.stage
    holders = stage.fleet.writable("lab") or stage.fleet.machines("lab")
    told, held = witness.acknowledged, Counter[tuple[str, Row]]()
    for machine in holders:
        held |= _rows(machine)
    return told - held


def _rows(machine: Machine) -> Told:
    """Everything that a server has in its log or its relay log; dropped tables included."""
    transactions: list[Transaction] = [*machine.log, *(t for _, t in machine.relay)]
    return Counter((t.table, t.row) for t in {t.gtid: t for t in transactions}.values())


def _dead_stays_dead(ending: Ending) -> list[str]:
    """I6: no master that has died comes back, nor does the victim."""
    back = [m.id.short for m in ending.witness.dead_masters if m.runs]
    found = [f"I6: {', '.join(back)} came back"] if back else []
    if ending.verdict is not None and ending.witness.plan.victim in _running(ending):
        found.append("I6: the victim runs")
    return found


def _running(ending: Ending) -> list[InstanceId]:
    return [m.id for m in ending.witness.stage.fleet.machines("lab") if m.runs]


def _as_found(ending: Ending) -> list[str]:
    """I9: a run that was refused or undone left the cluster as it found it, without those who died by themselves."""
    stage = ending.witness.stage
    if _state(ending) not in (RunState.UNDONE, RunState.REFUSED, None):
        return []
    gone = frozenset(m.id.short for m in ending.witness.by_themselves)
    behind = frozenset(m.id.short for m in _cut_off(ending))
    before, after = (without(p, gone, behind) for p in (stage.before, stage.fleet.picture("lab")))
    differences = [f"{was} is now {now}" for was, now in _pairs(before, after) if was != now]
    return [f"I9: {d}" for d in differences]


def _cut_off(ending: Ending) -> list[Machine]:
    """Replicas whose master died before they had its last writes, such as the one that cleaned up."""
    running = [m for m in ending.witness.stage.fleet.machines("lab") if m.runs]
    if any(m.openness is Openness.OPEN for m in running):
        return []
    return [m for m in running if not all(m.executed.covers(other.executed) for other in running)]


def without(picture: Picture, gone: frozenset[str], behind: frozenset[str]) -> Picture:
    """A picture without the servers that are gone, and without what is written in those that are behind."""
    unread = gone | behind
    return replace(
        picture,
        members=tuple(row for row in picture.members if row[0] not in gone),
        tables=tuple(row for row in picture.tables if row[0] not in unread),
        markers=tuple(row for row in picture.markers if row.partition(":")[0] not in unread),
    )


def _pairs(before: Picture, after: Picture) -> list[tuple[object, object]]:
    return [(getattr(before, name), getattr(after, name)) for name in Picture.__dataclass_fields__]


def _cleaned_up(ending: Ending) -> list[str]:
    """I11: a good run left nothing but its replacement, in a sound shape; a bad one names what it could not remove."""
    stage, state = ending.witness.stage, _state(ending)
    if state is RunState.GOOD:
        found = [*_unless("I11", stage.nothing_left)]
        late = [m for m in ending.witness.by_themselves if m in stage.fleet.machines("lab")]
        return found if late else [*found, *_unless("I8", stage.sound)]
    if state is RunState.BAD and ending.verdict is not None:
        named = any("could not" in f or "no master" in f for f in ending.verdict.faults)
        return [] if named else _left_on_the_master(stage)
    return []


def _left_on_the_master(stage: Stage) -> list[str]:
    """What a run made and did not remove; a replica that follows nobody keeps it, which is a fault of its own."""
    masters = frozenset(m.id.short for m in stage.fleet.writable("lab"))
    picture = stage.fleet.picture("lab")
    here = without(picture, frozenset(), frozenset(row[0] for row in picture.members) - masters)
    left = [*here.snapshots, *here.markers, *(f"{n} holds {t}" for n, t in here.tables if t != {"shop.items"})]
    return [f"I11: {thing} is left and nobody says so" for thing in left]


def _unless(what: str, holds: Callable[[], bool]) -> list[str]:
    try:
        holds()
    except (AssertionError, ValueError) as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        return [f"{what}: {str(error).partition(chr(10))[0] or line}"]
    return []
