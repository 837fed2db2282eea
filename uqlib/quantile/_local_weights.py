"""Networks that weigh models by the features, and when to prefer global weights."""

from typing import Any, NamedTuple

import numpy as np

from uqlib._core.aggregation import aggregate, fit_weights, source_levels
from uqlib._typing import FloatArray
from uqlib.quantile._base import monotone_rows
from uqlib.quantile._gate import gated_quantiles

# A network starts with this share of uniform weights, so that no model is beyond its
# reach, and in the fine resolution with this decay from a level to the next ones.
_UNIFORM_SHARE = 0.3
_LEVEL_DECAY = 0.3
# Digits of the start: what rounding does to an optimum must not decide a training.
_DECIMALS = 2
# The global weights that a network of each resolution must beat on held-out rows.
ALTERNATIVES = {
    "coarse": ("coarse",),
    "medium": ("coarse", "medium"),
    "fine": ("coarse", "medium"),
}


class Split(NamedTuple):
    """Row numbers: to train on, to stop the training (or None), to judge the network.

    Rows that stop a training flatter what they stop; with folds the judge is another.
    """

    train: Any
    stop: Any
    judge: Any


class LocalFit(NamedTuple):
    """Networks, and how they did on the rows that judge them.

    `row_losses` is the pinball loss of each sample, mean over the levels, when it was
    to judge; NaN where it was not. It has one row for each of the `ALTERNATIVES`,
    global weights learned on all rows but these, and the last for the networks.
    `row_penalties` is what the crossing of each costs, likewise. `n_iter` is the number
    of steps of the longest training.
    """

    networks: list[Any]
    row_losses: FloatArray
    row_penalties: FloatArray
    n_iter: int


def weight_shape(
    resolution: str, n_models: int, n_quantiles: int, bandwidth: int | None
) -> tuple[Any, tuple[int, int, int]]:
    """Return the source levels, and the shape of the weights of a row.

    Parameters
    ----------
    resolution : {"coarse", "medium", "fine"}
        What has a weight of its own.
    n_models, n_quantiles : int
        The axes of the base quantiles.
    bandwidth : int or None
        Levels to each side in the fine resolution.

    Returns
    -------
    sources : ndarray of int of shape (n_sources, n_quantiles)
        See `source_levels`.
    shape : tuple of int
        (n_models, n_sources, n_outputs).
    """
    sources = source_levels(n_quantiles, bandwidth if resolution == "fine" else 0)
    n_outputs = 1 if resolution == "coarse" else n_quantiles
    return sources, (n_models, sources.shape[0], n_outputs)


def fit_local(
    features: FloatArray,
    Z: FloatArray,
    y: FloatArray,
    levels: FloatArray,
    row_weight: FloatArray,
    splits: list[Split],
    seeds: list[int],
    resolution: str,
    bandwidth: int | None,
    settings: Any,
) -> LocalFit:
    """Train one network a split.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_inputs)
        As `gate_features` gives them.
    Z : ndarray of shape (n_samples, n_models, n_quantiles)
        Out-of-fold quantiles of the models, finite.
    y : ndarray of shape (n_samples,)
        The target.
    levels : ndarray of shape (n_quantiles,)
        The levels.
    row_weight : ndarray of shape (n_samples,)
        Weights of the rows.
    splits : list of Split
        One a network.
    seeds : list of int
        One a split.
    resolution, bandwidth
        See `weight_shape`.
    settings : GateSettings
        The rest.

    Returns
    -------
    LocalFit
        Networks in the order of the splits.
    """
    from uqlib.quantile._torch_gate import train_gate

    sources, shape = weight_shape(resolution, Z.shape[1], Z.shape[2], bandwidth)
    networks, n_iter = [], 0
    names = ALTERNATIVES[resolution]
    row_losses = np.full((len(names) + 1, y.size), np.nan)
    row_penalties = row_losses.copy()
    for split, seed in zip(splits, seeds, strict=True):
        known = split.train
        if split.stop is not None and split.stop is not split.judge:
            known = np.concatenate([split.train, split.stop])
        best = [
            fit_weights(
                Z[known],
                y[known],
                levels,
                name,
                row_weight[known],
                constraint=settings.constraint,
                crossing_penalty=settings.crossing_penalty,
                margins=(settings.offsets, settings.constant),
                all_pairs=settings.pairs == "all",
            )
            for name in names
        ]
        start = _start(best[-1], sources, shape, settings.constraint)
        trained = train_gate(
            features,
            Z,
            y,
            levels,
            row_weight,
            (split.train, split.stop),
            start,
            sources,
            settings,
            seed,
        )
        networks.append(trained.layers)
        n_iter = max(n_iter, trained.n_iter)
        if split.judge is None:
            continue
        held_out = Z[split.judge]
        candidates = [aggregate(held_out, weights) for weights in best]
        candidates.append(
            gated_quantiles(
                held_out,
                features[split.judge],
                [trained.layers],
                sources,
                shape,
                settings.constraint,
            )
        )
        for k, q in enumerate(candidates):
            repaired = monotone_rows(q, settings.non_crossing)
            row_losses[k, split.judge] = row_pinball(y[split.judge], repaired, levels)
            row_penalties[k, split.judge] = _row_penalty(repaired, settings)
    return LocalFit(networks, row_losses, row_penalties, n_iter)


