"""Draw line charts as inline SVG. Colours come from the page's style sheet; no torch.

What cannot be drawn is left out: numbers that are not finite or beyond 1e30 either way are gaps,
and so is everything up to 0 on a logarithmic scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from statistics import fmean

# Of the view box: about the pixels on a phone and in a column, so that text stays legible
WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 428, 28, 204  # of the plot in it
MOST_POINTS = 240  # points of a line, two pixels each
# What is larger is not a measurement; the least that a logarithmic scale shows
LARGEST, LEAST = 1e30, 1e-30
LOG_FROM = 20.0  # ratio of the largest to the least from which on a scale is logarithmic
ALIKE = 1e-9  # relative difference of values that are drawn as one

Point = tuple[float, float | None]  # x, y
AreaPoint = tuple[float, float | None, float | None]  # x, low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line through points (x, y), with a gap where y is None.

    Attributes:
        name: for the legend.
        style: CSS classes, such as `s0`.
        dots: mark every point.
        trace: one of many, or faint beside another: no read-out, not in the legend.
    """

    name: str
    points: Sequence[Point]
    style: str = "s0"
    dots: bool = False
    trace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What lies between two lines: points (x, low, high)."""

    name: str
    points: Sequence[AreaPoint]
    style: str = "s0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What is usual: the range from low to high, and its middle."""

    name: str
    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to coordinates: `low` is drawn at `start`, `high` at `end`, the rest within."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...] = field(default=())
    log: bool = False

    def place(self, value: float) -> float:
        """Return the coordinate of a value, rounded to a tenth and never outside of the scale."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 1)


def number(value: float, digits: int = 3) -> str:
    """Return a number as people write it: `0.125`, `1,600`, `5e-4`."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size and not 1e-3 <= size < 1e6:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(power)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size))) if size else 0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def nice_step(span: float, parts: int, *, whole: bool = False) -> float:
    """Return the least of 1, 2, 2.5 and 5 times a power of ten that cuts a span into `parts`."""
    power = 10.0 ** math.floor(math.log10(span / parts))
    steps = [factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)]
    if whole:
        steps = [1.0, *filter(float.is_integer, steps)]
    return next(step for step in steps if span / step <= parts * (1 + ALIKE))


def linear_scale(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    parts: int = 4,
    whole: bool = False,
    snap: bool = True,
) -> Scale:
    """Return a scale that holds the values, with round numbers as ticks.

    Args:
        values: to draw.
        start: coordinate of its low end.
        end: coordinate of its high end.
        parts: between ticks, at most.
        whole: ticks are whole numbers.
        snap: the scale begins and ends at ticks.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= ALIKE * max(abs(low), abs(high), ALIKE):
        pad = abs(low) / 10 if abs(low) > ALIKE else 1.0
        low = low - pad if low else 0.0
        high += pad
    step = nice_step(high - low, parts, whole=whole)
    first, final = math.floor(low / step + ALIKE), math.ceil(high / step - ALIKE)
    if snap:
        low, high = first * step, final * step
    ticks = []
    for multiple in range(first, final + 1):
        tick = multiple * step
        if low <= tick <= high:
            ticks.append(tick)
    return Scale(low, high, start, end, tuple(ticks))


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a logarithmic scale that holds the values, all > 0.

    Ticks are powers of ten, and where there are few, 2 and 5 times these too.
    """
    low, high = min(values) / 1.1, max(values) * 1.1
    first, final = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((final - first) / 5))
    factors = (1.0, 2.0, 5.0) if final - first <= 2 else (1.0,)
    ticks = []
    for power in range(first, final + 1, every):
        for factor in factors:
            tick = factor * 10.0**power
            if low <= tick <= high:
                ticks.append(tick)
    return Scale(low, high, start, end, tuple(ticks), log=True)


def known(values: Iterable[float | None]) -> list[float]:
    """Return the values that can be drawn."""
    drawable = []
    for value in values:
        if value is not None and math.isfinite(value) and abs(value) <= LARGEST:
            drawable.append(value)
    return drawable


def thinned(
    points: Sequence[Point],
    pick: Callable[[Sequence[float]], float] = fmean,
    most: int = MOST_POINTS,
) -> list[Point]:
    """Return at most so many points, each for a stretch of points.

    It is at the last x of its stretch, and `pick` chooses y from those that are known.
    """
    count = min(len(points), most)
    thin: list[Point] = []
    for place in range(count):
        first, end = place * len(points) // count, (place + 1) * len(points) // count
        stretch = points[first:end]
        heights = known(y for _, y in stretch)
        thin.append((stretch[-1][0], pick(heights) if heights else None))
    return thin


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    unit: str = "",
    areas: Sequence[Area] = (),
    level: Level | None = None,
    zero: bool = False,
    spread: bool = False,
) -> str:
    """Return an SVG picture of lines over steps.

    Args:
        lines: drawn in this order, over the areas.
        label: for readers who do not see it.
        unit: of y, written over the axis.
        areas: behind the lines.
        level: behind everything.
        zero: the y axis starts at 0.
        spread: the y axis is logarithmic where all values are > 0 and span more than a factor of 20.
    """
    lines = [replace(line, points=_drawable(line.points)) for line in lines]
    areas = [replace(area, points=_complete(area.points)) for area in areas]
    if level and len(known((level.low, level.middle, level.high))) < 3:
        level = None
    xs = linear_scale([0.0, *_steps(lines, areas)], LEFT, RIGHT, whole=True, snap=False)
    ys = _height_scale(_heights(lines, areas, level), zero=zero, spread=spread)
    parts = [_axes(xs, ys, unit)]
    if level:
        parts.append(_level(level, ys))
    for area in areas:
        parts.append(_area(area, xs, ys))
    for line in lines:
        parts.append(_line(line, xs, ys))
    data_x = f"{LEFT} {RIGHT} {xs.low:.6g} {xs.high:.6g}"
    data_y = f"{BOTTOM} {TOP} {ys.low:.6g} {ys.high:.6g} {int(ys.log)}"
    head = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(label)}" data-x="{data_x}" data-y="{data_y}">'
    )
    return head + "".join(parts) + "</svg>"


