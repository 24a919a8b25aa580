"""Gather all facts: a cluster at one moment, and a short watch of what moves."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from reaper.workflow.ports import Server, World

_MOST_AT_ONCE = 64


def observe(world: World, cluster: str) -> ClusterView:
    """Observe every member at the same time. UsageError: no such cluster."""
    instances = world.fleet.members(cluster)
    with ThreadPoolExecutor(max_workers=min(_MOST_AT_ONCE, len(instances) or 1)) as pool:
        members = tuple(pool.map(lambda i: _look(world, cluster, i), instances))
        # Replicas are read before the master's position, so that what arrived meanwhile is not errant (E01).
        members = tuple(pool.map(lambda m: _reread_if_root(world, cluster, m), members))
    endpoint, target = None, None
    try:
        door = world.endpoint(cluster)
    except ReaperError:
        door = None
    if door is not None:
        endpoint = door.listen
        with contextlib.closing(door), contextlib.suppress(ReaperError):
            target = door.show().target
    return ClusterView(
        name=cluster, taken_at=world.clock.now(), members=members, endpoint=endpoint, endpoint_target=target
    )


def _look(world: World, cluster: str, instance: Instance) -> Member:
    if instance.state is not InstanceState.RUNNING:
        return Member(instance=instance, server=Unreachable(why=f"its process is {instance.state}"))
    try:
        with contextlib.closing(world.connect(cluster, instance)) as server:
            return Member(instance=instance, server=server.facts())
    except ReaperError as error:
        return Member(instance=instance, server=Unreachable(why=str(error)))


def _reread_if_root(world: World, cluster: str, member: Member) -> Member:
    if member.facts is None or member.facts.channels:
        return member
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


def watch(world: World, view: ClusterView, policy: Policy, *, marker_of: str | None) -> Soak:
    """Watch a cluster for the policy's soak time. `marker_of`: whose marker row is written; None writes nothing."""
    shape = classify(view)
    if not isinstance(shape, MasterWithReplicas):
        return Soak(window=timedelta(0), before=None, after=None, caught_up={}, distance={}, marker=None)
    instances = [m.instance for m in (shape.master, *shape.replicas)]
    try:
        with connections(world, view.name, instances) as servers:
            master = servers.pop(shape.master.instance.id)
            # Without anybody to acknowledge, the marker's commit would only hang; the guard refuses anyway.
            state = master.semi_sync()
            mute = state.source_enabled and state.source_clients == 0
            committed = _mark(world, view.name, shape.master.instance, marker_of) if marker_of and not mute else None
            return _watch(world, master, servers, policy, marker_of, committed)
    except ReaperError:
        # A member that stops answering while it is watched leaves everything unknown, which refuses (I10).
        return Soak(window=timedelta(0), before=None, after=None, caught_up={}, distance={}, marker=None)


@dataclass(frozen=True)
class _Marked:
    """When the marker row was written; `committed_in` is None if the commit was not acknowledged."""

    written_ns: int
    committed_in: timedelta | None


def _mark(world: World, cluster: str, master: Instance, run: str) -> _Marked:
    # On a connection of its own: a commit that no replica acknowledges hangs until that connection gives up.
    began = world.clock.monotonic_ns()
    try:
        with contextlib.closing(world.connect(cluster, master)) as scribe:
            scribe.write_marker(run)
    except ServerError:
        return _Marked(began, None)
    return _Marked(began, _since(began, world))


def _since(began_ns: int, world: World) -> timedelta:
    return timedelta(microseconds=(world.clock.monotonic_ns() - began_ns) / 1000)


def _watch(
    world: World,
    master: Server,
    replicas: dict[InstanceId, Server],
    policy: Policy,
    marker_of: str | None,
    marked: _Marked | None,
) -> Soak:
    clock = world.clock
    started = clock.monotonic_ns()
    before = master.semi_sync()
    with ThreadPoolExecutor(max_workers=min(_MOST_AT_ONCE, len(replicas) + 1)) as pool:
        target = master.executed()

        def follow_up(server: Server) -> tuple[int | None, timedelta | None, timedelta | None]:
            behind = target.distance(server.executed())
            began = clock.monotonic_ns()
            applied = server.wait_applied(target, policy.max_lag)
            took = _since(began, world) if applied else None
            seen = None
            if marker_of and marked and applied and server.marker_visible(marker_of):
                seen = _since(marked.written_ns, world)
            return behind, took, seen

        looks = dict(zip(replicas, pool.map(follow_up, replicas.values()), strict=True))
    left = policy.soak - _since(started, world)
    if left > timedelta(0):
        clock.sleep(left)
    after = master.semi_sync()
    marker = None
    if marked is not None:
        marker = Marker(committed_in=marked.committed_in, arrived={i: seen for i, (_, _, seen) in looks.items()})
    return Soak(
        window=_since(started, world),
        before=before,
        after=after,
        caught_up={i: took for i, (_, took, _) in looks.items()},
        distance={i: behind for i, (behind, _, _) in looks.items()},
        marker=marker,
    )
