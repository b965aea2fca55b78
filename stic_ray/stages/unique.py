"""Unique images: of images with the very same bytes the one with the smallest id stays, the others are rejects.

Whether an image has a twin needs every image's hash: 32 bytes each on one worker, never in the driver.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from stic_ray import artifacts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config
from stic_ray.flow import UNIT, Inputs, Outcome, TaskWork, Unit, on_worker, run_stage
from stic_ray.records import ImageRef

CODE_VERSION = 1
EXACT = "duplicate of another image's bytes"


def plan(images: str) -> Plan:
    """The artifact of the images without their duplicates; `images` is the parent's fingerprint."""
    parents = {"images": images}
    return Plan(stage="unique", code_version=CODE_VERSION, identity={}, parents=parents, kind=ImageRef.__name__)


def run(config: Config, images: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row an image."""
    twins = on_worker(config.execution, _find_twins, artifacts.data_files(images.uri))
    return run_stage(
        store=config.store,
        plan=plan,
        work=TaskWork(record=ImageRef, input_column="id", do=Keep(twins=twins)),
        inputs=Inputs(parent=images, column="id", read=_units),
        execution=config.execution,
    )


def _find_twins(files: list[str]) -> "np.ndarray[Any, Any]":
    """The ids, packed and sorted, of all images but the first by id of each content."""
    ids = np.concatenate([np.empty(0, dtype="S16"), *artifacts.input_ids(files, "id")])
    contents = np.concatenate([np.empty(0, dtype="S16"), *artifacts.input_ids(files, "content_hash")])
    order = np.lexsort((ids, contents))
    again = np.zeros(len(ids), dtype=bool)
    again[1:] = contents[order][1:] == contents[order][:-1]
    return np.unique(ids[order][again])


@dataclass(frozen=True, kw_only=True)
class Keep:
    """CPU work of a unit: the image as it is, unless it is one of the `twins` (a reference to their packed ids)."""

    twins: Any

    def __call__(self, unit: Unit) -> Outcome:
        """The image's row, or a reject."""
        if artifacts.are_in(np.array([bytes.fromhex(unit.id)], dtype="S16"), ray.get(self.twins))[0]:
            return Outcome(id=unit.id, rows=[], reason=EXACT)
        return Outcome(id=unit.id, rows=[ImageRef(**json.loads(unit.payload))], reason="")


def _units(rows: pa.Table) -> pa.Table:
    payloads = [json.dumps(row) for row in rows.to_pylist()]
    return pa.table([rows.column("id"), rows.column("uri"), payloads], schema=UNIT)
