"""Gather all facts: a cluster at one moment, and a short watch of what moves."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from reaper.domain.errors import ReaperError, ServerError
from reaper.domain.facts import (
    ClusterView,
    Instance,
    InstanceId,
    InstanceState,
    Marker,
    Member,
    Soak,
    Unreachable,
)
from reaper.domain.policy import Policy
from reaper.planner.shape import MasterWithReplicas, classify
from reaper.workflow.server import Server
from reaper.workflow.world import World

_MOST_AT_ONCE = 64
# For all members of a cluster together. Longer than a driver waits for one answer, so that its own words are heard; a
# member that answers each of a dozen statements at the last moment would hold up everybody for minutes.
LOOK_WITHIN = timedelta(seconds=20)
REREAD_WITHIN = timedelta(seconds=10)  # one statement


def observe(world: World, cluster: str) -> ClusterView:
    """Observe every member at the same time. UsageError: no such cluster.

    A member that has not answered in time is unreachable; its connection is left to its own time-outs.
    """
    instances = world.fleet.members(cluster)
    pool = ThreadPoolExecutor(max_workers=2 * min(_MOST_AT_ONCE, len(instances) or 1))  # who hangs keeps its thread
    try:
        looks = [(i, pool.submit(_look, world, cluster, i)) for i in instances]
        members = _in_time(world, looks, LOOK_WITHIN)
        # Replicas are read before the master's position, so that what arrived meanwhile is not errant (E01).
        roots = [(m.instance, pool.submit(_reread, world, cluster, m)) for m in members if _is_root(m)]
        reread = {m.instance.id: m for m in _in_time(world, roots, REREAD_WITHIN)}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    members = tuple(reread.get(m.instance.id, m) for m in members)
    endpoint, target, stale_for = None, None, timedelta(0)
    try:
        door = world.endpoint(cluster)
    except ReaperError:
        door = None
    if door is not None:
        endpoint = door.listen
        with contextlib.closing(door), contextlib.suppress(ReaperError):
            target, stale_for = door.show().target, door.stale_for
    return ClusterView(
        name=cluster,
        taken_at=world.clock.now(),
        members=members,
        endpoint=endpoint,
        endpoint_target=target,
        endpoint_stale_for=stale_for,
    )


def _in_time(world: World, looks: list[tuple[Instance, Future[Member]]], within: timedelta) -> tuple[Member, ...]:
    """What each look has found; a member that does not answer in time is unreachable, which is not dead (I10)."""
    began = world.clock.monotonic_ns()
    found = []
    for instance, look in looks:
        left = within - _since(began, world)
        try:
            found.append(look.result(max(0.0, left.total_seconds())))
        except TimeoutError:
            why = f"it did not answer everything within {within.total_seconds():g} s"
            found.append(Member(instance=instance, server=Unreachable(why=why)))
    return tuple(found)


def _look(world: World, cluster: str, instance: Instance) -> Member:
    if instance.state is not InstanceState.RUNNING:
        return Member(instance=instance, server=Unreachable(why=f"its process is {instance.state}"))
    try:
        with contextlib.closing(world.connect(cluster, instance)) as server:
            return Member(instance=instance, server=server.facts())
    except ReaperError as error:
        return Member(instance=instance, server=Unreachable(why=str(error)))


def _is_root(member: Member) -> bool:
    return member.facts is not None and not member.facts.channels


def _reread(world: World, cluster: str, member: Member) -> Member:
    assert member.facts is not None, "only a root is read again"
    try:
        with contextlib.closing(world.connect(cluster, member.instance)) as server:
            return replace(member, server=replace(member.facts, executed=server.executed()))
    except ReaperError as error:
        return Member(instance=member.instance, server=Unreachable(why=str(error)))


@contextmanager
def connections(world: World, cluster: str, instances: list[Instance]) -> Iterator[dict[InstanceId, Server]]:
    """Warm connections to all of them, closed at the end."""
    servers: dict[InstanceId, Server] = {}
    try:
        for instance in instances:
            servers[instance.id] = world.connect(cluster, instance)
        yield servers
    finally:
        for server in servers.values():
            with contextlib.suppress(ReaperError):
                server.close()


def watch(world: World, view: ClusterView, policy: Policy) -> Soak:
    """Watch a cluster for the policy's soak time. Reads only."""
    unknown = Soak(window=timedelta(0), before=None, after=None, caught_up={}, distance={}, marker=None)
    shape = classify(view)
    if not isinstance(shape, MasterWithReplicas):
        return unknown
    instances = [m.instance for m in (shape.master, *shape.replicas)]
    try:
        with connections(world, view.name, instances) as servers:
            master = servers.pop(shape.master.instance.id)
            return _watch(world, master, servers, policy)
    except ReaperError:
        return unknown  # whoever stops answering while it is watched leaves everything unknown, which refuses (I10)


def _watch(world: World, master: Server, replicas: dict[InstanceId, Server], policy: Policy) -> Soak:
    clock = world.clock
    started = clock.monotonic_ns()
    before = master.semi_sync()
    target = master.executed()

    def follow_up(server: Server) -> tuple[int, timedelta | None]:
        behind = target.distance(server.executed())
        began = clock.monotonic_ns()
        return behind, _since(began, world) if server.wait_applied(target, policy.max_lag) else None

    with ThreadPoolExecutor(max_workers=min(_MOST_AT_ONCE, len(replicas) + 1)) as pool:
        looks = dict(zip(replicas, pool.map(follow_up, replicas.values()), strict=True))
    left = policy.soak - _since(started, world)
    if left > timedelta(0):
        clock.sleep(left)
    return Soak(
        window=_since(started, world),
        before=before,
        after=master.semi_sync(),
        caught_up={i: took for i, (_, took) in looks.items()},
        distance={i: behind for i, (behind, _) in looks.items()},
        marker=None,
    )


def mark(world: World, view: ClusterView, policy: Policy, run: str) -> Marker:
    """Write the run's marker row on the master and look for it on every replica (E02, E06).

    Only for a cluster that the guards have let pass: on one that cannot acknowledge, the commit would hang.
    """
    shape = classify(view)
    if not isinstance(shape, MasterWithReplicas):
        return Marker(committed_in=None)
    began = world.clock.monotonic_ns()
    try:
        with contextlib.closing(world.connect(view.name, shape.master.instance)) as scribe:
            scribe.write_marker(run)
            committed = _since(began, world)
            target = scribe.executed()
    except ServerError:
        return Marker(committed_in=None)

    def look(replica: Member) -> timedelta | None:
        try:
            with contextlib.closing(world.connect(view.name, replica.instance)) as server:
                seen = server.wait_applied(target, policy.max_lag) and server.marker_visible(run)
        except ServerError:
            return None
        return _since(began, world) if seen else None

    with ThreadPoolExecutor(max_workers=min(_MOST_AT_ONCE, len(shape.replicas))) as pool:
        arrived = list(pool.map(look, shape.replicas))
    ids = [r.instance.id for r in shape.replicas]
    return Marker(committed_in=committed, arrived=dict(zip(ids, arrived, strict=True)))


def _since(began_ns: int, world: World) -> timedelta:
    return timedelta(microseconds=(world.clock.monotonic_ns() - began_ns) / 1000)
