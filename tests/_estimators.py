"""One small instance of every public estimator, for scikit-learn's common checks."""

from importlib.util import find_spec

from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge
from sklearn.model_selection import LeaveOneOut
from sklearn.neighbors import KernelDensity

import uqlib

LEVELS = (0.25, 0.5, 0.75)


def _linear_quantiles(quantiles=LEVELS):
    return uqlib.MultiQuantileRegressor(
        QuantileRegressor(alpha=0.0), quantiles=quantiles
    )


def _network():
    return uqlib.TorchQuantileRegressor(
        LEVELS, hidden=(16,), learning_rate=0.03, max_iter=200, random_state=0
    )


def _head():
    from torch import nn

    # The pooling takes any number of columns; in double precision the order of the
    # rows changes nothing that the checks can see.
    network = nn.Sequential(
        nn.AdaptiveAvgPool1d(4), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)
    )
    return uqlib.TorchSPAHead(
        network.double(), max_iter=50, hidden=(8,), random_state=0
    )


def public_estimators():
    """Instances to check: at least one of every public estimator."""
    # Without torch the networks cannot be fitted: their own tests say so.
    networks = [_network(), _head()] if find_spec("torch") is not None else []
    return [
        *networks,
        uqlib.BatchPredictiveInference(Ridge()),
        uqlib.BootstrapConformalRegressor(Ridge(), n_estimators=5),
        uqlib.ConditionalConformalRegressor(Ridge()),
        uqlib.ConformalClassifier(LogisticRegression()),
        uqlib.ConformalOutlierDetector(KernelDensity()),
        uqlib.ConformalPredictiveRegressor(Ridge()),
        uqlib.ConformalQuantiles(quantiles=LEVELS),
        uqlib.ConformalizedQuantileRegressor(_linear_quantiles((0.05, 0.5, 0.95))),
        uqlib.CrossConformalClassifier(LogisticRegression(), cv=3),
        uqlib.CrossConformalRegressor(Ridge(), cv=2),
        uqlib.CrossConformalRegressor(Ridge(), cv=LeaveOneOut()),
        uqlib.CrossConformalizedQuantileRegressor(
            _linear_quantiles((0.05, 0.5, 0.95)), cv=2
        ),
        uqlib.CrossFitQuantiles(_linear_quantiles(), cv=2),
        uqlib.EnbPIRegressor(Ridge(), n_estimators=5, random_state=0),
        uqlib.ExchangeabilityMartingale(KernelDensity()),
        uqlib.ExpectileRegressor(),
        uqlib.IsotonicQuantiles(),
        uqlib.LinearQuantileRegressor(quantiles=LEVELS),
        uqlib.LocalizedConformalRegressor(Ridge()),
        uqlib.MultiOutputConformalRegressor(Ridge()),
        uqlib.MultiOutputConformalRegressor(Ridge(), region="ellipsoid"),
        _linear_quantiles(),
        uqlib.NonexchangeableConformalRegressor(Ridge()),
        uqlib.OnlineConformalRegressor(Ridge()),
        # One level, so that any number of columns is a number of models.
        uqlib.QuantileAggregator("coarse", quantiles=(0.5,)),
        uqlib.QuantileEnsembleRegressor(
            [
                ("linear", QuantileRegressor(alpha=0.0)),
                ("boosting", HistGradientBoostingRegressor(max_iter=2)),
            ],
            quantiles=LEVELS,
            cv=2,
        ),
        uqlib.QuantizedClassifier(LogisticRegression(), method="rtn"),
        uqlib.QuantizedRegressor(Ridge(), method="rtn"),
        uqlib.RiskControlledClassifier(LogisticRegression()),
        uqlib.SPAClassifier(LogisticRegression(), cv=2),
        uqlib.SPARegressor(
            Ridge(),
            mar_estimator=Ridge(),
            quantile_estimator=QuantileRegressor(alpha=0.0),
            cv=2,
        ),
        uqlib.SortQuantiles(),
        uqlib.SplitConformalRegressor(Ridge()),
        uqlib.VennAbersCalibrator(LogisticRegression()),
        uqlib.VennAbersCalibrator(LogisticRegression(), method="cross", cv=2),
    ]


