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
class ScoredPairs:
    """Preference pairs by artifact: their scores under the reference, and what is selected of them ("": all)."""

    scores: str
    selection: str = ""


@dataclass(frozen=True, kw_only=True)
class PairData:
    """Preference pairs to be trained on together."""

    parts: tuple[ScoredPairs, ...]


@dataclass(frozen=True, kw_only=True)
class ChosenData:
    """The chosen answers of the same pairs in the same order: what the control of stage 1 is fine-tuned on."""

    parts: tuple[ScoredPairs, ...]


@dataclass(frozen=True, kw_only=True)
class SampleData:
    """Instruction samples; `infused` is the template that puts a description before the first question, "" for none.

    `selection` is the artifact that says which of them, and which of their tokens, are used ("": all).
    """

    samples: str
    infused: str
    selection: str = ""


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
