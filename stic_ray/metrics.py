"""Every metric of ours that Prometheus gets, named here and nowhere else.

Ray puts `ray_` before a name, and `_total` behind a counter's. It adds counters up over all processes of a node, also
ended ones; a gauge that was not told for twenty seconds is gone: what is not in work has none. Each is by `run`, so
that several drivers tell at once.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.util import metrics

from stic_ray.standing import StageProgress

_RUN, _STAGE = "run", "stage"
_CACHED, _PROMPT = "cached_tokens", "prompt_tokens"  # figures of engines


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric by name: what it says, its labels, and whether it is Ray's Counter or Gauge."""

    name: str
    kind: type[Any]
    description: str
    labels: tuple[str, ...]

    def start(self) -> Any:
        """Ray's object, which this process counts or sets."""
        return self.kind(self.name, self.description, self.labels)


def _counter(name: str, description: str, *labels: str) -> Metric:
    return Metric(name=f"stic_ray_{name}", kind=metrics.Counter, description=description, labels=labels)


def _gauge(name: str, description: str, *labels: str) -> Metric:
    return Metric(name=f"stic_ray_{name}", kind=metrics.Gauge, description=description, labels=labels)


# Counted by the ledger.
UNITS = _counter("units", "units that ended, rejects included", _RUN, _STAGE)
REJECTS = _counter("rejects", "units rejected, by reason", _RUN, _STAGE, "reason")
FIGURES = _counter("figures", "what workers add up, like tokens, by name", _RUN, _STAGE, "figure")
# Counted by the driver; seconds of GPUs are of as many as the stage holds at most.
GPU_SECONDS = _counter("gpu_seconds", "seconds of GPUs held", _RUN, _STAGE)
COST = _counter("cost", "cost of these at execution.gpu_hour_price", _RUN, _STAGE)
# Told by the driver of what is in work.
RUN_IN_WORK = _gauge("run_in_work", "1 while the run's driver works, 0 when it has finished", _RUN)
UNITS_LEFT = _gauge("units_left", "units to do; of a training, steps", _RUN, _STAGE)
UNITS_PLANNED = _gauge("units_planned", "units in all; of a training, steps", _RUN, _STAGE)
QUEUE = _gauge("queue", "units prepared and waiting, or in workers", _RUN, _STAGE, "where")
RETRIED_UNITS = _gauge("retried_units", "units of this attempt done again, since their worker died", _RUN, _STAGE)
CACHED_SHARE = _gauge("cached_share", "share of the prompts' tokens that were in the prefix cache", _RUN, _STAGE)
TRAINING_LOSS = _gauge("training_loss", "loss of the last step", _RUN, _STAGE)
TRAINING_TOKENS_PER_S = _gauge("training_tokens_per_s", "tokens a second, in the last step", _RUN, _STAGE)
CHECKPOINT_TIME = _gauge("checkpoint_time", "when the last checkpoint, or the training, began: Unix time", _RUN, _STAGE)

ALL = (
    *(UNITS, REJECTS, FIGURES, GPU_SECONDS, COST, RUN_IN_WORK, UNITS_LEFT, UNITS_PLANNED, QUEUE, RETRIED_UNITS),
    *(CACHED_SHARE, TRAINING_LOSS, TRAINING_TOKENS_PER_S, CHECKPOINT_TIME),
)


@dataclass(frozen=True, kw_only=True)
class Rent:
    """GPUs that a stage holds at most, and what an hour of one costs; None where nobody said."""

    num_gpus: float = 0.0
    gpu_hour_price: float | None = None


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Units of a stage: prepared and waiting, in workers, done again since their worker died."""

    num_waiting: int
    num_in_work: int
    num_retried: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """What there is to tell of a stage now: its progress, its queue where it has one, what its workers added up, and
    the time of a training's last checkpoint."""

    progress: StageProgress
    queue: Queue | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    checkpoint_at: float | None = None


class StageMeter:
    """Tells of one stage under work, in the driver."""

    def __init__(self, run: str, stage: str, rent: Rent) -> None:
        self._labels = {_RUN: run, _STAGE: stage}
        self._rent = rent
        self._at = time.monotonic()
        self._started: dict[Metric, Any] = {}

    def tell(self, told: Told) -> None:
        """How the stage stands now; called every few seconds, or its gauges are gone."""
        self._tell_cost()
        self._set(UNITS_LEFT, told.progress.total - told.progress.done)
        self._set(UNITS_PLANNED, told.progress.total)
        if told.queue is not None:
            self._set(QUEUE, told.queue.num_waiting, where="waiting")
            self._set(QUEUE, told.queue.num_in_work, where="in work")
            self._set(RETRIED_UNITS, told.queue.num_retried)
        if told.figures.get(_PROMPT):
            self._set(CACHED_SHARE, told.figures.get(_CACHED, 0.0) / told.figures[_PROMPT])
        if told.checkpoint_at is not None:
            self._set(CHECKPOINT_TIME, told.checkpoint_at)
        for metric, name in ((TRAINING_LOSS, "loss"), (TRAINING_TOKENS_PER_S, "tokens_per_s")):
            if name in told.progress.figures:
                self._set(metric, told.progress.figures[name])

    def _tell_cost(self) -> None:
        now = time.monotonic()
        gpu_seconds, self._at = self._rent.num_gpus * (now - self._at), now
        if gpu_seconds > 0:  # Ray counts no nothing
            self._ray(GPU_SECONDS).inc(gpu_seconds, self._labels)
            if self._rent.gpu_hour_price:
                self._ray(COST).inc(gpu_seconds / 3600 * self._rent.gpu_hour_price, self._labels)

    def _set(self, metric: Metric, value: float, **labels: str) -> None:
        self._ray(metric).set(value, {**self._labels, **labels})

    def _ray(self, metric: Metric) -> Any:
        if metric not in self._started:
            self._started[metric] = metric.start()
        return self._started[metric]
