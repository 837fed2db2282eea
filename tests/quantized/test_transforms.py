"""Transforms of inputs: the function stays, moments follow, what is stored suffices."""

import pickle
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantized._transformed import dense, made, moments_of, rows, weights
from uqlib.quantized._grid import Grid
from uqlib.quantized._hadamard import BlockHadamard
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._problem import InputMoments
from uqlib.quantized._scheme import TRANSFORMS, QuantizationScheme
from uqlib.quantized._transforms import (
    Reorder,
    make_transforms,
    moments_after,
    transform_from,
)

WIDTHS = [1, 2, 7, 13, 16, 20, 33]
PAIRS = list(permutations(TRANSFORMS, 2))
LISTS = [(name,) for name in TRANSFORMS] + PAIRS + [TRANSFORMS]


def apply(transforms, x, weight):
    for transform in transforms:
        x, weight = transform.inputs(x), transform.weight(weight)
    return x, weight


@pytest.mark.parametrize("n_in", WIDTHS)
@pytest.mark.parametrize("names", LISTS, ids="+".join)
def test_the_function_of_a_layer_stays(names, n_in):
    x, weight = rows(n_in), weights(n_in)
    transforms = made(names, x, weight)
    assert [transform.kind for transform in transforms] == list(names)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        moved, turned = apply(transforms, x.astype(dtype), weight)
        assert moved.dtype == dtype
        exact = x.astype(dtype).astype(np.float64) @ weight.T
        got = moved @ turned.T.astype(dtype)
        # relative to what rounding of the sum in the type itself is measured by
        size = np.abs(x) @ np.abs(weight).T
        assert np.abs(got - exact).max() <= tolerance * size.max()


