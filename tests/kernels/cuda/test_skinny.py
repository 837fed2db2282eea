"""Products of few rows on an emulated GPU, against sums from the definition.

Where codes less their zero point, inputs and scales are small multiples of powers of
two, every sum is a float, and the kernel must return it exactly, in any order of
addition. Otherwise errors are bounded by what is rounded, see `float_bound`.
"""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda._emulated import (
    BFLOAT16,
    FLOAT,
    HALF,
    INT8,
    SEEDS,
    Product,
    check,
    columns_of,
    emulated,
    free_guarded,
    from_bits,
    guarded,
    guarded_empty,
    input_order,
    pairs_of,
    placed,
    product,
    to_bits,
)
from uqlib_kernels._packed import unpack_codes
from uqlib_kernels.pack import pack_codebook, pack_w1, pack_w2, pack_w4, pack_w8

PACK = {8: pack_w8, 4: pack_w4, 2: pack_w2, 1: pack_w1}
BITS = sorted(PACK)
OUTS = (FLOAT, HALF, BFLOAT16)
EPS = {FLOAT: 2.0**-24, HALF: 2.0**-11, BFLOAT16: 2.0**-8}
# Rows, outputs, inputs, columns of a group.
SHAPES = [
    (1, 1, 1, None),
    (1, 16, 64, 64),
    (3, 17, 100, 32),
    (8, 5, 333, 100),
    (9, 33, 200, None),
    (17, 16, 600, 96),
    (33, 20, 40, 7),
]
INVALID = -1

at_all_bits = pytest.mark.parametrize("bits", BITS)
at_float_types = pytest.mark.parametrize("kind", [HALF, BFLOAT16])


@pytest.fixture(autouse=True)
def library():
    yield emulated("skinny")
    free_guarded()


# ----------------------------------------------------------------- references


