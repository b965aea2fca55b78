"""Checkpoints of a training: every worker writes its shards, and a record, written last, says that all are there.

A checkpoint is a folder `step-N-TOKEN`: `shard-R.safetensors` with a worker's parts of the trained weights and of their
moments, `shard-R.json` with its hash and where the parts belong, `metrics.jsonl`, and `checkpoint.json`, the record,
with the hashes of these. What has no record, or files that are not what it says, is never loaded. A checkpoint is read
by any number of workers.
"""

import json
import logging
import math
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stic_ray import storage
from stic_ray.train.job import CHECKPOINT_RECORD

_METRICS = "metrics.jsonl"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_WAIT_S = 1800.0  # for the shards of the other workers
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of a weight's rows a worker holds: from `start` on, of `rows` in all."""

    start: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint that can be loaded: its folder, the steps that it has seen, and how many workers wrote it.

    `score` is its loss on what is held out, None where that was not measured; `hashes` are of its small files; `at` is
    when it was whole, as Unix time.
    """

    uri: str
    step: int
    num_shards: int
    score: float | None
    hashes: Mapping[str, str]
    at: float = 0.0


# What a worker holds


def local_part(tensor: Tensor) -> tuple[Tensor, Place]:
    """A weight's part on this worker, and which; a weight that is not sharded is a part of its own."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), Place(start=0, rows=len(tensor))
    rank, world = tensor.device_mesh.get_local_rank(), tensor.device_mesh.size()
    chunk = -(-tensor.shape[0] // world)  # as torch.chunk cuts, and FSDP2 with it
    return tensor.to_local().detach(), Place(start=min(rank * chunk, tensor.shape[0]), rows=tensor.shape[0])


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor, Place]]:
    """The name, the part and the place of every trained weight and of its moments."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        part, place = local_part(parameter)
        yield f"weight/{name}", part, place
        for moment in _MOMENTS:
            yield f"{moment}/{name}", local_part(optimizer.state[parameter][moment])[0], place


def start_moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The moments of a training that has not begun: they are there before its first step."""
    for parameter in module.parameters():
        if parameter.requires_grad and not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                **{moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in _MOMENTS},
            }


# Writing


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says beside its tensors: steps taken, all steps' metrics, and its loss on what is held out."""

    step: int
    metrics: str
    score: float | None = None


