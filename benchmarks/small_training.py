"""Trainings of a few pairs on random images, without a run around them, for tests of steps and of what they leave."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stic_ray import vlm
from stic_ray.config import Execution, Training
from stic_ray.records import Turn
from stic_ray.train import loop
from stic_ray.train.data import Item, known
from stic_ray.train.feed import Batch, encode_parts
from stic_ray.train.job import Job, PairData

ANSWERS = ("a small dog sits on the grass", "a small cat")
_SIDES = ((60, 60), (150, 50), (60, 130), (60, 60))


def make_pairs(folder: Path) -> list[Item]:
    """A pair an image, not scored; images have several shapes."""
    made = []
    for number, (width, height) in enumerate(_SIDES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        conversations = tuple(
            [Turn(role="user", text=f"what is it {number} ?"), Turn(role="assistant", text=answer)]
            for answer in ANSWERS
        )
        made.append(Item(id=f"{number}", image_uri=str(path), conversations=conversations, known=(known(), known())))
    return made


def score_pairs(checkpoint: Path, items: Sequence[Item], dtype: str = "float32") -> list[Item]:
    """The pairs with the checkpoint's log-probabilities as their reference."""
    processor = vlm.load_processor(str(checkpoint))
    scorer = vlm.AnswerScorer(vlm.load_model(str(checkpoint), dtype))
    scored = []
    for item in items:
        row = vlm.pack(item.encode(processor))
        with torch.inference_mode():
            parts = scorer(row).split(row.num_tokens)
        scored.append(replace(item, known=tuple(known(logp=part.tolist()) for part in parts)))
    return scored


def score_alone(checkpoint: Path, groups: Sequence[vlm.Group]) -> list[float]:
    """The log-probability of each answer, in float32 on the CPU: alone in the family's own forward, from all logits."""
    model: Any = vlm.load_model(str(checkpoint), "float32")
    image_token = vlm.load_processor(str(checkpoint)).image_token_id
    found = []
    for example in (example for group in groups for example in group):
        ids = torch.tensor([example.input_ids])
        extra = {}
        if model.config.model_type == "qwen2_5_vl":  # from which it makes its positions
            extra["mm_token_type_ids"] = (ids == image_token).int()
        with torch.inference_mode():
            logp_TV = model(input_ids=ids, **example.image_inputs, **extra).logits[0].log_softmax(dim=1)
        places = [place for place, trained in enumerate(example.trained) if trained]
        found.append(sum(float(logp_TV[place - 1, example.input_ids[place]]) for place in places))
    return found


def make_job(checkpoint: Path, training: Training, *, dtype: str = "float32", output: str = "") -> Job:
    """The training of pairs; two of them lie in a row."""
    return Job(
        model_uri=str(checkpoint),
        dtype=dtype,
        training=training,
        data=PairData(parts=()),
        seed=0,
        output=output,
        execution=Execution(row_tokens=400),
    )


def train_pairs(job: Job, items: Sequence[Item], *, steps: int = 3, device: str = "cpu") -> loop.Trainer:
    """So many steps, of all pairs each; the trainer's log has them."""
    processor = vlm.load_processor(job.model_uri)
    scorer = vlm.AnswerScorer(loop.trainable(job.model_uri, job, quantize=False).to(device))
    if job.execution.recompute_activations:
        loop.recompute_activations(scorer)
    trainer = loop.Trainer(job, scorer, loop.Workers(rank=0, world=1), lambda: False)
    for _ in range(steps):
        batch = Batch(parts=tuple(encode_parts(items, processor=processor, job=job)), waited_s=0.0)
        trainer.log.append(trainer.take_step(batch, ids=[item.id for item in items]))
    return trainer
