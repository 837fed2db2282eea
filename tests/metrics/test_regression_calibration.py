"""Calibration of quantiles: counting, exact areas in fractions, all groups."""

import re
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm as gaussian

from uqlib.metrics._quantile import quantile_calibration_error
from uqlib.metrics._regression_calibration import (
    adversarial_group_calibration_error,
    gaussian_quantiles,
    miscalibration_area,
    quantile_calibration_curve,
)

LEVELS = [0.05, 0.25, 0.5, 0.6, 0.95]
NORMS = ["l1", "l2", "max"]
METRICS = [
    quantile_calibration_curve,
    quantile_calibration_error,
    miscalibration_area,
]
metrics = pytest.mark.parametrize("metric", METRICS)


def whole(*args, **kwargs):
    """The worst group is all rows."""
    return adversarial_group_calibration_error(*args, group_size=1.0, **kwargs)


def case(n=40, seed=0, crossing=False):
    """Return y, q and weights; some targets lie on a quantile exactly."""
    rng = np.random.default_rng([seed, n])
    y, q = rng.normal(size=n), rng.normal(size=(n, len(LEVELS)))
    q = q if crossing else np.sort(q, axis=1)
    y[::7] = q[::7, 0]
    return y, q, rng.exponential(size=n)


def same(a, b):
    return a == pytest.approx(b, rel=1e-12, abs=1e-14)


# --------------------------------------------------------------------- Gaussian


def test_gaussian_quantiles_are_those_of_scipy():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=30), rng.exponential(size=30)
    levels = [1e-12, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6]
    expected = gaussian.ppf(levels, mean[:, None], std[:, None])
    found = gaussian_quantiles(mean, std, levels)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert np.all(np.diff(found, axis=1) > 0)
    one = gaussian_quantiles(mean, 2.0, levels)
    assert np.array_equal(one, gaussian_quantiles(mean, np.full(30, 2.0), levels))


def test_gaussian_quantiles_of_certain_and_of_huge_predictions():
    q = gaussian_quantiles([1.0, -2.0], [0.0, 1.0], LEVELS)
    assert np.array_equal(q[0], np.ones(5))
    assert q[1, 2] == -2.0
    huge = gaussian_quantiles([0.0], [1.7e308], [0.01, 0.99])
    assert huge.tolist() == [[-np.inf, np.inf]]
    single = gaussian_quantiles(np.float32([1]), np.float32([2]), [0.5, 0.9])
    assert single.dtype == np.float64


def test_gaussian_quantiles_take_series(df_module):
    mean, std = np.arange(3.0), np.ones(3)
    expected = gaussian_quantiles(mean, std, LEVELS)
    series = df_module.make_series(mean), df_module.make_series(std)
    assert np.array_equal(gaussian_quantiles(*series, LEVELS), expected)
    assert np.array_equal(gaussian_quantiles([0, 1, 2], [1, 1, 1], LEVELS), expected)


