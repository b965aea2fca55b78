"""Charts of trainings' metrics that can be hovered: uPlot (MIT, beside its licence in assets/), inlined in the page."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from stic_ray.report.markdown import escape

METRICS = ("loss", "margin", "accuracy", "grad_norm", "validation_loss")
TITLES = {
    "loss": "loss",
    "margin": "margin (chosen over rejected)",
    "accuracy": "accuracy (chosen above rejected)",
    "grad_norm": "gradient norm",
    "validation_loss": "loss on what is held out",
}
_MAX_POINTS = 400  # of a line: more than a screen has pixels for

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric of one training by step; NaN where it is missing or not finite."""

    steps: Floats
    values: Floats


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve in a chart: `color` names a colour of the page's style."""

    name: str
    color: str
    dashed: bool
    curve: Curve


def read_curves(lines: Iterable[str]) -> dict[str, dict[str, Curve]]:
    """The curves of a run's metrics.jsonl by training and metric.

    Raises:
        ValueError: a step is no finite number.
    """
    steps: dict[tuple[str, str], list[float]] = {}
    values: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        row: dict[str, Any] = json.loads(line)
        for name, value in row.items():
            training, _, metric = name.rpartition("/")
            if metric in METRICS and training:
                steps.setdefault((training, metric), []).append(row["step"])
                values.setdefault((training, metric), []).append(np.nan if value is None else value)
    found: dict[str, dict[str, Curve]] = {}
    for (training, metric), known in values.items():
        curve = Curve(steps=np.array(steps[training, metric], float), values=np.array(known, float))
        if not np.isfinite(curve.steps).all():
            raise ValueError(f"{training}/{metric} has a step that is not finite")
        found.setdefault(training, {})[metric] = curve
    return found


def chart(lines: Sequence[Line]) -> dict[str, Any]:
    """The data of a chart: every line at the same steps. Of a long training each point is the mean of a few steps."""
    last = max(line.curve.steps.max() for line in lines)
    width = max(1, int(np.ceil(last / _MAX_POINTS)))
    parts = [_by_bin(line.curve, width) for line in lines]
    steps = sorted({step for part in parts for step in part})
    return {
        "x": steps,
        "x_name": "step" if width == 1 else f"mean of {width} steps to",
        "series": [
            {
                "name": line.name,
                "color": line.color,
                "dashed": line.dashed,
                "values": [part.get(step) for step in steps],
            }
            for line, part in zip(lines, parts, strict=True)
        ],
    }


def _by_bin(curve: Curve, width: int) -> dict[int, float | None]:
    """Means of so many steps, by the last of them."""
    known = np.isfinite(curve.values)
    bins = -(-curve.steps[known].astype(np.int64) // width) * width
    names, places = np.unique(bins, return_inverse=True)
    sums = np.bincount(places, weights=curve.values[known], minlength=len(names))
    means = sums / np.bincount(places, minlength=len(names))
    return {int(name): float(f"{value:.6g}") for name, value in zip(names, means, strict=True)}


def holder(name: str, title: str) -> str:
    """Where a chart is drawn; both are ours. Without a script it stays empty, and the page says so."""
    return f'<figure class="plot"><figcaption>{title}</figcaption><div data-chart="{name}"></div></figure>'


@cache
def _asset(name: str) -> str:
    return resources.files("stic_ray.report").joinpath("assets", name).read_text(encoding="utf-8")


def scripts() -> list[str]:
    """The library, and what draws with it."""
    return [_asset("uplot.js"), _asset("charts.js")]


def style() -> str:
    """The library's style and what charts look like."""
    return _asset("uplot.css") + _STYLE


def sections(trainings: Iterable[str], lines_of: Callable[[str, str], Sequence[Line]]) -> tuple[dict[str, Any], str]:
    """The data of a chart for every metric of each training that `lines_of` (training, metric) knows lines of, and the
    page's parts that hold the charts."""
    found, parts = {}, []
    for training in trainings:
        plots = ""
        for metric, title in TITLES.items():
            lines = lines_of(training, metric)
            if lines:
                key = f"{training}/{metric}"
                found[key] = chart(lines)
                plots += holder(escape(key), title)
        parts.append(f'<h3>{escape(training)}</h3><div class="plots">{plots}</div>' if plots else "")
    return found, "".join(parts)


def many_line(name: str, number: int, *, dashed: bool, curve: Curve) -> Line:
    """The line of one of many things, by its number: colours come again."""
    return Line(name=name, color=f"r{number % NUM_COLORS}", dashed=dashed, curve=curve)


NUM_COLORS = 6  # of what there are many of, as runs or trials: r0, r1, ...
MANY_STYLE = """
:root{--r0:#2563eb;--r1:#c2410c;--r2:#15803d;--r3:#9333ea;--r4:#db2777;--r5:#0e7490}
@media(prefers-color-scheme:dark){:root{--r0:#60a5fa;--r1:#fb923c;--r2:#4ade80;--r3:#c084fc;--r4:#f472b6;--r5:#22d3ee}}
""" + "".join(f".m-r{n},.r{n}{{--m:var(--r{n})}}" for n in range(NUM_COLORS))
_STYLE = """
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:18px 28px}
.plot{margin:0;min-width:0}.plot figcaption{font-weight:600;color:var(--text);font-size:.92rem;margin-bottom:4px}
.plot .legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:2px 0 0;min-height:2.9em;align-content:flex-start;
font-variant-numeric:tabular-nums}
.plot .legend>span{margin:0}.plot .step{flex-basis:100%}.key i{flex:none;display:inline-block;width:18px;height:0;
border-top:2.5px solid var(--m)}.key.c1{--m:var(--c1)}.key.c2{--m:var(--c2)}
.key.hollow i{border-top-style:dashed}.key b{color:var(--text);font-weight:600;white-space:nowrap}
.key.near span{color:var(--text);text-decoration:underline}
.uplot{font-family:system-ui,sans-serif}.u-cursor-x{border-color:var(--soft)!important}
"""


def by_training(curves: Mapping[str, Mapping[str, Curve]]) -> list[tuple[str, str | None]]:
    """Trainings, each with the control beside it."""
    own = [name for name in curves if "_control" not in name]
    beside = [next((other for other in curves if other == _control(name)), None) for name in own]
    return list(zip(own, beside, strict=True))


def _control(training: str) -> str:
    """The control's name: rounds of stage 1 have their number behind it."""
    stage, mark, number = training.partition("_round")
    return f"{stage}_control{mark}{number}"
