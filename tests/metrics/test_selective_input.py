"""Metrics of ranked rows: invariances, containers, and every error."""

import re

import numpy as np
import pandas as pd
import pytest

from tests.metrics._selective_cases import (
    AREAS,
    COUNTING,
    FREE,
    INF,
    OF_LOSSES,
    RANKINGS,
    at_70_percent,
    case,
    every_metric,
    metrics_of_labels,
    metrics_of_losses,
    rankings,
    same,
)
from uqlib.metrics._selective import (
    coverage_at_risk,
    risk_at_coverage,
    risk_coverage_curve,
)
from uqlib.metrics._selective_areas import (
    accuracy_rejection_auc,
    excess_risk_coverage_auc,
    risk_coverage_auc,
)
from uqlib.metrics._selective_ranking import (
    error_uncertainty_correlation,
    uncertainty_fpr_at_tpr,
)
from uqlib.metrics._selective_sparsification import (
    sparsification_curve,
    sparsification_error,
)

# -------------------------------------------------------------------- invariances


@every_metric
def test_only_the_order_of_the_uncertainty_matters(metric):
    values, uncertainty, _ = case(metric)
    expected = metric(values, uncertainty)
    assert metric(values, np.exp(uncertainty) - 5) == expected
    largest = np.where(uncertainty == uncertainty.max(), INF, uncertainty)
    smallest = np.where(largest == largest.min(), -INF, largest)
    assert metric(values, smallest) == expected


@every_metric
def test_the_order_of_the_rows_does_not_matter(metric):
    values, uncertainty, weight = case(metric)
    rows = np.random.default_rng(1).permutation(values.size)
    assert same(metric(values[rows], uncertainty[rows]), metric(values, uncertainty))
    found = metric(values[rows], uncertainty[rows], sample_weight=weight[rows])
    assert same(found, metric(values, uncertainty, sample_weight=weight))


@every_metric
def test_integer_weights_are_repeated_rows(metric):
    values, uncertainty, _ = case(metric)
    counts = np.random.default_rng(0).integers(0, 4, values.size)
    rows = np.repeat(np.arange(values.size), counts)
    found = metric(values, uncertainty, sample_weight=counts)
    assert same(found, metric(values[rows], uncertainty[rows]))


@every_metric
def test_equal_weights_are_none(metric):
    values, uncertainty, _ = case(metric)
    found = metric(values, uncertainty, sample_weight=np.ones(values.size))
    assert same(found, metric(values, uncertainty))


@pytest.mark.parametrize("metric", FREE)
@pytest.mark.parametrize("scale", [1e-9, 0.3, 1e6])
def test_the_scale_of_the_weights_does_not_matter(metric, scale):
    values, uncertainty, weight = case(metric)
    expected = metric(values, uncertainty, sample_weight=weight)
    assert same(metric(values, uncertainty, sample_weight=scale * weight), expected)


@every_metric
def test_rows_of_weight_zero_have_no_say(metric):
    values, uncertainty, weight = case(metric)
    weight[:4] = 0.0
    changed = uncertainty.copy()
    changed[:4] = [INF, -INF, 1e9, 0.0]
    if metric in OF_LOSSES:
        values[:4] = [INF, 0.0, 1e100, INF]
    found = metric(values, changed, sample_weight=weight)
    assert same(found, metric(values[4:], uncertainty[4:], sample_weight=weight[4:]))


def test_the_curves_of_weighted_rows():
    losses, uncertainty, weight = case(risk_coverage_auc)
    weight[:4] = 0.0
    curve = risk_coverage_curve(losses, uncertainty, sample_weight=weight)
    assert {array.size for array in curve} == {losses.size - 4}
    assert curve.coverage[-1] == 1.0
    assert np.all(np.diff(curve.coverage) > 0)
    product = curve.coverage * curve.risk
    assert np.allclose(curve.generalized_risk, product, rtol=1e-12, atol=0)
    # Where a tie ends, the curve is that of a threshold.
    for threshold in np.unique(uncertainty[4:]):
        kept = (uncertainty <= threshold) & (weight > 0)
        last = np.flatnonzero(curve.threshold == threshold)[-1]
        assert same(curve.coverage[last], weight[kept].sum() / weight.sum())
        expected = np.average(losses[kept], weights=weight[kept])
        assert same(curve.risk[last], expected)
    removed = sparsification_curve(losses, uncertainty, sample_weight=weight).removed
    assert removed[0] == 0.0
    assert np.all(np.diff(removed) > 0)


