"""Images: read and hash every listed file; what cannot be read or decoded is a reject with its reason."""

import json

import pyarrow as pa

from stic_ray import sources
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config
from stic_ray.flow import UNIT, Inputs, Outcome, TaskWork, Unit, run_stage
from stic_ray.images import BadImageError, decode, hash_bytes
from stic_ray.records import ImageRef

CODE_VERSION = 3


def plan(listing: str) -> Plan:
    """The artifact of the images that can be read; `listing` is the parent's fingerprint."""
    parents = {"listing": listing}
    return Plan(stage="images", code_version=CODE_VERSION, identity={}, parents=parents, kind=ImageRef.__name__)


def run(config: Config, listing: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row an image."""
    return run_stage(
        store=config.store,
        plan=plan,
        work=TaskWork(record=ImageRef, input_column="id", do=_probe),
        inputs=Inputs(parent=listing, column="id", read=_units),
        execution=config.execution,
    )


def _units(rows: pa.Table) -> pa.Table:
    told = zip(rows.column("key").to_pylist(), rows.column("error").to_pylist(), strict=True)
    return pa.table([rows.column("id"), rows.column("uri"), [json.dumps(pair) for pair in told]], schema=UNIT)


def _probe(unit: Unit) -> Outcome:
    key, error = json.loads(unit.payload)
    if error:
        return Outcome(id=unit.id, rows=[], reason=error)
    try:
        data = sources.read_image(unit.image_uri)
        decode(data)
    except BadImageError as bad:
        return Outcome(id=unit.id, rows=[], reason=str(bad))
    row = ImageRef(id=unit.id, key=key, uri=unit.image_uri, content_hash=hash_bytes(data), num_bytes=len(data))
    return Outcome(id=unit.id, rows=[row], reason="")
