"""Conformalized quantile regression."""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.levels import central_pair, level_indices
from uqlib._core.ranks import threshold_at
from uqlib._core.scores import (
    lower_end,
    outward_interval,
    quantile_pair_scores,
    upper_end,
)
from uqlib._predictions import predict_quantiles
from uqlib._typing import FloatArray
from uqlib.conformal._base import BaseSplitCalibrator


class ConformalizedQuantileRegressor(BaseSplitCalibrator):
    r"""Intervals of guaranteed coverage whose width follows a quantile regressor.

    With the quantiles :math:`l(x), u(x)` of the levels :math:`\alpha / 2` and
    :math:`1 - \alpha / 2`, :math:`\alpha = 1 - p`, and n rows that the estimator was
    not trained on,

    .. math:: s_i = \max(l(x_i) - y_i, \; y_i - u(x_i)), \qquad
              C(x) = [l(x) - s_{(k)}, \; u(x) + s_{(k)}], \quad
              k = \lceil (n + 1) p \rceil .

    With ``symmetric=False`` each end has its own one-sided scores and the rank
    :math:`\lceil (n + 1) (1 - \alpha / 2) \rceil`.

    Parameters
    ----------
    estimator : estimator
        Any quantile regressor with both levels: one with `predict_quantiles`, a
        quantile forest, a pipeline that ends in one or in a quantile transformer. It is
        cloned and fitted; a :class:`~sklearn.frozen.FrozenEstimator` is used as it
        stands.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    symmetric : bool, default=True
        Move both ends by the same amount. False moves each end by its own, and
        guarantees each end: wider intervals for the same level.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels of the estimator.
    scores_ : ndarray of shape (`n_calibration_`,) or (`n_calibration_`, 2)
        Scores of the calibration rows; one column for each end if not symmetric.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    threshold_ : float or ndarray of shape (2,)
        What is added outwards at the lower and upper end. Negative values shrink.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the estimator lacks one of the two levels (the message lists those there
        are), if y is not finite, or a parameter is out of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    SplitConformalRegressor : Around any regressor, with constant width.
    ConformalQuantiles : Calibrates a whole quantile matrix.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and the estimator was not
    trained on them, :math:`P(y \in C(x)) \ge p`, and at most
    :math:`p + 1 / (n + 1)` for symmetric intervals if no two scores are equal and no
    ends had to be exchanged. With ``symmetric=False`` moreover
    :math:`P(y < C(x)) \le \alpha / 2` and :math:`P(y > C(x)) \le \alpha / 2`. Ends that
    cross after shrinking are exchanged, which only enlarges the interval.

    References
    ----------
    .. [1] Y. Romano, E. Patterson, E. J. Candes, "Conformalized Quantile Regression",
       arXiv:1905.03222.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import QuantileRegressor
    >>> from uqlib.conformal import ConformalizedQuantileRegressor
    >>> from uqlib.quantile import MultiQuantileRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> base = MultiQuantileRegressor(
    ...     QuantileRegressor(alpha=0), quantiles=[0.05, 0.5, 0.95]
    ... )
    >>> model = ConformalizedQuantileRegressor(base, random_state=0).fit(X, y)
    >>> model.predict_interval(X).shape
    (442, 2)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        symmetric: bool = True,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.calibration_size = calibration_size
        self.random_state = random_state

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        # All levels of the calibration rows are kept, so that predict_interval can be
        # asked for any pair that the estimator has.
        pair = np.array(central_pair(self.confidence_level_))
        values, self.quantiles_ = self._calibration_quantiles(X, pair)
        level_indices(self.quantiles_, pair)
        # Copies: a frozen model may hand out its own arrays, and y is the user's.
        self._calibration_y, self._calibration_values = y.copy(), values.copy()
        self.scores_ = self._scores(pair, self.symmetric)

    def _calibration_quantiles(self, X: Any, pair: FloatArray) -> Any:
        prediction = predict_quantiles(self.estimator_, X)
        try:
            level_indices(prediction.quantiles, pair)
        except ValueError:
            # The levels that a model has by default need not be all it can give.
            return predict_quantiles(self.estimator_, X, pair)
        return prediction

    def _scores(self, pair: FloatArray, symmetric: bool) -> FloatArray:
        columns = level_indices(self.quantiles_, pair)
        below, above = quantile_pair_scores(
            self._calibration_y, self._calibration_values[:, columns]
        )
        if symmetric:
            return np.maximum(below, above)
        return np.column_stack([below, above])

    def _threshold(self, level: Fraction) -> Any:
        pair = np.array(central_pair(level))
        symmetric = self.scores_.ndim == 1  # as it was calibrated
        scores = self._scores(pair, symmetric)
        if symmetric:
            return threshold_at(scores, level)
        one_sided = 1 - (1 - level) / 2
        lower, upper = scores.T
        first = threshold_at(lower, one_sided)
        if np.isposinf(first):  # one warning is enough for two ends of equal rank
            return np.array([first, np.inf])
        return np.array([first, threshold_at(upper, one_sided)])

    def _interval(self, X: Any, level: Fraction, threshold: Any) -> FloatArray:
        values, _ = predict_quantiles(self.estimator_, X, central_pair(level))
        lower_offset, upper_offset = np.broadcast_to(threshold, 2)
        return outward_interval(
            lower_end(values[:, 0], -lower_offset),
            upper_end(values[:, 1], upper_offset),
        )
