"""Metrics of quantile matrices: identities between them, and with scikit-learn's."""

import re
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_pinball_loss

from uqlib._core import kernels
from uqlib._core.losses import crps_level_weight
from uqlib.metrics import (
    crps_from_quantiles,
    interval_score,
    pinball_loss,
    quantile_calibration_error,
    weighted_interval_score,
)
from uqlib.quantile import isotonic_quantiles

try:
    import uqlib_kernels.rows
except ImportError:  # the NumPy path must work without
    uqlib_kernels = None

needs_kernels = pytest.mark.skipif(
    uqlib_kernels is None, reason="uqlib_kernels cannot be imported"
)
both_paths = pytest.mark.parametrize(
    "path", ["numpy", pytest.param("kernels", marks=needs_kernels)]
)

METRICS = [
    pinball_loss,
    weighted_interval_score,
    crps_from_quantiles,
    quantile_calibration_error,
]
metrics = pytest.mark.parametrize("metric", METRICS)
losses = pytest.mark.parametrize("metric", METRICS[:3])
weightings = pytest.mark.parametrize("weighted", [False, True])

SYMMETRIC = [
    [0.5],
    [0.25, 0.75],
    [0.1, 0.5, 0.9],
    [0.05, 0.2, 0.8, 0.95],
    [round(0.05 * k, 2) for k in range(1, 20)],
    # Computed levels: partners meet only up to rounding.
    [1 - 0.9, 0.3, 1 - 0.3, 0.9],
]
UNSYMMETRIC = [[0.2], [0.1, 0.2, 0.7], [0.001, 0.5, 0.6, 0.999]]
level_sets = pytest.mark.parametrize("levels", SYMMETRIC + UNSYMMETRIC, ids=str)


@contextmanager
def using(path):
    """Send everything through the compiled row kernels, or nothing."""
    with pytest.MonkeyPatch.context() as patch:
        size = 0 if path == "kernels" else 2**62
        patch.setattr(kernels, "KERNEL_MIN_SIZE", size)
        assert (kernels.row_kernels(10**9) is None) == (path == "numpy")
        yield


def case(levels, n=60, seed=0, weighted=False):
    """Return y, q and row weights; some targets lie on a quantile exactly."""
    rng = np.random.default_rng([seed, len(levels)])
    y = rng.normal(size=n)
    q = np.sort(rng.normal(size=(n, len(levels))), axis=1)
    y[::7] = q[::7, 0]
    return y, q, rng.exponential(size=n) if weighted else None


def same(a, b, scale=1.0):
    return a == pytest.approx(b, rel=1e-12, abs=1e-12 * scale)


# ---------------------------------------------------------------------- pinball


@both_paths
@weightings
@level_sets
def test_pinball_is_the_mean_of_that_of_sklearn(path, weighted, levels):
    y, q, weight = case(levels, weighted=weighted)
    expected = [
        mean_pinball_loss(y, column, alpha=level, sample_weight=weight)
        for column, level in zip(q.T, levels, strict=True)
    ]
    with using(path):
        raw = pinball_loss(y, q, levels, sample_weight=weight, multioutput="raw_values")
        mean = pinball_loss(y, q, levels, sample_weight=weight)
        level_weight = np.arange(1.0, len(levels) + 1)
        averaged = pinball_loss(
            y, q, levels, sample_weight=weight, multioutput=level_weight
        )
    assert raw.shape == (len(levels),)
    assert same(raw, expected)
    assert same(mean, np.mean(expected))
    assert type(mean) is type(averaged) is float
    assert same(averaged, np.average(expected, weights=level_weight))


def test_a_level_of_weight_zero_may_have_an_infinite_loss():
    q = [[-np.inf, 1.0]]
    assert pinball_loss([2.0], q, [0.1, 0.5]) == np.inf
    assert pinball_loss([2.0], q, [0.1, 0.5], multioutput=[0.0, 1.0]) == 0.5


def test_pinball_by_hand():
    # Below by 2 at level 0.9 costs 1.8; above by 1 at level 0.5 costs 0.5.
    q, levels = [[4.0, 1.0]], [0.5, 0.9]
    raw = pinball_loss([3.0], q, levels, multioutput="raw_values")
    assert raw == pytest.approx([0.5, 1.8])
    assert pinball_loss([3.0], q, levels) == pytest.approx(1.15)


