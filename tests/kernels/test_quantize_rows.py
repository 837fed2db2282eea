"""Rows rounded to bytes: the same bits as NumPy in single precision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uqlib_kernels import _quantize_rows, _threads
from uqlib_kernels._quantize_rows import quantize_rows
from uqlib_kernels.pack import MAX_GROUP, pack_codebook, pack_w4, pack_w8
from uqlib_kernels.registry import available_isas

# Tiles are of no use here: the level above vectors rounds as vectors do.
LEVELS = [level for level in ("vnni", "portable") if level in available_isas()]
SHAPES = [
    (1, None),
    (5, None),
    (15, 2),
    (16, None),
    (33, 10),
    (64, 64),
    (100, 37),
    (300, 128),
    (MAX_GROUP + 70, None),
    (3 * MAX_GROUP, 2 * MAX_GROUP),
]

pytestmark = pytest.mark.parametrize("level", LEVELS)


def reference(x, packed, top=127, static_scale=None):
    """Round row by row with NumPy's own division, rounding and sums."""
    codes = np.zeros((len(x), packed.n_padded), dtype=np.int8)
    row_scale = np.full(len(x), np.nan, dtype=np.float32)
    for m, row in enumerate(x):
        if not np.isfinite(row).all():
            continue
        scale = np.float32(static_scale or np.abs(row).max() / np.float32(top))
        row_scale[m] = scale = scale if scale != 0 else np.float32(1)
        with np.errstate(over="ignore"):  # a quotient beyond the range is cut off
            codes[m, packed.columns] = np.clip(np.rint(row / scale), -top, top)
    groups = codes.reshape(len(x), packed.n_groups, packed.padded_group)
    return codes, groups.sum(axis=2, dtype=np.int64), row_scale


def assert_rounds(x, packed, level, **given):
    before = x.copy()
    codes, sums, row_scale = quantize_rows(x, packed, level=level, **given)
    wanted = reference(x, packed, **given)
    np.testing.assert_array_equal(codes, wanted[0])
    np.testing.assert_array_equal(sums, wanted[1])
    np.testing.assert_array_equal(row_scale, wanted[2])
    assert (codes.dtype, sums.dtype) == (np.int8, np.int32)
    assert row_scale.dtype == np.float32
    assert codes.flags.c_contiguous
    assert codes.ctypes.data % 64 == 0
    np.testing.assert_array_equal(x, before)


def packed_of(n_in, group_size=None):
    return pack_w8(np.ones((3, n_in)), group_size)


def rows(n_rows, n_in, seed=0):
    """Rows whose sizes spread over the whole range of single precision."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.integers(-44, 38, size=(n_rows, 1))
    return (rng.uniform(-1, 1, size=(n_rows, n_in)) * size).astype(np.float32)


@pytest.mark.parametrize(("n_in", "group_size"), SHAPES)
def test_equals_numpy(level, n_in, group_size):
    packed = packed_of(n_in, group_size)
    for n_rows in (0, 1, 3):
        x = rows(n_rows, n_in)
        assert_rounds(x, packed, level)
        assert_rounds(x, packed, level, top=31)
        assert_rounds(x, packed, level, static_scale=0.25)


@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 40)),
        elements=st.floats(width=32),
    ),
    top=st.integers(1, 127),
)
def test_any_floats(level, x, top):
    assert_rounds(x, packed_of(x.shape[1], 17), level, top=top)


def test_ties_round_to_even(level):
    halves = np.arange(-126.5, 127, 1.0, dtype=np.float32)
    x = np.append(halves, np.float32(127))[None]
    codes, _, row_scale = quantize_rows(x, packed_of(x.shape[1]), level=level)
    assert row_scale.tolist() == [1.0]
    np.testing.assert_array_equal(codes[0, : halves.size], np.rint(halves))
    assert not (codes[0, : halves.size] % 2).any()


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 20, 68])
def test_row_that_is_not_finite(level, value, column):
    x = rows(3, 69)
    x[1, column] = value
    packed = packed_of(69, 32)
    for static_scale in (None, 0.5):
        codes, sums, row_scale = quantize_rows(
            x, packed, static_scale=static_scale, level=level
        )
        assert np.isnan(row_scale).tolist() == [False, True, False]
        assert not codes[1].any()
        assert not sums[1].any()
    assert_rounds(x, packed, level)


def test_row_of_zeros_and_denormals(level):
    tiny = np.float32(1e-45)  # the smallest positive number
    x = np.array([[0, -0.0, 0], [tiny, 0, 0], [150 * tiny, -tiny, 60 * tiny]])
    x = x.astype(np.float32)
    packed = packed_of(3)
    assert_rounds(x, packed, level)
    _, _, row_scale = quantize_rows(x, packed, level=level)
    # A scale that vanishes is 1 too.
    assert row_scale.tolist() == [1.0, 1.0, tiny]


def test_any_strides(level):
    x = rows(6, 70)
    packed = packed_of(70, 32)
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.repeat(x, 2, axis=1)
    views = [
        np.asfortranarray(x),
        x[::-1],
        x[:, ::-1],
        x[::2],
        wide[:, ::2],
        np.asfortranarray(wide)[::-2, ::-2],
        np.broadcast_to(x[0], (3, 70)),
        frozen,
    ]
    for view in views:
        assert_rounds(view, packed, level)
    assert_rounds(np.asfortranarray(x)[:, :1], packed_of(1), level)


def test_threads_share_the_rows(level, monkeypatch):
    x, packed = rows(23, 50), packed_of(50, 16)
    alone = quantize_rows(x, packed, level=level)
    monkeypatch.setattr(_threads, "SERIAL_WORK", 1)
    monkeypatch.setattr(_threads.numba, "get_num_threads", lambda: 3)
    for one, other in zip(alone, quantize_rows(x, packed, level=level), strict=True):
        np.testing.assert_array_equal(one, other)


def test_bits_do_not_matter(level):
    x, ones = rows(2, 45), np.ones((1, 45))
    for one, other in zip(
        quantize_rows(x, pack_w8(ones, 40), level=level),
        quantize_rows(x, pack_w4(ones, 40), level=level),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("static_scale", [0.0, -1.0, np.inf, np.nan, 1e39, 1e-50])
def test_scale_out_of_range(level, static_scale):
    with pytest.raises(ValueError, match=r"static_scale=.*positive and finite"):
        quantize_rows(rows(1, 2), packed_of(2), 127, static_scale, level=level)


@pytest.mark.parametrize("top", [0, -3, 128])
def test_top_out_of_range(level, top):
    with pytest.raises(ValueError, match=f"top={top} must lie between 1 and 127"):
        quantize_rows(rows(1, 2), packed_of(2), top, level=level)


def test_codebook_is_refused(level):
    packed = pack_codebook(np.ones((1, 2)), [-1.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="holds a codebook"):
        quantize_rows(rows(1, 2), packed, level=level)


def test_level_is_that_of_the_process(level, monkeypatch):
    monkeypatch.setattr(_quantize_rows, "isa", lambda: level)
    x, packed = rows(2, 9), packed_of(9)
    np.testing.assert_array_equal(quantize_rows(x, packed)[0], reference(x, packed)[0])
