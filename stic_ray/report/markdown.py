"""report.md and the closing table, from plain data: `Report` in, text out, nothing read or computed elsewhere.

Whatever a model, a file name or an error message contributed is escaped, so that it shows as text and formats nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stic_ray.artifacts import ROUND
from stic_ray.config import DAR_SUFFIX

Path = tuple[str, ...]
Difference = tuple[float, float, float]
"""A difference with the ends of its interval."""

MODELS = {
    "base": "base",
    "stage1": "stage 1",
    "stage1_control": "control of stage 1",
    "stage2": "stage 2",
    "stage2_control": "control of stage 2",
}
CONTROLS = {
    "stage1": "SFT on the preferred descriptions only",
    "stage2": "the same samples without descriptions",
}
_CLOSING_FIGURES = 3  # of a benchmark, in the table that a job ends with
_TRAINING_METRICS = ("loss", "accuracy", "margin")
_MAX_SAMPLE_CHARACTERS = 1200
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# As entities these characters can neither open a tag nor structure markdown, in a table cell or outside one.
_FORMATTING = re.compile(r"[&<>\"`*_{}\[\]()#+=|~!$@:\\^]|(?<=www)\.|^[-.]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class StageLine:
    """What one stage made ("374 rows", "24 steps") in how many seconds; `reused`: in an earlier run."""

    name: str
    fingerprint: str
    made: str
    num_rejects: int
    rejects_by_reason: Mapping[str, int]
    seconds: float
    reused: bool


@dataclass(frozen=True, kw_only=True)
class DescribedImage:
    """One image and what every model said about it; `objects` are those really there, () where nobody knows."""

    image: str
    prompt: str
    objects: Sequence[str]
    descriptions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TrainingLine:
    """The first and the last metrics of one training, and those of the step that its weights are of; names may be flat
    (`stage1/loss`), what was not finite is None."""

    stage: str
    first: Mapping[str, float | None]
    last: Mapping[str, float | None]
    exported: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against another one: (difference, low, high) by flat figure name ("describe_simple/chair_i")."""

    model: str
    against: str
    figures: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that report.md says.

    `summary` is summary.json's content; `groups` maps a model to `questions_by_group` of its predictions;
    `artifacts` maps what the run made (adapter, merged model, ...) to where it is.
    """

    name: str
    command: str
    summary: Mapping[str, Any]
    stages: Sequence[StageLine]
    samples: Sequence[DescribedImage] = ()
    training: Sequence[TrainingLine] = ()
    comparisons: Sequence[Comparison] = ()
    groups: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """report.md: the headline, then figures, stages, descriptions, training, lineage and the command."""
    sections = [
        ("", [f"# {escape(report.name)}", headline(report.summary, report.comparisons, report.stages)]),
        ("Test split", _split_tables(report.summary)),
        ("Differences", [_comparison_table(report.comparisons, main_figures(report.summary))]),
        ("Questions by group", [_group_table(report.groups)]),
        ("Dev split", _split_tables(report.summary.get("dev", {}))),
        ("Stages", [_stage_table(report.stages), _reject_table(report.stages)]),
        ("Descriptions", [_described(sample) for sample in report.samples]),
        ("Training", [_training_table(report.training)]),
        ("Lineage", [_lineage(report)]),
        ("Run it again", [_fence(report.command), "What is in the store already is reused."]),
    ]
    parts = []
    for title, blocks in sections:
        filled = [block for block in blocks if block]
        if filled:
            parts += ([f"## {title}"] if title else []) + filled
    return "\n\n".join(parts) + "\n"


def render_table(summary: Mapping[str, Any]) -> str:
    """The plain-text table that a job ends with: the first figures of each benchmark of the test split, by model."""
    models = present_models(summary)
    if not models or not main_figures(summary):
        return "Nothing is measured: there are no benchmarks (evaluation)."
    lines = [["", *map(plain_title, models)]]
    shown = Counter[str]()
    for path, label in main_figures(summary).items():
        shown[path[0]] += 1
        if shown[path[0]] <= _CLOSING_FIGURES:
            lines.append([label, *(_number(figure_of(summary[model], path)) for model in models)])
    text = align(lines)
    notes = ["percent where nothing else is said; ↓ less is better"]
    notes += [f"control of {MODELS[name]}: {told}" for name, told in controls_of(summary, models).items()]
    return "\n".join([*text, *notes, *missing_lines(summary, models)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table for a terminal, of a head and rows: the first column and words to the left, figures to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    words = [number == 0 or any(cell[:1].isalpha() for cell in column[1:]) for number, column in enumerate(columns)]
    sides = ["<" if is_word else ">" for is_word in words]
    text = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
    text.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return text


def missing_lines(split: Mapping[str, Any], models: Sequence[str]) -> list[str]:
    """What was asked and has no figure, a line a model and task."""
    lines = []
    for model in models:
        for task, counts in split.get("coverage", {}).get(model, {}).items():
            reasons = [f"{number} {reason}" for reason, number in counts.items() if reason != "asked"]
            if reasons:
                lines.append(f"{task}, {plain_title(model)}: {counts['asked']} asked, not counted {', '.join(reasons)}")
    return lines


def main_figures(split: Mapping[str, Any]) -> dict[Path, str]:
    """The main figures of a split, and what tables call them; those that are better when they fall have an arrow."""
    return {tuple(name.split("/")): _label(name, told) for name, told in split.get("figures", {}).items()}


def _label(name: str, told: Mapping[str, Any]) -> str:
    task = name.partition("/")[0]
    benchmark = task.removesuffix(DAR_SUFFIX)
    how = ", described first" if task != benchmark else ""
    return f"{benchmark}{how}: {told['title']}" + (" ↓" if told["less_is_better"] else "")


def controls_of(split: Mapping[str, Any], models: Sequence[str]) -> dict[str, str]:
    """What the controls that there are were trained on, by the model that they stand beside."""
    told: Mapping[str, str] = split.get("controls", CONTROLS)
    return {name: text for name, text in told.items() if f"{name}_control" in models}


def escape(text: str) -> str:
    """A text on one line that markdown and HTML show as it is; what would steer the display becomes U+FFFD."""
    one_line = " ".join(text.split())
    visible = _UNPRINTABLE.sub("\ufffd", one_line)
    return _FORMATTING.sub(lambda match: f"&#{ord(match.group())};", visible)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a report says first: a figure before and after training, and of the control, whose training is told.

    Differences are (value, low, high), None where they were not measured.
    """

    model: str
    figure: str
    before: float
    after: float
    difference: Difference | None
    control: float | None
    trained_on: str
    against_control: Difference | None


