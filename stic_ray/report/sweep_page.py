"""A sweep's report.html, from plain data: its trials side by side, which of them nobody beats, and the best's settings.

A trial that was stopped early shows with the figures of its last report, which are another training's.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, get_args

from stic_ray.config import Choice, Config, Domain, LogUniform, Objective, Sweep
from stic_ray.report import curves, svg
from stic_ray.report.curves import Curve
from stic_ray.report.html import facts, folded, multiline, table_of
from stic_ray.report.markdown import escape
from stic_ray.report.page import command, page
from stic_ray.report.svg import Cloud, Path, Point, Upright
from stic_ray.trials import Figure, State, Trial

_SEED = "seed"
_KINDS = {"front": "on the Pareto front", "finished": "finished", "stopped": "stopped early", "base": "base model"}


@dataclass(frozen=True, kw_only=True)
class SweepFacts:
    """All that the page says: `front` are the ids of the trials that nobody beats, the best by the first objective
    first; `curves` are the trainings' of each trial, by its id; `best` is the best's configuration as YAML."""

    config: Config
    command: str
    base: Mapping[str, Figure]
    trials: Sequence[Trial]
    front: Sequence[str]
    best: str
    curves: Mapping[str, Mapping[str, Mapping[str, Curve]]] = field(default_factory=dict)

    @property
    def sweep(self) -> Sweep:
        """What was tried."""
        assert self.config.sweep is not None  # whose facts these are
        return self.config.sweep

    def kind(self, trial: Trial) -> str:
        """How a trial shows: as one of the front, or by its state."""
        return "front" if trial.id in self.front else trial.state


def render(found: SweepFacts) -> str:
    """The whole page."""
    charts, plots = _training(found)
    sections = [
        ("trials", "Trials", _table(found)),
        ("front", "Pareto front", _front(found)),
        ("settings", "Settings and figures", _parallel(found)),
        ("effect", "Figures by setting", _effects(found)),
        ("training", "Training", plots),
        ("best", "The best trial", _best(found)),
        ("again", "Run it again", command(found.command)),
    ]
    filled = [(name, title, content) for name, title, content in sections if content]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in filled)
    body = [
        f"<header><p class=soft>sweep</p><h1>{escape(found.config.name)}</h1>{_headline(found)}</header>",
        f"<nav>{links}</nav>",
        *(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in filled),
    ]
    return page(found.config.name, "".join(body), charts, _STYLE)


def short(path: str) -> str:
    """A setting's or a figure's last name, which is what people call it."""
    return path.replace("/", ".").rpartition(".")[2]


def say(value: Any) -> str:
    """A setting's value as it is written in a configuration."""
    return json.dumps(value, ensure_ascii=False)


def say_figure(figure: Figure) -> str:
    """A figure with its interval."""
    return f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}]"


