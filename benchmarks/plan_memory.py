"""Peaks of trainings of several sizes, each in a process of its own, beside what the planner says of them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from peer_setting import ANSWER, CPU, PATCHES, PROMPT, SMALL, Shape, make_talks, save_model
from stic_ray import vlm
from stic_ray.config import DpoLoss, Execution, FullFinetune, Lora, SftLoss, Training
from stic_ray.planner.memory import Work, pair_row, sample_row, training_memory
from stic_ray.train import checkpoints, loop
from stic_ray.train.data import Item, known
from stic_ray.train.feed import encode_parts, read_ahead
from stic_ray.train.job import Job, PairData

STEPS = 3
# Every buffer is given back when it is freed, so that the peak is what was held, not what the allocator kept.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model by its width and depth, how it is trained, and how many items a step has."""

    hidden: int
    layers: int
    full: bool = False
    recompute: bool = False
    batch: int = 2


CASES = {
    "small, adapters": Case(hidden=384, layers=6),
    "middle, adapters": Case(hidden=768, layers=10),
    "large, adapters": Case(hidden=1280, layers=12),
    "middle, adapters, recomputed": Case(hidden=768, layers=10, recompute=True, batch=4),
    "middle, all weights": Case(hidden=768, layers=10, full=True),
}


def training_of(case: Case) -> Training:
    """DPO of adapters, or fine-tuning of all weights."""
    return Training(
        loss=SftLoss() if case.full else DpoLoss(beta=0.1, alpha=0.0, reduction="sum"),
        weights=FullFinetune() if case.full else Lora(rank=16, lora_alpha=32),
        lr=1e-4,
        epochs=1,
        global_batch=case.batch,
        warmup_ratio=0.0,
    )


def execution_of(case: Case) -> Execution:
    """A step is one row."""
    return Execution(row_tokens=case.batch * (PATCHES + PROMPT + 2 * ANSWER), recompute_activations=case.recompute)


def planned(case: Case, model: Path) -> dict[str, float]:
    """What the planner says, by part."""
    training, execution = training_of(case), execution_of(case)
    beginning = PATCHES + PROMPT
    row = (sample_row if case.full else pair_row)(
        case.batch * (beginning + (1 if case.full else 2) * ANSWER), beginning, ANSWER
    )
    work = Work(row=row, items=case.batch, dtype="float32", execution=execution, training=training)
    return dict(training_memory("", vlm.read_sizes(str(model), training), work, None).parts)


def measured(case: Case, folder: Path) -> dict[str, float]:
    """The peak of resident memory over what the process held before its model, in this process."""
    torch.set_num_threads(2)
    training, execution, model = training_of(case), execution_of(case), str(folder / "model")
    job = Job(
        model_uri=model,
        dtype="float32",
        training=training,
        data=PairData(parts=()),
        seed=0,
        output="",
        execution=execution,
    )
    items = _items(case, folder)
    processor = vlm.load_processor(model)
    torch.randn(512, 512) @ torch.randn(512, 512)  # the libraries have started
    before = CPU.reset_peak()
    scorer = vlm.AnswerScorer(loop.trainable(model, job, quantize=False))
    if case.recompute:
        loop.recompute_activations(scorer)
    trainer = loop.Trainer(job, scorer, loop.Workers(rank=0, world=1), lambda: False)
    checkpoints.start_moments(scorer, trainer.optimizer)
    loaded = CPU.reset_peak()
    encode = partial(encode_parts, processor=processor, job=job)
    batches = read_ahead(lambda step: items[step * case.batch : (step + 1) * case.batch], range(STEPS), encode=encode)
    for batch in batches:
        trainer.log.append(trainer.take_step(batch, ids=[item.id for part in batch.parts for item in part.items]))
    return {"peak": float(CPU.peak() - before), "loaded": float(loaded - before)}


def _items(case: Case, folder: Path) -> list[Item]:
    talks = make_talks(_SHAPE, folder / "images", STEPS * case.batch)
    answers = 1 if case.full else 2
    return [
        Item(
            id=talk.image.name,
            image_uri=str(talk.image),
            conversations=tuple(talk.turns(answer) for answer in (talk.chosen, talk.rejected)[:answers]),
            known=tuple(known(logp=[-10.0] * ANSWER) for _ in range(answers)),
        )
        for talk in talks
    ]


_SHAPE = Shape(family="llava", side_px=336, batch=2)


def save(case: Case, folder: Path) -> None:
    """A random checkpoint of a case's size."""
    size = replace(SMALL, hidden=case.hidden, mlp=_mlp(case.hidden), layers=case.layers)
    save_model(_SHAPE, folder / "model", replace(CPU, size=size))


def _mlp(hidden: int) -> int:
    return 8 * hidden // 3 // 32 * 32


def compare(home: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """Every case: bytes that are planned and measured, the latter the median of several processes."""
    found = {}
    for number, (name, case) in enumerate(CASES.items()):
        folder = home / f"case-{number}"
        folder.mkdir()
        save(case, folder)
        parts = planned(case, folder / "model")
        runs = [_in_own_process(name, folder) for _ in range(repeats)]
        peaks = sorted(run["peak"] for run in runs)
        found[name] = {"planned": sum(parts.values()), "measured": peaks[len(peaks) // 2], "parts": parts, "runs": runs}
        print(
            f"memory, {name}: planned {sum(parts.values()) / 1e9:.3f} GB, measured {[p / 1e9 for p in peaks]}",
            flush=True,
        )
    return found


def _in_own_process(name: str, folder: Path) -> dict[str, float]:
    environment = {
        **os.environ,
        **ALLOCATOR,
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__, name, str(folder)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    print(json.dumps(measured(CASES[sys.argv[1]], Path(sys.argv[2]))))
