r"""Residuals on the two sides of a prediction, and how they fit together.

A prediction v splits the targets of a row in two. With r = y - v,

    m  = E|r|             p  = P(r > 0)
    m+ = E[r | r > 0]     u+ = E max(r, 0)  = p m+
    m- = E[-r | r <= 0]   u- = E max(-r, 0) = (1 - p) m-
    b  = E r              H  = 2 m+ m- / (m+ + m-),

m = u+ + u- and b = u+ - u-. An exact zero is "down": the sides must be a partition, or
p m+ + (1 - p) m- falls short of m wherever zeros have mass. Then

    m (m+ + m-) = p m+^2 + (1 - p) m-^2 + m+ m-,
    2 m+ m- - m (m+ + m-) = m+ m- - p m+^2 - (1 - p) m-^2 = -b (m+ - m-)

for every law, so the self-consistency discrepancy (SDS), the absolute value of that
line, is |b| |m+ - m-|. It vanishes with the bias, but also where the sides are equal.

It is computed as |H - m| (m+ + m-) with H = l (g / h), where l is the smaller of m+
and m-, g the greater and h = (l + g) / 2: the ratio is between 1 and 2, so no product
of two large numbers is ever subtracted from another.
"""

from typing import Any, NamedTuple

import numpy as np

from uqlib._core.checks import (
    check_choice,
    check_rows,
    check_sample_weight,
    check_target,
)
from uqlib._typing import ArrayLike, FloatArray

_KINDS = ("raw", "sqrt", "relative")
_DEGENERATE = ("cap", "one")


class SplitPointStatistics(NamedTuple):
    """What residuals look like on the two sides of a prediction.

    Attributes
    ----------
    mar, mar_up, mar_down : float
        Mean absolute residual of all rows, of those above the prediction and of the
        others; NaN for a side without rows.
    p_up : float
        Share of the rows above the prediction.
    bias : float
        Mean residual.
    harmonic_mar : float
        Harmonic mean of the two sides; NaN if one has no rows.
    sds : float
        Self-consistency discrepancy, in squared units; NaN if a side has no rows.
    valid : bool
        Whether both sides have rows.
    """

    mar: float
    mar_up: float
    mar_down: float
    p_up: float
    bias: float
    harmonic_mar: float
    sds: float
    valid: bool


def split_point_statistics(
    residuals: ArrayLike, sample_weight: ArrayLike | None = None
) -> SplitPointStatistics:
    r"""Describe residuals by their means above and below zero.

    .. math:: m = \overline{|r|}, \quad
              m_+ = \overline{r \mid r > 0}, \quad
              m_- = \overline{-r \mid r \le 0}, \quad
              p = \overline{1\{r > 0\}}, \quad b = \bar r .

    Parameters
    ----------
    residuals : array-like of shape (n_samples,)
        Target minus prediction, finite. An exact zero counts as below.
    sample_weight : array-like of shape (n_samples,), default=None
        One weight a row, at least 0: a weight of 2 is the row twice.

    Returns
    -------
    SplitPointStatistics
        Named tuple (mar, mar_up, mar_down, p_up, bias, harmonic_mar, sds, valid) of
        numbers. If a side has no rows, `valid` is False and what needs that side
        is NaN, without a warning.

    Raises
    ------
    ValueError
        If there are no residuals, one of them is not finite, or the weights are
        negative, not finite or all 0.

    See Also
    --------
    self_consistency_discrepancy : The last of the numbers, of any three means.
    SPARegressor : The same as functions of x.

    Notes
    -----
    For every sample :math:`m = p m_+ + (1 - p) m_-` and
    :math:`\mathrm{SDS} = |b| \, |m_+ - m_-|`. Where the prediction is the mean, b = 0
    and m is the harmonic mean of the sides [1]_. The converse is false: the residuals
    (1, 1, 1, -1) have a bias of 0.5 and an SDS of 0.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in
       Deep Learning", arXiv:2509.13262.

    Examples
    --------
    >>> from uqlib.spa import split_point_statistics
    >>> found = split_point_statistics([2.0, 2.0, -1.0, -1.0])
    >>> found.mar, found.mar_up, found.mar_down, found.bias, round(found.sds, 12)
    (1.5, 2.0, 1.0, 0.5, 0.5)
    """
    r = check_target(residuals, name="residuals")
    check_rows(r.size, r.size, "residuals", "residuals")
    weight = check_sample_weight(sample_weight, r.size)
    w = np.ones(r.size) if weight is None else weight
    # Scaled by a power of two, so that no sum overflows and nothing is rounded.
    exponent = int(np.frexp(np.abs(r).max())[1])
    r = np.ldexp(r, -exponent)
    total, up = w.sum(), r > 0
    sum_up, sum_down = (w * np.maximum(r, 0)).sum(), (w * np.maximum(-r, 0)).sum()
    mar_up, mar_down = _mean(sum_up, w[up].sum()), _mean(sum_down, w[~up].sum())
    mar, bias = (sum_up + sum_down) / total, (sum_up - sum_down) / total
    harmonic = _harmonic(mar_up, mar_down)
    with np.errstate(over="ignore", under="ignore"):
        sds = np.ldexp(_discrepancy(mar, mar_up, mar_down, "raw"), 2 * exponent)
        means = np.ldexp([mar, mar_up, mar_down, bias, harmonic], exponent)
    mar, mar_up, mar_down, bias, harmonic = means.tolist()
    valid = not np.isnan([mar_up, mar_down]).any()
    p_up = float(w[up].sum() / total)
    return SplitPointStatistics(
        mar, mar_up, mar_down, p_up, bias, harmonic, float(sds), bool(valid)
    )


