"""Quantile regression: ensembles, many levels from any learner, monotone rows."""

from uqlib._core.expectile import expectile_quantile_level, quantile_expectile_level
from uqlib._core.monotone import crossing_rate, isotonic_quantiles, sort_quantiles
from uqlib.quantile._aggregator import QuantileAggregator
from uqlib.quantile._cross_fit import CrossFitQuantiles
from uqlib.quantile._ensemble import QuantileEnsembleRegressor
from uqlib.quantile._expectile import ExpectileRegressor
from uqlib.quantile._linear import LinearQuantileRegressor
from uqlib.quantile._monotone import IsotonicQuantiles, SortQuantiles
from uqlib.quantile._multi import MultiQuantileRegressor
from uqlib.quantile._neural import TorchQuantileRegressor

__all__ = [
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
]
