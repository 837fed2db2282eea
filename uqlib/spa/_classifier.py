"""Split-point analysis of any classifier."""

from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import check_is_fitted

from uqlib._class_predictions import label_columns, model_classes, predict_proba
from uqlib._core.checks import check_choice, check_sample_weight
from uqlib._core.split_point_classes import (
    check_gap_threshold,
    sds_classification,
    spa_adjust_proba,
)
from uqlib._fitting import (
    all_or_nothing,
    clone_and_fit,
    draw_seeds,
    fit_each_fold,
    fit_rows,
    given_random_state,
    is_frozen,
    partition,
    seeded_clone,
    shuffled_splitter,
    warn_if_fitted,
)
from uqlib._typing import FloatArray
from uqlib._validation import check_X, check_X_labels, with_input_tags
from uqlib.spa._classifier_heads import (
    fit_heads,
    predict_heads,
    warn_if_interpolating,
)

ADJUST = ("none", "min", "mean")


class SPAClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Uncertainty of any classifier from the residuals of its probabilities.

    Regressors ("heads") learn for each class k three means of the residual of its
    probability :math:`p_k`, on rows on which the classifier was not trained,

    .. math:: m_k = E|1\{y = k\} - p_k|, \quad
              u^+_k = E[1\{y = k\} (1 - p_k)], \quad
              u^-_k = E[1\{y \ne k\} p_k],

    all given x. With :math:`p'` what `predict_proba` returns,

    .. math:: \text{aleatoric} = -\sum_k p'_k \log p'_k, \qquad
              \text{epistemic} = \sum_k \mathrm{SDS}_k, \qquad
              \mathrm{SDS}_k = |m_k - 2 p_k (1 - p_k)|
              = |\pi_k - p_k| \, |1 - 2 p_k|,

    where :math:`\pi_k` is the probability of which the head of :math:`m_k` speaks.

    Parameters
    ----------
    estimator : estimator
        Any classifier or pipeline with `predict_proba`. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands, and all rows of
        fit count as held out from it.
    mar_estimator : estimator, default=None
        Any regressor, for all heads. One that takes several targets at once, by its
        tags, is fitted once for each of the three means, another once for each mean and
        class. None is ``ExtraTreesRegressor(n_estimators=20, min_samples_leaf=3,
        max_features="sqrt")``, which costs little whatever the number of classes; it
        needs numeric features.
    residuals : {"oof", "holdout", "train"}, default="oof"
        Whose residuals the heads learn. "oof": of each row under the model fitted
        without its fold, and the classifier is then fitted on all rows. "holdout": of
        the test rows of the first split of `cv`, and the classifier is fitted on its
        training rows alone. "train": of all rows under the classifier that was trained
        on them, as in the paper [1]_; a classifier that fits its training rows closely
        has almost none. Without effect for a `FrozenEstimator`.
    adjust : {"none", "min", "mean"}, default="none"
        Whether `predict_proba` moves the probabilities by the bias that the heads find,
        and how: see :func:`spa_adjust_proba`. The heads do not depend on it, so that
        ``set_params(adjust=...)`` takes effect without another fit.
    threshold : float, default=0.05
        With `adjust`: the inconsistency :math:`|u^+_k + u^-_k - m_k|` from which on a
        class is left as it is. At least 0.
    cv : int, cross-validation splitter or iterable, default=5
        The folds of ``residuals="oof"``, where every row must lie in exactly one test
        fold, or the split of ``residuals="holdout"``. An int draws shuffled folds
        stratified by class. For groups of rows pass a list of splits.
    random_state : int, RandomState instance or None, default=None
        Draws the folds, and seeds the classifier and the heads where their own
        `random_state` is None.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the columns.
    estimator_ : estimator
        The classifier that predicts.
    heads_ : dict of list of estimators
        The fitted regressors of "mar", "side_up" and "side_down": one for all columns
        or one for each. Two classes have one column, that of the second.
    n_calibration_ : int
        Number of rows on which the heads were fitted.
    class_count_ : ndarray of shape (n_classes,)
        How many of these rows each class has. The heads of a class without rows have
        seen only rows of others: their :math:`u^+_k` is 0.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y holds no classes or labels that a frozen model does not know, the estimator
        gives no probabilities, the folds are no partition of the rows, or a parameter
        is out of its range; in prediction, if a head gives NaN.

    Warns
    -----
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.
    UncertaintyWarning
        If ``residuals="train"`` leaves next to no residuals to learn from.

    See Also
    --------
    sds_classification : The discrepancy of given means.
    spa_adjust_proba : The adjustment of given probabilities.
    uqlib.conformal.VennAbersCalibrator : Calibrates the probabilities.
    uqlib.conformal.ConformalClassifier : Sets of labels that have a guarantee.

    Notes
    -----
    .. rubric:: Guarantee

    None. No theorem bounds the error of the heads, and none says that a large
    discrepancy is a wrong label or a small one a right label.

    It is not an out-of-distribution detector: far from the training rows nothing makes
    the heads and the classifier disagree, and where the heads are trees both are
    constant there. It is blind to a class with :math:`p_k = 1/2`, where a head that is
    right says :math:`m_k = 1/2` whatever :math:`\pi_k` is. The head of :math:`m_k` is a
    second classifier fitted with squared loss, and the discrepancy how far two models
    disagree: compare it with plain entropy before use. For a bias that is looked for,
    `bias` says it directly, with its sign.

    The adjustment costs log loss in most data sets that were tried. For calibration use
    temperature scaling (``CalibratedClassifierCV(method="temperature")`` in recent
    scikit-learn) or :class:`~uqlib.conformal.VennAbersCalibrator`.

    What heads predict is clipped to the range that the means have: m to [0, 1],
    :math:`u^+_k` to :math:`[0, 1 - p_k]` and :math:`u^-_k` to :math:`[0, p_k]`. That
    :math:`m_k` lies between :math:`p_k` and :math:`1 - p_k` is not enforced: a
    violation is part of the discrepancy.

    All three means are fitted whatever `adjust` is, so that `predict_uncertainty` has
    the same fields always. Sample weights count for the classifier and for the heads.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in Deep
       Learning", arXiv:2509.13262.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from uqlib.spa import SPAClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SPAClassifier(GaussianNB(), random_state=0).fit(X, y)
    >>> uncertainty = model.predict_uncertainty(X)
    >>> uncertainty.epistemic.shape, uncertainty.bias.shape
    ((150,), (150, 3))
    """

    def __init__(
        self,
        estimator: Any,
        *,
        mar_estimator: Any = None,
        residuals: str = "oof",
        adjust: str = "none",
        threshold: float = 0.05,
        cv: Any = 5,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.mar_estimator = mar_estimator
        self.residuals = residuals
        self.adjust = adjust
        self.threshold = threshold
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SPAClassifier":
        """Fit the classifier, and the heads on its residuals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator and the heads take them.
        y : array-like of shape (n_samples,)
            Labels of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the classifier and to the heads.

        Returns
        -------
        self : SPAClassifier
            Fitted.
        """
        with all_or_nothing(self):
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> "SPAClassifier":
        X, y = check_X_labels(self, X, y, reset=True)
        check_choice("residuals", self.residuals, ("oof", "holdout", "train"))
        check_choice("adjust", self.adjust, ADJUST)
        check_gap_threshold(self.threshold)
        weight = check_sample_weight(sample_weight, y.size)
        warn_if_fitted(self.estimator, self)
        random_state = given_random_state(self.random_state)
        splits = self._splits(X, y, random_state)
        seeds = draw_seeds(random_state, 2)
        base, head = seeded_clone(self.estimator, seeds[0]), self._head(seeds[1])
        classes = model_classes(base) if is_frozen(base) else np.unique(y)
        columns = label_columns(y, classes)
        model, rows, proba = self._fit_base(base, X, y, weight, splits, classes)
        if rows is not None:
            X, columns = _safe_indexing(X, rows), columns[rows]
            weight = None if weight is None else weight[rows]
        weight = check_sample_weight(weight, columns.size)
        heads = fit_heads(head, X, proba, columns, weight)
        self.classes_, self.estimator_, self.heads_ = classes, model, heads
        self.class_count_ = np.bincount(columns, minlength=classes.size)
        self.n_calibration_ = int(columns.size)
        return self

    def predict(self, X: Any) -> Any:
        """Predict the class of the largest probability.

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
        """Predict the probability of each class.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            With ``adjust="none"`` the classifier's own; else adjusted by the bias that
            the heads find, and normalized so that rows sum to one.
        """
        X, proba = self._base_proba(X)
        check_choice("adjust", self.adjust, ADJUST)  # it may have changed since fit
        if self.adjust == "none":
            return proba
        return self._adjust(proba, predict_heads(self.heads_, X, proba))

    def predict_uncertainty(self, X: Any) -> Bunch:
        """Predict what the residuals say about each row.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        Bunch
            A dictionary whose keys are attributes too; larger = more uncertain.

            aleatoric : ndarray of shape (n_samples,)
                Entropy of what `predict_proba` returns, in nats.
            epistemic : ndarray of shape (n_samples,)
                Sum of `sds` over the classes.
            sds : ndarray of shape (n_samples, n_classes)
                Discrepancy of each class; of two classes both have the same.
            mar : ndarray of shape (n_samples, n_classes)
                Mean absolute residual :math:`m_k`.
            side_up, side_down : ndarray of shape (n_samples, n_classes)
                :math:`u^+_k` and :math:`u^-_k`. Unlike the means of a side of
                `SPARegressor` they are means over all rows.
            bias : ndarray of shape (n_samples, n_classes)
                :math:`u^+_k - u^-_k`, an estimate of :math:`P(k | x) - p_k`; it has a
                sign, and its absolute value is the uncertainty.
        """
        X, proba = self._base_proba(X)
        check_choice("adjust", self.adjust, ADJUST)
        heads = predict_heads(self.heads_, X, proba)
        sds = sds_classification(proba, heads["mar"], reduce=None)
        final = proba if self.adjust == "none" else self._adjust(proba, heads)
        return Bunch(
            aleatoric=entr(np.minimum(final, 1.0, dtype=np.float64)).sum(axis=1),
            epistemic=sds.sum(axis=1),
            sds=sds,
            **heads,
            bias=heads["side_up"] - heads["side_down"],
        )

    def __sklearn_tags__(self) -> Any:
        models = [self.estimator, self._regressor()]
        return with_input_tags(super().__sklearn_tags__(), models)

    def _splits(self, X: Any, y: Any, random_state: Any) -> list[tuple[Any, Any]]:
        """Return the splits whose models give the residuals; none for `train`."""
        if self.residuals == "train" or is_frozen(self.estimator):
            return []
        cv = self.cv
        if isinstance(cv, int | np.integer):
            cv = StratifiedKFold(int(cv), shuffle=True, random_state=random_state)
        splitter = shuffled_splitter(cv, random_state)
        if self.residuals == "oof":
            return partition(splitter, X, y)
        train, test = next(iter(splitter.split(X, y)))
        if np.intersect1d(train, test).size:
            raise ValueError(
                "The first split of cv trains on its own test rows, so that they are "
                "not held out. Leave the test rows out of the training rows."
            )
        return [(train, test)]

    def _regressor(self) -> Any:
        """Return the unfitted regressor of the heads, or the default."""
        if self.mar_estimator is not None:
            return self.mar_estimator
        # Trees of several targets cost as those of one; more trees than these rank
        # errors no better.
        return ExtraTreesRegressor(
            n_estimators=20, min_samples_leaf=3, max_features="sqrt"
        )

    def _head(self, seed: int | None) -> Any:
        if is_frozen(self.mar_estimator):
            raise ValueError(
                "mar_estimator is a FrozenEstimator, but it must be fitted, once for "
                "each of three means. Pass an unfitted regressor."
            )
        warn_if_fitted(self._regressor(), self)
        return seeded_clone(self._regressor(), seed)

    def _fit_base(
        self, base: Any, X: Any, y: Any, weight: Any, splits: list[Any], classes: Any
    ) -> tuple[Any, Any, FloatArray]:
        """Return the model, the rows that the heads learn from, and their p.

        Rows are None for all of them.
        """
        if self.residuals == "holdout" and splits:
            train, test = splits[0]
            model = fit_rows(base, X, y, train, weight)
            return model, test, predict_proba(model, _safe_indexing(X, test), classes)
        model = clone_and_fit(base, X, y, weight)
        if not splits:
            proba = predict_proba(model, X, classes)
            if not is_frozen(base):
                warn_if_interpolating(model, proba, label_columns(y, classes))
            return model, None, proba
        proba = np.empty((y.size, classes.size))
        models = fit_each_fold(base, X, y, splits, weight)
        for part, (_, test) in zip(models, splits, strict=True):
            proba[test] = predict_proba(part, _safe_indexing(X, test), classes)
        return model, None, proba

    def _base_proba(self, X: Any) -> tuple[Any, FloatArray]:
        check_is_fitted(self, "heads_")
        X = check_X(self, X, reset=False)
        return X, predict_proba(self.estimator_, X, self.classes_)

    def _adjust(self, proba: FloatArray, heads: dict[str, FloatArray]) -> FloatArray:
        return spa_adjust_proba(
            proba, **heads, threshold=self.threshold, combine=self.adjust
        )
