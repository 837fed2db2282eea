"""Products on a GPU: what torch asks of operations, and errors."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.kernels.cuda._on_gpu import (  # noqa: E402
    BITS,
    DEVICE,
    ERRORS,
    PLACE,
    TOP,
    _operations,  # noqa: F401 - a fixture
    _poisoned,  # noqa: F401 - a fixture
    answer,
    arguments,
    assert_close,
    every_operation,
    linear,
    needs_gpu,
    on_device,
    on_gpu,
    operation_of,
    problem,
    rows_of,
    run,
    tolerance,
)
from uqlib_kernels import torch_ops  # noqa: E402

pytestmark = on_gpu
OF_BITS = [name for name in TOP if name != "linear_integer"]


class Layers(torch.nn.Module):
    """All products, with their weights in buffers."""

    def __init__(self):
        super().__init__()
        self.numbers = {}
        for name, bits in BITS.items():
            own = problem(bits, 64, 256, 128)
            weight = on_device(own.packed)
            self.numbers[name] = weight[4:]
            for k, part in enumerate((*weight[:4], own.bias.to(DEVICE))):
                self.register_buffer(f"{name}_{k}", part)

    def forward(self, x):
        x, out = x.relu(), []
        for name, numbers in self.numbers.items():
            *parts, bias = (getattr(self, f"{name}_{k}") for k in range(5))
            weight = torch_ops.PackedTensors(*parts, *numbers)
            out.append(linear(name, x, weight, bias) * 2)
        return torch.cat(out, dim=-1)


# What torch's compiler warns of (precision of float32, its own API) is its business.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"mode": "reduce-overhead"}, marks=needs_gpu)],
    ids=["default", "reduce-overhead"],
)
def test_compiled_code_gives_the_same(settings):
    torch._dynamo.reset()
    layers = Layers().eval()
    compiled = torch.compile(layers, fullgraph=True, **settings)
    with torch.no_grad():
        for n_rows in (4, 4, 9, 20):  # from the third on with a symbolic size
            x = rows_of(n_rows, 256, torch.bfloat16).to(DEVICE)
            y = compiled(x).clone()
            assert_close(y, layers(x).double().cpu().numpy(), 1e-2)


@pytest.mark.filterwarnings("default")
@every_operation
def test_opcheck(name):
    own = problem(BITS[name], 35, 96, 32)
    weight, bias = on_device(own.packed), own.bias.to(DEVICE)
    operation = operation_of(name).default
    x = rows_of(5, 96, torch.float32).to(DEVICE)
    for given in (
        (x, *weight, *arguments(name)),
        (x.reshape(1, 5, 96).bfloat16(), *weight, *arguments(name, bias)),
        (x[:0], *weight, *arguments(name, bias)),
    ):
        torch.library.opcheck(operation, given)


# ---------------------------------------------------------------------------
# Errors, after which the device works as before.


def wrong_calls(name, own):
    """Calls that no kernel may see."""
    weight = on_device(own.packed)
    x = rows_of(4, 96, torch.float32).to(DEVICE)
    bias = own.bias.to(DEVICE)

    def call(x=x, bias=None, **parts):
        changed = weight._replace(**parts)
        return linear(name, x, changed, bias)

    yield "columns", lambda: call(x[:, :95].contiguous())
    yield "no dimension", lambda: call(x[0, 0])
    yield "integers", lambda: call(x.int())
    yield "bias", lambda: call(bias=bias[:-1])
    yield "codes", lambda: call(codes=weight.codes[:-1])
    yield "type of codes", lambda: call(codes=weight.codes.float())
    yield "scale", lambda: call(scale=weight.scale[..., :-1].contiguous())
    yield "type of scale", lambda: call(scale=weight.scale.double())
    yield "n_out", lambda: call(n_out=own.packed.n_out + 16)
    yield "n_in", lambda: call(n_in=95)
    yield "group", lambda: call(group_size=0)
    yield "bits", lambda: call(bits=3)
    yield "zero", lambda: call(zero_point=weight.scale[:1, :1].contiguous())
    if name == "linear_integer":
        for top, static_scale in ((0, None), (128, None), (7, 0.0), (7, float("nan"))):
            given = (None, top, static_scale)
            rounding = f"top={top}, static_scale={static_scale}"
            yield rounding, lambda given=given: operation_of(name)(x, *weight, *given)
    if PLACE != "cpu":
        host = torch_ops.packed_tensors(own.packed)
        moved = [p.to(DEVICE) if torch.is_tensor(p) else p for p in host]
        yield "order of the CPU", lambda: linear(name, x, type(host)(*moved))
    if DEVICE == "cuda":
        yield "weight of the CPU", lambda: linear(name, x, host)
        yield "rows on the CPU", lambda: call(x.cpu())
        yield "scale on the CPU", lambda: call(scale=weight.scale.cpu())
        yield "bias on the CPU", lambda: call(bias=own.bias)


@every_operation
def test_errors(name):
    own = problem(BITS[name], 35, 96, 32)
    for what, call in wrong_calls(name, own):
        try:
            call()
        except ERRORS:
            continue
        pytest.fail(f"{what}: nothing was raised")
    x = rows_of(4, 96, torch.float32)
    expected = answer(name, x, own)
    assert_close(run(name, x, own), expected, tolerance(name, x))


@pytest.mark.parametrize("name", [*OF_BITS, "linear_w4a32"])
def test_weights_of_other_bits_are_refused(name):
    own = problem(2 if BITS[name] == 4 else 4, 35, 96, 32)
    with pytest.raises(ERRORS):
        run(name, rows_of(3, 96, torch.float32), own)


@pytest.mark.parametrize("name", ["linear_w4a8", "linear_integer"])
def test_a_codebook_is_no_integer(name):
    own = problem(4, 35, 96, 32, "codebook")
    with pytest.raises(ERRORS):
        run(name, rows_of(3, 96, torch.float32), own)


@every_operation
def test_no_gradient(name):
    own = problem(BITS[name], 35, 96, 32)
    x = rows_of(3, 96, torch.float32).to(DEVICE).requires_grad_()
    y = linear(name, x, on_device(own.packed))
    with pytest.raises(NotImplementedError, match="no gradient"):
        y.sum().backward()
