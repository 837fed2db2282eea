"""Nonconformity scores of observed labels, larger = stranger."""

from uqlib._core.label_checks import (
    check_columns,
    check_not_negative,
    check_proba,
    check_rank_penalty,
    check_uniforms,
)
from uqlib._core.label_ranking import (
    LacScore,
    MarginScore,
    MassScore,
    SortedScore,
    TopScore,
)
from uqlib._typing import ArrayLike, FloatArray


def lac_scores(
    proba: ArrayLike,
    y: ArrayLike,
) -> FloatArray:
    r"""Score labels by one minus their probability (LAC).

    .. math:: s = 1 - p_y

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    y : array-like of shape (n_samples,)
        Labels, as columns of `proba`: integers from 0 to n_classes - 1.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, larger = stranger.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `y` is no column of it.

    See Also
    --------
    lac_sets : The labels whose score is at most a threshold.

    References
    ----------
    .. [1] M. Sadinle, J. Lei, L. Wasserman, "Least Ambiguous Set-Valued Classifiers
       with Bounded Error Levels", arXiv:1609.00451.

    Examples
    --------
    >>> from uqlib.conformal import lac_scores
    >>> lac_scores([[0.25, 0.5, 0.25]], [2])
    array([0.75])
    """
    rows = check_proba(proba)
    labels = check_columns(y, rows)
    return LacScore().labels(rows, labels, check_uniforms(None, len(rows)))


def margin_scores(
    proba: ArrayLike,
    y: ArrayLike,
) -> FloatArray:
    r"""Score labels by how far they fall behind the best other label.

    .. math:: s = \max_{j \ne y} p_j - p_y

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    y : array-like of shape (n_samples,)
        Labels, as columns of `proba`: integers from 0 to n_classes - 1.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, larger = stranger.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `y` is no column of it.

    See Also
    --------
    margin_sets : The labels whose score is at most a threshold.

    Notes
    -----
    If there is one class only, the maximum over no label is 0.

    References
    ----------
    .. [1] U. Johansson, H. Linusson, T. Lofstrom, H. Bostrom, "Model-Agnostic
       Nonconformity Functions for Conformal Classification", IJCNN 2017.

    Examples
    --------
    >>> from uqlib.conformal import margin_scores
    >>> margin_scores([[0.25, 0.5, 0.25]], [2])
    array([0.25])
    """
    rows = check_proba(proba)
    labels = check_columns(y, rows)
    return MarginScore().labels(rows, labels, check_uniforms(None, len(rows)))


def aps_scores(
    proba: ArrayLike,
    y: ArrayLike,
    *,
    u: ArrayLike | None = None,
) -> FloatArray:
    r"""Score labels by the mass of the labels up to them (APS).

    .. math:: s = \sum_{j \prec y} p_j + u \, p_y,

    where :math:`j \prec y` if j is ranked before y.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    y : array-like of shape (n_samples,)
        Labels, as columns of `proba`: integers from 0 to n_classes - 1.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own mass that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, larger = stranger.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `y` is no column of it, or `u` is not in [0, 1].

    See Also
    --------
    aps_sets : The labels whose score is at most a threshold.

    Notes
    -----
    Labels are ranked by decreasing probability, ties by index. The mass of a label is
    its probability rounded to a multiple of 2^-52, so that sums of masses are exact:
    they are the same float in whatever order they are taken.

    References
    ----------
    .. [1] Y. Romano, M. Sesia, E. J. Candes, "Classification with Valid and Adaptive
       Coverage", arXiv:2006.02544.

    Examples
    --------
    >>> from uqlib.conformal import aps_scores
    >>> aps_scores([[0.25, 0.5, 0.25]], [2])
    array([1.])
    """
    rows = check_proba(proba)
    labels = check_columns(y, rows)
    return MassScore().labels(rows, labels, check_uniforms(u, len(rows)))