def self_consistency_discrepancy(
    mar: ArrayLike, mar_up: ArrayLike, mar_down: ArrayLike, kind: str = "raw"
) -> Any:
    r"""How far a mean absolute residual is from what its two sides say.

    .. math:: \mathrm{SDS} = |2 m_+ m_- - m (m_+ + m_-)| = |b| \, |m_+ - m_-| ,

    the second for means of one law, with the bias b.

    Parameters
    ----------
    mar : float or array-like of any shape
        Mean absolute residual m; finite, at least 0.
    mar_up, mar_down : float or array-like of the same shape
        Those of the rows above and below the prediction; finite, at least 0.
    kind : {"raw", "sqrt", "relative"}, default="raw"
        "raw" is in squared units of the target, "sqrt" in its units, "relative" is
        :math:`|H / m - 1|` with the harmonic mean H of the sides, without units: in
        [0, 1) for means of one law. It is 0 where all three means are 0, and
        infinite where m alone is 0.

    Returns
    -------
    float or ndarray of the broadcast shape
        The discrepancy, larger = less consistent.

    Raises
    ------
    ValueError
        If a mean is negative or not finite, or `kind` is none of the three.

    See Also
    --------
    split_point_statistics : The three means of residuals.
    sds_widening_factors : What would make them consistent.

    Notes
    -----
    It is 0 if the prediction is unbiased and also if the two sides are equal: for
    symmetric noise it grows with the square of the bias, for skewed noise with the
    bias itself, so values of unlike noise cannot be compared. It is not an
    out-of-distribution detector.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in
       Deep Learning", arXiv:2509.13262.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.spa import self_consistency_discrepancy
    >>> self_consistency_discrepancy([1.5, 1.0], [3.0, 1.0], [1.0, 2.0])
    array([0., 1.])
    """
    check_choice("kind", kind, _KINDS)
    means = _check_means(mar, mar_up, mar_down)
    return _plain(_discrepancy(means[0], means[1], means[2], kind))


