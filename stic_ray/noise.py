"""Forward diffusion on normalised pixels (BPO, arXiv 2403.08730, image weakening)."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

NUM_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far an image is diffused, 0 to 999, and the seed of what it is mixed with."""

    step: int
    seed: int


@cache
def kept_share() -> npt.NDArray[np.float64]:
    """abar_s, the share of the signal's variance that is left after step s, [1000]: the product of 1 - beta up to s.

    beta = sigmoid(linspace(-6, 6, 1000)) * (0.5e-2 - 1e-5) + 1e-5 (the reference code's schedule).
    """
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, NUM_STEPS))) * (0.5e-2 - 1e-5) + 1e-5
    return np.asarray(np.cumprod(1 - betas))


def diffuse(pixels: npt.NDArray[np.float32], noise: Noise) -> npt.NDArray[np.float32]:
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps, eps normal, drawn in the pixels' order; same shape, float32."""
    kept = kept_share()[noise.step]
    eps = np.random.default_rng(noise.seed).standard_normal(pixels.shape, dtype=np.float32)
    return np.asarray(np.sqrt(kept) * pixels + np.sqrt(1 - kept) * eps, dtype=np.float32)
