"""Sequential p-values, the ways to bet on them, and Ville's inequality."""

import itertools
import math
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from uqlib._core.martingale import Betting, log_mixture_capital
from uqlib._core.sequential_p_values import continue_p_values
from uqlib.conformal import (
    conformal_p_values,
    exchangeability_martingale,
    sequential_p_values,
)

METHODS = ["simple_jumper", "mixture", "power", "histogram"]

scores_with_ties = st.lists(st.integers(-3, 3).map(float), max_size=40)
any_scores = st.lists(st.floats(allow_nan=False, allow_infinity=True), max_size=40)
p_value_lists = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30)


# ----------------------------------------------------------- sequential p-values


@given(scores=scores_with_ties | any_scores, u=st.floats(0, 1))
def test_sequential_p_values_are_counts(scores, u):
    expected = []
    for t, score in enumerate(scores, start=1):
        above = sum(s > score for s in scores[:t])
        expected.append((above + u * scores[:t].count(score)) / t)
    np.testing.assert_array_equal(sequential_p_values(scores, u=u), expected)


@given(scores=scores_with_ties, u=st.floats(0, 1))
def test_each_is_a_conformal_p_value_among_those_before(scores, u):
    p_values = sequential_p_values(scores, u=u)
    for t, score in enumerate(scores):
        expected = conformal_p_values(scores[:t], [score], u=u)
        np.testing.assert_array_equal(p_values[t : t + 1], expected)


@given(scores=scores_with_ties | any_scores, share=st.floats(0, 1))
@example(scores=[1.0, 2.0, 1.0, 1.0, 0.0, 2.0], share=0.5)
def test_pieces_give_what_the_whole_gives(scores, share):
    scores, cut = np.array(scores, dtype=float), int(share * len(scores))
    u = np.random.default_rng(0).random(scores.size)
    first, seen = continue_p_values(np.empty(0), scores[:cut], u[:cut])
    second, seen = continue_p_values(seen, scores[cut:], u[cut:])
    np.testing.assert_array_equal(
        np.concatenate([first, second]), sequential_p_values(scores, u=u)
    )
    np.testing.assert_array_equal(seen, np.sort(scores))


def test_many_scores_at_once():
    # Every bit of the ranks is used, and a sorted list takes the place of the counts.
    scores = np.random.default_rng(0).integers(0, 1500, 4000).astype(float)
    p_values = sequential_p_values(scores, u=0.0)
    for t in [1, 2, 17, 1023, 1024, 1025, 3999]:
        assert p_values[t] == np.sum(scores[:t] > scores[t]) / (t + 1)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_ranks_of_exchangeable_scores_are_jointly_uniform(n):
    # The n! orders give the n! vectors (R_1, ..., R_n), R_t in {1, ..., t}, once each:
    # the ranks are independent and uniform, hence the smoothed p-values are too.
    vectors = Counter(
        tuple(np.rint(sequential_p_values(order, u=1.0) * np.arange(1, n + 1)))
        for order in itertools.permutations(range(n))
    )
    assert set(vectors) == set(
        itertools.product(*(range(1, t + 1) for t in range(1, n + 1)))
    )
    assert set(vectors.values()) == {1}


@pytest.mark.parametrize("multiset", [(1, 1, 2), (1, 1, 2, 2), (3, 3, 3)])
def test_p_values_are_jointly_uniform_with_ties(multiset):
    # Given the order, p_t is uniform between its values at u = 0 and u = 1, and the
    # p_t are independent. The mean over all orders of the joint distribution function
    # must be the product of the arguments, here on a grid and in rational arithmetic.
    n, grid = len(multiset), [Fraction(k, 5) for k in range(1, 5)]
    orders = list(itertools.permutations(multiset))
    boxes = []
    for order in orders:
        ends = [sequential_p_values(order, u=u) for u in (0.0, 1.0)]
        boxes.append(
            [[Fraction(round(p[t] * (t + 1)), t + 1) for p in ends] for t in range(n)]
        )
    for point in itertools.product(grid, repeat=n):
        total = sum(
            math.prod(
                min(max((x - low) / (high - low), Fraction(0)), Fraction(1))
                for x, (low, high) in zip(point, box, strict=True)
            )
            for box in boxes
        )
        assert total / len(orders) == math.prod(point)


