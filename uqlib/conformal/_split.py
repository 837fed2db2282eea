"""Split conformal regression around any regressor."""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import as_1d, check_rows
from uqlib._core.ranks import threshold_at
from uqlib._core.scores import NONCONFORMITY_SCORES
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray, NonconformityScore
from uqlib._validation import check_finite_predictions
from uqlib.conformal._base import BaseSplitCalibrator


class SplitConformalRegressor(BaseSplitCalibrator):
    r"""Intervals of guaranteed coverage around any regressor.

    With nonconformity scores :math:`s_i = s(y_i, \hat y_i)` of n rows that the
    estimator was not trained on, and level p,

    .. math:: C(x) = \{y : s(y, \hat y(x)) \le s_{(k)}\}, \qquad
              k = \lceil (n + 1) p \rceil .

    For absolute residuals this is :math:`\hat y(x) \pm s_{(k)}`.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    nonconformity : {"absolute"} or nonconformity score, default="absolute"
        How strange a target is, larger = stranger. An object with
        ``score(y, y_pred)`` -> (n_samples,) and its inverse
        ``inverse(y_pred, threshold)`` -> (n_samples, 2) is used as it is.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    nonconformity_ : object
        The score.
    scores_ : ndarray of shape (`n_calibration_`,)
        Scores of the calibration rows.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    threshold_ : float
        The k-th smallest score; +inf if the rows are too few for the level.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, or the estimator predicts
        NaN.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    ConformalizedQuantileRegressor : Intervals whose width follows x.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and the estimator was not
    trained on them,

    .. math:: P(y \in C(x)) \ge p,

    and at most :math:`p + 1 / (n + 1)` if no two scores are equal. The probability is
    over calibration and new rows; it says nothing conditional on x. If the rows are
    independent draws of one law with continuous scores, the coverage conditional on the
    calibration rows is random with the law :math:`\mathrm{Beta}(k, n + 1 - k)`.

    References
    ----------
    .. [1] J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman,
       "Distribution-Free Predictive Inference for Regression", arXiv:1604.04173.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(Ridge(), random_state=0).fit(X[:342], y[:342])
    >>> interval = model.predict_interval(X[342:])
    >>> interval.shape, model.n_calibration_
    ((100, 2), 86)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.calibration_size = calibration_size
        self.random_state = random_state

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        self.nonconformity_ = _resolve_score(self.nonconformity)
        y_pred = predict_point(self.estimator_, X)
        scores = as_1d(self.nonconformity_.score(y, y_pred), "nonconformity scores")
        check_rows(y.size, scores.size, "nonconformity scores", "y")
        self.scores_ = scores

    def _threshold(self, level: Fraction) -> float:
        return threshold_at(self.scores_, level)

    def _interval(self, X: Any, level: Fraction, threshold: float) -> FloatArray:
        y_pred = predict_point(self.estimator_, X)
        interval = np.asarray(self.nonconformity_.inverse(y_pred, threshold))
        return check_finite_predictions(interval, self.nonconformity_)


def _resolve_score(nonconformity: Any) -> Any:
    if isinstance(nonconformity, str) and nonconformity in NONCONFORMITY_SCORES:
        return NONCONFORMITY_SCORES[nonconformity]()
    missing = [m for m in ("score", "inverse") if not hasattr(nonconformity, m)]
    if isinstance(nonconformity, str | type) or missing:
        raise ValueError(
            f"nonconformity={nonconformity!r} must be one of "
            f"{sorted(NONCONFORMITY_SCORES)} or an object with score(y, y_pred) and "
            "inverse(y_pred, threshold)."
        )
    return nonconformity
