"""Figures of models from their predictions: the blocks of summary.json, their intervals, differences between models.

A block nests as summary.json does (`describe_simple`, `pope`/`adversarial`, `questions`, ...); differences name the
same figures flat ("pope/adversarial/accuracy"). What has no ground truth is absent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from stic_ray.evaluate.benchmarks import DESCRIBE_TASKS, POPE_STRATEGIES, QUESTION_TASKS
from stic_ray.evaluate.intervals import (
    Bootstrap,
    Difference,
    Figures,
    FloatArray,
    intervals,
    paired_intervals,
)
from stic_ray.evaluate.metrics import (
    Vocabulary,
    caption_counts,
    caption_figures,
    pope_counts,
    pope_figures,
    question_counts,
    question_figures,
)
from stic_ray.records import Prediction

Objects = Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """How one task's answers become counts and its counts figures, and where in a block these stand."""

    task: str
    path: tuple[str, ...]
    count: Callable[[Prediction], tuple[float, ...]]
    figures: Figures


def model_block(predictions: Sequence[Prediction], objects: Objects, vocabulary: Vocabulary) -> dict[str, Any]:
    """One model's block of summary.json; percentages are 0 to 100."""
    block: dict[str, Any] = {}
    predictions = _with_truth(predictions, objects)
    for measure in _measures(predictions, objects, vocabulary):
        sums_S = _counts(predictions, measure, _images([predictions], measure)).sum(0)
        _insert(block, measure.path, {name: float(value) for name, value in measure.figures(sums_S).items()})
    return block


def intervals_block(
    predictions: Sequence[Prediction], objects: Objects, vocabulary: Vocabulary, *, bootstrap: Bootstrap
) -> dict[str, Any]:
    """The same block with [low, high] for every figure: a bootstrap over each task's images."""
    block: dict[str, Any] = {}
    predictions = _with_truth(predictions, objects)
    for measure in _measures(predictions, objects, vocabulary):
        counts_IS = _counts(predictions, measure, _images([predictions], measure))
        bounds = intervals(counts_IS, measure.figures, bootstrap)
        _insert(block, measure.path, {name: list(pair) for name, pair in bounds.items()})
    return block


def split_block(
    models: Mapping[str, Sequence[Prediction]], objects: Objects, vocabulary: Vocabulary, *, bootstrap: Bootstrap
) -> dict[str, Any]:
    """All models' blocks of one split by name, and their intervals under `intervals`."""
    return {
        **{name: model_block(predictions, objects, vocabulary) for name, predictions in models.items()},
        "intervals": {
            name: intervals_block(predictions, objects, vocabulary, bootstrap=bootstrap)
            for name, predictions in models.items()
        },
    }


def paired_difference(
    a_runs: Sequence[Sequence[Prediction]],
    b_runs: Sequence[Sequence[Prediction]],
    objects: Objects,
    vocabulary: Vocabulary,
    *,
    bootstrap: Bootstrap,
) -> dict[str, Difference]:
    """Every figure's difference, a minus b, by flat name: images resampled once for both sides.

    Each side is one or more runs on the same images (one run: a list of one), and a figure the mean of its runs' own.
    A task that any run lacks is absent.
    """
    a_runs, b_runs = ([_with_truth(run, objects) for run in side] for side in (a_runs, b_runs))
    runs = [*a_runs, *b_runs]
    shared = set.intersection(*({row.task for row in run} for run in runs))
    rows = [row for run in runs for row in run if row.task in shared]
    differences = {}
    for measure in _measures(rows, objects, vocabulary):
        images = _images(runs, measure)
        a_counts, b_counts = ([_counts(run, measure, images) for run in side] for side in (a_runs, b_runs))
        for name, difference in paired_intervals(a_counts, b_counts, measure.figures, bootstrap).items():
            differences["/".join([*measure.path, name])] = difference
    return differences


def select_questions(predictions: Sequence[Prediction], task: str, group: str = "") -> list[Prediction]:
    """The short answers of one task, of one group or ("") of all, relabelled as task `questions`.

    So describe-and-respond compares with direct answering, and one group with itself:
    `paired_difference([select_questions(p, "questions_dar", g)], [select_questions(p, "questions", g)], ...)`.
    """
    return [
        replace(row, task=QUESTION_TASKS[0]) for row in predictions if row.task == task and group in ("", row.group)
    ]


def questions_by_group(predictions: Sequence[Prediction]) -> dict[str, dict[str, dict[str, float]]]:
    """Question accuracies by task and group (`accuracy`, the plain mean over the group's types, and one key a type)."""
    groups = sorted({row.group for row in predictions if row.group})
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task in QUESTION_TASKS:
        for group in groups:
            rows = select_questions(predictions, task, group)
            if rows:
                found.setdefault(task, {})[group] = model_block(rows, {}, Vocabulary())[QUESTION_TASKS[0]]
    return found


def _with_truth(predictions: Sequence[Prediction], objects: Objects) -> list[Prediction]:
    """The predictions that can be measured: a description only where the image's objects are known."""
    return [row for row in predictions if row.task not in DESCRIBE_TASKS or row.image_uri in objects]


def _measures(predictions: Sequence[Prediction], objects: Objects, vocabulary: Vocabulary) -> list[_Measure]:
    tasks = {row.task for row in predictions}
    caption = partial(_count_caption, objects=objects, vocabulary=vocabulary)
    measures = [_Measure(task=task, path=(task,), count=caption, figures=caption_figures) for task in DESCRIBE_TASKS]
    measures += [
        _Measure(task=f"pope_{strategy}", path=("pope", strategy), count=_count_pope, figures=pope_figures)
        for strategy in POPE_STRATEGIES
    ]
    for task in QUESTION_TASKS:
        categories = sorted({row.category for row in predictions if row.task == task})
        count = partial(question_counts, categories=categories)
        measures.append(_Measure(task=task, path=(task,), count=count, figures=question_figures(categories)))
    return [measure for measure in measures if measure.task in tasks]


def _count_caption(prediction: Prediction, *, objects: Objects, vocabulary: Vocabulary) -> tuple[float, ...]:
    there = objects[prediction.image_uri]
    return caption_counts(prediction.text, num_tokens=prediction.num_tokens, objects=there, vocabulary=vocabulary)


def _count_pope(prediction: Prediction) -> tuple[float, ...]:
    return pope_counts(prediction.text, prediction.answer)


def _images(runs: Sequence[Sequence[Prediction]], measure: _Measure) -> dict[str, int]:
    """The images of a task, over all runs, and their rows in the counts."""
    uris = sorted({row.image_uri for run in runs for row in run if row.task == measure.task})
    return {uri: index for index, uri in enumerate(uris)}


def _counts(predictions: Sequence[Prediction], measure: _Measure, images: Mapping[str, int]) -> FloatArray:
    """The counts [I, S] of one task: every answer's, summed by image."""
    rows = [row for row in predictions if row.task == measure.task]
    each_S = np.array([measure.count(row) for row in rows], dtype=np.float64)
    counts_IS = np.zeros((len(images), each_S.shape[1]))
    np.add.at(counts_IS, [images[row.image_uri] for row in rows], each_S)
    return counts_IS


def _insert(block: dict[str, Any], path: Sequence[str], figures: Mapping[str, Any]) -> None:
    for name in path:
        block = block.setdefault(name, {})
    block.update(figures)
