"""What all quantile regressors share: the median as the point, tags, levels."""

from importlib import import_module
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from uqlib._core.checks import check_choice
from uqlib._core.monotone import (
    bracket,
    interpolate_level,
    isotonic_quantiles,
    sort_quantiles,
)
from uqlib._typing import FloatArray

# The 19 levels 0.05, 0.10, ..., 0.95.
DEFAULT_QUANTILES = tuple(round(0.05 * k, 2) for k in range(1, 20))


class QuantileRegressorMixin(RegressorMixin):
    """Gives `predict` to a class with `quantiles_` and `predict_quantiles`."""

    def predict(self, X: Any) -> FloatArray:
        """Predict the median.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the base learners take them.

        Returns
        -------
        ndarray of shape (n_samples,)
            The quantile of level 0.5, interpolated linearly between the two levels
            around 0.5 where it is not among them.

        Raises
        ------
        ValueError
            If no two levels bracket 0.5.
        """
        check_is_fitted(self, "quantiles_")
        first, last = bracket(self.quantiles_, 0.5)
        levels = self.quantiles_[sorted({first, last})]
        return interpolate_level(self.predict_quantiles(X, levels), levels, 0.5)


def as_matrix(columns: list[Any]) -> FloatArray:
    """Return predictions of one-level models as one float64 matrix.

    Parameters
    ----------
    columns : list of array-like of shape (n_samples,)
        One prediction a level.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The quantile matrix.
    """
    return np.column_stack([np.asarray(c, dtype=np.float64).ravel() for c in columns])


NON_CROSSING = (None, "sort", "isotonic")


def check_non_crossing(non_crossing: Any) -> None:
    """Refuse an unknown way of making rows monotone.

    Parameters
    ----------
    non_crossing : object
        The parameter.
    """
    check_choice("non_crossing", non_crossing, NON_CROSSING)


def check_hidden(hidden: Any) -> None:
    """Refuse what is no sequence of widths of hidden layers.

    Parameters
    ----------
    hidden : object
        The parameter.
    """
    if isinstance(hidden, str) or np.ndim(hidden) != 1:
        raise ValueError(
            f"hidden must be a sequence of widths, got {hidden!r}. Pass for example "
            "hidden=(64, 64), or (64,) for a single layer."
        )
    for size in hidden:
        check_scalar(size, "hidden", Integral, min_val=1)


def monotone_rows(values: FloatArray, non_crossing: str | None) -> FloatArray:
    """Return a quantile matrix with its rows made monotone as a parameter asks.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_quantiles)
        Quantiles of all levels: a row is repaired as a whole.
    non_crossing : {None, "sort", "isotonic"}
        None leaves the rows as they are.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The repaired matrix.
    """
    if non_crossing is None:
        return values
    repair = sort_quantiles if non_crossing == "sort" else isotonic_quantiles
    return repair(values)


def require_torch(what: str) -> None:
    """Say how to install torch where it is missing.

    Parameters
    ----------
    what : str
        What needs it, the subject of the message.

    Raises
    ------
    ImportError
        If torch cannot be imported.
    """
    try:
        import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"{what} needs torch. Install it with: pip install uqlib[torch]"
        ) from error
