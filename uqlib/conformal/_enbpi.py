"""Ensemble batch prediction intervals: bootstrap ensembles over a time series."""

from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._core.online import residual_pair
from uqlib._core.online_choice import check_count
from uqlib._core.outward import lower_end, outward_interval, upper_end
from uqlib._core.ranks import rows_needed, warn_infinite
from uqlib._fitting import (
    clone_and_fit,
    draw_seeds,
    is_frozen,
    seeded_clone,
    warn_if_fitted,
)
from uqlib._predictions import predict_point
from uqlib._typing import BoolArray, FloatArray
from uqlib._validation import (
    check_finite_predictions,
    check_X,
    check_X_y,
    with_input_tags,
)

# Elements of the largest array of predictions: rows times models.
_CHUNK = 2**18


class EnbPIRegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    r"""Intervals of a bootstrap ensemble whose residuals follow the stream.

    With models :math:`f^b` of B bags :math:`S_b` and residuals e of the last rows,

    .. math:: C(x) = [\hat y(x) + e_{(i)}, \; \hat y(x) + e_{(j)}], \qquad
              e_t = y_t - \operatorname*{mean}_{b : t \notin S_b} f^b(x_t),

    where j - i is the smallest that holds the level, and the pair the shortest such.
    Rows are in time order. `partial_fit` lets new residuals join and the oldest leave;
    no model is ever fitted again.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted once a bag.
    confidence_level : float, default=0.9
        Coverage p asked for, strictly between 0 and 1.
    n_estimators : int, default=30
        Number B of bags.
    block_length : int, default=None
        Bags are made of blocks of this many neighboring rows, drawn with replacement; 1
        draws single rows. None takes the cube root of the number of rows, rounded.
    aggregate : {"mean", "median"}, default="mean"
        How the predictions of several models become one.
    optimize_beta : bool, default=True
        Take the shortest pair of order statistics. False takes equal tails.
    window : int, default=None
        How many of the last residuals are kept; None keeps as many as `fit` left.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the bags, and seeds what the estimator leaves unset.

    Attributes
    ----------
    estimators_ : list of estimators
        One fitted model a bag.
    model_weights_ : ndarray of shape (n_estimators,)
        Weight of each model in the point prediction of the mean: what it weighs in the
        leave-one-out predictors, averaged over the training rows.
    residuals_ : ndarray of shape (n_residuals,)
        Signed residuals that count now, in time order.
    confidence_level_ : float
        The level of the last fit.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, every row is in every bag,
        or the estimator is frozen or predicts NaN.

    Warns
    -----
    InfiniteIntervalWarning
        If the residuals are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed: clones of it are fitted.

    See Also
    --------
    OnlineConformalRegressor : One model, and a level that follows its misses.

    Notes
    -----
    .. rubric:: Guarantee

    None in finite samples. Coverage tends to p as the number of residuals grows if the
    errors of the model are stationary and strongly mixing and the estimated residuals
    converge to them [1]_; whether a model and a series are of that kind is not checked.

    Bags are made of blocks, where the reference draws single rows (``block_length=1``).
    The ranks are those that would be exact for exchangeable residuals and a pair fixed
    beforehand: :math:`j - i \ge (n + 1) p` of n residuals, so that a finite interval
    needs :math:`n \ge 2 / \alpha - 1` of them. Choosing the shortest pair costs some
    coverage. A row that is in every bag has no residual of its own and is left out.

    With ``aggregate="mean"`` the point is the mean over the training rows of their
    leave-one-out predictors, which is a weighted mean of the B models; with "median" it
    is the median of all models. Memory is of the order of rows times B, never of rows
    squared.

    References
    ----------
    .. [1] C. Xu, Y. Xie, "Conformal Prediction Interval for Dynamic Time-Series",
       arXiv:2010.09107.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import EnbPIRegressor
    >>> X = np.random.default_rng(0).normal(size=(400, 1))
    >>> y = X[:, 0] + np.sin(np.arange(400))
    >>> model = EnbPIRegressor(Ridge(), random_state=0).fit(X[:300], y[:300])
    >>> interval = model.predict_interval_online(X[300:], y[300:])
    >>> interval.shape, model.residuals_.shape
    ((100, 2), (300,))
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        n_estimators: int = 30,
        block_length: int | None = None,
        aggregate: str = "mean",
        optimize_beta: bool = True,
        window: int | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.n_estimators = n_estimators
        self.block_length = block_length
        self.aggregate = aggregate
        self.optimize_beta = optimize_beta
        self.window = window
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "EnbPIRegressor":
        """Fit a model on each bag and score each row by the models without it.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows in time order, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.

        Returns
        -------
        self : EnbPIRegressor
            Fitted.
        """
        X, y = check_X_y(self, X, y, reset=True)
        level = check_confidence_level(self.confidence_level)
        window = self._check_parameters(y.size)
        warn_if_fitted(self.estimator, self)
        seeded = self.random_state is not None
        random_state = check_random_state(self.random_state)
        bags = _draw_bags(
            y.size, self.n_estimators, self._block_length(y.size), random_state
        )
        seeds = draw_seeds(random_state if seeded else None, len(bags))
        models = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_bag)(self.estimator, X, y, bag, seed)
            for bag, seed in zip(bags, seeds, strict=True)
        )
        left_out = _left_out(bags, y.size)
        scored = left_out.any(axis=1)
        if not scored.any():
            raise ValueError(
                f"With n_samples={y.size}, n_estimators={len(bags)} and block_length="
                f"{self.block_length!r} every row is in every bag, so that no row has "
                "a residual. Pass more rows, more estimators or a shorter block."
            )
        predicted = _leave_one_out(models, X, left_out, self.aggregate)
        residuals = (y - predicted)[scored]
        if window is None:
            window = residuals.size
        # From here on nothing can fail: a fit that raised has left the last one alone.
        self.estimators_, self.model_weights_ = models, _model_weights(left_out[scored])
        self.confidence_level_, self._window = float(level), window
        self._aggregate, self._shortest = self.aggregate, bool(self.optimize_beta)
        self._keep(residuals[-window:])
        return self

    def partial_fit(self, X: Any, y: Any) -> "EnbPIRegressor":
        """Let the residuals of new rows join and the oldest leave; fit no model.

        On an unfitted estimator this is `fit`.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            New rows in time order.
        y : array-like of shape (n_samples,)
            Their target, finite.

        Returns
        -------
        self : EnbPIRegressor
            With the window at its new place.
        """
        if not hasattr(self, "residuals_"):
            return self.fit(X, y)
        X, y = check_X_y(self, X, y, reset=False)
        self._slide(y - self._point(X))
        return self

    def predict(self, X: Any) -> FloatArray:
        """Predict the point: the aggregate of the models.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Point predictions.
        """
        check_is_fitted(self, "residuals_")
        return self._point(check_X(self, X, reset=False))

    def predict_interval(
        self, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Predict the intervals of the next rows, all from the current residuals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of `fit`.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the residuals are too few.
        """
        check_is_fitted(self, "residuals_")
        X = check_X(self, X, reset=False)
        level = self._level(confidence_level)
        pair = residual_pair(self._ordered, level, self._shortest)
        ends = np.tile(pair, (_num_samples(X), 1))
        self._warn_if_infinite(ends, level)
        return _interval(self._point(X), ends)

    def predict_interval_online(
        self, X: Any, y: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Run a stream: predict each row's interval before its target is used.

        The state afterwards is that of `partial_fit` on the same rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            New rows in time order.
        y : array-like of shape (n_samples,)
            Their target, finite.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of `fit`.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, each from the rows before it alone.
        """
        check_is_fitted(self, "residuals_")
        X, y = check_X_y(self, X, y, reset=False)
        level = self._level(confidence_level)
        point = self._point(X)
        residuals = y - point
        joined = np.concatenate([self.residuals_, residuals])
        ordered, ends = self._ordered, np.empty((y.size, 2))
        oldest = 0
        for t, residual in enumerate(residuals):
            ends[t] = residual_pair(ordered, level, self._shortest)
            ordered = np.insert(ordered, np.searchsorted(ordered, residual), residual)
            if ordered.size > self._window:
                leaving = np.searchsorted(ordered, joined[oldest])
                ordered, oldest = np.delete(ordered, leaving), oldest + 1
        self._warn_if_infinite(ends, level)
        self._slide(residuals)
        return _interval(point, ends)

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _check_parameters(self, n_samples: int) -> int | None:
        """Return the window, after a look at everything that can be wrong."""
        if is_frozen(self.estimator):
            raise ValueError(
                "estimator is a FrozenEstimator, but a model must be fitted on each "
                "bag. Pass the estimator itself, or calibrate the frozen one with "
                "OnlineConformalRegressor."
            )
        check_count(self.n_estimators, "n_estimators")
        if self.aggregate not in ("mean", "median"):
            raise ValueError(
                f"aggregate={self.aggregate!r} must be 'mean' or 'median'."
            )
        if self._block_length(n_samples) > n_samples:
            raise ValueError(
                f"block_length={self.block_length!r} is longer than the series: "
                f"n_samples={n_samples}. Pass a shorter block."
            )
        return None if self.window is None else check_count(self.window, "window")

    def _block_length(self, n_samples: int) -> int:
        if self.block_length is None:
            return max(1, round(n_samples ** (1 / 3)))
        return check_count(self.block_length, "block_length")

    def _level(self, confidence_level: float | None) -> Fraction:
        if confidence_level is None:
            return exact_level(self.confidence_level_)
        return check_confidence_level(confidence_level)

    def _point(self, X: Any) -> FloatArray:
        return _aggregate_all(
            self.estimators_, X, self.model_weights_, self._aggregate, self.estimator
        )

    def _slide(self, residuals: FloatArray) -> None:
        self._keep(np.concatenate([self.residuals_, residuals])[-self._window :])

    def _keep(self, residuals: FloatArray) -> None:
        self.residuals_, self._ordered = residuals, np.sort(residuals)

    def _warn_if_infinite(self, ends: FloatArray, level: Fraction) -> None:
        sided = 1 - (1 - level) / 2
        # Residuals that are infinite themselves are the model's, not too few.
        if np.isinf(ends).any() and self.residuals_.size < rows_needed(sided):
            warn_infinite(self.residuals_.size, sided)


def _draw_bags(n_samples: int, n_bags: int, length: int, random_state: Any) -> Any:
    """Return row numbers of shape (n_bags, n_samples), in blocks of neighbors."""
    n_blocks = -(-n_samples // length)
    starts = random_state.randint(n_samples - length + 1, size=(n_bags, n_blocks))
    rows = starts[:, :, None] + np.arange(length)
    return rows.reshape(n_bags, -1)[:, :n_samples]


def _fit_bag(estimator: Any, X: Any, y: FloatArray, bag: Any, seed: int | None) -> Any:
    rows = _safe_indexing(X, bag)
    return clone_and_fit(seeded_clone(estimator, seed), rows, y[bag])


def _left_out(bags: Any, n_samples: int) -> BoolArray:
    """Return whether a row is in none of the draws of a bag, (n_samples, n_bags)."""
    left_out = np.ones((n_samples, len(bags)), dtype=bool)
    for b, bag in enumerate(bags):
        left_out[bag, b] = False
    return left_out


def _chunks(n_samples: int, n_models: int) -> list[slice]:
    size = max(1, _CHUNK // n_models)
    return [
        slice(s, min(s + size, n_samples)) for s in range(0, max(n_samples, 1), size)
    ]


def _predictions(models: list[Any], X: Any) -> FloatArray:
    return np.column_stack([predict_point(model, X) for model in models])


def _leave_one_out(
    models: list[Any], X: Any, left_out: BoolArray, aggregate: str
) -> FloatArray:
    """Return for each row the aggregate of the models without it; NaN if none."""
    result = np.full(len(left_out), np.nan)
    for chunk in _chunks(len(left_out), len(models)):
        values = _predictions(models, _safe_indexing(X, chunk))
        values[~left_out[chunk]] = np.nan
        scored = left_out[chunk].any(axis=1)
        reduce = np.nanmean if aggregate == "mean" else np.nanmedian
        result[chunk][scored] = reduce(values[scored], axis=1)
    return result


# The mean over rows i of the mean over models b without row i, at any x, is
#     1/n sum_i 1/|B_i| sum_{b in B_i} f^b(x) = sum_b c_b f^b(x),
#     c_b = 1/n sum_{i not in S_b} 1/|B_i|,
# so that no predictor is ever evaluated for each training row. The c_b sum to 1.
def _model_weights(left_out: BoolArray) -> FloatArray:
    share = 1 / left_out.sum(axis=1)
    sums = np.array([share[column].sum() for column in left_out.T])
    return np.asarray(sums / len(left_out))


def _aggregate_all(
    models: list[Any], X: Any, weights: FloatArray, aggregate: str, source: Any
) -> FloatArray:
    parts = []
    for chunk in _chunks(_num_samples(X), len(models)):
        values = _predictions(models, _safe_indexing(X, chunk))
        parts.append(
            values @ weights if aggregate == "mean" else np.median(values, axis=1)
        )
    return check_finite_predictions(np.concatenate(parts), source)


def _interval(point: FloatArray, ends: FloatArray) -> FloatArray:
    return outward_interval(lower_end(point, ends[:, 0]), upper_end(point, ends[:, 1]))
