"""Arguments that the kernels around the products refuse."""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda import _emulated
from tests.kernels.cuda._device_rows import (
    weight_of,
)
from tests.kernels.cuda._emulated import (
    BFLOAT16,
    FLOAT,
    HALF,
    INT8,
    Columns,
    columns_of,
    guarded,
    guarded_empty,
    pointer,
)

INVALID = -1


@pytest.fixture(autouse=True)
def memory():
    yield
    _emulated.free_guarded()


@pytest.fixture(scope="module")
def rows_library():
    return _emulated.emulated("rows")


@pytest.fixture(scope="module")
def weight_library():
    return _emulated.emulated("dequantize")


def arguments_of(name):
    """Valid arguments of a launcher, by name, in their order."""
    packed = weight_of(4, 16, 64, 32, "halves")
    columns = columns_of(packed)
    x = guarded(np.ones((2, 64), dtype=np.float32))
    codes = guarded_empty((16, 64), np.int8)
    floats = guarded_empty((2, 3, 64), np.float32)
    floats[...] = 1
    integers = guarded_empty((2, 16), np.int32)
    product = _emulated.product(packed, x, None)
    arguments_of.kept = [product, columns]
    p, c = ctypes.pointer(product), ctypes.pointer(columns)
    x, codes, floats, integers = map(pointer, (x, codes, floats, integers))
    zero, center = ctypes.c_float(8.0), ctypes.c_float(8.0)
    return {
        "quantize_rows": {
            "x": x, "type": FLOAT, "codes": codes, "sums": integers, "scale": floats,
            "n_rows": 2, "columns": c, "bits": 4, "top": 127,
            "static_scale": ctypes.c_float(0),
        },
        "place_rows": {
            "x": x, "type": FLOAT, "out": floats, "to": BFLOAT16, "n_rows": 2,
            "columns": c,
        },
        "add_planes": {
            "parts": floats, "bias": None, "y": x, "out": FLOAT, "n_rows": 2,
            "n_out": 16,
        },
        "scale_sums": {
            "sums": integers, "row_sums": None, "row_scale": floats, "scale": floats,
            "zero": None, "uniform_zero": zero, "center": center, "bias": None, "y": x,
            "out": FLOAT, "n_rows": 2, "n_out": 16, "n_padded": 16,
        },
        "dequantize": {
            "p": p, "columns": c, "codebook": None, "bits": 4,
            "weight": matrix_address(), "out": FLOAT,
        },
        "expand_codes": {"p": p, "bits": 4, "codes": codes},
    }[name]  # fmt: skip


def matrix_address():
    return pointer(guarded_empty((16, 64), np.float32))


def call(library, name, arguments):
    return getattr(library, f"uqlib_{name}")(*arguments.values(), None)


def library_of(name):
    weights = name in ("dequantize", "expand_codes")
    return _emulated.emulated("dequantize" if weights else "rows")


WRONG = {
    "quantize_rows": {
        "x": [None], "type": [INT8, -1], "codes": [None, ctypes.c_void_p(8)],
        "scale": [None], "n_rows": [-1], "columns": [None], "bits": [3, 0],
        "top": [0, 128],
        "static_scale": [ctypes.c_float(v) for v in (-1.0, float("inf"), float("nan"))],
    },
    "place_rows": {
        "x": [None], "type": [HALF, INT8], "out": [None, ctypes.c_void_p(8)],
        "to": [HALF, FLOAT, INT8], "n_rows": [-1], "columns": [None],
    },
    "add_planes": {
        "parts": [None], "y": [None], "out": [INT8, 9], "n_rows": [-1], "n_out": [0],
    },
    "scale_sums": {
        "sums": [None], "row_scale": [None], "scale": [None], "y": [None],
        "zero": [ctypes.c_void_p(16)], "center": [ctypes.c_float(0.0)],
        "out": [INT8, -1], "n_rows": [-1], "n_out": [0, 17], "n_padded": [15],
    },
    "dequantize": {
        "p": [None], "columns": [None], "bits": [8, 3], "weight": [None],
        "out": [INT8, -1],
    },
    "expand_codes": {
        "p": [None], "bits": [8, 3], "codes": [None, ctypes.c_void_p(8)],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    library, valid = library_of(name), arguments_of(name)
    assert call(library, name, valid) == 0
    for argument, values in WRONG[name].items():
        for value in values:
            code = call(library, name, valid | {argument: value})
            assert code == INVALID, (argument, value)
    assert library.uqlib_error_string(INVALID) == b"an argument that no kernel takes"


@pytest.mark.parametrize(
    "name", ["quantize_rows", "place_rows", "add_planes", "scale_sums"]
)
def test_no_rows(name):
    valid = arguments_of(name)
    nothing = {
        key: None
        for key, value in valid.items()
        if isinstance(value, ctypes.c_void_p) and key != "columns"
    }
    assert call(library_of(name), name, valid | nothing | {"n_rows": 0}) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_in", 0),
        ("n_in", 65),
        ("whole", 0),
        ("inner", 0),
        ("inner", 33),
        ("parts", 0),
        ("group_columns", 0),
        ("group_columns", 48),
        ("n_groups", 3),
        ("n_columns", 32),
        ("n_columns", 96),
    ],
)
@pytest.mark.parametrize("name", ["quantize_rows", "place_rows", "dequantize"])
def test_columns_that_do_not_fit(name, field, value):
    valid = arguments_of(name)
    columns = Columns.from_buffer_copy(valid["columns"].contents)
    setattr(columns, field, value)
    code = call(library_of(name), name, valid | {"columns": ctypes.pointer(columns)})
    assert code == INVALID


def test_columns_beyond_shared_memory(rows_library):
    n = 2**20 + 64
    columns = Columns(n, n, n, 1, n, 1, n)
    valid = arguments_of("quantize_rows") | {"columns": ctypes.pointer(columns)}
    assert call(rows_library, "quantize_rows", valid) == INVALID


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", None),
        ("weight", 8),
        ("scale", None),
        ("n_out", 0),
        ("n_out", 17),
        ("n_true_out", 0),
        ("n_true_out", 17),
        ("n_columns", 128),
        ("n_groups", 1),
        ("group_columns", 64),
    ],
)
def test_weight_that_does_not_fit(weight_library, field, value):
    for name in ("dequantize", "expand_codes"):
        valid = arguments_of(name)
        setattr(valid["p"].contents, field, value)
        only_floats = ("scale", "n_columns", "n_groups", "group_columns")
        if name == "dequantize" or field not in only_floats:
            assert call(weight_library, name, valid) == INVALID


def test_codebook_of_other_bits(weight_library):
    packed = weight_of(2, 16, 128, 32, "uniform")
    product = _emulated.product(packed, np.empty((0, 1)), None)
    columns = columns_of(packed)
    book = guarded(np.arange(16, dtype=np.float32))
    code = weight_library.uqlib_dequantize(
        ctypes.byref(product),
        ctypes.byref(columns),
        pointer(book),
        2,
        matrix_address(),
        FLOAT,
        None,
    )
    assert code == INVALID
