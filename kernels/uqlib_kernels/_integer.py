r"""Products of rows of bytes with packed weights of integers.

With the codes a of rows x = t a, codes q, zero points z and scales s of the weight,

    y[m, n] = t_m sum_g s[n, g] sum_{k in g} (q[n, k] - z[n, g]) a[m, k] + b[n],

whose inner sums are exact. All levels of instructions give the same bits, and so does
a row alone or among others: a result is rounded to single precision after each
operation on the sums, in one order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._integer_plan import plan_of
from uqlib_kernels._packed import PackedWeight
from uqlib_kernels._quantize_rows import checked_scale, quantize_rows
from uqlib_kernels._threads import SERIAL_WORK, in_parts, n_threads
from uqlib_kernels.registry import isa

__all__ = ["integer_linear", "integer_product"]

Floats = NDArray[np.float32]

_NO_ROWS = np.empty((0, 0), dtype=np.float32)
_NO_CODES = np.empty((0, 0), dtype=np.int8)
_NO_SUMS = np.empty((0, 0), dtype=np.int32)
_NO_FLOATS = np.empty(0, dtype=np.float32)
_KEY = "_integer_kernel"
_MANY_ROWS = 64  # of each thread: they read the weights once each


def integer_linear(
    x: Floats,
    packed: PackedWeight,
    bias: Floats | None = None,
    *,
    top: int = 127,
    static_scale: float | None = None,
    level: str | None = None,
) -> Floats:
    """Round rows to bytes and multiply them with a weight.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_in)
        float32, of any strides; it is not written to.
    packed : PackedWeight
        Of integers, any bits.
    bias : ndarray of shape (n_out,), default=None
        float32, contiguous. Added.
    top : int, default=127
        Largest code of a row, between 1 and 127.
    static_scale : float, default=None
        Scale of all rows; None gives each its own (see `quantize_rows`).
    level : {"amx", "vnni", "portable"}, default=None
        Level of instructions; None for the best.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32. NaN in rows that hold NaN or infinity.

    Raises
    ------
    ValueError
        If `static_scale` or `top` is out of range, or the weight has a codebook.

    See Also
    --------
    integer_product : Of rows that are bytes already.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels._integer import integer_linear
    >>> from uqlib_kernels.pack import pack_w8
    >>> x = np.array([[127.0, 1.0]], dtype=np.float32)
    >>> integer_linear(x, pack_w8(np.array([[2.0, 127.0]])))
    array([[381.]], dtype=float32)
    """
    if level is None:
        level = isa()
    n_rows = x.shape[0]
    work = n_rows * packed.n_out * packed.n_in
    if level == "amx" and not _tiles_take(packed, n_rows):
        level = "vnni"
    if level == "vnni" and n_rows:
        threads = 1 if work < SERIAL_WORK else n_threads(work)
        if threads == 1 or n_rows >= _MANY_ROWS * threads:
            return _in_one_call(x, packed, bias, top, static_scale, threads)
    rows = quantize_rows(x, packed, top, static_scale, level=level)
    return integer_product(*rows, packed, bias, level)


def _in_one_call(
    x: Floats,
    packed: PackedWeight,
    bias: Floats | None,
    top: int,
    static_scale: float | None,
    threads: int,
) -> Floats:
    """Round and multiply in one call, or in one a thread with rows of its own."""
    static = checked_scale(top, static_scale)
    kernel, plan, n_tiles = packed.kept(_KEY, _ready)
    n_rows = x.shape[0]
    out = np.empty((n_rows, packed.n_out), dtype=np.float32)
    # Here and below, plain arguments: at one row all else is part of the time.
    added = _NO_FLOATS if bias is None else bias
    no = _NO_CODES, _NO_SUMS, _NO_FLOATS
    if threads == 1:
        kernel(plan, x, *no, added, out, 0, n_rows, 0, n_tiles, top, static)
        return out

    def run(start: int, stop: int) -> None:
        kernel(plan, x, *no, added, out, start, stop, 0, n_tiles, top, static)

    in_parts(run, n_rows, n_rows * packed.n_out * packed.n_in, multiple=8)
    return out


def integer_product(
    codes: NDArray[np.int8],
    sums: NDArray[np.int32],
    row_scale: Floats,
    packed: PackedWeight,
    bias: Floats | None = None,
    level: str | None = None,
) -> Floats:
    """Multiply rows of bytes with a weight.

    Parameters
    ----------
    codes : ndarray of shape (n_rows, n_padded)
        int8, C-contiguous, as all that `quantize_rows` returns.
    sums : ndarray of shape (n_rows, n_groups)
        int32.
    row_scale : ndarray of shape (n_rows,)
        float32.
    packed : PackedWeight
        Of integers, any bits.
    bias : ndarray of shape (n_out,), default=None
        float32, contiguous. Added.
    level : {"amx", "vnni", "portable"}, default=None
        Level of instructions; None for the best.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.

    Raises
    ------
    ValueError
        If the weight has a codebook.

    See Also
    --------
    integer_linear : Rounds the rows too.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels._integer import integer_product
    >>> from uqlib_kernels._quantize_rows import quantize_rows
    >>> from uqlib_kernels.pack import pack_w8
    >>> packed = pack_w8(np.array([[2.0, 127.0]]))
    >>> rows = quantize_rows(np.array([[127.0, 1.0]], dtype=np.float32), packed)
    >>> integer_product(*rows, packed)
    array([[381.]], dtype=float32)
    """
    level = level or isa()
    if level == "amx" and _tiles_take(packed, codes.shape[0]):
        from uqlib_kernels._amx_gemm import amx_product

        return amx_product(codes, sums, row_scale, packed, bias)
    if level == "portable":
        from uqlib_kernels._integer_portable import portable_product

        return portable_product(codes, sums, row_scale, packed, bias)
    return _vector_product(codes, sums, row_scale, packed, bias)


def _tiles_take(packed: PackedWeight, n_rows: int) -> bool:
    from uqlib_kernels._amx_gemm import takes

    return takes(packed, n_rows)


def _vector_product(
    codes: NDArray[np.int8],
    sums: NDArray[np.int32],
    row_scale: Floats,
    packed: PackedWeight,
    bias: Floats | None,
) -> Floats:
    kernel, plan, n_tiles = packed.kept(_KEY, _ready)
    n_rows = codes.shape[0]
    out = np.empty((n_rows, packed.n_out), dtype=np.float32)
    if n_rows == 0:
        return out
    arrays = (codes, sums, row_scale, _NO_FLOATS if bias is None else bias, out)
    work = float(n_rows) * packed.n_out * packed.n_in

    def some_rows(start: int, stop: int) -> None:
        kernel(plan, _NO_ROWS, *arrays, start, stop, 0, n_tiles, 1.0, 0.0)

    def some_tiles(start: int, stop: int) -> None:
        kernel(plan, _NO_ROWS, *arrays, 0, n_rows, start, stop, 1.0, 0.0)

    if n_rows >= _MANY_ROWS * n_threads(work):
        in_parts(some_rows, n_rows, work, multiple=8)
    else:
        in_parts(some_tiles, n_tiles, work, multiple=2)
    return out


def _ready(packed: PackedWeight) -> tuple[Any, NDArray[np.int64], int]:
    """Return the kernel, the plan and the number of tiles."""
    # Compiled only where a level of instructions allows it.
    from uqlib_kernels._integer_vectors import integer_kernel

    return integer_kernel(packed.bits), plan_of(packed), packed.n_tiles
