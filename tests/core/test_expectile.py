"""The two levels of a number, and asymmetric least squares to optimality."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from uqlib._core.expectile import (
    expectile_quantile_level,
    fit_linear_expectiles,
    quantile_expectile_level,
)

LEVELS = np.array([0.01, 0.1, 0.3, 0.5, 0.8, 0.95])

samples = st.one_of(
    st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=30),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
).filter(lambda values: np.ptp(values) > 1e-6)


def weights_of(values, seed):
    return np.random.default_rng(seed).exponential(size=len(values))


def expectile(values, tau, weight):
    """The root of tau E(Y - e)_+ = (1 - tau) E(e - Y)_+, bracketed."""
    values = np.asarray(values)

    def balance(e):
        above, below = np.maximum(values - e, 0), np.maximum(e - values, 0)
        return weight @ (tau * above - (1 - tau) * below)

    return brentq(balance, values.min(), values.max(), xtol=1e-13)


# ---------------------------------------------------------------------------
# The map of a sample.


@given(values=samples, seed=st.integers(0, 99))
def test_quantile_level_is_the_share_at_or_below_the_expectile(values, seed):
    weight = weights_of(values, seed)
    found = expectile_quantile_level(values, LEVELS, weight)
    for level, share in zip(LEVELS, found, strict=True):
        root = expectile(values, level, weight)
        near = 1e-6 * np.ptp(values)
        bounds = [weight @ (np.array(values) <= root + d) for d in (-near, near)]
        assert bounds[0] - 1e-12 <= share * weight.sum() <= bounds[1] + 1e-12


@given(values=samples, seed=st.integers(0, 99))
def test_expectile_level_makes_the_quantile_an_expectile(values, seed):
    weight = weights_of(values, seed)
    found = quantile_expectile_level(values, LEVELS, weight)
    order = np.argsort(values)
    below = np.cumsum(weight[order]) / weight.sum()
    for level, tau in zip(LEVELS, found, strict=True):
        quantile = values[order[np.searchsorted(below, level)]]
        ends = np.array([min(values), max(values)])
        if 1e-9 < tau < 1 - 1e-9:
            ends = expectile(values, tau, weight)
        assert np.abs(ends - quantile).min() <= 1e-6 * np.ptp(values)


def test_uniform_law_has_its_closed_form():
    # On [0, 1]: tau (1 - e)^2 = (1 - tau) e^2 and F(e) = e.
    n = 10_000
    values = (np.arange(n) + 0.5) / n
    root = np.sqrt(LEVELS)
    expected = root / (root + np.sqrt(1 - LEVELS))
    np.testing.assert_allclose(
        expectile_quantile_level(values, LEVELS), expected, atol=1 / n
    )
    tau = LEVELS**2 / (LEVELS**2 + (1 - LEVELS) ** 2)
    np.testing.assert_allclose(
        quantile_expectile_level(values, LEVELS), tau, atol=2 / n
    )


def test_normal_law_has_its_closed_form():
    # E(z - Y)_+ = z F(z) + f(z), and E|Y - z| is twice that minus z.
    n = 100_000
    values = norm.ppf((np.arange(n) + 0.5) / n)
    z = norm.ppf(LEVELS)
    below = z * norm.cdf(z) + norm.pdf(z)
    tau = below / (2 * below - z)
    np.testing.assert_allclose(quantile_expectile_level(values, LEVELS), tau, atol=1e-4)
    np.testing.assert_allclose(expectile_quantile_level(values, tau), LEVELS, atol=1e-4)


@given(values=samples, level=st.integers(1, 99))
def test_there_and_back(values, level):
    # The quantile of level a is the expectile of its own expectile level, and the
    # share at or below the quantile is at least a.
    (tau,) = quantile_expectile_level(values, [level / 100])
    if 1e-6 < tau < 1 - 1e-6:
        assert expectile_quantile_level(values, [tau]) >= level / 100 - 1e-9


def test_shift_scale_reflection_and_repetition():
    rng = np.random.default_rng(0)
    values, counts = rng.normal(size=50), rng.integers(0, 4, size=50)
    for function in (expectile_quantile_level, quantile_expectile_level):
        expected = function(values, LEVELS)
        np.testing.assert_allclose(function(3e4 + 2 * values, LEVELS), expected)
        np.testing.assert_allclose(
            function(values, LEVELS, counts),
            function(np.repeat(values, counts), LEVELS),
        )
    tau = quantile_expectile_level(values, [0.2])
    # The quantile of 0.2 is the 10th smallest: the 41st of the reflected sample.
    np.testing.assert_allclose(quantile_expectile_level(-values, [0.82]), 1 - tau)


def test_an_expectile_on_an_atom_counts_it():
    assert expectile_quantile_level([-1.0, 0.0, 1.0], [0.5]) == 2 / 3
    assert expectile_quantile_level([0.1, 0.2, 0.3], [0.5]) == 2 / 3


@pytest.mark.parametrize(
    "function", [expectile_quantile_level, quantile_expectile_level]
)
@pytest.mark.parametrize(
    ("values", "levels", "weight", "message"),
    [
        ([1.0, 1.0], [0.5], None, "holds 1 distinct values"),
        ([1.0, 2.0], [0.5], [1.0, 0.0], "holds 1 distinct values"),
        ([], [0.5], None, "holds 0 distinct values"),
        ([1.0, np.inf], [0.5], None, "residuals contains NaN or infinity"),
        ([[1.0], [2.0]], [0.5], None, "residuals must have shape (n_samples,)"),
        ([1.0, 2.0], [0.0], None, "must lie strictly between 0 and 1"),
        ([1.0, 2.0], [0.5], [1.0], "sample_weight must have shape (2,)"),
    ],
)
def test_bad_samples_are_named(function, values, levels, weight, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(values, levels, weight)


# ---------------------------------------------------------------------------
# Lines.


def assert_optimal(fit, X, y, weight, alpha=0.0, fit_intercept=True, rtol=1e-10):
    """The objective is convex and differentiable: its gradient vanishes."""
    share = weight / weight.sum()
    for tau, coef, intercept in zip(LEVELS, fit.coef, fit.intercept, strict=True):
        error = y - X @ coef - intercept
        d = share * np.where(error < 0, 1 - tau, tau)
        size = np.abs(X).T @ (d * np.abs(error)) + alpha * np.abs(coef)
        gradient = X.T @ (d * error) - alpha * coef
        rounding = 1e-13 * share @ np.abs(X) * np.abs(y).max()
        assert np.all(np.abs(gradient) <= rtol * size + rounding)
        if fit_intercept:
            assert abs(d @ error) <= rtol * (d @ np.abs(error)) + 1e-13 * np.ptp(y)
        else:
            assert intercept == 0


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    d=st.integers(1, 6),
    alpha=st.sampled_from([0.0, 1e-3, 10.0]),
    fit_intercept=st.booleans(),
    heavy=st.booleans(),
)
def test_the_normal_equations_hold(seed, n, d, alpha, fit_intercept, heavy):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = rng.standard_cauchy(size=n) if heavy else rng.integers(0, 4, n).astype(float)
    weight = rng.exponential(size=n)
    fit = fit_linear_expectiles(
        X, y, LEVELS, weight, alpha=alpha, fit_intercept=fit_intercept
    )
    assert fit.converged.all()
    assert_optimal(fit, X, y, weight, alpha, fit_intercept)


def test_a_cycle_of_plain_reweighting_is_broken():
    # Reweighted least squares alone returns here to its first signs, for ever.
    x = np.array([-3.0, 3, -1, -2, 4, 4, -4, -2, 3, 3])
    y = np.array([-0.33, 0.95, 0.9, -2.17, 1.28, -0.09, -0.51, 0.29, -2.45, 4.3])
    tau, design = 0.01, np.column_stack([np.ones(10), x])
    theta, signs = np.linalg.lstsq(design, y, rcond=None)[0], []
    for _ in range(9):
        below = y - design @ theta < 0
        signs.append(below.tolist())
        root = np.sqrt(np.where(below, 1 - tau, tau))
        theta = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    assert signs[0] == signs[4] == signs[8]
    assert signs[0] != signs[1]

    fit = fit_linear_expectiles(x[:, None], y, np.array([tau]))
    assert fit.converged.all()
    error = y - fit.intercept - x * fit.coef[0]
    weighted = np.where(error < 0, 1 - tau, tau) * error
    np.testing.assert_allclose(design.T @ weighted, 0, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_units_of_features_do_not_matter_to_the_accuracy(alpha):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = X.sum(axis=1) + rng.normal(size=200)
    scale = np.array([1e-7, 1.0, 1e9])
    plain = fit_linear_expectiles(X, y, LEVELS)
    fit = fit_linear_expectiles(X * scale, y, LEVELS, alpha=alpha)
    if alpha == 0:
        np.testing.assert_allclose(fit.coef * scale, plain.coef, rtol=1e-9)
    assert_optimal(fit, X * scale, y, np.ones(200), alpha)


def test_collinear_and_constant_features_are_left_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2))
    y = X.sum(axis=1) + rng.normal(size=100)
    wide = np.column_stack([X, X[:, 0] - 2 * X[:, 1], np.full(100, 0.1)])
    plain, fit = (fit_linear_expectiles(Z, y, LEVELS) for Z in (X, wide))
    np.testing.assert_array_equal(fit.coef[:, 3], 0)
    np.testing.assert_allclose(
        wide @ fit.coef.T + fit.intercept, X @ plain.coef.T + plain.intercept
    )


def test_a_large_offset_costs_no_digits():
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(100, 2)), rng.normal(size=100)
    near = fit_linear_expectiles(X, noise, LEVELS)
    far = fit_linear_expectiles(X + 1e6, noise + 1e6, LEVELS)
    np.testing.assert_allclose(far.coef, near.coef, atol=1e-8)
    assert far.converged.all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_units_of_the_target(scale):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    plain = fit_linear_expectiles(X, y, LEVELS)
    fit = fit_linear_expectiles(X, y * scale, LEVELS)
    np.testing.assert_allclose(fit.coef, plain.coef * scale, rtol=1e-9)


def test_rows_without_weight_are_as_good_as_absent():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    weight = np.where(np.arange(40) < 25, 1.0, 0.0)
    fit = fit_linear_expectiles(X, np.where(weight > 0, y, 1e9), LEVELS, weight)
    again = fit_linear_expectiles(X[:25], y[:25], LEVELS)
    np.testing.assert_array_equal(fit.coef, again.coef)
