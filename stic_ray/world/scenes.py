"""Scenes of coloured shapes on a 3x3 grid, and their images.

A scene is a tuple of objects in reading order, no two alike in colour and shape. Biased scenes carry a language prior
(frequent shapes, typical colours, companions) for the SFT data; uniform scenes have none.
Legend: N = scenes, H, W = pixels, C = RGB.
"""

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GRID = 3
CELL_PX = 16
IMAGE_PX = GRID * CELL_PX
NUM_CELLS = GRID * GRID
MAX_OBJECTS = 4

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "blue", "green", "yellow", "purple", "orange")
POSITIONS = ("top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right")

TYPICAL_COLOR = dict(zip(SHAPES, COLORS, strict=True))
COMPANION = {
    "circle": "star",
    "star": "circle",
    "square": "triangle",
    "triangle": "square",
    "cross": "ring",
    "ring": "cross",
}

_RGB = {
    "red": (220, 30, 30),
    "blue": (40, 70, 230),
    "green": (30, 170, 50),
    "yellow": (240, 220, 40),
    "purple": (140, 40, 170),
    "orange": (245, 140, 20),
}
_SHAPE_WEIGHTS = (0.24, 0.19, 0.15, 0.12, 0.10, 0.08)
_TYPICAL_SHARE = 0.65
_COMPANION_SHARE = 0.6

_RADII_PX = (4.6, 5.4, 6.4)
_SHIFTS_PX = (-1.0, 0.0, 1.0)
_SUPERSAMPLING = 4
_COLOR_JITTER = 22.0
_PIXEL_NOISE = (10.0, 45.0)
_BACKGROUND = (20.0, 95.0)
_BACKGROUND_TINT = 12.0

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """A coloured shape in a cell; cells count from 0 in reading order."""

    color: str
    shape: str
    cell: int

    @property
    def name(self) -> str:
        """Colour and shape: what identifies an object."""
        return f"{self.color} {self.shape}"

    @property
    def row(self) -> int:
        """Row of the cell, 0 at the top."""
        return self.cell // GRID

    @property
    def column(self) -> int:
        """Column of the cell, 0 at the left."""
        return self.cell % GRID


Scene = tuple[SceneObject, ...]


def sample_scene(rng: random.Random, *, biased: bool, min_objects: int = 1) -> Scene:
    """A scene of up to MAX_OBJECTS objects in reading order."""
    cells = rng.sample(range(NUM_CELLS), rng.randint(min_objects, MAX_OBJECTS))
    objects: list[SceneObject] = []
    for cell in cells:
        names = {known.name for known in objects}
        while True:
            color, shape = _sample_biased(rng, objects) if biased else (rng.choice(COLORS), rng.choice(SHAPES))
            if f"{color} {shape}" not in names:
                break
        objects.append(SceneObject(color, shape, cell))
    return tuple(sorted(objects, key=lambda item: item.cell))


def _sample_biased(rng: random.Random, objects: Sequence[SceneObject]) -> tuple[str, str]:
    if objects and rng.random() < _COMPANION_SHARE:
        shape = COMPANION[rng.choice(objects).shape]
    else:
        shape = rng.choices(SHAPES, _SHAPE_WEIGHTS)[0]
    color = TYPICAL_COLOR[shape] if rng.random() < _TYPICAL_SHARE else rng.choice(COLORS)
    return color, shape


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Images of scenes, uint8 [N, H, W, C]: jittered colour, size and place on a noisy background."""
    count = len(scenes)
    background = rng.uniform(*_BACKGROUND, (count, 1, 1, 1)) + rng.uniform(
        -_BACKGROUND_TINT, _BACKGROUND_TINT, (count, 1, 1, 3)
    )
    pixels = np.broadcast_to(background, (count, IMAGE_PX, IMAGE_PX, 3)).astype(np.float32)
    sprites = _sprites()
    for index, scene in enumerate(scenes):
        for item in scene:
            variants = sprites[item.shape]
            mask = variants[rng.integers(len(variants))][..., None]
            color = np.clip(np.array(_RGB[item.color]) + rng.normal(0.0, _COLOR_JITTER, 3), 0, 255)
            top, left = item.row * CELL_PX, item.column * CELL_PX
            cell = pixels[index, top : top + CELL_PX, left : left + CELL_PX]
            cell += mask * (color.astype(np.float32) - cell)
    noise_scale = rng.uniform(*_PIXEL_NOISE, (count, 1, 1, 1)).astype(np.float32)
    pixels += noise_scale * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@functools.cache
def _sprites() -> dict[str, NDArray[np.float32]]:
    """Coverage masks of every shape, [sizes x shifts, CELL_PX, CELL_PX] in 0..1."""
    return {
        shape: np.stack([_mask(shape, r, dx, dy) for r in _RADII_PX for dx in _SHIFTS_PX for dy in _SHIFTS_PX])
        for shape in SHAPES
    }


def _mask(shape: str, radius: float, shift_x: float, shift_y: float) -> NDArray[np.float32]:
    side = CELL_PX * _SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    center_x = (CELL_PX / 2 + shift_x) * _SUPERSAMPLING
    center_y = (CELL_PX / 2 + shift_y) * _SUPERSAMPLING
    _DRAW[shape](ImageDraw.Draw(image), center_x, center_y, radius * _SUPERSAMPLING)
    small = image.resize((CELL_PX, CELL_PX), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _box(x: float, y: float, r: float) -> Box:
    return (x - r, y - r, x + r, y + r)


def _draw_circle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse(_box(x, y, r), fill=255)


def _draw_ring(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse(_box(x, y, r), outline=255, width=int(r * 0.35))


def _draw_square(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.rectangle(_box(x, y, 0.85 * r), fill=255)


def _draw_triangle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill=255)


def _draw_cross(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    arm = 0.33 * r
    draw.rectangle((x - arm, y - r, x + arm, y + r), fill=255)
    draw.rectangle((x - r, y - arm, x + r, y + arm), fill=255)


def _draw_star(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    corners = [(r if k % 2 == 0 else 0.42 * r, k * math.pi / 5) for k in range(10)]
    draw.polygon([(x + length * math.sin(a), y - length * math.cos(a)) for length, a in corners], fill=255)


_DRAW: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float], None]] = {
    "circle": _draw_circle,
    "square": _draw_square,
    "triangle": _draw_triangle,
    "star": _draw_star,
    "cross": _draw_cross,
    "ring": _draw_ring,
}
