"""Charts in SVG that stand in a page: lines over checkpoints with their intervals, and differences beside nought."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdtune.core.evaluation.figures import Interval, number
from sdtune.core.html_page import text

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44  # what is around the lines
LETTER = 6.6  # of a label, in the units of the chart
BANDS = 7  # points of a line, from which on intervals are a band; fewer have whiskers
INSET = 20  # between the axis and the first place
FITTING = 6  # labels of places beside each other
FAR = 1.5  # times what figures differ by
KINDS = 6  # of colours and of marks
APART = 5.0  # between points of different lines at one place
STYLE = """
:root { --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b0578f; --s4: #8a6d00; --s5: #5b5bd0; }
@media (prefers-color-scheme: dark) {
  :root { --s0: #56b4e9; --s1: #f0803c; --s2: #2fc39a; --s3: #dd92bd; --s4: #d8b83a; --s5: #a3a3f5; }
}
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg .name { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .base { stroke: var(--ink); stroke-width: 1.3; stroke-dasharray: 5 4; opacity: .75; }
svg .upright { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 2 3; }
svg .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg .whisker { stroke: currentColor; stroke-width: 1.3; opacity: .6; fill: none; }
svg .band { fill: currentColor; opacity: .13; }
svg .mark { fill: currentColor; stroke: var(--card); stroke-width: 1; }
svg .ring { fill: none; stroke: var(--ink); stroke-width: 2; }
svg .zero { stroke: var(--soft); stroke-width: 1; }
svg .noise { fill: var(--line); opacity: .7; }
.swatch { display: inline-block; width: 2.1rem; vertical-align: -.15rem; }
"""
"""colours that are told apart by colour-blind eyes, too (Okabe and Ito 2008), on light and on dark"""


@dataclass(frozen=True)
class Point:
    """A figure at its place."""

    x: float
    estimate: float
    low: float
    high: float
    told: str
    """as it is read out"""
    chosen: bool = False
    """whether it is what is recommended"""


@dataclass(frozen=True)
class Line:
    """Points that belong together; only those of one stretch are joined."""

    kind: int
    """its colour and its mark"""
    stretches: tuple[tuple[Point, ...], ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """All of them."""
        return tuple(point for stretch in self.stretches for point in stretch)


@dataclass(frozen=True)
class Chart:
    """Lines over the same places."""

    told: str
    """what it shows, for those who do not see it"""
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    """of the axis across"""
    across: str
    """what that is"""
    level: float | None = None
    """the base's, a broken line"""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """what figures can be"""
    upright: float | None = None
    """a place that is marked by a line"""


@dataclass(frozen=True)
class _Frame:
    """Where things lie in a chart."""

    first: float
    last: float
    low: float
    high: float

    def across(self, x: float) -> float:
        inner = WIDTH - LEFT - RIGHT - 2 * INSET
        share = (x - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return LEFT + INSET + inner * share

    def up(self, y: float) -> float:
        share = (min(max(y, self.low), self.high) - self.low) / (self.high - self.low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def drawn(chart: Chart) -> Iterator[str]:
    """The chart in SVG."""
    places = [x for x, _ in chart.ticks]
    low, high, step = _scale(chart)
    frame = _Frame(min(places), max(places), low, high)
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(chart.told)}">\n'
    digits = next((count for count in range(12) if math.isclose(step, round(step, count), rel_tol=1e-6)), 12)
    for count in range(round((high - low) / step) + 1):
        tick = low + count * step
        y = frame.up(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick, digits)}</text>\n'
    yield from _labels(chart.ticks, frame)
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{text(chart.across)}</text>\n'
    if chart.level is not None and math.isfinite(chart.level):
        y = frame.up(chart.level)
        yield f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>\n'
    if chart.upright is not None and frame.first <= chart.upright <= frame.last:
        x = frame.across(chart.upright)
        yield f'<line class="upright" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>\n'
    gap = min(APART, INSET / max(1, len(chart.lines)))
    rings = []
    for place, line in enumerate(chart.lines):
        aside = (place - (len(chart.lines) - 1) / 2) * gap
        yield from _line(line, frame, aside)
        rings += [(frame.across(point.x) + aside, frame.up(point.estimate)) for point in line.points if point.chosen]
    for x, y in rings:
        yield f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>\n'
    yield "</svg>\n"


def swatch(kind: int | None, *, ring: bool = False) -> str:
    """How a line looks, for a legend; None: the base's."""
    if ring:
        inner = '<circle class="ring" cx="15" cy="8" r="6"/>'
    elif kind is None:
        inner = '<line class="base" x1="0" x2="30" y1="8" y2="8"/>'
    else:
        inner = f'<line class="line" x1="0" x2="30" y1="8" y2="8"/>{_mark(kind, 15, 8)}'
    shade = f" s{kind % KINDS}" if kind is not None else ""
    return f'<svg class="swatch{shade}" viewBox="0 0 30 16" aria-hidden="true">{inner}</svg>'


def beside_nought(difference: Interval, floor: float | None, told: str, *, mirrored: bool) -> str:
    """A difference with its interval beside nought, and how far noise reaches; mirrored: what is less lies right."""
    known = [difference.estimate, difference.low, difference.high, floor or 0.0]
    reach = 1.1 * max((abs(one) for one in known if math.isfinite(one)), default=0.0) or 1.0

    def across(value: float) -> float:
        return 80 + 76 * (-value if mirrored else value) / reach

    pieces = [f'<svg class="nought" viewBox="0 0 160 24" role="img" aria-label="{text(told)}">']
    if floor:
        left, right = sorted((across(-floor), across(floor)))
        pieces.append(f'<rect class="noise" x="{left:.1f}" y="2" width="{right - left:.1f}" height="20"/>')
    pieces.append('<line class="zero" x1="80" x2="80" y1="0" y2="24"/>')
    if math.isfinite(difference.low) and math.isfinite(difference.high):
        left, right = across(difference.low), across(difference.high)
        pieces.append(f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="12" y2="12"/>')
    if math.isfinite(difference.estimate):
        pieces.append(f'<circle class="mark" cx="{across(difference.estimate):.1f}" cy="12" r="4.5"/>')
    return "".join([*pieces, "</svg>"])


def _line(line: Line, frame: _Frame, aside: float) -> Iterator[str]:
    banded = sum(len(stretch) for stretch in line.stretches) >= BANDS
    yield f'<g class="s{line.kind % KINDS}">\n'
    for stretch in line.stretches:
        points = [point for point in stretch if math.isfinite(point.estimate)]
        places = [(frame.across(point.x) + aside, frame.up(point.estimate)) for point in points]
        spans = [
            (x, frame.up(point.high), frame.up(point.low))
            for (x, _), point in zip(places, points, strict=True)
            if math.isfinite(point.low) and math.isfinite(point.high)
        ]
        if banded and len(spans) > 1:
            edge = [*((x, high) for x, high, _ in spans), *((x, low) for x, _, low in reversed(spans))]
            yield f'<polygon class="band" points="{_path(edge)}"/>\n'
        elif spans:
            whiskers = "".join(f"M{x:.1f} {high:.1f}V{low:.1f}" for x, high, low in spans)
            yield f'<path class="whisker" d="{whiskers}"/>\n'
        if len(places) > 1:
            yield f'<polyline class="line" points="{_path(places)}"/>\n'
        for (x, y), point in zip(places, points, strict=True):
            yield f"<g>{_mark(line.kind, x, y)}<title>{text(point.told)}</title></g>\n"
    yield "</g>\n"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _mark(kind: int, x: float, y: float) -> str:
    """A disc, a square, two triangles, a diamond or a cross, so that lines differ without their colours."""
    shape = (
        None,
        "M-4 -4H4V4H-4Z",
        "M0 -5L5 4H-5Z",
        "M0 -5.5L5.5 0L0 5.5L-5.5 0Z",
        "M0 5L5 -4H-5Z",
        "M-1.7 -5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",
    )[kind % KINDS]
    if shape is None:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    return f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{shape}"/>'


def _labels(ticks: Sequence[tuple[float, str]], frame: _Frame) -> Iterator[str]:
    """Labels of places, of many only those that have room."""
    free = -math.inf
    named = [(x, label) for x, label in ticks if label]
    room = (WIDTH - LEFT - RIGHT) / max(1, min(len(named), FITTING))
    for x, label in named:
        most = max(3, int(room / LETTER))
        shown = label if len(label) <= most else f"{label[: most - 1]}\u2026"
        middle, half = frame.across(x), LETTER * len(shown) / 2
        if middle - half < free:
            continue
        free = middle + half + LETTER
        y = HEIGHT - BOTTOM + 17
        yield f'<text class="name" x="{middle:.1f}" y="{y}" text-anchor="middle">{text(shown)}</text>\n'


def _scale(chart: Chart) -> tuple[float, float, float]:
    """(lowest, highest, step between) of the axis up, in round numbers.

    Intervals that reach far beyond what figures differ by run out of the chart, so that the lines can still be told
    apart.
    """
    points = [point for line in chart.lines for point in line.points]
    figures = [point.estimate for point in points if math.isfinite(point.estimate)]
    figures += [chart.level] if chart.level is not None and math.isfinite(chart.level) else []
    low, high = min(figures, default=0.0), max(figures, default=1.0)
    ends = [end for point in points for end in (point.low, point.high) if math.isfinite(end)]
    beyond = FAR * (high - low) if high > low else math.inf
    low, high = max(min([low, *ends]), low - beyond), min(max([high, *ends]), high + beyond)
    low, high = max(low, chart.bounds[0]), min(high, chart.bounds[1])
    if not high > low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), step
