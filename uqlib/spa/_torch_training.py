"""The heads as a module, their losses, and the loop that trains them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from uqlib._typing import BoolArray, FloatArray
from uqlib.spa._head_outputs import HeadPlan

_EVALUATE_EVERY = 50
_CHUNK_ROWS = 2**14  # rows evaluated at once


class Task(NamedTuple):
    """What the heads learn: `quantile_loss` is None for the means of each class."""

    plan: HeadPlan
    confidence_level: float
    quantile_loss: str | None


class Training(NamedTuple):
    """What a training came to.

    `layers` holds matrix (n_in, n_out) and bias (n_out,) of each layer as float64
    arrays. `best_loss` and `validation_curve` are losses on the held-out rows, from
    before the first step on (NaN without such rows), `loss_curve` is the mean training
    loss between two evaluations.
    """

    layers: list[tuple[FloatArray, FloatArray]]
    n_iter: int
    loss_curve: list[float]
    validation_curve: list[float]
    best_loss: float
    diverged: bool


def train_heads(
    features: FloatArray,
    targets: FloatArray,
    held_out: FloatArray | None,
    task: Task,
    *,
    hidden: tuple[int, ...],
    device: torch.device,
    seed: int,
    max_iter: int,
    batch_size: int | str,
    learning_rate: float,
    weight_decay: float,
    n_iter_no_change: int,
) -> Training:
    """Train the heads by Adam and return the state that suits the held-out rows best.

    What is judged and kept is a running average of the parameters, over the last tenth
    of the steps and at most 500 of them.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Standardized features.
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Residuals over their unit, or the targets of each class.
    held_out : ndarray of bool of shape (n_samples,) or None
        Rows that choose the state; None keeps the last one.
    task : Task
        What is learned.
    hidden : tuple of int
        Widths of the hidden layers.
    device : device
        Where to train.
    seed : int
        Fixes initialization and batches. The global generators are left as they were.
    max_iter : int
        Cap on the number of steps.
    batch_size : int or "auto"
        Rows of a step.
    learning_rate, weight_decay : float
        Of Adam.
    n_iter_no_change : int
        Steps without improvement after which training ends.

    Returns
    -------
    Training
        The layers and how they came about.
    """
    data = [_tensor(array, device) for array in (features, targets)]
    rows = torch.ones(len(targets), dtype=torch.bool)
    if held_out is not None:
        rows = ~torch.from_numpy(held_out)
    kept = rows.to(device)
    training = [part[kept] for part in data]
    validation = None if held_out is None else [part[~kept] for part in data]
    n_rows = len(training[0])
    size = _auto_batch_size(n_rows) if batch_size == "auto" else int(batch_size)
    if not _learned(task).any():
        max_iter = 0
    with seeded_generator(seed):
        module = HeadModule(features.shape[1], hidden, task).to(device)
        batches = _batches(n_rows, min(size, n_rows), device)
        optimizer = torch.optim.Adam(
            module.parameters(),
            lr=learning_rate,
            weight_decay=weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        return _loop(
            module,
            optimizer,
            ([part[batch] for part in training] for batch in batches),
            validation,
            max_iter,
            n_iter_no_change,
        )


class HeadModule(nn.Module):
    """The heads, a multilayer perceptron on the features, and their loss.

    Parameters
    ----------
    n_features : int
        Number of features.
    hidden : tuple of int
        Widths of the hidden layers.
    task : Task
        What is learned.
    """

    def __init__(self, n_features: int, hidden: tuple[int, ...], task: Task) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = n_features
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        last = nn.Linear(width, len(task.plan.start))
        # The start is the same in all rows: training can only add what features tell.
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(torch.from_numpy(task.plan.start))
        self.layers = nn.Sequential(*layers, last)
        self.level, self.quantile_loss = task.confidence_level, task.quantile_loss
        for name in ("softplus", "logistic"):
            self.register_buffer(name, torch.from_numpy(getattr(task.plan, name)))
        self.register_buffer("learned", torch.from_numpy(_learned(task)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs, of shape (n_samples, n_outputs), before their links."""
        return self.layers(features)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the losses of all heads that learn.

        Parameters
        ----------
        outputs : Tensor of shape (n_samples, n_outputs)
            Before their links.
        targets : Tensor of shape (n_samples,) or (n_samples, n_outputs)
            As in `train_heads`.

        Returns
        -------
        Tensor of shape ()
            Finite, whichever sides have rows. In training mode quantiles are trained
            as the task says; they are always judged by the pinball loss.
        """
        if self.quantile_loss is None:
            losses = (self._linked(outputs) - targets).square().mean(dim=0)
            n_columns = len(losses) // 3
            return (losses * self.learned).sum() / n_columns
        return (self._side_losses(outputs, targets) * self.learned).sum()

    def arrays(self) -> list[tuple[FloatArray, FloatArray]]:
        """Return matrix and bias of each layer as float64 arrays."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return [(_array(layer.weight).T.copy(), _array(layer.bias)) for layer in linear]

    def _linked(self, outputs: Tensor) -> Tensor:
        value = torch.where(self.softplus, functional.softplus(outputs), outputs)
        return torch.where(self.logistic, outputs.sigmoid(), value)

    def _side_losses(self, outputs: Tensor, residuals: Tensor) -> Tensor:
        # In the order of REGRESSION_HEADS. A step is a few small operations, whose
        # number is what it costs: heads are computed together.
        values, size = self._linked(outputs)[:, :5], residuals.abs()
        up = residuals > 0  # an exact zero is below
        error = size[:, None] - values
        squares, sides = error[:, :3].square(), torch.stack([up, ~up], dim=1)
        if self.training and self.quantile_loss == "coverage":
            quantile_losses = torch.stack(
                [
                    coverage_loss(values[:, 3 + k], size, sides[:, k], self.level)
                    for k in range(2)
                ]
            )
        else:
            quantile_losses = mean_over(pinball(error[:, 3:], self.level), sides)
        share = functional.binary_cross_entropy_with_logits(
            outputs[:, 5], up.to(outputs.dtype)
        )
        return torch.cat(
            [
                squares[:, 0].mean()[None],
                mean_over(squares[:, 1:], sides),
                quantile_losses,
                share[None],
            ]
        )


