"""What every provider promises. Only the fixture `provider` knows which one it is.

A further provider adds its name and its builder to `PROVIDERS`; the tests stay as they are.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from ec2_provider import ec2_world

from reaper.adapters.interrupt import SignalInterrupt
from reaper.cli.compose import Site
from reaper.domain.errors import ReaperError, RefusedError, ServerError, TryAgainError, UsageError
from reaper.domain.facts import Address, Berth, Instance, InstanceId, InstanceState, Openness, ThreadState
from reaper.domain.snapshots import Keeping, Snapshot
from reaper.planner.shape import MasterWithReplicas, classify
from reaper.testing.fleet import MemoryFleet
from reaper.testing.world import world
from reaper.workflow.observe import observe
from reaper.workflow.server import Server
from reaper.workflow.world import World

SNAP, HEIR, RUN = "contract-1-snap", "contract-1-heir", "contract-1"
SOON = timedelta(seconds=60)
MOMENT = timedelta(milliseconds=300)
HOUR = timedelta(hours=1)


def never() -> None:
    """A check that never aborts."""


@dataclass(frozen=True, kw_only=True)
class Harness:
    """A cluster of three: one open master, two replicas, an endpoint that leads to the master."""

    world: World
    cluster: str

    def members(self) -> dict[InstanceId, Instance]:
        """The provider's present records."""
        return {m.id: m for m in self.world.fleet.members(self.cluster)}

    def now(self, instance: Instance) -> Instance | None:
        """The provider's present record of one instance, or None."""
        return self.members().get(instance.id)

    def master_and_replicas(self) -> tuple[Instance, list[Instance]]:
        """Who is what, by observation."""
        shape = classify(observe(self.world, self.cluster))
        assert isinstance(shape, MasterWithReplicas), shape
        return shape.master.instance, [m.instance for m in shape.replicas]

    def connect(self, instance: Instance) -> AbstractContextManager[Server]:
        """A connection that is closed at the end."""
        return contextlib.closing(self.world.connect(self.cluster, instance))

    def kill(self, instance: Instance) -> str:
        """Crash it; the proof."""
        with contextlib.closing(self.world.fleet.aim(instance)) as trigger:
            trigger.crash()
            proof = trigger.fence(SOON)
        assert proof
        return proof

    def snapshot(self, source: Instance) -> Snapshot:
        """A snapshot, its source replicating again."""
        taken = self.world.fleet.snapshot(source, SNAP, never)
        self.world.fleet.resume_source(source)
        with self.connect(source) as server:
            server.resume_replication()
        return taken

    def launched(self) -> Instance:
        """A replacement that has not joined yet."""
        _, replicas = self.master_and_replicas()
        return self.world.fleet.launch(self.cluster, self.snapshot(replicas[0]), HEIR, Keeping.MOVE, Berth(), never)

    def replicates(self, server: Server) -> bool:
        """True as soon as both threads run; False after a while."""
        for _ in range(200):
            threads = {(c.receiver, c.applier) for c in server.facts().channels}
            if threads == {(ThreadState.RUNNING, ThreadState.RUNNING)}:
                return True
            self.world.clock.sleep(MOMENT / 3)
        return False


@contextmanager
def memory() -> Iterator[Harness]:
    """The in-memory fleet."""
    fleet = MemoryFleet()
    fleet.add_cluster("contract", nodes=3)
    yield Harness(world=world(fleet), cluster="contract")


@contextmanager
def local() -> Iterator[Harness]:
    """Real servers on loopback."""
    home = Path(tempfile.mkdtemp(prefix="reaper-contract-"))
    site = Site(home)
    try:
        site.lab_up("contract", None, 3, never)
        yield Harness(world=site.world(site.runs, SignalInterrupt()), cluster="contract")
    finally:
        with contextlib.suppress(UsageError):
            site.lab_down("contract")
        shutil.rmtree(home)


@contextmanager
def ec2() -> Iterator[Harness]:
    """Real servers on the private addresses of instances of a simulated AWS."""
    with ec2_world() as (found, cluster):
        yield Harness(world=found, cluster=cluster)


PROVIDERS = [
    pytest.param(memory, id="memory"),
    pytest.param(local, id="local", marks=pytest.mark.servers),
    pytest.param(ec2, id="ec2", marks=pytest.mark.servers),
]


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with request.param() as harness:
        yield harness


