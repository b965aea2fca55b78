"""The flow that every distributed stage shares: a parent's files -> units -> CPU preparation -> actors -> whole files.

A *unit* is what a stage finishes as one (an image with its requests, a pair): its rows never part, so that the ids
in the committed files say exactly which units are done. The output is the checkpoint. The driver holds file names and
counts only: ids (16 bytes each) and rows stay on workers.
"""

import gc
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from PIL import Image

from stic_ray import artifacts, leases, sources, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.attempts import Attempt
from stic_ray.config import Execution, Pool
from stic_ray.images import BadImageError, decode
from stic_ray.ledger import PREPARE, WORK, Book, Guard, State, open_book
from stic_ray.masking import masked
from stic_ray.metrics import Queue, Rent, StageMeter, Told
from stic_ray.progress import Progress
from stic_ray.records import Reject, from_table, schema, to_table
from stic_ray.standing import PROGRESS, ProgressNote, Ticker

logger = logging.getLogger(__name__)
_BLOCK_BYTES = 4 << 20  # of encoded images between two operators
_FILES_PER_TASK = 64  # whose ids are read by one task
MAX_UNITS_PER_TASK = 4096  # that are read and done by one task
TASKS_PER_CPU = 4  # at least so many, where there are units enough
_BATCHES_PER_TASK = 4  # that are read and prepared by one task, and lost with an actor
_LIGHT_BATCH = 512  # units: who takes so many at once has light ones, and a step of Ray Data takes a tenth of a second
_LIGHT_BATCHES_PER_TASK = 16
_DONE_AT_ONCE = 256  # by CPUs alone: rows, no images


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
class Task:
    """A prepared unit as a worker gets it, its images decoded."""

    id: str
    images: list[Image.Image]
    payload: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a unit: its rows, or the reason why there are none.

    `refused` are parts of it that gave no row while others did, by id: rejects with a reason each.
    """

    id: str
    rows: list[Any]
    reason: str
    refused: Mapping[str, str] = field(default_factory=dict)


UNIT = schema(Unit)
PREPARED = pa.schema(
    [("id", pa.string()), ("images", pa.list_(pa.binary())), ("payload", pa.string()), ("reason", pa.string())]
)


class Worker(Protocol):
    """What an actor holds: a model, mostly."""

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One outcome a task, in any order."""
        ...

    def figures(self) -> Mapping[str, float]:
        """What it adds up since its start, like tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where a stage's units come from: the data files of its parent.

    `column` of the parent names the unit, all of whose rows stand in one file; `read` makes units (UNIT) of a file's
    rows, on a worker. `extend` adds to a whole file's rows what a unit must know of the others, before some are chosen.
    """

    parent: Artifact
    column: str
    read: Callable[[pa.Table], pa.Table]
    extend: Callable[[pa.Table], pa.Table] | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a stage does its units with a model: `prepare` on CPUs beside the actors; `worker(**worker_arguments)` is
    an actor's callable that holds the model. `input_column` names the column of `record` that holds the unit's id.
    Without `on_gpu` the actors ask for none of the pool's GPUs. The worker is called from `concurrent_batches` threads.
    """

    record: type
    input_column: str
    prepare: Callable[[Unit], Prepared]
    worker: Callable[..., Worker]
    worker_arguments: Mapping[str, Any]
    on_gpu: bool = True
    concurrent_batches: int = 1


@dataclass(frozen=True, kw_only=True)
class TaskWork:
    """How a stage does its units with CPUs alone. `input_column` names the column of `record` with the unit's id."""

    record: type
    input_column: str
    do: Callable[[Unit], Outcome]


def one_by_one(rows: pa.Table) -> pa.Table:
    """A unit a row: the payload is the row as JSON."""
    payloads = [json.dumps(row) for row in rows.to_pylist()]
    return pa.table([rows.column("id"), rows.column("image_uri"), payloads], schema=UNIT)


