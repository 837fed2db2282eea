"""Recognize models of torch without importing torch.

Nobody can hold a model of a library that has not been imported.
"""

import sys
from typing import Any


def is_torch_module(model: Any) -> bool:
    """Return whether a model is a torch module.

    Parameters
    ----------
    model : object
        Anything.

    Returns
    -------
    bool
        True for instances of `torch.nn.Module`.
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def is_torch_model(model: Any) -> bool:
    """Return whether `torch_adapter` takes a model.

    Parameters
    ----------
    model : object
        Anything.

    Returns
    -------
    bool
        True for torch modules, predictors around them, and networks of skorch.
    """
    return is_torch_module(model) or _is_predictor(model) or _is_skorch(model)


def torch_adapter(model: Any) -> Any:
    """Return a model of torch as a network of layers.

    Parameters
    ----------
    model : nn.Module, TorchPredictor or fitted skorch.NeuralNet
        Never changed.

    Returns
    -------
    TorchNetwork
        Its `traced(X)` has the layers.
    """
    from uqlib.quantized._torch_network import TorchNetwork
    from uqlib.quantized._torch_predictor import ModuleHost, SkorchHost

    return TorchNetwork(SkorchHost(model) if _is_skorch(model) else ModuleHost(model))


def torch_predictor(module: Any, task: str, X: Any) -> Any:
    """Return a torch module with the prediction methods of scikit-learn.

    Parameters
    ----------
    module : nn.Module
        Used as it stands.
    task : {"regression", "classification"}
        What its outputs stand for: predictions, or logits.
    X : array-like or Tensor of shape (n_samples, ...)
        Rows, of which a few tell the number of outputs.

    Returns
    -------
    TorchPredictor
        With `predict`, and `predict_proba` and `classes_` for a classifier.
    """
    from uqlib.quantized._torch_predictor import TorchPredictor

    return TorchPredictor(module, task, X)


def _is_predictor(model: Any) -> bool:
    owner = sys.modules.get("uqlib.quantized._torch_predictor")
    return owner is not None and isinstance(model, owner.TorchPredictor)


def _is_skorch(model: Any) -> bool:
    skorch = sys.modules.get("skorch")
    return skorch is not None and isinstance(model, skorch.NeuralNet)
