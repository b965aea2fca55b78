"""Bars of preference training: side by side with TRL's DPOTrainer on the same pairs, losses and adapters.

Every leg is a process of its own on all cores with the same allocator settings; a step is all that it takes: reading
and processing images, forward, backward, optimizer. Batches are read ahead, so that steps follow those that are
measured. The pass that makes our references is a leg too. The peer also runs as it would on a GPU, where it scores
answer positions only (`trl-answers`), so that nobody takes a CPU's artefact for a gain. The FLOP-count limits stand
beside.
With `--gpu` all run on one GPU in bfloat16, on a model of LLaVA-1.5-7B's sizes with adapters of rank 128, and the wall
clock counts; there are no bars of speed there.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness import Bar, lacks_gpu, write_results
from peer_setting import (
    AHEAD,
    ALLOCATOR,
    ANSWER,
    BETA,
    CPU,
    GPU,
    PATCHES,
    PROMPT,
    THREADS,
    Place,
    Shape,
    Steps,
    Talk,
    batches,
    make_talks,
    save_model,
)
from peer_training import train_ours, train_with_trl
from stic_ray.config import DpoLoss, Execution
from stic_ray.engines import start_scorer
from stic_ray.engines.protocol import Conversation
from stic_ray.images import decode
from stic_ray.train.data import Item, known

LEGS = {
    "576": ("score", "ours", "trl", "trl-answers", "ours-recompute", "trl-recompute"),
    "2880": ("score", "ours", "trl", "trl-answers"),
}
_BARRED = ("score", "ours", "trl")  # the others are reported, of fewer rounds
_REPORTED_ROUNDS = 3
_CLOSE = {"float32": 1e-4, "bfloat16": 0.05}  # losses
STEPS = {"576": 4, "2880": 3}  # of which the first warms up
_KNOWN = "known.json"
logger = logging.getLogger("dpo")


def run_score(shape_name: str, folder: Path, place: Place) -> dict[str, Any]:
    """The references of all pairs as the stage of scores makes them, in a file."""
    shape = place.shapes[shape_name]
    scorer = start_scorer(model_uri=str(folder / "model"), dtype=place.dtype, row_tokens=_row_tokens(shape))
    measured = Steps(place)
    rows: dict[str, Any] = {}
    measured.mark()
    for part in batches(_talks(shape_name, folder, place), shape.batch):
        images = [decode(talk.image.read_bytes()) for talk in part]
        asked = [
            Conversation(turns=talk.turns(answer), image=image)
            for talk, image in zip(part, images, strict=True)
            for answer in (talk.chosen, talk.rejected)
        ]
        found = scorer.score(asked, 10_000)
        for talk, *both in zip(part, found[::2], found[1::2], strict=True):
            rows[talk.image.name] = [(each.token_ids, each.logp) for each in both]
        measured.mark()
    (folder / _KNOWN).write_text(json.dumps(rows))
    return measured.figures()


def run_ours(shape_name: str, folder: Path, place: Place, *, recompute: bool) -> dict[str, Any]:
    """Steps as the loop takes them, on references that are there."""
    shape = place.shapes[shape_name]
    rows = json.loads((folder / _KNOWN).read_text())
    items = [
        Item(
            id=talk.image.name,
            image_uri=str(talk.image),
            conversations=(talk.turns(talk.chosen), talk.turns(talk.rejected)),
            known=tuple(known(*each) for each in rows[talk.image.name]),
        )
        for talk in _talks(shape_name, folder, place)
    ]
    execution = Execution(row_tokens=_row_tokens(shape), recompute_activations=recompute)
    loss = DpoLoss(beta=BETA, alpha=0.0, reduction="sum")
    return train_ours(items, loss, folder, place=place, batch=shape.batch, execution=execution)


def _row_tokens(shape: Shape) -> int:
    return shape.batch * (shape.image_tokens + PROMPT + 2 * ANSWER)


def _talks(shape_name: str, folder: Path, place: Place) -> list[Talk]:
    shape = place.shapes[shape_name]
    return make_talks(shape, folder / "images", shape.batch * (STEPS[shape_name] + AHEAD))


def run_trl(shape_name: str, folder: Path, place: Place, *, recompute: bool, answers_only: bool) -> dict[str, Any]:
    """TRL's trainer, where it scores all positions, as on a CPU, or answers alone, as on a GPU."""
    import trl.trainer.utils

    if answers_only:
        trl.trainer.utils._use_triton = lambda device: True  # all that it decides here is which positions are scored
    shape = place.shapes[shape_name]
    rows = [
        {
            "images": [str(talk.image)],
            "prompt": [{"role": "user", "content": talk.prompt}],
            "chosen": [{"role": "assistant", "content": talk.chosen}],
            "rejected": [{"role": "assistant", "content": talk.rejected}],
        }
        for talk in _talks(shape_name, folder, place)
    ]
    settings = {"per_device_train_batch_size": shape.batch, "beta": BETA, "gradient_checkpointing": recompute}
    return train_with_trl("DPO", rows, folder, place=place, settings=settings)