@pytest.mark.parametrize("names", LISTS, ids="+".join)
def test_weights_come_back(names):
    x, weight = rows(13), weights(13)
    transforms = made(names, x, weight)
    turned = apply(transforms, x, weight)[1]
    for transform in reversed(transforms):
        turned = transform.restored(turned)
    np.testing.assert_allclose(turned, weight, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("n_in", WIDTHS)
def test_every_method_is_the_same_linear_map(name, n_in):
    x, weight = rows(n_in), weights(n_in)
    (transform,) = made((name,), x, weight)
    T = dense(transform, n_in)
    np.testing.assert_allclose(transform.inputs(x), x @ T.T, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(transform.weight(weight), weight @ np.linalg.inv(T))
    np.testing.assert_allclose(transform.restored(weight), weight @ T)
    skew = weights(n_in, n_in, seed=3)  # as a Gram matrix of two different inputs
    np.testing.assert_allclose(
        transform.gram(skew), T @ skew @ T.T, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_moments_follow_the_inputs(name):
    q, f = rows(13, seed=2, spread=1), rows(13, seed=4, spread=1)
    weight = np.random.default_rng(5).uniform(size=len(q))
    moments = moments_of(q, f, weight)
    (transform,) = make_transforms(
        QuantizationScheme(transform=(name,)), weights(13), moments, 0
    )
    expected = moments_of(transform.inputs(q), transform.inputs(f), weight)
    got = moments_after(transform, moments)
    for part in ("gram", "cross", "mean_quantized", "mean_float"):
        wanted = getattr(expected, part)
        np.testing.assert_allclose(
            getattr(got, part), wanted, atol=1e-12 * np.abs(wanted).max()
        )
    assert got.n_rows == len(q)
    if name not in ("hadamard", "klt"):
        np.testing.assert_allclose(got.absolute_max, expected.absolute_max)


@pytest.mark.parametrize("n_rows", [1, 5, 400])
def test_largest_values_of_mixtures_are_of_the_right_size(n_rows):
    x = rows(16, n_rows)
    transform = BlockHadamard(np.ones(16, dtype=np.int8))
    got = moments_after(transform, moments_of(x)).absolute_max
    root = np.sqrt(np.mean(transform.inputs(x) ** 2, axis=0))
    np.testing.assert_allclose(got, min(4.0, np.sqrt(n_rows)) * root)
    if n_rows <= 16:  # then no row can be larger
        true = np.abs(transform.inputs(x)).max(axis=0)
        assert (got >= true * (1 - 1e-12)).all()


def test_later_transforms_see_what_earlier_ones_leave():
    x = rows(8)
    both = made(("reorder", "smooth"), x)
    order, scale = both[0].order, both[1].scale
    alone = made(("smooth",), x)[0].scale
    np.testing.assert_array_equal(scale, alone[order])
    # once all inputs reach 1, their order is that of columns that tie in half precision
    scaled = made(("input_scale", "input_scale"), x)
    np.testing.assert_array_equal(scaled[1].scale, 1.0)
    # the second turn is to the eigenvectors of the first
    twice = made(("hadamard", "klt"), x)
    moved = moments_after(twice[0], moments_of(x)).gram
    turned = twice[1].gram(moved)
    off = turned - np.diag(np.diag(turned))
    assert np.abs(off).max() <= 2e-3 * np.diag(turned).max()


# Input scales


def test_scaled_inputs_reach_one():
    x = rows(9)
    x[:, 4] = 0.0
    (transform,) = made(("input_scale",), x)
    largest = np.abs(transform.inputs(x)).max(axis=0)
    assert largest[4] == 0.0
    assert transform.scale[4] == 1.0
    np.testing.assert_allclose(np.delete(largest, 4), 1.0, rtol=2.0**-11)


@pytest.mark.parametrize("unit", [1e-30, 1e-5, 1.0, 1e5, 1e30])
def test_any_unit_is_legal(unit):
    x = rows(3, spread=0) * np.array([1.0, unit, 1.0])
    (transform,) = made(("input_scale",), x)
    np.testing.assert_allclose(transform.scale, np.abs(x).max(axis=0), rtol=2.0**-11)
    fits = bool(np.all((transform.scale >= 6.2e-5) & (transform.scale <= 65504)))
    assert transform.scale.dtype == (np.float16 if fits else np.float32)


def test_scales_stay_within_single_precision():
    moments = InputMoments(
        np.eye(2), np.eye(2), np.zeros(2), np.zeros(2), np.array([1e200, 1e-200]), 4
    )
    scheme = QuantizationScheme(transform=("input_scale",))
    (transform,) = make_transforms(scheme, weights(2), moments, 0)
    single = np.finfo(np.float32)
    np.testing.assert_array_equal(transform.scale, [single.max, single.tiny])


def test_smooth_gives_inputs_and_weights_one_range():
    x, weight = rows(12), weights(12)
    x[:, 3], weight[:, 7] = 0.0, 0.0
    (transform,) = made(("smooth",), x, weight)
    largest_x = np.abs(transform.inputs(x)).max(axis=0)
    largest_w = np.abs(transform.weight(weight)).max(axis=0)
    live = np.delete(np.arange(12), [3, 7])
    np.testing.assert_allclose(largest_x[live], largest_w[live], rtol=2e-3)
    np.testing.assert_array_equal(transform.scale[[3, 7]], 1.0)
    x, weight = x[:, live], weight[:, live]
    expected = np.sqrt(np.abs(x).max(axis=0) / np.abs(weight).max(axis=0))
    np.testing.assert_allclose(transform.scale[live], expected, rtol=2.0**-11)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_columns_in_any_units_survive_eight_bits(kind):
    from uqlib.quantized._activations import make_activation

    rng = np.random.default_rng(0)
    unit = np.array([1e-3, 1e3])
    x = rng.normal(size=(500, 2)) * unit
    weight = rng.normal(size=(4, 2)) / unit  # both columns matter alike
    exact = x @ weight.T
    error = {}
    for names in ((), ("input_scale",)):
        scheme = QuantizationScheme(
            activations="int8", activation_range=kind, transform=names
        )
        transforms = make_transforms(scheme, weight, moments_of(x), 0)
        moved, turned = apply(transforms, x, weight)
        quantizer = make_activation(scheme, lambda moved=moved: iter([moved]))
        drift = quantizer.quantize(moved) @ turned.T - exact
        error[names] = np.sqrt(np.mean(drift**2) / np.mean(exact**2))
    assert error[("input_scale",)] < 0.02
    assert error[()] > 0.3  # the column of 1e-3 is gone


# Reorder


def test_reorder_sorts_by_largest_value():
    x = rows(20)
    x[:, 5] = x[:, 2]
    (transform,) = made(("reorder",), x)
    largest = np.abs(transform.inputs(x)).max(axis=0)
    assert (np.diff(largest) <= 0).all()
    order = transform.order.tolist()
    assert order.index(2) + 1 == order.index(5)
    assert sorted(order) == list(range(20))


@pytest.mark.parametrize(
    ("n_in", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65537, np.uint32)],
)
def test_an_order_takes_the_smallest_integers(n_in, dtype):
    x = np.arange(n_in, dtype=float)
    empty = np.zeros((1, 1))
    moments = InputMoments(empty, empty, x, x, x, 1)
    order = Reorder.fit(empty, moments, None).order
    assert order.dtype == dtype
    np.testing.assert_array_equal(order, np.arange(n_in)[::-1])


def test_blocks_lose_less_after_reordering():
    """Normal channels must not share a block with channels 20 times as large."""
    rng = np.random.default_rng(0)
    large = np.isin(np.arange(64), [0, 20, 40, 60])  # one in each block of 16
    x = rng.normal(size=(400, 64)) * np.where(large, 20.0, 1.0)

    def error(rows):
        blocks = rows.reshape(len(rows), -1, 16)
        exponent = np.floor(np.log2(np.abs(blocks).max(axis=2, keepdims=True)))
        step = 2.0 ** (exponent - 2)
        rounded = np.clip(np.rint(blocks / step), -8, 7) * step
        return np.mean((rounded - blocks) ** 2, axis=0).reshape(-1)

    (transform,) = made(("reorder",), x)
    before = error(x)
    after = error(transform.inputs(x))
    normal = ~large[transform.order]
    assert after[normal].mean() < 0.52 * before[~large].mean()
    assert after.mean() < before.mean()


@given(st.integers(1, 24), st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_attention_scores_do_not_see_an_order_of_both_sides(n_in, seed):
    """Q K^T over integers, so that sums in any order are exact."""
    rng = np.random.default_rng(seed)
    Q, K = rng.integers(-9, 10, size=(2, 6, n_in)).astype(float)
    (transform,) = made(("reorder",), K)
    np.testing.assert_array_equal(transform.inputs(Q) @ transform.inputs(K).T, Q @ K.T)
    # the same as permuting the rows of both projections once and for all
    W_q, W_k, x = (rng.integers(-9, 10, size=(n_in, n_in)).astype(float) for _ in "qkx")
    order = transform.order
    scores = (x @ W_q[order].T) @ (x @ W_k[order].T).T
    np.testing.assert_array_equal(scores, (x @ W_q.T) @ (x @ W_k.T).T)


# In a layer, on file


@pytest.mark.parametrize("names", LISTS[-8:], ids="+".join)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_computes_with_its_effective_weight(names, dtype):
    x = rows(13, spread=0.5)
    transforms = made(names, x)
    codes = np.random.default_rng(0).integers(0, 255, size=(4, 13)).astype(np.uint8)
    book = np.arange(-127, 128, dtype=np.float32)
    grid = Grid(book, np.full((4, 1), 0.01, np.float32), None, 13, 13)
    layer = QuantizedLayer("a", codes, grid, transforms=transforms)
    exact = x @ layer.effective_weight().T
    got = layer(x.astype(dtype))
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert np.abs(got - exact).max() <= tolerance * np.abs(exact).max()
    stored = sum(a.nbytes for t in transforms for a in t.arrays().values())
    assert layer.nbytes == codes.size + grid.scale.nbytes + stored


@pytest.mark.parametrize("name", [*TRANSFORMS, "cross"])
@pytest.mark.parametrize("n_in", WIDTHS)
def test_a_stored_transform_is_the_same(name, n_in):
    x, weight = rows(n_in), weights(n_in)
    if name == "cross":
        (first,) = made((), x, weight, activations="int8", activation_range="cross")
    else:
        (first,) = made((name,), x, weight)
    loaded = transform_from(name, first.arrays(), first.settings())
    for second in (loaded, pickle.loads(pickle.dumps(first))):
        assert (second.kind, type(second)) == (first.kind, type(first))
        np.testing.assert_array_equal(second.inputs(x), first.inputs(x))
        np.testing.assert_array_equal(second.weight(weight), first.weight(weight))
        np.testing.assert_array_equal(second.restored(weight), first.restored(weight))


half = np.float16


@pytest.mark.parametrize(
    ("kind", "arrays", "parameters", "message"),
    [
        ("rotation", {}, {}, "no transform 'rotation'"),
        ("input_scale", {}, {}, "needs an array 'scale'"),
        ("smooth", {"scale": np.ones((2, 2), half)}, {}, "of 1 dimensions"),
        ("cross", {"scale": np.zeros(2, half)}, {}, "must be positive"),
        ("smooth", {"scale": np.array([1, np.nan], half)}, {}, "must be positive"),
        ("smooth", {"scale": np.ones(2)}, {}, "got float64"),
        ("reorder", {"order": np.array([0, 0], np.uint8)}, {}, "no permutation"),
        ("reorder", {"order": np.array([0, 2], np.uint8)}, {}, "no permutation"),
        ("reorder", {"order": np.array([0.0, 1.0])}, {}, "no permutation"),
        ("klt", {"matrix": np.ones((2, 3), half)}, {}, "must be square"),
        ("klt", {"matrix": np.full((2, 2), np.inf, half)}, {}, "must be finite"),
        ("hadamard", {"signs": np.zeros(1, np.uint8)}, {}, "'n_in' of the stored"),
        ("hadamard", {"signs": np.zeros(1, np.uint8)}, {"n_in": 9}, "take 2 bytes"),
        ("hadamard", {"signs": np.zeros(1, half)}, {"n_in": 8}, "float16"),
        ("hadamard", {"signs": np.zeros(1, np.uint8)}, {"n_in": True}, "got True"),
        ("hadamard", {"signs": np.zeros(1, np.uint8)}, {"n_in": -1}, "got -1"),
    ],
)
def test_a_damaged_transform_is_refused(kind, arrays, parameters, message):
    with pytest.raises(ValueError, match=message):
        transform_from(kind, arrays, parameters)


@pytest.mark.parametrize("names", LISTS[:5], ids="+".join)
def test_inputs_that_are_always_zero(names):
    x, weight = np.zeros((4, 6)), weights(6)
    moved, turned = apply(made(names, x, weight), x, weight)
    assert not moved.any()
    assert np.isfinite(turned).all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_inputs_that_are_not_finite(value):
    broken = np.full((2, 2), value)
    moments = InputMoments(broken, np.eye(2), np.zeros(2), np.zeros(2), np.ones(2), 3)
    with pytest.raises(ValueError, match="infinite or NaN"):
        make_transforms(QuantizationScheme(transform="klt"), weights(2), moments, 0)
    assert make_transforms(QuantizationScheme(), weights(2), moments, 0) == ()


def test_no_input_is_changed():
    x, weight = rows(13), weights(13)
    kept, moments = (x.copy(), weight.copy()), moments_of(x)
    scheme = QuantizationScheme(transform=TRANSFORMS)
    apply(make_transforms(scheme, weight, moments, 0), x, weight)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(weight, kept[1])


def test_rows_that_are_not_contiguous():
    x = rows(13)
    for transform in made(TRANSFORMS, x):
        whole = transform.inputs(x)
        np.testing.assert_allclose(
            transform.inputs(np.asfortranarray(x)[::2]),
            whole[::2],
            rtol=1e-12,
            atol=1e-12 * np.abs(whole).max(),
        )
