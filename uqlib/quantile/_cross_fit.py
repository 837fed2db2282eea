"""Out-of-fold quantiles: the transformer, and the fold loop that others share."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import check_quantiles, level_names
from uqlib._core.monotone import interpolate_level
from uqlib._fitting import clone_and_fit, partition, warn_if_fitted
from uqlib._predictions import predict_quantiles
from uqlib._typing import FloatArray
from uqlib._validation import check_X, check_X_y, with_input_tags


class CrossFitQuantiles(MetaEstimatorMixin, TransformerMixin, BaseEstimator):
    r"""Turn a quantile regressor into a pipeline step that never leaks the target.

    With folds :math:`k(i)` and :math:`\hat q^{-k}` fitted without fold k,

    .. math:: \texttt{fit\_transform}(X, y)_i = \hat q^{-k(i)}(x_i), \qquad
              \texttt{transform}(X)_i = \hat q(x_i),

    where :math:`\hat q` is fitted on all rows. The next step of a pipeline therefore
    learns from honest predictions, as with scikit-learn's `TargetEncoder`, and
    ``fit(X, y).transform(X)`` is not ``fit_transform(X, y)``.

    Parameters
    ----------
    estimator : estimator
        Anything that gives quantiles: a regressor with `predict_quantiles`, a
        quantile forest, a pipeline that ends in one of them. A `FrozenEstimator` is
        not fitted in the folds: it must not have been trained on these rows.
    cv : int, cross-validation splitter or iterable, default=5
        How the folds are drawn, as everywhere in scikit-learn: an int takes
        consecutive rows. Pass ``KFold(5, shuffle=True)`` if the rows are ordered.
        Every row must lie in exactly one test fold.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib.

    Attributes
    ----------
    estimator_ : estimator
        Fitted on all rows.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels of the columns.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the estimator gives no quantiles, or a row is in no or in several test
        folds.

    See Also
    --------
    SortQuantiles, IsotonicQuantiles : Steps that make the rows monotone.
    uqlib.conformal.ConformalQuantiles : The step that calibrates the levels.

    Notes
    -----
    Out-of-fold predictions come from models that saw fewer rows than the one that
    predicts. Calibration on them has no finite-sample theorem; for one, wrap the
    regressor in :class:`~uqlib.conformal.ConformalizedQuantileRegressor`.

    References
    ----------
    .. [1] R. Fakoor, T. Kim, J. Mueller, A. J. Smola, R. J. Tibshirani, "Flexible
       Model Aggregation for Quantile Regression", arXiv:2103.00083.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import QuantileRegressor
    >>> from uqlib.quantile import CrossFitQuantiles, MultiQuantileRegressor
    >>> X, y = np.zeros((10, 1)), np.arange(10.0)
    >>> model = MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=[0.1, 0.9])
    >>> step = CrossFitQuantiles(model, cv=2).set_output(transform="pandas")
    >>> step.fit_transform(X, y).iloc[[0, -1]].round(6)
       q0.1  q0.9
    0   5.0   9.0
    9   0.0   4.0
    """

    def __init__(
        self, estimator: Any, *, cv: Any = 5, n_jobs: int | None = None
    ) -> None:
        self.estimator = estimator
        self.cv = cv
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "CrossFitQuantiles":
        """Fit the estimator on all rows, as `transform` needs it.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator.

        Returns
        -------
        self : CrossFitQuantiles
            Fitted.
        """
        X, y = check_X_y(self, X, y, reset=True)
        weight = check_sample_weight(sample_weight, y.size)
        warn_if_fitted(self.estimator, self)
        self.estimator_ = clone_and_fit(self.estimator, X, y, weight)
        first_row = _safe_indexing(X, [0])
        self.quantiles_ = predict_quantiles(self.estimator_, first_row).quantiles
        return self

    def fit_transform(self, X: Any, y: Any, sample_weight: Any = None) -> FloatArray:
        """Fit, and return the quantiles of each row from the fold that left it out.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator.

        Returns
        -------
        ndarray or dataframe of shape (n_samples, n_quantiles)
            Out-of-fold quantiles.
        """
        X, y = check_X_y(self, X, y, reset=True)
        weight = check_sample_weight(sample_weight, y.size)
        warn_if_fitted(self.estimator, self)
        splits = partition(check_cv(self.cv), X, y)
        fitted = cross_fit([self.estimator], X, y, splits, weight, None, self.n_jobs)
        self.estimator_, self.quantiles_ = fitted.estimators[0], fitted.quantiles
        return fitted.out_of_fold[:, 0]

    def transform(self, X: Any) -> FloatArray:
        """Return the quantiles of the estimator that was fitted on all rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray or dataframe of shape (n_samples, n_quantiles)
            Quantiles, one column a level.
        """
        check_is_fitted(self, "quantiles_")
        X = check_X(self, X, reset=False)
        return predict_quantiles(self.estimator_, X, self.quantiles_).values

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Return the names of the columns: q0.05, q0.1, ...

        Parameters
        ----------
        input_features : None
            Ignored: the columns are levels, not features.

        Returns
        -------
        ndarray of shape (n_quantiles,)
            Names of dtype object.
        """
        check_is_fitted(self, "quantiles_")
        return np.array(level_names(self.quantiles_), dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = with_input_tags(super().__sklearn_tags__(), [self.estimator])
        tags.target_tags.required = True
        return tags


class CrossFit(NamedTuple):
    """Models for prediction, and out-of-fold quantiles of the training rows.

    `out_of_fold` has shape (n_samples, n_models, n_quantiles).
    """

    estimators: list[Any]
    out_of_fold: FloatArray
    quantiles: FloatArray


class _FoldMean(RegressorMixin, BaseEstimator):
    """The mean of the quantiles of the models of several folds.

    Parameters
    ----------
    estimators : list of estimators
        Fitted.
    quantiles : array-like of shape (n_quantiles,)
        Levels that all of them have.
    """

    def __init__(self, estimators: list[Any], quantiles: Any) -> None:
        self.estimators = estimators
        self.quantiles = quantiles

    @property
    def quantiles_(self) -> FloatArray:
        """The levels."""
        return check_quantiles(self.quantiles)

    def predict_quantiles(self, X: Any, quantiles: Any = None) -> FloatArray:
        """Predict the mean over the models.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels; None takes all.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            Quantiles.
        """
        quantiles = self.quantiles_ if quantiles is None else quantiles
        first, *others = self.estimators
        total = np.array(predict_quantiles(first, X, quantiles).values)
        with np.errstate(invalid="ignore"):
            for model in others:
                total += predict_quantiles(model, X, quantiles).values
        return total / len(self.estimators)

    def predict(self, X: Any) -> FloatArray:
        """Predict the median of the mean.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Medians.
        """
        return interpolate_level(self.predict_quantiles(X), self.quantiles_, 0.5)


def cross_fit(
    estimators: list[Any],
    X: Any,
    y: FloatArray,
    splits: list[tuple[Any, Any]],
    sample_weight: FloatArray | None,
    quantiles: FloatArray | None,
    n_jobs: int | None,
    refit: bool = True,
) -> CrossFit:
    """Fit every model on all rows and on all but each fold, in one parallel loop.

    Parameters
    ----------
    estimators : list of estimators
        Unfitted models; none is changed.
    X, y : array-like
        Training rows.
    splits : list of (train, test)
        A partition of the rows.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights handed to the models.
    quantiles : ndarray of shape (n_quantiles,) or None
        Levels asked of each model; None takes those that the first model has.
    n_jobs : int or None
        As in joblib.
    refit : bool, default=True
        False fits nothing on all rows: the models are the means of those of the folds.

    Returns
    -------
    CrossFit
        Fitted models and out-of-fold quantiles.
    """
    everything = [(slice(None), [])] if refit else []
    tasks = [(train, [test]) for train, test in splits]
    results = _fit_all(
        estimators,
        X,
        y,
        everything + tasks,
        sample_weight,
        quantiles,
        n_jobs,
        not refit,
    )
    fitted, out_of_fold = [], []
    for per_model in results:
        folds = per_model[len(everything) :]
        models = [model for model, _ in folds]
        levels = folds[0][1][0].quantiles
        fitted.append(per_model[0][0] if refit else _FoldMean(models, levels))
        matrix = np.empty((y.size, levels.size))
        for (_, test), (_, predictions) in zip(splits, folds, strict=True):
            matrix[test] = predictions[0].values
        out_of_fold.append(matrix)
    levels = results[0][-1][1][0].quantiles
    return CrossFit(fitted, np.stack(out_of_fold, axis=1), levels)


def nested_cross_fit(
    estimators: list[Any],
    X: Any,
    y: FloatArray,
    splits: list[tuple[Any, Any]],
    sample_weight: FloatArray | None,
    quantiles: FloatArray,
    n_jobs: int | None,
    refit: bool = True,
) -> list[CrossFit]:
    """Cross-fit every model on the training rows of every split.

    The model without the folds k and l gives the quantiles of fold l to split k and
    those of fold k to split l: K (K - 1) / 2 trainings serve all splits.

    Parameters
    ----------
    estimators : list of estimators
        Unfitted models; none is changed.
    X, y : array-like
        The rows.
    splits : list of (train, test)
        At least three; the test rows are a partition, the training rows all others.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights handed to the models.
    quantiles : ndarray of shape (n_quantiles,)
        Levels asked of each model.
    n_jobs : int or None
        As in joblib.
    refit : bool, default=True
        Fit every model without one fold too; False takes the means of the others.

    Returns
    -------
    list of CrossFit
        One a split; `out_of_fold` has its training rows in their order.
    """
    fold = np.empty(y.size, dtype=int)
    for k, (_, test) in enumerate(splits):
        fold[test] = k
    pairs = [(k, l) for k in range(len(splits)) for l in range(k)]
    singles = list(range(len(splits))) if refit else []
    tasks = [
        (np.flatnonzero((fold != k) & (fold != l)), [splits[k][1], splits[l][1]])
        for k, l in pairs
    ]
    tasks += [(splits[k][0], []) for k in singles]
    results = _fit_all(
        estimators, X, y, tasks, sample_weight, quantiles, n_jobs, not refit
    )
    nested = []
    for k, (train, _) in enumerate(splits):
        models = []
        values = np.empty((y.size, len(estimators), len(quantiles)))
        for j, per_model in enumerate(results):
            members = []
            for pair, (model, predictions) in zip(pairs, per_model, strict=False):
                if k not in pair:
                    continue
                other = pair.index(k) ^ 1  # where the other fold stands in the pair
                rows = splits[pair[other]][1]
                values[rows, j] = predictions[other].values
                members.append(model)
            alone = (
                per_model[len(pairs) + k][0] if refit else _FoldMean(members, quantiles)
            )
            models.append(alone)
        nested.append(CrossFit(models, values[train], quantiles))
    return nested


def _fit_all(
    estimators: list[Any],
    X: Any,
    y: FloatArray,
    tasks: list[tuple[Any, list[Any]]],
    sample_weight: FloatArray | None,
    quantiles: FloatArray | None,
    n_jobs: int | None,
    keep: bool,
) -> list[list[tuple[Any, list[Any]]]]:
    """Return for every model and task the fitted model and its predictions.

    A task is the training rows and the parts to predict. A model that predicted is
    kept only if asked for.
    """
    results = Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_predict)(model, X, y, sample_weight, task, quantiles, keep)
        for model in estimators
        for task in tasks
    )
    size = len(tasks)
    return [results[k : k + size] for k in range(0, len(results), size)]


def _fit_and_predict(
    estimator: Any,
    X: Any,
    y: FloatArray,
    sample_weight: FloatArray | None,
    task: tuple[Any, list[Any]],
    quantiles: FloatArray | None,
    keep: bool,
) -> tuple[Any, list[Any]]:
    train, parts = task
    if isinstance(train, slice):
        return clone_and_fit(estimator, X, y, sample_weight), []
    weight = None if sample_weight is None else sample_weight[train]
    model = clone_and_fit(estimator, _safe_indexing(X, train), y[train], weight)
    predictions = [
        predict_quantiles(model, _safe_indexing(X, part), quantiles) for part in parts
    ]
    return (model if keep or not parts else None), predictions
