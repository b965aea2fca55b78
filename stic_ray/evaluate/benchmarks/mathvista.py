"""MathVista (Lu et al. 2024): mathematics on images, with choices or free answers."""

from collections.abc import Iterator, Sequence

from stic_ray.config import MathVista
from stic_ray.evaluate.answers import read_math_answer
from stic_ray.evaluate.benchmarks import choices
from stic_ray.evaluate.measures import Item, Measure, category, group, mean_of
from stic_ray.evaluate.rows import Row, json_map
from stic_ray.records import Prediction

_FORMS = ("text", "integer", "float", "list")


def read(benchmark: MathVista) -> Iterator[Item]:
    """The problems of `testmini.json`; the form is "choice", or the answer's type with its precision ("float 1"). The
    category is the task, the group the context that the metadata gives."""
    for key, row in json_map(benchmark.questions):
        options = row.texts("choices", most=len(choices.LETTERS)) if row.values.get("choices") else []
        metadata = row.values.get("metadata") or {}
        if not isinstance(metadata, dict):
            row.fail("metadata", "an object, or left out")
        answers = [row.text("answer")] if row.values.get("answer") not in (None, "") else []  # secret in the test split
        if options and answers and answers[0] not in options:
            row.fail("answer", "one of the choices")
        yield Item(
            key=key,
            text=choices.write(_question(row), options),
            image=row.text("image"),
            image_uri=row.image("image", benchmark.images),
            answers=answers,
            choices=options,
            form="choice" if options else _form(row),
            category=str(metadata.get("task", "")),
            group=str(metadata.get("context", "")),
        )


def _question(row: Row) -> str:
    unit = row.any_text("unit")
    return f"{row.text('question')} (Unit: {unit})" if unit else row.text("question")


def _form(row: Row) -> str:
    kind = row.text("answer_type")
    if kind not in _FORMS:
        row.fail("answer_type", f"one of {', '.join(_FORMS)}")
    precision = row.values.get("precision")
    if precision is None:
        precision = 2
    if isinstance(precision, bool) or not isinstance(precision, int | float) or not 0 <= precision <= 20:
        row.fail("precision", "a number of digits, or left out")
    return f"float {int(precision)}" if kind == "float" else kind


def measure(benchmark: MathVista, rows: Sequence[Prediction]) -> Measure:
    """Accuracy, by task and by context."""
    return mean_of(_is_correct, rows, by={"task": category, "context": group})


def _is_correct(row: Prediction) -> bool:
    kind, _, precision = row.form.partition(" ")
    digits = int(precision) if precision else None
    found = read_math_answer(row.text, kind=kind, choices=row.choices, precision=digits)
    return found != "" and found == row.answers[0]
