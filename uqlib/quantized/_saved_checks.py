"""Checks of single numbers and arrays of any origin."""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray

Arrays = Mapping[str, NDArray[Any]]
SHORT_FLOATS = (np.dtype(np.float16), np.dtype(np.float32))
_LARGEST_COUNT = 2**31


def demand(holds: bool, message: str) -> None:
    """Raise a `ValueError` unless a condition holds.

    Parameters
    ----------
    holds : bool
        The condition.
    message : str
        What is wrong otherwise.
    """
    if not holds:
        raise ValueError(f"what is stored is damaged: {message}.")


def array_of(arrays: Arrays, name: str, n_dim: int, kinds: str) -> NDArray[Any]:
    """Return one array.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        All of them.
    name : str
        Which one.
    n_dim : int
        Its number of dimensions.
    kinds : str
        Letters of NumPy, one of which its type must have.

    Returns
    -------
    ndarray
        As it is.
    """
    found = arrays.get(name)
    demand(found is not None, f"{name} is not there")
    fits = found is not None and found.ndim == n_dim and found.dtype.kind in kinds
    demand(fits, f"{name} has another type or shape")
    return np.asarray(found)


def floats_of(arrays: Arrays, name: str, n_dim: int) -> FloatArray:
    """Return one array of finite numbers in float16 or float32.

    Parameters
    ----------
    arrays, name, n_dim
        As in `array_of`.

    Returns
    -------
    ndarray
        As it is.
    """
    found: FloatArray = array_of(arrays, name, n_dim, "f")
    legal = found.dtype in SHORT_FLOATS and bool(np.isfinite(found).all())
    demand(legal, f"{name} has numbers that are not finite, or too long")
    return found


def count_of(value: Any) -> int:
    """Return an integer of at least 0.

    Parameters
    ----------
    value : object
        From JSON.

    Returns
    -------
    int
        The same.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    demand(whole and 0 <= value <= _LARGEST_COUNT, f"{value!r} is no count")
    return int(value)


def text_of(value: Any) -> str:
    """Return a string.

    Parameters
    ----------
    value : object
        From JSON.

    Returns
    -------
    str
        The same.
    """
    demand(isinstance(value, str), f"{value!r} is no string")
    return str(value)


def number_of(value: Any) -> int | float | None:
    """Return a number as JSON takes it.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    int, float or None
        None for what is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None
