"""Several runs in one page: figures side by side, settings that differ, curves laid over each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stic_ray.config import flatten, to_tree
from stic_ray.report import curves, svg
from stic_ray.report.collect import read_run_curves, read_summary
from stic_ray.report.curves import Curve
from stic_ray.report.folder import RunFolder
from stic_ray.report.html import table_of
from stic_ray.report.markdown import MODELS, Path, escape, figure_of, main_figures
from stic_ray.report.measures import figure_cell
from stic_ray.report.page import page
from stic_ray.report.svg import Dot

_PLACES = ("name", "store", "runs")  # settings that say where, not what


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A run in a comparison: what it is called there, its settings flat, what it reached, how it trained."""

    name: str
    uri: str
    settings: Mapping[str, str]
    summary: Mapping[str, Any]
    curves: Mapping[str, Mapping[str, Curve]]


def read(folder: RunFolder) -> Compared:
    """A run from its folder."""
    return Compared(
        name=folder.config.name,
        uri=folder.uri,
        settings=_settings_of(folder),
        summary=read_summary(folder.uri),
        curves=read_run_curves(folder.uri),
    )


def render(runs: Sequence[Compared]) -> str:
    """The whole page."""
    names = _names(runs)
    charts, plots = _curves(runs, names)
    keys = "".join(
        f'<li class="r{number % curves.NUM_COLORS}"><i></i><b>{escape(name)}</b> <code>{escape(run.uri)}</code></li>'
        for number, (name, run) in enumerate(zip(names, runs, strict=True))
    )
    sections = [
        ("Figures", _figures(runs, names)),
        ("Settings that differ", _settings(runs, names) or "<p class=soft>None but names and places.</p>"),
        ("Training", plots),
    ]
    filled = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    title = f"{len(runs)} runs compared"
    body = f'<header><h1>{title}</h1></header><ul class="runs">{keys}</ul>{filled}'
    return page(title, body, charts, _STYLE)


def _names(runs: Sequence[Compared]) -> list[str]:
    """The runs' names, by their folders where two have the same."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.uri.rstrip("/").rpartition("/")[2] for run in runs]
    return names if len(set(names)) == len(names) else [run.uri for run in runs]


def _settings_of(folder: RunFolder) -> dict[str, str]:
    return {name: json.dumps(value, ensure_ascii=False) for name, value in flatten(to_tree(folder.config)).items()}


def _figures(runs: Sequence[Compared], names: Sequence[str]) -> str:
    """Every main figure that some run has, of each model: a row a figure, a column a run."""
    labels: dict[Path, str] = {}
    for run in runs:
        labels |= main_figures(run.summary)
    parts = []
    for model in MODELS:
        rows, drawn = [], ""
        for path, label in labels.items():
            cells = [figure_cell(run.summary, model, path) for run in runs]
            if any(cells):
                rows.append([escape(label), *(cell or "-" for cell in cells)])
                chart = svg.dots(label, _dots(runs, names, model, path))
                drawn += f"<figure><figcaption>{escape(label)}</figcaption>{chart}</figure>"
        if rows:
            title = MODELS[model].capitalize()
            parts.append(f'<h3>{title}</h3><div class="panels">{drawn}</div>{table_of(["", *names], rows)}')
    told = "Percent where nothing else is said; 95% bootstrap intervals over images; ↓ less is better."
    return f"<p class=soft>{told}</p>{''.join(parts)}" if parts else ""


def _dots(runs: Sequence[Compared], names: Sequence[str], model: str, path: Path) -> list[Dot]:
    found = []
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        value = figure_of(run.summary.get(model, {}), path)
        if value is not None:
            low, high = figure_of(run.summary.get("intervals", {}).get(model, {}), path) or (value, value)
            found.append(Dot(name=name, value=value, low=low, high=high, kind=f"m-r{number % curves.NUM_COLORS}"))
    return found


def _settings(runs: Sequence[Compared], names: Sequence[str]) -> str:
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = []
    for key in keys:
        values = [run.settings.get(key, "") for run in runs]
        if len(set(values)) > 1 and key not in _PLACES:
            rows.append([escape(key), *(f"<code>{escape(value) or '-'}</code>" for value in values)])
    return table_of(["", *names], rows)


def _curves(runs: Sequence[Compared], names: Sequence[str]) -> tuple[dict[str, Any], str]:
    """A chart for every metric of a training that some run has, a line a run."""

    def lines_of(training: str, metric: str) -> list[curves.Line]:
        return [
            curves.many_line(name, number, dashed=number // curves.NUM_COLORS % 2 == 1, curve=known)
            for number, (run, name) in enumerate(zip(runs, names, strict=True))
            if (known := run.curves.get(training, {}).get(metric)) is not None
        ]

    return curves.sections(dict.fromkeys(name for run in runs for name in run.curves), lines_of)


_STYLE = (
    curves.MANY_STYLE
    + """
.runs{list-style:none;padding:0;font-size:.9rem}.runs i{display:inline-block;width:11px;height:11px;border-radius:50%;
background:var(--m);margin-right:8px}.runs code{color:var(--soft);font-size:.82rem}
"""
)
