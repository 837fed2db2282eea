r"""Products of rows with a weight of one bit, by looking up sums of activations.

Rows are rounded to 6 bits, t_m = max_k abs(x[m, k]) / 31 and a = rint(x / t), and

    y[m, n] = t_m sum_g s[n, g] sum_{k in g} (q[n, k] - z[n, g]) a[m, k] + b[n]

with exact inner sums: the same bits at every level of instructions.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._integer_plan import plan_of
from uqlib_kernels._packed import PackedWeight
from uqlib_kernels._threads import in_parts, n_threads
from uqlib_kernels.registry import isa

__all__ = ["lookup_linear"]

Floats = NDArray[np.float32]

TOP = 31
_NO_BIAS = np.empty(0, dtype=np.float32)
# A lookup takes four products, and a vector of them less time than one of products.
_FASTER = 8
_MANY_ROWS = 64  # of each thread: they read the weights once each


def lookup_linear(
    x: Floats,
    packed: PackedWeight,
    bias: Floats | None = None,
    *,
    level: str | None = None,
) -> Floats:
    """Round rows to 6 bits and multiply them with a weight of one bit.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_in)
        float32, of any strides; it is not written to.
    packed : PackedWeight
        Of `pack_w1`.
    bias : ndarray of shape (n_out,), default=None
        float32, contiguous. Added.
    level : {"amx", "vnni", "portable"}, default=None
        Level of instructions; None for the best.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32. NaN in rows that hold NaN or infinity.

    See Also
    --------
    uqlib_kernels._integer.integer_linear : Rounds to 8 bits.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels._lookup import lookup_linear
    >>> from uqlib_kernels.pack import pack_w1
    >>> packed = pack_w1(np.array([[1.0, -1.0]]))
    >>> lookup_linear(np.array([[31.0, 10.0]], dtype=np.float32), packed)
    array([[21.]], dtype=float32)
    """
    if (level or isa()) == "portable":
        from uqlib_kernels._integer import integer_linear

        return integer_linear(x, packed, bias, top=TOP, level="portable")
    n_rows, n_tiles = x.shape[0], packed.n_tiles
    out = np.empty((n_rows, packed.n_out), dtype=np.float32)
    if n_rows == 0:
        return out
    kernel, plan = _kernel(), plan_of(packed)
    added = _NO_BIAS if bias is None else bias
    work = float(out.size) * packed.n_in / _FASTER
    threads = n_threads(work)
    if threads == 1:
        kernel(plan, x, added, out, 0, n_rows, 0, n_tiles)
    elif n_rows >= _MANY_ROWS * threads:
        in_parts(
            lambda start, stop: kernel(plan, x, added, out, start, stop, 0, n_tiles),
            n_rows,
            work,
            multiple=4,
        )
    else:
        in_parts(
            lambda start, stop: kernel(plan, x, added, out, 0, n_rows, start, stop),
            n_tiles,
            work,
            multiple=2,
        )
    return out


@cache
def _kernel() -> Any:
    from uqlib_kernels._lookup_simd import lookup_kernel

    return lookup_kernel()
