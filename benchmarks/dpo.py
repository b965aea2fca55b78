"""Bars of preference training: side by side with TRL's DPOTrainer on the same pairs, losses and adapters.

Every leg is a process of its own on all cores with the same allocator settings; a step is all that it takes: reading
and processing images, forward, backward, optimizer. The peer also runs as it would on a GPU, where it scores answer
positions only (`trl-answers`), so that nobody takes a CPU's artefact for a gain. The FLOP-count limits stand beside.
With `--gpu` all run on one GPU in bfloat16 and the wall clock counts; there are no bars of speed there.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from harness import Bar, lacks_gpu, write_results
from peer_setting import (
    ALLOCATOR,
    ANSWER,
    BETA,
    CPU,
    GPU,
    HIDDEN,
    LAYERS,
    MLP,
    PATCHES,
    PROMPT,
    RANK,
    SHAPES,
    THREADS,
    VISION_HIDDEN,
    VISION_LAYERS,
    VOCABULARY,
    Place,
    batches,
    make_talks,
    save_model,
    seconds,
)
from peer_training import train_ours, train_with_trl
from stic_ray.config import DpoLoss, Execution
from stic_ray.engines import start_scorer
from stic_ray.engines.protocol import Conversation
from stic_ray.images import decode
from stic_ray.train.data import Item, known

LEGS = {
    "576": ("ours", "trl", "trl-answers", "ours-recompute", "trl-recompute"),
    "2880": ("ours", "trl", "trl-answers"),
}
_CLOSE = {"float32": 1e-4, "bfloat16": 0.05}  # losses
STEPS = {"576": 5, "2880": 4}  # of which the first warms up
logger = logging.getLogger("dpo")


def run_ours(shape_name: str, folder: Path, place: Place, *, recompute: bool) -> dict[str, Any]:
    """Scores as the stage makes them, then steps as the loop takes them."""
    torch.set_num_threads(THREADS)
    shape = SHAPES[shape_name]
    row_tokens = shape.batch * (shape.image_tokens + PROMPT + 2 * ANSWER)
    scorer = start_scorer(model_uri=str(folder / "model"), dtype=place.dtype, row_tokens=row_tokens)
    items = []

    def score(part: Sequence[Any]) -> None:
        images = [decode(talk.image.read_bytes()) for talk in part]
        asked = [
            Conversation(turns=talk.turns(answer), image=image)
            for talk, image in zip(part, images, strict=True)
            for answer in (talk.chosen, talk.rejected)
        ]
        found = scorer.score(asked, 10_000)
        for talk, both in zip(part, zip(found[::2], found[1::2], strict=True), strict=True):
            items.append(
                Item(
                    id=talk.image.name,
                    image_uri=str(talk.image),
                    conversations=(talk.turns(talk.chosen), talk.turns(talk.rejected)),
                    known=tuple(known(each.token_ids, each.logp) for each in both),
                )
            )

    talks = make_talks(shape, folder / "images", shape.batch * STEPS[shape_name])
    scoring = [seconds(partial(score, part), place) for part in batches(talks, shape.batch)]
    execution = Execution(row_tokens=row_tokens, recompute_activations=recompute)
    loss = DpoLoss(beta=BETA, alpha=0.0, reduction="sum")
    found = train_ours(items, loss, folder, place=place, batch=shape.batch, execution=execution)
    return {**found, "scoring_s": median(scoring[1:])}


def run_trl(shape_name: str, folder: Path, place: Place, *, recompute: bool, answers_only: bool) -> dict[str, Any]:
    """TRL's trainer, where it scores all positions, as on a CPU, or answers alone, as on a GPU."""
    import trl.trainer.utils

    if answers_only:
        trl.trainer.utils._use_triton = lambda device: True  # all that it decides here is which positions are scored
    shape = SHAPES[shape_name]
    rows = [
        {
            "images": [str(talk.image)],
            "prompt": [{"role": "user", "content": talk.prompt}],
            "chosen": [{"role": "assistant", "content": talk.chosen}],
            "rejected": [{"role": "assistant", "content": talk.rejected}],
        }
        for talk in make_talks(shape, folder / "images", shape.batch * STEPS[shape_name])
    ]
    settings = {"per_device_train_batch_size": shape.batch, "beta": BETA, "gradient_checkpointing": recompute}
    return train_with_trl("DPO", rows, folder, place=place, settings=settings)


# The limit


def flops(shape_name: str) -> dict[str, float]:
    """FLOPs of a pair, in units of 1e9, by way: products with frozen weights forward and backward, the adapters'
    gradients, attention, the head at the positions that are scored, and the vision tower."""
    shape = SHAPES[shape_name]
    weights = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * MLP)
    adapters = LAYERS * RANK * (8 * HIDDEN + 3 * (HIDDEN + MLP))
    vision = 12 * VISION_LAYERS * VISION_HIDDEN**2 * 0.75  # all but the last layer are used, of a pass
    tiles = shape.image_tokens // PATCHES
    beginning, whole = shape.image_tokens + PROMPT, shape.image_tokens + PROMPT + ANSWER

    def total(tokens: int, attended: float, scored: int, head: float, forwards: int, passes: int) -> float:
        products = 2 * tokens * (weights * (1 + forwards) + 3 * adapters)
        attention = 4 * attended * HIDDEN * LAYERS * (2.5 + forwards)
        return (
            products + attention + 2 * scored * HIDDEN * VOCABULARY * head + 2 * PATCHES * tiles * vision * passes
        ) / 1e9

    twice = 2 * whole
    shared = beginning + 2 * ANSWER
    attended = beginning**2 / 2 + 2 * (ANSWER * beginning + ANSWER**2 / 2)
    return {
        "trl": total(twice, whole**2, twice, 4, 2, 4),
        "trl-answers": total(twice, whole**2, 2 * ANSWER, 4, 2, 4),
        "ours": total(shared, attended, 2 * ANSWER, 2, 1, 1),
    }


