"""Label sets whose risk is controlled, around any classifier with probabilities."""

from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted

from uqlib._class_predictions import predict_label_proba
from uqlib._core.checks import check_sample_weight
from uqlib._core.learn_then_test import TESTS, learn_then_test
from uqlib._core.levels import check_confidence_level
from uqlib._core.multilabel_losses import check_indicator
from uqlib._core.risk_bounds import column_p_values
from uqlib._core.risk_checks import check_bound, check_monotone, check_risk_level
from uqlib._core.risk_control import (
    cautious_run,
    conformal_risk_reached,
    rows_for_risk,
    warn_risk_not_controlled,
)
from uqlib._fitting import (
    fit_rows,
    is_frozen,
    split_rows,
    warn_if_fitted,
)
from uqlib._typing import BoolArray, FloatArray
from uqlib._validation import check_X, with_input_tags
from uqlib.conformal._label_sets import (
    Risk,
    check_labels,
    check_thresholds,
    class_probabilities,
    indicator_of,
    resolve_risk,
)

CONTROLS = ("conformal", "rcps", "ltt")
_CHUNK = 2**19


class RiskControlledClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    r"""Label sets whose risk is controlled, for several labels a row or one.

    With the probabilities of a classifier and the loss L of a row's set,

    .. math:: C_t(x) = \{k : \hat p_k(x) \ge t\}, \qquad
              R(t) = E[L(y, C_t(x))] \le a :

    the threshold t is chosen on calibration rows so that the risk stays at or below
    the level a, in expectation or with a given confidence.

    Parameters
    ----------
    estimator : estimator
        Any classifier or pipeline with `predict_proba`, multilabel ones included. It is
        cloned and fitted; a :class:`~sklearn.frozen.FrozenEstimator` is used as it
        stands.
    risk : str or callable, default="false_negative_rate"
        The mean of a row's loss: "false_negative_rate", the share of its labels that
        the set leaves out; "false_discovery_rate", the share of the set that is wrong;
        "miscoverage", whether the set leaves out any label. A function
        ``risk(y_true, y_set)`` of two boolean arrays of shape (n_samples, n_labels)
        gives losses of shape (n_samples,) between 0 and 1.
    risk_level : float, default=0.1
        The level a, strictly between 0 and 1.
    control : {"conformal", "rcps", "ltt"}, default="conformal"
        Conformal risk control, risk-controlling prediction sets, or Learn-then-Test.
        The first two need a loss that never falls as sets get smaller; the rate of
        false discoveries is none, and needs ``"ltt"``.
    confidence_level : float, default=0.9
        Confidence of ``"rcps"`` and ``"ltt"``; without effect on ``"conformal"``.
    bound : {"hoeffding_bentkus", "wsr"}, default="hoeffding_bentkus"
        P-value of ``"rcps"`` and ``"ltt"``. The second depends on the order of the
        calibration rows, which is drawn at random.
    correction : {"fixed_sequence", "holm", "bonferroni"}, default="fixed_sequence"
        Multiple test of ``"ltt"``. The fixed sequence goes from small thresholds to
        large ones, from large to small for the rate of false discoveries.
    thresholds : array-like of shape (n_thresholds,), default=None
        Thresholds to try, chosen without the calibration rows; None tries about 1,200
        between 0 and 1, in steps of at most 0.001.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out, and the order of the rows for ``bound="wsr"``.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    classes_ : ndarray of shape (n_labels,)
        What the columns of a set stand for: classes, or column numbers of a multilabel
        y.
    multilabel_ : bool
        Whether y was an indicator.
    thresholds_ : ndarray of shape (n_thresholds,)
        The thresholds tried, increasing.
    risks_ : ndarray of shape (n_thresholds,)
        Mean loss of the calibration rows at each.
    p_values_ : ndarray of shape (n_thresholds,) or None
        P-value of "the risk is above the level" at each; None for ``"conformal"``.
    valid_ : ndarray of shape (n_thresholds,)
        True for thresholds that are certified.
    threshold_ : float
        The largest of them, the smallest for the rate of false discoveries. Infinite
        if there is none: -inf puts every label into the set, +inf none.
    n_calibration_ : int
        Number of calibration rows.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the estimator has no probabilities or ones
        outside [0, 1], y holds a class that it does not know, a loss is not monotone
        where it must be, or no threshold is certified for a function under ``"ltt"``,
        of which no set is known to be safe.

    Warns
    -----
    RiskNotControlledWarning
        If no threshold is certified: every label is in the set, or none for the rate of
        false discoveries.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    conformal_risk_threshold, rcps_threshold, learn_then_test : The same from arrays of
        losses, for any task.

    Notes
    -----
    .. rubric:: Guarantee

    With calibration rows and a new row that the estimator was not trained on:

    - ``"conformal"``: if they are exchangeable and the loss never falls as sets get
      smaller, :math:`E[L(y, C_{\hat t}(x))] \le a`, over calibration and new row [1]_;
    - ``"rcps"``: if they are independent draws of one law and the loss is monotone as
      above, :math:`P(R(\hat t) \le a) \ge c` for the confidence level c, over the
      calibration rows [2]_;
    - ``"ltt"``: if they are independent draws of one law,
      :math:`P(R(t) \le a \text{ for all valid } t) \ge c` for any loss [3]_; a user's
      choice among ``thresholds_[valid_]`` keeps it.

    A class that only calibration has seen has the probability 0; one that fit has not
    seen at all is in no set, and the probability of such a row adds to the risk. None
    is conditional on x or on a label. For a function under ``"conformal"`` or
    ``"rcps"`` it is assumed that the full set loses at most a. A row without labels
    has no false negatives, an empty set no false discoveries.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, A. Fisch, L. Lei, T. Schuster, "Conformal Risk
       Control", arXiv:2208.02814.
    .. [2] S. Bates, A. Angelopoulos, L. Lei, J. Malik, M. I. Jordan,
       "Distribution-Free, Risk-Controlling Prediction Sets", arXiv:2101.02703.
    .. [3] A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan, L. Lei, "Learn then
       Test: Calibrating Predictive Algorithms to Achieve Risk Control",
       arXiv:2110.01052.

    Examples
    --------
    >>> from sklearn.datasets import make_multilabel_classification
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from uqlib.conformal import RiskControlledClassifier
    >>> X, y = make_multilabel_classification(600, n_classes=4, random_state=0)
    >>> model = RiskControlledClassifier(KNeighborsClassifier(20), random_state=0)
    >>> sets = model.fit(X[:400], y[:400]).predict_set(X[400:])
    >>> sets.shape, model.n_calibration_
    ((200, 4), 100)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        risk: Any = "false_negative_rate",
        risk_level: float = 0.1,
        control: str = "conformal",
        confidence_level: float = 0.9,
        bound: str = "hoeffding_bentkus",
        correction: str = "fixed_sequence",
        thresholds: Any = None,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.risk = risk
        self.risk_level = risk_level
        self.control = control
        self.confidence_level = confidence_level
        self.bound = bound
        self.correction = correction
        self.thresholds = thresholds
        self.calibration_size = calibration_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Split the rows, fit the estimator on one part, calibrate on the other.

        With a `FrozenEstimator` nothing is trained and all rows calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Classes, or an indicator of 0 and 1 with one column a label.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training. Calibration counts
            each of its rows once, as the guarantee needs.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        X = check_X(self, X, reset=True)
        y, multilabel = check_labels(self, X, y)
        self._check_parameters()
        weight = check_sample_weight(sample_weight, len(y))
        if is_frozen(self.estimator):
            return self._calibrate(self.estimator, X, y, multilabel)
        warn_if_fitted(self.estimator, self)
        train, held_out = split_rows(len(y), self.calibration_size, self.random_state)
        model = fit_rows(self.estimator, X, y, train, weight)
        labels = y  # a rare class may be held out altogether
        X, y = _safe_indexing(X, held_out), y[held_out]
        return self._calibrate(model, X, y, multilabel, labels)

    def calibrate(self, X: Any, y: Any) -> Any:
        """Calibrate anew on rows that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : array-like of shape (n_calibration,) or (n_calibration, n_labels)
            Their labels, as in fit.

        Returns
        -------
        self : object
            The estimator is as it was; the threshold is new.
        """
        check_is_fitted(self, "threshold_")
        X = check_X(self, X, reset=False)
        y, multilabel = check_labels(self, X, y)
        if multilabel != self.multilabel_:
            raise ValueError(
                f"y has shape {y.shape}, but fit saw "
                f"{'an indicator' if self.multilabel_ else 'classes'}: pass labels of "
                "the same kind."
            )
        self._check_parameters()
        return self._calibrate(self.estimator_, X, y, multilabel, self.classes_)

    def predict(self, X: Any) -> Any:
        """Predict labels, as the wrapped estimator does.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            Classes, or an indicator.
        """
        check_is_fitted(self, "threshold_")
        return self.estimator_.predict(check_X(self, X, reset=False))

    def predict_set(self, X: Any, threshold: float | None = None) -> BoolArray:
        """Predict label sets.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        threshold : float, default=None
            Smallest probability of a label in the set; None takes `threshold_`. One of
            ``thresholds_[valid_]`` keeps the guarantee of ``"ltt"``.

        Returns
        -------
        ndarray of shape (n_samples, n_labels)
            True for labels in the set, columns in the order of `classes_`.
        """
        check_is_fitted(self, "threshold_")
        X = check_X(self, X, reset=False)
        if threshold is None:
            threshold = self.threshold_
        if not isinstance(threshold, Real) or np.isnan(threshold):
            raise ValueError(
                "threshold must be a number, or None for threshold_, got "
                f"{threshold!r}."
            )
        if self.multilabel_:
            proba = predict_label_proba(self.estimator_, X, len(self.classes_))
        else:
            _, proba = class_probabilities(self.estimator_, X, self.classes_)
        return np.asarray(proba >= threshold)

    def __sklearn_tags__(self) -> Any:
        tags = with_input_tags(super().__sklearn_tags__(), [self.estimator])
        inner = get_tags(self.estimator)
        if inner.classifier_tags is not None:
            tags.classifier_tags.multi_label = inner.classifier_tags.multi_label
            tags.classifier_tags.multi_class = inner.classifier_tags.multi_class
        tags.target_tags.multi_output = inner.target_tags.multi_output
        return tags

    def _check_parameters(self) -> None:
        check_risk_level(self.risk_level, 1.0)
        check_confidence_level(self.confidence_level)
        check_bound(self.bound)
        check_thresholds(self.thresholds)
        for name, allowed in (("control", CONTROLS), ("correction", TESTS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise ValueError(f"{name}={value!r} must be one of {list(allowed)}.")
        risk = resolve_risk(self.risk)
        if risk.known and not risk.monotone and self.control != "ltt":
            raise ValueError(
                f"risk={self.risk!r} is not monotone in the threshold, which "
                f"control={self.control!r} needs. Set control='ltt'."
            )

    def _calibrate(
        self, model: Any, X: Any, y: Any, multilabel: bool, labels: Any = ()
    ) -> Any:
        """Calibrate; `labels` are classes that the model need not know."""
        if multilabel:
            classes = np.arange(y.shape[1])
            proba = predict_label_proba(model, X, len(classes))
            indicator = check_indicator(y, len(classes), "y")
        else:
            classes, proba = class_probabilities(model, X, labels)
            indicator = indicator_of(y, classes)
        if self.bound == "wsr" and self.control != "conformal":
            # Every bet is made on the rows before: in the order of the classes, say,
            # they win on rows without a loss first, and the p-value is none.
            order = check_random_state(self.random_state).permutation(len(y))
            indicator, proba = indicator[order], proba[order]
        thresholds = check_thresholds(self.thresholds)
        totals, p_values = self._evaluate(indicator, proba, thresholds)
        valid = self._valid(totals, p_values, len(y))
        threshold = self._choose(thresholds, valid, len(y))
        # Nothing is stored before all has gone well.
        self.estimator_, self.classes_, self.multilabel_ = model, classes, multilabel
        self.thresholds_, self.threshold_ = thresholds, threshold
        self.risks_, self.p_values_, self.valid_ = totals / len(y), p_values, valid
        self.n_calibration_ = len(y)
        return self

    def _evaluate(
        self, indicator: BoolArray, proba: FloatArray, thresholds: FloatArray
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return the sum of the losses at each threshold, and its p-value."""
        risk, n = resolve_risk(self.risk), len(proba)
        totals, p_values = np.empty(thresholds.size), np.empty(thresholds.size)
        unchecked = not risk.known and self.control != "ltt"
        last: FloatArray | None = None
        width = max(1, _CHUNK // n)
        for start in range(0, thresholds.size, width):
            part = slice(start, start + width)
            losses = risk.losses(indicator, proba, thresholds[part])
            if unchecked:
                known = losses if last is None else np.column_stack([last, losses])
                check_monotone(known[:, ::-1], 1.0, "the losses of risk(y_true, y_set)")
                last = losses[:, -1]
            totals[part] = losses.sum(axis=0)
            if self.control != "conformal":
                p_values[part] = column_p_values(losses, *self._levels(), self.bound, 1)
        return totals, None if self.control == "conformal" else p_values

    def _levels(self) -> tuple[Fraction, Fraction]:
        level = check_risk_level(self.risk_level, 1.0)
        return level, check_confidence_level(self.confidence_level)

    def _valid(
        self, totals: FloatArray, p_values: FloatArray | None, n: int
    ) -> BoolArray:
        """Return which of the increasing thresholds are certified."""
        level, confidence = self._levels()
        if p_values is None:
            reached = conformal_risk_reached(totals, n, level, 1.0)
            return np.logical_and.accumulate(reached)
        if self.control == "rcps":
            return cautious_run(p_values, confidence)
        step = 1 if resolve_risk(self.risk).full_is_safe else -1
        found = learn_then_test(
            p_values[::step], self.confidence_level, method=self.correction
        )
        return found[::step]

    def _choose(self, thresholds: FloatArray, valid: BoolArray, n: int) -> float:
        risk = resolve_risk(self.risk)
        if valid.any():
            found = thresholds[valid]
            return float(found[-1] if risk.full_is_safe else found[0])
        if self.control == "ltt" and not risk.known:
            raise ValueError(
                f"No threshold is certified at risk_level={self.risk_level!r} by {n} "
                "calibration rows, and of a function no set is known to be safe. Pass "
                "more calibration rows, other thresholds or a higher risk_level."
            )
        self._warn_that_none_is_valid(risk, n)
        return -np.inf if risk.full_is_safe else np.inf

    def _warn_that_none_is_valid(self, risk: Risk, n: int) -> None:
        level, confidence = self._levels()
        if self.control == "conformal":
            needed = rows_for_risk(level, 1.0)
        else:
            shared = self.control == "ltt" and self.correction != "fixed_sequence"
            n_tests = check_thresholds(self.thresholds).size if shared else 1
            needed = rows_for_risk(
                level, 1.0, 1 - (1 - confidence) / n_tests, self.bound
            )
        left = "every label is in each set" if risk.full_is_safe else "sets are empty"
        warn_risk_not_controlled(n, level, needed, left)
