"""Checks of losses, of the level of their mean and of its bounds."""

import math
import operator
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np

from uqlib._core.checks import check_no_nan
from uqlib._core.levels import exact_level
from uqlib._typing import FloatArray

# Losses are known to rounding: two sums that differ by less than this share of
# themselves are equal. A guarantee at risk level a then holds at a (1 + 1e-12).
ROUNDING = 1e-12
_SMALL = 1e-3
BOUNDS = ("hoeffding_bentkus", "wsr")


def check_risk_level(risk_level: Any, loss_bound: Any) -> Fraction:
    """Return the risk level as an exact fraction, or say what is wrong.

    Parameters
    ----------
    risk_level : float
        Must lie strictly between 0 and the largest loss.
    loss_bound : float
        Must be positive and finite.

    Returns
    -------
    Fraction
        The exact level.
    """
    _check_loss_bound(loss_bound)
    _check_number(risk_level, "risk_level")
    if not 0 < risk_level < loss_bound:
        raise ValueError(
            "risk_level must lie strictly between 0 and the largest loss "
            f"{loss_bound!r}, got {risk_level!r}. Pass 0.1 for a risk of 10 %."
        )
    return exact_size(risk_level)


# Denominators up to 10^9 tell levels apart that are not small themselves. Losses come
# in any unit: of a small number the shortest decimal is what was meant.
def exact_size(value: Any) -> Fraction:
    """Return a loss or its level as the rational number that was meant.

    Parameters
    ----------
    value : float
        Positive.

    Returns
    -------
    Fraction
        The number; its relative error is below `ROUNDING`.
    """
    if value < _SMALL and not isinstance(value, Fraction):
        return Fraction(str(value))
    return exact_level(value)


def check_losses(losses: Any, loss_bound: float) -> FloatArray:
    """Return losses in [0, loss_bound] as a float64 array of one or two dimensions.

    Parameters
    ----------
    losses : array-like of shape (n,) or (n, n_parameters)
        The losses.
    loss_bound : float
        The largest loss that is possible.

    Returns
    -------
    ndarray of shape (n,) or (n, n_parameters)
        The losses.
    """
    _check_loss_bound(loss_bound)
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] == 0):
        raise ValueError(
            "losses must have shape (n,) or (n, n_parameters) with at least one "
            f"column, got shape {values.shape}. Pass one row a calibration row."
        )
    check_no_nan(values, "losses")
    check_range(values, loss_bound, "losses")
    return values


def check_monotone(losses: FloatArray, loss_bound: float, name: str = "losses") -> None:
    """Refuse losses that grow from the less to the more cautious column.

    Parameters
    ----------
    losses : ndarray of shape (n, n_thresholds)
        Losses.
    loss_bound : float
        The largest loss, which sets what is rounding.
    name : str, default="losses"
        How the error calls them.
    """
    grows = losses[:, 1:] > losses[:, :-1] + ROUNDING * loss_bound
    if grows.any():
        row, column = np.argwhere(grows)[0]
        raise ValueError(
            f"{name} must not grow from the less to the more cautious threshold, but "
            f"row {row} goes from {losses[row, column]} to {losses[row, column + 1]} "
            f"after column {column}. Reverse the columns if they run from cautious to "
            "bold; for a loss that is not monotone use learn_then_test."
        )


def check_bound(bound: Any) -> None:
    """Refuse the name of an unknown bound.

    Parameters
    ----------
    bound : str
        One of `BOUNDS`.
    """
    if not isinstance(bound, str) or bound not in BOUNDS:
        raise ValueError(f"bound={bound!r} must be one of {list(BOUNDS)}.")


def check_count(n: Any) -> int:
    """Return a number of losses as an int, at least 0.

    Parameters
    ----------
    n : int
        The number.

    Returns
    -------
    int
        The number.
    """
    try:
        count = operator.index(n)
    except TypeError as error:
        raise TypeError(
            f"n must be an integer number of losses, got {n!r} of type "
            f"{type(n).__name__}."
        ) from error
    if count < 0:
        raise ValueError(f"n must be a number of losses >= 0, got {n!r}.")
    return count


def check_range(values: FloatArray, loss_bound: float, name: str) -> None:
    """Refuse losses outside [0, loss_bound].

    Parameters
    ----------
    values : ndarray
        Losses without NaN.
    loss_bound : float
        The largest loss that is possible.
    name : str
        How the error calls them.
    """
    if values.size and not (values.min() >= 0 and values.max() <= loss_bound):
        raise ValueError(
            f"{name} must lie between 0 and loss_bound={loss_bound!r}, got values from "
            f"{values.min()} to {values.max()}. Pass the largest possible loss as "
            "loss_bound, or clip the losses."
        )


def _check_loss_bound(loss_bound: Any) -> None:
    _check_number(loss_bound, "loss_bound")
    if not 0 < loss_bound < math.inf:
        raise ValueError(
            f"loss_bound must be positive and finite, got {loss_bound!r}. Pass the "
            "largest loss that is possible, 1 for a proportion."
        )


def _check_number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a real number, got {value!r} of type "
            f"{type(value).__name__}."
        )
