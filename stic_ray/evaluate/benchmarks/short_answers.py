"""Questions with one short answer each, by category; accuracy is the plain mean over categories."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from stic_ray.config import ShortAnswers
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, ratio
from stic_ray.evaluate.rows import json_lines
from stic_ray.records import Prediction

RESERVED_CATEGORY = "accuracy"
_EDGE_PUNCTUATION = ".,;:!?\"'`()[]{}*_\u201c\u201d\u2018\u2019\u2026"


def read(benchmark: ShortAnswers) -> Iterator[Item]:
    """The questions; one whose line has no image is of text alone."""
    for row in json_lines(benchmark.questions, ("image", "question_id") if benchmark.images else ("question_id",)):
        if row.text("category") == RESERVED_CATEGORY:
            row.fail("category", f"another name: {RESERVED_CATEGORY} is the mean over the categories")
        if not normalise_answer(row.text("answer")):
            row.fail("answer", "more than punctuation")
        yield Item(
            key=row.key("question_id"),
            text=row.text("text"),
            image=row.text("image") if benchmark.images else "",
            image_uri=row.image("image", benchmark.images) if benchmark.images else "",
            answers=[row.text("answer")],
            category=row.text("category"),
            group=row.any_text("group"),
        )


@lru_cache(maxsize=65536)  # an answer is counted once a figure and a comparison, and short ones repeat
def normalise_answer(text: str) -> str:
    """Lower case, one space between words, no punctuation around them (inside they keep it: 3.5, top-left)."""
    words = (word.strip(_EDGE_PUNCTUATION) for word in text.lower().split())
    return " ".join(word for word in words if word)


def is_correct(text: str, answer: str) -> bool:
    """Whether a short answer is the gold one once both are normalised; a yes or no is read off the first word."""
    given, gold = normalise_answer(text), normalise_answer(answer)
    if gold in ("yes", "no"):
        return given.split(" ")[0] == gold
    return given == gold


def measure(benchmark: ShortAnswers, rows: Sequence[Prediction]) -> Measure:
    """One figure a category and `accuracy`, their plain mean; a category without answers has none (nan) and is left
    out of the mean."""
    categories = sorted({row.category for row in rows})

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        counts = np.zeros((2, len(categories)))
        for row in answers:
            place = categories.index(row.category)
            counts[:, place] += [is_correct(row.text, row.answers[0]), 1]
        return tuple(counts.ravel())

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        correct_XC, asked_XC = np.split(sums_XS, 2, axis=-1)
        shares_XC = 100 * ratio(correct_XC, asked_XC, empty=np.nan)
        num_asked_X = (asked_XC > 0).sum(-1).astype(np.float64)
        mean_X = ratio(np.nansum(shares_XC, axis=-1), num_asked_X, empty=np.nan)
        return {"accuracy": mean_X, **dict(zip(categories, np.moveaxis(shares_XC, -1, 0), strict=True))}

    return Measure(count=count, figures=figures, main={"accuracy": "accuracy"})


def most_frequent_answer_rates(rows: Iterable[Prediction]) -> dict[str, float]:
    """The share, in percent, of each category's most frequent gold answer: what a model that never looks can reach."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row.category][normalise_answer(row.answers[0])] += 1
    return {name: 100 * max(counts.values()) / counts.total() for name, counts in sorted(answers.items())}
