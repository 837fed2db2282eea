"""Binned calibration of class probabilities: reliability diagrams and their errors."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.calibration_error import check_n_bins, gap_norm
from uqlib._core.calibration_events import (
    Events,
    events_of_kind,
    events_of_label,
)
from uqlib._typing import ArrayLike, FloatArray


class CalibrationBins(NamedTuple):
    """Ranges of probability that hold rows, in increasing order.

    Parameters
    ----------
    confidence : ndarray of shape (n_used_bins,)
        Mean probability of the rows in each range.
    accuracy : ndarray of shape (n_used_bins,)
        Share of those rows in which the event came about.
    weight : ndarray of shape (n_used_bins,)
        Number of those rows, or the sum of their weights.
    edges : ndarray of shape (n_used_bins, 2)
        Lower and upper end of each range; the upper belongs to the last range alone.

    See Also
    --------
    calibration_bins : Makes it.

    Examples
    --------
    >>> from uqlib.metrics import calibration_bins
    >>> bins = calibration_bins([0, 1, 1], [0.2, 0.6, 0.8], n_bins=2, pos_label=1)
    >>> bins.accuracy, bins.weight
    (array([0., 1.]), array([1., 2.]))
    """

    confidence: FloatArray
    accuracy: FloatArray
    weight: FloatArray
    edges: FloatArray


def calibration_bins(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
    pos_label: Any = None,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> CalibrationBins:
    r"""Probabilities against frequencies, range by range: a reliability diagram.

    .. math:: \mathrm{conf}_r = \frac{1}{|B_r|} \sum_{i \in B_r} p_i, \qquad
              \mathrm{acc}_r = \frac{1}{|B_r|} \sum_{i \in B_r} 1\{E_i\},

    where :math:`p_i` is the probability of the event :math:`E_i`, that the most
    probable label of row i is right or that the label is `pos_label`, and :math:`B_r`
    are the rows whose :math:`p_i` lies in range r.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probability of every class, or for two classes that of the second alone.
    n_bins : int, default=15
        Number R of ranges, at least 1.
    strategy : {"uniform", "quantile"}, default="uniform"
        Ranges of equal width, or of equal weight as nearly as ties allow.
    pos_label : object, default=None
        Label whose probability counts. None takes the top label of each row, also for
        1-D probabilities, which then count as the larger of p and 1 - p.
    labels : array-like of shape (n_classes,), default=None
        The labels, one for each column and in their order, as `classes_` of a
        classifier; for 1-D probabilities both. None takes the sorted labels of
        `y_true`, which must then be all there are.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    CalibrationBins
        A named tuple of `confidence`, `accuracy` and `weight` (number of rows, or sum
        of weights), each of shape (n_used_bins,), and `edges` of shape
        (n_used_bins, 2). Ranges without rows are left out.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a probability is not in [0, 1] or a
        row does not sum to 1 within 0.001, a label is not among `labels`, `labels` are
        not as many as the columns or not distinct, `pos_label` is not among them,
        `strategy` is unknown, or `n_bins` is below 1.
    TypeError
        If `n_bins` is not an integer.

    See Also
    --------
    expected_calibration_error : The gaps, as a number.
    sklearn.calibration.calibration_curve : Ranges that are open below.

    Notes
    -----
    Ranges of equal width are :math:`[(r - 1) / R, r / R)`, the last one closed. With
    "quantile" rows of equal probability stay together: they go to the range in which
    the middle of their weight lies when all weight is laid out in the order of the
    probabilities and cut into R equal parts. A range then begins at its smallest
    probability. Where labels tie for the top, the outcome is the chance that one drawn
    among them is right. Nothing depends on the order of the rows.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern
       Neural Networks", arXiv:1706.04599.

    Examples
    --------
    >>> from uqlib.metrics import calibration_bins
    >>> bins = calibration_bins(
    ...     [0, 1, 0, 1], [0.25, 0.25, 0.75, 1.0], n_bins=2, pos_label=1
    ... )
    >>> bins.confidence, bins.accuracy
    (array([0.25 , 0.875]), array([0.5, 0.5]))
    """
    n_bins, locate = check_n_bins(n_bins), _check_strategy(strategy)
    events = events_of_label(y_true, y_proba, pos_label, labels, sample_weight)
    return _fill_bins(events, n_bins, locate)


def expected_calibration_error(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    kind: str = "top_label",
    n_bins: int = 15,
    norm: str = "l1",
    strategy: str = "uniform",
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Mean gap between probabilities and frequencies over ranges of probability.

    .. math:: \mathrm{ECE} = \sum_{r=1}^{R} \frac{|B_r|}{n}
              \left| \mathrm{acc}_r - \mathrm{conf}_r \right|,

    with the ranges :math:`B_r`, frequencies and mean probabilities of
    :func:`calibration_bins`. With `kind="class_wise"` it is the mean over the K
    classes. `norm` takes the root of the mean of the squared gaps instead, or the
    largest gap: over ranges, each of weight :math:`|B_r| / n`, and classes, each of
    weight 1 / K.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probability of every class, or for two classes that of the second alone.
    kind : {"top_label", "class_wise"}, default="top_label"
        "top_label" compares the probability of the most probable label with how often
        it is right, for 1-D probabilities the larger of p and 1 - p. "class_wise"
        compares the probability of each class with its frequency; 1-D probabilities
        then stand for the second class alone (K = 1), the error of a binary forecast.
    n_bins : int, default=15
        Number R of ranges, at least 1.
    norm : {"l1", "l2", "max"}, default="l1"
        Mean of the gaps (expected calibration error), root of the mean of their
        squares, or the largest (maximum calibration error).
    strategy : {"uniform", "quantile"}, default="uniform"
        Ranges of equal width, or of equal weight as nearly as ties allow.
    labels : array-like of shape (n_classes,), default=None
        The labels, one for each column and in their order, as `classes_` of a
        classifier; for 1-D probabilities both. None takes the sorted labels of
        `y_true`, which must then be all there are.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; 0 is best.

    Raises
    ------
    ValueError
        If `kind` or `norm` is unknown, or for the reasons of :func:`calibration_bins`.
    TypeError
        If `n_bins` is not an integer.

    See Also
    --------
    calibration_bins : The ranges themselves.
    smooth_calibration_error : Without ranges.
    adaptive_calibration_error : Ranges with exactly equal numbers of rows.

    Notes
    -----
    The value depends on the ranges: a finer partition of the same ranges has a larger
    error, and even perfect probabilities have a positive one in a sample, which grows
    with the number of ranges. Compare models by the same ranges and about as many rows.
    It does not reward sharpness, nor a right answer: rank models by a proper score and
    look at this.

    Other definitions bear the same name. Ranges open below move the rows whose
    probability is an edge. A range of its own for the probability 1 splits the last
    range. An error within each predicted label, averaged over the labels, is another
    quantity.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern
       Neural Networks", arXiv:1706.04599.
    .. [2] A. Kumar, P. Liang, T. Ma, "Verified Uncertainty Calibration",
       arXiv:1909.10155.

    Examples
    --------
    >>> from uqlib.metrics import expected_calibration_error
    >>> y_true, y_proba = [0, 1, 0, 1], [0.25, 0.25, 0.75, 1.0]
    >>> expected_calibration_error(y_true, y_proba, kind="class_wise", n_bins=2)
    0.3125
    """
    n_bins, locate = check_n_bins(n_bins), _check_strategy(strategy)
    problems = events_of_kind(y_true, y_proba, kind, labels, sample_weight)
    bins = [_fill_bins(events, n_bins, locate) for events in problems]
    gaps = np.concatenate([b.accuracy - b.confidence for b in bins])
    # All classes have the same rows, hence the same weight.
    return gap_norm(gaps, np.concatenate([b.weight for b in bins]), norm)