def test_a_true_gaussian_forecast_is_calibrated():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=20_000), rng.exponential(size=20_000)
    y = mean + std * rng.normal(size=20_000)
    levels = np.arange(1, 20) / 20
    q = gaussian_quantiles(mean, std, levels)
    # Dvoretzky-Kiefer-Wolfowitz: once in a million the largest gap is above this.
    bound = np.sqrt(np.log(2e6) / (2 * y.size))
    assert quantile_calibration_error(y, q, levels, norm="max") <= bound
    assert miscalibration_area(y, q, levels) <= bound
    narrow = gaussian_quantiles(mean, std / 2, levels)
    assert miscalibration_area(y, narrow, levels) > 5 * bound


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0, np.nan], [1.0, 1.0], "y_mean contains NaN or infinity"),
        ([0.0, 1.0], [1.0, np.inf], "y_std contains NaN or infinity"),
        ([0.0, 1.0], np.nan, "y_std contains NaN or infinity"),
        ([0.0, 1.0], [1.0, -0.5], "y_std must not be negative, but row 1 holds -0.5"),
        ([0.0, 1.0], [1.0], "y_std has 1 rows but y_mean has 2"),
        ([[0.0], [1.0]], [1.0, 1.0], "y_mean must have shape (n_samples,), got"),
        ([0.0, 1.0], [[1.0], [1.0]], "y_std must have shape (n_samples,), got"),
        ([], [], "y_mean is empty"),
    ],
)
def test_gaussian_quantiles_refuse(mean, std, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gaussian_quantiles(mean, std, [0.5])
    with pytest.raises(ValueError, match="strictly increasing"):
        gaussian_quantiles([0.0], [1.0], [0.5, 0.1])


# ------------------------------------------------------------------------ curve


@pytest.mark.parametrize("weighted", [False, True])
def test_curve_by_counting(weighted):
    y, q, weight = case()
    w = weight if weighted else np.ones(y.size)
    expected = [
        sum(w[i] for i in range(y.size) if y[i] <= q[i, k]) / w.sum() for k in range(5)
    ]
    observed = quantile_calibration_curve(
        y, q, LEVELS, sample_weight=weight if weighted else None
    )
    assert observed.shape == (5,)
    assert same(observed, expected)
    assert np.all(np.diff(observed) >= 0)


def test_curve_of_infinite_quantiles():
    q = [[-np.inf, np.inf], [-np.inf, np.inf]]
    observed = quantile_calibration_curve([0.0, 1.0], q, [0.2, 0.9])
    assert observed.tolist() == [0.0, 1.0]


# ------------------------------------------------------------------------ error


@pytest.mark.parametrize("weighted", [False, True])
def test_error_is_a_norm_of_the_gaps(weighted):
    y, q, weight = case()
    weight = weight if weighted else None
    gap = np.abs(
        quantile_calibration_curve(y, q, LEVELS, sample_weight=weight) - LEVELS
    )
    found = {
        norm: quantile_calibration_error(y, q, LEVELS, norm=norm, sample_weight=weight)
        for norm in NORMS
    }
    expected = {"l1": gap.mean(), "l2": np.sqrt((gap**2).mean()), "max": gap.max()}
    assert found == pytest.approx(expected, rel=1e-12)
    assert quantile_calibration_error(y, q, LEVELS, sample_weight=weight) == found["l1"]
    assert all(type(value) is float for value in found.values())


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_norms_are_in_order(seed, n):
    y, q, weight = case(n, seed=seed, crossing=True)
    l1, l2, largest = (
        quantile_calibration_error(y, q, LEVELS, norm=norm, sample_weight=weight)
        for norm in NORMS
    )
    assert l1 <= l2 + 1e-15
    assert l2 <= largest + 1e-15


def test_equal_gaps_have_one_norm():
    # One level, and two whose shares miss by the same.
    for norm in NORMS:
        assert quantile_calibration_error([1.0], [[2.0]], [0.75], norm=norm) == 0.25
        q = [[-1.0, 1.0]]
        found = quantile_calibration_error([0.0], q, [0.25, 0.75], norm=norm)
        assert same(found, 0.25)
        perfect = quantile_calibration_error([0.0, 2.0], [[1.0]] * 2, [0.5], norm=norm)
        assert perfect == 0.0


@pytest.mark.parametrize("norm", ["L1", 2, None, ["l1"]])
def test_an_unknown_norm(norm):
    for metric in (quantile_calibration_error, whole):
        with pytest.raises(ValueError, match=re.escape(f"norm={norm!r} must be 'l1'")):
            metric([0.0], [[1.0]], [0.5], norm=norm)


# ------------------------------------------------------------------------- area


def exact_area(levels, observed):
    """Triangles and trapezoids between a polygon and the diagonal, in fractions."""
    x = [Fraction(0), *map(Fraction, levels), Fraction(1)]
    c = [Fraction(0), *map(Fraction, observed), Fraction(1)]
    area = Fraction(0)
    for k in range(len(x) - 1):
        left, right, width = c[k] - x[k], c[k + 1] - x[k + 1], x[k + 1] - x[k]
        if left * right < 0:
            meets = width * left / (left - right)
            area += abs(left) * meets / 2 + abs(right) * (width - meets) / 2
        else:
            area += width * abs(left + right) / 2
    return area


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.booleans())
def test_area_is_exact(seed, n, crossing):
    y, q, _ = case(n, seed=seed, crossing=crossing)
    counts = (y[:, None] <= q).sum(axis=0)
    expected = exact_area(LEVELS, [Fraction(int(count), n) for count in counts])
    found = miscalibration_area(y, q, LEVELS)
    assert same(found, float(expected))
    assert type(found) is float
    assert 0 <= found < (0.75 if crossing else 0.5)


def test_area_by_quadrature():
    y, q, weight = case()
    observed = quantile_calibration_curve(y, q, LEVELS, sample_weight=weight)
    t = (np.arange(10**6) + 0.5) / 10**6
    curve = np.interp(t, [0, *LEVELS, 1], [0, *observed, 1])
    found = miscalibration_area(y, q, LEVELS, sample_weight=weight)
    assert found == pytest.approx(np.abs(curve - t).mean(), abs=1e-10)


