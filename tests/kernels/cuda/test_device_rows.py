"""Rows of inputs in the columns of a weight, as bytes or as floats.

The kernels run on the emulated GPU. Nothing is rounded but what the definition in NumPy
rounds too: all results must be equal.
"""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda import _emulated
from tests.kernels.cuda._device_rows import (
    of_types,
    ones,
    round_on_device,
    untouched,
    within,
)
from tests.kernels.cuda._emulated import (
    BFLOAT16,
    FLOAT,
    HALF,
    Columns,
    check,
    columns_of,
    from_bits,
    guarded,
    pointer,
    to_bits,
)
from uqlib_kernels._quantize_rows import quantize_rows

# Bits, columns and columns of a group: rows as they are, padding in groups and behind
# them, rows that begin anywhere, groups in several parts, rows longer than registers.
LAYOUTS = [
    (4, 256, 128),
    (8, 128, 64),
    (2, 384, 32),
    (1, 256, None),
    (4, 1, None),
    (8, 37, None),
    (2, 100, 36),
    (1, 333, 100),
    (4, 515, 64),
    (4, 40000, None),
    (4, 41000, 20001),
    (8, 17001, 16384),
]


@pytest.fixture(autouse=True)
def memory():
    yield
    _emulated.free_guarded()


@pytest.fixture(scope="module")
def rows_library():
    return _emulated.emulated("rows")


def rounded(values, packed, bits, top):
    """Codes as a device wants them, sums and scales, by NumPy's divisions."""
    columns = columns_of(packed)
    codes = np.zeros(values.shape, dtype=np.int8)
    scale = np.full(len(values), np.nan, dtype=np.float32)
    finite = np.isfinite(values).all(axis=1)
    if finite.any():
        chosen = values[finite]
        step = np.abs(chosen).max(axis=1) / np.float32(top)
        step[step == 0] = 1
        quotient = np.rint(chosen / step[:, None])
        codes[finite], scale[finite] = np.clip(quotient, -top, top), step
    places = _emulated.placed(codes, packed)
    used = places[:, : columns.n_groups * columns.group_columns]
    groups = used.reshape(len(values), columns.n_groups, columns.group_columns)
    sums = groups.sum(axis=2, dtype=np.int64)
    return _emulated.input_order(places, bits), sums, scale


def assert_rounds(library, x, kind, packed, bits, top=127):
    with np.errstate(invalid="ignore"):  # NumPy warns of NaN that signal
        values = from_bits(x, kind).astype(np.float32)
    expected = rounded(values, packed, bits, top)
    found = round_on_device(library, x, kind, packed, bits, top)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@of_types
@pytest.mark.parametrize(("bits", "n_in", "group"), LAYOUTS)
def test_rows_of_bytes(rows_library, kind, bits, n_in, group):
    packed = ones(bits, n_in, group)
    rng = np.random.default_rng(n_in)
    for seed, n_rows, top in ((0, 1, 127), (1, 3 if n_in > 1000 else 17, 31)):
        rows_library.uqlib_emulate(seed, 4)
        x = guarded(to_bits(rng.normal(size=(n_rows, n_in)), kind))
        assert_rounds(rows_library, x, kind, packed, bits, top)


@pytest.mark.parametrize("seed", _emulated.SEEDS)
def test_order_of_threads_does_not_matter(rows_library, seed):
    rows_library.uqlib_emulate(seed, 4)
    rng = np.random.default_rng(0)
    for n_rows, n_in, group in ((9, 300, 100), (1, 9000, 4096)):
        packed = ones(4, n_in, group)
        x = guarded(rng.normal(size=(n_rows, n_in)).astype(np.float32))
        assert_rounds(rows_library, x, FLOAT, packed, 4)


@of_types
def test_rows_may_begin_anywhere(rows_library, kind):
    packed = ones(4, 256, 64)
    values = np.random.default_rng(1).normal(size=2 * 256 + 1)
    x = guarded(to_bits(values, kind))[1:].reshape(2, 256)
    assert_rounds(rows_library, x, kind, packed, 4)


