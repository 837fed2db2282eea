"""Prediction sets at a threshold: the labels whose score is at most it, by floats."""

from uqlib._core.label_checks import (
    check_not_negative,
    check_proba,
    check_rank_penalty,
    check_threshold,
    check_uniforms,
)
from uqlib._core.label_ranking import (
    LacScore,
    MarginScore,
    MassScore,
    SortedScore,
    TopScore,
)
from uqlib._typing import ArrayLike, BoolArray


def lac_sets(
    proba: ArrayLike,
    threshold: ArrayLike,
) -> BoolArray:
    r"""Labels whose probability is at least one minus a threshold (LAC).

    .. math:: C = \{y : 1 - p_y \le t\}

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    threshold : array-like of shape (n_samples,) or float
        The t, one for all rows or one a row. Infinities are legal: +inf gives the full
        set, -inf the empty one.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets: a label is in exactly when its :func:`lac_scores` is at most t,
        ties included.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `threshold` is NaN or not one a row.

    See Also
    --------
    lac_scores : The score of one label a row.

    References
    ----------
    .. [1] M. Sadinle, J. Lei, L. Wasserman, "Least Ambiguous Set-Valued Classifiers
       with Bounded Error Levels", arXiv:1609.00451.

    Examples
    --------
    >>> from uqlib.conformal import lac_sets
    >>> lac_sets([[0.25, 0.5, 0.25]], 0.5)
    array([[False,  True, False]])
    """
    rows = check_proba(proba)
    t = check_threshold(threshold, len(rows))
    return LacScore().sets(rows, t, check_uniforms(None, len(rows)))


def margin_sets(
    proba: ArrayLike,
    threshold: ArrayLike,
) -> BoolArray:
    r"""Labels that fall behind the best other label by at most a threshold.

    .. math:: C = \{y : \max_{j \ne y} p_j - p_y \le t\}

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    threshold : array-like of shape (n_samples,) or float
        The t, one for all rows or one a row. Infinities are legal: +inf gives the full
        set, -inf the empty one.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets: a label is in exactly when its :func:`margin_scores` is at most t,
        ties included.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `threshold` is NaN or not one a row.

    See Also
    --------
    margin_scores : The score of one label a row.

    Notes
    -----
    If there is one class only, the maximum over no label is 0.

    References
    ----------
    .. [1] U. Johansson, H. Linusson, T. Lofstrom, H. Bostrom, "Model-Agnostic
       Nonconformity Functions for Conformal Classification", IJCNN 2017.

    Examples
    --------
    >>> from uqlib.conformal import margin_sets
    >>> margin_sets([[0.25, 0.5, 0.25]], 0.25)
    array([[ True,  True,  True]])
    """
    rows = check_proba(proba)
    t = check_threshold(threshold, len(rows))
    return MarginScore().sets(rows, t, check_uniforms(None, len(rows)))


def aps_sets(
    proba: ArrayLike,
    threshold: ArrayLike,
    *,
    u: ArrayLike | None = None,
) -> BoolArray:
    r"""Labels of the highest probabilities, up to a mass (APS).

    .. math:: C = \Bigl\{y : \sum_{j \prec y} p_j + u \, p_y \le t\Bigr\},

    where :math:`j \prec y` if j is ranked before y.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    threshold : array-like of shape (n_samples,) or float
        The t, one for all rows or one a row. Infinities are legal: +inf gives the full
        set, -inf the empty one.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own mass that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets: a label is in exactly when its :func:`aps_scores` is at most t,
        ties included.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `threshold` is NaN or not one a row, or `u` is not in [0, 1].

    See Also
    --------
    aps_scores : The score of one label a row.

    Notes
    -----
    Labels are ranked by decreasing probability, ties by index. The mass of a label is
    its probability rounded to a multiple of 2^-52, so that sums of masses are exact:
    they are the same float in whatever order they are taken.

    No row is sorted if there are many: whole buckets of labels are passed, and only
    the one in which the set ends is sorted.

    References
    ----------
    .. [1] Y. Romano, M. Sesia, E. J. Candes, "Classification with Valid and Adaptive
       Coverage", arXiv:2006.02544.

    Examples
    --------
    >>> from uqlib.conformal import aps_sets
    >>> aps_sets([[0.25, 0.5, 0.25]], 0.75)
    array([[ True,  True, False]])
    """
    rows = check_proba(proba)
    t = check_threshold(threshold, len(rows))
    return MassScore().sets(rows, t, check_uniforms(u, len(rows)))


