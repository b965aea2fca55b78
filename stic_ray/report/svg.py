"""Charts as inline SVG, from plain data: no script, colours by class so that a page's light and dark rules hold.

They are as wide as a phone and scale up. What a pointer rests on says its figures by `<title>`; a screen reader gets
the chart's name. Texts are escaped here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stic_ray.report.markdown import escape

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 36
_NAMES_WIDTH, _ROW_HEIGHT = 118, 18
_MAX_NAME_CHARACTERS = 18
_DOT_HEIGHT, _VALUE_WIDTH = 19, 36
_TICKS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line in a chart, with what it means."""

    value: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart, from left to right; `color` is 0 to 2."""

    name: str
    values: Sequence[float]
    color: int
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Range:
    """A row of a chart: where tenths, quarters and half of a group's values lie."""

    name: str
    num: int
    p10: float
    p25: float
    median: float
    p75: float
    p90: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of a chart: a value and what is said of it."""

    name: str
    value: float
    note: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A row of a chart: a value with its interval, (value, value) where there is none; `kind` is a class of the page's
    style ("m-stage1")."""

    name: str
    value: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a plane with the ends of its intervals, (x, x) where there is none, and what is said of it."""

    x: tuple[float, float, float]
    y: tuple[float, float, float]
    note: str


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of one kind (a class of the page's style), joined from the first to the last if they are a line."""

    name: str
    kind: str
    points: Sequence[Point]
    joined: bool = False


@dataclass(frozen=True, kw_only=True)
class Upright:
    """One of several upright axes: its name, and what is written at its lower and upper end."""

    name: str
    bottom: str
    top: str


