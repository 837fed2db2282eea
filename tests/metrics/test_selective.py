"""Selective prediction: identities, extremes over all orders, edge cases."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics._selective_cases import INF, case, every_metric, same, wrong_answers
from uqlib.metrics._selective import (
    coverage_at_risk,
    risk_at_coverage,
    risk_coverage_curve,
)
from uqlib.metrics._selective_areas import (
    accuracy_rejection_auc,
    excess_risk_coverage_auc,
    generalized_risk_coverage_auc,
    risk_coverage_auc,
)
from uqlib.metrics._selective_ranking import (
    uncertainty_average_precision,
    uncertainty_fpr_at_tpr,
    uncertainty_roc_auc,
)
from uqlib.metrics._selective_sparsification import (
    sparsification_curve,
    sparsification_error,
)

# ---------------------------------------------------------------------- by hand


def test_by_hand():
    losses, uncertainty = [0.0, 3.0, 1.0, 4.0], [0.1, 0.2, 0.3, 0.4]
    curve = risk_coverage_curve(losses, uncertainty)
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == [0.0, 1.5, 4 / 3, 2.0]
    assert curve.generalized_risk.tolist() == [0.0, 0.75, 1.0, 2.0]
    assert curve.threshold.tolist() == uncertainty
    assert same(risk_coverage_auc(losses, uncertainty), (1.5 + 4 / 3 + 2) / 4)
    # The best order is 0, 1, 3, 4: risks 0, 1/2, 4/3, 2.
    assert same(excess_risk_coverage_auc(losses, uncertainty), 0.25)
    assert same(sparsification_error(losses, uncertainty), 0.125)
    trapezoids = (0 + 0.375 + 0.875 + 1.5) / 4
    assert same(generalized_risk_coverage_auc(losses, uncertainty), trapezoids)
    assert risk_at_coverage(losses, uncertainty, 0.5) == 1.5
    assert same(risk_at_coverage(losses, uncertainty, 0.625), 3.5 / 2.5)
    assert coverage_at_risk(losses, uncertainty, 1.4) == 0.75
    assert coverage_at_risk(losses, uncertainty, 0.1) == 0.25
    removed, error, oracle = sparsification_curve(losses, uncertainty)
    assert removed.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert error.tolist() == [1.0, 2 / 3, 0.75, 0.0]
    assert oracle.tolist() == [1.0, 2 / 3, 0.25, 0.0]


def test_the_curve_of_many_rows_is_that_of_cumulative_sums():
    rng = np.random.default_rng(0)
    losses, uncertainty = rng.exponential(size=(2, 20_000))
    ordered = losses[np.argsort(uncertainty)]
    risk = np.cumsum(ordered) / np.arange(1, losses.size + 1)
    curve = risk_coverage_curve(losses, uncertainty)
    assert np.allclose(curve.risk, risk, rtol=1e-12, atol=0)
    assert np.array_equal(curve.threshold, np.sort(uncertainty))
    assert same(risk_coverage_auc(losses, uncertainty), risk.mean())


# -------------------------------------------------------------------- identities


@given(wrong_answers())
def test_the_generalized_area_is_one_of_the_roc_curve(problem):
    """AUGRC = e (1 - e) (1 - AUROC) + e^2 / 2, for few rows and with ties."""
    errors, uncertainty = problem
    e = errors.mean()
    auroc = uncertainty_roc_auc(errors, uncertainty)
    expected = e * (1 - e) * (1 - auroc) + e**2 / 2
    assert same(generalized_risk_coverage_auc(errors, uncertainty), expected)


def test_the_same_identity_with_weights():
    errors, uncertainty, weight = case(uncertainty_roc_auc)
    e = np.average(errors, weights=weight)
    auroc = uncertainty_roc_auc(errors, uncertainty, sample_weight=weight)
    found = generalized_risk_coverage_auc(errors, uncertainty, sample_weight=weight)
    assert same(found, e * (1 - e) * (1 - auroc) + e**2 / 2)


@given(wrong_answers())
def test_the_generalized_area_is_a_chance(problem):
    """That of two rows the second is wrong and more certain; a tie is one half."""
    errors, uncertainty = problem
    later = uncertainty[:, None] > uncertainty
    equal = uncertainty[:, None] == uncertainty
    expected = ((later + equal / 2) * errors).mean()
    assert same(generalized_risk_coverage_auc(errors, uncertainty), expected)


def test_the_generalized_area_is_the_area_of_its_curve():
    losses, uncertainty, weight = case(risk_coverage_auc)
    for w in (None, weight):
        curve = risk_coverage_curve(losses, uncertainty, sample_weight=w)
        x = np.concatenate([[0.0], curve.coverage])
        y = np.concatenate([[0.0], curve.generalized_risk])
        found = generalized_risk_coverage_auc(losses, uncertainty, sample_weight=w)
        assert same(found, np.trapezoid(y, x))


@given(wrong_answers())
def test_accuracy_and_risk_are_complementary(problem):
    errors, uncertainty = problem
    found = accuracy_rejection_auc(1 - errors, uncertainty)
    assert same(found, 1 - risk_coverage_auc(errors, uncertainty))
    assert accuracy_rejection_auc(errors == 0, uncertainty) == found


@given(st.integers(1, 40), st.data())
def test_the_best_area_of_wrong_answers(n, data):
    """E errors last: (1 / n) (E - C (1 / (C + 1) + ... + 1 / n)) with C = n - E."""
    e = data.draw(st.integers(0, n))
    c = n - e
    harmonic = sum((Fraction(1, k) for k in range(c + 1, n + 1)), Fraction(0))
    expected = float((e - c * harmonic) / n)
    errors = np.arange(n) >= c
    assert same(risk_coverage_auc(errors, np.arange(n)), expected)
    assert same(risk_coverage_auc(errors, errors), expected)
    assert excess_risk_coverage_auc(errors, np.arange(n)) == pytest.approx(0, abs=1e-15)
    # The formula for many rows is smaller, so that the best has an excess over it.
    if 0 < e < n:
        assert expected > e / n + c / n * np.log(c / n)
    assert same(generalized_risk_coverage_auc(errors, errors), (e / n) ** 2 / 2)


@pytest.mark.parametrize("losses", [[0, 1, 2, 5], [1, 1, 0, 3, 0], [0, 0, 1]], ids=str)
def test_extremes_over_all_orders(losses):
    n = len(losses)
    orders = [np.array(order) for order in permutations(range(n))]
    for area in (risk_coverage_auc, generalized_risk_coverage_auc):
        values = [area(losses, order) for order in orders]
        assert same(area(losses, losses), min(values))
        assert same(area(losses, [-loss for loss in losses]), max(values))
        # No order at all is worth the mean of all orders.
        assert same(area(losses, np.zeros(n)), np.mean(values))
    excesses = [excess_risk_coverage_auc(losses, order) for order in orders]
    assert min(excesses) == pytest.approx(0, abs=1e-15)
    assert min(excesses) >= 0


def test_rounding_makes_no_ranking_better_than_the_best():
    losses = [0.1, 0.2, 0.2, 0.3, 0.3]
    # The tied losses apart, or together: two sums of the same number.
    assert excess_risk_coverage_auc(losses, range(5)) == 0.0
    assert sparsification_error(losses, range(5)) == 0.0


def test_a_constant_uncertainty_knows_nothing():
    losses, _, weight = case(risk_coverage_auc)
    for w in (None, weight):
        constant = np.full(losses.size, 3.0)
        average = np.average(losses, weights=w)
        assert same(risk_coverage_auc(losses, constant, sample_weight=w), average)
        found = generalized_risk_coverage_auc(losses, constant, sample_weight=w)
        assert same(found, average / 2)
        curve = risk_coverage_curve(losses, constant, sample_weight=w)
        assert np.allclose(curve.risk, average, rtol=1e-13, atol=0)
        for coverage in (0.001, 0.3, 1.0):
            found = risk_at_coverage(losses, constant, coverage, sample_weight=w)
            assert same(found, average)
        assert coverage_at_risk(losses, constant, average, sample_weight=w) == 1.0
        below = 0.999 * average
        assert coverage_at_risk(losses, constant, below, sample_weight=w) == 0.0
    errors = losses > 1
    assert uncertainty_roc_auc(errors, constant) == 0.5
    assert same(uncertainty_average_precision(errors, constant), errors.mean())
    assert uncertainty_fpr_at_tpr(errors, constant) == 1.0
    assert same(accuracy_rejection_auc(errors, constant), errors.mean())


def test_single_points_lie_on_the_curve():
    losses, uncertainty, _ = case(risk_coverage_auc)
    curve = risk_coverage_curve(losses, uncertainty)
    n = losses.size
    for k in range(1, n + 1):
        assert same(risk_at_coverage(losses, uncertainty, k / n), curve.risk[k - 1])
    assert same(risk_at_coverage(losses, uncertainty, 1), losses.mean())
    for risk in (0.3, 0.6, 1.0):
        coverage = coverage_at_risk(losses, uncertainty, risk)
        assert risk_at_coverage(losses, uncertainty, coverage) <= risk * (1 + 1e-12)


def test_sparsification_is_the_risk_seen_from_the_other_end():
    losses, uncertainty, weight = case(risk_coverage_auc)
    for w in (None, weight):
        risk = risk_coverage_curve(losses, uncertainty, sample_weight=w)
        plain = sparsification_curve(
            losses, uncertainty, normalize=False, sample_weight=w
        )
        assert np.allclose(plain.removed, 1 - risk.coverage[::-1], rtol=0, atol=1e-15)
        assert np.array_equal(plain.error, risk.risk[::-1])
        average = np.average(losses, weights=w)
        assert same(plain.error[0], average)
        assert same(plain.oracle_error[0], average)
        assert np.all(plain.oracle_error <= plain.error * (1 + 1e-12))
        scaled = sparsification_curve(losses, uncertainty, sample_weight=w)
        assert np.allclose(scaled.error * average, plain.error, rtol=1e-12, atol=0)
        best = plain.oracle_error
        assert np.allclose(scaled.oracle_error * average, best, rtol=1e-12, atol=0)


def test_the_sparsification_error_is_an_area_and_an_excess():
    losses, uncertainty, _ = case(risk_coverage_auc)
    curve = sparsification_curve(losses, uncertainty)
    gap = curve.error - curve.oracle_error
    found = sparsification_error(losses, uncertainty)
    assert same(found, gap.mean())
    # The trapezoidal rule ends one step before all rows are removed.
    assert same(np.trapezoid(gap, curve.removed), found - gap[-1] / (2 * losses.size))
    excess = excess_risk_coverage_auc(losses, uncertainty)
    assert same(sparsification_error(losses, uncertainty, normalize=False), excess)
    assert same(found * losses.mean(), excess)
    assert sparsification_error(losses, losses) == 0.0
    assert sparsification_error(7 * losses, uncertainty) == pytest.approx(found)


def test_the_trapezoidal_areas_of_other_libraries():
    """They leave out the coverages below 1 / n, and divide by 1 - 1 / n."""
    losses, _, _ = case(risk_coverage_auc)
    n = losses.size
    uncertainty = np.random.default_rng(1).permutation(n)
    curve = risk_coverage_curve(losses, uncertainty)
    ends = (curve.risk[0] + curve.risk[-1]) / (2 * n)
    trapezoid = np.trapezoid(curve.risk, curve.coverage)
    assert same(trapezoid, risk_coverage_auc(losses, uncertainty) - ends)
    trapezoid = np.trapezoid(curve.generalized_risk, curve.coverage)
    start = curve.generalized_risk[0] / (2 * n)
    found = generalized_risk_coverage_auc(losses, uncertainty)
    assert same(trapezoid, found - start)


# -------------------------------------------------------------------- edge cases


def test_one_row():
    for loss in (0.0, 2.0):
        assert risk_coverage_auc([loss], [1.0]) == loss
        assert generalized_risk_coverage_auc([loss], [1.0]) == loss / 2
        assert excess_risk_coverage_auc([loss], [1.0]) == 0.0
        assert sparsification_error([loss], [INF]) == 0.0
        assert risk_at_coverage([loss], [1.0], 0.2) == loss
        assert [a.tolist() for a in risk_coverage_curve([loss], [5.0])] == [
            [1.0],
            [loss],
            [loss],
            [5.0],
        ]
    assert accuracy_rejection_auc([True], [0.0]) == 1.0
    assert risk_coverage_auc([2.0], [1.0], sample_weight=[0.1]) == 2.0


@pytest.mark.parametrize("loss", [0.0, 1.0])
def test_no_errors_and_nothing_but_errors(loss):
    losses, uncertainty = np.full(5, loss), np.arange(5.0)
    assert same(risk_coverage_auc(losses, uncertainty), loss)
    assert same(generalized_risk_coverage_auc(losses, uncertainty), loss / 2)
    assert excess_risk_coverage_auc(losses, uncertainty) == 0.0
    assert sparsification_error(losses, uncertainty) == 0.0
    assert coverage_at_risk(losses, uncertainty, 0.0) == 1.0 - loss
    assert same(accuracy_rejection_auc(1 - losses, uncertainty), 1 - loss)
    curve = sparsification_curve(losses, uncertainty)
    assert curve.error.tolist() == curve.oracle_error.tolist() == [loss] * 5


def test_infinite_losses():
    losses, uncertainty = [1.0, INF, 3.0], [0.1, 0.9, 0.5]
    assert risk_coverage_auc(losses, uncertainty) == INF
    assert generalized_risk_coverage_auc(losses, uncertainty) == INF
    curve = risk_coverage_curve(losses, uncertainty)
    assert curve.risk.tolist() == [1.0, 2.0, INF]
    assert risk_at_coverage(losses, uncertainty, 2 / 3) == 2.0
    assert risk_at_coverage(losses, uncertainty, 0.67) == INF
    assert coverage_at_risk(losses, uncertainty, 1e9) == 2 / 3
    assert coverage_at_risk(losses, uncertainty, INF) == 1.0


def test_a_bound_that_is_met_up_to_rounding_is_met():
    # The float sum of three times 0.1 is above 0.3.
    assert coverage_at_risk([0.1, 0.1, 0.1], [1, 2, 3], 0.1) == 1.0
    assert coverage_at_risk([0, 0, 1], [1, 2, 3], 1 / 3) == 1.0
    assert coverage_at_risk([0, 0, 1], [1, 2, 3], 0.3333) == 2 / 3


def test_a_threshold_keeps_tied_rows_all_or_not_at_all():
    assert coverage_at_risk([0, 0, 1, 0], [1, 2, 2, 2], 0.2) == 0.25
    assert coverage_at_risk([0, 0, 1, 0], [1, 2, 2, 2], 0.25) == 1.0
    # The risk may fall again: the largest coverage counts.
    assert coverage_at_risk([1, 0, 0, 0], [1, 2, 3, 4], 0.25) == 1.0
    assert coverage_at_risk([1, 0, 0, 1], [1, 2, 3, 4], 0.4) == 0.75


@every_metric
def test_frames_and_lists_are_taken(metric, df_module):
    values, uncertainty, weight = case(metric)
    expected = metric(values, uncertainty, sample_weight=weight)
    series = [df_module.make_series(array) for array in (values, uncertainty, weight)]
    assert metric(*series[:2], sample_weight=series[2]) == expected
    lists = [array.tolist() for array in (values, uncertainty, weight)]
    assert metric(*lists[:2], sample_weight=lists[2]) == expected
    assert type(expected) is float


@every_metric
def test_float32_and_strides(metric):
    values, uncertainty, _ = case(metric)
    values, uncertainty = values.astype(np.float32), uncertainty.astype(np.float32)
    expected = metric(values.astype(np.float64), uncertainty.astype(np.float64))
    assert metric(values, uncertainty) == expected
    assert metric(np.repeat(values, 2)[::2], np.repeat(uncertainty, 3)[::3]) == expected


@every_metric
def test_the_input_is_not_changed(metric):
    arrays = case(metric)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    metric(*arrays[:2], sample_weight=arrays[2])
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)