# ---------------------------------------------------------------------- bad input


def refuses(message, metric, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        metric(*args, **kwargs)


def first_name(metric):
    if metric in RANKINGS:
        return "is_positive"
    return "correct" if metric is accuracy_rejection_auc else "losses"


@every_metric
def test_nan_uncertainty(metric):
    refuses(
        "uncertainty contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not.",
        metric,
        [0, 1],
        [np.nan, 1.0],
    )


@metrics_of_losses
def test_nan_losses(metric):
    refuses(
        "losses contains NaN. Remove or impute those rows; infinite values are legal, "
        "NaN is not.",
        metric,
        [np.nan, 1.0],
        [0.0, 1.0],
        sample_weight=[0.0, 2.0],
    )


@metrics_of_losses
def test_negative_losses(metric):
    refuses(
        "losses must be at least 0, got -0.5. Pass absolute or squared errors, or 0 "
        "and 1 for right and wrong; where a loss has another lower bound, subtract it.",
        metric,
        [-0.5, 1.0],
        [0.0, 1.0],
    )


@metrics_of_labels
@pytest.mark.parametrize("missing", [None, pd.NA, np.nan])
def test_labels_that_are_missing(metric, missing):
    labels = pd.Series([True, False, missing], dtype="boolean")
    for values in (labels, np.array([True, False, missing], dtype=object)):
        refuses(
            f"{first_name(metric)} has missing values. Remove those rows.",
            metric,
            values,
            [0.0, 1.0, 2.0],
        )


@metrics_of_labels
@pytest.mark.parametrize("bad", [2, 0.5, np.nan, -1, "yes"])
def test_labels_of_other_kinds(metric, bad):
    refuses(
        f"{first_name(metric)} must hold booleans, or 0 and 1, got "
        f"{bad!r}. Compare to make it so: y_pred == y_true, or score > "
        "threshold.",
        metric,
        [bad, bad],
        [0.0, 1.0],
    )


@every_metric
def test_arrays_that_are_not_one_dimensional(metric):
    for values, uncertainty, name in (
        ([[0], [1]], [0.0, 1.0], first_name(metric)),
        ([0, 1], [[0.0], [1.0]], "uncertainty"),
    ):
        refuses(
            f"{name} must be 1-D, got an array of shape (2, 1). Flatten a column with "
            ".ravel().",
            metric,
            values,
            uncertainty,
        )


@every_metric
def test_other_numbers_of_rows(metric):
    reference = first_name(metric)
    refuses(
        f"uncertainty has 3 rows but {reference} has 2: pass arrays over the same "
        "rows.",
        metric,
        [0, 1],
        [0.0, 1.0, 2.0],
    )
    refuses(f"{reference} is empty: at least one row is needed.", metric, [], [])


@every_metric
@pytest.mark.parametrize("weight", [[-1.0, 4.0], [0.0, 0.0], [np.nan, 1.0]], ids=str)
def test_weights_out_of_range(metric, weight):
    refuses(
        "sample_weight must be finite and non-negative with at least one non-zero "
        f"weight, got values from {np.min(weight)} to {np.max(weight)}.",
        metric,
        [0, 1],
        [0.0, 1.0],
        sample_weight=weight,
    )


@pytest.mark.parametrize("metric", COUNTING)
def test_weights_that_count_no_rows(metric):
    values, uncertainty, weight = case(metric)
    refuses(
        "sample_weight counts rows here, but it sums to 1 over 60 rows. Scale weights "
        "that are no counts to mean 1: sample_weight / sample_weight.mean().",
        metric,
        values,
        uncertainty,
        sample_weight=weight / weight.sum(),
    )


@pytest.mark.parametrize(
    "metric", [excess_risk_coverage_auc, sparsification_error, sparsification_curve]
)
def test_differences_of_infinite_areas(metric):
    refuses(
        "losses contains infinity, and two infinite areas have no difference. Clip "
        "the losses at a bound, or use risk_coverage_auc, which is infinite.",
        metric,
        [1.0, INF],
        [0.0, 1.0],
    )


@pytest.mark.parametrize("metric", [*AREAS, at_70_percent, risk_coverage_curve])
def test_sums_beyond_the_largest_float(metric):
    refuses(
        "losses up to 1e+308 with weights of sum 2 have sums beyond the largest "
        "float. Divide the losses by their maximum.",
        metric,
        [1e308, 1.0],
        [0.0, 1.0],
    )


@metrics_of_losses
def test_dates(metric):
    dates = np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]")
    for args, name in (
        ((dates, [0.0, 1.0]), "losses"),
        (([0.0, 1.0], dates), "uncertainty"),
    ):
        refuses(
            f"{name} holds dates or durations. Convert it to numbers in a unit of "
            "your choice, and remove the missing ones.",
            metric,
            *args,
        )


