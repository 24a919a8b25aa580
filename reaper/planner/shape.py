"""Classify a cluster's shape. Single-writer trees of depth one are supported; the rest is named (E17)."""

from dataclasses import dataclass

from reaper.domain.facts import ClusterView, InstanceState, Member, Openness


@dataclass(frozen=True, kw_only=True)
class MasterWithReplicas:
    """The supported shape: one writable master, replicas of depth one."""

    master: Member
    replicas: tuple[Member, ...]


@dataclass(frozen=True, kw_only=True)
class OtherShape:
    """A shape that reaper refuses, by name."""

    name: str
    why: str


Shape = MasterWithReplicas | OtherShape


def living(view: ClusterView) -> tuple[Member, ...]:
    """The members that count: everything that is not dead or quarantined."""
    gone = (InstanceState.DEAD, InstanceState.QUARANTINED)
    return tuple(m for m in view.members if m.instance.state not in gone)


def classify(view: ClusterView) -> Shape:
    """Say what shape the cluster has. A member without facts makes the shape unknown (I10)."""
    members = living(view)
    if not members:
        return OtherShape(name="empty", why="no member of the cluster is alive")
    fault = _broken_member(view)
    if fault:
        return fault
    roots = [m for m in members if m.facts and not m.facts.channels]
    replicas = [m for m in members if m.facts and m.facts.channels]
    return _broken_link(view, roots, replicas) or _judge(roots, replicas)


def _broken_member(view: ClusterView) -> OtherShape | None:
    for m in view.members:
        name, state = m.instance.id.short, m.instance.state
        if state is InstanceState.DEAD:
            return OtherShape(
                name="dead member",
                why=f"the process of {name} is gone: see its error log, then `reaper retire {view.name} --dead`",
            )
        if state is InstanceState.STRANGER:
            return OtherShape(
                name="stranger",
                why=f"something that reaper did not start runs in the place of {name} ({m.instance.address})",
            )
    for m in living(view):
        if m.facts is None:
            why = getattr(m.server, "why", "no facts")
            return OtherShape(
                name="unreachable member",
                why=f"{m.instance.id.short} cannot be observed: {why} (unreachable is not dead)",
            )
    return None


def _broken_link(view: ClusterView, roots: list[Member], replicas: list[Member]) -> OtherShape | None:
    followed: dict[str, str] = {}
    for m in replicas:
        name, channels = m.instance.id.short, m.facts.channels if m.facts else ()
        if len(channels) > 1:
            upstreams = ", ".join(str(c.source) for c in channels)
            return OtherShape(name="several sources", why=f"{name} replicates from {upstreams}")
        source = view.at(channels[0].source)
        if source is None:
            return OtherShape(
                name="external upstream",
                why=f"{name} replicates from {channels[0].source}, which is not a living member of this cluster",
            )
        followed[name] = source.instance.id.short
    for name, source_name in followed.items():
        if source_name not in followed:
            continue
        path = [name]
        while path[-1] in followed and followed[path[-1]] not in path:
            path.append(followed[path[-1]])
        if path[-1] in followed:
            return OtherShape(name="ring", why=" -> ".join([*path, followed[path[-1]]]) + " replicate in a circle")
        return OtherShape(
            name="intermediate master", why=f"{name} replicates from {source_name}, which is itself a replica"
        )
    sources = {followed[name] for name in followed}
    if len(roots) > 1 and len(sources) > 1:
        return OtherShape(name="two masters", why=f"{', '.join(sorted(sources))} each have replicas")
    return None


def _judge(roots: list[Member], replicas: list[Member]) -> Shape:
    names = ", ".join(m.instance.id.short for m in roots)
    writers = [m for m in (*roots, *replicas) if m.facts and m.facts.openness is Openness.OPEN]
    if len(writers) > 1:
        both = " and ".join(m.instance.id.short for m in writers)
        return OtherShape(name="two masters", why=f"{both} accept writes at the same time")
    if len(roots) > 1:
        return OtherShape(name="detached members", why=f"{names} replicate from nobody; only one may")
    if not replicas:
        return OtherShape(name="lone server", why=f"{names} has no replica to fail over to")
    if not writers:
        return OtherShape(name="no writable master", why=f"{names} is read-only and so is everybody else")
    master = roots[0]
    if writers[0] is not master:
        return OtherShape(
            name="writable replica",
            why=f"{writers[0].instance.id.short} is a replica and accepts writes, its master does not",
        )
    return MasterWithReplicas(master=master, replicas=tuple(replicas))
