"""Results of a library made into those of a layer, and packed weights as matrices.

The kernels run on the emulated GPU, and are compared with float64.
"""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda import _emulated
from tests.kernels.cuda._device_rows import (
    TYPES,
    expand_on_device,
    of_types,
    round_on_device,
    untouched,
    weight_of,
    within,
)
from tests.kernels.cuda._emulated import (
    BFLOAT16,
    FLOAT,
    HALF,
    check,
    columns_of,
    from_bits,
    guarded,
    pointer,
    to_bits,
)
from uqlib_kernels._packed import dequantized, unpack_codes

CENTER = {8: 128, 4: 8, 2: 0, 1: 0}


@pytest.fixture(autouse=True)
def memory():
    yield
    _emulated.free_guarded()


@pytest.fixture(scope="module")
def rows_library():
    return _emulated.emulated("rows")


@pytest.fixture(scope="module")
def weight_library():
    return _emulated.emulated("dequantize")


def assert_close(found, kind, expected, size):
    """Within the rounding of the type, and two roundings of single precision."""
    step = {FLOAT: 0.0, HALF: 2.0**-11, BFLOAT16: 2.0**-8}[kind]
    error = np.abs(from_bits(found, kind) - expected)
    assert (error <= step * np.abs(expected) + 2.0**-22 * size).all()


@of_types
@pytest.mark.parametrize(
    ("n_rows", "n_out"), [(1, 1), (3, 7), (17, 48), (5, 1030), (2, 64)]
)
def test_added_planes(rows_library, kind, n_rows, n_out):
    rng = np.random.default_rng(n_out)
    size = np.array([1, 2.0**-8, 2.0**-16])[:, None]
    parts = guarded((rng.normal(size=(n_rows, 3, n_out)) * size).astype(np.float32))
    bias = guarded(rng.normal(size=n_out).astype(np.float32))
    for added in (bias, None):
        y, room = within((n_rows, n_out), TYPES[kind])
        code = rows_library.uqlib_add_planes(
            pointer(parts), pointer(added), pointer(y), kind, n_rows, n_out, None
        )
        check(rows_library, code)
        assert untouched(room)
        terms = parts.astype(np.float64)
        offset = np.zeros(n_out) if added is None else added.astype(np.float64)
        magnitude = np.abs(terms).sum(axis=1) + np.abs(offset)
        assert_close(y, kind, terms.sum(axis=1) + offset, magnitude)


def scale_on_device(library, kind, n_out, sums, row_sums, row_scale, scale, **given):
    y, room = within((len(sums), n_out), TYPES[kind])
    code = library.uqlib_scale_sums(
        pointer(sums),
        pointer(row_sums),
        pointer(row_scale),
        pointer(scale),
        pointer(given.get("zero")),
        ctypes.c_float(given.get("uniform_zero", 0.0)),
        ctypes.c_float(given.get("center", 0.0)),
        pointer(given.get("bias")),
        pointer(y),
        kind,
        len(sums),
        n_out,
        sums.shape[1],
        None,
    )
    check(library, code)
    assert untouched(room)
    return y


@of_types
@pytest.mark.parametrize(
    ("n_rows", "n_out", "n_padded"),
    [(1, 1, 16), (17, 33, 48), (6, 1030, 1040), (9, 64, 64), (2, 5, 7)],
)
def test_scaled_sums(rows_library, kind, n_rows, n_out, n_padded):
    rng = np.random.default_rng(n_out)
    row_sums = rng.integers(-(2**20), 2**20, size=n_rows).astype(np.int32)
    zero = rng.uniform(0, 255, size=n_padded).astype(np.float32)
    correction = (128 - zero.astype(np.float64)) * row_sums[:, None]
    # Large sums, and others that all but cancel.
    sums = rng.integers(-(2**31), 2**31, size=(n_rows, n_padded))
    sums[::2] = -np.rint(correction)[::2] + rng.integers(-9, 9, size=n_padded)
    sums = guarded(sums.astype(np.int32))
    row_scale = guarded(rng.uniform(0.1, 1, size=n_rows).astype(np.float32))
    scale = guarded((rng.uniform(-1, 1, size=n_padded) * 1e-5).astype(np.float32))
    given = {
        "zero": guarded(zero),
        "bias": guarded(rng.normal(size=n_out).astype(np.float32)),
        "center": 128.0,
    }
    factor = row_scale[:, None].astype(np.float64) * scale
    whole = (factor * (sums + correction))[:, :n_out]
    for bias in (None, given["bias"]):
        found = scale_on_device(
            rows_library,
            kind,
            n_out,
            sums,
            guarded(row_sums),
            row_scale,
            scale,
            **given | {"bias": bias},
        )
        expected = whole if bias is None else whole + bias
        # Relative to the result: nothing is lost where the terms cancel. The least
        # numbers of half precision are 2^-24 apart.
        step = {FLOAT: 2.0**-24, HALF: 2.0**-11, BFLOAT16: 2.0**-8}[kind]
        error = np.abs(from_bits(found, kind) - expected)
        least = 2.0**-25 if kind == HALF else 0.0
        assert (error <= 1.01 * step * np.abs(expected) + least).all()


