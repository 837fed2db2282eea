r"""Intervals that survive a change of the model, without labels.

Symbols, for one row: f the model before and f_q after the change (here: quantization),
d = f_q - f its drift. For intervals with the ends l - t and u + t, where (l, u) is
(f, f) for a point prediction, put

    e_lower = l_q - l ,    e_upper = u - u_q ,    e = max(e_lower, e_upper) :

how far an end has moved inwards, which is |d| for a point. If the target was inside at
the threshold t, and e <= D, then

    y >= l - t = l_q - e_lower - t >= l_q - (t + D) ,     y <= u_q + (t + D) .

So y is outside [l_q - (t + D), u_q + (t + D)] only if its score exceeds t or its e
exceeds D. Conformal thresholds t at 1 - alpha_1 and D at 1 - alpha_2 make that at most
alpha_1 + alpha_2. Nothing is said about how the two events depend on each other, so
both thresholds may even come from the same rows. With a threshold for each end, the
same is said of each end, at half of alpha_1 and half of alpha_2.
"""

from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.checks import as_1d, check_no_nan
from uqlib._core.cross_intervals import one_sided
from uqlib._core.drift import check_drift
from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._core.outward import lower_end, next_larger, outward_interval, upper_end
from uqlib._core.ranks import order_statistic, rank_from_fraction, rows_needed
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


class DriftCertificate(NamedTuple):
    """Offsets that keep a stated coverage after a change of the model.

    As :func:`drift_certificate` returns it.

    Parameters
    ----------
    offsets : ndarray of shape (2,)
        How far the lower and the upper end lie outside the new prediction: the sum of
        the other two, rounded up.
    score_offsets : ndarray of shape (2,)
        The part that the scores of the old model ask for.
    drift_offsets : ndarray of shape (2,)
        The part that the drift asks for.
    score_level, drift_level : Fraction
        Levels of the two parts for both ends together. What they leave out adds up to
        one minus the confidence level, exactly.
    n_scores, n_drift : int
        Numbers of labelled rows and of rows without labels.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantized import drift_certificate
    >>> found = drift_certificate(np.arange(200) / 200, np.arange(200) / 2000, 0.9)
    >>> found.score_level, found.drift_level
    (Fraction(91, 100), Fraction(99, 100))
    >>> np.round(found.interval([3.0]), 6)
    array([[1.991, 4.009]])
    """

    offsets: FloatArray
    score_offsets: FloatArray
    drift_offsets: FloatArray
    score_level: Fraction
    drift_level: Fraction
    n_scores: int
    n_drift: int

    def interval(self, y_pred: ArrayLike) -> FloatArray:
        """Return intervals around predictions of the new model.

        Parameters
        ----------
        y_pred : array-like of shape (n_samples,) or (n_samples, 2)
            Points, or lower and upper quantiles, of the changed model.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, rounded outwards. Ends that cross are exchanged.
        """
        ends = _as_ends(y_pred, "y_pred")
        lower, upper = self.offsets
        return outward_interval(
            lower_end(ends[:, 0], -lower), upper_end(ends[:, 1], upper)
        )


