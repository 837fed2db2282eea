"""Quantized torch modules on a GPU, and what is done there without one."""

import copy
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from tests.quantized._quantized_modules import (  # noqa: E402
    ALL,
    Layers,
    X,
    assert_close,
    isolated,
    network,
    quantized,
    rows,
)
from tests.quantized._torch_models import hand_made, with_input_scale  # noqa: E402
from tests.quantized.test_kernels import N_IN, one, scheme  # noqa: E402
from uqlib.quantized import (  # noqa: E402
    QuantizedRegressor,
    _resolve,
    _torch_kernels,
    _torch_network,
    quantize,
)
from uqlib.quantized._torch_layers import layer_spec  # noqa: E402
from uqlib_kernels.cuda import KernelUnavailableError  # noqa: E402


@pytest.fixture(autouse=True)
def _isolated():
    yield from isolated()


@pytest.fixture
def gpu(monkeypatch):
    """Take the memory of the CPU for that of a GPU, whose operations it has as well."""
    for module in (_torch_kernels, _torch_network):
        monkeypatch.setattr(module, "device_type", lambda device: "cuda")
    monkeypatch.setattr(_torch_kernels, "has_cuda_kernels", lambda: True)
    for module in (_torch_kernels, _resolve):
        monkeypatch.setattr(module, "load_cuda_kernels", lambda: None)


# ---------------------------------------------------------------------------
# What is done on a GPU, without one


@pytest.mark.parametrize("backend", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("given", "operation"),
    [
        ("w8a8", "linear_w8a8"),
        ("w4a8g4", "linear_w4a8"),
        ("wnf4a8", "linear_w4a32: rounded inputs"),
        ("w4", "linear_w4a32"),
        ("w3", "linear_w4a32"),
        ("w2", "linear_dequantized"),
        ("w8", "linear_dequantized"),
        (scheme("int4", outliers=0.1), "linear_w4a8 + outliers"),
        (scheme(activation_range="cross"), "linear_w8a8: cross scales"),
        (scheme("fp8"), "reference: codebook of 253 levels"),
        (scheme("fp8", None), "float weights (BLAS)"),
    ],
)
def test_quantized_on_a_gpu(gpu, given, operation, backend):
    net = network()
    found = quantize(net, given, X, backend=backend, last_layer_bits=None)
    reference = quantize(net, given, X, backend="reference", last_layer_bits=None)
    assert set(found.layers_["op"]) == {operation}
    module = found.model_.module
    assert all(module[k].layer_kernel is None for k in (0, 2))
    has_kernels = operation.startswith("linear_")
    assert all((module[k].torch_kernel is not None) == has_kernels for k in (0, 2))
    x = torch.randn(50, 6)
    with torch.no_grad():
        assert_close(module(x), reference.model_.module(x))
        if has_kernels:
            compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
            assert_close(compiled(x), module(x))


def test_few_bits_stay_few_on_a_gpu(gpu):
    assert quantized(one("w2"), "cuda").torch_kernel.numbers[0] == 2
    assert quantized(one("w1"), "auto").torch_kernel.numbers[0] == 1


def test_kernels_of_a_gpu_take_halves(gpu, monkeypatch):
    module, seen = quantized(one("w4"), "cuda"), []
    forward = type(module.torch_kernel)._product

    def note(kernel, x, bias):
        seen.append(x.dtype)
        return forward(kernel, x, bias)

    monkeypatch.setattr(type(module.torch_kernel), "_product", note)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert module(rows(3, N_IN).to(dtype)).dtype == dtype
    kept = [torch.float16, torch.bfloat16, torch.float32, torch.float32]
    assert seen == kept


def test_numba_has_no_kernels_for_a_gpu(gpu):
    found = quantize(network(), "w8a8", X, backend="numba")
    assert set(found.layers_["op"]) == {"reference: no kernels on 'cuda'"}


def test_a_gpu_without_kernels(gpu, monkeypatch):
    monkeypatch.setattr(_torch_kernels, "has_cuda_kernels", lambda: False)
    found = quantize(network(), "w8a8", X)
    assert set(found.layers_["op"]) == {"reference: no kernels on 'cuda'"}
    assert set(quantize(network(), "w4", X).layers_["op"]) == {"float weights (BLAS)"}


def test_transforms_that_torch_does_not_have(gpu):
    module = nn.Linear(6, 3)
    layer = with_input_scale(hand_made(layer_spec("m", module), 8), range(1, 7))
    layer = replace(layer, activation=one("w8a8").activation)
    name = _torch_kernels.module_operation(module, layer, "cuda")
    assert name == "reference: transform 'scale'"


