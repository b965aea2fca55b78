"""ScienceQA (Lu et al. 2022): multiple choice with images and without; those without show what is forgotten."""

from collections.abc import Iterator, Sequence

from stic_ray.config import ScienceQa
from stic_ray.evaluate.benchmarks import choices
from stic_ray.evaluate.measures import Item, Measure, category, group, mean_of
from stic_ray.evaluate.rows import Row, json_map
from stic_ray.records import Prediction


def read(benchmark: ScienceQa) -> Iterator[Item]:
    """The questions of the split in `problems.json`; images are ID/NAME below the split's folder (or `images` itself).
    The category is the subject, the group says what stands beside the question: image, text or nothing."""
    found = [(key, row) for key, row in json_map(benchmark.questions) if row.text("split") == benchmark.split]
    if not found:
        raise ValueError(f"{benchmark.questions} has no questions of split {benchmark.split}: set split to one of its")
    for key, row in found:
        image, options = row.any_text("image"), row.texts("choices", most=len(choices.LETTERS))
        answer = row.number("answer")
        if not 0 <= answer < len(options):
            row.fail("answer", f"the number of a choice, 0 to {len(options) - 1}")
        hint = row.any_text("hint")
        yield Item(
            key=key,
            text=choices.write(row.text("question"), options, f"Context: {hint}" if hint else ""),
            image=f"{key}/{image}" if image else "",
            image_uri=_image(row, key, image, benchmark) if image else "",
            answers=[choices.LETTERS[answer]],
            choices=options,
            category=row.any_text("subject"),
            group="image" if image else "text" if hint else "nothing",
        )


def _image(row: Row, key: str, image: str, benchmark: ScienceQa) -> str:
    return row.image_named("image", f"{key}/{image}", benchmark.images)


def measure(benchmark: ScienceQa, rows: Sequence[Prediction]) -> Measure:
    """Accuracy over all questions, by subject and by context; context/image is what LLaVA's papers report as SQA-I."""
    return mean_of(choices.is_correct, rows, by={"subject": category, "context": group})
