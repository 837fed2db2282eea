"""Layers computed by compiled kernels equal the reference."""

import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from uqlib.quantized import QuantizationScheme
from uqlib.quantized._activations import DynamicRange
from uqlib.quantized._adapter import LayerSpec
from uqlib.quantized._dense import DenseNetwork
from uqlib.quantized._dense_kernels import (
    CompiledLayers,
    _can_be_fused,
    compiled,
    network_operations,
)
from uqlib.quantized._driver import quantize_network
from uqlib.quantized._grid import Grid
from uqlib.quantized._layer_kernels import (
    LayerKernel,
    fixed_scale,
    has_kernels,
    layer_operation,
    packed_weight,
    weight_form,
)
from uqlib.quantized._resolve import with_input_scales

N_IN, N_OUT = 21, 10
single = np.float32


def network(sizes=(N_IN, N_OUT), activation="relu", seed=0, bias=True):
    rng = np.random.default_rng(seed)
    layers = tuple(
        LayerSpec(
            f"layer_{k}",
            rng.normal(size=(n_out, n_in)) / np.sqrt(n_in),
            rng.normal(size=n_out) if bias else None,
        )
        for k, (n_in, n_out) in enumerate(pairwise(sizes))
    )
    return DenseNetwork(None, layers, activation, None, None)


def rows(n=60, n_in=N_IN, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_in)) * rng.uniform(0.5, 30, n_in)


def quantized(scheme, net=None, last_layer_bits=None):
    net = net or network()
    if isinstance(scheme, str):
        scheme = with_input_scales(QuantizationScheme.parse(scheme))
    X = rows(n_in=net.layers[0].weight.shape[1])
    found = quantize_network(
        net,
        replace(scheme, rounding="rtn"),
        X,
        last_layer_bits=last_layer_bits,
        random_state=np.random.RandomState(0),
    )
    return found.layers


def one(scheme):
    return quantized(scheme)["layer_0"]


def scheme(weights="int8", activations="int8", **parts):
    return QuantizationScheme(weights=weights, activations=activations, **parts)


CASES = {
    "w8a8": ("w8a8", "linear_w8a8"),
    "w5a8": ("w5a8", "linear_w8a8"),
    "w4a8": ("w4a8", "linear_w4a8"),
    "w3a4": ("w3a4", "linear_w4a8"),
    "w2a8": ("w2a8", "linear_w2a8"),
    "w1.58a8": ("w1.58a8", "linear_w2a8"),
    "w1a8": ("w1a8", "linear_w1a8"),
    "groups": ("w4a8g8", "linear_w4a8"),
    "groups of 8 bits": ("w8a8g5", "linear_w8a8"),
    "symmetric": (scheme("int4", symmetric=True), "linear_w4a8"),
    "powers of two": (scheme("int4", scale_format="pow2"), "linear_w4a8"),
    "one scale": (scheme("int8", granularity="tensor"), "linear_w8a8"),
    "block floats": ("wbfp4a8", "linear_w4a8"),
    "static": (scheme(activation_range="static"), "linear_w8a8"),
    "percentile": (scheme("int4", activation_range="percentile"), "linear_w4a8"),
    "cross": (scheme(activation_range="cross"), "linear_w8a8: cross scales"),
    "cross of groups": (
        scheme("int4", activation_range="cross", granularity="group", group_size=8),
        "linear_w4a8: cross scales",
    ),
    "outliers": (scheme("int4", outliers=0.05), "linear_w4a8 + outliers"),
    "low rank": (
        scheme("int2", correction=("low_rank",), rank=2),
        "linear_w2a8 + low rank",
    ),
    "hadamard": (scheme("int4", transform=("hadamard",)), "linear_w4a8"),
    "klt": (scheme("int8", transform=("klt", "hadamard")), "linear_w8a8"),
    "reorder": (scheme("int8", transform=("reorder",)), "linear_w8a8"),
    "smooth": (scheme("int8", transform=("smooth",)), "linear_w8a8"),
    "nf4": (scheme("nf4"), "linear_w4a32: rounded inputs"),
    "power": (scheme("power3"), "linear_w4a32: rounded inputs"),
    "learned values": (scheme("codebook3"), "linear_w4a32: rounded inputs"),
    "nf4 with outliers": (
        scheme("nf4", outliers=0.05),
        "linear_w4a32: rounded inputs + outliers",
    ),
}
FLOAT_CASES = {
    "w8": ("w8", "linear_dequantized"),
    "w6": ("w6g8", "linear_dequantized"),
    "w4": ("w4", "linear_w4a32"),
    "w1": ("w1", "linear_w4a32"),
    "nf4": (scheme("nf4", None), "linear_w4a32"),
    "outliers": (scheme("int4", None, outliers=0.1), "linear_w4a32 + outliers"),
    "hadamard": (scheme("int3", None, transform=("hadamard",)), "linear_w4a32"),
}


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_rounded_inputs(case):
    given, operation = CASES[case]
    layer, x = one(given), rows(37, seed=2).astype(single)
    kernel = LayerKernel(layer, "auto")
    assert kernel.operation == operation == layer_operation(layer, "numba")
    found = kernel(x)
    assert found.dtype == single
    # A code that differs by one would cost a hundred times as much.
    assert relative(found, layer(x).astype(np.float64)) < 1e-5
    for n in (1, 2, 5):
        same = kernel(x[:n])
        if "klt" in case:  # a float product before: it depends on the number of rows
            assert relative(same, layer(x[:n])) < 1e-5
        else:
            assert relative(same, found[:n]) < 1e-6
    assert kernel(x[:0]).shape == (0, N_OUT)
    strided = np.asfortranarray(x)[::-2]
    if "klt" not in case:
        np.testing.assert_array_equal(kernel(strided), kernel(strided.copy()))


