"""MM-Vet (Yu et al. 2024): a judge's grade of open answers, by capability."""

import re
from collections.abc import Iterator, Sequence

from stic_ray.config import MmVet
from stic_ray.evaluate.measures import Item, Measure, Verdicts, mean_of, verdict_id
from stic_ray.evaluate.rows import json_map
from stic_ray.records import Prediction

# What the answer begins with, as the benchmark's own script reads it; "1 out of 10" and "0.2 or 0.4" are no grades.
_GRADE = re.compile(
    r"\A[\s*_\"'`]{0,8}(?:grade[\s*_:]{1,8})?(0?\.\d+|[01](?:\.\d+)?)"
    r"(?=[*_.]{0,4}(?:\s|\Z))(?!\s{0,4}(?:out|of|or)\b)",
    re.IGNORECASE,
)
PROMPT = """\
Grade an answer to a question about an image that you cannot see, against the right answer. The grade is a number from
0.0 (all wrong) to 1.0 (all right), in steps of 0.1. In the right answer, <AND> stands between parts that must all be
there and <OR> between alternatives of which one is enough; a part that is missing or wrong costs its share. Wording
does not count, and what goes beyond the right answer costs nothing unless it contradicts it.

Question: what do the two signs say?
Right answer: stop <AND> one way
Answer: One of them says STOP.
Grade: 0.5

Question: what colour is the cup?
Right answer: red <OR> dark red
Answer: It is a red cup with a blue spoon in it.
Grade: 1.0

Question: how many people wear a hat?
Right answer: 3
Answer: Four of them.
Grade: 0.0

Question: {question}
Right answer: {gold}
Answer: {answer}

Answer with the grade alone.
Grade:"""


def read(benchmark: MmVet) -> Iterator[Item]:
    """The questions of `mm-vet.json`; the category names the capabilities, with commas between them."""
    for key, row in json_map(benchmark.questions):
        yield Item(
            key=key,
            text=row.text("question"),
            image=row.text("imagename"),
            image_uri=row.image("imagename", benchmark.images),
            answers=[row.text("answer")],
            category=",".join(row.texts("capability")),
        )


def ask(row: Prediction) -> str:
    """What the judge is asked."""
    return PROMPT.format(question=row.question, gold=row.answers[0], answer=row.text)


def read_verdict(text: str) -> tuple[list[float], list[str]] | None:
    """The grade that the judge begins with, 0 to 1; None where it begins with something else."""
    found = _GRADE.match(text)
    return ([float(found[1])], []) if found and float(found[1]) <= 1 else None


def measure(benchmark: MmVet, rows: Sequence[Prediction], verdicts: Verdicts) -> Measure:
    """The mean grade, 0 to 100, and that of each capability."""
    by = {"capability": lambda row: row.category.split(",")}
    return mean_of(lambda row: verdicts[verdict_id(row)].values[0], rows, name="score", by=by)
