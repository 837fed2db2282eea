"""Linear expectile regression."""

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from uqlib._core.checks import check_not_a_date, check_sample_weight
from uqlib._core.expectile import fit_linear_expectiles
from uqlib._core.levels import check_quantiles
from uqlib._typing import FloatArray
from uqlib.quantile._base import DEFAULT_QUANTILES

# Residuals below so many units in the last place of the target are rounding.
_ROUNDING = 16 * float(np.finfo(np.float64).eps)


class ExpectileRegressor(RegressorMixin, BaseEstimator):
    r"""Linear expectile regression: asymmetric least squares at many levels.

    For each level :math:`\tau`, with weights :math:`w_i` of mean 1,

    .. math:: \min_{b_0, b} \; \frac{1}{n} \sum_i w_i \,
              |\tau - 1\{e_i < 0\}| \, e_i^2 + \alpha \|b\|_2^2, \qquad
              e_i = y_i - b_0 - b^\top x_i .

    Level 1/2 is the mean: least squares, or ridge regression with the penalty
    :math:`2 n \alpha` in scikit-learn's units. Larger levels weigh positive residuals
    more and lie higher. An expectile moves smoothly with the data and uses the size of
    every residual, where a quantile uses only its sign; it is therefore more efficient
    and less robust.

    Parameters
    ----------
    expectiles : array-like of shape (n_expectiles,), default=(0.05, 0.10, ..., 0.95)
        Levels, strictly increasing, strictly between 0 and 1.
    alpha : float, default=0.0
        Ridge penalty, at least 0. The intercept is not penalized.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    tol : float, default=1e-10
        A step that lowers the objective by less than the share tol^2 of it is the last.
        Mostly the iteration ends before, exactly: no residual changes sign.
    max_iter : int, default=100
        Largest number of iterations a level; about 5 are usual.

    Attributes
    ----------
    coef_ : ndarray of shape (n_expectiles, n_features)
        Coefficients, one row a level.
    intercept_ : ndarray of shape (n_expectiles,)
        Intercepts.
    mean_coef_ : ndarray of shape (n_features,)
        Coefficients of level 1/2, which is fitted whether or not it is asked for.
    mean_intercept_ : float
        Its intercept.
    expectiles_ : ndarray of shape (n_expectiles,)
        The levels.
    quantile_levels_ : ndarray of shape (n_expectiles,)
        Weighted share of the training targets at or below each line: the quantile level
        that the expectile has on average over the training rows.
    n_iter_ : ndarray of shape (n_expectiles,)
        Number of iterations.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the levels are not strictly increasing in (0, 1), if X or y is not finite, or
        a parameter is out of its range.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` iterations were not enough.

    See Also
    --------
    expectile_quantile_level : The quantile levels of expectiles in one law.
    quantile_expectile_level : Which expectiles to ask for.
    MultiQuantileRegressor : Quantiles themselves.

    Notes
    -----
    With an intercept, and weighted means over the training rows,

    .. math:: \overline{b_0 + b^\top x} = \bar y + (2 \tau - 1) \, \overline{|e|},

    so that a line of a level above 1/2 lies above that of the mean on average. In
    single rows the lines can cross. :func:`~uqlib.quantile.sort_quantiles` repairs
    that; its guarantee concerns the pinball loss, and none is claimed for this one.

    Expectiles are no quantiles: what share of targets lies below one depends on their
    law. No coverage is guaranteed.

    References
    ----------
    .. [1] W. K. Newey, J. L. Powell, "Asymmetric Least Squares Estimation and Testing",
       Econometrica 55, 1987.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantile import ExpectileRegressor
    >>> X, y = np.zeros((3, 1)), np.array([0.0, 0.0, 3.0])
    >>> model = ExpectileRegressor(expectiles=[0.2, 0.5, 0.8]).fit(X, y)
    >>> model.predict_expectiles(X[:1]).round(6)
    array([[0.333333, 1.      , 2.      ]])
    """

    def __init__(
        self,
        expectiles: Any = DEFAULT_QUANTILES,
        *,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        tol: float = 1e-10,
        max_iter: int = 100,
    ) -> None:
        self.expectiles = expectiles
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ExpectileRegressor":
        """Fit the lines of all levels, and of the mean.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, finite.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One non-negative weight a row; an integer weight is a repetition.

        Returns
        -------
        self : ExpectileRegressor
            Fitted.
        """
        if y is not None:
            check_not_a_date(y, "y")
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        weight = check_sample_weight(sample_weight, y.size)
        levels = check_quantiles(self.expectiles, name="expectiles")
        self._check_parameters()
        fitted = fit_linear_expectiles(
            X,
            y,
            levels,
            weight,
            alpha=float(self.alpha),
            fit_intercept=bool(self.fit_intercept),
            tol=float(self.tol),
            max_iter=int(self.max_iter),
        )
        if not fitted.converged.all():
            warnings.warn(
                f"max_iter={self.max_iter} iterations were not enough at the levels "
                f"{levels[~fitted.converged].tolist()}. Raise max_iter.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.coef_, self.intercept_ = fitted.coef, fitted.intercept
        self.mean_coef_ = fitted.mean_coef
        self.mean_intercept_ = fitted.mean_intercept
        self.n_iter_ = fitted.n_iter
        self.expectiles_ = levels
        self.quantile_levels_ = self._share_below(X, y, weight)
        return self

    def predict(self, X: Any) -> FloatArray:
        """Predict the mean, which is the expectile of level 1/2.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, finite.

        Returns
        -------
        ndarray of shape (n_samples,)
            Means. They are fitted whether or not 0.5 is among the levels.
        """
        return self._rows(X) @ self.mean_coef_ + self.mean_intercept_

    def predict_expectiles(self, X: Any) -> FloatArray:
        """Predict the expectiles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, finite.

        Returns
        -------
        ndarray of shape (n_samples, n_expectiles)
            One column a level of `expectiles_`. Rows can cross.
        """
        return self._rows(X) @ self.coef_.T + self.intercept_

    def _rows(self, X: Any) -> FloatArray:
        check_is_fitted(self, "coef_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.asarray(X, dtype=np.float64)

    def _check_parameters(self) -> None:
        for name in ("alpha", "tol"):
            value = getattr(self, name)
            real = isinstance(value, Real) and not isinstance(value, bool)
            if not real or not 0 <= value < np.inf:
                raise ValueError(
                    f"{name} must be a finite number of at least 0, got {value!r}."
                )
        count = self.max_iter
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise ValueError(f"max_iter must be an int of at least 1, got {count!r}.")

    def _share_below(self, X: Any, y: FloatArray, weight: Any) -> FloatArray:
        share = np.full(y.size, 1 / y.size) if weight is None else weight / weight.sum()
        X = np.asarray(X, dtype=np.float64)
        rounding = _ROUNDING * np.abs(y).max()
        below = [
            share @ (y <= X @ coef + intercept + rounding)
            for coef, intercept in zip(self.coef_, self.intercept_, strict=True)
        ]
        return np.minimum(below, 1.0)
