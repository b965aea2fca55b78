"""Bootstrap intervals over images, on counts: counts add up, so a resampled set of images is a weighted sum.

Shape legend: I images, S counts of one image (sufficient statistics), R resamples; X any leading axes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Figures = Callable[[FloatArray], dict[str, FloatArray]]
"""From summed counts [X, S] to named figures [X]; nan where the counts say nothing of a figure."""

_CHUNK = 128  # resamples drawn at once: 128 x 100,000 images are 100 MB of weights


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn: percentile intervals at `level` from `resamples` seeded draws of the images."""

    resamples: int
    seed: int
    level: float = 0.95


class Difference(NamedTuple):
    """One figure's difference, a minus b, with its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def resample(counts_IS: FloatArray, bootstrap: Bootstrap) -> FloatArray:
    """Summed counts [R, S] of the images drawn with replacement, as many as there are; a function of the seed."""
    num_images = len(counts_IS)
    rng = np.random.default_rng(bootstrap.seed)
    sums = []
    for start in range(0, bootstrap.resamples, _CHUNK):
        num_draws = min(_CHUNK, bootstrap.resamples - start)
        drawn = rng.integers(num_images, size=(num_draws, num_images))
        drawn += num_images * np.arange(num_draws)[:, None]
        weights_RI = np.bincount(drawn.ravel(), minlength=num_draws * num_images).reshape(num_draws, num_images)
        sums.append(weights_RI.astype(np.float64) @ counts_IS)
    return np.concatenate(sums)


def intervals(counts_IS: FloatArray, figures: Figures, bootstrap: Bootstrap) -> dict[str, tuple[float, float]]:
    """The interval (low, high) of every figure; a resample in which a figure is nan does not count for it."""
    return {name: _bounds(draws_R, bootstrap) for name, draws_R in figures(resample(counts_IS, bootstrap)).items()}


def paired_intervals(
    a_counts_IS: FloatArray, b_counts_IS: FloatArray, figures: Figures, bootstrap: Bootstrap
) -> dict[str, Difference]:
    """Every figure's difference, a minus b, with the same resampled images on both sides.

    Row i of both arrays is the same image. A figure that one side lacks is absent.
    """
    num_counts = a_counts_IS.shape[1]
    sums_RS = resample(np.hstack([a_counts_IS, b_counts_IS]), bootstrap)
    a_draws, b_draws = figures(sums_RS[:, :num_counts]), figures(sums_RS[:, num_counts:])
    a_values, b_values = figures(a_counts_IS.sum(0)), figures(b_counts_IS.sum(0))
    differences = {}
    for name in a_values:
        value = float(a_values[name] - b_values[name])
        if not np.isnan(value):
            differences[name] = Difference(value, *_bounds(a_draws[name] - b_draws[name], bootstrap))
    return differences


def _bounds(draws_R: FloatArray, bootstrap: Bootstrap) -> tuple[float, float]:
    tail = 50 * (1 - bootstrap.level)
    low, high = np.nanpercentile(draws_R, [tail, 100 - tail])
    return float(low), float(high)