def image_alone(rows: pa.Table) -> pa.Table:
    """A unit a row that names an image (`uri`), without a payload."""
    return pa.table([rows.column("id"), rows.column("uri"), [""] * rows.num_rows], schema=UNIT)


def by_image(rows: pa.Table) -> pa.Table:
    """A unit an image: the payload is the list of its rows as JSON."""
    return by_column(rows, "image_id")


def by_column(rows: pa.Table, column: str) -> pa.Table:
    """A unit a value of a column: the payload is the list of its rows as JSON. All are of one image."""
    ordered = sorted(rows.to_pylist(), key=lambda row: (row[column], row["id"]))
    units = []
    for key, group in groupby(ordered, key=lambda row: row[column]):
        asked = list(group)
        units.append(Unit(id=key, image_uri=asked[0]["image_uri"], payload=json.dumps(asked)))
    return to_table(units, Unit)


def read_image(unit: Unit) -> Prepared:
    """CPU work of a unit whose image goes to the model as it is: its bytes."""
    if not unit.image_uri:
        return Prepared(id=unit.id, images=[], payload=unit.payload, reason="")
    try:
        data = sources.read_image(unit.image_uri)
    except BadImageError as error:
        return Prepared(id=unit.id, images=[], payload="", reason=str(error))
    return Prepared(id=unit.id, images=[data], payload=unit.payload, reason="")


def run_stage(*, store: str, plan: Plan, work: Work | TaskWork, inputs: Inputs, execution: Execution) -> Artifact:
    """Do every unit that is not yet in the artifact and commit it. The caller holds the artifact's lease.

    Raises:
        ValueError: more rejects than `execution.max_reject_rate` allows.
    """
    uri = storage.join(store, plan.name)
    start = time.monotonic()
    files = artifacts.data_files(inputs.parent.uri)
    survey = _survey(_ended(uri, work.input_column, execution), files, inputs.column, execution)
    total, pending = sum(survey.units.values()), sum(survey.pending.values())
    _check_parent(inputs.parent, survey)
    attempt = Attempt(uri)
    if pending < total:
        logger.info("%s: %d of %d units stand from an earlier run", plan.stage, total - pending, total)
    if pending:
        book = open_book(plan.name, leases.run_of(uri))
        feed = _Feed.of(survey, _units_per_task(work, execution.batch_size), execution)
        progress = Progress(plan.stage, total=total, done=total - pending, look=lambda: _story(book.state()))
        teller = _Teller(uri, book, progress, total=total, rent=_rent(work, execution))
        with progress, Ticker(teller.tell):
            for report in _stream(uri, book, work, inputs, feed, execution):
                progress.add(int(report["units"]), Counter(json.loads(str(report["reasons"]))))
                attempt.note_sometimes(lambda: _figures(book.state(), start))
        attempt.note(_figures(book.state(), start))
    # Also where nothing was left to do: an earlier run may have been killed before it did this.
    ended = on_worker(execution, artifacts.remove_duplicates, uri, work.input_column)
    left = _survey(ended, files, inputs.column, execution)
    lost = sum(left.pending.values())
    if lost:
        raise RuntimeError(f"{plan.stage}: {lost} units came out as neither output nor reject, like {left.example}")
    figures = attempt.sums_of_all()
    seconds = figures.setdefault("seconds", time.monotonic() - start)
    return finish_stage(
        store=store,
        plan=plan,
        num_units=total,
        figures={**figures, "inputs_per_s": round(total / max(seconds, 1e-9), 3)},
        max_reject_rate=execution.max_reject_rate,
    )