def test_sums_with_one_zero_point_or_none(rows_library):
    rng = np.random.default_rng(8)
    sums = guarded(rng.integers(-999, 999, size=(3, 16)).astype(np.int32))
    row_sums = guarded(np.array([5, -3, 1000], dtype=np.int32))
    row_scale = guarded(np.array([1, 0.5, np.nan], dtype=np.float32))
    scale = guarded(np.full(16, 0.25, dtype=np.float32))
    operands = (FLOAT, 16, sums, row_sums, row_scale, scale)
    y = scale_on_device(rows_library, *operands, uniform_zero=7.5, center=8.0)
    expected = row_scale[:, None] * 0.25 * (sums + 0.5 * row_sums[:, None])
    np.testing.assert_array_equal(y, expected.astype(np.float32))
    operands = (FLOAT, 16, sums, None, row_scale, scale)
    y = scale_on_device(rows_library, *operands, uniform_zero=8.0, center=8.0)
    np.testing.assert_array_equal(y, row_scale[:, None] * np.float32(0.25) * sums)


# ---------------------------------------------------------------------------
# Matrices.


def matrix_on_device(library, packed, kind):
    columns = columns_of(packed)
    product = _emulated.product(packed, np.empty((0, 1)), None)
    matrix, room = within(packed.shape, TYPES[kind])
    code = library.uqlib_dequantize(
        ctypes.byref(product),
        ctypes.byref(columns),
        pointer(guarded(packed.codebook)),
        packed.bits,
        pointer(matrix),
        kind,
        None,
    )
    check(library, code)
    assert untouched(room)
    return matrix


WEIGHTS = [
    (bits, n_out, n_in, group, zeros)
    for bits in (8, 4, 2, 1)
    for n_out, n_in, group, zeros in (
        (16, 256, 64, "uniform"),
        (33, 301, 100, "any"),
        (17, 96, 32, "halves"),
        (1, 1, None, "any"),
    )
] + [
    (4, 2, 41000, 20001, "any"),
    (4, 20, 200, 100, "codebook"),
    (4, 33, 96, None, "shifted codebook"),
    (4, 3, 16500, None, "any"),
]


@of_types
@pytest.mark.parametrize(("bits", "n_out", "n_in", "group", "zeros"), WEIGHTS)
def test_float_matrix(weight_library, kind, bits, n_out, n_in, group, zeros):
    packed = weight_of(bits, n_out, n_in, group, zeros)
    found = matrix_on_device(weight_library, packed, kind)
    np.testing.assert_array_equal(found, to_bits(dequantized(packed), kind))


@pytest.mark.parametrize(
    ("n_out", "n_in", "group"), [(16, 256, 64), (33, 301, 100), (1, 1, None)]
)
@pytest.mark.parametrize("bits", [4, 2, 1])
def test_expanded_codes(weight_library, bits, n_out, n_in, group):
    packed = weight_of(bits, n_out, n_in, group, "uniform")
    found = expand_on_device(weight_library, packed)
    columns = np.flatnonzero(_emulated.placed(np.ones((1, n_in)), packed)[0])
    expected = unpack_codes(packed).astype(np.int64) - CENTER[bits]
    np.testing.assert_array_equal(found[:n_out, columns], expected)


@pytest.mark.parametrize("zeros", ["uniform", "halves", "any"])
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_products_of_a_library(rows_library, weight_library, bits, zeros):
    # Rows to bytes, codes to bytes, a product of integers, and its sums to results.
    packed = weight_of(bits, 21, 150, None, zeros)
    x = guarded(np.random.default_rng(9).normal(size=(5, 150)).astype(np.float32))
    codes, row_sums, row_scale = round_on_device(rows_library, x, FLOAT, packed, 8)
    expanded = (
        _emulated.arranged_codes(packed).view(np.int8)
        if bits == 8
        else expand_on_device(weight_library, packed)
    )
    sums = codes.astype(np.int64) @ expanded.astype(np.int64).T
    y = scale_on_device(
        rows_library,
        FLOAT,
        21,
        guarded(sums.astype(np.int32)),
        guarded(row_sums),
        row_scale,
        guarded(packed.scale),
        zero=guarded(packed.zero_point),
        uniform_zero=packed.twice_zero / 2,
        center=float(CENTER[bits]),
    )
    inputs = _emulated.placed(np.ones((1, 150)), packed)[0] > 0
    rounded_rows = codes[:, inputs] * row_scale[:, None].astype(np.float64)
    expected = rounded_rows @ dequantized(packed).astype(np.float64).T
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)
