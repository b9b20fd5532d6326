"""What layers cost as a function of their groups: curves, slopes, layers that run as dense code."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from flexgroup.pruning._latency_curves import LEAST_SLOPE, MICRO, Curve, Curves

SPARSE_THEN_DENSE = Curve.through([0, 50, 100, 200], [1e-6, 11e-6, 21e-6, 21e-6])


def test_a_curve_is_straight_between_its_points_and_never_falls():
    curve = Curve.through([100, 0, 50, 50, 200], [3.0, 1.0, 2.0, 2.5, 2.9])
    assert curve.groups.tolist() == [0, 50, 100, 200]
    assert curve.seconds.tolist() == [1.0, 2.0, 3.0, 3.0]
    assert curve.at(25) == 1.5
    values = [curve.at(n) for n in range(201)]
    assert all(b >= a for a, b in pairwise(values))


def test_dense_code_begins_where_more_groups_cost_no_more():
    assert SPARSE_THEN_DENSE.dense_from == pytest.approx(99.5)
    assert Curve.through([0, 10], [2.0, 2.0]).dense_from == 0.0


@pytest.mark.parametrize("groups", [0, 1, 30, 60, 99])
def test_a_slope_is_that_of_the_part_that_is_not_dense_code(groups):
    assert SPARSE_THEN_DENSE.slope(groups) == pytest.approx(0.2e-6)


def test_a_slope_follows_a_curve_that_bends():
    bent = Curve.through([0, 100, 200], [0.0, 1.0, 4.0])
    assert bent.slope(20) == pytest.approx(0.01)
    assert bent.slope(180) > 0.02


def test_a_group_is_never_free():
    curve = Curve.through([0, 10, 100], [0.0, 0.0, 9.0])
    assert curve.slope(2) == pytest.approx(LEAST_SLOPE * 0.09)


def test_prices_are_slopes_and_layers_at_dense_code_are_left_whole():
    straight = Curve.through([0, 100], [0.0, 5e-6])
    curves = Curves({"a": SPARSE_THEN_DENSE, "b": straight}, 3e-6, None, 0.0)  # type: ignore[arg-type]
    assert curves.seconds({"a": 50, "b": 20}) == pytest.approx((3 + 11 + 1) * 1e-6)
    cost, whole = curves.prices({"a": 50, "b": 20})
    assert cost == pytest.approx({"a": 0.2, "b": 0.05})
    assert whole == []
    cost, whole = curves.prices({"a": 150, "b": 20})
    assert whole == ["a"]
    assert cost["a"] == pytest.approx(20e-6 / 200 / MICRO)  # all its groups cost what the layer takes
    assert np.isclose(cost["b"], 0.05)
