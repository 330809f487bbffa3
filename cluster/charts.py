"""Charts as inline SVG, drawn by hand: a curve over steps, rates with their intervals, two costs against each other.
Colours come from the page.

Every function returns Markup that is safe to put into the page: text that comes from a run is escaped here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 40
MAX_POINTS = 600


@dataclass(frozen=True)
class Series:
    """One line: its name and its (x, y) points, in order of x. `style` is a class of the page's style sheet."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "line"


@dataclass(frozen=True)
class Rate:
    """One rate with its 95 % interval, all between 0 and 1."""

    label: str
    value: float
    low: float
    high: float
    style: str = "dot"


@dataclass(frozen=True)
class Spot:
    """One labelled point of `trade`."""

    label: str
    x: float
    y: float
    style: str = "dot"


def curve(series: Sequence[Series], *, x_label: str, y_label: str, key: Literal["left", "right"] = "right") -> Markup:
    """A line chart. Points that are not finite are left out; an empty chart says so. `key`: the corner of the names."""
    drawn = [Series(s.name, _thin([p for p in s.points if math.isfinite(p[1])]), s.style) for s in series]
    everything = [point for s in drawn for point in s.points]
    if not everything:
        return Markup('<p class="quiet">nothing was recorded</p>')
    xs, ys = ticks(*_span(p[0] for p in everything)), ticks(*_span(p[1] for p in everything))
    parts = [_frame(xs, ys, x_label, y_label)]
    for index, s in enumerate(drawn):
        path = " ".join(f"{_x(x, xs):.1f},{_y(y, ys):.1f}" for x, y in s.points)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(s.style, path))
        row = TOP + 12 + 16 * index
        column = WIDTH - 190 if key == "right" else LEFT + 14
        parts.append(
            Markup(
                '<g class="key"><line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}">{}</text></g>'
            ).format(s.style, column, column + 24, row, row, column + 30, row + 4, s.name)
        )
    return _svg(HEIGHT, f"{y_label} over {x_label}", parts)


def trade(points: Sequence[Spot], best: Sequence[Spot], *, x_label: str, y_label: str) -> Markup:
    """Two costs against each other: every point with its label, and a line through `best`, those that none beats."""
    if not points:
        return Markup('<p class="quiet">nothing was measured</p>')
    xs, ys = ticks(*_span(p.x for p in points)), ticks(*_span(p.y for p in points))
    line = " ".join(f"{_x(p.x, xs):.1f},{_y(p.y, ys):.1f}" for p in best)
    parts = [_frame(xs, ys, x_label, y_label), Markup('<polyline class="line" points="{}"/>').format(line)]
    for p in points:
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(p.style, _x(p.x, xs), _y(p.y, ys))
            + Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(_x(p.x, xs) + 8, _y(p.y, ys) - 6, p.label)
        )
    return _svg(HEIGHT, f"{y_label} against {x_label}", parts)


def rates(rows: Sequence[Rate]) -> Markup:
    """Rates as dots with whiskers, from 0 to 100 %."""
    if not rows:
        return Markup('<p class="quiet">nothing was recorded</p>')
    left, step = 250, 26
    height = TOP + step * len(rows) + 30

    def place(value: float) -> float:
        return left + value * (WIDTH - left - RIGHT - 14)

    parts = []
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(
            Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                place(tick), TOP, height - 26
            )
            + Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:.0f} %</text>').format(
                place(tick), height - 8, 100 * tick
            )
        )
    for index, rate in enumerate(rows):
        y = TOP + step * index + step / 2
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 12, y + 4, rate.label)
            + Markup('<line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
                place(rate.low), place(rate.high), y, y
            )
            + Markup('<circle class="{}" cx="{:.1f}" cy="{}" r="5"/>').format(rate.style, place(rate.value), y)
        )
    return _svg(height, "rates with 95 % intervals", parts)


def smooth(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """The running mean over the last `window` points."""
    result, total = [], 0.0
    for index, (x, y) in enumerate(points):
        total += y
        if index >= window:
            total -= points[index - window][1]
        result.append((x, total / min(index + 1, window)))
    return result


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that cover low to high, about `count` of them."""
    raw = (high - low) / max(1, count - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def _frame(xs: list[float], ys: list[float], x_label: str, y_label: str) -> Markup:
    parts = []
    for x in xs:
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>').format(
                _x(x, xs), HEIGHT - BOTTOM + 16, x
            )
        )
    for y in ys:
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                LEFT, WIDTH - RIGHT, _y(y, ys), _y(y, ys)
            )
            + Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:g}</text>').format(
                LEFT - 8, _y(y, ys) + 4, round(y, 10)
            )
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label
        )
        + Markup(
            '<text class="axis" x="14" y="{0}" text-anchor="middle" transform="rotate(-90 14 {0})">{1}</text>'
        ).format(middle, y_label)
    )
    return Markup("").join(parts)


def _svg(height: float, label: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, height, escape(label))
    return head + Markup("").join(parts) + Markup("</svg>")


def _x(value: float, xs: list[float]) -> float:
    return LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, ys: list[float]) -> float:
    return HEIGHT - BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - BOTTOM - TOP)


def _span(values: Iterable[float]) -> tuple[float, float]:
    numbers = list(values)
    return min(numbers), max(numbers)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about MAX_POINTS of the points, evenly; the last one always."""
    step = max(1, len(points) // MAX_POINTS)
    kept = points[::step]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]
