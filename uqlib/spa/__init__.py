"""Split-point analysis: where a fitted model is biased, and how its errors lie."""

from uqlib._core.split_point import (
    sds_widening_factors,
    self_consistency_discrepancy,
    split_point_statistics,
)
from uqlib._core.split_point_classes import sds_classification, spa_adjust_proba
from uqlib._core.split_point_intervals import conformal_side_scale
from uqlib.spa._classifier import SPAClassifier
from uqlib.spa._head import TorchSPAHead
from uqlib.spa._regressor import SPARegressor

__all__ = [
    "SPAClassifier",
    "SPARegressor",
    "TorchSPAHead",
    "conformal_side_scale",
    "sds_classification",
    "sds_widening_factors",
    "self_consistency_discrepancy",
    "spa_adjust_proba",
    "split_point_statistics",
]