def _complete(points: Sequence[AreaPoint]) -> list[AreaPoint]:
    """Return the points of an area that can be drawn."""
    return [point for point in points if len(known(point)) == 3]


def _steps(lines: Sequence[Line], areas: Sequence[Area]) -> list[float]:
    steps = []
    for line in lines:
        steps += [x for x, _ in line.points]
    for area in areas:
        steps += [x for x, _, _ in area.points]
    return steps


def _heights(lines: Sequence[Line], areas: Sequence[Area], level: Level | None) -> list[float]:
    heights: list[float] = []
    for line in lines:
        heights += known(y for _, y in line.points)
    for area in areas:
        for _, low, high in area.points:
            heights += known((low, high))
    if level:
        heights += [level.low, level.middle, level.high]
    return heights


def _height_scale(heights: Sequence[float], *, zero: bool, spread: bool) -> Scale:
    """Return the scale of y; see `line_chart`."""
    if spread and heights and min(heights) >= LEAST and max(heights) > LOG_FROM * min(heights):
        return log_scale(heights, BOTTOM, TOP)
    return linear_scale([*heights, *([0.0] if zero else [])], BOTTOM, TOP)


def _drawable(points: Sequence[Point]) -> list[Point]:
    """Return the points with gaps for what cannot be drawn, without those that have no place."""
    drawable: list[Point] = []
    for x, y in points:
        if known([x]):
            drawable.append((x, y if known([y]) else None))
    return drawable


def _text(x: float, y: float, words: str, style: str, anchor: str) -> str:
    return (
        f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def _axes(xs: Scale, ys: Scale, unit: str) -> str:
    rules = ""
    labels = []
    for tick in ys.ticks:
        y = ys.place(tick)
        rules += f"M{LEFT},{y:g}H{RIGHT}"
        labels.append(_text(LEFT - 6, y + 4, number(tick), "tick", "end"))
    parts = [f'<path class="grid" d="{rules}"/>'] if rules else []
    parts.append(f'<path class="axis" d="M{LEFT},{BOTTOM}H{RIGHT}"/>')
    parts += labels
    for tick in xs.ticks:
        x = xs.place(tick)
        words, anchor = number(tick, 6), "middle"
        if tick == xs.ticks[0]:
            words, anchor = f"step {words}", "start"
        if x > RIGHT - 12:
            anchor = "end"
        parts.append(_text(x, BOTTOM + 19, words, "tick", anchor))
    if unit:
        parts.append(_text(0, 11, unit, "unit", "start"))
    return "".join(parts)


def _level(level: Level, ys: Scale) -> str:
    floor = ys.low if ys.log else -math.inf
    values = (level.low, level.middle, level.high)
    low, middle, high = (ys.place(max(value, floor)) for value in values)
    top, height = min(low, high), abs(high - low)
    band = (
        f'<rect class="level" x="{LEFT}" y="{top:g}" width="{RIGHT - LEFT}" height="{height:.4g}"/>'
    )
    return f'{band}<path class="level-middle" d="M{LEFT},{middle:g}H{RIGHT}"/>'


def _area(area: Area, xs: Scale, ys: Scale) -> str:
    lower: list[Point] = []
    upper: list[Point] = []
    for x, low, high in area.points:
        lower.append((x, low))
        upper.append((x, high))
    corners = []
    for x, y in [*thinned(upper, max), *reversed(thinned(lower, min))]:
        if y is not None:
            corners.append(f"{xs.place(x):g},{ys.place(y):g}")
    if not corners:
        return ""
    outline = " ".join(corners)
    return f'<path class="area {escape(area.style)}" d="M{outline}Z"/>'


def _line(line: Line, xs: Scale, ys: Scale) -> str:
    runs: list[list[str]] = [[]]  # places of points without a gap between them
    for x, y in thinned(line.points):
        if y is None or (ys.log and y <= 0):
            runs.append([])
        else:
            runs[-1].append(f"{xs.place(x):g},{ys.place(y):g}")
    shape = ""
    places = []
    for run in runs:
        if run:
            shape += _path(run)
            places += run
    if not places:
        return ""
    kind = "trace" if line.trace else "line"
    drawn = f'<path class="{kind} {escape(line.style)}" d="{shape}"/>'
    if line.dots or len(places) == 1:
        marks = "".join(f"M{place}h0" for place in places)
        drawn += f'<path class="dots {escape(line.style)}" d="{marks}"/>'
    return drawn


def _path(places: Sequence[str]) -> str:
    """Return the path through some places; a lone one is a round dot, by h0."""
    return f"M{' '.join(places)}" + ("h0" if len(places) == 1 else "")
