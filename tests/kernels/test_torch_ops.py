"""The operations of torch are the functions of `ops`, on memory of tensors."""

import copy
import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from tests._public import KERNELS
from uqlib_kernels import ops, torch_ops
from uqlib_kernels.pack import (
    pack_codebook,
    pack_w1,
    pack_w2,
    pack_w4,
    pack_w8,
    unpack_codes,
)
from uqlib_kernels.torch_ops import OPERATIONS, PackedTensors, linear, packed_tensors

torch = pytest.importorskip("torch")
torch_ops.register()
from uqlib_kernels import _torch_ops  # noqa: E402 - needs torch

N_OUT, N_IN, GROUP = 19, 70, 32
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(N_OUT, N_IN))
BIAS = RNG.normal(size=N_OUT).astype(np.float32)
ROWS = RNG.normal(size=(5, N_IN)).astype(np.float32)

PACKED = {
    "linear_w8a8": pack_w8(WEIGHT, GROUP),
    "linear_w4a8": pack_w4(WEIGHT, GROUP),
    "linear_w2a8": pack_w2(WEIGHT, GROUP),
    "linear_w1": pack_w1(WEIGHT, GROUP),
    "linear_w4a32": pack_codebook(WEIGHT, np.linspace(-1, 1, 11) ** 3, GROUP),
    "linear_dequantized": pack_w4(WEIGHT, GROUP),
}
# Zero points that differ from group to group travel as a tensor.
UNEVEN = pack_w4(
    RNG.integers(0, 16, WEIGHT.shape),
    GROUP,
    scale=RNG.random((N_OUT, 3)) + 0.5,
    zero_point=RNG.integers(3, 12, (N_OUT, 3)),
)
every_operation = pytest.mark.parametrize("name", OPERATIONS)


def expected(name, rows, packed, bias=None):
    return getattr(ops, name)(np.asarray(rows, dtype=np.float32), packed, bias)


# ---------------------------------------------------------------------------
# The same numbers.


@every_operation
@pytest.mark.parametrize("bias", [None, BIAS])
def test_an_operation_is_the_function_of_its_name(name, bias):
    packed = PACKED[name]
    tensor = None if bias is None else torch.from_numpy(bias)
    operation = getattr(torch.ops.uqlib_kernels, name)
    y = operation(torch.from_numpy(ROWS), *packed_tensors(packed), tensor)
    np.testing.assert_array_equal(y.numpy(), expected(name, ROWS, packed, bias))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (2, 0), (2, 1, 3)])
def test_leading_dimensions_stay(shape):
    x = RNG.normal(size=(*shape, N_IN)).astype(np.float32)
    y = linear(torch.from_numpy(x), PACKED["linear_w8a8"])
    assert y.shape == (*shape, N_OUT)
    flat = expected("linear_w8a8", x.reshape(-1, N_IN), PACKED["linear_w8a8"])
    np.testing.assert_array_equal(y.numpy(), flat.reshape(y.shape))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: x[::2],
        lambda x: x[:1].expand(4, -1),
        lambda x: x.reshape(5, 7, 10).transpose(1, 2).reshape(5, 70),
        lambda x: torch.stack([x, -x]).transpose(0, 1),
        lambda x: torch._neg_view(x),
    ],
)
def test_strides_do_not_matter(view):
    x = view(torch.from_numpy(ROWS.copy()))
    before = x.clone()
    y = linear(x, PACKED["linear_w4a8"])
    plain = linear(before.contiguous().reshape(-1, N_IN), PACKED["linear_w4a8"])
    assert torch.equal(y, plain.reshape(y.shape))
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_results_have_the_type_of_the_rows(dtype):
    x = torch.from_numpy(ROWS).to(dtype)
    bias = torch.from_numpy(BIAS).to(dtype)
    y = linear(x, PACKED["linear_w8a8"], bias)
    same = linear(x.float(), PACKED["linear_w8a8"], bias.float())
    assert y.dtype == dtype
    assert torch.equal(y, same.to(dtype))


