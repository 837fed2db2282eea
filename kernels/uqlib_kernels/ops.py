r"""Products of rows with packed weights: y = x W^T + b.

In the operations of the kind a8 the rows are rounded to signed bytes, each with a scale
of its own,

    t_m = max_k abs(x[m, k]) / 127,      a[m, k] = rint(x[m, k] / t_m),

and the products are sums of integers, exact until they are scaled:

    y[m, n] = t_m sum_g s[n, g] sum_{k in g} (q[n, k] - z[n, g]) a[m, k] + b[n] .

A row of zeros gives b; a row with an infinite value or NaN gives NaN. All take and
return single precision.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels.pack import PackedWeight

__all__ = [
    "linear_dequantized",
    "linear_w1",
    "linear_w2a8",
    "linear_w4a8",
    "linear_w4a32",
    "linear_w8a8",
]

Floats = NDArray[np.float32]


def linear_w8a8(x: Any, packed: PackedWeight, bias: Any = None) -> Floats:
    """Multiply rows of bytes with a weight of 8 bits, in integers.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_in)
        Rows, rounded as the module says; of any strides.
    packed : PackedWeight
        Of `pack_w8`.
    bias : array-like of shape (n_out,), default=None
        Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.

    Raises
    ------
    ValueError
        If shapes do not fit, or `packed` is of another kind.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.ops import linear_w8a8
    >>> from uqlib_kernels.pack import pack_w8
    >>> linear_w8a8(np.array([[127.0, 1.0]]), pack_w8(np.array([[2.0, 127.0]])))
    array([[381.]], dtype=float32)
    """
    x, bias = _operands(x, packed, bias, 8)
    return _integer(x, packed, bias)


def linear_w4a8(x: Any, packed: PackedWeight, bias: Any = None) -> Floats:
    """Multiply rows of bytes with a weight of 4 bits, in integers.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_in)
        Rows, rounded as the module says; of any strides.
    packed : PackedWeight
        Of `pack_w4`.
    bias : array-like of shape (n_out,), default=None
        Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    x, bias = _operands(x, packed, bias, 4)
    return _integer(x, packed, bias)


def linear_w2a8(x: Any, packed: PackedWeight, bias: Any = None) -> Floats:
    """Multiply rows of bytes with a weight of 2 bits, in integers.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_in)
        Rows, rounded as the module says; of any strides.
    packed : PackedWeight
        Of `pack_w2`.
    bias : array-like of shape (n_out,), default=None
        Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    x, bias = _operands(x, packed, bias, 2)
    return _integer(x, packed, bias)


def linear_w1(x: Any, packed: PackedWeight, bias: Any = None) -> Floats:
    r"""Multiply rows with a weight of one bit, by looking up sums.

    Rows are rounded to 6 bits: t_m = max_k abs(x[m, k]) / 31 and abs(a) <= 31, so that
    a sum of four is a signed byte. The 16 sums that four of them can have with the bits
    0 and 1 are a table that all rows of the weight look up.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_in)
        Rows; of any strides.
    packed : PackedWeight
        Of `pack_w1`.
    bias : array-like of shape (n_out,), default=None
        Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    from uqlib_kernels._lookup import lookup_linear

    x, bias = _operands(x, packed, bias, 1)
    return lookup_linear(x, packed, bias)


def linear_w4a32(x: Any, packed: PackedWeight, bias: Any = None) -> Floats:
    """Multiply rows of floats with a weight of 4 bits or of a codebook.

    Without vector instructions the float matrix is made once and kept with `packed`.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_in)
        Rows, which stay in single precision; of any strides.
    packed : PackedWeight
        Of `pack_codebook` or `pack_w4`.
    bias : array-like of shape (n_out,), default=None
        Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    from uqlib_kernels._codebook import codebook_linear

    x, bias = _operands(x, packed, bias, 4, any_codebook=True)
    return codebook_linear(x, packed, bias)


def linear_dequantized(x: Any, packed: PackedWeight, bias: Any = None) -> Floats:
    """Multiply rows of floats with the float values of a packed weight.

    The values are made in registers, or, without vector instructions, panel by panel
    for BLAS; the whole float matrix is never held.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_in)
        Rows, which stay in single precision; of any strides.
    packed : PackedWeight
        Any.
    bias : array-like of shape (n_out,), default=None
        Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    from uqlib_kernels._dequantized import dequantized_linear

    x, bias = _operands(x, packed, bias, None, any_codebook=True)
    return dequantized_linear(x, packed, bias)


def _integer(x: Floats, packed: PackedWeight, bias: Floats | None) -> Floats:
    from uqlib_kernels._integer import integer_linear

    return integer_linear(x, packed, bias)


def _operands(
    x: Any,
    packed: PackedWeight,
    bias: Any,
    bits: int | None,
    any_codebook: bool = False,
) -> tuple[Floats, Floats | None]:
    """Return x and bias in single precision, of shapes that fit."""
    if not isinstance(packed, PackedWeight):
        raise TypeError(
            f"packed must be a PackedWeight, got {type(packed).__name__}: see "
            "uqlib_kernels.pack."
        )
    wrong_bits = bits is not None and packed.bits != bits
    if wrong_bits or (packed.codebook is not None and not any_codebook):
        kind = "a codebook" if packed.codebook is not None else f"{packed.bits} bits"
        raise ValueError(f"packed holds {kind}: use the operation of that name.")
    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != packed.n_in:
        raise ValueError(
            f"x must have shape (n_rows, {packed.n_in}), got shape {x.shape}."
        )
    if bias is not None:
        bias = np.ascontiguousarray(bias, dtype=np.float32)
        if bias.shape != (packed.n_out,):
            raise ValueError(
                f"bias must have shape ({packed.n_out},), got shape {bias.shape}."
            )
    return x, bias