def test_drawn_smoothing_follows_its_generator():
    scores = [1.0, 1.0, 2.0, 1.0]
    u = np.random.default_rng(5).random(4)
    np.testing.assert_array_equal(
        sequential_p_values(scores, rng=5), sequential_p_values(scores, u=u)
    )
    np.testing.assert_array_equal(
        sequential_p_values(scores, rng=np.random.default_rng(5)),
        sequential_p_values(scores, rng=5),
    )
    assert sequential_p_values([]).shape == (0,)
    assert 0 <= sequential_p_values([7.0])[0] <= 1


def test_bad_scores_and_smoothing():
    with pytest.raises(ValueError, match="scores contains NaN"):
        sequential_p_values([1.0, np.nan])
    with pytest.raises(ValueError, match="scores must be 1-D"):
        sequential_p_values([[1.0]])
    with pytest.raises(ValueError, match=re.escape("u must lie in [0, 1]")):
        sequential_p_values([1.0], u=[2.0])
    with pytest.raises(ValueError, match=re.escape("u must be a number or have shape")):
        sequential_p_values([1.0], u=[0.5, 0.5])


# ------------------------------------------------------------------- the capital


def capital(p_values, method, **parameters):
    """The capital after the last p-value; 1 before the first."""
    path = exchangeability_martingale(p_values, method, **parameters)
    return math.exp(path[-1]) if len(path) else 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_before", [0, 1, 2, 5, 40])
def test_every_bet_is_fair(method, n_before):
    # The integral of S_t over the next p-value is S_{t-1}, at any history. p = exp(-v)
    # takes the singularity at 0 away; the histogram is integrated bin by bin.
    rng = np.random.default_rng(n_before)
    history = rng.beta(0.7, 1.2, size=n_before)

    def integrand(v):
        return capital([*history, math.exp(-v)], method) * math.exp(-v)

    ends = [0.0, *(-np.log(np.arange(9, 0, -1) / 10)), 5.0, 20.0, 60.0]
    total = sum(
        integrate.quad(integrand, low, high, epsrel=1e-11)[0]
        for low, high in itertools.pairwise(ends)
    )
    if method == "mixture":
        total += mixture_beyond(history, 60.0)
    assert math.isclose(total, capital(history, method), rel_tol=1e-9)


def mixture_beyond(history, v):
    """The integral of the mixture over p < exp(-v), where the other bets are done.

    It is the integral of e^n exp(L (1 - e)) exp(-v e) over e in [0, 1].
    """
    n, mass = len(history), -np.log(history).sum()
    scale = math.factorial(n) / (mass + v) ** (n + 1)
    return math.exp(mass) * scale * special.gammainc(n + 1, mass + v)


def jumper_by_paths(p_values, jump_rate):
    """The sum over all paths of e in {-1, 0, 1} of a Markov chain that jumps."""
    total = Fraction(0)
    p_values = [Fraction(p) for p in p_values]
    jump = Fraction(jump_rate)
    for path in itertools.product((-1, 0, 1), repeat=len(p_values)):
        weight = Fraction(1, 3)
        for before, after in itertools.pairwise(path):
            weight *= jump / 3 + (1 - jump) * (before == after)
        for e, p in zip(path, p_values, strict=True):
            weight *= 1 + e * (p - Fraction(1, 2))
        total += weight
    return total


@pytest.mark.parametrize("jump_rate", [0.01, 0.25, 1.0])
def test_simple_jumper_is_a_sum_over_paths(jump_rate):
    p_values = np.random.default_rng(1).random(6)
    for n in range(1, 7):
        expected = float(jumper_by_paths(p_values[:n], jump_rate))
        value = capital(p_values[:n], "simple_jumper", jump_rate=jump_rate)
        assert math.isclose(value, expected, rel_tol=1e-12)


