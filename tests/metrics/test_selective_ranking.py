"""Rankings by uncertainty: definitions over pairs and thresholds, and exact levels."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metrics._selective_cases import INF, rankings, same, wrong_answers
from uqlib.metrics._selective import (
    risk_at_coverage,
)
from uqlib.metrics._selective_ranking import (
    error_uncertainty_correlation,
    uncertainty_average_precision,
    uncertainty_fpr_at_tpr,
    uncertainty_roc_auc,
)

# ------------------------------------------------------------- rankings, by definition


@given(wrong_answers())
def test_roc_auc_is_a_share_of_pairs(problem):
    positive, uncertainty = problem
    gap = uncertainty[positive == 1][:, None] - uncertainty[positive == 0]
    expected = ((gap > 0) + (gap == 0) / 2).mean()
    assert same(uncertainty_roc_auc(positive, uncertainty), expected)


@given(wrong_answers())
def test_average_precision_is_a_sum_over_thresholds(problem):
    positive, uncertainty = problem
    expected, recall_before = 0.0, 0.0
    for threshold in np.unique(uncertainty)[::-1]:
        called = uncertainty >= threshold
        recall = positive[called].sum() / positive.sum()
        expected += (recall - recall_before) * positive[called].mean()
        recall_before = recall
    assert same(uncertainty_average_precision(positive, uncertainty), expected)


@given(wrong_answers(), st.integers(1, 20))
def test_fpr_is_the_smallest_of_all_thresholds(problem, step):
    positive, uncertainty = problem
    rates = []
    for threshold in uncertainty:
        called = uncertainty >= threshold
        found = Fraction(int(positive[called].sum()), int(positive.sum()))
        if found >= Fraction(step, 20):
            rates.append((called & (positive == 0)).sum() / (positive == 0).sum())
    found = uncertainty_fpr_at_tpr(positive, uncertainty, tpr=step / 20)
    assert found == min(rates)


@pytest.mark.parametrize("tpr", [0.95, 1 - 0.05, 0.55 + 0.4, np.float32(0.95)])
def test_the_rate_to_reach_is_exact(tpr):
    """19 of 20 positive rows are enough, however the level was computed."""
    positive = np.array([1] * 19 + [0, 1, 0])
    uncertainty = -np.arange(22.0)
    assert uncertainty_fpr_at_tpr(positive, uncertainty, tpr=tpr) == 0.0
    assert uncertainty_fpr_at_tpr(positive, uncertainty, tpr=0.951) == 0.5
    assert uncertainty_fpr_at_tpr(positive, uncertainty, tpr=1) == 0.5


def test_a_rate_met_up_to_rounding_is_met():
    uncertainty = [5, 4, 3, 2, 0, 1]
    positive = [1, 1, 1, 1, 1, 0]
    # float32(0.8) is above 0.8.
    found = uncertainty_fpr_at_tpr(positive, uncertainty, tpr=np.float32(0.8))
    assert found == 0.0
    # 14 weights of 0.1 have a float sum below 0.7 times that of 20.
    positive, weight = np.array([1] * 14 + [0] + [1] * 6), np.full(21, 0.1)
    found = uncertainty_fpr_at_tpr(
        positive, -np.arange(21), tpr=0.7, sample_weight=weight
    )
    assert found == 0.0


def test_the_coverage_is_exact():
    # In floats 10 (1 - 0.7) is above 3, and would keep a part of the fourth row.
    losses = [0, 0, 0, *[INF] * 7]
    assert risk_at_coverage(losses, np.arange(10), 1 - 0.7) == 0.0


@rankings
def test_perfect_rankings(metric):
    positive, uncertainty = [0, 1, 0, 1, 1], [0.1, INF, -INF, 3.0, 2.0]
    best = 0.0 if metric is uncertainty_fpr_at_tpr else 1.0
    assert metric(positive, uncertainty) == best
    negated = [-u for u in uncertainty]
    assert metric([not p for p in positive], negated) == best
    assert abs(metric(positive, negated) - best) > 0.5


def test_correlation_of_monotone_arrays():
    losses = np.random.default_rng(0).exponential(size=30)
    assert error_uncertainty_correlation(losses, losses**3) == pytest.approx(1.0)
    assert error_uncertainty_correlation(losses, -losses) == pytest.approx(-1.0)
    assert error_uncertainty_correlation([0, 1, INF], [-INF, 0, INF]) == 1.0
    # 1 - 6 sum d^2 / (n (n^2 - 1)) without ties.
    order = np.random.default_rng(1).permutation(30)
    squares = ((np.argsort(np.argsort(losses)) - order) ** 2).sum()
    found = error_uncertainty_correlation(losses, order)
    assert same(found, 1 - 6 * squares / (30 * 899))
