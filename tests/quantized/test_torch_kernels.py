"""Quantized torch modules as operations of torch: compiled, moved and copied."""

import copy
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from tests.quantized._quantized_modules import (  # noqa: E402
    ALL,
    COMPILED,
    ROUNDED,
    Layers,
    X,
    assert_close,
    isolated,
    network,
    quantized,
    rows,
)
from tests.quantized._torch_models import hand_made, with_input_scale  # noqa: E402
from tests.quantized.test_kernels import CASES, N_IN, N_OUT, one, scheme  # noqa: E402
from uqlib.quantized import _torch_kernels, quantize  # noqa: E402
from uqlib.quantized._torch_layers import layer_spec, set_quantized  # noqa: E402


@pytest.fixture(autouse=True)
def _isolated():
    yield from isolated()


# ---------------------------------------------------------------------------
# The same numbers


@pytest.mark.parametrize("case", ALL)
def test_operations_equal_the_kernels_of_numpy(case):
    given, operation = ALL[case]
    module = quantized(one(given))
    x = rows(60, N_IN)
    found = module.torch_kernel(x)
    expected = torch.from_numpy(module.layer_kernel(x.numpy()))
    if any(part in case + operation for part in ROUNDED):
        assert_close(found, expected)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("case", ALL)
def test_operations_equal_the_layer(case):
    layer = one(ALL[case][0])
    x = rows(60, N_IN)
    expected = torch.from_numpy(layer(x.numpy().astype(np.float64)))
    assert_close(quantized(layer).torch_kernel(x), expected.float())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite(case, bad):
    kernel, x = quantized(one(CASES[case][0])).torch_kernel, rows(4, N_IN)
    expected = kernel(x)
    x[2, 1] = bad
    expected[2] = np.nan
    np.testing.assert_array_equal(kernel(x).numpy(), expected.numpy())


@pytest.mark.parametrize("case", ALL)
def test_no_rows_and_rows_of_zeros(case):
    module = quantized(one(ALL[case][0]))
    kernel = module.torch_kernel
    assert kernel(torch.zeros(0, N_IN)).shape == (0, N_OUT)
    zeros = kernel(torch.zeros(2, N_IN))
    assert torch.equal(zeros, kernel.bias.expand(2, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ALL)
def test_halves(case, dtype):
    kernel, x = quantized(one(ALL[case][0])).torch_kernel, rows(60, N_IN).to(dtype)
    found = kernel(x)
    assert found.dtype == dtype
    tolerance = 2e-3 if dtype == torch.float16 else 2e-2
    assert_close(found.float(), kernel(x.float()), tolerance)


@pytest.mark.parametrize("case", ["outliers", "low rank", "cross", "static"])
def test_without_a_bias(case):
    layer = replace(one(CASES[case][0]), bias=None)
    x = rows(60, N_IN)
    expected = torch.from_numpy(layer(x.numpy()))
    assert_close(quantized(layer).torch_kernel(x), expected)


@pytest.mark.parametrize("n_in", [1, 20, 64, 100, 128])
def test_rotations_of_any_size(n_in):
    from uqlib.quantized._hadamard import BlockHadamard
    from uqlib.quantized._torch_transforms import transform_module

    signs = np.random.default_rng(0).choice([-1, 1], n_in).astype(np.int8)
    transform, x = BlockHadamard(signs), torch.randn(3, n_in)
    found = transform_module(transform)(x)
    np.testing.assert_allclose(found, transform.inputs(x.double().numpy()), atol=1e-5)


def test_rotations_of_two_factors_and_more():
    from uqlib.quantized._hadamard import BlockHadamard, walsh_hadamard
    from uqlib.quantized._torch_transforms import _factors, _Rotated

    assert [_factors(size) for size in (1, 2, 128, 8192)] == [
        [], [2], [64, 2], [64, 64, 2],
    ]  # fmt: skip
    module = _Rotated(BlockHadamard(np.ones(8192, dtype=np.int8)))
    x = torch.randn(2, 8192)
    expected = walsh_hadamard(x.double().numpy())
    np.testing.assert_allclose(module(x), expected, atol=1e-5)


# ---------------------------------------------------------------------------
# Compiled code


@pytest.mark.parametrize(
    ("backend", "cases"), [("eager", COMPILED[:2]), ("aot_eager", COMPILED)]
)
def test_compiled_layers(backend, cases):
    layers = Layers(cases=cases)
    compiled = torch.compile(layers, fullgraph=True, backend=backend)
    with torch.no_grad():
        for n_rows in (50, 3):  # then with a symbolic size
            x = rows(n_rows, N_IN)
            for case, found, expected in zip(
                cases, compiled(x), layers(x), strict=True
            ):
                if any(part in case + ALL[case][1] for part in ROUNDED):
                    assert_close(found, expected, 1e-4)
                else:
                    assert torch.equal(found, expected)


def test_compiled_layers_keep_leading_dimensions():
    module, x = quantized(one("w8a8")), rows(2, 3, N_IN)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), module(x))
    assert torch.equal(compiled(x[0, 0]), module(x[0, 0]))


def test_weights_are_no_inputs_of_compiled_code():
    layers, seen = Layers(cases=("w4a8", "cross", "outliers", "klt")), []

    def backend(graph, inputs):
        for node in graph.graph.find_nodes(op="placeholder"):
            known = node.meta.get("tensor_dict", {})
            seen.append("_dynamo_static_input_type" in known)
        return graph

    torch.compile(layers, fullgraph=True, backend=backend)(rows(5, N_IN))
    assert seen.count(False) == 1
    assert seen.count(True) > len(layers.layers)


