"""What a replacement has to show before it counts as a copy, and before its victim may die.

Restarted, compared, at parity, warm, verified: in this order, since a restart and a comparison both change what is
in memory. Each is a recorded step that may be begun twice. A failure is kept with the snapshot as its test.
"""

import contextlib
import secrets
from collections.abc import Callable
from datetime import timedelta
from types import NoneType

from reaper.domain.comparison import Comparison, Sample
from reaper.domain.errors import ReaperError, RefusedError, TryAgainError
from reaper.domain.facts import Instance, Openness, ThreadState
from reaper.domain.plan import Plan, Replacement, StepName
from reaper.domain.policy import Reference
from reaper.domain.rehearsal import Rehearsed
from reaper.domain.snapshots import RestoreTest, TestOutcome
from reaper.domain.verdict import GuardVerdict, Proven, Ruling
from reaper.domain.warmth import Warmth, WarmthGate
from reaper.planner.parity import compare as compare_inventories
from reaper.planner.parity import judge_parity
from reaper.workflow.pools import Pace
from reaper.workflow.prepare import Hands, Launched, elapsed, victim_of, within_the_time_to_build
from reaper.workflow.rehearsing import Theatre, rehearse, take_back
from reaper.workflow.server import Server
from reaper.workflow.warming import Surroundings, must_pass, warm_up
from reaper.workflow.world import World

_LOOK_EVERY = timedelta(milliseconds=50)
# For each wait of a rehearsal: a heir that is silent keeps a sibling stopped so long.
_REHEARSE_WITHIN = timedelta(seconds=5)


def prove(hands: Hands, launched: Launched, master: Instance) -> Proven:
    """Everything that a fresh replica has to show. RefusedError, TryAgainError: it does not deserve to be a copy."""
    trial = _Trial(hands, launched, master)
    steps = hands.steps
    steps.run("restart", NoneType, trial.restart)
    hands.undo.push(f"let replication on {launched.source.id.short} go on", trial.release_source)
    comparison = steps.run("compare", Comparison, trial.compare)
    parity = steps.run("parity", GuardVerdict, trial.parity)
    warmth = trial.warm()
    steps.run("verify", NoneType, trial.verify)
    return Proven(
        snapshot=launched.basis.record.name,
        reused=launched.basis.reused,
        snapshot_age=launched.age,
        restore_took=launched.took,
        comparison=comparison,
        parity=parity,
        warmth=warmth,
    )