@losses
def test_perfect_quantiles_have_no_loss(metric):
    y = np.array([1.0, -2.0])
    assert metric(y, np.column_stack([y, y, y]), [0.1, 0.5, 0.9]) == 0.0


# -------------------------------------------------------------------------- WIS


@weightings
@pytest.mark.parametrize("levels", SYMMETRIC, ids=str)
def test_wis_is_its_definition_from_interval_scores(weighted, levels):
    """Bracher et al. (2021), equation (1), written out."""
    y, q, weight = case(levels, weighted=weighted)
    n_intervals, has_median = divmod(len(levels), 2)
    total = 0.0
    for k in range(n_intervals):
        alpha = 2 * levels[k]
        score = interval_score(y, q[:, [k, -1 - k]], 1 - alpha, sample_weight=weight)
        total += alpha / 2 * score
    if has_median:
        distance = np.abs(y - q[:, n_intervals])
        total += 0.5 * np.average(distance, weights=weight)
    expected = total / (n_intervals + 0.5 * has_median)
    assert same(weighted_interval_score(y, q, levels, sample_weight=weight), expected)


@pytest.mark.parametrize("levels", SYMMETRIC, ids=str)
def test_wis_is_twice_the_pinball_loss(levels):
    y, q, _ = case(levels)
    expected = 2 * pinball_loss(y, q, levels)
    assert same(weighted_interval_score(y, q, levels), expected)


def test_wis_of_the_median_is_the_absolute_error():
    assert weighted_interval_score([3.0, 5.0], [[1.0], [6.0]], [0.5]) == 1.5