def test_area_by_hand():
    # No target is below: two triangles of height 1 / 2, one after the other.
    assert miscalibration_area([1.0], [[0.0]], [0.5]) == 0.25
    assert same(miscalibration_area([1.0], [[2.0]], [0.2]), 0.8 / 2)
    # Through (1/4, 1/2), (3/4, 1/2): the curve meets the diagonal in the middle.
    found = miscalibration_area([0.0, 2.0], [[1.0, 1.0]] * 2, [0.25, 0.75])
    assert found == 4 * 0.25 * 0.25 / 2
    # A perfect curve has none.
    y = np.arange(1.0, 5.0)
    perfect = miscalibration_area(
        y, np.tile([1.0, 2.0, 3.0], (4, 1)), [0.25, 0.5, 0.75]
    )
    assert perfect == 0.0


def test_area_and_error_agree_on_dense_levels():
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    previous = np.inf
    for n_levels in (10, 100, 1000):
        levels = (np.arange(n_levels) + 0.5) / n_levels
        q = np.tile(gaussian.ppf(levels) / 2, (200, 1))
        area, error = (
            metric(y, q, levels)
            for metric in (miscalibration_area, quantile_calibration_error)
        )
        assert abs(area - error) < previous / 5
        previous = max(abs(area - error), 1e-3)


# ----------------------------------------------------------------------- groups


def test_the_group_of_all_rows():
    y, q, _ = case()
    for norm in NORMS:
        expected = quantile_calibration_error(y, q, LEVELS, norm=norm)
        assert same(whole(y, q, LEVELS, norm=norm), expected)
        found = adversarial_group_calibration_error(
            y, q, LEVELS, group_size=y.size, norm=norm
        )
        assert same(found, expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_many_draws_find_the_worst_group(size, norm):
    y, q, _ = case(n=5)
    worst = max(
        quantile_calibration_error(y[rows], q[rows], LEVELS, norm=norm)
        for rows in map(list, combinations(range(5), size))
    )
    # One of at most 10 groups is missed by all draws once in 10^22 times.
    found = adversarial_group_calibration_error(
        y, q, LEVELS, group_size=size, n_groups=500, norm=norm, rng=0
    )
    assert same(found, worst)
    assert type(found) is float


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4))
def test_a_search_is_a_lower_bound_that_grows(seed, size, n_groups):
    y, q, _ = case(n=6, seed=seed)
    worst = max(
        quantile_calibration_error(y[rows], q[rows], LEVELS)
        for rows in map(list, combinations(range(6), size))
    )
    found = [
        adversarial_group_calibration_error(
            y, q, LEVELS, group_size=size, n_groups=groups, rng=seed
        )
        for groups in (n_groups, 2 * n_groups)
    ]
    assert found[0] <= found[1] <= worst + 1e-15


def test_groups_are_drawn_by_rng():
    y, q, _ = case(n=100)
    options = {"group_size": 7, "n_groups": 3}

    def error(rng):
        return adversarial_group_calibration_error(y, q, LEVELS, rng=rng, **options)

    assert error(0) == error(0) == error(np.random.default_rng(0))
    assert len({error(seed) for seed in range(20)}) > 5
    generator = np.random.default_rng(0)
    assert error(generator) != error(generator)
    assert 0 <= error(None) <= 1


