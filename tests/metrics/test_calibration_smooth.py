"""Smooth calibration error: mirror images of the normal law, bounds, one bandwidth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm as gaussian

from uqlib.metrics._calibration import expected_calibration_error
from uqlib.metrics._calibration_smooth import smooth_calibration_error


def smooth_by_images(y, p, weight, bandwidth):
    """The kernel as a sum over mirror images, integrated by the normal law."""
    share = weight / weight.sum()
    reach = int(np.ceil(5 * bandwidth)) + 1
    images = np.array(
        [2 * j + s * p for j in range(-reach, reach + 1) for s in (1, -1)]
    )

    def residual(t):
        kernel = gaussian.pdf(t, images, bandwidth).sum(axis=0)
        return float(np.sum(share * (y - p) * kernel))

    def integral(t):
        mass = gaussian.cdf(t, images, bandwidth).sum(axis=0)
        return float(np.sum(share * (y - p) * mass))

    grid = np.linspace(0, 1, 401)
    values = np.array([residual(t) for t in grid])
    cells = np.flatnonzero(np.sign(values[1:]) * np.sign(values[:-1]) < 0)
    zeros = [brentq(residual, grid[c], grid[c + 1], xtol=1e-14) for c in cells]
    primitive = [integral(t) for t in [0.0, *zeros, 1.0]]
    return float(np.abs(np.diff(primitive)).sum())


def binary_problem(n, seed, power=1.5):
    rng = np.random.default_rng([seed, n])
    p = rng.uniform(size=n)
    return (rng.uniform(size=n) < p**power).astype(int), p, rng.exponential(size=n)


@pytest.mark.parametrize("bandwidth", [0.03, 0.2, 2.0])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_smooth_error_equals_the_sum_over_mirror_images(n, bandwidth):
    y, p, weight = binary_problem(n, seed=0)
    found = smooth_calibration_error(
        y,
        p,
        kind="class_wise",
        bandwidth=bandwidth,
        labels=[0, 1],
        sample_weight=weight,
    )
    assert found == pytest.approx(smooth_by_images(y, p, weight, bandwidth), abs=1e-11)


@pytest.mark.parametrize("n", [5, 40, 2000])
def test_the_bandwidth_is_the_error(n):
    y, p, weight = binary_problem(n, seed=1)
    options = {"kind": "class_wise", "sample_weight": weight}
    found = smooth_calibration_error(y, p, **options)
    again = smooth_calibration_error(y, p, bandwidth=found, **options)
    assert again == pytest.approx(found, abs=1e-11)
    if n == 5:
        expected = brentq(lambda s: smooth_by_images(y, p, weight, s) - s, 0.01, 1)
        assert found == pytest.approx(expected, abs=1e-10)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_smooth_error_falls_between_its_bounds(seed, n):
    y, p, weight = binary_problem(n, seed)
    options = {"kind": "class_wise", "labels": [0, 1], "sample_weight": weight}
    widths = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    errors = [smooth_calibration_error(y, p, bandwidth=s, **options) for s in widths]
    assert np.all(np.diff(errors) <= 1e-12)
    assert errors[0] <= np.average(np.abs(y - p), weights=weight) + 1e-12
    bias = abs(np.average(y - p, weights=weight))
    assert errors[-1] >= bias - 1e-12
    # Without bandwidth the error is between those of smaller and larger ones.
    free = smooth_calibration_error(y, p, **options)
    assert bias - 1e-12 <= free <= errors[0] + 1e-12


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.3, 0.5, 1.0])
def test_smooth_error_of_one_probability_is_the_bias(p):
    y = np.array([0, 1, 1, 1, 1])
    proba = np.full(5, p)
    found = smooth_calibration_error(y, proba, kind="class_wise")
    assert found == pytest.approx(abs(0.8 - p), rel=1e-11)
    # Below the smallest bandwidth too.
    ones = smooth_calibration_error(
        np.ones(5, int), 1 - proba / 1e4, kind="class_wise", labels=[0, 1]
    )
    assert ones == pytest.approx(p / 1e4, rel=1e-9, abs=1e-15)


def test_smooth_error_of_wholly_wrong_answers():
    found = smooth_calibration_error(
        [0, 0], [1.0, 1.0], kind="class_wise", labels=[0, 1]
    )
    assert found == pytest.approx(1.0, rel=1e-12)


def test_smooth_error_does_not_jump():
    y, moves = [0, 1], {"below": 0.5 - 1e-9, "above": 0.5}
    smooth, binned = (
        [metric(y, [p, 0.6], kind="class_wise", **options) for p in moves.values()]
        for metric, options in [
            (smooth_calibration_error, {}),
            (expected_calibration_error, {"n_bins": 2}),
        ]
    )
    assert smooth[0] == pytest.approx(smooth[1], abs=1e-7)
    assert abs(binned[0] - binned[1]) > 0.3


def test_class_wise_smooth_error_is_the_mean_over_classes():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(3), size=60)
    y, weight = rng.integers(0, 3, size=60), rng.exponential(size=60)
    found = smooth_calibration_error(y, proba, kind="class_wise", sample_weight=weight)
    each = [
        smooth_calibration_error(
            y == k, proba[:, k], kind="class_wise", sample_weight=weight
        )
        for k in range(3)
    ]
    assert found == pytest.approx(np.mean(each), rel=1e-12)