# The limit


def flops(shape_name: str, place: Place) -> dict[str, float]:
    """FLOPs of a pair, in units of 1e9, by way: products with frozen weights forward and backward, the adapters'
    gradients, attention, the head at the positions that are scored, and the vision tower."""
    shape = place.shapes[shape_name]
    size = place.size
    weights = size.layers * (4 * size.hidden**2 + 3 * size.hidden * size.mlp)
    adapters = size.layers * place.rank * (8 * size.hidden + 3 * (size.hidden + size.mlp))
    vision = 12 * (size.vision_layers - 1) * size.vision_hidden**2  # of a pass; the last layer is not used
    tiles = shape.image_tokens // PATCHES
    beginning, whole = shape.image_tokens + PROMPT, shape.image_tokens + PROMPT + ANSWER

    def total(tokens: int, attended: float, scored: int, head: float, forwards: int, passes: int) -> float:
        products = 2 * tokens * (weights * (1 + forwards) + 3 * adapters)
        attention = 4 * attended * size.hidden * size.layers * (2.5 + forwards)
        logits = 2 * scored * size.hidden * size.vocabulary * head
        return (products + attention + logits + 2 * PATCHES * tiles * vision * passes) / 1e9

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
    parser.add_argument("--shapes", nargs="+", default=["576", "2880"], help="tokens of an image: which of the two")
    add_leg(parser)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    place = GPU if arguments.gpu else CPU
    if arguments.leg:
        name, shape, folder = arguments.leg
        recompute = name.endswith("recompute")
        if name == "score":
            found = run_score(shape, Path(folder), place)
        elif name.startswith("ours"):
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
        for name in arguments.shapes:
            shape = place.shapes[name]
            folder = Path(work) / name
            folder.mkdir()
            save_model(shape, folder / "model", place)
            legs = [leg for leg in LEGS[name] if place == CPU or leg != "trl-answers"]  # on a GPU that is `trl`
            rounds = [
                {
                    leg: run_leg(__file__, leg, name, folder, place)
                    for leg in legs
                    if leg in _BARRED or number < _REPORTED_ROUNDS
                }
                for number in range(arguments.repeats)
            ]
            figures[name] = found = _summarise(name, rounds, place)
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


def _summarise(name: str, rounds: Sequence[Mapping[str, Any]], place: Place) -> dict[str, Any]:
    """Medians over rounds, and ratios of legs that ran in one round."""
    figures: dict[str, Any] = {}
    first = rounds[0]
    for leg in first:
        for what in ("step_s", "added_bytes"):
            figures[f"{leg} {what}"] = median(r[leg][what] for r in rounds if leg in r)
    for peer in (leg for leg in first if leg.startswith("trl")):
        ours = "ours-recompute" if peer == "trl-recompute" else "ours"
        both = [r for r in rounds if peer in r]
        figures[f"pairs/s, {ours}/{peer}"] = [r[peer]["step_s"] / r[ours]["step_s"] for r in both]
        figures[f"pairs/s, {ours}/{peer}, references counted once"] = [
            r[peer]["step_s"] / (r[ours]["step_s"] + r["score"]["step_s"]) for r in both
        ]
        figures[f"added memory, {ours}/{peer}"] = [r[ours]["added_bytes"] / r[peer]["added_bytes"] for r in both]
    figures["data wait share"] = median(r["ours"]["data_wait_share"] for r in rounds)
    losses = [found["losses"] for leg, found in first.items() if leg != "score"]
    figures["largest difference of a loss"] = max(
        abs(a - b) for each in losses for a, b in zip(losses[0], each, strict=True)
    )
    counted = flops(name, place)
    for peer in sorted(first.keys() & {"trl", "trl-answers"}):
        limit = counted[peer] / counted["ours"]
        figures[f"limit by FLOPs, ours/{peer}"] = limit
        figures[f"share of the limit, ours/{peer}"] = median(figures[f"pairs/s, ours/{peer}"]) / limit
    if place == GPU:
        figures["ours: TFLOP/s"] = counted["ours"] * place.shapes[name].batch / figures["ours step_s"] / 1e3
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