# ---- members


def test_a_cluster_is_listed_with_members_that_differ_in_everything(provider: Harness) -> None:
    assert provider.cluster in provider.world.fleet.clusters()
    members = provider.world.fleet.members(provider.cluster)
    assert len(members) == 3
    for attribute in ("id", "address", "server_id"):
        assert len({getattr(m, attribute) for m in members}) == 3
    assert {m.state for m in members} == {InstanceState.RUNNING}
    assert all(m.made_by is None for m in members)
    assert all(m.created.tzinfo is not None for m in members)


def test_the_registered_server_id_is_the_one_that_the_server_runs_with(provider: Harness) -> None:
    for member in provider.world.fleet.members(provider.cluster):
        with provider.connect(member) as server:
            assert server.facts().server_id == member.server_id
            assert server.instance == member.id


def test_a_cluster_that_does_not_exist_is_the_callers_mistake(provider: Harness) -> None:
    with pytest.raises(UsageError):
        provider.world.fleet.members("no-such-cluster")


# ---- snapshot, launch, join


def test_a_snapshot_taken_twice_under_one_name_is_one_snapshot(provider: Harness) -> None:
    _, (source, *_) = provider.master_and_replicas()
    first = provider.snapshot(source)
    assert provider.world.fleet.snapshot(source, SNAP, never) == first
    assert first.name == SNAP
    assert first.source == source.id
    assert first.size_bytes > 0


def test_a_snapshot_says_when_it_was_taken_and_is_listed_until_it_is_forgotten(provider: Harness) -> None:
    fleet, clock = provider.world.fleet, provider.world.clock
    assert fleet.snapshots(provider.cluster) == ()
    _, (source, *_) = provider.master_and_replicas()
    before = clock.now()
    taken = provider.snapshot(source)
    assert before <= taken.taken_at <= clock.now()
    assert fleet.snapshots(provider.cluster) == (taken,)
    fleet.forget(provider.cluster, SNAP)
    fleet.forget(provider.cluster, SNAP)  # a second time there is nothing to delete
    assert fleet.snapshots(provider.cluster) == ()


def test_the_source_of_a_snapshot_replicates_afterwards(provider: Harness) -> None:
    _, (source, *_) = provider.master_and_replicas()
    provider.snapshot(source)
    with provider.connect(source) as server:
        assert provider.replicates(server)


def test_a_snapshot_that_is_aborted_leaves_the_name_free(provider: Harness) -> None:
    _, (source, *_) = provider.master_and_replicas()

    def stop() -> None:
        raise RefusedError("stop")

    with contextlib.suppress(RefusedError):  # a copy that is quicker than its first check is no failure
        provider.world.fleet.snapshot(source, SNAP, stop)
    provider.world.fleet.forget(provider.cluster, SNAP)
    assert provider.snapshot(source).name == SNAP


def test_a_replacement_boots_read_only_and_does_not_replicate(provider: Harness) -> None:
    taken_ids = {m.server_id for m in provider.world.fleet.members(provider.cluster)}
    heir = provider.launched()
    assert heir.made_by == HEIR
    assert heir.state is InstanceState.RUNNING
    assert heir.server_id not in taken_ids
    with provider.connect(heir) as server:
        facts = server.facts()
    assert facts.openness is not Openness.OPEN
    assert facts.server_id == heir.server_id
    assert all(c.receiver is ThreadState.STOPPED for c in facts.channels)
    assert all(c.applier is ThreadState.STOPPED for c in facts.channels)


def test_a_launch_repeated_under_one_token_is_one_instance(provider: Harness) -> None:
    _, (source, *_) = provider.master_and_replicas()
    taken = provider.snapshot(source)
    heir = provider.world.fleet.launch(provider.cluster, taken, HEIR, Keeping.MOVE, Berth(), never)
    again = provider.world.fleet.launch(provider.cluster, taken, HEIR, Keeping.MOVE, Berth(), never)
    assert (again.id, again.server_id, again.address) == (heir.id, heir.server_id, heir.address)
    assert len(provider.members()) == 4


