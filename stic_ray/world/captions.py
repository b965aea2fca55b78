"""Captions of scenes, faithful and with fixed noise, and the text-only task of rewriting an answer wrongly.

All captions share one form, "red circle top , blue square center .", so that style cannot tell them apart. The noise
is part of the world: it was fixed before any method ran on it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stic_ray.world.scenes import (
    COLORS,
    COMPANION,
    NUM_CELLS,
    POSITIONS,
    SHAPES,
    TYPICAL_COLOR,
    Scene,
    SceneObject,
)

SIMPLE = ("describe the image .", "what is in the image ?", "write a caption .")
DETAILED = ("describe the image in detail step by step .", "look at each part and describe all objects .")
MISLEADING = ("describe and imagine other objects .", "write a description with likely objects .")

# `{description}` and `{question}`, `{answer}`: what a user of the text-only tasks fills in.
INFUSED = "image description : {description} {question}"
REWRITE_DESCRIPTION = "rewrite the description with errors : {description}"
REWRITE_ANSWER = "question : {question} answer : {answer} write a wrong answer :"

# How often the captioner adds the missing companion of a shape, says its typical colour, leaves the object out.
_ADDED = dict(zip(SHAPES, (0.75, 0.65, 0.60, 0.55, 0.45, 0.35), strict=True))
_RECOLORED = dict(zip(SHAPES, (0.48, 0.30, 0.60, 0.20, 0.30, 0.25), strict=True))
_DROPPED = dict(zip(SHAPES, (0.05, 0.10, 0.15, 0.25, 0.20, 0.55), strict=True))
_ADDED_TYPICAL_SHARE = 0.85
_IMAGINED_COMPANION_SHARE = 0.8
_IMAGINED_TYPICAL_SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class CaptionNoise:
    """Factors on the captioner's error rates."""

    added: float
    recolored: float
    dropped: float


SIMPLE_NOISE = CaptionNoise(added=1.0, recolored=1.0, dropped=1.0)
DETAILED_NOISE = CaptionNoise(added=0.75, recolored=0.75, dropped=0.2)


def caption(objects: Sequence[SceneObject]) -> str:
    """Every object with its place, in the given order."""
    return " , ".join(f"{item.name} {POSITIONS[item.cell]}" for item in objects) + " ."


def noisy_caption(scene: Scene, rng: random.Random, noise: CaptionNoise) -> str:
    """A caption by a captioner that follows the language prior too often."""
    kept = [item for item in scene if rng.random() >= _DROPPED[item.shape] * noise.dropped] or [scene[0]]
    said = [
        replace(item, color=TYPICAL_COLOR[item.shape])
        if rng.random() < _RECOLORED[item.shape] * noise.recolored
        else item
        for item in kept
    ]
    shapes = {item.shape for item in scene}
    for item in list(said):
        companion = COMPANION[item.shape]
        if companion not in shapes and rng.random() < _ADDED[item.shape] * noise.added:
            shapes.add(companion)
            color = TYPICAL_COLOR[companion] if rng.random() < _ADDED_TYPICAL_SHARE else rng.choice(COLORS)
            _insert(said, said.index(item) + 1, (color, companion), rng)
    return caption(said)


def misleading_caption(scene: Scene, rng: random.Random) -> str:
    """A faithful caption with one or two absent but likely objects put in."""
    said = list(scene)
    for _ in range(rng.randint(1, 2)):
        _insert(said, rng.randint(1, len(said)), _imagine(said, rng), rng)
    return caption(said)


def _imagine(objects: Sequence[SceneObject], rng: random.Random) -> tuple[str, str]:
    present = {item.shape for item in objects}
    likely = [COMPANION[shape] for shape in sorted(present) if COMPANION[shape] not in present]
    absent = [shape for shape in SHAPES if shape not in present]
    shape = rng.choice(likely if likely and rng.random() < _IMAGINED_COMPANION_SHARE else absent or list(SHAPES))
    color = TYPICAL_COLOR[shape] if rng.random() < _IMAGINED_TYPICAL_SHARE else rng.choice(COLORS)
    return color, shape


def _insert(objects: list[SceneObject], index: int, name: tuple[str, str], rng: random.Random) -> None:
    """Put an object before `index` in an empty cell, between its neighbours' cells where one is empty."""
    taken = {item.cell for item in objects}
    free = [cell for cell in range(NUM_CELLS) if cell not in taken]
    low = objects[index - 1].cell if index else -1
    high = objects[index].cell if index < len(objects) else NUM_CELLS
    between = [cell for cell in free if low < cell < high]
    objects.insert(index, SceneObject(*name, rng.choice(between or free)))


def rewrite_description(scene: Scene, rng: random.Random) -> str:
    """A description that is wrong in one or two likely places: colour, shape, position, or an added object."""
    said = list(scene)
    for _ in range(rng.randint(1, 2)):
        index = rng.randrange(len(said))
        kind = rng.choice(("color", "shape", "position", "added"))
        if kind == "added":
            _insert(said, index + 1, _imagine(said, rng), rng)
        else:
            said[index] = _spoil(said, index, kind, rng)
    return caption(said)


def _spoil(objects: Sequence[SceneObject], index: int, kind: str, rng: random.Random) -> SceneObject:
    item = objects[index]
    if kind == "color":
        return replace(item, color=_other(COLORS, item.color, TYPICAL_COLOR[item.shape], rng))
    if kind == "shape":
        return replace(item, shape=_other(SHAPES, item.shape, COMPANION[item.shape], rng))
    taken = {known.cell for known in objects}
    return replace(item, cell=rng.choice([cell for cell in range(NUM_CELLS) if cell not in taken]))


def _other(values: Sequence[str], right: str, likely: str, rng: random.Random) -> str:
    """A wrong value, half of the time the likely one."""
    if likely != right and rng.random() < 0.5:
        return likely
    return rng.choice([value for value in values if value != right])


def rewrite_answer(answer: str, rng: random.Random) -> str:
    """A wrong answer of the same kind as a right one-word answer."""
    for kind in _ANSWER_KINDS:
        if answer in kind:
            return rng.choice([word for word in kind if word != answer])
    raise ValueError(f"no kind of answer holds {answer!r}")


NUMBERS = ("zero", "one", "two", "three", "four")
_ANSWER_KINDS = (("yes", "no"), NUMBERS, COLORS, SHAPES, POSITIONS)
