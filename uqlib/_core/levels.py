"""Levels: of confidence and of quantiles, exact, compared, found and named."""

from collections.abc import Iterable
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray

# Two levels closer than this are one level: floats that were computed in two
# ways (0.95 and 1 - 0.05) must meet, and no calibration set resolves less.
LEVEL_TOLERANCE = 1e-9
_MAX_DENOMINATOR = 10**9


def exact_level(level: Any) -> Fraction:
    """Return the rational number that was meant by a floating-point level.

    The nearest fraction with a denominator of at most 10^9 is the intended
    one for literals (0.9) and for levels that were computed (0.55 - 0.45).

    Parameters
    ----------
    level : float
        Any real number.

    Returns
    -------
    Fraction
        The level without its rounding error.
    """
    if isinstance(level, np.floating) and not isinstance(level, float):
        exact = Fraction(str(level))  # the shortest decimal that a float32 stands for
    else:
        exact = Fraction(level)
    rounded = exact.limit_denominator(_MAX_DENOMINATOR)
    # A level within half of 10^-9 of 0 or 1 is taken as it stands: it is neither.
    return rounded if 0 < rounded < 1 else exact


def check_confidence_level(confidence_level: Any) -> Fraction:
    """Return the confidence level as an exact fraction, or say what is wrong.

    Parameters
    ----------
    confidence_level : float
        Must be a real number strictly between 0 and 1.

    Returns
    -------
    Fraction
        The exact level.
    """
    if isinstance(confidence_level, bool) or not isinstance(confidence_level, Real):
        raise TypeError(
            "confidence_level must be a real number strictly between 0 and 1, got "
            f"{confidence_level!r} of type {type(confidence_level).__name__}."
        )
    if not 0 < float(confidence_level) < 1:
        raise ValueError(
            "confidence_level must lie strictly between 0 and 1, got "
            f"{confidence_level!r}. Pass 0.9 for a coverage of 90 %."
        )
    return exact_level(confidence_level)


def check_quantiles(quantiles: Any, *, name: str = "quantiles") -> FloatArray:
    """Return quantile levels as a float64 array, or say what is wrong.

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,)
        Must be strictly increasing, strictly between 0 and 1.
    name : str, default="quantiles"
        How the error calls them.

    Returns
    -------
    ndarray of shape (n_quantiles,)
        The levels.
    """
    try:
        levels = _as_float64(np.array(quantiles))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be numbers strictly between 0 and 1, got {quantiles!r}."
        ) from error
    if levels.ndim != 1 or levels.size == 0:
        raise ValueError(
            f"{name} must be a non-empty 1-D sequence of levels, got an array of "
            f"shape {levels.shape}. Pass for example {name}=[0.05, 0.5, 0.95]."
        )
    if not np.all((levels > 0) & (levels < 1)):
        raise ValueError(
            f"{name} must lie strictly between 0 and 1, got {levels.tolist()}. "
            "Pass 0.9 for the level of 90 %."
        )
    if not np.all(np.diff(levels) > LEVEL_TOLERANCE):
        raise ValueError(
            f"{name} must be strictly increasing, by more than {LEVEL_TOLERANCE:g}, "
            f"got {levels.tolist()}. Pass them sorted and without repetition."
        )
    return levels


def find_level(quantiles: FloatArray, level: float) -> int | None:
    """Return the index of a level among others, or None.

    Parameters
    ----------
    quantiles : ndarray of shape (n_quantiles,)
        Increasing levels.
    level : float
        The one sought, up to `LEVEL_TOLERANCE`.

    Returns
    -------
    int or None
        Its position.
    """
    nearest = int(np.argmin(np.abs(quantiles - level)))
    return nearest if abs(quantiles[nearest] - level) <= LEVEL_TOLERANCE else None


def central_pair(confidence_level: Any) -> tuple[float, float]:
    r"""Return the levels :math:`\alpha / 2` and :math:`1 - \alpha / 2`.

    Parameters
    ----------
    confidence_level : float
        :math:`1 - \alpha`, strictly between 0 and 1.

    Returns
    -------
    lower, upper : float
        The pair of levels, rounded once from exact fractions.
    """
    half = (1 - check_confidence_level(confidence_level)) / 2
    return float(half), float(1 - half)


def is_symmetric(quantiles: FloatArray) -> bool:
    """Return whether 1 - tau is a level for every level tau.

    Parameters
    ----------
    quantiles : ndarray of shape (n_quantiles,)
        Increasing levels.

    Returns
    -------
    bool
        True if the levels form central intervals, with or without the median.
    """
    return all(find_level(quantiles, 1 - tau) is not None for tau in quantiles)


def level_indices(levels: FloatArray, asked: FloatArray) -> list[int]:
    """Return the columns of the levels asked for, or say which there are.

    Parameters
    ----------
    levels : ndarray of shape (n_quantiles,)
        The levels of a model.
    asked : ndarray
        The levels sought.

    Returns
    -------
    list of int
        Their positions.
    """
    found = [find_level(levels, level) for level in asked]
    missing = [
        f"{level:.12g}" for level, i in zip(asked, found, strict=True) if i is None
    ]
    if missing:
        raise ValueError(
            f"The model has no quantile level {', '.join(missing)}. It has "
            f"{[float(f'{level:.12g}') for level in levels]}: ask for these, or fit "
            "again with the missing levels."
        )
    return [i for i in found if i is not None]


def level_names(quantiles: FloatArray) -> list[str]:
    """Return the column names of levels: q0.05, q0.5, ...

    Parameters
    ----------
    quantiles : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    list of str
        One name a level.
    """
    short = [f"{level:.9g}" for level in quantiles]
    pairs = zip(short, quantiles, strict=True)
    return [f"q{s}" if 0 < float(s) < 1 else f"q{float(level)!r}" for s, level in pairs]


def levels_from_names(names: Iterable[Any]) -> FloatArray | None:
    """Return the levels that column names stand for, or None.

    Parameters
    ----------
    names : iterable of str
        Column names.

    Returns
    -------
    ndarray of shape (n_quantiles,) or None
        None if there are no names or one of them is not a level.

    Raises
    ------
    ValueError
        If all are levels, but do not increase: the columns are out of order.
    """
    texts = [str(name) for name in names]
    try:
        levels = np.array([float(text.removeprefix("q")) for text in texts])
    except ValueError:
        return None
    named = all(text.startswith("q") for text in texts)
    if not texts or not named or not np.all((levels > 0) & (levels < 1)):
        return None
    if not np.all(np.diff(levels) > LEVEL_TOLERANCE):
        raise ValueError(
            f"The columns {texts} are named by levels that do not increase. Put them "
            "in increasing order."
        )
    return levels


def _as_float64(levels: NDArray[Any]) -> FloatArray:
    if levels.dtype in (np.float16, np.float32):  # the decimals that they stand for
        levels = np.array([str(level) for level in levels.ravel()]).reshape(
            levels.shape
        )
    return levels.astype(np.float64)
