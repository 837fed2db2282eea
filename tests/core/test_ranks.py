"""Exact ranks and the order statistics that they name."""

import math
import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqlib._core.levels import central_pair, check_confidence_level, exact_level
from uqlib._core.ranks import (
    lower_rank_from_fraction,
    order_statistic,
    rank_from_fraction,
    rows_needed,
)
from uqlib.conformal import conformal_quantile, conformal_rank
from uqlib.exceptions import InfiniteIntervalWarning

LEVELS = [0.5, 0.55, 0.8, 0.9, 0.95, 0.99, 0.995]
LARGE = [10**5, 10**7]
# Levels as they come out of arithmetic, and the decimal that was meant.
COMPUTED = [
    (0.55 - 0.45, "0.1"),
    (1 - 0.9, "0.1"),
    (0.3 - 0.1, "0.2"),
    (1 - 0.05, "0.95"),
    (0.1 + 0.2, "0.3"),
    (0.7 + 0.1 + 0.1, "0.9"),
    (3 * 0.3, "0.9"),
    (1 - 0.45, "0.55"),
    (1 - (1 - 0.995), "0.995"),
    (1 - (1 - 0.9) / 2, "0.95"),
    ((1 - 0.9) / 2, "0.05"),
    (0.57 - 0.02, "0.55"),
]

levels = st.integers(1, 999).map(lambda thousandths: thousandths / 1000)
scores_with_ties = st.lists(st.integers(-5, 5).map(float), max_size=30)
scores_with_infinities = st.lists(
    st.floats(allow_nan=False, allow_infinity=True, width=32), max_size=30
)


def rational_rank(n, decimal):
    """Least k >= 1 with k / (n + 1) >= level, in integers."""
    level = Fraction(decimal)
    product = (n + 1) * level.numerator
    return max(1, product // level.denominator + bool(product % level.denominator))


def least_sufficient(scores, rank):
    """The smallest score, or the atom at +inf, that at least `rank` atoms reach."""
    atoms = [*scores, math.inf]
    return min(t for t in atoms if sum(s <= t for s in atoms) >= rank)


def quiet_quantile(scores, level):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        return conformal_quantile(scores, level)


# ------------------------------------------------------------------- the rank


@pytest.mark.parametrize("level", LEVELS)
def test_rank_is_rational_arithmetic(level):
    for n in range(500):
        assert conformal_rank(n, level) == rational_rank(n, str(level))
    for size in LARGE:
        assert conformal_rank(size - 1, level) == rational_rank(size - 1, str(level))


@pytest.mark.parametrize(("level", "decimal"), COMPUTED)
def test_rank_of_a_computed_level_is_that_of_the_decimal(level, decimal):
    for n in [*range(500), *(size - 1 for size in LARGE)]:
        assert conformal_rank(n, level) == rational_rank(n, decimal)


def test_computed_levels_are_a_real_test():
    # Were each float equal to its decimal, the test above would say nothing new.
    assert sum(level != float(decimal) for level, decimal in COMPUTED) >= 7
    assert math.ceil(100 * 0.55) == 56


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("decimal", ["0.5", "0.55", "0.8", "0.9", "0.95"])
def test_rank_of_a_numpy_level_is_that_of_its_decimal(dtype, decimal):
    level = dtype(decimal)
    for n in [*range(200), *(size - 1 for size in LARGE)]:
        assert conformal_rank(n, level) == rational_rank(n, decimal)


@pytest.mark.parametrize(
    ("n", "level", "rank"),
    [
        (9, 0.9, 9),
        (19, 0.95, 19),
        (99, 0.55, 55),
        (8, 0.9, 9),
        (0, 0.5, 1),
        (1, 0.5, 1),
    ],
)
def test_rank_by_hand(n, level, rank):
    assert conformal_rank(n, level) == rank


def test_rank_takes_a_fraction_and_integers_of_numpy():
    rank = conformal_rank(np.int64(99), Fraction(11, 20))
    assert rank == 55
    assert type(rank) is int


@given(n=st.integers(0, 10**7), level=levels)
def test_rank_is_the_smallest_with_enough_mass(n, level):
    rank, exact = conformal_rank(n, level), Fraction(str(level))
    assert 1 <= rank <= n + 1
    assert Fraction(rank, n + 1) >= exact
    assert rank == 1 or Fraction(rank - 1, n + 1) < exact


@given(n=st.integers(0, 10**7), level=levels)
def test_lower_rank_mirrors_the_upper_rank(n, level):
    exact = Fraction(str(level))
    lower = lower_rank_from_fraction(n, exact)
    upper = rank_from_fraction(n, 1 - exact)
    # The r-th smallest of s is minus the (n + 1 - r)-th smallest of -s.
    assert lower == n + 1 - upper
    assert Fraction(lower, n + 1) <= exact < Fraction(lower + 1, n + 1)


@given(n=st.integers(0, 1000), pair=st.tuples(levels, levels))
def test_rank_is_monotone_in_the_level(n, pair):
    low, high = sorted(pair)
    assert conformal_rank(n, low) <= conformal_rank(n, high)


@given(level=levels)
def test_rows_needed_is_minimal(level):
    needed = rows_needed(exact_level(level))
    assert conformal_rank(needed, level) <= needed
    assert conformal_rank(needed - 1, level) == needed  # n + 1: infinite


@given(level=levels)
def test_central_pair_is_exact(level):
    lower, upper = central_pair(level)
    alpha = 1 - Fraction(str(level))
    assert (lower, upper) == (float(alpha / 2), float(1 - alpha / 2))


# -------------------------------------------------------------- the threshold


@pytest.mark.parametrize("elements", [scores_with_ties, scores_with_infinities])
def test_threshold_is_the_least_sufficient_score(elements):
    @given(scores=elements, level=levels)
    def check(scores, level):
        threshold = quiet_quantile(scores, level)
        rank = rational_rank(len(scores), str(level))
        assert threshold == least_sufficient(scores, rank)
        assert threshold in [*scores, math.inf]
        assert type(threshold) is float

    check()


@given(scores=scores_with_infinities, level=levels, seed=st.integers(0, 99))
def test_threshold_does_not_depend_on_the_order(scores, level, seed):
    shuffled = np.random.default_rng(seed).permutation(scores)
    assert quiet_quantile(shuffled, level) == quiet_quantile(scores, level)


@pytest.mark.parametrize("transform", [np.arctan, np.cbrt, lambda s: 4 * s + 8])
def test_threshold_commutes_with_increasing_maps(transform):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=57)
    mapped = transform(scores)
    for level in LEVELS[:5]:
        position = np.flatnonzero(scores == conformal_quantile(scores, level))
        assert conformal_quantile(mapped, level) == mapped[position[0]]


