"""Object HalBench (as RLHF-V has it): CHAIR's figures of detailed descriptions whose objects a judge reads out."""

import json
import re
from collections.abc import Iterator, Sequence

from stic_ray.config import ObjectHal
from stic_ray.evaluate.benchmarks import captions
from stic_ray.evaluate.coco_annotations import read_objects
from stic_ray.evaluate.coco_objects import read_vocabulary
from stic_ray.evaluate.measures import Item, Measure, Verdicts, verdict_id
from stic_ray.evaluate.objects import Vocabulary
from stic_ray.evaluate.rows import Embedded, json_lines
from stic_ray.records import Prediction

_NUMBER = re.compile(r"(\d+)(?:\.\w+)?\Z")
PROMPT = """\
Below is a description that somebody wrote of a photo. List every physical object, animal and person that it says is in
the photo, each as a noun in the singular and once. Leave out what it only compares with,
imagines or says is absent, and leave out places, feelings and parts of the picture such as background or light.
Answer with nothing but a JSON list of strings, [] where there is none.

Description:
{answer}"""


def read(benchmark: ObjectHal) -> Iterator[Item]:
    """The prompts; `image` is a file's name or the file in base64, `image_id` COCO's number of it."""
    vocabulary = read_vocabulary(benchmark.synonyms)
    by_name = read_objects(benchmark.objects, vocabulary, captions=benchmark.captions)
    by_number = {_number(name): objects for name, objects in by_name.items()}
    embedded = Embedded(benchmark.questions)
    for row in json_lines(benchmark.questions, ("image_id",)):
        number = row.key("image_id")
        location = embedded.location(row, "image")
        if _number(number) not in by_number:
            row.fail("image_id", f"an image of {benchmark.objects}")
        yield Item(
            key=number,
            text=row.text("question"),
            image=number,
            image_uri=location or row.image("image", benchmark.images),
            answers=sorted(by_number[_number(number)]),
        )


def _number(name: str) -> int | str:
    found = _NUMBER.search(name)
    return int(found[1]) if found else name


def ask(row: Prediction) -> str:
    """What the judge is asked."""
    return PROMPT.format(answer=row.text)


def read_verdict(text: str) -> tuple[list[float], list[str]] | None:
    """The names in the judge's list; None where it wrote something else."""
    start, end = text.find("["), text.rfind("]")
    try:
        names = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return [], names


def _object(phrase: str, vocabulary: Vocabulary) -> str | None:
    """The object that a phrase ends in: "wooden chair" is a chair."""
    words = phrase.split()
    found = (vocabulary.canonical(" ".join(words[start:])) for start in range(len(words)))
    return next((name for name in found if name is not None), None)


def measure(benchmark: ObjectHal, rows: Sequence[Prediction], verdicts: Verdicts) -> Measure:
    """CHAIR's figures; what the judge reads out and the vocabulary lacks is not counted."""
    vocabulary = read_vocabulary(benchmark.synonyms)

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        each = []
        for row in answers:
            names = [_object(name, vocabulary) for name in verdicts[verdict_id(row)].names]
            mentions = sorted({name for name in names if name is not None})  # once each, as the benchmark has it
            each.append(captions.counts(mentions, num_tokens=row.num_tokens, objects=frozenset(row.answers)))
        return captions.total(each)

    return Measure(count=count, figures=captions.figures, main=captions.MAIN, less_is_better=captions.LESS_IS_BETTER)
