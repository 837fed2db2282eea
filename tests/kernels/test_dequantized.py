"""Products of float rows with weights of all bits; panels."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from uqlib_kernels import _dequantized
from uqlib_kernels import pack as p
from uqlib_kernels._dequantized import dequantized_linear, panel_linear
from uqlib_kernels.registry import available_isas

PACK = {8: p.pack_w8, 4: p.pack_w4, 2: p.pack_w2, 1: p.pack_w1}

LEVELS = [
    "portable",
    pytest.param(
        "vnni",
        marks=pytest.mark.skipif(
            "vnni" not in available_isas(), reason="no AVX-512 VNNI and VBMI"
        ),
    ),
]
every_level = pytest.mark.parametrize("level", LEVELS)


def weight(rng, bits, n_out, n_in, group=None, zeros=False):
    """Return a packed weight of random codes, scales and zero points."""
    shape = (n_out, -(-n_in // (group or n_in)))
    zero = rng.normal(size=shape) * 2**bits / 4 if zeros else None
    codes = rng.integers(0, 2**bits, (n_out, n_in))
    return PACK[bits](codes, group, scale=rng.normal(size=shape), zero_point=zero)


def check(x, packed, bias, found):
    """Compare with the product in double precision."""
    exact = x.astype(float) @ packed.dequantized.T.astype(float)
    size = np.abs(x).astype(float) @ np.abs(packed.dequantized.T).astype(float)
    if bias is not None:
        exact, size = exact + bias, size + np.abs(bias)
    assert found.dtype == np.float32
    assert found.shape == exact.shape
    bound = 2e-6 * max(1.0, np.sqrt(x.shape[1] / 512))
    reach = max(np.abs(exact).max(initial=0), size.max(initial=0) / 8)
    assert np.abs(found - exact).max(initial=0) <= bound * reach


@every_level
@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([8, 4, 2, 1]),
    n_rows=st.integers(0, 14),
    n_out=st.integers(1, 50),
    n_in=st.integers(1, 200),
    group=st.none() | st.integers(1, 200),
    zeros=st.booleans(),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_product(level, bits, n_rows, n_out, n_in, group, zeros, with_bias, seed):
    rng = np.random.default_rng(seed)
    packed = weight(rng, bits, n_out, n_in, group, zeros)
    x = rng.normal(size=(n_rows, n_in)).astype(np.float32)
    bias = rng.normal(size=n_out).astype(np.float32) if with_bias else None
    found = dequantized_linear(x, packed, bias, level=level)
    check(x, packed, bias, found)


@every_level
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("group", [None, 50, 128])
def test_unit_rows_give_the_columns_of_the_weight(level, bits, group):
    # One product and zeros: nothing is rounded but level times scale, as in the float
    # matrix, and these are all its columns in their places.
    packed = weight(np.random.default_rng(bits), bits, 37, 150, group)
    rows = np.eye(150, dtype=np.float32)
    found = dequantized_linear(rows, packed, level=level)
    assert_array_equal(found, packed.dequantized.T)
    found = dequantized_linear(rows[77:78], packed, level=level)
    assert_array_equal(found[0], packed.dequantized[:, 77])


@every_level
@pytest.mark.parametrize("bits", [8, 1])
def test_groups_that_are_split(level, bits):
    rng = np.random.default_rng(bits)
    packed = weight(rng, bits, 18, 2**14 + 1)
    assert packed.n_groups == 2
    x = rng.normal(size=(3, 2**14 + 1)).astype(np.float32)
    check(x, packed, None, dequantized_linear(x, packed, level=level))


@pytest.mark.parametrize("panel", [1, 16 * 70, 33 * 70, 10**6])
def test_panels_of_any_size(panel, monkeypatch):
    rng = np.random.default_rng(0)
    packed = weight(rng, 4, 90, 70, 24, zeros=True)
    x = rng.normal(size=(4, 70)).astype(np.float32)
    bias = rng.normal(size=90).astype(np.float32)
    monkeypatch.setattr(_dequantized, "PANEL", panel)
    check(x, packed, bias, panel_linear(x, packed, bias))


@pytest.mark.parametrize("form", ["C", "F", "reversed", "sliced", "read-only"])
def test_panels_with_rows_of_any_strides(form):
    rng = np.random.default_rng(1)
    packed = weight(rng, 2, 20, 64, 64)
    x = rng.normal(size=(5, 64)).astype(np.float32)
    wide = np.zeros((10, 192), dtype=np.float32)
    wide[::2, ::3] = x
    given_form = {
        "C": x,
        "F": np.asfortranarray(x),
        "reversed": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        "sliced": wide[::2, ::3],
        "read-only": np.frombuffer(x.tobytes(), dtype=np.float32).reshape(x.shape),
    }[form]
    before = given_form.copy()
    check(x, packed, None, panel_linear(given_form, packed))
    assert_array_equal(given_form, before)


@every_level
def test_the_float_matrix_is_never_held(level):
    packed = p.pack_w4(np.ones((1024, 1024)), 128)
    x = np.ones((2, 1024), dtype=np.float32)
    dequantized_linear(x, packed, level=level)
    tracemalloc.start()
    found = dequantized_linear(x, packed, level=level)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1024 * 1024 * 4 / 3  # a panel is a quarter of it
    np.testing.assert_allclose(found, 1024.0, rtol=1e-6)
    assert "dequantized" not in packed.__dict__


def test_huge_values_stay_infinite_in_panels():
    packed = p.pack_w8(np.eye(3))
    x = np.array([[np.inf, 0.0, 1.0]], dtype=np.float32)
    with np.errstate(invalid="ignore"):
        found = panel_linear(x, packed)
    assert found[0, 0] == np.inf
    assert np.isnan(found[0, 1:]).all()  # infinity times a weight of zero
