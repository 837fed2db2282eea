"""Whole networks of dense layers through the driver, from the scheme to the outputs."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from uqlib.exceptions import QuantizationWarning
from uqlib.quantized import _learned_rounding
from uqlib.quantized._adapter import LayerSpec
from uqlib.quantized._dense import ACTIVATIONS, DenseNetwork
from uqlib.quantized._driver import quantize_network
from uqlib.quantized._formats import fit_grid
from uqlib.quantized._layers import seen_inputs
from uqlib.quantized._packing import pack_codes
from uqlib.quantized._recipes import RECIPES
from uqlib.quantized._scheme import (
    ACTIVATION_RANGES,
    CLIPS,
    GRANULARITIES,
    ROUNDINGS,
    TARGETS,
    QuantizationScheme,
)

FORMATS = (
    *("int1", "int2", "int3", "int4", "int8", "ternary", "nf4", "fp4", "fp8"),
    *("power2", "power3", "power8", "bfp2", "bfp4", "bfp8"),
    *("codebook1", "codebook2", "codebook4", "codebook8"),
)
TRANSFORMS = (
    *((), ("input_scale",), ("smooth",), ("reorder",), ("hadamard",), ("klt",)),
    *(("klt", "hadamard"), ("smooth", "reorder", "hadamard"), ("hadamard", "hadamard")),
)
CORRECTIONS = (
    *((), ("bias",), ("low_rank",), ("output_affine",)),
    ("bias", "low_rank", "output_affine"),
)
WITHOUT_LEARNING = ROUNDINGS[:4]


def network(sizes, seed=0, dtype=np.float64, activation="relu", biased=True):
    rng = np.random.default_rng(seed)
    layers = [
        LayerSpec(
            f"layer_{k}",
            (rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)).astype(dtype),
            rng.normal(size=n_out).astype(dtype) if biased else None,
        )
        for k, (n_in, n_out) in enumerate(pairwise(sizes))
    ]
    return DenseNetwork(None, tuple(layers), activation, None, None)


def rows(n_rows=50, n_in=6, seed=1):
    return np.random.default_rng(seed).normal(size=(n_rows, n_in))


def quantized(model, X, row_weight=None, seed=0, **parts):
    return quantize_network(
        model,
        QuantizationScheme(**parts),
        X,
        last_layer_bits=None,
        random_state=np.random.RandomState(seed),
        row_weight=row_weight,
    ).layers


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    for name in ("adaround_place", "discquant_place", "flexround_codes"):
        shorter = partial(getattr(_learned_rounding, name), n_steps=20)
        monkeypatch.setattr(_learned_rounding, name, shorter)


def test_sixteen_bits_leave_all_layers_in_float():
    model, X = network((6, 8, 8, 2)), rows()
    scheme = QuantizationScheme.parse("w16")
    result = quantize_network(model, scheme, X, last_layer_bits=8, random_state=None)
    assert not result.layers
    assert [layer.name for layer in result.skipped] == ["layer_0", "layer_1", "layer_2"]
    exact = model.outputs(X, {})
    np.testing.assert_allclose(model.outputs(X, result.layers), exact, atol=1e-6)


# Any scheme of any network


def drawn_scheme(rng):
    granularity = str(rng.choice(GRANULARITIES))
    return {
        "weights": str(rng.choice(FORMATS)),
        "activations": rng.choice([None, None, "int2", "int4", "int8"]),
        "activation_range": str(rng.choice(ACTIVATION_RANGES)),
        "granularity": granularity,
        "group_size": int(rng.choice([1, 3, 16, 100])),
        "symmetric": bool(rng.integers(2)),
        "scale_format": str(rng.choice(["float", "pow2"])),
        "clip": str(rng.choice(CLIPS)),
        "transform": TRANSFORMS[rng.integers(len(TRANSFORMS))],
        "rounding": str(rng.choice(ROUNDINGS)),
        "target": rng.choice([None, *TARGETS]),
        "correction": CORRECTIONS[rng.integers(len(CORRECTIONS))],
        "rank": int(rng.choice([1, 2, 4])),
        "outliers": float(rng.choice([0, 0, 0.05, 0.5])),
    }


def drawn_network(rng, unit):
    sizes = rng.choice([1, 2, 5, 8, 13], size=rng.integers(2, 4))
    dtype = rng.choice([np.float32, np.float64])
    activation = str(rng.choice(list(ACTIVATIONS)))
    model = network(sizes, rng.integers(99), dtype, activation, rng.integers(2))
    first = model.layers[0].weight
    first *= unit
    kind = rng.integers(6)
    if kind == 0:
        first[:] = 0
    elif kind == 1:
        first[:] = first[0, 0]
    elif kind == 2:
        first[:] = first[:, :1]
    elif kind == 3:
        first[0, 0] *= 1000
    return model


def drawn_rows(rng, n_in, unit):
    X = rng.normal(size=(rng.choice([2, 3, 20, 60]), n_in)) * unit
    kind = rng.integers(8)
    if kind == 0:
        X[:, 0] = 0
    elif kind == 1:
        X[:] = X[:, :1]
    elif kind == 2:
        X[:, 0] = unit
    elif kind == 3:
        X *= 10.0 ** rng.uniform(-3, 3, size=n_in)
    elif kind == 4:
        X[:] = 0
    return X


def stored_bytes(layer):
    """Sum what a file of the layer holds."""
    parts = [pack_codes(layer.codes, layer.grid.code_bits), layer.grid.scale]
    parts += [layer.grid.zero_point, layer.bias]
    parts += [*(layer.outliers or ()), *(layer.low_rank or ())]
    for part in layer.transforms:
        parts += part.arrays().values()
    if layer.activation is not None:
        parts += layer.activation.arrays().values()
    if layer.details["scheme"].weights.startswith(("power", "codebook")):
        parts.append(layer.grid.codebook)
    return sum(part.nbytes for part in parts if part is not None)


def check_layer(layer, n_parameters):
    assert np.isfinite(layer.effective_weight()).all()
    assert layer.codes.max() < layer.grid.n_levels
    assert layer.nbytes == stored_bytes(layer)
    bias = 0 if layer.bias is None or not layer.details["has_bias"] else 4
    rest = layer.nbytes - bias * len(layer.codes)
    assert layer.weight_bits * n_parameters == pytest.approx(8 * rest)


@pytest.mark.filterwarnings("ignore::uqlib.exceptions.QuantizationWarning")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("extreme", [False, True])
def test_any_scheme_of_any_network(seed, extreme):
    rng = np.random.default_rng([seed, extreme])
    for _ in range(20):
        units = 10.0 ** rng.choice([-30, -15, 0, 15, 30], size=2)
        if not extreme or not 1e-31 < units.prod() < 1e31:
            units = np.ones(2)
        model = drawn_network(rng, units[0])
        X = drawn_rows(rng, model.layers[0].weight.shape[1], units[1])
        X, parts = X.astype(model.layers[0].weight.dtype), drawn_scheme(rng)
        layers, again = (quantized(model, X, **parts) for _ in range(2))
        assert len(layers) == len(model.layers)
        for spec in model.layers:
            layer = layers[spec.name]
            check_layer(layer, spec.weight.size)
            np.testing.assert_array_equal(layer.codes, again[spec.name].codes)
            np.testing.assert_array_equal(layer.grid.scale, again[spec.name].grid.scale)
        assert np.isfinite(model.outputs(X, layers)).all()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("bits", [None, 1, 1.58, 2, 3, 4, 8])
def test_every_recipe_quantizes_a_network(name, bits):
    model, X = network((6, 16, 16, 2)), rows()
    scheme = QuantizationScheme.recipe(name, bits=bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uqlib.quantized._corrections._warn_rank", lambda *args: None)
        layers = quantize_network(
            model, scheme, X, last_layer_bits=8, random_state=np.random.RandomState(0)
        ).layers
    exact, found = model.outputs(X, {}), model.outputs(X, layers)
    assert np.isfinite(found).all()
    error = np.sqrt(np.mean((found - exact) ** 2) / exact.var())
    assert error < (0.1 if scheme.bits == 8 else 1.2)
    for spec in model.layers:
        check_layer(layers[spec.name], spec.weight.size)


@pytest.mark.parametrize("weights", ["int1", "int2", "int4", "int8", "ternary", "nf4"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("clip", ["minmax", "mse", "learned"])
def test_legal_weights_are_found_again(weights, rounding, clip):
    model, X = network((6, 16, 3)), rows()
    parts = {"weights": weights, "clip": "minmax"}
    layers = []
    for spec in model.layers:
        grid = fit_grid(spec.weight, QuantizationScheme(**parts))
        layers.append(spec._replace(weight=grid.nearest(spec.weight)))
    model = replace(model, layers=tuple(layers))
    found = quantized(model, X, **parts | {"clip": clip, "rounding": rounding})
    for spec in layers:
        layer = found[spec.name]
        # Scales are those of the weights again: no code is off, nothing is lost.
        np.testing.assert_allclose(layer.transformed_weight(), spec.weight, atol=1e-12)
        assert layer.details["loss"] < 1e-12 * layer.details["energy"]


# Weights of rows


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("transform", [(), ("smooth", "reorder", "hadamard")])
@pytest.mark.parametrize("ranges", [None, "dynamic", "static", "cross"])
def test_weights_of_rows_are_repetitions(rounding, transform, ranges):
    model, X = network((6, 8, 2)), rows()
    weight = np.random.default_rng(2).integers(0, 4, size=len(X))
    parts = {
        "weights": "int3",
        "activations": ranges and "int8",
        "activation_range": ranges or "dynamic",
        "rounding": rounding,
        "transform": transform,
        "correction": ("bias", "low_rank", "output_affine"),
        "rank": 1,
        "outliers": 0.05,
    }
    found = quantized(model, X, weight.astype(float), **parts)
    expected = quantized(model, np.repeat(X, weight, axis=0), **parts)
    for name, layer in found.items():
        np.testing.assert_array_equal(layer.codes, expected[name].codes)
    np.testing.assert_allclose(
        model.outputs(X, found), model.outputs(X, expected), atol=1e-4
    )


# The target, the corrections


def seen(model, X, name, done):
    return np.concatenate(list(model.layer_inputs(X, name, done)))


@pytest.mark.parametrize("rounding", ["gptq", "gptq+cd", "cd"])
@pytest.mark.parametrize("transform", [(), ("smooth", "hadamard")])
@pytest.mark.parametrize("ranges", [None, "dynamic", "static"])
@pytest.mark.parametrize("weighted", [False, True])
def test_layers_repeat_the_float_model_by_ridge_and_without_bias(
    rounding, transform, ranges, weighted
):
    model, X = network((6, 16, 16, 2)), rows()
    r = np.random.default_rng(4).uniform(0.5, 2, 50) if weighted else np.ones(50)
    parts = {
        "weights": "int3",
        "target": "fp",
        "rounding": rounding,
        "transform": transform,
        "activations": ranges and "int4",
        "activation_range": ranges or "dynamic",
    }
    layers = quantized(model, X, r if weighted else None, **parts)
    root, done = np.sqrt(r / r.sum())[:, None], {}
    for spec in model.layers:
        f, inputs = (seen(model, X, spec.name, known) for known in ({}, done))
        layer = done[spec.name] = layers[spec.name]
        q = seen_inputs(inputs, layer.transforms, layer.activation)
        exact, weight = f @ spec.weight.T, spec.weight
        for each in layer.transforms:
            weight = each.weight(weight)
        n_in = q.shape[1]
        ridge = np.sqrt(0.01 * np.sum((root * q) ** 2) / n_in)
        left = np.vstack([root * q, ridge * np.eye(n_in)])
        right = np.vstack([root * exact, ridge * weight.T])
        target = np.linalg.lstsq(left, right, rcond=None)[0].T
        error = root * (q @ (layer.transformed_weight() - target).T)
        assert layer.details["loss"] == pytest.approx(np.sum(error**2))
        change = layer(inputs) - exact - spec.bias
        np.testing.assert_allclose(r @ change / r.sum(), 0, atol=1e-6)


@pytest.mark.parametrize("outliers", [0.0, 0.1])
@pytest.mark.parametrize("rounding", ["rtn", "gptq+cd"])
def test_low_rank_leaves_the_residual_of_eckart_and_young(outliers, rounding):
    model, X = network((12, 10)), rows(60, 12)
    parts = {"weights": "int2", "rounding": rounding, "outliers": outliers, "rank": 2}
    layer = quantized(model, X, correction="low_rank", **parts)["layer_0"]
    rest = replace(layer, low_rank=None).transformed_weight()
    error = X @ (rest - model.layers[0].weight).T / np.sqrt(len(X))
    residual = np.sum(np.linalg.svd(error, compute_uv=False)[2:] ** 2)
    assert (layer.outliers is not None) == (outliers > 0)
    assert layer.details["loss"] == pytest.approx(residual, rel=1e-3)


@pytest.mark.parametrize(
    ("bits", "least", "expected"),
    [(2, 8, 8), (6, 8, 8), (7, 8, 8), (8, 8, 8), (8, 4, 8), (2, 3, 3), (2, None, 2)],
)
def test_the_last_layer_has_at_least_its_bits(bits, least, expected):
    model, X = network((6, 8, 2)), rows()
    for layer_bits, last in (((), expected), ({"layer_1": 1}, 1)):
        scheme = QuantizationScheme(f"int{bits}", rounding="rtn", layer_bits=layer_bits)
        layers = quantize_network(
            model, scheme, X, last_layer_bits=least, random_state=None
        ).layers
        assert [layer.grid.code_bits for layer in layers.values()] == [bits, last]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ranges", [None, *ACTIVATION_RANGES])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_affine_outputs_are_never_worse(bits, ranges, weighted):
    for seed in range(3):
        model, X = network((6, 8, 3), seed, activation="tanh"), rows(30, seed=seed)
        r = np.random.default_rng(seed).choice([0.1, 1.0, 30.0], size=30)
        parts = {
            "weights": f"int{bits}",
            "activations": ranges and "int4",
            "activation_range": ranges or "dynamic",
        }
        exact = model.outputs(X, {})
        errors = []
        for correction in (("bias", "output_affine"), ("bias",)):
            layers = quantized(
                model, X, r if weighted else None, correction=correction, **parts
            )
            squares = (model.outputs(X, layers) - exact) ** 2
            errors.append(np.average(squares, axis=0, weights=r if weighted else None))
        assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
        assert (errors[0] < 0.999 * errors[1]).any()


# Activations


@pytest.mark.parametrize("name", ACTIVATION_RANGES)
def test_ranges_of_activations_end_to_end(name):
    model = network((6, 8, 3), activation="tanh", biased=False)
    X = rows(300)
    layers = quantized(
        model, X, weights="int8", activations="int4", activation_range=name
    )
    x = X
    for k, layer in enumerate(layers.values()):
        largest = np.abs(x).max(axis=0)
        if name == "cross":
            scale = np.abs(x).max(axis=1, keepdims=True) ** 0.15 * largest**0.85 / 7
        elif name == "dynamic":
            scale = np.abs(x).max(axis=1, keepdims=True) / 7
        else:
            ordered = np.sort(np.abs(x), axis=None)
            kept = 1.0 if name == "static" else 0.999
            scale = ordered[int(np.ceil(kept * x.size)) - 1] / 7
        rounded = np.clip(np.rint(x / scale), -7, 7) * scale
        expected = rounded @ layer.effective_weight().T + layer.bias
        # Stored scales are rounded, and values next to a half may go the other way.
        near = np.abs(layer(x) - expected) < 0.02 * np.abs(expected).max()
        assert near.mean() > 0.97
        x = np.tanh(layer(x)) if k == 0 else layer(x)
    np.testing.assert_allclose(model.outputs(X, layers), x, rtol=1e-12)


@pytest.mark.parametrize("name", ACTIVATION_RANGES)
def test_features_in_any_units_survive(name):
    model, X = network((6, 16, 16, 2)), rows()
    unit = np.array([1e-3, 1e3, 1.0, 1e-3, 1e3, 1.0])
    first = model.layers[0]
    other = replace(
        model, layers=(first._replace(weight=first.weight / unit), *model.layers[1:])
    )
    parts = {"weights": "int8", "activations": "int8", "activation_range": name}
    errors = []
    for net, x in ((model, X), (other, X * unit)):
        layers = quantized(net, x, transform="input_scale", **parts)
        exact = net.outputs(x, {})
        change = net.outputs(x, layers) - exact
        errors.append(np.sqrt(np.mean(change**2) / exact.var()))
    assert max(errors) < 0.01


# Input


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_numbers_beyond_single_precision_are_refused(value, part):
    model, X = network((6, 8, 2)), rows()
    getattr(model.layers[1], part)[0] = value
    with pytest.raises(ValueError, match="'layer_1' has weights that are not finite"):
        quantized(model, X)
    assert list(quantized(model, X, skip="layer_1")) == ["layer_0"]


def test_outputs_beyond_single_precision_are_refused():
    model = network((6, 8, 2))
    model.layers[0].weight[:] *= 1e30
    with pytest.raises(ValueError, match="infinite or NaN in single precision"):
        quantized(model, 1e30 * rows(), weights="int2")


def test_a_rank_that_is_not_low_warns_where_a_lower_one_is_legal():
    model, X = network((6, 8, 1)), rows()
    with pytest.warns(QuantizationWarning, match="Set rank to 3 or less") as caught:
        layers = quantized(model, X, correction="low_rank", rank=4)
    assert len(caught) == 1  # one output has no low rank, and nobody can help it
    assert all(layer.low_rank is None for layer in layers.values())
