"""Benchmarks before and after, for pages: tables, dots with intervals, and what papers report beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from stic_ray.artifacts import ROUND
from stic_ray.config import DAR_SUFFIX, Config
from stic_ray.report import svg
from stic_ray.report.html import folded, table_of
from stic_ray.report.markdown import (
    MODELS,
    Comparison,
    Path,
    controls_of,
    escape,
    figure_of,
    figure_paths,
    main_figures,
    missing_lines,
    model_title,
    plain_title,
    present_models,
)
from stic_ray.report.published import Published, family_of, published_figures
from stic_ray.report.svg import Dot

_MARK = "published, other model/data"


def benchmarks(summary: Mapping[str, Any], comparisons: Sequence[Comparison], config: Config) -> str:
    """The section of one run; "" where nothing was measured."""
    models = present_models(summary)
    main = main_figures(summary)
    if not models or not main:
        return ""
    notes = [f"Control of {MODELS[name]}: {text}." for name, text in controls_of(summary, models).items()]
    told = " ".join(
        ["Percent where nothing else is said; 95% bootstrap intervals over images; ↓ less is better.", *notes]
    )
    family = family_of(config.model.path)
    charts = "".join(_figure(summary, comparisons, config, path, label) for path, label in main.items())
    missing = "".join(f"<li>{escape(line)}</li>" for line in missing_lines(summary, models))
    rest = {
        path: ", ".join(path).replace(DAR_SUFFIX, " described first")
        for model in models
        for path in figure_paths(summary[model])
        if path not in main
    }
    dev = summary.get("dev", {})
    return "".join(
        [
            f"<p class=soft>{escape(told)} Bold: a difference whose paired interval excludes 0.</p>",
            _about_papers(family),
            f'<div class="panels">{charts}</div>',
            f"<h3>All models</h3>{_figure_table(summary, main)}",
            f"<ul class=soft>{missing}</ul>" if missing else "",
            folded("Differences between models", _difference_table(comparisons, main)),
            folded("Figures by type of question", _figure_table(summary, rest)),
            folded("Dev split", _figure_table(dev, main_figures(dev)) if dev else ""),
        ]
    )


def _about_papers(family: str) -> str:
    if not family:
        return (
            "<p class=soft>No paper's figures stand beside these: none is of the model that this run started from.</p>"
        )
    return (
        f"<p class=soft>Hollow diamonds are papers' figures of {escape(family)} before and after their training "
        f"({_MARK}): not to be compared but with each other.</p>"
    )


def _figure(
    summary: Mapping[str, Any], comparisons: Sequence[Comparison], config: Config, path: Path, label: str
) -> str:
    """One figure of all models: a chart, the differences that were measured, what papers have."""
    name = "/".join(path)
    rows = [dot for model in present_models(summary) if (dot := _dot(summary, model, path)) is not None]
    papers = _published(config, path)
    for each in papers:
        for when, value in (("before", each.before), ("after", each.after)):
            rows.append(Dot(name=f"paper, {when}", value=value, low=value, high=value, kind="m-paper"))
    if not rows:
        return ""
    found = [
        f"<li>{model_title(each.model)} minus {model_title(each.against)}: {_difference(each.figures[name])}</li>"
        for each in comparisons
        if name in each.figures
    ]
    told = [
        f"<li>{escape(each.paper)}: {each.before:g} to {each.after:g}, <em>{_MARK}</em>"
        f"{f', {escape(each.note)}' if each.note else ''}</li>"
        for each in papers
    ]
    drawn = svg.dots(label, rows)
    return f"<figure><figcaption>{escape(label)}</figcaption>{drawn}<ul>{''.join([*found, *told])}</ul></figure>"


def _dot(summary: Mapping[str, Any], model: str, path: Path) -> Dot | None:
    value = figure_of(summary[model], path)
    if value is None:
        return None
    low, high = figure_of(summary.get("intervals", {}).get(model, {}), path) or (value, value)
    return Dot(name=model_title(model), value=value, low=low, high=high, kind=f"m-{model.partition(ROUND)[0]}")


def _published(config: Config, path: Path) -> tuple[Published, ...]:
    named = dict(config.evaluation.test) if config.evaluation is not None else {}
    benchmark = named.get(path[0].removesuffix(DAR_SUFFIX))
    return published_figures(family_of(config.model.path), type(benchmark).__name__, "/".join(path[1:]))


def _figure_table(split: Mapping[str, Any], figures: Mapping[Path, str]) -> str:
    models = present_models(split)
    rows = []
    for path, label in figures.items():
        cells = [figure_cell(split, model, path) for model in models]
        if any(cells):
            rows.append([escape(label), *(cell or "-" for cell in cells)])
    return table_of(["", *map(plain_title, models)], rows)


def figure_cell(split: Mapping[str, Any], model: str, path: Path) -> str:
    """A figure with its interval; "" where it is absent."""
    value = figure_of(split.get(model, {}), path)
    if value is None:
        return ""
    bounds = figure_of(split.get("intervals", {}).get(model, {}), path)
    return f"<b>{value:.1f}</b>" + (f" <small>[{bounds[0]:.1f}, {bounds[1]:.1f}]</small>" if bounds else "")


def _difference_table(comparisons: Sequence[Comparison], figures: Mapping[Path, str]) -> str:
    rows = []
    for path, label in figures.items():
        found = [comparison.figures.get("/".join(path)) for comparison in comparisons]
        if any(found):
            rows.append([escape(label), *("-" if each is None else _difference(each) for each in found)])
    header = [f"{plain_title(each.model)} minus {plain_title(each.against)}" for each in comparisons]
    told = "Paired bootstrap over images, 95%; bold where the interval excludes 0."
    table = table_of(["", *header], rows)
    return f"{table}<p class=soft>{told}</p>" if table else ""


def _difference(found: tuple[float, float, float]) -> str:
    value, low, high = found
    number = f"{value:+.1f}" if low <= 0 <= high else f"<b>{value:+.1f}</b>"
    return f"{number} <small>[{low:+.1f}, {high:+.1f}]</small>"


STYLE = """
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:14px 28px}
.panels figure{margin:0;min-width:0}.panels figcaption{font-weight:600;color:var(--text);font-size:.92rem}
.panels ul{list-style:none;margin:0;padding:0;font-size:.82rem;color:var(--soft);font-variant-numeric:tabular-nums}
.panels li b{color:var(--text)}.hit{fill:transparent}g:hover>.hit{fill:var(--card)}
.range{stroke-width:2.5;stroke-opacity:.55}.value{font-weight:600;fill:var(--text)!important}
.m-base{--m:var(--c0)}.m-stage1,.m-stage1_control{--m:var(--c1)}.m-stage2,.m-stage2_control{--m:var(--c2)}
.m-paper{--m:var(--c3)}g[class^=m-]>.range{stroke:var(--m)}g[class^=m-]>circle{fill:var(--m);stroke:var(--m);stroke-width:2}
g.m-stage1_control>circle,g.m-stage2_control>circle,g.m-paper>circle{fill:var(--back)}
td small{color:var(--soft);font-size:.92em}
"""
