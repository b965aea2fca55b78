"""ChartQA (Masry et al. 2022): relaxed accuracy, the mean over its human and augmented questions."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from stic_ray.config import ChartQa
from stic_ray.evaluate.answers import relaxed_match
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, category, mean_of
from stic_ray.evaluate.rows import json_list
from stic_ray.records import Prediction


def read(benchmark: ChartQa) -> Iterator[Item]:
    """The questions of every kind; the category is the kind. They have no ids of their own: the key is their place."""
    for kind, uri in benchmark.questions.items():
        for number, row in enumerate(json_list(uri, ())):
            yield Item(
                key=f"{kind}-{number}",
                text=row.text("query"),
                image=row.text("imgname"),
                image_uri=row.image("imgname", benchmark.images),
                answers=[row.text("label")],
                category=kind,
            )


def measure(benchmark: ChartQa, rows: Sequence[Prediction]) -> Measure:
    """Relaxed accuracy of each kind, and their plain mean, as published figures have it."""
    by_kind = mean_of(lambda row: relaxed_match(row.text, row.answers[0]), rows, by={"kind": category})
    kinds = [f"kind/{kind}" for kind in benchmark.questions]

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        found = by_kind.figures(sums_XS)
        return found | {"accuracy": np.mean([found[kind] for kind in kinds if kind in found], axis=0)}

    return replace(by_kind, figures=figures)
