r"""Margins that keep quantile levels apart.

A crossing penalty asks every pair of levels a < b for

    q_b - q_a >= delta_ab.

All margins used here are differences, delta_ab = c + o_b - o_a with non-decreasing
offsets o, one number a level instead of one a pair:

    a number     delta_ab = c
    "spacing"    delta_ab = s (Q(3/4) - Q(1/4)) (tau_b - tau_a)
    "auto"       delta_ab = s (Q(tau_b) - Q(tau_a))

where Q is the quantile function of the residuals of a pilot model and s a small
share. The last two are in the units of the residuals: a target that is multiplied by
a positive number has its margins multiplied by it.
"""

from numbers import Real
from typing import Any

import numpy as np

from uqlib._core.checks import check_target
from uqlib._typing import FloatArray

MARGINS = ("auto", "spacing")
# The share s: small enough that the margin costs no accuracy where levels lie closer
# than under the pilot model, large enough to be seen by a gradient.
MARGIN_SHARE = 1e-2


def margin_offsets(
    margin: Any, levels: FloatArray, residuals: FloatArray
) -> tuple[FloatArray, float]:
    r"""Return the margins of a crossing penalty as offsets and a constant.

    .. math:: \delta_{ab} = c + o_b - o_a, \qquad a < b.

    Parameters
    ----------
    margin : float or {"auto", "spacing"}
        A non-negative number is the margin of every pair, in the units of the
        residuals. "spacing" grows with the distance of the levels, "auto" with the
        distance of the quantiles of the residuals.
    levels : ndarray of shape (n_quantiles,)
        Increasing levels.
    residuals : ndarray of shape (n_samples,)
        Target minus the median that a pilot model predicts, finite. Looked at only if
        `margin` is a string.

    Returns
    -------
    offsets : ndarray of shape (n_quantiles,)
        :math:`o`, non-decreasing.
    constant : float
        :math:`c`.

    Raises
    ------
    ValueError
        If `margin` is an unknown string or a number that is negative or not finite,
        or there are no residuals.
    """
    levels = np.asarray(levels, dtype=np.float64)
    if not isinstance(margin, str):
        return np.zeros(levels.size), _constant(margin)
    if margin not in MARGINS:
        raise ValueError(
            f"margin must be one of {list(MARGINS)} or a non-negative number, got "
            f"{margin!r}."
        )
    residuals = check_target(residuals, name="residuals")
    if residuals.size == 0:
        raise ValueError(f"margin={margin!r} needs residuals, got none.")
    # Order statistics, which no rounding puts out of order.
    if margin == "auto":
        quantiles = np.quantile(residuals, levels, method="inverted_cdf")
        return MARGIN_SHARE * quantiles, 0.0
    lower, upper = np.quantile(residuals, [0.25, 0.75], method="inverted_cdf")
    return MARGIN_SHARE * (upper - lower) * levels, 0.0


def _constant(margin: Any) -> float:
    if isinstance(margin, bool) or not isinstance(margin, Real):
        raise TypeError(
            f"margin must be one of {list(MARGINS)} or a non-negative number, got "
            f"{margin!r} of type {type(margin).__name__}."
        )
    if not 0 <= float(margin) < np.inf:
        raise ValueError(
            "margin as a number must be non-negative and finite, got "
            f"{margin!r}. Pass 0 for a penalty on crossings alone."
        )
    return float(margin)
