"""One run from its plan to its verdict: prepare, cut over, retire.

Before the kill a failure is undone and the cluster is as it was found. After it the only way is
forward: what goes wrong is collected as a fault, and a run that cannot finish calls a person (I9, I12).
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from types import NoneType

from reaper.domain.errors import (
    AbortedError,
    CallAPersonError,
    OwnershipLostError,
    ReaperError,
    RefusedError,
)
from reaper.domain.facts import Instance, InstanceState
from reaper.domain.parity import Amiss, HandOver, Scheduler
from reaper.domain.plan import Plan, Replacement, Role, StepName
from reaper.domain.policy import FailoverBy, KillMode, Loss
from reaper.domain.rehearsal import Rehearsed
from reaper.domain.verdict import GuardVerdict, RunState, RunVerdict
from reaper.domain.warmth import Recovery
from reaper.planner.guards import Moment, judge, refusals
from reaper.planner.parity import to_hand_over
from reaper.planner.shape import OtherShape, classify, living
from reaper.planner.words import in_words
from reaper.workflow.aftermath import GONE, KEPT_FOR_A_PERSON, Aftermath, Outcome, wait_while_paused
from reaper.workflow.claim import Claim
from reaper.workflow.cutover import (
    Armed,
    Moments,
    Succession,
    arm,
    check_still_master,
    cut_over,
    drain,
    kill_only,
    open_again,
    quiet,
    undrain,
)
from reaper.workflow.evidence import client_costs, recovery_faults
from reaper.workflow.examine import Examined, examine
from reaper.workflow.forward import Forward
from reaper.workflow.normal import Normal, follow_to_normal, measure_normal
from reaper.workflow.observe import mark, observe
from reaper.workflow.ports import Probe
from reaper.workflow.prepare import Hands, Names, Undo, build_replacement, instance_of, victim_of
from reaper.workflow.proving import prove, rehearse_failover, theatre_of
from reaper.workflow.rehearsing import take_back
from reaper.workflow.run import Timeline
from reaper.workflow.steps import Message, Op, Steps
from reaper.workflow.world import World

_LOOK_EVERY = timedelta(milliseconds=50)
_PROBE_BEFORE = timedelta(seconds=1)  # writes on record before the kill


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What the first guards let pass."""

    master: Instance
    lossless: bool  # the master is a semi-sync source, and so is to be its heir
    copies: int


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What the kill and the failover left behind. `outcome` None: the failover could not be finished."""

    outcome: Outcome | None
    master: Instance | None
    faults: tuple[str, ...]
    stuck: str  # why it could not be finished; "" otherwise


@dataclass(kw_only=True)
class _Ready:
    """Everything that the kill needs, in this process: never recorded, made again by the next one."""

    armed: Armed
    probe: Probe
    normal: Normal | None  # None: nobody fails over


class Rotation:
    """Runs one plan over recorded steps. A process that dies is followed by one that replays what it recorded."""

    def __init__(self, world: World, plan: Plan, steps: Steps) -> None:
        self._world = world
        self._plan = plan
        self._steps = steps
        self._timeline = Timeline(world, plan)
        self._undo = Undo(world, plan, steps)
        self._names = Names(plan.run)
        self._after = Aftermath(world, plan, self._timeline, steps)
        self._claim = Claim(world, plan)
        self._found: Examined | None = None  # by the first guards, if it was in this process
        self._lossless = plan.policy.loss is Loss.FORBIDDEN
        self._stage = contextlib.ExitStack()
        self._ready: _Ready | None = None

    def execute(self) -> RunVerdict:
        """Run the plan. RefusedError, TryAgainError, AbortedError: all undone. CallAPersonError: look at it.

        OwnershipLostError: another worker goes on with it, and nothing more is done here.
        """
        with contextlib.closing(self._claim):
            return self._execute()

    def _execute(self) -> RunVerdict:
        try:
            with self._stage:
                passed, scheduled, struck = self._up_to_the_outcome()
        except ReaperError as error:
            self._give_up(error)
            raise
        if struck.master is not None:
            self._claim.try_to_hold(struck.master)
        self._after.master = struck.master
        self._after.faults += struck.faults
        if struck.outcome is None:
            raise self._stuck(struck.stuck)
        self._hand_over(scheduled)
        return self._after.end(self._after.retire(struck.outcome, passed.copies))

    def _up_to_the_outcome(self) -> tuple[Passed, HandOver, Struck]:
        plan, steps, after = self._plan, self._steps, self._after
        steps.run("begin", NoneType, lambda: self._world.journal.begin(plan))
        passed = steps.run("guards", Passed, self._pass_first_guards)
        after.master, self._lossless = passed.master, passed.lossless
        self._undo.push("clear the marker row", after.clear_marker)
        steps.run("marker", NoneType, lambda: self._pass_marked_guards(passed.master))
        self._claim.try_to_hold(passed.master)  # held again by a process that goes on
        heir = None
        if plan.replacement is Replacement.BEFORE:
            heir = self._build(passed.master)
        scheduled = self._look_at_events(passed.master)
        self._ask_a_person(heir)
        table = self._names.probe_table
        self._undo.push("drop the probe's table", lambda: after.drop_probe_table(table))
        self._undo.push("open the drained master", self._open_victim_again)
        steps.run("get ready", NoneType, lambda: self._get_ready(heir))
        try:
            struck = steps.run("cutover", Struck, lambda: self._cut_over(heir))
            self._world.interrupt.crossed()  # a replay comes here without having killed in this process
            return passed, scheduled, struck
        except OwnershipLostError:
            raise
        except BaseException:
            if self._ready is not None:
                undrain(self._world, self._ready.armed)
            raise

    def _build(self, master: Instance) -> Instance:
        """A replacement that deserves to be master."""
        world, plan, steps = self._world, self._plan, self._steps
        hands = Hands(world=world, plan=plan, timeline=self._timeline, steps=steps, undo=self._undo)
        launched = build_replacement(hands, plan.snapshot_from, master)
        heir, proven = launched.heir, prove(hands, launched, master)
        if self._fails_over:
            siblings = steps.run("find the siblings", tuple[Instance, ...], lambda: self._siblings(heir))
            self._undo.push("take the rehearsal back", lambda: take_back(theatre_of(world, plan), siblings))
            rehearsed = steps.run(
                "rehearse", tuple[Rehearsed, ...], lambda: rehearse_failover(hands, master, siblings, heir)
            )
            proven = replace(proven, rehearsed=rehearsed)
        self._after.proven = proven
        return heir

    @property
    def _fails_over(self) -> bool:
        """The victim is a master, and reaper puts the heir in its place."""
        return self._plan.role is Role.MASTER and self._plan.policy.failover is FailoverBy.REAPER

    def _siblings(self, heir: Instance) -> tuple[Instance, ...]:
        spared = (self._plan.victim, heir.id)
        members = living(observe(self._world, self._plan.cluster))
        return tuple(m.instance for m in members if m.instance.id not in spared)

    # ---- what the master runs by schedule (E19)

    def _look_at_events(self, master: Instance) -> HandOver:
        """Read before its death: nobody can tell from its replicas."""
        if not self._fails_over:
            return HandOver(scheduler=Scheduler.OFF, events=())
        return self._steps.run("look at the events", HandOver, lambda: self._events_of(master))

    def _events_of(self, master: Instance) -> HandOver:
        with contextlib.closing(self._world.connect(self._plan.cluster, master)) as server:
            return to_hand_over(server.events())

    def _hand_over(self, wanted: HandOver) -> None:
        """The new master runs what the old one ran, once the siblings follow it."""
        if self._fails_over and (wanted.events or wanted.scheduler is Scheduler.ON):
            self._after.step("hand over the events", lambda: self._take_over(wanted))

    def _take_over(self, wanted: HandOver) -> None:
        names = ", ".join(event.full_name for event in wanted.events) or "the scheduler alone"
        with self._timeline.step(StepName.HAND_OVER, names):
            amiss: list[Amiss] = []
            self._after.on_master(lambda server: amiss.extend(server.hand_over(wanted)))
            self._after.faults += [f"after the promotion the event {one}" for one in amiss]

    def _give_up(self, error: ReaperError) -> None:
        """The kill has not happened: undo everything and say how it ended."""
        left = self._undo.run()
        message = "; ".join((str(error), *left))
        state = RunState.REFUSED if isinstance(error, RefusedError) else RunState.UNDONE
        self._after.record_the_end(RunState.STUCK if left else state, None, message)
        if left and not isinstance(error, CallAPersonError):
            raise CallAPersonError(message) from error

    def _stuck(self, why: str) -> CallAPersonError:
        """The victim is dead and nobody could be put in its place: keep everything for a person."""
        after, name = self._after, self._plan.victim.short
        after.step(f"quarantine {name}", lambda: after.put_away(KEPT_FOR_A_PERSON))
        message = "; ".join((why, *after.faults))
        after.record_the_end(RunState.STUCK, None, message)
        return CallAPersonError(message)

    # ---- guards

    def _pass_first_guards(self) -> Passed:
        """Reads only: nothing is written before every guard has let it pass."""
        found = examine(self._world, self._plan, Moment.PLAN, None)
        self._must_go(found.verdicts)
        self._found = found
        shape = classify(found.case.view)
        if isinstance(shape, OtherShape):
            raise RefusedError(f"shape: {shape.name}: {shape.why}")
        master = shape.master
        # Whoever accepts a loss once has not asked for a cluster that can lose writes from then on.
        lossless = bool(master.facts and master.facts.semi_sync.source_enabled)
        return Passed(master=master.instance, lossless=lossless, copies=len(living(found.case.view)))

    def _pass_marked_guards(self, master: Instance) -> None:
        self._claim.must_hold(master)
        if self._found is None:
            self._pass_guards(Moment.PLAN, None)
        else:
            self._judge_marked(self._found)

    def _pass_guards(self, moment: Moment, heir: Instance | None) -> None:
        found = examine(self._world, self._plan, moment, heir)
        self._must_go(found.verdicts)
        self._judge_marked(found)

    def _judge_marked(self, found: Examined) -> None:
        """The guards again with a row that was written and looked for."""
        world, plan, case = self._world, self._plan, found.case
        marker = mark(world, case.view, plan.policy, plan.run)
        verdicts = judge(replace(case, soak=replace(case.soak, marker=marker))) + found.others
        self._must_go(verdicts)
        world.journal.guards(plan.run, verdicts)
        world.interrupt.check()

    def _must_go(self, verdicts: tuple[GuardVerdict, ...]) -> None:
        refused = refusals(verdicts)
        if refused:
            self._world.journal.guards(self._plan.run, verdicts)
            raise RefusedError("; ".join(f"{v.guard}: {v.reason}" for v in refused))

    # ---- a person's yes

    def _ask_a_person(self, heir: Instance | None) -> None:
        """Wait for a yes, if the policy asks for one. AbortedError: a person said no, or nobody said anything."""
        plan, steps, within = self._plan, self._steps, self._plan.policy.approval_within
        if within is None:
            return
        built = f", {heir.id.short} is ready to inherit" if heir else ""
        what = f"{plan.policy.mode} kill of {plan.victim}, the {plan.role} of {plan.cluster}{built}"
        steps.waits_for(f"a person's yes to the {what}: `reaper approve {plan.run}`")
        while (message := steps.receive(within)) is not None and not self._answers(message):
            continue
        steps.waits_for("")
        if message is None:
            raise AbortedError(f"nobody approved the {what} within {within}: everything is undone")
        if message.op is Op.ABORT:
            raise AbortedError(f"aborted {message.by}")
        said = f"approved {message.by}"
        steps.run("note the approval", NoneType, lambda: self._timeline.note(StepName.KILL, said))

    def _answers(self, message: Message) -> bool:
        """A no is anybody's; a yes is that of those whom the policy names."""
        yes = message.op is Op.APPROVE and self._plan.policy.accepts_yes_of(message.who)
        return yes or message.op is Op.ABORT

    # ---- the kill, under the probe

    def _open_victim_again(self) -> None:
        victim = victim_of(self._world, self._plan)
        if victim is not None and victim.state is InstanceState.RUNNING:
            open_again(self._world, self._plan, victim)

    def _get_ready(self, heir: Instance | None) -> None:
        """Probe, connections, last guards, drain: all that precedes the kill. Held while the lever is pulled."""
        while True:
            wait_while_paused(self._world, self._steps)
            self._open_victim_again()  # a process that has died may have drained it
            try:
                self._ready = self._arm(heir)
            except BaseException:
                self._stage.close()
                raise
            if self._world.paused() is None:
                return
            undrain(self._world, self._ready.armed)
            self._ready = None
            self._stage.close()

    def _arm(self, heir: Instance | None) -> _Ready:
        world, plan, stage, table = self._world, self._plan, self._stage, self._names.probe_table
        if self._after.master is not None:
            self._claim.must_hold(self._after.master)
        victim = instance_of(world, plan.cluster, plan.victim)
        others = [m.instance for m in living(observe(world, plan.cluster)) if m.instance.id != plan.victim]
        # Rows of a probe whose process died before the kill are no evidence, and would be counted as duplicates.
        self._after.drop_probe_table(table)
        self._after.on_master(lambda s: s.create_probe_table(table))
        probe = stage.enter_context(contextlib.closing(world.start_probe(plan, table)))
        with self._timeline.step(StepName.PROBE, "clients write through the endpoint"):
            world.clock.sleep(_PROBE_BEFORE)
        normal = measure_normal(world, plan, victim) if self._fails_over else None
        armed = stage.enter_context(
            arm(world, plan, victim, others, heir, lossless=self._lossless, own=self._steps.own)
        )
        self._pass_guards(Moment.KILL, heir)
        if plan.policy.mode is KillMode.DRAIN:
            drain(world, armed, self._timeline)
        return _Ready(armed=armed, probe=probe, normal=normal)

    def _cut_over(self, heir: Instance | None) -> Struck:
        """Kill and fail over. A ReaperError is raised only while the victim lives."""
        world, plan = self._world, self._plan
        if self._ready is None:  # the process that got ready has died: did it kill?
            struck = self._go_on_if_killed()
            if struck is None:
                try:
                    self._get_ready(heir)
                except ReaperError:  # it was asked to end, answered a last time, and has ended meanwhile?
                    struck = self._go_on_if_killed()
                    if struck is None:
                        raise
            if struck is not None:
                return struck
        ready = self._ready
        if ready is None:
            raise CallAPersonError("nothing is ready for the kill")
        self._must_write(ready)
        world.interrupt.cross()
        if plan.role is Role.MASTER:
            check_still_master(ready.armed)
        self._steps.own()
        self._ready = None  # from here on the victim is never opened again
        return self._beyond_the_kill(lambda: self._under_the_probe(ready))

    def _must_write(self, ready: _Ready) -> None:
        """A probe that has ended, because its owner stood still for a while, would see no outage: nothing is killed."""
        if ready.armed.drained:
            return  # closed for writes: it is refused by now, and was heard of when the guards passed
        policy, now = self._plan.policy, self._world.clock.monotonic_ns()
        within = _PROBE_BEFORE + timedelta(seconds=2 * policy.probe_clients / policy.probe_rate)
        if not ready.probe.wait_acknowledged(now, within):
            raise RefusedError(
                f"the probe's writes were not acknowledged within {within.total_seconds():.1f} s right before the "
                "kill: nobody would see the outage, nothing was killed"
            )

    def _go_on_if_killed(self) -> Struck | None:
        """The rest of a cutover whose process has died; None: it had not killed.

        What cannot be told counts as a kill: to undo would delete the heir, and it may be the master by now.
        """
        try:
            gone, victim = self._is_victim_gone()
        except ReaperError as error:
            return Struck(outcome=None, master=None, faults=(), stuck=str(error))
        if not gone:
            return None
        self._world.interrupt.crossed()
        forward = Forward(self._world, self._plan, self._timeline, self._after, self._steps.own)
        return self._beyond_the_kill(lambda: forward.go_on(victim))

    def _is_victim_gone(self) -> tuple[bool, Instance | None]:
        """Whether it is dead or frozen, and its record. One that was told to die takes time: it lives if it answers.

        CallAPersonError: neither was to be learned within the time.
        """
        world, plan = self._world, self._plan
        deadline = world.clock.monotonic_ns() + int(plan.policy.undo_within.total_seconds() * 1e9)
        while True:
            try:
                victim = victim_of(world, plan)
                if victim is None or victim.state in (*GONE, InstanceState.FROZEN):
                    return True, victim
                with contextlib.closing(world.connect(plan.cluster, victim)) as server:
                    server.executed()
            except ReaperError as error:
                if world.clock.monotonic_ns() > deadline:
                    raise CallAPersonError(
                        f"whether {plan.victim.short} was killed before reaper died cannot be told: {error}. Nothing "
                        f"was undone. See whether it runs, then `reaper resume {plan.run}`"
                    ) from error
                world.clock.sleep(_LOOK_EVERY)
            else:
                return False, victim

    def _beyond_the_kill(self, finish: Callable[[], Outcome]) -> Struck:
        """The point of no return is behind us: whatever is wrong is recorded, not raised."""
        self._timeline.forgive()
        outcome, stuck = None, ""

        def attempt() -> None:
            nonlocal outcome, stuck
            try:
                outcome = finish()
            except ReaperError as error:
                stuck = str(error)

        faults = self._after.collect(attempt)
        return Struck(outcome=outcome, master=self._after.master, faults=faults, stuck=stuck)

    def _under_the_probe(self, ready: _Ready) -> Outcome:
        """The first thing is the kill."""
        world, plan, armed, probe = self._world, self._plan, ready.armed, ready.probe
        if self._fails_over:
            with quiet(world, self._timeline):
                succession = cut_over(world, armed, self._timeline)
                self._after.master = succession.heir
                self._after.faults += succession.faults
                stale_for = armed.endpoint.stale_for
                back = self._wait_for_writes(probe, succession.moments.rerouted, stale_for)
            if not back:
                self._after.faults.append("writes were not acknowledged again after the failover")
            notes = (f"proof of death: {succession.proof}", *_staleness(stale_for))
            recovery = self._follow(ready.normal, succession)
            outcome = self._after.measure(probe, succession.heir, succession.moments, notes)
            self._after.attempt("forget the dead master", lambda: self._after.on_master(lambda s: s.forget_source()))
            return replace(outcome, recovery=recovery)
        with quiet(world, self._timeline):
            moments, proof = kill_only(world, armed, self._timeline)
        notes = (f"proof of death: {proof}",)
        if plan.role is Role.MASTER:
            return self._watch_failover(probe, moments, notes)
        if not self._wait_for_writes(probe, moments.dead):
            self._after.faults.append("writes were not acknowledged again after the kill")
        return self._after.measure(probe, None, moments, notes)

    def _follow(self, normal: Normal | None, succession: Succession) -> Recovery | None:
        if normal is None:
            return None
        world, plan, kill, heir = self._world, self._plan, succession.moments.kill, succession.heir
        recovery = self._after.attempt(
            "follow the canaries", lambda: follow_to_normal(world, plan, normal, heir, kill, self._timeline)
        )
        self._after.faults += recovery_faults(recovery, plan.policy)
        return recovery

    def _wait_for_writes(self, probe: Probe, after_ns: int, stale_for: timedelta = timedelta(0)) -> bool:
        within = self._plan.policy.failover_within + stale_for
        return bool(self._after.attempt("follow the probe", lambda: probe.wait_acknowledged(after_ns, within)))

    def _watch_failover(self, probe: Probe, moments: Moments, notes: tuple[str, ...]) -> Outcome:
        """Somebody else fails over; grade them against the deadline."""
        plan = self._plan
        seconds = f"{plan.policy.failover_within.total_seconds():g} s"
        self._after.master = None
        with self._timeline.step(StepName.WATCH, f"the site's own tool has {seconds}") as step:
            back = self._wait_for_writes(probe, moments.dead)
            step.detail = "writes are acknowledged again" if back else f"no write was acknowledged within {seconds}"
        if not back:
            self._after.faults.append(
                f"nobody failed over within {seconds}: {plan.cluster} has no master. Promote a replica with the "
                f"site's own tool or by hand; the victim's files are kept for {KEPT_FOR_A_PERSON.days} days"
            )
            ledger = self._after.attempt("read the probe's ledger", probe.stop)
            costs = client_costs(ledger, kill_ns=moments.kill, until_ns=moments.dead) if ledger else ()
            return Outcome(heir=None, costs=costs, notes=notes, leaderless=True)
        view = self._after.observe_until(lambda v: ["unsound"] if isinstance(classify(v), OtherShape) else [])
        shape = classify(view)
        if isinstance(shape, OtherShape):
            self._after.faults.append(f"after the failover the shape is not sound: {shape.name}: {shape.why}")
        else:
            self._after.master = shape.master.instance
        return self._after.measure(probe, self._after.master, moments, notes)


def _staleness(stale_for: timedelta) -> tuple[str, ...]:
    """A client that asked right before the move has an answer that leads to a dead server for that long."""
    return (f"clients may go on to the dead master for up to {in_words(stale_for)} (the TTL)",) if stale_for else ()