def test_equals_the_kernels_of_the_cpu(rows_library):
    rng = np.random.default_rng(2)
    size = 10.0 ** rng.integers(-44, 38, size=(200, 1))
    values = (rng.uniform(-1, 1, size=(200, 100)) * size).astype(np.float32)
    values[3, 40], values[7, 2], values[11] = np.nan, -np.inf, 0
    packed = ones(8, 100, 64)
    codes, sums, scale = quantize_rows(values, packed, level="portable")
    found = round_on_device(rows_library, guarded(values), FLOAT, packed, 8)
    columns = np.flatnonzero(_emulated.placed(np.ones((1, 100)), packed)[0])
    np.testing.assert_array_equal(found[0][:, columns], codes[:, packed.columns])
    np.testing.assert_array_equal(found[1], sums)
    np.testing.assert_array_equal(found[2].view(np.uint32), scale.view(np.uint32))


@pytest.mark.parametrize("static_scale", [0.01, 1.0, 3e-41, 2e38])
@pytest.mark.parametrize("top", [127, 7])
def test_one_scale_for_all_rows(rows_library, static_scale, top):
    """Numbers beyond the last code are cut off, however far they are."""
    rng = np.random.default_rng(12)
    packed = ones(8, 70, 32)
    values = np.sort(rng.normal(size=(6, 70)).astype(np.float32), axis=1)
    with np.errstate(over="ignore"):
        values *= np.float32(static_scale) * np.float32(top)
    values[np.isinf(values)] = np.finfo(np.float32).max
    values[1] *= np.float32(1e-3)
    values[2] = 0
    values[3, ::2], values[3, 1::2] = 3.4e38, -3.4e38
    values[4, 7], values[5, 8] = np.inf, np.nan
    expected = quantize_rows(values, packed, top, static_scale, level="portable")
    x = guarded(values)
    codes, sums, scale = round_on_device(
        rows_library, x, FLOAT, packed, 8, top, static_scale=static_scale
    )
    columns = np.flatnonzero(_emulated.placed(np.ones((1, 70)), packed)[0])
    np.testing.assert_array_equal(codes[:, columns], expected[0][:, packed.columns])
    np.testing.assert_array_equal(sums, expected[1])
    np.testing.assert_array_equal(scale, expected[2])


def test_quotients_beside_ties(rows_library):
    # A number beside (k + 1/2) t, whose quotient may round to the tie itself.
    rng = np.random.default_rng(3)
    n_rows, packed = 600, ones(4, 65, None)
    for top in (127, 31, 1):
        exponent = rng.integers(-149, 128, size=(n_rows, 1))
        largest = np.ldexp(rng.uniform(1, 2, size=(n_rows, 1)), exponent)
        largest = largest.astype(np.float32)
        half = rng.integers(0, top, size=(n_rows, 64)) + 0.5
        near = (half * (largest / np.float32(top))).astype(np.float32)
        steps = rng.integers(-1, 2, size=near.shape).astype(np.int32)
        near = np.maximum(near.view(np.int32) + steps, 0).view(np.float32)
        near = np.minimum(near, largest) * rng.choice([-1, 1], size=near.shape)
        x = guarded(np.hstack([near, largest]).astype(np.float32))
        assert_rounds(rows_library, x, FLOAT, packed, 4, top)


def test_any_floats(rows_library):
    # Numbers of all sizes together, from the least on; a scale may vanish.
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 2**32, size=(500, 5), dtype=np.uint32)
    tiny = rng.integers(0, 400, size=(500, 5), dtype=np.uint32)
    x = guarded(np.vstack([bits, tiny, [[1, 0, 0, 0, 0]]]).astype(np.uint32))
    for top in (127, 2):
        assert_rounds(rows_library, x.view(np.float32), FLOAT, ones(1, 5, 2), 1, top)


@of_types
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_row_that_is_not_finite(rows_library, kind, value):
    packed = ones(4, 69, 32)
    values = np.random.default_rng(5).normal(size=(4, 69))
    values[1, 68], values[3, 0] = value, value
    x = guarded(to_bits(values, kind))
    codes, sums, scale = round_on_device(rows_library, x, kind, packed, 4)
    assert np.isnan(scale).tolist() == [False, True, False, True]
    assert not codes[1::2].any()
    assert not sums[1::2].any()
    assert codes[::2].any(axis=1).all()


