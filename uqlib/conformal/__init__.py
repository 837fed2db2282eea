"""Conformal calibration: intervals, sets and quantiles with finite-sample coverage."""

from uqlib._core.conditional_quantile import conditional_conformal_quantile
from uqlib._core.cqr import cqr_offsets
from uqlib._core.cross_intervals import cross_conformal_interval
from uqlib._core.group_ranks import group_quantiles
from uqlib._core.label_scores import (
    aps_scores,
    lac_scores,
    margin_scores,
    raps_scores,
    saps_scores,
    topk_scores,
)
from uqlib._core.learn_then_test import learn_then_test
from uqlib._core.localization import localized_conformal_quantile
from uqlib._core.martingale import exchangeability_martingale
from uqlib._core.multilabel_losses import (
    false_discovery_losses,
    false_negative_losses,
    miscoverage_losses,
    set_size_losses,
)
from uqlib._core.online import aci_thresholds
from uqlib._core.outlier_p_values import conditional_p_values, conformal_p_values
from uqlib._core.outward import split_interval
from uqlib._core.predictive_system import (
    predictive_cdf,
    predictive_crps,
    predictive_p_values,
    predictive_quantiles,
)
from uqlib._core.ranks import conformal_quantile, conformal_rank
from uqlib._core.regions import conformal_ellipsoid, max_rank_thresholds
from uqlib._core.risk_bounds import (
    hoeffding_bentkus_p_value,
    risk_upper_bound,
    wsr_p_value,
)
from uqlib._core.risk_control import conformal_risk_threshold, rcps_threshold
from uqlib._core.scores import AbsoluteScore, GammaScore, SignedScore
from uqlib._core.sequential_p_values import sequential_p_values
from uqlib._core.sets import (
    aps_sets,
    lac_sets,
    margin_sets,
    raps_sets,
    saps_sets,
    topk_sets,
)
from uqlib._core.venn_abers import venn_abers
from uqlib._core.weighted_ranks import weighted_conformal_quantile
from uqlib.conformal._bootstrap import BootstrapConformalRegressor
from uqlib.conformal._classifier import ConformalClassifier
from uqlib.conformal._conditional import ConditionalConformalRegressor
from uqlib.conformal._cqr import ConformalizedQuantileRegressor
from uqlib.conformal._cross import CrossConformalRegressor
from uqlib.conformal._cross_classifier import CrossConformalClassifier
from uqlib.conformal._cross_cqr import CrossConformalizedQuantileRegressor
from uqlib.conformal._enbpi import EnbPIRegressor
from uqlib.conformal._localized import LocalizedConformalRegressor
from uqlib.conformal._martingale import ExchangeabilityMartingale
from uqlib.conformal._multi_output import MultiOutputConformalRegressor
from uqlib.conformal._nonexchangeable import NonexchangeableConformalRegressor
from uqlib.conformal._online import OnlineConformalRegressor
from uqlib.conformal._outliers import ConformalOutlierDetector
from uqlib.conformal._predictive import ConformalPredictiveRegressor
from uqlib.conformal._quantiles import ConformalQuantiles
from uqlib.conformal._risk import RiskControlledClassifier
from uqlib.conformal._scores import NormalizedScore, QuantileScore
from uqlib.conformal._split import SplitConformalRegressor
from uqlib.conformal._venn_abers import VennAbersCalibrator

__all__ = [
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
]
