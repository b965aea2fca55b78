"""Samples: read the instruction data once, keep m of them, reject the malformed with a reason."""

import time
from typing import Any

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, Instructions, to_tree
from stic_ray.exchange import incoming
from stic_ray.flow import finish_stage
from stic_ray.records import Sample

CODE_VERSION = 2


def plan(config: Config, source: Instructions) -> Plan:
    """The artifact of the samples of a source."""
    tree = to_tree(source)
    identity: dict[str, Any] = {"source": {**tree, "version": incoming.instructions_version(source)}}
    if source.sample is not None:
        identity["seed"] = config.seed
    return Plan(stage="samples", code_version=CODE_VERSION, identity=identity, kind=Sample.__name__)


def run(config: Config, source: Instructions, plan: Plan) -> Artifact:
    """Make the artifact; samples of one image stand together in a file."""
    start = time.monotonic()
    samples, rejects = incoming.read_instructions(source, config.seed)
    if not samples and not rejects:
        raise ValueError(f"{source.uri} holds no sample: give another file")
    if source.category and samples and not any(sample.category for sample in samples):
        raise ValueError(f"category {source.category!r}: no sample of {source.uri} has such a field: mend the name")
    uri = storage.join(config.store, plan.name)
    step = config.execution.rows_per_file
    for offset in range(0, len(samples), step):
        artifacts.write_rows(uri, samples[offset : offset + step], Sample, [])
    artifacts.write_rows(uri, [], Sample, rejects)
    artifacts.remove_duplicates(uri, "id")
    return finish_stage(
        store=config.store,
        plan=plan,
        num_units=len(samples) + len(rejects),
        figures={"seconds": round(time.monotonic() - start, 3)},
        max_reject_rate=config.execution.max_reject_rate,
    )