class _Teller:
    """Tells Prometheus, and the file that `jobs/status.py` reads, how a stage under work stands."""

    def __init__(self, uri: str, book: Book, progress: Progress, *, total: int, rent: Rent) -> None:
        self._book, self._progress = book, progress
        self._note = ProgressNote(uri, total=total)
        self._meter = StageMeter(leases.run_of(uri), book.artifact.rpartition("-")[0], rent)

    def tell(self) -> None:
        """How it stands now."""
        noted = self._note.write(self._progress.done, rejects=self._progress.rejects)
        state = self._book.state()
        queue = Queue(num_waiting=state.num_waiting, num_in_work=state.num_in_work, num_retried=state.num_retried)
        self._meter.tell(Told(progress=noted, queue=queue, figures=state.figures))


def _rent(work: Work | TaskWork, execution: Execution) -> Rent:
    """The GPUs of a whole pool, as the report counts them."""
    pool = execution.pool
    num_gpus = pool.num_gpus * pool.max_size if isinstance(work, Work) and work.on_gpu else 0.0
    return Rent(num_gpus=num_gpus, gpu_hour_price=execution.gpu_hour_price)


def _figures(state: State, start: float) -> dict[str, float]:
    """What an attempt has added up: seconds, in all and of the workers, what these count, units done again after a
    worker's death."""
    seconds = {"seconds": round(time.monotonic() - start, 3), **state.times}
    return {**seconds, **state.figures, "retried_units": state.num_retried}


class TooManyRejectsError(ValueError):
    """More of a stage's inputs were rejected than it accepts: `told` says how many and why."""

    def __init__(self, told: str, remedy: str) -> None:
        super().__init__(f"{told} {remedy}")
        self.told = told


def finish_stage(
    *, store: str, plan: Plan, num_units: int, figures: Mapping[str, float], max_reject_rate: float
) -> Artifact:
    """Check what came out and write the record.

    Raises:
        TooManyRejectsError: more of the inputs were rejected than `max_reject_rate` allows, or all of them.
    """
    uri = storage.join(store, plan.name)
    counts = artifacts.count(uri)
    # Where all may be rejected, an input may be one in several parts, each a reject of its own.
    too_many = max_reject_rate < 1 and counts["rejects"] > max_reject_rate * num_units
    if counts["rejects"] and (too_many or not counts["rows"]):
        reason, count = Counter(counts["rejects_by_reason"]).most_common(1)[0]
        number = min(counts["rejects"], num_units)
        storage.remove(storage.join(uri, "rejects"))  # so that the same command tries them again when they are mended
        told = f"{plan.stage}: {number} of {num_units} inputs were rejected, most often: {reason} ({count})."
        if max_reject_rate == 1:
            raise ValueError(f"{told} Nothing is left: change the settings that choose, or give other data")
        accepted = f"up to {max_reject_rate:.0%} are accepted (execution.max_reject_rate), but never all"
        raise TooManyRejectsError(told, f"Mend the inputs; {accepted}")
    artifact = artifacts.commit(store, plan, {"inputs": num_units, **figures}, counts)
    storage.remove(storage.join(uri, PROGRESS))
    return artifact


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """The units and those not yet done of each of the parent's files, one of the latter, and the done ids (a ref).

    `num_rows` is the number of the parent's rows: a unit may have several.
    """

    num_rows: int
    units: dict[str, int]
    pending: dict[str, int]
    example: str
    done: Any


def _ended(uri: str, input_column: str, execution: Execution) -> Any:
    """A reference to the ids of all units that have output or a reject, read on workers."""
    files = [(file, input_column) for file in artifacts.data_files(uri)]
    files += [(file, "id") for file in artifacts.reject_files(uri)]
    parts = [on_worker(execution, _read_ids, chunk) for chunk in _chunks(files, _FILES_PER_TASK)]
    return on_worker(execution, _merge, *parts) if parts else ray.put(artifacts.merge_ids([]))


