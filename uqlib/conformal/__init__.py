"""Conformal calibration: intervals and quantiles with finite-sample coverage."""

from uqlib._core.ranks import conformal_quantile, conformal_rank
from uqlib.conformal._cqr import ConformalizedQuantileRegressor
from uqlib.conformal._cross_cqr import CrossConformalizedQuantileRegressor
from uqlib.conformal._quantiles import ConformalQuantiles
from uqlib.conformal._split import SplitConformalRegressor

__all__ = [
    "ConformalQuantiles",
    "ConformalizedQuantileRegressor",
    "CrossConformalizedQuantileRegressor",
    "SplitConformalRegressor",
    "conformal_quantile",
    "conformal_rank",
]
