"""Unique images: of images that are the same the one with the smallest id stays, the others are rejects.

Whether an image has a twin needs every image's hash: 40 bytes each on one worker, never in the driver.
"""

import itertools
import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from stic_ray import artifacts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, NearDuplicates, to_tree
from stic_ray.flow import UNIT, Inputs, Outcome, TaskWork, Unit, on_worker, run_stage
from stic_ray.records import ImageRef

CODE_VERSION = 2
EXACT = "duplicate of another image's bytes"
NEAR = "looks like another image, up to duplicates.max_distance"
_PAIRS_AT_ONCE = 1 << 22
_Array = np.ndarray[Any, Any]


def plan(config: Config, images: str, hashes: str) -> Plan:
    """The artifact of the images without their duplicates; `images` and `hashes` ("": none) are the parents'."""
    near = isinstance(config.duplicates, NearDuplicates)
    parents = {"images": images, **({"hashes": hashes} if near else {})}
    identity = {"duplicates": to_tree(config.duplicates)} if near else {}
    return Plan(stage="unique", code_version=CODE_VERSION, identity=identity, parents=parents, kind=ImageRef.__name__)


def run(config: Config, images: Artifact, hashes: Artifact | None, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row an image."""
    exact = on_worker(config.execution, _find_exact, artifacts.data_files(images.uri))
    near = ray.put(_NONE)
    if hashes is not None and isinstance(config.duplicates, NearDuplicates):
        files = artifacts.data_files(hashes.uri)
        near = on_worker(config.execution, _find_near, files, exact, config.duplicates.max_distance)
    return run_stage(
        store=config.store,
        plan=plan,
        work=TaskWork(record=ImageRef, input_column="id", do=Keep(exact=exact, near=near)),
        inputs=Inputs(parent=images, column="id", read=_units),
        execution=replace(config.execution, max_reject_rate=1.0),  # a duplicate is no fault of the input
    )


_NONE = np.empty(0, dtype="S16")


def _find_exact(files: list[str]) -> _Array:
    """The ids, packed and sorted, of all images but the first by id of each content."""
    ids = np.concatenate([_NONE, *artifacts.input_ids(files, "id")])
    contents = np.concatenate([_NONE, *artifacts.input_ids(files, "content_hash")])
    order = np.lexsort((ids, contents))
    again = np.zeros(len(ids), dtype=bool)
    again[1:] = contents[order][1:] == contents[order][:-1]
    return np.unique(ids[order][again])


def _find_near(files: list[str], exact: _Array, max_distance: int) -> _Array:
    """The ids, packed and sorted, of images that are near to a kept one with a smaller id; exact ones are left out."""
    tables = [artifacts.read_file(file, ["id", "bits"]) for file in files]
    ids = np.concatenate([_NONE, *(artifacts.packed_ids(table.column("id")) for table in tables)])
    bits = np.array([int(text, 16) for table in tables for text in table.column("bits").to_pylist()], dtype=np.uint64)
    kept = ~artifacts.are_in(ids, exact)
    ids, bits = ids[kept], bits[kept]
    order = np.argsort(ids)
    return np.sort(ids[order][near_to_an_earlier(bits[order], max_distance)])


def near_to_an_earlier(bits: _Array, max_distance: int) -> _Array:
    """Which hashes (uint64) differ in at most `max_distance` bits from an earlier one that is not such a one itself."""
    different, first = np.unique(bits, return_index=True)
    dropped = np.ones(len(bits), dtype=bool)
    dropped[first] = False
    different = different[np.argsort(first)]
    later: dict[int, list[int]] = {}
    for one, other in _near_pairs(different, max_distance):
        later.setdefault(one, []).append(other)
    places = np.sort(first)
    gone = np.zeros(len(different), dtype=bool)
    for one in sorted(later):
        if not gone[one]:
            gone[later[one]] = True
    dropped[places[gone]] = True
    return dropped


def _near_pairs(bits: _Array, max_distance: int) -> set[tuple[int, int]]:
    """Pairs i < j within the distance. Cut into one part more than the distance, two such hashes share a part."""
    found: set[tuple[int, int]] = set()
    edges = np.linspace(0, 64, max_distance + 2).astype(int)
    for start, stop in itertools.pairwise(edges):
        part = (bits >> np.uint64(start)) & np.uint64((1 << int(stop - start)) - 1)
        order = np.argsort(part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        for group in np.split(order, cuts):
            step = max(1, _PAIRS_AT_ONCE // len(group))
            for offset in range(0, len(group) if len(group) > 1 else 0, step):
                some = group[offset : offset + step]
                near = np.bitwise_count(bits[some][:, None] ^ bits[group][None, :]) <= max_distance
                ones, others = np.nonzero(near & (some[:, None] < group[None, :]))
                found.update(zip(some[ones].tolist(), group[others].tolist(), strict=True))
    return found


@dataclass(frozen=True, kw_only=True)
class Keep:
    """CPU work of a unit: the image as it is, unless it is `exact`ly or `near`ly another one (references to ids)."""

    exact: Any
    near: Any

    def __call__(self, unit: Unit) -> Outcome:
        """The image's row, or a reject."""
        packed = np.array([bytes.fromhex(unit.id)], dtype="S16")
        for ids, reason in ((self.exact, EXACT), (self.near, NEAR)):
            if artifacts.are_in(packed, _fetch(ids))[0]:
                return Outcome(id=unit.id, rows=[], reason=reason)
        return Outcome(id=unit.id, rows=[ImageRef(**json.loads(unit.payload))], reason="")


@cache  # by worker: an image each would ask for them again
def _fetch(ids: Any) -> _Array:
    found: _Array = ray.get(ids)
    return found


def _units(rows: pa.Table) -> pa.Table:
    payloads = [json.dumps(row) for row in rows.to_pylist()]
    return pa.table([rows.column("id"), rows.column("uri"), payloads], schema=UNIT)
