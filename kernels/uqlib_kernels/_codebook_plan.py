"""What the kernels of float products need to know of a packed weight.

A plan is an array of addresses and sizes, made once a weight and kept with it: passing
one array costs a fraction of what a dozen arguments cost at one row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._packed import LANES, PackedWeight, aligned_empty, inner_group

__all__ = ["FIELDS", "LEVELS", "Plan", "field", "plan_of"]

Plan = NDArray[np.int64]

FIELDS = (
    "codes",  # addresses
    "scale",
    "zero_point",
    "levels",
    "no_bias",  # zeros for all outputs
    "zero_step",  # bytes from the zero points of a group to those of the next, or 0
    "zero_tile",  # and to those of the next tile, or 0
    "n_out",
    "n_in",
    "n_tiles",
    "n_groups",
    "n_words",  # of a group
    "padded_group",
    "inner_group",
    "group_size",
    "parts",  # inner groups of a group
)

LEVELS = 16  # entries of the table that one instruction looks up
_KEY = "_float_plan"


def field(name: str) -> int:
    """Return the position of a field in a plan.

    Parameters
    ----------
    name : str
        One of `FIELDS`.

    Returns
    -------
    int
        Its position.
    """
    return FIELDS.index(name)


def plan_of(packed: PackedWeight) -> Plan:
    """Return the plan of a weight.

    Parameters
    ----------
    packed : PackedWeight
        Any.

    Returns
    -------
    ndarray of shape (n_fields,)
        int64, in the order of `FIELDS`. The addresses hold as long as `packed` lives.
    """
    plan: Plan = packed.kept(_KEY, _made)[0]
    return plan


def _made(packed: PackedWeight) -> tuple[Plan, Any]:
    """Return the plan and the arrays that are made here, of which it has addresses."""
    levels, zero = _levels(packed), packed.zero_point
    step = 4 * LANES
    if zero is None:
        step = 0
        zero = aligned_empty((LANES,), np.float32)
        # Codes of 8 bits are converted and not looked up; see `_levels`.
        zero[:] = packed.twice_zero / 2 if packed.bits == 8 else 0.0
    no_bias = np.zeros(packed.n_tiles * LANES, dtype=np.float32)
    inner = inner_group(packed.group_size, packed.n_in)
    numbers = [
        packed.codes.ctypes.data,
        packed.scale.ctypes.data,
        zero.ctypes.data,
        levels.ctypes.data,
        no_bias.ctypes.data,
        step,
        step * packed.n_groups,
        packed.n_out,
        packed.n_in,
        packed.n_tiles,
        packed.n_groups,
        packed.codes.shape[2],
        packed.padded_group,
        inner.size,
        max(1, min(packed.group_size, packed.n_in)),
        inner.parts,
    ]
    return np.array(numbers, dtype=np.int64), (levels, zero, no_bias)


def _levels(packed: PackedWeight) -> NDArray[np.float32]:
    """Return the values of codes less the zero point, where all groups have the same.

    A code of fewer than 4 bits is looked up together with the bits above it, so the
    values repeat. All are exact: integers and halves, or those of the codebook.
    """
    levels = aligned_empty((LEVELS,), np.float32)
    if packed.codebook is not None:
        levels[:] = packed.codebook
    else:
        levels[:] = np.arange(LEVELS) % 2**packed.bits - packed.twice_zero / 2
    return levels
