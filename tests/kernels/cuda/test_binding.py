"""The binding to torch, on top of the emulated kernels, with tensors on the CPU.

The library is the one that a GPU gets, compiled for the host: what checks tensors,
chooses kernels, makes workspaces and calls the library of torch is all there.
"""

import subprocess

import numpy as np
import pytest

from tests.kernels.cuda import _emulated
from uqlib_kernels import pack

torch = pytest.importorskip("torch")

from tests.kernels.cuda._on_gpu_emulated import operations  # noqa: E402 - needs torch

DTYPES = {
    torch.float32: 2e-6,
    torch.float64: 2e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1.5e-2,
}


def packed_of(bits, n_out, n_in, group, kind, rng):
    """A packed weight of some kind, with zero points as the kind says."""
    if kind == "codebook":
        book = np.sort(rng.normal(size=16)).astype(np.float32)
        return pack.pack_codebook(rng.normal(size=(n_out, n_in)), book, group)
    if kind == "codebook with zeros":
        book = np.sort(rng.normal(size=16)).astype(np.float32)
        codes = rng.integers(0, 16, (n_out, n_in))
        zero = rng.normal(size=(n_out, -(-n_in // group)))
        return pack.pack_codebook(codes, book, group, scale=0.5, zero_point=zero)
    packer = {8: pack.pack_w8, 4: pack.pack_w4, 2: pack.pack_w2, 1: pack.pack_w1}[bits]
    if kind == "plain":
        return packer(rng.normal(size=(n_out, n_in)), group)
    n_groups = -(-n_in // (group or n_in))
    codes = rng.integers(0, 2**bits, (n_out, n_in)).astype(np.uint8)
    scale = rng.uniform(0.5, 1.5, (n_out, n_groups))
    zero = rng.uniform(0, 2**bits - 1, (n_out, n_groups))
    if kind == "whole zeros":
        zero = np.rint(zero)
    return packer(codes, group, scale=scale, zero_point=zero)


def close(found, expected, tolerance):
    expected = expected.to(torch.float64)
    error = (found.to(torch.float64) - expected).abs().max()
    return error <= tolerance * expected.abs().max()


def arranged(packed):
    from uqlib_kernels._torch_ops import arranged_tensors

    return arranged_tensors(packed)


CASES = [
    # bits, n_out, n_in, group, kind
    (8, 20, 70, None, "plain"),
    (8, 33, 128, 64, "zeros"),
    (4, 16, 128, 32, "plain"),
    (4, 16, 20, None, "zeros"),
    (4, 50, 100, 100, "whole zeros"),
    (4, 24, 70, 24, "codebook"),
    (4, 24, 70, 24, "codebook with zeros"),
    (2, 20, 130, None, "plain"),
    (1, 40, 64, 32, "zeros"),
]
ROWS = (1, 5, 17, 90, 300)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_weight_only_products_equal_those_of_floats(case, dtype):
    bits, n_out, n_in, group, kind = case
    rng = np.random.default_rng(0)
    packed = packed_of(bits, n_out, n_in, group, kind, rng)
    tolerance = DTYPES[dtype]
    if "codebook" in kind and dtype in (torch.float32, torch.float64):
        tolerance = 2e-5  # its values have 16 bits
    matrix = torch.tensor(packed.dequantized, dtype=torch.float64)
    bias = torch.tensor(rng.normal(size=n_out))
    name = "linear_w4a32" if bits == 4 else "linear_dequantized"
    for n_rows in ROWS:
        x = torch.tensor(rng.normal(size=(n_rows, n_in))).to(dtype)
        y = getattr(operations(), name)(x, *arranged(packed), bias)
        assert y.shape == (n_rows, n_out)
        assert y.dtype == dtype
        expected = x.double() @ matrix.T + bias.float().double()
        assert close(y, expected, tolerance), n_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [c for c in CASES if "codebook" not in c[4]], ids=str)
def test_integer_products_equal_those_of_the_cpu(case, dtype):
    bits, n_out, n_in, group, kind = case
    from uqlib_kernels import torch_ops

    torch_ops.register()
    rng = np.random.default_rng(1)
    packed = packed_of(bits, n_out, n_in, group, kind, rng)
    bias = torch.tensor(rng.normal(size=n_out), dtype=torch.float32)
    name = {8: "linear_w8a8", 4: "linear_w4a8", 2: "linear_w2a8", 1: "linear_w1"}[bits]
    weight = torch_ops.packed_tensors(packed)
    for n_rows in ROWS:
        x = torch.tensor(rng.normal(size=(n_rows, n_in))).to(dtype)
        y = getattr(operations(), name)(x, *arranged(packed), bias)
        expected = getattr(torch.ops.uqlib_kernels, name)(x.float(), *weight, bias)
        assert y.dtype == dtype
        assert close(y, expected, 2e-6 if dtype == torch.float32 else 4e-3), n_rows


@pytest.mark.parametrize("case", [c for c in CASES if "codebook" not in c[4]], ids=str)
@pytest.mark.parametrize(("top", "static_scale"), [(7, None), (127, 0.02), (31, 1.0)])
def test_any_rounding_of_rows_equals_that_of_the_cpu(case, top, static_scale):
    bits, n_out, n_in, group, kind = case
    from uqlib_kernels import torch_ops

    torch_ops.register()
    rng = np.random.default_rng(6)
    packed = packed_of(bits, n_out, n_in, group, kind, rng)
    weight = torch_ops.packed_tensors(packed)
    for n_rows in (3, 20, 90):
        x = torch.tensor(rng.normal(size=(n_rows, n_in)), dtype=torch.float32)
        x[0] *= 1e30
        x[1, 5] = torch.inf
        y = operations().linear_integer(x, *arranged(packed), None, top, static_scale)
        expected = torch.ops.uqlib_kernels.linear_integer(
            x, *weight, None, top, static_scale
        )
        assert torch.equal(y.isnan(), expected.isnan())
        assert y[1].isnan().all()
        assert close(y[:1], expected[:1], 2e-6)
        assert close(y[2:], expected[2:], 2e-6)
    with pytest.raises(RuntimeError, match="top=0"):
        operations().linear_integer(x, *arranged(packed), None, 0, static_scale)
    with pytest.raises(RuntimeError, match="static_scale must be positive"):
        operations().linear_integer(x, *arranged(packed), None, top, -1.0)


def test_rows_of_any_shape_strides_and_address():
    rng = np.random.default_rng(2)
    packed = packed_of(4, 20, 64, 32, "plain", rng)
    linear = operations().linear_w4a32
    weight = arranged(packed)
    x = torch.tensor(rng.normal(size=(2, 3, 64)), dtype=torch.float16)
    expected = linear(x.reshape(6, 64), *weight)
    assert torch.equal(linear(x, *weight), expected.reshape(2, 3, 20))
    assert torch.equal(linear(x[0, 0], *weight), expected[0])
    turned = x.transpose(0, 1)
    assert torch.equal(
        linear(turned, *weight), expected.reshape(2, 3, 20).mT.mT.transpose(0, 1)
    )
    shifted = torch.empty(1 + 6 * 64, dtype=torch.float16)[1:].reshape(6, 64)
    shifted.copy_(x.reshape(6, 64))
    assert shifted.data_ptr() % 16 != 0
    assert torch.equal(linear(shifted, *weight), expected)
    assert linear(x[:0], *weight).shape == (0, 3, 20)


@pytest.mark.parametrize("name", ["linear_w8a8", "linear_w4a8", "linear_w2a8"])
def test_rows_that_are_not_finite_and_rows_of_zeros(name):
    bits = int(name[8])
    packed = packed_of(bits, 20, 64, 32, "plain", np.random.default_rng(3))
    bias = torch.arange(20, dtype=torch.float32)
    for n_rows in (4, 20, 100):
        x = torch.ones(n_rows, 64)
        x[1, 3], x[2, 5], x[3] = torch.nan, torch.inf, 0.0
        y = getattr(operations(), name)(x, *arranged(packed), bias)
        assert y[1:3].isnan().all()
        assert torch.equal(y[3], bias)
        assert y[0].isfinite().all()


def test_wrong_arguments_are_refused():
    from uqlib_kernels import torch_ops

    rng = np.random.default_rng(4)
    packed = packed_of(4, 20, 64, 32, "plain", rng)
    weight = arranged(packed)
    x = torch.ones(2, 64)
    ops = operations()
    cpu_order = torch_ops.packed_tensors(packed)
    with pytest.raises(RuntimeError, match=r"codes must be contiguous.*packed_tensors"):
        ops.linear_w4a32(x, *cpu_order)
    with pytest.raises(RuntimeError, match=r"x must have shape \(..., 64\)"):
        ops.linear_w4a32(x[:, 1:], *weight)
    with pytest.raises(RuntimeError, match="floating type"):
        ops.linear_w4a32(x.int(), *weight)
    with pytest.raises(RuntimeError, match="use the operation of that name"):
        ops.linear_w8a8(x, *weight)
    with pytest.raises(RuntimeError, match="use linear_dequantized"):
        ops.linear_w4a32(x, *weight._replace(bits=2))
    with pytest.raises(RuntimeError, match="bits=3"):
        ops.linear_dequantized(x, *weight._replace(bits=3))
    with pytest.raises(RuntimeError, match="group_size=0"):
        ops.linear_w4a32(x, *weight._replace(group_size=0))
    with pytest.raises(RuntimeError, match="scale must be"):
        ops.linear_w4a32(x, *weight._replace(scale=weight.scale.double()))
    with pytest.raises(RuntimeError, match="bias must be"):
        ops.linear_w4a32(x, *weight, torch.ones(3))
    book = arranged(packed_of(4, 20, 64, 32, "codebook", rng))
    with pytest.raises(RuntimeError, match="use linear_w4a32"):
        ops.linear_w4a8(x, *book)


def test_row_operations_equal_those_of_the_cpu():
    from uqlib_kernels import rows, sets

    ops = operations()
    rng = np.random.default_rng(5)
    q = rng.normal(size=(40, 19)).cumsum(axis=1) + rng.normal(size=(40, 19))
    weight = rng.uniform(0.5, 2.0, 19)
    proba = rng.dirichlet(np.ones(30), size=40)
    threshold, u = rng.uniform(0.2, 1.0, 40), rng.uniform(size=40)
    for dtype in (np.float32, np.float64):
        given = torch.tensor(q.astype(dtype))
        cases = [
            (ops.sort_rows(given), rows.sort_rows(given.numpy())),
            (ops.isotonic_rows(given), rows.isotonic_rows(given.numpy())),
            (
                ops.isotonic_rows(given, torch.tensor(weight)),
                rows.isotonic_rows(given.numpy(), weight),
            ),
            (
                ops.mass_sets(
                    torch.tensor(proba.astype(dtype)),
                    torch.tensor(threshold),
                    torch.tensor(u),
                    2,
                    0.01,
                ),
                sets.mass_sets(proba.astype(dtype), threshold, u, 2, 0.01),
            ),
        ]
        for found, expected in cases:
            np.testing.assert_array_equal(found.numpy(), expected)
    assert torch.equal(ops.sort_rows(given.T).T, ops.sort_rows(given.T.contiguous()).T)
    for width in (1, 19, 50):
        wide = torch.tensor(rng.normal(size=(9, width)))
        wide[4, width // 2] = torch.nan
        found = ops.sort_rows(wide)
        assert found[4].isnan().all()
        others = torch.arange(9) != 4
        assert torch.equal(found[others], wide[others].sort(dim=1).values)
    half = given.half()
    assert torch.equal(ops.sort_rows(half), half.sort(dim=1).values)
    assert ops.sort_rows(given[:0]).shape == (0, 19)
    with pytest.raises(RuntimeError, match="two dimensions"):
        ops.sort_rows(given[0])
    with pytest.raises(RuntimeError, match="4097 levels"):
        ops.isotonic_rows(torch.ones(1, 4097))
    with pytest.raises(RuntimeError, match="level_weight must be"):
        ops.isotonic_rows(given, torch.ones(3))
    with pytest.raises(RuntimeError, match="penalty"):
        ops.mass_sets(given, torch.ones(40), torch.ones(40), 0, -1.0)


def test_weights_that_begin_anywhere_are_refused():
    packed = packed_of(4, 20, 64, 32, "plain", np.random.default_rng(4))
    weight = arranged(packed)
    room = torch.empty(weight.codes.numel() + 4, dtype=torch.uint8)
    moved = room[4:].reshape(weight.codes.shape).copy_(weight.codes)
    with pytest.raises(RuntimeError, match="codes must begin at a multiple of 16"):
        operations().linear_w4a32(torch.ones(2, 64), *weight._replace(codes=moved))


def test_the_library_needs_no_cuda_to_be_loaded():
    """Nothing but stable functions of torch is missing from the library."""
    path = _emulated.emulated_binding(torch)
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True
    )
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    of_torch = [name for name in names if "torch" in name or "c10" in name]
    assert of_torch
    assert all(name.startswith(("aoti_torch_", "torch_")) for name in of_torch)
