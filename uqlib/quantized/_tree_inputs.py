"""X as a tree ensemble reads it, with the checks of the library that fitted the model.

What the model's own `predict` raises on stays an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from uqlib._typing import FloatArray

# LightGBM reads dense values up to this size as 0.
LIGHTGBM_ZERO = float(np.float32(1e-35))


@dataclass(frozen=True, eq=False)
class TreeInputs:
    """What a model expects of X.

    Parameters
    ----------
    library : {"sklearn", "lightgbm", "xgboost"}
        Whose checks are made.
    model_name : str
        Class of the model, for messages.
    n_features : int
        Columns of X.
    feature_names : tuple of str or None
        Names of the columns that the model was fitted on.
    dtype : {"float32", "float64"}
        Type in which values are compared with thresholds.
    allow_nan, allow_inf : bool
        Whether X may hold such values.
    categories : mapping of int to ndarray of shape (n_categories,)
        Categories of the features that are not numbers; the code of a category is its
        position.
    frame_categories : tuple of ndarray of shape (n_categories,), or None
        The same for the categorical columns of a pandas frame in their order
        (LightGBM); None if no frame was fitted.
    missing : float
        Value that stands for a missing one beside NaN (XGBoost).
    """

    library: str
    model_name: str
    n_features: int
    feature_names: tuple[str, ...] | None = None
    dtype: str = "float64"
    allow_nan: bool = True
    allow_inf: bool = True
    categories: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    frame_categories: tuple[NDArray[Any], ...] | None = None
    missing: float = float("nan")

    def read(self, X: Any) -> FloatArray:
        """Return X as numbers, categories as their codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What the model's own `predict` takes.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In `dtype`; NaN for missing values and unknown categories.
        """
        if self.library == "lightgbm":
            return _lightgbm_values(self, X)
        if self.library == "xgboost":
            return _xgboost_values(self, X)
        if self.categories:
            return _encoded_values(self, X)
        return _sklearn_values(self, X)


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "__dataframe__")


def _stand_in(inputs: TreeInputs) -> Any:
    """Return an estimator with the name and the features of the model."""
    model = type(inputs.model_name, (BaseEstimator,), {})()
    model.n_features_in_ = inputs.n_features
    if inputs.feature_names is not None:
        model.feature_names_in_ = np.array(inputs.feature_names, dtype=object)
    return model


def _sklearn_values(inputs: TreeInputs, X: Any) -> FloatArray:
    finite: bool | str = False if inputs.allow_inf else "allow-nan"
    if not inputs.allow_nan or issparse(X):  # scikit-learn's trees take no sparse NaN
        finite = True
    single = inputs.dtype == "float32"
    values = validate_data(
        _stand_in(inputs),
        X,
        reset=False,
        dtype=np.dtype(inputs.dtype),
        accept_sparse="csr" if single else False,
        ensure_all_finite=finite,
    )
    return np.asarray(values.toarray() if issparse(values) else values)


def _encoded_values(inputs: TreeInputs, X: Any) -> FloatArray:
    """Encode categories as scikit-learn's gradient boosting does.

    It picks the columns of a frame by their names, so their order is free and others
    may be there too.
    """
    if not _is_frame(X):
        X = check_array(X, dtype=None, ensure_all_finite=False)
    elif inputs.feature_names is not None:
        X = _named_columns(inputs, X)
    _check_width(inputs, X)
    codes = np.empty((X.shape[0], inputs.n_features))
    for feature in range(inputs.n_features):
        column = _column(X, feature)
        if feature in inputs.categories:
            codes[:, feature] = _codes(column, inputs.categories[feature], feature)
        else:
            codes[:, [feature]] = check_array(
                column[:, None], dtype=np.float64, ensure_all_finite=False
            )
    return codes


def _named_columns(inputs: TreeInputs, X: Any) -> Any:
    names = list(inputs.feature_names or ())
    absent = sorted(set(names) - {str(name) for name in X.columns})
    if absent:
        raise ValueError(
            f"X must have the columns that {inputs.model_name} was fitted on, but "
            f"{absent} are missing."
        )
    return X[names]


def _check_width(inputs: TreeInputs, X: Any) -> None:
    if len(X.shape) != 2 or X.shape[1] != inputs.n_features:
        raise ValueError(
            f"X must have the {inputs.n_features} features that {inputs.model_name} "
            f"was fitted on, got shape {tuple(X.shape)}."
        )


def _column(X: Any, feature: int) -> NDArray[Any]:
    if not _is_frame(X):
        return np.asarray(X[:, feature])
    return np.asarray(X[X.columns[feature]].to_numpy())


def _codes(
    column: NDArray[Any], categories: NDArray[Any], feature: int
) -> NDArray[np.float64]:
    """Return the positions of values among categories, NaN for any other value."""
    if column.dtype.kind == "f" and np.isinf(column).any():
        raise ValueError(
            f"X must have no infinity in the categorical feature {feature}."
        )
    # NaN equals nothing, so it has no code; None is a category as any other.
    known = {value: code for code, value in enumerate(categories.tolist())}
    return np.array([known.get(value, np.nan) for value in column.tolist()], float)


def _lightgbm_values(inputs: TreeInputs, X: Any) -> FloatArray:
    """Read X as LightGBM does.

    Frames keep their precision; arrays that are not of floats become single precision.
    """
    if hasattr(X, "iloc"):
        values = _lightgbm_frame(inputs, X)
    elif _is_frame(X):
        values = np.asarray(X.to_numpy(), dtype=np.float64)
    else:
        X = X.toarray() if issparse(X) else X
        values = validate_data(
            _stand_in(inputs), X, reset=False, ensure_all_finite=False
        )
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float32)
    _check_width(inputs, values)
    values = values.astype(np.float64)
    values[np.abs(values) <= LIGHTGBM_ZERO] = 0.0
    return np.asarray(values)


def _lightgbm_frame(inputs: TreeInputs, X: Any) -> NDArray[np.float64]:
    kinds = [isinstance(dtype, pd.CategoricalDtype) for dtype in X.dtypes]
    known = inputs.frame_categories
    if known is not None and sum(kinds) != len(known):
        raise ValueError(
            f"X must have {len(known)} columns of categories, as the frame that "
            f"{inputs.model_name} was fitted on, got {sum(kinds)}."
        )
    named = zip(X.columns, X.dtypes, kinds, strict=True)
    objects = [
        str(name) for name, d, category in named if not category and d.kind == "O"
    ]
    if objects:
        raise ValueError(
            f"X must have columns of numbers or categories, got objects in {objects}."
        )
    columns, position = [], 0
    for j, is_category in enumerate(kinds):
        if is_category and known is not None:
            column = X.iloc[:, j].cat.set_categories(known[position])
            codes, position = column.cat.codes.to_numpy(np.float64), position + 1
            columns.append(np.where(codes < 0, np.nan, codes))
        else:
            columns.append(X.iloc[:, j].to_numpy(np.float64, na_value=np.nan))
    return np.stack(columns, axis=1) if columns else np.empty(X.shape)


def _xgboost_values(inputs: TreeInputs, X: Any) -> FloatArray:
    """Read X as XGBoost does: in single precision, where large values are infinite."""
    if issparse(X):
        raise TypeError(
            "sparse X is not supported, since XGBoost takes absent entries for missing "
            "ones: pass a dense array."
        )
    if hasattr(X, "iloc"):
        _check_xgboost_names(inputs, X)
        X = X.to_numpy(dtype=np.float32, na_value=np.nan)
    with np.errstate(over="ignore"):
        values = np.asarray(X).astype(np.float32)
    _check_width(inputs, values)
    values[values == np.float32(inputs.missing)] = np.nan
    return np.asarray(values)


def _check_xgboost_names(inputs: TreeInputs, X: Any) -> None:
    names = tuple(str(name) for name in X.columns)
    if inputs.feature_names is not None and names != inputs.feature_names:
        raise ValueError(
            f"X must have the columns {list(inputs.feature_names)} that "
            f"{inputs.model_name} was fitted on, in this order, got {list(names)}."
        )