def say_settings(values: Mapping[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{short(path)} {say(value)}" for path, value in values.items())


def _arrow(objective: Objective) -> str:
    return "↓" if objective.mode == "min" else "↑"


def _headline(found: SweepFacts) -> str:
    counts = {state: sum(trial.state == state for trial in found.trials) for state in get_args(State)}
    told = f"{len(found.trials)} trials: {counts['finished']} finished, {counts['stopped']} stopped early"
    told += "".join(f", {counts[state]} {state}" for state in ("failed", "running") if counts[state])
    told += ". All figures are of the dev split; 95% bootstrap intervals over images."
    best = next((trial for trial in found.trials if found.front and trial.id == found.front[0]), None)
    if best is None:
        return f'<p class="claim">{escape(told)} None has finished.</p>'
    first = found.sweep.objectives[0]
    settings = {short(path): escape(say(value)) for path, value in best.values.items()}
    figures = {
        f"{short(each.figure)} {_arrow(each)}": _beside(best.figures[each.figure], found.base.get(each.figure))
        for each in found.sweep.objectives
    }
    claim = f"{told} Best by {first.figure}: trial {best.id}."
    return f'<p class="claim">{escape(claim)}</p>{facts({**settings, **figures})}'


def _beside(figure: Figure, base: Figure | None) -> str:
    before = f", base {base.value:.1f}" if base else ""
    return f"{figure.value:.1f} <small>[{figure.low:.1f}, {figure.high:.1f}]{before}</small>"


def _table(found: SweepFacts) -> str:
    sweep = found.sweep
    heads = ["trial", *map(short, sweep.space)]
    heads += [f"{short(each.figure)} {_arrow(each)}" for each in sweep.objectives]
    rows = []
    for trial in found.trials:
        cells = [escape(trial.id), *(escape(say(trial.values.get(path))) for path in sweep.space)]
        figures = (trial.figures.get(each.figure) for each in sweep.objectives)
        cells += [escape(say_figure(figure)) if figure else "-" for figure in figures]
        cells += [_state(trial), f"{trial.seconds:.0f}"]
        rows.append([f"<strong>{cell}</strong>" if trial.id in found.front else cell for cell in cells])
    if found.base:
        figures = (found.base.get(each.figure) for each in sweep.objectives)
        rows.append(
            ["base", *("" for _ in sweep.space), *(escape(say_figure(each)) if each else "-" for each in figures)]
        )
        rows[-1] += ["", ""]
    told = f"Settings: {', '.join(sweep.space)}. Figures: {', '.join(each.figure for each in sweep.objectives)}."
    told += " Bold: on the Pareto front."
    return f"<p class=soft>{escape(told)}</p>{table_of([*heads, 'state', 'seconds'], rows)}"


def _state(trial: Trial) -> str:
    if trial.state == "failed":
        return f"failed: {escape(trial.error[:200])}"
    after = trial.reports[-1].model.replace("stage", "stage ") if trial.reports else "nothing"
    return "finished" if trial.state == "finished" else escape(f"{trial.state} after {after}")


def _front(found: SweepFacts) -> str:
    """Every pair of neighbouring objectives as a plane; "" for a single one."""
    objectives = found.sweep.objectives
    parts = []
    for x, y in pairwise(objectives):
        clouds = []
        for kind, title in _KINDS.items():
            points = [
                _point(trial.figures[x.figure], trial.figures[y.figure], _note(trial))
                for trial in found.trials
                if found.kind(trial) == kind and trial.figures
            ]
            if kind == "base" and found.base:
                points = [_point(found.base[x.figure], found.base[y.figure], "base model")]
            in_order = sorted(points, key=lambda point: point.x[0])
            clouds.append(Cloud(name=title, kind=f"k-{kind}", points=in_order, joined=kind == "front"))
        if any(cloud.points for cloud in clouds):
            names = [f"{each.figure} {_arrow(each)}" for each in (x, y)]
            parts.append(f"<figure>{svg.plane('Pareto front', clouds, *names)}</figure>")
    told = "A finished trial is on the front when no other finished one is as good in all figures and better in one."
    return f"<p class=soft>{told}</p>{''.join(parts)}" if parts else ""


def _point(x: Figure, y: Figure, note: str) -> Point:
    return Point(x=(x.value, x.low, x.high), y=(y.value, y.low, y.high), note=note)


def _note(trial: Trial) -> str:
    figures = ", ".join(f"{short(name)} {say_figure(figure)}" for name, figure in trial.figures.items())
    return f"{trial.id}: {say_settings(trial.values)}; {figures}"


def _parallel(found: SweepFacts) -> str:
    """A line a trial over all settings and figures."""
    shown = [trial for trial in found.trials if trial.figures]
    if len(shown) < 2:
        return ""
    axes, places = [], []
    for path, domain in found.sweep.space.items():
        axis, of = _setting_axis(path, domain)
        axes.append(axis)
        places.append([of[say(trial.values[path])] if of else _share(domain, trial.values[path]) for trial in shown])
    for objective in found.sweep.objectives:
        values = [trial.figures[objective.figure].value for trial in shown]
        low, high = min(values), max(values)
        axes.append(
            Upright(name=f"{short(objective.figure)} {_arrow(objective)}", bottom=f"{low:.1f}", top=f"{high:.1f}")
        )
        places.append([(value - low) / (high - low) if high > low else 0.5 for value in values])
    paths = [
        Path(places=each, kind=f"k-{found.kind(trial)}", note=_note(trial))
        for trial, *each in sorted(zip(shown, *places, strict=True), key=lambda row: row[0].id in found.front)
    ]
    told = "A line a trial; rest a pointer on one for its figures. Bold: on the Pareto front; dashed: stopped early."
    return f"<p class=soft>{told}</p><figure>{svg.parallel('Settings and figures', axes, paths)}</figure>"


def _setting_axis(path: str, domain: Domain) -> tuple[Upright, dict[str, float]]:
    """A setting's axis, and the places of a choice's values on it."""
    if not isinstance(domain, Choice):
        return Upright(name=short(path), bottom=say(domain.low), top=say(domain.high)), {}
    values = [say(value) for value in domain.values]
    of = {value: number / max(len(values) - 1, 1) for number, value in enumerate(values)}
    return Upright(name=short(path), bottom=values[0], top=values[-1]), of


def _share(domain: Domain, value: float) -> float:
    assert not isinstance(domain, Choice)
    scale = math.log if isinstance(domain, LogUniform) else float
    return (scale(value) - scale(domain.low)) / (scale(domain.high) - scale(domain.low))


def _effects(found: SweepFacts) -> str:
    """Figures by the value of the only setting beside the seed, where it is a number: a curve with its intervals."""
    ended = [trial for trial in found.trials if trial.state == "finished"]
    paths = [path for path in found.sweep.space if path != _SEED]
    if len(paths) != 1 or not all(_is_number(trial.values[paths[0]]) for trial in ended):
        return ""
    by_value: dict[float, list[Trial]] = {}
    for trial in ended:
        by_value.setdefault(trial.values[paths[0]], []).append(trial)
    if len(by_value) < 2:
        return ""
    parts = []
    for objective in found.sweep.objectives:
        points = [_mean(paths[0], value, objective, by_value[value]) for value in sorted(by_value)]
        name = f"{objective.figure} {_arrow(objective)}"
        clouds = [Cloud(name=name, kind="k-front", points=points, joined=True)]
        parts.append(f"<figure>{svg.plane(name, clouds, paths[0], name)}</figure>")
    told = "Dots are means over the seeds; lines go from the least end of the trials' intervals to the highest."
    return f'<p class=soft>{told}</p><div class="panels">{"".join(parts)}</div>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(path: str, value: float, objective: Objective, trials: Sequence[Trial]) -> Point:
    figures = [trial.figures[objective.figure] for trial in trials]
    mean = sum(figure.value for figure in figures) / len(figures)
    low, high = min(figure.low for figure in figures), max(figure.high for figure in figures)
    each = ", ".join(say_figure(figure) for figure in figures)
    note = f"{short(path)} {say(value)}: {mean:.1f}, of {each}"
    return Point(x=(value, value, value), y=(mean, low, high), note=note)


def _best(found: SweepFacts) -> str:
    if not found.best:
        return ""
    told = "<p class=soft>Its configuration, for a run of its own with test benchmarks and controls.</p>"
    return told + folded("best.yaml", f"<pre>{multiline(found.best)}</pre>")


def _training(found: SweepFacts) -> tuple[dict[str, Any], str]:
    """The data of the charts of every training, a line a trial, and the section that holds them. Stopped trials have
    dashes and colours of their own, so that up to six of each kind differ."""
    numbers = {
        trial.id: number
        for are_stopped in (False, True)
        for number, trial in enumerate(each for each in found.trials if (each.state == "stopped") is are_stopped)
    }

    def lines_of(training: str, metric: str) -> list[curves.Line]:
        return [
            curves.many_line(
                f"{trial.id} {say_settings(trial.values)}",
                numbers[trial.id],
                dashed=trial.state == "stopped",
                curve=known,
            )
            for trial in found.trials
            if (known := found.curves.get(trial.id, {}).get(training, {}).get(metric)) is not None
        ]

    trainings = dict.fromkeys(name for of_trial in found.curves.values() for name in of_trial)
    charts, parts = curves.sections(trainings, lines_of)
    told = "A line a trial; dashed: stopped early. Rest a pointer on one: its name below is underlined."
    return charts, f"<p class=soft>{told}</p>{parts}" if parts else ""


_STYLE = (
    curves.MANY_STYLE
    + """
.k-front{--m:var(--c2)}.k-finished{--m:var(--c1)}.k-stopped,.k-running,.k-failed{--m:var(--soft)}.k-base{--m:var(--bad)}
g>circle,circle[class]{fill:var(--m)}
g.k-stopped>circle,svg circle.k-stopped{fill:var(--back);stroke:var(--m);stroke-width:1.5}
.joined{fill:none;stroke:var(--m);stroke-width:1.5;stroke-opacity:.6}
.range{stroke:var(--m);stroke-width:1.2;stroke-opacity:.45}
.path{fill:none;stroke:var(--m);stroke-width:1.4;stroke-opacity:.75}.path.k-front{stroke-width:2.6;stroke-opacity:1}
.path.k-stopped{stroke-dasharray:4 3}.path:hover{stroke-width:4}
"""
)
