"""Sums of what is uncertain."""

import math

import pytest

from stic_ray.planner.estimates import Estimate, pooled_spread, t_factor, total


def test_independent_parts_add_their_squares_and_shared_ones_themselves() -> None:
    apart = total([Estimate(10.0, {"a": 3.0}), Estimate(20.0, {"b": 4.0})])
    assert (apart.value, apart.deviation) == (30.0, 5.0)
    shared = total([Estimate(10.0, {"start": 3.0}), Estimate(20.0, {"start": 4.0})])
    assert shared.deviation == 7.0


def test_five_stages_of_one_rate_are_as_uncertain_as_one_five_times_as_long() -> None:
    one = Estimate(10.0, {"rate": 1.0})
    assert total([one] * 5).spread == one.times(5.0).spread
    assert one.times(5.0).deviation == 5.0


def test_interval_widens_with_few_degrees_of_freedom_and_never_ends_below_zero() -> None:
    estimate = Estimate(10.0, {"a": 1.0})
    low, high = estimate.interval(10)
    assert (low, high) == pytest.approx((10 - 2.23, 10 + 2.23))
    assert estimate.interval(1) == pytest.approx((0.0, 22.71))
    assert estimate.interval(0) == (0.0, math.inf)


@pytest.mark.parametrize(("freedom", "factor"), [(1, 12.71), (7, 2.45), (12, 2.23), (30, 2.04), (1000, 1.96)])
def test_t_factor_takes_the_wider_of_two_known_ones(freedom: int, factor: float) -> None:
    assert t_factor(freedom) == factor


def test_spread_is_pooled_within_groups_and_not_between_them() -> None:
    spread, freedom = pooled_spread([[9.0, 11.0], [90.0, 110.0], [5.0]])
    assert freedom == 2
    assert spread == pytest.approx(math.sqrt(0.02))
    assert pooled_spread([[5.0], []]) == (0.0, 0)
    assert pooled_spread([[0.0, 0.0]]) == (0.0, 0)