_INFINITY = (
    "infinite bounds are legal quantiles and pass through; NaN is refused, which "
    "tests/quantile and tests/conformal assert"
)
_SPLIT = (
    "a weight trains and does not calibrate, and a row that is removed changes which "
    "rows the random split holds out: weights cannot equal repetition"
)
_BAGS = (
    "bags are drawn at random over the rows, so that a row that is removed or repeated "
    "changes them: weights cannot equal repetition"
)
_LAST_ROWS = (
    "a weight trains and does not calibrate, and a row that is removed changes which "
    "rows are the last ones, which calibrate: weights cannot equal repetition"
)
_NETWORK = (
    "rows are held out and put in batches at random: a row that is removed or repeated "
    "changes the steps, and the network is not the optimum but where they lead"
)
_MODULE = (
    "joblib hashes a torch module and its own deep copy differently, before any "
    "fit; that the network stays bit for bit is asserted in tests/spa"
)
_CROSS_FIT = (
    "fit_transform gives out-of-fold quantiles, transform those of the model fitted on "
    "all rows: that they differ is the purpose of the class"
)
_WEIGHTS = (
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
)
_COLUMNS = "its levels fix the number of columns, and the check brings another number"

# Class name -> {name of a check: why the estimator must fail it}.
EXPECTED_FAILURES = {
    **{
        name: dict.fromkeys(_WEIGHTS, _SPLIT)
        for name in (
            "BatchPredictiveInference",
            "ConditionalConformalRegressor",
            "ConformalClassifier",
            "ConformalPredictiveRegressor",
            "ConformalizedQuantileRegressor",
            "LocalizedConformalRegressor",
            "MultiOutputConformalRegressor",
            "RiskControlledClassifier",
            "SPARegressor",
            "SplitConformalRegressor",
            "VennAbersCalibrator",
        )
    },
    "BootstrapConformalRegressor": dict.fromkeys(_WEIGHTS, _BAGS),
    "NonexchangeableConformalRegressor": dict.fromkeys(_WEIGHTS, _LAST_ROWS),
    "OnlineConformalRegressor": dict.fromkeys(_WEIGHTS, _LAST_ROWS),
    "ConformalQuantiles": {
        "check_estimators_nan_inf": _INFINITY,
        "check_dtype_object": _COLUMNS,
        "check_estimators_dtypes": _COLUMNS,
        "check_estimators_fit_returns_self": _COLUMNS,
        "check_estimators_overwrite_params": _COLUMNS,
        "check_fit2d_1feature": _COLUMNS,
        "check_fit2d_1sample": _COLUMNS,
        "check_fit_check_is_fitted": _COLUMNS,
        "check_fit_idempotent": _COLUMNS,
        "check_n_features_in": _COLUMNS,
        "check_n_features_in_after_fitting": _COLUMNS,
        "check_positive_only_tag_during_fit": _COLUMNS,
        "check_readonly_memmap_input": _COLUMNS,
    },
    "CrossFitQuantiles": {
        "check_transformer_data_not_an_array": _CROSS_FIT,
        "check_transformer_general": _CROSS_FIT,
    },
    "IsotonicQuantiles": {"check_estimators_nan_inf": _INFINITY},
    "QuantileAggregator": {"check_estimators_nan_inf": _INFINITY},
    "SortQuantiles": {"check_estimators_nan_inf": _INFINITY},
    "TorchSPAHead": {"check_estimators_overwrite_params": _MODULE},
    "TorchQuantileRegressor": {
        "check_sample_weight_equivalence_on_dense_data": _NETWORK,
    },
}


def expected_failed_checks(estimator):
    """Checks that an estimator must fail, each with its reason."""
    return EXPECTED_FAILURES.get(type(estimator).__name__, {})