def _survey(done: Any, files: Sequence[str], column: str, execution: Execution) -> _Survey:
    """What is done and what is not of the parent's files; counted on workers. `done` refers to ids."""
    counts = [on_worker(execution, _count_pending, chunk, column, done) for chunk in _chunks(files, _FILES_PER_TASK)]
    units, pending, example, total = {}, {}, "", 0
    for file, num_rows, num_units, num_pending, one in (row for rows in ray.get(counts) for row in rows):
        units[file], pending[file], example = num_units, num_pending, example or one
        total += num_rows
    return _Survey(num_rows=total, units=units, pending=pending, example=example, done=done)


# A trial of a sweep stands in a placement group that holds nothing but itself: its work is to be placed as any other.
ANYWHERE = "DEFAULT"


def on_worker(execution: Execution, function: Callable[..., Any], *arguments: Any) -> Any:
    """A reference to what a function gives on a worker, with references among its arguments as their values."""
    task = ray.remote(num_cpus=execution.task_cpus, max_retries=-1, scheduling_strategy=ANYWHERE)(function)
    return task.remote(*arguments)


def stream_from_worker(execution: Execution, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    """What a function yields on a worker, as it comes."""
    task = ray.remote(
        num_cpus=execution.task_cpus, max_retries=-1, num_returns="streaming", scheduling_strategy=ANYWHERE
    )(function)
    yield from map(ray.get, task.remote(*arguments))


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _read_ids(files: Sequence[tuple[str, str]]) -> Any:
    parts = []
    for column, group in groupby(files, key=lambda pair: pair[1]):
        parts += artifacts.input_ids([file for file, _ in group], column)
    return artifacts.merge_ids(parts)


def _merge(*parts: Any) -> Any:
    return artifacts.merge_ids(parts)


def _check_parent(parent: Artifact, survey: _Survey) -> None:
    """Whether a parent is as it was committed: what is made of a part of it would be taken for the whole."""
    counts = parent.record.get("counts")
    if counts is not None and counts["rows"] != survey.num_rows:
        raise ValueError(
            f"{parent.uri} holds {survey.num_rows} rows, and its record says {counts['rows']}: files of it are missing "
            "or too many; remove it, and the same command makes it again"
        )


def _count_pending(files: Sequence[str], column: str, done: Any) -> list[tuple[str, int, int, int, str]]:
    """A file with its rows, its units, how many of them are not done, and one that is not."""
    rows = []
    for file, listed in zip(files, artifacts.input_ids(files, column), strict=True):
        ids = np.unique(listed)
        left = ids[~artifacts.are_in(ids, done)]
        rows.append((file, len(listed), len(ids), len(left), artifacts.unpacked_id(left[0]) if len(left) else ""))
    return rows


@dataclass(frozen=True, kw_only=True)
class _Feed:
    """What the workers read: groups of places, and the ids that are done (a ref).

    A place is a file with the first and the last but one of its units that are not done, counted from 0.
    """

    groups: list[list[tuple[str, int, int]]]
    done: Any

    @classmethod
    def of(cls, survey: _Survey, most: int, execution: Execution) -> "_Feed":
        """Every unit that is not done, `most` to a group, and fewer where that keeps some core idle."""
        share = sum(survey.pending.values()) / (TASKS_PER_CPU * ray.cluster_resources().get("CPU", 1.0))
        size = int(min(max(share, execution.batch_size), most))
        groups: list[list[tuple[str, int, int]]] = []
        room = 0
        for file, count in survey.pending.items():
            start = 0
            while start < count:
                if not room:
                    groups.append([])
                    room = size
                stop = min(count, start + room)
                groups[-1].append((file, start, stop))
                start, room = stop, room - (stop - start)
        return cls(groups=groups, done=survey.done)


def _units_per_task(work: Work | TaskWork, batch_size: int) -> int:
    if isinstance(work, TaskWork):
        return MAX_UNITS_PER_TASK
    return batch_size * (_BATCHES_PER_TASK if batch_size < _LIGHT_BATCH else _LIGHT_BATCHES_PER_TASK)


def _story(state: State) -> str:
    """What a line of the log says beside the count of units."""
    parts = [f"{state.num_waiting} waiting", f"{state.num_in_work} in work"]
    if state.num_retried:
        parts.append(f"{state.num_retried} done again")
    if state.num_suspects:
        parts.append(f"{state.num_suspects} to run alone")
    parts += [f"{value:.0f} {name.replace('_', ' ')}" for name, value in state.figures.items() if value]
    return ", ".join(parts)


def _stream(
    uri: str, book: Book, work: Work | TaskWork, inputs: Inputs, feed: _Feed, execution: Execution
) -> Iterator[dict[str, Any]]:
    """Run the units through Ray Data; yields a small report for each written file."""
    batch, pool, task_cpus = execution.batch_size, execution.pool, execution.task_cpus
    places = ray.data.from_arrow([pa.table({"places": [json.dumps(group)]}) for group in feed.groups])
    places.context.target_max_block_size = _BLOCK_BYTES
    answered = places.map_batches(
        _read_batch,
        fn_args=(feed.done, book, inputs, work, batch if isinstance(work, Work) else _DONE_AT_ONCE),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=task_cpus,
        max_calls=0,  # Ray's default, but said: else it does this inside of actors that ask for as many CPUs
    )
    if isinstance(work, Work):
        num_gpus = pool.num_gpus if work.on_gpu else 0.0
        answered = answered.map_batches(
            _Actor,
            fn_constructor_args=(book, work, replace(pool, num_gpus=num_gpus)),
            batch_size=batch,
            batch_format="pyarrow",
            num_cpus=pool.num_cpus,
            num_gpus=num_gpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=pool.min_size,
                max_size=pool.max_size,
                max_concurrent_calls_per_actor=work.concurrent_batches,
                enable_true_multi_threading=work.concurrent_batches > 1,
            ),
        )
    reports = answered.map_batches(
        _write_batch,
        fn_args=(uri, work.record),
        batch_size=execution.rows_per_file,
        batch_format="pyarrow",
        num_cpus=task_cpus,
    )
    yield from reports.iter_rows()


