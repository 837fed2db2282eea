"""Grids of stored layers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._codebooks import (
    block_float_levels,
    float_levels,
    has_own_codebook,
    integer_levels,
    normal_levels,
)
from uqlib.quantized._grid import MAX_LEVELS, Grid
from uqlib.quantized._saved_checks import (
    SHORT_FLOATS,
    array_of,
    count_of,
    demand,
    floats_of,
)
from uqlib.quantized._scheme import QuantizationScheme


def grid_from(
    settings: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    scheme: QuantizationScheme,
) -> Grid:
    """Return the grid of a stored layer.

    Parameters
    ----------
    settings, arrays : mapping
        Of the layer.
    scheme : QuantizationScheme
        Of the layer.

    Returns
    -------
    Grid
        With everything checked but the number of rows.
    """
    n_in = count_of(settings["n_in"])
    group_size = count_of(settings.get("group_size", n_in))
    scale = _scale(arrays)
    groups = -(-n_in // max(1, group_size))
    demand(scale.shape[1] in (1, groups) and group_size > 0, "scales do not fit groups")
    zero_point = None
    if "zero_point" in arrays:
        zero_point = array_of(arrays, "zero_point", 2, "uf")
        demand(
            zero_point.shape == scale.shape
            and zero_point.dtype in (np.dtype(np.uint8), *SHORT_FLOATS)
            and bool(np.isfinite(zero_point).all()),
            "zero points do not fit the scales",
        )
    return Grid(_codebook(arrays, scheme), scale, zero_point, group_size, n_in)


def _scale(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    scale = array_of(arrays, "scale", 2, "fi")
    if scale.dtype == np.int8:  # exponents of powers of two
        return scale
    scale = floats_of(arrays, "scale", 2)
    demand(bool((scale > 0).all()), "scales are not positive")
    return scale


def _codebook(
    arrays: Mapping[str, NDArray[Any]], scheme: QuantizationScheme
) -> FloatArray:
    if "codebook" not in arrays:
        levels = named_levels(scheme)
        demand(levels is not None, f"the codebook of {scheme.weights!r} is not there")
        return np.asarray(levels)
    codebook = floats_of(arrays, "codebook", 1)
    demand(
        codebook.dtype == np.float32
        and 0 < codebook.size <= MAX_LEVELS
        and bool((codebook[1:] > codebook[:-1]).all()),
        "the codebook does not increase",
    )
    return codebook


def is_named(grid: Grid, scheme: QuantizationScheme) -> bool:
    """Return whether the format of a scheme tells the codebook of a grid.

    Parameters
    ----------
    grid : Grid
        Of a layer.
    scheme : QuantizationScheme
        Of the layer.

    Returns
    -------
    bool
        If so, the codebook is not stored.
    """
    levels = named_levels(scheme)
    return levels is not None and np.array_equal(levels, grid.codebook)


def named_levels(scheme: QuantizationScheme) -> FloatArray | None:
    """Return the codebook that the format of a scheme tells.

    Parameters
    ----------
    scheme : QuantizationScheme
        With weights and symmetric.

    Returns
    -------
    ndarray of shape (n_levels,) or None
        float32; None where the format has a codebook of its own for every layer.
    """
    weights = scheme.weights
    if weights is None or has_own_codebook(weights):
        return None
    fixed: dict[str, Callable[[], FloatArray]] = {
        "int1": lambda: np.array([-1.0, 1.0]),
        "ternary": lambda: np.array([-1.0, 0.0, 1.0]),
        "nf4": normal_levels,
        "fp4": lambda: float_levels(2, 1, reserved=0),
        "fp8": lambda: float_levels(4, 3, reserved=1),
    }
    if weights in fixed:
        levels = fixed[weights]()
    elif weights.startswith("bfp"):
        levels = block_float_levels(int(scheme.bits))
    else:
        levels = integer_levels(int(scheme.bits), scheme.symmetric)
    return levels.astype(np.float32)
