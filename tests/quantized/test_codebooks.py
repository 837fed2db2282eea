"""Codebooks: named values, the power exponent, learned values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.quantized._clip_blocks import cut_blocks
from uqlib.quantized._codebooks import (
    block_float_levels,
    float_levels,
    integer_levels,
    learned_levels,
    normal_levels,
    power_levels,
    signed_power,
)
from uqlib.quantized._formats import best_exponent, fit_grid
from uqlib.quantized._scheme import QuantizationScheme

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_t(4, size=(5, 23)) + 0.2
# The table that the format was published with.
NF4 = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500]
NF4 += [0.0, 0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170]
NF4 += [0.7229568, 1.0]


def scheme(weights="int4", clip="minmax", **parts):
    return QuantizationScheme(weights=weights, clip=clip, **parts)


def loss_of(grid, weight=WEIGHT):
    return np.sum((grid.nearest(weight) - weight) ** 2, axis=1)


def test_normal_float_values():
    np.testing.assert_allclose(normal_levels(), NF4, rtol=0, atol=1e-4)
    assert normal_levels()[7] == 0


def test_small_float_values():
    four = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    np.testing.assert_array_equal(
        float_levels(2, 1, reserved=0), [-v for v in four[:0:-1]] + four
    )
    eight = float_levels(4, 3, reserved=1)
    positive = eight[eight > 0]
    assert (eight.size, positive[0], eight[-1]) == (253, 2.0**-9, 448.0)
    normal = [2.0**e * (1 + m / 8) for e in range(-6, 9) for m in range(8)][:-1]
    np.testing.assert_array_equal(positive[7:], normal)
    np.testing.assert_array_equal(positive[:7], np.arange(1, 8) / 2.0**9)
    np.testing.assert_array_equal(eight, -eight[::-1])


def test_eight_bit_floats_are_those_of_torch():
    torch = pytest.importorskip("torch")
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    values = codes.to(torch.float64).numpy()
    expected = np.unique(values[np.isfinite(values)])
    np.testing.assert_array_equal(float_levels(4, 3, reserved=1), expected)


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers(bits):
    plain, odd = integer_levels(bits, False), integer_levels(bits, True)
    np.testing.assert_array_equal(plain, np.arange(2**bits))
    np.testing.assert_array_equal(odd, -odd[::-1])
    assert odd.size == 2**bits - 1
    assert (block_float_levels(bits)[[0, -1]] == [-(2 ** (bits - 1)), odd[-1]]).all()


@given(
    x=st.floats(-1e3, 1e3, allow_subnormal=False),
    y=st.floats(-1e3, 1e3, allow_subnormal=False),
    a=st.floats(0.2, 1.0),
    bits=st.integers(2, 8),
)
@settings(deadline=None, max_examples=60)
def test_the_power_map_keeps_products(x, y, a, bits):
    x, y = np.array(x), np.array(y)
    product = signed_power(x, a) * signed_power(y, a)
    np.testing.assert_allclose(signed_power(x * y, a), product, rtol=1e-9, atol=1e-60)
    levels = power_levels(bits, a)
    k = 2 ** (bits - 1) - 1
    codes = np.arange(-k, k + 1)
    products = np.multiply.outer(levels, levels)
    integers = np.multiply.outer(codes, codes)
    expected = signed_power(integers / k**2, 1 / a)
    np.testing.assert_allclose(products, expected, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(
        signed_power(levels, a), codes / k, rtol=1e-9, atol=1e-300
    )


def power_loss(exponent, weight, bits):
    size = np.abs(weight).max(axis=1, keepdims=True)
    size = size.astype(np.float16).astype(float)
    legal = power_levels(bits, exponent).astype(np.float32) * size[:, :, None]
    return np.sum(np.abs(legal - weight[:, :, None]).min(axis=2) ** 2)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("kind", ["gauss", "heavy"])
def test_the_power_exponent_against_a_dense_search(bits, kind):
    rng = np.random.default_rng(bits)
    weight = rng.normal(size=(9, 40))
    if kind == "heavy":
        weight = rng.standard_t(4, size=(9, 40))
    found = best_exponent(cut_blocks(weight, "channel"), bits)
    dense = min(power_loss(a, weight, bits) for a in np.linspace(0.2, 1, 401))
    assert 0.2 <= found <= 1
    assert power_loss(found, weight, bits) <= 1.01 * dense
    assert power_loss(found, weight, bits) <= power_loss(1.0, weight, bits)
    grid = fit_grid(weight, scheme(f"power{bits}"))
    levels = power_levels(bits, found).astype(np.float32)
    np.testing.assert_array_equal(grid.codebook, levels)


def test_the_power_exponent_does_nothing_at_two_bits():
    assert best_exponent(cut_blocks(WEIGHT, "channel"), 2) == 1.0
    np.testing.assert_array_equal(power_levels(2, 0.3), power_levels(2, 1.0))


def slow_lloyd_step(levels, values, weight):
    nearest = np.argmin(np.abs(values[:, None] - levels), axis=1)
    return np.array(
        [
            np.average(values[nearest == k], weights=weight[nearest == k])
            for k in range(levels.size)
        ]
    )


def lloyd_loss(levels, values, weight):
    return np.sum(weight * np.abs(values[:, None] - levels).min(axis=1) ** 2)


@pytest.mark.parametrize("n_levels", [1, 2, 5, 16])
@pytest.mark.parametrize("kind", ["normal", "heavy", "ties"])
def test_learned_levels_are_a_fixed_point(n_levels, kind):
    rng = np.random.default_rng(n_levels)
    values = rng.normal(size=300)
    if kind == "heavy":
        values = rng.standard_t(2, size=300)
    if kind == "ties":
        values = np.round(values, 1)
    weight = rng.uniform(0, 2, size=300) * (rng.random(300) < 0.8)
    levels = learned_levels(values, weight, n_levels)
    assert levels.size <= n_levels
    assert np.all(np.diff(levels) > 0)
    again = slow_lloyd_step(levels, values, weight)
    np.testing.assert_allclose(again, levels, rtol=1e-9, atol=1e-12)
    loss = lloyd_loss(levels, values, weight)
    even = np.linspace(values[weight > 0].min(), values[weight > 0].max(), n_levels)
    assert loss <= lloyd_loss(even, values, weight) * (1 + 1e-12)
    order = rng.permutation(300)
    np.testing.assert_allclose(
        learned_levels(values[order], weight[order], n_levels), levels, rtol=1e-9
    )


def test_two_learned_levels_are_optimal():
    values = RNG.standard_t(3, size=60)
    weight = RNG.uniform(size=60)
    order = np.argsort(values)
    x, w = values[order], weight[order]
    losses = []
    for k in range(1, 60):
        pair = [np.average(x[:k], weights=w[:k]), np.average(x[k:], weights=w[k:])]
        losses.append(lloyd_loss(np.array(pair), x, w))
    found = lloyd_loss(learned_levels(values, weight, 2), values, weight)
    assert min(losses) * (1 - 1e-12) <= found <= 1.1 * min(losses)


def test_few_different_values_are_learned_exactly():
    values = np.array([3.0, 1.0, 3.0, -2.0, 9.0])
    weight = np.array([1.0, 1.0, 2.0, 1.0, 0.0])
    np.testing.assert_array_equal(learned_levels(values, weight, 4), [-2.0, 1.0, 3.0])
    np.testing.assert_array_equal(learned_levels(values, 0 * weight, 4), [0.0])


@pytest.mark.parametrize("scale_format", ["float", "pow2"])
def test_learned_values_of_a_layer_lower_its_error(scale_format):
    weight = RNG.standard_t(3, size=(8, 60)) * np.exp(RNG.normal(size=(8, 1)))
    grid = fit_grid(weight, scheme("codebook3", scale_format=scale_format))
    s, _ = grid.parameters(None)
    values, each = (weight / s).ravel(), np.broadcast_to(s**2, weight.shape).ravel()
    levels = grid.codebook.astype(float)
    again = slow_lloyd_step(levels, values, each)
    np.testing.assert_allclose(again, levels, rtol=1e-5, atol=1e-6)
    fixed = fit_grid(weight, scheme("nf4"))
    finer = fit_grid(weight, scheme("codebook4", scale_format=scale_format))
    assert loss_of(finer, weight).sum() < loss_of(grid, weight).sum()
    if scale_format == "float":
        assert loss_of(finer, weight).sum() < loss_of(fixed, weight).sum()
    else:
        assert np.all(np.log2(s) == np.round(np.log2(s)))


def test_evenly_spaced_levels_may_be_the_better_start():
    rng = np.random.default_rng(149)
    values = np.round(rng.normal(size=40), 1)
    even = np.linspace(values.min(), values.max(), 8)
    levels = learned_levels(values, np.ones(40), 8)
    assert lloyd_loss(levels, values, 1.0) <= lloyd_loss(even, values, 1.0)
