"""Images as vectors, by the vision tower alone: what the projector takes of an image, averaged over its patches.

Legend: B = images, R = rows of what the projector takes (tiles, or the patches of images without tiles), D = features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from stic_ray.vlm.families import drop_language_model, projector, projector_rows
from stic_ray.vlm.loading import load_model, load_processor
from stic_ray.vlm.prompts import process_images

_IMAGES_AT_ONCE = 8  # that of a LLaVA-NeXT are up to 40 tiles, whose hidden states of all layers are 2 GB in float32


def load_tower(path: str, dtype: str) -> "VisionTower":
    """A checkpoint's vision tower and projector; the layers of its language model are not even read."""
    model = load_model(path, dtype, language_layers=0)
    drop_language_model(model)
    return VisionTower(load_processor(path), model)


class VisionTower(nn.Module):
    """A model's own view of images, before any text."""

    def __init__(self, processor: Any, model: Any) -> None:
        super().__init__()
        self._processor = processor
        self.model = model

    @torch.inference_mode()
    def forward(self, images: Sequence[Image.Image]) -> Tensor:
        """The mean of each image's patch features, all its tiles' alike, float32 [B, D]."""
        return torch.cat(
            [self._embed(images[start : start + _IMAGES_AT_ONCE]) for start in range(0, len(images), _IMAGES_AT_ONCE)]
        )

    def _embed(self, images: Sequence[Image.Image]) -> Tensor:
        found: list[Tensor] = []
        hook = projector(self.model).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        tensors, _ = process_images(self._processor, list(images))
        device = next(self.model.parameters()).device
        try:
            self.model.model.get_image_features(**{name: value.to(device) for name, value in tensors.items()})
        finally:
            hook.remove()
        (taken_RD,) = found
        parts = taken_RD.split(projector_rows(self.model, tensors))
        return torch.stack([part.float().flatten(end_dim=-2).mean(dim=0) for part in parts])
