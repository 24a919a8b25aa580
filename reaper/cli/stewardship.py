"""Policies, their clock, the queue of runs, a worker, and who is told: put together for the daemon and for cron."""

import sys
import threading
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from reaper.adapters.announce.dispatcher import Dispatcher
from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.schedule.timetable import Timetable
from reaper.adapters.store.engine import Engine
from reaper.adapters.store.work import Limits
from reaper.adapters.telemetry.metrics import Firing, Reload, Telemetry
from reaper.adapters.telemetry.notify import Notifier
from reaper.adapters.telemetry.server import Health, StatusServer
from reaper.adapters.telemetry.states import PolicyState
from reaper.cli import groups
from reaper.cli.compose import Site
from reaper.cli.durable import following
from reaper.cli.groups_herald import GroupHerald
from reaper.cli.herald import Herald, Several
from reaper.cli.journal import LogJournal
from reaper.cli.logging import bring_in, logger
from reaper.cli.orderbook import Lookout, OrderBook
from reaper.cli.policyfiles import PolicyFiles
from reaper.cli.settings import Settings, read_settings
from reaper.domain.almanac import Hours, Open
from reaper.domain.announcement import Announcement
from reaper.domain.errors import CallAPersonError, ReaperError, UsageError
from reaper.domain.plan import Plan
from reaper.domain.standing import Leash, StandingPolicy
from reaper.planner.announcing import files_misread, firing_ahead, firings_missed
from reaper.planner.orders import seed_of
from reaper.planner.selection import Occasion
from reaper.workflow.groups import GroupJournal
from reaper.workflow.ports import Journal
from reaper.workflow.steward import Outcome, Steward

TICK = timedelta(seconds=1)
# Ticks between what costs something with a thousand policies.
LOOK_AT_FILES = 10
SHOW_STATES = 30
REMEMBER_LOOK = 60
TELL_AT_THE_END = timedelta(seconds=10)


