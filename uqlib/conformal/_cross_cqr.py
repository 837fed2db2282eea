"""CV+ around quantile regressors: every row trains and every row calibrates."""

from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import (
    central_pair,
    check_confidence_level,
    exact_level,
    level_indices,
)
from uqlib._core.ranks import rank_from_fraction, union_order_statistic, warn_infinite
from uqlib._core.scores import next_larger, outward_interval, quantile_pair_scores
from uqlib._fitting import (
    draw_seeds,
    fit_each_fold,
    is_frozen,
    partition,
    seeded_clone,
    shuffled_splitter,
    warn_if_fitted,
)
from uqlib._predictions import predict_point, predict_quantiles
from uqlib._typing import FloatArray
from uqlib._validation import (
    check_finite_predictions,
    check_X,
    check_X_y,
    with_input_tags,
)

# Rows are predicted in chunks that hold at most so many intervals of the fold models.
_CHUNK = 2**20


# Why the guaranteed bounds hold for these scores, and the first for folds of any sizes.
# Let s(x, y) of fold k be the score of a new row under the model without fold k.
#
# 1. If y lies above the upper end, then y > u_-k(i)(x) + s_i and hence
#    s(x, y) > s_i for at least (n + 1) p of the rows i; likewise below. So
#    #{i: s_i >= s(x, y)} <= n - (n + 1) p = (n + 1) alpha - 1.
# 2. Given the rows outside fold k, the new row and the m_k rows of fold k are
#    exchangeable: p_k = (1 + #{i in fold k: s_i >= s(x, y)}) / (m_k + 1) is a
#    p-value. The mean of the p_k with the weights (m_k + 1) / (n + K) is then at
#    most ((n + 1) alpha - 1 + K) / (n + K).
# 3. A weighted mean of p-values is <= t with probability at most 2 t [3]: with
#    g(p) = max(0, 2 - p / t), 1{mean <= t} <= g(mean) <= mean of the g(p_k), and
#    E g(U) = 2 t. Here 2 t = 2 alpha + 2 (1 - alpha) (K - 1) / (n + K), at most
#    2 alpha + 2 (1 - 1 / K) / (n / K + 1).
#
# The other term compares scores of rows pairwise under models without both folds
# [1]: it takes equal folds and a symmetric fit, and any score [2].


