"""In what a member differs from the master, whether that stops a run, and which events change hands.

The reference is always the master: what replication makes of a thing on a replica is no difference.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from reaper.domain.parity import (
    Account,
    Accounts,
    Amiss,
    Compared,
    Difference,
    EventFacts,
    Events,
    EventStatus,
    HandOver,
    Inventory,
    Items,
    Kind,
    Scheduler,
    SchemaFacts,
    Schemas,
    Severity,
    Unread,
)
from reaper.domain.policy import Waiver
from reaper.domain.variables import WATCHED, Weight
from reaper.domain.verdict import GuardVerdict, Ruling
from reaper.planner.words import listed

GUARD = "parity"
ABSENT = "absent"
UNREADABLE = "unreadable"  # the name of the one difference of a part that could not be read
_SHORT = 8  # digits of a digest that a person compares
_BLOCKS, _NOTES = Severity.BLOCKS, Severity.NOTES

Judge = Callable[[str, str, str], tuple[Severity, str]]  # name, the master's value, the member's


def differences(reference: Inventory, subject: Inventory) -> tuple[Difference, ...]:
    """Every difference, what blocks before what is only noted."""
    if reference.flavour is not subject.flavour:
        why = "one cannot replicate from the other"
        return (_difference(Kind.VERSION, "flavour", reference.flavour, subject.flavour, _BLOCKS, why),)
    found = [
        *_versions(reference, subject),
        *_variables(reference, subject),
        *_listed(Kind.PLUGIN, reference.plugins, subject.plugins, _plugin),
        *_accounts(reference.accounts, subject.accounts),
        *_schemas(reference.schemas, subject.schemas),
        *_events(reference.events, subject.events),
        *_listed(Kind.TIMEZONE, reference.timezones, subject.timezones, _timezone),
        *_listed(Kind.FILTER, reference.filters, subject.filters, _filter),
    ]
    return tuple(sorted(found, key=lambda d: d.severity is not _BLOCKS))


def compare(master: str, reference: Inventory, members: Mapping[str, Inventory]) -> tuple[Compared, ...]:
    """Each named member against the master."""
    return tuple(
        Compared(reference=master, subject=name, differences=differences(reference, subject))
        for name, subject in members.items()
    )


def judge_parity(compared: tuple[Compared, ...], waivers: tuple[Waiver, ...], now: datetime) -> GuardVerdict:
    """Refuses while a difference blocks that no waiver in force covers; nothing compared refuses too (I10)."""
    if not compared:
        return GuardVerdict(guard=GUARD, ruling=Ruling.REFUSE, reason="no member was compared with the master")
    blocking: list[str] = []
    waived: list[str] = []
    noted: list[str] = []
    for pair in compared:
        for one in pair.differences:
            waiver = waiver_of(one, waivers, now)
            if one.severity is _NOTES:
                noted.append(f"noted: {told(pair, one)}")
            elif waiver is None:
                blocking.append(told(pair, one))
            else:
                waived.append(f"{told(pair, one)} ({waiver})")
    rest = (*waived, *noted)
    if blocking:
        more = f", and {len(blocking) - 1} more" if len(blocking) > 1 else ""
        reason = f"the members differ{more}: {blocking[0]}; make them agree, or waive it in the policy"
        return GuardVerdict(guard=GUARD, ruling=Ruling.REFUSE, reason=reason, evidence=(*blocking[1:], *rest))
    members = listed(tuple(pair.subject for pair in compared))
    but = f", {len(waived)} difference{'s' if len(waived) > 1 else ''} waived" if waived else ""
    agree = f"{members} can stand in for {compared[0].reference}{but}"
    return GuardVerdict(guard=GUARD, ruling=Ruling.GO, reason=agree, evidence=rest)


def waiver_of(one: Difference, waivers: tuple[Waiver, ...], now: datetime) -> Waiver | None:
    """The first waiver in force that covers a difference."""
    return next((w for w in waivers if w.guard == GUARD and w.holds(now) and one.names(w.difference)), None)


def told(pair: Compared, one: Difference) -> str:
    """A difference as a sentence."""
    values = f"{one.reference} on {pair.reference}, {one.subject} on {pair.subject}"
    return f"{one.label}: {values}: {one.why}"


def to_hand_over(victim: Events) -> HandOver:
    """What the victim runs by schedule, read before its death: nobody can tell from its replicas."""
    enabled = tuple(e for e in victim.events if e.status is EventStatus.ENABLED)
    return HandOver(scheduler=victim.scheduler, events=enabled)


def not_handed_over(wanted: HandOver, heir: Events) -> tuple[Amiss, ...]:
    """What the heir does not run as the victim did; nothing is the proof."""
    has = {e.full_name: e for e in heir.events}
    judged = ((event.full_name, _amiss(event, has.get(event.full_name))) for event in wanted.events)
    faults = [Amiss(name=name, why=why) for name, why in judged if why is not None]
    if (heir.scheduler is Scheduler.ON) is not (wanted.scheduler is Scheduler.ON):
        faults.append(Amiss(name="event_scheduler", why=f"is {heir.scheduler}: it was {wanted.scheduler}"))
    return tuple(faults)


def _amiss(was: EventFacts, now: EventFacts | None) -> str | None:
    if now is None:
        return "is gone: it ended, or somebody dropped it"
    if now.status is not EventStatus.ENABLED:
        return f"is {now.status}: it was enabled"
    if now.definer != was.definer:
        return f"runs as {now.definer}: it ran as {was.definer}"
    if now.digest != was.digest:
        return "is not what it was: compare its SHOW CREATE EVENT with that in a backup"
    return None


def _difference(kind: Kind, name: str, ours: str, theirs: str, severity: Severity, why: str) -> Difference:
    return Difference(kind=kind, name=name, reference=ours, subject=theirs, severity=severity, why=why)


def _head(digest: str | None) -> str:
    return ABSENT if digest is None else digest[:_SHORT]


def _unread(kind: Kind, ours: object, theirs: object) -> Iterator[Difference]:
    reference, subject = (p.why if isinstance(p, Unread) else "readable" for p in (ours, theirs))
    why = "what cannot be read cannot be compared"
    yield _difference(kind, UNREADABLE, reference, subject, _BLOCKS, why)


def _paired(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(ours.keys() | theirs.keys()):
        pair = ours.get(name, ABSENT), theirs.get(name, ABSENT)
        if pair[0] != pair[1]:
            yield name, *pair


def _listed(kind: Kind, ours: Items | Unread, theirs: Items | Unread, judge: Judge) -> Iterator[Difference]:
    if isinstance(ours, Unread) or isinstance(theirs, Unread):
        yield from _unread(kind, ours, theirs)
        return
    for name, mine, other in _paired({i.name: i.value for i in ours.items}, {i.name: i.value for i in theirs.items}):
        severity, why = judge(name, mine, other)
        yield _difference(kind, name, mine, other, severity, why)


def _versions(reference: Inventory, subject: Inventory) -> Iterator[Difference]:
    if reference.series != subject.series:
        why = "replication between these versions is not promised both ways"
        yield _difference(Kind.VERSION, "series", reference.series, subject.series, _BLOCKS, why)
    elif reference.version != subject.version:
        why = "one has mistakes and repairs that the other has not"
        yield _difference(Kind.VERSION, "release", reference.version, subject.version, _NOTES, why)


def _variables(reference: Inventory, subject: Inventory) -> Iterator[Difference]:
    same = reference.version == subject.version

    def judge(name: str, mine: str, other: str) -> tuple[Severity, str]:
        watched = WATCHED.get(name)
        if watched is None:
            return _BLOCKS, "nobody has said that it does not matter"
        if ABSENT in (mine, other) and not same:
            return _NOTES, "versions know different variables"
        blocks = watched.weight is Weight.BLOCKS
        if watched.weight is Weight.BLOCKS_IF_SMALLER:
            blocks = not _at_least(other, mine)
        return (_BLOCKS if blocks else _NOTES), watched.why

    yield from _listed(Kind.VARIABLE, reference.variables, subject.variables, judge)


def _at_least(value: str, wanted: str) -> bool:
    """True if a capacity is certainly enough; 0 has a meaning of its own ("no limit"), so it is never compared."""
    return value.isdigit() and wanted.isdigit() and 0 < int(wanted) <= int(value)


def _plugin(_name: str, mine: str, other: str) -> tuple[Severity, str]:
    if mine == ABSENT:
        return _NOTES, "the master does without it"
    if other == ABSENT:
        return _BLOCKS, "what needs it fails"
    return _NOTES, "another release of it"


def _timezone(_name: str, _mine: str, _other: str) -> tuple[Severity, str]:
    return _BLOCKS, "named time zones are unknown, or convert otherwise"


def _filter(_name: str, _mine: str, _other: str) -> tuple[Severity, str]:
    return _BLOCKS, "it lets other changes through"


def _accounts(ours: Accounts | Unread, theirs: Accounts | Unread) -> Iterator[Difference]:
    if isinstance(ours, Unread) or isinstance(theirs, Unread):
        yield from _unread(Kind.ACCOUNT, ours, theirs)
        return
    mine, other = ({a.name: a for a in part.accounts} for part in (ours, theirs))
    for name in sorted(mine.keys() | other.keys()):
        yield from _account(name, mine.get(name), other.get(name))


def _account(name: str, mine: Account | None, other: Account | None) -> Iterator[Difference]:
    if mine is None or other is None or mine.grants != other.grants:
        why = "its clients are rejected, or let in" if None in (mine, other) else "its clients may do more, or less"
        heads = _head(mine.grants if mine else None), _head(other.grants if other else None)
        yield _difference(Kind.ACCOUNT, name, *heads, _BLOCKS, why)
    elif mine.password != other.password:
        yield _difference(Kind.ACCOUNT, name, "a password", "another password", _BLOCKS, "its clients are rejected")


def _schemas(ours: Schemas | Unread, theirs: Schemas | Unread) -> Iterator[Difference]:
    if isinstance(ours, Unread) or isinstance(theirs, Unread):
        yield from _unread(Kind.SCHEMA, ours, theirs)
        return
    mine, other = ({s.name: s for s in part.schemas} for part in (ours, theirs))
    for name in sorted(mine.keys() | other.keys()):
        one, two = mine.get(name), other.get(name)
        if one is None or two is None:
            heads = _head(one.digest if one else None), _head(two.digest if two else None)
            yield _difference(Kind.SCHEMA, name, *heads, _BLOCKS, "replication into it, or out of it, breaks")
        elif one.digest != two.digest:
            yield from _schema(one, two)


def _schema(one: SchemaFacts, two: SchemaFacts) -> Iterator[Difference]:
    if one.options != two.options:
        heads = _head(one.options), _head(two.options)
        yield _difference(Kind.SCHEMA, one.name, *heads, _BLOCKS, "new tables in it get other defaults")
    mine, other = ({(o.kind, o.name): o.digest for o in s.objects} for s in (one, two))
    for kind, name in sorted(mine.keys() | other.keys()):
        digests = mine.get((kind, name)), other.get((kind, name))
        if digests[0] != digests[1]:
            heads = _head(digests[0]), _head(digests[1])
            table = kind is Kind.TABLE
            why = "replication breaks, or rows differ" if table else "statements do something else, or fail"
            yield _difference(kind, f"{one.name}.{name}", *heads, _BLOCKS, why)


def _events(ours: Events | Unread, theirs: Events | Unread) -> Iterator[Difference]:
    if isinstance(ours, Unread) or isinstance(theirs, Unread):
        yield from _unread(Kind.EVENT, ours, theirs)
        return
    if ours.scheduler is not theirs.scheduler:
        lame = ours.scheduler is Scheduler.ON and theirs.scheduler is Scheduler.DISABLED
        why = "it cannot run events before a restart" if lame else "it is handed over at a promotion"
        severity = _BLOCKS if lame else _NOTES
        yield _difference(Kind.VARIABLE, "event_scheduler", ours.scheduler, theirs.scheduler, severity, why)
    mine, other = ({e.full_name: e for e in part.events} for part in (ours, theirs))
    for name in sorted(mine.keys() | other.keys()):
        yield from _event(name, mine.get(name), other.get(name))


def _event(name: str, mine: EventFacts | None, other: EventFacts | None) -> Iterator[Difference]:
    if mine is None or other is None:
        statuses = mine.status if mine else ABSENT, other.status if other else ABSENT
        yield _difference(Kind.EVENT, name, *statuses, _BLOCKS, "it runs on one of the two only")
        return
    if mine.digest != other.digest:
        heads = _head(mine.digest), _head(other.digest)
        yield _difference(Kind.EVENT, name, *heads, _BLOCKS, "it does something else, or at another time")
    if mine.definer != other.definer:
        yield _difference(Kind.EVENT, name, mine.definer, other.definer, _BLOCKS, "it runs with other privileges")
    judged = _statuses(mine.status, other.status)
    if judged is not None:
        yield _difference(Kind.EVENT, name, mine.status, other.status, *judged)


def _statuses(master: EventStatus, replica: EventStatus) -> tuple[Severity, str] | None:
    """Replication disables on a replica whatever the master has, enabled or not: that is parity (E19)."""
    enabled, asleep = EventStatus.ENABLED, EventStatus.DISABLED_ON_REPLICA
    if replica is enabled:
        return _BLOCKS, "it runs twice" if master is enabled else "a replica runs what its master does not"
    if master is asleep:
        return _NOTES, "no server runs it since an earlier promotion; enable or drop it on the master"
    if master is enabled and replica is not asleep:
        return _NOTES, "it is enabled at a promotion"
    return None
