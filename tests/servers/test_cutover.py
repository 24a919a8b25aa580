"""What only real servers can answer about a cutover: each test makes one thing go wrong at one moment.

The workflow runs in this process over the command line's own composition root; a hook at the guards,
or at the point of no return, lets the world change behind reaper's back.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pymysql
import pytest
from labs import Lab, alive, until
from labs import Site as Home
from witness import (
    Found,
    OneOpen,
    Writers,
    events,
    follow_by_hand,
    hang_up,
    open_by_hand,
    own_tables,
    route_by_hand,
    servers_of,
    session_of,
    topology,
)

from reaper.adapters.clock import SystemClock
from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.mysql.engine_mariadb import MariadbEngine
from reaper.cli.compose import Site
from reaper.cli.grounds import Grounds
from reaper.domain.errors import CallAPersonError, ExitCode, ReaperError, TryAgainError
from reaper.domain.facts import Instance, InstanceId
from reaper.domain.plan import Plan, Replacement
from reaper.domain.policy import KillMode, Loss, Policy
from reaper.domain.verdict import Event, GuardVerdict, RunState, RunVerdict
from reaper.planner.guards import Moment, replication_faults
from reaper.planner.shape import MasterWithReplicas, classify
from reaper.planner.steps import Request, make_plan
from reaper.workflow.observe import observe
from reaper.workflow.ports import Journal, Trigger
from reaper.workflow.rotation import Rotation
from reaper.workflow.steps import Unrecorded
from reaper.workflow.world import World

ARMED = "SELECT @@global.rpl_semi_sync_master_enabled AS armed"
MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
Hook = Callable[[], None]


def nothing() -> None:
    return


class HastyClock(SystemClock):
    """Nothing is asserted about time here, so the probe's calm before and after is cut short."""

    def sleep(self, span: timedelta) -> None:
        super().sleep(min(span, 200 * MS))


class HookedInterrupt(SignalInterrupt):
    """Nobody wishes to stop; the hook runs when everything is decided and the kill is next."""

    def __init__(self, at_the_kill: Hook) -> None:
        super().__init__()
        self._at_the_kill = at_the_kill

    def cross(self) -> None:
        self._at_the_kill()
        super().cross()


class HookedJournal:
    """The store, with a hook each time the guards have passed judgement."""

    def __init__(self, journal: Journal, after: dict[Moment, Hook]) -> None:
        self._journal = journal
        self._hooks = [after.get(Moment.PLAN, nothing), after.get(Moment.KILL, nothing)]

    def begin(self, plan: Plan) -> None:
        self._journal.begin(plan)

    def guards(self, run: str, verdicts: tuple[GuardVerdict, ...]) -> None:
        self._journal.guards(run, verdicts)
        self._hooks.pop(0)()

    def event(self, run: str, event: Event) -> None:
        self._journal.event(run, event)

    def end(self, run: str, state: RunState, verdict: RunVerdict | None, message: str) -> None:
        self._journal.end(run, state, verdict, message)


class AimedFleet(Grounds):
    """The site's providers with another weapon."""

    def __init__(self, fleet: Grounds, weapon: Callable[[Trigger], Trigger]) -> None:
        self.__dict__.update(fleet.__dict__)
        self._weapon = weapon

    def aim(self, instance: Instance) -> Trigger:
        return self._weapon(super().aim(instance))


class Misfire:
    """A weapon that does nothing and proves nothing: the victim may well be alive."""

    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger

    def crash(self) -> None:
        return

    terminate = freeze = crash

    def fence(self, within: timedelta) -> str | None:
        time.sleep(min(within.total_seconds(), 0.2))
        return None

    def close(self) -> None:
        self._trigger.close()


