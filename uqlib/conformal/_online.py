"""Online conformal regression: intervals that follow the stream they are judged by."""

import copy
from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import check_confidence_level
from uqlib._core.online import ScoreStore
from uqlib._core.online_choice import check_count, make_update
from uqlib._core.ranks import rows_needed
from uqlib._fitting import clone_and_fit, fit_score, is_frozen, warn_if_fitted
from uqlib._predictions import predict_point
from uqlib._typing import BoolArray, FloatArray, NonconformityScore
from uqlib._validation import (
    check_calibration_size,
    check_finite_predictions,
    check_X,
    check_X_y,
    with_input_tags,
)
from uqlib.conformal._scores import check_scores, predict_for_score, resolve_score
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


class OnlineConformalRegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    r"""Intervals over a stream of rows, kept right by their own misses.

    With target :math:`\alpha = 1 - p`, the scores seen so far and :math:`m_t = 1` if
    row t fell outside its interval,

    .. math:: C_t(x) = \{y : s(y, \hat y(x)) \le q_t\}, \qquad
              q_t = \text{conformal quantile of the scores at } 1 - \alpha_t, \qquad
              \alpha_{t+1} = \alpha_t + \gamma (\alpha - m_t) .

    Rows are in time order everywhere: `fit` trains on the first ones and calibrates on
    the last, and every later row gets its interval before its target is used.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    update : {"aci", "agaci", "dtaci", "pid"}, default="aci"
        How the intervals learn: one step size; a mixture of the thresholds of several;
        a mixture of their levels; or a controller of the threshold itself. See Notes.
    confidence_level : float, default=0.9
        Coverage p asked for, strictly between 0 and 1.
    nonconformity : str or nonconformity score, default="absolute"
        How strange a target is, as in :class:`SplitConformalRegressor`, with one score
        a row.
    gamma : float, default=0.005
        Step size of "aci", at least 0.
    gammas : array-like of shape (n_gammas,), default=None
        Step sizes of "agaci" and "dtaci"; None takes the grid of the paper.
    horizon : int, default=500
        Number of rows over which "dtaci" competes with the best level.
    learning_rate : float, default=0.1
        Step of "pid" as a share of the range of the scores.
    integral_gain : float, default=None
        Size of the integral term of "pid", in units of the score; None takes the
        largest absolute calibration score.
    saturation : float, default=1.0
        How far the summed error of "pid" may drift before the threshold becomes
        infinite, larger = further.
    window : int, default=None
        How many of the last scores the quantiles are taken of; None takes all.
    calibration_size : float or int, default=0.25
        Share or number of the last rows of `fit` that calibrate. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    update_estimator : bool, default=False
        Let the fitted clone learn each new row by its own `partial_fit`, after the row
        was scored.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    nonconformity_ : object
        The score.
    scores_ : ndarray of shape (n_scores,)
        The scores that quantiles are taken of now, in time order.
    n_calibration_ : int
        Number of calibration rows of `fit`.
    confidence_level_ : float
        The level p.
    n_steps_ : int
        Number of rows that were judged since `fit`.
    n_misses_ : int
        How many of them fell outside their interval.
    miss_rate_ : float
        Their share; NaN before the first.
    alpha_ : float or ndarray of shape (n_gammas,)
        The current :math:`\alpha_t`, not clipped to [0, 1]: of each step size with
        "agaci", the mean with "dtaci", None with "pid".
    threshold_ : float or ndarray of shape (2,)
        Threshold of the next row; of the lower and the upper end with "agaci".
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, the score gives two columns
        or the estimator predicts NaN.

    Warns
    -----
    InfiniteIntervalWarning
        If intervals that are returned are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    aci_thresholds : Adaptive conformal inference on arrays of scores.
    EnbPIRegressor : Bootstrap ensembles with a sliding window of residuals.
    SplitConformalRegressor : For rows that are exchangeable.

    Notes
    -----
    .. rubric:: Guarantee

    "aci": for any stream of scores above :math:`-\infty` (an interval of infinite width
    that the model itself predicts has that one), over the T rows judged since `fit`,

    .. math:: \left| \frac{1}{T} \sum_{t \le T} m_t - \alpha \right| \le
              \frac{\max(\alpha, 1 - \alpha) + \gamma}{\gamma T} .

    It needs :math:`\alpha_t` unclipped [1]_: while :math:`\alpha_t \le 0` intervals are
    infinite; while :math:`\alpha_t \ge 1` they are empty, and every row counts as a
    miss. In place of an empty interval the point prediction is returned twice.

    "pid": for any stream of finite scores, with
    :math:`h = \max_{t \le T} (t + 1) / \log(t + 1)` and C the `saturation`, the share
    of misses is within :math:`(C \pi h / 2 + 1) / T` of :math:`\alpha` [4]_. This falls
    like :math:`C \pi / (2 \log T)`. No scorecaster is used. A threshold below every
    score that is possible makes an empty interval, as above.

    "dtaci": a bound on the regret in pinball loss of the levels over every spell of
    `horizon` rows [3]_; for the share of misses, none in finite samples, and in the
    limit only for step sizes that vanish, which these do not.

    "agaci": none [2]_. Its intervals are always finite: an expert without a finite
    threshold is given the largest score in store (the smallest, if its level exceeds
    1). The losses of the ends are measured on the scale of the score. The weights are
    those of Bernstein online aggregation with a rate for each expert.

    All of this is about the average over the stream, for no single row and no x. An
    interval that is rounded outwards may hold a target that counts as a miss by the
    last bit of its score.

    References
    ----------
    .. [1] I. Gibbs, E. Candes, "Adaptive Conformal Inference Under Distribution
       Shift", arXiv:2106.00170.
    .. [2] M. Zaffran, A. Dieuleveut, O. Feron, Y. Goude, J. Josse, "Adaptive Conformal
       Predictions for Time Series", arXiv:2202.07282.
    .. [3] I. Gibbs, E. Candes, "Conformal Inference for Online Prediction with
       Arbitrary Distribution Shifts", arXiv:2208.08401.
    .. [4] A. N. Angelopoulos, E. J. Candes, R. J. Tibshirani, "Conformal PID Control
       for Time Series Prediction", arXiv:2307.16895.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import OnlineConformalRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 1))
    >>> y = X[:, 0] + np.linspace(1, 3, 600) * rng.normal(size=600)
    >>> model = OnlineConformalRegressor(Ridge()).fit(X[:200], y[:200])
    >>> interval = model.predict_interval_online(X[200:], y[200:])
    >>> interval.shape, model.n_steps_, bool(0.08 < model.miss_rate_ < 0.15)
    ((400, 2), 400, True)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        update: str = "aci",
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        gamma: float = 0.005,
        gammas: Any = None,
        horizon: int = 500,
        learning_rate: float = 0.1,
        integral_gain: float | None = None,
        saturation: float = 1.0,
        window: int | None = None,
        calibration_size: float | int = 0.25,
        update_estimator: bool = False,
    ) -> None:
        self.estimator = estimator
        self.update = update
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.gamma = gamma
        self.gammas = gammas
        self.horizon = horizon
        self.learning_rate = learning_rate
        self.integral_gain = integral_gain
        self.saturation = saturation
        self.window = window
        self.calibration_size = calibration_size
        self.update_estimator = update_estimator

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "OnlineConformalRegressor":
        """Train on the first rows, calibrate on the last, and start the stream anew.

        With a `FrozenEstimator` nothing is trained and all rows calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows in time order, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training.

        Returns
        -------
        self : OnlineConformalRegressor
            Fitted, before the first step.
        """
        X, y = check_X_y(self, X, y, reset=True)
        level = check_confidence_level(self.confidence_level)
        update = self._new_update(level)
        window = None if self.window is None else check_count(self.window, "window")
        weight = check_sample_weight(sample_weight, y.size)
        score = resolve_score(self.nonconformity)
        model, score, X, y = self._train(X, y, weight, score)
        y_pred = predict_for_score(score, model, X, float(level))
        scores = _one_score_a_row(score, y, y_pred, update.needs_finite_scores)
        store = ScoreStore(scores.tolist(), window)
        update.start(store)
        # From here on nothing can fail: a fit that raised has left the last one alone.
        self.estimator_, self.nonconformity_ = model, score
        self.confidence_level_, self.n_calibration_ = float(level), int(y.size)
        self._level_pair = level.numerator, level.denominator
        self._update, self._store = update, store
        return self._publish()

    def partial_fit(self, X: Any, y: Any) -> "OnlineConformalRegressor":
        """Judge new rows by the intervals that stood before each, and learn from them.

        All rows at once or one at a time: the state is the same, up to the rounding of
        the model's own predictions. On an unfitted estimator this is `fit`.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            New rows in time order.
        y : array-like of shape (n_samples,)
            Their target, finite.

        Returns
        -------
        self : OnlineConformalRegressor
            After the last row.
        """
        if not hasattr(self, "threshold_"):
            return self.fit(X, y)
        X, y = check_X_y(self, X, y, reset=False)
        self._advance(X, y)
        return self

    def predict(self, X: Any) -> FloatArray:
        """Predict the point, as the wrapped estimator does.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Point predictions.
        """
        check_is_fitted(self, "threshold_")
        return predict_point(self.estimator_, check_X(self, X, reset=False))

    def predict_interval(
        self, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Predict the intervals of the next rows, all at the current threshold.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            None or the level of `fit`: it is the misses at this level that were
            counted, and there is no state for another.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds.
        """
        check_is_fitted(self, "threshold_")
        X = check_X(self, X, reset=False)
        self._check_level(confidence_level)
        y_pred = self._predict_for_score(self.estimator_, X)
        pair = self._update.thresholds(self._store)
        ends = np.tile(pair, (_num_samples(X), 1))
        self._warn_if_infinite(ends)
        return self._interval(y_pred, ends)

    def predict_interval_online(self, X: Any, y: Any) -> FloatArray:
        """Run a stream: predict each row's interval before its target is used.

        The state afterwards is that of `partial_fit` on the same rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            New rows in time order.
        y : array-like of shape (n_samples,)
            Their target, finite.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, each from the rows before it alone.
        """
        check_is_fitted(self, "threshold_")
        X, y = check_X_y(self, X, y, reset=False)
        y_pred, ends = self._advance(X, y)
        self._warn_if_infinite(ends)
        return self._interval(y_pred, ends)

    @property
    def scores_(self) -> FloatArray:
        """Scores that quantiles are taken of now, in time order."""
        return np.array(self._store.recent)

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _new_update(self, level: Fraction) -> Any:
        names = (
            *("gamma", "gammas", "horizon"),
            *("learning_rate", "integral_gain", "saturation"),
        )
        parameters = {name: getattr(self, name) for name in names}
        return make_update(self.update, level, **parameters)

    def _train(
        self, X: Any, y: FloatArray, weight: FloatArray | None, score: Any
    ) -> tuple[Any, Any, Any, FloatArray]:
        """Return model and score, fitted on the first rows, and the last rows."""
        if is_frozen(self.estimator):
            self._check_can_learn(self.estimator)
            return self.estimator, fit_score(score, self.estimator, None, None), X, y
        warn_if_fitted(self.estimator, self)
        n_train = y.size - check_calibration_size(self.calibration_size, y.size)
        X_train, y_train = _safe_indexing(X, slice(0, n_train)), y[:n_train]
        weight = None if weight is None else weight[:n_train]
        model = clone_and_fit(self.estimator, X_train, y_train, weight)
        self._check_can_learn(model)
        X_last = _safe_indexing(X, slice(n_train, y.size))
        return model, fit_score(score, model, X_train, y_train), X_last, y[n_train:]

    def _check_can_learn(self, model: Any) -> None:
        if not self.update_estimator:
            return
        if is_frozen(model) or not hasattr(model, "partial_fit"):
            raise ValueError(
                f"update_estimator={self.update_estimator!r} needs an estimator that "
                f"is not frozen and has partial_fit, got {type(model).__name__}. Pass "
                "one, as SGDRegressor, or update_estimator=False."
            )

    def _check_level(self, confidence_level: float | None) -> None:
        if confidence_level is None:
            return
        if check_confidence_level(confidence_level) != Fraction(*self._level_pair):
            raise ValueError(
                f"confidence_level={confidence_level!r}, but the stream was followed "
                f"at {self.confidence_level_:g}, and its misses say nothing about "
                "another level. Fit one OnlineConformalRegressor for each level."
            )

    def _predict_for_score(self, model: Any, X: Any) -> FloatArray:
        return predict_for_score(self.nonconformity_, model, X, self.confidence_level_)

    def _advance(self, X: Any, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Take the rows' steps; return their predictions and thresholds."""
        score, update = self.nonconformity_, self._update
        # No score depends on a threshold, so what can fail comes before the first step.
        model, y_pred = self._predict_in_turn(X, y)
        scores = _one_score_a_row(score, y, y_pred, update.needs_finite_scores)
        above = _at_upper_end(score, y, y_pred, scores)
        self.estimator_ = model
        ends = update.run(self._store, scores, above)
        self._publish()
        return y_pred, ends

    def _predict_in_turn(self, X: Any, y: FloatArray) -> tuple[Any, FloatArray]:
        """Return the model after the rows, and what it predicted before each."""
        if not self.update_estimator:
            return self.estimator_, self._predict_for_score(self.estimator_, X)
        self._check_can_learn(self.estimator_)
        model, parts = copy.deepcopy(self.estimator_), []
        for t in range(y.size):
            row = _safe_indexing(X, slice(t, t + 1))
            parts.append(self._predict_for_score(model, row))
            model.partial_fit(row, y[t : t + 1])
        return model, np.concatenate(parts)

    def _interval(self, y_pred: FloatArray, ends: FloatArray) -> FloatArray:
        score = self.nonconformity_
        interval = np.array(score.inverse(y_pred, ends[:, 0]), dtype=np.float64)
        if not np.array_equal(ends[:, 0], ends[:, 1]):
            interval[:, 1] = score.inverse(y_pred, ends[:, 1])[:, 1]
        empty = np.isneginf(ends).all(axis=1)
        empty[~empty] = self._crossed(y_pred[~empty], interval[~empty], ends[~empty])
        if empty.any():
            interval[empty] = self._narrowest(y_pred[empty])
        return check_finite_predictions(interval, score)

    def _crossed(
        self, y_pred: FloatArray, interval: FloatArray, ends: FloatArray
    ) -> BoolArray:
        """Return where the ends, put in order, enclose targets that are all misses.

        Neither the middle of an interval that is not empty nor the point that would
        replace it is a miss. Ends that differ by their rounding alone may stay.
        """
        finite = np.isfinite(interval).all(axis=1)
        crossed = np.zeros(len(interval), dtype=bool)
        lower, upper = interval[finite].T
        rounding = (
            64 * np.finfo(np.float64).eps * np.maximum(np.abs(lower), np.abs(upper))
        )
        # Halves, as the width of a finite interval may be infinite.
        crossed[finite] = upper / 2 - lower / 2 > rounding
        for pair in (interval, self._narrowest(y_pred)):
            crossed &= np.isfinite(pair).all(axis=1)
            if not crossed.any():
                break
            middle = (pair[crossed] / 2).sum(axis=1)
            with np.errstate(divide="ignore"):  # a logarithm of 0 is a score
                scores = self.nonconformity_.score(middle, y_pred[crossed])
            crossed[crossed] = scores > ends[crossed].max(axis=1)
        return crossed

    def _narrowest(self, y_pred: FloatArray) -> FloatArray:
        """Return what stands for no interval at all: one point, twice."""
        if y_pred.ndim == 1:
            return np.column_stack([y_pred, y_pred])
        # The middle of the interval of the smallest score in store.
        smallest = np.full(len(y_pred), self._store.order_statistic(1))
        interval = np.asarray(self.nonconformity_.inverse(y_pred, smallest))
        with np.errstate(invalid="ignore"):
            middle = interval.mean(axis=1, keepdims=True)
        return np.where(np.isnan(middle), interval, middle)

    def _warn_if_infinite(self, ends: FloatArray) -> None:
        infinite = int(np.isposinf(ends).any(axis=1).sum())
        if infinite:
            needed = rows_needed(Fraction(*self._level_pair))
            warn_user(
                f"{infinite} of {len(ends)} intervals are infinite: no finite "
                "threshold has the coverage asked for after the misses before. That "
                f"takes at least {needed} scores in store for level "
                f"{self.confidence_level_:g}, and hits to bring the level back once "
                "many misses in a row have raised it; a smaller gamma raises it less.",
                InfiniteIntervalWarning,
            )

    def _publish(self) -> "OnlineConformalRegressor":
        update = self._update
        self.n_steps_, self.n_misses_ = update.n_steps, update.n_misses
        self.miss_rate_ = self.n_misses_ / self.n_steps_ if self.n_steps_ else np.nan
        self.alpha_ = update.alpha
        lower, upper = update.thresholds(self._store)
        self.threshold_ = np.array([lower, upper]) if update.two_ends else lower
        return self


def _one_score_a_row(
    score: Any, y: FloatArray, y_pred: FloatArray, finite: bool
) -> FloatArray:
    scores = check_scores(score.score(y, y_pred), y.size)
    if scores.ndim == 2:
        raise ValueError(
            f"nonconformity ({type(score).__name__}) gives one score for each end, but "
            "the stream is followed by one score a row. Use a symmetric score, as "
            "'absolute', 'normalized' or 'quantile'."
        )
    if finite and not np.isfinite(scores).all():
        raise ValueError(
            "nonconformity scores must be finite for update='agaci' and update='pid', "
            "got an infinite one. Check the predictions of the estimator, or use 'aci' "
            "or 'dtaci'."
        )
    return scores + 0.0  # no negative zero: equal scores are one value


def _at_upper_end(
    score: Any, y: FloatArray, y_pred: FloatArray, scores: FloatArray
) -> BoolArray:
    """Return whether y is nearer to the upper end of the interval of its own score."""
    lower, upper = np.asarray(score.inverse(y_pred, scores)).T
    return np.asarray(upper - y <= y - lower)
