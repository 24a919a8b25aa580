"""The rehearsal before the kill: every sibling replicates from the heir for a moment, for real (E21).

A sibling's own receiver is stopped while it tries, because semi-sync's state in a replica is one for all its
channels, in both flavours: measured on MariaDB 10.11.19, the end of a second channel made the first one read
its source's packets in the wrong form and stop with error 1595 (MDEV-32947 tells the same). So one sibling
tries at a time, only while somebody else acknowledges the master's commits, and its receiver runs again before
the next one's turn. It took 22 to 53 ms per sibling; commits waited no longer than without it.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from reaper.domain.errors import OwnershipLostError, ReaperError, TryAgainError
from reaper.domain.facts import Instance, InstanceId, ServerFacts, ThreadState
from reaper.domain.rehearsal import Attempt, Obstacle, Pair, Rehearsed, Transport, Trial, told
from reaper.planner.words import in_words
from reaper.workflow.ports import Clock
from reaper.workflow.server import Server

_LOOK_EVERY = timedelta(milliseconds=20)
_CLEAN_UP_WITHIN = timedelta(seconds=30)
_AHEAD_AGAIN = 2  # tries of a sibling that was ahead of the heir
_TRY_AGAIN_AFTER = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Theatre:
    """What a rehearsal needs of the world."""

    connect: Callable[[Instance], Server]
    clock: Clock
    check: Callable[[], None]  # called between two siblings; raises to abort
    within: timedelta  # for each wait: until the heir has applied, until connected, until the receiver is back


def rehearse(
    theatre: Theatre, master: Instance, siblings: tuple[Instance, ...], heir: Instance
) -> tuple[Rehearsed, ...]:
    """Let one sibling after the other replicate from the heir. Nothing is left of it, whatever comes out.

    TryAgainError: a sibling's receiver does not run again, or a left-over cannot be removed; says where.
    """
    heard = []
    for sibling in siblings:
        theatre.check()
        others = tuple(i for i in (heir, *siblings) if i.id != sibling.id)
        heard.append(_one(theatre, master, sibling, heir, others))
    return tuple(heard)


def take_back(theatre: Theatre, siblings: tuple[Instance, ...]) -> None:
    """End what a process that died has left on any sibling; for a resumed run and for its undo. May run twice."""
    for sibling in siblings:
        with contextlib.closing(theatre.connect(sibling)) as server:
            server.unrehearse()


def _one(
    theatre: Theatre, master: Instance, sibling: Instance, heir: Instance, others: tuple[Instance, ...]
) -> Rehearsed:
    pair = Pair(sibling=sibling.id, sibling_host=sibling.address.host, heir=heir.id, address=heir.address)
    with contextlib.closing(theatre.connect(sibling)) as server, contextlib.closing(theatre.connect(heir)) as stage:
        server.unrehearse()
        facts = server.facts()
        why = _unfit(facts) or _alone(theatre, master, others) or _behind(theatre, facts, stage)
        if why:
            return Rehearsed(
                instance=sibling.id, trial=Trial.SKIPPED, why=f"{sibling.id.short} did not rehearse: {why}"
            )
        began = theatre.clock.monotonic_ns()
        try:
            attempt = server.rehearse(heir.address, theatre.within)
            for _ in range(_AHEAD_AGAIN):  # it received more between the wait and the stop of its receiver
                if attempt.obstacle is not Obstacle.BEHIND:
                    break
                _wait_until_back(theatre, server, sibling.id, facts)
                _behind(theatre, server.facts(), stage)
                attempt = server.rehearse(heir.address, theatre.within)
        except OwnershipLostError:
            raise
        except ReaperError as error:
            _clean_up(theatre, sibling)
            why = f"{sibling.id.short} could not rehearse: {error}"
            return Rehearsed(instance=sibling.id, trial=Trial.FAILED, why=why)
        took = timedelta(microseconds=(theatre.clock.monotonic_ns() - began) // 1000)
        _wait_until_back(theatre, server, sibling.id, facts)
        if attempt.obstacle is None and attempt.transport is Transport.TLS:
            attempt = _encrypted(attempt, stage)
        if attempt.obstacle is None:
            how = f"as {attempt.user!r} over {attempt.transport} in {took / timedelta(milliseconds=1):.0f} ms"
            why = f"{sibling.id.short} replicated from {heir.id.short} {how}"
            return Rehearsed(instance=sibling.id, trial=Trial.PASSED, why=why)
        accounts = stage.accounts(attempt.user) if attempt.obstacle is Obstacle.DENIED else None
        return Rehearsed(instance=sibling.id, trial=Trial.FAILED, why=told(pair, attempt, accounts))


def _unfit(facts: ServerFacts) -> str | None:
    """Why this replica's replication must be left alone; None: it may rehearse."""
    if [c.channel for c in facts.channels] != [""]:
        return "it does not replicate over one default channel"
    if facts.channels[0].receiver is not ThreadState.RUNNING:
        return f"its receiver is {facts.channels[0].receiver}: {facts.channels[0].receiver_error or 'by hand'}"
    return None


