"""BPO's diffusion noise: the schedule against its formula, written out; what reaches the model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_models import Size, save_random_model
from stic_ray import vlm
from stic_ray.config import Sampling
from stic_ray.engines.protocol import Request
from stic_ray.engines.transformers_engine import TransformersEngine
from stic_ray.noise import Noise, diffuse, kept_share


def test_kept_share_equals_the_formula_in_plain_floats() -> None:
    """Tolerance 1e-6, as the product of a thousand factors."""
    kept = 1.0
    for step in range(1000):
        x = -6 + 12 * step / 999
        beta = (1 / (1 + math.exp(-x))) * (0.5e-2 - 1e-5) + 1e-5
        kept *= 1 - beta
        assert kept_share()[step] == pytest.approx(kept, abs=1e-6)
    assert kept_share()[0] > 0.9999 and 0.05 < kept_share()[999] < 0.1


def test_diffuse_mixes_signal_and_noise_by_the_schedule() -> None:
    pixels = np.linspace(-2, 2, 3 * 40 * 40, dtype=np.float32).reshape(3, 40, 40)
    for step in (0, 300, 900, 999):
        noised = diffuse(pixels, Noise(step=step, seed=1))
        eps = np.random.default_rng(1).standard_normal(pixels.shape, dtype=np.float32)
        kept = float(kept_share()[step])
        assert noised == pytest.approx(math.sqrt(kept) * pixels + math.sqrt(1 - kept) * eps, abs=1e-6)
        assert noised.dtype == np.float32 and noised.shape == pixels.shape
    assert not np.array_equal(diffuse(pixels, Noise(step=9, seed=1)), diffuse(pixels, Noise(step=9, seed=2)))


@pytest.fixture(scope="module", params=["llava", "llava_next", "idefics3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size())


def _image(number: int) -> Image.Image:
    height, width = ((30, 40), (150, 100), (200, 60))[number % 3]
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_noise_is_added_to_processed_pixels_whatever_stands_beside_them(model: Path) -> None:
    processor = vlm.load_processor(str(model))
    text = vlm.render_prompt(processor, "what ?", has_image=True)
    noises = [Noise(step=500, seed=7), None, Noise(step=500, seed=8)]
    images = [_image(0), _image(1), _image(2)]
    batch = vlm.encode_prompts(processor, [text] * 3, images, noises)
    clean = vlm.encode_prompts(processor, [text] * 3, images)
    pixels, before = batch.beginnings["pixel_values"], clean.beginnings["pixel_values"]
    for number, noise in enumerate(noises):
        alone = vlm.encode_prompts(processor, [text], [images[number]], [noise]).beginnings["pixel_values"][0]
        mine = pixels[number][: len(alone)] if alone.dim() > 3 else pixels[number]
        assert torch.equal(mine, alone)
        assert torch.equal(pixels[number], before[number]) is (noise is None)
    assert torch.equal(batch.input_ids, clean.input_ids)


def test_one_image_with_and_without_noise_are_two_to_the_engine(model: Path) -> None:
    engine = TransformersEngine(str(model), "float32", 4)
    sampling = Sampling(temperature=0.0, max_new_tokens=6)
    image = _image(1)
    noises: list[Noise | None] = [None, Noise(step=999, seed=1), Noise(step=999, seed=2), Noise(step=999, seed=1)]
    requests = [Request(prompt="what ?", image=image, sampling=sampling, seed=0, noise=noise) for noise in noises]
    texts = [answer.text for answer in engine.generate(requests)]
    assert texts == [engine.generate([request])[0].text for request in requests]
    assert texts[1] == texts[3]
    logits: list[Any] = []
    processor = vlm.load_processor(str(model))
    text = vlm.render_prompt(processor, "what ?", has_image=True)
    for noise in noises[:3]:
        batch = vlm.encode_prompts(processor, [text], [image], [noise])
        with torch.inference_mode():
            cache = vlm.read_beginnings(engine._model, batch)
            ids = batch.input_ids[:, batch.beginnings["input_ids"].shape[1] :]
            logits.append(engine._model(input_ids=ids, past_key_values=cache).logits[0, -1])
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)
    assert not torch.allclose(logits[1], logits[2], atol=1e-3)
