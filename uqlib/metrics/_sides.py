"""Coverage of intervals above and below the prediction."""

from typing import Any, NamedTuple

import numpy as np

from uqlib._core.checks import check_rows, check_sample_weight, check_target
from uqlib._core.coverage_checks import check_interval
from uqlib._core.levels import check_confidence_level
from uqlib._core.losses import covered, weighted_mean
from uqlib._typing import ArrayLike, BoolArray, FloatArray


class SideCoverage(NamedTuple):
    """Coverage above and below the prediction, as :func:`side_coverage` returns it.

    Parameters
    ----------
    up, down : float or None
        Coverage of the targets above the prediction, and of all others; None if there
        are none on that side.
    share_up : float
        Share of targets above the prediction.
    n_up, n_down : int
        Numbers of rows on the sides.

    Examples
    --------
    >>> from uqlib.metrics import side_coverage
    >>> side_coverage([1.0, 2.0], [[0.0, 3.0], [0.0, 1.0]], [1.0, 0.5]).share_up
    0.5
    """

    up: float | None
    down: float | None
    share_up: float
    n_up: int
    n_down: int


def side_coverage(
    y_true: ArrayLike,
    y_interval: ArrayLike,
    y_pred: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> SideCoverage:
    r"""Coverage of targets above and below the prediction, each on its own.

    .. math:: \mathrm{PICP}^+ = \Pr(l \le y \le u \mid y > \hat y), \qquad
              \mathrm{PICP}^- = \Pr(l \le y \le u \mid y \le \hat y) .

    A target equal to its prediction is below it.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper. Infinite bounds are legal.
    y_pred : array-like of shape (n_samples,)
        Point predictions, finite. They need not lie in the interval.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight 0 are as if they were not there.

    Returns
    -------
    SideCoverage
        Named fields: ``up`` and ``down``, the coverages, None on a side without rows;
        ``share_up``, the share of targets above the prediction; ``n_up`` and
        ``n_down``, the numbers of rows.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true or y_pred is not finite, or an interval contains
        NaN or has lower > upper.

    See Also
    --------
    side_calibration_error : One number.
    coverage_score : Coverage of all rows.

    Notes
    -----
    The sides weighted by their shares make the coverage of all rows,
    :math:`\pi \, \mathrm{PICP}^+ + (1 - \pi) \, \mathrm{PICP}^-` with
    :math:`\pi` = ``share_up``. Intervals symmetric about the prediction cover skewed
    errors unequally even where their coverage of all rows is right. No conformal method
    guarantees the coverage of a side, since the side depends on the target.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in Deep
       Learning", arXiv:2509.13262.

    Examples
    --------
    >>> from uqlib.metrics import side_coverage
    >>> y_interval = [[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]
    >>> result = side_coverage([0.5, 2.0, -0.5], y_interval, [0.0, 0.0, 0.0])
    >>> result.up, result.down, result.n_up
    (0.5, 1.0, 2)
    """
    target = check_target(y_true)
    interval = check_interval(y_interval, target.size)
    point = check_target(y_pred, name="y_pred")
    check_rows(target.size, point.size, "y_pred", "y_true")
    weight = check_sample_weight(sample_weight, target.size)
    inside, up = covered(target, interval), target > point
    share_up = weighted_mean(up, weight)
    kept = np.ones(up.size, dtype=bool) if weight is None else weight > 0
    return SideCoverage(
        _mean_on(inside, up & kept, weight),
        _mean_on(inside, ~up & kept, weight),
        share_up,
        int(np.sum(up & kept)),
        int(np.sum(~up & kept)),
    )


def _mean_on(
    inside: BoolArray, side: BoolArray, weight: FloatArray | None
) -> float | None:
    if not side.any():
        return None
    return weighted_mean(inside[side], None if weight is None else weight[side])


def side_calibration_error(
    y_true: ArrayLike,
    y_interval: ArrayLike,
    y_pred: ArrayLike,
    confidence_level: float,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Gap between the coverage of both sides and the level (SPIECE).

    .. math:: \mathrm{SPIECE} = |\mathrm{PICP}^+ - p| + |\mathrm{PICP}^- - p|

    with the coverages of targets above the prediction and of all others,
    :func:`side_coverage`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper. Infinite bounds are legal.
    y_pred : array-like of shape (n_samples,)
        Point predictions, finite.
    confidence_level : float
        Coverage p that was asked for, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight 0 are as if they were not there.

    Returns
    -------
    float
        Between 0 and 2; 0 is best. A side without rows has no error.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true or y_pred is not finite, an interval contains
        NaN or has lower > upper, or the level is not in (0, 1).

    See Also
    --------
    side_coverage : The two coverages.

    Notes
    -----
    Both sides count the same, whatever their numbers of rows; the gap of the coverage
    of all rows is at most the larger of the two. Even perfect intervals have a positive
    error in a sample.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in Deep
       Learning", arXiv:2509.13262.

    Examples
    --------
    >>> from uqlib.metrics import side_calibration_error
    >>> y_interval = [[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]
    >>> side_calibration_error([0.5, 2.0, -0.5], y_interval, [0.0] * 3, 0.75)
    0.5
    """
    level = float(check_confidence_level(confidence_level))
    sides: Any = side_coverage(y_true, y_interval, y_pred, sample_weight=sample_weight)
    return sum(abs(c - level) for c in (sides.up, sides.down) if c is not None)
