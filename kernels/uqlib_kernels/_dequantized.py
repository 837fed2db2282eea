"""Products of rows of floats with the float values of a packed weight, of any bits.

With vector instructions the values are made in registers (`_codebook_simd`). Without,
panels of the weight become floats, one after the other, and go to BLAS: a panel has at
most `PANEL` floats, or 16 outputs if those are more, and is used for all rows.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._codebook import vector_linear
from uqlib_kernels._packed import LANES, PackedWeight, inner_group
from uqlib_kernels.registry import isa

__all__ = ["PANEL", "dequantized_linear", "panel_linear"]

Floats = NDArray[np.float32]

PANEL = 2**18  # floats, 1 MiB

_NO_LEVELS = np.empty(0, dtype=np.float32)


def dequantized_linear(
    x: Floats,
    packed: PackedWeight,
    bias: Floats | None = None,
    *,
    level: str | None = None,
) -> Floats:
    """Multiply rows of floats with a weight of any bits.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_in)
        float32, of any strides; it is not written to.
    packed : PackedWeight
        Any.
    bias : ndarray of shape (n_out,), default=None
        float32, contiguous. Added.
    level : {"amx", "vnni", "portable"}, default=None
        Level of instructions; None for the best.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels._dequantized import dequantized_linear
    >>> from uqlib_kernels.pack import pack_w8
    >>> packed = pack_w8(np.array([[2.0, 127.0]]))
    >>> dequantized_linear(np.array([[0.5, 1.0]], dtype=np.float32), packed)
    array([[128.]], dtype=float32)
    """
    if (level or isa()) == "portable":
        return panel_linear(x, packed, bias)
    return vector_linear(x, packed, bias)


def panel_linear(x: Floats, packed: PackedWeight, bias: Floats | None = None) -> Floats:
    """Multiply rows of floats with a weight of any bits, by panels and BLAS.

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
    from uqlib_kernels._dequantized_portable import panel_kernel

    if not (x.flags.c_contiguous or x.flags.f_contiguous):
        x = np.ascontiguousarray(x)  # once, not once a panel
    out = np.empty((x.shape[0], packed.n_out), dtype=np.float32)
    n_tiles = max(1, PANEL // (LANES * packed.n_in))
    width = LANES * min(n_tiles, packed.n_tiles)
    panel = np.empty((packed.n_in, width), dtype=np.float32)
    fill_panel, arguments = panel_kernel(), _arguments(packed)
    for start in range(0, packed.n_out if x.shape[0] else 0, width):
        stop = min(start + width, packed.n_out)
        fill_panel(*arguments, start // LANES, -(-stop // LANES), panel)
        np.matmul(x, panel[:, : stop - start], out=out[:, start:stop])
    if bias is not None:
        out += bias
    return out


def _arguments(packed: PackedWeight) -> tuple[object, ...]:
    """Return what `fill_panel` needs to know of a weight."""
    zero = packed.zero_point
    if zero is None:
        zero = np.full((1, 1, LANES), packed.twice_zero / 2, dtype=np.float32)
    levels = _NO_LEVELS if packed.codebook is None else packed.codebook
    inner = inner_group(packed.group_size, packed.n_in)
    group_size = max(1, min(packed.group_size, packed.n_in))
    words = packed.codes.view(np.int32)[..., 0]
    return (
        *(words, packed.scale, zero, levels),
        *(packed.bits, group_size, inner.size, inner.parts),
    )
