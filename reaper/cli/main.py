"""The commands. Each one parses, calls one thing, prints; heavy imports happen inside."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reaper import __version__
from reaper.cli import orders
from reaper.cli.parse import span
from reaper.cli.policies import policies_app
from reaper.domain.errors import ExitCode, ReaperError, RefusedError, UsageError
from reaper.domain.policy import FailoverBy, KillMode, Loss, Policy
from reaper.planner.draw import RoleChoice

if TYPE_CHECKING:
    from reaper.cli.compose import Site
    from reaper.cli.runs import Output
    from reaper.domain.facts import ClusterView, InstanceId
    from reaper.domain.plan import Plan, Replacement

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Database servers as disposable components: rotate, kill and replace masters, with proof.",
)
lab_app = typer.Typer(no_args_is_help=True, help="A replicating cluster of real servers on this machine.")
app.add_typer(lab_app, name="lab")
app.add_typer(policies_app, name="policies")
orders.add_to(app)

_Span = Annotated[timedelta, typer.Option(parser=span, metavar="DURATION")]
LabName = Annotated[str, typer.Option("--name", help="The lab's name, which is also its cluster's.")]
Mode = Annotated[KillMode, typer.Option("--mode", "--kill", help="How the victim dies.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --output json.")]
OutputChoice = Annotated[str, typer.Option("--output", help="table or json")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and ask the guards; touch nothing.")]
AcceptLoss = Annotated[
    bool,
    typer.Option("--accept-loss", help="Go without semi-sync: acknowledged writes may be lost, and are counted."),
]
Budget = Annotated[
    timedelta,
    typer.Option("--outage-budget", parser=span, metavar="DURATION", help="A longer outage is a bad verdict."),
]
Quarantine = Annotated[
    timedelta, typer.Option(parser=span, metavar="DURATION", help="Keep the victim's files for this long.")
]
Approval = Annotated[
    timedelta | None,
    typer.Option(parser=span, metavar="DURATION", help="Ask for a person's yes before the kill, for so long."),
]
MinCopies = Annotated[int, typer.Option(min=1, help="Copies that must be left after the kill.")]
MaxLag = Annotated[timedelta, typer.Option(parser=span, metavar="DURATION", help="Largest lag of a surviving replica.")]
ProbeClients = Annotated[int, typer.Option(min=1, max=64, help="Clients of the probe.")]
ProbeRate = Annotated[
    float, typer.Option(min=1, max=5000, help="Writes per second of the probe, all clients together.")
]


def run() -> None:
    """The console script: a person's mistake is a sentence and an exit code, never a traceback."""
    try:
        app()
    except ReaperError as error:
        sys.stderr.write(f"reaper: {error}\n")
        sys.exit(int(error.exit_code))
    except BrokenPipeError:
        sys.exit(int(ExitCode.USAGE))
    except KeyboardInterrupt:
        sys.stderr.write("reaper: interrupted\n")
        sys.exit(int(ExitCode.INTERRUPTED))
    except OSError as error:
        sys.stderr.write(f"reaper: {error.strerror or error}{f': {error.filename}' if error.filename else ''}\n")
        sys.exit(int(ExitCode.TRY_AGAIN))


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"reaper {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    return


# ---- lab


@lab_app.command("up")
def lab_up(
    name: LabName = "lab",
    nodes: Annotated[int, typer.Option(help="Servers: one master, the others replicas.")] = 3,
    server: Annotated[Path | None, typer.Option(help="A mysqld or mariadbd; otherwise the installed one.")] = None,
) -> None:
    """Make a lab: real servers on loopback, replicating, with an endpoint in front."""
    from reaper.adapters.interrupt import SignalInterrupt
    from reaper.cli.compose import site
    from reaper.domain.facts import InstanceState

    with SignalInterrupt().installed() as interrupt:
        here = site()
        lab = here.lab_up(name, server, nodes, interrupt.check)
        living = sum(m.state is InstanceState.RUNNING for m in here.fleet.members(name))
    sys.stdout.write(
        f"lab {lab.name}: {living} of {len(lab.instances)} servers ({lab.flavour} {lab.version}), "
        f"endpoint 127.0.0.1:{lab.endpoint_port}\n"
        f"  reaper status {lab.name}        look at it\n"
        f"  reaper lab load --name {lab.name}   write and read through the endpoint\n"
        f"  reaper rotate {lab.name}        replace its master\n"
    )