class _Trial:
    def __init__(self, hands: Hands, launched: Launched, master: Instance) -> None:
        self._world = hands.world
        self._plan = hands.plan
        self._timeline = hands.timeline
        self._steps = hands.steps
        self._launched = launched
        self._heir = launched.heir
        self._master = master
        self._check = within_the_time_to_build(hands.world, hands.plan)

    def _connect(self, instance: Instance) -> contextlib.closing[Server]:
        return contextlib.closing(self._world.connect(self._plan.cluster, instance))

    def _judge(self, outcome: TestOutcome, words: str) -> None:
        """The result of its restore test is part of what is known of a snapshot."""
        test = RestoreTest(at=self._world.clock.now(), outcome=outcome, words=words)
        self._world.book.tested(self._launched.basis.record.name, self._plan.run, test)

    # ---- a clean restart (E16)

    def restart(self) -> None:
        """Down and up again under the configuration that it will run with; it replicates again by itself."""
        name = self._heir.id.short
        self._check()
        with self._timeline.step(StepName.RESTART, f"{name}, cleanly") as outcome:
            began = self._world.clock.monotonic_ns()
            heir = self._world.fleet.restart(self._heir, self._check)
            with self._connect(heir) as server:
                server.resume_replication()
                self._until(lambda: _replicates(server), f"{name} does not replicate after its restart")
            outcome.detail = f"{name} came back clean after {elapsed(self._world, began).total_seconds():.2f} s"

    # ---- its data, at one position (E16, E29)

    def compare(self) -> Comparison:
        """Checksums of its tables against those of the server that it was copied from."""
        policy, source = self._plan.policy, self._reference
        sample = Sample(within=policy.compare_within, share=policy.compare_share, seed=self._seed)
        self._check()
        what = f"{self._heir.id.short} with {source.id.short}"
        with self._timeline.step(StepName.COMPARE, what) as outcome:
            found = self._world.comparer.compare(
                self._plan.cluster, source, self._heir, sample, self._check, lambda _said: None
            )
            outcome.detail = f"{what}: {_counted(found)}"
            if not found.sound:
                self._refuse_data(found)
        return found

    @property
    def _reference(self) -> Instance:
        return self._master if self._plan.policy.compare_with is Reference.MASTER else self._launched.source

    @property
    def _seed(self) -> int:
        """Of the sample: another one for each run, the same one for a repeated step."""
        return sum(self._plan.run.encode())

    def release_source(self) -> None:
        """A comparison that was killed may have left the replica that it compared with standing."""
        if self._reference.id != self._master.id:
            self._world.comparer.release(self._plan.cluster, self._reference)

    def _refuse_data(self, found: Comparison) -> None:
        lines = tuple(map(str, (*found.differences, *found.skipped)))
        verdict = GuardVerdict(guard="data", ruling=Ruling.REFUSE, reason=str(found), evidence=lines)
        self._world.journal.guards(self._plan.run, (verdict,))
        self._judge(TestOutcome.FAILED, str(found))
        if found.complete:
            raise RefusedError(
                f"the data of {self._heir.id.short} are not those of {self._reference.id.short}: {found}. "
                "Nothing was killed. Find out which of the two is right before either is copied again"
            )
        raise RefusedError(
            f"{found}. Nothing was killed: allow more time (`verify: within`) or compare a share (`verify: share`)"
        )

    # ---- all else that clients and replication notice (E18, E19)

    def parity(self) -> GuardVerdict:
        """Its inventory against the master's."""
        self._check()
        key, name = secrets.token_bytes(32), self._heir.id.short
        with self._timeline.step(StepName.PARITY, f"{name} with {self._master.id.short}") as outcome:
            with self._connect(self._master) as server:
                reference = server.inventory(key)
            with self._connect(self._heir) as server:
                subject = server.inventory(key)
            compared = compare_inventories(self._master.id.short, reference, {name: subject})
            verdict = judge_parity(compared, self._plan.policy.waivers, self._world.clock.now())
            outcome.detail = verdict.reason
            if verdict.ruling is Ruling.REFUSE:
                self._world.journal.guards(self._plan.run, (verdict,))
                self._judge(TestOutcome.FAILED, f"parity: {verdict.reason}")
                raise RefusedError(f"parity: {verdict.reason}")
        return verdict

    # ---- its memory (E25)

    def warm(self) -> Warmth | None:
        """Its page list is loaded; then the policy's gate, if it has one and there is a victim to compare with."""
        gate, steps = self._plan.policy.warm, self._steps
        if gate is None or self._plan.replacement is not Replacement.BEFORE:
            steps.run("warm", NoneType, self._load)
            return None
        pace = steps.run("read the heir's pace", Pace, self._pace)
        return steps.run("warm", Warmth, lambda: self._pass_gate(gate, pace))

    def _load(self) -> None:
        name = self._heir.id.short
        self._check()
        with self._timeline.step(StepName.WARM, f"{name} loads its page list"), self._connect(self._heir) as server:
            self._until(server.pages_loaded, f"{name} did not load its page list")

    def _pace(self) -> Pace:
        with self._world.side(self._plan.cluster, self._heir) as heir:
            return heir.pool.pace()

    def _pass_gate(self, gate: WarmthGate, pace: Pace) -> Warmth:
        world, plan = self._world, self._plan
        victim = victim_of(world, plan)
        if victim is None:
            raise TryAgainError(f"{plan.victim} is gone: there is nobody to be as warm as")
        around = Surroundings(clock=world.clock, check=self._check, tell=lambda _said: None)
        with (
            self._timeline.step(StepName.WARM, f"{self._heir.id.short} as {victim.id.short}") as outcome,
            world.side(plan.cluster, victim) as one,
            world.side(plan.cluster, self._heir) as other,
        ):
            found = warm_up(gate, one, other, around, pace)
            outcome.detail = f"{self._heir.id.short} is {found.words}"
            must_pass(gate, found)
        return found

    # ---- who it is, and what it does

    def verify(self) -> None:
        """The last look before it counts as a copy."""
        self._check()
        with self._timeline.step(StepName.VERIFY, self._heir.id.short) as outcome, self._connect(self._heir) as server:
            try:
                outcome.detail = self._verified(server)
            except ReaperError as error:
                self._judge(TestOutcome.FAILED, str(error))
                raise
        self._judge(TestOutcome.PASSED, outcome.detail)

    def _verified(self, server: Server) -> str:
        heir, master, wanted = self._heir, self._master, self._launched.tables
        with self._connect(master) as source:
            source.write_marker(self._plan.run)
            target = source.executed()
            wanted &= source.tables()  # what was dropped meanwhile is not missing
        if not server.wait_applied(target, self._plan.policy.max_lag) or not server.marker_visible(self._plan.run):
            raise TryAgainError(f"a row written on {master.id.short} does not appear on {heir.id.short}")
        missing = wanted - server.tables()
        if missing:
            raise TryAgainError(f"{heir.id.short} lacks tables of the source: {', '.join(sorted(missing)[:5])}")
        facts = server.facts()
        if facts.server_id != heir.server_id:
            raise TryAgainError(f"{heir.id.short} runs with server id {facts.server_id}, not {heir.server_id} (E14)")
        if facts.openness is Openness.OPEN:
            raise TryAgainError(f"{heir.id.short} accepts writes before it is master (E08)")
        channel = facts.channels[0]
        if channel.receiver is not ThreadState.RUNNING or channel.applier is not ThreadState.RUNNING:
            why = channel.receiver_error or channel.applier_error
            raise TryAgainError(f"{heir.id.short} stopped replicating: {why}")
        return f"{heir.id.short}: marker row, {len(wanted)} tables, read-only, server id {facts.server_id}, replicating"

    def _until(self, ready: Callable[[], bool], fault: str) -> None:
        world, within = self._world, self._plan.policy.join_within
        began = world.clock.monotonic_ns()
        while not ready():
            world.interrupt.check()
            if elapsed(world, began) > within:
                raise TryAgainError(f"{fault} within {within}")
            world.clock.sleep(_LOOK_EVERY)


