"""Venn-ABERS calibration of the probabilities of any classifier."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from uqlib._class_predictions import label_columns, model_classes
from uqlib._core.checks import check_choice, check_sample_weight
from uqlib._core.venn_abers import (
    VennAbersSteps,
    mean_pairs,
    merge_pairs,
    venn_abers_pairs,
    venn_abers_steps,
)
from uqlib._fitting import (
    draw_seeds,
    fit_each_fold,
    fit_rows,
    given_random_state,
    is_frozen,
    partition,
    seeded_clone,
    shuffled_splitter,
    split_rows,
    warn_if_fitted,
)
from uqlib._typing import FloatArray
from uqlib._validation import check_X, check_X_labels, with_input_tags
from uqlib.conformal._class_scores import class_scores


class VennAbersCalibrator(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    r"""Calibrated probabilities of any classifier, with the pair that they come from.

    Let :math:`p_c(x)` be the value at x of the isotonic regression of the labels on the
    scores of the calibration rows, after the row x with label c has been added. The
    inductive form merges the pair :math:`p_0 \le p_1` of label 1 so that the worst
    regret, in log or in Brier loss, is smallest:

    .. math:: p_{\log} = \frac{p_1}{1 - p_0 + p_1}, \qquad
              p_{\mathrm{Brier}} = p_1 + \frac{p_0^2}{2} - \frac{p_1^2}{2} .

    The cross form has one pair for each of K folds, from the model fitted without it
    and the rows in it, and minimizes the worst sum of regrets: with geometric means
    G over the folds,

    .. math:: p_{\log} = \frac{G(p_1)}{G(1 - p_0) + G(p_1)}, \qquad
              p_{\mathrm{Brier}} = \frac{1}{K} \sum_{k=1}^{K} \Big( p_{1k} +
              \frac{p_{0k}^2}{2} - \frac{p_{1k}^2}{2} \Big) .

    With three classes or more, each class against the rest has its own pair, and the
    merged probabilities are divided by their sum.

    Parameters
    ----------
    estimator : estimator
        Any classifier or pipeline with `decision_function` or `predict_proba`. It is
        cloned and fitted; a :class:`~sklearn.frozen.FrozenEstimator` is used as it
        stands.
    method : {"inductive", "cross"}, default="inductive"
        Hold rows out for calibration, or fit a model without each fold.
    merge : {"log", "brier"}, default="log"
        The loss whose regret is bounded.
    calibration_size : float or int, default=0.25
        Share or number of rows held out by ``method="inductive"``. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    cv : int, cross-validation splitter or iterable, default=5
        The folds of ``method="cross"``. An int draws shuffled folds stratified by
        class. Every row must lie in exactly one test fold.
    n_jobs : int, default=None
        Number of fits of ``method="cross"`` in parallel, as in joblib. The result does
        not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out, or the folds; ``method="cross"`` also seeds the
        estimator with it where its own `random_state` is None, in all folds alike.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the columns.
    estimators_ : list of estimators
        The fitted model, or that of each fold.
    steps_ : list of list of tuple
        For each model and each class (binary: the second class alone) the scores at
        which :math:`p_0` jumps, its values, the scores at which :math:`p_1` jumps, and
        its values.
    n_calibration_ : int
        Number of calibration rows.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y holds no classes or labels that the model does not know, a parameter is out
        of its range, the folds are no partition of the rows, the estimator is frozen
        with ``method="cross"``, or it predicts NaN.
    TypeError
        If the estimator has neither `decision_function` nor `predict_proba`.

    Warns
    -----
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    venn_abers : The pairs of given scores.
    sklearn.calibration.CalibratedClassifierCV : Platt scaling and isotonic regression,
        one probability and no pair.

    Notes
    -----
    .. rubric:: Guarantee

    ``method="inductive"``: if the calibration rows and a new row with label Y are
    exchangeable, and the estimator was not trained on them, then for every class c,

    .. math:: P(Y = c \mid p_{1\{Y = c\}}) = p_{1\{Y = c\}},

    where :math:`p_0, p_1` are the pair of c against the rest: one end of the interval
    that `predict_proba_interval` gives is perfectly calibrated, and which one depends
    on the label [1]_. This is theorem 1 of the paper. No theorem holds for the merged
    probability, for probabilities divided by their sum, nor for ``method="cross"``.

    The pair depends on the order of the scores alone. Two classes are scored by
    `decision_function` where there is one, since probabilities of 0 and 1 tie. More
    classes are scored by the log odds of `predict_proba` where there is one: the
    decision function of one class need not be comparable between rows. One class
    against the rest is preferred to pairs of classes, whose probabilities hold given
    that the label is one of two, which is not known of a new row.

    Scores count with nine significant digits, so that rounding in the wrapped model
    breaks no ties. A class without calibration rows has :math:`p_0 = 0` and
    :math:`p_1 = 1 / (1 + r)` with r the number of calibration rows that score as high
    or higher. A class that a model has not seen scores the same everywhere.

    References
    ----------
    .. [1] V. Vovk, I. Petej, V. Fedorova, "Large-scale probabilistic predictors with
       and without guarantees of validity", arXiv:1511.00213.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from uqlib.conformal import VennAbersCalibrator
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = VennAbersCalibrator(GaussianNB(), random_state=0).fit(X[:469], y[:469])
    >>> model.predict_proba(X[469:]).shape, model.predict_proba_interval(X[469:]).shape
    ((100, 2), (100, 2, 2))
    """

    def __init__(
        self,
        estimator: Any,
        *,
        method: str = "inductive",
        merge: str = "log",
        calibration_size: float | int = 0.25,
        cv: Any = 5,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.merge = merge
        self.calibration_size = calibration_size
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None
    ) -> "VennAbersCalibrator":
        """Fit the estimator on some rows and calibrate it on others.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Labels of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training. Calibration counts
            each of its rows once, as the guarantee needs.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows, for a splitter of ``method="cross"`` such as
            `GroupKFold`.

        Returns
        -------
        self : VennAbersCalibrator
            Fitted and calibrated.
        """
        X, y = check_X_labels(self, X, y, reset=True)
        check_choice("method", self.method, ("inductive", "cross"))
        check_choice("merge", self.merge, ("log", "brier"))
        weight = check_sample_weight(sample_weight, y.size)
        self._check_groups(groups)
        warn_if_fitted(self.estimator, self)
        if self.method == "cross":
            models, parts = self._fit_folds(X, y, weight, groups)
        elif is_frozen(self.estimator):
            models, parts = [self.estimator], [np.arange(y.size)]
        else:
            models, parts = self._fit_split(X, y, weight)
        frozen = is_frozen(self.estimator)
        classes = model_classes(models[0]) if frozen else np.unique(y)
        rows = [(_safe_indexing(X, part), y[part]) for part in parts]
        steps = _all_steps(models, classes, rows)
        # From here on nothing can fail: a fit that raised has left the last one alone.
        self.classes_, self.estimators_, self.steps_ = classes, models, steps
        self.n_calibration_ = sum(len(part) for part in parts)
        return self

    def calibrate(self, X: Any, y: Any) -> "VennAbersCalibrator":
        """Calibrate anew on rows that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : array-like of shape (n_calibration,)
            Their labels, all among `classes_`.

        Returns
        -------
        self : VennAbersCalibrator
            The estimators are as they were; with ``method="cross"`` each of them is
            calibrated on all these rows.
        """
        check_is_fitted(self, "steps_")
        X, y = check_X_labels(self, X, y, reset=False)
        rows = [(X, y)] * len(self.estimators_)
        self.steps_ = _all_steps(self.estimators_, self.classes_, rows)
        self.n_calibration_ = int(y.size)
        return self

    def predict(self, X: Any) -> Any:
        """Predict the class of the largest calibrated probability.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels; of equal probabilities the first class.
        """
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> FloatArray:
        """Predict calibrated probabilities.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Merged probabilities; rows sum to one.
        """
        probability = merge_pairs(self._pairs(X), self.merge)
        if self.classes_.size == 2:
            return np.concatenate([1 - probability, probability], axis=1)
        return probability / probability.sum(axis=1, keepdims=True)

    def predict_proba_interval(self, X: Any) -> FloatArray:
        """Predict the pair of probabilities of each class against the rest.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes, 2)
            Lower and upper, :math:`p_0` and :math:`p_1` of the class. It is no
            confidence interval: see the guarantee. With ``method="cross"`` it is the
            mean of the pairs of the folds on the scale on which `predict_proba` takes
            its mean, logits for ``merge="log"`` and probabilities for
            ``merge="brier"``, a summary without a theorem. With two classes it contains
            `predict_proba`; with more, what is contained is the merged probability
            before the division by the sum.
        """
        pair = mean_pairs(self._pairs(X), self.merge)
        if self.classes_.size == 2:
            return np.concatenate([1 - pair[:, :, ::-1], pair], axis=1)
        return pair

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _fit_split(self, X: Any, y: Any, weight: Any) -> tuple[list[Any], list[Any]]:
        # Not stratified: the held-out rows are then exchangeable with new ones.
        train, held_out = split_rows(y.size, self.calibration_size, self.random_state)
        return [fit_rows(self.estimator, X, y, train, weight)], [held_out]

    def _check_groups(self, groups: Any) -> None:
        if groups is not None and self.method != "cross":
            raise ValueError(
                "groups was given, but method='inductive' draws the rows held out "
                "without regard to groups. Set method='cross' with cv=GroupKFold(), or "
                "calibrate a FrozenEstimator on the rows of other groups."
            )

    def _fit_folds(
        self, X: Any, y: Any, weight: Any, groups: Any
    ) -> tuple[list[Any], list[Any]]:
        if is_frozen(self.estimator):
            raise ValueError(
                "estimator is a FrozenEstimator, but method='cross' fits a model "
                "without each fold. Pass the estimator itself, or method='inductive' "
                "with rows that the frozen one was not trained on."
            )
        random_state = given_random_state(self.random_state)
        cv = self.cv
        if isinstance(cv, int | np.integer):
            cv = StratifiedKFold(int(cv), shuffle=True, random_state=random_state)
        splits = partition(shuffled_splitter(cv, random_state), X, y, groups)
        base = seeded_clone(self.estimator, draw_seeds(random_state, 1)[0])
        models = fit_each_fold(base, X, y, splits, weight, self.n_jobs)
        return models, [np.asarray(test) for _, test in splits]

    def _pairs(self, X: Any) -> FloatArray:
        """Return p_0 and p_1, shape (n_models, n_samples, n_problems, 2)."""
        check_is_fitted(self, "steps_")
        X = check_X(self, X, reset=False)
        return np.array(
            [
                _model_pairs(steps, class_scores(model, X, self.classes_))
                for model, steps in zip(self.estimators_, self.steps_, strict=True)
            ]
        )


def _model_pairs(steps: list[Any], scores: FloatArray) -> FloatArray:
    pairs = [
        venn_abers_pairs(VennAbersSteps(*step), score)
        for step, score in zip(steps, scores.T, strict=True)
    ]
    return np.stack(pairs, axis=1)


def _all_steps(models: list[Any], classes: Any, rows: list[Any]) -> list[Any]:
    """Return the step functions of each model on its calibration rows."""
    first = 1 if classes.size == 2 else 0
    return [
        _model_steps(class_scores(model, X, classes), label_columns(y, classes), first)
        for model, (X, y) in zip(models, rows, strict=True)
    ]


def _model_steps(scores: FloatArray, columns: Any, first: int) -> list[Any]:
    return [
        tuple(venn_abers_steps(score, columns == k))
        for k, score in enumerate(scores.T, start=first)
    ]