def drift_certificate(
    scores: ArrayLike,
    drift: ArrayLike,
    confidence_level: float = 0.9,
    *,
    drift_share: float = 0.1,
) -> DriftCertificate:
    r"""Offsets that keep coverage after quantization, without new labels.

    With :math:`\alpha_1 + \alpha_2 = 1 - p`, the conformal threshold t of the float
    model's n scores at :math:`1 - \alpha_1`, and that of the m absolute drifts
    :math:`|f_q - f|` at :math:`1 - \alpha_2`, called D,

    .. math:: C(x) = [f_q(x) - (t + D), \; f_q(x) + (t + D)] .

    Parameters
    ----------
    scores : array-like of shape (n_scores,) or (n_scores, 2)
        Scores of the float model on labelled calibration rows, in units of the
        target: :math:`|y - f|`; for quantiles :math:`\max(l - y, y - u)`; in two
        columns :math:`l - y` and :math:`y - u`, for a threshold of each end. Those
        that a fitted calibrator keeps in ``scores_``. Infinities are legal.
    drift : array-like of shape (n_drift,) or (n_drift, 2)
        Prediction of the quantized model minus that of the float model on rows without
        labels: of points, or of the lower and the upper quantile.
    confidence_level : float, default=0.9
        Coverage asked for, p, strictly between 0 and 1.
    drift_share : float, default=0.1
        The :math:`\alpha_2 / (1 - p)`, strictly between 0 and 1.

    Returns
    -------
    DriftCertificate
        The offsets and where they come from; its ``interval(y_pred)`` puts them around
        predictions of the quantized model.

    Raises
    ------
    ValueError
        If a shape is not one of these, an array contains NaN, or a level is not
        strictly between 0 and 1.
    TypeError
        If a level is not a number.

    Warns
    -----
    InfiniteIntervalWarning
        If there are too few rows for a level, with the number needed.

    See Also
    --------
    certify_drift : The same from the two models.
    coverage_report : Recalibration, once labels have arrived.

    Notes
    -----
    .. rubric:: Guarantee

    Theorem: :math:`P(y \in C(x)) \ge p`; with two columns of scores, each end misses
    with at most :math:`(1 - p) / 2`.
    Assumptions: given both models, the new row is exchangeable with the labelled rows,
    and with the rows of the drift; so neither were used to train or to quantize. They
    may be the same rows, and need not be independent of each other.
    Level: exactly `confidence_level`, by the union bound.

    For quantiles only what moves inwards counts: D belongs to
    :math:`\max(l_q - l, \; u - u_q)`. It is negative where most intervals grew.

    The price is width: the two errors are added as if they always met. Measured with
    networks on noisy nonlinear data at 90 %, coverage was 0.95 to 0.999; intervals were
    1.2 to 1.9 times as wide as those of the float model at 4 bits and 2 to 5 times at 2
    bits, where recalibration took 1.0 to 1.1 and 1.05 to 2.7. So it is for the time
    until labels arrive, and then `coverage_report`.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantized import drift_certificate
    >>> scores, drift = np.arange(1.0, 100), np.linspace(-1, 1, 999)
    >>> found = drift_certificate(scores, drift, 0.8, drift_share=0.25)
    >>> found.score_offsets, found.drift_offsets
    (array([85., 85.]), array([0.95190381, 0.95190381]))
    """
    strange = _check_scores(scores)
    inward = _inward(check_drift(drift))
    level = check_confidence_level(confidence_level)
    score_level, drift_level = split_levels(level, drift_share)
    if strange.ndim == 1:
        inward = inward.max(axis=1)
    _warn_if_infinite(
        ("labelled rows of scores", strange, score_level),
        ("rows of drift without labels", inward, drift_level),
    )
    t, moved = _thresholds(strange, score_level), _thresholds(inward, drift_level)
    # |y - f_q| <= |y - f| + |f - f_q| holds for numbers; a difference that is rounded
    # to t is below the float after t, and so is their sum below its own.
    with np.errstate(invalid="ignore", over="ignore"):
        total = next_larger(next_larger(t) + next_larger(moved))
    offsets = np.where(np.isnan(total), np.inf, total)
    return DriftCertificate(
        offsets, t, moved, score_level, drift_level, len(strange), len(inward)
    )


def split_levels(level: Fraction, drift_share: Any) -> tuple[Fraction, Fraction]:
    r"""Return the levels :math:`1 - \alpha_1` and :math:`1 - \alpha_2`, exactly.

    Parameters
    ----------
    level : Fraction
        The level of both together, :math:`1 - \alpha_1 - \alpha_2`.
    drift_share : float
        The :math:`\alpha_2 / (\alpha_1 + \alpha_2)`, strictly between 0 and 1.

    Returns
    -------
    score_level, drift_level : Fraction
        Of the scores and of the drift.
    """
    if isinstance(drift_share, bool) or not isinstance(drift_share, Real):
        raise TypeError(
            "drift_share must be a real number strictly between 0 and 1, got "
            f"{drift_share!r} of type {type(drift_share).__name__}."
        )
    if not 0 < float(drift_share) < 1:
        raise ValueError(
            f"drift_share must lie strictly between 0 and 1, got {drift_share!r}: it "
            "is the part of the misses that is spent on the drift. Pass 0.1."
        )
    missed = exact_level(drift_share) * (1 - level)
    return level + missed, 1 - missed


def _inward(drift: FloatArray) -> FloatArray:
    """Return how far the lower and the upper end moved inwards, (n_drift, 2)."""
    ends = np.column_stack([drift, drift]) if drift.ndim == 1 else drift
    return np.asarray(ends * np.array([1.0, -1.0]))


def _thresholds(values: FloatArray, level: Fraction) -> FloatArray:
    """Return the thresholds of the two ends."""
    rank = rank_from_fraction(len(values), one_sided(values, level))
    columns = [values, values] if values.ndim == 1 else list(values.T)
    return np.array([order_statistic(column, rank) for column in columns])


def _warn_if_infinite(*parts: tuple[str, FloatArray, Fraction]) -> None:
    """Warn once of all parts with too few rows for their level."""
    short = []
    for name, values, level in parts:
        each = one_sided(values, level)
        if len(values) < rows_needed(each):
            short.append(
                f"{len(values)} {name} are too few for a finite bound at level "
                f"{float(each):g}: at least {rows_needed(each)} are needed."
            )
    if short:
        warn_user(
            " ".join(short) + " The bound is infinite; pass more rows, ask for a lower "
            "level or change drift_share.",
            InfiniteIntervalWarning,
        )


def _check_scores(scores: ArrayLike) -> FloatArray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2:
        return as_1d(values, "scores")
    if values.shape[1] != 2:
        raise ValueError(
            "scores must have shape (n_scores,) or (n_scores, 2), got shape "
            f"{values.shape}. Flatten one column with scores.ravel()."
        )
    check_no_nan(values, "scores")
    return values


def _as_ends(y_pred: ArrayLike, name: str) -> FloatArray:
    values = np.asarray(y_pred, dtype=np.float64)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2):
        raise ValueError(
            f"{name} must have shape (n_samples,) or (n_samples, 2), got shape "
            f"{values.shape}."
        )
    check_no_nan(values, name)
    return np.column_stack([values, values]) if values.ndim == 1 else values
