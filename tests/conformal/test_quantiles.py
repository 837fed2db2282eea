"""ConformalQuantiles: ranks by enumeration, laws, the outward envelope."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta, kstest

from uqlib import ConformalQuantiles, InfiniteIntervalWarning, crossing_rate

RNG = np.random.default_rng(0)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
Q = np.sort(RNG.normal(size=(99, 5)), axis=1)
Y = RNG.normal(size=99)


def order_statistic(scores, rank):
    return [-math.inf, *sorted(scores), math.inf][rank]


@pytest.mark.parametrize("n", [19, 20, 50, 99])
def test_each_level_gets_its_own_rank(n):
    step = ConformalQuantiles(quantiles=LEVELS).fit(Q[:n], Y[:n])
    for column, level in enumerate(LEVELS):
        scores = Y[:n] - Q[:n, column]
        product = (n + 1) * Fraction(str(level))
        if level > 0.5:
            expected = order_statistic(scores, math.ceil(product))
        elif level < 0.5:
            expected = order_statistic(scores, math.floor(product))
        else:
            expected = np.median(scores)
        assert step.threshold_[column] == expected
    assert step.n_calibration_ == n


@pytest.mark.parametrize("n", [19, 20, 99])
def test_each_pair_gets_its_own_rank(n):
    step = ConformalQuantiles(quantiles=LEVELS, symmetric=True).fit(Q[:n], Y[:n])
    for low, level in [(0, "0.9"), (1, "0.5")]:
        scores = np.maximum(Q[:n, low] - Y[:n], Y[:n] - Q[:n, 4 - low])
        expected = order_statistic(scores, math.ceil((n + 1) * Fraction(level)))
        assert step.threshold_[4 - low] == expected == -step.threshold_[low]
    assert step.threshold_[2] == 0.0


def test_without_crossing_the_rows_are_shifted():
    step = ConformalQuantiles(quantiles=LEVELS).fit(Q, Y)
    wide = np.array([[-100.0, -50.0, 0.0, 50.0, 100.0]])
    result = step.transform(wide)
    np.testing.assert_allclose(result, wide + step.threshold_, rtol=1e-14)
    # Rounded outwards, never inwards.
    assert (result[:, :2] <= (wide + step.threshold_)[:, :2]).all()
    assert (result[:, 3:] >= (wide + step.threshold_)[:, 3:]).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_tied_decimals_stay_on_the_right_side(symmetric):
    rng = np.random.default_rng(0)
    y = np.where(rng.random(999) < 0.7, 0.1, rng.integers(-50, 50, 999) / 10)
    rows = np.tile([-1 / 3, 0.7 / 3], (999, 1))
    step = ConformalQuantiles(quantiles=(0.3, 0.7), symmetric=symmetric).fit(rows, y)
    low, high = step.transform(rows).T
    assert np.mean((low <= y) & (y <= high)) >= 0.4
    if not symmetric:
        assert np.mean(y <= high) >= 0.7
        assert np.mean(y < low) <= 0.3


def test_a_median_between_infinities_stays():
    rows = np.array([[-np.inf] * 3, [np.inf] * 3])
    with pytest.warns(InfiniteIntervalWarning):
        step = ConformalQuantiles(quantiles=(0.1, 0.5, 0.9)).fit(rows, [0.0, 0.0])
    np.testing.assert_array_equal(step.threshold_, [-np.inf, 0.0, np.inf])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("levels", [LEVELS, (0.05, 0.25, 0.75, 0.95)])
def test_the_envelope_only_enlarges(symmetric, levels):
    columns = [LEVELS.index(level) for level in levels]
    step = ConformalQuantiles(quantiles=levels, symmetric=symmetric)
    step.fit(Q[:, columns], Y)
    rows = RNG.normal(size=(500, len(levels)))  # rows that cross wildly
    shifted, result = rows + step.threshold_, step.transform(rows)
    lower, upper = np.array(levels) < 0.5, np.array(levels) > 0.5
    assert (result[:, lower] <= shifted[:, lower]).all()
    assert (result[:, upper] >= shifted[:, upper]).all()
    assert crossing_rate(result) == 0.0


def test_one_sided_levels_have_their_exact_laws():
    # With quantiles 0 and y uniform, a calibrated level is an order statistic of y.
    n, levels = 39, (0.1, 0.9)
    calibrated = []
    for _ in range(2000):
        step = ConformalQuantiles(quantiles=levels)
        step.fit(np.zeros((n, 2)), RNG.uniform(size=n))
        calibrated.append(step.threshold_)
    low, high = np.array(calibrated).T
    assert kstest(low, beta(4, 36).cdf).pvalue > 5e-7  # floor(40 * 0.1) = 4
    assert kstest(high, beta(36, 4).cdf).pvalue > 5e-7  # ceil(40 * 0.9) = 36


@pytest.mark.parametrize("symmetric", [False, True])
def test_too_few_rows_give_infinite_ends_and_one_warning(symmetric):
    step = ConformalQuantiles(quantiles=LEVELS, symmetric=symmetric)
    needed = 9 if symmetric else 19
    with pytest.warns(InfiniteIntervalWarning) as caught:
        step.fit(Q[: needed - 1], Y[: needed - 1])
    assert len(caught) == 1
    assert f"at least {needed} are needed" in str(caught[0].message)
    result = step.transform(Q)
    assert np.isneginf(result[:, 0]).all()
    assert np.isposinf(result[:, -1]).all()
    assert np.isfinite(result[:, 1:-1]).all()
    assert np.isfinite(step.fit(Q[:needed], Y[:needed]).transform(Q)).all()


def test_infinite_quantiles_pass_and_never_become_nan():
    rows = Q.copy()
    rows[::2, 0], rows[::3, -1] = -np.inf, np.inf
    result = ConformalQuantiles(quantiles=LEVELS).fit(rows, Y).transform(rows)
    assert not np.isnan(result).any()
    assert np.isneginf(result[::2, 0]).all()
    assert np.isposinf(result[::3, -1]).all()
    # Even columns that are infinite on the wrong side have a defined result.
    wrong = np.tile([np.inf, -np.inf], (40, 1))
    step = ConformalQuantiles(quantiles=(0.1, 0.9)).fit(wrong, Y[:40])
    assert not np.isnan(step.transform(wrong)).any()


def test_levels_come_from_the_names(df_module):
    names = [f"q{level}" for level in LEVELS]
    frame = df_module.make_dataframe(dict(zip(names, Q.T, strict=True)))
    step = ConformalQuantiles().set_output(transform=df_module.name).fit(frame, Y)
    np.testing.assert_array_equal(step.quantiles_, LEVELS)
    result = step.transform(frame)
    assert df_module.column_names(result) == names
    by_hand = ConformalQuantiles(quantiles=LEVELS).fit(Q, Y).transform(Q)
    np.testing.assert_array_equal(df_module.to_numpy(result), by_hand)


def test_names_that_contradict_the_levels(df_module):
    names = [f"q{level}" for level in LEVELS]
    frame = df_module.make_dataframe(dict(zip(names, Q.T, strict=True)))
    with pytest.raises(ValueError, match="contradicts the names of the columns"):
        ConformalQuantiles(quantiles=(0.1, 0.25, 0.5, 0.75, 0.9)).fit(frame, Y)


def test_levels_that_are_not_to_be_had():
    message = "quantiles=None, and the columns have no names like q0.05"
    with pytest.raises(ValueError, match=re.escape(message)):
        ConformalQuantiles().fit(Q, Y)
    message = "quantiles has 2 levels but X has 5 columns"
    with pytest.raises(ValueError, match=re.escape(message)):
        ConformalQuantiles(quantiles=(0.1, 0.9)).fit(Q, Y)
    message = "symmetric=True needs the level 1 - tau for every level tau"
    with pytest.raises(ValueError, match=re.escape(message)):
        ConformalQuantiles(quantiles=(0.1, 0.5), symmetric=True).fit(Q[:, :2], Y)


def test_bad_rows():
    step = ConformalQuantiles(quantiles=LEVELS)
    with_nan = Q.copy()
    with_nan[0, 0] = np.nan
    with pytest.raises(ValueError, match=re.escape("Input X contains NaN.")):
        step.fit(with_nan, Y)
    with pytest.raises(ValueError, match=re.escape("Input X contains NaN.")):
        step.fit(Q, Y).transform(with_nan)
    with pytest.raises(ValueError, match="Input y contains"):
        step.fit(Q, np.where(Y > 1, np.inf, Y))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        step.fit(Q, Y[1:])
    with pytest.raises(ValueError, match="requires y to be passed"):
        step.fit(Q, None)
    with pytest.raises(ValueError, match=re.escape("0 sample(s)")):
        step.fit(Q[:0], Y[:0])


def test_nothing_that_was_passed_changes():
    rows, target = Q.copy(), Y.copy()
    rows.flags.writeable = target.flags.writeable = False
    ConformalQuantiles(quantiles=LEVELS).fit(rows, target).transform(rows)
