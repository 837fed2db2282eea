"""Packed weights: every bit lies where the layout says, and every way leads back."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib_kernels import _codebook_plan, _integer_plan
from uqlib_kernels import pack as p

PACKERS = {8: p.pack_w8, 4: p.pack_w4, 2: p.pack_w2, 1: p.pack_w1}
UNPACKERS = {8: p.unpack_w8, 4: p.unpack_w4, 2: p.unpack_w2, 1: p.unpack_w1}
ZEROS = {8: 128.0, 4: 8.0, 2: 1.5, 1: 0.5}
BITS = [8, 4, 2, 1]
# Sixteen values, unevenly spaced.
BOOK = np.sign(np.arange(-7, 9)) * (abs(np.arange(-7, 9)) / 8) ** 1.5

shapes = st.tuples(st.integers(1, 40), st.integers(1, 150), st.integers(1, 160))
seeds = st.integers(0, 2**32 - 1)


def random_codes(rng, bits, n_out, n_in):
    return rng.integers(0, 2**bits, size=(n_out, n_in))


def n_groups(n_in, group):
    return -(-n_in // min(group, n_in))


# ---------------------------------------------------------------------------
# The layout, bit by bit.


def code_at(packed, n, g, column):
    """The code of row n and of a column of group g, by the words of the module."""
    b = packed.bits
    word, c = divmod(column, 32 // b)
    j, i = divmod(c, 4)  # bits b j, ... of byte i
    byte = int(packed.codes[n // 16, g, word, n % 16, i])
    return byte >> b * j & 2**b - 1


def assert_layout(packed, q, group):
    n_out, n_in = q.shape
    group = min(group, n_in)
    rows = -(-n_out // 16) * 16
    expected = np.zeros((rows, packed.n_groups, packed.padded_group), dtype=int)
    for k in range(n_in):
        expected[:n_out, k // group, k % group] = q[:, k]
    for n in range(rows):
        for g in range(packed.n_groups):
            row = [code_at(packed, n, g, c) for c in range(packed.padded_group)]
            np.testing.assert_array_equal(row, expected[n, g])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("n_out", "n_in", "group"), [(1, 1, 1), (17, 70, 33), (16, 64, 64), (3, 9, 4)]
)
def test_every_code_lies_where_the_layout_says(bits, n_out, n_in, group):
    q = random_codes(np.random.default_rng(0), bits, n_out, n_in)
    packed = PACKERS[bits](q, group, scale=1.0)
    assert_layout(packed, q, group)


@given(st.sampled_from(BITS), shapes, seeds)
def test_shapes_alignment_and_padding(bits, shape, seed):
    n_out, n_in, group = shape
    rng = np.random.default_rng(seed)
    q = random_codes(rng, bits, n_out, n_in)
    scale = rng.normal(size=(n_out, n_groups(n_in, group)))
    packed = PACKERS[bits](q, group, scale=scale)
    whole = min(group, n_in)
    multiple = 64 if whole >= 64 else 32
    assert packed.padded_group == -(-whole // multiple) * multiple
    assert packed.inner_group == whole
    assert packed.group_size == whole
    assert packed.shape == (n_out, n_in)
    assert packed.n_groups == n_groups(n_in, group)
    assert packed.n_padded == packed.n_groups * packed.padded_group
    words = packed.padded_group * bits // 32
    assert packed.codes.shape == (-(-n_out // 16), packed.n_groups, words, 16, 4)
    assert packed.scale.shape == (packed.n_tiles, packed.n_groups, 16)
    assert packed.codes.ctypes.data % 64 == 0
    assert packed.scale.ctypes.data % 64 == 0
    # scale[tile, group, lane]; the rows of the padding have none.
    rows = packed.scale.transpose(0, 2, 1).reshape(-1, packed.n_groups)
    np.testing.assert_array_equal(rows[:n_out], scale.astype(np.float32))
    assert not rows[n_out:].any()
    assert packed.nbytes == packed.codes.nbytes + packed.scale.nbytes
    # Columns of the padding hold code 0 in all rows.
    padding = np.delete(packed.expanded, packed.columns, axis=1)
    assert packed.expanded.shape == (n_out, packed.n_padded)
    assert not padding.any()
    np.testing.assert_array_equal(packed.expanded[:, packed.columns], q)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("order", ["C", "F", "negative", "sliced", "read-only"])
def test_layout_of_the_input_does_not_matter(bits, order):
    q = random_codes(np.random.default_rng(1), bits, 20, 90)
    given_codes = {
        "C": q,
        "F": np.asfortranarray(q),
        "negative": q[::-1, ::-1].copy()[::-1, ::-1],
        "sliced": np.repeat(q, 2, axis=1)[:, ::2],
        "read-only": q.copy(),
    }[order]
    given_codes.flags.writeable = order != "read-only"
    packed = PACKERS[bits](
        given_codes.astype(np.int8 if bits < 8 else int), 50, scale=1
    )
    np.testing.assert_array_equal(p.unpack_codes(packed), q)


# ---------------------------------------------------------------------------
# There and back.


@given(st.sampled_from(BITS), shapes, seeds, st.booleans())
def test_codes_come_back(bits, shape, seed, with_zeros):
    n_out, n_in, group = shape
    rng = np.random.default_rng(seed)
    q = random_codes(rng, bits, n_out, n_in)
    grid = (n_out, n_groups(n_in, group))
    scale = rng.normal(size=grid).astype(np.float32)
    zero = rng.normal(size=grid).astype(np.float32) if with_zeros else None
    packed = PACKERS[bits](q, group, scale=scale, zero_point=zero)
    np.testing.assert_array_equal(p.unpack_codes(packed), q)
    where = np.arange(n_in) // min(group, n_in)
    zeros = np.full(grid, ZEROS[bits]) if zero is None else zero.astype(float)
    weight = (q - zeros[:, where]) * scale.astype(float)[:, where]
    np.testing.assert_array_equal(UNPACKERS[bits](packed), weight.astype(np.float32))


@given(st.sampled_from([8, 4, 2]), shapes, seeds)
def test_floats_go_to_the_nearest_level(bits, shape, seed):
    n_out, n_in, group = shape
    w = np.random.default_rng(seed).normal(size=(n_out, n_in))
    packed = PACKERS[bits](w, group)
    where = np.arange(n_in) // min(group, n_in)
    top = {8: 127, 4: 7, 2: 1.5}[bits]
    starts = np.arange(0, n_in, min(group, n_in))
    reach = np.maximum.reduceat(abs(w), starts, axis=1)
    scale = (reach / top).astype(np.float32).astype(float)[:, where]
    levels = np.arange(2**bits) - ZEROS[bits]
    distance = abs(w[..., None] - levels * scale[..., None]).min(axis=-1)
    result = UNPACKERS[bits](packed).astype(float)
    np.testing.assert_allclose(abs(w - result), distance, atol=1e-6 * reach.max())


@given(shapes, seeds)
def test_one_bit_has_the_smallest_squared_error(shape, seed):
    n_out, n_in, group = shape
    w = np.random.default_rng(seed).normal(size=(n_out, n_in))
    result = p.unpack_w1(p.pack_w1(w, group))
    for start in range(0, n_in, group):
        part = w[:, start : start + group]
        best = np.where(part >= 0, 1, -1) * abs(part).mean(axis=1, keepdims=True)
        np.testing.assert_allclose(result[:, start : start + group], best, rtol=1e-6)


@given(shapes, seeds, st.integers(1, 16))
def test_codebooks(shape, seed, n_levels):
    n_out, n_in, group = shape
    rng = np.random.default_rng(seed)
    book = np.sort(rng.choice(BOOK, size=n_levels, replace=False)).astype(np.float32)
    q = rng.integers(0, n_levels, size=(n_out, n_in))
    scale = rng.uniform(0.5, 2, size=(n_out, n_groups(n_in, group)))
    scale = scale.astype(np.float32)
    packed = p.pack_codebook(q, book, group, scale=scale)
    where = np.arange(n_in) // min(group, n_in)
    weight = book.astype(float)[q] * scale.astype(float)[:, where]
    np.testing.assert_array_equal(p.unpack_codebook(packed), weight.astype(np.float32))
    np.testing.assert_array_equal(p.unpack_codes(packed), q)
    assert packed.codebook.shape == (16,)
    np.testing.assert_array_equal(packed.codebook[:n_levels], book)
    assert packed.twice_zero == 0
    # Of floats: no value of the codebook is nearer.
    w = rng.normal(size=(n_out, n_in))
    packed = p.pack_codebook(w, book, group)
    scales = packed.scale.transpose(0, 2, 1).reshape(-1, packed.n_groups)[:n_out]
    levels = book.astype(float) * scales.astype(float)[:, where, None]
    distance = abs(w[..., None] - levels).min(axis=-1)
    error = abs(w - p.unpack_codebook(packed).astype(float))
    np.testing.assert_allclose(error, distance, atol=1e-6 * abs(levels).max())


def test_codebook_with_zero_points():
    zero = np.array([[0.5], [0.0]])
    packed = p.pack_codebook([[0, 1], [1, 0]], [-1.0, 2.0], scale=2.0, zero_point=zero)
    assert packed.zero_point is not None
    expected = [[-3.0, 3.0], [4.0, -2.0]]
    np.testing.assert_array_equal(p.unpack_codebook(packed), expected)


@pytest.mark.parametrize("bits", BITS)
def test_levels_come_back_exactly(bits):
    levels = np.arange(2**bits) - ZEROS[bits]
    levels = levels[abs(levels) <= {8: 127, 4: 7, 2: 1.5, 1: 0.5}[bits]]
    w = np.stack([levels, levels[::-1]]) * 0.25
    np.testing.assert_array_equal(UNPACKERS[bits](PACKERS[bits](w)), w)


@pytest.mark.parametrize("pack", [*PACKERS.values(), None])
def test_groups_of_zeros_stay_zero(pack):
    # Grids of one and two bits, and this codebook, have no level 0.
    pack = pack or (lambda w, group: p.pack_codebook(w, [1.0, 2.0], group))
    w = np.zeros((3, 8))
    w[0, 4:] = 1.0
    packed = pack(w, 4)
    np.testing.assert_array_equal(p.dequantized(packed)[1:], 0)
    np.testing.assert_array_equal(p.dequantized(packed)[0, :4], 0)


# ---------------------------------------------------------------------------
# Zero points.


@pytest.mark.parametrize(
    ("zero", "twice"), [(0.0, 0), (1.5, 3), (-7.0, -14), (255.0, 510), (None, 16)]
)
def test_one_zero_point_is_an_integer(zero, twice):
    packed = p.pack_w4(np.eye(3, dtype=int), scale=1.0, zero_point=zero)
    assert packed.zero_point is None
    assert packed.twice_zero == twice


@pytest.mark.parametrize("zero", [0.25, 256.0, [[1.0], [2.0], [1.0]]])
def test_other_zero_points_are_kept(zero):
    packed = p.pack_w4(np.eye(3, dtype=int), scale=1.0, zero_point=zero)
    assert packed.twice_zero == 0
    rows = packed.zero_point[0, 0, :3]
    np.testing.assert_array_equal(rows, np.broadcast_to(np.ravel(zero), 3))
    expected = np.eye(3) - np.broadcast_to(zero, (3, 1))
    np.testing.assert_array_equal(p.unpack_w4(packed), expected)


# ---------------------------------------------------------------------------
# Groups that are too long for a sum in 32 bits.


@pytest.mark.parametrize("bits", [8, 1])
@pytest.mark.parametrize("n_in", [p.MAX_GROUP, p.MAX_GROUP + 1, 2 * p.MAX_GROUP + 100])
@pytest.mark.parametrize("group", [None, p.MAX_GROUP + 70])
def test_long_groups_are_split_in_equal_scales(bits, n_in, group):
    rng = np.random.default_rng(2)
    q = random_codes(rng, bits, 2, n_in)
    groups = 1 if group is None else n_groups(n_in, group)
    scale = rng.normal(size=(2, groups)).astype(np.float32)
    packed = PACKERS[bits](q, group, scale=scale)
    whole = min(group or n_in, n_in)
    parts = -(-whole // p.MAX_GROUP)
    assert packed.n_groups == groups * parts
    assert packed.padded_group <= p.MAX_GROUP
    # Parts of one size: what is padded is less than 64 columns a part.
    assert packed.padded_group * parts < whole + 64 * parts
    np.testing.assert_array_equal(p.unpack_codes(packed), q)
    where = np.arange(n_in) // whole
    weight = (q - ZEROS[bits]) * scale.astype(float)[:, where]
    np.testing.assert_array_equal(UNPACKERS[bits](packed), weight.astype(np.float32))
    assert np.unique(packed.columns).size == n_in


def test_sums_of_the_longest_group_fit_32_bits():
    # Twice the product and the zero point, at the largest zero point that is kept.
    assert (2 * 255 + 510) * 128 * p.MAX_GROUP < 2**31


# ---------------------------------------------------------------------------
# What a weight is.


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_without_what_it_made_and_aligned(protocol):
    rng = np.random.default_rng(3)
    scale, zero = rng.normal(size=(2, 40, 2))
    for packed in (
        p.pack_w4(random_codes(rng, 4, 40, 100), 50, scale=scale, zero_point=zero),
        p.pack_codebook(rng.normal(size=(40, 100)), BOOK, 50),
    ):
        before = len(pickle.dumps(packed, protocol))
        weight = packed.dequantized
        assert packed.expanded.shape == (40, 128)
        assert len(pickle.dumps(packed, protocol)) == before
        back = pickle.loads(pickle.dumps(packed, protocol))
        np.testing.assert_array_equal(back.dequantized, weight)
        for part in (back.codes, back.scale, back.zero_point, back.codebook):
            assert part is None or part.ctypes.data % 64 == 0


def test_arrays_that_begin_anywhere_are_moved():
    packed = p.pack_w8(np.eye(20))
    memory = np.frombuffer(b"\0" + packed.codes.tobytes(), dtype=np.uint8)
    odd = memory[1:].reshape(packed.codes.shape)
    moved = p.PackedWeight(
        8, 20, 20, 20, odd, np.asfortranarray(packed.scale), packed.twice_zero
    )
    assert moved.codes.ctypes.data % 64 == 0
    assert moved.scale.flags.c_contiguous
    np.testing.assert_array_equal(p.unpack_w8(moved), p.unpack_w8(packed))
    again = p.PackedWeight(8, 20, 20, 20, moved.codes, moved.scale, moved.twice_zero)
    assert again.codes is moved.codes  # what lies well is not copied


@pytest.mark.parametrize("plans", [_integer_plan, _codebook_plan])
def test_threads_get_one_plan(plans, monkeypatch):
    # A second one would leave the first without the arrays that it points to.
    made, together = plans._made, Barrier(2)

    def make(packed):
        together.wait()
        return made(packed)

    monkeypatch.setattr(plans, "_made", make)
    packed = p.pack_w4(np.ones((2, 3)))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(plans.plan_of, [packed, packed])
    assert first is second


def test_deep_copies_share_nothing():
    packed = p.pack_w8(np.eye(20))
    other = copy.deepcopy(packed)
    other.codes[:] = 0
    np.testing.assert_allclose(p.unpack_w8(packed), np.eye(20), rtol=1e-6)


def test_is_frozen():
    with pytest.raises(AttributeError):
        p.pack_w8(np.eye(2)).bits = 4


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0, 4), (5, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_aligned_memory(shape, dtype):
    array = p.aligned_empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous
    array[...] = 1  # it may be written


def test_saved_by_numpy():
    packed = p.pack_w2(np.random.default_rng(4).normal(size=(5, 40)), 16)
    file = io.BytesIO()
    np.savez(file, codes=packed.codes, scale=packed.scale)
    file.seek(0)
    read = np.load(file)
    back = p.PackedWeight(2, 5, 40, 16, read["codes"], read["scale"], 3)
    np.testing.assert_array_equal(p.unpack_w2(back), p.unpack_w2(packed))


# ---------------------------------------------------------------------------
# Errors.


@pytest.mark.parametrize("weight", [[1.0], [[]], np.ones((2, 2, 2)), np.ones((0, 3))])
@pytest.mark.parametrize("pack", PACKERS.values())
def test_weight_is_a_matrix(pack, weight):
    with pytest.raises(ValueError, match="weight must have shape"):
        pack(weight)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pack", PACKERS.values())
def test_weight_is_finite(pack, value):
    with pytest.raises(ValueError, match="weight must be finite"):
        pack([[1.0, value]])
    with pytest.raises(ValueError, match="weight must be finite"):
        p.pack_codebook([[1.0, value]], [-1.0, 1.0])


@pytest.mark.parametrize("pack", PACKERS.values())
def test_scale_fits_single_precision(pack):
    with pytest.raises(ValueError, match="scale of weight must be finite in single"):
        pack([[1e300, 1.0]])


@pytest.mark.parametrize("group", [0, -1, 2.5, "all"])
def test_group_size_is_a_number_of_columns(group):
    with pytest.raises(ValueError, match="group_size="):
        p.pack_w8(np.eye(3), group)


@pytest.mark.parametrize("group", [3, 4, np.int64(100)])
def test_group_size_may_exceed_the_columns(group):
    assert p.pack_w8(np.eye(3), group).group_size == 3


@pytest.mark.parametrize("bits", BITS)
def test_codes_fit_the_bits(bits):
    for code in (-1, 2**bits):
        with pytest.raises(ValueError, match=f"between 0 and {2**bits - 1}, got"):
            PACKERS[bits]([[0, code]], scale=1.0)


def test_codes_fit_the_codebook():
    with pytest.raises(ValueError, match="between 0 and 1, got 0 to 2"):
        p.pack_codebook([[0, 2]], [1.0, 2.0], scale=1.0)


@pytest.mark.parametrize("pack", PACKERS.values())
def test_codes_need_a_scale_and_floats_take_none(pack):
    with pytest.raises(ValueError, match="scale is missing"):
        pack([[0, 1]])
    with pytest.raises(ValueError, match="belong to codes"):
        pack([[0.0, 1.0]], scale=1.0)
    with pytest.raises(ValueError, match="belong to codes"):
        pack([[0.0, 1.0]], zero_point=1.0)


@pytest.mark.parametrize("name", ["scale", "zero_point"])
def test_scale_and_zero_point_fit(name):
    codes = np.zeros((4, 10), dtype=int)
    options = {"scale": 1.0}
    with pytest.raises(ValueError, match=rf"{name} must broadcast to .* = \(4, 3\)"):
        p.pack_w4(codes, 4, **options | {name: np.ones((4, 2))})
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            p.pack_w4(codes, 4, **options | {name: value})


@pytest.mark.parametrize(
    "book",
    [[], [1.0, 1.0], [2.0, 1.0], np.arange(17), [0.0, np.nan], [1e300], [[0.0, 1.0]]],
)
def test_codebook_is_an_increasing_list(book):
    with pytest.raises(ValueError, match="codebook="):
        p.pack_codebook(np.eye(2), book)


@pytest.mark.parametrize("bits", BITS)
def test_unpack_takes_its_own_kind(bits):
    packed = PACKERS[bits](np.eye(2))
    for other in set(BITS) - {bits}:
        with pytest.raises(ValueError, match=f"packed holds {bits} bits"):
            UNPACKERS[other](packed)
    with pytest.raises(ValueError, match=f"packed holds {bits} bits"):
        p.unpack_codebook(packed)
    with pytest.raises(ValueError, match="packed holds a codebook"):
        UNPACKERS[bits](p.pack_codebook(np.eye(2), BOOK))
