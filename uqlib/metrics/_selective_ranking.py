"""How well the uncertainty ranks errors, or foreign rows, before all others."""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import exact_level
from uqlib._core.selective import rank_correlation, smallest_fpr
from uqlib._core.selective_checks import (
    check_binary,
    check_losses,
    check_share,
    check_uncertainty,
)
from uqlib._typing import ArrayLike, BoolArray, FloatArray


def uncertainty_roc_auc(
    is_positive: ArrayLike,
    uncertainty: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Chance that a positive row is less certain than a negative one (AUROC).

    .. math:: \frac{1}{n_+ n_-} \sum_{i \in +} \sum_{j \in -}
              1\{u_i > u_j\} + \tfrac{1}{2} 1\{u_i = u_j\} .

    Parameters
    ----------
    is_positive : array-like of shape (n_samples,)
        1 or True for the rows that should be uncertain, errors or out-of-distribution
        rows; 0 or False for the others. Both must occur.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; only the order matters. Infinities are legal. Pass
        ``-confidence`` if you have confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; larger is better. 0.5 for a constant uncertainty.

    Raises
    ------
    ValueError
        If there are no rows, shapes do not agree, is_positive holds anything but both
        kinds, or uncertainty contains NaN.

    See Also
    --------
    uncertainty_average_precision : If positive rows are rare.
    generalized_risk_coverage_auc : The ranking together with the error rate.

    Notes
    -----
    As a measure of errors it compares uncertainties of one model, not models: a model
    with more and more obvious errors has a larger area.

    References
    ----------
    .. [1] D. Hendrycks, K. Gimpel, "A Baseline for Detecting Misclassified and
       Out-of-Distribution Examples in Neural Networks", arXiv:1610.02136.

    Examples
    --------
    >>> from uqlib.metrics import uncertainty_roc_auc
    >>> uncertainty_roc_auc([0, 0, 1, 1], uncertainty=[0.1, 0.4, 0.35, 0.8])
    0.75
    """
    positive, value, weight = _check_two_kinds(is_positive, uncertainty, sample_weight)
    return float(roc_auc_score(positive, _order(value), sample_weight=weight))


def uncertainty_average_precision(
    is_positive: ArrayLike,
    uncertainty: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Average precision of the uncertainty: area under precision and recall (AUPR).

    .. math:: \sum_t (R_t - R_{t-1}) P_t,

    over the distinct uncertainties t from the largest down, where :math:`R_t` is the
    share of the positive rows that are at least as uncertain as t, and :math:`P_t` the
    share of positive ones among all such rows.

    Parameters
    ----------
    is_positive : array-like of shape (n_samples,)
        1 or True for the rows that should be uncertain, errors or out-of-distribution
        rows; 0 or False for the others. Both must occur.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; only the order matters. Infinities are legal. Pass
        ``-confidence`` if you have confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; larger is better. A constant uncertainty gives the share of
        positive rows, so that values compare at equal shares only.

    Raises
    ------
    ValueError
        For the reasons of :func:`uncertainty_roc_auc`.

    See Also
    --------
    uncertainty_roc_auc : It does not depend on the share of positive rows.

    Notes
    -----
    Rows of equal uncertainty enter together, as a threshold takes them: this is not the
    mean over their orders, which would be larger. For the other of the two areas in
    use, with certain rows as positive ones, negate both arguments:
    ``uncertainty_average_precision(~is_positive, -uncertainty)``.

    References
    ----------
    .. [1] D. Hendrycks, K. Gimpel, "A Baseline for Detecting Misclassified and
       Out-of-Distribution Examples in Neural Networks", arXiv:1610.02136.

    Examples
    --------
    >>> from uqlib.metrics import uncertainty_average_precision
    >>> uncertainty_average_precision([0, 1, 0, 1], uncertainty=[0.1, 0.35, 0.4, 0.8])
    0.8333333333333333
    """
    positive, value, weight = _check_two_kinds(is_positive, uncertainty, sample_weight)
    return float(average_precision_score(positive, _order(value), sample_weight=weight))


def uncertainty_fpr_at_tpr(
    is_positive: ArrayLike,
    uncertainty: ArrayLike,
    *,
    tpr: float = 0.95,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Smallest false positive rate at which the positive rows are found (FPR95).

    .. math:: \min_t \Big\{ \frac{\#\{j \in - : u_j \ge t\}}{n_-} :
              \frac{\#\{i \in + : u_i \ge t\}}{n_+} \ge p \Big\} .

    Parameters
    ----------
    is_positive : array-like of shape (n_samples,)
        1 or True for the rows that should be uncertain, errors or out-of-distribution
        rows; 0 or False for the others. Both must occur.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; only the order matters. Infinities are legal. Pass
        ``-confidence`` if you have confidences.
    tpr : float, default=0.95
        Share p of the positive rows to find, in (0, 1].
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; smaller is better. 1 for a constant uncertainty.

    Raises
    ------
    TypeError
        If tpr is no number.
    ValueError
        If tpr is not in (0, 1], or for the reasons of :func:`uncertainty_roc_auc`.

    See Also
    --------
    uncertainty_roc_auc : Over all thresholds.

    Notes
    -----
    Only rates of thresholds count: nothing is interpolated between two of them, and a
    threshold takes rows of equal uncertainty all or not at all. Much of the literature
    on out-of-distribution rows calls the rows *in* the distribution positive:
    ``uncertainty_fpr_at_tpr(~is_foreign, -uncertainty)`` is that rate.

    Examples
    --------
    >>> from uqlib.metrics import uncertainty_fpr_at_tpr
    >>> uncertainty_fpr_at_tpr([1, 0, 1, 0, 0, 1, 0],
    ...                        [0.9, 0.8, 0.7, 0.6, 0.4, 0.2, 0.1])
    0.75
    """
    check_share(tpr, "tpr", "Pass 0.95 to find 95 % of the positive rows.")
    positive, value, weight = _check_two_kinds(is_positive, uncertainty, sample_weight)
    return smallest_fpr(positive, value, weight, exact_level(tpr))


def error_uncertainty_correlation(
    losses: ArrayLike, uncertainty: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Rank correlation (Spearman) of the losses with the uncertainty.

    .. math:: \frac{\sum_i (a_i - \bar a) (b_i - \bar b)}
              {\sqrt{\sum_i (a_i - \bar a)^2 \sum_i (b_i - \bar b)^2}},

    where a are the ranks of the losses and b those of the uncertainties, equal values
    having the mean of their ranks.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0: absolute errors, say; only the order matters.
        Infinity is legal.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; pass ``-confidence`` if you have confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between -1 and 1; larger is better, 0 says nothing of the error's size.

    Raises
    ------
    ValueError
        If one of the arrays is constant, or for the reasons of
        :func:`risk_coverage_curve`.

    See Also
    --------
    sparsification_error : How much the ranking costs; defined for constant arrays too.

    Notes
    -----
    Even the true scale of the errors has a correlation far below 1, as the error of a
    row is a random draw: for normal errors of standard deviations drawn evenly from 1
    to 2 on the log scale it is about 0.2. Compare uncertainties of one model by it.

    Examples
    --------
    >>> from uqlib.metrics import error_uncertainty_correlation
    >>> error_uncertainty_correlation([0.1, 0.4, 0.3], uncertainty=[1.0, 2.0, 3.0])
    0.5
    """
    loss = check_losses(losses)
    value = check_uncertainty(uncertainty, loss.size, "losses")
    weight = check_sample_weight(sample_weight, loss.size)
    for array, name in ((loss, "losses"), (value, "uncertainty")):
        if np.unique(array if weight is None else array[weight > 0]).size == 1:
            raise ValueError(
                f"{name} is constant over the {loss.size} rows, and a correlation with "
                "a constant is not defined. Use sparsification_error, which is."
            )
    return rank_correlation(loss, value, weight)


def _check_two_kinds(
    is_positive: Any, uncertainty: Any, sample_weight: Any
) -> tuple[BoolArray, FloatArray, FloatArray | None]:
    """Return the rows that have weight; rows of both kinds must be among them."""
    positive = check_binary(is_positive, "is_positive")
    value = check_uncertainty(uncertainty, positive.size, "is_positive")
    weight = check_sample_weight(sample_weight, positive.size)
    if weight is not None:
        kept = weight > 0
        positive, value, weight = positive[kept], value[kept], weight[kept]
    if positive.all() or not positive.any():
        missing = "negative" if positive.all() else "positive"
        raise ValueError(
            f"is_positive has no {missing} row of positive weight among "
            f"{positive.size}, and rates are shares of both kinds. Add such rows, or "
            "use risk_coverage_auc, which is defined without errors too."
        )
    return positive, value, weight


def _order(values: FloatArray) -> Any:
    """Return integers in the order of the values: scikit-learn refuses infinities."""
    return np.unique(values, return_inverse=True)[1]
