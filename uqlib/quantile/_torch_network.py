"""Training of the networks that predict quantiles from features."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from uqlib._typing import FloatArray
from uqlib.quantile._network import LEVEL_SCALE, MIN_SCALE, N_LEVEL_INPUTS
from uqlib.quantile._neural_data import Rows
from uqlib.quantile._torch_layers import (
    crossing_penalty,
    isotonic_rows,
    pinball_loss,
    sort_rows,
)
from uqlib.quantile._torch_training import (
    Training,
    auto_batch_size,
    isolated_generators,
    train,
)

# Levels drawn for each row and step where the level is an input: one from each of so
# many equal parts of (0, 1), hence increasing and, all together, uniform.
_N_DRAWS = 8
_EVALUATE_EVERY = 100
_CHUNK = 2**22  # numbers held at once in an evaluation
_REPAIRS = {"sort": sort_rows, "isotonic": isotonic_rows}


class NetworkSettings(NamedTuple):
    """What a training needs to know besides its data.

    `kind` is one of `uqlib.quantile._network.KINDS`, `bias` the last one at the start;
    `offsets` (one for each of the levels) and `constant` are the margins of the
    crossing penalty in units of the standardized target.
    """

    kind: str
    bias: FloatArray
    hidden: tuple[int, ...]
    dropout: float
    crossing_penalty: float
    offsets: FloatArray
    constant: float
    pairs: str
    non_crossing: str | None


def train_network(
    training: Rows,
    validation: Rows | None,
    levels: FloatArray,
    settings: NetworkSettings,
    *,
    device: str,
    seed: int,
    max_iter: int,
    batch_size: int | str,
    learning_rate: float,
    weight_decay: float,
    n_iter_no_change: int,
) -> tuple[list[tuple[FloatArray, FloatArray]], Training]:
    """Train one network.

    Parameters
    ----------
    training : Rows
        What the steps are done on.
    validation : Rows or None
        What the best state is chosen by.
    levels : ndarray of shape (n_quantiles,)
        The levels; where the level is an input, those of the validation loss.
    settings : NetworkSettings
        The network and its loss.
    device : str
        "auto" takes a CUDA device if there is one, else the CPU.
    seed : int
        Fixes initialization, batches, dropout and drawn levels.
    max_iter, batch_size, learning_rate, weight_decay, n_iter_no_change
        As in `train`.

    Returns
    -------
    layers : list of (ndarray of shape (n_in, n_out), ndarray of shape (n_out,))
        Matrix and bias of each layer, float64.
    training : Training
        Losses and number of steps.
    """
    place = _device(device)
    n_rows, n_features = training.features.shape
    with isolated_generators(seed, place):
        network = QuantileNetwork(n_features, settings).to(place)
    loss = _Loss(network, training, levels, settings, place)
    validation_loss, every = None, _EVALUATE_EVERY
    if validation is not None:
        judge = _Loss(network, validation, levels, settings, place)
        validation_loss = judge.of_all_rows
        size = auto_batch_size(n_rows) if batch_size == "auto" else batch_size
        every = max(every, validation.y.size // size)
    result = train(
        network,
        loss.of_batch,
        validation_loss,
        n_rows,
        max_iter=max_iter,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        n_iter_no_change=n_iter_no_change,
        evaluate_every=every,
        seed=seed,
    )
    return network.arrays(), result


class QuantileNetwork(nn.Module):
    """A multilayer perceptron of one of the kinds in `uqlib.quantile._network`.

    Parameters
    ----------
    n_features : int
        Number of features.
    settings : NetworkSettings
        Its kind, its layers and how crossing is repaired.
    """

    def __init__(self, n_features: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.kind, self.non_crossing = settings.kind, settings.non_crossing
        layers: list[nn.Module] = []
        width = n_features + N_LEVEL_INPUTS * (self.kind == "level")
        for k, size in enumerate(settings.hidden):
            if k and settings.dropout > 0:
                layers.append(nn.Dropout(settings.dropout))
            layers += [nn.Linear(width, size), nn.SiLU()]
            width = size
        last = nn.Linear(width, settings.bias.size)
        # The start is the same in all rows: training can only add what features tell.
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(torch.as_tensor(settings.bias))
        self.layers = nn.Sequential(*layers, last)

    def forward(self, features: Tensor, levels: Tensor) -> Tensor:
        """Return quantiles of shape (n_samples, n_quantiles).

        Parameters
        ----------
        features : Tensor of shape (n_samples, n_features)
            Standardized features.
        levels : Tensor of shape (n_quantiles,) or (n_samples, n_quantiles)
            The levels; each row can have its own where the level is an input.

        Returns
        -------
        Tensor of shape (n_samples, n_quantiles)
            Quantiles of the standardized target, repaired if that was asked for.
        """
        q = self._raw(features, levels)
        repair = _REPAIRS.get(self.non_crossing)
        return q if repair is None else repair(q)

    def normal(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale of the normal law, each of shape (n_samples, 1)."""
        z = self.layers(features)
        return z[:, :1], MIN_SCALE + softplus(z[:, 1:])

    def arrays(self) -> list[tuple[FloatArray, FloatArray]]:
        """Return matrix and bias of each layer as float64 arrays."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return [(_array(layer.weight).T.copy(), _array(layer.bias)) for layer in linear]

    def _raw(self, features: Tensor, levels: Tensor) -> Tensor:
        if self.kind == "level":
            return self.layers(_with_levels(features, levels)).squeeze(2)
        if self.kind == "gaussian":
            mean, scale = self.normal(features)
            return mean + scale * torch.special.ndtri(levels)
        z = self.layers(features)
        return _increasing(z) if self.kind == "softplus" else z


class _Loss:
    """The loss of a network on the rows given, which live on its device."""

    def __init__(
        self,
        network: QuantileNetwork,
        rows: Rows,
        levels: FloatArray,
        settings: NetworkSettings,
        device: torch.device,
    ) -> None:
        self.network, self.settings = network, settings
        self.features, self.y = _tensor(rows.features, device), _tensor(rows.y, device)
        self.weight = None if rows.weight is None else _tensor(rows.weight, device)
        self.levels = _tensor(levels, device)
        self.offsets = _tensor(settings.offsets, device)

    def of_batch(self, rows: Tensor) -> Tensor:
        """Return the training loss: mean over the rows."""
        features, y, weight = self._take(rows)
        if self.settings.kind == "gaussian":
            return self._likelihood(features, y, weight)
        own_levels = self.settings.kind == "level"
        levels = _draw_levels(len(rows), y) if own_levels else self.levels
        q = self.network(features, levels)
        loss = pinball_loss(q, y, levels, weight)
        strength, constant = self.settings.crossing_penalty, self.settings.constant
        if strength > 0:
            offsets = _interpolate(self.offsets, levels) if own_levels else self.offsets
            penalty = crossing_penalty(q, offsets, constant, self.settings.pairs)
            loss = loss + strength * penalty
        return loss

    def of_all_rows(self) -> Tensor:
        """Return the mean pinball loss over all rows, whatever was trained on."""
        widest = max([self.levels.numel(), *self.settings.hidden])
        if self.settings.kind == "level":
            widest *= self.levels.numel()
        total = torch.zeros((), dtype=torch.float64)
        for rows in torch.arange(self.y.numel(), device=self.y.device).split(
            max(1, _CHUNK // widest)
        ):
            features, y, weight = self._take(rows)
            q = self.network(features, self.levels)
            total += float(pinball_loss(q, y, self.levels, weight)) * y.numel()
        return total / self.y.numel()

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        weight = None if self.weight is None else self.weight[rows]
        return self.features[rows], self.y[rows], weight

    def _likelihood(self, features: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        # The gradient of the mean has the factor 1 / scale^2: rows that are predicted
        # badly so far would hardly be learned from. A factor of scale, which carries no
        # gradient, is a compromise between the likelihood and least squares.
        mean, scale = self.network.normal(features)
        loss = 0.5 * ((y[:, None] - mean) / scale) ** 2 + scale.log()
        loss = (loss * scale.detach()).squeeze(1)
        return (loss if weight is None else weight * loss).mean()


def _increasing(z: Tensor) -> Tensor:
    center = z.shape[1] // 2
    middle, gaps = z[:, center : center + 1], softplus(z)
    above = middle + gaps[:, center + 1 :].cumsum(dim=1)
    below = middle - gaps[:, :center].flip(1).cumsum(dim=1).flip(1)
    return torch.cat([below, middle, above], dim=1)


def _with_levels(features: Tensor, levels: Tensor) -> Tensor:
    """Return the inputs of every row at every level, (n_samples, n_levels, n_in)."""
    n_samples, n_levels = features.shape[0], levels.shape[-1]
    inputs = [LEVEL_SCALE * (levels - 0.5), torch.special.ndtri(levels)]
    level = torch.stack(inputs, dim=-1).expand(n_samples, n_levels, -1)
    rows = features[:, None, :].expand(n_samples, n_levels, -1)
    return torch.cat([rows, level], dim=2)


def _draw_levels(n_rows: int, like: Tensor) -> Tensor:
    draw = torch.rand(n_rows, _N_DRAWS, device=like.device, dtype=like.dtype)
    level = (torch.arange(_N_DRAWS, device=like.device) + draw) / _N_DRAWS
    return level.clamp(1e-6, 1 - 1e-6)


def _interpolate(table: Tensor, levels: Tensor) -> Tensor:
    """Return a function at levels, given in the middle of equal parts of (0, 1)."""
    place = (levels * table.numel() - 0.5).clamp(0, table.numel() - 1)
    left = place.floor().clamp(max=max(0, table.numel() - 2))
    right = (left + 1).clamp(max=table.numel() - 1)
    return torch.lerp(table[left.long()], table[right.long()], place - left)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _tensor(values: FloatArray, device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device)


def _array(tensor: Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
