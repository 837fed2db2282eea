"""All layers of a network in one call, a block of rows at a time.

The plan of a network is one array of 64-bit integers: a head of `HEAD` numbers, then
`FIELDS` for each layer. Addresses are numbers in it, so that a call passes few
arguments; whoever made the plan keeps the arrays.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._ir import require_version
from uqlib_kernels._jit import row_jit
from uqlib_kernels._mlp_vectors import (
    bend_row,
    multiply_rows,
    number_at,
    read_row,
    round_row,
)

__all__ = ["FIELDS", "HEAD", "KERNEL_VERSION", "forward"]

KERNEL_VERSION = 2
require_version(KERNEL_VERSION)

# Of the head: layers, columns, columns of the widest row, address of the divisors.
HEAD = 4
# Of a layer: addresses of codes, constants and factors; words, tiles, outputs, padded
# outputs, function after it, and the bits of top, fixed scale and floor (float64).
FIELDS = 11
_BLOCK = 32  # rows
_IDENTITY, _TANH, _LOGISTIC, _SILU = 0, 1, 2, 3


@row_jit
def forward(
    x: NDArray[Any], plan: NDArray[np.int64], out: NDArray[np.float32], start: Any
) -> None:
    """Write the outputs of the rows of x from row `start` of `out` on.

    The columns of a row of x are contiguous; rows may be anywhere.
    """
    _blocks(
        np.int64(x.ctypes.data),
        np.int64(x.itemsize),
        np.int64(x.strides[0]),
        np.int64(x.shape[0]),
        plan,
        out,
        np.int64(start),
    )


@row_jit
def _blocks(
    source: Any,
    itemsize: Any,
    step: Any,
    n_rows: Any,
    plan: NDArray[np.int64],
    out: NDArray[np.float32],
    start: Any,
) -> None:
    numbers = plan.view(np.float64)
    n_layers, n_columns, width, divisor = plan[0], plan[1], plan[2], plan[3]
    block = min(max(n_rows, 1), _BLOCK)
    memory = np.empty(block * (5 * width + 8) + 128, dtype=np.uint8)
    first = np.int64(memory.ctypes.data)
    floats = (first + 63) & ~np.int64(63)
    codes = floats + 4 * width * block
    states = codes + width * block
    values = memory[floats - first : codes - first].view(np.float32)
    values = values.reshape(block, width)
    for begin in range(0, n_rows, block):
        count = min(block, n_rows - begin)
        words = plan[HEAD + 3]
        for r in range(count):
            for k in range(n_columns, 4 * words):
                values[r, k] = 0.0
            at = source + (begin + r) * step
            if n_columns < 16:
                _read_short(at, itemsize, values[r], divisor, n_columns)
            elif itemsize == 8:
                read_row(at, divisor, n_columns, floats + 4 * width * r, 8)
            else:
                read_row(at, divisor, n_columns, floats + 4 * width * r, 4)
        for layer in range(n_layers):
            base = HEAD + FIELDS * layer
            n_vectors = plan[base + 3] // 4
            top = np.float32(numbers[base + 8])
            fixed = np.float32(numbers[base + 9])
            for r in range(count):
                row = floats + 4 * width * r
                code, state = codes + width * r, states + 8 * r
                if layer == 0:
                    round_row(row, n_vectors, code, state, top, fixed, 1)
                else:
                    round_row(row, n_vectors, code, state, top, fixed, 0)
            _products(plan, numbers, base, codes, states, floats, width, count)
            if layer + 1 < n_layers:
                _between(plan, base, values, floats, width, count)
        n_outputs = plan[HEAD + FIELDS * (n_layers - 1) + 5]
        for r in range(count):
            for k in range(n_outputs):
                out[start + begin + r, k] = values[r, k]


@row_jit
def _read_short(
    source: Any,
    itemsize: Any,
    row: NDArray[np.float32],
    divisor: Any,
    n_columns: Any,
) -> None:
    """Read fewer than 16 numbers: they come with others that nobody looks at."""
    for k in range(n_columns):
        if itemsize == 8:
            number = number_at(source + 8 * k, 8)
        else:
            number = number_at(source + 4 * k, 4)
        row[k] = number / number_at(divisor + 4 * k, 4)


@row_jit
def _products(
    plan: NDArray[np.int64],
    numbers: NDArray[np.float64],
    base: Any,
    codes: Any,
    states: Any,
    floats: Any,
    width: Any,
    count: Any,
) -> None:
    """Write the products of all rows and tiles of a layer.

    Four tiles of the weight stay in the nearest cache while all rows pass.
    """
    weight, constants = plan[base], plan[base + 1]
    words, tiles = plan[base + 3], plan[base + 4]
    floor = np.float32(numbers[base + 10])
    size = 64 * words
    step = 4 * width
    tile = 0
    while tile + 4 <= tiles:
        q, c = weight + tile * size, constants + 192 * tile
        y = floats + 64 * tile
        r = 0
        while r + 4 <= count:
            a, s = codes + width * r, states + 8 * r
            multiply_rows(q, c, words, a, width, s, y + step * r, step, floor, 4, 4, 1)
            r += 4
        while r < count:
            a, s = codes + width * r, states + 8 * r
            multiply_rows(q, c, words, a, width, s, y + step * r, step, floor, 1, 4, 2)
            r += 1
        tile += 4
    while tile < tiles:
        q, c = weight + tile * size, constants + 192 * tile
        y = floats + 64 * tile
        r = 0
        while r + 4 <= count:
            a, s = codes + width * r, states + 8 * r
            multiply_rows(q, c, words, a, width, s, y + step * r, step, floor, 4, 1, 2)
            r += 4
        while r < count:
            a, s = codes + width * r, states + 8 * r
            multiply_rows(q, c, words, a, width, s, y + step * r, step, floor, 1, 1, 4)
            r += 1
        tile += 1


@row_jit
def _between(
    plan: NDArray[np.int64],
    base: Any,
    values: NDArray[np.float32],
    floats: Any,
    width: Any,
    count: Any,
) -> None:
    """Apply the activation after a layer; zeros where the next has its padding."""
    factors, tiles, outputs = plan[base + 2], plan[base + 4], plan[base + 5]
    padded, function = plan[base + 6], plan[base + 7]
    for r in range(count):
        row = floats + 4 * width * r
        if function == _TANH:
            bend_row(row, tiles, factors, "tanh")
        elif function == _LOGISTIC:
            bend_row(row, tiles, factors, "logistic")
        elif function == _SILU:
            bend_row(row, tiles, factors, "silu")
        for k in range(outputs, padded):
            values[r, k] = 0.0
