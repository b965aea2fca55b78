"""An engine on CPUs survives steps whose images use up the room for the vision tower's output."""

from pathlib import Path

import numpy as np
from PIL import Image

from random_models import Size, save_random_model
from stic_ray.config import Sampling, Vllm
from stic_ray.engines.protocol import Request
from stic_ray.engines.vllm import VllmEngine

_ROOM = 4096  # tokens of one step, and image tokens encoded in one
_IMAGE = 576  # tokens
_SAMPLING = Sampling(temperature=1.0, max_new_tokens=4)


def _ask(prompt: str, seeds: range) -> list[Request]:
    images = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)) for seed in seeds
    ]
    return [Request(prompt=prompt, image=image, sampling=_SAMPLING, seed=i) for i, image in enumerate(images)]


def test_an_image_waits_for_room_where_others_have_their_text_in_the_cache(tmp_path: Path) -> None:
    """In one step: old images, whose few new tokens leave room for fresh prompts, but not for fresh images."""
    model = save_random_model("llava", tmp_path / "model", Size(tile_px=336, hidden=256, layers=4))
    engine = VllmEngine(str(model), "float32", Vllm(cpu_cache_gib=1.0, eager=True))
    full = _ROOM // _IMAGE
    old, busy, fresh = range(3 * full), range(100, 100 + full), range(200, 200 + 3 * full)
    engine.generate(_ask("describe the image", old))
    # While the engine reads the `busy` ones, the others gather.
    answers = engine.generate(_ask("what is it ?", busy) + _ask("what is it ?", old) + _ask("what is it ?", fresh))
    assert not any(answer.error for answer in answers)
    assert sum(answer.num_cached_tokens > 0 for answer in answers) >= len(old)
    engine.shut_down()
