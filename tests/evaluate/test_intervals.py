"""The bootstrap on cases whose answer is known."""

import time

import numpy as np
import pytest

from stic_ray.evaluate.benchmarks import captions
from stic_ray.evaluate.intervals import Bootstrap, Difference, FloatArray, intervals, paired_intervals, resample


def share(sums_XS: FloatArray) -> dict[str, FloatArray]:
    return {"share": 100 * sums_XS[..., 0] / sums_XS[..., 1]}


def coin_flips(num_images: int, rate: float, seed: int) -> FloatArray:
    hits = np.random.default_rng(seed).random(num_images) < rate
    return np.stack([hits, np.ones(num_images)], axis=1).astype(np.float64)


def test_resample_of_equal_images_gives_exactly_their_sum() -> None:
    sums_RS = resample(np.full((40, 3), 2.0), Bootstrap(resamples=300, seed=1))
    assert sums_RS.shape == (300, 3)
    assert (sums_RS == 80).all()


def test_intervals_of_a_share_are_as_wide_as_the_normal_approximation() -> None:
    counts_IS = coin_flips(2000, 0.3, seed=5)
    low, high = intervals(counts_IS, share, Bootstrap(resamples=2000, seed=0))["share"]
    rate = counts_IS[:, 0].mean()
    half = 100 * 1.96 * np.sqrt(rate * (1 - rate) / 2000)
    assert low == pytest.approx(100 * rate - half, abs=0.25)
    assert high == pytest.approx(100 * rate + half, abs=0.25)


def test_intervals_cover_the_true_share_about_95_times_in_100() -> None:
    covered = 0
    for seed in range(200):
        low, high = intervals(coin_flips(200, 0.4, seed), share, Bootstrap(resamples=300, seed=seed))["share"]
        covered += low <= 40 <= high
    # Standard error of the coverage over 200 repeats is 1.5 points.
    assert 180 <= covered <= 199


def test_intervals_same_seed_same_bounds_other_seed_others() -> None:
    counts_IS = coin_flips(100, 0.5, seed=2)
    first, again, other = (
        intervals(counts_IS, share, Bootstrap(resamples=200, seed=seed))["share"] for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_intervals_resamples_without_cases_do_not_count() -> None:
    def rare(sums_XS: FloatArray) -> dict[str, FloatArray]:
        asked = sums_XS[..., 1]
        return {"rare": np.divide(100 * sums_XS[..., 0], asked, out=np.full_like(asked, np.nan), where=asked > 0)}

    counts_IS = np.zeros((50, 2))
    counts_IS[3] = 1  # about a third of the resamples miss it
    assert intervals(counts_IS, rare, Bootstrap(resamples=200, seed=0))["rare"] == (100, 100)


def test_paired_intervals_clear_difference_excludes_zero_and_none_includes_it() -> None:
    rng = np.random.default_rng(0)
    b = coin_flips(500, 0.5, seed=3)
    worse = b.copy()
    worse[rng.random(500) < 0.1, 0] = 0
    difference = paired_intervals([worse], [b], share, Bootstrap(resamples=1000, seed=0))["share"]
    assert difference.value == pytest.approx(100 * (worse[:, 0].mean() - b[:, 0].mean()))
    assert difference.low < difference.value < difference.high < 0
    assert difference.excludes_zero
    same = paired_intervals([b], [b], share, Bootstrap(resamples=100, seed=0))["share"]
    assert same == Difference(0.0, 0.0, 0.0)
    assert not same.excludes_zero


def test_paired_intervals_share_their_images_so_that_common_noise_cancels() -> None:
    b = coin_flips(300, 0.5, seed=9)
    a = b.copy()
    a[np.flatnonzero(b[:, 0] == 0)[:12], 0] = 1
    paired = paired_intervals([a], [b], share, Bootstrap(resamples=1000, seed=0))["share"]
    alone = intervals(a, share, Bootstrap(resamples=1000, seed=0))["share"]
    assert paired.high - paired.low < 0.6 * (alone[1] - alone[0])


def test_intervals_thousand_resamples_of_500_images_for_a_whole_model_take_under_two_seconds() -> None:
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(resamples=1000, seed=0)
    start = time.process_time()
    for _ in range(2):
        intervals(rng.random((500, 7)), captions.figures, bootstrap)
        intervals(rng.random((500, 20)), share, bootstrap)
    assert time.process_time() - start < 2
