"""Bars of fine-tuning on selected tokens: side by side with TRL's SFTTrainer on the same samples and tokens.

As in the benchmark `dpo`: every leg a process of its own on all cores with the same allocator settings, whole steps,
the same adapters and losses. 30% of the answer tokens are trained; the others stay in the forward pass.
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

from dpo import run_leg
from harness import Bar, write_results

LEGS = ("ours", "trl")
SHAPE, BATCH, STEPS = "576", 4, 5  # the first step warms up
SHARE = 0.3


def used_tokens(number: int, count: int) -> list[bool]:
    """Which of a sample's answer tokens are trained."""
    draw = random.Random(number)
    return [draw.random() < SHARE for _ in range(count)]


def run_ours(folder: Path) -> dict[str, Any]:
    """Steps as the loop takes them."""
    from peer_setting import ANSWER, PROMPT, SHAPES, make_talks
    from peer_training import train_ours
    from stic_ray.config import Execution, SftLoss
    from stic_ray.train.data import Item, known

    shape = SHAPES[SHAPE]
    items = [
        Item(
            id=talk.image.name,
            image_uri=str(talk.image),
            conversations=(talk.turns(talk.chosen),),
            known=(known(used=used_tokens(number, ANSWER)),),
        )
        for number, talk in enumerate(make_talks(shape, folder / "images", BATCH * STEPS))
    ]
    execution = Execution(row_tokens=BATCH * (shape.image_tokens + PROMPT + ANSWER))
    return train_ours(items, SftLoss(), folder, batch=BATCH, execution=execution)


def run_trl(folder: Path) -> dict[str, Any]:
    """TRL's trainer, but that the labels of the tokens that are not trained are left out of what it collates."""
    import torch

    from peer_setting import SHAPES, make_talks
    from peer_training import train_with_trl

    rows = [
        {
            "images": [str(talk.image)],
            "prompt": [{"role": "user", "content": talk.prompt}],
            "completion": [{"role": "assistant", "content": talk.chosen}],
        }
        for talk in make_talks(SHAPES[SHAPE], folder / "images", BATCH * STEPS)
    ]
    numbers = itertools.count()

    def mask(batch: Any) -> Any:
        for labels in batch["labels"]:
            places = (labels != -100).nonzero()[:, 0]
            labels[places[~torch.tensor(used_tokens(next(numbers), len(places)))]] = -100
        return batch

    settings = {"per_device_train_batch_size": BATCH, "gradient_checkpointing": False}
    return train_with_trl("SFT", rows, folder, settings=settings, change_batch=mask)


def main() -> int:
    """Run all legs; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--leg", nargs=3, metavar=("NAME", "SHAPE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.leg:
        name, _, folder = arguments.leg
        print(json.dumps({"ours": run_ours, "trl": run_trl}[name](Path(folder))))
        return 0
    from peer_setting import SHAPES, save_model

    with tempfile.TemporaryDirectory() as work:
        save_model(SHAPES[SHAPE], Path(work) / "model")
        rounds = []
        for _ in range(arguments.repeats):
            rounds.append({leg: run_leg(__file__, leg, SHAPE, Path(work)) for leg in LEGS})
    figures: dict[str, Any] = {}
    for leg in LEGS:
        for what in ("cpu_s", "added_bytes"):
            figures[f"{leg} {what}"] = median(r[leg][what] for r in rounds)
    figures["samples/s, ours/trl"] = [r["trl"]["cpu_s"] / r["ours"]["cpu_s"] for r in rounds]
    figures["added memory, ours/trl"] = [r["ours"]["added_bytes"] / r["trl"]["added_bytes"] for r in rounds]
    losses = zip(rounds[0]["ours"]["losses"], rounds[0]["trl"]["losses"], strict=True)
    figures["largest difference of a loss"] = max(abs(a - b) for a, b in losses)
    bars = [
        Bar("ours/trl, samples/s", median(figures["samples/s, ours/trl"]), 1.2, "min"),
        Bar("largest difference of a loss", figures["largest difference of a loss"], 1e-4, "max"),
    ]
    return write_results("sft", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
