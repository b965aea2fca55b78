"""Train the tiny LVLM from nothing: `python -m stic_ray.world.train --seed 0 --out DIR`.

Four phases: the language model learns to read (text only), the vision tower learns to name each cell with the language
model's own words, captions align the two (`DIR/aligned`), visual instructions finish (`DIR/base`). At most 15 minutes
of CPU time; set OMP_NUM_THREADS=1 and OMP_WAIT_POLICY=PASSIVE, which is fastest at this size.
"""

import argparse
import logging
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `--help` answers without torch
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

    from stic_ray.world.batches import Batch

logger = logging.getLogger(__name__)

_BATCH = 32
_TEXT_BATCH = 16
_VISION_BATCH = 64
_LR = 2e-3
_WARMUP_STEPS = 60
_REPORT_STEPS = 200
_RETRIEVAL_SHARE = 0.45
_TEXT_SHARE = 0.2
_ALL_TOKENS_WEIGHT = 0.5
_AVERAGED_SHARE = 0.4
_AVERAGE_RATE = 0.01
# Fewer steps would leave no weights to average.
_MIN_AVERAGED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Optimiser steps of the phases."""

    text: int = 2000
    vision: int = 900
    captions: int = 450
    instructions: int = 1900

    def scaled(self, factor: float) -> "Schedule":
        """The same phases, shorter or longer."""
        return Schedule(
            text=math.ceil(self.text * factor),
            vision=math.ceil(self.vision * factor),
            captions=math.ceil(self.captions * factor),
            instructions=max(_MIN_AVERAGED_STEPS, math.ceil(self.instructions * factor)),
        )


def train(seed: int, out: Path, schedule: Schedule) -> None:
    """Train a model, a function of the seed, and write `out/aligned` and `out/base`."""
    from stic_ray.world import batches, model

    rng = random.Random(seed)
    lvlm = model.build_model(seed)
    language = lvlm.model.language_model
    projector = lvlm.model.multi_modal_projector
    sample_images = _image_sampler(seed)

    def text_loss(progress: float) -> "Tensor":
        make = batches.retrieval_turns if progress < _RETRIEVAL_SHARE else batches.text_turns
        turns = [make(scene, rng) for scene in _sample(rng, _TEXT_BATCH, biased=False)]
        return _answer_loss(lvlm, batches.collate(turns, None), other_tokens=_ALL_TOKENS_WEIGHT)

    def caption_loss(progress: float) -> "Tensor":
        scenes = _sample(rng, _BATCH, biased=True)
        turns = [batches.caption_turns(scene, rng) for scene in scenes]
        return _answer_loss(lvlm, batches.collate(turns, sample_images(scenes)))

    def instruction_loss(progress: float) -> "Tensor":
        if rng.random() < _TEXT_SHARE:
            turns = [batches.text_turns(scene, rng) for scene in _sample(rng, _BATCH, biased=False)]
            return _answer_loss(lvlm, batches.collate(turns, None))
        scenes = _sample(rng, _BATCH, biased=True)
        turns = [batches.instruction_turns(scene, rng) for scene in scenes]
        return _answer_loss(lvlm, batches.collate(turns, sample_images(scenes)))

    lvlm.requires_grad_(False)
    language.requires_grad_(True)
    _fit("text", lvlm, text_loss, schedule.text)
    language.requires_grad_(False)
    projector.requires_grad_(True)
    lvlm.model.vision_tower.requires_grad_(True)
    _fit("vision", lvlm, _vision_loss(lvlm, rng, sample_images), schedule.vision)
    lvlm.model.vision_tower.requires_grad_(False)
    language.requires_grad_(True)
    _fit("captions", lvlm, caption_loss, schedule.captions)
    _finish(lvlm, out / "aligned")
    averaged = _Averaged(lvlm)
    _fit("instructions", lvlm, instruction_loss, schedule.instructions, averaged)
    averaged.copy_into(lvlm)
    _finish(lvlm, out / "base")


def _sample(rng: random.Random, count: int, *, biased: bool) -> list[Any]:
    from stic_ray.world.scenes import sample_scene

    return [sample_scene(rng, biased=biased) for _ in range(count)]


def _image_sampler(seed: int) -> "Callable[[Any], Tensor]":
    import numpy as np

    from stic_ray.world.batches import normalize
    from stic_ray.world.scenes import render

    pixels_rng = np.random.default_rng(seed)
    return lambda scenes: normalize(render(scenes, pixels_rng))


def _finish(lvlm: Any, directory: Path) -> None:
    from stic_ray.world import model

    model.round_weights(lvlm)
    model.save(lvlm, directory)
    logger.info("wrote %s at %.0f s of CPU time", directory, time.process_time())


def _answer_loss(lvlm: Any, batch: "Batch", *, other_tokens: float = 0.0) -> "Tensor":
    """Mean cross entropy (nats) of the answers' tokens, end tokens included, plus a weight times that of the others.

    Predicting a description's and a question's words too is what teaches a model from nothing to read.
    """
    from torch.nn.functional import cross_entropy

    images = {} if batch.pixel_values is None else {"pixel_values": batch.pixel_values}
    # No attention mask: padding is on the right of causal attention, and no answer sees it.
    hidden_BTH = lvlm.model(input_ids=batch.input_ids, use_cache=False, **images).last_hidden_state[:, :-1]
    targets_BT, trained_BT = batch.input_ids[:, 1:], batch.trained[:, 1:]
    loss = cross_entropy(lvlm.lm_head(hidden_BTH[trained_BT]), targets_BT[trained_BT])
    if other_tokens:
        others_BT = (targets_BT != lvlm.config.pad_token_id) & ~trained_BT
        loss = loss + other_tokens * cross_entropy(lvlm.lm_head(hidden_BTH[others_BT]), targets_BT[others_BT])
    return loss


def _vision_loss(
    lvlm: Any, rng: random.Random, sample_images: "Callable[[Any], Tensor]"
) -> "Callable[[float], Tensor]":
    """Cross entropy of each projected patch's shape, colour and position under the words' embeddings."""
    import torch
    from torch.nn.functional import cross_entropy

    from stic_ray.world.model import NOTHING, vocabulary
    from stic_ray.world.scenes import COLORS, NUM_CELLS, POSITIONS, SHAPES, sample_scene

    ids = vocabulary()
    words = lvlm.get_input_embeddings().weight
    shapes, colors = (torch.tensor([ids[word] for word in (NOTHING, *names)]) for names in (SHAPES, COLORS))
    positions = torch.tensor([ids[word] for word in POSITIONS])

    def loss(progress: float) -> "Tensor":
        scenes = [sample_scene(rng, biased=True, min_objects=3) for _ in range(_VISION_BATCH)]
        shape_ND = torch.zeros(_VISION_BATCH, NUM_CELLS, dtype=torch.long)
        color_ND = torch.zeros_like(shape_ND)
        for index, scene in enumerate(scenes):
            for item in scene:
                shape_ND[index, item.cell] = 1 + SHAPES.index(item.shape)
                color_ND[index, item.cell] = 1 + COLORS.index(item.color)
        seen = lvlm.model.vision_tower(pixel_values=sample_images(scenes)).last_hidden_state[:, 1:]
        patches = lvlm.model.multi_modal_projector(seen).flatten(0, 1)
        place_ND = torch.arange(NUM_CELLS).repeat(_VISION_BATCH)
        return (
            cross_entropy(patches @ words[shapes].T, shape_ND.flatten())
            + cross_entropy(patches @ words[colors].T, color_ND.flatten())
            + 0.3 * cross_entropy(patches @ words[positions].T, place_ND)
        )

    return loss


class _Averaged:
    """The running average of a model's weights over a phase's last steps."""

    def __init__(self, lvlm: "nn.Module") -> None:
        self._weights: dict[str, Tensor] = {}
        self._lvlm = lvlm

    def update(self, progress: float) -> None:
        if progress < 1 - _AVERAGED_SHARE:
            return
        current = self._lvlm.state_dict()
        if not self._weights:
            self._weights = {name: tensor.clone() for name, tensor in current.items()}
        for name, tensor in self._weights.items():
            if tensor.is_floating_point():
                tensor.lerp_(current[name], _AVERAGE_RATE)

    def copy_into(self, lvlm: "nn.Module") -> None:
        lvlm.load_state_dict(self._weights)


def _fit(
    name: str, lvlm: Any, loss_at: "Callable[[float], Tensor]", num_steps: int, averaged: _Averaged | None = None
) -> None:
    """Minimise a loss over the model's trainable weights: AdamW, warm-up and cosine, clipped gradients."""
    import torch

    weights: Iterable[nn.Parameter] = [weight for weight in lvlm.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_LR, weight_decay=0.01, betas=(0.9, 0.98))
    lvlm.train()
    recent: list[float] = []
    for step in range(num_steps):
        progress = step / num_steps
        factor = min(1.0, (step + 1) / _WARMUP_STEPS) * (0.51 + 0.49 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = _LR * factor
        loss = loss_at(progress)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        recent.append(loss.item())
        if averaged:
            averaged.update(progress)
        if (step + 1) % _REPORT_STEPS == 0 or step + 1 == num_steps:
            mean = sum(recent) / len(recent)
            recent.clear()
            logger.info("%s %d/%d loss %.3f, %.0f s of CPU time", name, step + 1, num_steps, mean, time.process_time())
    lvlm.eval()


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stic_ray.world.train", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="initial weights and data")
    parser.add_argument("--out", type=Path, required=True, help="directory for aligned/ and base/")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every phase's steps (1: the shipped model)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    import torch

    torch.set_num_threads(1)
    train(arguments.seed, arguments.out, Schedule().scaled(arguments.scale))
    return 0


if __name__ == "__main__":
    sys.exit(main())