def raps_sets(
    proba: ArrayLike,
    threshold: ArrayLike,
    *,
    k_reg: int = 1,
    penalty: float = 0.01,
    u: ArrayLike | None = None,
) -> BoolArray:
    r"""Labels up to a mass, with a penalty on high ranks (RAPS).

    .. math:: C = \Bigl\{y : \sum_{j \prec y} p_j + u \, p_y
              + \lambda \max(0, o_y - k) \le t\Bigr\},

    where :math:`j \prec y` if j is ranked before y and :math:`o_y` is the rank, from 1.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    threshold : array-like of shape (n_samples,) or float
        The t, one for all rows or one a row. Infinities are legal: +inf gives the full
        set, -inf the empty one.
    k_reg : int, default=1
        Number of ranks without penalty, at least 0.
    penalty : float, default=0.01
        What each further rank adds, at least 0.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own mass that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets: a label is in exactly when its :func:`raps_scores` is at most t,
        ties included.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `threshold` is NaN or not one a row, or `u` is not in [0, 1], or
        `k_reg` or `penalty` is negative.

    See Also
    --------
    raps_scores : The score of one label a row.

    Notes
    -----
    Labels are ranked by decreasing probability, ties by index. The mass of a label is
    its probability rounded to a multiple of 2^-52, so that sums of masses are exact:
    they are the same float in whatever order they are taken.

    No row is sorted if there are many: whole buckets of labels are passed, and only
    the one in which the set ends is sorted.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, J. Malik, M. I. Jordan, "Uncertainty Sets for
       Image Classifiers using Conformal Prediction", arXiv:2009.14193.

    Examples
    --------
    >>> from uqlib.conformal import raps_sets
    >>> raps_sets([[0.25, 0.5, 0.25]], 0.8)
    array([[ True,  True, False]])
    """
    rows = check_proba(proba)
    t = check_threshold(threshold, len(rows))
    return MassScore(*check_rank_penalty(k_reg, penalty)).sets(
        rows, t, check_uniforms(u, len(rows))
    )


def saps_sets(
    proba: ArrayLike,
    threshold: ArrayLike,
    *,
    rank_weight: float = 0.2,
    u: ArrayLike | None = None,
) -> BoolArray:
    r"""Labels of the highest ranks, fewer where the first is certain (SAPS).

    .. math:: C = \{y : s_y \le t\}, \quad
              s_y = u \, p_{\max} \text{ if } o_y = 1, \quad
              s_y = p_{\max} + (o_y - 2 + u) \, w \text{ otherwise},

    with the rank :math:`o_y` from 1.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    threshold : array-like of shape (n_samples,) or float
        The t, one for all rows or one a row. Infinities are legal: +inf gives the full
        set, -inf the empty one.
    rank_weight : float, default=0.2
        What each rank after the first adds, at least 0.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own step that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets: a label is in exactly when its :func:`saps_scores` is at most t,
        ties included.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `threshold` is NaN or not one a row, or `u` is not in [0, 1], or
        `rank_weight` is negative.

    See Also
    --------
    saps_scores : The score of one label a row.

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
    >>> from uqlib.conformal import saps_sets
    >>> saps_sets([[0.25, 0.5, 0.25]], 0.7)
    array([[ True,  True, False]])
    """
    rows = check_proba(proba)
    t = check_threshold(threshold, len(rows))
    return SortedScore(check_not_negative(rank_weight, "rank_weight")).sets(
        rows, t, check_uniforms(u, len(rows))
    )


def topk_sets(
    proba: ArrayLike,
    threshold: ArrayLike,
    *,
    u: ArrayLike | None = None,
) -> BoolArray:
    r"""Labels of the highest ranks (top-k).

    .. math:: C = \{y : o_y - 1 + u \le t\},

    with the rank :math:`o_y` from 1: without `u` the :math:`\lfloor t \rfloor` first
    labels.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities; each row sums to 1 within 0.001. float32 counts as its
        float64 values. Zeros are legal.
    threshold : array-like of shape (n_samples,) or float
        The t, one for all rows or one a row. Infinities are legal: +inf gives the full
        set, -inf the empty one.
    u : array-like of shape (n_samples,) or float, default=None
        The share in [0, 1] of its own step that counts for a label, uniform draws for
        the randomized score. None stands for 1, the deterministic score.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets: a label is in exactly when its :func:`topk_scores` is at most t,
        ties included.

    Raises
    ------
    ValueError
        If `proba` is not finite, negative, or has a row that does not sum to 1 within
        0.001; if `threshold` is NaN or not one a row, or `u` is not in [0, 1].

    See Also
    --------
    topk_scores : The score of one label a row.

    Notes
    -----
    Labels are ranked by decreasing probability, ties by index.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, J. Malik, M. I. Jordan, "Uncertainty Sets for
       Image Classifiers using Conformal Prediction", arXiv:2009.14193.

    Examples
    --------
    >>> from uqlib.conformal import topk_sets
    >>> topk_sets([[0.25, 0.5, 0.25]], 2)
    array([[ True,  True, False]])
    """
    rows = check_proba(proba)
    t = check_threshold(threshold, len(rows))
    return TopScore().sets(rows, t, check_uniforms(u, len(rows)))
