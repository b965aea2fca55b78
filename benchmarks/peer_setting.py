"""What training and its peers are measured on: a random LLaVA, pairs and samples of exact lengths."""

import itertools
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from random_models import LLAVA_7B, Size, save_random_model
from stic_ray.records import Turn

THREADS = len(os.sched_getaffinity(0))
TILE = 336
PATCHES = (TILE // 14) ** 2
SMALL = Size(
    tile_px=TILE,
    hidden=512,
    mlp=1376,
    layers=8,
    head=64,
    key_value_share=1.0,
    vocabulary=32_000,
    positions=4096,
    vision_hidden=256,
    vision_mlp=1024,
    vision_layers=4,
    vision_heads=4,
    spread=0.04,
)
PROMPT, ANSWER = 32, 128  # tokens; the prompt's with the template's and without the image's, the answer's with its end
AHEAD = 2  # steps, the most that any way reads ahead
BETA, RATE = 0.1, 1e-4
# Large buffers that are freed come from the system again, page by page: glibc keeps them with these, on all sides.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "USER:", "ASSISTANT:")
_WORDS = SMALL.vocabulary - len(_SPECIAL)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """`family` with images of `side_px`; `batch` pairs or samples a step."""

    family: str
    side_px: int
    batch: int

    @property
    def image_tokens(self) -> int:
        """Of an image: the patches of one tile, or of five and a line's end for each row of theirs."""
        if self.family == "llava":
            return PATCHES
        rows = 2 * TILE // 14
        return PATCHES + rows * (rows + 1)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a leg runs, on a model of which size with adapters of which rank, the precision of the weights that do not
    train, and what is measured there: CPU seconds and resident memory, or seconds and memory of the GPU."""

    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    size: Size
    rank: int
    shapes: Mapping[str, Shape]

    def clock(self) -> float:
        """Seconds, of which differences count: on CPUs those that all cores worked."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def reset_peak(self) -> int:
        """Forget the peak of memory so far; what is held now, in bytes."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")

    def peak(self) -> int:
        """The most that was held, in bytes."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else _status("VmHWM")


CPU = Place(
    device="cpu",
    dtype="float32",
    size=SMALL,
    rank=16,
    shapes={
        "576": Shape(family="llava", side_px=TILE, batch=2),
        "2880": Shape(family="llava_next", side_px=2 * TILE, batch=1),
    },
)
GPU = Place(
    device="cuda",
    dtype="bfloat16",
    size=LLAVA_7B,
    rank=128,
    shapes={
        "576": Shape(family="llava", side_px=TILE, batch=4),
        "2880": Shape(family="llava_next", side_px=2 * TILE, batch=1),
    },
)


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A prompt about the image in a file, and two answers."""

    image: Path
    prompt: str
    chosen: str
    rejected: str

    def turns(self, answer: str) -> list[Turn]:
        """The conversation with an answer."""
        return [Turn(role="user", text=self.prompt), Turn(role="assistant", text=answer)]


def save_model(shape: Shape, folder: Path, place: Place) -> None:
    """A random checkpoint of the place's size, whose tokenizer makes a token of every word."""
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *(f"w{n}" for n in range(_WORDS))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        additional_special_tokens=["<image>"],
    )
    save_random_model(
        shape.family,
        folder,
        place.size,
        tokenizer=tokenizer,
        device=place.device,
        dtype=getattr(torch, place.dtype),
    )


def make_talks(shape: Shape, folder: Path, count: int) -> list[Talk]:
    """Talks of exact lengths about images of noise; the same for the same arguments."""
    folder.mkdir(exist_ok=True)
    draw, pixels = random.Random(1), np.random.default_rng(1)

    def words(number: int) -> str:
        return " ".join(f"w{draw.randrange(_WORDS)}" for _ in range(number))

    talks = []
    for number in range(count):
        path = folder / f"{number:03}.png"
        sides = (shape.side_px, shape.side_px, 3)
        Image.fromarray(pixels.integers(0, 256, sides, dtype=np.uint8)).save(path)
        # The template has three tokens of its own in a prompt, and one after an answer.
        chosen, rejected = words(ANSWER - 1), words(ANSWER - 1)
        talks.append(Talk(image=path, prompt=words(PROMPT - 3), chosen=chosen, rejected=rejected))
    return talks


def set_adapters(model: torch.nn.Module) -> None:
    """The same adapters everywhere, none of them 0, so that all get a gradient."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if ".lora_" in name:
                drawn = torch.randn(parameter.shape, generator=generator)  # on the CPU: the same wherever it goes
                parameter.copy_(drawn * (0.02 if ".lora_A." in name else 0.01))


# Measuring, the same for all


class Steps:
    """Seconds of steps and the peak of memory since the first began."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._marks: list[tuple[float, float]] = []
        self._before = place.reset_peak()

    def mark(self) -> None:
        """A step has ended, or the first begins."""
        self._marks.append((self._place.clock(), time.perf_counter()))

    def figures(self) -> dict[str, float]:
        """Medians over the steps but the first, which warms up, and the last, beside which nothing is read for those
        that follow; and the memory that all added."""
        marks = self._marks[1:-AHEAD]
        pairs = list(itertools.pairwise(marks))
        return {
            "step_s": median(b[0] - a[0] for a, b in pairs),
            "wall_s": median(b[1] - a[1] for a, b in pairs),
            "added_bytes": self._place.peak() - self._before,
        }


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def batches(talks: Sequence[Talk], size: int) -> list[Sequence[Talk]]:
    """Talks in order."""
    return [talks[start : start + size] for start in range(0, len(talks), size)]
