"""Conformal p-values, and the boundaries that make them hold conditionally."""

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqlib._core.outlier_p_values import (
    conditional_boundary,
    ranks_of_p_values,
    simes_rows_needed,
)
from uqlib.conformal import conditional_p_values, conformal_p_values, conformal_quantile

LEVELS = [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)]
METHODS = ["simes", "asymptotic", "monte_carlo"]
SMALL = [("simes", 1), ("simes", 2), ("monte_carlo", 1), ("monte_carlo", 2)]

scores_with_ties = st.lists(st.integers(-4, 4).map(float), max_size=20)
any_scores = st.lists(st.floats(allow_nan=False, allow_infinity=True), max_size=20)


# ------------------------------------------------------------- marginal p-values


@given(calibration=scores_with_ties | any_scores, scores=scores_with_ties | any_scores)
def test_p_values_are_counts(calibration, scores):
    expected = [
        (1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores
    ]
    np.testing.assert_array_equal(conformal_p_values(calibration, scores), expected)


@given(calibration=scores_with_ties, scores=scores_with_ties, u=st.floats(0, 1))
def test_smoothed_p_values_are_counts(calibration, scores, u):
    expected = [
        (sum(c > s for c in calibration) + u * (1 + calibration.count(s)))
        / (len(calibration) + 1)
        for s in scores
    ]
    np.testing.assert_array_equal(
        conformal_p_values(calibration, scores, u=u), expected
    )


@given(calibration=scores_with_ties, scores=scores_with_ties)
def test_smoothing_with_one_is_the_deterministic_form(calibration, scores):
    np.testing.assert_array_equal(
        conformal_p_values(calibration, scores, u=1.0),
        conformal_p_values(calibration, scores),
    )


@given(calibration=scores_with_ties, scores=scores_with_ties)
def test_p_values_depend_on_the_order_alone(calibration, scores):
    moved = conformal_p_values(np.exp(calibration)[::-1], np.exp(scores))
    np.testing.assert_array_equal(moved, conformal_p_values(calibration, scores))


@given(
    calibration=any_scores.filter(len),
    scores=any_scores,
    percent=st.integers(1, 99),
)
@pytest.mark.filterwarnings("ignore::uqlib.exceptions.InfiniteIntervalWarning")
def test_small_p_values_are_scores_above_the_conformal_threshold(
    calibration, scores, percent
):
    threshold = conformal_quantile(calibration, percent / 100)
    counts = np.rint(conformal_p_values(calibration, scores) * (len(calibration) + 1))
    small = 100 * counts <= (100 - percent) * (len(calibration) + 1)
    np.testing.assert_array_equal(small, np.array(scores) > threshold)


def test_exchangeable_rows_have_a_uniform_rank():
    # Over all orders of 5 distinct scores the last one has each p-value equally often.
    p_values = [
        conformal_p_values(order[:-1], order[-1:])[0]
        for order in itertools.permutations(range(5))
    ]
    values, counts = np.unique(p_values, return_counts=True)
    np.testing.assert_array_equal(values, [0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(counts) == {24}


@pytest.mark.parametrize("multiset", [(1, 1, 2, 3), (1, 1, 1, 2), (7, 7, 7, 7)])
def test_smoothed_p_values_are_uniform_with_ties(multiset):
    # Given the order, p is uniform on [p(u=0), p(u=1)]; the mixture over all orders is
    # uniform on [0, 1]: its distribution function is the identity.
    grid = [Fraction(k, 24) for k in range(25)]
    total = [Fraction(0)] * len(grid)
    orders = list(itertools.permutations(multiset))
    for order in orders:
        low, high = (
            Fraction(round(4 * conformal_p_values(order[:-1], order[-1:], u=u)[0]), 4)
            for u in (0.0, 1.0)
        )
        for k, t in enumerate(grid):
            total[k] += min(max((t - low) / (high - low), Fraction(0)), Fraction(1))
    assert [value / len(orders) for value in total] == grid


def test_ties_make_the_deterministic_form_larger_only():
    orders = list(itertools.permutations((1, 1, 2, 2, 2)))
    p_values = np.array([conformal_p_values(o[:-1], o[-1:])[0] for o in orders])
    for j in range(1, 6):
        assert np.mean(p_values <= j / 5) <= j / 5


@pytest.mark.parametrize("n_outliers", [0, 1])
@pytest.mark.parametrize("level", [0.2, 0.4, 0.5, 0.6, 0.8])
def test_benjamini_hochberg_controls_the_false_discovery_rate(n_outliers, level):
    # Exactly: the mean over all orders of 4 calibration rows and 2 inliers, beside
    # outliers that are stranger than all. The bound is level times 2 / m.
    outliers = [np.inf] * n_outliers
    rates = []
    for order in itertools.permutations(range(6)):
        p_values = conformal_p_values(order[:4], [*order[4:], *outliers])
        selected = stats.false_discovery_control(p_values) <= level + 1e-12
        rates.append(selected[:2].sum() / max(1, selected.sum()))
    assert np.mean(rates) <= level * 2 / (2 + n_outliers) + 1e-12
    if level == 0.8:
        assert np.mean(rates) > 0.1


def test_without_calibration_scores_nothing_is_strange():
    np.testing.assert_array_equal(conformal_p_values([], [1.0, np.inf]), [1.0, 1.0])
    np.testing.assert_array_equal(conformal_p_values([], [1.0], u=0.3), [0.3])
    assert conformal_p_values([1.0], []).shape == (0,)


def test_infinite_scores_and_other_dtypes():
    calibration = [-np.inf, 0.0, np.inf, np.inf]
    np.testing.assert_array_equal(
        conformal_p_values(calibration, [np.inf, 1.0, -np.inf]), [0.6, 0.6, 1.0]
    )
    strided = np.repeat(np.float32([3, 1, 2]), 2)[::2]
    np.testing.assert_array_equal(
        conformal_p_values(strided, np.array([2, 9])), [0.75, 0.25]
    )


def test_bad_scores():
    with pytest.raises(ValueError, match="calibration_scores contains NaN"):
        conformal_p_values([np.nan], [1.0])
    with pytest.raises(ValueError, match=r"^scores contains NaN"):
        conformal_p_values([1.0], [np.nan])
    with pytest.raises(ValueError, match="scores must be 1-D"):
        conformal_p_values([1.0], [[1.0]])


@pytest.mark.parametrize("u", [-0.1, 1.1, np.nan, [0.5, 2.0]])
def test_bad_smoothing(u):
    with pytest.raises(ValueError, match=re.escape("u must lie in [0, 1]")):
        conformal_p_values([1.0], [1.0, 2.0], u=u)


def test_smoothing_of_another_shape():
    with pytest.raises(ValueError, match=re.escape("have shape (2,), one number")):
        conformal_p_values([1.0], [1.0, 2.0], u=[0.1, 0.2, 0.3])


# ----------------------------------------------------------- conditional p-values


def exact_probability_below(boundary):
    """P(U_(i) <= b_i for all i), in rational arithmetic.

    The first i with U_(i) > b_i has exactly i - 1 variables below b_i, and these lie
    below the boundary themselves: a recursion over the number of variables.
    """
    b = [Fraction(float(value)) for value in boundary]
    below = [Fraction(1)]
    for m in range(1, len(b) + 1):
        crossed = sum(
            math.comb(m, j - 1) * below[j - 1] * (1 - b[j - 1]) ** (m - j + 1)
            for j in range(1, m + 1)
        )
        below.append(1 - crossed)
    return below[-1]


def probability_below(boundary):
    """The same in floating point: the number of variables below b_1, b_2, ..."""
    n = len(boundary)
    counts = np.arange(n + 1)
    law = np.zeros(n + 1)
    law[0], before = 1.0, 0.0
    for j, value in enumerate(boundary, start=1):
        share = 1.0 if before == 1 else (value - before) / (1 - before)
        steps = stats.binom.pmf(counts - counts[:, None], n - counts[:, None], share)
        law = law @ steps
        law[:j] = 0.0  # fewer than j variables below b_j
        before = value
    return law.sum()


def test_the_two_recursions_agree():
    boundary = np.sort(np.random.default_rng(0).random(12)) ** 0.3
    exact = float(exact_probability_below(boundary))
    assert 0.1 < exact < 0.9
    assert math.isclose(exact, probability_below(boundary), rel_tol=1e-12)


def test_the_recursion_by_hand():
    a, b = Fraction(1, 4), Fraction(1, 2)  # P(min <= a, max <= b) = 2ab - a^2
    assert exact_probability_below([a, b]) == 2 * a * b - a * a


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12, 25])
def test_simes_holds_with_equality(n, level):
    boundary = conditional_boundary(n, level, "simes")
    assert boundary[-1] == 1.0
    assert abs(exact_probability_below(boundary[:-1]) - level) < 1e-13


@pytest.mark.parametrize("level", LEVELS)
def test_simes_holds_with_equality_for_many_rows(level):
    boundary = conditional_boundary(120, level, "simes")
    assert abs(probability_below(boundary[:-1]) - level) < 1e-10


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [1, 2, 5, 8, 13])
def test_simes_is_the_product_of_the_paper(n, level):
    k, delta = max(1, n // 2), float(1 - level)
    for j in range(1, n + 1):
        i = n + 1 - j
        product = math.prod(Fraction(i - m, n - m) for m in range(k)) if i >= k else 0
        expected = 1 - (delta * float(product)) ** (1 / k)
        boundary = conditional_boundary(n, level, "simes")
        assert math.isclose(boundary[j - 1], expected, rel_tol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [2, 3, 6, 20])
def test_monte_carlo_has_its_exact_law(n, level):
    # c is the r-th smallest of B simulated suprema, which are draws of one continuous
    # law: the probability below the band is Beta(r, B + 1 - r) over the simulation.
    # 12 cells with two ends share an error of 1e-6.
    boundary = conditional_boundary(n, level, "monte_carlo", rng=n)
    n_draws = 1000
    rank = math.ceil((n_draws + 1) * level)
    law = stats.beta(rank, n_draws + 1 - rank)
    probability = float(exact_probability_below(boundary[:-1]))
    error = 1e-6 / 24
    assert law.ppf(error) <= probability <= law.isf(error)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [16, 30])