@dataclass
class Stage:
    """A lab, a load on it, and the run that a test makes over it."""

    lab: Lab
    writers: Writers
    at_the_kill: Hook = nothing
    after_guards: dict[Moment, Hook] = field(default_factory=dict)
    weapon: Callable[[Trigger], Trigger] = lambda trigger: trigger

    @property
    def site(self) -> Site:
        return Site(self.lab.site.home)

    @property
    def world(self) -> World:
        site = self.site
        world = site.world(HookedJournal(site.runs, self.after_guards), HookedInterrupt(self.at_the_kill))
        return replace(world, clock=HastyClock(), fleet=AimedFleet(site.fleet, self.weapon))

    def plan(self, victim: str, replacement: Replacement, **policy: object) -> Plan:
        settings: dict[str, object] = {"soak": 200 * MS, "probe_rate": 60.0, "failover_within": 20 * SECOND}
        run = f"{self.lab.name}-{time.time_ns()}"
        request = Request(
            run=run,
            victim=InstanceId("local", f"{self.lab.name}/{victim}"),
            policy=Policy(**(settings | policy)),  # type: ignore[arg-type]  # a builder trusts its tests
            replacement=replacement,
            why="a test",
        )
        return make_plan(observe(self.world, self.lab.name), request)

    def run(
        self, *, victim: str | None = None, replacement: Replacement = Replacement.AFTER, **policy: object
    ) -> RunVerdict:
        """Kill the master, unless somebody else is named."""
        plan = self.plan(victim or self.lab.master, replacement, **policy)
        return Rotation(self.world, plan, Unrecorded()).execute()

    @property
    def replicas(self) -> list[str]:
        return [i for i in self.lab.instances if i != self.lab.master]

    @property
    def heir(self) -> str:
        """The replacement that was built last."""
        return self.lab.instances[-1]

    def assert_nothing_lost(self) -> None:
        for instance in self.lab.instances:
            assert self.writers.missing(instance) == set(), instance

    def details(self, step: str) -> str:
        """What the newest run's timeline says of a step."""
        return " ".join(e["detail"] for e in events(self.lab.site.home) if e["step"] == step)


def everybody_closed(lab: Lab, instances: list[str]) -> bool:
    return all(lab.sql(i, "SELECT @@read_only AS r")[0]["r"] == 1 for i in instances)


@pytest.fixture(scope="module")
def shared(module_site: Home) -> Iterator[Callable[[], Stage]]:
    """A lab of three under a load that never stops, and under a watch (I2). A new one if a test broke the last."""
    with contextlib.ExitStack() as at_the_end:
        stages: list[Stage] = []
        of_the_lab = at_the_end.enter_context(contextlib.ExitStack())

        def healthy() -> Stage:
            if not stages or not _is_healthy(stages[-1]):
                of_the_lab.close()
                lab = module_site.make_lab(f"shared{len(stages)}")
                one = of_the_lab.enter_context(OneOpen(lab))
                stages.append(Stage(lab, of_the_lab.enter_context(Writers(lab, pause_s=0.03))))
                at_the_end.callback(one.check)
            return Stage(stages[-1].lab, stages[-1].writers)

        yield healthy


def _is_healthy(stage: Stage) -> bool:
    view = observe(stage.world, stage.lab.name)
    shape = classify(view)
    faults = [f for m in view.members for f in replication_faults(m)]
    if not isinstance(shape, MasterWithReplicas) or faults or len(view.members) != 3:
        return False
    return shape.master.facts is not None and shape.master.facts.semi_sync.source_active


@pytest.fixture
def stage(shared: Callable[[], Stage]) -> Stage:
    """The module's lab, with three members."""
    found = shared()
    found.writers.more(20)
    return found


@pytest.fixture
def broken(site: Home) -> Iterator[Stage]:
    """A lab of the test's own, which need not survive it; watched like the other one."""
    lab = site.make_lab("fragile")
    with OneOpen(lab) as one, Writers(lab, pause_s=0.03) as writers:
        yield Stage(lab, writers)
    one.check()


# ---- what "applied" means


def test_what_a_replica_says_it_applied_can_be_read_there(stage: Stage) -> None:
    """The marker row, and every wait of a cutover, rest on it: logged on the replica is not yet committed there."""
    site, lab = stage.site, stage.lab
    members = {m.id.short: m for m in site.fleet.members(lab.name)}
    with (
        contextlib.closing(site.connect(lab.name, members[lab.master])) as master,
        contextlib.closing(site.connect(lab.name, members[stage.replicas[0]])) as replica,
    ):
        unseen = 0
        for number in range(200):
            master.write_marker(f"row-{number}")
            assert replica.wait_applied(master.executed(), 10 * SECOND)
            unseen += not replica.marker_visible(f"row-{number}")
        for number in range(200):
            master.clear_marker(f"row-{number}")
    assert unseen == 0, f"{unseen} of 200 rows could not be read after they had been applied"


# ---- who inherits