def find_change(summary: Mapping[str, Any], comparisons: Sequence[Comparison]) -> Change | None:
    """The first figure that the base and a trained model have; None where nothing was measured before and after."""
    for path, label in main_figures(summary).items():
        for model in ("stage1", "stage2"):
            before, after = (figure_of(summary.get(name, {}), path) for name in ("base", model))
            if before is not None and after is not None:
                control = f"{model}_control"
                return Change(
                    model=model,
                    figure=label,
                    before=before,
                    after=after,
                    difference=_find_comparison(comparisons, model, "base", path),
                    control=figure_of(summary.get(control, {}), path),
                    trained_on=controls_of(summary, [control]).get(model, ""),
                    against_control=_find_comparison(comparisons, model, control, path),
                )
    return None


def headline(summary: Mapping[str, Any], comparisons: Sequence[Comparison], stages: Sequence[StageLine]) -> str:
    """The first sentences of a report; the claim stands between asterisks, in pairs."""
    change = find_change(summary, comparisons)
    if change is not None:
        return _told(change)
    if present_models(summary) and not any(model in summary for model in ("stage1", "stage2")):
        return "**Nothing was trained in this run: its models are measured as they are.**"
    num_rejects = sum(stage.num_rejects for stage in stages)
    return (
        f"**This run has no ground truth to be measured on.** Its {len(stages)} stages rejected or left out "
        f"{num_rejects} inputs; what they made of some stands below for you to judge."
    )


def _told(change: Change) -> str:
    """One sentence: a figure before and after, with the interval, and beside the control."""
    found, title = change.difference, MODELS[change.model]
    verb = "lowered" if change.after < change.before else "raised"
    if change.after == change.before or (found is not None and found[1] <= 0 <= found[2]):
        verb = "did not clearly change"
    numbers = f"{change.before:.1f} before, {change.after:.1f} after{_interval(found)}"
    sentence = f"{title.capitalize()} {verb} {escape(change.figure)} ({numbers})"
    if change.control is None:
        return f"**{sentence}.** No control was trained beside it, so the cause of the change is open."
    against = _interval(change.against_control, f"{title} minus control")
    return f"**{sentence}; its control ({change.trained_on}) has {change.control:.1f}{against}.**"