def mean_over(values: Tensor, rows: Tensor) -> Tensor:
    """Return the mean over the rows of a side, 0 where it has none.

    Parameters
    ----------
    values : Tensor of shape (n_samples,) or (n_samples, n_sides)
        Finite.
    rows : Tensor of bool of the same shape
        The side, or the sides.

    Returns
    -------
    Tensor of shape () or (n_sides,)
        A mean over no rows would be NaN; so would be the loss that it is part of.
    """
    return (values * rows).sum(dim=0) / rows.sum(dim=0).clamp(min=1)


def pinball(error: Tensor, level: float) -> Tensor:
    """Return the pinball loss of each error.

    Parameters
    ----------
    error : Tensor of any shape
        Targets minus quantiles.
    level : float
        In (0, 1).

    Returns
    -------
    Tensor of the same shape
        The losses.
    """
    return torch.maximum(level * error, (level - 1) * error)


def coverage_loss(q: Tensor, targets: Tensor, rows: Tensor, level: float) -> Tensor:
    r"""Return the loss that pushes the share of a batch below q towards the level.

    With c the share of the targets of the side that are at most q,

        c < level:   (level - c) mean(target - q | target > q),
        c >= level:  (c - level) mean(q - target | target <= q).

    It moves q in the right direction with a force that vanishes where the batch is
    covered as asked. It looks at no single row: many quantile functions make it 0.

    Parameters
    ----------
    q, targets : Tensor of shape (n_samples,)
        Quantiles and what they are quantiles of.
    rows : Tensor of bool of shape (n_samples,)
        The side.
    level : float
        In (0, 1).

    Returns
    -------
    Tensor of shape ()
        The loss, 0 where the side has no row.
    """
    covered = rows & (targets <= q)
    gap = level - mean_over(covered.to(q.dtype), rows)
    short = mean_over(targets - q, rows & ~covered)
    wide = mean_over(q - targets, covered)
    return torch.where(gap > 0, gap * short, -gap * wide)


@contextmanager
def seeded_generator(seed: int) -> Iterator[None]:
    """Seed the generator of the CPU, and put it back in the end.

    Nothing is drawn on another device: heads are initialized and rows are permuted on
    the CPU.

    Parameters
    ----------
    seed : int
        The seed.

    Yields
    ------
    None
        Initialization and permutations are now reproducible.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds every device there is.
        torch.default_generator.manual_seed(seed)
        yield


def _loop(
    module: HeadModule,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[list[Tensor]],
    validation: list[Tensor] | None,
    max_iter: int,
    patience: int,
) -> Training:
    average = [p.detach().clone() for p in module.parameters()]
    best = _judge(module, average, validation)
    kept, best_at, step = _copy(average), 0, 0
    loss_curve, validation_curve, diverged = [], [best], False
    while step < max_iter and not diverged and step - best_at < patience:
        n_steps = min(_EVALUATE_EVERY, max_iter - step)
        loss = _steps(module, optimizer, batches, average, step, n_steps)
        step += n_steps
        current = _judge(module, average, validation)
        loss_curve.append(loss)
        validation_curve.append(current)
        diverged = not math.isfinite(loss if validation is None else current)
        if (validation is None or current < best) and not diverged:
            best, best_at, kept = current, step, _copy(average)
    _exchange(module, kept)
    return Training(module.arrays(), step, loss_curve, validation_curve, best, diverged)


def _steps(
    module: HeadModule,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[list[Tensor]],
    average: list[Tensor],
    first: int,
    n_steps: int,
) -> float:
    module.train()
    total = 0.0
    for step in range(first, first + n_steps):
        optimizer.zero_grad()
        features, targets = next(batches)
        loss = module.loss(module(features), targets)
        loss.backward()
        optimizer.step()
        # Over about the last tenth of the steps: what a falling learning rate does,
        # without a plan of when to fall.
        share = max(0.002, 10 / (11 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, list(module.parameters()), share)
        total += loss.detach()  # one look at the device for many steps
    return float(total) / n_steps


@torch.no_grad()
def _judge(
    module: HeadModule, average: list[Tensor], validation: list[Tensor] | None
) -> float:
    if validation is None:
        return math.nan
    module.eval()
    _exchange(module, average)
    features, targets = validation
    outputs = torch.cat([module(part) for part in features.split(_CHUNK_ROWS)])
    loss = float(module.loss(outputs, targets))
    _exchange(module, average)
    return loss


def _exchange(module: nn.Module, values: list[Tensor]) -> None:
    for k, parameter in enumerate(module.parameters()):
        parameter.data, values[k] = values[k], parameter.data


def _copy(values: list[Tensor]) -> list[Tensor]:
    return [value.clone() for value in values]


def _auto_batch_size(n_rows: int) -> int:
    return 2 ** (3 + int(math.log10(n_rows)))


def _batches(n_rows: int, size: int, device: torch.device) -> Iterator[Tensor]:
    # Whole batches only: the rest of a permutation is left to the next one.
    while True:
        order = torch.randperm(n_rows).to(device)
        for start in range(0, n_rows - size + 1, size):
            yield order[start : start + size]


def _learned(task: Task) -> BoolArray:
    return np.isnan(task.plan.constant)


def _tensor(values: FloatArray, device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).to(device)


def _array(tensor: Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