def sds_widening_factors(
    mar: ArrayLike,
    mar_up: ArrayLike,
    mar_down: ArrayLike,
    cap: float = 2.0,
    degenerate: str = "cap",
) -> tuple[Any, Any]:
    r"""By how much each side would have to grow to agree with the other.

    .. math:: d_+ = \frac{m \, m_-}{(2 m_- - m) \, m_+}, \qquad
              d_- = \frac{m \, m_+}{(2 m_+ - m) \, m_-},

    clipped to [1, cap].

    Parameters
    ----------
    mar : float or array-like of any shape
        Mean absolute residual m; finite, at least 0.
    mar_up, mar_down : float or array-like of the same shape
        Those of the rows above and below the prediction; finite, at least 0.
    cap : float, default=2.0
        The largest factor, at least 1. It can be infinite.
    degenerate : {"cap", "one"}, default="cap"
        The factor where the denominator is 0 or negative, where no factor makes the
        means agree: "cap" widens there most, as the inconsistency is largest there;
        "one", with an infinite `cap`, is the form in which the method was published.

    Returns
    -------
    factor_up, factor_down : float or ndarray of the broadcast shape
        What the quantiles of the two sides are multiplied by; 1 where m is 0.

    Raises
    ------
    ValueError
        If a mean is negative or not finite, `cap` is below 1, or `degenerate` is
        neither of the two.

    See Also
    --------
    self_consistency_discrepancy : How inconsistent the means are.

    Notes
    -----
    :math:`m_+^* = m \, m_- / (2 m_- - m)` is the mean above the prediction for which m
    is the harmonic mean of the sides, and :math:`d_+ = m_+^* / m_+`. With estimated
    means the denominator is often close to 0, so without a cap the factors explode.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in
       Deep Learning", arXiv:2509.13262.

    Examples
    --------
    >>> from uqlib.spa import sds_widening_factors
    >>> up, down = sds_widening_factors(1.2, 0.8, 1.0)
    >>> round(up, 6), down
    (1.875, 2.0)
    """
    check_choice("degenerate", degenerate, _DEGENERATE)
    if not cap >= 1:
        raise ValueError(
            f"cap must be at least 1, got {cap!r}: a factor of 1 widens nothing. Pass "
            "np.inf for no cap."
        )
    m, up, down = _check_means(mar, mar_up, mar_down)
    fallback = float(cap) if degenerate == "cap" else 1.0
    return (
        _plain(_widening(m, up, down, float(cap), fallback)),
        _plain(_widening(m, down, up, float(cap), fallback)),
    )


def _discrepancy(mar: Any, mar_up: Any, mar_down: Any, kind: str) -> FloatArray:
    gap = np.abs(_harmonic(mar_up, mar_down) - mar)
    _, _, half = _halfway(mar_up, mar_down)
    if kind == "sqrt":
        return np.asarray(np.sqrt(2) * np.sqrt(gap) * np.sqrt(half))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if kind == "raw":
            return np.asarray(2 * (gap * half))
        return np.where(gap == 0, 0.0, gap / mar)


def _harmonic(mar_up: Any, mar_down: Any) -> FloatArray:
    """Return the harmonic mean; 0 if one is 0, NaN if one is."""
    low, high, half = _halfway(mar_up, mar_down)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        return np.where(half == 0, 0.0, low * (high / half))


def _halfway(mar_up: Any, mar_down: Any) -> tuple[Any, Any, Any]:
    """Return the smaller, the larger, and what lies between; 0 only if one is."""
    low, high = np.minimum(mar_up, mar_down), np.maximum(mar_up, mar_down)
    return low, high, low + 0.5 * (high - low)


def _widening(
    m: FloatArray, side: FloatArray, other: FloatArray, cap: float, fallback: float
) -> FloatArray:
    # m other / ((2 other - m) side) = (m / side) / (2 - m / other).
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        denominator = 2 - m / other
        factor = np.where(denominator > 0, (m / side) / denominator, fallback)
    return np.where(m == 0, 1.0, np.clip(factor, 1.0, cap))


def _mean(total: Any, weight: Any) -> float:
    return float(total / weight) if weight > 0 else float("nan")


def _check_means(
    mar: ArrayLike, mar_up: ArrayLike, mar_down: ArrayLike
) -> list[FloatArray]:
    named = {"mar": mar, "mar_up": mar_up, "mar_down": mar_down}
    arrays = {key: np.asarray(v, dtype=np.float64) for key, v in named.items()}
    for name, values in arrays.items():
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(
                f"{name} must be finite and at least 0, got values from "
                f"{values.min()} to {values.max()}. Clip what a model predicts, as "
                f"np.maximum({name}, 0)."
            )
    try:
        return list(np.broadcast_arrays(*arrays.values()))
    except ValueError as error:
        shapes = ", ".join(f"{key} {value.shape}" for key, value in arrays.items())
        raise ValueError(
            f"The means must have one shape, got {shapes}: pass one value a row."
        ) from error


def _plain(values: FloatArray) -> Any:
    """Return a number for an array without axes."""
    return float(values) if values.ndim == 0 else values