def _read_batch(
    places: pa.Table, done: Any, book: Book, inputs: Inputs, work: Work | TaskWork, at_once: int
) -> Iterator[pa.Table]:
    """What the CPUs make of the units of some files that are not done: prepared units, or outcomes."""
    known = ray.get(done)
    for file, start, stop in (place for group in places.column("places").to_pylist() for place in json.loads(group)):
        rows = artifacts.read_file(file)
        rows = inputs.extend(rows) if inputs.extend else rows
        ids = artifacts.packed_ids(rows.column(inputs.column))
        different, first = np.unique(ids, return_index=True)
        left = ~artifacts.are_in(different, known)
        order = np.argsort(first[left])[start:stop]  # as they stand in the file
        chosen = artifacts.are_in(ids, np.sort(different[left][order]))
        units = inputs.read(rows.filter(pa.array(chosen)))
        for begin in range(0, units.num_rows, at_once):
            chunk = from_table(units.slice(begin, at_once), Unit)
            yield _prepare(chunk, book, work) if isinstance(work, Work) else _do(chunk, book, work)


def _prepare(units: Sequence[Unit], book: Book, work: Work) -> pa.Table:
    guard: Guard[Unit, Prepared] = Guard(book, PREPARE, _unprepared)
    rows = guard.do(units, lambda units: [work.prepare(unit) for unit in units])
    return pa.table([[getattr(row, name) for row in rows] for name in PREPARED.names], schema=PREPARED)


def _do(units: Sequence[Unit], book: Book, work: TaskWork) -> pa.Table:
    guard: Guard[Unit, Outcome] = Guard(book, WORK, _refuse)
    return _to_outcomes(guard.do(units, lambda units: [work.do(unit) for unit in units]), work.record)


def _unprepared(key: str, reason: str) -> Prepared:
    return Prepared(id=key, images=[], payload="", reason=reason)


