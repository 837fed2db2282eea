"""From a fitted model of any library to its `TreeEnsemble`."""

from typing import Any

from sklearn.utils.validation import check_is_fitted

from uqlib.quantized._tree_lightgbm import extract_lightgbm
from uqlib.quantized._tree_sklearn import SKLEARN_EXTRACTORS
from uqlib.quantized._tree_xgboost import extract_xgboost
from uqlib.quantized._trees import TreeEnsemble, UnsupportedTreesError

_LIGHTGBM = ("LGBMRegressor", "LGBMClassifier", "LGBMRanker")
_XGBOOST = ("XGBRegressor", "XGBClassifier", "XGBRFRegressor", "XGBRFClassifier")


def extract_trees(model: Any) -> TreeEnsemble:
    """Return the trees of a fitted model, whose predictions they repeat exactly.

    Supported are scikit-learn's HistGradientBoosting, GradientBoosting, random forests,
    extra-trees and single trees, LightGBM's and XGBoost's scikit-learn models. The
    model is not changed. Subclasses are not supported: what they predict is their own.

    Parameters
    ----------
    model : estimator
        Fitted.

    Returns
    -------
    TreeEnsemble
        Its trees.

    Raises
    ------
    UnsupportedTreesError
        If the model is not one of these, or has something that trees with constant
        leaves cannot tell; the message says what.
    NotFittedError
        If the model is not fitted.
    """
    kind = type(model)
    if kind in SKLEARN_EXTRACTORS:
        check_is_fitted(model)
        return SKLEARN_EXTRACTORS[kind](model)
    library = kind.__module__.partition(".")[0]
    if library == "lightgbm" and kind.__name__ in _LIGHTGBM:
        return extract_lightgbm(model)
    if library == "xgboost" and kind.__name__ in _XGBOOST:
        return extract_xgboost(model)
    raise UnsupportedTreesError(f"{kind.__name__} is not a tree ensemble known here")
