"""Read the arrays and numbers of one stored part, which may be of any origin."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOATS = (np.dtype(np.float16), np.dtype(np.float32))


def loaded_array(
    kind: str, arrays: Mapping[str, NDArray[Any]], name: str, n_dim: int
) -> NDArray[Any]:
    """Return one array of a part.

    Parameters
    ----------
    kind : str
        Of the part, for the error.
    arrays : mapping of str to ndarray
        As `arrays()` of the part gave them.
    name : str
        Which one.
    n_dim : int
        How many dimensions it has.

    Returns
    -------
    ndarray
        With this number of dimensions.
    """
    found = arrays.get(name)
    if not isinstance(found, np.ndarray) or found.ndim != n_dim:
        shown = None if found is None else np.shape(found)
        raise ValueError(
            f"The stored part {kind!r} needs an array {name!r} of {n_dim} dimensions, "
            f"got shape {shown}: the file is damaged."
        )
    return found


def loaded_floats(
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    name: str,
    n_dim: int,
    *,
    positive: bool = True,
) -> NDArray[Any]:
    """Return one array of finite numbers.

    Parameters
    ----------
    kind, arrays, name, n_dim
        As in `loaded_array`.
    positive : bool, default=True
        Whether all must be above 0.

    Returns
    -------
    ndarray
        float16 or float32.
    """
    found = loaded_array(kind, arrays, name, n_dim)
    legal = found.dtype in _FLOATS and bool(np.isfinite(found).all())
    if not legal or (positive and bool((found <= 0).any())):
        wanted = "positive" if positive else "finite"
        raise ValueError(
            f"{name!r} of the stored part {kind!r} must be {wanted} numbers in float16 "
            f"or float32, got {found.dtype}: the file is damaged."
        )
    return found


def loaded_count(
    kind: str, settings: Mapping[str, Any], name: str, low: int, high: int
) -> int:
    """Return one integer of a part.

    Parameters
    ----------
    kind : str
        Of the part, for the error.
    settings : mapping of str to number
        As `settings()` of the part gave them.
    name : str
        Which one.
    low, high : int
        Least and largest legal value.

    Returns
    -------
    int
        Within these.
    """
    found = settings.get(name)
    whole = isinstance(found, Integral) and not isinstance(found, bool)
    if not whole or not low <= int(found) <= high:  # type: ignore[arg-type]
        raise ValueError(
            f"{name!r} of the stored part {kind!r} must be an integer from {low} to "
            f"{high}, got {found!r}: the file is damaged."
        )
    return int(found)  # type: ignore[arg-type]
