"""Quantizers of activations: formulas, exact percentiles, what is stored."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from uqlib.quantized._activations import (
    CrossRange,
    DynamicRange,
    StaticRange,
    activation_from,
    largest_of_columns,
    make_activation,
    percentile_value,
)
from uqlib.quantized._grid import Grid
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._problem import input_moments
from uqlib.quantized._scheme import ACTIVATION_RANGES, QuantizationScheme
from uqlib.quantized._transforms import make_transforms

ALPHA = 0.15
every_range = pytest.mark.parametrize("name", ACTIVATION_RANGES)
every_size = pytest.mark.parametrize("bits", range(2, 9))


def rows(n_rows=60, n_in=12, seed=0):
    """Columns with outliers: every eighth is 50 times as large."""
    x = np.random.default_rng(seed).normal(size=(n_rows, n_in))
    x[:, ::8] *= 50.0
    return x


def scheme_of(name, bits=8, **parameters):
    return QuantizationScheme(
        activations=f"int{bits}", activation_range=name, **parameters
    )


def quantizer(name, x, bits=8, n_chunks=3):
    return make_activation(
        scheme_of(name, bits), lambda: iter(np.array_split(x, n_chunks))
    )


def columns_folded(x, weight, bits=8):
    """Return inputs and weights with the column scales of CrossQuant, and the rest."""
    moments = input_moments([(x, x, None)], x.shape[1])
    (transform,) = make_transforms(scheme_of("cross", bits), weight, moments, 0)
    moved = transform.inputs(x)
    return transform, moved, quantizer("cross", moved, bits)


@every_range
@every_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_goes_to_the_nearest_level(name, bits, dtype):
    x = rows().astype(dtype)
    made = quantizer(name, x, bits)
    rounded = made.quantize(x)
    assert rounded.dtype == dtype
    scale = np.broadcast_to(made.scales(x), (len(x), 1))
    top = 2 ** (bits - 1) - 1
    levels = np.arange(-top, top + 1)
    distance = np.abs(x[:, :, None] / scale[:, :, None] - levels)
    off = np.abs(x - rounded) / scale
    np.testing.assert_allclose(off, distance.min(axis=2), atol=1e-4)
    codes, _ = made.encode(x)
    assert codes.dtype == np.int8
    assert np.abs(codes).max() <= top
    np.testing.assert_array_equal(codes * scale, rounded)


def test_no_activations_no_quantizer():
    assert make_activation(QuantizationScheme(), None) is None


def test_halves_go_to_the_even_level():
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]])
    for made in (DynamicRange(8), StaticRange(8, np.ones(1, np.float32))):
        np.testing.assert_array_equal(made.quantize(x), [[127, 0, 2, 2, 0, -2, -2]])


@every_size
def test_the_largest_of_a_row_is_kept(bits):
    x = rows()
    rounded = DynamicRange(bits).quantize(x)
    where = np.abs(x).argmax(axis=1)[:, None]
    np.testing.assert_allclose(
        np.take_along_axis(rounded, where, 1), np.take_along_axis(x, where, 1)
    )
    step = np.abs(x).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(rounded - x) <= step / 2 * (1 + 1e-12)).all()


@given(
    arrays(np.float64, (4, 5), elements=st.floats(-1e6, 1e6)),
    st.integers(-20, 20),
    st.integers(2, 8),
)
@settings(deadline=None, max_examples=50)
def test_a_dynamic_range_has_no_unit_and_no_sign(x, power, bits):
    x[np.abs(x) < 1e-100] = 0.0
    made = DynamicRange(bits)
    rounded = made.quantize(x)
    np.testing.assert_array_equal(made.quantize(x * 2.0**power), rounded * 2.0**power)
    np.testing.assert_array_equal(made.quantize(-x), -rounded)
    np.testing.assert_array_equal(made.quantize(x[::-1]), rounded[::-1])


@every_range
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_zeros_stay(name, dtype):
    x = rows().astype(dtype)
    x[3] = 0.0
    assert not quantizer(name, x).quantize(x)[3].any()
    nothing = np.zeros((4, 3), dtype)
    made = quantizer(name, nothing)
    np.testing.assert_array_equal(made.quantize(nothing), nothing)
    assert made.quantize(nothing[:0]).shape == (0, 3)


def test_the_smallest_numbers_do_not_divide_by_zero():
    x = np.array([[5e-324, 0.0], [1e-45, 0.0], [1.0, 5e-324]])
    for dtype in (np.float64, np.float32):
        with np.errstate(under="ignore"):
            rounded = DynamicRange(8).quantize(x.astype(dtype))
        assert np.isfinite(rounded).all()
        np.testing.assert_allclose(rounded, x, atol=1e-38)


# Fixed scales


def test_a_static_range_is_the_largest_and_cuts_beyond():
    x = rows()
    made = quantizer("static", x, bits=4)
    assert made.scale.dtype == np.float32
    np.testing.assert_allclose(made.scale[0] * 7, np.abs(x).max(), rtol=1e-6)
    beyond = np.array([[1e6, -1e6, 1e300]])
    reach = 7 * made.scale.astype(np.float64)[0]
    np.testing.assert_array_equal(made.quantize(beyond), [[reach, -reach, reach]])


@given(st.integers(0, 10**6), st.integers(1, 3000), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_percentile_is_an_order_statistic(seed, n_rows, n_chunks, ties):
    rng = np.random.default_rng(seed)
    x = rng.standard_t(1, size=(n_rows, 2)) * 10.0 ** rng.uniform(-20, 20)
    x = rng.integers(-3, 4, size=(n_rows, 2)).astype(float) if ties else x
    values = np.sort(np.abs(x).astype(np.float32), axis=None)
    k = -(-values.size * 999 // 1000)
    got = percentile_value(lambda: iter(np.array_split(x, n_chunks)))
    assert got == values[k - 1]


def test_the_percentile_leaves_one_in_a_thousand():
    x = np.random.default_rng(0).permutation(np.arange(1.0, 10_001.0))
    x *= np.where(np.arange(10_000) % 2, 1, -1)
    assert percentile_value(lambda: iter(x.reshape(5, 20, 100))) == 9990.0
    made = quantizer("percentile", x.reshape(100, 100))
    np.testing.assert_allclose(made.scale, 9990 / 127, rtol=1e-6)
    assert np.abs(made.quantize(x.reshape(100, 100))).max() == pytest.approx(9990)


def test_a_percentile_of_zero_gives_way_to_the_largest():
    x = np.zeros((100, 100))
    x[3, 4] = -2.0
    assert percentile_value(lambda: iter([x])) == 0.0
    np.testing.assert_allclose(quantizer("percentile", x).scale, 2 / 127, rtol=1e-6)


@every_range
def test_chunks_do_not_matter_and_are_read_as_said(name):
    x = rows()
    calls = []

    def chunks(n_chunks):
        calls.append(n_chunks)
        return iter(np.array_split(x, n_chunks))

    first = make_activation(scheme_of(name), lambda: chunks(1))
    n_calls = len(calls)
    second = make_activation(scheme_of(name), lambda: chunks(7))
    np.testing.assert_array_equal(first.quantize(x), second.quantize(x))
    assert n_calls == {"dynamic": 0, "percentile": 2}.get(name, 1)


def test_the_largest_of_columns():
    x = rows()
    x[:, 2] = 0.0
    got = largest_of_columns(lambda: iter([x[:7], x[7:7], x[7:]]))
    np.testing.assert_array_equal(got, np.abs(x).max(axis=0))
    assert percentile_value(lambda: iter([x[:0]])) == 0.0


@pytest.mark.parametrize("name", ["static", "percentile", "cross"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300])
def test_rows_that_are_not_finite_are_refused(name, value):
    x = rows()
    x[5, 1] = value
    with pytest.raises(ValueError, match="infinite or NaN in single precision"):
        quantizer(name, x)


# Cross scales


def cross_scales(x, largest, bits):
    """Return t_i^a c_j^(1-a) / K, the formula itself."""
    t = np.abs(x).max(axis=1, keepdims=True)
    return t**ALPHA * largest ** (1 - ALPHA) / (2 ** (bits - 1) - 1)


@every_size
def test_folding_gives_the_formula(bits):
    """Column parts that are powers of two are stored exactly."""
    rng = np.random.default_rng(0)
    f = 2.0 ** rng.integers(-8, 9, size=10)
    unit = rng.uniform(-1, 1, size=(40, 10))
    unit[rng.integers(40, size=10), np.arange(10)] = 1.0
    x, largest = unit * f ** (1 / (1 - ALPHA)), f ** (1 / (1 - ALPHA))
    weight = rng.normal(size=(3, 10))
    transform, moved, made = columns_folded(x, weight, bits)
    np.testing.assert_array_equal(transform.scale, f)
    np.testing.assert_array_equal(made.column, f)
    scale = cross_scales(x, largest, bits)
    np.testing.assert_allclose(made.scales(moved) * f, scale, rtol=1e-12)
    expected = np.rint(x / scale)
    np.testing.assert_array_equal(made.encode(moved)[0], expected)
    got = made.quantize(moved) @ transform.weight(weight).T
    np.testing.assert_allclose(got, (expected * scale) @ weight.T, rtol=1e-9)


@pytest.mark.parametrize("bits", [4, 8])
def test_folding_gives_the_formula_in_half_precision(bits):
    x, weight = rows(), np.ones((1, 12))
    x[:, 5] = 0.0
    transform, moved, made = columns_folded(x, weight, bits)
    assert transform.scale.dtype == made.column.dtype == np.float16
    assert transform.scale[5] == made.column[5] == 1.0
    live = np.delete(np.arange(12), 5)
    scale = cross_scales(x, np.abs(x).max(axis=0), bits)[:, live]
    got = made.scales(moved) * transform.scale.astype(float)[live]
    np.testing.assert_allclose(got, scale, rtol=1e-3)


@given(st.integers(0, 10**6), st.integers(2, 8))
@settings(deadline=None, max_examples=30)
def test_no_value_of_calibration_is_cut(seed, bits):
    """abs(x_ij) <= t_i^a c_j^(1-a), whatever the inputs: folded by us or not."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, size=(20, 6)) * 10.0 ** rng.uniform(-3, 3, size=6)
    for inputs in (x, columns_folded(x, np.ones((1, 6)), bits)[1]):
        made = quantizer("cross", inputs, bits)
        error = np.abs(made.quantize(inputs) - inputs)
        scale = made.scales(inputs)
        # columns are stored with a relative error of 2^-11, of which a share remains
        assert (error <= scale * (0.5 + 2.0**-11 * ALPHA * 2**bits)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_cross_scales_send_fewer_values_to_zero(bits):
    x = rows(n_rows=500, n_in=64)
    _, moved, cross = columns_folded(x, np.ones((1, 64)), bits)
    kernel = np.mean(DynamicRange(bits).encode(x)[0] == 0)
    own = np.mean(cross.encode(moved)[0] == 0)
    assert own < kernel / 2
    # where the column is not larger than the row, each entry has the finer step
    finer = np.abs(x).max(axis=0) <= np.abs(x).max(axis=1, keepdims=True)
    row = np.broadcast_to(DynamicRange(bits).scales(x), x.shape)
    both = cross_scales(x, np.abs(x).max(axis=0), bits)
    assert (both[finer] <= row[finer] * (1 + 1e-12)).all()


def test_a_column_part_beyond_single_precision_stays_finite():
    x = np.array([[1e2, 3e7], [-2e2, 1e-3]], dtype=np.float32)
    part = quantizer("cross", x, n_chunks=1)
    assert part.column[1] == np.finfo(np.float32).max
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(part.quantize(x)).all()


def test_cross_scales_repeat_the_outputs_better():
    x = rows(n_rows=500, n_in=64)
    weight = np.random.default_rng(1).normal(size=(8, 64))
    transform, moved, cross = columns_folded(x, weight, 8)
    got = cross.quantize(moved) @ transform.weight(weight).T
    plain = DynamicRange(8).quantize(x) @ weight.T
    exact = x @ weight.T
    assert np.mean((got - exact) ** 2) < 0.5 * np.mean((plain - exact) ** 2)


def test_the_column_part_comes_last_and_only_if_asked_for():
    x, weight = rows(), np.ones((2, 12))
    moments = input_moments([(x, x, None)], 12)

    def kinds(scheme):
        return [t.kind for t in make_transforms(scheme, weight, moments, 0)]

    assert kinds(scheme_of("cross", transform=("reorder",))) == ["reorder", "cross"]
    assert kinds(scheme_of("dynamic", transform=("reorder",))) == ["reorder"]
    assert kinds(QuantizationScheme(activation_range="cross")) == []


# In a layer, on file


@every_range
def test_a_layer_rounds_its_inputs(name):
    x = rows()
    made = quantizer(name, x)
    codes = np.random.default_rng(0).integers(0, 15, size=(4, 12)).astype(np.uint8)
    book = np.arange(-7, 8, dtype=np.float32)
    grid = Grid(book, np.full((4, 1), 0.5, np.float32), None, 12, 12)
    bias = np.arange(4, dtype=np.float32)
    layer = QuantizedLayer("a", codes, grid, bias, activation=made)
    np.testing.assert_array_equal(
        layer(x), made.quantize(x) @ grid.decode(codes).T + bias
    )
    # the same with products in integers, which is what a kernel does
    levels, scale = made.encode(x)
    total = levels.astype(np.int32) @ (codes.astype(np.int32) - 7).T
    np.testing.assert_allclose(layer(x), total * scale * 0.5 + bias, atol=1e-10)
    parts = (codes, grid.scale, bias, *made.arrays().values())
    assert layer.nbytes == sum(part.nbytes for part in parts) - codes.size // 2


@every_range
@every_size
def test_a_stored_quantizer_is_the_same(name, bits):
    x = rows()
    first = quantizer(name, x, bits)
    assert (first.kind, first.bits) == (name, bits)
    loaded = activation_from(name, first.arrays(), first.settings())
    for second in (loaded, pickle.loads(pickle.dumps(first))):
        assert (type(second), second.bits) == (type(first), bits)
        np.testing.assert_array_equal(second.quantize(x), first.quantize(x))


single = np.float32


@pytest.mark.parametrize(
    ("kind", "parts", "parameters", "message"),
    [
        ("token", {}, {"bits": 8}, "no activation quantizer 'token'"),
        ("dynamic", {}, {}, "'bits' of the stored part 'dynamic'"),
        ("dynamic", {}, {"bits": 9}, "from 2 to 8, got 9"),
        ("dynamic", {}, {"bits": 1}, "from 2 to 8, got 1"),
        ("dynamic", {}, {"bits": 4.0}, "got 4.0"),
        ("dynamic", {}, {"bits": "8"}, "got '8'"),
        ("static", {}, {"bits": 8}, "needs an array 'scale'"),
        ("static", {"scale": np.ones(2, single)}, {"bits": 8}, "one scale, got 2"),
        ("percentile", {"scale": np.zeros(1, single)}, {"bits": 8}, "be positive"),
        ("cross", {"column": np.array([-1], single)}, {"bits": 8}, "be positive"),
        ("cross", {"column": np.array([np.nan], single)}, {"bits": 8}, "positive"),
    ],
)
def test_a_damaged_quantizer_is_refused(kind, parts, parameters, message):
    with pytest.raises(ValueError, match=message):
        activation_from(kind, parts, parameters)


@every_range
def test_rows_are_not_changed_and_may_lie_anywhere(name):
    x = rows()
    kept = x.copy()
    made = quantizer(name, x)
    expected = made.quantize(x)
    np.testing.assert_array_equal(
        made.quantize(np.asfortranarray(x)[::2]), expected[::2]
    )
    np.testing.assert_array_equal(x, kept)


def test_bits_are_those_of_the_scheme():
    assert isinstance(quantizer("cross", rows(), 5), CrossRange)
    assert quantizer("cross", rows(), 5).largest_code == 15