def test_a_share_of_the_rows():
    y, q, _ = case(n=25)
    for share, size in [(0.2, 5), (0.001, 1), (0.99, 25), (np.float32(0.5), 12)]:
        found, expected = (
            adversarial_group_calibration_error(y, q, LEVELS, group_size=number, rng=1)
            for number in (share, size)
        )
        assert found == expected
    by_default = adversarial_group_calibration_error(y, q, LEVELS, rng=1)
    tenth = adversarial_group_calibration_error(y, q, LEVELS, group_size=2, rng=1)
    assert by_default == tenth


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group_size": 0}, ValueError, "group_size=0 must be an int from 1 to n_sam"),
        ({"group_size": 3}, ValueError, "to n_samples=2 or a float above 0 and at m"),
        ({"group_size": 0.0}, ValueError, "group_size=0.0 must be"),
        ({"group_size": 1.5}, ValueError, "group_size=1.5 must be"),
        ({"group_size": np.nan}, ValueError, "group_size=nan must be"),
        ({"group_size": True}, TypeError, "group_size must be a number of rows or a"),
        ({"group_size": "all"}, TypeError, "group_size must be a number of rows or a"),
        ({"n_groups": 0}, ValueError, "n_groups must be at least 1, got 0"),
        ({"n_groups": 2.0}, TypeError, "n_groups must be an integer, at least 1"),
        ({"n_groups": True}, TypeError, "n_groups must be an integer, at least 1"),
    ],
)
def test_bad_groups(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        adversarial_group_calibration_error([0.0, 1.0], [[1.0]] * 2, [0.5], **options)


# --------------------------------------------------------------- shared identities


@metrics
def test_integer_weights_are_repeated_rows(metric):
    y, q, _ = case()
    counts = np.random.default_rng(0).integers(0, 4, y.size)
    rows = np.repeat(np.arange(y.size), counts)
    expected = metric(y[rows], q[rows], LEVELS)
    for scale in (1, 0.1, 1e200):
        assert same(metric(y, q, LEVELS, sample_weight=scale * counts), expected)


@metrics
@pytest.mark.parametrize("tied", [False, True])
def test_the_order_of_rows_does_not_matter(metric, tied):
    y, q, weight = case()
    if tied:
        y, q = np.round(y), np.round(q)
    order = np.random.default_rng(0).permutation(y.size)
    assert np.array_equal(metric(y[order], q[order], LEVELS), metric(y, q, LEVELS))
    found = metric(y[order], q[order], LEVELS, sample_weight=weight[order])
    assert same(found, metric(y, q, LEVELS, sample_weight=weight))


@pytest.mark.parametrize("metric", [quantile_calibration_error, miscalibration_area])
def test_mirrored_targets_have_mirrored_levels(metric):
    y, q, _ = case()
    q = q + 1e-3  # no ties: they count on one side only
    mirrored = metric(-y, -q[:, ::-1], 1 - np.array(LEVELS)[::-1])
    assert same(mirrored, metric(y, q, LEVELS))


@metrics
def test_only_the_order_of_target_and_quantile_counts(metric):
    y, q, _ = case()
    assert np.array_equal(metric(np.exp(y), np.exp(q), LEVELS), metric(y, q, LEVELS))


@pytest.mark.parametrize("metric", [*METRICS, whole])
def test_kinds_of_input(metric, df_module):
    y, q, _ = case()
    y, q = y.astype(np.float32), q.astype(np.float32)
    expected = metric(y.astype(np.float64), q.astype(np.float64), LEVELS)
    frame = df_module.make_dataframe({f"q{k}": q[:, k] for k in range(5)})
    found = [
        metric(y, q, LEVELS),
        metric(df_module.make_series(y), frame, LEVELS),
        metric(y.tolist(), q.tolist(), tuple(LEVELS)),
        metric(np.repeat(y, 2)[::2], np.asfortranarray(q), np.array(LEVELS)),
    ]
    for value in found:
        assert np.array_equal(value, expected)


@pytest.mark.parametrize("metric", [*METRICS, whole])
@pytest.mark.parametrize(
    ("y", "q", "levels", "message"),
    [
        ([np.nan], [[1.0]], [0.5], "y_true contains NaN or infinity"),
        ([np.inf], [[1.0]], [0.5], "y_true contains NaN or infinity"),
        ([0.0], [[np.nan]], [0.5], "y_quantiles contains NaN"),
        ([0.0], [[1.0]], [0.1, 0.5], "y_quantiles has 1 columns but there are 2"),
        ([0.0], [1.0], [0.5], "y_quantiles must have shape (n_samples, n_quantiles)"),
        ([0.0, 1.0], [[1.0]], [0.5], "y_quantiles has 1 rows but y_true has 2"),
        ([], np.empty((0, 1)), [0.5], "y_true is empty"),
        ([[0.0]], [[1.0]], [0.5], "y_true must have shape (n_samples,), got"),
        ([0.0], [[1.0]], [1.0], "quantiles must lie strictly between 0 and 1"),
        ([0.0], [[1.0, 2.0]], [0.5, 0.5], "quantiles must be strictly increasing"),
    ],
)
def test_bad_input(metric, y, q, levels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        metric(y, q, levels)


@metrics
def test_bad_weights(metric):
    for weight in ([1.0], [0.0, 0.0], [1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="sample_weight must"):
            metric([0.0, 1.0], [[1.0]] * 2, [0.5], sample_weight=weight)