@pytest.mark.parametrize(
    ("packed", "name"),
    [(packed, name) for name, packed in PACKED.items() if name != "linear_dequantized"],
)
def test_linear_takes_the_operation_of_the_weight(packed, name):
    x = torch.from_numpy(ROWS)
    y = linear(x, packed)
    np.testing.assert_array_equal(y.numpy(), expected(name, ROWS, packed))
    assert torch.equal(y, linear(x, packed_tensors(packed)))
    floats = linear(x, packed, operation="linear_dequantized")
    assert torch.equal(
        floats, torch.from_numpy(expected("linear_dequantized", ROWS, packed))
    )


def test_zero_points_of_groups_travel():
    tensors = packed_tensors(UNEVEN)
    assert tensors.zero_point is not None
    y = linear(torch.from_numpy(ROWS), tensors)
    np.testing.assert_array_equal(y.numpy(), expected("linear_w4a8", ROWS, UNEVEN))


# ---------------------------------------------------------------------------
# What torch asks of an operation.


def samples(name):
    packed = PACKED[name]
    x, bias = torch.from_numpy(ROWS), torch.from_numpy(BIAS)
    yield (x, *packed_tensors(packed))
    yield (x.reshape(1, 5, N_IN).bfloat16(), *packed_tensors(packed), bias)
    if packed.bits == 4:
        yield (x[:0], *packed_tensors(UNEVEN), bias)


@every_operation
def test_opcheck(name):
    operation = getattr(torch.ops.uqlib_kernels, name).default
    for arguments in samples(name):
        if name == "linear_w4a32" and arguments[4] is None:
            continue
        torch.library.opcheck(operation, arguments)


class Layers(torch.nn.Module):
    """Every operation, one after the other, with weights in buffers."""

    def __init__(self):
        super().__init__()
        self.numbers = {}
        for name, packed in PACKED.items():
            weight = packed_tensors(packed)
            self.numbers[name] = weight[4:]
            for k, tensor in enumerate(weight[:4]):
                if tensor is not None:  # torch.export knows no buffers that are None
                    self.register_buffer(f"{name}_{k}", tensor)
        self.register_buffer("bias", torch.from_numpy(BIAS))

    def weight(self, name):
        parts = [getattr(self, f"{name}_{k}", None) for k in range(4)]
        return PackedTensors(*parts, *self.numbers[name])

    def forward(self, x):
        return [
            linear(x.relu(), self.weight(name), self.bias, operation=name) + 1
            for name in PACKED
        ]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_gives_the_same(backend):
    torch._dynamo.reset()
    layers = Layers().eval()
    compiled = torch.compile(layers, fullgraph=True, backend=backend)
    with torch.no_grad():
        for n_rows in (5, 3, 2):  # from the second on with a symbolic size
            x = torch.from_numpy(ROWS[:n_rows])
            for got, wanted in zip(compiled(x), layers(x), strict=True):
                assert torch.equal(got, wanted)


def test_exports_without_running():
    x = torch.from_numpy(ROWS)
    with torch.no_grad():
        exported = torch.export.export(Layers().eval(), (x,))
    for got, wanted in zip(exported.module()(x), Layers()(x), strict=True):
        assert torch.equal(got, wanted)


@every_operation
def test_shapes_are_known_without_values(name):
    tensors = packed_tensors(PACKED[name])
    meta = [part.to("meta") if torch.is_tensor(part) else part for part in tensors]
    x = torch.empty(2, 3, N_IN, device="meta", dtype=torch.float16)
    y = getattr(torch.ops.uqlib_kernels, name)(x, *meta)
    assert (y.shape, y.dtype) == ((2, 3, N_OUT), torch.float16)


def test_a_gradient_is_refused():
    x = torch.from_numpy(ROWS).requires_grad_()
    y = linear(x, PACKED["linear_w8a8"])
    with pytest.raises(NotImplementedError, match=r"linear_w8a8 has no gradient"):
        y.sum().backward()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert not linear(x, PACKED["linear_w8a8"]).requires_grad


