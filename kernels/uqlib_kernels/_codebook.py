r"""Products of rows of floats with packed weights whose values are floats too.

    y[m, n] = sum_g s[n, g] sum_{k in g} (C[q[n, k]] - z[n, g]) x[m, k] + b[n]

in single precision, for any codebook C of 16 values or for integers, C[q] = q. A row of
x is never rounded; infinite values and NaN go through as in a product of floats.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._codebook_plan import plan_of
from uqlib_kernels._packed import PackedWeight
from uqlib_kernels._threads import SERIAL_WORK, in_parts
from uqlib_kernels.registry import isa

__all__ = ["codebook_linear", "vector_linear"]

Floats = NDArray[np.float32]

_NO_BIAS = np.empty(0, dtype=np.float32)
_SLOWER = 4  # products of floats than those of bytes


def codebook_linear(
    x: Floats,
    packed: PackedWeight,
    bias: Floats | None = None,
    *,
    level: str | None = None,
) -> Floats:
    """Multiply rows of floats with a weight of 4 bits.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_in)
        float32, of any strides; it is not written to.
    packed : PackedWeight
        Of `pack_codebook` or `pack_w4`.
    bias : ndarray of shape (n_out,), default=None
        float32, contiguous. Added.
    level : {"amx", "vnni", "portable"}, default=None
        Level of instructions; None for the best.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.

    See Also
    --------
    uqlib_kernels._dequantized.dequantized_linear : The same for all bits.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels._codebook import codebook_linear
    >>> from uqlib_kernels.pack import pack_codebook
    >>> packed = pack_codebook(np.array([[0, 2]]), [-1.0, 0.5, 3.0], scale=2.0)
    >>> codebook_linear(np.array([[10.0, 1.0]], dtype=np.float32), packed)
    array([[-14.]], dtype=float32)
    """
    if (level or isa()) == "portable":
        # Plain loops unpack nibbles more slowly than memory gives eight times as much.
        y: Floats = x @ packed.dequantized.T
        return y if bias is None else np.add(y, bias, out=y)
    return vector_linear(x, packed, bias)


def vector_linear(
    x: Floats, packed: PackedWeight, bias: Floats | None = None
) -> Floats:
    """Multiply rows of floats with any weight, in vector instructions.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_in)
        float32, of any strides; it is not written to.
    packed : PackedWeight
        Any.
    bias : ndarray of shape (n_out,), default=None
        float32, contiguous. Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    out = np.empty((x.shape[0], packed.n_out), dtype=np.float32)
    kernel, plan = _kernel(packed.bits), plan_of(packed)
    added = _NO_BIAS if bias is None else bias
    work = float(out.size) * packed.n_in * _SLOWER
    if work < SERIAL_WORK:
        kernel(plan, x, added, out, 0, packed.n_tiles)
        return out

    def run(first: int, stop: int) -> None:
        kernel(plan, x, added, out, first, stop)

    in_parts(run, packed.n_tiles, work, multiple=2)
    return out


@cache
def _kernel(bits: int) -> Any:
    from uqlib_kernels._codebook_simd import float_product

    return float_product(bits)
