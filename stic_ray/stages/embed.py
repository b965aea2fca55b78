"""Embeddings: each image of a listing as a vector, by the model's own vision tower."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa

from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, Model
from stic_ray.engines import start_embedder
from stic_ray.engines.protocol import Embedder
from stic_ray.flow import UNIT, Inputs, Outcome, Prepared, Task, Unit, Work, read_image, run_stage
from stic_ray.records import Embedding, make_id

CODE_VERSION = 1
NOT_FINITE = "its vector is not finite: the model's weights or its dtype are at fault"


def plan(images: Artifact, model: Model, fingerprint: str) -> Plan:
    """The artifact of the embeddings of what a listing or an artifact of images names, by a model with this
    fingerprint."""
    return Plan(
        stage="embeddings",
        code_version=CODE_VERSION,
        identity={"dtype": model.dtype},
        parents={"images": images.fingerprint, "model": fingerprint},
        kind=Embedding.__name__,
    )


def run(config: Config, images: Artifact, model: Model, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row an image."""
    work = Work(
        record=Embedding,
        input_column="image_id",
        prepare=_read,
        worker=ImageEmbedder,
        worker_arguments={
            "start": partial(start_embedder, model_uri=model.path, dtype=model.dtype),
            "source": f"{images.record['stage']}-{images.fingerprint}",
        },
    )
    inputs = Inputs(parent=images, column="id", read=_units)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


def _units(rows: pa.Table) -> pa.Table:
    """A unit an image; the payload is why it is not even read, "" where it is."""
    return pa.table([rows.column("id"), rows.column("uri"), rows.column("error")], schema=UNIT)


def _read(unit: Unit) -> Prepared:
    if unit.payload:
        return Prepared(id=unit.id, images=[], payload="", reason=unit.payload)
    return read_image(unit)


class ImageEmbedder:
    """An actor's work: all images of a batch through one embedder, which `start` loads."""

    def __init__(self, *, start: Callable[[], Embedder], source: str) -> None:
        self._embedder = start()
        self._source = source

    def figures(self) -> Mapping[str, float]:
        """The embedder's."""
        return self._embedder.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """The vector of every image, or the reason why there is none."""
        vectors = self._embedder.embed([task.images[0] for task in tasks])
        return [self._outcome(task.id, vector) for task, vector in zip(tasks, vectors, strict=True)]

    def _outcome(self, image_id: str, vector: list[float]) -> Outcome:
        if not all(map(math.isfinite, vector)):
            return Outcome(id=image_id, rows=[], reason=NOT_FINITE)
        key = make_id("embedding", self._source, image_id)
        row = Embedding(id=key, image_id=image_id, source=self._source, vector=vector)
        return Outcome(id=image_id, rows=[row], reason="")
