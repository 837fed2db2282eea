"""Conformal outlier detection around any detector or density."""

from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.label_checks import nine_digits
from uqlib._core.levels import check_confidence_level
from uqlib._core.outlier_p_values import (
    check_conditional_method,
    conditional_boundary,
    conformal_p_values,
    ranks_of_p_values,
    simes_rows_needed,
)
from uqlib._core.ranks import order_statistic
from uqlib._fitting import clone_and_fit, is_frozen, warn_if_fitted
from uqlib._predictions import predict_normality
from uqlib._typing import FloatArray
from uqlib._validation import check_some_rows, check_X
from uqlib.conformal._base import BaseSplitCalibrator
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


class ConformalOutlierDetector(OutlierMixin, BaseSplitCalibrator):
    r"""P-values for outliers, around any outlier detector or density.

    With scores :math:`s_i` (minus the estimator's own measure of normality) of n
    inliers that the estimator was not trained on,

    .. math:: p(x) = \frac{1 + \#\{i : s_i \ge s(x)\}}{n + 1},

    and x is called an outlier if :math:`p(x) \le 1 - c` with the confidence level c.

    Parameters
    ----------
    estimator : estimator
        Anything with ``score_samples`` or ``decision_function``, larger = more normal:
        an outlier detector (``LocalOutlierFactor(novelty=True)``), a density
        (``GaussianMixture``), or a pipeline that ends in one. It is cloned and fitted;
        a :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    confidence_level : float, default=0.9
        Share of inliers to be left alone, strictly between 0 and 1.
    conditional : {None, "simes", "asymptotic", "monte_carlo"}, default=None
        None gives p-values that hold on average over calibration sets. A method of
        :func:`conditional_p_values` gives larger ones that hold for most of them.
    conditional_confidence_level : float, default=0.9
        The probability over calibration sets that `conditional` holds with, strictly
        between 0 and 1.
    group_by : str, int or callable, default=None
        Column of X, by name or number, or a function of X, that gives the group of
        each row: every group is calibrated by its own rows. Instead, arrays can be
        passed as `mondrian_groups` to the methods.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out, and the variables of "monte_carlo".

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    scores_ : ndarray of shape (`n_calibration_`,)
        Scores of the calibration rows, larger = stranger.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    threshold_ : float or ndarray of shape (n_groups,)
        Outliers have scores above it. +inf if the rows are too few for the level.
    offset_ : float or ndarray of shape (n_groups,)
        Minus the threshold: ``decision_function`` is ``score_samples`` less this.
    groups_ : ndarray of shape (n_groups,)
        Labels of the groups at calibration, sorted, if there are groups.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the estimator gives no scores or NaN.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for any row to be called an outlier.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    conformal_p_values : The p-values, from arrays.
    ExchangeabilityMartingale : Tests whether rows still follow the same law.

    Notes
    -----
    .. rubric:: Guarantee

    If the rows of calibration and a new row are exchangeable inliers, and the estimator
    was not trained on them, :math:`P(p(x) \le t) \le t` for every t; so an inlier is
    called an outlier with probability at most 1 - c. For several independent rows the
    p-values of the inliers are positively dependent (PRDS), and the procedure of
    Benjamini and Hochberg (the example below) keeps the expected share of inliers among
    the rows selected at its level. Outliers among the calibration rows void this.

    With `conditional`, independent rows and 1 - delta = `conditional_confidence_level`:
    with probability at least 1 - delta over the calibration rows,
    :math:`P(p(x) \le t \mid \text{calibration}) \le t` for all t at once, and p-values
    of independent rows are independent. "asymptotic" holds in the limit only, and of
    "monte_carlo" the simulated variables are part of the probability.

    With groups each statement holds within each group, n being its number of
    calibration rows. A row of a group without calibration rows has p = 1, with a
    warning. ``fit_predict`` judges the rows that it was fitted on: it has no guarantee.
    Scores count with nine significant digits, so that rounding in the wrapped model
    breaks no ties.

    References
    ----------
    .. [1] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for Outliers with
       Conformal p-values", arXiv:2104.08279.

    Examples
    --------
    >>> from scipy.stats import false_discovery_control
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.mixture import GaussianMixture
    >>> from uqlib.conformal import ConformalOutlierDetector
    >>> X, y = load_iris(return_X_y=True)
    >>> model = ConformalOutlierDetector(GaussianMixture(), random_state=0)
    >>> p_values = model.fit(X[y == 2]).predict_p_values(X[y == 0])
    >>> int((false_discovery_control(p_values) <= 0.1).sum())
    50
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        conditional: str | None = None,
        conditional_confidence_level: float = 0.9,
        group_by: Any = None,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.conditional = conditional
        self.conditional_confidence_level = conditional_confidence_level
        self.group_by = group_by
        self.calibration_size = calibration_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, mondrian_groups: Any = None) -> Any:
        """Split the rows, fit the estimator on one part, calibrate on the other.

        With a `FrozenEstimator` nothing is trained and all rows calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Inliers, as the estimator takes them.
        y : None
            Ignored.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row: every group is calibrated by its own rows.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        X, _ = self._check_rows(X, None, reset=True)
        conditions = self._conditions(X, mondrian_groups, None)
        if is_frozen(self.estimator):
            return self._calibrate(self.estimator, None, X, None, conditions)
        warn_if_fitted(self.estimator, self)
        train, held_out = self._split_rows(X, None)
        model = clone_and_fit(self.estimator, _safe_indexing(X, train), None)
        rows = _safe_indexing(X, held_out)
        return self._calibrate(model, None, rows, None, conditions.take(held_out))

    def calibrate(self, X: Any, y: Any = None, *, mondrian_groups: Any = None) -> Any:
        """Calibrate anew on inliers that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : None
            Ignored.
        mondrian_groups : array-like of shape (n_calibration,), default=None
            Label of the group of each row.

        Returns
        -------
        self : object
            The estimator is as it was; the p-values are new.
        """
        return super().calibrate(X, None, mondrian_groups=mondrian_groups)

    def predict_p_values(self, X: Any, *, mondrian_groups: Any = None) -> FloatArray:
        """Predict how likely an inlier is to be as strange as each row.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples,)
            P-values in (0, 1], small = outlying.
        """
        scores = -self.score_samples(X)
        groups = self._groups(X, mondrian_groups)
        p_values = np.ones(scores.size)
        for g in np.unique(groups[groups >= 0]):
            rows = groups == g
            calibration = self._group_scores(g)
            p = conformal_p_values(calibration, scores[rows])
            if self._boundaries is not None:
                ranks = ranks_of_p_values(p, calibration.size)
                p = self._boundaries[g][ranks - 1]
            p_values[rows] = p
        return p_values

    def score_samples(self, X: Any) -> FloatArray:
        """Return the normality of rows, as the wrapped estimator measures it.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Larger = more normal; to nine significant digits.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        return nine_digits(predict_normality(self.estimator_, X))

    def decision_function(self, X: Any, *, mondrian_groups: Any = None) -> FloatArray:
        """Return the normality of rows less its threshold.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples,)
            Negative for outliers.
        """
        normality = self.score_samples(X)
        groups = self._groups(X, mondrian_groups)
        # Nothing is an outlier in a group without calibration rows.
        offset = np.append(np.atleast_1d(self.offset_), -np.inf)[groups]
        with np.errstate(invalid="ignore", over="ignore"):
            decision = normality - offset
        return np.where(normality == offset, 0.0, decision)

    def predict(self, X: Any, *, mondrian_groups: Any = None) -> Any:
        """Predict which rows are outliers at the level of the last calibration.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples,)
            -1 for outliers, whose p-value is at most 1 - `confidence_level`, else 1.
        """
        decision = self.decision_function(X, mondrian_groups=mondrian_groups)
        return np.where(decision < 0, -1, 1)

    def _check_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        check_confidence_level(self.confidence_level)
        if self.conditional is not None:
            check_conditional_method(self.conditional, "conditional")
            self._conditional_level()
        X = check_X(self, X, reset=reset)
        check_some_rows(self, X)
        return X, None

    def _set_calibration(self, X: Any, y: Any) -> None:
        self.scores_ = -nine_digits(predict_normality(self.estimator_, X))
        self._boundaries = None
        if self.conditional is None:
            return
        level = self._conditional_level()
        rng = None
        if self.conditional == "monte_carlo":
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            rng = np.random.default_rng(seed)
        self._boundaries = [
            conditional_boundary(
                self._group_scores(g).size, level, self.conditional, rng
            )
            for g in range(self._thresholds.n_groups)
        ]

    def _set_threshold(self, level: Fraction) -> None:
        if self._boundaries is None:
            super()._set_threshold(level)
        else:
            self._set_conditional_threshold(level)
        self.offset_ = -self.threshold_

    # A row is an outlier if its rank j has b_j <= alpha: if fewer scores are at least
    # its own than there are such j, which are the first ones.
    def _set_conditional_threshold(self, level: Fraction) -> None:
        thresholds = []
        for g, boundary in enumerate(self._boundaries):
            scores = self._group_scores(g)
            n_small = int(np.sum(boundary <= float(1 - level)))
            thresholds.append(order_statistic(scores, scores.size + 1 - n_small))
        if self._thresholds.labels is None:
            vars(self).pop("groups_", None)
            self.threshold_ = thresholds[0]
        else:
            self.groups_ = self._thresholds.labels
            self.threshold_ = np.array(thresholds)
        if np.isposinf(thresholds).any():
            self._warn_too_few(level)

    def _warn_too_few(self, level: Fraction) -> None:
        small = [b.size - 1 for b in self._boundaries if b[0] > float(1 - level)]
        if not small:
            return  # calibration scores of +inf, not too few of them
        warn_user(
            f"{min(small)} calibration rows are too few "
            f"for a conditional p-value of {float(1 - level):g}: at least "
            f"{simes_rows_needed(self._conditional_level(), level)} are needed with "
            "conditional='simes'. No row is an outlier there; pass more calibration "
            "rows or ask for a lower level.",
            InfiniteIntervalWarning,
        )

    def _conditional_level(self) -> Fraction:
        try:
            return check_confidence_level(self.conditional_confidence_level)
        except (TypeError, ValueError) as error:
            raise type(error)(f"conditional_{error}") from error

    def _group_scores(self, g: int) -> FloatArray:
        return self.scores_[self._thresholds.members(g)]

    def _groups(self, X: Any, mondrian_groups: Any) -> Any:
        """Return the number of each row's group, -1 for one without calibration."""
        X = check_X(self, X, reset=False)
        new = self._new_conditions(X, mondrian_groups)
        return self._thresholds.group_numbers(new, _num_samples(X))
