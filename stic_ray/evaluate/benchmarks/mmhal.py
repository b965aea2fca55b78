"""MMHal-Bench (Sun et al. 2023): a judge's rating of an answer, of how much it says and whether it imagines."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from stic_ray.config import MmHal
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, Verdicts, category, mean_of, verdict_id
from stic_ray.evaluate.rows import json_list
from stic_ray.records import Prediction

_RATING = re.compile(r"^[^\w\n]{0,8}rating[^\w\n]{1,8}([0-6])[^\w\n]{0,8}$", re.IGNORECASE | re.MULTILINE)
_FIRST_WITHOUT = 3  # the lowest rating of an answer that imagines nothing
PROMPT = """\
You rate how a vision-language model answered a question about a photo that you cannot see. You are told what is in the
photo, and the answer that a person gave; both are true, though not complete. An answer imagines something if it states
what contradicts them or what nothing in them supports; what follows from them by reasoning or common knowledge is fine.

In the photo: {context}
Question: {question}
A person's answer: {gold}
The model's answer: {answer}

Think it through in a few sentences. Then write on a line of its own "Rating: N", where N is
6: nothing imagined, very informative, with good analysis
5: nothing imagined, very informative
4: nothing imagined, somewhat informative
3: nothing imagined, not informative
2: something imagined, very informative
1: something imagined, somewhat informative
0: something imagined, not informative"""


def read(benchmark: MmHal) -> Iterator[Item]:
    """The questions of `response_template.json`; an image is the file that its address in `image_src` ends in."""
    for row in json_list(benchmark.questions, ("image_id", "question")):
        content = row.texts("image_content")
        name = PurePosixPath(row.text("image_src")).name
        yield Item(
            key=f"{row.key('image_id')}-{row.text('question')}",
            text=row.text("question"),
            image=name,
            image_uri=row.image_named("image_src", name, benchmark.images),
            answers=[row.text("gt_answer")],
            context=", ".join(content),
            category=row.text("question_type"),
            group=row.any_text("question_topic"),
        )


def ask(row: Prediction) -> str:
    """What the judge is asked."""
    return PROMPT.format(context=row.context, question=row.question, gold=row.answers[0], answer=row.text)


def read_verdict(text: str) -> tuple[list[float], list[str]] | None:
    """The one rating that the judge gives on a line of its own, 0 to 6; None where there is none, or several that
    differ. (The benchmark's own script takes these for 0.)"""
    found = {int(digit) for digit in _RATING.findall(text)}
    return ([float(found.pop())], []) if len(found) == 1 else None


def measure(benchmark: MmHal, rows: Sequence[Prediction], verdicts: Verdicts) -> Measure:
    """The mean rating, 0 to 6, by question type, and the share of answers that imagine (a rating below 3)."""

    def rating(row: Prediction) -> float:
        return verdicts[verdict_id(row)].values[0]

    score = mean_of(rating, rows, name="score", scale=1.0, by={"type": category})
    imagined = mean_of(lambda row: rating(row) < _FIRST_WITHOUT, rows, name="hallucination_rate")

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        return (*imagined.count(answers), *score.count(answers))

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        one_X2, other_XS = np.split(sums_XS, [2], axis=-1)
        return {**score.figures(other_XS), **imagined.figures(one_X2)}

    main = {"score": "score (0 to 6)", "hallucination_rate": "hallucination rate"}
    return Measure(count=count, figures=figures, main=main, less_is_better=frozenset({"hallucination_rate"}))
