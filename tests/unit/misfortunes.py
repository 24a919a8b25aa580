"""What can happen to a simulated run: each misfortune is a fact that dice drew, in words, and an order to the fleet."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from rotations import MS, SECOND, Stage

from reaper.domain.errors import TryAgainError, UsageError
from reaper.testing.faults import When
from reaper.testing.machine import Machine

PROVIDER_CALLS = ["members", "copies_hot", "snapshot", "launch", "resume_source", "aim", "proof_of_death"]
PROVIDER_CALLS += ["quarantine", "retire", "forget"]
SERVER_CALLS = ["connect", "facts", "executed", "semi_sync", "wait_applied", "halt", "join", "follow"]
SERVER_CALLS += ["resume_replication", "promote", "forget_source", "close_for_writes", "open_for_writes", "claim"]
SERVER_CALLS += ["write_marker", "marker_visible", "clear_marker", "create_probe_table", "probe_rows"]
SERVER_CALLS += ["drop_probe_table", "tables", "dump_pages", "pages_loaded"]
OTHER_CALLS = ["endpoint", "warm", "show", "route", "start_probe", "ready", "wait_acknowledged", "stop"]
OTHER_CALLS += ["crash", "terminate", "freeze", "thaw", "fence", "begin", "guards", "event", "end"]
CALLS = PROVIDER_CALLS + SERVER_CALLS + OTHER_CALLS
_A_RUN = 12_000  # ms: about as long as an undisturbed run
BUILD_WITHIN = 60 * SECOND


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A time since the run's beginning, or right before the n-th call of something."""

    ms: int = 0
    call: str = ""
    nth: int = 1

    def then(self, stage: Stage, action: Callable[[], None]) -> None:
        """Do something at this moment."""
        if not self.call:
            stage.fleet.clock.after(self.ms * MS, action)
            return
        left = self.nth

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                action()

        stage.fleet.faults.before(self.call, "*", count, times=self.nth)


class Misfortune(Protocol):
    """Something that befalls a run."""

    def befall(self, stage: Stage) -> None:
        """Order it."""


@dataclass(frozen=True, kw_only=True)
class CallFails:
    """A call fails, or is done and its answer is lost."""

    method: str
    times: int
    when: When

    def befall(self, stage: Stage) -> None:
        stage.fleet.fail(self.method, times=self.times, when=self.when)


@dataclass(frozen=True, kw_only=True)
class Throttled:
    """The provider turns calls away for a while, and then no more than so many of each kind."""

    methods: tuple[str, ...]
    since: Moment
    lasts: timedelta
    most: int

    def befall(self, stage: Stage) -> None:
        def begin() -> None:
            for method in self.methods:
                error = TryAgainError(f"{method}: the provider throttles us")
                burst = stage.fleet.fail(method, times=self.most, error=error)
                stage.fleet.clock.after(self.lasts, burst.lift)

        self.since.then(stage, begin)


@dataclass(frozen=True, kw_only=True)
class SlowSnapshot:
    """The copy takes its time, perhaps more than the policy gives."""

    takes: timedelta

    def befall(self, stage: Stage) -> None:
        stage.fleet.snapshot_takes = self.takes


@dataclass(frozen=True, kw_only=True)
class LagSpike:
    """A replica falls behind for a while: `receive`, what comes over the network; `apply`, what it applies."""

    who: str
    since: Moment
    lasts: timedelta
    receive: timedelta
    apply: timedelta

    def befall(self, stage: Stage) -> None:
        def begin() -> None:
            machine = machine_of(stage, self.who)
            if machine is not None:
                machine.knobs.receive_lag, machine.knobs.apply_lag = self.receive, self.apply
                stage.fleet.clock.after(self.lasts, lambda: end_of_lag(machine))

        self.since.then(stage, begin)


@dataclass(frozen=True, kw_only=True)
class Death:
    """A server ends by itself. `heir`: whoever the run has launched."""

    who: str
    at: Moment

    def befall(self, stage: Stage) -> None:
        def end() -> None:
            machine = machine_of(stage, self.who)
            if machine is not None and machine.runs:
                stage.fleet.kill(machine.id)

        self.at.then(stage, end)


