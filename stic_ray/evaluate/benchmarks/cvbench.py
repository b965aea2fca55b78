"""CV-Bench (Tong et al. 2024): counts, relations, depth and distance, as multiple choice."""

from collections.abc import Iterator, Sequence

import numpy as np

from stic_ray.config import CvBench
from stic_ray.evaluate.benchmarks import choices
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, category, group, mean_of
from stic_ray.evaluate.rows import parquet_rows
from stic_ray.records import Prediction

_PARTS = {"2D": ("ADE20K", "COCO"), "3D": ("Omni3D",)}  # and the sources whose accuracies each is the mean of


def read(benchmark: CvBench) -> Iterator[Item]:
    """The questions of every part; the category is the task, the group the source of the image."""
    for part, uri in benchmark.questions.items():
        seen = set[str]()
        for location, row in parquet_rows(uri, "image"):
            if row.key("idx") in seen:
                row.fail("idx", "different from every row's before")
            seen.add(row.key("idx"))
            options = row.texts("choices")
            answer = row.text("answer").strip("() ")
            if answer not in list(choices.LETTERS[: len(options)]):
                row.fail("answer", f"one of {', '.join(f'({letter})' for letter in choices.LETTERS[: len(options)])}")
            yield Item(
                key=f"{part}-{row.key('idx')}",
                text=choices.write(row.text("question"), options),
                image=f"{part}-{row.key('idx')}",
                image_uri=location,
                answers=[answer],
                choices=options,
                category=row.text("task"),
                group=row.text("source"),
            )


def measure(benchmark: CvBench, rows: Sequence[Prediction]) -> Measure:
    """The accuracy of each part is the mean over its sources', and `accuracy` the mean over the parts."""
    plain = mean_of(choices.is_correct, rows, by={"task": category, "source": group})

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        found = plain.figures(sums_XS)
        parts = {}
        for part, sources in _PARTS.items():
            values = [found[f"source/{source}"] for source in sources if f"source/{source}" in found]
            if values:
                parts[part] = np.mean(values, axis=0)
        whole = {"accuracy": np.mean(list(parts.values()), axis=0)} if parts else {}
        return found | parts | whole

    main = {"accuracy": "accuracy", **{part: part for part in benchmark.questions if part in _PARTS}}
    return Measure(count=plain.count, figures=figures, main=main)
