"""Aggregations by name, and the choice among them by held-out loss."""

from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import KFold

from uqlib._core.aggregation import aggregate, fit_weights
from uqlib._typing import FloatArray
from uqlib.quantile._aggregator import QuantileAggregator
from uqlib.quantile._gate import can_encode
from uqlib.quantile._local_weights import row_pinball

_N_FOLDS = 5
# Baselines that the literature knows by a name of their own come last.
AGGREGATIONS = {
    "average": {"resolution": "average"},
    "median": {"resolution": "median"},
    "coarse": {"resolution": "coarse"},
    "medium": {"resolution": "medium"},
    "fine": {"resolution": "fine"},
    "local_coarse": {"resolution": "coarse", "local": True, "cv": _N_FOLDS},
    "local_medium": {"resolution": "medium", "local": True, "cv": _N_FOLDS},
    "local_fine": {"resolution": "fine", "local": True, "cv": _N_FOLDS},
    "qra": {"resolution": "coarse"},
    "fqra": {"resolution": "medium", "crossing_penalty": np.inf, "margin": 0.0},
}
# Networks are not tried on fewer rows than this: their folds could not judge them.
_ROWS_FOR_NETWORKS = 200


class Choice(NamedTuple):
    """A fitted aggregator, its name, and the held-out loss of every candidate."""

    aggregator: Any
    name: str
    losses: dict[str, float]


def named_aggregator(name: str, quantiles: FloatArray, random_state: Any) -> Any:
    """Return the unfitted aggregator of a name.

    Parameters
    ----------
    name : str
        A key of `AGGREGATIONS`.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.
    random_state : int or None
        Of the networks.

    Returns
    -------
    QuantileAggregator
        Unfitted.
    """
    levels = tuple(quantiles.tolist())
    return QuantileAggregator(
        quantiles=levels, random_state=random_state, **AGGREGATIONS[name]
    )


def baseline(name: str, shape: Any, quantiles: FloatArray) -> Any:
    """Return the average or the median over the models: nothing is learned.

    Parameters
    ----------
    name : {"average", "median"}
        Which of them.
    shape : tuple of int
        Shape of the base quantiles, which may be infinite.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    QuantileAggregator
        Fitted.
    """
    weights = np.full(shape[1], 1.0 / shape[1]) if name == "average" else None
    return given_weights(weights, shape, quantiles)


def given_weights(weights: FloatArray | None, shape: Any, quantiles: FloatArray) -> Any:
    """Return an aggregator with weights that need not be learned.

    Parameters
    ----------
    weights : ndarray of shape (n_models,) or None
        One weight a model; None takes the median over the models.
    shape : tuple of int
        Shape of the base quantiles.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    QuantileAggregator
        Fitted.
    """
    name = "median" if weights is None else "coarse"
    aggregator = QuantileAggregator(name, quantiles=tuple(quantiles.tolist()))
    aggregator.quantiles_, aggregator.n_models_ = quantiles, shape[1]
    aggregator.n_features_in_ = shape[1] * shape[2]
    aggregator.weights_, aggregator.networks_, aggregator.n_iter_ = weights, [], 1
    aggregator.validation_loss_, aggregator.row_losses_ = np.nan, None
    return aggregator


def choose_aggregation(
    Z: FloatArray,
    y: FloatArray,
    X: Any,
    quantiles: FloatArray,
    names: list[str],
    sample_weight: FloatArray | None,
    random_state: Any,
) -> Choice:
    """Choose the aggregation with the lowest held-out loss.

    The candidates, from the simplest on: each single model, the average of all, global
    weights (coarse, medium), and local ones (medium, fine) where torch is installed,
    the rows are enough, and the features are numbers or a dataframe. Each is judged on
    rows that its weights were not learned on; of equal losses the simplest is taken.
    What is chosen is learned again on all rows; networks are kept, one a fold, as they
    were judged.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_models, n_quantiles)
        Out-of-fold quantiles of the models, finite.
    y : ndarray of shape (n_samples,)
        The target.
    X : {array-like, dataframe} of shape (n_samples, n_features)
        Features.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.
    names : list of str
        Names of the models.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of the rows.
    random_state : int or None
        Draws the folds and seeds the networks.

    Returns
    -------
    Choice
        The aggregator learned on all rows.
    """
    weight = np.ones(y.size) if sample_weight is None else sample_weight
    rows = np.flatnonzero(weight > 0)
    losses, fitted = candidates(Z, y, X, quantiles, names, sample_weight, random_state)
    means = {
        name: float(np.average(loss[rows], weights=weight[rows]))
        for name, loss in losses.items()
    }
    chosen = min(means, key=means.__getitem__)  # of equal ones the first
    aggregator = fitted.get(chosen)
    if aggregator is None:
        aggregator = named_aggregator(chosen, quantiles, random_state)
        aggregator.fit(Z, y, sample_weight=sample_weight)
    return Choice(aggregator, chosen, means)


def candidates(
    Z: FloatArray,
    y: FloatArray,
    X: Any,
    quantiles: FloatArray,
    names: list[str],
    sample_weight: FloatArray | None,
    random_state: Any,
) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    """Judge every candidate of `choose_aggregation`, from the simplest on.

    Parameters
    ----------
    Z, y, X, quantiles, names, sample_weight, random_state
        As in `choose_aggregation`.

    Returns
    -------
    losses : dict of str to ndarray of shape (n_samples,)
        Held-out loss of each row, mean over the levels.
    fitted : dict of str to QuantileAggregator
        Those that are learned on all rows already.
    """
    weight = np.ones(y.size) if sample_weight is None else sample_weight
    rows = np.flatnonzero(weight > 0)
    losses, fitted = {}, {}
    for j, name in enumerate(names):
        only = np.eye(len(names))[j]
        losses[f"single:{name}"] = row_pinball(y, Z[:, j], quantiles)
        fitted[f"single:{name}"] = given_weights(only, Z.shape, quantiles)
    losses["average"] = row_pinball(y, Z.mean(axis=1), quantiles)
    fitted["average"] = baseline("average", Z.shape, quantiles)
    if rows.size >= 2 * _N_FOLDS:
        folds = KFold(_N_FOLDS, shuffle=True, random_state=random_state)
        splits = [(rows[train], rows[test]) for train, test in folds.split(rows)]
        for name in ("coarse", "medium"):
            losses[name] = _held_out_losses(Z, y, quantiles, name, weight, splits)
    enough = rows.size >= _ROWS_FOR_NETWORKS
    if enough and can_encode(X) and find_spec("torch") is not None:
        for name in ("local_medium", "local_fine"):
            local = named_aggregator(name, quantiles, random_state)
            local.fit(Z, y, X=X, sample_weight=sample_weight)
            losses[name], fitted[name] = local.row_losses_, local
    return losses, fitted


def _held_out_losses(
    Z: FloatArray,
    y: FloatArray,
    quantiles: FloatArray,
    resolution: str,
    weight: FloatArray,
    splits: list[tuple[Any, Any]],
) -> FloatArray:
    losses = np.full(y.size, np.nan)
    for train, test in splits:
        weights = fit_weights(Z[train], y[train], quantiles, resolution, weight[train])
        losses[test] = row_pinball(y[test], aggregate(Z[test], weights), quantiles)
    return losses