@pytest.mark.parametrize("levels", UNSYMMETRIC, ids=str)
def test_wis_refuses_levels_without_partners(levels):
    message = (
        "quantiles must hold the level 1 - tau for every level tau, got "
        f"{levels}. Use pinball_loss for other levels."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        weighted_interval_score([0.0], np.zeros((1, len(levels))), levels)


# ------------------------------------------------------------------------- CRPS


@weightings
@pytest.mark.parametrize("m", [1, 2, 7, 40])
def test_crps_is_that_of_equal_atoms_at_midpoint_levels(weighted, m):
    levels = (np.arange(m) + 0.5) / m
    y, q, weight = case(levels, weighted=weighted)
    # E|Y - y| - E|Y - Y'| / 2 for Y with mass 1 / m on each quantile.
    spread = np.abs(q[:, :, None] - q[:, None, :]).mean(axis=(1, 2))
    expected = np.average(
        np.abs(q - y[:, None]).mean(axis=1) - spread / 2, weights=weight
    )
    assert same(crps_from_quantiles(y, q, levels, sample_weight=weight), expected)


def test_crps_of_a_gaussian_converges_to_its_closed_form():
    y = np.linspace(-3, 3, 13)
    law = stats.norm()
    closed = y * (2 * law.cdf(y) - 1) + 2 * law.pdf(y) - 1 / np.sqrt(np.pi)
    error = []
    for m in (100, 1000, 10_000):
        levels = (np.arange(m) + 0.5) / m
        q = law.ppf(levels)[None]
        crps = [crps_from_quantiles([z], q, levels) for z in y]
        error.append(np.abs(crps - closed).max())
    assert error[0] > 5 * error[1] > 25 * error[2]
    assert error[2] < 1e-5


@level_sets
def test_crps_is_the_trapezoidal_rule_with_constant_tails(levels):
    y, q, _ = case(levels)
    values = np.stack(
        [mean_pinball_loss(y, q[:, k], alpha=t) for k, t in enumerate(levels)]
    )
    tails = levels[0] * values[0] + (1 - levels[-1]) * values[-1]
    expected = 2 * (np.trapezoid(values, levels) + tails)
    assert same(crps_from_quantiles(y, q, levels), expected)


@level_sets
def test_crps_level_weights_are_a_distribution(levels):
    weight = crps_level_weight(np.array(levels))
    assert np.all(weight > 0)
    assert same(weight.sum(), 1.0)


@pytest.mark.parametrize("levels", UNSYMMETRIC[1:], ids=str)
def test_isotonic_with_the_level_weights_of_the_crps_never_increases_it(levels):
    rng = np.random.default_rng(0)
    q, y = rng.normal(size=(500, len(levels))), rng.normal(size=500)
    repaired = isotonic_quantiles(q, crps_level_weight(np.array(levels)))
    for i in range(500):
        row = slice(i, i + 1)
        after = crps_from_quantiles(y[row], repaired[row], levels)
        assert after <= crps_from_quantiles(y[row], q[row], levels) + 1e-12


# ------------------------------------------------------------ calibration error


@weightings
@level_sets
def test_calibration_error_by_counting(weighted, levels):
    y, q, weight = case(levels, weighted=weighted)
    w = np.ones(y.size) if weight is None else weight
    distances = []
    for k, level in enumerate(levels):
        below = sum(w[i] for i in range(y.size) if y[i] <= q[i, k])
        distances.append(abs(below / w.sum() - level))
    error = quantile_calibration_error(y, q, levels, sample_weight=weight)
    assert same(error, np.mean(distances))
    assert type(error) is float


def test_empirical_quantiles_are_calibrated():
    y = np.random.default_rng(0).permutation(100).astype(float)
    levels = [0.1, 0.5, 0.95]
    q = np.tile([9.0, 49.0, 94.0], (100, 1))  # exactly 10, 50 and 95 at most that
    assert quantile_calibration_error(y, q, levels) == pytest.approx(0.0, abs=1e-12)
    # All levels at one end: the mean of the levels, or of their complements.
    far = np.full((100, 3), -1.0)
    assert same(quantile_calibration_error(y, far, levels), np.mean(levels))
    assert same(quantile_calibration_error(y, -99 * far, levels), 1 - np.mean(levels))


def test_calibration_error_takes_infinities():
    q = [[-np.inf, np.inf], [-np.inf, np.inf]]
    error = quantile_calibration_error([0.0, 1.0], q, [0.2, 0.9])
    assert error == pytest.approx((0.2 + 0.1) / 2)


# --------------------------------------------------------------- shared identities


@both_paths
@losses
@given(factor=st.integers(-20, 20), shift=st.integers(-(2**10), 2**10))
def test_losses_are_equivariant(path, metric, factor, shift):
    levels = [0.1, 0.5, 0.9]
    y, q, _ = case(levels)
    y, q = np.round(64 * y) / 64, np.round(64 * q) / 64  # a shift is then exact
    scale = 2.0**factor
    with using(path):
        moved = metric(scale * (y + shift), scale * (q + shift), levels)
        assert same(moved / scale, metric(y, q, levels))


@metrics
def test_mirrored_targets_have_mirrored_levels(metric):
    y, q, _ = case([0.1, 0.2, 0.5, 0.8, 0.9])
    levels = np.array([0.1, 0.2, 0.5, 0.8, 0.9])
    if metric is quantile_calibration_error:
        q = q + 1e-3  # no ties: they count on one side only
    mirrored = metric(-y, -q[:, ::-1], 1 - levels[::-1])
    assert same(mirrored, metric(y, q, levels))


@both_paths
@metrics
def test_integer_weights_are_repeated_rows(path, metric):
    levels = [0.1, 0.5, 0.9]
    y, q, _ = case(levels)
    counts = np.random.default_rng(0).integers(0, 4, y.size)
    rows = np.repeat(np.arange(y.size), counts)
    with using(path):
        weighted = metric(y, q, levels, sample_weight=counts)
        assert same(weighted, metric(y[rows], q[rows], levels))


@both_paths
@metrics
def test_the_scale_of_the_weights_does_not_matter(path, metric):
    levels = [0.1, 0.5, 0.9]
    y, q, weight = case(levels, weighted=True)
    with using(path):
        expected = metric(y, q, levels, sample_weight=weight)
        assert same(metric(y, q, levels, sample_weight=1e6 * weight), expected)


@both_paths
@metrics
def test_rows_of_weight_zero_have_no_say(path, metric):
    levels = [0.1, 0.5, 0.9]
    y, q, _ = case(levels)
    weight = np.ones(y.size)
    weight[:3] = 0.0
    infinite = q.copy()
    infinite[:3] = [[-np.inf] * 3, [np.inf] * 3, [-np.inf, 0.0, np.inf]]
    with using(path):
        expected = metric(y[3:], q[3:], levels)
        assert same(metric(y, infinite, levels, sample_weight=weight), expected)


@both_paths
@losses
def test_infinite_quantiles_have_an_infinite_loss(path, metric):
    levels = [0.1, 0.5, 0.9]
    with using(path):
        for row in ([-np.inf, 0.0, 1.0], [0.0, 0.0, np.inf], [-np.inf, 0.0, np.inf]):
            q = [[0.0, 1.0, 2.0], row]
            assert metric([0.5, 0.5], q, levels) == np.inf
            assert metric([0.5, 0.5], q, levels, sample_weight=[0.5, 2.0]) == np.inf


@needs_kernels
@weightings
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_equal_the_reference(weighted, dtype):
    rng = np.random.default_rng(0)
    levels = np.linspace(0.05, 0.95, 19)
    y, q = rng.normal(size=20_000), rng.normal(size=(20_000, 19)).astype(dtype)
    weight = rng.exponential(size=y.size) if weighted else None
    results = []
    for path in ("numpy", "kernels"):
        with using(path):
            results.append([m(y, q, levels, sample_weight=weight) for m in METRICS])
    assert same(results[0], results[1])


@metrics
def test_one_row_and_one_level(metric):
    expected = {
        pinball_loss: 1.0,
        weighted_interval_score: 2.0,
        crps_from_quantiles: 2.0,
        quantile_calibration_error: 0.5,
    }
    assert metric([3.0], [[1.0]], [0.5]) == expected[metric]


# ------------------------------------------------------------------- containers


@metrics
def test_frames_and_lists_are_taken(metric, df_module):
    levels = [0.1, 0.5, 0.9]
    y, q, weight = case(levels, weighted=True)
    expected = metric(y, q, levels, sample_weight=weight)
    frame = df_module.make_dataframe(
        {f"q{level}": q[:, k] for k, level in enumerate(levels)}
    )
    series, weights = df_module.make_series(y), df_module.make_series(weight)
    assert metric(series, frame, levels, sample_weight=weights) == expected
    lists = metric(y.tolist(), q.tolist(), tuple(levels), sample_weight=weight.tolist())
    assert lists == expected


@both_paths
@metrics
def test_float32_and_strides(path, metric):
    levels = [0.1, 0.5, 0.9]
    y, q, _ = case(levels)
    y, q = y.astype(np.float32), q.astype(np.float32)
    with using(path):
        exact = metric(y.astype(np.float64), q.astype(np.float64), levels)
        assert same(metric(y, q, levels), exact)
        wide = np.repeat(np.repeat(q, 2, axis=0), 2, axis=1)[::2, ::2]
        assert same(metric(np.repeat(y, 2)[::2], wide, levels), exact)
        assert same(metric(y, np.asfortranarray(q), levels), exact)


@both_paths
@metrics
def test_the_input_is_not_changed(path, metric):
    levels = np.array([0.1, 0.5, 0.9])
    y, q, weight = case(levels, weighted=True)
    arrays = (y, q, levels, weight)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    with using(path):
        metric(y, q, levels, sample_weight=weight)
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)