def test_moved_to_a_gpu_and_back(gpu, monkeypatch):
    layer, x = one("w2"), rows(5, N_IN)
    module = quantized(layer, "cuda")
    expected = module(x)
    module.double()
    with monkeypatch.context() as at_home:
        at_home.setattr(_torch_kernels, "device_type", lambda device: "cpu")
        module.float()  # as "auto" would on a CPU
        assert module.torch_kernel is module.layer_kernel is None
        assert_close(module(x), expected, 1e-4)
    module.double().float()
    assert torch.equal(module(x), expected)


def test_saved_models_on_a_gpu(gpu, tmp_path):
    model = quantize(network(), "w4a8g4", X, backend="cuda")
    model.save(tmp_path / "model")
    again = QuantizedRegressor.load(
        tmp_path / "model", estimator=network(), backend="cuda"
    )
    assert again.backend == "cuda"
    assert set(again.layers_["op"]) == {"linear_w4a8", "linear_w8a8"}
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


# ---------------------------------------------------------------------------
# Errors


def test_what_is_not_on_a_gpu(tmp_path):
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = LinearRegression().fit(X, X[:, 0])
    for model in (linear, make_pipeline(StandardScaler(), linear).fit(X, X[:, 0])):
        with pytest.raises(ValueError, match=r"backend='cuda'.* is no torch module"):
            quantize(model, "w8a8", X, backend="cuda")
    with pytest.raises(ValueError, match=r"parameters .* on 'cpu'. Move .*to\('cuda'"):
        quantize(network(), "w8a8", X, backend="cuda")
    path = tmp_path / "model"
    quantize(network(), "w8a8", X).save(path)
    with pytest.raises(ValueError, match=r"the parameters of this model are on 'cpu'"):
        QuantizedRegressor.load(path, estimator=network(), backend="cuda")


def test_kernels_that_are_not_built(gpu, monkeypatch):
    def missing():
        raise KernelUnavailableError("build them")

    for module in (_torch_kernels, _resolve):
        monkeypatch.setattr(module, "load_cuda_kernels", missing)
    with pytest.raises(KernelUnavailableError, match="build them"):
        quantize(network(), "w8a8", X, backend="cuda")
    with pytest.raises(KernelUnavailableError, match="build them"):
        quantized(one("w8a8"), "cuda")


# ---------------------------------------------------------------------------
# With a GPU


def moved(case, dtype=torch.float32):
    module = quantized(one(ALL[case][0]))
    x = rows(33, N_IN).to(dtype)
    with torch.no_grad():
        expected = module(x)
        module.quantized_backend = "auto"
        return module.to("cuda"), x.to("cuda"), expected


def skip_without_kernels():
    from uqlib_kernels import cuda

    reason = cuda.why_unavailable()
    if reason:
        pytest.skip(reason)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ALL)
def test_a_real_gpu_gives_the_same(case):
    skip_without_kernels()
    module, x, expected = moved(case)
    assert module.torch_kernel.codes.device.type == "cuda"
    with torch.no_grad():
        assert_close(module(x).cpu(), expected, 1e-4)
        assert_close(module.to("cpu")(x.cpu()), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ALL)
def test_a_real_gpu_takes_halves(case, dtype):
    skip_without_kernels()
    module, x, expected = moved(case, dtype)
    with torch.no_grad():
        found = module(x)
    assert found.dtype == dtype
    assert_close(found.float().cpu(), expected.float(), 1e-2)


@pytest.mark.gpu
def test_a_real_gpu_runs_compiled_code():
    skip_without_kernels()
    layers, x = Layers("auto").to("cuda"), rows(7, N_IN).to("cuda")
    for mode in ("default", "reduce-overhead"):
        torch._dynamo.reset()
        compiled = torch.compile(layers, fullgraph=True, mode=mode)
        with torch.no_grad():
            for _ in range(3):
                found = [y.clone() for y in compiled(x)]
            for y, expected in zip(found, layers(x), strict=True):
                assert_close(y, expected, 1e-3)


@pytest.mark.gpu
def test_a_real_gpu_replays_a_graph():
    skip_without_kernels()
    layers, x = Layers("auto").to("cuda"), rows(7, N_IN).to("cuda")
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            layers(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = layers(x)
        x.copy_(rows(7, N_IN))
        graph.replay()
        torch.cuda.synchronize()
        for found, expected in zip(captured, layers(x), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.gpu
def test_a_real_gpu_predicts():
    skip_without_kernels()
    net = network()
    expected = quantize(copy.deepcopy(net), "w8a8", X).predict(X)
    found = quantize(net.to("cuda"), "w8a8", X, backend="cuda")
    assert set(found.layers_["op"]) == {"linear_w8a8"}
    assert_close(torch.from_numpy(found.predict(X)), torch.from_numpy(expected), 1e-3)
