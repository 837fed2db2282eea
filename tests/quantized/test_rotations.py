"""Rotations of inputs: fast and slow forms agree, energies are spread or sorted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag, hadamard

from tests.quantized._transformed import dense, made, moments_of, rows, weights
from uqlib.quantized._hadamard import BlockHadamard, block_sizes, walsh_hadamard

# Hadamard


@pytest.mark.parametrize("size", [1, 2, 4, 8, 32, 128])
def test_the_fast_transform_is_the_matrix(size):
    x = np.random.default_rng(0).normal(size=(7, size))
    H = hadamard(size) / np.sqrt(size)
    np.testing.assert_allclose(walsh_hadamard(x), x @ H.T, atol=1e-12)
    np.testing.assert_allclose(walsh_hadamard(walsh_hadamard(x)), x, atol=1e-12)
    assert walsh_hadamard(x.astype(np.float32)).dtype == np.float32
    assert walsh_hadamard(x[:0]).shape == (0, size)


@given(st.integers(0, 10**6))
def test_blocks_are_the_binary_expansion(n_in):
    sizes = block_sizes(n_in)
    assert sum(sizes) == n_in
    assert sizes == sorted(set(sizes), reverse=True)
    assert all(size & (size - 1) == 0 for size in sizes)


@given(st.integers(1, 40), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_blocks_and_signs_make_an_orthogonal_matrix(n_in, seed):
    transform = BlockHadamard.fit(np.zeros((1, n_in)), None, seed)
    H = block_diag(*[hadamard(size) / np.sqrt(size) for size in block_sizes(n_in)])
    T = dense(transform, n_in)
    np.testing.assert_allclose(T, H * transform.signs, atol=1e-14)
    np.testing.assert_allclose(T @ T.T, np.eye(n_in), atol=1e-13)


def test_one_large_input_is_spread_evenly():
    (transform,) = made(("hadamard",), rows(16))
    x = np.zeros((1, 16))
    x[0, 3] = 8.0
    np.testing.assert_allclose(np.abs(transform.inputs(x)), 2.0)


def test_signs_are_random_and_cost_a_bit_each():
    x = rows(200)
    first, same, other = (
        made(("hadamard",), x, seed=seed)[0]
        for seed in (0, np.random.RandomState(0), 1)
    )
    np.testing.assert_array_equal(first.signs, same.signs)
    assert (first.signs != other.signs).any()
    # Binomial(200, 1/2) is outside with a probability below 1e-6
    assert 65 <= np.sum(first.signs == 1) <= 135
    assert set(first.signs.tolist()) == {-1, 1}
    assert first.arrays()["signs"].nbytes == 25


# KLT


def test_turned_inputs_are_uncorrelated_and_sorted():
    x = rows(10, spread=0.5)
    (transform,) = made(("klt",), x)
    assert transform.matrix.dtype == np.float16
    turned = transform.gram(moments_of(x).gram)
    size = np.diag(turned)
    assert (np.diff(size) < 0).all()
    exact = np.linalg.eigvalsh(moments_of(x).gram)[::-1]
    np.testing.assert_allclose(size, exact, atol=1e-3 * exact[0])
    off = np.abs(turned - np.diag(size)).max()
    assert off <= 2.0**-10 * exact[0]
    peaks = np.argmax(np.abs(transform.matrix), axis=1)
    assert (np.take_along_axis(transform.matrix, peaks[:, None], axis=1) > 0).all()


def test_hadamard_after_klt_makes_all_inputs_alike():
    """diag(H D L D H^T) = tr(L) / n for every diagonal L."""
    x = rows(16, spread=0.5)
    klt, spread = made(("klt", "hadamard"), x)
    turned = klt.gram(moments_of(x).gram)
    diagonal = np.diag(np.diag(turned))
    np.testing.assert_allclose(np.diag(spread.gram(diagonal)), np.trace(turned) / 16)
    whole = np.diag(spread.gram(turned))  # off-diagonals are those of half precision
    np.testing.assert_allclose(whole, np.trace(turned) / 16, rtol=0.02)


def test_the_inverse_of_what_is_stored_is_used():
    x, weight = rows(12), weights(12)
    (transform,) = made(("klt",), x, weight)
    T = transform.matrix.astype(np.float64)
    np.testing.assert_allclose(transform.weight(weight) @ T, weight, atol=1e-13)
    # the transpose would be wrong by the rounding to half precision
    assert np.abs(weight @ T.T @ T - weight).max() > 1e-5