@rankings
@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_one_kind_alone(metric, kind):
    message = (
        f"is_positive has no {kind} row of positive weight among 3, and rates are "
        "shares of both kinds. Add such rows, or use risk_coverage_auc, which is "
        "defined without errors too."
    )
    label = int(kind == "negative")
    refuses(message, metric, [label] * 3, [0.0, 1.0, 2.0])
    rows = [label] * 3 + [1 - label]
    refuses(message, metric, rows, np.arange(4.0), sample_weight=[1, 1, 1, 0])


@pytest.mark.parametrize("name", ["losses", "uncertainty"])
def test_the_correlation_with_a_constant(name):
    message = (
        f"{name} is constant over the 3 rows, and a correlation with a constant is not "
        "defined. Use sparsification_error, which is."
    )
    for arrays in ([1, 1, 1], [0, 1, 2]), ([5, 1, 1], [3, 1, 2]):
        if name == "uncertainty":
            arrays = arrays[::-1]
        weight = [0, 1, 1]
        refuses(message, error_uncertainty_correlation, *arrays, sample_weight=weight)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, 95, np.nan])
def test_shares_out_of_range(share):
    refuses(
        f"coverage must lie in (0, 1], got {share!r}. Pass 0.8 to keep 80 % of the "
        "rows.",
        risk_at_coverage,
        [0, 1],
        [0, 1],
        share,
    )
    refuses(
        f"tpr must lie in (0, 1], got {share!r}. Pass 0.95 to find 95 % of the "
        "positive rows.",
        uncertainty_fpr_at_tpr,
        [0, 1],
        [0, 1],
        tpr=share,
    )


@pytest.mark.parametrize("risk", [-0.1, np.nan])
def test_a_risk_below_zero(risk):
    refuses(
        f"risk must be at least 0, in units of the losses, got {risk!r}. Pass 0.05 for "
        "an error rate of 5 %.",
        coverage_at_risk,
        [0, 1],
        [0, 1],
        risk,
    )


@pytest.mark.parametrize("value", [True, None, "0.9"])
def test_parameters_that_are_no_numbers(value):
    got = f"got {value!r} of type {type(value).__name__}."
    for message, metric, kwargs in (
        ("coverage must be a real number in (0, 1], ", risk_at_coverage, "coverage"),
        ("tpr must be a real number in (0, 1], ", uncertainty_fpr_at_tpr, "tpr"),
        ("risk must be a real number of at least 0, ", coverage_at_risk, "risk"),
    ):
        named = {kwargs: value}
        refuses(message + got, metric, [0, 1], [0, 1], error=TypeError, **named)
