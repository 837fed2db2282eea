"""How rows get through a torch module, and predictions out of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user
from uqlib.quantized._torch_layers import numpy_array

TASKS = ("regression", "classification")
_ROWS = 256  # at most so many at once
_FEW = 8
_NUMBERS = 2**20  # at most so many of X at once


_of_classifiers: Callable[[Any], Any] = available_if(
    lambda self: self.task == "classification"
)


class TorchPredictor:
    """A fitted torch module with the prediction methods of scikit-learn.

    The outputs of a regressor are its predictions. Those of a classifier are logits:
    one for each class, or a single one for the second of two classes.

    Parameters
    ----------
    module : nn.Module
        Used as it stands, in evaluation mode and without gradients; its own mode comes
        back after each use.
    task : {"regression", "classification"}
        What the outputs stand for.
    X : array-like or Tensor of shape (n_samples, ...)
        Rows, of which a few tell the number of outputs.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        0, 1, ..., for a classifier alone.
    """

    def __init__(self, module: Any, task: str, X: Any) -> None:
        if task not in TASKS:
            raise ValueError(f"task={task!r} must be one of {list(TASKS)}.")
        self.module, self.task = module, task
        outputs = self.outputs(_as_rows(X)[:_FEW])
        if task == "classification":
            self.classes_: NDArray[np.int64] = np.arange(max(2, outputs.shape[1]))
            _warn_of_probabilities(outputs, module)

    def outputs(self, X: Any) -> FloatArray:
        """Return what the module gives, as an array (n_samples, n_outputs).

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, ...)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            float64 for float64, else float32.
        """
        with _evaluating(self.module):
            return gathered(run(self.module, X))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return points or labels.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, ...)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            float64, the first if there is one output; for a classifier one of
            `classes_` for each row.
        """
        outputs = self.outputs(X)
        if self.task == "regression":
            points = outputs.astype(np.float64)
            return points[:, 0] if points.shape[1] == 1 else points
        if outputs.shape[1] == 1:
            outputs = np.hstack([np.zeros_like(outputs), outputs])
        labels: NDArray[Any] = self.classes_[np.argmax(outputs, axis=1)]
        return labels

    @_of_classifiers
    def predict_proba(self, X: Any) -> FloatArray:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, ...)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            float64.
        """
        logits = self.outputs(X).astype(np.float64)
        if logits.shape[1] == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        proba: FloatArray = softmax(logits, axis=1)
        return proba

    def with_module(self, module: Any) -> "TorchPredictor":
        """Return a predictor of another module with the same outputs.

        Parameters
        ----------
        module : nn.Module
            The module.

        Returns
        -------
        TorchPredictor
            A new one.
        """
        other = copy(self)
        other.module = module
        return other


class ModuleHost:
    """A torch module, or a predictor around one, as what holds a module."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def module(self) -> Any:
        """The float module."""
        module = self.model
        if isinstance(module, TorchPredictor):
            module = module.module
        return getattr(module, "_orig_mod", module)  # before torch.compile

    def run(self, module: Any, X: Any) -> Iterator[Tensor]:
        """Yield what a module in the place of the float one gives for some rows."""
        return run(module, X)

    def with_module(self, module: Any) -> Any:
        """Return a model of the same kind with another module."""
        if isinstance(self.model, TorchPredictor):
            return self.model.with_module(module)
        return module


class SkorchHost:
    """A fitted network of skorch as what holds a module."""

    def __init__(self, net: Any) -> None:
        net.check_is_fitted(["module_"])
        self.net = net

    @property
    def module(self) -> Any:
        """The float module."""
        return getattr(self.net.module_, "_orig_mod", self.net.module_)

    def run(self, module: Any, X: Any) -> Iterator[Tensor]:
        """Yield what a module in the place of the float one gives for some rows."""
        for output in self.with_module(module).forward_iter(X, training=False):
            # Of several outputs skorch takes the first for the prediction.
            first = output[0] if isinstance(output, tuple) else output
            yield _checked(first, None, module)

    def with_module(self, module: Any) -> Any:
        """Return a network with another module, which predicts but is not trained on.

        `copy` would go through a pickle of all parameters.
        """
        net = object.__new__(type(self.net))
        parts = vars(self.net).copy()
        # A prediction sets the mode of all modules and criteria.
        for name in (*self.net._modules, *self.net._criteria):
            parts[f"{name}_"] = deepcopy(parts[f"{name}_"])
        parts["module_"] = module
        for name in self.net._optimizers:
            parts[f"{name}_"] = None  # it would hold the parameters in float
        vars(net).update(parts)
        return net


