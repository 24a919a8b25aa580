"""Where things stand in the report's drawings. Geometry only: the template draws, and escapes every text."""

from dataclasses import dataclass
from enum import StrEnum

from reaper.domain.facts import ClusterView, Member, ThreadState
from reaper.domain.plan import Phase, Plan, PlannedStep, Replacement, Role, StepName
from reaper.domain.policy import FailoverBy
from reaper.planner.outlook import Outlook
from reaper.planner.shape import MasterWithReplicas, classify

_BOX_WIDTH, _BOX_HEIGHT, _GAP = 250, 74, 16
_COLUMNS = (0, 190, 530)  # endpoint, master, replicas
_ENDPOINT_WIDTH = 130
_TEXT_WIDTH = 34  # characters that fit into a box


class Fate(StrEnum):
    """What becomes of somebody; also the box's style."""

    DIES = "dies"
    INHERITS = "inherits"
    MAY_INHERIT = "may inherit"
    STAYS = "stays"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, kw_only=True)
class Box:
    """Somebody."""

    x: int
    y: int
    width: int
    height: int
    name: str
    lines: tuple[str, ...]
    fate: Fate
    fresh: bool = False  # built by the run: drawn with a broken line

    @property
    def style(self) -> str:
        """The class of its drawing."""
        return self.fate.name.lower().replace("_", "-") + (" fresh" if self.fresh else "")

    @property
    def label(self) -> str:
        """Its fate in words, for it is not told by colour alone."""
        return "" if self.fate in (Fate.STAYS, Fate.ENDPOINT) else self.fate.value.upper()


@dataclass(frozen=True, kw_only=True)
class Link:
    """Who leads to whom."""

    x1: int
    y1: int
    x2: int
    y2: int
    style: str


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A cluster, as it is and what becomes of it."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    links: tuple[Link, ...]
    says: str  # the same in words


def topology(view: ClusterView, plan: Plan) -> Topology:
    """Endpoint, master, replicas from left to right; of a shape that is refused, every member in one column."""
    shape = classify(view)
    if isinstance(shape, MasterWithReplicas):
        master, replicas = shape.master, list(shape.replicas)
    else:
        master, replicas = None, list(view.members)
    rows = [_member(m, master, plan) for m in replicas]
    if plan.replacement is not Replacement.NONE and plan.snapshot_from is not None:
        rows.append(_copy(plan))
    height = len(rows) * (_BOX_HEIGHT + _GAP) - _GAP if rows else _BOX_HEIGHT
    boxes = [_at(row, 2, i * (_BOX_HEIGHT + _GAP)) for i, row in enumerate(rows)]
    links: list[Link] = []
    middle = (height - _BOX_HEIGHT) // 2
    if master is not None:
        head = _at(_member(master, None, plan), 1, middle)
        links += [_link(head, box, "fresh" if box.fresh else "replicates") for box in boxes]
        door = _at(_door(view), 0, middle)
        links.append(_link(door, head, "leads"))
        boxes = [door, head, *boxes]
    said = "; ".join(f"{b.name}: {', '.join((*b.lines, b.fate.value))}" for b in boxes)
    return Topology(
        width=_COLUMNS[2] + _BOX_WIDTH + 2, height=height + 2, boxes=tuple(boxes), links=tuple(links), says=said
    )


@dataclass(frozen=True, kw_only=True)
class _Row:
    name: str
    lines: tuple[str, ...]
    fate: Fate
    fresh: bool = False


def _door(view: ClusterView) -> _Row:
    where = str(view.endpoint) if view.endpoint else "not known"
    return _Row(name="endpoint", lines=(_cut(where, 17),), fate=Fate.ENDPOINT)


def _copy(plan: Plan) -> _Row:
    before = plan.replacement is Replacement.BEFORE
    heir = before and plan.role is Role.MASTER and plan.policy.failover is FailoverBy.REAPER
    source = plan.snapshot_from.short if plan.snapshot_from else "a replica"
    when = "before the kill" if before else "after the kill"
    lines = (f"a copy of {source}, built", when)
    return _Row(name="new copy", lines=lines, fate=Fate.INHERITS if heir else Fate.STAYS, fresh=True)