def _row_penalty(q: FloatArray, settings: Any) -> FloatArray:
    """Return the crossing penalty of each row, as the training counts it."""
    n_samples, m = q.shape
    total = np.zeros(n_samples)
    if m == 1 or settings.crossing_penalty == 0:
        return total
    lags = range(1, m) if settings.pairs == "all" else (1,)
    residual = q - settings.offsets
    for lag in lags:
        excess = residual[:, :-lag] - residual[:, lag:] + settings.constant
        total += np.maximum(excess, 0.0).sum(axis=1)
    n_pairs = m * (m - 1) // 2 if settings.pairs == "all" else m - 1
    return settings.crossing_penalty * total / n_pairs


def row_pinball(y: FloatArray, q: FloatArray, levels: FloatArray) -> FloatArray:
    """Return the pinball loss of each row, mean over the levels.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        The target.
    q : ndarray of shape (n_samples, n_quantiles)
        Quantiles.
    levels : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    ndarray of shape (n_samples,)
        Losses; smaller is better.
    """
    error = y[:, None] - q
    return (levels * error + np.maximum(-error, 0.0)).mean(axis=1)


def scattered(weights: FloatArray, sources: Any) -> FloatArray:
    """Return the weights of sources as weights of all levels.

    Parameters
    ----------
    weights : ndarray of shape (..., n_models, n_sources, n_quantiles)
        Weights of the sources.
    sources : ndarray of int of shape (n_sources, n_quantiles)
        The level that each source of each output level is.

    Returns
    -------
    ndarray of shape (..., n_models, n_quantiles, n_quantiles)
        Zero at the levels that are no source; the last axis is the level of the output.
    """
    n_quantiles = sources.shape[1]
    result = np.zeros((*weights.shape[:-2], n_quantiles, n_quantiles))
    for k in range(n_quantiles):
        result[..., sources[:, k], k] = weights[..., k]
    return result


def in_resolution(weights: FloatArray, resolution: str, n_quantiles: int) -> FloatArray:
    """Return coarser global weights in the shape of a finer resolution.

    Parameters
    ----------
    weights : ndarray of shape (n_models,) or (n_models, n_quantiles)
        Coarse or medium weights.
    resolution : {"coarse", "medium", "fine"}
        The resolution wanted.
    n_quantiles : int
        Number of levels.

    Returns
    -------
    ndarray
        The same prediction: repeated over the levels, or on the diagonal of levels.
    """
    if resolution == "coarse":
        return weights
    if weights.ndim == 1:
        weights = np.repeat(weights[:, None], n_quantiles, axis=1)
    if resolution == "medium":
        return weights
    return weights[:, None] * np.eye(n_quantiles)


def _start(
    weights: FloatArray, sources: Any, shape: tuple[int, ...], constraint: str
) -> FloatArray:
    # The global weights, as the network's numbers, on the level of the output.
    start = np.round(weights, _DECIMALS).reshape(shape[0], 1, shape[2])
    if constraint == "simplex":
        start = np.log((1 - _UNIFORM_SHARE) * start + _UNIFORM_SHARE / shape[0])
    if shape[1] == 1:
        return start
    distance = np.abs(sources - np.arange(sources.shape[1]))
    if constraint == "simplex":
        return start - _LEVEL_DECAY * distance
    return np.where(distance == 0, start, 0.0)
