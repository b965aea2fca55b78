"""Imported pairs: preference data that is there already, in another tool's format. One worker reads the files and
writes as it goes, since only their order says where a record begins; a bad record is a reject that names file and line.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator

import ray

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, ImportedPairs, to_tree
from stic_ray.exchange import incoming
from stic_ray.flow import finish_stage, on_worker, stream_from_worker
from stic_ray.progress import Progress
from stic_ray.records import Pair, Reject, reason_kind

CODE_VERSION = 2


def plan(source: ImportedPairs) -> Plan:
    """The artifact of the pairs of a source."""
    version = source.version or incoming.version(source.uri, source.images)
    identity = {"source": {**to_tree(source), "version": version}}
    return Plan(stage="imported_pairs", code_version=CODE_VERSION, identity=identity, kind=Pair.__name__)


def run(config: Config, source: ImportedPairs, plan: Plan) -> Artifact:
    """Make the artifact; an interrupted run reads from the start again, and writes the same files."""
    start = time.monotonic()
    uri = storage.join(config.store, plan.name)
    num_units, first = 0, ""
    with Progress(plan.stage, total=None) as progress:
        execution = config.execution
        for written in stream_from_worker(execution, _read, uri, source, execution.rows_per_file):
            number, reasons, example = json.loads(written)
            num_units += number
            first = first or example
            progress.add(number, Counter(reasons))
    if not num_units:
        raise ValueError(f"imported.uri {source.uri} holds no record: give another file")
    ray.get(on_worker(config.execution, artifacts.remove_duplicates, uri, "id"))
    try:
        return finish_stage(
            store=config.store,
            plan=plan,
            num_units=num_units,
            figures={"seconds": round(time.monotonic() - start, 3)},
            max_reject_rate=config.execution.max_reject_rate,
        )
    except ValueError as error:
        raise ValueError(f"{error}. The first is {first}" if first else str(error)) from None


def _read(uri: str, source: ImportedPairs, rows_per_file: int) -> Iterator[str]:
    """Write the pairs in pieces; yields how many each holds, its rejects by reason and the first of them, as JSON."""
    found = incoming.read_pairs(source)
    while piece := list(itertools.islice(found, rows_per_file)):
        rejects = [row for row in piece if isinstance(row, Reject)]
        artifacts.write_rows(uri, [row for row in piece if isinstance(row, Pair)], Pair, rejects)
        first = rejects[0].reason if rejects else ""
        yield json.dumps([len(piece), Counter(reason_kind(row.reason) for row in rejects), first])