@pytest.mark.parametrize("case", FLOAT_CASES)
def test_inputs_in_float(case):
    given, operation = FLOAT_CASES[case]
    layer, x = one(given), rows(37, seed=2)
    assert layer_operation(layer, "auto") == "float weights (BLAS)"
    kernel = LayerKernel(layer, "numba")
    assert kernel.operation == operation
    assert relative(kernel(x), layer(x)) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_double_precision_moves_a_code_by_one_at_most(case):
    layer, x = one(CASES[case][0]), rows(400, seed=3)
    error = np.abs(LayerKernel(layer, "auto")(x) - layer(x)).max(axis=1)
    size = np.abs(layer(x)).max()
    # One code of one input, times the largest weight.
    weight = np.abs(layer.transformed_weight()).max()
    _, scale = layer.activation.encode(_transformed(layer, x))
    bound = float(scale.max()) * weight
    assert (error < 1e-5 * size).mean() > 0.95
    assert (error < 1e-5 * size + 2 * bound).all()


def _transformed(layer, x):
    for transform in layer.transforms:
        x = transform.inputs(x)
    return x


@pytest.mark.parametrize(
    "case",
    ["w8a8", "w3a4", "w1a8", "groups", "groups of 8 bits", "static", "percentile"],
)
def test_codes_and_sums_of_integers_are_the_same(case):
    from uqlib_kernels._integer import integer_product
    from uqlib_kernels._quantize_rows import quantize_rows

    layer = one(CASES[case][0])
    x = _transformed(layer, rows(50, seed=4).astype(single))
    packed, activation = packed_weight(layer), layer.activation
    codes, scale = activation.encode(x)
    padded, sums, row_scale = quantize_rows(
        x, packed, top=activation.largest_code, static_scale=fixed_scale(activation)
    )
    np.testing.assert_array_equal(padded[:, packed.columns], codes)
    np.testing.assert_array_equal(row_scale, np.broadcast_to(scale[:, 0], len(x)))
    # With scales of 1 on both sides the outputs are the sums.
    form = weight_form(layer.grid)
    group = None if form.scale.shape[1] == 1 else layer.grid.group_size
    whole = np.rint(form.zero_point)
    ones = replace(
        layer.grid,
        codebook=np.arange(layer.grid.n_levels, dtype=single),
        scale=np.ones_like(form.scale, dtype=single),
        zero_point=whole.astype(single),
    )
    packed = packed_weight(replace(layer, grid=ones))
    found = integer_product(padded, sums, np.ones(len(x), dtype=single), packed, None)
    width = group or N_IN
    zero = whole.astype(np.int64)[:, np.arange(N_IN) // width if group else [0] * N_IN]
    zero = np.broadcast_to(zero, layer.codes.shape)
    exact = codes.astype(np.int64) @ (layer.codes.astype(np.int64) - zero).T
    np.testing.assert_array_equal(found, exact)


# ---------------------------------------------------------------------------
# Which grids


@pytest.mark.parametrize(
    ("codebook", "bits", "scale", "zero"),
    [
        ([0, 1, 2, 3], 2, 0.5, 6.0),
        ([-1, 1], 1, 1.0, 3.5),
        ([-1, 0, 1], 2, 0.5, 7.0),
        ([-7, -6, -5, -4, -3], 4, 0.5, 13.0),
        ([3.0], 1, 0.5, 3.0),
        ([0.25, 0.75, 1.25], 2, 0.25, 11.5),
    ],
)
def test_equal_steps_are_integers(codebook, bits, scale, zero):
    grid = Grid(
        np.array(codebook, dtype=single),
        np.array([[0.5]], dtype=single),
        np.array([[6.0]], dtype=single),
        4,
        4,
    )
    form = weight_form(grid)
    assert form.bits == bits
    assert form.codebook is None
    assert form.scale.item() == scale
    assert form.zero_point.item() == zero
    codes = np.arange(len(codebook))[None]
    exact = (codes - form.zero_point) * form.scale
    np.testing.assert_array_equal(exact, grid.decode(codes))


def hand_made(codebook, scale=1.0, activation=None):
    codebook = np.asarray(codebook, dtype=single)
    scales = np.array([[scale]])
    grid = Grid(codebook, scales, None, N_IN, N_IN)
    codes = np.zeros((2, N_IN), dtype=np.uint8)
    return quantized_like(grid, codes, activation or DynamicRange(8))


def quantized_like(grid, codes, activation):
    return replace(one("w8a8"), grid=grid, codes=codes, activation=activation)


class OtherRange:
    kind = "other"
    bits = 8

    def quantize(self, x):
        return x


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (hand_made(np.arange(17) ** 2), "codebook of 17 levels"),
        (hand_made([0, 1, 1, 2]), "codebook of 4 levels"),
        (hand_made([0, 1], scale=1e39), "scales beyond single precision"),
        (hand_made([0, 1], scale=1e-39), "scales beyond single precision"),
        (hand_made([0, 1], activation=OtherRange()), "activations of the kind 'other'"),
    ],
)
def test_what_the_reference_computes(layer, reason):
    for backend in ("auto", "numba"):
        assert layer_operation(layer, backend) == f"reference: {reason}"
    assert layer_operation(layer, "reference") == "reference"
    if "kind" not in reason:
        with pytest.raises(ValueError, match="has no kernel"):
            packed_weight(layer)
        assert layer_operation(replace(layer, activation=None), "numba") == (
            "float weights (BLAS)"
        )


