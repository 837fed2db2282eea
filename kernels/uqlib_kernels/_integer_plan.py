"""What the kernels of integer products need to know of a packed weight.

A plan is an array of addresses and sizes, made once a weight and kept with it: passing
one array costs a fraction of what a dozen arguments cost at one row.
"""

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from uqlib_kernels._packed import LANES, PackedWeight, columns_of_word

__all__ = [
    "FIELDS",
    "PLAN",
    "ROWS",
    "ZERO_REACH",
    "field",
    "plan_of",
    "refuse_codebook",
]

Plan = NDArray[np.int64]

FIELDS = (
    "codes",  # addresses
    "scale",
    "zero_point",  # 0 where all are equal
    "zero_bias",  # zeros for all outputs
    "twice_zero",
    "n_out",
    "n_in",
    "n_tiles",
    "n_groups",
    "n_words",  # of a group
    "padded_group",
    "inner_group",
    "group_size",
)

# Twice a zero point is an integer up to this and a float beyond: two products of up to
# 510 with the sum of pack.MAX_GROUP bytes stay below 2^31.
ZERO_REACH = 510

_KEY = "_integer_plan"

# Numba's types of arguments: a plan, and rows of any strides that are not written to.
PLAN = types.Array(types.int64, 1, "C")
ROWS = types.Array(types.float32, 2, "A", readonly=True)


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
        With integer codes.

    Returns
    -------
    ndarray of shape (n_fields,)
        int64, in the order of `FIELDS`. The addresses hold as long as `packed` lives.

    Raises
    ------
    ValueError
        If the weight has a codebook.
    """
    plan: Plan = packed.kept(_KEY, _made)[0]
    return plan


def refuse_codebook(packed: PackedWeight) -> None:
    """Raise ValueError if a weight has no integers for levels.

    Parameters
    ----------
    packed : PackedWeight
        Any.
    """
    if packed.codebook is not None:
        raise ValueError(
            "packed holds a codebook, whose values are no integers: use linear_w4a32."
        )


def _made(packed: PackedWeight) -> tuple[Plan, Any]:
    """Return the plan and the array of zeros, of which it holds the address."""
    refuse_codebook(packed)
    zero_bias = np.zeros(packed.n_tiles * LANES, dtype=np.float32)
    zero_point = packed.zero_point
    addresses = [
        packed.codes.ctypes.data,
        packed.scale.ctypes.data,
        0 if zero_point is None else zero_point.ctypes.data,
        zero_bias.ctypes.data,
    ]
    sizes = [
        packed.twice_zero,
        packed.n_out,
        packed.n_in,
        packed.n_tiles,
        packed.n_groups,
        packed.padded_group // columns_of_word(packed.bits),
        packed.padded_group,
        packed.inner_group,
        max(1, min(packed.group_size, packed.n_in)),
    ]
    return np.array(addresses + sizes, dtype=np.int64), zero_bias
