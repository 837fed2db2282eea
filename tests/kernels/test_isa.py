"""All kernels at every level of instructions, each level in a process of its own.

The level is chosen once a process, and a wrong choice ends the process: it is looked at
from outside. Run as a script, this file is what runs inside: it checks all operations,
trees and a network, and prints what it used.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]

# n_rows, n_out, n_in, group: one and more tiles of all kinds, ragged, no rows.
SHAPES = [
    (1, 40, 192, 64),
    (6, 16, 64, None),
    (9, 33, 200, 100),
    (37, 50, 70, None),
    (2, 1, 1, None),
    (0, 20, 40, None),
]
INTEGERS = {"linear_w8a8": (8, 127), "linear_w4a8": (4, 127), "linear_w2a8": (2, 127)}
INTEGERS["linear_w1"] = (1, 31)
FLOATS = ("linear_w4a32", "linear_dequantized")


# ---------------------------------------------------------------------------
# Inside.


def main(names):
    """Check operations, or everything; print the level and the modules it needed."""
    from uqlib_kernels import ops, registry

    assert set(ops.__all__) == {*INTEGERS, *FLOATS}
    for name in names or ops.__all__:
        for case, shape in enumerate(SHAPES):
            if name in FLOATS:
                check_floats(getattr(ops, name), shape, case)
                continue
            check_exact(getattr(ops, name), *INTEGERS[name], shape, case)
            check_rounded(getattr(ops, name), *INTEGERS[name], shape, case)
    for n_rows in () if names else (0, 3, 150):
        check_trees(n_rows)
        check_network(n_rows)
    loaded = sorted(name for name in sys.modules if name.startswith("uqlib_kernels"))
    print(json.dumps({"isa": registry.isa(), "modules": loaded}))


def check_exact(operation, bits, top, shape, seed):
    """Integers in, integers out: every bit is right."""
    n_rows, n_out, n_in, group = shape
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 2**bits, size=(n_out, n_in))
    x = rng.integers(-top, top + 1, size=(n_rows, n_in))
    x[:, 0] = top  # the scale of each row is 1
    zero = 2 ** (bits - 1)
    bias = rng.integers(-9, 9, size=n_out)
    packed = packer(bits)(q, group, scale=1.0, zero_point=zero)
    expected = x @ (q - zero).T + bias
    np.testing.assert_array_equal(operation(x, packed, bias), expected)


def check_rounded(operation, bits, top, shape, seed):
    """Floats in: as float64 has it from the same codes and scales."""
    n_rows, n_out, n_in, group = shape
    rng = np.random.default_rng(seed)
    packed = packer(bits)(rng.normal(size=(n_out, n_in)), group)
    x = rng.normal(size=(n_rows, n_in)).astype(np.float32)
    x[n_rows // 2 :] *= 100
    bias = rng.normal(size=n_out).astype(np.float32)
    expected = rounded_product(x, packed, bias, top)
    assert_near(operation(x, packed, bias), expected, 1e-6)


def rounded_product(x, packed, bias, top=127):
    t = np.abs(x).max(axis=1, initial=0, keepdims=True) / np.float32(top)
    codes = np.rint(x / t).astype(float)
    return t.astype(float) * (codes @ packed.dequantized.T.astype(float)) + bias


def check_floats(operation, shape, seed):
    from uqlib_kernels import pack

    n_rows, n_out, n_in, group = shape
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_out, n_in))
    x = rng.normal(size=(n_rows, n_in)).astype(np.float32)
    bias = rng.normal(size=n_out).astype(np.float32)
    book = np.sort(rng.normal(size=16))
    for packed in (
        pack.pack_w4(weight, group),
        pack.pack_codebook(weight, book, group),
    ):
        expected = x.astype(float) @ packed.dequantized.T.astype(float) + bias
        assert_near(operation(x, packed, bias), expected, 2e-6)
        np.testing.assert_allclose(
            operation(x, packed), operation(x, packed, 0 * bias), rtol=0, atol=0
        )


def check_trees(n_rows):
    """Trees of one node: the sum, in order, of one of two values each."""
    from uqlib_kernels.trees import BinArrays, CompiledTrees, TreeArrays

    rng = np.random.default_rng(n_rows)
    n_trees, n_columns, n_thresholds = 40, 5, 9
    thresholds = np.sort(rng.normal(size=(n_columns, n_thresholds)))
    column = rng.integers(0, n_columns, n_trees)
    cut = rng.integers(0, n_thresholds, n_trees)
    value = rng.normal(size=(n_trees, 2))
    nothing = np.zeros(n_columns + 1, dtype=np.int32)
    columns = BinArrays(
        *(np.arange(n_columns, dtype=np.int32), np.zeros(n_columns, dtype=np.uint8)),
        *(np.arange(n_columns + 1, dtype=np.int32) * n_thresholds, thresholds.ravel()),
        *(nothing, np.empty(0, dtype=np.uint8)),
    )
    index = np.arange(n_trees + 1, dtype=np.int32)
    left, right = np.full((2, n_trees), [[-1], [-2]], dtype=np.int32)
    trees = TreeArrays(
        *(index, 2 * index, column.astype(np.int32), cut.astype(np.uint8)),
        *(left, right, value.reshape(-1, 1), np.zeros(n_trees, dtype=np.int32)),
        *(np.array([0.5]), 1),
    )
    x = rng.normal(size=(n_rows, n_columns))
    x[::7, 2] = thresholds[2, 4]  # exactly on a threshold: left
    expected = np.full(n_rows, 0.5)
    for t in range(n_trees):
        goes_left = x[:, column[t]] <= thresholds[column[t], cut[t]]
        expected += np.where(goes_left, *value[t])
    result = CompiledTrees(trees, columns).raw(x)
    np.testing.assert_array_equal(result[:, 0], expected)


def check_network(n_rows):
    """Two layers with the positive part between them."""
    from uqlib_kernels.mlp import FusedMLP, MLPLayer

    rng = np.random.default_rng(n_rows)
    sizes = (30, 50, 3)
    packed = [
        packer(bits)(rng.normal(size=(n_out, n_in)))
        for bits, n_in, n_out in zip((8, 4), sizes, sizes[1:], strict=False)
    ]
    bias = [rng.normal(size=size).astype(np.float32) for size in sizes[1:]]
    layers = [MLPLayer(*layer) for layer in zip(packed, bias, strict=True)]
    x = rng.normal(size=(n_rows, 30)).astype(np.float32)
    hidden = np.maximum(rounded_product(x, packed[0], bias[0]), 0).astype(np.float32)
    expected = rounded_product(hidden, packed[1], bias[1])
    result = FusedMLP(layers, "relu")(x)
    # Where two sums round differently, a code between the layers differs by one.
    step = np.abs(hidden).max(initial=0) / 127 * np.abs(packed[1].dequantized).max()
    assert result.shape == expected.shape
    assert (np.abs(result - expected) <= step + 1e-5).all()
    assert np.median(np.abs(result - expected)) <= 1e-5 if n_rows else True


def packer(bits):
    from uqlib_kernels import pack

    return getattr(pack, f"pack_w{bits}")


def assert_near(result, expected, tolerance):
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    if expected.size:
        error = np.abs(result - expected).max()
        assert error <= tolerance * np.abs(expected).max(), error


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.exit()


# ---------------------------------------------------------------------------
# Outside.

import pytest  # noqa: E402

from uqlib_kernels import registry  # noqa: E402


def run_inside(*names, **variables):
    """Run this file in a process with such variables; return what it printed."""
    told = ("UQLIB_ISA", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX")
    environment = {k: value for k, value in os.environ.items() if k not in told}
    environment |= {"PYTHONPATH": str(ROOT / "kernels")} | variables
    done = subprocess.run(
        [sys.executable, __file__, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("level", ["portable", "vnni", "amx"])
def test_a_forced_level(level):
    if level not in registry.available_isas():
        pytest.skip(f"this machine, or Numba's target, has no level {level!r}")
    found = run_inside(UQLIB_ISA=level)
    assert found["isa"] == level
    if level == "portable":
        assert_no_instructions(found)


def test_a_generic_target():
    found = run_inside(NUMBA_CPU_NAME="generic")
    assert found["isa"] == "portable"
    assert_no_instructions(found)


def test_a_target_without_avx():
    found = run_inside("linear_w4a8", NUMBA_ENABLE_AVX="0")
    assert found["isa"] == "portable"
    assert_no_instructions(found)


def assert_no_instructions(found):
    # Code that names instructions was not even imported.
    assert "uqlib_kernels._ir" not in found["modules"]
    assert "uqlib_kernels._amx" not in found["modules"]


@pytest.mark.skipif(
    "vnni" in registry.available_isas()
    or platform.machine().lower() not in ("x86_64", "amd64"),
    reason="this machine has the vectors, or is none that could have them",
)
def test_a_level_that_is_not_there_is_an_error():
    environment = os.environ | {"UQLIB_ISA": "vnni"}
    environment["PYTHONPATH"] = str(ROOT / "kernels")
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"asks for instructions" in done.stderr