def test_without_the_compiled_package(monkeypatch):
    assert has_kernels()
    layer = one("w8a8")
    monkeypatch.setattr("uqlib.quantized._layer_kernels.has_kernels", lambda: False)
    assert layer_operation(layer, "auto") == "reference"
    assert layer_operation(layer, "numba") == "linear_w8a8"


def test_copies_pack_for_themselves():
    kernel = LayerKernel(one("w4a8"), "auto")
    size, x = len(pickle.dumps(kernel)), rows(3)
    expected = kernel(x)
    assert kernel.packed() is kernel.packed()
    stored = pickle.dumps(kernel)
    assert len(stored) == size
    again = pickle.loads(stored)
    assert again._packed is None
    np.testing.assert_array_equal(again(x), expected)


@pytest.mark.parametrize("case", ["w8a8", "cross", "outliers", "nf4"])
def test_rows_that_are_not_finite(case):
    kernel, x = LayerKernel(one(CASES[case][0]), "auto"), rows(3)
    x[1, 4] = np.inf
    with np.errstate(all="ignore"):
        found = kernel(x)
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], kernel(x[[0, 2]]))


# ---------------------------------------------------------------------------
# Networks


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic", "silu"])
@pytest.mark.parametrize(
    ("given", "is_fused"),
    [
        ("w8a8", True),
        ("w4a8", True),
        ("w2a8", True),
        (scheme("int8", symmetric=True), True),
        (scheme("int8", activation_range="static"), True),
        (scheme("int4", "int5", transform=("smooth",)), True),
        (scheme("ternary"), True),
        ("w1a8", False),  # zero points that are no whole numbers
        ("w4a8g8", False),
        (scheme("int4", outliers=0.05), False),
        (scheme("int8", transform=("hadamard",)), False),
        (scheme("int8", activation_range="cross"), False),
        (scheme("int8", skip=("layer_1",)), False),
        (scheme("fp8", layer_bits={"layer_0": 4}), False),
    ],
)
def test_networks(given, is_fused, activation):
    net = network((N_IN, 24, 17, 3), activation)
    layers = quantized(given, net)
    names = network_operations(net.layers, layers, "auto")
    assert all(name.startswith("mlp: w") for name in names.values()) == is_fused
    made = compiled(net.layers, layers, "auto")
    assert isinstance(made, CompiledLayers)
    x = rows(200, seed=5).astype(single)
    found, expected = net.outputs(x, made), net.outputs(x, layers)
    assert found.dtype == single
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    # Between layers, codes of ties may differ by one.
    assert np.median(error) < 1e-5
    assert (error < 1e-5).mean() > 0.9
    assert error.max() < 0.1
    again = pickle.loads(pickle.dumps(made))
    assert again._made is None
    np.testing.assert_array_equal(net.outputs(x, again), found)


