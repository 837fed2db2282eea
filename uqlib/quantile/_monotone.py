"""Transformers that make the rows of a quantile matrix monotone."""

from typing import Any

from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from uqlib._core.levels import levels_from_names
from uqlib._core.monotone import (
    check_level_weight,
    isotonic_quantiles,
    sort_quantiles,
)
from uqlib._typing import FloatArray
from uqlib._validation import check_quantile_input


class _MonotoneTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Columns in, the same columns out; the levels are read from names like q0.05."""

    def fit(self, X: Any, y: Any = None) -> "_MonotoneTransformer":
        """Record the columns; nothing is learned.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_quantiles)
            Quantile matrix, columns in increasing order of their levels.
        y : None
            Ignored.

        Returns
        -------
        self : object
            Fitted.
        """
        check_quantile_input(self, X, reset=True)
        self.quantiles_ = levels_from_names(getattr(self, "feature_names_in_", ()))
        return self

    def transform(self, X: Any) -> FloatArray:
        """Return the matrix with non-decreasing rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_quantiles)
            Quantile matrix; infinities are legal, NaN is not.

        Returns
        -------
        ndarray or dataframe of shape (n_samples, n_quantiles)
            Monotone rows; those that were monotone already are bitwise equal.
        """
        check_is_fitted(self)
        return self._repair(check_quantile_input(self, X, reset=False))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class SortQuantiles(_MonotoneTransformer):
    r"""Sort each row of a quantile matrix, as a pipeline step.

    .. math:: S(q) = (q_{(1)}, \dots, q_{(m)}).

    With equal weights on the levels the summed pinball loss never grows, whatever the
    target is.

    Attributes
    ----------
    quantiles_ : ndarray of shape (n_quantiles,) or None
        The levels, if the columns are called q0.05 and so on.
    n_features_in_ : int
        Number of levels.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if they are strings.

    Raises
    ------
    ValueError
        If the matrix contains NaN.

    See Also
    --------
    uqlib.quantile.sort_quantiles : The same as a function, with the theorem.
    IsotonicQuantiles : The projection, also for unequal weights.

    References
    ----------
    .. [1] V. Chernozhukov, I. Fernandez-Val, A. Galichon, "Quantile and Probability
       Curves Without Crossing", arXiv:0704.3649.

    Examples
    --------
    >>> from uqlib.quantile import SortQuantiles
    >>> SortQuantiles().fit_transform([[1.0, 3.0, 2.0]])
    array([[1., 2., 3.]])
    """

    def _repair(self, matrix: FloatArray) -> FloatArray:
        return sort_quantiles(matrix)


class IsotonicQuantiles(_MonotoneTransformer):
    r"""Project each row of a quantile matrix on the monotone rows, as a pipeline step.

    .. math:: P_w(q) = \arg\min_{v_1 \le \dots \le v_m} \sum_k w_k (v_k - q_k)^2 .

    The pinball loss summed with the same weights never grows, whatever the target is.

    Parameters
    ----------
    level_weight : array-like of shape (n_quantiles,), default=None
        One positive weight a level; None means equal weights.

    Attributes
    ----------
    quantiles_ : ndarray of shape (n_quantiles,) or None
        The levels, if the columns are called q0.05 and so on.
    n_features_in_ : int
        Number of levels.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if they are strings.

    Raises
    ------
    ValueError
        If the matrix contains NaN or a weight is not positive.

    See Also
    --------
    uqlib.quantile.isotonic_quantiles : The same as a function, with the theorem.
    SortQuantiles : The rearrangement.

    References
    ----------
    .. [1] R. E. Barlow, D. J. Bartholomew, J. M. Bremner, H. D. Brunk, "Statistical
       Inference under Order Restrictions", Wiley, 1972.

    Examples
    --------
    >>> from uqlib.quantile import IsotonicQuantiles
    >>> IsotonicQuantiles().fit_transform([[1.0, 3.0, 2.0]])
    array([[1. , 2.5, 2.5]])
    """

    def __init__(self, *, level_weight: Any = None) -> None:
        self.level_weight = level_weight

    def fit(self, X: Any, y: Any = None) -> "IsotonicQuantiles":
        """Record the columns and check the weights; nothing is learned.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_quantiles)
            Quantile matrix, columns in increasing order of their levels.
        y : None
            Ignored.

        Returns
        -------
        self : IsotonicQuantiles
            Fitted.
        """
        super().fit(X, y)
        check_level_weight(self.level_weight, self.n_features_in_)
        return self

    def _repair(self, matrix: FloatArray) -> FloatArray:
        return isotonic_quantiles(matrix, self.level_weight)