@lab_app.command("status")
def lab_status(name: Annotated[str | None, typer.Option("--name")] = None, output: OutputChoice = "table") -> None:
    """The same as `reaper status`, for labs."""
    status(name, output)


@lab_app.command("down")
def lab_down(name: LabName = "lab") -> None:
    """End every process of a lab and delete its files."""
    from reaper.cli.compose import site

    ended = site().lab_down(name)
    sys.stdout.write(f"lab {name} is gone: ended {', '.join(ended) or 'nothing, all had ended'}\n")


@lab_app.command("load")
def lab_load(
    name: LabName = "lab",
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Writes and as many reads per second.")] = 100,
    clients: Annotated[int, typer.Option(min=1, max=64)] = 4,
    stop_after: Annotated[
        timedelta | None, typer.Option("--for", parser=span, metavar="DURATION", help="Stop by itself.")
    ] = None,
) -> None:
    """Write and read through the endpoint as an application does, until stopped."""
    from reaper.cli.compose import site
    from reaper.cli.load import run_load

    run_load(site(), name, rate=rate, clients=clients, stop_after=stop_after)


@app.command()
def status(
    cluster: Annotated[str | None, typer.Argument(help="One cluster; all if left out.")] = None,
    output: OutputChoice = "table",
) -> None:
    """Show each cluster: roles, positions, lag, flags, semi-sync, age, disk, version."""
    from reaper.adapters.interrupt import SignalInterrupt
    from reaper.cli.compose import site
    from reaper.cli.journal import announcer
    from reaper.cli.render import cluster_tree, view_as_json
    from reaper.cli.runs import Output, console, print_json
    from reaper.workflow.observe import observe

    wanted, here = _output(output), site()
    names = (cluster,) if cluster else here.fleet.clusters()
    if not names:
        raise UsageError("there is no cluster: `reaper lab up` makes one on this machine")
    world = here.world(announcer(), SignalInterrupt())
    views, faults = [], []
    for name in names:
        try:
            views.append(observe(world, name))
        except UsageError as error:
            if cluster:
                raise
            faults.append(str(error))  # one broken book does not hide the other clusters
    try:
        paused = here.paused()
    except ReaperError as error:  # whoever looks at a cluster in trouble has no use for a second trouble
        paused = f"perhaps paused, which cannot be told: {error}"
    if paused:
        sys.stderr.write(f"reaper: {paused}\n")
    if wanted is Output.JSON:
        print_json([view_as_json(v) | {"paused": paused} for v in views])
    else:
        for view in views:
            console().print(cluster_tree(view))
    if faults:
        raise UsageError("; ".join(faults))


# ---- rotate and kill


@app.command()
def rotate(
    cluster: Annotated[str, typer.Argument(help="The cluster whose master is replaced.")],
    mode: Mode = KillMode.CRASH,
    dry_run: DryRun = False,
    accept_loss: AcceptLoss = False,
    outage_budget: Budget = "2s",  # type: ignore[assignment]  # typer parses it
    quarantine: Quarantine = "0s",  # type: ignore[assignment]
    approval: Approval = None,
    min_copies: MinCopies = 2,
    max_lag: MaxLag = "5s",  # type: ignore[assignment]
    probe_clients: ProbeClients = 3,
    probe_rate: ProbeRate = 150,
    output: OutputChoice = "table",
) -> None:
    """Replace a cluster's master: build an heir, kill the master, fail over, prove the cost, retire it."""
    from reaper.cli.compose import site
    from reaper.cli.runs import refuse_unfinished, unfinished
    from reaper.cli.runs import resume as resume_run
    from reaper.domain.plan import Replacement

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
    )
    here = site()
    if dry_run:
        refuse_unfinished(here, cluster)
    elif left := unfinished(here, cluster):
        sys.stderr.write(f"reaper: goes on with {left.run}, whose process died\n")
        raise typer.Exit(int(resume_run(here, left.run, _output(output))))
    _refuse_paused(here, dry_run)
    view = _observe(here, cluster)
    master = _master_of(view)
    plan = _plan(here, view, master, policy, Replacement.BEFORE, f"rotate the master {master.short} of {cluster}", None)
    _carry_out(here, plan, dry_run, output)


