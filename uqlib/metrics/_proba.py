"""Proper scores of class probabilities; smaller is better for all of them."""

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import check_rows, check_sample_weight
from uqlib._core.losses import weighted_mean
from uqlib._core.proba_columns import label_columns, proba_columns
from uqlib._typing import ArrayLike, FloatArray


def negative_log_likelihood(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Mean negative logarithm of the probability given to the label.

    .. math:: -\frac{1}{n} \sum_{i=1}^n \log p_{i y_i} .

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probability of every class, or for two classes that of the second alone.
    labels : array-like of shape (n_classes,), default=None
        The labels, one for each column and in their order, as `classes_` of a
        classifier; for 1-D probabilities both. None takes the sorted labels of
        `y_true`, which must then be all there are.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        In nats (natural logarithm), at least 0; 0 is best. Infinite if the label of a
        row with positive weight has probability 0.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a probability is not in [0, 1] or a
        row does not sum to 1 within 0.001, a label is missing or not among `labels`, or
        `labels` are not as many as the columns or not distinct.

    See Also
    --------
    brier_score : A proper score that is bounded.
    gaussian_negative_log_likelihood : For regression.
    sklearn.metrics.log_loss : The same, with probabilities clipped away from 0.

    Notes
    -----
    It is a strictly proper score: the true probabilities alone minimize its
    expectation. A model that rules out what then happens has an infinite score, where
    :func:`sklearn.metrics.log_loss` returns a number that is set by the resolution of
    the data type. Elsewhere the two are equal. Probabilities above 1, as rows may hold
    within the tolerance of their sum, count as 1.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102, 2007.

    Examples
    --------
    >>> from uqlib.metrics import negative_log_likelihood
    >>> y_proba = [[0.5, 0.5], [0.25, 0.75]]
    >>> round(negative_log_likelihood(["no", "yes"], y_proba), 4)
    0.4904
    >>> negative_log_likelihood(["no", "yes"], [[0.5, 0.5], [1.0, 0.0]])
    inf
    """
    proba, column, weight = _check(y_true, y_proba, labels, sample_weight)
    given = proba[np.arange(column.size), column].astype(np.float64)
    with np.errstate(divide="ignore"):
        losses = -np.log(np.minimum(given, 1.0))
    return weighted_mean(losses, weight) + 0.0  # no negative zero


def brier_score(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Mean squared distance between the probabilities and the label's indicator.

    .. math:: \frac{1}{n} \sum_{i=1}^n \sum_{k=1}^K (1\{y_i = k\} - p_{ik})^2 .

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probability of every class, or for two classes that of the second alone. Both
        forms of two classes have the same score.
    labels : array-like of shape (n_classes,), default=None
        The labels, one for each column and in their order, as `classes_` of a
        classifier; for 1-D probabilities both. None takes the sorted labels of
        `y_true`, which must then be all there are.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 2; 0 is best, and equal probabilities for all K classes have
        1 - 1 / K.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a probability is not in [0, 1] or a
        row does not sum to 1 within 0.001, a label is missing or not among `labels`, or
        `labels` are not as many as the columns or not distinct.

    See Also
    --------
    negative_log_likelihood : Punishes confident errors without bound.
    sklearn.metrics.brier_score_loss : Half of this value for two classes.

    Notes
    -----
    The sum goes over all classes, as in Brier's definition. For two classes it is
    :math:`2 (1\{y = 1\} - p)^2`, twice what :func:`sklearn.metrics.brier_score_loss`
    returns for them. It is strictly proper.

    References
    ----------
    .. [1] G. W. Brier, "Verification of Forecasts Expressed in Terms of Probability",
       Monthly Weather Review 78, 1950.

    Examples
    --------
    >>> from uqlib.metrics import brier_score
    >>> y_proba = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    >>> brier_score([0, 2], y_proba, labels=[0, 1, 2])
    0.5
    >>> brier_score([0, 1], [0.5, 1.0])
    0.25
    """
    proba, column, weight = _check(y_true, y_proba, labels, sample_weight)
    gap = np.array(proba, dtype=np.float64)
    gap[np.arange(column.size), column] -= 1.0
    return weighted_mean(np.einsum("ik,ik->i", gap, gap), weight)


def _check(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    labels: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> tuple[FloatArray, NDArray[np.intp], FloatArray | None]:
    """Return the columns of probabilities, the column of each label, the weights."""
    proba = proba_columns(y_proba)
    check_rows(len(np.atleast_1d(y_true)), len(proba), "y_proba", "y_true")
    column = label_columns(y_true, labels, proba.shape[1])
    return proba, column, check_sample_weight(sample_weight, column.size)
