"""Damaged and forged files: an error that says what is wrong, and nothing is run."""

import ast
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.quantized._saving import TREES, mlp, quantized, saved, y
from uqlib.quantized import _saved_models
from uqlib.quantized._models import QuantizedRegressor
from uqlib.quantized._safetensors import from_bytes, to_bytes
from uqlib.quantized._saved_files import read_file, write_file
from uqlib.quantized._saved_models import load_estimator
from uqlib.quantized._scheme import QuantizationScheme

# ---------------------------------------------------------------------------
# Damage. Every byte of a file is covered by its digest.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    model = quantized(mlp(sizes=(3,)), y, "w3")
    path = saved(model, folder)
    return model, path, path.read_bytes()


def test_every_truncation_is_refused(small, tmp_path):
    _, _, data = small
    path = tmp_path / "cut"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="no quantized model that can be read"):
            load_estimator(QuantizedRegressor, path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="no quantized model that can be read"):
        load_estimator(QuantizedRegressor, path)


def test_every_byte_counts(small, tmp_path):
    _, _, data = small
    path = tmp_path / "changed"
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="no quantized model that can be read"):
            load_estimator(QuantizedRegressor, path)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_change_is_refused(small, tmp_path, data):
    _, _, good = small
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 5))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path = tmp_path / "changed"
    path.write_bytes(changed)
    if bytes(changed) == good:
        load_estimator(QuantizedRegressor, path)
        return
    with pytest.raises(ValueError, match="no quantized model that can be read"):
        load_estimator(QuantizedRegressor, path)


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04.", b"PK\x03\x04", b"\xff" * 8 + b"{}"]
)
def test_other_files(data, tmp_path):
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="other' is no quantized model"):
        load_estimator(QuantizedRegressor, path)
    path.write_bytes(to_bytes({"a": np.zeros(3)}, {}))
    with pytest.raises(ValueError, match="holds something else"):
        load_estimator(QuantizedRegressor, path)


def test_a_pickle_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="no quantized model"):
        load_estimator(QuantizedRegressor, path)


def test_versions_of_the_format(small, tmp_path):
    _, path, data = small
    assert b'"format":"uqlib quantized model 1"' in data
    path = tmp_path / "later"
    path.write_bytes(data.replace(b"quantized model 1", b"quantized model 2"))
    with pytest.raises(ValueError, match=r"version '2' of the format.*reads version 1"):
        load_estimator(QuantizedRegressor, path)


def test_the_digest_is_what_it_says(small):
    _, _, data = small
    _, metadata = from_bytes(data)
    plain = data.replace(metadata["sha256"].encode(), b"0" * 64)
    assert hashlib.sha256(plain).hexdigest() == metadata["sha256"]
    assert json.loads(metadata["settings"])["task"] == "regression"


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_estimator(QuantizedRegressor, tmp_path / "absent")


# ---------------------------------------------------------------------------
# Settings that nobody has written, in files whose digest is right.


def forged(path, change, tensors=None):
    stored, arrays = read_file(path)
    forgery = path.with_name("forged")
    write_file(forgery, change(stored) or stored, tensors or arrays)
    return forgery


def _set(*keys, value):
    def change(stored):
        at = stored
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return change


MODEL = ("parts", 0, "model")
FORGED = {
    "class": (_set(*MODEL, "class", value="Popen"), "'Popen' is not made from a file"),
    "dotted class": (_set(*MODEL, "class", value="os.system"), "not made from a file"),
    "class is a list": (_set(*MODEL, "class", value=["Ridge"]), "not made from"),
    "other class": (_set(*MODEL, "class", value="Ridge"), "Ridge"),
    "parameter": (_set(*MODEL, "parameters", value={"x": 1}), "no parameters"),
    "parameter value": (
        _set(*MODEL, "parameters", value={"alpha": {"a": 1}}),
        "no parameter",
    ),
    "activation": (
        _set(*MODEL, "parameters", value={"activation": "eval"}),
        "no activation 'eval'",
    ),
    "output": (_set(*MODEL, "output", value="exec"), "no output 'exec'"),
    "dtype": (_set(*MODEL, "dtype", value="object"), "no type 'object'"),
    "task": (_set("task", value="other"), "no task"),
    "scheme": (_set("scheme", value={"weights": "int99"}), "weights='int99'"),
    "scheme key": (_set("scheme", value={"x": 1}), "unexpected keyword"),
    "kind": (_set("parts", 0, "kind", value="pickle"), "no part of the kind 'pickle'"),
    "no parts": (_set("parts", value=[]), "nothing uses"),
    "two parts": (lambda s: {**s, "parts": s["parts"] * 2}, "too few"),
    "layer twice": (
        lambda s: _set("parts", 0, "layers", 1, "name", value="layer_0")(s),
        "repeat",
    ),
    "estimator parameter": (_set("parameters", value={"backend": "x"}), "no parameter"),
    "parameter type": (_set("parameters", value={"strict": 1}), "no parameter"),
    "n_features": (_set("n_features", value=-1), "no count"),
    "floats": (_set("parts", 0, "floats", value=["a"]), "zip"),
    "left over": (_set("parts", 0, "layers", value=[]), "no layers|nothing uses"),
}


@pytest.mark.parametrize("kind", list(FORGED))
def test_forged_settings(kind, small):
    _, path, _ = small
    change, match = FORGED[kind]
    with pytest.raises(ValueError, match=match):
        load_estimator(QuantizedRegressor, forged(path, change))


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from _places(inner, (*path, key))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["float32", "int8", "hadamard", 2**70, [[]], {"a": {}}]),
    st.lists(st.integers(0, 3), max_size=2),
)


@pytest.mark.parametrize("kind", ["network", "trees"])
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_forgery_is_read_or_refused(kind, tmp_path_factory, data):
    """Whatever JSON says, reading it raises nothing but a ValueError."""
    path = _genuine(kind, tmp_path_factory)
    stored, _ = read_file(path)
    place = data.draw(st.sampled_from([p for p in _places(stored) if p]))
    try:
        load_estimator(
            QuantizedRegressor, forged(path, _set(*place, value=data.draw(JUNK)))
        )
    except ValueError:
        return


_GENUINE = {}


def _genuine(kind, factory):
    if kind not in _GENUINE:
        scheme = QuantizationScheme(
            weights="int3", activations="int8", transform=("hadamard", "smooth")
        )
        model = (
            quantized(mlp(sizes=(3,)), y, scheme)
            if kind == "network"
            else quantized(*TREES["hist"], "w8")
        )
        _GENUINE[kind] = saved(model, factory.mktemp(kind))
    return _GENUINE[kind]


# ---------------------------------------------------------------------------
# No code.


SOURCES = sorted(
    path
    for path in Path(_saved_models.__file__).parent.glob("*.py")
    if path.name.startswith(("_saved_", "_safetensors", "_torch_saved"))
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_that_runs_code_is_used(path):
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "importlib"}
    forbidden |= {"eval", "exec", "compile", "__import__", "marshal", "shelve"}
    for node in ast.walk(ast.parse(path.read_text())):
        found = set()
        if isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found = {(node.module or "").split(".")[0]}
        elif isinstance(node, ast.Name):
            found = {node.id}
        elif isinstance(node, ast.Attribute):
            found = {node.attr} - {"compile"}  # of regular expressions
            is_load = node.attr in ("load", "save")
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            assert not (is_load and owner in ("np", "torch")), path.name
        assert not found & forbidden, (path.name, found & forbidden)
    assert len(SOURCES) >= 9
