"""CV+ around quantile regressors: every row trains and every row calibrates."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from uqlib._predictions import predict_point
from uqlib._typing import FloatArray
from uqlib._validation import check_finite_predictions, check_X
from uqlib.conformal._cross_folds import BaseFoldRegressor
from uqlib.conformal._scores import QuantileScore

# Why the guaranteed bounds hold for these scores, and the first for folds of any sizes.
# Let s(x, y) of fold k be the score of a new row under the model without fold k.
#
# 1. If y lies above the upper end, then y > u_-k(i)(x) + s_i and hence
#    s(x, y) > s_i for at least (n + 1) p of the rows i; likewise below. So
#    #{i: s_i >= s(x, y)} <= n - (n + 1) p = (n + 1) alpha - 1.
# 2. Given the rows outside fold k, the new row and the m_k rows of fold k are
#    exchangeable: p_k = (1 + #{i in fold k: s_i >= s(x, y)}) / (m_k + 1) is a
#    p-value. The mean of the p_k with the weights (m_k + 1) / (n + K) is then at
#    most ((n + 1) alpha - 1 + K) / (n + K).
# 3. A weighted mean of p-values is <= t with probability at most 2 t [3]: with
#    g(p) = max(0, 2 - p / t), 1{mean <= t} <= g(mean) <= mean of the g(p_k), and
#    E g(U) = 2 t. Here 2 t = 2 alpha + 2 (1 - alpha) (K - 1) / (n + K), at most
#    2 alpha + 2 (1 - 1 / K) / (n / K + 1).
#
# The other term compares scores of rows pairwise under models without both folds
# [1]: it takes equal folds and a symmetric fit, and any score [2].


class CrossConformalizedQuantileRegressor(BaseFoldRegressor):
    r"""Intervals of a quantile regressor that train and calibrate on all rows (CV+).

    With K folds, :math:`k(i)` the fold of row i, :math:`l_{-k}, u_{-k}` the quantiles
    of the levels :math:`\alpha / 2` and :math:`1 - \alpha / 2`, :math:`\alpha = 1 - p`,
    of the model fitted without fold k, and n rows,

    .. math:: s_i &= \max(l_{-k(i)}(x_i) - y_i, \; y_i - u_{-k(i)}(x_i)), \\
              C(x) &= [\text{the } \lfloor (n + 1) \alpha \rfloor
              \text{-th smallest of } l_{-k(i)}(x) - s_i, \;
              \text{the } \lceil (n + 1) p \rceil
              \text{-th smallest of } u_{-k(i)}(x) + s_i] .

    With ``symmetric=False`` each end has its own one-sided scores and the level
    :math:`\alpha / 2`.

    Parameters
    ----------
    estimator : estimator
        Any quantile regressor with both levels: one with `predict_quantiles`, a
        quantile forest, a pipeline that ends in one or in a quantile transformer. It is
        cloned and fitted once a fold; one with a method `fit_folds` fits all folds
        itself, which lets it share work between them.
    confidence_level : float, default=0.9
        The level p, strictly between 0 and 1. What is guaranteed is less: see below.
    symmetric : bool, default=True
        Score a row by its distance to the interval. False scores each end alone.
    group_by : str, int or callable, default=None
        Column of X, by name or number, or a function of X, that gives the group of
        each row: every group is calibrated by its own rows. Instead, arrays can be
        passed as `mondrian_groups` to the methods.
    cv : int, cross-validation splitter or iterable, default=5
        The folds. An int draws shuffled folds with `random_state`. Every row must lie
        in exactly one test fold. ``LeaveOneOut()`` gives the jackknife+.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
        Without effect on an estimator with `fit_folds`, which has its own.
    random_state : int, RandomState instance or None, default=None
        Draws the folds, and seeds the estimator where its own `random_state` is None,
        in all folds alike.

    Attributes
    ----------
    estimators_ : list of estimators
        The model of each fold, fitted without it.
    quantiles_ : ndarray of shape (n_quantiles,)
        Their levels.
    scores_ : ndarray of shape (n_samples,) or (n_samples, 2)
        Out-of-fold scores; one column for each end if not symmetric.
    fold_ : ndarray of shape (n_samples,)
        The fold of each row: an index into `estimators_`.
    groups_ : ndarray of shape (n_groups,)
        Sorted labels of the groups, if `fit` got `mondrian_groups`.
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
        If the estimator is frozen or lacks one of the two levels (the message lists
        those there are), if the folds are no partition of the rows, if y is not finite,
        or a parameter is out of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the rows are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed.

    See Also
    --------
    ConformalizedQuantileRegressor : Holds rows out instead: one fit, and coverage p.
    CrossConformalRegressor : The same for any score, and with `estimator_`.
    uqlib.quantile.QuantileEnsembleRegressor : Shares its models between the folds.

    Notes
    -----
    .. rubric:: Guarantee

    If the rows and a new row are exchangeable, and the folds are drawn without looking
    at them,

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha - \frac{2 (1 - 1 / K)}{n / K + 1} .

    If moreover all folds have n / K rows, and all rows outside a fold train its model
    in a way that does not depend on their order, then [1]_

    .. math:: P(y \in C(x)) \ge 1 - 2 \alpha - \min\left(
              \frac{2 (1 - 1 / K)}{n / K + 1}, \; \frac{1 - K / n}{K + 1} \right)
              \ge 1 - 2 \alpha - \sqrt{2 / n},

    which is :math:`1 - 2 \alpha` for the jackknife+, K = n. Nothing higher is
    guaranteed. Coverage is mostly close to p in practice, which is to be measured.
    With ``symmetric=False`` each of :math:`P(y < C(x))` and :math:`P(y > C(x))` is at
    most :math:`\alpha` plus the last term of the bound that applies.

    With groups the first bound holds within each group, n being its number of rows, and
    :math:`1 - 2 \alpha` for the jackknife+. Sample weights change the training alone:
    each row counts once among the scores.

    References
    ----------
    .. [1] R. F. Barber, E. J. Candes, A. Ramdas, R. J. Tibshirani, "Predictive
       Inference with the Jackknife+", arXiv:1905.02928.
    .. [2] C. Gupta, A. K. Kuchibhotla, A. K. Ramdas, "Nested Conformal Prediction and
       Quantile Out-of-Bag Ensemble Methods", arXiv:1910.10562.
    .. [3] V. Vovk, R. Wang, "Combining p-values via Averaging", arXiv:1212.4966.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import QuantileRegressor
    >>> from uqlib.conformal import CrossConformalizedQuantileRegressor
    >>> from uqlib.quantile import MultiQuantileRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> base = MultiQuantileRegressor(
    ...     QuantileRegressor(alpha=0), quantiles=[0.05, 0.5, 0.95]
    ... )
    >>> model = CrossConformalizedQuantileRegressor(base, random_state=0).fit(X, y)
    >>> model.predict_interval(X).shape, len(model.estimators_)
    ((442, 2), 5)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        symmetric: bool = True,
        group_by: Any = None,
        cv: Any = 5,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.group_by = group_by
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def predict(self, X: Any) -> FloatArray:
        """Predict the point: the mean of the medians of the fold models.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Mean over the fold models of the point that each predicts, which is the
            median of a quantile regressor. No model is fitted on all rows.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        with np.errstate(invalid="ignore"):
            total = sum(predict_point(model, X) for model in self.estimators_)
        mean = np.asarray(total / len(self.estimators_))
        return check_finite_predictions(mean, self.estimator)

    def _unfitted_score(self) -> Any:
        return QuantileScore(self.symmetric)