def test_an_heir_that_is_behind_is_given_the_gap_before_it_opens(stage: Stage) -> None:
    """I5, E05: its receiver stops after the guards, and writes go on being acknowledged by the others."""

    def fall_behind() -> None:
        stage.lab.sql(stage.heir, "STOP SLAVE IO_THREAD")
        stage.writers.more(20)

    stage.at_the_kill = fall_behind
    verdict = stage.run(replacement=Replacement.BEFORE)
    assert verdict.good, verdict.faults
    assert verdict.heir == f"local:{stage.lab.name}/{stage.lab.master}"
    assert stage.lab.master == stage.heir
    assert "it lacks" in stage.details("elect")
    assert "hands over" in stage.details("elect")
    stage.writers.more()
    stage.assert_nothing_lost()


def test_a_replica_whose_applier_was_stopped_does_not_inherit(stage: Stage) -> None:
    """E06: after the guards, so that only the election can see it; it follows the heir afterwards."""
    lame, fit = stage.replicas

    stage.at_the_kill = lambda: stage.lab.sql(lame, "STOP SLAVE SQL_THREAD") and None
    verdict = stage.run()
    assert verdict.good, verdict.faults
    assert stage.lab.master == fit
    stage.writers.more()
    stage.assert_nothing_lost()


def test_diverged_replicas_call_a_person_and_nobody_opens(broken: Stage) -> None:
    """E01 after the guards: each replica holds a transaction that the other one lacks."""
    lab, replicas, victim = broken.lab, broken.replicas, broken.lab.master

    def diverge() -> None:
        for number, name in enumerate(replicas, 1):
            lab.sql(name, "STOP SLAVE IO_THREAD")
            lab.sql(name, "SELECT MASTER_GTID_WAIT(@@global.gtid_current_pos, 5)")
            until(lambda name=name: _idle(lab, name), "everything received is applied")  # type: ignore[misc]
            lab.root_sql(name, f"INSERT INTO app.receipts VALUES (0, 0, {number})")

    broken.at_the_kill = diverge
    with pytest.raises(CallAPersonError, match="diverged") as caught:
        broken.run()
    assert caught.value.exit_code is ExitCode.CALL_A_PERSON
    for name in replicas:
        errant = f"0-{lab.record(name)['server_id']}-"
        assert errant in str(caught.value), "the evidence names what each of them holds"
    assert everybody_closed(lab, replicas)
    assert broken.site.runs.runs()[0].state is RunState.STUCK
    assert victim not in servers_of(lab)
    assert lab.record(victim)["quarantined_until"]


def _idle(lab: Lab, replica: str) -> bool:
    row = lab.sql(replica, "SHOW ALL SLAVES STATUS")[0]
    return bool(row["Gtid_IO_Pos"] == row["Gtid_Slave_Pos"])


def test_an_heir_that_cannot_apply_in_time_calls_a_person_and_keeps_its_relay_log(broken: Stage) -> None:
    """E04, E31: received is not applied; a lock on the heir blocks its applier after the guards."""
    lab = broken.lab
    with contextlib.ExitStack() as stack:
        heir: list[str] = []

        def block() -> None:
            heir.append(broken.heir)
            session = stack.enter_context(session_of(lab, broken.heir))
            session.cursor().execute("LOCK TABLES app.receipts READ")
            broken.writers.more(20)

        broken.at_the_kill = block
        with pytest.raises(CallAPersonError, match="did not apply") as caught:
            broken.run(replacement=Replacement.BEFORE, apply_within=2 * SECOND)
        assert caught.value.exit_code is ExitCode.CALL_A_PERSON
        assert heir[0] in str(caught.value)
        living = list(servers_of(lab))
        assert everybody_closed(lab, living)
        status = lab.sql(heir[0], "SHOW ALL SLAVES STATUS")[0]
        assert status["Gtid_IO_Pos"] != status["Gtid_Slave_Pos"], "nothing was received that is not applied"
    assert broken.writers.missing(heir[0]) == set(), "what it had received was thrown away"
    said = lab.site.cli("resume", broken.site.runs.runs()[0].run, "--output", "json")
    assert said.code in (0, 1), said.all  # how long nobody could write is a fault
    assert [f for f in said.json()["verdict"]["faults"] if "exceeds the budget" not in f] == []
    assert lab.master == heir[0]
    broken.writers.more()
    broken.assert_nothing_lost()


# ---- the fence


