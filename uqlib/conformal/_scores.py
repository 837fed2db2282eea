"""Nonconformity scores that need more of a model than its point prediction."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from uqlib._core.checks import as_1d, check_no_nan, check_rows
from uqlib._core.levels import central_pair, level_indices
from uqlib._core.outward import lower_end, outward_interval, upper_end
from uqlib._core.scores import (
    NONCONFORMITY_SCORES,
    quantile_pair_scores,
    scaled_interval,
    scaled_scores,
)
from uqlib._fitting import clone_and_fit, fit_each_fold, is_frozen, partition
from uqlib._predictions import QuantilePrediction, predict_point, predict_quantiles
from uqlib._typing import FloatArray
from uqlib._validation import check_finite_predictions


class NormalizedScore(BaseEstimator):
    r"""Residual in units of a scale that follows x.

    .. math:: s = |y - \hat y(x)| / \sigma(x), \qquad
              C(x) = \hat y(x) \pm t \, \sigma(x) .

    The scale is a column of X, or a model of the absolute residuals: the residuals of
    the training rows are predicted out of fold, and the scale model learns them. It is
    kept from falling below a small share of their mean.

    Parameters
    ----------
    scale_estimator : estimator, default=None
        Regressor of the absolute residuals; None takes a clone of the calibrated
        estimator. A :class:`~sklearn.frozen.FrozenEstimator` is used as it stands, and
        what it predicts must be positive.
    column : str or int, default=None
        Name or number of the column of X that holds the scale, positive and finite;
        then nothing is learned.
    cv : int or cross-validation splitter, default=5
        Folds of the residuals that the scale model learns from.
    floor : float, default=0.05
        The smallest scale, as a share of the mean absolute residual.

    Attributes
    ----------
    scale_estimator_ : estimator
        The fitted scale model, if one is used.
    floor_ : float
        The smallest scale, in units of y; 0 where nothing was learned.

    Raises
    ------
    ValueError
        If a scale is not positive and finite, or if the calibrated estimator is frozen
        and a scale model would have to be trained.

    See Also
    --------
    SplitConformalRegressor : Takes it as `nonconformity`.

    Notes
    -----
    .. rubric:: Guarantee

    None of its own: every score is valid, and the guarantee is that of the calibrator
    which uses it, as long as the scale has not seen the calibration rows. A scale that
    fits makes intervals narrow where the target is certain; one that does not costs
    width and never coverage.

    References
    ----------
    .. [1] J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman,
       "Distribution-Free Predictive Inference for Regression", arXiv:1604.04173.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import NormalizedScore, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(
    ...     Ridge(), nonconformity=NormalizedScore(), random_state=0
    ... ).fit(X, y)
    >>> model.predict_interval(X).shape
    (442, 2)
    """

    def __init__(
        self,
        scale_estimator: Any = None,
        *,
        column: str | int | None = None,
        cv: Any = 5,
        floor: float = 0.05,
    ) -> None:
        self.scale_estimator = scale_estimator
        self.column = column
        self.cv = cv
        self.floor = floor

    def fit(self, estimator: Any, X: Any, y: FloatArray) -> "NormalizedScore":
        """Learn the scale from training rows.

        Parameters
        ----------
        estimator : estimator
            The model to be calibrated; clones of it are fitted.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows.
        y : ndarray of shape (n_samples,)
            Their target.

        Returns
        -------
        self : NormalizedScore
            Fitted.
        """
        if self.column is not None and self.scale_estimator is not None:
            raise ValueError(
                f"column={self.column!r} and scale_estimator were both given: the "
                "scale is either a column of X or learned. Set one of them to None."
            )
        if not 0 <= self.floor < np.inf:
            raise ValueError(
                f"floor must be a share of the mean residual, at least 0 and finite, "
                f"got {self.floor!r}."
            )
        self.floor_ = 0.0
        if self.column is not None:
            return self
        if is_frozen(self.scale_estimator):
            self.scale_estimator_ = self.scale_estimator
            return self
        if is_frozen(estimator):
            raise ValueError(
                "The estimator is frozen, so there are no training rows to learn a "
                "scale from. Pass NormalizedScore(column=...), or a scale model that "
                "was fitted on other rows, as "
                "NormalizedScore(FrozenEstimator(scale_model))."
            )
        residual = self._out_of_fold_residuals(estimator, X, y)
        learner = estimator if self.scale_estimator is None else self.scale_estimator
        self.scale_estimator_ = clone_and_fit(learner, X, residual)
        self.floor_ = float(self.floor * residual.mean())
        return self

    def predict(
        self, estimator: Any, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Predict the point and the scale.

        Parameters
        ----------
        estimator : estimator
            The fitted model.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.
        confidence_level : float, default=None
            Without effect.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Point prediction and scale.
        """
        return np.column_stack([predict_point(estimator, X), self._scale(X)])

    def score(self, y: FloatArray, y_pred: FloatArray) -> FloatArray:
        """Return the normalized residuals.

        Parameters
        ----------
        y : ndarray of shape (n_samples,)
            Target.
        y_pred : ndarray of shape (n_samples, 2)
            Point prediction and scale.

        Returns
        -------
        ndarray of shape (n_samples,)
            The scores, at least 0.
        """
        return scaled_scores(y, y_pred[:, 0], y_pred[:, 1])

    def inverse(self, y_pred: FloatArray, threshold: Any) -> FloatArray:
        """Return point -+ t scale.

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples, 2)
            Point prediction and scale.
        threshold : float or ndarray of shape (n_samples,)
            The t, one for all rows or one a row.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds.
        """
        return scaled_interval(y_pred[:, 0], y_pred[:, 1], threshold)

    def affine(self, y_pred: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what makes the ends affine in the threshold.

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples, 2)
            Point prediction and scale.

        Returns
        -------
        lower_base, upper_base, scale : ndarray of shape (n_samples,)
            The ends are lower_base - t scale and upper_base + t scale.
        """
        return y_pred[:, 0], y_pred[:, 0], y_pred[:, 1]

    def _out_of_fold_residuals(
        self, estimator: Any, X: Any, y: FloatArray
    ) -> FloatArray:
        splits = partition(check_cv(self.cv), X, y)
        residual = np.empty(y.size)
        for model, (_, test) in zip(
            fit_each_fold(estimator, X, y, splits), splits, strict=True
        ):
            residual[test] = y[test] - predict_point(model, _safe_indexing(X, test))
        return np.abs(residual)

    def _scale(self, X: Any) -> FloatArray:
        check_is_fitted(self, "floor_")
        if self.column is not None:
            scale, name = column_of(X, self.column, "column"), f"column {self.column!r}"
            scale = np.asarray(scale, dtype=np.float64)
        else:
            model = self.scale_estimator_
            scale, name = predict_point(model, X), f"{type(model).__name__}'s scale"
            scale = np.maximum(scale, self.floor_)
        if scale.size and not (scale.min() > 0 and scale.max() < np.inf):
            raise ValueError(
                f"{name} must be positive and finite, got values from {scale.min()} to "
                f"{scale.max()}. Shift or clip it; a learned scale needs floor > 0 and "
                "residuals that are not all 0."
            )
        return scale


class QuantileScore(BaseEstimator):
    r"""Distance outside a pair of predicted quantiles.

    .. math:: s = \max(l(x) - y, \; y - u(x)), \qquad
              C(x) = [l(x) - t, \; u(x) + t],

    with the quantiles of the levels :math:`\alpha / 2` and :math:`1 - \alpha / 2`.

    Parameters
    ----------
    symmetric : bool, default=True
        Move both ends by the same amount. False gives each end its own scores and
        threshold.

    See Also
    --------
    ConformalizedQuantileRegressor : Split calibration with this score.

    Notes
    -----
    .. rubric:: Guarantee

    None of its own: every score is valid, and the guarantee is that of the calibrator
    which uses it.

    A score that fits the data makes intervals short; one that does not costs width and
    never coverage.

    References
    ----------
    .. [1] Y. Romano, E. Patterson, E. J. Candes, "Conformalized Quantile Regression",
       arXiv:1905.03222.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import QuantileScore
    >>> y, y_interval = np.array([1.0, 5.0]), np.array([[0.0, 4.0], [0.0, 4.0]])
    >>> QuantileScore().score(y, y_interval)
    array([-1.,  1.])
    """

    def __init__(self, symmetric: bool = True) -> None:
        self.symmetric = symmetric

    def predict(self, estimator: Any, X: Any, confidence_level: float) -> FloatArray:
        """Predict the pair of quantiles of a confidence level.

        Parameters
        ----------
        estimator : estimator
            The fitted quantile regressor.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.
        confidence_level : float
            The level.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper quantile.
        """
        return predict_quantiles(estimator, X, central_pair(confidence_level)).values

    def predict_levels(
        self, estimator: Any, X: Any, confidence_level: float
    ) -> QuantilePrediction:
        """Predict all levels that the model has, for scores at other levels.

        Parameters
        ----------
        estimator : estimator
            The fitted quantile regressor.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.
        confidence_level : float
            The level whose pair must be among them.

        Returns
        -------
        QuantilePrediction
            The quantile matrix and its levels.
        """
        pair = np.array(central_pair(confidence_level))
        prediction = predict_quantiles(estimator, X)
        try:
            level_indices(prediction.quantiles, pair)
        except ValueError:
            # The levels that a model has by default need not be all it can give.
            return predict_quantiles(estimator, X, pair)
        return prediction

    def score(self, y: FloatArray, y_pred: FloatArray) -> FloatArray:
        """Return how far the target lies outside the pair.

        Parameters
        ----------
        y : ndarray of shape (n_samples,)
            Target.
        y_pred : ndarray of shape (n_samples, 2)
            Lower and upper quantile.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, 2)
            Scores, negative inside; one column an end if not symmetric.
        """
        below, above = quantile_pair_scores(y, y_pred)
        if self.symmetric:
            return np.maximum(below, above)
        return np.column_stack([below, above])

    def inverse(self, y_pred: FloatArray, threshold: Any) -> FloatArray:
        """Return [lower - t, upper + t].

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples, 2)
            Lower and upper quantile.
        threshold : float or ndarray of shape (n_samples,), (2,) or (n_samples, 2)
            One threshold, for all rows or a row; if not symmetric one an end.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds; ends that cross after shrinking are exchanged.
        """
        values = np.asarray(threshold, dtype=np.float64)
        lower = values if self.symmetric else values[..., 0]
        upper = values if self.symmetric else values[..., 1]
        return outward_interval(
            lower_end(y_pred[:, 0], -lower), upper_end(y_pred[:, 1], upper)
        )

    def affine(self, y_pred: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what makes the ends affine in the threshold.

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples, 2)
            Lower and upper quantile.

        Returns
        -------
        lower_base, upper_base, scale : ndarray of shape (n_samples,)
            The ends are lower_base - t scale and upper_base + t scale.
        """
        return y_pred[:, 0], y_pred[:, 1], np.ones(len(y_pred))


