"""The vision tower alone: an image's vector is that of a plain forward, and the language model is not there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_models import Size, save_random_model
from stic_ray import vlm
from stic_ray.vlm.prompts import process_images

_FAMILIES = ("llava", "llava_next", "idefics3", "smolvlm", "qwen2_5_vl")


@pytest.fixture(scope="module", params=_FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    if request.param in ("smolvlm", "qwen2_5_vl"):
        pytest.importorskip("torchvision")
    return request.param, save_random_model(request.param, tmp_path_factory.mktemp(request.param) / "model", Size())


def _images() -> list[Image.Image]:
    """Of several sizes and forms, so that families cut them into different numbers of tiles or patches; more than are
    read at once."""
    rng = np.random.default_rng(0)
    sizes = [(56, 56), (300, 90), (64, 200), (180, 170), (30, 40), (112, 56), (500, 400), (57, 131), (90, 90), (33, 99)]
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def _plain(family: str, model: Any, processor: Any, image: Image.Image) -> torch.Tensor:
    """The mean of the patch features of one image, tile by tile, with nothing of the implementation's."""
    tensors, _ = process_images(processor, [image])
    body, pixels = model.model, tensors["pixel_values"]
    if family == "qwen2_5_vl":
        packed: torch.Tensor = body.visual(pixels, grid_thw=tensors["image_grid_thw"]).last_hidden_state
        return packed.mean(dim=0)
    tiles = pixels if family == "llava" else pixels[0]
    found = []
    for tile in tiles:
        if family.startswith("llava"):
            states = body.vision_tower(tile[None], output_hidden_states=True).hidden_states
            found.append(states[body.config.vision_feature_layer][0, 1:])  # without the class token
        else:
            found.append(body.vision_model(tile[None]).last_hidden_state[0])
    return torch.cat(found).mean(dim=0)


def test_vectors_are_means_over_the_patches_of_a_plain_forward(checkpoint: tuple[str, Path]) -> None:
    """Tolerance 1e-5: images in batches beside others of another size, against the whole model on one tile at once."""
    family, path = checkpoint
    images = _images()
    found_BD = vlm.load_tower(str(path), "float32")(images)
    model, processor = vlm.load_model(str(path), "float32"), vlm.load_processor(str(path))
    with torch.inference_mode():
        expected_BD = torch.stack([_plain(family, model, processor, image) for image in images])
    assert found_BD.dtype == torch.float32
    assert found_BD.numpy() == pytest.approx(expected_BD.numpy(), rel=1e-5, abs=1e-5)
    assert torch.cdist(found_BD, found_BD).add(torch.eye(len(images))).min() > 1e-3


def test_tower_holds_no_weight_of_the_language_model(checkpoint: tuple[str, Path]) -> None:
    _, path = checkpoint
    held = {name for name, _ in vlm.load_tower(str(path), "float32").named_parameters()}
    whole = {f"model.{name}" for name, _ in vlm.load_model(str(path), "float32").named_parameters()}
    assert held < whole
    assert not [name for name in held if "language_model" in name or "text_model" in name or "lm_head" in name]
    assert [name for name in whole - held if "vision" in name or "visual" in name] == []


def test_vectors_in_bfloat16_are_float32_and_near(checkpoint: tuple[str, Path]) -> None:
    _, path = checkpoint
    images = _images()[:3]
    exact_BD, low_BD = (vlm.load_tower(str(path), dtype)(images) for dtype in ("float32", "bfloat16"))
    assert low_BD.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact_BD, low_BD).min() > 0.99