def test_a_replacement_that_has_joined_shows_what_is_written_on_the_master(provider: Harness) -> None:
    master, (source, *_) = provider.master_and_replicas()
    with provider.connect(source) as server:
        history = server.executed()
    taken = provider.snapshot(source)
    heir = provider.world.fleet.launch(provider.cluster, taken, HEIR, Keeping.MOVE, Berth(), never)
    with provider.connect(heir) as server, provider.connect(master) as writer:
        server.join(master.address, position=taken.position, history=history)
        writer.write_marker(RUN)
        assert server.wait_applied(writer.executed(), SOON)
        assert server.marker_visible(RUN)
        assert provider.replicates(server)
        assert server.executed().covers(history)
        assert not server.executed().beyond(writer.executed())
        writer.clear_marker(RUN)
        writer.clear_marker(RUN)  # a second time there is nothing to delete
        assert server.wait_applied(writer.executed(), SOON)
        assert not server.marker_visible(RUN)


def test_a_server_id_and_an_instance_are_never_used_again(provider: Harness) -> None:
    heir = provider.launched()
    provider.world.fleet.retire(heir)
    provider.world.fleet.forget(provider.cluster, SNAP)
    _, (source, *_) = provider.master_and_replicas()
    taken = provider.snapshot(source)
    second = provider.world.fleet.launch(provider.cluster, taken, "contract-2-heir", Keeping.MOVE, Berth(), never)
    assert second.server_id != heir.server_id
    assert second.id != heir.id


def test_a_snapshot_that_is_copied_stays_and_serves_again(provider: Harness) -> None:
    fleet = provider.world.fleet
    master, (source, *_) = provider.master_and_replicas()
    with provider.connect(master) as writer, provider.connect(source) as server:
        writer.write_marker(RUN)
        assert server.wait_applied(writer.executed(), SOON)
    taken = provider.snapshot(source)
    for token in (HEIR, HEIR, "contract-2-heir"):  # the second one finds the first one's work
        heir = fleet.launch(provider.cluster, taken, token, Keeping.COPY, Berth(), never)
        assert heir.made_by == token
        assert heir.state is InstanceState.RUNNING
        with provider.connect(heir) as server:
            assert server.marker_visible(RUN)
        assert fleet.snapshots(provider.cluster) == (taken,)
    assert len(provider.members()) == 5


def test_a_snapshot_that_is_moved_serves_once(provider: Harness) -> None:
    fleet = provider.world.fleet
    _, (source, *_) = provider.master_and_replicas()
    taken = provider.snapshot(source)
    fleet.launch(provider.cluster, taken, HEIR, Keeping.MOVE, Berth(), never)
    assert fleet.snapshots(provider.cluster) == ()
    for keeping in Keeping:
        with pytest.raises(TryAgainError):
            fleet.launch(provider.cluster, taken, "contract-2-heir", keeping, Berth(), never)


# ---- restart


def test_E16_a_restarted_server_is_itself_read_only_and_not_replicating(provider: Harness) -> None:
    master, (source, *_) = provider.master_and_replicas()
    with provider.connect(source) as server, provider.connect(master) as writer:
        writer.write_marker(RUN)
        assert server.wait_applied(writer.executed(), SOON)
        history, tables = server.executed(), server.tables()
    again = provider.world.fleet.restart(source, never)
    assert (again.id, again.server_id, again.address) == (source.id, source.server_id, source.address)
    assert again.state is InstanceState.RUNNING
    with provider.connect(again) as server:
        facts = server.facts()
        assert facts.openness is not Openness.OPEN
        assert facts.server_id == source.server_id
        assert {(c.receiver, c.applier) for c in facts.channels} == {(ThreadState.STOPPED, ThreadState.STOPPED)}
        assert server.executed().covers(history)
        assert server.tables() == tables
        assert server.marker_visible(RUN)
        server.resume_replication()
        assert provider.replicates(server)


def test_a_restart_boots_what_has_ended(provider: Harness) -> None:
    """A process that dies between the end and the boot is repeated."""
    _, (replica, *_) = provider.master_and_replicas()
    provider.kill(replica)
    assert provider.world.fleet.restart(replica, never).state is InstanceState.RUNNING
    with provider.connect(replica) as server:
        assert server.facts().openness is not Openness.OPEN


