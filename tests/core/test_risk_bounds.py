"""Bounds of a risk: exact tails, martingales by enumeration, inversion, edges."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from uqlib._core.risk_bounds import _bets, _log_wealth, column_p_values
from uqlib.conformal import hoeffding_bentkus_p_value, risk_upper_bound, wsr_p_value

LEVELS = (0.05, 0.1, 0.3, 0.5, 0.9)
BOUNDS = ("hoeffding_bentkus", "wsr")


def binomial_tails(n, p):
    """P(Bin(n, p) <= k) for k = 0, ..., n as exact fractions."""
    terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return list(itertools.accumulate(terms))


def divergence(mean, level):
    low = mean * math.log(mean / level) if mean else 0.0
    return low + (1 - mean) * math.log((1 - mean) / (1 - level))


def reference_p_value(k, n, level):
    """The formula at a sum of k, with the exact binomial tail."""
    if Fraction(k, n) >= level:
        return 1.0
    hoeffding = math.exp(-n * divergence(k / n, float(level)))
    bentkus = math.e * float(binomial_tails(n, level)[k])
    return min(1.0, hoeffding, bentkus)


def slow_wsr(losses, level, delta):
    """The wealth as the paper writes it, one loss after the other."""
    n, wealth, best = len(losses), 1.0, 1.0
    total, spread, variance = 0.0, 0.25, 0.25
    for i, loss in enumerate(losses, start=1):
        bet = min(1.0, math.sqrt(2 * math.log(1 / delta) / (n * variance)))
        wealth *= 1 - bet * (loss - level)
        best = max(best, wealth)
        total += loss
        spread += (loss - (0.5 + total) / (1 + i)) ** 2
        variance = spread / (1 + i)
    return 1 / best


def every_sequence(n):
    """All 2^n sequences of losses 0 and 1, one a column."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=n))).T


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [1, 2, 5, 10, 37])
def test_hoeffding_bentkus_equals_the_exact_tail(n, level):
    exact = Fraction(str(level))
    expected = [reference_p_value(k, n, exact) for k in range(n + 1)]
    means = np.arange(n + 1) / n
    np.testing.assert_allclose(
        hoeffding_bentkus_p_value(means, n, level), expected, rtol=1e-12
    )


@pytest.mark.parametrize(("n", "level"), [(1000, 0.05), (20_000, 0.3), (300_000, 0.1)])
def test_hoeffding_bentkus_equals_scipy_for_many_rows(n, level):
    k = np.linspace(0, n * level, 60, endpoint=False).astype(int)[1:]
    hoeffding = np.exp([-n * divergence(i / n, level) for i in k])
    expected = np.minimum(hoeffding, math.e * binom.cdf(k, n, level))
    p_values = hoeffding_bentkus_p_value(k / n, n, level)
    np.testing.assert_allclose(p_values, np.minimum(expected, 1.0), rtol=1e-9)
    # With nothing lost the Hoeffding part is the exact tail.
    zero = hoeffding_bentkus_p_value(0.0, n, level)
    np.testing.assert_allclose(zero, math.exp(n * math.log1p(-level)), rtol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [1, 4, 12, 40])
@pytest.mark.parametrize("above", [0, Fraction(1, 50)])
def test_hoeffding_bentkus_is_super_uniform_for_every_binary_loss(n, level, above):
    # P(p <= u) jumps at attained p-values only, and p does not fall in the sum.
    risk = Fraction(str(level)) + above
    p_values = hoeffding_bentkus_p_value(np.arange(n + 1) / n, n, level)
    assert (np.diff(p_values) >= 0).all()
    tails = np.array([float(tail) for tail in binomial_tails(n, risk)])
    assert (tails <= p_values * (1 + 1e-12)).all()


@pytest.mark.parametrize("middle", [Fraction(1, 3), Fraction(1, 2), Fraction(9, 10)])
@pytest.mark.parametrize("level", [Fraction(1, 10), Fraction(3, 10), Fraction(2, 5)])
def test_hoeffding_bentkus_is_super_uniform_for_losses_of_three_values(level, middle):
    # Half of the risk from losses of 1, half from the middle value; all counts.
    n, one, inner = 9, level / 2, level / 2 / middle
    law = {}
    for i, j in itertools.product(range(n + 1), repeat=2):
        if i + j <= n:
            ways = math.comb(n, i) * math.comb(n - i, j)
            chance = ways * one**i * inner**j * (1 - one - inner) ** (n - i - j)
            total = i + j * middle
            law[total] = law.get(total, 0) + chance
    totals = sorted(law)
    tails = itertools.accumulate(law[total] for total in totals)
    means = [float(total / n) for total in totals]
    p_values = hoeffding_bentkus_p_value(means, n, float(level))
    assert all(float(t) <= p + 1e-12 for t, p in zip(tails, p_values, strict=True))


