"""X as a tree ensemble reads it, with the checks of the library that fitted the model.

What the model's own `predict` raises on stays an error. Plain arrays of floats, which
are most of what comes, take a short way that costs a microsecond; whatever it does not
accept at sight goes the long way, which gives the library's errors and warnings.
"""

import math
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
_FEW = 4096  # values whose squares are summed faster than they are looked at


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
    zeroes_tiny : bool
        Whether values up to `LIGHTGBM_ZERO` in size are still to be set to 0
        (LightGBM); False where the thresholds read them as 0, see
        `_tree_lightgbm.thresholds_around_zero`.
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
    zeroes_tiny: bool = True

    def read(self, X: Any) -> FloatArray:
        """Return X as numbers, categories as their codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What the model's own `predict` takes.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In `dtype`; NaN for missing values and unknown categories. It may be X
            itself.
        """
        values = _plain_values(self, X)
        if values is not None:
            return values
        if self.library == "lightgbm":
            return _lightgbm_values(self, X)
        if self.library == "xgboost":
            return _xgboost_values(self, X)
        if self.categories:
            return _encoded_values(self, X)
        return _sklearn_values(self, X)


# ---------------------------------------------------------------------------
# The short way: None for all that needs a second look.


def _plain_values(inputs: TreeInputs, X: Any) -> FloatArray | None:
    """Return a plain array of floats as the long way would, None for anything else."""
    if type(X) is not np.ndarray or X.ndim != 2 or not _is_native_float(X.dtype):
        return None
    n_samples, n_features = X.shape
    if n_features != inputs.n_features:
        return None
    if inputs.library == "xgboost":
        return _plain_singles(inputs, X)
    if not n_samples:
        return None
    if inputs.library == "lightgbm":
        return _tiny_as_zero(X.astype(np.float64)) if inputs.zeroes_tiny else _double(X)
    if inputs.feature_names is not None:
        return None
    if inputs.categories:
        return _plain_codes(inputs, X)
    values = _double(X) if inputs.dtype == "float64" else _single(X)
    return values if _allowed(inputs, values) else None


def _is_native_float(dtype: np.dtype[Any]) -> bool:
    return dtype.char in "fd" and dtype.isnative


def _double(X: NDArray[Any]) -> FloatArray:
    return X if X.dtype.char == "d" else X.astype(np.float64)


def _single(X: NDArray[Any]) -> FloatArray:
    return X if X.dtype.char == "f" else X.astype(np.float32)


def _plain_singles(inputs: TreeInputs, X: NDArray[Any]) -> FloatArray:
    if X.dtype.char == "f" and math.isnan(inputs.missing):
        return X
    with np.errstate(over="ignore"):
        return _absent_as_nan(inputs, X.astype(np.float32))


def _plain_codes(inputs: TreeInputs, X: NDArray[Any]) -> FloatArray | None:
    """Encode categories that are numbers in increasing order, None for others."""
    values = X.astype(np.float64)
    for feature, known in inputs.categories.items():
        column = values[:, feature]
        if not _is_increasing(known) or np.isinf(column).any():
            return None
        code = np.searchsorted(known, column)
        code[code == known.size] = 0  # above all, or NaN: equal to none
        values[:, feature] = np.where(known[code] == column, code, np.nan)
    return values


def _is_increasing(known: NDArray[Any]) -> bool:
    if known.dtype.kind not in "fiu" or not known.size:
        return False
    return bool((known[1:] > known[:-1]).all())


def _allowed(inputs: TreeInputs, values: FloatArray) -> bool:
    """Return whether the model takes all values."""
    if inputs.allow_inf and inputs.allow_nan:
        return True
    # A sum of squares is finite only if all are; of large ones it need not be.
    if values.size <= _FEW and math.isfinite(np.vdot(values, values)):
        return True
    if inputs.allow_nan:
        return not np.isinf(values).any()
    if inputs.allow_inf:
        return not np.isnan(values).any()
    return bool(np.isfinite(values).all())


def _tiny_as_zero(values: FloatArray) -> FloatArray:
    values[np.abs(values) <= LIGHTGBM_ZERO] = 0.0
    return values


def _absent_as_nan(inputs: TreeInputs, values: FloatArray) -> FloatArray:
    if not math.isnan(inputs.missing):
        values[values == np.float32(inputs.missing)] = np.nan
    return values


# ---------------------------------------------------------------------------
# The long way.


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "to_numpy")


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
        if not X.size:
            raise ValueError("X must have at least one row and one column, got none.")
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
    return _tiny_as_zero(values.astype(np.float64))


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
    _check_no_objects(objects)
    columns, position = [], 0
    for j, is_category in enumerate(kinds):
        if is_category and known is not None:
            column = X.iloc[:, j].cat.set_categories(known[position])
            codes, position = column.cat.codes.to_numpy(np.float64), position + 1
            columns.append(np.where(codes < 0, np.nan, codes))
        else:
            columns.append(X.iloc[:, j].to_numpy(np.float64, na_value=np.nan))
    return np.stack(columns, axis=1) if columns else np.empty(X.shape)


def _check_no_objects(objects: list[str]) -> None:
    if objects:
        raise ValueError(
            f"X must have columns of numbers or categories, got objects in {objects}."
        )


def _xgboost_values(inputs: TreeInputs, X: Any) -> FloatArray:
    """Read X as XGBoost does: in single precision, where large values are infinite."""
    if issparse(X):
        raise TypeError(
            "sparse X is not supported, since XGBoost takes absent entries for missing "
            "ones: pass a dense array."
        )
    if hasattr(X, "iloc"):
        _check_xgboost_names(inputs, X)
        _check_no_objects([str(n) for n, d in X.dtypes.items() if d.kind == "O"])
        X = X.to_numpy(dtype=np.float32, na_value=np.nan)
    X = np.asarray(X)
    if X.dtype.kind not in "biufO":
        raise ValueError(f"X must hold real numbers, got an array of {X.dtype}.")
    with np.errstate(over="ignore"):
        values = X.astype(np.float32)
    _check_width(inputs, values)
    return _absent_as_nan(inputs, values)


def _check_xgboost_names(inputs: TreeInputs, X: Any) -> None:
    names = tuple(str(name) for name in X.columns)
    if inputs.feature_names is not None and names != inputs.feature_names:
        raise ValueError(
            f"X must have the columns {list(inputs.feature_names)} that "
            f"{inputs.model_name} was fitted on, in this order, got {list(names)}."
        )