_NAMED_SCORES: dict[str, Any] = {
    **NONCONFORMITY_SCORES,
    "normalized": NormalizedScore,
    "quantile": QuantileScore,
}


def resolve_score(nonconformity: Any) -> Any:
    """Return the score object of a name, or an object as it is."""
    if isinstance(nonconformity, str) and nonconformity in _NAMED_SCORES:
        return _NAMED_SCORES[nonconformity]()
    missing = [m for m in ("score", "inverse") if not hasattr(nonconformity, m)]
    if isinstance(nonconformity, str | type) or missing:
        raise ValueError(
            f"nonconformity={nonconformity!r} must be one of "
            f"{sorted(_NAMED_SCORES)} or an object with score(y, y_pred) and "
            "inverse(y_pred, threshold)."
        )
    return nonconformity


def predict_for_score(score: Any, estimator: Any, X: Any, level: float) -> FloatArray:
    """Return what a score takes as y_pred: by default the point prediction."""
    if not hasattr(score, "predict"):
        return predict_point(estimator, X)
    prediction = np.asarray(score.predict(estimator, X, level), dtype=np.float64)
    return check_finite_predictions(prediction, score)


def invert_score(score: Any, y_pred: FloatArray, threshold: Any) -> FloatArray:
    """Return the intervals of a score at a threshold, or say what is wrong."""
    interval = np.asarray(score.inverse(y_pred, threshold), dtype=np.float64)
    if interval.shape != (len(y_pred), 2):
        raise ValueError(
            f"{type(score).__name__}.inverse gave an array of shape {interval.shape} "
            f"for {len(y_pred)} rows: it must give lower and upper bounds, shape "
            "(n_samples, 2). Use np.column_stack([lower, upper])."
        )
    return check_finite_predictions(interval, score)


def check_scores(scores: Any, n_samples: int) -> FloatArray:
    """Return scores of shape (n_samples,) or (n_samples, 2) without NaN."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim == 2 and values.shape[1] == 2:
        check_no_nan(values, "nonconformity scores")
    else:
        values = as_1d(values, "nonconformity scores")
    check_rows(n_samples, len(values), "nonconformity scores", "y")
    return values


def column_of(X: Any, key: Any, parameter: str) -> Any:
    """Return one column of X by its name or number, or say what is wrong."""
    try:
        return np.asarray(_safe_indexing(X, key, axis=1))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{parameter}={key!r} is no column of X: {error}. Pass the name of a "
            "column of a dataframe, or a column number."
        ) from error
