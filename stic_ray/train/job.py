"""What a training is told, without torch: the driver and Ray Train's controller only pass it on."""

import gc
from dataclasses import dataclass
from typing import Any

from stic_ray.config import Training

METRICS = "metrics.jsonl"
PROGRESS = "progress.json"
ADAPTER = "adapter"
MERGED = "merged"


@dataclass(frozen=True, kw_only=True)
class PairData:
    """Preference pairs with their references, by artifact."""

    pairs: str
    references: str


@dataclass(frozen=True, kw_only=True)
class ChosenData:
    """The chosen answers of the same pairs in the same order: what the control of stage 1 is fine-tuned on."""

    pairs: str
    references: str


@dataclass(frozen=True, kw_only=True)
class SampleData:
    """Instruction samples; `infused` is the template that puts a description before the first question, "" for none."""

    samples: str
    infused: str


TrainingData = PairData | ChosenData | SampleData


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs: the start checkpoint, the data, the training and where the result goes."""

    model_uri: str
    dtype: str
    training: Training
    data: TrainingData
    seed: int
    output: str
    micro_batch: int
    checkpoint_every: int
    num_threads: int


def train_worker(config: dict[str, Any]) -> None:
    """Runs on every worker of Ray Train; only there is the training stack imported."""
    gc.disable()  # as in flow.py
    from stic_ray.train.loop import train

    gc.freeze()
    gc.enable()
    train(config["job"])