@given(p_values=p_value_lists, exponent=st.floats(0.01, 1.0))
def test_power_is_a_product(p_values, exponent):
    expected = np.cumsum([math.log(exponent * p ** (exponent - 1)) for p in p_values])
    path = exchangeability_martingale(p_values, "power", exponent=exponent)
    np.testing.assert_allclose(path, expected, atol=1e-10)


@given(p_values=p_value_lists)
def test_mixture_is_the_mean_of_power_martingales(p_values):
    n, mass = len(p_values), -sum(map(math.log, p_values))
    path = exchangeability_martingale(p_values, "mixture")
    # int_0^1 e^n exp(L (1 - e)) de is a sum of positive terms, integrated by parts.
    term, total, m = 1 / (n + 1), 0.0, 0
    while term > 1e-20 * total:
        total += term
        m += 1
        term *= mass / (n + 1 + m)
    assert math.isclose(path[-1], math.log(total), rel_tol=1e-11, abs_tol=1e-11)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 100, 1000])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 1.5])
def test_mixture_is_an_incomplete_gamma_function(n, ratio):
    mass = ratio * (n + 1)
    expected = (
        mass
        - (n + 1) * math.log(mass)
        + special.gammaln(n + 1)
        + math.log(special.gammainc(n + 1, mass))
    )
    value = log_mixture_capital(np.array([n], float), np.array([mass]))[0]
    assert math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9 * (n + 1))


def test_mixture_at_its_ends():
    n = np.array([0.0, 1.0, 7.0, 1e6])
    # No evidence: the mean of e^n over [0, 1]. With n = 0 and any L: (exp(L) - 1) / L.
    np.testing.assert_allclose(
        log_mixture_capital(n, np.zeros(4)), -np.log(n + 1), atol=1e-12
    )
    mass = np.array([1e-12, 1e-3, 1.0, 30.0, 600.0])
    np.testing.assert_allclose(
        log_mixture_capital(np.zeros(5), mass),
        np.log(np.expm1(mass) / mass),
        rtol=1e-12,
        atol=1e-12,
    )
    # Far out the integral over [0, inf) is all: n! exp(L) / L^(n + 1).
    big = log_mixture_capital(np.array([5.0]), np.array([1e6]))[0]
    expected = 1e6 + math.log(math.factorial(5)) - 6 * math.log(1e6)
    assert math.isclose(big, expected, rel_tol=1e-13)


@given(p_values=p_value_lists, n_bins=st.integers(1, 12))
def test_histogram_is_a_ratio_of_factorials(p_values, n_bins):
    # The capital depends on the final counts alone: the density of the p-values under
    # a uniform mixture over all histograms.
    counts = Counter(min(int(p * n_bins), n_bins - 1) for p in p_values)
    n = len(p_values)
    expected = Fraction(n_bins) ** n * math.factorial(n_bins - 1)
    expected *= math.prod(math.factorial(c) for c in counts.values())
    expected /= math.factorial(n + n_bins - 1)
    value = exchangeability_martingale(p_values, "histogram", n_bins=n_bins)[-1]
    logarithm = math.log(expected.numerator) - math.log(expected.denominator)
    assert math.isclose(value, logarithm, abs_tol=1e-11)


@pytest.mark.parametrize("method", METHODS)
@given(p_values=p_value_lists, cut=st.integers(0, 30))
def test_betting_goes_on_from_where_it_stopped(method, p_values, cut):
    p_values = np.array(p_values)
    betting = Betting(method, jump_rate=0.1, exponent=0.5, n_bins=4)
    first, state = betting.advance(betting.start(), p_values[:cut])
    second, state = betting.advance(state, p_values[cut:])
    whole, end = betting.advance(betting.start(), p_values)
    # What is added up is added one by one, in the same order.
    np.testing.assert_array_equal(state, end)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-13)