def weight(bits, n_out, n_in, group_size=None, zeros="default", exact=False, seed=0):
    """Random codes, scales and zero points, packed."""
    rng = np.random.default_rng(seed)
    shape = n_out, -(-n_in // (group_size or n_in))
    zero_point = {
        "default": None,
        "whole": float(2**bits - 1),
        "half": 0.5,
        "outside": -1.0,
        "whole groups": rng.integers(-3, 2**bits + 3, size=shape),
        "groups": rng.uniform(-1, 2**bits, size=shape),
        "far": rng.uniform(-3000, 3000, size=shape),
    }[zeros]
    codes = rng.integers(0, 2**bits, size=(n_out, n_in))
    scale = 2.0 ** rng.integers(-2, 3, size=shape)
    if not exact:
        scale = rng.uniform(0.1, 1, size=shape)
    return PACK[bits](codes, group_size, scale=scale, zero_point=zero_point)


def parts_of_matrix(packed, codebook=None):
    """Codes or values, zero points and scales, each (n_out, n_in) in float64."""
    group = packed.columns // packed.padded_group

    def spread(tiled):
        rows = tiled.transpose(0, 2, 1).reshape(-1, tiled.shape[1])
        return rows[: packed.n_out, group].astype(np.float64)

    codes = unpack_codes(packed)
    values = codes.astype(np.float64) if codebook is None else codebook[codes]
    zero = np.full(values.shape, packed.twice_zero / 2)
    if packed.zero_point is not None:
        zero = spread(packed.zero_point)
    return values, zero, spread(packed.scale)


def float_bound(packed, x, out, expected, codebook=None):
    """Largest error of a product of floats, of which no weight is rounded.

    Sums of n products err by 2 n eps of the sum of absolute values at most, also where
    they are taken apart, as (q - c) x + (c - z) x; results by their own rounding.
    """
    values, zero, scale = parts_of_matrix(packed, codebook)
    center = 0 if codebook is not None else 2.0 ** (packed.bits - 1)
    size = np.abs(values - center) + np.abs(zero - center)
    terms = 2 * (x.shape[1] + 8) * EPS[FLOAT]
    bound = terms * np.abs(x) @ (size * scale).T
    return bound + EPS[out] * np.abs(expected) + 2.0**-22


def run(library, packed, x, kind, out=FLOAT, seed=0, multiprocessors=4, **arrays):
    """The kernel's y as it lies in memory; x are rows as the kernel takes them."""
    n_rows = len(x)
    y = guarded_empty((n_rows, packed.n_out), np.float32 if out == FLOAT else np.uint16)
    arrays = {name: guarded(array) for name, array in arrays.items()}
    made = product(packed, guarded(x), y, **arrays)
    count = library.uqlib_skinny_parts(ctypes.byref(made), packed.bits, multiprocessors)
    parts = guarded_empty(count, np.float32)
    if count:
        made.parts = parts.ctypes.data
    library.uqlib_emulate(seed, multiprocessors)
    code = library.uqlib_skinny(
        ctypes.byref(made), kind, packed.bits, out, multiprocessors, None
    )
    check(library, code)
    return y.copy()


def floats(n_rows, n_in, kind, exact=False, seed=1):
    """Rows of x, as numbers of the type and as float64."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, size=(n_rows, n_in)) / 2
    if not exact:
        x = rng.normal(size=(n_rows, n_in))
    bits = to_bits(x, kind)
    return bits, from_bits(bits, kind)


def integers(n_rows, packed, seed=1):
    """Rows of bytes: placed and in order, their sums over groups, and as int64."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-127, 128, size=(n_rows, packed.n_in)).astype(np.int8)
    rows = placed(x, packed)
    columns = columns_of(packed)
    grouped = rows[:, : columns.n_groups * columns.group_columns]
    grouped = grouped.reshape(n_rows, columns.n_groups, columns.group_columns)
    sums = grouped.sum(axis=2, dtype=np.int32)
    return input_order(rows, packed.bits), sums, x.astype(np.int64)


# --------------------------------------------------------------------- floats


@at_float_types
@at_all_bits
@pytest.mark.parametrize(
    "zeros", ["default", "whole", "half", "outside", "groups", "far"]
)
def test_products_of_floats(library, bits, kind, zeros):
    for i, (n_rows, n_out, n_in, group_size) in enumerate(SHAPES):
        packed = weight(bits, n_out, n_in, group_size, zeros, seed=i)
        x_bits, x = floats(n_rows, n_in, kind, seed=i)
        bias = np.random.default_rng(i).normal(size=n_out).astype(np.float32)
        values, zero, scale = parts_of_matrix(packed)
        expected = x @ ((values - zero) * scale).T
        out = FLOAT if zeros == "far" else OUTS[i % 3]
        arrays = {}
        if i % 2:
            expected, arrays = expected + bias, {"bias": bias}
        y = run(library, packed, placed(x_bits, packed), kind, out, seed=i, **arrays)
        error = np.abs(from_bits(y, out) - expected)
        assert (error <= float_bound(packed, x, out, expected)).all(), i


@at_float_types
@at_all_bits
@pytest.mark.parametrize("zeros", ["default", "half", "whole groups"])
def test_sums_of_floats_are_exact_where_floats_are(library, bits, kind, zeros):
    for i, (n_rows, n_out, n_in, group_size) in enumerate(SHAPES[2:6]):
        packed = weight(bits, n_out, n_in, group_size, zeros, exact=True, seed=i)
        x_bits, x = floats(n_rows, n_in, kind, exact=True, seed=i)
        values, zero, scale = parts_of_matrix(packed)
        y = run(library, packed, placed(x_bits, packed), kind, seed=i)
        assert np.array_equal(y, x @ ((values - zero) * scale).T)


@at_float_types
@pytest.mark.parametrize("zeros", [None, 2.25, "groups"])
def test_codebooks(library, kind, zeros):
    rng = np.random.default_rng(0)
    book = np.sort(rng.normal(size=16))
    rounded = from_bits(to_bits(book, kind), kind)
    for i, (n_rows, n_out, n_in, group_size) in enumerate(SHAPES):
        shape = n_out, -(-n_in // (group_size or n_in))
        codes = rng.integers(0, 16, size=(n_out, n_in))
        scale = rng.uniform(0.1, 1, size=shape)
        zero = rng.normal(size=shape) if zeros == "groups" else zeros
        packed = pack_codebook(codes, book, group_size, scale=scale, zero_point=zero)
        x_bits, x = floats(n_rows, n_in, kind, seed=i)
        values, zero, scale = parts_of_matrix(packed, rounded)
        out = OUTS[i % 3]
        pairs = pairs_of(book, kind)
        y = run(library, packed, placed(x_bits, packed), kind, out, seed=i, pairs=pairs)
        expected = x @ ((values - zero) * scale).T
        error = np.abs(from_bits(y, out) - expected)
        assert (error <= float_bound(packed, x, out, expected, rounded)).all(), i


@at_all_bits
def test_rows_that_are_not_finite_stay_alone(library, bits):
    packed = weight(bits, 20, 150, 64)
    x_bits, _ = floats(11, 150, HALF)
    first = run(library, packed, placed(x_bits, packed), HALF)
    x_bits[2, 7] = 0x7E00  # not a number
    x_bits[9, 149] = 0x7C00  # infinity
    y = run(library, packed, placed(x_bits, packed), HALF)
    others = np.delete(np.arange(11), [2, 9])
    assert np.array_equal(y[others], first[others])
    assert np.isnan(y[2]).all()
    values, zero, _ = parts_of_matrix(packed)
    column = (values - zero)[:, 149]
    assert np.array_equal(np.isnan(y[9]), column == 0)
    assert np.array_equal(np.isposinf(y[9]), column > 0)


# ------------------------------------------------------------------- integers


@at_all_bits
@pytest.mark.parametrize("zeros", ["default", "whole", "half", "whole groups"])
def test_sums_of_integers_are_exact(library, bits, zeros):
    for i, (n_rows, n_out, n_in, group_size) in enumerate(SHAPES):
        # Eight bits times 127 need no more than 24 bits of a float for 200 columns.
        n_in = min(n_in, 200)
        packed = weight(bits, n_out, n_in, group_size, zeros, exact=True, seed=i)
        codes, sums, x = integers(n_rows, packed, seed=i)
        values, zero, scale = parts_of_matrix(packed)
        y = run(library, packed, codes, INT8, seed=i, group_sums=sums)
        assert np.array_equal(y, x @ ((values - zero) * scale).T), i


@at_all_bits
@pytest.mark.parametrize("zeros", ["default", "groups"])
@pytest.mark.parametrize("out", OUTS)
def test_products_of_integers(library, bits, zeros, out):
    for i, (n_rows, n_out, n_in, group_size) in enumerate(SHAPES):
        packed = weight(bits, n_out, n_in, group_size, zeros, seed=i)
        codes, sums, x = integers(n_rows, packed, seed=i)
        rng = np.random.default_rng(i)
        row_scale = rng.uniform(0.5, 2, size=n_rows).astype(np.float32) / 1024
        bias = rng.normal(size=n_out).astype(np.float32)
        values, zero, scale = parts_of_matrix(packed)
        y = run(
            library,
            packed,
            codes,
            INT8,
            out,
            seed=i,
            group_sums=sums,
            row_scale=row_scale,
            bias=bias,
        )
        by_row = row_scale[:, None].astype(np.float64)
        expected = by_row * (x @ ((values - zero) * scale).T) + bias
        # Two sums of as many terms as there are tiles and groups.
        size = by_row * (np.abs(x) @ ((values + np.abs(zero) + 128) * scale).T)
        terms = 2 * (n_in // 16 + n_in // (group_size or n_in) + 8)
        bound = terms * EPS[FLOAT] * (size + np.abs(bias)) + EPS[out] * np.abs(expected)
        assert (np.abs(from_bits(y, out) - expected) <= bound).all(), i


def test_centered_weights_need_no_sums_of_groups(library):
    packed = weight(4, 16, 128, 32, exact=True)
    codes, _, x = integers(2, packed)
    values, zero, scale = parts_of_matrix(packed)
    y = run(library, packed, codes, INT8)
    assert np.array_equal(y, x @ ((values - zero) * scale).T)


def test_a_row_scale_that_is_not_a_number_makes_a_row_so(library):
    packed = weight(4, 16, 128, 32)
    codes, sums, _ = integers(3, packed)
    row_scale = np.array([1, np.nan, 1], dtype=np.float32)
    y = run(library, packed, codes, INT8, group_sums=sums, row_scale=row_scale)
    assert np.array_equal(np.isnan(y).all(axis=1), [False, True, False])
    assert np.array_equal(np.isnan(y).any(axis=1), [False, True, False])


# ------------------------------------------------------ partitions and schedules


@pytest.mark.parametrize("kind", [HALF, INT8])
@pytest.mark.parametrize(
    ("bits", "n_rows", "n_in", "group_size"),
    [
        (8, 2, 8192, 64),  # split over columns; scales in place
        (4, 1, 16384, 128),  # split; all copied
        (4, 9, 4200, 32),  # x and scales in place
        (2, 3, 8192, 96),
        (1, 17, 1100, 300),
    ],
)
def test_every_partition_gives_the_sums(library, bits, n_rows, n_in, group_size, kind):
    packed = weight(bits, 20, n_in, group_size, "whole groups", exact=True)
    arrays = {}
    if kind == INT8:
        rows, arrays["group_sums"], x = integers(n_rows, packed)
        # Small, so that floats hold all sums.
        x[:, 100:] = 0
        keep = placed(np.arange(n_in)[None] < 100, packed)
        rows *= input_order(keep.astype(np.int8), bits)
        columns = columns_of(packed)
        used = columns.n_groups * columns.group_columns
        grouped = placed(x, packed)[:, :used].reshape(n_rows, columns.n_groups, -1)
        arrays["group_sums"] = grouped.sum(axis=2, dtype=np.int32)
    else:
        x_bits, x = floats(n_rows, n_in, kind, exact=True)
        rows = placed(x_bits, packed)
    values, zero, scale = parts_of_matrix(packed)
    expected = x @ ((values - zero) * scale).T
    bias = np.arange(20, dtype=np.float32)
    for multiprocessors in (1, 3, 132):
        y = run(
            library,
            packed,
            rows,
            kind,
            multiprocessors=multiprocessors,
            bias=bias,
            **arrays,
        )
        assert np.array_equal(y, expected + bias), multiprocessors


def test_columns_are_split_where_multiprocessors_would_be_idle(library):
    packed = weight(4, 20, 16384, 128)
    made = product(packed, guarded(np.zeros((2, 16384), np.uint16)), None)
    found = [
        library.uqlib_skinny_parts(ctypes.byref(made), 4, n) for n in (1, 2, 3, 4, 132)
    ]
    assert found == [0, 0, 0, 2 * 2 * 32, 2 * 2 * 32]
    made.n_rows = 0
    assert library.uqlib_skinny_parts(ctypes.byref(made), 4, 132) == 0
    assert library.uqlib_skinny_parts(ctypes.byref(made), 3, 132) == 0


@pytest.mark.parametrize("kind", [HALF, INT8])
@pytest.mark.parametrize(("n_in", "bits"), [(700, 4), (1500, 1), (4096, 8)])
def test_results_do_not_depend_on_the_schedule(library, bits, n_in, kind):
    packed = weight(bits, 20, n_in, 100, "groups")
    arrays = {}
    if kind == INT8:
        rows, arrays["group_sums"], _ = integers(3, packed)
    else:
        rows = placed(floats(3, n_in, kind)[0], packed)
    found = [
        run(library, packed, rows, kind, seed=s, multiprocessors=132, **arrays)
        for s in SEEDS
    ]
    for y in found[1:]:
        assert np.array_equal(y.view(np.uint32), found[0].view(np.uint32))


def test_a_codebook_is_spread_before_it_is_read(library):
    packed = pack_codebook(
        np.random.default_rng(0).normal(size=(16, 512)), np.arange(16)
    )
    x_bits, _ = floats(1, 512, HALF)
    pairs = pairs_of(np.arange(16), HALF)
    found = [
        run(library, packed, placed(x_bits, packed), HALF, seed=s, pairs=pairs)
        for s in SEEDS
    ]
    assert all(np.array_equal(y, found[0]) for y in found)


# --------------------------------------------------------------------- errors


def call(library, made, kind=HALF, bits=4, out=FLOAT, multiprocessors=4):
    product_of = None if made is None else ctypes.byref(made)
    return library.uqlib_skinny(product_of, kind, bits, out, multiprocessors, None)


@pytest.fixture
def valid():
    packed = weight(4, 16, 128, 64)
    x = guarded(placed(floats(2, 128, HALF)[0], packed))
    return product(packed, x, guarded_empty((2, 16), np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"x": None},
        {"weight": None},
        {"scale": None},
        {"y": None},
        {"n_rows": -1},
        {"n_out": 0},
        {"n_out": 15},
        {"n_out": 16 * 65536},
        {"n_true_out": 0},
        {"n_true_out": 17},
        {"n_columns": 0},
        {"n_columns": 96},
        {"n_columns": 64},
        {"n_columns": 1 << 27},
        {"n_columns": 1 << 22, "group_columns": 1 << 20},
        {"group_columns": 0},
        {"group_columns": 48},
        {"n_groups": 0},
        {"n_groups": 3},
    ],
    ids=str,
)
def test_products_that_are_none(library, valid, changes):
    changed = Product.from_buffer_copy(valid)
    for name, value in changes.items():
        setattr(changed, name, value)
    assert call(library, changed) == INVALID
    assert call(library, valid) == 0


def test_arguments_that_no_kernel_takes(library, valid):
    assert call(library, None) == INVALID
    for arguments in (
        {"kind": FLOAT},
        {"kind": 4},
        {"kind": -1},
        {"bits": 3},
        {"bits": 0},
        {"out": INT8},
        {"out": -1},
        {"multiprocessors": 0},
    ):
        assert call(library, valid, **arguments) == INVALID
    message = library.uqlib_error_string(INVALID)
    assert b"no kernel takes" in message


def test_arrays_that_do_not_fit_each_other(library, valid):
    for name in ("x", "weight", "scale"):
        moved = Product.from_buffer_copy(valid)
        setattr(moved, name, getattr(moved, name) + 4)
        assert call(library, moved) == INVALID
    book = Product.from_buffer_copy(valid)
    book.pairs = valid.scale
    assert call(library, book, bits=2) == INVALID
    assert call(library, book, kind=INT8) == INVALID
    sums = Product.from_buffer_copy(valid)
    sums.uniform_zero = 7.0
    assert call(library, sums, kind=INT8) == INVALID  # needs group_sums


def test_splits_need_a_workspace(library):
    packed = weight(8, 16, 8192, 64)
    rows = guarded(placed(floats(1, 8192, HALF)[0], packed))
    made = product(packed, rows, guarded_empty((1, 16), np.float32))
    assert call(library, made, bits=8, multiprocessors=132) == INVALID
    assert call(library, made, bits=8, multiprocessors=1) == 0


def test_no_rows_need_no_arrays(library, valid):
    valid.n_rows = 0
    valid.x = valid.y = None
    assert call(library, valid) == 0