@given(scores=scores_with_infinities, pair=st.tuples(levels, levels))
def test_threshold_is_monotone_in_the_level(scores, pair):
    low, high = sorted(pair)
    assert quiet_quantile(scores, low) <= quiet_quantile(scores, high)


def test_constant_scores():
    assert conformal_quantile(np.full(30, 2.5), 0.9) == 2.5


def test_infinite_scores_count():
    # Nine scores at 0.9: the largest. An infinite one is a score like any other and
    # there are enough of them, so there is nothing to warn of.
    assert conformal_quantile([*range(8), np.inf], 0.9) == np.inf
    assert conformal_quantile([*range(8), -np.inf], 0.9) == 7.0
    assert conformal_quantile([-np.inf] * 9, 0.9) == -np.inf


@pytest.mark.parametrize(
    "scores",
    [
        [3, 1, 2],
        (3.0, 1.0, 2.0),
        np.array([3, 1, 2], dtype=np.float32),
        np.array([3.0, 9.0, 1.0, 9.0, 2.0])[::2],
        np.array([3, 1, 2], dtype=np.int8),
    ],
)
def test_threshold_of_any_sequence(scores):
    assert conformal_quantile(scores, 0.5) == 2.0


def test_threshold_of_a_column_of_a_frame(df_module):
    assert conformal_quantile(df_module.make_series([3.0, 1.0, 2.0]), 0.5) == 2.0


def test_scores_are_not_changed():
    scores = np.random.default_rng(0).normal(size=50)
    before = scores.copy()
    scores.setflags(write=False)
    conformal_quantile(scores, 0.9)
    assert np.array_equal(scores, before)


def test_order_statistic_at_the_ends():
    values = np.array([2.0, 1.0])
    found = [order_statistic(values, rank) for rank in range(4)]
    assert found == [-np.inf, 1.0, 2.0, np.inf]


# ---------------------------------------------------------------- the warning


def warning_text(n, level, needed):
    return (
        f"{n} calibration rows are too few for a finite bound at level {level:g}: at "
        f"least {needed} are needed. The bound is infinite; pass more calibration rows "
        "or ask for a lower level."
    )