def raps_scores(
    proba: ArrayLike,
    y: ArrayLike,
    *,
    k_reg: int = 1,
    penalty: float = 0.01,
    u: ArrayLike | None = None,
) -> FloatArray:
    r"""Score labels by the mass up to them, with a penalty on high ranks (RAPS).

    .. math:: s = \sum_{j \prec y} p_j + u \, p_y + \lambda \max(0, o_y - k),

    where :math:`j \prec y` if j is ranked before y and :math:`o_y` is the rank, from 1.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    y : array-like of shape (n_samples,)
        Labels, as columns of `proba`: integers from 0 to n_classes - 1.
    k_reg : int, default=1
        Number of ranks without penalty, at least 0.
    penalty : float, default=0.01
        What each further rank adds, at least 0.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own mass that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, larger = stranger.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `y` is no column of it, or `u` is not in [0, 1], or `k_reg` or
        `penalty` is negative.

    See Also
    --------
    raps_sets : The labels whose score is at most a threshold.

    Notes
    -----
    Labels are ranked by decreasing probability, ties by index. The mass of a label is
    its probability rounded to a multiple of 2^-52, so that sums of masses are exact:
    they are the same float in whatever order they are taken.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, J. Malik, M. I. Jordan, "Uncertainty Sets for
       Image Classifiers using Conformal Prediction", arXiv:2009.14193.

    Examples
    --------
    >>> from uqlib.conformal import raps_scores
    >>> raps_scores([[0.25, 0.5, 0.25]], [2])
    array([1.02])
    """
    rows = check_proba(proba)
    labels = check_columns(y, rows)
    return MassScore(*check_rank_penalty(k_reg, penalty)).labels(
        rows, labels, check_uniforms(u, len(rows))
    )


def saps_scores(
    proba: ArrayLike,
    y: ArrayLike,
    *,
    rank_weight: float = 0.2,
    u: ArrayLike | None = None,
) -> FloatArray:
    r"""Score labels by the largest probability and their rank (SAPS).

    .. math:: s = u \, p_{\max} \text{ if } o_y = 1, \qquad
              s = p_{\max} + (o_y - 2 + u) \, w \text{ otherwise},

    with the rank :math:`o_y` from 1.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    y : array-like of shape (n_samples,)
        Labels, as columns of `proba`: integers from 0 to n_classes - 1.
    rank_weight : float, default=0.2
        What each rank after the first adds, at least 0.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own step that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, larger = stranger.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `y` is no column of it, or `u` is not in [0, 1], or `rank_weight`
        is negative.

    See Also
    --------
    saps_sets : The labels whose score is at most a threshold.

    Notes
    -----
    Labels are ranked by decreasing probability, ties by index. Of the probabilities
    only the largest enters, so that it does not matter how a network is wrong about
    those of the tail.

    References
    ----------
    .. [1] J. Huang, H. Xi, L. Zhang, H. Yao, Y. Qiu, H. Wei, "Conformal Prediction for
       Deep Classifier via Label Ranking", arXiv:2310.06430.

    Examples
    --------
    >>> from uqlib.conformal import saps_scores
    >>> saps_scores([[0.25, 0.5, 0.25]], [2])
    array([0.9])
    """
    rows = check_proba(proba)
    labels = check_columns(y, rows)
    return SortedScore(check_not_negative(rank_weight, "rank_weight")).labels(
        rows, labels, check_uniforms(u, len(rows))
    )


def topk_scores(
    proba: ArrayLike,
    y: ArrayLike,
    *,
    u: ArrayLike | None = None,
) -> FloatArray:
    r"""Score labels by their rank (top-k).

    .. math:: s = o_y - 1 + u,

    with the rank :math:`o_y` from 1: without `u` the rank itself.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    y : array-like of shape (n_samples,)
        Labels, as columns of `proba`: integers from 0 to n_classes - 1.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own step that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, larger = stranger.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `y` is no column of it, or `u` is not in [0, 1].

    See Also
    --------
    topk_sets : The labels whose score is at most a threshold.

    Notes
    -----
    Labels are ranked by decreasing probability, ties by index.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, J. Malik, M. I. Jordan, "Uncertainty Sets for
       Image Classifiers using Conformal Prediction", arXiv:2009.14193.

    Examples
    --------
    >>> from uqlib.conformal import topk_scores
    >>> topk_scores([[0.25, 0.5, 0.25]], [2])
    array([3.])
    """
    rows = check_proba(proba)
    labels = check_columns(y, rows)
    return TopScore().labels(rows, labels, check_uniforms(u, len(rows)))