def test_without_a_proof_of_death_nobody_is_promoted_and_the_victim_serves_on(stage: Stage) -> None:
    """I4: the victim may live, so it stays the master, with its replicas."""
    lab, master, before = stage.lab, stage.lab.master, topology(stage.lab)
    stage.weapon = Misfire
    with pytest.raises(CallAPersonError, match="no proof"):
        stage.run(fence_within=200 * MS)
    assert lab.master == master
    assert everybody_closed(lab, stage.replicas)
    stage.writers.more()
    until(lambda: topology(lab) == before, "the replicas follow the master again")
    run = stage.site.runs.runs()[0]
    assert run.state is RunState.STUCK
    said = lab.site.cli("resume", run.run)
    assert said.code == 4, said.all
    assert own_tables(lab, master) == [], "what the run made is undone when somebody has looked"


def test_two_masters_never_accept_writes_when_the_master_changes_hands_under_the_run(broken: Stage) -> None:
    """I2, E12: somebody makes a replica the master after the plan; the plan is stale, kills nobody, writes nowhere."""
    lab, old = broken.lab, broken.lab.master
    new, other = broken.replicas
    broken.after_guards[Moment.PLAN] = lambda: _switch_over(lab, old, new, other)
    with pytest.raises(ReaperError):
        broken.run()
    assert lab.master == new
    assert alive(lab.pid(old))
    assert broken.site.runs.runs()[0].state in (RunState.REFUSED, RunState.UNDONE)
    number = lab.record(old)["server_id"]
    mine, theirs = ({e for e in _binlog_state(lab, i).split(",") if e.startswith(f"0-{number}-")} for i in (old, new))
    assert mine == theirs, "reaper wrote on a replica that had been the master, past its read_only"
    broken.writers.more()
    broken.assert_nothing_lost()


def test_nobody_is_promoted_beside_a_master_that_somebody_else_just_made(broken: Stage) -> None:
    """I2, E13: the switch comes between the last guards and the kill. Whatever becomes of the run, one is open."""
    lab, old = broken.lab, broken.lab.master
    new, other = broken.replicas

    def switch() -> None:
        _switch_over(lab, old, new, other, clients=False)
        until(lambda: _position(lab, new) == _position(lab, other), "both hold the same")

    broken.at_the_kill = switch
    with contextlib.suppress(ReaperError):
        broken.run(replacement=Replacement.NONE, repoint_within=2 * SECOND)
    opened = [i for i in (new, other) if not everybody_closed(lab, [i])]
    assert opened == [new], "two accept writes"


def _switch_over(lab: Lab, old: str, new: str, other: str, *, clients: bool = True) -> None:
    """A planned switch by somebody else; `clients`: the endpoint is moved too, and not later."""
    with session_of(lab, old) as session, session.cursor() as cursor:
        cursor.execute("SET GLOBAL read_only = ON")
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        cursor.execute("SELECT @@global.gtid_binlog_pos")
        position = cursor.fetchone()["@@global.gtid_binlog_pos"]  # type: ignore[index,call-overload]
        for name in (new, other):
            lab.sql(name, f"SELECT MASTER_GTID_WAIT('{position}', 20)")
    open_by_hand(lab, new)
    lab.sql(old, "SET GLOBAL rpl_semi_sync_master_enabled = OFF")
    lab.sql(old, f"SET GLOBAL gtid_slave_pos = '{position}'")
    for name in (old, other):
        follow_by_hand(lab, name, new)
    if clients:
        route_by_hand(lab, new)


# ---- what the dead master takes with it


def test_a_master_that_dies_with_a_transaction_that_nobody_acknowledged_never_comes_back(stage: Stage) -> None:
    """E03, I6: nobody was told that it is committed, so it is gone, and its only holder with it."""
    lab, victim = stage.lab, stage.lab.master
    tail: list[str] = []

    def strand() -> None:
        replicas = stage.replicas
        for name in replicas:
            lab.sql(name, "STOP SLAVE IO_THREAD")
        until(
            lambda: _number(_position(lab, victim)) > _received(lab, replicas), "the master logs what nobody receives"
        )
        tail.append(_position(lab, victim))

    stage.at_the_kill = strand
    verdict = stage.run(quarantine=timedelta(hours=1))
    assert verdict.good, verdict.faults
    stage.writers.more()
    stage.assert_nothing_lost()
    source = tail[0].rsplit("-", 1)[0]
    mine = [e for e in _binlog_state(lab, lab.master).split(",") if e.rsplit("-", 1)[0] == source]
    assert _number(mine[0]) < _number(tail[0]), "the tail came back"
    record = next(m for m in stage.site.fleet.members(lab.name) if m.id.short == victim)
    assert record.quarantined_until
    with pytest.raises(TryAgainError, match="never started again"):
        stage.site.fleet.resume_source(record)
    assert victim not in servers_of(lab)
    assert lab.data(victim).is_dir()
    assert lab.site.cli("retire", lab.name, "--now").code == 0


