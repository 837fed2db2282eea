"""Out-of-fold quantiles: the transformer, and the fold loop that others share."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, TransformerMixin
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import level_names
from uqlib._fitting import clone_and_fit, warn_if_fitted
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
    """Models fitted on all rows, and the out-of-fold quantiles of their clones.

    `out_of_fold` has shape (n_samples, n_models, n_quantiles).
    """

    estimators: list[Any]
    out_of_fold: FloatArray
    quantiles: FloatArray


def partition(splitter: Any, X: Any, y: FloatArray) -> list[tuple[Any, Any]]:
    """Return the splits, provided that every row is in exactly one test fold.

    Parameters
    ----------
    splitter : cross-validation splitter
        As `sklearn.model_selection.check_cv` returns it.
    X, y : array-like
        The rows.

    Returns
    -------
    list of (train, test)
        Arrays of row numbers.
    """
    splits = list(splitter.split(X, y))
    tested = np.concatenate([np.asarray(test) for _, test in splits] or [[]])
    name = type(splitter).__name__.lstrip("_")
    if not np.array_equal(np.sort(tested), np.arange(_num_samples(X))):
        raise ValueError(
            f"cv ({name}) must put every row in exactly one test fold. Use KFold or "
            "another splitter whose test folds are a partition; pass a list of splits "
            "rather than a generator, which is spent after one use."
        )
    if any(np.intersect1d(train, test).size for train, test in splits):
        raise ValueError(
            f"cv ({name}) trains on rows of its own test fold: predictions of them "
            "would not be out of fold. Leave the test rows out of the training rows."
        )
    return splits


def cross_fit(
    estimators: list[Any],
    X: Any,
    y: FloatArray,
    splits: list[tuple[Any, Any]],
    sample_weight: FloatArray | None,
    quantiles: FloatArray | None,
    n_jobs: int | None,
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

    Returns
    -------
    CrossFit
        Fitted models and out-of-fold quantiles.
    """
    everything = [(slice(None), None)]
    tasks = [(model, fold) for model in estimators for fold in everything + splits]
    results = Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_predict)(model, X, y, sample_weight, fold, quantiles)
        for model, fold in tasks
    )
    per_model = len(splits) + 1
    fitted, out_of_fold = [], []
    for first in range(0, len(results), per_model):
        fitted.append(results[first][0])
        predictions = [p for _, p in results[first + 1 : first + per_model]]
        matrix = np.empty((y.size, predictions[0].quantiles.size))
        for (_, test), prediction in zip(splits, predictions, strict=True):
            matrix[test] = prediction.values
        out_of_fold.append(matrix)
    levels = results[1][1].quantiles
    return CrossFit(fitted, np.stack(out_of_fold, axis=1), levels)


def _fit_and_predict(
    estimator: Any,
    X: Any,
    y: FloatArray,
    sample_weight: FloatArray | None,
    fold: tuple[Any, Any],
    quantiles: FloatArray | None,
) -> tuple[Any, Any]:
    train, test = fold
    if test is None:
        return clone_and_fit(estimator, X, y, sample_weight), None
    weight = None if sample_weight is None else sample_weight[train]
    model = clone_and_fit(estimator, _safe_indexing(X, train), y[train], weight)
    return None, predict_quantiles(model, _safe_indexing(X, test), quantiles)
