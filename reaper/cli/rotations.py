"""The commands that change a cluster: rotate, kill, retire, resume. Heavy imports happen inside."""

import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from reaper.cli.options import (
    AcceptLoss,
    Approval,
    Budget,
    DryRun,
    KeepSnapshots,
    MaxLag,
    MinCopies,
    Mode,
    OutputChoice,
    ProbeClients,
    ProbeRate,
    Quarantine,
    ReuseSnapshot,
    Run,
    VerifyAgainst,
    VerifyShare,
    Warm,
    WarmWithin,
    output_of,
)
from reaper.cli.parse import span
from reaper.domain.errors import RefusedError, UsageError
from reaper.domain.policy import FailoverBy, KillMode, Loss, Policy, Reference
from reaper.domain.warmth import WarmthGate
from reaper.planner.draw import RoleChoice

if TYPE_CHECKING:
    from reaper.cli.compose import Site
    from reaper.cli.runs import Output
    from reaper.domain.facts import ClusterView, InstanceId
    from reaper.domain.plan import Plan, Replacement


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (rotate, kill, retire, resume):
        app.command()(command)


def rotate(
    cluster: Annotated[str, typer.Argument(help="The cluster whose master is replaced.")],
    mode: Mode = KillMode.CRASH,
    dry_run: DryRun = False,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to a worker; do not wait.")] = False,
    accept_loss: AcceptLoss = False,
    outage_budget: Budget = "2s",  # type: ignore[assignment]  # typer parses it
    quarantine: Quarantine = "0s",  # type: ignore[assignment]
    approval: Approval = None,
    min_copies: MinCopies = 2,
    max_lag: MaxLag = "5s",  # type: ignore[assignment]
    probe_clients: ProbeClients = 3,
    probe_rate: ProbeRate = 150,
    verify_against: VerifyAgainst = Reference.SOURCE,
    verify_share: VerifyShare = 1.0,
    warm: Warm = None,
    warm_within: WarmWithin = "30m",  # type: ignore[assignment]
    reuse_snapshot: ReuseSnapshot = None,
    keep_snapshots: KeepSnapshots = 0,
    output: OutputChoice = "table",
) -> None:
    """Replace a cluster's master: build an heir, kill the master, fail over, prove the cost, retire it."""
    from reaper.cli import runs
    from reaper.cli.compose import site
    from reaper.domain.plan import Replacement

    if dry_run and queue:
        raise UsageError("say either --dry-run or --queue")
    policy = Policy(
        mode=mode,
        loss=Loss.ACCEPTED if accept_loss else Loss.FORBIDDEN,
        outage_budget=outage_budget,
        quarantine=quarantine,
        approval_within=approval,
        min_copies=min_copies,
        max_lag=max_lag,
        probe_clients=probe_clients,
        probe_rate=probe_rate,
        compare_with=verify_against,
        compare_share=verify_share,
        warm=None if warm is None else WarmthGate(gate=warm, within=warm_within),
        snapshot_reuse_within=reuse_snapshot,
        snapshot_keep=keep_snapshots,
    )
    here, wanted = site(), output_of(output)
    if dry_run or queue:
        runs.refuse_unfinished(here, cluster)
    else:
        _go_on_instead(here, cluster, None, wanted)
    _refuse_paused(here, dry_run)
    view = _observe(here, cluster)
    master = _master_of(view)
    plan = _plan(here, view, master, policy, Replacement.BEFORE, f"rotate the master {master.short} of {cluster}", None)
    carry_out = runs.dry_run if dry_run else runs.queue if queue else runs.run
    raise typer.Exit(int(carry_out(here, plan, wanted)))


