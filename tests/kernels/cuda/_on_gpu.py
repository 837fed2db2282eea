"""What tests of the operations on a GPU share: problems, answers, how near they are.

With UQLIB_TEST_DEVICE=cpu what does not need a GPU runs on the CPU's operations, which
shows that the tests themselves are right; with UQLIB_TEST_DEVICE=emulated on those of
the GPU, on an emulation of it, which shows that they ask of it what it does. Nothing
here needs more than torch, NumPy and pytest (and g++ for the emulation), so that the
tests run where little else is installed.
"""

import functools
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uqlib_kernels import pack, torch_ops

PLACE = os.environ.get("UQLIB_TEST_DEVICE", "cuda")
EMULATED = PLACE == "emulated"
DEVICE = "cpu" if EMULATED else PLACE  # of tensors
NAMESPACE = "uqlib_kernels_emulated" if EMULATED else "uqlib_kernels"
on_gpu = [pytest.mark.gpu, pytest.mark.usefixtures("operations", "poisoned")]
needs_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="of a GPU alone")
ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError)

BITS = {
    "linear_w8a8": 8,
    "linear_w4a8": 4,
    "linear_w2a8": 2,
    "linear_w1": 1,
    "linear_w4a32": 4,
    "linear_dequantized": 8,
    "linear_integer": 4,
}
TOP = {
    "linear_w8a8": 127,
    "linear_w4a8": 127,
    "linear_w2a8": 127,
    "linear_w1": 31,
    "linear_integer": 100,
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
every_operation = pytest.mark.parametrize("name", BITS)


if EMULATED:
    from tests.kernels.cuda import _on_gpu_emulated as emulation

    work = emulation.Work()


@pytest.fixture(scope="module", name="operations")
def _operations():
    """The operations, for the device."""
    torch_ops.register()
    if EMULATED:
        return emulation.operations()
    if DEVICE == "cuda":
        from uqlib_kernels import cuda

        try:
            cuda.load()
        except cuda.KernelUnavailableError as error:
            pytest.skip(str(error))
    return torch.ops.uqlib_kernels


@pytest.fixture(name="poisoned")
def _poisoned(operations):
    """Fill the memory that the next tensors get with NaN: no write is missed."""
    if EMULATED:
        work.done = 0
        with emulation.NaNMemory():
            yield
        return
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        small = [torch.full((1 << 17,), float("nan"), device=DEVICE) for _ in range(16)]
        large = torch.full((1 << 26,), float("nan"), device=DEVICE)
        del small, large
    yield
    if DEVICE == "cuda":
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------
# Problems, with their answers in double precision.


@functools.cache
def problem(bits, n_out, n_in, group, zero="middle", seed=0):
    """A packed weight and its values: codes, scales, zero points of a kind."""
    rng = np.random.default_rng([seed, bits, n_out, n_in])
    codes = rng.integers(0, 2**bits, (n_out, n_in), dtype=np.uint8)
    codes[0, 0] = 0  # a weight that is alone shall not be 0
    n_groups = -(-n_in // group)
    # Values of about 1, so that results in half precision are finite.
    scale = ((rng.random((n_out, n_groups)) + 0.5) / 2**bits).astype(np.float32)
    shape = (n_out, n_groups)
    middle = 2 ** (bits - 1)
    zeros = {
        "middle": np.full(shape, middle),
        "half": np.full(shape, middle - 0.5),
        "groups": rng.integers(0, 2**bits, shape),
        "fractions": rng.random(shape) * 2**bits,
        "codebook": np.zeros(shape),
    }[zero].astype(np.float32)
    where = np.arange(n_in) // group
    values = codes.astype(np.float64)
    if zero == "codebook":
        codebook = np.sinh(np.linspace(-2, 2, 16)).astype(np.float32)
        values = codebook.astype(np.float64)[codes]
        packed = pack.pack_codebook(codes, codebook, group, scale=scale)
    else:
        packer = getattr(pack, f"pack_w{bits}")
        packed = packer(codes, group, scale=scale, zero_point=zeros)
    values = (values - zeros[:, where]) * scale[:, where].astype(np.float64)
    bias = rng.normal(size=n_out).astype(np.float32)
    return SimpleNamespace(packed=packed, values=values, bias=torch.from_numpy(bias))


def rows_of(n_rows, n_in, dtype, seed=0):
    """Random rows of very different sizes, one of them of zeros."""
    rng = np.random.default_rng([seed, n_rows, n_in])
    x = rng.normal(size=(n_rows, n_in)) * np.exp2(rng.integers(-3, 4, (n_rows, 1)))
    if n_rows > 2:
        x[1] = 0
    return torch.from_numpy(x).to(dtype)


def answer(name, x, own, bias=None, top=None, static_scale=None):
    """The product in double precision, of rows as the operation rounds them."""
    rows = x.double().numpy()
    if name in TOP:
        single = x.float().numpy()
        top = np.float32(top or TOP[name])
        if static_scale is None:
            scale = np.abs(single).max(axis=1, keepdims=True) / top
            scale[scale == 0] = 1
        else:
            scale = np.float32(static_scale)
        rows = np.rint(single / scale).clip(-top, top).astype(np.float64) * scale
    y = rows @ own.values.T
    return y if bias is None else y + bias.double().numpy()


def tolerance(name, x):
    """What rounding may do: to weights and to the result, in the type of the rows.

    Libraries may add parts of a product in that type, too. In single precision sums
    are rounded: those of integers after each group only, those of floats by tensor
    cores, which cut them off after each 16 columns; and a codebook has 16 bits.
    """
    of_type = {torch.float16: 2e-3, torch.bfloat16: 8e-3, torch.float32: 0.0}[x.dtype]
    return of_type + (1e-6 if name in TOP else 5e-6 + x.shape[-1] / 16 * 2**-23)


def assert_close(y, expected, bound):
    """Each row within a bound of its length, and no element far from its own."""
    found = y.double().cpu().numpy()
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    error = np.abs(found - expected)
    length = np.sqrt(np.mean(expected**2, axis=1))
    assert (np.sqrt(np.mean(error**2, axis=1)) <= bound * length).all()
    assert (error.max(axis=1) <= 10 * bound * length).all()


def on_device(packed):
    """A packed weight for the operations of the device."""
    if EMULATED:
        from uqlib_kernels._torch_ops import arranged_tensors

        return arranged_tensors(packed)
    return torch_ops.packed_tensors(packed, device=DEVICE)


def operation_of(name):
    """An operation of torch for the device."""
    return getattr(getattr(torch.ops, NAMESPACE), name)


def arguments(name, bias=None, top=None, static_scale=None):
    """What an operation takes after a weight."""
    if name == "linear_integer":
        return bias, top or TOP[name], static_scale
    return (bias,)


def linear(name, x, weight, bias=None, **rounding):
    """A product by an operation, through what users call where that takes it."""
    if EMULATED and not torch.compiler.is_compiling():
        work.add(x, weight)
    if EMULATED or name not in torch_ops.OPERATIONS:
        operation = operation_of(name)
        return operation(x, *weight, *arguments(name, bias, **rounding))
    return torch_ops.linear(x, weight, bias, operation=name)


def run(name, x, own, bias=None, **rounding):
    """A product with a problem's weight, all of it on the device."""
    bias = None if bias is None else bias.to(DEVICE)
    return linear(name, x.to(DEVICE), on_device(own.packed), bias, **rounding)


def of_cpu(name, x, own, bias=None, **rounding):
    """The product by the CPU's operation, which has tests of its own."""
    operation = getattr(torch.ops.uqlib_kernels, name)
    weight = torch_ops.packed_tensors(own.packed)
    return operation(x, *weight, *arguments(name, bias, **rounding))
