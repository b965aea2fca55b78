"""The flow that every distributed stage shares: pending units -> CPU preparation -> actor pool -> whole files.

A *unit* is what a stage finishes as one (an image with its requests, a pair): its rows never part, so that the ids
in the committed files say exactly which units are done. The output is the checkpoint.
"""

import gc
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from stic_ray import artifacts, sources, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Execution
from stic_ray.images import BadImageError, decode
from stic_ray.progress import Progress
from stic_ray.records import Reject, from_table, schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What goes in: an id, the image it needs ("" for none) and whatever else, as JSON."""

    id: str
    image_uri: str
    payload: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A unit after its CPU work: encoded images and a JSON payload, or the reason why it cannot go on."""

    id: str
    images: list[bytes]
    payload: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a unit: its rows, or the reason why there are none."""

    id: str
    rows: list[Any]
    reason: str


UNIT = schema(Unit)
PREPARED = pa.schema(
    [("id", pa.string()), ("images", pa.list_(pa.binary())), ("payload", pa.string()), ("reason", pa.string())]
)

Worker = Callable[[list[Prepared]], list[Outcome]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a stage does its units: `prepare` on CPUs beside the actors; `worker(**worker_arguments)` is an actor's
    callable that holds the model. `input_column` names the column of `record` that holds the unit's id. Without
    `on_gpu` the actors ask for none of the pool's GPUs."""

    record: type
    input_column: str
    prepare: Callable[[Unit], Prepared]
    worker: type
    worker_arguments: dict[str, Any]
    on_gpu: bool = True


def read_image(unit: Unit) -> Prepared:
    """CPU work of a unit whose image goes to the model as it is: its bytes, proven to decode."""
    if not unit.image_uri:
        return Prepared(id=unit.id, images=[], payload=unit.payload, reason="")
    try:
        data = sources.read_image(unit.image_uri)
        decode(data)
    except BadImageError as error:
        return Prepared(id=unit.id, images=[], payload="", reason=str(error))
    return Prepared(id=unit.id, images=[data], payload=unit.payload, reason="")


def run_stage(*, store: str, plan: Plan, work: Work, units: Sequence[Unit], execution: Execution) -> Artifact:
    """Do every unit that is not yet in the artifact and commit it. The caller holds the artifact's lease.

    Raises:
        ValueError: more rejects than `execution.max_reject_rate` allows.
    """
    uri = storage.join(store, plan.name)
    start = time.monotonic()
    done = artifacts.done_inputs(uri, work.input_column)
    pending = [unit for unit in units if unit.id not in done]
    if done:
        logger.info("%s: %d of %d units stand from an earlier run", plan.stage, len(done), len(units))
    if pending:
        with Progress(plan.stage, total=len(units), done=len(done)) as progress:
            for report in _stream(uri, plan.stage, work, pending, execution):
                progress.add(int(report["units"]), Counter(json.loads(str(report["reasons"]))))
    artifacts.remove_duplicates(uri, work.input_column)
    lost = {unit.id for unit in units} - artifacts.done_inputs(uri, work.input_column)
    if lost:
        raise RuntimeError(f"{plan.stage}: {len(lost)} units came out as neither output nor reject, like {min(lost)}")
    return finish_stage(
        store=store,
        plan=plan,
        num_units=len(units),
        seconds=time.monotonic() - start,
        max_reject_rate=execution.max_reject_rate,
    )


def finish_stage(*, store: str, plan: Plan, num_units: int, seconds: float, max_reject_rate: float) -> Artifact:
    """Check what came out and write the record.

    Raises:
        ValueError: more of the inputs were rejected than `max_reject_rate` allows, or all of them.
    """
    uri = storage.join(store, plan.name)
    rejects = artifacts.read_rejects(uri)
    if rejects and (len(rejects) > max_reject_rate * num_units or not artifacts.data_files(uri)):
        reason, count = Counter(reject.reason for reject in rejects).most_common(1)[0]
        storage.remove(storage.join(uri, "rejects"))  # so that the same command tries them again when they are mended
        raise ValueError(
            f"{plan.stage}: {len(rejects)} of {num_units} inputs were rejected, most often: {reason} ({count}). Mend "
            f"the inputs; up to {max_reject_rate:.0%} are accepted (execution.max_reject_rate), but never all"
        )
    rate = round(num_units / max(seconds, 1e-9), 3)
    return artifacts.commit(store, plan, {"inputs": num_units, "seconds": round(seconds, 3), "inputs_per_s": rate})