def test_sums_may_be_left_out(rows_library):
    packed = ones(2, 200, 64)
    x = guarded(np.random.default_rng(6).normal(size=(3, 200)).astype(np.float32))
    codes, sums, _ = round_on_device(rows_library, x, FLOAT, packed, 2, with_sums=False)
    np.testing.assert_array_equal(codes, rounded(x, packed, 2, 127)[0])
    assert (sums.view(np.uint8) == 0xFF).all()


# ---------------------------------------------------------------------------
# Rows of floats.


def place_on_device(library, x, kind, to, columns):
    planes = 3 if kind == FLOAT else 1
    out, room = within((len(x), planes, columns.n_columns), np.uint16)
    code = library.uqlib_place_rows(
        pointer(x), kind, pointer(out), to, len(x), ctypes.byref(columns), None
    )
    check(library, code)
    assert untouched(room)
    return out


@pytest.mark.parametrize(("bits", "n_in", "group"), LAYOUTS)
def test_placed_rows(rows_library, bits, n_in, group):
    packed = ones(bits, n_in, group)
    columns, rng = columns_of(packed), np.random.default_rng(n_in)
    for kind, n_rows in ((HALF, 1), (BFLOAT16, 3 if n_in > 1000 else 17)):
        x = guarded(rng.integers(0, 2**16, size=(n_rows, n_in)).astype(np.uint16))
        out = place_on_device(rows_library, x, kind, kind, columns)
        np.testing.assert_array_equal(out[:, 0], _emulated.placed(x, packed))
    x = guarded(rng.normal(size=(2, n_in)).astype(np.float32))
    out = from_bits(
        place_on_device(rows_library, x, FLOAT, BFLOAT16, columns), BFLOAT16
    )
    np.testing.assert_array_equal(out.sum(axis=1), _emulated.placed(x, packed))


def test_groups_that_end_anywhere(rows_library):
    # Two parts of 13 and 12 columns, which no weight has, but `Columns` may say.
    columns = Columns(50, 25, 13, 2, 32, 4, 128)
    x = guarded(np.arange(1, 51, dtype=np.uint16)[None])
    out = place_on_device(rows_library, x, HALF, HALF, columns)
    expected = np.zeros((4, 32), dtype=np.uint16)
    for part, first in enumerate((0, 13, 25, 38)):
        width = 13 - part % 2
        expected[part, :width] = x[0, first : first + width]
    np.testing.assert_array_equal(out.ravel(), expected.ravel())


def in_parts(library, values):
    packed = ones(4, len(values), None)
    x = guarded(np.asarray(values, dtype=np.float32)[None])
    out = place_on_device(library, x, FLOAT, BFLOAT16, columns_of(packed))
    return from_bits(out[0, :, : len(values)], BFLOAT16)


def test_parts_of_floats(rows_library):
    largest = np.finfo(np.float32).max
    rng = np.random.default_rng(7)
    values = np.ldexp(rng.uniform(1, 2, size=2000), rng.integers(-110, 127, size=2000))
    values *= rng.choice([-1, 1], size=2000)
    values = np.append(values, [0, -0.0, largest, -largest]).astype(np.float32)
    parts = in_parts(rows_library, values)
    np.testing.assert_array_equal(parts.sum(axis=0), values.astype(np.float64))
    tiny = np.ldexp(rng.uniform(-1, 1, size=2000), rng.integers(-149, -109, size=2000))
    tiny = tiny.astype(np.float32)
    assert np.abs(in_parts(rows_library, tiny).sum(axis=0) - tiny).max() < 2.0**-133


def test_parts_that_are_not_finite(rows_library):
    with_last_bit = np.array([0x7F800001, 0xFF800001], dtype=np.uint32)
    values = [np.inf, -np.inf, np.nan, *with_last_bit.view(np.float32)]
    parts = in_parts(rows_library, values)
    np.testing.assert_array_equal(parts[0], [np.inf, -np.inf, np.nan, np.nan, np.nan])
    assert not parts[1:].any()