def _replicates(server: Server) -> bool:
    channels = server.facts().channels
    return bool(channels) and all(ThreadState.RUNNING is thread for c in channels for thread in (c.receiver, c.applier))


def _counted(found: Comparison) -> str:
    counted = f"{found.rows} rows in {found.tables} tables are equal" if found.sound else str(found)
    return f"{counted}; {found.confidence}" if found.sound and found.share < 1 else counted


# ---- the others can follow it (E21)


def theatre_of(world: World, plan: Plan) -> Theatre:
    """What a rehearsal needs."""
    return Theatre(
        connect=lambda instance: world.connect(plan.cluster, instance),
        clock=world.clock,
        check=world.interrupt.check,
        within=_REHEARSE_WITHIN,
    )


def rehearse_failover(
    hands: Hands, master: Instance, siblings: tuple[Instance, ...], heir: Instance
) -> tuple[Rehearsed, ...]:
    """Every sibling replicates from the heir for a moment. RefusedError: one of them cannot."""
    theatre = theatre_of(hands.world, hands.plan)
    take_back(theatre, siblings)  # what a process that died has left
    names = ", ".join(s.id.short for s in siblings)
    with hands.timeline.step(StepName.REHEARSE, f"{names} follow {heir.id.short} for a moment") as outcome:
        heard = rehearse(theatre, master, siblings, heir)
        outcome.detail = "; ".join(one.why for one in heard)
        if failed := [one.why for one in heard if not one.ok]:
            raise RefusedError(f"rehearsal: {'; '.join(failed)}")
    return heard