class CrossConformalizedQuantileRegressor(
    MetaEstimatorMixin, RegressorMixin, BaseEstimator
):
    r"""Intervals of a quantile regressor that train and calibrate on all rows (CV+).

    With K folds, :math:`k(i)` the fold of row i, :math:`l_{-k}, u_{-k}` the quantiles
    of the levels :math:`\alpha / 2` and :math:`1 - \alpha / 2`, :math:`\alpha = 1 - p`,
    of the model fitted without fold k, and n rows,

    .. math:: s_i &= \max(l_{-k(i)}(x_i) - y_i, \; y_i - u_{-k(i)}(x_i)), \\
              C(x) &= [\text{the } \lfloor (n + 1) \alpha \rfloor
              \text{-th smallest of } l_{-k(i)}(x) - s_i, \;
              \text{the } \lceil (n + 1) p \rceil
              \text{-th smallest of } u_{-k(i)}(x) + s_i] .

    With ``symmetric=False`` each end has its own one-sided scores and the level
    :math:`\alpha / 2`.

    Parameters
    ----------
    estimator : estimator
        Any quantile regressor with both levels: one with `predict_quantiles`, a
        quantile forest, a pipeline that ends in one or in a quantile transformer. It is
        cloned and fitted once a fold; one with a method `fit_folds` fits all folds
        itself, which lets it share work between them.
    confidence_level : float, default=0.9
        The level p, strictly between 0 and 1. What is guaranteed is less: see below.
    symmetric : bool, default=True
        Score a row by its distance to the interval. False scores each end alone.
    cv : int, cross-validation splitter or iterable, default=5
        The folds. An int draws shuffled folds with `random_state`. Every row must lie
        in exactly one test fold. ``LeaveOneOut()`` gives the jackknife+.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
        Without effect on an estimator with `fit_folds`, which has its own.
    random_state : int, RandomState instance or None, default=None
        Draws the folds, and seeds the estimator where its own `random_state` is None,
        in all folds alike.

    Attributes
    ----------
    estimators_ : list of estimators
        The model of each fold, fitted without it.
    quantiles_ : ndarray of shape (n_quantiles,)
        Their levels.
    scores_ : ndarray of shape (n_samples,) or (n_samples, 2)
        Out-of-fold scores; one column for each end if not symmetric.
    fold_ : ndarray of shape (n_samples,)
        The fold of each row: an index into `estimators_`.
    n_calibration_ : int
        Number of rows.
    confidence_level_ : float
        The level of the last fit.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the estimator is frozen or lacks one of the two levels (the message lists
        those there are), if the folds are no partition of the rows, if y is not finite,
        or a parameter is out of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the rows are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed.

    See Also
    --------
    ConformalizedQuantileRegressor : Holds rows out instead: one fit, and coverage p.
    uqlib.quantile.QuantileEnsembleRegressor : Shares its models between the folds.

    Notes
    -----
    .. rubric:: Guarantee

    If the rows and a new row are exchangeable, and the folds are drawn without looking
    at them,

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha - \frac{2 (1 - 1 / K)}{n / K + 1} .

    If moreover all folds have n / K rows, and all rows outside a fold train its model
    in a way that does not depend on their order, then [1]_

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha - \min\left(
              \frac{2 (1 - 1 / K)}{n / K + 1}, \; \frac{1 - K / n}{K + 1} \right)
              \ge 1 - 2 \alpha - \sqrt{2 / n},

    which is :math:`1 - 2 \alpha` for the jackknife+, K = n. Nothing higher is
    guaranteed. Coverage is mostly close to p in practice, which is to be measured.
    With ``symmetric=False`` each of :math:`P(y < C(x))` and :math:`P(y > C(x))` is at
    most :math:`\alpha` plus the last term of the bound that applies.

    Sample weights change the training alone: each row counts once among the scores.

    References
    ----------
    .. [1] R. F. Barber, E. J. Candes, A. Ramdas, R. J. Tibshirani, "Predictive
       Inference with the Jackknife+", arXiv:1905.02928.
    .. [2] C. Gupta, A. K. Kuchibhotla, A. K. Ramdas, "Nested Conformal Prediction and
       Quantile Out-of-Bag Ensemble Methods", arXiv:1910.10562.
    .. [3] V. Vovk, R. Wang, "Combining p-values via Averaging", arXiv:1212.4966.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import QuantileRegressor
    >>> from uqlib.conformal import CrossConformalizedQuantileRegressor
    >>> from uqlib.quantile import MultiQuantileRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> base = MultiQuantileRegressor(
    ...     QuantileRegressor(alpha=0), quantiles=[0.05, 0.5, 0.95]
    ... )
    >>> model = CrossConformalizedQuantileRegressor(base, random_state=0).fit(X, y)
    >>> model.predict_interval(X).shape, len(model.estimators_)
    ((442, 2), 5)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        symmetric: bool = True,
        cv: Any = 5,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "CrossConformalizedQuantileRegressor":
        """Fit a model without each fold and score the fold with it.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training.

        Returns
        -------
        self : CrossConformalizedQuantileRegressor
            Fitted.
        """
        X, y = check_X_y(self, X, y, reset=True)
        level = check_confidence_level(self.confidence_level)
        weight = check_sample_weight(sample_weight, y.size)
        self._check_not_frozen()
        warn_if_fitted(self.estimator, self)
        random_state = (
            None if self.random_state is None else check_random_state(self.random_state)
        )
        splits = partition(shuffled_splitter(self.cv, random_state), X, y)
        base = seeded_clone(self.estimator, draw_seeds(random_state, 1)[0])
        models = fit_each_fold(base, X, y, splits, weight, self.n_jobs)
        pair = np.array(central_pair(level))
        quantiles, values = _out_of_fold(models, X, splits, pair)
        scores = _pair_scores(y, values, quantiles, pair, self.symmetric)
        fold = np.empty(y.size, dtype=np.intp)
        for k, (_, test) in enumerate(splits):
            fold[test] = k
        if _rank(y.size, level, self.symmetric) > y.size:
            warn_infinite(y.size, _one_sided(level, self.symmetric))
        # From here on nothing can fail: a fit that raised has left the last one alone.
        self.estimators_, self.quantiles_ = models, quantiles
        self.scores_, self.fold_ = scores, fold
        self.n_calibration_, self.confidence_level_ = int(y.size), float(level)
        # A copy, as y is the user's. Other levels are scored when they are asked for.
        self._calibration_y, self._calibration_values = y.copy(), values
        return self

    def predict(self, X: Any) -> FloatArray:
        """Predict the point: the mean of the medians of the fold models.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Mean over the fold models of the point that each predicts, which is the
            median of a quantile regressor. No model is fitted on all rows.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        with np.errstate(invalid="ignore"):
            total = sum(predict_point(model, X) for model in self.estimators_)
        mean = np.asarray(total / len(self.estimators_))
        return check_finite_predictions(mean, self.estimator)

    def predict_interval(
        self, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Predict intervals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            The level p, strictly between 0 and 1, any whose pair of levels is among
            `quantiles_`; None takes that of the last fit.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the rows are too few.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        level = exact_level(self.confidence_level_)
        if confidence_level is not None:
            level = check_confidence_level(confidence_level)
        shifts = self._sorted_shifts(level)
        n_samples, symmetric = _num_samples(X), self.scores_.ndim == 1
        rank = _rank(self.n_calibration_, level, symmetric)
        if rank > self.n_calibration_:
            if confidence_level is not None:  # fit has warned of its own level
                warn_infinite(self.n_calibration_, _one_sided(level, symmetric))
            return np.tile([-np.inf, np.inf], (n_samples, 1))
        size = max(1, _CHUNK // len(self.estimators_))
        chunks = [X]
        if n_samples > size:
            starts = range(0, n_samples, size)
            chunks = (_safe_indexing(X, slice(s, s + size)) for s in starts)
        pair = central_pair(level)
        return np.concatenate(
            [self._chunk_interval(chunk, pair, shifts, rank) for chunk in chunks]
        )

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _check_not_frozen(self) -> None:
        if is_frozen(self.estimator):
            raise ValueError(
                "estimator is a FrozenEstimator, but a model must be fitted without "
                "each fold. Pass the estimator itself, or calibrate the frozen one "
                "with ConformalizedQuantileRegressor on rows that it was not trained "
                "on."
            )

    def _sorted_shifts(self, level: Fraction) -> list[list[FloatArray]]:
        """Return what is added outwards at the lower and upper end, sorted by fold."""
        symmetric = self.scores_.ndim == 1  # as it was fitted
        pair = np.array(central_pair(level))
        y, values = self._calibration_y, self._calibration_values
        scores = _pair_scores(y, values, self.quantiles_, pair, symmetric)
        ends = [scores, scores] if symmetric else list(scores.T)
        stops = np.cumsum(np.bincount(self.fold_, minlength=len(self.estimators_)))
        orders = [np.lexsort((end, self.fold_)) for end in ends]
        return [
            np.split(next_larger(end[order]), stops[:-1])
            for end, order in zip(ends, orders, strict=True)
        ]

    def _chunk_interval(
        self, X: Any, pair: Any, shifts: list[list[FloatArray]], rank: int
    ) -> FloatArray:
        pairs = [predict_quantiles(m, X, pair).values for m in self.estimators_]
        values = np.stack(pairs, axis=1)
        # Each end is rounded outwards as `upper_end` does; that keeps the order of the
        # ends, so the last rounding can wait until one of them is chosen. The lower end
        # is the upper end of the mirror image, floor((n + 1) alpha) from below being
        # n + 1 - floor((n + 1) alpha) = ceil((n + 1) p) from above.
        lower = union_order_statistic(-values[:, :, 0], shifts[0], rank)
        upper = union_order_statistic(values[:, :, 1], shifts[1], rank)
        return outward_interval(-next_larger(lower), next_larger(upper))


def _one_sided(level: Fraction, symmetric: bool) -> Fraction:
    return level if symmetric else 1 - (1 - level) / 2


def _rank(n: int, level: Fraction, symmetric: bool) -> int:
    """Return the rank of both ends, counted from the inside outwards."""
    return rank_from_fraction(n, _one_sided(level, symmetric))


def _out_of_fold(
    models: list[Any], X: Any, splits: list[tuple[Any, Any]], pair: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the levels of the models and the quantiles of each row left out."""
    first = _safe_indexing(X, splits[0][1][:1])
    quantiles = predict_quantiles(models[0], first).quantiles
    try:
        level_indices(quantiles, pair)
    except ValueError:
        # The levels that a model has by default need not be all it can give.
        quantiles = predict_quantiles(models[0], first, pair).quantiles
    values = np.empty((_num_samples(X), quantiles.size))
    for model, (_, test) in zip(models, splits, strict=True):
        rows = _safe_indexing(X, test)
        values[test] = predict_quantiles(model, rows, quantiles).values
    return quantiles, values


def _pair_scores(
    y: FloatArray,
    values: FloatArray,
    quantiles: FloatArray,
    pair: FloatArray,
    symmetric: bool,
) -> FloatArray:
    columns = level_indices(quantiles, pair)
    below, above = quantile_pair_scores(y, values[:, columns])
    return np.maximum(below, above) if symmetric else np.column_stack([below, above])
