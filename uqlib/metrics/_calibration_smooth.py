"""Calibration error by smoothing residuals with a reflected Gaussian kernel."""

from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import brentq

from uqlib._core.calibration_events import Events, events_of_kind
from uqlib._typing import ArrayLike, FloatArray

# The smallest bandwidth. Errors below it are smaller than a sample can tell.
_MIN_BANDWIDTH = 2.0**-10
_SMALLEST_TERM = 1e-18
_NOISE = 1e-13
# Points at which the sign is looked up, for each term of the series.
_OVERSAMPLING = 16


def smooth_calibration_error(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    kind: str = "top_label",
    bandwidth: float | None = None,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Calibration error by kernel smoothing, which chooses its own bandwidth.

    .. math:: \mathrm{smECE}_\sigma = \int_0^1 \left| \frac{1}{n} \sum_{i=1}^{n}
              (1\{E_i\} - p_i) \, K_\sigma(t, p_i) \right| dt, \qquad
              \mathrm{smECE} = \mathrm{smECE}_{\sigma^*}, \quad
              \mathrm{smECE}_{\sigma^*} = \sigma^*,

    where :math:`p_i` is the probability of the event :math:`E_i` and
    :math:`K_\sigma(\cdot, p)` the density of p plus Gaussian noise of standard
    deviation :math:`\sigma`, reflected at 0 and 1. It does not jump when a probability
    moves a little, as errors over ranges do.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probability of every class, or for two classes that of the second alone.
    kind : {"top_label", "class_wise"}, default="top_label"
        "top_label" compares the probability of the most probable label with how often
        it is right, for 1-D probabilities the larger of p and 1 - p. "class_wise" is
        the mean over the classes, each with a bandwidth of its own; 1-D probabilities
        then stand for the second class alone, the error of a binary forecast.
    bandwidth : float, default=None
        A fixed :math:`\sigma`, at least 0.001. None solves for :math:`\sigma^*`.
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
        If shapes do not agree, there are no rows, a probability is not in [0, 1] or a
        row does not sum to 1 within 0.001, a label is not among `labels`, `labels` are
        not as many as the columns or not distinct, `kind` is unknown, or `bandwidth` is
        below 0.001 or not finite.
    TypeError
        If `bandwidth` is not a number.

    See Also
    --------
    expected_calibration_error : Over ranges of probability.

    Notes
    -----
    The error falls as the bandwidth grows, so that the solution :math:`\sigma^*` is the
    only one. Where it is below :math:`2^{-10}` the value is that
    at :math:`\sigma = 2^{-10}`, itself below this. The error is at least the absolute
    difference of the mean probability and the frequency, at every bandwidth. Labels
    that tie for the top count as in :func:`calibration_bins`.

    Even perfect probabilities have a positive error in a sample, of order
    :math:`n^{-1/3}`. Time is proportional to :math:`n / \sigma^*`.

    References
    ----------
    .. [1] J. Błasiok, P. Nakkiran, "Smooth ECE: Principled Reliability Diagrams via
       Kernel Smoothing", arXiv:2309.12236.

    Examples
    --------
    >>> from uqlib.metrics import smooth_calibration_error
    >>> y_true, y_proba = [0, 1, 0, 1], [0.25, 0.25, 0.75, 1.0]
    >>> round(smooth_calibration_error(y_true, y_proba, kind="class_wise"), 4)
    0.2289
    """
    width = None if bandwidth is None else _check_bandwidth(bandwidth)
    problems = events_of_kind(y_true, y_proba, kind, labels, sample_weight)
    return float(np.mean([_smooth_error(events, width) for events in problems]))


def _smooth_error(events: Events, bandwidth: float | None) -> float:
    smoothed = _SmoothedResidual(events)
    if bandwidth is not None:
        return smoothed.error(bandwidth)
    width = 1.0
    while smoothed.error(width) < width:
        if width <= _MIN_BANDWIDTH:
            return smoothed.error(width)
        width /= 2
    # error(s) - s falls: it is not negative at width, and negative at twice that.
    gap = lambda s: smoothed.error(s) - s
    return smoothed.error(brentq(gap, width, 2 * width, xtol=1e-13, rtol=1e-13))


# The reflected Gaussian kernel is the heat kernel of [0, 1] with insulated ends, at
# time s^2 / 2. In the eigenfunctions cos(k pi t) of that problem
#
#   K_s(t, p) = 1 + 2 sum_{k >= 1} exp(-(s pi k)^2 / 2) cos(k pi t) cos(k pi p),
#
# so that with the moments m_k = sum_i w_i r_i cos(k pi p_i) of the residuals r_i and
# weights w_i of sum 1, which no bandwidth enters,
#
#   S(t) = m_0 + 2 sum_k exp(-(s pi k)^2 / 2) m_k cos(k pi t),
#   A(t) = m_0 t + 2 sum_k exp(-(s pi k)^2 / 2) m_k sin(k pi t) / (k pi),   A' = S.
#
# About 3 / s terms matter. S is found on a fine grid by FFT, its zeros z_1, z_2, ...
# by the secant through two grid points and one step of Newton's method, and
#
#   int |S| = |A(z_1) - A(0)| + |A(z_2) - A(z_1)| + ... + |A(1) - A(z_m)|
#
# exactly, since S has one sign between them. K_s is a Markov kernel and K_{s'} is K_s
# smoothed once more for s' > s, which cannot increase int |S|: the error falls in s.


class _SmoothedResidual:
    """The function S of one set of events, for any bandwidth."""

    def __init__(self, events: Events):
        proba, inverse = np.unique(events.proba, return_inverse=True)
        share = events.weight / events.weight.sum()
        residual = np.bincount(inverse, share * (events.outcome - events.proba))
        self._step = np.exp(1j * np.pi * proba)
        # w_i r_i exp(i pi k p_i) for the next k.
        self._powers = residual.astype(np.complex128)
        self._moments: list[float] = []

    def error(self, bandwidth: float) -> float:
        """Return the integral of |S|."""
        amplitude, frequency = self._series(bandwidth)
        n_cells = _OVERSAMPLING * amplitude.size
        values = _cosine_series(amplitude, n_cells)
        zeros = _secant_zeros(values) / n_cells
        zeros = _newton_step(amplitude, frequency, zeros, 0.5 / n_cells)
        ends = np.concatenate([[0.0], zeros, [1.0]])
        return float(np.abs(np.diff(_antiderivative(amplitude, frequency, ends))).sum())

    def _series(self, bandwidth: float) -> tuple[FloatArray, FloatArray]:
        reach = np.sqrt(-2 * np.log(_SMALLEST_TERM)) / (np.pi * bandwidth)
        frequency = np.pi * np.arange(int(reach) + 2)
        while len(self._moments) < frequency.size:
            self._moments.append(float(self._powers.real.sum()))
            self._powers *= self._step
        moments = np.array(self._moments[: frequency.size])
        amplitude = 2 * np.exp(-((bandwidth * frequency) ** 2) / 2) * moments
        amplitude[0] = moments[0]
        return amplitude, frequency


def _cosine_series(amplitude: FloatArray, n_cells: int) -> FloatArray:
    """Return sum_k amplitude_k cos(k pi t) at t = 0, 1 / n_cells, ..., 1."""
    spectrum = n_cells * amplitude
    spectrum[0] *= 2
    return np.fft.irfft(spectrum, 2 * n_cells)[: n_cells + 1]


def _secant_zeros(values: FloatArray) -> FloatArray:
    """Return where the values change their sign, in steps of the grid."""
    # Far from all probabilities S is rounding noise, whose signs mean nothing.
    size = np.abs(values)
    kept = np.flatnonzero(size > _NOISE * size.max())
    changed = np.signbit(values[kept[1:]]) != np.signbit(values[kept[:-1]])
    left, right = kept[:-1][changed], kept[1:][changed]
    return left + (right - left) * size[left] / (size[left] + size[right])


def _newton_step(
    amplitude: FloatArray, frequency: FloatArray, t: FloatArray, most: float
) -> FloatArray:
    phase = np.outer(t, frequency)
    value = np.cos(phase) @ amplitude
    slope = -np.sin(phase) @ (frequency * amplitude)
    step = np.divide(value, slope, out=np.zeros_like(t), where=slope != 0)
    moved = np.clip(t - np.clip(step, -most, most), 0.0, 1.0)
    return np.sort(moved)


def _antiderivative(
    amplitude: FloatArray, frequency: FloatArray, t: FloatArray
) -> FloatArray:
    waves = np.sin(np.outer(t, frequency[1:])) @ (amplitude[1:] / frequency[1:])
    return amplitude[0] * t + waves


def _check_bandwidth(bandwidth: Any) -> float:
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, Real):
        raise TypeError(f"bandwidth must be a number or None, got {bandwidth!r}.")
    if not 0.001 <= bandwidth < np.inf:
        raise ValueError(
            f"bandwidth must be finite and at least 0.001, got {bandwidth!r}. None "
            "finds the one that suits the data."
        )
    return float(bandwidth)
