"""Linear quantile regression, exact, at many levels and on many rows."""

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from uqlib._core.checks import check_choice, check_not_a_date, check_sample_weight
from uqlib._core.levels import check_quantiles, level_indices
from uqlib._core.linear_quantile import SOLVERS, fit_linear_quantiles
from uqlib._typing import FloatArray
from uqlib.quantile._base import (
    DEFAULT_QUANTILES,
    QuantileRegressorMixin,
    check_non_crossing,
    monotone_rows,
)


class LinearQuantileRegressor(QuantileRegressorMixin, BaseEstimator):
    r"""Linear quantile regression by an interior point, with a certificate.

    For each level :math:`\tau` the coefficients w and the intercept b minimize

    .. math:: \frac{\sum_i c_i \, \psi_\tau(y_i - x_i^\top w - b)}{\sum_i c_i}
              + \alpha \|w\|_1, \qquad \psi_\tau(e) = \max(\tau e, (\tau - 1) e),

    with sample weights :math:`c_i`. The optimum is exact up to `tol`, and the bound
    `dual_gap_` on what is left proves it.

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=(0.05, 0.10, ..., 0.95)
        Levels, strictly increasing, strictly between 0 and 1.
    alpha : float, default=0.0
        Weight of the L1 penalty, at least 0, in the units of y over those of X: scale
        the columns first. The intercept is not penalized.
    solver : {"auto", "frisch_newton", "preprocessing"}, default="auto"
        "frisch_newton" is the interior point on all rows. "preprocessing" applies it
        to the rows close to the fit, with all others added up in two rows, and falls
        back to all rows if the certificate for them fails. "auto" takes the second
        where rows are many. The optimum is the same.
    non_crossing : {None, "sort", "isotonic"}, default=None
        How predicted rows are made non-decreasing, if at all: all fitted levels are
        sorted, or projected, and those asked for are taken.
    fit_intercept : bool, default=True
        Whether there is an intercept.
    tol : float, default=1e-8
        Duality gap that ends the iterations, relative to the objective, or to a
        millionth of the mean absolute deviation of y from its median where the fit is
        closer than that.
    max_iter : int, default=100
        Largest number of interior-point steps for each program.

    Attributes
    ----------
    coef_ : ndarray of shape (n_quantiles, n_features)
        Coefficients, one row a level. Columns that do not vary get 0.
    intercept_ : ndarray of shape (n_quantiles,)
        Intercepts.
    dual_gap_ : ndarray of shape (n_quantiles,)
        Certified bounds on the excess of the objective over its optimum, absolute: in
        the units of y, as the mean pinball loss.
    n_iter_ : ndarray of shape (n_quantiles,)
        Interior-point steps; 0 where the starting point was optimal.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or X or y is not finite.

    Warns
    -----
    ConvergenceWarning
        If a level has a relative gap above `tol` when its iterations end.

    See Also
    --------
    MultiQuantileRegressor : Many levels from any learner with a quantile loss.
    QuantileEnsembleRegressor : Aggregates several quantile models.

    Notes
    -----
    An optimum fits at least as many rows exactly as X has independent columns
    (the intercept counted), except where the penalty sets coefficients to 0. The share
    of rows strictly below the fit therefore differs from the level by at most
    (n_features + 1) / n_samples, on the training rows, without ties. It is no coverage
    on new rows: wrap the regressor in
    :class:`~uqlib.conformal.ConformalizedQuantileRegressor` for that.

    Where several fits are optimal (tied rows, collinear columns), one of them is
    returned. X must be dense. float32 stays float32: it is converted by blocks.

    References
    ----------
    .. [1] R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 46, 1978.
    .. [2] S. Portnoy, R. Koenker, "The Gaussian Hare and the Laplacian Tortoise:
       Computability of Squared-Error versus Absolute-Error Estimators", Statistical
       Science 12, 1997.
    .. [3] S. Mehrotra, "On the Implementation of a Primal-Dual Interior Point Method",
       SIAM Journal on Optimization 2, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantile import LinearQuantileRegressor
    >>> X = np.arange(10.0).reshape(-1, 1)
    >>> y = X.ravel() * np.array([1, 2, 3, 1, 2, 3, 1, 2, 3, 1])
    >>> model = LinearQuantileRegressor(quantiles=[0.1, 0.5, 0.9]).fit(X, y)
    >>> model.predict_quantiles([[4.0]]).round(6)
    array([[ 4.,  8., 12.]])
    """

    def __init__(
        self,
        quantiles: Any = DEFAULT_QUANTILES,
        *,
        alpha: float = 0.0,
        solver: str = "auto",
        non_crossing: str | None = None,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 100,
    ) -> None:
        self.quantiles = quantiles
        self.alpha = alpha
        self.solver = solver
        self.non_crossing = non_crossing
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "LinearQuantileRegressor":
        """Fit all levels.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows, numbers, finite.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, non-negative. A weight of 2 is the same as two rows.

        Returns
        -------
        self : LinearQuantileRegressor
            Fitted.
        """
        levels = check_quantiles(self.quantiles)
        self._check_parameters()
        check_not_a_date(y, "y")
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], y_numeric=True)
        fits = fit_linear_quantiles(
            X,
            np.asarray(y, dtype=np.float64),
            levels,
            check_sample_weight(sample_weight, y.size),
            alpha=float(self.alpha),
            fit_intercept=bool(self.fit_intercept),
            solver=self.solver,
            tol=float(self.tol),
            max_iter=int(self.max_iter),
        )
        self.coef_, self.intercept_ = fits.coef, fits.intercept
        self.dual_gap_, self.n_iter_ = fits.gap, fits.n_iter
        self.quantiles_ = levels
        self._warn_of_gaps(fits.relative_gap)
        return self

    def predict_quantiles(self, X: Any, quantiles: Any = None) -> FloatArray:
        """Predict the quantile matrix.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, numbers, finite.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels among `quantiles_`; None takes all of them.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            Quantiles, one column a level. Rows can cross unless `non_crossing` is set.

        Raises
        ------
        ValueError
            If a level asked for was not fitted.
        """
        check_is_fitted(self, "quantiles_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        if quantiles is None:
            columns = list(range(self.quantiles_.size))
        else:
            columns = level_indices(self.quantiles_, check_quantiles(quantiles))
        if self.non_crossing is None:
            return X @ self.coef_[columns].T + self.intercept_[columns]
        matrix = X @ self.coef_.T + self.intercept_
        return monotone_rows(matrix, self.non_crossing)[:, columns]

    def _check_parameters(self) -> None:
        if not _is_real(self.alpha) or not 0 <= self.alpha < np.inf:
            raise ValueError(
                f"alpha must be a finite number of at least 0, got {self.alpha!r}. "
                "Pass alpha=0.0 for no penalty."
            )
        if not _is_real(self.tol) or not 0 < self.tol < 1:
            raise ValueError(
                f"tol must be a number strictly between 0 and 1, got {self.tol!r}. "
                "Pass tol=1e-8 for eight digits of the objective."
            )
        whole = isinstance(self.max_iter, Integral) and _is_real(self.max_iter)
        if not whole or self.max_iter < 1:
            raise ValueError(
                f"max_iter must be an integer of at least 1, got {self.max_iter!r}. "
                "Few problems need more than 50 steps."
            )
        check_choice("solver", self.solver, SOLVERS)
        check_non_crossing(self.non_crossing)

    def _warn_of_gaps(self, relative_gap: FloatArray) -> None:
        missed = relative_gap > self.tol
        if missed.any():
            warnings.warn(
                f"The levels {self.quantiles_[missed].tolist()} are optimal only up to "
                f"a relative duality gap of {relative_gap.max():.1e}, above "
                f"tol={self.tol:g}, after at most max_iter={self.max_iter} steps. "
                "Increase max_iter, scale or repair columns and targets that are off "
                "by many orders of magnitude, or raise tol if that gap will do.",
                ConvergenceWarning,
                stacklevel=3,
            )


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