@pytest.mark.parametrize(
    ("n", "level", "needed"),
    [(0, 0.9, 9), (8, 0.9, 9), (18, 0.95, 19), (198, 0.995, 199), (0, 0.5, 1)],
)
def test_too_few_scores_warn_once(n, level, needed):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert conformal_quantile(np.arange(n), level) == np.inf
    assert [type(w.message) for w in caught] == [InfiniteIntervalWarning]
    [warning] = caught
    assert str(warning.message) == warning_text(n, level, needed)
    assert warning.filename == __file__  # it points at the caller


@given(level=levels, share=st.floats(0, 1))
def test_the_number_in_the_warning_is_minimal(level, share):
    needed = rows_needed(exact_level(level))
    n = min(int(share * needed), needed - 1)
    with pytest.warns(
        InfiniteIntervalWarning, match=f"^{re.escape(warning_text(n, level, needed))}$"
    ):
        assert conformal_quantile(np.zeros(n), level) == np.inf
    with pytest.warns(InfiniteIntervalWarning):
        conformal_quantile(np.zeros(needed - 1), level)
    assert conformal_quantile(np.zeros(needed), level) == 0.0  # a warning is an error


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("level", [True, False, None, "0.9", [0.9], 0.5 + 0j])
def test_a_level_that_is_no_number(level):
    message = (
        "confidence_level must be a real number strictly between 0 and 1, got "
        f"{level!r} of type {type(level).__name__}."
    )
    for call in (check_confidence_level, central_pair):
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            call(level)
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        conformal_rank(9, level)
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        conformal_quantile([1.0], level)


@pytest.mark.parametrize(
    "level", [0, 1, 0.0, 1.0, 1.5, -0.1, 90, math.nan, math.inf, np.float64(1.0)]
)
def test_a_level_out_of_range(level):
    message = (
        f"confidence_level must lie strictly between 0 and 1, got {level!r}. Pass 0.9 "
        "for a coverage of 90 %."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conformal_rank(9, level)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conformal_quantile([1.0], level)


@pytest.mark.parametrize("n", [9.0, "9", None, [9]])
def test_a_count_that_is_no_integer(n):
    message = (
        f"n must be an integer number of scores, got {n!r} of type {type(n).__name__}."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        conformal_rank(n, 0.9)


def test_a_negative_count():
    message = "n must be a number of scores >= 0, got -1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conformal_rank(-1, 0.9)


@pytest.mark.parametrize("scores", [[np.nan], [1.0, np.nan, np.inf], [-np.inf, np.nan]])
def test_scores_with_nan(scores):
    message = (
        "scores contains NaN. Remove or impute those rows; infinite values are legal, "
        "NaN is not."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conformal_quantile(scores, 0.5)


@pytest.mark.parametrize("shape", [(), (3, 1), (1, 3), (2, 2, 2)])
def test_scores_that_are_not_one_dimensional(shape):
    message = (
        f"scores must be 1-D, got an array of shape {shape}. Flatten a column with "
        ".ravel()."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conformal_quantile(np.ones(shape), 0.5)


# --------------------------------------------------------------- the coverage

N_REPLICATIONS = 2000
CELLS = [(n, level) for n in (9, 19, 50, 200) for level in (0.8, 0.9, 0.95)]
# Two tests a cell, all of them together at a false-alarm probability of 1e-6.
FALSE_ALARM = 1e-6 / (2 * len(CELLS))


@pytest.mark.parametrize(("n", "level"), CELLS)
def test_threshold_coverage_has_the_beta_law(n, level):
    """With U(0, 1) scores the coverage given the calibration is the threshold."""
    rank = rational_rank(n, str(level))
    scores = np.random.default_rng([n, round(1000 * level)]).random((N_REPLICATIONS, n))
    coverage = np.array([quiet_quantile(row, level) for row in scores])
    if rank == n + 1:
        assert np.all(coverage == np.inf)
        return
    law = stats.beta(rank, n + 1 - rank)
    assert stats.kstest(coverage, law.cdf).pvalue > FALSE_ALARM
    # A beta law is sub-Gaussian with variance proxy 1 / (4 (n + 2)), which bounds the
    # mean over the replications without any approximation.
    bound = math.sqrt(math.log(2 / FALSE_ALARM) / (2 * (n + 2) * N_REPLICATIONS))
    assert abs(coverage.mean() - rank / (n + 1)) < bound
    assert Fraction(rank, n + 1) >= Fraction(str(level))
