"""Choose a victim: the one that was named, or one that is drawn."""

import secrets
from dataclasses import dataclass

from reaper.adapters.interrupt import SignalInterrupt
from reaper.cli.compose import Site
from reaper.cli.journal import announcer
from reaper.cli.runs import refuse_unfinished
from reaper.domain.errors import ReaperError, RefusedError, UsageError
from reaper.domain.facts import ClusterView, InstanceId
from reaper.domain.plan import Role
from reaper.planner.draw import Eligible, RoleChoice, draw, eligible_for
from reaper.planner.shape import OtherShape, classify
from reaper.workflow.observe import observe


@dataclass(frozen=True, kw_only=True)
class Victim:
    """Who, and why."""

    view: ClusterView
    instance: InstanceId
    why: str
    seed: int | None


def instance_named(name: str) -> InstanceId:
    """What a person wrote. UsageError: it is no instance's name."""
    provider, _, rest = name.partition(":")
    place, _, short = rest.partition("/")
    if not place or not short:
        raise UsageError(
            f"{name!r} is no instance: write PROVIDER:PLACE/NAME as `reaper status --output json` does, such as "
            "local:lab/n1 or ec2:eu-central-1/i-0123456789abcdef0"
        )
    return InstanceId(provider, rest)


def named_victim(site: Site, name: str) -> Victim:
    """The instance that a person named. UsageError: there is none."""
    wanted = instance_named(name)
    cluster = site.fleet.cluster_of(wanted)
    refuse_unfinished(site, cluster)
    view = observe(site.world(announcer(), SignalInterrupt()), cluster)
    member = view.member(wanted)
    if member is None:
        known = ", ".join(str(m.instance.id) for m in view.members)
        raise UsageError(f"{cluster} has no instance {name}: it has {known}")
    return Victim(view=view, instance=member.instance.id, why=f"kill {name}, named by a person", seed=None)


def draw_victim(site: Site, cluster: str | None, choice: RoleChoice, seed: int | None) -> Victim:
    """Draw among the eligible: living members of clusters with a sound shape. RefusedError: nobody is."""
    names = (cluster,) if cluster else site.fleet.clusters()
    if not names:
        raise UsageError("there is no cluster to draw from: `reaper lab up` makes one on this machine")
    world = site.world(announcer(), SignalInterrupt())
    views: dict[str, ClusterView] = {}
    pool: list[Eligible] = []
    excluded: list[ReaperError] = []
    for name in names:
        try:
            refuse_unfinished(site, name)
            view = views[name] = observe(world, name)
        except (UsageError, RefusedError) as error:
            if cluster:
                raise
            excluded.append(error)
            continue
        shape = classify(view)
        if isinstance(shape, OtherShape):
            excluded.append(RefusedError(f"{name}: {shape.name}: {shape.why}"))
            continue
        pool.append(Eligible(cluster=name, instance=shape.master.instance.id, role=Role.MASTER))
        pool += [Eligible(cluster=name, instance=r.instance.id, role=Role.REPLICA) for r in shape.replicas]
    eligible = eligible_for(tuple(pool), choice)
    if not eligible:
        if len(excluded) == len(names) == 1:
            raise excluded[0]
        why = "; ".join(map(str, excluded)) or f"no {choice} in {', '.join(names)}"
        raise RefusedError(f"nobody is eligible: {why}")
    used = secrets.randbelow(2**31) if seed is None else seed
    drawn = draw(eligible, seed=used)
    why = f"drew {drawn.instance} ({drawn.role}) out of {len(eligible)} eligible (role {choice}, seed {used})"
    return Victim(view=views[drawn.cluster], instance=drawn.instance, why=why, seed=used)
