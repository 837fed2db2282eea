"""The compiled CRPS against the integral and against the NumPy path."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core import predictive_system
from uqlib.conformal import predictive_crps, predictive_p_values
from uqlib_kernels.predictive import count_below, sorted_crps

VALUES = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0, 1e3]), min_size=1)


def integral(ordered, z):
    """The squared distance of two step functions, step by step, in rationals."""
    points = sorted(Fraction(v) for v in [*ordered, z])
    total = Fraction(0)
    for low, high in pairwise(points):
        share = Fraction(sum(Fraction(r) <= low for r in ordered), len(ordered))
        total += (share - (Fraction(z) <= low)) ** 2 * (high - low)
    return float(total)


@given(VALUES, VALUES)
def test_equals_the_integral(residuals, points):
    ordered, z = np.sort(residuals), np.sort(points)
    expected = [integral(ordered, point) for point in z]
    np.testing.assert_allclose(sorted_crps(ordered, z), expected, rtol=1e-12)


@given(
    st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf]), max_size=40),
    st.lists(st.sampled_from([-np.inf, -1.0, 0.1, 0.5, 7.0, np.inf])),
    st.booleans(),
)
def test_counts_are_those_of_a_search(values, points, closed):
    ordered, z = np.sort(values), np.sort(points)
    expected = np.searchsorted(ordered, z, "right" if closed else "left")
    np.testing.assert_array_equal(count_below(ordered, z, closed), expected)


def test_equals_the_numpy_path(monkeypatch):
    rng = np.random.default_rng(0)
    residuals = rng.standard_t(2, size=2**16)
    y_pred, y = rng.normal(size=(2, 500))
    y[:3], y[3:5] = y_pred[:3] + 3 * residuals[:3], (1e6, -1e6)
    fast = predictive_crps(residuals, y_pred, y, scale=3.0)
    p_values = predictive_p_values(residuals, y_pred, y, scale=3.0)
    monkeypatch.setattr(predictive_system, "compiled_kernels", lambda *args: None)
    slow = predictive_crps(residuals, y_pred, y, scale=3.0)
    np.testing.assert_allclose(fast, slow, rtol=1e-12)
    expected = predictive_p_values(residuals, y_pred, y, scale=3.0)
    np.testing.assert_array_equal(p_values, expected)


@pytest.mark.parametrize("far", [np.inf, -np.inf])
def test_infinite_points_take_the_numpy_path(far):
    residuals = np.arange(2.0**16)
    with np.errstate(over="ignore"):
        score = predictive_crps(residuals, [0.0, 0.0], [1.0, far * 1e308])
    assert np.isfinite(score[0])
    assert np.isinf(score[1])


def test_no_points():
    assert sorted_crps(np.array([1.0]), np.empty(0)).shape == (0,)
