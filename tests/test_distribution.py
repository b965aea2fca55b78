"""Overlap and map of sets of vectors whose distributions are known."""

import numpy as np
import pytest
from scipy import integrate, stats

from stic_ray import distribution
from stic_ray.distribution import MIN_IMAGES, FloatArray, draw_map, overlap, principal_components


def _normal(num: int, dimensions: int, *, seed: int, shift: float = 0.0) -> FloatArray:
    vectors = np.random.default_rng(seed).normal(size=(num, dimensions))
    vectors[:, 0] += shift
    return vectors


@pytest.mark.parametrize("dimensions", [2, 64])
def test_overlap_of_one_distribution_is_one_and_of_two_far_apart_zero(dimensions: int) -> None:
    one = _normal(300, dimensions, seed=0)
    same = overlap(one, _normal(300, dimensions, seed=1), seed=0)
    assert same.value == pytest.approx(1, abs=0.08) and same.low < 1 < same.high
    far = overlap(one, _normal(300, dimensions, seed=1, shift=100), seed=0)
    assert (far.value, far.low, far.high) == (0, 0, 0)


def test_overlap_falls_with_the_shift() -> None:
    values = [
        overlap(_normal(400, 16, seed=0), _normal(400, 16, seed=1, shift=shift), seed=0).value
        for shift in (0, 1, 2, 3, 4, 6)
    ]
    assert values == sorted(values, reverse=True) and values[0] > 0.95 and values[-1] < 0.05


@pytest.mark.parametrize("shift", [0.5, 1.5, 3.0])
def test_overlap_estimates_one_minus_le_cams_distance(shift: float) -> None:
    """Tolerance 0.05, against the integral; 3000 vectors in one dimension."""

    def integrand(x: float) -> float:
        f, g = stats.norm.pdf(x), stats.norm.pdf(x, shift)
        return float(2 * f * g / (f + g))

    expected, _ = integrate.quad(integrand, -10, 10 + shift)
    found = overlap(_normal(3000, 1, seed=0), _normal(3000, 1, seed=1, shift=shift), seed=0)
    assert found.value == pytest.approx(expected, abs=0.05)
    assert found.low < expected < found.high


def test_overlap_is_that_of_a_plain_count_of_neighbors() -> None:
    one, other = _normal(60, 5, seed=0), _normal(60, 5, seed=1, shift=1)
    both = np.concatenate([one, other])
    shares = []
    for index, vector in enumerate(both):
        order = sorted((float(np.linalg.norm(vector - at)), place) for place, at in enumerate(both) if place != index)
        shares.append(np.mean([(place < 60) != (index < 60) for _, place in order[:10]]))
    assert overlap(one, other, seed=0).value == pytest.approx(np.mean(shares) / (60 / 119))


def test_overlap_compares_as_many_of_each_set_whichever_is_larger() -> None:
    small, large = _normal(150, 8, seed=0), _normal(1500, 8, seed=1)
    for found in (overlap(small, large, seed=0), overlap(large, small, seed=0)):
        assert found.num_images == 150
        assert found.value == pytest.approx(1, abs=0.1)


def test_overlap_takes_equally_far_neighbors_by_lot() -> None:
    """All images are the same: whoever is first must not be the nearest."""
    assert overlap(np.ones((500, 4)), np.ones((500, 4)), seed=0).value == pytest.approx(1, abs=0.1)


def test_overlap_interval_holds_what_is_expected_and_narrows_with_images() -> None:
    found = [overlap(_normal(200, 16, seed=s), _normal(200, 16, seed=100 + s, shift=1), seed=s) for s in range(20)]
    expected = np.mean([each.value for each in found])
    assert sum(each.low < expected < each.high for each in found) >= 18
    more = overlap(_normal(1000, 16, seed=0), _normal(1000, 16, seed=1, shift=1), seed=0)
    assert more.high - more.low < 0.6 * np.mean([each.high - each.low for each in found])


def test_overlap_of_too_few_images_is_refused() -> None:
    few = _normal(MIN_IMAGES - 1, 4, seed=0)
    with pytest.raises(ValueError, match="an overlap needs 20 images of each set, and one has 19"):
        overlap(few, _normal(100, 4, seed=1), seed=0)


def test_principal_components_are_those_of_a_decomposition() -> None:
    vectors = _normal(80, 60, seed=0) * np.linspace(1, 5, 60) + 7
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(principal_components(vectors, 10)) == pytest.approx(np.abs(left * values)[:, :10])
    assert principal_components(vectors, 60) == pytest.approx(centred)


def test_map_keeps_groups_apart_and_is_the_same_again() -> None:
    pytest.importorskip("sklearn")
    groups = [_normal(60, 70, seed=number) + 20 * np.eye(70)[number] for number in range(3)]
    vectors = np.concatenate(groups)
    found = draw_map(vectors)
    assert found.shape == (180, 2) and np.isfinite(found).all()
    middles = found.reshape(3, 60, 2).mean(axis=1)
    nearest = np.linalg.norm(found[:, None] - middles, axis=2).argmin(axis=1)
    assert nearest.tolist() == np.repeat(range(3), 60).tolist()
    assert np.array_equal(found, draw_map(vectors))


@pytest.mark.parametrize(("num", "dimensions"), [(4, 3), (25, 1), (30, 80)])
def test_map_of_few_or_equal_images_has_a_place_for_each(num: int, dimensions: int) -> None:
    pytest.importorskip("sklearn")
    for vectors in (_normal(num, dimensions, seed=0), np.ones((num, dimensions))):
        assert np.isfinite(draw_map(vectors)).all()
    with pytest.raises(ValueError, match="a map needs 4 images, and there are 3"):
        distribution.draw_map(np.ones((3, 2)))
