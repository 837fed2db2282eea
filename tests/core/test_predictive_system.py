"""Predictive systems: exact laws by enumeration, exact integrals, identities."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib import InfiniteIntervalWarning
from uqlib.conformal import (
    predictive_cdf,
    predictive_crps,
    predictive_p_values,
    predictive_quantiles,
)

RNG = np.random.default_rng(0)
LEVELS = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
SMALL = st.integers(-6, 6)  # many ties
RESIDUALS = st.lists(SMALL, min_size=1, max_size=12)


def rows(n_samples, seed=0):
    rng = np.random.default_rng(seed)
    point = rng.normal(size=n_samples)
    return point, point + rng.normal(size=n_samples), rng.uniform(0.5, 2, n_samples)


def exact_crps(residuals, y_pred, y, scale):
    """The integral of (F - 1{y <= t})^2 over t, in rational arithmetic."""
    atoms = [Fraction(y_pred) + Fraction(scale) * Fraction(r) for r in residuals]
    y = Fraction(y)
    edges = sorted({*atoms, y})
    total = Fraction(0)
    for left, right in pairwise(edges):
        below = Fraction(sum(atom <= left for atom in atoms), len(atoms))
        total += (right - left) * (below - (y <= left)) ** 2
    return total


# CRPS


def test_crps_where_the_scale_must_enter_once():
    # Four residuals in units of 10: 2.5 / 16 + ... = 3.75; to multiply the segment
    # that holds y by the scale twice would give 26.25.
    score = predictive_crps([-1, 0, 1, 2], [0.0], [5.0], scale=10)
    assert score == 3.75 == exact_crps([-1, 0, 1, 2], 0, 5, 10)


@given(RESIDUALS, SMALL, st.integers(-20, 20), st.integers(1, 12))
def test_crps_is_the_integral(residuals, y_pred, y, scale):
    score = predictive_crps(residuals, [y_pred], [y], scale).item()
    expected = float(exact_crps(residuals, y_pred, y, scale))
    assert score == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_crps_is_the_mean_distance_less_half_the_spread(n):
    residuals = RNG.standard_cauchy(size=n)
    point, y, scale = rows(40)
    atoms = point[:, None] + scale[:, None] * residuals
    spread = np.abs(atoms[:, :, None] - atoms[:, None, :]).mean(axis=(1, 2))
    expected = np.abs(atoms - y[:, None]).mean(axis=1) - spread / 2
    score = predictive_crps(residuals, point, y, scale)
    np.testing.assert_allclose(score, expected, rtol=1e-9, atol=1e-12)
    if n == 1:
        np.testing.assert_allclose(score, np.abs(atoms[:, 0] - y), rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 2.0**30, -(2.0**45)])
def test_crps_keeps_its_digits_far_from_zero(offset):
    # Multiples of 2^-6 are exact at every offset, and so is the rational reference.
    residuals = np.round(64 * RNG.normal(size=200)) / 64
    targets = np.round(64 * RNG.normal(size=10)) / 64
    score = predictive_crps(residuals + offset, np.zeros(10), targets + offset)
    expected = [float(exact_crps(residuals, 0, y, 1)) for y in targets]
    np.testing.assert_allclose(score, expected, rtol=1e-13)


def test_crps_does_not_cancel_where_nearly_all_mass_is_at_the_target():
    # E|X - y| and E|X - X'| / 2 agree to five digits here; only F^2 is left.
    residuals = np.zeros(100_000)
    residuals[-1] = 1.0
    score = predictive_crps(residuals, [0.0], [0.0]).item()
    assert score == pytest.approx(1e-10, rel=1e-14)


def test_crps_of_a_target_beyond_all_residuals():
    residuals, n = RNG.normal(size=20), 20
    ends = np.array([residuals.min(), residuals.max()])
    at_ends = predictive_crps(residuals, np.zeros(2), ends)
    beyond = predictive_crps(residuals, np.zeros(2), ends + np.array([-3, 3]))
    np.testing.assert_allclose(beyond, at_ends + 3, rtol=1e-12)
    assert predictive_crps(residuals, [0.0], [np.inf]) == np.inf
    assert predictive_crps(residuals, [0.0], [-np.inf]) == np.inf
    assert n == residuals.size


@pytest.mark.parametrize("residuals", [[], [-np.inf, 0.0], [0.0, np.inf, np.inf]])
def test_crps_is_infinite_where_mass_lies_at_infinity(residuals):
    np.testing.assert_array_equal(predictive_crps(residuals, [0.0, 1.0], 0.5), np.inf)


# P-values


@given(st.lists(st.tuples(SMALL, SMALL, st.sampled_from([1, 2, 3, 7])), min_size=1))
def test_randomized_p_values_are_exactly_uniform(triples):
    # Any n + 1 rows, each in turn the new one: the mixture of the uniform laws on
    # [Q(y, 0), Q(y, 1)] has the distribution function a at every multiple of
    # 1 / (n + 1), where all its ends lie, so it is uniform on [0, 1].
    target, point, scale = np.array(triples, dtype=float).T
    size = len(triples)
    low, high = np.empty(size), np.empty(size)
    for new in range(size):
        old = np.arange(size) != new
        residuals = (target[old] - point[old]) / scale[old]
        for ends, u in ((low, 0), (high, 1)):
            ends[new] = predictive_p_values(
                residuals, point[[new]], target[[new]], scale[[new]], u=u
            ).item()
    low, high = np.rint(low * size).astype(int), np.rint(high * size).astype(int)
    assert (low < high).all()
    for step in range(size + 1):
        mass = sum(
            Fraction(int(min(max(step - a, 0), b - a)), int(b - a))
            for a, b in zip(low, high, strict=True)
        )
        assert mass == step


@pytest.mark.parametrize("u", [0.0, 0.3, 1.0])
def test_p_values_count_residuals(u):
    residuals = RNG.integers(-3, 4, size=30) / 2
    point, y = RNG.integers(-2, 3, size=(2, 50)) / 2
    scale = RNG.choice([0.5, 1.0, 2.0], size=50)
    z = ((y - point) / scale)[:, None]
    expected = (residuals < z).sum(axis=1) + u * ((residuals == z).sum(axis=1) + 1)
    p_values = predictive_p_values(residuals, point, y, scale, u=u)
    np.testing.assert_allclose(p_values, expected / 31, rtol=1e-15)


def test_the_default_p_value_is_the_upper_extreme():
    residuals, (point, y, scale) = RNG.normal(size=30), rows(20)
    default = predictive_p_values(residuals, point, y, scale)
    upper = predictive_p_values(residuals, point, y, scale, u=np.ones(20))
    np.testing.assert_array_equal(default, upper)
    u = RNG.uniform(size=20)
    lower = predictive_p_values(residuals, point, y, scale, u=0)
    between = predictive_p_values(residuals, point, y, scale, u=u)
    np.testing.assert_allclose(between, lower + u * (upper - lower), rtol=1e-12)


def test_p_values_do_not_decrease_in_the_target():
    residuals = RNG.integers(-5, 6, size=40)
    targets = np.concatenate([[-np.inf], np.linspace(-7, 7, 113), [np.inf]])
    point = np.full(targets.size, 0.5)
    for u in (0, 0.5, 1):
        p_values = predictive_p_values(residuals, point, targets, 1.25, u=u)
        assert (np.diff(p_values) >= 0).all()
        np.testing.assert_allclose(p_values[[0, -1]], [u / 41, (40 + u) / 41])


def test_p_values_without_residuals_are_u():
    np.testing.assert_array_equal(predictive_p_values([], [1.0, 2.0], 0.0), 1.0)
    np.testing.assert_array_equal(
        predictive_p_values([], [1.0, 2.0], 0.0, u=[0.2, 0.7]), [0.2, 0.7]
    )


def test_p_values_do_not_see_a_monotone_change_of_the_residual_axis():
    residuals, z = RNG.normal(size=50), RNG.normal(size=30)
    plain = predictive_p_values(residuals, np.zeros(30), z)
    cubed = predictive_p_values(residuals**3, np.zeros(30), z**3)
    np.testing.assert_array_equal(plain, cubed)


# The distribution function


@given(RESIDUALS, st.lists(st.integers(-8, 8), min_size=1, max_size=8))
def test_the_cdf_lies_between_the_extreme_p_values(residuals, thresholds):
    grid = np.array(thresholds) + 0.5  # no threshold is an atom
    cdf = predictive_cdf(residuals, [0.0], grid)[0]
    point = np.zeros(grid.size)
    assert (predictive_p_values(residuals, point, grid, u=0) <= cdf).all()
    assert (cdf <= predictive_p_values(residuals, point, grid)).all()


def test_the_cdf_is_that_of_the_shifted_residuals():
    residuals = RNG.integers(-4, 5, size=25) / 4
    point, scale = np.array([0.5, -1.0, 3.0]), np.array([1.0, 2.0, 0.5])
    grid = np.array([3.25, -np.inf, -1.0, 0.5, np.inf])
    atoms = point[:, None] + scale[:, None] * residuals
    cdf = predictive_cdf(residuals, point, grid, scale)
    assert cdf.shape == (3, 5)
    np.testing.assert_allclose(cdf, (atoms[:, None, :] <= grid[:, None]).mean(axis=2))
    increasing = predictive_cdf(residuals, point, np.sort(grid), scale)
    assert (np.diff(increasing, axis=1) >= 0).all()
    np.testing.assert_array_equal(increasing[:, [0, -1]], [[0, 1]] * 3)


def test_the_cdf_of_one_threshold_and_of_no_residuals():
    assert predictive_cdf([1.0, 2.0], [0.0, 5.0], 1.5).shape == (2, 1)
    np.testing.assert_array_equal(predictive_cdf([], [0.0, 5.0], [1.5]), 0.5)


# Quantiles


@pytest.mark.parametrize("n", [19, 20, 99])
def test_quantiles_are_order_statistics_of_exact_ranks(n):
    residuals = RNG.normal(size=n)
    point, _, scale = rows(7)
    ordered = np.sort(residuals)
    expected = [
        np.median(ordered)
        if level == 0.5
        else ordered[
            (math.ceil if level > 0.5 else math.floor)((n + 1) * Fraction(str(level)))
            - 1
        ]
        for level in LEVELS
    ]
    quantiles = predictive_quantiles(residuals, point, LEVELS, scale)
    exact = point[:, None] + scale[:, None] * expected
    np.testing.assert_allclose(quantiles, exact, rtol=1e-12, atol=1e-14)
    assert (quantiles[:, :3] <= exact[:, :3]).all()  # rounded outwards
    assert (quantiles[:, 4:] >= exact[:, 4:]).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()


def test_ranks_are_right_where_a_float_product_is_not():
    # 100 * 0.55 is just above 55 in floating point, and its ceiling is 56.
    residuals = np.arange(1.0, 100.0)
    quantiles = predictive_quantiles(residuals, [0.0], [0.45, 0.55])
    np.testing.assert_allclose(quantiles, [[45, 55]], rtol=1e-12)


@given(
    st.lists(SMALL, min_size=19, max_size=40),
    st.lists(st.integers(-8, 8), min_size=1, max_size=6),
)
def test_quantiles_invert_the_p_values(residuals, targets):
    # y <= q_tau if and only if Q(y, 0) < tau above the median, and y < q_tau if and
    # only if Q(y, 1) <= tau below it. Targets are off the ends by far more than the
    # outward rounding, or tie with them exactly.
    levels, n = LEVELS[LEVELS != 0.5], len(residuals)
    y = np.array(targets, dtype=float)
    ends = predictive_quantiles(residuals, np.zeros(y.size), levels)
    count = [
        np.rint((n + 1) * predictive_p_values(residuals, np.zeros(y.size), y, u=u))
        for u in (0, 1)
    ]
    for end, level in zip(ends.T, levels, strict=True):
        rank = (n + 1) * Fraction(str(level))
        if level > 0.5:
            assert ((y <= end) == [int(c) < rank for c in count[0]]).all()
        else:
            low = [int(c) <= rank for c in count[1]]
            assert ((y < np.rint(end)) == low).all()


@pytest.mark.parametrize("scaled", [False, True])
def test_no_tied_target_is_lost_to_rounding(scaled):
    # The end at the level k / (n + 1) is made of the row of rank k itself, which must
    # lie on its inner side however y - mu, the quotient and the end are rounded.
    n = 999
    point, y, scale = rows(n, seed=3)
    if not scaled:
        scale = np.ones(n)
    residuals = (y - point) / scale
    rank = residuals.argsort().argsort() + 1
    ends = predictive_quantiles(residuals, point, np.arange(1, n + 1) / (n + 1), scale)
    own = ends[np.arange(n), rank - 1]
    assert (y <= own)[rank > 500].all()
    assert (y >= own)[rank < 500].all()
    np.testing.assert_allclose(own, y, rtol=1e-12, atol=1e-14)


def test_the_median_is_that_of_the_residuals():
    point, _, scale = rows(5)
    for residuals in ([1.0, 5.0, 2.0], [4.0, 1.0, 2.0, 9.0]):
        middle = predictive_quantiles(residuals, point, [0.5], scale)[:, 0]
        np.testing.assert_array_equal(middle, point + scale * np.median(residuals))
    opposite = predictive_quantiles([-np.inf, np.inf], point, [0.5])[:, 0]
    np.testing.assert_array_equal(opposite, point)


def test_too_few_residuals_give_infinite_ends_and_one_warning():
    with pytest.warns(InfiniteIntervalWarning, match="at least 19 are") as caught:
        ends = predictive_quantiles(np.arange(9.0), [0.0, 1.0], LEVELS)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isneginf(ends[:, 0]).all()
    assert np.isposinf(ends[:, -1]).all()
    assert np.isfinite(ends[:, 1:-1]).all()
    with pytest.warns(InfiniteIntervalWarning):
        none = predictive_quantiles([], [3.0], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(none, [[-np.inf, 3.0, np.inf]])


def test_infinite_residuals_are_legal_ends():
    residuals = [-np.inf, *np.zeros(17), np.inf]
    ends = predictive_quantiles(residuals, [1.0], [0.05, 0.1, 0.9, 0.95], 2.0)
    np.testing.assert_allclose(ends, [[-np.inf, 1, 1, np.inf]], rtol=1e-12)


# All of them


def _all_functions(residuals, point, y, scale):
    return [
        predictive_p_values(residuals, point, y, scale),
        predictive_cdf(residuals, point, [0.0, 1.0], scale),
        predictive_quantiles(residuals, point, LEVELS, scale),
        predictive_crps(residuals, point, y, scale),
    ]


def test_order_and_layout_of_the_input_do_not_matter():
    residuals, (point, y, scale) = RNG.normal(size=60), rows(20)
    plain = _all_functions(residuals, point, y, scale)
    strided = np.repeat(residuals[::-1], 2)[::2]
    again = _all_functions(strided, *(np.repeat(a, 3)[::3] for a in (point, y, scale)))
    lists = _all_functions(*(a.tolist() for a in (residuals, point, y, scale)))
    for first, second, third in zip(plain, again, lists, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)


def test_single_precision_is_taken_as_it_is():
    residuals, (point, y, scale) = RNG.normal(size=60), rows(20)
    narrow = [a.astype(np.float32) for a in (residuals, point, y, scale)]
    wide = [a.astype(np.float64) for a in narrow]
    for first, second in zip(
        _all_functions(*narrow), _all_functions(*wide), strict=True
    ):
        np.testing.assert_array_equal(first, second)


def test_scalars_stand_for_all_rows():
    residuals, (point, _, _) = RNG.normal(size=60), rows(20)
    for function in (predictive_p_values, predictive_crps):
        np.testing.assert_array_equal(
            function(residuals, point, 0.5, 2),
            function(residuals, point, np.full(20, 0.5), np.full(20, 2.0)),
        )


def test_no_rows_give_no_values():
    shapes = [a.shape for a in _all_functions([0.0] * 30, [], [], 1)]
    assert shapes == [(0,), (0, 2), (0, 7), (0,)]


def test_inputs_are_not_changed():
    arrays = [np.array([3.0, 1.0] * 20), *rows(4)]
    copies = [a.copy() for a in arrays]
    _all_functions(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"residuals": [0.0, np.nan]}, "residuals contains NaN"),
        ({"residuals": [[0.0]]}, "residuals must be 1-D"),
        ({"y_pred": [np.inf, 0.0]}, "y_pred contains infinity"),
        ({"y_pred": [np.nan, 0.0]}, "y_pred contains NaN"),
        ({"y_pred": 0.0}, "y_pred must be 1-D"),
        ({"y": [0.0]}, r"y must be a number or have shape \(2,\)"),
        ({"y": [0.0, np.nan]}, "y contains NaN"),
        ({"scale": [1.0, 0.0]}, "scale must be positive and finite, got values from 0"),
        ({"scale": -1}, "scale must be positive and finite"),
        ({"scale": np.inf}, "scale must be positive and finite"),
        ({"scale": [1.0, np.nan]}, "scale contains NaN"),
        ({"scale": [1.0] * 3}, r"scale must be a number or have shape \(2,\)"),
        ({"u": 1.5}, "u must lie between 0 and 1, got values from 1.5"),
        ({"u": [0.5]}, r"u must be a number or have shape \(2,\)"),
    ],
)
def test_bad_input_is_named(changed, message):
    arguments = {"residuals": [0.0, 1.0], "y_pred": [0.0, 1.0], "y": [0.0, 1.0]}
    arguments |= changed
    with pytest.raises(ValueError, match=message):
        predictive_p_values(**arguments)
    if "u" not in changed:
        with pytest.raises(ValueError, match=message):
            predictive_crps(**arguments)


def test_bad_levels_and_thresholds_are_named():
    with pytest.raises(ValueError, match="strictly increasing"):
        predictive_quantiles([0.0], [0.0], [0.9, 0.1])
    with pytest.raises(ValueError, match="thresholds contains NaN"):
        predictive_cdf([0.0], [0.0], [np.nan])
    with pytest.raises(ValueError, match="thresholds must be 1-D"):
        predictive_cdf([0.0], [0.0], [[1.0]])
