"""Conformal risk control, RCPS, Learn-then-Test: enumeration, identities, edges."""

import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from uqlib._core.ranks import conformal_quantile
from uqlib._core.risk_control import cautious_run, rows_for_risk
from uqlib.conformal import (
    conformal_risk_threshold,
    hoeffding_bentkus_p_value,
    learn_then_test,
    rcps_threshold,
    risk_upper_bound,
    wsr_p_value,
)
from uqlib.exceptions import InfiniteIntervalWarning, RiskNotControlledWarning

DENOMINATOR = 6


def quiet(function, *arguments, **parameters):
    """Call where an infinite answer is expected at times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RiskNotControlledWarning)
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        return function(*arguments, **parameters)


def falling_losses(rng, n, n_thresholds):
    """Rows of sixths that never grow."""
    sixths = rng.integers(0, DENOMINATOR + 1, size=(n, n_thresholds))
    return np.sort(sixths, axis=1)[:, ::-1]


def exact_choice(sixths, level, bound=1):
    """Index of the first column that conformal risk control accepts, or None."""
    n = len(sixths)
    for j, total in enumerate(sixths.sum(axis=0).tolist()):
        if Fraction(total, DENOMINATOR) + bound <= level * (n + 1):
            return j
    return None


@pytest.mark.parametrize("n", [1, 2, 4, 9, 19, 60])
def test_conformal_risk_control_equals_exact_arithmetic(n):
    # Sixths are no binary fractions: their sums tie with the level only up to rounding.
    rng = np.random.default_rng(n)
    thresholds, n_ties = np.arange(25.0), 0
    for _ in range(150):
        sixths = falling_losses(rng, n, thresholds.size)
        level = Fraction(int(rng.integers(1, 60)), 60)
        expected = exact_choice(sixths, level)
        found = quiet(
            conformal_risk_threshold, sixths / DENOMINATOR, thresholds, float(level)
        )
        assert found == (math.inf if expected is None else expected)
        reached = sixths.sum(axis=0) + DENOMINATOR == level * (n + 1) * DENOMINATOR
        n_ties += reached.any()
    assert n_ties > 0 or n < 4


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 59))
def test_expected_loss_is_at_most_the_level_in_every_bag(seed, n, sixtieths):
    # Given the bag of n + 1 rows each is the new one with probability 1 / (n + 1): the
    # expected loss over that choice is exact, and at most the level in every bag. What
    # lies beyond the last column loses nothing.
    level = Fraction(sixtieths, 60)
    sixths = falling_losses(np.random.default_rng(seed), n + 1, 9)
    thresholds, total = np.arange(9.0), Fraction(0)
    for new in range(n + 1):
        rest = np.delete(sixths, new, axis=0) / DENOMINATOR
        found = quiet(conformal_risk_threshold, rest, thresholds, float(level))
        if found < math.inf:
            total += Fraction(int(sixths[new, int(found)]), DENOMINATOR)
    assert total / (n + 1) <= level


@pytest.mark.parametrize("n", [0, 1, 2, 8, 9, 10, 19, 20, 99])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.2, 0.45, 0.9])
def test_miscoverage_gives_the_conformal_quantile(n, level):
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    thresholds = np.arange(0.0, n + 2)
    losses = (scores[:, None] > thresholds).astype(float)
    found = quiet(conformal_risk_threshold, losses, thresholds, level)
    expected = quiet(conformal_quantile, scores, 1 - level)
    # A level that fewer scores than none need is met by the first threshold.
    first = Fraction(str(level)) * (n + 1) >= n + 1
    assert found == (thresholds[0] if first else expected)


@given(st.integers(0, 10**6), st.floats(0.5, 20.0))
def test_scale_order_of_rows_and_direction_do_not_matter(seed, scale):
    rng = np.random.default_rng(seed)
    losses = falling_losses(rng, 30, 12) / DENOMINATOR
    thresholds = np.arange(12.0)
    expected = quiet(conformal_risk_threshold, losses, thresholds, 0.3)
    scaled = quiet(
        conformal_risk_threshold,
        losses * scale,
        thresholds,
        0.3 * scale,
        loss_bound=scale,
    )
    assert scaled == expected
    shuffled = rng.permutation(losses)
    assert quiet(conformal_risk_threshold, shuffled, thresholds, 0.3) == expected
    assert quiet(conformal_risk_threshold, losses, -thresholds, 0.3) == -expected
    bolder = quiet(conformal_risk_threshold, losses, thresholds, 0.5)
    assert bolder <= expected


@pytest.mark.parametrize("unit", [1e-9, 1.7e-9, 3e-12, 1e-300, 1e300])
def test_losses_in_any_unit(unit):
    # Rounding to a denominator of 10^9 would take a level of 6e-10 for one of 1e-9.
    thresholds = np.arange(3.0)
    losses = np.tile([0.65, 0.61, 0.5], (10**4, 1))
    level = {"risk_level": 0.6 * unit, "loss_bound": unit}
    for function in (conformal_risk_threshold, rcps_threshold):
        assert function(losses * unit, thresholds, **level) == 2.0
    assert hoeffding_bentkus_p_value(0.5 * unit, 100, **level) == pytest.approx(
        hoeffding_bentkus_p_value(0.5, 100, 0.6)
    )
    with pytest.warns(RiskNotControlledWarning, match="at least 1 are needed"):
        conformal_risk_threshold(np.zeros((0, 3)), thresholds, **level)


@given(st.integers(0, 10**6), st.sampled_from(["hoeffding_bentkus", "wsr"]))
def test_rcps_is_where_the_upper_bound_stays_below(seed, bound):
    losses = falling_losses(np.random.default_rng(seed), 40, 10) / DENOMINATOR
    thresholds = np.linspace(0, 1, 10)
    upper = risk_upper_bound(losses, 0.8, bound=bound)
    for level in (0.15, 0.3, 0.6):
        parameters = {"confidence_level": 0.8, "bound": bound}
        found = quiet(rcps_threshold, losses, thresholds, level, **parameters)
        safe = [t for j, t in enumerate(thresholds) if (upper[j:] <= level).all()]
        assert found == (safe[0] if safe else math.inf)
        # A fixed sequence from the cautious end is the same test.
        p_values = (
            wsr_p_value(losses, level, confidence_level=0.8)
            if bound == "wsr"
            else hoeffding_bentkus_p_value(losses.mean(axis=0), 40, level)
        )
        valid = learn_then_test(p_values[::-1], 0.8)[::-1]
        assert valid.sum() == len(safe)


def test_a_small_p_value_beyond_a_large_one_certifies_nothing():
    # Bets on the order of the rows: their p-values need not rise along the thresholds.
    p_values = np.array([0.01, 0.1, 0.2, 0.01])
    found = cautious_run(p_values, Fraction(9, 10))
    assert found.tolist() == [True, True, False, False]


def test_rcps_holds_its_level_by_enumeration():
    # Losses 1{u > t} at three thresholds: the counts of the four cells are multinomial.
    n, level, confidence = 25, 0.3, 0.8
    thresholds, choice = np.array([1.0, 2.0, 3.0]), {}
    for risks in ([0.45, 0.35, 0.1], [0.31, 0.3, 0.29], [0.6, 0.301, 0.0]):
        cells = np.array([1 - risks[0], risks[0] - risks[1], risks[1] - risks[2]])
        wrong = 0.0
        for counts in itertools.product(range(n + 1), repeat=3):
            rest = n - sum(counts)
            if rest < 0:
                continue
            chance = math.factorial(n) / math.factorial(rest) * risks[2] ** rest
            for count, cell in zip(counts, cells, strict=True):
                chance *= cell**count / math.factorial(count)
            totals = n - np.cumsum(counts)
            key = tuple(totals.tolist())
            if key not in choice:
                p_values = hoeffding_bentkus_p_value(totals / n, n, level)
                valid = learn_then_test(p_values[::-1], confidence)[::-1]
                choice[key] = int(np.argmax(valid)) if valid.any() else None
            found = choice[key]
            if found is not None and risks[found] > level:
                wrong += chance
        assert wrong <= 1 - confidence
    # The table is that of the function itself.
    for key in [(10, 4, 1), (3, 3, 3), (25, 2, 0)]:
        losses = (np.arange(n)[:, None] < np.array(key)).astype(float)
        found = quiet(
            rcps_threshold, losses, thresholds, level, confidence_level=confidence
        )
        index = choice[key]
        assert found == (math.inf if index is None else thresholds[index])


def slow_holm(p_values, delta):
    found, left = np.zeros(len(p_values), dtype=bool), len(p_values)
    for j in np.argsort(p_values, kind="stable"):
        if p_values[j] > delta / left:
            break
        found[j], left = True, left - 1
    return found


def slow_sequence(p_values, delta, starts):
    found = np.zeros(len(p_values), dtype=bool)
    for start in starts:
        for j in range(start, len(p_values)):
            if p_values[j] > delta / len(starts):
                break
            found[j] = True
    return found


P_VALUES = st.lists(
    st.one_of(st.floats(0, 0.1), st.floats(0, 1)), min_size=1, max_size=20
)


@given(P_VALUES, st.sampled_from([0.8, 0.9, 0.95]))
def test_learn_then_test_equals_the_loops(p_values, confidence):
    delta, m = float(1 - Fraction(str(confidence))), len(p_values)
    holm = learn_then_test(p_values, confidence, method="holm")
    np.testing.assert_array_equal(holm, slow_holm(p_values, delta))
    bonferroni = learn_then_test(p_values, confidence, method="bonferroni")
    np.testing.assert_array_equal(bonferroni, np.array(p_values) <= delta / m)
    assert (bonferroni <= holm).all()
    for n_starts in {1, (m + 1) // 2, m}:
        starts = [k * m // n_starts for k in range(n_starts)]
        found = learn_then_test(p_values, confidence, n_starts=n_starts)
        np.testing.assert_array_equal(found, slow_sequence(p_values, delta, starts))
    # As many starts as parameters: every one stands alone.
    np.testing.assert_array_equal(
        learn_then_test(p_values, confidence, n_starts=m), bonferroni
    )


@given(P_VALUES, st.randoms())
def test_only_a_fixed_sequence_depends_on_the_order(p_values, random):
    order = random.sample(range(len(p_values)), len(p_values))
    for method in ("holm", "bonferroni"):
        found = learn_then_test(p_values, method=method)
        shuffled = learn_then_test(np.array(p_values)[order], method=method)
        assert found.sum() == shuffled.sum()
        assert set(np.array(p_values)[found]) == set(
            np.array(p_values)[order][shuffled]
        )


@pytest.mark.parametrize("method", ["fixed_sequence", "holm", "bonferroni"])
def test_family_wise_error_is_held_over_replications(method):
    # Losses that are no monotone function of the parameter: eight of twenty risks are
    # just above the level. Twelve binomial counts would do, but rows are correlated.
    rng, n, n_replications = np.random.default_rng(7), 80, 1000
    phase = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    risks = (
        0.15
        + 0.1 * np.cos(phase) * (np.cos(phase) < 0)
        + 0.055 * (np.cos(phase) >= 0.3)
    )
    wrong = 0
    starts = 4 if method == "fixed_sequence" else 1
    for _ in range(n_replications):
        losses = rng.uniform(size=(n, 1)) < risks
        p_values = hoeffding_bentkus_p_value(losses.mean(axis=0), n, 0.2)
        valid = learn_then_test(p_values, 0.8, method=method, n_starts=starts)
        wrong += (risks[valid] > 0.2).any()
    assert wrong <= binom.isf(1e-6, n_replications, 0.2)


@pytest.mark.parametrize("n", [20, 200])
def test_conformal_risk_control_holds_its_level_over_replications(n):
    # Loss (u - t)_+ with u uniform: the risk (1 - t)^2 / 2 is known at the threshold.
    rng, level = np.random.default_rng(n), 0.1
    thresholds = np.linspace(0, 1, 501)
    draws = rng.uniform(size=(1000, n, 1))
    risks = []
    for u in draws:
        losses = np.maximum(u - thresholds, 0)
        t = conformal_risk_threshold(losses, thresholds, level)
        risks.append((1 - t) ** 2 / 2)
    error = np.std(risks) / np.sqrt(len(risks))
    # One side fails once in a million; from below the theorem for continuous losses.
    assert np.mean(risks) <= level + 4.8 * error
    assert np.mean(risks) >= level - 2 / (n + 1) - 4.8 * error


@pytest.mark.parametrize("bound", ["hoeffding_bentkus", "wsr"])
def test_rcps_holds_its_level_over_replications(bound):
    rng, n, level, confidence = np.random.default_rng(5), 100, 0.1, 0.8
    thresholds = np.linspace(0, 1, 41)
    risks = []
    for _ in range(1000):
        losses = np.maximum(rng.uniform(size=(n, 1)) - thresholds, 0)
        t = rcps_threshold(
            losses, thresholds, level, confidence_level=confidence, bound=bound
        )
        risks.append((1 - t) ** 2 / 2)
    wrong = int((np.array(risks) > level).sum())
    assert wrong <= binom.isf(1e-6, 1000, 1 - confidence)
    assert np.mean(risks) > level / 3  # not by the empty promise of a tiny risk


def test_no_threshold_will_do():
    losses = np.zeros((8, 3))
    with pytest.warns(RiskNotControlledWarning) as caught:
        found = conformal_risk_threshold(losses, [1, 2, 3], 0.1)
    assert found == math.inf
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "at least 9 are needed even if no row loses" in str(caught[0].message)
    assert conformal_risk_threshold(np.zeros((9, 3)), [1, 2, 3], 0.1) == 1
    with pytest.warns(RiskNotControlledWarning, match="too large at every threshold"):
        assert conformal_risk_threshold(np.ones((50, 2)), [0.9, 0.1], 0.1) == -math.inf
    with pytest.warns(RiskNotControlledWarning, match="at least 22 are needed"):
        assert rcps_threshold(losses, [3, 2, 1], 0.1) == -math.inf
    assert rcps_threshold(np.zeros((22, 3)), [3, 2, 1], 0.1) == 3
    with pytest.warns(RiskNotControlledWarning, match="by 0 calibration rows"):
        assert conformal_risk_threshold(np.zeros((0, 1)), [0.5], 0.4) == math.inf
    with pytest.warns(RiskNotControlledWarning):
        assert rcps_threshold(np.zeros((0, 1)), [0.5], 0.4) == math.inf


@pytest.mark.parametrize("bound", ["hoeffding_bentkus", "wsr"])
@pytest.mark.parametrize("level", [Fraction(1, 10), Fraction(1, 3), Fraction(1, 2)])
def test_rows_needed_are_needed(level, bound):
    confidence = Fraction(9, 10)
    needed = rows_for_risk(level, 2.0, confidence, bound)
    p_value = {"hoeffding_bentkus": _zeros_hoeffding, "wsr": _zeros_wsr}[bound]
    assert p_value(needed - 1, float(level)) > 0.1
    if bound == "hoeffding_bentkus":  # and enough
        assert p_value(needed, float(level)) <= 0.1
    assert rows_for_risk(level, 2.0) == math.ceil(2 / level) - 1


def _zeros_hoeffding(n, level):
    return hoeffding_bentkus_p_value(0.0, n, level, loss_bound=2.0)


def _zeros_wsr(n, level):
    return wsr_p_value(np.zeros(n), level, loss_bound=2.0)


@pytest.mark.parametrize("function", [conformal_risk_threshold, rcps_threshold])
@pytest.mark.parametrize(
    ("losses", "thresholds", "message"),
    [
        ([[0.1, 0.5]], [1, 2], r"must not grow .* use learn_then_test"),
        ([[0.5, 0.1]], [1, 1], "strictly increasing or strictly decreasing"),
        ([[0.5, 0.2, 0.1]], [1, 3, 2], "strictly increasing or strictly decreasing"),
        ([[0.5, 0.1]], [1, np.nan], "thresholds contains NaN"),
        ([[0.5, np.nan]], [1, 2], "losses contains NaN"),
        ([[1.5, 0.1]], [1, 2], "between 0 and loss_bound"),
        ([[0.5, -0.1]], [1, 2], "between 0 and loss_bound"),
        ([[0.5, 0.1]], [1, 2, 3], r"one column a threshold, got shape \(1, 2\)"),
        ([0.5, 0.1], [1, 2], "one column a threshold"),
    ],
)
def test_bad_families_are_errors(function, losses, thresholds, message):
    with pytest.raises(ValueError, match=message):
        function(losses, thresholds, 0.2)


def test_rounding_is_no_growth():
    losses = np.array([[0.3, 0.1 + 0.2 + 1e-17, 0.0]] * 30)
    losses[:, 1] = 0.1 + 0.2  # a unit in the last place above 0.3
    assert losses[0, 1] > losses[0, 0]
    assert conformal_risk_threshold(losses, [1, 2, 3], 0.1) == 3


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, np.nan])
def test_bad_levels_are_errors(level):
    for function in (conformal_risk_threshold, rcps_threshold):
        with pytest.raises(ValueError, match="risk_level must lie strictly between"):
            function([[0.5, 0.1]], [1, 2], level)
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        rcps_threshold([[0.5, 0.1]], [1, 2], 0.2, confidence_level=level)
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        learn_then_test([0.1], level)


def test_bad_tests_are_errors():
    with pytest.raises(ValueError, match=r"method='bh' must be one of"):
        learn_then_test([0.1], method="bh")
    with pytest.raises(ValueError, match=r"p_values must lie in \[0, 1\]"):
        learn_then_test([0.1, 1.1])
    with pytest.raises(ValueError, match="p_values contains NaN"):
        learn_then_test([np.nan])
    with pytest.raises(ValueError, match="n_starts=3 must lie between 1 and"):
        learn_then_test([0.1, 0.1], n_starts=3)
    with pytest.raises(TypeError, match="n_starts must be an integer"):
        learn_then_test([0.1, 0.1], n_starts=1.0)
    with pytest.raises(ValueError, match="bound='normal' must be one of"):
        rcps_threshold([[0.5, 0.1]], [1, 2], 0.2, bound="normal")
    for method in ("fixed_sequence", "holm", "bonferroni"):
        assert learn_then_test([], method=method).shape == (0,)