def test_asymptotic_is_on_the_safe_side_at_these_sizes(n, level):
    # No theorem says so: an exact computation does.
    boundary = conditional_boundary(n, level, "asymptotic")
    assert exact_probability_below(boundary[:-1]) >= level


def test_asymptotic_solves_its_limit_law():
    n, level = 1000, 0.9
    boundary = conditional_boundary(n, Fraction(9, 10), "asymptotic")
    j = np.arange(1, 100)
    c = (boundary[j - 1] - j / n) * n * np.sqrt(n) / np.sqrt(j * (n - j))
    np.testing.assert_allclose(c, c[0], rtol=1e-9)
    log2 = np.log(np.log(n))
    x = c[0] * np.sqrt(2 * log2) - 2 * log2 - np.log(log2) / 2 + np.log(np.pi) / 2
    assert math.isclose(np.exp(-np.exp(-x)), level, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("method", "n"), [(m, n) for m in METHODS for n in (16, 100)] + SMALL
)
@pytest.mark.parametrize("level", [Fraction(1, 1000), *LEVELS, Fraction(999, 1000)])
def test_boundaries_are_probabilities_that_do_not_fall(method, level, n):
    boundary = conditional_boundary(n, level, method, rng=0)
    assert boundary.shape == (n + 1,)
    assert boundary[0] > 0
    assert (np.diff(boundary) >= 0).all()
    assert boundary[-1] == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_boundaries_rise_with_the_level(method):
    boundaries = [conditional_boundary(50, lv, method, rng=1) for lv in LEVELS]
    assert (np.diff(boundaries, axis=0) >= 0).all()


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("confidence", LEVELS)
def test_rows_needed_is_minimal(confidence, level):
    alpha = 1 - Fraction(str(level))
    needed = simes_rows_needed(confidence, 1 - alpha)
    smallest = [conditional_boundary(n, confidence, "simes")[0] for n in range(1, 950)]
    first = 1 + int(np.argmax(np.array(smallest) <= float(alpha) + 1e-13))
    assert needed == first