def _number(gtid: str) -> int:
    return int(gtid.rsplit("-", 1)[1])


def _received(lab: Lab, replicas: list[str]) -> int:
    return max(_number(lab.sql(name, "SHOW ALL SLAVES STATUS")[0]["Gtid_IO_Pos"]) for name in replicas)


def _position(lab: Lab, instance: str) -> str:
    return str(lab.sql(instance, "SELECT @@global.gtid_binlog_pos AS p")[0]["p"])


def _binlog_state(lab: Lab, instance: str) -> str:
    return str(lab.sql(instance, "SELECT @@global.gtid_binlog_state AS p")[0]["p"])


# ---- the drain


@contextlib.contextmanager
def a_table_lock(lab: Lab, _writers: Writers) -> Iterator[None]:
    """An application locks a table."""
    session = lab.endpoint_session()
    with contextlib.closing(session):
        session.cursor().execute("LOCK TABLES app.receipts WRITE")
        yield


@contextlib.contextmanager
def a_long_statement(lab: Lab, _writers: Writers) -> Iterator[None]:
    """An application's statement takes its time."""
    session = lab.endpoint_session()
    thread = threading.Thread(target=_sleep_in, args=(session,), daemon=True)
    thread.start()
    running = "SELECT id FROM information_schema.processlist WHERE info LIKE '%SLEEP(60)%' AND id <> CONNECTION_ID()"
    until(lambda: bool(lab.sql(lab.master, running)), "the statement runs")
    yield
    for row in lab.sql(lab.master, running):
        lab.sql(lab.master, f"KILL {row['id']}")
    thread.join(10)
    hang_up(session)


def _sleep_in(session: "pymysql.connections.Connection[pymysql.cursors.DictCursor]") -> None:
    with contextlib.suppress(pymysql.MySQLError, OSError):
        session.cursor().execute("INSERT INTO app.receipts SELECT 0, 0, SLEEP(60)")


@contextlib.contextmanager
def a_commit_without_an_answer(lab: Lab, _writers: Writers) -> Iterator[None]:
    """No replica acknowledges for a while, so a commit hangs in the master."""
    master = lab.master
    replicas = [i for i in lab.instances if i != master]

    def repair() -> None:
        for name in replicas:
            lab.sql(name, "START SLAVE IO_THREAD")

    for name in replicas:
        lab.sql(name, "STOP SLAVE IO_THREAD")
    waiting = "SELECT id FROM information_schema.processlist WHERE state LIKE '%semi-sync ACK%'"
    until(lambda: bool(lab.sql(master, waiting)), "a commit waits")
    timer = threading.Timer(2.5, repair)  # longer than the drain; whatever reaper undoes has to be acknowledged
    timer.start()
    yield
    timer.join()


@contextlib.contextmanager
def a_replica_that_cannot_apply(lab: Lab, writers: Writers) -> Iterator[None]:
    """A reader's lock on a replica holds its applier up."""
    replica = next(i for i in lab.instances if i != lab.master)
    with session_of(lab, replica) as session:
        session.cursor().execute("LOCK TABLES app.receipts READ")
        writers.more(10)
        yield


@pytest.mark.parametrize(
    "obstacle",
    [a_replica_that_cannot_apply, a_table_lock, a_long_statement, a_commit_without_an_answer],
    ids=lambda f: f.__name__.replace("_", " "),
)
def test_a_drain_that_cannot_end_is_undone(
    stage: Stage, obstacle: Callable[[Lab, Writers], contextlib.AbstractContextManager[None]]
) -> None:
    """E09, E11: the obstacle comes up after the guards; the master opens again and the cluster is as it was found."""
    lab, master, before = stage.lab, stage.lab.master, Found.of(stage.lab)
    with contextlib.ExitStack() as stack:
        stage.after_guards[Moment.KILL] = lambda: stack.enter_context(obstacle(lab, stage.writers))
        with pytest.raises(ReaperError) as caught:
            stage.run(mode=KillMode.DRAIN, drain_within=SECOND, replacement=Replacement.NONE)
        assert caught.value.exit_code in (ExitCode.REFUSED, ExitCode.TRY_AGAIN), caught.value
        assert not everybody_closed(lab, [master]), "the master is not open again"
    stage.writers.more()
    until(lambda: Found.of(lab) == before, "the cluster is as it was found")
    stage.assert_nothing_lost()


