"""Linear models of any library, where their predictions are those of one layer.

Whether a model is linear in this sense is found out, not looked up: on a few random
rows all of its prediction methods must equal what its head makes of X W^T + b. Models
that center their features, or whose coefficients are derived from something else, as
those of partial least squares or of support vector machines, stay as they are.
"""

import warnings
from copy import copy
from typing import Any

import numpy as np
from scipy.sparse import issparse

from uqlib._typing import FloatArray
from uqlib.quantized._dense import METHODS, DenseNetwork
from uqlib.quantized._quantile_networks import line_network

_ASKED = (*METHODS, "predict_quantiles", "predict_expectiles")
_N_ROWS = 7


class NotOneLayerError(ValueError):
    """A model with coefficients that are not all that it predicts with."""


def is_linear(model: Any) -> bool:
    """Return whether a fitted model has coefficients of features.

    Parameters
    ----------
    model : object
        Anything.

    Returns
    -------
    bool
        True if it has `coef_` and `intercept_`; `linear_part` may still refuse it.
    """
    return hasattr(model, "coef_") and hasattr(model, "intercept_")


def linear_part(model: Any) -> DenseNetwork:
    """Return a linear model as one layer.

    Parameters
    ----------
    model : estimator
        Fitted, with `coef_` and `intercept_`; never changed.

    Returns
    -------
    DenseNetwork
        One layer, "coef".

    Raises
    ------
    NotOneLayerError
        If its predictions are not those of the layer, or its coefficients cannot be
        replaced.
    """
    name = type(model).__name__
    if issparse(model.coef_):
        raise NotOneLayerError(f"the coef_ of {name} is sparse: call its densify()")
    try:
        network = line_network(model)
        if not np.isfinite(network.layers[0].weight).all():
            return network  # cannot be compared: quantizing says what is wrong
        repeats = _repeats(network)
    except Exception as error:
        reason = f"{name} does not predict from coef_ and intercept_ alone"
        raise NotOneLayerError(f"{reason} ({type(error).__name__})") from error
    if not repeats:
        raise NotOneLayerError(f"{name} makes more of X than X @ coef_.T + intercept_")
    return network


def _repeats(network: DenseNetwork) -> bool:
    """Return whether the head gives the predictions of the model on random rows."""
    model = copy(network.model)
    vars(model).pop("feature_names_in_", None)
    (layer,) = network.layers
    X = np.random.default_rng(0).normal(size=(_N_ROWS, layer.weight.shape[1]))
    methods = [name for name in _ASKED if hasattr(model, name)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return bool(methods) and all(
            _agree(getattr(model, name)(X), network.predicted(name, X, {}))
            for name in methods
        )


def _agree(expected: Any, found: Any) -> bool:
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.shape != found.shape:
        return False
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, found))
    return bool(np.allclose(found, expected, **_tolerance(expected), equal_nan=True))


def _tolerance(values: FloatArray) -> dict[str, float]:
    relative = float(np.sqrt(np.finfo(values.dtype).eps))
    finite = np.abs(values[np.isfinite(values)])
    return {"rtol": relative, "atol": relative * float(finite.max(initial=0.0))}
