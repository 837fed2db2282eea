"""Predictions of a tree ensemble in NumPy, which every kernel must repeat.

They equal (==) those of the library with one thread: the baseline comes first, trees
are added in their order and in the library's own type, and an average divides at the
end. What follows, see `_tree_links`, rounds as the library does.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized import _tree_links as links
from uqlib.quantized._tree_bins import bins_of
from uqlib.quantized._trees import Bins, Ints, TreeEnsemble

_CHUNK = 2**20  # numbers held at once: rows x trees and rows x columns


def leaf_indices(ensemble: TreeEnsemble, bins: Bins) -> Ints:
    """Return the leaves that rows reach.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    bins : ndarray of shape (n_columns, n_samples)
        As `bin_columns` gives them.

    Returns
    -------
    ndarray of shape (n_trees, n_samples)
        Rows of `leaf_value`, int32.
    """
    leaves = np.empty((ensemble.n_trees, bins.shape[1]), dtype=np.int32)
    for tree in range(ensemble.n_trees):
        nodes = slice(*ensemble.node_start[tree : tree + 2])
        reached = _descend(ensemble, nodes, bins)
        leaves[tree] = ensemble.leaf_start[tree] + reached
    return leaves


def _descend(ensemble: TreeEnsemble, nodes: slice, bins: Bins) -> NDArray[np.int64]:
    """Return the leaf of one tree that each row reaches."""
    column, threshold = ensemble.node_column[nodes], ensemble.node_bin[nodes]
    left, right = ensemble.left[nodes], ensemble.right[nodes]
    at = np.full(bins.shape[1], 0 if column.size else -1, dtype=np.int64)
    rows = np.flatnonzero(at >= 0)
    while rows.size:
        node = at[rows]
        goes_left = bins[column[node], rows] <= threshold[node]
        at[rows] = np.where(goes_left, left[node], right[node])
        rows = rows[at[rows] >= 0]
    return ~at


def raw_from_bins(ensemble: TreeEnsemble, bins: Bins) -> FloatArray:
    """Return the raw predictions of binned rows.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    bins : ndarray of shape (n_columns, n_samples)
        As `bin_columns` gives them.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        In the type of the baseline.
    """
    raw = np.repeat(ensemble.baseline[:, None], bins.shape[1], axis=1)
    for tree, leaves in enumerate(leaf_indices(ensemble, bins)):
        values = ensemble.leaf_value[leaves]
        if ensemble.leaf_width > 1:
            raw += values.T
        else:
            raw[ensemble.tree_output[tree]] += values[:, 0]
    if ensemble.divisor > 1:
        raw /= ensemble.divisor
    return np.asarray(raw.T)


def predict_raw(ensemble: TreeEnsemble, X: Any) -> FloatArray:
    """Return the raw predictions, some rows at a time.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    X : array-like of shape (n_samples, n_features)
        What the original model takes.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Before the link, in the type in which the library adds.
    """
    values = ensemble.inputs.read(X)
    widest = max(ensemble.n_trees, ensemble.columns.n_columns, 1)
    step = max(1, _CHUNK // widest)
    raw = np.empty((ensemble.n_outputs, len(values)), dtype=ensemble.baseline.dtype)
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        bins = bins_of(ensemble.columns, values[rows])
        raw[:, rows] = raw_from_bins(ensemble, bins).T
    return raw.T


def predict(ensemble: TreeEnsemble, X: Any) -> NDArray[Any]:
    """Return what `predict` of the original model gives.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    X : array-like of shape (n_samples, n_features)
        What the original model takes.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Predictions or classes.
    """
    return predictions(ensemble, predict_raw(ensemble, X))


def predictions(ensemble: TreeEnsemble, raw: FloatArray) -> NDArray[Any]:
    """Return what `predict` of the original model makes of raw values.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    raw : ndarray of shape (n_samples, n_outputs)
        As `predict_raw` gives them.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Predictions or classes.
    """
    if ensemble.classes is None:
        return links.means(ensemble, raw)
    return links.labels(ensemble, raw)


def predict_proba(ensemble: TreeEnsemble, X: Any) -> FloatArray:
    """Return what `predict_proba` of the original model gives.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees of a classifier.
    X : array-like of shape (n_samples, n_features)
        What the original model takes.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Probabilities in the order of `classes`.
    """
    return links.probabilities(ensemble, predict_raw(ensemble, X))


def decision_function(ensemble: TreeEnsemble, X: Any) -> FloatArray:
    """Return what `decision_function` of boosted classifiers gives.

    LightGBM does not average there.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    X : array-like of shape (n_samples, n_features)
        What the original model takes.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_classes)
        Raw values.
    """
    return decisions(predict_raw(replace(ensemble, divisor=1), X))


def decisions(raw: FloatArray) -> FloatArray:
    """Return raw values in the shape of a decision function.

    Parameters
    ----------
    raw : ndarray of shape (n_samples, n_outputs)
        Raw values, not averaged.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_classes)
        The same.
    """
    return raw[:, 0] if raw.shape[1] == 1 else raw
