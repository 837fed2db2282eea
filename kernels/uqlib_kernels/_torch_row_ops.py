"""Registers operations on rows with torch, for the CPU: monotone rows, sets of labels.

They are the functions of `rows` and `sets` on tensors of any strides. Rows of half
precision are computed in float32 and come back as they were.
"""

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from uqlib_kernels import rows, sets
from uqlib_kernels._torch_ops import NAMESPACE, Operation, define

_WIDE_ENOUGH = (torch.float32, torch.float64)


def _sort_rows(q: Tensor) -> Tensor:
    _check_matrix("q", q)
    return torch.from_numpy(rows.sort_rows(_array(q))).to(q.dtype)


def _isotonic_rows(q: Tensor, level_weight: Tensor | None = None) -> Tensor:
    _check_isotonic(q, level_weight)
    weight = None if level_weight is None else _doubles(level_weight)
    return torch.from_numpy(rows.isotonic_rows(_array(q), weight)).to(q.dtype)


def _mass_sets(
    proba: Tensor,
    threshold: Tensor,
    u: Tensor,
    k_reg: int = 0,
    penalty: float = 0.0,
) -> Tensor:
    _check_sets(proba, threshold, u, k_reg, penalty)
    found = sets.mass_sets(
        _array(proba), _doubles(threshold), _doubles(u), k_reg, penalty
    )
    return torch.from_numpy(found)


def _array(rows: Tensor) -> NDArray[Any]:
    """Return rows as an array of a type that kernels take; not a copy if they are."""
    wide = rows if rows.dtype in _WIDE_ENOUGH else rows.float()
    array: NDArray[Any] = wide.numpy(force=True)
    return array


def _doubles(vector: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = vector.double().numpy(force=True)
    return array


# ---------------------------------------------------------------------------
# What is known of results without values, for tracing.


def _sort_rows_shape(q: Tensor) -> Tensor:
    _check_matrix("q", q)
    return q.new_empty(q.shape)


def _isotonic_rows_shape(q: Tensor, level_weight: Tensor | None = None) -> Tensor:
    _check_isotonic(q, level_weight)
    return q.new_empty(q.shape)


def _mass_sets_shape(
    proba: Tensor,
    threshold: Tensor,
    u: Tensor,
    k_reg: int = 0,
    penalty: float = 0.0,
) -> Tensor:
    _check_sets(proba, threshold, u, k_reg, penalty)
    return proba.new_empty(proba.shape, dtype=torch.bool)


def _check_matrix(name: str, matrix: Tensor) -> None:
    if matrix.dim() != 2 or not matrix.dtype.is_floating_point:
        raise ValueError(
            f"{name} must be a matrix of a floating type, got shape "
            f"{tuple(matrix.shape)} of {matrix.dtype}."
        )


def _check_vector(name: str, vector: Tensor, size: int) -> None:
    if vector.dim() != 1 or vector.shape[0] != size or vector.dtype.is_complex:
        raise ValueError(
            f"{name} must be real and have shape ({size},), got shape "
            f"{tuple(vector.shape)} of {vector.dtype}."
        )


def _check_isotonic(q: Tensor, level_weight: Tensor | None) -> None:
    _check_matrix("q", q)
    if level_weight is not None:
        _check_vector("level_weight", level_weight, q.shape[1])


def _check_sets(
    proba: Tensor, threshold: Tensor, u: Tensor, k_reg: int, penalty: float
) -> None:
    _check_matrix("proba", proba)
    _check_vector("threshold", threshold, proba.shape[0])
    _check_vector("u", u, proba.shape[0])
    if k_reg < 0:
        raise ValueError(f"k_reg={k_reg} must be at least 0.")
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty={penalty} must be finite and not negative.")


# Held by this module: when a library is collected its operations are gone.
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")

ROW_OPERATIONS = {
    "sort_rows": Operation("(Tensor q) -> Tensor", _sort_rows, _sort_rows_shape),
    "isotonic_rows": Operation(
        "(Tensor q, Tensor? level_weight=None) -> Tensor",
        _isotonic_rows,
        _isotonic_rows_shape,
    ),
    "mass_sets": Operation(
        "(Tensor proba, Tensor threshold, Tensor u, int k_reg=0, float penalty=0.0) "
        "-> Tensor",
        _mass_sets,
        _mass_sets_shape,
    ),
}

define(LIBRARY, ROW_OPERATIONS)
