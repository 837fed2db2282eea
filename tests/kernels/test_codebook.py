"""Products of float rows with weights of 4 bits: any codebook, any shape."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from uqlib_kernels import _codebook, _threads
from uqlib_kernels._codebook import codebook_linear
from uqlib_kernels.pack import pack_codebook, pack_w4
from uqlib_kernels.registry import available_isas

NF4 = [-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0.0]
NF4 += [0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0]

LEVELS = [
    "portable",
    pytest.param(
        "vnni",
        marks=pytest.mark.skipif(
            "vnni" not in available_isas(), reason="no AVX-512 VNNI and VBMI"
        ),
    ),
]
pytestmark = pytest.mark.parametrize("level", LEVELS)


def weight(rng, n_out, n_in, group=None, kind="codebook", n_levels=16):
    """Return a packed weight of random codes, scales and zero points."""
    groups = -(-n_in // (group or n_in))
    scale = rng.uniform(0.5, 2.0, (n_out, groups)) * rng.choice([-1, 1], (n_out, 1))
    zero = rng.normal(size=(n_out, groups)) if kind.endswith("zeros") else None
    codes = rng.integers(0, n_levels, (n_out, n_in))
    if kind.startswith("integers"):
        return pack_w4(codes, group, scale=scale, zero_point=zero)
    book = np.sort(rng.permutation(NF4)[:n_levels])
    return pack_codebook(codes, book, group, scale=scale, zero_point=zero)


def check(x, packed, bias, level):
    """Compare with the product in double precision."""
    exact = x.astype(float) @ packed.dequantized.T.astype(float)
    size = np.abs(x).astype(float) @ np.abs(packed.dequantized.T).astype(float)
    if bias is not None:
        exact, size = exact + bias, size + np.abs(bias)
    found = codebook_linear(x, packed, bias, level=level)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.shape == exact.shape
    bound = 2e-6 * max(1.0, np.sqrt(x.shape[1] / 512))
    reach = max(np.abs(exact).max(initial=0), size.max(initial=0) / 8)
    assert np.abs(found - exact).max(initial=0) <= bound * reach
    return found


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(0, 20),
    n_out=st.integers(1, 70),
    n_in=st.integers(1, 300),
    group=st.none() | st.integers(1, 300),
    kind=st.sampled_from(["codebook", "codebook zeros", "integers", "integers zeros"]),
    n_levels=st.integers(1, 16),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_product(level, n_rows, n_out, n_in, group, kind, n_levels, with_bias, seed):
    rng = np.random.default_rng(seed)
    packed = weight(rng, n_out, n_in, group, kind, n_levels)
    x = rng.normal(size=(n_rows, n_in)).astype(np.float32)
    bias = rng.normal(size=n_out).astype(np.float32) if with_bias else None
    check(x, packed, bias, level)


@pytest.mark.parametrize("kind", ["codebook", "integers"])
@pytest.mark.parametrize("group", [None, 7, 32, 96])
def test_unit_rows_give_the_columns_of_the_weight(level, kind, group):
    # One product and zeros: nothing is rounded but level times scale, as in the float
    # matrix. More rows than are copied at a time.
    packed = weight(np.random.default_rng(0), 45, 203, group, kind)
    rows = np.eye(203, dtype=np.float32)
    assert_array_equal(codebook_linear(rows, packed, level=level), packed.dequantized.T)
    for k in (0, 6, 7, 202):
        found = codebook_linear(rows[k : k + 1], packed, level=level)
        assert_array_equal(found[0], packed.dequantized[:, k])


@pytest.mark.parametrize("n_rows", [1, 3, 8])
def test_a_codebook_of_integers_is_integers(level, n_rows):
    rng = np.random.default_rng(1)
    codes, scale = rng.integers(0, 16, (33, 130)), rng.normal(size=(33, 3))
    x = rng.normal(size=(n_rows, 130)).astype(np.float32)
    integers = pack_w4(codes, 50, scale=scale)
    book = pack_codebook(codes, np.arange(16) - 8.0, 50, scale=scale)
    shifted = pack_codebook(codes, np.arange(16.0), 50, scale=scale, zero_point=8.0)
    expected = codebook_linear(x, integers, level=level)
    assert_array_equal(codebook_linear(x, book, level=level), expected)
    assert_array_equal(codebook_linear(x, shifted, level=level), expected)


@pytest.mark.parametrize("n_in", [1, 63, 64, 65, 16384, 16385, 40000])
@pytest.mark.parametrize("n_rows", [1, 5])
def test_lengths_of_one_group(level, n_in, n_rows):
    rng = np.random.default_rng(n_in)
    x = rng.normal(size=(n_rows, n_in)).astype(np.float32)
    check(x, weight(rng, 17, n_in), None, level)


def test_strides(level):
    rng = np.random.default_rng(2)
    packed = weight(rng, 20, 64, 64)
    for n_rows in (1, 4, 6):
        x = rng.normal(size=(n_rows, 64)).astype(np.float32)
        expected = check(x, packed, None, level)
        wide = np.zeros((2 * n_rows, 192), dtype=np.float32)
        wide[::2, ::3] = x
        read_only = x.copy()
        read_only.flags.writeable = False
        forms = [
            np.asfortranarray(x),
            wide[::2, ::3],
            np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
            read_only,
            np.broadcast_to(x[:1], x.shape),
        ]
        for form in forms[:-1]:
            before = form.copy()
            # BLAS may add in another order for other strides.
            found = codebook_linear(form, packed, level=level)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
            assert_array_equal(form, before)
        check(forms[-1], packed, None, level)


def test_infinite_values_and_nan_go_through(level):
    rng = np.random.default_rng(3)
    for kind in ("codebook zeros", "integers"):
        packed = weight(rng, 40, 90, 30, kind)
        for n_rows in (1, 4, 9):
            x = rng.normal(size=(n_rows, 90)).astype(np.float32)
            x[0, 3] = np.inf
            if n_rows > 1:
                x[1, 40] = -np.inf
                x[2, 89] = np.nan
            with np.errstate(invalid="ignore"):
                expected = x.astype(float) @ packed.dequantized.T.astype(float)
                found = codebook_linear(x, packed, level=level)
            assert_array_equal(np.isnan(found), np.isnan(expected))
            infinite = np.isinf(expected)
            assert infinite.any()
            assert_array_equal(found[infinite], expected[infinite])
            assert_array_equal(np.isfinite(found), np.isfinite(expected))


def test_small_and_zero_rows(level):
    rng = np.random.default_rng(4)
    packed = weight(rng, 18, 64)
    bias = rng.normal(size=18).astype(np.float32)
    zeros = np.zeros((3, 64), dtype=np.float32)
    found = codebook_linear(zeros, packed, bias, level=level)
    assert_array_equal(found, np.tile(bias, (3, 1)))
    # Denormal activations lose digits of their own, not more.
    x = (rng.normal(size=(5, 64)) * 1e-42).astype(np.float32)
    exact = x.astype(float) @ packed.dequantized.T.astype(float)
    found = codebook_linear(x, packed, level=level)
    assert np.abs(found - exact).max() <= 64 * 2 * 1.5e-45 * 2


@pytest.mark.parametrize("n_rows", [1, 9])
def test_threads_change_nothing(level, n_rows, monkeypatch):
    rng = np.random.default_rng(5)
    packed = weight(rng, 150, 96, 32)
    x = rng.normal(size=(n_rows, 96)).astype(np.float32)
    bias = rng.normal(size=150).astype(np.float32)
    expected = codebook_linear(x, packed, bias, level=level)
    for module in (_codebook, _threads):
        monkeypatch.setattr(module, "SERIAL_WORK", 2**9)
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
    assert_array_equal(codebook_linear(x, packed, bias, level=level), expected)
