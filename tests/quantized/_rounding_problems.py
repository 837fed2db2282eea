"""Layers to round, and slow answers to the same questions."""

from itertools import product

import numpy as np

from uqlib.quantized._gptq import DAMPING
from uqlib.quantized._grid import Grid, stored
from uqlib.quantized._problem import LayerProblem


def minmax_grid(weight, bits, group_size=None):
    """Asymmetric integers from the least to the largest weight of each group."""
    n_in = weight.shape[1]
    size = group_size or n_in
    parts = [weight[:, first : first + size] for first in range(0, n_in, size)]
    low = np.stack([part.min(axis=1, initial=0.0) for part in parts], axis=1)
    high = np.stack([part.max(axis=1, initial=0.0) for part in parts], axis=1)
    scale = stored(np.where(high > low, (high - low) / (2**bits - 1), 1.0))
    zero_point = np.clip(np.rint(-low / scale), 0, 2**bits - 1).astype(np.uint8)
    codebook = np.arange(2**bits, dtype=np.float32)
    return Grid(codebook, scale, zero_point, size, n_in)


def one_bit_grid(weight):
    """Two values a row: the mean, plus and minus the mean deviation."""
    mean = weight.mean(axis=1, keepdims=True)
    spread = np.abs(weight - mean).mean(axis=1, keepdims=True)
    scale = np.where(spread > 0, spread, 1.0).astype(np.float32)
    zero_point = (-mean / scale).astype(np.float32)
    codebook = np.array([-1.0, 1.0], dtype=np.float32)
    return Grid(codebook, scale, zero_point, weight.shape[1], weight.shape[1])


def codebook_grid(weight, levels):
    """Any codebook, scaled to the largest weight of each row."""
    codebook = np.asarray(levels, dtype=np.float32)
    largest = np.abs(weight).max(axis=1, keepdims=True)
    scale = stored(np.where(largest > 0, largest, 1.0) / np.abs(codebook).max())
    return Grid(codebook, scale, None, weight.shape[1], weight.shape[1])


GRIDS = {
    "int1": one_bit_grid,
    "ternary": lambda w: codebook_grid(w, [-1, 0, 1]),
    "int2": lambda w: minmax_grid(w, 2),
    "int3 in ragged groups": lambda w: minmax_grid(w, 3, group_size=4),
    "groups of one": lambda w: minmax_grid(w, 2, group_size=1),
    "int8": lambda w: minmax_grid(w, 8),
    "uneven": lambda w: codebook_grid(w, [-1.0, -0.3, -0.25, 0.1, 0.7]),
}


def correlated_rows(rng, n_rows, n_in, spread=0.75):
    """Rows whose neighbors correlate by 0.9, with scales of their own."""
    noise = rng.normal(size=(n_rows, n_in))
    rows = noise.copy()
    for j in range(1, n_in):
        rows[:, j] = 0.9 * rows[:, j - 1] + np.sqrt(1 - 0.81) * noise[:, j]
    return rows * np.exp(spread * rng.normal(size=n_in))


def layer(seed, n_out=6, n_in=9, n_rows=40, heavy=False):
    """The problem of a layer of normal or of t4 weights."""
    rng = np.random.default_rng(seed)
    shape = (n_out, n_in)
    weight = rng.standard_t(4, size=shape) if heavy else rng.normal(size=shape)
    rows = correlated_rows(rng, n_rows, n_in)
    return LayerProblem(weight / np.sqrt(n_in), rows.T @ rows / n_rows, n_rows)


def row_losses(problem, values):
    """Return the loss of each row."""
    error = values - problem.weight
    return np.array([row @ problem.gram @ row for row in error])


def optimum(problem, grid):
    """Return the least loss of a layer of one row by trying all codes."""
    codes = np.array(list(product(range(grid.n_levels), repeat=grid.n_in)))
    rows = np.concatenate([grid.decode(row[None].astype(np.uint8)) for row in codes])
    error = rows - problem.weight
    return np.einsum("ki,ij,kj->k", error, problem.gram, error).min()


def greedy_codes(problem, grid, order, damping=DAMPING[0]):
    """Round columns in an order, each where the columns to come repair the most.

    Given the errors of the columns before, those to come are at their common real
    minimum; the next one is rounded from there.
    """
    n_in = len(problem.gram)
    gram = problem.gram + damping * np.diag(problem.gram).mean() * np.eye(n_in)
    error = np.zeros_like(problem.weight)
    codes = np.zeros(problem.weight.shape, dtype=np.uint8)
    for k, j in enumerate(order):
        past, later = order[:k], order[k:]
        pull = error[:, past] @ gram[np.ix_(past, later)]
        ahead = -np.linalg.solve(gram[np.ix_(later, later)], pull.T).T
        wanted = (problem.weight[:, j] + ahead[:, 0])[:, None]
        codes[:, [j]] = grid.encode(wanted, np.array([j]))
        error[:, j] = grid.decode(codes[:, [j]], np.array([j]))[:, 0]
        error[:, j] -= problem.weight[:, j]
    return codes


def best_single_changes(problem, grid, codes):
    """Return the least loss of each row after a change of one code or of none."""
    best = row_losses(problem, grid.decode(codes))
    for j, level in product(range(grid.n_in), range(grid.n_levels)):
        changed = codes.copy()
        changed[:, j] = level
        best = np.minimum(best, row_losses(problem, grid.decode(changed)))
    return best
