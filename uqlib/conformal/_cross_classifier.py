"""Cross-conformal classification: every row trains and every row calibrates."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._class_predictions import predict_proba
from uqlib._core.checks import check_sample_weight
from uqlib._core.label_checks import nine_digits
from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._core.ranks import rank_from_fraction, warn_infinite
from uqlib._fitting import (
    clone_and_fit,
    draw_seeds,
    fit_each_fold,
    given_random_state,
    is_frozen,
    partition,
    seeded_clone,
    shuffled_splitter,
    warn_if_fitted,
)
from uqlib._typing import BoolArray, FloatArray
from uqlib._validation import check_X, check_X_labels, with_input_tags
from uqlib.conformal._classifier import fill_empty
from uqlib.conformal._labels import resolve_label_score

# Rows are predicted in chunks that hold at most so many scores of one fold model.
_CHUNK = 2**20


# Why the guaranteed bounds hold. Let s_k(x, y) be the score of a new row under the
# model without fold k, whose m_k rows have the scores s_i.
#
# 1. If y is not in the set, #{i: s_i < s_k(i)(x, y)} >= (n + 1) p, and so
#    #{i: s_i >= s_k(i)(x, y)} <= n - (n + 1) p = (n + 1) alpha - 1.
# 2. Given the rows outside fold k, the new row and the rows of fold k are
#    exchangeable: p_k = (1 + #{i in fold k: s_i >= s_k(x, y)}) / (m_k + 1) is a
#    p-value, also if all scores are randomized. The mean of the p_k with the weights
#    (m_k + 1) / (n + K) is then at most ((n + 1) alpha - 1 + K) / (n + K).
# 3. A weighted mean of p-values is <= t with probability at most 2 t [2]. Here 2 t =
#    2 alpha + 2 (1 - alpha) (K - 1) / (n + K) <= 2 alpha + 2 (1 - 1/K) / (n/K + 1).
#
# The other term is the paper's [1]: it compares scores of rows pairwise under models
# without both folds, and takes equal folds and a symmetric fit.


class CrossConformalClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Sets of labels from models that train and calibrate on all rows (CV+).

    With K folds, :math:`k(i)` the fold of row i, :math:`s_k(x, y)` the score of the
    label y under the model fitted without fold k, :math:`s_i = s_{k(i)}(x_i, y_i)` and
    n rows,

    .. math:: p_y(x) = \frac{\#\{i : s_i \ge s_{k(i)}(x, y)\} + 1}{n + 1}, \qquad
              C(x) = \{y : p_y(x) > 1 - p\}
                   = \{y : \#\{i : s_i < s_{k(i)}(x, y)\} < \lceil (n + 1) p \rceil\} .

    Parameters
    ----------
    estimator : estimator
        Any classifier or pipeline with `predict_proba`. It is cloned and fitted once a
        fold and once on all rows.
    confidence_level : float, default=0.9
        The level p, strictly between 0 and 1. What is guaranteed is less: see below.
    nonconformity : str or object, default="lac"
        How strange a label is, as in :class:`ConformalClassifier`.
    randomized : bool, default=False
        Whether to take the randomized form of the score, for training rows and new rows
        alike. The random numbers are drawn by the position of a row in the call, from a
        seed that is fixed in fit, so that a call can be repeated.
    allow_empty : bool, default=False
        Whether a set may be empty. If not, such a set gets the most probable label of
        `estimator_`.
    cv : int, cross-validation splitter or iterable, default=5
        The folds. An int draws shuffled folds with `random_state`, without regard to
        the classes. Every row must lie in exactly one test fold. ``LeaveOneOut()``
        gives the jackknife+.
    k_reg : int, default=1
        For "raps": number of ranks without penalty.
    penalty : float, default=0.01
        For "raps": what each further rank adds to the score.
    rank_weight : float, default=0.2
        For "saps": what each rank after the first adds to the score.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the folds and what is randomized, and seeds the estimator where its own
        `random_state` is None, in all folds alike.

    Attributes
    ----------
    estimator_ : estimator
        The model fitted on all rows, which predicts labels and probabilities.
    estimators_ : list of estimators
        The model of each fold, fitted without it.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the columns of a set.
    nonconformity_ : object
        The score.
    scores_ : ndarray of shape (n_samples,)
        Out-of-fold scores.
    fold_ : ndarray of shape (n_samples,)
        The fold of each row: an index into `estimators_`.
    n_calibration_ : int
        Number of rows.
    confidence_level_ : float
        The level of the last fit.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the estimator is frozen, has no `predict_proba`, or gives there what are no
        probabilities; if the folds are no partition of the rows, or a parameter is out
        of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the rows are too few for the level: the sets are full.
    AlreadyFittedWarning
        If a fitted estimator is passed.

    See Also
    --------
    ConformalClassifier : Holds rows out instead: one fit, and coverage p.

    Notes
    -----
    .. rubric:: Guarantee

    If the rows and a new row are exchangeable, and the folds are drawn without looking
    at them,

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha - \frac{2 (1 - 1 / K)}{n / K + 1},
              \qquad \alpha = 1 - p .

    If moreover all folds have n / K rows, and all rows outside a fold train its model
    in a way that does not depend on their order, then [1]_

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha - \min\left(
              \frac{2 (1 - 1 / K)}{n / K + 1}, \; \frac{1 - K / n}{K + 1} \right),

    which is :math:`1 - 2 \alpha` for the jackknife+, K = n. Nothing higher is
    guaranteed; coverage is mostly close to p in practice, which is to be measured.
    Stratified folds look at the labels: with ``cv=StratifiedKFold(...)`` the theorem
    does not apply. A class of which fit has seen no row is in no set; the probability
    of such a row is to be taken off. The :math:`p_y` are no p-values in the strict
    sense: that of the true label is at most t with probability up to 2 t and the same
    slack.

    Sample weights change the training alone: each row counts once among the scores.
    Probabilities count with nine significant digits (float32 ones as they are), so that
    rounding in the wrapped model breaks no ties.

    References
    ----------
    .. [1] Y. Romano, M. Sesia, E. J. Candes, "Classification with Valid and Adaptive
       Coverage", arXiv:2006.02544.
    .. [2] V. Vovk, R. Wang, "Combining p-values via Averaging", arXiv:1212.4966.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from uqlib.conformal import CrossConformalClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = CrossConformalClassifier(
    ...     LogisticRegression(max_iter=500), random_state=0
    ... )
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
        cv: Any = 5,
        k_reg: int = 1,
        penalty: float = 0.01,
        rank_weight: float = 0.2,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.randomized = randomized
        self.allow_empty = allow_empty
        self.cv = cv
        self.k_reg = k_reg
        self.penalty = penalty
        self.rank_weight = rank_weight
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None
    ) -> "CrossConformalClassifier":
        """Fit a model without each fold, score the fold with it, and fit all rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows, for a splitter such as `GroupKFold`.

        Returns
        -------
        self : CrossConformalClassifier
            Fitted.
        """
        X, y = check_X_labels(self, X, y, reset=True)
        level = check_confidence_level(self.confidence_level)
        weight = check_sample_weight(sample_weight, y.size)
        score = resolve_label_score(self)
        self._check_not_frozen()
        warn_if_fitted(self.estimator, self)
        random_state = given_random_state(self.random_state)
        splitter = shuffled_splitter(self.cv, random_state)
        splits = partition(splitter, X, y, groups=groups)
        base = seeded_clone(self.estimator, draw_seeds(random_state, 1)[0])
        models = fit_each_fold(base, X, y, splits, weight, self.n_jobs)
        seed = None
        if self.randomized:
            source = check_random_state(random_state)
            seed = int(source.randint(np.iinfo(np.int32).max))
        classes, columns = np.unique(y, return_inverse=True)
        fold, scores = np.empty(y.size, dtype=np.intp), np.empty(y.size)
        u = _draws(seed, 0, y.size)
        for k, (_, test) in enumerate(splits):
            rows = _safe_indexing(X, test)
            proba = nine_digits(predict_proba(models[k], rows, classes))
            fold[test] = k
            scores[test] = score.labels(proba, columns[test], u[test])
        full = clone_and_fit(base, X, y, weight)
        if rank_from_fraction(y.size, level) > y.size:
            warn_infinite(y.size, level)
        # From here on nothing can fail: a fit that raised has left the last one alone.
        self.estimator_, self.estimators_, self.classes_ = full, models, classes
        self.nonconformity_, self.scores_, self.fold_ = score, scores, fold
        self.n_calibration_, self.confidence_level_ = int(y.size), float(level)
        self._seed = seed
        return self

    def predict(self, X: Any) -> Any:
        """Predict the label, by the model fitted on all rows.

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
        """Predict probabilities, by the model fitted on all rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            One column for each of `classes_`.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        return predict_proba(self.estimator_, X, self.classes_)

    def predict_set(self, X: Any, confidence_level: float | None = None) -> BoolArray:
        """Predict sets of labels.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            The level p, strictly between 0 and 1; None takes that of the last fit.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), bool
            Whether each of `classes_` is in the set of the row.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        level = exact_level(self.confidence_level_)
        if confidence_level is not None:
            level = check_confidence_level(confidence_level)
        rank = rank_from_fraction(self.n_calibration_, level)
        if confidence_level is not None and rank > self.n_calibration_:
            warn_infinite(self.n_calibration_, level)  # fit has warned of its own level
        inside = self._count_below(X) < rank
        if not self.allow_empty:
            self._fill_empty(X, inside)
        return inside

    def predict_p_values(self, X: Any) -> FloatArray:
        """Predict the p-value of every label.

        The set at level p are the labels whose p-value exceeds 1 - p, before an empty
        set gets its label. In floats: compare with 0.1 rather than with 1 - 0.9, which
        is less.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The p-values; twice as much holds as a p-value does, up to the slack.
        """
        check_is_fitted(self, "scores_")
        count = self._count_below(check_X(self, X, reset=False))
        return (self.n_calibration_ + 1 - count) / (self.n_calibration_ + 1)

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _check_not_frozen(self) -> None:
        if is_frozen(self.estimator):
            raise ValueError(
                "estimator is a FrozenEstimator, but a model must be fitted without "
                "each fold. Pass the estimator itself, or calibrate the frozen one "
                "with ConformalClassifier on rows that it was not trained on."
            )

    def _count_below(self, X: Any) -> Any:
        """Return for every label how many scores lie below its own, fold by fold."""
        n_samples, n_folds = _num_samples(X), len(self.estimators_)
        u = _draws(self._seed, 1, n_samples)
        ordered = [np.sort(self.scores_[self.fold_ == k]) for k in range(n_folds)]
        count = np.zeros((n_samples, self.classes_.size), dtype=np.intp)
        size = max(1, _CHUNK // self.classes_.size)
        for start in range(0, n_samples, size):
            rows = slice(start, start + size)
            chunk = X if n_samples <= size else _safe_indexing(X, rows)
            for model, scores in zip(self.estimators_, ordered, strict=True):
                proba = nine_digits(predict_proba(model, chunk, self.classes_))
                own = self.nonconformity_.matrix(proba, u[rows])
                count[rows] += np.searchsorted(scores, own, side="left")
        return count

    def _fill_empty(self, X: Any, inside: BoolArray) -> None:
        empty = np.flatnonzero(~inside.any(axis=1))
        if empty.size:
            rows = _safe_indexing(X, empty)
            proba = predict_proba(self.estimator_, rows, self.classes_)
            filled = inside[empty]
            fill_empty(filled, self.nonconformity_, proba, np.ones(empty.size))
            inside[empty] = filled


def _draws(seed: int | None, stream: int, n_samples: int) -> FloatArray:
    """Return what randomizes the scores, one a row."""
    if seed is None:
        return np.ones(n_samples)
    return np.random.default_rng([seed, stream]).random(n_samples)
