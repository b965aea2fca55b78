"""Images: list the source, hash every file, reject exact duplicates (the smallest id stays) and unreadable files."""

import time
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray.data

from stic_ray import artifacts, sources, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, to_tree
from stic_ray.flow import finish_stage
from stic_ray.images import BadImageError, decode, hash_bytes
from stic_ray.records import ImageRef, Reject, from_table, schema
from stic_ray.sources import Found

CODE_VERSION = 2


def plan(config: Config) -> Plan:
    """The artifact of the unlabeled images of this run."""
    source = to_tree(config.unlabeled)
    identity: dict[str, Any] = {"source": {**source, "version": sources.images_version(config.unlabeled)}}
    if config.unlabeled.sample is not None:
        identity["seed"] = config.seed
    return Plan(stage="images", code_version=CODE_VERSION, identity=identity, kind=ImageRef.__name__)


def run(config: Config, plan: Plan) -> Artifact:
    """Make the artifact. It is small and read-only work: an interrupted run starts it again from the listing."""
    start = time.monotonic()
    found = sources.list_images(config.unlabeled, config.seed)
    table = pa.Table.from_pylist([asdict(image) for image in found], schema=schema(Found))
    step = config.execution.batch_size
    blocks = [table.slice(offset, step) for offset in range(0, table.num_rows, step)]
    probed = ray.data.from_arrow(blocks).map_batches(
        _probe, batch_format="pyarrow", batch_size=step, num_cpus=config.execution.task_cpus
    )
    by_id = {ref.id: ref for ref in from_table(pa.concat_tables(ray.get(probed.to_arrow_refs())), ImageRef)}
    refs = [by_id[image.id] for image in found]  # images of one file together, so that it is read once
    kept, rejects = _deduplicate(refs)
    uri = storage.join(config.store, plan.name)
    for offset in range(0, len(kept), config.execution.rows_per_file):
        artifacts.write_rows(uri, kept[offset : offset + config.execution.rows_per_file], ImageRef, [])
    artifacts.write_rows(uri, [], ImageRef, rejects)
    artifacts.remove_duplicates(uri, "id")
    return finish_stage(
        store=config.store,
        plan=plan,
        num_units=len(found),
        seconds=time.monotonic() - start,
        max_reject_rate=config.execution.max_reject_rate,
    )


def _probe(table: pa.Table) -> pa.Table:
    rows = []
    for found in from_table(table, Found):
        content, size, error = "", 0, found.error
        try:
            if not error:
                data = sources.read_image(found.uri)
                content, size = hash_bytes(data), len(data)
                decode(data)
        except BadImageError as bad:
            error = str(bad)
        rows.append(
            asdict(
                ImageRef(id=found.id, key=found.key, uri=found.uri, content_hash=content, num_bytes=size, error=error)
            )
        )
    return pa.Table.from_pylist(rows, schema=schema(ImageRef))


def _deduplicate(refs: list[ImageRef]) -> tuple[list[ImageRef], list[Reject]]:
    smallest: dict[str, str] = {}
    for ref in refs:
        smallest[ref.content_hash] = min(ref.id, smallest.get(ref.content_hash, ref.id))
    kept = []
    rejects = []
    for ref in refs:
        if ref.error:
            rejects.append(Reject(id=ref.id, stage="images", reason=ref.error))
        elif smallest[ref.content_hash] != ref.id:
            rejects.append(Reject(id=ref.id, stage="images", reason="duplicate of another image's bytes"))
        else:
            kept.append(ref)
    return kept, rejects
