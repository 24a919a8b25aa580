"""One run as one HTML file that needs nothing else: no script, no other file, no network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Any, assert_never

from jinja2 import Template

from reaper import __version__
from reaper.adapters.store.journal import RunRecord
from reaper.cli.curve import recovery_svg
from reaper.cli.pages import template_of
from reaper.cli.render import interruption, short, size, words
from reaper.cli.run_drawing import WIDTH, charts_of, client_bars, slices_of
from reaper.cli.telling import inheritance
from reaper.domain.ledger import WriteKey
from reaper.domain.plan import Role, StepName
from reaper.domain.policy import FailoverBy
from reaper.domain.tail import Told
from reaper.domain.verdict import Event, EventKind, GuardVerdict, Ruling, RunState, RunVerdict
from reaper.planner.words import in_words, listed

_APPROVED = "approved by "  # how the workflow's note of a person's yes begins; nothing else records it
_MOST_KEYS = 50  # writes that are named one by one


class Tone(StrEnum):
    """How a thing is meant; also the class of its badge."""

    GOOD = "good"
    BAD = "bad"
    WARN = "warn"


@dataclass(frozen=True, kw_only=True)
class Headline:
    """How it ended, in a word and in a sentence."""

    tone: Tone
    badge: str
    says: str


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What a reader has to see first."""

    title: str
    why: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Number:
    """A figure and what it is."""

    value: str
    says: str
    bad: bool = False


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


@cache
def _template() -> Template:
    filters: dict[str, Callable[..., Any]] = {
        "span": short,
        "spent": lambda took_ns: short(timedelta(microseconds=took_ns / 1000)),
        "size": size,
        "in_words": in_words,
        "sentence": _sentence,
    }
    return template_of("run.html.j2", filters)


def run_html(record: RunRecord, events: tuple[Event, ...], asked: tuple[tuple[GuardVerdict, ...], ...]) -> str:
    """The whole page. `asked`: what the guards said, each time they were asked."""
    plan, verdict = record.plan, record.verdict
    recovery = verdict.recovery if verdict else None
    return _template().render(
        version=__version__,
        record=record,
        plan=plan,
        policy=plan.policy,
        verdict=verdict,
        events=tuple(e for e in events if e.kind is not EventKind.STARTED),
        asked=asked,
        planned=frozenset(s.name.value for s in plan.steps),
        head=headline(record, events),
        troubles=tuple(troubles(record, asked)),
        numbers=tuple(numbers(verdict, record)) if verdict else (),
        facts=tuple(facts(record, events)),
        width=WIDTH,
        slices=slices_of(verdict.parts) if verdict else (),
        clients=client_bars(verdict.clients) if verdict else (),
        # The template takes this one as it is: `recovery_svg` escapes every word that it draws.
        curve=words(recovery_svg(recovery)).plain if recovery and recovery.baseline else "",
        charts=charts_of(plan, events),
        named=named,
        go=Ruling.GO,
        lost=Told.ACKNOWLEDGED,
        unclear=Told.CANNOT_TELL,
    )


# ---- how it ended


def headline(record: RunRecord, events: tuple[Event, ...]) -> Headline:
    """The one thing to know."""
    who = f"{record.plan.victim.short}, the {record.plan.role} of {record.plan.cluster},"
    match record.state:
        case RunState.GOOD:
            return Headline(tone=Tone.GOOD, badge="good", says=f"{who} was killed: {_cost(record.verdict)}")
        case RunState.BAD:
            return Headline(tone=Tone.BAD, badge="bad", says=f"{who} was killed: {_cost(record.verdict)}")
        case RunState.REFUSED:
            return Headline(tone=Tone.WARN, badge="refused", says=f"{who} was not killed: the kill was refused")
        case RunState.UNDONE:
            says = f"{who} was not killed: the run was given up before, and everything that it made is undone"
            return Headline(tone=Tone.WARN, badge="undone", says=says)
        case RunState.STUCK:
            says = f"{who} {_fate(events)}: the run cannot go on, and a person has to look"
            return Headline(tone=Tone.BAD, badge="stuck", says=says)
        case RunState.RUNNING:
            return _under_way(record, f"{who} {_fate(events)}")
        case _:
            assert_never(record.state)


def _fate(events: tuple[Event, ...]) -> str:
    """Of a victim whose run has not come to its end. What happens during a cutover is recorded after it."""
    killed = any(e.step == StepName.KILL and e.kind is EventKind.DONE for e in events)
    return "was killed" if killed else "is not dead as far as is recorded"


