"""Vectors of images with transformers, by a model's vision tower."""

from collections.abc import Sequence

import torch
from PIL import Image

from stic_ray import storage, vlm


class TransformersEmbedder:
    """A vision tower on the actor's GPU where it has one."""

    def __init__(self, model_uri: str, dtype: str) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tower = vlm.load_tower(storage.local_copy(model_uri), dtype).to(device)
        self._num_images = 0

    def figures(self) -> dict[str, float]:
        """Images since the start."""
        return {"embedded_images": float(self._num_images)}

    def embed(self, images: Sequence[Image.Image]) -> list[list[float]]:
        """One vector an image, in order."""
        self._num_images += len(images)
        vectors: list[list[float]] = self._tower(images).cpu().tolist()
        return vectors