def _stream(uri: str, stage: str, work: Work, pending: list[Unit], execution: Execution) -> Iterator[dict[str, Any]]:
    """Run the units through Ray Data; yields a small report for each written file."""
    batch = execution.batch_size
    pool = execution.pool
    num_gpus = pool.num_gpus if work.on_gpu else 0.0
    table = pa.Table.from_pylist([asdict(unit) for unit in pending], schema=UNIT)
    blocks = [table.slice(start, batch) for start in range(0, table.num_rows, batch)]
    prepared = ray.data.from_arrow(blocks).map_batches(
        _prepare_batch,
        fn_args=(work.prepare,),
        batch_size=batch,
        batch_format="pyarrow",
        num_cpus=execution.task_cpus,
    )
    answered = prepared.map_batches(
        _Actor,
        fn_constructor_args=(work.worker, work.worker_arguments, work.record, pool.num_cpus, num_gpus),
        batch_size=batch,
        batch_format="pyarrow",
        num_cpus=pool.num_cpus,
        num_gpus=num_gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size,
            max_concurrent_calls_per_actor=pool.concurrent_batches,
            enable_true_multi_threading=pool.concurrent_batches > 1,
        ),
    )
    reports = answered.map_batches(
        _write_batch,
        fn_args=(uri, stage, work.record),
        batch_size=execution.rows_per_file,
        batch_format="pyarrow",
        num_cpus=execution.task_cpus,
    )
    yield from reports.iter_rows()


def _prepare_batch(table: pa.Table, prepare: Callable[[Unit], Prepared]) -> pa.Table:
    prepared = [prepare(unit) for unit in from_table(table, Unit)]
    return pa.Table.from_pylist([asdict(row) for row in prepared], schema=PREPARED)


class _Actor:
    """An actor of the pool: holds the stage's worker, turns prepared units into outcomes."""

    def __init__(self, worker: type, arguments: dict[str, Any], record: type, num_cpus: float, num_gpus: float) -> None:
        if num_gpus == 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what was not asked for is not used
            import torch

            torch.set_num_threads(max(1, int(num_cpus)))
        gc.disable()  # imports and weights are no garbage: to look for it among them takes a sixth of the start
        self._work: Worker = worker(**arguments)
        gc.freeze()
        gc.enable()
        self._schema = pa.schema(
            [("id", pa.string()), ("rows", pa.list_(pa.struct(list(schema(record))))), ("reason", pa.string())]
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        prepared = [Prepared(**row) for row in table.to_pylist()]
        outcomes = [Outcome(id=p.id, rows=[], reason=p.reason) for p in prepared if p.reason]
        fine = [p for p in prepared if not p.reason]
        if fine:
            outcomes += self._work(fine)
        return pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=self._schema)


def _write_batch(table: pa.Table, uri: str, stage: str, record: type) -> pa.Table:
    """Commit a block's units as one data file and one reject file; reports how many, and why some failed."""
    reasons = table.column("reason").to_pylist()
    rejects = [
        Reject(id=i, stage=stage, reason=r) for i, r in zip(table.column("id").to_pylist(), reasons, strict=True) if r
    ]
    flat = pc.list_flatten(table.column("rows"))
    rows = from_table(pa.Table.from_pylist(flat.to_pylist(), schema=schema(record)), record)
    artifacts.write_rows(uri, rows, record, rejects)
    counts = json.dumps(Counter(reason for reason in reasons if reason))
    return pa.table({"units": [table.num_rows], "reasons": [counts]})