def _member(member: Member, master: Member | None, plan: Plan) -> _Row:
    fate = Fate.STAYS
    if member.instance.id == plan.victim:
        fate = Fate.DIES
    elif plan.role is Role.MASTER and (
        plan.replacement is not Replacement.BEFORE or plan.policy.failover is FailoverBy.OBSERVE
    ):
        fate = Fate.MAY_INHERIT
    facts = member.facts
    if facts is None:
        lines: tuple[str, ...] = (_cut(f"{member.instance.state}, not observed"),)
    elif not facts.channels:
        lines = (f"master, {facts.openness}", _cut(str(member.instance.address)))
    else:
        lines = ("replica", _cut(replication_of(member, master)))
    return _Row(name=member.instance.id.short, lines=lines, fate=fate)


def replication_of(member: Member, master: Member | None) -> str:
    """How a replica's replication is, in a few words: transactions behind, or what is wrong with it."""
    facts = member.facts
    if facts is None or not facts.channels:
        return "lag unknown"
    channel = facts.channels[0]
    if channel.receiver is not ThreadState.RUNNING or channel.applier is not ThreadState.RUNNING:
        return f"receiver {channel.receiver}, applier {channel.applier}"
    if master is None or master.facts is None or type(master.facts.executed) is not type(facts.executed):
        return "lag unknown"
    behind = master.facts.executed.distance(facts.executed)
    return "caught up" if behind == 0 else f"{behind} transaction{'' if behind == 1 else 's'} behind"


def _cut(text: str, most: int = _TEXT_WIDTH) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _at(row: _Row, column: int, y: int) -> Box:
    return Box(
        x=_COLUMNS[column] + 1,
        y=y + 1,
        width=_ENDPOINT_WIDTH if column == 0 else _BOX_WIDTH,
        height=_BOX_HEIGHT,
        name=_cut(row.name, 17 if column == 0 else 24),
        lines=row.lines,
        fate=row.fate,
        fresh=row.fresh,
    )


def _link(a: Box, b: Box, style: str) -> Link:
    return Link(
        x1=a.x + a.width, y1=a.y + a.height // 2, x2=b.x - 8, y2=b.y + b.height // 2, style=style
    )  # the arrow's head fills the rest


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A step on the line."""

    x: int
    step: PlannedStep
    upper: bool  # names alternate above and below, so that long ones do not touch

    @property
    def kills(self) -> bool:
        """True for the point of no return."""
        return self.step.name is StepName.KILL


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A phase on the line."""

    phase: Phase
    x: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """The steps of a plan from left to right."""

    width: int
    marks: tuple[Mark, ...]
    stretches: tuple[Stretch, ...]


def line_of(plan: Plan, width: int = 1000) -> Line:
    """The steps at equal distances: how long each takes is not known beforehand."""
    pace = width // max(1, len(plan.steps))
    marks = tuple(Mark(x=pace * i + pace // 2, step=s, upper=i % 2 == 0) for i, s in enumerate(plan.steps))
    stretches = []
    for phase in Phase:
        of_phase = [s.x for s in marks if s.step.phase is phase]
        if of_phase:
            begins = min(of_phase) - pace // 2
            stretches.append(Stretch(phase=phase, x=begins, width=max(of_phase) + pace // 2 - begins))
    return Line(width=width, marks=marks, stretches=tuple(stretches))


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A day of the load."""

    y: int
    name: str
    expected: int  # widths
    most: int
    says: str


def bars_of(outlook: Outlook, says: tuple[str, ...], width: int = 420) -> tuple[Bar, ...]:
    """A bar for each day: filled what is to be expected, in outline the most."""
    largest = max((day.most for day in outlook.days), default=0) or 1
    return tuple(
        Bar(
            y=i * 30,
            name=f"{day.day:%a %d %b}",
            expected=round(day.expected / largest * width),
            most=round(day.most / largest * width),
            says=said,
        )
        for i, (day, said) in enumerate(zip(outlook.days, says, strict=True))
    )