# ---------------------------------------------------------------------------
# Memory: whose it is, and what is remembered of it.


def test_tensors_share_the_memory_of_the_weight():
    tensors = packed_tensors(UNEVEN)
    for name in ("codes", "scale", "zero_point"):
        assert np.shares_memory(getattr(tensors, name).numpy(), getattr(UNEVEN, name))
    assert _torch_ops.weight_of(tensors) is UNEVEN


def test_a_read_only_weight_is_copied():
    packed = pack_w8(WEIGHT)
    packed.codes.flags.writeable = False
    tensors = packed_tensors(packed)
    assert not np.shares_memory(tensors.codes.numpy(), packed.codes)
    np.testing.assert_array_equal(
        linear(torch.from_numpy(ROWS), tensors).numpy(),
        expected("linear_w8a8", ROWS, packed),
    )


def clones(packed):
    parts = packed_tensors(packed)
    return PackedTensors(*(p.clone() if torch.is_tensor(p) else p for p in parts))


def test_a_weight_is_made_once_and_again_when_it_was_written_to():
    tensors, x = clones(PACKED["linear_w4a8"]), torch.from_numpy(ROWS)
    first = _torch_ops.weight_of(tensors)
    assert _torch_ops.weight_of(tensors) is first
    assert np.shares_memory(first.codes, tensors.codes.numpy())
    _ = first.expanded, first.dequantized, linear(x, tensors)
    other = pack_w4(RNG.normal(size=WEIGHT.shape), GROUP)
    tensors.codes.copy_(torch.from_numpy(other.codes))
    assert _torch_ops.weight_of(tensors) is not first
    tensors.scale.copy_(torch.from_numpy(other.scale))
    for name in ("linear_w4a8", "linear_dequantized"):
        y = linear(x, tensors, operation=name)
        np.testing.assert_array_equal(y.numpy(), expected(name, ROWS, other))


def test_other_scales_with_the_same_codes_are_another_weight():
    tensors, x = clones(PACKED["linear_w8a8"]), torch.from_numpy(ROWS)
    once = linear(x, tensors)
    twice = linear(x, tensors._replace(scale=2 * tensors.scale))
    assert torch.equal(twice, 2 * once)
    assert torch.equal(linear(x, tensors), once)


def test_nothing_outlives_the_tensors():
    tensors = clones(PACKED["linear_w8a8"])
    linear(torch.from_numpy(ROWS), tensors)
    weight, codes = (
        weakref.ref(_torch_ops.weight_of(tensors)),
        weakref.ref(tensors.codes),
    )
    shared = pack_w8(WEIGHT)
    packed_tensors(shared)
    shared = weakref.ref(shared)
    del tensors
    gc.collect()
    assert weight() is None
    assert codes() is None
    assert shared() is None


def test_loaded_and_copied_modules_use_what_they_hold():
    x, layers = torch.from_numpy(ROWS), Layers()
    wanted = layers(x)
    copied = copy.deepcopy(layers)
    with torch.no_grad():
        for buffer in layers.buffers():
            buffer.zero_()
    try:
        for got, value in zip(copied(x), wanted, strict=True):
            assert torch.equal(got, value)
        # Every scale is 0 now, and so is the bias.
        assert all(torch.equal(y, torch.ones_like(y)) for y in layers(x))
    finally:
        layers.load_state_dict(copied.state_dict())
    for got, value in zip(layers(x), wanted, strict=True):
        assert torch.equal(got, value)


@pytest.mark.parametrize("offset", [0, 1, 4, 32])
def test_memory_may_begin_anywhere(offset):
    tensors = packed_tensors(PACKED["linear_w4a8"])
    size = tensors.codes.numel()
    memory = torch.empty(size + 64, dtype=torch.uint8)
    codes = memory[offset : offset + size].view(tensors.codes.shape)
    codes.copy_(tensors.codes)
    moved = tensors._replace(codes=codes, scale=tensors.scale.mT.contiguous().mT)
    assert _torch_ops.weight_of(moved).codes.ctypes.data % 64 == 0
    y = linear(torch.from_numpy(ROWS), moved)
    assert torch.equal(y, linear(torch.from_numpy(ROWS), tensors))