def test_raw_values_are_the_callers_own():
    y, q, _ = case([0.1, 0.9])
    raw = pinball_loss(y, q, [0.1, 0.9], multioutput="raw_values")
    raw[:] = 0.0
    assert pinball_loss(y, q, [0.1, 0.9]) > 0


# -------------------------------------------------------------------- bad input


def refuses(message, metric, *args, **kwargs):
    for path in ("numpy", "kernels") if uqlib_kernels else ("numpy",):
        with using(path), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            metric(*args, **kwargs)


@metrics
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_not_finite(metric, bad):
    refuses(
        "y_true contains NaN or infinity. Remove those rows: every target must be "
        "finite.",
        metric,
        [0.0, bad],
        [[0.0], [0.0]],
        [0.5],
    )


@metrics
@pytest.mark.parametrize("shape", [(), (2, 1), (1, 2)])
def test_a_target_that_is_not_one_dimensional(metric, shape):
    refuses(
        f"y_true must have shape (n_samples,), got shape {shape}. Flatten a column "
        "with y_true.ravel().",
        metric,
        np.zeros(shape),
        [[0.0], [0.0]],
        [0.5],
    )


@metrics
def test_nan_quantiles(metric):
    refuses(
        "y_quantiles contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not.",
        metric,
        [0.0, 1.0],
        [[np.inf], [np.nan]],
        [0.5],
    )


