"""Nonconformity scores and their inverses; bounds that only move outwards."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uqlib._core.outward import (
    add_outward,
    lower_end,
    outward_envelope,
    outward_interval,
    upper_end,
)
from uqlib._core.scores import NONCONFORMITY_SCORES, quantile_pair_scores
from uqlib._typing import NonconformityScore
from uqlib.conformal import AbsoluteScore

VALUES = [-np.inf, -1.0, 0.0, 2.0, np.inf]
LEVEL_SETS = [
    [0.1, 0.3, 0.5, 0.7, 0.9],
    [0.1, 0.3, 0.7, 0.9],
    [0.1, 0.2, 0.5, 0.9],
    [0.2, 0.7, 0.9],
    [0.1, 0.2, 0.3],
    [0.6, 0.8],
    [0.1, 0.5],
    [0.5, 0.9],
    [0.5],
    [0.2],
    [0.8],
    # Computed levels: the middle one is the median, up to rounding.
    [1 - 0.9, 0.3 + 0.2 + 1e-12, 0.9],
]
level_sets = pytest.mark.parametrize("levels", LEVEL_SETS, ids=str)

# Dyadic numbers: sums and differences are exact, so an equality is an equality.
dyadic = st.integers(-(2**20), 2**20).map(lambda k: k / 64)


def matrices(n_quantiles):
    return hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 5), st.just(n_quantiles)),
        elements=st.one_of(st.sampled_from(VALUES), st.floats(-10, 10)),
    )


# ------------------------------------------------------------- absolute score


@given(y=dyadic, y_pred=dyadic, threshold=dyadic.map(abs))
def test_absolute_score_and_its_inverse(y, y_pred, threshold):
    score = AbsoluteScore()
    values, predictions = np.array([y]), np.array([y_pred])
    [[lower, upper]] = score.inverse(predictions, threshold)
    assert (score.score(values, predictions)[0] <= threshold) == (lower <= y <= upper)


def test_absolute_score_covers_its_own_calibration_rows():
    rng = np.random.default_rng(0)
    y, y_pred = rng.integers(-99, 99, size=(2, 400)) / 8
    score = AbsoluteScore()
    scores = score.score(y, y_pred)
    for threshold in np.sort(scores):
        lower, upper = score.inverse(y_pred, threshold).T
        inside = (lower <= y) & (y <= upper)
        assert np.array_equal(inside, scores <= threshold)


def test_absolute_score_at_an_infinite_threshold():
    interval = AbsoluteScore().inverse(np.array([1.0, -3.0]), np.inf)
    assert np.array_equal(interval, [[-np.inf, np.inf]] * 2)


@pytest.mark.parametrize("y_pred", [-np.inf, np.inf])
@pytest.mark.parametrize("threshold", [0.0, 1.0, np.inf])
def test_absolute_score_of_an_infinite_prediction(y_pred, threshold):
    score, predictions = AbsoluteScore(), np.array([y_pred])
    assert score.score(np.array([3.0]), predictions) == np.inf
    [[lower, upper]] = score.inverse(predictions, threshold)
    assert (lower <= 3.0 <= upper) == (threshold == np.inf)


def test_named_scores_have_inverses():
    for score in NONCONFORMITY_SCORES.values():
        assert isinstance(score(), NonconformityScore)


@given(y=dyadic, ends=st.tuples(dyadic, dyadic).map(sorted), threshold=dyadic)
def test_pair_scores_say_how_far_y_lies_outside(y, ends, threshold):
    lower, upper = ends
    below, above = quantile_pair_scores(np.array([y]), np.array([ends]))
    assert (below[0] <= threshold) == (y >= lower - threshold)
    assert (above[0] <= threshold) == (y <= upper + threshold)
    inside = lower <= y <= upper
    assert (max(below[0], above[0]) <= 0) == inside
    if not inside:
        assert max(below[0], above[0]) == min(abs(y - lower), abs(y - upper))


def test_pair_scores_of_infinite_ends():
    y_interval = np.array([[-np.inf, np.inf], [np.inf, np.inf], [-np.inf, -np.inf]])
    below, above = quantile_pair_scores(np.zeros(3), y_interval)
    assert np.array_equal(below, [-np.inf, np.inf, -np.inf])
    assert np.array_equal(above, [-np.inf, -np.inf, np.inf])


# ---------------------------------------------------------- outward intervals


def test_outward_interval_of_all_combinations():
    pairs = list(itertools.product([*VALUES, np.nan], repeat=2))
    lower, upper = np.array(pairs).T
    interval = outward_interval(lower, upper)
    assert not np.isnan(interval).any()
    for (low, high), (a, b) in zip(pairs, interval, strict=True):
        low = -np.inf if np.isnan(low) else low
        high = np.inf if np.isnan(high) else high
        assert (a, b) == (min(low, high), max(low, high))


@given(
    bounds=hnp.arrays(
        np.float64, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=True)
    ),
    y=st.floats(allow_nan=False, allow_infinity=False),
)
def test_outward_interval_loses_no_point(bounds, y):
    lower, upper = bounds.T
    interval = outward_interval(lower, upper)
    covered = (lower <= y) & (y <= upper)
    assert np.all((interval[:, 0] <= y) & (y <= interval[:, 1]) | ~covered)
    assert np.all(interval[:, 0] <= interval[:, 1])


@level_sets
def test_add_outward_of_all_combinations(levels):
    quantiles = np.array(levels)
    for value, shift in itertools.product(VALUES, repeat=2):
        matrix = np.full((2, quantiles.size), value)
        shifted = add_outward(matrix, quantiles, np.full(quantiles.size, shift))
        if value + shift == value + shift:
            np.testing.assert_allclose(shifted, matrix + shift, rtol=1e-15, atol=1e-300)
            continue
        for column, level in zip(shifted.T, levels, strict=True):
            if abs(level - 0.5) < 1e-9:
                assert np.all(column == value)
            else:
                assert np.all(column == (-np.inf if level < 0.5 else np.inf))
        assert np.all(matrix == value)


def test_add_outward_is_addition_rounded_away_from_the_median():
    rng = np.random.default_rng(0)
    matrix, shift = rng.normal(size=(20, 3)), rng.normal(size=3)
    shifted, exact = (
        add_outward(matrix, np.array([0.1, 0.5, 0.9]), shift),
        matrix + shift,
    )
    np.testing.assert_allclose(shifted, exact, rtol=1e-13, atol=1e-15)
    assert np.all(shifted[:, 0] < exact[:, 0])
    assert np.array_equal(shifted[:, 1], exact[:, 1])
    assert np.all(shifted[:, 2] > exact[:, 2])


floats = st.floats(allow_nan=False, allow_infinity=False)


@given(y=floats, base=floats, shift=floats)
def test_ends_lose_no_point_to_rounding(y, base, shift):
    base, shift = np.float64(base), np.float64(shift)
    with np.errstate(over="ignore"):
        difference = y - base
    for threshold in (shift, difference):
        assert difference > threshold or y <= upper_end(base, threshold)
        assert difference < threshold or y >= lower_end(base, threshold)


def test_ends_lose_no_tie_of_decimals():
    rng = np.random.default_rng(0)
    y, base = rng.integers(-999, 999, size=(2, 100_000)) / 10
    difference = y - base
    assert np.all(y <= upper_end(base, difference))
    assert np.all(y >= lower_end(base, difference))
    assert np.mean(y <= base + difference) < 1  # which plain addition does not do


# ------------------------------------------------------------------- envelope


def envelope_by_definition(row, levels):
    """The formula of the docstring, one level after the other."""
    lower = [k for k, level in enumerate(levels) if level < 0.5 - 1e-9]
    upper = [k for k, level in enumerate(levels) if level > 0.5 + 1e-9]
    middle = [k for k in range(len(levels)) if k not in lower + upper]
    row = list(row)
    if not middle and lower and upper:
        inner = sorted((row[lower[-1]], row[upper[0]]))
        row[lower[-1]], row[upper[0]] = inner
    result = list(row)
    for k in lower:
        result[k] = min(row[j] for j in lower + middle if j >= k)
    for k in upper:
        result[k] = max(row[j] for j in middle + upper if j <= k)
    return result


@level_sets
def test_envelope_is_its_definition(levels):
    quantiles = np.array(levels)

    @given(matrix=matrices(quantiles.size))
    def check(matrix):
        before = matrix.copy()
        result = outward_envelope(matrix, quantiles)
        expected = [envelope_by_definition(row, levels) for row in matrix]
        assert np.array_equal(result, np.reshape(expected, matrix.shape))
        assert np.array_equal(matrix, before)

    check()


@level_sets
def test_envelope_only_moves_outwards(levels):
    quantiles = np.array(levels)
    lower, upper = quantiles < 0.5 - 1e-9, quantiles > 0.5 + 1e-9
    median = ~lower & ~upper

    @given(matrix=matrices(quantiles.size))
    def check(matrix):
        result = outward_envelope(matrix, quantiles)
        assert np.all(result[:, :-1] <= result[:, 1:])
        assert np.all(result[:, lower] <= matrix[:, lower])
        assert np.all(result[:, upper] >= matrix[:, upper])
        assert np.array_equal(result[:, median], matrix[:, median])
        assert np.array_equal(outward_envelope(result, quantiles), result)

    check()


@level_sets
def test_envelope_keeps_monotone_rows(levels):
    quantiles = np.array(levels)
    matrix = np.sort(np.random.default_rng(0).normal(size=(50, quantiles.size)), axis=1)
    result = outward_envelope(matrix, quantiles)
    assert np.array_equal(result, matrix)
    assert not np.shares_memory(result, matrix)


def test_envelope_by_hand():
    levels = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    crossing = np.array([[2.0, 3.0, 1.0, 4.0, 0.0]])
    assert np.array_equal(
        outward_envelope(crossing, levels), [[1.0, 1.0, 1.0, 4.0, 4.0]]
    )
    # Without the median the two innermost ends are exchanged: 3 | 1 becomes 1 | 3.
    assert np.array_equal(
        outward_envelope(np.array([[2.0, 3.0, 1.0, 0.0]]), levels[[0, 1, 3, 4]]),
        [[1.0, 1.0, 3.0, 3.0]],
    )
