"""So many of the images of an artifact, drawn by their ids: the same whoever draws, in whatever order they stand."""

import heapq
import time
from typing import Any

import ray

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config
from stic_ray.flow import finish_stage, on_worker
from stic_ray.records import ImageRef, make_id

CODE_VERSION = 1


def plan(config: Config, images: Artifact, sample: int) -> Plan:
    """The artifact of `sample` of the images, of all where there are fewer."""
    identity: dict[str, Any] = {"sample": sample, "seed": config.seed}
    parents = {"images": images.fingerprint}
    return Plan(
        stage="drawn_images", code_version=CODE_VERSION, identity=identity, parents=parents, kind=ImageRef.__name__
    )


def run(config: Config, images: Artifact, plan: Plan) -> Artifact:
    """Make the artifact, on one worker."""
    start = time.monotonic()
    uri = storage.join(config.store, plan.name)
    ray.get(on_worker(config.execution, _draw, images.uri, uri, plan.identity))
    return finish_stage(
        store=config.store,
        plan=plan,
        num_units=images.num_rows,
        figures={"seconds": round(time.monotonic() - start, 3)},
        max_reject_rate=0.0,
    )


def _draw(images: str, uri: str, identity: dict[str, Any]) -> None:
    every = (row for rows in artifacts.iterate(images, ImageRef) for row in rows)
    drawn = heapq.nsmallest(identity["sample"], every, key=lambda row: make_id("sample", identity["seed"], row.id))
    artifacts.write_rows(uri, sorted(drawn, key=lambda row: row.id), ImageRef, [])
