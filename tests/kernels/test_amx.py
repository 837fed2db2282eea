"""Products on tiles: index maps by an emulation, instructions by their assembly."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._public import ROOT
from uqlib_kernels import _amx, _amx_gemm, _threads, registry
from uqlib_kernels._amx_gemm import amx_product, amx_works, takes
from uqlib_kernels._packing import packed_weight as pack
from uqlib_kernels.pack import (
    DEFAULT_ZERO,
    MAX_GROUP,
    aligned_empty,
    pack_codebook,
    pack_w4,
    pack_w8,
    unpack_codes,
)


def operands(packed, codes):
    """The arrays that `amx_product` takes, of codes (n_rows, n_in)."""
    n_rows = len(codes)
    padded = aligned_empty((n_rows, packed.n_padded), np.int8)
    padded[:] = 0
    padded[:, packed.columns] = codes
    groups = padded.reshape(n_rows, packed.n_groups, packed.padded_group)
    return padded, groups.sum(axis=2, dtype=np.int32)


def random_case(rng, bits, n_rows, n_out, n_in, group=None, scale=1.0, zero=None):
    """A packed weight, its codes and those of the activations."""
    q = rng.integers(0, 2**bits, size=(n_out, n_in))
    a = rng.integers(-127, 128, size=(n_rows, n_in)).astype(np.int8)
    return pack(q, bits, group, scale, zero), q, a


def integer_product(packed, a, **options):
    """The product where all scales are 1."""
    codes, sums = operands(packed, a)
    ones = np.ones(len(a), dtype=np.float32)
    options = {"emulated": True} | options
    return amx_product(codes, sums, ones, packed, None, **options)


def exact(q, a, zero):
    """The same in integers, rounded once to single precision."""
    doubled = a.astype(np.int64) @ (2 * q.astype(np.int64) - int(2 * zero)).T
    return (doubled / 2).astype(np.float32)


# ---------------------------------------------------------------------------
# Index maps, bit for bit.

SHAPES = [
    # n_rows, n_out, n_in, group
    (1, 1, 40, None),
    (4, 16, 64, None),
    (16, 32, 128, None),
    (17, 33, 130, None),
    (32, 48, 64, None),
    (33, 47, 300, 100),
    (48, 17, 256, 64),
    (65, 64, 500, 128),
    (100, 5, 64, 64),
]


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_codes_are_exact(bits, shape):
    rng = np.random.default_rng(sum(shape[:3]))
    packed, q, a = random_case(rng, bits, *shape)
    expected = exact(q, a, DEFAULT_ZERO[bits])
    np.testing.assert_array_equal(integer_product(packed, a), expected)


@given(
    st.sampled_from([8, 4, 2, 1]),
    st.integers(0, 70),
    st.integers(1, 70),
    st.integers(33, 200),
    st.integers(33, 200),
    st.integers(0, 2**32 - 1),
)
def test_products_of_codes_are_exact_for_any_shape(
    bits, n_rows, n_out, n_in, group, seed
):
    rng = np.random.default_rng(seed)
    packed, q, a = random_case(rng, bits, n_rows, n_out, n_in, group)
    if not takes(packed, 4):  # the last group alone decides nothing
        assert packed.padded_group == 32
        return
    expected = exact(q, a, DEFAULT_ZERO[bits])
    np.testing.assert_array_equal(integer_product(packed, a), expected)


@pytest.mark.parametrize("n_in", [MAX_GROUP, MAX_GROUP + 1000])
@pytest.mark.parametrize("zero", [0.0, 255.0])
def test_largest_sums_do_not_overflow(n_in, zero):
    q = np.full((16, n_in), 255 if zero == 0 else 0)
    a = np.tile(np.array([[127], [-127], [-128], [1]], dtype=np.int8), n_in)
    packed = pack(q, 8, None, 1.0, zero)
    assert packed.n_groups == -(-n_in // MAX_GROUP)
    expected = exact(q, a, zero)
    result = integer_product(packed, a)
    np.testing.assert_allclose(result, expected, rtol=1e-7)
    if packed.n_groups == 1:
        np.testing.assert_array_equal(result, expected)


def test_signs_of_bytes():
    # Activations are signed and codes are not, at both ends of both.
    a = np.array([[-128, -127, -1, 0, 1, 127] + [0] * 58], dtype=np.int8)
    q = np.array([[0, 1, 127, 128, 254, 255] + [0] * 58])
    expected = exact(q, a, 0.0)
    result = integer_product(pack(q, 8, None, 1.0, 0.0), a)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("n_rows", [40, 90])
def test_blocks_of_the_weight(bits, n_rows, monkeypatch):
    # Several blocks, the last one with an odd tile.
    monkeypatch.setattr(_amx_gemm, "_BLOCK_BYTES", 5 * 16 * 128)
    monkeypatch.setattr(_amx_gemm, "_SPREAD_BYTES", 5 * 16 * 128)
    packed, q, a = random_case(np.random.default_rng(3), bits, n_rows, 140, 128, 64)
    expected = exact(q, a, DEFAULT_ZERO[bits])
    np.testing.assert_array_equal(integer_product(packed, a), expected)
    assert _amx_gemm._tiles_of_block(_amx_gemm._plan_of(packed), n_rows) in (2, 4)


@pytest.mark.parametrize("shape", [(40, 140), (140, 40)])
def test_threads_share_rows_or_columns(shape, monkeypatch):
    starts = []
    real = _amx_gemm.fill_results
    monkeypatch.setattr(_threads, "n_threads", lambda work: 3)
    monkeypatch.setattr(
        _amx_gemm, "fill_results", lambda *job: starts.append(job[-4:]) or real(*job)
    )
    packed, q, a = random_case(np.random.default_rng(4), 4, *shape, 200, 64)
    expected = exact(q, a, 8.0)
    np.testing.assert_array_equal(integer_product(packed, a), expected)
    assert len(starts) == 3
    of_rows = {part[:2] for part in starts}
    assert len(of_rows) == (3 if shape[0] > shape[1] else 1)
    assert all(start % 32 == 0 for start, _ in of_rows)


def test_writes_nothing_but_the_result(monkeypatch):
    guarded = []

    def aligned(shape, dtype):
        size = int(np.prod(shape))
        whole = np.full(size + 2048, 7, dtype=dtype)
        guarded.append((whole, size))
        return whole[1024 : 1024 + size].reshape(shape)

    packed, q, a = random_case(np.random.default_rng(5), 4, 37, 43, 100, None)
    codes, sums = operands(packed, a)
    before = codes.copy(), sums.copy(), packed.codes.copy()
    monkeypatch.setattr(_amx_gemm, "aligned_empty", aligned)
    monkeypatch.setattr(_amx_gemm, "_scratch", SimpleNamespace())
    ones = np.ones(37, dtype=np.float32)
    result = amx_product(codes, sums, ones, packed, None, emulated=True)
    np.testing.assert_array_equal(result, exact(q, a, 8.0))
    assert len(guarded) == 3  # results, last rows, memory of the thread
    for whole, size in guarded:
        assert (whole[:1024] == 7).all()
        assert (whole[1024 + size :] == 7).all()
    after = codes, sums, packed.codes
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------
# Scales, zero points, bias.


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("zero", ["default", "odd", "many"])
@pytest.mark.parametrize("group", [None, 64])
def test_scaled_results(bits, zero, group):
    rng = np.random.default_rng(bits)
    n_rows, n_out, n_in = 37, 41, 200
    shape = (n_out, 1 if group is None else 4)
    zeros = {
        "default": np.full(shape, DEFAULT_ZERO[bits]),
        "odd": np.full(shape, -2.5),
        "many": rng.normal(size=shape).astype(np.float32),
    }[zero]
    scale = rng.normal(size=shape).astype(np.float32)
    packed, q, a = random_case(rng, bits, n_rows, n_out, n_in, group, scale, zeros)
    assert (packed.zero_point is not None) == (zero == "many")
    row_scale = rng.uniform(0.1, 2, n_rows).astype(np.float32)
    bias = rng.normal(size=n_out).astype(np.float32)
    where = np.arange(n_in) // (group or n_in)
    weight = (q - zeros.astype(float)[:, where]) * scale.astype(float)[:, where]
    expected = row_scale[:, None] * (a.astype(float) @ weight.T) + bias
    codes, sums = operands(packed, a)
    result = amx_product(codes, sums, row_scale, packed, bias, emulated=True)
    assert np.abs(result - expected).max() <= 1e-6 * np.abs(expected).max()
    # Rounded operation by operation: the same bits as from every other level.
    total = np.zeros((n_rows, n_out), dtype=np.float32)
    for g, start in enumerate(range(0, n_in, group or n_in)):
        part = slice(start, start + (group or n_in))
        products = a[:, part].astype(np.int64) @ q[:, part].T
        twice = 2 * zeros[:, g].astype(np.float32)
        whole = np.rint(twice)
        rest = twice - whole
        row_sums = a[:, part].sum(axis=1, dtype=np.int64)[:, None]
        value = (2 * products - whole.astype(np.int64) * row_sums).astype(np.float32)
        if zero == "many":
            value = value - rest * row_sums.astype(np.float32)
        total = total + value * scale[:, g]
    rounded = total * np.float32(0.5) * row_scale[:, None] + bias
    np.testing.assert_array_equal(result, rounded)
    if "vnni" in registry.available_isas():
        from uqlib_kernels._integer import integer_product as product

        others = product(codes, sums, row_scale, packed, bias, "vnni")
        np.testing.assert_array_equal(result, others)


def test_a_row_that_is_no_number_stays_alone():
    packed, q, a = random_case(np.random.default_rng(6), 4, 18, 20, 64)
    codes, sums = operands(packed, a)
    row_scale = np.ones(18, dtype=np.float32)
    row_scale[[3, 17]] = np.nan
    row_scale[5] = 0.0
    bias = np.arange(20, dtype=np.float32)
    result = amx_product(codes, sums, row_scale, packed, bias, emulated=True)
    expected = exact(q, a, 8.0) + bias
    expected[[3, 17]] = np.nan
    expected[5] = bias
    np.testing.assert_array_equal(result, expected)


def test_tiny_scales():
    # Denormal scales keep their bits: what they multiply is an integer.
    tiny = np.float32(3e-45)
    packed, q, a = random_case(np.random.default_rng(7), 4, 4, 16, 64, None, tiny)
    result = integer_product(packed, a)
    np.testing.assert_array_equal(result, exact(q, a, 8.0) * tiny)


# ---------------------------------------------------------------------------
# What it takes.


def test_takes_what_whole_tiles_cover():
    ones = np.ones((20, 200))
    assert takes(pack_w8(ones), 4)
    assert takes(pack_w4(ones, 100), 64)
    assert not takes(pack_w4(ones), 3)
    assert not takes(pack_w4(ones, 32), 64)
    assert not takes(pack_codebook(ones, [-1.0, 0.0, 1.0]), 64)


def test_unpacked_codes_are_those_of_the_tiles():
    packed, q, _ = random_case(np.random.default_rng(8), 8, 1, 20, 70)
    tile = packed.codes[1, 0, 16:32].reshape(16, 16, 4)  # columns 64 to 127
    expected = np.zeros((16, 64), dtype=np.uint8)
    expected[:4, :6] = q[16:, 64:]
    # tile[k // 4, n, k % 4]
    np.testing.assert_array_equal(tile.transpose(1, 0, 2).reshape(16, 64), expected)
    np.testing.assert_array_equal(unpack_codes(packed), q)


# ---------------------------------------------------------------------------
# The instructions.


def test_configuration_of_the_tiles():
    block = np.array(_amx._CONFIG, dtype=np.uint8)
    assert block.size == 64
    assert block[0] == 1
    np.testing.assert_array_equal(block[16:32].view("<u2"), 64)
    np.testing.assert_array_equal(block[48:56], 16)
    assert not block[1:16].any()
    assert not block[32:48].any()
    assert not block[56:].any()


COMPILE_ONLY = """
import numba
import numpy as np
from llvmlite import binding
from uqlib_kernels import _amx_gemm
from uqlib_kernels.pack import pack_w4

