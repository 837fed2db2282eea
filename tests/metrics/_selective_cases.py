"""Metrics of ranked rows, in groups of like signature, and data for all of them."""

import numpy as np
import pytest
from hypothesis import strategies as st

from uqlib.metrics._selective import (
    coverage_at_risk,
    risk_at_coverage,
)
from uqlib.metrics._selective_areas import (
    accuracy_rejection_auc,
    excess_risk_coverage_auc,
    generalized_risk_coverage_auc,
    risk_coverage_auc,
)
from uqlib.metrics._selective_ranking import (
    error_uncertainty_correlation,
    uncertainty_average_precision,
    uncertainty_fpr_at_tpr,
    uncertainty_roc_auc,
)
from uqlib.metrics._selective_sparsification import (
    sparsification_error,
)

INF = np.inf


def at_70_percent(losses, uncertainty, sample_weight=None):
    return risk_at_coverage(losses, uncertainty, 0.7, sample_weight=sample_weight)


def at_risk_half(losses, uncertainty, sample_weight=None):
    return coverage_at_risk(losses, uncertainty, 0.5, sample_weight=sample_weight)


AREAS = [risk_coverage_auc, excess_risk_coverage_auc, sparsification_error]
COUNTING = [*AREAS, accuracy_rejection_auc]
RANKINGS = [
    uncertainty_roc_auc,
    uncertainty_average_precision,
    uncertainty_fpr_at_tpr,
]
# What takes weights of any scale.
FREE = [
    generalized_risk_coverage_auc,
    at_70_percent,
    at_risk_half,
    error_uncertainty_correlation,
    *RANKINGS,
]
OF_LOSSES = [
    *AREAS,
    generalized_risk_coverage_auc,
    at_70_percent,
    at_risk_half,
    error_uncertainty_correlation,
]
OF_LABELS = [accuracy_rejection_auc, *RANKINGS]
every_metric = pytest.mark.parametrize("metric", [*COUNTING, *FREE])
metrics_of_losses = pytest.mark.parametrize("metric", OF_LOSSES)
metrics_of_labels = pytest.mark.parametrize("metric", OF_LABELS)
rankings = pytest.mark.parametrize("metric", RANKINGS)


def case(metric, n=60, seed=0):
    """Losses (or labels), uncertainties with ties, and weights of mean 1."""
    rng = np.random.default_rng(seed)
    losses = rng.exponential(size=n)
    uncertainty = np.round(losses + rng.normal(size=n), 1)
    weight = rng.exponential(size=n)
    values = (losses > 0.7).astype(float) if metric in OF_LABELS else losses
    return values, uncertainty, weight / weight.mean()


def same(found, expected):
    return found == pytest.approx(expected, rel=1e-12, abs=1e-14)


@st.composite
def wrong_answers(draw, max_rows=12):
    """0/1 losses, both kinds, with uncertainties that tie."""
    rows = st.tuples(st.integers(0, 1), st.integers(0, 4))
    table = draw(st.lists(rows, max_size=max_rows - 2))
    table += [(0, draw(st.integers(0, 4))), (1, draw(st.integers(0, 4)))]
    errors, uncertainty = zip(*draw(st.permutations(table)), strict=True)
    return np.array(errors), np.array(uncertainty)
