"""Many quantile levels from any learner."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import check_quantiles, level_indices
from uqlib._fitting import clone_and_fit, is_frozen, warn_if_fitted
from uqlib._predictions import predict_quantiles
from uqlib._quantile_models import quantile_parameter
from uqlib._typing import FloatArray
from uqlib._validation import (
    check_finite_predictions,
    check_X,
    check_X_y,
    with_input_tags,
)
from uqlib.quantile._base import (
    DEFAULT_QUANTILES,
    QuantileRegressorMixin,
    as_matrix,
)


class MultiQuantileRegressor(MetaEstimatorMixin, QuantileRegressorMixin, BaseEstimator):
    r"""Quantile regression at many levels with any learner that has a quantile loss.

    For each level :math:`\tau` a clone of the learner minimizes the pinball loss

    .. math:: \psi_\tau(e) = \max(\tau e, (\tau - 1) e), \quad e = y - q_\tau(x).

    Learners that give many levels in one fit (XGBoost), or at prediction (quantile
    forests), are fitted once and used as such.

    Parameters
    ----------
    estimator : estimator
        A regressor with a parameter for the level, or a pipeline that ends in one.
        scikit-learn's `HistGradientBoostingRegressor`, `GradientBoostingRegressor` and
        `QuantileRegressor`, LightGBM, XGBoost and quantile-forest are recognized, and
        their loss is set to the quantile loss.
    quantiles : array-like of shape (n_quantiles,), default=(0.05, 0.10, ..., 0.95)
        Levels, strictly increasing, strictly between 0 and 1.
    quantile_param : str, default="auto"
        Name of the parameter that takes one level, in the syntax of `set_params`
        (``"regressor__quantile"``). "auto" recognizes the learners above, and any with
        a parameter called `quantile`. A name makes one fit a level, whatever the
        learner can do.
    n_jobs : int, default=None
        Number of levels fitted in parallel, as in joblib.

    Attributes
    ----------
    estimators_ : list of estimators
        One fitted learner a level, or a single one that gives all levels.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the levels are not strictly increasing in (0, 1), or the learner has no
        parameter for them.

    See Also
    --------
    QuantileEnsembleRegressor : Aggregates several of these.
    SortQuantiles, IsotonicQuantiles : Repair rows whose levels cross.

    Notes
    -----
    Levels that are fitted one by one can cross: see
    :func:`~uqlib.quantile.crossing_rate`. No coverage is guaranteed; a conformal
    calibrator around this regressor gives it.

    References
    ----------
    .. [1] R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 46, 1978.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import QuantileRegressor
    >>> from uqlib.quantile import MultiQuantileRegressor
    >>> X, y = np.zeros((9, 1)), np.arange(1.0, 10.0)
    >>> model = MultiQuantileRegressor(
    ...     QuantileRegressor(alpha=0), quantiles=[0.25, 0.5, 0.75]
    ... )
    >>> model.fit(X, y).predict_quantiles(X[:1]).round(6)
    array([[3., 5., 7.]])
    """

    def __init__(
        self,
        estimator: Any,
        *,
        quantiles: Any = DEFAULT_QUANTILES,
        quantile_param: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.quantiles = quantiles
        self.quantile_param = quantile_param
        self.n_jobs = n_jobs

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "MultiQuantileRegressor":
        """Fit the learner at every level.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows, as the learner takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the learner.

        Returns
        -------
        self : MultiQuantileRegressor
            Fitted.
        """
        X, y = check_X_y(self, X, y, reset=True)
        weight = check_sample_weight(sample_weight, y.size)
        levels = check_quantiles(self.quantiles)
        how = quantile_parameter(self.estimator, self.quantile_param)
        warn_if_fitted(self.estimator, self)
        if how.kind == "single":
            values = [{how.name: float(level)} for level in levels]
        else:
            values = [{how.name: levels.tolist()} if how.name else {}]
        self.estimators_ = Parallel(n_jobs=self.n_jobs)(
            delayed(clone_and_fit)(self.estimator, X, y, weight, how.fixed | value)
            for value in values
        )
        self.quantiles_ = levels
        self._one_model_a_level = how.kind == "single"
        return self

    def predict_quantiles(self, X: Any, quantiles: Any = None) -> FloatArray:
        """Predict the quantile matrix.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the learner takes them.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels among `quantiles_`, or any level if the learner chooses levels at
            prediction. None takes all of `quantiles_`.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            Quantiles, one column a level. Rows can cross.

        Raises
        ------
        ValueError
            If a level asked for was not fitted.
        """
        check_is_fitted(self, "quantiles_")
        X = check_X(self, X, reset=False)
        levels = self.quantiles_ if quantiles is None else check_quantiles(quantiles)
        if not self._one_model_a_level:
            return predict_quantiles(self.estimators_[0], X, levels).values
        models = [self.estimators_[k] for k in level_indices(self.quantiles_, levels)]
        matrix = as_matrix([model.predict(X) for model in models])
        return check_finite_predictions(matrix, self.estimator)

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])


def at_levels(estimator: Any, quantiles: FloatArray) -> Any:
    """Return an unfitted quantile regressor that has the given levels.

    Parameters
    ----------
    estimator : estimator
        A quantile regressor or a learner that `MultiQuantileRegressor` takes; never
        changed.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    estimator
        A clone with the levels set, or the learner wrapped; a frozen estimator as it
        is.
    """
    how = quantile_parameter(estimator)
    copy = estimator if is_frozen(estimator) else clone(estimator)
    levels = tuple(np.asarray(quantiles).tolist())
    if how.kind != "own":
        return MultiQuantileRegressor(copy, quantiles=levels)
    return copy.set_params(**{how.name: levels}) if how.name else copy
