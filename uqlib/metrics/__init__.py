"""Metrics of quantiles, intervals, sets, probabilities and of uncertainty itself."""

from uqlib._core.calibration_error import adaptive_calibration_error
from uqlib.metrics._calibration import (
    CalibrationBins,
    calibration_bins,
    expected_calibration_error,
)
from uqlib.metrics._calibration_smooth import (
    smooth_calibration_error,
)
from uqlib.metrics._conditional import (
    GroupCoverage,
    StratifiedCoverage,
    group_coverage,
    group_coverage_gap,
    size_stratified_coverage,
    stratified_coverage,
)
from uqlib.metrics._distribution import (
    crps_from_ensemble,
    crps_from_gaussian,
    gaussian_negative_log_likelihood,
)
from uqlib.metrics._information import (
    ensemble_disagreement,
    expected_entropy,
    mutual_information,
    predictive_entropy,
    variation_ratio,
)
from uqlib.metrics._information_variance import (
    variance_decomposition,
)
from uqlib.metrics._interval import (
    coverage_score,
    covered_by_interval,
    interval_score,
    mean_interval_width,
)
from uqlib.metrics._interval_width import (
    coverage_width_criterion,
    infinite_interval_share,
    interval_widths,
    normalized_interval_width,
)
from uqlib.metrics._proba import (
    brier_score,
    negative_log_likelihood,
)
from uqlib.metrics._proba_scorers import (
    log_likelihood_scorer,
    neg_brier_scorer,
    neg_expected_calibration_error_scorer,
)
from uqlib.metrics._quantile import (
    crps_from_quantiles,
    pinball_loss,
    quantile_calibration_error,
    weighted_interval_score,
)
from uqlib.metrics._regression_calibration import (
    adversarial_group_calibration_error,
    gaussian_quantiles,
    miscalibration_area,
    quantile_calibration_curve,
)
from uqlib.metrics._scorers import (
    coverage_scorer,
    neg_crps_scorer,
    neg_interval_score_scorer,
    neg_interval_width_scorer,
    neg_miscalibration_area_scorer,
    neg_pinball_scorer,
    neg_quantile_calibration_error_scorer,
    neg_weighted_interval_score_scorer,
)
from uqlib.metrics._selective import (
    RiskCoverageCurve,
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
    error_uncertainty_correlation,
    uncertainty_average_precision,
    uncertainty_fpr_at_tpr,
    uncertainty_roc_auc,
)
from uqlib.metrics._selective_scorers import (
    neg_risk_coverage_auc_scorer,
)
from uqlib.metrics._selective_sparsification import (
    SparsificationCurve,
    sparsification_curve,
    sparsification_error,
)
from uqlib.metrics._set_scorers import (
    neg_set_size_scorer,
    set_coverage_scorer,
)
from uqlib.metrics._sets import (
    covered_by_set,
    empty_set_share,
    mean_set_size,
    set_coverage_score,
    singleton_share,
)
from uqlib.metrics._sides import (
    SideCoverage,
    side_calibration_error,
    side_coverage,
)
from uqlib.metrics._slab import (
    WorstSlab,
    worst_slab,
    worst_slab_coverage,
)
from uqlib.metrics._width_scorers import (
    coverage_width_criterion_scorer,
    neg_normalized_interval_width_scorer,
)

__all__ = [
    "CalibrationBins",
    "GroupCoverage",
    "RiskCoverageCurve",
    "SideCoverage",
    "SparsificationCurve",
    "StratifiedCoverage",
    "WorstSlab",
    "accuracy_rejection_auc",
    "adaptive_calibration_error",
    "adversarial_group_calibration_error",
    "brier_score",
    "calibration_bins",
    "coverage_at_risk",
    "coverage_score",
    "coverage_scorer",
    "coverage_width_criterion",
    "coverage_width_criterion_scorer",
    "covered_by_interval",
    "covered_by_set",
    "crps_from_ensemble",
    "crps_from_gaussian",
    "crps_from_quantiles",
    "empty_set_share",
    "ensemble_disagreement",
    "error_uncertainty_correlation",
    "excess_risk_coverage_auc",
    "expected_calibration_error",
    "expected_entropy",
    "gaussian_negative_log_likelihood",
    "gaussian_quantiles",
    "generalized_risk_coverage_auc",
    "group_coverage",
    "group_coverage_gap",
    "infinite_interval_share",
    "interval_score",
    "interval_widths",
    "log_likelihood_scorer",
    "mean_interval_width",
    "mean_set_size",
    "miscalibration_area",
    "mutual_information",
    "neg_brier_scorer",
    "neg_crps_scorer",
    "neg_expected_calibration_error_scorer",
    "neg_interval_score_scorer",
    "neg_interval_width_scorer",
    "neg_miscalibration_area_scorer",
    "neg_normalized_interval_width_scorer",
    "neg_pinball_scorer",
    "neg_quantile_calibration_error_scorer",
    "neg_risk_coverage_auc_scorer",
    "neg_set_size_scorer",
    "neg_weighted_interval_score_scorer",
    "negative_log_likelihood",
    "normalized_interval_width",
    "pinball_loss",
    "predictive_entropy",
    "quantile_calibration_curve",
    "quantile_calibration_error",
    "risk_at_coverage",
    "risk_coverage_auc",
    "risk_coverage_curve",
    "set_coverage_score",
    "set_coverage_scorer",
    "side_calibration_error",
    "side_coverage",
    "singleton_share",
    "size_stratified_coverage",
    "smooth_calibration_error",
    "sparsification_curve",
    "sparsification_error",
    "stratified_coverage",
    "uncertainty_average_precision",
    "uncertainty_fpr_at_tpr",
    "uncertainty_roc_auc",
    "variance_decomposition",
    "variation_ratio",
    "weighted_interval_score",
    "worst_slab",
    "worst_slab_coverage",
]
