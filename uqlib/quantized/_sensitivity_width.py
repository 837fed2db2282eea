r"""The width of conformal intervals as a smooth function of a model.

The width of one split-conformal interval jumps with the single score that is its
threshold: too noisy to rank roundings by. Here it is a mean over folds and levels. With
K folds F_1, ..., F_K, thresholds t_kp from the scores of the rows outside F_k at the
exact rank of the level p, and six levels around the level asked for,

    width = mean over k, p and the rows i of F_k of |C_kp(x_i)|,
    |C(x)| = 2 t                                       for points,
    |C(x)| = max(0, upper(x) - lower(x) + 2 t)         for quantiles,

with the scores |y - f(x)| of points and max(lower - y, y - upper) of quantiles.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import order_statistic, rank_from_fraction, rows_needed
from uqlib._typing import FloatArray

N_FOLDS = 5
N_LEVELS = 6


def smoothed_width(
    predictions: FloatArray, y: FloatArray, confidence_level: float
) -> float:
    """Return the mean width of cross-calibrated intervals around some levels.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples,) or (n_samples, n_columns)
        Points, one column for each column of y; or quantiles, of which the least and
        the largest of a row are the ends.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    confidence_level : float
        The middle of the levels.

    Returns
    -------
    float
        In the units of y.
    """
    lower, upper = _ends(predictions, y)
    scores = np.maximum(lower - y, y - upper)
    levels, fold = smoothing_levels(confidence_level), np.arange(len(y)) % N_FOLDS
    total = 0.0
    for k in range(N_FOLDS):
        held = fold == k
        inner = (upper - lower)[held]
        for level in levels:
            threshold = _thresholds(scores[~held], level)
            total += float(np.maximum(0.0, inner + 2 * threshold).sum())
    return total / (len(levels) * scores.size)


def smoothing_levels(confidence_level: float) -> list[Fraction]:
    """Return six levels, evenly spaced around one.

    Parameters
    ----------
    confidence_level : float
        Strictly between 0 and 1.

    Returns
    -------
    list of Fraction
        From half the way to the nearer of 0 and 1, to as far on the other side.
    """
    level = check_confidence_level(confidence_level)
    reach = min(level, 1 - level) / 2
    steps = range(1 - N_LEVELS, N_LEVELS, 2)
    return [level + reach * Fraction(step, N_LEVELS - 1) for step in steps]


def check_width_rows(n_samples: int, confidence_level: float) -> None:
    """Refuse fewer rows than give finite thresholds.

    Parameters
    ----------
    n_samples : int
        Number of rows.
    confidence_level : float
        The middle of the levels.
    """
    needed = rows_needed(smoothing_levels(confidence_level)[-1])
    outside = n_samples - -(-n_samples // N_FOLDS)
    if outside < needed:
        raise ValueError(
            "criterion='interval_width' needs finite thresholds from the rows outside "
            f"each of {N_FOLDS} folds: at least {needed} rows at confidence_level="
            f"{confidence_level:g}, got {outside} of {n_samples}. Pass more rows, or "
            "use criterion='interval_drift', which needs no y."
        )


def _ends(predictions: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    if predictions.ndim == 2 and predictions.shape[1] > 1 and y.ndim == 1:
        return predictions.min(axis=1), predictions.max(axis=1)
    if predictions.size != y.size:
        raise ValueError(
            f"criterion='interval_width' needs one target for each prediction, got y "
            f"of shape {y.shape} for predictions of shape {predictions.shape}."
        )
    points = predictions.reshape(y.shape)
    return points, points


def _thresholds(scores: FloatArray, level: Fraction) -> NDArray[np.float64]:
    """Return one threshold for each column of the scores."""
    rank = rank_from_fraction(len(scores), level)
    columns = scores.reshape(len(scores), -1).T
    found = [order_statistic(column, rank) for column in columns]
    return np.array(found if scores.ndim == 2 else found[0])
