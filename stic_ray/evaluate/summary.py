"""Figures of models from their predictions: the blocks of summary.json, their intervals, differences between models.

A block has an entry a task; an entry nests where a figure's name has "/" (`pope`: `adversarial`: `accuracy`).
Differences name the same figures flat ("pope/adversarial/accuracy"). What has no ground truth is absent.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stic_ray.config import Benchmark, ShortAnswers
from stic_ray.evaluate.benchmarks import measurable, measure_of
from stic_ray.evaluate.intervals import Bootstrap, Difference, FloatArray, intervals, paired_intervals
from stic_ray.evaluate.measures import Measure, Verdicts
from stic_ray.evaluate.questions import task_of
from stic_ray.records import Prediction

Predictions = Mapping[str, Sequence[Prediction]]
"""A model's, by task."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a split's answers are held against: its benchmarks by task, and what a judge said of any answer."""

    benchmarks: Mapping[str, Benchmark]
    verdicts: Verdicts = field(default_factory=dict)


def truth_of(benchmarks: Mapping[str, Benchmark], verdicts: Verdicts) -> Truth:
    """The truth of a split: its benchmarks by name become tasks, asked in both modes."""
    by_task = {task_of(name, mode): each for name, each in benchmarks.items() for mode in each.modes}
    return Truth(benchmarks=by_task, verdicts=verdicts)


def by_task(rows: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions by task."""
    found: defaultdict[str, list[Prediction]] = defaultdict(list)
    for row in rows:
        found[row.task].append(row)
    return dict(found)


def model_block(predictions: Predictions, truth: Truth) -> dict[str, Any]:
    """One model's block of summary.json; percentages are 0 to 100."""
    block: dict[str, Any] = {}
    for task, (measure, [rows]) in _measured([predictions], truth).items():
        sums_S = _counts(rows, measure, _images([rows])).sum(0)
        for name, value in measure.figures(sums_S).items():
            _insert(block, [task, *name.split("/")], float(value))
    return block


def intervals_block(predictions: Predictions, truth: Truth, bootstrap: Bootstrap) -> dict[str, Any]:
    """The same block with [low, high] for every figure: a bootstrap over each task's images."""
    block: dict[str, Any] = {}
    for task, (measure, [rows]) in _measured([predictions], truth).items():
        counts_IS = _counts(rows, measure, _images([rows]))
        for name, bounds in intervals(counts_IS, measure.figures, bootstrap).items():
            _insert(block, [task, *name.split("/")], list(bounds))
    return block


def split_block(models: Mapping[str, Predictions], truth: Truth, bootstrap: Bootstrap) -> dict[str, Any]:
    """All models' blocks of one split by name, and their intervals under `intervals`."""
    return {
        **{name: model_block(predictions, truth) for name, predictions in models.items()},
        "intervals": {name: intervals_block(predictions, truth, bootstrap) for name, predictions in models.items()},
    }


def paired_difference(
    a_runs: Sequence[Predictions], b_runs: Sequence[Predictions], truth: Truth, bootstrap: Bootstrap
) -> dict[str, Difference]:
    """Every figure's difference, a minus b, by flat name: images resampled once for both sides.

    Each side is one or more runs on the same images (one run: a list of one), and a figure the mean of its runs' own.
    A task that any run lacks is absent, and a question that any run has no figure of counts for none.
    """
    differences = {}
    for task, (measure, runs) in _measured(_shared([*a_runs, *b_runs], truth), truth).items():
        images = _images(runs)
        counts = [_counts(rows, measure, images) for rows in runs]
        a_counts, b_counts = counts[: len(a_runs)], counts[len(a_runs) :]
        for name, difference in paired_intervals(a_counts, b_counts, measure.figures, bootstrap).items():
            differences[f"{task}/{name}"] = difference
    return differences


def main_figures(models: Mapping[str, Predictions], truth: Truth) -> dict[str, dict[str, Any]]:
    """The figures that a table shows, by flat name: what each is called (`title`), and whether it is better when it
    falls (`less_is_better`)."""
    found = {}
    for task, (measure, _) in _measured(list(models.values()), truth).items():
        for name, title in measure.main.items():
            found[f"{task}/{name}"] = {"title": title, "less_is_better": name in measure.less_is_better}
    return found


def questions_by_group(predictions: Predictions, truth: Truth) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracies of short answers by task and group (`accuracy`, the plain mean over the group's types, and one key a
    type)."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task, rows in predictions.items():
        if not isinstance(truth.benchmarks.get(task), ShortAnswers):
            continue
        for group in sorted({row.group for row in rows if row.group}):
            block = model_block({task: [row for row in rows if row.group == group]}, truth)
            found.setdefault(task, {})[group] = block[task]
    return found


def _measured(runs: Sequence[Predictions], truth: Truth) -> dict[str, tuple[Measure, list[list[Prediction]]]]:
    """The tasks that all runs have: how each is measured, and each run's answers that can be."""
    found = {}
    for task, benchmark in truth.benchmarks.items():
        each = [measurable(benchmark, run.get(task, ()), truth.verdicts) for run in runs]
        if all(each):
            rows = [row for run in each for row in run]
            found[task] = (measure_of(benchmark, rows, truth.verdicts), each)
    return found


def _shared(runs: Sequence[Predictions], truth: Truth) -> list[Predictions]:
    """The runs' answers to those questions that all of them have a figure of."""
    found: list[dict[str, list[Prediction]]] = [{} for _ in runs]
    for task, benchmark in truth.benchmarks.items():
        each = [measurable(benchmark, run.get(task, ()), truth.verdicts) for run in runs]
        ids = set.intersection(*({row.id for row in rows} for rows in each))
        for kept, rows in zip(found, each, strict=True):
            kept[task] = [row for row in rows if row.id in ids]
    return list(found)


def _images(runs: Sequence[Sequence[Prediction]]) -> dict[str, int]:
    """The images of a task, over all runs, and their rows in the counts."""
    ids = sorted({row.image_id for run in runs for row in run})
    return {image: index for index, image in enumerate(ids)}


def _counts(rows: Sequence[Prediction], measure: Measure, images: Mapping[str, int]) -> FloatArray:
    """The counts [I, S] of one task by image, 0 where a run has no answer of the image."""
    of: defaultdict[str, list[Prediction]] = defaultdict(list)
    for row in rows:
        of[row.image_id].append(row)
    each = {image: measure.count(answers) for image, answers in of.items()}
    counts_IS = np.zeros((len(images), len(next(iter(each.values())))))
    for image, counts_S in each.items():
        counts_IS[images[image]] = counts_S
    return counts_IS


def _insert(block: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, name = path
    for parent in parents:
        block = block.setdefault(parent, {})
    block[name] = value
