"""Scores of Gaussian predictions and of ensembles: integrals, enumerations, laws."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, stats

from uqlib.conformal import predictive_crps
from uqlib.metrics import crps_from_quantiles, weighted_interval_score
from uqlib.metrics._distribution import (
    crps_from_ensemble,
    crps_from_gaussian,
    gaussian_negative_log_likelihood,
)

GAUSSIAN = [crps_from_gaussian, gaussian_negative_log_likelihood]
gaussian = pytest.mark.parametrize("metric", GAUSSIAN)
metrics = pytest.mark.parametrize("metric", [*GAUSSIAN, crps_from_ensemble])
forms = pytest.mark.parametrize("fair", [False, True])
weightings = pytest.mark.parametrize("weighted", [False, True])


def case(metric, n=60, seed=0):
    """Return y, what the metric takes as predictions, and weights of the rows."""
    rng = np.random.default_rng(seed)
    y, weight = rng.normal(size=n), rng.exponential(size=n)
    if metric is crps_from_ensemble:
        members = rng.normal(size=(n, 7))
        members[::5, 0] = y[::5]  # a target on a member
        members[::3, 1] = members[::3, 2]  # two equal members
        return y, (members,), weight
    return y, (rng.normal(size=n), 0.1 + rng.exponential(size=n)), weight


def rows(predictions, index):
    return tuple(array[index] for array in predictions)


def same(a, b, scale=1.0):
    return a == pytest.approx(b, rel=1e-12, abs=1e-12 * scale)


# -------------------------------------------------------------------- oracles


def crps_by_integration(cdf, y, low, high):
    below, _ = integrate.quad(lambda t: cdf(t) ** 2, low, y, epsabs=1e-12, limit=200)
    above, _ = integrate.quad(
        lambda t: (1 - cdf(t)) ** 2, y, high, epsabs=1e-12, limit=200
    )
    return below + above


def crps_by_steps(members, y):
    """Integrate the squared step function gap by gap."""
    points = np.unique([*members, y])
    total = 0.0
    for left, right in itertools.pairwise(points):
        share = np.mean(np.asarray(members) <= left)
        total += (share - (y <= left)) ** 2 * (right - left)
    return total


def crps_by_energy(members, y, fair=False):
    m = len(members)
    spread = sum(abs(a - b) for a in members for b in members)
    return np.mean(np.abs(members - y)) - spread / (2 * m * (m - 1 if fair else m))


# ------------------------------------------------------------- Gaussian: CRPS


@pytest.mark.parametrize("y", [-4.0, -0.3, 0.0, 1.0, 6.5])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 0.3), (-2.0, 2.5)])
def test_gaussian_crps_is_the_integral(y, mean, std):
    law = stats.norm(mean, std)
    expected = crps_by_integration(law.cdf, y, mean - 12 * std, mean + 12 * std)
    assert crps_from_gaussian([y], [mean], [std]) == pytest.approx(expected, abs=1e-10)


@weightings
def test_gaussian_crps_is_its_textbook_form(weighted):
    y, (mean, std), weight = case(crps_from_gaussian)
    weight = weight if weighted else None
    z = (y - mean) / std
    score = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    expected = np.average(std * score, weights=weight)
    value = crps_from_gaussian(y, mean, std, sample_weight=weight)
    assert same(value, expected)
    assert type(value) is float


def test_without_spread_the_crps_is_the_absolute_error():
    y, mean = np.array([1.0, 2.0, 0.0]), np.array([1.0, -1.0, 1e-300])
    assert crps_from_gaussian(y, mean, np.zeros(3)) == np.mean(np.abs(y - mean))
    assert crps_from_gaussian(y, mean, 0) == np.mean(np.abs(y - mean))
    assert crps_from_gaussian([5.0], [5.0], [0.0]) == 0.0


@given(
    error=st.floats(-1e6, 1e6),
    std=st.sampled_from([5e-324, 1e-300, 1e-20, 1e-9, 1e-3, 1.0]),
)
def test_a_small_spread_changes_the_absolute_error_by_little(error, std):
    # sigma (2 phi(z) - 1 / sqrt(pi)) and |d| (1 - erf) are both below sigma.
    value = crps_from_gaussian([error], [0.0], [std])
    assert value >= 0
    assert value == pytest.approx(abs(error), rel=1e-15, abs=std)


def test_the_crps_of_a_target_on_the_mean():
    expected = 3.0 * (np.sqrt(2) - 1) / np.sqrt(np.pi)
    assert same(crps_from_gaussian([7.0], [7.0], [3.0]), expected)


def test_the_score_of_the_true_gaussian_is_its_spread_over_root_pi():
    nodes, weight = np.polynomial.hermite_e.hermegauss(80)
    y = 2.0 + 3.0 * nodes
    value = crps_from_gaussian(y, np.full(80, 2.0), 3.0, sample_weight=weight)
    assert value == pytest.approx(3.0 / np.sqrt(np.pi), rel=1e-6)


@gaussian
def test_the_true_gaussian_alone_has_the_best_expectation(metric):
    nodes, weight = np.polynomial.hermite_e.hermegauss(80)
    truth = metric(nodes, np.zeros(80), 1.0, sample_weight=weight)
    for mean, std in itertools.product([-0.5, -0.1, 0.0, 0.1, 0.5], [0.5, 0.9, 1, 1.2]):
        other = metric(nodes, np.full(80, mean), std, sample_weight=weight)
        assert other > truth + 1e-4 or (mean, std) == (0.0, 1)


# -------------------------------------------------------------- Gaussian: NLL


@weightings
def test_gaussian_likelihood_is_that_of_scipy(weighted):
    y, (mean, std), weight = case(gaussian_negative_log_likelihood)
    weight = weight if weighted else None
    expected = -np.average(stats.norm.logpdf(y, mean, std), weights=weight)
    value = gaussian_negative_log_likelihood(y, mean, std, sample_weight=weight)
    assert same(value, expected)
    assert type(value) is float


def test_gaussian_likelihood_by_hand():
    expected = np.log(2) + 0.5 * np.log(2 * np.pi) + 0.5
    assert same(gaussian_negative_log_likelihood([3.0], [1.0], [2.0]), expected)
    # A density may exceed 1.
    assert gaussian_negative_log_likelihood([0.0], [0.0], [1e-3]) < 0


def test_the_best_factor_of_the_spread_is_the_root_mean_square_of_z():
    y, (mean, std), _ = case(gaussian_negative_log_likelihood)
    best = np.sqrt(np.mean(((y - mean) / std) ** 2))
    least = gaussian_negative_log_likelihood(y, mean, best * std)
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert gaussian_negative_log_likelihood(y, mean, factor * best * std) > least


def test_a_change_of_unit_adds_its_logarithm():
    y, (mean, std), _ = case(gaussian_negative_log_likelihood)
    value = gaussian_negative_log_likelihood(y, mean, std)
    scaled = gaussian_negative_log_likelihood(8 * y, 8 * mean, 8 * std)
    assert same(scaled, value + np.log(8))


# ------------------------------------------------------------------- ensemble


@pytest.mark.parametrize("m", [1, 2, 3, 8, 31])
@weightings
def test_ensemble_crps_is_the_integral_and_the_energy_form(weighted, m):
    rng = np.random.default_rng(m)
    y, members = rng.normal(size=20), rng.normal(size=(20, m))
    members[::3, 0] = y[::3]
    weight = rng.exponential(size=20) if weighted else None
    value = crps_from_ensemble(y, members, sample_weight=weight)
    steps = [crps_by_steps(x, t) for x, t in zip(members, y, strict=True)]
    energy = [crps_by_energy(x, t) for x, t in zip(members, y, strict=True)]
    assert same(value, np.average(steps, weights=weight))
    assert same(value, np.average(energy, weights=weight))
    assert type(value) is float


@given(
    members=hnp.arrays(float, st.integers(2, 8), elements=st.integers(-5, 5)),
    y=st.integers(-6, 6),
)
def test_both_forms_of_the_ensemble_crps_with_ties(members, y):
    for fair in (False, True):
        value = crps_from_ensemble([y], [members], fair=fair)
        expected = crps_by_energy(members, y, fair)
        assert value == pytest.approx(expected, abs=1e-12)
        assert value >= 0


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("y", [-1.0, 0.0, 0.7, 5.0])
def test_the_fair_score_of_draws_is_in_the_mean_that_of_their_law(m, y):
    """Over all draws of m members from a law on three values."""
    values, probability = np.array([0.0, 1.0, 4.0]), np.array([0.5, 0.2, 0.3])
    spread = probability @ np.abs(values[:, None] - values) @ probability
    law = probability @ np.abs(values - y) - spread / 2
    draws = np.array(list(itertools.product(range(3), repeat=m)))
    weight = probability[draws].prod(axis=1)
    score = {
        fair: crps_from_ensemble(
            np.full(len(draws), y), values[draws], fair=fair, sample_weight=weight
        )
        for fair in (False, True)
    }
    assert same(score[True], law)
    assert same(score[False], law + spread / (2 * m))


@given(
    truth=hnp.arrays(float, 4, elements=st.integers(-4, 4)),
    other=hnp.arrays(float, st.integers(1, 6), elements=st.integers(-4, 4)),
)
def test_no_ensemble_beats_the_law_of_the_target(truth, other):
    best = crps_from_ensemble(truth, np.tile(truth, (4, 1)))
    value = crps_from_ensemble(truth, np.tile(other, (4, 1)))
    assert value >= best - 1e-12
    # The gap is the integral of (F - G)^2: 0 for the same law alone.
    grid = np.arange(-4, 4)
    F = [(truth <= t).mean() for t in grid]
    G = [(other <= t).mean() for t in grid]
    assert same(value - best, np.sum(np.square(np.subtract(F, G))))


@weightings
@pytest.mark.parametrize("m", [1, 2, 7, 40])
def test_sorted_members_are_quantiles_at_the_midpoints(weighted, m):
    rng = np.random.default_rng(m)
    y, members = rng.normal(size=30), rng.normal(size=(30, m))
    weight = rng.exponential(size=30) if weighted else None
    value = crps_from_ensemble(y, members, sample_weight=weight)
    levels, quantiles = (np.arange(m) + 0.5) / m, np.sort(members, axis=1)
    for score in (crps_from_quantiles, weighted_interval_score):
        assert same(score(y, quantiles, levels, sample_weight=weight), value)


def test_the_quantile_and_ensemble_scores_converge_to_the_gaussian_one():
    y, (mean, std), _ = case(crps_from_gaussian, n=12)
    exact, errors = crps_from_gaussian(y, mean, std), []
    for m in (50, 500, 5000):
        levels = (np.arange(m) + 0.5) / m
        quantiles = mean[:, None] + std[:, None] * stats.norm.ppf(levels)
        errors.append(abs(crps_from_ensemble(y, quantiles) - exact))
        assert same(
            crps_from_quantiles(y, quantiles, levels), crps_from_ensemble(y, quantiles)
        )
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-4


def test_the_score_of_a_predictive_system_is_that_of_its_atoms():
    rng = np.random.default_rng(0)
    residuals, y, mean = rng.normal(size=25), rng.normal(size=9), rng.normal(size=9)
    scale = 0.5 + rng.exponential(size=9)
    atoms = mean[:, None] + scale[:, None] * residuals
    expected = predictive_crps(residuals, mean, y, scale).mean()
    assert same(crps_from_ensemble(y, atoms), expected)


@forms
def test_the_order_of_the_members_does_not_matter(fair):
    y, (members,), _ = case(crps_from_ensemble)
    shuffled = np.random.default_rng(0).permuted(members, axis=1)
    value = crps_from_ensemble(y, members, fair=fair)
    assert crps_from_ensemble(y, shuffled, fair=fair) == value


@forms
def test_members_that_agree_have_the_absolute_error(fair):
    value = crps_from_ensemble([1.0, 5.0], [[0.0] * 4, [8.0] * 4], fair=fair)
    assert value == 2.0
    assert crps_from_ensemble([1.0, 5.0], [[0.0], [8.0]]) == 2.0


@forms
def test_nothing_cancels_far_from_zero(fair):
    y, (members,), _ = case(crps_from_ensemble)
    y, members = np.round(64 * y) / 64, np.round(64 * members) / 64
    value = crps_from_ensemble(y, members, fair=fair)
    assert crps_from_ensemble(y + 2.0**44, members + 2.0**44, fair=fair) == value


@forms
def test_blocks_of_rows_are_one_array(fair, monkeypatch):
    y, (members,), weight = case(crps_from_ensemble)
    expected = crps_from_ensemble(y, members, fair=fair, sample_weight=weight)
    for size in (1, 20):
        monkeypatch.setattr("uqlib.metrics._distribution._BLOCK", size)
        value = crps_from_ensemble(y, members, fair=fair, sample_weight=weight)
        assert value == expected


# ---------------------------------------------------------- shared identities


@pytest.mark.parametrize("metric", [crps_from_gaussian, crps_from_ensemble])
@given(factor=st.integers(-20, 20), shift=st.integers(-(2**10), 2**10))
def test_crps_is_in_units_of_the_target(metric, factor, shift):
    y, (location, *std), _ = case(metric)
    y, location = np.round(64 * y) / 64, np.round(64 * location) / 64
    scale = 2.0**factor
    std_scaled = [scale * s for s in std]
    moved = metric(scale * (y + shift), scale * (location + shift), *std_scaled)
    assert same(moved / scale, metric(y, location, *std))


@metrics
def test_a_mirror_changes_nothing(metric):
    y, (location, *std), _ = case(metric)
    assert same(metric(-y, -location, *std), metric(y, location, *std))


@metrics
def test_integer_weights_are_repeated_rows(metric):
    y, predictions, _ = case(metric)
    counts = np.random.default_rng(0).integers(0, 4, y.size)
    index = np.repeat(np.arange(y.size), counts)
    weighted = metric(y, *predictions, sample_weight=counts)
    assert same(weighted, metric(y[index], *rows(predictions, index)))


@metrics
def test_rows_of_weight_zero_have_no_say(metric):
    y, predictions, _ = case(metric)
    weight = np.ones(y.size)
    weight[:2] = 0.0
    expected = metric(y[2:], *rows(predictions, slice(2, None)))
    predictions[0][:2] = np.inf
    assert same(metric(y, *predictions, sample_weight=weight), expected)


@metrics
def test_the_order_of_the_rows_does_not_matter(metric):
    y, predictions, weight = case(metric)
    order = np.random.default_rng(1).permutation(y.size)
    value = metric(y, *predictions, sample_weight=weight)
    moved = metric(y[order], *rows(predictions, order), sample_weight=weight[order])
    assert same(moved, value)


@gaussian
def test_one_spread_for_all_rows(metric):
    y, (mean, _), _ = case(metric)
    assert metric(y, mean, 0.5) == metric(y, mean, np.full(y.size, 0.5))


@gaussian
@pytest.mark.parametrize(
    ("mean", "std"), [(np.inf, 1.0), (-np.inf, 1.0), (0.0, np.inf), (np.inf, np.inf)]
)
def test_infinite_gaussians_have_an_infinite_score(metric, mean, std):
    assert metric([0.0, 1.0], [0.0, mean], [1.0, std]) == np.inf


@forms
@pytest.mark.parametrize(
    "row", [[-np.inf, 0.0, 1.0], [0.0, 0.0, np.inf], [-np.inf, 0.0, np.inf]]
)
def test_infinite_members_have_an_infinite_score(fair, row):
    assert crps_from_ensemble([0.5, 0.5], [[0, 1, 2], row], fair=fair) == np.inf


@metrics
def test_huge_numbers_overflow_to_infinity_in_silence(metric):
    ensemble = metric is crps_from_ensemble
    predictions = [[[-1e308, -1e308]]] if ensemble else [[-1e308], [1.0]]
    assert metric([1e308], *predictions) == np.inf


# ----------------------------------------------------------------- containers


@metrics
def test_frames_and_lists_are_taken(metric, df_module):
    y, (location, *std), weight = case(metric)
    expected = metric(y, location, *std, sample_weight=weight)
    series = df_module.make_series
    if location.ndim == 2:
        columns = {f"m{k}": column.copy() for k, column in enumerate(location.T)}
        frame = df_module.make_dataframe(columns)
    else:
        frame = series(location)
    stds = [series(s) for s in std]
    value = metric(series(y), frame, *stds, sample_weight=series(weight))
    assert value == expected
    lists = [array.tolist() for array in (location, *std)]
    assert metric(y.tolist(), *lists, sample_weight=weight.tolist()) == expected


@metrics
def test_float32_and_strides(metric):
    y, predictions, _ = case(metric)
    y, predictions = y.astype("f"), [array.astype("f") for array in predictions]
    exact = metric(y.astype(float), *[array.astype(float) for array in predictions])
    assert metric(y, *predictions) == exact
    wide = [np.repeat(array, 2, axis=-1)[..., ::2] for array in predictions]
    assert metric(np.repeat(y, 2)[::2], *wide) == exact
    assert metric(y, *[np.asfortranarray(array) for array in predictions]) == exact


@metrics
def test_the_input_is_not_changed(metric):
    y, predictions, weight = case(metric)
    arrays = (y, *predictions, weight)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    metric(y, *predictions, sample_weight=weight)
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)


# ------------------------------------------------------------------ bad input


def refuses(message, metric, *args, **kwargs):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        metric(*args, **kwargs)


def zeros(metric, n):
    """Predictions of n rows that are legal for the metric."""
    if metric is crps_from_ensemble:
        return (np.zeros((n, 2)),)
    return np.zeros(n), np.ones(n)


@metrics
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_not_finite(metric, bad):
    message = (
        "y_true contains NaN or infinity. Remove those rows: every target must be "
        "finite."
    )
    refuses(message, metric, [0.0, bad], *zeros(metric, 2))


@metrics
def test_a_target_that_is_a_column(metric):
    message = (
        "y_true must have shape (n_samples,), got shape (2, 1). Flatten a column with "
        "y_true.ravel()."
    )
    refuses(message, metric, np.zeros((2, 1)), *zeros(metric, 2))


@metrics
def test_another_number_of_rows_and_none(metric):
    name = "y_ensemble" if metric is crps_from_ensemble else "y_mean"
    message = f"{name} has 3 rows but y_true has 2: pass arrays over the same rows."
    refuses(message, metric, [0.0, 1.0], *zeros(metric, 3))
    message = "y_true is empty: at least one row is needed."
    refuses(message, metric, [], *zeros(metric, 0))


@metrics
@pytest.mark.parametrize("weight", [[1.0], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]])
def test_bad_weights(metric, weight):
    with pytest.raises(ValueError, match=r"^sample_weight must "):
        metric([0.0, 1.0], *zeros(metric, 2), sample_weight=weight)


NAN = (
    "contains NaN. Remove or impute those rows; infinite values are legal, NaN is not."
)


@gaussian
def test_gaussians_with_nan(metric):
    refuses(f"y_mean {NAN}", metric, [0.0, 1.0], [0.0, np.nan], [1.0, 1.0])
    refuses(f"y_std {NAN}", metric, [0.0, 1.0], [0.0, 1.0], [1.0, np.nan])


def test_members_with_nan():
    refuses(f"y_ensemble {NAN}", crps_from_ensemble, [0.0], [[np.inf, np.nan]])


@gaussian
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_spreads_of_a_wrong_shape(metric, shape):
    message = (
        "y_std must be a number or have shape (2,), one value a row of y_true, got "
        f"shape {shape}."
    )
    refuses(message, metric, [0.0, 1.0], [0.0, 1.0], np.ones(shape))


@gaussian
def test_means_that_are_a_column(metric):
    message = (
        "y_mean must be 1-D, got an array of shape (2, 1). Flatten a column with "
        ".ravel()."
    )
    refuses(message, metric, [0.0, 1.0], np.zeros((2, 1)), [1.0, 1.0])


@gaussian
def test_a_negative_spread(metric):
    message = (
        "y_std must hold standard deviations, at least 0, but row 1 holds -0.5. Take "
        "the square root of a variance; np.exp makes a log standard deviation positive."
    )
    refuses(message, metric, [0.0, 1.0], [0.0, 1.0], [1.0, -0.5])


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_no_likelihood_without_spread(mean):
    message = (
        "y_std must be positive, but row 1 holds 0: a distribution without spread has "
        "no density. Put a floor under the standard deviations, or use "
        "crps_from_gaussian."
    )
    metric = gaussian_negative_log_likelihood
    refuses(message, metric, [0.0, 0.0], [0.0, mean], [1.0, 0.0])


@pytest.mark.parametrize("shape", [(2,), (2, 3, 1), (2, 0)])
def test_members_that_are_no_matrix(shape):
    message = (
        "y_ensemble must have shape (n_samples, n_members) with at least one member, "
        f"got shape {shape}. Stack the predictions of members with np.column_stack."
    )
    refuses(message, crps_from_ensemble, [0.0, 1.0], np.zeros(shape))


def test_one_member_has_no_fair_score():
    message = (
        "fair=True needs at least 2 members, but y_ensemble has 1 column. Pass "
        "fair=False: the score of one member is its absolute error."
    )
    refuses(message, crps_from_ensemble, [0.0], [[1.0]], fair=True)
