"""Kernels of the twins compile for GPUs, to the instructions that are meant."""

import pytest

from tests.kernels.triton._worker import call, compiled, worker

FLOATS, DOUBLES, BYTES, WORDS = "*fp32", "*fp64", "*i8", "*i32"
PRODUCTS = "uqlib_kernels.triton_twins._torch_products"
ROWS = "uqlib_kernels.triton_twins._torch_rows"
H100, A100 = 90, 80
MMA = "mma.sync.aligned"


@pytest.fixture(scope="module")
def ptx_of(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("triton"))
    with worker({"TRITON_CACHE_DIR": cache}) as pool:
        yield lambda *arguments: call(pool, compiled, *arguments)


def codes_of(bits):
    return BYTES if bits == 8 else WORDS


@pytest.mark.parametrize(
    ("x", "bits", "capability"),
    [
        ("*fp16", 8, H100),
        ("*fp16", 4, H100),
        ("*fp16", 2, A100),
        ("*bf16", 4, H100),
        ("*bf16", 1, A100),
        ("*fp32", 4, H100),
    ],
)
def test_linear(ptx_of, x, bits, capability):
    types = {"x": x, "weight": codes_of(bits), "y": x, "uniform_zero": "fp32"}
    types |= {"scale": FLOATS, "zero": FLOATS, "bias": FLOATS}
    constants = {"codebook": None, "BITS": bits, "IS_WIDE": False}
    ptx = ptx_of(PRODUCTS, "linear_kernel", types, constants, capability)
    if x == FLOATS:  # which tensor cores would round
        assert MMA not in ptx
    else:
        kind = {"*fp16": "f16", "*bf16": "bf16"}[x]
        assert f"{MMA}.m16n8k16.row.col.f32.{kind}.{kind}.f32" in ptx


def test_linear_with_a_codebook(ptx_of):
    # Numbers that are 1 become constants when a kernel is launched, and so here.
    types = {"x": "*fp16", "weight": WORDS, "y": "*fp16", "uniform_zero": "fp32"}
    types |= {"scale": FLOATS, "codebook": FLOATS}
    constants = {"zero": None, "bias": None, "n_rows": 1, "parts": 1, "n_groups": 1}
    constants |= {"BITS": 4, "IS_WIDE": False}
    ptx = ptx_of(PRODUCTS, "linear_kernel", types, constants, H100)
    assert f"{MMA}.m16n8k16" in ptx


@pytest.mark.parametrize(
    ("bits", "capability"), [(8, H100), (4, H100), (2, A100), (1, H100)]
)
def test_integer_linear(ptx_of, bits, capability):
    types = {"x": BYTES, "weight": codes_of(bits), "group_sums": WORDS, "y": "*bf16"}
    types |= dict.fromkeys(("scale", "zero", "bias", "row_scale"), FLOATS)
    constants = {"uniform_zero": 1.0, "BITS": bits}
    ptx = ptx_of(PRODUCTS, "integer_kernel", types, constants, capability)
    assert f"{MMA}.m16n8k32.row.col.satfinite.s32.s8.s8.s32" in ptx
    assert "fma" not in ptx


@pytest.mark.parametrize(
    ("bits", "capability"), [(8, A100), (4, H100), (2, A100), (1, H100)]
)
def test_quantize_rows(ptx_of, bits, capability):
    types = {"x": "*bf16", "codes": BYTES, "sums": WORDS, "row_scale": FLOATS}
    constants = {"parts": 1, "BITS": bits, "TOP": 127}
    ptx = ptx_of(PRODUCTS, "quantize_kernel", types, constants, capability)
    assert "div.rn.f32" in ptx
    assert "div.full" not in ptx


@pytest.mark.parametrize(("q", "capability"), [(FLOATS, A100), (DOUBLES, H100)])
def test_rows(ptx_of, q, capability):
    sort = {"q": q, "out": q, "found_nan": WORDS}
    assert ptx_of(ROWS, "sort_kernel", sort, {"BLOCK": 32}, capability)
    isotonic = {"q": q, "weight": DOUBLES, "out": q}
    ptx = ptx_of(ROWS, "isotonic_kernel", isotonic, {"BLOCK": 32}, capability)
    assert "div.rn.f64" in ptx
    sets = {"proba": q, "sets": BYTES}
    sets |= dict.fromkeys(("threshold", "u", "penalty"), DOUBLES)
    ptx = ptx_of(ROWS, "mass_kernel", sets, {"BLOCK": 64}, capability)
    assert "fma" not in ptx  # every operation is rounded once
