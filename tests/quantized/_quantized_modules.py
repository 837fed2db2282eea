"""Quantized layers of torch of every kind, and how near their results are."""

import logging

import numpy as np
import torch
from torch import nn

from tests.quantized.test_kernels import CASES, FLOAT_CASES, N_IN, N_OUT, one
from uqlib.quantized._torch_layers import set_quantized

ALL = CASES | FLOAT_CASES
# What is computed in another order of sums, or with another power, than by NumPy.
ROUNDED = (" + ", "cross", "klt", "hadamard")
COMPILED = (
    "w8a8", "groups", "w2a8", "w1a8", "static", "cross", "outliers", "low rank",
    "hadamard", "klt", "reorder", "nf4 with outliers", "w8", "w4",
)  # fmt: skip
X = np.random.default_rng(0).normal(size=(40, 6))


def isolated():
    """Run a test with one thread, a seed and nothing compiled."""
    log = logging.getLogger("torch.__trace")
    n_threads, level = torch.get_num_threads(), log.level
    log.setLevel(logging.WARNING)  # else each graph is written down for pytest
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch.set_num_threads(n_threads)
    log.setLevel(level)


def rows(*shape):
    scale = torch.rand(shape[-1]) * 30 + 0.5
    return torch.randn(shape) * scale


def quantized(layer, backend="numba"):
    module = nn.Linear(N_IN, N_OUT)
    set_quantized(module, layer, backend)
    return module.eval()


def network(dtype=torch.float32):
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    return net.to(dtype)


def assert_close(found, expected, tolerance=1e-5):
    """Few rows may have an input on the other side of a tie."""
    error = (found - expected).abs().reshape(len(found), -1).amax(dim=1)
    size = float(expected.abs().max())
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert float((error < tolerance * size).float().mean()) > 0.9
    assert float(error.max()) < 0.05 * size


class Layers(nn.Module):
    """Every kind of layer."""

    def __init__(self, backend="numba", cases=COMPILED):
        super().__init__()
        layers = [quantized(one(ALL[case][0]), backend) for case in cases]
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return [layer(x.sin() * 7) for layer in self.layers]