def _cost(verdict: RunVerdict | None) -> str:
    if verdict is None:
        return "what it cost was not recorded"
    waited = "how long nothing could be written is unknown"
    if verdict.outage is not None:
        waited = f"nothing could be written for {short(verdict.outage)}"
    if verdict.ledger is None:
        return f"{waited}, and whether writes were lost is unknown"
    lost = len(verdict.ledger.lost)
    return f"{waited}, and {'no write was' if not lost else '1 write was' if lost == 1 else f'{lost} writes were'} lost"


def _under_way(record: RunRecord, fate: str) -> Headline:
    if record.interrupted:
        return Headline(tone=Tone.BAD, badge="interrupted", says=f"{fate}, and nobody follows the run")
    waits = f": the run waits for {record.follower.waits_for}" if record.follower and record.follower.waits_for else ""
    return Headline(tone=Tone.WARN, badge="queued" if record.queued else "running", says=f"{fate}{waits}")


def troubles(record: RunRecord, asked: tuple[tuple[GuardVerdict, ...], ...]) -> Iterator[Trouble]:
    """The faults of a verdict; of a run without one, what ended it."""
    if record.verdict is not None:
        yield from (Trouble(title=fault) for fault in record.verdict.faults)
    refused = [v for v in (asked[-1] if asked else ()) if v.ruling is Ruling.REFUSE]
    if record.state is RunState.REFUSED and refused:
        yield from (Trouble(title=v.guard, why=v.reason, evidence=v.evidence) for v in refused)
    elif record.state in (RunState.REFUSED, RunState.UNDONE, RunState.STUCK):
        yield Trouble(title=record.message or f"why it is {record.state} was not recorded")
    elif record.interrupted:
        yield Trouble(title=interruption(record))


def numbers(verdict: RunVerdict, record: RunRecord) -> Iterator[Number]:
    """The figures of the headline."""
    budget, outage = record.plan.policy.outage_budget, verdict.outage
    says = f"without writes, at the worst client; the budget is {short(budget)}"
    yield Number(value=short(outage), says=says, bad=outage is None or outage > budget)
    ledger = verdict.ledger
    if ledger is None:
        yield Number(value="unknown", says="acknowledged writes lost", bad=True)
    else:
        lost = len(ledger.lost)
        yield Number(value=str(lost), says=f"lost of {ledger.acknowledged:,} acknowledged writes", bad=lost > 0)
    fewer = verdict.copies_after < verdict.copies_before
    yield Number(value=str(verdict.copies_after), says=f"copies now, {verdict.copies_before} before", bad=fewer)
    if verdict.recovery is not None and verdict.recovery.baseline:
        normal = verdict.recovery.time_to_normal
        value = "not seen" if normal is None else short(normal)
        yield Number(value=value, says="until reads were as fast as before", bad=normal is None)


# ---- who and how


def facts(record: RunRecord, events: tuple[Event, ...]) -> Iterator[tuple[str, str]]:
    """Who asked, who said yes, how the victim died, who inherited, what was accepted."""
    plan, policy, verdict = record.plan, record.plan.policy, record.verdict
    drawn = f" (drawn with the seed {plan.seed})" if plan.seed is not None else ""
    yield "asked for by", f"the policy {plan.standing}" if plan.standing else "a person"
    yield "why", f"{plan.why}{drawn}"
    yield "approval", _approval(record, events)
    yield "death", f"{policy.mode} kill of {plan.victim}"
    if plan.role is Role.REPLICA or policy.failover is FailoverBy.OBSERVE or not (verdict and verdict.heir):
        yield "inheritance", inheritance(plan)
    if verdict and verdict.heir:
        yield "heir", verdict.heir
    yield "lost writes", f"{policy.loss} by the policy"
    for waiver in policy.waivers:
        of = f" ({waiver.difference})" if waiver.difference else ""
        yield "waiver", f"{waiver.guard}{of} {waiver}"
    if record.message and record.verdict is not None:
        yield "said at the end", record.message


def _approval(record: RunRecord, events: tuple[Event, ...]) -> str:
    policy = record.plan.policy
    said = dict.fromkeys(
        e.detail for e in events if e.kind is EventKind.NOTE and e.step == StepName.KILL and _is_approval(e)
    )
    if said:
        return "; ".join(said)
    if policy.approval_within is None:
        return "nobody was to be asked"
    by = listed(policy.approvers, "or") or "somebody"
    return f"{by} has to say yes within {in_words(policy.approval_within)}; nobody has said it"


def _is_approval(event: Event) -> bool:
    return event.detail.startswith(_APPROVED)


def named(keys: tuple[WriteKey, ...]) -> str:
    """Writes by client and number; of many the first ones."""
    shown = "; ".join(f"client {client}, write {seq}" for client, seq in keys[:_MOST_KEYS])
    return shown + (f"; and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else "")
