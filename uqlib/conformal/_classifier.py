"""Split conformal classification around any classifier with probabilities."""

from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._class_predictions import label_columns, model_classes, predict_proba
from uqlib._core.group_ranks import list_labels
from uqlib._core.label_checks import nine_digits
from uqlib._core.label_p_values import LabelCells, NewRows
from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._core.ranks import rows_needed
from uqlib._fitting import split_rows
from uqlib._typing import BoolArray, FloatArray
from uqlib._validation import check_calibration_size, check_X, check_X_labels
from uqlib.conformal._base import BaseSplitCalibrator
from uqlib.conformal._labels import resolve_label_score
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


class ConformalClassifier(ClassifierMixin, BaseSplitCalibrator):
    r"""Sets of labels that hold the true one with guaranteed probability.

    With a score :math:`s(x, y)` of how strange the label y is for x, its values
    :math:`s_i` at n rows that the estimator was not trained on, and level p,

    .. math:: C(x) = \{y : s(x, y) \le s_{(k)}\}, \quad
              k = \lceil (n + 1) p \rceil, \qquad
              p_y(x) = \frac{\#\{i : s_i \ge s(x, y)\} + 1}{n + 1},

    so that :math:`y \in C(x)` exactly when its p-value :math:`p_y(x) > 1 - p`.

    Parameters
    ----------
    estimator : estimator
        Any classifier or pipeline with `predict_proba`. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    nonconformity : str or object, default="lac"
        How strange a label is, larger = stranger: "lac" (:func:`lac_scores`) gives the
        smallest sets, "aps" and "raps" (:func:`aps_scores`, :func:`raps_scores`) sets
        whose size follows how hard x is, then "saps", "topk" and "margin". An object
        with ``scores(proba)`` -> (n_samples, n_classes) is used as it is.
    randomized : bool, default=False
        Whether to take the randomized form of the score, at calibration and at
        prediction, and to break ties at random: coverage is then p itself and not only
        at least p. The random numbers are drawn by the position of a row in the call,
        from a seed that is fixed at calibration, so that a call can be repeated.
    allow_empty : bool, default=False
        Whether a set may be empty. If not, such a set gets the label of the smallest
        score, which is the most probable one; the label of the largest p-value if
        `class_conditional`. With "aps" and "raps" this adds much to the coverage, as
        rows on which the model is sure have large scores: take ``randomized=True`` and
        ``allow_empty=True`` for sets that cover p and no more.
    class_conditional : bool, default=False
        Whether each label is compared with the calibration rows of its own class.
    group_by : str, int or callable, default=None
        Column of X, by name or number, or a function of X, that gives the group of
        each row: every group is calibrated by its own rows. Instead, arrays can be
        passed as `mondrian_groups` to the methods.
    weight_estimator : classifier or callable, default=None
        What gives the likelihood ratio of new rows over calibration rows: a fitted
        classifier whose second class is the new rows, or a function of X. Instead,
        arrays can be passed as `likelihood_ratio` to the methods.
    k_reg : int, default=1
        For "raps": number of ranks without penalty.
    penalty : float, default=0.01
        For "raps": what each further rank adds to the score.
    rank_weight : float, default=0.2
        For "saps": what each rank after the first adds to the score.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration: drawn from all rows alike,
        and with `class_conditional` from each class its share. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out and what is randomized.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the columns of a set.
    nonconformity_ : object
        The score.
    scores_ : ndarray of shape (`n_calibration_`,)
        Scores of the calibration rows.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    threshold_ : float or ndarray of shape () to (n_groups, n_classes)
        The k-th smallest score, of each group and of each class where they are told
        apart; +inf if their rows are too few for the level. With likelihood ratios
        every row has its own, and there is no such attribute.
    groups_ : ndarray of shape (n_groups,)
        Labels of the groups at calibration, sorted, if there are groups.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the estimator has no `predict_proba`, or gives there what are no
        probabilities; if a calibration row has a label that a frozen estimator does
        not know, or a parameter is out of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows, those of a group, or those of a class are too few for
        the level: a label is then always in the set.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    CrossConformalClassifier : Trains and calibrates on all rows.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and the estimator was not
    trained on them,

    .. math:: P(y \in C(x)) \ge p,

    at most :math:`p + 1 / (n + 1)` if no two scores are equal, and p itself if
    randomized, where empty sets are allowed. The probability is over calibration and
    new rows; it says nothing conditional on x. Rows are therefore held out without
    regard to their class, unless calibration is class-conditional.

    A class of which fit has seen no row at all is in no set; the probability of such a
    row is to be taken off.

    With ``class_conditional=True`` the same holds within each class [2]_,
    :math:`P(y \in C(x) \mid y = c) \ge p`, n being the number of its calibration rows.
    A class without calibration rows is in every set; one with too few of them for the
    level likewise, if not randomized.

    With groups it holds within each group, and with both within each class of each
    group. A row of a group without calibration rows gets the full set.

    With the true likelihood ratios, up to a factor, and independent rows,
    :math:`P(y \in C(x)) \ge p` holds for new rows whose features follow the other law
    [3]_. With estimated ratios there is no guarantee.

    Probabilities count with nine significant digits (float32 ones as they are), so that
    rounding in the wrapped model breaks no ties.

    References
    ----------
    .. [1] M. Sadinle, J. Lei, L. Wasserman, "Least Ambiguous Set-Valued Classifiers
       with Bounded Error Levels", arXiv:1609.00451.
    .. [2] V. Vovk, "Conditional Validity of Inductive Conformal Predictors",
       arXiv:1209.2673.
    .. [3] R. J. Tibshirani, R. F. Barber, E. J. Candes, A. Ramdas, "Conformal
       Prediction Under Covariate Shift", arXiv:1904.06019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from uqlib.conformal import ConformalClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = ConformalClassifier(LogisticRegression(max_iter=500), random_state=0)
    >>> model.fit(X, y).predict_set(X[[0, 80, 120]])
    array([[ True, False, False],
           [False,  True, False],
           [False, False,  True]])
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: Any = "lac",
        randomized: bool = False,
        allow_empty: bool = False,
        class_conditional: bool = False,
        group_by: Any = None,
        weight_estimator: Any = None,
        k_reg: int = 1,
        penalty: float = 0.01,
        rank_weight: float = 0.2,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.randomized = randomized
        self.allow_empty = allow_empty
        self.class_conditional = class_conditional
        self.group_by = group_by
        self.weight_estimator = weight_estimator
        self.k_reg = k_reg
        self.penalty = penalty
        self.rank_weight = rank_weight
        self.calibration_size = calibration_size
        self.random_state = random_state

    def predict(self, X: Any) -> Any:
        """Predict the label, as the wrapped estimator does.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.
        """
        check_is_fitted(self, "scores_")
        return self.estimator_.predict(check_X(self, X, reset=False))

    def predict_proba(self, X: Any) -> FloatArray:
        """Predict probabilities, as the wrapped estimator does.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            One column for each of `classes_`; 0 for a class that was not trained on.
        """
        check_is_fitted(self, "scores_")
        return self._probabilities(check_X(self, X, reset=False))

    def predict_set(
        self,
        X: Any,
        confidence_level: float | None = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> BoolArray:
        """Predict sets of labels.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.
        likelihood_ratio : array-like of shape (n_samples,), default=None
            Likelihood ratio of each row, if the calibration had them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), bool
            Whether each of `classes_` is in the set of the row.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        u, ties = self._draws(1, _num_samples(X))
        conditions = mondrian_groups, likelihood_ratio
        if self._by_cell:
            threshold = self._cell_thresholds(X, confidence_level, ties, conditions)
        else:
            _, rows = self._row_thresholds(X, confidence_level, *conditions)
            threshold = np.broadcast_to(rows, u.shape)[:, None]
        proba = nine_digits(self._probabilities(X))
        if threshold.shape[1] == 1:
            inside = self.nonconformity_.sets(proba, threshold[:, 0], u)
        else:
            inside = self.nonconformity_.matrix(proba, u) <= threshold
        empty = np.flatnonzero(~inside.any(axis=1))
        if empty.size and not self.allow_empty:
            scores = self.nonconformity_.matrix(proba[empty], u[empty])
            new = self._new_rows(X, ties, *conditions).take(empty)
            inside[empty, self._least_strange(scores, new)] = True
        return inside

    def predict_p_values(
        self, X: Any, *, mondrian_groups: Any = None, likelihood_ratio: Any = None
    ) -> FloatArray:
        """Predict the p-value of every label.

        The set at level p are the labels whose p-value exceeds 1 - p, before an empty
        set gets its label. In floats: compare with 0.1 rather than with 1 - 0.9, which
        is less.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.
        likelihood_ratio : array-like of shape (n_samples,), default=None
            Likelihood ratio of each row, if the calibration had them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The p-values, smoothed if randomized; 1 where nothing was calibrated.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        u, ties = self._draws(1, _num_samples(X))
        new = self._new_rows(X, ties, mondrian_groups, likelihood_ratio)
        scores = self.nonconformity_.matrix(nine_digits(self._probabilities(X)), u)
        return self._cells.p_values(scores, new)

    def _check_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        return check_X_labels(self, X, y, reset=reset)

    # A stratified split is not a random one: given the training rows, the classes of
    # the held-out rows are nearly known and those of a new row are not, so the two are
    # not exchangeable (with a class of two rows, one of them always calibrates). Within
    # a class they are, and that is all which class-conditional calibration needs.
    def _split_rows(self, X: Any, y: Any) -> Any:
        n_calibration = check_calibration_size(self.calibration_size, y.size)
        _, counts = np.unique(y, return_counts=True)
        enough = min(n_calibration, y.size - n_calibration) >= counts.size
        stratify = self.class_conditional and enough and counts.min() > 1
        labels = y if stratify else None
        return split_rows(y.size, n_calibration, self.random_state, labels)

    def _learn(self, model: Any, X: Any, y: Any) -> Any:
        """Return all classes, or None if calibration may add to those of the model."""
        return model_classes(model) if X is None else None

    def _relearn(self) -> Any:
        return self.classes_

    def _set_calibration(self, X: Any, y: Any) -> None:
        classes = self._learned
        if classes is None:
            classes = np.union1d(model_classes(self.estimator_), y)
        columns = label_columns(y, classes)
        proba = nine_digits(predict_proba(self.estimator_, X, classes))
        self.classes_, self.nonconformity_ = classes, resolve_label_score(self)
        self._seed = None
        if self.randomized:
            random_state = check_random_state(self.random_state)
            self._seed = int(random_state.randint(np.iinfo(np.int32).max))
        u, _ = self._draws(0, y.size)
        self.scores_ = self.nonconformity_.labels(proba, columns, u)
        self._by_cell = bool(self.class_conditional or self.randomized)
        by_class = (columns, classes.size) if self.class_conditional else (None, 1)
        groups = self._thresholds
        n_groups = 1 if groups.labels is None else groups.labels.size
        self._cells = LabelCells(
            self.scores_, groups.codes, n_groups, *by_class, groups.weights
        )

    def _set_threshold(self, level: Fraction) -> None:
        if self._cells.sizes.shape[1] == 1:
            super()._set_threshold(level)
            return
        for name in ("threshold_", "groups_"):
            vars(self).pop(name, None)
        groups = self._thresholds.labels
        n_groups = 1
        if groups is not None:
            self.groups_, n_groups = groups, groups.size
        if self._thresholds.weights is None:
            new = NewRows(n_groups, None if groups is None else np.arange(n_groups))
            table = self._cells.thresholds(level, new)
            self.threshold_ = table[0] if groups is None else table
            self._warn_small_classes(level)

    def _cell_thresholds(
        self, X: Any, confidence_level: Any, ties: Any, conditions: tuple[Any, Any]
    ) -> FloatArray:
        new = self._new_rows(X, ties, *conditions)
        by_class = self._cells.sizes.shape[1] > 1
        if confidence_level is None:
            level = exact_level(self.confidence_level_)
        else:
            level = check_confidence_level(confidence_level)
            if by_class and new.weights is None:
                self._warn_small_classes(level)
        threshold = self._cells.thresholds(level, new)
        full = np.isposinf(threshold).any(axis=0)
        if by_class and new.weights is not None and full.any():
            needed = f" for some rows: {rows_needed(level)} as heavy as the row"
            _warn_always_in(self.classes_, full, level, needed)
        return threshold

    def _new_rows(
        self, X: Any, ties: Any, mondrian_groups: Any, likelihood_ratio: Any
    ) -> NewRows:
        new = self._new_conditions(X, mondrian_groups, likelihood_ratio)
        position = self._thresholds.group_numbers(new, _num_samples(X))
        ties = None if self._seed is None else ties
        return NewRows(_num_samples(X), position, new.weights, ties)

    def _least_strange(self, scores: FloatArray, new: NewRows) -> Any:
        """Return the label that fills an empty set, for each row.

        Where classes are calibrated apart their scores do not compare: it is the label
        of the largest p-value then, so that sets stay nested in the level.
        """
        if not self.class_conditional:
            return np.argmin(scores, axis=1)
        p_values = self._cells.p_values(scores, new)
        return np.lexsort((scores, -p_values), axis=1)[:, 0]

    def _warn_small_classes(self, level: Fraction) -> None:
        # Ties that are broken at random keep a label out whatever the level is.
        needed = 1 if self._seed is not None else rows_needed(level)
        small = (self._cells.sizes < needed).any(axis=0)
        where = "" if self._thresholds.labels is None else " in some group"
        if small.any():
            _warn_always_in(self.classes_, small, level, f"{where}: at least {needed}")

    def _probabilities(self, X: Any) -> FloatArray:
        return predict_proba(self.estimator_, X, self.classes_)

    def _draws(self, stream: int, n_samples: int) -> Any:
        """Return what randomizes the scores and what the ties, one a row each."""
        if self._seed is None:
            return np.ones((2, n_samples))
        rng = np.random.default_rng([self._seed, stream])
        return np.ascontiguousarray(rng.random((n_samples, 2)).T)


def _warn_always_in(classes: Any, few: Any, level: Fraction, needed: str) -> None:
    warn_user(
        f"{few.sum()} of {classes.size} classes have too few calibration rows for a "
        f"finite threshold at level {float(level):g}{needed} of each are needed. These "
        f"labels are always in the set: {list_labels(classes[few])}. Pass more "
        "calibration rows, ask for a lower level, or calibrate all classes together.",
        InfiniteIntervalWarning,
    )


def fill_empty(inside: BoolArray, score: Any, proba: FloatArray, u: FloatArray) -> None:
    """Put the label of the smallest score into empty sets, in place."""
    empty = np.flatnonzero(~inside.any(axis=1))
    if empty.size:
        scores = score.matrix(proba[empty], u[empty])
        inside[empty, np.argmin(scores, axis=1)] = True
