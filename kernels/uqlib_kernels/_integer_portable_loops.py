"""The loops of `_integer_portable`, plain ones, which a compiler makes vectors of."""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from uqlib_kernels._jit import only_form, row_jit

__all__ = ["panel_kernel", "rows_kernel"]

Codes = NDArray[np.int8]
Weights = NDArray[np.uint8]
Sums = NDArray[np.int32]
Floats = NDArray[np.float32]

_OUTPUTS = types.Array(types.float32, 2, "C")  # (n_groups, outputs)
_ROW = types.Array(types.float32, 1, "C")
_MATRIX = types.Array(types.float32, 2, "C")


@cache
def rows_kernel() -> Any:
    """Return `_multiply_rows`, compiled."""
    given = (
        types.Array(types.int8, 2, "C", readonly=True),
        types.Array(types.int32, 2, "C", readonly=True),
        types.Array(types.uint8, 2, "C"),
        *(_OUTPUTS,) * 3,
        *(_MATRIX, types.int64, types.int64),
    )
    return only_form(_multiply_rows, given)


@cache
def panel_kernel() -> Any:
    """Return `_add_panel`, compiled."""
    given = (
        *(_MATRIX, types.Array(types.int32, 2, "C"), types.boolean, types.boolean),
        *(types.int32, types.Array(types.int32, 1, "C"), *(_ROW,) * 3, _MATRIX),
    )
    return only_form(_add_panel, given)


@row_jit
def _add(
    total: Any, product: Any, row_sum: Any, twice: Any, rest: Any, scale: Any
) -> Any:
    """Return total + scale (2 p - i s - f s), rounded after each operation."""
    offset = np.int32(np.int32(twice) * row_sum)
    exact = np.float32(np.int32(np.int32(2) * product - offset))
    value = np.float32(exact - np.float32(rest * np.float32(row_sum)))
    return np.float32(total + np.float32(value * scale))


# Products and sums are made 32 bits wide at each step: only so do they become vectors.
# Slices are made where they are used: handed on, each costs as much as a short row.


@row_jit
def _one_row(
    x: Codes, w: Weights, n: int, b: int, c: int, d: int, start: int, stop: int
) -> tuple[Any, Any, Any, Any]:
    """Return the products of a single row with four outputs."""
    row = x[0, start:stop]
    w0, w1 = w[n, start:stop], w[b, start:stop]
    w2, w3 = w[c, start:stop], w[d, start:stop]
    p = q = r = s = np.int32(0)
    for k in range(stop - start):
        v = np.int32(row[k])
        p = np.int32(p + np.int32(v * np.int32(w0[k])))
        q = np.int32(q + np.int32(v * np.int32(w1[k])))
        r = np.int32(r + np.int32(v * np.int32(w2[k])))
        s = np.int32(s + np.int32(v * np.int32(w3[k])))
    return p, q, r, s


@row_jit
def _two_rows(
    x: Codes, w: Weights, m: int, y: int, n: int, b: int, start: int, stop: int
) -> tuple[Any, Any, Any, Any]:
    """Return the products of rows m and y with outputs n and b."""
    x0, x1 = x[m, start:stop], x[y, start:stop]
    w0, w1 = w[n, start:stop], w[b, start:stop]
    p = q = r = s = np.int32(0)
    for k in range(stop - start):
        v, u = np.int32(x0[k]), np.int32(x1[k])
        i, j = np.int32(w0[k]), np.int32(w1[k])
        p = np.int32(p + np.int32(v * i))
        q = np.int32(q + np.int32(v * j))
        r = np.int32(r + np.int32(u * i))
        s = np.int32(s + np.int32(u * j))
    return p, q, r, s


@row_jit
def _multiply_rows(
    codes: Codes,
    sums: Sums,
    expanded: Weights,
    twice: Floats,
    rest: Floats,
    scale: Floats,
    out: Floats,
    start: int,
    stop: int,
) -> None:
    """Write the sums of all groups for the outputs start, ..., stop - 1.

    What is missing at the end of a block repeats what is there, and is left out.
    """
    n_rows, n_groups = sums.shape
    padded = codes.shape[1] // n_groups
    single = n_rows == 1
    out[:, start:stop] = 0.0
    for n in range(start, stop, 4 if single else 2):
        b, c, d = min(n + 1, stop - 1), min(n + 2, stop - 1), min(n + 3, stop - 1)
        for g in range(n_groups):
            first, last = g * padded, (g + 1) * padded
            for m in range(0, n_rows, 2):
                if single:
                    found = _one_row(codes, expanded, n, b, c, d, first, last)
                    rows, outputs = (0, 0, 0, 0), (n, b, c, d)
                    new = True, b > n, c > b, d > c
                else:
                    y = min(m + 1, n_rows - 1)
                    found = _two_rows(codes, expanded, m, y, n, b, first, last)
                    rows, outputs = (m, m, y, y), (n, b, n, b)
                    new = True, b > n, y > m, b > n and y > m
                for i in range(4):
                    if new[i]:
                        r, o = rows[i], outputs[i]
                        out[r, o] = _add(
                            out[r, o],
                            found[i],
                            sums[r, g],
                            twice[g, o],
                            rest[g, o],
                            scale[g, o],
                        )


@row_jit
def _add_panel(
    products: Floats,
    carried: Sums,
    carry: bool,
    last: bool,
    center: int,
    row_sums: Sums,
    twice: Floats,
    rest: Floats,
    scale: Floats,
    totals: Floats,
) -> None:
    """Add products with centered codes to a panel of totals.

    `carry` says that a group has several runs of columns; all but the `last` of them
    are only added up, in `carried`.
    """
    for m in range(totals.shape[0]):
        row_sum = row_sums[m]
        extra = np.int32(center * row_sum)
        if carry:
            for n in range(totals.shape[1]):
                carried[m, n] += np.int32(products[m, n])
        if not last:
            continue
        for n in range(totals.shape[1]):
            product = np.int32(products[m, n])
            if carry:
                product = carried[m, n]
                carried[m, n] = 0
            totals[m, n] = _add(
                totals[m, n],
                np.int32(product + extra),
                row_sum,
                twice[n],
                rest[n],
                scale[n],
            )