kernel = _amx_gemm.fill_results
_amx_gemm.fill_results = lambda *job: kernel.compile(tuple(map(numba.typeof, job)))
_amx_gemm.amx_product(
    np.ones((32, 64), np.int8), np.ones((32, 1), np.int32),
    np.ones(32, np.float32), pack_w4(np.ones((32, 64))), None,
)
(code,) = kernel.inspect_llvm().values()
target = binding.Target.from_triple(binding.get_process_triple())
machine = target.create_target_machine(cpu="sapphirerapids", opt=3)
print(machine.emit_assembly(binding.parse_assembly(code)))
"""


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="tiles are a part of x86-64",
)
def test_assembly_has_the_instructions(tmp_path):
    environment = os.environ | {
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "+amx-tile,+amx-int8",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT / "kernels"),
    }
    command = [sys.executable, "-c", COMPILE_ONLY]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    names = [line[0] for line in lines if line]
    for name in ("ldtilecfg", "tilezero", "tileloadd", "tilestored", "tilerelease"):
        assert name in names
    # Assembly of this syntax names the second factor, the unsigned one, first.
    products = {" ".join(line[1:]) for line in lines if line[:1] == ["tdpbsud"]}
    assert products == {
        f"%tmm{6 + j}, %tmm{4 + i}, %tmm{2 * i + j}" for i in (0, 1) for j in (0, 1)
    }


def test_the_check_at_first_use(monkeypatch):
    found = []

    def emulated(*operands):
        found.append(amx_product(*operands, emulated=True))
        return found[-1] + offset

    monkeypatch.setattr(_amx_gemm, "amx_product", emulated)
    offset = np.float32(0)
    assert amx_works.__wrapped__() is True
    assert len(found) == 2
    offset = np.float32(1)
    assert amx_works.__wrapped__() is False


@pytest.mark.skipif(
    "amx" not in registry.available_isas(), reason="this machine has no tiles"
)
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_instructions_do_what_the_emulation_does(bits):
    for shape in SHAPES:
        packed, _, a = random_case(np.random.default_rng(bits), bits, *shape)
        result = integer_product(packed, a, emulated=False)
        np.testing.assert_array_equal(result, integer_product(packed, a))
