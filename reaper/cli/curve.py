"""The recovery after a cutover, drawn: a line of blocks for a terminal, a small SVG for a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from math import log2

from reaper.domain.warmth import Point, Recovery

_BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.,-~=+#"
_NO_ANSWER = "?"
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 26  # margins in pixels, for the axes' words
_LEAST_TOP = 4.0  # times; a flat curve is drawn flat, at the bottom


def recovery_line(recovery: Recovery, width: int = 60, blocks: str = _BLOCKS) -> str:
    """One block for each stretch of time, as high as its worst answer on a scale of doublings; `?`: no answer."""
    if not recovery.curve or width < 1:
        return ""
    size = -(-len(recovery.curve) // width)
    stretches = [recovery.curve[i : i + size] for i in range(0, len(recovery.curve), size)]
    top = log2(_top(recovery))

    def block(stretch: Sequence[Point]) -> str:
        known = [p.ratio for p in stretch if p.ratio is not None]
        if len(known) < len(stretch):
            return _NO_ANSWER
        share = log2(max(*known, 1.0)) / top
        return blocks[min(int(share * len(blocks)), len(blocks) - 1)]

    return "".join(map(block, stretches))


@dataclass(frozen=True, kw_only=True)
class _Scale:
    width: int
    height: int
    lasts: timedelta
    top: float  # times

    def x(self, after: timedelta) -> float:
        return _LEFT + (after / self.lasts) * (self.width - _LEFT - _RIGHT)

    def y(self, ratio: float) -> float:
        share = min(1.0, log2(max(ratio, 1.0)) / log2(self.top))
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)


def recovery_svg(recovery: Recovery, width: int = 640, height: int = 190) -> str:
    """An inline SVG: latency as a multiple of what it was, over the time since the kill. "" if nothing was measured.

    Colours are the page's own where it names them (--bar, --bad, --good, --soft, --rule).
    """
    if not recovery.curve:
        return ""
    lasts = max(recovery.curve[-1].after, timedelta(seconds=1))
    scale = _Scale(width=width, height=height, lasts=lasts, top=_top(recovery))
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{escape(recovery.words, quote=True)}" font-family="inherit" font-size="12">'
    ]
    parts += _grid(scale)
    parts += _factor(scale, recovery.factor)
    parts += [_line(scale, run) for run in _runs(recovery.curve)]
    parts += [
        f'<circle cx="{scale.x(p.after):.1f}" cy="{_TOP}" r="2.5" style="fill:var(--bad,#b3261e)"/>'
        for p in recovery.curve
        if p.ratio is None
    ]
    if recovery.time_to_normal is not None:
        parts += _normal(scale, recovery.time_to_normal)
    return "".join((*parts, "</svg>"))


def _top(recovery: Recovery) -> float:
    return max((p.ratio for p in recovery.curve if p.ratio is not None), default=1.0) * 1.1 + _LEAST_TOP - 1


def _grid(scale: _Scale) -> list[str]:
    """A line for every doubling, at most eight of them, and the ends of the time."""
    parts, doublings = [], int(log2(scale.top))
    for power in range(0, doublings + 1, max(1, doublings // 8 + 1)):
        y = scale.y(2**power)
        parts.append(_rule(_LEFT, y, scale.width - _RIGHT, y, "stroke:var(--rule,#d0d7de)"))
        parts.append(_text(_LEFT - 6, y + 4, f"{2**power} x", "end"))
    bottom = scale.height - 8
    parts.append(_text(_LEFT, bottom, "kill", "start"))
    seconds = scale.lasts.total_seconds()
    parts.append(_text(scale.width - _RIGHT, bottom, f"{seconds:.0f} s", "end"))
    return parts


def _factor(scale: _Scale, factor: float) -> list[str]:
    y = scale.y(factor)
    style = "stroke:var(--soft,#57606a);stroke-dasharray:4 3"
    return [_rule(_LEFT, y, scale.width - _RIGHT, y, style)]


def _normal(scale: _Scale, after: timedelta) -> list[str]:
    x = scale.x(after)
    style = "stroke:var(--good,#1a6b3c);stroke-dasharray:2 2"
    words = f"normal after {after.total_seconds():.2f} s"
    anchor = "start" if x < scale.width / 2 else "end"
    place = x + 4 if anchor == "start" else x - 4
    return [_rule(x, _TOP, x, scale.height - _BOTTOM, style), _text(place, _TOP + 10, words, anchor)]


def _runs(curve: Sequence[Point]) -> list[list[tuple[timedelta, float]]]:
    """Stretches with answers, between which nothing is drawn."""
    runs: list[list[tuple[timedelta, float]]] = [[]]
    for point in curve:
        if point.ratio is None:
            runs.append([])
        else:
            runs[-1].append((point.after, point.ratio))
    return [run for run in runs if run]


def _line(scale: _Scale, run: list[tuple[timedelta, float]]) -> str:
    points = " ".join(f"{scale.x(after):.1f},{scale.y(ratio):.1f}" for after, ratio in run)
    style = "fill:none;stroke:var(--bar,#4a6fa5);stroke-width:2;stroke-linejoin:round;stroke-linecap:round"
    return f'<polyline points="{points}" style="{style}"/>'


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    style = "fill:var(--soft,#57606a)"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escape(words)}</text>'
