"""Training of the network that weighs models by the features of a row."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from uqlib._typing import FloatArray
from uqlib.quantile._torch_layers import (
    crossing_penalty,
    isotonic_rows,
    pinball_loss,
    sort_rows,
)
from uqlib.quantile._torch_training import isolated_generators, train

_WEIGHT_DECAY = 1e-7
_PATIENCE = 800  # steps without improvement
_EVALUATE_EVERY = 50
_CHUNK = 2**22  # weights held at once in an evaluation
_DECIMALS = 6


class GateSettings(NamedTuple):
    """What a training needs to know besides its data; margins in units of the target.

    `non_crossing` is None, "sort" or "isotonic"; `offsets` and `constant` are the
    margins of the crossing penalty.
    """

    hidden: tuple[int, ...]
    dropout: float
    learning_rate: float
    max_iter: int
    constraint: str
    crossing_penalty: float
    offsets: FloatArray
    constant: float
    pairs: str
    non_crossing: str | None


class GateTraining(NamedTuple):
    """A trained network: (matrix, bias) of each layer, and the number of steps done."""

    layers: list[tuple[FloatArray, FloatArray]]
    n_iter: int


def train_gate(
    features: FloatArray,
    base_quantiles: FloatArray,
    y: FloatArray,
    levels: FloatArray,
    row_weight: FloatArray,
    rows: tuple[Any, Any],
    start: FloatArray,
    sources: Any,
    settings: GateSettings,
    seed: int,
) -> GateTraining:
    """Train one network, from the start weights, with the best state kept.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_inputs)
        As `gate_features` gives them.
    base_quantiles : ndarray of shape (n_samples, n_models, n_quantiles)
        Out-of-fold quantiles of the models, finite.
    y : ndarray of shape (n_samples,)
        The target.
    levels : ndarray of shape (n_quantiles,)
        The levels.
    row_weight : ndarray of shape (n_samples,)
        Weights of the rows.
    rows : tuple of (ndarray of int, ndarray of int or None)
        Training rows, and validation rows that stop the training.
    start : ndarray of shape (n_models, n_sources, n_outputs)
        What the untrained network gives in every row.
    sources : ndarray of int of shape (n_sources, n_quantiles)
        See `gated_quantiles`.
    settings : GateSettings
        The rest.
    seed : int
        Fixes initialization, batches and dropout.

    Returns
    -------
    GateTraining
        The network as arrays.
    """
    data = _Data(features, base_quantiles, y, row_weight, rows[0], settings)
    with isolated_generators(seed, "cpu"):
        module = _Gate(features.shape[1], start, sources, settings)
    level = torch.as_tensor(levels, dtype=torch.float32)
    offsets = _tensor(settings.offsets / data.scale)
    train_rows = torch.as_tensor(rows[0])

    def loss_of(part: Tensor) -> Tensor:
        q = module(data.features[part], data.quantiles[part])
        loss = pinball_loss(q, data.y[part], level, data.weight[part])
        if settings.crossing_penalty > 0:
            constant = settings.constant / data.scale
            penalty = crossing_penalty(q, offsets, constant, settings.pairs)
            loss = loss + settings.crossing_penalty * penalty
        return loss

    def batch_loss(index: Tensor) -> Tensor:
        return loss_of(train_rows[index])

    def validation_loss() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for part in torch.as_tensor(rows[1]).split(max(1, _CHUNK // module.n_weights)):
            total += loss_of(part).double() * len(part)
        return total / len(rows[1])

    training = train(
        module,
        batch_loss,
        None if rows[1] is None else validation_loss,
        len(rows[0]),
        max_iter=settings.max_iter,
        learning_rate=settings.learning_rate,
        weight_decay=_WEIGHT_DECAY,
        n_iter_no_change=_PATIENCE,
        evaluate_every=_EVALUATE_EVERY,
        seed=seed,
    )
    layers = [
        (layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy())
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    return GateTraining(layers, training.n_iter)


class _Data:
    """Rows as float32 tensors, the target in units of its spread."""

    def __init__(
        self,
        features: FloatArray,
        base_quantiles: FloatArray,
        y: FloatArray,
        row_weight: FloatArray,
        train_rows: Any,
        settings: GateSettings,
    ) -> None:
        share = row_weight[train_rows] / row_weight[train_rows].sum()
        # Free weights do not commute with a shift of the target.
        center = share @ y[train_rows] if settings.constraint != "free" else 0.0
        self.scale = math.sqrt(share @ (y[train_rows] - center) ** 2) or 1.0
        mean_weight = row_weight[train_rows].mean()
        self.features = torch.as_tensor(features, dtype=torch.float32)
        self.quantiles = _tensor((base_quantiles - center) / self.scale)
        self.y = _tensor((y - center) / self.scale)
        self.weight = _tensor(row_weight / mean_weight)


class _Gate(nn.Module):
    """The network of `gate_weights`, applied to quantiles."""

    def __init__(
        self, n_inputs: int, start: FloatArray, sources: Any, settings: GateSettings
    ) -> None:
        super().__init__()
        n_models, n_sources, n_outputs = start.shape
        self.shape = (n_models * n_sources, n_outputs)
        self.n_weights = max(start.size, n_models * sources.size)
        self.constraint = settings.constraint
        self.non_crossing = settings.non_crossing
        self.register_buffer("sources", torch.as_tensor(np.ascontiguousarray(sources)))
        layers: list[nn.Module] = []
        width = n_inputs
        for size in settings.hidden:
            layers += [nn.Linear(width, size), nn.ELU(), nn.Dropout(settings.dropout)]
            width = size
        last = nn.Linear(width, start.size)
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(_tensor(start.ravel()))
        self.layers = nn.Sequential(*layers, last)

    def forward(self, features: Tensor, quantiles: Tensor) -> Tensor:
        value = self.layers(features).view(-1, *self.shape)
        if self.constraint == "sum_to_one":
            value = value - value.mean(dim=1, keepdim=True) + 1 / self.shape[0]
        if self.constraint == "simplex":
            value = torch.softmax(value, dim=1)
        gathered = quantiles[:, :, self.sources].flatten(1, 2)
        q = (value * gathered).sum(dim=1)
        if self.non_crossing == "sort":
            return sort_rows(q)
        return isotonic_rows(q) if self.non_crossing == "isotonic" else q


def _tensor(values: FloatArray) -> Tensor:
    # Rounded, so that the last bits, which a change of units changes, decide nothing.
    return torch.as_tensor(np.round(values, _DECIMALS).astype(np.float32))