def test_weights_of_inference_mode_are_not_remembered():
    x = torch.from_numpy(ROWS)
    with torch.inference_mode():
        tensors = clones(PACKED["linear_w8a8"])
        wanted = linear(x, tensors)
        tensors.scale.mul_(2)
        assert torch.equal(linear(x, tensors), 2 * wanted)


# ---------------------------------------------------------------------------
# Errors: kernels read memory by address, so nothing wrong may reach them.


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, N_IN + 1), rf"x must have shape \(\.\.\., {N_IN}\), got"),
        (torch.tensor(1.0), r"x must have shape"),
        (torch.zeros(2, N_IN, dtype=torch.int32), r"x must be of a floating type"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rows_that_do_not_fit(x, message, device):
    tensors = packed_tensors(PACKED["linear_w8a8"])
    parts = [part.to(device) if torch.is_tensor(part) else part for part in tensors]
    with pytest.raises(ValueError, match=message):
        torch.ops.uqlib_kernels.linear_w8a8(x.to(device), *parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": torch.zeros(4, dtype=torch.uint8)}, r"codes must be of shape"),
        ({"n_out": 2 * N_OUT}, r"codes must be of shape"),
        ({"n_in": 2 * N_IN}, r"codes must be of shape"),
        ({"group_size": 64}, r"codes must be of shape"),
        ({"group_size": 0}, r"group_size=0"),
        ({"bits": 3}, r"bits=3"),
        ({"twice_zero": -511}, r"twice_zero=-511"),
        ({"scale": torch.zeros(2, 3, 16).double()}, r"scale must be .* torch.float32"),
        ({"scale": torch.zeros(2, 3, 15)}, r"scale must be of shape \(2, 3, 16\)"),
        ({"zero_point": torch.zeros(16)}, r"zero_point must be of shape"),
        ({"codebook": torch.zeros(15)}, r"codebook must be of shape \(16,\)"),
    ],
)
def test_tensors_that_are_no_weight(changes, message):
    tensors = clones(PACKED["linear_w4a8"])._replace(**changes)
    x = torch.zeros(2, tensors.n_in)
    with pytest.raises(ValueError, match=message):
        linear(x, tensors, operation="linear_dequantized")


def test_other_errors():
    x = torch.from_numpy(ROWS)
    packed = PACKED["linear_w8a8"]
    with pytest.raises(ValueError, match=r"operation='linear' must be one of"):
        linear(x, packed, operation="linear")
    with pytest.raises(ValueError, match=r"packed holds 8 bits"):
        linear(x, packed, operation="linear_w2a8")
    with pytest.raises(ValueError, match=r"bias must have shape \(19,\)"):
        linear(x, packed, torch.zeros(3))
    with pytest.raises(TypeError, match=r"packed must be a PackedWeight, got ndarray"):
        packed_tensors(WEIGHT)


# ---------------------------------------------------------------------------
# Registration.


def test_a_second_registration_does_nothing():
    before = torch.ops.uqlib_kernels.linear_w8a8
    torch_ops.register()
    assert torch.ops.uqlib_kernels.linear_w8a8 is before


@pytest.mark.parametrize(
    "code",
    [
        "import uqlib_kernels.torch_ops; assert 'torch' not in sys.modules",
        "sys.modules['torch'] = None\n"
        "from uqlib_kernels.torch_ops import register\n"
        "try: register()\n"
        "except ImportError: pass\n"
        "else: raise AssertionError",
    ],
)
def test_torch_is_imported_by_functions_alone(code):
    path = os.pathsep.join([str(KERNELS.parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )


def test_codes_come_back():
    weight = _torch_ops.weight_of(clones(UNEVEN))
    np.testing.assert_array_equal(unpack_codes(weight), unpack_codes(UNEVEN))
    np.testing.assert_array_equal(weight.dequantized, UNEVEN.dequantized)
