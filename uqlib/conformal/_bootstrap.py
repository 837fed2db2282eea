"""Jackknife+-after-bootstrap: out-of-bag models in place of folds."""

import operator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.cross_intervals import check_method
from uqlib._core.levels import check_confidence_level
from uqlib._core.out_of_bag import AGGREGATES, aggregate, aggregate_own
from uqlib._fitting import (
    clone_and_fit,
    draw_seeds,
    fit_score,
    given_random_state,
    is_frozen,
    seeded_clone,
    warn_if_fitted,
)
from uqlib._typing import BoolArray, FloatArray, NonconformityScore
from uqlib._validation import check_X, check_X_y
from uqlib.conformal._bagged_models import (
    AllModels,
    BaggedModels,
    BagMembers,
    EnsembleMembers,
)
from uqlib.conformal._cross_base import BaseCrossRegressor, LeftOut
from uqlib.conformal._cross_ends import FoldModels
from uqlib.conformal._scores import resolve_score
from uqlib.exceptions import InfiniteIntervalWarning, warn_user

# Why a number of bags drawn at random has a theorem [1]. Draw N bags of n rows from the
# n + 1 rows, the new one among them: all that follows is symmetric in the n + 1. Those
# without the new row, which are all that the intervals ever use, are bags of n rows
# drawn from n, and their number is binomial with N and (1 - 1 / (n + 1))^n. So is the
# number drawn here, and whoever sees only these bags sees the same thing. Let R_ij be
# the score of row i under the models without i and j; a row that beats the (n + 1) p
# others, R_new,i > R_i,new, can be one of at most 2 alpha (n + 1) rows, as in the
# tournament of the jackknife+. Where no model is without i and j there is no contest,
# which only makes fewer winners: such a row i has the score +inf here.


