"""Split conformal regression that is valid under every function of a linear class."""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.conditional_quantile import conditional_thresholds, warn_if_unbounded
from uqlib._typing import FloatArray, NonconformityScore
from uqlib.conformal._features import BaseFeatureRegressor
from uqlib.conformal._scores import resolve_score


class ConditionalConformalRegressor(BaseFeatureRegressor):
    r"""Intervals that cover on average under every function of a linear class.

    With features :math:`\Phi(x)`, an intercept among them, the nonconformity scores
    :math:`s_i` of n calibration rows and level p,

    .. math:: C(x) = \{y : s(y, \hat y(x)) \le t(x)\}, \qquad
              t(x) = \sup \{S : S \le \hat g_S(x)\},

    where :math:`\hat g_S` is the linear quantile regression at level p, on the
    features, of the n scores and of the new row with the score S. With an intercept
    alone this is split conformal regression; with indicators of disjoint groups it is
    calibration by group; groups may as well overlap, and features may be continuous.

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
    features : callable, transformer, str, int, list or None, default=None
        The functions, to which an intercept is always added: a function of X that gives
        numbers, a transformer (cloned and fitted on the training rows), or columns of X
        by name or number. None takes all columns of X. They must be finite, and known
        for new rows. Groups are given by their indicators; there is no
        `mondrian_groups` here.
    randomized : bool, default=False
        Whether the threshold stops at a random multiplier, so that coverage is exact
        and not only at least p.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out, and the random multipliers in each call of
        `predict_interval`: with an int they are the same in each call.

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
    n_functions_ : int
        Number of functions, the intercept included.
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
        number, or the estimator predicts NaN.

    Warns
    -----
    InfiniteIntervalWarning
        In `predict_interval`, if the calibration rows are too few, or too unlike a new
        row, for a finite bound.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    SplitConformalRegressor : Valid on average over all x, or by disjoint groups.
    LocalizedConformalRegressor : Weights by distance instead of a class of functions.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and neither the estimator nor
    the features were fitted on them, then for every non-negative function
    :math:`f = \beta' \Phi` of the class

    .. math:: E[f(x) (1\{y \in C(x)\} - p)] \ge 0,

    that is, coverage of at least p under every shift of the law of x whose density
    ratio is in the class, on average (f = 1) and in every group whose indicator is in
    it. If the scores given x have a continuous law, the expectation is at most
    :math:`d / (n + 1) \, E \max_i |f(x_i)|` for the d functions, where the maximum is
    over all n + 1 rows. With ``randomized=True`` and without ties it is 0 for every f
    of the class, of any sign. These two statements are about the set
    :math:`\{s \le t(x)\}` itself.

    With scores of two columns each end has this guarantee at :math:`1 - \alpha / 2`.

    The fitted quantile can fall below every score that was seen, and that set be empty.
    An interval is never empty: thresholds below the smallest calibration score
    are raised to it, which keeps the lower bound.

    The threshold is found exactly, without a search over S: it is the fitted value of
    one quantile regression that is tilted towards x. Rows with equal features share it.

    References
    ----------
    .. [1] I. Gibbs, J. J. Cherian, E. J. Candes, "Conformal Prediction with
       Conditional Guarantees", arXiv:2305.12616.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import ConditionalConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = ConditionalConformalRegressor(Ridge(), features=[1, 2], random_state=0)
    >>> interval = model.fit(X[:342], y[:342]).predict_interval(X[342:])
    >>> interval.shape, model.n_functions_
    ((100, 2), 3)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        features: Any = None,
        randomized: bool = False,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.features = features
        self.randomized = randomized
        self.calibration_size = calibration_size
        self.random_state = random_state

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        super()._set_calibration(X, y)
        self.n_functions_ = 1 + self._calibration_features.shape[1]

    def _feature_thresholds(
        self, scores: FloatArray, new: FloatArray, level: Fraction, rng: Any
    ) -> FloatArray:
        u = None if rng is None else rng.uniform(size=len(new))
        thresholds = conditional_thresholds(
            scores,
            _with_intercept(self._calibration_features),
            _with_intercept(new),
            level,
            u,
        )
        warn_if_unbounded(thresholds, scores, level)
        return np.maximum(thresholds, scores.min())

    def _unfitted_score(self) -> Any:
        return resolve_score(self.nonconformity)


def _with_intercept(features: FloatArray) -> FloatArray:
    return np.column_stack([np.ones(len(features)), features])