def test_a_mean_that_is_an_integer_sum_is_not_rounded_up():
    # 10 * 0.3 and 100 * 0.29 miss their integers in floating point.
    for n, k in [(10, 3), (100, 29), (49, 7), (1000, 115)]:
        expected = reference_p_value(k, n, Fraction(1, 2))
        p_value = hoeffding_bentkus_p_value(k / n, n, 0.5)
        np.testing.assert_allclose(p_value, expected, rtol=1e-12)
        up = hoeffding_bentkus_p_value((k + 1e-6) / n, n, 0.5)
        assert up >= p_value


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_wsr_equals_the_loop(n, confidence):
    rng = np.random.default_rng(n)
    losses = rng.beta(0.4, 1.5, size=(n, 12))
    for level in (0.05, 0.3, 0.7):
        expected = [slow_wsr(column, level, 1 - confidence) for column in losses.T]
        p_values = wsr_p_value(losses, level, confidence_level=confidence)
        np.testing.assert_allclose(p_values, expected, rtol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_wsr_wealth_is_a_martingale_at_the_true_risk(level):
    # Every history of binary losses: the wealth is the mean of its two successors.
    n = 9
    sequences = every_sequence(n)
    bets = _bets(sequences, Fraction(1, 10))
    wealth = np.exp(_log_wealth(sequences, bets, np.array(level)))
    wealth = np.vstack([np.ones(wealth.shape[1]), wealth])
    chance = np.where(sequences == 1, level, 1 - level)
    for step in range(n):
        # Sequences that agree up to `step` lie beside one another.
        group = np.arange(2**n) // 2 ** (n - step)
        # One half of them goes on with 0, the other with 1.
        after = np.bincount(group, 2 * wealth[step + 1] * chance[step])
        before = np.bincount(group, wealth[step])
        np.testing.assert_allclose(after, before, rtol=1e-12)
        # The bet knows only what is before it.
        assert all(np.ptp(bets[step][group == g]) == 0 for g in np.unique(group))
    assert ((bets > 0) & (bets <= 1)).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("above", [0.0, 0.03])
def test_wsr_is_super_uniform_by_enumeration(level, above):
    n, risk = 11, level + above
    sequences = every_sequence(n)
    ones = sequences.sum(axis=0)
    chance = risk**ones * (1 - risk) ** (n - ones)
    p_values = wsr_p_value(sequences, level)
    order = np.argsort(p_values)
    tails, sorted_p = np.cumsum(chance[order]), p_values[order]
    last = np.append(np.diff(sorted_p) > 0, True)  # ties: the whole of them
    assert (tails[last] <= sorted_p[last] * (1 + 1e-9)).all()
    assert 0 < p_values.min() <= p_values.max() <= 1


def test_wsr_depends_on_the_order_and_hoeffding_bentkus_does_not():
    losses = np.array([0.0] * 30 + [1.0] * 3)
    assert wsr_p_value(losses, 0.2) != wsr_p_value(losses[::-1], 0.2)
    forward, backward = (risk_upper_bound(x) for x in (losses, losses[::-1]))
    assert forward == backward


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
def test_the_upper_bound_is_where_the_p_value_falls_below(bound, confidence):
    rng = np.random.default_rng(3)
    losses = rng.uniform(size=(60, 8)) * np.linspace(0.01, 1, 8)
    upper = risk_upper_bound(losses, confidence, bound=bound)
    for column, at in zip(losses.T, upper, strict=True):

        def p_value(level, column=column):
            if bound == "wsr":
                return wsr_p_value(column, level, confidence_level=confidence)
            return hoeffding_bentkus_p_value(column.mean(), column.size, level)

        assert p_value(min(at, 1 - 1e-15)) <= 1 - confidence + 1e-12
        assert p_value(at - 1e-9) >= 1 - confidence


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_upper_bounds_cover_by_enumeration(confidence):
    n = 10
    sequences = every_sequence(n)
    ones = sequences.sum(axis=0)
    for bound in BOUNDS:
        upper = risk_upper_bound(sequences, confidence, bound=bound)
        for risk in np.linspace(0.01, 0.99, 33):
            chance = risk**ones * (1 - risk) ** (n - ones)
            assert chance[upper >= risk].sum() >= confidence


def test_betting_is_sharper_where_losses_vary_little():
    losses = np.random.default_rng(0).uniform(0.18, 0.22, size=500)
    betting = risk_upper_bound(losses, bound="wsr")
    assert losses.mean() < betting < risk_upper_bound(losses) - 0.02


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.01, 0.98))
def test_p_values_move_with_the_level_and_the_mean(n, k, level):
    mean = min(k, n) / n
    p_value = hoeffding_bentkus_p_value(mean, n, level)
    assert 0 < p_value <= 1
    assert hoeffding_bentkus_p_value(mean, n, level + 0.01) <= p_value * (1 + 1e-9)
    assert hoeffding_bentkus_p_value(mean * 0.9, n, level) <= p_value * (1 + 1e-9)
    losses = np.zeros(n)
    losses[: min(k, n)] = 1
    betting = wsr_p_value(losses, level)
    assert wsr_p_value(losses, level + 0.01) <= betting * (1 + 1e-9)
    assert wsr_p_value(losses * 0.9, level) <= 1


