"""Where things stand in the drawings of one run. Geometry only: the template draws, and escapes every text."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from reaper.cli.render import short
from reaper.domain.plan import Phase, Plan, StepName
from reaper.domain.verdict import ClientCost, Event, EventKind, Part

WIDTH = 1000
_LABELS, _TIMES = 128, 96  # pixels to the left and to the right of a drawing's bars
_ROW, _AXIS = 24, 26
_LEAST = 2.0  # pixels: what took no time is still seen
_FITS = 62  # pixels that a duration needs inside its part of the outage
_SHADES = 8  # colours of the parts
_ZOOM = 4  # the cutover is drawn once more where it is a smaller share of the run than one in so many
_ONE_CLOCK = timedelta(minutes=1)  # two machines' monotonic clocks stand further apart, one's events do not

_NS = 1000  # in a microsecond


# ---- the outage


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A part of the outage."""

    name: str
    took: str
    share: str
    shade: int
    x: float
    width: float

    @property
    def label(self) -> str:
        """What fits into it."""
        return self.took if self.width >= _FITS else ""


def slices_of(parts: tuple[Part, ...]) -> tuple[Slice, ...]:
    """The parts side by side, as wide as they are long."""
    whole = sum((p.took for p in parts), timedelta(0))
    found, at = [], 0.0
    for number, part in enumerate(parts):
        share = part.took / whole if whole else 0.0
        found.append(
            Slice(
                name=part.name,
                took=short(part.took),
                share=f"{share * 100:.0f} %",
                shade=number % _SHADES,
                x=round(at, 1),
                width=round(share * WIDTH, 1),
            )
        )
        at += share * WIDTH
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class ClientBar:
    """One client's outage against the longest one."""

    y: int
    name: str
    width: float
    says: str
    lost: bool  # it never came back


def client_bars(clients: tuple[ClientCost, ...], width: int = 600) -> tuple[ClientBar, ...]:
    """A bar for each client; of one that never came back nobody knows how long, and it is drawn whole."""
    longest = max((c.outage for c in clients if c.outage is not None), default=timedelta(0))
    return tuple(
        ClientBar(
            y=i * _ROW,
            name=f"client {c.client}",
            width=round(width * (c.outage / longest if longest else 0.0), 1) if c.outage is not None else width,
            says=short(c.outage) if c.outage is not None else "never came back",
            lost=c.outage is None,
        )
        for i, c in enumerate(clients)
    )


# ---- the steps


class Ending(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"
    OPEN = "open"  # nobody recorded an end


@dataclass(frozen=True, kw_only=True)
class Span:
    """A step from its beginning to its end. Microseconds on the clock of its run."""

    step: str
    ending: Ending
    began: float
    ended: float


def spans_of(events: tuple[Event, ...]) -> tuple[Span, ...]:
    """The steps in the order in which they began. What began and has no end lasts until the last event."""
    if not events:
        return ()
    at = _moments(events)
    found: list[Span] = []
    begun: defaultdict[str, list[float]] = defaultdict(list)
    for event, moment in zip(events, at, strict=True):
        if event.kind is EventKind.STARTED:
            begun[event.step].append(moment)
        elif event.kind is not EventKind.NOTE:
            if begun[event.step]:
                begun[event.step].pop()
            ending = Ending.FAILED if event.kind is EventKind.FAILED else Ending.DONE
            took = (event.took_ns or 0) / _NS
            found.append(Span(step=event.step, ending=ending, began=moment - took, ended=moment))
    last = max(at)
    found += [
        Span(step=step, ending=Ending.OPEN, began=moment, ended=last)
        for step, moments in begun.items()
        for moment in moments
    ]
    return tuple(sorted(found, key=lambda span: span.began))


def _moments(events: tuple[Event, ...]) -> list[float]:
    """When each event was, in microseconds. A run that goes on elsewhere has two monotonic clocks: then by the wall."""
    monotonic = [e.at_ns / _NS for e in events]
    wall = [datetime.fromisoformat(e.wall).timestamp() * 1e6 for e in events]
    apart = [w - m for w, m in zip(wall, monotonic, strict=True)]
    return monotonic if max(apart) - min(apart) < _ONE_CLOCK / timedelta(microseconds=1) else wall


@dataclass(frozen=True, kw_only=True)
class Row:
    """A step's line in the drawing."""

    y: int
    step: str
    style: str
    x: float
    width: float
    took: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A moment on the axis."""

    x: float
    says: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Steps to scale, one below the other."""

    title: str
    height: int
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]


def charts_of(plan: Plan, events: tuple[Event, ...]) -> tuple[Chart, ...]:
    """The whole run, and the cutover once more where it is too short beside the rest to be seen."""
    spans = spans_of(events)
    if not spans:
        return ()
    # The probe stands long before the kill: with it the cutover would be drawn as small as the run.
    cutover = {s.name.value for s in plan.steps if s.phase is Phase.CUTOVER} - {StepName.PROBE.value}
    killed = any(s.step == StepName.KILL for s in spans)
    close = tuple(s for s in spans if s.step in cutover) if killed else ()
    charts = [_chart("The whole run", spans)]
    if close and 0 < _length(close) * _ZOOM < _length(spans):
        charts.append(_chart("The cutover alone", close))
    return tuple(charts)


def _length(spans: Iterable[Span]) -> float:
    spans = tuple(spans)
    return max(s.ended for s in spans) - min(s.began for s in spans)


def _chart(title: str, spans: tuple[Span, ...]) -> Chart:
    begin, length = min(s.began for s in spans), _length(spans) or 1.0
    room = WIDTH - _LABELS - _TIMES
    rows = tuple(
        Row(
            y=_AXIS + i * _ROW,
            step=s.step,
            style="kills" if s.step == StepName.KILL else s.ending.value,
            x=round(_LABELS + (s.began - begin) / length * room, 1),
            width=round(max(_LEAST, (s.ended - s.began) / length * room), 1),
            took="not ended" if s.ending is Ending.OPEN else short(timedelta(microseconds=s.ended - s.began)),
        )
        for i, s in enumerate(spans)
    )
    return Chart(title=title, height=_AXIS + len(spans) * _ROW + 4, rows=rows, ticks=tuple(_ticks(length, room)))


def _ticks(length: float, room: int) -> Iterator[Tick]:
    for quarter in range(5):
        after = timedelta(microseconds=length * quarter / 4)
        yield Tick(x=_LABELS + room * quarter / 4, says=short(after) if quarter else "0")