def _alone(theatre: Theatre, master: Instance, others: tuple[Instance, ...]) -> str | None:
    """None: the master's commits are acknowledged without this sibling, or wait for nobody; asked right before."""
    with contextlib.closing(theatre.connect(master)) as server:
        state = server.semi_sync()
    if not state.source_enabled:
        return None
    for other in others:
        with contextlib.closing(theatre.connect(other)) as server:
            facts = server.facts()
        receiving = any(c.receiver is ThreadState.RUNNING and c.source == master.address for c in facts.channels)
        if receiving and facts.semi_sync.replica_active:
            return None
    return (
        f"nobody else acknowledges the commits of {master.id.short}, which would wait meanwhile. "
        "See why the other replicas are not connected to it with semi-sync, then rotate again"
    )


def _behind(theatre: Theatre, facts: ServerFacts, stage: Server) -> str | None:
    """None: the heir has applied what this sibling has, so that it can continue from there."""
    held = facts.executed | facts.channels[0].received
    if stage.wait_applied(held, theatre.within):
        return None
    waited = in_words(theatre.within)
    return f"{stage.instance.short} did not apply within {waited} what this one holds. Rotate at a lower load"


def _encrypted(attempt: Attempt, stage: Server) -> Attempt:
    """The attempt, unless the heir offers no TLS and the channel went on without it."""
    if stage.transport_offered() is Transport.TLS:
        return attempt
    return replace(attempt, obstacle=Obstacle.NO_TLS, said="it connected all the same, in clear text")


def _clean_up(theatre: Theatre, sibling: Instance) -> None:
    """Over a fresh connection, until it is done: the sibling's receiver may be stopped."""
    deadline = theatre.clock.monotonic_ns() + int(_CLEAN_UP_WITHIN.total_seconds() * 1e9)
    while True:
        try:
            take_back(theatre, (sibling,))
        except OwnershipLostError:
            raise
        except ReaperError as error:
            if theatre.clock.monotonic_ns() > deadline:
                raise TryAgainError(
                    f"{sibling.id.short} was rehearsing, and its receiver may still be stopped: {error}. When it "
                    "answers again, `reaper resume` takes the rehearsal back, or start its receiver by hand."
                ) from error
            theatre.clock.sleep(_TRY_AGAIN_AFTER)
        else:
            return


def _wait_until_back(theatre: Theatre, server: Server, sibling: InstanceId, before: ServerFacts) -> None:
    """Until the sibling receives again, and acknowledges if it did before. One that stopped is started once more."""
    deadline = theatre.clock.monotonic_ns() + int(theatre.within.total_seconds() * 1e9)
    helped = before.channels[0].applier is not ThreadState.RUNNING  # starting would start the applier too
    while True:
        facts = server.facts()
        channel = facts.channels[0] if facts.channels else None
        receiver = channel.receiver if channel else ThreadState.STOPPED
        if receiver is ThreadState.RUNNING and facts.semi_sync.replica_active >= before.semi_sync.replica_active:
            return
        if theatre.clock.monotonic_ns() > deadline:
            state = (channel and channel.receiver_error) or receiver
            raise TryAgainError(
                f"the receiver of {sibling.short} was started again after the rehearsal and is not back within "
                f"{in_words(theatre.within)}: {state}. See its error log; `reaper status` shows it."
            )
        if receiver is ThreadState.STOPPED and not helped:
            server.resume_replication()
            helped = True
        theatre.clock.sleep(_LOOK_EVERY)
