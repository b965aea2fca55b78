"""Answers for tests: rows as a run's predictions have them, without a run."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stic_ray.config import Benchmark
from stic_ray.evaluate import questions
from stic_ray.evaluate.benchmarks import measurable, measure_of
from stic_ray.evaluate.measures import Verdicts, verdict_id
from stic_ray.records import Prediction, Question, Verdict


def predict(task: str, image: str, text: str, answers: Sequence[str] = (), category: str = "") -> Prediction:
    """An answer to one question on an image."""
    question = Question(
        id=f"{task} {image} {category} {list(answers)}",
        split="test",
        task=task,
        key=image,
        image_id=image,
        image_uri=image,
        text="?",
        answers=list(answers),
        choices=[],
        form="",
        context="",
        category=category,
        group="",
    )
    return answer(question, text)


def answer(question: Question, text: str) -> Prediction:
    """The row of an answer to a question."""
    asked = {name: value for name, value in vars(question).items() if name != "text"}
    return Prediction(
        **asked,
        question=question.text,
        description="",
        text=text,
        num_tokens=len(text.split()),
        finish_reason="stop",
    )


def judged(row: Prediction, values: Sequence[float] = (), names: Sequence[str] = ()) -> Verdict:
    """What a judge says of a row."""
    return Verdict(id=verdict_id(row), question_id=row.id, text="...", values=list(values), names=list(names))


def read(benchmark: Benchmark) -> list[Question]:
    """The questions of a benchmark."""
    return list(questions.read(benchmark, split="test", name="b", infused=""))


def figures(benchmark: Benchmark, rows: Sequence[Prediction], verdicts: Verdicts | None = None) -> dict[str, float]:
    """Every figure of answers, counted image by image as a run counts them."""
    told = verdicts or {}
    counted = measurable(benchmark, rows, told)
    measure = measure_of(benchmark, counted, told)
    images = sorted({row.image_id for row in counted})
    sums = np.sum([measure.count([row for row in counted if row.image_id == image]) for image in images], axis=0)
    return {name: float(value) for name, value in measure.figures(sums).items()}


def in_group(row: Prediction, group: str) -> Prediction:
    """The row in a group."""
    return replace(row, group=group)
