"""Bootstrap intervals over images, on counts: counts add up, so a resampled set of images is a weighted sum.

Shape legend: I images, S counts of one image (sufficient statistics), R resamples; X any leading axes.
"""

from collections.abc import Callable, Sequence
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
    a_runs: Sequence[FloatArray], b_runs: Sequence[FloatArray], figures: Figures, bootstrap: Bootstrap
) -> dict[str, Difference]:
    """Every figure's difference, a minus b, each the mean over its side's runs, on the same resampled images.

    Each run is its counts [I, S]; row i of all of them is the same image. A figure that any run lacks is absent.
    """
    a_values, b_values = (_mean_figures([run_IS.sum(0) for run_IS in side], figures) for side in (a_runs, b_runs))
    a_draws, b_draws = (
        _mean_figures([resample(run_IS, bootstrap) for run_IS in side], figures) for side in (a_runs, b_runs)
    )
    differences = {}
    for name in a_values:
        value = float(a_values[name] - b_values[name])
        if not np.isnan(value):
            differences[name] = Difference(value, *_bounds(a_draws[name] - b_draws[name], bootstrap))
    return differences


def _mean_figures(sums: Sequence[FloatArray], figures: Figures) -> dict[str, FloatArray]:
    """Each figure's mean over runs; `resample` draws the same images for all of them, since the seed decides."""
    found = [figures(sums_XS) for sums_XS in sums]
    return {name: np.mean([run[name] for run in found], axis=0) for name in found[0]}


def _bounds(draws_R: FloatArray, bootstrap: Bootstrap) -> tuple[float, float]:
    tail = 50 * (1 - bootstrap.level)
    low, high = np.nanpercentile(draws_R, [tail, 100 - tail])
    return float(low), float(high)
