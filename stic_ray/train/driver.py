"""Training as a stage: a Ray Train run whose result is an artifact with adapter, merged model and metrics."""

import json
import logging
import math
import time
from typing import Any

import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from stic_ray import artifacts, leases, storage
from stic_ray.artifacts import MODEL, Artifact, Plan
from stic_ray.config import Config, Training, to_tree
from stic_ray.metrics import Rent, StageMeter, Told
from stic_ray.standing import PROGRESS, Ticker, read_progress
from stic_ray.train.job import (
    ADAPTER,
    ATTEMPTS,
    CHECKPOINTS,
    EXPORTED,
    MERGED,
    METRICS,
    REFUSED,
    Job,
    TrainingData,
    newest_checkpoint,
    train_worker,
)

CODE_VERSION = 3
_WORK = "ray_train"
_LEAST_KEPT = 0.9
logger = logging.getLogger(__name__)


def plan(config: Config, stage: str, training: Training, parents: dict[str, str], infused: str = "") -> Plan:
    """The artifact of a trained model; `parents` are the fingerprints of its start model and its data."""
    identity = {
        "seed": config.seed,
        "dtype": config.model.dtype,
        "training": to_tree(training),
        "infused": infused,
    }
    return Plan(stage=stage, code_version=CODE_VERSION, identity=identity, parents=parents, kind=MODEL)


def model_of(artifact: Artifact) -> str:
    """The URI of a training artifact's merged model."""
    return storage.join(artifact.uri, MERGED)


def run(config: Config, training: Training, data: TrainingData, plan: Plan) -> Artifact:
    """Train `config.model` (or go on with what an earlier process left) and commit. The caller holds the lease."""
    start = time.monotonic()
    uri = storage.join(config.store, plan.name)
    job = Job(
        model_uri=config.model.path,
        dtype=config.model.dtype,
        training=training,
        data=data,
        seed=config.seed,
        output=uri,
        execution=config.execution,
        origin={"artifact": plan.name, **plan.parents},
    )
    storage.remove(storage.join(uri, PROGRESS))  # of an earlier attempt
    before = sorted(storage.list_directories(storage.join(uri, CHECKPOINTS)))
    if before:
        logger.info(
            "%s: an earlier attempt got to %s: it goes on from there", plan.stage, before[-1].rpartition("/")[2]
        )
    with Ticker(_Teller(job, plan.stage).tell):
        _fit_or_refuse(job, plan.stage)
    lines = [json.loads(line) for line in storage.read_text(storage.join(uri, METRICS)).splitlines()]
    seconds = time.monotonic() - start
    logger.info("%s: %d steps in %.1f s, loss %s -> %s", plan.stage, len(lines), seconds, *_ends(lines))
    exported = json.loads(storage.read_text(storage.join(uri, EXPORTED)))
    if "validation_loss" in exported:
        logger.info(
            "%s: the model is that of step %d, of the least loss on what is held out: %.4f, %.4f at the end",
            *(plan.stage, exported["step"], exported["validation_loss"], lines[-1]["validation_loss"] or math.nan),
        )
    kept = exported.get("kept_by_merging", 1.0)
    if not kept >= _LEAST_KEPT:
        logger.warning(
            "%s: the merged %s weights, which what follows starts from, keep %.0f%% of what the adapter changes: its "
            "steps are below their precision; take model.dtype=float32, or a higher learning rate",
            *(plan.stage, job.dtype, 100 * kept),
        )
    attempts = storage.read_text(storage.join(uri, ATTEMPTS)).splitlines()
    figures = {
        "seconds": round(seconds, 3),
        "attempts": [json.loads(line) for line in attempts],
        "steps": len(lines),
        "first": lines[0],
        "last": lines[-1],
        "exported": exported,
        "manifest": artifacts.manifest(uri, (ADAPTER, MERGED, METRICS)),
    }
    artifact = artifacts.commit(config.store, plan, figures)
    # Only now: a kill before the commit must find the checkpoints.
    storage.remove(storage.join(uri, CHECKPOINTS))
    storage.remove(storage.join(uri, PROGRESS))
    return artifact


def _fit_or_refuse(job: Job, stage: str) -> None:
    """Raises ValueError with what a worker refused, whichever attempt found it, or where workers died too often."""
    refused = storage.join(job.output, REFUSED)
    storage.remove(refused)  # of an earlier command
    try:
        _fit(job)
    except TrainingFailedError as error:
        if not storage.exists(refused):
            died = isinstance(error, WorkerGroupError) and error.worker_failures.values()
            if not died or not all(isinstance(failure, RayActorError) for failure in died):
                raise
            raise ValueError(
                f"{stage}: workers died more often than execution.max_train_failures "
                f"({job.execution.max_train_failures}): the same command goes on from the last checkpoint; where they "
                "run out of memory, take a smaller execution.row_tokens or execution.recompute_activations=true"
            ) from None
    if storage.exists(refused):
        raise ValueError(f"{stage}: {storage.read_text(refused)}")


def _fit(job: Job) -> None:
    """Ray Train's run, whose own files nobody needs: the checkpoints are ours, and it starts anew each time."""
    execution, work = job.execution, storage.join(job.output, _WORK)
    storage.remove(work)
    path, filesystem = ray_storage(work)
    workers: int | tuple[int, int] = execution.num_train_workers
    if execution.min_train_workers is not None:
        workers = (execution.min_train_workers, execution.num_train_workers)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        # The counts of a global batch are summed on the CPU, also where gradients are on GPUs.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if execution.train_gpus > 0 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=execution.train_gpus > 0,
            resources_per_worker=_resources(execution.train_cpus, execution.train_gpus),
        ),
        run_config=RunConfig(
            name="run",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=execution.max_train_failures),
        ),
    )
    trainer.fit()
    storage.remove(work)


def _ends(lines: list[dict[str, Any]]) -> list[str]:
    losses = (lines[place]["loss"] for place in (0, -1))
    return ["not finite" if loss is None else f"{loss:.4f}" for loss in losses]


def _resources(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus > 0 else {"CPU": cpus}


def ray_storage(uri: str) -> tuple[str, Any]:
    """Ray Train's storage: a plain path, or a path on an fsspec filesystem."""
    filesystem, path = storage.split(uri)
    if isinstance(filesystem, LocalFileSystem):
        return path, None
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


class _Teller:
    """Tells the log and Prometheus how a training stands, while the driver waits for it."""

    def __init__(self, job: Job, stage: str) -> None:
        self._uri, self._stage = job.output, stage
        execution = job.execution
        num_gpus = execution.train_gpus * execution.num_train_workers
        rent = Rent(num_gpus=num_gpus, gpu_hour_price=execution.gpu_hour_price)
        self._meter = StageMeter(leases.run_of(job.output), stage, rent)
        self._started_at = time.time()
        self._told = -1

    def tell(self) -> None:
        """How it stands now; before its first step there is nothing to tell."""
        progress = read_progress(self._uri)
        if progress is None:
            return
        if progress.done != self._told:
            self._told = progress.done
            told = (self._stage, progress.done, progress.total, progress.figures["loss"])
            logger.info("%s: step %d/%d, loss %.4f", *told)
        newest = newest_checkpoint(self._uri)
        # One of an attempt that ended long ago is no older, for whoever is alarmed, than this attempt.
        written_at = self._started_at if newest is None else max(self._started_at, newest[1])
        self._meter.tell(Told(progress=progress, checkpoint_at=written_at))