class BootstrapConformalRegressor(BaseCrossRegressor):
    r"""Intervals of a bagged regressor by its out-of-bag models.

    With models :math:`\hat\mu_b` fitted to bags of n rows drawn with replacement,
    :math:`\hat\mu_{-i}` the mean (or median) of those whose bag is without row i,
    :math:`s_i = |y_i - \hat\mu_{-i}(x_i)|` and :math:`\alpha = 1 - p`, the method
    "plus", jackknife+-after-bootstrap, is

    .. math:: C(x) = [\text{the } \lfloor (n + 1) \alpha \rfloor
              \text{-th smallest of } \hat\mu_{-i}(x) - s_i, \;
              \text{the } \lceil (n + 1) p \rceil
              \text{-th smallest of } \hat\mu_{-i}(x) + s_i] .

    With the threshold :math:`t = s_{(\lceil (n + 1) p \rceil)}`, "minmax" is the hull
    of the :math:`\hat\mu_{-i}(x) \pm t`, and "base" is the aggregate of all models
    :math:`\pm t`. Other scores put their own ends in place of these.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline: it is cloned and fitted once a bag. A
        `RandomForestRegressor`, `ExtraTreesRegressor` or `BaggingRegressor` with
        ``bootstrap=True`` is fitted once, and its own bags and members are used. In a
        :class:`~sklearn.frozen.FrozenEstimator` it is not fitted at all: `fit` must
        then get the rows that it was trained on, in their order.
    confidence_level : float, default=0.9
        The level p, strictly between 0 and 1. What is guaranteed is less: see below.
    nonconformity : str or nonconformity score, default="absolute"
        How strange a target is, as in :class:`SplitConformalRegressor`. What the score
        takes as prediction is aggregated over the models. An ensemble with bags of its
        own takes scores of the point prediction alone.
    method : {"plus", "minmax", "base"}, default="plus"
        How the ends are put together.
    n_estimators : int, default=30
        Number of bags; without effect on an ensemble with bags of its own.
    aggregate : {"mean", "median"}, default="mean"
        How the predictions of several models are put together.
    random_count : bool, default=False
        Draw the number of bags, with mean `n_estimators`, from the binomial law that
        the theorem needs. False takes `n_estimators` as it is.
    group_by : str, int or callable, default=None
        Column of X, by name or number, or a function of X, that gives the group of
        each row: every group is calibrated by its own rows. Instead, arrays can be
        passed as `mondrian_groups` to the methods.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the bags, and seeds the models where their own `random_state` is None.

    Attributes
    ----------
    estimators_ : list of estimators
        The models, one a bag.
    estimator_ : estimator
        The ensemble, if it has bags of its own.
    out_of_bag_ : ndarray of shape (n_estimators, n_samples), bool
        Whether a row is outside of a bag. The score of a row in all bags is +inf.
    scores_ : ndarray of shape (n_samples,) or (n_samples, 2)
        Out-of-bag scores; one column for each end if the score has two.
    quantiles_ : ndarray of shape (n_quantiles,)
        Levels of the models, with scores of quantiles.
    groups_ : ndarray of shape (n_groups,)
        Sorted labels of the groups, if there are any.
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
        If the estimator is frozen without bags of its own or with those of other rows,
        y is not finite, or a parameter is out of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the rows, those of a group, or those ever out of bag are too few.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    CrossConformalRegressor : Folds instead of bags: K fits, and a theorem for all K.
    SplitConformalRegressor : Holds rows out instead: one fit, and coverage p.

    Notes
    -----
    .. rubric:: Guarantee

    With ``random_count=True``, a model whose fit does not depend on the order of the
    rows, and rows that are exchangeable with a new row, "plus" has [1]_

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha,

    and "minmax" :math:`P(y \in C(x)) \ge p`; with groups, so within each group. With a
    fixed number of bags (``random_count=False``, or bags of the ensemble's own), and
    with "base": none. In practice coverage of "plus" is mostly close to p, which is to
    be measured.

    A row in all bags has no out-of-bag prediction: its ends count as infinite, so that
    no interval is too narrow for it. With 30 bags that is one row in a million. Sample
    weights change the training alone.

    References
    ----------
    .. [1] B. Kim, C. Xu, R. F. Barber, "Predictive Inference Is Free with the
       Jackknife+-after-Bootstrap", arXiv:2002.09025.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> from uqlib.conformal import BootstrapConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> forest = RandomForestRegressor(30, random_state=0)
    >>> model = BootstrapConformalRegressor(forest).fit(X, y)  # one fit
    >>> model.predict_interval(X).shape, len(model.estimators_)
    ((442, 2), 30)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        method: str = "plus",
        n_estimators: int = 30,
        aggregate: str = "mean",
        random_count: bool = False,
        group_by: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.method = method
        self.n_estimators = n_estimators
        self.aggregate = aggregate
        self.random_count = random_count
        self.group_by = group_by
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        mondrian_groups: Any = None,
    ) -> "BootstrapConformalRegressor":
        """Fit a model to each bag and score every row by the models without it.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row: every group is calibrated by its own rows,
            while all of them train.

        Returns
        -------
        self : BootstrapConformalRegressor
            Fitted.
        """
        X, y = check_X_y(self, X, y, reset=True)
        level = check_confidence_level(self.confidence_level)
        weight = check_sample_weight(sample_weight, y.size)
        self._check_parameters(y.size)
        conditions = self._conditions(X, mondrian_groups)
        score = resolve_score(self.nonconformity)
        ensemble = None
        if _has_bags(self.estimator):
            ensemble = self._fit_ensemble(X, y, weight, score)
            members: Any = EnsembleMembers(ensemble, [score])
            bags = ensemble.estimators_samples_
        else:
            members, bags = self._fit_bags(X, y, weight, score)
        out = np.ones((len(bags), y.size), dtype=bool)
        for row, bag in zip(out, bags, strict=True):
            row[bag] = False
        left_out = self._leave_out(members, out, X, float(level))
        base = AllModels(members, members.scores[:1], self.aggregate)
        self._set_calibration(y, left_out, base, conditions, level)
        vars(self).pop("estimator_", None)
        if ensemble is not None:
            self.estimator_ = ensemble
        self.estimators_, self.out_of_bag_ = list(members.models), out
        return self

    def predict(self, X: Any) -> FloatArray:
        """Predict the point: the aggregate of all models.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Point predictions; of models that give quantiles alone, their medians.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        return aggregate(self._base.members.points(X), self._base.kind)

    def _check_parameters(self, n_samples: int) -> None:
        check_method(self.method)
        if self.aggregate not in AGGREGATES:
            raise ValueError(
                f"aggregate={self.aggregate!r} must be one of {list(AGGREGATES)}."
            )
        try:
            count = operator.index(self.n_estimators)
        except TypeError as error:
            raise TypeError(
                f"n_estimators must be an integer, got {self.n_estimators!r}."
            ) from error
        if count < 1:
            raise ValueError(f"n_estimators must be at least 1, got {count}.")
        if n_samples < 2:
            raise ValueError(
                f"n_samples={n_samples}: a single row is in every bag. Pass at least 2 "
                "rows."
            )

    def _fit_ensemble(
        self, X: Any, y: FloatArray, weight: FloatArray | None, score: Any
    ) -> Any:
        if hasattr(score, "predict") or hasattr(score, "fit"):
            name = type(_thawed(self.estimator)).__name__
            raise ValueError(
                f"{type(score).__name__} needs more than a point prediction, but of "
                f"{name} only the members' points are used. Choose nonconformity "
                "'absolute', 'signed' or 'gamma'."
            )
        if not is_frozen(self.estimator):
            warn_if_fitted(self.estimator, self)
            seed = draw_seeds(given_random_state(self.random_state), 1)[0]
            return clone_and_fit(seeded_clone(self.estimator, seed), X, y, weight)
        ensemble = _thawed(self.estimator)
        n_trained = max(int(np.max(bag)) for bag in ensemble.estimators_samples_) + 1
        if getattr(ensemble, "_n_samples", n_trained) != y.size:
            raise ValueError(
                f"The frozen {type(ensemble).__name__} was trained on "
                f"{getattr(ensemble, '_n_samples', n_trained)} rows, got {y.size}. Its "
                "bags say which rows each member saw: pass the training rows."
            )
        return ensemble

    def _fit_bags(
        self, X: Any, y: FloatArray, weight: FloatArray | None, score: Any
    ) -> tuple["BagMembers", list[NDArray[np.intp]]]:
        if is_frozen(self.estimator):
            raise ValueError(
                "estimator is a FrozenEstimator without bags of its own, but a model "
                "must be fitted to each bag. Pass the estimator itself, or calibrate "
                "the frozen one with SplitConformalRegressor on rows that it was not "
                "trained on."
            )
        if hasattr(score, "fit") and not hasattr(score, "predict"):
            raise ValueError(
                f"{type(score).__name__} learns something for each model but has no "
                "predict(estimator, X) whose values could be aggregated. Add it, or "
                "use CrossConformalRegressor."
            )
        warn_if_fitted(self.estimator, self)
        random_state = check_random_state(self.random_state)
        bags = self._draw_bags(random_state, y.size)
        fixed = None if self.random_state is None else random_state
        fits = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_bag)(
                seeded_clone(self.estimator, seed), X, y, bag, weight, score
            )
            for bag, seed in zip(bags, draw_seeds(fixed, len(bags)), strict=True)
        )
        models, scores = map(list, zip(*fits, strict=True))
        scores = scores if hasattr(score, "fit") else [score]
        return BagMembers(FoldModels(models, scores)), bags

    def _draw_bags(self, random_state: Any, n: int) -> list[NDArray[np.intp]]:
        count = operator.index(self.n_estimators)
        if self.random_count:
            share = (1 - 1 / (n + 1)) ** n
            count = int(random_state.binomial(round(count / share), share))
        if count == 0:  # a model to predict with, which is without no row
            return [np.arange(n)]
        return [random_state.randint(n, size=n) for _ in range(count)]

    def _leave_out(self, members: Any, out: BoolArray, X: Any, level: float) -> LeftOut:
        # In all bags: whatever is predicted, the score is infinite.
        seen = ~out.any(axis=0)
        used = out | seen
        quantiles = members.levels(X, level)
        values = aggregate_own(members.at(X, level, quantiles), used, self.aggregate)
        models = BaggedModels(members, members.scores[:1], used, self.aggregate)
        fold = np.arange(out.shape[1])
        return LeftOut(values, quantiles, fold, models, fold.size, seen)

    def _warn_more(self, scores: FloatArray, level: Fraction) -> None:
        seen = self._left_out.seen
        for group in self._calibrations(scores, level):
            if group.n - seen[group.fold].sum() < group.rank <= group.n:
                warn_user(
                    f"{int(seen.sum())} of {seen.size} rows are in every bag and have "
                    "no out-of-bag prediction. Their ends count as infinite, and they "
                    "are too many for a finite bound: raise n_estimators.",
                    InfiniteIntervalWarning,
                )
                return


def _thawed(estimator: Any) -> Any:
    return estimator.estimator if is_frozen(estimator) else estimator


def _has_bags(estimator: Any) -> bool:
    # Imported here: who asks for no forest need not wait for scikit-learn's.
    from sklearn.ensemble import (
        BaggingRegressor,
        ExtraTreesRegressor,
        RandomForestRegressor,
    )

    inner = _thawed(estimator)
    bagging = (RandomForestRegressor, ExtraTreesRegressor, BaggingRegressor)
    return isinstance(inner, bagging) and bool(inner.bootstrap)


def _fit_bag(
    model: Any,
    X: Any,
    y: FloatArray,
    bag: NDArray[np.intp],
    weight: FloatArray | None,
    score: Any,
) -> tuple[Any, Any]:
    rows, own = _safe_indexing(X, bag), None if weight is None else weight[bag]
    fitted = clone_and_fit(model, rows, y[bag], own)
    return fitted, fit_score(score, fitted, rows, y[bag])
