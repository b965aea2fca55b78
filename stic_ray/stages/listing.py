"""Listing: every image of the source by name, unopened. One worker walks the source and writes as it goes."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray

from stic_ray import artifacts, sources, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, ImageSource, to_tree
from stic_ray.flow import finish_stage, on_worker, stream_from_worker
from stic_ray.progress import Progress
from stic_ray.records import Found

CODE_VERSION = 1
_ROWS_PER_FILE = 4096


def plan(config: Config, source: ImageSource) -> Plan:
    """The artifact of the names of a source's images."""
    tree = to_tree(source)
    identity: dict[str, Any] = {"source": {**tree, "version": sources.images_version(source)}}
    if source.sample is not None:
        identity["seed"] = config.seed
    return Plan(stage="listing", code_version=CODE_VERSION, identity=identity, kind=Found.__name__)


def run(config: Config, source: ImageSource, plan: Plan) -> Artifact:
    """Make the artifact; an interrupted run starts the listing again."""
    start = time.monotonic()
    uri = storage.join(config.store, plan.name)
    with Progress(plan.stage, total=None) as progress:
        for num_rows in stream_from_worker(config.execution, _walk, uri, source, config.seed):
            progress.add(num_rows, Counter())
    ray.get(on_worker(config.execution, artifacts.remove_duplicates, uri, "id"))
    return finish_stage(
        store=config.store,
        plan=plan,
        num_units=artifacts.count(uri)["rows"],
        figures={"seconds": round(time.monotonic() - start, 3)},
        max_reject_rate=0.0,
    )


def _walk(uri: str, source: ImageSource, seed: int) -> Iterator[int]:
    """Write the listing in pieces; yields how many images each holds."""
    images = sources.list_images(source, seed)
    while piece := list(itertools.islice(images, _ROWS_PER_FILE)):
        artifacts.write_rows(uri, piece, Found, [])
        yield len(piece)
