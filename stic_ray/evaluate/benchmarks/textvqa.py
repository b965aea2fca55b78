"""TextVQA (Singh et al. 2019): VQA accuracy against ten people's answers."""

from collections.abc import Iterator, Sequence

from stic_ray.config import TextVqa
from stic_ray.evaluate.answers import vqa_accuracy
from stic_ray.evaluate.measures import Item, Measure, mean_of
from stic_ray.evaluate.rows import json_list
from stic_ray.records import Prediction


def read(benchmark: TextVqa) -> Iterator[Item]:
    """The questions of `TextVQA_0.5.1_val.json`; images are IMAGE_ID.jpg."""
    for row in json_list(benchmark.questions, ("question_id",), under="data"):
        name = f"{row.text('image_id')}.jpg"
        yield Item(
            key=row.key("question_id"),
            text=row.text("question"),
            image=name,
            image_uri=row.image_named("image_id", name, benchmark.images),
            answers=row.texts("answers") if "answers" in row.values else [],  # of the test split they are secret
        )


def measure(benchmark: TextVqa, rows: Sequence[Prediction]) -> Measure:
    """VQA accuracy."""
    return mean_of(lambda row: vqa_accuracy(row.text, row.answers), rows)