def test_most_calibration_sets_make_all_levels_hold():
    # What the boundary is for: with F the identity, P(p~ <= t | scores) is the survival
    # at the score where p~ passes t, and the share of calibration sets where it stays
    # below t for every t is 1 - delta, exactly. 1e-6 both ways.
    rng = np.random.default_rng(0)
    n, n_sets, level = 20, 4000, 0.9
    table = conditional_boundary(n, Fraction(9, 10), "simes")
    calibration = np.sort(rng.random((n_sets, n)), axis=1)
    # p <= j / (n + 1) exactly for scores above the j-th largest calibration score.
    false_alarms = 1 - calibration[:, ::-1]
    held = (false_alarms <= table[:-1]).all(axis=1).sum()
    law = stats.binom(n_sets, level)
    assert law.ppf(5e-7) <= held <= law.isf(5e-7)


@given(n=st.integers(0, 10**6), data=st.data())
def test_p_values_are_traced_back_to_their_ranks(n, data):
    j = data.draw(st.integers(1, n + 1))
    p = np.array([j / (n + 1), np.nextafter(j / (n + 1), 2), (j - 0.5) / (n + 1)])
    ranks = ranks_of_p_values(np.minimum(p, 1.0), n)
    assert ranks.tolist() == [j, min(j + 1, n + 1), j]


