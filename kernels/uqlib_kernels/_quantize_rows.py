r"""Round rows of floats to signed bytes, each row with a scale of its own.

    t_m = max_k abs(x[m, k]) / top,      a[m, k] = clip(rint(x[m, k] / t_m), -top, top)

in single precision with true divisions, so that NumPy gives the same bits. The bytes
lie in the order of the columns of a packed weight, with zeros in the padding of its
groups (pack.py), and come with their sums over each group, by which kernels take off
zero points.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from uqlib_kernels._integer_plan import PLAN, ROWS, field, plan_of
from uqlib_kernels._jit import only_form, row_jit
from uqlib_kernels._packed import PackedWeight, aligned_empty
from uqlib_kernels._threads import in_parts
from uqlib_kernels.registry import isa

__all__ = [
    "QuantizedRows",
    "checked_scale",
    "quantize_part",
    "quantize_rows",
    "quantizer",
]

Floats = NDArray[np.float32]
QuantizedRows = tuple[NDArray[np.int8], NDArray[np.int32], Floats]

_N_IN, _GROUP_SIZE = field("n_in"), field("group_size")
_INNER, _PADDED = field("inner_group"), field("padded_group")

_ABSOLUTE = np.int32(0x7FFFFFFF)
_INFINITE = np.int32(0x7F800000)  # bits of infinity; those of NaN are larger
_LEAST = float(np.finfo(np.float32).smallest_subnormal)
_MOST = float(np.finfo(np.float32).max)
# Adding and taking off 3 * 2^22 rounds a small float to an even integer, in any loop.
_ROUNDER = np.float32(12582912.0)
# Rounding a number takes as long as some of the products that threads are counted in.
_WORK = 32


def quantize_rows(
    x: Floats,
    packed: PackedWeight,
    top: int = 127,
    static_scale: float | None = None,
    *,
    level: str | None = None,
) -> QuantizedRows:
    r"""Round rows to signed bytes, as the module says.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_in)
        float32, of any strides; it is not written to.
    packed : PackedWeight
        Gives the order of the columns.
    top : int, default=127
        Largest code, between 1 and 127.
    static_scale : float, default=None
        A scale for all rows, positive and finite; values beyond `top` times it are cut
        off. None gives each row its own, 1 to a row of zeros.
    level : {"amx", "vnni", "portable"}, default=None
        Level of instructions; None for the best.

    Returns
    -------
    codes : ndarray of shape (n_rows, n_padded)
        int8, begins at a multiple of 64 bytes.
    sums : ndarray of shape (n_rows, n_groups)
        int32, sums of the codes of a group.
    row_scale : ndarray of shape (n_rows,)
        float32. NaN, with codes of 0, for a row that holds NaN or infinity.

    Raises
    ------
    ValueError
        If `static_scale` or `top` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels._quantize_rows import quantize_rows
    >>> from uqlib_kernels.pack import pack_w8
    >>> x = np.array([[1.0, -2.0, 254.0]], dtype=np.float32)
    >>> codes, sums, row_scale = quantize_rows(x, pack_w8(np.ones((1, 3))))
    >>> codes[:, :3].tolist(), sums.tolist(), row_scale.tolist()
    ([[0, -1, 127]], [[126]], [2.0])
    """
    static = checked_scale(top, static_scale)
    n_rows = x.shape[0]
    plan = plan_of(packed)
    codes = aligned_empty((n_rows, packed.n_padded), np.int8)
    sums = np.empty((n_rows, packed.n_groups), dtype=np.int32)
    row_scale = np.empty(n_rows, dtype=np.float32)
    kernel = quantizer(level or isa())

    def run(start: int, stop: int) -> None:
        part = slice(start, stop)
        out = codes[part], sums[part], row_scale[part]
        kernel(plan, x, *out, start, stop, top, static)

    in_parts(run, n_rows, float(x.size) * _WORK)
    return codes, sums, row_scale


def checked_scale(top: int, static_scale: float | None) -> float:
    """Return the scale of all rows, 0 for None."""
    if not 1 <= top <= 127:
        raise ValueError(f"top={top!r} must lie between 1 and 127, to fit a byte.")
    if static_scale is None:
        return 0.0
    if not _LEAST <= static_scale <= _MOST:
        raise ValueError(
            f"static_scale={static_scale!r} must be positive and finite in single "
            "precision; None gives each row a scale of its own."
        )
    return float(np.float32(static_scale))


_ARGUMENTS = (
    PLAN,
    ROWS,
    types.Array(types.int8, 2, "C"),
    types.Array(types.int32, 2, "C"),
    types.Array(types.float32, 1, "C"),
    types.int64,
    types.int64,
    types.float64,
    types.float64,
)


@cache
def quantizer(level: str) -> Any:
    """Return the kernel of a level of instructions, compiled; see `quantize_part`."""
    kernel: Any = quantize_part
    if level != "portable":
        from uqlib_kernels import _quantize_rows_vectors

        kernel = _quantize_rows_vectors.quantize_part
    return only_form(kernel, _ARGUMENTS)


@row_jit
def quantize_part(
    plan: NDArray[np.int64],
    x: Floats,
    codes: NDArray[np.int8],
    sums: NDArray[np.int32],
    row_scale: Floats,
    start: int,
    stop: int,
    top: float,
    static_scale: float,
) -> None:
    """Round rows start, ..., stop - 1 of x to rows 0, ... of the other arrays.

    `static_scale` is 0 where each row has a scale of its own.
    """
    n_in, largest_code = plan[_N_IN], np.float32(top)
    group_size, inner, padded = plan[_GROUP_SIZE], plan[_INNER], plan[_PADDED]
    row = np.empty(n_in, dtype=np.float32)
    row_bits = row.view(np.int32)
    largest = np.empty(1, dtype=np.int32)
    largest_float = largest.view(np.float32)
    for m in range(start, stop):
        for k in range(n_in):
            row[k] = x[m, k]
        bits = np.int32(0)
        for k in range(n_in):
            bits = np.int32(max(bits, np.int32(row_bits[k] & _ABSOLUTE)))
        scale = np.float32(static_scale)
        if static_scale == 0.0:
            largest[0] = bits
            scale = largest_float[0] / largest_code
        if scale == 0.0:
            scale = np.float32(1.0)
        finite = bits < _INFINITE
        row_scale[m - start] = scale if finite else np.float32(np.nan)
        codes[m - start] = 0
        sums[m - start] = 0
        group = 0
        for whole in range(0, n_in, group_size):
            for part in range(0, group_size, inner):
                first = whole + part
                last = min(first + inner, whole + group_size, n_in)
                if finite and first < last:
                    at = group * padded
                    sums[m - start, group] = _round(
                        row[first:last],
                        scale,
                        largest_code,
                        codes[m - start, at : at + last - first],
                    )
                group += 1


@row_jit
def _round(row: Floats, scale: Any, top: Any, out: NDArray[np.int8]) -> Any:
    """Round a group of columns of a row; return the sum of the codes."""
    total = np.int32(0)
    for k in range(row.shape[0]):
        value = min(max(row[k] / scale, -top), top)
        code = np.int32((value + _ROUNDER) - _ROUNDER)
        out[k] = np.int8(code)
        total = np.int32(total + code)
    return total
