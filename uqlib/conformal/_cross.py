"""Cross-conformal regression: CV+, the jackknife+, and their minmax and plain forms."""

from collections.abc import Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import LeaveOneOut
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from uqlib._core.leave_one_out import LinearFits, leave_one_out_fits
from uqlib._fitting import clone_and_fit, fit_score
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray, NonconformityScore
from uqlib._validation import check_X
from uqlib.conformal._cross_base import LeftOut
from uqlib.conformal._cross_ends import FoldModels
from uqlib.conformal._cross_folds import BaseFoldRegressor
from uqlib.conformal._scores import resolve_score

# What is proved of "plus" stands above CrossConformalizedQuantileRegressor, for any
# score. Of "minmax", for K folds of m = n / K rows and a fit that does not depend on
# the order of the rows:
#
# 1. Add m - 1 rows that nobody sees to the new one, so that there are n + m rows in
#    K + 1 folds, all exchangeable. Let s(i; k, l) be the score of row i under the model
#    without the folds k and l, and M_i the least s(i; k(i), l) over the folds l.
# 2. If the new row lies above the interval or below it, its score under every fold
#    model exceeds the threshold: M_new > t, t the r-th smallest s(i; k(i), k(new)) >=
#    M_i, r = ceil((n + 1) p). So at least r rows have M_i < M_new.
# 3. The M are exchangeable, and only n + m - r of n + m rows can have r smaller ones:
#    P(miss) <= 1 - r / (n + m) <= 1 - p (n + 1) / (n + m).
#
# With m = 1 that is 1 - p: theorem 3 of [1]. And as each end of "plus" lies within the
# hull, what is proved of "plus" is true of "minmax" too. Scores of each end apart: the
# same for each end at alpha / 2, and the two misses add up.