def kill(
    context: typer.Context,
    instance: Annotated[
        str | None, typer.Argument(help="Whom, as PROVIDER:PLACE/NAME, with --group its id; or use --random.")
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Draw the victim.")] = False,
    cluster: Annotated[str | None, typer.Option(help="Draw from this cluster only.")] = None,
    group: Annotated[str | None, typer.Option(help="Of this group of stateless instances, which replaces it.")] = None,
    min_healthy: Annotated[
        str | None,
        typer.Option(metavar="N|N%", help="With --group: so many serve without it; all others if left out."),
    ] = None,
    role: Annotated[RoleChoice, typer.Option(help="Draw among these only.")] = RoleChoice.ANY,
    mode: Mode = KillMode.CRASH,
    seed: Annotated[int | None, typer.Option(help="Repeat a draw.")] = None,
    failover: Annotated[FailoverBy, typer.Option(help="Who promotes the heir.")] = FailoverBy.REAPER,
    within: Annotated[
        timedelta,
        typer.Option(parser=span, metavar="DURATION", help="With --failover observe: the deadline."),
    ] = "30s",  # type: ignore[assignment]
    no_replace: Annotated[bool, typer.Option("--no-replace", help="Leave the cluster one smaller.")] = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where nobody can be asked.")] = False,
    accept_loss: AcceptLoss = False,
    outage_budget: Budget = "2s",  # type: ignore[assignment]
    quarantine: Quarantine = "0s",  # type: ignore[assignment]
    approval: Approval = None,
    min_copies: MinCopies = 2,
    max_lag: MaxLag = "5s",  # type: ignore[assignment]
    probe_clients: ProbeClients = 3,
    probe_rate: ProbeRate = 150,
    output: OutputChoice = "table",
) -> None:
    """Kill an instance, as on a game day: fail over if it was the master, measure, replace it."""
    from reaper.cli import groups_kill, runs
    from reaper.cli.compose import site
    from reaper.cli.draw import draw_victim, instance_named, named_victim
    from reaper.domain.plan import Replacement

    if random == (instance is not None):
        raise UsageError("say either --random or whom to kill (PROVIDER:PLACE/NAME, see `reaper status --output json`)")
    if group is not None:
        groups_kill.refuse_options_of_clusters(context)
        wish = groups_kill.Wish(
            group=group, instance=instance, seed=seed, min_healthy=min_healthy, dry_run=dry_run, yes=yes
        )
        raise typer.Exit(int(groups_kill.kill_in_group(site(), wish, output_of(output))))
    if min_healthy is not None:
        raise UsageError("--min-healthy is for instances of a group: say --group too, or --min-copies for a cluster")
    policy = Policy(
        mode=mode,
        failover=failover,
        loss=Loss.ACCEPTED if accept_loss else Loss.FORBIDDEN,
        outage_budget=max(outage_budget, within) if failover is FailoverBy.OBSERVE else outage_budget,
        failover_within=within,
        quarantine=quarantine,
        approval_within=approval,
        min_copies=min_copies,
        max_lag=max_lag,
        probe_clients=probe_clients,
        probe_rate=probe_rate,
    )
    here, wanted = site(), output_of(output)
    asked = cluster if random else here.fleet.cluster_of(instance_named(str(instance)))
    if asked and not dry_run:
        _go_on_instead(here, asked, instance, wanted)
    _refuse_paused(here, dry_run)
    victim = named_victim(here, instance) if instance else draw_victim(here, cluster, role, seed)
    replacement = Replacement.NONE if no_replace else Replacement.AFTER
    plan = _plan(here, victim.view, victim.instance, policy, replacement, victim.why, victim.seed)
    if not dry_run:
        _confirm(plan, yes=yes)
    carry_out = runs.dry_run if dry_run else runs.run
    raise typer.Exit(int(carry_out(here, plan, wanted)))


def retire(
    cluster: Annotated[str, typer.Argument(help="The cluster whose quarantined instances are deleted.")],
    now: Annotated[bool, typer.Option("--now", help="Also those whose quarantine is not over.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="Also members that died by themselves.")] = False,
) -> None:
    """Delete the quarantined instances of a cluster whose time is over."""
    from datetime import UTC, datetime

    from reaper.cli.compose import site

    here = site()
    here.fleet.members(cluster)  # there is no such cluster: that is said before anything is locked
    with here.work.exclusive(cluster, f"`reaper retire` in process {os.getpid()}"):
        kept, gone = [], []
        if dead:
            gone += _retire_dead(here, cluster)
        for member in here.fleet.members(cluster):
            if member.quarantined_until is None:
                continue
            if now or member.quarantined_until <= datetime.now(UTC):
                here.fleet.retire(member)
                gone.append(member.id.short)
            else:
                kept.append(f"{member.id.short} until {member.quarantined_until:%Y-%m-%d %H:%M:%S} UTC")
    sys.stdout.write(
        f"{cluster}: deleted {', '.join(gone) or 'nothing'}" + (f"; kept {', '.join(kept)}" if kept else "") + "\n"
    )


def resume(
    run: Run,
    output: OutputChoice = "table",
) -> None:
    """Go on with a run whose process has died, from its last recorded step; finish one that got stuck."""
    from reaper.cli import runs
    from reaper.cli.compose import site

    raise typer.Exit(int(runs.resume(site(), run, output_of(output))))


# ---- shared


def _go_on_instead(here: "Site", cluster: str, victim: str | None, output: "Output") -> None:
    """Go on with the cluster's interrupted run, if it has one that kills `victim` (None: whomever), and exit."""
    from reaper.cli import runs

    left = runs.unfinished(here, cluster)
    if left is not None and victim in (None, str(left.plan.victim)):
        raise typer.Exit(int(runs.go_on(here, left, output)))


def _refuse_paused(here: "Site", dry: bool) -> None:
    why = None if dry else here.paused()
    if why is not None:
        raise RefusedError(f"reaper is {why}. `reaper unpause` lifts it")


def _retire_dead(here: "Site", cluster: str) -> list[str]:
    """Delete members that are dead, provided that what lives is a master with its replicas, or a master alone."""
    from dataclasses import replace

    from reaper.domain.facts import InstanceState, Openness
    from reaper.planner.shape import MasterWithReplicas, classify, living

    view = _observe(here, cluster)
    dead = [m for m in view.members if m.instance.state is InstanceState.DEAD]
    rest = replace(view, members=tuple(m for m in view.members if m not in dead))
    alone = [m.facts.openness for m in living(rest) if m.facts] == [Openness.OPEN]
    if dead and not (alone or isinstance(classify(rest), MasterWithReplicas)):
        raise RefusedError(f"{cluster}: without its dead members it has no sound master; nothing was deleted")
    for member in dead:
        here.fleet.retire(member.instance)
    return [m.instance.id.short for m in dead]


def _observe(here: "Site", cluster: str) -> "ClusterView":
    from reaper.adapters.interrupt import SignalInterrupt
    from reaper.cli.journal import announcer
    from reaper.workflow.observe import observe

    return observe(here.world(announcer(), SignalInterrupt()), cluster)


def _master_of(view: "ClusterView") -> "InstanceId":
    from reaper.planner.shape import OtherShape, classify

    shape = classify(view)
    if isinstance(shape, OtherShape):
        raise RefusedError(f"shape: {view.name} cannot be rotated: {shape.name}: {shape.why}")
    return shape.master.instance.id


def _plan(
    here: "Site",
    view: "ClusterView",
    victim: "InstanceId",
    policy: Policy,
    replacement: "Replacement",
    why: str,
    seed: int | None,
) -> "Plan":
    from reaper.cli.runs import run_name
    from reaper.planner.steps import Request, make_plan

    name = run_name(view.name, here.runs)
    request = Request(run=name, victim=victim, policy=policy, replacement=replacement, why=why, seed=seed)
    return make_plan(view, request)


def _confirm(plan: "Plan", *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: say --yes to kill without a question, or --dry-run to look")
    sys.stderr.write(f"{plan.why}: {plan.policy.mode} kill of {plan.victim}, the {plan.role} of {plan.cluster}.\n")
    sys.stderr.write(f"Type the cluster's name ({plan.cluster}) to kill it: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != plan.cluster:
        raise UsageError("not confirmed: nothing was touched")