@dataclass(frozen=True, kw_only=True)
class Path:
    """A line across upright axes: where it meets each, 0 at the lower end and 1 at the upper, None where it does not;
    `kind` is a class of the page's style."""

    places: Sequence[float | None]
    kind: str
    note: str


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Values from `low` to `high` on pixels from `first` to `last`."""

    low: float
    high: float
    first: float
    last: float

    def place(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low or 1.0)
        return f"{self.first + share * (self.last - self.first):.1f}"

    def ticks(self) -> list[float]:
        rough = (self.high - self.low or 1.0) / 5
        power = 10 ** np.floor(np.log10(rough))
        step = float(power * next(tick for tick in _TICKS if tick * power >= rough * 0.999))
        return [
            number * step
            for number in range(int(np.ceil(self.low / step - 1e-9)), int(np.floor(self.high / step + 1e-9)) + 1)
        ]


def histogram(name: str, edges: Sequence[float], counts: Sequence[int], marks: Sequence[Mark] = ()) -> str:
    """Counts by bins, those below and above 0 in colours of their own; heights are square roots, since most tokens gain
    nothing and the others are of interest."""
    values = [edges[0], edges[-1], *(mark.value for mark in marks)]
    x = _Axis(low=min(values), high=max(values), first=_LEFT, last=_WIDTH - _RIGHT)
    y = _Axis(low=0.0, high=max(counts) ** 0.5, first=_HEIGHT - _BOTTOM, last=_TOP)
    parts = [_bottom(x, "nats")]
    for (start, stop), count in zip(pairwise(edges), counts, strict=True):
        left, right, top = x.place(start), x.place(stop), y.place(count**0.5)
        side = "high" if start + stop > 0 else "low"
        size = f'width="{float(right) - float(left):.1f}" height="{_HEIGHT - _BOTTOM - float(top):.1f}"'
        title = f"<title>{start:.2f} to {stop:.2f}: {count}</title>"
        parts.append(f'<rect class="{side}" x="{left}" y="{top}" {size}>{title}</rect>')
    parts += [_vertical(x, mark) for mark in marks]
    most = f'<text x="{_LEFT - 4}" y="{_TOP + 8}" class="end">{max(counts)}</text>'
    return _chart(name, _HEIGHT, [*parts, most])


def lines(
    name: str, labels: Sequence[str], series: Sequence[Series], x_name: str, *, start: float | None = None
) -> str:
    """Lines over equal steps that have these labels, with a legend below; the axis starts a little below the lowest
    value, or at `start`."""
    values = [value for one in series for value in one.values]
    low, high = min(values) if start is None else start, max(values)
    room = (high - low) * 0.05 or 0.05
    y = _Axis(low=low - room if start is None else start, high=high + room, first=_HEIGHT - _BOTTOM, last=_TOP)
    x = _Axis(low=0.0, high=max(len(labels) - 1, 1), first=_LEFT, last=_WIDTH - _RIGHT - 6)
    parts = []
    for tick in y.ticks():
        place = y.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 4}" y="{float(place) + 3.5:.1f}">{_number(tick)}</text>')
    every = -(-len(labels) // 12)
    for number, label in enumerate(labels):
        if number % every == 0:
            where = f'x="{x.place(number)}" y="{_HEIGHT - _BOTTOM + 14}"'
            parts.append(f'<text class="middle" {where}>{escape(label)}</text>')
    for one in series:
        points = [(x.place(number), y.place(value)) for number, value in enumerate(one.values)]
        dashed = " dashed" if one.dashed else ""
        path = " ".join(f"{left},{top}" for left, top in points)
        parts.append(f'<polyline class="line c{one.color}{dashed}" points="{path}"/>')
        for (left, top), label, value in zip(points, labels, one.values, strict=True):
            title = f"<title>{escape(one.name)}, {escape(x_name)} {escape(label)}: {value:.3f}</title>"
            parts.append(f'<circle class="dot c{one.color}" cx="{left}" cy="{top}" r="3">{title}</circle>')
    parts.append(f'<text class="middle" x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 4}">{escape(x_name)}</text>')
    return _chart(name, _HEIGHT, parts) + _legend(series)


def ranges(name: str, rows: Sequence[Range]) -> str:
    """A row a group: a thin line from the first to the last tenth, a thick one over the middle half, the median."""
    x = _row_axis([value for row in rows for value in (row.p10, row.p90)])
    parts = [_bottom(x, "nats", top=len(rows) * _ROW_HEIGHT + _TOP)]
    for number, row in enumerate(rows):
        middle = _TOP + (number + 0.5) * _ROW_HEIGHT
        title = (
            f"<title>{escape(row.name)}, {row.num}: a tenth below {row.p10:.2f}, a quarter below {row.p25:.2f}, half "
            f"below {row.median:.2f}, three quarters below {row.p75:.2f}, nine tenths below {row.p90:.2f}</title>"
        )
        level = f'y1="{middle}" y2="{middle}"'
        median = x.place(row.median)
        parts.append(
            f"<g>{title}{_name(row.name, middle)}"
            f'<line class="thin" x1="{x.place(row.p10)}" x2="{x.place(row.p90)}" {level}/>'
            f'<line class="thick" x1="{x.place(row.p25)}" x2="{x.place(row.p75)}" {level}/>'
            f'<line class="tick" x1="{median}" x2="{median}" y1="{middle - 6}" y2="{middle + 6}"/></g>'
        )
    return _chart(name, len(rows) * _ROW_HEIGHT + _TOP + _BOTTOM, parts)


def bars(name: str, rows: Sequence[Bar]) -> str:
    """A row a bar, from 0 to its value."""
    x = _row_axis([row.value for row in rows])
    parts = [_bottom(x, "nats", top=len(rows) * _ROW_HEIGHT + _TOP)]
    for number, row in enumerate(rows):
        middle = _TOP + (number + 0.5) * _ROW_HEIGHT
        left, right = sorted((float(x.place(0.0)), float(x.place(row.value))))
        side = "high" if row.value > 0 else "low"
        size = f'width="{max(right - left, 0.5):.1f}" height="{_ROW_HEIGHT - 6}"'
        title = f"<title>{escape(row.name)}: {row.value:+z.3f}, {escape(row.note)}</title>"
        shape = f'<rect class="{side}" x="{left:.1f}" y="{middle - (_ROW_HEIGHT - 6) / 2}" {size}/>'
        parts.append(f"<g>{title}{_name(row.name, middle)}{shape}</g>")
    return _chart(name, len(rows) * _ROW_HEIGHT + _TOP + _BOTTOM, parts)


def dots(name: str, rows: Sequence[Dot], unit: str = "") -> str:
    """A row a value: a dot with its interval, and the number beside it. 0 need not be in it."""
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    room = (high - low) * 0.06 or 0.5
    x = _Axis(low=low - room, high=high + room, first=_NAMES_WIDTH, last=_WIDTH - _RIGHT - _VALUE_WIDTH)
    bottom = len(rows) * _DOT_HEIGHT + _TOP
    parts = []
    for tick in x.ticks():
        place = x.place(tick)
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{_TOP - 4}" y2="{bottom}"/>')
        parts.append(f'<text class="middle" x="{place}" y="{bottom + 14}">{_number(tick)}</text>')
    for number, row in enumerate(rows):
        middle = _TOP + (number + 0.5) * _DOT_HEIGHT
        interval = f", 95% interval {row.low:.1f} to {row.high:.1f}" if row.low < row.high else ""
        title = f"<title>{escape(row.name)}: {row.value:.1f}{unit}{interval}</title>"
        level = f'y1="{middle}" y2="{middle}"'
        line = f'<line class="range" x1="{x.place(row.low)}" x2="{x.place(row.high)}" {level}/>'
        hit = f'<rect class="hit" x="0" y="{middle - _DOT_HEIGHT / 2}" width="{_WIDTH}" height="{_DOT_HEIGHT}"/>'
        value = f'<text class="value end" x="{_WIDTH - 2}" y="{middle + 3.5}">{row.value:.1f}</text>'
        dot = f'<circle cx="{x.place(row.value)}" cy="{middle}" r="4.5"/>'
        parts.append(f'<g class="{escape(row.kind)}">{title}{hit}{_name(row.name, middle)}{line}{dot}{value}</g>')
    return _chart(name, bottom + 20, parts)


def plane(name: str, clouds: Sequence[Cloud], x_name: str, y_name: str) -> str:
    """Points with their intervals on two axes of which neither need hold 0, with a legend below."""
    points = [point for cloud in clouds for point in cloud.points]
    x = _fitted([value for point in points for value in point.x], first=_LEFT, last=_WIDTH - _RIGHT)
    y = _fitted([value for point in points for value in point.y], first=_HEIGHT - _BOTTOM, last=_TOP + 6)
    parts = []
    for tick in x.ticks():
        place = x.place(tick)
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="middle" x="{place}" y="{_HEIGHT - _BOTTOM + 14}">{_number(tick)}</text>')
    for tick in y.ticks():
        place = y.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 4}" y="{float(place) + 3.5:.1f}">{_number(tick)}</text>')
    for cloud in clouds:
        if cloud.joined:
            path = " ".join(f"{x.place(point.x[0])},{y.place(point.y[0])}" for point in cloud.points)
            parts.append(f'<polyline class="joined {escape(cloud.kind)}" points="{path}"/>')
        parts += [_point(x, y, point, cloud.kind) for point in cloud.points]
    parts.append(f'<text class="middle" x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 4}">{escape(x_name)}</text>')
    parts.append(f'<text x="2" y="{_TOP}">{escape(y_name)}</text>')
    keys = "".join(
        f'<span><svg viewBox="0 0 24 10"><circle class="{escape(cloud.kind)}" cx="12" cy="5" r="4.5"/></svg>'
        f"{escape(cloud.name)}</span>"
        for cloud in clouds
        if cloud.points
    )
    return _chart(name, _HEIGHT, parts) + f'<p class="legend">{keys}</p>'


def _fitted(values: Sequence[float], *, first: float, last: float) -> _Axis:
    """An axis on which all values stand a little apart from its ends."""
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 0.5
    return _Axis(low=low - room, high=high + room, first=first, last=last)


def _point(x: _Axis, y: _Axis, point: Point, kind: str) -> str:
    left, low, high = (x.place(value) for value in point.x)
    top, bottom, upper = (y.place(value) for value in point.y)
    across = f'<line class="range" x1="{low}" x2="{high}" y1="{top}" y2="{top}"/>'
    upright = f'<line class="range" x1="{left}" x2="{left}" y1="{bottom}" y2="{upper}"/>'
    dot = f'<circle cx="{left}" cy="{top}" r="4.5"/>'
    return f'<g class="{escape(kind)}"><title>{escape(point.note)}</title>{across}{upright}{dot}</g>'


def parallel(name: str, axes: Sequence[Upright], paths: Sequence[Path]) -> str:
    """Upright axes side by side, with a line for each thing that has a place on them."""
    bottom, height = 190, 214
    lefts = np.linspace(30, _WIDTH - 30, len(axes)) if len(axes) > 1 else np.array([_WIDTH / 2])
    parts = []
    for number, (axis, left) in enumerate(zip(axes, lefts, strict=True)):
        level = 10 if number % 2 == 0 else 22  # names in two rows, so that long ones do not meet
        parts.append(f'<line class="axis" x1="{left:.1f}" x2="{left:.1f}" y1="44" y2="{bottom}"/>')
        for text, place in ((axis.name, level), (axis.top, 38), (axis.bottom, bottom + 14)):
            parts.append(f'<text class="middle" x="{left:.1f}" y="{place}">{escape(text)}</text>')
    for path in paths:
        points = [
            f"{left:.1f},{bottom - place * (bottom - 44):.1f}"
            for left, place in zip(lefts, path.places, strict=True)
            if place is not None
        ]
        title = f"<title>{escape(path.note)}</title>"
        parts.append(f'<polyline class="path {escape(path.kind)}" points="{" ".join(points)}">{title}</polyline>')
    return _chart(name, height, parts)


def _row_axis(values: Sequence[float]) -> _Axis:
    """Of a chart of rows: 0 is always in it."""
    return _Axis(low=min(0.0, *values), high=max(0.0, *values), first=_NAMES_WIDTH, last=_WIDTH - _RIGHT - 4)


def _bottom(x: _Axis, unit: str, top: int = _HEIGHT - _BOTTOM) -> str:
    """The line below a chart with its ticks and its unit, and a line up from 0."""
    parts = [f'<line class="axis" x1="{x.first}" x2="{x.last}" y1="{top}" y2="{top}"/>']
    for tick in x.ticks():
        parts.append(f'<text class="middle" x="{x.place(tick)}" y="{top + 14}">{_number(tick)}</text>')
    if x.low <= 0 <= x.high:
        parts.append(f'<line class="axis" x1="{x.place(0)}" x2="{x.place(0)}" y1="{_TOP - 4}" y2="{top}"/>')
    parts.append(f'<text class="middle" x="{(x.first + x.last) / 2:.0f}" y="{top + 28}">{unit}</text>')
    return "".join(parts)


def _vertical(x: _Axis, mark: Mark) -> str:
    place = x.place(mark.value)
    level = f'y1="{_TOP - 6}" y2="{_HEIGHT - _BOTTOM}"'
    title = f"<title>{escape(mark.label)}: {mark.value:.3f}</title>"
    return f'<line class="mark" x1="{place}" x2="{place}" {level}>{title}</line>'


def _name(name: str, middle: float) -> str:
    short = name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[: _MAX_NAME_CHARACTERS - 1]}…"
    return f'<text class="end" x="{_NAMES_WIDTH - 6}" y="{middle + 3.5}">{escape(short)}</text>'


def _number(value: float) -> str:
    return f"{round(value, 6):g}"


def _legend(series: Sequence[Series]) -> str:
    keys = []
    for one in series:
        dashed = " dashed" if one.dashed else ""
        key = f'<svg viewBox="0 0 24 8"><line class="line c{one.color}{dashed}" x1="0" x2="24" y1="4" y2="4"/></svg>'
        keys.append(f"<span>{key}{escape(one.name)}</span>")
    return f'<p class="legend">{"".join(keys)}</p>'


def _chart(name: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">'
    return f"{head}{''.join(parts)}</svg>"
