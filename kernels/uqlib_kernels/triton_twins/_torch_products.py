"""Products with arranged weights, and rows rounded for them; see the package."""

# Triton reads the bodies of kernels, and their annotations but for constants must be
# absent.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl

from uqlib_kernels.triton_twins._torch_maps import (
    codes_of,
    column_at,
    place_of_input,
    row_index,
)

__all__ = ["integer_kernel", "linear_kernel", "quantize_kernel"]


@triton.jit
def linear_kernel(
    x,
    weight,
    scale,
    zero,
    codebook,
    bias,
    y,
    uniform_zero,
    n_rows,
    n_out,
    n_in,
    whole,
    inner,
    parts,
    group_columns,
    n_groups,
    n_columns,
    BITS: tl.constexpr,
    IS_WIDE: tl.constexpr,
):
    """Multiply 16 rows of x with a tile; `zero`, `codebook` and `bias` may be None.

    Products of two numbers of 16 bits are exact in single precision: it makes no
    difference if they are multiplied there (`IS_WIDE`).
    """
    m, tile = 16 * tl.program_id(0) + tl.arange(0, 16), tl.program_id(1)
    lane, column = tl.arange(0, 16), tl.arange(0, 32)
    total = tl.zeros((16, 16), tl.float32)
    for group in range(n_groups):
        at = (tile * n_groups + group) * 16 + lane
        sums = tl.zeros((16, 16), tl.float32)
        for first in range(0, group_columns, 32):
            place = group * group_columns + first + column
            codes = codes_of(
                *(weight, tile, lane[:, None], place[None, :], n_columns),
                *(BITS, codebook is not None),
            )
            if codebook is not None:
                values = tl.load(codebook + codes)
            elif zero is not None:
                values = codes.to(tl.float32) - tl.load(zero + at)[:, None]
            else:
                values = codes.to(tl.float32) - uniform_zero
            k = column_at(place, n_in, whole, inner, parts, group_columns, n_groups)
            rows = tl.load(
                x + row_index(m, n_in)[:, None] + k[None, :],
                mask=(m < n_rows)[:, None] & (k >= 0)[None, :],
                other=0.0,
            )
            values = tl.trans(values.to(rows.dtype))
            if IS_WIDE:
                rows, values = rows.to(tl.float32), values.to(tl.float32)
            sums = tl.dot(rows, values, acc=sums, input_precision="ieee")
        total += sums * tl.load(scale + at)[None, :]
    _write(total, y, bias, m, 16 * tile + lane, n_rows, n_out)


@triton.jit
def quantize_kernel(
    x,
    codes,
    sums,
    row_scale,
    n_in,
    whole,
    inner,
    parts,
    group_columns,
    n_groups,
    n_columns,
    BITS: tl.constexpr,
    TOP: tl.constexpr,
):
    """Round a row; bits of floats without their signs order as the floats do."""
    m, column = tl.program_id(0), tl.arange(0, 32)
    row = x + row_index(m, n_in)
    bits = tl.zeros((32,), tl.int32)
    for first in range(0, n_in, 32):
        k = first + column
        values = tl.load(row + k, mask=k < n_in, other=0.0).to(tl.float32)
        bits = tl.maximum(bits, values.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    most = tl.max(bits, axis=0)
    is_finite = most < 0x7F800000
    top = tl.full((), TOP, tl.float32)
    scale = tl.div_rn(most.to(tl.float32, bitcast=True), top)
    scale = tl.where(is_finite & (scale > 0.0), scale, 1.0)
    tl.store(row_scale + m, tl.where(is_finite, scale, float("nan")))
    for group in range(n_groups):
        total = tl.zeros((32,), tl.int32)
        for first in range(0, group_columns, 32):
            place = group * group_columns + first + column
            k = column_at(place, n_in, whole, inner, parts, group_columns, n_groups)
            values = tl.load(row + k, mask=k >= 0, other=0.0).to(tl.float32)
            values = tl.where(is_finite, values, 0.0)
            values = tl.minimum(tl.maximum(tl.div_rn(values, scale), -top), top)
            # Adding 3 * 2^22 rounds to the nearest integer, ties to even.
            rounded = ((values + 12582912.0) - 12582912.0).to(tl.int32)
            at = row_index(m, n_columns) + place_of_input(place, BITS)
            tl.store(codes + at, rounded.to(tl.int8))
            total += rounded
        tl.store(sums + row_index(m, n_groups) + group, tl.sum(total, axis=0))


@triton.jit
def integer_kernel(
    x,
    weight,
    scale,
    zero,
    bias,
    row_scale,
    group_sums,
    y,
    uniform_zero,
    n_rows,
    n_out,
    group_columns,
    n_groups,
    n_columns,
    BITS: tl.constexpr,
):
    """Multiply 16 rows of bytes with a tile; `zero` and `bias` may be None.

    With c that makes a signed byte of q - c, the sums over a group are integers but z:

        sum_k (q - z) a = sum_k (q - c) a + (c - z) sum_k a.
    """
    center: tl.constexpr = 128 if BITS == 8 else (8 if BITS == 4 else 0)
    m, tile = 16 * tl.program_id(0) + tl.arange(0, 16), tl.program_id(1)
    lane, column = tl.arange(0, 16), tl.arange(0, 32)
    total = tl.zeros((16, 16), tl.float32)
    for group in range(n_groups):
        sums = tl.zeros((16, 16), tl.int32)
        for first in range(0, group_columns, 32):
            place = group * group_columns + first + column
            codes = codes_of(
                *(weight, tile, lane[:, None], place[None, :], n_columns, BITS, False)
            )
            inputs = row_index(m, n_columns)[:, None] + place_of_input(place, BITS)
            rows = tl.load(x + inputs, mask=(m < n_rows)[:, None], other=0)
            codes = tl.trans((codes - center).to(tl.int8))
            sums = tl.dot(rows, codes, acc=sums, out_dtype=tl.int32)
        at = (tile * n_groups + group) * 16 + lane
        shift = tl.zeros((16,), tl.float32) + (center - uniform_zero)
        if zero is not None:
            shift = center - tl.load(zero + at)
        of_group = group_sums + row_index(m, n_groups) + group
        row_sums = tl.load(of_group, mask=m < n_rows, other=0).to(tl.float32)
        shifted = sums.to(tl.float32) + shift[None, :] * row_sums[:, None]
        total += shifted * tl.load(scale + at)[None, :]
    total *= tl.load(row_scale + m, mask=m < n_rows, other=0.0)[:, None]
    _write(total, y, bias, m, 16 * tile + lane, n_rows, n_out)


@triton.jit
def _write(total, y, bias, m, n, n_rows, n_out):
    if bias is not None:
        total += tl.load(bias + n, mask=n < n_out, other=0.0)[None, :]
    mask = (m < n_rows)[:, None] & (n < n_out)[None, :]
    at = row_index(m, n_out)[:, None] + n[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=mask)
