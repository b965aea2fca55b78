"""LLaVA-Bench (Liu et al. 2023): a judge's scores of an answer and of a reference answer, and their relation."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from stic_ray.config import LlavaBench
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, Verdicts, ratio, verdict_id
from stic_ray.evaluate.rows import Row, json_lines
from stic_ray.records import Prediction

_NUMBER = r"(\d{1,2}(?:\.\d{1,3})?)"
_SCORES = re.compile(rf"\A[^\w\n]{{0,8}}{_NUMBER}(?:, {{0,3}}| {{1,3}}){_NUMBER} {{0,3}}(?:\n|\Z)")
_BEST = 10
PROMPT = """\
Two assistants answered a question about an image that you cannot see. What follows describes it truly.

Image:
{context}

Question:
{question}

Assistant 1:
{gold}

Assistant 2:
{answer}

Score each assistant from 1 to 10 for how helpful, relevant, accurate and detailed its answer is. Neither the order nor
the length of the answers may matter. Write the two scores on the first line, first that of assistant 1, with a space
between them and nothing else. Give your reasons on the lines after it."""


def read(benchmark: LlavaBench) -> Iterator[Item]:
    """The questions, with their reference answers and what is said of the image; the category is the question's."""
    answers = {row.key("question_id"): row for row in json_lines(benchmark.answers, ("question_id",))}
    told = {row.text("image"): _told(row) for row in json_lines(benchmark.context, ("image",))}
    for row in json_lines(benchmark.questions, ("question_id",)):
        if row.key("question_id") not in answers:
            row.fail("question_id", f"one that {benchmark.answers} answers")
        if row.text("image") not in told:
            row.fail("image", f"one of {benchmark.context}")
        yield Item(
            key=row.key("question_id"),
            text=row.text("text"),
            image=row.text("image"),
            image_uri=row.image("image", benchmark.images),
            answers=[answers[row.key("question_id")].text("text")],
            context=told[row.text("image")],
            category=row.text("category"),
        )


def _told(row: Row) -> str:
    return row.text("caption") if "caption" in row.values else "\n".join(row.texts("captions"))


def ask(row: Prediction) -> str:
    """What the judge is asked."""
    return PROMPT.format(context=row.context, question=row.question, gold=row.answers[0], answer=row.text)


def read_verdict(text: str) -> tuple[list[float], list[str]] | None:
    """The scores of the reference and of the answer, 1 to 10; None where the first line has something else."""
    found = _SCORES.match(text.strip())
    scores = [float(found[1]), float(found[2])] if found else []
    return (scores, []) if scores and all(1 <= score <= _BEST for score in scores) else None


def measure(benchmark: LlavaBench, rows: Sequence[Prediction], verdicts: Verdicts) -> Measure:
    """The answers' scores in percent of the reference's, over all and by category."""
    categories = sorted({row.category for row in rows})

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        sums = np.zeros((len(categories), 2))
        for row in answers:
            sums[categories.index(row.category)] += verdicts[verdict_id(row)].values
        return tuple(sums.ravel())

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        reference_XC, ours_XC = sums_XS[..., 0::2], sums_XS[..., 1::2]
        by_category_XC = 100 * ratio(ours_XC, reference_XC, empty=np.nan)
        parts = {f"category/{name}": by_category_XC[..., place] for place, name in enumerate(categories)}
        return {"relative": 100 * ratio(ours_XC.sum(-1), reference_XC.sum(-1), empty=np.nan), **parts}

    return Measure(count=count, figures=figures, main={"relative": "score relative to the reference"})
