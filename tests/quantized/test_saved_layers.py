"""Stored layers: every part of every format comes back bit for bit, or is refused."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neural_network import MLPRegressor

from uqlib.quantized._dense import mlp_network
from uqlib.quantized._driver import quantize_network
from uqlib.quantized._saved_arrays import ArrayReader, ArrayWriter
from uqlib.quantized._saved_grids import named_levels
from uqlib.quantized._saved_layers import (
    layer_from,
    scheme_from,
    stored_layer,
    stored_scheme,
)
from uqlib.quantized._scheme import QuantizationScheme

N_IN = 10
RTN = {"rounding": "rtn"}
SCHEMES = {
    "w8a8": {"weights": "int8", "activations": "int8", "transform": ("input_scale",)},
    "w4": {},
    "w3g4 hadamard": {
        "weights": "int3",
        "granularity": "group",
        "group_size": 4,
        "transform": ("hadamard",),
    },
    "w2 outliers": {"weights": "int2", "outliers": 0.05},
    "w1": {"weights": "int1"},
    "w1 symmetric": {"weights": "int1", "symmetric": True},
    "ternary": {"weights": "ternary"},
    "tensor": {"weights": "int5", "granularity": "tensor"},
    "symmetric": {"weights": "int4", "symmetric": True},
    "powers of two": {"weights": "int4", "scale_format": "pow2"},
    "nf4": {"weights": "nf4"},
    "fp4": {"weights": "fp4"},
    "fp8": {"weights": "fp8"},
    "codebook": {"weights": "codebook3"},
    "power": {"weights": "power4"},
    "bfp": {"weights": "bfp4", "granularity": "group", "group_size": 4},
    "low rank": {"weights": "int2", "correction": ("bias", "low_rank"), "rank": 1},
    "affine": {"weights": "int3", "correction": ("output_affine",)},
    "static": {"activations": "int8", "activation_range": "static"},
    "percentile": {"activations": "int6", "activation_range": "percentile"},
    "cross": {"activations": "int4", "activation_range": "cross"},
    "all transforms": {
        "activations": "int8",
        "transform": ("input_scale", "smooth", "reorder", "klt", "hadamard"),
    },
}
_rng = np.random.default_rng(0)
X = _rng.normal(size=(60, N_IN)) * 10.0 ** _rng.integers(-2, 3, size=N_IN)
MODEL = MLPRegressor(hidden_layer_sizes=(9, 7), max_iter=50, random_state=0, tol=1e9)
MODEL = MODEL.set_params(n_iter_no_change=1).fit(X, X[:, 0])


def layers_of(changes):
    scheme = QuantizationScheme(**(RTN | changes))
    network = quantize_network(
        mlp_network(MODEL), scheme, X, last_layer_bits=None, random_state=0
    )
    return scheme, list(network.layers.values())


def through_file(settings, arrays):
    """Settings through JSON and arrays through one row for each type."""
    writer = ArrayWriter()
    line = writer.put(arrays)
    reader = ArrayReader(writer.tensors())
    again = reader.take(line)
    reader.check_empty()
    return json.loads(json.dumps(settings, allow_nan=False)), again


def assert_same_array(found, expected):
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()


def assert_same_layer(found, expected):
    assert found.name == expected.name
    assert_same_array(found.codes, expected.codes)
    for name in ("codebook", "scale", "zero_point"):
        assert_same_array(getattr(found.grid, name), getattr(expected.grid, name))
    assert found.grid.group_size == expected.grid.group_size
    assert found.grid.n_in == expected.grid.n_in
    assert_same_array(found.bias, expected.bias)
    for name in ("outliers", "low_rank"):
        mine, other = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (other is None)
        for one, two in zip(mine or (), other or (), strict=True):
            assert_same_array(one, two)
    pieces = [
        *expected.transforms,
        *([expected.activation] * bool(expected.activation)),
    ]
    again = [*found.transforms, *([found.activation] * bool(found.activation))]
    assert [piece.kind for piece in again] == [piece.kind for piece in pieces]
    for one, two in zip(again, pieces, strict=True):
        assert one.settings() == two.settings()
        for name, array in two.arrays().items():
            assert_same_array(one.arrays()[name], array)
    for name in ("n_in", "scheme", "n_rows", "named_codebook", "has_bias"):
        assert found.details[name] == expected.details[name], name
    for name in ("loss", "energy"):
        assert found.details[name] == pytest.approx(expected.details[name], rel=1e-7)


@pytest.mark.parametrize("kind", list(SCHEMES))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_layers_come_back(kind, dtype):
    scheme, layers = layers_of(SCHEMES[kind])
    for layer in layers:
        settings, arrays = stored_layer(layer, scheme)
        assert sum(array.nbytes for array in arrays.values()) == layer.nbytes
        again = layer_from(*through_file(settings, arrays), scheme)
        assert_same_layer(again, layer)
        assert again.nbytes == layer.nbytes
        assert again.weight_bits == layer.weight_bits
        x = np.random.default_rng(1).normal(size=(5, layer.details["n_in"]))
        x = x.astype(dtype)
        assert_same_array(again(x), layer(x))
        assert_same_array(again.effective_weight(), layer.effective_weight())


def test_parts_that_the_schemes_promise_are_there():
    """The cases above would prove nothing if a scheme left its part out."""
    parts = {
        "w2 outliers": "positions",
        "low rank": "left",
        "codebook": "codebook",
        "power": "codebook",
        "w3g4 hadamard": "transform0.signs",
        "static": "activation.scale",
        "cross": "activation.column",
    }
    for kind, name in parts.items():
        scheme, layers = layers_of(SCHEMES[kind])
        assert name in stored_layer(layers[0], scheme)[1], kind
    assert "codebook" not in stored_layer(layers_of(SCHEMES["nf4"])[1][0])[1]


def test_a_layer_without_bias_or_base():
    _, layers = layers_of({"correction": ()})
    bare = replace(layers[0], bias=None)
    again = layer_from(*through_file(*stored_layer(bare)))
    assert_same_layer(again, bare)
    added = replace(layers[0], details=layers[0].details | {"has_bias": False})
    assert_same_layer(layer_from(*through_file(*stored_layer(added))), added)


def test_notes_that_are_no_numbers():
    scheme, layers = layers_of({})
    details = layers[0].details | {"loss": np.nan, "energy": None}
    settings, arrays = stored_layer(replace(layers[0], details=details), scheme)
    again = layer_from(*through_file(settings, arrays), scheme)
    assert again.details["loss"] is again.details["energy"] is None


@pytest.mark.parametrize("kind", list(SCHEMES))
def test_codebooks_of_formats(kind):
    scheme, layers = layers_of(SCHEMES[kind])
    levels = named_levels(scheme)
    if levels is None:
        assert not layers[0].details["named_codebook"]
    else:
        assert_same_array(levels, layers[0].grid.codebook)


def test_float_weights_have_no_codebook():
    assert named_levels(QuantizationScheme(weights=None)) is None


# ---------------------------------------------------------------------------
# Schemes.


@pytest.mark.parametrize("kind", list(SCHEMES))
def test_schemes_come_back(kind):
    scheme = QuantizationScheme(
        **SCHEMES[kind], skip=("a", "b"), layer_bits={"c": 1.58}
    )
    for base in (None, QuantizationScheme.parse("w2a4g7"), scheme):
        stored = json.loads(json.dumps(stored_scheme(scheme, base)))
        assert scheme_from(stored, base) == scheme
    assert stored_scheme(scheme, scheme) == {}


def test_only_what_differs_is_stored():
    assert stored_scheme(QuantizationScheme.parse("w3g8")) == {
        "weights": "int3",
        "granularity": "group",
        "group_size": 8,
    }
    for part in fields(QuantizationScheme):
        assert part.name not in stored_scheme(QuantizationScheme())


@pytest.mark.parametrize("wrong", [{"weights": "int9"}, {"rounding": "eval"}])
def test_schemes_that_do_not_exist(wrong):
    with pytest.raises(ValueError, match="must be"):
        scheme_from(wrong)


# ---------------------------------------------------------------------------
# Damage.


def _nan(array):
    return np.full_like(array, np.nan)


DAMAGE = {
    "codes cut": ("w4", "codes", lambda a: a[:, :-1]),
    "rows cut": ("w4", "codes", lambda a: a[:-1]),
    "codes of another type": ("w4", "codes", lambda a: a.astype(np.float32)),
    "codes above the grid": ("fp4", "codes", lambda a: np.full_like(a, 255)),
    "scale of NaN": ("w4", "scale", _nan),
    "scale of 0": ("w4", "scale", np.zeros_like),
    "scale negative": ("w4", "scale", np.negative),
    "scale in double": ("w4", "scale", lambda a: a.astype(np.float64)),
    "scale of integers": ("w4", "scale", lambda a: np.ones(a.shape, np.uint8)),
    "scales cut": ("w4", "scale", lambda a: a[:-1]),
    "scale is a row": ("w4", "scale", np.ravel),
    "groups cut": ("w3g4 hadamard", "scale", lambda a: a[:, :-1]),
    "zero points cut": ("w4", "zero_point", lambda a: a[:-1]),
    "zero point of NaN": ("w1", "zero_point", _nan),
    "zero point signed": ("w4", "zero_point", lambda a: a.astype(np.int8)),
    "bias cut": ("w4", "bias", lambda a: a[:-1]),
    "bias of NaN": ("w4", "bias", _nan),
    "bias in half": ("w4", "bias", lambda a: a.astype(np.float16)),
    "codebook falls": ("codebook", "codebook", lambda a: a[::-1].copy()),
    "codebook empty": ("codebook", "codebook", lambda a: a[:0]),
    "codebook in half": ("codebook", "codebook", lambda a: a.astype(np.float16)),
    "codebook long": ("codebook", "codebook", lambda a: np.arange(257, dtype="f4")),
    "outlier beyond": ("w2 outliers", "positions", lambda a: a + 1000),
    "outlier before": ("w2 outliers", "positions", lambda a: a - 1000),
    "outlier twice": ("w2 outliers", "positions", np.zeros_like),
    "outliers cut": ("w2 outliers", "positions", lambda a: a[:-1]),
    "outlier positions long": ("w2 outliers", "positions", lambda a: a.astype("i8")),
    "outliers of NaN": ("w2 outliers", "values", _nan),
    "left cut": ("low rank", "left", lambda a: a[:-1]),
    "rank differs": ("low rank", "left", lambda a: np.hstack([a, a])),
    "right cut": ("low rank", "right", lambda a: a[:, :-1]),
    "signs cut": ("w3g4 hadamard", "transform0.signs", lambda a: a[:-1]),
    "scales of inputs cut": ("w8a8", "transform0.scale", lambda a: a[:-1]),
    "static scale twice": ("static", "activation.scale", lambda a: np.tile(a, 2)),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damaged_arrays(kind):
    scheme_name, name, damage = DAMAGE[kind]
    scheme, layers = layers_of(SCHEMES[scheme_name])
    settings, arrays = stored_layer(layers[0], scheme)
    layer_from(settings, arrays, scheme)
    with pytest.raises(ValueError, match=r"\.$|broadcast"):
        layer_from(settings, {**arrays, name: damage(arrays[name])}, scheme)


@pytest.mark.parametrize("name", ["codes", "scale"])
def test_absent_arrays(name):
    scheme, layers = layers_of({})
    settings, arrays = stored_layer(layers[0], scheme)
    del arrays[name]
    with pytest.raises(ValueError, match=f"{name} is not there"):
        layer_from(settings, arrays, scheme)


def test_absent_codebook():
    scheme, layers = layers_of(SCHEMES["codebook"])
    settings, arrays = stored_layer(layers[0], scheme)
    del arrays["codebook"]
    with pytest.raises(ValueError, match="codebook of 'codebook3' is not there"):
        layer_from(settings, arrays, scheme)


@pytest.mark.parametrize(
    "change",
    [
        {"n_in": 11},
        {"n_in": -1},
        {"n_in": True},
        {"n_in": "10"},
        {"n_in": 2**40},
        {"group_size": 0},
        {"n_inputs": 9},
        {"n_inputs": 2**31},
        {"name": 3},
        {"notes": [1]},
        {"transforms": [["eval", {}]]},
        {"transforms": [["klt"]]},
        {"activation": ["static", {"bits": 8}]},
        {"activation": ["dynamic", {"bits": 9}]},
    ],
)
def test_damaged_settings(change):
    scheme, layers = layers_of({})
    settings, arrays = stored_layer(layers[0], scheme)
    with pytest.raises(ValueError, match=r"\.$|zip"):
        layer_from(settings | change, arrays, scheme)


# ---------------------------------------------------------------------------
# Rows of numbers.


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["f8", "f4", "f2", "u1", "i4", "?"]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    )
)
def test_arrays_side_by_side(kinds):
    rng = np.random.default_rng(0)
    arrays = {
        f"array_{k}.x": np.asarray(rng.random(shape) * 3).astype(kind)
        for k, (kind, shape) in enumerate(kinds)
    }
    writer = ArrayWriter()
    lines = [writer.put({name: array}) for name, array in arrays.items()]
    tensors = writer.tensors()
    assert all(tensor.ndim == 1 for tensor in tensors.values())
    reader = ArrayReader(tensors)
    for line, (name, array) in zip(lines, arrays.items(), strict=True):
        assert_same_array(reader.take(line)[name], array)
    reader.check_empty()


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (None, "no list"),
        (["a F32 2"], "no list"),
        ("a F32 4", "too few"),
        ("a F64 1", "too few"),
        ("a F32 99999999999x99999999999", "too few"),
        ("a F32 1, a F32 1", "no new array"),
        ("a F32 -1", "no new array"),
        ("a F32 1x", "no new array"),
        ("a  F32 1", "no new array"),
        ("a float 1", "no new array"),
        ("a F32 \u0661", "no new array"),
    ],
)
def test_lines_that_do_not_fit(line, match):
    reader = ArrayReader({"F32": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=match):
        reader.take(line)


def test_numbers_that_are_left_over():
    reader = ArrayReader({"F32": np.zeros(3, np.float32)})
    reader.take("a F32 2")
    with pytest.raises(ValueError, match="nothing uses"):
        reader.check_empty()


@pytest.mark.parametrize("tensor", [np.zeros(3), np.zeros((1, 3), np.float32)])
def test_tensors_of_another_kind(tensor):
    with pytest.raises(ValueError, match="no row of that type"):
        ArrayReader({"F32": tensor})


def test_names_that_no_line_can_hold():
    with pytest.raises(ValueError, match="no name and shape"):
        ArrayWriter().put({"a b": np.zeros(2)})