@metrics
@pytest.mark.parametrize("shape", [(2,), (2, 1, 1), (2, 0)])
def test_quantiles_that_are_no_matrix(metric, shape):
    refuses(
        "y_quantiles must have shape (n_samples, n_quantiles) with at least one "
        f"column, got shape {shape}. Reshape one row with "
        "y_quantiles.reshape(1, -1) and one level with y_quantiles.reshape(-1, 1).",
        metric,
        [0.0, 1.0],
        np.zeros(shape),
        [0.5],
    )


@metrics
def test_another_number_of_columns(metric):
    refuses(
        "y_quantiles has 3 columns but there are 2 quantile levels: pass one level for "
        "each column.",
        metric,
        [0.0],
        [[0.0, 1.0, 2.0]],
        [0.25, 0.75],
    )


@metrics
def test_another_number_of_rows(metric):
    refuses(
        "y_quantiles has 3 rows but y_true has 2: pass arrays over the same rows.",
        metric,
        [0.0, 1.0],
        [[0.0]] * 3,
        [0.5],
    )


@metrics
def test_no_rows(metric):
    refuses(
        "y_true is empty: at least one row is needed.",
        metric,
        [],
        np.empty((0, 1)),
        [0.5],
    )


BETWEEN = (
    "quantiles must lie strictly between 0 and 1, got {}. Pass 0.9 for the level of "
    "90 %."
)
INCREASING = (
    "quantiles must be strictly increasing, by more than 1e-09, got {}. Pass them "
    "sorted and without repetition."
)


@metrics
@pytest.mark.parametrize(
    ("levels", "message"),
    [
        *[(q, BETWEEN.format(q)) for q in ([0.0, 0.5], [0.5, 1.0], [0.5, np.nan])],
        *[(q, INCREASING.format(q)) for q in ([0.9, 0.1], [0.5, 0.5])],
        (
            0.5,
            "quantiles must be a non-empty 1-D sequence of levels, got an array of "
            "shape (). Pass for example quantiles=[0.05, 0.5, 0.95].",
        ),
        (
            [],
            "quantiles must be a non-empty 1-D sequence of levels, got an array of "
            "shape (0,). Pass for example quantiles=[0.05, 0.5, 0.95].",
        ),
        (
            ["low", "high"],
            "quantiles must be numbers strictly between 0 and 1, got ['low', 'high'].",
        ),
    ],
    ids=str,
)
def test_bad_levels(metric, levels, message):
    refuses(message, metric, [0.0], [[0.0, 1.0]], levels)


@metrics
@pytest.mark.parametrize("shape", [(), (1,), (2, 1)])
def test_weights_of_a_wrong_shape(metric, shape):
    refuses(
        f"sample_weight must have shape (2,), one weight a row, got shape {shape}.",
        metric,
        [0.0, 1.0],
        [[0.0], [0.0]],
        [0.5],
        sample_weight=np.ones(shape),
    )


@metrics
@pytest.mark.parametrize(
    "weight", [[-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [1.0, np.inf]], ids=str
)
def test_weights_out_of_range(metric, weight):
    low, high = np.min(weight), np.max(weight)
    refuses(
        "sample_weight must be finite and non-negative with at least one non-zero "
        f"weight, got values from {low} to {high}.",
        metric,
        [0.0, 1.0],
        [[0.0], [0.0]],
        [0.5],
        sample_weight=weight,
    )


def test_an_unknown_multioutput():
    message = (
        "multioutput='median' must be 'uniform_average', 'raw_values' or one weight a "
        "level."
    )
    refuses(message, pinball_loss, [0.0], [[0.0]], [0.5], multioutput="median")


@pytest.mark.parametrize(
    "weight",
    [[1.0], [[1.0, 1.0]], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]],
    ids=str,
)
def test_bad_multioutput_weights(weight):
    message = (
        "multioutput must hold 2 non-negative weights with a positive sum, one a "
        f"level, got {weight!r}."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        pinball_loss([0.0], [[0.0, 1.0]], [0.1, 0.9], multioutput=weight)
