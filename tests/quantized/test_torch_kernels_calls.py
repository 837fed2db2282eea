"""Quantized torch modules called in odd ways: wrong rows, autocast, traces, modes."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.quantized._quantized_modules import (  # noqa: E402
    ALL,
    X,
    assert_close,
    isolated,
    network,
    quantized,
    rows,
)
from tests.quantized.test_kernels import N_IN, N_OUT, one  # noqa: E402
from uqlib.quantized import quantize  # noqa: E402


@pytest.fixture(autouse=True)
def _isolated():
    yield from isolated()


@pytest.mark.parametrize("case", ["w8a8", "hadamard", "cross", "klt", "w4"])
@pytest.mark.parametrize("shape", [(3, 1), (3, N_IN - 1), (N_IN, 1), (2, 3, 1)])
def test_rows_of_another_width(case, shape):
    module, x = quantized(one(ALL[case][0])), torch.ones(shape)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        module(x)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        compiled(x)
    assert module(torch.ones(2, N_IN)).shape == (2, N_OUT)


@pytest.mark.parametrize("case", ["hadamard", "klt", "low rank"])
def test_autocast_leaves_single_precision(case):
    module, x = quantized(one(ALL[case][0])), rows(60, N_IN)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    expected = module(x)
    assert_close(compiled(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        for found in (module(x), module.torch_kernel(x), compiled(x)):
            assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch itself
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the width is fixed
@pytest.mark.parametrize("case", ["w8a8", "hadamard", "cross", "outliers", "w4"])
def test_traces_hold_no_results(case):
    module = quantized(one(ALL[case][0]))
    traced = torch.jit.trace(module, rows(3, N_IN))
    x = rows(7, N_IN)
    assert_close(traced(x), module(x))


def test_operands_without_memory():
    kernel, x = quantized(one(ALL["w4"][0])).torch_kernel, rows(3, N_IN)
    for name in ("codes", "scale", "bias"):
        kept = getattr(kernel, name)
        setattr(kernel, name, kept.to("meta"))
        with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]: all must be on one"):
            kernel(x)
        setattr(kernel, name, kept)
    with pytest.raises(ValueError, match="all must be on one device"):
        kernel(x.to("meta"))


def test_modes():
    net = quantize(network(), "w8a8", X).model_.module
    expected = net(torch.ones(3, 6))
    kernel = net[0].torch_kernel
    net.train()
    assert net[0].training
    assert not any(part.training for part in kernel.modules())
    assert torch.equal(net(torch.ones(3, 6)), expected)
    net.eval()
    assert not net[0].training


def test_predictions_keep_modes():
    model = quantize(network(), "w8a8", X)
    net = model.model_.module
    net.eval()
    net[1].train()
    before = [part.training for part in net.modules()]
    assert True in before
    model.predict(X)
    assert [part.training for part in net.modules()] == before


def test_a_kernel_has_no_empty_parts():
    assert len(list(quantized(one("w4")).torch_kernel.modules())) == 1
    for case in ("hadamard", "outliers"):
        parts = quantized(one(ALL[case][0])).torch_kernel.modules()
        lists = [p for p in parts if isinstance(p, (torch.nn.Sequential, list))]
        assert all(len(part) > 0 for part in lists)