@given(st.floats(0.1, 50.0))
def test_scaling_the_loss_scales_the_bound(scale):
    losses = np.random.default_rng(1).uniform(size=(40, 3))
    for bound in BOUNDS:
        scaled = risk_upper_bound(losses * scale, bound=bound, loss_bound=scale * 1.0)
        plain = risk_upper_bound(losses, bound=bound)
        np.testing.assert_allclose(scaled, plain * scale, rtol=1e-9)
    np.testing.assert_allclose(
        wsr_p_value(losses * scale, 0.4 * scale, loss_bound=scale),
        wsr_p_value(losses, 0.4),
        rtol=1e-9,
    )


@pytest.mark.parametrize("bound", BOUNDS)
def test_columns_are_taken_one_by_one_whatever_the_chunk(bound, monkeypatch):
    losses = np.random.default_rng(2).uniform(size=(50, 20))
    whole = risk_upper_bound(losses, bound=bound)
    p_values = column_p_values(losses, Fraction(3, 10), Fraction(9, 10), bound, 1.0)
    monkeypatch.setattr("uqlib._core.risk_bounds._CHUNK", 150)
    np.testing.assert_array_equal(risk_upper_bound(losses, bound=bound), whole)
    single = [risk_upper_bound(column, bound=bound) for column in losses.T]
    np.testing.assert_allclose(whole, single, rtol=1e-12)
    by_column = column_p_values(losses, Fraction(3, 10), Fraction(9, 10), bound, 1.0)
    np.testing.assert_array_equal(by_column, p_values)
    public = (
        wsr_p_value(losses, 0.3)
        if bound == "wsr"
        else hoeffding_bentkus_p_value(losses.mean(axis=0), 50, 0.3)
    )
    np.testing.assert_allclose(p_values, public, rtol=1e-9)


def test_degenerate_losses():
    assert hoeffding_bentkus_p_value(0.0, 0, 0.1) == 1.0
    assert wsr_p_value([], 0.1) == 1.0
    for bound in BOUNDS:
        # Nothing is known of no rows, and a row that loses all says nothing below it.
        assert risk_upper_bound([], bound=bound, loss_bound=3.0) == 3.0
        assert risk_upper_bound([1.0], bound=bound) == 1.0
        assert risk_upper_bound(np.ones(100), bound=bound) == 1.0
    zeros = risk_upper_bound(np.zeros(20), 0.9)
    np.testing.assert_allclose(zeros, 1 - 0.1 ** (1 / 20), rtol=1e-9)
    losses = np.random.default_rng(0).uniform(size=(30, 4)).astype(np.float32)
    strided = np.asfortranarray(np.repeat(losses, 2, axis=1))[:, ::2]
    for bound in BOUNDS:
        np.testing.assert_array_equal(
            risk_upper_bound(strided, bound=bound),
            risk_upper_bound(losses, bound=bound),
        )


@pytest.mark.parametrize("function", [wsr_p_value, risk_upper_bound])
@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([0.1, np.nan], "losses contains NaN"),
        ([0.1, -0.1], r"between 0 and loss_bound=1.0, got values from -0.1 to 0.1"),
        ([0.1, 1.1], "Pass the largest possible loss as loss_bound"),
        ([0.1, np.inf], "between 0 and loss_bound"),
        (np.zeros((2, 2, 2)), r"got shape \(2, 2, 2\)"),
        (np.zeros((2, 0)), "at least one column"),
    ],
)
def test_bad_losses_are_errors(function, losses, message):
    with pytest.raises(ValueError, match=message):
        function(losses, 0.2)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5, np.nan])
def test_bad_risk_levels_are_errors(level):
    for call in (
        lambda: hoeffding_bentkus_p_value(0.1, 10, level),
        lambda: wsr_p_value([0.1], level),
    ):
        with pytest.raises(ValueError, match="risk_level must lie strictly between 0"):
            call()


def test_other_bad_parameters_are_errors():
    with pytest.raises(TypeError, match=r"risk_level must be a real number, got '0.1'"):
        wsr_p_value([0.1], "0.1")
    with pytest.raises(TypeError, match="n must be an integer"):
        hoeffding_bentkus_p_value(0.1, 10.5, 0.2)
    with pytest.raises(ValueError, match="n must be a number of losses >= 0"):
        hoeffding_bentkus_p_value(0.1, -1, 0.2)
    with pytest.raises(ValueError, match="mean_loss contains NaN"):
        hoeffding_bentkus_p_value([np.nan], 10, 0.2)
    with pytest.raises(ValueError, match="mean_loss must lie between 0"):
        hoeffding_bentkus_p_value(1.2, 10, 0.2)
    with pytest.raises(ValueError, match=r"bound='exact' must be one of"):
        risk_upper_bound([0.1], bound="exact")
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        risk_upper_bound([0.1], 1.0)
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="loss_bound must be positive and finite"):
            risk_upper_bound([0.0], loss_bound=bad)
    with pytest.raises(TypeError, match="loss_bound must be a real number"):
        risk_upper_bound([0.0], loss_bound="1")
