"""Bars of fine-tuning on selected tokens: side by side with TRL's SFTTrainer on the same samples and tokens.

As in the benchmark `dpo`: every leg a process of its own on all cores with the same allocator settings, whole steps,
the same adapters and losses. 30% of the answer tokens are trained; the others stay in the forward pass.
With `--gpu` all run on one GPU in bfloat16, on a model of LLaVA-1.5-7B's sizes, without a bar of speed.
"""

import argparse
import itertools
import json
import logging
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from dpo import add_leg, run_leg
from harness import Bar, lacks_gpu, write_results
from peer_setting import AHEAD, ANSWER, CPU, GPU, PROMPT, Place, make_talks, save_model
from peer_training import train_ours, train_with_trl
from stic_ray.config import Execution, SftLoss
from stic_ray.train.data import Item, known

LEGS = ("ours", "trl")
SHAPE, BATCH, STEPS = "576", 4, 4  # the first step warms up
SHARE = 0.3


def used_tokens(number: int, count: int) -> list[bool]:
    """Which of a sample's answer tokens are trained."""
    draw = random.Random(number)
    return [draw.random() < SHARE for _ in range(count)]


def run_ours(folder: Path, place: Place) -> dict[str, Any]:
    """Steps as the loop takes them."""
    shape = place.shapes[SHAPE]
    items = [
        Item(
            id=talk.image.name,
            image_uri=str(talk.image),
            conversations=(talk.turns(talk.chosen),),
            known=(known(used=used_tokens(number, ANSWER)),),
        )
        for number, talk in enumerate(make_talks(shape, folder / "images", BATCH * (STEPS + AHEAD)))
    ]
    execution = Execution(row_tokens=BATCH * (shape.image_tokens + PROMPT + ANSWER))
    return train_ours(items, SftLoss(), folder, place=place, batch=BATCH, execution=execution)


def run_trl(folder: Path, place: Place) -> dict[str, Any]:
    """TRL's trainer, but that the labels of the tokens that are not trained are left out of what it collates."""
    rows = [
        {
            "images": [str(talk.image)],
            "prompt": [{"role": "user", "content": talk.prompt}],
            "completion": [{"role": "assistant", "content": talk.chosen}],
        }
        for talk in make_talks(place.shapes[SHAPE], folder / "images", BATCH * (STEPS + AHEAD))
    ]
    numbers = itertools.count()

    def mask(batch: Any) -> Any:
        for labels in batch["labels"]:
            places = (labels != -100).nonzero()[:, 0]
            labels[places[~torch.tensor(used_tokens(next(numbers), len(places)))]] = -100
        return batch

    settings = {"per_device_train_batch_size": BATCH, "gradient_checkpointing": False}
    return train_with_trl("SFT", rows, folder, place=place, settings=settings, change_batch=mask)


def main() -> int:
    """Run all legs; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    add_leg(parser)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    place = GPU if arguments.gpu else CPU
    if arguments.leg:
        name, _, folder = arguments.leg
        print(json.dumps({"ours": run_ours, "trl": run_trl}[name](Path(folder), place)))
        return 0
    if arguments.gpu and lacks_gpu("sft"):
        return 0
    with tempfile.TemporaryDirectory() as work:
        save_model(place.shapes[SHAPE], Path(work) / "model", place)
        rounds = []
        for _ in range(arguments.repeats):
            rounds.append({leg: run_leg(__file__, leg, SHAPE, Path(work), place) for leg in LEGS})
    figures: dict[str, Any] = {}
    for leg in LEGS:
        for what in ("step_s", "added_bytes"):
            figures[f"{leg} {what}"] = median(r[leg][what] for r in rounds)
    figures["samples/s, ours/trl"] = [r["trl"]["step_s"] / r["ours"]["step_s"] for r in rounds]
    figures["added memory, ours/trl"] = [r["ours"]["added_bytes"] / r["trl"]["added_bytes"] for r in rounds]
    losses = zip(rounds[0]["ours"]["losses"], rounds[0]["trl"]["losses"], strict=True)
    figures["largest difference of a loss"] = max(abs(a - b) for a, b in losses)
    difference = figures["largest difference of a loss"]
    if place == GPU:
        return write_results("sft_gpu", figures, [Bar("largest difference of a loss", difference, 0.05, "max")])
    bars = [
        Bar("ours/trl, samples/s", median(figures["samples/s, ours/trl"]), 1.2, "min"),
        Bar("largest difference of a loss", difference, 1e-4, "max"),
    ]
    return write_results("sft", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
