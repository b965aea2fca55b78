"""What a training is told, without torch: the driver and Ray Train's controller only pass it on."""

import gc
import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stic_ray import storage
from stic_ray.config import Blind, Execution, Training

METRICS = "metrics.jsonl"
ADAPTER = "adapter"
MERGED = "merged"
CHECKPOINTS = "checkpoints"
CHECKPOINT_RECORD = "checkpoint.json"  # in a checkpoint's folder: it is whole
CARD = "README.md"
ATTEMPTS = "attempts.jsonl"
TENSORBOARD = "tensorboard"
NOT_FINITE = "not_finite.json"
REFUSED = "refused.txt"
EXPORTED = "exported.json"


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """Preference pairs by artifact: their scores under the reference, or only their tokens where no loss compares with
    it; what is selected of them ("": all); and the gains of their answers over what stands for no image (""; needed by
    a loss that compares the two)."""

    scores: str
    selection: str = ""
    gains: str = ""


@dataclass(frozen=True, kw_only=True)
class PairData:
    """Preference pairs to be trained on together; `hidden` is what a loss puts in the image's place, if it does."""

    parts: tuple[ScoredPairs, ...]
    hidden: Blind | None = None


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
    """All that a worker needs: the start checkpoint, the data, the training, where the result goes, and how it runs.

    `origin` is for the model's card: its artifact and the fingerprints of what it is made of.
    """

    model_uri: str
    dtype: str
    training: Training
    data: TrainingData
    seed: int
    output: str
    execution: Execution
    origin: Mapping[str, str] = field(default_factory=dict)


def newest_checkpoint(uri: str) -> tuple[int, float] | None:
    """The step of a training's newest checkpoint and when it was written; None where there is none yet."""
    for folder in sorted(storage.list_directories(storage.join(uri, CHECKPOINTS)), reverse=True):
        try:
            record = json.loads(storage.read_text(storage.join(folder, CHECKPOINT_RECORD)))
            return int(record["step"]), float(record["at"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # not whole yet, or being removed
            continue
    return None


def train_worker(config: dict[str, Any]) -> None:
    """Runs on every worker of Ray Train; only there is the training stack imported.

    What training itself refuses would be refused again: Ray's next attempt ends at once, and the driver says why. A
    network that failed is tried again.
    """
    job: Job = config["job"]
    refused = storage.join(job.output, REFUSED)
    if storage.exists(refused):
        return
    gc.disable()  # as in flow.py
    from stic_ray.train.loop import train

    gc.freeze()
    gc.enable()
    try:
        train(job)
    except ValueError as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        package = Path(__file__).parents[1]
        if raised_in.is_relative_to(package / "train") or raised_in.is_relative_to(package / "vlm"):
            storage.write_bytes(refused, str(error).encode())
        raise