def _refuse(key: str, reason: str) -> Outcome:
    return Outcome(id=key, rows=[], reason=reason)


class _Actor:
    """An actor of the pool: holds the stage's worker, turns prepared units into outcomes."""

    def __init__(self, book: Book, work: Work, pool: Pool) -> None:
        if pool.num_gpus == 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what was not asked for is not used
        gc.disable()  # imports and weights are no garbage: to look for it among them takes a sixth of the start
        self._work = work.worker(**work.worker_arguments)
        gc.freeze()
        gc.enable()
        if pool.num_gpus == 0 and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(max(1, int(pool.num_cpus)))
        self._record = work.record
        self._guard: Guard[Prepared, Outcome] = Guard(
            book, WORK, _refuse, figures=self._work.figures, slots=work.concurrent_batches
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        columns = (table.column(name).to_pylist() for name in PREPARED.names)
        prepared = [
            Prepared(id=key, images=images, payload=payload, reason=reason)
            for key, images, payload, reason in zip(*columns, strict=True)
        ]
        return _to_outcomes(self._guard.do(prepared, self._answer), self._record)

    def _answer(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        outcomes, tasks = [], []
        for unit in prepared:
            try:
                images = [] if unit.reason else [decode(data) for data in unit.images]
            except BadImageError as error:
                outcomes.append(_refuse(unit.id, str(error)))
                continue
            if unit.reason:
                outcomes.append(_refuse(unit.id, unit.reason))
            else:
                tasks.append(Task(id=unit.id, images=images, payload=unit.payload))
        outcomes += self._work(tasks) if tasks else []
        assert sorted(outcome.id for outcome in outcomes) == sorted(unit.id for unit in prepared)
        return outcomes


def _to_outcomes(outcomes: Sequence[Outcome], record: type) -> pa.Table:
    """Outcomes as a table of id, reason and `rows`, a list of the record's structs."""
    flat = to_table([row for outcome in outcomes for row in outcome.rows], record)
    structs = pa.concat_arrays(flat.to_struct_array().chunks) if flat.num_rows else _no_structs(record)
    offsets = np.cumsum([0, *(len(outcome.rows) for outcome in outcomes)], dtype=np.int32)
    rows = pa.ListArray.from_arrays(pa.array(offsets), structs)
    return pa.table(
        {
            "id": pa.array([outcome.id for outcome in outcomes], pa.string()),
            "reason": pa.array([masked(outcome.reason) for outcome in outcomes], pa.string()),
            "rows": rows,
            "refused": pa.array([_masked(outcome.refused) for outcome in outcomes], _REFUSED),
        }
    )


_REFUSED = pa.map_(pa.string(), pa.string())


def _masked(refused: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key, masked(reason)) for key, reason in refused.items()]


def _no_structs(record: type) -> pa.Array:
    return pa.array([], pa.struct(list(schema(record))))


def _write_batch(table: pa.Table, uri: str, record: type) -> pa.Table:
    """Commit a block's units as one data file and one reject file; reports how many, and why some failed."""
    failed = table.filter(pc.not_equal(table.column("reason"), ""))
    reasons = failed.column("reason").to_pylist()
    stage = uri.rpartition("/")[2].rpartition("-")[0]
    refused = [part for parts in table.column("refused").to_pylist() for part in parts]
    rejects = [
        Reject(id=key, stage=stage, reason=reason)
        for key, reason in (*zip(failed["id"].to_pylist(), reasons, strict=True), *refused)
    ]
    structs = pc.list_flatten(table.column("rows"))
    rows = pa.Table.from_struct_array(structs) if len(structs) else to_table([], record)
    artifacts.write_tables(uri, rows.cast(schema(record)), to_table(rejects, Reject))
    return pa.table({"units": [table.num_rows], "reasons": [json.dumps(Counter(reasons))]})
