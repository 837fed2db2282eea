r"""Building blocks of networks that predict quantile matrices.

Everything takes a matrix q of shape (n_samples, n_quantiles), float32 or float64, on
any device, and is differentiable once.

Isotonic projection. v = P(q) is constant on blocks of adjacent levels, v_B = mean of
q over B, and the blocks do not move with q except on a null set. There

    dv_a / dq_b = 1 / |B|  if a and b are in the same block B,  0 otherwise,

so that the gradient g of a loss with respect to v becomes, for q, the mean of g over
the block: one pass, no m x m matrix. On the null set, where levels tie, a tie that
the projection did not make keeps its own blocks: levels that start out equal (a
network whose last layer is zero) can then part.

Crossing penalty. The margins that pairs of levels must keep are differences,
delta_ab = c + o_b - o_a, so that with r = q - o the penalty of a pair a < b is
(r_a - r_b + c)_+. Its gradient is +1 at a and -1 at b where it is positive. Pairs of
the same lag b - a are two shifted views of r: m - 1 passes of O(n m) give the sum over
all pairs and its gradient, without an array of n m^2 numbers.
"""

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from uqlib._core.monotone import isotonic_quantiles

PAIRS = ("neighbors", "all")


def pinball_loss(
    q: Tensor, y: Tensor, levels: Tensor, weight: Tensor | None = None
) -> Tensor:
    r"""Return the mean pinball loss over rows and levels.

    .. math:: \frac1n \sum_i w_i \frac1m \sum_k
              \big[\tau_k (y_i - q_{ik}) + (q_{ik} - y_i)_+\big].

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        Quantiles.
    y : Tensor of shape (n_samples,)
        Target.
    levels : Tensor of shape (n_quantiles,), (n_samples, n_quantiles) or (n_samples, 1)
        Levels; the last two where each row has its own.
    weight : Tensor of shape (n_samples,), default=None
        One weight a row, scaled by the caller to mean 1 over ALL its rows. The loss of
        a mini-batch then estimates the weighted mean over all rows without bias, which
        a division by the weight of the batch would not.

    Returns
    -------
    Tensor of shape ()
        The loss.
    """
    error = y[:, None] - q
    loss = levels * error + torch.relu(-error)
    if weight is None:
        return loss.mean()
    return (weight * loss.mean(dim=1)).mean()


def sort_rows(q: Tensor) -> Tensor:
    """Sort each row in ascending order.

    The gradient of `torch.sort` is the exact one: it sends the gradient of each value
    back to where the value stood. The sort is stable, so monotone rows pass unchanged
    with the identity as their derivative, ties included.

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        Quantiles.

    Returns
    -------
    Tensor of shape (n_samples, n_quantiles)
        Non-decreasing rows.
    """
    return torch.sort(q, dim=1, stable=True).values


def isotonic_rows(q: Tensor) -> Tensor:
    """Project each row on the non-decreasing rows, with its exact gradient.

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        Quantiles. A matrix that is not finite comes back as it is, so that a training
        loop can see in the loss that it diverged.

    Returns
    -------
    Tensor of shape (n_samples, n_quantiles)
        Non-decreasing rows.
    """
    return _IsotonicRows.apply(q)


def crossing_penalty(
    q: Tensor, offsets: Tensor, constant: float = 0.0, pairs: str = "neighbors"
) -> Tensor:
    r"""Return the mean amount by which pairs of levels miss their margin.

    .. math:: \frac{1}{n |P|} \sum_i \sum_{(a, b) \in P}
              \big(q_{ia} - q_{ib} + c + o_b - o_a\big)_+, \qquad a < b.

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        Quantiles.
    offsets : Tensor of shape (n_quantiles,) or (n_samples, n_quantiles)
        :math:`o`, in the units of q, as `margin_offsets` gives it.
    constant : float, default=0.0
        :math:`c`, the margin of every pair.
    pairs : {"neighbors", "all"}, default="neighbors"
        Levels next to each other, or all m (m - 1) / 2 pairs.

    Returns
    -------
    Tensor of shape ()
        The penalty; 0 if there is a single level.
    """
    if pairs not in PAIRS:
        raise ValueError(f"pairs must be one of {list(PAIRS)}, got {pairs!r}.")
    residual = q - offsets
    if q.shape[1] < 2:
        return residual.sum() * 0.0
    if pairs == "all":
        return _AllPairs.apply(residual, constant)
    return torch.relu(residual[:, :-1] - residual[:, 1:] + constant).mean()


class _IsotonicRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor) -> Tensor:
        host = q.detach().cpu().numpy()
        if not np.isfinite(host).all():
            ctx.save_for_backward(
                torch.arange(q.shape[1], device=q.device).expand_as(q)
            )
            return q.clone()
        fitted = torch.from_numpy(isotonic_quantiles(host)).to(q)
        ctx.save_for_backward(_blocks(q.detach(), fitted))
        return fitted

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        (blocks,) = ctx.saved_tensors
        total = torch.zeros_like(gradient).scatter_add_(1, blocks, gradient)
        size = torch.zeros_like(gradient)
        size.scatter_add_(1, blocks, torch.ones_like(gradient))
        return (total / size.clamp_min(1)).gather(1, blocks)


def _blocks(q: Tensor, fitted: Tensor) -> Tensor:
    """Return the number of the block of each level, increasing along the row.

    A run of equal values is one block if the projection changed any of it; a run of
    values that were equal already is as many blocks.
    """
    new = torch.ones_like(q, dtype=torch.bool)
    new[:, 1:] = fitted[:, 1:] > fitted[:, :-1]
    runs = new.cumsum(dim=1) - 1
    changed = torch.zeros_like(runs).scatter_add_(1, runs, (fitted != q).long())
    new |= changed.gather(1, runs) == 0
    return new.cumsum(dim=1) - 1


class _AllPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual: Tensor, constant: float) -> Tensor:
        n_samples, m = residual.shape
        share = 1.0 / (n_samples * (m * (m - 1) // 2))
        total = residual.new_zeros(())
        count = torch.zeros_like(residual)
        for lag in range(1, m):
            excess = residual[:, :-lag] - residual[:, lag:] + constant
            active = (excess > 0).to(residual.dtype)
            total += (excess * active).sum()
            count[:, :-lag] += active
            count[:, lag:] -= active
        ctx.save_for_backward(count.mul_(share))
        return total * share

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None
