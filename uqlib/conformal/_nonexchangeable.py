"""Split conformal regression for rows that drift: fixed weights, the newest last."""

from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._core.ranks import rows_needed
from uqlib._core.weighted_ranks import check_weights, weighted_thresholds
from uqlib._typing import FloatArray, NonconformityScore
from uqlib._validation import check_calibration_size, check_X
from uqlib.conformal._base import BaseScoreRegressor
from uqlib.conformal._conditions import Conditions
from uqlib.conformal._scores import resolve_score
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


class NonexchangeableConformalRegressor(BaseScoreRegressor):
    r"""Intervals from calibration rows that count the less, the older they are.

    With nonconformity scores :math:`s_i` of n calibration rows in the order of time,
    fixed weights :math:`w_i \in [0, 1]` and level p,

    .. math:: C(x) = \{y : s(y, \hat y(x)) \le t\}, \qquad
              t = \min\Big\{ t : \sum_{i : s_i \le t} w_i \ge
              p \Big( \sum_{i = 1}^n w_i + 1 \Big) \Big\},

    where :math:`w_i = \rho^{\,n + 1 - i}` for the decay :math:`\rho`.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted on the first rows; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    nonconformity : str or nonconformity score, default="absolute"
        How strange a target is, as in :class:`SplitConformalRegressor`. Scores of shape
        (n_samples, 2) belong to the two ends, each calibrated at
        :math:`1 - \alpha / 2`.
    decay : float, default=0.99
        The :math:`\rho`, in (0, 1]; 1 counts all rows alike. All weights together stay
        below :math:`\rho / (1 - \rho)`: a finite bound needs a decay above p. Without
        effect where weights are passed to `fit` or `calibrate`.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration: the last ones, in their order.
        Without effect for a `FrozenEstimator`, where all rows calibrate.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    nonconformity_ : object
        The score.
    scores_ : ndarray of shape (`n_calibration_`,) or (`n_calibration_`, 2)
        Scores of the calibration rows.
    calibration_weight_ : ndarray of shape (`n_calibration_`,)
        Their weights.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    threshold_ : float or ndarray of shape (2,)
        The t, one for each end where the scores have two columns; +inf if the rows
        weigh too little for the level.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, a weight is not in [0, 1],
        or the estimator predicts NaN.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows weigh too little for the level: the intervals are
        infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    SplitConformalRegressor : For exchangeable rows; there, `likelihood_ratio` answers
        to a known shift.

    Notes
    -----
    .. rubric:: Guarantee

    For any joint law of the rows, if the weights were fixed without looking at them and
    the estimator was trained on earlier rows,

    .. math:: P(y \in C(x)) \ge p - \sum_{i = 1}^n \tilde w_i \, d_{TV}(Z, Z^i),
              \qquad \tilde w_i = w_i / \Big( \sum_{j = 1}^n w_j + 1 \Big),

    where :math:`d_{TV}` is the total variation distance between the sequence Z of
    calibration rows and new row and the same sequence with the new row and row i
    exchanged, given the estimator. For exchangeable rows the sum is 0, and coverage is
    at least p with any weights; for independent rows :math:`d_{TV}(Z, Z^i)` is at most
    twice the distance between the laws of row i and the new row. The sum cannot be
    observed.

    The guarantee is for the row that follows the calibration rows, and its slack grows
    for later ones: calibrate anew as rows come in. It needs weights of at most 1, the
    weight of the new row. Weights take the place of groups; there is no
    `mondrian_groups` here.

    References
    ----------
    .. [1] R. F. Barber, E. J. Candes, A. Ramdas, R. J. Tibshirani, "Conformal
       Prediction Beyond Exchangeability", arXiv:2202.13415.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from uqlib.conformal import NonexchangeableConformalRegressor
    >>> time = np.arange(400.0)
    >>> y = np.sin(np.arange(400)) * (1 + time / 100)  # a spread that grows
    >>> model = NonexchangeableConformalRegressor(LinearRegression(), decay=0.95)
    >>> model.fit(time[:, None], y).n_calibration_
    100
    >>> bool(model.threshold_ > model.set_params(decay=1).fit(
    ...     time[:, None], y).threshold_)
    True
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        decay: float = 0.99,
        calibration_size: float | int = 0.25,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.decay = decay
        self.calibration_size = calibration_size

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        calibration_weight: Any = None,
    ) -> Any:
        """Fit the estimator on the first rows and calibrate on the last.

        With a `FrozenEstimator` nothing is trained and all rows calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows in the order of time, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training. It does not calibrate.
        calibration_weight : array-like of shape (n_samples,), default=None
            One weight in [0, 1] a row, of which those of the calibration rows are used;
            None takes the decay. It does not train.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        _check_decay(self.decay)
        return super().fit(X, y, sample_weight, likelihood_ratio=calibration_weight)

    def calibrate(self, X: Any, y: Any, *, calibration_weight: Any = None) -> Any:
        """Calibrate anew on rows that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows in the order of time.
        y : array-like of shape (n_calibration,)
            Their target, finite.
        calibration_weight : array-like of shape (n_calibration,), default=None
            One weight in [0, 1] a row; None takes the decay.

        Returns
        -------
        self : object
            The estimator is as it was; the threshold is new.
        """
        _check_decay(self.decay)
        return super().calibrate(X, y, likelihood_ratio=calibration_weight)

    def predict_interval(
        self, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Predict intervals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the calibration rows weigh too
            little.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        if confidence_level is None:
            level, threshold = exact_level(self.confidence_level_), self.threshold_
        else:
            level = check_confidence_level(confidence_level)
            threshold = self._threshold_at(self._scores_at(level), level)
        return self._interval(X, level, threshold)

    def _split_rows(self, X: Any, y: Any) -> Any:
        n_samples = _num_samples(X)
        first = n_samples - check_calibration_size(self.calibration_size, n_samples)
        return np.arange(first), np.arange(first, n_samples)

    def _conditions(
        self, X: Any, mondrian_groups: Any, likelihood_ratio: Any
    ) -> Conditions:
        if likelihood_ratio is None:
            return Conditions(None, None)
        name = "calibration_weight"
        weights = check_weights(likelihood_ratio, _num_samples(X), name)
        if weights.max(initial=0.0) > 1:
            raise ValueError(
                f"{name} must lie in [0, 1], got a weight of {weights.max()}: the new "
                "row has weight 1, and no row may count more. Divide the weights by "
                "their maximum."
            )
        return Conditions(None, weights)

    def _set_threshold(self, level: Fraction) -> None:
        weights = self._thresholds.weights
        if weights is None:
            weights = float(self.decay) ** np.arange(self.n_calibration_, 0, -1)
        self.calibration_weight_ = weights
        self.threshold_ = self._threshold_at(self.scores_, level)

    def _threshold_at(self, scores: FloatArray, level: Fraction) -> Any:
        sided = level if scores.ndim == 1 else 1 - (1 - level) / 2
        weights, new = self.calibration_weight_, np.ones(1)
        found = [
            float(weighted_thresholds(column, weights, new, sided)[0])
            for column in np.atleast_2d(scores.T)
        ]
        if np.isposinf(found).any() and not np.isposinf(scores).any():
            _warn_light(weights, sided)
        return found[0] if scores.ndim == 1 else np.array(found)

    def _unfitted_score(self) -> Any:
        return resolve_score(self.nonconformity)


def _check_decay(decay: Any) -> None:
    if isinstance(decay, bool) or not isinstance(decay, Real) or not 0 < decay <= 1:
        raise ValueError(
            f"decay must be a number in (0, 1], got {decay!r}. Pass 1 to count all "
            "calibration rows alike."
        )


def _warn_light(weights: FloatArray, level: Fraction) -> None:
    warn_user(
        f"The {weights.size} calibration rows weigh {weights.sum():.4g} in all, too "
        f"little for a finite bound at level {float(level):g}: beside a new row of "
        f"weight 1 they must weigh at least {float(level / (1 - level)):.4g}, that is "
        f"{rows_needed(level)} rows of weight 1. The bound is infinite; pass more "
        "calibration rows, let their weights decay more slowly or ask for a lower "
        "level.",
        InfiniteIntervalWarning,
    )
