"""Corrections after rounding: what each makes zero or smallest."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.exceptions import UncertaintyWarning
from uqlib.quantized._corrections import (
    corrected_bias,
    low_rank_correction,
    with_output_affine,
)
from uqlib.quantized._grid import Grid
from uqlib.quantized._layers import LowRank, Outliers, QuantizedLayer
from uqlib.quantized._problem import input_moments
from uqlib.quantized._scheme import QuantizationScheme

# Bias


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_outputs_have_no_mean_error(weighted, with_bias):
    rng = np.random.default_rng(0)
    f = rng.gamma(1.0, size=(80, 6))
    q = np.rint(4 * f) / 4 + 0.1
    weight = rng.normal(size=(3, 6))
    final = np.rint(weight)
    r = rng.uniform(size=80) if weighted else np.ones(80)
    moments = input_moments([(q, f, r)], 6)
    bias = rng.normal(size=3).astype(np.float32) if with_bias else None
    corrected = corrected_bias(bias, weight, final, moments)
    assert corrected.dtype == np.float32
    exact = f @ weight.T + (0 if bias is None else bias)
    error = r @ (q @ final.T + corrected - exact) / r.sum()
    np.testing.assert_allclose(error, 0.0, atol=1e-6)
    assert np.abs(r @ (q @ final.T - f @ weight.T) / r.sum()).max() > 0.1


def test_a_layer_without_a_bias_gets_none_in_vain():
    x = np.random.default_rng(0).normal(size=(9, 4))
    moments = input_moments([(x, x, None)], 4)
    weight = np.ones((2, 4))
    assert corrected_bias(None, weight, weight, moments) is None
    own = np.array([1.0, 2.0], dtype=np.float32)
    np.testing.assert_array_equal(corrected_bias(own, weight, weight, moments), own)
    assert own.tolist() == [1.0, 2.0]


# Low rank


def problem(n_out=12, n_in=15, n_rows=40, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_rows, n_in)) @ rng.normal(size=(n_in, n_in))
    error = size * rng.normal(size=(n_out, n_in))
    return error, x.T @ x / n_rows


def loss(error, gram):
    return np.trace(error @ gram @ error.T)


def product(low_rank):
    left, right = (part.astype(np.float64) for part in low_rank)
    return left @ right


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize(
    ("size", "dtype", "tolerance"),
    [(0.02, np.float16, 1e-5), (1.0, np.float16, 1e-5), (1e12, np.float32, 1e-12)],
)
def test_the_loss_is_the_residual_of_eckart_and_young(rank, size, dtype, tolerance):
    """Rounding the factors moves an optimum in the second order only."""
    error, gram = problem(size=size)
    made = low_rank_correction(error, gram, rank)
    assert made.left.shape == (12, rank)
    assert made.right.shape == (rank, 15)
    assert made.left.dtype == made.right.dtype == dtype
    root = np.linalg.cholesky(gram)
    residual = np.sum(np.linalg.svd(error @ root, compute_uv=False)[rank:] ** 2)
    got = loss(error - product(made), gram)
    assert abs(got - residual) <= tolerance * loss(error, gram)


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_no_other_correction_of_the_rank_is_better(seed, rank):
    error, gram = problem(seed=seed)
    made = low_rank_correction(error, gram, rank)
    best = loss(error - product(made), gram)
    slack = 1e-5 * loss(error, gram)
    U, s, V = np.linalg.svd(error, full_matrices=False)
    plain = (U[:, :rank] * s[:rank]) @ V[:rank]
    assert best <= loss(error - plain, gram) + slack
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(12, rank))  # with the best right factor beside it
    right = np.linalg.lstsq(left, error, rcond=None)[0]
    assert best <= loss(error - left @ right, gram) + slack
    nearby = made.left + 0.01 * rng.normal(size=made.left.shape)
    assert best <= loss(error - nearby @ made.right, gram) + slack


def test_inputs_without_rows_do_not_matter():
    """A singular Gram matrix: 5 rows for 15 inputs."""
    error, gram = problem(n_rows=5)
    made = low_rank_correction(error, gram, 4)
    assert np.isfinite(product(made)).all()
    root = np.linalg.svd(gram)
    root = root[0] * np.sqrt(root[1])
    residual = np.sum(np.linalg.svd(error @ root, compute_uv=False)[4:] ** 2)
    got = loss(error - product(made), gram)
    np.testing.assert_allclose(got, residual, atol=1e-5 * loss(error, gram))


def test_no_more_factors_than_needed():
    error, gram = problem()
    thin = np.outer(error[:, 0], error[0])
    made = low_rank_correction(thin, gram, 4)
    assert made.left.shape == (12, 1)
    np.testing.assert_allclose(product(made), thin, atol=2e-3 * np.abs(thin).max())
    assert low_rank_correction(0 * error, gram, 4) is None
    assert low_rank_correction(error, 0 * gram, 4) is None


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1e12, 1e30])
def test_factors_of_any_size_are_stored(size):
    error, gram = problem(size=size)
    made = low_rank_correction(error, gram, 4)
    unit = product(low_rank_correction(error / size, gram, 4))
    np.testing.assert_allclose(product(made) / size, unit, atol=1e-2)
    assert made.left.dtype == np.float32


def test_a_rank_that_is_not_low_is_refused():
    error, gram = problem(n_out=6, n_in=10)
    assert low_rank_correction(error, gram, 3) is not None
    with pytest.warns(UncertaintyWarning, match="Set rank to 3 or less"):
        assert low_rank_correction(error, gram, 4) is None
    with pytest.warns(UncertaintyWarning, match="6 x 10 weights"):
        assert low_rank_correction(error, gram, 100) is None


@pytest.mark.parametrize("shape", [(1, 10), (10, 1), (2, 2), (1, 1)])
def test_a_layer_that_has_no_low_rank_gets_no_correction(shape):
    error, gram = problem(*shape)
    assert low_rank_correction(error, gram, 1) is None


# Scale and shift of the outputs


def layer_of(kind, seed=0, n_out=3, n_in=10, bias=True, outliers=True, low_rank=True):
    rng = np.random.default_rng(seed)
    shape = {"tensor": (1, 1), "channel": (n_out, 1), "group": (n_out, 3)}[kind]
    codes = rng.integers(0, 16, size=(n_out, n_in)).astype(np.uint8)
    grid = Grid(
        np.arange(16, dtype=np.float32),
        rng.uniform(0.1, 0.3, size=shape).astype(np.float16),
        rng.integers(5, 10, size=shape).astype(np.uint8),
        4 if kind == "group" else n_in,
        n_in,
    )
    places = np.array([0, 7, n_in * n_out - 1], dtype=np.int32)
    factors = rng.normal(size=(n_out, 2)), rng.normal(size=(2, n_in))
    return QuantizedLayer(
        "last",
        codes,
        grid,
        rng.normal(size=n_out).astype(np.float32) if bias else None,
        outliers=Outliers(places, np.array([3, -4, 5], np.float16))
        if outliers
        else None,
        low_rank=LowRank(*(f.astype(np.float16) for f in factors))
        if low_rank
        else None,
    )


def data(layer, seed=0, n_rows=50):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_rows, layer.codes.shape[1])) + 0.5
    q = layer(x)
    return x, q, 0.7 * q + 2.0 + rng.normal(size=q.shape)


kinds = pytest.mark.parametrize("kind", ["tensor", "channel", "group"])
extras = pytest.mark.parametrize(
    "extra", [{}, {"bias": False}, {"outliers": False, "low_rank": False}]
)


@kinds
@extras
def test_the_affine_map_solves_the_normal_equations(kind, extra):
    layer = layer_of(kind, **extra)
    x, q, y = data(layer)
    moved = with_output_affine(layer, y, q)
    got = moved(x)
    residual = y - got
    np.testing.assert_allclose(residual.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.mean(residual * got, axis=0), 0.0, atol=1e-4)
    for j in range(3):  # equal to ordinary least squares, output by output
        design = np.column_stack([q[:, j], np.ones(len(q))])
        expected = design @ np.linalg.lstsq(design, y[:, j], rcond=None)[0]
        np.testing.assert_allclose(got[:, j], expected, atol=1e-5)


@kinds
def test_codes_and_zero_points_stay(kind):
    layer = layer_of(kind)
    _, q, y = data(layer)
    moved = with_output_affine(layer, y, q)
    assert moved.codes is layer.codes
    assert (moved.name, moved.details) == (layer.name, layer.details)
    grid, before = moved.grid, layer.grid
    assert grid.scale.shape == (3, 3 if kind == "group" else 1)
    assert grid.zero_point.shape == grid.scale.shape
    assert grid.zero_point.dtype == np.uint8
    expected = np.broadcast_to(before.zero_point, grid.scale.shape)
    np.testing.assert_array_equal(grid.zero_point, expected)
    slope = grid.scale / before.scale.astype(np.float64)
    np.testing.assert_allclose(slope, np.broadcast_to(slope[:, :1], slope.shape))
    whole = slope[:, :1] * layer.transformed_weight()
    np.testing.assert_allclose(moved.transformed_weight(), whole, rtol=1e-5, atol=1e-6)
    before = layer_of(kind)  # nothing of the layer that was given has changed
    np.testing.assert_array_equal(layer.effective_weight(), before.effective_weight())
    np.testing.assert_array_equal(layer.bias, before.bias)


@given(
    st.integers(0, 10**6),
    st.integers(1, 30),
    st.sampled_from(["tensor", "channel", "group"]),
    st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
)
@settings(deadline=None, max_examples=60)
def test_no_output_gets_worse_on_the_rows_given(seed, n_rows, kind, noise):
    layer = layer_of(kind, seed)
    rng = np.random.default_rng(seed)
    x, q, _ = data(layer, seed, n_rows)
    y = q * rng.uniform(-1, 2, size=3) + noise * rng.normal(size=q.shape)
    after = with_output_affine(layer, y, q)(x)
    before, now = ((y - out) ** 2 for out in (q, after))
    size = 1e-6 * (1 + np.abs(y).max() + np.abs(q).max())
    assert (np.sqrt(now.mean(axis=0)) <= np.sqrt(before.mean(axis=0)) + size).all()


def test_exact_outputs_change_nothing():
    layer = layer_of("channel")
    x, q, _ = data(layer)
    np.testing.assert_allclose(with_output_affine(layer, q, q)(x), q, atol=1e-5)


def test_a_slope_that_no_scale_can_have_is_left_out():
    layer = layer_of("channel")
    x, q, _ = data(layer)
    for y in (-q, 0 * q + 3.0, 1e6 * q):  # negative, none, beyond 2^10
        moved = with_output_affine(layer, y, q)
        assert moved.grid is layer.grid
        expected = q - q.mean(axis=0) + y.mean(axis=0)
        np.testing.assert_allclose(moved(x), expected, rtol=1e-5, atol=1e-5)


@kinds
def test_weights_of_rows_are_repetitions_for_the_affine_map(kind):
    layer = layer_of(kind)
    _, q, y = data(layer)
    weight = np.random.default_rng(3).integers(0, 4, size=len(q))
    moved = with_output_affine(layer, y, q, weight.astype(float))
    each = np.repeat(np.arange(len(q)), weight)
    expected = with_output_affine(layer, y[each], q[each])
    np.testing.assert_allclose(moved.bias, expected.bias, rtol=1e-6)
    np.testing.assert_allclose(moved.grid.scale, expected.grid.scale, rtol=1e-6)
    plain = with_output_affine(layer, y, q)
    assert (np.abs(plain.grid.scale - expected.grid.scale) > 1e-4).any()


@pytest.mark.parametrize(("size", "factor"), [(1e38, 4.0), (2e-38, 0.25)])
def test_a_slope_that_leads_out_of_single_precision_is_left_out(size, factor):
    rng = np.random.default_rng(0)
    scale = np.array([[size], [1.0]], dtype=np.float32)
    codes = rng.integers(0, 2, size=(2, 4)).astype(np.uint8)
    grid = Grid(np.array([-1, 1], np.float32), scale, None, 4, 4)
    layer = QuantizedLayer("last", codes, grid)
    q = rng.normal(size=(30, 4)) @ layer.transformed_weight().T
    moved = with_output_affine(layer, factor * q, q)
    slope = moved.grid.scale / scale.astype(float)
    np.testing.assert_allclose(slope[:, 0], [1.0, factor], rtol=1e-6)


def test_a_bias_beyond_single_precision_is_refused():
    x = np.full((3, 2), 1e30)
    moments = input_moments([(x, x, None)], 2)
    weight = np.array([[1e30, 1.0]])
    with pytest.raises(ValueError, match="outputs of a layer that are infinite or NaN"):
        corrected_bias(None, weight, 0.5 * weight, moments)


def test_constant_outputs_are_shifted():
    layer = layer_of("channel")
    q = np.full((20, 3), 0.1)
    y = np.random.default_rng(0).normal(size=(20, 3))
    moved = with_output_affine(layer, y, q)
    assert moved.grid is layer.grid
    np.testing.assert_allclose(moved.bias, layer.bias + y.mean(axis=0) - 0.1, rtol=1e-5)


@pytest.mark.parametrize(
    "scheme",
    [
        QuantizationScheme(scale_format="pow2"),
        QuantizationScheme("bfp4", granularity="group", group_size=4),
    ],
)
def test_scales_that_are_powers_of_two_stay(scheme):
    layer = replace(layer_of("channel"), details={"scheme": scheme})
    x, q, y = data(layer)
    moved = with_output_affine(layer, y, q)
    assert moved.grid is layer.grid
    np.testing.assert_allclose((moved(x) - y).mean(axis=0), 0.0, atol=1e-5)
    plain = replace(layer, details={"scheme": QuantizationScheme()})
    assert with_output_affine(plain, y, q).grid is not plain.grid


def test_one_output_may_be_a_vector():
    layer = layer_of("channel", n_out=1)
    x, q, y = data(layer)
    flat = with_output_affine(layer, y[:, 0], q[:, 0])
    np.testing.assert_array_equal(flat(x), with_output_affine(layer, y, q)(x))


def test_outputs_that_do_not_fit_are_refused():
    layer = layer_of("channel")
    _, q, y = data(layer)
    with pytest.raises(ValueError, match="something follows the layer"):
        with_output_affine(layer, y[:, :2], q[:, :2])
    with pytest.raises(ValueError, match="50 and 49 rows"):
        with_output_affine(layer, y, q[1:])
    for value in (np.nan, np.inf):
        broken = y.copy()
        broken[3, 1] = value
        with pytest.raises(ValueError, match="infinite or NaN"):
            with_output_affine(layer, broken, q)
    assert with_output_affine(layer, y[:0], q[:0]) is layer
