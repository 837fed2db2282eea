"""Products with a weight of one bit, by looking up sums."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from uqlib_kernels import _threads
from uqlib_kernels._lookup import lookup_linear
from uqlib_kernels.pack import pack_w1
from uqlib_kernels.registry import available_isas

HAS_VECTORS = "vnni" in available_isas()
vectors_only = pytest.mark.skipif(not HAS_VECTORS, reason="no AVX-512 VNNI and VBMI")
every_level = pytest.mark.parametrize(
    "level", ["portable", pytest.param("vnni", marks=vectors_only)]
)


def weight(rng, n_out, n_in, group=None, zero="uniform"):
    """Return codes and a packed weight of them."""
    shape = (n_out, -(-n_in // (group or n_in)))
    zeros = {"uniform": None, "large": 3.5, "own": rng.normal(size=shape)}[zero]
    codes = rng.integers(0, 2, (n_out, n_in))
    return pack_w1(codes, group, scale=rng.normal(size=shape), zero_point=zeros)


def rows(rng, n_rows, n_in):
    return rng.normal(size=(n_rows, n_in)).astype(np.float32)


def rounded(x):
    """Return codes and scales of rows: six bits."""
    top = np.abs(x).max(axis=1, initial=0, keepdims=True)
    t = np.where(top > 0, top / np.float32(31), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(x / t), -31, 31).astype(np.int64), t.astype(float)


@every_level
@settings(max_examples=50, deadline=None)
@given(
    n_rows=st.integers(0, 11),
    n_out=st.integers(1, 70),
    n_in=st.integers(1, 300),
    group=st.none() | st.integers(1, 300),
    zero=st.sampled_from(["uniform", "large", "own"]),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_product(level, n_rows, n_out, n_in, group, zero, with_bias, seed):
    rng = np.random.default_rng(seed)
    packed, x = weight(rng, n_out, n_in, group, zero), rows(rng, n_rows, n_in)
    bias = rng.normal(size=n_out).astype(np.float32) if with_bias else None
    codes, t = rounded(x)
    dequantized = packed.dequantized.T.astype(float)
    exact = t * (codes @ dequantized)
    size = t * (np.abs(codes) @ np.abs(dequantized))
    if with_bias:
        exact, size = exact + bias, size + np.abs(bias)
    found = lookup_linear(x, packed, bias, level=level)
    assert found.dtype == np.float32
    assert found.shape == (n_rows, n_out)
    reach = max(np.abs(exact).max(initial=0), size.max(initial=0) / 8)
    assert np.abs(found - exact).max(initial=0) <= 1e-6 * reach


@every_level
@pytest.mark.parametrize("n_in", [1, 4, 31, 32, 33, 100, 2**14, 2**14 + 1, 40000])
@pytest.mark.parametrize("n_rows", [1, 6])
def test_sums_are_exact(level, n_in, n_rows):
    # Codes are the activations themselves, and scales are 1: all results are multiples
    # of a half below 2^24.
    rng = np.random.default_rng(n_in)
    q = rng.integers(0, 2, (19, n_in))
    a = rng.integers(-31, 32, (n_rows, n_in))
    a[:, 0] = 31
    a[-1] = rng.choice([-31, 31], n_in)
    found = lookup_linear(a.astype(np.float32), pack_w1(q, scale=1.0), level=level)
    twice = 2 * (a.astype(np.int64) @ q.T) - a.sum(axis=1, keepdims=True)
    assert_array_equal(2 * found.astype(np.int64), 2 * np.trunc(twice / 2).astype(int))
    assert_array_equal(2 * found.astype(float), twice)


@every_level
def test_all_sums_of_four(level):
    # Rows in which only four columns of one table are not zero, with all sixteen
    # weights there, for each of the eight tables of a word and their largest sums.
    patterns = np.arange(16)[:, None] >> np.arange(4) & 1
    for half in range(2):
        for byte in range(4):
            columns = 16 * half + 4 * np.arange(4) + byte
            q = np.zeros((16, 32), dtype=int)
            q[:, columns] = patterns
            packed = pack_w1(q, scale=1.0, zero_point=0.0)
            for a in ([31, 31, 31, 31], [-31, -31, -31, -31], [31, -7, 3, -1]):
                x = np.zeros((1, 32), dtype=np.float32)
                x[0, columns] = a
                found = lookup_linear(x, packed, level=level)
                assert_array_equal(found[0], patterns @ a)


@vectors_only
@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(1, 9),
    n_out=st.integers(1, 40),
    n_in=st.integers(1, 200),
    group=st.none() | st.integers(1, 200),
    zero=st.sampled_from(["uniform", "large", "own"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_levels_give_the_same_bits(n_rows, n_out, n_in, group, zero, seed):
    rng = np.random.default_rng(seed)
    packed, x = weight(rng, n_out, n_in, group, zero), rows(rng, n_rows, n_in)
    bias = rng.normal(size=n_out).astype(np.float32)
    found = lookup_linear(x, packed, bias, level="vnni")
    assert_array_equal(found, lookup_linear(x, packed, bias, level="portable"))
    alone = [lookup_linear(row[None], packed, bias, level="vnni")[0] for row in x]
    assert_array_equal(found, alone)


@vectors_only
def test_more_rows_than_have_tables_at_once():
    rng = np.random.default_rng(0)
    packed, x = weight(rng, 17, 2**14), rows(rng, 11, 2**14)
    expected = lookup_linear(x, packed, level="portable")
    assert_array_equal(lookup_linear(x, packed, level="vnni"), expected)


@every_level
def test_special_rows(level):
    rng = np.random.default_rng(1)
    packed, x = weight(rng, 21, 70, 35), rows(rng, 7, 70)
    bias = rng.normal(size=21).astype(np.float32)
    expected = lookup_linear(x, packed, bias, level=level)
    x[1] = 0.0
    x[3, 5] = np.inf
    x[4, 69] = np.nan
    x[6] = 1e-44
    found = lookup_linear(x, packed, bias, level=level)
    assert_array_equal(found[1], bias)
    assert np.isnan(found[3:5]).all()
    assert_array_equal(found[[0, 2, 5]], expected[[0, 2, 5]])
    assert np.isfinite(found[6]).all()


@every_level
def test_strides(level):
    rng = np.random.default_rng(2)
    packed = weight(rng, 20, 64)
    for n_rows in (1, 6):
        x = rows(rng, n_rows, 64)
        expected = lookup_linear(x, packed, level=level)
        wide = np.zeros((2 * n_rows, 192), dtype=np.float32)
        wide[::2, ::3] = x
        read_only = x.copy()
        read_only.flags.writeable = False
        forms = [
            np.asfortranarray(x),
            wide[::2, ::3],
            np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
            read_only,
        ]
        for form in forms:
            before = form.copy()
            assert_array_equal(lookup_linear(form, packed, level=level), expected)
            assert_array_equal(form, before)


@every_level
@pytest.mark.parametrize("n_rows", [1, 200])
def test_threads_change_nothing(level, n_rows, monkeypatch):
    rng = np.random.default_rng(3)
    packed, x = weight(rng, 100, 64, 32), rows(rng, n_rows, 64)
    expected = lookup_linear(x, packed, level=level)
    monkeypatch.setattr(_threads, "SERIAL_WORK", 2**8)
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
    assert_array_equal(lookup_linear(x, packed, level=level), expected)