def _interval(found: tuple[float, float, float] | None, label: str = "difference") -> str:
    if found is None:
        return ""
    value, low, high = found
    zero = ", which includes 0" if low <= 0 <= high else ""
    return f"; {label} {value:+.1f}, 95% interval {low:+.1f} to {high:+.1f}{zero}"


def comparisons_of(summary: Mapping[str, Any]) -> list[Comparison]:
    """The differences that summary.json holds."""
    return [
        Comparison(model=model, against=against, figures={name: tuple(found) for name, found in figures.items()})
        for model, others in summary.get("differences", {}).items()
        for against, figures in others.items()
    ]


def _find_comparison(
    comparisons: Iterable[Comparison], model: str, against: str, path: Path
) -> tuple[float, float, float] | None:
    for comparison in comparisons:
        if (comparison.model, comparison.against) == (model, against):
            return comparison.figures.get("/".join(path))
    return None


def _split_tables(split: Mapping[str, Any]) -> list[str]:
    """The main figures and the question types of one split, models as columns, with intervals."""
    models = present_models(split)
    main = main_figures(split)
    if not main:
        return []
    others = {path: path for model in models for path in figure_paths(split[model]) if path not in main}
    notes = [f"Control of {MODELS[name]}: {text}." for name, text in controls_of(split, models).items()]
    legend = " ".join(
        ["Percent where nothing else is said, with 95% bootstrap intervals over images; ↓ less is better.", *notes]
    )
    missing = "\n".join(f"- {escape(line)}" for line in missing_lines(split, models))
    rest = {path: ", ".join(path).replace(DAR_SUFFIX, " described first") for path in others}
    return [_figure_table(split, models, main), legend, missing, _figure_table(split, models, rest)]


def figure_paths(block: Mapping[str, Any], parents: Path = ()) -> Iterator[Path]:
    """Where all figures of a model's block are."""
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from figure_paths(value, (*parents, name))
        else:
            yield (*parents, name)


def _figure_table(split: Mapping[str, Any], models: Sequence[str], figures: Mapping[Path, str]) -> str:
    rows = []
    for path, label in figures.items():
        cells = [_figure_cell(split, model, path) for model in models]
        if any(cells):
            rows.append([escape(label), *(cell or "-" for cell in cells)])
    return _table(["", *map(model_title, models)], rows)


def _figure_cell(split: Mapping[str, Any], model: str, path: Path) -> str:
    value = figure_of(split[model], path)
    if value is None:
        return ""
    bounds = figure_of(split.get("intervals", {}).get(model, {}), path)
    return f"{value:.1f}" if bounds is None else f"{value:.1f} [{bounds[0]:.1f}, {bounds[1]:.1f}]"


def _comparison_table(comparisons: Sequence[Comparison], figures: Mapping[Path, str]) -> str:
    """Differences in the main figures, one column a pair of models; * marks an interval without 0."""
    rows = []
    for path, label in figures.items():
        found = [comparison.figures.get("/".join(path)) for comparison in comparisons]
        if any(found):
            rows.append([escape(label), *(_difference_cell(each) for each in found)])
    header = ["", *(f"{model_title(each.model)} minus {model_title(each.against)}" for each in comparisons)]
    table = _table(header, rows)
    return table and f"{table}\n\nPaired bootstrap over images, 95%; \\* marks an interval that excludes 0."


