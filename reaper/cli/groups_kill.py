"""`reaper kill --group`: one instance of a group of stateless instances, by hand, guarded as every other run is."""

import re
import secrets
import sys
from dataclasses import dataclass, replace

import typer

from reaper.adapters.store.journal import GroupRunRecord
from reaper.cli import runs
from reaper.cli.compose import Site
from reaper.cli.groups import must_reach
from reaper.cli.groups_render import group_plan_table
from reaper.cli.render import guards_table
from reaper.cli.runs import Output, as_json, console, print_json, run_name
from reaper.domain.errors import ExitCode, RefusedError, UsageError
from reaper.domain.groups import Chosen, Floor, GroupPlan, GroupPolicy, GroupView, Order, key_of
from reaper.domain.verdict import GuardVerdict
from reaper.planner.groups import GroupCase, judge_group, plan_group
from reaper.planner.guards import refusals
from reaper.planner.words import listed

_OPTIONS = frozenset({"instance", "random", "group", "min_healthy", "seed", "dry_run", "yes", "output"})
_FLOOR = re.compile(r"(\d{1,6})|(\d{1,2}(?:\.\d{1,6})?) ?%", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person asks for."""

    group: str
    instance: str | None  # its id, or PROVIDER:GROUP/ID; None: draw one
    seed: int | None
    min_healthy: str | None
    dry_run: bool
    yes: bool


def refuse_options_of_clusters(context: typer.Context) -> None:
    """UsageError if an option was given that means nothing for a group."""
    given = sorted(
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
        and name not in _OPTIONS
    )
    if given:
        options = listed(tuple(f"--{name.replace('_', '-')}" for name in given))
        raise UsageError(f"{options} {'is' if len(given) == 1 else 'are'} for clusters: leave it out with --group")


def kill_in_group(site: Site, wish: Wish, output: Output) -> ExitCode:
    """Replace one instance now, or show what would be done. Everybody else has to serve unless the floor is said."""
    groups, key = must_reach(site), key_of(wish.group)
    if not wish.dry_run:
        left = runs.interrupted(site, key)
        if left is not None and _takes(site, left, wish):
            sys.stderr.write(f"reaper: goes on with {left}, whose process died\n")
            return runs.resume(site, left, output)
        why = site.paused()
        if why is not None:
            raise RefusedError(f"reaper is {why}. `reaper unpause` lifts it")
    known = groups.names()
    if wish.group not in known:
        raise UsageError(f"there is no group {wish.group} that reaper may look at: there are {listed(known) or 'none'}")
    view = groups.view(wish.group)
    plan = _plan(view, wish, run_name(key, site.runs))
    if wish.dry_run:
        return _show(view, plan, output)
    _confirm(plan, yes=wish.yes)
    return runs.run(site, plan, output)


def _takes(site: Site, run: str, wish: Wish) -> bool:
    """Whether an interrupted run is about whom the person means."""
    record = site.runs.record(run)
    if not isinstance(record, GroupRunRecord):
        return False
    return wish.instance is None or any(wish.instance in (v.id.short, str(v.id)) for v in record.plan.victims)


def floor_of(text: str | None, view: GroupView) -> Floor:
    """`3`, `90%`; None: everybody but the victim. UsageError: it is none."""
    if text is None:
        return Floor(count=max(view.desired - 1, 0))
    match = _FLOOR.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--min-healthy {text!r} is no floor: write a number, or a share below 100%, such as 90%")
    count, percent = match[1], match[2]
    return Floor(count=int(count)) if count is not None else Floor(percent=float(percent))


def _plan(view: GroupView, wish: Wish, run: str) -> GroupPlan:
    policy = GroupPolicy(floor=floor_of(wish.min_healthy, view), order=Order.RANDOM, at_most=1)
    if wish.instance is not None:
        return _named(view, wish.instance, replace(policy, order=Order.OLDEST), run)
    seed = secrets.randbelow(2**31) if wish.seed is None else wish.seed
    eligible = len(plan_group(view, replace(policy, at_most=None), run=run, seed=seed).victims)
    plan = plan_group(view, policy, run=run, seed=seed)
    if not plan.victims:
        why = "; ".join(f"{one.id.short}: {one.why}" for one in plan.spared) or "it has no member"
        raise RefusedError(f"nobody of {view.name} is eligible: {why}")
    drawn = plan.victims[0].id.short
    return replace(plan, why=f"drew {drawn} out of {eligible} eligible of {view.name} (seed {seed})")


def _named(view: GroupView, instance: str, policy: GroupPolicy, run: str) -> GroupPlan:
    member = next((m for m in view.members if instance in (m.id.short, str(m.id))), None)
    if member is None:
        known = ", ".join(m.id.short for m in view.members)
        raise UsageError(f"{view.name} has no instance {instance}: it has {known or 'none'}")
    return GroupPlan(
        run=run,
        group=view.name,
        victims=(Chosen(id=member.id, why="named by a person"),),
        spared=(),
        policy=policy,
        seed=None,
        why=f"kill {member.id.short} of {view.name}, named by a person",
    )


def _show(view: GroupView, plan: GroupPlan, output: Output) -> ExitCode:
    """The plan and what every guard says. Nothing is written, at no provider and in no store."""
    verdicts = judge_group(GroupCase(view=view, victim=plan.victims[0].id, policy=plan.policy))
    refused = refusals(verdicts)
    if output is Output.JSON:
        guards = as_json(tuple[GuardVerdict, ...], verdicts)
        print_json({"plan": as_json(GroupPlan, plan), "guards": guards, "go": not refused})
    else:
        out = console()
        out.print(group_plan_table(plan))
        out.print()
        out.print(guards_table(verdicts))
        out.print()
        end = f"It would be refused by {len(refused)} guards." if refused else "It would go."
        out.print(f"[bold]dry run: nothing was touched.[/] {end}")
    return ExitCode.REFUSED if refused else ExitCode.GOOD


def _confirm(plan: GroupPlan, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: say --yes to kill without a question, or --dry-run to look")
    sys.stderr.write(f"{plan.why}: {plan.victims[0].id} is terminated, its group launches a successor.\n")
    sys.stderr.write(f"Type the group's name ({plan.group}) to kill it: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != plan.group:
        raise UsageError("not confirmed: nothing was touched")
