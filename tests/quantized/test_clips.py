"""Ranges: each against loops over formulas, optimality, never worse than a start."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

from uqlib.quantized._clip_blocks import (
    block_grid,
    block_loss,
    cut_blocks,
    power_of_two_grid,
)
from uqlib.quantized._clips import RangeFitter, shrunk_grid
from uqlib.quantized._codebooks import float_levels, integer_levels, normal_levels
from uqlib.quantized._formats import fit_grid, fit_range
from uqlib.quantized._learned_clip import _shrunk, least_squares_scale
from uqlib.quantized._scheme import CLIPS, QuantizationScheme

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_t(4, size=(6, 37)) * np.array([[1], [2], [0.1], [5], [1], [3]])
FORMATS = ["int2", "int3", "int4", "int8", "nf4", "fp4", "fp8", "power3", "power4"]


def scheme(weights="int4", clip="mse", **parts):
    return QuantizationScheme(weights=weights, clip=clip, **parts)


def loss_of(grid, weight, norm=2, included=None):
    error = np.abs(grid.nearest(weight) - weight) ** norm
    return np.sum(error, axis=1, where=True if included is None else included)


def slow_integers(row, bits, low, high, kind):
    """Scale and zero point of a range, and the rounded row, one weight at a time."""
    s = (high - low) / (2**bits - 1)
    z = round(-low / s)
    s = float(kind(s))
    legal = [min(max(round(w / s + z), 0), 2**bits - 1) for w in row]
    return s, z, np.array([(q - z) * s for q in legal])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_minmax_integers_against_loops(bits):
    grid = fit_grid(WEIGHT, scheme(f"int{bits}", "minmax"))
    for i, row in enumerate(WEIGHT):
        low, high = min(*row, 0.0), max(*row, 0.0)
        s, z, legal = slow_integers(row, bits, low, high, np.float16)
        assert (float(grid.scale[i, 0]), int(grid.zero_point[i, 0])) == (s, z)
        np.testing.assert_array_equal(grid.nearest(WEIGHT)[i], legal)
    assert (grid.scale.dtype, grid.zero_point.dtype) == (np.float16, np.uint8)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_integers_against_loops(bits):
    grid = fit_grid(WEIGHT, scheme(f"int{bits}", "minmax", symmetric=True))
    top = 2 ** (bits - 1) - 1
    for i, row in enumerate(WEIGHT):
        s = float(np.float16(max(abs(w) for w in row) / top))
        legal = [min(max(round(w / s), -top), top) * s for w in row]
        np.testing.assert_array_equal(grid.nearest(WEIGHT)[i], legal)
    assert grid.zero_point is None


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mse_range_against_loops(bits):
    grid = fit_grid(WEIGHT, scheme(f"int{bits}"))
    for i, row in enumerate(WEIGHT):
        low, high = min(*row, 0.0), max(*row, 0.0)
        losses, found = [], []
        for step in range(80):
            p = 1 - step / 100
            s, z, legal = slow_integers(row, bits, p * low, p * high, np.float16)
            losses.append(sum(abs(legal - row) ** 2.4))
            found.append((s, z))
        s, z = float(grid.scale[i, 0]), int(grid.zero_point[i, 0])
        assert (s, z) == found[int(np.argmin(losses))]


def test_the_mse_range_may_leave_most_of_the_range_out():
    weight = np.array([[*np.linspace(0, 1, 3000), 4.5]])
    fitter = RangeFitter(cut_blocks(weight, "channel"), integer_levels(2, False), True)
    losses = []
    for p in 1 - np.arange(80) / 100:
        _, _, legal = slow_integers(weight[0], 2, 0.0, 4.5 * p, np.float16)
        losses.append(np.sum(np.abs(legal - weight[0]) ** 2.4))
    _, loss, factor = shrunk_grid(fitter, 2.4)
    assert float(factor[0, 0]) == pytest.approx(1 - np.argmin(losses) / 100)
    assert float(loss[0, 0]) == pytest.approx(min(losses) / 4.5**2.4)


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_searched_ranges_are_never_worse_than_the_whole_one(weights, symmetric):
    whole, mse, learned, half = (
        fit_grid(WEIGHT, scheme(weights, clip, symmetric=symmetric))
        for clip in ("minmax", "mse", "learned", "half_quadratic")
    )
    assert np.all(loss_of(mse, WEIGHT, 2.4) <= loss_of(whole, WEIGHT, 2.4))
    assert np.all(loss_of(learned, WEIGHT) <= loss_of(whole, WEIGHT) * (1 + 1e-12))
    assert np.all(loss_of(learned, WEIGHT) <= loss_of(mse, WEIGHT) * (1 + 1e-12))
    assert np.all(loss_of(half, WEIGHT, 1) <= loss_of(whole, WEIGHT, 1) * (1 + 1e-12))


@given(
    row=st.lists(st.floats(-1e3, 1e3).map(lambda w: round(w, 6)), max_size=12),
    bits=st.integers(2, 5),
    symmetric=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_searched_ranges_of_any_row(row, bits, symmetric):
    weight = np.array([[*row, 0.25]])
    grids = {
        clip: fit_grid(weight, scheme(f"int{bits}", clip, symmetric=symmetric))
        for clip in CLIPS
    }
    losses = {clip: loss_of(grid, weight)[0] for clip, grid in grids.items()}
    assert losses["learned"] <= losses["minmax"] * (1 + 1e-9) + 1e-12
    assert losses["learned"] <= losses["mse"] * (1 + 1e-9) + 1e-12
    assert np.all(np.isfinite(list(losses.values())))
    tail = {clip: loss_of(grid, weight, 2.4)[0] for clip, grid in grids.items()}
    assert tail["mse"] <= tail["minmax"] * (1 + 1e-9)


@pytest.mark.parametrize(("bits", "ratio"), [(4, 0.90), (3, 0.76), (2, 0.59)])
def test_how_much_the_mse_range_gains_on_correlated_inputs(bits, ratio):
    n = 128
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        weight = rng.normal(size=(n, n))
        size = np.exp(0.5 * rng.normal(size=n))
        gram = size[:, None] * toeplitz(0.9 ** np.arange(n)) * size
        losses = []
        for clip in ("mse", "minmax"):
            grid = fit_grid(weight, scheme(f"int{bits}", clip))
            error = grid.nearest(weight) - weight
            losses.append(np.sum((error @ gram) * error))
        gains.append(losses[0] / losses[1])
    assert np.mean(gains) == pytest.approx(ratio, rel=0.15)


@pytest.mark.parametrize("weights", ["int4", "nf4", "fp8"])
def test_the_percentile_range(weights):
    weight = RNG.normal(size=(3, 400))
    grid = fit_grid(weight, scheme(weights, "percentile"))
    if weights == "int4":
        low, high = np.quantile(weight, [0.005, 0.995], axis=1)
        expected = (high - low) / 15
        zero = np.rint(-low / (high - low) * 15)
        np.testing.assert_array_equal(grid.zero_point[:, 0], zero)
    else:
        largest = np.quantile(np.abs(weight), 0.99, axis=1)
        expected = largest / grid.codebook[-1].astype(float)
    np.testing.assert_allclose(grid.scale[:, 0], expected, rtol=2.0**-11)


def test_the_percentile_range_of_sparse_weights_is_the_whole_one():
    weight = np.zeros((2, 300))
    weight[0, 7], weight[1, 9] = 3.0, -2.0
    for symmetric in (False, True):
        parts = {"symmetric": symmetric}
        inner = fit_grid(weight, scheme("int4", "percentile", **parts))
        np.testing.assert_allclose(inner.nearest(weight), weight, rtol=2.0**-10)


def test_ranges_count_included_weights_alone():
    weight = RNG.normal(size=(2, 100))
    included = np.ones((2, 130), bool)
    included[:, 50:80] = False
    wide = np.insert(weight, [50] * 30, 1e4, axis=1)
    for clip in CLIPS:
        alone = fit_grid(weight, scheme("int4", clip))
        among = fit_grid(wide, scheme("int4", clip), included)
        np.testing.assert_array_equal(alone.scale, among.scale)
        # Sums over more columns are rounded differently.
        slack = 2.0**-9 if clip == "half_quadratic" else 0
        np.testing.assert_allclose(alone.zero_point, among.zero_point, rtol=slack)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_learned_scale_is_next_to_a_fixed_point(symmetric):
    """Where codes are renewed no more, s = <w, u> / <u, u> up to storage."""
    grid = fit_grid(WEIGHT, scheme("int4", "learned", symmetric=symmetric))
    z = 0.0 if symmetric else grid.zero_point.astype(float)
    for i, row in enumerate(WEIGHT):
        own = z if symmetric else z[i]
        u = grid.codebook[grid.encode(WEIGHT)[i]].astype(float) - own
        best = (row @ u) / (u @ u)
        at = [np.sum((s * u - row) ** 2) for s in (best, float(grid.scale[i, 0]))]
        # Storage moves the scale by 2^-11 at most, the loss by its square.
        assert at[1] <= at[0] + 2.0**-22 * best**2 * (u @ u) * (1 + 1e-9)


def test_the_least_squares_scale_is_optimal_for_held_codes():
    blocks = cut_blocks(WEIGHT, "channel")
    grid = fit_grid(WEIGHT, scheme("int3", "minmax", symmetric=True))
    u = grid.decode(grid.encode(WEIGHT)) / grid.scale.astype(float)
    best = least_squares_scale(grid, blocks, WEIGHT)
    for factor in (0.99, 0.9999, 1.0001, 1.01):
        worse = np.sum((factor * best * u - WEIGHT) ** 2, axis=1)
        assert np.all(np.sum((best * u - WEIGHT) ** 2, axis=1) < worse)


def test_learned_ends_against_a_dense_search_over_both():
    row = np.array([[*np.linspace(-1, 1, 600), 4.5]])
    fitter = RangeFitter(cut_blocks(row, "channel"), integer_levels(3, False), True)
    low, high = fitter.whole()
    factors = np.linspace(0.05, 1, 58)
    dense = min(
        float(block_loss(fitter.grid(p * low, q * high), fitter.blocks, 2)[0, 0])
        for p in factors
        for q in factors
    )
    grid = fit_range(fitter, "learned", False)
    _, start, _ = shrunk_grid(fitter, 2)
    found = float(block_loss(grid, fitter.blocks, 2)[0, 0])
    assert dense < 0.95 * float(start[0, 0])  # the ends want factors of their own
    assert found <= 1.02 * dense


def slow_half_quadratic(row, bits):
    """Zero points of least mean abs(error), by the recursion on one row."""
    low, high = min(*row, 0.0), max(*row, 0.0)
    s, z, _ = slow_integers(row, bits, low, high, np.float16)
    best, least, beta = None, np.inf, 10.0
    for _ in range(21):
        q = np.clip(np.rint(row / s + z), 0, 2**bits - 1)
        error = row / s - (q - z)
        if np.abs(error).mean() < least:
            best, least = z, np.abs(error).mean()
        kept = [abs(e) - abs(e) ** -0.3 / beta if e else 0.0 for e in error]
        split = np.sign(error) * np.maximum(kept, 0)
        z = float(np.float16(np.mean(q - (row / s - split))))
        beta *= 1.01
    return best


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_half_quadratic_zero_points_against_the_recursion(bits):
    grid = fit_grid(WEIGHT, scheme(f"int{bits}", "half_quadratic"))
    whole = fit_grid(WEIGHT, scheme(f"int{bits}", "minmax"))
    np.testing.assert_array_equal(grid.scale, whole.scale)
    assert grid.zero_point.dtype == np.float16
    expected = [slow_half_quadratic(row, bits) for row in WEIGHT]
    np.testing.assert_allclose(grid.zero_point[:, 0], expected, rtol=1e-12)
    assert np.sum(loss_of(grid, WEIGHT, 1)) < np.sum(loss_of(whole, WEIGHT, 1))


def test_the_shrinkage_formula():
    """sign(x) max(abs(x) - abs(x)^(p-1) / beta, 0), which tends to x as beta grows."""
    x = np.linspace(-3, 3, 61)
    for beta in (0.5, 1.0, 10.0):
        for value, shrunk in zip(x, _shrunk(x, beta), strict=True):
            size = abs(value)
            kept = max(size - size**-0.3 / beta, 0) if size > 1e-12 else 0.0
            assert shrunk == pytest.approx(np.copysign(kept, value), abs=1e-9)
    np.testing.assert_allclose(_shrunk(x, 1e12), x, atol=1e-9)
    assert np.all(np.abs(_shrunk(x, 1.0)) <= np.abs(x))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("weights", ["int3", "fp4", "nf4", "power3"])
def test_ranges_follow_the_unit_of_the_weights(clip, weights):
    grid = fit_grid(WEIGHT, scheme(weights, clip))
    scaled = fit_grid(WEIGHT * 2.0**5, scheme(weights, clip))
    np.testing.assert_array_equal(
        scaled.nearest(WEIGHT * 2.0**5), grid.nearest(WEIGHT) * 2.0**5
    )


@pytest.mark.parametrize("clip", CLIPS)
def test_blocks_do_not_see_one_another(clip):
    together = fit_grid(WEIGHT, scheme("int3", clip))
    for i in range(len(WEIGHT)):
        alone = fit_grid(WEIGHT[[i]], scheme("int3", clip))
        np.testing.assert_array_equal(alone.scale, together.scale[[i]])
        np.testing.assert_array_equal(alone.zero_point, together.zero_point[[i]])


@pytest.mark.parametrize("clip", CLIPS)
def test_symmetric_ranges_are_odd(clip):
    for weights in ("int4", "fp4", "fp8", "power4"):
        one = fit_grid(WEIGHT, scheme(weights, clip, symmetric=True))
        two = fit_grid(-WEIGHT, scheme(weights, clip, symmetric=True))
        np.testing.assert_array_equal(one.scale, two.scale)


@pytest.mark.parametrize("levels", [normal_levels(), float_levels(2, 1, reserved=0)])
def test_the_whole_range_has_no_clipping(levels):
    fitter = RangeFitter(cut_blocks(WEIGHT, "channel"), levels, False)
    grid = fit_range(fitter, "minmax", False)
    largest = np.abs(WEIGHT).max(axis=1)
    ends = np.abs(levels[-1] * grid.scale.astype(float)[:, 0])
    np.testing.assert_allclose(ends, largest, rtol=2.0**-11)


def test_a_power_of_two_stays():
    blocks = cut_blocks(WEIGHT, "channel")
    for exponent in (-6, 0, 4):
        scale = np.full((len(WEIGHT), 1), 2.0**exponent, dtype=np.float16)
        grid = block_grid(integer_levels(3, True), scale, None)
        np.testing.assert_array_equal(power_of_two_grid(grid, blocks).scale, scale)


def test_powers_of_two_are_those_of_the_smaller_error():
    for clip in CLIPS:
        plain = fit_grid(WEIGHT, scheme("int4", clip, symmetric=True))
        grid = fit_grid(
            WEIGHT, scheme("int4", clip, symmetric=True, scale_format="pow2")
        )
        exact = plain.scale.astype(float)
        below = 2.0 ** np.floor(np.log2(exact))
        for i, row in enumerate(WEIGHT):
            losses = [
                np.sum((np.clip(np.rint(row / s), -7, 7) * s - row) ** 2)
                for s in (below[i, 0], 2 * below[i, 0])
            ]
            assert float(grid.parameters(None)[0][i, 0]) == below[i, 0] * (
                1 + np.argmin(losses)
            )
