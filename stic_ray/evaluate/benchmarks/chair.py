"""CHAIR (Rohrbach et al. 2018): objects that a description names and the image lacks."""

from collections.abc import Iterator, Sequence

from stic_ray.config import Chair
from stic_ray.evaluate.benchmarks import captions
from stic_ray.evaluate.coco_annotations import read_objects
from stic_ray.evaluate.coco_objects import read_vocabulary
from stic_ray.evaluate.measures import Item, Measure
from stic_ray.evaluate.objects import Vocabulary
from stic_ray.evaluate.rows import Row
from stic_ray.records import Prediction


def read(benchmark: Chair) -> Iterator[Item]:
    """The prompt for every image whose objects are known; the answers are these objects."""
    found = read_objects(benchmark.objects, read_vocabulary(benchmark.synonyms), captions=benchmark.captions)
    for name, objects in found.items():
        yield Item(
            key=name,
            text=benchmark.prompt,
            image=name,
            image_uri=Row(benchmark.objects, "", {"image": name}).image("image", benchmark.images),
            answers=sorted(objects),
        )


def measure(benchmark: Chair, rows: Sequence[Prediction]) -> Measure:
    """CHAIR's figures, recall and length."""
    vocabulary = read_vocabulary(benchmark.synonyms)

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        return captions.total([_counts(row, vocabulary) for row in answers])

    return Measure(count=count, figures=captions.figures, main=captions.MAIN, less_is_better=captions.LESS_IS_BETTER)


def _counts(row: Prediction, vocabulary: Vocabulary) -> tuple[float, ...]:
    mentions = vocabulary.mentions(row.text)
    return captions.counts(mentions, num_tokens=row.num_tokens, objects=frozenset(row.answers))
