"""Gradients of the outputs of a torch module with respect to the weights of layers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uqlib._typing import FloatArray
from uqlib.quantized._torch_layers import numpy_array


class _WithGradients(nn.Module):
    """A module that keeps the graph of its outputs where gradients are off."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs of the module."""
        with torch.enable_grad():
            return self.module(*args, **kwargs)


def torch_weight_gradients(
    network: Any, X: Any, cotangents: FloatArray
) -> dict[str, FloatArray]:
    """Return the gradients of <cotangents, outputs> with respect to the weights.

    Parameters
    ----------
    network : TorchNetwork
        Traced; its module is copied and never changed.
    X : array-like or Tensor of shape (n_samples, ...)
        Rows.
    cotangents : ndarray of shape (n_samples, n_outputs)
        Weights of the outputs.

    Returns
    -------
    dict of str to ndarray of shape (n_out, n_in)
        By layer, float64.
    """
    module, parts = network.with_layers({})
    names = [spec.name for spec in network.layers]
    weights = [parts[name].weight.requires_grad_(True) for name in names]
    total = [np.zeros((len(w), w[0].numel())) for w in weights]
    first = 0
    for output in network.host.run(_WithGradients(module).eval(), X):
        chunk = cotangents[first : first + len(output)]
        first += len(output)
        found = _gradients(output, weights, chunk)
        for sums, gradient in zip(total, found, strict=True):
            if gradient is not None:
                sums += numpy_array(gradient).reshape(sums.shape)
    return dict(zip(names, total, strict=True))


def _gradients(output: Tensor, weights: list[Tensor], cotangents: FloatArray) -> Any:
    signs = torch.as_tensor(cotangents).to(output).reshape(output.shape)
    return torch.autograd.grad(output, weights, signs, allow_unused=True)
