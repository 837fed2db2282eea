"""Loops over the rows of one block: pooling, counting and pinball sums."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["add_losses", "count_rows", "pool_rows"]


@row_jit
def pool_rows(
    rows: NDArray[Any],
    level_weight: NDArray[np.float64],
    pools: NDArray[np.float64],
    starts: NDArray[np.intp],
) -> None:
    """Pool adjacent violators in place, in the rows that have any.

    The pools closed so far are a stack of (mean, weight, total = weight x mean,
    first level); the pool being grown stays in registers.
    """
    n_samples, n_quantiles = rows.shape
    means, weights, totals = pools[0], pools[1], pools[2]
    for i in range(n_samples):
        row = rows[i]
        crossing = False
        for k in range(1, n_quantiles):
            crossing |= row[k] < row[k - 1]
        if not crossing:
            continue

        top = 0
        start = 0
        mean = np.float64(row[0])
        weight = level_weight[0]
        total = weight * mean
        for k in range(1, n_quantiles):
            value = np.float64(row[k])
            if value >= mean:
                means[top], weights[top], totals[top] = mean, weight, total
                starts[top] = start
                top += 1
                mean, weight, start = value, level_weight[k], k
                total = weight * mean
                continue
            weight += level_weight[k]
            total += level_weight[k] * value
            mean = total / weight
            while top > 0 and means[top - 1] > mean:
                top -= 1
                weight += weights[top]
                total += totals[top]
                mean = total / weight
                start = starts[top]

        end = n_quantiles
        row[start:end] = mean
        while top > 0:
            end = start
            top -= 1
            start = starts[top]
            for k in range(start, end):
                row[k] = means[top]


@row_jit
def count_rows(rows: NDArray[Any]) -> int:
    """Count the rows with a descent."""
    n_samples, n_quantiles = rows.shape
    count = 0
    for i in range(n_samples):
        crossing = False
        for k in range(1, n_quantiles):
            crossing |= rows[i, k] < rows[i, k - 1]
        count += crossing
    return count


@row_jit
def add_losses(
    y: NDArray[np.float64],
    q: NDArray[Any],
    tau: NDArray[np.float64],
    weight: NDArray[np.float64],
    part: NDArray[np.float64],
) -> None:
    """Overwrite `part` with the weighted loss sums of one block, level by level."""
    n_samples, n_quantiles = q.shape
    part[:] = 0.0
    for i in range(n_samples):
        if weight[i] == 0.0:  # else 0 * inf would be NaN
            continue
        for k in range(n_quantiles):
            error = y[i] - q[i, k]
            above = tau[k] * error
            below = (tau[k] - 1.0) * error
            part[k] += weight[i] * (above if above > below else below)