class Writer:
    """Writes the checkpoints of one attempt at a training, in a thread of its own: one at a time, in order.

    The thread of rank 0 waits for all shards, writes the record, and removes what is not kept.
    """

    def __init__(self, home: str, *, rank: int, world: int, token: str, keep: int) -> None:
        self._home, self._rank, self._world, self._token, self._keep = home, rank, world, token, keep
        self._tasks: queue.Queue[tuple[Header, dict[str, Tensor], dict[str, Place]] | None] = queue.Queue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def save(self, header: "Header", module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Take a copy of the state now, and write it when those before are written; waits for them."""
        self.wait()
        tensors: dict[str, Tensor] = {}
        places: dict[str, Place] = {}
        for name, part, place in _state(module, optimizer):
            tensors[name], places[name] = part.to("cpu", copy=True).contiguous(), place
        steps = [float(state["step"]) for state in optimizer.state.values()]
        tensors["optimizer_step"] = torch.tensor([steps[0] if steps else 0.0])
        self._tasks.put((header, tensors, places))

    def wait(self) -> None:
        """Until what was saved is committed.

        Raises:
            OSError, ValueError: it could not be written.
        """
        self._tasks.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait, and end the thread."""
        self.wait()
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._write(*task)
            except Exception as error:  # noqa: BLE001 - raised by `wait`, in the thread that trains
                self._error = error
            finally:
                self._tasks.task_done()

    def _write(self, header: "Header", tensors: dict[str, Tensor], places: Mapping[str, Place]) -> None:
        uri = storage.join(self._home, f"step-{header.step:08d}-{self._token}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"shard-{self._rank}.safetensors"
            save_file(tensors, path)
            told = {"sha256": storage.hash_file(str(path)), "bytes": path.stat().st_size}
            storage.copy_file(str(path), storage.join(uri, path.name))
        told |= {"places": {name: vars(place) for name, place in places.items()}}
        storage.write_bytes(storage.join(uri, f"shard-{self._rank}.json"), json.dumps(told).encode())
        if self._rank != 0:
            return
        storage.write_bytes(storage.join(uri, _METRICS), header.metrics.encode())
        self._await_shards(uri)
        names = [_METRICS, *(f"shard-{rank}.json" for rank in range(self._world))]
        hashes = {name: storage.hash_file(storage.join(uri, name)) for name in names}
        record = {"step": header.step, "num_shards": self._world, "score": header.score, "hashes": hashes}
        record["at"] = round(time.time(), 1)
        storage.write_bytes(storage.join(uri, CHECKPOINT_RECORD), json.dumps(record).encode())
        there = list(_committed(self._home))
        best = min((found for found in there if found.score is not None), key=_rank, default=None)
        for found in there[self._keep :]:
            if found != best:
                storage.remove(found.uri)

    def _await_shards(self, uri: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not all(storage.exists(storage.join(uri, f"shard-{rank}.json")) for rank in range(self._world)):
            if time.monotonic() > deadline:
                raise OSError(f"{uri}: not all of {self._world} workers have written their part in {_WAIT_S:.0f} s")
            time.sleep(0.05)


# Reading


def _committed(home: str) -> Iterator[Found]:
    """Checkpoints with a record, the newest first."""
    for uri in sorted(storage.list_directories(home), reverse=True):
        try:
            record = json.loads(storage.read_text(storage.join(uri, CHECKPOINT_RECORD)))
            found = Found(uri=uri, **record)
        except FileNotFoundError:
            continue
        except (ValueError, TypeError):
            logger.warning("%s: its record cannot be read: it is not used", uri)
            continue
        yield found


def _rank(found: Found) -> tuple[float, int]:
    """The least loss first; of equal ones the earlier."""
    return (float("inf") if found.score is None else found.score, found.step)


def find_newest(home: str) -> Found | None:
    """The newest checkpoint whose files are what its record says; None where there is none."""
    for found in _committed(home):
        if not _damage(found):
            return found
    return None


def find_best(home: str) -> Found | None:
    """The checkpoint of the least loss on what is held out; None where no whole one was measured."""
    measured = [found for found in _committed(home) if found.score is not None]
    return next((found for found in sorted(measured, key=_rank) if not _damage(found)), None)


def _damage(found: Found) -> str:
    """What is not as the record says, "" for nothing."""
    try:
        for name, told in found.hashes.items():
            if storage.hash_file(storage.join(found.uri, name)) != told:
                return f"{name} has other bytes"
        for rank in range(found.num_shards):
            name = f"shard-{rank}.safetensors"
            told = json.loads(storage.read_text(storage.join(found.uri, f"shard-{rank}.json")))["sha256"]
            if storage.hash_file(storage.join(found.uri, name)) != told:
                return f"{name} has other bytes"
    except FileNotFoundError as error:
        return str(error)
    return ""


def sweep(home: str) -> None:
    """Remove what attempts that ended left half-written, and what is damaged: it would take a whole one's place.

    So goes what came after a best one that is damaged: it is to be trained again, since it would have been kept.
    """
    whole = []
    for found in _committed(home):
        reason = _damage(found)
        if reason:
            logger.warning("%s is damaged (%s): it is removed", found.uri, reason)
        else:
            whole.append(found)
    steps = {found.step for found in whole}
    kept = {found.uri for found in whole if _best_step(found) in {None, *steps}}
    for found in whole:
        if found.uri not in kept:
            logger.warning("%s is removed: the best one, which came before it, is damaged", found.uri)
    for uri in storage.list_directories(home):
        if uri not in kept:
            storage.remove(uri)


def _best_step(found: Found) -> int | None:
    """The step of the least loss on what is held out, as far as a checkpoint knows; None where none was measured."""
    lines = _read_metrics(storage.read_text(storage.join(found.uri, _METRICS)))
    losses = [(line.get("validation_loss", math.nan), number) for number, line in enumerate(lines, start=1)]
    return min(((loss, number) for loss, number in losses if math.isfinite(loss)), default=(None, None))[1]


def write_metrics(lines: Sequence[Mapping[str, float]]) -> str:
    """Steps' metrics as JSON lines; what is not finite is null, which JSON has no number for."""
    finite = [{k: v if math.isfinite(v) else None for k, v in line.items()} for line in lines]
    return "".join(json.dumps(line) + "\n" for line in finite)


def _read_metrics(text: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]


def load(found: Found, module: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Put a checkpoint's state into a model and its optimizer, sharded in whatever way; returns its metrics.

    Raises:
        ValueError: it is of other weights.
    """
    start_moments(module, optimizer)
    folder = storage.local_copy(found.uri)
    told = [json.loads((Path(folder) / f"shard-{rank}.json").read_text()) for rank in range(found.num_shards)]
    files = [safe_open(str(Path(folder) / f"shard-{r}.safetensors"), "pt") for r in range(found.num_shards)]
    names = {name for name, *_ in _state(module, optimizer)}
    known = {name for shard in told for name in shard["places"]}
    if names != known:
        raise ValueError(f"{found.uri} is of other weights: {', '.join(sorted(names ^ known)[:3])}, ...")
    for name, part, place in _state(module, optimizer):
        _fill(
            part, place, [(file, Place(**shard["places"][name])) for file, shard in zip(files, told, strict=True)], name
        )
    steps = files[0].get_slice("optimizer_step")[0]  # type: ignore[no-untyped-call]
    for state in optimizer.state.values():
        state["step"].copy_(steps)
    return _read_metrics((Path(folder) / _METRICS).read_text())


def _fill(part: Tensor, place: Place, shards: Sequence[tuple[Any, Place]], name: str) -> None:
    """Copy into a part the rows that it holds, from whichever shards have them."""
    wanted = range(place.start, place.start + len(part))
    for file, there in shards:
        stored = file.get_slice(name)
        rows = stored.get_shape()[0]
        start, stop = max(wanted.start, there.start), min(wanted.stop, there.start + rows)
        if start < stop:
            part[start - wanted.start : stop - wanted.start].copy_(stored[start - there.start : stop - there.start])
