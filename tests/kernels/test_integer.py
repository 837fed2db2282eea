"""Integer products with packed weights: exact sums, the same bits at every level."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib_kernels import _amx_gemm, _integer, _integer_portable, _threads
from uqlib_kernels._integer import integer_linear, integer_product
from uqlib_kernels._packed import MAX_GROUP, unpack_codes
from uqlib_kernels._quantize_rows import quantize_rows
from uqlib_kernels.pack import pack_codebook, pack_w1, pack_w2, pack_w4, pack_w8
from uqlib_kernels.registry import available_isas

# Products on tiles have tests of their own.
LEVELS = [level for level in ("vnni", "portable") if level in available_isas()]
PACK = {8: pack_w8, 4: pack_w4, 2: pack_w2, 1: pack_w1}
BITS = sorted(PACK)
ROWS = [0, 1, 2, 3, 7, 8, 9, 33]
SHAPES = [
    (1, 1, None),
    (3, 5, 2),
    (16, 33, 10),
    (17, 64, 64),
    (40, 100, 37),
    (33, 300, 128),
    (70, 200, 32),
]
ZEROS = ["default", "half", "whole", "any", "far"]

at_every_level = pytest.mark.parametrize("level", LEVELS)
at_all_bits = pytest.mark.parametrize("bits", BITS)


# ----------------------------------------------------------------- references


def weight(bits, n_out, n_in, group_size=None, zeros="any", seed=0):
    """Random codes, scales and zero points, packed."""
    rng = np.random.default_rng(seed)
    shape = n_out, -(-n_in // (group_size or n_in))
    zero_point = {
        "default": None,
        "half": 1.5,
        "whole": rng.integers(-3, 2**bits + 3, size=shape),
        "any": rng.uniform(-1, 2**bits, size=shape),
        "far": rng.uniform(-3000, 3000, size=shape),  # beyond what integers take off
    }[zeros]
    codes = rng.integers(0, 2**bits, size=(n_out, n_in))
    scale = rng.uniform(0.1, 1, size=shape)
    return PACK[bits](codes, group_size, scale=scale, zero_point=zero_point)


def activations(n_rows, packed, seed=0):
    x = np.random.default_rng(seed).normal(size=(n_rows, packed.n_in))
    return quantize_rows(x.astype(np.float32), packed, level=LEVELS[-1])


def by_group(packed):
    """Scales and twice the zero points of float32, each (n_out, n_groups)."""
    rows = [
        part.transpose(0, 2, 1).reshape(-1, packed.n_groups)[: packed.n_out]
        for part in (packed.scale, packed.zero_point)
        if part is not None
    ]
    if len(rows) == 1:
        rows.append(np.full_like(rows[0], packed.twice_zero / 2))
    return rows[0], 2 * rows[1]


def group_sums(codes, packed):
    """Products with the codes and sums of the rows of each group, in int64."""
    group = packed.columns // packed.padded_group
    q = unpack_codes(packed).astype(np.int64)
    a = codes[:, packed.columns].astype(np.int64)
    for g in range(packed.n_groups):
        here = group == g
        yield a[:, here] @ q[:, here].T, a[:, here].sum(axis=1)[:, None]


def exact_reference(codes, row_scale, packed, bias):
    """The product in float64."""
    scale, twice = (part.astype(np.float64) for part in by_group(packed))
    y = np.zeros((len(codes), packed.n_out))
    for g, (product, row_sum) in enumerate(group_sums(codes, packed)):
        y += scale[:, g] * (product - twice[:, g] / 2 * row_sum)
    return y * row_scale[:, None] + (0 if bias is None else bias)


def rounded_reference(codes, row_scale, packed, bias):
    """The product with the roundings to float32 that the module promises."""
    scale, twice = by_group(packed)
    whole = np.clip(np.rint(twice), -510, 510)
    rest = twice - whole
    y = np.zeros((len(codes), packed.n_out), dtype=np.float32)
    for g, (product, row_sum) in enumerate(group_sums(codes, packed)):
        exact = 2 * product - whole[:, g].astype(np.int64) * row_sum
        assert np.abs(exact).max(initial=0) < 2**31
        value = exact.astype(np.float32) - rest[:, g] * row_sum.astype(np.float32)
        y += value * scale[:, g]
    y = y * np.float32(0.5) * row_scale[:, None]
    return y if bias is None else y + bias


def assert_product(got, codes, row_scale, packed, bias):
    assert got.dtype == np.float32
    assert got.shape == (len(codes), packed.n_out)
    wanted = exact_reference(codes, row_scale, packed, bias)
    size = np.abs(wanted).max(initial=0)
    assert np.abs(got - wanted).max(initial=0) <= 1e-6 * size
    rounded = rounded_reference(codes, row_scale, packed, bias)
    np.testing.assert_array_equal(got, rounded)


# ----------------------------------------------------------------- products


@at_every_level
@at_all_bits
@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize(("n_out", "n_in", "group_size"), SHAPES)
def test_product(level, bits, zeros, n_out, n_in, group_size):
    packed = weight(bits, n_out, n_in, group_size, zeros)
    for n_rows in ROWS:
        codes, sums, row_scale = activations(n_rows, packed)
        bias = np.linspace(-1, 1, n_out, dtype=np.float32) if n_rows % 2 else None
        got = integer_product(codes, sums, row_scale, packed, bias, level)
        assert_product(got, codes, row_scale, packed, bias)


@at_every_level
@at_all_bits
@pytest.mark.parametrize("n_rows", [1, 4, 8, 70])
def test_integers_are_exact(level, bits, n_rows):
    # All sums are below 2^24, so that single precision shows each of their bits.
    packed = PACK[bits](
        np.random.default_rng(0).integers(0, 2**bits, size=(37, 260)),
        scale=1.0,
        zero_point=0.0,
    )
    codes = np.zeros((n_rows, packed.n_padded), dtype=np.int8)
    codes[:, packed.columns] = np.random.default_rng(1).integers(
        -127, 128, size=(n_rows, 260)
    )
    sums = codes.sum(axis=1, dtype=np.int32)[:, None]
    ones = np.ones(n_rows, dtype=np.float32)
    wanted = codes[:, packed.columns].astype(np.int64) @ unpack_codes(packed).T
    got = integer_product(codes, sums, ones, packed, None, level)
    np.testing.assert_array_equal(got.astype(np.int64), wanted)


@at_every_level
@at_all_bits
@pytest.mark.parametrize("n_rows", [1, 3, 8, 65])
def test_largest_sums_do_not_overflow(level, bits, n_rows):
    n_in = 2**17
    packed = PACK[bits](
        np.full((2, n_in), 2**bits - 1), scale=1.0, zero_point=[[0.0], [255.0]]
    )
    assert packed.n_groups == n_in // MAX_GROUP
    assert packed.inner_group == MAX_GROUP
    sign = np.where(np.arange(n_rows) % 2, -1, 1)
    codes = np.repeat(np.int8(127 * sign)[:, None], packed.n_padded, axis=1)
    sums = np.repeat(np.int32(127 * MAX_GROUP * sign)[:, None], packed.n_groups, axis=1)
    ones = np.ones(n_rows, dtype=np.float32)
    got = integer_product(codes, sums, ones, packed, None, level)
    # Each group's sum has few digits: nothing is rounded.
    top = 2**bits - 1
    wanted = 127 * n_in * sign[:, None] * np.array([top, top - 255], dtype=np.int64)
    np.testing.assert_array_equal(got.astype(np.int64), wanted)


@at_every_level
@pytest.mark.parametrize(("n_in", "group_size"), [(40000, None), (50000, 40000)])
def test_long_groups_are_split(level, n_in, group_size):
    packed = weight(8, 5, n_in, group_size)
    assert packed.n_groups > -(-n_in // (group_size or n_in))
    for n_rows in (1, 66):
        codes, sums, row_scale = activations(n_rows, packed)
        got = integer_product(codes, sums, row_scale, packed, None, level)
        assert_product(got, codes, row_scale, packed, None)


@at_every_level
@given(
    bits=st.sampled_from(BITS),
    shape=st.tuples(st.integers(1, 50), st.integers(1, 90)),
    group_size=st.integers(1, 100),
    n_rows=st.integers(0, 20),
    zeros=st.sampled_from(ZEROS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape(level, bits, shape, group_size, n_rows, zeros, seed):
    packed = weight(bits, *shape, min(group_size, shape[1]), zeros, seed)
    codes, sums, row_scale = activations(n_rows, packed, seed)
    got = integer_product(codes, sums, row_scale, packed, None, level)
    assert_product(got, codes, row_scale, packed, None)


def test_loops_and_blas_agree(monkeypatch):
    for bits in BITS:
        packed = weight(bits, 21, 3000, 1500)
        codes, sums, row_scale = activations(40, packed)
        found = []
        for rows in (0, 100):
            monkeypatch.setattr(_integer_portable, "_BLAS_ROWS", rows)
            found.append(
                integer_product(codes, sums, row_scale, packed, None, "portable")
            )
        np.testing.assert_array_equal(*found)


@at_every_level
def test_many_blocks(level, monkeypatch):
    """Outputs and rows beyond what is worked on together."""
    monkeypatch.setattr(_integer_portable, "_PANEL", (48, 20))
    packed = weight(8, 340, 2048, None, "default")
    x = np.random.default_rng(0).normal(size=(70, 2048)).astype(np.float32)
    rows = quantize_rows(x, packed, level=level)
    got = integer_product(*rows, packed, None, level)
    assert_product(got, rows[0], rows[2], packed, None)
    np.testing.assert_array_equal(integer_linear(x, packed, level=level), got)


# ----------------------------------------------------------------- rows of floats


@at_every_level
@at_all_bits
def test_linear_is_product_of_rounded_rows(level, bits):
    packed = weight(bits, 19, 77, 32)
    bias = np.linspace(-1, 1, 19, dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(33, 77)).astype(np.float32)
    for given_ in ({}, {"top": 31}, {"static_scale": 0.01}):
        rows = quantize_rows(x, packed, level=level, **given_)
        wanted = integer_product(*rows, packed, bias, level)
        got = integer_linear(x, packed, bias, level=level, **given_)
        np.testing.assert_array_equal(got, wanted)
        # A row alone gives what it gives among others.
        for m in (0, 7, 32):
            one = integer_linear(x[m : m + 1], packed, bias, level=level, **given_)
            np.testing.assert_array_equal(one[0], got[m])
    assert integer_linear(x[:0], packed, bias, level=level).shape == (0, 19)


@at_every_level
def test_any_strides_of_rows(level):
    packed = weight(4, 20, 70, 32)
    x = np.random.default_rng(0).normal(size=(6, 70)).astype(np.float32)
    frozen = x.copy()
    frozen.flags.writeable = False
    for view in (np.asfortranarray(x), x[::-1], x[:, ::-1], x[::2], frozen):
        before = view.copy()
        got = integer_linear(view, packed, level=level)
        np.testing.assert_array_equal(view, before)
        wanted = integer_linear(np.ascontiguousarray(view), packed, level=level)
        np.testing.assert_array_equal(got, wanted)


@at_every_level
@at_all_bits
def test_rows_of_zeros_nan_and_infinity(level, bits):
    packed = weight(bits, 18, 50, 20)
    bias = np.linspace(-1, 1, 18, dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(12, 50)).astype(np.float32)
    x[0], x[3, 4], x[5, 49], x[7, 0] = 0, np.nan, np.inf, -np.inf
    got = integer_linear(x, packed, bias, level=level)
    np.testing.assert_array_equal(got[0], bias)
    broken = np.isnan(got)
    np.testing.assert_array_equal(broken.all(axis=1), broken.any(axis=1))
    assert np.flatnonzero(broken.any(axis=1)).tolist() == [3, 5, 7]


@at_every_level
def test_tiny_and_huge_rows(level):
    packed = pack_w8(np.eye(3) * 127)
    tiny, huge = np.float32(1e-45), np.float32(3e38)
    x = np.array([[150, -150, 100], [0, 0, 0]], dtype=np.float32)
    # A row's scale is a single denormal here: halving it would lose it.
    np.testing.assert_array_equal(
        integer_linear(x * tiny, packed, level=level)[0],
        np.array([127, -127, 100], dtype=np.float32) * tiny * np.float32(127),
    )
    assert not integer_linear(x[1:] * tiny, packed, level=level).any()
    packed = pack_w8(np.eye(3) / 127)
    got = integer_linear(np.diag([huge, -huge, huge]), packed, level=level)
    np.testing.assert_allclose(got, np.diag([huge, -huge, huge]) / 127, rtol=1e-6)


@at_every_level
def test_threads_share_rows_or_tiles(level, monkeypatch):
    packed = weight(4, 90, 64, 32)
    bias = np.linspace(-1, 1, 90, dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(211, 64)).astype(np.float32)
    alone = integer_linear(x, packed, bias, level=level)
    few = integer_linear(x[:5], packed, bias, level=level)
    monkeypatch.setattr(_threads, "SERIAL_WORK", 1)
    monkeypatch.setattr(_integer, "SERIAL_WORK", 1)
    monkeypatch.setattr(_threads.numba, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(integer_linear(x, packed, bias, level=level), alone)
    np.testing.assert_array_equal(integer_linear(x[:5], packed, bias, level=level), few)
    rows = quantize_rows(x, packed, level=level)
    np.testing.assert_array_equal(
        integer_product(*rows, packed, bias, level=level), alone
    )


# ----------------------------------------------------------------- what is around


@at_every_level
def test_level_is_that_of_the_process(level, monkeypatch):
    packed = weight(2, 5, 9)
    x = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    wanted = integer_linear(x, packed, level=level)
    monkeypatch.setattr(_integer, "isa", lambda: level)
    np.testing.assert_array_equal(integer_linear(x, packed), wanted)
    rows = quantize_rows(x, packed, level=level)
    np.testing.assert_array_equal(integer_product(*rows, packed), wanted)


@pytest.mark.skipif("vnni" not in LEVELS, reason="needs AVX-512 VNNI")
def test_tiles_get_what_they_take(monkeypatch):
    packed = weight(8, 5, 9)
    rows = activations(6, packed)
    wanted = integer_product(*rows, packed, None, "vnni")
    called = []

    def product(*arguments):
        called.append(arguments)
        return wanted

    monkeypatch.setattr(_amx_gemm, "amx_product", product)
    monkeypatch.setattr(_amx_gemm, "takes", lambda packed, n_rows: n_rows == 6)
    assert integer_product(*rows, packed, None, "amx") is wanted
    assert len(called) == 1
    assert called[0][3] is packed
    few = [part[:3] for part in rows]
    np.testing.assert_array_equal(
        integer_product(*few, packed, None, "amx"), wanted[:3]
    )
    assert len(called) == 1


@at_every_level
def test_codebook_is_refused(level):
    packed = pack_codebook(np.ones((1, 2)), [-1.0, 0.5, 1.0])
    x = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="holds a codebook"):
        integer_linear(x, packed, level=level)
    rows = quantize_rows(x, weight(8, 1, 2), level=level)
    with pytest.raises(ValueError, match="holds a codebook"):
        integer_product(*rows, packed, None, level)


@at_every_level
def test_bad_scale_is_refused(level):
    x = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="static_scale=-1"):
        integer_linear(x, weight(8, 1, 2), static_scale=-1, level=level)
    with pytest.raises(ValueError, match="top=128"):
        integer_linear(x, weight(8, 1, 2), top=128, level=level)


@at_every_level
def test_weight_is_copied_after_use(level):
    packed = weight(4, 20, 40, 16)
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    wanted = integer_linear(x, packed, level=level)
    # Addresses that a weight keeps must not go where its arrays do not.
    for other in (
        pickle.loads(pickle.dumps(packed)),
        copy.copy(packed),
        copy.deepcopy(packed),
    ):
        assert set(vars(other)) == {
            "bits",
            "n_out",
            "n_in",
            "group_size",
            "codes",
            "scale",
            "twice_zero",
            "zero_point",
            "codebook",
        }
        np.testing.assert_array_equal(integer_linear(x, other, level=level), wanted)
