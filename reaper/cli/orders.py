"""What a person tells runs, and the lever; and the worker that follows them."""

import sys
from typing import Annotated

import typer

from reaper.cli.options import Run, Who
from reaper.domain.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (approve, abort, pause, unpause, worker):
        app.command()(command)


def approve(run: Run, who: Who = None) -> None:
    """Say yes to the kill that a run waits for."""
    from reaper.cli.compose import site
    from reaper.cli.durable import message, person
    from reaper.cli.render import plan_table
    from reaper.cli.runs import console
    from reaper.workflow.steps import Op

    here = site()
    record = here.runs.run(run)
    follower = record.follower
    waits = follower.waits_for if follower else ""
    if not waits.startswith("a person's yes"):
        raise UsageError(f"{record.run} does not wait for a person's yes{f', but for {waits}' if waits else ''}")
    plan = record.plan
    if not plan.policy.accepts_yes_of(who or person()):
        raise UsageError(
            f"the yes of {who or person()} does not count for {record.run}: its policy wants that of "
            f"{' or '.join(plan.policy.approvers)} (--who)"
        )
    here.work.send(record.run, message(Op.APPROVE, who or person(), ""))
    console().print(plan_table(plan))
    then = f"; its process is gone: `reaper resume {record.run}`, or a worker, goes on" if record.interrupted else ""
    sys.stdout.write(
        f"\n{record.run}: approved by {who or person()}: {plan.policy.mode} kill of {plan.victim}, "
        f"the {plan.role} of {plan.cluster}{then}\n"
    )


def abort(
    run: Run, reason: Annotated[str, typer.Option(help="Why; kept in the record.")] = "", who: Who = None
) -> None:
    """Stop a run before its kill: everything that it made is undone. After the kill it goes on to its end."""
    from reaper.cli.compose import site
    from reaper.cli.durable import message, person
    from reaper.domain.verdict import RunState
    from reaper.workflow.steps import Op

    here = site()
    record = here.runs.record(run)
    why = f"withdrawn from the queue by {who or person()}{f': {reason}' if reason else ''}"
    if record.queued and here.work.withdraw(record.run, why):
        here.runs.begin(record.plan)
        here.runs.end(record.run, RunState.UNDONE, None, why)
        sys.stdout.write(f"{record.run}: {why}; it had not begun\n")
        return
    here.work.send(record.run, message(Op.ABORT, who or person(), reason))
    then = (
        f"its process is gone: `reaper resume {record.run}`, or a worker, carries it out"
        if record.interrupted
        else "undone if it is before its kill, otherwise it goes on to its end"
    )
    sys.stdout.write(f"{record.run}: told to stop; {then}\n")


def pause(
    reason: Annotated[str, typer.Option(help="Shown to everybody who is held.")] = "no reason given", who: Who = None
) -> None:
    """Pull the lever: no run begins, and those under way hold before what cannot be undone."""
    from reaper.cli.compose import site
    from reaper.cli.durable import person
    from reaper.cli.logging import bring_in

    bring_in("reaper.store")
    here = site()
    here.work.pause(reason, who or person())
    sys.stdout.write(f"{here.paused()}\n`reaper unpause` lifts it\n")


def unpause(who: Who = None) -> None:
    """Let go of the lever."""
    from reaper.cli.compose import site
    from reaper.cli.durable import person
    from reaper.cli.logging import bring_in

    bring_in("reaper.store")
    here = site()
    was = here.paused()
    here.work.unpause(who or person())
    sys.stdout.write(f"lifted: was {was}\n" if was else "it was not paused\n")


def worker(
    limit: Annotated[int | None, typer.Option(min=1, help="Runs in flight at the most, over all workers.")] = None,
    per_group: Annotated[int | None, typer.Option(min=1, help="The same, per shard group.")] = None,
    percent: Annotated[float | None, typer.Option(min=0.1, max=100, help="The same, in percent of clusters.")] = None,
) -> None:
    """Follow runs until stopped: begin queued ones, take over those whose process died. Any number of workers."""
    import signal
    import threading

    from reaper.adapters.store.work import Limits
    from reaper.cli.compose import site
    from reaper.cli.durable import following
    from reaper.cli.journal import LogJournal

    here, stop = site(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())

    def limits() -> Limits:
        clusters = len(here.fleet.clusters()) if percent is not None else None
        return Limits(in_flight=limit, per_group=per_group, percent=percent, of_clusters=clusters)

    with following(here, LogJournal) as engine:
        sys.stderr.write(f"reaper: worker {engine.executor} follows runs; SIGTERM stops it\n")
        engine.work(limits, stop)