def _fill_bins(events: Events, n_bins: int, locate: Any) -> CalibrationBins:
    position, edges = locate(events, n_bins)
    _, position = np.unique(position, return_inverse=True)
    weight = np.bincount(position, events.weight)
    return CalibrationBins(
        np.bincount(position, events.weight * events.proba) / weight,
        np.bincount(position, events.weight * events.outcome) / weight,
        weight,
        edges,
    )


def _uniform(events: Events, n_bins: int) -> tuple[NDArray[np.intp], FloatArray]:
    # k / n_bins, rounded once: the probability 0.3 is the edge 3 / 10.
    edges = np.arange(n_bins + 1) / n_bins
    position = np.searchsorted(edges, events.proba, side="right") - 1
    position = np.minimum(position, n_bins - 1)
    used = np.unique(position)
    return position, np.column_stack([edges[used], edges[used + 1]])


def _quantile(events: Events, n_bins: int) -> tuple[NDArray[np.intp], FloatArray]:
    # Value j takes the weights from C_{j-1} to C_j of the total W. Its middle, and so
    # the range floor(R (C_{j-1} + C_j) / (2 W)), is the same for weights and for
    # repeated rows, in any order. The allowance keeps middles that lie on a border
    # there when weights are rounded.
    values, inverse = np.unique(events.proba, return_inverse=True)
    share = np.bincount(inverse, events.weight / events.weight.sum())
    middle = np.cumsum(share) - share / 2
    position = np.minimum((middle * n_bins + 1e-9).astype(np.intp), n_bins - 1)
    starts = np.flatnonzero(np.diff(position, prepend=-1))
    ends = np.append(values[starts[1:]], values[-1])
    return position[inverse], np.column_stack([values[starts], ends])


_STRATEGIES = {"uniform": _uniform, "quantile": _quantile}


def _check_strategy(strategy: Any) -> Any:
    if isinstance(strategy, str) and strategy in _STRATEGIES:
        return _STRATEGIES[strategy]
    raise ValueError(
        f"strategy={strategy!r} must be 'uniform' (ranges of equal width) or "
        "'quantile' (of equal weight)."
    )
