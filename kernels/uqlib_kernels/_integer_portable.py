"""Integer products of rows and a packed weight on any machine.

Few rows are multiplied by plain loops over the codes, a byte each. Many rows go to BLAS
in single precision, which is exact as long as no partial sum in any order can exceed
2^24: codes are centered and groups are cut into runs of columns for that. Either way
the sums are the same integers, and what follows rounds as the vectors of `_dot` do.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._integer_plan import ZERO_REACH, refuse_codebook
from uqlib_kernels._integer_portable_loops import panel_kernel, rows_kernel
from uqlib_kernels._packed import LANES, PackedWeight
from uqlib_kernels._threads import in_parts

__all__ = ["portable_product"]

# Rows from which BLAS is faster than the loops; the latter lose by short groups.
_BLAS_ROWS, _BLAS_ROWS_SHORT, _SHORT = 64, 16, 256
_PANEL = (512, 256)  # rows and outputs of a product by BLAS
_EXACT_BITS = 24  # integers up to 2^24 are floats of single precision
_SPEED = 8  # products of vectors in the time of one of the loops
_KEY = "_integer_portable"

Codes = NDArray[np.int8]
Sums = NDArray[np.int32]
Floats = NDArray[np.float32]


def portable_product(
    codes: Codes,
    sums: Sums,
    row_scale: Floats,
    packed: PackedWeight,
    bias: Floats | None,
) -> Floats:
    """Multiply rows of bytes with a weight; see `integer_product`.

    Parameters
    ----------
    codes : ndarray of shape (n_rows, n_padded)
        int8, C-contiguous.
    sums : ndarray of shape (n_rows, n_groups)
        int32, sums of the codes of a group.
    row_scale : ndarray of shape (n_rows,)
        float32.
    packed : PackedWeight
        Of integers, any bits.
    bias : ndarray of shape (n_out,), or None
        Added.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    n_rows = codes.shape[0]
    out = np.empty((n_rows, packed.n_out), dtype=np.float32)
    if n_rows == 0:
        return out
    short = packed.padded_group < _SHORT
    if n_rows < (_BLAS_ROWS_SHORT if short else _BLAS_ROWS):
        _by_loops(codes, sums, packed, out)
    else:
        _by_blas(codes, sums, packed, out)
    # A row scale may be tiny: halving the sums first loses nothing.
    out *= np.float32(0.5)
    out *= row_scale[:, None]
    if bias is not None:
        out += bias
    return out


def _by_loops(codes: Codes, sums: Sums, packed: PackedWeight, out: Floats) -> None:
    kernel, expanded, constants = rows_kernel(), packed.expanded, _constants(packed)

    def run(start: int, stop: int) -> None:
        kernel(codes, sums, expanded, *constants, out, start, stop)

    work = float(_SPEED) * len(codes) * expanded.size
    in_parts(run, packed.n_out, work, multiple=4)


def _by_blas(codes: Codes, sums: Sums, packed: PackedWeight, out: Floats) -> None:
    constants = _constants(packed)
    center = np.float32(2 ** (packed.bits - 1))
    for m in range(0, len(codes), _PANEL[0]):
        rows = slice(m, m + _PANEL[0])
        activations = codes[rows].astype(np.float32)
        group_sums = np.ascontiguousarray(sums[rows].T)
        for n in range(0, packed.n_out, _PANEL[1]):
            columns = slice(n, min(n + _PANEL[1], packed.n_out))
            weights = packed.expanded[columns].astype(np.float32)
            weights -= center
            parts = [part[:, columns] for part in constants]
            out[rows, columns] = _panel(activations, group_sums, weights, packed, parts)


def _panel(
    activations: Floats,
    group_sums: Sums,
    weights: Floats,
    packed: PackedWeight,
    constants: list[Floats],
) -> Floats:
    """Return the sums of all groups for some rows and outputs."""
    kernel, padded = panel_kernel(), packed.padded_group
    # With a byte of -128 the largest product is 2^7 2^(bits - 1).
    run = 2 ** (_EXACT_BITS - 7 - (packed.bits - 1))
    shape = len(activations), len(weights)
    totals = np.zeros(shape, dtype=np.float32)
    products = np.empty(shape, dtype=np.float32)
    carry = padded > run
    carried = np.zeros(shape if carry else (0, 0), dtype=np.int32)
    center = np.int32(2 ** (packed.bits - 1))
    for g in range(packed.n_groups):
        stop = (g + 1) * padded
        group = [part[g] for part in constants]
        for k in range(g * padded, stop, run):
            part = slice(k, min(k + run, stop))
            np.matmul(activations[:, part], weights[:, part].T, out=products)
            last = part.stop == stop
            kernel(
                *(products, carried, carry, last, center, group_sums[g]),
                *(*group, totals),
            )
    return totals


def _constants(packed: PackedWeight) -> tuple[Floats, Floats, Floats]:
    """Return twice the zero points as whole numbers, what is left of them, and scales.

    Each is of shape (n_groups, outputs); they are kept with the weight.
    """
    found: tuple[Floats, Floats, Floats] | None = packed.__dict__.get(_KEY)
    if found is None:
        refuse_codebook(packed)
        scale = _outputs(packed.scale)
        whole = np.full_like(scale, packed.twice_zero)
        rest = np.zeros_like(scale)
        if packed.zero_point is not None:
            doubled = 2 * _outputs(packed.zero_point)
            whole = np.clip(np.rint(doubled), -ZERO_REACH, ZERO_REACH)
            rest = doubled - whole
        found = packed.__dict__[_KEY] = (whole, rest, scale)
    return found


def _outputs(tiled: Floats) -> Floats:
    """Return (n_groups, 16 n_tiles) of (n_tiles, n_groups, 16)."""
    n_tiles, n_groups, _ = tiled.shape
    outputs = tiled.transpose(1, 0, 2).reshape(n_groups, n_tiles * LANES)
    return np.ascontiguousarray(outputs)
