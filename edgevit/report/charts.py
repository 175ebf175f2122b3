"""Charts as SVG: bars, lines, points and histograms in the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 30, 14, 44
_ROW, _NAMES = 20, 250
_TICKS = 5
"""About how many ticks an axis has."""
_ROOM = 0.01
"""Share of a value by which an axis is widened where all values are equal."""
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named line.

    Attributes:
        name: for the legend.
        points: (x, y) in the order of x.
        colour: of the page: ``bar``, ``warm`` or ``bad``.
    """

    name: str
    points: Sequence[Point]
    colour: str = "bar"


@dataclass(frozen=True)
class Spot:
    """One labelled point of a scatter plot; points of the front are joined by a line."""

    name: str
    x: float
    y: float
    front: bool


def ticks(low: float, high: float, count: int = _TICKS) -> list[float]:
    """Round numbers that cover a range, for the ticks of an axis."""
    if high <= low:
        room = abs(low) * _ROOM or 1.0
        low, high = low - room, high + room
    step = (high - low) / count
    power = 10.0 ** floor(log10(step))
    nice = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * 0.999)
    first, last = floor(low / nice + 1e-9), ceil(high / nice - 1e-9)
    return [number * nice for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number as the label of an axis tick: six significant digits, thousands separated."""
    return f"{value:,.6g}"


class _Plane:
    """A coordinate system: maps values to pixels."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], *, zero: bool = False) -> None:
        self.x_ticks = ticks(min(xs), max(xs))
        self.y_ticks = ticks(0.0 if zero else min(ys), max(ys))

    def x(self, value: float) -> float:
        """Horizontal pixel position of a value."""
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """Vertical pixel position of a value, counted from the top."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    def axes(self, x_name: str, y_name: str) -> list[str]:
        """SVG of grid, ticks and axis names."""
        parts = []
        for value in self.y_ticks:
            y = self.y(value)
            parts.append(
                f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="var(--line)"/>'
                f'<text class="soft" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
            )
        base = _HEIGHT - _BOTTOM
        parts += [
            f'<text class="soft" x="{self.x(value):.1f}" y="{base + 16}" text-anchor="middle">{short(value)}</text>'
            for value in self.x_ticks
        ]
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>')
        parts.append(
            f'<text x="14" y="{(_TOP + base) / 2:.0f}" text-anchor="middle" '
            f'transform="rotate(-90 14 {(_TOP + base) / 2:.0f})">{escape(y_name)}</text>'
        )
        return parts


def _svg(label: str, parts: Sequence[str], width: int = _WIDTH, height: int = _HEIGHT) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" {_FONT}>{inside}</svg>'


def histogram(values: Sequence[float], marks: dict[str, float], x_name: str) -> str:
    """A histogram of latencies up to about the 99th percentile, with marked values."""
    ordered = sorted(values)
    top = ordered[min(len(ordered) - 1, int(len(ordered) * 0.995))]
    low = ordered[0]
    high = max(top, *marks.values(), low * 1.001)
    count = max(10, min(48, int(len(ordered) ** 0.5 * 2)))
    width = (high - low) / count
    bins = [0] * count
    for value in ordered:
        if value <= high:
            bins[min(count - 1, int((value - low) / width))] += 1
    plane = _Plane([low, high], bins, zero=True)
    parts = plane.axes(x_name, "runs")
    for number, height in enumerate(bins):
        left, right = plane.x(low + number * width), plane.x(low + (number + 1) * width)
        y = plane.y(height)
        parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{plane.y(0) - y:.1f}" fill="var(--bar)"/>'
        )
    for row, (name, value) in enumerate(marks.items()):
        x = plane.x(value)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{plane.y(0):.1f}" stroke="var(--warm)" '
            f'stroke-dasharray="4 3"/><text x="{x + 4:.1f}" y="{_TOP + 10 + 14 * row}">{escape(name)}</text>'
        )
    hidden = sum(value > high for value in ordered)
    label = f"distribution of {len(ordered)} latencies" + (f", {hidden} longer ones not shown" if hidden else "")
    return _svg(label, parts)


def dots(values: Sequence[float], x_name: str, y_name: str, most: int = 700) -> str:
    """A scatter plot of runs in the order of time, thinned evenly."""
    step = max(1, len(values) // most)
    points = [(float(place), values[place]) for place in range(0, len(values), step)]
    plane = _Plane([0.0, float(len(values))], [y for _, y in points])
    parts = plane.axes(x_name, y_name)
    parts += [
        f'<circle cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="1.6" fill="var(--bar)" fill-opacity=".6"/>'
        for x, y in points
    ]
    return _svg(f"{y_name} by {x_name}", parts)


def lines(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """Several lines over one axis, with a legend."""
    every = [point for one in series for point in one.points]
    plane = _Plane([x for x, _ in every], [y for _, y in every])
    parts = plane.axes(x_name, y_name)
    for number, one in enumerate(series):
        path = " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in one.points)
        dash = "" if number < 3 else ' stroke-dasharray="5 3"'
        parts.append(f'<polyline points="{path}" fill="none" stroke="var(--{one.colour})" stroke-width="2"{dash}/>')
        if len(one.points) == 1:
            x, y = one.points[0]
            parts.append(f'<circle cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="3" fill="var(--{one.colour})"/>')
        left = _LEFT + 8 + 170 * number
        parts.append(
            f'<rect x="{left}" y="{_TOP - 10}" width="10" height="10" fill="var(--{one.colour})"/>'
            f'<text x="{left + 15}" y="{_TOP}">{escape(one.name)}</text>'
        )
    return _svg(f"{y_name} by {x_name}", parts)


def bars(rows: Sequence[tuple[str, float, str]], note: str) -> str:
    """Horizontal bars, each with its name and a text behind it."""
    height, most = _ROW * len(rows) + 6, max(value for _, value, _ in rows) or 1.0
    space = _WIDTH - _NAMES - 130
    parts = []
    for place, (name, value, text) in enumerate(rows):
        y, length = _ROW * place + 2, max(1.0, space * value / most)
        shown = name if len(name) <= 38 else name[:37] + "…"
        parts.append(
            f"<g><title>{escape(name)}</title>"
            f'<text x="{_NAMES - 8}" y="{y + 13}" text-anchor="end">{escape(shown)}</text>'
            f'<rect x="{_NAMES}" y="{y + 2}" width="{length:.1f}" height="{_ROW - 6}" rx="2" fill="var(--bar)"/>'
            f'<text class="soft" x="{_NAMES + length + 6:.1f}" y="{y + 13}">{escape(text)}</text></g>'
        )
    return _svg(note, parts, height=height)


def scatter(spots: Sequence[Spot], x_name: str, y_name: str) -> str:
    """Labelled points, with a line through those of the front."""
    plane = _Plane([spot.x for spot in spots], [spot.y for spot in spots])
    parts = plane.axes(x_name, y_name)
    front = sorted((spot for spot in spots if spot.front), key=lambda spot: spot.x)
    path = " ".join(f"{plane.x(spot.x):.1f},{plane.y(spot.y):.1f}" for spot in front)
    parts.append(f'<polyline points="{path}" fill="none" stroke="var(--warm)" stroke-width="2"/>')
    for number, spot in enumerate(sorted(spots, key=lambda one: one.x)):
        x, y = plane.x(spot.x), plane.y(spot.y)
        right, above = x > _WIDTH * 0.7, number % 2 == 1 and y > _TOP + 24
        colour = "warm" if spot.front else "bar"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="var(--{colour})"/>'
            f'<text x="{x - 8 if right else x + 8:.1f}" y="{y - 8 if above else y + 16:.1f}" '
            f'text-anchor="{"end" if right else "start"}">{escape(spot.name)}</text>'
        )
    return _svg(f"{y_name} by {x_name}", parts)
