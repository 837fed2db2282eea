"""Metrics of quantiles, intervals and probabilities; scorers that rank models."""

from uqlib._core.calibration_error import adaptive_calibration_error
from uqlib.metrics._interval import (
    coverage_score,
    interval_score,
    mean_interval_width,
)
from uqlib.metrics._quantile import (
    crps_from_quantiles,
    pinball_loss,
    quantile_calibration_error,
    weighted_interval_score,
)
from uqlib.metrics._scorers import (
    coverage_scorer,
    neg_crps_scorer,
    neg_interval_score_scorer,
    neg_interval_width_scorer,
    neg_pinball_scorer,
    neg_quantile_calibration_error_scorer,
    neg_weighted_interval_score_scorer,
)

__all__ = [
    "adaptive_calibration_error",
    "coverage_score",
    "coverage_scorer",
    "crps_from_quantiles",
    "interval_score",
    "mean_interval_width",
    "neg_crps_scorer",
    "neg_interval_score_scorer",
    "neg_interval_width_scorer",
    "neg_pinball_scorer",
    "neg_quantile_calibration_error_scorer",
    "neg_weighted_interval_score_scorer",
    "pinball_loss",
    "quantile_calibration_error",
    "weighted_interval_score",
]