@dataclass(frozen=True, kw_only=True)
class ClockJump:
    """Somebody sets the wall clock."""

    by: timedelta
    at: Moment

    def befall(self, stage: Stage) -> None:
        self.at.then(stage, lambda: stage.fleet.clock.jump(self.by))


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A person wants it to stop."""

    check: int

    def befall(self, stage: Stage) -> None:
        stage.fleet.interrupt.abort_at_check = self.check


@dataclass(frozen=True, kw_only=True)
class PowerCut:
    """Reaper's process dies after so many points; the next one begins a while later."""

    points: int
    dark: timedelta


def machine_of(stage: Stage, who: str) -> Machine | None:
    """The server of that name, or the one that the run launched; None: there is none, or none any more."""
    if who == "heir":
        return next((m for m in stage.fleet.machines("lab") if m.made_by is not None), None)
    try:
        return stage.n(who)
    except UsageError:
        return None


def end_of_lag(machine: Machine) -> None:
    """From now on what is committed arrives and is applied at once."""
    machine.knobs.receive_lag = machine.knobs.apply_lag = timedelta(0)


def draw(dice: random.Random, nodes: int) -> list[Misfortune]:
    """None, some, or many of them."""
    found: list[Misfortune] = []
    for _ in range(dice.choice([0, 0, 1, 1, 2, 3])):
        found.append(CallFails(method=dice.choice(CALLS), times=dice.randint(1, 2), when=dice.choice(list(When))))
    if dice.random() < 0.2:
        methods = tuple(sorted(dice.sample(PROVIDER_CALLS, dice.randint(1, 4))))
        lasts = dice.choice([SECOND, 5 * SECOND, 30 * SECOND])
        found.append(Throttled(methods=methods, since=_moment(dice), lasts=lasts, most=dice.randint(1, 40)))
    if dice.random() < 0.1:
        found.append(SlowSnapshot(takes=dice.choice([20 * SECOND, BUILD_WITHIN - SECOND, BUILD_WITHIN + 5 * SECOND])))
    for _ in range(dice.choice([0, 0, 0, 0, 1, 1, 2])):
        who = dice.choice([*(f"n{n}" for n in range(2, nodes + 1)), "heir"])
        lasts = dice.choice([200 * MS, SECOND, 4 * SECOND, 20 * SECOND])
        receive, apply = dice.choice([0, 0, 2, 50, 400]) * MS, dice.choice([5, 100, 1000, 8000]) * MS
        found.append(LagSpike(who=who, since=_moment(dice), lasts=lasts, receive=receive, apply=apply))
    if dice.random() < 0.2:
        victims = [*(f"n{n}" for n in range(2, nodes + 1)), "heir"]
        found.append(Death(who=dice.choice(victims), at=_moment(dice)))
    if dice.random() < 0.12:
        found.append(Death(who="n1", at=_moment(dice)))
    if dice.random() < 0.15:
        found.append(ClockJump(by=dice.choice([-30, -3, -1, 1, 2, 26]) * 3600 * SECOND, at=_moment(dice)))
    if dice.random() < 0.08:
        found.append(Wish(check=dice.randint(1, 60)))
    return found


def draw_power_cuts(dice: random.Random) -> list[PowerCut]:
    """The processes of a run that die; the one after them lives."""
    darks = [timedelta(0), timedelta(0), 5 * MS, SECOND, 20 * SECOND]
    return [
        PowerCut(points=dice.randint(1, 450), dark=dice.choice(darks)) for _ in range(dice.choice([0, 0, 0, 1, 2, 3]))
    ]


def _moment(dice: random.Random) -> Moment:
    if dice.random() < 0.5:
        return Moment(ms=dice.randint(0, _A_RUN))
    return Moment(call=dice.choice([*CALLS, "cross", "record"]), nth=dice.choice([1, 1, 2, 5, 20]))
