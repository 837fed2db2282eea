r"""Venn-ABERS prediction: isotonic regression with the new row put in, once a label.

p_c(s), c = 0 or 1, is the value at s of the isotonic regression of the calibration
labels on their scores after the row (s, c) has been added. Two facts make all of them
cheap:

1. **One side is enough.** Reversing the order of the scores and exchanging the labels
   turns an isotonic fit g into 1 - g, so p_0 of a problem is 1 - p_1 of its mirror
   image.
2. **p_1 is a bridge.** Group the rows by score, z_1 < ... < z_m, and let
   P_j = (rows, ones) among the first j groups. An isotonic fit is the slope of the
   greatest convex minorant of these points. A one added between z_i and z_{i+1} is as
   large as a value can be, so that it pools with the group above: equal to a one added
   to that group. It moves P_{i+1}, ..., P_m by (1, 1), or, what is the same for slopes,
   P_0, ..., P_i by (-1, -1). p_1 is the slope of the minorant where it passes from the
   moved points to those that stay: the bridge between two convex hulls.

Let i grow. The bridge leaves from where it left before unless the newly moved point,
Q = P_i - (1, 1), lies below it. Then it leaves from Q and lands on the hull of the
points that stay, at its old landing or after it: those before lie above the old bridge,
hence above the line from Q, which is lower there. (If the old landing is P_i itself,
the line from Q to it has slope 1, and no bridge is steeper.) So one stack, that hull
seen from the start of the bridge, is popped at most once a point. Coordinates are
integers and all comparisons exact.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import check_rows
from uqlib._core.kernels import compiled_kernels
from uqlib._typing import ArrayLike, FloatArray

IntArray = NDArray[np.int64]

# A group of equal scores costs Python about a microsecond.
_KERNEL_MIN_GROUPS = 2000


class VennAbersSteps(NamedTuple):
    """The step functions p_0 and p_1 of one calibration set, at their jumps alone.

    `p0` and `p1` hold one value more than `jumps0` and `jumps1` (increasing scores).
    p_0 is continuous from the right, p_1 from the left: a new score equal to a
    calibration score is above the jump of p_0 and below that of p_1.
    """

    jumps0: FloatArray
    p0: FloatArray
    jumps1: FloatArray
    p1: FloatArray


def venn_abers(
    score_cal: ArrayLike, y_cal: ArrayLike, score_test: ArrayLike
) -> FloatArray:
    r"""Inductive Venn-ABERS prediction: a pair of probabilities for every new score.

    .. math:: p_c(s) = g_{s,c}(s), \qquad g_{s,c} = \operatorname*{arg\,min}_{
              g \text{ non-decreasing}} \; (c - g(s))^2 +
              \sum_{i=1}^{n} (y_i - g(s_i))^2, \qquad c \in \{0, 1\} .

    All :math:`p_c` come from one pass over the sorted calibration scores,
    :math:`O(n \log n)`, and a binary search for each new score.

    Parameters
    ----------
    score_cal : array-like of shape (n_calibration,)
        Scores of the calibration rows, finite, larger = more likely 1. Any increasing
        transform of all scores gives the same result.
    y_cal : array-like of shape (n_calibration,)
        Their labels, 0 or 1 (or bool).
    score_test : array-like of shape (n_samples,)
        Scores of new rows, finite.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        :math:`p_0 \le p_1`, the probabilities of label 1. Without calibration rows
        0 and 1.

    Raises
    ------
    ValueError
        If an array is not 1-D, a score is not finite, a label is neither 0 nor 1, or
        there are not as many labels as calibration scores.

    See Also
    --------
    VennAbersCalibrator : Around a classifier, with one probability made of the two.

    Notes
    -----
    If the calibration rows and a new row with label Y are exchangeable, then
    :math:`P(Y = 1 \mid p_Y) = p_Y`: one of the two probabilities is perfectly
    calibrated, but which one is not known [1]_. They differ by little where there are
    many calibration rows.

    References
    ----------
    .. [1] V. Vovk, I. Petej, V. Fedorova, "Large-scale probabilistic predictors with
       and without guarantees of validity", arXiv:1511.00213.

    Examples
    --------
    >>> from uqlib.conformal import venn_abers
    >>> venn_abers([0.1, 0.4, 0.6, 0.8], [0, 1, 0, 1], [0.5, 0.9])
    array([[0.33333333, 0.66666667],
           [0.5       , 1.        ]])
    """
    steps = venn_abers_steps(score_cal, y_cal)
    return venn_abers_pairs(steps, _scores(score_test, "score_test"))


def venn_abers_steps(score_cal: ArrayLike, y_cal: ArrayLike) -> VennAbersSteps:
    """Return the step functions p_0 and p_1 of a calibration set.

    Parameters
    ----------
    score_cal : array-like of shape (n_calibration,)
        Scores, finite.
    y_cal : array-like of shape (n_calibration,)
        Labels, 0 or 1.

    Returns
    -------
    VennAbersSteps
        Jumps and values.
    """
    scores, labels = _scores(score_cal, "score_cal"), _labels(y_cal)
    if scores.size or labels.size:
        check_rows(scores.size, labels.size, "y_cal", "score_cal")
    z, rows, ones = _groups(scores, labels)
    rise, run = _bridges(rows, ones)
    p1 = rise / run
    rise, run = _bridges(rows[::-1], (rows - ones)[::-1])
    p0 = ((run - rise) / run)[::-1]  # in integers: 1 - rise / run would round twice
    jump0, jump1 = np.flatnonzero(np.diff(p0)), np.flatnonzero(np.diff(p1))
    return VennAbersSteps(
        z[jump0], np.append(p0[jump0], p0[-1]), z[jump1], np.append(p1[jump1], p1[-1])
    )


def venn_abers_pairs(steps: VennAbersSteps, score: FloatArray) -> FloatArray:
    """Look up p_0 and p_1 of new scores.

    Parameters
    ----------
    steps : VennAbersSteps
        Of the calibration set.
    score : ndarray of shape (n_samples,)
        Finite scores.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        p_0 and p_1.
    """
    pairs = np.empty((score.size, 2))
    pairs[:, 0] = steps.p0[np.searchsorted(steps.jumps0, score, side="right")]
    pairs[:, 1] = steps.p1[np.searchsorted(steps.jumps1, score, side="left")]
    return pairs


# How one probability is made of pairs (p_0, p_1)_k, one pair a fold. Against the better
# of the two, p loses in the k-th pair the regret l(p, c) - l(p_c, c) if the label is c.
# The minimax p makes the regrets of c = 0 and c = 1, summed over k, equal.
#
# log loss:    sum_k log((1 - p_0k) / (1 - p)) = sum_k log(p_1k / p), that is
#              logit p = mean_k (log p_1k - log(1 - p_0k)).
# Brier loss:  sum_k (p^2 - p_0k^2) = sum_k ((1 - p)^2 - (1 - p_1k)^2), that is
#              p = mean_k (p_1k + p_0k^2 / 2 - p_1k^2 / 2).
#
# With one pair: p_1 / (1 - p_0 + p_1), and p_1 + p_0^2 / 2 - p_1^2 / 2. Since p_0 < 1
# and p_1 > 0, no logarithm is infinite. Either way p is a mean over the folds of the p
# of each pair, on the logit or the plain scale, and so lies between the means of p_0
# and of p_1 on that scale.


def merge_pairs(pairs: FloatArray, merge: str) -> FloatArray:
    """Return the minimax probability of label 1 for a loss.

    Parameters
    ----------
    pairs : ndarray of shape (n_folds, n_samples, n_problems, 2)
        p_0 and p_1 of each fold.
    merge : {"log", "brier"}
        The loss.

    Returns
    -------
    ndarray of shape (n_samples, n_problems)
        The probabilities.
    """
    p0, p1 = pairs[..., 0], pairs[..., 1]
    if merge == "brier":
        # As p_1 - (p_1 - p_0) (p_1 + p_0) / 2 it rounds to no value outside the pair.
        return np.asarray(np.mean(p1 - (p1 - p0) * ((p1 + p0) / 2), axis=0))
    return _expit(np.mean(np.log(p1) - np.log1p(-p0), axis=0))


def mean_pairs(pairs: FloatArray, merge: str) -> FloatArray:
    """Return the means of p_0 and of p_1 over the folds, on the scale of the merge.

    Parameters
    ----------
    pairs : ndarray of shape (n_folds, n_samples, n_problems, 2)
        p_0 and p_1 of each fold.
    merge : {"log", "brier"}
        The loss: means of logits or of probabilities.

    Returns
    -------
    ndarray of shape (n_samples, n_problems, 2)
        Lower and upper; the pair itself if there is one fold.
    """
    if len(pairs) == 1:
        return np.asarray(pairs[0])
    if merge == "brier":
        return np.asarray(np.mean(pairs, axis=0))
    with np.errstate(divide="ignore"):  # p_0 = 0 and p_1 = 1 have infinite logits
        return _expit(np.mean(np.log(pairs) - np.log1p(-pairs), axis=0))


def _bridges(rows: IntArray, ones: IntArray) -> tuple[IntArray, IntArray]:
    """Return rise and run of p_1 at each of the m + 1 places between m groups."""
    compiled = compiled_kernels("venn_abers", rows.size, _KERNEL_MIN_GROUPS)
    if compiled is not None:
        rise, run = compiled.bridge_slopes(rows, ones)
        return rise, run
    return _bridges_reference(rows, ones)


def _bridges_reference(rows: IntArray, ones: IntArray) -> tuple[IntArray, IntArray]:
    x, y = np.cumsum([0, *rows]).tolist(), np.cumsum([0, *ones]).tolist()
    stack: list[tuple[int, int]] = []  # the hull from the last point to the start
    for point in zip(reversed(x[1:]), reversed(y[1:]), strict=True):
        _push(stack, point)
    _push(stack, (-1, -1))
    slopes = []
    for i in range(1, len(x)):
        (x0, y0), (x1, y1) = stack[-1], stack[-2]
        slopes.append((y1 - y0, x1 - x0))
        moved = (x[i] - 1, y[i] - 1)
        if (moved[1] - y0) * (x1 - x0) < (y1 - y0) * (moved[0] - x0):
            stack.pop()
            _push(stack, moved)
    slopes.append((1, 1))  # above all scores a one stays alone
    rise, run = np.array(slopes, dtype=np.int64).T
    return rise, run


def _push(stack: list[tuple[int, int]], start: tuple[int, int]) -> None:
    """Put a start to the left of a hull and drop what its bridge passes below."""
    x0, y0 = start
    while len(stack) > 1:
        (x1, y1), (x2, y2) = stack[-1], stack[-2]
        if (y2 - y0) * (x1 - x0) > (y1 - y0) * (x2 - x0):
            break
        stack.pop()
    stack.append(start)


def _groups(
    scores: FloatArray, labels: IntArray
) -> tuple[FloatArray, IntArray, IntArray]:
    """Return the distinct scores, and how many rows and how many ones have each."""
    order = np.argsort(scores)
    ordered = scores[order]
    is_new = np.ones(scores.size, dtype=bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(is_new)
    rows = np.diff(starts, append=scores.size).astype(np.int64)
    below = np.append(0, np.cumsum(labels[order]))
    return ordered[starts], rows, np.diff(below[np.append(starts, scores.size)])


def _expit(logit: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-logit)) without overflow, at infinite logits too."""
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit < 0, small, 1.0) / (1.0 + small))


def _scores(values: ArrayLike, name: str) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(
            f"{name} must be 1-D, got an array of shape {scores.shape}. Flatten a "
            "column with .ravel()."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{name} contains NaN or infinity. Pass finite scores: only their order "
            "matters, so that infinities may be clipped."
        )
    return scores


def _labels(y_cal: ArrayLike) -> IntArray:
    labels = np.asarray(y_cal)
    if labels.ndim != 1:
        raise ValueError(
            f"y_cal must be 1-D, got an array of shape {labels.shape}. Flatten a "
            "column with .ravel()."
        )
    wrong = [label for label in np.unique(labels).tolist() if label not in (0, 1)]
    if wrong:
        raise ValueError(
            f"y_cal must hold the labels 0 and 1 alone, got {wrong[0]!r} as well. Pass "
            "(y == positive_label), or use VennAbersCalibrator, which takes any labels."
        )
    return labels.astype(np.int64)