def test_conditional_p_values_look_up_the_boundary():
    calibration = np.arange(30.0)
    p = conformal_p_values(calibration, np.arange(-1.0, 31.0))
    adjusted = conditional_p_values(p, 30, 0.9)
    boundary = conditional_boundary(30, Fraction(9, 10), "simes")
    np.testing.assert_array_equal(np.unique(adjusted), np.unique(boundary))
    assert (adjusted >= p).all()
    # Smoothing moves p within its rank, hence not at all; 0 has the first rank.
    smoothed = conformal_p_values(calibration, np.arange(-1.0, 31.0) + 0.5, u=0.4)
    np.testing.assert_array_equal(
        conditional_p_values(smoothed, 30, 0.9),
        conditional_p_values(
            conformal_p_values(calibration, np.arange(-1.0, 31.0) + 0.5), 30, 0.9
        ),
    )
    assert conditional_p_values([0.0], 30, 0.9)[0] == boundary[0]
    assert conditional_p_values([], 30, 0.9).shape == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_without_calibration_scores_nothing_is_adjusted(method):
    assert conditional_p_values([1.0], 0, 0.9, method).tolist() == [1.0]


def test_the_simulation_follows_its_generator():
    p = np.linspace(0.01, 1, 20)
    first = conditional_p_values(p, 40, 0.9, "monte_carlo", rng=3)
    again = np.random.default_rng(3)
    np.testing.assert_array_equal(
        first, conditional_p_values(p, 40, 0.9, "monte_carlo", rng=again)
    )
    other = conditional_p_values(p, 40, 0.9, "monte_carlo", rng=4)
    assert (first != other).any()


@pytest.mark.parametrize("method", ["Simes", None, 3, "dkw"])
def test_unknown_methods(method):
    message = f"method={method!r} must be one of ['asymptotic', 'monte_carlo', 'simes']"
    with pytest.raises(ValueError, match=re.escape(message)):
        conditional_p_values([0.5], 20, 0.9, method)


def test_a_level_that_no_simulation_reaches():
    with pytest.raises(ValueError, match=r"needs 9999999990 simulated sets.*'simes'"):
        conditional_p_values([0.5], 20, 1 - 1e-9, "monte_carlo")


def test_too_few_rows_for_the_limit_law():
    with pytest.raises(ValueError, match="n_calibration of at least 16, got 15"):
        conditional_p_values([0.5], 15, 0.9, "asymptotic")


@pytest.mark.parametrize("p", [[-0.1], [1.5], [np.inf]])
def test_bad_p_values(p):
    with pytest.raises(ValueError, match=re.escape("p_values must lie in [0, 1]")):
        conditional_p_values(p, 20, 0.9)


def test_p_values_that_are_nan():
    with pytest.raises(ValueError, match="p_values contains NaN"):
        conditional_p_values([np.nan], 20, 0.9)


@pytest.mark.parametrize("level", [0, 1, np.nan])
def test_bad_levels(level):
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        conditional_p_values([0.5], 20, level)


def test_bad_counts():
    with pytest.raises(ValueError, match="n_calibration must be at least 0, got -1"):
        conditional_p_values([0.5], -1, 0.9)
    with pytest.raises(TypeError, match="n_calibration must be an integer"):
        conditional_p_values([0.5], 2.5, 0.9)
