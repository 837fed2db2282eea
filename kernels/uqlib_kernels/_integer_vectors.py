"""Integer products of rows and a packed weight, in vector instructions.

The loops around the blocks of `_dot`. Tiles that fit the second cache together are
outermost, so that weights come from memory once for all rows of a call; then go rows,
eight at a time, whose bytes stay in the first cache; then tiles, two at a time.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from uqlib_kernels._dot import MOST_ROWS, dot_block
from uqlib_kernels._integer_plan import PLAN, ROWS, field
from uqlib_kernels._ir import require_version
from uqlib_kernels._jit import only_form, row_jit
from uqlib_kernels._quantize_rows_vectors import quantize_part

__all__ = ["integer_kernel"]

KERNEL_VERSION = 2
require_version(KERNEL_VERSION)

_N_OUT, _N_GROUPS = field("n_out"), field("n_groups")
_N_TILES, _N_WORDS = field("n_tiles"), field("n_words")
_PADDED, _ZERO_BIAS = field("padded_group"), field("zero_bias")

_TILE_BYTES = 2**19  # of tiles that rows go over together: half of the second cache
_CODE_BYTES = 2**21  # of rows that are rounded together

Plan = NDArray[np.int64]
Floats = NDArray[np.float32]

_VECTOR = types.Array(types.float32, 1, "C", readonly=True)
_ARGUMENTS = (
    PLAN,
    ROWS,
    types.Array(types.int8, 2, "C", readonly=True),
    types.Array(types.int32, 2, "C", readonly=True),
    _VECTOR,
    _VECTOR,
    types.Array(types.float32, 2, "C"),
    *(types.int64,) * 4,
    types.float64,
    types.float64,
)


@cache
def integer_kernel(bits: int) -> Any:
    """Return the kernel for a weight of `bits` bits, compiled.

    Its arguments are (plan, x, codes, sums, row_scale, bias, out, row_start, row_stop,
    tile_start, tile_stop, top, static_scale). If `codes` has no rows, rows of x are
    rounded a block at a time; else `codes`, `sums` and `row_scale` are all rows rounded
    already. `bias` may be empty.
    """
    return only_form(_KERNELS[bits], _ARGUMENTS)


def _kernel(bits: int) -> Any:
    # A closure over nothing but a number, which the cache on disk can tell apart.
    def multiply(
        plan: Plan,
        x: Floats,
        codes: NDArray[np.int8],
        sums: NDArray[np.int32],
        row_scale: Floats,
        bias: Floats,
        out: Floats,
        row_start: int,
        row_stop: int,
        tile_start: int,
        tile_stop: int,
        top: float,
        static_scale: float,
    ) -> None:
        n_out, n_groups = plan[_N_OUT], plan[_N_GROUPS]
        n_padded = n_groups * plan[_PADDED]
        at_plan = np.int64(plan.ctypes.data)
        at_out = np.int64(out.ctypes.data)
        at_bias = plan[_ZERO_BIAS]
        if bias.shape[0] > 0:
            at_bias = np.int64(bias.ctypes.data)
        tile_bytes = n_groups * plan[_N_WORDS] * 64
        tile_step = max(2, _TILE_BYTES // tile_bytes // 2 * 2)
        row_step = row_stop - row_start
        round_here = codes.shape[0] == 0
        n_scratch = 0
        if round_here:
            fitting = max(1, min(_CODE_BYTES, plan[_N_TILES] * tile_bytes) // n_padded)
            row_step = min(row_step, -(-fitting // MOST_ROWS) * MOST_ROWS)
            n_scratch = row_step
        own_codes = np.empty((n_scratch, n_padded), dtype=np.int8)
        own_sums = np.empty((n_scratch, n_groups), dtype=np.int32)
        own_scale = np.empty(n_scratch, dtype=np.float32)
        for start in range(row_start, row_stop, row_step):
            stop = min(start + row_step, row_stop)
            if round_here:
                quantize_part(
                    plan,
                    x,
                    own_codes,
                    own_sums,
                    own_scale,
                    start,
                    stop,
                    top,
                    static_scale,
                )
                at_codes = np.int64(own_codes.ctypes.data)
                at_sums = np.int64(own_sums.ctypes.data)
                at_scale = np.int64(own_scale.ctypes.data)
            else:
                at_codes = np.int64(codes.ctypes.data) + start * n_padded
                at_sums = np.int64(sums.ctypes.data) + 4 * start * n_groups
                at_scale = np.int64(row_scale.ctypes.data) + 4 * start
            for first in range(tile_start, tile_stop, tile_step):
                last = min(first + tile_step, tile_stop)
                for m in range(0, stop - start, MOST_ROWS):
                    count = min(stop - start - m, MOST_ROWS)
                    row_codes = at_codes + m * n_padded
                    row_sums = at_sums + 4 * m * n_groups
                    scales = at_scale + 4 * m
                    row_out = at_out + 4 * (start + m) * n_out
                    for tile in range(first, last, 2):
                        dot_block(
                            at_plan,
                            tile,
                            row_codes,
                            row_sums,
                            scales,
                            at_bias,
                            row_out,
                            count,
                            bits,
                        )

    return row_jit(multiply)


_KERNELS = {bits: _kernel(bits) for bits in (8, 4, 2, 1)}