def run(module: Any, X: Any) -> Iterator[Tensor]:
    """Yield the outputs of a module for some rows at a time.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    X : array-like or Tensor of shape (n_samples, ...)
        Rows.

    Yields
    ------
    Tensor of shape (n_rows,) or (n_rows, n_outputs)
        Without gradients.
    """
    dtype, device = _placement(module)
    rows = _as_rows(X)
    size = int(np.prod(rows.shape[1:]))
    step = max(1, min(_ROWS, _NUMBERS // max(1, size)))
    for first in range(0, max(1, len(rows)), step):
        chunk = _as_tensor(rows[first : first + step], dtype, device)
        # Not around the yield: the caller's mode must not change between chunks.
        with torch.no_grad():
            output = module(chunk)
        yield _checked(output, len(chunk), module)


def gathered(outputs: Iterator[Tensor]) -> FloatArray:
    """Return outputs as one array.

    Parameters
    ----------
    outputs : iterator of Tensor of shape (n_rows,) or (n_rows, n_outputs)
        At least one.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        float64 for float64, else float32.
    """
    arrays = [numpy_array(output) for output in outputs]
    return np.concatenate([a[:, None] if a.ndim == 1 else a for a in arrays])


def _placement(module: Any) -> tuple[torch.dtype, torch.device]:
    """Return the type and the device of the first floating-point number."""
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor.dtype, tensor.device
    return torch.float32, torch.device("cpu")


def _as_rows(X: Any) -> Any:
    """Return rows that can be sliced: a tensor or an array of numbers."""
    if isinstance(X, Tensor):
        rows: Any = X.detach()
    else:
        rows = np.asarray(X)
        if rows.dtype.kind not in "fiub":
            rows = _floats(rows)
    if rows.ndim < 1:
        raise ValueError(
            "X must be an array of numbers with one row for each sample, got "
            f"{type(X).__name__}. Pass a dense array, a dataframe or a tensor."
        )
    return rows


def _floats(rows: Any) -> Any:
    try:
        return rows.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"X must be an array of numbers for a torch module: {error}. Encode "
            "columns that are not numbers before it."
        ) from error


def _as_tensor(rows: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return rows in the type and on the device of a module.

    Integers stay integers in a tensor: they are the tokens of an embedding.
    """
    if isinstance(rows, Tensor):
        own_type = dtype if rows.is_floating_point() else rows.dtype
        return rows.to(device, own_type)
    exact = np.float64 if dtype == torch.float64 else np.float32
    with np.errstate(over="ignore"):  # to infinity, as torch does
        own = np.array(rows, dtype=exact, order="C")
    return torch.from_numpy(own).to(device, dtype)


def _checked(output: Any, n_rows: int | None, module: Any) -> Tensor:
    if isinstance(output, Tensor):
        fits = output.dim() in (1, 2) and n_rows in (None, len(output))
        if fits and not output.is_complex():
            return output
        got = f"a tensor of type {output.dtype} and shape {tuple(output.shape)}"
    else:
        got = f"an object of type {type(output).__name__}"
    rows = "" if n_rows is None else f" for {n_rows} rows"
    raise ValueError(
        f"{type(module).__name__} returned {got}{rows}: it must return one tensor of "
        "real numbers of shape (n_samples,) or (n_samples, n_outputs). Wrap it in a "
        "module that returns what is to be predicted."
    )


def _warn_of_probabilities(outputs: FloatArray, module: Any) -> None:
    if outputs.shape[1] == 1 or not len(outputs):
        return
    sums = outputs.sum(axis=1)
    if (outputs >= 0).all() and np.allclose(sums, 1.0, rtol=0, atol=1e-4):
        warn_user(
            f"The outputs of {type(module).__name__} look like probabilities, but are "
            "taken for logits. Remove its last softmax.",
            UncertaintyWarning,
        )


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put a module into evaluation mode for a while."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            if part.training != training:
                part.training = training