class CrossConformalRegressor(BaseFoldRegressor):
    r"""Intervals of any regressor that trains and calibrates on all rows.

    With K folds, :math:`k(i)` the fold of row i, :math:`\hat\mu_{-k}` the model fitted
    without fold k, :math:`s_i = |y_i - \hat\mu_{-k(i)}(x_i)|`, n rows and
    :math:`\alpha = 1 - p`, the method "plus" (CV+, jackknife+ with K = n) is

    .. math:: C(x) = [\text{the } \lfloor (n + 1) \alpha \rfloor
              \text{-th smallest of } \hat\mu_{-k(i)}(x) - s_i, \;
              \text{the } \lceil (n + 1) p \rceil
              \text{-th smallest of } \hat\mu_{-k(i)}(x) + s_i] .

    With the threshold :math:`t = s_{(\lceil (n + 1) p \rceil)}`, "minmax" is the hull
    of the :math:`\hat\mu_{-k}(x) \pm t`, and "base" is :math:`\hat\mu(x) \pm t` around
    the model fitted on all rows. Other scores put their own ends in place of these.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned, and fitted once a fold and once on all
        rows; one with a method `fit_folds` fits all folds itself.
    confidence_level : float, default=0.9
        The level p, strictly between 0 and 1. What is guaranteed is less: see below.
    nonconformity : str or nonconformity score, default="absolute"
        How strange a target is, as in :class:`SplitConformalRegressor`. A score with a
        method `affine` costs a few binary searches a row and fold; any other is
        inverted for every training row, in chunks. One that learns is fitted on the
        training rows of each fold.
    method : {"plus", "minmax", "base"}, default="plus"
        How the ends are put together.
    cv : int, cross-validation splitter or iterable, default=5
        The folds. An int draws shuffled folds with `random_state`. Every row must lie
        in exactly one test fold. ``LeaveOneOut()`` gives the jackknife+: one fit for a
        plain `LinearRegression` or `Ridge` on numbers in double precision, n fits for
        all else.
    group_by : str, int or callable, default=None
        Column of X, by name or number, or a function of X, that gives the group of
        each row: every group is calibrated by its own rows. Instead, arrays can be
        passed as `mondrian_groups` to the methods.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the folds, and seeds the estimator where its own `random_state` is None,
        in all fits alike.

    Attributes
    ----------
    estimator_ : estimator
        The model fitted on all rows, which predicts the point.
    estimators_ : list of estimators
        The model of each fold, fitted without it; empty where a closed form stands for
        the n fits.
    scores_ : ndarray of shape (n_samples,) or (n_samples, 2)
        Out-of-fold scores; one column for each end if the score has two.
    fold_ : ndarray of shape (n_samples,)
        The fold of each row: an index into `estimators_`.
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
        If the estimator is frozen, the folds are no partition of the rows, y is not
        finite, or a parameter is out of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the rows, or those of a group, are too few for the level.
    AlreadyFittedWarning
        If a fitted estimator is passed.

    See Also
    --------
    SplitConformalRegressor : Holds rows out instead: one fit, and coverage p.
    BootstrapConformalRegressor : Out-of-bag models instead of folds.
    cross_conformal_interval : The intervals from arrays.

    Notes
    -----
    .. rubric:: Guarantee

    If the rows and a new row are exchangeable, and the folds are drawn without looking
    at them, "plus" and "minmax" have

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha - \frac{2 (1 - 1 / K)}{n / K + 1} .

    If moreover all folds have n / K rows, and all rows outside a fold train its model
    (and a score that learns, which a :class:`NormalizedScore` does in folds of its own)
    in a way that does not depend on their order, the last term can be replaced by
    :math:`(1 - K / n) / (K + 1)`: no slack for the jackknife+, K = n [1]_. "minmax"
    then also has

    .. math:: P(y \in C(x)) \ge p \, \frac{n + 1}{n + n / K},

    which is p for ``LeaveOneOut()``. "base": none. Nothing higher is guaranteed;
    coverage of "plus" is mostly close to p in practice, which is to be measured.

    With groups the first bound holds within each group, n being its number of rows,
    and so does :math:`1 - 2 \alpha`, or p for "minmax", with ``LeaveOneOut()``. Rows
    that depend on one another, for which `groups` keep folds apart, are not
    exchangeable: none then. Sample weights change the training alone.

    References
    ----------
    .. [1] R. F. Barber, E. J. Candes, A. Ramdas, R. J. Tibshirani, "Predictive
       Inference with the Jackknife+", arXiv:1905.02928.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import LeaveOneOut
    >>> from uqlib.conformal import CrossConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = CrossConformalRegressor(Ridge(), cv=LeaveOneOut()).fit(X, y)
    >>> model.predict_interval(X).shape, model.n_calibration_
    ((442, 2), 442)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        method: str = "plus",
        cv: Any = 5,
        group_by: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.method = method
        self.cv = cv
        self.group_by = group_by
        self.n_jobs = n_jobs
        self.random_state = random_state

    def predict(self, X: Any) -> FloatArray:
        """Predict the point, by the model fitted on all rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Point predictions; the median of a model that gives quantiles alone.
        """
        check_is_fitted(self, "scores_")
        return predict_point(self.estimator_, check_X(self, X, reset=False))

    def _fit_models(
        self,
        X: Any,
        y: FloatArray,
        weight: FloatArray | None,
        splitter: Any,
        groups: Any,
        random_state: Any,
    ) -> tuple[LeftOut, FoldModels | None]:
        if isinstance(splitter, LeaveOneOut):
            score = self._unfitted_score()
            left_out = _closed_form(self.estimator, score, X, y, weight)
            if left_out is not None:
                return left_out, self._fit_base(self.estimator, X, y, weight)
        return super()._fit_models(X, y, weight, splitter, groups, random_state)

    def _fit_base(
        self, model: Any, X: Any, y: FloatArray, weight: FloatArray | None
    ) -> FoldModels:
        fitted, score = clone_and_fit(model, X, y, weight), self._unfitted_score()
        if self.method == "base":
            score = fit_score(score, fitted, X, y)
        return FoldModels([fitted], [score])

    def _unfitted_score(self) -> Any:
        return resolve_score(self.nonconformity)


class LinearModels(NamedTuple):
    """The n leave-one-out fits of a linear model, which nobody had to fit."""

    fits: LinearFits
    scores: list[Any]

    @property
    def width(self) -> int:
        """Number of elements that a row has."""
        return max(1, self.fits.coef.shape[1])

    def blocks(self, X: Any, level: float, n_rows: int) -> Iterator[FloatArray]:
        """Yield the predictions of so many rows under every model."""
        rows = check_array(X, dtype=np.float64)
        for first in range(0, len(rows), n_rows):
            yield self.fits.predict(rows[first : first + n_rows])


def _closed_form(
    estimator: Any, score: Any, X: Any, y: FloatArray, weight: FloatArray | None
) -> LeftOut | None:
    """Return the leave-one-out fits of a linear model; None where n fits are needed."""
    penalty = _linear_penalty(estimator)
    rows = None if penalty is None else _double_matrix(X)
    if penalty is None or rows is None or hasattr(score, "predict"):
        return None
    result = leave_one_out_fits(
        rows,
        y,
        penalty=penalty,
        fit_intercept=estimator.fit_intercept,
        sample_weight=weight,
    )
    if result is None:
        return None
    fits, y_oof = result
    models = LinearModels(fits, [score])
    return LeftOut(y_oof, None, np.arange(y.size), models, y.size)


def _linear_penalty(estimator: Any) -> float | None:
    """Return the penalty of a model whose fit is a plain formula, else None."""
    # Imported here: who asks for no jackknife+ need not wait for it.
    from sklearn.linear_model import LinearRegression, Ridge

    if type(estimator) is LinearRegression and not estimator.positive:
        return 0.0
    direct = type(estimator) is Ridge and estimator.solver in (
        "auto",
        "svd",
        "cholesky",
    )
    if not direct or estimator.positive or not isinstance(estimator.alpha, Real):
        return None
    return float(estimator.alpha) if estimator.alpha >= 0 else None


def _double_matrix(X: Any) -> FloatArray | None:
    """Return X as numbers, if the model would compute on it in double precision."""
    if hasattr(X, "toarray"):  # sparse
        return None
    values = np.asarray(X)
    double = values.dtype.kind in "iub" or values.dtype == np.float64
    if values.ndim != 2 or len(values) < 2 or not double:
        return None
    matrix = values.astype(np.float64, copy=False)
    return matrix if np.isfinite(matrix).all() else None