# All legs


def main() -> int:
    """Run all legs; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    add_leg(parser)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    place = GPU if arguments.gpu else CPU
    if arguments.leg:
        name, shape, folder = arguments.leg
        recompute = name.endswith("recompute")
        if name.startswith("ours"):
            found = run_ours(shape, Path(folder), place, recompute=recompute)
        else:
            found = run_trl(shape, Path(folder), place, recompute=recompute, answers_only=name == "trl-answers")
        print(json.dumps(found))
        return 0
    if arguments.gpu and lacks_gpu("dpo"):
        return 0
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as work:
        for name, shape in SHAPES.items():
            folder = Path(work) / name
            folder.mkdir()
            save_model(shape, folder / "model")
            legs = [leg for leg in LEGS[name] if place == CPU or leg != "trl-answers"]  # on a GPU that is `trl`
            rounds = [
                {leg: run_leg(__file__, leg, name, folder, place) for leg in legs} for _ in range(arguments.repeats)
            ]
            figures[name] = found = _summarise(name, rounds)
            bars += _bars(name, found, place)
    return write_results("dpo" if place == CPU else "dpo_gpu", figures, bars)


def add_leg(parser: argparse.ArgumentParser) -> None:
    """The arguments that say where all run, and those of a leg's own process."""
    parser.add_argument("--gpu", action="store_true", help="on one GPU, in bfloat16")
    parser.add_argument("--leg", nargs=3, metavar=("NAME", "SHAPE", "FOLDER"), help=argparse.SUPPRESS)


def run_leg(script: str, leg: str, shape: str, folder: Path, place: Place) -> dict[str, Any]:
    """One leg in a process of its own."""
    own = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    own |= {"CUDA_VISIBLE_DEVICES": ""} if place == CPU else {}
    command = [sys.executable, script, "--leg", leg, shape, str(folder), *(["--gpu"] if place == GPU else [])]
    done = subprocess.run(command, env={**os.environ, **own, **ALLOCATOR}, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{leg}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    logger.info("%s, %s: %.2f s a step, %.2f GB", shape, leg, found["step_s"], found["added_bytes"] / 1e9)
    return found


def _summarise(name: str, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and ratios of legs that ran in one round."""
    figures: dict[str, Any] = {}
    for leg in rounds[0]:
        for what in ("step_s", "added_bytes"):
            figures[f"{leg} {what}"] = median(r[leg][what] for r in rounds)
    for peer in (leg for leg in rounds[0] if leg.startswith("trl")):
        ours = "ours-recompute" if peer == "trl-recompute" else "ours"
        figures[f"pairs/s, {ours}/{peer}"] = [r[peer]["step_s"] / r[ours]["step_s"] for r in rounds]
        figures[f"pairs/s, {ours}/{peer}, references counted once"] = [
            r[peer]["step_s"] / (r[ours]["step_s"] + r[ours]["scoring_s"]) for r in rounds
        ]
        figures[f"added memory, {ours}/{peer}"] = [r[ours]["added_bytes"] / r[peer]["added_bytes"] for r in rounds]
    figures["data wait share"] = median(r["ours"]["data_wait_share"] for r in rounds)
    first = rounds[0]
    pairs = [zip(first["ours"]["losses"], first[leg]["losses"], strict=True) for leg in first]
    figures["largest difference of a loss"] = max(abs(a - b) for each in pairs for a, b in each)
    counted = flops(name)
    for peer in first.keys() & {"trl", "trl-answers"}:
        limit = counted[peer] / counted["ours"]
        figures[f"limit by FLOPs, ours/{peer}"] = limit
        figures[f"share of the limit, ours/{peer}"] = median(figures[f"pairs/s, ours/{peer}"]) / limit
    return figures


def _bars(name: str, figures: Mapping[str, Any], place: Place) -> list[Bar]:
    fast = median(figures["pairs/s, ours/trl"])
    close = Bar(
        f"{name}: largest difference of a loss", figures["largest difference of a loss"], _CLOSE[place.dtype], "max"
    )
    if place == GPU:
        return [close]
    bars = [close, Bar(f"{name}: data wait share", figures["data wait share"], 0.02, "max")]
    if name == "2880":
        return [*bars, Bar(f"{name}: ours/trl, pairs/s", fast, 3.0, "min")]
    once = median(figures["pairs/s, ours/trl, references counted once"])
    memory = median(figures["added memory, ours/trl"])
    return [
        *bars,
        Bar(f"{name}: ours/trl, pairs/s", fast, 2.7, "min"),
        Bar(f"{name}: ours/trl, pairs/s, references counted once", once, 1.9, "min"),
        Bar(f"{name}: ours/trl, added memory", memory, 0.30, "max"),
    ]


if __name__ == "__main__":
    sys.exit(main())