def test_compiled_before_the_first_call_and_after_a_pickle():
    net = quantize(network(), "w8a8", X).model_.module
    x = torch.randn(9, 6)
    for module in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net), net):
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        with torch.no_grad():
            found = compiled(x)
            assert torch.equal(found, net(x))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch itself
def test_compiled_by_inductor():
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:  # torch has a type of its own for each reason
        pytest.skip("there is no compiler of C++")
    layers = [quantized(one(CASES[case][0])) for case in ("w8a8", "outliers")]
    net = nn.Sequential(layers[0], nn.Linear(N_OUT, N_IN), layers[1])
    x = rows(50, N_IN)
    with torch.no_grad():
        found = torch.compile(net, fullgraph=True)(x)
        assert_close(found, net(x), 1e-4)


def images():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=(2, 1)), nn.ReLU(),
        nn.Conv2d(4, 3, (2, 3), padding=2, padding_mode="reflect"), nn.Flatten(1),
    )  # fmt: skip


@pytest.mark.parametrize("given", ["w8a8", "w4a8", "w4"])
def test_compiled_convolutions(given):
    data = np.random.default_rng(0).normal(size=(12, 2, 6, 5)).astype(np.float32)
    net = quantize(images(), given, data, backend="numba").model_.module
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for n in (12, 5):
            x = torch.from_numpy(data[:n])
            assert torch.equal(compiled(x), net(x))
        first = torch.compile(net[0], fullgraph=True, backend="eager")
        assert torch.equal(first(x[0]), net[0](x[0]))


def test_exported():
    net = quantize(network(), "w8a8", X).model_.module
    for layer in net:
        for name, buffer in list(getattr(layer, "_buffers", {}).items()):
            if buffer is None:
                del layer._buffers[name]
                setattr(layer, name, None)
    x = torch.randn(4, 6)
    with torch.no_grad():
        exported = torch.export.export(net, (x,))
        assert torch.equal(exported.module()(x), net(x))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert "uqlib_kernels.linear_w8a8.default" in targets


def test_what_no_kernel_takes_breaks_the_graph():
    net = quantize(network(), scheme("fp8"), X, last_layer_bits=None).model_.module
    assert net[0].torch_kernel is None
    with torch.no_grad():
        x = torch.randn(3, 6)
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(net, backend="eager", fullgraph=True)(x)
        assert torch.equal(torch.compile(net, backend="eager")(x), net(x))


# ---------------------------------------------------------------------------
# Modules


def test_kernels_are_in_no_state():
    net = quantize(network(), "w4a8g4", X).model_.module
    assert set(net.state_dict()) == {
        f"{layer}.{name}"
        for layer in (0, 2)
        for name in ("weight", "bias", "transformed_weight")
    }
    before = len(pickle.dumps(net))
    net(torch.randn(3, 6))
    assert len(pickle.dumps(net)) == before
    for part in (net[0], net[2]):
        part.torch_kernel = part.layer_kernel = None
    assert len(pickle.dumps(net)) == before


def test_saved_by_torch():
    net = quantize(network(), "w4a8g4", X).model_.module
    memory = io.BytesIO()
    torch.save(net, memory)
    memory.seek(0)
    again = torch.load(memory, weights_only=False)
    x = torch.randn(3, 6)
    assert torch.equal(again(x), net(x))
    assert torch.equal(again[0].torch_kernel(x), net[0](x))


def test_types_of_a_module():
    layer = one("w8a8")
    module, x = quantized(layer), rows(30, N_IN).half().float()
    expected, kernel = module(x), module.torch_kernel
    module.half()
    assert module.torch_kernel is kernel
    assert kernel.scale.dtype == torch.float32
    assert torch.equal(module(x.half()), expected.half())
    assert module(x.half()).dtype == torch.float16
    module.double()
    assert module.torch_kernel is module.layer_kernel is None
    assert_close(module(x.double()).float(), expected, 2e-3)  # weights were halves
    module.float()
    assert module.torch_kernel.scale.dtype == torch.float32
    assert torch.equal(module(x), expected)


def test_a_module_without_memory_has_no_kernels():
    module = quantized(one("w8a8")).to("meta")
    assert module.torch_kernel is module.layer_kernel is None
    name = _torch_kernels.module_operation(module, module.quantized_layer, "auto")
    assert name == "reference: no kernels on 'meta'"
    name = _torch_kernels.module_operation(module, one("w4"), "auto")
    assert name == "float weights (BLAS)"


def test_made_in_inference_mode():
    with torch.inference_mode():
        module = quantized(one("w8a8"))
        x = rows(3, N_IN)
        expected = module(x)
    assert not any(buffer.is_inference() for buffer in module.torch_kernel.buffers())
    assert torch.equal(module.torch_kernel(x.clone()), expected)


def test_a_transform_of_its_own():
    module = nn.Linear(6, 3)
    layer = with_input_scale(hand_made(layer_spec("m", module), 8), range(1, 7))
    layer = replace(layer, activation=one("w8a8").activation)
    set_quantized(module, layer, "numba")
    assert module.torch_kernel is None
    x = torch.randn(5, 6)
    found = module(x).detach().numpy()
    np.testing.assert_allclose(found, layer(x.numpy()), atol=1e-5)


def test_no_gradient_goes_through_a_kernel():
    net = nn.Sequential(nn.Linear(4, N_IN), quantized(one("w8a8")))
    y = net(torch.randn(2, 4))
    assert not y.requires_grad
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert not compiled(torch.randn(2, 4)).requires_grad