def test_an_open_transaction_does_not_survive_a_drained_master_and_nobody_was_told_otherwise(stage: Stage) -> None:
    """E09: idle in a transaction holds nothing up; it never committed, and is not there afterwards."""
    lab = stage.lab
    session = lab.endpoint_session()
    with contextlib.closing(session):
        session.begin()
        session.cursor().execute("INSERT INTO app.receipts VALUES (0, 1, 1)")
        verdict = stage.run(mode=KillMode.DRAIN, outage_budget=timedelta(minutes=1))
        assert verdict.good, verdict.faults
        with pytest.raises((pymysql.MySQLError, OSError)):
            session.commit()
        with contextlib.suppress(pymysql.MySQLError, OSError):
            session.rollback()
    found = "SELECT * FROM app.receipts WHERE w = 0 AND client = 1"
    assert all(lab.sql(i, found) == [] for i in lab.instances)
    stage.writers.more()
    stage.assert_nothing_lost()


# ---- after the kill


def test_a_run_that_accepts_loss_leaves_semi_sync_as_it_found_it(stage: Stage) -> None:
    """Whoever accepts a loss once has not asked for a cluster that can lose writes from then on."""
    before = stage.lab.sql(stage.lab.master, ARMED)
    assert before == [{"armed": 1}]
    verdict = stage.run(loss=Loss.ACCEPTED)
    assert verdict.good, verdict.faults
    assert stage.lab.sql(stage.lab.master, ARMED) == before


def test_a_cold_copy_after_a_failover_never_stops_the_new_master(site: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a tool for hot copies the replacement's source is stopped, and boots read-only again."""
    monkeypatch.setattr(MariadbEngine, "can_copy_hot", lambda _self: False)
    lab = site.make_lab(nodes=4)
    with OneOpen(lab) as one, Writers(lab, pause_s=0.03) as writers:
        stage = Stage(lab, writers)
        verdict = stage.run()
        assert verdict.good, verdict.faults
        assert "was stopped for the copy" in stage.details("snapshot")
        assert f"of {lab.master}," not in stage.details("snapshot")
        writers.more()
    one.check()
    stage.assert_nothing_lost()
    assert len(lab.instances) == 4


def test_a_sibling_that_cannot_follow_the_heir_spoils_the_verdict(stage: Stage) -> None:
    """E21: the replication account is wrong on the heir, which shows only after the old master is gone.

    Nobody acknowledges the new master's writes until somebody corrects the account.
    """
    lab, old = stage.lab, stage.replicas
    password = lab.book()["replication"]["password"]

    def change(word: str) -> None:
        for name in old:
            statement = f"ALTER USER replication@'127.0.0.1' IDENTIFIED BY '{word}'"
            lab.root_sql(name, "SET sql_log_bin = 0", statement)

    repair = threading.Timer(6, change, [password])

    def spoil() -> None:
        change("something else")
        repair.start()

    stage.at_the_kill = spoil
    verdict = stage.run(replacement=Replacement.NONE, failover_within=3 * SECOND)
    repair.join()
    assert not verdict.good
    assert any("not acknowledged" in fault for fault in verdict.faults), verdict.faults
    stage.writers.more()
    stage.assert_nothing_lost()


# ---- the build


def test_a_copy_that_does_not_end_is_given_up_when_the_policys_time_is_over(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool waits for a lock that somebody holds, for example; a bound on every wait."""
    tool, finished = tmp_path / "mariadb-backup", tmp_path / "finished"
    tool.write_text(f"#!/bin/sh\nsleep 8\n: > {finished}\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = topology(stage.lab)
    with pytest.raises(TryAgainError):
        stage.run(replacement=Replacement.BEFORE, build_within=SECOND)
    assert not finished.exists(), "it was waited for to its own end"
    assert topology(stage.lab) == before
