"""Aggregates over the models of an ensemble that did not see a training row."""

from typing import Any

import numpy as np

from uqlib._typing import BoolArray, FloatArray

AGGREGATES = ("mean", "median")
# Medians of several rows are taken at once while arrays stay near so many elements.
_BLOCK = 2**20


def aggregate(values: FloatArray, kind: str) -> FloatArray:
    """Return the aggregate over all models.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_models) or (n_rows, n_models, n_outputs)
        Predictions.
    kind : {"mean", "median"}
        How they are put together.

    Returns
    -------
    ndarray of shape (n_rows,) or (n_rows, n_outputs)
        One prediction a row.
    """
    center = np.mean if kind == "mean" else np.median
    return np.asarray(center(values, axis=1))


def aggregate_own(values: FloatArray, out: BoolArray, kind: str) -> FloatArray:
    """Return for each training row the aggregate over the models without it.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_models) or (n_rows, n_models, n_outputs)
        Predictions of the training rows.
    out : ndarray of shape (n_models, n_rows), bool
        Whether a model was fitted without a row; at least one is, of every row.
    kind : {"mean", "median"}
        How they are put together.

    Returns
    -------
    ndarray of shape (n_rows,) or (n_rows, n_outputs)
        One prediction a row.
    """
    mask = out.T.reshape(*out.T.shape, *[1] * (values.ndim - 2))
    if kind == "mean":
        return np.asarray(np.where(mask, values, 0.0).sum(axis=1) / mask.sum(axis=1))
    return np.asarray(np.nanmedian(np.where(mask, values, np.nan), axis=1))


def aggregate_without(values: FloatArray, out: BoolArray, kind: str) -> FloatArray:
    r"""Return for new rows the aggregate over the models without each training row.

    .. math:: \hat\mu_{-i}(x) = \text{mean or median of }
              \{\hat\mu_b(x) : i \text{ not in bag } b\}

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_models)
        Predictions of new rows.
    out : ndarray of shape (n_models, n_train), bool
        Whether a model was fitted without a training row; one is, of every row.
    kind : {"mean", "median"}
        How they are put together.

    Returns
    -------
    ndarray of shape (n_rows, n_train)
        One prediction for each new and each training row.
    """
    count = out.sum(axis=0)
    if kind == "mean":
        return _mean_without(values, out / count)
    n_rows = max(1, _BLOCK // max(1, out.size))
    blocks = [
        _median_without(values[first : first + n_rows], out, count)
        for first in range(0, len(values), n_rows)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, count.size))


def _mean_without(values: FloatArray, share: FloatArray) -> FloatArray:
    finite = np.isfinite(values)
    if finite.all():
        return values @ share
    # In a matrix product 0 times inf would be NaN.
    mean = np.where(finite, values, 0.0) @ share
    for infinity in (np.inf, -np.inf):
        hit = (values == infinity).astype(np.float64) @ share > 0
        with np.errstate(invalid="ignore"):
            mean = np.where(hit, mean + infinity, mean)
    return mean


# The models are sorted by their predictions of a row, and counted in that order where
# they are without the training row: the k-th of them is where the count reaches k.
def _median_without(values: FloatArray, out: BoolArray, count: Any) -> FloatArray:
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    reached = np.cumsum(out[order], axis=1, dtype=np.int32)
    middle = [
        np.take_along_axis(ordered, (reached < k).sum(axis=1), axis=1)
        for k in ((count + 1) // 2, count // 2 + 1)
    ]
    return np.asarray((middle[0] + middle[1]) / 2)