def test_a_frozen_server_is_not_restarted(provider: Harness) -> None:
    _, (replica, *_) = provider.master_and_replicas()
    with contextlib.closing(provider.world.fleet.aim(replica)) as trigger:
        trigger.freeze()
        with pytest.raises(TryAgainError):
            provider.world.fleet.restart(replica, never)
        trigger.thaw()
        assert trigger.fence(MOMENT) is None  # and it was not told to end
    with provider.connect(replica) as server:
        assert provider.replicates(server)


# ---- the trigger


def test_a_crash_is_proved_and_the_proof_can_be_had_again(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    with contextlib.closing(provider.world.fleet.aim(victim)) as trigger:
        assert trigger.fence(timedelta(0)) is None  # I4: nothing has happened yet
        trigger.crash()
        proof = trigger.fence(SOON)
        assert proof
        assert trigger.fence(timedelta(0)) == proof
        trigger.crash()  # the dead do not mind
    now = provider.now(victim)
    assert now is not None
    assert now.state is InstanceState.DEAD
    with pytest.raises(ServerError):
        provider.world.connect(provider.cluster, victim)


def test_a_terminated_server_ends_by_itself(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    with contextlib.closing(provider.world.fleet.aim(victim)) as trigger:
        trigger.terminate()
        assert trigger.fence(SOON)


def test_a_frozen_server_is_silent_and_not_dead_until_it_is_killed(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    with contextlib.closing(provider.world.fleet.aim(victim)) as trigger:
        trigger.freeze()
        assert trigger.fence(MOMENT) is None
        now = provider.now(victim)
        assert now is not None
        assert now.state is InstanceState.FROZEN
        trigger.crash()
        assert trigger.fence(SOON)
    now = provider.now(victim)
    assert now is not None
    assert now.state is InstanceState.DEAD


def test_a_connection_breaks_with_its_server(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    with provider.connect(victim) as server:
        provider.kill(victim)
        with pytest.raises(ServerError):
            server.executed()


def test_nobody_aims_at_the_dead(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    provider.kill(victim)
    with pytest.raises(RefusedError):
        provider.world.fleet.aim(victim)


# ---- quarantine, retire, forget


def test_the_living_are_not_quarantined(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    with pytest.raises(RefusedError):
        provider.world.fleet.quarantine(victim, provider.world.clock.now() + HOUR)
    now = provider.now(victim)
    assert now is not None
    assert now.state is InstanceState.RUNNING


def test_the_quarantined_are_listed_and_never_run_again(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    provider.kill(victim)
    until = provider.world.clock.now() + HOUR
    provider.world.fleet.quarantine(victim, until)
    provider.world.fleet.quarantine(victim, until)  # a repeated call changes nothing
    now = provider.now(victim)
    assert now is not None
    assert (now.state, now.quarantined_until) == (InstanceState.QUARANTINED, until)
    with contextlib.suppress(ReaperError):  # that it refuses is fine, that it boots is not
        provider.world.fleet.resume_source(victim)
    with pytest.raises(TryAgainError):
        provider.world.fleet.restart(victim, never)
    now = provider.now(victim)
    assert now is not None
    assert now.state is InstanceState.QUARANTINED
    with pytest.raises(RefusedError):
        provider.world.fleet.aim(victim)


def test_a_retired_instance_is_gone_and_may_be_retired_again(provider: Harness) -> None:
    _, (victim, *_) = provider.master_and_replicas()
    provider.kill(victim)
    provider.world.fleet.quarantine(victim, provider.world.clock.now())
    provider.world.fleet.retire(victim)
    provider.world.fleet.retire(victim)
    assert provider.now(victim) is None
    assert len(provider.members()) == 2


def test_a_replacement_that_runs_is_ended_when_it_is_retired(provider: Harness) -> None:
    heir = provider.launched()
    provider.world.fleet.retire(heir)
    assert provider.now(heir) is None
    with pytest.raises(ReaperError):
        provider.world.connect(provider.cluster, heir)


def test_a_forgotten_snapshot_may_be_forgotten_again(provider: Harness) -> None:
    _, (source, *_) = provider.master_and_replicas()
    provider.snapshot(source)
    provider.world.fleet.forget(provider.cluster, SNAP)
    provider.world.fleet.forget(provider.cluster, SNAP)
    provider.world.fleet.forget(provider.cluster, "never-there")


# ---- the endpoint


def test_the_endpoint_compares_before_it_sets(provider: Harness) -> None:
    master, (first, second) = provider.master_and_replicas()
    with contextlib.closing(provider.world.endpoint(provider.cluster)) as endpoint:
        endpoint.warm()
        before = endpoint.show()
        assert before.target == master.address
        with pytest.raises(RefusedError):
            endpoint.route(first.address, second.address)  # it does not lead there
        assert endpoint.show().target == master.address
        moved = endpoint.route(first.address, master.address)
        assert moved.target == first.address
        assert moved.epoch > before.epoch
        again = endpoint.route(first.address, master.address)  # already there: the same answer
        assert (again.target, again.epoch) == (moved.target, moved.epoch)
    with contextlib.closing(provider.world.endpoint(provider.cluster)) as endpoint:
        assert endpoint.show().target == first.address
        assert isinstance(endpoint.listen, Address)


# ---- a failover by hand


def test_a_replica_can_take_over_and_the_others_follow_it(provider: Harness) -> None:
    master, (heir, sibling) = provider.master_and_replicas()
    with provider.connect(heir) as new, provider.connect(sibling) as other, provider.connect(master) as old:
        old.write_marker(RUN)
        written = old.executed()
        provider.kill(master)
        halted = [new.halt(), other.halt()]
        assert any(h.received.covers(written) for h in halted)
        assert all(h.received.covers(h.executed) for h in halted)
        assert new.wait_applied(halted[0].received, SOON)
        if not halted[0].received.covers(halted[1].received):
            pytest.skip("the marker was acknowledged by the sibling only")
        other.follow(heir.address)
        new.promote(arm_semi_sync=True)
        new.forget_source()
        new.clear_marker(RUN)
        assert other.wait_applied(new.executed(), SOON)
        assert not other.marker_visible(RUN)
        assert new.facts().channels == ()
        assert new.facts().openness is Openness.OPEN


def test_a_closed_master_refuses_writes_until_it_is_opened(provider: Harness) -> None:
    master, _ = provider.master_and_replicas()
    with provider.connect(master) as server, provider.connect(master) as writer:
        final = server.close_for_writes(timedelta(seconds=5))
        assert final == server.executed()
        assert server.facts().openness is not Openness.OPEN
        server.open_for_writes()
        writer.write_marker(RUN)
        assert writer.marker_visible(RUN)


def test_a_wait_for_what_never_comes_says_so(provider: Harness) -> None:
    master, (replica, *_) = provider.master_and_replicas()
    with provider.connect(replica) as server, provider.connect(master) as writer:
        server.halt()
        writer.write_marker(RUN)  # the other replica acknowledges it
        assert not server.wait_applied(writer.executed(), MOMENT)
        server.resume_replication()
        assert server.wait_applied(writer.executed(), SOON)


def test_the_probe_table_comes_and_goes(provider: Harness) -> None:
    master, _ = provider.master_and_replicas()
    with provider.connect(master) as server:
        tables = server.tables()
        server.create_probe_table("probe_contract_1")
        server.create_probe_table("probe_contract_1")
        assert list(server.probe_rows("probe_contract_1")) == []
        assert server.tables() == tables  # what is reaper's own is not counted
        server.drop_probe_table("probe_contract_1")
        server.drop_probe_table("probe_contract_1")
        with pytest.raises(ServerError):
            list(server.probe_rows("probe_contract_1"))


# ---- the lock


def test_E13_a_servers_lock_is_one_runs_at_a_time_and_dies_with_its_session(provider: Harness) -> None:
    """Somebody else is named; whoever goes on with the same run takes it from the session that it follows."""
    master, _ = provider.master_and_replicas()
    with provider.connect(master) as ours, provider.connect(master) as theirs:
        assert ours.claim("run-a") is None
        assert ours.claim("run-a") is None, "asked again it is still ours"
        holder = theirs.claim("run-b")
        assert holder is not None
        assert "session" in holder
        with provider.connect(master) as successor:
            assert successor.claim("run-a") is None
            with pytest.raises(ServerError):
                ours.executed()
            assert theirs.claim("run-b") is not None
        assert any(theirs.claim("run-b") is None or provider.world.clock.sleep(MOMENT) for _ in range(50))
