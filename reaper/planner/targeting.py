"""What policies choose among: clusters and groups as selection sees them, and whom a target means. Total functions."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache

from reaper.domain.facts import ClusterView, Instance
from reaper.domain.groups import GroupMember, GroupRole, GroupView, MemberState
from reaper.domain.plan import Role
from reaper.domain.standing import Target
from reaper.planner.dueness import by_kind, carries
from reaper.planner.shape import OtherShape, classify, living

Mortal = Instance | GroupMember


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cluster or a group as selection sees it; made once per observation and shared by all policies."""

    cluster: str  # of a group: its name among those of clusters
    provider: str
    tags: frozenset[tuple[str, str]] | None  # shared by all living members; None: those of one are unreadable
    members: tuple[tuple[Role | GroupRole, Mortal], ...]  # living ones; empty if `unfit` says why
    unfit: str | None  # the shape that is refused, by name
    group: GroupView | None = None  # None: it is a cluster

    @property
    def name(self) -> str:
        """What people call it."""
        return self.cluster if self.group is None else self.group.name


def prepare(view: ClusterView | GroupView) -> Candidate:
    """What selection needs of an observed cluster or group."""
    return _prepare_group(view) if isinstance(view, GroupView) else _prepare_cluster(view)


def _prepare_group(view: GroupView) -> Candidate:
    living = () if view.unfit else tuple(m for m in view.members if m.state is not MemberState.LEAVING)
    return Candidate(
        cluster=view.key,
        provider=view.members[0].id.provider if view.members else "",
        tags=frozenset(view.tags),
        members=tuple((GroupRole.INSTANCE, m) for m in living),
        unfit=f"it is {view.unfit}" if view.unfit else None,
        group=view,
    )


def _prepare_cluster(view: ClusterView) -> Candidate:
    shape, members = classify(view), living(view)
    tags: frozenset[tuple[str, str]] | None = frozenset()
    known = [m.instance.tags for m in members]
    if any(t is None for t in known):
        tags = None
    elif known:
        tags = frozenset.intersection(*map(frozenset, {t or () for t in known}))  # mostly all carry the same
    provider = view.members[0].instance.id.provider if view.members else ""
    if isinstance(shape, OtherShape):
        unfit: str | None = f"{shape.name}: {shape.why}"
        return Candidate(cluster=view.name, provider=provider, tags=tags, members=(), unfit=unfit)
    roles = [(Role.MASTER, shape.master.instance), *((Role.REPLICA, r.instance) for r in shape.replicas)]
    return Candidate(cluster=view.name, provider=provider, tags=tags, members=tuple(roles), unfit=None)


def may_target(target: Target, cluster: str) -> bool:
    """False if a cluster's or group's name alone keeps it out, so that it need not be looked at."""
    if target.names and _any_of(target.names).match(cluster) is None:
        return False
    return not target.excluded or _any_of(target.excluded).match(cluster) is None


class Match(StrEnum):
    """Whether a cluster is targeted; a cluster whose tags decide and are unreadable is not known to be."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@lru_cache(maxsize=1024)  # one expression for all globs: every policy asks it of every cluster
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs))


def targets_of(target: Target) -> Callable[[Candidate], Match]:
    """Whether a cluster is targeted. Put together once for a whole fleet, of which it is asked cluster by cluster."""
    provider = target.provider
    exact, globs = by_kind(target.tags)
    named = _any_of(target.names).match if target.names else None
    excluded = _any_of(target.excluded).match if target.excluded else None

    def matches(candidate: Candidate) -> Match:
        if provider is not None and candidate.provider != provider:
            return Match.NO
        if named is not None and named(candidate.name) is None:
            return Match.NO
        if excluded is not None and excluded(candidate.name) is not None:
            return Match.NO
        if candidate.tags is None:
            return Match.UNKNOWN if exact or globs else Match.YES
        if exact and not exact <= candidate.tags:  # nearly always decides
            return Match.NO
        return Match.YES if carries(candidate.tags, globs) else Match.NO

    return matches
