"""uqlib: honest uncertainty for scikit-learn predictors.

The public names of all families are here too, loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # editors and type checkers do not run __getattr__
    from uqlib.batch import *
    from uqlib.conformal import *
    from uqlib.exceptions import *
    from uqlib.inspection import *
    from uqlib.metrics import *
    from uqlib.quantile import *

__version__ = "0.1.0"

# Families in the order of the documentation; a name is imported when it is asked for.
_FAMILIES = {
    "uqlib.quantile": (
        "CrossFitQuantiles",
        "ExpectileRegressor",
        "IsotonicQuantiles",
        "LinearQuantileRegressor",
        "MultiQuantileRegressor",
        "QuantileAggregator",
        "QuantileEnsembleRegressor",
        "SortQuantiles",
        "TorchQuantileRegressor",
        "crossing_rate",
        "expectile_quantile_level",
        "isotonic_quantiles",
        "quantile_expectile_level",
        "sort_quantiles",
    ),
    "uqlib.conformal": (
        "AbsoluteScore",
        "BootstrapConformalRegressor",
        "ConditionalConformalRegressor",
        "ConformalClassifier",
        "ConformalOutlierDetector",
        "ConformalPredictiveRegressor",
        "ConformalQuantiles",
        "ConformalizedQuantileRegressor",
        "CrossConformalClassifier",
        "CrossConformalRegressor",
        "CrossConformalizedQuantileRegressor",
        "EnbPIRegressor",
        "ExchangeabilityMartingale",
        "GammaScore",
        "LocalizedConformalRegressor",
        "MultiOutputConformalRegressor",
        "NonexchangeableConformalRegressor",
        "NormalizedScore",
        "OnlineConformalRegressor",
        "QuantileScore",
        "RiskControlledClassifier",
        "SignedScore",
        "SplitConformalRegressor",
        "VennAbersCalibrator",
        "aci_thresholds",
        "aps_scores",
        "aps_sets",
        "conditional_conformal_quantile",
        "conditional_p_values",
        "conformal_ellipsoid",
        "conformal_p_values",
        "conformal_quantile",
        "conformal_rank",
        "conformal_risk_threshold",
        "cqr_offsets",
        "cross_conformal_interval",
        "exchangeability_martingale",
        "false_discovery_losses",
        "false_negative_losses",
        "group_quantiles",
        "hoeffding_bentkus_p_value",
        "lac_scores",
        "lac_sets",
        "learn_then_test",
        "localized_conformal_quantile",
        "margin_scores",
        "margin_sets",
        "max_rank_thresholds",
        "miscoverage_losses",
        "predictive_cdf",
        "predictive_crps",
        "predictive_p_values",
        "predictive_quantiles",
        "raps_scores",
        "raps_sets",
        "rcps_threshold",
        "risk_upper_bound",
        "saps_scores",
        "saps_sets",
        "sequential_p_values",
        "set_size_losses",
        "split_interval",
        "topk_scores",
        "topk_sets",
        "venn_abers",
        "weighted_conformal_quantile",
        "wsr_p_value",
    ),
    "uqlib.batch": (
        "BatchPredictiveInference",
        "Composition",
        "band_probability",
        "batch_band",
        "batch_bound",
        "count_above_bound",
        "grid_law",
        "joint_order_probability",
        "order_statistic_rank",
        "rank_sum_law",
    ),
    "uqlib.metrics": (
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
    ),
    "uqlib.inspection": ("CoverageDisplay", "PredictionIntervalDisplay"),
    "uqlib.exceptions": (
        "AlreadyFittedWarning",
        "InfiniteIntervalWarning",
        "RiskNotControlledWarning",
        "UncertaintyWarning",
    ),
}
_LAZY = {name: module for module, names in _FAMILIES.items() for name in names}

__all__ = sorted([*_LAZY, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    family = f"{__name__}.{name}"
    if family in _FAMILIES:
        return import_module(family)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