def test_no_bet_keeps_the_capital():
    p_values = [0.0, 0.3, 1.0]
    for method, parameters in [
        ("power", {"exponent": 1}),
        ("histogram", {"n_bins": 1}),
    ]:
        path = exchangeability_martingale(p_values, method, **parameters)
        np.testing.assert_array_equal(path, np.zeros(3))


@pytest.mark.parametrize("method", METHODS)
def test_strange_rows_make_the_gambler_rich(method):
    # The jumper can gain at most log(3 / 2) a step, the others more.
    path = exchangeability_martingale(np.full(10_000, 1e-3), method)
    assert np.isfinite(path).all()
    assert path[-1] > 3000  # beyond the largest float, were it not a logarithm
    assert (np.diff(path[100:]) > 0).all()


def test_a_change_of_direction():
    # Only a jumper and a histogram gain from p-values that are too large.
    p_values = np.full(300, 0.95)
    assert exchangeability_martingale(p_values, "simple_jumper")[-1] > 10
    assert exchangeability_martingale(p_values, "histogram")[-1] > 10
    assert exchangeability_martingale(p_values, "power")[-1] < 0


def test_p_values_at_the_ends():
    # A p-value of 0 has probability 0: a density that is infinite there pays for good.
    for method in ("power", "mixture"):
        path = exchangeability_martingale([1.0, 0.0, 1.0, 1.0], method)
        assert np.isfinite(path[0])
        assert np.isposinf(path[1:]).all()
    for method in ("simple_jumper", "histogram"):
        assert np.isfinite(exchangeability_martingale([0.0, 1.0] * 5, method)).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_p_values_no_path(method):
    assert exchangeability_martingale([], method).shape == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_villes_inequality(method):
    # 1000 sequences of 100 exchangeable scores with ties. The number of paths that
    # ever reach 20 is at most binomial with probability 1 / 20; 4 methods share 1e-6.
    rng = np.random.default_rng(7)
    n_replications, alpha = 1000, 0.05
    alarms = 0
    for _ in range(n_replications):
        p_values = sequential_p_values(rng.integers(0, 30, 100), rng=rng)
        path = exchangeability_martingale(p_values, method)
        alarms += path.max() >= -math.log(alpha)
    assert alarms <= stats.binom.isf(1e-6 / 4, n_replications, alpha)


@pytest.mark.parametrize("method", ["jumper", None, 1])
def test_unknown_methods(method):
    message = f"method={method!r} must be one of ['histogram', 'mixture', 'power'"
    with pytest.raises(ValueError, match=re.escape(message)):
        exchangeability_martingale([0.5], method)


@pytest.mark.parametrize("name", ["jump_rate", "exponent"])
@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, np.nan])
def test_shares_out_of_range(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name} must lie in (0, 1], got")):
        exchangeability_martingale([0.5], **{name: value})


@pytest.mark.parametrize("name", ["jump_rate", "exponent"])
@pytest.mark.parametrize("value", [None, "0.1", True])
def test_shares_that_are_no_numbers(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        exchangeability_martingale([0.5], **{name: value})


def test_bad_numbers_of_bins():
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        exchangeability_martingale([0.5], "histogram", n_bins=0)
    with pytest.raises(TypeError, match="n_bins must be an integer"):
        exchangeability_martingale([0.5], "histogram", n_bins=2.5)


@pytest.mark.parametrize("p", [-0.1, 1.1, np.inf])
def test_p_values_out_of_range(p):
    with pytest.raises(ValueError, match=re.escape("p_values must lie in [0, 1]")):
        exchangeability_martingale([p])


def test_p_values_that_are_nan_or_no_list():
    with pytest.raises(ValueError, match="p_values contains NaN"):
        exchangeability_martingale([np.nan])
    with pytest.raises(ValueError, match="p_values must be 1-D"):
        exchangeability_martingale(0.5)