@pytest.mark.parametrize("case", CASES)
def test_the_report_and_the_kernel_agree_on_what_can_be_fused(case):
    from uqlib_kernels.mlp import FusedMLP, MLPLayer

    layer = one(CASES[case][0])
    kinds = [part.kind for part in layer.transforms]
    if weight_form(layer.grid).codebook is None and set(kinds) <= {"input_scale"}:
        made = MLPLayer(packed_weight(layer), layer.bias, layer.activation.largest_code)
        plain = replace(layer, outliers=None, low_rank=None, activation=DynamicRange(8))
        assert _can_be_fused(plain) == (FusedMLP.takes([made], "relu") == "")


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_without_bias(activation, bias):
    net = network((N_IN, 24, 3), activation, bias=bias)
    layers = quantized(scheme(correction=()), net)
    found = net.outputs(rows(), compiled(net.layers, layers, "auto"))
    expected = net.outputs(rows(), layers)
    assert found.dtype == np.float64
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    assert np.median(error) < 1e-5


def test_numbers_beyond_single_precision_are_left_to_the_reference():
    net = network((N_IN, 24, 3))
    layers = quantized("w8a8", net)
    made = compiled(net.layers, layers, "auto")
    x = rows(5)
    x[2] *= 1e300
    np.testing.assert_array_equal(net.outputs(x, made), net.outputs(x, layers))


def test_nothing_compiled_is_imported_before_it_runs():
    code = """
import sys
import numpy as np
from sklearn.neural_network import MLPRegressor
from uqlib.quantized import quantize
X = np.random.default_rng(0).normal(size=(30, 3))
model = MLPRegressor(hidden_layer_sizes=(4, 4), max_iter=1).fit(X, X[:, 0])
quantized = quantize(model, "w8a8", X)
assert set(quantized.layers_["op"]) == {"mlp: w8a8 fused"}
loaded = sorted({"numba", "uqlib_kernels"} & set(sys.modules))
assert not loaded, loaded
quantized.predict(X)
assert "uqlib_kernels" in sys.modules
"""
    options = ["-W", "ignore", "-c", code]
    done = subprocess.run([sys.executable, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
