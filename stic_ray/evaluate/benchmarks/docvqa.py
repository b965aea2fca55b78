"""DocVQA (Mathew et al. 2021): ANLS, and accuracy as the share of answers that are one of the gold ones."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from stic_ray.config import DocVqa
from stic_ray.evaluate.answers import anls
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, mean_of
from stic_ray.evaluate.rows import json_list
from stic_ray.records import Prediction


def read(benchmark: DocVqa) -> Iterator[Item]:
    """The questions of `val_v1.0.json`. Its `image` begins with a folder ("documents/") that archives do not have: only
    the name counts."""
    for row in json_list(benchmark.questions, ("questionId",), under="data"):
        name = PurePosixPath(row.text("image")).name
        yield Item(
            key=row.key("questionId"),
            text=row.text("question"),
            image=name,
            image_uri=row.image_named("image", name, benchmark.images),
            answers=row.texts("answers") if "answers" in row.values else [],  # of the test split they are secret
        )


def measure(benchmark: DocVqa, rows: Sequence[Prediction]) -> Measure:
    """ANLS and accuracy (case and repeated spaces do not count), 0 to 100."""
    similar = mean_of(lambda row: anls(row.text, row.answers), rows, name="anls")
    equal = mean_of(lambda row: _plain(row.text) in map(_plain, row.answers), rows)

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        return (*similar.count(answers), *equal.count(answers))

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        return {**similar.figures(sums_XS[..., :2]), **equal.figures(sums_XS[..., 2:])}

    return Measure(count=count, figures=figures, main={"anls": "ANLS", "accuracy": "accuracy"})


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