def _difference_cell(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return "-"
    value, low, high = found
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" + ("" if low <= 0 <= high else " \\*")


def _group_table(groups: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    names = sorted({(task, name) for tasks in groups.values() for task, found in tasks.items() for name in found})
    rows = []
    for task, name in names:
        found = [tasks.get(task, {}).get(name, {}).get("accuracy") for tasks in groups.values()]
        how = task.replace(DAR_SUFFIX, " described first")
        rows.append([escape(f"{how}: {name}"), *map(_number, found)])
    return _table(["accuracy", *map(model_title, groups)], rows)


def _stage_table(stages: Sequence[StageLine]) -> str:
    rows = [
        [escape(each.name), escape(each.made), str(each.num_rejects), f"{each.seconds:.1f}", _made(each)]
        for each in stages
    ]
    return _table(["stage", "made", "rejects", "seconds", ""], rows)


def _made(stage: StageLine) -> str:
    return "reused" if stage.reused else "made"


def _reject_table(stages: Sequence[StageLine]) -> str:
    rows = [
        [escape(stage.name), escape(reason), str(number)]
        for stage in stages
        for reason, number in stage.rejects_by_reason.items()
    ]
    return _table(["rejected by", "reason", "rows"], rows) or "Nothing was rejected."


def _described(sample: DescribedImage) -> str:
    rows = [[model_title(model), escape(shorten(text))] for model, text in sample.descriptions.items()]
    there = f"\n\nReally there: {', '.join(map(escape, sample.objects))}." if sample.objects else ""
    table = _table(["model", "description"], rows)
    return f"### {escape(sample.image)}\n\nPrompt: {escape(sample.prompt)}{there}\n\n{table}"


def shorten(text: str) -> str:
    """A text that a report has room for, with what it lacks."""
    left_out = len(text) - _MAX_SAMPLE_CHARACTERS
    return text if left_out <= 0 else f"{text[:_MAX_SAMPLE_CHARACTERS]} ... ({left_out} more characters)"


def _training_table(training: Sequence[TrainingLine]) -> str:
    rows = []
    for line in training:
        first, last = _by_last_name(line.first), _by_last_name(line.last)
        cells = [
            f"{_metric(first[name])} to {_metric(last[name])}" if name in first and name in last else ""
            for name in _TRAINING_METRICS
        ]
        rows.append([escape(line.stage), *(cell or "-" for cell in cells), _held_out(line.exported)])
    return _table(["training", *(f"{name}, first to last" for name in _TRAINING_METRICS), "held out"], rows)


def _metric(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _held_out(exported: Mapping[str, float]) -> str:
    """The loss on what was held out, at the step whose weights were kept for it."""
    loss = exported.get("validation_loss")
    return "-" if loss is None else f"{loss:.4g}, step {exported['step']:.0f} kept"


def _by_last_name(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name.rpartition("/")[2]: value for name, value in metrics.items()}


def _lineage(report: Report) -> str:
    stages = [[escape(stage.name), escape(stage.fingerprint)] for stage in report.stages]
    artifacts = [[escape(name), escape(place)] for name, place in report.artifacts.items()]
    tables = [_table(["stage", "fingerprint"], stages), _table(["artifact", "where"], artifacts)]
    return "\n\n".join(table for table in tables if table)


def _fence(text: str) -> str:
    ticks = max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{'`' * ticks}\n{text}\n{'`' * ticks}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table of cells that are escaped already; "" without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# Entries of a split's block that are no models.
RESERVED = frozenset({"intervals", "figures", "coverage", "controls", "dev", "differences"})


def present_models(split: Mapping[str, Any]) -> list[str]:
    """The models of a split by stage; the rounds of stage 1 in order, the last, which has no number, at their end; then
    those that no run made, as they stand."""
    order = list(MODELS)
    found = []
    for model in split:
        name, _, number = model.partition(ROUND)
        if name in order and (not number or number.isdecimal()):
            stage = name.removesuffix("_control")
            found.append((order.index(stage), not number, int(number or 0), order.index(name), model))
    made = [model for *_, model in sorted(found)]
    return made + [model for model in split if model not in RESERVED and model not in made]


def model_title(model: str) -> str:
    """What a model is called, escaped: "stage 1", or of a round before the last "stage 1, round 2"."""
    return escape(plain_title(model))


def plain_title(model: str) -> str:
    """`model_title` before it is escaped."""
    name, _, number = model.partition(ROUND)
    if name not in MODELS or not (number.isdecimal() or name == model):
        return model
    return f"{MODELS[name]}, round {number}" if number else MODELS[name]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def figure_of(block: Mapping[str, Any], path: Path) -> Any:
    """A figure, or an interval, of a model's block; None where it is absent."""
    found: Any = block
    for name in path:
        if name not in found:
            return None
        found = found[name]
    return found
