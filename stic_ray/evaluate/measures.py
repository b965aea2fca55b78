"""How a benchmark's answers become figures, and the kinds of them that several benchmarks share.

Shape legend: S counts; X any leading axes, none for one value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stic_ray.evaluate.intervals import Figures, FloatArray
from stic_ray.records import Prediction, Verdict, make_id

Verdicts = Mapping[str, Verdict]
"""What a judge said, by `verdict_id`."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question as its benchmark's file has it: fields as of `Question`. `image` names it, `image_uri` is where it is;
    both are "" for a question of text alone."""

    key: str
    text: str
    image: str = ""
    image_uri: str = ""
    answers: Sequence[str] = ()
    choices: Sequence[str] = ()
    form: str = ""
    context: str = ""
    category: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """`count` makes one image's answers counts, which add up over images; `figures` makes summed counts figures.

    A figure's name may hold "/", for one below another. `main` are those that a table shows, by what it calls them, and
    `less_is_better` which of them are better when they fall.
    """

    count: Callable[[Sequence[Prediction]], tuple[float, ...]]
    figures: Figures
    main: Mapping[str, str]
    less_is_better: frozenset[str] = frozenset()


def verdict_id(row: Prediction) -> str:
    """What a verdict on an answer is kept under: the question and the answer's text."""
    return make_id("verdict", row.id, row.text)


def ratio(part_X: FloatArray, whole_X: FloatArray, empty: float = 0.0) -> FloatArray:
    """part / whole, `empty` where whole is 0."""
    part_X, whole_X = np.asarray(part_X, dtype=np.float64), np.asarray(whole_X, dtype=np.float64)
    return np.divide(part_X, whole_X, out=np.full_like(whole_X, empty), where=whole_X > 0)


def mean_of(
    score: Callable[[Prediction], float],
    rows: Sequence[Prediction],
    *,
    name: str = "accuracy",
    scale: float = 100.0,
    by: Mapping[str, Callable[[Prediction], Sequence[str]]] | None = None,
) -> Measure:
    """The mean score of all answers, times `scale`, and that of parts of them: `by` gives an axis's name and the parts
    of it that an answer belongs to, and the figure is called AXIS/PART."""
    axes = by or {}
    parts = [(axis, part) for axis, of in axes.items() for part in sorted({p for row in rows for p in of(row) if p})]

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        scores = [score(row) for row in answers]
        sums, numbers = [sum(scores)], [float(len(answers))]
        for axis, part in parts:
            within = [one for one, row in zip(scores, answers, strict=True) if part in axes[axis](row)]
            sums.append(sum(within))
            numbers.append(float(len(within)))
        return (*sums, *numbers)

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        scores_XP, numbers_XP = np.split(sums_XS, 2, axis=-1)
        means_XP = scale * ratio(scores_XP, numbers_XP, empty=np.nan)
        names = [name, *(f"{axis}/{part}" for axis, part in parts)]
        return dict(zip(names, np.moveaxis(means_XP, -1, 0), strict=True))

    return Measure(count=count, figures=figures, main={name: name})


def category(row: Prediction) -> Sequence[str]:
    """An axis of `mean_of`: the category."""
    return (row.category,)


def group(row: Prediction) -> Sequence[str]:
    """An axis of `mean_of`: the group."""
    return (row.group,)