class Stewardship(AbstractContextManager["Stewardship"]):
    """Everything that carries out policies in this process. UsageError: not one policy can be read."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._settings: Settings = read_settings(site.home)
        self._log = logger()
        self._dispatcher = Dispatcher(self._settings.channels, self._log)
        self._telemetry = Telemetry(_now)
        self._files = PolicyFiles()
        self._store = site.policies
        self._book = OrderBook(site)
        world = site.world(LogJournal(), SignalInterrupt())
        lookout = Lookout(world, groups.reached(site), self._telemetry, self._log)
        self._steward = Steward(self._store, self._book, lookout.at_all, lookout.at, self._tell)
        self._timetable = Timetable(self._fire, self._missed)
        self._herald = Herald(self._announce_run, self._recall)
        self._group_herald = GroupHerald(self._announce_to, lambda run: groups.recalled(site, run))
        self._told_ahead: dict[str, datetime] = {}
        self._broken: BaseException | None = None
        self._engine: Engine
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        bring_in("apscheduler")
        self._files.read(_now())
        if not self._files.policies and self._files.mistakes:
            raise UsageError("\n        ".join(("there is no policy without mistakes:", *self._files.mistakes)))
        self._put_in_force()
        for fault in self._dispatcher.faults():
            self._log.error("channel", fault=fault)
        self._stack.callback(self._dispatcher.close, TELL_AT_THE_END)
        self._engine = self._stack.enter_context(
            following(self._site, self._listener, self._dispatcher.quiet, self._group_listener)
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    # ---- the daemon

    def serve(self, stop: threading.Event, again: threading.Event, notifier: Notifier) -> None:
        """Fire, follow, and tell, until told to stop; what is past its kill then has its time to end."""
        listen = self._settings.listen
        status = StatusServer(listen, self._telemetry, self._health, self._ready) if listen else nullcontext()
        with status:
            worker = self._start_worker(stop)
            self._begin()
            self._timetable.start()
            armed = sum(p.leash is Leash.OFF for p in self._files.policies.values())
            words = f"{len(self._files.policies)} policies, {armed} armed"
            self._log.info("daemon", follows=self._engine.executor, policies=words, listens=str(listen or "nowhere"))
            notifier.ready(words)
            self._show()
            ticks = 0
            while not stop.wait(TICK.total_seconds()):
                ticks += 1
                if again.is_set() or (ticks % LOOK_AT_FILES == 0 and self._files.changed()):
                    again.clear()
                    self._read_policies()
                    notifier.status(f"{len(self._files.policies)} policies")
                self._tick()
                if ticks % SHOW_STATES == 0:
                    self._show()
                if ticks % REMEMBER_LOOK == 0:
                    self._remember_look()
                if not worker.is_alive():
                    break
                notifier.alive()
            notifier.stopping("finishes what is past its kill")
            self._log.info("daemon stops")
            stop.set()
            self._timetable.stop()
            worker.join()
        if self._broken is not None:
            raise CallAPersonError(f"the worker ended: {self._broken}") from self._broken

    # ---- cron

    def once(self, stop: threading.Event) -> bool:
        """Fire what is due now and follow what begins to its end. False: a run or a file of a policy was not good."""
        done = threading.Event()
        worker = self._start_worker(done)
        self._begin()
        while not stop.wait(TICK.total_seconds()) and worker.is_alive():
            self._tick()
            if not self._steward.pending and not self._mine():
                break
        done.set()
        worker.join()
        bad = self._herald.bad or self._group_herald.bad
        return not self._files.mistakes and not bad and self._broken is None

    def _mine(self) -> bool:
        """Whether a run waits for a worker, or this process follows one."""
        return any(r.executor in (None, self._engine.executor) or not r.alive for r in self._site.work.open_runs())

    # ---- shared

    def _start_worker(self, stop: threading.Event) -> threading.Thread:
        def limits() -> Limits:
            said = self._settings
            clusters = len(self._site.fleet.clusters()) if said.percent is not None else None
            return Limits(
                in_flight=said.in_flight, per_group=said.per_group, percent=said.percent, of_clusters=clusters
            )

        def work() -> None:
            try:
                self._engine.work(limits, stop)
            except BaseException as error:  # the process ends with it, in words
                self._broken = error
                raise

        worker = threading.Thread(target=work, name="reaper-worker")
        worker.start()
        return worker

    def _read_policies(self) -> None:
        self._files.read(_now())
        self._put_in_force()

    def _put_in_force(self) -> None:
        self._timetable.replace(self._files.policies)
        mistakes = self._files.mistakes
        self._telemetry.reloaded(Reload.BAD if mistakes else Reload.GOOD)
        if mistakes:
            sys.stderr.writelines(f"{mistake}\n" for mistake in mistakes)
            self._dispatcher.tell(self._dispatcher.names, files_misread(mistakes, _now()))
        for name, policy in self._files.policies.items():
            if unknown := sorted({*policy.announce.to} - {*self._dispatcher.names}):
                self._log.error("channel", policy=name, fault=f"reaper.yaml has no channel {', '.join(unknown)}")
        self._log.info("policies", read=sorted(self._files.policies), mistakes=len(mistakes))

    def _begin(self) -> None:
        """Say what was missed since anybody looked, and fire what is still within its grace."""
        now, fires = _now(), self._store.last_fires()
        for name, policy in self._files.policies.items():
            trigger, looked = self._timetable.trigger(name), self._store.last_look(name)
            if trigger is None or policy.schedule is None or looked is None:
                continue
            last = max(looked, fires.get(name, looked))
            missed = trigger.missed(last, now)
            if missed.fires:
                self._telemetry.missed(name, len(missed.fires))
                self._tell(policy, firings_missed(policy, missed.fires, more=missed.more, at=now))
            fire = trigger.last_within(max(last, now - policy.schedule.grace), now)
            if fire is not None:
                self._fire(name, fire)
        self._remember_look()

    def _remember_look(self) -> None:
        """What is older than this was fired or said to be missed."""
        try:
            self._store.looked(self._files.policies, _now())
        except ReaperError as error:
            self._log.warning("tick", error=str(error))

    def _tick(self) -> None:
        """What is due begins, budgets are looked at, what comes up is said."""
        now, policies = _now(), self._files.policies
        try:
            for name in (self._herald.take_ended() | self._group_herald.take_ended()) & policies.keys():
                self._steward.is_leashed(policies[name])
            if self._steward.pending:
                self._steward.advance(policies, lambda p: self._hours(p, now), now)
            self._say_what_comes(now)
        except ReaperError as error:  # the store or a provider does not answer: the next tick tries again
            self._log.warning("tick", error=str(error))

    def _hours(self, policy: StandingPolicy, now: datetime) -> Hours:
        trigger = self._timetable.trigger(policy.name)
        return Open(why="it has no schedule", until=None) if trigger is None else trigger.judge(now)

    def _say_what_comes(self, now: datetime) -> None:
        for name, policy in self._files.policies.items():
            before = policy.announce.before
            fire = None if before is None else self._timetable.next_fire(name)
            if before is None or fire is None or fire - before > now or self._told_ahead.get(name) == fire:
                continue
            self._told_ahead[name] = fire
            self._tell(policy, firing_ahead(policy, fire, now))

    def _fire(self, name: str, fire: datetime) -> None:
        policy, trigger, now = self._files.policies.get(name), self._timetable.trigger(name), _now()
        if policy is None or trigger is None:
            return
        occasion = Occasion(now=now, since_last=trigger.since_last(fire), seed=seed_of(name, fire))
        try:
            fired = self._steward.fire(policy, fire, occasion, trigger.judge(now))
        except ReaperError as error:
            self._telemetry.fired(name, Firing.FAILED)
            self._log.error("firing failed", policy=name, fire=fire.isoformat(), error=str(error))
            return
        self._telemetry.fired(name, Firing(fired.outcome.value))
        say = self._log.info if fired.outcome is not Outcome.ABORTED else self._log.warning
        say("fired", policy=name, fire=fire.isoformat(), outcome=fired.outcome.value, why=fired.why)

    def _missed(self, name: str, fire: datetime) -> None:
        policy = self._files.policies.get(name)
        self._telemetry.missed(name, 1)
        if policy is not None:
            self._tell(policy, firings_missed(policy, (fire,), more=False, at=_now()))

    # ---- who is told

    def _tell(self, policy: StandingPolicy, announcement: Announcement) -> None:
        self._dispatcher.tell(policy.announce.to, announcement)

    def _announce_run(self, plan: Plan, announcement: Announcement) -> None:
        self._announce_to(plan.standing, announcement)

    def _announce_to(self, standing: str | None, announcement: Announcement) -> None:
        policy = self._files.policies.get(standing or "")
        self._dispatcher.tell(policy.announce.to if policy else ("log",), announcement)

    def _listener(self) -> Journal:
        return Several(LogJournal(), self._telemetry.listener(self._recall), self._herald)

    def _group_listener(self) -> GroupJournal:
        return groups.GroupFan(groups.group_announcer(LogJournal()), self._group_herald)

    def _recall(self, run: str) -> Plan | None:
        try:
            return self._site.runs.run(run).plan
        except ReaperError:
            return None

    def _show(self) -> None:
        """Metrics of what is the case."""
        try:
            leashed, fires = {record.policy for record in self._store.leashed()}, self._store.last_fires()
            states = [
                PolicyState(
                    name=name,
                    armed=policy.leash is Leash.OFF,
                    leashed_by_file=policy.leash is Leash.ON,
                    leashed_by_budget=name in leashed,
                    next_fire=self._timetable.next_fire(name),
                    last_fire=fires.get(name),
                )
                for name, policy in self._files.policies.items()
            ]
        except ReaperError as error:
            self._log.warning("metrics", error=str(error))
            return
        self._telemetry.policies(states)
        for channel, counts in self._dispatcher.counts().items():
            self._telemetry.announcements(channel, sent=counts.sent, failed=counts.failed, dropped=counts.dropped)

    def _health(self) -> Health:
        return Health(faults=() if self._broken is None else (f"the worker ended: {self._broken}",))

    def _ready(self) -> Health:
        faults = [*self._health().faults]
        try:
            self._site.work.paused()
        except ReaperError as error:
            faults.append(str(error))
        return Health(faults=tuple(faults))


def _now() -> datetime:
    return datetime.now(UTC)
