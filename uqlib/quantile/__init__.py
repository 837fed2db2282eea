"""Quantile regression: ensembles, many levels from any learner, monotone rows."""

from uqlib._core.monotone import crossing_rate, isotonic_quantiles, sort_quantiles
from uqlib.quantile._cross_fit import CrossFitQuantiles
from uqlib.quantile._ensemble import QuantileEnsembleRegressor
from uqlib.quantile._monotone import IsotonicQuantiles, SortQuantiles
from uqlib.quantile._multi import MultiQuantileRegressor

__all__ = [
    "CrossFitQuantiles",
    "IsotonicQuantiles",
    "MultiQuantileRegressor",
    "QuantileEnsembleRegressor",
    "SortQuantiles",
    "crossing_rate",
    "isotonic_quantiles",
    "sort_quantiles",
]
