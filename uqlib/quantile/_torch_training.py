"""The training loop of every network here: mini-batches, patience, best state kept."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Training(NamedTuple):
    """What a training came to.

    `best_loss` is the validation loss of the state kept (NaN without validation),
    `n_iter` the number of steps done, `loss_curve` the mean training loss between two
    evaluations, `validation_curve` the validation losses from before the first step
    on, and `diverged` whether a loss that is not finite ended the training.
    """

    best_loss: float
    n_iter: int
    loss_curve: list[float]
    validation_curve: list[float]
    diverged: bool


def train(
    module: nn.Module,
    batch_loss: Callable[[Tensor], Tensor],
    validation_loss: Callable[[], Tensor | float] | None,
    n_rows: int,
    *,
    max_iter: int,
    batch_size: int | str = "auto",
    learning_rate: float = 3e-3,
    weight_decay: float = 0.0,
    n_iter_no_change: int = 1000,
    evaluate_every: int = 100,
    averaging: float = 0.998,
    seed: int = 0,
) -> Training:
    """Train a module in place and leave it in its best state, in evaluation mode.

    Adam with amsgrad. What is judged and kept is a running average of the parameters,
    over about the last tenth of the steps and at most 1 / (1 - `averaging`) of them: it
    does what a falling learning rate does, and needs no plan of when to fall. Its
    validation loss is taken before the first step and after every `evaluate_every`
    steps, and the average with the lowest one is restored in the end. That may be the
    initial state, so that training does no harm on the validation rows. Training ends
    when `n_iter_no_change` steps bring no improvement, after `max_iter` steps, or at a
    loss that is not finite.

    Parameters
    ----------
    module : Module
        Trained in place; its parameters say on which device. Buffers are not averaged.
    batch_loss : callable
        Takes row numbers, an int64 Tensor of shape (n_batch,) on that device, and
        returns the loss of the batch, a Tensor of shape ().
    validation_loss : callable or None
        Takes nothing and returns the validation loss; called without gradients, in
        evaluation mode. None: all `max_iter` steps are done and the last average kept
        before which every training loss was finite.
    n_rows : int
        Number of training rows.
    max_iter : int
        Cap on the number of optimizer steps, not of passes over the rows.
    batch_size : int or "auto", default="auto"
        Rows of a step; "auto" is `auto_batch_size`.
    learning_rate : float, default=3e-3
        Of Adam.
    weight_decay : float, default=0.0
        Coefficient of the squared parameters in the loss (times 1/2).
    n_iter_no_change : int, default=1000
        Patience, in steps.
    evaluate_every : int, default=100
        Steps between two evaluations.
    averaging : float, default=0.998
        Decay of the running average.
    seed : int, default=0
        Fixes the batches and the dropout. The global generators of torch are left as
        they were.

    Returns
    -------
    Training
        Losses and number of steps.
    """
    size = auto_batch_size(n_rows) if batch_size == "auto" else int(batch_size)
    average = _RunningAverage(module, averaging)
    optimizer = _adam(module, learning_rate, weight_decay)
    with isolated_generators(seed, average.device):
        best = average.judge(validation_loss)
        best_at, step = 0, 0
        loss_curve, validation_curve = [], [best]
        batches = _batches(n_rows, min(size, n_rows), average.device)
        diverged = validation_loss is not None and not math.isfinite(best)
        while step < max_iter and not diverged and step - best_at < n_iter_no_change:
            n_steps = min(evaluate_every, max_iter - step)
            loss = _steps(n_steps, module, optimizer, average, batch_loss, batches)
            step += n_steps
            current = average.judge(validation_loss)
            loss_curve.append(loss)
            validation_curve.append(current)
            diverged = not math.isfinite(loss if validation_loss is None else current)
            if (validation_loss is None or current < best) and not diverged:
                best, best_at = current, step
                average.keep()
    average.restore()
    return Training(best, step, loss_curve, validation_curve, diverged)


def _steps(
    n_steps: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: "_RunningAverage",
    batch_loss: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
) -> float:
    module.train()
    total = torch.zeros((), device=average.device)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = batch_loss(next(batches))
        loss.backward()
        optimizer.step()
        average.update()
        total += loss.detach()  # one look at the device for many steps
    return float(total) / n_steps


class _RunningAverage:
    """An average of the parameters of a module, and the best one so far."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.n_updates = module, decay, 0
        self.parameters = list(module.parameters())
        self.device = self.parameters[0].device
        self.values = [p.detach().clone() for p in self.parameters]
        self.keep()

    @torch.no_grad()
    def update(self) -> None:
        self.n_updates += 1
        share = max(1 - self.decay, 10 / (10 + self.n_updates))
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter, share)

    @torch.no_grad()
    def judge(self, validation_loss: Callable[[], Tensor | float] | None) -> float:
        if validation_loss is None:
            return math.nan
        self.module.eval()
        self._exchange()
        loss = float(validation_loss())
        self._exchange()
        return loss

    def keep(self) -> None:
        self.kept = [value.clone() for value in self.values]

    def restore(self) -> None:
        self.values = self.kept
        self._exchange()
        self.module.eval()

    def _exchange(self) -> None:
        for k, parameter in enumerate(self.parameters):
            parameter.data, self.values[k] = self.values[k], parameter.data


def auto_batch_size(n_rows: int) -> int:
    """Return 2^(3 + floor(log10 n)): 64 from 1000 rows on, 128 from 10,000, ...

    Parameters
    ----------
    n_rows : int
        Number of training rows.

    Returns
    -------
    int
        Rows of a mini-batch.
    """
    return 2 ** (3 + int(math.log10(n_rows)))


@contextmanager
def isolated_generators(seed: int, device: torch.device | str) -> Iterator[None]:
    """Seed the generators of the CPU and of a device, and put them back in the end.

    Parameters
    ----------
    seed : int
        The seed.
    device : device or str
        Where the network lives.

    Yields
    ------
    None
        Initialization, permutations and dropout are now reproducible.
    """
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed, which seeds every device there is.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _batches(n_rows: int, size: int, device: torch.device) -> Iterator[Tensor]:
    # Whole batches only: the rest of a permutation is left to the next one.
    while True:
        order = torch.randperm(n_rows).to(device)
        for start in range(0, n_rows - size + 1, size):
            yield order[start : start + size]


def _adam(module: nn.Module, rate: float, weight_decay: float) -> torch.optim.Adam:
    parameters = list(module.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(
        parameters, lr=rate, weight_decay=weight_decay, amsgrad=True, fused=fused
    )
