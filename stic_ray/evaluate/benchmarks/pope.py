"""POPE (Li et al. 2023): whether an object is there, yes or no."""

from collections.abc import Iterator, Sequence

import numpy as np

from stic_ray.config import Pope
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, ratio
from stic_ray.evaluate.rows import json_lines
from stic_ray.records import Prediction


def read(benchmark: Pope) -> Iterator[Item]:
    """The questions of every strategy; the category is the strategy."""
    for strategy, uri in benchmark.questions.items():
        for row in json_lines(uri, ("image", "question_id")):
            if row.values.get("label") not in ("yes", "no"):
                row.fail("label", "yes or no")
            yield Item(
                key=row.key("question_id"),
                text=row.text("text"),
                image=row.text("image"),
                image_uri=row.image("image", benchmark.images),
                answers=[row.text("label")],
                category=strategy,
            )


def says_yes(text: str) -> bool:
    """POPE's reading of an answer: "no" when its first sentence holds the word No, no or not, else "yes".

    As in the benchmark's own script: a sentence ends at a period, only commas part from a word ("No!" is a yes), the
    case counts, and an answer without any of the words, an empty one too, is a yes.
    """
    first_sentence = text.partition(".")[0].replace(",", "")
    return {"No", "no", "not"}.isdisjoint(first_sentence.split(" "))


def measure(benchmark: Pope, rows: Sequence[Prediction]) -> Measure:
    """Accuracy, precision, recall, F1 and yes ratio of each strategy, and their means over strategies.

    Yes is positive; a ratio without cases (precision of a model that never says yes) is 0.
    """
    strategies = [name for name in benchmark.questions if any(row.category == name for row in rows)]

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        counts = np.zeros((len(strategies), 4))
        for row in answers:
            yes, is_yes = says_yes(row.text), row.answers == ["yes"]
            counts[strategies.index(row.category)] += [yes and is_yes, yes > is_yes, not (yes or is_yes), yes < is_yes]
        return tuple(counts.ravel())

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}
        for strategy, sums_X4 in zip(strategies, np.split(sums_XS, len(strategies), axis=-1), strict=True):
            found |= {f"{strategy}/{name}": value for name, value in _figures(sums_X4).items()}
        names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
        means = {name: np.mean([found[f"{strategy}/{name}"] for strategy in strategies], axis=0) for name in names}
        return means | found

    main = {"accuracy": "accuracy", "f1": "F1", "yes_ratio": "yes ratio"}
    return Measure(count=count, figures=figures, main=main)


def _figures(sums_X4: FloatArray) -> dict[str, FloatArray]:
    true_yes, false_yes, true_no, false_no = np.moveaxis(sums_X4, -1, 0)
    asked = true_yes + false_yes + true_no + false_no
    return {
        "accuracy": 100 * ratio(true_yes + true_no, asked),
        "precision": 100 * ratio(true_yes, true_yes + false_yes),
        "recall": 100 * ratio(true_yes, true_yes + false_no),
        "f1": 100 * ratio(2 * true_yes, 2 * true_yes + false_yes + false_no),
        "yes_ratio": 100 * ratio(true_yes + false_yes, asked),
    }
