r"""Leaves of 8 or 16 bits, and how far they move predictions.

The leaves v of tree t, between m_t and M_t, become codes q of b bits,

    v ~ m_t + q s_t,        s_t >= (M_t - m_t) / (2^b - 1),

with s_t in single precision, rounded up so that the largest code reaches M_t. A leaf
moves by at most s_t / 2, and so the raw values of any row whatsoever by at most

    sum_t s_t / 2 / divisor,

the sum over the trees that add to an output.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._tree_reference import predict_raw
from uqlib.quantized._trees import LeafGrid, TreeEnsemble


class LeafDrift(NamedTuple):
    """How far the raw values moved: in rows of X, and at most anywhere.

    Attributes
    ----------
    rms, max : float
        Root mean square and largest change over rows and outputs.
    relative_rms, relative_max : float
        The same in standard deviations of the exact raw values, over all outputs after
        the mean of each; 0 without drift, infinite if the exact ones are constant.
    bound : float
        No row of any data moves further, but for rounding.
    """

    rms: float
    max: float
    relative_rms: float
    relative_max: float
    bound: float


def quantize_leaves(ensemble: TreeEnsemble, bits: int | None = 16) -> TreeEnsemble:
    """Return the trees with leaves of fewer bits, rounded to nearest.

    Parameters
    ----------
    ensemble : TreeEnsemble
        With exact leaves.
    bits : {8, 16} or None, default=16
        Bits of a leaf; None leaves them as they are.

    Returns
    -------
    TreeEnsemble
        Its `leaf_value` are the values of the grid.
    """
    if bits is None:
        return ensemble
    if bits not in (8, 16):
        raise ValueError(
            f"bits must be 8, 16 or None, got {bits!r}: leaves have bytes or pairs of "
            "bytes as codes, and None keeps them exact."
        )
    if ensemble.leaf_grid is not None:
        raise ValueError(
            f"ensemble must have exact leaves, got leaves of {ensemble.leaf_grid.bits} "
            "bits: quantize the ensemble that they were made of."
        )
    grid = _leaf_grid(ensemble, bits)
    value = leaf_values(grid, ensemble.leaf_counts).astype(ensemble.leaf_value.dtype)
    return replace(ensemble, leaf_value=value, leaf_grid=grid)


def _leaf_grid(ensemble: TreeEnsemble, bits: int) -> LeafGrid:
    value = ensemble.leaf_value.astype(np.float64)
    counts, first = ensemble.leaf_counts, ensemble.leaf_start[:-1]
    if not counts.size:
        empty = np.empty(0)
        codes = np.empty(value.shape, dtype=f"uint{bits}")
        return LeafGrid(codes, empty.astype(np.float32), empty)
    low = np.minimum.reduceat(value.min(axis=1), first)
    high = np.maximum.reduceat(value.max(axis=1), first)
    top = 2**bits - 1
    scale = _rounded_up((high - low) / top)
    step = np.where(scale > 0, scale, 1).astype(np.float64)  # one leaf: code 0
    codes = np.rint(
        (value - np.repeat(low, counts)[:, None]) / np.repeat(step, counts)[:, None]
    )
    return LeafGrid(np.clip(codes, 0, top).astype(f"uint{bits}"), scale, low)


def _rounded_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    nearest = values.astype(np.float32)
    above = np.nextafter(nearest, np.float32(np.inf), dtype=np.float32)
    return np.where(nearest < values, above, nearest).astype(np.float32)


def leaf_values(grid: LeafGrid, counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return the values that codes of leaves stand for.

    Parameters
    ----------
    grid : LeafGrid
        Codes, scales and offsets.
    counts : ndarray of shape (n_trees,)
        Leaves of each tree.

    Returns
    -------
    ndarray of shape (n_leaves, leaf_width)
        float64.
    """
    scale = np.repeat(grid.scale.astype(np.float64), counts)[:, None]
    offset = np.repeat(grid.offset, counts)[:, None]
    values: NDArray[np.float64] = offset + grid.codes * scale
    return values


def drift_bound(ensemble: TreeEnsemble) -> float:
    """Return how far the leaves' grid can move a raw value at most.

    Parameters
    ----------
    ensemble : TreeEnsemble
        With leaves of any bits.

    Returns
    -------
    float
        0 if they are exact.
    """
    if ensemble.leaf_grid is None:
        return 0.0
    half = ensemble.leaf_grid.scale.astype(np.float64) / 2
    if ensemble.leaf_width > 1:
        return float(half.sum() / ensemble.divisor)
    by_output = np.bincount(ensemble.tree_output, half, minlength=ensemble.n_outputs)
    return float(by_output.max() / ensemble.divisor)


def leaf_drift(exact: TreeEnsemble, quantized: TreeEnsemble, X: Any) -> LeafDrift:
    """Return how far leaves of fewer bits move the raw values of rows.

    Parameters
    ----------
    exact, quantized : TreeEnsemble
        The same trees, before and after `quantize_leaves`.
    X : array-like of shape (n_samples, n_features)
        At least one row.

    Returns
    -------
    LeafDrift
        Root mean square, largest change and bound.
    """
    before = predict_raw(exact, X).astype(np.float64)
    change = predict_raw(quantized, X).astype(np.float64) - before
    rms, largest = _rms(change), float(np.abs(change).max())
    spread = _rms(before - before.mean(axis=0))
    return LeafDrift(
        rms,
        largest,
        _ratio(rms, spread),
        _ratio(largest, spread),
        drift_bound(quantized),
    )


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else float("inf")
