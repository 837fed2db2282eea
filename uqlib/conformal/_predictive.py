"""Conformal predictive systems around any regressor."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import as_1d
from uqlib._core.group_ranks import warn_small_groups
from uqlib._core.levels import central_pair, check_confidence_level, check_quantiles
from uqlib._core.predictive_system import (
    check_location_scale,
    predictive_cdf,
    predictive_crps,
    predictive_p_values,
    standardize,
)
from uqlib._core.ranks import warn_infinite
from uqlib._core.residual_quantiles import (
    infinite_level,
    level_residuals,
    place_quantiles,
)
from uqlib._core.scores import SignedScore
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray
from uqlib._validation import check_X
from uqlib.conformal._base import BaseScoreRegressor
from uqlib.conformal._scores import NormalizedScore, predict_for_score


class ConformalPredictiveRegressor(BaseScoreRegressor):
    r"""Predictive distributions of guaranteed calibration around any regressor.

    With the residuals :math:`r_i = (y_i - \hat y_i) / \sigma_i` of n rows that the
    estimator was not trained on, a new row has the distribution and the p-value

    .. math:: F(t \mid x) = \frac{1}{n} \#\{i : \hat y(x) + \sigma(x) r_i \le t\},
              \qquad
              Q(y, u) = \frac{\#\{i : r_i < z\} + u (\#\{i : r_i = z\} + 1)}{n + 1},
              \quad z = \frac{y - \hat y(x)}{\sigma(x)},

    where :math:`\sigma = 1`, or a scale that follows x.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    quantiles : array-like of shape (n_quantiles,), default=None
        The levels of `predict_quantiles`, strictly increasing in (0, 1). None takes the
        two of the central interval and the median.
    confidence_level : float, default=0.9
        Coverage of `predict_interval`, strictly between 0 and 1.
    nonconformity : {"signed", "normalized"} or NormalizedScore, default="signed"
        "signed" takes residuals as they are, so that all rows have a distribution of
        the same form; a `NormalizedScore` divides them by a scale that follows x.
    group_by : str, int or callable, default=None
        Column of X, or function of X, with the group of each row. Every group is
        calibrated by its own rows.
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
        The score, fitted if it learns a scale.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    scores_ : ndarray of shape (`n_calibration_`,)
        The residuals r of the calibration rows.
    threshold_ : ndarray of shape (n_quantiles,) or (n_groups, n_quantiles)
        The residual that stands for each level; infinite where the rows are too few.
    groups_ : ndarray of shape (n_groups,)
        Sorted labels of the groups, if there are any.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, or the estimator predicts
        NaN or infinity.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the outermost level.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    SplitConformalRegressor : Intervals alone, with any nonconformity score.
    ConformalQuantiles : Calibrates the quantiles of a quantile regressor.
    predictive_p_values : The p-values as a function of arrays.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and neither the estimator nor
    the scale was trained on them, the p-value Q(y, u) of the new target with an
    independent uniform u is uniform on [0, 1]. Hence :math:`P(Q(y, 1) \le a) \le a`,
    every level of `predict_quantiles` above 1/2 is reached with at least its
    probability and every level below 1/2 is undershot with at most its own, and
    intervals cover with probability at least the confidence level. With groups all of
    this holds within each group. For the median and for F conditional on x there is
    none.

    F lies between Q(t, 0) and Q(t, 1) wherever t is not one of its steps. A group
    without calibration rows has half of its mass at either infinity: F = 1/2, Q = u,
    infinite intervals and scores.

    References
    ----------
    .. [1] V. Vovk, I. Petej, I. Nouretdinov, V. Manokhin, A. Gammerman,
       "Computationally Efficient Versions of Conformal Predictive Distributions",
       arXiv:1911.00941.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import ConformalPredictiveRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = ConformalPredictiveRegressor(Ridge(), random_state=0).fit(X, y)
    >>> model.predict_cdf(X, [100.0, 200.0]).shape, model.crps(X, y).shape
    ((442, 2), (442,))
    """

    def __init__(
        self,
        estimator: Any,
        *,
        quantiles: Any = None,
        confidence_level: float = 0.9,
        nonconformity: Any = "signed",
        group_by: Any = None,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.quantiles = quantiles
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.group_by = group_by
        self.calibration_size = calibration_size
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, mondrian_groups: Any = None
    ) -> Any:
        """Split the rows, fit the estimator on one part, calibrate on the other.

        With a `FrozenEstimator` nothing is trained and all rows calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training. Calibration counts
            each of its rows once, as the guarantee needs.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row: every group is calibrated by its own rows.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        return super().fit(X, y, sample_weight, mondrian_groups=mondrian_groups)

    def calibrate(self, X: Any, y: Any, *, mondrian_groups: Any = None) -> Any:
        """Calibrate anew on rows that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : array-like of shape (n_calibration,)
            Their target, finite.
        mondrian_groups : array-like of shape (n_calibration,), default=None
            Label of the group of each row.

        Returns
        -------
        self : object
            The estimator is as it was; the distributions are new.
        """
        return super().calibrate(X, y, mondrian_groups=mondrian_groups)

    def predict_interval(
        self,
        X: Any,
        confidence_level: float | None = None,
        *,
        mondrian_groups: Any = None,
    ) -> FloatArray:
        r"""Predict central intervals: the quantiles alpha / 2 and 1 - alpha / 2.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the calibration rows are too few.
        """
        check_is_fitted(self, "scores_")
        if confidence_level is None:
            # Its warning was given at calibration.
            pair = np.array(central_pair(self.confidence_level_))
            return self._quantile_matrix(X, pair, mondrian_groups)
        check_confidence_level(confidence_level)
        return self.predict_quantiles(
            X, central_pair(confidence_level), mondrian_groups=mondrian_groups
        )

    def predict_quantiles(
        self, X: Any, quantiles: Any = None, *, mondrian_groups: Any = None
    ) -> FloatArray:
        """Predict quantiles, at any level.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels asked for, strictly increasing in (0, 1); None takes `quantiles_`.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            Non-decreasing rows, infinite where the calibration rows are too few.
        """
        check_is_fitted(self, "scores_")
        if quantiles is None:
            return self._quantile_matrix(X, self.quantiles_, mondrian_groups)
        levels = check_quantiles(quantiles)
        self._warn_if_infinite(levels)
        return self._quantile_matrix(X, levels, mondrian_groups)

    def predict_cdf(
        self, X: Any, thresholds: Any, *, mondrian_groups: Any = None
    ) -> FloatArray:
        """Predict the distribution functions at thresholds.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        thresholds : float or array-like of shape (n_thresholds,)
            Where to evaluate the functions, the same values for all rows.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples, n_thresholds)
            Probabilities of a target up to the threshold, from 0 to 1.
        """
        check_is_fitted(self, "scores_")
        grid = as_1d(np.atleast_1d(np.asarray(thresholds, dtype=float)), "thresholds")
        return self._each_group(
            X,
            mondrian_groups,
            (grid.size,),
            lambda r, point, scale, _: predictive_cdf(r, point, grid, scale),
        )

    def predict_p_values(
        self, X: Any, y: Any, *, u: Any = 1, mondrian_groups: Any = None
    ) -> FloatArray:
        """Return the p-values Q(y, u) of targets.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : float or array-like of shape (n_samples,)
            Targets, or one threshold for all rows.
        u : float or array-like of shape (n_samples,), default=1
            Where between its extremes the p-value lies, from 0 to 1: the default is
            deterministic, independent uniform draws give exactly uniform p-values.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples,)
            The p-values, small for targets that are low for their row.
        """
        check_is_fitted(self, "scores_")
        n_samples = _num_samples(X)
        targets, share = _one_a_row(y, n_samples, "y"), _one_a_row(u, n_samples, "u")
        return self._each_group(
            X,
            mondrian_groups,
            (),
            lambda r, point, scale, rows: predictive_p_values(
                r, point, targets[rows], scale, u=share[rows]
            ),
        )

    def crps(self, X: Any, y: Any, *, mondrian_groups: Any = None) -> FloatArray:
        r"""Return the continuous ranked probability score of each row, exactly.

        .. math:: \int (F(t \mid x) - 1\{y \le t\})^2 \, dt .

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Targets.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples,)
            The scores, at least 0, in the unit of y; the lower the better.
        """
        check_is_fitted(self, "scores_")
        targets = _one_a_row(y, _num_samples(X), "y")
        return self._each_group(
            X,
            mondrian_groups,
            (),
            lambda r, point, scale, rows: predictive_crps(
                r, point, targets[rows], scale
            ),
        )

    def _unfitted_score(self) -> Any:
        if isinstance(self.nonconformity, NormalizedScore | SignedScore):
            return self.nonconformity
        if self.nonconformity == "signed":
            return SignedScore()
        if self.nonconformity == "normalized":
            return NormalizedScore()
        raise ValueError(
            f"nonconformity={self.nonconformity!r} must be 'signed', 'normalized' or a "
            "NormalizedScore: a distribution needs residuals that increase with y."
        )

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        self.nonconformity_ = self._learned
        point, scale = self._location_scale(X)
        self.scores_ = as_1d(standardize(y, point, scale), "the residuals")

    def _set_threshold(self, level: Fraction) -> None:
        vars(self).pop("groups_", None)
        if self._thresholds.labels is not None:
            self.groups_ = self._thresholds.labels
        pair = np.array(central_pair(level))
        if self.quantiles is None:
            self.quantiles_ = np.array([pair[0], 0.5, pair[1]])
        else:
            self.quantiles_ = check_quantiles(self.quantiles)
        self._warn_if_infinite(np.concatenate([pair, self.quantiles_]))
        table = self._level_table(self.quantiles_)
        self.threshold_ = table[0] if self._thresholds.labels is None else table[:-1]

    def _location_scale(self, X: Any) -> tuple[FloatArray, FloatArray]:
        score = self.nonconformity_
        if isinstance(score, SignedScore):
            return check_location_scale(predict_point(self.estimator_, X), 1)
        level = self.confidence_level_
        values = predict_for_score(score, self.estimator_, X, level)
        return check_location_scale(values[:, 0], values[:, 1])

    def _residuals(self, group: int) -> FloatArray:
        return self.scores_[self._thresholds.members(group)]

    def _level_table(self, levels: FloatArray) -> FloatArray:
        """Return the residuals of the levels, a row each group and one for unseen."""
        numbers = [*range(self._thresholds.n_groups), -1]
        return np.array([level_residuals(self._residuals(g), levels) for g in numbers])

    def _quantile_matrix(
        self, X: Any, levels: FloatArray, mondrian_groups: Any
    ) -> FloatArray:
        X = check_X(self, X, reset=False)
        groups = self._row_groups(X, mondrian_groups)
        point, scale = self._location_scale(X)
        return place_quantiles(point, scale, self._level_table(levels)[groups], levels)

    def _each_group(
        self,
        X: Any,
        mondrian_groups: Any,
        shape: tuple[int, ...],
        function: Callable[..., FloatArray],
    ) -> FloatArray:
        X = check_X(self, X, reset=False)
        groups = self._row_groups(X, mondrian_groups)
        point, scale = self._location_scale(X)
        result = np.empty((point.size, *shape))
        for group in np.unique(groups):
            rows = groups == group
            residuals = self._residuals(group)
            result[rows] = function(residuals, point[rows], scale[rows], rows)
        return result

    def _row_groups(self, X: Any, mondrian_groups: Any) -> Any:
        new = self._new_conditions(X, mondrian_groups)
        return self._thresholds.group_numbers(new, _num_samples(X))

    def _warn_if_infinite(self, levels: FloatArray) -> None:
        labels, codes = self._thresholds.labels, self._thresholds.codes
        if labels is None or codes is None:
            needed = infinite_level(self.n_calibration_, levels)
            if needed is not None:
                warn_infinite(self.n_calibration_, needed)
            return
        sizes = np.bincount(codes, minlength=labels.size)
        needed = infinite_level(int(sizes.min()), levels)
        if needed is not None:
            warn_small_groups(labels, sizes, needed)


def _one_a_row(values: Any, n_samples: int, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape not in ((), (n_samples,)):
        raise ValueError(
            f"{name} must be a number or have shape ({n_samples},), one value a row of "
            f"X, got shape {array.shape}."
        )
    return np.broadcast_to(array, (n_samples,))
