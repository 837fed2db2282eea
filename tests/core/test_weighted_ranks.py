"""Weighted conformal quantiles against rational arithmetic, identities, bad input."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.conformal import conformal_quantile, weighted_conformal_quantile
from uqlib.exceptions import InfiniteIntervalWarning

pytestmark = pytest.mark.filterwarnings(
    "ignore::uqlib.exceptions.InfiniteIntervalWarning"
)

LEVELS = st.sampled_from([0.05, 0.1, 0.5, 0.55, 0.55 - 0.45, 0.8, 0.9, 0.95, 0.99])
SCORES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.7, 2.0, 3.0, math.inf]))
WEIGHTS = st.sampled_from([0.0, 0.1, 0.3, 1.0, 1e-9, 7.0, 1e6])


def by_hand(scores, weights, test_weight, level):
    """The definition in rational arithmetic: min{t : mass up to t is enough}."""
    p = Fraction(level).limit_denominator(10**9)
    pairs = [(s, Fraction(w)) for s, w in zip(scores, weights, strict=True) if w > 0]
    total = sum((w for _, w in pairs), Fraction(test_weight))
    for t in sorted({s for s, _ in pairs}):
        if total > 0 and sum(w for s, w in pairs if s <= t) >= p * total:
            return t
    return math.inf


@given(st.data())
def test_equals_rational_arithmetic(data):
    scores = data.draw(SCORES)
    n = len(scores)
    weights = data.draw(st.lists(WEIGHTS, min_size=n, max_size=n))
    new, level = data.draw(st.lists(WEIGHTS, min_size=1, max_size=5)), data.draw(LEVELS)
    expected = [by_hand(scores, weights, w, level) for w in new]
    result = weighted_conformal_quantile(scores, weights, new, level)
    np.testing.assert_array_equal(result, expected)


@given(st.integers(0, 120), LEVELS, st.sampled_from([0.1, 1.0, 1 / 3, 1e-300, 1e300]))
def test_equal_weights_are_the_conformal_quantile(n, level, weight):
    scores = np.random.default_rng(n).permutation(n) * 1.0
    result = weighted_conformal_quantile(scores, np.full(n, weight), [weight], level)
    assert result[0] == conformal_quantile(scores, level)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 3), LEVELS)
def test_whole_weights_are_repeated_rows(counts, test_weight, level):
    scores = np.random.default_rng(len(counts)).permutation(len(counts)) * 1.0
    result = weighted_conformal_quantile(scores, counts, [test_weight], level)
    # The new row as one more score at +inf for each unit of its weight.
    repeated = np.repeat(scores, counts).tolist() + [math.inf] * test_weight
    rank = max(1, math.ceil(len(repeated) * Fraction(level).limit_denominator(10**9)))
    assert result[0] == ([*sorted(repeated), math.inf][rank - 1])


@given(st.data())
def test_a_factor_and_the_order_of_the_rows_do_not_matter(data):
    n = data.draw(st.integers(1, 30))
    rng = np.random.default_rng(n)
    scores, weights, new = (
        rng.normal(size=n),
        rng.exponential(size=n),
        rng.exponential(size=4),
    )
    level, factor = (
        data.draw(LEVELS),
        data.draw(st.sampled_from([2.0**-40, 0.5, 2.0**60])),
    )
    expected = weighted_conformal_quantile(scores, weights, new, level)
    scaled = weighted_conformal_quantile(scores, factor * weights, factor * new, level)
    order = rng.permutation(n)
    shuffled = weighted_conformal_quantile(scores[order], weights[order], new, level)
    np.testing.assert_array_equal(scaled, expected)
    np.testing.assert_array_equal(shuffled, expected)


def test_thresholds_are_nested_in_level_and_in_test_weight():
    rng = np.random.default_rng(0)
    scores, weights = rng.normal(size=200), rng.exponential(size=200)
    new = np.sort(rng.exponential(scale=20.0, size=50))
    table = np.array(
        [
            weighted_conformal_quantile(scores, weights, new, p)
            for p in (0.1, 0.5, 0.7, 0.9)
        ]
    )
    # Not np.diff: the difference of two infinities is NaN.
    assert (table[1:] >= table[:-1]).all()
    assert (table[:, 1:] >= table[:, :-1]).all()


def test_weights_stay_with_their_scores():
    # Sorting scores and weights apart would give 0.9 here.
    scores, weights = [0.9, 0.1, 0.5], [0.01, 10.0, 0.01]
    assert weighted_conformal_quantile(scores, weights, [0.1], 0.9) == [0.1]


@pytest.mark.parametrize(
    ("weights", "new", "expected"),
    [
        ([0.0, 0.0], [1.0], np.inf),  # no calibration row counts
        ([0.0, 0.0], [0.0], np.inf),  # nothing counts at all
        ([1.0, 1.0], [0.0], 2.0),  # the new row does not count
        ([1e308, 1e308], [1e308], 2.0),  # sums that would overflow
        ([5e-324, 5e-324], [0.0], 2.0),
    ],
)
def test_extreme_weights(weights, new, expected):
    assert weighted_conformal_quantile([1.0, 2.0], weights, new, 0.6) == [expected]


def test_no_scores_and_no_rows():
    assert weighted_conformal_quantile([], [], [1.0, 2.0], 0.5).tolist() == [np.inf] * 2
    assert weighted_conformal_quantile([1.0], [1.0], [], 0.5).shape == (0,)


def test_one_warning_names_the_rows_needed():
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 w in all") as caught:
        weighted_conformal_quantile([1.0, 2.0], [1.0, 1.0], [1.0, 5.0, 0.0], 0.9)
    assert len(caught) == 1
    assert "For 2 of 3 rows" in str(caught[0].message)


@pytest.mark.filterwarnings("error")
def test_an_infinite_score_is_no_warning():
    scores = [1.0, np.inf]
    assert weighted_conformal_quantile(scores, [1.0, 1.0], [0.1], 0.9) == [np.inf]


@pytest.mark.parametrize("bad", [-1.0, np.inf, np.nan])
def test_bad_weights(bad):
    with pytest.raises(ValueError, match="weights"):
        weighted_conformal_quantile([1.0, 2.0], [1.0, bad], [1.0], 0.9)
    with pytest.raises(ValueError, match="test_weights"):
        weighted_conformal_quantile([1.0, 2.0], [1.0, 1.0], [bad], 0.9)


def test_bad_shapes():
    with pytest.raises(ValueError, match=re.escape("weights must have shape (2,)")):
        weighted_conformal_quantile([1.0, 2.0], [1.0], [1.0], 0.9)
    with pytest.raises(ValueError, match="test_weights must have shape"):
        weighted_conformal_quantile([1.0, 2.0], [1.0, 1.0], [[1.0]], 0.9)
    with pytest.raises(ValueError, match="scores contains NaN"):
        weighted_conformal_quantile([1.0, np.nan], [1.0, 1.0], [1.0], 0.9)


def test_float32_weights_are_their_float64_values():
    weights = np.array([0.1, 0.7, 0.2], dtype=np.float32)
    expected = weighted_conformal_quantile([1, 2, 3], weights.astype(float), [0.3], 0.6)
    result = weighted_conformal_quantile([1, 2, 3], weights, [0.3], 0.6)
    assert result == expected


def test_coverage_under_a_known_shift():
    # Two classes of rows with known scores: P(x = 1) is 0.2 at calibration and 0.6 for
    # new rows, so w = 0.5 and 3. Coverage is a probability over 4,000 replications; the
    # band of 5 standard errors fails less than once in a million runs.
    rng = np.random.default_rng(0)
    covered, n, replications = 0, 60, 4000
    for _ in range(replications):
        x = rng.random(n) < 0.2
        scores = rng.exponential(size=n) * np.where(x, 3.0, 1.0)
        x_new = rng.random() < 0.6
        score = rng.exponential() * (3.0 if x_new else 1.0)
        weights, new = np.where(x, 3.0, 0.5), 3.0 if x_new else 0.5
        covered += score <= weighted_conformal_quantile(scores, weights, [new], 0.9)[0]
    error = math.sqrt(0.9 * 0.1 / replications)
    assert covered / replications >= 0.9 - 5 * error


@pytest.mark.parametrize(("first", "second", "expected"), [(0, 1, 1), (1, 0, 2)])
def test_a_difference_in_the_last_place_decides(first, second, expected):
    # Half of all mass: the first score has it just where it weighs no less than the
    # second, be it by less than the rounding of their sum.
    weights = 1 - np.array([first, second]) * 2.0**-53
    assert weighted_conformal_quantile([1.0, 2.0], weights, [0.0], 0.5) == expected