@app.command()
def kill(
    instance: Annotated[str | None, typer.Argument(help="Whom, as PROVIDER:CLUSTER/NAME; or use --random.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Draw the victim.")] = False,
    cluster: Annotated[str | None, typer.Option(help="Draw from this cluster only.")] = None,
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
    from reaper.cli.compose import site
    from reaper.cli.draw import draw_victim, named_victim
    from reaper.domain.plan import Replacement

    if random == (instance is not None):
        raise UsageError(
            "say either --random or whom to kill (PROVIDER:CLUSTER/NAME, see `reaper status --output json`)"
        )
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
    _output(output)
    here = site()
    _refuse_paused(here, dry_run)
    victim = named_victim(here, instance) if instance else draw_victim(here, cluster, role, seed)
    replacement = Replacement.NONE if no_replace else Replacement.AFTER
    plan = _plan(here, victim.view, victim.instance, policy, replacement, victim.why, victim.seed)
    if not dry_run:
        _confirm(plan, yes=yes)
    _carry_out(here, plan, dry_run, output)


@app.command()
def retire(
    cluster: Annotated[str, typer.Argument(help="The cluster whose quarantined instances are deleted.")],
    now: Annotated[bool, typer.Option("--now", help="Also those whose quarantine is not over.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="Also members that died by themselves.")] = False,
) -> None:
    """Delete the quarantined instances of a cluster whose time is over."""
    from datetime import UTC, datetime

    from reaper.cli.compose import site

    here = site()
    here.registry(cluster).read()
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


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run's name, or its beginning.")],
    output: OutputChoice = "table",
) -> None:
    """Go on with a run whose process has died, from its last recorded step; finish one that got stuck."""
    from reaper.cli import runs
    from reaper.cli.compose import site

    raise typer.Exit(int(runs.resume(site(), run, _output(output))))


# ---- history


@app.command()
def runs(
    cluster: Annotated[str | None, typer.Argument(help="One cluster; all if left out.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 20,
    output: OutputChoice = "table",
) -> None:
    """List the runs, newest first."""
    from reaper.cli.compose import site
    from reaper.cli.render import runs_table
    from reaper.cli.runs import Output, console, print_json
    from reaper.cli.show import run_as_json

    wanted, store = _output(output), site().runs
    records = store.runs(cluster, most=most)
    if wanted is Output.JSON:
        print_json([run_as_json(r) for r in records])
    elif records:
        console().print(runs_table(records))
    else:
        of = f" of {cluster}" if cluster else ""
        sys.stdout.write(f"no run{of} yet: `reaper rotate CLUSTER` or `reaper kill --random` makes one\n")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's name, or its beginning.")],
    output: OutputChoice = "table",
) -> None:
    """Show one run: its plan, what the guards said, the timeline with durations, the verdict."""
    from reaper.cli.compose import site
    from reaper.cli.show import show_run

    show_run(site().runs, run, _output(output))


# ---- shared


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


def _output(text: str) -> "Output":
    from reaper.cli.runs import Output

    try:
        return Output(text)
    except ValueError:
        raise UsageError(f"--output is table or json, not {text!r}") from None


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


def _carry_out(here: "Site", plan: "Plan", dry: bool, output: str) -> None:
    from reaper.cli import runs

    wanted = _output(output)
    code = runs.dry_run(here, plan, wanted) if dry else runs.run(here, plan, wanted)
    raise typer.Exit(int(code))
