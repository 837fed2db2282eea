"""Split conformal regression with calibration rows weighted by their distance."""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.distance_kernels import (
    check_bandwidth,
    draw_offsets,
    median_distance,
    resolve_kernel,
)
from uqlib._core.localization import localized_thresholds, warn_if_remote
from uqlib._typing import FloatArray, NonconformityScore
from uqlib.conformal._features import BaseFeatureRegressor, RowFeatures
from uqlib.conformal._scores import resolve_score


class LocalizedConformalRegressor(BaseFeatureRegressor):
    r"""Intervals calibrated by the rows near a new row.

    With nonconformity scores :math:`s_i` of n calibration rows at the places
    :math:`z_i`, a kernel K, a bandwidth h and level p,

    .. math::
        C(x) = \{y : s(y, \hat y(x)) \le t(x)\}, \qquad
        t(x) = \min\Big\{ t : \sum_{i : s_i \le t} w_i \ge
        p \Big( \sum_{i = 1}^n w_i + w \Big) \Big\},

    with weights :math:`w_i = K(\|z_i - c\| / h)` and :math:`w = K(\|z - c\| / h)`
    around the new row itself, c = z, or around a c drawn at random near it.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    nonconformity : str or nonconformity score, default="absolute"
        How strange a target is, as in :class:`SplitConformalRegressor`. Scores of shape
        (n_samples, 2) belong to the two ends, each calibrated at
        :math:`1 - \alpha / 2`.
    kernel : {"gaussian", "box"} or callable, default="gaussian"
        K of the distance u in bandwidths: :math:`e^{-u^2 / 2}`, or 1 for
        :math:`u \le 1` and else 0, or a function of an array of distances that gives
        weights of the same shape, finite and at least 0.
    bandwidth : float or "auto", default="auto"
        The h, in standard deviations of the features; "auto" takes the median distance
        between training rows.
    features : callable, transformer, str, int, list or None, default=None
        Where distances are measured: a function of X that gives numbers, a transformer
        (cloned and fitted on the training rows), or columns of X by name or number.
        None takes all columns of X. They must be finite. They are standardized by the
        training rows; with a frozen estimator there are none, features stay in their
        units and `bandwidth` must be a number. Weights take the place of groups; there
        is no `mondrian_groups` here.
    randomized : bool, default=False
        Whether the center c is drawn from the kernel around a new row, which gives the
        guarantee below. Needs a kernel with a name.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out, and the centers in each call of `predict_interval`:
        with an int they are the same in each call.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    nonconformity_ : object
        The score.
    scores_ : ndarray of shape (`n_calibration_`,) or (`n_calibration_`, 2)
        Scores of the calibration rows.
    n_calibration_ : int
        Number of calibration rows.
    bandwidth_ : float
        The bandwidth.
    confidence_level_ : float
        The level of the last calibration.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, a feature is no finite
        number, the kernel gives bad weights, or the estimator predicts NaN.

    Warns
    -----
    InfiniteIntervalWarning
        In `predict_interval`, if too little weight lies near a new row for a finite
        bound.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    SplitConformalRegressor : All rows alike: an infinite bandwidth.
    ConditionalConformalRegressor : Guarantees over a class of functions.

    Notes
    -----
    .. rubric:: Guarantee

    With ``randomized=True``: if the calibration rows and a new row are exchangeable and
    neither the estimator, the features nor the bandwidth come from them,

    .. math:: P(y \in C(x)) \ge p,

    over the calibration rows, the new row and the drawn center [1]_. In a region much
    larger than the bandwidth coverage is close to p as well, which the reference makes
    precise.

    With ``randomized=False``: none. The weights favor rows near the new one, and are
    not symmetric in it and them; coverage can be below p, mostly where features are
    sparse. It approaches that of split conformal regression as h grows.

    References
    ----------
    .. [1] R. Hore, R. F. Barber, "Conformal Prediction with Local Weights:
       Randomization Enables Robust Guarantees", arXiv:2310.07850.
    .. [2] L. Guan, "Localized Conformal Prediction: A Generalized Inference Framework
       for Conformal Prediction", arXiv:2106.08460.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import LocalizedConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = LocalizedConformalRegressor(
    ...     Ridge(), confidence_level=0.8, randomized=True, random_state=0
    ... ).fit(X[:342], y[:342])
    >>> model.predict_interval(X[342:]).shape
    (100, 2)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        kernel: Any = "gaussian",
        bandwidth: float | str = "auto",
        features: Any = None,
        randomized: bool = False,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.features = features
        self.randomized = randomized
        self.calibration_size = calibration_size
        self.random_state = random_state

    def _learn_features(self, X: Any) -> Any:
        return _Places(self.features, X)

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        kernel = resolve_kernel(self.kernel)
        if self.randomized:  # an impossible draw is known before any new row comes
            draw_offsets(kernel, 0, 1, np.random.default_rng(0))
        super()._set_calibration(X, y)
        self._kernel, self.bandwidth_ = kernel, self._resolve_bandwidth()

    def _resolve_bandwidth(self) -> float:
        if not (isinstance(self.bandwidth, str) and self.bandwidth == "auto"):
            return check_bandwidth(self.bandwidth)
        if self._features.median_distance is None:
            raise ValueError(
                "bandwidth='auto' is the median distance between training rows, and a "
                "frozen estimator has none. Pass a number, in the units of features."
            )
        return self._features.median_distance

    def _feature_thresholds(
        self, scores: FloatArray, new: FloatArray, level: Fraction, rng: Any
    ) -> FloatArray:
        offsets = None
        if rng is not None:
            offsets = draw_offsets(self._kernel, len(new), new.shape[1], rng)
        thresholds = localized_thresholds(
            scores,
            self._calibration_features,
            new,
            level,
            self._kernel,
            self.bandwidth_,
            offsets,
        )
        warn_if_remote(thresholds, scores, level)
        return thresholds

    def _unfitted_score(self) -> Any:
        return resolve_score(self.nonconformity)


class _Places(RowFeatures):
    """Features in units of their standard deviations over the training rows."""

    def __init__(self, features: Any, X: Any) -> None:
        super().__init__(features, X)
        self.mean, self.scale, self.median_distance = 0.0, 1.0, None
        if X is None:
            return
        raw = super().__call__(X)
        spread = raw.std(axis=0)
        self.mean, self.scale = raw.mean(axis=0), np.where(spread > 0, spread, 1.0)
        self.median_distance = median_distance(self(X))

    def __call__(self, X: Any) -> FloatArray:
        """Return the standardized features, shape (n_samples, n_columns)."""
        return (super().__call__(X) - self.mean) / self.scale
